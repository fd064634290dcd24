//! The four operand widths of the integer instructions.

use core::ops::{BitAnd, BitOr, BitXor, Not};

/// An unsigned integer of 8, 16, 32 or 64 bits.
pub(crate) trait Width:
    Copy
    + Eq
    + Ord
    + Default
    + BitAnd<Output = Self>
    + BitOr<Output = Self>
    + BitXor<Output = Self>
    + Not<Output = Self>
{
    /// In bits.
    const BITS: u32;
    /// In bytes.
    const BYTES: usize;

    /// The low bits.
    fn truncate(value: u64) -> Self;
    /// With zeros above.
    fn zero_extend(self) -> u64;
    /// With copies of the top bit above.
    fn sign_extend(self) -> u64;
    /// Wraps around.
    fn wrapping_add(self, other: Self) -> Self;
    /// Wraps around.
    fn wrapping_sub(self, other: Self) -> Self;
    /// Shifts in zeros; zero if `count` is the width or more.
    fn shift_left(self, count: u32) -> Self;
    /// Shifts in zeros; zero if `count` is the width or more.
    fn shift_right(self, count: u32) -> Self;
    /// From little-endian bytes, of which there are at least [`Width::BYTES`].
    fn from_bytes(bytes: &[u8; 8]) -> Self;

    /// The low bits of a wider value.
    fn truncate_wide(value: u128) -> Self {
        Self::truncate(value as u64)
    }
    /// The bit `index`, counted from the lowest; false if it is beyond the width.
    fn bit(self, index: u32) -> bool {
        index < Self::BITS && self.zero_extend() >> index & 1 != 0
    }
    /// The top bit.
    fn sign(self) -> bool {
        self.bit(Self::BITS - 1)
    }
    /// As a signed number.
    fn signed(self) -> i64 {
        self.sign_extend() as i64
    }
}

macro_rules! width {
    ($unsigned:ty, $signed:ty) => {
        impl Width for $unsigned {
            const BITS: u32 = <$unsigned>::BITS;
            const BYTES: usize = size_of::<$unsigned>();

            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as Self
            }
            #[inline(always)]
            fn zero_extend(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            fn wrapping_add(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
            #[inline(always)]
            fn wrapping_sub(self, other: Self) -> Self {
                self.wrapping_sub(other)
            }
            #[inline(always)]
            fn shift_left(self, count: u32) -> Self {
                self.checked_shl(count).unwrap_or(0)
            }
            #[inline(always)]
            fn shift_right(self, count: u32) -> Self {
                self.checked_shr(count).unwrap_or(0)
            }
            #[inline(always)]
            fn from_bytes(bytes: &[u8; 8]) -> Self {
                u64::from_le_bytes(*bytes) as Self
            }
        }
    };
}

width!(u8, i8);
width!(u16, i16);
width!(u32, i32);
width!(u64, i64);
