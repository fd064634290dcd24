//! Shifts of packed integers and of whole vectors (SDM volume 1, section 9.4.6).

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::lane::Bits;
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::by_class;
use crate::vector::{Class, Place};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Psllw, LaneShift<u16>, NONE, left),
    row!(Pslld, LaneShift<u32>, NONE, left),
    row!(Psllq, LaneShift<u64>, NONE, left),
    row!(Psrlw, LaneShift<u16>, NONE, right),
    row!(Psrld, LaneShift<u32>, NONE, right),
    row!(Psrlq, LaneShift<u64>, NONE, right),
    row!(Psraw, LaneShift<i16>, NONE, |lane: i16, count: u64| lane >> count.min(15)),
    row!(Psrad, LaneShift<i32>, NONE, |lane: i32, count: u64| lane >> count.min(31)),
    row!(Pslldq, Select, NONE, byte_shift::<Left>),
    row!(Psrldq, Select, NONE, byte_shift::<Right>),
];

/// Zero if the count is the width or more.
#[inline(always)]
fn left<W: Width>(lane: W, count: u64) -> W {
    lane.shift_left(count.min(64) as u32)
}

#[inline(always)]
fn right<W: Width>(lane: W, count: u64) -> W {
    lane.shift_right(count.min(64) as u32)
}

/// Shifts a block of 128 bits.
trait BlockShift {
    fn shift(block: u128, count: u32) -> Option<u128>;
}

struct Left;
struct Right;

impl BlockShift for Left {
    #[inline(always)]
    fn shift(block: u128, count: u32) -> Option<u128> {
        block.checked_shl(count)
    }
}

impl BlockShift for Right {
    #[inline(always)]
    fn shift(block: u128, count: u32) -> Option<u128> {
        block.checked_shr(count)
    }
}

/// Each block by as many bytes as the immediate says.
fn byte_shift<O: BlockShift>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, O: BlockShift>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let count = 8 * (c.decoded.immediate & 0xff) as u32;
        let mut result = P::fetch::<C, u8>(c, C::FIRST)?;
        for block in result.quadwords_mut().chunks_exact_mut(2) {
            let value = u128::from(block[0]) | u128::from(block[1]) << 64;
            let shifted = O::shift(value, count).unwrap_or(0);
            block.copy_from_slice(&[shifted as u64, (shifted >> 64) as u64]);
        }
        C::set::<u8>(c, result);
        Ok(Outcome::Next)
    }
    by_class!(form, 0, run, <O>)
}
