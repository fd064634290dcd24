//! Images of extended state for XSAVE and XRSTOR.

use emu::Registers;
use emu::registers::gpr;
use emu::xsave::{HEADER_LENGTH, LEGACY_LENGTH, Layout, MINIMUM_LENGTH, feature};
use iced_x86::{Instruction, Mnemonic};

use crate::oracle::Patch;
use crate::oracle::places::WRITABLE;
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
/// Both parts of AMX's state.
const TILES: u64 = feature::TILE_CONFIG | feature::TILE_DATA;

/// How long the image that is asked for may be, in bytes.
pub(super) fn length(registers: &Registers, layout: &Layout, rng: &mut Rng) -> u64 {
    let [rax, _, rdx, ..] = registers.gpr;
    let has_tiles = (rdx << 32 | rax & 0xffff_ffff) & layout.features() & TILES != 0;
    if has_tiles && rng.chance(70) { layout.length as u64 } else { LENGTH }
}

/// Some of the first three components, and now and then some of AMX's where there are such.
fn components(layout: &Layout, rng: &mut Rng) -> u64 {
    let components = rng.below(8);
    if layout.tile_data.is_some() && rng.chance(40) {
        return components | rng.u64() & TILES;
    }
    components
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
            5..9 => (components & (rng.below(8) | TILES), components | 1 << 63),
            _ => (components | 1 << rng.below(64), rng.u64() & 1 << 63 | components),
        };
        bytes[..8].copy_from_slice(&in_use.to_le_bytes());
        bytes[8..16].copy_from_slice(&format.to_le_bytes());
        if components & feature::TILE_CONFIG != 0 {
            // In a compacted image only AVX lies before it.
            let compacted = MINIMUM_LENGTH + if components & feature::AVX != 0 { 256 } else { 0 };
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
