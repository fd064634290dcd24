//! The packed string comparisons of SSE4.2 (SDM volume 2, section 4.1).

use iced_x86::EncodingKind;

use super::vector_move::set_xmm;
use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::families::integer::arith::flag;
use crate::model::exception::Exception;
use crate::model::lane::Xmm;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::run::context::{Context, Execute};
use crate::run::phases::{Alignment, Layout, Operands};
use crate::run::row::Row;
use crate::shape::row;

const NONE: Flags = Flags::empty();

/// Unlike other memory operands of legacy SSE, this one need not be aligned.
const STRINGS: Layout = Layout::new(Operands::Two, 1).aligned(Alignment::Any);

pub(super) static ROWS: &[Row] = &[
    row!([Pcmpestri, Vpcmpestri], Select, NONE, compare::<Explicit32, Index>).with(STRINGS),
    row!([Pcmpestri64, Vpcmpestri64], Select, NONE, compare::<Explicit64, Index>).with(STRINGS),
    row!([Pcmpestrm, Vpcmpestrm], Select, NONE, compare::<Explicit32, Mask>).with(STRINGS),
    row!([Pcmpestrm64, Vpcmpestrm64], Select, NONE, compare::<Explicit64, Mask>).with(STRINGS),
    row!([Pcmpistri, Vpcmpistri], Select, NONE, compare::<Implicit, Index>).with(STRINGS),
    row!([Pcmpistrm, Vpcmpistrm], Select, NONE, compare::<Implicit, Mask>).with(STRINGS),
];

/// What the immediate says.
#[derive(Clone, Copy)]
struct Control(u8);

impl Control {
    /// Whether the characters are words.
    fn words(self) -> bool {
        self.0 & 1 != 0
    }
    fn signed(self) -> bool {
        self.0 & 2 != 0
    }
    fn aggregation(self) -> u8 {
        self.0 >> 2 & 3
    }
    /// Whether the result is negated.
    fn negative(self) -> bool {
        self.0 & 0x10 != 0
    }
    /// Whether only where the second string has characters.
    fn masked(self) -> bool {
        self.0 & 0x20 != 0
    }
    /// Whether the index is that of the last one, or the mask is of bytes or words.
    fn most_significant(self) -> bool {
        self.0 & 0x40 != 0
    }
    /// How many characters a register holds.
    fn characters(self) -> usize {
        if self.words() { 8 } else { 16 }
    }
}

/// One bit for each character of which `holds` is true, the first one lowest.
#[inline(always)]
fn bits<const N: usize>(holds: impl Fn(usize) -> bool) -> u32 {
    let mut bytes = [0; 16];
    for (index, byte) in bytes.iter_mut().take(N).enumerate() {
        *byte = u8::from(holds(index));
    }
    let [low, high]: [u64; 2] = bytemuck::cast(bytes);
    // The multiplication moves the lowest bit of each byte to its own place in the top byte.
    let gather = |bytes: u64| bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56;
    (gather(low) | gather(high) << 8) as u32
}

/// As many ones.
#[inline(always)]
fn ones(count: usize) -> u32 {
    (1 << (count & 31)) - 1
}

/// Where the lengths of the strings come from.
trait Length {
    /// The length of the string in operand `index`, whose characters `is_zero` asks about.
    fn of<const N: usize>(c: &Context<'_>, index: usize, is_zero: impl Fn(usize) -> bool) -> usize;
}

/// EAX and EDX.
struct Explicit32;
/// RAX and RDX.
struct Explicit64;
/// Up to the first zero.
struct Implicit;

#[inline(always)]
fn length_register(c: &Context<'_>, index: usize) -> u64 {
    c.registers.gpr[if index == 0 { gpr::RAX } else { gpr::RDX }]
}

impl Length for Explicit32 {
    #[inline(always)]
    fn of<const N: usize>(c: &Context<'_>, index: usize, _: impl Fn(usize) -> bool) -> usize {
        (length_register(c, index) as i32).unsigned_abs().min(N as u32) as usize
    }
}

impl Length for Explicit64 {
    #[inline(always)]
    fn of<const N: usize>(c: &Context<'_>, index: usize, _: impl Fn(usize) -> bool) -> usize {
        (length_register(c, index) as i64).unsigned_abs().min(N as u64) as usize
    }
}

impl Length for Implicit {
    #[inline(always)]
    fn of<const N: usize>(_: &Context<'_>, _: usize, is_zero: impl Fn(usize) -> bool) -> usize {
        (bits::<N>(is_zero).trailing_zeros() as usize).min(N)
    }
}

/// What was compared: IntRes2, and the lengths.
struct Compared {
    result: u32,
    lengths: [usize; 2],
}

/// Compares strings of `N` characters.
#[inline(always)]
fn compare_characters<T, L, const N: usize>(
    c: &Context<'_>,
    strings: [&[T; N]; 2],
    control: Control,
) -> Compared
where
    T: Copy + Ord + Default,
    L: Length,
{
    let [first, second] = strings;
    let length = |index, string: &[T; N]| L::of::<N>(c, index, |character| string[character] == T::default());
    let lengths = [length(0, first), length(1, second)];
    let [first_valid, second_valid] = lengths.map(ones);
    let valid = first.iter().take(lengths[0]);
    // IntRes1: one bit for each character of the second string.
    let result = match control.aggregation() {
        // Equal any: the character is one of the first string's.
        0 => second_valid & valid.fold(0, |any, one| any | bits::<N>(|index| second[index] == *one)),
        // Ranges: it is within one of the pairs that the first string consists of.
        1 => {
            let pairs = first.chunks_exact(2).take(lengths[0] / 2);
            let within = |pair: &[T]| bits::<N>(|index| pair[0] <= second[index] && second[index] <= pair[1]);
            second_valid & pairs.fold(0, |any, pair| any | within(pair))
        }
        // Equal each: both characters are the same, or both strings have ended.
        2 => {
            let equal = bits::<N>(|index| first[index] == second[index]);
            equal & first_valid & second_valid | !(first_valid | second_valid) & ones(N)
        }
        // Equal ordered: the first string begins here, as far as the register shows.
        _ => valid.enumerate().fold(ones(N), |all, (offset, one)| {
            let equal = bits::<N>(|index| second[index] == *one) & second_valid;
            all & (equal >> offset | !(ones(N) >> offset))
        }),
    };
    let negated = match (control.negative(), control.masked()) {
        (false, _) => 0,
        (true, false) => ones(N),
        (true, true) => second_valid,
    };
    Compared { result: result ^ negated, lengths }
}

/// Where the result goes.
trait Output {
    fn write<const LEGACY: bool>(c: &mut Context<'_>, result: u32, control: Control);
}

/// To ECX, as an index.
struct Index;
/// To XMM0, as a mask.
struct Mask;

impl Output for Index {
    fn write<const LEGACY: bool>(c: &mut Context<'_>, result: u32, control: Control) {
        let index = match (result, control.most_significant()) {
            (0, _) => control.characters() as u32,
            (_, true) => result.ilog2(),
            (_, false) => result.trailing_zeros(),
        };
        c.registers.gpr[gpr::RCX] = u64::from(index);
    }
}

impl Output for Mask {
    fn write<const LEGACY: bool>(c: &mut Context<'_>, result: u32, control: Control) {
        let all_ones_if = |index: usize| (result >> (index & 31) & 1) as u16;
        let value = match (control.most_significant(), control.words()) {
            (false, _) => [u64::from(result), 0],
            (true, false) => {
                bytemuck::cast(core::array::from_fn::<u8, 16, _>(|index| (all_ones_if(index) * 0xff) as u8))
            }
            (true, true) => {
                bytemuck::cast(core::array::from_fn::<u16, 8, _>(|index| all_ones_if(index) * 0xffff))
            }
        };
        set_xmm::<LEGACY>(c, 0, value);
    }
}

fn compare<L: Length, R: Output>(form: &Form<'_>) -> Option<Execute> {
    Some(match form.encoding() {
        EncodingKind::Legacy => run::<L, R, true>,
        _ => run::<L, R, false>,
    })
}

fn run<L: Length, R: Output, const LEGACY: bool>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let mut memory = Xmm::default();
    c.fetch(&mut memory)?;
    let control = Control(c.decoded.immediate as u8);
    let [first, second, _] = c.sources(&memory);
    let strings = [first, second];
    let Compared { result, lengths } = match (control.words(), control.signed()) {
        (false, false) => compare_characters::<u8, L, 16>(c, strings.map(bytemuck::cast_ref), control),
        (false, true) => compare_characters::<i8, L, 16>(c, strings.map(bytemuck::cast_ref), control),
        (true, false) => compare_characters::<u16, L, 8>(c, strings.map(bytemuck::cast_ref), control),
        (true, true) => compare_characters::<i16, L, 8>(c, strings.map(bytemuck::cast_ref), control),
    };
    R::write::<LEGACY>(c, result, control);
    c.set_status(
        flag(Rflags::CF, result != 0)
            | flag(Rflags::ZF, lengths[1] < control.characters())
            | flag(Rflags::SF, lengths[0] < control.characters())
            | flag(Rflags::OF, result & 1 != 0),
    );
    Ok(Outcome::Next)
}
