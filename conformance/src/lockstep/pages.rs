//! The memory of a thread that stands still while the emulator runs ahead of it.

use core::fmt;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

use emu::{Access, MemoryFault, UserMemory};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;

use super::overlay::{Maps, read_up_to};

const PAGE: usize = 4096;
/// The most ranges that one `process_vm_readv` takes (`UIO_MAXIOV`).
const RANGES: usize = 1024;

type Bytes = Box<[u8; PAGE]>;

/// Hashes addresses and page numbers, which nobody chooses to harm us.
#[derive(Debug, Default)]
pub(super) struct AddressHasher(u64);

pub(super) type Fast = BuildHasherDefault<AddressHasher>;

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        // Fibonacci hashing; the map looks at the high bits and at the low ones.
        let product = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}

#[derive(Debug)]
struct Page {
    bytes: Bytes,
    /// What it held when the thread stopped, if the emulator has written to it since.
    before: Option<Bytes>,
    writable: bool,
    /// Whether instructions have been decoded from it.
    is_code: bool,
    /// Which of its aligned words were accessed in run `run`.
    accessed: [u64; PAGE / 8 / 64],
    run: u64,
}

impl Page {
    /// Notes an access in run `run`; returns the address of the first word of it that had not been accessed.
    fn access(&mut self, run: u64, number: u64, place: usize, length: usize) -> Option<u64> {
        if self.run != run {
            self.run = run;
            self.accessed = Default::default();
        }
        let mut fresh = None;
        for word in (place / 8..(place + length).div_ceil(8)).rev() {
            let Some(words) = self.accessed.get_mut(word / 64) else { continue };
            if *words & 1 << (word % 64) == 0 {
                *words |= 1 << (word % 64);
                fresh = Some(number * PAGE as u64 + 8 * word as u64);
            }
        }
        fresh
    }
}

/// A byte of memory that is not the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Difference {
    address: u64,
    processor: u8,
    emulator: u8,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { address, processor, emulator } = self;
        write!(f, "memory at {address:#x}: processor {processor:02x}, emulator {emulator:02x}")
    }
}

/// Copies of the pages that the emulator has looked at. They stay good for as long as nobody but
/// emulated threads writes to memory.
#[derive(Debug, Default)]
pub(super) struct Pages {
    pages: HashMap<u64, Page, Fast>,
    /// The numbers of those written since the thread stopped.
    written: Vec<u64>,
    /// Whether a page with instructions is among them.
    pub(super) code_written: bool,
    /// Where the kernel writes whenever it likes, by thread.
    pub(super) restartable_sequences: HashMap<i32, Range<u64>, Fast>,
    /// The run of the emulator that accesses are counted in.
    pub(super) run: u64,
    /// The address of an aligned word that this run has not accessed before the latest instruction.
    pub(super) fresh: Option<u64>,
}

impl Pages {
    /// Forgets all, before something happens that the emulator does not do as well.
    pub(super) fn forget(&mut self) {
        self.pages.clear();
        self.written.clear();
        self.restartable_sequences.clear();
    }

    /// The thread has written what the emulator has.
    pub(super) fn keep(&mut self) {
        for number in self.written.drain(..) {
            if let Some(page) = self.pages.get_mut(&number) {
                page.before = None;
            }
        }
    }

    /// Takes back what the emulator has written since the thread stopped; true if instructions are among it.
    pub(super) fn undo(&mut self) -> bool {
        let mut code = false;
        for number in self.written.drain(..) {
            if let Some(page) = self.pages.get_mut(&number)
                && let Some(before) = page.before.take()
            {
                page.bytes = before;
                code |= page.is_code;
            }
        }
        code
    }

    /// Gets a byte wrong in a page that the emulator has not written to; false if there is none.
    #[cfg(test)]
    pub(super) fn spoil(&mut self) -> bool {
        let page = self.pages.values_mut().find(|page| page.writable && page.before.is_none());
        page.map(|page| page.bytes[PAGE - 1] ^= 1).is_some()
    }

    /// Gives the thread's memory back what it held when it stopped, where the emulator has written.
    pub(super) fn rewind(&self, tid: i32) -> io::Result<()> {
        for number in &self.written {
            let Some(page) = self.pages.get(number) else { continue };
            let Some(before) = &page.before else { continue };
            // No byte more: the kernel may have written beside them for another thread.
            let changed: Vec<usize> = (0..PAGE).filter(|at| before[*at] != page.bytes[*at]).collect();
            let runs: Vec<&[usize]> = changed.chunk_by(|at, next| at + 1 == *next).collect();
            for runs in runs.chunks(RANGES) {
                let (local, remote): (Vec<_>, Vec<_>) = runs
                    .iter()
                    .map(|run| {
                        let base = *number as usize * PAGE + run[0];
                        (IoSlice::new(&before[run[0]..][..run.len()]), RemoteIoVec { base, len: run.len() })
                    })
                    .unzip();
                process_vm_writev(Pid::from_raw(tid), &local, &remote)?;
            }
        }
        Ok(())
    }

    /// The first byte that is another in the thread's memory, among the pages that the emulator has
    /// written to.
    pub(super) fn difference(&mut self, tid: i32) -> io::Result<Option<Difference>> {
        self.compare(tid, &self.written.clone())
    }

    /// As [`Pages::difference`], among all: the thread may have written where the emulator did not.
    pub(super) fn difference_anywhere(&mut self, tid: i32) -> io::Result<Option<Difference>> {
        self.compare(tid, &self.pages.keys().copied().collect::<Vec<_>>())
    }

    fn compare(&mut self, tid: i32, numbers: &[u64]) -> io::Result<Option<Difference>> {
        for numbers in numbers.chunks(RANGES) {
            let mut observed = vec![0; PAGE * numbers.len()];
            let remote: Vec<RemoteIoVec> = numbers
                .iter()
                .map(|number| RemoteIoVec { base: *number as usize * PAGE, len: PAGE })
                .collect();
            match process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(&mut observed)], &remote) {
                Ok(_) => {}
                // It has been killed.
                Err(Errno::ESRCH) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            for (number, observed) in numbers.iter().zip(observed.chunks_exact(PAGE)) {
                let Some(page) = self.pages.get_mut(number) else { continue };
                if page.bytes[..] == *observed {
                    continue;
                }
                let bytes = observed.iter().zip(&mut page.bytes[..]).zip(number * PAGE as u64..);
                for ((observed, expected), address) in bytes {
                    if self.restartable_sequences.values().any(|range| range.contains(&address)) {
                        *expected = *observed;
                    } else if observed != expected {
                        let (processor, emulator) = (*observed, *expected);
                        return Ok(Some(Difference { address, processor, emulator }));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The pages as the emulated instruction sees them. What cannot be copied is a fault: the thread will have
/// to say whether it is one.
pub(super) struct View<'a> {
    pub(super) tid: i32,
    pub(super) pages: &'a mut Pages,
    pub(super) maps: &'a mut Maps,
}

/// A part of an access that lies in one page: the page's number, the place in it, and in the operand.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let address = address.wrapping_add(done as u64);
        let place = (address % PAGE as u64) as usize;
        let piece = done..length.min(done + PAGE - place);
        done = piece.end;
        (!piece.is_empty()).then_some((address / PAGE as u64, place, piece))
    })
}

impl View<'_> {
    fn page(&mut self, number: u64, access: Access) -> Result<&mut Page, MemoryFault> {
        let address = number.wrapping_mul(PAGE as u64);
        let fault = MemoryFault { address, access, present: false, protection_key: false };
        if !self.pages.pages.contains_key(&number) {
            let writable = self.maps.is_private(self.tid, address).ok_or(fault)?;
            let mut bytes = Box::new([0; PAGE]);
            if read_up_to(self.tid, address, &mut bytes[..]) < PAGE {
                return Err(fault);
            }
            self.pages.pages.insert(
                number,
                Page { bytes, before: None, writable, is_code: false, accessed: Default::default(), run: 0 },
            );
        }
        let page = self.pages.pages.get_mut(&number).ok_or(fault)?;
        if access == Access::Write && !page.writable { Err(fault) } else { Ok(page) }
    }

    /// Notes as accessed what the next instruction may access.
    pub(super) fn touch(&mut self, address: u64, length: usize) {
        let run = self.pages.run;
        for (number, place, piece) in pieces(address, length) {
            if let Ok(page) = self.page(number, Access::Read) {
                page.access(run, number, place, piece.len());
            }
        }
    }

    /// Up to 15 bytes of an instruction.
    pub(super) fn fetch(&mut self, address: u64) -> ([u8; 15], usize) {
        let mut bytes = [0; 15];
        let mut length = 0;
        for (number, place, piece) in pieces(address, bytes.len()) {
            let Ok(page) = self.page(number, Access::Read) else { break };
            page.is_code = true;
            length = piece.end;
            let size = piece.len();
            bytes[piece].copy_from_slice(&page.bytes[place..place + size]);
        }
        (bytes, length)
    }
}

impl UserMemory for View<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        let run = self.pages.run;
        for (number, place, piece) in pieces(address, bytes.len()) {
            let page = self.page(number, access)?;
            let size = piece.len();
            bytes[piece].copy_from_slice(&page.bytes[place..place + size]);
            if let Some(fresh) = page.access(run, number, place, size) {
                self.pages.fresh = Some(fresh);
            }
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        for (number, ..) in pieces(address, bytes.len()) {
            self.page(number, Access::Write)?;
        }
        let run = self.pages.run;
        for (number, place, piece) in pieces(address, bytes.len()) {
            let page = self.page(number, Access::Write)?;
            let size = piece.len();
            let fresh = page.access(run, number, place, size);
            let is_code = page.is_code;
            let is_first = page.before.is_none();
            if is_first {
                page.before = Some(page.bytes.clone());
            }
            page.bytes[place..place + size].copy_from_slice(&bytes[piece]);
            self.pages.code_written |= is_code;
            self.pages.fresh = fresh.or(self.pages.fresh);
            if is_first {
                self.pages.written.push(number);
            }
        }
        Ok(())
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        self.update_alone(address, size, update)
    }
}
