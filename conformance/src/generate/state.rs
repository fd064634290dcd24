//! Register files and memory contents.

use emu::registers::{Extended, Vector, X87, gpr, segment};
use emu::xsave::Layout;
use emu::{Facts, Mxcsr, Processor, Registers, Rflags};

use super::{address, values};
use crate::oracle::places::{CODE_LOW, LOW, SEAM, STACK, TOP};
use crate::oracle::{Memory, USER_CS, USER_SS};
use crate::rng::Rng;

/// Contents for all of memory.
pub(crate) fn memory(memory: &mut Memory, rng: &mut Rng) {
    let data = &mut memory[..CODE_LOW.offset];
    for stretch in data.chunks_exact_mut(64) {
        let lanes = values::Lanes::draw(rng);
        for quad in stretch.chunks_exact_mut(8) {
            quad.copy_from_slice(&lanes.quad(rng).to_le_bytes());
        }
    }
}

/// A complete register file, before anything is known of the operands. Unless `wide` the instruction does
/// not look at x87 and vector registers: these are random, not interesting.
pub(crate) fn registers(layout: &Layout, mxcsr_mask: u32, wide: bool, rng: &mut Rng) -> Registers {
    let mut registers = Registers { rflags: flags(rng), ..Default::default() };
    for register in &mut registers.gpr {
        *register = general(rng);
    }
    registers.gpr[gpr::RSP] = STACK.start + 8 * rng.below(STACK.length / 8);
    registers.segment[segment::CS] = USER_CS;
    registers.segment[segment::SS] = USER_SS;
    registers.fs_base = base(rng);
    registers.gs_base = base(rng);
    // Key 0 is the one that all pages have; without it nothing runs.
    registers.pkru = if layout.pkru.is_some() { rng.u64() as u32 & !3 } else { 0 };
    extended(&mut registers.extended, layout, mxcsr_mask, wide, rng);
    if layout.tile_data.is_some() {
        registers.extended.tiles.data.make_room();
    }
    registers
}

fn general(rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0 => rng.pick(&[LOW, STACK, TOP, SEAM]).start + rng.below(4096),
        1 => rng.below(256),
        _ => values::integer(64, rng),
    }
}

fn base(rng: &mut Rng) -> u64 {
    match rng.below(3) {
        0 => 0,
        1 => rng.below(1 << 30),
        _ => address::canonical(rng.u64()),
    }
}

fn flags(rng: &mut Rng) -> Rflags {
    let mut flags = Rflags::default() | Rflags::from_bits_retain(rng.u64()) & Rflags::STATUS;
    flags.set(Rflags::DF, rng.chance(25));
    flags.set(Rflags::AC, rng.chance(6));
    flags.set(Rflags::ID, rng.chance(10));
    flags.set(Rflags::NT, rng.chance(3));
    flags
}

fn extended(extended: &mut Extended, layout: &Layout, mxcsr_mask: u32, wide: bool, rng: &mut Rng) {
    extended.mxcsr = mxcsr(rng) & Mxcsr::from_bits_retain(mxcsr_mask);
    x87(&mut extended.x87, rng);
    let quads = quads(layout);
    let count = if layout.hi16_zmm.is_some() { 32 } else { 16 };
    for vector in &mut extended.vector[..count] {
        let lanes = if wide { values::Lanes::draw(rng) } else { values::Lanes::Random };
        *vector = Vector::default();
        for quad in &mut vector.0[..quads] {
            *quad = lanes.quad(rng);
        }
    }
    if layout.opmask.is_some() {
        for mask in &mut extended.opmask {
            *mask = values::integer(64, rng);
        }
    }
}

/// How many 64-bit parts a vector register has.
pub(super) fn quads(layout: &Layout) -> usize {
    match (layout.avx, layout.zmm_hi256) {
        (_, Some(_)) => 8,
        (Some(_), None) => 4,
        (None, None) => 2,
    }
}

fn mxcsr(rng: &mut Rng) -> Mxcsr {
    let mut mxcsr = Mxcsr::from_bits_retain(rng.u64() as u32) & (Mxcsr::RC | Mxcsr::EXCEPTIONS);
    if rng.chance(50) {
        mxcsr -= Mxcsr::EXCEPTIONS;
    }
    mxcsr.set(Mxcsr::DAZ, rng.chance(25));
    mxcsr.set(Mxcsr::FTZ, rng.chance(25));
    /// AMD's misaligned exception mask.
    const MM: Mxcsr = Mxcsr::from_bits_retain(1 << 17);
    mxcsr.set(MM, rng.chance(5));
    mxcsr |= match rng.below(8) {
        0 => Mxcsr::from_bits_retain(rng.u64() as u32) & Mxcsr::MASKS,
        1 => Mxcsr::MASKS - Mxcsr::from_bits_retain(1 << (7 + rng.below(6))),
        _ => Mxcsr::MASKS,
    };
    mxcsr
}

/// Whether FOP, FIP and FDP stay what they are in this state. Some processors lose them in any context switch while no
/// unmasked exception is pending: they would be there in one case and not in another.
pub(crate) fn keeps_pointers(facts: Facts, x87: &X87) -> bool {
    /// ES of FSW.
    const SUMMARY: u16 = 1 << 7;
    x87.status & SUMMARY != 0 || !facts.contains(Facts::X87_POINTERS_ARE_HIDDEN)
}

fn x87(x87: &mut X87, rng: &mut Rng) {
    /// FSW bits: the six exceptions, SF.
    const EXCEPTIONS: u16 = 0x3f;
    const STACK_FAULT: u16 = 1 << 6;
    let masks = if rng.chance(85) { EXCEPTIONS } else { rng.u64() as u16 & EXCEPTIONS };
    // The manuals reserve a precision of 1.
    let precision = rng.pick(&[3u16, 3, 3, 3, 3, 3, 2, 2, 0, 0, 1]);
    // Bit 6 reads as one; bit 12 (infinity control) is kept and without effect.
    let infinity = u16::from(rng.chance(20)) << 12;
    x87.control = masks | 1 << 6 | precision << 8 | (rng.below(4) as u16) << 10 | infinity;
    let conditions = rng.u64() as u16 & 0x7f00;
    let raised = match rng.below(10) {
        0..5 => 0,
        5..9 => rng.u64() as u16 & EXCEPTIONS & masks,
        _ => rng.u64() as u16 & EXCEPTIONS,
    };
    x87.status = conditions | raised;
    if raised & 1 != 0 && rng.chance(50) {
        x87.status |= STACK_FAULT;
    }
    x87.summarize();
    x87.tag = match rng.below(10) {
        0..6 => 0xff,
        6 => 0,
        _ => rng.u64() as u8,
    };
    if keeps_pointers(Processor::host().facts, x87) {
        x87.opcode = rng.u64() as u16 & 0x7ff;
        x87.instruction_pointer = rng.below(1 << 47);
        x87.data_pointer = rng.below(1 << 47);
    }
    for register in &mut x87.r {
        *register = values::extended(rng);
    }
}
