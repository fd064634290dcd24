//! AES, SHA, carry-less multiplication and Galois fields (SDM volume 1, sections 5.8, 5.14 and 12.13).

use crate::decode::flags::Flags;
use crate::host::optional;
use crate::model::lane::Xmm;
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::block_128_row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Aesenc, Vaesenc], Block128<u8>, NONE, optional::aesenc),
    row!([Aesenclast, Vaesenclast], Block128<u8>, NONE, optional::aesenclast),
    row!([Aesdec, Vaesdec], Block128<u8>, NONE, optional::aesdec),
    row!([Aesdeclast, Vaesdeclast], Block128<u8>, NONE, optional::aesdeclast),
    row!([Aesimc, Vaesimc], EachBlock128<u8>, NONE, optional::aesimc),
    row!([Aeskeygenassist, Vaeskeygenassist], EachBlock128Imm<u32>, NONE, aeskeygenassist),
    row!([Pclmulqdq, Vpclmulqdq], Block128Imm<u64>, NONE, pclmulqdq),
    row!([Gf2p8mulb, Vgf2p8mulb], Block128<u8>, NONE, optional::gf2p8mulb).suppressing(),
    row!([Gf2p8affineqb, Vgf2p8affineqb], Block128Imm<u8>, NONE, gf2p8affineqb),
    row!([Gf2p8affineinvqb, Vgf2p8affineinvqb], Block128Imm<u8>, NONE, gf2p8affineinvqb),
    row!(Sha1nexte, Block128<u32>, NONE, optional::sha1nexte),
    row!(Sha1msg1, Block128<u32>, NONE, optional::sha1msg1),
    row!(Sha1msg2, Block128<u32>, NONE, optional::sha1msg2),
    row!(Sha1rnds4, Block128Imm<u32>, NONE, sha1rnds4),
    row!(Sha256msg1, Block128<u32>, NONE, optional::sha256msg1),
    row!(Sha256msg2, Block128<u32>, NONE, optional::sha256msg2),
    // The words and constants are in XMM0.
    block_128_row!([Sha256rnds2], u32, NONE, With, |sources, _immediate| {
        optional::sha256rnds2(sources[0], sources[1], sources[2])
    }),
];

/// The round constant goes into the two words that have been rotated.
#[inline(always)]
fn aeskeygenassist(source: &[u32; 4], constant: u8) -> [u32; 4] {
    let [first, rotated_first, third, rotated_third] = optional::aeskeygenassist(source);
    [first, rotated_first ^ u32::from(constant), third, rotated_third ^ u32::from(constant)]
}

/// Bits 0 and 4 of the immediate choose the quadwords.
#[inline(always)]
fn pclmulqdq(first: &Xmm, second: &Xmm, immediate: u8) -> Xmm {
    let (left, right) = (first[usize::from(immediate & 1)], second[usize::from(immediate >> 4 & 1)]);
    optional::pclmulqdq(&[left, 0], &[right, 0])
}

#[inline(always)]
fn gf2p8affineqb(bytes: &[u8; 16], matrix: &[u8; 16], constant: u8) -> [u8; 16] {
    optional::gf2p8affineqb(bytes, &bytemuck::cast(*matrix)).map(|byte| byte ^ constant)
}

#[inline(always)]
fn gf2p8affineinvqb(bytes: &[u8; 16], matrix: &[u8; 16], constant: u8) -> [u8; 16] {
    optional::gf2p8affineinvqb(bytes, &bytemuck::cast(*matrix)).map(|byte| byte ^ constant)
}

/// Bits 0 and 1 of the immediate choose the function and constant.
#[inline(always)]
fn sha1rnds4(first: &[u32; 4], second: &[u32; 4], immediate: u8) -> [u32; 4] {
    match immediate & 3 {
        0 => optional::sha1rnds4_0(first, second),
        1 => optional::sha1rnds4_1(first, second),
        2 => optional::sha1rnds4_2(first, second),
        _ => optional::sha1rnds4_3(first, second),
    }
}
