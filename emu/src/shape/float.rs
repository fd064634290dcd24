//! The shapes of SSE floating-point instructions.
//!
//! `float_row!([Addps, Vaddps], packed 4, sse::Addps)`: where the sources come from and where the result goes is
//! [`crate::run::phases`]'s business, but for those of MMX.

use iced_x86::EncodingKind;

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::host::sse::HostOp;
use crate::model::exception::Exception;
use crate::model::format::Format;
use crate::model::lane::{Bits, Lane, Xmm, by_vector};
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Mxcsr, Rflags};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Alignment, Embedded};
use crate::run::place::{Mem, Source as _};
use crate::vector::float;

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

/// Lets a function read registers and change the target's MXCSR; what EVEX embeds takes the place of its rounding,
/// and of its exceptions, which then change nothing.
#[inline(always)]
pub(crate) fn with_mxcsr<R>(
    c: &mut Context<'_>,
    function: impl FnOnce(&Context<'_>, &mut Mxcsr) -> Result<R, Exception>,
) -> Result<R, Exception> {
    let mut mxcsr = c.registers.extended.mxcsr;
    let embedded = c.phases.embedded();
    if embedded != Embedded::None {
        // Flags that are set already need not be found.
        mxcsr |= Mxcsr::MASKS | Mxcsr::EXCEPTIONS;
        if let Embedded::Rounding(rounding) = embedded {
            mxcsr = mxcsr.difference(Mxcsr::RC) | Mxcsr::from_bits_retain(u32::from(rounding & 3) << 13);
        }
        return function(c, &mut mxcsr);
    }
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

/// [`FloatOp::apply`].
type Apply<B> = fn(&B, &B, u8, &mut Mxcsr, &mut B) -> Result<(), Exception>;

/// Fetches and computes. All rows share it, so that what is compiled for each is its operation alone.
#[inline(always)]
fn fetch_and_apply<B: Bits>(c: &mut Context<'_>, apply: Apply<B>, result: &mut B) -> Result<(), Exception> {
    let mut memory = B::default();
    c.fetch(&mut memory)?;
    with_mxcsr(c, |c, mxcsr| {
        c.with_sources(&memory, |[first, second, _]| {
            apply(first, second, c.decoded.immediate as u8, mxcsr, result)
        })
    })
}

/// Rows of operations under MXCSR: `packed` ones on two sources, `each` on one, `scalar` on the lowest elements of
/// two, of which the first gives the rest.
macro_rules! float_row {
    ([$($mnemonic:ident),+], packed $bytes:literal, $operation:ty) => {
        $crate::shape::float::float_row!(@ [$($mnemonic),+], SSE, $crate::shape::float::float::<$operation>,
            Layout::new(Operands::Two, $bytes).by_length())
    };
    ([$($mnemonic:ident),+], each $from:literal -> $to:literal, $operation:ty) => {
        $crate::shape::float::float_row!(@ [$($mnemonic),+], SSE,
            $crate::shape::float::float::<$crate::shape::float::Each<$operation>>,
            Layout::new(Operands::One, $to).from($from).by_length())
    };
    ([$($mnemonic:ident),+], scalar $from:literal -> $to:literal, $flags:ident, $operation:ty) => {
        $crate::shape::float::float_row!(@ [$($mnemonic),+], $flags, $crate::shape::float::float::<$operation>,
            Layout::new(Operands::Two, $to).from($from).by_length().scalar())
    };
    (@ [$($mnemonic:ident),+], $flags:ident, $select:expr, $layout:expr) => {{
        #[allow(unused_imports, reason = "not every arm names both")]
        use $crate::run::phases::{Layout, Operands};
        $crate::run::row::Row {
            name: stringify!($($mnemonic)/+),
            mnemonics: &[$(iced_x86::Mnemonic::$mnemonic),+],
            flags: $crate::shape::float::$flags,
            select: $select,
            vector: Some($layout),
        }
    }};
}
pub(crate) use float_row;

/// Vectors, or their lowest elements: ADDPS, ADDSS.
pub(crate) fn float<O: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<B: Bits, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        compute::<B>(c, O::apply)
    }
    #[inline(never)]
    fn compute<B: Bits>(c: &mut Context<'_>, apply: Apply<B>) -> Result<Outcome, Exception> {
        let mut result = B::default();
        fetch_and_apply(c, apply, &mut result)?;
        c.commit(&result)
    }
    Some(by_vector!(form.vector_length(), run, <O>))
}

/// The operation of one source, which is the first.
pub(crate) struct Each<O>(O);

impl<O: FloatOp> FloatOp for Each<O> {
    type Lane = O::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        _: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        O::apply(first, first, immediate, mxcsr, result)
    }
}

/// An operation that reads the low half of each block: these are those of the low half of the source.
pub(crate) struct Widening<O>(O);

impl<O: FloatOp> FloatOp for Widening<O> {
    type Lane = O::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        let mut spread = B::default();
        for (to, from) in spread.quadwords_mut().iter_mut().step_by(2).zip(second.quadwords()) {
            *to = *from;
        }
        O::apply(first, &spread, immediate, mxcsr, result)
    }
}

/// An operation that writes the low half of each block: these make the low half of the result.
pub(crate) struct Narrowing<O>(O);

impl<O: FloatOp> FloatOp for Narrowing<O> {
    type Lane = O::Lane;

    #[inline(always)]
    fn apply<B: Bits>(
        first: &B,
        second: &B,
        immediate: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        let mut halves = B::default();
        O::apply(first, second, immediate, mxcsr, &mut halves)?;
        for (to, from) in result.quadwords_mut().iter_mut().zip(halves.quadwords().iter().step_by(2)) {
            *to = *from;
        }
        Ok(())
    }
}

/// A row whose last operand is a general register or memory, whose first element the operation writes.
macro_rules! from_general_row {
    ([$($mnemonic:ident),+], $bytes:literal, $narrow:ty, $wide:ty) => {
        $crate::shape::float::float_row!(@ [$($mnemonic),+], SSE,
            $crate::shape::float::from_general::<$narrow, $wide>,
            Layout::new(Operands::BeforeLast, $bytes).by_length().scalar())
    };
}
pub(crate) use from_general_row;

/// A general register or memory to an element: CVTSI2SS, by operations for 32 and 64 bits.
pub(crate) fn from_general<Narrow: FloatOp, Wide: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = Xmm::default();
        c.fetch(&mut memory)?;
        let last = c.decoded.instruction.op_count().saturating_sub(1) as usize;
        let source = Xmm::from_low(c.read::<W>(last & 3)?.zero_extend());
        let [first, ..] = c.sources::<Xmm>(&memory).map(|source| *source);
        let result = apply::<O, Xmm>(c, &first, &source)?;
        c.commit(&result)
    }
    match form.size(form.instruction.op_count().checked_sub(1)?) {
        4 => Some(run::<u32, Narrow>),
        8 => Some(run::<u64, Wide>),
        _ => None,
    }
}

/// A row that writes what the operation makes of the lowest element to a general register.
macro_rules! to_general_row {
    ([$($mnemonic:ident),+], $bytes:literal, $narrow:ty, $wide:ty) => {
        $crate::shape::float::float_row!(@ [$($mnemonic),+], SSE,
            $crate::shape::float::to_general::<$narrow, $wide>,
            Layout::new(Operands::One, $bytes).by_length().scalar())
    };
}
pub(crate) use to_general_row;

/// An element to a general register: CVTSS2SI, by operations for 32 and 64 bits.
pub(crate) fn to_general<Narrow: FloatOp, Wide: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = Xmm::default();
        c.fetch(&mut memory)?;
        let [source, ..] = c.sources::<Xmm>(&memory).map(|source| *source);
        let result = apply::<O, Xmm>(c, &source, &source)?;
        c.decoded.operand[0].set(c.registers, W::truncate(result[0]));
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.size(0)) {
        (Shape::Register, 4) => Some(run::<u32, Narrow>),
        (Shape::Register, 8) => Some(run::<u64, Wide>),
        _ => None,
    }
}

/// An MMX register or memory to two elements: CVTPI2PS. The operation works on the low 64 bits; `KEEP` keeps
/// the high ones. On Intel's processors the memory form may be an MMX instruction, too.
pub(crate) fn from_mmx<O: FloatOp, const KEEP: bool>(form: &Form<'_>) -> Option<Execute> {
    fn run<O: FloatOp, const KEEP: bool, const MEMORY: bool>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        let source = if MEMORY {
            Mem::read::<u64>(c)?
        } else {
            let x87 = &mut c.registers.extended.x87;
            x87.check_pending()?;
            // Even if the operation raises #XM.
            x87.enter_mmx();
            *x87.mm(c.decoded.operand[1].number)
        };
        let source = Xmm::from_low(source);
        let mut result = apply::<O, Xmm>(c, &source, &source)?;
        let destination = &mut c.registers.extended.vector[usize::from(c.decoded.operand[0].number & 31)];
        if KEEP {
            result[1] = destination.0[1];
        }
        destination.set_low(result);
        Ok(Outcome::Next)
    }
    Some(if form.any(Shape::Memory) { run::<O, KEEP, true> } else { run::<O, KEEP, false> })
}

/// Two elements of `BYTES` bytes to an MMX register: CVTPS2PI. The operation sees zeros in those above.
pub(crate) fn to_mmx<O: FloatOp, const BYTES: usize>(form: &Form<'_>) -> Option<Execute> {
    fn run<O: FloatOp, const BYTES: usize, const MEMORY: bool>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        c.registers.extended.x87.check_pending()?;
        let mut source = Xmm::default();
        if MEMORY {
            let address = c.linear();
            // 128 bits must be aligned, as those of other arithmetic.
            c.check_vector(address, 2 * BYTES, if BYTES == 8 { Alignment::Size } else { Alignment::Any })?;
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut source);
            c.memory.read(address, &mut bytes[..2 * BYTES], Access::Read)?;
        } else {
            let register = c.xmm(c.decoded.operand[1].number);
            source[..BYTES / 4].copy_from_slice(&register[..BYTES / 4]);
        }
        // Even if the operation raises #XM.
        c.registers.extended.x87.enter_mmx();
        let [result, _] = apply::<O, Xmm>(c, &source, &source)?;
        c.registers.extended.x87.set_mm(c.decoded.operand[0].number, result);
        Ok(Outcome::Next)
    }
    Some(if form.any(Shape::Memory) { run::<O, BYTES, true> } else { run::<O, BYTES, false> })
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

pub(crate) fn to_flags<O: FloatFlags>(_: &Form<'_>) -> Option<Execute> {
    fn run<O: FloatFlags>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = Xmm::default();
        c.fetch(&mut memory)?;
        let flags = with_mxcsr(c, |c, mxcsr| {
            let [first, second, _] = c.sources(&memory);
            O::apply(first, second, mxcsr)
        })?;
        c.set_status(flags);
        Ok(Outcome::Next)
    }
    Some(run::<O>)
}

/// A row that compares the lowest elements of two sources.
macro_rules! to_flags_row {
    ([$($mnemonic:ident),+], $bytes:literal, $operation:ty) => {
        $crate::shape::float::float_row!(@ [$($mnemonic),+], SSE,
            $crate::shape::float::to_flags::<$operation>,
            Layout::new(Operands::Two, $bytes).by_length().scalar())
    };
}
pub(crate) use to_flags_row;

/// A comparison, by the functions for legacy encodings, for others, and for those whose result are bits of a mask.
pub(crate) fn compare<Legacy: FloatOp, Vex: FloatOp>(form: &Form<'_>) -> Option<Execute> {
    fn to_mask<B: Bits, O: FloatOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut result = B::default();
        fetch_and_apply(c, O::apply, &mut result)?;
        let lanes = c.phases.lanes();
        let bytes = result.lanes::<u8>();
        let bits = bytes.chunks_exact(size_of::<O::Lane>()).take(lanes).enumerate();
        let bits = bits.fold(0, |bits, (index, lane)| bits | u64::from(lane[0] & 1) << (index & 63));
        c.commit_mask(bits, lanes);
        Ok(Outcome::Next)
    }
    if form.encoding() == EncodingKind::Legacy {
        return float::<Legacy>(form);
    }
    match form.instruction.op_register(0).is_k() {
        true => Some(by_vector!(form.vector_length(), to_mask, <Vex>)),
        false => float::<Vex>(form),
    }
}
