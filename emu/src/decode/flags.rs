//! What a row of the table says of its instruction besides what does the work.

use bitflags::bitflags;

use crate::decode::processor::{Facts, Processor};
use crate::model::registers::Rflags;

bitflags! {
    /// What generic code must know of an instruction.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Flags: u32 {
        /// May carry LOCK when its destination is in memory.
        const LOCK = 1 << 0;
        /// Is atomic even without LOCK when an operand is in memory.
        const ATOMIC = 1 << 1;
        /// Works on strings at RSI and RDI.
        const STRING = 1 << 2;
        /// Needs x87 or MMX state beyond its register operands.
        const X87 = 1 << 3;
        /// Needs XMM or MXCSR state beyond its register operands.
        const SSE = 1 << 4;
        /// Must run on the core of the thread.
        const THIS_CORE = 1 << 5;
        /// Moves the shadow stack pointer.
        const SHADOW_STACK = 1 << 6;
        /// Reads or writes PKRU.
        const PKRU = 1 << 7;
        /// Writes segment selectors or bases.
        const SEGMENTS = 1 << 8;
        /// Needs all of the state that XSAVE saves.
        const EXTENDED = 1 << 9;
        /// Computes on floating-point operands, or converts them; does not only move or select their bits.
        const FLOAT = 1 << 10;
        /// Of its floating-point operands it computes on the last only: from the first it copies elements.
        const LAST_SOURCE = 1 << 11;
        /// Leaves AF and PF undefined: [`Facts::BMI_CLEARS_UNDEFINED_FLAGS`] clears them.
        const UNDEFINED_PARITY = 1 << 12;
        /// Leaves OF undefined: [`Facts::ZERO_COUNTS_CLEAR_OVERFLOW`] clears it.
        const UNDEFINED_OVERFLOW = 1 << 13;
        /// Is computed by the host's own instruction, whichever processor is emulated: its results are the maker's
        /// tables or approximations, of which the manual says how near they are.
        const BY_HOST = 1 << 14;
        /// Needs TILECFG or tile registers.
        const TILES = 1 << 15;
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
