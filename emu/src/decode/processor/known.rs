//! Processors that were measured, and what is assumed of the others.

use iced_x86::CpuidFeature as F;

use super::features::{self, Features, told};
use super::{Facts, Processor, Vendor};
use crate::model::registers::Mxcsr;
use crate::model::xsave::{Components, feature};

/// What AMD's processors do as far as CPUID does not say it: seen on Zen 3, assumed of the others.
pub(super) const AMD: Facts = Facts::OPERAND_SIZE_NARROWS_BRANCHES
    .union(Facts::LOOP_OBEYS_REPEAT)
    .union(Facts::MOVSXD_R16_READS_32_BITS)
    .union(Facts::PREFETCH_OF_REGISTER_IS_UNDEFINED)
    .union(Facts::SYSENTER_IS_UNDEFINED)
    .union(Facts::VMREAD_HAS_IMMEDIATES)
    .union(Facts::PADLOCK_IS_UNDEFINED)
    .union(Facts::SEGMENT_OFFSETS_ARE_CANONICAL)
    .union(Facts::SHA_IGNORES_ALIGNMENT)
    .union(Facts::DOUBLE_SHIFT_REPEATS_SOURCE)
    .union(Facts::RETF_LOOKS_AT_OUTER_STACK)
    .union(Facts::FOP_ALWAYS_WRITTEN)
    .union(Facts::X87_POINTERS_ARE_HIDDEN)
    .union(Facts::GATHERS_TAKE_SIGNS_IN_TURN)
    .union(Facts::AC_WANTS_SIXTEEN_AT_MOST)
    .union(Facts::AC_WANTS_ELEMENTS_ALIGNED)
    .union(Facts::ELEMENTS_FAULT_IN_TURN);

/// What the measured processors of AMD do on top, as guests of KVM.
const AMD_GUEST: Facts = Facts::HIDDEN_MONITORX_DOES_NOTHING
    .union(Facts::INT1_LEAVES_RIP)
    .union(Facts::SVM_IS_PRIVILEGED)
    .union(Facts::PVALIDATE_IS_PRIVILEGED);

/// What AMD's processors do since Zen 5: seen on Zen 5, assumed of later ones.
pub(super) const AMD_SINCE_ZEN_5: Facts = AMD
    .union(Facts::BIT_SCANS_WRITE_ALL_FLAGS)
    .union(Facts::MOVDIR64B_READS_FIRST)
    .union(Facts::CMPS_READS_ITS_SOURCE_FIRST)
    .union(Facts::CLZERO_REFUSES_REPEAT)
    .union(Facts::LOWER_HALVES_ARE_CHECKED_ALONE);

/// What Intel's processors do as far as CPUID does not say it: seen on Emerald Rapids, assumed of the others.
pub(super) const INTEL: Facts = Facts::NULL_SELECTOR_CLEARS_BASE
    .union(Facts::PAUSE_IGNORES_REX_B)
    .union(Facts::WIDE_OPERANDS_IGNORE_AC)
    .union(Facts::ALIGNMENT_BEFORE_CANONICAL_END)
    .union(Facts::BIT_SCANS_WRITE_ALL_FLAGS)
    .union(Facts::ZERO_COUNTS_CLEAR_OVERFLOW)
    .union(Facts::BMI_CLEARS_UNDEFINED_FLAGS)
    .union(Facts::SELECTORS_ARE_TWO_BYTES)
    .union(Facts::IRET_CHECKS_CS_FIRST)
    .union(Facts::CALL_STORES_BEFORE_ITS_FAULT)
    .union(Facts::REPEAT_CUTS_REGISTERS)
    .union(Facts::REPEATED_COMPARISON_RESTORES_FLAGS)
    .union(Facts::MOVDIR64B_READS_FIRST)
    .union(Facts::FDP_IS_LOADED_WHOLE)
    .union(Facts::X87_STORE_RAISES_BEFORE_ITS_ACCESS)
    .union(Facts::M80_IS_STORED_IN_PARTS)
    .union(Facts::MMX_STORE_CLEARS_TOP_BEFORE_ITS_FAULT)
    .union(Facts::MASKMOVDQU_STORES_HALVES)
    .union(Facts::DOT_PRODUCTS_EXCHANGE_LANES)
    .union(Facts::COMPLEX_PRODUCTS_RAISE_NOTHING)
    .union(Facts::XSAVE_LOOKS_AT_THE_END_FIRST)
    .union(Facts::XSAVE_WRITES_FOUR_BYTES_OF_PKRU)
    .union(Facts::XINUSE_IS_CONSERVATIVE)
    .union(Facts::MASKED_STORES_CHECK_THEIR_ENDS)
    .union(Facts::PS2PH_RAISES_BEFORE_ITS_ACCESS)
    .union(Facts::PH2PS_IGNORES_AC)
    .union(Facts::HALVES_OF_DENORMALS_LOSE_PRECISION)
    .union(Facts::REDUCE_FLUSHES_UNMASKED_UNDERFLOW);

/// What both have whose features are named below.
const COMMON: Features = Features::of(&[
    F::SSE3,
    F::PCLMULQDQ,
    F::SSSE3,
    F::FMA,
    F::CMPXCHG16B,
    F::SSE4_1,
    F::SSE4_2,
    F::MOVBE,
    F::POPCNT,
    F::AES,
    F::XSAVE,
    F::AVX,
    F::F16C,
    F::RDRAND,
    F::CLFSH,
    F::FSGSBASE,
    F::BMI1,
    F::AVX2,
    F::BMI2,
    F::RDSEED,
    F::ADX,
    F::SMAP,
    F::CLFLUSHOPT,
    F::CLWB,
    F::SHA,
    F::PKU,
    F::VAES,
    F::VPCLMULQDQ,
    F::INVPCID,
    F::RDPID,
    F::LZCNT,
    F::RDTSCP,
    F::XSAVEOPT,
    F::XSAVEC,
    F::XSAVES,
]);

/// What both have that know AVX-512 and are named below. Hypervisors hid some of it, such as MOVDIR64B and CET.
const COMMON_WITH_AVX512: Features = Features::of(&[
    F::AVX512F,
    F::AVX512DQ,
    F::AVX512_IFMA,
    F::AVX512CD,
    F::AVX512BW,
    F::AVX512VL,
    F::AVX512_VBMI,
    F::AVX512_VBMI2,
    F::GFNI,
    F::AVX512_VNNI,
    F::AVX512_BITALG,
    F::AVX512_VPOPCNTDQ,
    F::MOVDIRI,
    F::MOVDIR64B,
    F::AVX_VNNI,
    F::AVX512_BF16,
    F::CET_SS,
    F::WBNOINVD,
]);

/// What Zen 3 has on top.
const ZEN_3: Features = Features::of(&[F::SSE4A, F::CLZERO, F::WBNOINVD, F::MONITORX]);

/// What Zen 5 has on top. Hypervisors hid protection keys.
const ZEN_5: Features = Features::of(&[F::SSE4A, F::CLZERO, F::MONITORX, F::AVX512_VP2INTERSECT]);

/// What Emerald Rapids has on top. Hypervisors hid some of it, such as PTWRITE and ENQCMD.
const EMERALD_RAPIDS: Features = Features::of(&[
    F::HLE,
    F::RTM,
    F::CLDEMOTE,
    F::ENQCMD,
    F::SERIALIZE,
    F::TSXLDTRK,
    F::AMX_BF16,
    F::AMX_TILE,
    F::AMX_INT8,
    F::AVX512_FP16,
    F::PTWRITE,
    F::CET_IBT,
]);

/// Emerald Rapids' CPUID leaf 0xD: of each component beyond the legacy region its number, size and offset, which is 0 of
/// those that only XSAVES saves (CET's).
const EMERALD_RAPIDS_COMPONENTS: [(usize, u32, u32); 9] = [
    (2, 256, 576),
    (5, 64, 1088),
    (6, 512, 1152),
    (7, 1024, 1664),
    (9, 8, 2688),
    (11, 16, 0),
    (12, 24, 0),
    (17, 64, 2752),
    (18, 8192, 2816),
];

/// The same of Zen 3.
const ZEN_3_COMPONENTS: [(usize, u32, u32); 2] = [(2, 256, 576), (9, 8, 832)];

/// The same of Zen 5.
const ZEN_5_COMPONENTS: [(usize, u32, u32); 7] =
    [(2, 256, 576), (5, 64, 832), (6, 512, 896), (7, 1024, 1408), (9, 8, 2432), (11, 16, 0), (12, 24, 0)];

/// MXCSR without AMD's misaligned exception mask.
const MXCSR: Mxcsr = Mxcsr::from_bits_retain(0xffff);
/// With it.
const MXCSR_WITH_MM: Mxcsr = Mxcsr::from_bits_retain(0x2_ffff);

impl Processor {
    /// AMD family 0x19 (Zen 3), as a guest of KVM under Linux with four-level paging.
    #[must_use]
    pub fn zen_3() -> Processor {
        Processor {
            vendor: Vendor::Amd,
            family: 0x19,
            model: 1,
            stepping: 1,
            is_virtual: true,
            features: always().union(COMMON).union(ZEN_3),
            unknown: Features::NONE,
            facts: AMD
                .union(AMD_GUEST)
                .union(Facts::UMIP)
                .union(Facts::XGETBV_OF_XINUSE)
                .union(Facts::NULL_SELECTOR_CLEARS_BASE),
            linear_address_bits: 48,
            x87_pointer_bits: 48,
            mxcsr_mask: MXCSR_WITH_MM,
            xcr0: feature::X87 | feature::SSE | feature::AVX | feature::PKRU,
            components: Components::of(&ZEN_3_COMPONENTS, 0),
        }
    }

    /// AMD family 0x1a, model 2 (Zen 5), as a guest of KVM under Linux with four-level paging.
    #[must_use]
    pub fn zen_5() -> Processor {
        let features = always().union(COMMON).union(COMMON_WITH_AVX512).union(ZEN_5);
        Processor {
            family: 0x1a,
            model: 2,
            features: features.union(features::either(features)),
            facts: AMD_SINCE_ZEN_5
                .union(AMD_GUEST)
                .union(Facts::UMIP)
                .union(Facts::XGETBV_OF_XINUSE)
                .union(Facts::NULL_SELECTOR_CLEARS_BASE),
            x87_pointer_bits: 57,
            xcr0: feature::ALL & !(feature::TILE_CONFIG | feature::TILE_DATA),
            components: Components::of(&ZEN_5_COMPONENTS, 0),
            ..Processor::zen_3()
        }
    }

    /// Intel family 6, model 207 (Emerald Rapids), as a guest of KVM under Linux with four-level paging.
    #[must_use]
    pub fn emerald_rapids() -> Processor {
        let features = always().union(COMMON).union(COMMON_WITH_AVX512).union(EMERALD_RAPIDS);
        Processor {
            vendor: Vendor::Intel,
            family: 6,
            model: 207,
            stepping: 2,
            is_virtual: true,
            features: features.union(features::either(features)),
            unknown: Features::NONE,
            facts: INTEL.union(Facts::UMIP).union(Facts::XGETBV_OF_XINUSE).union(Facts::FDP_EXCEPTION_ONLY),
            linear_address_bits: 48,
            x87_pointer_bits: 57,
            mxcsr_mask: MXCSR,
            xcr0: feature::ALL,
            components: Components::of(&EMERALD_RAPIDS_COMPONENTS, feature::TILE_CONFIG | feature::TILE_DATA),
        }
    }

    /// One with every feature that there is, under a system that has enabled all, of whose behaviours those of this
    /// vendor's processors are assumed: for asking what can be emulated at all.
    #[must_use]
    pub fn with_every_feature(vendor: Vendor) -> Processor {
        let Processor { xcr0, components, .. } = Processor::emerald_rapids();
        Processor { features: Features::ALL, xcr0, components, ..Processor::measured(vendor) }
    }

    /// The one of this vendor that was measured.
    fn measured(vendor: Vendor) -> Processor {
        match vendor {
            Vendor::Amd => Processor::zen_3(),
            Vendor::Intel => Processor::emerald_rapids(),
        }
    }

    /// One with none of the features that CPUID tells of.
    #[must_use]
    pub fn with_no_feature(vendor: Vendor) -> Processor {
        let facts = match vendor {
            Vendor::Amd => AMD,
            Vendor::Intel => INTEL,
        };
        Processor { features: always(), facts, ..Processor::measured(vendor) }
    }
}

/// What every processor in 64-bit mode has, or CPUID does not tell of.
pub(super) fn always() -> Features {
    Features::ALL.without(told())
}
