//! The packed string comparisons of SSE4.2 (SDM volume 2, section 4.1).

use super::arith::flag;
use crate::context::{Context, Execute};
use crate::exception::Exception;
use crate::outcome::Outcome;
use crate::registers::{Rflags, gpr};
use crate::shape::row;
use crate::shape::vector::ClassName;
use crate::table::{Flags, Form, Row, Shape};
use crate::vector::{Alignment, Class, Sse, Xmm};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Pcmpestri, Select, NONE, compare::<Explicit32, Index>),
    row!(Pcmpestri64, Select, NONE, compare::<Explicit64, Index>),
    row!(Pcmpestrm, Select, NONE, compare::<Explicit32, Mask>),
    row!(Pcmpestrm64, Select, NONE, compare::<Explicit64, Mask>),
    row!(Pcmpistri, Select, NONE, compare::<Implicit, Index>),
    row!(Pcmpistrm, Select, NONE, compare::<Implicit, Mask>),
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

/// A string: its characters, sign- or zero-extended, and how many of them are valid.
struct Characters {
    value: [i32; 16],
    length: usize,
}

impl Characters {
    fn of(bits: Xmm, control: Control) -> [i32; 16] {
        let bytes: [u8; 16] = bytemuck::cast(bits);
        let words: [u16; 8] = bytemuck::cast(bits);
        match (control.words(), control.signed()) {
            (false, false) => bytes.map(i32::from),
            (false, true) => bytes.map(|byte| i32::from(byte as i8)),
            (true, signed) => {
                let extend = |word: u16| if signed { i32::from(word as i16) } else { i32::from(word) };
                core::array::from_fn(|index| words.get(index).copied().map_or(0, extend))
            }
        }
    }

    fn is_valid(&self, index: usize) -> bool {
        index < self.length
    }
}

/// Where the lengths of the strings come from.
trait Length {
    /// The length of the string in operand `index`, at most `characters`.
    fn of(c: &Context<'_>, index: usize, value: &[i32; 16], characters: usize) -> usize;
}

/// EAX and EDX.
struct Explicit32;
/// RAX and RDX.
struct Explicit64;
/// Up to the first zero.
struct Implicit;

fn length_register(c: &Context<'_>, index: usize) -> u64 {
    c.registers.gpr[if index == 0 { gpr::RAX } else { gpr::RDX }]
}

impl Length for Explicit32 {
    fn of(c: &Context<'_>, index: usize, _: &[i32; 16], characters: usize) -> usize {
        (length_register(c, index) as i32).unsigned_abs().min(characters as u32) as usize
    }
}

impl Length for Explicit64 {
    fn of(c: &Context<'_>, index: usize, _: &[i32; 16], characters: usize) -> usize {
        (length_register(c, index) as i64).unsigned_abs().min(characters as u64) as usize
    }
}

impl Length for Implicit {
    fn of(_: &Context<'_>, _: usize, value: &[i32; 16], characters: usize) -> usize {
        value.iter().take(characters).position(|&character| character == 0).unwrap_or(characters)
    }
}

/// IntRes1: one bit for each character of the second string.
fn aggregate(first: &Characters, second: &Characters, control: Control) -> u32 {
    let characters = control.characters();
    let holds = |index: usize| match control.aggregation() {
        0 => equal_any(first, second, index),
        1 => in_ranges(first, second, index),
        2 => equal_each(first, second, index),
        _ => equal_ordered(first, second, index, characters),
    };
    (0..characters).map(|index| u32::from(holds(index)) << index).sum()
}

/// The character is one of the first string's.
fn equal_any(first: &Characters, second: &Characters, index: usize) -> bool {
    second.is_valid(index)
        && first.value.iter().take(first.length).any(|&one| one == second.value[index & 15])
}

/// The character is within one of the pairs that the first string consists of.
fn in_ranges(first: &Characters, second: &Characters, index: usize) -> bool {
    let character = second.value[index & 15];
    let pairs = first.value.chunks_exact(2).take(first.length / 2);
    second.is_valid(index) && pairs.into_iter().any(|pair| (pair[0]..=pair[1]).contains(&character))
}

/// The characters of both strings are the same, or both strings have ended.
fn equal_each(first: &Characters, second: &Characters, index: usize) -> bool {
    match (first.is_valid(index), second.is_valid(index)) {
        (true, true) => first.value[index & 15] == second.value[index & 15],
        (left, right) => left == right,
    }
}

/// The first string begins here, as far as the register shows.
fn equal_ordered(first: &Characters, second: &Characters, start: usize, characters: usize) -> bool {
    (0..first.length).zip(start..characters).all(|(of_first, of_second)| {
        second.is_valid(of_second) && first.value[of_first & 15] == second.value[of_second & 15]
    })
}

/// Where the result goes.
trait Output {
    fn write<C: Class<Bits = Xmm>>(c: &mut Context<'_>, result: u32, control: Control);
}

/// To ECX, as an index.
struct Index;
/// To XMM0, as a mask.
struct Mask;

impl Output for Index {
    fn write<C: Class<Bits = Xmm>>(c: &mut Context<'_>, result: u32, control: Control) {
        let index = match (result, control.most_significant()) {
            (0, _) => control.characters() as u32,
            (_, true) => result.ilog2(),
            (_, false) => result.trailing_zeros(),
        };
        c.registers.gpr[gpr::RCX] = u64::from(index);
    }
}

impl Output for Mask {
    fn write<C: Class<Bits = Xmm>>(c: &mut Context<'_>, result: u32, control: Control) {
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
        C::set_number(c, 0, value);
    }
}

fn compare<L: Length, R: Output>(form: &Form<'_>) -> Option<Execute> {
    fn register<C: Class<Bits = Xmm>, L: Length, R: Output>(
        c: &mut Context<'_>,
    ) -> Result<Outcome, Exception> {
        run::<C, L, R>(c, C::get(c, 1));
        Ok(Outcome::Next)
    }
    /// Unlike other memory operands of legacy SSE, this one need not be aligned.
    fn memory<C: Class<Bits = Xmm>, L: Length, R: Output>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let second = c.load_vector(Alignment::Any)?;
        run::<C, L, R>(c, second);
        Ok(Outcome::Next)
    }
    match (form.class(0)?, form.shape(1)) {
        (ClassName::Sse, Shape::Memory) => Some(memory::<Sse, L, R>),
        (ClassName::Sse, _) => Some(register::<Sse, L, R>),
        _ => None,
    }
}

#[inline(always)]
fn run<C: Class<Bits = Xmm>, L: Length, R: Output>(c: &mut Context<'_>, second: Xmm) {
    let control = Control(c.displaced.immediate as u8);
    let characters = control.characters();
    let string = |index, bits| {
        let value = Characters::of(bits, control);
        Characters { value, length: L::of(c, index, &value, characters) }
    };
    let (first, second) = (string(0, C::get(c, 0)), string(1, second));
    let all = (1 << characters) - 1;
    let valid = (1 << second.length) - 1;
    let mut result = aggregate(&first, &second, control);
    if control.negative() {
        result ^= if control.masked() { valid } else { all };
    }
    R::write::<C>(c, result, control);
    c.set_status(
        flag(Rflags::CF, result != 0)
            | flag(Rflags::ZF, second.length < characters)
            | flag(Rflags::SF, first.length < characters)
            | flag(Rflags::OF, result & 1 != 0),
    );
}
