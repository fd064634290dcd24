//! What processes have mapped, and which modules that are.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::stacks::module::Module;
use crate::target::lock;
use crate::target::maps::{self, Mapping, Maps};

/// What the same module is known by: device, inode and path of the file, and where its first byte would lie.
type Key = ((u32, u32), u64, Option<PathBuf>, u64);

/// What a process has mapped.
#[derive(Debug)]
struct Space {
    read: Instant,
    maps: Arc<Maps>,
    /// By the address of the mapping.
    modules: HashMap<u64, Arc<Module>>,
}

/// Processes, and the modules of all of them.
#[derive(Debug, Default)]
pub(crate) struct Spaces {
    spaces: Mutex<HashMap<i32, Space>>,
    modules: Mutex<HashMap<Key, Arc<Module>>>,
}

impl Spaces {
    /// Forgets what a process has mapped, such as when it executes another program.
    pub(crate) fn forget(&self, pid: i32) {
        lock(&self.spaces).remove(&pid);
    }

    /// What the code at an address of a process belongs to; `None` where there is none.
    pub(crate) fn module(&self, pid: i32, address: u64) -> Option<Arc<Module>> {
        /// How long an answer of the kernel is believed.
        const FRESH: Duration = Duration::from_millis(250);
        /// Processes that are remembered.
        const MOST: usize = 256;
        let mut spaces = lock(&self.spaces);
        let find = |space: &Space| maps::find(&space.maps, address).is_some_and(Mapping::is_executable);
        let known = spaces.get(&pid).is_some_and(|space| space.read.elapsed() < FRESH && find(space));
        // Of one that has ended, what is known goes on to hold.
        if !known && let Some(maps) = Maps::read(pid).ok().filter(|maps| !maps.is_empty()) {
            if spaces.len() >= MOST {
                spaces.clear();
            }
            let maps = Arc::new(maps);
            spaces.insert(pid, Space { read: Instant::now(), maps, modules: HashMap::new() });
        }
        let space = spaces.get_mut(&pid)?;
        let mapping = maps::find(&space.maps, address).filter(|mapping| mapping.is_executable())?;
        if let Some(module) = space.modules.get(&mapping.start) {
            return Some(Arc::clone(module));
        }
        let module = self.enter(pid, mapping);
        space.modules.insert(mapping.start, Arc::clone(&module));
        Some(module)
    }

    fn enter(&self, pid: i32, mapping: &Mapping) -> Arc<Module> {
        let start = mapping.start.wrapping_sub(mapping.offset);
        let key = (mapping.dev, mapping.inode, mapping.path.clone(), start);
        let mut modules = lock(&self.modules);
        let number = u32::try_from(modules.len()).unwrap_or(u32::MAX);
        let new = || Arc::new(Module::new(number, pid, mapping.clone(), None));
        Arc::clone(modules.entry(key).or_insert_with(new))
    }
}
