//! Basic arithmetic (SDM volume 1, section 8.3.3).

use iced_x86::MemorySize;

use super::{Double, Doubleword, FLOAT, Number, Single, Word, by_number, in_memory, pops, read, waiting};
use crate::decode::form::Form;
use crate::host::x87::{self as host, Answer, Before, Binary};
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{Float80, X87};
use crate::model::x87::status::{BEFORE, C1, C2, CONDITION};
use crate::model::x87::{INDEFINITE, StackFault};
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

use super::transcendental::pushing;

pub(super) static ROWS: &[Row] = &[
    row!([Fadd, Faddp, Fiadd], binary::<host::Fadd>, FLOAT),
    row!([Fmul, Fmulp, Fimul], binary::<host::Fmul>, FLOAT),
    row!([Fsub, Fsubp, Fisub], binary::<host::Fsub>, FLOAT),
    row!([Fsubr, Fsubrp, Fisubr], binary::<host::Fsubr>, FLOAT),
    row!([Fdiv, Fdivp, Fidiv], binary::<host::Fdiv>, FLOAT),
    row!([Fdivr, Fdivrp, Fidivr], binary::<host::Fdivr>, FLOAT),
    row!(Fsqrt, unary(C1, host::fsqrt), FLOAT),
    row!(Frndint, unary(C1, host::frndint), FLOAT),
    row!(Fscale, with_st1(0, C1, host::fscale), FLOAT),
    row!(Fprem, with_st1(0, CONDITION, host::fprem), FLOAT),
    row!(Fprem1, with_st1(0, CONDITION, host::fprem1), FLOAT),
    row!(Fxtract, pushing(C1, host::fxtract), FLOAT),
    row!(Fabs, unary(C1, fabs), FLOAT),
    row!(Fchs, unary(C1, fchs), FLOAT),
];

fn binary<O: Binary>(form: &Form<'_>) -> Option<Execute> {
    fn registers<O: Binary, const POPS: u8>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        waiting(c, |c| {
            let [left, right, ..] = c.decoded.operand;
            let x87 = &mut c.registers.extended.x87;
            let answer = match (x87.st(left.number), x87.st(right.number)) {
                (Some(left), Some(right)) => Some(O::registers(x87.control, left, right)),
                _ => None,
            };
            commit(x87, left.number, C1, POPS, answer);
            Ok(())
        })
    }
    fn memory<O: Binary, N: Number, const POPS: u8>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        waiting(c, |c| {
            let right: N::Bits = read(c)?;
            let x87 = &mut c.registers.extended.x87;
            let answer = x87.st(0).map(|left| N::apply::<O>(x87.control, left, right));
            commit(x87, 0, C1, POPS, answer);
            Ok(())
        })
    }
    match (in_memory(form), pops(form)) {
        (true, _) => by_number!(form, memory, <O>),
        (false, 0) => Some(registers::<O, 0>),
        (false, _) => Some(registers::<O, 1>),
    }
}

/// Writes a result to ST(i), or what stands for it after a stack underflow, then pops. C2 says of those
/// instructions that define it whether they did only a part of their work, which a stack fault is not.
#[inline(always)]
pub(super) fn commit(x87: &mut X87, i: u8, conditions: u16, pops: u8, answer: Option<Answer>) {
    let (value, committed) = match answer {
        Some(answer) => (answer.value, x87.raise(answer.status, conditions, BEFORE)),
        None => {
            x87.status &= !(conditions & C2);
            (INDEFINITE, x87.stack_fault(StackFault::Underflow))
        }
    };
    if committed {
        x87.set_st(i, value);
        x87.pop(pops);
    }
}

/// A function of ST(0) to ST(0), and the condition codes that it defines.
#[inline(always)]
pub(super) fn unary<B: Before>(
    c: &mut Context<'_>,
    conditions: u16,
    function: impl Fn(B, &Float80) -> Answer,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        let answer = x87.st(0).map(|st0| function(B::of(x87), st0));
        commit(x87, 0, conditions, 0, answer);
        Ok(())
    })
}

/// A function of ST(0) and ST(1) to ST(i), which may then be popped to.
#[inline(always)]
pub(super) fn with_st1<B: Before>(
    c: &mut Context<'_>,
    i: u8,
    conditions: u16,
    function: impl Fn(B, &Float80, &Float80) -> Answer,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        let answer = match (x87.st(0), x87.st(1)) {
            (Some(st0), Some(st1)) => Some(function(B::of(x87), st0, st1)),
            _ => None,
        };
        commit(x87, i, conditions, i, answer);
        Ok(())
    })
}

/// Of any value, without an exception.
fn fabs(_: u16, st0: &Float80) -> Answer {
    Answer { value: Float80 { sign_exponent: st0.sign_exponent & 0x7fff, ..*st0 }, status: 0 }
}

/// Of any value, without an exception.
fn fchs(_: u16, st0: &Float80) -> Answer {
    Answer { value: Float80 { sign_exponent: st0.sign_exponent ^ 0x8000, ..*st0 }, status: 0 }
}
