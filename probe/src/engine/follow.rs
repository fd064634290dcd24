//! Following calls to their returns, which are told by where they go and by the stack pointer: nothing on the stack is
//! touched, so whatever unwinds, moves or checks it does as it did.
//!
//! A hit at a return site is a return if the stack pointer is what it was before the call, and the call's own return
//! address is what RET has just taken from the stack: an exception that is caught behind the call, or a longjmp(3) to
//! before it, may lead to the same place. Calls that are further in on the same stack are over then, and never return.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::atomic::Ordering;

use emu::registers::gpr;

use crate::engine::call::{Call, Part, Value};
use crate::engine::calls::{Frame, Owner, Spot};
use crate::engine::event::Event;
use crate::engine::goroutine;
use crate::engine::hit::ProbeId;
use crate::engine::probes::{Probe, Probes, Tally};
use crate::engine::shared::Shared;
use crate::engine::tail::{self, Jumps};
use crate::executor::general::GeneralRegisters;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::{Purpose, SharedSpace, Unplaceable};
use crate::executor::{Executor, ThreadState};
use crate::symbols::elf;
use crate::target::maps::{self, Maps};
use crate::target::{lock, mapped};

/// The hit that is looked at.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) probes: &'a Probes,
    pub(crate) pid: i32,
    pub(crate) space_id: SpaceId,
    pub(crate) space: &'a SharedSpace,
    pub(crate) address: u64,
}

/// What a hit is for the calls that are followed.
#[derive(Debug, Default)]
pub(crate) struct Passage {
    /// The calls that have returned, that of the innermost function first.
    returned: VecDeque<Frame>,
    /// The call that has been made.
    made: Option<Made>,
}

/// A call at whose function's first instruction the thread is.
#[derive(Clone, Copy, Debug)]
struct Made {
    spot: Spot,
    back: u64,
    kept: u64,
}

/// A call that is to be followed.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) probe: usize,
    pub(crate) entered_ns: u64,
    pub(crate) value: Box<dyn Value>,
}

impl At<'_> {
    /// Whether any of the probes that want the breakpoint follows calls.
    pub(crate) fn concerns(&self, here: &[Purpose]) -> bool {
        here.iter().any(|&purpose| purpose.is_return_site() || self.enters(purpose))
    }

    /// Whether the function begins here whose calls are followed.
    fn enters(&self, purpose: Purpose) -> bool {
        let follows = |probe: &Probe| probe.calls().is_some();
        !purpose.is_return_site() && self.probes.get(purpose.probe()).is_some_and(follows)
    }

    /// Finds out which calls have returned or been made. In `here` stays, for each that has returned, a return site, in
    /// the order of [`Passage::part`], before what is no return site.
    pub(crate) fn pass(&self, thread: &mut impl Executor, here: &mut Vec<Purpose>) -> Passage {
        let registers = GeneralRegisters::of(thread.registers());
        let mut passage = Passage::default();
        if here.iter().any(|purpose| purpose.is_return_site()) {
            passage.returned = self.returned(thread, &registers);
            // Those of a probe that has been removed are none of anybody's.
            passage.returned.retain(|frame| here.contains(&Purpose::return_site(frame.probe)));
            here.retain(|purpose| !purpose.is_return_site());
            here.splice(0..0, passage.returned.iter().map(|frame| Purpose::return_site(frame.probe)));
        }
        if here.iter().any(|&purpose| self.enters(purpose)) {
            match self.made(thread, &registers) {
                Some(Arrival::Made(made)) => passage.made = Some(made),
                Some(Arrival::Again) => here.retain(|&purpose| !self.enters(purpose)),
                None => {}
            }
        }
        passage
    }

    /// The calls that return here, the innermost first.
    fn returned(&self, thread: &mut impl Executor, registers: &GeneralRegisters) -> VecDeque<Frame> {
        let calls = &self.shared.calls;
        let rsp = registers.gpr[gpr::RSP];
        let goroutine = if calls.has_goroutines() { self.goroutine(thread, registers, rsp) } else { None };
        let spots = goroutine.into_iter().chain(std::iter::once_with(|| self.stack(thread, rsp)));
        let found = { spots }.find(|spot| {
            let (pending, gone) = calls.arrive(spot, self.address);
            self.shared.count_dropped(gone);
            !pending.functions.is_empty()
        });
        let Some(spot) = found else { return VecDeque::new() };
        let mut frames = VecDeque::from(calls.take(&spot));
        if !self.has_returned(thread, registers) {
            self.shared.count_dropped(frames.into());
            return VecDeque::new();
        }
        frames.make_contiguous().reverse();
        frames
    }

    /// Whether the thread, whose stack pointer is right, comes from a RET.
    fn has_returned(&self, thread: &mut impl Executor, registers: &GeneralRegisters) -> bool {
        /// More than a function has.
        const NEAR: u64 = 1 << 20;
        let of = |register: usize| registers.gpr[register];
        // It was just popped. Had anything been called since the function was left, it would have been overwritten.
        let popped = word(thread, of(gpr::RSP).wrapping_sub(8));
        // glibc's longjmp(3) has these in registers, and calls nothing: the stack pointer, the frame pointer, and where
        // it has gone to, which is in the same function.
        let jumped = of(gpr::R8) == of(gpr::RSP)
            && of(gpr::R9) == of(gpr::RBP)
            && of(gpr::RDX) != self.address
            && of(gpr::RDX).abs_diff(self.address) < NEAR;
        popped == Some(self.address) && !jumped
    }

    /// The call by which the thread has come; `None` where its return address cannot be read.
    fn made(&self, thread: &mut impl Executor, registers: &GeneralRegisters) -> Option<Arrival> {
        let calls = &self.shared.calls;
        let rsp = registers.gpr[gpr::RSP];
        let back = word(thread, rsp)?;
        let behind = rsp.wrapping_add(8);
        let goroutine =
            if self.is_go(thread.tid()) { self.goroutine(thread, registers, behind) } else { None };
        let spot = goroutine.unwrap_or_else(|| self.stack(thread, behind));
        let kept = digest(registers);
        let (pending, gone) = calls.arrive(&spot, back);
        self.shared.count_dropped(gone);
        let made = Made { spot, back, kept };
        let Some(&last) = pending.functions.last() else { return Some(Arrival::Made(made)) };
        let again = pending.functions.contains(&self.address);
        // Tail calls, one after the other, or a new call where others were left by an exception or longjmp(3).
        let tail = if goroutine.is_some() {
            if last == self.address && self.is_restarted(thread, rsp, pending.top != spot.top) {
                calls.move_to(&spot);
                return Some(Arrival::Again);
            }
            !again
        } else {
            // A function that makes a tail call has restored them.
            pending.kept == kept
                && match self.jumps_from(last) {
                    Jumps::There => true,
                    Jumps::Somewhere => !again,
                    Jumps::Nowhere => false,
                }
        };
        if !tail {
            self.shared.count_dropped(calls.take(&spot));
        }
        Some(Arrival::Made(made))
    }

    fn jumps_from(&self, function: u64) -> Jumps {
        let look = || tail::from(&self.space.read(), function, self.address);
        self.shared.calls.jumps(self.space_id, function, self.address, look)
    }

    /// Whether the goroutine begins the same call again: for want of stack, or to let others run, a function of Go begins
    /// with a call of the runtime and jumps back to its start. Then the stack has `moved`, or what that call has pushed is
    /// still there.
    fn is_restarted(&self, thread: &mut impl Executor, rsp: u64, moved: bool) -> bool {
        /// More than a function has.
        const NEAR: u64 = 1 << 16;
        moved
            || word(thread, rsp.wrapping_sub(8))
                .and_then(|pushed| pushed.checked_sub(self.address))
                .is_some_and(|distance| (1..NEAR).contains(&distance))
    }

    /// Whether the instruction is in a file with code of Go.
    fn is_go(&self, tid: i32) -> bool {
        let file =
            self.space.read().breakpoint(self.address).map(|here| (here.origin.dev, here.origin.inode));
        let Some((dev, inode)) = file.filter(|&(_, inode)| inode != 0) else { return false };
        let look = || {
            let maps = Maps::read(tid).ok()?;
            let file = mapped::open(&maps, maps::find(&maps, self.address)?).ok()?;
            Some(elf::is_go(&file))
        };
        self.shared.calls.is_go(dev, inode, || look().unwrap_or(false))
    }

    /// The place on the stack of the goroutine that runs, if one does on its stack.
    fn goroutine(
        &self,
        thread: &mut impl ThreadState,
        registers: &GeneralRegisters,
        behind: u64,
    ) -> Option<Spot> {
        let goroutine::Goroutine { g, top } = goroutine::of(thread, registers)?;
        let owner = Owner::Goroutine(g);
        Some(Spot { space: self.space_id, owner, position: behind.wrapping_sub(top), top })
    }

    /// The place on any other stack.
    fn stack(&self, thread: &mut impl ThreadState, behind: u64) -> Spot {
        let own = thread.own_stack().contains(&behind.wrapping_sub(8));
        let owner = match own {
            true => Owner::Thread { pid: self.pid, tid: thread.tid() },
            false => Owner::Nobody(behind),
        };
        Spot { space: self.space_id, owner, position: behind, top: 0 }
    }

    /// Follows a call that has been made. Where it cannot be, its return counts as missed.
    pub(crate) fn follow(&self, tid: i32, passage: &Passage, wanted: Wanted) {
        let Wanted { probe, entered_ns, value } = wanted;
        let Some(calls) = self.probes.get(probe).and_then(|probe| probe.calls()) else { return };
        let followed = passage.made.is_some_and(|Made { spot, back, kept }| {
            let Spot { position, top, .. } = spot;
            let function = self.address;
            let frame =
                Frame { probe, function, back, position, top, kept, entered_ns, value, copied: false };
            self.watch(tid, probe, back) && self.shared.calls.push(&spot, frame)
        });
        if !followed {
            Tally::count(&calls.tally.missed);
        }
    }

    /// Has `back` be a return site of `probe`, and says whether it is.
    fn watch(&self, tid: i32, probe: usize, back: u64) -> bool {
        /// Calls of one function come from so many places at most.
        const MOST: usize = 1 << 16;
        let purpose = Purpose::return_site(probe);
        if self.space.read().breakpoint(back).is_some_and(|here| here.probes.contains(&purpose)) {
            return true;
        }
        let Some(known) = self.probes.get(probe) else { return false };
        let Some(calls) = known.calls() else { return false };
        let placed = lock(&known.placed);
        let mut sites = lock(&calls.sites);
        let wishes = &self.shared.wishes;
        let ending = wishes.ending.load(Ordering::SeqCst) || wishes.stop.load(Ordering::SeqCst);
        let hopeless = sites.refused.contains(&(self.space_id, back)) || sites.placed.len() >= MOST;
        if placed.removed || ending || hopeless {
            return false;
        }
        let outcome = match Maps::read(tid) {
            // One that is there already has no outcome.
            Ok(maps) => self
                .space
                .write()
                .place_all(&[back], &maps, purpose)
                .pop()
                .map_or(Ok(()), |(_, outcome)| outcome),
            Err(error) => Err(Unplaceable::Memory(error)),
        };
        match outcome {
            Ok(()) => {
                sites.placed.insert(back);
                true
            }
            Err(_) if self.space.read().is_dead() => false,
            Err(reason) => {
                // Another time there may be room.
                let busy = matches!(&reason, Unplaceable::Memory(error) if error.kind() == std::io::ErrorKind::ResourceBusy);
                let news = !busy && sites.refused.len() < MOST && sites.refused.insert((self.space_id, back));
                drop((sites, placed));
                if news {
                    let (probe, pid) = (ProbeId(probe), self.pid);
                    self.shared.tell(&Event::NoReturnSite { probe, pid, address: back, reason: &reason });
                }
                false
            }
        }
    }
}

/// How a thread has come to the first instruction of a function.
#[derive(Clone, Copy, Debug)]
enum Arrival {
    Made(Made),
    /// The call is one that is known already.
    Again,
}

impl Passage {
    /// Which part of a call the hit is for the next of the probes.
    pub(crate) fn part(&mut self, probe: &Probe, purpose: Purpose, now_ns: impl FnOnce() -> u64) -> Part {
        if !purpose.is_return_site() {
            return if probe.calls().is_some() { Part::Entry(None) } else { Part::None };
        }
        let Some(frame) = self.returned.pop_front() else { return Part::None };
        let Frame { function, entered_ns, value, .. } = frame;
        let duration_ns = now_ns().saturating_sub(entered_ns);
        Part::Return(Call { function, entered_ns, duration_ns, value: Some(value) })
    }
}

fn word(thread: &mut impl ThreadState, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    thread.read(address, &mut bytes).ok().map(|()| u64::from_le_bytes(bytes))
}

/// Of the registers that a function preserves (System V psABI for x86-64, section 3.2.1).
fn digest(registers: &GeneralRegisters) -> u64 {
    let mut hasher = DefaultHasher::new();
    [gpr::RBX, gpr::RBP, gpr::R12, gpr::R13, gpr::R14, gpr::R15]
        .map(|register| registers.gpr[register])
        .hash(&mut hasher);
    hasher.finish()
}
