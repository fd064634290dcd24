//! The functions that an ELF file has unwind tables of (System V psABI for x86-64, section 4.2.4): also those whose
//! symbols are gone.

use std::ops::Range;

use gimli::{BaseAddresses, CieOrFde, EhFrame, UnwindSection};
use object::LittleEndian;
use object::read::elf::{SectionHeader, SectionTable};

use super::Header;

/// The virtual addresses of each, before relocation, in their order. A table that makes no sense counts as far as it
/// does.
pub(super) fn functions<'data>(sections: &SectionTable<'data, Header>, data: &'data [u8]) -> Vec<Range<u64>> {
    let Some((_, section)) = sections.section_by_name(LittleEndian, b".eh_frame") else { return Vec::new() };
    let Ok(table) = section.data(LittleEndian, data) else { return Vec::new() };
    let table = EhFrame::new(table, gimli::LittleEndian);
    let bases = BaseAddresses::default().set_eh_frame(section.sh_addr(LittleEndian));
    let mut entries = table.entries(&bases);
    let mut functions = Vec::new();
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else { continue };
        let Ok(entry) = entry.parse(EhFrame::cie_from_offset) else { continue };
        let start = entry.initial_address();
        functions.push(start..start.saturating_add(entry.len()));
    }
    functions.sort_by_key(|function| function.start);
    functions
}
