//! Whose hit it is: the stack and the name of the thread.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::engine::hit::Hit;
use crate::engine::watch::Change;
use crate::stacks::{StackFrame, Unwinder};
use crate::symbols::resolve::Objects;
use crate::target::{lock, procfs};
use crate::warden::outlet::Outlet;

/// What is known of stacks and names, of all probes.
#[derive(Debug)]
pub(crate) struct Callers {
    unwinder: Unwinder,
    /// The numbers of the modules that the client knows.
    told: Mutex<HashSet<u32>>,
    /// By thread: its name, and when that was read.
    names: Mutex<HashMap<i32, Read>>,
}

/// A name, and when it was read.
type Read = (Instant, Option<Vec<u8>>);

impl Callers {
    pub(crate) fn new(objects: Arc<Objects>) -> Callers {
        Callers { unwinder: Unwinder::new(objects), told: Mutex::default(), names: Mutex::default() }
    }

    /// A process executes another program, or has ended.
    pub(crate) fn forget(&self, pid: i32) {
        self.unwinder.forget(pid);
        lock(&self.names).clear();
    }

    /// What an address of a process belongs to, which the client knows then.
    pub(crate) fn frame(&self, pid: i32, ip: u64, outlet: &Outlet) -> StackFrame {
        let frame = StackFrame { ip, exact: true, module: self.unwinder.module(pid, ip) };
        self.tell(std::slice::from_ref(&frame), outlet);
        frame
    }

    /// The stack at a hit, whose modules the client knows then.
    pub(crate) fn stack(&self, hit: &mut Hit<'_>, most: u16, outlet: &Outlet) -> Vec<StackFrame> {
        let frames = hit.stack(&self.unwinder, usize::from(most));
        self.tell(&frames, outlet);
        frames
    }

    /// The same at a change.
    pub(crate) fn stack_of(
        &self,
        change: &mut Change<'_, '_>,
        most: u16,
        outlet: &Outlet,
    ) -> Vec<StackFrame> {
        let frames = change.stack(&self.unwinder, usize::from(most));
        self.tell(&frames, outlet);
        frames
    }

    fn tell(&self, frames: &[StackFrame], outlet: &Outlet) {
        let mut told = lock(&self.told);
        for module in frames.iter().filter_map(|frame| frame.module.as_deref()) {
            if told.insert(module.number()) {
                outlet.module(module);
            }
        }
    }

    /// The name of the thread, as it was a moment ago: reading it costs a tenth of a hit.
    pub(crate) fn name(&self, tid: i32) -> Option<Vec<u8>> {
        const FRESH: Duration = Duration::from_millis(50);
        /// Threads that are remembered.
        const MOST: usize = 4096;
        let mut names = lock(&self.names);
        if let Some((read, name)) = names.get(&tid)
            && read.elapsed() < FRESH
        {
            return name.clone();
        }
        if names.len() >= MOST {
            names.clear();
        }
        let name = procfs::comm(tid);
        names.insert(tid, (Instant::now(), name.clone()));
        name
    }
}
