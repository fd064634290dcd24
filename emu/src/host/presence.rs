//! Which of the instructions that a host may lack it has, without a system to ask.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::sync::atomic::{AtomicU32, Ordering};

use super::answers;

/// Whether the host has a feature, and its system has enabled the registers that it needs: as the standard library's
/// `is_x86_feature_detected`.
macro_rules! detected {
    ("ssse3") => {
        $crate::host::presence::is_set(1 << 0)
    };
    ("pclmulqdq") => {
        $crate::host::presence::is_set(1 << 1)
    };
    ("aes") => {
        $crate::host::presence::is_set(1 << 2)
    };
    ("sha") => {
        $crate::host::presence::is_set(1 << 3)
    };
    ("gfni") => {
        $crate::host::presence::is_set(1 << 4)
    };
    ("fma") => {
        $crate::host::presence::is_set(1 << 5)
    };
    ("avx512f") => {
        $crate::host::presence::is_set(1 << 6)
    };
    ("avx512vl") => {
        $crate::host::presence::is_set(1 << 7)
    };
    ("avx512fp16") => {
        $crate::host::presence::is_set(1 << 8)
    };
    ($feature:tt) => {
        compile_error!(concat!("nobody has asked for ", $feature, " yet"))
    };
}
pub(super) use detected;

/// Set once CPUID has been asked.
const ASKED: u32 = 1 << 31;

#[inline(always)]
pub(super) fn is_set(bit: u32) -> bool {
    static FOUND: AtomicU32 = AtomicU32::new(0);
    let mut found = FOUND.load(Ordering::Relaxed);
    if found & ASKED == 0 {
        found = ask();
        FOUND.store(found, Ordering::Relaxed);
    }
    found & bit != 0
}

/// The bits of [`detected`].
#[cold]
fn ask() -> u32 {
    /// XMM and the upper halves of YMM, in XCR0.
    const AVX: u64 = 0b110;
    /// These, the mask registers and all of ZMM.
    const AVX512: u64 = 0b1110_0110;
    let one = __cpuid(1);
    let seven = if __cpuid(0).eax >= 7 {
        __cpuid_count(7, 0)
    } else {
        CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 }
    };
    let is = |register: u32, bit: u32| register >> bit & 1 != 0;
    let enabled = if is(one.ecx, 27) { answers::xcr0() } else { 0 };
    let (avx, avx512) = (enabled & AVX == AVX, enabled & AVX512 == AVX512);
    [
        is(one.ecx, 9),
        is(one.ecx, 1),
        is(one.ecx, 25),
        is(seven.ebx, 29),
        is(seven.ecx, 8),
        is(one.ecx, 12) && avx,
        is(seven.ebx, 16) && avx512,
        is(seven.ebx, 31) && avx512,
        is(seven.edx, 23) && avx512,
    ]
    .iter()
    .enumerate()
    .fold(ASKED, |found, (bit, &set)| found | u32::from(set) << bit)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_standard_library_says_the_same() {
        macro_rules! same {
            ($($feature:tt)+) => {
                $(assert_eq!(detected!($feature), std::is_x86_feature_detected!($feature), $feature);)+
            };
        }
        same!("ssse3" "pclmulqdq" "aes" "sha" "gfni" "fma" "avx512f" "avx512vl" "avx512fp16");
    }
}
