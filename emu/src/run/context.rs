//! One execution: the instruction, the registers and the memory, and what every row needs of them.

use crate::decode::decoded::Decoded;
use crate::decode::operand::{Kind, Operand};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Xmm};
use crate::model::memory::{Access, UserMemory};
use crate::model::outcome::Outcome;
use crate::model::registers::{Registers, Rflags, gpr};
use crate::model::width::Width;
use crate::run::phases::Phases;

/// What performs an instruction. RIP is that of the next instruction already when it is called; on an
/// error the caller sets it back.
pub(crate) type Execute = fn(&mut Context<'_>) -> Result<Outcome, Exception>;

/// An instruction being executed.
pub(crate) struct Context<'a> {
    pub(crate) decoded: &'a Decoded,
    pub(crate) phases: &'a Phases,
    pub(crate) registers: &'a mut Registers,
    pub(crate) memory: &'a mut dyn UserMemory,
}

impl Context<'_> {
    /// The linear address of the memory operand.
    #[inline(always)]
    pub(crate) fn linear(&self) -> u64 {
        self.decoded.address.linear(self.registers)
    }

    /// What comes of an exception behind parts that are done and stay so. With TF the debug exception is pending since
    /// then and comes first, at the instruction itself (SDM volume 2, VGATHERDPS; so it is of tiles, too).
    pub(crate) fn interrupted(&self, exception: Exception) -> Result<Outcome, Exception> {
        if self.registers.rflags.contains(Rflags::TF) { Ok(Outcome::Again) } else { Err(exception) }
    }

    /// #SS or #GP if one of the bytes is at a non-canonical address, #AC if the access is misaligned and
    /// the thread asked to be told.
    #[inline(always)]
    pub(crate) fn check(
        &self,
        address: u64,
        size: usize,
        alignment: usize,
        stack: bool,
    ) -> Result<(), Exception> {
        let last = address.wrapping_add(size as u64).wrapping_sub(1);
        let misaligned = self.registers.rflags.contains(Rflags::AC) && address & (alignment as u64 - 1) != 0;
        if !self.decoded.is_canonical(address) || !self.decoded.is_canonical(last) {
            return Err(self.not_canonical(address, misaligned, stack));
        }
        if misaligned { Err(Exception::AlignmentCheck) } else { Ok(()) }
    }

    /// What an operand raises of which a byte is not canonical.
    #[cold]
    fn not_canonical(&self, address: u64, misaligned: bool, stack: bool) -> Exception {
        let alignment_first = self.decoded.processor.is(Facts::ALIGNMENT_BEFORE_CANONICAL_END);
        match (misaligned && alignment_first && self.decoded.is_canonical(address), stack) {
            (true, _) => Exception::AlignmentCheck,
            (false, true) => Exception::StackFault(0),
            (false, false) => Exception::GeneralProtection(0),
        }
    }

    /// Reads a value at a linear address.
    #[inline(always)]
    pub(crate) fn load<W: Width>(
        &mut self,
        address: u64,
        access: Access,
        stack: bool,
    ) -> Result<W, Exception> {
        self.check(address, W::BYTES, W::BYTES, stack)?;
        let mut bytes = [0; 8];
        self.memory.read(address, &mut bytes[..W::BYTES], access)?;
        Ok(W::from_bytes(&bytes))
    }

    /// Writes a value at a linear address.
    #[inline(always)]
    pub(crate) fn store<W: Width>(&mut self, address: u64, value: W, stack: bool) -> Result<(), Exception> {
        self.check(address, W::BYTES, W::BYTES, stack)?;
        self.memory.write(address, &value.zero_extend().to_le_bytes()[..W::BYTES])?;
        Ok(())
    }

    /// Replaces a value at a linear address in one step, and returns the one before.
    #[inline(always)]
    pub(crate) fn update<W: Width>(
        &mut self,
        address: u64,
        stack: bool,
        mut update: impl FnMut(W) -> W,
    ) -> Result<W, Exception> {
        self.check(address, W::BYTES, W::BYTES, stack)?;
        let mut wide = |old: u128| u128::from(update(W::truncate_wide(old)).zero_extend());
        let old = self.memory.update(address, W::BYTES, &mut wide)?;
        Ok(W::truncate_wide(old))
    }

    /// Reads operand `index`, whichever kind it is.
    pub(crate) fn read<W: Width>(&mut self, index: usize) -> Result<W, Exception> {
        let operand = self.decoded.operand[index];
        match operand.kind {
            Kind::General => Ok(operand.get(self.registers)),
            Kind::Memory => self.load(self.linear(), Access::Read, self.decoded.address.stack),
            Kind::Immediate => Ok(W::truncate(self.decoded.immediate)),
            Kind::Other | Kind::None => Ok(W::default()),
        }
    }

    /// Reads operand `index`, which the instruction will write.
    pub(crate) fn read_to_write<W: Width>(&mut self, index: usize) -> Result<W, Exception> {
        match self.decoded.operand[index].kind {
            Kind::Memory => self.load(self.linear(), Access::Write, self.decoded.address.stack),
            _ => self.read(index),
        }
    }

    /// Writes operand `index`, a general register or memory.
    pub(crate) fn write<W: Width>(&mut self, index: usize, value: W) -> Result<(), Exception> {
        let operand = self.decoded.operand[index];
        match operand.kind {
            Kind::Memory => self.store(self.linear(), value, self.decoded.address.stack),
            _ => {
                operand.set(self.registers, value);
                Ok(())
            }
        }
    }

    /// The low part of general register `number`.
    #[inline(always)]
    pub(crate) fn general<W: Width>(&self, number: usize) -> W {
        W::truncate(self.registers.gpr[number & 15])
    }

    /// Writes the low part of general register `number`; 32 bits clear the upper half.
    #[inline(always)]
    pub(crate) fn set_general<W: Width>(&mut self, number: usize, value: W) {
        Operand::general(number as u8).set(self.registers, value);
    }

    /// The quadwords of XMM `number`.
    #[inline(always)]
    pub(crate) fn xmm(&self, number: u8) -> &Xmm {
        Xmm::low(&self.registers.extended.vector[usize::from(number & 31)].0)
    }

    /// Replaces the status flags, leaving the others.
    #[inline(always)]
    pub(crate) fn set_status(&mut self, flags: Rflags) {
        self.registers.rflags = self.registers.rflags.difference(Rflags::STATUS) | flags;
    }

    /// Replaces the flags by those that a row's function has computed.
    #[inline(always)]
    pub(crate) fn set_flags(&mut self, flags: Rflags) {
        self.registers.rflags = flags.difference(self.decoded.cleared);
    }

    /// Whether the instruction's condition (SETcc, CMOVcc, Jcc…) holds.
    #[inline(always)]
    pub(crate) fn condition(&self) -> bool {
        self.decoded.condition.holds(self.registers.rflags)
    }

    /// Writes a value below the stack and moves RSP there.
    #[inline(always)]
    pub(crate) fn push<W: Width>(&mut self, value: W) -> Result<(), Exception> {
        let address = self.registers.gpr[gpr::RSP].wrapping_sub(W::BYTES as u64);
        self.store(address, value, true)?;
        self.registers.gpr[gpr::RSP] = address;
        Ok(())
    }

    /// Reads the value at the top of the stack; the caller moves RSP once nothing can fail any more.
    #[inline(always)]
    pub(crate) fn peek<W: Width>(&mut self) -> Result<W, Exception> {
        self.load(self.registers.gpr[gpr::RSP], Access::Read, true)
    }

    /// Moves RSP up past `bytes`.
    #[inline(always)]
    pub(crate) fn release(&mut self, bytes: usize) {
        self.registers.gpr[gpr::RSP] = self.registers.gpr[gpr::RSP].wrapping_add(bytes as u64);
    }

    /// #GP if there can be no code at `target`.
    #[inline(always)]
    pub(crate) fn check_branch(&self, target: u64) -> Result<(), Exception> {
        if self.decoded.is_canonical(target) { Ok(()) } else { Err(Exception::GeneralProtection(0)) }
    }

    /// Goes on at `target`, or #GP if there can be no code there.
    #[inline(always)]
    pub(crate) fn branch(&mut self, target: u64) -> Result<Outcome, Exception> {
        self.check_branch(target)?;
        self.registers.rip = target;
        Ok(Outcome::Next)
    }
}
