//! The sections with debug information, of a file or of its debug file, made readable.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flate2::read::ZlibDecoder;
use gimli::{EndianSlice, LittleEndian, SectionId};
use object::elf::{
    CompressionHeader64, ELFCOMPRESS_ZLIB, ELFCOMPRESS_ZSTD, FileHeader64, SHF_COMPRESSED, SHT_NOBITS,
    SectionHeader64,
};
use object::pod;
use object::read::elf::{FileHeader, SectionHeader};
use object::{LittleEndian as Little, ReadCache, ReadRef};

use super::error::DebugError;

pub(crate) type Slice<'a> = EndianSlice<'a, LittleEndian>;

type Header = FileHeader64<Little>;

/// Those that are read.
const READ: [SectionId; 14] = [
    SectionId::DebugInfo,
    SectionId::DebugAbbrev,
    SectionId::DebugAddr,
    SectionId::DebugLine,
    SectionId::DebugLineStr,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRanges,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugTypes,
    SectionId::DebugFrame,
    SectionId::EhFrame,
];

/// Those that are read of what was split off: of a file, or of a package of such files.
const SPLIT: [SectionId; 11] = [
    SectionId::DebugInfo,
    SectionId::DebugAbbrev,
    SectionId::DebugLine,
    SectionId::DebugLoc,
    SectionId::DebugLocLists,
    SectionId::DebugRngLists,
    SectionId::DebugStr,
    SectionId::DebugStrOffsets,
    SectionId::DebugTypes,
    SectionId::DebugCuIndex,
    SectionId::DebugTuIndex,
];

/// How much longer than it was a section can become that is decompressed: more than debug information ever does.
const MOST_EXPANSION: u64 = 200;

/// How many bytes are reserved for what is decompressed before it is.
const MOST_RESERVED: u64 = 1 << 26;

/// The bytes of a section.
#[derive(Debug)]
enum Bytes {
    /// In the file's own contents.
    InFile(Arc<Vec<u8>>, Range<usize>),
    Own(Vec<u8>),
}

impl Bytes {
    fn append(&mut self, more: &Bytes) {
        match self {
            Bytes::Own(bytes) => bytes.extend_from_slice(more.get()),
            Bytes::InFile(..) => *self = Bytes::Own([self.get(), more.get()].concat()),
        }
    }

    fn get(&self) -> &[u8] {
        match self {
            Bytes::InFile(data, range) => data.get(range.clone()).unwrap_or_default(),
            Bytes::Own(bytes) => bytes,
        }
    }
}

/// A section that was found.
#[derive(Debug)]
struct Section {
    id: SectionId,
    /// The virtual address of its first byte, where it is loaded.
    address: u64,
    bytes: Bytes,
}

/// Where bytes of a file come from.
trait Source {
    fn section(&self, range: Range<u64>) -> Result<Bytes, DebugError>;
}

struct InMemory<'a>(&'a Arc<Vec<u8>>);

impl Source for InMemory<'_> {
    fn section(&self, range: Range<u64>) -> Result<Bytes, DebugError> {
        // What lies beyond the end is empty.
        let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(self.0.len());
        Ok(Bytes::InFile(Arc::clone(self.0), within(range.start)..within(range.end)))
    }
}

struct OnDisk<'a> {
    path: &'a Path,
    file: &'a File,
    length: u64,
}

impl Source for OnDisk<'_> {
    fn section(&self, range: Range<u64>) -> Result<Bytes, DebugError> {
        let range = range.start.min(self.length)..range.end.min(self.length);
        let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(0)];
        let read = self.file.read_exact_at(&mut bytes, range.start);
        read.map_err(|error| DebugError::Read { path: self.path.to_owned(), what: error.to_string() })?;
        Ok(Bytes::Own(bytes))
    }
}

/// All of one file.
#[derive(Debug, Default)]
pub(super) struct Sections(Vec<Section>);

impl Sections {
    /// Those in the contents of a file.
    pub(super) fn in_memory(data: &Arc<Vec<u8>>) -> Result<Sections, DebugError> {
        Sections::read(data.as_slice(), &InMemory(data), &READ, |id| id.name())
    }

    /// The unwind tables alone in the contents of a file.
    pub(super) fn unwind_tables(data: &Arc<Vec<u8>>) -> Result<Sections, DebugError> {
        let wanted = [SectionId::EhFrame, SectionId::DebugFrame];
        Sections::read(data.as_slice(), &InMemory(data), &wanted, |id| id.name())
    }

    /// Those of the debug file at `path`.
    pub(super) fn on_disk(path: &Path, file: &File) -> Result<Sections, DebugError> {
        Sections::of_file(path, file, &READ, |id| id.name())
    }

    /// Those that were split off into the file at `path`.
    pub(super) fn split(path: &Path, file: &File) -> Result<Sections, DebugError> {
        Sections::of_file(path, file, &SPLIT, |id| id.dwo_name().unwrap_or_default())
    }

    fn of_file(path: &Path, file: &File, wanted: &[SectionId], name: Name) -> Result<Sections, DebugError> {
        let metadata = file.metadata();
        let length = metadata
            .map_err(|error| DebugError::Read { path: path.to_owned(), what: error.to_string() })?
            .len();
        let cache = ReadCache::new(file);
        Sections::read(&cache, &OnDisk { path, file, length }, wanted, name)
    }

    fn read<'data, R: ReadRef<'data>>(
        data: R,
        source: &dyn Source,
        wanted: &[SectionId],
        of: Name,
    ) -> Result<Sections, DebugError> {
        let broken = |error: object::Error| malformed("section headers", 0, error);
        let header = Header::parse(data).map_err(broken)?;
        let table = header.sections(Little, data).map_err(broken)?;
        let mut sections = Vec::new();
        let mut left = data.len().unwrap_or(0);
        for section in table.iter() {
            let Ok(name) = table.section_name(Little, section) else { continue };
            let Some((id, old)) = wanted.iter().find_map(|&id| names(id, of(id), name)) else { continue };
            let known = sections.iter_mut().find(|known: &&mut Section| known.id == id);
            let joins = known.is_none() || id.dwo_name() == Some(of(id));
            if section.sh_type(Little) == SHT_NOBITS || !joins {
                continue;
            }
            let bytes = contents(id, section, old, source)?;
            if let Some(known) = known {
                // What was split off is not linked: each type has a section of its own there, of the same name.
                let rest = left.checked_sub(section.sh_size(Little));
                left = rest.ok_or_else(|| malformed(id.name(), 0, "its parts are larger than the file"))?;
                known.bytes.append(&bytes);
                continue;
            }
            sections.push(Section { id, address: section.sh_addr(Little), bytes });
        }
        Ok(Sections(sections))
    }

    fn find(&self, id: SectionId) -> Option<&Section> {
        self.0.iter().find(|section| section.id == id)
    }

    /// The bytes of a section; none where there is no such section.
    pub(super) fn get(&self, id: SectionId) -> Slice<'_> {
        Slice::new(self.find(id).map_or(&[], |section| section.bytes.get()), LittleEndian)
    }

    /// The virtual address of its first byte.
    pub(super) fn address(&self, id: SectionId) -> u64 {
        self.find(id).map_or(0, |section| section.address)
    }

    pub(super) fn has(&self, id: SectionId) -> bool {
        self.find(id).is_some()
    }

    /// The length of all in bytes.
    pub(super) fn length(&self) -> u64 {
        self.0.iter().map(|section| section.bytes.get().len() as u64).sum()
    }
}

pub(super) fn malformed(section: &'static str, offset: u64, what: impl ToString) -> DebugError {
    DebugError::Malformed { section, offset, what: what.to_string() }
}

/// What a section is called.
type Name = fn(SectionId) -> &'static str;

/// Whether a section that is called `of` has that name, and whether it is the old one of a compressed section.
fn names(id: SectionId, of: &str, name: &[u8]) -> Option<(SectionId, bool)> {
    let plain = of.as_bytes();
    let old =
        || name.strip_prefix(b".zdebug").is_some_and(|rest| plain.strip_prefix(b".debug") == Some(rest));
    if name == plain { Some((id, false)) } else { old().then_some((id, true)) }
}

fn contents(
    id: SectionId,
    section: &SectionHeader64<Little>,
    old: bool,
    source: &dyn Source,
) -> Result<Bytes, DebugError> {
    let start = section.sh_offset(Little);
    let stored = source.section(start..start.saturating_add(section.sh_size(Little)))?;
    let (kind, size, compressed) = if section.sh_flags(Little).contains(SHF_COMPRESSED) {
        let header = pod::from_bytes::<CompressionHeader64<Little>>(stored.get());
        let (header, rest) =
            header.map_err(|()| malformed(id.name(), 0, "its compression header is cut short"))?;
        (header.ch_type.get(Little), header.ch_size.get(Little), rest)
    } else if old {
        let header = stored.get().strip_prefix(b"ZLIB").and_then(|rest| rest.split_first_chunk());
        let (size, rest) = header.ok_or_else(|| malformed(id.name(), 0, "it does not begin with ZLIB"))?;
        (ELFCOMPRESS_ZLIB, u64::from_be_bytes(*size), rest)
    } else {
        return Ok(stored);
    };
    let most = (compressed.len() as u64).saturating_mul(MOST_EXPANSION);
    if size > most {
        let what = format!("it would be {size} bytes long after decompressing {}", compressed.len());
        return Err(malformed(id.name(), 0, what));
    }
    // What is claimed is not taken for true.
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(MOST_RESERVED)).unwrap_or(0));
    let read = if kind == ELFCOMPRESS_ZLIB {
        ZlibDecoder::new(compressed).take(size).read_to_end(&mut bytes).map_err(|error| error.to_string())
    } else if kind == ELFCOMPRESS_ZSTD {
        let decoder = ruzstd::decoding::StreamingDecoder::new(compressed).map_err(|error| error.to_string());
        decoder
            .and_then(|decoder| decoder.take(size).read_to_end(&mut bytes).map_err(|error| error.to_string()))
    } else {
        Err(format!("compression of type {} is unknown", kind.0))
    };
    match read {
        Ok(_) if bytes.len() as u64 == size => Ok(Bytes::Own(bytes)),
        Ok(_) => Err(malformed(id.name(), bytes.len() as u64, "its compressed contents end early")),
        Err(what) => Err(malformed(id.name(), bytes.len() as u64, what)),
    }
}
