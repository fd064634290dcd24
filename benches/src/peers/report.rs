//! What is printed.

use std::io::{self, Write};

use serde::Serialize;

/// Something that was measured again and again.
#[derive(Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) ns_per_hit_median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) ratio_to_floor: f64,
}

impl Row {
    /// Of values in nanoseconds; the ratio is set when the floor is known.
    pub(crate) fn new(name: String, mut values: Vec<f64>) -> Row {
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
}

/// What this machine cannot do.
#[derive(Serialize)]
pub(crate) struct Unavailable {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// How long an instruction takes where each one is executed by somebody.
#[derive(Serialize)]
pub(crate) struct Executed {
    pub(crate) name: String,
    pub(crate) ns_per_instruction_median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) per_second: f64,
}

impl From<Row> for Executed {
    fn from(row: Row) -> Executed {
        Executed {
            name: row.name,
            ns_per_instruction_median: row.ns_per_hit_median,
            min: row.min,
            max: row.max,
            per_second: 1e9 / row.ns_per_hit_median,
        }
    }
}

/// Hits by several threads at once.
#[derive(Serialize)]
pub(crate) struct Threads {
    pub(crate) name: String,
    pub(crate) threads: u64,
    pub(crate) hits_per_second_median: f64,
    pub(crate) ratio_to_one: f64,
}

/// Placing many probes and removing them.
#[derive(Serialize)]
pub(crate) struct Placed {
    pub(crate) name: String,
    pub(crate) probes: usize,
    pub(crate) placed_seconds: f64,
    pub(crate) removed_seconds: f64,
    /// What each takes, where that is ours to know.
    pub(crate) bytes_each: Option<f64>,
}

/// One thing divided by another, and what it should be.
#[derive(Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) ratio: f64,
    pub(crate) at_most: Option<f64>,
    pub(crate) at_least: Option<f64>,
    pub(crate) holds: bool,
}

/// The program that was measured, and which version of it.
#[derive(Serialize)]
pub(crate) struct Version {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// All that was measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) versions: Vec<Version>,
    pub(crate) rows: Vec<Row>,
    pub(crate) instructions: Vec<Executed>,
    pub(crate) threads: Vec<Threads>,
    pub(crate) placing: Vec<Placed>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) unavailable: Vec<Unavailable>,
}

impl Report {
    /// The median of the row of that name.
    pub(crate) fn median(&self, name: &str) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == name);
        let executed = || self.instructions.iter().find(|row| row.name == name);
        row.map(|row| row.ns_per_hit_median).or_else(|| executed().map(|row| row.ns_per_instruction_median))
    }

    pub(crate) fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            return writeln!(out, "{}", serde_json::to_string(self)?);
        }
        for Version { name, version } in &self.versions {
            writeln!(out, "{name}: {version}")?;
        }
        writeln!(out, "\n{:<52} {:>10} {:>10} {:>10} {:>9}", "A HIT", "ns", "min", "max", "of floor")?;
        for row in &self.rows {
            let Row { name, ns_per_hit_median: median, min, max, ratio_to_floor: ratio } = row;
            writeln!(out, "{name:<52} {median:>10.0} {min:>10.0} {max:>10.0} {ratio:>9.3}")?;
        }
        if !self.instructions.is_empty() {
            writeln!(
                out,
                "\n{:<52} {:>10} {:>10} {:>10} {:>9}",
                "AN INSTRUCTION", "ns", "min", "max", "million/s"
            )?;
        }
        for Executed { name, ns_per_instruction_median: median, min, max, per_second } in &self.instructions {
            writeln!(out, "{name:<52} {median:>10.1} {min:>10.1} {max:>10.1} {:>9.3}", per_second / 1e6)?;
        }
        if !self.threads.is_empty() {
            writeln!(out, "\n{:<52} {:>10} {:>10} {:>10}", "THREADS AT ONCE", "threads", "hits/s", "of one")?;
        }
        for Threads { name, threads, hits_per_second_median: rate, ratio_to_one: ratio } in &self.threads {
            writeln!(out, "{name:<52} {threads:>10} {rate:>10.0} {ratio:>10.2}")?;
        }
        if !self.placing.is_empty() {
            writeln!(
                out,
                "\n{:<52} {:>10} {:>10} {:>10} {:>9}",
                "MANY PROBES", "probes", "placed s", "removed s", "bytes"
            )?;
        }
        for Placed { name, probes, placed_seconds: placed, removed_seconds: removed, bytes_each } in
            &self.placing
        {
            let bytes = bytes_each.map_or_else(|| "-".into(), |bytes| format!("{bytes:.0}"));
            writeln!(out, "{name:<52} {probes:>10} {placed:>10.3} {removed:>10.3} {bytes:>9}")?;
        }
        if !self.ratios.is_empty() {
            writeln!(out, "\n{:<62} {:>10} {:>10} {:>6}", "RATIOS", "is", "should be", "")?;
        }
        for Ratio { name, ratio, at_most, at_least, holds } in &self.ratios {
            let most = at_most.map(|most| format!("<= {most}"));
            let limit = most.or_else(|| at_least.map(|least| format!(">= {least}"))).unwrap_or_default();
            writeln!(out, "{name:<62} {ratio:>10.3} {limit:>10} {:>6}", if *holds { "" } else { "NOT" })?;
        }
        for missing in &self.unavailable {
            writeln!(out, "{:<52} unavailable: {}", missing.name, missing.reason)?;
        }
        out.flush()
    }
}
