//! The shapes of integer instructions: how operands are fetched and results written back, once for all
//! rows. A row's function sees values only.
//!
//! Each shape is a trait that a row implements (through [`row!`]) and a `select` that picks the one
//! function compiled for the operands' kinds and width.

pub(crate) mod element;
pub(crate) mod float;
pub(crate) mod vector;

use crate::decode::form::{Form, Shape};
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Imm, Mem, Reg, Source};
use crate::run::row::by_width;

mod bit;
pub(crate) use bit::{Bit, bit};

/// Declares one row: `row!(Adc, Rmw, Flags::LOCK, adc)`; several mnemonics of one entry stand in brackets.
///
/// A shape that only one family has is a function there, with the operation as its parameter:
/// `row!(Shld, double_shift::<Left>, NONE)` picks by the operands' form what executes, and
/// `row!(Fsqrt, unary(C1, fsqrt), NONE)` executes `unary` with these arguments after the context. What is
/// like nothing else says `Select` or `Whole`.
macro_rules! row {
    ([$($mnemonic:ident),+], Select, $flags:expr, $function:expr) => {
        $crate::run::row::Row {
            name: stringify!($($mnemonic)/+),
            mnemonics: &[$(iced_x86::Mnemonic::$mnemonic),+],
            flags: $flags,
            select: $function,
            vector: None,
        }
    };
    ([$($mnemonic:ident),+], Rmw, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Rmw for Op {
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags) {
                $function(dst, src, flags)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::rmw::<Op>)
    }};
    ([$($mnemonic:ident),+], Compare, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Compare for Op {
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(left: W, right: W, flags: Rflags) -> Rflags {
                $function(left, right, flags)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::compare::<Op>)
    }};
    ([$($mnemonic:ident),+], Unary, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Unary for Op {
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(dst: W, flags: Rflags) -> (W, Rflags) {
                $function(dst, flags)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::unary::<Op>)
    }};
    ([$($mnemonic:ident),+], Bit, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Bit for Op {
            const WRITES: bool = $flags.contains($crate::decode::flags::Flags::LOCK);
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(dst: W, bit: W) -> W {
                $function(dst, bit)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::bit::<Op>)
    }};
    ([$($mnemonic:ident),+], Shift, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Shift for Op {
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags) {
                $function(dst, count, flags)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::shift::<Op>)
    }};
    ([$($mnemonic:ident),+], Binary, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Binary for Op {
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(left: W, right: W, flags: Rflags) -> (W, Rflags) {
                $function(left, right, flags)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::binary::<Op>)
    }};
    ([$($mnemonic:ident),+], Convert, $flags:expr, $function:ident) => {{
        struct Op;
        impl $crate::shape::Convert for Op {
            #[inline(always)]
            fn apply<W: $crate::model::width::Width>(src: W, flags: Rflags) -> (W, Rflags) {
                $function(src, flags)
            }
        }
        row!([$($mnemonic),+], Select, $flags, $crate::shape::convert::<Op>)
    }};
    // A function of the whole context, without a width.
    ([$($mnemonic:ident),+], Whole, $flags:expr, $function:expr) => {
        row!([$($mnemonic),+], Select, $flags, |_| Some($function))
    };
    // A function of the whole context, generic over the width of the first operand.
    ([$($mnemonic:ident),+], Wide, $flags:expr, $function:ident) => {
        row!([$($mnemonic),+], Select, $flags, |form| {
            $crate::run::row::by_width!(form.size(0), $function)
        })
    };
    // The same, generic over the operand size: what the stack, far pointers and images are counted in.
    ([$($mnemonic:ident),+], OperandSize, $flags:expr, $function:ident) => {
        row!([$($mnemonic),+], Select, $flags, |form| {
            $crate::run::row::by_width!(form.operand_size(), $function)
        })
    };
    // The same, generic over the place and width of operand `$index`, a general register or memory.
    ([$($mnemonic:ident),+], Source<$index:literal>, $flags:expr, $function:ident) => {
        row!([$($mnemonic),+], Select, $flags, |form| match form.shape($index) {
            $crate::decode::form::Shape::Register => {
                $crate::run::row::by_width!(form.size($index), $function, <$crate::run::place::Reg<$index>>)
            }
            $crate::decode::form::Shape::Memory => {
                $crate::run::row::by_width!(form.size($index), $function, <$crate::run::place::Mem>)
            }
            _ => None,
        })
    };
    // Two functions of the whole context, the second for LOCK, generic over the width of the first operand.
    ([$($mnemonic:ident),+], Lockable, $flags:expr, $function:ident, $locked:ident) => {
        row!([$($mnemonic),+], Select, $flags, |form| if form.locked() {
            $crate::run::row::by_width!(form.size(0), $locked)
        } else {
            $crate::run::row::by_width!(form.size(0), $function)
        })
    };
    // The shapes of vectors name their lanes: `Lanes<u8>`.
    ([$($mnemonic:ident),+], $shape:ident<$($lane:ty),+>, $($rest:tt)+) => {
        $crate::shape::vector::vector_row!([$($mnemonic),+], $shape<$($lane),+>, $($rest)+)
    };
    // A family's own shape.
    ([$($mnemonic:ident),+], $shape:ident($($argument:expr),+), $flags:expr) => {
        row!([$($mnemonic),+], Whole, $flags, |c| $shape(c, $($argument),+))
    };
    ([$($mnemonic:ident),+], $shape:path, $flags:expr) => {
        row!([$($mnemonic),+], Select, $flags, $shape)
    };
    ($mnemonic:ident, $($rest:tt)+) => { row!([$mnemonic], $($rest)+) };
}
pub(crate) use row;

/// Reads two operands and flags, writes the first and flags: ADD and its like.
pub(crate) trait Rmw {
    fn apply<W: Width>(dst: W, src: W, flags: Rflags) -> (W, Rflags);
}

pub(crate) fn rmw<O: Rmw>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Rmw, D: Destination, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let src = S::read::<W>(c)?;
        let dst = D::read_to_write::<W>(c)?;
        let (result, flags) = O::apply(dst, src, c.registers.rflags);
        D::write(c, result)?;
        c.registers.rflags = flags;
        Ok(Outcome::Next)
    }
    fn locked<W: Width, O: Rmw, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let src = S::read::<W>(c)?;
        let before = c.registers.rflags;
        let mut after = before;
        c.update(c.linear(), c.decoded.address.stack, |dst: W| {
            let (result, flags) = O::apply(dst, src, before);
            after = flags;
            result
        })?;
        c.registers.rflags = after;
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(1), form.locked()) {
        (Shape::Register, Shape::Register, _) => by_width!(form.size(0), run, <O, Reg<0>, Reg<1>>),
        (Shape::Register, Shape::Memory, _) => by_width!(form.size(0), run, <O, Reg<0>, Mem>),
        (Shape::Register, Shape::Immediate, _) => by_width!(form.size(0), run, <O, Reg<0>, Imm>),
        (Shape::Memory, Shape::Register, false) => by_width!(form.size(0), run, <O, Mem, Reg<1>>),
        (Shape::Memory, Shape::Immediate, false) => by_width!(form.size(0), run, <O, Mem, Imm>),
        (Shape::Memory, Shape::Register, true) => by_width!(form.size(0), locked, <O, Reg<1>>),
        (Shape::Memory, Shape::Immediate, true) => by_width!(form.size(0), locked, <O, Imm>),
        _ => None,
    }
}

/// Reads the second and third operand, writes the first and flags: ANDN and its like.
pub(crate) trait Binary {
    fn apply<W: Width>(left: W, right: W, flags: Rflags) -> (W, Rflags);
}

pub(crate) fn binary<O: Binary>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Binary, L: Source, R: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let left = L::read::<W>(c)?;
        let right = R::read::<W>(c)?;
        let (result, flags) = O::apply(left, right, c.registers.rflags);
        Reg::<0>::write(c, result)?;
        c.set_flags(flags);
        Ok(Outcome::Next)
    }
    match (form.shape(1), form.shape(2)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), run, <O, Reg<1>, Reg<2>>),
        (Shape::Register, Shape::Memory) => by_width!(form.size(0), run, <O, Reg<1>, Mem>),
        (Shape::Register, Shape::Immediate) => by_width!(form.size(0), run, <O, Reg<1>, Imm>),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), run, <O, Mem, Reg<2>>),
        (Shape::Memory, Shape::Immediate) => by_width!(form.size(0), run, <O, Mem, Imm>),
        _ => None,
    }
}

/// Reads the second operand, writes the first and flags: POPCNT and its like.
pub(crate) trait Convert {
    fn apply<W: Width>(src: W, flags: Rflags) -> (W, Rflags);
}

pub(crate) fn convert<O: Convert>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Convert, D: Destination, S: Source>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        let src = S::read::<W>(c)?;
        let (result, flags) = O::apply(src, c.registers.rflags);
        D::write(c, result)?;
        c.set_flags(flags);
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(1)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), run, <O, Reg<0>, Reg<1>>),
        (Shape::Register, Shape::Memory) => by_width!(form.size(0), run, <O, Reg<0>, Mem>),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), run, <O, Mem, Reg<1>>),
        _ => None,
    }
}

/// Reads two operands, writes flags: CMP, TEST.
pub(crate) trait Compare {
    fn apply<W: Width>(left: W, right: W, flags: Rflags) -> Rflags;
}

pub(crate) fn compare<O: Compare>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Compare, L: Source, R: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let left = L::read::<W>(c)?;
        let right = R::read::<W>(c)?;
        c.registers.rflags = O::apply(left, right, c.registers.rflags);
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(1)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), run, <O, Reg<0>, Reg<1>>),
        (Shape::Register, Shape::Memory) => by_width!(form.size(0), run, <O, Reg<0>, Mem>),
        (Shape::Register, Shape::Immediate) => by_width!(form.size(0), run, <O, Reg<0>, Imm>),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), run, <O, Mem, Reg<1>>),
        (Shape::Memory, Shape::Immediate) => by_width!(form.size(0), run, <O, Mem, Imm>),
        _ => None,
    }
}

/// Reads and writes one operand and flags: INC and its like.
pub(crate) trait Unary {
    fn apply<W: Width>(dst: W, flags: Rflags) -> (W, Rflags);
}

pub(crate) fn unary<O: Unary>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Unary, D: Destination>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let dst = D::read_to_write::<W>(c)?;
        let (result, flags) = O::apply(dst, c.registers.rflags);
        D::write(c, result)?;
        c.registers.rflags = flags;
        Ok(Outcome::Next)
    }
    fn locked<W: Width, O: Unary>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let before = c.registers.rflags;
        let mut after = before;
        c.update(c.linear(), c.decoded.address.stack, |dst: W| {
            let (result, flags) = O::apply(dst, before);
            after = flags;
            result
        })?;
        c.registers.rflags = after;
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.locked()) {
        (Shape::Register, _) => by_width!(form.size(0), run, <O, Reg<0>>),
        (Shape::Memory, false) => by_width!(form.size(0), run, <O, Mem>),
        (Shape::Memory, true) => by_width!(form.size(0), locked, <O>),
        _ => None,
    }
}

/// Shifts the first operand by a count that is masked to 5 bits, or 6 for 64-bit operands.
pub(crate) trait Shift {
    fn apply<W: Width>(dst: W, count: u32, flags: Rflags) -> (W, Rflags);
}

/// The count as the processor masks it.
#[inline(always)]
pub(crate) fn masked_count<W: Width>(count: u8) -> u32 {
    u32::from(count) & if W::BITS == 64 { 63 } else { 31 }
}

pub(crate) fn shift<O: Shift>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Shift, D: Destination, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let count = masked_count::<W>(S::read::<u8>(c)?);
        let dst = D::read_to_write::<W>(c)?;
        let (result, flags) = O::apply(dst, count, c.registers.rflags);
        D::write(c, result)?;
        c.registers.rflags = flags;
        Ok(Outcome::Next)
    }
    match (form.shape(0), form.shape(1)) {
        (Shape::Register, Shape::Register) => by_width!(form.size(0), run, <O, Reg<0>, Reg<1>>),
        (Shape::Register, Shape::Immediate) => by_width!(form.size(0), run, <O, Reg<0>, Imm>),
        (Shape::Memory, Shape::Register) => by_width!(form.size(0), run, <O, Mem, Reg<1>>),
        (Shape::Memory, Shape::Immediate) => by_width!(form.size(0), run, <O, Mem, Imm>),
        _ => None,
    }
}
