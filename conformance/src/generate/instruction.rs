//! Instructions of every operand shape, by iced-x86's encoder.

use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Encoder, EncodingKind, Instruction, OpCodeInfo,
    OpCodeOperandKind as Kind, OpKind, Register, RoundingControl,
};

use super::values;
use crate::oracle::places::{LOW, TOP, USER_END};
use crate::rng::Rng;

/// The most bytes that an instruction has.
const LONGEST: usize = 15;
/// How many times a shape is drawn until the encoder takes one.
const ATTEMPTS: usize = 40;

/// What INT would make a system call with.
const SYSTEM_CALL: u8 = 0x80;

/// An encoded instruction.
#[derive(Clone, Copy, Debug)]
pub struct Encoded {
    /// The instruction's bytes, and others behind them.
    pub bytes: [u8; LONGEST],
    /// How many bytes the instruction has.
    pub length: usize,
    /// What iced-x86 decodes from `bytes` at their address.
    pub instruction: Instruction,
}

impl Encoded {
    /// The instruction's bytes alone.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length.min(LONGEST)]
    }
}

/// Draws an instruction of that encoding for address `ip`, or `None` if the encoder has none.
///
/// The decoder's options are those of the processor that it is drawn for.
pub(crate) fn draw(
    code: Code,
    ip: u64,
    options: u32,
    encoder: &mut Encoder,
    rng: &mut Rng,
) -> Option<Encoded> {
    for _ in 0..ATTEMPTS {
        let shape = shape(code, ip, rng);
        set_ignored_bits(encoder, rng);
        let buffer = std::mem::take(&mut encoder.take_buffer());
        let mut buffer = buffer;
        buffer.clear();
        encoder.set_buffer(buffer);
        if encoder.encode(&shape, ip).is_err() {
            continue;
        }
        let bytes = encoder.take_buffer();
        let found = decode(&bytes, ip, options).filter(|found| found.instruction.code() == code);
        encoder.set_buffer(bytes);
        if let Some(found) = found {
            return Some(lock_anything(add_prefixes(found, ip, options, rng), ip, options, rng));
        }
    }
    None
}

/// Decodes all of `bytes` as one instruction.
fn decode(bytes: &[u8], ip: u64, options: u32) -> Option<Encoded> {
    if bytes.len() > LONGEST {
        return None;
    }
    let mut decoder = Decoder::with_ip(64, bytes, ip, options);
    let instruction = decoder.decode();
    if decoder.last_error() != DecoderError::None || instruction.len() != bytes.len() {
        return None;
    }
    let mut padded = [0; LONGEST];
    padded[..bytes.len()].copy_from_slice(bytes);
    Some(Encoded { bytes: padded, length: bytes.len(), instruction })
}

/// Bits that the processor ignores, either way.
fn set_ignored_bits(encoder: &mut Encoder, rng: &mut Rng) {
    encoder.set_prevent_vex2(rng.chance(30));
    encoder.set_vex_wig(u32::from(rng.chance(30)));
    encoder.set_vex_lig(u32::from(rng.chance(30)));
    encoder.set_evex_wig(u32::from(rng.chance(30)));
    encoder.set_evex_lig(if rng.chance(30) { rng.below(3) as u32 } else { 0 });
}

/// Sometimes puts redundant, repeated or useless prefixes in front, as long as the encoding stays the same.
fn add_prefixes(found: Encoded, ip: u64, options: u32, rng: &mut Rng) -> Encoded {
    const PREFIXES: [u8; 10] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf2, 0xf3];
    if !rng.chance(20) {
        return found;
    }
    let mut best = found;
    for _ in 0..=rng.below(4) {
        if best.length == LONGEST {
            break;
        }
        let prefix = if rng.chance(25) { 0x40 | rng.below(16) as u8 } else { rng.pick(&PREFIXES) };
        let old = &best.bytes[..best.length];
        let legacy = old.iter().take_while(|byte| PREFIXES.contains(byte) || **byte == 0xf0).count();
        // A REX prefix counts only right before the opcode; anywhere earlier it is without effect.
        let at = rng.below(legacy as u64 + 1) as usize;
        let mut bytes = Vec::with_capacity(LONGEST);
        bytes.extend_from_slice(&old[..at]);
        bytes.push(prefix);
        bytes.extend_from_slice(&old[at..]);
        if let Some(longer) = decode(&bytes, ip, options)
            && longer.instruction.code() == found.instruction.code()
        {
            best = longer;
        }
    }
    best
}

/// Sometimes puts LOCK in front of what it is not allowed for.
fn lock_anything(found: Encoded, ip: u64, options: u32, rng: &mut Rng) -> Encoded {
    if found.length == LONGEST || found.bytes[0] == 0xf0 || !rng.chance(2) {
        return found;
    }
    let mut bytes = [0; LONGEST];
    bytes[0] = 0xf0;
    bytes[1..].copy_from_slice(&found.bytes[..LONGEST - 1]);
    let options = options | DecoderOptions::NO_INVALID_CHECK;
    let instruction = Decoder::with_ip(64, &bytes[..=found.length], ip, options).decode();
    if instruction.code() != found.instruction.code() {
        return found;
    }
    Encoded { bytes, length: found.length + 1, instruction }
}

/// An instruction with drawn operands; not every one can be encoded.
fn shape(code: Code, ip: u64, rng: &mut Rng) -> Instruction {
    let info = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let mut memory = false;
    for (number, kind) in info.op_kinds().iter().enumerate() {
        memory |= operand(&mut instruction, number as u32, *kind, ip, rng);
    }
    if memory && info.can_use_lock_prefix() && rng.chance(40) {
        instruction.set_has_lock_prefix(true);
    }
    if code == Code::Int_imm8 && instruction.immediate8() == SYSTEM_CALL {
        instruction.set_immediate8(SYSTEM_CALL + 1);
    }
    repeat_prefixes(&mut instruction, info, rng);
    if info.encoding() == EncodingKind::EVEX {
        evex(&mut instruction, info, memory, rng);
    }
    instruction
}

fn repeat_prefixes(instruction: &mut Instruction, info: &OpCodeInfo, rng: &mut Rng) {
    if info.can_use_rep_prefix() && rng.chance(40) {
        instruction.set_has_rep_prefix(true);
    } else if info.can_use_repne_prefix() && rng.chance(40) {
        instruction.set_has_repne_prefix(true);
    }
}

fn evex(instruction: &mut Instruction, info: &OpCodeInfo, memory: bool, rng: &mut Rng) {
    if info.require_op_mask_register() || info.can_use_op_mask_register() && rng.chance(60) {
        instruction.set_op_mask(numbered(Register::K1, rng.below(7)));
        let stores = instruction.op0_kind() == OpKind::Memory;
        if info.can_use_zeroing_masking() && !stores && rng.chance(40) {
            instruction.set_zeroing_masking(true);
        }
    }
    if memory {
        instruction.set_is_broadcast(info.can_broadcast() && rng.chance(40));
    } else if info.can_use_rounding_control() && rng.chance(30) {
        instruction.set_rounding_control(rng.pick(&[
            RoundingControl::RoundToNearest,
            RoundingControl::RoundDown,
            RoundingControl::RoundUp,
            RoundingControl::RoundTowardZero,
        ]));
    } else if info.can_suppress_all_exceptions() && rng.chance(30) {
        instruction.set_suppress_all_exceptions(true);
    }
}

/// The register `number` places after `first`.
fn numbered(first: Register, number: u64) -> Register {
    first + number as u32
}

fn gpr8(rng: &mut Rng) -> Register {
    // AL to BH, then SPL to R15B, which need a REX prefix.
    numbered(Register::AL, rng.below(20))
}

fn gpr16(rng: &mut Rng) -> Register {
    numbered(Register::AX, rng.below(16))
}

fn gpr32(rng: &mut Rng) -> Register {
    numbered(Register::EAX, rng.below(16))
}

fn gpr64(rng: &mut Rng) -> Register {
    numbered(Register::RAX, rng.below(16))
}

/// Sixteen registers for every encoding; thirty-two where EVEX has them.
fn vector(first: Register, code: Code, rng: &mut Rng) -> Register {
    let count = if code.op_code().encoding() == EncodingKind::EVEX { 32 } else { 16 };
    numbered(first, rng.below(count))
}

/// Sets operand `number`; true if it is a memory operand with a ModRM byte.
fn operand(instruction: &mut Instruction, number: u32, kind: Kind, ip: u64, rng: &mut Rng) -> bool {
    let code = instruction.code();
    let or_memory = match kind {
        Kind::r8_or_mem => Some(Kind::r8_reg),
        Kind::r16_or_mem => Some(Kind::r16_reg),
        Kind::r32_or_mem | Kind::r32_or_mem_mpx => Some(Kind::r32_reg),
        Kind::r64_or_mem | Kind::r64_or_mem_mpx => Some(Kind::r64_reg),
        Kind::mm_or_mem => Some(Kind::mm_reg),
        Kind::xmm_or_mem => Some(Kind::xmm_reg),
        Kind::ymm_or_mem => Some(Kind::ymm_reg),
        Kind::zmm_or_mem => Some(Kind::zmm_reg),
        Kind::bnd_or_mem_mpx => Some(Kind::bnd_reg),
        Kind::k_or_mem => Some(Kind::k_reg),
        _ => None,
    };
    if let Some(register) = or_memory {
        if rng.chance(60) {
            memory(instruction, number, ip, Register::None, rng);
            return true;
        }
        return operand(instruction, number, register, ip, rng);
    }
    let vsib = match kind {
        Kind::mem_vsib32x | Kind::mem_vsib64x => Register::XMM0,
        Kind::mem_vsib32y | Kind::mem_vsib64y => Register::YMM0,
        Kind::mem_vsib32z | Kind::mem_vsib64z => Register::ZMM0,
        Kind::mem | Kind::mem_mpx | Kind::mem_mib | Kind::sibmem => Register::None,
        Kind::mem_offs => {
            offset(instruction, number, rng);
            return false;
        }
        _ => {
            return other_operand(instruction, number, kind, ip, rng);
        }
    };
    let index = if vsib == Register::None { vsib } else { vector(vsib, code, rng) };
    memory(instruction, number, ip, index, rng);
    if kind == Kind::sibmem {
        rows_apart(instruction, rng);
    }
    true
}

/// Mostly gives the rows of a tile in memory a distance, which is an index.
fn rows_apart(instruction: &mut Instruction, rng: &mut Rng) {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if !base.is_gpr() || index != Register::None || rng.chance(15) {
        return;
    }
    instruction.set_memory_index(if base.size() == 4 { gpr32(rng) } else { gpr64(rng) });
    instruction.set_memory_index_scale(rng.pick(&[1, 1, 2, 4, 8]));
}

/// An operand that has neither a ModRM byte's memory nor the choice of it.
fn other_operand(instruction: &mut Instruction, number: u32, kind: Kind, ip: u64, rng: &mut Rng) -> bool {
    let code = instruction.code();
    let register = match kind {
        Kind::r8_reg | Kind::r8_opcode => gpr8(rng),
        Kind::r16_reg | Kind::r16_reg_mem | Kind::r16_rm | Kind::r16_opcode => gpr16(rng),
        Kind::r32_reg | Kind::r32_reg_mem | Kind::r32_rm | Kind::r32_opcode | Kind::r32_vvvv => gpr32(rng),
        Kind::r64_reg | Kind::r64_reg_mem | Kind::r64_rm | Kind::r64_opcode | Kind::r64_vvvv => gpr64(rng),
        Kind::seg_reg => numbered(Register::ES, rng.below(6)),
        Kind::k_reg | Kind::kp1_reg | Kind::k_rm | Kind::k_vvvv => numbered(Register::K0, rng.below(8)),
        Kind::mm_reg | Kind::mm_rm => numbered(Register::MM0, rng.below(8)),
        Kind::xmm_reg | Kind::xmm_rm | Kind::xmm_vvvv | Kind::xmmp3_vvvv | Kind::xmm_is4 | Kind::xmm_is5 => {
            vector(Register::XMM0, code, rng)
        }
        Kind::ymm_reg | Kind::ymm_rm | Kind::ymm_vvvv | Kind::ymm_is4 | Kind::ymm_is5 => {
            vector(Register::YMM0, code, rng)
        }
        Kind::zmm_reg | Kind::zmm_rm | Kind::zmm_vvvv | Kind::zmmp3_vvvv => vector(Register::ZMM0, code, rng),
        Kind::cr_reg => numbered(Register::CR0, rng.below(16)),
        Kind::dr_reg => numbered(Register::DR0, rng.below(8)),
        Kind::bnd_reg => numbered(Register::BND0, rng.below(4)),
        Kind::tmm_reg | Kind::tmm_rm | Kind::tmm_vvvv => numbered(Register::TMM0, rng.below(8)),
        Kind::es => Register::ES,
        Kind::cs => Register::CS,
        Kind::ss => Register::SS,
        Kind::ds => Register::DS,
        Kind::fs => Register::FS,
        Kind::gs => Register::GS,
        Kind::al => Register::AL,
        Kind::cl => Register::CL,
        Kind::ax => Register::AX,
        Kind::dx => Register::DX,
        Kind::eax => Register::EAX,
        Kind::rax => Register::RAX,
        Kind::st0 => Register::ST0,
        Kind::sti_opcode => numbered(Register::ST0, rng.below(8)),
        _ => Register::None,
    };
    if register != Register::None {
        instruction.set_op_kind(number, OpKind::Register);
        instruction.set_op_register(number, register);
        return false;
    }
    immediate_or_implied(instruction, number, kind, ip, rng);
    false
}

fn immediate_or_implied(instruction: &mut Instruction, number: u32, kind: Kind, ip: u64, rng: &mut Rng) {
    let implied = |instruction: &mut Instruction, rng: &mut Rng, wide, narrow| {
        let kind = if rng.chance(20) { narrow } else { wide };
        instruction.set_op_kind(number, kind);
    };
    match kind {
        Kind::imm8_const_1 => set_immediate(instruction, number, OpKind::Immediate8, 1),
        Kind::imm4_m2z => set_immediate(instruction, number, OpKind::Immediate8, rng.below(16)),
        Kind::imm8 => {
            // The second of two immediates (ENTER, EXTRQ, INSERTQ) has a place of its own.
            let place =
                if has_immediate(instruction, number) { OpKind::Immediate8_2nd } else { OpKind::Immediate8 };
            set_immediate(instruction, number, place, values::integer(8, rng) & 0xff);
        }
        Kind::imm8sex16 => {
            set_immediate(instruction, number, OpKind::Immediate8to16, values::signed(8, rng));
        }
        Kind::imm8sex32 => {
            set_immediate(instruction, number, OpKind::Immediate8to32, values::signed(8, rng));
        }
        Kind::imm8sex64 => {
            set_immediate(instruction, number, OpKind::Immediate8to64, values::signed(8, rng));
        }
        Kind::imm16 => {
            set_immediate(instruction, number, OpKind::Immediate16, values::integer(16, rng) & 0xffff);
        }
        Kind::imm32 => {
            set_immediate(instruction, number, OpKind::Immediate32, values::integer(32, rng) & 0xffff_ffff);
        }
        Kind::imm32sex64 => {
            set_immediate(instruction, number, OpKind::Immediate32to64, values::signed(32, rng));
        }
        Kind::imm64 => set_immediate(instruction, number, OpKind::Immediate64, values::integer(64, rng)),
        Kind::seg_rSI => {
            implied(instruction, rng, OpKind::MemorySegRSI, OpKind::MemorySegESI);
            segment(instruction, rng);
        }
        Kind::es_rDI => {
            // Both string operands have one address size.
            let narrow = number > 0 && instruction.op_kind(0) == OpKind::MemorySegESI;
            if narrow {
                instruction.set_op_kind(number, OpKind::MemoryESEDI);
            } else if number > 0 && instruction.op_kind(0) == OpKind::MemorySegRSI {
                instruction.set_op_kind(number, OpKind::MemoryESRDI);
            } else {
                implied(instruction, rng, OpKind::MemoryESRDI, OpKind::MemoryESEDI);
            }
        }
        Kind::seg_rDI => {
            implied(instruction, rng, OpKind::MemorySegRDI, OpKind::MemorySegEDI);
            segment(instruction, rng);
        }
        Kind::seg_rBX_al => {
            instruction.set_op_kind(number, OpKind::Memory);
            let base = if rng.chance(20) { Register::EBX } else { Register::RBX };
            instruction.set_memory_base(base);
            instruction.set_memory_index(Register::AL);
            segment(instruction, rng);
        }
        Kind::br64_1 | Kind::br64_4 | Kind::br16_1 | Kind::br16_2 | Kind::br32_1 | Kind::br32_4 => {
            branch(instruction, number, kind, ip, rng);
        }
        Kind::xbegin_2 | Kind::xbegin_4 => {
            instruction.set_op_kind(number, OpKind::NearBranch64);
            instruction.set_near_branch64(ip.wrapping_add(values::signed(15, rng)));
        }
        _ => {}
    }
}

fn has_immediate(instruction: &Instruction, before: u32) -> bool {
    (0..before).any(|number| matches!(instruction.op_kind(number), OpKind::Immediate8 | OpKind::Immediate16))
}

fn set_immediate(instruction: &mut Instruction, number: u32, kind: OpKind, value: u64) {
    instruction.set_op_kind(number, kind);
    match kind {
        OpKind::Immediate8 => instruction.set_immediate8(value as u8),
        OpKind::Immediate8_2nd => instruction.set_immediate8_2nd(value as u8),
        OpKind::Immediate8to16 => instruction.set_immediate8to16(value as i16),
        OpKind::Immediate8to32 => instruction.set_immediate8to32(value as i32),
        OpKind::Immediate8to64 => instruction.set_immediate8to64(value as i64),
        OpKind::Immediate16 => instruction.set_immediate16(value as u16),
        OpKind::Immediate32 => instruction.set_immediate32(value as u32),
        OpKind::Immediate32to64 => instruction.set_immediate32to64(value as i64),
        _ => instruction.set_immediate64(value),
    }
}

fn branch(instruction: &mut Instruction, number: u32, kind: Kind, ip: u64, rng: &mut Rng) {
    let reach = if matches!(kind, Kind::br64_1 | Kind::br32_1 | Kind::br16_1) { 7 } else { 32 };
    let target = ip.wrapping_add(2).wrapping_add(values::signed(reach, rng));
    match kind {
        Kind::br64_1 | Kind::br64_4 => {
            instruction.set_op_kind(number, OpKind::NearBranch64);
            instruction.set_near_branch64(target);
        }
        Kind::br32_1 | Kind::br32_4 => {
            instruction.set_op_kind(number, OpKind::NearBranch32);
            instruction.set_near_branch32(target as u32);
        }
        _ => {
            instruction.set_op_kind(number, OpKind::NearBranch16);
            instruction.set_near_branch16(target as u16);
        }
    }
}

/// The moffs of MOV.
fn offset(instruction: &mut Instruction, number: u32, rng: &mut Rng) {
    instruction.set_op_kind(number, OpKind::Memory);
    let narrow = rng.chance(30);
    let address = super::address::absolute(narrow, rng);
    instruction.set_memory_displ_size(if narrow { 4 } else { 8 });
    instruction.set_memory_displacement64(address);
    segment(instruction, rng);
}

fn segment(instruction: &mut Instruction, rng: &mut Rng) {
    if rng.chance(20) {
        instruction.set_segment_prefix(numbered(Register::ES, rng.below(6)));
    }
}

/// A ModRM memory operand of any form; `index` is the vector register of VSIB addressing, or none.
fn memory(instruction: &mut Instruction, number: u32, ip: u64, index: Register, rng: &mut Rng) {
    instruction.set_op_kind(number, OpKind::Memory);
    segment(instruction, rng);
    let narrow = rng.chance(20);
    let register = |rng: &mut Rng| if narrow { gpr32(rng) } else { gpr64(rng) };
    if index != Register::None {
        instruction.set_memory_index(index);
        instruction.set_memory_index_scale(1 << rng.below(4));
        if rng.chance(85) {
            instruction.set_memory_base(register(rng));
        } else {
            instruction.set_memory_displ_size(8);
            instruction.set_memory_displacement64(super::address::absolute(true, rng));
            return;
        }
    } else {
        match rng.below(100) {
            0..50 => instruction.set_memory_base(register(rng)),
            50..75 => {
                instruction.set_memory_base(register(rng));
                instruction.set_memory_index(register(rng));
                instruction.set_memory_index_scale(1 << rng.below(4));
            }
            75..83 => {
                instruction.set_memory_index(register(rng));
                instruction.set_memory_index_scale(1 << rng.below(4));
                // Without a base the displacement has 32 bits.
                instruction.set_memory_displ_size(if narrow { 4 } else { 8 });
                let displacement = values::signed(31, rng);
                instruction.set_memory_displacement64(if narrow {
                    displacement & 0xffff_ffff
                } else {
                    displacement
                });
                return;
            }
            83..90 => {
                instruction.set_memory_displ_size(if narrow { 4 } else { 8 });
                instruction.set_memory_displacement64(super::address::absolute(true, rng));
                return;
            }
            _ => {
                instruction.set_memory_base(if narrow { Register::EIP } else { Register::RIP });
                instruction.set_memory_displ_size(if narrow { 4 } else { 8 });
                let near = if ip >= USER_END - (1 << 31) { TOP } else { LOW };
                let target = super::address::near(near, rng);
                instruction.set_memory_displacement64(if narrow { target & 0xffff_ffff } else { target });
                return;
            }
        }
    }
    let displacement = match rng.below(10) {
        0..4 => return,
        4..7 => values::signed(8, rng),
        _ => values::signed(32, rng),
    };
    instruction.set_memory_displ_size(if narrow { 4 } else { 8 });
    instruction.set_memory_displacement64(if narrow { displacement & 0xffff_ffff } else { displacement });
}
