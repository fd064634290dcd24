//! The sites of this process, in a table that handlers of signals read without waiting for anybody.
//!
//! What was put into it stays until the process ends: sites are few, and whoever has read of one may look at it at any
//! later time. A table that is full is replaced by a larger one.

#![allow(unsafe_code, reason = "what is published once and never freed is read by address")]

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering};

use emu::Displaced;

use crate::executor::own::machine::SPREAD;
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
    /// Where a direct branch leads, for a stub that goes there itself.
    branch: AtomicU64,
    /// A stub that has the thread do by itself what nobody else can.
    native: AtomicU64,
    /// The instructions behind it that a jump has replaced as well, in their order. Each begins with a breakpoint.
    behind: OnceLock<Box<[Displaced]>>,
    /// Where the jump is in the padding before it to which a short one leads; 0 if there is none.
    padding: AtomicU64,
    /// There was a jump that had to go.
    undone: AtomicBool,
    /// Who wants to know of hits.
    pub(crate) users: Chain<User>,
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
            branch: AtomicU64::new(0),
            native: AtomicU64::new(0),
            behind: OnceLock::new(),
            padding: AtomicU64::new(0),
            undone: AtomicBool::new(false),
            users: Chain::new(),
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

    /// The instructions behind the site's that a jump has replaced as well.
    pub(crate) fn behind(&self) -> &[Displaced] {
        self.behind.get().map_or(&[], |behind| behind)
    }

    /// Says which they are, once.
    pub(crate) fn set_behind(&self, behind: Vec<Displaced>) {
        let _ = self.behind.set(behind.into_boxed_slice());
    }

    /// Where threads go on that have come by a jump.
    pub(crate) fn next(&self) -> u64 {
        self.behind().last().unwrap_or(&self.displaced).instruction().next_ip()
    }

    /// Where the jump is in the padding before the site; 0 if there is none.
    pub(crate) fn padding(&self) -> u64 {
        self.padding.load(Ordering::SeqCst)
    }

    pub(crate) fn set_padding(&self, padding: u64) {
        self.padding.store(padding, Ordering::SeqCst);
    }

    /// Whether there was a jump that had to go, so that what is behind it can be probed.
    pub(crate) fn is_undone(&self) -> bool {
        self.undone.load(Ordering::SeqCst)
    }

    pub(crate) fn set_undone(&self) {
        self.undone.store(true, Ordering::SeqCst);
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

    pub(crate) fn set_alias(&self, alias: u64) {
        self.alias.store(alias, Ordering::SeqCst);
    }

    pub(crate) fn branch(&self) -> u64 {
        self.branch.load(Ordering::Relaxed)
    }

    pub(crate) fn set_branch(&self, branch: u64) {
        self.branch.store(branch, Ordering::Relaxed);
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

/// Somebody who wants to know of hits.
pub(crate) type User = &'static (dyn Any + Send + Sync);

/// A list that only grows, to be read at any time.
pub(crate) struct Chain<T: 'static>(AtomicPtr<Link<T>>);

struct Link<T: 'static> {
    value: T,
    next: Chain<T>,
}

impl<T: Send + Sync> Chain<T> {
    pub(crate) const fn new() -> Chain<T> {
        Chain(AtomicPtr::new(ptr::null_mut()))
    }

    fn first(&self) -> Option<&'static Link<T>> {
        // SAFETY: what is in a chain was leaked by `push`.
        unsafe { self.0.load(Ordering::Acquire).as_ref() }
    }

    /// Adds `value` at the end. Nobody else may do so meanwhile.
    pub(crate) fn push(&self, value: T) {
        let mut last = &self.0;
        while let Some(link) = {
            // SAFETY: as in `first`.
            unsafe { last.load(Ordering::Acquire).as_ref() }
        } {
            last = &link.next.0;
        }
        last.store(Box::leak(Box::new(Link { value, next: Chain::new() })), Ordering::Release);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &'static T> + use<T> {
        let mut next = self.first();
        std::iter::from_fn(move || {
            let link = next?;
            next = link.next.first();
            Some(&link.value)
        })
    }
}

/// Something that threads use, and that is dropped once none does any more.
///
/// Uses are counted when they begin and when they end, so that nothing else has to count them.
pub(crate) struct Drained<T> {
    begun: AtomicU64,
    ended: AtomicU64,
    /// How many of them have found it closed.
    in_vain: AtomicU64,
    /// Null once it is closed.
    value: AtomicPtr<T>,
    /// What it was, until that is dropped.
    closed: AtomicPtr<T>,
}

impl<T: Send + Sync> Drained<T> {
    pub(crate) fn new(value: T) -> Drained<T> {
        let value = AtomicPtr::new(Box::into_raw(Box::new(value)));
        let [begun, ended, in_vain] = [const { AtomicU64::new(0) }; 3];
        Drained { begun, ended, in_vain, value, closed: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Has `work` done with it, unless it is closed.
    #[inline]
    pub(crate) fn with<R>(&self, work: impl FnOnce(&T) -> R) -> Option<R> {
        /// Also where `work` unwinds.
        struct Leaving<'a>(&'a AtomicU64);
        impl Drop for Leaving<'_> {
            fn drop(&mut self) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let _leaving = Leaving(&self.ended);
        // SAFETY: who drops it has taken the pointer away first, and then waits until there are no users.
        let value = unsafe { self.value.load(Ordering::SeqCst).as_ref() };
        if value.is_none() {
            self.in_vain.fetch_add(1, Ordering::SeqCst);
        }
        value.map(work)
    }

    /// How many uses of it have ended.
    pub(crate) fn uses(&self) -> u64 {
        let ended = self.ended.load(Ordering::SeqCst);
        ended.saturating_sub(self.in_vain.load(Ordering::SeqCst))
    }

    /// Whether nobody uses it at this moment.
    fn is_idle(&self) -> bool {
        // As many have ended as had begun later on.
        let ended = self.ended.load(Ordering::SeqCst);
        ended == self.begun.load(Ordering::SeqCst)
    }

    /// Whether nobody begins to use it any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.value.load(Ordering::SeqCst).is_null()
    }

    /// Has nobody begin to use it any more.
    pub(crate) fn close(&self) {
        let value = self.value.swap(ptr::null_mut(), Ordering::SeqCst);
        if !value.is_null() {
            self.closed.store(value, Ordering::SeqCst);
        }
    }

    /// Drops it, once it is closed.
    ///
    /// With `wait`, those who use it are waited for, of which the caller must be none. Otherwise it is left as it is: in
    /// a child that was forked meanwhile, users are counted that there are none of.
    pub(crate) fn drain(&self, wait: bool) {
        let value = self.closed.swap(ptr::null_mut(), Ordering::SeqCst);
        if value.is_null() || !wait {
            return;
        }
        while !self.is_idle() {
            std::thread::yield_now();
        }
        // SAFETY: it comes from `Box::into_raw`, has been taken by nobody else, and is used by nobody any more.
        drop(unsafe { Box::from_raw(value) });
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
    table: Option<&'static [AtomicU64]>,
}

impl Writer {
    pub(crate) const fn new() -> Writer {
        Writer { entries: BTreeMap::new(), table: None }
    }

    /// Takes up a site, and returns it for good.
    pub(crate) fn add(&mut self, site: Site) -> &'static Site {
        let site: &'static Site = Box::leak(Box::new(site));
        let patch = LONGEST_PATCH as u64;
        LOWEST.fetch_min(site.address.saturating_sub(JUMP as u64), Ordering::SeqCst);
        HIGHEST.fetch_max(site.address.saturating_add(patch), Ordering::SeqCst);
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
        let replaced = site.original().iter().copied();
        let padding = (site.padding() != 0).then(|| (site.padding()..).zip([INT3; JUMP]));
        for (place, byte) in (start..).zip(replaced).chain(padding.into_iter().flatten()) {
            let offset = place.checked_sub(address).and_then(|offset| usize::try_from(offset).ok());
            if let Some(read) = offset.and_then(|offset| bytes.get_mut(offset)) {
                *read = byte;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

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
            writer.add(nop(address)).set_state(State::Live);
        }
        for &address in &addresses {
            assert_eq!(find(address).map(Site::address), Some(address));
            assert!(find(address + 1).is_none());
        }
        let mut bytes = [0xcc; 0x20];
        find(0x100).unwrap().set_length(5);
        unmask(0xf2, &mut bytes);
        assert_eq!(bytes[0xd..0x14], [0xcc, 0x90, 1, 2, 3, 4, 0xcc]);
        assert_eq!((bytes[0x1d], bytes[0x1e], bytes[0x1f]), (0xcc, 0x90, 0xcc));
    }

    #[test]
    fn what_is_drained_is_dropped_and_used_no_more() {
        let value = Arc::new(());
        let drained = Drained::new(Arc::clone(&value));
        assert_eq!(drained.with(Arc::strong_count), Some(2));
        drained.close();
        assert_eq!((drained.with(|_| ()), Arc::strong_count(&value)), (None, 2));
        drained.drain(true);
        assert_eq!((drained.with(|_| ()), Arc::strong_count(&value)), (None, 1));
        assert_eq!((drained.uses(), drained.is_idle()), (1, true));
    }

    #[test]
    fn a_chain_is_in_order() {
        let chain = Chain::new();
        (0..3).for_each(|number| chain.push(number));
        assert_eq!(chain.iter().copied().collect::<Vec<_>>(), [0, 1, 2]);
    }
}
