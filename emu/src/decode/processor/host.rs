//! The processor that this runs on.
//!
//! CPUID says most of it. What the system made of it is in the flags of /proc/cpuinfo, which Linux clears where it
//! does not use a feature: this is the one file that this crate reads, once.

use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use std::sync::OnceLock;

use iced_x86::CpuidFeature as F;

use super::features::{self, Answer, BITS, Bit, Features};
use super::known::{AMD, AMD_SINCE_ZEN_5, INTEL, always};
use super::{Facts, Processor, Vendor};
use crate::host::answers;
use crate::host::sse::mxcsr_mask;
use crate::model::xsave::{Components, Layout, feature};

/// XGETBV with ECX = 1.
const XGETBV_OF_XINUSE: Bit = Bit(0xd, 1, Answer::Eax, 2);
/// XBEGIN is there but always aborts, whatever the bit of RTM says.
const RTM_ALWAYS_ABORT: Bit = Bit(7, 0, Answer::Edx, 11);
const FDP_EXCEPTION_ONLY: Bit = Bit(7, 0, Answer::Ebx, 6);
const UMIP: Bit = Bit(7, 0, Answer::Ecx, 2);
const LA57: Bit = Bit(7, 0, Answer::Ecx, 16);
const NULL_SELECTOR_CLEARS_BASE: Bit = Bit(0x8000_0021, 0, Answer::Eax, 6);
const HYPERVISOR: Bit = Bit(1, 0, Answer::Ecx, 31);

impl Bit {
    fn is_set(self) -> bool {
        let Bit(leaf, subleaf, register, bit) = self;
        if leaf > __cpuid(leaf & 0x8000_0000).eax {
            return false;
        }
        let answer = __cpuid_count(leaf, subleaf);
        let value = match register {
            Answer::Eax => answer.eax,
            Answer::Ebx => answer.ebx,
            Answer::Ecx => answer.ecx,
            Answer::Edx => answer.edx,
        };
        value >> (bit & 31) & 1 != 0
    }
}

pub(super) fn host() -> &'static Processor {
    static HOST: OnceLock<Processor> = OnceLock::new();
    HOST.get_or_init(|| {
        let signature = __cpuid(1);
        let vendor = vendor(__cpuid(0));
        let has_xsave = is_x86_feature_detected!("xsave");
        let xcr0 = if has_xsave { answers::xcr0() } else { 0 };
        let flags = Flags::read();
        let features = features(xcr0, &flags);
        let is_virtual = HYPERVISOR.is_set();
        let five_levels = flags.say("la57", LA57.is_set());
        let leaf = |component| answers::cpuid(0xd, component);
        Processor {
            vendor,
            family: family(signature),
            model: model(signature),
            stepping: signature.eax & 15,
            is_virtual,
            features,
            unknown: unknown(features, xcr0, vendor),
            facts: facts(vendor, signature, is_virtual, &flags),
            linear_address_bits: if five_levels { 57 } else { 48 },
            // As many as the processor could have, whatever the system has made of it or hypervisors hide.
            x87_pointer_bits: if LA57.is_set() || since_zen_5(vendor, signature) { 57 } else { 48 },
            mxcsr_mask: mxcsr_mask(),
            xcr0,
            components: if has_xsave { Components::ask(leaf) } else { Components::default() },
        }
    })
}

impl Layout {
    /// The layout of this processor under what its kernel has switched on; `None` without XSAVE.
    #[must_use]
    pub fn of_this_processor() -> Option<&'static Layout> {
        static LAYOUT: OnceLock<Option<Layout>> = OnceLock::new();
        let layout = LAYOUT.get_or_init(|| {
            // CPUID leaf 0xD, sub-leaf of a component: its size in EAX, its offset in EBX.
            let component = |number| {
                let leaf = answers::cpuid(0xd, number);
                (leaf.eax as usize, leaf.ebx as usize)
            };
            // The detection includes OSXSAVE, without which there is no XGETBV.
            is_x86_feature_detected!("xsave").then(|| Layout::new(answers::xcr0() & feature::ALL, component))
        });
        layout.as_ref()
    }
}

/// The flags of /proc/cpuinfo, if it can be read.
struct Flags(Option<String>);

impl Flags {
    fn read() -> Flags {
        let text = std::fs::read_to_string("/proc/cpuinfo").ok();
        Flags(text.and_then(|text| text.lines().find(|line| line.starts_with("flags")).map(str::to_string)))
    }

    /// Whether the system uses what it calls `name`; what CPUID says, if there is no knowing.
    fn say(&self, name: &str, cpuid: bool) -> bool {
        let listed = |flags: &String| flags.split_ascii_whitespace().any(|flag| flag == name);
        cpuid && self.0.as_ref().is_none_or(listed)
    }
}

/// The features that CPUID has and XCR0 and the system have enabled.
fn features(xcr0: u64, flags: &Flags) -> Features {
    let mut features = always();
    for (feature, bit, state) in BITS {
        let enabled = xcr0 & state == *state;
        let used = *feature != F::FSGSBASE || flags.say("fsgsbase", true);
        features.set(*feature, enabled && used && bit.is_set());
    }
    if RTM_ALWAYS_ABORT.is_set() {
        features.set(F::RTM, true);
    }
    if features.has(F::VMX) {
        features = features.union(features::WITH_VMX);
    }
    features.union(features::either(features))
}

/// What CPUID denies and the processor may have all the same: what needs no state that is not enabled.
fn unknown(features: Features, xcr0: u64, vendor: Vendor) -> Features {
    let mut unknown = Features::NONE;
    for (feature, _, state) in BITS {
        // FSGSBASE is the system's to enable, as are XSAVE, protection keys and shadow stacks: their bits are those
        // of what it did. Of MONITORX a fact says what it does where it is hidden.
        let certain = matches!(feature, F::FSGSBASE | F::XSAVE | F::PKU | F::CET_SS | F::VMX)
            || *feature == F::MONITORX && vendor == Vendor::Amd;
        unknown.set(*feature, !certain && xcr0 & state == *state && !features.has(*feature));
    }
    unknown.union(features::either(unknown)).without(features)
}

fn facts(vendor: Vendor, signature: CpuidResult, is_virtual: bool, flags: &Flags) -> Facts {
    let amd = vendor == Vendor::Amd;
    let mut facts = match vendor {
        Vendor::Intel => INTEL,
        Vendor::Amd if since_zen_5(vendor, signature) => AMD_SINCE_ZEN_5,
        Vendor::Amd => AMD,
    };
    facts.set(Facts::UMIP, flags.say("umip", UMIP.is_set()));
    facts.set(Facts::XGETBV_OF_XINUSE, XGETBV_OF_XINUSE.is_set());
    facts.set(Facts::FDP_EXCEPTION_ONLY, FDP_EXCEPTION_ONLY.is_set());
    let zen_3_or_later = amd && family(signature) >= 0x19;
    facts |= match NULL_SELECTOR_CLEARS_BASE.is_set() || zen_3_or_later || amd && is_zen_2(signature) {
        true => Facts::NULL_SELECTOR_CLEARS_BASE,
        false => Facts::empty(),
    };
    facts.set(Facts::HIDDEN_MONITORX_DOES_NOTHING, amd && is_virtual);
    facts.set(Facts::SVM_IS_PRIVILEGED, amd && is_virtual);
    facts.set(Facts::INT1_LEAVES_RIP, amd && is_virtual && is_kvm(__cpuid(0x4000_0000)));
    facts.set(Facts::PVALIDATE_IS_PRIVILEGED, zen_3_or_later);
    facts
}

/// Whether CPUID leaf 0x4000_0000 is KVM's.
fn is_kvm(leaf: CpuidResult) -> bool {
    [leaf.ebx, leaf.ecx, leaf.edx].map(u32::to_le_bytes).as_flattened() == b"KVMKVMKVM\0\0\0"
}

/// The family that CPUID leaf 1 names, its extension added.
fn family(leaf: CpuidResult) -> u32 {
    let base = leaf.eax >> 8 & 15;
    if base == 15 { base + (leaf.eax >> 20 & 0xff) } else { base }
}

/// The model that CPUID leaf 1 names, its extension in front.
fn model(leaf: CpuidResult) -> u32 {
    leaf.eax >> 4 & 15 | leaf.eax >> 12 & 0xf0
}

/// Whether CPUID leaf 1 is of AMD's Zen 5 or of what came after it.
fn since_zen_5(vendor: Vendor, leaf: CpuidResult) -> bool {
    vendor == Vendor::Amd && family(leaf) >= super::ZEN_5
}

/// Whether CPUID leaf 1 is of AMD's Zen 2, the first to clear the base with a null selector: it has no bit
/// to say it.
fn is_zen_2(leaf: CpuidResult) -> bool {
    family(leaf) == 0x17 && matches!(model(leaf), 0x30..=0x4f | 0x60..=0x7f | 0x90..=0xaf)
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

    #[test]
    fn the_system_has_the_last_word_on_what_it_uses() {
        let flags = Flags(Some("flags\t\t: fpu umip".to_string()));
        assert!(flags.say("umip", true) && !flags.say("umip", false));
        assert!(!flags.say("la57", true), "CPUID has it, the system does not use it");
        assert!(Flags(None).say("la57", true), "there is no knowing");
    }

    /// The processor that the constructor describes is the one that it was measured on.
    #[test]
    fn a_measured_processor_is_itself() {
        let host = *host();
        let known = match (host.vendor, host.family, host.model) {
            (Vendor::Amd, 0x19, 1) => Processor::zen_3(),
            (Vendor::Amd, 0x1a, 2) => Processor::zen_5(),
            (Vendor::Intel, 6, 207) => Processor::emerald_rapids(),
            _ => return println!("skipped: no constructor describes {host:?}"),
        };
        // A hypervisor or a system may have left out some of it.
        assert_eq!(host.features.without(known.features), Features::NONE, "CPUID has more");
        assert_eq!(host.xcr0 & !known.xcr0, 0);
        assert_eq!((host.facts, host.mxcsr_mask), (known.facts, known.mxcsr_mask));
        assert_eq!(host.linear_address_bits, known.linear_address_bits);
        assert_eq!(host.x87_pointer_bits, known.x87_pointer_bits);
        let rows: Vec<_> = known.components.rows().collect();
        assert!(host.components.rows().all(|row| rows.contains(&row)), "{:?}", host.components);
    }
}
