//! What the processor at hand is, where the meaning of an encoding depends on it.
//!
//! A computation that this processor lacks is emulated as the manual writes it. Encodings that *mean
//! something else* on a processor without the feature ask here, and so do those that work with the
//! processor itself or its operating system, which raise #UD without it. They ask when they are decoded, or
//! ask the copy that a `Displaced` carries.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use std::sync::OnceLock;

use iced_x86::{CpuidFeature as F, DecoderOptions};

/// Who made the processor (CPUID leaf 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vendor {
    /// AMD, and Hygon, whose processors are AMD's.
    Amd,
    /// Intel, and those whose processors follow it.
    Intel,
}

/// What decoding asks of the processor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processor {
    pub(crate) vendor: Vendor,
    /// F3 0F BC is TZCNT and not BSF.
    pub(crate) tzcnt: bool,
    /// F3 0F BD is LZCNT and not BSR.
    pub(crate) lzcnt: bool,
    /// SGDT, SIDT, SLDT, STR and SMSW fault in user mode, and the kernel answers in their place.
    pub(crate) umip: bool,
    /// A null selector clears the base of FS and GS.
    pub(crate) null_selector_clears_base: bool,
    /// How many high bits of a canonical address are copies of the one below them.
    pub(crate) sign_bits: u8,
    pub(crate) hypervisor: Hypervisor,
    /// The virtual-machine extensions of Intel.
    pub(crate) vmx: bool,
    /// Shadow stacks.
    pub(crate) cet_ss: bool,
    /// MONITORX looks at its memory; hypervisors that hide it make it do nothing.
    pub(crate) monitorx: bool,
    /// XGETBV takes ECX = 1.
    pub(crate) xgetbv1: bool,
    /// FDP is written by instructions that raise an unmasked exception only.
    pub(crate) fdp_exception_only: bool,
    /// The family of CPUID leaf 1.
    pub(crate) family: u32,
    /// Bit i is set if the processor has the feature of `FEATURES[i]`.
    features: u64,
}

/// Who answers what the processor leaves to a hypervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hypervisor {
    None,
    Kvm,
    Other,
}

/// Where CPUID tells of a feature: leaf, subleaf, register (EAX to EDX as 0 to 3) and bit.
#[derive(Clone, Copy, Debug)]
struct Bit(u32, u32, u8, u8);

/// The features without which an instruction of theirs raises #UD. Instructions in the encoding space
/// of NOP (endbr, rdssp, cldemote, prefetches…) are not here: without the feature they do nothing.
const FEATURES: &[(F, Bit)] = &[
    (F::CLFSH, Bit(1, 0, 3, 19)),
    (F::CLFLUSHOPT, Bit(7, 0, 1, 23)),
    (F::CLWB, Bit(7, 0, 1, 24)),
    (F::CLZERO, Bit(0x8000_0008, 0, 1, 0)),
    (F::ENQCMD, Bit(7, 0, 2, 29)),
    (F::FRED, Bit(7, 1, 0, 17)),
    (F::FSGSBASE, Bit(7, 0, 1, 0)),
    (F::HLE_or_RTM, HLE),
    (F::HRESET, Bit(7, 1, 0, 22)),
    (F::INVLPGB, Bit(0x8000_0008, 0, 1, 3)),
    (F::INVPCID, Bit(7, 0, 1, 10)),
    (F::LKGS, Bit(7, 1, 0, 18)),
    (F::MSRLIST, Bit(7, 1, 0, 27)),
    (F::PCONFIG, Bit(7, 0, 3, 18)),
    // OSPKE: the operating system has to turn it on.
    (F::PKU, Bit(7, 0, 2, 4)),
    (F::PTWRITE, Bit(0x14, 0, 1, 4)),
    (F::RDPID, Bit(7, 0, 2, 22)),
    (F::RDPRU, Bit(0x8000_0008, 0, 1, 4)),
    (F::RDRAND, Bit(1, 0, 2, 30)),
    (F::RDSEED, Bit(7, 0, 1, 18)),
    (F::RDTSCP, Bit(0x8000_0001, 0, 3, 27)),
    (F::RTM, RTM),
    (F::SERIALIZE, Bit(7, 0, 3, 14)),
    (F::SGX1, Bit(7, 0, 1, 2)),
    (F::TSE, Bit(7, 1, 1, 1)),
    (F::TSXLDTRK, Bit(7, 0, 3, 16)),
    (F::WAITPKG, Bit(7, 0, 2, 5)),
    (F::WRMSRNS, Bit(7, 1, 0, 19)),
    (F::XSAVE, Bit(1, 0, 2, 27)),
    (F::XSAVEC, Bit(0xd, 1, 0, 1)),
    (F::XSAVEOPT, Bit(0xd, 1, 0, 0)),
    (F::XSAVES, Bit(0xd, 1, 0, 3)),
];

const HLE: Bit = Bit(7, 0, 1, 4);
const RTM: Bit = Bit(7, 0, 1, 11);
/// Not a feature of its own in iced-x86's list: XBEGIN is there but always aborts (RTM_ALWAYS_ABORT).
const RTM_ALWAYS_ABORT: Bit = Bit(7, 0, 3, 11);
/// XGETBV with ECX = 1.
const XGETBV1: Bit = Bit(0xd, 1, 0, 2);
const CET_SS: Bit = Bit(7, 0, 2, 7);
const MONITORX: Bit = Bit(0x8000_0001, 0, 2, 29);
const VMX: Bit = Bit(1, 0, 2, 5);
const FDP_EXCPTN_ONLY: Bit = Bit(7, 0, 1, 6);
const UMIP: Bit = Bit(7, 0, 2, 2);
const LA57: Bit = Bit(7, 0, 2, 16);
const NULL_SELECTOR_CLEARS_BASE: Bit = Bit(0x8000_0021, 0, 0, 6);
const HYPERVISOR: Bit = Bit(1, 0, 2, 31);

impl Bit {
    fn is_set(self) -> bool {
        let Bit(leaf, subleaf, register, bit) = self;
        if leaf > __cpuid(leaf & 0x8000_0000).eax {
            return false;
        }
        let answer = __cpuid_count(leaf, subleaf);
        let value = match register {
            0 => answer.eax,
            1 => answer.ebx,
            2 => answer.ecx,
            _ => answer.edx,
        };
        value >> (bit & 31) & 1 != 0
    }
}

/// The options with which iced-x86 decodes as this processor does.
#[must_use]
pub fn decoder_options() -> u32 {
    Processor::get().decoder_options()
}

impl Processor {
    /// The options with which iced-x86 decodes as this processor does.
    pub(crate) fn decoder_options(&self) -> u32 {
        let option = |option, set| if set { option } else { DecoderOptions::NONE };
        // With an operand-size prefix near branches are 16 bits wide; far ones ignore REX.W.
        option(DecoderOptions::AMD, self.vendor == Vendor::Amd)
            | option(DecoderOptions::NO_MPFX_0FBC, !self.tzcnt)
            | option(DecoderOptions::NO_MPFX_0FBD, !self.lzcnt)
    }

    /// How many high bits of an offset from FS or GS must be copies of the one below them.
    pub(crate) fn offset_sign_bits(&self) -> u8 {
        match self.vendor {
            Vendor::Amd => self.sign_bits,
            Vendor::Intel => 0,
        }
    }

    /// The one this runs on.
    pub(crate) fn get() -> &'static Processor {
        static PROCESSOR: OnceLock<Processor> = OnceLock::new();
        PROCESSOR.get_or_init(|| Processor {
            vendor: vendor(__cpuid(0)),
            tzcnt: is_x86_feature_detected!("bmi1"),
            lzcnt: is_x86_feature_detected!("lzcnt"),
            umip: UMIP.is_set(),
            // Intel's processors have always done so and have no bit to say it.
            null_selector_clears_base: vendor(__cpuid(0)) == Vendor::Intel
                || NULL_SELECTOR_CLEARS_BASE.is_set()
                || family(__cpuid(1)) >= 0x19
                || is_zen_2(__cpuid(1)),
            vmx: VMX.is_set(),
            cet_ss: CET_SS.is_set(),
            monitorx: MONITORX.is_set(),
            xgetbv1: XGETBV1.is_set(),
            fdp_exception_only: FDP_EXCPTN_ONLY.is_set(),
            family: family(__cpuid(1)),
            // Linux uses five-level paging wherever the processor has it, unless it is told not to.
            sign_bits: if LA57.is_set() { 7 } else { 16 },
            hypervisor: hypervisor(),
            features: features(),
        })
    }

    /// Every feature that is asked for, as the vendor's newest: for the tests of what this processor lacks.
    #[cfg(test)]
    pub(crate) fn with_everything(vendor: Vendor) -> Processor {
        let fdp_exception_only = vendor == Vendor::Intel;
        Processor { vendor, features: u64::MAX, fdp_exception_only, ..*Processor::get() }
    }

    /// None of them.
    #[cfg(test)]
    pub(crate) fn with_nothing(vendor: Vendor) -> Processor {
        let bare = *Processor::get();
        let (monitorx, hypervisor) = (false, Hypervisor::None);
        let bare = Processor { vendor, features: 0, monitorx, hypervisor, ..bare };
        Processor { tzcnt: false, lzcnt: false, vmx: false, cet_ss: false, ..bare }
    }

    /// Whether an instruction of these features raises #UD because the processor lacks one.
    pub(crate) fn lacks(&self, needed: &[F]) -> bool {
        let lacking =
            |(i, (known, _)): (usize, &(F, Bit))| self.features >> i & 1 == 0 && needed.contains(known);
        FEATURES.iter().enumerate().any(lacking)
    }
}

fn features() -> u64 {
    let transactions = RTM.is_set() || RTM_ALWAYS_ABORT.is_set();
    let present = |&(feature, bit): &(F, Bit)| {
        bit.is_set() || matches!(feature, F::RTM | F::HLE_or_RTM) && transactions
    };
    FEATURES.iter().enumerate().filter(|(_, row)| present(row)).fold(0, |all, (i, _)| all | 1 << (i & 63))
}

/// CPUID leaves 1 and 0x4000_0000.
fn hypervisor() -> Hypervisor {
    if !HYPERVISOR.is_set() {
        return Hypervisor::None;
    }
    let leaf = __cpuid(0x4000_0000);
    match [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).as_flattened() {
        b"KVMKVMKVM\0\0\0" => Hypervisor::Kvm,
        _ => Hypervisor::Other,
    }
}

/// The family that CPUID leaf 1 names, its extension added.
fn family(leaf: CpuidResult) -> u32 {
    let base = leaf.eax >> 8 & 15;
    if base == 15 { base + (leaf.eax >> 20 & 0xff) } else { base }
}

/// Whether CPUID leaf 1 is of AMD's Zen 2, the first to clear the base with a null selector: it has no bit
/// to say it.
fn is_zen_2(leaf: CpuidResult) -> bool {
    let model = leaf.eax >> 4 & 15 | leaf.eax >> 12 & 0xf0;
    family(leaf) == 0x17 && matches!(model, 0x30..=0x4f | 0x60..=0x7f | 0x90..=0xaf)
}

fn vendor(leaf: CpuidResult) -> Vendor {
    let name = [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes);
    match name.as_flattened() {
        b"AuthenticAMD" | b"HygonGenuine" => Vendor::Amd,
        _ => Vendor::Intel,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vendors_are_told_apart() {
        let leaf = |name: &[u8; 12]| {
            let word = |at: usize| u32::from_le_bytes([name[at], name[at + 1], name[at + 2], name[at + 3]]);
            CpuidResult { eax: 0, ebx: word(0), edx: word(4), ecx: word(8) }
        };
        assert_eq!(vendor(leaf(b"AuthenticAMD")), Vendor::Amd);
        assert_eq!(vendor(leaf(b"HygonGenuine")), Vendor::Amd);
        assert_eq!(vendor(leaf(b"GenuineIntel")), Vendor::Intel);
    }

    #[test]
    fn zen_2_is_told_from_zen() {
        let leaf = |eax| CpuidResult { eax, ebx: 0, ecx: 0, edx: 0 };
        for (signature, expected) in [
            (0x0080_0f12, false), // Zen
            (0x0080_0f82, false), // Zen+
            (0x0083_0f10, true),  // Zen 2: Rome
            (0x0087_0f10, true),  // Matisse
            (0x008a_0f00, true),  // Mendocino
            (0x00a0_0f11, false), // Zen 3
        ] {
            assert_eq!(is_zen_2(leaf(signature)), expected, "{signature:#x}");
        }
    }
}
