//! Instructions that a host may have or lack, cryptographic ones above all.
#![allow(unsafe_code, reason = "calls the host's instructions once their presence is known")]

use core::arch::x86_64::*;

use super::portable;
use super::presence::detected;

/// Declares a function that asks the host for its instruction and falls back on the portable one.
macro_rules! hosted {
    ($(#[$documentation:meta])* $name:ident($($argument:ident: $of:ty),+) -> $result:ty,
        $feature:tt, |$($vector:ident),+| $intrinsic:expr) => {
        $(#[$documentation])*
        #[inline]
        pub(crate) fn $name($($argument: &$of),+) -> $result {
            #[target_feature(enable = $feature)]
            fn on_host($($argument: &$of),+) -> $result {
                $(let $vector: __m128i = bytemuck::cast(*$argument);)+
                bytemuck::cast($intrinsic)
            }
            if detected!($feature) {
                // SAFETY: the host has the feature.
                unsafe { on_host($($argument),+) }
            } else {
                portable::$name($(*$argument),+)
            }
        }
    };
}

type Bytes = [u8; 16];
type Words = [u32; 4];
type Quadwords = [u64; 2];

hosted!(
    /// PSHUFB.
    pshufb(table: Bytes, control: Bytes) -> Bytes, "ssse3", |a, b| _mm_shuffle_epi8(a, b)
);
hosted!(
    /// AESENC: a round of encryption.
    aesenc(state: Bytes, key: Bytes) -> Bytes, "aes", |a, b| _mm_aesenc_si128(a, b)
);
hosted!(
    /// AESENCLAST: the last round.
    aesenclast(state: Bytes, key: Bytes) -> Bytes, "aes", |a, b| _mm_aesenclast_si128(a, b)
);
hosted!(
    /// AESDEC: a round of decryption.
    aesdec(state: Bytes, key: Bytes) -> Bytes, "aes", |a, b| _mm_aesdec_si128(a, b)
);
hosted!(
    /// AESDECLAST: the last round.
    aesdeclast(state: Bytes, key: Bytes) -> Bytes, "aes", |a, b| _mm_aesdeclast_si128(a, b)
);
hosted!(
    /// AESIMC: the inverse of mixing columns.
    aesimc(state: Bytes) -> Bytes, "aes", |a| _mm_aesimc_si128(a)
);
hosted!(
    /// AESKEYGENASSIST with a round constant of zero.
    aeskeygenassist(source: Words) -> Words, "aes", |a| _mm_aeskeygenassist_si128::<0>(a)
);
hosted!(
    /// SHA1NEXTE.
    sha1nexte(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1nexte_epu32(a, b)
);
hosted!(
    /// SHA1MSG1.
    sha1msg1(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1msg1_epu32(a, b)
);
hosted!(
    /// SHA1MSG2.
    sha1msg2(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1msg2_epu32(a, b)
);
hosted!(
    /// SHA1RNDS4 with an immediate of 0.
    sha1rnds4_0(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1rnds4_epu32::<0>(a, b)
);
hosted!(
    /// SHA1RNDS4 with an immediate of 1.
    sha1rnds4_1(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1rnds4_epu32::<1>(a, b)
);
hosted!(
    /// SHA1RNDS4 with an immediate of 2.
    sha1rnds4_2(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1rnds4_epu32::<2>(a, b)
);
hosted!(
    /// SHA1RNDS4 with an immediate of 3.
    sha1rnds4_3(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha1rnds4_epu32::<3>(a, b)
);
hosted!(
    /// SHA256MSG1.
    sha256msg1(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha256msg1_epu32(a, b)
);
hosted!(
    /// SHA256MSG2.
    sha256msg2(first: Words, second: Words) -> Words, "sha", |a, b| _mm_sha256msg2_epu32(a, b)
);
hosted!(
    /// SHA256RNDS2; the third argument is XMM0.
    sha256rnds2(first: Words, second: Words, words: Words) -> Words, "sha",
    |a, b, c| _mm_sha256rnds2_epu32(a, b, c)
);
hosted!(
    /// PCLMULQDQ of the low quadwords.
    pclmulqdq(left: Quadwords, right: Quadwords) -> Quadwords, "pclmulqdq",
    |a, b| _mm_clmulepi64_si128::<0>(a, b)
);
hosted!(
    /// GF2P8MULB.
    gf2p8mulb(left: Bytes, right: Bytes) -> Bytes, "gfni", |a, b| _mm_gf2p8mul_epi8(a, b)
);
hosted!(
    /// GF2P8AFFINEQB with a constant of zero.
    gf2p8affineqb(bytes: Bytes, matrix: Quadwords) -> Bytes, "gfni",
    |a, b| _mm_gf2p8affine_epi64_epi8::<0>(a, b)
);
hosted!(
    /// GF2P8AFFINEINVQB with a constant of zero.
    gf2p8affineinvqb(bytes: Bytes, matrix: Quadwords) -> Bytes, "gfni",
    |a, b| _mm_gf2p8affineinv_epi64_epi8::<0>(a, b)
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
