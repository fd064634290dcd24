//! Moves to, from and between vector registers (SDM volume 1, sections 10.4.1, 11.4.1 and 12.3).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::Kind;
use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::lane::Bits;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Mem, Reg, Source};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{ClassName, by_class};
use crate::vector::{Alignment, Class, InPart, InRegister, Low, Mmx, Place, Sse};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Movaps, Movapd, Movdqa], Select, NONE, whole::<Aligned>),
    row!([Movntps, Movntpd, Movntdq, Movntdqa], Select, NONE, whole::<Aligned>),
    row!([Movups, Movupd, Movdqu, Lddqu, Movntq], Select, NONE, whole::<Unaligned>),
    row!([Movss, Movntss], Select, NONE, scalar::<u32>),
    row!([Movsd, Movntsd], Select, NONE, scalar::<u64>),
    row!(Movd, Select, NONE, integer::<u32>),
    row!([Movq, Movq2dq, Movdq2q], Select, NONE, integer::<u64>),
    row!([Movlps, Movlpd], Select, NONE, half::<LowHalf, LowHalf>),
    row!([Movhps, Movhpd], Select, NONE, half::<HighHalf, LowHalf>),
    row!(Movhlps, Select, NONE, half::<LowHalf, HighHalf>),
    row!(Movlhps, Select, NONE, half::<HighHalf, LowHalf>),
    row!(Movddup, Select, NONE, movddup),
    row!(Movnti, Wide, NONE, movnti),
    row!(Movmskps, Select, NONE, sign_mask::<u32>),
    row!(Movmskpd, Select, NONE, sign_mask::<u64>),
    row!(Pmovmskb, Select, NONE, sign_mask::<u8>),
    row!([Maskmovq, Maskmovdqu], Select, NONE, maskmov),
];

/// What a move of a whole register asks of its memory operand.
trait MoveAlignment {
    const ALIGNMENT: Alignment;
}

struct Aligned;
struct Unaligned;

impl MoveAlignment for Aligned {
    const ALIGNMENT: Alignment = Alignment::Strict;
}

impl MoveAlignment for Unaligned {
    const ALIGNMENT: Alignment = Alignment::Any;
}

fn whole<A: MoveAlignment>(form: &Form<'_>) -> Option<Execute> {
    fn copy<C: Class>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let value = C::get(c, 1);
        C::set::<u64>(c, value);
        Ok(Outcome::Next)
    }
    fn load<C: Class, A: MoveAlignment>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let value = c.load_vector(A::ALIGNMENT)?;
        C::set::<u64>(c, value);
        Ok(Outcome::Next)
    }
    fn store<C: Class, A: MoveAlignment>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        C::about_to_store(c);
        c.store_vector(C::get(c, 1), A::ALIGNMENT)?;
        C::done(c);
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(1), form.class(0).or(form.class(1))?) {
        (Shape::Other, Shape::Other, ClassName::Mmx) => Some(copy::<Mmx>),
        (Shape::Other, Shape::Other, ClassName::Sse) => Some(copy::<Sse>),
        (Shape::Other, Shape::Memory, ClassName::Mmx) => Some(load::<Mmx, A>),
        (Shape::Other, Shape::Memory, ClassName::Sse) => Some(load::<Sse, A>),
        (Shape::Memory, Shape::Other, ClassName::Mmx) => Some(store::<Mmx, A>),
        (Shape::Memory, Shape::Other, ClassName::Sse) => Some(store::<Sse, A>),
        _ => None,
    }
}

/// From memory, the rest of the register is cleared; from a register, it stays.
fn scalar<W: Width>(form: &Form<'_>) -> Option<Execute> {
    fn merge<C: Class, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = C::get(c, C::FIRST + 1).integer::<W>(0);
        let merged = C::get(c, C::FIRST).with_integer(0, value);
        C::set::<u64>(c, merged);
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(1), form.class(0).or(form.class(1))?) {
        (Shape::Other, Shape::Other, ClassName::Sse) => Some(merge::<Sse, W>),
        (Shape::Other, Shape::Memory, ClassName::Sse) => Some(transfer::<Sse, W, Low<Sse, 0>, Mem>),
        (Shape::Memory, Shape::Other, ClassName::Sse) => Some(transfer::<Sse, W, Mem, Low<Sse, 1>>),
        _ => None,
    }
}

/// Moves an integer between places, one of which is the low part of a register of class `C`.
fn transfer<C: Class, W: Width, D: Destination, S: Source>(
    c: &mut Context<'_>,
) -> Result<Outcome, Exception> {
    C::ready(c)?;
    let value = S::read::<W>(c)?;
    if c.decoded.operand[0].kind == Kind::Memory {
        C::about_to_store(c);
    }
    D::write(c, value)?;
    C::done(c);
    Ok(Outcome::Next)
}

/// MOVD and MOVQ clear the rest of a vector register that they write.
fn integer<W: Width>(form: &Form<'_>) -> Option<Execute> {
    use ClassName::{Mmx as M, Sse as S};
    match (form.shape(0), form.class(0), form.shape(1), form.class(1)) {
        (_, Some(M), Shape::Register, _) => Some(transfer::<Mmx, W, Low<Mmx, 0>, Reg<1>>),
        (_, Some(M), Shape::Memory, _) => Some(transfer::<Mmx, W, Low<Mmx, 0>, Mem>),
        (_, Some(M), _, Some(M)) => Some(transfer::<Mmx, W, Low<Mmx, 0>, Low<Mmx, 1>>),
        (_, Some(M), _, Some(S)) => Some(transfer::<Mmx, W, Low<Mmx, 0>, Low<Sse, 1>>),
        (_, Some(S), Shape::Register, _) => Some(transfer::<Sse, W, Low<Sse, 0>, Reg<1>>),
        (_, Some(S), Shape::Memory, _) => Some(transfer::<Sse, W, Low<Sse, 0>, Mem>),
        (_, Some(S), _, Some(M)) => Some(transfer::<Mmx, W, Low<Sse, 0>, Low<Mmx, 1>>),
        (_, Some(S), _, Some(S)) => Some(transfer::<Sse, W, Low<Sse, 0>, Low<Sse, 1>>),
        (Shape::Register, _, _, Some(M)) => Some(transfer::<Mmx, W, Reg<0>, Low<Mmx, 1>>),
        (Shape::Register, _, _, Some(S)) => Some(transfer::<Sse, W, Reg<0>, Low<Sse, 1>>),
        (Shape::Memory, _, _, Some(M)) => Some(transfer::<Mmx, W, Mem, Low<Mmx, 1>>),
        (Shape::Memory, _, _, Some(S)) => Some(transfer::<Sse, W, Mem, Low<Sse, 1>>),
        _ => None,
    }
}

/// A half of an XMM register.
trait Half {
    const QUADWORD: usize;
}

struct LowHalf;
struct HighHalf;

impl Half for LowHalf {
    const QUADWORD: usize = 0;
}

impl Half for HighHalf {
    const QUADWORD: usize = 1;
}

/// Half `T` of the first source becomes half `F` of the second, or memory; a store stores half `T`.
fn half<T: Half, F: Half>(form: &Form<'_>) -> Option<Execute> {
    fn merge<C: Class, T: Half, F: Half>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = C::get(c, C::FIRST + 1).integer::<u64>(F::QUADWORD);
        let merged = C::get(c, C::FIRST).with_integer(T::QUADWORD, value);
        C::set::<u64>(c, merged);
        Ok(Outcome::Next)
    }
    fn load<C: Class, T: Half>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = Mem::read::<u64>(c)?;
        let merged = C::get(c, C::FIRST).with_integer(T::QUADWORD, value);
        C::set::<u64>(c, merged);
        Ok(Outcome::Next)
    }
    fn store<C: Class, T: Half>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = C::get(c, 1).integer::<u64>(T::QUADWORD);
        Mem::write(c, value)?;
        Ok(Outcome::Next)
    }
    match (form.class(0), form.memory_bytes(), form.class(1)) {
        (Some(ClassName::Sse), None, _) => Some(merge::<Sse, T, F>),
        (Some(ClassName::Sse), Some(8), _) => Some(load::<Sse, T>),
        (None, Some(8), Some(ClassName::Sse)) => Some(store::<Sse, T>),
        _ => None,
    }
}

/// The first quadword of each block, twice.
fn movddup(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut result = P::fetch::<C, u64>(c, 1)?;
        for block in result.quadwords_mut().chunks_exact_mut(2) {
            block[1] = block[0];
        }
        C::set::<u64>(c, result);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.memory_bytes()) {
        (ClassName::Sse, None) => Some(run::<Sse, InRegister>),
        (ClassName::Sse, Some(8)) => Some(run::<Sse, InPart<8>>),
        _ => None,
    }
}

fn movnti<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = Reg::<1>::read::<W>(c)?;
    Mem::write(c, value)?;
    Ok(Outcome::Next)
}

/// The top bits of all lanes.
fn sign_mask<W: Width>(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class, P: Place, W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        let source = P::fetch::<C, u64>(c, 1)?;
        let per_quadword = 8 / W::BYTES;
        let mut mask = 0;
        for (index, quadword) in source.quadwords().iter().enumerate() {
            mask |= signs::<W>(*quadword) << (index * per_quadword);
        }
        Reg::<0>::write(c, mask)?;
        C::done(c);
        Ok(Outcome::Next)
    }
    by_class!(form, 1, run, <W>)
}

/// The top bits of a quadword's lanes, gathered by a multiplication that moves each to its own place in
/// the top byte.
#[inline(always)]
fn signs<W: Width>(quadword: u64) -> u64 {
    match W::BITS {
        8 => (quadword >> 7 & 0x0101_0101_0101_0101).wrapping_mul(0x0102_0408_1020_4080) >> 56,
        32 => quadword >> 31 & 1 | quadword >> 62 & 2,
        _ => quadword >> 63,
    }
}

/// Stores the bytes whose mask byte has its top bit set, at RDI or EDI. All bytes must be writable, even if
/// the mask is zero, and an MMX register is used even if they are not: the manual leaves both open.
fn maskmov(form: &Form<'_>) -> Option<Execute> {
    fn run<C: Class>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        C::ready(c)?;
        C::done(c);
        let (value, mask) = (C::get(c, 1), C::get(c, 2));
        let halves = c.decoded.processor.is(Facts::MASKMOVDQU_STORES_HALVES);
        let piece = if halves { 8 } else { C::Bits::BYTES };
        let place = |c: &Context<'_>, offset: usize| match halves {
            true => c.decoded.address.linear_of_part(c.registers, offset as u64, 7),
            false => c.linear().wrapping_add(offset as u64),
        };
        for offset in (0..C::Bits::BYTES).step_by(8) {
            let offset = if halves { C::Bits::BYTES - 8 - offset } else { offset };
            c.load::<u64>(place(c, offset), Access::Write, c.decoded.address.stack)?;
        }
        for base in (0..C::Bits::BYTES).step_by(piece) {
            let (at, end) = (place(c, base), base + piece);
            let bytes = value.lanes().get(base..end).unwrap_or_default();
            for (start, length) in runs(mask.lanes().get(base..end).unwrap_or_default()) {
                let run = bytes.get(start..start + length).unwrap_or_default();
                c.memory.write(at.wrapping_add(start as u64), run)?;
            }
        }
        Ok(Outcome::Next)
    }
    match form.class(1)? {
        ClassName::Mmx => Some(run::<Mmx>),
        ClassName::Sse => Some(run::<Sse>),
    }
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
