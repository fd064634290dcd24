//! The SSE control and status register (SDM volume 1, section 10.2.3).

use crate::context::Context;
use crate::exception::Exception;
use crate::operand::{Destination, Mem, Source};
use crate::outcome::Outcome;
use crate::registers::Mxcsr;
use crate::shape::row;
use crate::table::{Flags, Row};

pub(super) static ROWS: &[Row] = &[
    row!([Ldmxcsr, Vldmxcsr], Whole, Flags::SSE, ldmxcsr),
    row!([Stmxcsr, Vstmxcsr], Whole, Flags::SSE, stmxcsr),
];

/// #GP for a bit that this processor does not have.
fn ldmxcsr(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = Mxcsr::from_bits_retain(Mem::read::<u32>(c)?);
    if !c.displaced.processor.mxcsr_mask.contains(value) {
        return Err(Exception::GeneralProtection(0));
    }
    c.registers.extended.mxcsr = value;
    Ok(Outcome::Next)
}

fn stmxcsr(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = c.registers.extended.mxcsr.bits();
    Mem::write(c, value)?;
    Ok(Outcome::Next)
}
