//! What the processor at hand is, where the meaning of an encoding depends on it.
//!
//! An instruction that this processor lacks is emulated as the manual writes it; only encodings that
//! *mean something else* on a processor without the feature ask here, and they ask when they are decoded.

use core::arch::x86_64::{__cpuid, CpuidResult};
use std::sync::OnceLock;

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
}

impl Processor {
    /// The one this runs on.
    pub(crate) fn get() -> Processor {
        static PROCESSOR: OnceLock<Processor> = OnceLock::new();
        *PROCESSOR.get_or_init(|| Processor {
            vendor: vendor(__cpuid(0)),
            tzcnt: is_x86_feature_detected!("bmi1"),
            lzcnt: is_x86_feature_detected!("lzcnt"),
        })
    }
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
}
