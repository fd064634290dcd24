//! A thread of this process has reached a site: its handlers are called, and the instruction is performed.

use std::cell::OnceCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use emu::Rflags;

use crate::engine::call::Part;
use crate::engine::event::Counters;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::host::Request;
use crate::engine::perform::{self, How};
use crate::engine::probes::Tally;
use crate::executor::Executor;
use crate::executor::general::GeneralRegisters;
use crate::executor::own::machine::{self, ANYWHERE, BRANCH, NEXT, Phase};
use crate::executor::own::signals::{self, Context, Services};
use crate::executor::own::sites::{self, Site, State};
use crate::executor::own::users::{Held, Registration};
use crate::executor::own::{self, GENERAL, files};
use crate::executor::ptrace::sys;
use crate::target::{INT3, system};

/// What a process serves its own traps and stubs by.
pub(super) const SERVICES: Services = Services { trap, stub };

type Handler = Box<dyn Fn(&mut Hit<'_>) -> Action + Send + Sync>;

/// A probe of this process in itself.
pub(super) struct Own {
    id: ProbeId,
    /// Without hits, which are the calls of the handler but for those below, and what was emulated, which is all that was
    /// nothing else: each count takes its time at a hit.
    tally: Tally,
    /// Calls of the handler that are no hits.
    uncounted: AtomicU64,
    /// Instructions that were left out, or could not be performed then: each that is performed later is taken off again, also
    /// where the probe has come in between, so that it may wrap.
    unperformed: AtomicU64,
    handler: Handler,
    /// The handler has asked for its removal.
    to_go: AtomicBool,
    /// What is told of that.
    session: Arc<AtomicBool>,
}

impl Own {
    pub(super) fn new(id: ProbeId, handler: Handler, session: Arc<AtomicBool>) -> Own {
        Own {
            id,
            tally: Tally::default(),
            uncounted: AtomicU64::new(0),
            unperformed: AtomicU64::new(0),
            handler,
            to_go: AtomicBool::new(false),
            session,
        }
    }

    /// What has been counted of the probe that has registered so.
    pub(super) fn counters(registration: &Registration) -> Counters {
        registration.value::<Own>().map_or_else(Counters::default, |own| own.count_of(registration.uses()))
    }

    fn count_of(&self, uses: u64) -> Counters {
        // What is counted later in a hit is looked at first.
        let unperformed = self.unperformed.load(Ordering::Relaxed);
        let counted = self.tally.counters();
        let hits = uses.saturating_sub(self.uncounted.load(Ordering::Relaxed));
        let others = (counted.native + counted.faulted).wrapping_add(unperformed);
        Counters { hits, emulated: (uses + counted.missed).wrapping_sub(others), ..counted }
    }

    /// The instruction of a hit that has not been performed so far is performed now.
    fn take_up(&self) {
        self.unperformed.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts what became of the instruction at a hit, if it was not left out.
    fn count(&self, how: Option<How>) {
        match how {
            Some(How::Emulated) => {}
            Some(How::Native) => Tally::count(&self.tally.native),
            Some(How::Faulted) => Tally::count(&self.tally.faulted),
            Some(How::Again | How::NotAtAll) | None => Tally::count(&self.unperformed),
        }
    }

    pub(super) fn is_to_go(&self) -> bool {
        self.to_go.load(Ordering::Relaxed)
    }

    /// Has its handler not be called any more.
    fn ask_to_go(&self) {
        self.to_go.store(true, Ordering::Relaxed);
        self.session.store(true, Ordering::Release);
    }
}

/// What is to be done with the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Perform,
    Skip,
    GoTo(u64),
}

/// Has each of those who want to know of hits of `site` do something, which is not counted as a call of its handler.
fn tell(site: &Site, work: impl Fn(&Own)) {
    site.users.held().filter_map(|held| held.value().map(&work)).for_each(drop);
}

/// How far the thread was when it came to a site, with its stack at `stack`.
fn before(stack: u64) -> Phase {
    match machine::phase() {
        // It has left a handler by other ways than back.
        Phase::Handler
            if stack >= machine::stack_of_handler()
                && !signals::has_interrupted_another_stack(machine::stack_of_handler()) =>
        {
            leave_handlers();
            Phase::None
        }
        phase => phase,
    }
}

/// The calling thread is in no handler any more, whether it has come back from them or not.
pub(super) fn leave_handlers() {
    if let Some(left) = Held::take_left() {
        if let Some(own) = left.value::<Own>() {
            Tally::count(&own.unperformed);
        }
        left.leave();
    }
    machine::set_phase(Phase::None);
}

/// Whether a thread comes to `address` only on its way from a jump to the service of its site.
fn is_on_its_way(address: u64) -> bool {
    let ours = [machine::code(), machine::slots(), machine::trampolines()];
    let padding = sites::find(address).and_then(Site::padding);
    ours.iter().any(|range| range.contains(&address)) || padding == Some(address)
}

/// A thread has taken a SIGTRAP.
fn trap(mut context: Context<'_>) -> Option<u64> {
    let general = context.general();
    let word = |register: i32| general.get(register as usize).map_or(0, |word| word.cast_unsigned());
    let (reached, stack) = (word(libc::REG_RIP).wrapping_sub(1), word(libc::REG_RSP));
    // One that is the program's own is so again when it is not probed any more.
    let is_ours = |site: &&Site| site.state() == State::Live || site.original_at(reached) != INT3;
    let Some(site) = sites::find(reached).filter(is_ours).filter(|_| context.is_breakpoint()) else {
        if context.is_step() && is_on_its_way(reached.wrapping_add(1)) {
            // What it does on its way to a stub, and there, is a part of its instruction.
            return None;
        }
        context.pass_on();
        return None;
    };
    // One of those behind the site's, which a jump has replaced as well: nobody has asked for its hits.
    let behind = site.behind().iter().find(|displaced| displaced.ip() == reached);
    let before = before(stack);
    machine::set_phase(Phase::Serving);
    if site.state() != State::Live {
        // It was there when the thread reached it.
        if let Some(rip) = context.general().get_mut(libc::REG_RIP as usize) {
            *rip = behind.map_or(site.address(), |_| reached).cast_signed();
        }
        machine::set_phase(before);
        return None;
    }
    let served = site.jump().is_some() && reached == site.alias() + 1;
    if reached == site.alias() {
        // So deep in stubs that the thread may have left them by other ways than back.
        machine::leave_stubs();
    }
    let (general, image) = context.parts();
    let mut lender = files::Lender::default();
    let mut thread = own::Own::new(site, general, image, lender.lend(), false);
    let signal = match behind {
        Some(displaced) => {
            thread.turn_to(displaced);
            perform::perform(&mut thread, displaced).signal.unwrap_or(0)
        }
        None => {
            let then = if served {
                // It is the same hit.
                tell(site, Own::take_up);
                Then::Perform
            } else {
                call(&mut thread, site, before, stack)
            };
            go_on(&mut thread, site, then)
        }
    };
    let raised = thread.raised();
    let fs_base = thread.finish();
    // From what the program does now the thread may never come back.
    drop(lender);
    machine::set_phase(before);
    match (signal, raised) {
        (0, _) => {}
        (_, Some(raised)) => context.raise(&raised),
        (_, None) => context.pass_on(),
    }
    fs_base
}

/// A thread has jumped to the stub of a site.
fn stub(site: &'static Site, general: &mut [i64; GENERAL], image: &mut [u8]) -> (u64, bool) {
    let word = |register: i32| general.get(register as usize).map_or(0, |word| word.cast_unsigned());
    let stack = word(libc::REG_RSP);
    let before = before(stack);
    let stepping = Rflags::from_bits_retain(word(libc::REG_EFL)).contains(Rflags::TF);
    if site.state() != State::Live || stepping {
        if let Some(rip) = general.get_mut(libc::REG_RIP as usize) {
            *rip = site.alias().cast_signed();
        }
        return (ANYWHERE, false);
    }
    let mut lender = files::Lender::default();
    let mut thread = own::Own::new(site, general, image, lender.lend(), true);
    let then = call(&mut thread, site, before, stack);
    go_on(&mut thread, site, then);
    for displaced in site.behind() {
        if thread.registers().rip != displaced.ip() {
            break;
        }
        thread.turn_to(displaced);
        perform::perform(&mut thread, displaced);
    }
    let rip = thread.registers().rip;
    let changed = thread.has_changed_image();
    thread.finish();
    let how = match rip {
        rip if rip == site.next() => NEXT,
        rip if rip == site.branch() => BRANCH,
        _ => ANYWHERE,
    };
    (how, changed)
}

/// Calls the handlers of the probes at `site`, unless the thread is in a handler already.
fn call(thread: &mut own::Own<'_>, site: &'static Site, before: Phase, stack: u64) -> Then {
    if before != Phase::None {
        tell(site, |own| Tally::count(&own.tally.missed));
        return Then::Perform;
    }
    let mut registers = GeneralRegisters::of(thread.registers());
    let mut then = Then::Perform;
    let phase = machine::phase();
    let outer = machine::stack_of_handler();
    machine::set_stack_of_handler(stack);
    machine::set_phase(Phase::Handler);
    for held in site.users.held() {
        let before = held.begin_telling();
        if let Some(own) = held.value::<Own>() {
            match ask(own, thread, &mut registers) {
                Action::Continue => {}
                Action::Skip if then == Then::Perform => then = Then::Skip,
                Action::Skip => {}
                Action::GoTo(target) => then = Then::GoTo(target),
                Action::Remove | Action::Detach | Action::Stop => own.ask_to_go(),
            }
        }
        Held::end_telling(before);
        held.count();
    }
    machine::set_phase(phase);
    machine::set_stack_of_handler(outer);
    let rip = thread.registers().rip;
    let target = std::mem::replace(&mut registers.rip, rip);
    if target != rip && !matches!(then, Then::GoTo(_)) {
        then = Then::GoTo(target);
    }
    if thread.is_lent() || !registers.are_of(thread.registers()) {
        // What cannot be stored stays as it was.
        let _ = thread.take_back(&registers);
    }
    then
}

/// Calls one handler.
fn ask(own: &Own, thread: &mut own::Own<'_>, registers: &mut GeneralRegisters) -> Action {
    if own.is_to_go() {
        Tally::count(&own.uncounted);
        return Action::Continue;
    }
    // Nobody serves them here, where a thread goes on by itself.
    let mut wishes = Vec::new();
    let mut requests = Vec::new();
    let ip = registers.rip;
    let mut hit = Hit {
        probe: own.id,
        pid: signals::pid(),
        ip,
        registers,
        thread,
        requests: &mut requests,
        wishes: &mut wishes,
        watches: None,
        filtered: false,
        discounted: false,
        delay: Duration::ZERO,
        signal: None,
        time_ns: OnceCell::new(),
        part: Part::None,
    };
    let action = (own.handler)(&mut hit);
    let Hit { filtered, discounted, delay, signal, .. } = hit;
    // It is the thread itself that is here.
    if !delay.is_zero() {
        std::thread::sleep(delay);
    }
    if let Some(signal) = signal {
        // It is blocked until the trap has been served.
        let _ = sys::send(signals::pid(), system::this_thread(), signal);
    }
    if discounted {
        Tally::count(&own.uncounted);
    }
    if filtered {
        Tally::count(&own.tally.filtered);
    }
    // Of another probe's removal only its own session knows.
    if requests.iter().any(|request| matches!(request, Request::Remove(id) if *id == own.id)) {
        own.ask_to_go();
    }
    action
}

/// Has the thread go on, and returns the signal that it is to take, or 0.
fn go_on(thread: &mut own::Own<'_>, site: &'static Site, then: Then) -> i32 {
    let displaced = site.displaced();
    let performed = match then {
        Then::Perform => Some(perform::perform(thread, displaced)),
        Then::GoTo(target) => {
            thread.go_to(target);
            None
        }
        Then::Skip => {
            thread.go_to(displaced.instruction().next_ip());
            None
        }
    };
    let how = performed.map(|performed| performed.how);
    if how != Some(How::Emulated) {
        tell(site, |own| own.count(how));
    }
    performed.and_then(|performed| performed.signal).unwrap_or(0)
}
