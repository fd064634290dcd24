//! Which parts of a thread's state the kernel hands out.

use emu::xsave::feature;
use emu::{Displaced, Processor, Touches};

const AVX512: u64 = feature::OPMASK | feature::ZMM_HI256 | feature::HI16_ZMM;
const TILES: u64 = feature::TILE_CONFIG | feature::TILE_DATA;

/// The parts that there need not be: with the components of XCR0 that they are, and why there are none.
const PARTS: [(Touches, u64, &str); 6] = [
    (Touches::X87, feature::X87, "x87 state, which the processor does not save"),
    (Touches::SSE, feature::SSE, "XMM registers, which the processor does not save"),
    (Touches::AVX, feature::AVX, "YMM registers, which the processor does not have"),
    (Touches::AVX512, AVX512, "ZMM and mask registers, which the processor does not have"),
    (Touches::TILES, TILES, "tile registers, which the system has not enabled"),
    (Touches::PKRU, feature::PKRU, "protection keys, which the processor does not have"),
];

/// What can be fetched and stored of a thread on `processor`: all but what its system has not enabled.
pub(crate) fn provided(processor: &Processor) -> Touches {
    let absent = PARTS.iter().filter(|(_, components, _)| processor.xcr0 & components != *components);
    let absent = absent.fold(Touches::empty(), |absent, (part, ..)| absent | *part);
    Touches::all() - absent
}

/// What `displaced` needs and an executor that provides no more than `provided` lacks, if anything.
pub(crate) fn missing(displaced: &Displaced, provided: Touches) -> Option<&'static str> {
    let touches = displaced.touches();
    // XSAVE and its kin work on whatever there is.
    if touches.contains(Touches::EXTENDED) {
        return None;
    }
    let lacks = |part: Touches| touches.intersects(part) && !provided.contains(part);
    PARTS.iter().find_map(|&(part, _, name)| lacks(part).then_some(name))
}
