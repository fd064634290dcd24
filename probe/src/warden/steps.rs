//! The instructions of threads that run on, on their way from a warden to its client.

use std::ops::ControlFlow;
use std::sync::Arc;

use emu::Rflags;
use emu::registers::{Extended, Vector};
use serde::{Deserialize, Serialize};

use crate::engine::hit::{self, GeneralRegisters, Hit, ProbeId};
use crate::engine::run_on::{End, Region, Step, What};
use crate::language::Register;
use crate::stacks::StackFrame;
use crate::warden::message::kind;
use crate::warden::ring;
use crate::warden::run::Common;
use crate::warden::totals::{Modules, SentFrame, frame_of, sent_frame};

/// A step of a thread that runs on, as [`run_on::Step`](crate::run_on::Step).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StepRecord {
    /// The probe at which it has begun.
    pub probe: ProbeId,
    /// A number that no other run from a hit to its end has.
    pub region: u64,
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub time_ns: u64,
    /// How many instructions were executed before.
    pub number: u64,
    /// What has happened.
    pub what: What,
    /// Where the thread was.
    pub place: StackFrame,
    /// Where it is now.
    pub next: u64,
    /// Its stack pointer now.
    pub sp: u64,
    /// The bytes of the instruction; none where it is none, or is not known.
    pub code: Vec<u8>,
    /// The general registers that have changed, RIP excepted, with what they hold now; of a system call, those that say what
    /// it was asked for besides, as they were before.
    pub registers: Vec<(Register, u64)>,
    /// The vector registers that have changed, by their numbers.
    pub vectors: Vec<(u8, [u64; 8])>,
    /// What was read and written.
    pub accesses: Vec<StepAccess>,
    /// How many accesses there were besides these.
    pub more_accesses: u64,
}

/// An access to memory, as [`run_on::MemoryAccess`](crate::run_on::MemoryAccess).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepAccess {
    /// The address.
    pub address: u64,
    /// How many bytes it reached.
    pub size: u64,
    /// The first of them before, 64 at most; empty if that is not known.
    pub old: Vec<u8>,
    /// The same now, if it was written.
    pub new: Option<Vec<u8>>,
}

/// [`StepRecord`] on its way.
#[derive(Debug, Serialize, Deserialize)]
struct SentStep {
    probe: u32,
    region: u64,
    pid: i32,
    tid: i32,
    time_ns: u64,
    number: u64,
    what: SentWhat,
    place: SentFrame,
    next: u64,
    sp: u64,
    code: Vec<u8>,
    registers: Vec<(u8, u64)>,
    vectors: Vec<(u8, [u64; 8])>,
    accesses: Vec<StepAccess>,
    more_accesses: u64,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum SentWhat {
    Emulated,
    Native,
    Faulted,
    Skipped,
    SystemCall(u64),
    Signal(i32),
    End(End),
}

impl From<What> for SentWhat {
    fn from(what: What) -> SentWhat {
        match what {
            What::Emulated => SentWhat::Emulated,
            What::Native => SentWhat::Native,
            What::Faulted => SentWhat::Faulted,
            What::Skipped => SentWhat::Skipped,
            What::SystemCall { number } => SentWhat::SystemCall(number),
            What::Signal { signal } => SentWhat::Signal(signal),
            What::End(end) => SentWhat::End(end),
        }
    }
}

impl From<SentWhat> for What {
    fn from(what: SentWhat) -> What {
        match what {
            SentWhat::Emulated => What::Emulated,
            SentWhat::Native => What::Native,
            SentWhat::Faulted => What::Faulted,
            SentWhat::Skipped => What::Skipped,
            SentWhat::SystemCall(number) => What::SystemCall { number },
            SentWhat::Signal(signal) => What::Signal { signal },
            SentWhat::End(end) => What::End(end),
        }
    }
}

/// Has a thread run on, and each of its steps sent to the client.
pub(crate) fn run_on(hit: &mut Hit<'_>, region: &Region, common: &Arc<Common>) {
    let (probe, number) = (hit.probe(), common.next_region());
    let common = Arc::clone(common);
    // It may be anywhere in its function.
    let back = common.callers.stack(hit, 2, &common.outlet).get(1).map(|caller| caller.ip);
    hit.run_on_back(region.clone(), back, move |step| {
        let bytes = sent(step, probe, number, &common);
        let gone = match postcard::to_stdvec(&bytes) {
            Ok(bytes) => {
                !common.outlet.record(kind::STEP, &ring::words_of(&bytes)) && common.outlet.is_gone()
            }
            Err(_) => true,
        };
        if gone { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
}

fn sent(step: &mut Step<'_>, probe: ProbeId, region: u64, common: &Common) -> SentStep {
    const MOST_ACCESSES: usize = 16;
    const MOST_BYTES: usize = 64;
    let mut code = Vec::new();
    let ip = step.ip();
    let instruction = step.instruction().map(|displaced| displaced.length());
    if let Some(length) = instruction {
        code = vec![0; length];
        // It may have been unmapped by itself.
        if step.read(ip, &mut code).is_err() {
            code.clear();
        }
    }
    let (before, after) = (step.before(), step.after());
    let is_call = matches!(step.what(), What::SystemCall { .. });
    let registers = Register::ALL.into_iter().filter(|&register| register != Register::Rip);
    let registers = registers.filter_map(|register| {
        let (old, new) = (value(before, register), value(after, register));
        let asks = is_call && ARGUMENTS.contains(&register);
        (old != new || asks).then_some((register as u8, if asks { old } else { new }))
    });
    let head = |bytes: &[u8]| bytes.get(..bytes.len().min(MOST_BYTES)).unwrap_or_default().to_vec();
    let mut accesses = Vec::new();
    let mut more_accesses = 0;
    for access in step.accesses() {
        if accesses.len() >= MOST_ACCESSES {
            more_accesses += 1;
            continue;
        }
        let (address, size) = (access.address, access.size() as u64);
        accesses.push(StepAccess { address, size, old: head(access.old), new: access.new.map(head) });
    }
    let ends = matches!(step.what(), What::End(_));
    SentStep {
        probe: u32::try_from(probe.index()).unwrap_or(u32::MAX),
        region,
        pid: step.pid(),
        tid: step.tid(),
        time_ns: hit::now_ns(),
        number: step.number(),
        what: step.what().into(),
        place: if ends { (ip, 0) } else { sent_frame(&common.callers.frame(step.pid(), ip, &common.outlet)) },
        next: after.rip,
        sp: after.gpr[emu::registers::gpr::RSP],
        code,
        registers: registers.collect(),
        vectors: step.extended().map(|(old, new)| changed(old, new)).unwrap_or_default(),
        accesses,
        more_accesses,
    }
}

/// Those in which a system call has its arguments.
const ARGUMENTS: [Register; 6] =
    [Register::Rdi, Register::Rsi, Register::Rdx, Register::R10, Register::R8, Register::R9];

/// Of the flags, those that instructions compute.
fn value(registers: &GeneralRegisters, register: Register) -> u64 {
    let flags = Rflags::STATUS | Rflags::DF;
    match register {
        Register::Rflags => (registers.rflags & flags).bits(),
        register => registers.get(register),
    }
}

fn changed(old: &Extended, new: &Extended) -> Vec<(u8, [u64; 8])> {
    let pairs = (0u8..).zip(old.vector.iter().zip(&new.vector));
    pairs.filter(|(_, (old, new))| old != new).map(|(number, (_, Vector(new)))| (number, *new)).collect()
}

impl StepRecord {
    /// `None` if the words are none.
    pub(crate) fn of_words(words: &[u64], modules: &Modules) -> Option<StepRecord> {
        let sent: SentStep = postcard::from_bytes(&ring::bytes_of(words)?).ok()?;
        let register = |number: u8| Register::ALL.into_iter().find(|&register| register as u8 == number);
        let registers = sent.registers.iter().map(|&(number, value)| Some((register(number)?, value)));
        Some(StepRecord {
            registers: registers.collect::<Option<_>>()?,
            probe: ProbeId(sent.probe as usize),
            region: sent.region,
            pid: sent.pid,
            tid: sent.tid,
            time_ns: sent.time_ns,
            number: sent.number,
            what: sent.what.into(),
            place: frame_of(sent.place, modules),
            next: sent.next,
            sp: sent.sp,
            code: sent.code,
            vectors: sent.vectors,
            accesses: sent.accesses,
            more_accesses: sent.more_accesses,
        })
    }
}
