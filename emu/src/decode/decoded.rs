//! An instruction, decoded: what executes it looks nothing else up.

use iced_x86::{Code, Instruction, OpCodeTableKind, OpKind};

use crate::decode::flags::Flags;
use crate::decode::operand::{Address, Operand, is_canonical};
use crate::decode::processor::Processor;
use crate::model::condition::Condition;
use crate::model::registers::Rflags;

/// What decoding found out, and the processor that it was decoded for.
#[derive(Clone, Copy)]
pub(crate) struct Decoded {
    pub(crate) next_ip: u64,
    /// The immediate, extended to 64 bits as the instruction says, or the branch target, or FOP.
    pub(crate) immediate: u64,
    pub(crate) address: Address,
    pub(crate) operand: [Operand; 5],
    pub(crate) condition: Condition,
    /// The processor that it is executed as on.
    pub(crate) processor: &'static Processor,
    /// The flags that it leaves undefined and the processor clears.
    pub(crate) cleared: Rflags,
    pub(crate) instruction: Instruction,
}

impl Decoded {
    /// Of an instruction that `bytes` begin with, and that has these flags.
    pub(crate) fn of(
        instruction: Instruction,
        flags: Flags,
        bytes: &[u8],
        processor: &'static Processor,
    ) -> Decoded {
        let mut operand = [Operand::default(); 5];
        for (index, operand) in (0..instruction.op_count()).zip(&mut operand) {
            *operand = Operand::of(&instruction, index);
        }
        let is_x87 = is_x87(instruction.code());
        Decoded {
            next_ip: instruction.next_ip(),
            immediate: if is_x87 { x87_opcode(bytes) } else { immediate(&instruction) },
            address: Address::of(&instruction, processor),
            operand,
            condition: Condition::of(instruction.condition_code()),
            processor,
            cleared: flags.cleared(processor),
            instruction,
        }
    }

    /// The address that it was decoded for.
    #[inline(always)]
    pub(crate) fn ip(&self) -> u64 {
        self.instruction.ip()
    }

    /// Whether an address is canonical on this processor.
    #[inline(always)]
    pub(crate) fn is_canonical(&self, address: u64) -> bool {
        is_canonical(address, self.processor.sign_bits())
    }

    /// FOP of an x87 instruction.
    #[inline(always)]
    pub(crate) fn x87_opcode(&self) -> u16 {
        self.immediate as u16
    }
}

/// Whether it is encoded with one of the escape opcodes D8 to DF.
fn is_x87(code: Code) -> bool {
    let operation = code.op_code();
    let first = operation.op_code() >> (8 * operation.op_code_len().saturating_sub(1));
    operation.table() == OpCodeTableKind::Normal && (0xd8..=0xdf).contains(&first)
}

/// FOP: the low three bits of the escape opcode, and the byte after it (SDM volume 1, section 8.1.9).
fn x87_opcode(bytes: &[u8]) -> u64 {
    let escape = bytes.iter().position(|byte| (0xd8..=0xdf).contains(byte)).unwrap_or(0);
    let byte = |index: usize| bytes.get(index).copied().map_or(0, u64::from);
    (byte(escape) & 7) << 8 | byte(escape + 1)
}

fn immediate(instruction: &Instruction) -> u64 {
    (0..instruction.op_count())
        .find_map(|index| match instruction.op_kind(index) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                Some(instruction.near_branch_target())
            }
            OpKind::Register | OpKind::Memory | OpKind::FarBranch16 | OpKind::FarBranch32 => None,
            _ => instruction.try_immediate(index).ok(),
        })
        .unwrap_or(0)
}
