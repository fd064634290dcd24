//! The sites of this process, in a table that handlers of signals read without waiting for anybody.
//!
//! What was put into it stays until the process ends, as whoever has read of one may look at it at any later time: a thread
//! may have been interrupted anywhere in a stub, for as long as it takes, and where its registers are then nobody knows. But
//! whoever comes to the same instruction again, to have it replaced alike, has the same site with the same stub again. A
//! table that is full is replaced by a larger one.

#![allow(unsafe_code, reason = "what is published once and never freed is read by address")]

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use emu::Displaced;

use crate::executor::own::machine::SPREAD;
use crate::executor::own::users::Users;
use crate::target::INT3;

/// The longest run of bytes that a site replaces: a jump with a displacement of 32 bits behind three prefixes.
pub(crate) const LONGEST_PATCH: usize = 8;
/// The length of a jump with a displacement of 32 bits.
pub(crate) const JUMP: usize = 5;

/// The table: by how much a spread address is shifted, the mask of an index, and pairs of an address and a site.
/// Assembly reads it, too.
pub(super) static TABLE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// Between which addresses there are sites.
static LOWEST: AtomicU64 = AtomicU64::new(u64::MAX);
static HIGHEST: AtomicU64 = AtomicU64::new(0);

/// What becomes of who reaches a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum State {
    /// There is no breakpoint, or none any more: the instruction is there.
    Removed = 0,
    /// It is served.
    Live = 1,
    /// A handler needed it, so that it was removed.
    Needed = 2,
    /// A thread had too little room on its stack, so that it was removed.
    NoRoom = 3,
    /// It could not be served, so that it was removed.
    GivenUp = 4,
}

/// An instruction that is probed, or was. Assembly reads what stands first.
#[repr(C)]
pub(crate) struct Site {
    address: u64,
    /// A breakpoint that stands for the site, where that is a jump. Behind it is another, for those for whom handlers have
    /// been called.
    alias: AtomicU64,
    state: AtomicU32,
    /// How many bytes are replaced.
    length: AtomicU32,
    original: [u8; 8],
    displaced: Displaced,
    /// The jump that replaces it, where there has ever been one.
    jump: OnceLock<Jump>,
    /// A stub that has the thread do by itself what nobody else can.
    native: AtomicU64,
    /// There was a jump that had to go.
    undone: AtomicBool,
    /// Who wants to know of hits.
    pub(crate) users: Users,
    /// That of the same address before it, on another instruction or with another jump.
    older: Option<&'static Site>,
}

/// A jump in place of an instruction, and where it leads.
pub(crate) struct Jump {
    /// The instructions behind the site's that it replaces as well, in their order. Each begins with a breakpoint.
    pub(crate) behind: Box<[Displaced]>,
    /// What is put at the site, and how many bytes of that.
    pub(crate) bytes: [u8; LONGEST_PATCH],
    pub(crate) length: usize,
    /// Where a jump is in the padding before the site to which a short one there leads, and which.
    pub(crate) padding: Option<(u64, [u8; JUMP])>,
    /// The breakpoint that stands for the site.
    pub(crate) alias: u64,
    /// Where a direct branch leads, for a stub that goes there itself; or 0.
    pub(crate) branch: u64,
}

impl Site {
    pub(crate) fn new(address: u64, original: [u8; 8], displaced: Displaced) -> Site {
        Site {
            address,
            alias: AtomicU64::new(0),
            state: AtomicU32::new(State::Removed as u32),
            length: AtomicU32::new(1),
            original,
            displaced,
            jump: OnceLock::new(),
            native: AtomicU64::new(0),
            undone: AtomicBool::new(false),
            users: Users::new(),
            older: None,
        }
    }

    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    pub(crate) fn displaced(&self) -> &Displaced {
        &self.displaced
    }

    pub(crate) fn state(&self) -> State {
        match self.state.load(Ordering::SeqCst) {
            1 => State::Live,
            2 => State::Needed,
            3 => State::NoRoom,
            4 => State::GivenUp,
            _ => State::Removed,
        }
    }

    pub(crate) fn set_state(&self, state: State) {
        self.state.store(state as u32, Ordering::SeqCst);
    }

    /// The bytes that belong here, of which the first [`Site::length`] are replaced.
    pub(crate) fn original(&self) -> &[u8] {
        self.original.get(..self.length()).unwrap_or(&self.original)
    }

    /// The byte that belongs at `address`, or at the site if it is none of those replaced.
    pub(crate) fn original_at(&self, address: u64) -> u8 {
        let [first, ..] = self.original;
        let offset = usize::try_from(address.wrapping_sub(self.address)).ok();
        offset.and_then(|offset| self.original().get(offset)).copied().unwrap_or(first)
    }

    /// The jump that replaces it, where there has ever been one.
    pub(crate) fn jump(&self) -> Option<&Jump> {
        self.jump.get()
    }

    /// Says which it is, once.
    pub(crate) fn set_jump(&self, jump: Jump) {
        self.alias.store(jump.alias, Ordering::SeqCst);
        let _ = self.jump.set(jump);
    }

    /// The instructions behind the site's that a jump replaces as well.
    pub(crate) fn behind(&self) -> &[Displaced] {
        self.jump().map_or(&[], |jump| &jump.behind)
    }

    /// What is put where the bytes are that [`Site::length`] counts.
    pub(crate) fn replacement(&self) -> &[u8] {
        match self.jump().filter(|_| self.is_jump()) {
            Some(jump) => jump.bytes.get(..self.length()).unwrap_or(&jump.bytes),
            None => &[INT3],
        }
    }

    /// Whether it is on the instruction that `other` is on.
    fn is_alike(&self, other: &Site) -> bool {
        let [one, another] = [self, other].map(|site| site.displaced.instruction());
        self.address == other.address && self.original == other.original && one.eq_all_bits(another)
    }

    /// Where threads go on that have come by a jump.
    pub(crate) fn next(&self) -> u64 {
        self.behind().last().unwrap_or(&self.displaced).instruction().next_ip()
    }

    /// Where the jump is in the padding before the site, if there is one.
    pub(crate) fn padding(&self) -> Option<u64> {
        self.jump().filter(|_| self.is_jump()).and_then(|jump| jump.padding).map(|(padding, _)| padding)
    }

    /// Whether there was a jump that had to go, so that what is behind it can be probed.
    pub(crate) fn is_undone(&self) -> bool {
        self.undone.load(Ordering::SeqCst)
    }

    pub(crate) fn set_undone(&self, undone: bool) {
        self.undone.store(undone, Ordering::SeqCst);
    }

    /// How many bytes are replaced.
    pub(crate) fn length(&self) -> usize {
        self.length.load(Ordering::SeqCst) as usize
    }

    pub(crate) fn set_length(&self, length: usize) {
        self.length.store(length as u32, Ordering::SeqCst);
    }

    /// Whether threads come by a jump.
    pub(crate) fn is_jump(&self) -> bool {
        self.length() > 1
    }

    pub(crate) fn alias(&self) -> u64 {
        self.alias.load(Ordering::SeqCst)
    }

    pub(crate) fn branch(&self) -> u64 {
        self.jump().map_or(0, |jump| jump.branch)
    }

    /// Its stub for what only the thread can do; 0 if it has none so far.
    pub(crate) fn native(&self) -> u64 {
        self.native.load(Ordering::Acquire)
    }

    pub(crate) fn set_native(&self, native: u64) {
        self.native.store(native, Ordering::Release);
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (address, state) = (format_args!("{:#x}", self.address), self.state());
        f.debug_struct("Site").field("address", &address).field("state", &state).finish_non_exhaustive()
    }
}

/// The site of which `address` is the first byte, or an alias.
#[inline]
pub(crate) fn find(address: u64) -> Option<&'static Site> {
    let table = TABLE.load(Ordering::Acquire);
    if table.is_null() {
        return None;
    }
    // SAFETY: a table is never freed, has a shift, a mask and 2 * (mask + 1) words, and some of them are empty.
    let word = |index: u64| unsafe { &*table.add(index as usize) }.load(Ordering::Acquire);
    let (shift, mask) = (word(0), word(1));
    let mut index = address.wrapping_mul(SPREAD) >> (shift & 63);
    loop {
        index &= mask;
        match word(2 + 2 * index) {
            0 => return None,
            // SAFETY: what is entered is a site that was leaked.
            key if key == address => return unsafe { (word(3 + 2 * index) as *const Site).as_ref() },
            _ => index += 1,
        }
    }
}

/// Enters `site` under `address`. Nobody else may do so meanwhile.
fn enter(table: &[AtomicU64], address: u64, site: u64) {
    let word = |index: u64| table.get(index as usize);
    let (Some(shift), Some(mask)) = (word(0), word(1)) else { return };
    let (shift, mask) = (shift.load(Ordering::Relaxed), mask.load(Ordering::Relaxed));
    let mut index = address.wrapping_mul(SPREAD) >> shift;
    for _ in 0..=mask {
        index &= mask;
        let (Some(key), Some(value)) = (word(2 + 2 * index), word(3 + 2 * index)) else { return };
        let known = key.load(Ordering::Relaxed);
        if known == 0 || known == address {
            value.store(site, Ordering::Release);
            key.store(address, Ordering::Release);
            return;
        }
        index += 1;
    }
}

/// Those who change the table.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    /// By which addresses which sites are found.
    entries: BTreeMap<u64, u64>,
    /// The newest site of each address.
    newest: BTreeMap<u64, &'static Site>,
    table: Option<&'static [AtomicU64]>,
}

impl Writer {
    pub(crate) const fn new() -> Writer {
        Writer { entries: BTreeMap::new(), newest: BTreeMap::new(), table: None }
    }

    /// Takes up a site for good: one that has been on the same instruction before, is on nothing now, and `fits`; or else the
    /// new one.
    pub(crate) fn add(&mut self, new: Site, fits: impl Fn(&Site) -> bool) -> &'static Site {
        let newest = self.newest.get(&new.address).copied();
        let known = std::iter::successors(newest, |site| site.older)
            .find(|site| site.is_alike(&new) && site.state() == State::Removed && fits(site));
        let site = known.unwrap_or_else(|| {
            let site: &'static Site = Box::leak(Box::new(Site { older: newest, ..new }));
            self.newest.insert(site.address, site);
            site
        });
        LOWEST.fetch_min(site.address.saturating_sub(JUMP as u64), Ordering::SeqCst);
        HIGHEST.fetch_max(site.address.saturating_add(LONGEST_PATCH as u64), Ordering::SeqCst);
        self.insert(site.address, site);
        site
    }

    /// Has `site` found by `address` from now on, whatever was found by that before.
    pub(crate) fn insert(&mut self, address: u64, site: &'static Site) {
        const SMALLEST: usize = 256;
        let site = ptr::from_ref(site) as u64;
        self.entries.insert(address, site);
        let capacity = self.table.map_or(0, |table| table.len() / 2 - 1);
        if self.entries.len() * 2 <= capacity {
            if let Some(table) = self.table {
                enter(table, address, site);
            }
            return;
        }
        let capacity = (capacity * 2).max(SMALLEST);
        let mut table = Vec::new();
        table.resize_with(2 + 2 * capacity, || AtomicU64::new(0));
        let table: &'static [AtomicU64] = table.leak();
        if let [shift, mask, ..] = table {
            shift.store(u64::from(64 - capacity.trailing_zeros()), Ordering::Relaxed);
            mask.store(capacity as u64 - 1, Ordering::Relaxed);
        }
        for (&address, &site) in &self.entries {
            enter(table, address, site);
        }
        self.table = Some(table);
        TABLE.store(table.as_ptr().cast_mut(), Ordering::Release);
    }
}

/// Whether some byte of `range` may be one that a site replaces.
#[inline]
pub(crate) fn may_meet(range: &Range<u64>) -> bool {
    range.start < HIGHEST.load(Ordering::Relaxed) && LOWEST.load(Ordering::Relaxed) < range.end
}

/// Puts into `bytes`, which were read from `address` on, what belongs there instead of breakpoints and jumps.
pub(crate) fn unmask(address: u64, bytes: &mut [u8]) {
    let end = address.saturating_add(bytes.len() as u64);
    if !may_meet(&(address..end)) {
        return;
    }
    let (low, high) = (LOWEST.load(Ordering::Relaxed), HIGHEST.load(Ordering::Relaxed));
    let first = address.saturating_sub(LONGEST_PATCH as u64 - 1).max(low);
    // What is behind may have a jump in the padding before it.
    for start in first..end.saturating_add(JUMP as u64).min(high) {
        let Some(site) = find(start).filter(|site| site.state() == State::Live && site.address == start)
        else {
            continue;
        };
        let replaced = (start..).zip(site.replacement()).zip(site.original());
        let padding = site.jump().filter(|_| site.is_jump()).and_then(|jump| jump.padding);
        let padding = padding.iter().flat_map(|(padding, jump)| (*padding..).zip(jump).zip(&[INT3; JUMP]));
        for ((place, put), original) in replaced.chain(padding) {
            let offset = place.checked_sub(address).and_then(|offset| usize::try_from(offset).ok());
            // What is something else is not ours: other memory may have come there meanwhile.
            if let Some(read) = offset.and_then(|offset| bytes.get_mut(offset))
                && (*read == *put || *read == INT3)
            {
                *read = *original;
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    fn nop(address: u64) -> Site {
        let displaced = Displaced::decode(&[0x90], address).unwrap();
        Site::new(address, [0x90, 1, 2, 3, 4, 0, 0, 0], displaced)
    }

    #[test]
    fn what_is_entered_is_found_as_the_table_grows() {
        let mut writer = Writer::new();
        // Not where anything else of this process is.
        let addresses: Vec<u64> = (1..2000).map(|number| 0x10 * number).collect();
        for &address in &addresses {
            writer.add(nop(address), |_| true).set_state(State::Live);
        }
        for &address in &addresses {
            assert_eq!(find(address).map(Site::address), Some(address));
            assert!(find(address + 1).is_none());
        }
        let mut bytes = [0xcc; 0x20];
        find(0x100).unwrap().set_jump(jump([0xe9, 0xa, 0xb, 0xc, 0xd, 0, 0, 0]));
        find(0x100).unwrap().set_length(5);
        bytes[0xe..0x13].copy_from_slice(&[0xe9, 0xa, 0xb, 0xcc, 0xee]);
        unmask(0xf2, &mut bytes);
        assert_eq!(bytes[0xd..0x14], [0xcc, 0x90, 1, 2, 3, 0xee, 0xcc]);
        assert_eq!((bytes[0x1d], bytes[0x1e], bytes[0x1f]), (0xcc, 0x90, 0xcc));
    }

    fn jump(bytes: [u8; LONGEST_PATCH]) -> Jump {
        Jump { behind: Box::default(), bytes, length: 5, padding: None, alias: 0x8, branch: 0 }
    }

    #[test]
    fn a_site_is_used_again_for_the_same_instruction_and_jump() {
        let mut writer = Writer::new();
        let address = 0x1_0000_0000;
        let site = writer.add(nop(address), |_| true);
        site.set_jump(jump([0xe9, 0, 0, 0, 0, 0, 0, 0]));
        assert!(ptr::eq(writer.add(nop(address), |_| true), site));
        let other = writer.add(nop(address), |site| site.jump().is_none());
        assert!(!ptr::eq(other, site) && ptr::eq(find(address).unwrap(), other));
        assert!(ptr::eq(writer.add(nop(address), |site| site.jump().is_some()), site));
        assert!(ptr::eq(find(address).unwrap(), site));
        site.set_state(State::Live);
        assert!(ptr::eq(writer.add(nop(address), |_| true), other));
        let displaced = Displaced::decode(&[0x48, 0x89, 0xd8], address).unwrap();
        let new = writer.add(Site::new(address, [0x48, 0x89, 0xd8, 0, 0, 0, 0, 0], displaced), |_| true);
        assert!(!ptr::eq(new, site) && !ptr::eq(new, other));
    }
}
