//! What there is to say when the run is over: the counts, why probes were never placed, and the exit status.

use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};

use probe::ProbeId;
use probe::warden::{Client, Report};
use serde::Serialize;

use super::Mode;
use super::rows::Row;
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
    let reports = reports(&mut client, probes)?;
    let rows: Vec<(ProbeId, String, bool)> = {
        let state = shared.lock();
        let known =
            state.rows.counted().filter_map(|row| Some((row.probe?, row.name.clone(), row.is_part())));
        known.collect()
    };
    let ids: Vec<ProbeId> = rows.iter().map(|&(probe, ..)| probe).collect();
    let counts = counts(&self::reports(&mut client, &ids)?, &rows);
    signals.release();
    let mut state = shared.lock();
    if let Some(failure) = state.failure.take() {
        return Err(Failure(failure));
    }
    let ending = signals.ending().is_some();
    let obstacles = obstacles(&reports, &state);
    if !ending && !state.rows.is_any_placed() {
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

/// What became of each of these probes.
fn reports(client: &mut Client, probes: &[ProbeId]) -> Result<Vec<Report>, Failure> {
    probes.iter().map(|&probe| Ok(client.report(probe)?.unwrap_or_default())).collect()
}

/// Why probes, or processes that should have them, have none: a line for each.
fn obstacles(reports: &[Report], state: &State) -> Vec<String> {
    let pending = |(report, row): (&Report, &Row)| {
        let error = report.pending.as_ref()?;
        Some(format!("`{}` was never placed: {error}", row.name))
    };
    let pending = reports.iter().zip(state.rows.iter()).filter_map(pending);
    state.inaccessible.clone().into_iter().chain(pending).collect()
}

/// A command that ran, or a process that was looked at, without a probe.
fn nothing_placed(client: &mut Client, obstacles: &[String], signals: &Signals) -> Failure {
    if !client.is_launched() {
        signals.over();
        return Failure::new(obstacles.first().map_or("no probe was ever placed", String::as_str));
    }
    let status = client.wait().map(shell_status);
    signals.over();
    let why = obstacles.first().map_or("no probe was ever placed", String::as_str);
    let status = status.map_or_else(|| "an unknown status".to_owned(), |status| format!("status {status}"));
    Failure::new(format!("{why}; the command ran without probes and ended with {status}"))
}

fn counts(reports: &[Report], rows: &[(ProbeId, String, bool)]) -> Vec<Counts> {
    let count = |(report, (_, name, is_part)): (&Report, &(ProbeId, String, bool))| {
        let (probe, is_part) = (name.clone(), *is_part);
        let counters = report.returns.unwrap_or(report.counters);
        let probe::Counters { hits, emulated, native, faulted, filtered, missed, dropped, .. } = counters;
        let dropped = report.returns.map(|_| dropped);
        Counts { probe, hits, emulated, faulted, filtered, missed, native, dropped, is_part }
    };
    reports.iter().zip(rows).map(count).collect()
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
