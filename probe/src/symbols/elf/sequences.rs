//! The restartable sequences that an object lists for debuggers, as librseq and tcmalloc do: in the section
//! `__rseq_cs` each is described by a `struct rseq_cs` (linux/rseq.h), and `__rseq_cs_ptr_array` has the addresses
//! of such descriptions.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::Range;
use std::path::Path;

use object::elf::{PT_LOAD, R_X86_64_RELATIVE};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, SectionTable};
use object::{LittleEndian, ReadCache, ReadRef};

use super::{Header, Named, contains};

/// The length of a description.
const DESCRIPTION: u64 = 32;
/// Where it has the address of the first instruction, and the length of the sequence.
const START: u64 = 8;
const LENGTH: u64 = 16;

/// The file offsets of the sequences that `file` lists. None where it lists none or is no ELF file.
pub(crate) fn sequences(file: &File) -> Vec<Range<u64>> {
    let cache = ReadCache::new(file);
    Lists::read(&cache).map(|lists| lists.sequences()).unwrap_or_default()
}

/// What is needed of a file that has a list.
struct Lists<'data, R: ReadRef<'data>> {
    data: R,
    /// Of each PT_LOAD: file offset, virtual address, size in the file.
    segments: Vec<(u64, u64, u64)>,
    /// The virtual addresses of the sections of descriptions, and of addresses of such.
    descriptions: Range<u64>,
    pointers: Range<u64>,
    /// What the dynamic linker is to add the load address to, and put at a virtual address.
    relocated: HashMap<u64, u64>,
    position_independent: bool,
    lifetime: std::marker::PhantomData<&'data ()>,
}

impl<'data, R: ReadRef<'data>> Lists<'data, R> {
    fn read(data: R) -> Option<Lists<'data, R>> {
        let header = Named { path: Path::new("") }.header(data).ok()?;
        let sections = header.sections(LittleEndian, data).ok()?;
        let section = |name: &[u8]| {
            let (_, section) = sections.section_by_name(LittleEndian, name)?;
            let start = section.sh_addr(LittleEndian);
            Some(start..start.checked_add(section.sh_size(LittleEndian))?)
        };
        let (descriptions, pointers) = (section(b"__rseq_cs"), section(b"__rseq_cs_ptr_array"));
        if descriptions.is_none() && pointers.is_none() {
            return None;
        }
        let segments = header.program_headers(LittleEndian, data).ok()?.iter();
        let segments = segments.filter(|segment| segment.p_type(LittleEndian) == PT_LOAD);
        let segments = segments.map(|segment| {
            let (offset, address) = (segment.p_offset(LittleEndian), segment.p_vaddr(LittleEndian));
            (offset, address, segment.p_filesz(LittleEndian))
        });
        Some(Lists {
            data,
            segments: segments.collect(),
            descriptions: descriptions.unwrap_or_default(),
            pointers: pointers.unwrap_or_default(),
            relocated: relocated(&sections, data),
            position_independent: header.e_type(LittleEndian) == object::elf::ET_DYN,
            lifetime: std::marker::PhantomData,
        })
    }

    fn offset_of(&self, address: u64) -> Option<u64> {
        let within = |&&(_, start, size): &&(u64, u64, u64)| contains(start, size, address);
        self.segments.iter().find(within).map(|&(offset, start, _)| offset.wrapping_add(address - start))
    }

    /// The quadword that the file has for a virtual address.
    fn word(&self, address: u64) -> Option<u64> {
        let bytes = self.data.read_bytes_at(self.offset_of(address)?, 8).ok()?;
        bytes.try_into().ok().map(u64::from_le_bytes)
    }

    /// The same for a quadword that holds a virtual address.
    fn pointer(&self, address: u64) -> Option<u64> {
        let relocated = self.relocated.get(&address).copied().filter(|_| self.position_independent);
        relocated.or_else(|| self.word(address))
    }

    fn sequences(&self) -> Vec<Range<u64>> {
        /// More than any program has: a size that is wrong must not take long.
        const MOST: usize = 1 << 16;
        let every = |range: &Range<u64>, step: u64| range.clone().step_by(step as usize).take(MOST);
        let pointed = every(&self.pointers, 8).filter_map(|place| self.pointer(place));
        let places: BTreeSet<u64> = every(&self.descriptions, DESCRIPTION).chain(pointed).collect();
        let described = places.into_iter().filter_map(|place| {
            let start = self.offset_of(self.pointer(place.checked_add(START)?)?)?;
            let length = self.word(place.checked_add(LENGTH)?)?;
            Some(start..start.checked_add(length)?)
        });
        described.filter(|sequence| !sequence.is_empty()).collect()
    }
}

/// The addends of all relative relocations, by place. Those of the compressed kind (DT_RELR) stand in the place.
fn relocated<'data, R: ReadRef<'data>>(
    sections: &SectionTable<'data, Header, R>,
    data: R,
) -> HashMap<u64, u64> {
    let tables = sections.iter().filter_map(|section| section.rela(LittleEndian, data).ok().flatten());
    let all = tables.flat_map(|(entries, _)| entries);
    let relative = all.filter(|entry| entry.r_type(LittleEndian, false) == R_X86_64_RELATIVE);
    relative
        .map(|entry| (entry.r_offset.get(LittleEndian), entry.r_addend.get(LittleEndian) as u64))
        .collect()
}
