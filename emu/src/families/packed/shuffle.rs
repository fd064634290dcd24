//! Lanes that change places: shuffles, unpacking, alignment, blends, and changes of width (SDM volume 1,
//! sections 9.4.4, 10.4.4, 12.6 and 12.10).

use crate::decode::flags::Flags;
use crate::host::optional;
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Pshufb, Vpshufb], Blocks<u8>, NONE, pshufb),
    row!(Pshufw, EachBlockImm<u16>, NONE, pshufw),
    row!([Pshufd, Vpshufd], EachBlockImm<u32>, NONE, pshufd),
    row!([Pshuflw, Vpshuflw], EachBlock128Imm<u16>, NONE, pshuflw),
    row!([Pshufhw, Vpshufhw], EachBlock128Imm<u16>, NONE, pshufhw),
    row!([Shufps, Vshufps], Block128Imm<u32>, NONE, shufps),
    row!([Shufpd, Vshufpd], Across<u64>, NONE, Two, shufpd),
    row!([Palignr, Vpalignr], BlocksImm<u8>, NONE, palignr),
    row!([Punpcklbw, Vpunpcklbw], LowBlocks<u8>, NONE, unpack_low),
    row!([Punpcklwd, Vpunpcklwd], LowBlocks<u16>, NONE, unpack_low),
    row!([Punpckldq, Unpcklps, Vpunpckldq, Vunpcklps], LowBlocks<u32>, NONE, unpack_low),
    row!([Punpcklqdq, Unpcklpd, Vpunpcklqdq, Vunpcklpd], LowBlocks<u64>, NONE, unpack_low),
    row!([Punpckhbw, Vpunpckhbw], Blocks<u8>, NONE, unpack_high),
    row!([Punpckhwd, Vpunpckhwd], Blocks<u16>, NONE, unpack_high),
    row!([Punpckhdq, Unpckhps, Vpunpckhdq, Vunpckhps], Blocks<u32>, NONE, unpack_high),
    row!([Punpckhqdq, Unpckhpd, Vpunpckhqdq, Vunpckhpd], Blocks<u64>, NONE, unpack_high),
    row!([Movsldup, Vmovsldup], EachBlock<u32>, NONE, movsldup),
    row!([Movshdup, Vmovshdup], EachBlock<u32>, NONE, movshdup),
    row!([Pblendw, Vpblendw], Blend<u16>, NONE),
    row!([Blendps, Vblendps, Vpblendd], Blend<u32>, NONE),
    row!([Blendpd, Vblendpd], Blend<u64>, NONE),
    row!([Pblendvb, Vpblendvb], BlendBySign<i8>, NONE),
    row!([Blendvps, Vblendvps], BlendBySign<i32>, NONE),
    row!([Blendvpd, Vblendvpd], BlendBySign<i64>, NONE),
    row!([Packsswb, Vpacksswb], Narrow<i16, i8>, NONE, |lane: i16| lane.clamp(-0x80, 0x7f) as i8),
    row!([Packuswb, Vpackuswb], Narrow<i16, u8>, NONE, |lane: i16| lane.clamp(0, 0xff) as u8),
    row!([Packssdw, Vpackssdw], Narrow<i32, i16>, NONE, |lane: i32| lane.clamp(-0x8000, 0x7fff) as i16),
    row!([Packusdw, Vpackusdw], Narrow<i32, u16>, NONE, |lane: i32| lane.clamp(0, 0xffff) as u16),
    row!([Pmovsxbw, Vpmovsxbw], Widen<i8, i16>, NONE),
    row!([Pmovsxbd, Vpmovsxbd], Widen<i8, i32>, NONE),
    row!([Pmovsxbq, Vpmovsxbq], Widen<i8, i64>, NONE),
    row!([Pmovsxwd, Vpmovsxwd], Widen<i16, i32>, NONE),
    row!([Pmovsxwq, Vpmovsxwq], Widen<i16, i64>, NONE),
    row!([Pmovsxdq, Vpmovsxdq], Widen<i32, i64>, NONE),
    row!([Pmovzxbw, Vpmovzxbw], Widen<u8, u16>, NONE),
    row!([Pmovzxbd, Vpmovzxbd], Widen<u8, u32>, NONE),
    row!([Pmovzxbq, Vpmovzxbq], Widen<u8, u64>, NONE),
    row!([Pmovzxwd, Vpmovzxwd], Widen<u16, u32>, NONE),
    row!([Pmovzxwq, Vpmovzxwq], Widen<u16, u64>, NONE),
    row!([Pmovzxdq, Vpmovzxdq], Widen<u32, u64>, NONE),
];

/// A control byte whose top bit is set makes a zero. Those of an MMX register number 8 bytes.
#[inline(always)]
fn pshufb<const N: usize>(table: &[u8; N], control: &[u8; N]) -> [u8; N] {
    let widened = |bytes: &[u8; N]| {
        let mut wide = [0; 16];
        wide[..N].copy_from_slice(bytes);
        wide
    };
    let control = control.map(|byte| byte & (0x80 | (N - 1) as u8));
    let shuffled = optional::pshufb(&widened(table), &widened(&control));
    shuffled.first_chunk().copied().unwrap_or([0; N])
}

/// The lane that two bits of the immediate choose for lane `index` of four.
#[inline(always)]
fn chosen(immediate: u8, index: usize) -> usize {
    usize::from(immediate >> (2 * (index & 3)) & 3)
}

#[inline(always)]
fn pshufw<const N: usize>(source: &[u16; N], immediate: u8) -> [u16; N] {
    core::array::from_fn(|index| source[chosen(immediate, index) % N])
}

#[inline(always)]
fn pshufd<const N: usize>(source: &[u32; N], immediate: u8) -> [u32; N] {
    core::array::from_fn(|index| source[chosen(immediate, index) % N])
}

#[inline(always)]
fn pshuflw(source: &[u16; 8], immediate: u8) -> [u16; 8] {
    core::array::from_fn(|index| source[if index < 4 { chosen(immediate, index) } else { index }])
}

#[inline(always)]
fn pshufhw(source: &[u16; 8], immediate: u8) -> [u16; 8] {
    core::array::from_fn(|index| source[if index < 4 { index } else { 4 + chosen(immediate, index) }])
}

#[inline(always)]
fn shufps(first: &[u32; 4], second: &[u32; 4], immediate: u8) -> [u32; 4] {
    core::array::from_fn(|index| if index < 2 { first } else { second }[chosen(immediate, index)])
}

/// Each lane has a bit of the immediate; the even ones come from the first source.
#[inline(always)]
fn shufpd([first, second, _]: [&[u64]; 3], index: usize, immediate: u8) -> u64 {
    let source = if index & 1 == 0 { first } else { second };
    source[index & !1 | usize::from(immediate >> (index & 7) & 1)]
}

/// The first source lies above the second; beyond both are zeros.
#[inline(always)]
fn palignr<const N: usize>(first: &[u8; N], second: &[u8; N], immediate: u8) -> [u8; N] {
    let mut both = [0; 64];
    let (low, high) = both.split_at_mut(N);
    low.copy_from_slice(second);
    high[..N].copy_from_slice(first);
    let start = usize::from(immediate).min(32);
    core::array::from_fn(|index| both[start + index])
}

#[inline(always)]
fn unpack<T: Copy, const N: usize>(first: &[T; N], second: &[T; N], from: usize) -> [T; N] {
    core::array::from_fn(|index| if index & 1 == 0 { first } else { second }[(from + index / 2) % N])
}

#[inline(always)]
fn unpack_low<T: Copy, const N: usize>(first: &[T; N], second: &[T; N]) -> [T; N] {
    unpack(first, second, 0)
}

#[inline(always)]
fn unpack_high<T: Copy, const N: usize>(first: &[T; N], second: &[T; N]) -> [T; N] {
    unpack(first, second, N / 2)
}

#[inline(always)]
fn movsldup<const N: usize>(source: &[u32; N]) -> [u32; N] {
    core::array::from_fn(|index| source[index & !1])
}

#[inline(always)]
fn movshdup<const N: usize>(source: &[u32; N]) -> [u32; N] {
    core::array::from_fn(|index| source[(index | 1) % N])
}
