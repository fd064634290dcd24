//! What one thread at a time may have, in a process that forks: no child is made while another thread has it.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};

use crate::target::{lock, system};

/// What one thread at a time may have.
#[derive(Debug)]
pub(crate) struct Whole<T> {
    value: Mutex<T>,
    /// The thread that has it, or 0.
    owner: AtomicI32,
}

/// What the calling thread has until this is dropped.
#[derive(Debug)]
pub(crate) struct Having<'a, T> {
    value: MutexGuard<'a, T>,
    owner: &'a AtomicI32,
}

impl<T> Whole<T> {
    pub(crate) const fn new(value: T) -> Whole<T> {
        Whole { value: Mutex::new(value), owner: AtomicI32::new(0) }
    }

    pub(crate) fn have(&self) -> Having<'_, T> {
        let value = lock(&self.value);
        self.owner.store(system::this_thread(), Ordering::Relaxed);
        Having { value, owner: &self.owner }
    }

    /// Before the calling thread forks. One that does so in the midst of having it, in a handler of a signal, has to do
    /// without in the child.
    pub(crate) fn before_fork(&'static self, kept: &'static std::thread::LocalKey<Kept<T>>) {
        if self.owner.load(Ordering::Relaxed) != system::this_thread() {
            let having = self.have();
            // At the end of a thread it is let go at once.
            drop(kept.try_with(|kept| kept.replace(Some(having))));
        }
    }
}

/// What a thread has while it forks.
pub(crate) type Kept<T> = RefCell<Option<Having<'static, T>>>;

/// After it has forked, on both sides.
pub(crate) fn after_fork<T>(kept: &'static std::thread::LocalKey<Kept<T>>) {
    let having = kept.try_with(|kept| kept.take());
    drop(having);
}

impl<T> Deref for Having<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Having<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T> Drop for Having<'_, T> {
    fn drop(&mut self) {
        self.owner.store(0, Ordering::Relaxed);
    }
}
