//! Trigonometric, logarithmic and exponential instructions (SDM volume 1, sections 8.3.7 and 8.3.9), to
//! the last bit of the host's.

use super::arithmetic::{unary, with_st1};
use super::{FLOAT, waiting};
use crate::host::x87::{self as host, Answer, Before};
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::Float80;
use crate::model::x87::status::{BEFORE, C1, C2};
use crate::model::x87::{INDEFINITE, StackFault};
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Fsin, unary(C1 | C2, host::fsin), FLOAT).by_host(),
    row!(Fcos, unary(C1 | C2, host::fcos), FLOAT).by_host(),
    row!(Fsincos, pushing(C1 | C2, host::fsincos), FLOAT).by_host(),
    row!(Fptan, pushing(C1 | C2, host::fptan), FLOAT).by_host(),
    row!(Fpatan, with_st1(1, C1, host::fpatan), FLOAT).by_host(),
    row!(F2xm1, unary(C1, host::f2xm1), FLOAT).by_host(),
    row!(Fyl2x, with_st1(1, C1, host::fyl2x), FLOAT).by_host(),
    row!(Fyl2xp1, with_st1(1, C1, host::fyl2xp1), FLOAT).by_host(),
];

/// Replaces ST(0) and pushes a second result, unless C2 says that the operand was out of range. `conditions`
/// are the condition codes that the instruction defines.
#[inline(always)]
pub(super) fn pushing<B: Before>(
    c: &mut Context<'_>,
    conditions: u16,
    function: impl Fn(B, &Float80) -> Answer<[Float80; 2]>,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        let fault = match x87.st(0) {
            None => StackFault::Underflow,
            Some(_) if x87.is_full() => StackFault::Overflow,
            Some(st0) => {
                let Answer { value: [below, pushed], status } = function(B::of(x87), st0);
                if x87.raise(status, conditions, BEFORE) && status & conditions & C2 == 0 {
                    x87.set_st(0, below);
                    x87.push(pushed);
                }
                return Ok(());
            }
        };
        x87.status &= !(conditions & C2);
        if x87.stack_fault(fault) {
            x87.set_st(0, INDEFINITE);
            x87.push(INDEFINITE);
        }
        Ok(())
    })
}
