//! How changes are printed.

use std::io::{self, Write};
use std::sync::Arc;

use probe::arguments::Value;
use probe::stacks::{Place, Symbolizer};
use probe::warden::ChangeRecord;
use probe::watch::{WatchId, Watching, Writer};
use serde::Serialize;

use crate::events::{At, Frame, Look, frames, stack_lines};
use crate::list::disassemble;
use crate::output::printable;
use crate::run::Out;

const NS_PER_S: u64 = 1_000_000_000;
/// The longest name of a thread, which Linux cuts.
const COMM: usize = 15;
/// A column that is wider than this is left at that.
const WIDEST: usize = 60;

/// Where changes go, one after the other, each at once.
pub(super) struct Printer {
    out: Out,
    look: Look,
    json: bool,
    names: Vec<String>,
    symbolizer: Symbolizer,
    widths: [usize; 3],
    start_ns: Option<u64>,
    /// By watch: what was told of it when it began, once.
    told: Vec<bool>,
}

/// A change as JSON has it.
#[derive(Serialize)]
struct Document<'a> {
    watch: &'a str,
    pid: i32,
    tid: i32,
    comm: Option<String>,
    time_ns: u64,
    old: Option<&'a Value>,
    new: Option<&'a Value>,
    writer: &'static str,
    ip: Option<u64>,
    #[serde(flatten)]
    at: At<'a>,
    instruction: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    system_call: Option<u64>,
    /// Where more than one instruction comes into question.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    candidates: &'a [u64],
    overtaken: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    moved: Option<[u64; 2]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stack: Option<Vec<Frame<'a>>>,
}

impl Printer {
    pub(super) fn new(
        out: Out,
        coloured: bool,
        json: bool,
        names: Vec<String>,
        symbolizer: Symbolizer,
    ) -> Printer {
        let told = vec![false; names.len()];
        let look = Look::new(coloured);
        Printer { out, look, json, names, symbolizer, widths: [24, 20, 0], start_ns: None, told }
    }

    pub(super) fn name(&self, watch: WatchId) -> &str {
        self.names.get(watch.index()).map_or("?", String::as_str)
    }

    /// Says how something is watched, the first time that it is.
    pub(super) fn watching(&mut self, watch: WatchId, watching: &Watching) {
        let Some(told) = self.told.get_mut(watch.index()) else { return };
        if std::mem::replace(told, true) {
            return;
        }
        let how = match (watching.runs_on, watching.sees_kernel) {
            (true, _) => "by running on, in the thread of each hit alone",
            (false, true) => "by debug registers, in all threads",
            (false, false) => "by debug registers, in all threads, without what the kernel writes",
        };
        let place = watching.address.map(|address| format!(" at {address:#x}")).unwrap_or_default();
        let bytes = watching.bytes;
        let name = self.name(watch);
        crate::warn(&format!("`{name}`: {bytes} bytes{place} are watched {how}"));
    }

    pub(super) fn change(&mut self, change: &ChangeRecord) -> io::Result<()> {
        let place = change.place.as_ref().map(|frame| self.symbolizer.place(frame));
        let frames = change.stack.iter().skip(1);
        let stack: Vec<Arc<Place>> = frames.map(|frame| self.symbolizer.place(frame)).collect();
        let mut text = Vec::new();
        match self.json {
            true => {
                serde_json::to_writer(&mut text, &self.document(change, place.as_deref(), &stack))?;
                text.push(b'\n');
            }
            false => self.line(change, place.as_deref(), &stack, &mut text)?,
        }
        self.out.write_all(&text)
    }

    fn document<'a>(
        &'a self,
        change: &'a ChangeRecord,
        place: Option<&'a Place>,
        stack: &'a [Arc<Place>],
    ) -> Document<'a> {
        let (writer, system_call, candidates) = match &change.writer {
            Writer::Instruction { .. } => ("instruction", None, &[][..]),
            Writer::OneOf { addresses } => ("one_of", None, &addresses[..]),
            Writer::SystemCall { number, .. } => ("system_call", Some(*number), &[][..]),
            Writer::Blocked => ("blocked", None, &[][..]),
            Writer::Unseen => ("unseen", None, &[][..]),
            Writer::Meanwhile { system_call, .. } => ("meanwhile", *system_call, &[][..]),
            _ => ("unknown", None, &[][..]),
        };
        Document {
            watch: self.name(change.watch),
            pid: change.pid,
            tid: change.tid,
            comm: change.comm.as_deref().map(|comm| String::from_utf8_lossy(comm).into_owned()),
            time_ns: change.time_ns,
            old: change.old.as_ref(),
            new: change.new.as_ref(),
            writer,
            ip: change.writer.address(),
            at: place.map(|place| At::new(place, place.functions.last())).unwrap_or_default(),
            instruction: instruction(change),
            system_call,
            candidates,
            overtaken: change.overtaken,
            moved: change.moved.map(|(old, new)| [old, new]),
            stack: (!change.stack.is_empty()).then(|| frames(stack)),
        }
    }

    fn line(
        &mut self,
        change: &ChangeRecord,
        place: Option<&Place>,
        stack: &[Arc<Place>],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let shown = |value: &Option<Value>| value.as_ref().map_or_else(|| "?".to_owned(), Value::to_string);
        let (old, new) = (shown(&change.old), shown(&change.new));
        let name = self.name(change.watch);
        let mut what = match change.overtaken {
            false => format!("{name}: {old} -> {new}"),
            // Whether it has changed anything is not known.
            true => format!("{name}: written, {new}"),
        };
        if let Some((_, now)) = change.moved {
            what += &format!(" (now at {now:#x})");
        }
        let (place, source) = match (&change.writer, place) {
            (Writer::Blocked, _) => ("while SIGTRAP was blocked".to_owned(), String::new()),
            (Writer::Unseen, _) => ("by nobody who was seen".to_owned(), String::new()),
            (_, Some(place)) => (place.name(), place.source().unwrap_or_default()),
            (_, None) => ("by an instruction that cannot be told".to_owned(), String::new()),
        };
        let columns = [&what, &place, &source];
        for (width, column) in self.widths.iter_mut().zip(columns) {
            *width = (*width).max(column.chars().count().min(WIDEST));
        }
        let [what_width, place_width, source_width] = self.widths;
        let look = self.look;
        if self.start_ns.is_none() {
            let header = format!(
                "{:>14} {:<COMM$} {:>8}  {:<what_width$}  {:<place_width$}",
                "TIME", "COMM", "TID", "CHANGE", "PLACE"
            );
            writeln!(out, "{}", look.dim(header.trim_end()))?;
        }
        let start_ns = *self.start_ns.get_or_insert(change.time_ns);
        let since_ns = change.time_ns.saturating_sub(start_ns);
        let time = format!("{:>4}.{:09}", since_ns / NS_PER_S, since_ns % NS_PER_S);
        let comm = change.comm.as_deref().map_or_else(|| "?".into(), String::from_utf8_lossy);
        let comm = printable(&comm);
        let mut line = format!(
            "{} {comm:<COMM$} {:>8}  {}  {}",
            look.dim(time),
            change.tid,
            look.probe(format!("{what:<what_width$}")),
            look.function(format!("{place:<place_width$}")),
        );
        if source_width > 0 {
            line += &format!("  {}", look.source(format!("{source:<source_width$}")));
        }
        if let Some(instruction) = instruction(change) {
            line += &format!("  {instruction}");
        }
        match &change.writer {
            Writer::SystemCall { number, .. } => line += &format!(" ({})", system_call(*number)),
            Writer::Meanwhile { system_call: Some(number), .. } => {
                line += &format!(" ({}), or somebody else meanwhile", system_call(*number));
            }
            Writer::Meanwhile { .. } => line += ", or somebody else meanwhile",
            Writer::OneOf { addresses } => {
                let others: Vec<String> =
                    addresses.iter().skip(1).map(|address| format!("{address:#x}")).collect();
                line += &format!(" (or that at {})", others.join(" or "));
            }
            _ => {}
        }
        writeln!(out, "{}", line.trim_end())?;
        stack.iter().try_for_each(|place| stack_lines(look, "        ", place, out))
    }
}

/// The instruction, in Intel's syntax.
fn instruction(change: &ChangeRecord) -> Option<String> {
    let (text, known) = disassemble(&change.code, change.writer.address()?);
    known.is_some().then_some(text)
}

/// The system calls that write to memory most often, by name.
fn system_call(number: u64) -> String {
    let number = number.cast_signed();
    let names = [
        (libc::SYS_read, "read"),
        (libc::SYS_pread64, "pread64"),
        (libc::SYS_readv, "readv"),
        (libc::SYS_recvfrom, "recvfrom"),
        (libc::SYS_recvmsg, "recvmsg"),
        (libc::SYS_getrandom, "getrandom"),
        (libc::SYS_clock_gettime, "clock_gettime"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_newfstatat, "newfstatat"),
        (libc::SYS_fstat, "fstat"),
        (libc::SYS_ioctl, "ioctl"),
        (libc::SYS_pipe2, "pipe2"),
        (libc::SYS_poll, "poll"),
        (libc::SYS_epoll_wait, "epoll_wait"),
    ];
    let known = names.into_iter().find(|&(known, _)| known == number);
    known.map_or_else(|| format!("system call {number}"), |(_, name)| name.to_owned())
}
