//! The shapes of vector instructions: how lanes are fetched and written back, once for all rows and for all
//! classes of registers.
//!
//! `row!(Paddb, Lanes<u8>, NONE, u8::wrapping_add)`: the lane type is that of the destination, which is
//! also what a mask counts.

use iced_x86::{CpuidFeature, EncodingKind};

use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Blocks, Lane, by_blocks_of};
use crate::model::outcome::Outcome;
use crate::run::context::{Context, Execute};
use crate::vector::{Class, InLowHalf, InMemory, InPart, InRegister, Mmx, Place, Sse};

/// The rows of vector instructions; [`row!`](crate::shape::row) comes here.
macro_rules! vector_row {
    // Two sources, lane by lane: fn(T, T) -> T.
    ($mnemonics:tt, Lanes<$lane:ty>, $flags:expr, $function:expr) => {{
        struct Op;
        impl $crate::shape::vector::Lanes<$lane> for Op {
            #[inline(always)]
            fn apply(first: $lane, second: $lane) -> $lane {
                ($function)(first, second)
            }
        }
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::lanes::<$lane, Op>)
    }};
    // One source, lane by lane: fn(T) -> T.
    ($mnemonics:tt, EachLane<$lane:ty>, $flags:expr, $function:expr) => {{
        struct Op;
        impl $crate::shape::vector::EachLane<$lane> for Op {
            #[inline(always)]
            fn apply(source: $lane) -> $lane {
                ($function)(source)
            }
        }
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::each_lane::<$lane, Op>)
    }};
    // Two sources, block by block: fn<const N>(&[T; N], &[T; N]) -> [T; N].
    ($mnemonics:tt, Blocks<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics,
            $lane,
            $flags,
            two_sources,
            |first, second, _immediate| $function(first, second)
        )
    };
    // The same, of which the second source's low half counts.
    ($mnemonics:tt, LowBlocks<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics,
            $lane,
            $flags,
            two_sources_low,
            |first, second, _immediate| $function(first, second)
        )
    };
    // Two sources and an immediate: fn<const N>(&[T; N], &[T; N], u8) -> [T; N].
    ($mnemonics:tt, BlocksImm<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics,
            $lane,
            $flags,
            two_sources,
            |first, second, immediate| $function(first, second, immediate)
        )
    };
    // One source: fn<const N>(&[T; N]) -> [T; N].
    ($mnemonics:tt, EachBlock<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics,
            $lane,
            $flags,
            one_source,
            |first, _second, _immediate| $function(first)
        )
    };
    // One source and an immediate: fn<const N>(&[T; N], u8) -> [T; N].
    ($mnemonics:tt, EachBlockImm<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics,
            $lane,
            $flags,
            one_source,
            |first, _second, immediate| $function(first, immediate)
        )
    };
    // The same for instructions that know blocks of 128 bits only, with lanes enough to fill them:
    // fn(&[T; N], &[T; N]) -> [T; N] and so on.
    ($mnemonics:tt, Block128<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics,
            $lane,
            $flags,
            two_sources_128,
            |first, second, _immediate| ($function)(first, second)
        )
    };
    ($mnemonics:tt, Block128Imm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics,
            $lane,
            $flags,
            two_sources_128,
            |first, second, immediate| ($function)(first, second, immediate)
        )
    };
    ($mnemonics:tt, EachBlock128<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics,
            $lane,
            $flags,
            one_source_128,
            |first, _second, _immediate| ($function)(first)
        )
    };
    ($mnemonics:tt, EachBlock128Imm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics,
            $lane,
            $flags,
            one_source_128,
            |first, _second, immediate| ($function)(first, immediate)
        )
    };
    // Lanes of the second source where the immediate has ones, else of the first.
    ($mnemonics:tt, Blend<$lane:ty>, $flags:expr) => {
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::blend::<$lane>)
    };
    // Lanes of the second source where those of the mask register are negative, else of the first.
    ($mnemonics:tt, BlendBySign<$lane:ty>, $flags:expr) => {
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::blend_by_sign::<$lane>)
    };
    // Lanes shifted by one count: fn(T, u64) -> T.
    ($mnemonics:tt, LaneShift<$lane:ty>, $flags:expr, $function:expr) => {{
        struct Op;
        impl $crate::shape::vector::LaneShift<$lane> for Op {
            #[inline(always)]
            fn apply(lane: $lane, count: u64) -> $lane {
                ($function)(lane, count)
            }
        }
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::lane_shift::<$lane, Op>)
    }};
    // The low lanes of the source, made wider as `From` does.
    ($mnemonics:tt, Widen<$narrow:ty, $wide:ty>, $flags:expr) => {
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::widen::<$narrow, $wide>)
    };
    // The lanes of both sources, made narrower: fn(Wide) -> Narrow.
    ($mnemonics:tt, Narrow<$wide:ty, $narrow:ty>, $flags:expr, $function:expr) => {{
        struct Op;
        impl $crate::shape::vector::Narrow<$wide, $narrow> for Op {
            #[inline(always)]
            fn apply(lane: $wide) -> $narrow {
                ($function)(lane)
            }
        }
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::narrow::<$wide, $narrow, Op>)
    }};
}
pub(crate) use vector_row;

macro_rules! blocks_row {
    (
        $mnemonics:tt, $lane:ty, $flags:expr, $select:ident,
        |$first:ident, $second:ident, $immediate:ident| $call:expr
    ) => {{
        struct Op;
        impl $crate::model::lane::Blocks<$lane> for Op {
            #[inline(always)]
            fn apply<const N: usize>(
                $first: &[$lane; N],
                $second: &[$lane; N],
                $immediate: u8,
            ) -> [$lane; N] {
                $call
            }
        }
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::$select::<$lane, Op>)
    }};
}
pub(crate) use blocks_row;

macro_rules! block_128_row {
    (
        $mnemonics:tt, $lane:ty, $flags:expr, $select:ident,
        |$first:ident, $second:ident, $immediate:ident| $call:expr
    ) => {{
        use $crate::model::lane::Lane;
        struct Op;
        impl $crate::shape::vector::Block128<$lane> for Op {
            #[inline(always)]
            fn apply(
                $first: &<$lane as Lane>::Block128,
                $second: &<$lane as Lane>::Block128,
                $immediate: u8,
            ) -> <$lane as Lane>::Block128 {
                $call
            }
        }
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::$select::<$lane, Op>)
    }};
}
pub(crate) use block_128_row;

/// The classes of [`Class`] as values, to select by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClassName {
    Mmx,
    Sse,
}

impl Form<'_> {
    /// The class of the vector register that is operand `index`.
    pub(crate) fn class(&self, index: u32) -> Option<ClassName> {
        if self.shape(index) != Shape::Other {
            return None;
        }
        let register = self.instruction.op_register(index);
        match self.instruction.code().op_code().encoding() {
            EncodingKind::Legacy if register.is_mm() => Some(ClassName::Mmx),
            EncodingKind::Legacy if register.is_xmm() => Some(ClassName::Sse),
            _ => None,
        }
    }

    /// Whether an operand has this shape.
    pub(crate) fn any(&self, shape: Shape) -> bool {
        (0..self.instruction.op_count()).any(|index| self.shape(index) == shape)
    }

    /// Whether the processor does not look at the alignment of an operand that the manual wants aligned.
    pub(crate) fn may_be_misaligned(&self) -> bool {
        let features = self.instruction.code().cpuid_features();
        self.processor.is(Facts::SHA_IGNORES_ALIGNMENT) && features.contains(&CpuidFeature::SHA)
    }

    /// How many bytes the memory operand has, if there is one.
    pub(crate) fn memory_bytes(&self) -> Option<usize> {
        self.any(Shape::Memory).then(|| self.instruction.memory_size().size())
    }
}

/// Picks a function generic over class and place: the class is that of the register that is operand
/// `$operand`, the place is where the last source lies.
macro_rules! by_class {
    ($form:expr, $operand:expr, $function:ident $(, <$($more:ty),+>)?) => {{
        use $crate::run::context::Execute;
        use $crate::shape::vector::ClassName;
        use $crate::vector::{InMemory, InRegister, Mmx, Sse};
        match ($form.class($operand), $form.memory_bytes()) {
            (Some(ClassName::Mmx), None) => Some($function::<Mmx, InRegister $(, $($more),+)?> as Execute),
            (Some(ClassName::Mmx), Some(8)) => Some($function::<Mmx, InMemory $(, $($more),+)?> as Execute),
            (Some(ClassName::Sse), None) => Some($function::<Sse, InRegister $(, $($more),+)?> as Execute),
            (Some(ClassName::Sse), Some(16)) => Some($function::<Sse, InMemory $(, $($more),+)?> as Execute),
            _ => None,
        }
    }};
}
pub(crate) use by_class;

/// Two sources, lane by lane.
pub(crate) trait Lanes<T: Lane> {
    fn apply(first: T, second: T) -> T;
}

pub(crate) fn lanes<T: Lane, O: Lanes<T>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane, O: Lanes<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let result = C::register(c, C::FIRST).zip(P::source::<C>(c, C::FIRST + 1, &memory), O::apply);
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_class!(form, 0, run, <T, O>)
}

/// One source, lane by lane.
pub(crate) trait EachLane<T: Lane> {
    fn apply(source: T) -> T;
}

pub(crate) fn each_lane<T: Lane, O: EachLane<T>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane, O: EachLane<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let result = P::source::<C>(c, 1, &memory).map(O::apply);
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_class!(form, 0, run, <T, O>)
}

fn run_blocks<C: Class, P: Place, T: Lane, O: Blocks<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    C::ready(c)?;
    let mut memory = C::Bits::default();
    P::load::<C, T>(c, &mut memory)?;
    let (first, second) = (C::register(c, C::FIRST), P::source::<C>(c, C::FIRST + 1, &memory));
    let result = T::by_blocks::<C::Bits, O>(first, second, c.decoded.immediate as u8);
    C::set::<T>(c, result);
    Ok(Outcome::Next)
}

/// Two sources and perhaps an immediate, block by block.
pub(crate) fn two_sources<T: Lane, O: Blocks<T>>(form: &Form<'_>) -> Option<Execute> {
    by_class!(form, 0, run_blocks, <T, O>)
}

/// The same, where only the low half of the second source counts and is read.
pub(crate) fn two_sources_low<T: Lane, O: Blocks<T>>(form: &Form<'_>) -> Option<Execute> {
    match (form.class(0)?, form.memory_bytes()) {
        (ClassName::Mmx, None) => Some(run_blocks::<Mmx, InRegister, T, O>),
        (ClassName::Mmx, Some(4)) => Some(run_blocks::<Mmx, InPart<4>, T, O>),
        (ClassName::Sse, None) => Some(run_blocks::<Sse, InRegister, T, O>),
        (ClassName::Sse, Some(16)) => Some(run_blocks::<Sse, InLowHalf, T, O>),
        _ => None,
    }
}

/// One source and perhaps an immediate, block by block.
pub(crate) fn one_source<T: Lane, O: Blocks<T>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane, O: Blocks<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let source = P::source::<C>(c, 1, &memory);
        let result = T::by_blocks::<C::Bits, O>(source, source, c.decoded.immediate as u8);
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_class!(form, 0, run, <T, O>)
}

/// An operation on blocks of 128 bits.
pub(crate) trait Block128<T: Lane> {
    fn apply(first: &T::Block128, second: &T::Block128, immediate: u8) -> T::Block128;
}

/// As [`by_class!`] for instructions without an MMX form.
macro_rules! by_wide_class {
    ($form:expr, $function:ident, <$($more:ty),+>) => {
        match ($form.class(0), $form.memory_bytes()) {
            (Some(ClassName::Sse), None) => Some($function::<Sse, InRegister, $($more),+> as Execute),
            (Some(ClassName::Sse), Some(16)) if $form.may_be_misaligned() => {
                Some($function::<Sse, InPart<16>, $($more),+> as Execute)
            }
            (Some(ClassName::Sse), Some(16)) => Some($function::<Sse, InMemory, $($more),+> as Execute),
            _ => None,
        }
    };
}

pub(crate) fn two_sources_128<T: Lane, O: Block128<T>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane, O: Block128<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let (first, second) = (C::register(c, C::FIRST), P::source::<C>(c, C::FIRST + 1, &memory));
        let immediate = c.decoded.immediate as u8;
        let result = by_blocks_of(first, second, |first, second| O::apply(first, second, immediate));
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_wide_class!(form, run, <T, O>)
}

pub(crate) fn one_source_128<T: Lane, O: Block128<T>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane, O: Block128<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let source = P::source::<C>(c, 1, &memory);
        let immediate = c.decoded.immediate as u8;
        let result = by_blocks_of(source, source, |source, _| O::apply(source, source, immediate));
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_wide_class!(form, run, <T, O>)
}

/// Lanes of the second source where the immediate has ones, from the beginning again after eight lanes.
pub(crate) fn blend<T: Lane>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let (first, second) = (C::register(c, C::FIRST), P::source::<C>(c, C::FIRST + 1, &memory));
        let mut result = C::Bits::default();
        let sources = first.lanes::<T>().iter().zip(second.lanes::<T>());
        for (index, (result, (first, second))) in result.lanes_mut::<T>().iter_mut().zip(sources).enumerate()
        {
            *result = if c.decoded.immediate >> (index & 7) & 1 != 0 { *second } else { *first };
        }
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_wide_class!(form, run, <T>)
}

/// Lanes of the second source where those of the mask, XMM0 in legacy encodings, are negative.
pub(crate) fn blend_by_sign<T: Lane + Default + PartialOrd>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane + Default + PartialOrd>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let (first, second) = (C::register(c, C::FIRST), P::source::<C>(c, C::FIRST + 1, &memory));
        let mut result = C::Bits::default();
        let sources = first.lanes::<T>().iter().zip(second.lanes::<T>()).zip(C::mask(c).lanes::<T>());
        for (result, ((first, second), mask)) in result.lanes_mut::<T>().iter_mut().zip(sources) {
            *result = if *mask < T::default() { *second } else { *first };
        }
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    by_wide_class!(form, run, <T>)
}

/// All lanes shifted by one count: the immediate, or the low quadword of the second source.
pub(crate) trait LaneShift<T: Lane> {
    fn apply(lane: T, count: u64) -> T;
}

pub(crate) fn lane_shift<T: Lane, O: LaneShift<T>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, T: Lane, O: LaneShift<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let count = P::fetch::<C, T>(c, C::FIRST + 1)?.quadwords()[0];
        let result = C::register(c, C::FIRST).map(|lane| O::apply(lane, count));
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    fn by_immediate<C: Class, P: Place, T: Lane, O: LaneShift<T>>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let count = c.decoded.immediate & 0xff;
        let mut memory = C::Bits::default();
        P::load::<C, T>(c, &mut memory)?;
        let result = P::source::<C>(c, C::FIRST, &memory).map(|lane| O::apply(lane, count));
        C::set::<T>(c, result);
        Ok(Outcome::Next)
    }
    if form.any(Shape::Immediate) {
        return by_class!(form, 0, by_immediate, <T, O>);
    }
    match (form.class(0)?, form.memory_bytes()) {
        (ClassName::Mmx, None) => Some(run::<Mmx, InRegister, T, O>),
        (ClassName::Mmx, Some(8)) => Some(run::<Mmx, InMemory, T, O>),
        (ClassName::Sse, None) => Some(run::<Sse, InRegister, T, O>),
        (ClassName::Sse, Some(16)) => Some(run::<Sse, InLowHalf, T, O>),
        _ => None,
    }
}

/// The low lanes of the source, made wider.
pub(crate) fn widen<N: Lane, W: Lane + From<N>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, N: Lane, W: Lane + From<N>>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let mut memory = C::Bits::default();
        P::load::<C, N>(c, &mut memory)?;
        let source = P::source::<C>(c, 1, &memory);
        let mut result = C::Bits::default();
        for (wide, narrow) in result.lanes_mut::<W>().iter_mut().zip(source.lanes::<N>()) {
            *wide = W::from(*narrow);
        }
        C::set::<W>(c, result);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.memory_bytes()) {
        (ClassName::Sse, None) => Some(run::<Sse, InRegister, N, W>),
        (ClassName::Sse, Some(8)) => Some(run::<Sse, InPart<8>, N, W>),
        (ClassName::Sse, Some(4)) => Some(run::<Sse, InPart<4>, N, W>),
        (ClassName::Sse, Some(2)) => Some(run::<Sse, InPart<2>, N, W>),
        _ => None,
    }
}

/// The lanes of a block of the first source, then those of the second, made narrower.
pub(crate) trait Narrow<W: Lane, N: Lane> {
    fn apply(lane: W) -> N;
}

pub(crate) fn narrow<W: Lane, N: Lane, O: Narrow<W, N>>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, W: Lane, N: Lane, O: Narrow<W, N>>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let mut memory = C::Bits::default();
        P::load::<C, W>(c, &mut memory)?;
        let (first, second) = (C::register(c, C::FIRST), P::source::<C>(c, C::FIRST + 1, &memory));
        let mut result = C::Bits::default();
        let block = C::Bits::BYTES.min(16) / size_of::<W>();
        let sources = first.lanes::<W>().chunks_exact(block).zip(second.lanes::<W>().chunks_exact(block));
        for (narrow, (first, second)) in result.lanes_mut::<N>().chunks_exact_mut(2 * block).zip(sources) {
            for (narrow, wide) in narrow.iter_mut().zip(first.iter().chain(second)) {
                *narrow = O::apply(*wide);
            }
        }
        C::set::<N>(c, result);
        Ok(Outcome::Next)
    }
    by_class!(form, 0, run, <W, N, O>)
}
