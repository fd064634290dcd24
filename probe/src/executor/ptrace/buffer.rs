//! Stores of a thread that runs on while others run, on their way to memory.
//!
//! As long as a thread only computes and looks at what it has itself stored, nobody can tell whether it has made its stores
//! yet, or is slow. So they wait here, and are made by one system call, in the order of the program, before the thread looks
//! at anything that others may have a part in: before any other load, before text is fetched that may change, before it
//! reads the time, and before anybody is to see what it has done. Unlike the store buffer of a processor, this one changes
//! no order that others could see, so that it need not be emptied where the kernel would empty that: when another thread
//! calls membarrier(2) or mprotect(2), on which programs rely in the place of barriers.
//!
//! Each store remembers how the thread was before its instruction. Where it cannot be made after all, as another thread has
//! changed the mapping meanwhile, the thread is set back to there, and faults: it has come no further, as far as anybody
//! knows.

use std::fmt;
use std::io::IoSlice;
use std::ops::Range;

use emu::registers::Extended;
use emu::{Access, MemoryFault, Registers, UserMemory};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};

use crate::executor::general::GeneralRegisters;
use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::kept::{View, place_of};
use crate::executor::space::Space;
use crate::target::lock;
use crate::target::system;

const PAGE: u64 = 4096;
/// As many stores wait at most, and as many bytes of each.
const MOST: usize = 32;
const LONGEST: usize = 64;
/// As many pages are known at once to which stores may wait.
const PAGES: usize = 64;
/// No page has that number.
const NOWHERE: u64 = u64::MAX;

/// The bytes of a store, at the same place in a cache line as in the target: the kernel's copy is then one store for an
/// aligned unit, as from [`Staging`](super::memory::Staging).
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Line([u8; 2 * LONGEST]);

/// How a thread was.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) registers: GeneralRegisters,
    /// How many instructions it had left.
    pub(crate) left: u64,
}

/// A store that waits.
#[derive(Debug)]
struct Store {
    address: u64,
    length: usize,
    /// Before its instruction.
    before: Moment,
}

impl Store {
    fn bytes<'a>(&self, line: &'a Line) -> &'a [u8] {
        line.0.get(in_line(self.address, self.length)).unwrap_or_default()
    }
}

/// Where bytes lie in a [`Line`].
fn in_line(address: u64, length: usize) -> Range<usize> {
    // A remainder by LONGEST fits any usize.
    let start = (address % LONGEST as u64) as usize;
    start..start + length
}

/// The stores of a thread that wait, the oldest first.
pub(crate) struct StoreBuffer {
    stores: Vec<Store>,
    lines: Box<[Line; MOST]>,
    /// Before the instruction that is executed, if a store of it may wait.
    now: Option<Moment>,
    /// The extended registers as they were until an instruction changed them; each with how many stores waited then.
    extended: Vec<(usize, Box<Extended>)>,
    /// Where the thread is to be set back to, as a store could not be made.
    undone: Option<Moment>,
    /// Pages to which a store was made at once since the thread last ran.
    storable: [u64; PAGES],
}

impl fmt::Debug for StoreBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreBuffer").field("stores", &self.stores).finish_non_exhaustive()
    }
}

impl StoreBuffer {
    pub(crate) fn new() -> StoreBuffer {
        StoreBuffer {
            stores: Vec::with_capacity(MOST),
            lines: Box::new([Line([0; 2 * LONGEST]); MOST]),
            now: None,
            extended: Vec::new(),
            undone: None,
            storable: [NOWHERE; PAGES],
        }
    }

    /// Begins with nothing: what is mapped may have changed.
    pub(crate) fn begin(&mut self) {
        self.forget();
        self.undone = None;
        self.storable = [NOWHERE; PAGES];
    }

    fn forget(&mut self) {
        self.stores.clear();
        self.extended.clear();
        self.now = None;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.stores.is_empty()
    }

    /// The thread, which has so many instructions left, is before one at `rip`, of which a store may wait.
    #[inline]
    pub(crate) fn expect(&mut self, registers: &Registers, rip: u64, left: u64) {
        self.now =
            Some(Moment { registers: GeneralRegisters { rip, ..GeneralRegisters::of(registers) }, left });
    }

    /// The instruction that was to be executed is: no store is expected any more.
    #[inline]
    pub(crate) fn expect_none(&mut self) {
        self.now = None;
    }

    /// Before an instruction that may change extended registers.
    #[inline]
    pub(crate) fn keep_extended(&mut self, extended: &Extended) {
        let kept = self.extended.last().map_or(0, |&(stores, _)| stores);
        if self.stores.len() > kept {
            self.extended.push((self.stores.len(), Box::new(extended.clone())));
        }
    }

    /// Whether a store could not be made, so that the thread is to be set back.
    #[inline]
    pub(crate) fn is_undone(&self) -> bool {
        self.undone.is_some()
    }

    /// Sets the thread back to before the store that could not be made, if one could not. Returns how many instructions it
    /// had left then.
    pub(crate) fn undo(&mut self, registers: &mut Registers) -> Option<u64> {
        let Moment { registers: before, left } = self.undone.take()?;
        before.put(registers);
        if let Some((_, extended)) = self.extended.drain(..).next() {
            registers.extended = *extended;
        }
        Some(left)
    }

    /// A page can be stored to, now.
    fn note_storable(&mut self, number: u64) {
        self.storable[Self::slot(number)] = number;
    }

    /// No store is to wait that goes to a page.
    pub(crate) fn forbid(&mut self, number: u64) {
        let slot = &mut self.storable[Self::slot(number)];
        if *slot == number {
            *slot = NOWHERE;
        }
    }

    fn slot(number: u64) -> usize {
        // A remainder by PAGES fits any usize.
        (number % PAGES as u64) as usize
    }

    /// Whether a store can wait, if there is room.
    fn takes(&self, address: u64, length: usize) -> bool {
        let (number, place) = place_of(address);
        self.now.is_some()
            && length <= LONGEST
            && place + length <= PAGE as usize
            && self.storable[Self::slot(number)] == number
    }

    fn is_full(&self) -> bool {
        self.stores.len() >= MOST
    }

    /// Adds a store for which there is room.
    fn push(&mut self, address: u64, bytes: &[u8]) {
        let (Some(before), Some(line)) = (self.now.take(), self.lines.get_mut(self.stores.len())) else {
            return;
        };
        if let Some(place) = line.0.get_mut(in_line(address, bytes.len())) {
            place.copy_from_slice(bytes);
        }
        self.stores.push(Store { address, length: bytes.len(), before });
    }

    /// Fills `bytes` with what the thread has stored last, if all of it waits in one store. Says whether that is so.
    fn load(&self, address: u64, bytes: &mut [u8]) -> bool {
        let length = bytes.len() as u64;
        for (store, line) in self.stores.iter().zip(self.lines.iter()).rev() {
            let stored = store.length as u64;
            let (offset, behind) = (address.wrapping_sub(store.address), store.address.wrapping_sub(address));
            if offset < stored && length <= stored - offset {
                // Both are within a line.
                let from = store.bytes(line).get(offset as usize..(offset + length) as usize);
                return from.map(|from| bytes.copy_from_slice(from)).is_some();
            }
            if offset < stored || behind < length {
                return false;
            }
        }
        false
    }

    /// The store of that number could not be made. What was stored behind it has not been.
    fn fail(&mut self, number: usize) {
        // The registers as they were when it was the last one: of later copies the thread had others.
        self.extended.retain(|&(stores, _)| stores > number);
        let extended = std::mem::take(&mut self.extended);
        self.undone = self.stores.drain(..).nth(number).map(|store| store.before);
        self.forget();
        self.extended = extended;
    }
}

impl View<'_> {
    /// A store of a thread beside which others run: it waits if it may, and else is made at once, behind those that do.
    pub(super) fn store_in_turn(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let stores = &mut self.kept.stores;
        if stores.takes(address, bytes.len()) && (!stores.is_full() || self.make_waiting()) {
            self.note_announced(address, bytes.len());
            self.kept.stores.push(address, bytes);
            return Ok(());
        }
        if !self.make_waiting() {
            return Err(undone(address, Access::Write));
        }
        self.note_store(address, bytes.len());
        self.accessor.write(address, bytes)?;
        let (number, _) = place_of(address);
        if self.kept.stores.now.is_some() && self.may_wait(number) {
            self.kept.stores.note_storable(number);
        }
        Ok(())
    }

    /// Whether stores to a page may wait, which has just been stored to: those to text are seen at once, and whether keys
    /// forbid them is asked each time.
    fn may_wait(&mut self, number: u64) -> bool {
        let (tid, start) = (self.accessor.thread.tid(), number * PAGE);
        !self.kept.is_code(number)
            && lock(&self.accessor.space.read().keys)
                .first_keyed(tid, start..start.saturating_add(PAGE))
                .is_none()
    }

    /// A load of a thread beside which others run. Says whether it is done, as it is of what the thread has just stored; else
    /// the stores that wait have been made before it.
    pub(super) fn load_in_turn(&mut self, address: u64, bytes: &mut [u8]) -> Result<bool, MemoryFault> {
        if self.kept.stores.is_empty() || !self.accessor.threads.atomics.ways.contains(Ways::OWN_AT_ONCE) {
            return Ok(false);
        }
        if self.kept.stores.load(address, bytes) {
            return Ok(true);
        }
        if self.make_waiting() { Ok(false) } else { Err(undone(address, Access::Read)) }
    }

    /// Makes the stores that wait. Says whether all could be made; else the thread is to be set back, before anything else.
    pub(super) fn make_waiting(&mut self) -> bool {
        let mut done = 0;
        while done < self.kept.stores.stores.len() {
            let made = self.make_some(done);
            let made = if made > 0 { made } else { usize::from(self.make_one(done)) };
            if made == 0 {
                self.kept.stores.fail(done);
                return false;
            }
            done += made;
        }
        let now = self.kept.stores.now.take();
        self.kept.stores.forget();
        self.kept.stores.now = now;
        !self.kept.stores.is_undone()
    }

    /// Makes stores from that one on, in their order, by one system call, as far as they meet no breakpoint and can be made.
    /// Returns how many.
    fn make_some(&mut self, first: usize) -> usize {
        let View { accessor, kept } = self;
        let tid = accessor.thread.tid();
        // Nobody may place a breakpoint meanwhile.
        let space = accessor.space.read();
        let buffer = &kept.stores;
        let waiting = buffer.stores.iter().zip(buffer.lines.iter()).skip(first);
        let mut local = [IoSlice::new(&[]); MOST];
        let mut remote = [RemoteIoVec { base: 0, len: 0 }; MOST];
        let mut count = 0;
        for ((store, line), (local, remote)) in waiting.zip(local.iter_mut().zip(&mut remote)) {
            if meets_breakpoint(&space, store) {
                break;
            }
            *local = IoSlice::new(store.bytes(line));
            // usize and u64 are the same on x86-64, the only target.
            *remote = RemoteIoVec { base: store.address as usize, len: store.length };
            count += 1;
        }
        let (Some(local), Some(remote)) = (local.get_mut(..count), remote.get_mut(..count)) else { return 0 };
        if !accessor.threads.atomics.ways.contains(Ways::IN_ORDER) {
            local.reverse();
            remote.reverse();
        }
        if count == 0 {
            return 0;
        }
        // The kernel copies one after the other, and of each, which is in one page, all or nothing.
        let written = process_vm_writev(system::pid(tid), local, remote);
        drop(space);
        let mut written = accessor.reached("process_vm_writev", written);
        let whole = remote.iter().take_while(|remote| {
            let is_made = remote.len <= written;
            written = written.saturating_sub(remote.len);
            is_made
        });
        whole.count()
    }

    /// Makes that store by itself. Says whether it could be made.
    fn make_one(&mut self, number: usize) -> bool {
        let buffer = &self.kept.stores;
        let Some((store, line)) = buffer.stores.get(number).zip(buffer.lines.get(number)) else {
            return false;
        };
        let mut copy = [0; LONGEST];
        let Some(copy) = copy.get_mut(..store.length) else { return false };
        copy.copy_from_slice(store.bytes(line));
        self.accessor.write(store.address, copy).is_ok()
    }
}

fn meets_breakpoint(space: &Space, store: &Store) -> bool {
    space.store_meets_breakpoint(store.address, store.length)
}

/// What an instruction is told that is not to be executed now, as the thread is to be set back.
fn undone(address: u64, access: Access) -> MemoryFault {
    MemoryFault { address, access, present: true, protection_key: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer with stores of those bytes, each before which RAX was its number.
    fn buffer(stores: &[(u64, &[u8])]) -> StoreBuffer {
        let mut buffer = StoreBuffer::new();
        buffer.note_storable(1);
        for (number, &(address, bytes)) in stores.iter().enumerate() {
            let mut registers = Registers::default();
            registers.gpr[0] = number as u64;
            buffer.expect(&registers, 0x10 + number as u64, 100 - number as u64);
            assert!(buffer.takes(address, bytes.len()) && !buffer.is_full());
            buffer.push(address, bytes);
            // Of one instruction one store waits.
            assert!(!buffer.takes(address, bytes.len()));
        }
        buffer
    }

    #[test]
    fn a_load_sees_the_last_store_that_has_all_of_it() {
        let stores: [(u64, &[u8]); 4] =
            [(0x1000, &[1; 8]), (0x1010, &[2; 16]), (0x1004, &[3; 4]), (0x1038, &[4; 64])];
        let buffer = buffer(&stores);
        let load = |address, length: usize| {
            let mut bytes = vec![0; length];
            buffer.load(address, &mut bytes).then_some(bytes)
        };
        assert_eq!(load(0x1000, 4), Some(vec![1; 4]));
        assert_eq!(load(0x1005, 3), Some(vec![3; 3]));
        assert_eq!(load(0x1018, 8), Some(vec![2; 8]));
        assert_eq!(load(0x1077, 1), Some(vec![4]));
        // In two, and beyond one at either end.
        for (address, length) in
            [(0x1000, 8), (0x1002, 4), (0x1018, 9), (0x100f, 2), (0x1037, 2), (0x1077, 2)]
        {
            assert_eq!(load(address, length), None, "{address:#x}");
        }
        assert_eq!(load(0x1020, 8), None);
        assert_eq!(load(u64::MAX - 7, 8), None);
    }

    #[test]
    fn only_what_can_be_one_store_to_a_known_page_waits() {
        let mut buffer = buffer(&[]);
        assert!(!buffer.takes(0x1000, 8), "none is expected");
        buffer.expect(&Registers::default(), 0, 0);
        assert!(buffer.takes(0x1000, 8) && buffer.takes(0x1ff8, 8) && buffer.takes(0x1010, LONGEST));
        assert!(!buffer.takes(0x1ff9, 8) && !buffer.takes(0x1000, LONGEST + 1));
        assert!(!buffer.takes(0x2000, 8));
        buffer.forbid(2);
        assert!(buffer.takes(0x1000, 8));
        buffer.forbid(1);
        assert!(!buffer.takes(0x1000, 8));
    }

    #[test]
    fn a_thread_is_set_back_to_the_store_that_fails() {
        let mut buffer = buffer(&[(0x1000, &[1; 8])]);
        let mut registers = Registers::default();
        let change = |buffer: &mut StoreBuffer, registers: &mut Registers, to: u64| {
            buffer.keep_extended(&registers.extended);
            registers.extended.opmask[0] = to;
        };
        let store = |buffer: &mut StoreBuffer, registers: &Registers, number: u64| {
            buffer.expect(registers, number, 100 - number);
            buffer.push(0x1000 + 8 * number, &[2; 8]);
        };
        change(&mut buffer, &mut registers, 1);
        change(&mut buffer, &mut registers, 2);
        for number in 1..3 {
            registers.gpr[0] = number;
            store(&mut buffer, &registers, number);
        }
        change(&mut buffer, &mut registers, 3);
        registers.gpr[0] = 9;
        buffer.fail(2);
        assert!(buffer.is_empty() && buffer.is_undone());
        assert_eq!(buffer.undo(&mut registers), Some(98));
        assert_eq!((registers.gpr[0], registers.rip, registers.extended.opmask[0]), (2, 2, 2));
        assert!(!buffer.is_undone());
        assert_eq!(buffer.undo(&mut registers), None);
    }
}
