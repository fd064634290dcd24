//! Which memory other processes may map, too.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::target::maps::{self, Mapping, Permissions};
use crate::target::system;

/// Tells shared mappings from private ones.
///
/// The kernel is asked at each access (`PROCMAP_QUERY`, since Linux 6.11). Older kernels have no better answer than
/// the whole of `/proc/PID/maps`, which is read again where it says nothing of an address, and else so that reading
/// takes a sixteenth of the time at most: a shared mapping in the place of a private one remains hidden until then.
#[derive(Debug)]
pub(crate) struct Sharing {
    /// `/proc/PID/maps`, where it can be asked.
    file: Option<File>,
    maps: Vec<Mapping>,
    /// When `maps` are to be read again.
    due: Instant,
}

impl Sharing {
    /// Of so much time reading takes one part.
    const SHARE: u32 = 16;

    /// Of the address space of thread `tid`.
    pub(crate) fn open(tid: i32) -> Sharing {
        let file = File::open(format!("/proc/{tid}/maps")).ok();
        Sharing { file, maps: Vec::new(), due: Instant::now() }
    }

    /// Has what is known read again.
    pub(crate) fn forget(&mut self) {
        self.maps.clear();
    }

    /// Whether one of the `size` bytes at `address` is in a shared mapping. `tid` is a thread that runs in the
    /// address space.
    pub(crate) fn is_shared(&mut self, tid: i32, address: u64, size: usize) -> bool {
        const PAGE: u64 = 4096;
        let last = address.saturating_add((size as u64).saturating_sub(1));
        self.is_shared_at(tid, address) || last / PAGE != address / PAGE && self.is_shared_at(tid, last)
    }

    /// All that is mapped now, also where `/proc/PID/maps` cannot be opened any more.
    ///
    /// # Errors
    /// It could not be when this was made, or cannot be read.
    pub(crate) fn mappings(&self) -> io::Result<Vec<Mapping>> {
        let mut file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut text = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut text)?;
        maps::parse(&text)
    }

    /// What is mapped at `address` now, where the kernel can be asked without a path.
    pub(crate) fn mapping(&mut self, tid: i32, address: u64) -> Option<Mapping> {
        if let Some(file) = &self.file {
            match system::mapping_at(file, address) {
                Ok(mapping) => return Some(mapping),
                Err(Errno::ENOENT) => return None,
                Err(_) => self.file = None,
            }
        }
        // It fails where the thread has just been killed.
        self.maps = maps::read(tid).unwrap_or_default();
        maps::find(&self.maps, address).cloned()
    }

    fn is_shared_at(&mut self, tid: i32, address: u64) -> bool {
        if let Some(file) = &self.file {
            match system::is_shared_mapping(file, address) {
                Ok(shared) => return shared,
                // Nothing is mapped there.
                Err(Errno::ENOENT) => return false,
                Err(_) => self.file = None,
            }
        }
        let found = maps::find(&self.maps, address).map(|mapping| mapping.perms);
        let perms = match found {
            Some(perms) if Instant::now() < self.due => Some(perms),
            _ => {
                let start = Instant::now();
                // It fails where the thread has just been killed.
                self.maps = maps::read(tid).unwrap_or_default();
                self.due = start + start.elapsed().max(Duration::from_micros(1)) * Self::SHARE;
                maps::find(&self.maps, address).map(|mapping| mapping.perms)
            }
        };
        perms.is_some_and(|perms| perms.contains(Permissions::SHARED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> i32 {
        i32::try_from(std::process::id()).unwrap()
    }

    fn mapping(start: u64, shared: Permissions) -> Mapping {
        let perms = Permissions::READ | Permissions::WRITE | shared;
        Mapping { start, end: start + 0x1000, perms, offset: 0, dev: (0, 0), inode: 0, path: None }
    }

    #[test]
    fn where_the_kernel_cannot_be_asked_its_file_says_it() {
        let maps = vec![mapping(0x1000, Permissions::SHARED), mapping(0x2000, Permissions::empty())];
        let due = Instant::now() + Duration::from_secs(3600);
        let mut sharing = Sharing { file: None, maps, due };
        assert!(sharing.is_shared(own(), 0x1ff8, 8));
        // In both.
        assert!(sharing.is_shared(own(), 0x1ffc, 8));
        assert!(!sharing.is_shared(own(), 0x2000, 8));
        // What is not known is read, and so is what has been forgotten.
        let local = 5u64;
        assert!(!sharing.is_shared(own(), &raw const local as u64, 8));
        assert!(maps::find(&sharing.maps, &raw const local as u64).is_some());
        sharing.forget();
        assert!(!sharing.is_shared(own(), 0x1ff8, 8));
    }

    #[test]
    fn the_kernel_says_the_same_as_its_file() {
        let mut asked = Sharing::open(own());
        let maps = maps::read(own()).unwrap();
        for mapping in &maps {
            // The vsyscall page is in the file alone.
            let shared = mapping.perms.contains(Permissions::SHARED);
            assert_eq!(asked.is_shared(own(), mapping.start, 1), shared, "{mapping:?}");
        }
        assert!(!asked.is_shared(own(), 8, 8));
    }
}
