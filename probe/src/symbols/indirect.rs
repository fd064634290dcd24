//! Indirect functions (STT_GNU_IFUNC): the symbol is a resolver, which the dynamic linker calls once to be told the
//! implementation that suits the processor.
//!
//! Where the linker has kept the answer (R_X86_64_IRELATIVE), it is read. Otherwise the resolver is run here: emulated,
//! with the process's own memory, on a copy of what it would write. Before the process has been relocated nobody can know
//! the answer; then every way through the resolver is gone, and all answers count.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use emu::registers::gpr;
use emu::{Access, Displaced, MemoryFault, Outcome, Registers, UserMemory};
use iced_x86::{ConditionCode, FlowControl};

use crate::symbols::elf::Elf;
use crate::target::maps::{self, Mapping, Maps, Permissions};

const PAGE: u64 = 4096;

/// Pages that have been written to, which ways that have much in common share.
type Written = HashMap<u64, Arc<[u8; PAGE as usize]>>;

/// The memory that is there besides the process's own lies where none can have any (vm.mmap_min_addr).
mod own {
    /// Where the resolver returns to.
    pub(super) const RETURN: u64 = 0x800;
    /// What FS points to, zeros.
    pub(super) const THREAD: u64 = 0x1000;
    /// The first page of the stack, and the end of the last.
    pub(super) const STACK: std::ops::Range<u64> = 0x2000..0x8000;
}

/// How many instructions are executed, and ways gone, at most.
const MOST_STEPS: usize = 200_000;
const MOST_WAYS: usize = 16_384;

/// How often both ways are gone from one instruction; then the one that its flags say, so that loops end.
const MOST_FORKS: usize = 16;

/// Reads the code of the process, without breakpoints.
pub(crate) type Code<'a> = &'a dyn Fn(u64) -> Option<Vec<u8>>;

/// An indirect function of an object that a process has mapped.
pub(crate) struct Indirect<'a> {
    pub(crate) maps: &'a Maps,
    pub(crate) elf: &'a Elf,
    /// The resolver's virtual address before relocation.
    pub(crate) resolver: u64,
    /// What is added to virtual addresses of the object.
    pub(crate) bias: u64,
    pub(crate) code: Code<'a>,
}

impl Indirect<'_> {
    /// The addresses of the implementation that the process uses or, where that cannot be known, of all that it may use,
    /// each of which `is_function` takes for one. None if the resolver does something that is not foreseen.
    pub(crate) fn implementations(&self, is_function: impl Fn(u64) -> bool) -> Vec<u64> {
        let Ok(memory) = File::open(format!("/proc/{}/mem", self.maps.pid())) else { return Vec::new() };
        match self.kept(&memory) {
            Kept::Answer(address) => return vec![address],
            Kept::NotYet => {}
            Kept::Nowhere => {
                let (answers, settled) = self.run(&memory, false);
                if settled && !answers.is_empty() {
                    return answers;
                }
            }
        }
        let (mut all, _) = self.run(&memory, true);
        // Not every way is one that the processor would go.
        all.retain(|&address| is_function(address));
        all
    }

    /// What the linker has been told.
    fn kept(&self, memory: &File) -> Kept {
        let mut kept = Kept::Nowhere;
        for slot in self.elf.indirect_slots(self.resolver) {
            let mut value = [0; 8];
            let read = memory.read_exact_at(&mut value, slot.address.wrapping_add(self.bias));
            let value = u64::from_le_bytes(value);
            let initial = [slot.initial, slot.initial.wrapping_add(self.bias)];
            if read.is_ok() && !initial.contains(&value) && self.is_code(value) {
                return Kept::Answer(value);
            }
            kept = Kept::NotYet;
        }
        kept
    }

    fn is_code(&self, address: u64) -> bool {
        maps::find(self.maps, address).is_some_and(|mapping| mapping.perms.contains(Permissions::EXECUTE))
    }

    /// The answers of the resolver: of the way that it goes with this memory or, with `everywhere`, of all. And whether these
    /// stay as they are: it has read nothing of its object that may be written to until it is asked, such as what a
    /// constructor sets.
    fn run(&self, memory: &File, everywhere: bool) -> (Vec<u64>, bool) {
        let (mut answers, mut settled) = (Vec::new(), true);
        let mut ways = vec![Way::start(self.resolver.wrapping_add(self.bias))];
        let mut seen = HashSet::new();
        let mut forks: HashMap<u64, usize> = HashMap::new();
        let (mut steps, mut gone) = (0, 0);
        let mut decoded: HashMap<u64, Option<Displaced>> = HashMap::new();
        while let Some(mut way) = ways.pop() {
            gone += 1;
            if gone > MOST_WAYS {
                break;
            }
            while steps < MOST_STEPS {
                steps += 1;
                if way.registers.rip == own::RETURN {
                    let answer = way.registers.gpr[gpr::RAX];
                    if self.is_code(answer) && !answers.contains(&answer) {
                        answers.push(answer);
                    }
                    break;
                }
                let rip = way.registers.rip;
                let displaced = *decoded.entry(rip).or_insert_with(|| {
                    (self.code)(rip).and_then(|bytes| Displaced::decode(&bytes, rip).ok())
                });
                let Some(displaced) = displaced else {
                    if everywhere && way.return_zero(memory) {
                        continue;
                    }
                    break;
                };
                let has_condition = displaced.instruction().condition_code() != ConditionCode::None;
                let forked = forks.entry(rip).or_default();
                if everywhere && has_condition && *forked < MOST_FORKS {
                    *forked += 1;
                    if seen.insert((rip, way.registers.gpr)) {
                        ways.extend(way.fork(&displaced, memory));
                    }
                    break;
                }
                if !way.step(&displaced, memory, everywhere) {
                    break;
                }
                // A linker's table of addresses is one that it goes on to write.
                let is_call = matches!(
                    displaced.instruction().flow_control(),
                    FlowControl::IndirectBranch | FlowControl::IndirectCall
                );
                settled &= is_call || !way.has_read.iter().any(|&address| self.may_be_set(address));
                way.has_read.clear();
            }
        }
        answers.sort_unstable();
        (answers, settled)
    }

    /// Whether `address` is in memory of the object that can be written to: of its file, or of zeros right behind that.
    fn may_be_set(&self, address: u64) -> bool {
        let code = maps::find(self.maps, self.resolver.wrapping_add(self.bias));
        let Some((code, data)) = code.zip(maps::find(self.maps, address)) else { return false };
        let is_own = |mapping: &Mapping| mapping.is_same_file(code);
        let zeros =
            || data.inode == 0 && self.maps.iter().any(|other| other.end == data.start && is_own(other));
        data.perms.contains(Permissions::WRITE) && (is_own(data) || zeros())
    }
}

/// What the linker knows.
enum Kept {
    Answer(u64),
    /// It has a place for the answer, and no answer.
    NotYet,
    Nowhere,
}

/// A way through the resolver, so far.
#[derive(Clone)]
struct Way {
    registers: Registers,
    /// The pages that it has written to.
    written: Written,
    /// Where its last instruction has read what it has not written.
    has_read: Vec<u64>,
}

impl Way {
    fn start(resolver: u64) -> Way {
        let mut registers = Registers::default();
        let mut written: Written = HashMap::new();
        for page in std::iter::once(own::THREAD).chain(own::STACK.step_by(PAGE as usize)) {
            written.insert(page, Arc::new([0; PAGE as usize]));
        }
        let stack = own::STACK.end - 2 * PAGE / 4 - 8;
        registers.gpr[gpr::RSP] = stack;
        registers.fs_base = own::THREAD;
        registers.rip = resolver;
        let mut way = Way { registers, written, has_read: Vec::new() };
        if let Some(page) = way.written.get_mut(&(stack & !(PAGE - 1))) {
            let at = (stack % PAGE) as usize;
            Arc::make_mut(page)[at..at + 8].copy_from_slice(&own::RETURN.to_le_bytes());
        }
        way
    }

    /// Executes one instruction. Says whether the way goes on.
    fn step(&mut self, displaced: &Displaced, memory: &File, everywhere: bool) -> bool {
        let mut copy = Copy { memory, written: &mut self.written, has_read: &mut self.has_read, everywhere };
        matches!(
            displaced.execute(&mut self.registers, &mut copy),
            Ok(Outcome::Next | Outcome::NextInhibited | Outcome::Again)
        )
    }

    /// The ways that lead on from an instruction with a condition: both.
    fn fork(&self, displaced: &Displaced, memory: &File) -> Vec<Way> {
        let instruction = displaced.instruction();
        if instruction.flow_control() == FlowControl::ConditionalBranch {
            let targets = [instruction.next_ip(), instruction.near_branch_target()];
            return targets
                .map(|target| {
                    let mut way = self.clone();
                    way.registers.rip = target;
                    way
                })
                .into();
        }
        // CMOVcc, SETcc: with flags that have each answer.
        let mut ways = Vec::new();
        for answer in [false, true] {
            let mut way = self.clone();
            let flags = way.registers.rflags;
            way.registers.rflags = flags_for(instruction.condition_code(), answer);
            let goes_on = way.step(displaced, memory, true);
            way.registers.rflags = flags;
            if goes_on {
                ways.push(way);
            }
        }
        ways
    }

    /// Has a function that cannot be called return zero.
    fn return_zero(&mut self, memory: &File) -> bool {
        let mut address = [0; 8];
        let (written, has_read) = (&mut self.written, &mut self.has_read);
        let mut copy = Copy { memory, written, has_read, everywhere: true };
        let stack = self.registers.gpr[gpr::RSP];
        if copy.read(stack, &mut address, Access::Read).is_err() {
            return false;
        }
        self.registers.rip = u64::from_le_bytes(address);
        self.registers.gpr[gpr::RSP] = stack.wrapping_add(8);
        self.registers.gpr[gpr::RAX] = 0;
        self.registers.rip != 0
    }
}

/// Flags with which the condition holds, or does not.
fn flags_for(condition: ConditionCode, holds: bool) -> emu::Rflags {
    use ConditionCode as C;
    use emu::Rflags as F;
    let (yes, no) = match condition {
        C::o => (F::OF, F::empty()),
        C::no => (F::empty(), F::OF),
        C::b => (F::CF, F::empty()),
        C::ae => (F::empty(), F::CF),
        C::e => (F::ZF, F::empty()),
        C::ne => (F::empty(), F::ZF),
        C::be => (F::CF, F::empty()),
        C::a => (F::empty(), F::CF),
        C::s => (F::SF, F::empty()),
        C::ns => (F::empty(), F::SF),
        C::p => (F::PF, F::empty()),
        C::np => (F::empty(), F::PF),
        C::l => (F::SF, F::empty()),
        C::ge => (F::empty(), F::SF),
        C::le => (F::ZF, F::empty()),
        C::g => (F::empty(), F::ZF),
        C::None => (F::empty(), F::empty()),
    };
    if holds { yes } else { no }
}

/// The memory of the process, and over it what has been written here.
struct Copy<'a> {
    memory: &'a File,
    written: &'a mut Written,
    has_read: &'a mut Vec<u64>,
    /// What cannot be read is zero.
    everywhere: bool,
}

impl Copy<'_> {
    /// The parts of memory from `address` on, page by page: where each begins, and its place in the whole.
    fn parts(address: u64, length: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = address.wrapping_add(done as u64);
            let room = (PAGE - at % PAGE) as usize;
            let part = done..length.min(done + room);
            (done < length).then(|| {
                done = part.end;
                (at, part)
            })
        })
    }

    fn page(&mut self, page: u64) -> Result<&mut [u8; PAGE as usize], MemoryFault> {
        if !self.written.contains_key(&page) {
            let mut bytes = [0; PAGE as usize];
            if self.memory.read_exact_at(&mut bytes, page).is_err() && !self.everywhere {
                return Err(fault(page, Access::Write));
            }
            self.written.insert(page, Arc::new(bytes));
        }
        self.written.get_mut(&page).map(Arc::make_mut).ok_or(fault(page, Access::Write))
    }
}

fn fault(address: u64, access: Access) -> MemoryFault {
    MemoryFault { address, access, present: false, protection_key: false }
}

impl UserMemory for Copy<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        for (at, part) in Self::parts(address, bytes.len()) {
            let Some(bytes) = bytes.get_mut(part) else { continue };
            match self.written.get(&(at & !(PAGE - 1))) {
                Some(page) => {
                    let from = (at % PAGE) as usize;
                    bytes.copy_from_slice(&page[from..from + bytes.len()]);
                }
                None => match self.memory.read_exact_at(bytes, at) {
                    Ok(()) => self.has_read.push(at),
                    Err(_) if self.everywhere => bytes.fill(0),
                    Err(_) => return Err(fault(at, access)),
                },
            }
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        for (at, part) in Self::parts(address, bytes.len()) {
            let Some(bytes) = bytes.get(part) else { continue };
            let from = (at % PAGE) as usize;
            self.page(at & !(PAGE - 1))?[from..from + bytes.len()].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        self.update_alone(address, size, update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_have_the_answer_that_is_wanted() {
        // SETcc on each condition, both answers.
        for number in 0..16u8 {
            let displaced = Displaced::decode(&[0x0f, 0x90 | number, 0xc0], 0x1000).unwrap();
            let condition = displaced.instruction().condition_code();
            for answer in [false, true] {
                let mut registers =
                    Registers { rflags: flags_for(condition, answer), ..Registers::default() };
                displaced.execute(&mut registers, &mut emu::FlatMemory::new(0x1000, 16)).unwrap();
                assert_eq!(registers.gpr[gpr::RAX], u64::from(answer), "{condition:?}");
            }
        }
    }

    #[test]
    fn memory_is_read_through_what_was_written() {
        let local = [1u8; 64];
        let address = &raw const local as u64;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut written = HashMap::new();
        let mut has_read = Vec::new();
        let mut copy =
            Copy { memory: &memory, written: &mut written, has_read: &mut has_read, everywhere: false };
        let mut bytes = [0; 64];
        copy.read(address, &mut bytes, Access::Read).unwrap();
        assert_eq!(bytes, local);
        copy.write(address + 8, &[7; 8]).unwrap();
        copy.read(address, &mut bytes, Access::Read).unwrap();
        assert_eq!((bytes[7], bytes[8], bytes[15], bytes[16]), (1, 7, 7, 1));
        assert_eq!(local, [1; 64]);
        assert!(copy.read(0x100, &mut bytes, Access::Read).is_err());
        // Over the end of a page.
        copy.everywhere = true;
        copy.write(0x5ffc, &[9; 8]).unwrap();
        copy.read(0x5ff8, &mut bytes[..16], Access::Read).unwrap();
        assert_eq!(bytes[..16], [0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0]);
    }
}
