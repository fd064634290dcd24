//! The files that processes have mapped, read once each, and found by what a user calls them.

use std::collections::{HashMap, HashSet};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::ResolveError;
use crate::symbols::elf::{self, Elf, ElfError};
use crate::symbols::similar;
use crate::target::lock;
use crate::target::mapped::{self, MappedError, View};
use crate::target::maps::{self, Mapping, Maps};
use crate::target::procfs;

/// Tags of dynamic sections: the entry that the dynamic linker writes to, for debuggers, and one with an address.
const DT_DEBUG: u64 = 21;
const DT_STRTAB: u64 = 5;

/// ELF files that have been read, so that each is read once.
#[derive(Debug, Default)]
pub struct Objects {
    files: Mutex<HashMap<(PathBuf, Identity), Arc<Elf>>>,
    sonames: Mutex<HashMap<(PathBuf, Identity), Option<String>>>,
    seen: Mutex<Seen>,
    debug_files: Mutex<Vec<PathBuf>>,
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
    /// Has the file at `path`, as this process sees it, looked at first where a debug file is looked for. It is taken
    /// where it fits by its build id or checksum; what has been read already stays as it is.
    pub fn add_debug_file(&self, path: PathBuf) {
        lock(&self.debug_files).push(path);
    }

    /// Those that have been added.
    pub(super) fn debug_files(&self) -> Vec<PathBuf> {
        lock(&self.debug_files).clone()
    }

    /// The file at `path` as this process sees it, read now or before.
    ///
    /// # Errors
    /// As [`Elf::open`].
    pub fn open(&self, path: &Path) -> Result<Arc<Elf>, ElfError> {
        match std::fs::metadata(path) {
            Ok(metadata) => {
                self.known(path, Identity::of(&metadata), || Elf::open_with(path, &self.debug_files()))
            }
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
        let read = || Elf::read(path, &file, View::of(maps.pid()), self.debug_files());
        Ok(self.known(path, identity, read)?)
    }

    /// The file that `mapping` of process `pid` maps: `file`, if that is given, or what the process shows, or what has
    /// that path and inode number now; `None` where there is none that can be read.
    pub(crate) fn of_mapping(&self, pid: i32, mapping: &Mapping, file: Option<&File>) -> Option<Arc<Elf>> {
        let path = mapping.path.as_deref()?;
        if mapping.is_vdso() {
            let own = Maps::read(std::process::id().cast_signed()).ok()?;
            return self.mapped(&own, own.iter().find(|own| own.is_vdso())?).ok();
        }
        let read = |file: &File| {
            let identity = Identity::of(&file.metadata().ok()?);
            self.known(path, identity, || Elf::read(path, file, View::of(pid), self.debug_files())).ok()
        };
        if let Some(file) = file {
            return read(file);
        }
        let shown = Maps::read(pid).ok().and_then(|maps| open_mapped(&maps, mapping).ok());
        if let Some((file, _)) = shown {
            return read(&file);
        }
        let file = elf::open_regular(path).ok()?;
        file.metadata().is_ok_and(|metadata| metadata.ino() == mapping.inode).then(|| read(&file))?
    }

    /// Whether the file that `mapping` maps has been written to since its process has loaded it, as `cp` does over one that
    /// is there. The linker has relocated the dynamic section of what it has loaded; after that, the process has what the
    /// file no longer has or, where the file was cut short in between, what no linker has seen. False where that cannot be
    /// told.
    #[must_use]
    pub fn is_overwritten(&self, maps: &Maps, mapping: &Mapping) -> bool {
        let look = || {
            let elf = self.mapped(maps, mapping).ok()?;
            let (start, entries) = elf.dynamic()?;
            let bias = mapping.start.wrapping_sub(elf.address_of_offset(mapping.offset)?);
            let mut bytes = vec![0; entries.len() * 16];
            let memory = File::open(format!("/proc/{}/mem", maps.pid())).ok()?;
            memory.read_exact_at(&mut bytes, start.wrapping_add(bias)).ok()?;
            let quadword = |bytes: &[u8]| bytes.first_chunk().copied().map(u64::from_le_bytes);
            let here =
                bytes.chunks_exact(16).map(|entry| (quadword(entry), entry.get(8..).and_then(quadword)));
            let mut relocated = bias == 0;
            for ((tag, value), &(wanted, original)) in here.zip(&entries) {
                let moved = Some(original.wrapping_add(bias));
                // What the linker writes there is its own.
                if tag != Some(wanted) || wanted != DT_DEBUG && value != Some(original) && value != moved {
                    return Some(true);
                }
                relocated |= wanted == DT_STRTAB && value == moved;
            }
            // There are linkers that relocate nothing there.
            let (file, _) = open_mapped(maps, mapping).ok()?;
            let metadata = file.metadata().ok()?;
            let changed = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
            // Starts of processes are known to 10 ms, and times of files to the system's tick.
            const UNSURE: i128 = 20_000_000;
            Some(!relocated && changed > procfs::started_at(maps.pid())? + UNSURE)
        };
        look().unwrap_or(false)
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

pub(super) fn named(path: &Path, source: io::Error) -> ElfError {
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

/// Whether two mappings are of one object.
pub(super) fn is_same(mapping: &Mapping, other: &Mapping) -> bool {
    mapping.is_same_file(other) || (mapping.is_vdso() && other.is_vdso())
}

/// A mapping of each file that is mapped with code in it.
pub(super) fn files(maps: &Maps) -> Vec<&Mapping> {
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
pub(crate) fn find_object<'a>(
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
        let absolute = absolute(path, base).map_err(|source| named(path, source))?;
        if let Some(file) = one(&|known, _| known == absolute)? {
            return Ok(Some(file));
        }
        // One that was removed meanwhile is found by its path alone.
        if let Some(file) = one(&|known, _| maps::without_mark(known) == absolute)? {
            return Ok(Some(file));
        }
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
pub(super) fn absolute(path: &Path, base: Option<&Path>) -> io::Result<PathBuf> {
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

/// The names of mapped files that look like `object`, or of all where these are a few.
pub(super) fn similar_objects(object: &str, maps: &Maps) -> Vec<String> {
    const FEW: usize = 4;
    let name = |path: &Path| {
        let name = maps::without_mark(path).file_name()?.to_str()?;
        Some(name.to_owned())
    };
    let names: Vec<String> =
        files(maps).into_iter().filter_map(|mapping| name(mapping.path.as_deref()?)).collect();
    let wanted = object.rsplit('/').next().unwrap_or_default();
    let near = similar::nearest(wanted, names.iter().map(String::as_str), FEW);
    match near.is_empty() && names.len() <= FEW {
        true => names,
        false => near,
    }
}
