//! Where the operands of an instruction lie in memory.

use emu::Registers;
use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, Register, UsedMemory};

use crate::generate::address;

/// What the instruction may access: an operand, or an element of one that VSIB addresses.
pub(super) struct Operand {
    pub(super) address: u64,
    /// In bytes; never 0.
    pub(super) size: usize,
    pub(super) access: OpAccess,
}

/// All that the instruction may access with these registers, whatever its mask or its condition says.
pub(super) fn operands(instruction: &Instruction, registers: &Registers) -> Vec<Operand> {
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_memory().iter();
    used.flat_map(|memory| {
        let (size, access) = (memory.memory_size().size(), memory.access());
        (0..elements(memory)).filter_map(move |element| {
            let address = memory.virtual_address(element, |register, element, size| {
                part(registers, register, element, size)
            })?;
            (size > 0).then_some(Operand { address, size, access })
        })
    })
    .collect()
}

/// How many addresses it stands for.
fn elements(memory: &UsedMemory) -> usize {
    match memory.vsib_size() as usize {
        0 => 1,
        size => memory.index().size() / size,
    }
}

/// What a register that is part of an address holds; of a vector the element, of which the lower bits count if it is of
/// four bytes.
fn part(registers: &Registers, register: Register, element: usize, size: usize) -> Option<u64> {
    if !register.is_vector_register() {
        return address::value(registers, register);
    }
    let vector = registers.extended.vector.get(register.number())?;
    let quadword = vector.0.get(element * size / 8)?;
    Some(quadword >> (element * size % 8 * 8))
}
