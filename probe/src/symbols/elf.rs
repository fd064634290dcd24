//! ELF executables and shared objects: segments, code, functions (System V gABI, chapters 4 and 5).
//!
//! Everything is read from the file, once, and nothing in it is trusted: a file that is cut short or
//! corrupt is an error that says where.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use object::elf::{
    DT_SONAME, DT_STRSZ, DT_STRTAB, ELF_NOTE_GNU, EM_X86_64, ET_DYN, ET_EXEC, FileHeader64, NT_GNU_BUILD_ID,
    PF_X, PT_DYNAMIC, PT_LOAD, ProgramHeader64, SHF_EXECINSTR, SHT_NOBITS,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{LittleEndian, ReadCache, ReadRef};

use crate::symbols::code::starts_of;
use crate::symbols::debug::{DebugError, DebugInfo, UnwindTables};
use crate::target::lock;
use crate::target::mapped::View;

mod debug_file;
mod go;
mod indirect;
mod linked;
mod minidebug;
mod names;
mod sequences;
mod symbols;
mod unwind;
mod usdt;

pub(crate) use go::is_go;
pub(crate) use indirect::Slot;
pub use names::demangle;
pub(crate) use names::without_spaces;
pub(crate) use sequences::sequences;
pub(crate) use symbols::why_stripped;
pub use symbols::{Function, LookupError, Symbol, SymbolKind, SymbolName, Version};
pub use usdt::Usdt;

pub(crate) use debug_file::Places;
use debug_file::{Link, Other, Supplement};

/// The debug file to which a file has that link.
type Others<'a> = &'a dyn Fn(Other<'_>) -> Option<(PathBuf, File)>;

type Header = FileHeader64<LittleEndian>;

/// Why a file cannot be used.
#[derive(Debug)]
pub enum ElfError {
    /// It cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not begin as an ELF file does.
    NotElf {
        /// The file.
        path: PathBuf,
    },
    /// It is an ELF file of another kind than an executable or shared object for x86-64.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: String,
    },
    /// It ends before something that it says it contains.
    CutShort {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
        /// Where that would end, in bytes.
        end: u64,
        /// How long the file is, in bytes.
        length: u64,
    },
    /// A table in it makes no sense.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, in the reader's words.
        what: String,
    },
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElfError::Read { path, source } => write!(f, "{}: {source}", path.display()),
            ElfError::NotElf { path } => write!(f, "{} is not an ELF file", path.display()),
            ElfError::Unsupported { path, what } => {
                write!(f, "{} is {what}, not an x86-64 executable or shared object", path.display())
            }
            ElfError::CutShort { path, what, end, length } => write!(
                f,
                "{} is cut short: its {what} would end at byte {end}, the file at byte {length}",
                path.display()
            ),
            ElfError::Malformed { path, what } => {
                write!(f, "{} is a corrupt ELF file: {what}", path.display())
            }
        }
    }
}

impl Error for ElfError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Display shows it already.
            ElfError::Read { source, .. } => source.source(),
            _ => None,
        }
    }
}

/// A PT_LOAD segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The file offset of its first byte.
    pub offset: u64,
    /// The virtual address of its first byte, before relocation.
    pub address: u64,
    /// How many bytes of it lie in the file.
    pub file_size: u64,
    /// Whether code in it can run.
    pub executable: bool,
}

/// A stretch of code: an executable section or, in a file without section headers, a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeRange {
    /// The section's name, empty for a segment.
    pub name: String,
    /// The virtual address of its first byte, before relocation.
    pub address: u64,
    /// The file offset of its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub size: u64,
}

/// An executable or shared object.
#[derive(Debug)]
pub struct Elf {
    number: u64,
    path: PathBuf,
    data: Arc<Vec<u8>>,
    position_independent: bool,
    soname: Option<String>,
    segments: Vec<Segment>,
    code: Vec<CodeRange>,
    symbols: symbols::Symbols,
    unwound: Vec<Range<u64>>,
    slots: Vec<(u64, Slot)>,
    /// Where the instructions of one function begin, which was asked for last: many probes in a function are mostly
    /// looked up one after another.
    starts: Mutex<Option<(u64, Vec<u64>)>>,
    /// Where it was found: in it are symbols and debug information that this file lacks.
    debug_file: Option<(PathBuf, File)>,
    /// What its debug information shares with that of others, by its name, and where it was found.
    supplement: Option<(PathBuf, Option<(PathBuf, File)>)>,
    /// Where files with debug information are looked for that was split off, if there may be some.
    places: Option<Arc<Places>>,
    debug: OnceLock<Result<Arc<DebugInfo>, DebugError>>,
    /// Once somebody has asked: the probes of its author, or what is wrong with them.
    usdt: OnceLock<Result<Vec<Usdt>, String>>,
}

impl Elf {
    /// Reads the file at `path`, and the symbols of its debug file where it is stripped and has one.
    ///
    /// # Errors
    /// It cannot be read, or is no executable or shared object for x86-64, or is cut short or corrupt.
    pub fn open(path: &Path) -> Result<Elf, ElfError> {
        Elf::open_with(path, &[])
    }

    /// The same, and `debug_files` come first where one of them is the debug file.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn open_with(path: &Path, debug_files: &[PathBuf]) -> Result<Elf, ElfError> {
        let read = |source| ElfError::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(read)?;
        if metadata.is_dir() {
            return Err(read(io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            // Reading a FIFO or a terminal would wait.
            return Err(ElfError::NotElf { path: path.to_owned() });
        }
        let file = File::open(path).map_err(read)?;
        // Not where a symbolic link to it lies.
        let real = std::fs::canonicalize(path).map_err(read)?;
        let places = Places { view: View::own(), named: debug_files.to_vec(), object: real };
        Elf::with(path, whole(path, &file)?, Some(places))
    }

    /// Reads `file`, which is called `path`, and its debug file: one of `debug_files`, or what is found in `view`.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub(crate) fn read(path: &Path, file: &File, view: View, named: Vec<PathBuf>) -> Result<Elf, ElfError> {
        Elf::with(path, whole(path, file)?, Some(Places { view, named, object: path.to_owned() }))
    }

    /// Takes `data` for the contents of the file at `path`, and looks for no debug file.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn parse(path: &Path, data: Vec<u8>) -> Result<Elf, ElfError> {
        Elf::with(path, data, None)
    }

    fn with(path: &Path, data: Vec<u8>, places: Option<Places>) -> Result<Elf, ElfError> {
        let others = |other: Other<'_>| other.file(places.as_ref()?);
        let contents = parse(&Named { path }, data.as_slice(), &others)?;
        let Contents {
            position_independent,
            soname,
            segments,
            code,
            symbols,
            unwound,
            slots,
            debug_file,
            supplement,
            is_split,
        } = contents;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Ok(Elf {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            path: path.to_owned(),
            data: Arc::new(data),
            position_independent,
            soname,
            segments,
            code,
            symbols,
            unwound,
            slots,
            starts: Mutex::default(),
            debug_file,
            supplement,
            places: places.filter(|_| is_split).map(Arc::new),
            debug: OnceLock::new(),
            usdt: OnceLock::new(),
        })
    }

    /// Where it was read from.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can lie at any address: a shared object or a position-independent executable.
    #[must_use]
    pub fn is_position_independent(&self) -> bool {
        self.position_independent
    }

    /// DT_SONAME.
    #[must_use]
    pub fn soname(&self) -> Option<&str> {
        self.soname.as_deref()
    }

    /// The PT_LOAD segments in the order of the file.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// All code, in address order.
    #[must_use]
    pub fn code(&self) -> &[CodeRange] {
        &self.code
    }

    /// The bytes of `range`.
    #[must_use]
    pub fn bytes(&self, range: &CodeRange) -> &[u8] {
        self.file_bytes(range.offset, range.size)
    }

    /// The code from virtual address `address` on, to the end of its section; empty where there is none.
    #[must_use]
    pub fn code_at(&self, address: u64) -> &[u8] {
        let Some(range) = self.code.iter().find(|range| contains(range.address, range.size, address)) else {
            return &[];
        };
        let skip = address - range.address;
        self.file_bytes(range.offset + skip, range.size - skip)
    }

    /// The virtual address of the byte at file offset `offset`, if code can run there.
    #[must_use]
    pub fn address_of_offset(&self, offset: u64) -> Option<u64> {
        let covers =
            |segment: &&Segment| segment.executable && contains(segment.offset, segment.file_size, offset);
        self.segments.iter().find(covers).map(|segment| segment.address + (offset - segment.offset))
    }

    /// The virtual address of what lies at `offset`, code or data.
    #[must_use]
    pub fn any_address_of_offset(&self, offset: u64) -> Option<u64> {
        let covers = |segment: &&Segment| contains(segment.offset, segment.file_size, offset);
        self.segments.iter().find(covers).map(|segment| segment.address + (offset - segment.offset))
    }

    /// The file offset of virtual address `address`, if code can run there.
    #[must_use]
    pub fn offset_of_address(&self, address: u64) -> Option<u64> {
        let covers =
            |segment: &&Segment| segment.executable && contains(segment.address, segment.file_size, address);
        self.segments.iter().find(covers).map(|segment| segment.offset + (address - segment.address))
    }

    /// All functions in address order, each address once.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        self.symbols.functions()
    }

    /// The function whose code holds virtual address `address`.
    #[must_use]
    pub fn function_at(&self, address: u64) -> Option<&Function> {
        self.symbols.function_at(address)
    }

    /// The functions that begin last before `address`, or there, and may hold it.
    pub(crate) fn functions_before(&self, address: u64) -> impl DoubleEndedIterator<Item = &Function> {
        self.symbols.functions_before(address)
    }

    /// Where unwind tables say that functions are, by virtual addresses, in their order: also those without symbols.
    #[must_use]
    pub fn unwound(&self) -> &[Range<u64>] {
        &self.unwound
    }

    /// The virtual addresses of the function that begins at `address`, by its symbol or by unwind tables.
    pub(crate) fn extent_of(&self, address: u64) -> Option<Range<u64>> {
        let function = self.function_at(address).filter(|function| function.address == address);
        if let Some(function) = function {
            return Some(address..address.saturating_add(function.size));
        }
        let at = self.unwound.binary_search_by_key(&address, |function| function.start).ok()?;
        self.unwound.get(at).cloned()
    }

    /// Where the function begins that `address` lies in, by its symbol or by unwind tables.
    pub(crate) fn start_of(&self, address: u64) -> Option<u64> {
        if let Some(function) = self.function_at(address) {
            return Some(function.address);
        }
        let after = self.unwound.partition_point(|function| function.start <= address);
        let function = self.unwound.get(after.checked_sub(1)?)?;
        function.contains(&address).then_some(function.start)
    }

    /// A number that no other value of this type has.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether the file knows of code at virtual address `address`, by a symbol or by its unwind tables. What lies
    /// between may be code that it does not tell of, or data.
    #[must_use]
    pub fn tells_of_code(&self, address: u64) -> bool {
        let after = self.unwound.partition_point(|function| function.start <= address);
        let unwound = self.unwound[..after].last().is_some_and(|function| function.contains(&address));
        unwound || self.function_at(address).is_some()
    }

    /// Where its debug file was looked for in vain, if its symbols have been taken out of it.
    #[must_use]
    pub fn stripped(&self) -> Option<&[PathBuf]> {
        self.symbols.stripped.as_deref()
    }

    /// Finds the one symbol that `name` stands for.
    ///
    /// # Errors
    /// There is none, or more than one, or it is not a function.
    pub fn lookup(&self, name: &SymbolName) -> Result<&Symbol, LookupError> {
        self.symbols.lookup(&self.path, name)
    }

    /// Finds the one function that is called `name`: by a linker, with its version or without, or by its author, with
    /// parameters or without. `@0xADDRESS` behind it, a virtual address, tells it from others.
    ///
    /// # Errors
    /// There is none, or more than one, or it is not a function.
    pub fn find(&self, name: &str) -> Result<&Symbol, LookupError> {
        self.symbols.find(&self.path, name)
    }

    /// Where the linker keeps what the resolver at that virtual address has answered.
    pub(crate) fn indirect_slots(&self, resolver: u64) -> impl Iterator<Item = Slot> {
        let start = self.slots.partition_point(|&(other, _)| other < resolver);
        let slots = self.slots.get(start..).unwrap_or_default();
        slots.iter().take_while(move |&&(other, _)| other == resolver).map(|&(_, slot)| slot)
    }

    /// Has `look` see where the instructions of `function` begin.
    pub(crate) fn with_starts<R>(&self, function: &Function, look: impl FnOnce(&[u64]) -> R) -> R {
        let mut starts = lock(&self.starts);
        if starts.as_ref().is_none_or(|(address, _)| *address != function.address) {
            *starts = Some((function.address, starts_of(self, function).collect()));
        }
        look(starts.as_ref().map_or(&[], |(_, starts)| starts))
    }

    /// What the compiler says of the code, read now or before, from this file or its debug file.
    ///
    /// # Errors
    /// There is nothing of it, or it cannot be read at all.
    pub fn debug_info(&self) -> Result<Arc<DebugInfo>, DebugError> {
        let read = || {
            let code = self.code.iter().map(|range| range.address..range.address.saturating_add(range.size));
            let (file, supplement) = (self.debug_file.as_ref(), self.supplement.as_ref());
            let places = self.places.clone();
            DebugInfo::read(&self.path, &self.data, code.collect(), file, supplement, places).map(Arc::new)
        };
        self.debug.get_or_init(read).clone()
    }

    /// The entries of its dynamic section, tag and value, and the virtual address of the first; `None` where it has none.
    pub(crate) fn dynamic(&self) -> Option<(u64, Vec<(u64, u64)>)> {
        let data = self.data.as_slice();
        let header = Named { path: &self.path }.header(data).ok()?;
        let segments = header.program_headers(LittleEndian, data).ok()?.iter();
        let mut segments = segments.filter(|segment| segment.p_type(LittleEndian) == PT_DYNAMIC);
        let segment = segments.next()?;
        let bytes = self.file_bytes(segment.p_offset(LittleEndian), segment.p_filesz(LittleEndian));
        let quadword = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_le_bytes);
        let entries =
            bytes.chunks_exact(16).map_while(|entry| Some((quadword(entry)?, quadword(entry.get(8..)?)?)));
        Some((segment.p_vaddr(LittleEndian), entries.take_while(|&(tag, _)| tag != 0).collect()))
    }

    /// Its unwind tables, read now; `None` where it has none.
    pub(crate) fn unwind_tables(&self) -> Option<UnwindTables> {
        UnwindTables::read(&self.data)
    }

    /// Where the function lies that holds virtual address `address`, by its symbol or by unwind tables.
    pub(crate) fn extent_at(&self, address: u64) -> Option<Range<u64>> {
        if let Some(function) = self.function_at(address) {
            return Some(function.address..function.address.saturating_add(function.size));
        }
        let after = self.unwound.partition_point(|function| function.start <= address);
        self.unwound.get(..after)?.last().filter(|function| function.contains(&address)).cloned()
    }

    /// Up to `length` bytes from virtual address `address` on, code or data, as the file has them.
    pub(crate) fn data_at(&self, address: u64, length: u64) -> &[u8] {
        let holds = |segment: &&Segment| contains(segment.address, segment.file_size, address);
        let Some(segment) = self.segments.iter().find(holds) else { return &[] };
        let skip = address - segment.address;
        self.file_bytes(segment.offset + skip, length.min(segment.file_size - skip))
    }

    fn file_bytes(&self, offset: u64, size: u64) -> &[u8] {
        // The ranges were checked against the file's length when it was parsed.
        let range = usize::try_from(offset).ok().zip(usize::try_from(offset.saturating_add(size)).ok());
        range.and_then(|(start, end)| self.data.get(start..end)).unwrap_or_default()
    }
}

/// All of `file`, which is called `path`.
fn whole(path: &Path, mut file: &File) -> Result<Vec<u8>, ElfError> {
    let mut data = Vec::new();
    let read = file.read_to_end(&mut data);
    read.map_err(|source| ElfError::Read { path: path.to_owned(), source })?;
    Ok(data)
}

/// Opens the file at `path` as this process sees it, if it is a regular one: opening another may wait, or do
/// something.
pub(crate) fn open_regular(path: &Path) -> io::Result<File> {
    if std::fs::metadata(path)?.is_file() { File::open(path) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// DT_SONAME of the file at `path`, read without the rest of the file.
///
/// # Errors
/// As [`Elf::open`], as far as it reads.
pub fn soname(path: &Path) -> Result<Option<String>, ElfError> {
    let read = |source| ElfError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    if !file.metadata().map_err(read)?.is_file() {
        return Err(ElfError::NotElf { path: path.to_owned() });
    }
    soname_of(path, file)
}

/// DT_SONAME of `file`, which is called `path`.
pub(crate) fn soname_of(path: &Path, file: File) -> Result<Option<String>, ElfError> {
    let cache = ReadCache::new(file);
    let named = Named { path };
    let header = named.header(&cache)?;
    named.soname(header, &cache)
}

fn contains(start: u64, size: u64, value: u64) -> bool {
    value.checked_sub(start).is_some_and(|distance| distance < size)
}

/// The file offsets of a note segment that has a build id, if there is one.
pub(crate) fn build_id_segment(file: &File) -> Option<std::ops::Range<u64>> {
    let cache = ReadCache::new(file);
    let header = Named { path: Path::new("") }.header(&cache).ok()?;
    let segments = header.program_headers(LittleEndian, &cache).ok()?;
    let identifies = |segment: &&ProgramHeader64<LittleEndian>| {
        let Ok(Some(mut notes)) = segment.notes(LittleEndian, &cache) else { return false };
        let is_build_id = |note: object::read::elf::Note<'_, Header>| {
            note.name() == ELF_NOTE_GNU && note.n_type(LittleEndian) == NT_GNU_BUILD_ID
        };
        std::iter::from_fn(|| notes.next().ok().flatten()).any(is_build_id)
    };
    let segment = segments.iter().find(identifies)?;
    let offset = segment.p_offset(LittleEndian);
    Some(offset..offset.checked_add(segment.p_filesz(LittleEndian))?)
}

struct Contents {
    position_independent: bool,
    soname: Option<String>,
    segments: Vec<Segment>,
    code: Vec<CodeRange>,
    symbols: symbols::Symbols,
    unwound: Vec<Range<u64>>,
    slots: Vec<(u64, Slot)>,
    debug_file: Option<(PathBuf, File)>,
    supplement: Option<(PathBuf, Option<(PathBuf, File)>)>,
    /// Whether its debug information may be split off.
    is_split: bool,
}

fn parse(named: &Named<'_>, data: &[u8], others: Others<'_>) -> Result<Contents, ElfError> {
    let header = named.header(data)?;
    let position_independent = match header.e_type(LittleEndian) {
        ET_EXEC => false,
        ET_DYN => true,
        object::elf::ET_REL => return Err(named.unsupported("an object file that is not linked yet")),
        object::elf::ET_CORE => return Err(named.unsupported("a core dump")),
        other => return Err(named.unsupported(format!("an ELF file of type {other:?}"))),
    };
    let segments = named.segments(header, data)?;
    let length = data.len() as u64;
    named.check_end("section headers", header.e_shoff(LittleEndian), section_table_size(header), length)?;
    let sections = header.sections(LittleEndian, data).map_err(|error| named.malformed(error))?;
    let mut code = Vec::new();
    for section in sections.iter() {
        let (offset, size) = (section.sh_offset(LittleEndian), section.sh_size(LittleEndian));
        let executable = section.sh_flags(LittleEndian).contains(SHF_EXECINSTR);
        if !executable || section.sh_type(LittleEndian) == SHT_NOBITS || size == 0 {
            continue;
        }
        let address = section.sh_addr(LittleEndian);
        named.check_end("code", offset, size, length)?;
        named.check_end("address space", address, size, u64::MAX)?;
        let name = sections.section_name(LittleEndian, section).map_err(|error| named.malformed(error))?;
        code.push(CodeRange { name: String::from_utf8_lossy(name).into_owned(), address, offset, size });
    }
    if sections.is_empty() {
        code.extend(segments.iter().filter(|segment| segment.executable && segment.file_size != 0).map(
            |segment| CodeRange {
                name: String::new(),
                address: segment.address,
                offset: segment.offset,
                size: segment.file_size,
            },
        ));
    }
    code.sort_by_key(|range| range.address);
    let is_complete = |name| sections.section_by_name(LittleEndian, name).is_some();
    let debug_file =
        if is_complete(b".symtab") && (is_complete(b".debug_info") || is_complete(b".zdebug_info")) {
            None
        } else {
            let link = Link::of(&sections, data).map_err(|error| named.malformed(error))?;
            others(Other::Debug(&link))
        };
    let supplement = match &debug_file {
        Some((path, file)) => Supplement::of_file(path, file).map(|found| (found, path.as_path())),
        None => Supplement::of(&sections, data).map(|found| (found, named.path)),
    };
    let supplement = supplement.map(|(supplement, of)| {
        let file = others(Other::Supplement(&supplement, of));
        (supplement.name, file)
    });
    // What is split off refers to addresses there.
    let is_split = debug_file.is_some() || is_complete(b".debug_addr") || is_complete(b".zdebug_addr");
    let others = || match &debug_file {
        Some((path, file)) => debug_file::symbols(path, file, &code),
        None => minidebug::symbols(&sections, data, &code),
    };
    let symbols = symbols::Symbols::read(&sections, data, &code, others);
    let mut symbols = symbols.map_err(|error| named.malformed(error))?;
    if !is_complete(b".symtab") && debug_file.is_none() {
        let link = Link::of(&sections, data).map_err(|error| named.malformed(error))?;
        symbols.stripped = Some(link.places(named.path));
    }
    let soname = named.soname(header, data)?;
    let unwound = unwind::functions(&sections, data);
    let slots = indirect::slots(&sections, data, &segments);
    Ok(Contents {
        position_independent,
        soname,
        segments,
        code,
        symbols,
        unwound,
        slots,
        debug_file,
        supplement,
        is_split,
    })
}

fn section_table_size(header: &Header) -> u64 {
    u64::from(header.e_shnum(LittleEndian)) * u64::from(header.e_shentsize(LittleEndian))
}

/// Reads tables, and names the file in what goes wrong.
struct Named<'a> {
    path: &'a Path,
}

impl Named<'_> {
    fn unsupported(&self, what: impl Into<String>) -> ElfError {
        ElfError::Unsupported { path: self.path.to_owned(), what: what.into() }
    }

    fn malformed(&self, error: impl fmt::Display) -> ElfError {
        ElfError::Malformed { path: self.path.to_owned(), what: error.to_string() }
    }

    fn check_end(&self, what: &'static str, start: u64, size: u64, length: u64) -> Result<(), ElfError> {
        match start.checked_add(size) {
            Some(end) if end <= length => Ok(()),
            end => Err(ElfError::CutShort {
                path: self.path.to_owned(),
                what,
                end: end.unwrap_or(u64::MAX),
                length,
            }),
        }
    }

    fn header<'data, R: ReadRef<'data>>(&self, data: R) -> Result<&'data Header, ElfError> {
        const MAGIC: &[u8] = b"\x7fELF";
        let length = data.len().map_err(|()| self.malformed("its length cannot be read"))?;
        let ident = data.read_bytes_at(0, length.min(MAGIC.len() as u64)).unwrap_or_default();
        if !ident.starts_with(MAGIC) {
            return Err(ElfError::NotElf { path: self.path.to_owned() });
        }
        self.check_end("header", 0, size_of::<Header>() as u64, length)?;
        let header = data.read_at::<Header>(0).map_err(|()| self.malformed("its header cannot be read"))?;
        if header.is_class_32() {
            return Err(self.unsupported("a 32-bit ELF file"));
        }
        if header.is_big_endian() {
            return Err(self.unsupported("a big-endian ELF file"));
        }
        if !header.is_supported() {
            return Err(self.malformed("its class, byte order or version is unknown"));
        }
        if header.e_machine(LittleEndian) != EM_X86_64 {
            return Err(self.unsupported(format!("for machine {:?}", header.e_machine(LittleEndian))));
        }
        Ok(header)
    }

    fn segments<'data, R: ReadRef<'data>>(&self, header: &Header, data: R) -> Result<Vec<Segment>, ElfError> {
        let length = data.len().map_err(|()| self.malformed("its length cannot be read"))?;
        let table = u64::from(header.e_phnum(LittleEndian)) * u64::from(header.e_phentsize(LittleEndian));
        self.check_end("program headers", header.e_phoff(LittleEndian), table, length)?;
        let headers = header.program_headers(LittleEndian, data).map_err(|error| self.malformed(error))?;
        let mut segments = Vec::new();
        for segment in headers.iter().filter(|segment| segment.p_type(LittleEndian) == PT_LOAD) {
            let (offset, address) = (segment.p_offset(LittleEndian), segment.p_vaddr(LittleEndian));
            let file_size = segment.p_filesz(LittleEndian);
            self.check_end("segment", offset, file_size, length)?;
            self.check_end("address space", address, file_size, u64::MAX)?;
            let executable = segment.p_flags(LittleEndian).contains(PF_X);
            segments.push(Segment { offset, address, file_size, executable });
        }
        Ok(segments)
    }

    fn soname<'data, R: ReadRef<'data>>(&self, header: &Header, data: R) -> Result<Option<String>, ElfError> {
        let segments = self.segments(header, data)?;
        let headers = header.program_headers(LittleEndian, data).map_err(|error| self.malformed(error))?;
        let Some(dynamic) = headers.iter().find(|segment| segment.p_type(LittleEndian) == PT_DYNAMIC) else {
            return Ok(None);
        };
        let entries =
            dynamic.dynamic(LittleEndian, data).map_err(|error| self.malformed(error))?.unwrap_or_default();
        let value = |tag| {
            let entry = entries.iter().find(|entry| entry.d_tag(LittleEndian) == tag);
            entry.map(|entry| entry.d_val(LittleEndian))
        };
        let (Some(name), Some(table), Some(size)) = (value(DT_SONAME), value(DT_STRTAB), value(DT_STRSZ))
        else {
            return Ok(None);
        };
        let segment = segments.iter().find(|segment| contains(segment.address, segment.file_size, table));
        let Some(segment) = segment else { return Ok(None) };
        let start = segment.offset + (table - segment.address);
        let end = start.saturating_add(size);
        let Some(name) = start.checked_add(name).filter(|&name| name < end) else { return Ok(None) };
        let name = data.read_bytes_at_until(name..end, 0).unwrap_or_default();
        Ok((!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned()))
    }
}
