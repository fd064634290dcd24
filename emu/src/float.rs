//! SSE floating point: what an operation raises, which of it is a fault, and what MXCSR is then (SDM
//! volume 1, sections 11.5 and E.4).
//!
//! The host computes with everything masked, which gives the results and flags of the masked responses.
//! Where the target has unmasked exceptions three things differ:
//! - an unmasked exception found before computing (IE, DE, ZE) in any element hides those found after
//!   (OE, UE, PE) in all;
//! - an unmasked underflow is signalled for every tiny result, exact or not, and FTZ does not count;
//! - PE, of an element that raises an unmasked overflow or underflow, says whether the result would have
//!   been rounded had the exponent no limits.

use crate::exception::Exception;
use crate::host::sse::HostOp;
use crate::registers::Mxcsr;
use crate::vector::{Bits, Lane};

/// A binary floating-point format (SDM volume 1, section 4.2.2).
pub(crate) trait Format {
    /// The bits as a lane.
    type Lane: Lane;
    /// Of an element.
    const BITS: u32;
    /// Of the fraction; the significand has one more.
    const FRACTION_BITS: u32;
    /// 1.0.
    const ONE: u64;

    /// A mask of the first element of 128 bits.
    const MASK: u128 = (1 << Self::BITS) - 1;

    /// Element `index` of 128 bits.
    #[inline(always)]
    fn element(value: u128, index: usize) -> u64 {
        (value >> ((index as u32 * Self::BITS) & 127) & Self::MASK) as u64
    }

    /// Nonzero, and below the normal range.
    #[inline(always)]
    fn is_denormal(element: u64) -> bool {
        let magnitude = element & (Self::MASK as u64 >> 1);
        magnitude != 0 && magnitude >> Self::FRACTION_BITS == 0
    }

    /// The significand as an integer and the exponent of its lowest bit, of a finite number.
    fn decompose(element: u64) -> (u64, i32) {
        let fraction = element & ((1 << Self::FRACTION_BITS) - 1);
        let exponent = ((element & (Self::MASK as u64 >> 1)) >> Self::FRACTION_BITS) as i32;
        if exponent == 0 { (fraction, 1) } else { (fraction | 1 << Self::FRACTION_BITS, exponent) }
    }
}

/// Binary32.
pub(crate) struct Single;
/// Binary64.
pub(crate) struct Double;

impl Format for Single {
    type Lane = u32;
    const BITS: u32 = 32;
    const FRACTION_BITS: u32 = 23;
    const ONE: u64 = 0x3f80_0000;
}

impl Format for Double {
    type Lane = u64;
    const BITS: u32 = 64;
    const FRACTION_BITS: u32 = 52;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
}

/// How the result of an operation on finite numbers can leave the range of its format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Range {
    /// It cannot.
    Within,
    /// As a sum or difference of the operands.
    Sum,
    /// As their product.
    Product,
    /// As their quotient.
    Quotient,
    /// As the second operand in a narrower format.
    Narrowing,
}

impl Range {
    /// Whether a result that was rounded, or was too large or too small, would have needed no rounding had
    /// the exponent no limits.
    fn is_exact<O: HostOp>(self, dst: u64, src: u64) -> bool {
        let (left, left_exponent) = O::Source::decompose(dst);
        let (right, right_exponent) = O::Source::decompose(src);
        let precision = O::Target::FRACTION_BITS + 1;
        match self {
            Range::Within => true,
            Range::Narrowing => fits(u128::from(right), precision),
            _ if left == 0 || right == 0 => true,
            Range::Product => fits(u128::from(left) * u128::from(right), precision),
            Range::Quotient => left % (right >> right.trailing_zeros()) == 0,
            Range::Sum => {
                let distance = left_exponent.abs_diff(right_exponent);
                if distance > precision + 1 {
                    return false;
                }
                let (high, low) = if left_exponent > right_exponent { (left, right) } else { (right, left) };
                let (high, low) = (u128::from(high) << distance, u128::from(low));
                // Operands of opposite signs do not overflow, and no tiny sum is rounded.
                fits(high + low, precision)
            }
        }
    }
}

/// Whether an integer has no more than `precision` significant bits.
fn fits(value: u128, precision: u32) -> bool {
    value == 0 || u128::BITS - value.leading_zeros() - value.trailing_zeros() <= precision
}

/// Found before computing.
const BEFORE: Mxcsr = Mxcsr::IE.union(Mxcsr::DE).union(Mxcsr::ZE);

/// The exceptions that are not masked, as flags.
#[inline(always)]
fn unmasked(mxcsr: Mxcsr) -> Mxcsr {
    Mxcsr::from_bits_retain(!mxcsr.bits() >> 7) & Mxcsr::EXCEPTIONS
}

/// Computes all blocks of 128 bits as one instruction.
///
/// # Errors
/// #XM, for an unmasked exception: then only the flags of MXCSR have changed.
#[inline(always)]
pub(crate) fn compute<O: HostOp, B: Bits>(dst: B, src: B, mxcsr: &mut Mxcsr) -> Result<B, Exception> {
    if !mxcsr.contains(Mxcsr::MASKS) {
        return compute_unmasked::<O, B>(dst, src, mxcsr);
    }
    let (result, raised) = by_blocks(dst, src, |dst, src| O::compute(dst, src, *mxcsr));
    *mxcsr |= raised;
    Ok(result)
}

/// Applies an operation to each block of 128 bits, and gathers the flags.
#[inline(always)]
pub(crate) fn by_blocks<B: Bits>(
    mut dst: B,
    src: B,
    operation: impl Fn(u128, u128) -> (u128, Mxcsr),
) -> (B, Mxcsr) {
    let mut raised = Mxcsr::empty();
    let blocks = dst.quadwords_mut().as_chunks_mut::<2>().0;
    for (dst, src) in blocks.iter_mut().zip(src.quadwords().as_chunks::<2>().0) {
        let (result, flags) = operation(bytemuck::cast(*dst), bytemuck::cast(*src));
        *dst = bytemuck::cast(result);
        raised |= flags;
    }
    (dst, raised)
}

/// Adds the flags to MXCSR.
///
/// # Errors
/// #XM if one of them is not masked. They are in MXCSR nevertheless, but for those found after computing
/// where one found before is not masked.
#[inline(always)]
pub(crate) fn raise(flags: Mxcsr, mxcsr: &mut Mxcsr) -> Result<(), Exception> {
    let unmasked = unmasked(*mxcsr);
    let flags = if flags.intersects(BEFORE & unmasked) { flags & BEFORE } else { flags };
    *mxcsr |= flags;
    if flags.intersects(unmasked) { Err(Exception::SimdFloatingPoint) } else { Ok(()) }
}

#[cold]
#[inline(never)]
fn compute_unmasked<O: HostOp, B: Bits>(dst: B, src: B, mxcsr: &mut Mxcsr) -> Result<B, Exception> {
    let unmasked = unmasked(*mxcsr);
    let mut control = *mxcsr;
    if unmasked.contains(Mxcsr::UE) {
        control.remove(Mxcsr::FTZ);
    }
    let (result, raised) = by_blocks(dst, src, |dst, src| {
        let (result, flags) = O::compute(dst, src, control);
        if O::RANGE == Range::Within || !unmasked.intersects(Mxcsr::OE | Mxcsr::UE) {
            return (result, flags);
        }
        let elements = (0..O::ELEMENTS).map(|index| element_flags::<O>(index, dst, src, control, unmasked));
        (result, elements.fold(Mxcsr::empty(), Mxcsr::union))
    });
    raise(raised, mxcsr)?;
    Ok(result)
}

/// The flags that element `index` raises where OE or UE is not masked.
fn element_flags<O: HostOp>(index: usize, dst: u128, src: u128, control: Mxcsr, unmasked: Mxcsr) -> Mxcsr {
    // Nothing is raised by ones in all the others.
    let (dst, src) = (only::<O::Source>(dst, index), only::<O::Source>(src, index));
    let (result, mut flags) = O::compute(dst, src, control);
    let target = O::Target::element(result, index);
    if O::Target::is_denormal(target) {
        flags |= Mxcsr::UE & unmasked;
    }
    if flags.intersects((Mxcsr::OE | Mxcsr::UE) & unmasked) {
        let operand = |value| {
            let element = O::Source::element(value, index);
            let zero = control.contains(Mxcsr::DAZ) && O::Source::is_denormal(element);
            if zero { 0 } else { element }
        };
        if O::RANGE.is_exact::<O>(operand(dst), operand(src)) {
            flags.remove(Mxcsr::PE);
        }
    }
    flags
}

/// The value with all elements but one replaced by 1.0.
fn only<F: Format>(value: u128, index: usize) -> u128 {
    let ones = (0..128 / F::BITS).fold(0, |ones, element| ones | u128::from(F::ONE) << (element * F::BITS));
    let mask = F::MASK << ((index as u32 * F::BITS) & 127);
    value & mask | ones & !mask
}
