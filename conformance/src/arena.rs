//! Memory apart from the program's, for the part of this library that is loaded into programs that probe themselves.
//!
//! Their heap is then what it is without probes: nothing of ours lies in between, and how far it reaches does not depend on
//! what we have allocated, which differs from run to run as tables of the standard library have random seeds.

#![allow(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// How much there is: address space alone, until it is used.
const LENGTH: usize = 16 << 30;

/// The system's memory or, from [`reserve`] on, that of a mapping of its own, where only what was allocated last is ever used
/// again: programs do not run for long.
struct Arena {
    start: AtomicPtr<u8>,
    used: AtomicUsize,
}

#[global_allocator]
static ARENA: Arena = Arena { start: AtomicPtr::new(ptr::null_mut()), used: AtomicUsize::new(0) };

/// Has all memory from now on come from a mapping that is made here. Says whether there is one.
pub(crate) fn reserve() -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: it is a new mapping.
    let start = unsafe { libc::mmap(ptr::null_mut(), LENGTH, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return false;
    }
    ARENA.start.store(start.cast(), Ordering::Release);
    true
}

impl Arena {
    /// Where a block is in the mapping, if it is there.
    fn offset(&self, block: *mut u8) -> Option<usize> {
        let start = self.start.load(Ordering::Acquire);
        let offset = block.addr().checked_sub(start.addr())?;
        (!start.is_null() && offset < LENGTH).then_some(offset)
    }
}

// SAFETY: blocks of the mapping are apart, as each is behind all those before, and live as long as the process; all others
// are the system's.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.start.load(Ordering::Acquire);
        if start.is_null() {
            // SAFETY: the caller's layout.
            return unsafe { System.alloc(layout) };
        }
        let mut offset = 0;
        let take = |used: usize| {
            offset = used.checked_next_multiple_of(layout.align())?;
            offset.checked_add(layout.size()).filter(|&end| end <= LENGTH)
        };
        // The mapping is aligned to a page, and no layout is to more.
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            // SAFETY: it lies within the mapping.
            Ok(_) if layout.align() <= 4096 => unsafe { start.add(offset) },
            _ => ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match self.offset(block) {
            Some(offset) => {
                let end = offset + layout.size();
                // Others may have been allocated behind it.
                let _ = self.used.compare_exchange(end, offset, Ordering::Relaxed, Ordering::Relaxed);
            }
            // SAFETY: it is the system's, with the caller's layout.
            None => unsafe { System.dealloc(block, layout) },
        }
    }
}
