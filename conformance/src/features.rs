//! What CPUID says of iced-x86's features.

use std::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use std::sync::OnceLock;

use iced_x86::{Code, CpuidFeature};

/// A register of CPUID's answer.
#[derive(Clone, Copy)]
enum Answer {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where CPUID tells of a feature: leaf, sub-leaf, register, bit (SDM volume 2, CPUID; APM volume 3,
/// appendix E). Features that every processor in 64-bit mode has are not here, nor those that CPUID does not
/// tell of.
const BITS: &[(CpuidFeature, u32, u32, Answer, u32)] = {
    use Answer::{Eax, Ebx, Ecx, Edx};
    use CpuidFeature as F;
    &[
        (F::SSE3, 1, 0, Ecx, 0),
        (F::PCLMULQDQ, 1, 0, Ecx, 1),
        (F::MONITOR, 1, 0, Ecx, 3),
        (F::SMX, 1, 0, Ecx, 6),
        (F::SSSE3, 1, 0, Ecx, 9),
        (F::FMA, 1, 0, Ecx, 12),
        (F::CMPXCHG16B, 1, 0, Ecx, 13),
        (F::SSE4_1, 1, 0, Ecx, 19),
        (F::SSE4_2, 1, 0, Ecx, 20),
        (F::MOVBE, 1, 0, Ecx, 22),
        (F::POPCNT, 1, 0, Ecx, 23),
        (F::AES, 1, 0, Ecx, 25),
        (F::XSAVE, 1, 0, Ecx, 27),
        (F::AVX, 1, 0, Ecx, 28),
        (F::F16C, 1, 0, Ecx, 29),
        (F::RDRAND, 1, 0, Ecx, 30),
        (F::CLFSH, 1, 0, Edx, 19),
        (F::FSGSBASE, 7, 0, Ebx, 0),
        (F::SGX1, 7, 0, Ebx, 2),
        (F::BMI1, 7, 0, Ebx, 3),
        (F::AVX2, 7, 0, Ebx, 5),
        (F::BMI2, 7, 0, Ebx, 8),
        (F::RTM, 7, 0, Ebx, 11),
        (F::AVX512F, 7, 0, Ebx, 16),
        (F::AVX512DQ, 7, 0, Ebx, 17),
        (F::RDSEED, 7, 0, Ebx, 18),
        (F::ADX, 7, 0, Ebx, 19),
        (F::AVX512_IFMA, 7, 0, Ebx, 21),
        (F::CLFLUSHOPT, 7, 0, Ebx, 23),
        (F::CLWB, 7, 0, Ebx, 24),
        (F::AVX512CD, 7, 0, Ebx, 28),
        (F::SHA, 7, 0, Ebx, 29),
        (F::AVX512BW, 7, 0, Ebx, 30),
        (F::AVX512VL, 7, 0, Ebx, 31),
        (F::AVX512_VBMI, 7, 0, Ecx, 1),
        (F::PKU, 7, 0, Ecx, 4),
        (F::WAITPKG, 7, 0, Ecx, 5),
        (F::AVX512_VBMI2, 7, 0, Ecx, 6),
        (F::CET_SS, 7, 0, Ecx, 7),
        (F::GFNI, 7, 0, Ecx, 8),
        (F::VAES, 7, 0, Ecx, 9),
        (F::VPCLMULQDQ, 7, 0, Ecx, 10),
        (F::AVX512_VNNI, 7, 0, Ecx, 11),
        (F::AVX512_BITALG, 7, 0, Ecx, 12),
        (F::AVX512_VPOPCNTDQ, 7, 0, Ecx, 14),
        (F::RDPID, 7, 0, Ecx, 22),
        (F::AESKLE, 7, 0, Ecx, 23),
        (F::WIDE_KL, 7, 0, Ecx, 23),
        (F::CLDEMOTE, 7, 0, Ecx, 25),
        (F::MOVDIRI, 7, 0, Ecx, 27),
        (F::MOVDIR64B, 7, 0, Ecx, 28),
        (F::ENQCMD, 7, 0, Ecx, 29),
        (F::UINTR, 7, 0, Edx, 5),
        (F::AVX512_VP2INTERSECT, 7, 0, Edx, 8),
        (F::SERIALIZE, 7, 0, Edx, 14),
        (F::TSXLDTRK, 7, 0, Edx, 16),
        (F::CET_IBT, 7, 0, Edx, 20),
        (F::AMX_BF16, 7, 0, Edx, 22),
        (F::AVX512_FP16, 7, 0, Edx, 23),
        (F::AMX_TILE, 7, 0, Edx, 24),
        (F::AMX_INT8, 7, 0, Edx, 25),
        (F::SHA512, 7, 1, Eax, 0),
        (F::SM3, 7, 1, Eax, 1),
        (F::SM4, 7, 1, Eax, 2),
        (F::RAO_INT, 7, 1, Eax, 3),
        (F::AVX_VNNI, 7, 1, Eax, 4),
        (F::AVX512_BF16, 7, 1, Eax, 5),
        (F::CMPCCXADD, 7, 1, Eax, 7),
        (F::AMX_FP16, 7, 1, Eax, 21),
        (F::AVX_IFMA, 7, 1, Eax, 23),
        (F::AVX_VNNI_INT8, 7, 1, Edx, 4),
        (F::AVX_NE_CONVERT, 7, 1, Edx, 5),
        (F::AMX_COMPLEX, 7, 1, Edx, 8),
        (F::AVX_VNNI_INT16, 7, 1, Edx, 10),
        (F::XSAVEOPT, 0xd, 1, Eax, 0),
        (F::XSAVEC, 0xd, 1, Eax, 1),
        (F::PTWRITE, 0x14, 0, Ebx, 4),
        (F::SVM, 0x8000_0001, 0, Ecx, 2),
        (F::LZCNT, 0x8000_0001, 0, Ecx, 5),
        (F::SSE4A, 0x8000_0001, 0, Ecx, 6),
        (F::RDTSCP, 0x8000_0001, 0, Edx, 27),
        (F::D3NOW, 0x8000_0001, 0, Edx, 31),
        (F::FMA4, 0x8000_0001, 0, Ecx, 16),
        (F::XOP, 0x8000_0001, 0, Ecx, 11),
        (F::LWP, 0x8000_0001, 0, Ecx, 15),
        (F::TBM, 0x8000_0001, 0, Ecx, 21),
        (F::MONITORX, 0x8000_0001, 0, Ecx, 29),
        (F::CLZERO, 0x8000_0008, 0, Ebx, 0),
        (F::RDPRU, 0x8000_0008, 0, Ebx, 4),
        (F::MCOMMIT, 0x8000_0008, 0, Ebx, 8),
        (F::SEV_ES, 0x8000_001f, 0, Eax, 3),
    ]
};

fn ask(leaf: u32, subleaf: u32) -> Option<CpuidResult> {
    (leaf <= __cpuid(leaf & 0x8000_0000).eax).then(|| __cpuid_count(leaf, subleaf))
}

/// What CPUID says of each row of [`BITS`]. It is asked once: under a hypervisor the question is slow.
fn reports() -> &'static [bool] {
    static REPORTS: OnceLock<Vec<bool>> = OnceLock::new();
    REPORTS.get_or_init(|| {
        let bit = |(_, leaf, subleaf, register, bit): &(_, u32, u32, Answer, u32)| {
            let Some(answer) = ask(*leaf, *subleaf) else { return false };
            let value = match register {
                Answer::Eax => answer.eax,
                Answer::Ebx => answer.ebx,
                Answer::Ecx => answer.ecx,
                Answer::Edx => answer.edx,
            };
            value >> bit & 1 != 0
        };
        BITS.iter().map(bit).collect()
    })
}

/// Whether CPUID reports `feature`; `None` if it has no bit for it.
#[must_use]
pub fn reported(feature: CpuidFeature) -> Option<bool> {
    let row = BITS.iter().position(|row| row.0 == feature)?;
    reports().get(row).copied()
}

/// Whether a hypervisor says that there is one.
#[must_use]
pub fn is_virtual() -> bool {
    const HYPERVISOR: u32 = 1 << 31;
    static VIRTUAL: OnceLock<bool> = OnceLock::new();
    *VIRTUAL.get_or_init(|| __cpuid(1).ecx & HYPERVISOR != 0)
}

/// The features of `code` that CPUID says this processor does not have.
#[must_use]
pub fn missing(code: Code) -> Vec<CpuidFeature> {
    code.cpuid_features().iter().copied().filter(|feature| reported(*feature) == Some(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuid_and_the_standard_library_agree() {
        assert_eq!(reported(CpuidFeature::AVX2), Some(is_x86_feature_detected!("avx2")));
        assert_eq!(reported(CpuidFeature::AVX512F), Some(is_x86_feature_detected!("avx512f")));
        assert_eq!(reported(CpuidFeature::SHA), Some(is_x86_feature_detected!("sha")));
        assert_eq!(reported(CpuidFeature::LZCNT), Some(is_x86_feature_detected!("lzcnt")));
        assert_eq!(reported(CpuidFeature::INTEL8086), None);
    }
}
