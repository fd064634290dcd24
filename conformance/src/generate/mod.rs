//! Cases: for each encoding, a reproducible sequence of instructions and states that nobody chose by hand.
//!
//! A case is determined by the encoding, its number and the seed; cases come in batches that share the
//! contents of memory.

pub(crate) mod address;
mod floating_point;
mod image;
mod instruction;
mod related;
mod split_lock;
mod state;
mod system;
mod tiles;
mod values;

pub(crate) use address::{address_of, linear};
pub use instruction::Encoded;
pub(crate) use state::keeps_pointers;

use emu::registers::gpr;
use emu::xsave::Layout;
use emu::{Processor, Registers};
use iced_x86::{
    Code, CpuidFeature, Encoder, FlowControl, Instruction, InstructionInfoFactory, InstructionInfoOptions,
    Mnemonic, OpKind, Register,
};

use self::floating_point::Theme;
use crate::oracle::places::{PAGE, SLOTS, STACK};
use crate::oracle::{Case, Memory, Mode, Place};
use crate::rng::Rng;

/// A case and the instruction that it is about.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What the oracle executes.
    pub case: Case,
    /// The case's bytes, decoded at [`Sample::ip`].
    pub instruction: Instruction,
    /// The instruction's address.
    pub ip: u64,
}

impl AsRef<Case> for Sample {
    fn as_ref(&self) -> &Case {
        &self.case
    }
}

impl Sample {
    /// The instruction's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.case.bytes[..self.case.length.min(self.case.bytes.len())]
    }
}

/// How many more times something is drawn that shall not have a split lock.
const ATTEMPTS: usize = 8;

/// Draws cases for this machine.
pub struct Generator {
    layout: Layout,
    mxcsr_mask: u32,
    encoder: Encoder,
    info: InstructionInfoFactory,
    base: Option<Box<Registers>>,
}

impl Generator {
    /// A generator of states that this layout can hold and that have no other MXCSR bits than these.
    #[must_use]
    pub fn new(layout: &Layout, mxcsr_mask: u32) -> Generator {
        let (encoder, info) = (Encoder::new(64), InstructionInfoFactory::new());
        Generator { layout: *layout, mxcsr_mask, encoder, info, base: None }
    }

    /// Begins the states that follow with the general registers but RSP, and with the extended state, of `base`
    /// instead of drawing these.
    pub fn begin_with(&mut self, base: &Registers) {
        self.base = Some(Box::new(base.clone()));
    }

    /// The contents of memory for batch number `batch` of an encoding.
    pub fn memory(code: Code, batch: u64, seed: u64, memory: &mut Memory) {
        state::memory(memory, &mut Rng::of(&[seed, code as u64, batch, 1]));
    }

    /// Case number `number` of an encoding, or `None` if the encoder cannot make one. The case runs as the
    /// one with index `number` modulo [`SLOTS`] of its batch.
    pub fn case(&mut self, code: Code, number: u64, seed: u64) -> Option<Sample> {
        let rng = &mut Rng::of(&[seed, code as u64, number]);
        let place = if rng.chance(40) { Place::High } else { Place::Low };
        let ip = place.slot((number % SLOTS as u64) as usize);
        let mut attempts = 0..ATTEMPTS;
        loop {
            let encoded =
                instruction::draw(code, ip, Processor::host().decoder_options(), &mut self.encoder, rng)?;
            let (sample, is_wanted) = self.rationed(&encoded, place, rng);
            // The address of the split lock may be part of the instruction.
            if is_wanted || attempts.next().is_none() {
                return Some(sample);
            }
        }
    }

    /// Some instruction of that encoding.
    pub fn encode(&mut self, code: Code, ip: u64, rng: &mut Rng) -> Option<Encoded> {
        self.encode_for(Processor::host(), code, ip, rng)
    }

    /// The same for a processor, which may decode otherwise than the one at hand.
    pub fn encode_for(
        &mut self,
        processor: &Processor,
        code: Code,
        ip: u64,
        rng: &mut Rng,
    ) -> Option<Encoded> {
        instruction::draw(code, ip, processor.decoder_options(), &mut self.encoder, rng)
    }

    /// Contents for all of memory.
    pub fn fill(memory: &mut Memory, rng: &mut Rng) {
        state::memory(memory, rng);
    }

    /// A state for an instruction, which lies in `place`.
    pub fn sample(&mut self, encoded: &Encoded, place: Place, rng: &mut Rng) -> Sample {
        self.rationed(encoded, place, rng).0
    }

    /// As [`Generator::sample`], and false if each of several states would have had a split lock, for which it is
    /// not time.
    fn rationed(&mut self, encoded: &Encoded, place: Place, rng: &mut Rng) -> (Sample, bool) {
        let mut attempts = 0..ATTEMPTS;
        loop {
            let sample = self.state(encoded, place, rng);
            let is_wanted = !split_lock::is_refused(&encoded.instruction, &sample.case.registers, rng);
            if is_wanted || attempts.next().is_none() {
                return (sample, is_wanted);
            }
        }
    }

    /// A state for an instruction, as it is drawn.
    fn state(&mut self, encoded: &Encoded, place: Place, rng: &mut Rng) -> Sample {
        let &Encoded { bytes, length, instruction } = encoded;
        let wide = is_wide(instruction.code());
        let mut case = Case {
            bytes,
            length,
            mode: mode(&instruction, rng),
            repeats: repeats(&instruction),
            place,
            registers: state::registers(&self.layout, self.mxcsr_mask, wide, rng),
            patches: Vec::new(),
        };
        if let Some(base) = &self.base {
            let rsp = case.registers.gpr[gpr::RSP];
            case.registers.gpr = base.gpr;
            case.registers.gpr[gpr::RSP] = rsp;
            case.registers.extended.clone_from(&base.extended);
        }
        self.operands(&mut case, &instruction, rng);
        Sample { case, instruction, ip: instruction.ip() }
    }

    /// A state for bytes of which nothing is known: a step, for behind an instruction that is shorter anything
    /// may follow, such as a jump back.
    pub fn plain(&mut self, bytes: [u8; 15], rng: &mut Rng) -> Case {
        let mut registers = state::registers(&self.layout, self.mxcsr_mask, true, rng);
        if self.layout.tile_data.is_some() && rng.chance(25) {
            tiles::any(&mut registers.extended.tiles, rng);
        }
        Case {
            bytes,
            length: bytes.len(),
            mode: Mode::Step,
            repeats: false,
            place: Place::Edge,
            registers,
            patches: Vec::new(),
        }
    }

    /// Gives registers and memory the values that reach the instruction's interesting places.
    fn operands(&mut self, case: &mut Case, instruction: &Instruction, rng: &mut Rng) {
        implied(&mut case.registers, &self.layout, instruction, rng);
        let info = self.info.info_options(instruction, InstructionInfoOptions::NO_REGISTER_USAGE);
        let mut places = Vec::new();
        let theme = is_wide(instruction.code()).then(|| Theme::draw(rng));
        for memory in info.used_memory() {
            let size = match memory.memory_size().size() as u64 {
                _ if image::has_image(instruction) => image::length(&case.registers, &self.layout, rng),
                0 => 64,
                size => size,
            };
            let target = match places.last() {
                Some(last) if rng.chance(15) => u64::wrapping_add(*last, rng.below(32)).wrapping_sub(16),
                _ if image::has_image(instruction) && rng.chance(60) => image::place(size, rng),
                _ if is_repeated(instruction) && rng.chance(50) => {
                    address::first_of_many(size, &case.registers, rng)
                }
                _ => address::target(size, rng),
            };
            address::part_offset(memory, size, target, &mut case.registers, rng);
            address::solve(memory, target, &mut case.registers);
            if memory.index().is_vector_register() {
                indices(&mut case.registers, memory.index(), instruction, rng);
            }
            if let Some(start) = address::linear(memory, &case.registers) {
                places.push(start);
                if rng.chance(60) && case.patches.len() < 2 {
                    let bytes = theme.and_then(|theme| theme.bytes(memory.memory_size(), rng));
                    case.patches.extend(match bytes {
                        Some(bytes) => related::patch(start, &bytes),
                        None => related::fresh(start, rng),
                    });
                }
            }
        }
        if let Some(theme) = theme {
            theme.registers(&mut case.registers, instruction, state::quads(&self.layout), rng);
        }
        bit_offset(&mut case.registers, instruction, rng);
        case.patches.extend(related::contents(instruction, &places, &mut case.registers, rng));
        if let Some(start) = places.last().filter(|_| image::has_image(instruction)) {
            // An image's header matters more than what else may have been drawn.
            case.patches.clear();
            case.patches.extend(image::header(*start, &self.layout, rng));
        }
        if self.layout.tile_data.is_some() {
            tiles::operands(case, instruction, &mut self.info, rng);
        }
        system::operands(case, instruction, places.last().copied(), rng);
    }
}

/// Whether an encoding may look at x87, MMX, vector or mask registers.
fn is_wide(code: Code) -> bool {
    code.cpuid_features().iter().any(|feature| !GENERAL.contains(feature))
}

/// Features whose instructions have to do with general registers only.
const GENERAL: [CpuidFeature; 17] = [
    CpuidFeature::INTEL8086,
    CpuidFeature::INTEL186,
    CpuidFeature::INTEL286,
    CpuidFeature::INTEL386,
    CpuidFeature::INTEL486,
    CpuidFeature::X64,
    CpuidFeature::CMOV,
    CpuidFeature::CX8,
    CpuidFeature::CMPXCHG16B,
    CpuidFeature::BMI1,
    CpuidFeature::BMI2,
    CpuidFeature::ADX,
    CpuidFeature::MOVBE,
    CpuidFeature::POPCNT,
    CpuidFeature::LZCNT,
    CpuidFeature::MULTIBYTENOP,
    CpuidFeature::FSGSBASE,
];

/// Whether the instruction can be interrupted between its parts, so that TF stops it there.
fn repeats(instruction: &Instruction) -> bool {
    is_repeated(instruction) || goes_on(instruction)
}

/// Whether it is a string instruction that is repeated.
fn is_repeated(instruction: &Instruction) -> bool {
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    instruction.is_string_instruction() && repeated
}

/// Whether the instruction, where a part of it faults, keeps the parts that are done, and TF stops it there before the
/// fault.
pub(crate) fn goes_on(instruction: &Instruction) -> bool {
    use Mnemonic::{Tileloadd, Tileloaddt1, Tilestored};
    instruction.is_vsib() || matches!(instruction.mnemonic(), Tileloadd | Tileloaddt1 | Tilestored)
}

/// Whether TF stops the processor right after this instruction, and does not show in what it does.
#[must_use]
pub fn can_step(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    // A trap of its own would be in the way, and so would an image of the flags.
    let trap = instruction.flow_control() == FlowControl::Interrupt;
    let flags = matches!(instruction.mnemonic(), M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfq);
    !trap && !flags && !system::skips_a_step(instruction)
}

/// How the instruction is made to stop.
fn mode(instruction: &Instruction, rng: &mut Rng) -> Mode {
    // Under a hypervisor a single step is slow.
    let straight = !must_step(instruction) && (!can_step(instruction) || !rng.chance(1));
    if straight { Mode::Straight } else { Mode::Step }
}

/// Whether a jump behind the instruction cannot stop it.
pub(crate) fn must_step(instruction: &Instruction) -> bool {
    match (instruction.flow_control(), instruction.mnemonic()) {
        _ if !can_step(instruction) => false,
        // Nothing after it runs under the new rights, the jump back included.
        (_, Mnemonic::Wrpkru | Mnemonic::Xrstor | Mnemonic::Xrstor64) => true,
        (FlowControl::Next | FlowControl::Exception, _) => false,
        _ => true,
    }
}

/// Values for registers that an instruction uses without naming them, or that make it do something.
fn implied(registers: &mut Registers, layout: &Layout, instruction: &Instruction, rng: &mut Rng) {
    if is_repeated(instruction) {
        registers.gpr[gpr::RCX] = match rng.below(20) {
            0 => values::integer(64, rng),
            1 => rng.u64() << 32 | rng.below(4),
            // So many that processors move them in large pieces.
            2 | 3 => rng.below(PAGE),
            _ => rng.below(41),
        };
    } else if instruction.is_jcx_short() || instruction.is_loop() || instruction.is_loopcc() {
        registers.gpr[gpr::RCX] = rng.below(3) | if rng.chance(20) { rng.u64() << 32 } else { 0 };
    }
    if instruction.mnemonic() == Mnemonic::Enter && rng.chance(80) {
        registers.gpr[gpr::RBP] = STACK.start + rng.below(STACK.length);
    }
    let counted = (1..instruction.op_count()).any(|number| instruction.op_register(number) == Register::CL);
    if counted {
        registers.gpr[gpr::RCX] = registers.gpr[gpr::RCX] & !0xff | rng.below(80);
    }
    if image::has_image(instruction) {
        image::requested(registers, layout, rng);
    }
    if matches!(instruction.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) {
        divisible(registers, instruction, rng);
    }
}

/// A dividend that often has a quotient, and sometimes just not.
fn divisible(registers: &mut Registers, instruction: &Instruction, rng: &mut Rng) {
    let operand = instruction.op0_register();
    let width = match operand {
        Register::None => 8 * instruction.memory_size().size() as u32,
        register => 8 * register.size() as u32,
    };
    let divisor = match operand {
        Register::None => rng.below(16),
        register => registers.gpr[register.full_register().number()] & u64::MAX >> (64 - width),
    };
    let signed = instruction.mnemonic() == Mnemonic::Idiv;
    let high = match rng.below(8) {
        0..3 => 0,
        3 => u64::MAX,
        4 => divisor.wrapping_sub(rng.below(2)),
        5 if signed => (divisor >> 1).wrapping_sub(rng.below(2)),
        5 => divisor.wrapping_sub(1),
        6 => 0u64.wrapping_sub(divisor >> 1),
        _ => return,
    };
    if width == 8 {
        let rax = &mut registers.gpr[gpr::RAX];
        *rax = *rax & !0xff00 | (high & 0xff) << 8;
    } else {
        registers.gpr[gpr::RDX] = high;
    }
}

/// Small indices for most elements of VSIB addressing, and for gathers with a mask register a mask of
/// element-wide signs.
fn indices(registers: &mut Registers, index: Register, instruction: &Instruction, rng: &mut Rng) {
    let bits = if rng.chance(50) { 32 } else { 64 };
    let number = index.number();
    for quad in &mut registers.extended.vector[number].0 {
        if *quad != 0 && rng.chance(90) {
            *quad = values::Lanes::Index(bits).quad(rng);
        }
    }
    let mask = instruction.op2_register();
    if mask.is_vector_register() && mask.number() != number && rng.chance(70) {
        for quad in &mut registers.extended.vector[mask.number()].0 {
            if *quad != 0 {
                *quad = values::Lanes::Mask(bits).quad(rng);
            }
        }
    }
}

/// The bit offset of BT and its kin, which reaches far beyond the operand.
fn bit_offset(registers: &mut Registers, instruction: &Instruction, rng: &mut Rng) {
    let reaches =
        matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
            && instruction.op0_kind() == OpKind::Memory
            && instruction.op1_kind() == OpKind::Register;
    if !reaches {
        return;
    }
    let number = instruction.op1_register().full_register().number();
    let in_address = [instruction.memory_base(), instruction.memory_index()]
        .iter()
        .any(|register| register.is_gpr() && register.full_register().number() == number);
    if in_address {
        return;
    }
    registers.gpr[number] = match rng.below(10) {
        0..4 => rng.below(64),
        4..9 => rng.below(1 << 16).wrapping_sub(1 << 15),
        _ => values::integer(64, rng),
    };
}
