//! Conversions of AVX-512, of half precision, and F16C (SDM volume 2C).

use crate::decode::processor::Facts;
use crate::model::format::{Double, Format, Half, Single};
use crate::model::registers::Mxcsr;
use crate::run::phases::Alignment;
use crate::run::phases::{Layout, Operands};
use crate::run::row::Row;
use crate::shape::element::{FromInteger, ToInteger, element_row, integer};
use crate::shape::float::{from_general_row, to_general_row};
use crate::vector::soft::{Control, convert, from_integer, to_integer};

pub(super) static ROWS: &[Row] = &[
    element_row!(Vcvtps2udq, packed One, 4 -> 4, |[a, ..], _, control| to_integer::<Single>(a, (32, false), control.rounding, control)),
    element_row!(Vcvttps2udq, packed One, 4 -> 4, |[a, ..], _, control| to_integer::<Single>(a, (32, false), 3, control)),
    element_row!(Vcvtudq2ps, packed One, 4 -> 4, |[a, ..], _, control| from_integer::<Single>(integer::<32, false>(a), control)),
    element_row!(Vcvtps2qq, packed One, 4 -> 8, |[a, ..], _, control| to_integer::<Single>(a, (64, true), control.rounding, control)),
    element_row!(Vcvttps2qq, packed One, 4 -> 8, |[a, ..], _, control| to_integer::<Single>(a, (64, true), 3, control)),
    element_row!(Vcvtqq2ps, packed One, 8 -> 4, |[a, ..], _, control| from_integer::<Single>(integer::<64, true>(a), control)),
    element_row!(Vcvtps2uqq, packed One, 4 -> 8, |[a, ..], _, control| to_integer::<Single>(a, (64, false), control.rounding, control)),
    element_row!(Vcvttps2uqq, packed One, 4 -> 8, |[a, ..], _, control| to_integer::<Single>(a, (64, false), 3, control)),
    element_row!(Vcvtuqq2ps, packed One, 8 -> 4, |[a, ..], _, control| from_integer::<Single>(integer::<64, false>(a), control)),
    element_row!(Vcvtpd2udq, packed One, 8 -> 4, |[a, ..], _, control| to_integer::<Double>(a, (32, false), control.rounding, control)),
    element_row!(Vcvttpd2udq, packed One, 8 -> 4, |[a, ..], _, control| to_integer::<Double>(a, (32, false), 3, control)),
    element_row!(Vcvtudq2pd, packed One, 4 -> 8, |[a, ..], _, control| from_integer::<Double>(integer::<32, false>(a), control)),
    element_row!(Vcvtpd2qq, packed One, 8 -> 8, |[a, ..], _, control| to_integer::<Double>(a, (64, true), control.rounding, control)),
    element_row!(Vcvttpd2qq, packed One, 8 -> 8, |[a, ..], _, control| to_integer::<Double>(a, (64, true), 3, control)),
    element_row!(Vcvtqq2pd, packed One, 8 -> 8, |[a, ..], _, control| from_integer::<Double>(integer::<64, true>(a), control)),
    element_row!(Vcvtpd2uqq, packed One, 8 -> 8, |[a, ..], _, control| to_integer::<Double>(a, (64, false), control.rounding, control)),
    element_row!(Vcvttpd2uqq, packed One, 8 -> 8, |[a, ..], _, control| to_integer::<Double>(a, (64, false), 3, control)),
    element_row!(Vcvtuqq2pd, packed One, 8 -> 8, |[a, ..], _, control| from_integer::<Double>(integer::<64, false>(a), control)),
    element_row!(Vcvtph2w, packed One, 2 -> 2, |[a, ..], _, control| to_integer::<Half>(a, (16, true), control.rounding, control)),
    element_row!(Vcvttph2w, packed One, 2 -> 2, |[a, ..], _, control| to_integer::<Half>(a, (16, true), 3, control)),
    element_row!(Vcvtw2ph, packed One, 2 -> 2, |[a, ..], _, control| from_integer::<Half>(integer::<16, true>(a), control)),
    element_row!(Vcvtph2uw, packed One, 2 -> 2, |[a, ..], _, control| to_integer::<Half>(a, (16, false), control.rounding, control)),
    element_row!(Vcvttph2uw, packed One, 2 -> 2, |[a, ..], _, control| to_integer::<Half>(a, (16, false), 3, control)),
    element_row!(Vcvtuw2ph, packed One, 2 -> 2, |[a, ..], _, control| from_integer::<Half>(integer::<16, false>(a), control)),
    element_row!(Vcvtph2dq, packed One, 2 -> 4, |[a, ..], _, control| to_integer::<Half>(a, (32, true), control.rounding, control)),
    element_row!(Vcvttph2dq, packed One, 2 -> 4, |[a, ..], _, control| to_integer::<Half>(a, (32, true), 3, control)),
    element_row!(Vcvtdq2ph, packed One, 4 -> 2, |[a, ..], _, control| from_integer::<Half>(integer::<32, true>(a), control)),
    element_row!(Vcvtph2udq, packed One, 2 -> 4, |[a, ..], _, control| to_integer::<Half>(a, (32, false), control.rounding, control)),
    element_row!(Vcvttph2udq, packed One, 2 -> 4, |[a, ..], _, control| to_integer::<Half>(a, (32, false), 3, control)),
    element_row!(Vcvtudq2ph, packed One, 4 -> 2, |[a, ..], _, control| from_integer::<Half>(integer::<32, false>(a), control)),
    element_row!(Vcvtph2qq, packed One, 2 -> 8, |[a, ..], _, control| to_integer::<Half>(a, (64, true), control.rounding, control)),
    element_row!(Vcvttph2qq, packed One, 2 -> 8, |[a, ..], _, control| to_integer::<Half>(a, (64, true), 3, control)),
    element_row!(Vcvtqq2ph, packed One, 8 -> 2, |[a, ..], _, control| from_integer::<Half>(integer::<64, true>(a), control)),
    element_row!(Vcvtph2uqq, packed One, 2 -> 8, |[a, ..], _, control| to_integer::<Half>(a, (64, false), control.rounding, control)),
    element_row!(Vcvttph2uqq, packed One, 2 -> 8, |[a, ..], _, control| to_integer::<Half>(a, (64, false), 3, control)),
    element_row!(Vcvtuqq2ph, packed One, 8 -> 2, |[a, ..], _, control| from_integer::<Half>(integer::<64, false>(a), control)),
    element_row!(Vcvtph2psx, packed One, 2 -> 4, |[a, ..], _, control| convert::<Half, Single>(a, false, control)),
    element_row!(Vcvtph2pd, packed One, 2 -> 8, |[a, ..], _, control| convert::<Half, Double>(a, false, control)),
    element_row!(Vcvtps2phx, packed One, 4 -> 2, |[a, ..], _, control| convert::<Single, Half>(a, control.daz, control)),
    element_row!(Vcvtpd2ph, packed One, 8 -> 2, |[a, ..], _, control| convert::<Double, Half>(a, control.daz, control)),
    element_row!(Vcvtsh2ss, scalar One, 2 -> 4, |[a, ..], _, control| convert::<Half, Single>(a, false, control)),
    element_row!(Vcvtsh2sd, scalar One, 2 -> 8, |[a, ..], _, control| convert::<Half, Double>(a, false, control)),
    element_row!(Vcvtss2sh, scalar One, 4 -> 2, |[a, ..], _, control| convert::<Single, Half>(a, control.daz, control)),
    element_row!(Vcvtsd2sh, scalar One, 8 -> 2, |[a, ..], _, control| convert::<Double, Half>(a, control.daz, control)),
    // Some do not look at its alignment, even of eight bytes.
    Row {
        vector: Some(Layout::new(Operands::One, 4).from(2).by_length().aligned(Alignment::Never)),
        ..element_row!(Vcvtph2ps, packed One, 2 -> 4, |[a, ..], _, control| without_denormal(convert::<Half, Single>(a, false, control), control))
    },
    element_row!(Vcvtps2ph, stored One, 4 -> 2, |[a, ..], (immediate, _), control| to_half(a, immediate, control)),
    from_general_row!([Vcvtusi2ss], 4, FromInteger<Single, 32, false>, FromInteger<Single, 64, false>),
    to_general_row!([Vcvtss2usi], 4, ToInteger<Single, 32, false, false>, ToInteger<Single, 64, false, false>),
    to_general_row!([Vcvttss2usi], 4, ToInteger<Single, 32, false, true>, ToInteger<Single, 64, false, true>),
    from_general_row!([Vcvtusi2sd], 8, FromInteger<Double, 32, false>, FromInteger<Double, 64, false>),
    to_general_row!([Vcvtsd2usi], 8, ToInteger<Double, 32, false, false>, ToInteger<Double, 64, false, false>),
    to_general_row!([Vcvttsd2usi], 8, ToInteger<Double, 32, false, true>, ToInteger<Double, 64, false, true>),
    from_general_row!([Vcvtsi2sh], 2, FromInteger<Half, 32, true>, FromInteger<Half, 64, true>),
    to_general_row!([Vcvtsh2si], 2, ToInteger<Half, 32, true, false>, ToInteger<Half, 64, true, false>),
    to_general_row!([Vcvttsh2si], 2, ToInteger<Half, 32, true, true>, ToInteger<Half, 64, true, true>),
    from_general_row!([Vcvtusi2sh], 2, FromInteger<Half, 32, false>, FromInteger<Half, 64, false>),
    to_general_row!([Vcvtsh2usi], 2, ToInteger<Half, 32, false, false>, ToInteger<Half, 64, false, false>),
    to_general_row!([Vcvttsh2usi], 2, ToInteger<Half, 32, false, true>, ToInteger<Half, 64, false, true>),
];

/// VCVTPH2PS says nothing of denormal operands.
fn without_denormal(result: u64, control: &mut Control) -> u64 {
    control.raised.remove(Mxcsr::DE);
    result
}

/// The immediate of VCVTPS2PH: bit 2 takes the rounding of MXCSR instead of that in bits 0 and 1.
fn to_half(bits: u64, immediate: u8, control: &mut Control) -> u64 {
    if immediate & 4 == 0 {
        control.rounding = immediate & 3;
    }
    let as_elsewhere = control.facts.contains(Facts::HALVES_OF_DENORMALS_LOSE_PRECISION);
    control.unlimited = !(as_elsewhere && Single::is_denormal(bits));
    convert::<Single, Half>(bits, control.daz, control)
}
