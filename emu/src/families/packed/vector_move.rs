//! Moves to, from and between vector registers (SDM volume 1, sections 10.4.1, 11.4.1, 12.3, 14.1 and 15.1).

use iced_x86::EncodingKind;

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::Kind;
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::{Bits, Xmm, Zmm};
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::phases::{Alignment, Layout, Operands};
use crate::run::place::{Destination, Mem, Reg, Source};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{Work, run, work_row};

const NONE: Flags = Flags::empty();

/// A move of a whole vector, in elements of so many bytes.
const fn whole(lane: usize) -> Layout {
    Layout::new(Operands::One, lane).aligned(Alignment::Any)
}

/// The same, #GP if it is not aligned.
const fn aligned(lane: usize) -> Layout {
    whole(lane).aligned(Alignment::Strict)
}

/// A move to the low element: of the second source into the first, or from or to memory.
const fn low(lane: usize) -> Layout {
    Layout::new(Operands::Registers, lane).scalar()
}

/// A move of a half.
const HALF: Layout = Layout::new(Operands::Shift, 8);

pub(super) static ROWS: &[Row] = &[
    work_row!([Movaps, Vmovaps, Movdqa, Vmovdqa, Vmovdqa32], NONE, aligned(4), Copy),
    work_row!([Movntps, Vmovntps, Movntdq, Vmovntdq, Movntdqa, Vmovntdqa], NONE, aligned(4), Copy),
    work_row!([Movapd, Vmovapd, Vmovdqa64, Movntpd, Vmovntpd], NONE, aligned(8), Copy),
    work_row!([Vmovdqu8], NONE, whole(1), Copy),
    work_row!([Vmovdqu16], NONE, whole(2), Copy),
    work_row!([Movups, Vmovups, Movdqu, Vmovdqu, Vmovdqu32, Lddqu, Vlddqu], NONE, whole(4), Copy),
    work_row!([Movupd, Vmovupd, Vmovdqu64, Movntq], NONE, whole(8), Copy),
    row!(Vmovsh, Select, NONE, scalar::<u16>).with(low(2)),
    row!([Movss, Vmovss, Movntss], Select, NONE, scalar::<u32>).with(low(4)),
    row!([Movsd, Vmovsd, Movntsd], Select, NONE, scalar::<u64>).with(low(8)),
    row!(Vmovw, Select, NONE, transfer::<u16>),
    row!([Movd, Vmovd], Select, NONE, transfer::<u32>),
    row!([Movq, Vmovq, Movq2dq, Movdq2q], Select, NONE, transfer::<u64>),
    row!([Movlps, Vmovlps, Movlpd, Vmovlpd], Select, NONE, half::<0, 0>).with(HALF),
    row!([Movhps, Vmovhps, Movhpd, Vmovhpd], Select, NONE, half::<1, 0>).with(HALF),
    row!([Movhlps, Vmovhlps], Select, NONE, half::<0, 1>).with(HALF),
    row!([Movlhps, Vmovlhps], Select, NONE, half::<1, 0>).with(HALF),
    row!([Movddup, Vmovddup], EachBlock128<u64>, NONE, |block: &[u64; 2]| [block[0]; 2]),
    row!(Movnti, Wide, NONE, movnti),
    row!([Maskmovq, Maskmovdqu, Vmaskmovdqu], Whole, NONE, maskmov).with(Layout::new(Operands::Two, 1)),
];

/// The source.
struct Copy;

impl<B: Bits> Work<B> for Copy {
    #[inline]
    fn work([source, ..]: [&B; 3], _: u8) -> B {
        *source
    }
}

/// The first source, but the lowest element is that of the second.
struct Merge<T>(T);

impl<T: Width> Work<Xmm> for Merge<T> {
    #[inline]
    fn work([first, second, _]: [&Xmm; 3], _: u8) -> Xmm {
        first.with_integer::<T>(0, second.integer(0))
    }
}

/// From memory, the rest of the register is cleared; from a register, it is that of the first source.
fn scalar<T: Width>(form: &Form<'_>) -> Option<Execute> {
    Some(if form.any(Shape::Memory) { run::<Xmm, Copy> } else { run::<Xmm, Merge<T>> })
}

/// The XMM register that operand `index` names.
#[inline(always)]
pub(super) fn xmm<'a>(c: &'a Context<'_>, index: usize) -> &'a Xmm {
    c.xmm(c.decoded.operand[index].number)
}

/// Writes the vector register that operand 0 names. What lies above 128 bits stays under legacy encodings, and is
/// cleared under others.
#[inline(always)]
pub(super) fn set_xmm<const LEGACY: bool>(c: &mut Context<'_>, number: u8, value: Xmm) {
    let register = &mut c.registers.extended.vector[usize::from(number & 31)].0;
    if !LEGACY {
        *register = Zmm::default();
    }
    register[..2].copy_from_slice(&value);
}

/// Moves an integer: the element of a vector register that the immediate chooses, or the lowest, a general register
/// or memory. Registers are cleared above it.
pub(super) fn transfer<W: Width>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, const LEGACY: bool>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value: W = match c.decoded.operand[1].kind {
            Kind::Other => xmm(c, 1).integer(c.decoded.immediate as usize & (16 / W::BYTES - 1)),
            _ => c.read(1)?,
        };
        match c.decoded.operand[0].kind {
            Kind::Other => {
                set_xmm::<LEGACY>(c, c.decoded.operand[0].number, [value.zero_extend(), 0]);
            }
            Kind::Memory => c.write(0, value)?,
            _ => c.write(0, value.zero_extend())?,
        }
        Ok(Outcome::Next)
    }
    /// The same where one of the registers is an MMX register.
    fn mmx<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        c.registers.extended.x87.check_pending()?;
        let [to, from] = [c.decoded.operand[0], c.decoded.operand[1]];
        let is_mm = |index| c.decoded.instruction.op_register(index).is_mm();
        let (to_mm, from_mm) = (is_mm(0), is_mm(1));
        let value: W = match from.kind {
            Kind::Other if from_mm => {
                let source = [*c.registers.extended.x87.mm(from.number)];
                source.integer(c.decoded.immediate as usize & (8 / W::BYTES - 1))
            }
            Kind::Other => xmm(c, 1).integer(0),
            _ => c.read(1)?,
        };
        match to.kind {
            Kind::Other if to_mm => c.registers.extended.x87.set_mm(to.number, value.zero_extend()),
            Kind::Other => set_xmm::<true>(c, to.number, [value.zero_extend(), 0]),
            Kind::Memory => {
                c.about_to_store_mmx();
                c.write(0, value)?;
            }
            _ => c.write(0, value.zero_extend())?,
        }
        c.registers.extended.x87.enter_mmx();
        Ok(Outcome::Next)
    }
    Some(match form.encoding() {
        EncodingKind::Legacy if form.is_mmx() => mmx::<W>,
        EncodingKind::Legacy => run::<W, true>,
        _ => run::<W, false>,
    })
}

/// Half `TO` of the first source becomes half `FROM` of the second.
struct MergeHalf<const TO: usize, const FROM: usize>;

impl<const TO: usize, const FROM: usize> Work<Xmm> for MergeHalf<TO, FROM> {
    #[inline]
    fn work([first, second, _]: [&Xmm; 3], _: u8) -> Xmm {
        let mut result = *first;
        result[TO] = second[FROM];
        result
    }
}

/// A half, to memory.
struct StoreHalf<const FROM: usize>;

impl<const FROM: usize> Work<Xmm> for StoreHalf<FROM> {
    #[inline]
    fn work([source, ..]: [&Xmm; 3], _: u8) -> Xmm {
        [source[FROM], 0]
    }
}

fn half<const TO: usize, const FROM: usize>(form: &Form<'_>) -> Option<Execute> {
    Some(match form.shape(0) {
        Shape::Memory => run::<Xmm, StoreHalf<TO>>,
        _ => run::<Xmm, MergeHalf<TO, FROM>>,
    })
}

fn movnti<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = Reg::<1>::read::<W>(c)?;
    Mem::write(c, value)?;
    Ok(Outcome::Next)
}

/// Stores the bytes whose mask byte has its top bit set, at RDI or EDI. All bytes must be writable, even if
/// the mask is zero, and an MMX register is used even if they are not: the manual leaves both open.
fn maskmov(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let sources = c.fetch_copies()?;
    // Writes no register.
    c.commit(&sources[0])?;
    let size = c.phases.width().min(16);
    let (value, mask) = (sources[0].lanes::<u8>(), sources[1].lanes::<i8>());
    let halves = c.decoded.processor.is(Facts::MASKMOVDQU_STORES_HALVES);
    let place = |c: &Context<'_>, half: usize| c.decoded.address.linear_of_part(c.registers, half as u64, 7);
    // An address of 32 bits may wrap between any two.
    let one_by_one = !halves && c.decoded.address.wraps(c.registers, size as u64);
    let piece = match (halves, one_by_one) {
        (true, _) => 8,
        (false, true) => 1,
        (false, false) => size,
    };
    for offset in (0..size).step_by(8) {
        let offset = if halves { size - 8 - offset } else { offset };
        c.load::<u64>(place(c, offset), Access::Write, c.decoded.address.stack)?;
    }
    for base in (0..size).step_by(piece) {
        let (at, end) = (place(c, base), base + piece);
        let bytes = value.get(base..end).unwrap_or_default();
        for (start, length) in runs(mask.get(base..end).unwrap_or_default()) {
            let run = bytes.get(start..start + length).unwrap_or_default();
            c.memory.write(at.wrapping_add(start as u64), run)?;
        }
    }
    Ok(Outcome::Next)
}

/// Starts and lengths of the runs of negative bytes.
fn runs(mask: &[i8]) -> impl Iterator<Item = (usize, usize)> {
    let mut start = 0;
    mask.chunk_by(|left, right| left.is_negative() == right.is_negative()).filter_map(move |run| {
        let this = start;
        start += run.len();
        run.first().is_some_and(|byte| byte.is_negative()).then_some((this, run.len()))
    })
}
