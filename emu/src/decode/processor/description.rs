//! A processor as lines of text, for files that say whose answers they hold.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::fmt::Write as _;
use core::str::FromStr;

use iced_x86::CpuidFeature;

use super::{Facts, Features, Processor, Vendor};
use crate::model::registers::Mxcsr;
use crate::model::xsave::Components;

/// Why lines of text describe no processor.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DescriptionError {
    /// This line is not there.
    Missing(&'static str),
    /// The value of this line is none that it can have.
    Wrong(&'static str),
    /// A feature has a name that iced-x86 does not know.
    UnknownFeature(String),
}

impl fmt::Display for DescriptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DescriptionError::Missing(key) => write!(f, "it does not say {key}"),
            DescriptionError::Wrong(key) => write!(f, "what it says of {key} cannot be"),
            DescriptionError::UnknownFeature(name) => write!(f, "the feature {name:?} is not known"),
        }
    }
}

impl core::error::Error for DescriptionError {}

impl Vendor {
    /// What CPUID leaf 0 calls it.
    #[must_use]
    pub const fn signature(self) -> &'static str {
        match self {
            Vendor::Amd => "AuthenticAMD",
            Vendor::Intel => "GenuineIntel",
        }
    }
}

impl Processor {
    /// Everything that it is, in lines of a key, a colon and a value, from which [`Processor::from_str`] makes the
    /// same one again.
    #[must_use]
    pub fn description(&self) -> String {
        let told = |feature: &CpuidFeature| self.reports(*feature) == Some(true);
        let names = |features: &mut dyn Iterator<Item = CpuidFeature>| {
            let names: Vec<String> = features.map(|feature| format!("{feature:?}")).collect();
            names.join(" ")
        };
        let facts = |facts: Facts| {
            let names: Vec<&str> = facts.iter_names().map(|(name, _)| name).collect();
            names.join(" ")
        };
        let mut text = String::new();
        let mut line = |key: &str, value: &dyn fmt::Display| {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{key}: {value}");
        };
        line("vendor", &self.vendor.signature());
        line("family", &format_args!("{:#x}", self.family));
        line("model", &format_args!("{:#x}", self.model));
        line("stepping", &format_args!("{:#x}", self.stepping));
        line("virtual", &format_args!("{:#x}", u8::from(self.is_virtual)));
        line("linear-address-bits", &format_args!("{:#x}", self.linear_address_bits));
        line("x87-pointer-bits", &format_args!("{:#x}", self.x87_pointer_bits));
        line("mxcsr-mask", &format_args!("{:#x}", self.mxcsr_mask.bits()));
        line("xcr0", &format_args!("{:#x}", self.xcr0));
        for (component, size, offset) in self.components.rows() {
            line("component", &format_args!("{component:#x} {size:#x} {offset:#x}"));
        }
        line("aligned-components", &format_args!("{:#x}", self.components.aligned()));
        line("features", &names(&mut self.features.iter().filter(told)));
        line("unknown-features", &names(&mut self.unknown.iter()));
        line("facts", &facts(self.facts));
        line("facts-not", &facts(self.facts.complement()));
        text
    }
}

/// Reads a [`Processor::description`]. Lines with other keys are passed over, and those of components need not be
/// there. A fact that is not named is as usual for the vendor: it was not known when the description was written; one
/// that is not known any more has become part of something else.
impl FromStr for Processor {
    type Err = DescriptionError;

    fn from_str(text: &str) -> Result<Processor, DescriptionError> {
        use DescriptionError::{Missing, Wrong};

        let value = |key: &'static str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(':'));
            let line = lines.find(|(name, _)| *name == key);
            line.map(|(_, value)| value.trim()).ok_or(Missing(key))
        };
        let count = |key| number(value(key)?).ok_or(Wrong(key));
        let small = |key| u32::try_from(count(key)?).map_err(|_| Wrong(key));
        let bits = |key| match count(key)? {
            bits @ (48..=64) => Ok(bits as u8),
            _ => Err(Wrong(key)),
        };
        let named =
            |name: &str| Features::named(name).ok_or_else(|| DescriptionError::UnknownFeature(name.into()));
        let name = value("vendor")?;
        let mut vendors = [Vendor::Amd, Vendor::Intel].into_iter();
        let vendor = vendors.find(|vendor| vendor.signature() == name).ok_or(Wrong("vendor"))?;
        let mut processor = Processor::with_no_feature(vendor);
        (processor.family, processor.model, processor.stepping) =
            (small("family")?, small("model")?, small("stepping")?);
        processor.is_virtual = count("virtual")? != 0;
        processor.linear_address_bits = bits("linear-address-bits")?;
        processor.x87_pointer_bits = bits("x87-pointer-bits")?;
        processor.mxcsr_mask = Mxcsr::from_bits_retain(small("mxcsr-mask")?);
        processor.xcr0 = count("xcr0")?;
        processor.components = components(text, count("aligned-components")?).ok_or(Wrong("component"))?;
        for name in value("features")?.split_whitespace() {
            processor.features.set(named(name)?, true);
        }
        processor.unknown = Features::NONE;
        for name in value("unknown-features")?.split_whitespace() {
            processor.unknown.set(named(name)?, true);
        }
        for (key, has) in [("facts", true), ("facts-not", false)] {
            for fact in value(key)?.split_whitespace().filter_map(Facts::from_name) {
                processor.facts.set(fact, has);
            }
        }
        Ok(processor)
    }
}

/// A number as C writes hexadecimal ones.
fn number(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The state components of XSAVE images.
fn components(text: &str, aligned: u64) -> Option<Components> {
    /// The longest component of an XSAVE image, and the farthest.
    const LONGEST: u64 = 1 << 20;
    let row = |text: &str| {
        let mut words = text.split(' ').map(number);
        let (component, size, offset) = (words.next()??, words.next()??, words.next()??);
        let fits = (2..63).contains(&component) && size <= LONGEST && offset <= LONGEST;
        (fits && words.next().is_none()).then_some((component as usize, size as u32, offset as u32))
    };
    let lines = text.lines().filter_map(|line| line.strip_prefix("component: "));
    let rows: Option<Vec<_>> = lines.map(row).collect();
    Some(Components::of(&rows?, aligned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_read_as_it_is_written() {
        for processor in
            [Processor::zen_3(), Processor::zen_5(), Processor::emerald_rapids(), *Processor::host()]
        {
            let text = processor.description();
            assert_eq!(text.parse(), Ok(processor), "{text}");
            assert_eq!(format!("before: 1\n{text}after\n").parse(), Ok(processor));
        }
    }

    #[test]
    fn a_fact_that_is_not_named_is_as_usual_for_the_vendor() {
        let mut processor = Processor::zen_3();
        let usual = Processor::with_no_feature(Vendor::Amd).facts.contains(Facts::SHA_IGNORES_ALIGNMENT);
        processor.facts.set(Facts::SHA_IGNORES_ALIGNMENT, !usual);
        let text = processor.description();
        assert_eq!(text.parse(), Ok(processor));
        let unnamed = text.replace("SHA_IGNORES_ALIGNMENT", "FLIES");
        processor.facts.set(Facts::SHA_IGNORES_ALIGNMENT, usual);
        assert_eq!(unnamed.parse(), Ok(processor));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        use DescriptionError::{Missing, UnknownFeature, Wrong};
        let text = Processor::zen_3().description();
        for (from, to, error) in [
            ("AVX2", "AVX3", UnknownFeature("AVX3".into())),
            ("AuthenticAMD", "CyrixInstead", Wrong("vendor")),
            ("vendor: ", "maker: ", Missing("vendor")),
            ("linear-address-bits: 0x30", "linear-address-bits: 0x0", Wrong("linear-address-bits")),
            ("mxcsr-mask: 0x", "mxcsr-mask: 0xfffffffff", Wrong("mxcsr-mask")),
            ("xcr0: ", "xcr1: ", Missing("xcr0")),
            ("component: 0x2 ", "component: 0xffffffffff ", Wrong("component")),
        ] {
            assert!(text.contains(from), "{text}");
            let changed = text.replacen(from, to, 1);
            assert_eq!(changed.parse::<Processor>(), Err(error), "{changed}");
        }
    }
}
