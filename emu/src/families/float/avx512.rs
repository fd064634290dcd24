//! What AVX-512 adds to arithmetic, by the Operation sections of the manual (SDM volume 2C).

use crate::decode::form::Form;
use crate::decode::processor::Facts;
use crate::host::sse;
use crate::model::format::{Double, Format, Half, Single};
use crate::model::registers::Mxcsr;
use crate::run::context::Execute;
use crate::run::row::Row;
use crate::shape::element::element_row;
use crate::shape::float::{Each, FloatOp, float, float_row};
use crate::vector::soft::{
    Class, Control, Number, add, from_integer, indefinite, infinity, nan, quiet_bit, round, round_scaled,
    sign_bit, unpack,
};

pub(super) static ROWS: &[Row] = &[
    element_row!(Vgetexpps, packed One, 4 -> 4, |[a, ..], _, control| exponent::<Single>(a, control)),
    element_row!(Vgetexppd, packed One, 8 -> 8, |[a, ..], _, control| exponent::<Double>(a, control)),
    element_row!(Vgetexpss, scalar One, 4 -> 4, |[a, ..], _, control| exponent::<Single>(a, control)),
    element_row!(Vgetexpsd, scalar One, 8 -> 8, |[a, ..], _, control| exponent::<Double>(a, control)),
    element_row!(Vgetexpph, packed One, 2 -> 2, |[a, ..], _, control| exponent::<Half>(a, control)),
    element_row!(Vgetexpsh, scalar One, 2 -> 2, |[a, ..], _, control| exponent::<Half>(a, control)),
    element_row!(Vgetmantps, packed One, 4 -> 4, |[a, ..], (immediate, _), control| mantissa::<Single>(a, immediate, control)),
    element_row!(Vgetmantpd, packed One, 8 -> 8, |[a, ..], (immediate, _), control| mantissa::<Double>(a, immediate, control)),
    element_row!(Vgetmantss, scalar One, 4 -> 4, |[a, ..], (immediate, _), control| mantissa::<Single>(a, immediate, control)),
    element_row!(Vgetmantsd, scalar One, 8 -> 8, |[a, ..], (immediate, _), control| mantissa::<Double>(a, immediate, control)),
    element_row!(Vgetmantph, packed One, 2 -> 2, |[a, ..], (immediate, _), control| mantissa::<Half>(a, immediate, control)),
    element_row!(Vgetmantsh, scalar One, 2 -> 2, |[a, ..], (immediate, _), control| mantissa::<Half>(a, immediate, control)),
    element_row!(Vscalefps, packed Two, 4 -> 4, |[a, b, _], _, control| scale::<Single>(a, b, control)),
    element_row!(Vscalefpd, packed Two, 8 -> 8, |[a, b, _], _, control| scale::<Double>(a, b, control)),
    element_row!(Vscalefss, scalar Two, 4 -> 4, |[a, b, _], _, control| scale::<Single>(a, b, control)),
    element_row!(Vscalefsd, scalar Two, 8 -> 8, |[a, b, _], _, control| scale::<Double>(a, b, control)),
    element_row!(Vscalefph, packed Two, 2 -> 2, |[a, b, _], _, control| scale::<Half>(a, b, control)),
    element_row!(Vscalefsh, scalar Two, 2 -> 2, |[a, b, _], _, control| scale::<Half>(a, b, control)),
    element_row!(Vrndscaleps, packed One, 4 -> 4, |[a, ..], (immediate, _), control| round_scale::<Single>(a, immediate, control)),
    element_row!(Vrndscalepd, packed One, 8 -> 8, |[a, ..], (immediate, _), control| round_scale::<Double>(a, immediate, control)),
    element_row!(Vrndscaless, scalar One, 4 -> 4, |[a, ..], (immediate, _), control| round_scale::<Single>(a, immediate, control)),
    element_row!(Vrndscaleph, packed One, 2 -> 2, |[a, ..], (immediate, _), control| round_scale::<Half>(a, immediate, control)),
    element_row!(Vrndscalesh, scalar One, 2 -> 2, |[a, ..], (immediate, _), control| round_scale::<Half>(a, immediate, control)),
    element_row!(Vrndscalesd, scalar One, 8 -> 8, |[a, ..], (immediate, _), control| round_scale::<Double>(a, immediate, control)),
    element_row!(Vreduceps, packed One, 4 -> 4, |[a, ..], (immediate, _), control| reduce::<Single>(a, immediate, control)),
    element_row!(Vreducepd, packed One, 8 -> 8, |[a, ..], (immediate, _), control| reduce::<Double>(a, immediate, control)),
    element_row!(Vreducess, scalar One, 4 -> 4, |[a, ..], (immediate, _), control| reduce::<Single>(a, immediate, control)),
    element_row!(Vreducesd, scalar One, 8 -> 8, |[a, ..], (immediate, _), control| reduce::<Double>(a, immediate, control)),
    element_row!(Vreduceph, packed One, 2 -> 2, |[a, ..], (immediate, _), control| reduce::<Half>(a, immediate, control)),
    element_row!(Vreducesh, scalar One, 2 -> 2, |[a, ..], (immediate, _), control| reduce::<Half>(a, immediate, control)),
    element_row!(Vrangeps, packed Two, 4 -> 4, |[a, b, _], (immediate, _), control| range::<Single>([a, b], immediate, control)),
    element_row!(Vrangepd, packed Two, 8 -> 8, |[a, b, _], (immediate, _), control| range::<Double>([a, b], immediate, control)),
    element_row!(Vrangess, scalar Two, 4 -> 4, |[a, b, _], (immediate, _), control| range::<Single>([a, b], immediate, control)),
    element_row!(Vrangesd, scalar Two, 8 -> 8, |[a, b, _], (immediate, _), control| range::<Double>([a, b], immediate, control)),
    element_row!(Vfixupimmps, packed Three, 4 -> 4, |[a, b, c], (immediate, _), control| fixup::<Single>([a, b, c], immediate, control)),
    element_row!(Vfixupimmpd, packed Three, 8 -> 8, |[a, b, c], (immediate, _), control| fixup::<Double>([a, b, c], immediate, control)),
    element_row!(Vfixupimmss, scalar Second, 4 -> 4, |[a, b, c], (immediate, _), control| fixup::<Single>([a, b, c], immediate, control)),
    element_row!(Vfixupimmsd, scalar Second, 8 -> 8, |[a, b, c], (immediate, _), control| fixup::<Double>([a, b, c], immediate, control)),
    element_row!(Vfpclassps, mask One, 4, |[a, ..], (immediate, _), control| class::<Single>(a, immediate, control)),
    element_row!(Vfpclasspd, mask One, 8, |[a, ..], (immediate, _), control| class::<Double>(a, immediate, control)),
    element_row!(Vfpclassss, scalar_mask One, 4, |[a, ..], (immediate, _), control| class::<Single>(a, immediate, control)),
    element_row!(Vfpclasssd, scalar_mask One, 8, |[a, ..], (immediate, _), control| class::<Double>(a, immediate, control)),
    element_row!(Vfpclassph, mask One, 2, |[a, ..], (immediate, _), control| class::<Half>(a, immediate, control)),
    element_row!(Vfpclasssh, scalar_mask One, 2, |[a, ..], (immediate, _), control| class::<Half>(a, immediate, control)),
    Row {
        select: approximated::<Each<sse::Rcp14ps>>,
        ..float_row!([Vrcp14ps], each 4 -> 4, sse::Rcp14ps).by_host()
    },
    Row {
        select: approximated::<Each<sse::Rcp14pd>>,
        ..float_row!([Vrcp14pd], each 8 -> 8, sse::Rcp14pd).by_host()
    },
    Row {
        select: approximated::<sse::Rcp14ss>,
        ..float_row!([Vrcp14ss], scalar 4 -> 4, UNARY, sse::Rcp14ss).by_host()
    },
    Row {
        select: approximated::<sse::Rcp14sd>,
        ..float_row!([Vrcp14sd], scalar 8 -> 8, UNARY, sse::Rcp14sd).by_host()
    },
    Row {
        select: approximated::<Each<sse::Rsqrt14ps>>,
        ..float_row!([Vrsqrt14ps], each 4 -> 4, sse::Rsqrt14ps).by_host()
    },
    Row {
        select: approximated::<Each<sse::Rsqrt14pd>>,
        ..float_row!([Vrsqrt14pd], each 8 -> 8, sse::Rsqrt14pd).by_host()
    },
    Row {
        select: approximated::<sse::Rsqrt14ss>,
        ..float_row!([Vrsqrt14ss], scalar 4 -> 4, UNARY, sse::Rsqrt14ss).by_host()
    },
    Row {
        select: approximated::<sse::Rsqrt14sd>,
        ..float_row!([Vrsqrt14sd], scalar 8 -> 8, UNARY, sse::Rsqrt14sd).by_host()
    },
    Row {
        select: half_approximated::<Each<sse::Rcpph>>,
        ..float_row!([Vrcpph], each 2 -> 2, sse::Rcpph).by_host()
    },
    Row {
        select: half_approximated::<sse::Rcpsh>,
        ..float_row!([Vrcpsh], scalar 2 -> 2, UNARY, sse::Rcpsh).by_host()
    },
    Row {
        select: half_approximated::<Each<sse::Rsqrtph>>,
        ..float_row!([Vrsqrtph], each 2 -> 2, sse::Rsqrtph).by_host()
    },
    Row {
        select: half_approximated::<sse::Rsqrtsh>,
        ..float_row!([Vrsqrtsh], scalar 2 -> 2, UNARY, sse::Rsqrtsh).by_host()
    },
];

/// Only the processor knows the last bits.
fn approximated<O: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    sse::has_approximations().then(|| float::<O>(form)).flatten()
}

fn half_approximated<O: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    sse::has_half_approximations().then(|| float::<O>(form)).flatten()
}

/// VGETEXP: the exponent of a number, as a number.
fn exponent<F: Format>(bits: u64, control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&[bits], control) {
        return nan;
    }
    let number = unpack::<F>(bits, control);
    match number.class {
        Class::Zero => sign_bit::<F>() | infinity::<F>(),
        Class::Finite => {
            control.denormal(number.denormal);
            from_integer::<F>(i128::from(number.magnitude()), control)
        }
        _ => infinity::<F>(),
    }
}

/// VGETMANT: the significand in the interval that bits 0 and 1 of the immediate name, with the sign that bits 2 and
/// 3 say.
fn mantissa<F: Format>(bits: u64, immediate: u8, control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&[bits], control) {
        return nan;
    }
    let number = unpack::<F>(bits, control);
    if number.negative && immediate & 8 != 0 && number.class != Class::Zero {
        return control.invalid::<F>();
    }
    let sign = if number.negative && immediate & 4 == 0 { sign_bit::<F>() } else { 0 };
    if number.class != Class::Finite {
        return sign | F::ONE;
    }
    control.denormal(number.denormal);
    // The fraction, at its place.
    let shift = F::FRACTION_BITS as i32 - (number.magnitude() - number.exponent);
    let fraction = (number.significand as u64) << shift & ((1 << F::FRACTION_BITS) - 1);
    let halved = match immediate & 3 {
        0 => false,
        1 => number.magnitude() & 1 != 0,
        2 => true,
        _ => fraction & quiet_bit::<F>() != 0,
    };
    sign | (F::ONE - (u64::from(halved) << F::FRACTION_BITS)) | fraction
}

/// VSCALEF: the first times two to the second rounded down.
fn scale<F: Format>(first: u64, second: u64, control: &mut Control) -> u64 {
    let [value, power] = [first, second].map(|bits| unpack::<F>(bits, control));
    let sign = first & sign_bit::<F>();
    if value.class == Class::QuietNan && power.class == Class::Infinity {
        return if power.negative { 0 } else { infinity::<F>() };
    }
    if let Some(nan) = nan::<F>(&[first, second], control) {
        return nan;
    }
    match (value.class, power.class, power.negative) {
        (Class::Infinity, Class::Infinity, true) | (Class::Zero, Class::Infinity, false) => {
            return control.invalid::<F>();
        }
        _ => {}
    }
    // One of the second raises nothing.
    control.denormal(value.denormal);
    match (value.class, power.class, power.negative) {
        (Class::Zero, ..) => sign,
        (Class::Infinity, ..) | (_, Class::Infinity, false) => sign | infinity::<F>(),
        (_, Class::Infinity, true) => sign,
        _ => {
            let power = floor(&power);
            round::<F>(value.negative, value.significand, value.exponent + power, control)
        }
    }
}

/// The integer below a number, as far as it matters to an exponent.
fn floor(number: &Number) -> i32 {
    const LIMIT: i32 = 1 << 14;
    if number.class == Class::Zero {
        return 0;
    }
    if number.magnitude() >= 14 {
        return if number.negative { -LIMIT } else { LIMIT };
    }
    let shift = number.exponent;
    if shift >= 0 {
        let whole = (number.significand << shift) as i32;
        return if number.negative { -whole } else { whole };
    }
    let places = (-shift).min(127);
    let whole = (number.significand >> places) as i32;
    let rest = number.significand & ((1 << places) - 1) != 0;
    if number.negative { -whole - i32::from(rest) } else { whole }
}

/// The rounding that bits 0 to 2 of the immediate say.
fn rounding(immediate: u8, control: &Control) -> u8 {
    if immediate & 4 != 0 { control.rounding } else { immediate & 3 }
}

/// VRNDSCALE: so many binary places as the high half of the immediate says; bit 3 keeps PE as it is. Of the formats only
/// binary16 has denormal numbers among the results, and they underflow as results of arithmetic do.
fn round_scale<F: Format>(bits: u64, immediate: u8, control: &mut Control) -> u64 {
    let mut rounded = control.masked();
    let result = round_scaled::<F>(bits, immediate >> 4, rounding(immediate, control), &mut rounded);
    if F::is_denormal(result) {
        control.underflow(rounded.raised.contains(Mxcsr::PE));
    }
    let kept = if immediate & 8 != 0 { Mxcsr::PE } else { Mxcsr::empty() };
    control.raised |= rounded.raised.difference(kept);
    result
}

/// VREDUCE: what VRNDSCALE takes away.
fn reduce<F: Format>(bits: u64, immediate: u8, control: &mut Control) -> u64 {
    if let Some(nan) = nan::<F>(&[bits], control) {
        return nan;
    }
    if unpack::<F>(bits, control).class == Class::Infinity {
        return 0;
    }
    // Only the difference counts as rounded.
    let raised = control.raised;
    let rounded = round_scaled::<F>(bits, immediate >> 4, rounding(immediate, control), control);
    control.raised = raised;
    let mut difference = control.masked();
    let flushes = control.facts.contains(Facts::REDUCE_FLUSHES_UNMASKED_UNDERFLOW);
    difference.ftz = if flushes { control.flushes } else { control.ftz };
    difference.rounding = rounding(immediate, control);
    let result = add::<F>(bits, rounded, true, &mut difference);
    if immediate & 8 == 0 {
        control.raised |= difference.raised & Mxcsr::PE;
    }
    result
}

/// VRANGE: bits 0 and 1 of the immediate say which of two it is, bits 2 and 3 which sign it gets.
fn range<F: Format>(operands: [u64; 2], immediate: u8, control: &mut Control) -> u64 {
    let sign = sign_bit::<F>();
    let numbers = operands.map(|bits| unpack::<F>(bits, control));
    for (bits, number) in operands.iter().zip(&numbers) {
        if number.class == Class::SignalingNan {
            control.raised |= Mxcsr::IE;
            return bits | quiet_bit::<F>();
        }
    }
    // A denormal number is zero under DAZ.
    let values = [0, 1].map(|index: usize| match numbers[index].class {
        Class::Zero => operands[index] & sign,
        _ => operands[index],
    });
    let chosen = match (numbers[0].is_nan(), numbers[1].is_nan()) {
        (true, true) => values[0],
        (true, false) => values[1],
        (false, true) => values[0],
        (false, false) => {
            control.denormal(numbers[0].denormal || numbers[1].denormal);
            let magnitude = |bits: u64| bits & (sign - 1);
            let [first, second] = values;
            let first_is_less = match immediate & 2 != 0 && magnitude(first) != magnitude(second) {
                true => magnitude(first) < magnitude(second),
                false => less::<F>(first, second),
            };
            if first_is_less == (immediate & 1 == 0) { first } else { second }
        }
    };
    let sign_of = match immediate >> 2 & 3 {
        0 => values[0],
        1 => chosen,
        2 => 0,
        _ => sign,
    };
    chosen & (sign - 1) | sign_of & sign
}

/// Whether the first is less, and minus zero less than zero.
fn less<F: Format>(first: u64, second: u64) -> bool {
    let sign = sign_bit::<F>();
    let key = |bits: u64| {
        let magnitude = i128::from(bits & (sign - 1));
        if bits & sign != 0 { -1 - magnitude } else { magnitude }
    };
    key(first) < key(second)
}

/// VFIXUPIMM: what the table in the third operand says for the second; the immediate says what else is raised.
fn fixup<F: Format>([destination, source, table]: [u64; 3], immediate: u8, control: &mut Control) -> u64 {
    let number = unpack::<F>(source, control);
    let sign = sign_bit::<F>();
    let source = if number.class == Class::Zero { source & sign } else { source };
    let (token, zero_divide, invalid) = match (number.class, number.negative) {
        (Class::QuietNan, _) => (0, 0, 0),
        (Class::SignalingNan, _) => (1, 0, 1 << 4),
        (Class::Zero, _) => (2, 1, 1 << 1),
        (Class::Finite, _) if source == F::ONE => (3, 1 << 2, 1 << 3),
        (Class::Infinity, true) => (4, 0, 1 << 5),
        (Class::Infinity, false) => (5, 0, 1 << 7),
        (Class::Finite, true) => (6, 0, 1 << 6),
        (Class::Finite, false) => (7, 0, 0),
    };
    if immediate & zero_divide != 0 {
        control.raised |= Mxcsr::ZE;
    }
    if immediate & invalid != 0 {
        control.raised |= Mxcsr::IE;
    }
    match table >> (4 * token) & 15 {
        0 => destination,
        1 => source,
        2 => source | infinity::<F>() | quiet_bit::<F>(),
        3 => indefinite::<F>(),
        4 => sign | infinity::<F>(),
        5 => infinity::<F>(),
        6 => source & sign | infinity::<F>(),
        7 => sign,
        8 => 0,
        9 => sign | F::ONE,
        10 => F::ONE,
        11 => F::ONE - (1 << F::FRACTION_BITS),
        // 90 is 1.01101 in base two times 2^6.
        12 => F::ONE + (6 << F::FRACTION_BITS) + (0b01101 << (F::FRACTION_BITS - 5)),
        13 => half_pi::<F>(),
        14 => infinity::<F>() - 1,
        _ => sign | (infinity::<F>() - 1),
    }
}

/// One half of pi, to nearest.
fn half_pi<F: Format>() -> u64 {
    if F::BITS == 64 {
        core::f64::consts::FRAC_PI_2.to_bits()
    } else {
        u64::from(core::f32::consts::FRAC_PI_2.to_bits())
    }
}

/// VFPCLASS: whether it is of one of the classes that the immediate names. Nothing is raised.
fn class<F: Format>(bits: u64, immediate: u8, control: &Control) -> u64 {
    let number = unpack::<F>(bits, control);
    let is = match (number.class, number.negative) {
        (Class::QuietNan, _) => 1,
        (Class::Zero, false) => 1 << 1,
        (Class::Zero, true) => 1 << 2,
        (Class::Infinity, false) => 1 << 3,
        (Class::Infinity, true) => 1 << 4,
        (Class::Finite, negative) => u8::from(number.denormal) << 5 | u8::from(negative) << 6,
        (Class::SignalingNan, _) => 1 << 7,
    };
    u64::from(immediate & is != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vector::soft::bias;

    /// The least denormal number is found through its magnitude.
    #[test]
    fn exponents_of_denormal_numbers() {
        let mut control = Control::of(Mxcsr::MASKS);
        let expected = from_integer::<Half>(-24, &mut control);
        assert_eq!(exponent::<Half>(1, &mut control), expected);
        assert_eq!(control.raised, Mxcsr::DE);
        assert_eq!(bias::<Half>(), 15);
    }
}
