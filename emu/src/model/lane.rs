//! Vector registers as rows of lanes: what an instruction does to lanes is written once, for lanes or for
//! blocks of 128 bits.

use bytemuck::Pod;

use crate::model::registers::{Extended, Vector};
use crate::model::width::Width;

/// A number in a vector register: 8, 16, 32 or 64 bits, little-endian, the first lane lowest.
pub(crate) trait Lane: Pod {
    /// As many as fill 128 bits.
    type Block128: Pod;

    /// Applies `operation` to each block: 128 bits, or the 64 of an MMX register.
    fn by_blocks<B: Bits, O: Blocks<Self>>(first: &B, second: &B, immediate: u8) -> B;
}

/// An operation on the lanes of a block: those of 128 bits, or of the 64 of an MMX register.
pub(crate) trait Blocks<T: Lane> {
    /// The block of the destination.
    fn apply<const N: usize>(first: &[T; N], second: &[T; N], immediate: u8) -> [T; N];
}

/// Applies `operation` to each block of the size of `T`.
#[inline(always)]
pub(crate) fn by_blocks_of<B: Bits, T: Pod>(
    first: &B,
    second: &B,
    mut operation: impl FnMut(&T, &T) -> T,
) -> B {
    let mut result = B::default();
    let results: &mut [T] = bytemuck::cast_slice_mut(result.quadwords_mut());
    let sources =
        bytemuck::cast_slice(first.quadwords()).iter().zip(bytemuck::cast_slice(second.quadwords()));
    for (result, (first, second)) in results.iter_mut().zip(sources) {
        *result = operation(first, second);
    }
    result
}

macro_rules! lane {
    ($lane:ty, $in_64:literal, $in_128:literal) => {
        impl Lane for $lane {
            type Block128 = [Self; $in_128];

            #[inline(always)]
            fn by_blocks<B: Bits, O: Blocks<Self>>(first: &B, second: &B, immediate: u8) -> B {
                if B::BYTES == 8 {
                    by_blocks_of(first, second, |first, second| O::apply::<$in_64>(first, second, immediate))
                } else {
                    by_blocks_of(first, second, |first, second| O::apply::<$in_128>(first, second, immediate))
                }
            }
        }
    };
}

lane!(u8, 8, 16);
lane!(i8, 8, 16);
lane!(u16, 4, 8);
lane!(i16, 4, 8);
lane!(u32, 2, 4);
lane!(i32, 2, 4);
lane!(u64, 1, 2);
lane!(i64, 1, 2);

/// As many bits as an operand has: 64, 128, 256 or 512.
pub(crate) trait Bits: Pod + Default {
    /// How many bytes they are.
    const BYTES: usize;

    /// The low bits of a vector, which has no fewer.
    fn low(vector: &[u64]) -> &Self;
    /// The register of that number, if there is one: an MMX register where these are 64 bits, or the low bits of a
    /// vector register.
    fn register(extended: &Extended, number: u8) -> Option<&Self>;
    /// Little-endian quadwords.
    fn quadwords(&self) -> &[u64];
    /// Little-endian quadwords.
    fn quadwords_mut(&mut self) -> &mut [u64];
    /// Zeros above the quadword.
    fn from_low(quadword: u64) -> Self;

    /// With zeros above.
    #[inline(always)]
    fn zero_extend(&self) -> Zmm {
        let mut vector = Zmm::default();
        vector[..Self::BYTES / 8].copy_from_slice(self.quadwords());
        vector
    }

    /// The integer at `index`, counted in its own size; zero beyond the end.
    #[inline(always)]
    fn integer<W: Width>(&self, index: usize) -> W {
        let byte = index.wrapping_mul(W::BYTES);
        let quadword = self.quadwords().get(byte / 8).copied().unwrap_or(0);
        W::truncate(quadword >> (8 * (byte & 7)))
    }
    /// With another integer at `index`.
    #[inline(always)]
    fn with_integer<W: Width>(mut self, index: usize, value: W) -> Self {
        let byte = index.wrapping_mul(W::BYTES);
        let shift = 8 * (byte & 7);
        if let Some(quadword) = self.quadwords_mut().get_mut(byte / 8) {
            let mask = (!W::default()).zero_extend() << shift;
            *quadword = *quadword & !mask | value.zero_extend() << shift;
        }
        self
    }
    /// As lanes.
    #[inline(always)]
    fn lanes<T: Lane>(&self) -> &[T] {
        bytemuck::cast_slice(self.quadwords())
    }
    /// As lanes.
    #[inline(always)]
    fn lanes_mut<T: Lane>(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(self.quadwords_mut())
    }
}

macro_rules! bits {
    ($($quadwords:literal),+) => {$(
        impl Bits for [u64; $quadwords] {
            const BYTES: usize = 8 * $quadwords;

            #[inline(always)]
            fn low(vector: &[u64]) -> &Self {
                vector.first_chunk().unwrap_or(&[0; $quadwords])
            }
            #[inline(always)]
            fn register(extended: &Extended, number: u8) -> Option<&Self> {
                if $quadwords == 1 {
                    let register = extended.x87.r.get(usize::from(number))?;
                    return Some(Self::low(core::slice::from_ref(&register.significand)));
                }
                extended.vector.get(usize::from(number)).map(|register| Self::low(&register.0))
            }
            #[inline(always)]
            fn quadwords(&self) -> &[u64] {
                self
            }
            #[inline(always)]
            fn quadwords_mut(&mut self) -> &mut [u64] {
                self
            }
            #[inline(always)]
            fn from_low(quadword: u64) -> Self {
                let mut bits = [0; $quadwords];
                bits[0] = quadword;
                bits
            }
        }
    )+};
}

bits!(1, 2, 4, 8);

/// A vector of up to 512 bits, zeros above what an instruction works on.
pub(crate) type Zmm = [u64; 8];

/// 256 bits.
pub(crate) type Ymm = [u64; 4];

/// 128 bits.
pub(crate) type Xmm = [u64; 2];

/// The 64 bits of an MMX register.
pub(crate) type Mm = [u64; 1];

/// Calls a function generic over [`Bits`] with a vector of so many bytes, 16 if it is none of these sizes.
macro_rules! by_vector {
    ($bytes:expr, $($function:ident)::+ $(, <$($more:tt),+>)?) => {
        match $bytes {
            64 => $($function)::+::<$crate::model::lane::Zmm $(, $($more),+)?>,
            32 => $($function)::+::<$crate::model::lane::Ymm $(, $($more),+)?>,
            _ => $($function)::+::<$crate::model::lane::Xmm $(, $($more),+)?>,
        }
    };
}
pub(crate) use by_vector;

/// The same with 64 bits, too.
macro_rules! by_bits {
    ($bytes:expr, $($function:ident)::+ $(, <$($more:tt),+>)?) => {
        match $bytes {
            8 => $($function)::+::<$crate::model::lane::Mm $(, $($more),+)?>,
            bytes => $crate::model::lane::by_vector!(bytes, $($function)::+ $(, <$($more),+>)?),
        }
    };
}
pub(crate) use by_bits;

impl Vector {
    /// Replaces the low bits and leaves the others, as legacy SSE does.
    #[inline(always)]
    pub(crate) fn set_low<B: Bits>(&mut self, value: B) {
        let value = value.quadwords();
        if let Some(low) = self.0.get_mut(..value.len()) {
            low.copy_from_slice(value);
        }
    }
}
