//! Which parts of a thread an instruction needs.

use bitflags::bitflags;

bitflags! {
    /// What an executor must fetch before executing, and what it must store afterwards.
    ///
    /// General registers, RIP, RFLAGS, selectors and the FS and GS bases are always there.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Touches: u32 {
        /// Reads memory.
        const MEMORY_READ = 1 << 0;
        /// Writes memory.
        const MEMORY_WRITE = 1 << 1;
        /// Reads and writes memory in one step.
        const ATOMIC = 1 << 2;
        /// x87 or MMX registers, control, status or tags.
        const X87 = 1 << 3;
        /// XMM registers or MXCSR.
        const SSE = 1 << 4;
        /// YMM registers.
        const AVX = 1 << 5;
        /// ZMM or mask registers.
        const AVX512 = 1 << 6;
        /// The shadow stack pointer, where the thread has one.
        const SHADOW_STACK = 1 << 7;
        /// PKRU.
        const PKRU = 1 << 8;
        /// Must run on the core on which the thread runs (CPUID, RDPID…).
        const THIS_CORE = 1 << 9;
        /// Writes the FS or GS base or a selector.
        const SEGMENTS = 1 << 10;
        /// TILECFG or tile registers.
        const TILES = 1 << 11;
        /// Everything that XSAVE holds.
        const EXTENDED = Self::X87.bits() | Self::SSE.bits() | Self::AVX.bits() | Self::AVX512.bits()
            | Self::PKRU.bits() | Self::TILES.bits();
    }
}
