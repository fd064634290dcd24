//! A real program, each instruction executed twice: by its thread, single-stepped, and by the emulator
//! from the same state. Registers, flags and every byte written must agree.
//!
//! Or in strides: the emulator executes some hundred instructions, the thread follows at full speed, and
//! they are compared there. That is some fifty times as fast, for programs that are long. Only one thread moves
//! at a time: the others are held, or wait in the kernel, and what it writes for those meanwhile is
//! noticed (see [`others`]).
//!
//! System calls, signal deliveries, and what the emulator refuses run natively and are counted as such.

mod ahead;
mod expected;
mod operands;
mod others;
mod overlay;
mod pages;
mod stride;
#[cfg(test)]
mod tests;
mod thread;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::process::Command;

use emu::{Displaced, Exception, Outcome, Refusal, Rflags};
use iced_x86::{EncodingKind, Mnemonic};
use libc::c_int;
use serde::Serialize;

use ahead::Ahead;
use expected::Expected;
use others::{Doing, Watch};
use overlay::{Maps, Overlay};
use stride::Retrace;
use thread::{Snapshot, Status};

use crate::generate::goes_on;

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Instructions executed, emulated or native, and deliveries of signals.
    pub steps: u64,
    /// Those that the emulator executed too.
    pub emulated: u64,
    /// Those by encoding.
    pub encodings: Encodings,
    /// The others, by reason.
    pub native_steps: BTreeMap<String, u64>,
    /// How often the two were compared.
    pub comparisons: u64,
    /// The comparisons at the end of a stride, of those that agreed.
    pub strides: u64,
    /// How often memory was not as the emulator knew it and another thread that had waited in the kernel had gone on
    /// meanwhile, so that it says nothing about the emulator: a stride under way is made again step by step.
    pub disturbed: u64,
    /// How often the two disagreed.
    pub divergences: u64,
    /// What the first disagreement was about.
    pub first_divergence: Option<String>,
    /// The program's exit status, or 128 plus the signal that ended it; absent if it was stopped before.
    #[serde(skip)]
    pub status: Option<i32>,
}

/// Counts of instructions by how they are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Encodings([u64; 8]);

impl Encodings {
    /// Those of one encoding.
    #[must_use]
    pub fn of(&self, encoding: EncodingKind) -> u64 {
        self.0[encoding as usize & 7]
    }

    fn add(&mut self, encoding: EncodingKind, count: u64) {
        self.0[encoding as usize & 7] += count;
    }

    fn iter(&self) -> impl Iterator<Item = (EncodingKind, u64)> {
        EncodingKind::values().map(|encoding| (encoding, self.of(encoding))).filter(|(_, count)| *count != 0)
    }
}

impl Serialize for Encodings {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter().map(|(encoding, count)| (format!("{encoding:?}"), count)))
    }
}

/// Runs `command` to its end or for about `limit` steps, and compares after each; or, with a `stride`
/// greater than 1, after about so many that can be executed in a row.
///
/// # Errors
/// The program could not be started, or a system call failed that should not.
pub fn run(command: Command, limit: Option<u64>, stride: u64) -> io::Result<Report> {
    Run { limit, stride, ..Run::default() }.all_of(command)
}

/// What a thread that runs is doing.
#[derive(Debug, Default)]
enum Pending {
    /// It does not run.
    #[default]
    Nothing,
    /// A step that nothing is expected of.
    Native,
    /// A step that the emulator has made before.
    Emulated(Box<Expected>),
}

#[derive(Debug, Default)]
struct Thread {
    process: i32,
    /// Whether its first stop has been seen.
    has_begun: bool,
    doing: Doing,
    watch: Option<Watch>,
    pending: Pending,
    /// The signal to deliver with the next step.
    signal: c_int,
    /// Signals that came during a stride, to be delivered after it.
    held: VecDeque<(c_int, libc::siginfo_t)>,
    /// Whether a breakpoint is set.
    breakpoint: bool,
    /// About how many instructions to execute in its next stride: fewer where it goes round in a circle.
    aim: u64,
}

/// The bytes at an address and what they decoded to.
type Decoded = ([u8; 15], Result<Displaced, Refusal>);

#[derive(Default)]
struct Run {
    main: i32,
    limit: Option<u64>,
    threads: HashMap<i32, Thread>,
    /// Stopped threads, the next first.
    ready: VecDeque<i32>,
    decoded: HashMap<u64, Decoded>,
    /// By process.
    maps: HashMap<i32, Maps>,
    /// About how many instructions to execute between two comparisons.
    stride: u64,
    ahead: Ahead,
    /// Whether a thread that waited in the kernel has gone on since memory was last seen to be what the
    /// emulator knows.
    others_went_on: bool,
    retrace: Option<Retrace>,
    #[cfg(test)]
    sabotage: tests::Sabotage,
    report: Report,
}

impl Run {
    fn all_of(mut self, command: Command) -> io::Result<Report> {
        self.main = thread::launch(command)?;
        let pending = Pending::Native;
        let main = Thread { process: self.main, has_begun: true, pending, ..Thread::default() };
        self.threads.insert(self.main, main);
        let result = self.run();
        self.retraced();
        for &tid in self.threads.keys() {
            thread::kill(tid);
        }
        result?;
        Ok(self.report)
    }

    fn run(&mut self) -> io::Result<()> {
        while !self.threads.is_empty() && self.limit.is_none_or(|limit| self.report.steps < limit) {
            // Nobody else can have anything to tell while every thread is ready.
            if self.ready.len() < self.threads.len() {
                match thread::wait(-1, self.ready.is_empty())? {
                    Some((tid, status)) => self.stopped(tid, status)?,
                    // Nobody is left that could be waited for.
                    None if self.ready.is_empty() => break,
                    None => {}
                }
            }
            if let Some(tid) = self.next() {
                self.step(tid)?;
            }
        }
        Ok(())
    }

    /// The thread whose turn it is: nobody moves while another goes the way of a stride again.
    fn next(&mut self) -> Option<i32> {
        let again = self.retrace.as_ref().map(|retrace| retrace.tid);
        let place = self.ready.iter().position(|tid| again == Some(*tid)).unwrap_or(0);
        self.ready.remove(place)
    }

    /// Makes one thread execute one instruction, and waits for it unless it may block; or many.
    fn step(&mut self, tid: i32) -> io::Result<()> {
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let signal = thread.next_signal(tid)?;
        if self.stride > 1 {
            if signal == 0 && self.stride(tid)? {
                return Ok(());
            }
            self.end_strides(tid)?;
        }
        self.report.steps += 1;
        let pending = if signal != 0 {
            // The kernel stops the thread again at the handler's first instruction.
            self.native("signal delivery");
            self.maps.clear();
            Pending::Native
        } else {
            match self.expect(tid)? {
                Some(expected) => Pending::Emulated(Box::new(expected)),
                None => Pending::Native,
            }
        };
        let blocks = matches!(pending, Pending::Native);
        self.go(tid, signal, pending)?;
        // Until all iterations of a repeated string instruction are done.
        while !blocks && self.threads.get(&tid).is_some_and(Thread::is_emulated) {
            match thread::wait(tid, true)? {
                Some((tid, status)) => self.stopped(tid, status)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Lets a thread make a step.
    fn go(&mut self, tid: i32, signal: c_int, pending: Pending) -> io::Result<()> {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.pending = pending;
            thread.doing = Doing::Runs;
        }
        thread::step(tid, signal).map(drop)
    }

    /// The mappings of the thread's process.
    fn maps(&mut self, tid: i32) -> &mut Maps {
        self.maps.entry(self.threads.get(&tid).map_or(tid, |thread| thread.process)).or_default()
    }

    /// The thread makes a system call, of which nothing is expected.
    fn system_call(&mut self) -> Option<Expected> {
        self.native("system call");
        self.maps.clear();
        None
    }

    fn native(&mut self, reason: impl Into<String>) {
        *self.report.native_steps.entry(reason.into()).or_default() += 1;
    }

    /// Executes the thread's next instruction in the emulator; `None` if only the processor can.
    fn expect(&mut self, tid: i32) -> io::Result<Option<Expected>> {
        let Some(before) = Snapshot::general(tid)? else { return Ok(None) };
        if before.may_restart {
            return Ok(self.system_call());
        }
        let displaced = match self.decode(tid, before.registers.rip) {
            Ok(displaced) => displaced,
            Err(refusal) => {
                let reason = refusal.code().map_or(refusal.reason().to_owned(), |code| format!("{code:?}"));
                self.native(reason);
                return Ok(None);
            }
        };
        if let Some(reason) = nondeterministic(displaced.code().mnemonic()) {
            self.native(reason);
            return Ok(None);
        }
        let mut before = before;
        if displaced.touches().intersects(emu::Touches::EXTENDED) && !before.fetch_extended(tid)? {
            return Ok(None);
        }
        let mut after = before.clone();
        if goes_on(displaced.instruction()) {
            // The step's own, which nobody compares.
            after.registers.rflags |= Rflags::TF;
        }
        let mut memory = Overlay::new(tid, self.maps(tid));
        let result = displaced.execute(&mut after.registers, &mut memory);
        if memory.unreadable {
            self.native("reads pages that only the thread can read");
            return Ok(None);
        }
        let writes = memory.into_writes();
        match result {
            Ok(Outcome::Next | Outcome::Again) => {}
            Ok(Outcome::Syscall | Outcome::Sysenter | Outcome::Interrupt(_)) => {
                return Ok(self.system_call());
            }
            Ok(Outcome::NextInhibited) => {
                self.native("a step goes one instruction too far");
                return Ok(None);
            }
            Ok(Outcome::Native) => {
                self.native("left to the thread");
                return Ok(None);
            }
            Err(_) => {}
        }
        Ok(Some(Expected::new(tid, displaced, before, after, writes, result)))
    }

    /// The instruction at `ip`, decoded anew only if the bytes there have changed.
    fn decode(&mut self, tid: i32, ip: u64) -> Result<Displaced, Refusal> {
        let mut bytes = [0; 15];
        let length = overlay::read_up_to(tid, ip, &mut bytes);
        if let Some((known, displaced)) = self.decoded.get(&ip)
            && *known == bytes
        {
            return *displaced;
        }
        let displaced = Displaced::decode(&bytes[..length.min(15)], ip);
        self.decoded.insert(ip, (bytes, displaced));
        displaced
    }

    /// A thread has stopped or ended.
    fn stopped(&mut self, tid: i32, status: Status) -> io::Result<()> {
        let (signal, event) = match status {
            Status::Ended(status) => {
                self.gone(tid);
                if tid == self.main {
                    self.report.status = Some(thread::exit_status(status));
                }
                return Ok(());
            }
            Status::Stopped { signal, event } => (signal, event),
        };
        self.began(tid)?;
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(()) };
        let is_new = !std::mem::replace(&mut thread.has_begun, true);
        let pending = std::mem::take(&mut thread.pending);
        self.others_went_on |= std::mem::replace(&mut thread.doing, Doing::Held).waits();
        match (signal, event, pending) {
            // An event inside a system call, of which the end is still to come.
            (_, 1.., _) => {
                self.maps.clear();
                self.event(tid, event)?;
                return self.go(tid, 0, Pending::Native);
            }
            // A new thread's first stop.
            (libc::SIGSTOP, ..) if is_new => {}
            // A group-stop, which is not kept: nobody is there to end it.
            _ if !thread::has_siginfo(tid)? => {}
            (libc::SIGTRAP, _, Pending::Emulated(expected))
                if expected.completes() || thread::is_step(tid)? =>
            {
                return self.stepped(tid, *expected);
            }
            (libc::SIGTRAP, _, Pending::Nothing | Pending::Native) if thread::is_step(tid)? => {
                thread::hide_trap_flag(tid)?;
            }
            (signal, _, Pending::Emulated(expected)) if expected.raises(tid, signal)? => {
                thread.signal = signal;
                self.compared(&expected);
            }
            (signal, _, Pending::Emulated(expected)) if thread::is_fault(tid)? => {
                thread.signal = signal;
                self.diverged(format!("{expected}: the processor raised signal {signal}"));
            }
            // It came from elsewhere, before the instruction.
            (signal, _, pending) => {
                thread.signal = signal;
                self.report.steps -= u64::from(matches!(pending, Pending::Emulated(_)));
            }
        }
        self.ready.push_back(tid);
        Ok(())
    }

    /// There is a thread of which nothing was known, unless it is gone already.
    fn began(&mut self, tid: i32) -> io::Result<()> {
        if !self.threads.contains_key(&tid)
            && let Some(process) = thread::process_of(tid)?
        {
            self.threads.insert(tid, Thread { process, ..Thread::default() });
        }
        Ok(())
    }

    /// A thread is gone, or the one that had its number.
    fn gone(&mut self, tid: i32) {
        self.ready.retain(|ready| *ready != tid);
        self.others_went_on |= self.threads.remove(&tid).is_some_and(|thread| thread.doing.waits());
    }

    /// What a system call has come to.
    fn event(&mut self, tid: i32, event: c_int) -> io::Result<()> {
        // Of fork, vfork and clone the new thread; of exec the number that the thread had before.
        let Some(other) = thread::event_message(tid)? else { return Ok(()) };
        if event != libc::PTRACE_EVENT_EXEC {
            // The kernel may write for it before its first stop.
            return self.began(other);
        }
        // Whoever else had the number is gone without a word.
        self.gone(tid);
        self.gone(other);
        self.threads.insert(tid, Thread { process: tid, has_begun: true, ..Thread::default() });
        Ok(())
    }

    /// The instruction that the emulator has executed has been executed by the thread.
    fn stepped(&mut self, tid: i32, mut expected: Expected) -> io::Result<()> {
        let Some(after) = expected.observe(tid)? else { return Ok(()) };
        // The processor stops between the iterations of a repeated string instruction; the emulator did
        // them all.
        if expected.is_between_iterations(&after) {
            return self.go(tid, 0, Pending::Emulated(Box::new(expected)));
        }
        self.compared(&expected);
        expected.adopt_in_use(tid, &after);
        if let Some(difference) = expected.difference(tid, &after)? {
            self.diverged(format!("{expected}: {difference}"));
        }
        expected.hide_trap_flag(tid)?;
        self.ready.push_back(tid);
        Ok(())
    }

    /// An instruction that the emulator has executed is held against what the processor did.
    fn compared(&mut self, expected: &Expected) {
        self.report.emulated += 1;
        self.report.comparisons += 1;
        self.report.encodings.add(expected.encoding(), 1);
    }

    fn diverged(&mut self, what: String) {
        self.report.divergences += 1;
        self.report.first_divergence.get_or_insert(what);
    }
}

/// Why the emulator, asked a moment before the processor, cannot answer the same.
fn nondeterministic(mnemonic: Mnemonic) -> Option<&'static str> {
    match mnemonic {
        Mnemonic::Rdtsc | Mnemonic::Rdtscp | Mnemonic::Rdpmc => Some("reads a counter"),
        Mnemonic::Rdrand | Mnemonic::Rdseed => Some("reads a random number"),
        Mnemonic::Xbegin | Mnemonic::Xend | Mnemonic::Xtest | Mnemonic::Xabort => Some("transaction"),
        _ => None,
    }
}

/// Whether an instruction must be stepped over by itself: the emulator does not execute it, or stores what
/// the kernel changes now and then (AMD's processors lose the x87 pointers in a context switch), or tells which state
/// is in use, of which the processor may say more.
fn is_single(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Fnsave, Fnstenv, Fsave, Fstenv, Fxsave, Fxsave64, Syscall, Sysenter, Xgetbv, Xsave, Xsave64, Xsavec,
        Xsavec64, Xsaveopt, Xsaveopt64,
    };
    nondeterministic(mnemonic).is_some()
        || matches!(
            mnemonic,
            Fnsave
                | Fnstenv
                | Fsave
                | Fstenv
                | Fxsave
                | Fxsave64
                | Syscall
                | Sysenter
                | Xgetbv
                | Xsave
                | Xsave64
                | Xsavec
                | Xsavec64
                | Xsaveopt
                | Xsaveopt64
        )
}

/// The signal that the kernel sends for an exception.
fn signal_of(exception: Exception) -> c_int {
    match exception {
        Exception::DivideError | Exception::X87FloatingPoint | Exception::SimdFloatingPoint => libc::SIGFPE,
        Exception::Debug | Exception::Breakpoint => libc::SIGTRAP,
        Exception::InvalidOpcode => libc::SIGILL,
        Exception::AlignmentCheck => libc::SIGBUS,
        Exception::SegmentNotPresent(_) | Exception::StackFault(_) => libc::SIGBUS,
        Exception::GeneralProtection(_) | Exception::PageFault { .. } | Exception::ControlProtection(_) => {
            libc::SIGSEGV
        }
    }
}
