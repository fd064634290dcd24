//! Values as they are shown: as gdb prints them, and as JSON.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};

use crate::arguments::capture::{Apart, Captured, Slice, TextAt, counted, is_letter, slice_of};
use crate::language::float_of_extended;
use crate::language::types::{Encoding, Member, Type, TypeId, Types};

/// A value that was taken at a hit.
///
/// It displays as gdb prints it, or, where the kernel has the type and gdb has not, as the kernel does. As JSON,
/// integers, addresses and floats are numbers (one that is not finite is a text), letters and texts are texts,
/// structures are objects, and what could not be had is `"(fault)"`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An integer without a sign.
    Unsigned(u64),
    /// An integer with one.
    Signed(i64),
    /// An integer that is shown in hexadecimal.
    Hexadecimal(u64),
    /// A number of 32 or 64 bits.
    Float(f64),
    /// A truth value.
    Boolean(bool),
    /// A letter.
    Character(u32),
    /// A letter of Unicode, of more than a byte.
    Letter(char),
    /// A text.
    Text(Text),
    /// An address, and the text there.
    Pointer {
        /// The address.
        address: u64,
        /// What is there, if it is a text; `None` in it if it cannot be read.
        text: Option<Option<Text>>,
    },
    /// A reference: the address, and what is there.
    Reference {
        /// The address.
        address: u64,
        /// What is there.
        value: Box<Value>,
    },
    /// An address that is to be shown as the function or the variable that is there.
    Symbol(u64),
    /// A number that has a name.
    Enumerator {
        /// The number.
        number: i128,
        /// Its name, or those that it is put together from; `None` if it has none.
        name: Option<String>,
    },
    /// Parts with names.
    Structure(Vec<(String, Value)>),
    /// A structure that is one of several, by its name.
    Variant(String, Box<Value>),
    /// Elements.
    Array(Vec<Value>),
    /// An integer of more than 64 bits, in decimal.
    Wide(String),
    /// Bytes that are shown in hexadecimal, the lowest last.
    Bytes(Vec<u8>),
    /// It could not be read.
    Fault,
    /// It is nowhere: the compiler has left it out. Why.
    Missing(String),
}

/// A text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Whether there was more.
    pub cut: bool,
}

impl Text {
    /// As it is, without quotes; what is no UTF-8 is replaced.
    #[must_use]
    pub fn to_plain(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Text { bytes, cut } = self;
        let end = if *cut { "..." } else { "" };
        write!(f, "\"")?;
        for chunk in bytes.utf8_chunks() {
            chunk.valid().chars().try_for_each(|letter| write_letter(f, letter, '"'))?;
            chunk.invalid().iter().try_for_each(|byte| write!(f, "\\{byte:03o}"))?;
        }
        write!(f, "\"{end}")
    }
}

fn write_letter(f: &mut fmt::Formatter<'_>, letter: char, quote: char) -> fmt::Result {
    match letter {
        '\n' => f.write_str("\\n"),
        '\t' => f.write_str("\\t"),
        '\r' => f.write_str("\\r"),
        '\\' => f.write_str("\\\\"),
        letter if letter == quote => write!(f, "\\{quote}"),
        letter if letter.is_control() => write!(f, "\\{:03o}", u32::from(letter)),
        letter => write!(f, "{letter}"),
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Unsigned(value) => write!(f, "{value}"),
            Value::Signed(value) => write!(f, "{value}"),
            Value::Hexadecimal(value) | Value::Symbol(value) => write!(f, "{value:#x}"),
            Value::Float(value) => write_float(f, *value),
            Value::Boolean(value) => write!(f, "{value}"),
            Value::Letter(letter) => {
                write!(f, "'")?;
                write_letter(f, *letter, '\'')?;
                write!(f, "'")
            }
            Value::Character(code) => match char::from_u32(*code).filter(|_| *code < 0x80 || *code > 0xff) {
                Some(letter) => {
                    write!(f, "'")?;
                    write_letter(f, letter, '\'')?;
                    write!(f, "'")
                }
                None => write!(f, "'\\{code:03o}'"),
            },
            Value::Text(text) => write!(f, "{text}"),
            Value::Pointer { address, text: None } => write!(f, "{address:#x}"),
            Value::Pointer { address: 0, .. } => write!(f, "0x0"),
            Value::Pointer { address, text: Some(Some(text)) } => write!(f, "{address:#x} {text}"),
            Value::Pointer { address, text: Some(None) } => write!(f, "{address:#x} (fault)"),
            Value::Reference { address, value } => write!(f, "@{address:#x}: {value}"),
            Value::Enumerator { name: Some(name), .. } => f.write_str(name),
            Value::Enumerator { number, name: None } => write!(f, "{number}"),
            Value::Structure(members) => {
                write!(f, "{{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    let comma = if index == 0 { "" } else { ", " };
                    match name.as_str() {
                        "" => write!(f, "{comma}{value}")?,
                        name => write!(f, "{comma}{name} = {value}")?,
                    }
                }
                write!(f, "}}")
            }
            Value::Variant(name, value) => match &**value {
                Value::Structure(members) if members.is_empty() => f.write_str(name),
                value => write!(f, "{name}{value}"),
            },
            Value::Array(elements) => {
                write!(f, "{{")?;
                for (index, value) in elements.iter().enumerate() {
                    write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
                }
                write!(f, "}}")
            }
            Value::Wide(number) => f.write_str(number),
            Value::Bytes(bytes) => {
                write!(f, "0x")?;
                bytes.iter().rev().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
            Value::Fault => f.write_str("(fault)"),
            Value::Missing(why) => write!(f, "({why})"),
        }
    }
}

fn write_float(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    /// Between these, figures are easier to read than an exponent.
    const PLAIN: std::ops::Range<f64> = 1e-5..1e17;
    if value.is_nan() {
        return write!(f, "{}nan", if value.is_sign_negative() { "-" } else { "" });
    }
    if value == 0.0 || value.is_infinite() || PLAIN.contains(&value.abs()) {
        return write!(f, "{value}");
    }
    // As C writes it: a sign, and two figures at least.
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((figures, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            write!(f, "{figures}e{sign}{digits:0>2}")
        }
        None => f.write_str(&text),
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Value::Unsigned(value) | Value::Hexadecimal(value) => serializer.serialize_u64(*value),
            Value::Signed(value) => serializer.serialize_i64(*value),
            Value::Float(value) if value.is_finite() => serializer.serialize_f64(*value),
            Value::Boolean(value) => serializer.serialize_bool(*value),
            Value::Letter(letter) => serializer.serialize_char(*letter),
            Value::Character(code) => match char::from_u32(*code) {
                Some(letter) => serializer.serialize_char(letter),
                None => serializer.serialize_u32(*code),
            },
            Value::Text(Text { bytes, .. }) | Value::Pointer { text: Some(Some(Text { bytes, .. })), .. } => {
                serializer.serialize_str(&String::from_utf8_lossy(bytes))
            }
            Value::Pointer { address, .. } => serializer.serialize_u64(*address),
            Value::Reference { value, .. } => value.serialize(serializer),
            Value::Enumerator { number, name: None } => serializer.serialize_i128(*number),
            Value::Structure(members) if members.iter().any(|(name, _)| !name.is_empty()) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                members.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
            Value::Structure(members) => {
                let mut elements = serializer.serialize_seq(Some(members.len()))?;
                members.iter().try_for_each(|(_, value)| elements.serialize_element(value))?;
                elements.end()
            }
            Value::Variant(name, value) => match &**value {
                Value::Structure(members) if members.is_empty() => serializer.serialize_str(name),
                value => {
                    let mut map = serializer.serialize_map(Some(1))?;
                    map.serialize_entry(name, value)?;
                    map.end()
                }
            },
            Value::Array(elements) => elements.serialize(serializer),
            Value::Float(_)
            | Value::Symbol(_)
            | Value::Enumerator { .. }
            | Value::Wide(_)
            | Value::Bytes(_)
            | Value::Fault
            | Value::Missing(_) => serializer.collect_str(self),
        }
    }
}

/// What is shown of one argument.
pub(crate) struct Shown<'a> {
    types: &'a Types,
    /// The texts that it leads to.
    texts: Vec<(TextAt, Captured)>,
    /// The bytes that the compiler keeps nowhere.
    nowhere: Vec<Range<u64>>,
    /// What lies elsewhere.
    apart: &'a [(Apart, Captured)],
    /// In which of these we are, from 1 on.
    region: u32,
    /// The virtual base classes of an object that have been shown, as each is once.
    bases: RefCell<Vec<TypeId>>,
}

/// How deep structures are shown, how many elements of an array, and how much in all.
const DEEPEST: usize = 16;
const MOST_ELEMENTS: u64 = 200;
const MOST_VALUES: usize = 2000;

impl<'a> Shown<'a> {
    pub(crate) fn new(
        types: &'a Types,
        texts: Vec<(TextAt, Captured)>,
        nowhere: Vec<Range<u64>>,
        apart: &'a [(Apart, Captured)],
    ) -> Shown<'a> {
        Shown { types, texts, nowhere, apart, region: 0, bases: RefCell::default() }
    }

    /// The value of that type in `bytes`.
    pub(crate) fn value(&self, of: TypeId, bytes: &[u8]) -> Value {
        self.at(of, bytes, 0, 0, &mut 0)
    }

    fn text_at(&self, offset: u64) -> Option<&Captured> {
        let wanted = (self.region, offset);
        self.texts.iter().find(|(at, _)| *at == wanted).map(|(_, text)| text)
    }

    fn at(&self, of: TypeId, bytes: &[u8], offset: u64, depth: usize, count: &mut usize) -> Value {
        *count += 1;
        if depth > DEEPEST || *count > MOST_VALUES {
            return Value::Missing("...".to_owned());
        }
        if self.is_nowhere(of, offset) {
            return Value::Missing("optimized out".to_owned());
        }
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        match self.types.get_resolved(of) {
            Some(Type::Base { encoding, bytes, .. }) => number(*encoding, *bytes, rest),
            Some(Type::Pointer { to, reference }) => {
                let Some(address) = quadword(rest, 8) else { return Value::Fault };
                if let Some(to) = to.filter(|_| *reference && depth == 0) {
                    let value = Box::new(self.elsewhere(of, to, offset, depth, count));
                    return Value::Reference { address, value };
                }
                let leads_to_text = to.is_some_and(|to| is_letter(self.types, to));
                let text = self.text_at(offset).filter(|_| leads_to_text).map(text_of);
                Value::Pointer { address, text }
            }
            Some(Type::Function { .. }) => quadword(rest, 8).map_or(Value::Fault, Value::Symbol),
            Some(Type::Enumeration { bytes, signed, enumerators, .. }) => {
                enumerator(*bytes, *signed, enumerators, rest)
            }
            Some(Type::Array { element, count: Some(length) }) => {
                self.array(*element, *length, bytes, offset, depth, count)
            }
            Some(Type::Structure { members, variants, .. }) => {
                if counted(self.types, of).is_some()
                    && let Some(text) = self.text_at(offset)
                {
                    return text_of(text).map_or(Value::Fault, Value::Text);
                }
                if let Some(Slice { element, .. }) = slice_of(self.types, of)
                    && let Some(captured) = self.apart_at(of, offset).map(|(_, captured)| captured)
                {
                    let count = captured.bytes.len() as u64;
                    let count = count.checked_div(self.types.size_of(element).unwrap_or(0)).unwrap_or(0);
                    let alone = Shown::new(self.types, Vec::new(), Vec::new(), &[]);
                    return match captured.fault {
                        true => Value::Fault,
                        false => alone.array(element, count, &captured.bytes, 0, depth, &mut 0),
                    };
                }
                if let Some(variants) = variants {
                    return self.variant(variants, bytes, offset, depth, count);
                }
                let mut shown = Vec::new();
                self.members(members, bytes, offset, depth, count, &mut shown);
                Value::Structure(shown)
            }
            Some(Type::Elsewhere { of: base, .. }) => self.elsewhere(of, *base, offset, depth, count),
            Some(Type::Text) => Value::Text(Text { bytes: rest.to_vec(), cut: false }),
            _ => Value::Missing("its type is not known".to_owned()),
        }
    }

    /// What something of that type has elsewhere, and its number.
    fn apart_at(&self, of: TypeId, at: u64) -> Option<(usize, &'a Captured)> {
        let apart = Apart { region: self.region, at, of: self.types.resolved(of) };
        let index = self.apart.iter().position(|(known, _)| *known == apart)?;
        self.apart.get(index).map(|(_, captured)| (index, captured))
    }

    fn elsewhere(&self, of: TypeId, base: TypeId, at: u64, depth: usize, count: &mut usize) -> Value {
        let found = self.apart_at(of, at).filter(|(_, captured)| !captured.fault);
        let Some((index, captured)) = found else { return Value::Fault };
        let there = Shown {
            region: u32::try_from(index + 1).unwrap_or(u32::MAX),
            bases: RefCell::new(self.bases.take()),
            ..Shown::new(self.types, self.texts.clone(), Vec::new(), self.apart)
        };
        let value = there.at(base, &captured.bytes, 0, depth + 1, count);
        self.bases.replace(there.bases.take());
        value
    }

    /// Whether it is something that is no use in part, and is not all there.
    fn is_nowhere(&self, of: TypeId, offset: u64) -> bool {
        let has_parts = match self.types.get_resolved(of) {
            Some(Type::Structure { .. }) => true,
            Some(Type::Array { element, .. }) => !is_letter(self.types, *element),
            _ => false,
        };
        let end = offset.saturating_add(self.types.size_of(of).unwrap_or(1));
        !has_parts && self.nowhere.iter().any(|range| range.start < end && range.end > offset)
    }

    fn array(
        &self,
        element: TypeId,
        length: u64,
        bytes: &[u8],
        offset: u64,
        depth: usize,
        count: &mut usize,
    ) -> Value {
        let size = self.types.size_of(element).unwrap_or(0);
        if is_letter(self.types, element) {
            let start =
                usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
            let letters = start.get(..length.min(start.len() as u64) as usize).unwrap_or_default();
            let end = letters.iter().position(|&byte| byte == 0).unwrap_or(letters.len());
            return Value::Text(Text { bytes: letters[..end].to_vec(), cut: false });
        }
        // Of a long one only the beginning was taken.
        let taken = (bytes.len() as u64).saturating_sub(offset).checked_div(size).unwrap_or(length).max(1);
        let elements = (0..length.min(taken).min(MOST_ELEMENTS)).map(|index| {
            let within = offset.wrapping_add(index.wrapping_mul(size));
            self.at(element, bytes, within, depth + 1, count)
        });
        Value::Array(elements.collect())
    }

    fn members(
        &self,
        members: &[Member],
        bytes: &[u8],
        offset: u64,
        depth: usize,
        count: &mut usize,
        shown: &mut Vec<(String, Value)>,
    ) {
        for member in members {
            let within = offset.wrapping_add(member.offset);
            if let Some(Type::Elsewhere { of, .. }) = self.types.get_resolved(member.of) {
                let base = self.types.resolved(*of);
                if self.bases.borrow().contains(&base) {
                    continue;
                }
                self.bases.borrow_mut().push(base);
            }
            // What is no base class is an object of its own.
            let outer = (!member.inherited).then(|| self.bases.take());
            let value = match member.bits {
                Some(_) if self.is_nowhere(member.of, within) => Value::Missing("optimized out".to_owned()),
                Some((first, length)) => self.bit_field(member.of, bytes, within, first, length),
                None => self.at(member.of, bytes, within, depth + 1, count),
            };
            if let Some(outer) = outer {
                self.bases.replace(outer);
            }
            let name = match &member.name {
                Some(name) if member.inherited => format!("<{name}>"),
                Some(name) => name.clone(),
                None => String::new(),
            };
            shown.push((name, value));
        }
    }

    fn bit_field(&self, of: TypeId, bytes: &[u8], offset: u64, first: u32, length: u32) -> Value {
        let start = usize::try_from(offset.wrapping_add(u64::from(first / 8))).unwrap_or(usize::MAX);
        let mut whole = [0; 16];
        whole.iter_mut().zip(bytes.get(start..).unwrap_or_default()).for_each(|(to, &from)| *to = from);
        let whole = u128::from_le_bytes(whole) >> (first % 8);
        let unused = 64 - length.clamp(1, 64);
        let low = (whole as u64) << unused;
        let signed = match self.types.get_resolved(of) {
            Some(Type::Base { encoding, .. }) => {
                matches!(encoding, Encoding::Signed | Encoding::SignedCharacter)
            }
            Some(&Type::Enumeration { signed, .. }) => signed,
            _ => false,
        };
        let value = if signed { (low.cast_signed() >> unused).cast_unsigned() } else { low >> unused };
        let size = self.types.size_of(of).filter(|&size| size <= 8).unwrap_or(8) as usize;
        let alone = Shown::new(self.types, Vec::new(), Vec::new(), &[]);
        alone.value(of, value.to_le_bytes().get(..size).unwrap_or_default())
    }

    fn variant(
        &self,
        variants: &crate::language::types::Variants,
        bytes: &[u8],
        offset: u64,
        depth: usize,
        count: &mut usize,
    ) -> Value {
        let hidden = variants.discriminant.as_ref().is_some_and(|discriminant| {
            self.is_nowhere(discriminant.of, offset.wrapping_add(discriminant.offset))
        });
        if hidden {
            return Value::Missing("optimized out".to_owned());
        }
        let number = variants.discriminant.as_ref().and_then(|discriminant| {
            let size = self.types.size_of(discriminant.of)?;
            let start = usize::try_from(offset.wrapping_add(discriminant.offset)).ok()?;
            quadword(bytes.get(start..)?, size)
        });
        let is_it = |numbers: &[(u64, u64)]| {
            number.is_some_and(|number| numbers.iter().any(|&(from, to)| (from..=to).contains(&number)))
        };
        let all = &variants.variants;
        let found = all.iter().find(|variant| is_it(&variant.numbers));
        let Some(variant) = found.or_else(|| all.iter().find(|variant| variant.numbers.is_empty())) else {
            return Value::Missing("it is none of its variants".to_owned());
        };
        let within = offset.wrapping_add(variant.member.offset);
        let value = self.at(variant.member.of, bytes, within, depth + 1, count);
        let name = variant.member.name.clone().or_else(|| match self.types.get_resolved(variant.member.of) {
            Some(Type::Structure { name, .. }) => name.clone(),
            _ => None,
        });
        Value::Variant(name.unwrap_or_default(), Box::new(value))
    }
}

pub(crate) fn text_of(captured: &Captured) -> Option<Text> {
    (!captured.fault).then(|| Text { bytes: captured.bytes.clone(), cut: captured.cut })
}

/// The number in the first `count` bytes.
fn quadword(bytes: &[u8], count: u64) -> Option<u64> {
    let mut quadword = [0; 8];
    let from = bytes.get(..usize::try_from(count).ok().filter(|&count| count <= 8)?)?;
    quadword.iter_mut().zip(from).for_each(|(byte, &from)| *byte = from);
    Some(u64::from_le_bytes(quadword))
}

fn signed(value: u64, bytes: u64) -> i64 {
    let unused = 64 - 8 * bytes.clamp(1, 8) as u32;
    (value << unused).cast_signed() >> unused
}

fn number(encoding: Encoding, size: u64, bytes: &[u8]) -> Value {
    let whole =
        |bytes: &[u8]| bytes.get(..size.min(bytes.len() as u64) as usize).unwrap_or_default().to_vec();
    if encoding == Encoding::Float {
        return float(size, bytes).map_or(Value::Fault, Value::Float);
    }
    if encoding == Encoding::ComplexFloat {
        let half = size / 2;
        let second = usize::try_from(half).ok().and_then(|half| bytes.get(half..)).unwrap_or_default();
        let parts = [float(half, bytes), float(half, second)];
        return Value::Array(parts.map(|part| part.map_or(Value::Fault, Value::Float)).to_vec());
    }
    if size == 0 {
        // Rust's `()`.
        return Value::Structure(Vec::new());
    }
    if let (16, Some(wide)) = (size, bytes.first_chunk()) {
        match encoding {
            Encoding::Unsigned => return Value::Wide(u128::from_le_bytes(*wide).to_string()),
            Encoding::Signed => return Value::Wide(i128::from_le_bytes(*wide).to_string()),
            _ => {}
        }
    }
    if size > 8 {
        return Value::Bytes(whole(bytes));
    }
    let Some(value) = quadword(bytes, size) else { return Value::Fault };
    match encoding {
        Encoding::Unsigned => Value::Unsigned(value),
        Encoding::Signed => Value::Signed(signed(value, size)),
        Encoding::Boolean if value <= 1 => Value::Boolean(value == 1),
        Encoding::Boolean => Value::Unsigned(value),
        Encoding::Unicode if size > 1 => {
            char::from_u32(value as u32).map_or(Value::Character(value as u32), Value::Letter)
        }
        Encoding::UnsignedCharacter | Encoding::SignedCharacter | Encoding::Unicode => {
            Value::Character(value as u32)
        }
        Encoding::Address => Value::Symbol(value),
        _ => Value::Hexadecimal(value),
    }
}

fn float(size: u64, bytes: &[u8]) -> Option<f64> {
    Some(match size {
        2 => half_float(quadword(bytes, 2)? as u16),
        // The shortest figures are those of the single, not of the double next to it.
        4 => {
            let single = f32::from_bits(quadword(bytes, 4)? as u32);
            if single.is_finite() { single.to_string().parse().ok()? } else { f64::from(single) }
        }
        8 => f64::from_bits(quadword(bytes, 8)?),
        10..=16 => float_of_extended(quadword(bytes, 8)?, quadword(bytes.get(8..)?, 2)? as u16),
        _ => return None,
    })
}

/// A number of 16 bits (IEEE 754, binary16).
fn half_float(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2f64.powi(-24),
        0x1f if fraction == 0.0 => f64::INFINITY,
        0x1f => f64::NAN,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 0 { magnitude } else { -magnitude }
}

fn enumerator(size: u64, is_signed: bool, enumerators: &[(String, i128)], bytes: &[u8]) -> Value {
    let Some(value) = quadword(bytes, size) else { return Value::Fault };
    let number = if is_signed { i128::from(signed(value, size)) } else { i128::from(value) };
    let name = enumerators.iter().find(|(_, known)| *known == number).map(|(name, _)| name.clone());
    Value::Enumerator { number, name: name.or_else(|| flags(number, enumerators)) }
}

/// The names of flags whose sum it is, as gdb writes them: `(A | B)`.
fn flags(number: i128, enumerators: &[(String, i128)]) -> Option<String> {
    let is_flag = |value: i128| value > 0 && value.count_ones() == 1;
    if number <= 0 || !enumerators.iter().all(|&(_, value)| value == 0 || is_flag(value)) {
        return None;
    }
    let mut rest = number;
    let mut names = Vec::new();
    for (name, value) in enumerators.iter().filter(|&&(_, value)| is_flag(value)) {
        if rest & value != 0 {
            rest &= !value;
            names.push(name.as_str());
        }
    }
    match (names.is_empty(), rest) {
        (true, _) => None,
        (false, 0) => Some(format!("({})", names.join(" | "))),
        (false, rest) => Some(format!("({} | unknown: {rest:#x})", names.join(" | "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_as_gdb_does() {
        let text = |bytes: &[u8]| Text { bytes: bytes.to_vec(), cut: false };
        for (value, expected, json) in [
            (Value::Signed(-3), "-3", "-3"),
            (Value::Hexadecimal(16), "0x10", "16"),
            (Value::Float(1.5), "1.5", "1.5"),
            (Value::Float(3.0), "3", "3.0"),
            (Value::Float(1e300), "1e+300", "1e+300"),
            (Value::Float(-2.5e-7), "-2.5e-07", "-2.5e-7"),
            (Value::Wide("-5".into()), "-5", "\"-5\""),
            (Value::Float(f64::NEG_INFINITY), "-inf", "\"-inf\""),
            (Value::Character(u32::from(b'a')), "'a'", "\"a\""),
            (Value::Letter('é'), "'é'", "\"é\""),
            (Value::Character(10), "'\\n'", "\"\\n\""),
            (Value::Character(200), "'\\310'", "\"È\""),
            (Value::Text(text(b"a\"\xff")), "\"a\\\"\\377\"", "\"a\\\"\u{fffd}\""),
            (Value::Pointer { address: 0, text: Some(None) }, "0x0", "0"),
            (Value::Pointer { address: 7, text: Some(None) }, "0x7 (fault)", "7"),
            (Value::Pointer { address: 7, text: Some(Some(text(b"x"))) }, "0x7 \"x\"", "\"x\""),
            (Value::Array(vec![Value::Unsigned(1), Value::Fault]), "{1, (fault)}", "[1,\"(fault)\"]"),
            (
                Value::Structure(vec![("x".into(), Value::Unsigned(1)), ("y".into(), Value::Boolean(true))]),
                "{x = 1, y = true}",
                "{\"x\":1,\"y\":true}",
            ),
            (Value::Variant("None".into(), Box::new(Value::Structure(vec![]))), "None", "\"None\""),
            (Value::Bytes(vec![1, 2]), "0x0201", "\"0x0201\""),
        ] {
            assert_eq!(value.to_string(), expected);
            assert_eq!(serde_json::to_string(&value).unwrap(), json);
        }
    }

    #[test]
    fn small_floats() {
        for (bits, expected) in [(0x3c00, 1.0), (0xc000, -2.0), (1, 2f64.powi(-24)), (0x7bff, 65504.0)] {
            assert_eq!(half_float(bits), expected);
        }
        assert!(half_float(0x7e00).is_nan());
        assert_eq!(float(4, &0.1f32.to_le_bytes()), Some(0.1));
    }

    #[test]
    fn flags_are_put_together() {
        let enumerators = [("NONE".to_owned(), 0), ("A".to_owned(), 1), ("B".to_owned(), 2)];
        let shown = |number: u32| enumerator(4, false, &enumerators, &number.to_le_bytes()).to_string();
        assert_eq!([shown(0), shown(3), shown(5), shown(8)], ["NONE", "(A | B)", "(A | unknown: 0x4)", "8"]);
    }
}
