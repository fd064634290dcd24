//! `peers`: what a hit costs, side by side in one run with other ways of doing it.
//!
//! The rows are measured in turn, round after round, so that whatever slows the machine down for a while
//! slows all of them down. The floor is what no ptrace-based tracer can go below: the thread stops at an
//! int3, the tracer is told, and continues it.

mod classic;
mod others;
mod target;
mod uprobe;
mod warden;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use probe::{Action, Session};
use serde::Serialize;

use target::SITES;
use warden::What;

/// Compares the cost of a hit with that of other mechanisms.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
    /// How often each row is measured.
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// Hits in a measurement.
    #[arg(long, value_name = "N", default_value_t = 4000)]
    hits: u64,
    /// Runs the function of this name instead; what the rows probe.
    #[arg(long, hide = true, value_name = "NAME")]
    target: Option<String>,
    /// Where that writes how long a call took.
    #[arg(long, hide = true, value_name = "FILE", requires = "target")]
    report: Option<PathBuf>,
    /// Is the warden of the process that has started this one.
    #[arg(long, hide = true)]
    warden: bool,
}

#[derive(Serialize)]
struct Row {
    name: String,
    ns_per_hit_median: f64,
    min: f64,
    max: f64,
    ratio_to_floor: f64,
}

#[derive(Serialize)]
struct Unavailable {
    name: String,
    reason: String,
}

#[derive(Serialize)]
struct Report {
    rows: Vec<Row>,
    unavailable: Vec<Unavailable>,
}

/// What went wrong with one row.
type Failure = Box<dyn std::error::Error>;
/// Measures the nanoseconds of a hit, over so many hits.
type Measure = Box<dyn Fn(u64) -> Result<f64, Failure>>;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(site) = &arguments.target {
        return target::run(site, arguments.hits, arguments.report.as_deref());
    }
    if arguments.warden {
        return probe::warden::serve();
    }
    let report = measure(&arguments);
    match print(&report, arguments.json) {
        Ok(()) => {}
        // The reader has what it wanted.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(error) => {
            eprintln!("peers: {error}");
            return ExitCode::from(2);
        }
    }
    ExitCode::from(if report.rows.is_empty() { 2 } else { 0 })
}

/// The rows, the floor first.
fn rows() -> Vec<(String, Measure)> {
    let mut rows: Vec<(String, Measure)> = vec![
        ("int3 stop and continue (the floor)".into(), Box::new(classic::floor)),
        ("restore, single-step, re-insert".into(), Box::new(classic::step_over)),
    ];
    rows.push(("kernel uprobe, counted by perf".into(), Box::new(others::uprobe)));
    rows.push(("gdb, a breakpoint that continues".into(), Box::new(others::gdb)));
    rows.push(("ltrace -x, call and return".into(), Box::new(others::ltrace)));
    for site in SITES {
        rows.push((format!("stepless, {}", site.instruction), Box::new(|hits| stepless(site.symbol, hits))));
    }
    for (name, what) in [("counts", What::Count), ("records", What::Record), ("asks a closure", What::Ask)] {
        let measure = Box::new(move |hits| warden::hit(what, hits));
        rows.push((format!("stepless's warden {name}, nop"), measure));
    }
    rows
}

fn measure(arguments: &Arguments) -> Report {
    let rows = rows();
    let mut samples: Vec<Result<Vec<f64>, String>> = rows.iter().map(|_| Ok(Vec::new())).collect();
    for _ in 0..arguments.rounds.max(1) {
        for ((_, measure), samples) in rows.iter().zip(&mut samples) {
            if let Ok(values) = samples {
                match measure(arguments.hits.max(2)) {
                    Ok(value) => values.push(value),
                    Err(error) => *samples = Err(error.to_string()),
                }
            }
        }
    }
    let mut report = Report { rows: Vec::new(), unavailable: Vec::new() };
    for ((name, _), samples) in rows.into_iter().zip(samples) {
        match samples {
            Ok(values) => report.rows.push(row(name, values)),
            Err(reason) => report.unavailable.push(Unavailable { name, reason }),
        }
    }
    let floor = report.rows.first().map_or(f64::NAN, |row| row.ns_per_hit_median);
    for row in &mut report.rows {
        row.ratio_to_floor = row.ns_per_hit_median / floor;
    }
    report
}

fn row(name: String, mut values: Vec<f64>) -> Row {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    Row {
        name,
        ns_per_hit_median: at(values.len() / 2),
        min: at(0),
        max: at(values.len().saturating_sub(1)),
        ratio_to_floor: f64::NAN,
    }
}

fn print(report: &Report, json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        return writeln!(out, "{}", serde_json::to_string(report)?);
    }
    writeln!(out, "{:<40} {:>10} {:>10} {:>10} {:>9}", "", "ns per hit", "min", "max", "of floor")?;
    for row in &report.rows {
        writeln!(
            out,
            "{:<40} {:>10.0} {:>10.0} {:>10.0} {:>9.2}",
            row.name, row.ns_per_hit_median, row.min, row.max, row.ratio_to_floor
        )?;
    }
    for missing in &report.unavailable {
        writeln!(out, "{:<40} unavailable: {}", missing.name, missing.reason)?;
    }
    out.flush()
}

/// From the first hit to the last.
#[derive(Default)]
struct Clock {
    span: Option<(Instant, Instant)>,
    hits: u64,
}

impl Clock {
    fn tick(&mut self) {
        let now = Instant::now();
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
        self.hits += 1;
    }

    fn nanoseconds_per_hit(&self, expected: u64) -> Result<f64, Failure> {
        let span = self.span.map_or(Duration::ZERO, |(first, last)| last - first);
        if self.hits != expected {
            return Err(format!("{} hits where there should be {expected}", self.hits).into());
        }
        Ok(span.as_nanos() as f64 / (self.hits - 1) as f64)
    }
}

/// The probe on `symbol` that the other rows compete with.
fn stepless(symbol: &str, hits: u64) -> Result<f64, Failure> {
    let mut session = Session::launch(target::command(symbol, hits)?)?;
    let clock = Arc::new(Mutex::new(Clock::default()));
    let ticking = Arc::clone(&clock);
    let probe = session.probe(resolver(symbol)?, move |_| {
        ticking.lock().unwrap_or_else(PoisonError::into_inner).tick();
        Action::Continue
    })?;
    session.run();
    let emulated = session.report(probe).map_or(0, |report| report.counters.emulated);
    if emulated != hits {
        return Err(format!("{emulated} hits of {hits} were emulated").into());
    }
    let clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
    clock.nanoseconds_per_hit(hits)
}

/// What finds `symbol` in this program.
fn resolver(symbol: &str) -> Result<Resolver, Failure> {
    let path = std::env::current_exe()?;
    let spec: ProbeSpec = format!("{}:{symbol}", path.display()).parse()?;
    Ok(Resolver::new(spec, Arc::new(Objects::default())))
}
