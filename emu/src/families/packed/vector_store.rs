//! Moves of whole vectors and of their low parts under VEX and EVEX (SDM volume 1, sections 14.1 and 15.1).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::Kind;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Lane, Xmm};
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::phases::Alignment;
use crate::run::phases::{Layout, Operands, Sources, Zmm};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{Work, lanes_of, lanes_of_mut, run, work_row};

const NONE: Flags = Flags::empty();

/// A move of a whole vector, in elements of so many bytes.
const fn whole(lane: usize) -> Layout {
    Layout::new(Operands::One, lane)
}

/// The same, #GP if it is not aligned.
const fn aligned(lane: usize) -> Layout {
    whole(lane).aligned(Alignment::Strict)
}

/// A move to the low element: of the second source into the first, or from or to memory.
const fn low(lane: usize) -> Layout {
    Layout::new(Operands::Shift, lane).scalar()
}

pub(super) static ROWS: &[Row] = &[
    work_row!([Vmovaps, Vmovdqa, Vmovdqa32, Vmovntps, Vmovntdq, Vmovntdqa], NONE, aligned(4), Copy),
    work_row!([Vmovapd, Vmovdqa64, Vmovntpd], NONE, aligned(8), Copy),
    work_row!([Vmovdqu8], NONE, whole(1), Copy),
    work_row!([Vmovdqu16], NONE, whole(2), Copy),
    work_row!([Vmovups, Vmovdqu, Vmovdqu32, Vlddqu], NONE, whole(4), Copy),
    work_row!([Vmovupd, Vmovdqu64], NONE, whole(8), Copy),
    row!(Vmovsh, Select, NONE, scalar::<u16>).with(low(2)),
    row!(Vmovss, Select, NONE, scalar::<u32>).with(low(4)),
    row!(Vmovsd, Select, NONE, scalar::<u64>).with(low(8)),
    row!(Vmovw, Whole, NONE, |c| transfer::<u16>(c, 0)),
    row!(Vmovd, Whole, NONE, |c| transfer::<u32>(c, 0)),
    row!(Vmovq, Whole, NONE, |c| transfer::<u64>(c, 0)),
    row!(Vpextrb, Whole, NONE, |c| transfer::<u8>(c, c.decoded.immediate)),
    row!(Vpextrw, Whole, NONE, |c| transfer::<u16>(c, c.decoded.immediate)),
    row!([Vpextrd, Vextractps], Whole, NONE, |c| transfer::<u32>(c, c.decoded.immediate)),
    row!(Vpextrq, Whole, NONE, |c| transfer::<u64>(c, c.decoded.immediate)),
    row!(Vpinsrb, Whole, NONE, insert::<u8>),
    row!(Vpinsrw, Whole, NONE, insert::<u16>),
    row!(Vpinsrd, Whole, NONE, insert::<u32>),
    row!(Vpinsrq, Whole, NONE, insert::<u64>),
    row!([Vmovlps, Vmovlpd], Select, NONE, half::<0, 0>).with(Layout::new(Operands::Shift, 8)),
    row!([Vmovhps, Vmovhpd], Select, NONE, half::<1, 0>).with(Layout::new(Operands::Shift, 8)),
    row!(Vmovhlps, Select, NONE, half::<0, 1>).with(Layout::new(Operands::Shift, 8)),
    row!(Vmovlhps, Select, NONE, half::<1, 0>).with(Layout::new(Operands::Shift, 8)),
    row!([Insertps, Vinsertps], Select, NONE, insertps).with(Layout::new(Operands::Two, 4)),
    work_row!([Vinsertf128, Vinserti128, Vinsertf32x4, Vinserti32x4], NONE, inserted(4), Insert<16>),
    work_row!([Vinsertf64x2, Vinserti64x2], NONE, inserted(8), Insert<16>),
    work_row!([Vinsertf32x8, Vinserti32x8], NONE, inserted(4), Insert<32>),
    work_row!([Vinsertf64x4, Vinserti64x4], NONE, inserted(8), Insert<32>),
    work_row!([Vextractf128, Vextracti128, Vextractf32x4, Vextracti32x4], NONE, extracted(4), Extract<16>),
    work_row!([Vextractf64x2, Vextracti64x2], NONE, extracted(8), Extract<16>),
    work_row!([Vextractf32x8, Vextracti32x8], NONE, extracted(4), Extract<32>),
    work_row!([Vextractf64x4, Vextracti64x4], NONE, extracted(8), Extract<32>),
];

/// A part put into a vector, which is read whole whatever the mask says.
const fn inserted(lane: usize) -> Layout {
    Layout::new(Operands::Two, lane).whole()
}

/// A part taken from a vector; all of it must be writable, whatever the mask says.
const fn extracted(lane: usize) -> Layout {
    Layout::new(Operands::One, lane).whole()
}

/// The source.
struct Copy;

impl Work for Copy {
    #[inline]
    fn work([source, ..]: &Sources, width: usize, _: u8, result: &mut Zmm) {
        result[..width / 8].copy_from_slice(&source[..width / 8]);
    }
}

/// The first source, but the lowest element is that of the second.
struct Merge<T>(T);

impl<T: Lane> Work for Merge<T> {
    #[inline]
    fn work([first, second, _]: &Sources, _: usize, _: u8, result: &mut Zmm) {
        result[..2].copy_from_slice(&first[..2]);
        lanes_of_mut::<T>(result)[0] = lanes_of::<T>(second)[0];
    }
}

/// From memory, the rest of the register is cleared; from a register, it is that of the first source.
fn scalar<T: Lane>(form: &Form<'_>) -> Option<Execute> {
    Some(if form.shape(2) == Shape::None { run::<Copy> } else { run::<Merge<T>> })
}

/// The XMM register that operand `index` names.
#[inline(always)]
fn xmm<'a>(c: &'a Context<'_>, index: usize) -> &'a Xmm {
    c.xmm(c.decoded.operand[index].number)
}

/// Writes the vector register that operand 0 names, and clears what lies above 128 bits.
#[inline(always)]
fn set_xmm(c: &mut Context<'_>, [low, high]: Xmm) {
    let number = usize::from(c.decoded.operand[0].number & 31);
    c.registers.extended.vector[number].0 = [low, high, 0, 0, 0, 0, 0, 0];
}

/// Moves an integer: an element of a vector register, a general register or memory. Registers are cleared above it.
fn transfer<W: Width>(c: &mut Context<'_>, element: u64) -> Result<Outcome, Exception> {
    let value: W = match c.decoded.operand[1].kind {
        Kind::Other => xmm(c, 1).integer(element as usize & (16 / W::BYTES - 1)),
        _ => c.read(1)?,
    };
    match c.decoded.operand[0].kind {
        Kind::Other => set_xmm(c, [value.zero_extend(), 0]),
        Kind::Memory => c.write(0, value)?,
        _ => c.write(0, value.zero_extend())?,
    }
    Ok(Outcome::Next)
}

fn insert<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = c.read::<W>(2)?;
    let element = c.decoded.immediate as usize & (16 / W::BYTES - 1);
    let result = xmm(c, 1).with_integer(element, value);
    set_xmm(c, result);
    Ok(Outcome::Next)
}

/// Half `TO` of the first source becomes half `FROM` of the second.
struct MergeHalf<const TO: usize, const FROM: usize>;

impl<const TO: usize, const FROM: usize> Work for MergeHalf<TO, FROM> {
    #[inline]
    fn work([first, second, _]: &Sources, _: usize, _: u8, result: &mut Zmm) {
        result[..2].copy_from_slice(&first[..2]);
        result[TO] = second[FROM];
    }
}

/// A half, to memory.
struct StoreHalf<const FROM: usize>;

impl<const FROM: usize> Work for StoreHalf<FROM> {
    #[inline]
    fn work([source, ..]: &Sources, _: usize, _: u8, result: &mut Zmm) {
        result[0] = source[FROM];
    }
}

fn half<const TO: usize, const FROM: usize>(form: &Form<'_>) -> Option<Execute> {
    Some(if form.shape(0) == Shape::Memory { run::<StoreHalf<TO>> } else { run::<MergeHalf<TO, FROM>> })
}

/// Bits 7:6 of the immediate choose the lane of a source register, 5:4 that of the destination, 3:0 lanes to clear.
struct InsertPs<const FROM_REGISTER: bool>;

impl<const FROM_REGISTER: bool> Work for InsertPs<FROM_REGISTER> {
    #[inline]
    fn work([first, second, _]: &Sources, _: usize, immediate: u8, result: &mut Zmm) {
        result[..2].copy_from_slice(&first[..2]);
        let from = if FROM_REGISTER { usize::from(immediate >> 6) } else { 0 };
        let lanes = lanes_of_mut::<u32>(result);
        lanes[usize::from(immediate >> 4 & 3)] = lanes_of::<u32>(second)[from];
        for (index, lane) in lanes.iter_mut().enumerate().take(4) {
            if immediate >> index & 1 != 0 {
                *lane = 0;
            }
        }
    }
}

fn insertps(form: &Form<'_>) -> Option<Execute> {
    Some(if form.any(Shape::Memory) { run::<InsertPs<false>> } else { run::<InsertPs<true>> })
}

/// Where the part lies that the immediate chooses: one of so many bytes out of `width`.
#[inline(always)]
fn part<const BYTES: usize>(width: usize, immediate: u8) -> core::ops::Range<usize> {
    let parts = (width / BYTES).max(1);
    let start = (usize::from(immediate) & (parts - 1)) * BYTES / 8;
    start..start + BYTES / 8
}

/// The first source with the second's low bytes as one of its parts.
struct Insert<const BYTES: usize>;

impl<const BYTES: usize> Work for Insert<BYTES> {
    #[inline]
    fn work([first, second, _]: &Sources, width: usize, immediate: u8, result: &mut Zmm) {
        result[..width / 8].copy_from_slice(&first[..width / 8]);
        result[part::<BYTES>(width, immediate)].copy_from_slice(&second[..BYTES / 8]);
    }
}

/// A part of the source.
struct Extract<const BYTES: usize>;

impl<const BYTES: usize> Work for Extract<BYTES> {
    #[inline]
    fn work([source, ..]: &Sources, width: usize, immediate: u8, result: &mut Zmm) {
        result[..BYTES / 8].copy_from_slice(&source[part::<BYTES>(width, immediate)]);
    }
}
