//! One address space and the breakpoints in it.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use emu::Displaced;
use iced_x86::Code;

use crate::executor::ptrace::borrow::Loans;
use crate::executor::ptrace::locked::Catalogue;
use crate::executor::rseq::Sequences;
use crate::symbols::code::{self, Unprobeable};
use crate::target::failure::{SharedFailures, errno};
use crate::target::keys::Keys;
use crate::target::maps::{self, Mapping, Maps, Permissions};
use crate::target::pages::Pages;
use crate::target::sharing::Sharing;

mod copies;
mod intact;

pub(crate) use copies::Copied;
pub(crate) use intact::Missing;
use intact::executable;

pub(crate) use crate::target::INT3;

/// The longest instruction, in bytes.
pub(crate) const LONGEST: usize = 15;

/// Why no breakpoint can be put at an address.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unplaceable {
    /// Nothing is mapped there.
    Unmapped,
    /// The mapping is not executable.
    NotExecutable,
    /// The mapping is shared: a breakpoint would reach every process that maps it.
    Shared,
    /// The instruction is in a restartable sequence (rseq(2)), or announces one: the kernel would abort it at every
    /// hit, and the program would begin it again and again.
    Sequence,
    /// The instruction is one that cannot be probed.
    Instruction {
        /// Why.
        why: Unprobeable,
        /// The instruction's bytes, as far as they could be read.
        bytes: Vec<u8>,
    },
    /// The target's memory cannot be accessed.
    Memory(io::Error),
}

impl Unplaceable {
    /// The reason in a few words without values, to count by.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Unplaceable::Unmapped => "not mapped",
            Unplaceable::NotExecutable => "not executable",
            Unplaceable::Shared => "shared mapping",
            Unplaceable::Sequence => "restartable sequence",
            Unplaceable::Instruction { why, .. } => why.reason(),
            Unplaceable::Memory(_) => "memory not accessible",
        }
    }
}

impl fmt::Display for Unplaceable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unplaceable::Unmapped => f.write_str("nothing is mapped there"),
            Unplaceable::NotExecutable => f.write_str("the mapping is not executable"),
            Unplaceable::Shared => f.write_str("the mapping is shared with other processes"),
            Unplaceable::Sequence => f.write_str(
                "the instruction is in a restartable sequence (rseq), which every hit would abort",
            ),
            Unplaceable::Instruction { why, bytes } => {
                write!(f, "{why} (bytes")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(")")
            }
            Unplaceable::Memory(error) => write!(f, "the target's memory cannot be accessed: {error}"),
        }
    }
}

impl std::error::Error for Unplaceable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Unplaceable::Instruction { why, .. } => Some(why),
            Unplaceable::Memory(error) => Some(error),
            _ => None,
        }
    }
}

/// What a mapping maps: tells whether an address still means what it meant.
pub(crate) type Identity = ((u32, u32), u64, Option<u64>);

pub(crate) fn identity(mapping: &Mapping, address: u64) -> Identity {
    // Where there is no file the mapping may begin elsewhere any time: the kernel splits and merges it.
    let offset = mapping.file_offset(address).filter(|_| mapping.inode != 0);
    (mapping.dev, mapping.inode, offset)
}

/// A breakpoint.
#[derive(Clone, Debug)]
pub(crate) struct Breakpoint {
    /// The instruction that it displaced.
    pub(crate) displaced: Displaced,
    /// The byte that INT3 replaced.
    pub(crate) original: u8,
    /// Whether a SIGTRAP with RIP just behind the first byte need not be ours: another instruction starts
    /// there.
    pub(crate) ambiguous: bool,
    /// Whether the program may write the instruction without our knowing, so that it is read again at each hit.
    pub(crate) changing: bool,
    /// Whether it is in a copy of the text that it was put into, which the program has made at the same address.
    pub(crate) in_copy: bool,
    /// How often it was hit.
    pub(crate) hits: Hits,
    /// The probes that have a site here, by index.
    pub(crate) probes: Vec<usize>,
    /// Whether the dynamic linker calls this function when it has changed its list of objects.
    pub(crate) internal: bool,
    identity: Identity,
}

/// How often something has happened, modulo 2 to the power of 32.
#[derive(Debug, Default)]
pub(crate) struct Hits(AtomicU32);

impl Hits {
    /// Counts another one. Returns how many there were with it.
    pub(crate) fn count(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

impl Clone for Hits {
    fn clone(&self) -> Hits {
        Hits(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

impl Breakpoint {
    /// Takes another displaced instruction, with the same first byte.
    fn displace(&mut self, displaced: Displaced) {
        self.displaced = displaced;
        self.ambiguous = is_ambiguous(&displaced, self.original);
    }
}

/// What is left to know of a breakpoint that was removed.
#[derive(Clone, Copy, Debug)]
struct Removed {
    original: u8,
    changing: bool,
    /// What the displaced instruction was.
    code: Code,
    length: u8,
    identity: Identity,
}

impl Removed {
    fn of(breakpoint: &Breakpoint) -> Removed {
        let &Breakpoint { displaced, original, changing, identity, .. } = breakpoint;
        // No instruction is longer than 15 bytes.
        let length = displaced.length() as u8;
        Removed { original, changing, code: displaced.code(), length, identity }
    }
}

/// An address space that the session traces.
#[derive(Debug)]
pub(crate) struct Space {
    /// `/proc/PID/mem`. Unlike process_vm_writev it writes text, and it goes on working when the thread by
    /// which it was opened exits.
    memory: File,
    pages: Pages,
    breakpoints: BTreeMap<u64, Breakpoint>,
    /// Where breakpoints have been, and the byte that belongs there: a thread may have trapped on one
    /// before it was removed.
    removed: BTreeMap<u64, Removed>,
    /// The same of mappings that are gone or are another's now, whose text may have been copied before.
    former: BTreeMap<u64, Removed>,
    /// The executable mappings for which the breakpoints were last looked at.
    watched: Vec<Mapping>,
    pub(crate) sequences: Sequences,
    /// The executable mappings for which the probes were last located.
    pub(crate) located: Vec<Mapping>,
    /// Instructions of the target that can be borrowed.
    pub(crate) loans: Mutex<Loans>,
    /// The same, for atomic accesses.
    pub(crate) catalogue: Mutex<Catalogue>,
    /// Which memory others may map, too.
    pub(crate) sharing: Mutex<Sharing>,
    /// The thread by which it was opened, which may be gone.
    tid: i32,
    failures: Arc<SharedFailures>,
    /// The file of the mapping in which a breakpoint was last placed on a page that has been written to.
    text: Option<(Mapping, Option<File>)>,
    pub(crate) keys: Mutex<Keys>,
    transit: Transit,
}

/// Threads that run in a circle, on a borrowed instruction, until another tracer stops them.
#[derive(Debug, Default)]
struct Transit {
    number: AtomicU32,
    /// Where.
    circle: AtomicU64,
}

/// An address space that several tracers serve.
///
/// It is not to be locked while another thread of the target is waited for: that may be another tracer's, which may
/// want it.
#[derive(Debug)]
pub(crate) struct SharedSpace(RwLock<Space>);

impl SharedSpace {
    pub(crate) fn new(space: Space) -> SharedSpace {
        SharedSpace(RwLock::new(space))
    }

    /// To look something up.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Space> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change what is known of its breakpoints.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Space> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The instruction behind the breakpoint at `site`, as it is now; `None` where there is no breakpoint any more.
    /// Those that are given up are added to `lost`.
    pub(crate) fn displaced_now(&self, site: u64, lost: &mut Vec<u64>) -> Option<Displaced> {
        if let Some(displaced) =
            self.read().breakpoint(site).filter(|here| !here.changing).map(|here| here.displaced)
        {
            return Some(displaced);
        }
        self.write().displaced_now(site, lost)
    }
}

impl Transit {
    /// Whether threads execute the instruction of which `address` is a part.
    fn passes(&self, address: u64) -> bool {
        let circle = self.circle.load(Ordering::SeqCst);
        self.number.load(Ordering::SeqCst) > 0
            && (circle..circle.saturating_add(LONGEST as u64)).contains(&address)
    }
}

impl Space {
    /// A thread is about to run in a circle at `address`: until that is over, no breakpoint is placed there.
    pub(crate) fn begin_transit(&self, address: u64) {
        self.transit.circle.store(address, Ordering::SeqCst);
        self.transit.number.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end_transit(&self) {
        self.transit.number.fetch_sub(1, Ordering::SeqCst);
    }

    /// The address space of thread `tid`.
    ///
    /// What is refused later is noted with `failures`.
    pub(crate) fn open(tid: i32, failures: &Arc<SharedFailures>) -> io::Result<Space> {
        let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{tid}/mem"))?;
        Ok(Space {
            memory,
            pages: Pages::open(tid),
            breakpoints: BTreeMap::new(),
            removed: BTreeMap::new(),
            former: BTreeMap::new(),
            watched: Vec::new(),
            sequences: Sequences::default(),
            located: Vec::new(),
            loans: Mutex::default(),
            catalogue: Mutex::default(),
            sharing: Mutex::new(Sharing::open(tid)),
            tid,
            failures: Arc::clone(failures),
            text: None,
            keys: Mutex::new(Keys::new()),
            transit: Transit::default(),
        })
    }

    /// The address space that a forked thread `tid` got as a copy of this one, breakpoints included.
    pub(crate) fn copy_for(&self, tid: i32) -> io::Result<Space> {
        Ok(Space {
            breakpoints: self.breakpoints.clone(),
            removed: self.removed.clone(),
            former: self.former.clone(),
            watched: self.watched.clone(),
            sequences: self.sequences.clone(),
            located: self.located.clone(),
            ..Space::open(tid, &self.failures)?
        })
    }

    /// Makes the bytes of a copied address space agree with its breakpoints: one may have been placed or
    /// removed while the fork copied.
    pub(crate) fn settle(&mut self) {
        let missing =
            |&(&address, breakpoint): &(&u64, &Breakpoint)| self.byte(address) == Some(breakpoint.original);
        let missing: Vec<u64> =
            self.breakpoints.iter().filter(missing).map(|(&address, _)| address).collect();
        for address in missing {
            self.put(address, INT3);
        }
        self.restore_removed();
    }

    fn restore_removed(&mut self) {
        let kept = self.removed.iter().filter(|&(&address, _)| self.byte(address) == Some(INT3));
        let kept: Vec<(u64, u8)> = kept.map(|(&address, removed)| (address, removed.original)).collect();
        for (address, original) in kept {
            self.put(address, original);
        }
    }

    /// Changes one byte, and says whether it is changed. A failure is told, unless the mapping, or the process,
    /// has just gone.
    fn put(&self, address: u64, byte: u8) -> bool {
        let Err(error) = self.memory.write_all_at(&[byte], address) else { return true };
        if self.byte(address).is_some() {
            self.failures.note::<()>(self.tid, "writing to /proc/PID/mem", Err(errno(&error)));
        }
        false
    }

    pub(crate) fn breakpoint(&self, address: u64) -> Option<&Breakpoint> {
        self.breakpoints.get(&address)
    }

    /// The breakpoints within `range`, in address order.
    pub(crate) fn within(
        &self,
        range: std::ops::Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &Breakpoint)> {
        // An empty or reversed range must not reach BTreeMap::range, which panics on the latter.
        let range = if range.start < range.end { range } else { 0..0 };
        self.breakpoints.range(range).map(|(&address, breakpoint)| (address, breakpoint))
    }

    /// Whether a trap at `address` is that of a breakpoint that has been removed since.
    pub(crate) fn was_removed(&self, address: u64) -> bool {
        self.removed.contains_key(&address) && self.byte(address).is_some_and(|byte| byte != INT3)
    }

    /// Whether nobody has this address space any more.
    pub(crate) fn is_dead(&self) -> bool {
        // Of one that lives, what is not mapped is an error (`mem_rw`, fs/proc/base.c).
        let anywhere = self.breakpoints.keys().next().copied().unwrap_or(0);
        matches!(self.memory.read_at(&mut [0], anywhere), Ok(0))
    }

    /// The byte that is really there, INT3 included.
    fn byte(&self, address: u64) -> Option<u8> {
        let mut byte = [0];
        self.memory.read_exact_at(&mut byte, address).ok().map(|()| byte[0])
    }

    /// Whether a page is there for `address`, so that looking at it changes nothing; false if that cannot be told.
    pub(crate) fn is_present(&self, address: u64) -> bool {
        self.pages.is_present(address)
    }

    /// Reads what is really there, INT3s included, whatever the protection; the length may fall short.
    pub(crate) fn read_raw(&self, address: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..)
            && !rest.is_empty()
        {
            match self.memory.read_at(rest, address.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Replaces the INT3s in `bytes`, which were read from `address` on, by the bytes they displaced.
    pub(crate) fn unmask(&self, address: u64, bytes: &mut [u8]) {
        let end = address.saturating_add(bytes.len() as u64);
        for (site, breakpoint) in self.within(address..end) {
            let offset = usize::try_from(site - address).unwrap_or(usize::MAX);
            if let Some(byte) = bytes.get_mut(offset)
                && *byte == INT3
            {
                *byte = breakpoint.original;
            }
        }
    }

    /// What is at `address` without breakpoints, as long as an instruction can be, and how much that is.
    pub(crate) fn code_at(&self, address: u64) -> io::Result<([u8; LONGEST], usize)> {
        let mut buffer = [0; LONGEST];
        let length = self.read_raw(address, &mut buffer)?;
        self.unmask(address, buffer.get_mut(..length).unwrap_or_default());
        Ok((buffer, length))
    }

    /// Decodes the instruction at `address`, seeing through breakpoints.
    fn decode(&self, address: u64) -> Result<(Displaced, u8), Unplaceable> {
        let (buffer, length) = self.code_at(address).map_err(Unplaceable::Memory)?;
        decode(buffer.get(..length).unwrap_or_default(), address)
    }

    /// Puts a breakpoint at `address` for `probe`, or for the engine itself where that is `None`.
    ///
    /// One byte is written, and no thread is stopped for it.
    pub(crate) fn place(
        &mut self,
        address: u64,
        maps: &Maps,
        probe: Option<usize>,
    ) -> Result<(), Unplaceable> {
        let mapping = maps::find(maps, address).ok_or(Unplaceable::Unmapped)?;
        if !mapping.is_executable() {
            return Err(Unplaceable::NotExecutable);
        }
        if mapping.perms.contains(Permissions::SHARED) {
            return Err(Unplaceable::Shared);
        }
        if !self.breakpoints.contains_key(&address) {
            if self.transit.passes(address) {
                return Err(Unplaceable::Memory(io::ErrorKind::ResourceBusy.into()));
            }
            let (displaced, original) = self.decode(address)?;
            self.sequences.look_at(maps, mapping);
            if self.sequences.meet(address, displaced.length()) {
                return Err(Unplaceable::Sequence);
            }
            let changing = self.may_change(address, displaced.length(), maps, mapping);
            if self.watched.is_empty() {
                self.watched = executable(maps);
            }
            self.memory.write_all_at(&[INT3], address).map_err(Unplaceable::Memory)?;
            self.removed.remove(&address);
            let breakpoint = Breakpoint {
                displaced,
                original,
                ambiguous: is_ambiguous(&displaced, original),
                changing,
                in_copy: false,
                hits: Hits::default(),
                probes: Vec::new(),
                internal: false,
                identity: identity(mapping, address),
            };
            self.breakpoints.insert(address, breakpoint);
        }
        if let Some(breakpoint) = self.breakpoints.get_mut(&address) {
            match probe {
                Some(probe) if !breakpoint.probes.contains(&probe) => breakpoint.probes.push(probe),
                Some(_) => {}
                None => breakpoint.internal = true,
            }
        }
        Ok(())
    }

    /// Takes `probe` off `address`, and the breakpoint with it if nobody else needs that.
    /// Returns whether the program had overwritten the breakpoint.
    pub(crate) fn withdraw(&mut self, address: u64, probe: usize) -> bool {
        let Some(breakpoint) = self.breakpoints.get_mut(&address) else { return false };
        breakpoint.probes.retain(|&other| other != probe);
        if breakpoint.probes.is_empty() && !breakpoint.internal { self.lift(address) } else { false }
    }

    /// Takes every probe off. Returns the addresses at which the program had overwritten the breakpoint.
    pub(crate) fn clear(&mut self) -> Vec<u64> {
        let addresses: Vec<u64> = self.breakpoints.keys().copied().collect();
        let overwritten = addresses.into_iter().filter(|&address| self.lift(address)).collect();
        // A fork that was copying while a breakpoint was removed may have kept it.
        self.restore_removed();
        overwritten
    }

    /// Writes the original byte back. Returns whether the program had overwritten the breakpoint.
    fn lift(&mut self, address: u64) -> bool {
        let Some(breakpoint) = self.breakpoints.remove(&address) else { return false };
        let original = breakpoint.original;
        self.removed.insert(address, Removed::of(&breakpoint));
        match self.byte(address) {
            Some(INT3) => {
                self.put(address, original);
                false
            }
            Some(_) => true,
            None => false,
        }
    }

    /// Puts the displaced byte back for a moment, until [`Space::cover`]; says whether it is there.
    pub(crate) fn uncover(&self, address: u64) -> bool {
        let original = self.breakpoints.get(&address).map(|breakpoint| breakpoint.original);
        original.is_none_or(|original| self.put(address, original))
    }

    /// Puts the breakpoint at `address` back after [`Space::uncover`].
    pub(crate) fn cover(&self, address: u64) {
        if self.breakpoints.contains_key(&address) {
            self.put(address, INT3);
        }
    }

    /// Takes the breakpoint at `address` away, whoever needs it, and says whether there is, or was, one of
    /// ours and is none now.
    pub(crate) fn give_up(&mut self, address: u64) -> bool {
        self.lift(address);
        self.was_removed(address)
    }

    /// Writes what the thread's own instructions could not, such as a signal frame that the kernel made.
    pub(crate) fn write_raw(&self, address: u64, bytes: &[u8]) -> io::Result<()> {
        self.memory.write_all_at(bytes, address)
    }

    /// Brings the breakpoints up to date with code that is about to change, and returns in `bytes` what
    /// must be stored for `[address, address + bytes.len())` so that they stay.
    pub(crate) fn mask_store(&self, address: u64, bytes: &mut [u8]) {
        let end = address.saturating_add(bytes.len() as u64);
        for (site, _) in self.within(address..end) {
            if let Some(byte) = usize::try_from(site - address).ok().and_then(|offset| bytes.get_mut(offset))
            {
                *byte = INT3;
            }
        }
    }

    /// Whether a store of `length` bytes at `address` changes a displaced instruction.
    pub(crate) fn store_meets_breakpoint(&self, address: u64, length: usize) -> bool {
        let start = address.saturating_sub(LONGEST as u64 - 1);
        self.within(start..address.saturating_add(length as u64))
            .any(|(site, breakpoint)| site.saturating_add(breakpoint.displaced.length() as u64) > address)
    }

    /// Decodes anew the displaced instructions that a store of `bytes` at `address`, already made, has
    /// changed. A breakpoint whose new instruction is refused is removed; the addresses of these are added
    /// to `lost`.
    pub(crate) fn after_store(&mut self, address: u64, bytes: &[u8], lost: &mut Vec<u64>) {
        let start = address.saturating_sub(LONGEST as u64 - 1);
        let end = address.saturating_add(bytes.len() as u64);
        let sites: Vec<u64> = self.within(start..end).map(|(site, _)| site).collect();
        for &site in &sites {
            let new = site.checked_sub(address).and_then(|offset| bytes.get(usize::try_from(offset).ok()?));
            if let (Some(&new), Some(breakpoint)) = (new, self.breakpoints.get_mut(&site)) {
                breakpoint.original = new;
            }
        }
        for site in sites {
            self.reread(site, lost);
        }
    }
}

/// Decodes an instruction; also returns its first byte.
fn decode(bytes: &[u8], address: u64) -> Result<(Displaced, u8), Unplaceable> {
    let displaced = code::decode(bytes, address).map_err(|why| {
        let length = why.code().map_or(bytes.len(), |_| code::length(bytes));
        Unplaceable::Instruction { why, bytes: bytes.get(..length).unwrap_or(bytes).to_vec() }
    })?;
    let original = bytes.first().copied().unwrap_or(INT3);
    Ok((displaced, original))
}

/// Whether an instruction may begin behind the first byte of that one.
fn is_ambiguous(displaced: &Displaced, original: u8) -> bool {
    displaced.length() == 1 || is_legacy_prefix(original)
}

/// Programs jump behind such a prefix on purpose, as glibc does to leave out LOCK.
fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    const NOP: u8 = 0x90;

    /// Some NOPs of our own, to be taken for code.
    fn nops() -> Vec<AtomicU8> {
        (0..64).map(|_| AtomicU8::new(NOP)).collect()
    }

    fn mapping(start: u64, inode: u64) -> Mapping {
        let perms = Permissions::READ | Permissions::EXECUTE;
        Mapping { start, end: start + 0x1000, perms, offset: 0, dev: (0, 0), inode, path: None }
    }

    fn maps(start: u64, inode: u64) -> Maps {
        Maps::new(i32::try_from(std::process::id()).unwrap(), vec![mapping(start, inode)])
    }

    fn own_space() -> Space {
        Space::open(i32::try_from(std::process::id()).unwrap(), &Arc::default()).unwrap()
    }

    #[test]
    fn a_breakpoint_outlives_the_splitting_of_its_anonymous_mapping() {
        let (code, mut space) = (nops(), own_space());
        let start = code.as_ptr() as u64;
        let site = start + 32;
        space.place(site, &maps(start, 0), Some(0)).unwrap();
        assert_eq!(code[32].load(Ordering::Relaxed), INT3);
        space.forget_unmapped(&[mapping(start + 16, 0)]);
        assert!(!space.withdraw(site, 0));
        assert_eq!(code[32].load(Ordering::Relaxed), NOP);
    }

    #[test]
    fn what_was_removed_is_forgotten_with_its_mapping() {
        let (code, mut space) = (nops(), own_space());
        let start = code.as_ptr() as u64;
        space.place(start, &maps(start, 1), Some(0)).unwrap();
        space.withdraw(start, 0);
        // Another file, which has an INT3 of its own there.
        code[0].store(INT3, Ordering::Relaxed);
        space.forget_unmapped(&[mapping(start, 2)]);
        space.clear();
        assert_eq!(code[0].load(Ordering::Relaxed), INT3);
    }
}
