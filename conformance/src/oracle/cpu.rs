//! What this processor and its kernel offer.

#![allow(unsafe_code, reason = "getauxval and arch_prctl have no safe form")]

use std::sync::OnceLock;

use emu::xsave::Layout;

/// arch_prctl's request for permission to use a component of extended state (`asm/prctl.h`).
pub(super) const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
/// The component that a process has to ask for: tile registers.
pub(super) const TILE_DATA: u64 = 18;

/// The XSAVE layout of this processor under what its kernel has switched on, but without tiles if the kernel permits none
/// (see [`permits_tiles`]); or `None` without XSAVE.
#[must_use]
pub fn xsave_layout() -> Option<Layout> {
    let layout = Layout::of_this_processor().copied()?;
    Some(if permits_tiles() { layout } else { layout.without_tiles() })
}

/// Whether the kernel lets processes like this one use tile registers, if the processor has any. Permission does not go
/// beyond execve(2): this process asks to know the answer, and the oracle's child asks for itself.
#[must_use]
pub fn permits_tiles() -> bool {
    static PERMITS: OnceLock<bool> = OnceLock::new();
    let has = || Layout::of_this_processor().is_some_and(|layout| layout.tile_data.is_some());
    // SAFETY: this request takes a number, and changes no more than what this process may do.
    let ask = || unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) } == 0;
    *PERMITS.get_or_init(|| has() && ask())
}

/// Whether user mode may execute WRFSBASE: the processor has it and the kernel has switched it on.
#[must_use]
pub fn has_fsgsbase() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: getauxval only reads the auxiliary vector.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}

/// The MXCSR bits that this processor allows to be set.
#[must_use]
pub fn mxcsr_mask() -> u32 {
    emu::Processor::host().mxcsr_mask.bits()
}
