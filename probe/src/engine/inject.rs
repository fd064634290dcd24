//! Doing to a thread at a hit what an injection says.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use emu::Rflags;

use crate::arguments::Binding;
use crate::arguments::change::{Applied, Instruction};
use crate::engine::hit::{Action, Hit, LAST_SIGNAL, is_canonical};
use crate::language::{MachineMut, Register};
use crate::symbols::code::{self, Boundary};
use crate::symbols::resolve::Objects;
use crate::target::lock;
use crate::target::maps::{self, Maps};

/// Does what injections say, and knows where threads can go on.
#[derive(Debug)]
pub(crate) struct Injector {
    objects: Arc<Objects>,
    /// Pages that were found to be executable, by process.
    pages: Mutex<HashSet<(i32, u64)>>,
}

impl Injector {
    pub(crate) fn new(objects: Arc<Objects>) -> Injector {
        Injector { objects, pages: Mutex::default() }
    }

    /// Does what the injection of `binding` says, all of it or nothing, at the hit with that number.
    pub(crate) fn inject(&self, hit: &mut Hit<'_>, binding: &Binding, number: u64) -> (Applied, Action) {
        match self.try_inject(hit, binding, number) {
            Ok(done) => done,
            Err(why) => (Applied { number, failed: Some(why), ..Applied::default() }, Action::Continue),
        }
    }

    fn try_inject(
        &self,
        hit: &mut Hit<'_>,
        binding: &Binding,
        number: u64,
    ) -> Result<(Applied, Action), String> {
        let Some(injection) = &binding.injection else { return Err("there is nothing to inject".to_owned()) };
        let returns = injection.instruction == Instruction::Returned;
        if returns {
            let target = hit.return_target().map_err(|error| error.to_string())?;
            self.is_executable(hit.pid(), target)?;
            // Nothing has changed yet, should that be refused.
            hit.move_shadow_stack(1)
                .map_err(|error| format!("the shadow stack cannot be popped: {error}"))?;
        }
        let pid = hit.pid();
        let allows =
            |machine: &mut dyn MachineMut, register, value| self.allows(pid, machine, register, value);
        let (before, after) = injection.apply(hit, allows).inspect_err(|_| {
            if returns {
                // It could be moved just now.
                let _ = hit.move_shadow_stack(-1);
            }
        })?;
        if returns {
            hit.leave_function().map_err(|error| error.to_string())?;
        }
        hit.delay(injection.delay);
        // A client may have sent any number.
        let signal = injection.signal.filter(|signal| (1..=LAST_SIGNAL).contains(signal));
        signal.into_iter().for_each(|signal| hit.raise(signal));
        let action =
            if injection.instruction == Instruction::LeftOut { Action::Skip } else { Action::Continue };
        Ok((Applied { number, before, after, failed: None }, action))
    }

    /// What the kernel would not store, or the thread not survive for no reason that is the program's.
    fn allows(
        &self,
        pid: i32,
        machine: &mut dyn MachineMut,
        register: Register,
        value: u64,
    ) -> Result<(), String> {
        match register {
            Register::Rip => self.can_go_to(pid, value),
            Register::FsBase | Register::GsBase if !is_canonical(value) => {
                Err(format!("{value:#x} is no address, so no segment begins there"))
            }
            Register::Rflags => {
                let settable = Rflags::STATUS.union(Rflags::TF).union(Rflags::DF).union(Rflags::AC);
                let changed = value ^ machine.register(Register::Rflags);
                match changed & !settable.bits() {
                    0 => Ok(()),
                    _ => Err(format!("{value:#x} changes flags that are the system's")),
                }
            }
            _ => Ok(()),
        }
    }

    fn can_go_to(&self, pid: i32, target: u64) -> Result<(), String> {
        self.is_executable(pid, target)?;
        let Ok(maps) = Maps::read(pid) else { return Ok(()) };
        let Some(mapping) = maps::find(&maps, target) else { return Ok(()) };
        let Ok(elf) = self.objects.mapped(&maps, mapping) else { return Ok(()) };
        let address = mapping.file_offset(target).and_then(|offset| elf.address_of_offset(offset));
        match address.map(|address| code::boundary(&elf, address)) {
            Some(Boundary::Inside { start, function }) => Err(format!(
                "{target:#x} is in the middle of an instruction, of {function}+{start:#x}: nobody can go on there"
            )),
            _ => Ok(()),
        }
    }

    fn is_executable(&self, pid: i32, address: u64) -> Result<(), String> {
        const PAGE_BITS: u32 = 12;
        const MOST: usize = 4096;
        if !is_canonical(address) {
            return Err(format!("{address:#x} is not canonical: nobody can go on there"));
        }
        let page = (pid, address >> PAGE_BITS);
        if lock(&self.pages).contains(&page) {
            return Ok(());
        }
        let maps = Maps::read(pid).map_err(|error| format!("what process {pid} has mapped: {error}"))?;
        match maps::find(&maps, address) {
            Some(mapping) if mapping.is_executable() => {
                let mut pages = lock(&self.pages);
                if pages.len() >= MOST {
                    pages.clear();
                }
                pages.insert(page);
                Ok(())
            }
            Some(_) => Err(format!("{address:#x} is not executable: nobody can go on there")),
            None => Err(format!("nothing is mapped at {address:#x}: nobody can go on there")),
        }
    }
}
