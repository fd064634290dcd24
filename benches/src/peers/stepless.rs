//! Ours, in this process.

use std::sync::{Arc, Mutex, PoisonError};

use probe::locate::Hardware;
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use probe::{Action, Session};

use crate::clock::Clock;
use crate::others::{Scratch, result};
use crate::{Failure, target};

/// How the thread is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// By an INT3.
    Int3,
    /// By a debug register.
    Hardware,
}

/// The probe on `symbol` that the other rows compete with.
pub(crate) fn hit(symbol: &str, by: By, hits: u64) -> Result<f64, Failure> {
    let mut session = Session::launch(target::command(symbol, hits)?)?;
    let clock = Arc::new(Mutex::new(Clock::default()));
    let ticking = Arc::clone(&clock);
    let tick = move |_: &mut probe::Hit<'_>| {
        ticking.lock().unwrap_or_else(PoisonError::into_inner).tick();
        Action::Continue
    };
    let place = resolver(symbol)?;
    let probe = match by {
        By::Int3 => session.probe(place, tick)?,
        By::Hardware => session.probe(Hardware(place), tick)?,
    };
    session.run();
    let emulated = session.report(probe).map_or(0, |report| report.counters.emulated);
    if emulated != hits {
        return Err(format!("{emulated} hits of {hits} were emulated").into());
    }
    let clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
    clock.nanoseconds_per_hit(hits)
}

/// What finds `symbol` in this program.
pub(crate) fn resolver(symbol: &str) -> Result<Resolver, Failure> {
    let path = std::env::current_exe()?;
    let spec: ProbeSpec = format!("{}:{symbol}", path.display()).parse()?;
    Ok(Resolver::new(spec, Arc::new(Objects::default())))
}

/// A call of a function, from its start to where it returns to, which are two hits.
pub(crate) fn call(hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("call")?;
    let report = scratch.path("report");
    let mut session = Session::launch(target::reporting("peers_entry", hits, &report)?)?;
    let probe =
        session.probe_calls_together(resolver("peers_entry")?, |_| Some(()), |_, _| Action::Continue)?;
    session.run();
    let found = session.report(probe).and_then(|report| report.returns).map_or(0, |returns| returns.hits);
    result(&report, found, hits)
}
