//! Where the dynamic linker says that it has mapped or unmapped objects.

use std::io::Read;

use object::read::elf::{ElfFile64, FileHeader};
use object::{Object, ObjectSymbol};

use crate::target::maps::{self, Maps};
use crate::target::{mapped, procfs};

/// The function that every dynamic linker calls after changing its list of objects, for debuggers
/// (link.h: `r_brk`).
const RENDEZVOUS: &str = "_dl_debug_state";

/// The address of that function in thread `tid`'s address space, if it has a dynamic linker.
pub(crate) fn rendezvous(tid: i32, maps: &Maps) -> Option<u64> {
    const AT_BASE: u64 = 7;
    let base = procfs::auxiliary(tid, AT_BASE).filter(|&base| base != 0)?;
    let mut file = mapped::open(maps, maps::find(maps, base)?).ok()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).ok()?;
    Some(base.wrapping_add(symbol(&bytes)?))
}

/// The address at which the program itself starts, when the linker has mapped all that it needs.
pub(crate) fn entry(tid: i32) -> Option<u64> {
    const AT_ENTRY: u64 = 9;
    procfs::auxiliary(tid, AT_ENTRY)
}

/// The value of the rendezvous symbol relative to the first loaded segment.
fn symbol(linker: &[u8]) -> Option<u64> {
    let file = ElfFile64::<object::Endianness>::parse(linker).ok()?;
    let symbol =
        file.dynamic_symbols().find(|symbol| symbol.name() == Ok(RENDEZVOUS) && symbol.is_definition())?;
    let first = file
        .elf_header()
        .program_headers(file.endian(), linker)
        .ok()?
        .iter()
        .filter(|segment| segment.p_type.get(file.endian()) == object::elf::PT_LOAD)
        .map(|segment| segment.p_vaddr.get(file.endian()))
        .min()?;
    Some(symbol.address().wrapping_sub(first))
}
