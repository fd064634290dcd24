//! Values that find bugs: boundaries, and bit patterns with a meaning.

use emu::registers::Float80;

use crate::rng::Rng;

/// An integer that is interesting at a width of up to `bits`, with anything in the bits above.
pub(crate) fn integer(bits: u32, rng: &mut Rng) -> u64 {
    // One draw decides everything but the random values themselves.
    let choice = rng.u64();
    let small = choice >> 40 & 63;
    let width = match choice & 7 {
        0..5 => bits,
        5 => 8,
        6 => 16,
        _ => 32,
    }
    .clamp(1, 64);
    let mask = u64::MAX >> (64 - width);
    let sign = 1u64 << (width - 1);
    let value = match choice >> 8 & 31 {
        0 | 1 => 0,
        2 => 1,
        3 | 4 => mask,
        5 => sign,
        6 => sign - 1,
        7 => sign.wrapping_add(1),
        8 => mask.wrapping_sub(1),
        9..12 => small,
        12 => 0u64.wrapping_sub(small),
        13 | 14 => 1 << small,
        15 => (1u64 << small).wrapping_sub(1),
        16 => !(1u64 << small),
        17 => 0x0f0f_0f0f_0f0f_0f0f_u64.rotate_left(small as u32),
        18 => rng.u64() & rng.u64() & rng.u64(),
        _ => rng.u64(),
    };
    if choice >> 16 & 7 < 5 { value & mask } else { value }
}

/// 64 bits whose elements of `bits` bits are now and then interesting.
fn packed(bits: u32, rng: &mut Rng) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    let sign = 1u64 << (bits - 1);
    let (mut quad, choices) = (rng.u64(), rng.u64());
    for lane in 0..64 / bits {
        let value = match choices >> (8 * (lane & 7)) & 31 {
            0 | 1 => 0,
            2 => 1,
            3 | 4 => mask,
            5 => sign,
            6 => sign - 1,
            7 => sign + 1,
            8 => mask - 1,
            9 => quad >> (lane * bits) & 15,
            _ => continue,
        };
        quad = quad & !(mask << (lane * bits)) | (value & mask) << (lane * bits);
    }
    quad
}

/// A sign-extended number of `bits` bits.
pub(crate) fn signed(bits: u32, rng: &mut Rng) -> u64 {
    let shift = 64 - bits;
    ((integer(bits, rng) << shift) as i64 >> shift) as u64
}

/// A single-precision number.
fn single(rng: &mut Rng) -> u32 {
    const SPECIAL: [u32; 23] = [
        0x0000_0000, // zero
        0x3f80_0000, // 1
        0x3f00_0000, // 1/2
        0x3fc0_0000, // 3/2
        0x4020_0000, // 5/2
        0x0000_0001, // the smallest denormal
        0x007f_ffff, // the largest denormal
        0x0080_0000, // the smallest normal
        0x7f7f_ffff, // the largest
        0x7f80_0000, // infinity, twice as often
        0x7f80_0000,
        0x7fc0_0000, // the default NaN, positive
        0x7fc1_2345, // a quiet NaN
        0x7f80_0001, // a signalling NaN
        0x7fbf_ffff, // another
        0x4f00_0000, // 2^31
        0x4eff_ffff, // below it
        0x4f80_0000, // 2^32
        0x5f00_0000, // 2^63
        0x477f_e000, // the largest half
        0x477f_f000, // between it and overflow
        0x3380_0000, // 2^-24, the smallest half
        0x4b00_0001, // an odd integer whose neighbours are integers
    ];
    let value = match rng.below(10) {
        0..5 => rng.pick(&SPECIAL),
        5 => (rng.below(64) as f32 / 2.0).to_bits(),
        6 => (rng.below(1 << 24) as f32 * 0.125).to_bits(),
        7 => 0x3f80_0000 ^ rng.below(1 << 12) as u32,
        _ => rng.u64() as u32,
    };
    value ^ ((rng.below(2) as u32) << 31)
}

/// A double-precision number.
fn double(rng: &mut Rng) -> u64 {
    const SPECIAL: [u64; 23] = [
        0x0000_0000_0000_0000,
        0x3ff0_0000_0000_0000,
        0x3fe0_0000_0000_0000,
        0x3ff8_0000_0000_0000,
        0x4004_0000_0000_0000,
        0x0000_0000_0000_0001,
        0x000f_ffff_ffff_ffff,
        0x0010_0000_0000_0000,
        0x7fef_ffff_ffff_ffff,
        0x7ff0_0000_0000_0000,
        0x7ff0_0000_0000_0000,
        0x7ff8_0000_0000_0000,
        0x7ff8_1234_5678_9abc,
        0x7ff0_0000_0000_0001,
        0x7ff7_ffff_ffff_ffff,
        0x41e0_0000_0000_0000, // 2^31
        0x41df_ffff_ffe0_0000, // below it, between integers
        0x43e0_0000_0000_0000, // 2^63
        0x47ef_ffff_e000_0000, // the largest single
        0x47ef_ffff_f000_0000, // where it overflows
        0x36a0_0000_0000_0000, // 2^-149
        0x3690_0000_0000_0000, // half of it
        0x4330_0000_0000_0001,
    ];
    let value = match rng.below(10) {
        0..5 => rng.pick(&SPECIAL),
        5 => (rng.below(64) as f64 / 2.0).to_bits(),
        6 => (rng.below(1 << 53) as f64 * 0.125).to_bits(),
        7 => 0x3ff0_0000_0000_0000 ^ rng.below(1 << 24),
        _ => rng.u64(),
    };
    value ^ rng.below(2) << 63
}

/// A half-precision number.
fn half(rng: &mut Rng) -> u16 {
    const SPECIAL: [u16; 12] =
        [0, 0x3c00, 0x3800, 0x3e00, 0x0001, 0x03ff, 0x0400, 0x7bff, 0x7c00, 0x7e00, 0x7c01, 0x7dff];
    let value = if rng.chance(50) { rng.pick(&SPECIAL) } else { rng.u64() as u16 };
    value ^ (rng.below(2) as u16) << 15
}

/// A number of BF16.
fn brain(rng: &mut Rng) -> u16 {
    (single(rng) >> 16) as u16
}

/// A number of so many bits, the fraction's among them, that is neither large nor small: of a thousand sums of products of
/// such numbers each is one, too.
fn moderate(bits: u32, fraction_bits: u32, rng: &mut Rng) -> u64 {
    let one = (1 << (bits - 2 - fraction_bits)) - 1;
    let exponent = one - 3 + rng.below(7);
    rng.below(2) << (bits - 1) | exponent << fraction_bits | rng.u64() & ((1 << fraction_bits) - 1)
}

/// An x87 register.
pub(crate) fn extended(rng: &mut Rng) -> Float80 {
    const INTEGER: u64 = 1 << 63;
    const SPECIAL: [(u16, u64); 28] = [
        (0x0000, 0),                 // zero
        (0x3fff, INTEGER),           // 1
        (0x3ffe, INTEGER),           // 1/2
        (0x3fff, INTEGER | 1 << 62), // 3/2
        (0x0000, 1),                 // a denormal
        (0x0000, INTEGER - 1),       // the largest
        (0x0000, INTEGER),           // a pseudo-denormal
        (0x0001, INTEGER),           // the smallest normal
        (0x7ffe, u64::MAX),          // the largest
        (0x7fff, INTEGER),           // infinity, more often than others
        (0x7fff, INTEGER),
        (0x7fff, INTEGER),
        (0x7fff, INTEGER | 1 << 62),     // the default NaN, positive
        (0x7fff, INTEGER | 1 << 62 | 5), // a quiet NaN
        (0x7fff, INTEGER | 1),           // a signalling NaN
        (0x7fff, INTEGER | 7 << 40),     // another
        (0x7fff, INTEGER / 2 - 1 + INTEGER),
        (0x7fff, 1),                     // a pseudo-NaN
        (0x7fff, 0),                     // a pseudo-infinity
        (0x4000, 1 << 62),               // an unnormal
        (0x403e, INTEGER),               // 2^63
        (0x401e, INTEGER),               // 2^31
        (0x400e, INTEGER),               // 2^15
        (0x4000, 0xc90f_daa2_2168_c235), // pi
        (0x3ffe, 0xb172_17f7_d1cf_79ac), // ln 2
        (0x3fbe, INTEGER),               // 2^-65
        (0x3c00, INTEGER),               // below the smallest double
        (0x4043, u64::MAX),              // beyond what FPREM reduces in one step
    ];
    let (exponent, significand) = match rng.below(10) {
        0..5 => rng.pick(&SPECIAL),
        5 => (0x3fff + rng.below(66) as u16, INTEGER | rng.u64() & rng.u64()),
        6 | 7 => (0x3fff - rng.below(66) as u16, INTEGER | rng.u64()),
        8 => (0x3fff + rng.below(8) as u16, INTEGER | rng.below(16) << 60),
        _ => (rng.u64() as u16 & 0x7fff, rng.u64()),
    };
    Float80 { significand, sign_exponent: exponent | (rng.below(2) as u16) << 15 }
}

/// A number of which the significand is the largest, the smallest or anything.
fn fraction(bits: u32, rng: &mut Rng) -> u64 {
    let mask = u64::MAX >> (64 - bits);
    match rng.below(8) {
        0..3 => 0,
        3 => mask,
        _ => rng.u64() & mask,
    }
}

/// A biased exponent that makes results leave the range: near the largest, `largest` being that of infinity, or
/// the smallest, and now and then one whose double is near them.
fn extreme_exponent(largest: u64, rng: &mut Rng) -> u64 {
    // At the limit itself three times out of four.
    let near = rng.below(8).saturating_sub(5);
    match rng.below(16) {
        0..8 => largest - 1 - near,
        8..11 => near,
        11 | 12 => largest / 4 * 3 + near,
        13 | 14 => largest / 2 - near,
        _ => largest,
    }
}

/// One in this many numbers at the limits is zero.
const ZEROS: u64 = 12;

/// A number of `bits` bits at the limits of its format, of which the fraction has `fraction_bits`.
pub(crate) fn extreme(bits: u32, fraction_bits: u32, rng: &mut Rng) -> u64 {
    let largest = (1 << (bits - 1 - fraction_bits)) - 1;
    let sign = rng.below(2) << (bits - 1);
    if rng.below(ZEROS) == 0 {
        return sign;
    }
    sign | extreme_exponent(largest, rng) << fraction_bits | fraction(fraction_bits, rng)
}

/// An x87 register at the limits of its format, or of single or double precision.
pub(crate) fn extreme_extended(rng: &mut Rng) -> Float80 {
    /// The exponents' bias, and infinity's exponents in the three formats.
    const BIAS: u64 = 0x3fff;
    if rng.below(ZEROS) == 0 {
        return Float80 { significand: 0, sign_exponent: (rng.below(2) as u16) << 15 };
    }
    let largest = rng.pick(&[0x7fff, 0x7fff, 0x7fff, 0x7fff, 0xff, 0x7ff]);
    let exponent = BIAS - largest / 2 + extreme_exponent(largest, rng);
    let integer = u64::from(exponent != 0) << 63;
    Float80 {
        significand: integer | fraction(63, rng),
        sign_exponent: (exponent | rng.below(2) << 15) as u16,
    }
}

/// What the 64-bit parts of one vector register, or of a stretch of memory, hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lanes {
    Random,
    Integer(u32),
    Half,
    Brain,
    Single,
    Double,
    /// Numbers of so many bits, so many of them the fraction's, near one.
    Moderate(u32, u32),
    /// Numbers of so many bits, so many of them the fraction's, at the limits of their format.
    Extreme(u32, u32),
    /// Small numbers, as indices.
    Index(u32),
    /// All bits of each element set or clear.
    Mask(u32),
}

impl Lanes {
    pub(crate) fn draw(rng: &mut Rng) -> Lanes {
        match rng.below(16) {
            0..2 => Lanes::Integer(8),
            2 => Lanes::Integer(16),
            3..5 => Lanes::Integer(32),
            5 => Lanes::Integer(64),
            6..10 => Lanes::Single,
            10..14 => Lanes::Double,
            14 => Lanes::Half,
            _ => Lanes::Mask(8 << rng.below(4)),
        }
    }

    /// 64 bits of such lanes.
    pub(crate) fn quad(self, rng: &mut Rng) -> u64 {
        let repeat = |bits: u32, element: &mut dyn FnMut() -> u64| {
            let mask = u64::MAX >> (64 - bits);
            (0..64 / bits).fold(0, |quad, lane| quad | (element() & mask) << (lane * bits))
        };
        match self {
            Lanes::Random => rng.u64(),
            Lanes::Integer(bits) => packed(bits, rng),
            Lanes::Half => repeat(16, &mut || u64::from(half(rng))),
            Lanes::Brain => repeat(16, &mut || u64::from(brain(rng))),
            Lanes::Single => repeat(32, &mut || u64::from(single(rng))),
            Lanes::Moderate(bits, fraction) => repeat(bits, &mut || moderate(bits, fraction, rng)),
            Lanes::Double => double(rng),
            Lanes::Extreme(bits, fraction) => repeat(bits, &mut || extreme(bits, fraction, rng)),
            Lanes::Index(bits) => repeat(bits, &mut || rng.below(64).wrapping_sub(16)),
            Lanes::Mask(bits) => repeat(bits, &mut || 0u64.wrapping_sub(rng.below(2))),
        }
    }
}
