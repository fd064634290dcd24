//! SHA-512, SM3 and SM4, which have VEX encodings only (SDM volume 2, VSHA512MSG1 to VSM4RNDS4).

use crate::decode::flags::Flags;
use crate::model::lane::Ymm;
use crate::run::phases::{Layout, Operands};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::{Work, block_128_row, run};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Vsha512msg1, Whole, NONE, run::<Ymm, Sha512Msg1>).with(Layout::new(Operands::Two, 8)),
    row!(Vsha512msg2, Whole, NONE, run::<Ymm, Sha512Msg2>).with(Layout::new(Operands::Two, 8)),
    row!(Vsha512rnds2, Whole, NONE, run::<Ymm, Sha512Rnds2>).with(Layout::new(Operands::Three, 8)),
    block_128_row!([Vsm3msg1], u32, NONE, Three, |sources, _immediate| sm3msg1(sources)),
    block_128_row!([Vsm3msg2], u32, NONE, Three, |sources, _immediate| sm3msg2(sources)),
    block_128_row!([Vsm3rnds2], u32, NONE, Three, |sources, immediate| sm3rnds2(sources, immediate)),
    row!(Vsm4key4, Block128<u32>, NONE, sm4key4),
    row!(Vsm4rnds4, Block128<u32>, NONE, sm4rnds4),
];

/// Four message words, to each of which the small sigma of the next is added.
struct Sha512Msg1;

impl Work<Ymm> for Sha512Msg1 {
    fn work([first, second, _]: [&Ymm; 3], _: u8) -> Ymm {
        let sigma = |word: u64| word.rotate_right(1) ^ word.rotate_right(8) ^ word >> 7;
        let next = [first[1], first[2], first[3], second[0]];
        core::array::from_fn(|index| first[index].wrapping_add(sigma(next[index])))
    }
}

/// What remains of four message words: each depends on the second before it.
struct Sha512Msg2;

impl Work<Ymm> for Sha512Msg2 {
    fn work([first, second, _]: [&Ymm; 3], _: u8) -> Ymm {
        let sigma = |word: u64| word.rotate_right(19) ^ word.rotate_right(61) ^ word >> 6;
        let mut before = [second[2], second[3]];
        first.map(|word| {
            let result = word.wrapping_add(sigma(before[0]));
            before = [before[1], result];
            result
        })
    }
}

/// Two rounds, with the sums of words and constants in the second source.
struct Sha512Rnds2;

impl Work<Ymm> for Sha512Rnds2 {
    fn work([destination, first, words]: [&Ymm; 3], _: u8) -> Ymm {
        let [mut f, mut e, mut b, mut a] = *first;
        let [mut h, mut g, mut d, mut c] = *destination;
        for word in [words[0], words[1]] {
            let sum_1 = e.rotate_right(14) ^ e.rotate_right(18) ^ e.rotate_right(41);
            let sum_0 = a.rotate_right(28) ^ a.rotate_right(34) ^ a.rotate_right(39);
            let both = [sum_1, word, h].into_iter().fold(e & f ^ !e & g, u64::wrapping_add);
            let next = both.wrapping_add(a & b ^ a & c ^ b & c).wrapping_add(sum_0);
            (a, b, c, d, e, f, g, h) = (next, a, b, c, both.wrapping_add(d), e, f, g);
        }
        [f, e, b, a]
    }
}

/// Words 7 to 10, 13 to 15, and 0 to 3, to the first part of words 16 to 19.
fn sm3msg1([words_7, words_13, words_0]: [&[u32; 4]; 3]) -> [u32; 4] {
    core::array::from_fn(|index| {
        let late = if index < 3 { words_13[index].rotate_left(15) } else { 0 };
        let word = words_7[index] ^ words_0[index] ^ late;
        word ^ word.rotate_left(15) ^ word.rotate_left(23)
    })
}

/// The first part, words 3 to 6, and 10 to 13, to words 16 to 19.
fn sm3msg2([part, words_3, words_10]: [&[u32; 4]; 3]) -> [u32; 4] {
    let mut words =
        core::array::from_fn(|index| part[index] ^ words_3[index].rotate_left(7) ^ words_10[index]);
    let first = words[0];
    words[3] ^= first.rotate_left(6) ^ first.rotate_left(15) ^ first.rotate_left(30);
    words
}

/// Two rounds, of which the immediate says the number.
fn sm3rnds2([destination, first, words]: [&[u32; 4]; 3], immediate: u8) -> [u32; 4] {
    let [mut f, mut e, mut b, mut a] = *first;
    let [h, g, d, c] = *destination;
    let [mut h, mut g] = [h, g].map(|word| word.rotate_left(19));
    let [mut d, mut c] = [d, c].map(|word| word.rotate_left(9));
    let round = u32::from(immediate & 0x3e);
    let early = round < 16;
    let mut constant = if early { 0x79cc_4519_u32 } else { 0x7a87_9d8a }.rotate_left(round);
    for index in 0..2 {
        let (word, later) = (words[index], words[index + 2]);
        let sum_1 = a.rotate_left(12).wrapping_add(e).wrapping_add(constant).rotate_left(7);
        let sum_2 = sum_1 ^ a.rotate_left(12);
        let (of_abc, of_efg) =
            if early { (a ^ b ^ c, e ^ f ^ g) } else { (a & b | a & c | b & c, e & f | !e & g) };
        let next_a = [d, sum_2, word ^ later].into_iter().fold(of_abc, u32::wrapping_add);
        let next_e = [h, sum_1, word].into_iter().fold(of_efg, u32::wrapping_add);
        let next_e = next_e ^ next_e.rotate_left(9) ^ next_e.rotate_left(17);
        (a, b, c, d) = (next_a, a, b.rotate_left(9), c);
        (e, f, g, h) = (next_e, e, f.rotate_left(19), g);
        constant = constant.rotate_left(1);
    }
    [f, e, b, a]
}

/// The S-box of SM4: an affine transformation of the inverse of the same, in the field whose polynomial is 0x1f5.
const SUBSTITUTE: [u8; 256] = {
    const fn affine(byte: u8) -> u8 {
        byte ^ byte.rotate_left(1) ^ byte.rotate_left(3) ^ byte.rotate_left(6) ^ byte.rotate_left(7) ^ 0xd3
    }
    const fn multiply(mut left: u8, mut right: u8) -> u8 {
        let mut product = 0;
        while right != 0 {
            if right & 1 != 0 {
                product ^= left;
            }
            left = (left << 1) ^ if left & 0x80 != 0 { 0xf5 } else { 0 };
            right >>= 1;
        }
        product
    }
    /// The 254th power.
    const fn inverse(byte: u8) -> u8 {
        let (mut power, mut square, mut bit) = (1, byte, 1);
        while bit < 8 {
            square = multiply(square, square);
            power = multiply(power, square);
            bit += 1;
        }
        power
    }
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = affine(inverse(affine(byte as u8)));
        byte += 1;
    }
    table
};

/// Four rounds: each word is the fourth before it and the transformation of the others with a key.
fn sm4(state: &[u32; 4], keys: &[u32; 4], linear: impl Fn(u32) -> u32) -> [u32; 4] {
    let mut state = *state;
    for key in keys {
        let [first, second, third, fourth] = state;
        let mixed = (second ^ third ^ fourth ^ key).to_le_bytes().map(|byte| SUBSTITUTE[usize::from(byte)]);
        state = [second, third, fourth, first ^ linear(u32::from_le_bytes(mixed))];
    }
    state
}

fn sm4key4(state: &[u32; 4], keys: &[u32; 4]) -> [u32; 4] {
    sm4(state, keys, |word| word ^ word.rotate_left(13) ^ word.rotate_left(23))
}

fn sm4rnds4(state: &[u32; 4], keys: &[u32; 4]) -> [u32; 4] {
    sm4(state, keys, |word| {
        word ^ word.rotate_left(2) ^ word.rotate_left(10) ^ word.rotate_left(18) ^ word.rotate_left(24)
    })
}
