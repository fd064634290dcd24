//! Pages of a thread's memory that are kept while its instructions are emulated one after the other: as long as nobody
//! else can look at them or change them, a load costs no system call, and what is stored is written back before anybody
//! looks.
//!
//! That is so where the address space has no other thread, and for memory that is mapped privately. What others may have
//! done meanwhile a program learns from shared memory or from the kernel, so that nothing is kept beyond an access to the
//! former, and nothing while the thread itself runs.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::io::IoSlice;
use std::ops::Range;

use emu::{Access, MemoryFault, UserMemory};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};

use crate::executor::code::Kind;
use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::buffer::StoreBuffer;
use crate::executor::ptrace::memory::Accessor;
use crate::executor::space::Breakpoint;
use crate::executor::{Steadiness, TextMemory};
use crate::target::lock;
use crate::target::maps::{Mapping, Permissions};
use crate::target::system;

const PAGE: usize = 4096;

/// Hashes addresses and page numbers, which are spread already.
#[derive(Debug, Default)]
pub(crate) struct AddressHasher(u64);

pub(crate) type Fast = BuildHasherDefault<AddressHasher>;

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u64(byte.into()));
    }

    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; a map looks at the high bits and at the low ones.
        let product = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}

#[derive(Debug)]
struct Page {
    number: u64,
    bytes: Box<[u8; PAGE]>,
    writable: bool,
    is_dirty: bool,
    dirty: Dirty,
}

/// Which bytes of a page are to be written back: those that were stored, and no others, since the kernel may have written
/// beside them meanwhile for what the process has asked for before (io_uring(7), io_submit(2)).
#[derive(Debug)]
struct Dirty([u64; PAGE / BITS]);

/// How many bytes a word of [`Dirty`] tells of.
const BITS: usize = u64::BITS as usize;

impl Dirty {
    /// Notes that the bytes from `start` to before `end` have been stored.
    #[inline]
    fn note(&mut self, start: usize, end: usize) {
        let mut start = start;
        while start < end {
            let bits = (end - start).min(BITS - start % BITS);
            let Some(word) = self.0.get_mut(start / BITS) else { return };
            *word |= u64::MAX >> (BITS - bits) << (start % BITS);
            start += bits;
        }
    }

    /// Where bytes that have been stored lie together.
    fn runs(&self) -> impl Iterator<Item = Range<usize>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.find(from, 0)?;
            from = self.find(start, u64::MAX).unwrap_or(PAGE);
            Some(start..from)
        })
    }

    /// The first byte from `from` on whose bit differs from those of `all`.
    fn find(&self, from: usize, all: u64) -> Option<usize> {
        let mut kept = u64::MAX << (from % BITS);
        for (index, &word) in self.0.iter().enumerate().skip(from / BITS) {
            let found = (word ^ all) & kept;
            if found != 0 {
                // A word has 64 bits.
                return Some(index * BITS + found.trailing_zeros() as usize);
            }
            kept = u64::MAX;
        }
        None
    }
}

impl Default for Dirty {
    fn default() -> Dirty {
        Dirty([0; PAGE / BITS])
    }
}

/// Where a page is found at once.
#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u64,
    index: u32,
}

/// As many pages as are found at once.
const SLOTS: usize = 256;
/// No page has that number.
const NOBODY: Slot = Slot { number: u64::MAX, index: 0 };

/// The pages that are kept.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Whether any may be: nobody else runs in the address space.
    exclusive: bool,
    /// What was stored while others run, on its way to memory.
    pub(super) stores: StoreBuffer,
    pages: Vec<Page>,
    numbers: HashMap<u64, u32, Fast>,
    readable: Box<[Slot; SLOTS]>,
    writable: Box<[Slot; SLOTS]>,
    /// Those to be written back.
    dirty: Vec<u32>,
    /// Buffers for pages to come.
    spare: Vec<Box<[u8; PAGE]>>,
    /// What is known to be mapped.
    grounds: Vec<Mapping>,
    /// The pages from which instructions have been decoded.
    code: HashSet<u64, Fast>,
    /// Whether one of those may have been written to.
    code_written: bool,
    /// Where the thread announces restartable sequences, if that is to be noted; and whether it has.
    pub(crate) announced_at: Range<u64>,
    announced: bool,
}

impl Kept {
    pub(crate) fn new() -> Kept {
        Kept {
            exclusive: false,
            stores: StoreBuffer::new(),
            pages: Vec::new(),
            numbers: HashMap::default(),
            readable: Box::new([NOBODY; SLOTS]),
            writable: Box::new([NOBODY; SLOTS]),
            dirty: Vec::new(),
            spare: Vec::new(),
            grounds: Vec::new(),
            code: HashSet::default(),
            code_written: false,
            announced_at: 0..0,
            announced: false,
        }
    }

    /// Begins with nothing, and keeps pages only if it may.
    pub(crate) fn begin(&mut self, exclusive: bool) {
        self.drop_pages();
        self.stores.begin();
        self.grounds.clear();
        self.exclusive = exclusive;
        (self.announced_at, self.announced) = (0..0, false);
    }

    /// Whether nobody else runs in the address space, so that pages are kept.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// Whether instructions have been decoded from a page.
    pub(super) fn is_code(&self, number: u64) -> bool {
        self.code.contains(&number)
    }

    /// Forgets which pages have code in them, of which none is kept decoded.
    pub(crate) fn forget_code(&mut self) {
        self.code.clear();
        self.code_written = false;
    }

    /// Forgets all pages, of which none is to be written back.
    fn drop_pages(&mut self) {
        /// More are needed seldom.
        const MOST_SPARE: usize = 1024;
        if self.pages.is_empty() {
            return;
        }
        for page in self.pages.drain(..) {
            if self.spare.len() < MOST_SPARE {
                self.spare.push(page.bytes);
            }
        }
        self.numbers.clear();
        self.dirty.clear();
        self.readable.fill(NOBODY);
        self.writable.fill(NOBODY);
    }

    #[inline]
    fn slot(number: u64) -> usize {
        // A remainder by SLOTS fits any usize.
        (number % SLOTS as u64) as usize
    }

    /// The kept bytes, if they are in one page that may be accessed so and is found at once.
    #[inline]
    fn find(&self, address: u64, length: usize, access: Access) -> Option<&[u8]> {
        let (number, place) = place_of(address);
        let slots = if access == Access::Read { &self.readable } else { &self.writable };
        let slot = slots[Self::slot(number)];
        if slot.number != number {
            return None;
        }
        self.pages.get(slot.index as usize)?.bytes.get(place..place + length)
    }

    /// Stores `bytes` if they go to one page that may be written to and is found at once. Says whether they have been.
    #[inline]
    fn store(&mut self, address: u64, bytes: &[u8]) -> bool {
        let (number, place) = place_of(address);
        let slot = self.writable[Self::slot(number)];
        if slot.number != number {
            return false;
        }
        let Some(page) = self.pages.get_mut(slot.index as usize) else { return false };
        let end = place + bytes.len();
        let Some(to) = page.bytes.get_mut(place..end) else { return false };
        copy(to, bytes);
        page.dirty.note(place, end);
        if !page.is_dirty {
            page.is_dirty = true;
            self.dirty.push(slot.index);
        }
        true
    }
}

/// The page of an address, and the place in it.
#[inline]
pub(super) fn place_of(address: u64) -> (u64, usize) {
    // A remainder by PAGE fits any usize.
    (address / PAGE as u64, (address % PAGE as u64) as usize)
}

/// Copies what is of one length: the usual ones without a call.
#[inline]
fn copy(to: &mut [u8], from: &[u8]) {
    fn fixed<const N: usize>(to: &mut [u8], from: &[u8]) {
        if let (Some((to, _)), Some((from, _))) =
            (to.split_first_chunk_mut::<N>(), from.split_first_chunk::<N>())
        {
            *to = *from;
        }
    }
    match from.len() {
        8 => fixed::<8>(to, from),
        4 => fixed::<4>(to, from),
        1 => fixed::<1>(to, from),
        16 => fixed::<16>(to, from),
        2 => fixed::<2>(to, from),
        32 => fixed::<32>(to, from),
        length if to.len() == length => to.copy_from_slice(from),
        _ => {}
    }
}

/// A part of an access that lies in one page: its address, and the place in the operand.
pub(super) fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let address = address.wrapping_add(done as u64);
        let piece = done..length.min(done + PAGE - place_of(address).1);
        done = piece.end;
        (!piece.is_empty()).then_some((address, piece))
    })
}

/// The memory of a stopped thread whose instructions are emulated one after the other.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) accessor: Accessor<'a>,
    pub(crate) kept: &'a mut Kept,
}

impl View<'_> {
    /// What is mapped at `address`.
    fn ground(&mut self, address: u64) -> Option<&Mapping> {
        let known = self.kept.grounds.iter().position(|ground| ground.contains(address));
        let index = match known {
            Some(index) => index,
            None => {
                let tid = self.accessor.thread.tid();
                let mapping = lock(&self.accessor.space.read().sharing).mapping(tid, address)?;
                self.kept.grounds.push(mapping);
                self.kept.grounds.len() - 1
            }
        };
        // The one that was asked for last is asked for next.
        self.kept.grounds.swap(0, index);
        self.kept.grounds.first()
    }

    /// Keeps a page and finds it at once from now on, if that may be for such an access.
    fn keep(&mut self, number: u64, access: Access) -> Option<()> {
        if !self.kept.exclusive {
            return None;
        }
        let index = match self.kept.numbers.get(&number) {
            Some(&index) => index,
            None => self.fetch(number)?,
        };
        let page = self.kept.pages.get(index as usize)?;
        let slot = Kept::slot(number);
        let writable = page.writable && !self.kept.code.contains(&number);
        if access == Access::Write && !writable {
            return None;
        }
        self.kept.readable[slot] = Slot { number, index };
        if writable {
            self.kept.writable[slot] = Slot { number, index };
        }
        Some(())
    }

    /// Fetches a page that may be kept.
    fn fetch(&mut self, number: u64) -> Option<u32> {
        let address = number.checked_mul(PAGE as u64)?;
        let end = address.checked_add(PAGE as u64)?;
        let perms = self.ground(address)?.perms;
        if perms.contains(Permissions::SHARED) || !perms.contains(Permissions::READ) {
            return None;
        }
        let tid = self.accessor.thread.tid();
        let has_breakpoints = {
            let space = self.accessor.space.read();
            if lock(&space.keys).first_keyed(tid, address..end).is_some() {
                return None;
            }
            space.within(address..end).next().is_some()
        };
        let mut bytes = self.kept.spare.pop().unwrap_or_else(|| Box::new([0; PAGE]));
        if self.accessor.read_up_to(address, &mut bytes[..]) < PAGE {
            self.kept.spare.push(bytes);
            return None;
        }
        let writable = perms.contains(Permissions::WRITE) && !has_breakpoints;
        let index = u32::try_from(self.kept.pages.len()).ok()?;
        self.kept.pages.push(Page { number, bytes, writable, is_dirty: false, dirty: Dirty::default() });
        self.kept.numbers.insert(number, index);
        Some(index)
    }

    /// Writes back what was stored, and goes on keeping it.
    pub(crate) fn write_back(&mut self) {
        /// The most that one system call takes (`UIO_MAXIOV`).
        const MOST: usize = 1024;
        if self.kept.dirty.is_empty() {
            return;
        }
        let tid = self.accessor.thread.tid();
        // Nobody may place a breakpoint meanwhile.
        let space = self.accessor.space.read();
        let mut masked = Vec::new();
        let mut pieces: Vec<(u64, &[u8])> = Vec::new();
        for &index in &self.kept.dirty {
            let Some(page) = self.kept.pages.get(index as usize) else { continue };
            for stored in page.dirty.runs() {
                let address = page.number * PAGE as u64 + stored.start as u64;
                let Some(bytes) = page.bytes.get(stored) else { continue };
                match space.within(address..address + bytes.len() as u64).next() {
                    None => pieces.push((address, bytes)),
                    // One has been placed since.
                    Some(_) => masked.push((address, bytes.to_vec())),
                }
            }
        }
        for pieces in pieces.chunks(MOST) {
            let local: Vec<IoSlice<'_>> = pieces.iter().map(|(_, bytes)| IoSlice::new(bytes)).collect();
            let remote: Vec<RemoteIoVec> = pieces
                .iter()
                // usize and u64 are the same on x86-64, the only target.
                .map(|&(address, bytes)| RemoteIoVec { base: address as usize, len: bytes.len() })
                .collect();
            let written = process_vm_writev(system::pid(tid), &local, &remote);
            self.accessor.threads.note(tid, "process_vm_writev", written);
        }
        drop(space);
        for (address, bytes) in masked {
            // What cannot be written could not have been stored.
            let _ = self.accessor.write(address, &bytes);
        }
        for index in self.kept.dirty.drain(..) {
            if let Some(page) = self.kept.pages.get_mut(index as usize) {
                page.is_dirty = false;
                page.dirty = Dirty::default();
            }
        }
    }

    /// Writes back what was stored, and keeps nothing. No store waits any more when this is asked for.
    pub(crate) fn settle(&mut self) {
        self.write_back();
        self.kept.drop_pages();
    }

    /// Before an access that is made at once: nothing that is kept may hide what it sees, or go stale by it.
    fn make_way(&mut self, address: u64, length: usize) {
        if self.kept.pages.is_empty() {
            return;
        }
        let last = address.wrapping_add(length as u64).wrapping_sub(1);
        let touches = [address, last].map(|address| self.kept.numbers.contains_key(&place_of(address).0));
        // By shared memory others tell what they have done.
        let shared =
            |ground: Option<&Mapping>| ground.is_none_or(|ground| ground.perms.contains(Permissions::SHARED));
        if touches.contains(&true)
            || length > PAGE
            || shared(self.ground(address))
            || shared(self.ground(last))
        {
            self.settle();
        }
    }

    /// Notes a store that is made at once.
    pub(super) fn note_store(&mut self, address: u64, length: usize) {
        self.kept.code_written |=
            pieces(address, length).any(|(address, _)| self.kept.code.contains(&place_of(address).0));
        self.note_announced(address, length);
    }

    /// The same of one that goes to no text.
    pub(super) fn note_announced(&mut self, address: u64, length: usize) {
        let Range { start, end } = self.kept.announced_at;
        self.kept.announced |= address < end && start < address.saturating_add(length as u64);
    }

    #[cold]
    fn read_slowly(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        if self.kept.exclusive {
            let length = bytes.len();
            if pieces(address, length).all(|(address, _)| self.keep(place_of(address).0, access).is_some()) {
                let mut all = true;
                for (address, piece) in pieces(address, length) {
                    let from = self.kept.find(address, piece.len(), access);
                    match (bytes.get_mut(piece), from) {
                        (Some(to), Some(from)) => to.copy_from_slice(from),
                        // Two pages that have the same slot.
                        _ => all = false,
                    }
                }
                if all {
                    return Ok(());
                }
            }
            self.make_way(address, length);
        } else if self.load_in_turn(address, bytes)? {
            return Ok(());
        }
        self.accessor.read(address, bytes, access)
    }

    #[cold]
    fn write_slowly(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        if self.kept.exclusive {
            let (first, last) =
                (place_of(address), place_of(address.wrapping_add(bytes.len() as u64).wrapping_sub(1)));
            let distinct = first.0 == last.0 || Kept::slot(first.0) != Kept::slot(last.0);
            let all = distinct
                && last.0.wrapping_sub(first.0) <= 1
                && pieces(address, bytes.len())
                    .all(|(address, _)| self.keep(place_of(address).0, Access::Write).is_some());
            if all {
                for (address, piece) in pieces(address, bytes.len()) {
                    self.kept.store(address, bytes.get(piece).unwrap_or_default());
                }
                return Ok(());
            }
            self.make_way(address, bytes.len());
            self.note_store(address, bytes.len());
            return self.accessor.write(address, bytes);
        }
        self.store_in_turn(address, bytes)
    }
}

impl UserMemory for View<'_> {
    #[inline]
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        match self.kept.find(address, bytes.len(), access) {
            Some(from) => {
                copy(bytes, from);
                Ok(())
            }
            None => self.read_slowly(address, bytes, access),
        }
    }

    #[inline]
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        if self.kept.store(address, bytes) { Ok(()) } else { self.write_slowly(address, bytes) }
    }

    /// Nothing is kept of a thread that has one.
    fn write_shadow_stack(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.accessor.write_shadow_stack(address, bytes)
    }

    /// Only of what is kept. Elsewhere the thread makes the access itself, with what it has in its registers, so that these
    /// are to be stored before: it is a fault here, for which the instruction is performed by itself.
    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let (first, last) =
            (place_of(address).0, place_of(address.wrapping_add(size as u64).wrapping_sub(1)).0);
        if self.keep(first, Access::Write).is_some() && self.keep(last, Access::Write).is_some() {
            return self.update_alone(address, size, update);
        }
        Err(MemoryFault { address, access: Access::Write, present: true, protection_key: false })
    }
}

impl TextMemory for View<'_> {
    fn text(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        // What was stored is to be seen.
        self.write_back();
        if !self.make_waiting() {
            return 0;
        }
        let read = self.accessor.space.read().read_raw(address, bytes).unwrap_or(0);
        let bytes = bytes.get_mut(..read).unwrap_or_default();
        self.accessor.space.read().unmask(address, bytes);
        for (address, _) in pieces(address, read) {
            let (number, _) = place_of(address);
            self.kept.code.insert(number);
            self.kept.stores.forbid(number);
            let slot = &mut self.kept.writable[Kept::slot(number)];
            if slot.number == number {
                *slot = NOBODY;
            }
        }
        read
    }

    fn mapping(&mut self, address: u64) -> Option<Mapping> {
        self.ground(address).cloned()
    }

    fn steadiness(&mut self, address: u64) -> Steadiness {
        let Some(ground) = self.ground(address) else { return Steadiness::None };
        let private = !ground.perms.contains(Permissions::SHARED);
        let unwritable = ground.inode != 0 && !ground.perms.contains(Permissions::WRITE);
        match () {
            () if private && unwritable && self.accessor.space.read().is_pristine(address) => {
                Steadiness::Full
            }
            // The thread changes it by stores, which are seen.
            () if private && self.kept.exclusive => Steadiness::Alone,
            () => Steadiness::None,
        }
    }

    fn stores(&mut self) -> &mut StoreBuffer {
        &mut self.kept.stores
    }

    fn may_buffer(&self) -> bool {
        !self.kept.exclusive && self.accessor.threads.atomics.ways.contains(Ways::UNDIVIDED)
    }

    fn drain(&mut self) -> bool {
        self.make_waiting()
    }

    fn forget_text(&mut self) {
        self.kept.forget_code();
    }

    fn take_code_written(&mut self) -> bool {
        std::mem::take(&mut self.kept.code_written)
    }

    fn take_announced(&mut self) -> bool {
        std::mem::take(&mut self.kept.announced)
    }

    fn site(&mut self, address: u64) -> Kind {
        let space = self.accessor.space.read();
        let counted = space.breakpoint(address).is_some_and(Breakpoint::is_only_counted);
        let mut kind = Kind::empty();
        kind.set(Kind::SITE, space.site(address).is_some());
        kind.set(Kind::COUNTED, counted && space.watched(address).is_none());
        kind
    }

    fn in_sequence(&mut self, address: u64, length: usize) -> bool {
        !self.kept.exclusive && self.accessor.space.read().sequences.meet(address, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_back_is_what_was_stored() {
        let stored = [0..1, 3..11, 60..68, 127..128, 128..192, 300..301, 301..305, 4000..4096];
        let mut dirty = Dirty::default();
        assert_eq!(dirty.runs().count(), 0);
        stored.iter().for_each(|stored| dirty.note(stored.start, stored.end));
        let runs: Vec<_> = dirty.runs().collect();
        assert_eq!(runs, [0..1, 3..11, 60..68, 127..192, 300..305, 4000..4096]);
        dirty.note(0, PAGE);
        assert!(dirty.runs().eq(std::iter::once(0..PAGE)));
    }
}
