//! Changing the text of this process, by `/proc/self/mem`: no mapping changes its protection for it.
//!
//! Async-signal-safe, and right in a forked child: nothing is kept open.

#![allow(
    unsafe_code,
    reason = "system calls that must not allocate; each is wrapped here in a function that is safe to call"
)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use emu::Displaced;
use nix::errno::Errno;

use crate::executor::own::machine::{self, ENTRIES, SLOT};
use crate::executor::own::sites::{JUMP, LONGEST_PATCH, Site};
use crate::target::INT3;

/// `membarrier(2)`'s commands (linux/membarrier.h).
const SYNC_CORE: i32 = 1 << 5;
const REGISTER_SYNC_CORE: i32 = 1 << 6;

/// How many stubs have been given away.
static USED: AtomicU64 = AtomicU64::new(0);

/// Writes `bytes` to text.
pub(crate) fn write(address: u64, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the path is a string; `bytes` is valid for what is read of it. The descriptor is ours until it is closed.
    let written = unsafe {
        let memory = Errno::result(libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC))?;
        let written = libc::pwrite(memory, bytes.as_ptr().cast(), bytes.len(), address as i64);
        let written = Errno::result(written);
        libc::close(memory);
        written?
    };
    if written == bytes.len() as isize { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads text as it is, or whatever else is there.
fn read(address: u64, bytes: &mut [u8]) -> io::Result<()> {
    // SAFETY: the path is a string; `bytes` is valid for what is written to it. The descriptor is ours until it is closed.
    let read = unsafe {
        let memory = Errno::result(libc::open(c"/proc/self/mem".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC))?;
        let read = libc::pread(memory, bytes.as_mut_ptr().cast(), bytes.len(), address as i64);
        let read = Errno::result(read);
        libc::close(memory);
        read?
    };
    if read == bytes.len() as isize { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn membarrier(command: i32) -> nix::Result<()> {
    // SAFETY: the call takes numbers only.
    Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }).map(drop)
}

/// Whether text that several threads execute can be changed by more than a byte.
pub(crate) fn register() -> bool {
    membarrier(REGISTER_SYNC_CORE).is_ok()
}

/// No thread executes from now on what it has fetched before.
fn serialize() -> io::Result<()> {
    Ok(membarrier(SYNC_CORE)?)
}

/// Replaces a breakpoint at `address` by `bytes`, of which nobody executes a mixture with what was there.
///
/// `behind` has the addresses among them where a thread may be as well, as instructions begin there: there are breakpoints
/// when this begins, and they are replaced when all but the first byte is.
fn replace(address: u64, bytes: &[u8], behind: &[Displaced]) -> io::Result<()> {
    let Some(first) = bytes.first() else { return Ok(()) };
    if bytes.len() > 1 {
        serialize()?;
        let at = |offset: usize| address.wrapping_add(offset as u64);
        let is_start = |offset: usize| behind.iter().any(|displaced| displaced.ip() == at(offset));
        let each = || bytes.iter().enumerate().skip(1);
        for (offset, byte) in each().filter(|&(offset, _)| !is_start(offset)) {
            write(at(offset), &[*byte])?;
        }
        serialize()?;
        for (offset, byte) in each().filter(|&(offset, &byte)| is_start(offset) && byte != INT3) {
            write(at(offset), &[*byte])?;
        }
        serialize()?;
    }
    write(address, &[*first])?;
    if bytes.len() > 1 { serialize() } else { Ok(()) }
}

/// Puts a site's jump in place of its breakpoint. What is behind the site and is replaced as well is known.
pub(crate) fn put_jump(site: &Site) -> io::Result<()> {
    for displaced in site.behind() {
        write(displaced.ip(), &[INT3])?;
    }
    replace(site.address(), site.replacement(), site.behind())
}

/// Puts what belongs there in place of a site's breakpoint or jump.
pub(crate) fn restore(site: &Site) -> io::Result<()> {
    let [first, ..] = site.original() else { return Ok(()) };
    put_back(site, *first)
}

/// Puts a breakpoint in place of a site's jump, and what belongs there in place of all behind it.
pub(crate) fn undo_jump(site: &Site) -> io::Result<()> {
    put_back(site, INT3)
}

/// Whether a site's breakpoint or jump is there still: other memory may have come there, or other text.
pub(crate) fn is_there(site: &Site) -> bool {
    let mut first = [0];
    match read(site.address(), &mut first) {
        Ok(()) => first.iter().all(|&byte| is_of(site, 0, byte)),
        // Of other failures, such as that no file can be opened, nothing follows.
        Err(error) => error.raw_os_error() != Some(libc::EIO),
    }
}

/// Whether `byte` is what has been put at the site, so many bytes behind its start.
fn is_of(site: &Site, offset: usize, byte: u8) -> bool {
    byte == INT3 || site.replacement().get(offset) == Some(&byte)
}

fn put_back(site: &Site, first: u8) -> io::Result<()> {
    let mut bytes = [INT3; LONGEST_PATCH];
    let bytes = bytes.get_mut(..site.length()).unwrap_or_default();
    if !is_there(site) {
        // Whoever has changed it has taken the breakpoint out.
        return Ok(());
    }
    read(site.address(), bytes)?;
    for (offset, (place, &byte)) in bytes.iter_mut().zip(site.original()).enumerate() {
        if is_of(site, offset, *place) {
            *place = byte;
        }
    }
    if let Some(place) = bytes.first_mut() {
        *place = first;
    }
    if site.is_jump() {
        write(site.address(), &[INT3])?;
    }
    replace(site.address(), bytes, site.behind())?;
    match site.padding() {
        None => Ok(()),
        // Who is there has a breakpoint, which leads back to the site.
        Some(padding) => replace_padding(padding, &[INT3; JUMP]),
    }
}

/// Puts a jump into the padding before a site, which is breakpoints, or takes it out.
pub(crate) fn replace_padding(padding: u64, bytes: &[u8; JUMP]) -> io::Result<()> {
    write(padding, &[INT3])?;
    replace(padding, bytes, &[])
}

/// Memory for a stub, if fewer than `most` have been given away.
fn slot(most: u64) -> Option<u64> {
    let number =
        USED.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| (used < most).then_some(used + 1));
    Some(machine::slots().start + SLOT * number.ok()?)
}

/// Memory for a stub that has a thread do something itself.
fn slot_of_its_own() -> io::Result<u64> {
    let slots = machine::slots();
    Ok(slot((slots.end - slots.start) / SLOT).ok_or(io::ErrorKind::OutOfMemory)?)
}

/// Memory for a jump to a stub, where `fits` says that it may be.
pub(crate) fn trampoline(fits: impl Fn(u64) -> bool) -> Option<u64> {
    let range = machine::trampolines();
    let is_free = |address: u64| {
        let mut bytes = [0; JUMP];
        machine::load(address, &mut bytes).is_ok() && bytes == [INT3; JUMP]
    };
    let last = range.end.checked_sub(JUMP as u64)?;
    (range.start..last).find(|&address| fits(address) && is_free(address))
}

/// The address of the site to which the stub around `address` belongs.
pub(crate) fn site_of(address: u64) -> Option<u64> {
    let slots = machine::slots();
    if !slots.contains(&address) {
        return None;
    }
    let slot = slots.start + (address - slots.start) / SLOT * SLOT;
    let mut site = [0; 8];
    machine::load(slot, &mut site).ok()?;
    Some(u64::from_le_bytes(site))
}

/// The distance from behind an instruction at `from`, which ends with it, to `to`, if 32 bits hold it.
fn distance(from: u64, to: u64) -> Option<[u8; 4]> {
    let distance = to.wrapping_sub(from.wrapping_add(JUMP as u64)).cast_signed();
    i32::try_from(distance).ok().map(i32::to_le_bytes)
}

/// A jump at `from` to `to`, if it is near enough.
pub(crate) fn jump(from: u64, to: u64) -> Option<[u8; JUMP]> {
    let [a, b, c, d] = distance(from, to)?;
    Some([0xe9, a, b, c, d])
}

/// Code that is being written for an address.
struct Code {
    address: u64,
    bytes: [u8; SLOT as usize],
    length: usize,
}

impl Code {
    fn at(address: u64) -> Code {
        Code { address, bytes: [INT3; SLOT as usize], length: 0 }
    }

    fn here(&self) -> u64 {
        self.address + self.length as u64
    }

    fn put(&mut self, bytes: &[u8]) {
        let places = self.bytes.iter_mut().skip(self.length);
        self.length += places.zip(bytes).map(|(place, &byte)| *place = byte).count();
    }

    fn write(&self) -> io::Result<()> {
        write(self.address, &self.bytes)
    }
}

/// Writes a stub that has the thread execute `instruction`, and go on at `next`, for the site at `address`.
pub(crate) fn native(address: u64, instruction: &[u8], next: u64) -> io::Result<u64> {
    let mut code = Code::at(slot_of_its_own()?);
    code.put(&address.to_le_bytes());
    let start = code.here();
    code.put(instruction);
    // jmp [rip]
    code.put(&[0xff, 0x25, 0, 0, 0, 0]);
    code.put(&next.to_le_bytes());
    code.write()?;
    Ok(start)
}

/// The same for a SYSCALL, which leaves the address of the next instruction in RCX.
pub(crate) fn system_call(address: u64, next: u64) -> io::Result<u64> {
    let mut code = Code::at(slot_of_its_own()?);
    code.put(&address.to_le_bytes());
    let start = code.here();
    // syscall; mov rcx, next; jmp rcx
    code.put(&[0x0f, 0x05, 0x48, 0xb9]);
    code.put(&next.to_le_bytes());
    code.put(&[0xff, 0xe1]);
    code.write()?;
    Ok(start)
}

/// A stub that threads jump to from a site.
pub(crate) struct Entry {
    pub(crate) start: u64,
    /// The breakpoint by which it has the site served instead.
    pub(crate) alias: u64,
    /// Whether it can go where the direct branch leads.
    pub(crate) branches: bool,
}

/// Writes a stub for `site`, if there is memory for one near enough.
pub(crate) fn entry(site: &'static Site, next: u64, branch: Option<u64>) -> Option<Entry> {
    jump(site.address(), machine::slots().start)?;
    jump(site.address(), machine::slots().end)?;
    let mut code = Code::at(slot(ENTRIES)?);
    code.put(&(std::ptr::from_ref(site) as u64).to_le_bytes());
    let start = code.here();
    // lea rsp, [rsp - 136]
    code.put(&[0x48, 0x8d, 0xa4, 0x24, 0x78, 0xff, 0xff, 0xff]);
    let [a, b, c, d] = distance(code.here(), machine::enter())?;
    code.put(&[0xe8, a, b, c, d]);
    // pop rsp, and there
    let mut tail = |target: u64| {
        let jump = jump(code.here() + 1, target);
        code.put(&[0x5c]);
        code.put(&jump.unwrap_or([INT3; JUMP]));
        jump.is_some()
    };
    let near = tail(next);
    let branches = tail(branch.unwrap_or(next)) && branch.is_some();
    let alias = code.here();
    code.put(&[INT3, INT3]);
    (near && code.write().is_ok()).then_some(Entry { start, alias, branches })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_reaches_two_gibibytes() {
        assert_eq!(jump(0x1000, 0x1005), Some([0xe9, 0, 0, 0, 0]));
        assert_eq!(jump(0x1000, 0x1000), Some([0xe9, 0xfb, 0xff, 0xff, 0xff]));
        assert_eq!(jump(0x1000, 0x1005 + 0x7fff_ffff), Some([0xe9, 0xff, 0xff, 0xff, 0x7f]));
        assert_eq!(jump(0x1000, 0x1005 + 0x8000_0000), None);
        assert_eq!(jump(0x8000_0000, 0x5), Some([0xe9, 0, 0, 0, 0x80]));
        assert_eq!(jump(0x8000_0001, 0x5), None);
    }
}
