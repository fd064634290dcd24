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
use crate::shape::float::{FloatOp, float, float_row};
use crate::vector::float::compute;

pub(super) static ROWS: &[Row] = &[
    float_row!([Addps, Vaddps], packed 4, sse::Addps),
    float_row!([Addpd, Vaddpd], packed 8, sse::Addpd),
    float_row!([Addss, Vaddss], scalar 4 -> 4, SSE, sse::Addss),
    float_row!([Addsd, Vaddsd], scalar 8 -> 8, SSE, sse::Addsd),
    float_row!([Subps, Vsubps], packed 4, sse::Subps),
    float_row!([Subpd, Vsubpd], packed 8, sse::Subpd),
    float_row!([Subss, Vsubss], scalar 4 -> 4, SSE, sse::Subss),
    float_row!([Subsd, Vsubsd], scalar 8 -> 8, SSE, sse::Subsd),
    float_row!([Mulps, Vmulps], packed 4, sse::Mulps),
    float_row!([Mulpd, Vmulpd], packed 8, sse::Mulpd),
    float_row!([Mulss, Vmulss], scalar 4 -> 4, SSE, sse::Mulss),
    float_row!([Mulsd, Vmulsd], scalar 8 -> 8, SSE, sse::Mulsd),
    float_row!([Divps, Vdivps], packed 4, sse::Divps),
    float_row!([Divpd, Vdivpd], packed 8, sse::Divpd),
    float_row!([Divss, Vdivss], scalar 4 -> 4, SSE, sse::Divss),
    float_row!([Divsd, Vdivsd], scalar 8 -> 8, SSE, sse::Divsd),
    float_row!([Minps, Vminps], packed 4, sse::Minps),
    float_row!([Minpd, Vminpd], packed 8, sse::Minpd),
    float_row!([Minss, Vminss], scalar 4 -> 4, SSE, sse::Minss),
    float_row!([Minsd, Vminsd], scalar 8 -> 8, SSE, sse::Minsd),
    float_row!([Maxps, Vmaxps], packed 4, sse::Maxps),
    float_row!([Maxpd, Vmaxpd], packed 8, sse::Maxpd),
    float_row!([Maxss, Vmaxss], scalar 4 -> 4, SSE, sse::Maxss),
    float_row!([Maxsd, Vmaxsd], scalar 8 -> 8, SSE, sse::Maxsd),
    float_row!([Sqrtps, Vsqrtps], each 4 -> 4, sse::Sqrtps),
    float_row!([Sqrtpd, Vsqrtpd], each 8 -> 8, sse::Sqrtpd),
    float_row!([Sqrtss, Vsqrtss], scalar 4 -> 4, UNARY, sse::Sqrtss),
    float_row!([Sqrtsd, Vsqrtsd], scalar 8 -> 8, UNARY, sse::Sqrtsd),
    float_row!([Rcpps, Vrcpps], each 4 -> 4, sse::Rcpps).by_host(),
    float_row!([Rcpss, Vrcpss], scalar 4 -> 4, UNARY, sse::Rcpss).by_host(),
    float_row!([Rsqrtps, Vrsqrtps], each 4 -> 4, sse::Rsqrtps).by_host(),
    float_row!([Rsqrtss, Vrsqrtss], scalar 4 -> 4, UNARY, sse::Rsqrtss).by_host(),
    float_row!([Addsubps, Vaddsubps], packed 4, sse::Addsubps),
    float_row!([Addsubpd, Vaddsubpd], packed 8, sse::Addsubpd),
    float_row!([Haddps, Vhaddps], packed 4, Horizontal<sse::Addps>),
    float_row!([Haddpd, Vhaddpd], packed 8, Horizontal<sse::Addpd>),
    float_row!([Hsubps, Vhsubps], packed 4, Horizontal<sse::Subps>),
    float_row!([Hsubpd, Vhsubpd], packed 8, Horizontal<sse::Subpd>),
    Row { select: dpps, ..float_row!([Dpps, Vdpps], packed 4, sse::Mulps) },
    Row { select: dppd, ..float_row!([Dppd, Vdppd], packed 8, sse::Mulpd) },
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
        true => float::<Dot<sse::Mulps, sse::Addps, true>>(form),
        false => float::<Dot<sse::Mulps, sse::Addps, false>>(form),
    }
}

fn dppd(form: &Form<'_>) -> Option<Execute> {
    match form.processor.is(Facts::DOT_PRODUCTS_EXCHANGE_LANES) {
        true => float::<Dot<sse::Mulpd, sse::Addpd, true>>(form),
        false => float::<Dot<sse::Mulpd, sse::Addpd, false>>(form),
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
