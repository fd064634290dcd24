//! Gathers and scatters: an element of memory for each index of a vector, in order from the lowest, each of which is
//! done when a later one faults (SDM volume 1, sections 14.6 and 15.3).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Lane};
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::phases::Zmm;
use crate::run::phases::{Layout, Operands};
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();
const ANY: Layout = Layout::new(Operands::One, 4);

pub(super) static ROWS: &[Row] = &[
    row!([Vpgatherdd, Vgatherdps], Select, NONE, select_gather::<u32, u32>).with(ANY),
    row!([Vpgatherdq, Vgatherdpd], Select, NONE, select_gather::<u32, u64>).with(ANY),
    row!([Vpgatherqd, Vgatherqps], Select, NONE, select_gather::<u64, u32>).with(ANY),
    row!([Vpgatherqq, Vgatherqpd], Select, NONE, select_gather::<u64, u64>).with(ANY),
    row!([Vpscatterdd, Vscatterdps], Whole, NONE, scatter::<u32, u32>).with(ANY),
    row!([Vpscatterdq, Vscatterdpd], Whole, NONE, scatter::<u32, u64>).with(ANY),
    row!([Vpscatterqd, Vscatterqps], Whole, NONE, scatter::<u64, u32>).with(ANY),
    row!([Vpscatterqq, Vscatterqpd], Whole, NONE, scatter::<u64, u64>).with(ANY),
];

/// How many elements there are: what is larger of element and index fills the vector.
#[inline(always)]
fn count<I: Width, W: Width>(c: &Context<'_>) -> usize {
    c.phases.width() / I::BYTES.max(W::BYTES)
}

/// The address of element `element`.
#[inline(always)]
fn place<I: Width, W: Width>(c: &Context<'_>, element: usize) -> u64 {
    let address = &c.decoded.address;
    let indices = &c.registers.extended.vector[address.vector_index()].0;
    address.linear_of_element(c.registers, indices.integer::<I>(element).sign_extend(), W::BYTES)
}

/// RFLAGS.AC does not count.
#[inline(always)]
fn check(c: &Context<'_>, address: u64, size: usize) -> Result<(), Exception> {
    c.check(address, size, 1, c.decoded.address.stack)
}

#[inline(always)]
fn load<I: Width, W: Width>(c: &mut Context<'_>, element: usize) -> Result<W, Exception> {
    let address = place::<I, W>(c, element);
    check(c, address, W::BYTES)?;
    let mut bytes = [0; 8];
    c.memory.read(address, &mut bytes[..W::BYTES], Access::Read)?;
    Ok(W::from_bytes(&bytes))
}

#[inline(always)]
fn store<I: Width, W: Width>(c: &mut Context<'_>, element: usize, value: W) -> Result<(), Exception> {
    let address = place::<I, W>(c, element);
    check(c, address, W::BYTES)?;
    c.memory.write(address, &value.zero_extend().to_le_bytes()[..W::BYTES])?;
    Ok(())
}

/// A vector register.
#[inline(always)]
fn vector<'a>(c: &'a mut Context<'_>, number: usize) -> &'a mut Zmm {
    &mut c.registers.extended.vector[number & 31].0
}

/// What lies above so many bytes is cleared.
#[inline(always)]
fn clear_above(vector: &mut Zmm, bytes: usize) {
    let all: &mut [u8] = bytemuck::cast_slice_mut(vector);
    all[bytes.min(64)..].fill(0);
}

fn select_gather<I: Width, W: Width + Lane>(form: &Form<'_>) -> Option<Execute> {
    Some(if form.shape(2) == Shape::None { gather::<I, W> } else { gather_by_signs::<I, W> })
}

/// The lanes that the mask register has, each of which it loses when the lane is done. The first of them clears what
/// lies above.
fn gather<I: Width, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (lanes, number) = (count::<I, W>(c), usize::from(c.decoded.operand[0].number));
    let mask = c.phases.mask_number();
    let width = c.phases.width();
    let mut begun = false;
    for lane in 0..lanes {
        if c.registers.extended.opmask[mask] >> (lane & 63) & 1 != 0 {
            let value = match load::<I, W>(c, lane) {
                Ok(value) => value,
                Err(exception) if begun => return c.interrupted(exception),
                Err(exception) => return Err(exception),
            };
            begun = true;
            let to = vector(c, number);
            clear_above(to, width);
            *to = to.with_integer(lane, value);
            c.registers.extended.opmask[mask] &= !(1 << (lane & 63));
        }
    }
    c.registers.extended.opmask[mask] = 0;
    clear_above(vector(c, number), lanes * W::BYTES);
    Ok(Outcome::Next)
}

/// The lanes whose mask, in a vector register, is negative; a lane's mask is cleared when the lane is done. The mask
/// becomes ones and zeros, and what lies above is cleared, before anything is accessed, or each lane in its turn.
fn gather_by_signs<I: Width, W: Width + Lane>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (lanes, number) = (count::<I, W>(c), usize::from(c.decoded.operand[0].number));
    let mask = usize::from(c.decoded.operand[2].number);
    let width = c.phases.width();
    let in_turn = c.decoded.processor.is(Facts::GATHERS_TAKE_SIGNS_IN_TURN);
    if !in_turn {
        let signs = vector(c, mask);
        clear_above(signs, width);
        for sign in bytemuck::cast_slice_mut::<u64, W>(signs) {
            *sign = if sign.sign() { !W::default() } else { W::default() };
        }
    }
    let mut begun = false;
    for lane in 0..lanes {
        if vector(c, mask).integer::<W>(lane).sign() {
            let value = match load::<I, W>(c, lane) {
                Ok(value) => value,
                Err(exception) if begun => return c.interrupted(exception),
                Err(exception) => return Err(exception),
            };
            begun = true;
            let to = vector(c, number);
            if !in_turn {
                clear_above(to, width);
            }
            *to = to.with_integer(lane, value);
        }
        let mask = vector(c, mask);
        *mask = mask.with_integer(lane, W::default());
    }
    *vector(c, mask) = Zmm::default();
    clear_above(vector(c, number), lanes * W::BYTES);
    Ok(Outcome::Next)
}

/// The lanes that the mask register has, each of which it loses when the lane is done.
fn scatter<I: Width, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let number = usize::from(c.decoded.operand[1].number);
    let mask = c.phases.mask_number();
    let mut begun = false;
    for lane in 0..count::<I, W>(c) {
        if c.registers.extended.opmask[mask] >> (lane & 63) & 1 != 0 {
            let value = vector(c, number).integer::<W>(lane);
            match store::<I, W>(c, lane, value) {
                Ok(()) => begun = true,
                Err(exception) if begun => return c.interrupted(exception),
                Err(exception) => return Err(exception),
            }
            c.registers.extended.opmask[mask] &= !(1 << (lane & 63));
        }
    }
    c.registers.extended.opmask[mask] = 0;
    Ok(Outcome::Next)
}
