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

use core::marker::PhantomData;

use crate::host::sse::{self, HostOp, Kind, Sought};
use crate::model::exception::Exception;
use crate::model::format::Format;
use crate::model::lane::{Bits, Xmm, by_blocks_of};
use crate::model::registers::Mxcsr;

impl Kind {
    /// Whether the first operand counts as well as the second.
    fn is_binary(self) -> bool {
        matches!(self, Kind::Sum | Kind::Product | Kind::Quotient | Kind::Choice)
    }

    /// Whether the result of finite numbers can leave the range of its format.
    fn leaves_range(self) -> bool {
        matches!(self, Kind::Sum | Kind::Product | Kind::Quotient | Kind::Narrowing)
    }

    /// Whether a result of zero is never one that was too small.
    fn zero_is_exact(self, mxcsr: Mxcsr) -> bool {
        match self {
            // A tiny sum is exact, if it is not flushed.
            Kind::Sum => !mxcsr.contains(Mxcsr::FTZ),
            Kind::Widening | Kind::FromInteger => true,
            _ => false,
        }
    }

    /// Whether a result that was rounded, or was too large or too small, would have needed no rounding had
    /// the exponent no limits.
    fn is_exact<O: HostOp>(self, first: u64, second: u64) -> bool {
        let (left, left_exponent) = O::Source::decompose(first);
        let (right, right_exponent) = O::Source::decompose(second);
        let precision = O::Target::FRACTION_BITS + 1;
        match self {
            Kind::Narrowing => fits(u128::from(right), precision),
            _ if left == 0 || right == 0 => true,
            Kind::Product => fits(u128::from(left) * u128::from(right), precision),
            Kind::Quotient => left % (right >> right.trailing_zeros()) == 0,
            Kind::Sum => {
                let distance = left_exponent.abs_diff(right_exponent);
                if distance > precision + 1 {
                    return false;
                }
                let (high, low) = if left_exponent > right_exponent { (left, right) } else { (right, left) };
                let (high, low) = (u128::from(high) << distance, u128::from(low));
                // Operands of opposite signs do not overflow, and no tiny sum is rounded.
                fits(high + low, precision)
            }
            _ => true,
        }
    }
}

/// Whether an integer has no more than `precision` significant bits.
fn fits(value: u128, precision: u32) -> bool {
    value == 0 || u128::BITS - value.leading_zeros() - value.trailing_zeros() <= precision
}

/// Found before computing.
const BEFORE: Mxcsr = Mxcsr::IE.union(Mxcsr::DE).union(Mxcsr::ZE);

/// MXCSR.RC that rounds down.
const DOWN: Mxcsr = Mxcsr::from_bits_retain(1 << 13);
/// MXCSR.RC that rounds up.
const UP: Mxcsr = Mxcsr::from_bits_retain(2 << 13);

/// The exceptions that are not masked, as flags.
#[inline(always)]
fn unmasked(mxcsr: Mxcsr) -> Mxcsr {
    Mxcsr::from_bits_retain(!mxcsr.bits() >> 7) & Mxcsr::EXCEPTIONS
}

/// Computes all blocks of 128 bits as one instruction.
///
/// # Errors
/// #XM, for an unmasked exception: then only the flags of MXCSR have changed, and `result` is of no use.
#[inline(always)]
pub(crate) fn compute<O: HostOp, B: Bits>(
    first: &B,
    second: &B,
    mxcsr: &mut Mxcsr,
    result: &mut B,
) -> Result<(), Exception> {
    if mxcsr.contains(Mxcsr::MASKS)
        && let Some(raised) = unwatched::<O, B>(first, second, *mxcsr, result)
    {
        *mxcsr |= raised;
        return Ok(());
    }
    compute_watched::<O, B>(first, second, mxcsr, result)
}

/// Blocks of 128 bits.
#[inline(always)]
pub(crate) fn blocks<B: Bits>(bits: &B) -> &[Xmm] {
    bits.quadwords().as_chunks().0
}

/// The word of MXCSR that the instruction computes under.
#[inline(always)]
fn control<O: HostOp>(mxcsr: Mxcsr) -> Mxcsr {
    if O::KIND == Kind::Truncation { mxcsr | Mxcsr::RC } else { mxcsr }
}

/// An operation of which the operands and the results tell what it raises.
pub(crate) trait Foreseeable<B: Bits> {
    /// Whether a result can be inexact.
    const ROUNDS: bool;

    /// Computes under each of the words of MXCSR.
    fn compute<const N: usize>(&self, controls: [Mxcsr; N], results: &mut [B; N]);
    /// Whether an operand raises something, or may.
    fn has_special_operand(&self, mxcsr: Mxcsr) -> bool;
    /// Whether nothing but PE was raised, as far as the result tells; a zero does not, unless it is exact.
    fn is_ordinary(&self, result: &B, zero_is_exact: bool) -> bool;
    /// Whether a result of zero is never one that was too small.
    fn zero_is_exact(&self, mxcsr: Mxcsr) -> bool;
    /// Whether results differ in the lowest bit of an element.
    fn differ(&self, left: &B, right: &B) -> bool;
}

/// Computes without a look at the host's flags, which all stay set: a change of them is slow. `None` where it
/// takes that look to know what is raised, which is where it is something else than PE. `wanted` is the word of MXCSR
/// that counts.
///
/// What raises IE, DE or ZE is seen in the operands or makes a result that is not finite. What raises OE or UE
/// makes a result at the end of the format's range, if FTZ is off. A result is inexact if it is not the same
/// rounded down and rounded up.
#[inline(always)]
pub(crate) fn foresee<B: Bits, O: Foreseeable<B>>(
    operation: &O,
    wanted: Mxcsr,
    result: &mut B,
) -> Option<Mxcsr> {
    if operation.has_special_operand(wanted) {
        return None;
    }
    let control = wanted | Mxcsr::EXCEPTIONS;
    if wanted.contains(Mxcsr::PE) || !O::ROUNDS {
        operation.compute([control], core::array::from_mut(result));
        if operation.is_ordinary(result, operation.zero_is_exact(wanted)) {
            return Some(Mxcsr::empty());
        }
    }
    let directed = control.difference(Mxcsr::RC | Mxcsr::FTZ);
    let mut results = [B::default(); 3];
    // What is wanted comes first, as it is what the next instruction may wait for.
    operation.compute([control, directed | DOWN, directed | UP], &mut results);
    let [wanted, down, up] = &results;
    if !operation.is_ordinary(down, true) || !operation.is_ordinary(up, true) {
        return None;
    }
    *result = *wanted;
    Some(if operation.differ(down, up) { Mxcsr::PE } else { Mxcsr::empty() })
}

#[inline(always)]
fn unwatched<O: HostOp, B: Bits>(first: &B, second: &B, mxcsr: Mxcsr, result: &mut B) -> Option<Mxcsr> {
    let operation = Binary::<O, B> { operation: PhantomData, first, second };
    foresee(&operation, control::<O>(mxcsr), result)
}

/// An operation of two operands.
struct Binary<'a, O, B> {
    operation: PhantomData<O>,
    first: &'a B,
    second: &'a B,
}

impl<O: HostOp, B: Bits> Foreseeable<B> for Binary<'_, O, B> {
    const ROUNDS: bool = !matches!(O::KIND, Kind::Choice | Kind::Approximation | Kind::Widening);

    #[inline(always)]
    fn compute<const N: usize>(&self, controls: [Mxcsr; N], results: &mut [B; N]) {
        O::compute(controls, self.first, self.second, results);
    }

    /// A denormal operand, unless DE is set or DAZ hides it, or a NaN that the result may not show.
    #[inline(always)]
    fn has_special_operand(&self, mxcsr: Mxcsr) -> bool {
        let small = !mxcsr.intersects(Mxcsr::DAZ | Mxcsr::DE);
        let nan = O::KIND == Kind::Choice;
        let sought = Sought { zero: false, small, large: false, nan };
        match O::KIND {
            Kind::FromInteger | Kind::ToInteger | Kind::Truncation | Kind::Approximation => false,
            _ if !small && !nan => false,
            kind => blocks(self.first).iter().zip(blocks(self.second)).any(|(first, second)| {
                if kind.is_binary() {
                    sse::any::<O::Source, 2>(sought, [first, second], O::ELEMENTS)
                } else {
                    sse::any::<O::Source, 1>(sought, [second], O::ELEMENTS)
                }
            }),
        }
    }

    #[inline(always)]
    fn is_ordinary(&self, result: &B, zero_is_exact: bool) -> bool {
        match O::KIND {
            Kind::Choice | Kind::Approximation => true,
            Kind::ToInteger | Kind::Truncation => {
                !blocks(result).iter().any(|block| sse::any_indefinite::<O::Target>(block, O::ELEMENTS))
            }
            _ => is_ordinary::<O::Target, B>(result, zero_is_exact, O::ELEMENTS),
        }
    }

    #[inline(always)]
    fn zero_is_exact(&self, mxcsr: Mxcsr) -> bool {
        O::KIND.zero_is_exact(mxcsr)
    }

    #[inline(always)]
    fn differ(&self, left: &B, right: &B) -> bool {
        differ::<O::Target, B>(left, right, O::ELEMENTS)
    }
}

/// Whether all of the first `count` elements of each block are finite and of a magnitude within the format's range.
#[inline(always)]
pub(crate) fn is_ordinary<F: Format, B: Bits>(result: &B, or_zero: bool, count: usize) -> bool {
    let sought = Sought { zero: !or_zero, small: true, large: true, nan: false };
    !blocks(result).iter().any(|block| sse::any::<F, 1>(sought, [block], count))
}

/// Whether any of the first `count` elements of each block differ in the lowest bit, as neighbours do; zeros, of
/// whichever sign, do not.
#[inline(always)]
pub(crate) fn differ<F: Format, B: Bits>(left: &B, right: &B, count: usize) -> bool {
    let mut pairs = blocks(left).iter().zip(blocks(right));
    pairs.any(|(left, right)| sse::any_neighbours::<F>(left, right, count))
}

/// Applies an operation to each block of 128 bits, and gathers the flags.
#[inline(always)]
pub(crate) fn by_blocks<B: Bits>(
    first: &B,
    second: &B,
    operation: impl Fn(u128, u128) -> (u128, Mxcsr),
) -> (B, Mxcsr) {
    let mut raised = Mxcsr::empty();
    let result = by_blocks_of(first, second, |first: &Xmm, second: &Xmm| {
        let (result, flags) = operation(bytemuck::cast(*first), bytemuck::cast(*second));
        raised |= flags;
        bytemuck::cast(result)
    });
    (result, raised)
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

/// Computes with all flags clear, and reads those that the host sets.
fn watch<O: HostOp, B: Bits>(first: &B, second: &B, mxcsr: Mxcsr, result: &mut B) -> Mxcsr {
    let clear = control::<O>(mxcsr).difference(Mxcsr::EXCEPTIONS);
    O::compute([clear], first, second, core::array::from_mut(result))
}

#[cold]
#[inline(never)]
fn compute_watched<O: HostOp, B: Bits>(
    first: &B,
    second: &B,
    mxcsr: &mut Mxcsr,
    result: &mut B,
) -> Result<(), Exception> {
    let unmasked = unmasked(*mxcsr);
    let mut control = *mxcsr;
    // Approximations raise nothing that could be signalled instead.
    if unmasked.contains(Mxcsr::UE) && O::KIND != Kind::Approximation {
        control.remove(Mxcsr::FTZ);
    }
    let mut raised = watch::<O, B>(first, second, control, result);
    if O::KIND.leaves_range() && unmasked.intersects(Mxcsr::OE | Mxcsr::UE) {
        let pairs = blocks(first).iter().zip(blocks(second));
        let elements = pairs.flat_map(|pair| (0..O::ELEMENTS).map(move |index| (index, pair)));
        raised = elements.fold(Mxcsr::empty(), |raised, (index, (first, second))| {
            raised | element_flags::<O>(index, first, second, control, unmasked)
        });
    }
    raise(raised, mxcsr)
}

/// The flags that element `index` of a block raises where OE or UE is not masked.
fn element_flags<O: HostOp>(
    index: usize,
    first: &Xmm,
    second: &Xmm,
    control: Mxcsr,
    unmasked: Mxcsr,
) -> Mxcsr {
    // Nothing is raised by ones in all the others.
    let (first, second) = (only::<O::Source>(first, index), only::<O::Source>(second, index));
    let mut result = Xmm::default();
    let mut flags = watch::<O, Xmm>(&first, &second, control, &mut result);
    let target = O::Target::element(bytemuck::cast(result), index);
    if O::Target::is_denormal(target) {
        flags |= Mxcsr::UE & unmasked;
    }
    if flags.intersects((Mxcsr::OE | Mxcsr::UE) & unmasked) {
        let operand = |value: Xmm| {
            let element = O::Source::element(bytemuck::cast(value), index);
            let zero = control.contains(Mxcsr::DAZ) && O::Source::is_denormal(element);
            if zero { 0 } else { element }
        };
        if O::KIND.is_exact::<O>(operand(first), operand(second)) {
            flags.remove(Mxcsr::PE);
        }
    }
    flags
}

/// The block with all elements but one replaced by 1.0.
fn only<F: Format>(block: &Xmm, index: usize) -> Xmm {
    let ones = F::LOWEST_BITS * u128::from(F::ONE);
    let mask = F::MASK << ((index as u32 * F::BITS) & 127);
    bytemuck::cast(bytemuck::cast::<Xmm, u128>(*block) & mask | ones & !mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::sse::*;
    use crate::model::format::{Double, Single};

    /// Random numbers, the same in each run (xorshift64*).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
        }

        fn below(&mut self, limit: u64) -> u64 {
            (self.next() >> 32) % limit
        }

        /// An element of format `F`: near 1.0 and often with few bits, or near the ends of the range, or any.
        fn element<F: Format>(&mut self, theme: u64) -> u64 {
            let highest = F::MASK as u64 >> 1 >> F::FRACTION_BITS;
            let exponent = match theme {
                0 => highest / 2 - 2 + self.below(4),
                1 => [0, 0, 1, 1, 2, highest / 2, highest - 2, highest - 1, highest][self.below(9) as usize],
                2 => highest / 2 + self.below(u64::from(F::BITS)),
                3 => highest / 4 + self.below(highest / 2),
                _ => self.below(highest + 1),
            };
            let fraction = match self.below(4) {
                0 => 0,
                1 => self.next() << 60 >> (64 - F::FRACTION_BITS),
                2 => u64::MAX - self.below(2),
                _ => self.next(),
            };
            let sign = self.below(2) << (F::BITS - 1);
            sign | exponent << F::FRACTION_BITS | fraction & ((1 << F::FRACTION_BITS) - 1)
        }

        /// Integers of all lengths, or elements of one theme with a few of another, often all positive.
        fn operand<O: HostOp, B: Bits>(&mut self) -> B {
            let mut operand = B::default();
            let theme = self.below(5);
            let signs = if self.below(2) == 0 { u64::MAX } else { O::Source::MASK as u64 >> 1 };
            for quadword in operand.quadwords_mut() {
                *quadword = (0..64).step_by(O::Source::BITS as usize).fold(0, |quadword, shift| {
                    let theme = if self.below(8) == 0 { self.below(5) } else { theme };
                    let element = if O::KIND == Kind::FromInteger {
                        let integer = (self.next() as i64) >> self.below(64);
                        integer as u64 & O::Source::MASK as u64
                    } else {
                        self.element::<O::Source>(theme) & signs
                    };
                    quadword | element << shift
                });
            }
            operand
        }

        /// Any rounding, DAZ, FTZ and flags, everything masked.
        fn mxcsr(&mut self) -> Mxcsr {
            let drawn = Mxcsr::from_bits_retain(self.next() as u32);
            // Few flags, mostly.
            let flags =
                drawn & Mxcsr::from_bits_retain(self.next() as u32 & self.next() as u32) & Mxcsr::EXCEPTIONS;
            Mxcsr::MASKS | drawn & (Mxcsr::RC | Mxcsr::DAZ | Mxcsr::FTZ) | flags
        }
    }

    /// Holds what is computed without a look at the host's flags against what these say, and returns how often
    /// that was possible, in 1000.
    fn agree<O: HostOp, B: Bits + PartialEq + core::fmt::Debug>(cases: u64) -> u64 {
        let mut random = Random(0x5bd1_e995_0000_0001 ^ cases);
        let mut foreseen = 0;
        for case in 0..cases {
            let (first, second) = (random.operand::<O, B>(), random.operand::<O, B>());
            let mxcsr = random.mxcsr();
            let (mut expected, mut result) = (B::default(), B::default());
            let raised = watch::<O, B>(&first, &second, mxcsr, &mut expected);
            if let Some(found) = unwatched::<O, B>(&first, &second, mxcsr, &mut result) {
                foreseen += 1;
                let name = core::any::type_name::<O>();
                let state = format!("{name}, case {case}: {first:x?} {second:x?} under {mxcsr:?}");
                assert_eq!(result, expected, "{state}");
                assert_eq!(mxcsr | found, mxcsr | raised, "{state}");
            }
        }
        foreseen * 1000 / cases
    }

    macro_rules! agree {
        ($($name:ident),+) => {$(
            let (one, four) = (agree::<$name, Xmm>(40_000), agree::<$name, [u64; 8]>(10_000));
            println!("{}: {one} and {four} of 1000", stringify!($name));
            // Else nothing was compared.
            assert!(one >= 100 && four >= 1, "{}: {one}, {four}", stringify!($name));
        )+};
    }

    #[test]
    fn arithmetic_is_foreseen_as_it_is() {
        agree!(Addps, Addpd, Addss, Addsd, Subps, Subpd, Subss, Subsd, Addsubps, Addsubpd);
        agree!(Mulps, Mulpd, Mulss, Mulsd, Divps, Divpd, Divss, Divsd);
        agree!(Sqrtps, Sqrtpd, Sqrtss, Sqrtsd, Rcpps, Rcpss, Rsqrtps, Rsqrtss);
    }

    #[test]
    fn choices_are_foreseen_as_they_are() {
        agree!(Minps, Minpd, Minss, Minsd, Maxps, Maxpd, Maxss, Maxsd);
        agree!(QuietCmpps, QuietCmppd, QuietCmpss, QuietCmpsd);
        agree!(SignalingCmpps, SignalingCmppd, SignalingCmpss, SignalingCmpsd);
    }

    #[test]
    fn conversions_are_foreseen_as_they_are() {
        agree!(Cvtdq2ps, Cvtdq2pd, Cvtsi2ss32, Cvtsi2ss64, Cvtsi2sd32, Cvtsi2sd64);
        agree!(Cvtps2dq, Cvttps2dq, Cvtpd2dq, Cvttpd2dq, Cvtss2si32, Cvtss2si64, Cvtsd2si32, Cvtsd2si64);
        agree!(Cvttss2si32, Cvttss2si64, Cvttsd2si32, Cvttsd2si64);
        agree!(Cvtps2pd, Cvtpd2ps, Cvtss2sd, Cvtsd2ss);
    }

    /// The thresholds of what is looked for, element by element.
    #[test]
    fn what_is_sought_is_found() {
        fn holds<F: Format>(highest_finite: u64, smallest: u64, large: u64) {
            let none = Sought { zero: false, small: false, large: false, nan: false };
            let infinity = highest_finite + 1;
            let is = |sought: Sought, magnitude: u64| {
                let signs = [0, 1 << (F::BITS - 1)].map(|sign: u64| {
                    let block = u128::from(magnitude | sign) << (128 - F::BITS);
                    any::<F, 1>(sought, [&bytemuck::cast(block)], 128 / F::BITS as usize)
                });
                assert_eq!(signs[0], signs[1], "{magnitude:#x}");
                signs[0]
            };
            for magnitude in [0, 1, smallest - 1, smallest, smallest + 1, F::ONE, large - 1, large, large + 1]
                .into_iter()
                .chain([highest_finite, infinity, infinity + 1, F::MASK as u64 >> 1])
            {
                // The other elements are zeros.
                assert!(is(Sought { zero: true, ..none }, magnitude), "{magnitude:#x}");
                let small = (1..=smallest).contains(&magnitude);
                assert_eq!(is(Sought { small: true, ..none }, magnitude), small, "{magnitude:#x}");
                assert_eq!(
                    is(Sought { large: true, ..none }, magnitude),
                    magnitude > large,
                    "{magnitude:#x}"
                );
                assert_eq!(
                    is(Sought { nan: true, ..none }, magnitude),
                    magnitude > infinity,
                    "{magnitude:#x}"
                );
            }
        }
        holds::<Single>(0x7f7f_ffff, 0x0080_0000, 0x7f00_0000);
        holds::<Double>(0x7fef_ffff_ffff_ffff, 0x0010_0000_0000_0000, 0x7fe0_0000_0000_0000);
    }
}
