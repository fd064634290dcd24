//! The general registers of a stopped thread, as handlers see them.

use emu::{Registers, Rflags};

use crate::language::Register;

/// The registers of a thread that are there at every hit.
///
/// The others cost a system call, so that they are fetched when they are asked for: [`Hit::extended`](crate::Hit::extended),
/// [`Hit::pkru`](crate::Hit::pkru).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GeneralRegisters {
    /// RAX to R15 in machine encoding; see [`emu::registers::gpr`].
    pub gpr: [u64; 16],
    /// The address of the instruction.
    pub rip: u64,
    /// The flags. IF, IOPL, VM, VIF, VIP and ID cannot be changed.
    pub rflags: Rflags,
    /// The base address of FS.
    pub fs_base: u64,
    /// The base address of GS.
    pub gs_base: u64,
    /// Segment selectors in machine encoding; see [`emu::registers::segment`]. CS is 0x33 in 64-bit code and
    /// 0x23 in 32-bit code.
    pub segment: [u16; 6],
}

impl GeneralRegisters {
    /// What one of them holds.
    #[must_use]
    pub fn get(&self, register: Register) -> u64 {
        match register {
            Register::Rip => self.rip,
            Register::Rflags => self.rflags.bits(),
            Register::FsBase => self.fs_base,
            Register::GsBase => self.gs_base,
            general => self.gpr.get(general as usize).copied().unwrap_or(0),
        }
    }

    /// Has one of them hold something else.
    pub fn set(&mut self, register: Register, value: u64) {
        match register {
            Register::Rip => self.rip = value,
            Register::Rflags => self.rflags = Rflags::from_bits_retain(value),
            Register::FsBase => self.fs_base = value,
            Register::GsBase => self.gs_base = value,
            general => {
                if let Some(place) = self.gpr.get_mut(general as usize) {
                    *place = value;
                }
            }
        }
    }

    pub(crate) fn of(file: &Registers) -> GeneralRegisters {
        let &Registers { gpr, rip, rflags, fs_base, gs_base, segment, .. } = file;
        GeneralRegisters { gpr, rip, rflags, fs_base, gs_base, segment }
    }

    /// Whether they are those of a register file.
    #[inline]
    pub(crate) fn are_of(&self, file: &Registers) -> bool {
        let &GeneralRegisters { ref gpr, rip, rflags, fs_base, gs_base, segment } = self;
        // Without a call of memcmp, which in a stub would be of registers that nobody has used.
        let differing = gpr.iter().zip(&file.gpr).fold(0, |differing, (one, other)| differing | one ^ other);
        let others = (rip, rflags, fs_base, gs_base, segment);
        differing == 0 && others == (file.rip, file.rflags, file.fs_base, file.gs_base, file.segment)
    }

    /// Puts them into a register file.
    pub(crate) fn put(&self, file: &mut Registers) {
        let &GeneralRegisters { gpr, rip, rflags, fs_base, gs_base, segment } = self;
        (file.gpr, file.rip, file.rflags) = (gpr, rip, rflags);
        (file.fs_base, file.gs_base, file.segment) = (fs_base, gs_base, segment);
    }
}
