//! Symbols that a stripped file has kept, for backtraces: an ELF file in the section .gnu_debugdata, compressed by xz (GDB's
//! manual, "MiniDebugInfo").

use std::io::Read;
use std::path::Path;

use lzma_rust2::XzReader;
use object::LittleEndian;
use object::read::elf::{FileHeader, SectionHeader, SectionTable};

use super::symbols::{self, Symbol};
use super::{CodeRange, Header, Named};

/// The longest that is made of a section, in bytes: some megabytes suffice for the largest programs.
const LONGEST: u64 = 256 << 20;

/// The memory that decompression may take, in units of 1024 bytes.
const MOST_MEMORY: u32 = 128 << 10;

/// The symbols in `code` that such a section adds; none where there is no such section, or it makes no sense.
pub(super) fn symbols<'data>(
    sections: &SectionTable<'data, Header>,
    data: &'data [u8],
    code: &[CodeRange],
) -> Vec<Symbol> {
    let read = || {
        let (_, section) = sections.section_by_name(LittleEndian, b".gnu_debugdata")?;
        let file = decompress(section.data(LittleEndian, data).ok()?)?;
        let file = file.as_slice();
        let header = Named { path: Path::new(".gnu_debugdata") }.header(file).ok()?;
        let sections = header.sections(LittleEndian, file).ok()?;
        symbols::of_debug_file(&sections, file, code).ok()
    };
    read().unwrap_or_default()
}

fn decompress(section: &[u8]) -> Option<Vec<u8>> {
    let mut file = Vec::new();
    XzReader::new_mem_limit(section, false, MOST_MEMORY).take(LONGEST).read_to_end(&mut file).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::decompress;

    #[test]
    fn what_is_no_xz_is_nothing() {
        for section in [&b""[..], b"\xfd7zXZ\0", b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46", &[0; 64]] {
            assert_eq!(decompress(section), None, "{section:?}");
        }
    }
}
