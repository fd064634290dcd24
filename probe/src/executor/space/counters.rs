//! Counters in the target's memory by which a program learns how many want to know of a probe: the semaphores of USDT.
//! Each is an integer of 16 bits, to which one is added for this session as long as any probe of it has a site there.
//!
//! As the kernel does it for its own probes, the integer is read and written with one system call each. A value below 256
//! changes in one byte, so that a thread which looks sees the old value or the new one; another tool that changes the same
//! counter within the same microsecond can take away what was added, as it can take it from the kernel.

use std::io;
use std::os::unix::fs::FileExt;

use crate::executor::space::{Origin, Space, Unplaceable};
use crate::target::maps::{self, Mapping, Maps, Permissions};

/// A counter to which we have added one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// For these.
    probes: Vec<usize>,
    origin: Origin,
}

impl Space {
    /// Has the counter at `address` count the probe with that index, too.
    pub(crate) fn hold(&mut self, address: u64, probe: usize, maps: &Maps) -> Result<(), Unplaceable> {
        if let Some(held) = self.counters.get_mut(&address) {
            if !held.probes.contains(&probe) {
                held.probes.push(probe);
            }
            return Ok(());
        }
        let kind = Permissions::WRITE | Permissions::SHARED;
        let own = |mapping: &&Mapping| mapping.perms.intersection(kind) == Permissions::WRITE;
        let mapping = maps::find(maps, address)
            .filter(own)
            .filter(|mapping| mapping.contains(address.saturating_add(1)))
            .ok_or(Unplaceable::Counter { address })?;
        self.add(address, 1).map_err(Unplaceable::Memory)?;
        self.lowered.remove(&address);
        self.counters.insert(address, Held { probes: vec![probe], origin: Origin::of(mapping) });
        Ok(())
    }

    /// The probe with that index wants no counter to count it, but for those that are still `wanted`.
    pub(crate) fn let_down(&mut self, probe: usize, wanted: impl Fn(u64) -> bool) {
        for (&address, held) in &mut self.counters {
            if !wanted(address) {
                held.probes.retain(|&other| other != probe);
            }
        }
        self.let_down_unwanted();
    }

    /// Takes from each counter what was added for us.
    pub(super) fn let_all_down(&mut self) {
        self.counters.values_mut().for_each(|held| held.probes.clear());
        self.let_down_unwanted();
    }

    /// The same of those that no probe wants.
    pub(super) fn let_down_unwanted(&mut self) {
        let unwanted: Vec<(u64, Held)> =
            self.counters.extract_if(.., |_, held| held.probes.is_empty()).collect();
        for (address, held) in unwanted {
            // It is gone with its process, or its mapping.
            let _ = self.add(address, -1);
            self.lowered.insert(address, held);
        }
    }

    /// Forgets the counters whose mapping is gone or is another's now.
    pub(super) fn forget_counters(&mut self, maps: &[Mapping]) {
        let stays = |address: u64, held: &Held| {
            maps::find(maps, address).is_some_and(|mapping| held.origin == Origin::of(mapping))
        };
        self.counters.retain(|&address, held| stays(address, held));
        self.lowered.retain(|&address, held| stays(address, held));
    }

    /// Takes over the counters of the space that this one is a copy of: as they were when it was made, which may have
    /// been before one was added or after it was taken away.
    pub(super) fn inherit_counters(&mut self, parent: &Space) {
        let both = |address| Some((parent.counter(address).ok()?, self.counter(address).ok()?));
        let held = parent.counters.iter().filter(|&(&address, _)| {
            both(address).is_some_and(|(before, here)| here.wrapping_add(1) != before)
        });
        let lowered = parent.lowered.iter().filter(|&(&address, _)| {
            both(address).is_some_and(|(before, here)| before.wrapping_add(1) == here)
        });
        self.counters = held.chain(lowered).map(|(&address, held)| (address, held.clone())).collect();
    }

    fn counter(&self, address: u64) -> io::Result<u16> {
        let mut bytes = [0; 2];
        self.memory.read_exact_at(&mut bytes, address)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn add(&self, address: u64, difference: i16) -> io::Result<()> {
        // What somebody has set to 0 stays there.
        let Some(value) = self.counter(address)?.checked_add_signed(difference) else { return Ok(()) };
        self.memory.write_all_at(&value.to_le_bytes(), address)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use super::*;

    fn maps(address: u64, perms: Permissions) -> Maps {
        let start = address & !0xfff;
        let mapping =
            Mapping { start, end: start + 0x2000, perms, offset: 0, dev: (0, 0), inode: 1, path: None };
        Maps::new(i32::try_from(std::process::id()).unwrap(), vec![mapping])
    }

    fn own_space() -> Space {
        Space::open(i32::try_from(std::process::id()).unwrap(), &Arc::default()).unwrap()
    }

    #[test]
    fn one_is_added_for_all_probes_and_taken_away_once() {
        let counter = Box::new(AtomicU16::new(3));
        let address = counter.as_ptr() as u64;
        let maps = maps(address, Permissions::READ | Permissions::WRITE);
        let mut space = own_space();
        let value = || counter.load(Ordering::Relaxed);
        for probe in [0, 1, 1] {
            space.hold(address, probe, &maps).unwrap();
            assert_eq!(value(), 4);
        }
        space.let_down(0, |_| false);
        assert_eq!(value(), 4);
        // Somebody else comes meanwhile.
        counter.fetch_add(5, Ordering::Relaxed);
        space.let_down(1, |counter| counter == address);
        assert_eq!(value(), 9);
        space.let_down(1, |_| false);
        space.let_down(1, |_| false);
        space.clear();
        assert_eq!(value(), 8);
        space.hold(address, 0, &maps).unwrap();
        space.clear();
        space.clear();
        assert_eq!(value(), 8);
        // Nothing is taken from what has nothing.
        space.hold(address, 0, &maps).unwrap();
        counter.store(0, Ordering::Relaxed);
        space.clear();
        assert_eq!(value(), 0);
    }

    #[test]
    fn what_is_not_the_programs_own_to_write_is_left_alone() {
        let counter = Box::new(AtomicU16::new(3));
        let address = counter.as_ptr() as u64;
        let mut space = own_space();
        for perms in [Permissions::READ, Permissions::READ | Permissions::WRITE | Permissions::SHARED] {
            let held = space.hold(address, 0, &maps(address, perms));
            assert!(matches!(held, Err(Unplaceable::Counter { .. })), "{held:?}");
        }
        let elsewhere = maps(address.wrapping_add(1 << 30), Permissions::WRITE);
        assert!(space.hold(address, 0, &elsewhere).is_err());
        assert_eq!(counter.load(Ordering::Relaxed), 3);
        // Nor is what took the place of the counter.
        space.hold(address, 0, &maps(address, Permissions::WRITE)).unwrap();
        space.forget_unmapped(&[]);
        space.clear();
        assert_eq!(counter.load(Ordering::Relaxed), 4);
    }
}
