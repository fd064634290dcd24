//! Borrowed instructions: a thread runs one that its text already has, with registers set so that it does
//! what is wanted. Only a thread itself can enter the kernel or fault; this way it does so and nothing is injected.
//! For atomic accesses to its memory see [`locked`](crate::executor::ptrace::locked).

use emu::registers::gpr;
use emu::{Registers, Rflags};

use crate::executor::ptrace::registers::Fetched;
use crate::executor::ptrace::stopped::{Resume, Stopped};
use crate::executor::ptrace::threads::{Gone, Ran, Threads};
use crate::executor::space::{self, Space};
use crate::target::lock;
use crate::target::maps::{self, Mapping, Permissions};

/// What an instruction is borrowed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// MOV of a byte from memory.
    Load,
    /// A read and write of memory that changes nothing.
    Store,
    /// The same, atomic, and addressed by RSP.
    StackStore,
    /// DIV by a register.
    Divide,
    /// UD2.
    Undefined,
    /// FWAIT.
    Wait,
    /// NOP.
    Nothing,
    /// INT1.
    Debug,
    /// SYSCALL.
    Syscall,
    /// INT n.
    Interrupt(u8),
    /// A jump to itself, if no status flag is set.
    Circle,
}

/// The longest instruction that is borrowed, in bytes.
const LONGEST: usize = 5;

/// An instruction of the target.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Loan {
    pub(crate) address: u64,
    bytes: [u8; LONGEST],
    pattern: Pattern,
}

/// How the bytes of a borrowed instruction are to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern {
    /// How many of them count.
    length: usize,
    /// The register that holds the address, or is the operand, if any.
    base: Option<usize>,
    /// The register that holds the value to store, if any.
    value: Option<usize>,
}

impl Pattern {
    /// An instruction without operands.
    const fn plain(length: usize) -> Pattern {
        Pattern { length, base: None, value: None }
    }

    const fn on(base: usize, length: usize) -> Pattern {
        Pattern { length, base: Some(base), value: None }
    }
}

/// How many bytes [`Need::StackStore`] accesses.
pub(super) const STACK_STORE_LENGTH: u64 = 4;

impl Need {
    /// `lock or dword [rsp], 0`: a full barrier as compilers write it.
    const BARRIER: [u8; 5] = [0xf0, 0x83, 0x0c, 0x24, 0x00];

    /// Looks for the instruction at the start of `bytes`. Any bytes that decode so will do, also from the
    /// middle of another instruction.
    fn pattern(self, bytes: &[u8]) -> Option<Pattern> {
        let starts = |with: &[u8]| bytes.starts_with(with).then_some(Pattern::plain(with.len()));
        match self {
            // MOV r8, r/m8
            Need::Load => {
                let &[0x8a, modrm, ..] = bytes else { return None };
                Some(Pattern::on(plain_base(modrm)?, 2))
            }
            // ADD r/m8, r8 and OR r/m8, r8; numbers 4 to 7 would be AH to BH.
            Need::Store => {
                let &[0x00 | 0x08, modrm, ..] = bytes else { return None };
                let (base, value) = (plain_base(modrm)?, register(modrm));
                (value < 4 && value != base).then_some(Pattern { value: Some(value), ..Pattern::on(base, 2) })
            }
            Need::StackStore => starts(&Self::BARRIER).map(|_| Pattern::on(gpr::RSP, Self::BARRIER.len())),
            Need::Divide => {
                let &[0xf7, modrm, ..] = bytes else { return None };
                let base = usize::from(modrm & 7);
                (modrm & 0xf8 == 0xf0 && base != gpr::RSP).then_some(Pattern::on(base, 2))
            }
            Need::Undefined => starts(&[0x0f, 0x0b]),
            Need::Wait => starts(&[0x9b]),
            Need::Nothing => starts(&[0x90]),
            Need::Debug => starts(&[0xf1]),
            Need::Syscall => starts(&[0x0f, 0x05]),
            Need::Interrupt(number) => starts(&[0xcd, number]),
            // JMP rel8, and Jcc rel8 of those conditions that are true where no flag is set.
            Need::Circle => match bytes {
                [0xeb | 0x71 | 0x73 | 0x75 | 0x77 | 0x79 | 0x7b | 0x7d | 0x7f, 0xfe, ..] => {
                    Some(Pattern::plain(2))
                }
                _ => None,
            },
        }
    }
}

/// The register number in the middle of a ModRM byte.
fn register(modrm: u8) -> usize {
    usize::from(modrm >> 3 & 7)
}

/// The base register of a ModRM byte that means `[register]` and nothing more.
fn plain_base(modrm: u8) -> Option<usize> {
    let rm = usize::from(modrm & 7);
    (modrm < 0x40 && rm != gpr::RSP && rm != gpr::RBP).then_some(rm)
}

impl Loan {
    fn at(need: Need, address: u64, bytes: &[u8]) -> Option<Loan> {
        let pattern = need.pattern(bytes)?;
        let mut copy = [0; LONGEST];
        copy.iter_mut().zip(bytes.iter().take(pattern.length)).for_each(|(to, from)| *to = *from);
        Some(Loan { address, bytes: copy, pattern })
    }

    /// Whether it is there still, and no breakpoint on it, of which one of the hardware does not show.
    fn is_still_there(&self, space: &Space) -> bool {
        let mut now = [0; LONGEST];
        let length = self.pattern.length;
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

    /// Sets the registers so that the instruction works on `operand`, and stores `value` if it stores one.
    pub(crate) fn prepare(&self, registers: &mut Registers, operand: u64, value: u64) {
        registers.rip = self.address;
        if let Some(base) = self.pattern.base.and_then(|number| registers.gpr.get_mut(number)) {
            *base = operand;
        }
        if let Some(register) = self.pattern.value.and_then(|number| registers.gpr.get_mut(number)) {
            *register = value;
        }
    }
}

/// The instructions that have been found, or not, in an address space.
#[derive(Debug, Default)]
pub(crate) struct Loans(Vec<(Need, Option<Loan>)>);

/// An instruction that thread `tid` can borrow.
pub(crate) fn loan(space: &Space, tid: i32, need: Need) -> Option<Loan> {
    let mut loans = lock(&space.loans);
    let index = loans.0.iter().position(|&(known, _)| known == need);
    if let Some(&(_, known)) = index.and_then(|index| loans.0.get(index))
        && known.is_none_or(|loan| loan.is_still_there(space))
    {
        return known;
    }
    let found = find(space, tid, need);
    match index.and_then(|index| loans.0.get_mut(index)) {
        Some(known) => known.1 = found,
        None => loans.0.push((need, found)),
    }
    found
}

/// The mappings whose instructions can be borrowed, in the order in which they are to be asked: the vDSO and what the
/// dynamic linker has loaded first lie above what comes, and goes, later.
pub(super) fn lenders(space: &Space, tid: i32) -> Vec<Mapping> {
    let maps = maps::read(tid).or_else(|_| lock(&space.sharing).mappings());
    maps.unwrap_or_default().into_iter().filter(lends).rev().collect()
}

/// Whether a mapping's instructions can be borrowed. What a compiler at run time has made another thread may overwrite
/// while one is on its way there, through this mapping or another.
fn lends(mapping: &Mapping) -> bool {
    let shared = mapping.perms.contains(Permissions::SHARED);
    mapping.is_executable() && space::is_steady(mapping) && !shared
}

/// Searches the text of the target.
fn find(space: &Space, tid: i32, need: Need) -> Option<Loan> {
    const CHUNK: usize = 1 << 16;
    let mut buffer = vec![0; CHUNK];
    for mapping in lenders(space, tid) {
        let mut address = mapping.start;
        while address < mapping.end {
            let wanted = usize::try_from(mapping.end - address).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = buffer.get_mut(..wanted)?;
            let Ok(count) = space.read_raw(address, chunk) else { break };
            let read = chunk.get(..count)?;
            let loan = (0..read.len())
                .filter_map(|offset| Loan::at(need, address + offset as u64, read.get(offset..)?))
                .find(|loan| space.watched(loan.address).is_none());
            if loan.is_some() {
                return loan;
            }
            if count < wanted {
                break;
            }
            // The next chunk starts with the last bytes of this one.
            address += if count == CHUNK { (CHUNK - LONGEST) as u64 } else { count as u64 };
        }
    }
    None
}

/// Makes the thread run `loan` with the registers that `prepare` changes, and puts those right again, except that
/// RF stays set where a fault has set it, as in the flags that a signal handler finds saved. Also returns where
/// the thread was then.
pub(crate) fn run(
    threads: &mut Threads,
    thread: &mut Stopped,
    registers: &mut Fetched,
    how: Resume,
    prepare: impl FnOnce(&mut Registers),
) -> Result<(Ran, u64), Gone> {
    let tid = thread.tid();
    let own = (registers.file.gpr, registers.file.rip, registers.file.rflags);
    prepare(&mut registers.file);
    let prepared = registers.store(thread);
    let ran = match threads.refused(tid, "PTRACE_SETREGS", prepared) {
        true => Ran::Refused,
        false => threads.run(thread, how)?,
    };
    // The registers may have changed in the kernel: what `store` compares with must be fetched first.
    let shadow = registers.shadow_stack();
    let fetched = registers.fetch(thread);
    let known = threads.note(tid, "PTRACE_GETREGS", fetched).is_some();
    let (rip, resume) = (registers.file.rip, registers.file.rflags & Rflags::RF);
    (registers.file.gpr, registers.file.rip, registers.file.rflags) = own;
    registers.file.rflags |= resume;
    // No instruction that is borrowed moves it.
    registers.resume_shadow_stack(shadow);
    let restored = if known { registers.store(thread) } else { registers.store_all(thread) };
    threads.note(tid, "PTRACE_SETREGS", restored);
    Ok((ran, rip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_may_rewrite_is_not_borrowed() {
        let maps = maps::parse(
            b"10000-11000 rwxp 00000000 00:00 0\n\
            11000-12000 r-xp 00000000 00:00 0\n\
            12000-13000 r-xs 00000000 00:01 5 /memfd:doublemapper (deleted)\n\
            13000-14000 rwxp 00000000 fe:00 7 /usr/bin/program\n\
            14000-15000 r--p 00000000 fe:00 7 /usr/bin/program\n\
            15000-16000 r-xp 00000000 fe:00 7 /usr/bin/program\n\
            7ffff7fc9000-7ffff7fcb000 r-xp 00000000 00:00 0 [vdso]\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]\n",
        );
        let lent: Vec<u64> =
            maps.unwrap().iter().filter(|mapping| lends(mapping)).map(|mapping| mapping.start).collect();
        assert_eq!(lent, [0x15000, 0x7fff_f7fc_9000]);
    }

    #[test]
    fn instructions_are_recognised_by_their_bytes() {
        let pattern = |length, base, value| Some(Pattern { length, base: Some(base), value });
        assert_eq!(Need::Load.pattern(&[0x8a, 0x07]), pattern(2, gpr::RDI, None));
        // [rsp], [rbp + disp8]
        assert_eq!(Need::Load.pattern(&[0x8a, 0x04, 0x24]), None);
        assert_eq!(Need::Load.pattern(&[0x8a, 0x45, 0]), None);
        assert_eq!(Need::Divide.pattern(&[0xf7, 0xf1]), pattern(2, gpr::RCX, None));
        // imul ecx
        assert_eq!(Need::Divide.pattern(&[0xf7, 0xe9]), None);
        assert_eq!(Need::Interrupt(0x80).pattern(&[0xcd, 0x80]), Some(Pattern::plain(2)));
    }
}
