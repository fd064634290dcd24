//! Several threads that hit at once.

use std::process::Command;

use probe::{Action, Session};

use crate::others::{Scratch, place};
use crate::stepless::resolver;
use crate::uprobe::{Counter, Of};
use crate::{Failure, target};

const SYMBOL: &str = "peers_move";

/// This program, set to call the function by so many threads, and to say how long one call of all took.
fn command(threads: u64, hits: u64, scratch: &Scratch) -> Result<Command, Failure> {
    let mut command = target::reporting(SYMBOL, hits, &scratch.path("report"))?;
    command.args(["--threads", &threads.to_string()]);
    Ok(command)
}

fn rate(scratch: &Scratch) -> Result<f64, Failure> {
    let time: f64 = std::fs::read_to_string(scratch.path("report"))?.trim().parse()?;
    Ok(1e9 / time)
}

/// The hits a second by our engine, with tracers of its own choice.
pub(crate) fn stepless(threads: u64, hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("threads")?;
    let mut session = Session::launch(command(threads, hits, &scratch)?)?;
    let probe = session.probe_together(resolver(SYMBOL)?, |_: &mut probe::Hit<'_>| Action::Continue)?;
    session.run();
    let emulated = session.report(probe).map_or(0, |report| report.counters.emulated);
    let expected = 1 + (hits - 1) * threads;
    if emulated != expected {
        return Err(format!("{emulated} hits of {expected} were emulated").into());
    }
    rate(&scratch)
}

/// The same by a kernel uprobe that steps.
pub(crate) fn uprobe(threads: u64, hits: u64) -> Result<f64, Failure> {
    use nix::sys::{ptrace, wait::waitpid};
    let scratch = Scratch::new("threads")?;
    let (path, offset) = place(SYMBOL)?;
    let pid = crate::classic::start(command(threads, hits, &scratch)?)?;
    let processors = 0..i32::try_from(std::thread::available_parallelism()?.get())?;
    let counters: Result<Vec<_>, _> =
        processors.map(|processor| Counter::open(&path, offset, Of::Processor(processor))).collect();
    ptrace::detach(pid, None)?;
    waitpid(pid, None)?;
    let (mut found, expected) = (0, 1 + (hits - 1) * threads);
    for counter in counters? {
        found += counter.count()?;
    }
    if found != expected {
        return Err(format!("{found} hits where there should be {expected}").into());
    }
    rate(&scratch)
}
