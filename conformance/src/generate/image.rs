//! Images of extended state for XSAVE and XRSTOR.

use emu::Registers;
use emu::registers::gpr;
use emu::xsave::{HEADER_LENGTH, LEGACY_LENGTH, Layout, MINIMUM_LENGTH, feature};
use iced_x86::{Instruction, Mnemonic};

use crate::oracle::Patch;
use crate::oracle::places::{LOW, WRITABLE};
use crate::rng::Rng;

/// Whether the operand is an image, which must be aligned to 64 bytes.
pub(super) fn has_image(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64
    )
}

/// The length that most images have, in bytes: those with AVX.
const LENGTH: u64 = 832;
/// x87, SSE and AVX.
const FIRST: u64 = feature::X87 | feature::SSE | feature::AVX;
/// Both parts of AMX's state.
const TILES: u64 = feature::TILE_CONFIG | feature::TILE_DATA;
/// What any values are good for, besides [`FIRST`]: without the protection key that all pages have nothing runs.
const OTHERS: u64 = feature::OPMASK | feature::ZMM_HI256 | feature::HI16_ZMM | TILES;
/// What lies before the configuration of tiles in a compacted image, and how long it is in bytes.
const BEFORE_TILES: [(u64, usize); 4] =
    [(feature::AVX, 256), (feature::OPMASK, 64), (feature::ZMM_HI256, 512), (feature::HI16_ZMM, 1024)];

/// How long the image that is asked for may be, in bytes.
pub(super) fn length(registers: &Registers, layout: &Layout, rng: &mut Rng) -> u64 {
    let [rax, _, rdx, ..] = registers.gpr;
    let has_others = (rdx << 32 | rax & 0xffff_ffff) & layout.features() & OTHERS != 0;
    if has_others && rng.chance(70) { layout.length as u64 } else { LENGTH }
}

/// Some of the first three components, and often some of the others that there are.
fn components(layout: &Layout, rng: &mut Rng) -> u64 {
    let others = if rng.chance(40) { rng.u64() & OTHERS & layout.features() } else { 0 };
    rng.u64() & FIRST | others
}

/// Components that are asked for by EDX:EAX.
pub(super) fn requested(registers: &mut Registers, layout: &Layout, rng: &mut Rng) {
    let requested = match rng.below(4) {
        0 => u64::MAX,
        1 => rng.u64(),
        _ => components(layout, rng),
    };
    registers.gpr[gpr::RAX] = requested & 0xffff_ffff | rng.u64() << 32;
    registers.gpr[gpr::RDX] = requested >> 32 | rng.u64() << 32;
}

/// Where an image of that length is accessed whole, or all but its last bytes.
pub(super) fn place(length: u64, rng: &mut Rng) -> u64 {
    const ALIGNMENT: u64 = 64;
    LOW.start + ALIGNMENT * rng.below((LOW.length - length).div_ceil(ALIGNMENT) + 2)
}

/// A header that XRSTOR mostly takes, for the image at `start`; and often an MXCSR that it takes, and a configuration of
/// tiles.
pub(super) fn header(start: u64, layout: &Layout, rng: &mut Rng) -> Vec<Patch> {
    const MXCSR: u64 = 24;
    let address = start.wrapping_add(LEGACY_LENGTH as u64);
    let writable = |address: u64, length: u64| {
        WRITABLE.iter().any(|region| region.start <= address && address + length <= region.end())
    };
    let mut patches = Vec::new();
    if start < 1 << 47 && writable(address, HEADER_LENGTH as u64) && rng.chance(85) {
        let mut bytes = [0; 64];
        let components = components(layout, rng);
        let (in_use, format) = match rng.below(10) {
            0..5 => (components, 0),
            5..9 => (components & (rng.u64() | TILES), components | 1 << 63),
            _ => (components | 1 << rng.below(64), rng.u64() & 1 << 63 | components),
        };
        bytes[..8].copy_from_slice(&in_use.to_le_bytes());
        bytes[8..16].copy_from_slice(&format.to_le_bytes());
        if components & feature::TILE_CONFIG != 0 {
            let before = BEFORE_TILES.iter().filter(|(component, _)| components & component != 0);
            let compacted = MINIMUM_LENGTH + before.map(|(_, length)| length).sum::<usize>();
            let offset = if format == 0 { layout.tile_config } else { Some(compacted) };
            let place = start.wrapping_add(offset.unwrap_or(0) as u64);
            patches.extend(super::related::patch(place, &super::tiles::config(rng).0));
        }
        if rng.chance(10) {
            bytes[16 + rng.below(48) as usize] = 1;
        }
        patches.push(Patch { address, length: HEADER_LENGTH, bytes });
    }
    if start < 1 << 47 && writable(start + MXCSR, 4) && rng.chance(85) {
        let mut bytes = [0; 64];
        let mxcsr = rng.u64() as u32 & 0xffff;
        bytes[..4].copy_from_slice(&mxcsr.to_le_bytes());
        patches.push(Patch { address: start + MXCSR, length: 4, bytes });
    }
    patches
}
