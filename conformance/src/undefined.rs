//! The flags that the manual calls undefined (SDM volume 2, "Flags Affected" of each instruction). All else
//! is compared exactly.

use emu::Rflags;
use iced_x86::{Mnemonic, Register};

/// When flags are undefined. Counts are those of shifts and rotates after masking by 31, or by 63 if the
/// operand has 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// The count is not zero.
    Counted,
    /// The count is greater than one.
    CountedTwice,
    /// The count is at least the operand's width.
    CountedWidth,
    /// The count is greater than the operand's width.
    CountedBeyond,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Undefined {
    /// The instruction.
    pub mnemonic: Mnemonic,
    /// When.
    pub when: When,
    /// Which flags.
    pub flags: Rflags,
}

const CF: u64 = Rflags::CF.bits();
const PF: u64 = Rflags::PF.bits();
const AF: u64 = Rflags::AF.bits();
const ZF: u64 = Rflags::ZF.bits();
const SF: u64 = Rflags::SF.bits();
const OF: u64 = Rflags::OF.bits();

const fn row(mnemonic: Mnemonic, when: When, flags: u64) -> Undefined {
    Undefined { mnemonic, when, flags: Rflags::from_bits_retain(flags) }
}

/// All of them.
pub const TABLE: &[Undefined] = &[
    row(Mnemonic::And, When::Always, AF),
    row(Mnemonic::Or, When::Always, AF),
    row(Mnemonic::Xor, When::Always, AF),
    row(Mnemonic::Test, When::Always, AF),
    row(Mnemonic::Mul, When::Always, SF | ZF | AF | PF),
    row(Mnemonic::Imul, When::Always, SF | ZF | AF | PF),
    row(Mnemonic::Div, When::Always, CF | OF | SF | ZF | AF | PF),
    row(Mnemonic::Idiv, When::Always, CF | OF | SF | ZF | AF | PF),
    row(Mnemonic::Rol, When::CountedTwice, OF),
    row(Mnemonic::Ror, When::CountedTwice, OF),
    row(Mnemonic::Rcl, When::CountedTwice, OF),
    row(Mnemonic::Rcr, When::CountedTwice, OF),
    row(Mnemonic::Shl, When::Counted, AF),
    row(Mnemonic::Shl, When::CountedTwice, OF),
    row(Mnemonic::Shl, When::CountedWidth, CF),
    row(Mnemonic::Sal, When::Counted, AF),
    row(Mnemonic::Sal, When::CountedTwice, OF),
    row(Mnemonic::Sal, When::CountedWidth, CF),
    row(Mnemonic::Shr, When::Counted, AF),
    row(Mnemonic::Shr, When::CountedTwice, OF),
    row(Mnemonic::Shr, When::CountedWidth, CF),
    row(Mnemonic::Sar, When::Counted, AF),
    row(Mnemonic::Shld, When::Counted, AF),
    row(Mnemonic::Shld, When::CountedTwice, OF),
    row(Mnemonic::Shld, When::CountedBeyond, CF | OF | SF | ZF | AF | PF),
    row(Mnemonic::Shrd, When::Counted, AF),
    row(Mnemonic::Shrd, When::CountedTwice, OF),
    row(Mnemonic::Shrd, When::CountedBeyond, CF | OF | SF | ZF | AF | PF),
];

/// The flags of `mnemonic` that may be undefined.
#[must_use]
pub fn possibly(mnemonic: Mnemonic) -> Rflags {
    TABLE.iter().filter(|row| row.mnemonic == mnemonic).fold(Rflags::empty(), |all, row| all | row.flags)
}

/// The flags that are undefined after `instruction`, which had `rcx` to start with.
#[must_use]
pub fn flags(instruction: &iced_x86::Instruction, rcx: u64) -> Rflags {
    let mnemonic = instruction.mnemonic();
    let mut undefined = Rflags::empty();
    for row in TABLE.iter().filter(|row| row.mnemonic == mnemonic) {
        let (count, width) = count_and_width(instruction, rcx);
        let holds = match row.when {
            When::Always => true,
            When::Counted => count > 0,
            When::CountedTwice => count > 1,
            When::CountedWidth => count >= width,
            When::CountedBeyond => count > width,
        };
        if holds {
            undefined |= row.flags;
        }
    }
    undefined
}

/// The masked count of a shift or rotate, and its operand's width, in bits.
fn count_and_width(instruction: &iced_x86::Instruction, rcx: u64) -> (u64, u64) {
    let last = instruction.op_count().saturating_sub(1);
    let width = match instruction.op0_register() {
        Register::None => 8 * instruction.memory_size().size() as u64,
        register => 8 * register.size() as u64,
    };
    let count = match instruction.try_immediate(last) {
        Ok(immediate) => immediate,
        Err(_) => rcx,
    };
    (count & if width == 64 { 63 } else { 31 }, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_of_zero_leaves_every_flag_defined() {
        let mut decoder = iced_x86::Decoder::new(64, &[0xd3, 0xe0], 0); // shl eax, cl
        let shl = decoder.decode();
        assert_eq!(flags(&shl, 32), Rflags::empty());
        assert_eq!(flags(&shl, 1), Rflags::AF);
        assert_eq!(flags(&shl, 2), Rflags::AF | Rflags::OF);
        let mut decoder = iced_x86::Decoder::new(64, &[0xd2, 0x20], 0); // shl byte [rax], cl
        assert_eq!(flags(&decoder.decode(), 8), Rflags::AF | Rflags::OF | Rflags::CF);
    }
}
