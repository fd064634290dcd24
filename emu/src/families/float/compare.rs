//! SSE comparison (SDM volume 1, sections 10.4.1.3 and 11.4.1.3).

use core::marker::PhantomData;

use crate::host::sse::{self, HostOp, relation};
use crate::model::exception::Exception;
use crate::model::format::Format;
use crate::model::lane::{Bits, Xmm, by_blocks_of};
use crate::model::registers::{Mxcsr, Rflags};
use crate::run::row::Row;
use crate::shape::float::{FloatFlags, FloatOp, compare, float_row, to_flags_row};
use crate::vector::float::compute;

pub(super) static ROWS: &[Row] = &[
    Row {
        select: compare::<
            Cmp<sse::QuietCmpps, sse::SignalingCmpps, 7>,
            Cmp<sse::QuietCmpps, sse::SignalingCmpps, 31>,
        >,
        ..float_row!([Cmpps, Vcmpps], packed 4, Cmp<sse::QuietCmpps, sse::SignalingCmpps, 7>)
    },
    Row {
        select: compare::<
            Cmp<sse::QuietCmppd, sse::SignalingCmppd, 7>,
            Cmp<sse::QuietCmppd, sse::SignalingCmppd, 31>,
        >,
        ..float_row!([Cmppd, Vcmppd], packed 8, Cmp<sse::QuietCmppd, sse::SignalingCmppd, 7>)
    },
    Row {
        select: compare::<
            Cmp<sse::QuietCmpss, sse::SignalingCmpss, 7>,
            Cmp<sse::QuietCmpss, sse::SignalingCmpss, 31>,
        >,
        ..float_row!([Cmpss, Vcmpss], scalar 4 -> 4, SSE, Cmp<sse::QuietCmpss, sse::SignalingCmpss, 7>)
    },
    Row {
        select: compare::<
            Cmp<sse::QuietCmpsd, sse::SignalingCmpsd, 7>,
            Cmp<sse::QuietCmpsd, sse::SignalingCmpsd, 31>,
        >,
        ..float_row!([Cmpsd, Vcmpsd], scalar 8 -> 8, SSE, Cmp<sse::QuietCmpsd, sse::SignalingCmpsd, 7>)
    },
    to_flags_row!([Comiss, Vcomiss], 4, Comi<sse::SignalingCmpss>),
    to_flags_row!([Comisd, Vcomisd], 8, Comi<sse::SignalingCmpsd>),
    to_flags_row!([Ucomiss, Vucomiss], 4, Comi<sse::QuietCmpss>),
    to_flags_row!([Ucomisd, Vucomisd], 8, Comi<sse::QuietCmpsd>),
];

/// What a comparison predicate asks: the imm8 of CMPPS, of which VEX and EVEX encodings use five bits, and
/// legacy ones three (SDM volume 2A, table 3-1).
#[derive(Clone, Copy)]
pub(super) struct Predicate(pub(super) u8);

impl Predicate {
    pub(super) const LESS: u8 = 1 << relation::LESS;
    pub(super) const EQUAL: u8 = 1 << relation::EQUAL;
    pub(super) const GREATER: u8 = 1 << 2;
    pub(super) const UNORDERED: u8 = 1 << relation::UNORDERED;

    /// Which relations it holds for, by its low four bits.
    #[rustfmt::skip]
    const HOLDS: [u8; 16] = {
        const L: u8 = Predicate::LESS;
        const E: u8 = Predicate::EQUAL;
        const G: u8 = Predicate::GREATER;
        const U: u8 = Predicate::UNORDERED;
        // EQ_OQ to ORD_Q, then EQ_UQ to TRUE_UQ.
        [
            E, L, L | E, U, L | G | U, E | G | U, G | U, L | E | G,
            E | U, L | U, L | E | U, 0, L | G, E | G, G, L | E | G | U,
        ]
    };

    pub(super) fn holds(self) -> u8 {
        Self::HOLDS[usize::from(self.0 & 15)]
    }

    /// Ones in the elements whose relation it holds for.
    #[inline(always)]
    fn mask<F: Format>(self, relations: u128) -> u128 {
        let [less, equal, unordered] = [relation::LESS, relation::EQUAL, relation::UNORDERED]
            .map(|bit| relations >> bit & F::LOWEST_BITS);
        let greater = F::LOWEST_BITS & !(less | equal | unordered);
        let holds = self.holds();
        let chosen = |bits: u128, relation: u8| if holds & relation != 0 { bits } else { 0 };
        let bits = chosen(less, Self::LESS)
            | chosen(equal, Self::EQUAL)
            | chosen(greater, Self::GREATER)
            | chosen(unordered, Self::UNORDERED);
        bits * F::MASK
    }

    /// Whether a quiet NaN is invalid.
    pub(super) fn is_signaling(self) -> bool {
        matches!(self.0 & 3, 1 | 2) != (self.0 & 16 != 0)
    }
}

/// CMPPS and its like, by how elements relate: the first operation for predicates under which a quiet NaN
/// raises nothing. Legacy encodings look at three bits of the immediate, others at five.
struct Cmp<Quiet, Signaling, const PREDICATES: u8>(PhantomData<(Quiet, Signaling)>);

impl<Quiet: HostOp, Signaling: HostOp, const PREDICATES: u8> FloatOp for Cmp<Quiet, Signaling, PREDICATES> {
    type Lane = <Quiet::Source as Format>::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        let predicate = Predicate(immediate & PREDICATES);
        let mut relations = B::default();
        if predicate.is_signaling() {
            compute::<Signaling, B>(first, second, mxcsr, &mut relations)?;
        } else {
            compute::<Quiet, B>(first, second, mxcsr, &mut relations)?;
        }
        let computed = if Quiet::ELEMENTS == 1 { Quiet::Source::MASK } else { u128::MAX };
        *result = by_blocks_of(first, &relations, |first: &Xmm, relations: &Xmm| {
            let mask = predicate.mask::<Quiet::Source>(bytemuck::cast(*relations));
            bytemuck::cast(mask & computed | bytemuck::cast::<Xmm, u128>(*first) & !computed)
        });
        Ok(())
    }
}

/// COMISS and UCOMISS, by how elements relate.
struct Comi<O>(O);

impl<O: HostOp> FloatFlags for Comi<O> {
    type Lane = <O::Source as Format>::Lane;

    #[inline(always)]
    fn apply<B: Bits>(first: &B, second: &B, mxcsr: &mut Mxcsr) -> Result<Rflags, Exception> {
        let mut relations = B::default();
        compute::<O, B>(first, second, mxcsr, &mut relations)?;
        let relations = relations.integer::<u8>(0);
        let flag = |relation: u32, flag: Rflags| {
            if relations >> relation & 1 != 0 { flag } else { Rflags::empty() }
        };
        Ok(flag(relation::LESS, Rflags::CF)
            | flag(relation::EQUAL, Rflags::ZF)
            | flag(relation::UNORDERED, Rflags::ZF | Rflags::PF | Rflags::CF))
    }
}
