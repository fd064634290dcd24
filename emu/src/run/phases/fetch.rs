//! Fetch: where the sources of a vector instruction come from.

use super::{Alignment, Fetch, Layout, lowest};
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, by_vector};
use crate::model::memory::Access;
use crate::run::context::Context;

/// What reads the source of an instruction that works on so many bytes: `in_memory`, if one is there, `masked`, if a mask
/// chooses among its elements.
pub(super) fn pick(
    form: &Form<'_>,
    layout: &Layout,
    width: usize,
    in_memory: bool,
    mmx: bool,
    masked: bool,
) -> Option<Fetch> {
    Some(match (mmx, in_memory, form.instruction.is_broadcast()) {
        (true, false, _) => mmx_registers,
        (true, true, _) => mmx_memory,
        (false, false, _) => return None,
        (false, true, true) => match form.instruction.memory_size().size() {
            2 => by_vector!(width, broadcast, <2>),
            4 => by_vector!(width, broadcast, <4>),
            _ => by_vector!(width, broadcast, <8>),
        },
        (false, true, false) if masked && layout.repeats => repeated_memory,
        (false, true, false) if masked => masked_memory,
        (false, true, false) => memory,
    })
}

/// The low bytes of a source.
#[inline(always)]
fn low_bytes(source: &mut [u64], length: usize) -> &mut [u8] {
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(source);
    let length = length.min(bytes.len());
    &mut bytes[..length]
}

fn memory(c: &mut Context<'_>, source: &mut [u64]) -> Result<(), Exception> {
    let phases = &c.phases;
    let address = match phases.canonical == phases.checked {
        true => c.linear(),
        false => c.decoded.address.linear_of_part(c.registers, 0, phases.canonical.saturating_sub(1)),
    };
    c.check_part(address, usize::from(phases.checked), usize::from(phases.canonical), phases.alignment)?;
    c.memory.read(address, low_bytes(source, usize::from(phases.bytes)), Access::Read)?;
    Ok(())
}

/// One element, repeated.
fn broadcast<B: Bits, const ELEMENT: usize>(
    c: &mut Context<'_>,
    source: &mut [u64],
) -> Result<(), Exception> {
    let phases = &c.phases;
    // Without a lane there is no access.
    if phases.suppresses && c.write_mask() & lowest(phases.lanes()) == 0 {
        return Ok(());
    }
    let (address, stack) = (c.linear(), c.decoded.address.stack);
    if let Err(exception) = c.check(address, ELEMENT, ELEMENT, stack) {
        // As for the elements of a vector, the address comes before its alignment.
        let masked = phases.mask != 0 && phases.suppresses;
        return if masked { c.check(address, ELEMENT, 1, stack).and(Err(exception)) } else { Err(exception) };
    }
    let mut low = [0; 8];
    c.memory.read(address, &mut low[..ELEMENT], Access::Read)?;
    let low = u64::from_le_bytes(low);
    let repeated = match ELEMENT {
        2 => low.wrapping_mul(0x0001_0001_0001_0001),
        4 => low | low << 32,
        _ => low,
    };
    source.get_mut(..B::BYTES / 8).unwrap_or_default().fill(repeated);
    Ok(())
}

/// The elements that the mask leaves; the others are not looked at, and are zeros.
fn masked_memory(c: &mut Context<'_>, source: &mut [u64]) -> Result<(), Exception> {
    chosen_memory(c, source, c.write_mask())
}

/// The elements that are repeated into some lane that the mask leaves.
fn repeated_memory(c: &mut Context<'_>, source: &mut [u64]) -> Result<(), Exception> {
    let phases = &c.phases;
    let element = usize::from(phases.element).max(1);
    let (lanes, period) = (usize::from(phases.result) / element, usize::from(phases.bytes) / element);
    let mask = c.write_mask() & lowest(lanes);
    let folded = (0..lanes).step_by(period.max(1)).fold(0, |folded, start| folded | mask >> (start & 63));
    chosen_memory(c, source, folded)
}

fn chosen_memory(c: &mut Context<'_>, source: &mut [u64], mask: u64) -> Result<(), Exception> {
    let phases = &c.phases;
    let element = usize::from(phases.element).clamp(1, 64);
    let bytes = low_bytes(source, usize::from(phases.bytes));
    let address = c.linear();
    if mask & lowest(bytes.len() / element) != 0 {
        let at_once = c.check_masked::<false>(address, bytes.len(), mask)?;
        if !at_once || c.memory.read(address, bytes, Access::Read).is_err() {
            c.load_elements(bytes, element, mask)?;
        }
    }
    Ok(())
}

fn mmx_registers(c: &mut Context<'_>, _: &mut [u64]) -> Result<(), Exception> {
    c.registers.extended.x87.check_pending()
}

fn mmx_memory(c: &mut Context<'_>, source: &mut [u64]) -> Result<(), Exception> {
    c.registers.extended.x87.check_pending()?;
    let phases = &c.phases;
    let address = c.linear();
    c.check_vector(address, usize::from(phases.checked), Alignment::Any)?;
    c.memory.read(address, low_bytes(source, usize::from(phases.bytes)), Access::Read)?;
    Ok(())
}
