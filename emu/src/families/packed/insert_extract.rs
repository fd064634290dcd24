//! Single lanes between vector registers and general registers or memory (SDM volume 1, section 12.10), and
//! the bit fields of SSE4A (APM volume 1, section 4.6.4).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Xmm};
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Mem, Reg, Source};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::ClassName;
use crate::vector::{Class, Mmx, Sse};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Pextrb, Select, NONE, extract::<u8>),
    row!(Pextrw, Select, NONE, extract::<u16>),
    row!([Pextrd, Extractps], Select, NONE, extract::<u32>),
    row!(Pextrq, Select, NONE, extract::<u64>),
    row!(Pinsrb, Select, NONE, insert::<u8>),
    row!(Pinsrw, Select, NONE, insert::<u16>),
    row!(Pinsrd, Select, NONE, insert::<u32>),
    row!(Pinsrq, Select, NONE, insert::<u64>),
    row!(Extrq, Select, NONE, extrq),
    row!(Insertq, Select, NONE, insertq),
];

/// The lane that the immediate chooses.
#[inline(always)]
fn lane<C: Class, W: Width>(c: &Context<'_>) -> usize {
    c.decoded.immediate as usize & (C::Bits::BYTES / W::BYTES - 1)
}

/// A general register is written whole, zeros above the lane.
fn extract<W: Width>(form: &Form<'_>) -> Option<Execute> {
    fn to_register<C: Class, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let value: W = C::get(c, 1).integer(lane::<C, W>(c));
        c.decoded.operand[0].set(c.registers, value.zero_extend());
        C::done(c);
        Ok(Outcome::Next)
    }
    fn to_memory<C: Class, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value: W = C::get(c, 1).integer(lane::<C, W>(c));
        c.store(c.linear(), value, c.decoded.address.stack)?;
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.class(1)?) {
        (Shape::Register, ClassName::Mmx) => Some(to_register::<Mmx, W>),
        (Shape::Register, ClassName::Sse) => Some(to_register::<Sse, W>),
        (Shape::Memory, ClassName::Sse) => Some(to_memory::<Sse, W>),
        _ => None,
    }
}

fn insert<W: Width>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, W: Width, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let value = S::read::<W>(c)?;
        let result = C::get(c, C::FIRST).with_integer(lane::<C, W>(c), value);
        C::set::<u64>(c, result);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.shape(1)) {
        (ClassName::Mmx, Shape::Register) => Some(run::<Mmx, W, Reg<1>>),
        (ClassName::Mmx, Shape::Memory) => Some(run::<Mmx, W, Mem>),
        (ClassName::Sse, Shape::Register) => Some(run::<Sse, W, Reg<1>>),
        (ClassName::Sse, Shape::Memory) => Some(run::<Sse, W, Mem>),
        _ => None,
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

/// The high quadword becomes zero, as processors have it; the manual leaves it undefined.
fn extrq(form: &Form<'_>) -> Option<Execute> {
    fn run(c: &mut Context<'_>, field: Field) -> Result<Outcome, Exception> {
        let [low, _] = Sse::get(c, 0);
        Sse::set::<u64>(c, [field.extract(low), 0]);
        Ok(Outcome::Next)
    }
    if form.shape(1) == Shape::Immediate {
        Some(|c| run(c, Field::immediate(c)))
    } else {
        Some(|c| run(c, Field::register(Sse::get(c, 1)[0])))
    }
}

fn insertq(form: &Form<'_>) -> Option<Execute> {
    fn run(c: &mut Context<'_>, field: Field, source: Xmm) -> Result<Outcome, Exception> {
        let [low, _] = Sse::get(c, 0);
        Sse::set::<u64>(c, [field.insert(low, source[0]), 0]);
        Ok(Outcome::Next)
    }
    if form.shape(2) == Shape::Immediate {
        Some(|c| run(c, Field::immediate(c), Sse::get(c, 1)))
    } else {
        Some(|c| run(c, Field::register(Sse::get(c, 1)[1]), Sse::get(c, 1)))
    }
}
