//! The x87 register stack: TOP, tags, condition codes and exceptions (SDM volume 1, chapter 8).

use crate::model::exception::Exception;
use crate::model::registers::{Float80, X87};

/// Bits of FSW. The exception flags stand where FCW has their masks.
pub(crate) mod status {
    /// Invalid operation.
    pub(crate) const IE: u16 = 1 << 0;
    /// Denormal operand.
    pub(crate) const DE: u16 = 1 << 1;
    /// Division by zero.
    pub(crate) const ZE: u16 = 1 << 2;
    /// Overflow.
    pub(crate) const OE: u16 = 1 << 3;
    /// Underflow.
    pub(crate) const UE: u16 = 1 << 4;
    /// The six exceptions.
    pub(crate) const EXCEPTIONS: u16 = 0x3f;
    /// Stack fault.
    pub(crate) const SF: u16 = 1 << 6;
    /// Error summary: an unmasked exception is pending.
    pub(crate) const ES: u16 = 1 << 7;
    pub(crate) const C0: u16 = 1 << 8;
    pub(crate) const C1: u16 = 1 << 9;
    pub(crate) const C2: u16 = 1 << 10;
    /// The top of the stack, three bits.
    pub(crate) const TOP: u16 = 7 << TOP_SHIFT;
    pub(crate) const TOP_SHIFT: u16 = 11;
    pub(crate) const C3: u16 = 1 << 14;
    /// Busy: a copy of ES.
    pub(crate) const B: u16 = 1 << 15;
    /// All four condition codes.
    pub(crate) const CONDITION: u16 = C0 | C1 | C2 | C3;
    /// Exceptions that keep an operation from having any result when unmasked.
    pub(crate) const BEFORE: u16 = IE | DE | ZE;
    /// Exceptions that keep a store to memory from happening when unmasked.
    pub(crate) const BEFORE_STORE: u16 = BEFORE | OE | UE;
}

use status::{B, BEFORE, C1, CONDITION, ES, EXCEPTIONS, IE, SF, TOP, TOP_SHIFT};

/// The masked response to most invalid operations.
pub(crate) const INDEFINITE: Float80 = Float80 { significand: 0xc000_0000_0000_0000, sign_exponent: 0xffff };

/// Which way the register stack was overrun.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum StackFault {
    /// Pushed onto a register that is not empty.
    Overflow,
    /// Read from an empty register.
    Underflow,
}

impl X87 {
    /// #MF if an unmasked exception of an earlier x87 instruction is pending: what every waiting x87
    /// instruction and every MMX instruction looks at first.
    #[inline(always)]
    pub(crate) fn check_pending(&self) -> Result<(), Exception> {
        if self.status & !self.control & EXCEPTIONS != 0 { Err(Exception::X87FloatingPoint) } else { Ok(()) }
    }

    /// The physical register behind ST(i).
    #[inline(always)]
    fn physical(&self, i: u8) -> usize {
        usize::from((self.status >> TOP_SHIFT).wrapping_add(u16::from(i)) & 7)
    }

    /// ST(i), unless it is empty.
    #[inline(always)]
    pub(crate) fn st(&self, i: u8) -> Option<&Float80> {
        let physical = self.physical(i);
        if self.tag >> physical & 1 != 0 { Some(&self.r[physical]) } else { None }
    }

    /// Whether ST(i) is not empty.
    #[inline(always)]
    pub(crate) fn is_valid(&self, i: u8) -> bool {
        self.tag >> self.physical(i) & 1 != 0
    }

    /// What ST(i) holds, empty or not.
    #[inline(always)]
    pub(crate) fn register_mut(&mut self, i: u8) -> &mut Float80 {
        let physical = self.physical(i);
        &mut self.r[physical]
    }

    /// What ST(0) to ST(7) hold, empty or not.
    pub(crate) fn in_stack_order(&self) -> impl Iterator<Item = &Float80> {
        (0..8).map(|i| &self.r[self.physical(i)])
    }

    /// Writes ST(i), which is no longer empty.
    #[inline(always)]
    pub(crate) fn set_st(&mut self, i: u8, value: Float80) {
        let physical = self.physical(i);
        self.r[physical] = value;
        self.tag |= 1 << physical;
    }

    /// Makes ST(i) empty.
    #[inline(always)]
    pub(crate) fn free(&mut self, i: u8) {
        self.tag &= !(1 << self.physical(i));
    }

    /// Moves TOP.
    #[inline(always)]
    pub(crate) fn rotate(&mut self, by: i16) {
        let top = (self.status & TOP).wrapping_add_signed(by << TOP_SHIFT) & TOP;
        self.status = self.status & !TOP | top;
    }

    /// Makes ST(0) empty and moves TOP up, `count` times.
    #[inline(always)]
    pub(crate) fn pop(&mut self, count: u8) {
        for _ in 0..count {
            self.free(0);
            self.rotate(1);
        }
    }

    /// Moves TOP down to what becomes ST(0).
    #[inline(always)]
    pub(crate) fn push(&mut self, value: Float80) {
        self.rotate(-1);
        self.set_st(0, value);
    }

    /// Whether a push would overrun the stack.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.is_valid(7)
    }

    /// Takes over an operation's exceptions and the condition codes that it defines, and says whether its
    /// result may be committed: not after an unmasked one of `before`.
    #[inline(always)]
    pub(crate) fn raise(&mut self, raised: u16, conditions: u16, before: u16) -> bool {
        self.status = self.status & !conditions | raised & (EXCEPTIONS | SF | conditions);
        self.summarize();
        raised & before & !self.control == 0
    }

    /// A stack fault, which is an invalid operation: C1 says which. Returns whether the masked response
    /// follows.
    #[cold]
    pub(crate) fn stack_fault(&mut self, fault: StackFault) -> bool {
        let c1 = if fault == StackFault::Overflow { C1 } else { 0 };
        self.raise(IE | SF | c1, C1, BEFORE)
    }

    /// ES and B follow from the exceptions and their masks (SDM volume 1, section 8.1.3.3).
    #[inline(always)]
    pub fn summarize(&mut self) {
        let pending = self.status & !self.control & EXCEPTIONS != 0;
        self.status = self.status & !(ES | B) | if pending { ES | B } else { 0 };
    }

    /// Replaces the condition codes.
    #[inline(always)]
    pub(crate) fn set_conditions(&mut self, conditions: u16) {
        self.status = self.status & !CONDITION | conditions & CONDITION;
    }
}
