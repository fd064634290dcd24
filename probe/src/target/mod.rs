//! Processes as the kernel shows them: what is mapped, which files those are, and the bytes that breakpoints displace.

pub(crate) mod failure;
pub(crate) mod keys;
pub(crate) mod launch;
pub(crate) mod linker;
pub(crate) mod mapped;
pub mod maps;
pub(crate) mod pages;
pub(crate) mod procfs;
pub(crate) mod sharing;
pub(crate) mod stack;
pub(crate) mod state;
pub(crate) mod system;
pub(crate) mod untold;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks what stays right whoever panics with it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a flag is up, which is down from now on. While it is down, as it mostly is, that costs no more than a look.
pub(crate) fn lower(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst) && flag.swap(false, Ordering::SeqCst)
}

/// The INT3 instruction, which is a breakpoint.
pub(crate) const INT3: u8 = 0xcc;
