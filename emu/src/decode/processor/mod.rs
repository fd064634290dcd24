//! What a processor is, where the meaning of an instruction depends on it.
//!
//! An instruction is decoded for a [`Processor`]: the one at hand, or another of which somebody says what it is,
//! so that any machine can check what any processor has answered. No instruction asks who made the processor:
//! it asks for a feature of CPUID or for one of the [`Facts`].

mod description;
mod facts;
mod features;
#[cfg(feature = "std")]
mod host;
mod known;

pub use description::DescriptionError;
pub use facts::Facts;
pub use features::Features;

use alloc::boxed::Box;
use core::fmt;

use iced_x86::{CpuidFeature, DecoderOptions};

use crate::model::registers::Mxcsr;
use crate::model::xsave::Components;

/// Who made a processor (CPUID leaf 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vendor {
    /// AMD, and Hygon, whose processors are AMD's.
    Amd,
    /// Intel, and those whose processors follow it.
    Intel,
}

/// A processor, under what its system has enabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Processor {
    /// Who made it.
    pub vendor: Vendor,
    /// The family of CPUID leaf 1, its extension added.
    pub family: u32,
    /// The model of CPUID leaf 1, its extension in front.
    pub model: u32,
    /// The stepping of CPUID leaf 1.
    pub stepping: u32,
    /// Whether a hypervisor says that there is one.
    pub is_virtual: bool,
    /// What it has, as far as the system has enabled it.
    pub features: Features,
    /// What it may have although CPUID does not say so: hypervisors hide features that they cannot take away, and
    /// some processors have instructions that their makers do not speak of. Their instructions are
    /// [`Native`](crate::Outcome::Native): the thread finds out by itself.
    pub unknown: Features,
    /// In which way it behaves where processors differ.
    pub facts: Facts,
    /// How many bits a linear address has: 48, or 57 under five-level paging. CPUID cannot tell which is in use.
    pub linear_address_bits: u8,
    /// How many bits of FIP it keeps, and of FDP if not all; the others are copies of the highest of them.
    pub x87_pointer_bits: u8,
    /// The bits of MXCSR that it has (SDM volume 1, section 11.6.6).
    pub mxcsr_mask: Mxcsr,
    /// XCR0: the state components that the system has enabled.
    pub xcr0: u64,
    /// Where it keeps them in an XSAVE image.
    pub components: Components,
}

/// Vendor, family, model and stepping, in decimal: "Intel 6 207 2".
impl fmt::Display for Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vendor = match self.vendor {
            Vendor::Amd => "AMD",
            Vendor::Intel => "Intel",
        };
        write!(f, "{vendor} {} {} {}", self.family, self.model, self.stepping)
    }
}

/// The family of AMD's Zen 5.
const ZEN_5: u32 = 0x1a;

impl Processor {
    /// The one this runs on, under what its system has enabled. It is asked once.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn host() -> &'static Processor {
        host::host()
    }

    /// Makes room for this one for as long as the program runs, which decoded instructions rely on. There are few.
    #[must_use]
    pub fn leak(self) -> &'static Processor {
        Box::leak(Box::new(self))
    }

    /// Whether it has `fact`.
    #[inline(always)]
    pub(crate) const fn is(&self, fact: Facts) -> bool {
        self.facts.contains(fact)
    }

    /// Whether it is AMD's Zen 5 or what came after it.
    #[must_use]
    pub const fn is_since_zen_5(&self) -> bool {
        matches!(self.vendor, Vendor::Amd) && self.family >= ZEN_5
    }

    /// To how many bytes RFLAGS.AC wants a vector operand of so many bytes to be aligned.
    #[inline(always)]
    pub(crate) const fn ac_wants(&self, size: usize) -> usize {
        match size {
            ..=8 => size,
            _ if self.is(Facts::WIDE_OPERANDS_IGNORE_AC) => 1,
            17.. if self.is(Facts::AC_WANTS_SIXTEEN_AT_MOST) => 16,
            _ => size,
        }
    }

    /// How many high bits of a canonical address are copies of the one below them.
    #[inline(always)]
    pub(crate) const fn sign_bits(&self) -> u8 {
        64u8.wrapping_sub(self.linear_address_bits)
    }

    /// How many high bits of an offset from FS or GS must be copies of the one below them.
    #[inline(always)]
    pub(crate) const fn offset_sign_bits(&self) -> u8 {
        if self.is(Facts::SEGMENT_OFFSETS_ARE_CANONICAL) { self.sign_bits() } else { 0 }
    }

    /// The options with which iced-x86 decodes as this processor does.
    #[must_use]
    pub fn decoder_options(&self) -> u32 {
        let option = |option, set| if set { option } else { DecoderOptions::NONE };
        option(DecoderOptions::AMD, self.is(Facts::OPERAND_SIZE_NARROWS_BRANCHES))
            | option(DecoderOptions::NO_MPFX_0FBC, !self.features.has(CpuidFeature::BMI1))
            | option(DecoderOptions::NO_MPFX_0FBD, !self.features.has(CpuidFeature::LZCNT))
    }

    /// Whether instructions of these features can be executed; `None` if only trying tells.
    #[must_use]
    pub fn can(&self, needed: &[CpuidFeature]) -> Option<bool> {
        let absent =
            |feature: &CpuidFeature| !self.features.has(*feature) && !features::DECIDED_BY_ROWS.has(*feature);
        let mut absent = needed.iter().copied().filter(absent);
        match absent.next() {
            None => Some(true),
            Some(first) if self.unknown.has(first) && absent.all(|feature| self.unknown.has(feature)) => None,
            Some(_) => Some(false),
        }
    }

    /// Whether it has `feature`; `None` if every processor in 64-bit mode has it, or if CPUID does not tell of it.
    #[must_use]
    pub fn reports(&self, feature: CpuidFeature) -> Option<bool> {
        features::told().has(feature).then(|| self.features.has(feature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use CpuidFeature as F;

    #[test]
    fn what_it_can_follows_from_features() {
        let mut processor = Processor::zen_3();
        assert_eq!(processor.can(&[F::AVX, F::VAES]), Some(true));
        assert_eq!(processor.can(&[F::AVX512F, F::AVX512VL]), Some(false));
        assert_eq!(processor.can(&[F::CLDEMOTE]), Some(true), "it does nothing there");
        processor.unknown = Features::of(&[F::GFNI]);
        assert_eq!(processor.can(&[F::GFNI]), None);
        assert_eq!(processor.can(&[F::AVX512F, F::GFNI]), Some(false));
    }

    #[test]
    fn the_host_is_what_the_standard_library_says() {
        let host = Processor::host();
        assert_eq!(host.features.has(F::AVX2), is_x86_feature_detected!("avx2"));
        assert_eq!(host.features.has(F::AVX512F), is_x86_feature_detected!("avx512f"));
        assert_eq!(host.features.has(F::SHA), is_x86_feature_detected!("sha"));
        assert_eq!(host.features.has(F::LZCNT), is_x86_feature_detected!("lzcnt"));
        assert!(host.features.has(F::X64));
    }
}
