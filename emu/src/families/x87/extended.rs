//! XSAVE, XSAVEOPT, XSAVEC and XRSTOR (SDM volume 1, chapter 13).
//!
//! Components that [`Extended`](crate::registers::Extended) has no place for, and tile registers for which it has no room
//! yet, only the thread itself can save and restore.

use iced_x86::CpuidFeature;

use super::state::{Narrow, Pointers, Wide, check_aligned, checked_mxcsr, restored, saved};
use super::{check_part, read_at, write_at};
use crate::decode::flags::Flags;
use crate::decode::processor::{Facts, Processor};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Mxcsr, ROW_LENGTH, ROWS as TILE_ROWS, TILES, Tile, TileConfig, X87, gpr};
use crate::model::xsave::{self, HEADER_LENGTH, MINIMUM_LENGTH, TILE_DATA_LENGTH, XSTATE_BV, feature};
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Xsave, Whole, Flags::EXTENDED, xsave::<Narrow>),
    row!(Xsave64, Whole, Flags::EXTENDED, xsave::<Wide>),
    row!(Xsaveopt, Whole, Flags::EXTENDED, xsaveopt::<Narrow>),
    row!(Xsaveopt64, Whole, Flags::EXTENDED, xsaveopt::<Wide>),
    row!(Xsavec, Whole, Flags::EXTENDED, xsavec::<Narrow>),
    row!(Xsavec64, Whole, Flags::EXTENDED, xsavec::<Wide>),
    row!(Xrstor, Whole, Flags::EXTENDED, xrstor::<Narrow>),
    row!(Xrstor64, Whole, Flags::EXTENDED, xrstor::<Wide>),
];

/// XCOMP_BV's bit that says that an image is compacted.
const COMPACTED: u64 = 1 << 63;
/// The bytes of the largest component that there is a place for, but tile registers.
const LARGEST: usize = 1024;

/// The faults of an image: #GP if it is not aligned, and what its first word and then its last byte raise.
fn check_area(c: &mut Context<'_>, length: usize, requested: u64) -> Result<(), Exception> {
    let access = Access::Write;
    if c.decoded.processor.is(Facts::XSAVE_LOOKS_AT_THE_END_FIRST) {
        check_first_word(c)?;
        check_aligned(c, 64)?;
        check_part(c, length - 1, 1, 1, access)?;
        return check_legacy(c, requested, access);
    }
    check_aligned(c, 64)?;
    check_part(c, 0, 4, 1, access)?;
    check_part(c, length - 1, 1, 1, access)
}

/// What the first byte raises that these components have in the legacy region.
fn check_legacy(c: &mut Context<'_>, components: u64, access: Access) -> Result<(), Exception> {
    if components & feature::X87 != 0 {
        check_part(c, 0, 1, 1, access)
    } else if components & (feature::SSE | feature::AVX) != 0 {
        check_part(c, xsave::MXCSR, 1, 1, access)
    } else {
        Ok(())
    }
}

/// What the address of the first byte raises, and RFLAGS.AC for the first four.
fn check_first_word(c: &Context<'_>) -> Result<(), Exception> {
    let first = c.decoded.address.linear_of_part(c.registers, 0, 0);
    c.check(first, 1, 4, c.decoded.address.stack)
}

/// Runs an instruction on the components that EDX:EAX asks for and XCR0 has, unless there is no place for one.
fn on_requested(
    c: &mut Context<'_>,
    body: impl FnOnce(&mut Context<'_>, u64) -> Result<Outcome, Exception>,
) -> Result<Outcome, Exception> {
    let low = |register: usize| c.registers.gpr[register] & u64::from(u32::MAX);
    let requested = (low(gpr::RDX) << 32 | low(gpr::RAX)) & c.decoded.processor.xcr0;
    let tiles = requested & (feature::TILE_CONFIG | feature::TILE_DATA) != 0;
    let has_place = !tiles || c.registers.extended.tiles.data.tiles().is_some();
    if requested & !feature::ALL == 0 && has_place { body(c, requested) } else { Ok(Outcome::Native) }
}

fn xsave<P: Pointers>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    on_requested(c, |c, requested| standard::<P>(c, requested, requested))
}

fn xsaveopt<P: Pointers>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    on_requested(c, |c, requested| {
        let saved = requested & xsave::in_use(c.registers);
        standard::<P>(c, requested, saved)
    })
}

/// Writes components to an image in the standard format.
fn standard<P: Pointers>(c: &mut Context<'_>, requested: u64, saved: u64) -> Result<Outcome, Exception> {
    let known = c.decoded.processor.components;
    check_area(c, known.length(requested, false), requested)?;
    let mut header = [0; 8];
    read_at(c, XSTATE_BV, &mut header, Access::Write)?;
    let before = u64::from_le_bytes(header);
    let after = before & !requested | xsave::in_use(c.registers) & requested;
    store::<P>(c, saved, requested & (feature::SSE | feature::AVX) != 0, known.places(requested, false))?;
    write_at(c, XSTATE_BV, &after.to_le_bytes())?;
    Ok(Outcome::Next)
}

fn xsavec<P: Pointers>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    on_requested(c, compact::<P>)
}

/// Writes components to an image in the compacted format.
fn compact<P: Pointers>(c: &mut Context<'_>, requested: u64) -> Result<Outcome, Exception> {
    let known = c.decoded.processor.components;
    let saved = requested & xsave::in_use(c.registers);
    check_area(c, known.length(requested, true), requested & !feature::AVX)?;
    check_part(c, XSTATE_BV, 8, 1, Access::Write)?;
    store::<P>(c, saved, saved & feature::SSE != 0, known.places(requested, true))?;
    write_at(c, XSTATE_BV, &saved.to_le_bytes())?;
    write_at(c, XSTATE_BV + 8, &(requested | COMPACTED).to_le_bytes())?;
    Ok(Outcome::Next)
}

/// Writes components to where they belong, and MXCSR if asked to.
fn store<P: Pointers>(
    c: &mut Context<'_>,
    components: u64,
    mxcsr: bool,
    places: impl Iterator<Item = (u64, usize, usize)>,
) -> Result<(), Exception> {
    let mut legacy = [0; XMM_END];
    let extended = &c.registers.extended;
    xsave::write_x87(&saved::<P>(&extended.x87, c.decoded.processor), &mut legacy);
    xsave::write_mxcsr(extended.mxcsr, c.decoded.processor.mxcsr_mask, &mut legacy);
    xsave::write_component(feature::SSE, extended, 0, &mut legacy[xsave::XMM..]);
    if components & feature::X87 != 0 {
        write_at(c, 0, &legacy[..xsave::MXCSR])?;
        write_at(c, xsave::ST, &legacy[xsave::ST..xsave::XMM])?;
    }
    if mxcsr {
        write_at(c, xsave::MXCSR, &legacy[xsave::MXCSR..xsave::ST])?;
    }
    if components & feature::SSE != 0 {
        write_at(c, xsave::XMM, &legacy[xsave::XMM..])?;
    }
    let four_bytes = c.decoded.processor.is(Facts::XSAVE_WRITES_FOUR_BYTES_OF_PKRU);
    for (component, start, end) in places.filter(|(component, ..)| components & component != 0) {
        if component == feature::TILE_DATA {
            store_tiles(c, start)?;
            continue;
        }
        let mut bytes = [0; LARGEST];
        xsave::write_component(component, &c.registers.extended, c.registers.pkru, &mut bytes);
        let written = if component == feature::PKRU && four_bytes { 4 } else { LARGEST };
        write_at(c, start, &bytes[..(end - start).min(written)])?;
    }
    Ok(())
}

/// Writes the tile registers to where they belong.
fn store_tiles(c: &mut Context<'_>, start: usize) -> Result<(), Exception> {
    for (number, tile_start) in (0..TILES).zip((start..).step_by(size_of::<Tile>())) {
        let tiles = c.registers.extended.tiles.data.tiles();
        let tile = tiles.map_or([[0; ROW_LENGTH]; TILE_ROWS], |tiles| tiles[number]);
        write_at(c, tile_start, tile.as_flattened())?;
    }
    Ok(())
}

/// Reads the tile registers from where they belong, or makes them zeros. Nothing has changed if it faults.
fn load_tiles(c: &mut Context<'_>, start: Option<usize>) -> Result<(), Exception> {
    let mut bytes = [0; TILE_DATA_LENGTH];
    if let Some(start) = start {
        read_at(c, start, &mut bytes, Access::Read)?;
    }
    if let Some(tiles) = c.registers.extended.tiles.data.tiles_mut() {
        tiles.as_flattened_mut().as_flattened_mut().copy_from_slice(&bytes);
    }
    Ok(())
}

/// The end of the XMM registers in the legacy region.
const XMM_END: usize = xsave::XMM + 256;

fn xrstor<P: Pointers>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    on_requested(c, restore::<P>)
}

fn restore<P: Pointers>(c: &mut Context<'_>, requested: u64) -> Result<Outcome, Exception> {
    let processor = c.decoded.processor;
    let known = processor.components;
    let end_first = processor.is(Facts::XSAVE_LOOKS_AT_THE_END_FIRST);
    if end_first {
        check_first_word(c)?;
    }
    check_aligned(c, 64)?;
    if !end_first {
        check_part(c, 0, 4, 1, Access::Read)?;
    }
    check_part(c, XSTATE_BV + if end_first { 8 } else { 0 }, 8, 1, Access::Read)?;
    let mut header = Header::read(c)?;
    let compacted = header.layout & COMPACTED != 0;
    let format = if compacted { header.layout } else { requested };
    match end_first {
        true => header.check_layout(processor)?,
        false => header.check_first(processor)?,
    }
    header.read_others(c)?;
    if !end_first {
        header.check(processor)?;
    }
    let present = requested & header.in_use;
    // Of a compacted image some look only at what is loaded from it.
    let looked_at = if compacted && !end_first { present } else { requested };
    let parts = known.places(format, compacted).filter(|(component, ..)| looked_at & component != 0);
    let length = parts.map(|(_, _, end)| end).fold(MINIMUM_LENGTH, usize::max);
    check_part(c, length - 1, 1, 1, Access::Read)?;
    // MXCSR comes with AVX in the standard format only.
    let legacy_ones = feature::X87 | feature::SSE | if compacted { 0 } else { feature::AVX };
    let accessed = requested & format & legacy_ones;
    if end_first {
        check_legacy(c, accessed, Access::Read)?;
        header.check(processor)?;
    }
    let mut legacy = [0; XMM_END];
    if !end_first || accessed != 0 {
        read_at(c, 0, &mut legacy, Access::Read)?;
    }
    let mut after = c.registers.extended.without_tile_data();
    let mut pkru = c.registers.pkru;
    let mxcsr = restored_mxcsr(c, &legacy, compacted, requested, present);
    let late = compacted && end_first;
    match mxcsr {
        Ok(mxcsr) => after.mxcsr = mxcsr,
        // By then all that the image does not have is initial, and x87 and XMM are loaded.
        Err(_) if late => {}
        Err(exception) => return Err(exception),
    }
    if requested & feature::X87 != 0 {
        let loaded = present & feature::X87 != 0;
        let load = || restored::<P>(xsave::read_x87(&legacy), c.decoded.processor);
        after.x87 = if loaded { load() } else { X87::default() };
    }
    if requested & feature::SSE != 0 {
        let place = if present & feature::SSE != 0 { &legacy[xsave::XMM..] } else { &[] };
        xsave::read_component(feature::SSE, place, &mut after, &mut pkru);
    }
    // PKRU comes after MXCSR in any case.
    let initial = requested & !present & if mxcsr.is_ok() { u64::MAX } else { !feature::PKRU };
    for (component, ..) in known.places(initial, false) {
        xsave::read_component(component, &[], &mut after, &mut pkru);
    }
    let loaded = if mxcsr.is_ok() { present } else { 0 };
    let mut tiles = None;
    for (component, start, end) in known.places(format, compacted) {
        if loaded & component == feature::TILE_DATA {
            tiles = Some(start);
        } else if loaded & component != 0 {
            let mut bytes = [0; LARGEST];
            let bytes = &mut bytes[..(end - start).min(LARGEST)];
            read_at(c, start, bytes, Access::Read)?;
            xsave::read_component(component, bytes, &mut after, &mut pkru);
        }
    }
    // What becomes of a configuration that is not valid is not known.
    let config = after.tiles.config;
    if TileConfig::loaded(config.0) != Some(config) && loaded & feature::TILE_CONFIG != 0 {
        return Ok(Outcome::Native);
    }
    if (loaded | requested & !present) & feature::TILE_DATA != 0 {
        load_tiles(c, tiles)?;
    }
    after.tiles.data = core::mem::take(&mut c.registers.extended.tiles.data);
    c.registers.extended = after;
    c.registers.pkru = pkru;
    mxcsr.map(|_| Outcome::Next)
}

/// MXCSR after XRSTOR: the standard form loads it with SSE or AVX whatever XSTATE_BV says, the compacted one
/// as a part of SSE.
fn restored_mxcsr(
    c: &Context<'_>,
    legacy: &[u8],
    compacted: bool,
    requested: u64,
    present: u64,
) -> Result<Mxcsr, Exception> {
    match (compacted, requested & (feature::SSE | feature::AVX)) {
        (false, 0) => Ok(c.registers.extended.mxcsr),
        (false, _) => checked_mxcsr(legacy, c.decoded.processor),
        (true, _) if present & feature::SSE != 0 => checked_mxcsr(legacy, c.decoded.processor),
        (true, _) if requested & feature::SSE != 0 => Ok(Mxcsr::default()),
        (true, _) => Ok(c.registers.extended.mxcsr),
    }
}

/// What the header of an image says.
struct Header {
    /// XSTATE_BV.
    in_use: u64,
    /// XCOMP_BV.
    layout: u64,
    /// The word behind it.
    third: u64,
    /// All bits of the words behind that.
    others: u64,
}

impl Header {
    /// Reads the first three words.
    fn read(c: &mut Context<'_>) -> Result<Header, Exception> {
        let (in_use, layout, third) = (Self::word(c, 0)?, Self::word(c, 1)?, Self::word(c, 2)?);
        Ok(Header { in_use, layout, third, others: 0 })
    }

    /// Reads those behind them.
    fn read_others(&mut self, c: &mut Context<'_>) -> Result<(), Exception> {
        for index in 3..HEADER_LENGTH / 8 {
            self.others |= Self::word(c, index)?;
        }
        Ok(())
    }

    /// Reads a word by itself: an address of 32 bits may wrap between them, and an offset from FS or GS end.
    fn word(c: &mut Context<'_>, index: usize) -> Result<u64, Exception> {
        let (offset, mut word) = (XSTATE_BV + 8 * index, [0; 8]);
        check_part(c, offset, 8, 1, Access::Read)?;
        read_at(c, offset, &mut word, Access::Read)?;
        Ok(u64::from_le_bytes(word))
    }

    /// #GP for a layout with components that the system has not enabled.
    fn check_layout(&self, processor: &Processor) -> Result<(), Exception> {
        let valid = self.layout & COMPACTED == 0 || self.layout & !COMPACTED & !processor.xcr0 == 0;
        if valid { Ok(()) } else { Err(Exception::GeneralProtection(0)) }
    }

    /// #GP for what the first three words say by themselves.
    fn check_first(&self, processor: &Processor) -> Result<(), Exception> {
        let has_layout = self.layout & COMPACTED != 0 && processor.features.has(CpuidFeature::XSAVEC);
        let valid = self.in_use & !processor.xcr0 == 0 && (has_layout || self.layout == 0) && self.third == 0;
        if valid { Ok(()) } else { Err(Exception::GeneralProtection(0)) }
    }

    /// #GP for one that the processor does not take.
    fn check(&self, processor: &Processor) -> Result<(), Exception> {
        self.check_first(processor)?;
        let (in_use, layout) = (self.in_use, self.layout);
        let valid = layout & COMPACTED == 0 || in_use & !layout | self.others == 0;
        if valid { self.check_layout(processor) } else { Err(Exception::GeneralProtection(0)) }
    }
}
