//! Changes of what is watched, on their way from the warden to its client.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::arguments::{Binding, Value};
use crate::engine::hit::{Action, now_ns};
use crate::engine::watch::{Change, Ending, WatchId, Watching, Writer};
use crate::stacks::StackFrame;
use crate::warden::callers::Callers;
use crate::warden::message::kind;
use crate::warden::outlet::Outlet;
use crate::warden::program::Fields;
use crate::warden::ring;
use crate::warden::run::Common;
use crate::warden::totals::{Modules, SentFrame, frame_of, sent_frame};

/// A change of what is watched.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ChangeRecord {
    /// The watch.
    pub watch: WatchId,
    /// The process.
    pub pid: i32,
    /// The thread that has made it or, where nobody was seen to, the one at which it was found.
    pub tid: i32,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub time_ns: u64,
    /// Who has made it.
    pub writer: Writer,
    /// Where the instruction is.
    pub place: Option<StackFrame>,
    /// The bytes there, as many of 15 as could be read.
    pub code: Vec<u8>,
    /// As [`Change::old_value`].
    pub old: Option<Value>,
    /// As [`Change::new_value`].
    pub new: Option<Value>,
    /// As [`Change::is_overtaken`].
    pub overtaken: bool,
    /// As [`Change::moved`].
    pub moved: Option<(u64, u64)>,
    /// The thread's name, if [`Fields::comm`] was asked for and it could be had.
    pub comm: Option<Vec<u8>>,
    /// The stack, as the thread goes on, with as many frames as [`Fields::stack`] has asked for.
    pub stack: Vec<StackFrame>,
}

/// The same on its way.
#[derive(Debug, Serialize, Deserialize)]
struct SentChange {
    watch: WatchId,
    number: u32,
    pid: i32,
    tid: i32,
    time_ns: u64,
    writer: Writer,
    place: Option<SentFrame>,
    code: Vec<u8>,
    old: Vec<u8>,
    new: Vec<u8>,
    overtaken: bool,
    moved: Option<(u64, u64)>,
    comm: Option<Vec<u8>>,
    stack: Vec<SentFrame>,
}

/// What becomes of something that is watched, on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SentWatch {
    Bound(u32, Box<Binding>),
    Watching(i32, Option<i32>, Watching),
    NotWatched(i32, Option<i32>, String),
    Ended(i32, Option<i32>, String),
}

impl SentWatch {
    pub(crate) fn ended(pid: i32, tid: Option<i32>, ending: &Ending) -> SentWatch {
        SentWatch::Ended(pid, tid, ending.to_string())
    }
}

/// What each watch comes to, by the numbers of both.
pub(crate) type WatchBindings = HashMap<(usize, u32), Arc<Binding>>;

/// Sends a change.
pub(crate) fn send(common: &Common, fields: Fields, change: &mut Change<'_, '_>) -> Action {
    let Common { outlet, callers, limit, .. } = common;
    let Some(is_last) = limit.take() else { return Action::Stop };
    change.bound.told.get_or_init(|| {
        let (number, binding) = (change.bound.number, Box::new(change.bound.binding.clone()));
        outlet.watch(change.watch, SentWatch::Bound(number, binding));
    });
    let sent = sent(fields, change, callers, outlet);
    if let Ok(bytes) = postcard::to_stdvec(&sent) {
        outlet.record(kind::CHANGE, &ring::words_of(&bytes));
    }
    if is_last { Action::Stop } else { Action::Continue }
}

fn sent(fields: Fields, change: &mut Change<'_, '_>, callers: &Callers, outlet: &Outlet) -> SentChange {
    /// The longest instruction.
    const LONGEST: usize = 15;
    let (pid, tid) = (change.pid(), change.tid());
    let mut code = Vec::new();
    let mut place = None;
    if let Some(address) = change.writer.address() {
        code = vec![0; LONGEST];
        let read = change.read_up_to(address, &mut code);
        code.truncate(read);
        place = Some(sent_frame(&callers.frame(pid, address, outlet)));
    }
    let stack = match fields.frames() {
        0 => Vec::new(),
        frames => callers.stack_of(change, frames, outlet).iter().map(sent_frame).collect(),
    };
    SentChange {
        watch: change.watch,
        number: change.bound.number,
        pid,
        tid,
        time_ns: now_ns(),
        writer: change.writer.clone(),
        place,
        code,
        old: change.old.clone(),
        new: change.new.clone(),
        overtaken: change.overtaken,
        moved: change.moved,
        comm: if fields.has_comm() { callers.name(tid) } else { None },
        stack,
    }
}

impl ChangeRecord {
    /// `None` if the words are none.
    pub(crate) fn of_words(
        words: &[u64],
        bindings: &WatchBindings,
        modules: &Modules,
    ) -> Option<ChangeRecord> {
        let sent: SentChange = postcard::from_bytes(&ring::bytes_of(words)?).ok()?;
        let binding = bindings.get(&(sent.watch.index(), sent.number));
        let value = |taken: &[u8]| Some(binding?.values(taken).next()?.1);
        Some(ChangeRecord {
            watch: sent.watch,
            pid: sent.pid,
            tid: sent.tid,
            time_ns: sent.time_ns,
            old: value(&sent.old),
            new: value(&sent.new),
            writer: sent.writer,
            place: sent.place.map(|place| frame_of(place, modules)),
            code: sent.code,
            overtaken: sent.overtaken,
            moved: sent.moved,
            comm: sent.comm,
            stack: sent.stack.into_iter().map(|frame| frame_of(frame, modules)).collect(),
        })
    }
}
