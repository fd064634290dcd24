//! The host processor's own fused multiply-add, where it has it: windows as those of [`super::sse`], of three sources.

#![allow(unsafe_code, reason = "arithmetic on the host's own floating-point unit")]

use core::arch::asm;

use super::presence::detected;
use super::sse::{self, control, enter, leave};
use crate::model::lane::Bits;
use crate::model::registers::Mxcsr;

/// Which instruction computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signs {
    /// Product plus addend.
    Add,
    /// Product minus addend.
    Subtract,
    /// Addend minus product.
    NegatedAdd,
    /// Neither.
    NegatedSubtract,
    /// Odd elements add, even ones subtract.
    AddOdd,
    /// Odd elements subtract, even ones add.
    AddEven,
}

/// One operation of three sources, on a host that has it.
#[derive(Clone, Copy)]
pub(crate) struct Unit(Window);

/// Computes `bytes` bytes, 16 at a time, under each of `count` words of MXCSR in turn; the results of each follow those
/// of the one before.
///
/// # Safety
/// The host has FMA, the sources are valid for reading `bytes` bytes, a multiple of 16 and not zero, `results` for
/// writing `count` times as many, `controls` for reading `count` words, at least one. They mask all exceptions and set
/// no reserved bit.
type Window =
    unsafe fn(controls: *const u32, count: usize, sources: [*const u8; 3], results: *mut u8, bytes: usize);

macro_rules! window {
    ($mnemonic:literal) => {{
        /// # Safety
        /// As [`Window`] says.
        unsafe fn window(
            controls: *const u32,
            count: usize,
            sources: [*const u8; 3],
            results: *mut u8,
            bytes: usize,
        ) {
            let mut host = [0u32; 2];
            // SAFETY: the caller answers for the pointers and what is behind them; `host` is live, and nothing else
            // borrows it. The control bits of MXCSR are as before when the block ends; its flags may change.
            unsafe {
                asm!(
                    enter!(),
                    "2:",
                    control!("{controls}"),
                    "xor {index:e}, {index:e}",
                    "3:",
                    "vmovups xmm0, [{first} + {index}]",
                    "vmovups xmm1, [{second} + {index}]",
                    concat!($mnemonic, " xmm0, xmm1, [{third} + {index}]"),
                    "vmovups [{results} + {index}], xmm0",
                    "add {index}, 16",
                    "cmp {index}, {bytes}",
                    "jb 3b",
                    "add {results}, {bytes}",
                    "add {controls}, 4",
                    "dec {count}",
                    "jnz 2b",
                    leave!(),
                    host = in(reg) &raw mut host,
                    current = out(reg) _,
                    controls = inout(reg) controls => _,
                    count = inout(reg) count => _,
                    first = in(reg) sources[0],
                    second = in(reg) sources[1],
                    third = in(reg) sources[2],
                    results = inout(reg) results => _,
                    bytes = in(reg) bytes,
                    index = out(reg) _,
                    out("eax") _,
                    out("xmm0") _,
                    out("xmm1") _,
                    options(nostack),
                );
            }
        }
        window as Window
    }};
}

impl Unit {
    /// The first times the second, and the third, as elements of `bytes` bytes, 4 or 8, all in 128 bits or only the
    /// lowest; `None` if the host has no FMA.
    #[inline(always)]
    pub(crate) fn of(signs: Signs, bytes: usize, scalar: bool) -> Option<Unit> {
        if !detected!("fma") {
            return None;
        }
        Some(Unit(match (signs, bytes, scalar) {
            (Signs::Add, 4, false) => window!("vfmadd213ps"),
            (Signs::Subtract, 4, false) => window!("vfmsub213ps"),
            (Signs::NegatedAdd, 4, false) => window!("vfnmadd213ps"),
            (Signs::NegatedSubtract, 4, false) => window!("vfnmsub213ps"),
            (Signs::AddOdd, 4, _) => window!("vfmaddsub213ps"),
            (Signs::AddEven, 4, _) => window!("vfmsubadd213ps"),
            (Signs::Add, _, false) => window!("vfmadd213pd"),
            (Signs::Subtract, _, false) => window!("vfmsub213pd"),
            (Signs::NegatedAdd, _, false) => window!("vfnmadd213pd"),
            (Signs::NegatedSubtract, _, false) => window!("vfnmsub213pd"),
            (Signs::AddOdd, ..) => window!("vfmaddsub213pd"),
            (Signs::AddEven, ..) => window!("vfmsubadd213pd"),
            (Signs::Add, 4, true) => window!("vfmadd213ss"),
            (Signs::Subtract, 4, true) => window!("vfmsub213ss"),
            (Signs::NegatedAdd, 4, true) => window!("vfnmadd213ss"),
            (Signs::NegatedSubtract, 4, true) => window!("vfnmsub213ss"),
            (Signs::Add, _, true) => window!("vfmadd213sd"),
            (Signs::Subtract, _, true) => window!("vfmsub213sd"),
            (Signs::NegatedAdd, _, true) => window!("vfnmadd213sd"),
            (Signs::NegatedSubtract, _, true) => window!("vfnmsub213sd"),
        }))
    }

    /// Computes all blocks of 128 bits under the rounding, DAZ and FTZ of each of `controls` in turn, with all
    /// exceptions masked, in one window.
    #[inline(always)]
    pub(crate) fn compute<B: Bits, const N: usize>(
        self,
        controls: [Mxcsr; N],
        sources: [&B; 3],
        results: &mut [B; N],
    ) {
        const {
            assert!(size_of::<B>() != 0 && size_of::<B>().is_multiple_of(16) && N != 0);
        }
        let controls = controls.map(sse::control_word);
        // SAFETY: the host has FMA, or there would be no such value. The sources are as long as their type, which is so
        // many blocks, and there are `N` results and control words, which are such.
        unsafe {
            (self.0)(
                controls.as_ptr(),
                N,
                sources.map(|source| (&raw const *source).cast()),
                results.as_mut_ptr().cast(),
                size_of::<B>(),
            );
        }
    }
}
