//! The MMX registers are the low 64 bits of the physical x87 registers (SDM volume 3, section 12.2).
//!
//! An MMX instruction asks [`X87::check_pending`] before it accesses memory, and calls
//! [`X87::enter_mmx`] when nothing can fail any more, whether it writes an MMX register or only reads one.

use crate::model::registers::{Float80, X87};
use crate::model::x87::status::TOP;

impl X87 {
    /// What every MMX instruction except EMMS does to the x87 state: TOP is 0 and all registers are valid.
    #[inline(always)]
    pub(crate) fn enter_mmx(&mut self) {
        self.clear_top();
        self.tag = 0xff;
    }

    /// The part of it that some processors have done when a store faults.
    #[inline(always)]
    pub(crate) fn clear_top(&mut self) {
        self.status &= !TOP;
    }

    /// MM0 to MM7, in place.
    #[inline(always)]
    pub(crate) fn mm(&self, number: u8) -> &u64 {
        &self.r[usize::from(number & 7)].significand
    }

    /// Writes MM0 to MM7: sign and exponent become ones.
    #[inline(always)]
    pub(crate) fn set_mm(&mut self, number: u8, value: u64) {
        self.r[usize::from(number & 7)] = Float80 { significand: value, sign_exponent: 0xffff };
    }

    /// EMMS: all registers are empty.
    #[inline(always)]
    pub(crate) fn leave_mmx(&mut self) {
        self.status &= !TOP;
        self.tag = 0;
    }
}
