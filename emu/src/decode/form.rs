//! The shape of an instruction's operands: what selecting a function depends on.

use iced_x86::{Instruction, OpKind};

use crate::decode::operand::is_string;
use crate::decode::prefix::prefix_count;
use crate::decode::processor::Processor;

/// The shape of an instruction's operands: what selecting a function depends on.
pub(crate) struct Form<'a> {
    pub(crate) instruction: &'a Instruction,
    /// The instruction, and maybe more: for what the decoded instruction does not tell.
    pub(crate) bytes: &'a [u8],
    pub(crate) processor: &'static Processor,
}

/// The kind of place an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// There is no such operand.
    None,
    /// A general register.
    Register,
    /// Another register.
    Other,
    /// The memory operand.
    Memory,
    /// An immediate or a branch target.
    Immediate,
    /// At RSI or RDI.
    String,
}

impl Form<'_> {
    /// The shape of operand `index`.
    pub(crate) fn shape(&self, index: u32) -> Shape {
        if index >= self.instruction.op_count() {
            return Shape::None;
        }
        match self.instruction.op_kind(index) {
            OpKind::Register if self.instruction.op_register(index).is_gpr() => Shape::Register,
            OpKind::Register => Shape::Other,
            OpKind::Memory => Shape::Memory,
            kind if is_string(kind) => Shape::String,
            _ => Shape::Immediate,
        }
    }

    /// The size of operand `index` in bytes, zero for an immediate or a branch target.
    pub(crate) fn size(&self, index: u32) -> usize {
        match self.shape(index) {
            Shape::Register | Shape::Other => self.instruction.op_register(index).size(),
            Shape::Memory | Shape::String => self.instruction.memory_size().size(),
            Shape::None | Shape::Immediate => 0,
        }
    }

    /// The operand size that the encoding stands for, in bytes, zero if it stands for none.
    pub(crate) fn operand_size(&self) -> usize {
        self.instruction.code().op_code().operand_size() as usize / 8
    }

    /// All its prefixes, legacy and REX.
    pub(crate) fn prefixes(&self) -> impl DoubleEndedIterator<Item = u8> {
        self.bytes.iter().take(prefix_count(self.bytes)).copied()
    }

    /// The last of its REP (F3) and REPNE (F2) prefixes.
    pub(crate) fn repeat_prefix(&self) -> Option<u8> {
        self.prefixes().rev().find(|byte| matches!(byte, 0xf2 | 0xf3))
    }

    /// Whether it has a LOCK prefix.
    pub(crate) fn locked(&self) -> bool {
        self.instruction.has_lock_prefix()
    }
}
