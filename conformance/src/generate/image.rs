//! Images of extended state for XSAVE and XRSTOR.

use emu::Registers;
use emu::registers::gpr;
use emu::xsave::{HEADER_LENGTH, LEGACY_LENGTH};
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
pub(super) const LENGTH: u64 = 832;

/// Components that are asked for by EDX:EAX.
pub(super) fn requested(registers: &mut Registers, rng: &mut Rng) {
    let requested = match rng.below(4) {
        0 => u64::MAX,
        1 => rng.u64(),
        _ => rng.below(8),
    };
    registers.gpr[gpr::RAX] = requested & 0xffff_ffff | rng.u64() << 32;
    registers.gpr[gpr::RDX] = requested >> 32 | rng.u64() << 32;
}

/// A header that XRSTOR mostly takes, for the image at `start`; and often an MXCSR that it takes.
pub(super) fn header(start: u64, rng: &mut Rng) -> Vec<Patch> {
    const MXCSR: u64 = 24;
    let address = start.wrapping_add(LEGACY_LENGTH as u64);
    let writable = |address: u64, length: u64| {
        WRITABLE.iter().any(|region| region.start <= address && address + length <= region.end())
    };
    let mut patches = Vec::new();
    if start < 1 << 47 && writable(address, HEADER_LENGTH as u64) && rng.chance(85) {
        let mut bytes = [0; 64];
        let components = rng.below(8);
        let (in_use, layout) = match rng.below(10) {
            0..5 => (components, 0),
            5..9 => (components & rng.below(8), components | 1 << 63),
            _ => (components | 1 << rng.below(64), rng.u64() & 1 << 63 | components),
        };
        bytes[..8].copy_from_slice(&in_use.to_le_bytes());
        bytes[8..16].copy_from_slice(&layout.to_le_bytes());
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
