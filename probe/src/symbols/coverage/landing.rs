//! Where exceptions are caught: the landing pads that the tables of functions name (the Itanium C++ ABI's exception
//! handling tables, which GCC and LLVM write for C++ and Rust).

use gimli::{
    BaseAddresses, CieOrFde, EhFrame, EndianSlice, LittleEndian, Pointer, Reader, UnwindSection,
    constants as dw,
};

use crate::symbols::debug::UnwindTables;
use crate::symbols::elf::Elf;

/// The virtual addresses of all landing pads. A table that makes no sense counts as far as it does.
pub(super) fn pads(elf: &Elf) -> Vec<u64> {
    let mut pads = Vec::new();
    let Some(tables) = elf.unwind_tables() else { return pads };
    let (eh_frame, bases) = UnwindTables::eh_frame(&tables);
    look(elf, &eh_frame, &bases, &mut pads);
    pads.sort_unstable();
    pads.dedup();
    pads
}

fn look<R: Reader<Offset = usize>>(
    elf: &Elf,
    table: &EhFrame<R>,
    bases: &BaseAddresses,
    pads: &mut Vec<u64>,
) {
    let mut entries = table.entries(bases);
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else { continue };
        let Ok(entry) = entry.parse(EhFrame::cie_from_offset) else { continue };
        if let Some(Pointer::Direct(address)) = entry.lsda() {
            // What follows is a function's own table; none is longer than that.
            const LONGEST: u64 = 1 << 20;
            let start = entry.initial_address();
            let bytes = elf.data_at(address, LONGEST);
            of_function(EndianSlice::new(bytes, LittleEndian), address, start, pads);
        }
    }
}

/// Adds the landing pads of the function that begins at `start`, whose table lies at `address`. `None` where it ends
/// before it should.
fn of_function(
    mut table: EndianSlice<'_, LittleEndian>,
    address: u64,
    start: u64,
    pads: &mut Vec<u64>,
) -> Option<()> {
    let whole = table.len();
    let at = |table: &EndianSlice<'_, LittleEndian>| address.wrapping_add((whole - table.len()) as u64);
    let encoding = table.read_u8().ok()?;
    let base = match dw::DwEhPe(encoding) {
        dw::DW_EH_PE_omit => start,
        encoding => {
            let place = at(&table);
            encoded(&mut table, encoding, place)?
        }
    };
    if dw::DwEhPe(table.read_u8().ok()?) != dw::DW_EH_PE_omit {
        // Where the types are.
        table.read_uleb128().ok()?;
    }
    let encoding = dw::DwEhPe(table.read_u8().ok()?);
    let length = usize::try_from(table.read_uleb128().ok()?).ok()?;
    let mut sites = table.split(length).ok()?;
    while !sites.is_empty() {
        let mut next = || encoded(&mut sites, encoding, 0);
        let (_, _, pad) = (next()?, next()?, next()?);
        sites.read_uleb128().ok()?;
        if pad != 0 {
            pads.push(base.wrapping_add(pad));
        }
    }
    Some(())
}

/// A number in one of the encodings of these tables, which stands at `place`.
fn encoded(from: &mut EndianSlice<'_, LittleEndian>, encoding: dw::DwEhPe, place: u64) -> Option<u64> {
    let value = match encoding.format() {
        dw::DW_EH_PE_absptr | dw::DW_EH_PE_udata8 | dw::DW_EH_PE_sdata8 => from.read_u64().ok()?,
        dw::DW_EH_PE_uleb128 => from.read_uleb128().ok()?,
        dw::DW_EH_PE_udata2 => from.read_u16().ok()?.into(),
        dw::DW_EH_PE_udata4 => from.read_u32().ok()?.into(),
        dw::DW_EH_PE_sleb128 => from.read_sleb128().ok()?.cast_unsigned(),
        dw::DW_EH_PE_sdata2 => i64::from(from.read_i16().ok()?).cast_unsigned(),
        dw::DW_EH_PE_sdata4 => i64::from(from.read_i32().ok()?).cast_unsigned(),
        _ => return None,
    };
    Some(match encoding.application() {
        dw::DW_EH_PE_pcrel => value.wrapping_add(place),
        _ => value,
    })
}
