//! The host processor's own SSE arithmetic, under the target's MXCSR.
//!
//! All that one instruction computes is one `asm!` block, a *window*: it saves MXCSR, computes all blocks of
//! 128 bits under one control word or under several in turn, reads the flags, and restores the control
//! word, so that no other code runs under one that Rust does not expect. The target's exceptions are always
//! masked while the host computes; [`crate::vector::float`] decides what would have been raised.
//!
//! A change of exception flags is slow: on Intel's processors an operation after it waits some 40 to 130 ns,
//! while the rest of MXCSR changes in two. So a window *leaves all exception flags set* in the thread's
//! MXCSR, as `asm!` may, and one that is begun with them set costs no more than its operations.
//!
//! Everything here is of the x86-64 baseline, SSE2.

#![allow(unsafe_code, reason = "arithmetic on the host's own floating-point unit")]

use core::arch::asm;
use core::arch::x86_64::*;

use super::presence::detected;
use crate::model::format::Format;
use crate::model::lane::{Bits, Xmm};
use crate::model::registers::Mxcsr;

/// What kind of operation it is: which flags it can raise, and how they are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The sum or difference of two numbers.
    Sum,
    /// Their product.
    Product,
    /// Their quotient.
    Quotient,
    /// The square root of the second.
    Root,
    /// The second in a narrower format.
    Narrowing,
    /// The second in a wider format.
    Widening,
    /// The second, which is an integer.
    FromInteger,
    /// The integer near the second, or the indefinite one.
    ToInteger,
    /// The same, rounded toward zero whatever MXCSR says.
    Truncation,
    /// One of two numbers, or how they relate: nothing is rounded.
    Choice,
    /// An approximation, which raises nothing.
    Approximation,
}

/// One operation on 128 bits.
///
/// A general register or an MMX register is the low part of a 128-bit value.
pub(crate) trait HostOp {
    /// The format of the elements that it reads; for integers, the one of their size.
    type Source: Format;
    /// The format of the elements that it writes; for integers, the one of their size.
    type Target: Format;
    /// How many elements it computes: 1 for a scalar operation, which copies the others from the first
    /// operand.
    const ELEMENTS: usize;
    /// What kind it is.
    const KIND: Kind;

    /// Computes all blocks of 128 bits under the rounding, DAZ and FTZ of each of `controls` in turn, with all
    /// exceptions masked, in one window. Returns the exception flags at its end: those of all `controls`'
    /// operations and those set in the last of them.
    fn compute<B: Bits, const N: usize>(
        controls: [Mxcsr; N],
        first: &B,
        second: &B,
        results: &mut [B; N],
    ) -> Mxcsr;
}

/// What a window computes under: all exceptions are masked, and no bit is set but those that every processor with SSE2
/// has, and DAZ where the target has it.
#[inline(always)]
pub(super) fn control_word(control: Mxcsr) -> u32 {
    const KEPT: Mxcsr = Mxcsr::DAZ.union(Mxcsr::RC).union(Mxcsr::FTZ).union(Mxcsr::EXCEPTIONS);
    (control & KEPT | Mxcsr::MASKS).bits()
}

/// The begin of a window: MXCSR is `current`, and what it will be at the end is behind `host`.
macro_rules! enter {
    () => {
        "stmxcsr dword ptr [{host}]
        mov {current:e}, dword ptr [{host}]
        or dword ptr [{host}], 0x3f"
    };
}
pub(super) use enter;

/// Computes under the word of MXCSR at an address. To load the one that is there already takes longer than to compute.
macro_rules! control {
    ($address:literal) => {
        concat!(
            "cmp {current:e}, dword ptr [",
            $address,
            "]
            je 3f
            ldmxcsr dword ptr [",
            $address,
            "]
            mov {current:e}, dword ptr [",
            $address,
            "]
            3:"
        )
    };
}
pub(super) use control;

/// The end of a window: EAX has the flags, which were not read if all of them were set before.
macro_rules! leave {
    () => {
        "mov eax, {current:e}
        not eax
        test eax, 0x3f
        mov eax, 0x3f
        jz 4f
        stmxcsr dword ptr [{host} + 4]
        mov eax, dword ptr [{host} + 4]
        4:
        cmp {current:e}, dword ptr [{host}]
        je 5f
        ldmxcsr dword ptr [{host}]
        5:"
    };
}
pub(super) use leave;

/// The operations: name, the formats read and written, how many elements, the kind, and the instructions that
/// compute XMM0 of XMM0 and XMM1; they may use XMM2 to XMM4 and RAX as well.
macro_rules! host {
    ($($name:ident $source:ident -> $target:ident, $elements:literal, $kind:ident, [$($text:expr),+];)+) => {$(
        pub(crate) struct $name;

        impl HostOp for $name {
            type Source = $crate::model::format::$source;
            type Target = $crate::model::format::$target;
            const ELEMENTS: usize = $elements;
            const KIND: Kind = Kind::$kind;

            #[inline(always)]
            fn compute<B: Bits, const N: usize>(
                controls: [Mxcsr; N],
                first: &B,
                second: &B,
                results: &mut [B; N],
            ) -> Mxcsr {
                const {
                    assert!(matches!(size_of::<B>(), 16 | 32 | 64) && N >= 1 && N <= 3);
                }
                let controls = controls.map(control_word);
                let mut host = [0u32; 2];
                let flags: u32;
                // SAFETY: all blocks are within the operands and the results, and all words among the `N` controls, which
                // are such; `host` is live, and nothing else borrows it. The instructions in the middle work on registers
                // only. The control bits of MXCSR are as before when the block ends; its flags may change.
                unsafe {
                    asm!(
                        enter!(),
                        ".irp number, 0, 1, 2",
                        ".if \\number < {count}",
                        control!("{controls} + 4 * \\number"),
                        ".irp block, 0, 16, 32, 48",
                        ".if \\block < {bytes}",
                        "movups xmm0, [{first} + \\block]",
                        "movups xmm1, [{second} + \\block]",
                        $($text,)+
                        "movups [{results} + {bytes} * \\number + \\block], xmm0",
                        ".endif",
                        ".endr",
                        ".endif",
                        ".endr",
                        leave!(),
                        count = const N,
                        bytes = const size_of::<B>(),
                        host = in(reg) &raw mut host,
                        current = out(reg) _,
                        controls = in(reg) &raw const controls,
                        first = in(reg) &raw const *first,
                        second = in(reg) &raw const *second,
                        results = in(reg) &raw mut *results,
                        out("eax") flags,
                        out("xmm0") _,
                        out("xmm1") _,
                        out("xmm2") _,
                        out("xmm3") _,
                        out("xmm4") _,
                        options(nostack),
                    );
                }
                Mxcsr::from_bits_retain(flags) & Mxcsr::EXCEPTIONS
            }
        }
    )+};
}

/// One instruction on XMM0 and XMM1.
macro_rules! host_xmm {
    ($($name:ident $mnemonic:literal, $source:ident -> $target:ident, $elements:literal, $kind:ident;)+) => {
        host! {$(
            $name $source -> $target, $elements, $kind, [concat!($mnemonic, " xmm0, xmm1")];
        )+}
    };
}

/// The same with its operands written out.
macro_rules! host_approximation {
    ($($name:ident $text:literal, $format:ident, $elements:literal;)+) => {
        host! {$($name $format -> $format, $elements, Approximation, [$text];)+}
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
    Sqrtps "sqrtps", Single -> Single, 4, Root;
    Sqrtpd "sqrtpd", Double -> Double, 2, Root;
    Sqrtss "sqrtss", Single -> Single, 1, Root;
    Sqrtsd "sqrtsd", Double -> Double, 1, Root;
    Minps "minps", Single -> Single, 4, Choice;
    Minpd "minpd", Double -> Double, 2, Choice;
    Minss "minss", Single -> Single, 1, Choice;
    Minsd "minsd", Double -> Double, 1, Choice;
    Maxps "maxps", Single -> Single, 4, Choice;
    Maxpd "maxpd", Double -> Double, 2, Choice;
    Maxss "maxss", Single -> Single, 1, Choice;
    Maxsd "maxsd", Double -> Double, 1, Choice;
    Rcpps "rcpps", Single -> Single, 4, Approximation;
    Rcpss "rcpss", Single -> Single, 1, Approximation;
    Rsqrtps "rsqrtps", Single -> Single, 4, Approximation;
    Rsqrtss "rsqrtss", Single -> Single, 1, Approximation;
    Cvtdq2ps "cvtdq2ps", Single -> Single, 4, FromInteger;
    Cvtdq2pd "cvtdq2pd", Single -> Double, 2, FromInteger;
    Cvtps2dq "cvtps2dq", Single -> Single, 4, ToInteger;
    Cvttps2dq "cvtps2dq", Single -> Single, 4, Truncation;
    Cvtpd2dq "cvtpd2dq", Double -> Single, 2, ToInteger;
    Cvttpd2dq "cvtpd2dq", Double -> Single, 2, Truncation;
    Cvtps2pd "cvtps2pd", Single -> Double, 2, Widening;
    Cvtpd2ps "cvtpd2ps", Double -> Single, 2, Narrowing;
    Cvtss2sd "cvtss2sd", Single -> Double, 1, Widening;
    Cvtsd2ss "cvtsd2ss", Double -> Single, 1, Narrowing;
}

host! {
    Cvtsi2ss32 Single -> Single, 1, FromInteger, ["cvtsi2ss xmm0, dword ptr [{second} + \\block]"];
    Cvtsi2ss64 Double -> Single, 1, FromInteger, ["cvtsi2ss xmm0, qword ptr [{second} + \\block]"];
    Cvtsi2sd32 Single -> Double, 1, FromInteger, ["cvtsi2sd xmm0, dword ptr [{second} + \\block]"];
    Cvtsi2sd64 Double -> Double, 1, FromInteger, ["cvtsi2sd xmm0, qword ptr [{second} + \\block]"];
    Cvtss2si32 Single -> Single, 1, ToInteger, ["cvtss2si eax, xmm1", "movd xmm0, eax"];
    Cvtss2si64 Single -> Double, 1, ToInteger, ["cvtss2si rax, xmm1", "movq xmm0, rax"];
    Cvtsd2si32 Double -> Single, 1, ToInteger, ["cvtsd2si eax, xmm1", "movd xmm0, eax"];
    Cvtsd2si64 Double -> Double, 1, ToInteger, ["cvtsd2si rax, xmm1", "movq xmm0, rax"];
    Cvttss2si32 Single -> Single, 1, Truncation, ["cvtss2si eax, xmm1", "movd xmm0, eax"];
    Cvttss2si64 Single -> Double, 1, Truncation, ["cvtss2si rax, xmm1", "movq xmm0, rax"];
    Cvttsd2si32 Double -> Single, 1, Truncation, ["cvtsd2si eax, xmm1", "movd xmm0, eax"];
    Cvttsd2si64 Double -> Double, 1, Truncation, ["cvtsd2si rax, xmm1", "movq xmm0, rax"];
}

// Approximations of AVX-512, which [`has_approximations`] and [`has_half_approximations`] must have said to be there.
host_approximation! {
    Rcp14ps "vrcp14ps xmm0, xmm1", Single, 4;
    Rcp14pd "vrcp14pd xmm0, xmm1", Double, 2;
    Rcp14ss "vrcp14ss xmm0, xmm0, xmm1", Single, 1;
    Rcp14sd "vrcp14sd xmm0, xmm0, xmm1", Double, 1;
    Rsqrt14ps "vrsqrt14ps xmm0, xmm1", Single, 4;
    Rsqrt14pd "vrsqrt14pd xmm0, xmm1", Double, 2;
    Rsqrt14ss "vrsqrt14ss xmm0, xmm0, xmm1", Single, 1;
    Rsqrt14sd "vrsqrt14sd xmm0, xmm0, xmm1", Double, 1;
    Rcpph "vrcpph xmm0, xmm1", Half, 8;
    Rcpsh "vrcpsh xmm0, xmm0, xmm1", Half, 1;
    Rsqrtph "vrsqrtph xmm0, xmm1", Half, 8;
    Rsqrtsh "vrsqrtsh xmm0, xmm0, xmm1", Half, 1;
}

/// Whether the host has VRCP14PS and its kin.
pub(crate) fn has_approximations() -> bool {
    detected!("avx512f") && detected!("avx512vl")
}

/// Whether the host has VRCPPH and its kin.
pub(crate) fn has_half_approximations() -> bool {
    has_approximations() && detected!("avx512fp16")
}

/// Even elements are subtracted, odd ones added: zeros stand for the others meanwhile, which raise nothing.
/// `$even` makes a mask of ones that of the even elements.
macro_rules! host_addsub {
    ($($name:ident $suffix:literal, $format:ident, $elements:literal, $even:literal;)+) => {
        host! {$(
            $name $format -> $format, $elements, Sum, [
                "pcmpeqd xmm4, xmm4",
                $even,
                "movaps xmm2, xmm0",
                "movaps xmm3, xmm1",
                "andps xmm0, xmm4",
                "andps xmm1, xmm4",
                "xorps xmm2, xmm0",
                "xorps xmm3, xmm1",
                concat!("sub", $suffix, " xmm0, xmm1"),
                concat!("add", $suffix, " xmm2, xmm3"),
                "andps xmm0, xmm4",
                "orps xmm0, xmm2"
            ];
        )+}
    };
}

host_addsub! {
    Addsubps "ps", Single, 4, "psrlq xmm4, 32";
    Addsubpd "pd", Double, 2, "psrldq xmm4, 8";
}

/// The bits of an element that say how two relate: none is set if the first is greater.
pub(crate) mod relation {
    /// The first is less.
    pub(crate) const LESS: u32 = 0;
    /// They are equal.
    pub(crate) const EQUAL: u32 = 1;
    /// One is not a number.
    pub(crate) const UNORDERED: u32 = 3;
}

/// How the elements relate. "Less than" signals a quiet NaN, the others do not: what is unordered is zero when
/// it is asked for, if `$quiet`. `$shift` moves within elements, `$top` is their highest bit.
macro_rules! host_compare {
    ($($quiet:ident $signaling:ident $suffix:literal, $format:ident, $elements:literal, $shift:literal, $top:literal;)+) => {
        host! {$(
            $quiet $format -> $format, $elements, Choice, [
                "movaps xmm2, xmm0",
                concat!("cmpunord", $suffix, " xmm2, xmm1"),
                "movaps xmm3, xmm2",
                "andnps xmm3, xmm0",
                "movaps xmm4, xmm2",
                "andnps xmm4, xmm1",
                concat!("cmplt", $suffix, " xmm3, xmm4"),
                concat!("cmpeq", $suffix, " xmm0, xmm1"),
                relate!($shift, $top)
            ];
            $signaling $format -> $format, $elements, Choice, [
                "movaps xmm2, xmm0",
                concat!("cmpunord", $suffix, " xmm2, xmm1"),
                "movaps xmm3, xmm0",
                concat!("cmplt", $suffix, " xmm3, xmm1"),
                concat!("cmpeq", $suffix, " xmm0, xmm1"),
                relate!($shift, $top)
            ];
        )+}
    };
}

/// Puts bits of masks where [`relation`] says: less in XMM3, equal in XMM0, unordered in XMM2.
macro_rules! relate {
    ($shift:literal, $top:literal) => {
        concat!(
            "psrl",
            $shift,
            " xmm3, ",
            $top,
            "\n",
            "psrl",
            $shift,
            " xmm0, ",
            $top,
            "\n",
            "psll",
            $shift,
            " xmm0, 1\n",
            "psrl",
            $shift,
            " xmm2, ",
            $top,
            "\n",
            "psll",
            $shift,
            " xmm2, 3\n",
            "orps xmm0, xmm3\n",
            "orps xmm0, xmm2"
        )
    };
}

host_compare! {
    QuietCmpps SignalingCmpps "ps", Single, 4, "d", "31";
    QuietCmppd SignalingCmppd "pd", Double, 2, "q", "63";
    QuietCmpss SignalingCmpss "ss", Single, 1, "d", "31";
    QuietCmpsd SignalingCmpsd "sd", Double, 1, "q", "63";
}

/// Kinds of elements to look for.
#[derive(Clone, Copy)]
pub(crate) struct Sought {
    /// Zeros.
    pub(crate) zero: bool,
    /// Denormal numbers, and the smallest normal one.
    pub(crate) small: bool,
    /// What is above half the greatest power of two, infinities, NaNs.
    pub(crate) large: bool,
    /// NaNs.
    pub(crate) nan: bool,
}

/// Whether any of the first `count` elements of the blocks is sought, by integer arithmetic alone.
#[inline(always)]
pub(crate) fn any<F: Format, const N: usize>(sought: Sought, blocks: [&Xmm; N], count: usize) -> bool {
    let infinity = (F::MASK as u64 >> 1 >> F::FRACTION_BITS) as i32;
    // SAFETY: SSE2 is of the x86-64 baseline.
    unsafe {
        let (none, ones) = (_mm_setzero_si128(), _mm_set1_epi32(-1));
        let mut found = none;
        for block in blocks {
            let block = bytemuck::cast(*block);
            // The exponent of the next lower magnitude, in the highest 32 bits of each element: -1 of zero.
            let exponents = if F::BITS == 64 {
                let magnitudes = _mm_and_si128(block, _mm_srli_epi64::<1>(ones));
                _mm_srai_epi32::<20>(_mm_add_epi64(magnitudes, ones))
            } else {
                let magnitudes = _mm_and_si128(block, _mm_srli_epi32::<1>(ones));
                _mm_srai_epi32::<23>(_mm_add_epi32(magnitudes, ones))
            };
            if sought.zero {
                found = _mm_or_si128(found, exponents);
            }
            if sought.small {
                found = _mm_or_si128(found, _mm_cmpeq_epi32(exponents, none));
            }
            if sought.large {
                found = _mm_or_si128(found, _mm_cmpgt_epi32(exponents, _mm_set1_epi32(infinity - 2)));
            }
            if sought.nan {
                found = _mm_or_si128(found, _mm_cmpeq_epi32(exponents, _mm_set1_epi32(infinity)));
            }
        }
        highest_bits::<F>(found) & ((1 << count) - 1) != 0
    }
}

/// The highest bit of each element.
#[inline(always)]
fn highest_bits<F: Format>(block: __m128i) -> i32 {
    // SAFETY: SSE2 is of the x86-64 baseline.
    unsafe {
        if F::BITS == 64 {
            _mm_movemask_pd(_mm_castsi128_pd(block))
        } else {
            _mm_movemask_ps(_mm_castsi128_ps(block))
        }
    }
}

/// Whether any of the first `count` integers is the one that stands for those that cannot be represented.
#[inline(always)]
pub(crate) fn any_indefinite<F: Format>(block: &Xmm, count: usize) -> bool {
    let block = bytemuck::cast(*block);
    // SAFETY: SSE2 is of the x86-64 baseline.
    let equal = unsafe {
        if F::BITS == 64 {
            let halves = _mm_cmpeq_epi32(block, _mm_set1_epi64x(i64::MIN));
            _mm_and_si128(halves, _mm_slli_epi64::<32>(halves))
        } else {
            _mm_cmpeq_epi32(block, _mm_set1_epi32(i32::MIN))
        }
    };
    highest_bits::<F>(equal) & ((1 << count) - 1) != 0
}

/// Whether any of the first `count` elements differ in the lowest bit.
#[inline(always)]
pub(crate) fn any_neighbours<F: Format>(left: &Xmm, right: &Xmm, count: usize) -> bool {
    // SAFETY: SSE2 is of the x86-64 baseline.
    let lowest = unsafe {
        let differing = _mm_xor_si128(bytemuck::cast(*left), bytemuck::cast(*right));
        if F::BITS == 64 { _mm_slli_epi64::<63>(differing) } else { _mm_slli_epi32::<31>(differing) }
    };
    highest_bits::<F>(lowest) & ((1 << count) - 1) != 0
}

/// The bits of MXCSR that this processor has (SDM volume 1, section 11.6.6).
#[cfg(feature = "std")]
#[must_use]
pub(crate) fn mxcsr_mask() -> Mxcsr {
    /// What zero stands for: a processor without DAZ.
    const WITHOUT_DAZ: u32 = 0xffbf;
    #[repr(C, align(16))]
    struct Image([u8; 512]);
    let mut image = Image([0; 512]);
    // SAFETY: FXSR is of the x86-64 baseline; the image is 512 bytes and aligned to 16.
    unsafe { core::arch::x86_64::_fxsave64(image.0.as_mut_ptr()) };
    let mask = image.0[28..32].try_into().map_or(0, u32::from_le_bytes);
    Mxcsr::from_bits_retain(if mask == 0 { WITHOUT_DAZ } else { mask })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::format::Single;

    fn host_mxcsr() -> u32 {
        let mut mxcsr = 0u32;
        // SAFETY: stores MXCSR into a live 32-bit value.
        unsafe { asm!("stmxcsr dword ptr [{}]", in(reg) &raw mut mxcsr, options(nostack)) };
        mxcsr
    }

    /// One third, rounded down and up in one window, leaves the host's control bits as they were.
    #[test]
    fn the_hosts_control_bits_are_restored() {
        let before = host_mxcsr();
        let (one, three) = ([Single::ONE, 0], [u64::from(3f32.to_bits()), 0]);
        let mut results = [[0; 2]; 2];
        let controls = [1, 2].map(|rounding| Mxcsr::from_bits_retain(rounding << 13));
        let flags = Divss::compute(controls, &one, &three, &mut results);
        assert_eq!((results, flags), ([[0x3eaa_aaaa, 0], [0x3eaa_aaab, 0]], Mxcsr::PE));
        let control = |mxcsr: u32| Mxcsr::from_bits_retain(mxcsr).difference(Mxcsr::EXCEPTIONS);
        assert_eq!(control(host_mxcsr()), control(before));
    }
}
