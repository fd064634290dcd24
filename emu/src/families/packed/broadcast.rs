//! One element or part, repeated (SDM volume 1, sections 14.5 and 15.1).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Zmm};
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Layout, Operands};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{Work, work_of_vectors, work_row};

const NONE: Flags = Flags::empty();

const fn repeated(lane: usize) -> Layout {
    Layout::new(Operands::One, lane).repeats()
}

pub(super) static ROWS: &[Row] = &[
    row!(Vpbroadcastb, Select, NONE, broadcast::<u8, 1>).with(repeated(1)),
    row!(Vpbroadcastw, Select, NONE, broadcast::<u16, 2>).with(repeated(2)),
    row!([Vpbroadcastd, Vbroadcastss], Select, NONE, broadcast::<u32, 4>).with(repeated(4)),
    row!([Vpbroadcastq, Vbroadcastsd], Select, NONE, broadcast::<u64, 8>).with(repeated(8)),
    work_row!([Vbroadcastf32x2, Vbroadcasti32x2], vectors, NONE, repeated(4), Repeat<8>),
    work_row!(
        [Vbroadcastf128, Vbroadcasti128, Vbroadcastf32x4, Vbroadcasti32x4],
        vectors,
        NONE,
        repeated(4),
        Repeat<16>
    ),
    work_row!([Vbroadcastf64x2, Vbroadcasti64x2], vectors, NONE, repeated(8), Repeat<16>),
    work_row!([Vbroadcastf32x8, Vbroadcasti32x8], vectors, NONE, repeated(4), Repeat<32>),
    work_row!([Vbroadcastf64x4, Vbroadcasti64x4], vectors, NONE, repeated(8), Repeat<32>),
    row!(Vpbroadcastmb2q, Whole, NONE, from_mask::<u8, 8>).with(repeated(8)),
    row!(Vpbroadcastmw2d, Whole, NONE, from_mask::<u16, 4>).with(repeated(4)),
];

/// The low bytes of the source, as often as they fit.
struct Repeat<const BYTES: usize>;

impl<const BYTES: usize, B: Bits> Work<B> for Repeat<BYTES> {
    #[inline]
    fn work([source, ..]: [&B; 3], _: u8) -> B {
        let mut result = B::default();
        let Some(source) = source.lanes::<u8>().first_chunk::<BYTES>() else { return result };
        for part in result.lanes_mut::<u8>().chunks_exact_mut(BYTES) {
            part.copy_from_slice(source);
        }
        result
    }
}

/// Writes an integer of so many bytes, as often as it fits.
fn repeat<const BYTES: usize>(c: &mut Context<'_>, value: u64) -> Result<Outcome, Exception> {
    let result = Repeat::<BYTES>::work([&Zmm::from_low(value); 3], 0);
    c.commit(&result)
}

fn broadcast<W: Width, const BYTES: usize>(form: &Form<'_>) -> Option<Execute> {
    fn from_general<W: Width, const BYTES: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = c.read::<W>(1)?.zero_extend();
        repeat::<BYTES>(c, value)
    }
    match form.shape(1) {
        Shape::Register => Some(from_general::<W, BYTES>),
        _ => work_of_vectors::<Repeat<BYTES>>(form),
    }
}

/// The low bits of a mask register.
fn from_mask<W: Width, const BYTES: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let mask = c.registers.extended.opmask[usize::from(c.decoded.operand[1].number & 7)];
    repeat::<BYTES>(c, W::truncate(mask).zero_extend())
}
