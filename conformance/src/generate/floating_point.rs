//! Floating-point operands in the format that the instruction reads them in, and such that results leave it.

use emu::Registers;
use iced_x86::{Instruction, MemorySize};

use super::related::PATCH;
use super::values::{self, Lanes};
use crate::floating_point::Format;
use crate::rng::Rng;

/// What elements of a format are filled with.
fn lanes(format: Format, rng: &mut Rng) -> Lanes {
    match format.bits {
        _ if rng.chance(40) => Lanes::Extreme(format.bits, format.fraction_bits),
        64 => Lanes::Double,
        32 => Lanes::Single,
        _ => Lanes::Half,
    }
}

/// Now and then contents for memory that holds numbers as `size` says, if these are of floating point.
pub(super) fn bytes(size: MemorySize, rng: &mut Rng) -> Option<[u8; PATCH]> {
    let mut bytes = [0; PATCH];
    if size == MemorySize::Float80 {
        let number = if rng.chance(30) { values::extreme_extended(rng) } else { values::extended(rng) };
        bytes[..8].copy_from_slice(&number.significand.to_le_bytes());
        bytes[8..10].copy_from_slice(&number.sign_exponent.to_le_bytes());
        return Some(bytes);
    }
    let lanes = lanes(Format::of(size).filter(|_| rng.chance(80))?, rng);
    for quad in bytes.chunks_exact_mut(8) {
        quad.copy_from_slice(&lanes.quad(rng).to_le_bytes());
    }
    Some(bytes)
}

/// Mostly gives the vector registers that the instruction names numbers in the format of its memory operand,
/// if this is one of floating point. They have `quads` parts of 64 bits.
pub(super) fn registers(registers: &mut Registers, instruction: &Instruction, quads: usize, rng: &mut Rng) {
    let format = Format::of(instruction.op_code().memory_size());
    let Some(format) = format.filter(|_| !instruction.is_vsib() && rng.chance(75)) else { return };
    for index in 0..instruction.op_count() {
        let register = instruction.op_register(index);
        if register.is_vector_register() {
            let lanes = lanes(format, rng);
            for quad in registers.extended.vector[register.number()].0.iter_mut().take(quads) {
                *quad = lanes.quad(rng);
            }
        }
    }
}
