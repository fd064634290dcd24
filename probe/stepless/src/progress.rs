//! A progress bar for what takes longer than a moment, where somebody watches.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Shows nothing for a moment, and never anything if stderr is no terminal.
pub(crate) struct Progress {
    bar: ProgressBar,
    hidden_since: Option<Instant>,
}

const PATIENCE: Duration = Duration::from_millis(500);

impl Progress {
    /// Progress through `total` of something that `template` prints, in indicatif's notation.
    pub(crate) fn new(total: u64, template: &str) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::hidden());
        // The default style stands in for a template with a mistake.
        bar.set_style(
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
        );
        let hidden_since = std::io::stderr().is_terminal().then(Instant::now);
        Progress { bar, hidden_since }
    }

    /// So much more is done.
    pub(crate) fn advance(&mut self, done: u64) {
        self.reach(self.bar.position().saturating_add(done));
    }

    /// So much is done altogether.
    pub(crate) fn reach(&mut self, done: u64) {
        self.bar.set_position(done);
        if self.hidden_since.is_some_and(|since| since.elapsed() >= PATIENCE) {
            self.hidden_since = None;
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Says what is being worked on.
    pub(crate) fn message(&self, message: String) {
        self.bar.set_message(message);
    }

    /// Prints a line above the bar.
    pub(crate) fn warn(&self, line: &str) {
        self.bar.suspend(|| crate::warn(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
