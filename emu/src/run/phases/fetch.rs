//! Fetch: where the sources of a vector instruction come from.

use super::{Alignment, Fetch, Layout, Sources, lowest};
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::run::context::Context;

/// What reads the sources: `in_memory`, if one of them is there, `masked`, if a mask chooses among its elements.
pub(super) fn pick(form: &Form<'_>, layout: &Layout, in_memory: bool, mmx: bool, masked: bool) -> Fetch {
    match (mmx, in_memory, form.instruction.is_broadcast()) {
        (true, false, _) => mmx_registers,
        (true, true, _) => mmx_memory,
        (false, false, _) => registers,
        (false, true, true) => match form.instruction.memory_size().size() {
            2 => broadcast::<2>,
            4 => broadcast::<4>,
            _ => broadcast::<8>,
        },
        (false, true, false) if masked && layout.repeats => repeated_memory,
        (false, true, false) if masked => masked_memory,
        (false, true, false) => memory,
    }
}

/// Copies the registers of all sources but the one in memory. Copies of a length that is known are single moves.
#[inline(always)]
fn copy_registers(c: &Context<'_>, sources: &mut Sources, skipped: usize) {
    match c.phases.width() {
        16 => copy_quadwords::<2>(c, sources, skipped),
        32 => copy_quadwords::<4>(c, sources, skipped),
        64 => copy_quadwords::<8>(c, sources, skipped),
        _ => copy_quadwords::<1>(c, sources, skipped),
    }
}

#[inline(always)]
fn copy_quadwords<const N: usize>(c: &Context<'_>, sources: &mut Sources, skipped: usize) {
    let count = usize::from(c.phases.count);
    for (index, source) in sources.iter_mut().enumerate() {
        if index < count && index != skipped {
            let register = &c.registers.extended.vector[usize::from(c.phases.registers[index] & 31)].0;
            source[..N].copy_from_slice(&register[..N]);
        }
    }
}

fn registers(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    copy_registers(c, sources, usize::MAX);
    Ok(())
}

fn memory(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    let phases = &c.phases;
    let place = usize::from(phases.place).min(2);
    let address = c.linear();
    c.check_vector(address, usize::from(phases.checked), phases.alignment)?;
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut sources[place]);
    c.memory.read(address, &mut bytes[..usize::from(phases.bytes).min(64)], Access::Read)?;
    copy_registers(c, sources, place);
    Ok(())
}

/// One element, repeated.
fn broadcast<const ELEMENT: usize>(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    let phases = &c.phases;
    let place = usize::from(phases.place).min(2);
    let lanes = phases.lanes();
    // Without a lane there is no access.
    if !phases.suppresses || c.write_mask() & (u64::MAX >> (64 - lanes.clamp(1, 64))) != 0 {
        let (address, stack) = (c.linear(), c.decoded.address.stack);
        if phases.mask != 0 && phases.suppresses {
            // As for the elements of a vector, the address comes before its alignment.
            c.check(address, ELEMENT, 1, stack)?;
        }
        c.check(address, ELEMENT, ELEMENT, stack)?;
        let mut low = [0; 8];
        c.memory.read(address, &mut low[..ELEMENT], Access::Read)?;
        let low = u64::from_le_bytes(low);
        let repeated = match ELEMENT {
            2 => low.wrapping_mul(0x0001_0001_0001_0001),
            4 => low | low << 32,
            _ => low,
        };
        sources[place][..phases.width() / 8].fill(repeated);
    }
    copy_registers(c, sources, place);
    Ok(())
}

/// The elements that the mask leaves; the others are not looked at, and are zeros.
fn masked_memory(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    chosen_memory(c, sources, c.write_mask())
}

/// The elements that are repeated into some lane that the mask leaves.
fn repeated_memory(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    let phases = &c.phases;
    let element = usize::from(phases.element).max(1);
    let (lanes, period) = (usize::from(phases.result) / element, usize::from(phases.bytes) / element);
    let mask = c.write_mask() & lowest(lanes);
    let folded = (0..lanes).step_by(period.max(1)).fold(0, |folded, start| folded | mask >> (start & 63));
    chosen_memory(c, sources, folded)
}

fn chosen_memory(c: &mut Context<'_>, sources: &mut Sources, mask: u64) -> Result<(), Exception> {
    let phases = &c.phases;
    let (place, element) = (usize::from(phases.place).min(2), usize::from(phases.element).clamp(1, 64));
    let length = usize::from(phases.bytes).min(64);
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut sources[place]);
    let address = c.linear();
    if mask & lowest(length / element) != 0 {
        let at_once = c.check_masked::<false>(address, length, mask)?;
        if !at_once || c.memory.read(address, &mut bytes[..length], Access::Read).is_err() {
            c.load_elements(&mut bytes[..length], element, mask)?;
        }
    }
    copy_registers(c, sources, place);
    Ok(())
}

fn mmx_registers(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    c.registers.extended.x87.check_pending()?;
    let phases = &c.phases;
    for (source, number) in sources.iter_mut().zip(phases.registers).take(usize::from(phases.count)) {
        source[0] = *c.registers.extended.x87.mm(number);
    }
    Ok(())
}

fn mmx_memory(c: &mut Context<'_>, sources: &mut Sources) -> Result<(), Exception> {
    mmx_registers(c, sources)?;
    let phases = &c.phases;
    let address = c.linear();
    c.check_vector(address, usize::from(phases.checked), Alignment::Any)?;
    let mut low = [0; 8];
    c.memory.read(address, &mut low[..usize::from(phases.bytes).min(8)], Access::Read)?;
    sources[usize::from(phases.place).min(2)][0] = u64::from_le_bytes(low);
    Ok(())
}
