//! Threads that wait, stopped, before they go on, while others are served.

use std::time::{Duration, Instant};

use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::{Report, Threads};

/// A thread that waits.
#[derive(Debug)]
pub(crate) struct Aside {
    until: Instant,
    stopped: Stopped,
    /// The signal to resume it with; `None` if it has stopped for something that is to be served then.
    signal: Option<i32>,
}

impl Threads {
    /// Leaves a thread as it is for that long, and resumes it then with `signal` unless that is 0; without one, it has
    /// stopped again already, which is served then.
    pub(crate) fn put_aside(&mut self, stopped: Stopped, signal: Option<i32>, time: Duration) {
        /// As good as for ever.
        const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
        let until = Instant::now() + time.min(LONGEST);
        self.aside.push(Aside { until, stopped, signal });
    }

    /// When the next one is to go on.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.aside.iter().map(|aside| aside.until).min()
    }

    /// Lets those go on that have waited long enough.
    pub(crate) fn resume_due(&mut self) {
        if self.aside.is_empty() {
            return;
        }
        let now = Instant::now();
        for Aside { stopped, signal, .. } in
            self.aside.extract_if(.., |aside| aside.until <= now).collect::<Vec<_>>()
        {
            self.end_wait(stopped, signal);
        }
    }

    /// Lets all go on: nobody will be there when they have waited.
    pub(crate) fn resume_all_aside(&mut self) {
        for Aside { stopped, signal, .. } in std::mem::take(&mut self.aside) {
            self.end_wait(stopped, signal);
        }
    }

    /// Thread `tid` is not ours any more, or not at all.
    pub(super) fn forget_aside(&mut self, tid: i32) {
        for aside in self.aside.extract_if(.., |aside| aside.stopped.tid() == tid) {
            aside.stopped.forget();
        }
    }

    fn end_wait(&mut self, stopped: Stopped, signal: Option<i32>) {
        match signal {
            Some(signal) => self.resume(stopped, signal),
            None => self.put_back(Report::Stopped(stopped)),
        }
    }
}
