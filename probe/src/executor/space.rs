//! One address space and the breakpoints in it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use emu::Displaced;

use crate::executor::hardware::{Hardware, HardwareRefusal};
use crate::executor::own::needed::OwnRefusal;
use crate::executor::ptrace::borrow::Loans;
use crate::executor::ptrace::locked::Catalogue;
use crate::executor::rseq::Sequences;
use crate::symbols::code::Unprobeable;
use crate::target::failure::{SharedFailures, errno};
use crate::target::keys::Keys;
use crate::target::maps::{self, Mapping, Maps, Permissions};
use crate::target::pages::{PAGE, Pages};
use crate::target::sharing::Sharing;

mod breakpoint;
mod copies;
mod counters;
mod hardware;
mod intact;
mod window;

use breakpoint::Removed;
pub(crate) use breakpoint::{Breakpoint, Origin, Original, Purpose};
pub(crate) use copies::Copied;
pub(crate) use hardware::Wanted;
pub(crate) use intact::Missing;
use intact::executable;
pub(crate) use intact::is_steady;
use window::Window;

pub(crate) use crate::target::INT3;

/// The longest instruction, in bytes.
pub(crate) const LONGEST: usize = 15;

/// A file: its device, and its inode number there.
pub(crate) type FileNumber = ((u32, u32), u64);

/// So many breakpoints are placed or removed before others who want the address space get it.
pub(crate) const AT_A_TIME: usize = 128;

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
    /// Somebody else has a breakpoint there, and is asked before us: the kernel for a uprobe of tracefs, perf or bpftrace,
    /// another debugger; or one was left behind.
    Occupied,
    /// The program could not be told that somebody wants to know of the site: the counter by which it is told is not in
    /// memory that the program has for itself and can write to.
    Counter {
        /// The address of the counter.
        address: u64,
    },
    /// The instruction is one that cannot be probed.
    Instruction {
        /// Why.
        why: Unprobeable,
        /// The instruction's bytes, as far as they could be read.
        bytes: Vec<u8>,
    },
    /// The target's memory cannot be accessed.
    Memory(io::Error),
    /// There is no hardware breakpoint for it.
    Hardware(HardwareRefusal),
    /// A process that probes itself cannot probe this.
    Own(OwnRefusal),
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
            Unplaceable::Occupied => "another breakpoint",
            Unplaceable::Counter { .. } => "semaphore not writable",
            Unplaceable::Instruction { why, .. } => why.reason(),
            Unplaceable::Memory(_) => "memory not accessible",
            Unplaceable::Hardware(refusal) => refusal.reason(),
            Unplaceable::Own(refusal) => refusal.reason(),
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
            Unplaceable::Occupied => f.write_str(
                "somebody else has a breakpoint there (INT3, which its file has not): the kernel's uprobes (tracefs, perf, \
                 bpftrace), another debugger, or one that was killed; end that, or restart the target",
            ),
            Unplaceable::Counter { address } => write!(
                f,
                "its semaphore at {address:#x}, by which the program learns that it is probed, is not in private \
                 memory that can be written to"
            ),
            Unplaceable::Instruction { why, bytes } => {
                write!(f, "{why} (bytes")?;
                bytes.iter().try_for_each(|byte| write!(f, " {byte:02x}"))?;
                f.write_str(")")
            }
            Unplaceable::Memory(error) => write!(f, "the target's memory cannot be accessed: {error}"),
            Unplaceable::Hardware(refusal) => refusal.fmt(f),
            Unplaceable::Own(refusal) => refusal.fmt(f),
        }
    }
}

impl std::error::Error for Unplaceable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Unplaceable::Instruction { why, .. } => Some(why),
            Unplaceable::Memory(error) => Some(error),
            Unplaceable::Hardware(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// A mapping in which breakpoints are placed.
struct Ground<'a> {
    mapping: &'a Mapping,
    origin: Arc<Origin>,
    /// Whether nobody can write to it without our knowing.
    steady: bool,
}

/// An address space that the session traces.
#[derive(Debug)]
pub(crate) struct Space {
    /// `/proc/PID/mem`. Unlike process_vm_writev it writes text, and it goes on working when the thread by
    /// which it was opened exits.
    memory: File,
    pages: Pages,
    /// Boxed, for half of a node in a tree that was filled in order is empty.
    breakpoints: BTreeMap<u64, Box<Breakpoint>>,
    /// Those of the hardware, of which no byte of text tells.
    by_hardware: BTreeMap<u64, Breakpoint>,
    /// By which threads stop at them.
    pub(crate) hardware: Arc<Hardware>,
    /// Where breakpoints have been, and the byte that belongs there: a thread may have trapped on one
    /// before it was removed.
    removed: BTreeMap<u64, Removed>,
    /// The same of mappings that are gone or are another's now, whose text may have been copied before.
    former: BTreeMap<u64, Removed>,
    /// What those are in, each once.
    origins: HashSet<Arc<Origin>>,
    /// The counters to which one was added, by address, and those from which it was taken away again.
    counters: BTreeMap<u64, counters::Held>,
    lowered: BTreeMap<u64, counters::Held>,
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
    /// How often a breakpoint has come or gone, or what is behind one has changed.
    version: AtomicU64,
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
        let space = self.read();
        let steady = space.site(site).filter(|here| !here.changing).and_then(|here| here.displaced(site));
        if steady.is_some() {
            return steady.copied();
        }
        drop(space);
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
            by_hardware: BTreeMap::new(),
            hardware: Arc::default(),
            removed: BTreeMap::new(),
            former: BTreeMap::new(),
            origins: HashSet::new(),
            counters: BTreeMap::new(),
            lowered: BTreeMap::new(),
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
            version: AtomicU64::new(0),
        })
    }

    /// The address space that a forked thread `tid` got as a copy of this one, breakpoints included.
    pub(crate) fn copy_for(&self, tid: i32) -> io::Result<Space> {
        let mut copy = Space {
            breakpoints: self.breakpoints.clone(),
            by_hardware: self.by_hardware.clone(),
            hardware: Arc::new(self.hardware.copy()),
            removed: self.removed.clone(),
            former: self.former.clone(),
            origins: self.origins.clone(),
            watched: self.watched.clone(),
            sequences: self.sequences.clone(),
            located: self.located.clone(),
            ..Space::open(tid, &self.failures)?
        };
        copy.inherit_counters(self);
        Ok(copy)
    }

    /// Makes the bytes of a copied address space agree with its breakpoints: one may have been placed or
    /// removed while the fork copied.
    pub(crate) fn settle(&mut self) {
        let mut window = Window::new();
        let missing = self.breakpoints.iter().filter(|&(&address, breakpoint)| {
            self.shown(address, breakpoint.changing, &mut window) == Some(breakpoint.original().first())
        });
        let missing: Vec<u64> = missing.map(|(&address, _)| address).collect();
        for address in missing {
            self.put(address, INT3);
        }
        self.restore_removed();
        self.let_down_unwanted();
    }

    fn restore_removed(&self) {
        let mut window = Window::new();
        for (&address, removed) in &self.removed {
            if self.shown(address, removed.changing, &mut window) == Some(INT3) {
                self.put(address, removed.original);
            }
        }
    }

    /// The byte that is really there, from `window` unless the program may be changing it.
    fn shown(&self, address: u64, changing: bool, window: &mut Window) -> Option<u8> {
        if changing { self.byte(address) } else { window.byte(self, address) }
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

    /// As long as it stays, breakpoints are where they were.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// A breakpoint has come or gone.
    fn note_change(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn breakpoint(&self, address: u64) -> Option<&Breakpoint> {
        self.breakpoints.get(&address).map(Box::as_ref)
    }

    /// The breakpoints within `range`, in address order.
    pub(crate) fn within(
        &self,
        range: std::ops::Range<u64>,
    ) -> impl DoubleEndedIterator<Item = (u64, &Breakpoint)> {
        // An empty or reversed range must not reach BTreeMap::range, which panics on the latter.
        let range = if range.start < range.end { range } else { 0..0 };
        self.breakpoints.range(range).map(|(&address, breakpoint)| (address, breakpoint.as_ref()))
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
                *byte = breakpoint.original().first();
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
    fn decode(&self, address: u64) -> Result<(Original, Displaced), Unplaceable> {
        let (buffer, length) = self.code_at(address).map_err(Unplaceable::Memory)?;
        Original::decode(buffer.get(..length).unwrap_or_default(), address)
    }

    /// What `mapping` maps, as others know it.
    fn origin(&mut self, mapping: &Mapping) -> Arc<Origin> {
        let origin = Origin::of(mapping);
        if let Some(known) = self.origins.get(&origin) {
            return Arc::clone(known);
        }
        let origin = Arc::new(origin);
        self.origins.insert(Arc::clone(&origin));
        origin
    }

    /// The mapping of `address`, if breakpoints can be placed in it.
    fn ground<'a>(&mut self, address: u64, maps: &'a Maps) -> Result<Ground<'a>, Unplaceable> {
        let ground = self.executable_ground(address, maps)?;
        if ground.mapping.perms.contains(Permissions::SHARED) {
            return Err(Unplaceable::Shared);
        }
        Ok(ground)
    }

    /// The mapping of `address`, if code runs in it.
    fn executable_ground<'a>(&mut self, address: u64, maps: &'a Maps) -> Result<Ground<'a>, Unplaceable> {
        let mapping = maps::find(maps, address).ok_or(Unplaceable::Unmapped)?;
        if !mapping.is_executable() {
            return Err(Unplaceable::NotExecutable);
        }
        self.sequences.look_at(maps, mapping);
        if self.watched.is_empty() {
            self.watched = executable(maps);
        }
        Ok(Ground { mapping, origin: self.origin(mapping), steady: intact::is_steady(mapping) })
    }

    /// Puts a breakpoint at `address` for `probe`, or for the engine itself where that is `None`.
    ///
    /// One byte is written, and no thread is stopped for it.
    pub(crate) fn place(
        &mut self,
        address: u64,
        maps: &Maps,
        probe: Option<Purpose>,
    ) -> Result<(), Unplaceable> {
        let ground = self.ground(address, maps)?;
        self.place_on(&ground, address, maps, probe, &mut Window::new())
    }

    /// The same for `probe` at each of `addresses`, but for those where it is: returns what has become of the others.
    pub(crate) fn place_all(
        &mut self,
        addresses: &[u64],
        maps: &Maps,
        probe: Purpose,
    ) -> Vec<(u64, Result<(), Unplaceable>)> {
        let mut window = Window::new();
        let mut ground: Option<Ground<'_>> = None;
        let mut placed = Vec::new();
        for &address in addresses {
            if self.breakpoint(address).is_some_and(|breakpoint| breakpoint.probes.contains(&probe)) {
                continue;
            }
            let here = match ground.take().filter(|ground| ground.mapping.contains(address)) {
                Some(here) => Ok(here),
                None => self.ground(address, maps),
            };
            placed.push((
                address,
                here.and_then(|here| {
                    let here = ground.insert(here);
                    self.place_on(here, address, maps, Some(probe), &mut window)
                }),
            ));
        }
        placed
    }

    fn place_on(
        &mut self,
        ground: &Ground<'_>,
        address: u64,
        maps: &Maps,
        probe: Option<Purpose>,
        window: &mut Window,
    ) -> Result<(), Unplaceable> {
        if !self.breakpoints.contains_key(&address) {
            if self.transit.passes(address) {
                return Err(Unplaceable::Memory(io::ErrorKind::ResourceBusy.into()));
            }
            let read = if ground.steady { window.code_at(self, address) } else { self.code_at(address) };
            let (buffer, length) = read.map_err(Unplaceable::Memory)?;
            if buffer.first() == Some(&INT3) && self.is_anothers(address, maps, ground.mapping) {
                return Err(Unplaceable::Occupied);
            }
            let (original, _) = Original::decode(buffer.get(..length).unwrap_or_default(), address)?;
            if self.sequences.meet(address, original.length()) {
                return Err(Unplaceable::Sequence);
            }
            let changing = self.may_change(address, original.length(), maps, ground.mapping);
            self.memory.write_all_at(&[INT3], address).map_err(Unplaceable::Memory)?;
            self.removed.remove(&address);
            let breakpoint = Breakpoint::new(original, changing, Arc::clone(&ground.origin));
            self.breakpoints.insert(address, Box::new(breakpoint));
            self.note_change();
        }
        if let Some(breakpoint) = self.breakpoints.get_mut(&address) {
            match probe {
                Some(probe) => breakpoint.probes.add(probe),
                None => breakpoint.internal = true,
            }
        }
        Ok(())
    }

    /// Takes `probe` off each of `addresses`, and the breakpoints with it that nobody else needs.
    /// Returns those that the program had overwritten.
    pub(crate) fn withdraw(&mut self, addresses: &[u64], probe: Purpose) -> Vec<u64> {
        let mut window = Window::new();
        let mut overwritten = Vec::new();
        for &address in addresses {
            self.withdraw_watch(address, probe);
            let here = self.breakpoints.get_mut(&address);
            let Some(breakpoint) = here.filter(|here| here.probes.contains(&probe)) else { continue };
            breakpoint.probes.remove(probe);
            if breakpoint.probes.is_empty() && !breakpoint.internal && self.lift_by(address, &mut window) {
                overwritten.push(address);
            }
        }
        overwritten
    }

    /// The addresses of the breakpoints that `probe` wants.
    pub(crate) fn sites_of(&self, probe: Purpose) -> Vec<u64> {
        let wanted = self.breakpoints.iter().filter(|(_, breakpoint)| breakpoint.probes.contains(&probe));
        wanted.map(|(&address, _)| address).collect()
    }

    /// Takes the breakpoint at `address` away, for which a thread has just stopped, whoever wants it. Returns its file and
    /// its offset there; `None` where it could not be, or has no file, and is as it was.
    pub(crate) fn lift_hit(&mut self, address: u64) -> Option<(FileNumber, u64)> {
        let breakpoint = self.breakpoints.get(&address)?;
        let offset = breakpoint.origin.file_offset(address)?;
        let file = (breakpoint.origin.dev, breakpoint.origin.inode);
        let removed = Removed::of(breakpoint);
        // Another may have been written there where the program can do that, since the thread has executed this one.
        if !removed.changing || self.byte(address) == Some(INT3) {
            self.memory.write_all_at(&[removed.original], address).ok()?;
        }
        self.breakpoints.remove(&address);
        self.note_change();
        self.removed.insert(address, removed);
        Some((file, offset))
    }

    /// Takes every probe off, and from every counter what was added for one. Returns the addresses at which the program had overwritten the breakpoint.
    pub(crate) fn clear(&mut self) -> Vec<u64> {
        self.unwatch_all();
        self.hardware.remove_data();
        self.let_all_down();
        let mut window = Window::new();
        let addresses: Vec<u64> = self.breakpoints.keys().copied().collect();
        let lifted = addresses.into_iter().filter(|&address| self.lift_by(address, &mut window));
        let overwritten = lifted.collect();
        // A fork that was copying while a breakpoint was removed may have kept it.
        self.restore_removed();
        overwritten
    }

    /// Takes most breakpoints out of an address space in which no thread runs, a page at a time, whoever wants them.
    pub(crate) fn clear_still(&mut self) {
        /// From so many on in a page.
        const SOME: usize = 4;
        let mut bytes = [0; PAGE as usize];
        let sites: Vec<u64> = self.breakpoints.keys().copied().collect();
        for sites in sites.chunk_by(|one, next| one / PAGE == next / PAGE).filter(|sites| sites.len() >= SOME)
        {
            let (Some(&first), Some(&last)) = (sites.first(), sites.last()) else { continue };
            let length = usize::try_from(last - first).map_or(0, |distance| distance + 1);
            let Some(bytes) = bytes.get_mut(..length) else { continue };
            if !self.read_raw(first, bytes).is_ok_and(|read| read == length) {
                continue;
            }
            self.unmask(first, bytes);
            if self.memory.write_all_at(bytes, first).is_err() {
                continue;
            }
            for site in sites {
                let removed = self.breakpoints.remove(site).map(|breakpoint| Removed::of(&breakpoint));
                self.removed.extend(removed.map(|removed| (*site, removed)));
            }
        }
    }

    /// Writes the original byte back. Returns whether the program had overwritten the breakpoint.
    fn lift(&mut self, address: u64) -> bool {
        self.lift_by(address, &mut Window::new())
    }

    fn lift_by(&mut self, address: u64, window: &mut Window) -> bool {
        let Some(breakpoint) = self.breakpoints.remove(&address) else { return false };
        self.note_change();
        let removed = Removed::of(&breakpoint);
        let (original, changing) = (removed.original, removed.changing);
        self.removed.insert(address, removed);
        match self.shown(address, changing, window) {
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
        let original = self.breakpoints.get(&address).map(|breakpoint| breakpoint.original().first());
        original.is_none_or(|original| self.put(address, original))
    }

    /// Puts the breakpoint at `address` back after [`Space::uncover`].
    pub(crate) fn cover(&self, address: u64) {
        if self.breakpoints.contains_key(&address) {
            self.put(address, INT3);
        }
    }

    /// Takes the breakpoint at `address` away, whoever needs it, and says whether nothing stops a thread there any more:
    /// another may have done so before.
    pub(crate) fn give_up(&mut self, address: u64) -> bool {
        self.unwatch(address);
        self.lift(address);
        self.byte(address).is_some_and(|byte| byte != INT3)
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
            .any(|(site, breakpoint)| site.saturating_add(breakpoint.original().length() as u64) > address)
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
                breakpoint.begin_with(new);
            }
        }
        for site in sites {
            self.reread(site, lost);
        }
    }
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
        space.place(site, &maps(start, 0), Some(Purpose::site(0))).unwrap();
        assert_eq!(code[32].load(Ordering::Relaxed), INT3);
        space.forget_unmapped(&[mapping(start + 16, 0)]);
        assert!(space.withdraw(&[site], Purpose::site(0)).is_empty());
        assert_eq!(code[32].load(Ordering::Relaxed), NOP);
    }

    #[test]
    fn several_threads_can_give_up_a_breakpoint() {
        let (code, mut space) = (nops(), own_space());
        let start = code.as_ptr() as u64;
        let nobody = Vec::new;
        space.watch(start, &maps(start, 1), Wanted::Internal, &nobody).unwrap();
        space.place(start + 1, &maps(start, 1), Some(Purpose::site(0))).unwrap();
        for site in [start, start + 1] {
            assert!(space.give_up(site) && space.give_up(site), "{site:#x}");
            assert!(space.site(site).is_none());
        }
        // One of the program's own stops whoever comes.
        code[2].store(INT3, Ordering::Relaxed);
        assert!(!space.give_up(start + 2));
    }

    #[test]
    fn what_was_removed_is_forgotten_with_its_mapping() {
        let (code, mut space) = (nops(), own_space());
        let start = code.as_ptr() as u64;
        space.place(start, &maps(start, 1), Some(Purpose::site(0))).unwrap();
        space.withdraw(&[start], Purpose::site(0));
        // Another file, which has an INT3 of its own there.
        code[0].store(INT3, Ordering::Relaxed);
        space.forget_unmapped(&[mapping(start, 2)]);
        space.clear();
        assert_eq!(code[0].load(Ordering::Relaxed), INT3);
    }
}
