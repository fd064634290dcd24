//! Fused multiply-add (SDM volume 1, section 14.5, and volume 2C): the digits say which sources are multiplied. AMD's
//! FMA4 (APM volume 4) has the destination besides three sources. On the host's own unit, and by
//! [`crate::vector::soft`] where that cannot tell what is raised, or there is none.

use crate::host::fma::{self, Signs};
use crate::host::sse::{self, Sought};
use crate::model::exception::Exception;
use crate::model::format::{Double, Format, Half, Single};
use crate::model::lane::Xmm;
use crate::model::outcome::Outcome;
use crate::model::registers::Mxcsr;
use crate::run::context::Context;
use crate::run::phases::{Sources, Zmm};
use crate::run::row::Row;
use crate::shape::element::{ElementOp, lanes};
use crate::shape::float::with_mxcsr;
use crate::vector::float::raise;
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

/// Computes without a look at the host's flags; `None` where it takes that to know what is raised.
fn unwatched<O: Fused, const SCALAR: bool>(
    sources: &Sources,
    width: usize,
    mxcsr: Mxcsr,
) -> Option<(Zmm, Mxcsr)> {
    let bits = O::Format::BITS as usize;
    if bits == 16 || !mxcsr.contains(Mxcsr::MASKS) {
        return None;
    }
    let elements = if SCALAR { 1 } else { 128 / bits };
    let blocks = |vector: &Zmm| -> [Xmm; 4] { bytemuck::cast(*vector) };
    let ordinary = |vector: &Zmm, or_zero: bool| {
        let sought = Sought { zero: !or_zero, small: true, large: true, nan: false };
        let blocks = blocks(vector);
        !blocks.iter().take(width / 16).any(|block| sse::any::<O::Format, 1>(sought, [block], elements))
    };
    let sources = O::ORDER.map(|number| &sources[number]);
    if !mxcsr.intersects(Mxcsr::DAZ | Mxcsr::DE) {
        let sought = Sought { zero: false, small: true, large: false, nan: false };
        let [first, second, third] = sources.map(blocks);
        let triples = first.iter().zip(&second).zip(&third).take(width / 16);
        for ((first, second), third) in triples {
            if sse::any::<O::Format, 3>(sought, [first, second, third], elements) {
                return None;
            }
        }
    }
    let compute = |control: Mxcsr| fma::compute(O::SIGNS, bits / 8, control, sources, width);
    let wanted = mxcsr | Mxcsr::EXCEPTIONS;
    let result = compute(wanted)?;
    if mxcsr.contains(Mxcsr::PE) && ordinary(&result, false) {
        return Some((result, Mxcsr::empty()));
    }
    let directed = wanted.difference(Mxcsr::RC | Mxcsr::FTZ);
    let down = compute(directed | Mxcsr::from_bits_retain(1 << 13))?;
    let up = compute(directed | Mxcsr::from_bits_retain(2 << 13))?;
    if !ordinary(&down, true) || !ordinary(&up, true) {
        return None;
    }
    let (down, up) = (blocks(&down), blocks(&up));
    let mut pairs = down.iter().zip(&up).take(width / 16);
    let inexact = pairs.any(|(down, up)| sse::any_neighbours::<O::Format>(down, up, elements));
    Some((result, if inexact { Mxcsr::PE } else { Mxcsr::empty() }))
}

/// Fetch, compute, commit.
fn run<O: Fused, const SCALAR: bool>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (mut sources, mut result) = (Sources::default(), Zmm::default());
    c.fetch(&mut sources)?;
    let kept = if O::KEEPS { sources[0] } else { Zmm::default() };
    let size = O::Format::BITS as usize / 8;
    let ones = u64::MAX >> (64 - 8 * size);
    c.without_masked(&mut sources);
    if SCALAR {
        // Zeros raise nothing.
        sources.iter_mut().for_each(|source| *source = [source[0] & ones, 0, 0, 0, 0, 0, 0, 0]);
    }
    let width = c.phases.width();
    with_mxcsr(c, |c, mxcsr| {
        if let Some((computed, raised)) = unwatched::<O, SCALAR>(&sources, width, *mxcsr) {
            result = computed;
            *mxcsr |= raised;
            return Ok(());
        }
        let mut control = Control::of(*mxcsr);
        lanes(c, &sources, (size, size), Soft::<O>::apply, &mut control, &mut result);
        raise(control.raised, mxcsr)
    })?;
    if SCALAR {
        let low = result[0] & ones | kept[0] & !ones;
        result = [low, kept[1], 0, 0, 0, 0, 0, 0];
    }
    c.commit(&result)?;
    Ok(Outcome::Next)
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
            select: |_| Some(run::<Op, $scalar>),
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
