//! Breakpoints of the hardware in an address space. They change no text, so that nothing of it need be masked; but they
//! stay when a mapping goes, whatever comes in its place, so that the instruction is looked at when a thread stops there.

use std::ops::Range;

use crate::executor::hardware::{HardwareRefusal, Passed, Spot};
use crate::executor::space::{Breakpoint, INT3, Origin, Purpose, Space, Unplaceable};
use crate::target::maps::{self, Mapping, Maps, Permissions};

/// Who wants a hardware breakpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wanted<'a> {
    /// A probe, which counts there how often threads pass it unnoticed.
    Probe(Purpose, &'a Passed),
    /// The engine itself, as long as nobody else needs the debug register.
    Internal,
}

impl Space {
    /// The hardware breakpoint at `address`.
    pub(crate) fn watched(&self, address: u64) -> Option<&Breakpoint> {
        self.by_hardware.get(&address)
    }

    /// Whether there are hardware breakpoints.
    pub(crate) fn has_watched(&self) -> bool {
        !self.by_hardware.is_empty()
    }

    /// The breakpoint at `address`, of whichever kind: what it displaces is the same.
    pub(crate) fn site(&self, address: u64) -> Option<&Breakpoint> {
        self.breakpoint(address).or_else(|| self.watched(address))
    }

    /// Where there are breakpoints of any kind within `range`.
    pub(crate) fn sites_within(&self, range: Range<u64>) -> Vec<u64> {
        let watched = self.by_hardware.keys().copied().filter(|address| range.contains(address));
        let mut sites: Vec<u64> = watched.chain(self.within(range.clone()).map(|(site, _)| site)).collect();
        sites.sort_unstable();
        sites.dedup();
        sites
    }

    /// Puts hardware breakpoints at those of `addresses` where the probe is not yet, in all `threads` of the address
    /// space and those to come. Returns what has become of them.
    pub(crate) fn watch_all(
        &mut self,
        addresses: &[u64],
        maps: &Maps,
        probe: Purpose,
        passed: &Passed,
        threads: &dyn Fn() -> Vec<i32>,
    ) -> Vec<(u64, Result<(), Unplaceable>)> {
        let mut placed = Vec::new();
        for &address in addresses {
            if !self.watched(address).is_some_and(|here| here.probes.contains(&probe)) {
                placed.push((address, self.watch(address, maps, Wanted::Probe(probe, passed), threads)));
            }
        }
        placed
    }

    /// Puts a hardware breakpoint at `address`.
    pub(crate) fn watch(
        &mut self,
        address: u64,
        maps: &Maps,
        wanted: Wanted<'_>,
        threads: &dyn Fn() -> Vec<i32>,
    ) -> Result<(), Unplaceable> {
        if self.watched(address).is_none() {
            let breakpoint = self.watchable(address, maps)?;
            let mut armed = self.arm(address, threads);
            while armed.is_err() && matches!(wanted, Wanted::Probe(..)) && self.make_room() {
                armed = self.arm(address, threads);
            }
            armed.map_err(Unplaceable::Hardware)?;
            self.by_hardware.insert(address, breakpoint);
            self.note_change();
        }
        if let Some(breakpoint) = self.by_hardware.get_mut(&address) {
            match wanted {
                Wanted::Probe(probe, passed) => {
                    breakpoint.probes.add(probe);
                    self.hardware.count_for(address, probe, passed);
                }
                Wanted::Internal => breakpoint.internal = true,
            }
        }
        Ok(())
    }

    /// The breakpoint that there is to be at `address`, if there can be one.
    fn watchable(&mut self, address: u64, maps: &Maps) -> Result<Breakpoint, Unplaceable> {
        let ground = self.executable_ground(address, maps)?;
        if self.transit.passes(address) {
            return Err(Unplaceable::Memory(std::io::ErrorKind::ResourceBusy.into()));
        }
        let (original, _) = self.decode(address)?;
        if original.first() == INT3 && self.is_anothers(address, maps, ground.mapping) {
            return Err(Unplaceable::Occupied);
        }
        if self.sequences.meet(address, original.length()) {
            return Err(Unplaceable::Sequence);
        }
        // What others map they may write.
        let changing = ground.mapping.perms.contains(Permissions::SHARED)
            || self.may_change(address, original.length(), maps, ground.mapping);
        Ok(Breakpoint::new(original, changing, ground.origin))
    }

    /// Has all threads stop behind what writes to one of these, or none. What is not wanted any more is to be left to
    /// [`Space::leave_data`].
    pub(crate) fn watch_data(
        &mut self,
        spots: &[Spot],
        threads: &dyn Fn() -> Vec<i32>,
    ) -> Result<(), HardwareRefusal> {
        for (done, &spot) in spots.iter().enumerate() {
            let mut armed = self.arm(spot, threads);
            while armed.is_err() && self.make_room() {
                armed = self.arm(spot, threads);
            }
            if let Err(refusal) = armed {
                self.leave_data(spots.get(..done).unwrap_or_default());
                return Err(refusal);
            }
        }
        Ok(())
    }

    /// One who wanted to know of these does not any more.
    pub(crate) fn leave_data(&self, spots: &[Spot]) {
        spots.iter().for_each(|&spot| self.hardware.remove(spot));
    }

    /// Has all threads stop at `spot`, or none.
    fn arm(&self, spot: impl Into<Spot>, threads: &dyn Fn() -> Vec<i32>) -> Result<(), HardwareRefusal> {
        let spot = spot.into();
        self.hardware.add(spot)?;
        // Behind, so that who comes meanwhile is in the list or arms itself.
        self.hardware.arm_all(spot, &threads()).inspect_err(|_| self.hardware.remove(spot))
    }

    /// Gives up one of the engine's own, if there is one: the last, which matters least.
    fn make_room(&mut self) -> bool {
        let is_own = |&address: &u64| {
            self.watched(address).is_some_and(|here| here.internal && here.probes.is_empty())
        };
        let own = self.hardware.addresses().into_iter().rev().find(is_own);
        own.is_some_and(|own| self.unwatch(own))
    }

    /// Takes the hardware breakpoint at `address` away, whoever needs it. Says whether there was one.
    pub(super) fn unwatch(&mut self, address: u64) -> bool {
        let was = self.by_hardware.remove(&address).is_some();
        if was {
            self.note_change();
            self.hardware.remove(address);
        }
        was
    }

    /// Takes `probe` off, and the breakpoint with it if nobody else needs it.
    pub(super) fn withdraw_watch(&mut self, address: u64, probe: Purpose) {
        let Some(breakpoint) = self.by_hardware.get_mut(&address) else { return };
        if !breakpoint.probes.contains(&probe) {
            return;
        }
        breakpoint.probes.remove(probe);
        if breakpoint.probes.is_empty() && !breakpoint.internal {
            self.unwatch(address);
        } else {
            self.hardware.count_no_more(address, probe);
        }
    }

    /// Takes all hardware breakpoints away.
    pub(super) fn unwatch_all(&mut self) {
        let all: Vec<u64> = self.by_hardware.keys().copied().collect();
        for address in all {
            self.unwatch(address);
        }
    }

    /// Takes those away whose mapping is gone or is another's now.
    pub(super) fn unwatch_unmapped(&mut self, maps: &[Mapping]) {
        let strayed = self.by_hardware.iter().filter(|&(&address, breakpoint)| {
            !maps::find(maps, address).is_some_and(|mapping| *breakpoint.origin == Origin::of(mapping))
        });
        let strayed: Vec<u64> = strayed.map(|(&address, _)| address).collect();
        for address in strayed {
            self.unwatch(address);
        }
    }

    /// Whether the instruction at a hardware breakpoint is another than it was, in text that is not known to change.
    pub(crate) fn is_another(&self, address: u64) -> bool {
        self.watched(address).is_some_and(|here| {
            !here.changing
                && self.code_at(address).is_ok_and(|(now, read)| {
                    let length = here.original().length();
                    // What is not there any more ends with its process.
                    read >= length && now.get(..length) != here.original().bytes().get(..length)
                })
        })
    }

    /// Notes that the instruction at a hardware breakpoint changes.
    pub(crate) fn is_changing(&mut self, address: u64) {
        if let Some(breakpoint) = self.by_hardware.get_mut(&address) {
            breakpoint.changing = true;
        }
    }

    /// Decodes the instruction at a hardware breakpoint anew. Where it cannot be probed any more, that is given up, and
    /// the address added to `lost`.
    pub(super) fn reread_watched(&mut self, address: u64, lost: &mut Vec<u64>) {
        match self.decode(address) {
            Ok((original, displaced)) => {
                if let Some(breakpoint) = self.by_hardware.get_mut(&address) {
                    breakpoint.displace(original, displaced);
                }
            }
            Err(_) => {
                self.unwatch(address);
                lost.push(address);
            }
        }
    }
}
