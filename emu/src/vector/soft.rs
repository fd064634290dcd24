//! Floating-point arithmetic by the definition (IEEE 754, and SDM volume 1, section 11.5): an exact result, rounded
//! once. It serves every format, where the host's own unit has none or cannot tell what is raised.

use crate::decode::processor::Facts;
use crate::model::format::Format;
use crate::model::registers::Mxcsr;

/// What an operation computes under, and what it has raised.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Control {
    /// MXCSR.RC: to nearest even, down, up, toward zero.
    pub(crate) rounding: u8,
    /// Denormal operands are zeros.
    pub(crate) daz: bool,
    /// Tiny results are zeros.
    pub(crate) ftz: bool,
    /// The same whether underflow is masked or not.
    pub(crate) flushes: bool,
    /// An unmasked underflow in binary16 says PE as in the other formats: as if the exponent had no limits.
    pub(crate) unlimited: bool,
    /// What the processor does that others do not.
    pub(crate) facts: Facts,
    /// The exceptions that are not masked, as flags.
    unmasked: Mxcsr,
    /// What was raised.
    pub(crate) raised: Mxcsr,
}

impl Control {
    /// Of the target's MXCSR.
    pub(crate) fn of(mxcsr: Mxcsr) -> Control {
        let unmasked = Mxcsr::from_bits_retain(!mxcsr.bits() >> 7) & Mxcsr::EXCEPTIONS;
        Control {
            rounding: ((mxcsr & Mxcsr::RC).bits() >> 13) as u8,
            daz: mxcsr.contains(Mxcsr::DAZ),
            // An unmasked underflow is signalled instead.
            ftz: mxcsr.contains(Mxcsr::FTZ) && !unmasked.contains(Mxcsr::UE),
            flushes: mxcsr.contains(Mxcsr::FTZ),
            unlimited: false,
            facts: Facts::empty(),
            unmasked,
            raised: Mxcsr::empty(),
        }
    }

    /// To nearest even, denormals flushed both ways: what BF16 arithmetic uses whatever MXCSR says.
    pub(crate) fn flushing() -> Control {
        Control::of(Mxcsr::MASKS | Mxcsr::DAZ | Mxcsr::FTZ)
    }

    /// The same rounding and DAZ, with nothing raised yet, everything masked, and tiny results kept.
    pub(crate) fn masked(&self) -> Control {
        Control { ftz: false, unmasked: Mxcsr::empty(), raised: Mxcsr::empty(), ..*self }
    }

    /// The default NaN, for an invalid operation.
    pub(crate) fn invalid<F: Format>(&mut self) -> u64 {
        self.raised |= Mxcsr::IE;
        indefinite::<F>()
    }

    fn inexact(&mut self, inexact: bool) {
        if inexact {
            self.raised |= Mxcsr::PE;
        }
    }

    /// Notes a tiny result: where underflow is masked it counts only if it is inexact.
    pub(crate) fn underflow(&mut self, inexact: bool) {
        if inexact || self.unmasked.contains(Mxcsr::UE) {
            self.raised |= Mxcsr::UE;
        }
    }

    /// Notes a denormal operand.
    pub(crate) fn denormal(&mut self, denormal: bool) {
        if denormal {
            self.raised |= Mxcsr::DE;
        }
    }
}

/// What a pattern stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Zero,
    Finite,
    Infinity,
    QuietNan,
    SignalingNan,
}

/// A number as `significand` times two to the `exponent`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Number {
    pub(crate) class: Class,
    pub(crate) negative: bool,
    /// Zero if it is not finite.
    pub(crate) significand: u128,
    pub(crate) exponent: i32,
    /// It is denormal, and no zero in its place.
    pub(crate) denormal: bool,
}

pub(crate) const fn sign_bit<F: Format>() -> u64 {
    1 << (F::BITS - 1)
}

pub(crate) fn infinity<F: Format>() -> u64 {
    (sign_bit::<F>() - 1) & !((1 << F::FRACTION_BITS) - 1)
}

pub(crate) fn indefinite<F: Format>() -> u64 {
    sign_bit::<F>() | infinity::<F>() | quiet_bit::<F>()
}

pub(crate) fn quiet_bit<F: Format>() -> u64 {
    1 << (F::FRACTION_BITS - 1)
}

pub(crate) fn bias<F: Format>() -> i32 {
    (F::ONE >> F::FRACTION_BITS) as i32
}

/// The sign, at its place.
fn signed<F: Format>(negative: bool, magnitude: u64) -> u64 {
    magnitude | if negative { sign_bit::<F>() } else { 0 }
}

/// Takes a pattern apart. Half precision knows no DAZ.
pub(crate) fn unpack<F: Format>(bits: u64, control: &Control) -> Number {
    unpack_with::<F>(bits, control.daz && F::BITS != 16)
}

pub(crate) fn unpack_with<F: Format>(bits: u64, daz: bool) -> Number {
    let magnitude = bits & (sign_bit::<F>() - 1);
    let negative = bits & sign_bit::<F>() != 0;
    let of = |class| Number { class, negative, significand: 0, exponent: 0, denormal: false };
    if magnitude > infinity::<F>() {
        let quiet = magnitude & quiet_bit::<F>() != 0;
        return of(if quiet { Class::QuietNan } else { Class::SignalingNan });
    }
    if magnitude == infinity::<F>() {
        return of(Class::Infinity);
    }
    let denormal = F::is_denormal(bits);
    if magnitude == 0 || denormal && daz {
        return of(Class::Zero);
    }
    let (significand, exponent) = F::decompose(bits);
    let exponent = exponent - bias::<F>() - F::FRACTION_BITS as i32;
    Number { class: Class::Finite, negative, significand: u128::from(significand), exponent, denormal }
}

impl Number {
    pub(crate) fn is_nan(&self) -> bool {
        matches!(self.class, Class::QuietNan | Class::SignalingNan)
    }

    /// The exponent of its highest bit.
    pub(crate) fn magnitude(&self) -> i32 {
        self.exponent + length(self.significand) - 1
    }
}

fn length(significand: u128) -> i32 {
    (u128::BITS - significand.leading_zeros()) as i32
}

/// The first NaN, made quiet; a signaling one anywhere is invalid.
pub(crate) fn nan<F: Format>(operands: &[u64], control: &mut Control) -> Option<u64> {
    let is_nan = |bits: &&u64| **bits & (sign_bit::<F>() - 1) > infinity::<F>();
    let first = operands.iter().find(is_nan)?;
    if operands.iter().filter(is_nan).any(|bits| bits & quiet_bit::<F>() == 0) {
        control.raised |= Mxcsr::IE;
    }
    Some(first | quiet_bit::<F>())
}

/// Without the lowest `dropped` bits, rounded, and whether that lost something. The significand has no more than
/// 126 bits.
fn shorten(significand: u128, dropped: i32, negative: bool, rounding: u8) -> (u128, bool) {
    if dropped <= 0 {
        return (significand << (-dropped).min(127), false);
    }
    // Less than one half of the lowest bit, whatever it is.
    let (significand, dropped) = if dropped >= 127 { (1, 2) } else { (significand, dropped) };
    let (whole, rest) = (significand >> dropped, significand & ((1 << dropped) - 1));
    let half = 1 << (dropped - 1);
    let up = rest != 0
        && match rounding & 3 {
            0 => rest > half || rest == half && whole & 1 != 0,
            1 => negative,
            2 => !negative,
            _ => false,
        };
    (whole + u128::from(up), rest != 0)
}

/// The number of a format that is nearest as the rounding says, and what is raised by it.
pub(crate) fn round<F: Format>(
    negative: bool,
    significand: u128,
    exponent: i32,
    control: &mut Control,
) -> u64 {
    if significand == 0 {
        return signed::<F>(negative, 0);
    }
    let dropped = length(significand) - (F::FRACTION_BITS as i32 + 1);
    // As if the exponent had no limits.
    let (unlimited, inexact) = shorten(significand, dropped, negative, control.rounding);
    let magnitude = exponent + dropped + length(unlimited) - 1;
    if magnitude < 1 - bias::<F>() {
        if control.unmasked.contains(Mxcsr::UE) {
            control.raised |= Mxcsr::UE;
            // Binary16 is rounded from a wider result, to what the format has.
            let least = 1 - bias::<F>() - F::FRACTION_BITS as i32;
            let lost = F::BITS == 16
                && !control.unlimited
                && shorten(significand, least - exponent, negative, control.rounding).1;
            control.inexact(inexact || lost);
            return signed::<F>(negative, 0);
        }
        if control.ftz && F::BITS != 16 {
            control.raised |= Mxcsr::UE | Mxcsr::PE;
            return signed::<F>(negative, 0);
        }
        let least = 1 - bias::<F>() - F::FRACTION_BITS as i32;
        let (value, inexact) = shorten(significand, least - exponent, negative, control.rounding);
        if inexact {
            control.raised |= Mxcsr::UE | Mxcsr::PE;
        }
        return signed::<F>(negative, value as u64);
    }
    if magnitude > bias::<F>() {
        control.raised |= Mxcsr::OE;
        control.inexact(inexact || !control.unmasked.contains(Mxcsr::OE));
        let stays = matches!((control.rounding & 3, negative), (1, false) | (2, true) | (3, _));
        return signed::<F>(negative, infinity::<F>() - u64::from(stays));
    }
    control.inexact(inexact);
    // A carry out of the significand goes on into the exponent, even from the greatest denormal's, which is zero.
    let field = (exponent + dropped + F::FRACTION_BITS as i32 + bias::<F>()) as u64;
    let fraction = unlimited as u64 - (1 << F::FRACTION_BITS);
    signed::<F>(negative, (field << F::FRACTION_BITS) + fraction)
}

/// Shifted right; a one that is lost stays in the lowest bit.
fn jam(significand: u128, shift: i32) -> u128 {
    if shift >= 127 {
        return u128::from(significand != 0);
    }
    let lost = significand & ((1 << shift) - 1) != 0;
    significand >> shift | u128::from(lost)
}

/// Sign, significand, exponent.
type Exact = (bool, u128, i32);

/// The sum, exact but for a lowest bit that says that there is more.
fn sum(left: Exact, right: Exact, control: &Control) -> Exact {
    let down = control.rounding & 3 == 1;
    match (left.1, right.1) {
        (0, 0) => return (if left.0 == right.0 { left.0 } else { down }, 0, 0),
        (0, _) => return right,
        (_, 0) => return left,
        _ => {}
    }
    const TOP: i32 = 124;
    let normal = |(negative, significand, exponent): Exact| {
        let shift = TOP - length(significand);
        (negative, significand << shift.max(0), exponent - shift)
    };
    let (left, right) = (normal(left), normal(right));
    let (high, low) = if left.2 >= right.2 { (left, right) } else { (right, left) };
    let small = jam(low.1, high.2 - low.2);
    if high.0 == low.0 {
        return (high.0, high.1 + small, high.2);
    }
    match high.1.cmp(&small) {
        core::cmp::Ordering::Equal => (down, 0, 0),
        core::cmp::Ordering::Greater => (high.0, high.1 - small, high.2),
        core::cmp::Ordering::Less => (low.0, small - high.1, high.2),
    }
}

/// The first times the second, and the third; each of these two with its sign changed if so said.
pub(crate) fn fused<F: Format>(operands: [u64; 3], negated: [bool; 2], control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&operands, control) {
        return nan;
    }
    let [left, right, addend] = operands.map(|bits| unpack::<F>(bits, control));
    let product_sign = left.negative ^ right.negative ^ negated[0];
    let addend_sign = addend.negative ^ negated[1];
    let infinite = |number: &Number| number.class == Class::Infinity;
    let zero = |number: &Number| number.class == Class::Zero;
    if infinite(&left) && zero(&right) || zero(&left) && infinite(&right) {
        return control.invalid::<F>();
    }
    let product_infinite = infinite(&left) || infinite(&right);
    if product_infinite && infinite(&addend) && product_sign != addend_sign {
        return control.invalid::<F>();
    }
    control.denormal(left.denormal || right.denormal || addend.denormal);
    if product_infinite {
        return signed::<F>(product_sign, infinity::<F>());
    }
    if infinite(&addend) {
        return signed::<F>(addend_sign, infinity::<F>());
    }
    let product = (product_sign, left.significand * right.significand, left.exponent + right.exponent);
    let (negative, significand, exponent) =
        sum(product, (addend_sign, addend.significand, addend.exponent), control);
    round::<F>(negative, significand, exponent, control)
}

/// The sum, or the difference.
pub(crate) fn add<F: Format>(left: u64, right: u64, subtract: bool, control: &mut Control) -> u64 {
    fused::<F>([left, F::ONE, right], [false, subtract], control)
}

/// The product.
pub(crate) fn multiply<F: Format>(left: u64, right: u64, control: &mut Control) -> u64 {
    let sign = (left ^ right) & sign_bit::<F>();
    if let Some(nan) = nan::<F>(&[left, right], control) {
        return nan;
    }
    fused::<F>([left, right, sign], [false; 2], control)
}

/// The quotient.
pub(crate) fn divide<F: Format>(left: u64, right: u64, control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&[left, right], control) {
        return nan;
    }
    let [left, right] = [left, right].map(|bits| unpack::<F>(bits, control));
    let negative = left.negative ^ right.negative;
    match (left.class, right.class) {
        (Class::Infinity, Class::Infinity) | (Class::Zero, Class::Zero) => return control.invalid::<F>(),
        (Class::Finite, Class::Zero) => {
            control.raised |= Mxcsr::ZE;
            return signed::<F>(negative, infinity::<F>());
        }
        _ => {}
    }
    control.denormal(left.denormal || right.denormal);
    match (left.class, right.class) {
        (Class::Infinity, _) => signed::<F>(negative, infinity::<F>()),
        (Class::Zero, _) | (_, Class::Infinity) => signed::<F>(negative, 0),
        _ => {
            let shift = 124 - length(left.significand);
            let dividend = left.significand << shift;
            let (quotient, rest) = (dividend / right.significand, dividend % right.significand);
            // More bits than any format has, before the one that says that there is more.
            let significand = quotient << 1 | u128::from(rest != 0);
            round::<F>(negative, significand, left.exponent - shift - right.exponent - 1, control)
        }
    }
}

/// The square root.
pub(crate) fn root<F: Format>(bits: u64, control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&[bits], control) {
        return nan;
    }
    let number = unpack::<F>(bits, control);
    if number.class == Class::Zero {
        return signed::<F>(number.negative, 0);
    }
    if number.negative {
        return control.invalid::<F>();
    }
    control.denormal(number.denormal);
    if number.class == Class::Infinity {
        return bits;
    }
    let shift = 124 - length(number.significand);
    let shift = shift - ((number.exponent - shift) & 1);
    let square = number.significand << shift;
    let root = square.isqrt();
    let significand = root << 1 | u128::from(root * root != square);
    round::<F>(false, significand, (number.exponent - shift) / 2 - 1, control)
}

/// The same number in another format.
pub(crate) fn convert<S: Format, D: Format>(bits: u64, daz: bool, control: &mut Control) -> u64 {
    let number = unpack_with::<S>(bits, daz);
    match number.class {
        Class::QuietNan | Class::SignalingNan => {
            if number.class == Class::SignalingNan {
                control.raised |= Mxcsr::IE;
            }
            let fraction = bits & ((1 << S::FRACTION_BITS) - 1);
            let fraction = fraction << (63 - S::FRACTION_BITS) >> (63 - D::FRACTION_BITS);
            signed::<D>(number.negative, infinity::<D>() | fraction | quiet_bit::<D>())
        }
        Class::Infinity => signed::<D>(number.negative, infinity::<D>()),
        Class::Zero => signed::<D>(number.negative, 0),
        Class::Finite => {
            control.denormal(number.denormal);
            round::<D>(number.negative, number.significand, number.exponent, control)
        }
    }
}

/// An integer as a number.
pub(crate) fn from_integer<D: Format>(integer: i128, control: &mut Control) -> u64 {
    let result = round::<D>(integer < 0, integer.unsigned_abs(), 0, control);
    // An overflow of half precision is inexact, even where the exponent is all that is too large.
    control.inexact(D::BITS == 16 && control.raised.contains(Mxcsr::OE));
    result
}

/// The integer near a number, of so many bits, or the indefinite one: all ones without a sign, else the least.
pub(crate) fn to_integer<S: Format>(
    bits: u64,
    (width, is_signed): (u32, bool),
    rounding: u8,
    control: &mut Control,
) -> u64 {
    let ones = u64::MAX >> (64 - width);
    let indefinite = if is_signed { 1 << (width - 1) } else { ones };
    let number = unpack::<S>(bits, control);
    match number.class {
        Class::Zero => return 0,
        Class::Finite if number.magnitude() <= 64 => {}
        _ => {
            control.raised |= Mxcsr::IE;
            return indefinite;
        }
    }
    let (magnitude, inexact) = shorten(number.significand, -number.exponent, number.negative, rounding);
    let limit = match (is_signed, number.negative) {
        (true, true) => 1 << (width - 1),
        (true, false) => (1 << (width - 1)) - 1,
        (false, true) => 0,
        (false, false) => u128::from(ones),
    };
    if magnitude > limit {
        control.raised |= Mxcsr::IE;
        return indefinite;
    }
    control.inexact(inexact);
    let magnitude = magnitude as u64;
    (if number.negative { magnitude.wrapping_neg() } else { magnitude }) & ones
}

/// The multiple of two to the minus `places` near a number. Denormal operands raise nothing of their own.
pub(crate) fn round_scaled<F: Format>(bits: u64, places: u8, rounding: u8, control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&[bits], control) {
        return nan;
    }
    let number = unpack::<F>(bits, control);
    match number.class {
        Class::Finite => {}
        Class::Zero => return signed::<F>(number.negative, 0),
        _ => return bits,
    }
    let unit = -i32::from(places);
    if number.exponent >= unit {
        return bits;
    }
    let (multiple, inexact) = shorten(number.significand, unit - number.exponent, number.negative, rounding);
    control.inexact(inexact);
    // It is a number of the format, so that nothing more is raised.
    round::<F>(number.negative, multiple, unit, &mut control.masked())
}
