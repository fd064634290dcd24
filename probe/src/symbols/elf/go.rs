//! Programs that Go's compiler has made.

use std::fs::File;
use std::path::Path;

use object::elf::PT_NOTE;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{LittleEndian, ReadCache, ReadRef};

use super::Named;

/// Whether code in `file` may be Go's: it has the table of functions that Go's runtime unwinds by, or, where there are no
/// sections, the note with Go's build id.
pub(crate) fn is_go(file: &File) -> bool {
    let cache = ReadCache::new(file);
    has_table(&cache) || has_note(&cache).unwrap_or(false)
}

fn has_table<'data, R: ReadRef<'data>>(data: R) -> bool {
    let Ok(header) = (Named { path: Path::new("") }).header(data) else { return false };
    let Ok(sections) = header.sections(LittleEndian, data) else { return false };
    let names = sections.iter().filter_map(|section| sections.section_name(LittleEndian, section).ok());
    // In a position-independent program it is relocated.
    let mut names = names.map(|name| name.strip_prefix(b".data.rel.ro").unwrap_or(name));
    names.any(|name| name == b".gopclntab")
}

fn has_note<'data, R: ReadRef<'data>>(data: R) -> Option<bool> {
    const NAME: &[u8] = b"Go";
    let header = Named { path: Path::new("") }.header(data).ok()?;
    let segments = header.program_headers(LittleEndian, data).ok()?.iter();
    let mut notes = segments.filter(|segment| segment.p_type(LittleEndian) == PT_NOTE);
    Some(notes.any(|segment| {
        let Ok(Some(mut notes)) = segment.notes(LittleEndian, data) else { return false };
        while let Ok(Some(note)) = notes.next() {
            if note.name() == NAME {
                return true;
            }
        }
        false
    }))
}
