//! The register file of one thread in 64-bit user mode.

use bitflags::bitflags;

pub use crate::model::tiles::{ROW_LENGTH, ROWS, TILES, Tile, TileConfig, TileData, Tiles};

bitflags! {
    /// RFLAGS (SDM volume 1, section 3.4.3). Bits that have no name here are kept as they are.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const FIXED = 1 << 1;
        /// Parity of the low byte: set if even.
        const PF = 1 << 2;
        /// Auxiliary carry, out of bit 3.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: a debug exception after each instruction.
        const TF = 1 << 8;
        /// Interrupt enable.
        const IF = 1 << 9;
        /// Direction of string instructions.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, two bits.
        const IOPL = 3 << 12;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID is there: user mode can toggle it.
        const ID = 1 << 21;
        /// The six flags that arithmetic writes.
        const STATUS = Self::CF.bits() | Self::PF.bits() | Self::AF.bits() | Self::ZF.bits()
            | Self::SF.bits() | Self::OF.bits();
        const _ = !0;
    }
}

impl Default for Rflags {
    fn default() -> Self {
        Rflags::FIXED | Rflags::IF
    }
}

/// The number of a general register in machine encoding, which is also its index in [`Registers::gpr`].
#[allow(missing_docs, reason = "the SDM's own register names")]
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
    pub const R9: usize = 9;
    pub const R10: usize = 10;
    pub const R11: usize = 11;
    pub const R12: usize = 12;
    pub const R13: usize = 13;
    pub const R14: usize = 14;
    pub const R15: usize = 15;
}

/// The number of a segment register in machine encoding, which is also its index in [`Registers::segment`].
#[allow(missing_docs, reason = "the SDM's own register names")]
pub mod segment {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Everything an instruction in 64-bit user mode can read or write besides memory.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Registers {
    /// RAX to R15 in machine encoding; see [`gpr`].
    pub gpr: [u64; 16],
    /// The address of the instruction to execute.
    pub rip: u64,
    /// The flags.
    pub rflags: Rflags,
    /// The base address of FS.
    pub fs_base: u64,
    /// The base address of GS.
    pub gs_base: u64,
    /// Segment selectors in machine encoding; see [`segment`].
    pub segment: [u16; 6],
    /// The protection-key rights, if the processor has them.
    pub pkru: u32,
    /// The shadow stack pointer, if this thread has a shadow stack.
    pub ssp: Option<u64>,
    /// x87, MMX, SSE, AVX, AVX-512 and AMX state.
    pub extended: Extended,
}

/// The state that XSAVE saves: x87, vector, mask and tile registers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Extended {
    /// x87 and MMX.
    pub x87: X87,
    /// SSE control and status (SDM volume 1, section 10.2.3).
    pub mxcsr: Mxcsr,
    /// ZMM0 to ZMM31, whose low parts are YMM and XMM.
    pub vector: [Vector; 32],
    /// K0 to K7.
    pub opmask: [u64; 8],
    /// TILECFG and TMM0 to TMM7.
    pub tiles: Tiles,
}

impl Extended {
    /// A copy without tile registers, which takes no memory of its own.
    pub(crate) fn without_tile_data(&self) -> Extended {
        Extended {
            x87: self.x87.clone(),
            mxcsr: self.mxcsr,
            vector: self.vector,
            opmask: self.opmask,
            tiles: Tiles { config: self.tiles.config, data: TileData::default() },
        }
    }
}

/// One vector register: 512 bits as little-endian quadwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub struct Vector(pub [u64; 8]);

/// An 80-bit x87 register as it lies in memory: the low 64 bits are also an MMX register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Float80 {
    /// The 64-bit significand, its integer bit explicit.
    pub significand: u64,
    /// Sign in bit 15, biased exponent below.
    pub sign_exponent: u16,
}

/// The x87 state (SDM volume 1, section 8.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct X87 {
    /// R0 to R7, the *physical* registers: ST(i) is R\[(TOP + i) & 7\], and MMi is Ri.
    pub r: [Float80; 8],
    /// FCW.
    pub control: u16,
    /// FSW, with TOP in bits 11 to 13.
    pub status: u16,
    /// The abridged tag word as FXSAVE keeps it: bit i set if Ri is not empty.
    pub tag: u8,
    /// FOP, 11 bits.
    pub opcode: u16,
    /// FIP.
    pub instruction_pointer: u64,
    /// FDP.
    pub data_pointer: u64,
}

impl Default for X87 {
    /// The state after FNINIT.
    fn default() -> Self {
        X87 {
            r: [Float80::default(); 8],
            control: 0x037f,
            status: 0,
            tag: 0,
            opcode: 0,
            instruction_pointer: 0,
            data_pointer: 0,
        }
    }
}

bitflags! {
    /// MXCSR (SDM volume 1, section 10.2.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Mxcsr: u32 {
        /// Invalid operation.
        const IE = 1 << 0;
        /// Denormal operand.
        const DE = 1 << 1;
        /// Division by zero.
        const ZE = 1 << 2;
        /// Overflow.
        const OE = 1 << 3;
        /// Underflow.
        const UE = 1 << 4;
        /// Precision.
        const PE = 1 << 5;
        /// Denormal operands are zeros.
        const DAZ = 1 << 6;
        /// Masks of the six exceptions, in the order of their flags.
        const MASKS = 0x3f << 7;
        /// Rounding control.
        const RC = 3 << 13;
        /// Denormal results are flushed to zero.
        const FTZ = 1 << 15;
        /// The six sticky flags.
        const EXCEPTIONS = 0x3f;
        const _ = !0;
    }
}

impl Default for Mxcsr {
    /// The state after reset: everything masked, round to nearest.
    fn default() -> Self {
        Mxcsr::MASKS
    }
}
