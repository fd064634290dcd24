//! Data transfer between registers and memory (SDM volume 1, section 7.3.1).

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::reads_32_bits;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::gpr;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Imm, Mem, Reg, Source};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::row;

use crate::families::system::segment;

pub(super) static ROWS: &[Row] = &[
    row!(Mov, Select, Flags::empty(), select_mov),
    row!(Movzx, extend::<Zero>, Flags::empty()),
    row!([Movsx, Movsxd], extend::<Sign>, Flags::empty()),
    row!(Lea, Wide, Flags::empty(), lea),
    row!(Xchg, Select, Flags::ATOMIC, select_xchg),
    row!(Bswap, Wide, Flags::empty(), bswap),
    row!(Xlatb, Whole, Flags::empty(), xlat),
    row!(
        [
            Cmova, Cmovae, Cmovb, Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno, Cmovnp,
            Cmovns, Cmovo, Cmovp, Cmovs
        ],
        Source<1>,
        Flags::empty(),
        cmovcc
    ),
    row!(
        [
            Seta, Setae, Setb, Setbe, Sete, Setg, Setge, Setl, Setle, Setne, Setno, Setnp, Setns, Seto, Setp,
            Sets
        ],
        Whole,
        Flags::empty(),
        setcc
    ),
];

fn select_mov(form: &Form<'_>) -> Option<Execute> {
    match (form.shape(0), form.shape(1)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), mov, <Reg<0>, Reg<1>>),
        (Shape::Register, Shape::Memory) => by_width!(form.size(0), mov, <Reg<0>, Mem>),
        (Shape::Register, Shape::Immediate) => by_width!(form.size(0), mov, <Reg<0>, Imm>),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), mov, <Mem, Reg<1>>),
        (Shape::Memory, Shape::Immediate) => by_width!(form.size(0), mov, <Mem, Imm>),
        _ => segment::select_mov(form),
    }
}

fn mov<W: Width, D: Destination, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = S::read::<W>(c)?;
    D::write(c, value)?;
    Ok(Outcome::Next)
}

/// How the upper bits are filled.
trait Extension {
    fn apply<N: Width>(value: N) -> u64;
}
struct Zero;
struct Sign;
impl Extension for Zero {
    #[inline(always)]
    fn apply<N: Width>(value: N) -> u64 {
        value.zero_extend()
    }
}
impl Extension for Sign {
    #[inline(always)]
    fn apply<N: Width>(value: N) -> u64 {
        value.sign_extend()
    }
}

/// MOVZX, MOVSX and MOVSXD.
fn extend<X: Extension>(form: &Form<'_>) -> Option<Execute> {
    fn run<N: Width, W: Width, X: Extension, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let value = S::read::<N>(c)?;
        Reg::<0>::write(c, W::truncate(X::apply(value)))?;
        Ok(Outcome::Next)
    }
    fn from<N: Width, X: Extension>(form: &Form<'_>) -> Option<Execute> {
        match (form.shape(1), form.size(0)) {
            (Shape::Register, 2) => Some(run::<N, u16, X, Reg<1>>),
            (Shape::Register, 4) => Some(run::<N, u32, X, Reg<1>>),
            (Shape::Register, 8) => Some(run::<N, u64, X, Reg<1>>),
            (Shape::Memory, 2) => Some(run::<N, u16, X, Mem>),
            (Shape::Memory, 4) => Some(run::<N, u32, X, Mem>),
            (Shape::Memory, 8) => Some(run::<N, u64, X, Mem>),
            _ => None,
        }
    }
    match form.size(1) {
        1 => from::<u8, X>(form),
        2 if reads_32_bits(form.instruction, form.processor) => from::<u32, X>(form),
        2 => from::<u16, X>(form),
        4 => from::<u32, X>(form),
        _ => None,
    }
}

fn lea<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let address = c.decoded.address.effective(c.registers);
    Reg::<0>::write(c, W::truncate(address))?;
    Ok(Outcome::Next)
}

fn select_xchg(form: &Form<'_>) -> Option<Execute> {
    match (form.shape(0), form.shape(1)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), xchg),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), xchg_memory, <Reg<1>>),
        (Shape::Register, Shape::Memory) => by_width!(form.size(0), xchg_memory, <Reg<0>>),
        _ => None,
    }
}

fn xchg<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (left, right) = (Reg::<0>::read::<W>(c)?, Reg::<1>::read::<W>(c)?);
    Reg::<0>::write(c, right)?;
    Reg::<1>::write(c, left)?;
    Ok(Outcome::Next)
}

/// Atomic with or without LOCK.
fn xchg_memory<W: Width, R: Destination>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let new = R::read::<W>(c)?;
    let old = c.update(c.linear(), c.decoded.address.stack, |_| new)?;
    R::write(c, old)?;
    Ok(Outcome::Next)
}

/// With a 16-bit operand the result is undefined; processors clear the register.
fn bswap<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = Reg::<0>::read::<W>(c)?.zero_extend();
    let swapped = if W::BITS < 32 { 0 } else { value.swap_bytes() >> (64 - W::BITS) };
    Reg::<0>::write(c, W::truncate(swapped))?;
    Ok(Outcome::Next)
}

/// Reads its source and writes its destination whether the condition holds or not.
fn cmovcc<W: Width, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = S::read::<W>(c)?;
    let dst = Reg::<0>::read::<W>(c)?;
    let value = if c.condition() { src } else { dst };
    Reg::<0>::write(c, value)?;
    Ok(Outcome::Next)
}

fn setcc(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let value = u8::from(c.condition());
    c.write(0, value)?;
    Ok(Outcome::Next)
}

/// The byte number AL of the table at RBX.
fn xlat(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let index = c.general::<u8>(gpr::RAX);
    let address = c.decoded.address;
    let value =
        c.load::<u8>(address.linear_offset(c.registers, index.zero_extend()), Access::Read, address.stack)?;
    c.set_general(gpr::RAX, value);
    Ok(Outcome::Next)
}
