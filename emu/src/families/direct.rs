//! Direct stores: MOVDIRI and MOVDIR64B (SDM volume 1, section 5.1.17).

use crate::context::Context;
use crate::exception::Exception;
use crate::memory::Access;
use crate::outcome::Outcome;
use crate::processor::Facts;
use crate::registers::Rflags;
use crate::shape::row;
use crate::table::{Flags, Row};
use crate::width::Width;

pub(super) static ROWS: &[Row] =
    &[row!(Movdiri, Convert, Flags::empty(), movdiri), row!(Movdir64b, Wide, Flags::empty(), movdir64b)];

#[inline(always)]
fn movdiri<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    (src, flags)
}

/// The first operand is the destination's address, in ES and as wide as addresses are; it must be a
/// multiple of 64.
fn movdir64b<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let address = c.read::<W>(0)?.zero_extend();
    let misaligned = !address.is_multiple_of(64);
    let reads_first = c.displaced.processor.is(Facts::MOVDIR64B_READS_FIRST);
    if misaligned && !reads_first {
        return Err(Exception::GeneralProtection(0));
    }
    let source = c.linear();
    c.check(source, 64, 1, c.displaced.address.stack)?;
    let mut bytes = [0; 64];
    if !reads_first {
        c.check(address, 64, 1, false)?;
    }
    c.memory.read(source, &mut bytes, Access::Read)?;
    if misaligned {
        return Err(Exception::GeneralProtection(0));
    }
    c.check(address, 64, 1, false)?;
    c.memory.write(address, &bytes)?;
    Ok(Outcome::Next)
}
