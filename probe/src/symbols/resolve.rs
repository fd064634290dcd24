//! Looks a [`ProbeSpec`] up in what a process has mapped.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use crate::symbols::code::{self, Boundary};
use crate::symbols::elf::{self, Elf, ElfError, Function, LookupError, Symbol, SymbolName};
use crate::symbols::glob;
use crate::symbols::locate::{Locate, LocateError, Site};
use crate::symbols::spec::{Name, PlaceSpec, ProbeSpec};
use crate::target::mapped::{self, MappedError};
use crate::target::maps::{self, Mapping, Maps};

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
    /// The probe has a form that is not supported yet.
    NotSupported {
        /// The name of the form.
        form: &'static str,
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
            ResolveError::NotSupported { form } => write!(f, "{form} is not supported yet"),
            ResolveError::Replaced { path } => write!(
                f,
                "{} was replaced on disk after it was mapped, so its symbols cannot be read; restart the target, \
                 or be root",
                maps::without_mark(path).display()
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
    files: Mutex<HashMap<(PathBuf, Identity), Arc<Elf>>>,
    sonames: Mutex<HashMap<(PathBuf, Identity), Option<String>>>,
    seen: Mutex<Seen>,
}

/// What was found in one answer to what a process has mapped, for those who look up many probes in it.
#[derive(Debug, Default)]
struct Seen {
    /// That of [`Maps::number`].
    number: u64,
    /// The addresses of the mappings that objects were found in, by name.
    objects: HashMap<String, u64>,
    /// Their files, by the address of the mapping.
    files: HashMap<u64, Arc<Elf>>,
}

/// What changes when a file is replaced or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        let modified = metadata.modified().ok();
        Identity { device: metadata.dev(), inode: metadata.ino(), length: metadata.len(), modified }
    }

    /// That of the code which the kernel provides.
    const VDSO: Identity = Identity { device: 0, inode: 0, length: 0, modified: None };
}

impl Objects {
    /// The file at `path` as this process sees it, read now or before.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn open(&self, path: &Path) -> Result<Arc<Elf>, ElfError> {
        match std::fs::metadata(path) {
            Ok(metadata) => self.known(path, Identity::of(&metadata), || Elf::open(path)),
            // Which says why.
            Err(_) => Elf::open(path).map(Arc::new),
        }
    }

    /// The file that `mapping`, one of `maps`, maps: opened as its process sees it, and never another that
    /// has its path.
    ///
    /// # Errors
    /// It cannot be had any more, or it is no ELF file.
    pub fn mapped(&self, maps: &Maps, mapping: &Mapping) -> Result<Arc<Elf>, ResolveError> {
        if let Some(elf) = self.seen(maps, |seen| seen.files.get(&mapping.start).cloned()) {
            return Ok(elf);
        }
        let elf = self.read_mapped(maps, mapping)?;
        self.seen(maps, |seen| seen.files.insert(mapping.start, Arc::clone(&elf)));
        Ok(elf)
    }

    /// What is known of that answer.
    fn seen<R>(&self, maps: &Maps, look: impl FnOnce(&mut Seen) -> R) -> R {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.number != maps.number() {
            *seen = Seen { number: maps.number(), ..Seen::default() };
        }
        look(&mut seen)
    }

    fn read_mapped(&self, maps: &Maps, mapping: &Mapping) -> Result<Arc<Elf>, ResolveError> {
        let path = mapping.path.as_deref().unwrap_or(Path::new(""));
        if mapping.is_vdso() {
            let read = || {
                let image = mapped::vdso(mapping).map_err(|source| named(path, source))?;
                Elf::parse(path, image)
            };
            return Ok(self.known(path, Identity::VDSO, read)?);
        }
        let (file, identity) = open_mapped(maps, mapping)?;
        let open = |debug_file: &Path| mapped::open_regular(maps.pid(), debug_file);
        Ok(self.known(path, identity, || Elf::read(path, &file, &open))?)
    }

    /// Every file that is mapped with code in it, once.
    pub fn all_mapped(&self, maps: &Maps) -> Vec<Result<Arc<Elf>, ResolveError>> {
        files(maps).into_iter().map(|mapping| self.mapped(maps, mapping)).collect()
    }

    fn known(
        &self,
        path: &Path,
        identity: Identity,
        read: impl FnOnce() -> Result<Elf, ElfError>,
    ) -> Result<Arc<Elf>, ElfError> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (path.to_owned(), identity);
        if let Some(elf) = files.get(&key) {
            return Ok(Arc::clone(elf));
        }
        let elf = Arc::new(read()?);
        files.insert(key, Arc::clone(&elf));
        Ok(elf)
    }

    /// DT_SONAME of what `mapping` maps, if that is an ELF file that has one.
    fn soname(&self, maps: &Maps, mapping: &Mapping) -> Option<String> {
        if mapping.is_vdso() {
            return self.mapped(maps, mapping).ok()?.soname().map(str::to_owned);
        }
        let path = mapping.file()?;
        let (file, identity) = open_mapped(maps, mapping).ok()?;
        let mut sonames = self.sonames.lock().unwrap_or_else(PoisonError::into_inner);
        let soname = sonames
            .entry((path.to_owned(), identity))
            .or_insert_with(|| elf::soname_of(path, file).ok().flatten());
        soname.clone()
    }
}

fn named(path: &Path, source: io::Error) -> ElfError {
    ElfError::Read { path: path.to_owned(), source }
}

fn open_mapped(maps: &Maps, mapping: &Mapping) -> Result<(File, Identity), ResolveError> {
    let path = mapping.path.as_deref().unwrap_or(Path::new(""));
    let file = mapped::open(maps, mapping).map_err(|error| match error {
        MappedError::Replaced => ResolveError::Replaced { path: path.to_owned() },
        MappedError::Open(source) => named(path, source).into(),
    })?;
    let metadata = file.metadata().map_err(|source| named(path, source))?;
    Ok((file, Identity::of(&metadata)))
}

/// A probe and what it takes to look it up.
#[derive(Clone, Debug)]
pub struct Resolver {
    spec: ProbeSpec,
    objects: Arc<Objects>,
    /// Where relative paths start; otherwise in the current directory.
    base: Option<PathBuf>,
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
        Resolver { spec, objects, base: None }
    }

    /// The same, with relative paths that start at `base` rather than in the current directory.
    #[must_use]
    pub fn relative_to(self, base: PathBuf) -> Resolver {
        Resolver { base: Some(base), ..self }
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
        self.check_form()?;
        match self.spec.object() {
            Some(object) if object.contains('/') => {
                let path = Path::new(object);
                let open = absolute(path, self.base.as_deref()).map_err(|source| named(path, source))?;
                let elf = self.objects.open(if self.base.is_some() { &open } else { path })?;
                self.addresses(&elf).map(|_| ())
            }
            _ => Ok(()),
        }
    }

    /// The same for a file that process `pid` has not mapped yet, but may, where it sees it.
    ///
    /// # Errors
    /// As [`Resolver::places`].
    pub fn check_for(&self, pid: i32) -> Result<(), ResolveError> {
        self.check_form()?;
        let Some(object) = self.spec.object().filter(|object| object.contains('/')) else { return Ok(()) };
        let path = Path::new(object);
        let read = || {
            let absolute = absolute(path, self.base.as_deref())?;
            mapped::in_root(pid, &absolute).and_then(|found| mapped::reopen(&found))
        };
        let open = |debug_file: &Path| mapped::open_regular(pid, debug_file);
        let elf = Elf::read(path, &read().map_err(|source| named(path, source))?, &open)?;
        self.addresses(&elf).map(|_| ())
    }

    /// The sites, each with the name of its place.
    ///
    /// # Errors
    /// As [`Locate::locate`].
    pub fn places(&self, maps: &Maps) -> Result<Vec<Place>, LocateError> {
        self.find(maps, |site, elf, address| Place { site, name: elf.and_then(|elf| name_of(elf, address)) })
    }

    /// The sites: `found` is called with each, its object, and its virtual address there, where these are known.
    pub(crate) fn find<T>(
        &self,
        maps: &Maps,
        found: impl Fn(Site, Option<&Elf>, u64) -> T,
    ) -> Result<Vec<T>, LocateError> {
        self.check_form()?;
        if let PlaceSpec::Address(address) = self.spec.place {
            return Ok(vec![self.find_address(address, maps, found)?]);
        }
        let object = self.spec.object().unwrap_or_default();
        let Some(file) = find_object(object, maps, &self.objects, self.base.as_deref())? else {
            return Err(LocateError::NotMapped { object: object.to_owned() });
        };
        let elf = self.objects.mapped(maps, file)?;
        let code: Vec<&Mapping> =
            maps.iter().filter(|mapping| mapping.is_executable() && is_same(file, mapping)).collect();
        let mut places = Vec::new();
        for address in self.addresses(&elf)? {
            let not_code = |offset| ResolveError::NotCode { path: elf.path().to_owned(), offset };
            let Some(offset) = elf.offset_of_address(address) else {
                return Err(not_code(address).into());
            };
            let before = places.len();
            let sites = code.iter().filter_map(|mapping| mapping.address_of(offset));
            places.extend(sites.map(|site| found(Site { address: site }, Some(&elf), address)));
            if places.len() == before {
                return Err(not_code(offset).into());
            }
        }
        Ok(places)
    }

    /// Refuses the forms that are not supported yet.
    fn check_form(&self) -> Result<(), ResolveError> {
        let form = match &self.spec.place {
            PlaceSpec::Line { .. } => "a line of the source",
            PlaceSpec::Usdt { .. } => "a USDT probe",
            PlaceSpec::UprobeEvent(_) => "a line in the syntax of uprobe_events",
            _ if self.spec.on_return => "a probe on a function's return",
            _ => return Ok(()),
        };
        Err(ResolveError::NotSupported { form })
    }

    /// The virtual addresses that the probe names in its object, each once, in their order.
    fn addresses(&self, elf: &Elf) -> Result<Vec<u64>, ResolveError> {
        let address = match &self.spec.place {
            PlaceSpec::Function { name, offset, .. } => match elf.lookup(&SymbolName::parse(&name.text)) {
                Ok(found) => within(elf, found, &name.text, *offset)?,
                // A name that is there comes before a pattern.
                Err(LookupError::Unknown { .. }) if name.is_pattern() => return entries(elf, name),
                Err(error) => return Err(error.into()),
            },
            PlaceSpec::Number { number, .. } => elf
                .address_of_offset(*number)
                .ok_or_else(|| ResolveError::NotCode { path: elf.path().to_owned(), offset: *number })?,
            PlaceSpec::EachInstruction { name, .. } => return instructions(elf, name),
            _ => return Ok(Vec::new()),
        };
        self.check_boundary(elf, address)?;
        Ok(vec![address])
    }

    fn check_boundary(&self, elf: &Elf, address: u64) -> Result<(), ResolveError> {
        match code::boundary(elf, address) {
            Boundary::Yes | Boundary::Unknown => Ok(()),
            Boundary::Inside { start, function } => {
                Err(ResolveError::InsideInstruction { place: self.spec.to_string(), function, start })
            }
        }
    }

    fn find_address<T>(
        &self,
        address: u64,
        maps: &Maps,
        found: impl Fn(Site, Option<&Elf>, u64) -> T,
    ) -> Result<T, ResolveError> {
        let mapping = maps::find(maps, address).ok_or(ResolveError::NotMapped { address })?;
        if !mapping.is_executable() {
            let mapping = mapping.path.as_ref().map(|path| path.display().to_string());
            let mapping = mapping.unwrap_or_else(|| "anonymous memory".to_owned());
            return Err(ResolveError::NotExecutable { address, mapping });
        }
        let site = Site { address };
        let elf = self.objects.mapped(maps, mapping).ok();
        let in_file = |elf: &Elf| elf.address_of_offset(mapping.file_offset(address)?);
        // Code that no file describes, such as a JIT compiler's, may be probed; nobody can tell where its
        // instructions begin.
        let Some((elf, in_file)) = elf.and_then(|elf| in_file(&elf).map(|at| (elf, at))) else {
            return Ok(found(site, None, address));
        };
        self.check_boundary(&elf, in_file)?;
        Ok(found(site, Some(&elf), in_file))
    }
}

impl Locate for Resolver {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        self.find(maps, |site, _, _| site)
    }
}

impl Locate for ProbeSpec {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
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

/// The virtual address of the instruction `offset` bytes behind the start of the function that `symbol` is.
fn within(elf: &Elf, symbol: &Symbol, name: &str, offset: u64) -> Result<u64, ResolveError> {
    let size = match elf.function_at(symbol.address) {
        Some(function) if function.address == symbol.address => function.size,
        _ => symbol.size,
    };
    let address = symbol.address.checked_add(offset).filter(|_| offset < size.max(1));
    address.ok_or_else(|| ResolveError::BeyondFunction { symbol: name.to_owned(), offset, size })
}

/// The functions whose names match a pattern.
fn matching<'elf>(elf: &'elf Elf, pattern: &str) -> Result<Vec<&'elf Function>, ResolveError> {
    let matches = |function: &&Function| {
        !function.indirect && function.bare_names().any(|name| glob::matches(pattern, name))
    };
    let matching: Vec<&Function> = elf.functions().iter().filter(matches).collect();
    if matching.is_empty() {
        let (pattern, path) = (pattern.to_owned(), elf.path().to_owned());
        return Err(ResolveError::NoMatch { pattern, path });
    }
    Ok(matching)
}

/// Where the functions begin whose names match.
fn entries(elf: &Elf, name: &Name) -> Result<Vec<u64>, ResolveError> {
    Ok(matching(elf, &name.text)?.into_iter().map(|function| function.address).collect())
}

/// Where the instructions of the functions begin whose names match.
fn instructions(elf: &Elf, name: &Name) -> Result<Vec<u64>, ResolveError> {
    match elf.lookup(&SymbolName::parse(&name.text)) {
        Ok(symbol) => {
            let function = elf.functions().iter().find(|function| function.address == symbol.address);
            return Ok(function.map(|function| code::starts_of(elf, function).collect()).unwrap_or_default());
        }
        Err(LookupError::Unknown { .. }) if name.is_pattern() => {}
        Err(error) => return Err(error.into()),
    }
    let starts = matching(elf, &name.text)?.into_iter().flat_map(|function| code::starts_of(elf, function));
    let mut starts: Vec<u64> = starts.collect();
    // A function may lie within another.
    starts.sort_unstable();
    starts.dedup();
    Ok(starts)
}

/// Whether two mappings are of one object.
fn is_same(mapping: &Mapping, other: &Mapping) -> bool {
    mapping.is_same_file(other) || (mapping.is_vdso() && other.is_vdso())
}

/// A mapping of each file that is mapped with code in it.
fn files(maps: &Maps) -> Vec<&Mapping> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for mapping in maps.iter().filter(|mapping| mapping.is_executable()) {
        let has_file = mapping.file().is_some() || mapping.is_vdso();
        if has_file && seen.insert((mapping.dev, mapping.inode, mapping.path.as_deref())) {
            files.push(mapping);
        }
    }
    files
}

/// The one mapped object with code that goes by the name `object`: its path, its file name, its SONAME, or
/// the name of a program in PATH. Looked for now, or before in the same answer.
fn find_object<'a>(
    object: &str,
    maps: &'a Maps,
    objects: &Objects,
    base: Option<&Path>,
) -> Result<Option<&'a Mapping>, ResolveError> {
    let known = objects.seen(maps, |seen| seen.objects.get(object).copied());
    if let Some(mapping) = known.and_then(|start| maps::find(maps, start)) {
        return Ok(Some(mapping));
    }
    let found = look_for_object(object, maps, objects, base)?;
    if let Some(mapping) = found {
        objects.seen(maps, |seen| seen.objects.insert(object.to_owned(), mapping.start));
    }
    Ok(found)
}

fn look_for_object<'a>(
    object: &str,
    maps: &'a Maps,
    objects: &Objects,
    base: Option<&Path>,
) -> Result<Option<&'a Mapping>, ResolveError> {
    let files = files(maps);
    let one = |wanted: &dyn Fn(&Path, &Mapping) -> bool| {
        let named = |file: &&&Mapping| file.path.as_deref().is_some_and(|path| wanted(path, file));
        let found: Vec<&Mapping> = files.iter().filter(named).copied().collect();
        match found.as_slice() {
            [] => Ok(None),
            [file] => Ok(Some(*file)),
            files => Err(ResolveError::AmbiguousObject {
                object: object.to_owned(),
                paths: files.iter().filter_map(|file| file.path.clone()).collect(),
            }),
        }
    };
    if object.contains('/') {
        let path = Path::new(object);
        if let Some(file) = one(&|known, _| known == path)? {
            return Ok(Some(file));
        }
        if let Some(file) = one(&|known, _| maps::without_mark(known) == path)? {
            return Ok(Some(file));
        }
        let absolute = absolute(path, base).map_err(|source| named(path, source))?;
        // Where it sees no such file yet, it may be on its way to where it does.
        let seen = mapped::in_root(maps.pid(), &absolute).or_else(|_| mapped::path_only(&absolute));
        let seen = seen.map_err(|source| named(path, source))?;
        return one(&|known, mapping| is_found(&seen, known, mapping));
    }
    if let Some(file) = one(&|path, _| path.file_name().is_some_and(|name| name == object))? {
        return Ok(Some(file));
    }
    let unmarked = |path: &Path| maps::without_mark(path).file_name().is_some_and(|name| name == object);
    if let Some(file) = one(&|path, _| unmarked(path))? {
        return Ok(Some(file));
    }
    if let Some(file) = one(&|_, file| objects.soname(maps, file).as_deref() == Some(object))? {
        return Ok(Some(file));
    }
    match program(maps.pid(), object, base) {
        Some(seen) => one(&|known, mapping| is_found(&seen, known, mapping)),
        None => Ok(None),
    }
}

/// `path` from the root, where it starts at `base` or in the current directory.
fn absolute(path: &Path, base: Option<&Path>) -> io::Result<PathBuf> {
    match base {
        Some(base) => std::path::absolute(base.join(path)),
        None => std::path::absolute(path),
    }
}

/// Whether a mapping is of the file that was found by its path.
fn is_found(found: &File, path: &Path, mapping: &Mapping) -> bool {
    mapped::is_same_inode(mapping, found)
        || mapped::path_of(found).is_ok_and(|found| found == maps::without_mark(path))
}

/// The file that a shell would run for the command `name`, where process `pid` sees it.
fn program(pid: i32, name: &str, base: Option<&Path>) -> Option<File> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).find_map(|directory| {
        let directory = absolute(&directory, base).ok()?;
        let file = mapped::in_root(pid, &directory.join(name)).ok()?;
        file.metadata().is_ok_and(|metadata| metadata.is_file()).then_some(file)
    })
}
