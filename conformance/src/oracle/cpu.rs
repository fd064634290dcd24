//! What this processor and its kernel offer.

#![allow(unsafe_code, reason = "XGETBV has no safe form")]

use std::arch::x86_64::{__cpuid, __cpuid_count, _xgetbv};

use emu::xsave::{Layout, feature};

/// The XSAVE layout of this processor under what its kernel has switched on, or `None` without XSAVE.
#[must_use]
pub fn xsave_layout() -> Option<Layout> {
    const OSXSAVE: u32 = 1 << 27;
    if __cpuid(1).ecx & OSXSAVE == 0 {
        return None;
    }
    Some(Layout::new(xcr0() & feature::ALL, |number| {
        let leaf = __cpuid_count(0xd, number);
        (leaf.eax as usize, leaf.ebx as usize)
    }))
}

#[target_feature(enable = "xsave")]
fn read_xcr0() -> u64 {
    // SAFETY: register 0 exists wherever XGETBV does.
    unsafe { _xgetbv(0) }
}

/// XCR0, on a processor with OSXSAVE.
fn xcr0() -> u64 {
    // SAFETY: the one caller has asked CPUID for OSXSAVE.
    unsafe { read_xcr0() }
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
    #[repr(C, align(16))]
    struct Image([u8; 512]);
    let mut image = Image([0; 512]);
    // SAFETY: x86-64 has FXSAVE; the image is aligned and long enough.
    unsafe { std::arch::x86_64::_fxsave64(image.0.as_mut_ptr()) };
    emu::xsave::mxcsr_mask(&image.0)
}
