//! Masks in vectors, which are the top bits of lanes, and tests of whole vectors (SDM volume 1, sections 12.10, 14.1 and
//! 15.1).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::families::integer::arith::flag;
use crate::model::exception::Exception;
use crate::model::lane::Zmm;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Layout, Operands, spread};
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

const fn one(lane: usize) -> Layout {
    Layout::new(Operands::One, lane)
}

const fn two(lane: usize) -> Layout {
    Layout::new(Operands::Two, lane)
}

pub(super) static ROWS: &[Row] = &[
    row!([Pmovmskb, Vpmovmskb], Whole, NONE, to_general::<1>).with(one(1)),
    row!([Movmskps, Vmovmskps], Whole, NONE, to_general::<4>).with(one(4)),
    row!([Movmskpd, Vmovmskpd], Whole, NONE, to_general::<8>).with(one(8)),
    row!(Vpmovb2m, Whole, NONE, to_mask::<1>).with(one(1)),
    row!(Vpmovw2m, Whole, NONE, to_mask::<2>).with(one(2)),
    row!(Vpmovd2m, Whole, NONE, to_mask::<4>).with(one(4)),
    row!(Vpmovq2m, Whole, NONE, to_mask::<8>).with(one(8)),
    row!(Vpmovm2b, Whole, NONE, from_mask::<1>).with(one(1)),
    row!(Vpmovm2w, Whole, NONE, from_mask::<2>).with(one(2)),
    row!(Vpmovm2d, Whole, NONE, from_mask::<4>).with(one(4)),
    row!(Vpmovm2q, Whole, NONE, from_mask::<8>).with(one(8)),
    row!([Ptest, Vptest], Whole, NONE, |c| test(c, u64::MAX)).with(two(8)),
    row!(Vtestps, Whole, NONE, |c| test(c, 0x8000_0000_8000_0000)).with(two(4)),
    row!(Vtestpd, Whole, NONE, |c| test(c, 0x8000_0000_0000_0000)).with(two(8)),
    row!([Vmaskmovps, Vpmaskmovd], Select, NONE, select_masked::<4>).with(two(4)),
    row!([Vmaskmovpd, Vpmaskmovq], Select, NONE, select_masked::<8>).with(two(8)),
];

/// The top bits of lanes of so many bytes, gathered, if they are bytes, by a multiplication that moves each of a
/// quadword's to its own place in the top byte.
#[inline(always)]
fn signs<const LANE: usize>(vector: &Zmm, width: usize) -> u64 {
    let of_quadword = |quadword: u64| match LANE {
        1 => (quadword >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56,
        2 => quadword >> 15 & 1 | quadword >> 30 & 2 | quadword >> 45 & 4 | quadword >> 60 & 8,
        4 => quadword >> 31 & 1 | quadword >> 62 & 2,
        _ => quadword >> 63,
    };
    let quadwords = vector.iter().take(width / 8).enumerate();
    quadwords.fold(0, |signs, (index, quadword)| signs | of_quadword(*quadword) << ((index * 8 / LANE) & 63))
}

/// The top bits of the source's lanes.
#[inline(always)]
fn fetch_signs<const LANE: usize>(c: &mut Context<'_>) -> Result<u64, Exception> {
    let [source, ..] = c.fetch_copies()?;
    Ok(signs::<LANE>(&source, c.phases.width()))
}

fn to_general<const LANE: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let signs = fetch_signs::<LANE>(c)?;
    c.write(0, signs)?;
    // No vector is written.
    c.commit(&Zmm::default())
}

fn to_mask<const LANE: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let signs = fetch_signs::<LANE>(c)?;
    c.registers.extended.opmask[usize::from(c.decoded.operand[0].number & 7)] = signs;
    Ok(Outcome::Next)
}

/// Ones in the lanes whose bits are set.
fn from_mask<const LANE: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let mask = c.registers.extended.opmask[usize::from(c.decoded.operand[1].number & 7)];
    let mut result = Zmm::default();
    for (index, quadword) in result.iter_mut().enumerate().take(c.phases.width() / 8) {
        *quadword = spread(mask, LANE, index);
    }
    c.commit(&result)
}

/// ZF if none of the bits is in both, CF if none is in the second alone; the other status flags are clear.
fn test(c: &mut Context<'_>, bits: u64) -> Result<Outcome, Exception> {
    let [first, second, _] = c.fetch_copies()?;
    let (mut both, mut second_alone) = (0, 0);
    for (first, second) in first.iter().zip(&second) {
        both |= first & second & bits;
        second_alone |= !first & second & bits;
    }
    c.set_status(flag(Rflags::ZF, both == 0) | flag(Rflags::CF, second_alone == 0));
    Ok(Outcome::Next)
}

fn select_masked<const LANE: usize>(form: &Form<'_>) -> Option<Execute> {
    let store = form.shape(0) == Shape::Memory;
    Some(if store { masked_store::<LANE> } else { masked_load::<LANE> })
}

/// The lanes whose mask is negative, from memory; the others become zeros.
fn masked_load<const LANE: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let width = c.phases.width();
    let mask = &c.registers.extended.vector[usize::from(c.decoded.operand[1].number & 31)].0;
    let mask = signs::<LANE>(mask, width);
    let mut result = Zmm::default();
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut result);
    c.load_elements(&mut bytes[..width], LANE, mask)?;
    c.commit(&result)
}

/// The lanes whose mask is negative, to memory.
fn masked_store<const LANE: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let [mask, source, _] = c.fetch_copies()?;
    let width = c.phases.width();
    let mask = signs::<LANE>(&mask, width);
    let bytes: &[u8] = bytemuck::cast_slice(&source);
    c.store_elements(&bytes[..width], LANE, mask)?;
    Ok(Outcome::Next)
}
