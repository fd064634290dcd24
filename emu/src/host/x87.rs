//! x87 arithmetic on the host's own unit: every rounding, NaN and exception flag is the processor's.
//!
//! Each operation runs under the target's control word, masks included, on the target's operands, and its
//! status word is read before the exceptions are cleared. An unmasked exception therefore never reaches
//! the host: it would be raised by the next waiting instruction only, and FNCLEX comes first. Empty
//! registers are the caller's business; operands here are always there.
#![allow(unsafe_code, reason = "the x87 unit has no safe interface")]

use core::arch::asm;

use crate::model::registers::{Float80, X87};
use crate::model::x87::status::CONDITION;

/// What an operation leaves: its result, and the status word with the flags that it alone has set.
#[derive(Clone, Copy)]
pub(crate) struct Answer<T = Float80> {
    pub(crate) value: T,
    pub(crate) status: u16,
}

/// The unit's state before an operation whose effect on the condition codes depends on its operands: an
/// environment as FLDENV loads it, with the target's control word and condition codes and all registers
/// empty.
#[derive(Clone, Copy)]
pub(crate) struct Environment(#[expect(dead_code, reason = "read by FLDENV")] [u32; 7]);

/// What an operation needs to know of the unit's state.
pub(crate) trait Before {
    /// From the target's.
    fn of(x87: &X87) -> Self;
}

impl Before for u16 {
    /// The control word.
    #[inline(always)]
    fn of(x87: &X87) -> u16 {
        x87.control
    }
}

impl Before for Environment {
    #[inline(always)]
    fn of(x87: &X87) -> Environment {
        const EMPTY: u32 = 0xffff;
        Environment([u32::from(x87.control), u32::from(x87.status & CONDITION), EMPTY, 0, 0, 0, 0])
    }
}

/// Runs instructions under a control word, or an environment, and returns the status word after the first
/// list; the second list stores what they left on the stack.
macro_rules! under {
    ($control:ident, $($rest:tt)*) => { under!("fldcw word ptr [{target}]", $control, $($rest)*) };
    ($load:literal, $target:ident, [$($run:expr),+], [$($store:expr),*], $($operands:tt)*) => {{
        let mut own: u16 = 0;
        let status: u16;
        // SAFETY: the register stack is empty here, which the compiler sees to as all of it is named as
        // written, and is left empty by EMMS; the control word is put back. No exception can be pending at either FLDCW,
        // the only waiting instructions besides those that run under the target's masks right after FNCLEX.
        // All pointers are to live values of at least the size accessed.
        unsafe {
            asm!(
                "fnstcw word ptr [{own}]",
                // FNCLEX is slow; mostly there is nothing to clear.
                "fnstsw ax",
                "test al, al",
                "jz 2f",
                "fnclex",
                "2:",
                $load,
                $($run,)+
                "fnstsw ax",
                "test al, al",
                "jz 3f",
                "fnclex",
                "3:",
                $($store,)*
                "emms",
                "fldcw word ptr [{own}]",
                own = in(reg) &raw mut own,
                target = in(reg) &raw const $target,
                $($operands)*
                out("ax") status,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
                options(nostack),
            );
        }
        status
    }};
}

/// An operation on two registers, or on ST(0) and a number in memory.
pub(crate) trait Binary {
    /// `left` is the destination: Fsub is left - right, Fsubr is right - left.
    fn registers(control: u16, left: &Float80, right: &Float80) -> Answer;
    /// With single precision in memory.
    fn m32fp(control: u16, left: &Float80, right: u32) -> Answer;
    /// With double precision in memory.
    fn m64fp(control: u16, left: &Float80, right: u64) -> Answer;
    /// With a word integer in memory.
    fn m16int(control: u16, left: &Float80, right: u16) -> Answer;
    /// With a doubleword integer in memory.
    fn m32int(control: u16, left: &Float80, right: u32) -> Answer;
}

macro_rules! binary {
    ($($name:ident: $float:literal, $integer:literal;)+) => { $(
        #[doc = concat!($float, " and ", $integer, ".")]
        pub(crate) struct $name;

        impl Binary for $name {
            #[inline]
            fn registers(control: u16, left: &Float80, right: &Float80) -> Answer {
                let mut value = Float80::default();
                let status = under!(
                    control,
                    ["fld tbyte ptr [{right}]", "fld tbyte ptr [{left}]", concat!($float, " st(1)")],
                    ["fstp tbyte ptr [{value}]"],
                    left = in(reg) left, right = in(reg) right, value = in(reg) &raw mut value,
                );
                Answer { value, status }
            }
            binary!(m32fp, u32, $float, "dword");
            binary!(m64fp, u64, $float, "qword");
            binary!(m16int, u16, $integer, "word");
            binary!(m32int, u32, $integer, "dword");
        }
    )+ };
    ($form:ident, $bits:ty, $operation:literal, $size:literal) => {
        #[inline]
        fn $form(control: u16, left: &Float80, right: $bits) -> Answer {
            let mut value = Float80::default();
            let status = under!(
                control,
                ["fld tbyte ptr [{left}]", concat!($operation, " ", $size, " ptr [{right}]")],
                ["fstp tbyte ptr [{value}]"],
                left = in(reg) left, right = in(reg) &raw const right, value = in(reg) &raw mut value,
            );
            Answer { value, status }
        }
    };
}

binary! {
    Fadd: "fadd", "fiadd";
    Fmul: "fmul", "fimul";
    Fsub: "fsub", "fisub";
    Fsubr: "fsubr", "fisubr";
    Fdiv: "fdiv", "fidiv";
    Fdivr: "fdivr", "fidivr";
    // These two leave ST(0) as it is; what counts is the status.
    Fcom: "fcom", "ficom";
}

/// Functions of ST(0), or of ST(0) and ST(1), to ST(0).
macro_rules! functions {
    ($load:literal, $before:ident: $type:ty, $($name:ident($($operand:ident),+): [$($push:literal),+];)+) => { $(
        #[doc = concat!(stringify!($name), ".")]
        #[inline]
        pub(crate) fn $name($before: $type, $($operand: &Float80),+) -> Answer {
            let mut value = Float80::default();
            let status = under!(
                $load,
                $before,
                [$($push,)+ stringify!($name)],
                ["fstp tbyte ptr [{value}]"],
                $($operand = in(reg) $operand,)+ value = in(reg) &raw mut value,
            );
            Answer { value, status }
        }
    )+ };
}

functions! { "fldcw word ptr [{target}]", control: u16,
    fsqrt(st0): ["fld tbyte ptr [{st0}]"];
    frndint(st0): ["fld tbyte ptr [{st0}]"];
    f2xm1(st0): ["fld tbyte ptr [{st0}]"];
    ftst(st0): ["fld tbyte ptr [{st0}]"];
    fxam(st0): ["fld tbyte ptr [{st0}]"];
    fscale(st0, st1): ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]"];
    fyl2x(st0, st1): ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]"];
    fyl2xp1(st0, st1): ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]"];
    fpatan(st0, st1): ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]"];
}

functions! { "fldenv [{target}]", environment: Environment,
    fsin(st0): ["fld tbyte ptr [{st0}]"];
    fcos(st0): ["fld tbyte ptr [{st0}]"];
    fprem(st0, st1): ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]"];
    fprem1(st0, st1): ["fld tbyte ptr [{st1}]", "fld tbyte ptr [{st0}]"];
}

/// FUCOM of ST(0) with another register.
#[inline]
pub(crate) fn fucom(control: u16, left: &Float80, right: &Float80) -> Answer {
    let status = under!(
        control,
        ["fld tbyte ptr [{right}]", "fld tbyte ptr [{left}]", "fucom st(1)"],
        [],
        left = in(reg) left, right = in(reg) right,
    );
    Answer { value: *left, status }
}

/// Functions of ST(0) that replace it and push a second result, unless C2 says that they did nothing.
macro_rules! pushing {
    ($($name:ident)+) => { $(
        #[doc = concat!(stringify!($name), ": what ST(1) and ST(0) are afterwards.")]
        #[inline]
        pub(crate) fn $name(environment: Environment, st0: &Float80) -> Answer<[Float80; 2]> {
            let mut value = [Float80::default(); 2];
            let [below, pushed] = &mut value;
            let status = under!(
                "fldenv [{target}]",
                environment,
                // Should nothing be pushed, the zero below is there to be popped.
                ["fldz", "fld tbyte ptr [{st0}]", stringify!($name)],
                ["fstp tbyte ptr [{pushed}]", "fstp tbyte ptr [{below}]"],
                st0 = in(reg) st0, below = in(reg) &raw mut *below, pushed = in(reg) &raw mut *pushed,
            );
            Answer { value, status }
        }
    )+ };
}

pushing! { fptan fsincos fxtract }

/// Constants, rounded as the control word says.
macro_rules! constants {
    ($($name:ident)+) => { $(
        #[doc = concat!(stringify!($name), ".")]
        #[inline]
        pub(crate) fn $name(control: u16) -> Answer {
            let mut value = Float80::default();
            let status = under!(
                control, [stringify!($name)], ["fstp tbyte ptr [{value}]"],
                value = in(reg) &raw mut value,
            );
            Answer { value, status }
        }
    )+ };
}

constants! { fld1 fldl2t fldl2e fldpi fldlg2 fldln2 fldz }

/// Conversions from memory.
macro_rules! loads {
    ($($name:ident($bits:ty): $instruction:literal;)+) => { $(
        #[doc = concat!($instruction, ".")]
        #[inline]
        pub(crate) fn $name(control: u16, bits: $bits) -> Answer {
            let mut value = Float80::default();
            let status = under!(
                control,
                // Should an unmasked exception keep it from being pushed, the zero below is stored.
                ["fldz", concat!($instruction, " ptr [{bits}]")],
                ["fstp tbyte ptr [{value}]"],
                bits = in(reg) &raw const bits, value = in(reg) &raw mut value,
            );
            Answer { value, status }
        }
    )+ };
}

loads! {
    fld_m32fp(u32): "fld dword";
    fld_m64fp(u64): "fld qword";
    fild_m16int(u16): "fild word";
    fild_m32int(u32): "fild dword";
    fild_m64int(u64): "fild qword";
    fbld_m80bcd([u8; 10]): "fbld tbyte";
}

/// Conversions to memory. An unmasked exception other than precision has stored nothing.
macro_rules! stores {
    ($($name:ident($bits:ty): $instruction:literal;)+) => { $(
        #[doc = concat!($instruction, ".")]
        #[inline]
        pub(crate) fn $name(control: u16, st0: &Float80) -> Answer<$bits> {
            let mut value: $bits = Default::default();
            let status = under!(
                control, ["fld tbyte ptr [{st0}]", concat!($instruction, " ptr [{value}]")], [],
                st0 = in(reg) st0, value = in(reg) &raw mut value,
            );
            Answer { value, status }
        }
    )+ };
}

stores! {
    fst_m32fp(u32): "fst dword";
    fst_m64fp(u64): "fst qword";
    fist_m16int(u16): "fist word";
    fist_m32int(u32): "fist dword";
    fistp_m64int(u64): "fistp qword";
    fisttp_m16int(u16): "fisttp word";
    fisttp_m32int(u32): "fisttp dword";
    fisttp_m64int(u64): "fisttp qword";
    fbstp_m80bcd([u8; 10]): "fbstp tbyte";
}
