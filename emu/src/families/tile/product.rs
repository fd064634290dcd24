//! Products of matrices: doublewords of the first source, a row at a time, with those of the second, a column at a time.

use super::{doublewords, register, tiles};
use crate::decode::flags::Flags;
use crate::host::fma::{Signs, Unit};
use crate::model::exception::Exception;
use crate::model::format::{Format, Half, Single};
use crate::model::lane::Zmm;
use crate::model::outcome::Outcome;
use crate::model::registers::{Mxcsr, Tile};
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;
use crate::vector::soft::{Control, convert, fused};

pub(super) static ROWS: &[Row] = &[
    row!(Tdpbssd, product(|c, a, b| bytes(c, a, signed, b, signed)), Flags::TILES),
    row!(Tdpbsud, product(|c, a, b| bytes(c, a, signed, b, unsigned)), Flags::TILES),
    row!(Tdpbusd, product(|c, a, b| bytes(c, a, unsigned, b, signed)), Flags::TILES),
    row!(Tdpbuud, product(|c, a, b| bytes(c, a, unsigned, b, unsigned)), Flags::TILES),
    row!(Tdpbf16ps, product(|c, a, b| pairs(c, a, b, brain, [(0, 0), (1, 1)], Signs::Add)), Flags::TILES),
    row!(Tdpfp16ps, product(|c, a, b| pairs(c, a, b, half, [(0, 0), (1, 1)], Signs::Add)), Flags::TILES),
    row!(
        Tcmmrlfp16ps,
        product(|c, a, b| pairs(c, a, b, half, [(0, 0), (1, 1)], Signs::NegatedAdd)),
        Flags::TILES
    ),
    row!(Tcmmimfp16ps, product(|c, a, b| pairs(c, a, b, half, [(1, 0), (0, 1)], Signs::Add)), Flags::TILES),
];

/// A row as doublewords.
type Doublewords = [u32; 16];

/// Adds to a row of the destination what a row of the first source and the rows of the second come to.
type Work = fn(&mut Doublewords, &[u32], &[Doublewords]);

fn product(c: &mut Context<'_>, work: Work) -> Result<Outcome, Exception> {
    tiles(c, |c| {
        let [to, first, second] = [doublewords(c, 0)?, doublewords(c, 1)?, doublewords(c, 2)?];
        let fits = to.1.rows == first.1.rows
            && to.1.bytes == second.1.bytes
            && first.1.bytes / 4 == second.1.rows
            && to.0 != first.0
            && to.0 != second.0
            && first.0 != second.0;
        if !fits {
            return Err(Exception::InvalidOpcode);
        }
        let (left, right) = (rows(c, first.0), rows(c, second.0));
        let mut sums = rows(c, to.0);
        let inner = second.1.rows;
        for (row, (sum, left)) in sums.iter_mut().zip(&left).enumerate() {
            if row < to.1.rows {
                work(sum, left.get(..inner).unwrap_or_default(), right.get(..inner).unwrap_or_default());
                sum.iter_mut().skip(to.1.bytes / 4).for_each(|above| *above = 0);
            } else {
                *sum = Doublewords::default();
            }
        }
        if let Some(tile) = register(c, to.0) {
            *tile = bytemuck::cast(sums);
        }
        c.registers.extended.tiles.config.set_start_row(0);
        Ok(Outcome::Next)
    })
}

fn rows(c: &mut Context<'_>, number: usize) -> [Doublewords; 16] {
    register(c, number).map_or([Doublewords::default(); 16], |tile: &mut Tile| bytemuck::cast(*tile))
}

fn signed(byte: u8) -> i32 {
    i32::from(byte as i8)
}

fn unsigned(byte: u8) -> i32 {
    i32::from(byte)
}

/// Sums of products of four bytes.
#[inline(always)]
fn bytes(
    sums: &mut Doublewords,
    left: &[u32],
    of_left: fn(u8) -> i32,
    right: &[Doublewords],
    of_right: fn(u8) -> i32,
) {
    for (left, right) in left.iter().zip(right) {
        for (sum, right) in sums.iter_mut().zip(right) {
            let pairs = left.to_le_bytes().into_iter().zip(right.to_le_bytes());
            let products: i32 = pairs.map(|(left, right)| of_left(left) * of_right(right)).sum();
            *sum = sum.wrapping_add(products as u32);
        }
    }
}

/// A number of BF16 as a single.
fn brain(word: u16) -> u32 {
    u32::from(word) << 16
}

/// A number of half precision as a single: denormal ones count.
fn half(word: u16) -> u32 {
    convert::<Half, Single>(word.into(), false, &mut Control::flushing()) as u32
}

/// Sums of products of words that are numbers, one sum for each of `places`, the word of the left and of the right one
/// (0 for the low one); then both sums are added, and they to the destination. The second product has the `signs`.
#[inline(always)]
fn pairs(
    sums: &mut Doublewords,
    left: &[u32],
    right: &[Doublewords],
    number: fn(u16) -> u32,
    places: [(u32, u32); 2],
    signs: Signs,
) {
    let mut partial = [Doublewords::default(); 2];
    let one = [Single::ONE as u32; 16];
    let word = |doubleword: u32, place: u32| number((doubleword >> (16 * place)) as u16);
    for (left, right) in left.iter().zip(right) {
        for (sum, ((from_left, from_right), signs)) in
            partial.iter_mut().zip(places.into_iter().zip([Signs::Add, signs]))
        {
            let left = [word(*left, from_left); 16];
            *sum = multiply_add(signs, &left, &right.map(|right| word(right, from_right)), sum);
        }
    }
    let [low, high] = partial;
    let both = multiply_add(Signs::Add, &low, &one, &high);
    *sums = multiply_add(Signs::Add, sums, &one, &both);
}

/// Products and addends, to nearest, denormal numbers flushed both ways; MXCSR does not count, and nothing is raised. Of
/// several NaNs the left one is the result, else the right one, else the addend; the host's own choice would be the right
/// one before the left one.
fn multiply_add(signs: Signs, left: &Doublewords, right: &Doublewords, addend: &Doublewords) -> Doublewords {
    const FLUSHING: Mxcsr = Mxcsr::MASKS.union(Mxcsr::DAZ).union(Mxcsr::FTZ);
    let negated = [signs == Signs::NegatedAdd, false];
    let lane = |lane: usize| {
        let operands = [left, right, addend].map(|lanes| u64::from(lanes[lane]));
        fused::<Single>(operands, negated, &mut Control::flushing()) as u32
    };
    let Some(unit) = Unit::of(signs, 4, false) else {
        return core::array::from_fn(lane);
    };
    // By value: doublewords need not lie where quadwords may.
    let sources: [Zmm; 3] = [left, right, addend].map(|lanes| bytemuck::cast(*lanes));
    let mut result = Zmm::default();
    unit.compute([FLUSHING], sources.each_ref(), core::array::from_mut(&mut result));
    let mut result: Doublewords = bytemuck::cast(result);
    for (number, value) in result.iter_mut().enumerate() {
        if f32::from_bits(*value).is_nan() {
            *value = lane(number);
        }
    }
    result
}
