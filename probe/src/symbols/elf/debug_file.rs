//! The separate debug file of a stripped file, which has the symbols that were taken out of it (GDB's manual,
//! "Debugging Information in Separate Files").
//!
//! It is found by the build id or by the name that the stripped file has, and believed if build id or checksum are
//! the same. One that is not there, does not fit or cannot be read counts for nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use flate2::Crc;
use object::elf::{ELF_NOTE_GNU, NT_GNU_BUILD_ID};
use object::read::elf::{FileHeader, SectionHeader, SectionTable};
use object::{LittleEndian, ReadCache, ReadRef};

use super::symbols::{self, Symbol};
use super::{CodeRange, Header, Named};
use crate::target::mapped::View;

/// Where debug files of the whole system lie.
const DIRECTORY: &str = "/usr/lib/debug";

/// Opens a regular file as the process sees it whose mapping is read.
type Open<'a> = &'a dyn Fn(&Path) -> io::Result<File>;

/// Where what belongs to a file is looked for.
#[derive(Debug)]
pub(crate) struct Places {
    /// As whom.
    pub(crate) view: View,
    /// Files that the user has named, as this process sees them.
    pub(crate) named: Vec<PathBuf>,
    /// The file.
    pub(crate) object: PathBuf,
}

/// What a stripped file says of its debug file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// What the linker made of all that it linked.
    build_id: Option<Vec<u8>>,
    /// The file's name and its CRC-32.
    named: Option<(PathBuf, u32)>,
}

/// What is looked for besides a file.
pub(super) enum Other<'a> {
    /// Its debug file.
    Debug(&'a Link),
    /// What the debug information of the file at a path shares with that of other files.
    Supplement(&'a Supplement, &'a Path),
}

impl Other<'_> {
    /// It, if it is to be found in those places.
    pub(super) fn file(&self, places: &Places) -> Option<(PathBuf, File)> {
        let open = |path: &Path| places.view.open(path);
        match self {
            Other::Debug(link) => link.file(&places.object, &open, &places.named),
            Other::Supplement(supplement, of) => supplement.file(of, &open),
        }
    }
}

/// What a file says of its supplementary file, which has what debug information of several files has in common: entries and
/// strings that are referred to from there (DWARF 5, section 7.3.6; dwz's `.gnu_debugaltlink`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Supplement {
    /// As it is written: from the directory of the file that refers to it, or in full.
    pub(super) name: PathBuf,
    build_id: Vec<u8>,
}

impl Supplement {
    /// That of the file with these sections.
    pub(super) fn of<'data, R: ReadRef<'data>>(
        sections: &SectionTable<'data, Header, R>,
        data: R,
    ) -> Option<Supplement> {
        let section = |name: &[u8]| {
            let (_, section) = sections.section_by_name(LittleEndian, name)?;
            section.data(LittleEndian, data).ok()
        };
        let named = |bytes: &[u8]| {
            let end = bytes.iter().position(|byte| *byte == 0)?;
            let (name, rest) = bytes.split_at_checked(end)?;
            Some((PathBuf::from(OsStr::from_bytes(name)), rest.get(1..)?.to_vec()))
        };
        if let Some((name, build_id)) = section(b".gnu_debugaltlink").and_then(named) {
            return Some(Supplement { name, build_id });
        }
        // A version of two bytes, whether the file is such a supplement itself, and the length of the checksum.
        let standard = section(b".debug_sup").and_then(|bytes| bytes.strip_prefix(&[5, 0, 0]))?;
        let (name, rest) = named(standard)?;
        let (length, checksum) = rest.split_first()?;
        Some(Supplement { name, build_id: checksum.get(..usize::from(*length))?.to_vec() })
    }

    /// That of the debug file at `path`.
    pub(super) fn of_file(path: &Path, file: &File) -> Option<Supplement> {
        let data = ReadCache::new(file);
        let sections = Named { path }.header(&data).ok()?.sections(LittleEndian, &data).ok()?;
        Supplement::of(&sections, &data)
    }

    /// The file, which its build id proves, so that it may be anybody's.
    fn file(&self, of: &Path, open: Open<'_>) -> Option<(PathBuf, File)> {
        let proof = Proof::BuildId(&self.build_id);
        let beside = of.parent().unwrap_or(Path::new("/")).join(&self.name);
        let by_id = build_id_path(Path::new(DIRECTORY), &self.build_id);
        [Some(beside), by_id].into_iter().flatten().find_map(|place| {
            let own = || proven(&place, &proof, &super::open_regular);
            let file = proven(&place, &proof, open).or_else(own)?;
            Some((place, file))
        })
    }
}

/// Where the debug file with a build id is, below a directory of such files.
fn build_id_path(directory: &Path, build_id: &[u8]) -> Option<PathBuf> {
    let (first, rest) = build_id.split_first()?;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(directory.join(format!(".build-id/{first:02x}/{rest}.debug")))
}

/// How a file shows that it is the right one.
enum Proof<'a> {
    BuildId(&'a [u8]),
    Checksum(u32),
}

impl Link {
    /// That of the file with these sections.
    pub(super) fn of<'data, R: ReadRef<'data>>(
        sections: &SectionTable<'data, Header, R>,
        data: R,
    ) -> object::Result<Link> {
        let named = match sections.section_by_name(LittleEndian, b".gnu_debuglink") {
            Some((_, section)) => named(section.data(LittleEndian, data)?),
            None => None,
        };
        Ok(Link { build_id: build_id(sections, data)?, named })
    }

    /// The debug file of the file at `path`: one of those that the user has named, as this process sees them, or where
    /// it belongs.
    pub(super) fn file(&self, path: &Path, open: Open<'_>, named: &[PathBuf]) -> Option<(PathBuf, File)> {
        let proofs = || {
            let build_id = self.build_id.as_deref().map(Proof::BuildId);
            build_id.into_iter().chain(self.named.as_ref().map(|(_, crc)| Proof::Checksum(*crc)))
        };
        let fits = |place: &PathBuf| {
            let file = proofs().find_map(|proof| proven(place, &proof, &super::open_regular))?;
            Some((place.clone(), file))
        };
        named.iter().find_map(fits).or_else(|| self.file_in(Path::new(DIRECTORY), path, open))
    }

    fn file_in(&self, directory: &Path, path: &Path, open: Open<'_>) -> Option<(PathBuf, File)> {
        let candidates = self.candidates(path, directory);
        candidates
            .into_iter()
            .find_map(|(path, proof)| Some((proven(&path, &proof, open)?, path)))
            .map(|(f, p)| (p, f))
    }

    /// Where the debug file of the file at `path` is looked for.
    pub(super) fn places(&self, path: &Path) -> Vec<PathBuf> {
        self.candidates(path, Path::new(DIRECTORY)).into_iter().map(|(place, _)| place).collect()
    }

    /// Where GDB looks, in its order.
    fn candidates(&self, path: &Path, directory: &Path) -> Vec<(PathBuf, Proof<'_>)> {
        let mut candidates = Vec::new();
        if let Some(build_id) = self.build_id.as_deref()
            && let Some(file) = build_id_path(directory, build_id)
        {
            candidates.push((file, Proof::BuildId(build_id)));
        }
        if let (Some((name, crc)), Some(beside)) = (&self.named, path.parent()) {
            let below = directory.join(beside.strip_prefix("/").unwrap_or(beside));
            let places = [beside.join(name), beside.join(".debug").join(name), below.join(name)];
            candidates.extend(places.map(|place| (place, Proof::Checksum(*crc))));
        }
        candidates
    }
}

/// The file at `path`, if it is the right one.
fn proven(path: &Path, proof: &Proof<'_>, open: Open<'_>) -> Option<File> {
    let file = open(path).ok()?;
    match proof {
        Proof::Checksum(expected) if crc(&file).ok()? != *expected => return None,
        Proof::Checksum(_) => {}
        Proof::BuildId(expected) => {
            let data = ReadCache::new(&file);
            let sections = Named { path }.header(&data).ok()?.sections(LittleEndian, &data).ok()?;
            if build_id(&sections, &data).ok()?.as_deref() != Some(*expected) {
                return None;
            }
        }
    }
    Some(file)
}

/// The symbols that the debug file at `path` adds to those in `code`; none where it makes no sense.
pub(super) fn symbols(path: &Path, file: &File, code: &[CodeRange]) -> Vec<Symbol> {
    // It is read where it is needed: debug files are large, and most of it is not symbols.
    let data = ReadCache::new(file);
    let read = || {
        let sections = Named { path }.header(&data).ok()?.sections(LittleEndian, &data).ok()?;
        symbols::of_debug_file(&sections, &data, code).ok()
    };
    read().unwrap_or_default()
}

/// The build id in a note of its own; sections without a place in the file have none.
fn build_id<'data, R: ReadRef<'data>>(
    sections: &SectionTable<'data, Header, R>,
    data: R,
) -> object::Result<Option<Vec<u8>>> {
    for section in sections.iter() {
        let Some(mut notes) = section.notes(LittleEndian, data)? else { continue };
        while let Some(note) = notes.next()? {
            if note.name() == ELF_NOTE_GNU && note.n_type(LittleEndian) == NT_GNU_BUILD_ID {
                return Ok(Some(note.desc().to_vec()));
            }
        }
    }
    Ok(None)
}

/// A name that ends with a zero byte, zeros up to a multiple of four bytes, and a CRC-32.
fn named(section: &[u8]) -> Option<(PathBuf, u32)> {
    let length = section.iter().position(|byte| *byte == 0)?;
    let name = section.get(..length).filter(|name| !name.is_empty() && !name.contains(&b'/'))?;
    let crc = section.get((length + 1).next_multiple_of(4)..)?.first_chunk()?;
    Some((PathBuf::from(OsStr::from_bytes(name)), u32::from_le_bytes(*crc)))
}

fn crc(mut file: &File) -> io::Result<u32> {
    const CHUNK: usize = 1 << 16;
    let (mut crc, mut chunk) = (Crc::new(), vec![0; CHUNK]);
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(crc.sum()),
            length => crc.update(chunk.get(..length).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_a_name_and_a_checksum() {
        let link = |section: &[u8]| named(section).map(|(name, crc)| (name.display().to_string(), crc));
        assert_eq!(link(b"abc\0\x01\x02\x03\x04"), Some(("abc".into(), 0x0403_0201)));
        assert_eq!(link(b"abcd\0\0\0\0\x01\x02\x03\x04"), Some(("abcd".into(), 0x0403_0201)));
        for wrong in [&b""[..], b"abc", b"abc\0\x01\x02\x03", b"\0\0\0\0\x01\x02\x03\x04", b"a/b\0\0\0\0\0"] {
            assert_eq!(link(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_build_id_leads_to_a_file_that_has_it() {
        let us = std::env::current_exe().unwrap();
        let elf = super::super::Elf::open(&us).unwrap();
        let data = std::fs::read(&us).unwrap();
        let header = Named { path: &us }.header(data.as_slice()).unwrap();
        let sections = header.sections(LittleEndian, data.as_slice()).unwrap();
        let link = Link { named: None, ..Link::of(&sections, data.as_slice()).unwrap() };
        let Some([first, rest @ ..]) = link.build_id.as_deref() else {
            println!("skipped: the linker gives no build ids");
            return;
        };
        // What it would be if we were stripped: all that we are.
        let asked = std::cell::RefCell::new(Vec::new());
        let open = |path: &Path| {
            asked.borrow_mut().push(path.to_owned());
            File::open(&us)
        };
        let directory = Path::new("/debug");
        let (path, file) = link.file_in(directory, &us, &open).unwrap();
        let symbols = symbols(&path, &file, elf.code());
        assert!(symbols.len() > 100 && symbols.iter().any(|symbol| symbol.name == "main"));
        let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(*asked.borrow(), [directory.join(format!(".build-id/{first:02x}/{rest}.debug"))]);
        // Whatever lies there must have it.
        let other = Link { build_id: Some(vec![*first, 0]), named: None };
        assert!(other.file_in(directory, &us, &open).is_none());
        let missing = |_: &Path| Err(io::ErrorKind::NotFound.into());
        assert!(link.file_in(directory, &us, &missing).is_none());
    }

    #[test]
    fn it_is_looked_for_where_gdb_does() {
        let link = Link { build_id: Some(vec![0xab, 0xcd, 0x0e]), named: Some(("f.debug".into(), 0)) };
        let places = link.candidates(Path::new("/opt/bin/f"), Path::new("/usr/lib/debug"));
        let places: Vec<_> = places.iter().map(|(place, _)| place.display().to_string()).collect();
        assert_eq!(
            places,
            [
                "/usr/lib/debug/.build-id/ab/cd0e.debug",
                "/opt/bin/f.debug",
                "/opt/bin/.debug/f.debug",
                "/usr/lib/debug/opt/bin/f.debug",
            ]
        );
    }
}
