//! The features of CPUID, under iced-x86's names.

use core::fmt;

use iced_x86::CpuidFeature as F;

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Features([u64; 4]);

impl Features {
    /// None.
    pub const NONE: Features = Features([0; 4]);
    /// All that iced-x86 knows.
    pub const ALL: Features = Features([u64::MAX; 4]);

    /// These.
    #[must_use]
    pub const fn of(features: &[F]) -> Features {
        let mut set = Features::NONE;
        let mut index = 0;
        while index < features.len() {
            set = set.with(features[index]);
            index += 1;
        }
        set
    }

    const fn with(mut self, feature: F) -> Features {
        let number = feature as usize;
        self.0[number >> 6 & 3] |= 1 << (number & 63);
        self
    }

    /// Whether it has `feature`.
    #[inline]
    #[must_use]
    pub const fn has(&self, feature: F) -> bool {
        let number = feature as usize;
        self.0[number >> 6 & 3] >> (number & 63) & 1 != 0
    }

    /// Adds `feature`, or takes it away.
    pub fn set(&mut self, feature: F, present: bool) {
        let number = feature as usize;
        let (word, bit) = (&mut self.0[number >> 6 & 3], 1 << (number & 63));
        *word = if present { *word | bit } else { *word & !bit };
    }

    /// Those of either.
    #[must_use]
    pub const fn union(self, other: Features) -> Features {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Features([a | e, b | f, c | g, d | h])
    }

    /// Those that `other` has not.
    #[must_use]
    pub const fn without(self, other: Features) -> Features {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, other.0);
        Features([a & !e, b & !f, c & !g, d & !h])
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = F> {
        F::values().filter(|feature| self.has(*feature))
    }

    /// The feature of that name, as iced-x86 prints it: "AVX512_VBMI2".
    #[must_use]
    pub fn named(name: &str) -> Option<F> {
        F::values().find(|feature| {
            // Compared as it is written, without a string of its own.
            struct Rest<'a>(Option<&'a str>);
            impl fmt::Write for Rest<'_> {
                fn write_str(&mut self, text: &str) -> fmt::Result {
                    self.0 = self.0.and_then(|rest| rest.strip_prefix(text));
                    Ok(())
                }
            }
            let mut rest = Rest(Some(name));
            fmt::write(&mut rest, format_args!("{feature:?}")).is_ok() && rest.0 == Some("")
        })
    }
}

impl fmt::Debug for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A register of CPUID's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where CPUID tells of something: leaf, sub-leaf, register, bit.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "std"), expect(dead_code, reason = "without a system nobody looks there"))]
pub(super) struct Bit(pub(super) u32, pub(super) u32, pub(super) Answer, pub(super) u32);

/// The components of XCR0 without which the system has not enabled a feature.
const AVX: u64 = 0b110;
const AVX512: u64 = 0b1110_0110;
const AMX: u64 = 0b11 << 17;

/// Where CPUID tells of a feature (SDM volume 2, CPUID; APM volume 3, appendix E), and what XCR0 must have.
/// Features that every processor in 64-bit mode has are not here, nor those that CPUID does not tell of.
pub(super) const BITS: &[(F, Bit, u64)] = {
    use Answer::{Eax, Ebx, Ecx, Edx};
    &[
        (F::SSE3, Bit(1, 0, Ecx, 0), 0),
        (F::PCLMULQDQ, Bit(1, 0, Ecx, 1), 0),
        (F::MONITOR, Bit(1, 0, Ecx, 3), 0),
        (F::VMX, Bit(1, 0, Ecx, 5), 0),
        (F::SMX, Bit(1, 0, Ecx, 6), 0),
        (F::SSSE3, Bit(1, 0, Ecx, 9), 0),
        (F::FMA, Bit(1, 0, Ecx, 12), AVX),
        (F::CMPXCHG16B, Bit(1, 0, Ecx, 13), 0),
        (F::SSE4_1, Bit(1, 0, Ecx, 19), 0),
        (F::SSE4_2, Bit(1, 0, Ecx, 20), 0),
        (F::MOVBE, Bit(1, 0, Ecx, 22), 0),
        (F::POPCNT, Bit(1, 0, Ecx, 23), 0),
        (F::AES, Bit(1, 0, Ecx, 25), 0),
        // OSXSAVE: the system has to turn it on.
        (F::XSAVE, Bit(1, 0, Ecx, 27), 0),
        (F::AVX, Bit(1, 0, Ecx, 28), AVX),
        (F::F16C, Bit(1, 0, Ecx, 29), AVX),
        (F::RDRAND, Bit(1, 0, Ecx, 30), 0),
        (F::CLFSH, Bit(1, 0, Edx, 19), 0),
        (F::FSGSBASE, Bit(7, 0, Ebx, 0), 0),
        (F::SGX1, Bit(7, 0, Ebx, 2), 0),
        (F::BMI1, Bit(7, 0, Ebx, 3), 0),
        (F::HLE, Bit(7, 0, Ebx, 4), 0),
        (F::AVX2, Bit(7, 0, Ebx, 5), AVX),
        (F::BMI2, Bit(7, 0, Ebx, 8), 0),
        (F::INVPCID, Bit(7, 0, Ebx, 10), 0),
        (F::RTM, Bit(7, 0, Ebx, 11), 0),
        (F::AVX512F, Bit(7, 0, Ebx, 16), AVX512),
        (F::AVX512DQ, Bit(7, 0, Ebx, 17), AVX512),
        (F::RDSEED, Bit(7, 0, Ebx, 18), 0),
        (F::ADX, Bit(7, 0, Ebx, 19), 0),
        (F::SMAP, Bit(7, 0, Ebx, 20), 0),
        (F::AVX512_IFMA, Bit(7, 0, Ebx, 21), AVX512),
        (F::CLFLUSHOPT, Bit(7, 0, Ebx, 23), 0),
        (F::CLWB, Bit(7, 0, Ebx, 24), 0),
        (F::AVX512PF, Bit(7, 0, Ebx, 26), AVX512),
        (F::AVX512ER, Bit(7, 0, Ebx, 27), AVX512),
        (F::AVX512CD, Bit(7, 0, Ebx, 28), AVX512),
        (F::SHA, Bit(7, 0, Ebx, 29), 0),
        (F::AVX512BW, Bit(7, 0, Ebx, 30), AVX512),
        (F::AVX512VL, Bit(7, 0, Ebx, 31), AVX512),
        (F::AVX512_VBMI, Bit(7, 0, Ecx, 1), AVX512),
        // OSPKE: the system has to turn it on.
        (F::PKU, Bit(7, 0, Ecx, 4), 0),
        (F::WAITPKG, Bit(7, 0, Ecx, 5), 0),
        (F::AVX512_VBMI2, Bit(7, 0, Ecx, 6), AVX512),
        (F::CET_SS, Bit(7, 0, Ecx, 7), 0),
        (F::GFNI, Bit(7, 0, Ecx, 8), 0),
        (F::VAES, Bit(7, 0, Ecx, 9), AVX),
        (F::VPCLMULQDQ, Bit(7, 0, Ecx, 10), AVX),
        (F::AVX512_VNNI, Bit(7, 0, Ecx, 11), AVX512),
        (F::AVX512_BITALG, Bit(7, 0, Ecx, 12), AVX512),
        (F::AVX512_VPOPCNTDQ, Bit(7, 0, Ecx, 14), AVX512),
        (F::RDPID, Bit(7, 0, Ecx, 22), 0),
        (F::AESKLE, Bit(0x19, 0, Ebx, 0), 0),
        (F::KL, Bit(7, 0, Ecx, 23), 0),
        (F::WIDE_KL, Bit(0x19, 0, Ebx, 2), 0),
        (F::CLDEMOTE, Bit(7, 0, Ecx, 25), 0),
        (F::MOVDIRI, Bit(7, 0, Ecx, 27), 0),
        (F::MOVDIR64B, Bit(7, 0, Ecx, 28), 0),
        (F::ENQCMD, Bit(7, 0, Ecx, 29), 0),
        (F::AVX512_4VNNIW, Bit(7, 0, Edx, 2), AVX512),
        (F::AVX512_4FMAPS, Bit(7, 0, Edx, 3), AVX512),
        (F::UINTR, Bit(7, 0, Edx, 5), 0),
        (F::AVX512_VP2INTERSECT, Bit(7, 0, Edx, 8), AVX512),
        (F::SERIALIZE, Bit(7, 0, Edx, 14), 0),
        (F::TSXLDTRK, Bit(7, 0, Edx, 16), 0),
        (F::PCONFIG, Bit(7, 0, Edx, 18), 0),
        (F::CET_IBT, Bit(7, 0, Edx, 20), 0),
        (F::AMX_BF16, Bit(7, 0, Edx, 22), AMX),
        (F::AVX512_FP16, Bit(7, 0, Edx, 23), AVX512),
        (F::AMX_TILE, Bit(7, 0, Edx, 24), AMX),
        (F::AMX_INT8, Bit(7, 0, Edx, 25), AMX),
        (F::SHA512, Bit(7, 1, Eax, 0), AVX),
        (F::SM3, Bit(7, 1, Eax, 1), AVX),
        (F::SM4, Bit(7, 1, Eax, 2), AVX),
        (F::RAO_INT, Bit(7, 1, Eax, 3), 0),
        (F::AVX_VNNI, Bit(7, 1, Eax, 4), AVX),
        (F::AVX512_BF16, Bit(7, 1, Eax, 5), AVX512),
        (F::CMPCCXADD, Bit(7, 1, Eax, 7), 0),
        (F::FRED, Bit(7, 1, Eax, 17), 0),
        (F::LKGS, Bit(7, 1, Eax, 18), 0),
        (F::WRMSRNS, Bit(7, 1, Eax, 19), 0),
        (F::AMX_FP16, Bit(7, 1, Eax, 21), AMX),
        (F::HRESET, Bit(7, 1, Eax, 22), 0),
        (F::AVX_IFMA, Bit(7, 1, Eax, 23), AVX),
        (F::MSRLIST, Bit(7, 1, Eax, 27), 0),
        (F::TSE, Bit(7, 1, Ebx, 1), 0),
        (F::AVX_VNNI_INT8, Bit(7, 1, Edx, 4), AVX),
        (F::AVX_NE_CONVERT, Bit(7, 1, Edx, 5), AVX),
        (F::AMX_COMPLEX, Bit(7, 1, Edx, 8), AMX),
        (F::AVX_VNNI_INT16, Bit(7, 1, Edx, 10), AVX),
        (F::PREFETCHITI, Bit(7, 1, Edx, 14), 0),
        (F::XSAVEOPT, Bit(0xd, 1, Eax, 0), 0),
        (F::XSAVEC, Bit(0xd, 1, Eax, 1), 0),
        (F::XSAVES, Bit(0xd, 1, Eax, 3), 0),
        (F::PTWRITE, Bit(0x14, 0, Ebx, 4), 0),
        (F::SVM, Bit(0x8000_0001, 0, Ecx, 2), 0),
        (F::LZCNT, Bit(0x8000_0001, 0, Ecx, 5), 0),
        (F::SSE4A, Bit(0x8000_0001, 0, Ecx, 6), 0),
        (F::XOP, Bit(0x8000_0001, 0, Ecx, 11), AVX),
        (F::SKINIT, Bit(0x8000_0001, 0, Ecx, 12), 0),
        (F::LWP, Bit(0x8000_0001, 0, Ecx, 15), 0),
        (F::FMA4, Bit(0x8000_0001, 0, Ecx, 16), AVX),
        (F::TBM, Bit(0x8000_0001, 0, Ecx, 21), 0),
        (F::MONITORX, Bit(0x8000_0001, 0, Ecx, 29), 0),
        (F::RDTSCP, Bit(0x8000_0001, 0, Edx, 27), 0),
        (F::D3NOWEXT, Bit(0x8000_0001, 0, Edx, 30), 0),
        (F::D3NOW, Bit(0x8000_0001, 0, Edx, 31), 0),
        (F::CLZERO, Bit(0x8000_0008, 0, Ebx, 0), 0),
        (F::INVLPGB, Bit(0x8000_0008, 0, Ebx, 3), 0),
        (F::RDPRU, Bit(0x8000_0008, 0, Ebx, 4), 0),
        (F::MCOMMIT, Bit(0x8000_0008, 0, Ebx, 8), 0),
        (F::WBNOINVD, Bit(0x8000_0008, 0, Ebx, 9), 0),
        (F::SEV_ES, Bit(0x8000_001f, 0, Eax, 3), 0),
        (F::SEV_SNP, Bit(0x8000_001f, 0, Eax, 4), 0),
    ]
};

/// The features whose instructions mean something without them, too, which their rows decide: hints in the
/// encoding space of NOP, what the decoder itself tells apart, and what depends on more than CPUID tells.
pub(super) const DECIDED_BY_ROWS: Features = Features::of(&[
    F::CET_IBT,
    F::CET_SS,
    F::CLDEMOTE,
    F::LZCNT,
    F::MONITORX,
    F::MPX,
    F::MULTIBYTENOP,
    F::PREFETCHITI,
    F::PREFETCHW,
    F::PREFETCHWT1,
    F::SEV_ES,
    F::SEV_SNP,
    F::SKINIT,
    F::SKINIT_or_SVM,
    F::SVM,
    F::WBNOINVD,
]);

/// Those that iced-x86 names as one of two.
pub(super) const EITHER: &[(F, [F; 2])] =
    &[(F::HLE_or_RTM, [F::HLE, F::RTM]), (F::SKINIT_or_SVM, [F::SKINIT, F::SVM])];

/// What comes with VMX, and has no bit of its own.
pub(super) const WITH_VMX: Features = Features::of(&[F::INVEPT, F::INVVPID]);

/// The features that CPUID tells of.
pub(super) fn told() -> Features {
    BITS.iter().fold(WITH_VMX, |all, (feature, ..)| all.with(*feature)).union(either(Features::ALL))
}

/// Those of [`EITHER`] that follow from the others.
pub(super) fn either(features: Features) -> Features {
    let follows = |(_, of): &&(F, [F; 2])| of.iter().any(|feature| features.has(*feature));
    EITHER.iter().filter(follows).fold(Features::NONE, |all, (feature, _)| all.with(*feature))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_feature_is_found_by_its_name() {
        assert_eq!(Features::named("AVX512_VBMI2"), Some(F::AVX512_VBMI2));
        assert_eq!(Features::named("AVX512_VBMI"), Some(F::AVX512_VBMI));
        assert_eq!(Features::named("AVX512_VB"), None);
        assert_eq!(Features::named(""), None);
    }

    #[test]
    fn each_feature_has_one_bit() {
        for (number, (feature, ..)) in BITS.iter().enumerate() {
            assert_eq!(BITS.iter().position(|row| row.0 == *feature), Some(number), "{feature:?}");
        }
        let mut set = Features::of(&[F::AVX, F::AVX_VNNI_INT16]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [F::AVX, F::AVX_VNNI_INT16]);
        set.set(F::AVX, false);
        assert!(!set.has(F::AVX) && set.has(F::AVX_VNNI_INT16));
    }
}
