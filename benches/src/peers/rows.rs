//! What is measured, in turn, round after round, so that whatever slows the machine down for a while slows all of it down.

use crate::frida::Callback;
use crate::instructions::{self, Unicorn};
use crate::others;
use crate::own::{self, Own};
use crate::report::{Executed, Placed, Report, Row, Threads, Unavailable};
use crate::stepless::By;
use crate::target::{SITES, find};
use crate::warden::What;
use crate::{Arguments, Failure, classic, frida, placing, stepless, threads, warden};

/// Measures the nanoseconds of one, over so many.
type Measure = Box<dyn Fn(u64) -> Result<f64, Failure>>;
type Rows = Vec<(String, Measure)>;

/// The row that the others are compared with.
pub(crate) const FLOOR: &str = "int3 stop and continue (the floor)";

/// What a signal costs that a thread raises in itself.
pub(crate) const BARE: &str = "a handler of SIGTRAP that does nothing";

/// What an instruction costs of a thread that is stepped, and of one that runs on.
pub(crate) const STEPPED: &str = "PTRACE_SINGLESTEP";
pub(crate) const ALONE: &str = "stepless runs on, no other thread";
pub(crate) const WITH_ANOTHER: &str = "stepless runs on, another thread";

fn row(
    name: impl Into<String>,
    measure: impl Fn(u64) -> Result<f64, Failure> + 'static,
) -> (String, Measure) {
    (name.into(), Box::new(measure))
}

/// What a hit costs, the floor first.
fn hits() -> Rows {
    let mut rows = vec![
        row(FLOOR, classic::floor),
        row("the same by a tracer that stays awake", classic::floor_awake),
        row("restore, single-step, re-insert", classic::step_over),
        row("gdb, a breakpoint that continues", others::gdb),
        row("ltrace -x, call and return", others::ltrace),
    ];
    for (what, symbol) in [
        ("nop5", "peers_nop5"),
        ("push", "peers_push"),
        ("stepped mov", "peers_move"),
        ("endbr64", "peers_entry"),
    ] {
        rows.push(row(format!("kernel uprobe, {what}"), move |hits| others::uprobe(symbol, hits)));
        rows.push(row(format!("uprobe_multi, {what}"), move |hits| others::uprobe_multi(symbol, hits)));
        rows.push(row(format!("bpftrace, {what}"), move |hits| others::bpftrace(symbol, hits)));
        rows.push(row(format!("perf stat, {what}"), move |hits| others::perf(symbol, hits)));
    }
    for (name, callback) in [("native", Callback::Native), ("JavaScript", Callback::JavaScript)] {
        rows.push(row(format!("frida, {name}, endbr64"), move |hits| {
            frida::hit("peers_entry", callback, hits * 10)
        }));
    }
    for site in SITES {
        let measure = move |hits| {
            if !(site.runs)() {
                return Err("this processor does not have the instruction".into());
            }
            stepless::hit(site.symbol, By::Int3, hits)
        };
        rows.push(row(format!("stepless, {}", site.instruction), measure));
    }
    for symbol in ["peers_nop", "peers_move", "peers_entry"] {
        let instruction = find(symbol).map_or("", |site| site.instruction);
        let measure = move |hits| stepless::hit(symbol, By::Hardware, hits);
        rows.push(row(format!("stepless by hardware, {instruction}"), measure));
    }
    rows.push(row(BARE, |hits| own::hit("peers_nop", Own::Bare, hits * 10)));
    for symbol in ["peers_nop", "peers_move", "peers_load", "peers_store", "peers_packed", "peers_entry"] {
        let instruction = find(symbol).map_or("", |site| site.instruction);
        let measure = move |hits| own::hit(symbol, Own::Trap, hits * 10);
        rows.push(row(format!("stepless by itself, a trap, {instruction}"), measure));
    }
    for symbol in ["peers_nop5", "peers_immediate", "peers_add", "peers_entry"] {
        let instruction = find(symbol).map_or("", |site| site.instruction);
        let measure = move |hits| own::hit(symbol, Own::Jump, hits * 100);
        rows.push(row(format!("stepless by itself, a jump, {instruction}"), measure));
    }
    rows.push(row("stepless, a call's start and return", stepless::call));
    for (name, what) in [("counts", What::Count), ("records", What::Record), ("asks a closure", What::Ask)] {
        rows.push(row(format!("stepless's warden {name}, nop"), move |hits| warden::hit(what, hits)));
    }
    rows
}

/// What an instruction costs.
fn executed() -> Rows {
    vec![
        row("emu, decoded once", |hits| instructions::emu(hits * 1000)),
        row(ALONE, |hits| instructions::run_on(hits * 1000, false)),
        row(WITH_ANOTHER, |hits| instructions::run_on(hits * 100, true)),
        row(STEPPED, instructions::singlestep),
        row("unicorn, step, registers written and read", |hits| instructions::unicorn(Unicorn::Step, hits)),
        row("unicorn, step", |hits| instructions::unicorn(Unicorn::Bare, hits)),
        row("unicorn, loop", |hits| instructions::unicorn(Unicorn::Loop, hits * 1000)),
    ]
}

/// Measures all rows so often; what fails once is not tried again.
fn measured(rows: Rows, arguments: &Arguments, unavailable: &mut Vec<Unavailable>) -> Vec<Row> {
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
    let mut found = Vec::new();
    for ((name, _), samples) in rows.into_iter().zip(samples) {
        match samples {
            Ok(values) => found.push(Row::new(name, values)),
            Err(reason) => unavailable.push(Unavailable { name, reason }),
        }
    }
    found
}

/// How many threads hit at once.
const THREADS: [u64; 4] = [1, 2, 4, 8];

fn by_threads(arguments: &Arguments, unavailable: &mut Vec<Unavailable>) -> Vec<Threads> {
    type Rate = fn(u64, u64) -> Result<f64, Failure>;
    let ways: [(&str, Rate); 2] =
        [("stepless, mov", threads::stepless), ("kernel uprobe, stepped mov", threads::uprobe)];
    let mut found = Vec::new();
    for (name, rate) in ways {
        let rows = THREADS.map(|threads| row(threads.to_string(), move |hits| rate(threads, hits))).into();
        let rows = measured(rows, arguments, unavailable);
        let one = rows.first().map_or(f64::NAN, |row| row.ns_per_hit_median);
        found.extend(rows.into_iter().map(|row| Threads {
            name: name.into(),
            threads: row.name.parse().unwrap_or(0),
            hits_per_second_median: row.ns_per_hit_median,
            ratio_to_one: row.ns_per_hit_median / one,
        }));
    }
    found
}

/// How many probes are placed. So many uprobes of perf's take minutes, and are said to.
const FEW: usize = 300;
const MANY: usize = 100_000;

fn placed(unavailable: &mut Vec<Unavailable>) -> Vec<Placed> {
    type Place = fn(&[u64]) -> Result<(placing::Times, Option<f64>), Failure>;
    let ours = |offsets: &[u64]| placing::stepless(offsets).map(|(times, bytes)| (times, Some(bytes)));
    let by_each = |offsets: &[u64]| Ok((placing::uprobes(offsets)?, None));
    let by_link = |offsets: &[u64]| Ok((placing::uprobe_multi(offsets)?, None));
    let ways: [(&str, usize, Place); 5] = [
        ("stepless", FEW, ours),
        ("stepless", MANY, ours),
        ("kernel uprobes", FEW, by_each),
        ("uprobe_multi", FEW, by_link),
        ("uprobe_multi", MANY, by_link),
    ];
    let mut found = Vec::new();
    for (name, probes, place) in ways {
        match placing::offsets(probes).and_then(|offsets| place(&offsets)) {
            Ok(((placed_seconds, removed_seconds), bytes_each)) => {
                let name = name.into();
                found.push(Placed { name, probes, placed_seconds, removed_seconds, bytes_each });
            }
            Err(error) => unavailable
                .push(Unavailable { name: format!("{name}, {probes} probes"), reason: error.to_string() }),
        }
    }
    let reason = "the kernel removes them one by one, each after a grace period: hours".into();
    unavailable.push(Unavailable { name: format!("kernel uprobes, {MANY} probes"), reason });
    found
}

/// Measures everything that was asked for.
pub(crate) fn measure(arguments: &Arguments) -> Report {
    let mut unavailable = Vec::new();
    let free = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0));
    // Threads first: the rows of single ones stay on one processor, as do the programs that they start.
    let threads = if arguments.only_hits { Vec::new() } else { by_threads(arguments, &mut unavailable) };
    let placing = if arguments.only_hits { Vec::new() } else { placed(&mut unavailable) };
    let is_wanted = |name: &str| {
        let only = &arguments.only;
        name == FLOOR || only.is_empty() || only.iter().any(|part| name.contains(part))
    };
    let wanted = hits().into_iter().filter(|(name, _)| is_wanted(name)).collect();
    let mut rows = measured(wanted, arguments, &mut unavailable);
    let floor = rows.iter().find(|row| row.name == FLOOR).map_or(f64::NAN, |row| row.ns_per_hit_median);
    for row in &mut rows {
        row.ratio_to_floor = row.ns_per_hit_median / floor;
    }
    let executed =
        if arguments.only_hits { Vec::new() } else { measured(executed(), arguments, &mut unavailable) };
    if let Ok(free) = free {
        // What is not free again ends soon.
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &free);
    }
    let instructions = executed.into_iter().map(Executed::from).collect();
    let versions = crate::versions::all();
    let mut report =
        Report { versions, rows, instructions, threads, placing, ratios: Vec::new(), unavailable };
    report.ratios = crate::limits::ratios(&report);
    report
}
