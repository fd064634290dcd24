//! How hits and summaries are printed.

use std::fmt::{self, Write as _};
use std::io::{self, Write};

use probe::arguments::Value;
use serde::{Serialize, Serializer};

use crate::args::Format;

/// One hit.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    pub(crate) probe: &'a str,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) cpu: Option<u32>,
    /// `CLOCK_MONOTONIC`.
    pub(crate) time_ns: u64,
    pub(crate) ip: u64,
    #[serde(serialize_with = "as_map")]
    pub(crate) args: Vec<(&'a str, Value)>,
    /// How long the call has taken, and RAX, if this is a return.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retval: Option<u64>,
    /// What is printed instead, as text.
    #[serde(skip)]
    pub(crate) line: Option<String>,
}

fn as_map<S: Serializer>(args: &[(&str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(args.iter().map(|(name, value)| (name, value)))
}

/// The counts of one probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) probe: String,
    pub(crate) hits: u64,
    pub(crate) emulated: u64,
    pub(crate) faulted: u64,
    pub(crate) filtered: u64,
    pub(crate) missed: u64,
    /// Hits of instructions that only the thread itself can execute: it did, the others held.
    pub(crate) native: u64,
    /// Of returns: calls that were left without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped: Option<u64>,
    /// Whether it is one of several functions that a pattern stands for.
    #[serde(skip)]
    pub(crate) is_part: bool,
}

/// A place where events go, one after the other, each at once.
pub(crate) struct Events<W: Write> {
    out: W,
    format: Format,
    /// Of the probe column.
    width: usize,
    /// When the first event happened.
    start_ns: Option<u64>,
    line: String,
}

const NS_PER_US: u64 = 1000;
const NS_PER_S: u64 = 1_000_000_000;

impl<W: Write> Events<W> {
    /// Events of probes whose names have at most `width` letters.
    pub(crate) fn new(out: W, format: Format, width: usize) -> Events<W> {
        Events { out, format, width, start_ns: None, line: String::new() }
    }

    /// There is a probe whose name has `width` letters.
    pub(crate) fn widen(&mut self, width: usize) {
        self.width = self.width.max(width);
    }

    /// Prints one event.
    pub(crate) fn print(&mut self, event: &Event<'_>) -> io::Result<()> {
        let first = self.start_ns.is_none();
        let start_ns = *self.start_ns.get_or_insert(event.time_ns);
        self.line.clear();
        match self.format {
            Format::Text => {
                let since_ns = event.time_ns.saturating_sub(start_ns);
                self.text(event, first, since_ns).map_err(io::Error::other)?;
            }
            Format::Json => {
                self.line = serde_json::to_string(event).map_err(io::Error::from)?;
                self.line.push('\n');
            }
            Format::Perfetto => {
                self.line.push_str(if first { PERFETTO_START } else { ",\n" });
                self.line.push_str(&perfetto(event).to_string());
            }
        }
        self.out.write_all(self.line.as_bytes())
    }

    /// Prints what the format needs at its end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        if self.format == Format::Perfetto {
            let start = if self.start_ns.is_none() { PERFETTO_START } else { "" };
            write!(self.out, "{start}\n]}}\n")?;
        }
        self.out.flush()
    }

    /// Where the events go.
    pub(crate) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    fn text(&mut self, event: &Event<'_>, first: bool, since_ns: u64) -> fmt::Result {
        let (line, width) = (&mut self.line, self.width);
        if let Some(text) = &event.line {
            line.push_str(text);
            if !text.ends_with('\n') {
                line.push('\n');
            }
            return Ok(());
        }
        if first {
            writeln!(line, "{:>14} {:>8}  {:<width$}  IP", "TIME", "TID", "PROBE")?;
        }
        let (seconds, rest) = (since_ns / NS_PER_S, since_ns % NS_PER_S);
        write!(line, "{seconds:>4}.{rest:09} {:>8}  {:<width$}  {:#x}", event.tid, event.probe, event.ip)?;
        if let Some(duration_ns) = event.duration_ns {
            let (us, rest) = (duration_ns / NS_PER_US, duration_ns % NS_PER_US);
            write!(line, "  {us}.{rest:03} us")?;
        }
        if let Some(value) = event.retval {
            write!(line, " = {value:#x}")?;
        }
        event.args.iter().try_for_each(|(name, value)| write!(line, "  {name}={value}"))?;
        writeln!(line)
    }
}

const PERFETTO_START: &str = "{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n";

/// An instant event in the Trace Event Format, which has microseconds.
fn perfetto(event: &Event<'_>) -> serde_json::Value {
    let time_us = event.time_ns as f64 / NS_PER_US as f64;
    let mut args = serde_json::json!({ "ip": format!("{:#x}", event.ip), "cpu": event.cpu });
    for (name, value) in &event.args {
        args[*name] = serde_json::json!(value);
    }
    serde_json::json!({
        "name": event.probe, "cat": "probe", "ph": "i", "s": "t", "ts": time_us,
        "pid": event.pid, "tid": event.tid,
        "args": args,
    })
}

/// Prints the counts as a table.
pub(crate) fn print_counts(out: &mut impl Write, counts: &[Counts]) -> io::Result<()> {
    const LEAST: usize = "PROBE".len();
    /// As many functions of a pattern are shown without a hit.
    const FEW: usize = 10;
    let idle = |counts: &&Counts| counts.is_part && counts.hits == 0;
    let left_out = counts.iter().filter(idle).count();
    let left_out = if left_out > FEW { left_out } else { 0 };
    let shown = || counts.iter().filter(move |counts| left_out == 0 || !idle(counts));
    let width = shown().map(|counts| counts.probe.chars().count()).max().unwrap_or(0).max(LEAST);
    // At once, so that what the command prints meanwhile does not come between.
    let mut text = Vec::new();
    write!(
        text,
        "{:<width$} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "PROBE", "HITS", "EMULATED", "FAULTED", "FILTERED", "MISSED", "NATIVE"
    )?;
    let returns = counts.iter().any(|counts| counts.dropped.is_some());
    writeln!(text, "{}", if returns { "   DROPPED" } else { "" })?;
    for Counts { probe, hits, emulated, faulted, filtered, missed, native, dropped, .. } in shown() {
        write!(
            text,
            "{probe:<width$} {hits:>12} {emulated:>12} {faulted:>9} {filtered:>9} {missed:>9} {native:>9}"
        )?;
        match dropped {
            Some(dropped) => writeln!(text, " {dropped:>9}")?,
            None => writeln!(text)?,
        }
    }
    if left_out != 0 {
        writeln!(text, "({left_out} functions without a hit)")?;
    }
    out.write_all(&text)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(time_ns: u64) -> Event<'static> {
        let args = vec![("n", Value::Signed(-3))];
        Event {
            line: None,
            probe: "libc.so.6:malloc",
            pid: 7,
            tid: 8,
            cpu: Some(1),
            time_ns,
            ip: 0x1234,
            args,
            duration_ns: None,
            retval: None,
        }
    }

    fn printed(format: Format, times: &[u64]) -> String {
        let mut out = Vec::new();
        let mut events = Events::new(&mut out, format, 16);
        times.iter().for_each(|&time| events.print(&event(time)).unwrap());
        events.finish().unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_is_aligned_and_counts_from_the_first_event() {
        let text = printed(Format::Text, &[5_000_000_000, 6_000_000_001]);
        assert_eq!(
            text,
            "          TIME      TID  PROBE             IP\n   \
             0.000000000        8  libc.so.6:malloc  0x1234  n=-3\n   \
             1.000000001        8  libc.so.6:malloc  0x1234  n=-3\n"
        );
        assert_eq!(printed(Format::Text, &[]), "");
    }

    #[test]
    fn a_return_has_its_duration_and_its_result() {
        let event = Event { duration_ns: Some(12_034), retval: Some(42), ..event(1) };
        let printed = |format| {
            let mut out = Vec::new();
            Events::new(&mut out, format, 16).print(&event).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert!(printed(Format::Text).ends_with("0x1234  12.034 us = 0x2a  n=-3\n"));
        let value: serde_json::Value = serde_json::from_str(&printed(Format::Json)).unwrap();
        assert_eq!((&value["duration_ns"], &value["retval"]), (&12_034.into(), &42.into()));
    }

    #[test]
    fn json_is_one_document_per_line() {
        let text = printed(Format::Json, &[1, 2]);
        for (line, time) in text.lines().zip([1, 2]) {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, ["args", "cpu", "ip", "pid", "probe", "tid", "time_ns"]);
            assert_eq!(value["time_ns"], time);
            assert_eq!(value["args"], serde_json::json!({ "n": -3 }));
        }
        assert_eq!(text.lines().count(), 2);
    }

    #[test]
    fn perfetto_is_one_document_however_many_events() {
        for count in 0..3 {
            let text = printed(Format::Perfetto, &[1000, 2500][..count.min(2)]);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let events = value["traceEvents"].as_array().unwrap();
            assert_eq!(events.len(), count.min(2));
            if let Some(event) = events.get(1) {
                assert_eq!(event["ts"], 2.5);
            }
        }
    }
}
