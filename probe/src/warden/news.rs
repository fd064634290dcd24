//! What comes back from a warden, as data: events, reports, records of hits, and why something failed.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::arguments::change::Applied;
use crate::arguments::{Binding, Injected, Value};
use crate::engine::event::{self, Counters};
use crate::engine::hit::ProbeId;
use crate::engine::watch::{WatchId, Watching};
use crate::error::AttachError;
use crate::executor::space::Unplaceable;
use crate::language::Register;
use crate::stacks::{SentModule, StackFrame};
use crate::warden::changes::{ChangeRecord, SentWatch};
use crate::warden::message;
use crate::warden::program::Fields;
use crate::warden::ring;
use crate::warden::steps::StepRecord;
use crate::warden::totals::{Modules, SentFrame, frame_of, sent_frame};

/// What a warden tells its client.
#[derive(Debug)]
#[non_exhaustive]
pub enum News {
    /// A program has recorded a hit.
    Hit(Record),
    /// What is watched has changed.
    Change(ChangeRecord),
    /// A thread that runs on has executed an instruction, or something else has happened to it.
    Step(StepRecord),
    /// Something has happened to the target or to a probe.
    Event(Event),
    /// What lies at an address of which the next event tells, which the process may not live to say itself: see
    /// [`Symbolizer::note`](crate::stacks::Symbolizer::note).
    Place {
        /// The process.
        pid: i32,
        /// The address, and what it belongs to.
        frame: StackFrame,
    },
    /// So many records and events were dropped: while the client's process was stopped (SIGSTOP, SIGTSTP), for which
    /// the target does not wait, or as [`Client::drop_when_full`](crate::warden::Client::drop_when_full) wishes.
    Lost(u64),
}

/// A hit.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The probe.
    pub probe: ProbeId,
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub time_ns: u64,
    /// The address of the instruction.
    pub ip: u64,
    /// The processor on which the thread ran last, if [`Fields::cpu`] was asked for and it could be had.
    pub cpu: Option<u32>,
    /// The registers that [`Fields::register`] has asked for.
    pub registers: Vec<(Register, u64)>,
    /// How long the call has taken, in nanoseconds, where this is the return of one that is followed; see
    /// [`Call::duration_ns`](crate::Call::duration_ns).
    pub duration_ns: Option<u64>,
    /// The thread's name, if [`Fields::comm`] was asked for and it could be had.
    pub comm: Option<Vec<u8>>,
    /// The stack, the thread's own place first, with as many frames as [`Fields::stack`] has asked for.
    pub stack: Vec<StackFrame>,
    /// The arguments, if [`Fields::arguments`] was asked for and they could be had; as they were before what was injected.
    pub arguments: Option<Arguments>,
    /// What was injected, if a step of the program was to.
    pub injection: Option<Injection>,
}

/// The arguments of a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// The number of the binding.
    pub(crate) number: u32,
    pub(crate) taken: Vec<u8>,
    pub(crate) binding: Option<Arc<Binding>>,
}

impl Arguments {
    /// Each with its name, in the order of the [`Template`](crate::arguments::Template).
    pub fn values(&self) -> impl Iterator<Item = (&str, Value)> {
        self.binding.iter().flat_map(|binding| binding.values(&self.taken))
    }
}

/// An injection at a hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injection {
    /// The number of the binding, if there is one.
    pub(crate) number: Option<u32>,
    pub(crate) applied: Applied,
    pub(crate) binding: Option<Arc<Binding>>,
}

impl Injection {
    /// What was done.
    #[must_use]
    pub fn injected(&self) -> Injected {
        match &self.binding {
            Some(binding) => binding.injected(&self.applied),
            None => Binding::default().injected(&self.applied),
        }
    }

    /// As words before those of a record of that kind: how many there are, and the bytes.
    pub(crate) fn to_words(&self, kind: u8, record: &[u64]) -> Vec<u64> {
        // What is as simple as this is always written.
        let bytes = postcard::to_stdvec(&(self.number, kind, &self.applied)).unwrap_or_default();
        let words = ring::words_of(&bytes);
        [&[words.len() as u64], &*words, record].concat()
    }

    /// The record behind such words; `None` if they are none.
    pub(crate) fn of_words(words: &[u64], modules: &Modules) -> Option<Record> {
        let (&length, rest) = words.split_first()?;
        let (own, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        let (number, kind, applied) = postcard::from_bytes(&ring::bytes_of(own)?).ok()?;
        let record = match kind {
            message::kind::HIT => Record::of_words(rest, modules)?,
            message::kind::RETURN => Record::of_return(rest, modules)?,
            _ => return None,
        };
        Some(Record { injection: Some(Injection { number, applied, binding: None }), ..record })
    }
}

/// No processor has this number.
const NO_CPU: u64 = u64::MAX;
/// Nor has any binding this one.
const NO_ARGUMENTS: u64 = u64::MAX;

impl Record {
    /// As the words of a record in the ring.
    pub(crate) fn to_words(&self, fields: Fields) -> Vec<u64> {
        let mut words = vec![
            low_high(self.probe.index() as u32, fields.to_bits()),
            low_high(self.pid.cast_unsigned(), self.tid.cast_unsigned()),
            self.time_ns,
            self.ip,
        ];
        if fields.has_cpu() {
            words.push(self.cpu.map_or(NO_CPU, u64::from));
        }
        words.extend(self.registers.iter().map(|&(_, value)| value));
        if fields.has_comm() {
            words.extend(comm_words(self.comm.as_deref().unwrap_or_default()));
        }
        if fields.frames() > 0 {
            words.extend(frame_words(&self.stack));
        }
        if fields.has_arguments() {
            words.push(self.arguments.as_ref().map_or(NO_ARGUMENTS, |arguments| arguments.number.into()));
            words.extend(self.arguments.iter().flat_map(|arguments| ring::words_of(&arguments.taken)));
        }
        words
    }

    /// As the words of a return.
    pub(crate) fn of_return(words: &[u64], modules: &Modules) -> Option<Record> {
        let (&duration_ns, rest) = words.split_first()?;
        Some(Record { duration_ns: Some(duration_ns), ..Record::of_words(rest, modules)? })
    }

    /// The same back; `None` if they are none.
    pub(crate) fn of_words(words: &[u64], modules: &Modules) -> Option<Record> {
        let (&[first, who, time_ns, ip], rest) = words.split_first_chunk::<4>()?;
        let mut rest = rest.iter().copied();
        let fields = Fields::of_bits((first >> 32) as u32);
        let cpu = if fields.has_cpu() { u32::try_from(rest.next()?).ok() } else { None };
        let registers = fields.registers().map(|register| Some((register, rest.next()?)));
        let registers = registers.collect::<Option<_>>()?;
        let comm = match fields.has_comm() {
            true => comm_of([rest.next()?, rest.next()?]),
            false => None,
        };
        let stack = match fields.frames() {
            0 => Vec::new(),
            _ => frames_of(&mut rest, modules)?,
        };
        let arguments = match fields.has_arguments() {
            true => arguments_of(rest.next()?, &rest.collect::<Vec<_>>())?,
            false => None,
        };
        Some(Record {
            arguments,
            injection: None,
            probe: ProbeId(first as u32 as usize),
            pid: who as u32 as i32,
            tid: (who >> 32) as u32 as i32,
            time_ns,
            ip,
            cpu,
            registers,
            duration_ns: None,
            comm,
            stack,
        })
    }
}

/// A name, with zeros behind it.
fn comm_words(name: &[u8]) -> [u64; 2] {
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(name).for_each(|(byte, &letter)| *byte = letter);
    let (low, high) = bytes.split_at(8);
    [low, high].map(|half| half.try_into().map_or(0, u64::from_le_bytes))
}

fn comm_of(words: [u64; 2]) -> Option<Vec<u8>> {
    let bytes = words.map(u64::to_le_bytes).concat();
    let name = bytes.split(|&byte| byte == 0).next()?;
    (!name.is_empty()).then(|| name.to_vec())
}

/// How many there are, their addresses, and two of the rest in each word.
fn frame_words(frames: &[StackFrame]) -> Vec<u64> {
    let sent: Vec<SentFrame> = frames.iter().map(sent_frame).collect();
    let mut words = vec![sent.len() as u64];
    words.extend(sent.iter().map(|&(ip, _)| ip));
    let numbers = |pair: &[SentFrame]| low_high(pair[0].1, pair.get(1).map_or(0, |&(_, number)| number));
    words.extend(sent.chunks(2).map(numbers));
    words
}

fn frames_of(words: &mut impl Iterator<Item = u64>, modules: &Modules) -> Option<Vec<StackFrame>> {
    const MOST: u64 = 1 << 16;
    let count = words.next().filter(|&count| count <= MOST)? as usize;
    let ips: Vec<u64> = words.by_ref().take(count).collect();
    let numbers: Vec<u64> = words.by_ref().take(count.div_ceil(2)).collect();
    let numbers = numbers.iter().flat_map(|&pair| [pair as u32, (pair >> 32) as u32]);
    let frames = ips.iter().zip(numbers).map(|(&ip, number)| frame_of((ip, number), modules));
    let frames: Vec<StackFrame> = frames.collect();
    (frames.len() == count).then_some(frames)
}

/// `None` if the words are no arguments; otherwise those, if there are some.
fn arguments_of(number: u64, words: &[u64]) -> Option<Option<Arguments>> {
    if number == NO_ARGUMENTS {
        return Some(None);
    }
    let number = u32::try_from(number).ok()?;
    Some(Some(Arguments { number, taken: ring::bytes_of(words)?, binding: None }))
}

pub(crate) fn low_high(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// An error of the system as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SystemError {
    number: Option<i32>,
    text: String,
}

impl From<&io::Error> for SystemError {
    fn from(error: &io::Error) -> SystemError {
        SystemError { number: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<SystemError> for io::Error {
    fn from(error: SystemError) -> io::Error {
        error.number.map_or_else(|| io::Error::other(error.text), io::Error::from_raw_os_error)
    }
}

/// As [`event::Event`], which says more of each; it owns what it tells.
#[derive(Debug)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the fields are those of the other one")]
pub enum Event {
    /// A child process is traced from now on.
    Followed { pid: i32, parent: i32 },
    /// A process executes a new program.
    Exec { pid: i32 },
    /// A process executes a program whose memory cannot be opened.
    Inaccessible { pid: i32, error: io::Error },
    /// A process executes a program that is no 64-bit one.
    Not64Bit { pid: i32 },
    /// A process ended.
    Ended { pid: i32, status: ExitStatus },
    /// A probe of many sites is being placed.
    Placing { probe: ProbeId, pid: i32, done: u64, total: u64 },
    /// No breakpoint can be put where calls that a probe follows return to.
    NoReturnSite { probe: ProbeId, pid: i32, refusal: Refusal },
    /// A probe of several functions consists of this one, among others.
    Part { probe: ProbeId, part: ProbeId, name: String },
    /// A probe got a site, after it was made.
    Placed { probe: ProbeId, pid: i32, address: u64 },
    /// A probe of an indirect function got sites, after it was made.
    Implementations { probe: ProbeId, pid: i32, names: Vec<String> },
    /// A site of a probe cannot be probed.
    Refused { probe: ProbeId, pid: i32, refusal: Refusal },
    /// The object is mapped now, but lacks what the probe names.
    Unresolvable { probe: ProbeId, pid: i32, error: String },
    /// The kernel has refused a request, though the thread lives.
    Failed { pid: i32, tid: i32, request: String, error: Errno },
    /// The kernel has refused what was written to a thread's registers.
    Rejected { pid: i32, tid: i32, error: Errno },
    /// The program has overwritten a probed instruction.
    Overwritten { pid: i32, address: u64, missing: Duration },
    /// A breakpoint was missing and has been placed again.
    Restored { pid: i32, address: u64, missing: Duration },
    /// The program has copied text with a breakpoint in it.
    Copied { pid: i32, address: u64, of: u64, served: bool },
    /// A thread that was just made has no hardware breakpoint for a site.
    Unwatched { pid: i32, tid: i32, address: u64, error: Errno },
    /// A breakpoint in a restartable sequence has been taken out.
    Sequence { pid: i32, address: u64 },
    /// Something is watched from now on.
    Watching { watch: WatchId, pid: i32, tid: Option<i32>, watching: Watching },
    /// Something is not watched that was to be.
    NotWatched { watch: WatchId, pid: i32, tid: Option<i32>, reason: String },
    /// Something is not watched any more.
    WatchEnded { watch: WatchId, pid: i32, tid: Option<i32>, ending: String },
}

/// A site that cannot be probed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Refusal {
    /// The address.
    pub address: u64,
    /// Why.
    pub reason: String,
    /// The same without the bytes of the instruction, which differ from site to site.
    pub kind: String,
}

impl Refusal {
    pub(crate) fn new(address: u64, reason: &Unplaceable) -> Refusal {
        let kind = match reason {
            Unplaceable::Instruction { why, .. } => why.to_string(),
            other => other.to_string(),
        };
        Refusal { address, reason: reason.to_string(), kind }
    }
}

/// [`Event`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Sent {
    Followed(i32, i32),
    Exec(i32),
    Inaccessible(i32, SystemError),
    Not64Bit(i32),
    Ended(i32, i32),
    Placing(u32, i32, u64, u64),
    Part(u32, u32, String),
    Placed(u32, i32, u64),
    Implementations(u32, i32, Vec<String>),
    Refused(u32, i32, Refusal),
    NoReturnSite(u32, i32, Refusal),
    Unresolvable(u32, i32, String),
    Failed(i32, i32, String, i32),
    Rejected(i32, i32, i32),
    Overwritten(i32, u64, Duration),
    Restored(i32, u64, Duration),
    Copied(i32, u64, u64, bool),
    Unwatched(i32, i32, u64, i32),
    Sequence(i32, u64),
    Watch(WatchId, SentWatch),
    /// The probe, and the number of the binding.
    Bound(u32, u32, Box<Binding>),
    /// What frames of stacks belong to.
    Module(SentModule),
    /// The process, and what lies at an address of which the next event tells.
    Place(i32, SentFrame),
}

impl Sent {
    /// What can be sent of an event of the engine; `None` for one that this version knows nothing of.
    pub(crate) fn of(event: &event::Event<'_>) -> Option<Sent> {
        use event::Event as Of;
        let index = |probe: &ProbeId| u32::try_from(probe.index()).unwrap_or(u32::MAX);
        Some(match event {
            Of::Followed { pid, parent } => Sent::Followed(*pid, *parent),
            Of::Exec { pid } => Sent::Exec(*pid),
            Of::Inaccessible { pid, error } => Sent::Inaccessible(*pid, SystemError::from(*error)),
            Of::Not64Bit { pid } => Sent::Not64Bit(*pid),
            Of::Ended { pid, status } => Sent::Ended(*pid, status.into_raw()),
            Of::Placing { probe, pid, done, total } => {
                Sent::Placing(index(probe), *pid, *done as u64, *total as u64)
            }
            Of::Part { probe, part, name } => Sent::Part(index(probe), index(part), (*name).to_owned()),
            Of::Placed { probe, pid, address } => Sent::Placed(index(probe), *pid, *address),
            Of::Implementations { probe, pid, names } => {
                Sent::Implementations(index(probe), *pid, names.to_vec())
            }
            Of::Refused { probe, pid, address, reason } => {
                Sent::Refused(index(probe), *pid, Refusal::new(*address, reason))
            }
            Of::NoReturnSite { probe, pid, address, reason } => {
                Sent::NoReturnSite(index(probe), *pid, Refusal::new(*address, reason))
            }
            Of::Unresolvable { probe, pid, error } => {
                Sent::Unresolvable(index(probe), *pid, error.to_string())
            }
            Of::Failed { pid, tid, request, error } => {
                Sent::Failed(*pid, *tid, (*request).to_owned(), *error as i32)
            }
            Of::Rejected { pid, tid, error } => Sent::Rejected(*pid, *tid, *error as i32),
            Of::Overwritten { pid, address, missing } => Sent::Overwritten(*pid, *address, *missing),
            Of::Restored { pid, address, missing } => Sent::Restored(*pid, *address, *missing),
            Of::Copied { pid, address, of, served } => Sent::Copied(*pid, *address, *of, *served),
            Of::Unwatched { pid, tid, address, error } => {
                Sent::Unwatched(*pid, *tid, *address, *error as i32)
            }
            Of::Sequence { pid, address } => Sent::Sequence(*pid, *address),
            Of::Watching { watch, pid, tid, watching } => {
                Sent::Watch(*watch, SentWatch::Watching(*pid, *tid, *watching))
            }
            Of::NotWatched { watch, pid, tid, reason } => {
                Sent::Watch(*watch, SentWatch::NotWatched(*pid, *tid, reason.to_string()))
            }
            Of::WatchEnded { watch, pid, tid, ending } => {
                Sent::Watch(*watch, SentWatch::ended(*pid, *tid, ending))
            }
        })
    }
}

impl Event {
    /// `None` if it is for the client alone.
    pub(crate) fn of(sent: Sent) -> Option<Event> {
        let probe = |index: u32| ProbeId(index as usize);
        Some(match sent {
            Sent::Bound(..) | Sent::Module(_) | Sent::Place(..) | Sent::Watch(_, SentWatch::Bound(..)) => {
                return None;
            }
            Sent::Watch(watch, SentWatch::Watching(pid, tid, watching)) => {
                Event::Watching { watch, pid, tid, watching }
            }
            Sent::Watch(watch, SentWatch::NotWatched(pid, tid, reason)) => {
                Event::NotWatched { watch, pid, tid, reason }
            }
            Sent::Watch(watch, SentWatch::Ended(pid, tid, ending)) => {
                Event::WatchEnded { watch, pid, tid, ending }
            }
            Sent::Followed(pid, parent) => Event::Followed { pid, parent },
            Sent::Exec(pid) => Event::Exec { pid },
            Sent::Inaccessible(pid, error) => Event::Inaccessible { pid, error: error.into() },
            Sent::Not64Bit(pid) => Event::Not64Bit { pid },
            Sent::Ended(pid, status) => Event::Ended { pid, status: ExitStatus::from_raw(status) },
            Sent::Placing(index, pid, done, total) => {
                Event::Placing { probe: probe(index), pid, done, total }
            }
            Sent::Part(whole, part, name) => Event::Part { probe: probe(whole), part: probe(part), name },
            Sent::Placed(index, pid, address) => Event::Placed { probe: probe(index), pid, address },
            Sent::Implementations(index, pid, names) => {
                Event::Implementations { probe: probe(index), pid, names }
            }
            Sent::Refused(index, pid, refusal) => Event::Refused { probe: probe(index), pid, refusal },
            Sent::NoReturnSite(index, pid, refusal) => {
                Event::NoReturnSite { probe: probe(index), pid, refusal }
            }
            Sent::Unresolvable(index, pid, error) => Event::Unresolvable { probe: probe(index), pid, error },
            Sent::Failed(pid, tid, request, error) => {
                Event::Failed { pid, tid, request, error: Errno::from_raw(error) }
            }
            Sent::Rejected(pid, tid, error) => Event::Rejected { pid, tid, error: Errno::from_raw(error) },
            Sent::Overwritten(pid, address, missing) => Event::Overwritten { pid, address, missing },
            Sent::Restored(pid, address, missing) => Event::Restored { pid, address, missing },
            Sent::Copied(pid, address, of, served) => Event::Copied { pid, address, of, served },
            Sent::Unwatched(pid, tid, address, error) => {
                Event::Unwatched { pid, tid, address, error: Errno::from_raw(error) }
            }
            Sent::Sequence(pid, address) => Event::Sequence { pid, address },
        })
    }
}

/// What became of a probe so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What was counted.
    pub counters: Counters,
    /// What was counted of the returns, where calls are followed.
    pub returns: Option<Counters>,
    /// Of the hits that count as filtered, for how many the condition had no value: it divided by zero, or read memory
    /// that cannot be read.
    pub undefined: u64,
    /// How often something was injected.
    pub injected: u64,
    /// How often nothing was, as that has failed.
    pub failed: u64,
    /// Whether its sites are hardware breakpoints.
    pub hardware: bool,
    /// At how many addresses it has been placed, in any process.
    pub sites: u64,
    /// The sites that cannot be probed.
    pub refused: Vec<Refusal>,
    /// Why it has never been placed, if so.
    pub pending: Option<String>,
}

/// [`Counters`] on their way.
type SentCounters = [u64; 7];

fn sent(counters: Counters) -> SentCounters {
    let Counters { hits, emulated, native, faulted, filtered, missed, dropped } = counters;
    [hits, emulated, native, faulted, filtered, missed, dropped]
}

fn counted([hits, emulated, native, faulted, filtered, missed, dropped]: SentCounters) -> Counters {
    Counters { hits, emulated, native, faulted, filtered, missed, dropped }
}

/// [`Report`] on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SentReport {
    counters: SentCounters,
    returns: Option<SentCounters>,
    /// What programs have counted: [`Report::undefined`], [`Report::injected`], [`Report::failed`].
    by_programs: [u64; 3],
    hardware: bool,
    sites: u64,
    refused: Vec<Refusal>,
    pending: Option<String>,
}

impl SentReport {
    pub(crate) fn new(report: &event::ProbeReport, by_programs: [u64; 3]) -> SentReport {
        let refused = report.refused.iter().map(|(address, reason)| Refusal::new(*address, reason));
        SentReport {
            counters: sent(report.counters),
            returns: report.returns.map(sent),
            by_programs,
            hardware: report.hardware,
            sites: report.sites.len() as u64,
            refused: refused.collect(),
            pending: report.pending.as_ref().map(ToString::to_string),
        }
    }
}

impl From<SentReport> for Report {
    fn from(sent: SentReport) -> Report {
        let SentReport { counters, returns, by_programs, hardware, sites, refused, pending } = sent;
        let [undefined, injected, failed] = by_programs;
        Report {
            counters: counted(counters),
            returns: returns.map(counted),
            undefined,
            injected,
            failed,
            hardware,
            sites,
            refused,
            pending,
        }
    }
}

/// [`AttachError`] on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SentAttachError {
    NoSuchProcess(i32),
    Exited(i32),
    NotPermitted(i32, Option<u8>),
    AlreadyTraced(i32, i32, Option<String>),
    Own,
    Not64Bit(i32),
    Making(i32, i32),
    Launch(String, SystemError),
    System(String, i32),
}

impl From<AttachError> for SentAttachError {
    fn from(error: AttachError) -> SentAttachError {
        match error {
            AttachError::NoSuchProcess { pid } => SentAttachError::NoSuchProcess(pid),
            AttachError::Exited { pid } => SentAttachError::Exited(pid),
            AttachError::NotPermitted { pid, ptrace_scope } => {
                SentAttachError::NotPermitted(pid, ptrace_scope)
            }
            AttachError::AlreadyTraced { pid, tracer, name } => {
                SentAttachError::AlreadyTraced(pid, tracer, name)
            }
            AttachError::Own => SentAttachError::Own,
            AttachError::Not64Bit { pid } => SentAttachError::Not64Bit(pid),
            AttachError::Making { pid, tid } => SentAttachError::Making(pid, tid),
            AttachError::Launch { program, error } => SentAttachError::Launch(program, (&error).into()),
            AttachError::System { call, error } => SentAttachError::System(call.to_owned(), error as i32),
        }
    }
}

impl From<SentAttachError> for AttachError {
    fn from(error: SentAttachError) -> AttachError {
        /// Those that the engine names.
        const CALLS: [&str; 2] = ["PTRACE_SEIZE", "timer_create"];
        match error {
            SentAttachError::NoSuchProcess(pid) => AttachError::NoSuchProcess { pid },
            SentAttachError::Exited(pid) => AttachError::Exited { pid },
            SentAttachError::NotPermitted(pid, ptrace_scope) => {
                AttachError::NotPermitted { pid, ptrace_scope }
            }
            SentAttachError::AlreadyTraced(pid, tracer, name) => {
                AttachError::AlreadyTraced { pid, tracer, name }
            }
            SentAttachError::Own => AttachError::Own,
            SentAttachError::Not64Bit(pid) => AttachError::Not64Bit { pid },
            SentAttachError::Making(pid, tid) => AttachError::Making { pid, tid },
            SentAttachError::Launch(program, error) => AttachError::Launch { program, error: error.into() },
            SentAttachError::System(call, error) => {
                let known = CALLS.into_iter().find(|&known| known == call);
                AttachError::System { call: known.unwrap_or("a system call"), error: Errno::from_raw(error) }
            }
        }
    }
}

/// Why a warden did not do what it was asked for.
#[derive(Debug)]
#[non_exhaustive]
pub enum WardenError {
    /// It cannot be started.
    Start(io::Error),
    /// It is gone: somebody has killed it. Breakpoints may have stayed behind.
    Gone,
    /// It is another version, or it has sent what cannot be.
    Protocol(String),
    /// The process cannot be traced.
    Attach(AttachError),
    /// The probe was not placed; nothing in the target has changed. The text is that of a
    /// [`ProbeError`](crate::ProbeError).
    Probe(String),
}

impl fmt::Display for WardenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WardenError::Start(error) => {
                write!(f, "the process that is to trace cannot be started: {error}; free memory or processes")
            }
            WardenError::Gone => f.write_str(
                "the process that traces (stepless-warden) was killed; the target ends at the next breakpoint, \
                 so restart it",
            ),
            WardenError::Protocol(what) => {
                write!(f, "the process that traces (stepless-warden) is not of this version: {what}")
            }
            WardenError::Attach(error) => error.fmt(f),
            WardenError::Probe(reason) => f.write_str(reason),
        }
    }
}

impl std::error::Error for WardenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            WardenError::Start(error) => Some(error),
            WardenError::Attach(error) => error.source(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_from_their_words() {
        let fields =
            Fields::new().cpu().arguments().comm().stack(9).register(Register::Rdi).register(Register::Rax);
        let record = Record {
            arguments: Some(Arguments { number: 9, taken: vec![1, 2, 3], binding: None }),
            probe: ProbeId(3),
            pid: 4,
            tid: -5,
            time_ns: 6,
            ip: u64::MAX,
            cpu: Some(7),
            registers: vec![(Register::Rax, 1), (Register::Rdi, 2)],
            comm: Some(b"worker".to_vec()),
            stack: [(1, true), (2, false), (u64::MAX, false)]
                .map(|(ip, exact)| StackFrame { ip, exact, module: None })
                .to_vec(),
            duration_ns: None,
            injection: None,
        };
        let (words, modules) = (record.to_words(fields), Modules::new());
        assert_eq!(Record::of_words(&words, &modules), Some(record.clone()));
        let returned = Record { duration_ns: Some(8), ..record };
        assert_eq!(Record::of_return(&[&[8], &*words].concat(), &modules), Some(returned.clone()));
        for length in 0..words.len() {
            assert_eq!(Record::of_words(&words[..length], &modules), None);
        }
        let applied = Applied { number: 3, before: vec![1], after: vec![2, 3], failed: None };
        let injection = Injection { number: Some(4), applied, binding: None };
        let both = injection.to_words(message::kind::HIT, &words);
        let injected = Record { injection: Some(injection), duration_ns: None, ..returned };
        assert_eq!(Injection::of_words(&both, &modules), Some(injected));
        for length in 0..both.len() {
            assert_eq!(Injection::of_words(&both[..length], &modules), None);
        }
    }

    #[test]
    fn errors_are_the_same_after_a_message() {
        let errors = || {
            [
                AttachError::NoSuchProcess { pid: 1 },
                AttachError::Exited { pid: 1 },
                AttachError::NotPermitted { pid: 1, ptrace_scope: Some(1) },
                AttachError::AlreadyTraced { pid: 1, tracer: 2, name: Some("gdb".into()) },
                AttachError::Own,
                AttachError::Not64Bit { pid: 1 },
                AttachError::Making { pid: 1, tid: 2 },
                AttachError::Launch {
                    program: "x".into(),
                    error: io::Error::from_raw_os_error(libc::ENOENT),
                },
                AttachError::System { call: "PTRACE_SEIZE", error: Errno::EIO },
            ]
        };
        for (error, same) in errors().into_iter().zip(errors()) {
            let bytes = postcard::to_stdvec(&SentAttachError::from(error)).unwrap();
            let sent: SentAttachError = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(AttachError::from(sent).to_string(), same.to_string());
        }
    }
}
