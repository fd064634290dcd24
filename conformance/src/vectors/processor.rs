//! The lines of a header that describe the processor.

use std::fmt::Write as _;

use emu::xsave::Components;
use emu::{Displaced, Facts, Features, Mxcsr, Processor, Touches, Vendor};
use iced_x86::{CpuidFeature, Mnemonic};

use super::layout::number;

/// A processor for people.
#[must_use]
pub fn name(processor: &Processor) -> String {
    let Processor { family, model, stepping, .. } = processor;
    format!("{} family {family} model {model} stepping {stepping}", vendor(processor.vendor))
}

/// The processor of files that have no header.
#[must_use]
pub fn without_header() -> Processor {
    Processor::emerald_rapids()
}

fn vendor(vendor: Vendor) -> &'static str {
    match vendor {
        Vendor::Amd => "AuthenticAMD",
        Vendor::Intel => "GenuineIntel",
    }
}

/// The lines that [`parse`] reads.
#[must_use]
pub fn header(processor: &Processor) -> String {
    let told = |feature: &CpuidFeature| processor.reports(*feature) == Some(true);
    let names = |features: &mut dyn Iterator<Item = CpuidFeature>| {
        let names: Vec<String> = features.map(|feature| format!("{feature:?}")).collect();
        names.join(" ")
    };
    let facts = |facts: Facts| {
        let names: Vec<&str> = facts.iter_names().map(|(name, _)| name).collect();
        names.join(" ")
    };
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{key}: {value}");
    };
    line("vendor", &vendor(processor.vendor));
    line("family", &format_args!("{:#x}", processor.family));
    line("model", &format_args!("{:#x}", processor.model));
    line("stepping", &format_args!("{:#x}", processor.stepping));
    line("virtual", &format_args!("{:#x}", u8::from(processor.is_virtual)));
    line("linear-address-bits", &format_args!("{:#x}", processor.linear_address_bits));
    line("x87-pointer-bits", &format_args!("{:#x}", processor.x87_pointer_bits));
    line("mxcsr-mask", &format_args!("{:#x}", processor.mxcsr_mask.bits()));
    line("xcr0", &format_args!("{:#x}", processor.xcr0));
    for (component, size, offset) in processor.components.rows() {
        line("component", &format_args!("{component:#x} {size:#x} {offset:#x}"));
    }
    line("aligned-components", &format_args!("{:#x}", processor.components.aligned()));
    line("features", &names(&mut processor.features.iter().filter(told)));
    line("unknown-features", &names(&mut processor.unknown.iter()));
    line("facts", &facts(processor.facts));
    line("facts-not", &facts(processor.facts.complement()));
    text
}

/// Reads the lines of a header that describe the processor. All but those of components have to be there.
///
/// # Errors
/// A line that is missing or not understood.
pub fn parse(header: &str) -> Result<Processor, String> {
    let value = |key: &str| {
        let mut lines = header.lines().filter_map(|line| line.split_once(':'));
        let line = lines.find(|(name, _)| *name == key);
        line.map(|(_, value)| value.trim()).ok_or_else(|| format!("it does not say {key}"))
    };
    let count = |key: &str| number(value(key)?).ok_or_else(|| format!("{key} is no number"));
    let small = |key: &str| u32::try_from(count(key)?).map_err(|_| format!("{key} is too large"));
    let bits = |key: &str| match count(key)? {
        bits @ (48..=64) => Ok(bits as u8),
        _ => Err(format!("{key} is not from 48 to 64")),
    };
    let vendor = match value("vendor")? {
        "AuthenticAMD" => Vendor::Amd,
        "GenuineIntel" => Vendor::Intel,
        other => return Err(format!("the vendor {other:?} is not known")),
    };
    let mut processor = Processor::with_no_feature(vendor);
    (processor.family, processor.model, processor.stepping) =
        (small("family")?, small("model")?, small("stepping")?);
    processor.is_virtual = count("virtual")? != 0;
    processor.linear_address_bits = bits("linear-address-bits")?;
    processor.x87_pointer_bits = bits("x87-pointer-bits")?;
    processor.mxcsr_mask = Mxcsr::from_bits_retain(small("mxcsr-mask")?);
    processor.xcr0 = count("xcr0")?;
    processor.components = components(header, count("aligned-components")?)?;
    let named =
        |name: &str| Features::named(name).ok_or_else(|| format!("the feature {name:?} is not known"));
    for name in value("features")?.split_whitespace() {
        processor.features.set(named(name)?, true);
    }
    processor.unknown = Features::NONE;
    for name in value("unknown-features")?.split_whitespace() {
        processor.unknown.set(named(name)?, true);
    }
    // What was not known when the file was recorded is as usual for the vendor, and what is not known any more has
    // become part of something else.
    for (key, has) in [("facts", true), ("facts-not", false)] {
        for fact in value(key)?.split_whitespace().filter_map(Facts::from_name) {
            processor.facts.set(fact, has);
        }
    }
    Ok(processor)
}

/// The state components of XSAVE images.
fn components(header: &str, aligned: u64) -> Result<Components, String> {
    let row = |text: &str| {
        let mut words = text.split(' ').map(number);
        let (component, size, offset) = (words.next()??, words.next()??, words.next()??);
        let fits = (2..63).contains(&component) && size <= LONGEST && offset <= LONGEST;
        (fits && words.next().is_none()).then_some((component as usize, size as u32, offset as u32))
    };
    let lines = header.lines().filter_map(|line| line.strip_prefix("component: "));
    let rows: Option<Vec<_>> = lines.map(row).collect();
    let rows = rows.ok_or("a component is not a number, a size and an offset")?;
    Ok(Components::of(&rows, aligned))
}

/// The longest component of an XSAVE image, and the farthest.
const LONGEST: u64 = 1 << 20;

/// What answers with the machine's own state, whichever processor it has: descriptors and control registers, besides
/// the rows that must run on the thread's core.
const BY_THE_MACHINE: &[Mnemonic] =
    &[Mnemonic::Lar, Mnemonic::Sldt, Mnemonic::Smsw, Mnemonic::Verr, Mnemonic::Verw];

/// Whether an instruction's answer is of one machine and not of a processor, so that it is not worth recording.
#[must_use]
pub fn is_the_machines(displaced: &Displaced) -> bool {
    displaced.touches().contains(Touches::THIS_CORE)
        || BY_THE_MACHINE.contains(&displaced.instruction().mnemonic())
}

/// Why this machine cannot say what an instruction does on `processor`, if it cannot.
#[must_use]
pub fn unanswerable(displaced: &Displaced, processor: &Processor) -> Option<&'static str> {
    let host = Processor::host();
    let same = (host.vendor, host.family) == (processor.vendor, processor.family);
    if is_the_machines(displaced) {
        Some("the answer of one machine")
    } else if !same && displaced.is_by_host() {
        Some("computed by the host, which is another processor")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_is_read_as_it_is_written() {
        for processor in [Processor::zen_3(), Processor::emerald_rapids(), *Processor::host()] {
            assert_eq!(parse(&header(&processor)), Ok(processor), "{}", header(&processor));
        }
    }

    #[test]
    fn a_fact_that_is_not_named_is_as_usual_for_the_vendor() {
        let mut processor = Processor::zen_3();
        let usual = Processor::with_no_feature(Vendor::Amd).facts.contains(Facts::SHA_IGNORES_ALIGNMENT);
        processor.facts.set(Facts::SHA_IGNORES_ALIGNMENT, !usual);
        let text = header(&processor);
        assert_eq!(parse(&text), Ok(processor));
        let unnamed = text.replace("SHA_IGNORES_ALIGNMENT", "FLIES");
        processor.facts.set(Facts::SHA_IGNORES_ALIGNMENT, usual);
        assert_eq!(parse(&unnamed), Ok(processor));
    }

    #[test]
    fn what_is_not_known_is_an_error() {
        let text = header(&Processor::zen_3());
        for (from, to) in [
            ("AVX2", "AVX3"),
            ("AuthenticAMD", "CyrixInstead"),
            ("linear-address-bits: 0x30", "linear-address-bits: 0x0"),
            ("mxcsr-mask: 0x", "mxcsr-mask: 0xfffffffff"),
            ("xcr0: ", "xcr1: "),
            ("component: 0x2 ", "component: 0xffffffffff "),
        ] {
            assert!(text.contains(from), "{text}");
            let changed = text.replacen(from, to, 1);
            assert!(parse(&changed).is_err(), "{changed}");
        }
    }
}
