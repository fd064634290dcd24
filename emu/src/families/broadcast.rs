//! One element or part, repeated (SDM volume 1, sections 14.5 and 15.1).

use crate::context::{Context, Execute};
use crate::exception::Exception;
use crate::outcome::Outcome;
use crate::shape::row;
use crate::shape::vector::{Work, run, work_row};
use crate::table::{Flags, Form, Row, Shape};
use crate::vector::phases::{Layout, Operands, Sources, Zmm};
use crate::width::Width;

const NONE: Flags = Flags::empty();

const fn repeated(lane: usize) -> Layout {
    Layout::new(Operands::One, lane).repeats()
}

pub(super) static ROWS: &[Row] = &[
    row!(Vpbroadcastb, Select, NONE, broadcast::<u8, 1>).with(repeated(1)),
    row!(Vpbroadcastw, Select, NONE, broadcast::<u16, 2>).with(repeated(2)),
    row!([Vpbroadcastd, Vbroadcastss], Select, NONE, broadcast::<u32, 4>).with(repeated(4)),
    row!([Vpbroadcastq, Vbroadcastsd], Select, NONE, broadcast::<u64, 8>).with(repeated(8)),
    work_row!([Vbroadcastf32x2, Vbroadcasti32x2], NONE, repeated(4), Repeat<8>),
    work_row!(
        [Vbroadcastf128, Vbroadcasti128, Vbroadcastf32x4, Vbroadcasti32x4],
        NONE,
        repeated(4),
        Repeat<16>
    ),
    work_row!([Vbroadcastf64x2, Vbroadcasti64x2], NONE, repeated(8), Repeat<16>),
    work_row!([Vbroadcastf32x8, Vbroadcasti32x8], NONE, repeated(4), Repeat<32>),
    work_row!([Vbroadcastf64x4, Vbroadcasti64x4], NONE, repeated(8), Repeat<32>),
    row!(Vpbroadcastmb2q, Whole, NONE, from_mask::<u8, 8>).with(repeated(8)),
    row!(Vpbroadcastmw2d, Whole, NONE, from_mask::<u16, 4>).with(repeated(4)),
];

/// The low bytes of the source, as often as they fit.
struct Repeat<const BYTES: usize>;

impl<const BYTES: usize> Work for Repeat<BYTES> {
    #[inline]
    fn work([source, ..]: &Sources, width: usize, _: u8, result: &mut Zmm) {
        let source: &[u8] = bytemuck::cast_slice(source);
        let result: &mut [u8] = bytemuck::cast_slice_mut(result);
        for part in result[..width.min(64)].chunks_exact_mut(BYTES) {
            part.copy_from_slice(&source[..BYTES]);
        }
    }
}

/// Writes an integer of so many bytes, as often as it fits.
fn repeat<const BYTES: usize>(c: &mut Context<'_>, value: u64) -> Result<Outcome, Exception> {
    let (mut sources, mut result) = (Sources::default(), Zmm::default());
    sources[0][0] = value;
    Repeat::<BYTES>::work(&sources, c.displaced.phases.width(), 0, &mut result);
    c.commit(&result)?;
    Ok(Outcome::Next)
}

fn broadcast<W: Width, const BYTES: usize>(form: &Form<'_>) -> Option<Execute> {
    fn from_general<W: Width, const BYTES: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = c.read::<W>(1)?.zero_extend();
        repeat::<BYTES>(c, value)
    }
    let general = form.shape(1) == Shape::Register;
    Some(if general { from_general::<W, BYTES> } else { run::<Repeat<BYTES>> })
}

/// The low bits of a mask register.
fn from_mask<W: Width, const BYTES: usize>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let mask = c.registers.extended.opmask[usize::from(c.displaced.operand[1].number & 7)];
    repeat::<BYTES>(c, W::truncate(mask).zero_extend())
}
