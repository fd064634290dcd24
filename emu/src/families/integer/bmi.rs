//! BMI1, BMI2, ADX (SDM volume 1, section 5.1.16) and AMD's TBM (APM volume 3, chapter 3).

use crate::decode::flags::Flags;
use crate::families::integer::arith::{flag, result_flags};
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::model::width::Width;
use crate::run::context::Context;
use crate::run::place::{Destination, Reg, Source};
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Andn, Binary, Flags::UNDEFINED_PARITY, andn),
    row!(Bextr, Binary, Flags::UNDEFINED_PARITY, bextr),
    row!(Blsi, Convert, Flags::UNDEFINED_PARITY, blsi),
    row!(Blsmsk, Convert, Flags::UNDEFINED_PARITY, blsmsk),
    row!(Blsr, Convert, Flags::UNDEFINED_PARITY, blsr),
    row!(Bzhi, Binary, Flags::UNDEFINED_PARITY, bzhi),
    row!(Pdep, Binary, Flags::empty(), pdep),
    row!(Pext, Binary, Flags::empty(), pext),
    row!(Rorx, Binary, Flags::empty(), rorx),
    row!(Sarx, Binary, Flags::empty(), sarx),
    row!(Shlx, Binary, Flags::empty(), shlx),
    row!(Shrx, Binary, Flags::empty(), shrx),
    row!(Mulx, Source<2>, Flags::empty(), mulx),
    row!(Adcx, Rmw, Flags::empty(), adcx),
    row!(Adox, Rmw, Flags::empty(), adox),
    row!(Blcfill, Convert, Flags::empty(), blcfill),
    row!(Blci, Convert, Flags::empty(), blci),
    row!(Blcic, Convert, Flags::empty(), blcic),
    row!(Blcmsk, Convert, Flags::empty(), blcmsk),
    row!(Blcs, Convert, Flags::empty(), blcs),
    row!(Blsfill, Convert, Flags::empty(), blsfill),
    row!(Blsic, Convert, Flags::empty(), blsic),
    row!(T1mskc, Convert, Flags::empty(), t1mskc),
    row!(Tzmsk, Convert, Flags::empty(), tzmsk),
];

/// SF and ZF of a result, and CF; OF is clear. AF and PF are undefined: AF is clear, and PF the result's where
/// [`Flags::UNDEFINED_PARITY`] does not clear it.
#[inline(always)]
fn with_carry<W: Width>(result: W, carry: bool, flags: Rflags) -> (W, Rflags) {
    let status = result_flags(result) | flag(Rflags::CF, carry);
    (result, flags.difference(Rflags::STATUS) | status)
}

#[inline(always)]
fn one<W: Width>() -> W {
    W::truncate(1)
}

/// The low `count` bits.
#[inline(always)]
fn low<W: Width>(count: u32) -> W {
    !(!W::default()).shift_left(count)
}

#[inline(always)]
fn andn<W: Width>(left: W, right: W, flags: Rflags) -> (W, Rflags) {
    with_carry(!left & right, false, flags)
}

/// `control` is the first bit, and above it how many of them. AF, SF and PF are undefined: AF is set, SF
/// clear, and PF the result's.
#[inline(always)]
fn bextr<W: Width>(src: W, control: W, flags: Rflags) -> (W, Rflags) {
    let [start, length] = (control.zero_extend() as u16).to_le_bytes().map(u32::from);
    let (result, flags) = with_carry(src.shift_right(start) & low(length), false, flags);
    (result, flags.difference(Rflags::SF) | Rflags::AF)
}

#[inline(always)]
fn blsi<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let zero = W::default();
    with_carry(zero.wrapping_sub(src) & src, src != zero, flags)
}

#[inline(always)]
fn blsmsk<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    with_carry(src.wrapping_sub(one()) ^ src, src == W::default(), flags)
}

#[inline(always)]
fn blsr<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    with_carry(src.wrapping_sub(one()) & src, src == W::default(), flags)
}

#[inline(always)]
fn bzhi<W: Width>(src: W, index: W, flags: Rflags) -> (W, Rflags) {
    let index = index.zero_extend() as u8;
    with_carry(src & low(u32::from(index)), u32::from(index) >= W::BITS, flags)
}

/// Spreads the low bits of `src` over the set bits of `mask`.
#[inline(always)]
fn pdep<W: Width>(src: W, mask: W, flags: Rflags) -> (W, Rflags) {
    let (src, mut mask, mut result) = (src.zero_extend(), mask.zero_extend(), 0);
    let mut from = 0;
    while mask != 0 {
        result |= (src >> from & 1) << mask.trailing_zeros();
        mask &= mask - 1;
        from += 1;
    }
    (W::truncate(result), flags)
}

/// Gathers the bits of `src` at the set bits of `mask`.
#[inline(always)]
fn pext<W: Width>(src: W, mask: W, flags: Rflags) -> (W, Rflags) {
    let (src, mut mask, mut result) = (src.zero_extend(), mask.zero_extend(), 0);
    let mut to = 0;
    while mask != 0 {
        result |= (src >> mask.trailing_zeros() & 1) << to;
        mask &= mask - 1;
        to += 1;
    }
    (W::truncate(result), flags)
}

/// A count masked to the width.
#[inline(always)]
fn count<W: Width>(count: W) -> u32 {
    count.zero_extend() as u32 & (W::BITS - 1)
}

#[inline(always)]
fn rorx<W: Width>(src: W, by: W, flags: Rflags) -> (W, Rflags) {
    let by = count(by);
    (src.shift_right(by) | src.shift_left(W::BITS - by), flags)
}

#[inline(always)]
fn sarx<W: Width>(src: W, by: W, flags: Rflags) -> (W, Rflags) {
    (W::truncate((src.signed() >> count(by)) as u64), flags)
}

#[inline(always)]
fn shlx<W: Width>(src: W, by: W, flags: Rflags) -> (W, Rflags) {
    (src.shift_left(count(by)), flags)
}

#[inline(always)]
fn shrx<W: Width>(src: W, by: W, flags: Rflags) -> (W, Rflags) {
    (src.shift_right(count(by)), flags)
}

/// The high half is written last: it wins where both destinations are the same register.
fn mulx<W: Width, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = S::read::<W>(c)?.zero_extend();
    let product = u128::from(c.general::<W>(gpr::RDX).zero_extend()) * u128::from(src);
    Reg::<1>::write(c, W::truncate_wide(product))?;
    Reg::<0>::write(c, W::truncate_wide(product >> W::BITS))?;
    Ok(Outcome::Next)
}

/// The sum with a carry of one's own, and whether it carries.
#[inline(always)]
fn add_carry<W: Width>(dst: W, src: W, carry: bool) -> (W, bool) {
    let sum = u128::from(dst.zero_extend()) + u128::from(src.zero_extend()) + u128::from(carry);
    (W::truncate_wide(sum), sum >> W::BITS != 0)
}

#[inline(always)]
fn adcx<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    let (sum, carry) = add_carry(dst, src, flags.contains(Rflags::CF));
    (sum, flags.difference(Rflags::CF) | flag(Rflags::CF, carry))
}

#[inline(always)]
fn adox<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
    let (sum, carry) = add_carry(dst, src, flags.contains(Rflags::OF));
    (sum, flags.difference(Rflags::OF) | flag(Rflags::OF, carry))
}

/// The source plus one, and whether that carries.
#[inline(always)]
fn above<W: Width>(src: W) -> (W, bool) {
    add_carry(src, one(), false)
}

/// The source minus one, and whether that borrows.
#[inline(always)]
fn below<W: Width>(src: W) -> (W, bool) {
    (src.wrapping_sub(one()), src == W::default())
}

#[inline(always)]
fn blcfill<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (above, carry) = above(src);
    with_carry(src & above, carry, flags)
}

#[inline(always)]
fn blci<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (above, carry) = above(src);
    with_carry(src | !above, carry, flags)
}

#[inline(always)]
fn blcic<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (above, carry) = above(src);
    with_carry(!src & above, carry, flags)
}

#[inline(always)]
fn blcmsk<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (above, carry) = above(src);
    with_carry(src ^ above, carry, flags)
}

#[inline(always)]
fn blcs<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (above, carry) = above(src);
    with_carry(src | above, carry, flags)
}

#[inline(always)]
fn blsfill<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (below, borrow) = below(src);
    with_carry(src | below, borrow, flags)
}

#[inline(always)]
fn blsic<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (below, borrow) = below(src);
    with_carry(!src | below, borrow, flags)
}

#[inline(always)]
fn t1mskc<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (above, carry) = above(src);
    with_carry(!src | above, carry, flags)
}

#[inline(always)]
fn tzmsk<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let (below, borrow) = below(src);
    with_carry(!src & below, borrow, flags)
}
