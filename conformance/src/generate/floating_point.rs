//! Floating-point operands in the format that the instruction reads them in, and such that results leave it.

use emu::Registers;
use emu::registers::Float80;
use iced_x86::{Instruction, MemorySize};

use super::related::PATCH;
use super::values::{self, Lanes};
use crate::floating_point::Format;
use crate::rng::Rng;

/// What the floating-point operands of one instruction have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Theme {
    /// Each is drawn for itself.
    Any,
    /// All are at the limits of their format, so that the result is beyond.
    Extreme,
}

impl Theme {
    pub(super) fn draw(rng: &mut Rng) -> Theme {
        if rng.chance(55) { Theme::Extreme } else { Theme::Any }
    }

    /// What elements of a format are filled with.
    fn lanes(self, format: Format) -> Lanes {
        match (self, format.bits) {
            (Theme::Extreme, bits) => Lanes::Extreme(bits, format.fraction_bits),
            (Theme::Any, 64) => Lanes::Double,
            (Theme::Any, 32) => Lanes::Single,
            (Theme::Any, _) => Lanes::Half,
        }
    }

    fn extended(self, rng: &mut Rng) -> Float80 {
        match self {
            Theme::Any => values::extended(rng),
            Theme::Extreme => values::extreme_extended(rng),
        }
    }

    /// Mostly contents for memory that holds numbers as `size` says, if these are of floating point.
    pub(super) fn bytes(self, size: MemorySize, rng: &mut Rng) -> Option<[u8; PATCH]> {
        let mut bytes = [0; PATCH];
        if size == MemorySize::Float80 {
            let number = self.extended(rng);
            bytes[..8].copy_from_slice(&number.significand.to_le_bytes());
            bytes[8..10].copy_from_slice(&number.sign_exponent.to_le_bytes());
            return Some(bytes);
        }
        let lanes = self.lanes(Format::of(size).filter(|_| rng.chance(80))?);
        for quad in bytes.chunks_exact_mut(8) {
            quad.copy_from_slice(&lanes.quad(rng).to_le_bytes());
        }
        Some(bytes)
    }

    /// Mostly gives the vector registers that the instruction names numbers in the format of its memory operand,
    /// if this is one of floating point, and x87 registers their own. A vector register has `quads` parts of
    /// 64 bits.
    pub(super) fn registers(
        self,
        registers: &mut Registers,
        instruction: &Instruction,
        quads: usize,
        rng: &mut Rng,
    ) {
        if self != Theme::Any {
            for register in &mut registers.extended.x87.r {
                *register = self.extended(rng);
            }
        }
        let format = Format::of(instruction.op_code().memory_size());
        let Some(format) = format.filter(|_| !instruction.is_vsib() && rng.chance(80)) else { return };
        for index in 0..instruction.op_count() {
            let register = instruction.op_register(index);
            if register.is_vector_register() {
                for quad in registers.extended.vector[register.number()].0.iter_mut().take(quads) {
                    *quad = self.lanes(format).quad(rng);
                }
            }
        }
    }
}
