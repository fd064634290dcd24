//! Lanes made narrower, each from its own, and lanes moved together and apart (SDM volume 1, section 15.1).

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::operand::Kind;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Lane, Zmm, by_vector};
use crate::model::outcome::Outcome;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Alignment, Layout, Operands, lowest, write_lanes};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{Work, work_row};

const NONE: Flags = Flags::empty();

/// A row that makes lanes narrower: fn(Wide) -> Narrow.
macro_rules! truncate_row {
    ($mnemonic:ident, $wide:ty, $narrow:ty, $function:expr) => {{
        struct Op;
        impl<B: Bits> Work<B> for Op {
            #[inline]
            fn work([source, ..]: [&B; 3], _: u8) -> B {
                let mut result = B::default();
                for (narrow, wide) in result.lanes_mut::<$narrow>().iter_mut().zip(source.lanes::<$wide>()) {
                    *narrow = ($function)(*wide) as $narrow;
                }
                result
            }
        }
        work_row!(
            [$mnemonic],
            vectors,
            NONE,
            Layout::new(Operands::One, size_of::<$narrow>()).from(size_of::<$wide>()),
            Op
        )
    }};
}

const fn lanes(bytes: usize) -> Layout {
    Layout::new(Operands::One, bytes)
}

pub(super) static ROWS: &[Row] = &[
    truncate_row!(Vpmovwb, u16, u8, |lane: u16| lane),
    truncate_row!(Vpmovdb, u32, u8, |lane: u32| lane),
    truncate_row!(Vpmovqb, u64, u8, |lane: u64| lane),
    truncate_row!(Vpmovdw, u32, u16, |lane: u32| lane),
    truncate_row!(Vpmovqw, u64, u16, |lane: u64| lane),
    truncate_row!(Vpmovqd, u64, u32, |lane: u64| lane),
    truncate_row!(Vpmovswb, i16, i8, |lane: i16| lane.clamp(i8::MIN.into(), i8::MAX.into())),
    truncate_row!(Vpmovsdb, i32, i8, |lane: i32| lane.clamp(i8::MIN.into(), i8::MAX.into())),
    truncate_row!(Vpmovsqb, i64, i8, |lane: i64| lane.clamp(i8::MIN.into(), i8::MAX.into())),
    truncate_row!(Vpmovsdw, i32, i16, |lane: i32| lane.clamp(i16::MIN.into(), i16::MAX.into())),
    truncate_row!(Vpmovsqw, i64, i16, |lane: i64| lane.clamp(i16::MIN.into(), i16::MAX.into())),
    truncate_row!(Vpmovsqd, i64, i32, |lane: i64| lane.clamp(i32::MIN.into(), i32::MAX.into())),
    truncate_row!(Vpmovuswb, u16, u8, |lane: u16| lane.min(u8::MAX.into())),
    truncate_row!(Vpmovusdb, u32, u8, |lane: u32| lane.min(u8::MAX.into())),
    truncate_row!(Vpmovusqb, u64, u8, |lane: u64| lane.min(u8::MAX.into())),
    truncate_row!(Vpmovusdw, u32, u16, |lane: u32| lane.min(u16::MAX.into())),
    truncate_row!(Vpmovusqw, u64, u16, |lane: u64| lane.min(u16::MAX.into())),
    truncate_row!(Vpmovusqd, u64, u32, |lane: u64| lane.min(u32::MAX.into())),
    row!(Vpcompressb, Select, NONE, select_compress::<u8, 1>).with(lanes(1)),
    row!(Vpcompressw, Select, NONE, select_compress::<u16, 2>).with(lanes(2)),
    row!([Vpcompressd, Vcompressps], Select, NONE, select_compress::<u32, 4>).with(lanes(4)),
    row!([Vpcompressq, Vcompresspd], Select, NONE, select_compress::<u64, 8>).with(lanes(8)),
    row!(Vpexpandb, Whole, NONE, expand::<u8>).with(lanes(1)),
    row!(Vpexpandw, Whole, NONE, expand::<u16>).with(lanes(2)),
    row!([Vpexpandd, Vexpandps], Whole, NONE, expand::<u32>).with(lanes(4)),
    row!([Vpexpandq, Vexpandpd], Whole, NONE, expand::<u64>).with(lanes(8)),
];

/// The lanes that the mask leaves, as bits, and how many they are.
#[inline(always)]
fn chosen<T>(c: &Context<'_>) -> (u64, usize) {
    let chosen = c.write_mask() & lowest(c.phases.width() / size_of::<T>());
    (chosen, chosen.count_ones() as usize)
}

fn select_compress<T: Lane, const LANE: usize>(form: &Form<'_>) -> Option<Execute> {
    Some(match form.instruction.zeroing_masking() {
        true => by_vector!(form.vector_width(), compress, <T, LANE, true>),
        false => by_vector!(form.vector_width(), compress, <T, LANE, false>),
    })
}

/// The lanes that the mask leaves, side by side. To memory go only as many; above them a register is kept or
/// cleared.
fn compress<B: Bits, T: Lane, const LANE: usize, const ZEROING: bool>(
    c: &mut Context<'_>,
) -> Result<Outcome, Exception> {
    // It has no source in memory.
    let memory = B::default();
    let mut result = B::default();
    let (mask, count) = chosen::<T>(c);
    let [source, ..] = c.sources(&memory);
    let source = source.lanes::<T>().iter().enumerate();
    let source = source.filter(|(index, _)| mask >> (index & 63) & 1 != 0);
    for (to, (_, lane)) in result.lanes_mut::<T>().iter_mut().zip(source) {
        *to = *lane;
    }
    if c.phases.mask_number() == 0 {
        return c.commit(&result);
    }
    if c.decoded.operand[0].kind == Kind::Memory {
        let bytes: &[u8] = bytemuck::cast_slice(result.quadwords());
        c.check_alignment_of_elements(bytes.len(), LANE, lowest(count))?;
        c.store_elements(bytes, LANE, lowest(count))?;
    } else {
        write_lanes::<B, LANE, ZEROING>(c, &result, lowest(count));
    }
    Ok(Outcome::Next)
}

/// Neighbouring lanes, or as many from memory, to the lanes that the mask leaves.
fn expand<T: Lane>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (mut source, mut result) = (Zmm::default(), Zmm::default());
    let (mask, count) = chosen::<T>(c);
    if c.decoded.operand[1].kind == Kind::Memory {
        match c.phases.mask_number() {
            0 => c.check_vector(c.linear(), c.phases.width(), Alignment::Any)?,
            _ => c.check_alignment_of_elements(c.phases.width(), size_of::<T>(), lowest(count))?,
        }
        c.load_elements(source.lanes_mut(), size_of::<T>(), lowest(count))?;
    } else {
        [source, ..] = c.fetch_copies()?;
    }
    let to = result.lanes_mut::<T>().iter_mut().enumerate();
    let to = to.filter(|(index, _)| mask >> (index & 63) & 1 != 0);
    for ((_, to), lane) in to.zip(source.lanes::<T>()) {
        *to = *lane;
    }
    c.commit(&result)
}
