//! The shapes of SSE floating-point instructions.
//!
//! `row!(Addps, Select, SSE, two_sources::<sse::Addps>)`: the operation says whether it works on one
//! element or on all.

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::host::sse::HostOp;
use crate::model::exception::Exception;
use crate::model::format::Format;
use crate::model::lane::{Bits, Lane, Xmm};
use crate::model::outcome::Outcome;
use crate::model::registers::{Mxcsr, Rflags};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Mem, Reg, Source};
use crate::shape::vector::ClassName;
use crate::vector::float;
use crate::vector::{Class, InMemory, InPart, InRegister, Mmx, Place, Sse};

/// What a row is that computes on floating-point elements under MXCSR.
pub(crate) const SSE: Flags = Flags::SSE.union(Flags::FLOAT);
/// The same of one that computes on the last operand only, though it copies elements of another.
pub(crate) const UNARY: Flags = SSE.union(Flags::LAST_SOURCE);

/// An operation on floating-point elements under MXCSR.
pub(crate) trait FloatOp {
    /// What a mask would count in the destination.
    type Lane: Lane;

    /// Computes all blocks of 128 bits as one instruction. A scalar operation copies the other elements
    /// from `first`; one with a single source ignores `first` otherwise.
    ///
    /// # Errors
    /// #XM, for an unmasked exception: then only the flags of MXCSR have changed, and `result` is of no use.
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception>;
}

impl<O: HostOp> FloatOp for O {
    type Lane = <O::Target as Format>::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        _: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        float::compute::<O, B>(first, second, mxcsr, result)
    }
}

/// Lets a function read registers and change the target's MXCSR.
#[inline(always)]
fn with_mxcsr<R>(c: &mut Context<'_>, function: impl FnOnce(&Context<'_>, &mut Mxcsr) -> R) -> R {
    let mut mxcsr = c.registers.extended.mxcsr;
    let result = function(c, &mut mxcsr);
    c.registers.extended.mxcsr = mxcsr;
    result
}

#[inline(always)]
fn apply<O: FloatOp, B: Bits>(c: &mut Context<'_>, first: &B, second: &B) -> Result<B, Exception> {
    let mut result = B::default();
    with_mxcsr(c, |c, mxcsr| O::apply(first, second, c.decoded.immediate as u8, mxcsr, &mut result))?;
    Ok(result)
}

/// Applies the operation to the last operand, of which `memory` has what is in memory.
#[inline(always)]
fn apply_to_one<C: Class, P: Place, O: FloatOp>(
    c: &mut Context<'_>,
    memory: &C::Bits,
) -> Result<C::Bits, Exception> {
    let mut result = C::Bits::default();
    with_mxcsr(c, |c, mxcsr| {
        let source = P::source::<C>(c, 1, memory);
        O::apply(source, source, c.decoded.immediate as u8, mxcsr, &mut result)
    })?;
    Ok(result)
}

/// Picks a function generic over class and place: operand `$operand` is the last source, a vector register
/// or so many bytes of memory.
macro_rules! by_source {
    ($form:expr, $operand:expr, $function:ident $(, <$($more:ty),+>)?) => {
        match ($form.class($operand), $form.memory_bytes()) {
            (Some(ClassName::Sse), None) => Some($function::<Sse, InRegister $(, $($more),+)?> as Execute),
            (None, Some(16)) => Some($function::<Sse, InMemory $(, $($more),+)?> as Execute),
            (None, Some(8)) => Some($function::<Sse, InPart<8> $(, $($more),+)?> as Execute),
            (None, Some(4)) => Some($function::<Sse, InPart<4> $(, $($more),+)?> as Execute),
            _ => None,
        }
    };
}

/// Vector register, vector register or memory: ADDPS, and SQRTSS, which keeps what it does not compute.
pub(crate) fn two_sources<O: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, O::Lane>(c, &mut memory)?;
        let mut result = C::Bits::default();
        with_mxcsr(c, |c, mxcsr| {
            let (first, second) = (C::register(c, C::FIRST), P::source::<C>(c, C::FIRST + 1, &memory));
            O::apply(first, second, c.decoded.immediate as u8, mxcsr, &mut result)
        })?;
        C::set::<O::Lane>(c, result);
        Ok(Outcome::Next)
    }
    by_source!(form, 1, run, <O>)
}

/// One vector register or memory: SQRTPS.
pub(crate) fn one_source<O: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, O::Lane>(c, &mut memory)?;
        let result = apply_to_one::<C, P, O>(c, &memory)?;
        C::set::<O::Lane>(c, result);
        Ok(Outcome::Next)
    }
    by_source!(form, 1, run, <O>)
}

/// A general register or memory to an element: CVTSI2SS, by operations for 32 and 64 bits.
pub(crate) fn from_general<Narrow: FloatOp, Wide: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<S: Source, W: Width, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let source = Xmm::from_low(S::read::<W>(c)?.zero_extend());
        let first = Sse::get(c, Sse::FIRST);
        let result = apply::<O, Xmm>(c, &first, &source)?;
        Sse::set::<O::Lane>(c, result);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.shape(1), form.size(1)) {
        (ClassName::Sse, Shape::Register, 4) => Some(run::<Reg<1>, u32, Narrow>),
        (ClassName::Sse, Shape::Register, 8) => Some(run::<Reg<1>, u64, Wide>),
        (ClassName::Sse, Shape::Memory, 4) => Some(run::<Mem, u32, Narrow>),
        (ClassName::Sse, Shape::Memory, 8) => Some(run::<Mem, u64, Wide>),
        _ => None,
    }
}

/// An element to a general register: CVTSS2SI, by operations for 32 and 64 bits.
pub(crate) fn to_general<Narrow: FloatOp, Wide: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, W: Width, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, O::Lane>(c, &mut memory)?;
        let result = apply_to_one::<C, P, O>(c, &memory)?;
        let low = result.quadwords().first().copied().unwrap_or(0);
        c.decoded.operand[0].set(c.registers, W::truncate(low));
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.size(0)) {
        (Shape::Register, 4) => by_source!(form, 1, run, <u32, Narrow>),
        (Shape::Register, 8) => by_source!(form, 1, run, <u64, Wide>),
        _ => None,
    }
}

/// An MMX register or memory to two elements: CVTPI2PS. The operation works on the low 64 bits; `KEEP` keeps
/// the high ones. On Intel's processors the memory form may be an MMX instruction, too.
pub(crate) fn from_mmx<O: FloatOp, const KEEP: bool>(form: &Form<'_>) -> Option<Execute> {
    fn run<P: Place, O: FloatOp, const KEEP: bool, const MMX: bool>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        if MMX {
            Mmx::ready(c)?;
        }
        let [source] = P::fetch::<Mmx, O::Lane>(c, 1)?;
        if MMX {
            // Even if the operation raises #XM.
            Mmx::done(c);
        }
        let source = Xmm::from_low(source);
        let mut result = apply::<O, Xmm>(c, &source, &source)?;
        if KEEP {
            result[1] = Sse::get(c, 0)[1];
        }
        Sse::set::<O::Lane>(c, result);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.class(1), form.memory_bytes()) {
        (ClassName::Sse, Some(ClassName::Mmx), None) => Some(run::<InRegister, O, KEEP, true>),
        (ClassName::Sse, None, Some(8)) => Some(run::<InPart<8>, O, KEEP, false>),
        _ => None,
    }
}

/// Two elements of `BYTES` bytes to an MMX register: CVTPS2PI. The operation sees zeros in those above.
pub(crate) fn to_mmx<O: FloatOp, const BYTES: usize>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, O: FloatOp, const BYTES: usize>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        Mmx::ready(c)?;
        let mut source = P::fetch::<C, O::Lane>(c, 1)?;
        // Even if the operation raises #XM.
        Mmx::done(c);
        source.quadwords_mut().iter_mut().skip(2 * BYTES / 8).for_each(|quadword| *quadword = 0);
        let result = apply::<O, C::Bits>(c, &source, &source)?;
        Mmx::set::<u32>(c, [result.quadwords().first().copied().unwrap_or(0)]);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.class(1), form.memory_bytes()) {
        (ClassName::Mmx, Some(ClassName::Sse), None) => Some(run::<Sse, InRegister, O, BYTES>),
        (ClassName::Mmx, None, Some(16)) => Some(run::<Sse, InMemory, O, BYTES>),
        (ClassName::Mmx, None, Some(8)) => Some(run::<Sse, InPart<8>, O, BYTES>),
        _ => None,
    }
}

/// Two elements, whose relation goes to the flags: COMISS.
pub(crate) trait FloatFlags {
    /// What the memory operand is counted in.
    type Lane: Lane;

    /// The flags' new value.
    ///
    /// # Errors
    /// #XM, for an unmasked exception: then only the flags of MXCSR have changed.
    fn apply<B: Bits>(first: &B, second: &B, mxcsr: &mut Mxcsr) -> Result<Rflags, Exception>;
}

pub(crate) fn to_flags<O: FloatFlags>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, O: FloatFlags>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, O::Lane>(c, &mut memory)?;
        let flags =
            with_mxcsr(c, |c, mxcsr| O::apply(C::register(c, 0), P::source::<C>(c, 1, &memory), mxcsr))?;
        c.set_status(flags);
        Ok(Outcome::Next)
    }
    by_source!(form, 1, run, <O>)
}
