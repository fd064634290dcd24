//! Stacks of processes, whose mappings and unwind tables are known from one to the next.

use std::sync::Arc;

use crate::stacks::module::Module;
use crate::stacks::spaces::Spaces;
use crate::stacks::walk::{Code, Kept, Memory, Registers, step};
use crate::symbols::resolve::Objects;

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
    spaces: Spaces,
}

impl Unwinder {
    /// One that reads files from `objects`, or finds them there.
    #[must_use]
    pub fn new(objects: Arc<Objects>) -> Unwinder {
        Unwinder { objects, ..Unwinder::default() }
    }

    /// Forgets what a process has mapped, such as when it executes another program.
    pub fn forget(&self, pid: i32) {
        self.spaces.forget(pid);
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
        self.spaces.module(pid, address)
    }
}
