//! Which threads are traced, by any tracer of the session.

use std::collections::HashMap;
use std::sync::Mutex;

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
}

impl Entries {
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
    pub(crate) fn add(&self, tid: i32, pid: i32, space: SpaceId) {
        let mut entries = lock(&self.0);
        entries.remove(tid);
        entries.by_tid.insert(tid, Entry { pid, space, guest: false });
        *entries.populations.entry(space).or_default() += 1;
    }

    pub(crate) fn remove(&self, tid: i32) {
        lock(&self.0).remove(tid);
    }

    /// Says in which address space a thread runs.
    pub(crate) fn set_space(&self, tid: i32, space: SpaceId) {
        let known = lock(&self.0).by_tid.get(&tid).copied();
        if let Some(Entry { pid, guest, .. }) = known {
            self.add(tid, pid, space);
            self.set_guest(tid, guest);
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

    /// The threads of process `pid`, each with its address space.
    pub(crate) fn threads_of(&self, pid: i32) -> Vec<(i32, SpaceId)> {
        let entries = lock(&self.0);
        let threads = entries.by_tid.iter().filter(|(_, entry)| entry.pid == pid);
        threads.map(|(&tid, entry)| (tid, entry.space)).collect()
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
