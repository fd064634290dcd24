//! The kernel's uprobes, by way of perf_event_open(2), which leaves nothing behind.

#![allow(unsafe_code, reason = "libc has no perf_event_open")]

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::FromRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::Failure;

/// The start of `struct perf_event_attr` (linux/perf_event.h), as far as its second version went.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    /// The path, as an address.
    uprobe_path: u64,
    /// In the file, in bytes.
    probe_offset: u64,
}

/// Whose hits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    /// The thread's.
    Thread(i32),
    /// Everybody's on the processor.
    Processor(i32),
}

/// A uprobe, and how often it was hit.
pub(crate) struct Counter(File);

impl Counter {
    /// Puts one at this offset of the file. It is not inherited: the kernel looks for the path again in the memory of
    /// whoever makes a thread, where it is not, and so no thread can be made.
    pub(crate) fn open(path: &Path, offset: u64, of: Of) -> Result<Counter, Failure> {
        const ANY: i32 = -1;
        const PERF_FLAG_FD_CLOEXEC: u64 = 1 << 3;
        let (pid, processor) = match of {
            Of::Thread(tid) => (tid, ANY),
            Of::Processor(number) => (ANY, number),
        };
        let path = CString::new(path.as_os_str().as_bytes())?;
        let kind = std::fs::read_to_string("/sys/bus/event_source/devices/uprobe/type")
            .map_err(|error| format!("the kernel has no uprobes for perf: {error}"))?;
        let attributes = Attributes {
            kind: kind.trim().parse()?,
            size: u32::try_from(size_of::<Attributes>())?,
            uprobe_path: path.as_ptr() as u64,
            probe_offset: offset,
            ..Attributes::default()
        };
        // SAFETY: the kernel reads `size` bytes of `attributes`, and the path, which ends with a zero byte;
        // both live until the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_perf_event_open,
                &raw const attributes,
                pid,
                processor,
                ANY,
                PERF_FLAG_FD_CLOEXEC,
            )
        };
        let fd = i32::try_from(result)?;
        if fd < 0 {
            return Err(format!("perf_event_open: {}", io::Error::last_os_error()).into());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Counter(unsafe { File::from_raw_fd(fd) }))
    }

    /// The hits so far.
    pub(crate) fn count(&self) -> io::Result<u64> {
        let mut count = [0; 8];
        (&self.0).read_exact(&mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}
