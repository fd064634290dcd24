//! Operations on single elements, by [`crate::vector::soft`]: each lane of the result from the same lane of up to three
//! sources. Lanes that the mask leaves out are not computed, so they raise nothing.

use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::format::Format;
use crate::model::lane::Bits;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::Mxcsr;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Sources, Zmm};
use crate::shape::float::{FloatOp, with_mxcsr};
use crate::vector::float::raise;
use crate::vector::soft::{self, Control};

/// Elements of the sources, the immediate and the lane's number, and what it computes under.
pub(crate) type Apply = fn([u64; 3], (u8, usize), &mut Control) -> u64;

/// An operation on elements.
pub(crate) trait ElementOp {
    /// An element of the sources, in bytes.
    const FROM: usize;
    /// An element of the result, in bytes.
    const TO: usize;
    /// Whether it raises nothing where [`Facts::COMPLEX_PRODUCTS_RAISE_NOTHING`], though it sets flags.
    const COMPLEX: bool = false;
    /// The operation.
    fn apply(elements: [u64; 3], immediate: (u8, usize), control: &mut Control) -> u64;
}

/// Element `index` of so many bytes.
#[inline(always)]
fn element(vector: &Zmm, bytes: usize, index: usize) -> u64 {
    let byte = index * bytes;
    vector[(byte / 8) & 7] >> (8 * (byte & 7)) & u64::MAX >> (64 - 8 * bytes)
}

#[inline(always)]
fn set_element(vector: &mut Zmm, bytes: usize, index: usize, value: u64) {
    let (byte, ones) = (index * bytes, u64::MAX >> (64 - 8 * bytes));
    let shift = 8 * (byte & 7);
    let quadword = &mut vector[(byte / 8) & 7];
    *quadword = *quadword & !(ones << shift) | (value & ones) << shift;
}

/// Computes all lanes that the mask leaves.
pub(crate) fn lanes(
    c: &Context<'_>,
    sources: &Sources,
    (from, to): (usize, usize),
    apply: Apply,
    control: &mut Control,
    result: &mut Zmm,
) {
    let (mask, immediate) = (c.write_mask(), c.decoded.immediate as u8);
    for index in (0..c.phases.lanes()).filter(|index| mask >> (index & 63) & 1 != 0) {
        let elements = [0, 1, 2].map(|number| element(&sources[number], from, index));
        set_element(result, to, index, apply(elements, (immediate, index), control));
    }
}

/// Fetches and computes; the scalar forms leave out the first `SKIPPED` sources.
#[inline(always)]
fn compute<O: ElementOp, const SKIPPED: usize>(
    c: &mut Context<'_>,
    result: &mut Zmm,
    upper: Option<usize>,
) -> Result<(), Exception> {
    let mut sources = c.fetch_copies()?;
    if let Some(upper) = upper {
        result[..2].copy_from_slice(&sources[upper][..2]);
    }
    sources.rotate_left(SKIPPED);
    with_mxcsr(c, |c, mxcsr| {
        let silent = O::COMPLEX && c.decoded.processor.is(Facts::COMPLEX_PRODUCTS_RAISE_NOTHING);
        let mut control = Control::of(if silent { *mxcsr | Mxcsr::MASKS } else { *mxcsr });
        control.facts = c.decoded.processor.facts;
        lanes(c, &sources, (O::FROM, O::TO), O::apply, &mut control, result);
        if silent {
            *mxcsr |= control.raised;
            return Ok(());
        }
        raise(control.raised, mxcsr)
    })
}

/// All lanes.
pub(crate) fn packed<O: ElementOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let mut result = Zmm::default();
    compute::<O, 0>(c, &mut result, None)?;
    c.commit(&result)
}

/// The lowest, and the others from source `UPPER`.
pub(crate) fn scalar<O: ElementOp, const SKIPPED: usize, const UPPER: usize>(
    c: &mut Context<'_>,
) -> Result<Outcome, Exception> {
    let mut result = Zmm::default();
    compute::<O, SKIPPED>(c, &mut result, Some(UPPER))?;
    c.commit(&result)
}

/// To a mask register, a bit for each lane.
pub(crate) fn to_mask<O: ElementOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let mut result = Zmm::default();
    compute::<O, 0>(c, &mut result, None)?;
    let lanes = c.phases.lanes();
    let bits = (0..lanes).fold(0, |bits, index| bits | (element(&result, O::TO, index) & 1) << (index & 63));
    c.commit_mask(bits, lanes);
    Ok(Outcome::Next)
}

/// To a register, or to memory, where lanes that the mask leaves out are not looked at.
pub(crate) fn packed_or_stored<O: ElementOp>(form: &Form<'_>) -> Option<Execute> {
    fn stored<O: ElementOp>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut result = Zmm::default();
        if !c.decoded.processor.is(Facts::PS2PH_RAISES_BEFORE_ITS_ACCESS) {
            access(c, O::TO)?;
        }
        // Flags that are raised stay so even if the store faults.
        compute::<O, 0>(c, &mut result, None)?;
        store(c, &result, O::TO)?;
        Ok(Outcome::Next)
    }
    Some(if form.shape(0) == Shape::Memory { stored::<O> } else { packed::<O> })
}

/// Raises what the store of so many bytes a lane would raise.
fn access(c: &mut Context<'_>, bytes: usize) -> Result<(), Exception> {
    let length = (c.phases.lanes() * bytes).min(64);
    if c.phases.mask_number() == 0 {
        let address = c.linear();
        c.check(address, length, c.decoded.processor.ac_wants(length), c.decoded.address.stack)?;
        c.memory.read(address, &mut [0; 64][..length], Access::Write)?;
        return Ok(());
    }
    let mask = c.write_mask();
    c.check_alignment_of_elements(length, bytes, mask)?;
    c.access_elements(length, bytes, mask)
}

fn store(c: &mut Context<'_>, result: &Zmm, bytes: usize) -> Result<(), Exception> {
    let (lanes, mask) = (c.phases.lanes(), c.write_mask());
    let values: &[u8] = bytemuck::cast_slice(result);
    let stack = c.decoded.address.stack;
    if c.phases.mask_number() == 0 {
        let address = c.linear();
        c.check(address, lanes * bytes, 1, stack)?;
        c.memory.write(address, &values[..(lanes * bytes).min(64)])?;
        return Ok(());
    }
    c.store_elements(&values[..(lanes * bytes).min(64)], bytes, mask)
}

/// An integer of a general register as the lowest element.
pub(crate) struct FromInteger<D, const BITS: u32, const SIGNED: bool>(D);

impl<D: Format, const BITS: u32, const SIGNED: bool> FloatOp for FromInteger<D, BITS, SIGNED> {
    type Lane = D::Lane;

    fn apply<B: Bits>(
        first: &B,
        second: &B,
        _: u8,
        mxcsr: &mut Mxcsr,
        result: &mut B,
    ) -> Result<(), Exception> {
        let integer = integer::<BITS, SIGNED>(second.quadwords()[0]);
        let mut control = Control::of(*mxcsr);
        let value = soft::from_integer::<D>(integer, &mut control);
        *result = *first;
        let ones = D::MASK as u64;
        let low = &mut result.quadwords_mut()[0];
        *low = *low & !ones | value;
        raise(control.raised, mxcsr)
    }
}

/// An integer of so many bits.
#[inline(always)]
pub(crate) fn integer<const BITS: u32, const SIGNED: bool>(bits: u64) -> i128 {
    let shift = 64 - BITS;
    if SIGNED { i128::from(((bits << shift) as i64) >> shift) } else { i128::from(bits << shift >> shift) }
}

/// The lowest element as an integer of a general register.
pub(crate) struct ToInteger<S, const BITS: u32, const SIGNED: bool, const TRUNCATING: bool>(S);

impl<S: Format, const BITS: u32, const SIGNED: bool, const TRUNCATING: bool> FloatOp
    for ToInteger<S, BITS, SIGNED, TRUNCATING>
{
    type Lane = S::Lane;

    fn apply<B: Bits>(_: &B, second: &B, _: u8, mxcsr: &mut Mxcsr, result: &mut B) -> Result<(), Exception> {
        let mut control = Control::of(*mxcsr);
        let element = second.quadwords()[0] & S::MASK as u64;
        let rounding = if TRUNCATING { 3 } else { control.rounding };
        let value = soft::to_integer::<S>(element, (BITS, SIGNED), rounding, &mut control);
        result.quadwords_mut()[0] = value;
        raise(control.raised, mxcsr)
    }
}

/// Rows of operations on elements: `packed`, `scalar` or to a `mask`; which operands are the sources; how many bytes
/// an element has in these and in the result.
macro_rules! element_row {
    ($mnemonic:ident, packed $operands:ident, $from:literal -> $to:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $from, $to,
            Layout::new(Operands::$operands, $to).from($from).by_length(),
            |_| Some($crate::shape::element::packed::<Op>), $($closure)+)
    };
    // The lowest, and zeros above it.
    ($mnemonic:ident, lowest $operands:ident, $from:literal -> $to:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $from, $to,
            Layout::new(Operands::$operands, $to).from($from).by_length().scalar(),
            |_| Some($crate::shape::element::packed::<Op>), $($closure)+)
    };
    ($mnemonic:ident, stored $operands:ident, $from:literal -> $to:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $from, $to,
            Layout::new(Operands::$operands, $to).from($from).by_length(),
            $crate::shape::element::packed_or_stored::<Op>, $($closure)+)
    };
    ($mnemonic:ident, scalar One, $from:literal -> $to:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, UNARY, $from, $to,
            Layout::new(Operands::Two, $to).from($from).by_length().scalar(),
            |_| Some($crate::shape::element::scalar::<Op, 1, 0>), $($closure)+)
    };
    ($mnemonic:ident, scalar Second, $from:literal -> $to:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $from, $to,
            Layout::new(Operands::Three, $to).from($from).by_length().scalar(),
            |_| Some($crate::shape::element::scalar::<Op, 0, 1>), $($closure)+)
    };
    ($mnemonic:ident, scalar $operands:ident, $from:literal -> $to:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $from, $to,
            Layout::new(Operands::$operands, $to).from($from).by_length().scalar(),
            |_| Some($crate::shape::element::scalar::<Op, 0, 0>), $($closure)+)
    };
    ($mnemonic:ident, mask $operands:ident, $bytes:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $bytes, $bytes,
            Layout::new(Operands::$operands, $bytes).by_length(),
            |_| Some($crate::shape::element::to_mask::<Op>), $($closure)+)
    };
    ($mnemonic:ident, scalar_mask $operands:ident, $bytes:literal, $($closure:tt)+) => {
        $crate::shape::element::element_row!(@ $mnemonic, SSE, $bytes, $bytes,
            Layout::new(Operands::$operands, $bytes).by_length().scalar(),
            |_| Some($crate::shape::element::to_mask::<Op>), $($closure)+)
    };
    (
        @ $mnemonic:ident, $flags:ident, $from:literal, $to:literal, $layout:expr, $select:expr,
        |$elements:pat_param, $immediate:pat_param, $control:ident| $call:expr
    ) => {{
        use $crate::run::phases::{Layout, Operands};
        struct Op;
        impl $crate::shape::element::ElementOp for Op {
            const FROM: usize = $from;
            const TO: usize = $to;
            fn apply($elements: [u64; 3], $immediate: (u8, usize), $control: &mut $crate::vector::soft::Control) -> u64 {
                $call
            }
        }
        $crate::run::row::Row {
            name: stringify!($mnemonic),
            mnemonics: &[iced_x86::Mnemonic::$mnemonic],
            flags: $crate::shape::float::$flags,
            select: $select,
            vector: Some($layout),
        }
    }};
}
pub(crate) use element_row;
