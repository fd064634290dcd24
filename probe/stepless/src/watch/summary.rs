//! What there is to say when the run is over: the counts, why probes were never placed, and the exit status.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use probe::ProbeId;
use probe::warden::{Client, Report};
use serde::Serialize;

use super::Mode;
use super::state::{Shared, State};
use crate::args::Format;
use crate::events::{Counts, print_counts};
use crate::signals::Signals;
use crate::{Failure, warn};

/// Prints the summary, and finds the exit status.
pub(super) fn finish(
    mut client: Client,
    probes: &[ProbeId],
    shared: &Shared,
    signals: &Signals,
    mode: Mode,
) -> Result<ExitCode, Failure> {
    let launched = client.is_launched();
    let reports = probes.iter().map(|&probe| Ok(client.report(probe)?.unwrap_or_default()));
    let reports = reports.collect::<Result<Vec<Report>, Failure>>()?;
    signals.release();
    let counts = counts(&reports, shared);
    let mut state = shared.lock();
    if let Some(failure) = state.failure.take() {
        return Err(Failure(failure));
    }
    let ending = signals.ending().is_some();
    let obstacles = obstacles(&reports, &state, shared);
    if launched && !ending && state.placed.iter().all(|&placed| placed == 0) {
        drop(state);
        return Err(nothing_placed(&mut client, &obstacles, signals));
    }
    obstacles.iter().for_each(|line| warn(line));
    // Interrupted, it goes on without probes, and its status is ours; that may take long.
    let mut wait = || if launched && !ending { client.wait() } else { client.status() };
    let needs_status = mode == Mode::Stat && shared.format == Format::Json;
    let early = if needs_status { wait() } else { None };
    let printed = signals.writing(|| print(&mut state, &counts, early.map(shell_status), shared, mode));
    drop(state);
    let status = early.or_else(wait).map(shell_status);
    signals.over();
    if let Err(error) = printed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(Failure::new(format!("printing failed: {error}")));
    }
    let status = status.filter(|_| launched).unwrap_or(0);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

/// Why probes, or processes that should have them, have none: a line for each.
fn obstacles(reports: &[Report], state: &State, shared: &Shared) -> Vec<String> {
    let pending = |(report, name): (&Report, &String)| {
        let error = report.pending.as_ref()?;
        Some(format!("`{name}` was never placed: {error}"))
    };
    let pending = reports.iter().zip(&shared.names).filter_map(pending);
    state.inaccessible.clone().into_iter().chain(pending).collect()
}

/// A command that ran without a probe.
fn nothing_placed(client: &mut Client, obstacles: &[String], signals: &Signals) -> Failure {
    let status = client.wait().map(shell_status);
    signals.over();
    let why = obstacles.first().map_or("no probe was ever placed", String::as_str);
    let status = status.map_or_else(|| "an unknown status".to_owned(), |status| format!("status {status}"));
    Failure::new(format!("{why}; the command ran without probes and ended with {status}"))
}

fn counts(reports: &[Report], shared: &Shared) -> Vec<Counts> {
    let count = |(report, name): (&Report, &String)| {
        let probe = name.clone();
        let counters = report.returns.unwrap_or(report.counters);
        let probe::Counters { hits, emulated, native, faulted, filtered, missed, dropped, .. } = counters;
        let dropped = report.returns.map(|_| dropped);
        Counts { probe, hits, emulated, faulted, filtered, missed, native, dropped }
    };
    reports.iter().zip(&shared.names).map(count).collect()
}

fn print(
    state: &mut State,
    counts: &[Counts],
    target_status: Option<i32>,
    shared: &Shared,
    mode: Mode,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        probes: &'a [Counts],
        target_status: Option<i32>,
    }
    if mode == Mode::Trace {
        let finished = match state.broken.take() {
            Some(error) => Err(error),
            None => state.events.finish(),
        };
        // The summary may have a reader yet.
        print_counts(&mut io::stderr(), counts)?;
        return finished;
    }
    let out = state.events.out();
    if shared.format == Format::Json {
        let mut line = serde_json::to_vec(&Document { probes: counts, target_status })?;
        line.push(b'\n');
        out.write_all(&line)?;
        return out.flush();
    }
    print_counts(out, counts)
}

/// The status as a shell has it: 128 and the signal's number for a process that was killed.
fn shell_status(status: ExitStatus) -> i32 {
    const KILLED: i32 = 128;
    status.code().unwrap_or_else(|| KILLED + status.signal().unwrap_or(0))
}
