//! SSE conversion (SDM volume 1, sections 10.4.1.6, 10.4.3 and 11.4.1.6).

use crate::decode::flags::Flags;
use crate::host::sse;
use crate::run::row::Row;
use crate::shape::float::{SSE, UNARY, from_general, from_mmx, one_source, to_general, to_mmx, two_sources};
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Cvtdq2ps, Select, SSE, one_source::<sse::Cvtdq2ps>),
    row!(Cvtdq2pd, Select, SSE, one_source::<sse::Cvtdq2pd>),
    row!(Cvtps2dq, Select, SSE, one_source::<sse::Cvtps2dq>),
    row!(Cvttps2dq, Select, SSE, one_source::<sse::Cvttps2dq>),
    row!(Cvtpd2dq, Select, SSE, one_source::<sse::Cvtpd2dq>),
    row!(Cvttpd2dq, Select, SSE, one_source::<sse::Cvttpd2dq>),
    row!(Cvtps2pd, Select, SSE, one_source::<sse::Cvtps2pd>),
    row!(Cvtpd2ps, Select, SSE, one_source::<sse::Cvtpd2ps>),
    row!(Cvtss2sd, Select, UNARY, two_sources::<sse::Cvtss2sd>),
    row!(Cvtsd2ss, Select, UNARY, two_sources::<sse::Cvtsd2ss>),
    row!(Cvtsi2ss, Select, SSE, from_general::<sse::Cvtsi2ss32, sse::Cvtsi2ss64>),
    row!(Cvtsi2sd, Select, SSE, from_general::<sse::Cvtsi2sd32, sse::Cvtsi2sd64>),
    row!(Cvtss2si, Select, SSE, to_general::<sse::Cvtss2si32, sse::Cvtss2si64>),
    row!(Cvttss2si, Select, SSE, to_general::<sse::Cvttss2si32, sse::Cvttss2si64>),
    row!(Cvtsd2si, Select, SSE, to_general::<sse::Cvtsd2si32, sse::Cvtsd2si64>),
    row!(Cvttsd2si, Select, SSE, to_general::<sse::Cvttsd2si32, sse::Cvttsd2si64>),
    row!(Cvtpi2ps, Select, SSE.union(Flags::X87), from_mmx::<sse::Cvtdq2ps, true>),
    row!(Cvtpi2pd, Select, SSE.union(Flags::X87), from_mmx::<sse::Cvtdq2pd, false>),
    row!(Cvtps2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvtps2dq, 4>),
    row!(Cvttps2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvttps2dq, 4>),
    row!(Cvtpd2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvtpd2dq, 8>),
    row!(Cvttpd2pi, Select, SSE.union(Flags::X87), to_mmx::<sse::Cvttpd2dq, 8>),
];
