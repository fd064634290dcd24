//! What was done to a thread.

use std::time::Duration;

use crate::arguments::Value;

/// What an [`Injection`](crate::arguments::Injection) has done to a thread at a hit.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Injected {
    /// The number of the hit, as [`Pick`](crate::arguments::Pick) counts.
    pub number: u64,
    /// What was changed, in the order in which it was written; then what a function returns (`return`) and `errno`.
    pub changes: Vec<Changed>,
    /// Whether the function has returned without having run.
    pub returned: bool,
    /// Whether the instruction was left out.
    pub skipped: bool,
    /// How long the thread waits before it goes on.
    pub delay: Duration,
    /// The signal that it gets.
    pub signal: Option<i32>,
    /// Why nothing was done.
    pub failed: Option<String>,
}

/// Something that was changed.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Changed {
    /// What: as it was written, or `return`, or `errno`.
    pub what: String,
    /// What it was before; `None` of what a function returns that has not run.
    pub from: Option<Value>,
    /// What it is now.
    pub to: Value,
}
