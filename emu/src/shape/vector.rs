//! The shapes of vector instructions: what a row's function sees of the operands. Where these come from and where
//! the result goes is [`crate::run::phases`]'s business.
//!
//! `row!([Paddb, Vpaddb], Lanes<u8>, NONE, u8::wrapping_add)`: the lane type is that of the destination, which is
//! also what a mask counts.

use iced_x86::CpuidFeature;

use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Blocks, Lane, Mm, Xmm, Ymm, Zmm, by_bits, by_vector};
use crate::model::outcome::Outcome;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;

/// A row of a vector instruction: its work as a type, and what decoding must know of its operands.
macro_rules! work_row {
    // None of its operands are MMX registers.
    ($mnemonics:tt, vectors, $flags:expr, $layout:expr, $work:ty) => {
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::work_of_vectors::<$work>)
            .with($layout)
    };
    ($mnemonics:tt, $flags:expr, $layout:expr, $work:ty) => {
        $crate::shape::row!($mnemonics, Select, $flags, $crate::shape::vector::work::<$work>).with($layout)
    };
}
pub(crate) use work_row;

impl Row {
    /// The memory operand is read whole, whatever the mask leaves out.
    pub(crate) const fn whole(self) -> Row {
        match self.vector {
            Some(layout) => self.with(layout.whole()),
            None => self,
        }
    }

    /// Elements of the memory operand that the mask leaves out are not looked at, though blocks are computed.
    pub(crate) const fn suppressing(self) -> Row {
        match self.vector {
            Some(layout) => self.with(layout.suppressing()),
            None => self,
        }
    }

    /// The mask counts elements of so many bytes, and not those that the work is written for.
    pub(crate) const fn masked_by(self, bytes: usize) -> Row {
        match self.vector {
            Some(layout) => self.with(layout.masked_by(bytes)),
            None => self,
        }
    }
}

/// The rows of vector instructions; [`row!`](crate::shape::row) comes here.
macro_rules! vector_row {
    // Two sources, lane by lane: fn(T, T) -> T.
    ($mnemonics:tt, Lanes<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, Two, |sources, _immediate| {
            ($function)(sources[0], sources[1])
        })
    };
    // Two sources and an immediate, lane by lane: fn(T, T, u8) -> T.
    ($mnemonics:tt, LanesImm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, Two, |sources, immediate| {
            ($function)(sources[0], sources[1], immediate)
        })
    };
    // One source, lane by lane: fn(T) -> T.
    ($mnemonics:tt, EachLane<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, One, |sources, _immediate| {
            ($function)(sources[0])
        })
    };
    // One source and an immediate, lane by lane: fn(T, u8) -> T.
    ($mnemonics:tt, EachLaneImm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, One, |sources, immediate| {
            ($function)(sources[0], immediate)
        })
    };
    // The destination and two sources, lane by lane: fn(T, T, T) -> T.
    ($mnemonics:tt, Ternary<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, Three, |sources, _immediate| {
            ($function)(sources[0], sources[1], sources[2])
        })
    };
    // The same with an immediate: fn(T, T, T, u8) -> T.
    ($mnemonics:tt, TernaryImm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, Three, |sources, immediate| {
            ($function)(sources[0], sources[1], sources[2], immediate)
        })
    };
    // Two sources, block by block: fn<const N>(&[T; N], &[T; N]) -> [T; N].
    ($mnemonics:tt, Blocks<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics, $lane, $flags, Two, whole,
            |first, second, _immediate| $function(first, second)
        )
    };
    // The same, of which a legacy operand in memory is read in its low half only.
    ($mnemonics:tt, LowBlocks<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics, $lane, $flags, Two, low_half,
            |first, second, _immediate| $function(first, second)
        )
    };
    // Two sources and an immediate: fn<const N>(&[T; N], &[T; N], u8) -> [T; N].
    ($mnemonics:tt, BlocksImm<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics, $lane, $flags, Two, whole,
            |first, second, immediate| $function(first, second, immediate)
        )
    };
    // One source: fn<const N>(&[T; N]) -> [T; N].
    ($mnemonics:tt, EachBlock<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics, $lane, $flags, One, whole,
            |first, _second, _immediate| $function(first)
        )
    };
    // One source and an immediate: fn<const N>(&[T; N], u8) -> [T; N].
    ($mnemonics:tt, EachBlockImm<$lane:ty>, $flags:expr, $function:ident) => {
        $crate::shape::vector::blocks_row!(
            $mnemonics, $lane, $flags, One, whole,
            |first, _second, immediate| $function(first, immediate)
        )
    };
    // The same for instructions that know blocks of 128 bits only, with lanes enough to fill them:
    // fn(&[T; N], &[T; N]) -> [T; N] and so on.
    ($mnemonics:tt, Block128<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics, $lane, $flags, Two,
            |sources, _immediate| ($function)(sources[0], sources[1])
        )
    };
    ($mnemonics:tt, Block128Imm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics, $lane, $flags, Two,
            |sources, immediate| ($function)(sources[0], sources[1], immediate)
        )
    };
    ($mnemonics:tt, EachBlock128<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics, $lane, $flags, One,
            |sources, _immediate| ($function)(sources[0])
        )
    };
    ($mnemonics:tt, EachBlock128Imm<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics, $lane, $flags, One,
            |sources, immediate| ($function)(sources[0], immediate)
        )
    };
    // Two sources, and XMM0 or a fourth operand: fn(&[T; N], &[T; N], &[T; N]) -> [T; N].
    ($mnemonics:tt, Block128With<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::block_128_row!(
            $mnemonics, $lane, $flags, With,
            |sources, _immediate| ($function)(sources[0], sources[1], sources[2])
        )
    };
    // The same lane by lane: fn(T, T, T) -> T.
    ($mnemonics:tt, LanesWith<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, With, |sources, _immediate| {
            ($function)(sources[0], sources[1], sources[2])
        })
    };
    // Lanes by the number in the low byte of the second source's lane, or in the immediate: fn(T, i8) -> T.
    ($mnemonics:tt, ByNumbers<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::run::row::Row {
            select: |form| {
                let by_immediate = const {
                    $crate::shape::vector::vector_row!($mnemonics, EachLaneImm<$lane>, $flags, |lane, number| {
                        ($function)(lane, number as i8)
                    })
                    .select
                };
                let by_lanes = const {
                    $crate::shape::vector::vector_row!(
                        $mnemonics, Lanes<$lane>, $flags,
                        |lane: $lane, number: $lane| ($function)(lane, number as i8)
                    )
                    .select
                };
                if form.any($crate::decode::form::Shape::Immediate) { by_immediate(form) } else { by_lanes(form) }
            },
            ..$crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, Shift, |sources, _immediate| sources[0])
        }
    };
    // Each lane from lanes anywhere in the sources: fn([&[T]; 3], usize, u8) -> T, by the lane's number. `One`,
    // `Two`, `Three` or `With` says what the sources are.
    ($mnemonics:tt, Across<$lane:ty>, $flags:expr, $operands:ident, $function:expr) => {{
        struct Op;
        impl<B: $crate::model::lane::Bits> $crate::shape::vector::Work<B> for Op {
            #[inline]
            fn work(sources: [&B; 3], immediate: u8) -> B {
                $crate::shape::vector::across::<$lane, B>(sources, |sources, index| {
                    ($function)(sources, index, immediate)
                })
            }
        }
        $crate::shape::vector::work_row!(
            $mnemonics,
            vectors,
            $flags,
            $crate::run::phases::Layout::new(
                $crate::run::phases::Operands::$operands,
                size_of::<$lane>()
            )
            .whole(),
            Op
        )
    }};
    // The same where an immediate or the lanes of a source choose: two such functions, of which the second sees
    // the sources in the manual's order.
    ($mnemonics:tt, Permute<$lane:ty>, $flags:expr, $by_immediate:expr, $by_lanes:expr) => {
        $crate::run::row::Row {
            select: |form| {
                let by_immediate = const {
                    $crate::shape::vector::vector_row!($mnemonics, Across<$lane>, $flags, One, $by_immediate).select
                };
                let by_lanes = const {
                    $crate::shape::vector::vector_row!($mnemonics, Across<$lane>, $flags, Two, $by_lanes).select
                };
                if form.any($crate::decode::form::Shape::Immediate) { by_immediate(form) } else { by_lanes(form) }
            },
            ..$crate::shape::vector::vector_row!($mnemonics, Across<$lane>, $flags, Shift, $by_immediate)
        }
    };
    // Lanes of the second source where the immediate has ones, else of the first.
    ($mnemonics:tt, Blend<$lane:ty>, $flags:expr) => {
        $crate::shape::vector::vector_row!($mnemonics, Across<$lane>, $flags, Two, $crate::shape::vector::blend)
    };
    // Lanes of the second source where those of the third are negative, else of the first.
    ($mnemonics:tt, BlendBySign<$lane:ty>, $flags:expr) => {
        $crate::shape::vector::lanes_row!($mnemonics, $lane, $flags, With, |sources, _immediate| {
            if sources[2] < 0 { sources[1] } else { sources[0] }
        })
    };
    // Lanes compared: fn(T, T) -> bool. The result is ones in a lane, or a bit of a mask register.
    ($mnemonics:tt, Compare<$lane:ty>, $flags:expr, $function:expr) => {
        $crate::shape::vector::vector_row!(
            $mnemonics, CompareImm<$lane>, $flags,
            |first: $lane, second: $lane, _| ($function)(&first, &second)
        )
    };
    // The same with an immediate: fn(T, T, u8) -> bool.
    ($mnemonics:tt, CompareImm<$lane:ty>, $flags:expr, $function:expr) => {{
        struct Op;
        impl $crate::shape::vector::Compare<$lane> for Op {
            #[inline(always)]
            fn apply(first: $lane, second: $lane, immediate: u8) -> bool {
                ($function)(first, second, immediate)
            }
        }
        $crate::run::row::Row {
            select: $crate::shape::vector::compare::<$lane, Op>,
            ..$crate::shape::vector::work_row!(
                $mnemonics,
                $flags,
                $crate::run::phases::Layout::new($crate::run::phases::Operands::Two, size_of::<$lane>()),
                $crate::shape::vector::ToLanes<$lane, Op>
            )
        }
    }};
    // Lanes shifted by one count: fn(T, u64) -> T.
    ($mnemonics:tt, LaneShift<$lane:ty>, $flags:expr, $function:expr) => {{
        struct Op;
        impl $crate::shape::vector::LaneShift<$lane> for Op {
            #[inline(always)]
            fn apply(lane: $lane, count: u64) -> $lane {
                ($function)(lane, count)
            }
        }
        $crate::run::row::Row {
            select: $crate::shape::vector::lane_shift::<$lane, Op>,
            ..$crate::shape::vector::work_row!(
                $mnemonics,
                $flags,
                $crate::run::phases::Layout::new($crate::run::phases::Operands::Shift, size_of::<$lane>())
                    .low_half(),
                $crate::shape::vector::ByCount<$lane, Op>
            )
        }
    }};
    // The low lanes of the source, made wider as `From` does.
    ($mnemonics:tt, Widen<$narrow:ty, $wide:ty>, $flags:expr) => {
        $crate::shape::vector::work_row!(
            $mnemonics,
            $flags,
            $crate::run::phases::Layout::new($crate::run::phases::Operands::One, size_of::<$wide>())
                .from(size_of::<$narrow>()),
            $crate::shape::vector::Widened<$narrow, $wide>
        )
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
        $crate::shape::vector::work_row!(
            $mnemonics,
            $flags,
            $crate::run::phases::Layout::new($crate::run::phases::Operands::Two, size_of::<$narrow>()).whole(),
            $crate::shape::vector::Narrowed<$wide, $narrow, Op>
        )
    }};
}
pub(crate) use vector_row;

/// Rows of lanes: |[T; 3], u8| -> T.
macro_rules! lanes_row {
    ($mnemonics:tt, $lane:ty, $flags:expr, $operands:ident, |$sources:ident, $immediate:ident| $call:expr) => {{
        struct Op;
        impl<B: $crate::model::lane::Bits> $crate::shape::vector::Work<B> for Op {
            #[inline]
            fn work(sources: [&B; 3], $immediate: u8) -> B {
                $crate::shape::vector::by_lanes::<$lane, B>(sources, |$sources| $call)
            }
        }
        $crate::shape::vector::work_row!(
            $mnemonics,
            $flags,
            $crate::run::phases::Layout::new($crate::run::phases::Operands::$operands, size_of::<$lane>()),
            Op
        )
    }};
}
pub(crate) use lanes_row;

/// Rows of blocks of 128 bits, or of the 64 of MMX.
macro_rules! blocks_row {
    (
        $mnemonics:tt, $lane:ty, $flags:expr, $operands:ident, $part:ident,
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
        $crate::shape::vector::work_row!(
            $mnemonics,
            $flags,
            $crate::run::phases::Layout::new(
                $crate::run::phases::Operands::$operands,
                size_of::<$lane>()
            )
            .whole()
            .$part(),
            $crate::shape::vector::ByBlocks<$lane, Op>
        )
    }};
}
pub(crate) use blocks_row;

/// Rows of blocks of 128 bits: |[&Block; 3], u8| -> Block.
macro_rules! block_128_row {
    ($mnemonics:tt, $lane:ty, $flags:expr, $operands:ident, |$sources:ident, $immediate:ident| $call:expr) => {{
        struct Op;
        impl<B: $crate::model::lane::Bits> $crate::shape::vector::Work<B> for Op {
            #[inline]
            fn work(sources: [&B; 3], $immediate: u8) -> B {
                type Block = <$lane as $crate::model::lane::Lane>::Block128;
                $crate::shape::vector::by_blocks_128::<Block, B>(sources, |$sources| $call)
            }
        }
        $crate::shape::vector::work_row!(
            $mnemonics,
            vectors,
            $flags,
            $crate::run::phases::Layout::new($crate::run::phases::Operands::$operands, size_of::<$lane>())
                .whole(),
            Op
        )
    }};
}
pub(crate) use block_128_row;

impl Form<'_> {
    /// Whether an operand has this shape.
    pub(crate) fn any(&self, shape: Shape) -> bool {
        (0..self.instruction.op_count()).any(|index| self.shape(index) == shape)
    }

    /// Whether the processor does not look at the alignment of an operand that the manual wants aligned.
    pub(crate) fn may_be_misaligned(&self) -> bool {
        let features = self.instruction.code().cpuid_features();
        self.processor.is(Facts::SHA_IGNORES_ALIGNMENT) && features.contains(&CpuidFeature::SHA)
    }
}

/// What a vector instruction does to values of so many bits.
pub(crate) trait Work<B: Bits> {
    /// Computes the result. Sources that the instruction does not have are of no use.
    fn work(sources: [&B; 3], immediate: u8) -> B;
}

/// Fetch, work, commit.
pub(crate) fn run<B: Bits, O: Work<B>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.work::<B>(|first, second, third, immediate| O::work([first, second, third], immediate))
}

/// The function for the registers of the form, MMX registers among them.
pub(crate) fn work<O: Work<Mm> + Work<Xmm> + Work<Ymm> + Work<Zmm>>(form: &Form<'_>) -> Option<Execute> {
    Some(by_bits!(form.vector_width(), run, <O>))
}

/// The function for the registers of the form, which are no MMX registers.
pub(crate) fn work_of_vectors<O: Work<Xmm> + Work<Ymm> + Work<Zmm>>(form: &Form<'_>) -> Option<Execute> {
    Some(by_vector!(form.vector_width(), run, <O>))
}

/// Lane by lane.
#[inline(always)]
pub(crate) fn by_lanes<T: Lane, B: Bits>(sources: [&B; 3], operation: impl Fn([T; 3]) -> T) -> B {
    let mut result = B::default();
    let [first, second, third] = sources.map(B::lanes::<T>);
    let sources = first.iter().zip(second).zip(third);
    for (result, ((first, second), third)) in result.lanes_mut().iter_mut().zip(sources) {
        *result = operation([*first, *second, *third]);
    }
    result
}

/// Each lane from all lanes of the sources.
#[inline(always)]
pub(crate) fn across<T: Lane, B: Bits>(sources: [&B; 3], operation: impl Fn([&[T]; 3], usize) -> T) -> B {
    let mut result = B::default();
    let sources = sources.map(B::lanes::<T>);
    for (index, result) in result.lanes_mut().iter_mut().enumerate() {
        *result = operation(sources, index);
    }
    result
}

/// Block by block of 128 bits.
#[inline(always)]
pub(crate) fn by_blocks_128<T: bytemuck::Pod, B: Bits>(
    sources: [&B; 3],
    operation: impl Fn([&T; 3]) -> T,
) -> B {
    let mut result = B::default();
    let [first, second, third] = sources.map(|source| bytemuck::cast_slice::<u64, T>(source.quadwords()));
    let sources = first.iter().zip(second).zip(third);
    let results = bytemuck::cast_slice_mut::<u64, T>(result.quadwords_mut());
    for (result, ((first, second), third)) in results.iter_mut().zip(sources) {
        *result = operation([first, second, third]);
    }
    result
}

/// Blocks of 128 bits, or of the 64 of MMX.
pub(crate) struct ByBlocks<T, O>(T, O);

impl<B: Bits, T: Lane, O: Blocks<T>> Work<B> for ByBlocks<T, O> {
    #[inline]
    fn work([first, second, _]: [&B; 3], immediate: u8) -> B {
        T::by_blocks::<B, O>(first, second, immediate)
    }
}

/// From the beginning of the immediate again after eight lanes.
#[inline(always)]
pub(crate) fn blend<T: Copy>([first, second, _]: [&[T]; 3], index: usize, immediate: u8) -> T {
    if immediate >> (index & 7) & 1 != 0 { second[index] } else { first[index] }
}

/// The element at `index`, counted around.
#[inline(always)]
pub(crate) fn pick<T: Copy + Default>(elements: &[T], index: usize) -> T {
    elements.get(index & elements.len().wrapping_sub(1)).copied().unwrap_or_default()
}

/// A comparison of lanes.
pub(crate) trait Compare<T: Lane> {
    fn apply(first: T, second: T, immediate: u8) -> bool;
}

/// Its result as ones in a lane.
pub(crate) struct ToLanes<T, O>(T, O);

impl<B: Bits, T: Lane, O: Compare<T>> Work<B> for ToLanes<T, O> {
    #[inline]
    fn work(sources: [&B; 3], immediate: u8) -> B {
        let ones: T = bytemuck::pod_read_unaligned(&[0xff; 8][..size_of::<T>()]);
        by_lanes(
            sources,
            |[first, second, _]| {
                if O::apply(first, second, immediate) { ones } else { T::zeroed() }
            },
        )
    }
}

pub(crate) fn compare<T: Lane, O: Compare<T>>(form: &Form<'_>) -> Option<Execute> {
    fn to_mask<B: Bits, T: Lane, O: Compare<T>>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut memory = B::default();
        c.fetch(&mut memory)?;
        let immediate = c.decoded.immediate as u8;
        let [first, second, _] = c.sources(&memory).map(B::lanes::<T>);
        let pairs = first.iter().zip(second);
        let bits = pairs.enumerate().fold(0, |bits, (index, (first, second))| {
            bits | u64::from(O::apply(*first, *second, immediate)) << (index & 63)
        });
        c.commit_mask(bits, B::BYTES / size_of::<T>());
        Ok(Outcome::Next)
    }
    match form.instruction.op_register(0).is_k() {
        true => Some(by_vector!(form.vector_width(), to_mask, <T, O>)),
        false => work::<ToLanes<T, O>>(form),
    }
}

/// All lanes shifted by one count: the immediate, or the low quadword of the second source.
pub(crate) trait LaneShift<T: Lane> {
    fn apply(lane: T, count: u64) -> T;
}

/// The count is in the second source.
pub(crate) struct ByCount<T, O>(T, O);
/// The count is the immediate.
pub(crate) struct ByImmediate<T, O>(T, O);

impl<B: Bits, T: Lane, O: LaneShift<T>> Work<B> for ByCount<T, O> {
    #[inline]
    fn work(sources: [&B; 3], _: u8) -> B {
        let count = sources[1].quadwords()[0];
        by_lanes(sources, |[lane, ..]| O::apply(lane, count))
    }
}

impl<B: Bits, T: Lane, O: LaneShift<T>> Work<B> for ByImmediate<T, O> {
    #[inline]
    fn work(sources: [&B; 3], immediate: u8) -> B {
        by_lanes(sources, |[lane, ..]| O::apply(lane, u64::from(immediate)))
    }
}

pub(crate) fn lane_shift<T: Lane, O: LaneShift<T>>(form: &Form<'_>) -> Option<Execute> {
    if form.any(Shape::Immediate) { work::<ByImmediate<T, O>>(form) } else { work::<ByCount<T, O>>(form) }
}

/// The low lanes of the source, made wider.
pub(crate) struct Widened<N, W>(N, W);

impl<B: Bits, N: Lane, W: Lane + From<N>> Work<B> for Widened<N, W> {
    #[inline]
    fn work([source, ..]: [&B; 3], _: u8) -> B {
        let mut result = B::default();
        for (wide, narrow) in result.lanes_mut::<W>().iter_mut().zip(source.lanes::<N>()) {
            *wide = W::from(*narrow);
        }
        result
    }
}

/// The lanes of a block of the first source, then those of the second, made narrower.
pub(crate) trait Narrow<W: Lane, N: Lane> {
    fn apply(lane: W) -> N;
}

pub(crate) struct Narrowed<W, N, O>(W, N, O);

impl<B: Bits, W: Lane, N: Lane, O: Narrow<W, N>> Work<B> for Narrowed<W, N, O> {
    #[inline]
    fn work([first, second, _]: [&B; 3], _: u8) -> B {
        let mut result = B::default();
        let block = B::BYTES.min(16) / size_of::<W>();
        let sources = first.lanes::<W>().chunks_exact(block).zip(second.lanes::<W>().chunks_exact(block));
        let results = result.lanes_mut::<N>().chunks_exact_mut(2 * block);
        for (narrow, (first, second)) in results.zip(sources) {
            for (narrow, wide) in narrow.iter_mut().zip(first.iter().chain(second)) {
                *narrow = O::apply(*wide);
            }
        }
        result
    }
}
