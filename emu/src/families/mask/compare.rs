//! Comparisons whose result is a mask, and selection by one (SDM volume 1, sections 15.3 and 15.6).

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Lane, Zmm};
use crate::model::outcome::Outcome;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Layout, Operands, spread};
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Vpcmpb, CompareImm<i8>, NONE, compare),
    row!(Vpcmpw, CompareImm<i16>, NONE, compare),
    row!(Vpcmpd, CompareImm<i32>, NONE, compare),
    row!(Vpcmpq, CompareImm<i64>, NONE, compare),
    row!(Vpcmpub, CompareImm<u8>, NONE, compare),
    row!(Vpcmpuw, CompareImm<u16>, NONE, compare),
    row!(Vpcmpud, CompareImm<u32>, NONE, compare),
    row!(Vpcmpuq, CompareImm<u64>, NONE, compare),
    row!(Vptestmb, Compare<u8>, NONE, |first: &u8, second: &u8| first & second != 0),
    row!(Vptestmw, Compare<u16>, NONE, |first: &u16, second: &u16| first & second != 0),
    row!(Vptestmd, Compare<u32>, NONE, |first: &u32, second: &u32| first & second != 0),
    row!(Vptestmq, Compare<u64>, NONE, |first: &u64, second: &u64| first & second != 0),
    row!(Vptestnmb, Compare<u8>, NONE, |first: &u8, second: &u8| first & second == 0),
    row!(Vptestnmw, Compare<u16>, NONE, |first: &u16, second: &u16| first & second == 0),
    row!(Vptestnmd, Compare<u32>, NONE, |first: &u32, second: &u32| first & second == 0),
    row!(Vptestnmq, Compare<u64>, NONE, |first: &u64, second: &u64| first & second == 0),
    row!(Vpshufbitqmb, Whole, NONE, shuffle_bits).with(two_of(1)),
    row!(Vpblendmb, Select, NONE, blend::<u8>).with(two_of(1)),
    row!(Vpblendmw, Select, NONE, blend::<u16>).with(two_of(2)),
    row!([Vpblendmd, Vblendmps], Select, NONE, blend::<u32>).with(two_of(4)),
    row!([Vpblendmq, Vblendmpd], Select, NONE, blend::<u64>).with(two_of(8)),
    row!(Vp2intersectd, Whole, NONE, intersect::<u32>).with(two_of(4)).whole(),
    row!(Vp2intersectq, Whole, NONE, intersect::<u64>).with(two_of(8)).whole(),
];

/// Two sources with elements of so many bytes.
const fn two_of(bytes: usize) -> Layout {
    Layout::new(Operands::Two, bytes)
}

/// The predicates EQ, LT, LE, FALSE, NEQ, NLT, NLE and TRUE.
#[inline(always)]
fn compare<T: PartialOrd>(first: T, second: T, predicate: u8) -> bool {
    let holds = match predicate & 3 {
        0 => first == second,
        1 => first < second,
        2 => first <= second,
        _ => false,
    };
    holds != (predicate & 4 != 0)
}

/// A bit of the first source's quadword for each byte of the second.
fn shuffle_bits(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let [first, second, _] = c.fetch_copies()?;
    let lanes = c.phases.width();
    let numbers = second.lanes::<u8>().iter().take(lanes);
    let bits = numbers
        .enumerate()
        .fold(0, |bits, (index, number)| bits | (first[index / 8] >> (number & 63) & 1) << (index & 63));
    c.commit_mask(bits, lanes);
    Ok(Outcome::Next)
}

/// Lanes of the second source where the mask is set, elsewhere of the first, or zeros.
fn blend<T: Lane>(form: &Form<'_>) -> Option<Execute> {
    fn run<T: Lane, const ZEROING: bool>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let [first, second, _] = c.fetch_copies()?;
        let mask = c.write_mask();
        let result: Zmm = core::array::from_fn(|index| {
            let chosen = spread(mask, size_of::<T>(), index);
            second[index] & chosen | if ZEROING { 0 } else { first[index] & !chosen }
        });
        c.commit_unmasked(&result);
        Ok(Outcome::Next)
    }
    Some(if form.instruction.zeroing_masking() { run::<T, true> } else { run::<T, false> })
}

/// Which lanes of each source are anywhere in the other, in an even mask register and in the one after it.
fn intersect<T: Lane + PartialEq>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let [first, second, _] = c.fetch_copies()?;
    let lanes = c.phases.width() / size_of::<T>();
    let (first, second) = (&first.lanes::<T>()[..lanes], &second.lanes::<T>()[..lanes]);
    let found = |these: &[T], those: &[T]| {
        these.iter().rev().fold(0, |bits, lane| bits << 1 | u64::from(those.contains(lane)))
    };
    let number = usize::from(c.decoded.operand[0].number & 6);
    c.registers.extended.opmask[number] = found(first, second);
    c.registers.extended.opmask[number + 1] = found(second, first);
    Ok(Outcome::Next)
}
