//! What this processor and its kernel offer.

#![allow(unsafe_code, reason = "getauxval has no safe form")]

use emu::xsave::Layout;

/// The XSAVE layout of this processor under what its kernel has switched on, but tiles, which the oracle leaves alone; or
/// `None` without XSAVE.
#[must_use]
pub fn xsave_layout() -> Option<Layout> {
    Layout::of_this_processor().copied().map(Layout::without_tiles)
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
