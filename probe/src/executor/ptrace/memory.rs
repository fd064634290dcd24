//! The target's memory as its own instructions would see it.

use std::io::{IoSlice, IoSliceMut};
use std::ops::Range;

use emu::{Access, MemoryFault, UserMemory};
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};

use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::Threads;
use crate::executor::ptrace::xstate;
use crate::executor::space::SharedSpace;
use crate::target::failure::errno;
use crate::target::keys;
use crate::target::lock;
use crate::target::maps::{self, Permissions};
use crate::target::system;

const PAGE: usize = 4096;
/// How many pages one system call reaches at most: enough for what `emu` copies of a string at a time.
const PAGES: usize = 17;

/// Where bytes lie on their way to or from the target: at the same offset in a page as there.
///
/// The kernel's copy is then one load or store for an aligned unit. At other offsets it may be done byte by
/// byte (`rep movsb` with fast short strings), and another thread of the target would see half a store.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(crate) struct Staging([u8; PAGES * PAGE]);

impl Staging {
    pub(crate) fn new() -> Box<Staging> {
        Box::new(Staging([0; PAGES * PAGE]))
    }

    /// As much of `length` bytes as the buffer holds for `address`: up to the end of its last page.
    fn place(&mut self, address: u64, length: usize) -> &mut [u8] {
        let offset = offset_in_page(address);
        let end = offset.saturating_add(length).min(self.0.len());
        self.0.get_mut(offset..end).unwrap_or_default()
    }
}

fn offset_in_page(address: u64) -> usize {
    // A remainder by PAGE fits any usize.
    (address % PAGE as u64) as usize
}

/// How many bytes an access has reached. That there is no memory is the thread's own affair; that the kernel
/// does not let us at it is told.
fn done(threads: &mut Threads, tid: i32, call: &'static str, result: nix::Result<usize>) -> usize {
    if result == Err(Errno::EFAULT) {
        return 0;
    }
    threads.memory_refused |= result.is_err_and(|error| error != Errno::ESRCH);
    threads.note(tid, call, result).unwrap_or(0)
}

/// How much of an access of `length` bytes is made first: all of it, but for tests.
fn first_piece(threads: &Threads, length: usize) -> usize {
    if threads.atomics.ways.contains(Ways::UNDIVIDED) { length } else { length / 2 }
}

/// How many of `length` bytes at `address` lie in its first page.
fn in_first_page(address: u64, length: usize) -> usize {
    length.min(PAGE - offset_in_page(address))
}

/// Access to the memory of one stopped thread.
///
/// Page protections hold as they do for the thread itself, and so do protection keys as far as [`Keys`] knows
/// them. Reads show the bytes that breakpoints displaced; writes keep the breakpoints.
///
/// [`Keys`]: crate::target::keys::Keys
#[derive(Debug)]
pub(crate) struct Accessor<'a> {
    pub(crate) thread: &'a mut Stopped,
    pub(crate) space: &'a SharedSpace,
    pub(crate) threads: &'a mut Threads,
    pub(crate) staging: &'a mut Staging,
    /// Breakpoints that the program overwrote with what cannot be probed.
    pub(crate) lost: &'a mut Vec<u64>,
    /// Addresses that were found to be writable, not older than this hit.
    pub(crate) writable: Range<u64>,
    /// PKRU of the thread, once it has been needed.
    pub(crate) pkru: Option<u32>,
}

impl Accessor<'_> {
    /// Reads what one system call can; returns how many bytes could be.
    fn read_pages(&mut self, address: u64, length: usize) -> (usize, &[u8]) {
        let pid = system::pid(self.thread.tid());
        let staged = self.staging.place(address, length);
        let (first, second) = staged.split_at_mut(first_piece(self.threads, staged.len()));
        let mut count = 0;
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            let remote = remote(address.wrapping_add(count as u64), piece.len());
            let wanted = piece.len();
            let read = process_vm_readv(pid, &mut [IoSliceMut::new(piece)], &remote);
            let read = done(self.threads, self.thread.tid(), "process_vm_readv", read);
            count += read;
            if read < wanted {
                break;
            }
        }
        (count, staged)
    }

    /// Reads `bytes` from `address` on, as far as possible; returns how many could be read.
    pub(crate) fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let permitted = self.permitted(address, bytes.len(), Access::Read);
        bytes.get_mut(..permitted).map_or(0, |bytes| self.read_unchecked(address, bytes))
    }

    /// The same, whatever the protection keys.
    fn read_unchecked(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..)
            && !rest.is_empty()
            && let Some(from) = address.checked_add(done as u64)
        {
            let (count, staged) = self.read_pages(from, rest.len());
            let wanted = staged.len();
            if let (Some(rest), Some(staged)) = (rest.get_mut(..count), staged.get(..count)) {
                rest.copy_from_slice(staged);
            }
            done += count;
            if count < wanted {
                break;
            }
        }
        if let Some(read) = bytes.get_mut(..done) {
            self.space.read().unmask(address, read);
        }
        done
    }

    /// Writes what one system call can; returns how many bytes were written.
    fn write_pages(&mut self, address: u64, bytes: &[u8]) -> usize {
        let staged = self.staging.place(address, bytes.len());
        if let Some(bytes) = bytes.get(..staged.len()) {
            staged.copy_from_slice(bytes);
        }
        let meets = self.space.read().store_meets_breakpoint(address, staged.len());
        // Nobody else may place or remove a breakpoint meanwhile.
        let mut text = meets.then(|| self.space.write());
        if let Some(text) = &text {
            text.mask_store(address, staged);
        }
        let (first, second) = staged.split_at(first_piece(self.threads, staged.len()));
        let mut count = 0;
        for piece in [first, second].into_iter().filter(|piece| !piece.is_empty()) {
            let remote = remote(address.wrapping_add(count as u64), piece.len());
            let written = process_vm_writev(system::pid(self.thread.tid()), &[IoSlice::new(piece)], &remote);
            let written = done(self.threads, self.thread.tid(), "process_vm_writev", written);
            count += written;
            if written < piece.len() {
                break;
            }
        }
        if let (Some(text), Some(written)) = (&mut text, bytes.get(..count)) {
            text.after_store(address, written, self.lost);
        }
        count
    }

    /// How many bytes a call has reached.
    pub(super) fn reached(&mut self, call: &'static str, result: nix::Result<usize>) -> usize {
        done(self.threads, self.thread.tid(), call, result)
    }

    /// Whether the page of `address` can be written.
    fn is_writable(&mut self, address: u64) -> bool {
        if self.writable.contains(&address) {
            return true;
        }
        let maps = maps::read(self.thread.tid()).map_err(|error| errno(&error));
        if maps.as_ref().is_err_and(|&error| error != Errno::ESRCH) {
            self.threads.memory_refused = true;
        }
        if let Some(maps) = self.threads.note(self.thread.tid(), "reading /proc/PID/maps", maps)
            && let Some(mapping) = maps::find(&maps, address)
            && mapping.perms.contains(Permissions::WRITE)
        {
            self.writable = mapping.start..mapping.end;
        }
        self.writable.contains(&address)
    }

    /// How many of `length` bytes from `address` on the thread may access by their protection keys. The kernel
    /// does not look at these when another process makes the access.
    fn permitted(&mut self, address: u64, length: usize, access: Access) -> usize {
        let end = address.saturating_add(length as u64);
        let tid = self.thread.tid();
        let first_keyed = |range| lock(&self.space.read().keys).first_keyed(tid, range);
        let Some((mut keyed, mut key)) = first_keyed(address..end) else { return length };
        // Where it cannot be had, the thread makes the access itself, which will show.
        let pkru = *self.pkru.get_or_insert_with(|| xstate::pkru(self.thread).unwrap_or(u32::MAX));
        loop {
            if keys::forbids(pkru, key, access) {
                return usize::try_from(keyed.start - address).unwrap_or(length);
            }
            match first_keyed(keyed.end..end) {
                Some(next) => (keyed, key) = next,
                None => return length,
            }
        }
    }

    /// How many of `length` bytes from `address` on can be read without putting a page there that the thread,
    /// which means to write, would not get: its fault would then say that there was one.
    fn present_or_writable(&mut self, address: u64, length: usize) -> usize {
        let mut done = 0;
        while done < length {
            let page = address.wrapping_add(done as u64);
            if !self.space.read().is_present(page) && !self.is_writable(page) {
                return done;
            }
            done += in_first_page(page, PAGE);
        }
        length
    }

    /// How many of `length` bytes from `address` on can be written, page by page.
    fn storable(&mut self, address: u64, length: usize) -> usize {
        let mut done = 0;
        while done < length {
            let page = address.wrapping_add(done as u64);
            // Where a file ends before its mapping does, there is nothing to write to.
            let is_backed =
                |memory: &mut Self| memory.space.read().is_present(page) || memory.read_pages(page, 1).0 == 1;
            if !self.is_writable(page) || !is_backed(self) {
                return done;
            }
            done += in_first_page(page, PAGE);
        }
        length
    }

    /// That all of `size` bytes at `address` can be written, or what keeps the thread from it.
    pub(crate) fn can_store(&mut self, address: u64, size: usize) -> Result<(), MemoryFault> {
        let permitted = self.permitted(address, size, Access::Write);
        match self.storable(address, permitted) {
            storable if storable == size => Ok(()),
            storable => Err(Self::fault(address, storable, Access::Write, storable == permitted)),
        }
    }

    /// A fault, by its key or else by the page, `done` bytes behind `address`.
    fn fault(address: u64, done: usize, access: Access, protection_key: bool) -> MemoryFault {
        // What the page is, the processor will say: `faults` makes the thread access it for real.
        let address = address.wrapping_add(done as u64);
        MemoryFault { address, access, present: false, protection_key }
    }
}

/// A range of the target's memory. The kernel counts what it copied before the first page that it cannot reach
/// (`process_vm_rw_single_vec`), although process_vm_readv(2) promises whole pieces alone.
fn remote(address: u64, length: usize) -> [RemoteIoVec; 1] {
    // usize and u64 are the same on x86-64, the only target.
    [RemoteIoVec { base: address as usize, len: length }]
}

impl UserMemory for Accessor<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        let permitted = self.permitted(address, bytes.len(), access);
        let wanted = match access {
            Access::Read => permitted,
            // A page that is there and cannot be written is found by the write, which comes last and changes
            // nothing if it fails.
            Access::Write => self.present_or_writable(address, permitted),
        };
        match bytes.get_mut(..wanted).map_or(0, |bytes| self.read_unchecked(address, bytes)) {
            done if done == bytes.len() => Ok(()),
            done => Err(Self::fault(address, done, access, done == permitted)),
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let permitted = self.permitted(address, bytes.len(), Access::Write);
        if permitted < bytes.len() || in_first_page(address, bytes.len()) < bytes.len() {
            // All or nothing: the first page is written first, so look at all before.
            self.can_store(address, bytes.len())?;
        }
        let mut done = 0;
        while let Some(rest) = bytes.get(done..)
            && !rest.is_empty()
        {
            let from = address.wrapping_add(done as u64);
            let wanted = rest.len().min(PAGES * PAGE - offset_in_page(from));
            let count = self.write_pages(from, rest);
            done += count;
            if count < wanted {
                return Err(Self::fault(address, done, Access::Write, false));
            }
        }
        Ok(())
    }

    /// The kernel lets another process store there as it lets it store breakpoints.
    fn write_shadow_stack(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let written = self.space.read().write_raw(address, bytes);
        written.map_err(|error| {
            self.threads.memory_refused |=
                !matches!(errno(&error), Errno::EIO | Errno::EFAULT | Errno::ESRCH);
            Self::fault(address, 0, Access::Write, false)
        })
    }

    /// See [`atomic`](crate::executor::ptrace::atomic).
    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        self.update_in_one_step(address, size, update)
    }
}
