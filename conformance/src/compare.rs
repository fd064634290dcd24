//! The emulator's side of a case, and what differs from the processor's.

use std::fmt;

use emu::registers::{Extended, ROW_LENGTH, ROWS, TILES, Tiles, X87, gpr};
use emu::{Displaced, Exception, Facts, Outcome, Refusal, Registers, Rflags, UserMemory};

use crate::generate::{Sample, keeps_pointers};
use crate::in_use::{self, Image};
use crate::memory::Model;
use crate::oracle::{Mode, Observed, Stop};
use crate::undefined;

/// How often a repeating instruction is executed again at most.
const REPETITIONS: usize = 1 << 20;

/// One thing that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What it is, such as a register's name.
    pub what: String,
    /// What the processor has.
    pub processor: String,
    /// What the emulator has.
    pub emulator: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<10} processor {}  emu {}", self.what, self.processor, self.emulator)
    }
}

/// What came of comparing a case.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What differs.
    pub differences: Vec<Difference>,
    /// Whether the emulator left the instruction to the thread itself.
    pub left: bool,
}

/// Executes the case in the emulator and compares; `model` holds the batch's memory, and does so again
/// afterwards.
///
/// # Errors
/// The emulator does not have this instruction.
pub fn compare(sample: &Sample, observed: &Observed, model: &mut Model) -> Result<Comparison, Refusal> {
    let displaced = crate::features::decode(sample.bytes(), sample.ip)?;
    model.undo();
    for patch in &sample.case.patches {
        model.patch(patch);
    }
    let mut registers = sample.case.registers.clone();
    registers.rip = sample.ip;
    let stop = execute(&displaced, &mut registers, model);
    if sample.case.mode == Mode::Step {
        // What the instruction does to TF does not show under a TF of the oracle's own, nor what it does to
        // RF, which the stop itself changes.
        let own = Rflags::TF | Rflags::RF;
        registers.rflags = registers.rflags.difference(own) | sample.case.registers.rflags & own;
    }
    if matches!(stop, Err(Outcome::Native | Outcome::Interrupt(_))) {
        // The emulator leaves it to the thread, and must not have touched anything.
        let mut differences = Differences::default();
        registers.rip = sample.case.registers.rip;
        differences.registers(&sample.case.registers, &registers, Rflags::empty());
        return Ok(Comparison { differences: differences.0, left: true });
    }
    let undefined = match stop {
        Ok(Stop::Completed) => undefined::flags(&sample.instruction, sample.case.registers.gpr[1]),
        _ => Rflags::empty(),
    };
    let facts = crate::features::processor().facts;
    hide_pointers(facts, &observed.registers.extended.x87, &mut registers.extended.x87);
    if stop == Ok(Stop::Completed) && observed.stop == Stop::Completed {
        adopt_in_use(sample, observed, &mut registers, model);
    }
    let mut differences = Differences::default();
    match stop {
        Ok(stop) if stop == observed.stop => {}
        Ok(stop) => differences.push("stop", observed.stop, stop),
        Err(outcome) => differences.push("stop", observed.stop, format_args!("{outcome:?}")),
    }
    differences.registers(&observed.registers, &registers, undefined);
    for (address, processor, emulator) in model.differences(&observed.changed) {
        differences.hex(&format!("[{address:x}]"), processor, emulator);
    }
    Ok(Comparison { differences: differences.0, left: false })
}

/// Where the processor says that more state is in use than the emulator, as it may, so does the emulator.
fn adopt_in_use(sample: &Sample, observed: &Observed, registers: &mut Registers, model: &mut Model) {
    let (before, instruction) = (&sample.case.registers, &sample.instruction);
    let processor = crate::features::processor();
    let (rax, seen) = (&mut registers.gpr[gpr::RAX], observed.registers.gpr[gpr::RAX]);
    if *rax != seen && in_use::permitted_xgetbv(instruction, before, *rax, seen, processor) {
        *rax = seen;
    }
    let Some(image) = Image::of(instruction, before, processor) else { return };
    let Some((expected, seen)) = model.words_at(image.header(), &observed.changed) else { return };
    for (address, bytes) in
        image.permitted(expected, seen, processor).filter(|_| expected != seen).unwrap_or_default()
    {
        // The emulator has written to the image before.
        let _ = model.write(address, &bytes);
    }
}

/// How the emulator ends, or what it says that no exception is.
pub(crate) fn execute(
    displaced: &Displaced,
    registers: &mut Registers,
    memory: &mut dyn UserMemory,
) -> Result<Stop, Outcome> {
    for _ in 0..REPETITIONS {
        return match displaced.execute(registers, memory) {
            Ok(Outcome::Next | Outcome::NextInhibited) => Ok(Stop::Completed),
            Ok(Outcome::Again) => continue,
            // The 32-bit system call.
            Ok(outcome @ Outcome::Interrupt(0x80)) => Err(outcome),
            Ok(Outcome::Interrupt(number)) => Ok(interrupt(number, displaced.ip(), registers)),
            Ok(outcome) => Err(outcome),
            Err(exception) => Ok(stop(exception)),
        };
    }
    Err(Outcome::Again)
}

/// What `INT number` comes to under Linux: user mode may use the gates 3, 4 and 0x80 only.
fn interrupt(number: u8, ip: u64, registers: &mut Registers) -> Stop {
    const IDT: u32 = 2;
    if matches!(number, 3 | 4) {
        return Stop::Exception { vector: number, error_code: 0, address: None };
    }
    registers.rip = ip;
    Stop::Exception { vector: 13, error_code: u32::from(number) << 3 | IDT, address: None }
}

fn stop(exception: Exception) -> Stop {
    Stop::Exception {
        vector: exception.vector(),
        error_code: exception.error_code(),
        address: exception.address(),
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Completed => write!(f, "completed"),
            Stop::Endless => write!(f, "endless"),
            Stop::Exception { vector, error_code, address } => {
                let name = match vector {
                    0 => "#DE",
                    1 => "#DB",
                    3 => "#BP",
                    4 => "#OF",
                    6 => "#UD",
                    11 => "#NP",
                    12 => "#SS",
                    13 => "#GP",
                    14 => "#PF",
                    16 => "#MF",
                    17 => "#AC",
                    19 => "#XM",
                    21 => "#CP",
                    _ => "vector",
                };
                write!(f, "{name}({error_code:#x})")?;
                match address {
                    Some(address) => write!(f, " at {address:#x}"),
                    None if name == "vector" => write!(f, " {vector}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The names of the general registers in machine encoding.
pub(crate) const GPR: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];
/// The names of the segment registers in machine encoding.
const SEGMENT: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];

/// What differs, as it is found.
#[derive(Debug, Default)]
pub(crate) struct Differences(pub(crate) Vec<Difference>);

impl Differences {
    pub(crate) fn push(&mut self, what: &str, processor: impl fmt::Display, emulator: impl fmt::Display) {
        let (processor, emulator) = (processor.to_string(), emulator.to_string());
        self.0.push(Difference { what: what.to_string(), processor, emulator });
    }

    pub(crate) fn hex<T: fmt::LowerHex + PartialEq>(&mut self, what: &str, processor: T, emulator: T) {
        if processor != emulator {
            self.push(what, format_args!("{processor:#x}"), format_args!("{emulator:#x}"));
        }
    }

    pub(crate) fn registers(&mut self, processor: &Registers, emulator: &Registers, undefined: Rflags) {
        for (number, name) in GPR.iter().enumerate() {
            self.hex(name, processor.gpr[number], emulator.gpr[number]);
        }
        self.hex("rip", processor.rip, emulator.rip);
        let (p, e) = (processor.rflags - undefined, emulator.rflags - undefined);
        if p != e {
            self.push("rflags", flags(p, p ^ e), flags(e, p ^ e));
        }
        self.hex("fs_base", processor.fs_base, emulator.fs_base);
        self.hex("gs_base", processor.gs_base, emulator.gs_base);
        for (number, name) in SEGMENT.iter().enumerate() {
            self.hex(name, selector(processor.segment[number]), selector(emulator.segment[number]));
        }
        self.hex("pkru", processor.pkru, emulator.pkru);
        if processor.extended != emulator.extended {
            self.extended(&processor.extended, &emulator.extended);
        }
    }

    fn extended(&mut self, processor: &Extended, emulator: &Extended) {
        let (p, e) = (&processor.x87, &emulator.x87);
        self.hex("fcw", p.control, e.control);
        self.hex("fsw", p.status, e.status);
        self.hex("ftw", p.tag, e.tag);
        self.hex("fop", p.opcode, e.opcode);
        self.hex("fip", p.instruction_pointer, e.instruction_pointer);
        self.hex("fdp", p.data_pointer, e.data_pointer);
        for number in 0..8 {
            let show =
                |r: &emu::registers::Float80| format!("{:04x}:{:016x}", r.sign_exponent, r.significand);
            if p.r[number] != e.r[number] {
                self.push(&format!("R{number}"), show(&p.r[number]), show(&e.r[number]));
            }
        }
        self.hex("mxcsr", processor.mxcsr.bits(), emulator.mxcsr.bits());
        for number in 0..32 {
            let (p, e) = (processor.vector[number].0, emulator.vector[number].0);
            for quad in (0..8).filter(|quad| p[*quad] != e[*quad]) {
                self.hex(&format!("zmm{number}.q{quad}"), p[quad], e[quad]);
            }
        }
        for number in 0..8 {
            self.hex(&format!("k{number}"), processor.opmask[number], emulator.opmask[number]);
        }
        if processor.tiles != emulator.tiles {
            self.tiles(&processor.tiles, &emulator.tiles);
        }
    }

    fn tiles(&mut self, processor: &Tiles, emulator: &Tiles) {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        if processor.config != emulator.config {
            self.push("tilecfg", hex(&processor.config.0), hex(&emulator.config.0));
        }
        let zeros = [[[0; ROW_LENGTH]; ROWS]; TILES];
        let (p, e) = (processor.data.tiles().unwrap_or(&zeros), emulator.data.tiles().unwrap_or(&zeros));
        for (number, (p, e)) in p.as_flattened().iter().zip(e.as_flattened()).enumerate() {
            if p != e {
                self.push(&format!("tmm{}.row{}", number / ROWS, number % ROWS), hex(p), hex(e));
            }
        }
    }
}

/// A selector without what an interrupt on the way may have taken: any return from the kernel clears a
/// null selector's privilege level (SDM volume 2, IRET).
fn selector(selector: u16) -> u16 {
    if selector & !3 == 0 { 0 } else { selector }
}

/// Where the processor kept FOP, FIP and FDP to itself, so does the emulator: those of which it is a fact store zeros
/// while no unmasked exception is pending.
pub(crate) fn hide_pointers(facts: Facts, processor: &X87, emulator: &mut X87) {
    let pointers = (processor.opcode, processor.instruction_pointer, processor.data_pointer);
    if pointers == (0, 0, 0) && !keeps_pointers(facts, processor) {
        (emulator.opcode, emulator.instruction_pointer, emulator.data_pointer) = pointers;
    }
}

/// The flags by name, those that differ in capitals.
fn flags(flags: Rflags, differing: Rflags) -> String {
    let names: Vec<String> = (flags | differing)
        .iter_names()
        .filter(|(name, flag)| flag.bits().count_ones() == 1 && *name != "FIXED")
        .map(|(name, flag)| match (differing.contains(flag), flags.contains(flag)) {
            (true, true) => format!("{name}=1"),
            (true, false) => format!("{name}=0"),
            (false, _) => name.to_lowercase(),
        })
        .collect();
    names.join(" ")
}
