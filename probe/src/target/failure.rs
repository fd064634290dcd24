//! What it means that a request to the kernel fails: ESRCH is the death of the thread, which the stop loop hears
//! of anyway; everything else is told, and nothing goes on as if it had succeeded.

use std::io;
use std::path::Path;

use nix::errno::Errno;

use crate::target::untold::Untold;

/// A request that the kernel has refused, though the thread lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The thread, or any of the process.
    pub(crate) tid: i32,
    /// The system call or ptrace request.
    pub(crate) request: &'static str,
    pub(crate) error: Errno,
}

impl Failure {
    /// Adds it to those that are to be told; one that is tried again and again is told once.
    fn add_to(self, failures: &mut Vec<Failure>) {
        if failures.last() != Some(&self) {
            failures.push(self);
        }
    }
}

/// What `result` holds. `tell` gets a failure, unless it is that the thread is gone.
fn unless_refused<T>(result: nix::Result<T>, tell: impl FnOnce(Errno)) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(Errno::ESRCH) => None,
        Err(error) => {
            tell(error);
            None
        }
    }
}

/// Failures that have not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Failures(Vec<Failure>);

impl Failures {
    /// What `result` holds. A failure is kept to be told, unless it is that the thread is gone.
    pub(crate) fn note<T>(&mut self, tid: i32, request: &'static str, result: nix::Result<T>) -> Option<T> {
        unless_refused(result, |error| Failure { tid, request, error }.add_to(&mut self.0))
    }

    /// Takes those that are to be told, if there are any.
    pub(crate) fn take(&mut self) -> Option<Vec<Failure>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

/// The same, of what several threads work on.
#[derive(Debug, Default)]
pub(crate) struct SharedFailures(Untold<Failure>);

impl SharedFailures {
    /// As [`Failures::note`].
    pub(crate) fn note<T>(&self, tid: i32, request: &'static str, result: nix::Result<T>) -> Option<T> {
        unless_refused(result, |error| {
            self.0.change(|failures| Failure { tid, request, error }.add_to(failures));
        })
    }

    /// As [`Failures::take`].
    pub(crate) fn take(&self) -> Option<Vec<Failure>> {
        self.0.take()
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
