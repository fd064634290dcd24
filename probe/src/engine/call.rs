//! Calls that are followed from a function's entry to its return.

use std::any::Any;
use std::fmt;

/// A call that has returned, as a handler of [`Session::probe_calls`](crate::Session::probe_calls) sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call<T> {
    /// The address of the function's first instruction.
    pub function: u64,
    /// When it was entered, as [`Hit::time_ns`](crate::Hit::time_ns).
    pub entered_ns: u64,
    /// How long it took, in nanoseconds, with what its two hits and those of others in between have cost.
    pub duration_ns: u64,
    /// What the handler of the entry has handed over.
    pub value: T,
}

/// What a handler hands over from the entry to the return. A process that is forked in between has a copy.
pub(crate) trait Value: Any + Send {
    fn copy(&self) -> Box<dyn Value>;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<T: Any + Clone + Send> Value for T {
    fn copy(&self) -> Box<dyn Value> {
        Box::new(self.clone())
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl fmt::Debug for dyn Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Value")
    }
}

/// Which part of a call a hit is.
#[derive(Debug)]
pub(crate) enum Part {
    /// None: its probe follows no calls.
    None,
    /// Its entry, and what is to be handed over, if the call is to be followed.
    Entry(Option<Box<dyn Value>>),
    /// Its return. The value is there until somebody takes it.
    Return(Call<Option<Box<dyn Value>>>),
}
