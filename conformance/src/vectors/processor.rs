//! The processor that recorded answers are of.

use emu::{Displaced, Processor, Touches};
use iced_x86::Mnemonic;

/// A processor for people.
#[must_use]
pub fn name(processor: &Processor) -> String {
    let Processor { vendor, family, model, stepping, .. } = processor;
    format!("{} family {family} model {model} stepping {stepping}", vendor.signature())
}

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
