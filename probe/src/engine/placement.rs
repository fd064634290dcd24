//! Where probes are: located in each address space, and again whenever its mappings change.

use std::collections::HashSet;

use crate::engine::event::Event;
use crate::engine::hit::ProbeId;
use crate::engine::host::Host;
use crate::engine::session::Session;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::Unplaceable;
use crate::symbols::locate::LocateError;
use crate::target::failure::errno;
use crate::target::linker;
use crate::target::lock;
use crate::target::maps::Maps;

impl Session {
    /// Locates a probe in one address space, and makes its breakpoints there what the answer says. An error is
    /// kept with the probe.
    ///
    /// `later` says that the probe exists already, so that its host is told by events.
    pub(crate) fn locate(&mut self, id: ProbeId, space_id: SpaceId, tid: i32, maps: &Maps, later: bool) {
        let pid = self.threads.get(tid).map_or(tid, |thread| thread.pid);
        let Some(probe) = self.probes.get_mut(id.0) else { return };
        let Some(space) = self.spaces.get(&space_id) else { return };
        let sites = match probe.source.locate(maps) {
            Ok(sites) => sites,
            Err(error) => {
                let news = match (&error, &probe.pending) {
                    (LocateError::NotMapped { .. }, _) => false,
                    (LocateError::Unresolvable(_), Some(LocateError::Unresolvable(_))) => false,
                    (LocateError::Unresolvable(_), _) => true,
                };
                let error = probe.pending.insert(error);
                if later && news {
                    self.host.event(&Event::Unresolvable { probe: id, pid, error });
                }
                return;
            }
        };
        probe.pending = None;
        let mut wanted: Vec<u64> = sites.iter().map(|site| site.address).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let mut space = space.write();
        let gone: Vec<u64> = space
            .within(0..u64::MAX)
            .filter(|(address, breakpoint)| {
                // What a copy was made of may have no mapping any more.
                !breakpoint.in_copy
                    && breakpoint.probes.contains(&id.0)
                    && wanted.binary_search(address).is_err()
            })
            .map(|(address, _)| address)
            .collect();
        for address in gone {
            space.withdraw(address, id.0);
        }
        drop(space);
        self.place_sites(id, space_id, pid, maps, &wanted, later);
    }

    /// Puts probe `id` on those of `addresses` where it is not yet.
    fn place_sites(
        &mut self,
        id: ProbeId,
        space_id: SpaceId,
        pid: i32,
        maps: &Maps,
        addresses: &[u64],
        later: bool,
    ) {
        /// After how many sites the observer hears of it.
        const STRIDE: usize = 1024;
        let stop = self.stop_handle();
        let Some(probe) = self.probes.get_mut(id.0) else { return };
        let Some(space) = self.spaces.get(&space_id) else { return };
        let mut tell = |event: &Event<'_>| self.host.event(event);
        let sites: HashSet<u64> = probe.sites.iter().copied().collect();
        let refused: HashSet<u64> = probe.refused.iter().map(|&(address, _)| address).collect();
        let total = addresses.len();
        for (done, &address) in addresses.iter().enumerate() {
            if total > STRIDE && done.is_multiple_of(STRIDE) {
                if stop.is_ending() {
                    return;
                }
                tell(&Event::Placing { probe: id, pid, done, total });
            }
            // Others want it in between.
            let mut space = space.write();
            if space.breakpoint(address).is_some_and(|breakpoint| breakpoint.probes.contains(&id.0)) {
                continue;
            }
            match space.place(address, maps, Some(id.0)) {
                Ok(()) => {
                    if !sites.contains(&address) {
                        probe.sites.push(address);
                    }
                    if later {
                        tell(&Event::Placed { probe: id, pid, address });
                    }
                }
                // The process executes another program, which will be reported; in that the probe is located anew.
                Err(_) if space.is_dead() => return,
                Err(reason) => {
                    if later {
                        tell(&Event::Refused { probe: id, pid, address, reason: &reason });
                    }
                    if !refused.contains(&address) {
                        probe.refused.push((address, reason));
                    }
                }
            }
        }
        if total > STRIDE {
            tell(&Event::Placing { probe: id, pid, done: total, total });
        }
    }

    /// The mappings of thread `tid`; `None` if it is about to vanish, or if they cannot be read, which is told.
    fn maps_of(&mut self, tid: i32) -> Option<Maps> {
        let maps = Maps::read(tid).map_err(|error| errno(&error));
        self.threads.note(tid, "reading /proc/PID/maps", maps)
    }

    /// Locates every probe anew if thread `tid`'s executable mappings have changed.
    pub(crate) fn relocate(&mut self, space_id: SpaceId, tid: i32) {
        let Some(maps) = self.maps_of(tid) else { return };
        let Some(space) = self.spaces.get(&space_id) else { return };
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
        for index in 0..self.probes.len() {
            if self.probes.get(index).is_some_and(|probe| !probe.removed) {
                self.locate(ProbeId(index), space_id, tid, &maps, true);
            }
        }
    }

    /// Puts the engine's own breakpoints where objects appear: at the dynamic linker's rendezvous and, in
    /// a program that is about to start, at its entry.
    pub(crate) fn watch_linker(&mut self, space_id: SpaceId, tid: i32, starting: bool) {
        let Some(maps) = self.maps_of(tid) else { return };
        let Some(space) = self.spaces.get(&space_id) else { return };
        let rendezvous = linker::rendezvous(tid, &maps);
        let entry = if starting { linker::entry(tid) } else { None };
        for address in rendezvous.into_iter().chain(entry) {
            // Where there can be no breakpoint, probes in objects that are mapped later stay pending, and are
            // reported so.
            let placed = space.write().place(address, &maps, None);
            if let Err(Unplaceable::Memory(error)) = placed {
                self.threads.note::<()>(tid, "accessing /proc/PID/mem", Err(errno(&error)));
            }
        }
    }
}
