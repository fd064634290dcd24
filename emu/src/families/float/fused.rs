//! Fused multiply-add (SDM volume 1, section 14.5, and volume 2C): the digits say which sources are multiplied. AMD's
//! FMA4 (APM volume 4) has the destination besides three sources. On the host's own unit, and by
//! [`crate::vector::soft`] where that cannot tell what is raised, or there is none.

use core::marker::PhantomData;

use crate::host::fma::{Signs, Unit};
use crate::host::sse::{self, Sought};
use crate::model::exception::Exception;
use crate::model::format::{Double, Format, Half, Single};
use crate::model::lane::{Bits, Zmm, by_vector};
use crate::model::outcome::Outcome;
use crate::model::registers::Mxcsr;
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::element::{Apply, ElementOp, lanes};
use crate::shape::float::with_mxcsr;
use crate::vector::float::{Foreseeable, blocks, differ, foresee, is_ordinary, raise};
use crate::vector::soft::{Control, fused};

/// A fused multiply-add.
trait Fused {
    /// Of its elements.
    type Format: Format;
    /// Which sources are multiplied, and which is added.
    const ORDER: [usize; 3];
    /// What is added and what subtracted.
    const SIGNS: Signs;
    /// Whether a scalar keeps what is above the lowest element of the first source, or clears it.
    const KEEPS: bool;
}

/// By the definition.
struct Soft<O>(O);

impl<O: Fused> ElementOp for Soft<O> {
    const FROM: usize = O::Format::BITS as usize / 8;
    const TO: usize = Self::FROM;

    fn apply(elements: [u64; 3], (_, index): (u8, usize), control: &mut Control) -> u64 {
        let odd = index & 1 != 0;
        let negated = match O::SIGNS {
            Signs::Add => [false, false],
            Signs::Subtract => [false, true],
            Signs::NegatedAdd => [true, false],
            Signs::NegatedSubtract => [true, true],
            Signs::AddOdd => [false, !odd],
            Signs::AddEven => [false, odd],
        };
        fused::<O::Format>(O::ORDER.map(|number| elements[number]), negated, control)
    }
}

/// On the host's unit: the lowest element, or all.
struct Hosted<'a, F, B, const SCALAR: bool> {
    format: PhantomData<F>,
    unit: Unit,
    sources: [&'a B; 3],
}

impl<F: Format, B: Bits, const SCALAR: bool> Hosted<'_, F, B, SCALAR> {
    /// How many elements are computed of 128 bits.
    const COUNT: usize = if SCALAR { 1 } else { 128 / F::BITS as usize };
}

impl<F: Format, B: Bits, const SCALAR: bool> Foreseeable<B> for Hosted<'_, F, B, SCALAR> {
    const ROUNDS: bool = true;

    #[inline(always)]
    fn compute<const N: usize>(&self, controls: [Mxcsr; N], results: &mut [B; N]) {
        self.unit.compute(controls, self.sources, results);
    }

    #[inline(always)]
    fn has_special_operand(&self, mxcsr: Mxcsr) -> bool {
        let sought = Sought { zero: false, small: true, large: false, nan: false };
        let [first, second, third] = self.sources.map(blocks);
        let mut triples = first.iter().zip(second).zip(third);
        !mxcsr.intersects(Mxcsr::DAZ | Mxcsr::DE)
            && triples
                .any(|((first, second), third)| sse::any::<F, 3>(sought, [first, second, third], Self::COUNT))
    }

    #[inline(always)]
    fn is_ordinary(&self, result: &B, zero_is_exact: bool) -> bool {
        is_ordinary::<F, B>(result, zero_is_exact, Self::COUNT)
    }

    #[inline(always)]
    fn zero_is_exact(&self, _: Mxcsr) -> bool {
        false
    }

    #[inline(always)]
    fn differ(&self, left: &B, right: &B) -> bool {
        differ::<F, B>(left, right, Self::COUNT)
    }
}

/// Computes without a look at the host's flags; `None` where it takes that to know what is raised.
#[inline(never)]
fn unwatched<F: Format, B: Bits, const SCALAR: bool>(
    unit: Unit,
    sources: [&B; 3],
    mxcsr: Mxcsr,
    result: &mut B,
) -> Option<Mxcsr> {
    foresee(&Hosted::<F, B, SCALAR> { format: PhantomData, unit, sources }, mxcsr, result)
}

/// Fetch, compute, commit.
fn run<B: Bits, O: Fused, const SCALAR: bool>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let size = O::Format::BITS as usize / 8;
    let mut memory = B::default();
    c.fetch(&mut memory)?;
    let mut result = B::default();
    with_mxcsr(c, |c, mxcsr| {
        c.with_sources(&memory, |sources| {
            let ordered = O::ORDER.map(|number| sources[number]);
            let unit = if size == 2 { None } else { Unit::of(O::SIGNS, size, SCALAR) };
            match unit
                .filter(|_| mxcsr.contains(Mxcsr::MASKS))
                .and_then(|unit| unwatched::<O::Format, B, SCALAR>(unit, ordered, *mxcsr, &mut result))
            {
                Some(raised) => *mxcsr |= raised,
                None => result = soft(c, sources, size, Soft::<O>::apply, mxcsr)?,
            }
            if SCALAR {
                let above = if O::KEEPS { *sources[0] } else { B::default() };
                result = match size {
                    2 => above.with_integer::<u16>(0, result.integer(0)),
                    4 => above.with_integer::<u32>(0, result.integer(0)),
                    _ => above.with_integer::<u64>(0, result.integer(0)),
                };
            }
            Ok(())
        })
    })?;
    c.commit(&result)
}

/// By the definition.
#[cold]
#[inline(never)]
fn soft<B: Bits>(
    c: &Context<'_>,
    sources: [&B; 3],
    size: usize,
    apply: Apply,
    mxcsr: &mut Mxcsr,
) -> Result<B, Exception> {
    let (mut control, mut result) = (Control::of(*mxcsr), Zmm::default());
    lanes(c, &sources.map(Bits::zero_extend), (size, size), apply, &mut control, &mut result);
    raise(control.raised, mxcsr)?;
    Ok(*B::low(&result))
}

/// Rows of three sources.
macro_rules! fused_row {
    ($mnemonic:ident, packed $format:ident, $order:expr, $signs:ident) => {
        fused_row!(@ $mnemonic, $format, $order, $signs, false, Three)
    };
    ($mnemonic:ident, scalar $format:ident, $order:expr, $signs:ident) => {
        fused_row!(@ $mnemonic, $format, $order, $signs, true, Three)
    };
    // FMA4: the first times the second, and the third.
    ($mnemonic:ident, packed $format:ident, $signs:ident) => {
        fused_row!(@ $mnemonic, $format, [0, 1, 2], $signs, false, With)
    };
    ($mnemonic:ident, scalar $format:ident, $signs:ident) => {
        fused_row!(@ $mnemonic, $format, [0, 1, 2], $signs, true, With)
    };
    (@ $mnemonic:ident, $format:ident, $order:expr, $signs:ident, $scalar:literal, $operands:ident) => {{
        use crate::run::phases::{Layout, Operands};
        struct Op;
        impl Fused for Op {
            type Format = $format;
            const ORDER: [usize; 3] = $order;
            const SIGNS: Signs = Signs::$signs;
            const KEEPS: bool = matches!(Operands::$operands, Operands::Three);
        }
        const LAYOUT: Layout = Layout::new(Operands::$operands, $format::BITS as usize / 8).by_length();
        Row {
            name: stringify!($mnemonic),
            mnemonics: &[iced_x86::Mnemonic::$mnemonic],
            flags: crate::shape::float::SSE,
            select: |form| Some(by_vector!(form.vector_length(), run, <Op, $scalar>)),
            vector: Some(if $scalar { LAYOUT.scalar() } else { LAYOUT }),
        }
    }};
}

pub(super) static ROWS: &[Row] = &[
    fused_row!(Vfmadd132ps, packed Single, [0, 2, 1], Add),
    fused_row!(Vfmadd132pd, packed Double, [0, 2, 1], Add),
    fused_row!(Vfmadd132ss, scalar Single, [0, 2, 1], Add),
    fused_row!(Vfmadd132sd, scalar Double, [0, 2, 1], Add),
    fused_row!(Vfmadd132ph, packed Half, [0, 2, 1], Add),
    fused_row!(Vfmadd132sh, scalar Half, [0, 2, 1], Add),
    fused_row!(Vfmadd213ps, packed Single, [1, 0, 2], Add),
    fused_row!(Vfmadd213pd, packed Double, [1, 0, 2], Add),
    fused_row!(Vfmadd213ss, scalar Single, [1, 0, 2], Add),
    fused_row!(Vfmadd213sd, scalar Double, [1, 0, 2], Add),
    fused_row!(Vfmadd213ph, packed Half, [1, 0, 2], Add),
    fused_row!(Vfmadd213sh, scalar Half, [1, 0, 2], Add),
    fused_row!(Vfmadd231ps, packed Single, [1, 2, 0], Add),
    fused_row!(Vfmadd231pd, packed Double, [1, 2, 0], Add),
    fused_row!(Vfmadd231ss, scalar Single, [1, 2, 0], Add),
    fused_row!(Vfmadd231sd, scalar Double, [1, 2, 0], Add),
    fused_row!(Vfmadd231ph, packed Half, [1, 2, 0], Add),
    fused_row!(Vfmadd231sh, scalar Half, [1, 2, 0], Add),
    fused_row!(Vfmsub132ps, packed Single, [0, 2, 1], Subtract),
    fused_row!(Vfmsub132pd, packed Double, [0, 2, 1], Subtract),
    fused_row!(Vfmsub132ss, scalar Single, [0, 2, 1], Subtract),
    fused_row!(Vfmsub132sd, scalar Double, [0, 2, 1], Subtract),
    fused_row!(Vfmsub132ph, packed Half, [0, 2, 1], Subtract),
    fused_row!(Vfmsub132sh, scalar Half, [0, 2, 1], Subtract),
    fused_row!(Vfmsub213ps, packed Single, [1, 0, 2], Subtract),
    fused_row!(Vfmsub213pd, packed Double, [1, 0, 2], Subtract),
    fused_row!(Vfmsub213ss, scalar Single, [1, 0, 2], Subtract),
    fused_row!(Vfmsub213sd, scalar Double, [1, 0, 2], Subtract),
    fused_row!(Vfmsub213ph, packed Half, [1, 0, 2], Subtract),
    fused_row!(Vfmsub213sh, scalar Half, [1, 0, 2], Subtract),
    fused_row!(Vfmsub231ps, packed Single, [1, 2, 0], Subtract),
    fused_row!(Vfmsub231pd, packed Double, [1, 2, 0], Subtract),
    fused_row!(Vfmsub231ss, scalar Single, [1, 2, 0], Subtract),
    fused_row!(Vfmsub231sd, scalar Double, [1, 2, 0], Subtract),
    fused_row!(Vfmsub231ph, packed Half, [1, 2, 0], Subtract),
    fused_row!(Vfmsub231sh, scalar Half, [1, 2, 0], Subtract),
    fused_row!(Vfnmadd132ps, packed Single, [0, 2, 1], NegatedAdd),
    fused_row!(Vfnmadd132pd, packed Double, [0, 2, 1], NegatedAdd),
    fused_row!(Vfnmadd132ss, scalar Single, [0, 2, 1], NegatedAdd),
    fused_row!(Vfnmadd132sd, scalar Double, [0, 2, 1], NegatedAdd),
    fused_row!(Vfnmadd132ph, packed Half, [0, 2, 1], NegatedAdd),
    fused_row!(Vfnmadd132sh, scalar Half, [0, 2, 1], NegatedAdd),
    fused_row!(Vfnmadd213ps, packed Single, [1, 0, 2], NegatedAdd),
    fused_row!(Vfnmadd213pd, packed Double, [1, 0, 2], NegatedAdd),
    fused_row!(Vfnmadd213ss, scalar Single, [1, 0, 2], NegatedAdd),
    fused_row!(Vfnmadd213sd, scalar Double, [1, 0, 2], NegatedAdd),
    fused_row!(Vfnmadd213ph, packed Half, [1, 0, 2], NegatedAdd),
    fused_row!(Vfnmadd213sh, scalar Half, [1, 0, 2], NegatedAdd),
    fused_row!(Vfnmadd231ps, packed Single, [1, 2, 0], NegatedAdd),
    fused_row!(Vfnmadd231pd, packed Double, [1, 2, 0], NegatedAdd),
    fused_row!(Vfnmadd231ss, scalar Single, [1, 2, 0], NegatedAdd),
    fused_row!(Vfnmadd231sd, scalar Double, [1, 2, 0], NegatedAdd),
    fused_row!(Vfnmadd231ph, packed Half, [1, 2, 0], NegatedAdd),
    fused_row!(Vfnmadd231sh, scalar Half, [1, 2, 0], NegatedAdd),
    fused_row!(Vfnmsub132ps, packed Single, [0, 2, 1], NegatedSubtract),
    fused_row!(Vfnmsub132pd, packed Double, [0, 2, 1], NegatedSubtract),
    fused_row!(Vfnmsub132ss, scalar Single, [0, 2, 1], NegatedSubtract),
    fused_row!(Vfnmsub132sd, scalar Double, [0, 2, 1], NegatedSubtract),
    fused_row!(Vfnmsub132ph, packed Half, [0, 2, 1], NegatedSubtract),
    fused_row!(Vfnmsub132sh, scalar Half, [0, 2, 1], NegatedSubtract),
    fused_row!(Vfnmsub213ps, packed Single, [1, 0, 2], NegatedSubtract),
    fused_row!(Vfnmsub213pd, packed Double, [1, 0, 2], NegatedSubtract),
    fused_row!(Vfnmsub213ss, scalar Single, [1, 0, 2], NegatedSubtract),
    fused_row!(Vfnmsub213sd, scalar Double, [1, 0, 2], NegatedSubtract),
    fused_row!(Vfnmsub213ph, packed Half, [1, 0, 2], NegatedSubtract),
    fused_row!(Vfnmsub213sh, scalar Half, [1, 0, 2], NegatedSubtract),
    fused_row!(Vfnmsub231ps, packed Single, [1, 2, 0], NegatedSubtract),
    fused_row!(Vfnmsub231pd, packed Double, [1, 2, 0], NegatedSubtract),
    fused_row!(Vfnmsub231ss, scalar Single, [1, 2, 0], NegatedSubtract),
    fused_row!(Vfnmsub231sd, scalar Double, [1, 2, 0], NegatedSubtract),
    fused_row!(Vfnmsub231ph, packed Half, [1, 2, 0], NegatedSubtract),
    fused_row!(Vfnmsub231sh, scalar Half, [1, 2, 0], NegatedSubtract),
    fused_row!(Vfmaddsub132ps, packed Single, [0, 2, 1], AddOdd),
    fused_row!(Vfmaddsub132pd, packed Double, [0, 2, 1], AddOdd),
    fused_row!(Vfmaddsub132ph, packed Half, [0, 2, 1], AddOdd),
    fused_row!(Vfmaddsub213ps, packed Single, [1, 0, 2], AddOdd),
    fused_row!(Vfmaddsub213pd, packed Double, [1, 0, 2], AddOdd),
    fused_row!(Vfmaddsub213ph, packed Half, [1, 0, 2], AddOdd),
    fused_row!(Vfmaddsub231ps, packed Single, [1, 2, 0], AddOdd),
    fused_row!(Vfmaddsub231pd, packed Double, [1, 2, 0], AddOdd),
    fused_row!(Vfmaddsub231ph, packed Half, [1, 2, 0], AddOdd),
    fused_row!(Vfmsubadd132ps, packed Single, [0, 2, 1], AddEven),
    fused_row!(Vfmsubadd132pd, packed Double, [0, 2, 1], AddEven),
    fused_row!(Vfmsubadd132ph, packed Half, [0, 2, 1], AddEven),
    fused_row!(Vfmsubadd213ps, packed Single, [1, 0, 2], AddEven),
    fused_row!(Vfmsubadd213pd, packed Double, [1, 0, 2], AddEven),
    fused_row!(Vfmsubadd213ph, packed Half, [1, 0, 2], AddEven),
    fused_row!(Vfmsubadd231ps, packed Single, [1, 2, 0], AddEven),
    fused_row!(Vfmsubadd231pd, packed Double, [1, 2, 0], AddEven),
    fused_row!(Vfmsubadd231ph, packed Half, [1, 2, 0], AddEven),
    fused_row!(Vfmaddps, packed Single, Add),
    fused_row!(Vfmaddpd, packed Double, Add),
    fused_row!(Vfmaddss, scalar Single, Add),
    fused_row!(Vfmaddsd, scalar Double, Add),
    fused_row!(Vfmsubps, packed Single, Subtract),
    fused_row!(Vfmsubpd, packed Double, Subtract),
    fused_row!(Vfmsubss, scalar Single, Subtract),
    fused_row!(Vfmsubsd, scalar Double, Subtract),
    fused_row!(Vfnmaddps, packed Single, NegatedAdd),
    fused_row!(Vfnmaddpd, packed Double, NegatedAdd),
    fused_row!(Vfnmaddss, scalar Single, NegatedAdd),
    fused_row!(Vfnmaddsd, scalar Double, NegatedAdd),
    fused_row!(Vfnmsubps, packed Single, NegatedSubtract),
    fused_row!(Vfnmsubpd, packed Double, NegatedSubtract),
    fused_row!(Vfnmsubss, scalar Single, NegatedSubtract),
    fused_row!(Vfnmsubsd, scalar Double, NegatedSubtract),
    fused_row!(Vfmaddsubps, packed Single, AddOdd),
    fused_row!(Vfmaddsubpd, packed Double, AddOdd),
    fused_row!(Vfmsubaddps, packed Single, AddEven),
    fused_row!(Vfmsubaddpd, packed Double, AddEven),
];
