//! What only the linker has known: how far thread-local variables are from the thread pointer, and which slots of the global
//! offset table have the addresses of symbols (System V psABI for x86-64, sections 3.5.4 and 4.4).

use object::LittleEndian;
use object::elf::{
    DT_FLAGS_1, ET_EXEC, PT_DYNAMIC, PT_TLS, R_X86_64_64, R_X86_64_GLOB_DAT, R_X86_64_RELATIVE, SHT_DYNSYM,
    SHT_RELA, SHT_SYMTAB, STT_TLS,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, Rela, SectionHeader, Sym};

use super::{Elf, Header};

/// DF_1_PIE.
const PROGRAM: u64 = 0x0800_0000;

impl Elf {
    /// What is to be added to the thread pointer to find a thread-local variable (`x@tpoff`).
    ///
    /// # Errors
    /// There is none of that name, or only the running program knows.
    pub(crate) fn thread_offset_of_symbol(&self, name: &str) -> Result<u64, String> {
        let block = block_of_program(&self.data).ok_or_else(|| {
            format!("how far `{name}` is from the thread pointer, only the running program knows")
        })?;
        let offset = thread_local(&self.data, name);
        let offset = offset.ok_or_else(|| format!("the file has no thread-local symbol `{name}`"))?;
        Ok(offset.wrapping_sub(block))
    }

    /// The virtual address of the eight bytes that have the address of a symbol (`x@GOTPCREL`).
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn slot_of_symbol(&self, name: &str) -> Result<u64, String> {
        let own = self.address_of_symbol(name).ok();
        let slot = slot(&self.data, name, own);
        slot.ok_or_else(|| format!("the file has no slot with the address of `{name}`"))
    }
}

/// How long the block of thread-local variables is that ends at the thread pointer: that of a program.
fn block_of_program(data: &[u8]) -> Option<u64> {
    let header = Header::parse(data).ok()?;
    let segments = header.program_headers(LittleEndian, data).ok()?;
    let block = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_TLS)?;
    let is_program = || {
        let dynamic = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_DYNAMIC)?;
        let entries = dynamic.dynamic(LittleEndian, data).ok()??;
        let flags = entries.iter().find(|entry| entry.d_tag(LittleEndian) == DT_FLAGS_1)?;
        Some(flags.d_val(LittleEndian) & PROGRAM != 0)
    };
    if header.e_type(LittleEndian) != ET_EXEC && is_program() != Some(true) {
        return None;
    }
    block.p_memsz(LittleEndian).checked_next_multiple_of(block.p_align(LittleEndian).max(1))
}

fn thread_local(data: &[u8], name: &str) -> Option<u64> {
    let header = Header::parse(data).ok()?;
    let sections = header.sections(LittleEndian, data).ok()?;
    [SHT_SYMTAB, SHT_DYNSYM].into_iter().find_map(|kind| {
        let table = sections.symbols(LittleEndian, data, kind).ok()?;
        let is_it = |symbol: &&_| {
            let symbol: &object::elf::Sym64<LittleEndian> = symbol;
            symbol.st_type() == STT_TLS && table.symbol_name(LittleEndian, symbol) == Ok(name.as_bytes())
        };
        table.iter().find(is_it).map(|symbol| symbol.st_value(LittleEndian))
    })
}

/// A slot for a symbol of that name or, where the linker has known it, for its address.
fn slot(data: &[u8], name: &str, address: Option<u64>) -> Option<u64> {
    let header = Header::parse(data).ok()?;
    let sections = header.sections(LittleEndian, data).ok()?;
    let symbols = sections.symbols(LittleEndian, data, SHT_DYNSYM).ok();
    let named = |index: u32| {
        let symbols = symbols.as_ref()?;
        let symbol = symbols.symbol(object::SymbolIndex(index as usize)).ok()?;
        Some(symbols.symbol_name(LittleEndian, symbol) == Ok(name.as_bytes()))
    };
    for section in sections.iter().filter(|section| section.sh_type(LittleEndian) == SHT_RELA) {
        let Ok(Some((relocations, _))) = section.rela(LittleEndian, data) else { continue };
        let found = relocations.iter().find(|relocation| match relocation.r_type(LittleEndian, false) {
            R_X86_64_GLOB_DAT | R_X86_64_64 => named(relocation.r_sym(LittleEndian, false)) == Some(true),
            R_X86_64_RELATIVE => {
                address.is_some_and(|address| relocation.r_addend(LittleEndian).cast_unsigned() == address)
            }
            _ => false,
        });
        if let Some(relocation) = found {
            return Some(relocation.r_offset(LittleEndian));
        }
    }
    // At fixed addresses nothing is left to relocate.
    let (_, table) = sections.section_by_name(LittleEndian, b".got")?;
    let bytes = table.data(LittleEndian, data).ok()?;
    let wanted = address.filter(|address| *address != 0)?.to_le_bytes();
    let index = bytes.chunks_exact(8).position(|chunk| chunk == wanted)?;
    table.sh_addr(LittleEndian).checked_add(8 * index as u64)
}
