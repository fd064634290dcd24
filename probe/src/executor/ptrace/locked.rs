//! LOCKed instructions of the target's text, and XCHG: a thread borrows one to make an atomic access to its memory,
//! which nobody else can make for it.

use emu::registers::gpr;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use libc::user_regs_struct;

use crate::executor::ptrace::borrow;
use crate::executor::ptrace::stopped::{Resume, Stopped};
use crate::executor::ptrace::threads::{Gone, Ran, Threads};
use crate::executor::space::{LONGEST, Space};
use crate::target::lock;
use crate::target::maps::Mapping;

/// What an atomic instruction takes besides memory and the registers that it names nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// Nothing.
    None,
    /// A register.
    Register,
    /// This number, as wide as the memory.
    Immediate(u64),
}

/// An instruction as it is looked for: any that does the same will do, wherever its address and source come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) mnemonic: Mnemonic,
    /// Of the memory, in bytes.
    pub(crate) size: usize,
    pub(crate) source: Source,
}

/// An instruction of the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Locked {
    kind: Kind,
    address: u64,
    length: usize,
    bytes: [u8; LONGEST],
    /// The register to which the address goes.
    base: usize,
    /// Another one that counts towards it.
    index: Option<usize>,
    displacement: u64,
    source: Option<usize>,
}

/// The values that an instruction is run with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Values {
    /// The address of the memory.
    pub(crate) address: u64,
    /// For a source that is a register.
    pub(crate) source: u64,
    /// What to compare with, for CMPXCHG and its like.
    pub(crate) expected: u128,
    /// What CMPXCHG8B and CMPXCHG16B store.
    pub(crate) new: u128,
}

/// What a thread has come to by a borrowed instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Done {
    /// It was executed.
    Executed {
        /// What CMPXCHG and its like, XADD and XCHG have found in memory.
        old: u128,
        /// The flags after it.
        flags: u64,
    },
    /// The memory cannot be written.
    Faulted,
    /// There is no such thread any more.
    Gone,
    /// It could not be tried.
    Unavailable,
}

impl Locked {
    /// The instruction at the start of `bytes`, if it can be borrowed.
    fn at(address: u64, bytes: &[u8]) -> Option<Locked> {
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        // Either order: XCHG has one encoding for both.
        let (memory, other) = match (instruction.op0_kind(), instruction.op1_kind()) {
            (OpKind::Memory, _) => (0, 1),
            (_, OpKind::Memory) => (1, 0),
            _ => return None,
        };
        let is_atomic =
            memory == 0 && instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg;
        // With segment bases an address could not be reached, perhaps.
        let is_flat = !matches!(instruction.segment_prefix(), Register::FS | Register::GS);
        if instruction.is_invalid() || !is_atomic || !is_flat || instruction.is_ip_rel_memory_operand() {
            return None;
        }
        let size = instruction.memory_size().size();
        let (source, register) = match instruction.op_kind(other) {
            _ if instruction.op_count() < 2 => (Source::None, None),
            OpKind::Register => (Source::Register, Some(general(instruction.op_register(other), size)?)),
            _ => (Source::Immediate(instruction.try_immediate(other).ok()? & mask(size)), None),
        };
        let (base, index) = addressed(&instruction)?;
        let implicit = implicit(instruction.mnemonic());
        let taken = |number| implicit.contains(&number) || Some(number) == register;
        if taken(base)
            || index.is_some_and(taken)
            || register.is_some_and(|number| implicit.contains(&number))
        {
            return None;
        }
        let length = instruction.len();
        let mut copy = [0; LONGEST];
        copy.get_mut(..length)?.copy_from_slice(bytes.get(..length)?);
        let kind = Kind { mnemonic: instruction.mnemonic(), size, source };
        let displacement = instruction.memory_displacement64();
        Some(Locked { kind, address, length, bytes: copy, base, index, displacement, source: register })
    }

    /// Whether it is there still, and no breakpoint in it.
    fn is_still_there(&self, space: &Space) -> bool {
        let mut now = [0; LONGEST];
        let length = self.length;
        if space.watched(self.address).is_some() {
            return false;
        }
        match (now.get_mut(..length), self.bytes.get(..length)) {
            (Some(now), Some(known)) => {
                space.read_raw(self.address, now).is_ok_and(|read| read == length) && now == known
            }
            _ => false,
        }
    }

    /// Sets the registers for `values`.
    fn prepare(&self, registers: &mut user_regs_struct, values: &Values) {
        /// No alignment check: whether one is due has been decided before.
        const AC: u64 = 1 << 18;
        registers.eflags &= !AC;
        registers.rip = self.address;
        let mut set = |number: Option<usize>, value: u64| {
            if let Some(register) = number.and_then(|number| general_mut(registers, number)) {
                *register = value;
            }
        };
        set(Some(self.base), values.address.wrapping_sub(self.displacement));
        set(self.index, 0);
        set(self.source, values.source);
        let (expected, new) = (values.expected, values.new);
        match self.kind.mnemonic {
            Mnemonic::Cmpxchg => set(Some(gpr::RAX), expected as u64),
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => {
                let half = self.kind.size as u32 * 4;
                let pairs = [
                    (gpr::RAX, expected),
                    (gpr::RDX, expected >> half),
                    (gpr::RBX, new),
                    (gpr::RCX, new >> half),
                ];
                pairs
                    .into_iter()
                    .for_each(|(number, value)| set(Some(number), value as u64 & mask(self.kind.size / 2)));
            }
            _ => {}
        }
    }

    /// What a thread with these registers means to compare with, for CMPXCHG and its like.
    pub(crate) fn expected(&self, own: &user_regs_struct) -> u128 {
        let size = self.kind.size;
        match self.kind.mnemonic {
            Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => {
                let [low, high] = [own.rax, own.rdx].map(|half| u128::from(half & mask(size / 2)));
                high << (size * 4) | low
            }
            _ => u128::from(own.rax & mask(size)),
        }
    }

    /// What it has found in memory, where it says so.
    fn old(&self, after: &mut user_regs_struct) -> u128 {
        let size = self.kind.size;
        match self.kind.mnemonic {
            // If it is what they hold, they keep it.
            Mnemonic::Cmpxchg | Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => self.expected(after),
            _ => {
                let source =
                    self.source.and_then(|number| general_mut(after, number)).map_or(0, |value| *value);
                u128::from(source & mask(size))
            }
        }
    }
}

/// The bits of a number of `size` bytes.
fn mask(size: usize) -> u64 {
    u64::MAX.checked_shr(64 - (size as u32 * 8).min(64)).unwrap_or(0)
}

/// The registers that an instruction uses without naming them.
fn implicit(mnemonic: Mnemonic) -> &'static [usize] {
    match mnemonic {
        Mnemonic::Cmpxchg => &[gpr::RAX],
        Mnemonic::Cmpxchg8b | Mnemonic::Cmpxchg16b => &[gpr::RAX, gpr::RDX, gpr::RBX, gpr::RCX],
        _ => &[],
    }
}

/// The number of a register of `size` bytes that is the low part of a general one; RSP is not to be borrowed.
fn general(register: Register, size: usize) -> Option<usize> {
    let is_high = matches!(register, Register::AH | Register::BH | Register::CH | Register::DH);
    let number = register.full_register().number();
    (register.is_gpr() && register.size() == size && !is_high && number != gpr::RSP).then_some(number)
}

/// The registers of a memory operand: one for the address, and one to be zero.
fn addressed(instruction: &Instruction) -> Option<(usize, Option<usize>)> {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    match (base, index) {
        (Register::None, _) => {
            let unscaled = instruction.memory_index_scale() == 1;
            unscaled.then(|| general(index, 8)).flatten().map(|number| (number, None))
        }
        (_, Register::None) => Some((general(base, 8)?, None)),
        _ => {
            let (base, index) = (general(base, 8)?, general(index, 8)?);
            (base != index).then_some((base, Some(index)))
        }
    }
}

/// General register `number`, in machine encoding.
fn general_mut(registers: &mut user_regs_struct, number: usize) -> Option<&mut u64> {
    let r = registers;
    let all = [
        &mut r.rax, &mut r.rcx, &mut r.rdx, &mut r.rbx, &mut r.rsp, &mut r.rbp, &mut r.rsi, &mut r.rdi,
        &mut r.r8, &mut r.r9, &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ];
    all.into_iter().nth(number)
}

/// The instructions that have been found in an address space.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    found: Vec<Locked>,
    /// The mappings that have been searched not at all or in part, the next one last, once they have been asked for.
    rest: Option<Vec<Mapping>>,
    /// The address up to which the next one has been searched.
    searched: u64,
}

impl Catalogue {
    const CHUNK: usize = 1 << 16;
    /// Of one kind so many are kept: breakpoints may be put on some.
    const ENOUGH: usize = 4;
    /// Of all kinds.
    const MOST: usize = 1024;

    /// The first of kind `kind` that is there still.
    fn known(&self, space: &Space, kind: Kind) -> Option<Locked> {
        self.found.iter().find(|locked| locked.kind == kind && locked.is_still_there(space)).copied()
    }

    /// Searches one more piece of text; whether there was one.
    fn search(&mut self, space: &Space, tid: i32) -> Option<()> {
        let rest = self.rest.get_or_insert_with(|| {
            let mut rest = borrow::lenders(space, tid);
            rest.reverse();
            rest
        });
        let mapping = rest.last()?;
        let (start, end) = (mapping.start.max(self.searched), mapping.end);
        let mut buffer =
            vec![0; usize::try_from(end - start).map_or(Self::CHUNK, |left| left.min(Self::CHUNK))];
        let count = space.read_raw(start, &mut buffer).unwrap_or(0);
        buffer.truncate(count);
        self.take(start, &buffer);
        // The next chunk starts with the last bytes of this one. What cannot be read is left out.
        let is_whole = count == Self::CHUNK && start + (count as u64) < end;
        if is_whole {
            self.searched = start + (count - LONGEST) as u64;
        } else {
            self.searched = 0;
            self.rest.as_mut()?.pop();
        }
        Some(())
    }

    /// Takes up what there is in `text`, which lies at `address`. Any bytes that decode so will do, also from the
    /// middle of another instruction.
    fn take(&mut self, address: u64, text: &[u8]) {
        const LOCK: u8 = 0xf0;
        const OPERAND_SIZE: u8 = 0x66;
        const XCHG: std::ops::RangeInclusive<u8> = 0x86..=0x87;
        for (offset, &byte) in text.iter().enumerate() {
            if byte != LOCK && !XCHG.contains(&byte) {
                continue;
            }
            let before = |back: usize| offset.checked_sub(back).and_then(|offset| text.get(offset)).copied();
            // What may stand before LOCK; and before an opcode.
            let first = match (before(1), before(2)) {
                (Some(OPERAND_SIZE), _) => 1,
                (Some(0x40..=0x4f), Some(OPERAND_SIZE)) if byte != LOCK => 2,
                (Some(0x40..=0x4f), _) if byte != LOCK => 1,
                _ => 0,
            };
            for start in (offset - first)..=offset {
                let bytes = text.get(start..text.len().min(start + LONGEST)).unwrap_or_default();
                if self.found.len() < Self::MOST
                    && let Some(locked) = Locked::at(address + start as u64, bytes)
                    && self.has_room_for(&locked)
                {
                    self.found.push(locked);
                }
            }
        }
    }

    fn has_room_for(&self, locked: &Locked) -> bool {
        let mut same = self.found.iter().filter(|known| known.kind == locked.kind);
        let number = same.clone().count();
        number < Self::ENOUGH && same.all(|known| known.address != locked.address)
    }
}

/// An instruction of that kind that thread `tid` can borrow.
pub(crate) fn locked(space: &Space, tid: i32, kind: Kind) -> Option<Locked> {
    let mut catalogue = lock(&space.catalogue);
    let mut found = catalogue.known(space, kind);
    while found.is_none() && catalogue.search(space, tid).is_some() {
        found = catalogue.known(space, kind);
    }
    found
}

/// Has a thread execute `locked`. Its registers are as before afterwards.
pub(crate) fn run(
    threads: &mut Threads,
    thread: &mut Stopped,
    locked: &Locked,
    values: impl FnOnce(&user_regs_struct) -> Values,
) -> Done {
    const GETREGS: &str = "PTRACE_GETREGS";
    const SETREGS: &str = "PTRACE_SETREGS";
    let tid = thread.tid();
    let Some(own) = threads.note(tid, GETREGS, thread.registers()) else { return Done::Unavailable };
    let mut kernel = own;
    locked.prepare(&mut kernel, &values(&own));
    if threads.note(tid, SETREGS, thread.set_registers(kernel)).is_none() {
        // It may have taken some.
        threads.note(tid, SETREGS, thread.set_registers(own));
        return Done::Unavailable;
    }
    let result = match threads.run(thread, Resume::Step) {
        Ok(Ran::Signal(libc::SIGTRAP)) => match threads.note(tid, GETREGS, thread.registers()) {
            Some(after) if after.rip != locked.address.wrapping_add(locked.length as u64) => {
                Done::Unavailable
            }
            Some(mut after) => Done::Executed { old: locked.old(&mut after), flags: after.eflags },
            // Whether it has been made, nobody knows: to make it again would be worse.
            None => Done::Gone,
        },
        Ok(Ran::Signal(libc::SIGSEGV | libc::SIGBUS)) => Done::Faulted,
        Ok(_) => Done::Unavailable,
        Err(Gone) => return Done::Gone,
    };
    threads.note(tid, SETREGS, thread.set_registers(own));
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::executor::ptrace::sys::no_registers;

    fn found(text: &[u8]) -> Vec<Locked> {
        let mut catalogue = Catalogue::default();
        catalogue.take(0x1000, text);
        catalogue.found
    }

    fn kinds(text: &[u8]) -> Vec<(Mnemonic, usize, Source)> {
        found(text).iter().map(|Locked { kind, .. }| (kind.mnemonic, kind.size, kind.source)).collect()
    }

    #[test]
    fn atomic_instructions_are_recognised_in_all_their_forms() {
        use Source::{Immediate, None, Register};
        // lock cmpxchg [rdi], edx; also behind something else.
        assert_eq!(kinds(&[0x90, 0xf0, 0x0f, 0xb1, 0x17]), [(Mnemonic::Cmpxchg, 4, Register)]);
        // lock xadd word [rdi], dx, the prefixes in both orders.
        assert_eq!(kinds(&[0x66, 0xf0, 0x0f, 0xc1, 0x17])[0], (Mnemonic::Xadd, 2, Register));
        assert_eq!(kinds(&[0xf0, 0x66, 0x0f, 0xc1, 0x17]), [(Mnemonic::Xadd, 2, Register)]);
        // lock or dword [rdi + 8], -2
        assert_eq!(kinds(&[0xf0, 0x83, 0x4f, 8, 0xfe]), [(Mnemonic::Or, 4, Immediate(0xffff_fffe))]);
        // lock inc qword [rdi + 4 * rcx]
        assert_eq!(kinds(&[0xf0, 0x48, 0xff, 0x04, 0x8f]), [(Mnemonic::Inc, 8, None)]);
        // xchg [rdi], rdx, and what that is without its prefix.
        assert_eq!(
            kinds(&[0x48, 0x87, 0x17]),
            [(Mnemonic::Xchg, 8, Register), (Mnemonic::Xchg, 4, Register)]
        );
        // lock cmpxchg16b [rdi]
        assert_eq!(kinds(&[0xf0, 0x48, 0x0f, 0xc7, 0x0f]), [(Mnemonic::Cmpxchg16b, 16, None)]);
    }

    #[test]
    fn what_cannot_be_given_its_address_is_not_borrowed() {
        for text in [
            // lock cmpxchg [rdi], edi; [rdx], eax; [rax], edx
            &[0xf0, 0x0f, 0xb1, 0x3f][..],
            &[0xf0, 0x0f, 0xb1, 0x02],
            &[0xf0, 0x0f, 0xb1, 0x10],
            // lock xadd [rsp], edx; [rip + 0], edx; [edi], edx; fs:[rdi], edx; [rdi], esp; [rdi + 1 * rdi], edx
            &[0xf0, 0x0f, 0xc1, 0x14, 0x24],
            &[0xf0, 0x0f, 0xc1, 0x15, 0, 0, 0, 0],
            &[0xf0, 0x67, 0x0f, 0xc1, 0x17],
            &[0xf0, 0x64, 0x0f, 0xc1, 0x17],
            &[0xf0, 0x0f, 0xc1, 0x27],
            &[0xf0, 0x0f, 0xc1, 0x14, 0x3f],
            // lock xadd [rdi], dh
            &[0xf0, 0x0f, 0xc0, 0x37],
            // lock cmpxchg16b [rdx]; xchg eax, edx; lock mov [rdi], edx, which is none
            &[0xf0, 0x48, 0x0f, 0xc7, 0x0a],
            &[0x87, 0xd0],
            &[0xf0, 0x89, 0x17],
            // Cut off.
            &[0xf0, 0x0f, 0xc1],
        ] {
            assert!(found(text).is_empty(), "{text:02x?}: {:?}", found(text));
        }
    }

    #[test]
    fn registers_make_up_the_address() {
        // lock xadd [rdi + 4 * rcx + 16], dx
        let locked = found(&[0x66, 0xf0, 0x0f, 0xc1, 0x54, 0x8f, 16])[0];
        let mut registers = no_registers();
        let values = Values { address: 0x5000, source: 7, ..Values::default() };
        (registers.rcx, registers.rdx) = (99, 5);
        locked.prepare(&mut registers, &values);
        assert_eq!((registers.rdi, registers.rcx, registers.rdx, registers.rip), (0x5000 - 16, 0, 7, 0x1000));
        registers.rdx = 0xffff_0003;
        assert_eq!(locked.old(&mut registers), 3);
    }

    #[test]
    fn pairs_are_split_into_halves() {
        // lock cmpxchg8b [rdi]
        let locked = found(&[0xf0, 0x0f, 0xc7, 0x0f])[0];
        let mut registers = no_registers();
        let values = Values { expected: 0x1_0000_0002, new: 0x3_0000_0004, ..Values::default() };
        locked.prepare(&mut registers, &values);
        assert_eq!((registers.rdx, registers.rax, registers.rcx, registers.rbx), (1, 2, 3, 4));
        assert_eq!(locked.old(&mut registers), 0x1_0000_0002);
    }
}
