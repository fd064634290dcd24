//! `/proc/PID/maps`: what lies where in a process's address space (proc_pid_maps(5)).

use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::{Deref, Range};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;

bitflags! {
    /// What a mapping permits.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Permissions: u8 {
        /// `r`
        const READ = 1 << 0;
        /// `w`
        const WRITE = 1 << 1;
        /// `x`
        const EXECUTE = 1 << 2;
        /// `s` instead of `p`: stores reach the file and everyone who maps it.
        const SHARED = 1 << 3;
    }
}

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The first address.
    pub start: u64,
    /// The address after the last.
    pub end: u64,
    /// What the mapping permits.
    pub perms: Permissions,
    /// The file offset of `start`, in bytes.
    pub offset: u64,
    /// The device of the file, major and minor; both zero where there is no file.
    pub dev: (u32, u32),
    /// The inode number of the file; zero where there is no file.
    pub inode: u64,
    /// The file's path, or a name in brackets such as `[stack]`, as the kernel prints it: a file that has
    /// been unlinked ends in ` (deleted)`.
    pub path: Option<PathBuf>,
}

impl Mapping {
    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: u64) -> bool {
        (self.start..self.end).contains(&address)
    }

    /// Whether it is backed by a file that has a path.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.path.as_deref().filter(|path| self.inode != 0 && path.is_absolute())
    }

    /// Whether it maps the same file as `other`, a mapping of the same process. On btrfs and overlayfs two files
    /// may have the same numbers, so the path counts. Memory without a file is the same as nothing.
    #[must_use]
    pub fn is_same_file(&self, other: &Mapping) -> bool {
        self.inode != 0 && (self.dev, self.inode, &self.path) == (other.dev, other.inode, &other.path)
    }

    /// Whether it is the code that the kernel provides (vdso(7)).
    #[must_use]
    pub fn is_vdso(&self) -> bool {
        self.inode == 0 && self.path.as_deref() == Some(Path::new("[vdso]"))
    }

    /// What it maps of its file, in file offsets; `None` where there is no file.
    #[must_use]
    pub fn file_offset_range(&self) -> Option<Range<u64>> {
        let length = self.end.saturating_sub(self.start);
        (self.inode != 0).then(|| self.offset..self.offset.saturating_add(length))
    }

    /// Whether code in it can run.
    #[must_use]
    pub fn is_executable(&self) -> bool {
        self.perms.contains(Permissions::EXECUTE)
    }

    /// The file offset of `address`, if it lies in this mapping.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> Option<u64> {
        self.contains(address).then(|| (address - self.start).saturating_add(self.offset))
    }

    /// The address of the byte at file offset `offset`, if it lies in this mapping.
    #[must_use]
    pub fn address_of(&self, offset: u64) -> Option<u64> {
        let address = self.start.checked_add(offset.checked_sub(self.offset)?)?;
        self.contains(address).then_some(address)
    }
}

/// All mappings of one process, in address order. What a path in them means depends on the process.
#[derive(Clone, Debug)]
pub struct Maps {
    pid: i32,
    mappings: Vec<Mapping>,
    /// The same for copies of the same answer, and for no other.
    number: u64,
}

impl Maps {
    /// What process `pid`, or the process of that thread, has mapped.
    ///
    /// # Errors
    /// As [`read`].
    pub fn read(pid: i32) -> io::Result<Maps> {
        read(pid).map(|mappings| Maps::new(pid, mappings))
    }

    /// Takes `mappings`, in address order, for those of process `pid`.
    #[must_use]
    pub fn new(pid: i32, mappings: Vec<Mapping>) -> Maps {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Maps { pid, mappings, number: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// A number that no other answer has, copies of this one excepted.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The process, or one of its threads.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Deref for Maps {
    type Target = [Mapping];

    fn deref(&self) -> &[Mapping] {
        &self.mappings
    }
}

/// Reads the mappings of process `pid`, in address order.
///
/// # Errors
/// Those of reading the file, and [`io::ErrorKind::InvalidData`] with the line that is not understood.
pub fn read(pid: i32) -> io::Result<Vec<Mapping>> {
    parse(&std::fs::read(format!("/proc/{pid}/maps"))?)
}

/// Parses the contents of a `maps` file.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with the line that is not understood.
pub fn parse(text: &[u8]) -> io::Result<Vec<Mapping>> {
    text.split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let line = String::from_utf8_lossy(line).into_owned();
                io::Error::new(io::ErrorKind::InvalidData, format!("not a line of a maps file: {line}"))
            })
        })
        .collect()
}

/// The mapping that `address` lies in; `maps` are in address order.
#[must_use]
pub fn find(maps: &[Mapping], address: u64) -> Option<&Mapping> {
    let index = maps.partition_point(|mapping| mapping.end <= address);
    maps.get(index).filter(|mapping| mapping.contains(address))
}

/// The mappings of process `pid`, in address order, each with its protection key (pkeys(7)): zero where it has no
/// other.
pub(crate) fn read_keys(pid: i32) -> io::Result<Vec<(Mapping, u32)>> {
    Ok(parse_keys(&std::fs::read(format!("/proc/{pid}/smaps"))?))
}

/// Parses the contents of an `smaps` file: lines of a `maps` file, each followed by fields (proc_pid_smaps(5)).
fn parse_keys(text: &[u8]) -> Vec<(Mapping, u32)> {
    let mut mappings: Vec<(Mapping, u32)> = Vec::new();
    for line in text.split(|&byte| byte == b'\n') {
        if let Some(value) = line.strip_prefix(b"ProtectionKey:") {
            let key = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
            if let (Some((_, last)), Some(key)) = (mappings.last_mut(), key) {
                *last = key;
            }
        } else if let Some(mapping) = parse_line(line) {
            mappings.push((mapping, 0));
        }
    }
    mappings
}

fn parse_line(line: &[u8]) -> Option<Mapping> {
    let mut rest = line;
    let (start, end) = split_at(field(&mut rest)?, b'-')?;
    let perms = permissions(field(&mut rest)?)?;
    let offset = hex(field(&mut rest)?)?;
    let (major, minor) = split_at(field(&mut rest)?, b':')?;
    let inode = std::str::from_utf8(field(&mut rest)?).ok()?.parse().ok()?;
    let path = rest.trim_ascii_start();
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        perms,
        offset,
        dev: (u32::try_from(hex(major)?).ok()?, u32::try_from(hex(minor)?).ok()?),
        inode,
        path: (!path.is_empty()).then(|| PathBuf::from(unescape(path))),
    })
}

/// Takes the next field, which ends with a space or the line.
fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let text = *rest;
    let length = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    let (field, tail) = text.split_at_checked(length)?;
    *rest = tail.get(1..).unwrap_or_default();
    (!field.is_empty()).then_some(field)
}

fn split_at(field: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let mut parts = field.splitn(2, |&byte| byte == separator);
    Some((parts.next()?, parts.next()?))
}

fn hex(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn permissions(letters: &[u8]) -> Option<Permissions> {
    let &[read, write, execute, shared] = letters else { return None };
    let mut perms = Permissions::empty();
    perms.set(Permissions::READ, read == b'r');
    perms.set(Permissions::WRITE, write == b'w');
    perms.set(Permissions::EXECUTE, execute == b'x');
    perms.set(Permissions::SHARED, shared == b's');
    Some(perms)
}

/// The kernel prints a newline in a path as `\012`, and nothing else specially.
fn unescape(path: &[u8]) -> OsString {
    const NEWLINE: &[u8] = b"\\012";
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(NEWLINE) {
            plain.push(b'\n');
            rest = tail;
        } else {
            plain.push(first);
            rest = tail;
        }
    }
    OsString::from_vec(plain)
}

/// The kernel's mark at the end of the path of an unlinked file.
const DELETED: &[u8] = b" (deleted)";

/// Whether the kernel marks the path as that of an unlinked file.
#[must_use]
pub fn is_deleted(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(DELETED)
}

/// The path without the kernel's mark of an unlinked file: the name that the file had.
#[must_use]
pub fn without_mark(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    Path::new(OsStr::from_bytes(bytes.strip_suffix(DELETED).unwrap_or(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read() {
        let text = b"7f1c8e200000-7f1c8e228000 r-xp 00028000 fe:01 1835 /usr/lib/a b\\012c.so (deleted)\n\
            7ffd0000-7ffd1000 rw-s 00000000 00:00 0 \n";
        let maps = parse(text).unwrap();
        assert_eq!(maps.len(), 2);
        assert_eq!(maps[0].start, 0x7f1c_8e20_0000);
        assert_eq!(maps[0].end, 0x7f1c_8e22_8000);
        assert_eq!(maps[0].perms, Permissions::READ | Permissions::EXECUTE);
        assert_eq!(maps[0].offset, 0x28000);
        assert_eq!(maps[0].dev, (0xfe, 1));
        assert_eq!(maps[0].inode, 1835);
        assert_eq!(maps[0].file(), Some(Path::new("/usr/lib/a b\nc.so (deleted)")));
        assert!(is_deleted(maps[0].file().unwrap()));
        assert_eq!(maps[1].perms, Permissions::READ | Permissions::WRITE | Permissions::SHARED);
        assert_eq!(maps[1].path, None);
    }

    #[test]
    fn protection_keys_are_those_of_the_mapping_before_them() {
        let text = b"1000-3000 r-xp 00000000 fe:01 18 /usr/bin/a\nSize:                  8 kB\n\
            ProtectionKey:         0\nVmFlags: rd ex mr mw me\n\
            7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \nSize:  4 kB\nProtectionKey:        15\n\
            7f0000001000-7f0000002000 rw-p 00000000 00:00 0 \nSize:  4 kB\n";
        let found: Vec<_> = parse_keys(text).iter().map(|(mapping, key)| (mapping.start, *key)).collect();
        assert_eq!(found, [(0x1000, 0), (0x7f00_0000_0000, 15), (0x7f00_0000_1000, 0)]);
    }

    #[test]
    fn what_is_no_maps_line_is_an_error_that_quotes_it() {
        for line in ["x", "1-2", "1-2 r-xp", "1-2 r-x 0 0:0 0", "1-2 r-xp 0 0:0 z", "12 r-xp 0 0:0 0"] {
            let error = parse(line.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().ends_with(line), "{error}");
        }
    }

    #[test]
    fn our_own_code_is_found_by_address_and_by_offset() {
        let maps = read(i32::try_from(std::process::id()).unwrap()).unwrap();
        let address = parse_line as *const () as u64;
        let mapping = find(&maps, address).unwrap();
        assert!(mapping.is_executable());
        let offset = mapping.file_offset(address).unwrap();
        assert_eq!(mapping.address_of(offset), Some(address));
        assert_eq!(find(&maps, 0), None);
        assert_eq!(find(&maps, u64::MAX), None);
    }
}
