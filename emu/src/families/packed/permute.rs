//! Permutations across whole vectors, by an immediate or by lanes (SDM volume 1, sections 14.6 and 15.3).

use crate::decode::flags::Flags;
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::pick;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Vpermilps, Permute<u32>, NONE, four, |[table, control, _]: [&[u32]; 3], index: usize, _| {
        pick(table, index & !3 | control[index] as usize & 3)
    }),
    row!(Vpermilpd, Permute<u64>, NONE, two, |[table, control, _]: [&[u64]; 3], index: usize, _| {
        pick(table, index & !1 | (control[index] >> 1) as usize & 1)
    }),
    row!([Vpermq, Vpermpd], Permute<u64>, NONE, four, permute),
    row!([Vpermd, Vpermps], Across<u32>, NONE, Two, permute),
    row!(Vpermw, Across<u16>, NONE, Two, permute),
    row!(Vpermb, Across<u8>, NONE, Two, permute),
    row!([Vpermi2q, Vpermi2pd], Across<u64>, NONE, Three, by_destination),
    row!([Vpermi2d, Vpermi2ps], Across<u32>, NONE, Three, by_destination),
    row!(Vpermi2w, Across<u16>, NONE, Three, by_destination),
    row!(Vpermi2b, Across<u8>, NONE, Three, by_destination),
    row!([Vpermt2q, Vpermt2pd], Across<u64>, NONE, Three, by_second),
    row!([Vpermt2d, Vpermt2ps], Across<u32>, NONE, Three, by_second),
    row!(Vpermt2w, Across<u16>, NONE, Three, by_second),
    row!(Vpermt2b, Across<u8>, NONE, Three, by_second),
    row!([Vperm2f128, Vperm2i128], Across<u64>, NONE, Two, two_blocks),
    row!([Vshuff32x4, Vshufi32x4], Across<u32>, NONE, Two, shuffle_blocks),
    row!([Vshuff64x2, Vshufi64x2], Across<u64>, NONE, Two, shuffle_blocks),
    row!(Valignd, Across<u32>, NONE, Two, align),
    row!(Valignq, Across<u64>, NONE, Two, align),
];

/// Two bits of the immediate for each lane of four, which they choose from.
#[inline(always)]
fn four<T: Copy + Default>([lanes, ..]: [&[T]; 3], index: usize, immediate: u8) -> T {
    pick(lanes, index & !3 | usize::from(immediate >> (2 * (index & 3)) & 3))
}

/// A bit of the immediate for each lane, which chooses from two.
#[inline(always)]
fn two<T: Copy + Default>([lanes, ..]: [&[T]; 3], index: usize, immediate: u8) -> T {
    pick(lanes, index & !1 | usize::from(immediate >> (index & 7) & 1))
}

/// The lanes of the second source that those of the first number.
#[inline(always)]
fn permute<T: Copy + Default + TryInto<u64>>([numbers, table, _]: [&[T]; 3], index: usize, _: u8) -> T {
    pick(table, number(numbers, index))
}

#[inline(always)]
fn number<T: Copy + TryInto<u64>>(numbers: &[T], index: usize) -> usize {
    numbers[index].try_into().map_or(0, |number| number as usize)
}

/// The lanes of two tables, the second behind the first.
#[inline(always)]
fn from_two<T: Copy + Default>(first: &[T], second: &[T], number: usize) -> T {
    pick(if number & first.len() == 0 { first } else { second }, number)
}

/// The destination has the numbers, the two sources are the table.
#[inline(always)]
fn by_destination<T: Copy + Default + TryInto<u64>>(
    [numbers, first, second]: [&[T]; 3],
    index: usize,
    _: u8,
) -> T {
    from_two(first, second, number(numbers, index))
}

/// The second operand has the numbers, the destination is the first half of the table.
#[inline(always)]
fn by_second<T: Copy + Default + TryInto<u64>>(
    [first, numbers, second]: [&[T]; 3],
    index: usize,
    _: u8,
) -> T {
    from_two(first, second, number(numbers, index))
}

/// Four bits of the immediate for each block of 128 bits: which of four, and whether it is zero.
#[inline(always)]
fn two_blocks([first, second, _]: [&[u64]; 3], index: usize, immediate: u8) -> u64 {
    let control = usize::from(immediate >> (4 * ((index / 2) & 1)));
    match (control & 8, control & 2) {
        (0, 0) => pick(first, 2 * (control & 1) + (index & 1)),
        (0, _) => pick(second, 2 * (control & 1) + (index & 1)),
        _ => 0,
    }
}

/// Blocks of 128 bits: those of the lower half from the first source, the others from the second.
#[inline(always)]
fn shuffle_blocks<T: Copy + Default>([first, second, _]: [&[T]; 3], index: usize, immediate: u8) -> T {
    let lanes = 16 / size_of::<T>();
    let blocks = first.len() / lanes;
    let block = index / lanes;
    let bits = blocks.trailing_zeros() as usize;
    let chosen = usize::from(immediate) >> ((block * bits) & 7) & (blocks - 1);
    pick(if block < blocks / 2 { first } else { second }, chosen * lanes + index % lanes)
}

/// The first source lies above the second.
#[inline(always)]
fn align<T: Copy + Default>([first, second, _]: [&[T]; 3], index: usize, immediate: u8) -> T {
    let number = index + (usize::from(immediate) & (first.len() - 1));
    from_two(second, first, number)
}
