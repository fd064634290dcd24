//! SSE comparison (SDM volume 1, sections 10.4.1.3 and 11.4.1.3).

use crate::exception::Exception;
use crate::float::{Format, by_blocks, raise};
use crate::host::sse::{self, Compare};
use crate::registers::{Mxcsr, Rflags};
use crate::shape::float::{FloatFlags, FloatOp, SSE, to_flags, two_sources};
use crate::shape::row;
use crate::table::Row;
use crate::vector::Bits;

pub(super) static ROWS: &[Row] = &[
    row!(Cmpps, Select, SSE, two_sources::<Cmp<sse::Cmpps>>),
    row!(Cmppd, Select, SSE, two_sources::<Cmp<sse::Cmppd>>),
    row!(Cmpss, Select, SSE, two_sources::<Cmp<sse::Cmpss>>),
    row!(Cmpsd, Select, SSE, two_sources::<Cmp<sse::Cmpsd>>),
    row!(Comiss, Select, SSE, to_flags::<Comi<sse::Cmpss, true>>),
    row!(Comisd, Select, SSE, to_flags::<Comi<sse::Cmpsd, true>>),
    row!(Ucomiss, Select, SSE, to_flags::<Comi<sse::Cmpss, false>>),
    row!(Ucomisd, Select, SSE, to_flags::<Comi<sse::Cmpsd, false>>),
];

/// What a comparison predicate asks: the imm8 of CMPPS, of which VEX and EVEX encodings use five bits, and
/// legacy ones three (SDM volume 2A, table 3-1).
#[derive(Clone, Copy)]
struct Predicate(u8);

impl Predicate {
    const LESS: u8 = 1 << 0;
    const EQUAL: u8 = 1 << 1;
    const GREATER: u8 = 1 << 2;
    const UNORDERED: u8 = 1 << 3;

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

    fn holds(self) -> u8 {
        Self::HOLDS[usize::from(self.0 & 15)]
    }

    /// Whether a quiet NaN is invalid.
    fn is_signaling(self) -> bool {
        matches!(self.0 & 3, 1 | 2) != (self.0 & 16 != 0)
    }
}

/// CMPPS and its like.
struct Cmp<C>(C);

impl<C: Compare> FloatOp for Cmp<C> {
    type Lane = <C::Source as Format>::Lane;

    #[inline(always)]
    fn apply<B: Bits>(first: B, second: B, immediate: u8, mxcsr: &mut Mxcsr) -> Result<B, Exception> {
        // Legacy encodings have eight predicates.
        let predicate = Predicate(immediate & 7);
        let holds = predicate.holds();
        let control = *mxcsr;
        let (result, raised) = by_blocks(first, second, |first, second| {
            let (relation, flags) = if predicate.is_signaling() {
                C::compare::<true>(first, second, control)
            } else {
                C::compare::<false>(first, second, control)
            };
            let sse::Relation { less, equal, unordered } = relation;
            let greater = !(less | equal | unordered);
            let chosen = |mask: u128, relation: u8| if holds & relation != 0 { mask } else { 0 };
            let result = chosen(less, Predicate::LESS)
                | chosen(equal, Predicate::EQUAL)
                | chosen(greater, Predicate::GREATER)
                | chosen(unordered, Predicate::UNORDERED);
            let computed = if C::ELEMENTS == 1 { C::Source::MASK } else { u128::MAX };
            (result & computed | first & !computed, flags)
        });
        raise(raised, mxcsr)?;
        Ok(result)
    }
}

/// COMISS and UCOMISS: a quiet NaN is invalid for the first only.
struct Comi<C, const SIGNALING: bool>(C);

impl<C: Compare, const SIGNALING: bool> FloatFlags for Comi<C, SIGNALING> {
    type Lane = <C::Source as Format>::Lane;

    #[inline(always)]
    fn apply<B: Bits>(first: B, second: B, mxcsr: &mut Mxcsr) -> Result<Rflags, Exception> {
        let low = |value: B| value.quadwords().first().copied().map_or(0, u128::from);
        let (relation, raised) = C::compare::<SIGNALING>(low(first), low(second), *mxcsr);
        raise(raised, mxcsr)?;
        let flag = |mask: u128, flag: Rflags| if mask & 1 != 0 { flag } else { Rflags::empty() };
        Ok(flag(relation.less, Rflags::CF)
            | flag(relation.equal, Rflags::ZF)
            | flag(relation.unordered, Rflags::ZF | Rflags::PF | Rflags::CF))
    }
}
