//! The state that a seed stands for. The draws and their order are part of the format, which
//! `vectors/README.md` describes: a change here makes every file mean something else.

use super::image::{RegisterImage, offset};
use crate::rng::Rng;

/// What vector lanes and memory are filled with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fill {
    /// Integers of 8 bits.
    I8,
    /// Integers of 16 bits.
    I16,
    /// Integers of 32 bits.
    I32,
    /// Integers of 64 bits.
    I64,
    /// Half-precision numbers.
    F16,
    /// Numbers of the bfloat16 format.
    Bf16,
    /// Single-precision numbers.
    F32,
    /// Double-precision numbers.
    F64,
}

impl Fill {
    /// All, by number.
    pub const ALL: [Fill; 8] =
        [Fill::I8, Fill::I16, Fill::I32, Fill::I64, Fill::F16, Fill::Bf16, Fill::F32, Fill::F64];

    /// The fill of that number.
    #[must_use]
    pub fn of(number: u8) -> Option<Fill> {
        Fill::ALL.get(usize::from(number)).copied()
    }
}

/// The value of RIP before any patch, in files that do not say another.
pub const CODE: u64 = 0x2000_0800;
/// Linux starts a process with this PKRU.
const PKRU: u32 = 0x5555_5554;
/// The base of GS before any patch.
const GS_BASE: u64 = 0x1000;
/// CS and SS as Linux has them in 64-bit user mode.
const SELECTORS: [(usize, u16); 2] = [(1, 0x33), (2, 0x2b)];

/// The generator of one case: what of its stream is left once the registers have been drawn fills memory.
#[derive(Clone, Debug)]
pub struct Lanes {
    rng: Rng,
    fill: Fill,
    pool: [u64; 8],
}

/// Draws the registers of a case, which lies at `ip`.
#[must_use]
pub fn registers(seed: u32, fill: Fill, ip: u64, image: &mut RegisterImage) -> Lanes {
    let rng = &mut Rng::new(u64::from(seed));
    image.0.fill(0);
    for number in 0..16 {
        let value = match rng.u64() % 4 {
            0 => integer::<64>(rng),
            1 => rng.u64() & 0xffff,
            2 => rng.u64() & 0xffff_ffff,
            _ => rng.u64(),
        };
        image.put(offset::GPR + 8 * number, &value.to_le_bytes());
    }
    image.put(offset::RFLAGS, &(0x202 | rng.u64() & 0x8d5).to_le_bytes());
    image.put(offset::RIP, &ip.to_le_bytes());
    let r = rng.u64();
    let mxcsr = match r % 16 {
        0..=5 => 0x1f80,
        6..=10 => 0x1f80 | (r >> 8) & 0xe040,
        11 | 12 => 0x1f80 | (r >> 8) & 0xe07f,
        _ => (r >> 8) & 0xffff,
    };
    image.put(offset::MXCSR, &(mxcsr as u32).to_le_bytes());
    image.put(offset::PKRU, &PKRU.to_le_bytes());
    image.put(offset::GS_BASE, &GS_BASE.to_le_bytes());
    for (number, selector) in SELECTORS {
        image.put(offset::SELECTORS + 2 * number, &selector.to_le_bytes());
    }
    for number in 0..8 {
        image.put(offset::OPMASK + 8 * number, &opmask(rng).to_le_bytes());
    }
    x87(image, rng);
    let pool = std::array::from_fn(|_| fresh(fill, rng));
    let mut lanes = Lanes { rng: rng.clone(), fill, pool };
    lanes.fill(&mut image.0[offset::ZMM..offset::TILES]);
    lanes
}

impl Lanes {
    /// Fills `bytes`, which are a multiple of eight.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        match self.fill {
            Fill::I8 => self.lanes::<1>(bytes, integer::<8>),
            Fill::I16 => self.lanes::<2>(bytes, integer::<16>),
            Fill::I32 => self.lanes::<4>(bytes, integer::<32>),
            Fill::I64 => self.lanes::<8>(bytes, integer::<64>),
            Fill::F16 => self.lanes::<2>(bytes, float::<16, 10>),
            Fill::Bf16 => self.lanes::<2>(bytes, float::<16, 7>),
            Fill::F32 => self.lanes::<4>(bytes, float::<32, 23>),
            Fill::F64 => self.lanes::<8>(bytes, float::<64, 52>),
        }
    }

    #[inline(always)]
    fn lanes<const BYTES: usize>(&mut self, bytes: &mut [u8], fresh: impl Fn(&mut Rng) -> u64) {
        let (places, _) = bytes.as_chunks_mut::<BYTES>();
        for place in places {
            let r = self.rng.u64();
            let old = self.pool[(r >> 8 & 7) as usize];
            let value = match r & 7 {
                0 => old,
                1 => old ^ 1 << (8 * BYTES - 1),
                2 => old.wrapping_add((r >> 16) % 5).wrapping_sub(2),
                _ => fresh(&mut self.rng),
            };
            place.copy_from_slice(&value.to_le_bytes()[..BYTES]);
        }
    }
}

fn opmask(rng: &mut Rng) -> u64 {
    let r = rng.u64();
    let (a, b, q) = (rng.u64(), rng.u64(), r >> 8);
    match r % 8 {
        0 => 0,
        1 => !0,
        2 => a,
        3 => a & b,
        4 => a | b,
        5 => 1 << (q % 64) | 1 << (q >> 8 & 15),
        6 => (1 << (q % 64)) - 1,
        _ => a & 0xff,
    }
}

fn x87(image: &mut RegisterImage, rng: &mut Rng) {
    let r = rng.u64();
    let control = match r % 8 {
        0..=3 => 0x37f,
        4 | 5 => 0x7f | (r >> 8) & 0xf00,
        _ => 0x40 | (r >> 8) & 0xf3f,
    };
    let status = r >> 24 & 0x7f00 | r >> 40 & 0x7f & control;
    image.put(offset::FCW, &(control as u16).to_le_bytes());
    image.put(offset::FSW, &(status as u16).to_le_bytes());
    image.put(offset::FTW, &[if r >> 60 < 8 { 0xff } else { rng.u64() as u8 }]);
    for number in 0..8 {
        image.put(offset::X87 + 16 * number, &extended(rng));
    }
}

fn fresh(fill: Fill, rng: &mut Rng) -> u64 {
    match fill {
        Fill::I8 => integer::<8>(rng),
        Fill::I16 => integer::<16>(rng),
        Fill::I32 => integer::<32>(rng),
        Fill::I64 => integer::<64>(rng),
        Fill::F16 => float::<16, 10>(rng),
        Fill::Bf16 => float::<16, 7>(rng),
        Fill::F32 => float::<32, 23>(rng),
        Fill::F64 => float::<64, 52>(rng),
    }
}

/// An integer of `BITS` bits; bits above are not to be used.
#[inline(always)]
fn integer<const BITS: u64>(rng: &mut Rng) -> u64 {
    let top = const { 1u64 << (BITS - 1) };
    let boundaries = [
        0,
        1,
        2,
        3,
        !0,
        !1,
        top - 1,
        top,
        top - 2,
        top + 1,
        0x7f,
        0x80,
        0xff,
        0x7fff,
        0x8000,
        0xffff,
        BITS - 1,
        BITS,
        BITS + 1,
        2 * BITS,
    ];
    let r = rng.u64();
    match r % 4 {
        0 => boundaries[((r >> 8) % 20) as usize],
        1 => (r >> 8) % (2 * BITS + 2),
        2 => (1u64 << ((r >> 8) % BITS)).wrapping_add((r >> 16) % 3).wrapping_sub(1),
        _ => rng.u64(),
    }
}

/// A floating-point number of `BITS` bits, of which `FRACTION` are the fraction's.
#[inline(always)]
fn float<const BITS: u64, const FRACTION: u64>(rng: &mut Rng) -> u64 {
    let r = rng.u64();
    let exponent_bits = BITS - 1 - FRACTION;
    let (bias, most) = ((1u64 << (exponent_bits - 1)) - 1, (1u64 << exponent_bits) - 1);
    let fraction = rng.u64() & ((1 << FRACTION) - 1);
    let q = r >> 8;
    // j times two to the power of -half, for j below 2^(FRACTION + 1).
    let number = |j: u64, half: u64| match j {
        0 => 0,
        _ => {
            let log = 63 - u64::from(j.leading_zeros());
            (bias + log - half) << FRACTION | (j << (FRACTION - log)) & ((1 << FRACTION) - 1)
        }
    };
    let magnitude = match r % 16 {
        0 => 0,
        1 => match q % 4 {
            0 => 1,
            1 => (1 << FRACTION) - 1,
            _ => fraction,
        },
        2 => most << FRACTION,
        3 => most << FRACTION | 1 << (FRACTION - 1) | if q.is_multiple_of(2) { 0 } else { fraction },
        4 => most << FRACTION | (fraction & !(1 << (FRACTION - 1))).max(1),
        5 => match q % 4 {
            0 => (most << FRACTION) - 1,
            1 => 1 << FRACTION,
            2 => (1 << FRACTION) + 1,
            _ => (most - 1) << FRACTION | fraction,
        },
        6 | 7 => {
            let power = [7, 8, 15, 16, 24, 31, 32, 53, 63, 64][(q % 10) as usize].min(bias);
            ((bias + power) << FRACTION).wrapping_add((q >> 8) % 5).wrapping_sub(2)
        }
        8 | 9 => number(2 * (q % 64) + 1, 1),
        10 | 11 => number(q % 128, 0),
        12 | 13 => (bias - 2 + q % 5) << FRACTION | fraction,
        14 => (1 + q % (most - 1)) << FRACTION | fraction >> (FRACTION - 2) << (FRACTION - 2),
        _ => (q % (most + 1)) << FRACTION | fraction,
    };
    (r >> 63) << (BITS - 1) | magnitude
}

/// An x87 register's ten bytes.
fn extended(rng: &mut Rng) -> [u8; 10] {
    let r = rng.u64();
    let (m, q) = (rng.u64(), r >> 8);
    let j = 1u64 << 63;
    let (exponent, significand) = match r % 16 {
        0 => (0, 0),
        1 => (0, m >> (1 + q % 63)),
        2 => (0x7fff, j),
        3 => (0x7fff, j | 1 << 62 | m),
        4 => (0x7fff, j | (m & !(3 << 62)).max(1)),
        5 => match q % 4 {
            0 => (0x7ffe, !0),
            1 => (1, j),
            2 => (0, j | m),
            _ => (q >> 8 & 0x7fff, m & !j),
        },
        6 | 7 => (0x3fff + [15, 16, 31, 32, 62, 63, 64][(q % 7) as usize], j + (q >> 8) % 3),
        8 | 9 => {
            let n = 2 * (q % 64) + 1;
            let zeros = u64::from(n.leading_zeros());
            (0x3fff + 62 - zeros, n << zeros)
        }
        10 | 11 => {
            let n = q % 1000 + 1;
            let zeros = u64::from(n.leading_zeros());
            (0x3fff + 63 - zeros, n << zeros)
        }
        12 | 13 => (0x3ffd + q % 5, j | m),
        14 => (q & 0x7fff, j | m >> 60 << 60),
        _ => (0x3fff - 64 + q % 128, j | m),
    };
    let mut value = [0; 10];
    value[..8].copy_from_slice(&significand.to_le_bytes());
    value[8..].copy_from_slice(&(exponent as u16 | (r >> 63 << 15) as u16).to_le_bytes());
    value
}
