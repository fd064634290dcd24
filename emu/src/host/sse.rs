//! The host processor's own SSE arithmetic, under the target's MXCSR.
//!
//! Each operation is one `asm!` block that saves MXCSR, loads the target's, computes, reads the flags and
//! restores, so that no other code runs under a control word that Rust does not expect. The target's
//! exceptions are always masked while the host computes; [`crate::float`] decides what would have been
//! raised.
//!
//! Everything here is of the x86-64 baseline, SSE2.

#![allow(unsafe_code, reason = "arithmetic on the host's own floating-point unit")]

use core::arch::asm;
use core::arch::x86_64::__m128i;
use std::sync::OnceLock;

use crate::float::{Format, Range};
use crate::registers::Mxcsr;

/// One operation on 128 bits.
///
/// A general register or an MMX register is the low part of a 128-bit value.
pub(crate) trait HostOp {
    /// The format of the elements that it reads; for integers, the format of the result.
    type Source: Format;
    /// The format of the elements that it writes; for integers, the format of the operands.
    type Target: Format;
    /// How many elements it computes: 1 for a scalar operation, which copies the others from `dst`.
    const ELEMENTS: usize;
    /// How a result can leave the range of its format.
    const RANGE: Range = Range::Within;

    /// Computes under the rounding, DAZ and FTZ of `control`, with all exceptions masked; returns the
    /// result and the exception flags that the operation raised.
    fn compute(dst: u128, src: u128, control: Mxcsr) -> (u128, Mxcsr);
}

#[inline(always)]
fn to_host(value: u128) -> __m128i {
    bytemuck::cast(value)
}

#[inline(always)]
fn from_host(value: __m128i) -> u128 {
    bytemuck::cast(value)
}

/// What MXCSR is while the host computes: no flags, everything masked.
#[inline(always)]
fn quiet(control: Mxcsr) -> u32 {
    (control & (Mxcsr::DAZ | Mxcsr::RC | Mxcsr::FTZ) | Mxcsr::MASKS).bits()
}

/// Runs the instructions under `control`, and evaluates to the flags that they raised. `{status}` points
/// to `control` until the last of them has run.
macro_rules! under_mxcsr {
    ($control:expr, [$($text:expr),+], $($operands:tt)+) => {{
        let mut saved = 0u32;
        let mut status = quiet($control);
        // SAFETY: the instructions work on registers only. `saved` and `status` are live 32-bit values
        // that nothing else borrows; `status` holds no reserved bit, as `quiet` keeps only the bits that
        // every processor with SSE2 has. MXCSR is as before when the block ends.
        unsafe {
            asm!(
                "stmxcsr dword ptr [{saved}]",
                "ldmxcsr dword ptr [{status}]",
                $($text,)+
                "stmxcsr dword ptr [{status}]",
                "ldmxcsr dword ptr [{saved}]",
                saved = in(reg) &raw mut saved,
                status = in(reg) &raw mut status,
                $($operands)+,
                options(nostack),
            );
        }
        Mxcsr::from_bits_retain(status) & Mxcsr::EXCEPTIONS
    }};
}

/// The operations: name, instruction, the formats read and written, how many elements, and how a result
/// can leave the range of its format.
macro_rules! host {
    ($($name:ident $source:ident -> $target:ident, $elements:literal, $range:ident,
        |$dst:ident, $src:ident, $control:ident| $compute:expr;)+) => {$(
        pub(crate) struct $name;

        impl HostOp for $name {
            type Source = $crate::float::$source;
            type Target = $crate::float::$target;
            const ELEMENTS: usize = $elements;
            const RANGE: Range = Range::$range;

            #[inline(always)]
            fn compute($dst: u128, $src: u128, $control: Mxcsr) -> (u128, Mxcsr) {
                $compute
            }
        }
    )+};
}

/// Operations on XMM registers alone.
macro_rules! host_xmm {
    ($($name:ident $text:literal, $source:ident -> $target:ident, $elements:literal, $range:ident;)+) => {
        host! {$(
            $name $source -> $target, $elements, $range,
            |dst, src, control| {
                let mut x = to_host(dst);
                let flags = under_mxcsr!(control, [concat!($text, " {x}, {s}")],
                    x = inout(xmm_reg) x, s = in(xmm_reg) to_host(src));
                (from_host(x), flags)
            };
        )+}
    };
}

/// Conversions of a general register.
macro_rules! host_from_general {
    ($($name:ident $text:literal, $general:literal -> $format:ident;)+) => {
        host! {$(
            $name $format -> $format, 1, Within,
            |dst, src, control| {
                let mut x = to_host(dst);
                let flags = under_mxcsr!(control, [concat!($text, " {x}, ", $general)],
                    x = inout(xmm_reg) x, g = in(reg) src as u64);
                (from_host(x), flags)
            };
        )+}
    };
}

/// Conversions to a general register.
macro_rules! host_to_general {
    ($($name:ident $text:literal, $format:ident -> $general:literal;)+) => {
        host! {$(
            $name $format -> $format, 1, Within,
            |_dst, src, control| {
                let general: u64;
                let flags = under_mxcsr!(control, [concat!($text, " ", $general, ", {s}")],
                    g = out(reg) general, s = in(xmm_reg) to_host(src));
                (u128::from(general), flags)
            };
        )+}
    };
}

host_xmm! {
    Addps "addps", Single -> Single, 4, Sum;
    Addpd "addpd", Double -> Double, 2, Sum;
    Addss "addss", Single -> Single, 1, Sum;
    Addsd "addsd", Double -> Double, 1, Sum;
    Subps "subps", Single -> Single, 4, Sum;
    Subpd "subpd", Double -> Double, 2, Sum;
    Subss "subss", Single -> Single, 1, Sum;
    Subsd "subsd", Double -> Double, 1, Sum;
    Mulps "mulps", Single -> Single, 4, Product;
    Mulpd "mulpd", Double -> Double, 2, Product;
    Mulss "mulss", Single -> Single, 1, Product;
    Mulsd "mulsd", Double -> Double, 1, Product;
    Divps "divps", Single -> Single, 4, Quotient;
    Divpd "divpd", Double -> Double, 2, Quotient;
    Divss "divss", Single -> Single, 1, Quotient;
    Divsd "divsd", Double -> Double, 1, Quotient;
    Sqrtps "sqrtps", Single -> Single, 4, Within;
    Sqrtpd "sqrtpd", Double -> Double, 2, Within;
    Sqrtss "sqrtss", Single -> Single, 1, Within;
    Sqrtsd "sqrtsd", Double -> Double, 1, Within;
    Minps "minps", Single -> Single, 4, Within;
    Minpd "minpd", Double -> Double, 2, Within;
    Minss "minss", Single -> Single, 1, Within;
    Minsd "minsd", Double -> Double, 1, Within;
    Maxps "maxps", Single -> Single, 4, Within;
    Maxpd "maxpd", Double -> Double, 2, Within;
    Maxss "maxss", Single -> Single, 1, Within;
    Maxsd "maxsd", Double -> Double, 1, Within;
    Rcpps "rcpps", Single -> Single, 4, Within;
    Rcpss "rcpss", Single -> Single, 1, Within;
    Rsqrtps "rsqrtps", Single -> Single, 4, Within;
    Rsqrtss "rsqrtss", Single -> Single, 1, Within;
    Cvtdq2ps "cvtdq2ps", Single -> Single, 4, Within;
    Cvtdq2pd "cvtdq2pd", Double -> Double, 2, Within;
    Cvtps2dq "cvtps2dq", Single -> Single, 4, Within;
    Cvttps2dq "cvttps2dq", Single -> Single, 4, Within;
    Cvtpd2dq "cvtpd2dq", Double -> Single, 2, Within;
    Cvttpd2dq "cvttpd2dq", Double -> Single, 2, Within;
    Cvtps2pd "cvtps2pd", Single -> Double, 2, Within;
    Cvtpd2ps "cvtpd2ps", Double -> Single, 2, Narrowing;
    Cvtss2sd "cvtss2sd", Single -> Double, 1, Within;
    Cvtsd2ss "cvtsd2ss", Double -> Single, 1, Narrowing;
}

host_from_general! {
    Cvtsi2ss32 "cvtsi2ss", "{g:e}" -> Single;
    Cvtsi2ss64 "cvtsi2ss", "{g:r}" -> Single;
    Cvtsi2sd32 "cvtsi2sd", "{g:e}" -> Double;
    Cvtsi2sd64 "cvtsi2sd", "{g:r}" -> Double;
}

host_to_general! {
    Cvtss2si32 "cvtss2si", Single -> "{g:e}";
    Cvtss2si64 "cvtss2si", Single -> "{g:r}";
    Cvttss2si32 "cvttss2si", Single -> "{g:e}";
    Cvttss2si64 "cvttss2si", Single -> "{g:r}";
    Cvtsd2si32 "cvtsd2si", Double -> "{g:e}";
    Cvtsd2si64 "cvtsd2si", Double -> "{g:r}";
    Cvttsd2si32 "cvttsd2si", Double -> "{g:e}";
    Cvttsd2si64 "cvttsd2si", Double -> "{g:r}";
}

macro_rules! host_addsub {
    ($($name:ident $add:literal, $subtract:literal, $format:ident, $elements:literal, $even:expr;)+) => {
        host! {$(
            $name $format -> $format, $elements, Sum,
            |dst, src, control| {
                const EVEN: u128 = $even;
                // Zeros where the other half of the work is done: they raise nothing.
                let (mut even, mut odd) = (to_host(dst & EVEN), to_host(dst & !EVEN));
                let flags = under_mxcsr!(control,
                    [concat!($subtract, " {even}, {even_src}"), concat!($add, " {odd}, {odd_src}")],
                    even = inout(xmm_reg) even,
                    odd = inout(xmm_reg) odd,
                    even_src = in(xmm_reg) to_host(src & EVEN),
                    odd_src = in(xmm_reg) to_host(src & !EVEN));
                (from_host(even) & EVEN | from_host(odd) & !EVEN, flags)
            };
        )+}
    };
}

host_addsub! {
    Addsubps "addps", "subps", Single, 4, 0xffff_ffff_0000_0000_ffff_ffff;
    Addsubpd "addpd", "subpd", Double, 2, 0xffff_ffff_ffff_ffff;
}

/// Even elements plus odd ones.
macro_rules! add_neighbours {
    ($suffix:literal, $even:literal, $odd:literal) => {
        concat!(
            "movaps {odd}, {sum}\n",
            concat!("shuf", $suffix, " {sum}, {sum}, ", $even, "\n"),
            concat!("shuf", $suffix, " {odd}, {odd}, ", $odd, "\n"),
            concat!("add", $suffix, " {sum}, {odd}")
        )
    };
}

/// All steps of a dot product, for where no step can hide another. The sum is in every element.
macro_rules! host_dot {
    ($($name:ident $multiply:literal, $format:ident, $elements:literal, [$($add:expr),+];)+) => {
        host! {$(
            $name $format -> $format, $elements, Within,
            |dst, src, control| {
                let mut sum = to_host(dst);
                let flags = under_mxcsr!(control, [concat!($multiply, " {sum}, {src}"), $($add),+],
                    sum = inout(xmm_reg) sum,
                    odd = out(xmm_reg) _,
                    src = in(xmm_reg) to_host(src));
                (from_host(sum), flags)
            };
        )+}
    };
}

host_dot! {
    Dotps "mulps", Single, 4, [add_neighbours!("ps", "0x88", "0xdd"), add_neighbours!("ps", "0x88", "0xdd")];
    Dotpd "mulpd", Double, 2, [add_neighbours!("pd", "0", "3")];
}

/// How the elements of two operands relate, as masks of ones and zeros: none is set where the first is
/// greater. A scalar comparison says something of the first element only.
#[derive(Clone, Copy)]
pub(crate) struct Relation {
    pub(crate) less: u128,
    pub(crate) equal: u128,
    pub(crate) unordered: u128,
}

/// Compares elements.
pub(crate) trait Compare {
    /// The format of the elements.
    type Source: Format;
    /// How many: 1 for a scalar comparison.
    const ELEMENTS: usize;

    /// Compares under `control`; returns the flags as well. A quiet NaN is invalid if `SIGNALING`.
    fn compare<const SIGNALING: bool>(left: u128, right: u128, control: Mxcsr) -> (Relation, Mxcsr);
}

macro_rules! host_compare {
    ($($name:ident $suffix:literal, $source:ident, $elements:literal;)+) => {$(
        pub(crate) struct $name;

        impl Compare for $name {
            type Source = $crate::float::$source;
            const ELEMENTS: usize = $elements;

            #[inline(always)]
            fn compare<const SIGNALING: bool>(
                left: u128,
                right: u128,
                control: Mxcsr,
            ) -> (Relation, Mxcsr) {
                let left = to_host(left);
                let (mut less, mut equal, mut unordered) = (left, left, left);
                // "Less than" signals a quiet NaN, the others do not: loading MXCSR anew forgets it.
                macro_rules! compare {
                    ($between:literal) => {
                        under_mxcsr!(control, [
                            concat!("cmplt", $suffix, " {less}, {right}"),
                            $between,
                            concat!("cmpeq", $suffix, " {equal}, {right}"),
                            concat!("cmpunord", $suffix, " {unordered}, {right}")
                        ],
                            less = inout(xmm_reg) less,
                            equal = inout(xmm_reg) equal,
                            unordered = inout(xmm_reg) unordered,
                            right = in(xmm_reg) to_host(right))
                    };
                }
                let flags =
                    if SIGNALING { compare!("") } else { compare!("ldmxcsr dword ptr [{status}]") };
                let (less, equal) = (from_host(less), from_host(equal));
                (Relation { less, equal, unordered: from_host(unordered) }, flags)
            }
        }
    )+};
}

host_compare! {
    Cmpps "ps", Single, 4;
    Cmppd "pd", Double, 2;
    Cmpss "ss", Single, 1;
    Cmpsd "sd", Double, 1;
}

/// The bits of MXCSR that this processor has (SDM volume 1, section 11.6.6).
#[must_use]
pub(crate) fn mxcsr_mask() -> Mxcsr {
    /// What zero stands for: a processor without DAZ.
    const WITHOUT_DAZ: u32 = 0xffbf;
    #[repr(C, align(16))]
    struct Image([u8; 512]);
    static MASK: OnceLock<u32> = OnceLock::new();
    let mask = *MASK.get_or_init(|| {
        let mut image = Image([0; 512]);
        // SAFETY: FXSR is of the x86-64 baseline; the image is 512 bytes and aligned to 16.
        unsafe { core::arch::x86_64::_fxsave64(image.0.as_mut_ptr()) };
        match image.0[28..32].try_into().map_or(0, u32::from_le_bytes) {
            0 => WITHOUT_DAZ,
            mask => mask,
        }
    });
    Mxcsr::from_bits_retain(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::Single;

    fn host_mxcsr() -> u32 {
        let mut mxcsr = 0u32;
        // SAFETY: stores MXCSR into a live 32-bit value.
        unsafe { asm!("stmxcsr dword ptr [{}]", in(reg) &raw mut mxcsr, options(nostack)) };
        mxcsr
    }

    /// One third, rounded up under the target's control word, leaves the host's as it was.
    #[test]
    fn the_hosts_mxcsr_is_restored() {
        let before = host_mxcsr();
        let three = 3f32.to_bits();
        let (up, flags) = Divss::compute(Single::ONE.into(), three.into(), Mxcsr::from_bits_retain(2 << 13));
        assert_eq!((up, flags), (0x3eaa_aaab, Mxcsr::PE));
        let (down, _) = Divss::compute(Single::ONE.into(), three.into(), Mxcsr::from_bits_retain(1 << 13));
        assert_eq!(down, 0x3eaa_aaaa);
        assert_eq!(host_mxcsr(), before);
    }
}
