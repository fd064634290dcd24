//! Rounding to an integer (SDM volume 1, section 12.8.4), and what that leaves: XOP's VFRCZPS (APM volume 4).

use core::marker::PhantomData;

use crate::model::exception::Exception;
use crate::model::format::{Double, Format, Single};
use crate::model::lane::Bits;
use crate::model::registers::Mxcsr;
use crate::run::row::Row;
use crate::shape::element::element_row;
use crate::shape::float::{FloatOp, float_row};
use crate::vector::float::{by_blocks, raise};
use crate::vector::soft::{self, Control};

pub(super) static ROWS: &[Row] = &[
    float_row!([Roundps, Vroundps], each 4 -> 4, Round<Single, 4>),
    float_row!([Roundpd, Vroundpd], each 8 -> 8, Round<Double, 2>),
    float_row!([Roundss, Vroundss], scalar 4 -> 4, UNARY, Round<Single, 1>),
    float_row!([Roundsd, Vroundsd], scalar 8 -> 8, UNARY, Round<Double, 1>),
    element_row!(Vfrczps, packed One, 4 -> 4, |[a, ..], _, control| fraction::<Single>(a, control)),
    element_row!(Vfrczpd, packed One, 8 -> 8, |[a, ..], _, control| fraction::<Double>(a, control)),
    element_row!(Vfrczss, lowest One, 4 -> 4, |[a, ..], _, control| fraction::<Single>(a, control)),
    element_row!(Vfrczsd, lowest One, 8 -> 8, |[a, ..], _, control| fraction::<Double>(a, control)),
];

/// A number less its integer part, which is exact; of an infinity it is invalid.
fn fraction<F: Format>(number: u64, control: &mut Control) -> u64 {
    const TOWARD_ZERO: u8 = 3;
    let integer = soft::round_scaled::<F>(number, 0, TOWARD_ZERO, &mut control.masked());
    soft::add::<F>(number, integer, true, control)
}

/// ROUNDPS and its like, of the first `ELEMENTS` of each block.
struct Round<F, const ELEMENTS: usize>(PhantomData<F>);

/// The immediate: bit 3 keeps PE as it is, bit 2 takes the rounding of MXCSR instead of that in bits 0 and 1.
const KEEP_PE: u8 = 1 << 3;
const MXCSR_RC: u8 = 1 << 2;

impl<F: Format, const ELEMENTS: usize> FloatOp for Round<F, ELEMENTS> {
    type Lane = F::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        let rounding = if immediate & MXCSR_RC != 0 { rounding_control(*mxcsr) } else { immediate & 3 };
        let daz = mxcsr.contains(Mxcsr::DAZ);
        let (rounded, mut raised) = by_blocks(first, second, |mut dst, src| {
            let mut raised = Mxcsr::empty();
            for index in 0..ELEMENTS {
                let (rounded, flags) = round::<F>(F::element(src, index), rounding, daz);
                let shift = (index as u32 * F::BITS) & 127;
                dst = dst & !(F::MASK << shift) | u128::from(rounded) << shift;
                raised |= flags;
            }
            (dst, raised)
        });
        if immediate & KEEP_PE != 0 {
            raised.remove(Mxcsr::PE);
        }
        *result = rounded;
        raise(raised, mxcsr)
    }
}

/// MXCSR.RC: to nearest even, down, up, toward zero.
#[inline(always)]
fn rounding_control(mxcsr: Mxcsr) -> u8 {
    ((mxcsr & Mxcsr::RC).bits() >> 13) as u8
}

/// The integer near `value`, and the flags of finding it. Denormal operands raise none of their own.
#[inline(always)]
fn round<F: Format>(value: u64, rounding: u8, daz: bool) -> (u64, Mxcsr) {
    let sign_bit = 1 << (F::BITS - 1);
    let (sign, magnitude) = (value & sign_bit, value & (sign_bit - 1));
    let exponent = magnitude >> F::FRACTION_BITS;
    let bias = F::ONE >> F::FRACTION_BITS;
    if exponent >= bias + u64::from(F::FRACTION_BITS) {
        return integral::<F>(value, magnitude);
    }
    if magnitude == 0 || daz && exponent == 0 {
        return (sign, Mxcsr::empty());
    }
    if exponent < bias {
        // Between 0 and 1; magnitudes are in the order of their patterns. In quarters, any rest below, at
        // and above one half.
        let half = F::ONE - (1 << F::FRACTION_BITS);
        let rest = 1 + u64::from(magnitude >= half) + u64::from(magnitude > half);
        let up = rounds_up(rounding, sign != 0, false, rest, 2);
        return (sign | if up { F::ONE } else { 0 }, Mxcsr::PE);
    }
    // The lowest bit of the integer part, in units of the lowest bit of the fraction.
    let unit = 1 << (u64::from(F::FRACTION_BITS) + bias - exponent);
    let (part, rest) = (magnitude & !(unit - 1), magnitude & (unit - 1));
    if rest == 0 {
        return (value, Mxcsr::empty());
    }
    // A carry goes on into the exponent, as it should. Of 1, the unit is the exponent's lowest bit, set too.
    let up = rounds_up(rounding, sign != 0, magnitude & unit != 0, rest, unit / 2);
    (sign | (part + if up { unit } else { 0 }), Mxcsr::PE)
}

/// Numbers without a fraction, infinities, and NaNs, which become quiet.
#[inline(always)]
fn integral<F: Format>(value: u64, magnitude: u64) -> (u64, Mxcsr) {
    let quiet = 1 << (F::FRACTION_BITS - 1);
    let infinity = (F::MASK as u64 >> 1) & !((1 << F::FRACTION_BITS) - 1);
    let signaling = magnitude > infinity && value & quiet == 0;
    if signaling { (value | quiet, Mxcsr::IE) } else { (value, Mxcsr::empty()) }
}

/// Whether a magnitude with `rest` above an integer, which is odd or even, goes to the next integer.
#[inline(always)]
fn rounds_up(rounding: u8, negative: bool, odd: bool, rest: u64, half: u64) -> bool {
    match rounding {
        0 => rest > half || rest == half && odd,
        1 => negative,
        2 => !negative,
        _ => false,
    }
}
