//! Register files for threads that serve themselves. Making one anew at each hit would take longer than most handlers do.

#![allow(unsafe_code, reason = "a register file is lent to who has taken it, and to nobody else")]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use emu::Registers;

use crate::executor::own::{empty, machine};

/// How many threads have one without looking for it.
const FILES: usize = 64;

static ALL: OnceLock<Vec<Place>> = OnceLock::new();
/// How many have been given to threads.
static GIVEN: AtomicU32 = AtomicU32::new(0);

struct Place {
    taken: AtomicBool,
    file: UnsafeCell<Registers>,
}

// SAFETY: the file is accessed only by who has set `taken`.
unsafe impl Sync for Place {}

/// A register file of nobody else, until it is dropped. It holds what it held before.
pub(crate) struct Taken(&'static Place);

impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taken").finish()
    }
}

impl Deref for Taken {
    type Target = Registers;

    fn deref(&self) -> &Registers {
        // SAFETY: this is who has taken it, and there is one such value.
        unsafe { &*self.0.file.get() }
    }
}

impl DerefMut for Taken {
    fn deref_mut(&mut self) -> &mut Registers {
        // SAFETY: as in `deref`, and it is borrowed exclusively.
        unsafe { &mut *self.0.file.get() }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.taken.store(false, Ordering::Release);
    }
}

/// Makes them. Not to be called by a handler of a signal.
pub(crate) fn make() {
    ALL.get_or_init(|| {
        let place = || Place { taken: AtomicBool::new(false), file: UnsafeCell::new(empty()) };
        std::iter::repeat_with(place).take(FILES).collect()
    });
}

/// Takes one, if there is one at hand.
#[inline]
pub(crate) fn take() -> Option<Taken> {
    let files = ALL.get()?;
    let mine = machine::file();
    take_number(files, mine).or_else(|| {
        // Another thread has it, or a handler further out, or one that was left by other ways than back.
        let next = GIVEN.fetch_add(1, Ordering::Relaxed) % FILES as u32 + 1;
        machine::set_file(next);
        take_number(files, next)
    })
}

#[inline]
fn take_number(files: &'static [Place], number: u32) -> Option<Taken> {
    let place = files.get((number as usize).checked_sub(1)?)?;
    let free = place.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
    free.is_ok().then_some(Taken(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_has_the_same() {
        make();
        let mut all: Vec<Taken> = std::iter::from_fn(take).take(FILES / 2).collect();
        for (file, number) in all.iter_mut().zip(0..) {
            file.rip = number;
        }
        assert!(all.iter().zip(0..).all(|(file, number)| file.rip == number));
        assert!(all.len() > 1);
    }
}
