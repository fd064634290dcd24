//! Direct stores: MOVDIRI and MOVDIR64B (SDM volume 1, section 5.1.17).

use crate::decode::flags::Flags;
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

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
    let reads_first = c.decoded.processor.is(Facts::MOVDIR64B_READS_FIRST);
    if misaligned && !reads_first {
        return Err(Exception::GeneralProtection(0));
    }
    let source = c.linear();
    c.check(source, 64, c.decoded.processor.ac_wants(64), c.decoded.address.stack)?;
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
