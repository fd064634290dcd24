//! Stacks of processes, whose mappings and unwind tables are known from one to the next.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::stacks::module::Module;
use crate::stacks::walk::{Code, Kept, Memory, Registers, step};
use crate::symbols::resolve::Objects;
use crate::target::lock;
use crate::target::maps::{self, Mapping, Maps};

/// A call on a stack: where it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StackFrame {
    /// The address of the next instruction there: the thread's own or, of a function that has called another, that
    /// behind the call.
    pub ip: u64,
    /// Whether the thread is, or was interrupted by a signal, at this very instruction. Otherwise the call lies before it.
    pub exact: bool,
    /// What the code belongs to; `None` where nothing is mapped.
    pub module: Option<Arc<Module>>,
}

impl StackFrame {
    /// An address in the instruction that the frame is at: its own, or that of the call's last byte.
    #[must_use]
    pub fn lookup_ip(&self) -> u64 {
        if self.exact { self.ip } else { self.ip.wrapping_sub(1) }
    }
}

/// Whose stack it is.
pub(crate) struct Caller<'a> {
    pub(crate) pid: i32,
    /// By the processor's numbers.
    pub(crate) gpr: &'a [u64; 16],
    /// The address of the instruction, which RIP may not be any more.
    pub(crate) ip: u64,
}

/// What is known of files and processes, for [`Hit::stack`](crate::Hit::stack).
///
/// What a process has mapped is read again when an address is in no mapping that is known, and four times a second: code
/// that was unmapped, and other code mapped in its place, is taken for what it was until then. Nor is it known that a process executes
/// another program, unless that is told by [`Unwinder::forget`].
#[derive(Debug, Default)]
pub struct Unwinder {
    objects: Arc<Objects>,
    spaces: Mutex<HashMap<i32, Space>>,
    modules: Mutex<HashMap<Key, Arc<Module>>>,
}

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

impl Unwinder {
    /// One that reads files from `objects`, or finds them there.
    #[must_use]
    pub fn new(objects: Arc<Objects>) -> Unwinder {
        Unwinder { objects, ..Unwinder::default() }
    }

    /// Forgets what a process has mapped, such as when it executes another program.
    pub fn forget(&self, pid: i32) {
        lock(&self.spaces).remove(&pid);
    }

    /// The frames of a stack, the thread's own place first; `most` of them at most.
    pub(crate) fn stack(&self, caller: &Caller<'_>, memory: &mut dyn Memory, most: usize) -> Vec<StackFrame> {
        let &Caller { pid, gpr, ip } = caller;
        let mut frames = Vec::new();
        let mut exact = true;
        let mut module = self.module(pid, ip);
        let mut memory = Kept::new(memory);
        let mut registers = Registers::new(gpr, ip);
        while let Some(ip) = registers.ip()
            && frames.len() < most
        {
            let at = if exact { ip } else { ip.wrapping_sub(1) };
            let found = frames.len() + 1 < most;
            let next =
                found.then(|| self.step(module.as_deref(), at, &registers, exact, &mut memory)).flatten();
            let signal = next.as_ref().is_some_and(|next| next.interrupted);
            // The kernel has called what returns from the signal; nothing there has called the handler.
            frames.push(StackFrame { ip, exact: exact || signal, module });
            let Some(next) = next else { break };
            exact = next.interrupted;
            registers = next.caller;
            let Some(next_ip) = registers.ip().filter(|&ip| ip != 0) else { break };
            module = self.module(pid, if exact { next_ip } else { next_ip.wrapping_sub(1) });
            if module.is_none() {
                // No code: not a return address.
                break;
            }
        }
        frames
    }

    /// Where the function of the thread's place returns to, and its stack pointer then; `None` where nothing tells.
    pub(crate) fn caller(&self, caller: &Caller<'_>, memory: &mut dyn Memory) -> Option<(u64, u64)> {
        let &Caller { pid, gpr, ip } = caller;
        let module = self.module(pid, ip);
        let step = self.step(module.as_deref(), ip, &Registers::new(gpr, ip), true, memory)?;
        (!step.interrupted).then_some(())?;
        Some((step.caller.ip().filter(|&ip| ip != 0)?, step.caller.get(Registers::RSP)?))
    }

    /// The files that modules are of.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    fn step(
        &self,
        module: Option<&Module>,
        at: u64,
        registers: &Registers,
        exact: bool,
        memory: &mut dyn Memory,
    ) -> Option<crate::stacks::walk::Step> {
        let table = module.and_then(|module| {
            let elf = module.elf(&self.objects)?;
            Some((module.table(&self.objects)?, module.address_of(elf, at)?))
        });
        let code = match (module, table) {
            (_, Some((table, address))) => Code::Object(table, address),
            (Some(_), None) => Code::Unknown,
            (None, None) => Code::None,
        };
        step(&code, registers, exact, memory)
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
        if !known {
            let maps = Arc::new(Maps::read(pid).ok()?);
            if spaces.len() >= MOST {
                spaces.clear();
            }
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
