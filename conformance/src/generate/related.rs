//! Contents that make an instruction do what it seldom does with random ones: compare equal, branch to an
//! address that exists, load a state that is valid.

use emu::Registers;
use emu::registers::gpr;
use iced_x86::{FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::values;
use crate::oracle::Patch;
use crate::oracle::places::{CODE_HIGH, CODE_LOW, LOW, STACK, TOP, USER_END, WRITABLE};
use crate::rng::Rng;

/// The longest patch, in bytes.
pub(super) const PATCH: usize = 64;

/// A patch of `bytes` at `start`, as far as they can be written there.
pub(super) fn patch(start: u64, bytes: &[u8]) -> Option<Patch> {
    let region = WRITABLE.iter().find(|region| region.start <= start && start < region.end())?;
    let length = ((region.end() - start) as usize).min(bytes.len()).min(PATCH);
    let mut padded = [0; PATCH];
    padded[..length].copy_from_slice(&bytes[..length]);
    Some(Patch { address: start, length, bytes: padded })
}

/// Fresh contents around an operand at `start`.
pub(super) fn fresh(start: u64, rng: &mut Rng) -> Option<Patch> {
    let lanes = values::Lanes::draw(rng);
    let mut bytes = [0; PATCH];
    for quad in bytes.chunks_exact_mut(8) {
        quad.copy_from_slice(&lanes.quad(rng).to_le_bytes());
    }
    patch(start, &bytes)
}

/// Contents for the operands of `instruction`, which lie at `places`.
pub(super) fn contents(
    instruction: &Instruction,
    places: &[u64],
    registers: &mut Registers,
    rng: &mut Rng,
) -> Vec<Patch> {
    use Mnemonic as M;
    let first = places.first().copied();
    match instruction.mnemonic() {
        M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b if rng.chance(50) => {
            expected(instruction, first, registers, rng).into_iter().collect()
        }
        M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq
            if rng.chance(50) =>
        {
            equal(instruction, places, registers, rng)
        }
        M::Ldmxcsr | M::Vldmxcsr if rng.chance(80) => first
            .and_then(|start| patch(start, &(rng.u64() as u32 & 0xffff).to_le_bytes()))
            .into_iter()
            .collect(),
        M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 if rng.chance(80) => state_image(first, rng),
        _ => match instruction.flow_control() {
            FlowControl::IndirectBranch | FlowControl::IndirectCall | FlowControl::Return
                if rng.chance(75) =>
            {
                transfer(instruction, places, registers, rng).into_iter().collect()
            }
            _ => Vec::new(),
        },
    }
}

/// Makes CMPXCHG find what it expects.
fn expected(
    instruction: &Instruction,
    place: Option<u64>,
    registers: &mut Registers,
    rng: &mut Rng,
) -> Option<Patch> {
    if instruction.op0_kind() == OpKind::Register {
        let register = instruction.op0_register();
        let value = registers.gpr[register.full_register().number()];
        let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
        registers.gpr[gpr::RAX] = if high { value >> 8 } else { value };
        return None;
    }
    let (rax, rdx) = (registers.gpr[gpr::RAX], registers.gpr[gpr::RDX]);
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&rax.to_le_bytes());
    match instruction.mnemonic() {
        Mnemonic::Cmpxchg8b => bytes[4..8].copy_from_slice(&(rdx as u32).to_le_bytes()),
        _ => bytes[8..].copy_from_slice(&rdx.to_le_bytes()),
    }
    if rng.chance(10) {
        bytes[rng.below(16) as usize] ^= 1;
    }
    patch(place?, &bytes)
}

/// Makes the elements of SCAS and CMPS equal for a while.
fn equal(instruction: &Instruction, places: &[u64], registers: &Registers, rng: &mut Rng) -> Vec<Patch> {
    let mut bytes = [0; PATCH];
    let accumulator = registers.gpr[gpr::RAX].to_le_bytes();
    let size = instruction.memory_size().size().clamp(1, 8);
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = accumulator[position % size];
    }
    // Backward the elements before the first one count.
    let below = if registers.rflags.contains(emu::Rflags::DF) { PATCH - size } else { 0 };
    let mut patches: Vec<Patch> =
        places.iter().filter_map(|start| patch(start.wrapping_sub(below as u64), &bytes)).collect();
    if rng.chance(60)
        && let Some(last) = patches.last_mut()
    {
        last.bytes[rng.below(PATCH as u64) as usize] ^= 0x10;
    }
    patches
}

/// An image that FXRSTOR and XRSTOR load without #GP: MXCSR's reserved bits and the header's are zero.
fn state_image(place: Option<u64>, rng: &mut Rng) -> Vec<Patch> {
    const MXCSR: usize = 24;
    const HEADER: u64 = 512;
    let Some(start) = place else { return Vec::new() };
    let mut legacy = [0; PATCH];
    for quad in legacy.chunks_exact_mut(8) {
        quad.copy_from_slice(&rng.u64().to_le_bytes());
    }
    legacy[MXCSR..MXCSR + 4].copy_from_slice(&(rng.u64() as u32 & 0xffff).to_le_bytes());
    let mut header = [0; PATCH];
    header[0] = rng.below(8) as u8;
    [patch(start, &legacy), patch(start.wrapping_add(HEADER), &header)].into_iter().flatten().collect()
}

/// Where a branch may lead.
fn branch_target(rng: &mut Rng) -> u64 {
    match rng.below(20) {
        0..6 => CODE_LOW.start + rng.below(CODE_LOW.length),
        6..10 => CODE_HIGH.start + rng.below(CODE_HIGH.length),
        10..14 => rng.pick(&[LOW, STACK, TOP]).start + rng.below(4096),
        14 => rng.below(1 << 47),
        15 => USER_END - rng.below(64),
        16 => USER_END + rng.below(4096),
        17 => 0xffff_8000_0000_0000 + rng.below(1 << 47),
        18 => 1 << 47 | rng.below(1 << 20),
        _ => rng.u64(),
    }
}

/// The target of an indirect branch, call or return that stays in its segment: in a register or in memory.
fn transfer(
    instruction: &Instruction,
    places: &[u64],
    registers: &mut Registers,
    rng: &mut Rng,
) -> Option<Patch> {
    let target = branch_target(rng);
    if instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Register {
        let number = instruction.op0_register().full_register().number();
        registers.gpr[number] = target;
        return None;
    }
    patch(*places.first()?, &target.to_le_bytes())
}
