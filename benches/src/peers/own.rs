//! The program that probes itself: nobody else is there.

#![allow(unsafe_code, reason = "a bare handler of a signal, which other rows are compared with")]

use std::sync::atomic::{AtomicU64, Ordering};

use clap::ValueEnum;
use probe::Action;
use probe::locate::Address;
use probe::own::{Means, Options, Session};

use crate::others::{Scratch, result};
use crate::{Failure, target};

/// What the program does about the function that it calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Own {
    /// It has a handler of SIGTRAP that does nothing, and the function's first byte is an INT3.
    Bare,
    /// It probes it by a trap.
    Trap,
    /// It probes it by a jump.
    Jump,
}

/// How often the handler of the probe was called.
static HITS: AtomicU64 = AtomicU64::new(0);

/// What is there as long as the function is to be called.
pub(crate) struct Probed {
    session: Option<Session>,
}

extern "C" fn nothing(_: i32) {
    HITS.store(HITS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Gets ready for calls of the function at `address`.
pub(crate) fn begin(own: Own, address: u64) -> Result<Probed, Failure> {
    if own == Own::Bare {
        use std::os::unix::fs::FileExt;
        // SAFETY: the handler does nothing that it must not.
        unsafe {
            nix::sys::signal::signal(
                nix::sys::signal::SIGTRAP,
                nix::sys::signal::SigHandler::Handler(nothing),
            )?
        };
        std::fs::OpenOptions::new().write(true).open("/proc/self/mem")?.write_all_at(&[0xcc], address)?;
        return Ok(Probed { session: None });
    }
    let mut session = Session::with(Options { jumps: own == Own::Jump })?;
    let probe = session.probe(Address(address), |_| {
        HITS.store(HITS.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        Action::Continue
    })?;
    let means = session.means(probe);
    let by_jump = means.iter().all(|(_, means)| matches!(means, Means::Jump));
    if by_jump != (own == Own::Jump) {
        return Err(format!("{means:?}").into());
    }
    Ok(Probed { session: Some(session) })
}

impl Probed {
    /// How often the function was reached.
    pub(crate) fn end(self) -> u64 {
        drop(self.session);
        HITS.load(Ordering::Relaxed)
    }
}

/// What a call of `symbol` takes by a program that does so.
pub(crate) fn hit(symbol: &str, own: Own, hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("own")?;
    let report = scratch.path("report");
    let mut command = target::reporting(symbol, hits, &report)?;
    let value = own.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let output = command.args(["--own", &value]).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned().into());
    }
    result(&report, String::from_utf8_lossy(&output.stdout).trim().parse()?, hits)
}
