//! What the other threads do while one makes a stride. None of them executes an instruction: they are held,
//! or wait in the kernel, which stops them when they come back.
//!
//! But what they wait for may come at any time, and then the kernel may write to memory for them. So one that
//! waits is watched: until it is scheduled again nothing is done for it. If it was, memory has to be what the
//! emulator knows it to be; where it is not, the emulator has to look at it anew, and a stride that it made
//! from what was there before is taken back and made again step by step. Of the strides before that one, which
//! agreed in all registers and where the emulator had written, it can then no longer be said that they wrote nowhere else.
//!
//! What the kernel writes on no thread's turn, as for io_uring(7), is not noticed, and looks like a mistake.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use super::{Run, Thread, thread};

/// How long to wait for a thread that runs: in the kernel, or it would, had it a processor.
const PATIENCE: Duration = Duration::from_secs(1);
/// The longest pause, of those in which a thread may come to wait, which nobody tells.
const LONGEST_PAUSE: Duration = Duration::from_millis(1);
/// The first pause; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_micros(20);

/// What a thread does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Doing {
    /// It stands still until it is told to go on.
    Held,
    /// It makes a step, in the kernel perhaps.
    #[default]
    Runs,
    /// It waits in the kernel, after it has been scheduled so many times.
    Waits(u64),
}

impl Doing {
    pub(super) fn waits(self) -> bool {
        matches!(self, Doing::Waits(_))
    }
}

/// What the kernel tells of a thread that is not stopped.
#[derive(Debug)]
pub(super) struct Watch {
    schedstat: File,
    syscall: File,
}

impl Watch {
    fn open(tid: i32) -> io::Result<Watch> {
        let open = |name: &str| File::open(format!("/proc/{tid}/{name}"));
        Ok(Watch { schedstat: open("schedstat")?, syscall: open("syscall")? })
    }

    /// How often it has been scheduled. `None`: it is gone, or the kernel does not count.
    fn turns(&self) -> Option<u64> {
        let mut text = [0; 96];
        let length = self.schedstat.read_at(&mut text, 0).ok()?;
        // Time spent on the processor, time spent waiting for it, and the count.
        let count = str::from_utf8(text.get(..length)?).ok()?.split_whitespace().nth(2)?.parse().ok();
        count.filter(|count| *count > 0)
    }

    /// Whether it is off the processor and waits for something else than one. `None`: it is gone.
    fn waits(&self) -> Option<bool> {
        // Enough for the one word that is there while it runs, else the system call's number.
        let mut text = [0; 256];
        let length = self.syscall.read_at(&mut text, 0).ok()?;
        Some(!text.get(..length)?.starts_with(b"running"))
    }
}

/// What became of a thread since it was last looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It has done nothing.
    Still,
    /// It has run, and waits again.
    Again,
    Running,
    /// Nobody says.
    Unknown,
}

impl Thread {
    /// How often it has been scheduled.
    fn turns(&self) -> Option<u64> {
        self.watch.as_ref()?.turns()
    }

    /// Whether it has executed nothing since it was last seen to stand still or to wait.
    pub(super) fn is_still(&self) -> bool {
        match self.doing {
            Doing::Held => true,
            Doing::Runs => false,
            Doing::Waits(turns) => self.turns() == Some(turns),
        }
    }

    pub(super) fn look(&mut self, tid: i32) -> Seen {
        if self.is_still() {
            return Seen::Still;
        }
        if self.watch.is_none() {
            self.watch = Watch::open(tid).ok();
        }
        // The count comes first: whoever is scheduled between the two has another the next time.
        let Some((turns, watch)) = self.turns().zip(self.watch.as_ref()) else { return Seen::Unknown };
        match watch.waits() {
            Some(true) => {
                self.doing = Doing::Waits(turns);
                Seen::Again
            }
            Some(false) => Seen::Running,
            None => Seen::Unknown,
        }
    }
}

impl Run {
    /// Waits until each thread but `tid` is held or waits in the kernel, and sees to it that the emulator knows
    /// what memory holds then. False: one runs on, or nothing can be known of it.
    pub(super) fn others_rest(&mut self, tid: i32) -> io::Result<bool> {
        let deadline = Instant::now() + PATIENCE;
        let mut pause = PAUSE;
        loop {
            match self.look_at_others(tid) {
                Seen::Unknown => return Ok(false),
                Seen::Running if Instant::now() < deadline => {}
                Seen::Running => return Ok(false),
                Seen::Still | Seen::Again => break,
            }
            thread::pause(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
            while let Some((other, status)) = thread::wait(-1, false)? {
                self.stopped(other, status)?;
            }
        }
        if std::mem::take(&mut self.others_went_on) && self.ahead.pages.difference_anywhere(tid)?.is_some() {
            self.report.disturbed += 1;
            self.ahead.forget();
        }
        Ok(true)
    }

    fn look_at_others(&mut self, tid: i32) -> Seen {
        for (other, thread) in self.threads.iter_mut().filter(|(other, _)| **other != tid) {
            match thread.look(*other) {
                Seen::Still => {}
                Seen::Again => self.others_went_on = true,
                seen => {
                    self.others_went_on = true;
                    return seen;
                }
            }
        }
        Seen::Still
    }

    /// Whether another thread than `tid` has run, or runs, since the emulator last knew what memory holds.
    pub(super) fn others_ran(&self, tid: i32) -> bool {
        self.others_went_on || self.threads.iter().any(|(other, thread)| *other != tid && !thread.is_still())
    }
}
