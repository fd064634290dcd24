//! What is taken from a thread at a hit, and how it travels: bytes, whose meaning those know who have the types.

use serde::{Deserialize, Serialize};

use crate::arguments::compile::MOST_BYTES;
use crate::arguments::operand::{Location, Operand, Place, part, plus};
use crate::language::types::{Encoding, Type, TypeId, Types};
use crate::language::{Binary, Circumstance, Expression, ExtendedRegister, Machine, Register, Unary, Width};

/// Something that is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Capture {
    /// The low bytes of a number.
    Value(Expression, u8),
    /// Memory.
    Memory(Expression, u32),
    /// So many bytes of a register from that one on.
    Extended(ExtendedRegister, u8, u8),
    /// So many bytes that are nowhere.
    Nowhere(u32),
    /// A string: where it begins, and how much of it is taken at most.
    Text(Expression, u32),
    /// Bytes: where they begin, how many there are, and how many are taken at most.
    Counted(Expression, Expression, u32),
    /// The thread's name.
    Comm,
    /// A constant text.
    Constant(String),
}

/// What was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    pub(crate) bytes: Vec<u8>,
    /// Whether there was more.
    pub(crate) cut: bool,
    /// Whether it could not be had, or not all of it.
    pub(crate) fault: bool,
}

/// The most bytes that are taken at a hit.
const MOST_OF_ALL: usize = 24 << 10;
const FAULT: u32 = 1 << 31;
const CUT: u32 = 1 << 30;

impl Capture {
    /// Takes it from `machine`, and puts it behind what is in `out`.
    pub(crate) fn take(&self, machine: &mut dyn Machine, out: &mut Vec<u8>) {
        let mut taken =
            self.taken(machine).unwrap_or(Captured { bytes: Vec::new(), cut: false, fault: true });
        let room = MOST_OF_ALL.saturating_sub(out.len());
        if taken.bytes.len() > room {
            taken.bytes.truncate(room);
            taken.cut = true;
        }
        let flags = if taken.fault { FAULT } else { 0 } | if taken.cut { CUT } else { 0 };
        out.extend((taken.bytes.len() as u32 | flags).to_le_bytes());
        out.extend(taken.bytes);
    }

    /// The expressions that say what is taken.
    pub(crate) fn expressions(&self) -> impl Iterator<Item = &Expression> {
        let (first, second) = match self {
            Capture::Value(one, _) | Capture::Memory(one, _) | Capture::Text(one, _) => (Some(one), None),
            Capture::Counted(address, length, _) => (Some(address), Some(length)),
            Capture::Extended(..) | Capture::Nowhere(_) | Capture::Comm | Capture::Constant(_) => {
                (None, None)
            }
        };
        first.into_iter().chain(second)
    }

    /// Whether it is in a register, or a part of it is.
    pub(crate) fn is_in_register(&self) -> bool {
        match self {
            Capture::Value(value, _) => value.is_of_registers(),
            Capture::Counted(_, length, _) => length.is_of_registers(),
            Capture::Extended(..) => true,
            _ => false,
        }
    }

    /// Whether its expressions are valid.
    pub(crate) fn is_valid(&self) -> bool {
        match self {
            Capture::Value(value, bytes) => *bytes <= 8 && value.is_valid(),
            Capture::Memory(address, _) | Capture::Text(address, _) => address.is_valid(),
            Capture::Counted(address, length, _) => address.is_valid() && length.is_valid(),
            Capture::Extended(..) | Capture::Nowhere(_) | Capture::Comm | Capture::Constant(_) => true,
        }
    }

    fn taken(&self, machine: &mut dyn Machine) -> Option<Captured> {
        let whole = |bytes| Some(Captured { bytes, cut: false, fault: false });
        match self {
            Capture::Value(value, bytes) => {
                let value = value.evaluate(machine).ok()?.to_le_bytes();
                whole(value.get(..usize::from(*bytes))?.to_vec())
            }
            Capture::Memory(address, bytes) => {
                let address = address.evaluate(machine).ok()?;
                let mut taken = vec![0; u64::from(*bytes).min(MOST_BYTES) as usize];
                let read = machine.read_up_to(address, &mut taken);
                (read == taken.len()).then_some(())?;
                Some(Captured { bytes: taken, cut: u64::from(*bytes) > MOST_BYTES, fault: false })
            }
            Capture::Extended(register, start, bytes) => {
                let quadword = |index: u8| machine.extended(*register, index).map(u64::to_le_bytes);
                let end = start.checked_add(*bytes)?;
                let all: Option<Vec<[u8; 8]>> = (start / 8..end.div_ceil(8)).map(quadword).collect();
                let all = all?.concat();
                let first = usize::from(start % 8);
                whole(all.get(first..first + usize::from(*bytes))?.to_vec())
            }
            Capture::Nowhere(bytes) => {
                let bytes = vec![0; u64::from(*bytes).min(MOST_BYTES) as usize];
                Some(Captured { bytes, cut: false, fault: true })
            }
            Capture::Text(address, most) => {
                let address = address.evaluate(machine).ok()?;
                text(machine, address, *most)
            }
            Capture::Counted(address, length, most) => {
                let (address, length) = (address.evaluate(machine).ok()?, length.evaluate(machine).ok()?);
                let wanted = length.min(u64::from(*most)).min(MOST_BYTES);
                let mut taken = vec![0; wanted as usize];
                let read = machine.read_up_to(address, &mut taken);
                (read == taken.len()).then_some(())?;
                Some(Captured { bytes: taken, cut: length > wanted, fault: false })
            }
            Capture::Comm => {
                let low = machine.circumstance(Circumstance::CommLow)?.to_le_bytes();
                let high = machine.circumstance(Circumstance::CommHigh)?.to_le_bytes();
                let mut name = [low, high].concat();
                name.truncate(name.iter().position(|&byte| byte == 0).unwrap_or(name.len()));
                whole(name)
            }
            Capture::Constant(text) => whole(text.clone().into_bytes()),
        }
    }
}

/// The bytes of a string without the zero at its end.
fn text(machine: &mut dyn Machine, address: u64, most: u32) -> Option<Captured> {
    /// Most are shorter.
    const STRIDE: usize = 256;
    let most = u64::from(most).min(MOST_BYTES) as usize;
    let mut taken: Vec<u8> = Vec::new();
    while taken.len() < most {
        let mut bytes = [0; STRIDE];
        let wanted = &mut bytes[..STRIDE.min(most - taken.len())];
        let read = machine.read_up_to(address.wrapping_add(taken.len() as u64), wanted);
        let read_bytes = wanted.get(..read).unwrap_or_default();
        if let Some(end) = read_bytes.iter().position(|&byte| byte == 0) {
            taken.extend(&read_bytes[..end]);
            return Some(Captured { bytes: taken, cut: false, fault: false });
        }
        taken.extend(read_bytes);
        if read < wanted.len() {
            return None;
        }
    }
    Some(Captured { bytes: taken, cut: true, fault: false })
}

/// What was taken, one after the other.
pub(crate) fn captured(bytes: &[u8]) -> impl Iterator<Item = Captured> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (header, behind) = rest.split_first_chunk::<4>()?;
        let header = u32::from_le_bytes(*header);
        let length = (header & (CUT - 1)) as usize;
        let (bytes, behind) = behind.split_at_checked(length)?;
        rest = behind;
        Some(Captured { bytes: bytes.to_vec(), cut: header & CUT != 0, fault: header & FAULT != 0 })
    })
}

/// How much of a string is taken that nobody has asked for by name.
const MOST_LETTERS: u32 = 200;
/// How many strings are taken of one argument, and how deep in its structures.
const MOST_TEXTS: usize = 32;
const DEEPEST: usize = 5;

/// What is taken for an operand: its bytes, in one or more parts.
pub(crate) fn of_operand(types: &Types, operand: &Operand) -> Result<Vec<Capture>, &'static str> {
    const UNSIZED: &str = "its size is not known";
    match &operand.place {
        Place::Comm => Ok(vec![Capture::Comm]),
        Place::Text(text) => Ok(vec![Capture::Constant(text.clone())]),
        Place::BitField(..) => {
            let number = operand.number(types).ok_or("this bit-field is too long")?;
            let bytes = types.size_of(operand.of).filter(|&bytes| bytes <= 8).ok_or(UNSIZED)?;
            Ok(vec![Capture::Value(number.value, bytes as u8)])
        }
        Place::At(Location::Memory(address))
            if matches!(types.get_resolved(operand.of), Some(Type::Text)) =>
        {
            Ok(vec![Capture::Text(address.clone(), MOST_BYTES as u32)])
        }
        Place::At(Location::Memory(address)) if types.size_of(operand.of).is_none() => {
            match (types.get_resolved(operand.of), types.computed_size_of(operand.of)) {
                (Some(Type::Function { .. }), _) => Ok(vec![Capture::Memory(address.clone(), 8)]),
                (_, Some(bytes)) => Ok(vec![Capture::Counted(address.clone(), bytes, MOST_BYTES as u32)]),
                _ => Err(UNSIZED),
            }
        }
        Place::At(location) => {
            let bytes = match types.get_resolved(operand.of) {
                Some(Type::Function { .. }) => 8,
                _ => types.size_of(operand.of).ok_or(UNSIZED)?,
            };
            of_location(location, bytes).ok_or("it is not where it could be read in one piece")
        }
    }
}

fn of_location(location: &Location, bytes: u64) -> Option<Vec<Capture>> {
    let short = u32::try_from(bytes).unwrap_or(u32::MAX);
    Some(match location {
        Location::Memory(address) => vec![Capture::Memory(address.clone(), short)],
        Location::Bits(value) => {
            vec![Capture::Value(value.clone(), u8::try_from(bytes).ok().filter(|&bytes| bytes <= 8)?)]
        }
        Location::Extended(register, start) => {
            vec![Capture::Extended(*register, *start, u8::try_from(bytes).ok().filter(|&bytes| bytes <= 64)?)]
        }
        Location::Pieces(pieces) => {
            let mut all = Vec::new();
            for (length, piece) in pieces {
                match piece {
                    Some(piece) => all.extend(of_location(piece, *length)?),
                    None => all.push(Capture::Nowhere(u32::try_from(*length).ok()?)),
                }
            }
            all
        }
        Location::Missing(_) => vec![Capture::Nowhere(short)],
    })
}

/// How many elements sequences in a value have, by their types.
pub(crate) fn counts_of(types: &Types, operand: &Operand) -> Vec<(TypeId, Capture)> {
    let mut counts = Vec::new();
    let mut of = operand.of;
    while let Some(element) = types.element_of(of)
        && counts.len() < DEEPEST
    {
        if let Some(Type::Sequence { count, .. }) = types.get_resolved(of) {
            counts.push((types.resolved(of), Capture::Value(count.clone(), 8)));
        }
        of = element;
    }
    counts
}

/// Something that a value has elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Apart {
    /// In what it is named: 0 for the value itself, others for what is elsewhere itself, in its order.
    pub(crate) region: u32,
    /// How many bytes from the start of that.
    pub(crate) at: u64,
    /// Its [`Type::Elsewhere`], or the type of the reference that leads there.
    pub(crate) of: TypeId,
}

/// How much of a slice is taken, in bytes.
const MOST_OF_SLICE: u32 = 1024;

/// Rust's `&[T]`: where the pointer and the length are in it, and the type of the elements.
pub(crate) struct Slice {
    pointer: u64,
    length: u64,
    pub(crate) element: TypeId,
}

/// What a structure has, if it is a slice.
pub(crate) fn slice_of(types: &Types, of: TypeId) -> Option<Slice> {
    let Some(Type::Structure { name: Some(name), .. }) = types.get_resolved(of) else { return None };
    if !name.starts_with("&[") && !name.starts_with("&mut [") {
        return None;
    }
    let (pointer, length) = (types.member(of, "data_ptr")?, types.member(of, "length")?);
    match types.get_resolved(pointer.of) {
        Some(&Type::Pointer { to: Some(element), .. }) => {
            Some(Slice { pointer: pointer.offset, length: length.offset, element })
        }
        _ => None,
    }
}

/// Where the elements of a slice are, and how many bytes they have.
fn elements_of(
    types: &Types,
    location: &Location,
    of: TypeId,
    offset: u64,
) -> Option<(Expression, Expression)> {
    let Slice { pointer, length, element } = slice_of(types, of)?;
    let bytes = types.size_of(element).filter(|&bytes| bytes > 0)?;
    let address = pointer_at(location, offset.wrapping_add(pointer))?;
    let count = pointer_at(location, offset.wrapping_add(length))?;
    Some((address, count.binary(Binary::Multiply, bytes.into())))
}

/// What a value has elsewhere.
pub(crate) fn apart_of(types: &Types, operand: &Operand) -> Vec<(Apart, Capture)> {
    let mut found = Vec::new();
    let Place::At(location) = &operand.place else { return found };
    if let Some((address, bytes)) = elements_of(types, location, operand.of, 0) {
        let apart = Apart { region: 0, at: 0, of: types.resolved(operand.of) };
        found.push((apart, Capture::Counted(address, bytes, MOST_OF_SLICE)));
        return found;
    }
    // What a reference is one of is shown with it.
    if let Some(&Type::Pointer { to: Some(to), reference: true }) = types.get_resolved(operand.of) {
        let bytes = types.size_of(to).and_then(|bytes| u32::try_from(bytes).ok());
        if let (Some(address), Some(bytes)) = (pointer_at(location, 0), bytes) {
            let apart = Apart { region: 0, at: 0, of: types.resolved(operand.of) };
            found.push((apart, Capture::Memory(address.clone(), bytes)));
            find_apart(types, &address, to, (1, 0, 0), &mut found);
        }
        return found;
    }
    if let Location::Memory(address) = location {
        find_apart(types, address, operand.of, (0, 0, 0), &mut found);
    }
    found
}

fn find_apart(
    types: &Types,
    address: &Expression,
    of: TypeId,
    (region, offset, depth): (u32, u64, usize),
    found: &mut Vec<(Apart, Capture)>,
) {
    const MOST: usize = 16;
    let Some(Type::Structure { members, .. }) = types.get_resolved(of) else { return };
    if depth > DEEPEST {
        return;
    }
    for member in members.iter().filter(|member| member.bits.is_none()) {
        let within = offset.wrapping_add(member.offset);
        if found.len() >= MOST {
            return;
        }
        let here = Location::Memory(address.clone());
        if let Some((elements, bytes)) = elements_of(types, &here, member.of, within) {
            let apart = Apart { region, at: within, of: types.resolved(member.of) };
            found.push((apart, Capture::Counted(elements, bytes, MOST_OF_SLICE)));
            continue;
        }
        let Some(Type::Elsewhere { of: base, at }) = types.get_resolved(member.of) else {
            find_apart(types, address, member.of, (region, within, depth + 1), found);
            continue;
        };
        let object = plus(address.clone(), within);
        let there = at.with_registers(|register| (register == Register::Rdi).then(|| object.clone()));
        let Some(bytes) = types.size_of(*base).and_then(|bytes| u32::try_from(bytes).ok()) else { continue };
        let apart = Apart { region, at: within, of: types.resolved(member.of) };
        found.push((apart, Capture::Memory(there.clone(), bytes)));
        let region = u32::try_from(found.len()).unwrap_or(u32::MAX);
        find_apart(types, &there, *base, (region, 0, depth + 1), found);
    }
}

/// Where something leads to a string: in the value itself, 0, or in what it has elsewhere, and how many bytes from the
/// start of that.
pub(crate) type TextAt = (u32, u64);

/// The strings that an operand, and what it has elsewhere, leads to.
pub(crate) fn texts_of(
    types: &Types,
    operand: &Operand,
    apart: &[(Apart, Capture)],
) -> Vec<(TextAt, Capture)> {
    let mut all = Vec::new();
    let mut of_region = |region: usize, location: &Location, of| {
        let mut texts = Vec::new();
        find_texts(types, location, of, (0, 0), &mut texts);
        let region = u32::try_from(region).unwrap_or(u32::MAX);
        all.extend(texts.into_iter().map(|(at, text)| ((region, at), text)));
    };
    if let Place::At(location) = &operand.place {
        of_region(0, location, operand.of);
    }
    for (index, (apart, capture)) in apart.iter().enumerate() {
        let of = match types.get_resolved(apart.of) {
            Some(&Type::Elsewhere { of, .. } | &Type::Pointer { to: Some(of), .. }) => of,
            _ => continue,
        };
        if let Capture::Memory(address, _) = capture {
            of_region(index + 1, &Location::Memory(address.clone()), of);
        }
    }
    all.truncate(MOST_TEXTS);
    all
}

/// Whether a type is that of letters of one byte.
pub(crate) fn is_letter(types: &Types, of: TypeId) -> bool {
    let letter = [Encoding::SignedCharacter, Encoding::UnsignedCharacter];
    matches!(types.get_resolved(of), Some(Type::Base { encoding, bytes: 1, .. }) if letter.contains(encoding))
}

fn pointer_at(location: &Location, offset: u64) -> Option<Expression> {
    match part(location, offset, 8)? {
        Location::Memory(address) => Some(address.unary(Unary::Load(Width::Quadword))),
        Location::Bits(value) => Some(value),
        Location::Extended(register, start) if start % 8 == 0 => {
            Some(Expression::extended(register, start / 8))
        }
        _ => None,
    }
}

fn find_texts(
    types: &Types,
    location: &Location,
    of: TypeId,
    (offset, depth): (u64, usize),
    texts: &mut Vec<(u64, Capture)>,
) {
    if texts.len() >= MOST_TEXTS || depth > DEEPEST {
        return;
    }
    match types.get_resolved(of) {
        Some(&Type::Pointer { to: Some(to), .. }) if is_letter(types, to) => {
            if let Some(address) = pointer_at(location, offset) {
                texts.push((offset, Capture::Text(address, MOST_LETTERS)));
            }
        }
        Some(Type::Structure { members, .. }) => {
            if let Some((pointer, length)) = counted(types, of) {
                let address = pointer_at(location, offset.wrapping_add(pointer));
                let length = pointer_at(location, offset.wrapping_add(length));
                if let (Some(address), Some(length)) = (address, length) {
                    texts.push((offset, Capture::Counted(address, length, MOST_LETTERS)));
                }
                return;
            }
            for member in members.iter().filter(|member| member.bits.is_none()) {
                let inner = (offset.wrapping_add(member.offset), depth + 1);
                find_texts(types, location, member.of, inner, texts);
            }
        }
        Some(&Type::Array { element, count: Some(count) }) => {
            let Some(bytes) = types.size_of(element).filter(|&bytes| bytes >= 8) else { return };
            for index in 0..count.min(MOST_TEXTS as u64) {
                let Some(within) = index.checked_mul(bytes) else { return };
                find_texts(types, location, element, (offset.wrapping_add(within), depth + 1), texts);
            }
        }
        _ => {}
    }
}

/// Where the pointer and the length of a text are in a structure that is one in its language: Rust's `&str` and
/// `String`, Go's `string`, C++'s `std::string` and `std::string_view`.
pub(crate) fn counted(types: &Types, of: TypeId) -> Option<(u64, u64)> {
    let Some(Type::Structure { name: Some(name), .. }) = types.get_resolved(of) else { return None };
    let offsets = |pointer: &str, length: &str| {
        let (pointer, length) = (types.member(of, pointer)?, types.member(of, length)?);
        Some((pointer.offset, length.offset))
    };
    let within = |outer: &str, inner: &str| {
        let outer = types.member(of, outer)?;
        let inner = types.member(outer.of, inner)?;
        Some((outer.offset.wrapping_add(inner.offset), inner.of))
    };
    match name.as_str() {
        "&str" | "&mut str" => offsets("data_ptr", "length"),
        "string" => offsets("str", "len"),
        "String" | "alloc::string::String" => {
            let (buffer, of_buffer) = within("vec", "buf")?;
            let (length, _) = within("vec", "len")?;
            Some((buffer.wrapping_add(first_pointer(types, of_buffer, 0)?), length))
        }
        _ if name.starts_with("basic_string<char,") || name.starts_with("__cxx11::basic_string<char,") => {
            let (pointer, _) = within("_M_dataplus", "_M_p")?;
            Some((pointer, types.member(of, "_M_string_length")?.offset))
        }
        _ if name.starts_with("basic_string_view<char,") => offsets("_M_str", "_M_len"),
        _ => None,
    }
}

/// Where the first pointer of a structure is, wherever it is wrapped up.
fn first_pointer(types: &Types, of: TypeId, depth: usize) -> Option<u64> {
    /// Rust's String has five.
    const DEEPEST: usize = 10;
    match types.get_resolved(of)? {
        Type::Pointer { .. } => Some(0),
        Type::Structure { members, .. } if depth < DEEPEST => members.iter().find_map(|member| {
            first_pointer(types, member.of, depth + 1).map(|offset| offset.wrapping_add(member.offset))
        }),
        _ => None,
    }
}
