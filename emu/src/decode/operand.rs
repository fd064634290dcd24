//! Operands as decoding leaves them: numbers, masks and constants, with nothing left to look up.

use iced_x86::{Code, Instruction, MemorySize, OpKind, Register};

use crate::decode::processor::{Facts, Processor};
use crate::model::registers::Registers;
use crate::model::width::Width;

/// Where an operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// There is none.
    #[default]
    None,
    /// A general register.
    General,
    /// Some other register; `number` is its number in its class.
    Other,
    /// In memory, at [`Address`].
    Memory,
    /// In the instruction.
    Immediate,
}

/// One explicit operand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Operand {
    pub(crate) kind: Kind,
    /// The register's number.
    pub(crate) number: u8,
    /// 8 for AH, CH, DH and BH, else 0.
    pub(crate) shift: u8,
}

/// How to find the memory operand.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Address {
    displacement: u64,
    base_mask: u64,
    index_mask: u64,
    size_mask: u64,
    base: u8,
    index: u8,
    /// The number of the vector register that is the index of a gather or scatter.
    vector_index: u8,
    scale: u8,
    segment: SegmentBase,
    /// How many high bits of an offset from FS or GS must be copies of the one below them: AMD's
    /// processors demand it of the offset, too, and not of the sum only. Zero asks for none.
    offset_sign_bits: u8,
    /// How many bytes the operand has after its first.
    after_first: u8,
    /// Whether a non-canonical address is #SS rather than #GP.
    pub(crate) stack: bool,
}

/// The segments whose base counts in 64-bit mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum SegmentBase {
    #[default]
    Zero,
    Fs,
    Gs,
}

impl SegmentBase {
    pub(crate) fn of(segment: Register) -> SegmentBase {
        match segment {
            Register::FS => SegmentBase::Fs,
            Register::GS => SegmentBase::Gs,
            _ => SegmentBase::Zero,
        }
    }

    #[inline(always)]
    pub(crate) fn base(self, registers: &Registers) -> u64 {
        match self {
            SegmentBase::Zero => 0,
            SegmentBase::Fs => registers.fs_base,
            SegmentBase::Gs => registers.gs_base,
        }
    }
}

impl Address {
    /// Of the instruction's memory operand; of a string instruction, the source, or the destination if
    /// that is all it has. An address relative to RIP is a constant here already. The index of a gather
    /// or scatter (VSIB) is added element by element: [`Address::linear_of_element`].
    pub(crate) fn of(instruction: &Instruction, processor: &Processor) -> Address {
        let string = string_pointer(instruction);
        let (base, index) = match string {
            Some((pointer, _)) => (pointer, Register::None),
            None => (instruction.memory_base(), instruction.memory_index()),
        };
        let relative = matches!(base, Register::RIP | Register::EIP);
        let narrow = [base, index].iter().any(|r| r.is_gpr32()) || base == Register::EIP;
        let (base_number, base_mask) = general(base);
        let (index_number, index_mask) = general(index);
        let absolute = base == Register::None && !index.is_gpr();
        let narrow = narrow || (absolute && instruction.memory_displ_size() == 4);
        let displacement = instruction.memory_displacement64();
        let in_segment = string.is_some() || instruction.op_kinds().any(|kind| kind == OpKind::Memory);
        Address {
            displacement,
            base_mask: if relative { 0 } else { base_mask },
            index_mask,
            // Without registers the displacement is the whole address, extended by the decoder.
            size_mask: if narrow { u64::from(u32::MAX) } else { u64::MAX },
            base: base_number,
            index: index_number,
            vector_index: if index.is_vector_register() { index.number() as u8 } else { 0 },
            scale: instruction.memory_index_scale().trailing_zeros() as u8,
            segment: match string {
                Some((_, segment)) => SegmentBase::of(segment),
                None => SegmentBase::of(instruction.memory_segment()),
            },
            after_first: match (instruction.memory_size(), accessed(instruction, processor)) {
                // A far pointer and an image are accessed piece by piece.
                (MemorySize::SegPtr16 | MemorySize::SegPtr32 | MemorySize::SegPtr64, _) => 0,
                (_, size) if in_segment && size.is_power_of_two() && size <= 64 => size as u8 - 1,
                _ => 0,
            },
            offset_sign_bits: processor.offset_sign_bits(),
            // Prefixes of CS, DS, ES and SS count for nothing.
            stack: matches!(base, Register::RSP | Register::ESP | Register::RBP | Register::EBP)
                && !matches!(instruction.memory_segment(), Register::FS | Register::GS),
        }
    }

    /// All ones, or the low 32 bits if the address size is 32 bits.
    #[inline(always)]
    pub(crate) fn size_mask(&self) -> u64 {
        self.size_mask
    }

    /// Without the segment's base: what LEA computes.
    #[inline(always)]
    pub(crate) fn effective(&self, registers: &Registers) -> u64 {
        let base = registers.gpr[usize::from(self.base & 15)] & self.base_mask;
        let index = (registers.gpr[usize::from(self.index & 15)] & self.index_mask) << (self.scale & 3);
        base.wrapping_add(index).wrapping_add(self.displacement) & self.size_mask
    }

    /// With the segment's base.
    #[inline(always)]
    pub(crate) fn linear(&self, registers: &Registers) -> u64 {
        self.in_segment(self.effective(registers), self.after_first, registers)
    }

    /// `offset` bytes further on, wrapping where the address size wraps.
    #[inline(always)]
    pub(crate) fn linear_offset(&self, registers: &Registers, offset: u64) -> u64 {
        let effective = self.effective(registers).wrapping_add(offset) & self.size_mask;
        self.in_segment(effective, self.after_first, registers)
    }

    /// A part of the operand, of `after_first` bytes and one, that begins `offset` bytes further on.
    #[inline(always)]
    pub(crate) fn linear_of_part(&self, registers: &Registers, offset: u64, after_first: u8) -> u64 {
        let effective = self.effective(registers).wrapping_add(offset) & self.size_mask;
        self.in_segment(effective, after_first, registers)
    }

    /// As [`Address::linear_of_part`], of an operand that goes on where the address size would wrap.
    #[inline(always)]
    pub(crate) fn linear_past(&self, registers: &Registers, offset: u64, after_first: u8) -> u64 {
        self.in_segment(self.effective(registers).wrapping_add(offset), after_first, registers)
    }

    /// Whether the address size wraps within so many bytes.
    pub(crate) fn wraps(&self, registers: &Registers, bytes: u64) -> bool {
        self.effective(registers) > self.size_mask.wrapping_sub(bytes.wrapping_sub(1))
    }

    /// Row `row` of a tile in memory, of so many bytes: the index is what lies between rows.
    pub(crate) fn linear_of_row(&self, registers: &Registers, row: u64, bytes: usize) -> u64 {
        let effective = self.effective(registers);
        let stride = (registers.gpr[usize::from(self.index & 15)] & self.index_mask) << (self.scale & 3);
        let start = effective.wrapping_sub(stride).wrapping_add(row.wrapping_mul(stride)) & self.size_mask;
        self.in_segment(start, bytes.wrapping_sub(1) as u8, registers)
    }

    /// The vector register that is the index of a gather or scatter.
    #[inline(always)]
    pub(crate) fn vector_index(&self) -> usize {
        usize::from(self.vector_index & 31)
    }

    /// The element of a gather or scatter, of `size` bytes, that has such an index.
    #[inline(always)]
    pub(crate) fn linear_of_element(&self, registers: &Registers, index: u64, size: usize) -> u64 {
        self.linear_of_part(registers, index << (self.scale & 3), size as u8 - 1)
    }

    /// The segment's base.
    pub(crate) fn base(&self, registers: &Registers) -> u64 {
        self.segment.base(registers)
    }

    /// With the segment's base, whatever a processor says to the offset.
    pub(crate) fn linear_of_sum(&self, registers: &Registers) -> u64 {
        self.effective(registers).wrapping_add(self.segment.base(registers))
    }

    /// An offset that is not canonical is no address, whatever the base: it is left to the check of
    /// addresses.
    #[inline(always)]
    fn in_segment(&self, offset: u64, after_first: u8, registers: &Registers) -> u64 {
        if self.segment == SegmentBase::Zero {
            return offset;
        }
        let last = offset.wrapping_add(u64::from(after_first));
        for byte in [offset, last] {
            if !is_canonical(byte, self.offset_sign_bits) {
                return byte;
            }
        }
        offset.wrapping_add(self.segment.base(registers))
    }
}

/// Whether the `sign_bits` high bits of an address are copies of the one below them.
#[inline(always)]
pub(crate) fn is_canonical(address: u64, sign_bits: u8) -> bool {
    let shift = sign_bits & 63;
    ((address << shift) as i64 >> shift) as u64 == address
}

/// Whether it is one of the memory operands that RSI and RDI address.
pub(crate) fn is_string(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::MemorySegSI
            | OpKind::MemorySegDI
            | OpKind::MemorySegESI
            | OpKind::MemorySegEDI
            | OpKind::MemorySegRSI
            | OpKind::MemorySegRDI
            | OpKind::MemoryESDI
            | OpKind::MemoryESEDI
            | OpKind::MemoryESRDI
    )
}

/// The register and the segment of a string instruction's source, else of its destination, which is in
/// ES whatever the prefixes say.
fn string_pointer(instruction: &Instruction) -> Option<(Register, Register)> {
    let segment = instruction.memory_segment();
    let pointer = |kind| match kind {
        OpKind::MemorySegRSI => Some((Register::RSI, segment)),
        OpKind::MemorySegESI => Some((Register::ESI, segment)),
        OpKind::MemorySegRDI => Some((Register::RDI, segment)),
        OpKind::MemorySegEDI => Some((Register::EDI, segment)),
        _ => None,
    };
    let destination = |kind| match kind {
        OpKind::MemoryESRDI => Some((Register::RDI, Register::ES)),
        OpKind::MemoryESEDI => Some((Register::EDI, Register::ES)),
        _ => None,
    };
    instruction.op_kinds().find_map(pointer).or_else(|| instruction.op_kinds().find_map(destination))
}

/// Whether it is a MOVSXD with a 16-bit operand, which the manual says is to be avoided, and reads 32 bits of it here.
pub(crate) fn reads_32_bits(instruction: &Instruction, processor: &Processor) -> bool {
    instruction.code() == Code::Movsxd_r16_rm16 && processor.is(Facts::MOVSXD_R16_READS_32_BITS)
}

/// How many bytes of memory the instruction accesses.
fn accessed(instruction: &Instruction, processor: &Processor) -> usize {
    if reads_32_bits(instruction, processor) { 4 } else { instruction.memory_size().size() }
}

fn general(register: Register) -> (u8, u64) {
    if register.is_gpr64() || register.is_gpr32() { (register.number() as u8, u64::MAX) } else { (0, 0) }
}

impl Operand {
    /// Of operand `index` of the instruction.
    pub(crate) fn of(instruction: &Instruction, index: u32) -> Operand {
        let kind = match instruction.op_kind(index) {
            OpKind::Register => {
                let register = instruction.op_register(index);
                let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
                let (kind, number) = match register.is_gpr() {
                    true => (Kind::General, register.full_register().number()),
                    false => (Kind::Other, register.number()),
                };
                let number = number as u8;
                return Operand { kind, number, shift: if high { 8 } else { 0 } };
            }
            OpKind::Memory => Kind::Memory,
            kind if is_string(kind) => Kind::None,
            _ => Kind::Immediate,
        };
        Operand { kind, number: 0, shift: 0 }
    }

    /// A general register by its number.
    #[inline(always)]
    pub(crate) fn general(number: u8) -> Operand {
        Operand { kind: Kind::General, number, shift: 0 }
    }

    /// The general register's part that this operand names.
    #[inline(always)]
    pub(crate) fn get<W: Width>(self, registers: &Registers) -> W {
        let value = registers.gpr[usize::from(self.number & 15)];
        W::truncate(if W::BITS == 8 { value >> (self.shift & 8) } else { value })
    }

    /// Writes it: 32 bits clear the upper half, 8 and 16 bits leave the rest.
    #[inline(always)]
    pub(crate) fn set<W: Width>(self, registers: &mut Registers, value: W) {
        let register = &mut registers.gpr[usize::from(self.number & 15)];
        let value = value.zero_extend();
        *register = match W::BITS {
            8 => {
                let shift = self.shift & 8;
                *register & !(0xff << shift) | value << shift
            }
            16 => *register & !0xffff | value,
            _ => value,
        }
    }
}
