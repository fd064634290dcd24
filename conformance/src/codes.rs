//! The encodings that there are, and those that are not run on the processor, with why.

use emu::{Facts, Processor};
use iced_x86::{Code, CpuidFeature, EncodingKind, FlowControl, Mnemonic};

use crate::oracle::permits_tiles;

/// The encodings of 64-bit user mode.
pub fn user_mode() -> impl Iterator<Item = Code> {
    all().filter(|code| !code.is_privileged() && !code.op_code().must_be_cpl0())
}

/// The encodings of 64-bit mode, those included that user mode may execute only to fault.
pub fn all() -> impl Iterator<Item = Code> {
    Code::values().filter(|code| is_current(*code))
}

/// Whether 64-bit mode has this encoding and a processor that is made today or was lately may have it.
fn is_current(code: Code) -> bool {
    let info = code.op_code();
    let encoding = matches!(info.encoding(), EncodingKind::Legacy | EncodingKind::VEX | EncodingKind::EVEX);
    info.is_instruction() && info.mode64() && encoding && !is_obsolete(code)
}

/// The encodings of 64-bit user mode that no processor of today has, those of the Xeon Phi coprocessor included.
pub fn obsolete() -> impl Iterator<Item = Code> {
    Code::values().filter(|code| {
        let info = code.op_code();
        let is_users = !code.is_privileged() && !info.must_be_cpl0();
        info.is_instruction() && info.mode64() && is_users && !is_current(*code)
    })
}

fn is_obsolete(code: Code) -> bool {
    const OBSOLETE: &[CpuidFeature] = &[
        CpuidFeature::CYRIX_FPU,
        CpuidFeature::CYRIX_EMMI,
        CpuidFeature::CYRIX_SMM,
        CpuidFeature::CYRIX_SMINT,
        CpuidFeature::CYRIX_SMINT_0F7E,
        CpuidFeature::CYRIX_SHR,
        CpuidFeature::CYRIX_DDI,
        CpuidFeature::CYRIX_DMI,
        CpuidFeature::D3NOW,
        CpuidFeature::D3NOWEXT,
        CpuidFeature::CENTAUR_AIS,
        CpuidFeature::UDBG,
        CpuidFeature::KNC,
        CpuidFeature::MPX,
        CpuidFeature::PADLOCK_ACE,
        CpuidFeature::PADLOCK_GMI,
        CpuidFeature::PADLOCK_PHE,
        CpuidFeature::PADLOCK_PMM,
        CpuidFeature::PADLOCK_RNG,
        CpuidFeature::PADLOCK_UNDOC,
        CpuidFeature::PCOMMIT,
        CpuidFeature::PREFETCHWT1,
        CpuidFeature::FMA4,
        CpuidFeature::XOP,
        CpuidFeature::AVX512ER,
        CpuidFeature::AVX512PF,
        CpuidFeature::AVX512_4FMAPS,
        CpuidFeature::AVX512_4VNNIW,
    ];
    code.cpuid_features().iter().any(|feature| OBSOLETE.contains(feature))
}

/// Why an encoding is not run on the processor although it may have it.
#[must_use]
pub fn skipped(code: Code) -> Option<&'static str> {
    use Mnemonic as M;
    match code.mnemonic() {
        M::Syscall | M::Sysenter => Some("would make a system call"),
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdrand | M::Rdseed | M::Rdpru => {
            Some("the answer differs each time")
        }
        M::Mwait | M::Mwaitx | M::Umwait | M::Tpause => Some("would block"),
        M::Vmcall | M::Vmmcall | M::Vmgexit | M::Vmfunc | M::Tdcall | M::Seamcall => {
            Some("would ask the hypervisor")
        }
        M::Int1 if Processor::host().facts.contains(Facts::INT1_LEAVES_RIP) => {
            Some("the hypervisor delivers its exception with another RIP")
        }
        _ if code.cpuid_features().iter().any(|feature| TILES.contains(feature))
            && has_tiles()
            && !permits_tiles() =>
        {
            Some("the kernel does not permit this process tile registers")
        }
        M::Xbegin | M::Xend | M::Xabort | M::Xtest => Some("transactions abort as they please"),
        _ if code.flow_control() == FlowControl::XbeginXabortXend => {
            Some("transactions abort as they please")
        }
        _ => None,
    }
}

/// What has tile registers.
const TILES: &[CpuidFeature] = &[
    CpuidFeature::AMX_TILE,
    CpuidFeature::AMX_INT8,
    CpuidFeature::AMX_BF16,
    CpuidFeature::AMX_FP16,
    CpuidFeature::AMX_COMPLEX,
];

fn has_tiles() -> bool {
    Processor::host().features.has(CpuidFeature::AMX_TILE)
}

/// Encodings whose very purpose is #UD.
#[must_use]
pub fn is_undefined_by_design(code: Code) -> bool {
    matches!(code.mnemonic(), Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2)
}

/// Why no instruction of an encoding could be made.
#[must_use]
pub fn not_encoded(code: Code) -> &'static str {
    let info = code.op_code();
    if info.fwait() {
        "is two instructions: FWAIT and another"
    } else if info.amd_decoder64() && !info.intel_decoder64() {
        "iced-x86 decodes it only when told to decode as AMD's processors do"
    } else {
        "iced-x86 decodes no bytes as this"
    }
}

/// What holds encodings that no processor at hand has, by the features that they need: tests of `emu` against a source
/// that is independent of it, or `replay`.
const SECOND_SOURCES: &[(CpuidFeature, &str)] = {
    use CpuidFeature as F;
    const DEFINITION: &str = "the manual's definition, written once more";
    const RECORDED: &str = "the recorded answers of Emerald Rapids";
    &[
        (F::SHA512, "RustCrypto's sha2"),
        (F::SM3, "RustCrypto's sm3"),
        (F::SM4, "RustCrypto's sm4"),
        (F::AVX512_VP2INTERSECT, DEFINITION),
        (F::AVX_VNNI_INT8, DEFINITION),
        (F::AVX_VNNI_INT16, DEFINITION),
        (F::AVX_IFMA, "the same operation of AVX512_IFMA"),
        (F::AVX_NE_CONVERT, "the same conversion of F16C and AVX512_BF16, and the standard library's"),
        (F::FMA4, "the same operation of FMA, and the standard library's"),
        (F::XOP, DEFINITION),
        (F::TBM, DEFINITION),
        (F::D3NOW, "the standard library's arithmetic, and the manual's definition"),
        (F::D3NOWEXT, "the standard library's arithmetic, and the manual's definition"),
        (F::AMX_TILE, RECORDED),
        (F::AMX_INT8, RECORDED),
        (F::AMX_BF16, RECORDED),
        (F::AMX_FP16, DEFINITION),
        (F::AMX_COMPLEX, DEFINITION),
        (F::CMPCCXADD, DEFINITION),
        (F::RAO_INT, DEFINITION),
        (F::CET_SS, DEFINITION),
        (F::PKU, DEFINITION),
        (F::WAITPKG, DEFINITION),
        (F::RTM, DEFINITION),
        (F::HLE_or_RTM, DEFINITION),
    ]
};

/// What holds an encoding that no processor at hand has, if anything does.
#[must_use]
pub fn second_source(code: Code) -> Option<&'static str> {
    let features = code.cpuid_features();
    SECOND_SOURCES.iter().find(|(feature, _)| features.contains(feature)).map(|(_, source)| *source)
}

/// Whether `name` matches `pattern`, in which `*` stands for anything and `?` for one character, whatever
/// their case.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    probe::glob::matches(&pattern.to_ascii_lowercase(), &name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_names() {
        assert!(matches("Add_*", "Add_rm8_r8"));
        assert!(matches("*_rm8_*", "Add_rm8_r8"));
        assert!(matches("add_rm?_r8", "Add_rm8_r8"));
        assert!(matches("*", ""));
        assert!(!matches("Add", "Add_rm8_r8"));
        assert!(!matches("*_r16", "Add_rm8_r8"));
    }

    #[test]
    fn there_are_as_many_as_known() {
        let count = |kind| user_mode().filter(|code| code.op_code().encoding() == kind).count();
        let counts = [EncodingKind::Legacy, EncodingKind::VEX, EncodingKind::EVEX].map(count);
        assert_eq!(counts, [1469, 876, 1701]);
        assert!(obsolete().all(|code| user_mode().all(|current| current != code)));
        assert!(obsolete().any(|code| code == Code::VEX_Vfmaddps_xmm_xmm_xmmm128_xmm));
    }
}
