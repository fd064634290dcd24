//! Which threads are traced, by any tracer of the session.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::executor::ptrace::crew::TracerId;
use crate::executor::ptrace::threads::SpaceId;
use crate::target::lock;

/// All threads that the tracers of a session trace, and those on their way from one to another.
#[derive(Debug, Default)]
pub(crate) struct Register(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    by_tid: HashMap<i32, Entry>,
    /// How many threads run in each address space.
    populations: HashMap<SpaceId, usize>,
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

impl Entries {
    fn insert(&mut self, tid: i32, entry: Entry) {
        self.remove(tid);
        self.by_tid.insert(tid, entry);
        *self.populations.entry(entry.space).or_default() += 1;
    }

    fn remove(&mut self, tid: i32) {
        let Some(entry) = self.by_tid.remove(&tid) else { return };
        if let Some(population) = self.populations.get_mut(&entry.space) {
            *population -= 1;
            if *population == 0 {
                self.populations.remove(&entry.space);
            }
        }
    }
}

impl Register {
    /// Takes up a thread, of that tracer. One of that number that another has had is none any more.
    pub(crate) fn add(&self, tid: i32, pid: i32, space: SpaceId, tracer: TracerId) {
        lock(&self.0).insert(tid, Entry { pid, space, guest: false, tracer });
    }

    /// Forgets a thread, if it is that tracer's: the number of one that is gone may be that of another's by now.
    pub(crate) fn remove(&self, tid: i32, tracer: TracerId) {
        let mut entries = lock(&self.0);
        if entries.by_tid.get(&tid).is_some_and(|entry| entry.tracer == tracer) {
            entries.remove(tid);
        }
    }

    /// Says who traces a thread now.
    pub(crate) fn set_tracer(&self, tid: i32, tracer: TracerId) {
        if let Some(entry) = lock(&self.0).by_tid.get_mut(&tid) {
            entry.tracer = tracer;
        }
    }

    /// Of process `pid`, which executes another program, one thread is left, of that tracer and in no address space so
    /// far. Returns the address spaces in which threads of it have been.
    pub(crate) fn leave_one(&self, pid: i32, tracer: TracerId) -> Vec<SpaceId> {
        let mut entries = lock(&self.0);
        let old = entries.by_tid.iter().filter(|(_, entry)| entry.pid == pid);
        let old: Vec<(i32, SpaceId)> = old.map(|(&tid, entry)| (tid, entry.space)).collect();
        // All at once, so that nobody finds that there are none.
        old.iter().for_each(|&(tid, _)| entries.remove(tid));
        entries.insert(pid, Entry { pid, space: SpaceId::MAX, guest: false, tracer });
        old.into_iter().map(|(_, space)| space).collect()
    }

    /// Says in which address space a thread runs.
    pub(crate) fn set_space(&self, tid: i32, space: SpaceId) {
        let mut entries = lock(&self.0);
        if let Some(known) = entries.by_tid.get(&tid).copied() {
            entries.insert(tid, Entry { space, ..known });
        }
    }

    /// Says whether the process of `tid` shares the address space of another one, which had it first.
    pub(crate) fn set_guest(&self, tid: i32, guest: bool) {
        if let Some(entry) = lock(&self.0).by_tid.get_mut(&tid) {
            entry.guest = guest;
        }
    }

    pub(crate) fn contains(&self, tid: i32) -> bool {
        lock(&self.0).by_tid.contains_key(&tid)
    }

    /// Whether no thread is traced.
    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.0).by_tid.is_empty()
    }

    /// The process of thread `tid`.
    pub(crate) fn process_of(&self, tid: i32) -> Option<i32> {
        lock(&self.0).by_tid.get(&tid).map(|entry| entry.pid)
    }

    /// A process that runs in `space`.
    pub(crate) fn process_in(&self, space: SpaceId) -> Option<i32> {
        lock(&self.0).by_tid.values().find(|entry| entry.space == space).map(|entry| entry.pid)
    }

    /// How many threads of process `pid` are traced.
    pub(crate) fn threads_of(&self, pid: i32) -> usize {
        lock(&self.0).by_tid.values().filter(|entry| entry.pid == pid).count()
    }

    /// The processes that are traced, and the address space of each.
    pub(crate) fn processes(&self) -> Vec<(i32, SpaceId)> {
        lock(&self.0).by_tid.values().map(|entry| (entry.pid, entry.space)).collect()
    }

    /// The threads that run in `space`, guests last: those may execute another program any time.
    pub(crate) fn in_space(&self, space: SpaceId) -> Vec<i32> {
        let entries = lock(&self.0);
        let threads = entries.by_tid.iter().filter(|(_, entry)| entry.space == space);
        let mut threads: Vec<(bool, i32)> = threads.map(|(&tid, entry)| (entry.guest, tid)).collect();
        drop(entries);
        threads.sort_unstable();
        threads.into_iter().map(|(_, tid)| tid).collect()
    }

    /// Whether no thread runs in `space` any more.
    pub(crate) fn is_deserted(&self, space: SpaceId) -> bool {
        !lock(&self.0).populations.contains_key(&space)
    }

    /// Whether threads other than `tid` share `space`.
    pub(crate) fn has_others(&self, space: SpaceId, tid: i32) -> bool {
        let entries = lock(&self.0);
        let itself = entries.by_tid.get(&tid).is_some_and(|entry| entry.space == space);
        entries.populations.get(&space).is_some_and(|&population| population > usize::from(itself))
    }
}
