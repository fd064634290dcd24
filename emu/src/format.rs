//! Binary floating-point formats (SDM volume 1, section 4.2.2).

use crate::vector::{Lane, Xmm};

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

    /// The exponent field of infinity.
    const HIGHEST_EXPONENT: i32 = (Self::MASK as u64 >> 1 >> Self::FRACTION_BITS) as i32;

    /// Whether any of the first `count` elements of the blocks is such.
    fn any<const N: usize>(blocks: [&Xmm; N], count: usize, is: impl Fn(Magnitude) -> bool) -> bool;
    /// Whether any of the first `count` elements differ in the lowest bit.
    fn any_differ(left: &Xmm, right: &Xmm, count: usize) -> bool;
    /// Whether any of the first `count` integers of this size is the one that stands for what is none.
    fn any_indefinite(block: &Xmm, count: usize) -> bool;

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

macro_rules! format {
    ($(#[$documentation:meta])* $name:ident $lane:ty, $signed:ty, $fraction_bits:literal, $one:literal) => {
        $(#[$documentation])*
        pub(crate) struct $name;

        impl $name {
            #[inline(always)]
            fn lanes(block: &Xmm) -> [$signed; 128 / <$lane>::BITS as usize] {
                bytemuck::cast(*block)
            }
        }

        impl Format for $name {
            type Lane = $lane;
            const BITS: u32 = <$lane>::BITS;
            const FRACTION_BITS: u32 = $fraction_bits;
            const ONE: u64 = $one;

            #[inline(always)]
            fn any<const N: usize>(blocks: [&Xmm; N], count: usize, is: impl Fn(Magnitude) -> bool) -> bool {
                let blocks = blocks.map(Self::lanes);
                (0..count).fold(false, |any, index| {
                    blocks.iter().fold(any, |any, lanes| {
                        let magnitude = lanes[index] & <$signed>::MAX;
                        any | is(Magnitude(((magnitude - 1) >> $fraction_bits) as i32))
                    })
                })
            }

            #[inline(always)]
            fn any_differ(left: &Xmm, right: &Xmm, count: usize) -> bool {
                let lanes = Self::lanes(left).into_iter().zip(Self::lanes(right));
                lanes.take(count).fold(false, |any, (left, right)| any | ((left ^ right) & 1 != 0))
            }

            #[inline(always)]
            fn any_indefinite(block: &Xmm, count: usize) -> bool {
                let lanes = Self::lanes(block);
                lanes.into_iter().take(count).fold(false, |any, lane| any | (lane == <$signed>::MIN))
            }
        }
    };
}

format!(
    /// Binary32.
    Single u32, i32, 23, 0x3f80_0000
);
format!(
    /// Binary64.
    Double u64, i64, 52, 0x3ff0_0000_0000_0000
);

/// How large an element is, as far as it matters to what it may raise: the exponent field of the next lower
/// magnitude, -1 of zero. These are the elements of a block seen with integer arithmetic, a lane each.
#[derive(Clone, Copy)]
pub(crate) struct Magnitude(i32);

impl Magnitude {
    /// Zero.
    #[inline(always)]
    pub(crate) fn is_zero(self) -> bool {
        self.0 < 0
    }

    /// Denormal, or the smallest normal number.
    #[inline(always)]
    pub(crate) fn is_small(self) -> bool {
        self.0 == 0
    }

    /// Above half the greatest power of two, infinite, or a NaN.
    #[inline(always)]
    pub(crate) fn is_large<F: Format>(self) -> bool {
        self.0 >= F::HIGHEST_EXPONENT - 1
    }

    /// A NaN.
    #[inline(always)]
    pub(crate) fn is_nan<F: Format>(self) -> bool {
        self.0 == F::HIGHEST_EXPONENT
    }
}
