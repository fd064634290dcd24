//! Where probes are: located in each address space, and again whenever its mappings change.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::host::{Handlers, Request};
use crate::engine::probes::{Held, Placed};
use crate::engine::tracer::Tracer;
use crate::engine::watch::RunsOn;
use crate::error::ProbeError;
use crate::executor::hardware::{HardwareRefusal, Passed};
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::{AT_A_TIME, Purpose, SharedSpace, Unplaceable, Wanted};
use crate::symbols::locate::{Counter, Locate, LocateError};
use crate::target::failure::errno;
use crate::target::maps::Maps;
use crate::target::{linker, lock, procfs};

/// A probe that is being placed in an address space.
#[derive(Clone, Copy)]
struct Placing<'a> {
    id: ProbeId,
    space: &'a SharedSpace,
    pid: i32,
    maps: &'a Maps,
    /// Those of its sites.
    counters: &'a [Counter],
    /// The probe exists already, so that its host is told by events.
    later: bool,
    /// Of one whose sites are to be hardware breakpoints.
    passed: Option<&'a Passed>,
    threads: &'a dyn Fn() -> Vec<i32>,
    /// It follows calls.
    follows: bool,
}

impl Placing<'_> {
    /// Has the program know that somebody wants to know of the site at `address`, where it asks. If that cannot be, there
    /// is no breakpoint any more.
    fn hold_counters(&self, address: u64) -> Result<(), Unplaceable> {
        let Placing { id, space, maps, .. } = *self;
        let mut counters = self.counters.iter().filter(|counter| counter.site == address).peekable();
        if counters.peek().is_none() {
            return Ok(());
        }
        let mut space = space.write();
        let held = counters.try_for_each(|counter| space.hold(counter.address, id.0, maps));
        if held.is_err() {
            space.withdraw(&[address], Purpose::site(id.0));
        }
        held
    }
}

impl Tracer {
    /// Makes a probe.
    pub(crate) fn place(
        &mut self,
        source: Box<dyn Locate + Send>,
        handlers: impl Into<Handlers>,
    ) -> Result<ProbeId, ProbeError> {
        let id = self.shared.enter(source, handlers.into());
        match self.place_everywhere(id, false).map_err(ProbeError::Maps) {
            Ok(()) => self.check_or_drop(id),
            Err(error) => {
                self.drop_last(id);
                Err(error)
            }
        }
    }

    /// Makes several probes, with one look at what is mapped.
    pub(crate) fn place_many(
        &mut self,
        probes: impl Iterator<Item = (Box<dyn Locate + Send>, Handlers)>,
    ) -> Result<Vec<Result<ProbeId, ProbeError>>, ProbeError> {
        let mappings = self.mappings().map_err(ProbeError::Maps)?;
        let placed = probes.map(|(source, handlers)| {
            let id = self.shared.enter(source, handlers);
            self.locate_in(id, &mappings, false);
            self.check_or_drop(id)
        });
        let placed = placed.collect();
        Ok(placed)
    }

    /// The same with those whose handlers are of one kind, which are kept together.
    pub(crate) fn place_together<L, H>(
        &mut self,
        probes: Vec<(L, H)>,
    ) -> Result<Vec<Result<ProbeId, ProbeError>>, ProbeError>
    where
        L: Locate + Send + 'static,
        H: FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        let placing = lock(&shared.placing);
        let mappings = self.mappings().map_err(ProbeError::Maps)?;
        let ids = shared.enter_all(probes).map(ProbeId);
        ids.clone().for_each(|id| self.locate_in(id, &mappings, false));
        drop(placing);
        let placed = ids.map(|id| match self.check_placed(id) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.remove(id);
                Err(error)
            }
        });
        let placed = placed.collect();
        Ok(placed)
    }

    /// Returns the last probe, if that names something that exists and can be probed; otherwise there is none.
    fn check_or_drop(&mut self, id: ProbeId) -> Result<ProbeId, ProbeError> {
        let checked = self.check_placed(id);
        if checked.is_err() {
            self.drop_last(id);
        }
        checked.map(|()| id)
    }

    pub(crate) fn drop_last(&mut self, id: ProbeId) {
        self.remove(id);
        self.shared.take_back();
    }

    /// The address spaces of the target, each with what is mapped there.
    pub(crate) fn mappings(&self) -> io::Result<Vec<(SpaceId, Maps)>> {
        let mut mappings = Vec::new();
        for (space, _) in self.shared.spaces() {
            for tid in self.threads.register.in_space(space) {
                match Maps::read(tid) {
                    Ok(maps) if !maps.is_empty() => {
                        mappings.push((space, maps));
                        break;
                    }
                    Err(error) if !procfs::has_exited(tid) => return Err(error),
                    // Another thread of the same memory may live.
                    Ok(_) | Err(_) => {}
                }
            }
        }
        Ok(mappings)
    }

    fn locate_in(&mut self, id: ProbeId, mappings: &[(SpaceId, Maps)], later: bool) {
        for (space, maps) in mappings {
            self.locate(id, *space, maps, later);
        }
    }

    /// Does what a handler has asked for.
    pub(crate) fn grant(&mut self, request: Request) {
        match request {
            Request::Remove(id) => self.remove(id),
            // Once the instruction has been performed, and with the thread at hand.
            Request::Watch(wanted) => self.wanted_watches.push(wanted),
            Request::RunsOn(RunsOn { watch, pid, tid, watching }) => {
                self.tell(&Event::Watching { watch, pid, tid: Some(tid), watching });
            }
            Request::EndWatch(armed, ending) => self.end(&armed, ending),
            Request::Tell { probe, pid, error } => {
                self.shared.tell(&Event::Unresolvable { probe, pid, error: &error });
            }
            Request::Add(source, handlers) => {
                let id = self.shared.enter(source, handlers);
                // Where the mappings cannot be read, the probe waits until they can.
                if let Err(error) = self.place_everywhere(id, true) {
                    let target = self.shared.target;
                    self.threads.note::<()>(target, "reading /proc/PID/maps", Err(errno(&error)));
                }
            }
        }
    }

    pub(crate) fn place_everywhere(&mut self, id: ProbeId, later: bool) -> io::Result<()> {
        let shared = Arc::clone(&self.shared);
        let placing = lock(&shared.placing);
        let mappings = self.mappings()?;
        self.locate_in(id, &mappings, later);
        drop(placing);
        Ok(())
    }

    /// Whether a new probe names something that exists, and that can be probed.
    fn check_placed(&mut self, id: ProbeId) -> Result<(), ProbeError> {
        let probe = self.shared.probe(id);
        let Some((probe, _)) = probe.as_ref().and_then(Held::get) else { return Ok(()) };
        let mut placed = lock(&probe.placed);
        if placed.has_parts() {
            return Ok(());
        }
        // Nobody else has seen what is wrong with it.
        if placed.pending().is_some_and(|error| matches!(**error, LocateError::Unresolvable(_)))
            && let Some(error) = placed.take_pending().and_then(Arc::into_inner)
        {
            return Err(ProbeError::Locate(error));
        }
        if placed.sites.is_empty()
            && let Some((address, reason)) = placed.take_refused()
            && let Some(reason) = Arc::into_inner(reason)
        {
            return Err(ProbeError::Unplaceable { address, reason });
        }
        Ok(())
    }

    /// Removes a probe. Threads that have trapped on it already run the original instruction.
    pub(crate) fn remove(&mut self, id: ProbeId) {
        let shared = Arc::clone(&self.shared);
        let probe = shared.probe(id);
        let Some((probe, _)) = probe.as_ref().and_then(Held::get) else { return };
        let placing = lock(&shared.placing);
        let mut placed = lock(&probe.placed);
        if std::mem::replace(&mut placed.removed, true) {
            return;
        }
        let sites = placed.sites.to_vec();
        let calls = probe.calls();
        let returns: Vec<u64> =
            calls.map(|calls| lock(&calls.sites).placed.drain().collect()).unwrap_or_default();
        let parts: Vec<ProbeId> = placed.parts().map(|(_, part)| part).collect();
        drop(placed);
        let mut overwritten = Vec::new();
        for (space_id, space) in shared.spaces() {
            space.write().let_down(id.0, |_| false);
            let (sites, purpose) = if probe.cover().is_some() {
                let purpose = Purpose::covered(id.0);
                (space.read().sites_of(purpose), purpose)
            } else {
                (sites.clone(), Purpose::site(id.0))
            };
            for (sites, purpose) in [(&sites, purpose), (&returns, Purpose::return_site(id.0))] {
                // Others want it in between.
                for sites in sites.chunks(AT_A_TIME) {
                    let lost = space.write().withdraw(sites, purpose);
                    overwritten.extend(lost.into_iter().map(|site| (space_id, site)));
                }
            }
        }
        drop(placing);
        if calls.is_some() {
            // They may return yet, which nobody wants to know.
            shared.calls.of_probe(id.0);
        }
        for (space, address) in overwritten {
            self.tell_overwritten(space, address);
        }
        self.tell_all_failures();
        parts.into_iter().for_each(|part| self.remove(part));
    }

    /// Locates a probe in one address space, and makes its breakpoints there what the answer says. An error is
    /// kept with the probe.
    ///
    /// `later` says that the probe exists already, so that its host is told by events.
    fn locate(&mut self, id: ProbeId, space_id: SpaceId, maps: &Maps, later: bool) {
        let pid = self.shared.pid_in(space_id);
        let (probe, space) = (self.shared.probe(id), self.shared.space(space_id));
        let (Some((probe, source)), Some(space)) = (probe.as_ref().and_then(Held::get), space) else {
            return;
        };
        let mut placed = lock(&probe.placed);
        if placed.removed {
            return;
        }
        if let Some(cover) = probe.cover() {
            return self.locate_cover(id, cover, space_id, maps);
        }
        let located = match source.parts(maps) {
            Ok(Some(names)) => {
                placed.take_pending();
                let parts = self.parts(id, source, &mut placed, &names);
                drop(placed);
                return self.locate_parts(id, &parts, space_id, maps);
            }
            Ok(None) if source.is_on_return() && probe.calls().is_none() => Err(LocateError::Unresolvable(
                "returns are of calls that are followed: use probe_calls".into(),
            )),
            Ok(None) => source.locate(maps),
            Err(error) => Err(error),
        };
        let sites = match located {
            Ok(sites) => sites,
            Err(error) => {
                let news = match (&error, placed.pending().map(Arc::as_ref)) {
                    (LocateError::NotMapped { .. }, _) => false,
                    // Another file of that name has others.
                    _ if probe.is_part => false,
                    (LocateError::Unresolvable(_), Some(LocateError::Unresolvable(_))) => false,
                    (LocateError::Unresolvable(_), _) => true,
                };
                let error = Arc::new(error);
                placed.set_pending(Arc::clone(&error));
                if later && news {
                    self.shared.tell(&Event::Unresolvable { probe: id, pid, error: &error });
                }
                return;
            }
        };
        placed.take_pending();
        let mut wanted: Vec<u64> = sites.iter().map(|site| site.address).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut text = space.write();
        let is_gone = |site: &u64| {
            // What a copy was made of may have no mapping any more.
            wanted.binary_search(site).is_err() && text.site(*site).is_some_and(|here| !here.in_copy)
        };
        let gone: Vec<u64> = placed.sites.iter().copied().filter(is_gone).collect();
        let counters = source.counters(maps);
        text.let_down(id.0, |counter| counters.iter().any(|wanted| wanted.address == counter));
        text.withdraw(&gone, Purpose::site(id.0));
        drop(text);
        let passed = probe.passed();
        if passed.is_some() {
            self.shared.register.use_hardware();
        }
        let threads = || self.shared.register.in_space(space_id);
        let follows = probe.calls().is_some();
        let placing = Placing {
            id,
            space: &space,
            pid,
            maps,
            counters: &counters,
            later,
            passed,
            threads: &threads,
            follows,
        };
        let before = placed.sites.len();
        self.place_sites(placing, &mut placed, &wanted);
        // Whoever wants to know cannot ask the process later: it may have ended.
        if later
            && placed.sites.len() > before
            && let Some(names) = source.implementation_names(maps)
        {
            self.tell(&Event::Implementations { probe: id, pid, names: &names });
        }
    }

    /// The parts of a probe that have these names, which are made where there are none.
    fn parts(
        &self,
        whole: ProbeId,
        source: &dyn Locate,
        placed: &mut Placed,
        names: &[String],
    ) -> Vec<ProbeId> {
        let mut parts = Vec::with_capacity(names.len());
        for name in names {
            let part = placed.part(name).or_else(|| {
                let part = self.shared.enter_part(source.part(name)?, whole)?;
                placed.add_part(name.clone(), part);
                self.tell(&Event::Part { probe: whole, part, name });
                Some(part)
            });
            parts.extend(part);
        }
        parts
    }

    /// Locates the parts of a probe.
    fn locate_parts(&mut self, whole: ProbeId, parts: &[ProbeId], space: SpaceId, maps: &Maps) {
        /// After how many the observer hears of it.
        const STRIDE: usize = 256;
        let (pid, total) = (self.shared.pid_in(space), parts.len());
        for (done, &part) in parts.iter().enumerate() {
            if self.shared.wishes.ending.load(Ordering::SeqCst) {
                return;
            }
            if total > STRIDE && done.is_multiple_of(STRIDE) {
                self.tell(&Event::Placing { probe: whole, pid, done, total });
            }
            self.locate(part, space, maps, true);
        }
        if total > STRIDE {
            self.tell(&Event::Placing { probe: whole, pid, done: total, total });
        }
    }

    /// Puts a probe on those of `addresses` where it is not yet.
    fn place_sites(&self, placing: Placing<'_>, placed: &mut Placed, addresses: &[u64]) {
        /// After how many sites the observer hears of it.
        const STRIDE: usize = 1024;
        let Placing { id, space, pid, maps, later, passed, threads, .. } = placing;
        // The sites that it has or had, and those that were refused, when there is something to compare with them.
        let mut known: Option<(HashSet<u64>, HashSet<u64>)> = None;
        let total = addresses.len();
        let mut done = 0;
        placed.sites.reserve(total);
        for addresses in addresses.chunks(AT_A_TIME) {
            if self.shared.wishes.ending.load(Ordering::SeqCst) {
                return;
            }
            if total > STRIDE && done % STRIDE < AT_A_TIME {
                self.tell(&Event::Placing { probe: id, pid, done, total });
            }
            done += addresses.len();
            // For some at a time: threads that are at other sites are served meanwhile.
            let outcomes = match passed {
                Some(_) if placing.follows => {
                    let refused = || Unplaceable::Hardware(HardwareRefusal::Calls);
                    addresses.iter().map(|&address| (address, Err(refused()))).collect()
                }
                Some(passed) => {
                    space.write().watch_all(addresses, maps, Purpose::site(id.0), passed, threads)
                }
                None => space.write().place_all(addresses, maps, Purpose::site(id.0)),
            };
            if outcomes.is_empty() {
                continue;
            }
            let (sites, refused) = known.get_or_insert_with(|| {
                let refused = placed.refused().iter().map(|&(address, _)| address);
                (placed.sites.iter().copied().collect(), refused.collect())
            });
            for (address, outcome) in outcomes {
                match outcome.and_then(|()| placing.hold_counters(address)) {
                    Ok(()) => {
                        if !sites.contains(&address) {
                            placed.sites.push(address);
                        }
                        if later {
                            self.tell(&Event::Placed { probe: id, pid, address });
                        }
                    }
                    // The process executes another program, which will be reported; in that the probe is located anew.
                    Err(_) if space.read().is_dead() => return,
                    Err(reason) => {
                        if refused.contains(&address) {
                            continue;
                        }
                        if later {
                            self.tell(&Event::Refused { probe: id, pid, address, reason: &reason });
                        }
                        placed.refuse(address, reason);
                    }
                }
            }
        }
        if total > STRIDE {
            self.tell(&Event::Placing { probe: id, pid, done: total, total });
        }
    }

    /// The mappings of thread `tid`; `None` if it is about to vanish, or if they cannot be read, which is told.
    fn maps_of(&mut self, tid: i32) -> Option<Maps> {
        let maps = Maps::read(tid).map_err(|error| errno(&error));
        self.threads.note(tid, "reading /proc/PID/maps", maps)
    }

    /// Locates every probe anew if thread `tid`'s executable mappings have changed.
    pub(crate) fn relocate(&mut self, space_id: SpaceId, tid: i32) {
        let shared = Arc::clone(&self.shared);
        let placing = lock(&shared.placing);
        let Some(maps) = self.maps_of(tid) else { return };
        let Some(space) = shared.space(space_id) else { return };
        let mut space = space.write();
        lock(&space.keys).forget();
        let executable = || maps.iter().filter(|mapping| mapping.is_executable());
        if space.located.iter().eq(executable()) {
            return;
        }
        space.located = executable().cloned().collect();
        let copied = space.forget_unmapped(&maps);
        drop(space);
        self.tell_copied(space_id, copied);
        for (index, probe) in shared.probes().iter() {
            // Parts are located with the whole.
            if !probe.is_part {
                self.locate(ProbeId(index), space_id, &maps, true);
            }
        }
        self.watch_all_in(space_id, &maps);
        drop(placing);
    }

    /// Puts the engine's own breakpoints where objects appear: at the dynamic linker's rendezvous and, in
    /// a program that is about to start, at its entry.
    pub(crate) fn watch_linker(&mut self, space_id: SpaceId, tid: i32, starting: bool) {
        let Some(maps) = self.maps_of(tid) else { return };
        let Some(space) = self.shared.space(space_id) else { return };
        let rendezvous = linker::rendezvous(tid, &maps);
        let entry = if starting { linker::entry(tid) } else { None };
        for address in rendezvous.into_iter().chain(entry) {
            // Where there can be no breakpoint, probes in objects that are mapped later stay pending, and are
            // reported so.
            let placed = match self.shared.options.hardware {
                true => {
                    self.shared.register.use_hardware();
                    let threads = || self.shared.register.in_space(space_id);
                    space.write().watch(address, &maps, Wanted::Internal, &threads)
                }
                false => space.write().place(address, &maps, None),
            };
            if let Err(Unplaceable::Memory(error)) = placed {
                self.threads.note::<()>(tid, "accessing /proc/PID/mem", Err(errno(&error)));
            }
        }
    }
}
