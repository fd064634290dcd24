//! The host processor's own fused multiply-add, where it has it: windows as those of [`super::sse`], of three sources.

#![allow(unsafe_code, reason = "arithmetic on the host's own floating-point unit")]

use core::arch::asm;

use super::presence::detected;
use crate::model::lane::Zmm;
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

/// Whether the host has FMA.
pub(crate) fn is_there() -> bool {
    detected!("fma")
}

/// Computes blocks of 128 bits under a word of MXCSR, and returns the flags that are set at last.
///
/// # Safety
/// The host has FMA, the pointers are valid for so many bytes as the last argument says, a multiple of 16 and not zero,
/// and the word masks all exceptions and sets no reserved bit.
type Window = unsafe fn(u32, [*const u8; 3], *mut u8, usize) -> u32;

macro_rules! window {
    ($mnemonic:literal) => {{
        /// # Safety
        /// As [`Window`] says.
        unsafe fn window(control: u32, sources: [*const u8; 3], result: *mut u8, bytes: usize) -> u32 {
            let mut words = [0u32, control, 0];
            // SAFETY: the caller answers for the pointers; `words` is live, and nothing else borrows it. The control
            // bits of MXCSR are as before when the block ends; its flags may change.
            unsafe {
                asm!(
                    "stmxcsr dword ptr [{words}]",
                    "or dword ptr [{words}], 0x3f",
                    "ldmxcsr dword ptr [{words} + 4]",
                    "xor {index:e}, {index:e}",
                    "3:",
                    "vmovups xmm0, [{first} + {index}]",
                    "vmovups xmm1, [{second} + {index}]",
                    "vmovups xmm2, [{third} + {index}]",
                    concat!($mnemonic, " xmm0, xmm1, xmm2"),
                    "vmovups [{result} + {index}], xmm0",
                    "add {index}, 16",
                    "cmp {index}, {bytes}",
                    "jb 3b",
                    "stmxcsr dword ptr [{words} + 8]",
                    "ldmxcsr dword ptr [{words}]",
                    words = in(reg) &raw mut words,
                    first = in(reg) sources[0],
                    second = in(reg) sources[1],
                    third = in(reg) sources[2],
                    result = in(reg) result,
                    bytes = in(reg) bytes,
                    index = out(reg) _,
                    out("xmm0") _,
                    out("xmm1") _,
                    out("xmm2") _,
                    options(nostack),
                );
            }
            words[2]
        }
        window as Window
    }};
}

/// The window for elements of `bytes` bytes, 4 or 8.
fn window(signs: Signs, bytes: usize) -> Window {
    match (signs, bytes) {
        (Signs::Add, 4) => window!("vfmadd213ps"),
        (Signs::Subtract, 4) => window!("vfmsub213ps"),
        (Signs::NegatedAdd, 4) => window!("vfnmadd213ps"),
        (Signs::NegatedSubtract, 4) => window!("vfnmsub213ps"),
        (Signs::AddOdd, 4) => window!("vfmaddsub213ps"),
        (Signs::AddEven, 4) => window!("vfmsubadd213ps"),
        (Signs::Add, _) => window!("vfmadd213pd"),
        (Signs::Subtract, _) => window!("vfmsub213pd"),
        (Signs::NegatedAdd, _) => window!("vfnmadd213pd"),
        (Signs::NegatedSubtract, _) => window!("vfnmsub213pd"),
        (Signs::AddOdd, _) => window!("vfmaddsub213pd"),
        (Signs::AddEven, _) => window!("vfmsubadd213pd"),
    }
}

/// The first times the second, and the third, in the low `width` bytes, as elements of `bytes` bytes, under the
/// rounding, DAZ and FTZ of `control`; `None` if the host has no FMA.
pub(crate) fn compute(
    signs: Signs,
    bytes: usize,
    control: Mxcsr,
    sources: [&Zmm; 3],
    width: usize,
) -> Option<Zmm> {
    const KEPT: Mxcsr = Mxcsr::DAZ.union(Mxcsr::RC).union(Mxcsr::FTZ).union(Mxcsr::EXCEPTIONS);
    if !is_there() {
        return None;
    }
    let mut result = Zmm::default();
    let width = (width & !15).clamp(16, size_of::<Zmm>());
    let pointers = sources.map(|source| (&raw const *source).cast());
    // SAFETY: the host has FMA; sources and result are of 64 bytes, and `width` is 16 to 64 of them; the word has no
    // bit but those that every processor with FMA has, and the masks.
    unsafe {
        window(signs, bytes)(
            (control & KEPT | Mxcsr::MASKS).bits(),
            pointers,
            (&raw mut result).cast(),
            width,
        );
    }
    Some(result)
}
