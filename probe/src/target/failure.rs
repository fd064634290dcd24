//! What it means that a request to the kernel fails: ESRCH is the death of the thread, which the stop loop hears
//! of anyway; everything else is told, and nothing goes on as if it had succeeded.

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::target::{lock, lower};

/// A request that the kernel has refused, though the thread lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The thread, or any of the process.
    pub(crate) tid: i32,
    /// The system call or ptrace request.
    pub(crate) request: &'static str,
    pub(crate) error: Errno,
}

/// Failures that have not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Failure>);

impl Failures {
    /// What `result` holds. A failure is kept to be told, unless it is that the thread is gone.
    pub(crate) fn note<T>(&mut self, tid: i32, request: &'static str, result: nix::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(Errno::ESRCH) => None,
            Err(error) => {
                let failure = Failure { tid, request, error };
                // One that is tried again and again is told once.
                if self.0.last() != Some(&failure) {
                    self.0.push(failure);
                }
                None
            }
        }
    }

    /// Takes those that are to be told.
    pub(crate) fn take(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.0)
    }
}

/// The same, of what several threads work on.
#[derive(Debug, Default)]
pub(crate) struct SharedFailures {
    any: AtomicBool,
    failures: Mutex<Failures>,
}

impl SharedFailures {
    /// As [`Failures::note`].
    pub(crate) fn note<T>(&self, tid: i32, request: &'static str, result: nix::Result<T>) -> Option<T> {
        let found = lock(&self.failures).note(tid, request, result);
        if found.is_none() {
            self.any.store(true, Ordering::Release);
        }
        found
    }

    /// As [`Failures::take`].
    pub(crate) fn take(&self) -> Vec<Failure> {
        // Looked at after each stop.
        match lower(&self.any) {
            true => lock(&self.failures).take(),
            false => Vec::new(),
        }
    }
}

/// The error number of a failed operation on a file of `/proc`; ESRCH where the process is gone.
pub(crate) fn errno(error: &io::Error) -> Errno {
    match error.raw_os_error().map(Errno::from_raw) {
        // The files of a process go with it.
        Some(Errno::ENOENT) if Path::new("/proc/self").exists() => Errno::ESRCH,
        Some(errno) => errno,
        // What is read or written of memory that is gone has no bytes.
        None if matches!(error.kind(), io::ErrorKind::WriteZero | io::ErrorKind::UnexpectedEof) => {
            Errno::ESRCH
        }
        None => Errno::EIO,
    }
}

/// For a request that cannot fail in any other way than that the thread is gone.
pub(crate) fn ignore_death(result: nix::Result<()>) {
    match result {
        Ok(()) | Err(_) => {}
    }
}
