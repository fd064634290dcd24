//! The opcode tables: rows, and the index from iced-x86's `Code` to them.
//!
//! A row is an entry of the manual: its mnemonics, flags that generic code obeys, and the function that
//! picks what will execute a given combination of operands. The rows stand in the files of
//! `families/`, next to the functions that do the work.

use std::sync::OnceLock;

use bitflags::bitflags;
use iced_x86::{Code, Instruction, Mnemonic, OpKind};

use crate::context::Execute;
use crate::families;
use crate::processor::{Facts, Processor};
use crate::registers::Rflags;
use crate::vector::phases::Layout;

bitflags! {
    /// What generic code must know of an instruction.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Flags: u32 {
        /// May carry LOCK when its destination is in memory.
        const LOCK = 1 << 0;
        /// Is atomic even without LOCK when an operand is in memory.
        const ATOMIC = 1 << 1;
        /// Pushes or pops.
        const STACK = 1 << 2;
        /// Works on strings at RSI and RDI.
        const STRING = 1 << 3;
        /// A register bit offset reaches beyond the memory operand.
        const BIT_OFFSET = 1 << 4;
        /// Needs x87 or MMX state beyond its register operands.
        const X87 = 1 << 5;
        /// Needs XMM or MXCSR state beyond its register operands.
        const SSE = 1 << 6;
        /// Its memory operand must be aligned to its size.
        const ALIGNED = 1 << 7;
        /// Must run on the core of the thread.
        const THIS_CORE = 1 << 8;
        /// Moves the shadow stack pointer.
        const SHADOW_STACK = 1 << 9;
        /// Reads or writes PKRU.
        const PKRU = 1 << 10;
        /// Writes segment selectors or bases.
        const SEGMENTS = 1 << 11;
        /// Needs all of the state that XSAVE saves.
        const EXTENDED = 1 << 12;
        /// Computes on floating-point operands, or converts them; does not only move or select their bits.
        const FLOAT = 1 << 13;
        /// Of its floating-point operands it computes on the last only: from the first it copies elements.
        const LAST_SOURCE = 1 << 14;
        /// Leaves AF and PF undefined: [`Facts::BMI_CLEARS_UNDEFINED_FLAGS`] clears them.
        const UNDEFINED_PARITY = 1 << 15;
        /// Leaves OF undefined: [`Facts::ZERO_COUNTS_CLEAR_OVERFLOW`] clears it.
        const UNDEFINED_OVERFLOW = 1 << 16;
    }
}

impl Flags {
    /// The flags that an instruction leaves undefined and this processor clears.
    pub(crate) fn cleared(self, processor: &Processor) -> Rflags {
        let parity = self.contains(Flags::UNDEFINED_PARITY);
        let overflow = self.contains(Flags::UNDEFINED_OVERFLOW);
        let mut cleared = Rflags::empty();
        cleared.set(Rflags::PF | Rflags::AF, parity && processor.is(Facts::BMI_CLEARS_UNDEFINED_FLAGS));
        cleared.set(Rflags::OF, overflow && processor.is(Facts::ZERO_COUNTS_CLEAR_OVERFLOW));
        cleared
    }
}

/// An entry of the manual.
pub(crate) struct Row {
    /// As the table prints it.
    pub(crate) name: &'static str,
    pub(crate) mnemonics: &'static [Mnemonic],
    pub(crate) flags: Flags,
    /// The function for these operands, if the row has one.
    pub(crate) select: fn(&Form<'_>) -> Option<Execute>,
    /// What decoding must know of a vector instruction's operands.
    pub(crate) vector: Option<Layout>,
}

impl Row {
    /// The row of a vector instruction whose function fetches and commits itself.
    pub(crate) const fn with(self, layout: Layout) -> Row {
        Row { vector: Some(layout), ..self }
    }
}

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

/// With how many prefixes bytes begin: of a segment, of a size, LOCK, REP or REX.
pub(crate) fn prefix_count(bytes: &[u8]) -> usize {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    bytes.iter().take_while(|byte| is_prefix(byte)).count()
}

/// Whether it is one of the memory operands that RSI and RDI address.
pub(crate) fn is_string(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::MemorySegSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegESI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}

/// Whether the encoding is a string instruction: MOVSD and CMPSD name an SSE2 instruction too.
fn is_string_code(code: Code) -> bool {
    let operands = code.op_code();
    (0..operands.op_count()).any(|index| {
        use iced_x86::OpCodeOperandKind as K;
        matches!(operands.op_kind(index), K::seg_rSI | K::es_rDI)
    })
}

const NO_ROW: u16 = u16::MAX;

/// The row of an encoding, if a table has it.
pub(crate) fn row(code: Code) -> Option<&'static Row> {
    static INDEX: OnceLock<Vec<u16>> = OnceLock::new();
    let index = INDEX.get_or_init(|| {
        let mut by_mnemonic = vec![[NO_ROW; 2]; Mnemonic::values().len()];
        for (number, row) in rows().enumerate() {
            for &mnemonic in row.mnemonics {
                let string = usize::from(row.flags.contains(Flags::STRING));
                by_mnemonic[mnemonic as usize][string] = number as u16;
            }
        }
        Code::values()
            .map(|code| by_mnemonic[code.mnemonic() as usize][usize::from(is_string_code(code))])
            .collect()
    });
    static ROWS: OnceLock<Vec<&'static Row>> = OnceLock::new();
    let number = *index.get(code as usize)?;
    ROWS.get_or_init(|| rows().collect()).get(usize::from(number)).copied()
}

/// All rows of all families.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    families::ALL.iter().copied().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of iced-x86's codes is in exactly one row or in none.
    #[test]
    fn every_code_has_at_most_one_row() {
        for code in Code::values() {
            let string = is_string_code(code);
            let found: Vec<_> = rows()
                .filter(|row| {
                    row.mnemonics.contains(&code.mnemonic()) && row.flags.contains(Flags::STRING) == string
                })
                .map(|row| row.name)
                .collect();
            assert!(found.len() <= 1, "{code:?} is in {found:?}");
            assert_eq!(row(code).map(|row| row.name), found.first().copied(), "{code:?}");
        }
    }
}
