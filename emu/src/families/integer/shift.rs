//! Shifts and rotates (SDM volume 1, section 7.3.6).
//!
//! Counts are masked already: to 6 bits for 64-bit operands, to 5 for all others.

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::families::integer::arith::{flag, result_flags};
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Imm, Mem, Reg, Source};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::{masked_count, row};

pub(super) static ROWS: &[Row] = &[
    row!([Shl, Sal], Shift, Flags::empty(), shl),
    row!(Shr, Shift, Flags::empty(), shr),
    row!(Sar, Shift, Flags::empty(), sar),
    row!(Rol, Shift, Flags::empty(), rol),
    row!(Ror, Shift, Flags::empty(), ror),
    row!(Rcl, Shift, Flags::empty(), rcl),
    row!(Rcr, Shift, Flags::empty(), rcr),
    row!(Shld, double_shift::<Left>, Flags::empty()),
    row!(Shrd, double_shift::<Right>, Flags::empty()),
];

/// All status flags after a shift by at least one. AF is undefined; it is left as the processor clears it.
#[inline(always)]
fn shifted<W: Width>(result: W, carry: bool, overflow: bool, flags: Rflags) -> (W, Rflags) {
    let status = result_flags(result) | flag(Rflags::CF, carry) | flag(Rflags::OF, overflow);
    (result, flags.difference(Rflags::STATUS) | status)
}

/// CF and OF after a rotate by at least one; the other flags stay.
#[inline(always)]
fn rotated<W: Width>(result: W, carry: bool, overflow: bool, flags: Rflags) -> (W, Rflags) {
    let kept = flags.difference(Rflags::CF | Rflags::OF);
    (result, kept | flag(Rflags::CF, carry) | flag(Rflags::OF, overflow))
}

#[inline(always)]
fn shl<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let result = dst.shift_left(count);
    let carry = count <= W::BITS && dst.bit(W::BITS - count);
    shifted(result, carry, result.sign() ^ carry, flags)
}

#[inline(always)]
fn shr<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let result = dst.shift_right(count);
    shifted(result, dst.bit(count - 1), result.sign() ^ result.bit(W::BITS - 2), flags)
}

#[inline(always)]
fn sar<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let wide = dst.signed();
    let carry = wide >> (count - 1) & 1 != 0;
    shifted(W::truncate((wide >> count.min(63)) as u64), carry, false, flags)
}

#[inline(always)]
fn rol<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let turn = count % W::BITS;
    let result = dst.shift_left(turn) | dst.shift_right(W::BITS - turn);
    let carry = result.bit(0);
    rotated(result, carry, result.sign() ^ carry, flags)
}

#[inline(always)]
fn ror<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let turn = count % W::BITS;
    let result = dst.shift_right(turn) | dst.shift_left(W::BITS - turn);
    rotated(result, result.sign(), result.sign() ^ result.bit(W::BITS - 2), flags)
}

/// Rotates CF and the operand as one number of one bit more.
#[inline(always)]
fn rcl<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    let turn = count % (W::BITS + 1);
    if turn == 0 {
        return (dst, flags);
    }
    let carry_in = W::truncate(flags.bits() & 1);
    let result = dst.shift_left(turn) | carry_in.shift_left(turn - 1) | dst.shift_right(W::BITS + 1 - turn);
    let carry = dst.bit(W::BITS - turn);
    rotated(result, carry, result.sign() ^ carry, flags)
}

#[inline(always)]
fn rcr<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
    let turn = count % (W::BITS + 1);
    if turn == 0 {
        return (dst, flags);
    }
    let carry_in = W::truncate(flags.bits() & 1);
    let result =
        dst.shift_right(turn) | carry_in.shift_left(W::BITS - turn) | dst.shift_left(W::BITS + 1 - turn);
    rotated(result, dst.bit(turn - 1), result.sign() ^ result.bit(W::BITS - 2), flags)
}

/// SHLD or SHRD.
trait DoubleShift {
    /// The source is SRC, and what follows it where a 16-bit operand is shifted by more than its width.
    fn apply<W: Width>(dst: W, source: [W; 2], count: u32, flags: Rflags) -> (W, Rflags);
}
struct Left;
struct Right;

impl DoubleShift for Left {
    #[inline(always)]
    fn apply<W: Width>(dst: W, source: [W; 2], count: u32, flags: Rflags) -> (W, Rflags) {
        shld(dst, source, count, flags)
    }
}

impl DoubleShift for Right {
    #[inline(always)]
    fn apply<W: Width>(dst: W, source: [W; 2], count: u32, flags: Rflags) -> (W, Rflags) {
        shrd(dst, source, count, flags)
    }
}

#[inline(always)]
fn shld<W: Width>(dst: W, [src, beyond]: [W; 2], count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let (result, carry) = if count <= W::BITS {
        (dst.shift_left(count) | src.shift_right(W::BITS - count), dst.bit(W::BITS - count))
    } else {
        let over = count - W::BITS;
        (src.shift_left(over) | beyond.shift_right(W::BITS - over), src.bit(W::BITS - over))
    };
    shifted(result, carry, result.sign() ^ dst.sign(), flags)
}

#[inline(always)]
fn shrd<W: Width>(dst: W, [src, beyond]: [W; 2], count: u32, flags: Rflags) -> (W, Rflags) {
    if count == 0 {
        return (dst, flags);
    }
    let (result, carry) = if count <= W::BITS {
        (dst.shift_right(count) | src.shift_left(W::BITS - count), dst.bit(count - 1))
    } else {
        let over = count - W::BITS;
        (src.shift_right(over) | beyond.shift_left(W::BITS - over), src.bit(over - 1))
    };
    shifted(result, carry, result.sign() ^ dst.sign(), flags)
}

fn double_shift<O: DoubleShift>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: DoubleShift, D: Destination, S: Source>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        let count = masked_count::<W>(S::read::<u8>(c)?);
        let src = Reg::<1>::read::<W>(c)?;
        let dst = D::read_to_write::<W>(c)?;
        let repeats = c.decoded.processor.is(Facts::DOUBLE_SHIFT_REPEATS_SOURCE);
        let beyond = if repeats { src } else { dst };
        let (result, flags) = O::apply(dst, [src, beyond], count, c.registers.rflags);
        D::write(c, result)?;
        c.registers.rflags = flags;
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(2)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), run, <O, Reg<0>, Reg<2>>),
        (Shape::Register, Shape::Immediate) => by_width!(form.size(0), run, <O, Reg<0>, Imm>),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), run, <O, Mem, Reg<2>>),
        (Shape::Memory, Shape::Immediate) => by_width!(form.size(0), run, <O, Mem, Imm>),
        _ => None,
    }
}
