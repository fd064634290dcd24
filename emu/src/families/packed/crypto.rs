//! AES, SHA, carry-less multiplication and Galois fields (SDM volume 1, sections 5.8, 5.14 and 12.13).

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::host::optional;
use crate::model::exception::Exception;
use crate::model::lane::Xmm;
use crate::model::outcome::Outcome;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;
use crate::shape::vector::ClassName;
use crate::vector::{Class, InMemory, InPart, InRegister, Place, Sse};

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
    row!(Sha256rnds2, Select, NONE, sha256rnds2),
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
    optional::gf2p8affineqb(bytes, bytemuck::cast_ref(matrix)).map(|byte| byte ^ constant)
}

#[inline(always)]
fn gf2p8affineinvqb(bytes: &[u8; 16], matrix: &[u8; 16], constant: u8) -> [u8; 16] {
    optional::gf2p8affineinvqb(bytes, bytemuck::cast_ref(matrix)).map(|byte| byte ^ constant)
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

/// The words and constants are in XMM0.
fn sha256rnds2(form: &Form<'_>) -> Option<Execute> {
    fn run<P: Place>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let second = P::fetch::<Sse, u32>(c, 1)?;
        let [first, second, words] = [Sse::register(c, 0), &second, c.xmm(0)].map(bytemuck::cast_ref);
        let result = optional::sha256rnds2(first, second, words);
        Sse::set::<u32>(c, bytemuck::cast(result));
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.memory_bytes()) {
        (ClassName::Sse, None) => Some(run::<InRegister>),
        (ClassName::Sse, Some(16)) if form.may_be_misaligned() => Some(run::<InPart<16>>),
        (ClassName::Sse, Some(16)) => Some(run::<InMemory>),
        _ => None,
    }
}
