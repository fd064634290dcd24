//! Binary floating-point formats (SDM volume 1, section 4.2.2).

use crate::model::lane::Lane;

/// A binary floating-point format.
pub(crate) trait Format {
    /// The bits as a lane.
    type Lane: Lane;
    /// Of an element.
    const BITS: u32;
    /// Of the fraction; the significand has one more.
    const FRACTION_BITS: u32;
    /// 1.0.
    const ONE: u64;

    /// A mask of the first element of 128 bits.
    const MASK: u128 = (1 << Self::BITS) - 1;
    /// The lowest bit of each element of 128 bits.
    const LOWEST_BITS: u128 = u128::MAX / Self::MASK;

    /// Element `index` of 128 bits.
    #[inline(always)]
    fn element(value: u128, index: usize) -> u64 {
        (value >> ((index as u32 * Self::BITS) & 127) & Self::MASK) as u64
    }

    /// Nonzero, and below the normal range.
    #[inline(always)]
    fn is_denormal(element: u64) -> bool {
        let magnitude = element & (Self::MASK as u64 >> 1);
        magnitude != 0 && magnitude >> Self::FRACTION_BITS == 0
    }

    /// The significand as an integer and the exponent of its lowest bit, of a finite number.
    fn decompose(element: u64) -> (u64, i32) {
        let fraction = element & ((1 << Self::FRACTION_BITS) - 1);
        let exponent = ((element & (Self::MASK as u64 >> 1)) >> Self::FRACTION_BITS) as i32;
        if exponent == 0 { (fraction, 1) } else { (fraction | 1 << Self::FRACTION_BITS, exponent) }
    }
}

/// Binary16.
pub(crate) struct Half;
/// BF16: binary32 without the low half of its bits.
pub(crate) struct Brain;
/// Binary32.
pub(crate) struct Single;
/// Binary64.
pub(crate) struct Double;

impl Format for Half {
    type Lane = u16;
    const BITS: u32 = 16;
    const FRACTION_BITS: u32 = 10;
    const ONE: u64 = 0x3c00;
}

impl Format for Brain {
    type Lane = u16;
    const BITS: u32 = 16;
    const FRACTION_BITS: u32 = 7;
    const ONE: u64 = 0x3f80;
}

impl Format for Single {
    type Lane = u32;
    const BITS: u32 = 32;
    const FRACTION_BITS: u32 = 23;
    const ONE: u64 = 0x3f80_0000;
}

impl Format for Double {
    type Lane = u64;
    const BITS: u32 = 64;
    const FRACTION_BITS: u32 = 52;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
}
