//! SSE conversion (SDM volume 1, sections 10.4.1.6, 10.4.3 and 11.4.1.6).

use crate::decode::flags::Flags;
use crate::host::sse;
use crate::run::row::Row;
use crate::shape::float::{
    Narrowing, SSE, Widening, float_row, from_general_row, from_mmx, to_general_row, to_mmx,
};
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    float_row!([Cvtdq2ps, Vcvtdq2ps], each 4 -> 4, sse::Cvtdq2ps),
    float_row!([Cvtdq2pd, Vcvtdq2pd], each 4 -> 8, Widening<sse::Cvtdq2pd>),
    float_row!([Cvtps2dq, Vcvtps2dq], each 4 -> 4, sse::Cvtps2dq),
    float_row!([Cvttps2dq, Vcvttps2dq], each 4 -> 4, sse::Cvttps2dq),
    float_row!([Cvtpd2dq, Vcvtpd2dq], each 8 -> 4, Narrowing<sse::Cvtpd2dq>),
    float_row!([Cvttpd2dq, Vcvttpd2dq], each 8 -> 4, Narrowing<sse::Cvttpd2dq>),
    float_row!([Cvtps2pd, Vcvtps2pd], each 4 -> 8, Widening<sse::Cvtps2pd>),
    float_row!([Cvtpd2ps, Vcvtpd2ps], each 8 -> 4, Narrowing<sse::Cvtpd2ps>),
    float_row!([Cvtss2sd, Vcvtss2sd], scalar 4 -> 8, UNARY, sse::Cvtss2sd),
    float_row!([Cvtsd2ss, Vcvtsd2ss], scalar 8 -> 4, UNARY, sse::Cvtsd2ss),
    from_general_row!([Cvtsi2ss, Vcvtsi2ss], 4, sse::Cvtsi2ss32, sse::Cvtsi2ss64),
    from_general_row!([Cvtsi2sd, Vcvtsi2sd], 8, sse::Cvtsi2sd32, sse::Cvtsi2sd64),
    to_general_row!([Cvtss2si, Vcvtss2si], 4, sse::Cvtss2si32, sse::Cvtss2si64),
    to_general_row!([Cvttss2si, Vcvttss2si], 4, sse::Cvttss2si32, sse::Cvttss2si64),
    to_general_row!([Cvtsd2si, Vcvtsd2si], 8, sse::Cvtsd2si32, sse::Cvtsd2si64),
    to_general_row!([Cvttsd2si, Vcvttsd2si], 8, sse::Cvttsd2si32, sse::Cvttsd2si64),
    row!(Cvtpi2ps, Select, SSE.union(Flags::X87), from_mmx::<sse::Cvtdq2ps, true>),
    row!(Cvtpi2pd, Select, SSE.union(Flags::X87), from_mmx::<sse::Cvtdq2pd, false>),
    row!(Cvtps2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvtps2dq, 4>),
    row!(Cvttps2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvttps2dq, 4>),
    row!(Cvtpd2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvtpd2dq, 8>),
    row!(Cvttpd2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvttpd2dq, 8>),
];
