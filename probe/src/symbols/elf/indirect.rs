//! Where the dynamic linker keeps the answers of resolvers of indirect functions (R_X86_64_IRELATIVE; System V psABI for
//! x86-64, section 4.4).

use object::LittleEndian;
use object::elf::{R_X86_64_IRELATIVE, SHT_RELA};
use object::read::elf::{Rela, SectionHeader, SectionTable};

use super::{Header, Segment, contains};

/// Eight bytes for an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its virtual address, before relocation.
    pub(crate) address: u64,
    /// What it has in the file.
    pub(crate) initial: u64,
}

/// Each with the virtual address of its resolver, in the order of these. A table that makes no sense counts as far as it
/// does.
pub(super) fn slots<'data>(
    sections: &SectionTable<'data, Header>,
    data: &'data [u8],
    segments: &[Segment],
) -> Vec<(u64, Slot)> {
    let initial = |address: u64| {
        let covers = |segment: &&Segment| contains(segment.address, segment.file_size, address);
        let offset = segments.iter().find(covers).map(|segment| segment.offset + (address - segment.address));
        let bytes = offset.and_then(|offset| data.get(usize::try_from(offset).ok()?..)?.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let mut slots = Vec::new();
    for section in sections.iter().filter(|section| section.sh_type(LittleEndian) == SHT_RELA) {
        let Ok(Some((relocations, _))) = section.rela(LittleEndian, data) else { continue };
        for relocation in relocations {
            if relocation.r_type(LittleEndian, false) == R_X86_64_IRELATIVE {
                let address = relocation.r_offset(LittleEndian);
                let resolver = relocation.r_addend(LittleEndian).cast_unsigned();
                slots.push((resolver, Slot { address, initial: initial(address) }));
            }
        }
    }
    slots.sort_by_key(|&(resolver, slot)| (resolver, slot.address));
    slots
}
