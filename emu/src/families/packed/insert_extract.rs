//! Elements and parts of vectors: to and from general registers, memory and other vectors (SDM volume 1, sections 12.10,
//! 14.1 and 15.1), and the bit fields of SSE4A (APM volume 1, section 4.6.4).

use iced_x86::EncodingKind;

use super::vector_move::{set_xmm, transfer, xmm};
use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Xmm};
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Layout, Operands};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{Work, run, work_row};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Pextrb, Vpextrb], Select, NONE, transfer::<u8>),
    row!([Pextrw, Vpextrw], Select, NONE, transfer::<u16>),
    row!([Pextrd, Extractps, Vpextrd, Vextractps], Select, NONE, transfer::<u32>),
    row!([Pextrq, Vpextrq], Select, NONE, transfer::<u64>),
    row!([Pinsrb, Vpinsrb], Select, NONE, insert::<u8>),
    row!([Pinsrw, Vpinsrw], Select, NONE, insert::<u16>),
    row!([Pinsrd, Vpinsrd], Select, NONE, insert::<u32>),
    row!([Pinsrq, Vpinsrq], Select, NONE, insert::<u64>),
    row!([Insertps, Vinsertps], Select, NONE, insertps).with(Layout::new(Operands::Two, 4)),
    work_row!([Vinsertf128, Vinserti128, Vinsertf32x4, Vinserti32x4], vectors, NONE, inserted(4), Insert<16>),
    work_row!([Vinsertf64x2, Vinserti64x2], vectors, NONE, inserted(8), Insert<16>),
    work_row!([Vinsertf32x8, Vinserti32x8], vectors, NONE, inserted(4), Insert<32>),
    work_row!([Vinsertf64x4, Vinserti64x4], vectors, NONE, inserted(8), Insert<32>),
    work_row!(
        [Vextractf128, Vextracti128, Vextractf32x4, Vextracti32x4],
        vectors,
        NONE,
        extracted(4),
        Extract<16>
    ),
    work_row!([Vextractf64x2, Vextracti64x2], vectors, NONE, extracted(8), Extract<16>),
    work_row!([Vextractf32x8, Vextracti32x8], vectors, NONE, extracted(4), Extract<32>),
    work_row!([Vextractf64x4, Vextracti64x4], vectors, NONE, extracted(8), Extract<32>),
    row!(Extrq, Select, NONE, extrq).with(Layout::new(Operands::Shift, 8)),
    row!(Insertq, Select, NONE, insertq).with(Layout::new(Operands::Two, 8)),
];

/// A part put into a vector, which is read whole whatever the mask says.
const fn inserted(lane: usize) -> Layout {
    Layout::new(Operands::Two, lane).whole()
}

/// A part taken from a vector; all of it must be writable, whatever the mask says.
const fn extracted(lane: usize) -> Layout {
    Layout::new(Operands::One, lane).whole()
}

/// The first source, the destination itself under legacy encodings, with an integer as the element that the
/// immediate chooses.
fn insert<W: Width>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, const LEGACY: bool>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let (first, second) = if LEGACY { (0, 1) } else { (1, 2) };
        let value = c.read::<W>(second)?;
        let element = c.decoded.immediate as usize & (16 / W::BYTES - 1);
        let result = xmm(c, first).with_integer(element, value);
        set_xmm::<LEGACY>(c, c.decoded.operand[0].number, result);
        Ok(Outcome::Next)
    }
    fn mmx<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        c.registers.extended.x87.check_pending()?;
        let value = c.read::<W>(1)?;
        let element = c.decoded.immediate as usize & (8 / W::BYTES - 1);
        let (x87, number) = (&mut c.registers.extended.x87, c.decoded.operand[0].number);
        let [result] = [*x87.mm(number)].with_integer(element, value);
        x87.set_mm(number, result);
        x87.enter_mmx();
        Ok(Outcome::Next)
    }
    Some(match form.encoding() {
        EncodingKind::Legacy if form.is_mmx() => mmx::<W>,
        EncodingKind::Legacy => run::<W, true>,
        _ => run::<W, false>,
    })
}

/// Bits 7:6 of the immediate choose the lane of a source register, 5:4 that of the destination, 3:0 lanes to clear.
struct InsertPs<const FROM_REGISTER: bool>;

impl<const FROM_REGISTER: bool> Work<Xmm> for InsertPs<FROM_REGISTER> {
    #[inline]
    fn work([first, second, _]: [&Xmm; 3], immediate: u8) -> Xmm {
        let from = if FROM_REGISTER { usize::from(immediate >> 6) } else { 0 };
        let mut result = first.with_integer::<u32>(usize::from(immediate >> 4 & 3), second.integer(from));
        for (index, lane) in result.lanes_mut::<u32>().iter_mut().enumerate() {
            if immediate >> index & 1 != 0 {
                *lane = 0;
            }
        }
        result
    }
}

fn insertps(form: &Form<'_>) -> Option<Execute> {
    Some(if form.any(Shape::Memory) { run::<Xmm, InsertPs<false>> } else { run::<Xmm, InsertPs<true>> })
}

/// Where the part lies that the immediate chooses: one of so many bytes.
#[inline(always)]
fn part<const BYTES: usize, B: Bits>(immediate: u8) -> core::ops::Range<usize> {
    let parts = (B::BYTES / BYTES).max(1);
    let start = (usize::from(immediate) & (parts - 1)) * BYTES / 8;
    start..start + BYTES / 8
}

/// The first source with the second's low bytes as one of its parts.
struct Insert<const BYTES: usize>;

impl<const BYTES: usize, B: Bits> Work<B> for Insert<BYTES> {
    #[inline]
    fn work([first, second, _]: [&B; 3], immediate: u8) -> B {
        let mut result = *first;
        let part = result.quadwords_mut().get_mut(part::<BYTES, B>(immediate)).unwrap_or_default();
        for (to, from) in part.iter_mut().zip(second.quadwords()) {
            *to = *from;
        }
        result
    }
}

/// A part of the source.
struct Extract<const BYTES: usize>;

impl<const BYTES: usize, B: Bits> Work<B> for Extract<BYTES> {
    #[inline]
    fn work([source, ..]: [&B; 3], immediate: u8) -> B {
        let mut result = B::default();
        let part = source.quadwords().get(part::<BYTES, B>(immediate)).unwrap_or_default();
        for (to, from) in result.quadwords_mut().iter_mut().zip(part) {
            *to = *from;
        }
        result
    }
}

/// A bit field of a quadword: its length, where 0 means 64, and its lowest bit, six bits each.
#[derive(Clone, Copy)]
struct Field {
    length: u32,
    index: u32,
}

impl Field {
    /// From the two immediates.
    #[inline(always)]
    fn immediate(c: &Context<'_>) -> Field {
        let index = c.decoded.instruction.immediate8_2nd();
        Field { length: c.decoded.immediate as u32 & 63, index: u32::from(index) & 63 }
    }

    /// From the low two bytes of a register.
    #[inline(always)]
    fn register(quadword: u64) -> Field {
        Field { length: quadword as u32 & 63, index: (quadword >> 8) as u32 & 63 }
    }

    /// As many ones as the field is long.
    #[inline(always)]
    fn ones(self) -> u64 {
        if self.length == 0 { u64::MAX } else { (1 << self.length) - 1 }
    }

    #[inline(always)]
    fn extract(self, from: u64) -> u64 {
        from >> self.index & self.ones()
    }

    #[inline(always)]
    fn insert(self, into: u64, value: u64) -> u64 {
        let mask = self.ones() << self.index;
        into & !mask | value << self.index & mask
    }
}

/// What becomes of the low quadword. The high one becomes zero, as processors have it; the manual leaves it undefined.
#[inline(always)]
fn low_quadword(
    c: &mut Context<'_>,
    operation: impl FnOnce(&Context<'_>, [&Xmm; 3]) -> u64,
) -> Result<Outcome, Exception> {
    let mut memory = Xmm::default();
    c.fetch(&mut memory)?;
    let low = operation(c, c.sources(&memory));
    c.commit(&Xmm::from_low(low))
}

fn extrq(form: &Form<'_>) -> Option<Execute> {
    Some(match form.any(Shape::Immediate) {
        true => |c| low_quadword(c, |c, [from, ..]| Field::immediate(c).extract(from[0])),
        false => |c| low_quadword(c, |_, [from, field, _]| Field::register(field[0]).extract(from[0])),
    })
}

fn insertq(form: &Form<'_>) -> Option<Execute> {
    Some(match form.any(Shape::Immediate) {
        true => |c| low_quadword(c, |c, [into, from, _]| Field::immediate(c).insert(into[0], from[0])),
        false => |c| low_quadword(c, |_, [into, from, _]| Field::register(from[1]).insert(into[0], from[0])),
    })
}
