//! Memory that two processes share, one of which may write anything into it at any time: it is accessed as atomics
//! alone, and it cannot shrink. And the other system calls of this room that `nix` does not wrap.

#![allow(
    unsafe_code,
    reason = "a shared mapping, futexes, and raw system calls; each is safe to call from outside"
)]

use std::fs::File;
use std::io;
use std::mem;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// What keeps a file from changing its size, and itself from being taken away.
const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// Words in memory that another process maps, too.
#[derive(Debug)]
pub(crate) struct Shared {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: it is a mapping of atomics, which any thread may use, and which lives as long as the value.
unsafe impl Send for Shared {}
// SAFETY: as above; nothing but atomic operations is possible through a reference.
unsafe impl Sync for Shared {}

impl Shared {
    /// Memory of so many words, and the file by which another process maps it.
    pub(crate) fn create(words: usize) -> io::Result<(Shared, File)> {
        let file = memfd_create(c"stepless-ring", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
        let file = File::from(file);
        let bytes = words.checked_mul(mem::size_of::<AtomicU64>()).ok_or(io::ErrorKind::InvalidInput)?;
        file.set_len(bytes as u64)?;
        fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;
        Ok((Shared::open(&file)?, file))
    }

    /// Maps a file that [`Shared::create`] has made, perhaps in another process.
    ///
    /// # Errors
    /// Also where the file can shrink, after which any access would end this process.
    pub(crate) fn open(file: &File) -> io::Result<Shared> {
        let seals = SealFlag::from_bits_retain(fcntl(file, FcntlArg::F_GET_SEALS)?);
        if !seals.contains(SEALS) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the shared memory is not sealed"));
        }
        let bytes = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let length = NonZeroUsize::new(bytes).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: the kernel chooses the place of a new mapping, which nothing else refers to.
        let start = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, 0) }?;
        Ok(Shared { start: start.cast(), words: bytes / mem::size_of::<AtomicU64>() })
    }

    /// All of it.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, has that many words and lives as long as `self`; its file is sealed, so
        // that every page of it is there. Any bytes are a valid u64, and whoever else writes them, this process and
        // the compiler assume nothing of what an atomic holds.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `open` and is unmapped once; no reference outlives `self`.
        let unmapped = unsafe { munmap(self.start.cast(), self.words * mem::size_of::<AtomicU64>()) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Sleeps until [`wake`] is called for `word`, unless its low half is not `expected` any more, for that long at most;
/// it may also return for no reason.
pub(crate) fn wait(word: &AtomicU64, expected: u32, most: Duration) {
    let timeout = libc::timespec {
        tv_sec: most.as_secs().min(i64::MAX as u64) as libc::time_t,
        tv_nsec: most.subsec_nanos().into(),
    };
    let address: *const u32 = ptr::from_ref(word).cast();
    // SAFETY: the address is that of the word's low half (x86-64 is little-endian), which outlives the call, and so
    // does the timeout. The kernel only compares what is there.
    unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAIT, expected, &raw const timeout, 0, 0) };
}

/// Wakes who sleeps at `word`, in any process.
pub(crate) fn wake(word: &AtomicU64) {
    let address: *const u32 = ptr::from_ref(word).cast();
    // SAFETY: the address is that of the word's low half, which outlives the call; it serves as a name only.
    unsafe { libc::syscall(libc::SYS_futex, address, libc::FUTEX_WAKE, i32::MAX, 0, 0, 0) };
}

/// A descriptor that can be read from once process `pid` has ended.
///
/// # Errors
/// There is no such process, or the kernel is older than 5.3.
pub(crate) fn end_of(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let descriptor = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made it, for nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes every descriptor above the standard ones. For a process that has just been executed, and uses none yet.
pub(crate) fn close_inherited() {
    const FIRST: libc::c_uint = 3;
    // SAFETY: the caller, at its start, owns no descriptor above the standard ones.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, 0) };
    if closed != 0 {
        /// More than a process has before it raises its limit.
        const MOST: libc::c_int = 4096;
        for descriptor in 3..MOST {
            // SAFETY: as above.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// Blocks every signal in the calling thread and those that it makes, which is how a process handles all that it can
/// without doing anything: they wait.
pub(crate) fn block_signals() -> libc::sigset_t {
    let (mut all, mut old) = (empty(), empty());
    // SAFETY: the sets are valid for both calls.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut old);
    }
    old
}

/// Goes back to a mask that [`block_signals`] returned.
pub(crate) fn restore_signals(mask: &libc::sigset_t) {
    // SAFETY: the set is valid for the call, and the old one is not asked for.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
}

/// Lets `signal` through to the calling thread and those that it makes.
pub(crate) fn unblock(signal: i32) {
    let mut set = empty();
    // SAFETY: the set is valid for both calls; an unknown signal is an error without effect.
    unsafe {
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
    }
}

fn empty() -> libc::sigset_t {
    // SAFETY: all-zero bytes are a valid set, and an empty one on Linux.
    unsafe { mem::zeroed() }
}

/// A path that leads to the program of this process, for [`Client::start`](crate::warden::Client::start): that in
/// /proc, which always does, or, where that is missing, the one that was executed, if the kernel says so.
#[must_use]
pub fn own_program() -> Option<std::path::PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let program = std::path::PathBuf::from("/proc/self/exe");
    if program.symlink_metadata().is_ok() {
        return Some(program);
    }
    // SAFETY: the call takes a number only.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) } as *const libc::c_char;
    if address.is_null() {
        return None;
    }
    // SAFETY: the kernel has put a string there, which lives as long as the process.
    let path = unsafe { std::ffi::CStr::from_ptr(address) };
    Some(std::ffi::OsStr::from_bytes(path.to_bytes()).into())
}

/// A copy of one of the standard descriptors, above them all.
pub(crate) fn taken(standard: impl AsFd) -> io::Result<OwnedFd> {
    standard.as_fd().try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn both_see_what_one_writes_and_neither_can_take_it_away() {
        let (one, file) = Shared::create(16).unwrap();
        let other = Shared::open(&file).unwrap();
        one.words()[15].store(7, Ordering::SeqCst);
        assert_eq!(other.words()[15].load(Ordering::SeqCst), 7);
        assert!(file.set_len(8).is_err() && file.set_len(4096).is_err());
        let unsealed = File::from(memfd_create(c"unsealed", MFdFlags::MFD_CLOEXEC).unwrap());
        unsealed.set_len(4096).unwrap();
        assert!(Shared::open(&unsealed).is_err());
    }
}
