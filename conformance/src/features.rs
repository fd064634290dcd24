//! What the processor at hand has: what CPUID says, and what trying says where CPUID is silent.

use std::sync::OnceLock;

use emu::{Displaced, Features, Processor, Refusal};
use iced_x86::{Code, CpuidFeature};

use crate::codes;
use crate::generate::{Generator, Sample};
use crate::oracle::places::IMAGE_LENGTH;
use crate::oracle::{Oracle, Stop, mxcsr_mask};

/// How many cases of an encoding say whether the processor has it.
const ENOUGH: u64 = 8;

/// The processor at hand. A feature that CPUID denies is tried: a hypervisor hides what it cannot take away.
#[must_use]
pub fn processor() -> &'static Processor {
    static PROCESSOR: OnceLock<&'static Processor> = OnceLock::new();
    PROCESSOR.get_or_init(|| {
        let mut processor = *Processor::host();
        if let Some(tried) = try_unknown() {
            processor.unknown = processor.unknown.without(tried.had).without(tried.lacked);
            processor.features = processor.features.union(tried.had);
        }
        processor.leak()
    })
}

/// Decodes for the [`processor`] at hand.
///
/// # Errors
/// As [`Displaced::decode_on`].
pub fn decode(bytes: &[u8], ip: u64) -> Result<Displaced, Refusal> {
    Displaced::decode_on(bytes, ip, processor())
}

/// What came of trying features.
#[derive(Default)]
struct Tried {
    had: Features,
    lacked: Features,
}

/// Tries each encoding that the host may have or not; `None` if it cannot be tried here.
fn try_unknown() -> Option<Tried> {
    let host = Processor::host();
    let mut oracle = Oracle::new().ok()?;
    let mut generator = Generator::new(oracle.layout(), mxcsr_mask());
    let mut memory = Box::new([0; IMAGE_LENGTH]);
    let mut tried = Tried::default();
    let unsure = |code: &Code| codes::skipped(*code).is_none() && host.can(code.cpuid_features()).is_none();
    for code in codes::all().filter(unsure) {
        Generator::memory(code, 0, 0, &mut memory);
        let samples: Vec<Sample> = (0..ENOUGH).map_while(|number| generator.case(code, number, 0)).collect();
        let undefined = match oracle.run(&mut memory, &samples) {
            Ok(observed) => observed.iter().all(|one| matches!(one.stop, Stop::Exception { vector: 6, .. })),
            // What it did to the oracle, it did.
            Err(_) => false,
        };
        for feature in code.cpuid_features().iter().filter(|feature| host.unknown.has(**feature)) {
            if !samples.is_empty() {
                if undefined { &mut tried.lacked } else { &mut tried.had }.set(*feature, true);
            }
        }
    }
    tried.lacked = tried.lacked.without(tried.had);
    Some(tried)
}

/// Whether the processor has `feature`; `None` if CPUID has no bit for it and trying did not tell.
#[must_use]
pub fn reported(feature: CpuidFeature) -> Option<bool> {
    processor().reports(feature).filter(|_| !processor().unknown.has(feature))
}

/// The features of `code` that this processor does not have.
#[must_use]
pub fn missing(code: Code) -> Vec<CpuidFeature> {
    code.cpuid_features().iter().copied().filter(|feature| reported(*feature) == Some(false)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_adds_to_what_cpuid_says() {
        let (host, tried) = (Processor::host(), processor());
        assert_eq!(host.features.without(tried.features), Features::NONE);
        assert_eq!(tried.features.without(host.features).without(host.unknown), Features::NONE);
        assert_eq!(reported(CpuidFeature::AVX2), Some(is_x86_feature_detected!("avx2")));
        assert_eq!(reported(CpuidFeature::INTEL8086), None);
    }
}
