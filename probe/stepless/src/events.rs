//! How hits and summaries are printed.

mod folded;
mod histogram;
mod injected;
mod perfetto;
mod text;
mod tree;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use probe::arguments::Value;
use probe::stacks::{Function, Place};
use serde::{Serialize, Serializer};

use crate::args::Format;
use crate::output::printable;

pub(crate) use folded::{print_folded, print_stacks};
pub(crate) use histogram::print_histogram;
pub(crate) use injected::Shown;
use perfetto::Perfetto;
use text::Text;
pub(crate) use text::{Look, stack_lines};
use tree::Tree;

/// One hit.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    pub(crate) probe: &'a str,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) comm: Option<String>,
    pub(crate) cpu: Option<u32>,
    /// `CLOCK_MONOTONIC`.
    pub(crate) time_ns: u64,
    pub(crate) ip: u64,
    /// What lies at `ip`.
    #[serde(flatten, serialize_with = "as_keys")]
    pub(crate) place: Option<Arc<Place>>,
    #[serde(serialize_with = "as_map")]
    pub(crate) args: Vec<(&'a str, Value)>,
    /// How long the call has taken, and RAX, if this is a return.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) duration_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) retval: Option<Value>,
    /// What was injected.
    #[serde(flatten)]
    pub(crate) injected: Option<Shown>,
    /// Whether it is the entry of a call whose return is an event, too.
    #[serde(skip)]
    pub(crate) is_entry: bool,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "as_frames")]
    pub(crate) stack: Option<Vec<Arc<Place>>>,
    /// What is printed instead, as text.
    #[serde(skip)]
    pub(crate) line: Option<String>,
}

/// A function on a stack, as JSON has it.
#[derive(Debug, Serialize)]
pub(crate) struct Frame<'a> {
    ip: u64,
    #[serde(flatten)]
    at: At<'a>,
    inlined: bool,
}

/// Where an address lies.
#[derive(Debug, Default, Serialize)]
pub(crate) struct At<'a> {
    function: Option<&'a str>,
    offset: Option<u64>,
    file: Option<&'a str>,
    line: Option<u64>,
    object: Option<String>,
}

impl<'a> At<'a> {
    pub(crate) fn new(place: &'a Place, function: Option<&'a Function>) -> At<'a> {
        At {
            function: function.and_then(|function| function.name.as_deref()),
            // Without a function, where it is in the object.
            offset: function.map_or(place.address, |function| function.offset),
            file: function.and_then(|function| function.file.as_deref()),
            line: function.and_then(|function| function.line),
            object: place.object.as_ref().map(|object| object.to_string_lossy().into_owned()),
        }
    }
}

/// The functions at each place of a stack.
pub(crate) fn frames(stack: &[Arc<Place>]) -> Vec<Frame<'_>> {
    stack.iter().flat_map(|place| frames_at(place)).collect()
}

fn frames_at<'a>(place: &'a Place) -> Vec<Frame<'a>> {
    let inlined = |function: &Function| function.inlined;
    let known = place.functions.iter().map(Some);
    let unknown = place.functions.is_empty().then_some(None);
    let new = |function: Option<&'a Function>| Frame {
        ip: place.ip,
        at: At::new(place, function),
        inlined: function.is_some_and(inlined),
    };
    known.chain(unknown).map(new).collect()
}

fn as_map<S: Serializer>(args: &[(&str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(args.iter().map(|(name, value)| (name, value)))
}

pub(crate) fn as_keys<S: Serializer>(place: &Option<Arc<Place>>, serializer: S) -> Result<S::Ok, S::Error> {
    match place {
        Some(place) => At::new(place, place.functions.last()).serialize(serializer),
        None => At::default().serialize(serializer),
    }
}

fn as_frames<S: Serializer>(stack: &Option<Vec<Arc<Place>>>, serializer: S) -> Result<S::Ok, S::Error> {
    frames(stack.as_deref().unwrap_or_default()).serialize(serializer)
}

fn is_none(count: &u64) -> bool {
    *count == 0
}

/// The counts of one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) probe: String,
    pub(crate) hits: u64,
    pub(crate) emulated: u64,
    pub(crate) faulted: u64,
    pub(crate) filtered: u64,
    /// Of these, hits for which the condition had no value.
    #[serde(skip_serializing_if = "is_none")]
    pub(crate) undefined: u64,
    pub(crate) missed: u64,
    /// Hits of instructions that only the thread itself can execute: it did, the others held.
    pub(crate) native: u64,
    /// Of returns: calls that were left without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dropped: Option<u64>,
    /// How often something was injected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) injected: Option<u64>,
    /// How often that has failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<u64>,
    /// Of an indirect function: what the implementations are called that are probed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) implementations: Vec<String>,
    /// How many of its sites cannot be probed, by the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) refused: BTreeMap<String, u64>,
    /// Whether it is one of several functions that a pattern stands for.
    #[serde(skip)]
    pub(crate) is_part: bool,
}

/// A place where events go, one after the other, each at once.
pub(crate) struct Events<W: Write> {
    out: W,
    form: Form,
    buffer: Vec<u8>,
}

enum Form {
    Text(Text),
    Json,
    Tree(Tree),
    Perfetto(Box<Perfetto>),
    /// Nothing before the end.
    Folded,
}

const NS_PER_US: u64 = 1000;
const NS_PER_S: u64 = 1_000_000_000;

impl<W: Write> Events<W> {
    /// Events of probes whose names have at most `width` letters, in colours if that is wanted.
    pub(crate) fn new(out: W, format: Format, width: usize, coloured: bool) -> Events<W> {
        let form = match format {
            Format::Text => Form::Text(Text::new(width, coloured)),
            Format::Json => Form::Json,
            Format::Tree => Form::Tree(Tree::new(coloured)),
            Format::Perfetto => Form::Perfetto(Box::default()),
            Format::Folded => Form::Folded,
        };
        Events { out, form, buffer: Vec::new() }
    }

    /// There is a probe whose name has `width` letters.
    pub(crate) fn widen(&mut self, width: usize) {
        if let Form::Text(text) = &mut self.form {
            text.widen(width);
        }
    }

    /// Prints one event.
    pub(crate) fn print(&mut self, event: &Event<'_>) -> io::Result<()> {
        self.buffer.clear();
        match &mut self.form {
            Form::Text(text) => text.event(event, &mut self.buffer)?,
            Form::Json => {
                serde_json::to_writer(&mut self.buffer, event)?;
                self.buffer.push(b'\n');
            }
            Form::Tree(tree) => tree.event(event, &mut self.buffer)?,
            Form::Perfetto(perfetto) => perfetto.event(event, &mut self.buffer),
            Form::Folded => {}
        }
        self.out.write_all(&self.buffer)
    }

    /// Prints what the format needs at its end.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.buffer.clear();
        match &mut self.form {
            Form::Perfetto(perfetto) => perfetto.finish(&mut self.buffer),
            Form::Tree(tree) => tree.finish(&mut self.buffer)?,
            Form::Text(_) | Form::Json | Form::Folded => {}
        }
        self.out.write_all(&self.buffer)?;
        self.out.flush()
    }

    /// Where the events go.
    pub(crate) fn out(&mut self) -> &mut W {
        &mut self.out
    }
}

/// Prints the counts as a table.
pub(crate) fn print_counts(out: &mut impl Write, counts: &[Counts]) -> io::Result<()> {
    const LEAST: usize = "PROBE".len();
    /// A name that is longer moves its own line alone.
    const WIDEST: usize = 200;
    /// As many functions of a pattern are shown without a hit.
    const FEW: usize = 10;
    let idle = |counts: &&Counts| counts.is_part && counts.hits == 0;
    let left_out = counts.iter().filter(idle).count();
    let left_out = if left_out > FEW { left_out } else { 0 };
    let shown = || counts.iter().filter(move |counts| left_out == 0 || !idle(counts));
    let width = shown().map(|counts| counts.probe.chars().count()).max().unwrap_or(0).clamp(LEAST, WIDEST);
    // At once, so that what the command prints meanwhile does not come between.
    let mut text = Vec::new();
    write!(
        text,
        "{:<width$} {:>12} {:>12} {:>9} {:>9} {:>9} {:>9}",
        "PROBE", "HITS", "EMULATED", "FAULTED", "FILTERED", "MISSED", "NATIVE"
    )?;
    let returns = counts.iter().any(|counts| counts.dropped.is_some());
    let injects = counts.iter().any(|counts| counts.injected.is_some());
    write!(text, "{}", if returns { "   DROPPED" } else { "" })?;
    writeln!(text, "{}", if injects { "  INJECTED    FAILED" } else { "" })?;
    for Counts {
        probe,
        hits,
        emulated,
        faulted,
        filtered,
        missed,
        native,
        dropped,
        implementations,
        injected,
        failed,
        ..
    } in shown()
    {
        let probe = printable(probe);
        write!(
            text,
            "{probe:<width$} {hits:>12} {emulated:>12} {faulted:>9} {filtered:>9} {missed:>9} {native:>9}"
        )?;
        match dropped {
            Some(dropped) => write!(text, " {dropped:>9}")?,
            None if returns => write!(text, " {:>9}", "")?,
            None => {}
        }
        if let (Some(injected), Some(failed)) = (injected, failed) {
            write!(text, " {injected:>9} {failed:>9}")?;
        }
        writeln!(text)?;
        if !implementations.is_empty() {
            writeln!(text, "  is {}", printable(&implementations.join(" or ")))?;
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

    pub(super) fn event(time_ns: u64) -> Event<'static> {
        let args = vec![("n", Value::Signed(-3))];
        let function = |name: &str, inlined: bool| Function {
            name: Some(name.to_owned()),
            offset: (!inlined).then_some(0x1c),
            file: Some("/src/app.c".to_owned()),
            line: Some(12),
            inlined,
        };
        let place = Arc::new(Place {
            ip: 0x1234,
            object: Some("/lib/libc.so.6".into()),
            address: Some(0x34),
            functions: vec![function("small", true), function("malloc", false)],
        });
        let unknown = Arc::new(Place { ip: 0x77, ..Place::default() });
        Event {
            line: None,
            probe: "libc.so.6:malloc",
            pid: 7,
            tid: 8,
            comm: Some("app".to_owned()),
            cpu: Some(1),
            time_ns,
            ip: 0x1234,
            place: Some(Arc::clone(&place)),
            args,
            duration_ns: None,
            retval: None,
            injected: None,
            is_entry: false,
            stack: Some(vec![place, unknown]),
        }
    }

    pub(super) fn printed(format: Format, events: &[Event<'_>]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut printing = Events::new(&mut out, format, 16, false);
        events.iter().for_each(|event| printing.print(event).unwrap());
        printing.finish().unwrap();
        out
    }

    #[test]
    fn json_is_one_document_per_line() {
        let text = String::from_utf8(printed(Format::Json, &[event(1), event(2)])).unwrap();
        for (line, time) in text.lines().zip([1, 2]) {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            for key in ["args", "cpu", "ip", "pid", "probe", "tid", "time_ns"] {
                assert!(value.get(key).is_some(), "{key}");
            }
            assert_eq!(value["time_ns"], time);
            assert_eq!(value["args"], serde_json::json!({ "n": -3 }));
            assert_eq!((&value["function"], &value["offset"]), (&"malloc".into(), &0x1c.into()));
            let stack = value["stack"].as_array().unwrap();
            let functions: Vec<_> = stack.iter().map(|frame| frame["function"].as_str()).collect();
            assert_eq!(functions, [Some("small"), Some("malloc"), None]);
            assert_eq!(stack[0]["inlined"], true);
            assert_eq!((&stack[1]["file"], &stack[1]["line"]), (&"/src/app.c".into(), &12.into()));
            assert_eq!((&stack[1]["object"], &stack[2]["ip"]), (&"/lib/libc.so.6".into(), &0x77.into()));
        }
        assert_eq!(text.lines().count(), 2);
    }
}
