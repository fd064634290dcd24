//! Register files for threads that serve themselves. Making one anew at each hit would take longer than most handlers do.

#![allow(unsafe_code, reason = "a register file is lent to who has taken it, and to nobody else")]

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use emu::Registers;

use crate::executor::own::{empty, machine};

/// How many threads have one of their own, for good: taking it needs no locked instruction, which would wait until all that
/// a stub has saved is in the cache.
const OWNED: usize = 64;
/// How many there are for all others.
const SHARED: usize = 64;

static ALL: OnceLock<Vec<Place>> = OnceLock::new();
/// How many of the latter have been given to threads.
static GIVEN: AtomicU32 = AtomicU32::new(0);

struct Place {
    /// The thread that it belongs to; 0 if none.
    owner: AtomicU64,
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

/// From where a thread has its register file while it serves itself: one that is at hand, or else one that is made here, as
/// nothing may be allocated where a signal is handled.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    taken: Option<Taken>,
    made: Option<Registers>,
}

impl Lender {
    #[inline]
    pub(crate) fn lend(&mut self) -> &mut Registers {
        match take() {
            Some(file) => self.taken.insert(file),
            None => self.made.insert(empty()),
        }
    }
}

/// Makes them. Not to be called by a handler of a signal.
pub(crate) fn make() {
    ALL.get_or_init(|| {
        let place = || Place {
            owner: AtomicU64::new(0),
            taken: AtomicBool::new(false),
            file: UnsafeCell::new(empty()),
        };
        std::iter::repeat_with(place).take(OWNED + SHARED).collect()
    });
}

/// Takes one, if there is one at hand.
#[inline]
pub(crate) fn take() -> Option<Taken> {
    let files = ALL.get()?;
    let (me, last) = (machine::number(), machine::file());
    numbered(files, last).and_then(|place| take_own(place, me)).or_else(|| take_another(files, me, last))
}

/// Another than that of the owner's last hit: this is its first one, or a handler further out has it, or one that was left
/// by other ways than back; or the thread has none.
#[inline(never)]
fn take_another(files: &'static [Place], me: u64, last: u32) -> Option<Taken> {
    if last as usize <= OWNED {
        for (place, number) in files.iter().take(OWNED).zip(1..) {
            let free = place.owner.load(Ordering::Relaxed) == 0;
            if free {
                let _ = place.owner.compare_exchange(0, me, Ordering::Relaxed, Ordering::Relaxed);
            }
            if let Some(taken) = take_own(place, me) {
                machine::set_file(number);
                return Some(taken);
            }
        }
    } else if let Some(taken) = numbered(files, last).and_then(take_shared) {
        return Some(taken);
    }
    let next = GIVEN.fetch_add(1, Ordering::Relaxed) % SHARED as u32 + OWNED as u32 + 1;
    let taken = numbered(files, next).and_then(take_shared)?;
    machine::set_file(next);
    Some(taken)
}

#[inline]
fn numbered(files: &'static [Place], number: u32) -> Option<&'static Place> {
    files.get((number as usize).checked_sub(1)?)
}

/// What the thread itself interrupts, by a signal, goes on when that has given it back.
#[inline]
fn take_own(place: &'static Place, me: u64) -> Option<Taken> {
    let free = place.owner.load(Ordering::Relaxed) == me && !place.taken.load(Ordering::Relaxed);
    free.then(|| {
        place.taken.store(true, Ordering::Relaxed);
        Taken(place)
    })
}

/// One that belongs to nobody.
fn take_shared(place: &'static Place) -> Option<Taken> {
    let free = place.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
    free.is_ok().then_some(Taken(place))
}

#[cfg(test)]
mod tests {
    use std::ptr;
    use std::sync::{Barrier, Mutex};

    use super::*;
    use crate::target::lock;

    /// Held by a test that takes many.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn nobody_has_the_same() {
        let _alone = lock(&ALONE);
        make();
        let mut all: Vec<Taken> = std::iter::from_fn(take).take(OWNED + SHARED / 2).collect();
        for (file, number) in all.iter_mut().zip(0..) {
            file.rip = number;
        }
        assert!(all.iter().zip(0..).all(|(file, number)| file.rip == number));
        assert_eq!(all.len(), OWNED + SHARED / 2);
        // Who has none of its own gets others, and whoever has one, the same again.
        let other =
            std::thread::spawn(|| take().map(|taken| ptr::from_ref(&*taken) as usize)).join().unwrap();
        assert!(other.is_some_and(|other| all.iter().all(|file| ptr::from_ref(&**file) as usize != other)));
        let last = all.pop().map(|file| ptr::from_ref(&*file) as usize);
        assert_eq!(take().map(|file| ptr::from_ref(&*file) as usize), last);
    }

    #[test]
    fn several_threads_have_different_ones_at_a_time() {
        let _alone = lock(&ALONE);
        make();
        let barrier = Barrier::new(8);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let barrier = &barrier;
                scope.spawn(move || {
                    for round in 0..1000 {
                        let mut taken = take().unwrap();
                        taken.rip = number << 32 | round;
                        if round % 100 == 0 {
                            barrier.wait();
                        }
                        assert_eq!(taken.rip, number << 32 | round);
                    }
                });
            }
        });
    }
}
