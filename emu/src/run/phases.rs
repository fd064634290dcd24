//! Fetch, work, commit: the phases of a vector instruction.
//!
//! A row's own function works on values: up to three sources of 64 to 512 bits, and a result of as many. It reads
//! registers in place. What else the sources are and where the result goes are functions that are picked when the
//! instruction is decoded, by its encoding and its operands, once for all rows: that is all in which MMX, SSE, VEX and
//! EVEX encodings of an instruction differ.

mod commit;
mod fetch;

use iced_x86::{EncodingKind, Instruction, OpKind, Register, RoundingControl};

use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
pub(crate) use crate::model::lane::Zmm;
use crate::model::lane::{Bits, by_bits};
use crate::model::outcome::Outcome;
use crate::model::registers::Mxcsr;
use crate::model::registers::Rflags;
use crate::run::context::Context;
pub(crate) use commit::write_lanes;

/// What a memory operand must be aligned to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alignment {
    /// Nothing, except that #AC reports a misaligned operand to a thread that asked to be told.
    Any,
    /// Its size, or #GP; unless MXCSR.MM makes it [`Alignment::Any`]: the operands of legacy SSE arithmetic.
    Size,
    /// Its size, or #GP: MOVAPS and its like.
    Strict,
    /// Nothing, and #AC is not raised either where [`Facts::PH2PS_IGNORES_AC`].
    Never,
}

/// AMD's misaligned exception mask (APM volume 1, section 4.4.3), reserved elsewhere and so never set there.
const MXCSR_MM: u32 = 1 << 17;

/// The sources in the manual's order, zeros above what the instruction works on.
pub(crate) type Sources = [Zmm; 3];

/// Reads the source in memory to what were zeros, as many bits as the instruction works on, and finds what is raised
/// before.
type Fetch = fn(&mut Context<'_>, &mut [u64]) -> Result<(), Exception>;
/// Computes the result of three sources and the immediate.
type Work<B> = fn(&B, &B, &B, u8) -> B;
/// Writes the result.
type Commit = fn(&mut Context<'_>, &[u64]) -> Result<Outcome, Exception>;

/// Stands for the number of a register where a source is none.
const NO_REGISTER: u8 = u8::MAX;

/// Which operands are the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operands {
    /// The last vector operand.
    One,
    /// The last two vector operands; in legacy encodings the first is the destination.
    Two,
    /// The destination and the two after it.
    Three,
    /// The last vector operand, and before it another if that is not an immediate's and not a store's: shifts by a count,
    /// of which the second source has 128 bits.
    Shift,
    /// The last vector operand, and before it another if there is no memory operand: moves of the lowest element.
    Registers,
    /// The vector operand before the last, which is a general register or memory that the row itself reads.
    BeforeLast,
    /// The three after the destination; in legacy encodings the destination, the one after it, and XMM0.
    With,
}

/// What a row says of its operands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    operands: Operands,
    /// An element of the destination, which is what a mask counts, in bytes.
    lane: u8,
    /// An element of the source that can be in memory, in bytes.
    from: u8,
    /// How a legacy memory operand of 128 bits must be aligned.
    alignment: Alignment,
    /// Only the low half of a legacy memory operand is read.
    low_half: bool,
    /// Whether elements that a mask leaves out are not looked at in memory.
    suppresses: bool,
    /// Only the lowest element is computed, and the others of 128 bits come from the first source.
    scalar: bool,
    /// What lies in memory is repeated as often as it fits.
    repeats: bool,
    /// The vector length of the encoding is what counts, and not its largest register.
    by_length: bool,
}

impl Layout {
    /// Elements of `lane` bytes, as many in the sources as in the destination.
    pub(crate) const fn new(operands: Operands, lane: usize) -> Layout {
        Layout {
            operands,
            lane: lane as u8,
            from: lane as u8,
            alignment: Alignment::Size,
            low_half: false,
            suppresses: true,
            scalar: false,
            repeats: false,
            by_length: false,
        }
    }

    /// What lies in memory is repeated as often as it fits.
    pub(crate) const fn repeats(self) -> Layout {
        Layout { repeats: true, ..self }
    }

    /// The source's elements are of `bytes` bytes.
    pub(crate) const fn from(self, bytes: usize) -> Layout {
        Layout { from: bytes as u8, ..self }
    }

    /// Of a legacy memory operand only the low half is read.
    pub(crate) const fn low_half(self) -> Layout {
        Layout { low_half: true, ..self }
    }

    /// Each element depends on more than its own lane of the memory operand, which is read whole.
    pub(crate) const fn whole(self) -> Layout {
        Layout { suppresses: false, ..self }
    }

    /// Elements of the memory operand that the mask leaves out are not looked at.
    pub(crate) const fn suppressing(self) -> Layout {
        Layout { suppresses: true, ..self }
    }

    /// The mask counts elements of so many bytes.
    pub(crate) const fn masked_by(self, bytes: usize) -> Layout {
        Layout { lane: bytes as u8, from: bytes as u8, ..self }
    }

    /// A legacy memory operand must be aligned so.
    pub(crate) const fn aligned(self, alignment: Alignment) -> Layout {
        Layout { alignment, ..self }
    }

    /// The vector length of the encoding is what counts: conversions have registers of two sizes, or one.
    pub(crate) const fn by_length(self) -> Layout {
        Layout { by_length: true, ..self }
    }

    /// Only the lowest element is computed.
    pub(crate) const fn scalar(self) -> Layout {
        Layout { scalar: true, ..self }
    }
}

/// What decoding found out of a vector instruction's operands.
#[derive(Clone, Copy)]
pub(crate) struct Phases {
    /// `None` where all sources are registers and may be read at once.
    fetch: Option<Fetch>,
    commit: Commit,
    /// What it works on: 8 bytes of an MMX register, or 16, 32 or 64.
    width: u8,
    /// How many bytes of the destination have elements; those above are cleared.
    result: u8,
    /// How many sources there are.
    count: u8,
    /// The numbers of their registers.
    registers: [u8; 3],
    /// How much is read of the one in memory, in bytes.
    bytes: u8,
    /// How large it is to the checks of its address, in bytes.
    checked: u8,
    /// How many of them must be canonical.
    canonical: u8,
    alignment: Alignment,
    /// An element in memory, in bytes.
    element: u8,
    /// The number of the mask register, 0 for none.
    mask: u8,
    /// Whether elements that the mask leaves out are not looked at in memory.
    suppresses: bool,
    /// How many lanes the result has.
    lanes: u8,
    /// An element of the source that can be in memory, in bytes.
    from: u8,
    /// An element of the destination, in bytes.
    lane: u8,
    /// What EVEX says of rounding and exceptions.
    embedded: Embedded,
}

/// What an EVEX encoding says of rounding and exceptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Embedded {
    /// Nothing: MXCSR counts.
    None,
    /// No exception is raised.
    SuppressAll,
    /// The same, and this is the rounding, as MXCSR.RC has it.
    Rounding(u8),
}

impl Embedded {
    fn of(instruction: &Instruction) -> Embedded {
        match instruction.rounding_control() {
            RoundingControl::None if instruction.suppress_all_exceptions() => Embedded::SuppressAll,
            RoundingControl::None => Embedded::None,
            RoundingControl::RoundToNearest => Embedded::Rounding(0),
            RoundingControl::RoundDown => Embedded::Rounding(1),
            RoundingControl::RoundUp => Embedded::Rounding(2),
            RoundingControl::RoundTowardZero => Embedded::Rounding(3),
        }
    }
}

impl Default for Phases {
    /// Those of an instruction that is no vector instruction.
    fn default() -> Phases {
        Phases {
            fetch: None,
            commit: commit::nothing,
            width: 16,
            result: 16,
            count: 0,
            registers: [NO_REGISTER; 3],
            bytes: 0,
            checked: 0,
            canonical: 0,
            alignment: Alignment::Any,
            element: 0,
            mask: 0,
            suppresses: false,
            lanes: 0,
            from: 0,
            lane: 0,
            embedded: Embedded::None,
        }
    }
}

/// Which operands are the sources, and a register that none of them names.
fn numbers(form: &Form<'_>, operands: Operands) -> Option<([Option<u32>; 3], Option<u8>)> {
    let mut vectors = (0..form.instruction.op_count()).filter(|&index| form.is_vector_or_memory(index)).rev();
    let last = vectors.next()?;
    match operands {
        Operands::One => Some(([Some(last), None, None], None)),
        Operands::Two => Some(([Some(vectors.next()?), Some(last), None], None)),
        Operands::BeforeLast => Some(([Some(form.instruction.op_count().checked_sub(2)?), None, None], None)),
        Operands::Shift | Operands::Registers => match vectors.next() {
            Some(before) if is_source(form, operands, before) => {
                Some(([Some(before), Some(last), None], None))
            }
            _ => Some(([Some(last), None, None], None)),
        },
        Operands::Three => Some(([Some(0), Some(1), Some(2)], None)),
        Operands::With if form.encoding() == EncodingKind::Legacy => {
            Some(([Some(0), Some(1), None], Some(0)))
        }
        Operands::With => Some(([Some(1), Some(2), Some(3)], None)),
    }
}

/// Whether the operand before the last is a source, too.
fn is_source(form: &Form<'_>, operands: Operands, before: u32) -> bool {
    if operands == Operands::Registers {
        return !form.any(Shape::Memory);
    }
    let destination = form.encoding() == EncodingKind::Legacy && !form.any(Shape::Immediate);
    before > 0 || destination && form.shape(0) != Shape::Memory
}

impl Form<'_> {
    pub(crate) fn encoding(&self) -> EncodingKind {
        self.instruction.code().op_code().encoding()
    }

    /// Whether an operand is an MMX register.
    pub(crate) fn is_mmx(&self) -> bool {
        (0..self.instruction.op_count()).any(|index| self.instruction.op_register(index).is_mm())
    }

    /// Whether operand `index` is a vector or MMX register, or the memory operand.
    fn is_vector_or_memory(&self, index: u32) -> bool {
        match self.instruction.op_kind(index) {
            OpKind::Memory => true,
            OpKind::Register => is_vector(self.instruction.op_register(index)),
            _ => false,
        }
    }

    /// The vector length of the encoding, in bytes; 16 where it is ignored.
    pub(crate) fn vector_length(&self) -> usize {
        match self.encoding() {
            EncodingKind::Legacy => 16,
            _ => 16 << self.instruction.code().op_code().l().min(2),
        }
    }

    /// The bytes of the largest vector register that is an operand.
    pub(crate) fn vector_width(&self) -> usize {
        let registers = (0..self.instruction.op_count()).map(|index| self.instruction.op_register(index));
        // The index of a gather or scatter is one of them, too.
        let registers = registers.chain([self.instruction.memory_index()]);
        registers.filter(|register| is_vector(*register)).map(Register::size).max().unwrap_or(0)
    }
}

fn is_vector(register: Register) -> bool {
    register.is_vector_register() || register.is_mm()
}

impl Phases {
    /// Of an instruction with such a layout, if it is a vector instruction; `None` if it has no such operands.
    pub(crate) fn of(form: &Form<'_>, layout: Option<&Layout>) -> Option<Phases> {
        let Some(layout) = layout else { return Some(Phases::default()) };
        let instruction = form.instruction;
        let (operands, implied) = numbers(form, layout.operands)?;
        let width = if layout.by_length { form.vector_length() } else { form.vector_width() };
        let in_memory = |index: &u32| instruction.op_kind(*index) == OpKind::Memory;
        let reads_memory = operands.iter().flatten().any(in_memory);
        let register = |index: Option<u32>| {
            let index = index.filter(|index| *index < instruction.op_count() && !in_memory(index));
            index.map_or(NO_REGISTER, |index| instruction.op_register(index).number() as u8)
        };
        let mut registers = operands.map(register);
        let mut count = operands.iter().flatten().count();
        if let (Some(implied), Some(slot)) = (implied, registers.get_mut(count)) {
            *slot = implied;
            count += 1;
        }
        let mmx = form.is_mmx();
        let legacy = form.encoding() == EncodingKind::Legacy;
        let size = instruction.memory_size().size();
        let lanes = if layout.scalar { 1 } else { width / usize::from(layout.lane.max(layout.from)).max(1) };
        let mask = instruction.op_mask();
        let mask = if mask == Register::None { 0 } else { mask.number() as u8 };
        // A count that is read from memory counts for all elements.
        let suppresses = layout.suppresses && !(layout.operands == Operands::Shift && count == 2);
        let result = (lanes * usize::from(layout.lane)).min(match in_memory(&0) {
            true => size,
            false => instruction.op_register(0).size(),
        });
        let elements_of_result = layout.repeats || in_memory(&0);
        let bytes = if layout.low_half && legacy && !mmx { size / 2 } else { size };
        // Of a count, too, the lower half is all that counts.
        let halved = layout.low_half || layout.operands == Operands::Shift && size == 16;
        let alone = halved && legacy && !mmx && form.processor.is(Facts::LOWER_HALVES_ARE_CHECKED_ALONE);
        let canonical = if alone { size / 2 } else { size };
        let strict = legacy && !mmx && size == 16 && !form.may_be_misaligned();
        Some(Phases {
            fetch: fetch::pick(form, layout, width, reads_memory, mmx, mask != 0 && suppresses),
            commit: commit::pick(form, layout, mmx, mask, [width, result])?,
            width: width as u8,
            result: result as u8,
            count: count as u8,
            registers,
            bytes: bytes as u8,
            checked: size as u8,
            canonical: canonical as u8,
            alignment: match layout.alignment {
                Alignment::Strict => Alignment::Strict,
                Alignment::Never if form.processor.is(Facts::PH2PS_IGNORES_AC) => Alignment::Never,
                alignment if strict => alignment,
                _ => Alignment::Any,
            },
            element: if elements_of_result { layout.lane } else { (size / lanes.max(1)) as u8 },
            mask,
            suppresses,
            lanes: lanes as u8,
            from: layout.from,
            lane: layout.lane,
            embedded: Embedded::of(instruction),
        })
    }

    /// The number of the mask register.
    #[inline(always)]
    pub(crate) fn mask_number(&self) -> usize {
        usize::from(self.mask & 7)
    }

    /// What it says of rounding and exceptions.
    #[inline(always)]
    pub(crate) fn embedded(&self) -> Embedded {
        self.embedded
    }

    /// How many lanes the result has.
    #[inline(always)]
    pub(crate) fn lanes(&self) -> usize {
        usize::from(self.lanes)
    }

    /// What it works on, in bytes.
    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        usize::from(self.width).clamp(8, 64)
    }
}

/// As many ones, from the lowest bit on.
#[inline(always)]
pub(crate) fn lowest(count: usize) -> u64 {
    if count == 0 { 0 } else { u64::MAX >> (64 - count.min(64)) }
}

impl Context<'_> {
    /// #GP or #AC for a misaligned address, #GP or #SS for a non-canonical one; misalignment comes first.
    #[inline(always)]
    pub(crate) fn check_vector(
        &self,
        address: u64,
        size: usize,
        alignment: Alignment,
    ) -> Result<(), Exception> {
        self.check_part(address, size, size, alignment)
    }

    /// As [`Self::check_vector`], of an operand of which only the first `accessed` bytes must be canonical.
    #[inline(always)]
    pub(crate) fn check_part(
        &self,
        address: u64,
        size: usize,
        accessed: usize,
        alignment: Alignment,
    ) -> Result<(), Exception> {
        let strict = match alignment {
            Alignment::Any | Alignment::Never => false,
            Alignment::Size => !self.registers.extended.mxcsr.contains(Mxcsr::from_bits_retain(MXCSR_MM)),
            Alignment::Strict => true,
        };
        if strict && address & (size as u64 - 1) != 0 {
            return Err(Exception::GeneralProtection(0));
        }
        let wanted = if alignment == Alignment::Never { 1 } else { self.decoded.processor.ac_wants(size) };
        self.check(address, accessed, wanted, self.decoded.address.stack)
    }

    /// #GP or #AC for a misaligned operand of which the mask leaves anything, as it is all of it that must be aligned;
    /// #GP of an element that is left comes before #AC. Otherwise, whether the operand may be accessed as a whole: the
    /// elements that are left may be canonical alone.
    #[inline(always)]
    fn check_masked<const STORE: bool>(
        &self,
        address: u64,
        size: usize,
        mask: u64,
    ) -> Result<bool, Exception> {
        // An address that an offset makes none may be one for the elements that are left.
        let start = match self.decoded.is_canonical(address) {
            true => address,
            false => self.decoded.address.linear_of_sum(self.registers),
        };
        let misaligned = start & (size as u64).wrapping_sub(1) != 0;
        if misaligned && self.phases.alignment == Alignment::Strict {
            return Err(Exception::GeneralProtection(0));
        }
        let element = usize::from(self.phases.element);
        let each = self.decoded.processor.is(Facts::AC_WANTS_ELEMENTS_ALIGNED);
        let wide = each || self.decoded.processor.ac_wants(size) == 1;
        let never = self.phases.alignment == Alignment::Never;
        let told = self.registers.rflags.contains(Rflags::AC) && !wide && !never;
        if each {
            self.check_alignment_of_elements(size, element, mask)?;
        }
        if misaligned && told {
            match STORE && size <= element {
                false => self.check_elements(size, element, mask)?,
                // As the end of any other operand does, that of the only element comes after.
                true => self.check(address, 1, 1, self.decoded.address.stack)?,
            }
            return Err(Exception::AlignmentCheck);
        }
        let last = address.wrapping_add(size as u64).wrapping_sub(1);
        Ok(self.decoded.is_canonical(address) && self.decoded.is_canonical(last))
    }

    /// What is done already when a store from an MMX register faults.
    #[inline(always)]
    pub(crate) fn about_to_store_mmx(&mut self) {
        if self.decoded.processor.is(Facts::MMX_STORE_CLEARS_TOP_BEFORE_ITS_FAULT) {
            self.registers.extended.x87.clear_top();
        }
    }

    /// Reads the source that is in memory, if one is, to what were zeros.
    #[inline(always)]
    pub(crate) fn fetch<B: Bits>(&mut self, memory: &mut B) -> Result<(), Exception> {
        self.phases.fetch.map_or(Ok(()), |fetch| fetch(self, memory.quadwords_mut()))
    }

    /// The sources, `memory` having been fetched: it also stands for those that the instruction does not have.
    #[inline(always)]
    pub(crate) fn sources<'s, B: Bits>(&'s self, memory: &'s B) -> [&'s B; 3] {
        let extended = &self.registers.extended;
        self.phases.registers.map(|number| B::register(extended, number).unwrap_or(memory))
    }

    /// Fetches copies of all sources, for what does not know how many bits they have.
    pub(crate) fn fetch_copies(&mut self) -> Result<Sources, Exception> {
        fn copies<B: Bits>(c: &mut Context<'_>) -> Result<Sources, Exception> {
            let mut memory = B::default();
            c.fetch(&mut memory)?;
            Ok(c.sources(&memory).map(Bits::zero_extend))
        }
        by_bits!(self.phases.width(), copies)(self)
    }

    /// Fetch, work, commit. All rows share it, so that what is compiled for each is its work alone.
    #[inline(never)]
    pub(crate) fn work<B: Bits>(&mut self, work: Work<B>) -> Result<Outcome, Exception> {
        let mut memory = B::default();
        self.fetch(&mut memory)?;
        let [first, second, third] = self.sources(&memory);
        let result = work(first, second, third, self.decoded.immediate as u8);
        self.commit(&result)
    }

    /// Writes the result.
    #[inline(always)]
    pub(crate) fn commit<B: Bits>(&mut self, result: &B) -> Result<Outcome, Exception> {
        (self.phases.commit)(self, result.quadwords())
    }

    /// Writes the result whatever the mask is, and clears what lies above it.
    #[inline(always)]
    pub(crate) fn commit_unmasked(&mut self, result: &Zmm) {
        *commit::destination(self) = *result;
    }

    /// Writes a result of one bit for each of `lanes` lanes to the mask register that operand 0 names.
    #[inline(always)]
    pub(crate) fn commit_mask(&mut self, result: u64, lanes: usize) {
        let number = usize::from(self.decoded.operand[0].number & 7);
        let lanes = u64::MAX >> (64 - lanes.clamp(1, 64));
        self.registers.extended.opmask[number] = result & lanes & self.write_mask();
    }

    /// Lets a function see the sources, with 1.0 in the lanes that the mask leaves out: that raises nothing, whatever is
    /// computed of it.
    #[inline(always)]
    pub(crate) fn with_sources<B: Bits, R>(&self, memory: &B, function: impl FnOnce([&B; 3]) -> R) -> R {
        let replaced;
        let mut sources = self.sources(memory);
        if self.phases.mask != 0 {
            replaced = self.without_masked(memory);
            sources = replaced.each_ref();
        }
        function(sources)
    }

    #[inline(never)]
    fn without_masked<B: Bits>(&self, memory: &B) -> [B; 3] {
        let phases = &self.phases;
        let (lane, one) = match phases.from {
            2 => (2, 0x3c00_3c00_3c00_3c00),
            4 => (4, 0x3f80_0000_3f80_0000),
            _ => (8, 0x3ff0_0000_0000_0000),
        };
        let mask = !self.write_mask() & lowest(phases.lanes());
        // A scalar conversion copies the rest of the first source, whose elements have another size.
        let copied = usize::from(phases.count == 2 && phases.from != phases.lane);
        let mut sources = self.sources(memory).map(|source| *source);
        for source in sources.iter_mut().take(usize::from(phases.count)).skip(copied) {
            for (index, quadword) in source.quadwords_mut().iter_mut().enumerate() {
                let replaced = spread(mask, lane, index);
                *quadword = *quadword & !replaced | one & replaced;
            }
        }
        sources
    }

    /// The lanes that the mask leaves, as bits.
    #[inline(always)]
    pub(crate) fn write_mask(&self) -> u64 {
        match self.phases.mask & 7 {
            0 => u64::MAX,
            number => self.registers.extended.opmask[usize::from(number)],
        }
    }
}

/// Quadword `index` of a vector whose lanes of `lane` bytes are ones where the mask is set.
#[inline(always)]
pub(crate) fn spread(mask: u64, lane: usize, index: usize) -> u64 {
    let bits = 8 * lane as u32;
    let ones = u64::MAX >> (64 - bits);
    // One in each lane, and in each the bit that has its number.
    let (each, numbers) = match lane {
        1 => (0x0101_0101_0101_0101, 0x8040_2010_0804_0201),
        2 => (0x0001_0001_0001_0001, 0x0008_0004_0002_0001),
        4 => (0x0000_0001_0000_0001, 0x0000_0002_0000_0001),
        _ => (1, 1),
    };
    let lanes = (mask >> ((index * 8 / lane) & 63)) & (u64::MAX >> (64 - 8 / lane));
    let chosen = lanes.wrapping_mul(each) & numbers;
    // The top bit of each lane is set by a carry if another one is, or is set itself.
    let top = each << (bits - 1);
    let carried = (chosen & !top).wrapping_add(!top) | chosen;
    ((carried & top) >> (bits - 1)).wrapping_mul(ones)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit after bit, for masks in which each bit is set and clear next to others of both kinds.
    #[test]
    fn a_mask_is_spread_to_its_lanes() {
        let masks =
            (0..=u64::from(u16::MAX)).map(|bits| bits.wrapping_mul(0x0001_8001_2001_0001)).chain([u64::MAX]);
        for mask in masks {
            for lane in [1, 2, 4, 8] {
                for index in 0..8 {
                    let byte = |byte: usize| mask >> ((8 * index + byte) / lane) & 1;
                    let expected =
                        (0..8).fold(0, |spread, place| spread | (byte(place) * 0xff) << (8 * place));
                    assert_eq!(spread(mask, lane, index), expected, "{mask:#x}, {lane}, {index}");
                }
            }
        }
    }
}
