//! What the system instructions take: selectors, far pointers, the frame of IRET, numbers of registers.

use emu::Rflags;
use emu::registers::gpr;
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::{address, values};
use crate::oracle::places::{PAGE, USER_END, WRITABLE};
use crate::oracle::{Case, Patch};
use crate::rng::Rng;

/// Whether a debug exception that TF asks for comes one instruction late: loads of SS inhibit it, and the
/// kernel skips it where it answers in the processor's place (UMIP).
pub(crate) fn skips_a_step(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let loads_ss = instruction.op_count() > 0
        && instruction.op0_kind() == OpKind::Register
        && instruction.op0_register() == Register::SS;
    loads_ss || matches!(instruction.mnemonic(), M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw)
}

/// Selectors that Linux has, some that it keeps to itself, null ones, and any.
fn selector(rng: &mut Rng) -> u16 {
    match rng.below(10) {
        0..3 => rng.pick(&[0x2b, 0x33, 0x33, 0x23]),
        3 => rng.below(4) as u16,
        4..7 => (rng.below(18) << 3 | rng.below(4)) as u16,
        // Its limit tells the core.
        7 => 0x78 | rng.below(4) as u16,
        8 => rng.u64() as u16 & !4,
        _ => rng.u64() as u16,
    }
}

/// The offset of a far transfer; of few bytes where it is only that wide.
fn offset(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => address::target(1, rng),
        1 => rng.below(1 << 32),
        2 => rng.below(USER_END / PAGE) * PAGE,
        _ => values::integer(64, rng),
    }
}

/// Changes registers and memory so that the instruction gets something sensible; `memory` is where its
/// last memory operand lies.
pub(crate) fn operands(case: &mut Case, instruction: &Instruction, memory: Option<u64>, rng: &mut Rng) {
    use Mnemonic as M;
    let stack = case.registers.gpr[gpr::RSP];
    match instruction.mnemonic() {
        M::Lar | M::Lsl | M::Verr | M::Verw | M::Mov => selector_operand(case, instruction, memory, rng),
        M::Lfs | M::Lgs | M::Lss | M::Call | M::Jmp if instruction.op_count() > 0 => {
            far_pointer(case, instruction, memory, rng);
        }
        M::Pop if instruction.op0_register().is_segment_register() => {
            words(case, stack, 8, &[u64::from(selector(rng))]);
        }
        M::Retf => {
            let size = instruction.op_code().operand_size() as usize / 8;
            let frame = [offset(rng), u64::from(selector(rng))];
            words(case, stack, size, &frame);
        }
        M::Iret | M::Iretd | M::Iretq => {
            let size = instruction.op_code().operand_size() as usize / 8;
            let cs = if rng.chance(70) { 0x33 } else { selector(rng) };
            let ss = if rng.chance(70) { 0x2b } else { selector(rng) };
            let (target, flags) = (offset(rng), rng.u64());
            let frame = [target, u64::from(cs), flags, values::integer(64, rng), u64::from(ss)];
            interrupt_frame(case, stack, size, frame);
        }
        M::Cpuid if rng.chance(80) => {
            let leaf = rng.pick(&[0, 0x4000_0000, 0x8000_0000]) + rng.below(0x28);
            let upper = rng.pick(&[0, 1 << 32]);
            case.registers.gpr[gpr::RAX] = leaf | upper;
            case.registers.gpr[gpr::RCX] = rng.below(10) | upper;
        }
        M::Xgetbv | M::Monitorx | M::Rdpkru | M::Wrpkru if rng.chance(80) => {
            case.registers.gpr[gpr::RCX] = rng.below(2) | rng.pick(&[0, 1 << 32]);
        }
        _ => {}
    }
}

/// Puts IRET's frame of words of `size` bytes at `stack`, but none that never ends.
///
/// Intel's processors check the frame's alignment by the AC that it has, and raise #AC with the AC that there was.
/// If that one is clear the kernel, or the hypervisor, takes the exception for a split lock's and runs IRET again,
/// for ever.
fn interrupt_frame(case: &mut Case, stack: u64, size: usize, mut frame: [u64; 5]) {
    let misalignment = stack & (size as u64).saturating_sub(1);
    let is_checked = misalignment != 0 && !case.registers.rflags.contains(Rflags::AC);
    if is_checked {
        frame[2] &= !Rflags::AC.bits();
    }
    if !words(case, stack, size, &frame) && is_checked {
        // Nobody knows which flags lie there.
        case.registers.gpr[gpr::RSP] -= misalignment;
    }
}

/// Puts words of `size` bytes into memory, if all of it is in a region that can be written.
/// False if it is not.
fn words(case: &mut Case, start: u64, size: usize, words: &[u64]) -> bool {
    let mut bytes = [0; 64];
    let length = size * words.len();
    let inside =
        |start| WRITABLE.iter().any(|region| region.start <= start && start + length as u64 <= region.end());
    if size == 0 || length > bytes.len() || start > USER_END || !inside(start) || case.patches.len() >= 3 {
        return false;
    }
    for (place, word) in bytes.chunks_exact_mut(size).zip(words) {
        place.copy_from_slice(&word.to_le_bytes()[..size]);
    }
    case.patches.push(Patch { address: start, length, bytes });
    true
}

fn selector_operand(case: &mut Case, instruction: &Instruction, memory: Option<u64>, rng: &mut Rng) {
    let source = instruction.op_count().saturating_sub(1);
    let is_move = instruction.mnemonic() == Mnemonic::Mov;
    if is_move
        && !(instruction.op0_kind() == OpKind::Register && instruction.op0_register().is_segment_register())
    {
        return;
    }
    let selector = u64::from(selector(rng));
    match (instruction.op_kind(source), memory) {
        (OpKind::Memory, Some(start)) => {
            words(case, start, 2, &[selector]);
        }
        (OpKind::Register, _) => {
            let number = instruction.op_register(source).full_register().number();
            let register = &mut case.registers.gpr[number];
            *register = *register & !0xffff | selector;
        }
        _ => {}
    }
}

fn far_pointer(case: &mut Case, instruction: &Instruction, memory: Option<u64>, rng: &mut Rng) {
    let is_load = matches!(instruction.mnemonic(), Mnemonic::Lfs | Mnemonic::Lgs | Mnemonic::Lss);
    let is_far = instruction.is_call_far_indirect() || instruction.is_jmp_far_indirect();
    let Some(start) = memory.filter(|_| is_load || is_far) else { return };
    let size = instruction.memory_size().size().saturating_sub(2);
    let (offset, selector) = (offset(rng), u64::from(selector(rng)));
    words(case, start, size, &[offset]);
    words(case, start.wrapping_add(size as u64), 2, &[selector]);
}
