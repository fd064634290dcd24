//! The memory that this process shares with the oracle's child.

#![allow(unsafe_code, reason = "maps memory that another process writes while it has the batch")]

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::places::{IMAGE_LENGTH, PAGE, SLOTS};
use super::runner::control;

/// Where the memory's parts lie, in bytes from its start.
pub(super) const ALTERNATE_STACK: usize = 0x8000;
pub(super) const ALTERNATE_STACK_LENGTH: usize = 0x1_0000;
/// The contents of all regions, the batch's own.
pub(super) const IMAGE: usize = ALTERNATE_STACK + ALTERNATE_STACK_LENGTH;
/// The pages that end where an instruction does, one for each case.
pub(super) const EDGES: usize = IMAGE + IMAGE_LENGTH.next_multiple_of(PAGE as usize);
/// The cases' inputs, and after them their outputs.
pub(super) const INPUTS: usize = EDGES + SLOTS * PAGE as usize;
/// The length of one input and of one output: enough for the largest XSAVE image there is.
pub(super) const INPUT_STRIDE: usize = 512 + XSAVE_LENGTH;
pub(super) const OUTPUT_STRIDE: usize = 256 + XSAVE_LENGTH + 16 * super::runner::CHANGED_WORDS;
pub(super) const OUTPUTS: usize = INPUTS + SLOTS * INPUT_STRIDE;
/// The longest XSAVE image that fits, in bytes: that of Intel's servers with AMX.
pub(super) const XSAVE_LENGTH: usize = 11_008;
/// All of it.
pub(super) const LENGTH: usize = (OUTPUTS + SLOTS * OUTPUT_STRIDE).next_multiple_of(PAGE as usize);

/// A file without a name that is gone when nobody has it open.
pub(super) fn anonymous_file(name: &std::ffi::CStr) -> io::Result<File> {
    // SAFETY: `name` is a C string; the call touches nothing else of ours.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// The mapping in this process. Its contents may be looked at whenever the child does not have the batch,
/// which its owner sees to: between [`Shared::give`] and [`Progress::Done`], or the end of the child, it
/// leaves them alone.
pub(super) struct Shared {
    start: *mut u8,
}

// SAFETY: the mapping belongs to this value alone, not to a thread.
unsafe impl Send for Shared {}

/// How a batch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The child is done with it.
    Done,
    /// It is still at work; the number of cases finished so far.
    Working(u32),
}

impl Shared {
    /// Maps `file` after giving it its length.
    pub(super) fn new(file: &File) -> io::Result<Shared> {
        use std::os::fd::AsRawFd;
        file.set_len(LENGTH as u64)?;
        // SAFETY: a new mapping at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                LENGTH,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Shared { start: start.cast() })
    }

    /// Everything, to read.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as this value lives; the child does not have the batch (see the type).
        unsafe { std::slice::from_raw_parts(self.start, LENGTH) }
    }

    /// Everything, to write.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, LENGTH) }
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: inside the mapping and aligned, as it starts at a page; atomics may be shared with the child.
        unsafe { &*self.start.add(offset).cast::<AtomicU32>() }
    }

    /// Gives the batch to the child.
    pub(super) fn give(&mut self) {
        self.word(control::GO).store(1, Ordering::Release);
        // SAFETY: wakes waiters on a word of our mapping.
        unsafe { libc::syscall(libc::SYS_futex, self.word(control::GO).as_ptr(), libc::FUTEX_WAKE, 1) };
    }

    /// Says, before a signal does, that the case number `index` shall be interrupted, and no other.
    pub(super) fn mark_interrupted(&self, index: u32) {
        self.word(control::INTERRUPTED).store(index + 1, Ordering::Release);
    }

    /// Waits for `patience` at most until the batch is back.
    pub(super) fn wait(&mut self, patience: Duration) -> Progress {
        let time = libc::timespec {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(patience.subsec_nanos() as i32),
        };
        if self.word(control::GO).load(Ordering::Acquire) != 0 {
            let word = self.word(control::GO).as_ptr();
            // SAFETY: waits on a word of our mapping; `time` outlives the call.
            unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, 1, &raw const time) };
        }
        if self.word(control::GO).load(Ordering::Acquire) == 0 {
            Progress::Done
        } else {
            Progress::Working(self.word(control::INDEX).load(Ordering::Relaxed))
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: ours, and no borrow of it is left.
        unsafe { libc::munmap(self.start.cast(), LENGTH) };
    }
}
