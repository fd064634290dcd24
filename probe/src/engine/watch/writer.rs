//! Which instruction has written. Debug registers stop a thread behind it, and where it has come from nothing says: it is
//! the one that ends there, according to where the instructions of the function begin, if it writes to what was written;
//! or the call that has led there; or the string instruction that is still at it.

use std::ops::Range;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, Register,
    UsedMemory,
};

use crate::engine::hit::GeneralRegisters;
use crate::engine::watch::Writer;

/// The longest instruction, in bytes.
const LONGEST: usize = 15;
const RSP: usize = 4;
const RDI: usize = 7;

/// What is known of the code around a place.
pub(crate) trait Text {
    /// The bytes from `address` on, as many of 15 as there are, without breakpoints.
    fn code(&mut self, address: u64) -> Vec<u8>;

    /// Where the instruction begins that ends at `address`, if the function is known that it is in.
    fn before(&mut self, address: u64) -> Option<u64>;
}

/// A thread that has stopped behind a write.
pub(crate) struct Stop<'a> {
    pub(crate) registers: &'a GeneralRegisters,
    /// The system call from which it returns, if it does.
    pub(crate) system_call: Option<u64>,
    /// What was written to: each, or a part of it.
    pub(crate) written: &'a [Range<u64>],
}

/// How sure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Covers {
    Yes,
    /// Its address may have been another, since it has changed what that was made of.
    Perhaps,
    No,
}

pub(crate) fn find(stop: &Stop<'_>, text: &mut dyn Text) -> Writer {
    let rip = stop.registers.rip;
    let behind = ending_at(rip, text);
    if let Some(number) = stop.system_call
        && let Some((address, _)) = behind.iter().find(|(_, instruction)| enters_kernel(instruction))
    {
        return Writer::SystemCall { number, address: *address };
    }
    let mut found: Vec<(u64, Covers)> = Vec::new();
    // One of its iterations is done.
    if let Some(here) = decode(rip, text).filter(is_repeated) {
        found.push((rip, covers(&here, stop)));
    }
    found.extend(behind.iter().map(|(address, instruction)| (*address, covers(instruction, stop))));
    found.extend(call_to(stop, text));
    for wanted in [Covers::Yes, Covers::Perhaps] {
        let mut addresses: Vec<u64> =
            found.iter().filter(|&&(_, covers)| covers == wanted).map(|&(address, _)| address).collect();
        addresses.dedup();
        match addresses[..] {
            [] => {}
            [address] => return Writer::Instruction { address },
            _ => return Writer::OneOf { addresses },
        }
    }
    Writer::Unknown
}

fn decode(address: u64, text: &mut dyn Text) -> Option<Instruction> {
    let code = text.code(address);
    let instruction = Decoder::with_ip(64, &code, address, DecoderOptions::NONE).decode();
    (!instruction.is_invalid()).then_some(instruction)
}

/// The instructions that may end at `address`: one, where that is known.
fn ending_at(address: u64, text: &mut dyn Text) -> Vec<(u64, Instruction)> {
    let mut at = |start: u64| {
        let instruction = decode(start, text)?;
        (instruction.next_ip() == address).then_some((start, instruction))
    };
    let all = (1..=LONGEST as u64).filter_map(|length| at(address.wrapping_sub(length))).collect::<Vec<_>>();
    let known = text.before(address);
    let known = known.and_then(|known| all.iter().find(|(start, _)| *start == known).copied());
    known.map_or(all, |known| vec![known])
}

fn enters_kernel(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Int)
}

fn is_repeated(instruction: &Instruction) -> bool {
    instruction.is_string_instruction() && (instruction.has_rep_prefix() || instruction.has_repne_prefix())
}

/// The call that has led to where the thread is, and has pushed where it returns to.
fn call_to(stop: &Stop<'_>, text: &mut dyn Text) -> Option<(u64, Covers)> {
    let rsp = stop.registers.gpr[RSP];
    let pushed = rsp..rsp.checked_add(8)?;
    if !meets(&pushed, stop.written) {
        return None;
    }
    let mut back = [0; 8];
    let code = text.code(rsp);
    back.copy_from_slice(code.get(..8)?);
    let is_call = |flow: FlowControl| matches!(flow, FlowControl::Call | FlowControl::IndirectCall);
    let calls = ending_at(u64::from_le_bytes(back), text).into_iter();
    let mut calls = calls.filter(|(_, instruction)| is_call(instruction.flow_control()));
    let leads_here = |(_, instruction): &(u64, Instruction)| {
        instruction.flow_control() == FlowControl::IndirectCall
            || instruction.near_branch_target() == stop.registers.rip
    };
    calls.find(leads_here).map(|(address, _)| (address, Covers::Yes))
}

/// Whether any of it was written.
pub(crate) fn meets(range: &Range<u64>, written: &[Range<u64>]) -> bool {
    written.iter().any(|other| range.start < other.end && other.start < range.end)
}

/// Whether the instruction, which has been executed, has written to it.
fn covers(instruction: &Instruction, stop: &Stop<'_>) -> Covers {
    if instruction.is_string_instruction() {
        return covers_string(instruction, stop);
    }
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let writes = |memory: &&UsedMemory| {
        use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
        matches!(memory.access(), Write | CondWrite | ReadWrite | ReadCondWrite)
    };
    let changed: Vec<Register> = info
        .used_registers()
        .iter()
        .filter(|used| {
            use OpAccess::{CondWrite, ReadCondWrite, ReadWrite, Write};
            matches!(used.access(), Write | CondWrite | ReadWrite | ReadCondWrite)
        })
        .map(|used| used.register().full_register())
        .collect();
    let before = |register: Register| {
        let value = value_of(register, stop.registers)?;
        let rsp = register.full_register() == Register::RSP;
        Some(match rsp {
            true => value.wrapping_sub(i64::from(instruction.stack_pointer_increment()).cast_unsigned()),
            false => value,
        })
    };
    let mut best = Covers::No;
    for memory in info.used_memory().iter().filter(writes) {
        let unsure = [memory.base(), memory.index()].into_iter().any(|register| {
            register.is_vector_register()
                || changed.contains(&register.full_register()) && register.full_register() != Register::RSP
        });
        let size = memory.memory_size().size() as u64;
        let address = memory.virtual_address(0, |register, _, _| before(register));
        match address {
            _ if unsure => best = Covers::Perhaps,
            Some(address) if size > 0 && meets(&(address..address.saturating_add(size)), stop.written) => {
                return Covers::Yes;
            }
            Some(_) if size > 0 => {}
            // XSAVE and its like say no size.
            Some(address) if meets(&(address..address.saturating_add(0x4000)), stop.written) => {
                best = Covers::Perhaps;
            }
            _ => {}
        }
    }
    best
}

/// The same of a string instruction: it has gone on already, by one element or, if it is quick, by some.
fn covers_string(instruction: &Instruction, stop: &Stop<'_>) -> Covers {
    const DIRECTION: u64 = 1 << 10;
    const AT_ONCE: u64 = 64;
    let (writes, size) = match instruction.mnemonic() {
        Mnemonic::Movsb | Mnemonic::Stosb | Mnemonic::Insb => (true, 1),
        Mnemonic::Movsw | Mnemonic::Stosw | Mnemonic::Insw => (true, 2),
        Mnemonic::Movsd | Mnemonic::Stosd | Mnemonic::Insd => (true, 4),
        Mnemonic::Movsq | Mnemonic::Stosq => (true, 8),
        _ => (false, 0),
    };
    if !writes {
        return Covers::No;
    }
    let reach = if is_repeated(instruction) { AT_ONCE } else { size };
    let rdi = stop.registers.gpr[RDI];
    let range = match stop.registers.rflags.bits() & DIRECTION == 0 {
        true => rdi.saturating_sub(reach)..rdi,
        false => rdi.saturating_add(size)..rdi.saturating_add(size).saturating_add(reach),
    };
    if meets(&range, stop.written) { Covers::Yes } else { Covers::No }
}

fn value_of(register: Register, registers: &GeneralRegisters) -> Option<u64> {
    match register {
        Register::FS => return Some(registers.fs_base),
        Register::GS => return Some(registers.gs_base),
        Register::CS | Register::DS | Register::ES | Register::SS => return Some(0),
        _ => {}
    }
    if !register.is_gpr() {
        return None;
    }
    let value = *registers.gpr.get(register.full_register().number())?;
    Some(match register.size() {
        8 => value,
        4 => value & u64::from(u32::MAX),
        _ => value & u64::from(u16::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use emu::Rflags;

    /// Instructions one behind the other at 0x1000, and a stack at 0x8000.
    struct Program {
        bytes: Vec<u8>,
        starts: Option<Vec<u64>>,
        stack: Vec<u8>,
    }

    impl Text for Program {
        fn code(&mut self, address: u64) -> Vec<u8> {
            let from = |bytes: &[u8], base: u64| {
                let start = address.checked_sub(base).map_or(usize::MAX, |start| start as usize);
                bytes.get(start..).map(|rest| rest[..rest.len().min(LONGEST)].to_vec())
            };
            from(&self.bytes, 0x1000).or_else(|| from(&self.stack, 0x8000)).unwrap_or_default()
        }

        fn before(&mut self, address: u64) -> Option<u64> {
            self.starts.as_ref()?.iter().copied().filter(|&start| start < address).max()
        }
    }

    fn registers(rip: u64) -> GeneralRegisters {
        let mut gpr = [0x77; 16];
        gpr[RSP] = 0x8000;
        gpr[RDI] = 0x5001;
        gpr[0] = 0x5000;
        GeneralRegisters { gpr, rip, rflags: Rflags::empty(), fs_base: 0, gs_base: 0, segment: [0; 6] }
    }

    fn found(
        bytes: &[u8],
        starts: Option<Vec<u64>>,
        rip: u64,
        written: u64,
        system_call: Option<u64>,
    ) -> Writer {
        let mut program = Program { bytes: bytes.to_vec(), starts, stack: vec![0; 64] };
        program.stack[..8].copy_from_slice(&0x1005u64.to_le_bytes());
        let written = std::iter::once(written..written + 4).collect::<Vec<_>>();
        let stop = Stop { registers: &registers(rip), system_call, written: &written };
        find(&stop, &mut program)
    }

    #[test]
    fn the_instruction_is_the_one_that_ends_there_and_writes_there() {
        // mov %ecx,(%rax): of its bytes, the second alone is an instruction, too.
        assert_eq!(found(&[0x89, 0x08], None, 0x1002, 0x5000, None), Writer::Instruction { address: 0x1000 });
        // It writes elsewhere.
        assert_eq!(found(&[0x89, 0x08], None, 0x1002, 0x6000, None), Writer::Unknown);
        // rep stosb is at it, and has just ended.
        let stos = [0xf3, 0xaa];
        for rip in [0x1000, 0x1002] {
            let starts = Some(vec![0x1000]);
            assert_eq!(found(&stos, starts, rip, 0x5000, None), Writer::Instruction { address: 0x1000 });
        }
        // Without the boundaries it could be a stosb, to which another instruction has led.
        let both = Writer::OneOf { addresses: vec![0x1001, 0x1000] };
        assert_eq!(found(&stos, None, 0x1002, 0x5000, None), both);
        // push %rax, at the stack pointer that it has left.
        assert_eq!(found(&[0x50], None, 0x1001, 0x8000, None), Writer::Instruction { address: 0x1000 });
        // call 0x1007, by what it has pushed.
        let call = [0xe8, 2, 0, 0, 0, 0x90, 0x90, 0x90];
        let starts = Some(vec![0x1000, 0x1005, 0x1006, 0x1007]);
        assert_eq!(found(&call, starts, 0x1007, 0x8000, None), Writer::Instruction { address: 0x1000 });
        // syscall
        let read = Writer::SystemCall { number: 0, address: 0x1000 };
        assert_eq!(found(&[0x0f, 0x05], None, 0x1002, 0x5000, Some(0)), read);
    }

    #[test]
    fn what_cannot_be_told_apart_is_said_to_be_so() {
        // lock mov is none, but add %ecx,(%rax) with a prefix in front of it is one from either byte on.
        let bytes = [0x66, 0x01, 0x08];
        let both = Writer::OneOf { addresses: vec![0x1001, 0x1000] };
        assert_eq!(found(&bytes, None, 0x1003, 0x5000, None), both);
        let starts = Some(vec![0x1000]);
        assert_eq!(found(&bytes, starts, 0x1003, 0x5000, None), Writer::Instruction { address: 0x1000 });
        // xadd %rax,(%rax) has changed its own address.
        let xadd = [0x48, 0x0f, 0xc1, 0x00];
        let starts = Some(vec![0x1000]);
        assert_eq!(found(&xadd, starts, 0x1004, 0x9000, None), Writer::Instruction { address: 0x1000 });
    }
}
