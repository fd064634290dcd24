//! Instructions that a host may have or lack, cryptographic ones above all.
#![allow(unsafe_code, reason = "executes the host's instructions once their presence is known")]

use core::arch::asm;
use core::arch::x86_64::__m128i;

use super::portable;
use super::presence::detected;

/// Declares a function that asks the host for its instruction and falls back on the portable one. A third argument is
/// in XMM0.
macro_rules! hosted {
    ($(#[$documentation:meta])* $name:ident($first:ident: $of:ty $(, $second:ident: $also:ty $(, $third:ident: $last:ty)?)?)
        -> $result:ty, $feature:tt, $text:literal) => {
        $(#[$documentation])*
        #[inline]
        pub(crate) fn $name($first: &$of $(, $second: &$also $(, $third: &$last)?)?) -> $result {
            if !detected!($feature) {
                return portable::$name(*$first $(, *$second $(, *$third)?)?);
            }
            let mut result: __m128i = bytemuck::cast(*$first);
            // SAFETY: the host has the feature, and the instruction works on these registers only.
            unsafe {
                asm!(
                    $text,
                    inout(xmm_reg) result
                    $(, in(xmm_reg) bytemuck::cast::<_, __m128i>(*$second)
                    $(, in("xmm0") bytemuck::cast::<_, __m128i>(*$third))?)?,
                    options(pure, nomem, nostack, preserves_flags)
                );
            }
            bytemuck::cast(result)
        }
    };
}

type Bytes = [u8; 16];
type Words = [u32; 4];
type Quadwords = [u64; 2];

hosted!(
    /// PSHUFB.
    pshufb(table: Bytes, control: Bytes) -> Bytes, "ssse3", "pshufb {0}, {1}"
);
hosted!(
    /// AESENC: a round of encryption.
    aesenc(state: Bytes, key: Bytes) -> Bytes, "aes", "aesenc {0}, {1}"
);
hosted!(
    /// AESENCLAST: the last round.
    aesenclast(state: Bytes, key: Bytes) -> Bytes, "aes", "aesenclast {0}, {1}"
);
hosted!(
    /// AESDEC: a round of decryption.
    aesdec(state: Bytes, key: Bytes) -> Bytes, "aes", "aesdec {0}, {1}"
);
hosted!(
    /// AESDECLAST: the last round.
    aesdeclast(state: Bytes, key: Bytes) -> Bytes, "aes", "aesdeclast {0}, {1}"
);
hosted!(
    /// AESIMC: the inverse of mixing columns.
    aesimc(state: Bytes) -> Bytes, "aes", "aesimc {0}, {0}"
);
hosted!(
    /// AESKEYGENASSIST with a round constant of zero.
    aeskeygenassist(source: Words) -> Words, "aes", "aeskeygenassist {0}, {0}, 0"
);
hosted!(
    /// SHA1NEXTE.
    sha1nexte(first: Words, second: Words) -> Words, "sha", "sha1nexte {0}, {1}"
);
hosted!(
    /// SHA1MSG1.
    sha1msg1(first: Words, second: Words) -> Words, "sha", "sha1msg1 {0}, {1}"
);
hosted!(
    /// SHA1MSG2.
    sha1msg2(first: Words, second: Words) -> Words, "sha", "sha1msg2 {0}, {1}"
);
hosted!(
    /// SHA1RNDS4 with an immediate of 0.
    sha1rnds4_0(first: Words, second: Words) -> Words, "sha", "sha1rnds4 {0}, {1}, 0"
);
hosted!(
    /// SHA1RNDS4 with an immediate of 1.
    sha1rnds4_1(first: Words, second: Words) -> Words, "sha", "sha1rnds4 {0}, {1}, 1"
);
hosted!(
    /// SHA1RNDS4 with an immediate of 2.
    sha1rnds4_2(first: Words, second: Words) -> Words, "sha", "sha1rnds4 {0}, {1}, 2"
);
hosted!(
    /// SHA1RNDS4 with an immediate of 3.
    sha1rnds4_3(first: Words, second: Words) -> Words, "sha", "sha1rnds4 {0}, {1}, 3"
);
hosted!(
    /// SHA256MSG1.
    sha256msg1(first: Words, second: Words) -> Words, "sha", "sha256msg1 {0}, {1}"
);
hosted!(
    /// SHA256MSG2.
    sha256msg2(first: Words, second: Words) -> Words, "sha", "sha256msg2 {0}, {1}"
);
hosted!(
    /// SHA256RNDS2; the third argument is XMM0.
    sha256rnds2(first: Words, second: Words, words: Words) -> Words, "sha", "sha256rnds2 {0}, {1}"
);
hosted!(
    /// PCLMULQDQ of the low quadwords.
    pclmulqdq(left: Quadwords, right: Quadwords) -> Quadwords, "pclmulqdq", "pclmulqdq {0}, {1}, 0"
);
hosted!(
    /// GF2P8MULB.
    gf2p8mulb(left: Bytes, right: Bytes) -> Bytes, "gfni", "gf2p8mulb {0}, {1}"
);
hosted!(
    /// GF2P8AFFINEQB with a constant of zero.
    gf2p8affineqb(bytes: Bytes, matrix: Quadwords) -> Bytes, "gfni", "gf2p8affineqb {0}, {1}, 0"
);
hosted!(
    /// GF2P8AFFINEINVQB with a constant of zero.
    gf2p8affineinvqb(bytes: Bytes, matrix: Quadwords) -> Bytes, "gfni", "gf2p8affineinvqb {0}, {1}, 0"
);

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that look random, different for each seed.
    fn bytes(seed: u64) -> Bytes {
        let mut state = seed;
        core::array::from_fn(|_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 56) as u8
        })
    }

    /// Asserts that host and portable functions agree, where the host has the instruction.
    macro_rules! agree {
        ($feature:tt, $($name:ident($($argument:ident),+)),+) => {
            if detected!($feature) {
                for seed in 0..1000u64 {
                    let mut next = 3 * seed;
                    $({
                        $(next += 1; let $argument = bytemuck::cast(bytes(next));)+
                        assert_eq!($name($(&$argument),+), portable::$name($($argument),+), "{}", stringify!($name));
                    })+
                }
            } else {
                println!("skipped: this processor has no {}", $feature);
            }
        };
    }

    #[test]
    fn shuffle() {
        agree!("ssse3", pshufb(a, b));
    }

    #[test]
    fn aes() {
        agree!("aes", aesenc(a, b), aesenclast(a, b), aesdec(a, b), aesdeclast(a, b), aesimc(a));
        agree!("aes", aeskeygenassist(a));
    }

    #[test]
    fn sha() {
        agree!("sha", sha1nexte(a, b), sha1msg1(a, b), sha1msg2(a, b), sha256msg1(a, b), sha256msg2(a, b));
        agree!("sha", sha1rnds4_0(a, b), sha1rnds4_1(a, b), sha1rnds4_2(a, b), sha1rnds4_3(a, b));
        agree!("sha", sha256rnds2(a, b, c));
    }

    #[test]
    fn pclmulqdq_and_gfni() {
        agree!("pclmulqdq", pclmulqdq(a, b));
        agree!("gfni", gf2p8mulb(a, b), gf2p8affineqb(a, b), gf2p8affineinvqb(a, b));
    }

    /// AES's S-box is GFNI's affine transformation of the inverse: a check where the host has AES alone.
    #[test]
    fn the_s_box_is_an_affine_transformation_of_the_inverse() {
        let matrix = [0xf1e3_c78f_1f3e_7cf8; 2];
        for byte in 0..=255 {
            let expected = portable::aesenclast([byte; 16], [0; 16]);
            let result = portable::gf2p8affineinvqb([byte; 16], matrix).map(|byte| byte ^ 0x63);
            assert_eq!(result, expected, "{byte:#x}");
        }
    }

    /// Each element but zero times its inverse is one.
    #[test]
    fn inverses_are_inverses() {
        let identity = [0x0102_0408_1020_4080; 2];
        for byte in 1..=255 {
            let inverse = portable::gf2p8affineinvqb([byte; 16], identity);
            assert_eq!(portable::gf2p8mulb([byte; 16], inverse), [1; 16], "{byte:#x}");
        }
    }
}
