//! Many instructions between two comparisons: the emulator runs ahead, the thread follows at full speed to
//! a hardware breakpoint, and there both must be in the same state.
//!
//! If they are not, the thread is taken back to where it started and goes the same way step by step.

use std::collections::hash_map::Entry;
use std::io;
use std::time::Duration;

use emu::registers::gpr;
use emu::{Registers, Rflags};
use libc::c_int;

use super::ahead::{Milestone, Place};
use super::expected::register_difference;
use super::overlay::read_up_to;
use super::thread::{self, Raw, Status};
use super::{Pending, Run, Thread};

/// How long a thread may take for what the emulator has done before.
const DEADLINE: Duration = Duration::from_secs(10);

/// A stride that went wrong, while its steps are made one by one.
#[derive(Debug)]
pub(super) struct Retrace {
    /// Whose it is.
    pub(super) tid: i32,
    /// How many steps are left.
    pub(super) left: u64,
    /// How many divergences were known before.
    before: u64,
    /// How it went wrong; `None`: as it may, because another thread went on.
    what: Option<String>,
}

/// How the thread followed.
enum Arrival {
    There,
    /// It raised an exception, of which the signal is not delivered; with its si_code.
    Fault(c_int, c_int),
    /// It is where it was when the time was over.
    Elsewhere,
    Ended(Status),
    /// Killed; whoever waits for it will hear.
    Gone,
}

impl Run {
    /// Makes a stride, if the next instruction allows it. False: it must be executed by itself.
    pub(super) fn stride(&mut self, tid: i32) -> io::Result<bool> {
        if let Some(retrace) = &mut self.retrace {
            // Another's turn comes before the end only if the thread waits, where none should.
            if retrace.tid == tid && retrace.left > 0 {
                retrace.left -= 1;
                return Ok(false);
            }
            self.retraced();
        }
        self.take_over(tid)?;
        if !self.others_rest(tid)? {
            return Ok(false);
        }
        let Some(mut raw) = Raw::fetch(tid)? else { return Ok(false) };
        if raw.may_restart() {
            return Ok(false);
        }
        let mut start = raw.registers()?;
        if start.rflags.contains(Rflags::TF) {
            return Ok(false);
        }
        // The kernel's, to get past a breakpoint.
        start.rflags -= Rflags::RF;
        if let Entry::Vacant(vacant) = self.ahead.pages.restartable_sequences.entry(tid) {
            vacant.insert(thread::restartable_sequences(tid)?);
        }
        let left = self.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.report.steps));
        let Some(thread) = self.threads.get_mut(&tid) else { return Ok(false) };
        let maps = self.maps.entry(thread.process).or_default();
        let Some((place, milestone)) =
            self.ahead.run(tid, maps, &start, &mut thread.aim, self.stride.min(left))
        else {
            return self.vdso(tid, &start);
        };
        #[cfg(test)]
        let place = self.sabotage.spoil(place, &mut self.ahead.pages, tid == self.main);
        let difference = match self.follow(tid, milestone)? {
            Arrival::There => self.compare(tid, &place)?,
            Arrival::Fault(signal, code) => {
                Some(format!("the processor raised signal {signal}, si_code {code}"))
            }
            Arrival::Elsewhere => Some("the processor never comes there".to_owned()),
            Arrival::Gone => return Ok(true),
            Arrival::Ended(status) => return self.stopped(tid, status).map(|()| true),
        };
        // What the emulator read may be what was there before another's system call ended.
        let disturbed = self.others_ran(tid);
        let difference = match difference {
            None if disturbed => self.ahead.pages.difference_anywhere(tid)?.map(|memory| memory.to_string()),
            difference => difference,
        };
        match difference {
            None => self.agreed(&place),
            Some(what) => {
                self.ahead.pages.rewind(tid)?;
                raw.store(tid)?;
                self.ahead.forget();
                self.report.disturbed += u64::from(disturbed);
                let from = self.maps(tid).describe(tid, start.rip);
                let to = self.maps(tid).describe(tid, place.registers.rip);
                let what = format!("{} instructions from {from} to {to}, {milestone}: {what}", place.count);
                let (left, before) = (place.count, self.report.divergences);
                self.retrace = Some(Retrace { tid, left, before, what: (!disturbed).then_some(what) });
            }
        }
        self.ready.push_back(tid);
        Ok(true)
    }

    /// The thread has followed, and is where the emulator is.
    fn agreed(&mut self, place: &Place) {
        self.ahead.pages.keep();
        self.report.steps += place.count;
        self.report.emulated += place.count;
        for (encoding, count) in place.encodings.iter() {
            self.report.encodings.add(encoding, count);
        }
        self.report.comparisons += 1;
        self.report.strides += 1;
    }

    /// What the emulator remembers is of one process.
    fn take_over(&mut self, tid: i32) -> io::Result<()> {
        let Some(process) = self.threads.get(&tid).map(|thread| thread.process) else { return Ok(()) };
        if self.ahead.owner.is_some_and(|(_, owner)| owner != process) {
            self.forget_memory(tid)?;
        }
        self.ahead.owner = Some((tid, process));
        Ok(())
    }

    /// Lets the thread alone return from a function of the vDSO, if it is about to enter one: some begin
    /// anew when the kernel changes the clocks' data meanwhile, which it always does to a slow reader.
    fn vdso(&mut self, tid: i32, start: &Registers) -> io::Result<bool> {
        let mut address = [0; 8];
        if !self.maps(tid).is_vdso(tid, start.rip)
            || read_up_to(tid, start.gpr[gpr::RSP], &mut address) < address.len()
        {
            return Ok(false);
        }
        let address = u64::from_le_bytes(address);
        if self.maps(tid).is_vdso(tid, address) {
            return Ok(false);
        }
        self.end_strides(tid)?;
        self.report.steps += 1;
        self.native("a function of the vDSO");
        match self.follow(tid, Milestone::Execute(address))? {
            Arrival::Gone => return Ok(true),
            Arrival::Ended(status) => return self.stopped(tid, status).map(|()| true),
            Arrival::Fault(signal, _) => {
                if let Some(thread) = self.threads.get_mut(&tid) {
                    thread.signal = signal;
                }
            }
            Arrival::There | Arrival::Elsewhere => {}
        }
        self.ready.push_back(tid);
        Ok(true)
    }

    /// Step by step, the stride was seen to go wrong, or not; or it could not be made to its end.
    pub(super) fn retraced(&mut self) {
        if let Some(retrace) = self.retrace.take()
            && let Some(what) = retrace.what
            && retrace.before == self.report.divergences
        {
            self.diverged(format!("{what} (not seen again step by step)"));
        }
    }

    /// Before the thread makes a step of another kind, which may change memory: it must be what the
    /// emulator thinks it is.
    pub(super) fn end_strides(&mut self, tid: i32) -> io::Result<()> {
        if self.threads.get_mut(&tid).is_some_and(|thread| std::mem::take(&mut thread.breakpoint)) {
            thread::remove_breakpoint(tid)?;
        }
        self.forget_memory(tid)
    }

    /// Before anything writes to memory that is not emulated, of which thread `tid` will be the cause.
    fn forget_memory(&mut self, tid: i32) -> io::Result<()> {
        if let Some((owner, _)) = self.ahead.owner.take()
            && let Some(difference) = self.ahead.pages.difference_anywhere(owner)?
        {
            if self.others_ran(tid) {
                self.report.disturbed += 1;
            } else {
                self.diverged(format!("since one of the last strides: {difference}"));
            }
        }
        self.ahead.forget();
        Ok(())
    }

    /// Lets the thread run to the milestone.
    fn follow(&mut self, tid: i32, milestone: Milestone) -> io::Result<Arrival> {
        if let Some(thread) = self.threads.get_mut(&tid) {
            thread.breakpoint = true;
        }
        let set = thread::set_breakpoint(tid, milestone)?;
        while set && thread::resume(tid)? {
            let Some((_, status)) = thread::wait_at_most(tid, DEADLINE)? else {
                thread::interrupt(tid);
                thread::wait(tid, true)?;
                return Ok(Arrival::Elsewhere);
            };
            match status {
                Status::Stopped { signal: libc::SIGTRAP, event: 0 } if thread::is_breakpoint(tid)? => {
                    return Ok(Arrival::There);
                }
                Status::Stopped { signal, event: 0 } if thread::has_siginfo(tid)? => {
                    if thread::is_fault(tid)? {
                        let code = thread::siginfo(tid)?.map_or(0, |info| info.si_code);
                        return Ok(Arrival::Fault(signal, code));
                    }
                    self.hold(tid, signal)?;
                }
                // A group-stop, which is not kept.
                Status::Stopped { .. } => {}
                Status::Ended(_) => return Ok(Arrival::Ended(status)),
            }
        }
        Ok(Arrival::Gone)
    }

    /// Keeps a signal that came meanwhile for the end of the stride.
    fn hold(&mut self, tid: i32, signal: c_int) -> io::Result<()> {
        if let (Some(info), Some(thread)) = (thread::siginfo(tid)?, self.threads.get_mut(&tid)) {
            thread.held.push_back((signal, info));
        }
        Ok(())
    }

    fn compare(&mut self, tid: i32, place: &Place) -> io::Result<Option<String>> {
        let Some(raw) = Raw::fetch(tid)? else { return Ok(None) };
        let pages = &mut self.ahead.pages;
        let registers = register_difference(&place.registers, &raw.registers()?, place.undefined, true);
        let memory = match registers {
            None => pages.difference(tid)?,
            Some(_) => pages.difference_anywhere(tid)?,
        };
        let all: Vec<String> = registers.into_iter().chain(memory.map(|memory| memory.to_string())).collect();
        Ok((!all.is_empty()).then(|| all.join("; ")))
    }
}

impl Thread {
    /// Whether it makes a step that the emulator has made before.
    pub(super) fn is_emulated(&self) -> bool {
        matches!(self.pending, Pending::Emulated(_))
    }

    /// The signal that is next to be delivered.
    pub(super) fn next_signal(&mut self, tid: i32) -> io::Result<c_int> {
        let signal = std::mem::take(&mut self.signal);
        if signal != 0 {
            return Ok(signal);
        }
        let Some((signal, info)) = self.held.pop_front() else { return Ok(0) };
        thread::set_siginfo(tid, &info)?;
        Ok(signal)
    }
}
