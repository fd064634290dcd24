//! Trigonometric, logarithmic and exponential instructions (SDM volume 1, sections 8.3.7 and 8.3.9), to
//! the last bit of the host's.

use super::arithmetic::{commit, unary};
use crate::context::Context;
use crate::exception::Exception;
use crate::host::x87::{self as host, Answer};
use crate::outcome::Outcome;
use crate::registers::Float80;
use crate::shape::row;
use crate::table::{Flags, Row};
use crate::x87::status::{BEFORE, C1, C2};
use crate::x87::{INDEFINITE, StackFault, waiting};

pub(in crate::families) static ROWS: &[Row] = &[
    row!(Fsin, Whole, Flags::X87, |c| unary(c, C1 | C2, host::fsin)),
    row!(Fcos, Whole, Flags::X87, |c| unary(c, C1 | C2, host::fcos)),
    row!(Fsincos, Whole, Flags::X87, |c| pushing(c, host::fsincos)),
    row!(Fptan, Whole, Flags::X87, |c| pushing(c, host::fptan)),
    row!(Fpatan, Whole, Flags::X87, |c| popping(c, host::fpatan)),
    row!(F2xm1, Whole, Flags::X87, |c| unary(c, C1, host::f2xm1)),
    row!(Fyl2x, Whole, Flags::X87, |c| popping(c, host::fyl2x)),
    row!(Fyl2xp1, Whole, Flags::X87, |c| popping(c, host::fyl2xp1)),
];

/// Replaces ST(0) and pushes a second result, unless C2 says that the operand was out of range.
#[inline(always)]
pub(super) fn pushing(
    c: &mut Context<'_>,
    function: impl Fn(u16, &Float80) -> Answer<[Float80; 2]>,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        let fault = match x87.st(0) {
            None => StackFault::Underflow,
            Some(_) if x87.is_full() => StackFault::Overflow,
            Some(st0) => {
                let Answer { value: [below, pushed], status } = function(x87.control, st0);
                if x87.raise(status, C1 | C2, BEFORE) && status & C2 == 0 {
                    x87.set_st(0, below);
                    x87.push(pushed);
                }
                return Ok(());
            }
        };
        if x87.stack_fault(fault) {
            x87.set_st(0, INDEFINITE);
            x87.push(INDEFINITE);
        }
        Ok(())
    })
}

/// A function of ST(0) and ST(1) to ST(1), which popping makes the new ST(0).
#[inline(always)]
fn popping(
    c: &mut Context<'_>,
    function: impl Fn(u16, &Float80, &Float80) -> Answer,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        let answer = match (x87.st(0), x87.st(1)) {
            (Some(st0), Some(st1)) => Some(function(x87.control, st0, st1)),
            _ => None,
        };
        commit(x87, 1, C1, 1, answer);
        Ok(())
    })
}
