//! SHA-512, SM3, SM4, and the dot products, conversions and intersections that the processors at hand lack: blocks of
//! whole algorithms, made of single instructions, against other implementations of them, sums by definition, and the same
//! operation in other encodings.

use sha2::Digest as _;
use sm4::cipher::{BlockCipherEncrypt, KeyInit};

use emu::{Displaced, FlatMemory, Mxcsr, Outcome, Processor, Registers, Vendor, registers};

/// The map, L and pp, and opcode of a VEX encoding with W0.
#[derive(Clone, Copy)]
struct Vex(u8, u8, u8);

const SHA512MSG1: Vex = Vex(2, 0b111, 0xcc);
const SHA512MSG2: Vex = Vex(2, 0b111, 0xcd);
const SHA512RNDS2: Vex = Vex(2, 0b111, 0xcb);
const SM3MSG1: Vex = Vex(2, 0b000, 0xda);
const SM3MSG2: Vex = Vex(2, 0b001, 0xda);
const SM3RNDS2: Vex = Vex(3, 0b001, 0xde);
const SM4KEY4: Vex = Vex(2, 0b010, 0xda);
const SM4RNDS4: Vex = Vex(2, 0b011, 0xda);
const SM4RNDS4_YMM: Vex = Vex(2, 0b111, 0xda);

impl Vex {
    /// Of registers 1, 2 and 3, or 1 and 3 if `two`, with these values: the result.
    fn run<T: bytemuck::Pod, const N: usize>(self, values: [[T; N]; 3], two: bool, immediate: u8) -> [T; N] {
        let Vex(map, vector, opcode) = self;
        let source = if two { 0 } else { 2 };
        let bytes = [0xc4, 0xe0 | map, !source << 3 & 0x78 | vector, opcode, 0xcb, immediate];
        let processor = Processor::with_every_feature(Vendor::Intel).leak();
        let displaced = Displaced::decode_on(&bytes, 0, processor).unwrap();
        let mut registers = Registers::default();
        for (register, value) in registers.extended.vector[1..4].iter_mut().zip(&values) {
            let bytes: &[u8] = bytemuck::cast_slice(value);
            bytemuck::bytes_of_mut(&mut register.0)[..bytes.len()].copy_from_slice(bytes);
        }
        assert_eq!(
            displaced.execute(&mut registers, &mut FlatMemory::default()),
            Ok(Outcome::Next),
            "{displaced:?}"
        );
        let result = bytemuck::bytes_of(&registers.extended.vector[1].0);
        bytemuck::pod_read_unaligned(&result[..size_of::<T>() * N])
    }
}

/// Bytes that look random, different for each seed.
fn bytes<const N: usize>(seed: u64) -> [u8; N] {
    let mut state = seed;
    core::array::from_fn(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    })
}

/// A message and what a Merkle-Damgard hash appends to it, in a single block.
fn padded<const N: usize>(message: &[u8]) -> [u8; N] {
    let mut block = [0; N];
    block[..message.len()].copy_from_slice(message);
    block[message.len()] = 0x80;
    block[N - 8..].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
    block
}

/// The fractional parts of the cube roots of the first 80 primes.
#[rustfmt::skip]
const SHA512_ROUNDS: [u64; 80] = [
    0x428a_2f98_d728_ae22, 0x7137_4491_23ef_65cd, 0xb5c0_fbcf_ec4d_3b2f, 0xe9b5_dba5_8189_dbbc,
    0x3956_c25b_f348_b538, 0x59f1_11f1_b605_d019, 0x923f_82a4_af19_4f9b, 0xab1c_5ed5_da6d_8118,
    0xd807_aa98_a303_0242, 0x1283_5b01_4570_6fbe, 0x2431_85be_4ee4_b28c, 0x550c_7dc3_d5ff_b4e2,
    0x72be_5d74_f27b_896f, 0x80de_b1fe_3b16_96b1, 0x9bdc_06a7_25c7_1235, 0xc19b_f174_cf69_2694,
    0xe49b_69c1_9ef1_4ad2, 0xefbe_4786_384f_25e3, 0x0fc1_9dc6_8b8c_d5b5, 0x240c_a1cc_77ac_9c65,
    0x2de9_2c6f_592b_0275, 0x4a74_84aa_6ea6_e483, 0x5cb0_a9dc_bd41_fbd4, 0x76f9_88da_8311_53b5,
    0x983e_5152_ee66_dfab, 0xa831_c66d_2db4_3210, 0xb003_27c8_98fb_213f, 0xbf59_7fc7_beef_0ee4,
    0xc6e0_0bf3_3da8_8fc2, 0xd5a7_9147_930a_a725, 0x06ca_6351_e003_826f, 0x1429_2967_0a0e_6e70,
    0x27b7_0a85_46d2_2ffc, 0x2e1b_2138_5c26_c926, 0x4d2c_6dfc_5ac4_2aed, 0x5338_0d13_9d95_b3df,
    0x650a_7354_8baf_63de, 0x766a_0abb_3c77_b2a8, 0x81c2_c92e_47ed_aee6, 0x9272_2c85_1482_353b,
    0xa2bf_e8a1_4cf1_0364, 0xa81a_664b_bc42_3001, 0xc24b_8b70_d0f8_9791, 0xc76c_51a3_0654_be30,
    0xd192_e819_d6ef_5218, 0xd699_0624_5565_a910, 0xf40e_3585_5771_202a, 0x106a_a070_32bb_d1b8,
    0x19a4_c116_b8d2_d0c8, 0x1e37_6c08_5141_ab53, 0x2748_774c_df8e_eb99, 0x34b0_bcb5_e19b_48a8,
    0x391c_0cb3_c5c9_5a63, 0x4ed8_aa4a_e341_8acb, 0x5b9c_ca4f_7763_e373, 0x682e_6ff3_d6b2_b8a3,
    0x748f_82ee_5def_b2fc, 0x78a5_636f_4317_2f60, 0x84c8_7814_a1f0_ab72, 0x8cc7_0208_1a64_39ec,
    0x90be_fffa_2363_1e28, 0xa450_6ceb_de82_bde9, 0xbef9_a3f7_b2c6_7915, 0xc671_78f2_e372_532b,
    0xca27_3ece_ea26_619c, 0xd186_b8c7_21c0_c207, 0xeada_7dd6_cde0_eb1e, 0xf57d_4f7f_ee6e_d178,
    0x06f0_67aa_7217_6fba, 0x0a63_7dc5_a2c8_98a6, 0x113f_9804_bef9_0dae, 0x1b71_0b35_131c_471b,
    0x28db_77f5_2304_7d84, 0x32ca_ab7b_40c7_2493, 0x3c9e_be0a_15c9_bebc, 0x431d_67c4_9c10_0d4c,
    0x4cc5_d4be_cb3e_42b6, 0x597f_299c_fc65_7e2a, 0x5fcb_6fab_3ad6_faec, 0x6c44_198c_4a47_5817,
];

#[rustfmt::skip]
const SHA512_INITIAL: [u64; 8] = [
    0x6a09_e667_f3bc_c908, 0xbb67_ae85_84ca_a73b, 0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1, 0x9b05_688c_2b3e_6c1f, 0x1f83_d9ab_fb41_bd6b, 0x5be0_cd19_137e_2179,
];

fn sha512(message: &[u8]) -> Vec<u8> {
    let block: [u8; 128] = padded(message);
    let mut words: Vec<u64> =
        block.chunks_exact(8).map(|word| u64::from_be_bytes(word.try_into().unwrap())).collect();
    let four = |words: &[u64], from: usize| <[u64; 4]>::try_from(&words[from..from + 4]).unwrap();
    while words.len() < 80 {
        let from = words.len() - 16;
        let part = SHA512MSG1.run([four(&words, from), [0; 4], four(&words, from + 4)], true, 0);
        let part = core::array::from_fn(|index| part[index].wrapping_add(words[from + 9 + index]));
        words.extend(SHA512MSG2.run([part, [0; 4], four(&words, from + 12)], true, 0));
    }
    let [a, b, c, d, e, f, g, h] = SHA512_INITIAL;
    let (mut abef, mut cdgh) = ([f, e, b, a], [h, g, d, c]);
    for round in (0..80).step_by(2) {
        let sum = |index: usize| words[round + index].wrapping_add(SHA512_ROUNDS[round + index]);
        let next = SHA512RNDS2.run([cdgh, abef, [sum(0), sum(1), 0, 0]], false, 0);
        (abef, cdgh) = (next, abef);
    }
    let ([f, e, b, a], [h, g, d, c]) = (abef, cdgh);
    let state = [a, b, c, d, e, f, g, h].into_iter().zip(SHA512_INITIAL);
    state.flat_map(|(word, initial)| word.wrapping_add(initial).to_be_bytes()).collect()
}

#[test]
fn sha_512() {
    for seed in 0..100 {
        let message: [u8; 100] = bytes(seed);
        assert_eq!(sha512(&message), sha2::Sha512::digest(message).to_vec(), "{seed}");
    }
}

fn sm3(message: &[u8]) -> Vec<u8> {
    const INITIAL: [u32; 8] = [
        0x7380_166f,
        0x4914_b2b9,
        0x1724_42d7,
        0xda8a_0600,
        0xa96f_30bc,
        0x1631_38aa,
        0xe38d_ee4d,
        0xb0fb_0e4e,
    ];
    let block: [u8; 64] = padded(message);
    let mut words: Vec<u32> =
        block.chunks_exact(4).map(|word| u32::from_be_bytes(word.try_into().unwrap())).collect();
    while words.len() < 68 {
        let at = |from: usize| -> [u32; 4] {
            core::array::from_fn(|index| words.get(words.len() - 16 + from + index).copied().unwrap_or(0))
        };
        let part = SM3MSG1.run([at(7), at(13), at(0)], false, 0);
        let next = SM3MSG2.run([part, at(3), at(10)], false, 0);
        words.extend(next);
    }
    let [a, b, c, d, e, f, g, h] = INITIAL;
    let mut abef = [f, e, b, a];
    let mut cdgh = [h.rotate_right(19), g.rotate_right(19), d.rotate_right(9), c.rotate_right(9)];
    for round in (0..64).step_by(2) {
        let chosen = [words[round], words[round + 1], words[round + 4], words[round + 5]];
        let next = SM3RNDS2.run([cdgh, abef, chosen], false, round as u8);
        (abef, cdgh) = (next, abef);
    }
    let ([f, e, b, a], [h, g, d, c]) = (abef, cdgh);
    let state = [a, b, c.rotate_left(9), d.rotate_left(9), e, f, g.rotate_left(19), h.rotate_left(19)];
    state.into_iter().zip(INITIAL).flat_map(|(word, initial)| (word ^ initial).to_be_bytes()).collect()
}

#[test]
fn sm_3() {
    for seed in 0..100 {
        let message: [u8; 50] = bytes(seed);
        assert_eq!(sm3(&message), sm3::Sm3::digest(message).to_vec(), "{seed}");
    }
}

#[test]
fn sm_4() {
    let words = |bytes: [u8; 16]| -> [u32; 4] { bytemuck::cast::<_, [u32; 4]>(bytes).map(u32::from_be) };
    for seed in 0..100 {
        let (key, plain) = (bytes::<16>(2 * seed), bytes::<16>(2 * seed + 1));
        let family = [0xa3b1_bac6, 0x56aa_3350, 0x677d_9197, 0xb270_22dc];
        let mut keys = core::array::from_fn(|index| words(key)[index] ^ family[index]);
        let (mut state, mut both) = (words(plain), [0; 8]);
        both[4..].copy_from_slice(&state);
        for round in 0..8u32 {
            let constant = |index: u32| {
                u32::from_be_bytes(core::array::from_fn(|byte| {
                    ((16 * round + 4 * index + byte as u32) * 7) as u8
                }))
            };
            keys = SM4KEY4.run([[0; 4], keys, [0, 1, 2, 3].map(constant)], false, 0);
            state = SM4RNDS4.run([[0; 4], state, keys], false, 0);
            let twice = core::array::from_fn(|index| keys[index & 3]);
            both = SM4RNDS4_YMM.run([[0; 8], both, twice], false, 0);
        }
        assert_eq!(both[4..], state, "{seed}");
        state.reverse();
        let result: Vec<u8> = state.into_iter().flat_map(u32::to_be_bytes).collect();
        let mut block = plain.into();
        sm4::Sm4::new(&key.into()).encrypt_block(&mut block);
        assert_eq!(result, block.to_vec(), "{seed}");
    }
}

/// What the letters of VPDPBSUDS and its kin say: which elements are signed, their size, and whether sums saturate.
#[test]
fn dot_products() {
    // VNNI-INT8 is 50 and 51 (with saturation), VNNI-INT16 is D2 and D3; pp says which source is signed.
    for (opcode, bits) in [(0x50, 8), (0x51, 8), (0xd2, 16), (0xd3, 16)] {
        let saturates = opcode & 1 != 0;
        // No prefix: neither; F3: the first; F2: both, of bytes; 66: the second, of words.
        let signs = if bits == 8 {
            [(0, false, false), (2, true, false), (3, true, true)]
        } else {
            [(0, false, false), (2, true, false), (1, false, true)]
        };
        for (prefix, first_signed, second_signed) in signs {
            for seed in 0..200 {
                let sources: [[i32; 4]; 3] = bytemuck::cast(bytes::<48>(seed));
                let result = Vex(2, prefix, opcode).run(sources, false, 0);
                let expected: [i32; 4] = core::array::from_fn(|index| {
                    let element = |source: i32, at: i32, signed: bool| {
                        let element = i128::from(source as u32 >> (at * bits)) & ((1 << bits) - 1);
                        element - if signed && element >> (bits - 1) != 0 { 1 << bits } else { 0 }
                    };
                    let products = (0..32 / bits).map(|at| {
                        element(sources[1][index], at, first_signed)
                            * element(sources[2][index], at, second_signed)
                    });
                    let unsigned = !first_signed && !second_signed;
                    let start = sources[0][index];
                    let start = if unsigned { i128::from(start as u32) } else { i128::from(start) };
                    let sum = start + products.sum::<i128>();
                    match (saturates, unsigned) {
                        (false, _) => sum as i32,
                        (true, true) => sum.clamp(0, i128::from(u32::MAX)) as u32 as i32,
                        (true, false) => sum.clamp(i128::from(i32::MIN), i128::from(i32::MAX)) as i32,
                    }
                });
                assert_eq!(result, expected, "{opcode:#x} {prefix} {seed}");
            }
        }
    }
}

/// AVX-IFMA is AVX512-IFMA without masks.
#[test]
fn products_of_52_bits() {
    let processor = Processor::with_every_feature(Vendor::Intel).leak();
    for (high, opcode) in [(false, 0xb4), (true, 0xb5)] {
        for seed in 0..500 {
            let mut sources: [[u64; 4]; 3] = bytemuck::cast(bytes::<96>(seed));
            if seed % 4 == 0 {
                sources[1][0] = u64::MAX;
                sources[2][0] = u64::MAX >> (seed % 64);
            }
            // W1, 256 bits.
            let result = Vex(2, 0x85, opcode).run(sources, false, 0);
            let sibling = [0x62, 0xf2, 0xed, 0x28, opcode, 0xcb];
            let displaced = Displaced::decode_on(&sibling, 0, processor).unwrap();
            let mut registers = Registers::default();
            for (register, value) in registers.extended.vector[1..4].iter_mut().zip(sources) {
                register.0[..4].copy_from_slice(&value);
            }
            assert_eq!(
                displaced.execute(&mut registers, &mut FlatMemory::default()),
                Ok(Outcome::Next),
                "{displaced:?}"
            );
            assert_eq!(result, registers.extended.vector[1].0[..4], "{opcode:#x} {sources:x?}");
            let expected: [u64; 4] = core::array::from_fn(|index| {
                let [sum, first, second] = sources.map(|source| u128::from(source[index]));
                let product = (first % (1 << 52)) * (second % (1 << 52));
                let part = if high { product / (1 << 52) } else { product % (1 << 52) };
                ((sum + part) % (1 << 64)) as u64
            });
            assert_eq!(result, expected, "{opcode:#x} {sources:x?}");
        }
    }
}

/// The instruction with these bytes, whose memory operand is at RSI and whose register operands are 1 and 3.
fn of_memory(bytes: &[u8], source: [u8; 32], mxcsr: Mxcsr) -> ([u32; 16], Mxcsr) {
    let processor = Processor::with_every_feature(Vendor::Intel).leak();
    let displaced = Displaced::decode_on(bytes, 0, processor).unwrap();
    let mut registers = Registers::default();
    registers.gpr[registers::gpr::RSI] = 0x1000;
    registers.extended.mxcsr = mxcsr;
    registers.extended.vector[1].0 = [u64::MAX; 8];
    registers.extended.vector[3].0[..4].copy_from_slice(&bytemuck::cast::<_, [u64; 4]>(source));
    let mut memory = FlatMemory::new(0x1000, source.len());
    memory.bytes_mut().copy_from_slice(&source);
    assert_eq!(displaced.execute(&mut registers, &mut memory), Ok(Outcome::Next), "{displaced:?}");
    (bytemuck::cast(registers.extended.vector[1].0), registers.extended.mxcsr)
}

/// Every binary16 and every BF16, in even and odd places and broadcast: what VCVTPH2PS and a shift make of it,
/// whatever MXCSR says.
#[test]
fn conversions_without_exceptions() {
    // Nothing masked, and DAZ and FTZ: it would raise, if it looked.
    let mxcsr = Mxcsr::DAZ | Mxcsr::FTZ;
    for start in (0..=u16::MAX).step_by(16) {
        let words: [u16; 16] = core::array::from_fn(|index| start + index as u16);
        let source: [u8; 32] = bytemuck::cast(words);
        // vcvtph2ps zmm1, ymm3, with everything masked.
        let (halves, _) = of_memory(&[0x62, 0xf2, 0x7d, 0x48, 0x13, 0xcb], source, Mxcsr::MASKS);
        let brains = words.map(|word| u32::from(word) << 16);
        for (prefix, singles, odd) in [(0, halves, 0), (1, halves, 1), (2, brains, 1), (3, brains, 0)] {
            // NP is VCVTNEOPH2PS, 66 VCVTNEEPH2PS, F2 VCVTNEOBF162PS and F3 VCVTNEEBF162PS.
            let odd = if prefix < 2 { 1 - odd } else { odd };
            for wide in [0, 1] {
                let bytes = [0xc4, 0xe2, 0x78 | wide << 2 | [0, 1, 3, 2][prefix], 0xb0, 0x0e];
                let lanes = 4 << wide;
                let expected =
                    core::array::from_fn(|lane| if lane < lanes { singles[2 * lane + odd] } else { 0 });
                assert_eq!(of_memory(&bytes, source, mxcsr), (expected, mxcsr), "{bytes:x?} {start:#x}");
            }
        }
        // 66 is VBCSTNESH2PS, F3 VBCSTNEBF162PS.
        for (prefix, singles) in [(1, halves), (2, brains)] {
            let bytes = [0xc4, 0xe2, 0x7c | prefix, 0xb1, 0x0e];
            let expected = core::array::from_fn(|lane| if lane < 8 { singles[0] } else { 0 });
            assert_eq!(of_memory(&bytes, source, mxcsr), (expected, mxcsr), "{bytes:x?} {start:#x}");
        }
    }
}

/// VCVTNEPS2BF16 is the same with VEX as with EVEX, and the nearest of the two numbers around it.
#[test]
fn narrowing_without_exceptions() {
    for seed in 0..5000 {
        let source: [u8; 32] = bytes(seed);
        let (result, mxcsr) = of_memory(&[0xc4, 0xe2, 0x7e, 0x72, 0xcb], source, Mxcsr::DAZ);
        let (sibling, _) = of_memory(&[0x62, 0xf2, 0x7e, 0x28, 0x72, 0xcb], source, Mxcsr::DAZ);
        assert_eq!((result, mxcsr), (sibling, Mxcsr::DAZ), "{source:x?}");
        let singles: [u32; 8] = bytemuck::cast(source);
        let brains: [u16; 32] = bytemuck::cast(result);
        for (single, brain) in singles.into_iter().zip(brains) {
            let number = f32::from_bits(single);
            if !number.is_normal() {
                continue;
            }
            let value = |bits: u32| f64::from(f32::from_bits(bits << 16));
            let (below, above) = (single >> 16, (single >> 16) + 1);
            let distance = |bits: u32| (value(bits) - f64::from(number)).abs();
            let nearest = match distance(below).partial_cmp(&distance(above)) {
                Some(core::cmp::Ordering::Less) => below,
                Some(core::cmp::Ordering::Greater) => above,
                _ => below + (below & 1),
            };
            if value(above).is_finite() {
                assert_eq!(u32::from(brain), nearest, "{single:#x}");
            }
        }
    }
}

/// Any lanes, in all widths, with the second source in a register.
#[test]
fn intersections_by_definition() {
    let processor = Processor::with_every_feature(Vendor::Intel).leak();
    for seed in 0..600 {
        let (length, wide) = ((seed % 3) as usize, seed / 3 % 2);
        // Few values, so that some are equal.
        let lanes: [u64; 16] = bytes::<16>(seed).map(|byte| 0x1_0000_0001 * u64::from(byte & 7));
        // vp2intersectd or vp2intersectq k5, zmm2, zmm3: k4 and k5.
        let vector = [0x62, 0xf2, 0x6f | (wide as u8) << 7, 0x08 | (length as u8) << 5, 0x68, 0xeb];
        let displaced = Displaced::decode_on(&vector, 0, processor).unwrap();
        let mut registers = Registers::default();
        registers.extended.vector[2].0.copy_from_slice(&lanes[..8]);
        registers.extended.vector[3].0.copy_from_slice(&lanes[8..]);
        assert_eq!(
            displaced.execute(&mut registers, &mut FlatMemory::default()),
            Ok(Outcome::Next),
            "{displaced:?}"
        );
        let size = if wide == 1 { 8 } else { 4 };
        let count = (16 << length) / size;
        let bytes: [&[u8]; 2] = [2, 3].map(|number| bytemuck::bytes_of(&registers.extended.vector[number].0));
        let mut expected = [0, 0];
        for first in 0..count {
            for second in 0..count {
                let [this, that] = [(bytes[0], first), (bytes[1], second)]
                    .map(|(bytes, index)| &bytes[size * index..size * (index + 1)]);
                if this == that {
                    expected[0] |= 1 << first;
                    expected[1] |= 1 << second;
                }
            }
        }
        assert_eq!(registers.extended.opmask[4..6], expected, "{displaced:?} {lanes:x?}");
    }
}

/// Lanes that are in the other source, too, in K2 and K3, whatever K2 was; the registers above are left alone.
#[test]
fn intersections() {
    let processor = Processor::with_every_feature(Vendor::Intel).leak();
    // vp2intersectd k2, xmm2, xmm3; k3 names the same pair.
    for modrm in [0xd3, 0xdb] {
        let displaced = Displaced::decode_on(&[0x62, 0xf2, 0x6f, 0x08, 0x68, modrm], 0, processor).unwrap();
        let mut registers = Registers::default();
        registers.extended.opmask = [u64::MAX; 8];
        registers.extended.vector[2].0[..2].copy_from_slice(&[7 | 9 << 32, 8 | 7 << 32]);
        registers.extended.vector[3].0[..2].copy_from_slice(&[1 | 2 << 32, 3 | 7 << 32]);
        assert_eq!(
            displaced.execute(&mut registers, &mut FlatMemory::default()),
            Ok(Outcome::Next),
            "{displaced:?}"
        );
        let expected = [u64::MAX, u64::MAX, 0b1001, 0b1000, u64::MAX, u64::MAX, u64::MAX, u64::MAX];
        assert_eq!(registers.extended.opmask, expected, "{displaced:?}");
    }
}
