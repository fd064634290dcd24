//! Protection keys (SDM volume 3, section 4.6.2; pkeys(7)): which memory has one, and what PKRU says of it.

use std::ops::Range;
use std::time::{Duration, Instant};

use emu::Access;
use emu::xsave::Layout;

use crate::target::maps::{self, Permissions};

/// Whether this processor has them, and its kernel uses them.
pub(crate) fn are_supported() -> bool {
    Layout::of_this_processor().is_some_and(|layout| layout.pkru.is_some())
}

/// Whether PKRU forbids an access to memory with key `key`.
pub(crate) fn forbids(pkru: u32, key: u32, access: Access) -> bool {
    const ACCESS_DISABLE: u32 = 1;
    const WRITE_DISABLE: u32 = 2;
    let rights = pkru.checked_shr(2 * key).unwrap_or(0);
    let forbidding = match access {
        Access::Read => ACCESS_DISABLE,
        Access::Write => ACCESS_DISABLE | WRITE_DISABLE,
    };
    rights & forbidding != 0
}

/// The protection keys of an address space, as the kernel last told them.
///
/// They are read when memory is accessed for the first time, again when the session reads the mappings again, and
/// when an access goes to what could not be accessed at the last reading. A reading costs the kernel a walk through
/// all of the target's page tables: as long as no mapping has a key, all of them take a sixteenth of the time at
/// most, after the first tenth of a second. Once one has, they are repeated as often as that share allows.
///
/// What remains hidden is a pkey_mprotect(2) of memory that could be accessed at the last reading: until the next
/// one its accesses are judged by its key before. A key that has been given up since does no harm, as the thread
/// makes a forbidden access itself.
#[derive(Debug)]
pub(crate) struct Keys {
    /// Memory that can be accessed, in address order, and its key; neighbours have different ones.
    known: Vec<(Range<u64>, u32)>,
    /// Whether one of the keys is not zero.
    any: bool,
    /// When the space was opened, and how long readings have taken since then.
    since: Instant,
    spent: Duration,
    /// When the next reading is due, with keys about.
    due: Instant,
    supported: bool,
}

impl Keys {
    /// Of so much time readings take one part.
    const SHARE: u32 = 16;

    pub(crate) fn new() -> Keys {
        let (supported, now) = (are_supported(), Instant::now());
        Keys { known: Vec::new(), any: false, since: now, spent: Duration::ZERO, due: now, supported }
    }

    /// Has them read again at the next access.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    /// The first part of `range` that has a key other than zero, and the key. `tid` is a thread that runs in the
    /// address space.
    pub(crate) fn first_keyed(&mut self, tid: i32, range: Range<u64>) -> Option<(Range<u64>, u32)> {
        if !self.supported {
            return None;
        }
        if self.should_read(&range) {
            self.read(tid);
        }
        if !self.any {
            return None;
        }
        let (part, key) = self.behind(range.start).iter().find(|(_, key)| *key != 0)?;
        let part = part.start.max(range.start)..part.end.min(range.end);
        (part.start < part.end).then_some((part, *key))
    }

    /// The key of the memory at `address`, as far as it is known.
    pub(crate) fn of(&self, address: u64) -> u32 {
        let found = self.behind(address).first().filter(|(part, _)| part.contains(&address));
        found.map_or(0, |&(_, key)| key)
    }

    /// What is known of memory that ends behind `address`.
    fn behind(&self, address: u64) -> &[(Range<u64>, u32)] {
        let index = self.known.partition_point(|(part, _)| part.end <= address);
        self.known.get(index..).unwrap_or_default()
    }

    /// Whether all of `range` is known.
    fn covers(&self, range: &Range<u64>) -> bool {
        let mut next = range.start;
        for (part, _) in self.behind(range.start) {
            if next >= range.end || part.start > next {
                break;
            }
            next = part.end;
        }
        next >= range.end
    }

    fn should_read(&self, range: &Range<u64>) -> bool {
        /// Readings of ordinary processes take less than a millisecond.
        const ALWAYS: Duration = Duration::from_millis(100);
        if self.any {
            return !self.covers(range) || Instant::now() >= self.due;
        }
        !self.covers(range) && self.spent <= ALWAYS + self.since.elapsed() / Self::SHARE
    }

    fn read(&mut self, tid: i32) {
        let start = Instant::now();
        // It fails where the thread has just been killed.
        let mappings = maps::read_keys(tid).unwrap_or_default();
        let taken = start.elapsed();
        self.spent += taken;
        self.due = start + taken * Self::SHARE;
        self.known.clear();
        for (mapping, key) in mappings {
            if !mapping.perms.intersects(Permissions::READ | Permissions::WRITE | Permissions::EXECUTE) {
                continue;
            }
            match self.known.last_mut() {
                Some((last, same)) if last.end == mapping.start && *same == key => last.end = mapping.end,
                _ => self.known.push((mapping.start..mapping.end, key)),
            }
        }
        self.any = self.known.iter().any(|&(_, key)| key != 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys that have just been read.
    fn keys(known: &[(Range<u64>, u32)]) -> Keys {
        let due = Instant::now() + Duration::from_secs(3600);
        Keys { known: known.to_vec(), any: true, due, supported: true, ..Keys::new() }
    }

    #[test]
    fn rights_are_two_bits_a_key() {
        // Key 3 must not be written, key 15 not be accessed.
        let pkru = 2 << 6 | 1 << 30;
        let forbidden = |key, access| forbids(pkru, key, access);
        assert!(!forbidden(3, Access::Read) && forbidden(3, Access::Write));
        assert!(forbidden(15, Access::Read) && forbidden(15, Access::Write));
        assert!(!forbidden(0, Access::Write) && !forbidden(4, Access::Write));
    }

    #[test]
    fn the_first_part_with_a_key_is_found() {
        let mut keys =
            keys(&[(0x1000..0x3000, 0), (0x3000..0x4000, 2), (0x4000..0x6000, 0), (0x6000..0x7000, 5)]);
        let mut first = |range| keys.first_keyed(0, range);
        assert_eq!(first(0x1000..0x3000), None);
        assert_eq!(first(0x2ff8..0x3008), Some((0x3000..0x3008, 2)));
        assert_eq!(first(0x3ff8..0x4008), Some((0x3ff8..0x4000, 2)));
        assert_eq!(first(0x4000..0x6001), Some((0x6000..0x6001, 5)));
        assert_eq!(first(0x4000..0x5000), None);
        assert_eq!((keys.of(0x2fff), keys.of(0x3000), keys.of(0x8000)), (0, 2, 0));
    }

    #[test]
    fn what_is_not_known_is_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        let mut keys = Keys { supported: true, ..Keys::new() };
        let local = 5u8;
        let address = &raw const local as u64;
        assert!(!keys.covers(&(address..address + 1)));
        assert_eq!(keys.first_keyed(own, address..address + 1), None);
        assert!(keys.covers(&(address..address + 1)));
        assert!(!keys.covers(&(0..1)));
        keys.forget();
        assert!(!keys.covers(&(address..address + 1)));
    }
}
