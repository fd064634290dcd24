//! Bits and bytes: tests, scans, counts and checksums (SDM volume 1, sections 7.3.6 and 7.3.17).

use iced_x86::CpuidFeature;

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::processor::Facts;
use crate::families::integer::arith::flag;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::place::{Destination, Mem, Reg, Source};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::{self, Convert, row};

pub(super) static ROWS: &[Row] = &[
    row!(Bt, Bit, Flags::empty(), bt),
    row!(Bts, Bit, Flags::LOCK, bts),
    row!(Btr, Bit, Flags::LOCK, btr),
    row!(Btc, Bit, Flags::LOCK, btc),
    row!(Bsf, scan::<Bsf>, Flags::empty()),
    row!(Bsr, scan::<Bsr>, Flags::empty()),
    row!(Tzcnt, Select, Flags::UNDEFINED_OVERFLOW, select_tzcnt),
    row!(Lzcnt, Select, Flags::UNDEFINED_OVERFLOW, select_lzcnt),
    row!(Popcnt, Convert, Flags::empty(), popcnt),
    row!(Movbe, Convert, Flags::empty(), movbe),
    row!(Crc32, Source<1>, Flags::empty(), crc32),
];

#[inline(always)]
fn bt<W: Width>(dst: W, _bit: W) -> W {
    dst
}

#[inline(always)]
fn bts<W: Width>(dst: W, bit: W) -> W {
    dst | bit
}

#[inline(always)]
fn btr<W: Width>(dst: W, bit: W) -> W {
    dst & !bit
}

#[inline(always)]
fn btc<W: Width>(dst: W, bit: W) -> W {
    dst ^ bit
}

/// Finds a set bit.
trait Scan {
    /// Its number in a value that is not zero.
    fn find<W: Width>(src: W) -> u32;
}
struct Bsf;
struct Bsr;

impl Scan for Bsf {
    #[inline(always)]
    fn find<W: Width>(src: W) -> u32 {
        src.zero_extend().trailing_zeros()
    }
}

impl Scan for Bsr {
    #[inline(always)]
    fn find<W: Width>(src: W) -> u32 {
        63 - src.zero_extend().leading_zeros()
    }
}

/// Without a set bit the destination stays as it was, all 64 bits of it, as AMD's manual says and
/// Intel's processors do. The flags other than ZF are undefined: some processors leave them.
fn scan<O: Scan>(form: &Form<'_>) -> Option<Execute> {
    fn run<W: Width, O: Scan, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let src = S::read::<W>(c)?;
        let zero = src == W::default();
        if !zero {
            Reg::<0>::write(c, W::truncate(u64::from(O::find(src))))?;
        }
        if c.decoded.processor.is(Facts::BIT_SCANS_WRITE_ALL_FLAGS) {
            let number = if zero { 0 } else { O::find(src) };
            let even = number.count_ones().is_multiple_of(2);
            c.set_status(flag(Rflags::ZF, zero) | flag(Rflags::PF, even));
        } else {
            c.registers.rflags.set(Rflags::ZF, zero);
        }
        Ok(Outcome::Next)
    }
    match form.shape(1) {
        Shape::Register => by_width!(form.size(0), run, <O, Reg<1>>),
        Shape::Memory => by_width!(form.size(0), run, <O, Mem>),
        _ => None,
    }
}

/// On a processor without BMI1, F3 before BSF means nothing.
fn select_tzcnt(form: &Form<'_>) -> Option<Execute> {
    if form.processor.features.has(CpuidFeature::BMI1) {
        shape::convert::<Tzcnt>(form)
    } else {
        scan::<Bsf>(form)
    }
}

/// On a processor without LZCNT, F3 before BSR means nothing.
fn select_lzcnt(form: &Form<'_>) -> Option<Execute> {
    if form.processor.features.has(CpuidFeature::LZCNT) {
        shape::convert::<Lzcnt>(form)
    } else {
        scan::<Bsr>(form)
    }
}

struct Tzcnt;
impl Convert for Tzcnt {
    #[inline(always)]
    fn apply<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
        counted(src, src.zero_extend().trailing_zeros().min(W::BITS), flags)
    }
}

struct Lzcnt;
impl Convert for Lzcnt {
    #[inline(always)]
    fn apply<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
        counted(src, src.zero_extend().leading_zeros() - (64 - W::BITS), flags)
    }
}

/// CF says that there was nothing to count to, ZF that there was nothing before it. OF, SF, AF and PF are
/// undefined; OF is left, where [`Flags::UNDEFINED_OVERFLOW`] does not clear it, and the others are cleared.
#[inline(always)]
fn counted<W: Width>(src: W, count: u32, flags: Rflags) -> (W, Rflags) {
    let status = flag(Rflags::CF, src == W::default()) | flag(Rflags::ZF, count == 0);
    let kept = flags.difference(Rflags::STATUS) | flags & Rflags::OF;
    (W::truncate(u64::from(count)), kept | status)
}

#[inline(always)]
fn popcnt<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    let count = W::truncate(u64::from(src.zero_extend().count_ones()));
    (count, flags.difference(Rflags::STATUS) | flag(Rflags::ZF, src == W::default()))
}

#[inline(always)]
fn movbe<W: Width>(src: W, flags: Rflags) -> (W, Rflags) {
    (W::truncate(src.zero_extend().swap_bytes() >> (64 - W::BITS)), flags)
}

fn crc32<W: Width, S: Source>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let src = S::read::<W>(c)?.zero_extend().to_le_bytes();
    let crc = Reg::<0>::read::<u32>(c)?;
    let crc = src.iter().take(W::BYTES).fold(crc, |crc, byte| {
        let index = crc as u8 ^ byte;
        crc >> 8 ^ CRC32C[usize::from(index)]
    });
    Reg::<0>::write(c, crc)?;
    Ok(Outcome::Next)
}

/// What each byte contributes: remainders by the polynomial 11EDC6F41h, its bits reflected.
static CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};
