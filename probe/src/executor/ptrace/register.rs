//! Which threads are traced, by any tracer of the session.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

use crate::executor::hardware::{Hardware, Unwatched};
use crate::executor::ptrace::crew::TracerId;
use crate::executor::ptrace::threads::SpaceId;
use crate::target::lock;
use crate::target::untold::Untold;

/// All threads that the tracers of a session trace, and those on their way from one to another.
///
/// Who is booked in an address space is armed with the hardware breakpoints of that, and whose entry goes loses them.
#[derive(Debug, Default)]
pub(crate) struct Register {
    entries: Mutex<Entries>,
    /// How many threads there are, for who has nothing else to ask.
    number: AtomicUsize,
    /// Whether there have been hardware breakpoints, whose signals may be on their way.
    uses_hardware: AtomicBool,
    /// Threads that could not be armed, which has not been told yet.
    pub(crate) unwatched: Untold<Unwatched>,
}

#[derive(Debug, Default)]
struct Entries {
    by_tid: FxHashMap<i32, Entry>,
    /// How many threads run in each address space.
    populations: FxHashMap<SpaceId, usize>,
    hardware: FxHashMap<SpaceId, Arc<Hardware>>,
}

/// What every tracer may know of a thread.
#[derive(Clone, Copy, Debug)]
struct Entry {
    pid: i32,
    space: SpaceId,
    guest: bool,
    /// Who traces it, or did last.
    tracer: TracerId,
}

/// What a thread is to be freed of, and armed with.
struct Move {
    left: Option<Arc<Hardware>>,
    joined: Option<Arc<Hardware>>,
}

impl Entries {
    fn insert(&mut self, tid: i32, entry: Entry) -> Move {
        let left = self.remove(tid);
        self.by_tid.insert(tid, entry);
        *self.populations.entry(entry.space).or_default() += 1;
        Move { left, joined: self.hardware.get(&entry.space).cloned() }
    }

    /// Returns what the thread is to be freed of.
    fn remove(&mut self, tid: i32) -> Option<Arc<Hardware>> {
        let entry = self.by_tid.remove(&tid)?;
        if let Some(population) = self.populations.get_mut(&entry.space) {
            *population -= 1;
            if *population == 0 {
                self.populations.remove(&entry.space);
            }
        }
        self.hardware.get(&entry.space).cloned()
    }
}

impl Register {
    /// Takes up an address space.
    pub(crate) fn add_space(&self, space: SpaceId, hardware: Arc<Hardware>) {
        lock(&self.entries).hardware.insert(space, hardware);
    }

    /// Forgets an address space.
    pub(crate) fn remove_space(&self, space: SpaceId) {
        lock(&self.entries).hardware.remove(&space);
    }

    /// Forgets all address spaces.
    pub(crate) fn clear_spaces(&self) {
        lock(&self.entries).hardware.clear();
    }

    /// There are hardware breakpoints from now on.
    pub(crate) fn use_hardware(&self) {
        self.uses_hardware.store(true, Ordering::SeqCst);
    }

    /// Whether there are, or have been, hardware breakpoints.
    pub(crate) fn uses_hardware(&self) -> bool {
        self.uses_hardware.load(Ordering::SeqCst)
    }

    fn count(&self, entries: &Entries) {
        self.number.store(entries.by_tid.len(), Ordering::SeqCst);
    }

    /// Whether there are several threads, in whichever address spaces.
    pub(crate) fn are_several(&self) -> bool {
        self.number.load(Ordering::SeqCst) > 1
    }

    /// Not with the entries locked, for it takes a while.
    fn settle(&self, tid: i32, Move { left, joined }: Move) {
        if let Some(left) = left {
            left.disarm(tid);
        }
        if let Some(joined) = joined {
            let unwatched = joined.arm(tid);
            self.unwatched.change(|all| all.extend(unwatched));
        }
    }

    /// Takes up a thread, of that tracer. One of that number that another has had is none any more.
    pub(crate) fn add(&self, tid: i32, pid: i32, space: SpaceId, tracer: TracerId) {
        let mut entries = lock(&self.entries);
        let moved = entries.insert(tid, Entry { pid, space, guest: false, tracer });
        self.count(&entries);
        drop(entries);
        self.settle(tid, moved);
    }

    /// Forgets a thread, if it is that tracer's: the number of one that is gone may be that of another's by now.
    pub(crate) fn remove(&self, tid: i32, tracer: TracerId) {
        let mut entries = lock(&self.entries);
        if entries.by_tid.get(&tid).is_some_and(|entry| entry.tracer == tracer) {
            let left = entries.remove(tid);
            self.count(&entries);
            drop(entries);
            self.settle(tid, Move { left, joined: None });
        }
    }

    /// Says who traces a thread now.
    pub(crate) fn set_tracer(&self, tid: i32, tracer: TracerId) {
        if let Some(entry) = lock(&self.entries).by_tid.get_mut(&tid) {
            entry.tracer = tracer;
        }
    }

    /// Of process `pid`, which executes another program, one thread is left, of that tracer and in no address space so
    /// far. Returns the address spaces in which threads of it have been.
    pub(crate) fn leave_one(&self, pid: i32, tracer: TracerId) -> Vec<SpaceId> {
        let mut entries = lock(&self.entries);
        let old = entries.by_tid.iter().filter(|(_, entry)| entry.pid == pid);
        let old: Vec<(i32, SpaceId)> = old.map(|(&tid, entry)| (tid, entry.space)).collect();
        // All at once, so that nobody finds that there are none.
        let left: Vec<_> = old.iter().map(|&(tid, _)| (tid, entries.remove(tid))).collect();
        let moved = entries.insert(pid, Entry { pid, space: SpaceId::MAX, guest: false, tracer });
        self.count(&entries);
        drop(entries);
        left.into_iter().for_each(|(tid, left)| self.settle(tid, Move { left, joined: None }));
        self.settle(pid, moved);
        old.into_iter().map(|(_, space)| space).collect()
    }

    /// Says in which address space a thread runs.
    pub(crate) fn set_space(&self, tid: i32, space: SpaceId) {
        let mut entries = lock(&self.entries);
        let Some(known) = entries.by_tid.get(&tid).copied().filter(|known| known.space != space) else {
            return;
        };
        let moved = entries.insert(tid, Entry { space, ..known });
        drop(entries);
        self.settle(tid, moved);
    }

    /// Says whether the process of `tid` shares the address space of another one, which had it first.
    pub(crate) fn set_guest(&self, tid: i32, guest: bool) {
        if let Some(entry) = lock(&self.entries).by_tid.get_mut(&tid) {
            entry.guest = guest;
        }
    }

    pub(crate) fn contains(&self, tid: i32) -> bool {
        lock(&self.entries).by_tid.contains_key(&tid)
    }

    /// Whether no thread is traced.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.entries).by_tid.is_empty()
    }

    /// The process of thread `tid`.
    pub(crate) fn process_of(&self, tid: i32) -> Option<i32> {
        lock(&self.entries).by_tid.get(&tid).map(|entry| entry.pid)
    }

    /// A process that runs in `space`.
    pub(crate) fn process_in(&self, space: SpaceId) -> Option<i32> {
        lock(&self.entries).by_tid.values().find(|entry| entry.space == space).map(|entry| entry.pid)
    }

    /// How many threads of process `pid` are traced.
    pub(crate) fn threads_of(&self, pid: i32) -> usize {
        lock(&self.entries).by_tid.values().filter(|entry| entry.pid == pid).count()
    }

    /// The processes that are traced, and the address space of each.
    pub(crate) fn processes(&self) -> Vec<(i32, SpaceId)> {
        lock(&self.entries).by_tid.values().map(|entry| (entry.pid, entry.space)).collect()
    }

    /// The threads that run in `space`, guests last: those may execute another program any time.
    pub(crate) fn in_space(&self, space: SpaceId) -> Vec<i32> {
        let entries = lock(&self.entries);
        let threads = entries.by_tid.iter().filter(|(_, entry)| entry.space == space);
        let mut threads: Vec<(bool, i32)> = threads.map(|(&tid, entry)| (entry.guest, tid)).collect();
        drop(entries);
        threads.sort_unstable();
        threads.into_iter().map(|(_, tid)| tid).collect()
    }

    /// Whether no thread runs in `space` any more.
    pub(crate) fn is_deserted(&self, space: SpaceId) -> bool {
        !lock(&self.entries).populations.contains_key(&space)
    }

    /// Whether threads other than `tid`, which is one of them, share `space`.
    pub(crate) fn has_others(&self, space: SpaceId, tid: i32) -> bool {
        if !self.are_several() {
            return false;
        }
        let entries = lock(&self.entries);
        let itself = entries.by_tid.get(&tid).is_some_and(|entry| entry.space == space);
        entries.populations.get(&space).is_some_and(|&population| population > usize::from(itself))
    }
}
