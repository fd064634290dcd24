//! What there is to say when the run is over: the counts, why probes were never placed, and the exit status.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use probe::ProbeId;
use probe::stacks::Place;
use probe::warden::{Bucket, Client, Histogram, Refusal, Report, Totals};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Mode;
use super::rows::Row;
use super::state::{Shared, State};
use crate::args::Format;
use crate::events::{Counts, Frame, frames, print_counts, print_folded, print_histogram, print_stacks};
use crate::output::several;
use crate::run::shell_status;
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
    let rows: Vec<(ProbeId, Counts)> = {
        let state = shared.lock();
        state.rows.counted().filter_map(|row| Some((row.probe?, of_row(row)))).collect()
    };
    let ids: Vec<ProbeId> = rows.iter().map(|&(probe, _)| probe).collect();
    let counts = counts(&self::reports(&mut client, &ids)?, rows, shared.injects());
    let details = details(&mut client, &ids, shared)?;
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
    if shared.injects() {
        tell_injected(&counts);
    }
    // Interrupted, it goes on without probes, and its status is ours; that may take long.
    let mut wait = || if launched && !ending { client.wait() } else { client.status() };
    let needs_status = mode == Mode::Stat && shared.format == Format::Json;
    let early = if needs_status { wait() } else { None };
    let printed =
        signals.writing(|| print(&mut state, (&counts, &details), early.map(shell_status), shared, mode));
    tell_undefined(&counts);
    tell_lost(&state, &details);
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
    Ok(client.reports(probes)?.into_iter().map(Option::unwrap_or_default).collect())
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

/// The counts of a row, before they are known.
fn of_row(row: &Row) -> Counts {
    Counts {
        probe: row.name.clone(),
        is_part: row.is_part(),
        implementations: row.implementations.clone(),
        ..Counts::default()
    }
}

fn counts(reports: &[Report], rows: Vec<(ProbeId, Counts)>, injects: bool) -> Vec<Counts> {
    let count = |(report, (_, row)): (&Report, (ProbeId, Counts))| {
        let counters = report.returns.unwrap_or(report.counters);
        let probe::Counters { hits, emulated, native, faulted, filtered, missed, dropped, .. } = counters;
        let dropped = report.returns.map(|_| dropped);
        let undefined = report.undefined;
        let injected = injects.then_some(report.injected);
        let failed = injects.then_some(report.failed);
        let mut refused = BTreeMap::new();
        for Refusal { kind, .. } in &report.refused {
            *refused.entry(kind.clone()).or_default() += 1;
        }
        let counters =
            Counts { hits, emulated, faulted, filtered, undefined, missed, native, dropped, ..row };
        Counts { injected, failed, refused, ..counters }
    };
    reports.iter().zip(rows).map(count).collect()
}

/// Says where nothing has happened.
fn tell_injected(counts: &[Counts]) {
    for Counts { probe, hits, injected, failed, .. } in counts {
        if (*injected, *failed) == (Some(0), Some(0)) {
            warn(&format!("nothing was injected at `{probe}`, of {}", several(*hits, "hit", "hits")));
        }
    }
}

fn print(
    state: &mut State,
    (counts, details): (&[Counts], &[Detail]),
    target_status: Option<i32>,
    shared: &Shared,
    mode: Mode,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        probes: Vec<Probe<'a>>,
        target_status: Option<i32>,
    }
    #[derive(Serialize)]
    struct Probe<'a> {
        #[serde(flatten)]
        counts: &'a Counts,
        #[serde(flatten)]
        detail: &'a Detail,
    }
    if shared.format == Format::Folded && state.broken.is_none() {
        let stacks: Vec<_> = details.iter().flat_map(|detail| detail.stacks.iter().cloned()).collect();
        print_folded(state.events.out(), &stacks)?;
        if mode == Mode::Stat {
            return Ok(());
        }
    }
    if mode != Mode::Stat {
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
        let probes = counts.iter().zip(details).map(|(counts, detail)| Probe { counts, detail }).collect();
        let mut line = serde_json::to_vec(&Document { probes, target_status })?;
        line.push(b'\n');
        out.write_all(&line)?;
        return out.flush();
    }
    print_counts(out, counts)?;
    for (counts, detail) in counts.iter().zip(details) {
        for (expression, histogram) in &detail.histograms {
            print_histogram(out, &counts.probe, expression, histogram)?;
        }
        print_stacks(out, &counts.probe, &detail.stacks, shared.coloured)?;
    }
    Ok(())
}

/// What was added up of a probe.
#[derive(Debug, Default)]
struct Detail {
    stacks: Vec<(Vec<Arc<Place>>, u64)>,
    other_stacks: u64,
    histograms: Vec<(String, Histogram)>,
}

impl Detail {
    fn new(totals: Totals, expressions: Vec<String>, shared: &Shared) -> Detail {
        // What lies at the same places at different addresses, in processes of their own, is the same stack.
        let mut stacks: Vec<(Vec<Arc<Place>>, u64)> = Vec::new();
        let mut known: HashMap<Vec<Line>, usize> = HashMap::new();
        for stack in totals.stacks {
            let places = shared.places(&stack.frames);
            let key = places.iter().map(|place| Line::of(place)).collect();
            match known.get(&key).and_then(|&index| stacks.get_mut(index)) {
                Some((_, count)) => *count += stack.count,
                None => {
                    known.insert(key, stacks.len());
                    stacks.push((places, stack.count));
                }
            }
        }
        stacks.sort_by_key(|&(_, count)| Reverse(count));
        let mut histograms = totals.histograms;
        // One that no hit has reached is not there.
        histograms.resize_with(expressions.len(), Histogram::default);
        let histograms = expressions.into_iter().zip(histograms).collect();
        Detail { stacks, other_stacks: totals.other_stacks, histograms }
    }
}

/// What was added up of each of these probes.
fn details(client: &mut Client, probes: &[ProbeId], shared: &Shared) -> Result<Vec<Detail>, Failure> {
    let detail = |(totals, &probe): (Option<Totals>, &ProbeId)| {
        let index = shared.lock().rows.index_of(probe);
        let expressions = index.map(|index| shared.histograms(index)).unwrap_or_default();
        Detail::new(totals.unwrap_or_default(), expressions, shared)
    };
    Ok(client.totals_of(probes)?.into_iter().zip(probes).map(detail).collect())
}

/// What makes a place: the address in its file or, where there is none, in its process.
#[derive(PartialEq, Eq, Hash)]
struct Line(Option<PathBuf>, u64);

impl Line {
    fn of(place: &Place) -> Line {
        Line(place.object.clone(), place.address.unwrap_or(place.ip))
    }
}

impl Serialize for Detail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Stack<'a> {
            count: u64,
            frames: Vec<Frame<'a>>,
        }
        #[derive(Serialize)]
        struct Values<'a> {
            expression: &'a str,
            undefined: u64,
            buckets: Vec<Row>,
        }
        #[derive(Serialize)]
        struct Row {
            from: serde_json::Value,
            to: serde_json::Value,
            count: u64,
        }
        let mut map = serializer.serialize_map(None)?;
        if !self.stacks.is_empty() {
            let stacks = self.stacks.iter();
            let stacks = stacks.map(|(stack, count)| Stack { count: *count, frames: frames(stack) });
            map.serialize_entry("stacks", &stacks.collect::<Vec<_>>())?;
            map.serialize_entry("other_stacks", &self.other_stacks)?;
        }
        if !self.histograms.is_empty() {
            let row = |&(bucket, count): &(Bucket, u64)| Row {
                from: whole(bucket.from()),
                to: whole(bucket.to()),
                count,
            };
            let mut values = Vec::new();
            for (expression, histogram) in &self.histograms {
                let buckets = histogram.buckets.iter().map(row).collect();
                values.push(Values { expression, undefined: histogram.undefined, buckets });
            }
            map.serialize_entry("histograms", &values)?;
        }
        map.end()
    }
}

/// A number, without a point where it is an integer.
fn whole(value: f64) -> serde_json::Value {
    /// Of these, each integer is itself as a double.
    const MOST: f64 = (1u64 << 53) as f64;
    if value.fract() == 0.0 && value.abs() <= MOST { (value as i64).into() } else { value.into() }
}

/// Hits of which nobody can say whether the condition held.
fn tell_undefined(counts: &[Counts]) {
    for Counts { probe, undefined, .. } in counts.iter().filter(|counts| counts.undefined > 0) {
        let hits = several(*undefined, "hit", "hits");
        warn(&format!("{probe}: for {hits} the condition had no value, so that they count as filtered"));
    }
}

/// What was not printed, or not counted one by one.
fn tell_lost(state: &State, details: &[Detail]) {
    if state.lost > 0 {
        let events = several(state.lost, "event was", "events were");
        warn(&format!("{events} lost: what reads them is slower than the target"));
    }
    let others: u64 = details.iter().map(|detail| detail.other_stacks).sum();
    if others > 0 {
        warn(&format!("{others} hits had stacks that were not kept, since there were too many"));
    }
}
