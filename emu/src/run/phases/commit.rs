//! Commit: where the result of a vector instruction goes.

use iced_x86::{EncodingKind, OpKind};

use super::{Alignment, Commit, Layout, is_vector, lowest, spread};
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Mm, Xmm, Zmm, by_bits, by_vector};
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::run::context::Context;

/// How the result is written to operand 0: that of an instruction that works on so many bytes, of which the
/// destination takes so many.
pub(super) fn pick(
    form: &Form<'_>,
    layout: &Layout,
    mmx: bool,
    mask: u8,
    [width, result]: [usize; 2],
) -> Option<Commit> {
    let instruction = form.instruction;
    if instruction.op_kind(0) == OpKind::Memory {
        return Some(match (mmx, mask) {
            (true, _) => mmx_to_memory,
            (false, 0) => to_memory,
            (false, _) => to_masked_memory,
        });
    }
    if instruction.op_kind(0) != OpKind::Register || !is_vector(instruction.op_register(0)) {
        return Some(if mmx { mmx_to_nothing } else { nothing });
    }
    match (form.encoding(), mask, instruction.zeroing_masking()) {
        _ if mmx => Some(to_mmx),
        (EncodingKind::Legacy, ..) => Some(to_legacy),
        (_, 0, _) => Some(by_vector!(width, to_whole)),
        (_, _, false) => masked::<false>(layout, result),
        (_, _, true) => masked::<true>(layout, result),
    }
}

/// To a register under a mask, which counts lanes of as many bytes as the layout says.
fn masked<const ZEROING: bool>(layout: &Layout, result: usize) -> Option<Commit> {
    let result = result.max(8);
    Some(match (layout.lane, layout.scalar) {
        (2, true) => to_lowest::<2, ZEROING>,
        (4, true) => to_lowest::<4, ZEROING>,
        (8, true) => to_lowest::<8, ZEROING>,
        (1, false) => by_bits!(result, to_masked, <1, ZEROING>),
        (2, false) => by_bits!(result, to_masked, <2, ZEROING>),
        (4, false) => by_bits!(result, to_masked, <4, ZEROING>),
        (8, false) => by_bits!(result, to_masked, <8, ZEROING>),
        _ => return None,
    })
}

/// The register that operand 0 names.
#[inline(always)]
pub(super) fn destination<'a>(c: &'a mut Context<'_>) -> &'a mut Zmm {
    &mut c.registers.extended.vector[usize::from(c.decoded.operand[0].number & 31)].0
}

/// Writes the low bits and clears those above.
#[inline(always)]
fn set_low<B: Bits>(to: &mut Zmm, value: &B) {
    let (low, above) = to.split_at_mut(B::BYTES / 8);
    low.copy_from_slice(value.quadwords());
    above.fill(0);
}

/// The destination is no vector, and no memory.
pub(super) fn nothing(_: &mut Context<'_>, _: &[u64]) -> Result<Outcome, Exception> {
    Ok(Outcome::Next)
}

fn to_mmx(c: &mut Context<'_>, result: &[u64]) -> Result<Outcome, Exception> {
    let [value] = *Mm::low(result);
    let x87 = &mut c.registers.extended.x87;
    x87.set_mm(c.decoded.operand[0].number, value);
    x87.enter_mmx();
    Ok(Outcome::Next)
}

/// The destination is no vector, and no memory, but there is an MMX register among the sources.
fn mmx_to_nothing(c: &mut Context<'_>, _: &[u64]) -> Result<Outcome, Exception> {
    c.registers.extended.x87.enter_mmx();
    Ok(Outcome::Next)
}

/// To memory, from an MMX register.
fn mmx_to_memory(c: &mut Context<'_>, result: &[u64]) -> Result<Outcome, Exception> {
    c.about_to_store_mmx();
    to_memory(c, result)?;
    mmx_to_nothing(c, result)
}

/// What lies above 128 bits stays.
fn to_legacy(c: &mut Context<'_>, result: &[u64]) -> Result<Outcome, Exception> {
    destination(c)[..2].copy_from_slice(Xmm::low(result));
    Ok(Outcome::Next)
}

/// What lies above the result is cleared.
fn to_whole<B: Bits>(c: &mut Context<'_>, result: &[u64]) -> Result<Outcome, Exception> {
    set_low(destination(c), B::low(result));
    Ok(Outcome::Next)
}

/// As [`to_whole`] for lanes that the mask leaves; the others stay, or are cleared.
fn to_masked<B: Bits, const LANE: usize, const ZEROING: bool>(
    c: &mut Context<'_>,
    result: &[u64],
) -> Result<Outcome, Exception> {
    write_lanes::<B, LANE, ZEROING>(c, B::low(result), c.write_mask());
    Ok(Outcome::Next)
}

/// As [`to_masked`], for another mask than the instruction's.
#[inline(always)]
pub(crate) fn write_lanes<B: Bits, const LANE: usize, const ZEROING: bool>(
    c: &mut Context<'_>,
    result: &B,
    mask: u64,
) {
    // All of a quadword, if there are more.
    let within = lowest(8 * usize::from(c.phases.result));
    let to = destination(c);
    let (low, above) = to.split_at_mut(B::BYTES / 8);
    for (index, (to, new)) in low.iter_mut().zip(result.quadwords()).enumerate() {
        let chosen = spread(mask, LANE, index) & within;
        let kept = if ZEROING { 0 } else { *to & !chosen & within };
        *to = kept | new & chosen;
    }
    above.fill(0);
}

/// To memory.
fn to_memory(c: &mut Context<'_>, result: &[u64]) -> Result<Outcome, Exception> {
    let phases = &c.phases;
    let address = c.linear();
    c.check_vector(address, usize::from(phases.checked), phases.alignment)?;
    let bytes: &[u8] = bytemuck::cast_slice(result);
    c.memory.write(address, bytes.get(..usize::from(phases.bytes)).unwrap_or(bytes))?;
    Ok(Outcome::Next)
}

/// To memory, the elements that the mask leaves; the others are not looked at, unless the row says so.
fn to_masked_memory(c: &mut Context<'_>, result: &[u64]) -> Result<Outcome, Exception> {
    let phases = &c.phases;
    let (length, element) = (usize::from(phases.bytes).min(64), usize::from(phases.element).max(1));
    let (address, mask) = (c.linear(), c.write_mask() & lowest(length / element));
    if !phases.suppresses {
        c.check_vector(address, length, Alignment::Any)?;
        c.memory.read(address, &mut [0; 64][..length], Access::Write)?;
    } else if mask != 0 {
        c.check_masked::<true>(address, length, mask)?;
    }
    let bytes: &[u8] = bytemuck::cast_slice(result);
    c.store_elements(bytes.get(..length).unwrap_or(bytes), element, mask)?;
    Ok(Outcome::Next)
}

/// As [`to_whole`], but for the lowest element if the mask leaves it out, which stays, or is cleared.
fn to_lowest<const LANE: usize, const ZEROING: bool>(
    c: &mut Context<'_>,
    result: &[u64],
) -> Result<Outcome, Exception> {
    let [result, above] = *Xmm::low(result);
    let chosen = c.write_mask() & 1 != 0;
    let to = destination(c);
    let lowest = u64::MAX >> (64 - 8 * LANE);
    let low = match (chosen, ZEROING) {
        (true, _) => result,
        (false, true) => result & !lowest,
        (false, false) => result & !lowest | to[0] & lowest,
    };
    set_low(to, &[low, above]);
    Ok(Outcome::Next)
}
