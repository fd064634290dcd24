//! How long hits take, seen by the tracer.

use std::time::{Duration, Instant};

use crate::Failure;

/// From the first hit to the last.
#[derive(Default)]
pub(crate) struct Clock {
    span: Option<(Instant, Instant)>,
    hits: u64,
}

impl Clock {
    pub(crate) fn tick(&mut self) {
        let now = Instant::now();
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
        self.hits += 1;
    }

    /// The nanoseconds of one, of which there must have been `expected`.
    pub(crate) fn nanoseconds_per_hit(&self, expected: u64) -> Result<f64, Failure> {
        let span = self.span.map_or(Duration::ZERO, |(first, last)| last - first);
        if self.hits != expected {
            return Err(format!("{} hits where there should be {expected}", self.hits).into());
        }
        Ok(span.as_nanos() as f64 / (self.hits - 1) as f64)
    }
}
