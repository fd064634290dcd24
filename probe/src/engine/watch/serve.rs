//! What tracers do for watches.

use std::cell::OnceCell;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use emu::{Displaced, Rflags, Touches};

use crate::engine::call::Part;
use crate::engine::event::Event;
use crate::engine::hit::{Action, GeneralRegisters, Hit, ProbeId};
use crate::engine::host::{Handler, Handlers, Request};
use crate::engine::run_on::Region;
use crate::engine::tracer::Tracer;
use crate::engine::trap::{Place, Serving};
use crate::engine::watch::armed::{Armed, Cause};
use crate::engine::watch::watches::Ended;
use crate::engine::watch::watches::Handler as ChangeHandler;
use crate::engine::watch::{
    Arming, Compared, Ending, Watch, WatchId, WatchRefusal, Watched, Watches, Watching, Writer, masked,
    writer,
};
use crate::executor::Executor;
use crate::executor::hardware::Spot;
use crate::executor::perf::Signalled;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::SharedSpace;
use crate::symbols::locate::Address;
use crate::symbols::resolve::{Objects, find_object};
use crate::target::maps::Maps;
use crate::target::{linker, lock};

const RSP: usize = 4;

/// A watch that is to begin at a hit, and for which process and thread, or why it cannot.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) watch: WatchId,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) arming: Result<Box<Arming>, WatchRefusal>,
}

/// The thread runs on for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RunsOn {
    pub(crate) watch: WatchId,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) watching: Watching,
}

/// The memory of an address space of which no thread need be stopped.
fn memory_of(space: &SharedSpace) -> impl FnMut(u64, &mut [u8]) -> usize + '_ {
    |address, bytes| {
        let space = space.read();
        let read = space.read_raw(address, bytes).unwrap_or(0);
        space.unmask(address, bytes.get_mut(..read).unwrap_or_default());
        read
    }
}

/// The text around where a thread has stopped.
struct TextOf<'a> {
    space: &'a SharedSpace,
    watches: &'a Watches,
    pid: i32,
}

impl writer::Text for TextOf<'_> {
    fn code(&mut self, address: u64) -> Vec<u8> {
        match self.space.read().code_at(address) {
            Ok((code, length)) => code.get(..length).unwrap_or_default().to_vec(),
            Err(_) => Vec::new(),
        }
    }

    fn before(&mut self, address: u64) -> Option<u64> {
        let last = address.checked_sub(1)?;
        let module = self.watches.unwinder.module(self.pid, last)?;
        let elf = module.elf(self.watches.unwinder.objects())?;
        let at = module.address_of(elf, last)?;
        let function = elf.function_at(at)?;
        let start = elf.with_starts(function, |starts| {
            let behind = starts.partition_point(|&start| start <= at);
            starts.get(..behind).and_then(|starts| starts.last()).copied()
        })?;
        Some(address.wrapping_sub(at.wrapping_sub(start)).wrapping_sub(1))
    }
}

impl Tracer {
    /// Makes a watch, which begins at once unless it is to begin at hits.
    pub(crate) fn watch(
        &mut self,
        watch: Watch,
        objects: Arc<Objects>,
        handler: ChangeHandler,
    ) -> Result<WatchId, WatchRefusal> {
        let shared = Arc::clone(&self.shared);
        let watched = shared.watches.enter(watch, objects, handler)?;
        if watched.at_hits {
            return Ok(watched.id);
        }
        let placing = lock(&shared.placing);
        let mappings = self.mappings().map_err(|error| WatchRefusal::Maps(error.to_string()))?;
        let begun: Result<(), WatchRefusal> =
            mappings.iter().try_for_each(|(space, maps)| self.watch_in(&watched, *space, maps).map(drop));
        drop(placing);
        if begun.is_err() {
            watched.over.store(true, Ordering::SeqCst);
        }
        begun.map(|()| watched.id)
    }

    /// Begins those watches in an address space that begin by themselves, and have not.
    pub(crate) fn watch_all_in(&mut self, space: SpaceId, maps: &Maps) {
        for watched in self.shared.watches.all() {
            if watched.at_hits || watched.is_over() {
                continue;
            }
            if let Err(refusal) = self.watch_in(&watched, space, maps) {
                self.refuse(&watched, self.shared.pid_in(space), None, &refusal);
            }
        }
    }

    /// Begins a watch in an address space. Says whether it has; not where its object is not there yet.
    fn watch_in(&mut self, watched: &Arc<Watched>, id: SpaceId, maps: &Maps) -> Result<bool, WatchRefusal> {
        let known = self.shared.watches.of(watched.id);
        let Some(space) = self.shared.space(id) else { return Ok(false) };
        if known.iter().any(|armed| armed.space == id) {
            return Ok(false);
        }
        let pid = self.shared.pid_in(id);
        let address = match &watched.object {
            None => linker::entry(maps.pid()),
            Some(object) => {
                let mapping = find_object(object, maps, watched.bindings.objects(), None);
                mapping
                    .map_err(|error| WatchRefusal::Unresolvable(error.to_string()))?
                    .map(|found| found.start)
            }
        };
        let Some(address) = address else { return Ok(false) };
        let arming = Arming::from_now_on(Arc::clone(watched), pid, address, &mut memory_of(&space))?;
        self.arm(arming, id, &space).map(|_| true)
    }

    fn refuse(&self, watched: &Watched, pid: i32, tid: Option<i32>, reason: &WatchRefusal) {
        lock(&watched.report).refused += 1;
        self.tell(&Event::NotWatched { watch: watched.id, pid, tid, reason });
    }

    /// Guards what is to be watched.
    fn arm(&mut self, arming: Arming, id: SpaceId, space: &SharedSpace) -> Result<Arc<Armed>, WatchRefusal> {
        let spots = arming.spots()?;
        self.shared.register.use_hardware();
        let threads = || self.shared.register.in_space(id);
        space.write().watch_data(&spots, &threads).map_err(WatchRefusal::Hardware)?;
        let hardware = Arc::clone(&space.read().hardware);
        let sees_kernel = spots.iter().all(|&spot| hardware.sees_kernel(spot));
        let watching = arming.watching(false, sees_kernel);
        let (pid, frame) = (arming.pid, arming.frame.clone());
        let armed = Arc::new(arming.armed(id, spots));
        self.shared.watches.add(Arc::clone(&armed));
        let mut report = lock(&armed.watched.report);
        report.started += 1;
        report.sees_kernel &= sees_kernel;
        drop(report);
        let tid = frame.as_ref().map(|frame| frame.tid);
        self.tell(&Event::Watching { watch: armed.watched.id, pid, tid, watching });
        if let Some(frame) = frame {
            self.see_return_to(frame.ip);
        }
        Ok(armed)
    }

    /// Has it seen when a thread comes to where a function returns to that is watched until then.
    fn see_return_to(&mut self, address: u64) {
        let mut returns = lock(&self.shared.watches.returns);
        if returns.contains(&address) {
            return;
        }
        returns.push(address);
        drop(returns);
        let handler = |hit: &mut Hit<'_>| {
            hit.has_returned();
            Action::Continue
        };
        let handlers = Handlers::brief(Handler::Together(Box::new(handler)));
        self.grant(Request::Add(Box::new(Address(address)), handlers));
    }

    /// A thread is about to take a SIGTRAP, by which it may have been stopped behind something that has written to what is
    /// watched. Says whether that is all that there is to it.
    pub(crate) fn has_written(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        signalled: Option<Signalled>,
    ) -> bool {
        let hardware = Arc::clone(&place.space.read().hardware);
        let tid = stopped.tid();
        let (is_data, mut written) = match signalled {
            Some(Signalled { data, late, .. }) => (data && !late, hardware.written(tid)),
            // The kernel takes it for something else, and may not have counted it.
            None if stopped.is_unnamed().unwrap_or(false) => {
                let flags = self.registers.file.rflags;
                if flags.intersects(Rflags::TF | Rflags::RF) {
                    return false;
                }
                (true, hardware.written(tid))
            }
            None => return false,
        };
        if written.is_empty() && signalled.is_none() {
            written = hardware.data().into_iter().map(|spot| (spot, 1)).collect();
        }
        if written.is_empty() {
            return is_data;
        }
        if signalled.is_some_and(|signalled| signalled.forced) {
            self.put_back_trap(stopped, place.space);
        }
        let registers = GeneralRegisters::of(&self.registers.file);
        let late = signalled.is_some_and(|signalled| signalled.late);
        let writer = if late { Writer::Blocked } else { self.writer(stopped, &registers, &written, place) };
        if signalled.is_none() && writer == Writer::Unknown {
            // The program has done that itself.
            return false;
        }
        if let Writer::Instruction { address } = writer
            && let Some(taken) = self.taken_by_mask(stopped, place, address)
        {
            written.retain(|(spot, _)| writer::meets(&spot.range(), &taken));
            // Whose value has changed all the same, another thread has written to, which stops behind that.
            if written.is_empty() {
                return is_data;
            }
        }
        self.compare_all(stopped, place, &written, &writer);
        is_data
    }

    /// What the instruction at `address` has written to, behind which the thread is; `None` if it is no masked store.
    fn taken_by_mask(
        &mut self,
        stopped: &Stopped,
        place: Place<'_>,
        address: u64,
    ) -> Option<Vec<Range<u64>>> {
        let (code, length) = place.space.read().code_at(address).ok()?;
        let store = Displaced::decode(code.get(..length)?, address).ok()?;
        if !masked::is_masked_store(&store) {
            return None;
        }
        let written = self.registers.lend_extended(stopped).map(|lent| masked::written(&store, lent));
        let back = self.registers.take_back(stopped);
        self.threads.note(stopped.tid(), "PTRACE_SETREGSET", back);
        self.threads.note(stopped.tid(), "PTRACE_GETREGSET", written)?
    }

    fn writer(
        &self,
        stopped: &Stopped,
        registers: &GeneralRegisters,
        written: &[(Spot, u64)],
        place: Place<'_>,
    ) -> Writer {
        /// Of `struct user`.
        const ORIG_RAX: usize = 15;
        let number = stopped.peek_user(ORIG_RAX).ok();
        let system_call = number.filter(|number| number.cast_signed() >= 0);
        let written: Vec<Range<u64>> = written.iter().map(|(spot, _)| spot.range()).collect();
        let stop = writer::Stop { registers, system_call, written: &written };
        let watches = &self.shared.watches;
        writer::find(&stop, &mut TextOf { space: place.space, watches, pid: place.pid })
    }

    /// Looks at all that is watched in the thread's address space, of which it has written these.
    fn compare_all(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        written: &[(Spot, u64)],
        writer: &Writer,
    ) {
        let tid = stopped.tid();
        let others = self.threads.register.has_others(place.space_id, tid);
        for armed in self.shared.watches.in_space(place.space_id) {
            let own = armed.spots();
            let times = written.iter().filter(|(spot, _)| own.contains(spot)).map(|&(_, times)| times).max();
            if *writer == Writer::Blocked {
                lock(&armed.watched.report).missed += times.unwrap_or(0);
            }
            let rsp = self.registers.file.gpr[RSP];
            if armed.is_left(tid, rsp) || armed.is_overwritten(&mut memory_of(place.space)) {
                self.end(&armed, Ending::Left);
                continue;
            }
            let cause = Cause { writer: writer.clone(), written: times.is_some(), others };
            self.look(stopped, place, &armed, &cause);
        }
    }

    /// Looks at one, and goes along with it where it moves.
    fn look(&mut self, stopped: &mut Stopped, place: Place<'_>, armed: &Arc<Armed>, cause: &Cause) {
        /// Of a chain that others change all the time.
        const MOST_MOVES: usize = 4;
        let mut cause = cause.clone();
        for _ in 0..=MOST_MOVES {
            let Compared { action, moved, ending } = self.compare(stopped, place, armed, &cause);
            match action {
                Some(Action::Remove) => self.end_all_of(&armed.watched),
                Some(Action::Stop) => self.stop_serving(),
                Some(Action::Detach) => {
                    self.shared.wishes.detach.store(true, Ordering::SeqCst);
                    self.shared.crew.wake_captain();
                }
                _ => {}
            }
            if let Some(ending) = ending {
                return self.has_come(armed, ending);
            }
            match moved.map(|spots| spots.and_then(|spots| self.guard_anew(armed, spots, place))) {
                None | Some(Ok(false)) => return,
                // Somebody may have written to it before it was guarded.
                Some(Ok(true)) => cause = Cause { writer: Writer::Unseen, written: false, ..cause },
                Some(Err(refusal)) => return self.end(armed, Ending::Lost(refusal)),
            }
        }
    }

    fn compare(&mut self, stopped: &mut Stopped, place: Place<'_>, armed: &Armed, cause: &Cause) -> Compared {
        let Serving { mut thread, shared, .. } = self.serving(stopped, place.space);
        let mut registers = GeneralRegisters::of(thread.registers());
        // A thread that has stopped for this has nowhere to run on from.
        let (mut requests, mut wishes) = (Vec::new(), Vec::new());
        let mut hit = Hit {
            probe: ProbeId(usize::MAX),
            pid: place.pid,
            ip: registers.rip,
            registers: &mut registers,
            thread: &mut thread,
            requests: &mut requests,
            wishes: &mut wishes,
            filtered: false,
            discounted: false,
            // Nor does it wait: it has stopped behind what it has written.
            delay: Duration::ZERO,
            signal: None,
            time_ns: OnceCell::new(),
            part: Part::None,
            watches: Some(&shared.watches),
        };
        let compared = panic::catch_unwind(AssertUnwindSafe(|| armed.compare(&mut hit, cause)));
        let rejected = thread.take_back(&registers).err();
        requests.into_iter().for_each(|request| self.grant(request));
        if let Some(error) = rejected {
            self.tell(&Event::Rejected { pid: place.pid, tid: stopped.tid(), error });
        }
        compared.unwrap_or_else(|payload| {
            self.shared.wishes.panic_with(payload);
            self.shared.crew.wake_captain();
            Compared::default()
        })
    }

    /// Guards other memory for it from now on. Says whether that is other memory.
    fn guard_anew(
        &mut self,
        armed: &Armed,
        spots: Vec<Spot>,
        place: Place<'_>,
    ) -> Result<bool, WatchRefusal> {
        if armed.is_over() || armed.spots() == spots {
            return Ok(false);
        }
        let threads = || self.shared.register.in_space(place.space_id);
        let mut space = place.space.write();
        space.leave_data(&armed.guarded_by(Vec::new()));
        space.watch_data(&spots, &threads).map_err(WatchRefusal::Hardware)?;
        drop(space);
        armed.guarded_by(spots);
        Ok(true)
    }

    /// What `until` names has come.
    fn has_come(&mut self, armed: &Arc<Armed>, ending: Ending) {
        self.end(armed, ending);
        if !armed.watched.at_hits {
            self.end_all_of(&armed.watched);
            if self.shared.watches.are_over() {
                self.stop_serving();
            }
        }
    }

    /// Nobody wants to know of a watch any more.
    fn end_all_of(&mut self, watched: &Watched) {
        watched.over.store(true, Ordering::SeqCst);
        for armed in self.shared.watches.of(watched.id) {
            self.end(&armed, Ending::Reached);
        }
    }

    /// Ends what is watched.
    pub(crate) fn end(&mut self, armed: &Arc<Armed>, ending: Ending) {
        if !armed.end() {
            return;
        }
        self.shared.watches.remove(armed);
        if let Some(space) = self.shared.space(armed.space) {
            space.read().leave_data(&armed.guarded_by(Vec::new()));
        }
        let tid = armed.frame.as_ref().map(|frame| frame.tid);
        self.tell(&Event::WatchEnded { watch: armed.watched.id, pid: armed.pid, tid, ending: &ending });
    }

    /// A hit has been served, its instruction performed at `place`: it may have written to what is watched, and its
    /// handlers may want something to be. Its registers are `known` unless the thread has executed something itself.
    pub(crate) fn after_hit(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        touches: Option<Touches>,
        known: bool,
    ) {
        let wanted = std::mem::take(&mut self.wanted_watches);
        if wanted.is_empty() && !self.shared.watches.any() {
            return;
        }
        let tid = stopped.tid();
        if !known {
            let fetched = self.registers.fetch(stopped);
            if self.threads.note(tid, "PTRACE_GETREGS", fetched).is_none() {
                return;
            }
        }
        let writes =
            touches.is_some_and(|touches| touches.intersects(Touches::MEMORY_WRITE | Touches::ATOMIC));
        let instruction = Writer::Instruction { address: place.address };
        let hardware = Arc::clone(&place.space.read().hardware);
        let written = hardware.written(tid);
        if writes || !written.is_empty() {
            self.compare_all(stopped, place, &written, &instruction);
        }
        for Wanted { watch, pid, tid, arming } in wanted {
            let Some(watched) = self.shared.watches.get(watch) else { continue };
            if let Ok(Some(frame)) = arming.as_ref().map(|arming| arming.frame.as_ref()) {
                // A thread that is in it again, as deep as before, has left it without a return.
                let known = self.shared.watches.of_thread(pid, tid).into_iter();
                let left = known.filter(|known| known.watched.id == watch && known.is_left(tid, frame.rsp));
                left.collect::<Vec<_>>().iter().for_each(|left| self.end(left, Ending::Left));
            }
            let armed = arming.and_then(|arming| self.arm(*arming, place.space_id, place.space));
            match armed {
                Ok(armed) => {
                    let writer = if writes { instruction.clone() } else { Writer::Unseen };
                    let cause = Cause { writer, written: false, others: false };
                    self.look(stopped, place, &armed, &cause);
                }
                Err(refusal) => self.refuse(&watched, pid, Some(tid), &refusal),
            }
        }
    }

    /// Tells of threads that do not run on any more for a watch.
    pub(crate) fn tell_ended_watches(&mut self) {
        let Some(ended) = self.shared.watches.ended.take() else { return };
        for Ended { watch, pid, tid, ending, action } in ended {
            self.tell(&Event::WatchEnded { watch, pid, tid: Some(tid), ending: &ending });
            match (action, self.shared.watches.get(watch)) {
                (Some(Action::Stop), _) => self.stop_serving(),
                (Some(Action::Detach), _) => {
                    self.shared.wishes.detach.store(true, Ordering::SeqCst);
                    self.shared.crew.wake_captain();
                }
                (Some(Action::Remove), Some(watched)) => self.end_all_of(&watched),
                _ => {}
            }
        }
    }

    /// A process that a thread has made, as a copy, has the same watched.
    pub(crate) fn copy_watches(&mut self, from: SpaceId, parent: i32, to: SpaceId, child: i32) {
        for armed in self.shared.watches.in_space(from) {
            match armed.copy(to, child, parent, child) {
                Some(copy) => {
                    lock(&copy.watched.report).started += 1;
                    self.shared.watches.add(Arc::new(copy));
                }
                None => {
                    if let Some(space) = self.shared.space(to) {
                        space.read().leave_data(&armed.spots());
                    }
                }
            }
        }
    }
}

impl Hit<'_> {
    /// Has something watched from this hit on, with what names and registers mean at it; see
    /// [`Watch::at_hits`](crate::watch::Watch::at_hits). What becomes of that is told by
    /// [`Event::Watching`](crate::Event::Watching) or [`Event::NotWatched`](crate::Event::NotWatched). A process that probes
    /// itself watches nothing.
    pub fn watch(&mut self, watch: WatchId) {
        let Some(watches) = self.watches.map(Arc::clone) else { return };
        let arming = match watches.get(watch) {
            Some(watched) if watched.is_over() => return,
            Some(watched) => Arming::at(watched, self, &watches.unwinder),
            None => Err(WatchRefusal::NoWatch),
        };
        let (pid, tid) = (self.pid, self.tid());
        match arming {
            Ok(arming) if arming.runs_on() => self.run_on_for(arming, watches),
            arming => {
                let arming = arming.map(Box::new);
                self.requests.push(Request::Watch(Wanted { watch, pid, tid, arming }));
            }
        }
    }

    /// Has the thread run on, and its writes looked at.
    fn run_on_for(&mut self, arming: Arming, watches: Arc<Watches>) {
        let watching = arming.watching(true, true);
        let (watch, pid, tid) = (arming.watched.id, self.pid, self.tid());
        lock(&arming.watched.report).started += 1;
        self.requests.push(Request::RunsOn(RunsOn { watch, pid, tid, watching }));
        let armed = Arc::new(arming.armed(SpaceId::MAX, Vec::new()));
        self.run_on_with(Region::new().accesses(), move |step| armed.step(step, &watches));
    }

    /// The thread is where a function returns to: whatever was watched until then is not any more.
    pub(crate) fn has_returned(&mut self) {
        let (pid, tid, rsp) = (self.pid, self.tid(), self.registers.gpr[RSP]);
        let Some(watches) = self.watches else { return };
        for armed in watches.of_thread(pid, tid) {
            if armed.is_left(tid, rsp) {
                armed.compare(self, &Cause { writer: Writer::Unseen, written: false, others: false });
                self.requests.push(Request::EndWatch(armed, Ending::Returned));
            }
        }
    }
}
