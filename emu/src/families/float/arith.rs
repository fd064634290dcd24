//! SSE arithmetic (SDM volume 1, sections 10.4.1.2, 11.4.1.2, 12.3 and 12.10.2).

use crate::decode::form::Form;
use crate::decode::processor::Facts;
use crate::host::sse::{self, HostOp};
use crate::model::exception::Exception;
use crate::model::format::Format;
use crate::model::lane::{Bits, Lane};
use crate::model::registers::Mxcsr;
use crate::run::context::Execute;
use crate::run::row::Row;
use crate::shape::float::{FloatOp, SSE, UNARY, one_source, two_sources};
use crate::shape::row;
use crate::vector::float::compute;

pub(super) static ROWS: &[Row] = &[
    row!(Addps, Select, SSE, two_sources::<sse::Addps>),
    row!(Addpd, Select, SSE, two_sources::<sse::Addpd>),
    row!(Addss, Select, SSE, two_sources::<sse::Addss>),
    row!(Addsd, Select, SSE, two_sources::<sse::Addsd>),
    row!(Subps, Select, SSE, two_sources::<sse::Subps>),
    row!(Subpd, Select, SSE, two_sources::<sse::Subpd>),
    row!(Subss, Select, SSE, two_sources::<sse::Subss>),
    row!(Subsd, Select, SSE, two_sources::<sse::Subsd>),
    row!(Mulps, Select, SSE, two_sources::<sse::Mulps>),
    row!(Mulpd, Select, SSE, two_sources::<sse::Mulpd>),
    row!(Mulss, Select, SSE, two_sources::<sse::Mulss>),
    row!(Mulsd, Select, SSE, two_sources::<sse::Mulsd>),
    row!(Divps, Select, SSE, two_sources::<sse::Divps>),
    row!(Divpd, Select, SSE, two_sources::<sse::Divpd>),
    row!(Divss, Select, SSE, two_sources::<sse::Divss>),
    row!(Divsd, Select, SSE, two_sources::<sse::Divsd>),
    row!(Minps, Select, SSE, two_sources::<sse::Minps>),
    row!(Minpd, Select, SSE, two_sources::<sse::Minpd>),
    row!(Minss, Select, SSE, two_sources::<sse::Minss>),
    row!(Minsd, Select, SSE, two_sources::<sse::Minsd>),
    row!(Maxps, Select, SSE, two_sources::<sse::Maxps>),
    row!(Maxpd, Select, SSE, two_sources::<sse::Maxpd>),
    row!(Maxss, Select, SSE, two_sources::<sse::Maxss>),
    row!(Maxsd, Select, SSE, two_sources::<sse::Maxsd>),
    row!(Sqrtps, Select, SSE, one_source::<sse::Sqrtps>),
    row!(Sqrtpd, Select, SSE, one_source::<sse::Sqrtpd>),
    row!(Sqrtss, Select, UNARY, two_sources::<sse::Sqrtss>),
    row!(Sqrtsd, Select, UNARY, two_sources::<sse::Sqrtsd>),
    row!(Rcpps, Select, SSE, one_source::<sse::Rcpps>),
    row!(Rcpss, Select, UNARY, two_sources::<sse::Rcpss>),
    row!(Rsqrtps, Select, SSE, one_source::<sse::Rsqrtps>),
    row!(Rsqrtss, Select, UNARY, two_sources::<sse::Rsqrtss>),
    row!(Addsubps, Select, SSE, two_sources::<sse::Addsubps>),
    row!(Addsubpd, Select, SSE, two_sources::<sse::Addsubpd>),
    row!(Haddps, Select, SSE, two_sources::<Horizontal<sse::Addps>>),
    row!(Haddpd, Select, SSE, two_sources::<Horizontal<sse::Addpd>>),
    row!(Hsubps, Select, SSE, two_sources::<Horizontal<sse::Subps>>),
    row!(Hsubpd, Select, SSE, two_sources::<Horizontal<sse::Subpd>>),
    row!(Dpps, Select, SSE, dpps),
    row!(Dppd, Select, SSE, dppd),
];

/// HADDPS and its like: the operation on neighbours, those of each block of the first source, then those
/// of the second.
struct Horizontal<O>(O);

impl<O: HostOp> FloatOp for Horizontal<O> {
    type Lane = <O::Source as Format>::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        _: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        let (even, odd) = neighbours::<Self::Lane, B>(first, second);
        compute::<O, B>(&even, &odd, mxcsr, result)
    }
}

/// The even and the odd lanes of each block of both sources.
#[inline(always)]
fn neighbours<T: Lane, B: Bits>(first: &B, second: &B) -> (B, B) {
    let lanes = 16 / size_of::<T>();
    let (mut even, mut odd) = (*first, *first);
    let sources = first.lanes::<T>().chunks_exact(lanes).zip(second.lanes::<T>().chunks_exact(lanes));
    let results =
        even.lanes_mut::<T>().chunks_exact_mut(lanes).zip(odd.lanes_mut::<T>().chunks_exact_mut(lanes));
    for ((first, second), (even, odd)) in sources.zip(results) {
        let pairs = first.chunks_exact(2).chain(second.chunks_exact(2));
        for (pair, (even, odd)) in pairs.zip(even.iter_mut().zip(odd)) {
            if let &[low, high] = pair {
                (*even, *odd) = (low, high);
            }
        }
    }
    (even, odd)
}

/// Lanes that the immediate does not choose become zeros.
#[inline(always)]
fn choose<T: Lane, B: Bits>(mut value: B, choice: u8) -> B {
    for block in value.lanes_mut::<T>().chunks_exact_mut(16 / size_of::<T>()) {
        for (index, lane) in block.iter_mut().enumerate() {
            if choice >> index & 1 == 0 {
                *lane = T::zeroed();
            }
        }
    }
    value
}

/// The lanes of each block, those whose numbers differ in the bit `distance` exchanged.
#[inline(always)]
fn exchanged<T: Lane, B: Bits>(value: &B, distance: usize) -> B {
    let mut result = *value;
    let lanes = value.lanes::<T>();
    for (index, lane) in result.lanes_mut::<T>().iter_mut().enumerate() {
        if let Some(other) = lanes.get(index ^ distance) {
            *lane = *other;
        }
    }
    result
}

/// A dot product: products that the high half of the immediate chooses, sums of two, sum of four. Each step can
/// raise an exception that hides the next step. In which order two are added shows where both are NaNs.
struct Dot<Multiply, Add, const EXCHANGES: bool>(Multiply, Add);

fn dpps(form: &Form<'_>) -> Option<Execute> {
    match form.processor.is(Facts::DOT_PRODUCTS_EXCHANGE_LANES) {
        true => two_sources::<Dot<sse::Mulps, sse::Addps, true>>(form),
        false => two_sources::<Dot<sse::Mulps, sse::Addps, false>>(form),
    }
}

fn dppd(form: &Form<'_>) -> Option<Execute> {
    match form.processor.is(Facts::DOT_PRODUCTS_EXCHANGE_LANES) {
        true => two_sources::<Dot<sse::Mulpd, sse::Addpd, true>>(form),
        false => two_sources::<Dot<sse::Mulpd, sse::Addpd, false>>(form),
    }
}

impl<F: Format, Multiply: HostOp<Source = F>, Add: HostOp<Source = F>, const EXCHANGES: bool> FloatOp
    for Dot<Multiply, Add, EXCHANGES>
{
    type Lane = F::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        // Zero times zero raises nothing.
        let first = choose::<F::Lane, B>(*first, immediate >> 4);
        let second = choose::<F::Lane, B>(*second, immediate >> 4);
        compute::<Multiply, B>(&first, &second, mxcsr, result)?;
        let steps = (128 / F::BITS).ilog2();
        for step in 0..steps {
            let (left, right) = if !EXCHANGES {
                neighbours::<F::Lane, B>(result, result)
            } else if step + 1 == steps {
                (*result, exchanged::<F::Lane, B>(result, 1 << step))
            } else {
                (exchanged::<F::Lane, B>(result, 1 << step), *result)
            };
            compute::<Add, B>(&left, &right, mxcsr, result)?;
        }
        *result = choose::<F::Lane, B>(*result, immediate);
        Ok(())
    }
}
