//! What one thread finds and another tells.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::target::{lock, lower};

/// What is to be told, and has not been.
#[derive(Debug)]
pub(crate) struct Untold<T> {
    any: AtomicBool,
    found: Mutex<Vec<T>>,
}

impl<T> Default for Untold<T> {
    fn default() -> Untold<T> {
        Untold { any: AtomicBool::new(false), found: Mutex::default() }
    }
}

impl<T> Untold<T> {
    /// Adds to it.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Vec<T>)) {
        let mut found = lock(&self.found);
        change(&mut found);
        if !found.is_empty() {
            self.any.store(true, Ordering::SeqCst);
        }
    }

    /// Takes it, if there is any; that is asked after each stop, and costs no more than a look while there is none.
    pub(crate) fn take(&self) -> Option<Vec<T>> {
        lower(&self.any).then(|| std::mem::take(&mut *lock(&self.found)))
    }
}
