//! What this processor and its kernel offer.

#![allow(unsafe_code, reason = "getauxval has no safe form")]

use std::arch::x86_64::{__cpuid, CpuidResult};
use std::fmt;

use emu::xsave::Layout;

/// The XSAVE layout of this processor under what its kernel has switched on, or `None` without XSAVE.
#[must_use]
pub fn xsave_layout() -> Option<Layout> {
    Layout::of_this_processor().copied()
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
    emu::mxcsr_mask().bits()
}

/// Whose instruction set a processor follows, where the two differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// AMD, and Hygon, whose processors are AMD's.
    Amd,
    /// Intel, and those whose processors follow it.
    Intel,
}

/// Which processor it is, as CPUID names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// The twelve letters of leaf 0.
    pub vendor: String,
    /// The family, its extension added.
    pub family: u32,
    /// The model, its extension included.
    pub model: u32,
    /// The stepping.
    pub stepping: u32,
}

impl Model {
    /// The one at hand.
    #[must_use]
    pub fn of_this_processor() -> Model {
        Model::new(__cpuid(0), __cpuid(1))
    }

    /// By leaves 0 and 1 (SDM volume 2, CPUID, "Version Information").
    fn new(name: CpuidResult, version: CpuidResult) -> Model {
        let letters = [name.ebx, name.edx, name.ecx].map(u32::to_le_bytes);
        let field = |shift: u32, mask: u32| version.eax >> shift & mask;
        let base = field(8, 15);
        Model {
            vendor: String::from_utf8_lossy(letters.as_flattened()).into_owned(),
            family: if base == 15 { base + field(20, 0xff) } else { base },
            model: if base == 6 || base == 15 { field(4, 15) | field(16, 15) << 4 } else { field(4, 15) },
            stepping: field(0, 15),
        }
    }

    /// Whom it follows.
    #[must_use]
    pub fn follows(&self) -> Vendor {
        match self.vendor.as_str() {
            "AuthenticAMD" | "HygonGenuine" => Vendor::Amd,
            _ => Vendor::Intel,
        }
    }
}

/// Vendor, family, model and stepping, in decimal.
impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} {}", self.vendor, self.family, self.model, self.stepping)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_as_their_makers_do() {
        let name = |text: &[u8; 12]| {
            let word = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
            CpuidResult { eax: 0, ebx: word(0), edx: word(4), ecx: word(8) }
        };
        let version = |eax| CpuidResult { eax, ebx: 0, ecx: 0, edx: 0 };
        for (vendor, signature, expected, follows) in [
            (b"GenuineIntel", 0x000c_06f2, "GenuineIntel 6 207 2", Vendor::Intel), // Emerald Rapids
            (b"AuthenticAMD", 0x00a0_0f11, "AuthenticAMD 25 1 1", Vendor::Amd),    // Milan
        ] {
            let model = Model::new(name(vendor), version(signature));
            assert_eq!((model.to_string().as_str(), model.follows()), (expected, follows));
        }
    }
}
