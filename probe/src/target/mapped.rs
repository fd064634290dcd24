//! The files that a process has mapped, opened as that process sees them.
//!
//! A path in `/proc/PID/maps` is a way to a file in one mount namespace, from one root, at one time: opened by
//! another process it may lead to another file. So every file that is opened is held against the mapping
//! before it is believed.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{major, minor};

use crate::symbols::elf;
use crate::target::INT3;
use crate::target::maps::{self, Mapping, Maps, Permissions};

/// Why the file of a mapping cannot be read.
#[derive(Debug)]
pub(crate) enum MappedError {
    /// Another file has its path now, or none.
    Replaced,
    /// It is no regular file, or cannot be opened.
    Open(io::Error),
}

/// Opens the very file that `mapping`, one of `maps`, maps.
///
/// # Errors
/// [`MappedError`]; never is another file opened in its place.
pub(crate) fn open(maps: &Maps, mapping: &Mapping) -> Result<File, MappedError> {
    let pid = maps.pid();
    let Some(path) = mapping.file() else {
        return Err(MappedError::Open(io::ErrorKind::NotFound.into()));
    };
    // It needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE, and then serves for unlinked files, too.
    let link = PathBuf::from(format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start, mapping.end));
    let program = PathBuf::from(format!("/proc/{pid}/exe"));
    let is_program = std::fs::read_link(&program).is_ok_and(|program| program == path);
    let ways: [&dyn Fn() -> io::Result<File>; 4] = [
        &|| path_only(&link),
        &|| if is_program { path_only(&program) } else { Err(io::ErrorKind::NotFound.into()) },
        &|| in_root(pid, path),
        // The kernel prints the path from our own root where that reaches the mount, as after a chroot.
        &|| path_only(path),
    ];
    for way in ways {
        if let Ok(mut file) = way().and_then(|found| reopen(&found))
            && is_mapped(maps, mapping, &file)
            // Looking for a build id has moved it.
            && file.rewind().is_ok()
        {
            return Ok(file);
        }
    }
    match in_root(pid, path).and_then(|found| reopen(&found)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(MappedError::Open(error)),
        _ => Err(MappedError::Replaced),
    }
}

/// Finds `path` as process `pid` sees it, symbolic links included, without opening the file itself.
///
/// # Errors
/// There is none, or the process's root is not for us to see.
pub(crate) fn in_root(pid: i32, path: &Path) -> io::Result<File> {
    below(&path_only(&root_of(pid))?, path)
}

fn root_of(pid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/root"))
}

/// Finds `path` as one sees it whose root is `directory`.
fn below(directory: &File, path: &Path) -> io::Result<File> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(directory, name.as_c_str(), how) {
        Ok(file) => Ok(File::from(file)),
        // Not before Linux 5.6, nor in every sandbox, nor while somebody renames. A link may lead astray then,
        // which the caller finds out.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EAGAIN) => {
            path_only(&link_of(directory).join(path.strip_prefix("/").unwrap_or(path)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Opens what [`in_root`] has found, if it is a regular file: opening another may wait, or do something.
pub(crate) fn reopen(found: &File) -> io::Result<File> {
    if found.metadata()?.is_file() {
        File::open(link_of(found))
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// Files as one process sees them or, where it has none, as this one does.
#[derive(Debug)]
pub(crate) struct View {
    root: Option<File>,
}

impl View {
    /// Those that this process sees.
    pub(crate) fn own() -> View {
        View { root: None }
    }

    /// Those that process `pid` sees now, also when it has ended.
    pub(crate) fn of(pid: i32) -> View {
        View { root: path_only(&root_of(pid)).ok() }
    }

    /// Opens the regular file at `path`.
    pub(crate) fn open(&self, path: &Path) -> io::Result<File> {
        match &self.root {
            Some(root) => below(root, path).and_then(|found| reopen(&found)),
            None => Err(io::ErrorKind::NotFound.into()),
        }
        .or_else(|_| elf::open_regular(path))
    }
}

/// The path of what [`in_root`] has found as the kernel prints it for us, in `/proc/PID/maps` as well.
pub(crate) fn path_of(found: &File) -> io::Result<PathBuf> {
    std::fs::read_link(link_of(found))
}

fn link_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// Finds `path` as this process sees it, without opening the file itself.
pub(crate) fn path_only(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

/// The code that the kernel maps into each process, which is the same in all. Ours is without breakpoints.
pub(crate) fn vdso(mapping: &Mapping) -> io::Result<Vec<u8>> {
    let ours = maps::read(i32::try_from(std::process::id()).unwrap_or_default())?;
    let length = mapping.end - mapping.start;
    let same = |ours: &&Mapping| ours.is_vdso() && ours.end - ours.start == length;
    let ours = ours.iter().find(same).ok_or(io::ErrorKind::NotFound)?;
    let mut image = vec![0; usize::try_from(length).unwrap_or_default()];
    File::open("/proc/self/mem")?.read_exact_at(&mut image, ours.start)?;
    Ok(image)
}

/// Whether `mapping` maps that file.
pub(crate) fn is_mapped(maps: &Maps, mapping: &Mapping, file: &File) -> bool {
    is_same_inode(mapping, file) || agrees(maps, mapping, file).unwrap_or(false)
}

/// Whether device and inode number are the same. On btrfs and overlayfs the device that stat(2) tells is not
/// that of the maps, so that a difference says nothing.
pub(crate) fn is_same_inode(mapping: &Mapping, file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let device = (major(metadata.dev()), minor(metadata.dev()));
    device == (u64::from(mapping.dev.0), u64::from(mapping.dev.1)) && metadata.ino() == mapping.inode
}

/// Whether the contents of the file are those that are mapped, by the build id or, where it has none, by the
/// ELF header and the first page of its code; `None` where nothing can be compared.
fn agrees(maps: &Maps, mapping: &Mapping, file: &File) -> Option<bool> {
    const PAGE: u64 = 4096;
    let memory = File::open(format!("/proc/{}/mem", maps.pid())).ok()?;
    let length = file.metadata().ok()?.len();
    let mapped = || maps.iter().filter(|other| other.is_same_file(mapping));
    if let Some(note) = elf::build_id_segment(file) {
        let whole = |other: &&Mapping| other.file_offset_range().is_some_and(|range| covers(&range, &note));
        if let Some(same) = mapped().find(whole).and_then(|other| same(&memory, other, file, note)) {
            return Some(same);
        }
    }
    let unchanged = |other: &&Mapping| {
        !other.perms.contains(Permissions::WRITE) && (other.offset == 0 || other.is_executable())
    };
    let compared = mapped().filter(unchanged).filter_map(|other| {
        let range = other.file_offset_range()?;
        let end = range.end.min(range.start.saturating_add(PAGE)).min(length);
        same(&memory, other, file, range.start..end)
    });
    compared.reduce(|all, same| all && same)
}

fn covers(range: &Range<u64>, part: &Range<u64>) -> bool {
    range.start <= part.start && part.start < part.end && part.end <= range.end
}

/// Whether file and memory are the same in that range of the file, but for breakpoints. `None` if either
/// cannot be read.
fn same(memory: &File, mapping: &Mapping, file: &File, range: Range<u64>) -> Option<bool> {
    const MOST: u64 = 1 << 16;
    let length = range.end.checked_sub(range.start).filter(|length| (1..=MOST).contains(length))?;
    let mut wanted = vec![0; usize::try_from(length).ok()?];
    let mut found = wanted.clone();
    file.read_exact_at(&mut wanted, range.start).ok()?;
    memory.read_exact_at(&mut found, mapping.address_of(range.start)?).ok()?;
    let tolerated = |byte: u8| mapping.is_executable() && byte == INT3;
    Some(wanted.iter().zip(&found).all(|(wanted, &found)| *wanted == found || tolerated(found)))
}
