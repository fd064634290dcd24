//! Looks a [`ProbeSpec`] up in what a process has mapped.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::code::{self, Boundary};
use crate::elf::{self, Elf, ElfError, LookupError};
use crate::glob;
use crate::locate::{Locate, LocateError, Site};
use crate::maps::{self, Mapping};
use crate::spec::ProbeSpec;

/// Why a probe names no site, for good.
#[derive(Debug)]
pub enum ResolveError {
    /// The object's file cannot be used.
    Elf(ElfError),
    /// The symbol does not stand for one function.
    Lookup(LookupError),
    /// More than one mapped file goes by this name.
    AmbiguousObject {
        /// The name.
        object: String,
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// The file that is mapped is not the one that its path now names.
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// The pattern matches no function.
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The file.
        path: PathBuf,
    },
    /// The offset lies beyond the function's end.
    BeyondFunction {
        /// The function.
        symbol: String,
        /// The offset, in bytes.
        offset: u64,
        /// The function's length, in bytes.
        size: u64,
    },
    /// The place lies inside an instruction.
    InsideInstruction {
        /// The place, as the probe names it.
        place: String,
        /// The function that it lies in.
        function: String,
        /// How many bytes after the start of the function the instruction begins.
        start: u64,
    },
    /// No code can run at this file offset.
    NotCode {
        /// The file.
        path: PathBuf,
        /// The file offset.
        offset: u64,
    },
    /// Nothing is mapped at this address.
    NotMapped {
        /// The address.
        address: u64,
    },
    /// What is mapped at this address is not executable.
    NotExecutable {
        /// The address.
        address: u64,
        /// What is mapped there.
        mapping: String,
    },
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::Elf(error) => error.fmt(f),
            ResolveError::Lookup(error) => error.fmt(f),
            ResolveError::AmbiguousObject { object, paths } => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                write!(f, "`{object}` is more than one mapped file: {}; give the path", paths.join(", "))
            }
            ResolveError::Replaced { path } => write!(
                f,
                "{} was replaced on disk after it was mapped, so its symbols cannot be read; restart the target",
                path.display()
            ),
            ResolveError::NoMatch { pattern, path } => {
                write!(f, "{} has no function that matches `{pattern}`", path.display())
            }
            ResolveError::BeyondFunction { symbol, offset, size } => {
                write!(f, "`{symbol}+{offset:#x}` lies beyond the function, which is {size:#x} bytes long")
            }
            ResolveError::InsideInstruction { place, function, start } => write!(
                f,
                "`{place}` lies inside the instruction at {function}+{start:#x}, where a breakpoint would \
                 change what it does"
            ),
            ResolveError::NotCode { path, offset } => {
                write!(f, "file offset {offset:#x} of {} is not executable code", path.display())
            }
            ResolveError::NotMapped { address } => write!(f, "nothing is mapped at {address:#x}"),
            ResolveError::NotExecutable { address, mapping } => {
                write!(f, "{address:#x} is not executable: it lies in {mapping}")
            }
        }
    }
}

impl Error for ResolveError {}

impl From<ElfError> for ResolveError {
    fn from(error: ElfError) -> Self {
        ResolveError::Elf(error)
    }
}

impl From<LookupError> for ResolveError {
    fn from(error: LookupError) -> Self {
        ResolveError::Lookup(error)
    }
}

impl From<ResolveError> for LocateError {
    fn from(error: ResolveError) -> Self {
        LocateError::Unresolvable(Box::new(error))
    }
}

/// ELF files that have been read, so that each is read once.
#[derive(Debug, Default)]
pub struct Objects {
    files: Mutex<HashMap<PathBuf, (Identity, Arc<Elf>)>>,
    sonames: Mutex<HashMap<PathBuf, (Identity, Option<String>)>>,
}

/// What changes when a file is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(path: &Path) -> Option<Identity> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = metadata.modified().ok();
        Some(Identity { device: metadata.dev(), inode: metadata.ino(), modified })
    }
}

impl Objects {
    /// The file at `path`, read now or before.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn open(&self, path: &Path) -> Result<Arc<Elf>, ElfError> {
        let identity = Identity::of(path);
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, elf)) = files.get(path)
            && identity == Some(*known)
        {
            return Ok(Arc::clone(elf));
        }
        let elf = Arc::new(Elf::open(path)?);
        if let Some(identity) = identity {
            files.insert(path.to_owned(), (identity, Arc::clone(&elf)));
        }
        Ok(elf)
    }

    /// DT_SONAME of the file at `path`, if it is an ELF file that has one.
    fn soname(&self, path: &Path) -> Option<String> {
        let identity = Identity::of(path)?;
        let mut sonames = self.sonames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, soname)) = sonames.get(path)
            && identity == *known
        {
            return soname.clone();
        }
        let soname = elf::soname(path).ok().flatten();
        sonames.insert(path.to_owned(), (identity, soname.clone()));
        soname
    }
}

/// A probe and what it takes to look it up.
#[derive(Clone, Debug)]
pub struct Resolver {
    spec: ProbeSpec,
    objects: Arc<Objects>,
}

/// The sites of a probe before they are placed, for those who want to tell about them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address in the target.
    pub site: Site,
    /// The function and the distance from its start in bytes, where one is known: `malloc+0x12`.
    pub name: Option<String>,
}

impl Resolver {
    /// A probe that shares what has been read with others.
    #[must_use]
    pub fn new(spec: ProbeSpec, objects: Arc<Objects>) -> Resolver {
        Resolver { spec, objects }
    }

    /// The probe.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        &self.spec
    }

    /// Finds as many mistakes as can be found without a target: those in a file that is given by its path.
    ///
    /// # Errors
    /// As [`Resolver::places`].
    pub fn check(&self) -> Result<(), ResolveError> {
        match self.spec.object() {
            Some(object) if object.contains('/') => {
                let elf = self.objects.open(Path::new(object))?;
                self.addresses(&elf).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// The sites, each with the name of its place.
    ///
    /// # Errors
    /// As [`Locate::locate`].
    pub fn places(&self, maps: &[Mapping]) -> Result<Vec<Place>, LocateError> {
        let object = match &self.spec {
            ProbeSpec::Address(address) => return Ok(vec![self.place_of_address(*address, maps)?]),
            ProbeSpec::Symbol { object, .. }
            | ProbeSpec::EachInstruction { object, .. }
            | ProbeSpec::FileOffset { object, .. } => object,
        };
        let Some(file) = find_object(object, maps, &self.objects)? else {
            return Err(LocateError::NotMapped { object: object.clone() });
        };
        let elf = self.open_mapped(&file)?;
        let mut places = Vec::new();
        for address in self.addresses(&elf)? {
            let not_code = |offset| ResolveError::NotCode { path: file.path.clone(), offset };
            let Some(offset) = elf.offset_of_address(address) else {
                return Err(not_code(address).into());
            };
            let mut sites = maps
                .iter()
                .filter(|mapping| mapping.is_executable() && file.is_mapped_by(mapping))
                .filter_map(|mapping| mapping.address_of(offset))
                .peekable();
            if sites.peek().is_none() {
                return Err(not_code(offset).into());
            }
            let name = name_of(&elf, address);
            places.extend(sites.map(|address| Place { site: Site { address }, name: name.clone() }));
        }
        Ok(places)
    }

    /// The virtual addresses that the probe names in its object.
    fn addresses(&self, elf: &Elf) -> Result<BTreeSet<u64>, ResolveError> {
        let address = match &self.spec {
            ProbeSpec::Symbol { symbol, offset, .. } => {
                let found = elf.lookup(symbol)?;
                let size = match elf.function_at(found.address) {
                    Some(function) if function.address == found.address => function.size,
                    _ => found.size,
                };
                let address = found.address.checked_add(*offset).filter(|_| *offset < size.max(1));
                address.ok_or_else(|| ResolveError::BeyondFunction {
                    symbol: symbol.to_string(),
                    offset: *offset,
                    size,
                })?
            }
            ProbeSpec::FileOffset { offset, .. } => elf
                .address_of_offset(*offset)
                .ok_or_else(|| ResolveError::NotCode { path: elf.path().to_owned(), offset: *offset })?,
            ProbeSpec::EachInstruction { pattern, .. } => return instructions(elf, pattern),
            ProbeSpec::Address(_) => return Ok(BTreeSet::new()),
        };
        self.check_boundary(elf, address)?;
        Ok(BTreeSet::from([address]))
    }

    fn check_boundary(&self, elf: &Elf, address: u64) -> Result<(), ResolveError> {
        match code::boundary(elf, address) {
            Boundary::Yes | Boundary::Unknown => Ok(()),
            Boundary::Inside { start, function } => {
                Err(ResolveError::InsideInstruction { place: self.spec.to_string(), function, start })
            }
        }
    }

    fn place_of_address(&self, address: u64, maps: &[Mapping]) -> Result<Place, ResolveError> {
        let mapping = maps::find(maps, address).ok_or(ResolveError::NotMapped { address })?;
        if !mapping.is_executable() {
            let mapping = mapping.path.as_ref().map(|path| path.display().to_string());
            let mapping = mapping.unwrap_or_else(|| "anonymous memory".to_owned());
            return Err(ResolveError::NotExecutable { address, mapping });
        }
        let site = Site { address };
        // Code that no file describes, such as a JIT compiler's, may be probed; nobody can tell where its
        // instructions begin.
        let unknown = Ok(Place { site, name: None });
        let Some(file) = MappedFile::of(mapping) else { return unknown };
        let Ok(elf) = self.open_mapped(&file) else { return unknown };
        let in_file = mapping.file_offset(address).and_then(|offset| elf.address_of_offset(offset));
        let Some(in_file) = in_file else { return unknown };
        self.check_boundary(&elf, in_file)?;
        Ok(Place { site, name: name_of(&elf, in_file) })
    }

    fn open_mapped(&self, file: &MappedFile) -> Result<Arc<Elf>, ResolveError> {
        let replaced = Identity::of(&file.path).is_some_and(|identity| identity.inode != file.inode);
        if replaced || maps::is_deleted(&file.path) {
            return Err(ResolveError::Replaced { path: file.path.clone() });
        }
        Ok(self.objects.open(&file.path)?)
    }
}

impl Locate for Resolver {
    fn locate(&self, maps: &[Mapping]) -> Result<Vec<Site>, LocateError> {
        Ok(self.places(maps)?.into_iter().map(|place| place.site).collect())
    }
}

impl Locate for ProbeSpec {
    fn locate(&self, maps: &[Mapping]) -> Result<Vec<Site>, LocateError> {
        Resolver::new(self.clone(), Arc::default()).locate(maps)
    }
}

/// The name of a place: its function, and how many bytes it lies after the function's start.
#[must_use]
pub fn name_of(elf: &Elf, address: u64) -> Option<String> {
    let function = elf.function_at(address)?;
    Some(match address - function.address {
        0 => function.name().to_owned(),
        distance => format!("{}+{distance:#x}", function.name()),
    })
}

/// Where the instructions of the functions begin whose names match.
fn instructions(elf: &Elf, pattern: &str) -> Result<BTreeSet<u64>, ResolveError> {
    if !glob::is_pattern(pattern) {
        // Also finds out that it has no such symbol, or two, and takes versions.
        let symbol = elf.lookup(&elf::SymbolName::parse(pattern))?;
        let function = elf.functions().iter().find(|function| function.address == symbol.address);
        let starts = function.map(|function| code::of_function(elf, function));
        return Ok(starts.into_iter().flatten().map(|instruction| instruction.address).collect());
    }
    let matching: Vec<_> = elf
        .functions()
        .iter()
        .filter(|function| !function.indirect)
        .filter(|function| function.bare_names().any(|name| glob::matches(pattern, name)))
        .collect();
    if matching.is_empty() {
        let (pattern, path) = (pattern.to_owned(), elf.path().to_owned());
        return Err(ResolveError::NoMatch { pattern, path });
    }
    let starts = matching.into_iter().flat_map(|function| code::of_function(elf, function));
    Ok(starts.map(|instruction| instruction.address).collect())
}

/// A file that a process has mapped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct MappedFile {
    path: PathBuf,
    device: (u32, u32),
    inode: u64,
}

impl MappedFile {
    fn of(mapping: &Mapping) -> Option<MappedFile> {
        let path = mapping.file()?.to_owned();
        Some(MappedFile { path, device: mapping.dev, inode: mapping.inode })
    }

    fn is_mapped_by(&self, mapping: &Mapping) -> bool {
        (self.device, self.inode) == (mapping.dev, mapping.inode)
    }
}

/// The one mapped file with code that goes by the name `object`: its path, its file name, its SONAME, or
/// the name of a program in PATH.
fn find_object(
    object: &str,
    maps: &[Mapping],
    objects: &Objects,
) -> Result<Option<MappedFile>, ResolveError> {
    // One entry per file, whatever the paths by which it was mapped.
    let files: BTreeMap<_, _> = maps
        .iter()
        .filter(|mapping| mapping.is_executable())
        .filter_map(MappedFile::of)
        .map(|file| ((file.device, file.inode), file))
        .collect();
    let files: Vec<MappedFile> = files.into_values().collect();
    let one = |found: Vec<&MappedFile>| match found.as_slice() {
        [] => Ok(None),
        [file] => Ok(Some((*file).clone())),
        files => Err(ResolveError::AmbiguousObject {
            object: object.to_owned(),
            paths: files.iter().map(|file| file.path.clone()).collect(),
        }),
    };
    let by_path = |path: &Path| files.iter().filter(|file| file.path == path).collect::<Vec<_>>();
    if object.contains('/') {
        // As the target sees it, which is another file if it lives in a mount namespace of its own.
        if let Some(file) = one(by_path(Path::new(object)))? {
            return Ok(Some(file));
        }
        let source = |source| ElfError::Read { path: PathBuf::from(object), source };
        return one(by_path(&std::fs::canonicalize(object).map_err(source)?));
    }
    let named = |file: &&MappedFile| file.path.file_name().is_some_and(|name| name == object);
    if let Some(file) = one(files.iter().filter(named).collect())? {
        return Ok(Some(file));
    }
    let called = |file: &&MappedFile| objects.soname(&file.path).as_deref() == Some(object);
    if let Some(file) = one(files.iter().filter(called).collect())? {
        return Ok(Some(file));
    }
    match program(object) {
        Some(path) => one(by_path(&path)),
        None => Ok(None),
    }
}

/// The file that a shell would run for the command `name`.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&path).map(|directory| directory.join(name));
    files.find(|file| file.is_file()).and_then(|file| std::fs::canonicalize(file).ok())
}
