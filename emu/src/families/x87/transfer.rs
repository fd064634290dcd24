//! Loads, stores, moves and constants (SDM volume 1, sections 8.3.1 and 8.3.4).

use iced_x86::MemorySize;

use super::{FLOAT, check_number, check_part, pops, read, read_m80, waiting, write_at, write_slice};
use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::processor::Facts;
use crate::host::x87::{self as host, Answer};
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Float80, Rflags, X87};
use crate::model::x87::status::{BEFORE, BEFORE_STORE, C1, IE};
use crate::model::x87::{INDEFINITE, StackFault};
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Fld, Select, FLOAT, fld),
    row!(Fild, Select, Flags::X87, fild),
    row!(Fbld, load(read_m80, host::fbld_m80bcd), Flags::X87),
    row!([Fst, Fstp], Select, FLOAT, fst),
    row!(Fstpnce, Whole, Flags::X87, fstpnce),
    row!([Fist, Fistp], Select, FLOAT, fist),
    row!(Fisttp, Select, FLOAT, fisttp),
    row!(Fbstp, Whole, FLOAT, |c| store::<_, 1>(c, BCD_INDEFINITE, host::fbstp_m80bcd)),
    row!(Fld1, constant(host::fld1), Flags::X87),
    row!(Fldl2t, constant(host::fldl2t), Flags::X87),
    row!(Fldl2e, constant(host::fldl2e), Flags::X87),
    row!(Fldpi, constant(host::fldpi), Flags::X87),
    row!(Fldlg2, constant(host::fldlg2), Flags::X87),
    row!(Fldln2, constant(host::fldln2), Flags::X87),
    row!(Fldz, constant(host::fldz), Flags::X87),
    row!(Fxch, Whole, Flags::X87, fxch),
    row!(Fcmovb, fcmov(|f| f.contains(Rflags::CF)), Flags::X87),
    row!(Fcmove, fcmov(|f| f.contains(Rflags::ZF)), Flags::X87),
    row!(Fcmovbe, fcmov(|f| f.intersects(Rflags::CF | Rflags::ZF)), Flags::X87),
    row!(Fcmovu, fcmov(|f| f.contains(Rflags::PF)), Flags::X87),
    row!(Fcmovnb, fcmov(|f| !f.contains(Rflags::CF)), Flags::X87),
    row!(Fcmovne, fcmov(|f| !f.contains(Rflags::ZF)), Flags::X87),
    row!(Fcmovnbe, fcmov(|f| !f.intersects(Rflags::CF | Rflags::ZF)), Flags::X87),
    row!(Fcmovnu, fcmov(|f| !f.contains(Rflags::PF)), Flags::X87),
];

/// The packed BCD that stands for no number.
const BCD_INDEFINITE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff];

/// Pushes a value that was computed, or what stands for it if the stack is full.
#[inline(always)]
fn push(x87: &mut X87, answer: impl FnOnce(u16) -> Answer) {
    let (value, committed) = if x87.is_full() {
        (INDEFINITE, x87.stack_fault(StackFault::Overflow))
    } else {
        let answer = answer(x87.control);
        // An unmasked denormal is pushed all the same.
        (answer.value, x87.raise(answer.status, C1, IE))
    };
    if committed {
        x87.push(value);
    }
}

#[inline(always)]
fn constant(c: &mut Context<'_>, value: impl Fn(u16) -> Answer) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        push(&mut c.registers.extended.x87, value);
        Ok(())
    })
}

/// Pushes a converted number from memory.
#[inline(always)]
fn load<T>(
    c: &mut Context<'_>,
    read: fn(&mut Context<'_>) -> Result<T, Exception>,
    convert: fn(u16, T) -> Answer,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let number = read(c)?;
        push(&mut c.registers.extended.x87, |control| convert(control, number));
        Ok(())
    })
}

fn fld(form: &Form<'_>) -> Option<Execute> {
    if !super::in_memory(form) {
        return Some(fld_register);
    }
    match form.instruction.memory_size() {
        MemorySize::Float32 => Some(|c| load(c, read, host::fld_m32fp)),
        MemorySize::Float64 => Some(|c| load(c, read, host::fld_m64fp)),
        MemorySize::Float80 => Some(|c| load(c, read_m80, fld_m80fp)),
        _ => None,
    }
}

fn fld_m80fp(_: u16, bytes: [u8; 10]) -> Answer {
    Answer { value: Float80::from_bytes(&bytes), status: 0 }
}

fn fld_register(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let source = c.decoded.operand[0].number;
        let x87 = &mut c.registers.extended.x87;
        match x87.st(source).copied() {
            Some(value) => push(x87, |_| Answer { value, status: 0 }),
            None => {
                if x87.stack_fault(StackFault::Underflow) {
                    x87.push(INDEFINITE);
                }
            }
        }
        Ok(())
    })
}

fn fild(form: &Form<'_>) -> Option<Execute> {
    match form.instruction.memory_size() {
        MemorySize::Int16 => Some(|c| load(c, read, host::fild_m16int)),
        MemorySize::Int32 => Some(|c| load(c, read, host::fild_m32int)),
        MemorySize::Int64 => Some(|c| load(c, read, host::fild_m64int)),
        _ => None,
    }
}

/// A number as it lies in memory.
trait Bytes: Copy {
    type Array: AsRef<[u8]>;
    fn bytes(self) -> Self::Array;
}

macro_rules! bytes {
    ($($integer:ty)+) => { $(
        impl Bytes for $integer {
            type Array = [u8; size_of::<$integer>()];
            #[inline(always)]
            fn bytes(self) -> Self::Array {
                self.to_le_bytes()
            }
        }
    )+ };
}

bytes!(u16 u32 u64);

impl Bytes for [u8; 10] {
    type Array = [u8; 10];
    fn bytes(self) -> [u8; 10] {
        self
    }
}

/// Stores ST(0) converted, or what stands for it if the register is empty, then pops.
#[inline(always)]
fn store<T: Bytes, const POPS: u8>(
    c: &mut Context<'_>,
    indefinite: T,
    convert: fn(u16, &Float80) -> Answer<T>,
) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &c.registers.extended.x87;
        let answer = x87.st(0).map(|st0| convert(x87.control, st0));
        // On a copy, for the store may fault yet.
        let mut after = x87.clone();
        let (value, committed) = match answer {
            Some(answer) => (answer.value, after.raise(answer.status, C1, BEFORE_STORE)),
            None => (indefinite, after.stack_fault(StackFault::Underflow)),
        };
        let bytes = value.bytes();
        let processor = c.decoded.processor;
        if let (true, [first @ .., _, _]) = (committed && bytes.as_ref().len() == 10, bytes.as_ref())
            && processor.is(Facts::M80_IS_STORED_IN_PARTS)
        {
            check_part(c, 0, 8, 8, Access::Write)?;
            write_at(c, 0, first)?;
        }
        if committed || !processor.is(Facts::X87_STORE_RAISES_BEFORE_ITS_ACCESS) {
            check_number(c, bytes.as_ref().len(), Access::Write)?;
        }
        if committed {
            write_slice(c, bytes.as_ref())?;
            after.pop(POPS);
        }
        c.registers.extended.x87 = after;
        Ok(())
    })
}

fn fst(form: &Form<'_>) -> Option<Execute> {
    const SINGLE: u32 = 0xffc0_0000;
    const DOUBLE: u64 = 0xfff8_0000_0000_0000;
    if !super::in_memory(form) {
        return Some(if pops(form) == 0 { fst_register::<0> } else { fst_register::<1> });
    }
    match (form.instruction.memory_size(), pops(form)) {
        (MemorySize::Float32, 0) => Some(|c| store::<_, 0>(c, SINGLE, host::fst_m32fp)),
        (MemorySize::Float32, _) => Some(|c| store::<_, 1>(c, SINGLE, host::fst_m32fp)),
        (MemorySize::Float64, 0) => Some(|c| store::<_, 0>(c, DOUBLE, host::fst_m64fp)),
        (MemorySize::Float64, _) => Some(|c| store::<_, 1>(c, DOUBLE, host::fst_m64fp)),
        (MemorySize::Float80, _) => Some(|c| store::<_, 1>(c, INDEFINITE.to_bytes(), fst_m80fp)),
        _ => None,
    }
}

fn fst_m80fp(_: u16, st0: &Float80) -> Answer<[u8; 10]> {
    Answer { value: st0.to_bytes(), status: 0 }
}

fn fst_register<const POPS: u8>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let destination = c.decoded.operand[0].number;
        let x87 = &mut c.registers.extended.x87;
        let answer = x87.st(0).map(|st0| Answer { value: *st0, status: 0 });
        super::arithmetic::commit(x87, destination, C1, POPS, answer);
        Ok(())
    })
}

/// FSTP without its underflow: an empty ST(0) is popped and nothing else.
fn fstpnce(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let destination = c.decoded.operand[0].number;
        let x87 = &mut c.registers.extended.x87;
        x87.raise(0, C1, BEFORE);
        if let Some(st0) = x87.st(0).copied() {
            x87.set_st(destination, st0);
        }
        x87.pop(1);
        Ok(())
    })
}

fn fist(form: &Form<'_>) -> Option<Execute> {
    match (form.instruction.memory_size(), pops(form)) {
        (MemorySize::Int16, 0) => Some(|c| store::<_, 0>(c, 1 << 15, host::fist_m16int)),
        (MemorySize::Int16, _) => Some(|c| store::<_, 1>(c, 1 << 15, host::fist_m16int)),
        (MemorySize::Int32, 0) => Some(|c| store::<_, 0>(c, 1 << 31, host::fist_m32int)),
        (MemorySize::Int32, _) => Some(|c| store::<_, 1>(c, 1 << 31, host::fist_m32int)),
        (MemorySize::Int64, _) => Some(|c| store::<_, 1>(c, 1 << 63, host::fistp_m64int)),
        _ => None,
    }
}

fn fisttp(form: &Form<'_>) -> Option<Execute> {
    match form.instruction.memory_size() {
        MemorySize::Int16 => Some(|c| store::<_, 1>(c, 1 << 15, host::fisttp_m16int)),
        MemorySize::Int32 => Some(|c| store::<_, 1>(c, 1 << 31, host::fisttp_m32int)),
        MemorySize::Int64 => Some(|c| store::<_, 1>(c, 1 << 63, host::fisttp_m64int)),
        _ => None,
    }
}

fn fxch(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let [left, right, ..] = c.decoded.operand;
        let x87 = &mut c.registers.extended.x87;
        let (first, second) = (x87.st(left.number).copied(), x87.st(right.number).copied());
        let committed = match (first, second) {
            (Some(_), Some(_)) => x87.raise(0, C1, BEFORE),
            _ => x87.stack_fault(StackFault::Underflow),
        };
        if committed {
            x87.set_st(left.number, second.unwrap_or(INDEFINITE));
            x87.set_st(right.number, first.unwrap_or(INDEFINITE));
        }
        Ok(())
    })
}

/// Moves ST(i) to ST(0) if a condition of the integer flags holds; both must be there even if not. C1 is for
/// stack faults only.
#[inline(always)]
fn fcmov(c: &mut Context<'_>, condition: impl Fn(Rflags) -> bool) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let source = c.decoded.operand[1].number;
        let moves = condition(c.registers.rflags);
        let x87 = &mut c.registers.extended.x87;
        let answer = match (x87.st(0), x87.st(source)) {
            (Some(st0), Some(source)) => {
                Some(Answer { value: if moves { *source } else { *st0 }, status: 0 })
            }
            _ => None,
        };
        super::arithmetic::commit(x87, 0, 0, 0, answer);
        Ok(())
    })
}
