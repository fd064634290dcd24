//! What [`super::optional`] computes on a host whose processor lacks the instructions: the Operation sections
//! as they stand, over tables that are computed when this is compiled.

/// A control byte whose top bit is set makes a zero.
pub(crate) fn pshufb(table: [u8; 16], control: [u8; 16]) -> [u8; 16] {
    control.map(|control| if control & 0x80 != 0 { 0 } else { table[usize::from(control & 15)] })
}

/// The polynomial of AES and GFNI, without its highest power.
const POLYNOMIAL: u8 = 0x1b;

/// The product in the field of 256 elements.
const fn multiply(mut left: u8, mut right: u8) -> u8 {
    let mut product = 0;
    while right != 0 {
        if right & 1 != 0 {
            product ^= left;
        }
        left = (left << 1) ^ if left & 0x80 != 0 { POLYNOMIAL } else { 0 };
        right >>= 1;
    }
    product
}

/// The inverse of each element; that of zero is zero.
const INVERSE: [u8; 256] = {
    let mut table = [0; 256];
    // Three generates all elements but zero: the inverse of 3^n is 3^(255 - n), and 3^-1 is 0xf6.
    let (mut element, mut inverse) = (1, 1);
    let mut power = 0;
    while power < 255 {
        table[element as usize] = inverse;
        element = multiply(element, 3);
        inverse = multiply(inverse, 0xf6);
        power += 1;
    }
    table
};

/// The S-box of AES (FIPS 197, section 5.1.1).
const SUBSTITUTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = INVERSE[byte];
        table[byte] = b ^ b.rotate_left(1) ^ b.rotate_left(2) ^ b.rotate_left(3) ^ b.rotate_left(4) ^ 0x63;
        byte += 1;
    }
    table
};

/// Its inverse (section 5.3.2).
const INVERSE_SUBSTITUTE: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[SUBSTITUTE[byte] as usize] = byte as u8;
        byte += 1;
    }
    table
};

/// The state of AES: column after column.
type State = [u8; 16];

fn shift_rows(state: State) -> State {
    core::array::from_fn(|index| state[(index + 4 * (index & 3)) & 15])
}

fn inverse_shift_rows(state: State) -> State {
    core::array::from_fn(|index| state[index.wrapping_sub(4 * (index & 3)) & 15])
}

fn substitute(state: State) -> State {
    state.map(|byte| SUBSTITUTE[usize::from(byte)])
}

fn inverse_substitute(state: State) -> State {
    state.map(|byte| INVERSE_SUBSTITUTE[usize::from(byte)])
}

/// Each column times a polynomial, given by the factors of a byte and of those below it.
fn mix(state: State, factors: [u8; 4]) -> State {
    core::array::from_fn(|index| {
        let column = index & !3;
        (0..4).fold(0, |sum, below| sum ^ multiply(state[column | (index + below) & 3], factors[below & 3]))
    })
}

fn mix_columns(state: State) -> State {
    mix(state, [2, 3, 1, 1])
}

pub(crate) fn aesimc(state: State) -> State {
    mix(state, [14, 11, 13, 9])
}

fn add(state: State, key: State) -> State {
    core::array::from_fn(|index| state[index] ^ key[index])
}

pub(crate) fn aesenc(state: State, key: State) -> State {
    add(mix_columns(substitute(shift_rows(state))), key)
}

pub(crate) fn aesenclast(state: State, key: State) -> State {
    add(substitute(shift_rows(state)), key)
}

pub(crate) fn aesdec(state: State, key: State) -> State {
    add(aesimc(inverse_substitute(inverse_shift_rows(state))), key)
}

pub(crate) fn aesdeclast(state: State, key: State) -> State {
    add(inverse_substitute(inverse_shift_rows(state)), key)
}

/// AESKEYGENASSIST with a round constant of zero.
pub(crate) fn aeskeygenassist(source: [u32; 4]) -> [u32; 4] {
    let word = |word: u32| u32::from_le_bytes(word.to_le_bytes().map(|byte| SUBSTITUTE[usize::from(byte)]));
    let (first, third) = (word(source[1]), word(source[3]));
    [first, first.rotate_right(8), third, third.rotate_right(8)]
}

/// The product of two polynomials over the field of two elements.
pub(crate) fn pclmulqdq([left, _]: [u64; 2], [right, _]: [u64; 2]) -> [u64; 2] {
    let product: u128 =
        (0..64).fold(0, |sum, bit| sum ^ if right >> bit & 1 != 0 { u128::from(left) << bit } else { 0 });
    [product as u64, (product >> 64) as u64]
}

pub(crate) fn gf2p8mulb(left: [u8; 16], right: [u8; 16]) -> [u8; 16] {
    core::array::from_fn(|index| multiply(left[index], right[index]))
}

/// Each byte as a vector of bits, times the matrix of its quadword.
pub(crate) fn gf2p8affineqb(bytes: [u8; 16], matrix: [u64; 2]) -> [u8; 16] {
    core::array::from_fn(|index| {
        let rows = matrix[index >> 3 & 1].to_be_bytes();
        (0..)
            .zip(rows)
            .fold(0, |sum, (bit, row)| sum | (((row & bytes[index]).count_ones() & 1) as u8) << bit)
    })
}

pub(crate) fn gf2p8affineinvqb(bytes: [u8; 16], matrix: [u64; 2]) -> [u8; 16] {
    gf2p8affineqb(bytes.map(|byte| INVERSE[usize::from(byte)]), matrix)
}

pub(crate) fn sha1nexte(first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    let [w0, w1, w2, w3] = second;
    [w0, w1, w2, w3.wrapping_add(first[3].rotate_left(30))]
}

pub(crate) fn sha1msg1([w3, w2, w1, w0]: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    let (w4, w5) = (second[3], second[2]);
    [w5 ^ w3, w4 ^ w2, w3 ^ w1, w2 ^ w0]
}

pub(crate) fn sha1msg2(first: [u32; 4], [w15, w14, w13, _]: [u32; 4]) -> [u32; 4] {
    let w16 = (first[3] ^ w13).rotate_left(1);
    let w17 = (first[2] ^ w14).rotate_left(1);
    let w18 = (first[1] ^ w15).rotate_left(1);
    let w19 = (first[0] ^ w16).rotate_left(1);
    [w19, w18, w17, w16]
}

fn choose(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ !x & z
}

fn majority(x: u32, y: u32, z: u32) -> u32 {
    x & y ^ x & z ^ y & z
}

fn parity(x: u32, y: u32, z: u32) -> u32 {
    x ^ y ^ z
}

fn sha1rnds4(
    first: [u32; 4],
    second: [u32; 4],
    function: fn(u32, u32, u32) -> u32,
    constant: u32,
) -> [u32; 4] {
    let [mut d, mut c, mut b, mut a] = first;
    let mut e = 0;
    for word in second.into_iter().rev() {
        let next =
            [a.rotate_left(5), word, e, constant].into_iter().fold(function(b, c, d), u32::wrapping_add);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    [d, c, b, a]
}

pub(crate) fn sha1rnds4_0(first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    sha1rnds4(first, second, choose, 0x5a82_7999)
}

pub(crate) fn sha1rnds4_1(first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    sha1rnds4(first, second, parity, 0x6ed9_eba1)
}

pub(crate) fn sha1rnds4_2(first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    sha1rnds4(first, second, majority, 0x8f1b_bcdc)
}

pub(crate) fn sha1rnds4_3(first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    sha1rnds4(first, second, parity, 0xca62_c1d6)
}

pub(crate) fn sha256msg1(first: [u32; 4], second: [u32; 4]) -> [u32; 4] {
    let sigma = |word: u32| word.rotate_right(7) ^ word.rotate_right(18) ^ word >> 3;
    let [w0, w1, w2, w3] = first;
    [
        w0.wrapping_add(sigma(w1)),
        w1.wrapping_add(sigma(w2)),
        w2.wrapping_add(sigma(w3)),
        w3.wrapping_add(sigma(second[0])),
    ]
}

pub(crate) fn sha256msg2(first: [u32; 4], [_, _, w14, w15]: [u32; 4]) -> [u32; 4] {
    let sigma = |word: u32| word.rotate_right(17) ^ word.rotate_right(19) ^ word >> 10;
    let w16 = first[0].wrapping_add(sigma(w14));
    let w17 = first[1].wrapping_add(sigma(w15));
    let w18 = first[2].wrapping_add(sigma(w16));
    let w19 = first[3].wrapping_add(sigma(w17));
    [w16, w17, w18, w19]
}

pub(crate) fn sha256rnds2(first: [u32; 4], second: [u32; 4], words: [u32; 4]) -> [u32; 4] {
    let [mut h, mut g, mut d, mut c] = first;
    let [mut f, mut e, mut b, mut a] = second;
    for word in [words[0], words[1]] {
        let sum_1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let sum_0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let both = [sum_1, word, h].into_iter().fold(choose(e, f, g), u32::wrapping_add);
        let next = both.wrapping_add(majority(a, b, c)).wrapping_add(sum_0);
        (a, b, c, d, e, f, g, h) = (next, a, b, c, both.wrapping_add(d), e, f, g);
    }
    [f, e, b, a]
}
