//! Locked accesses across the end of a cache line. Machines punish them, to protect others from the locked bus:
//! one takes 10 ms where another access takes nanoseconds. So they are drawn, but seldom.

use emu::Registers;
use iced_x86::{Instruction, Mnemonic, OpKind};

use super::address::address_of;
use crate::oracle::locks;
use crate::oracle::places::WRITABLE;
use crate::rng::Rng;

/// Of the states that would have split locks, one in so many is kept.
const RATION: u64 = 400;
/// The length of a cache line in bytes.
const LINE: u64 = 64;

/// Whether a state that the instruction shall start from is to be drawn again.
pub(super) fn is_refused(instruction: &Instruction, registers: &Registers, rng: &mut Rng) -> bool {
    is_split_lock(instruction, registers) && rng.below(RATION) != 0
}

/// Whether the instruction locks memory in two cache lines. If it may not write there, it faults before.
pub(super) fn is_split_lock(instruction: &Instruction, registers: &Registers) -> bool {
    if !locks(instruction) {
        return false;
    }
    let size = instruction.memory_size().size() as u64;
    let operand = (0..instruction.op_count()).find(|&operand| instruction.op_kind(operand) == OpKind::Memory);
    let address = operand.and_then(|operand| address_of(instruction, operand, registers));
    let (Some(address), true) = (address, size > 0) else { return false };
    let first = address.wrapping_add(bit_offset(instruction, registers, size));
    let Some(last) = first.checked_add(size - 1) else { return false };
    let is_writable = WRITABLE.iter().any(|region| region.start <= first && last < region.end());
    is_writable && first / LINE != last / LINE
}

/// How far from its address BTS and its kin access memory, in bytes.
fn bit_offset(instruction: &Instruction, registers: &Registers, size: u64) -> u64 {
    let has_offset = matches!(instruction.mnemonic(), Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op1_kind() == OpKind::Register;
    if !has_offset {
        return 0;
    }
    let unused = 64 - 8 * size as u32;
    let number = instruction.op1_register().full_register().number();
    let bits = (registers.gpr[number] << unused) as i64 >> unused;
    bits.div_euclid(8 * size as i64).wrapping_mul(size as i64) as u64
}

#[cfg(test)]
mod tests {
    use emu::registers::gpr;
    use iced_x86::{Code, Decoder};

    use super::*;
    use crate::codes;
    use crate::generate::Generator;
    use crate::oracle::places::{LOW, READ_ONLY};

    fn splits(bytes: &[u8], rbx: u64, rcx: u64) -> bool {
        let instruction = Decoder::new(64, bytes, 0).decode();
        let mut registers = Registers::default();
        registers.gpr[gpr::RBX] = rbx;
        registers.gpr[gpr::RCX] = rcx;
        is_split_lock(&instruction, &registers)
    }

    #[test]
    fn a_split_lock_is_known() {
        const LOCK_ADD: &[u8] = &[0xf0, 0x01, 0x0b]; // lock add [rbx], ecx
        const XCHG: &[u8] = &[0x87, 0x0b]; // xchg [rbx], ecx
        const LOCK_BTS: &[u8] = &[0xf0, 0x48, 0x0f, 0xab, 0x0b]; // lock bts [rbx], rcx
        let end = LOW.start + LINE;
        for instruction in [LOCK_ADD, XCHG] {
            assert!(splits(instruction, end - 3, 0));
            assert!(!splits(instruction, end - 4, 0));
            assert!(!splits(instruction, end, 0));
            // These fault.
            assert!(!splits(instruction, LOW.end() - 1, 0));
            assert!(!splits(instruction, READ_ONLY.start + LINE - 1, 0));
        }
        assert!(!splits(&LOCK_ADD[1..], end - 3, 0), "without LOCK");
        assert!(!splits(LOCK_BTS, LOW.start + 4, 0));
        assert!(splits(LOCK_BTS, LOW.start + 4, 64 * 7));
        assert!(splits(LOCK_BTS, end + 4, 0u64.wrapping_sub(1)));
        assert!(splits(LOCK_BTS, end + 4, 0u64.wrapping_sub(64)));
        assert!(!splits(LOCK_BTS, end + 4, 0u64.wrapping_sub(65)));
    }

    #[test]
    fn they_are_drawn_seldom() {
        let mut generator = Generator::new(&emu::xsave::Layout::LEGACY, 0);
        let (mut drawn, mut split) = (0, 0);
        for code in codes::user_mode().filter(|code| code.op_code().can_use_lock_prefix()) {
            for number in 0..512 {
                let Some(sample) = generator.case(code, number, 1) else { continue };
                drawn += u64::from(locks(&sample.instruction));
                split += u64::from(is_split_lock(&sample.instruction, &sample.case.registers));
            }
        }
        // Some one in ten would be without a ration.
        assert!(drawn > 10_000, "{drawn}");
        assert!((1..=drawn / 500).contains(&split), "{split} of {drawn}");
        assert!(generator.case(Code::Xchg_rm64_r64, 0, 1).is_some());
    }
}
