//! Addresses that find bugs, and the registers that make an operand lie there.

use emu::registers::gpr;
use emu::{Registers, Rflags};
use iced_x86::{CodeSize, Instruction, Register, UsedMemory};

use crate::oracle::places::{CODE_HIGH, CODE_LOW, LOW, PAGE, READ_ONLY, Region, SEAM, STACK, TOP, USER_END};
use crate::rng::Rng;

/// An address in a region that can be written, for an operand of `size` bytes.
fn inside(region: Region, size: u64, rng: &mut Rng) -> u64 {
    let room = region.length - size.min(region.length);
    let address = region.start + rng.below(room + 1);
    if rng.chance(60) { address & !(size.next_power_of_two().clamp(1, 64) - 1) } else { address }
}

/// An address where an operand of `size` bytes is worth having.
pub(crate) fn target(size: u64, rng: &mut Rng) -> u64 {
    let size = size.max(1);
    // So many bytes of the operand lie before a boundary.
    let before = rng.below(size) + 1;
    match rng.below(100) {
        0..30 => inside(LOW, size, rng),
        30..39 => inside(STACK, size, rng),
        39..48 => inside(TOP, size, rng),
        48..53 => LOW.end() - before,
        53..56 => READ_ONLY.end() - before,
        56..58 => inside(READ_ONLY, size, rng),
        58..62 => LOW.start + PAGE - before,
        62..65 => SEAM.start + PAGE - before,
        65..69 => LOW.end() - before,
        69..72 => inside(READ_ONLY, size, rng),
        72..76 => READ_ONLY.end() - before,
        76..79 => STACK.end() - before,
        79..82 => TOP.end() - before,
        82..84 => LOW.start - before,
        84..86 => TOP.start - before,
        86..88 => rng.pick(&[LOW.start - PAGE, READ_ONLY.end(), STACK.end(), TOP.start - PAGE]),
        88..90 => inside(rng.pick(&[CODE_LOW, CODE_HIGH]), size, rng),
        90..92 => rng.below(PAGE),
        92..94 => (1 << 47) - rng.below(2 * size),
        94..96 => rng.u64() | 1 << 62,
        96..97 => 0xffff_8000_0000_0000_u64.wrapping_sub(rng.below(2 * size)),
        97..98 => 0xffff_8000_0000_0000 + rng.below(1 << 40),
        98..99 => 0u64.wrapping_sub(rng.below(2 * size)),
        _ => USER_END + rng.below(PAGE),
    }
}

/// Where the first of RCX elements of `size` bytes is worth having, so that any of them may be the one at a boundary.
pub(crate) fn first_of_many(size: u64, registers: &Registers, rng: &mut Rng) -> u64 {
    let others = size * registers.gpr[gpr::RCX].clamp(1, PAGE / size) - size;
    let lowest = target(size + others, rng);
    if registers.rflags.contains(Rflags::DF) { lowest.wrapping_add(others) } else { lowest }
}

/// An address for an instruction that has it as it is: at most 31 bits, or 32 if `narrow`.
pub(crate) fn absolute(narrow: bool, rng: &mut Rng) -> u64 {
    loop {
        let address = target(8, rng);
        if !narrow || address < 1 << 31 {
            return address;
        }
    }
}

/// An address in or around `region`.
pub(crate) fn near(region: Region, rng: &mut Rng) -> u64 {
    match rng.below(10) {
        0..7 => inside(region, 8, rng),
        7 => region.start - rng.below(64),
        8 => region.end() - rng.below(64),
        _ => region.end() + rng.below(4 * PAGE),
    }
}

/// Where `memory` lies with these registers; for VSIB addressing its first element.
pub(crate) fn linear(memory: &UsedMemory, registers: &Registers) -> Option<u64> {
    memory.virtual_address(0, |register, _, _| value(registers, register))
}

/// Where the instruction's operand `operand` lies in memory with these registers.
pub(crate) fn address_of(instruction: &Instruction, operand: u32, registers: &Registers) -> Option<u64> {
    instruction.virtual_address(operand, 0, |register, _, _| value(registers, register))
}

/// What a register that can be part of an address holds; of a vector nothing is asked.
pub(crate) fn value(registers: &Registers, register: Register) -> Option<u64> {
    Some(match register {
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        _ if register.is_segment_register() => 0,
        _ if register.is_gpr() => {
            let full = registers.gpr[register.full_register().number()];
            match register.size() {
                8 => full,
                4 => full & 0xffff_ffff,
                2 => full & 0xffff,
                _ => full & 0xff,
            }
        }
        _ if register.is_vector_register() => 0,
        _ => return None,
    })
}

/// Sometimes changes the base of FS or GS, so that an offset from it leads to `target` that is hardly canonical by itself,
/// or not at all.
pub(crate) fn part_offset(
    memory: &UsedMemory,
    size: u64,
    target: u64,
    registers: &mut Registers,
    rng: &mut Rng,
) {
    let base = match memory.segment() {
        Register::FS => &mut registers.fs_base,
        Register::GS => &mut registers.gs_base,
        _ => return,
    };
    if rng.chance(15) {
        let boundary = rng.pick(&[1 << 47, 0xffff_8000_0000_0000_u64, 0, 1 << 32]);
        // Images are looked at word by word, so that their first few bytes are of interest, too.
        let reach = if rng.chance(50) { 16 } else { 2 * size };
        let offset = boundary.wrapping_sub(rng.below(reach));
        *base = canonical(target.wrapping_sub(offset));
    }
}

/// Changes a register so that `memory` lies at `target`, as far as that can be.
pub(crate) fn solve(memory: &UsedMemory, target: u64, registers: &mut Registers) {
    let Some(now) = linear(memory, registers) else { return };
    let distance = target.wrapping_sub(now);
    if distance == 0 {
        return;
    }
    let (base, index) = (memory.base(), memory.index());
    let base_counts = base.is_gpr();
    let index_counts = index.is_gpr() && index.size() > 1;
    let same = base_counts && index_counts && base.full_register() == index.full_register();
    let narrow = memory.address_size() != CodeSize::Code64;
    let change = |register: Register, by: u64, registers: &mut Registers| {
        let place = &mut registers.gpr[register.full_register().number()];
        *place = if narrow {
            // The upper half is without effect; leave what is there.
            *place & !0xffff_ffff | u64::from((*place as u32).wrapping_add(by as u32))
        } else {
            place.wrapping_add(by)
        };
    };
    if same {
        let factor = 1 + u64::from(memory.scale());
        // Dividing modulo 2^64 works for the odd factors; the others get as near as they can.
        let by = if factor % 2 == 1 { distance.wrapping_mul(inverse(factor)) } else { distance / factor };
        change(base, by, registers);
    } else if base_counts {
        change(base, distance, registers);
    } else if index_counts {
        let by = (distance as i64 / i64::from(memory.scale())) as u64;
        change(index, by, registers);
    } else if memory.segment() == Register::FS {
        registers.fs_base = canonical(registers.fs_base.wrapping_add(distance));
    } else if memory.segment() == Register::GS {
        registers.gs_base = canonical(registers.gs_base.wrapping_add(distance));
    }
}

/// The number that times `odd` is one, modulo 2^64 (Newton's iteration).
fn inverse(odd: u64) -> u64 {
    (0..6).fold(odd, |x, _| x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x))))
}

/// A segment base must be canonical.
pub(crate) fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}
