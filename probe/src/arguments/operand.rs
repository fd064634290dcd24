//! What an expression stands for: something with a type that lies somewhere, and the numbers that are computed from such.

use crate::language::types::{Encoding, Type, TypeId, Types};
use crate::language::{Binary, Expression, ExtendedRegister, Unary, Width};

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// At an address of memory.
    Memory(Expression),
    /// In the low bytes of a number.
    Bits(Expression),
    /// In a register that is not general, from that byte on.
    Extended(ExtendedRegister, u8),
    /// In parts, each of so many bytes, one behind the other; `None` for one that is nowhere.
    Pieces(Vec<(u64, Option<Location>)>),
    /// Nowhere, and why.
    Missing(String),
}

/// Something with a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Operand {
    pub(crate) place: Place,
    pub(crate) of: TypeId,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    At(Location),
    /// Some bits of what is in memory: where they begin, counted from the lowest, and how many they are.
    BitField(Expression, u32, u32),
    /// A constant text.
    Text(String),
    /// The thread's name.
    Comm,
}

/// What a number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Integer {
        bytes: u64,
        signed: bool,
    },
    /// A double.
    Float,
    /// An address of something of that type, `None` for `void`.
    Pointer(Option<TypeId>),
}

/// A number that was computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Number {
    pub(crate) value: Expression,
    pub(crate) class: Class,
}

/// 64 bits without a sign.
pub(crate) const U64: Class = Class::Integer { bytes: 8, signed: false };
/// What comparisons come to.
pub(crate) const INT: Class = Class::Integer { bytes: 4, signed: true };

pub(crate) fn width_of(bytes: u64) -> Option<Width> {
    Some(match bytes {
        1 => Width::Byte,
        2 => Width::Word,
        4 => Width::Doubleword,
        8 => Width::Quadword,
        _ => return None,
    })
}

pub(crate) fn plus(address: Expression, offset: u64) -> Expression {
    match (offset, address.constant()) {
        (0, _) => address,
        (_, Some(constant)) => constant.wrapping_add(offset).into(),
        _ => address.binary(Binary::Add, offset.into()),
    }
}

/// The class of numbers of a type; `None` if it is not one of numbers.
pub(crate) fn class_of(types: &Types, of: TypeId) -> Option<Class> {
    Some(match types.get_resolved(of)? {
        &Type::Base { encoding: Encoding::Float, .. } => Class::Float,
        &Type::Base { encoding, bytes, .. } if width_of(bytes).is_some() => {
            let signed = matches!(encoding, Encoding::Signed | Encoding::SignedCharacter);
            Class::Integer { bytes, signed }
        }
        &Type::Enumeration { bytes, signed, .. } if width_of(bytes).is_some() => {
            Class::Integer { bytes, signed }
        }
        &Type::Pointer { to, .. } => Class::Pointer(to),
        Type::Function { .. } => Class::Pointer(None),
        _ => return None,
    })
}

/// `bytes` bytes of `location` from `offset` on; `None` where they are nowhere, or not in one piece.
pub(crate) fn part(location: &Location, offset: u64, bytes: u64) -> Option<Location> {
    match location {
        Location::Memory(address) => Some(Location::Memory(plus(address.clone(), offset))),
        Location::Bits(value) => {
            let shift = offset.checked_mul(8).filter(|&bits| bits < 64)?;
            let value = value.clone();
            Some(Location::Bits(match shift {
                0 => value,
                _ => value.binary(Binary::ShiftRight, shift.into()),
            }))
        }
        Location::Extended(register, start) => {
            let start = u64::from(*start).checked_add(offset)?;
            Some(Location::Extended(*register, u8::try_from(start).ok()?))
        }
        Location::Pieces(pieces) => {
            let mut start = 0u64;
            for (length, piece) in pieces {
                let end = start.checked_add(*length)?;
                if offset >= start && offset < end {
                    let within = offset - start;
                    if offset.checked_add(bytes)? <= end {
                        return part(piece.as_ref()?, within, bytes);
                    }
                    break;
                }
                start = end;
            }
            None
        }
        Location::Missing(why) => Some(Location::Missing(why.clone())),
    }
}

/// The same, also in several pieces; what is in none of them is missing.
pub(crate) fn part_or_missing(location: &Location, offset: u64, bytes: u64) -> Option<Location> {
    let Location::Pieces(pieces) = location else { return part(location, offset, bytes) };
    if let Some(whole) = part(location, offset, bytes) {
        return Some(whole);
    }
    let wanted_end = offset.checked_add(bytes)?;
    let mut start = 0u64;
    let mut found = Vec::new();
    for (length, piece) in pieces {
        let end = start.checked_add(*length)?;
        let (from, to) = (start.max(offset), end.min(wanted_end));
        if from < to {
            let here = piece.as_ref().and_then(|piece| part(piece, from - start, to - from));
            found.push((to - from, here));
        }
        start = end;
    }
    let nowhere = found.iter().all(|(_, piece)| piece.is_none());
    Some(if nowhere { Location::Missing(OPTIMIZED_OUT.to_owned()) } else { Location::Pieces(found) })
}

/// Why something is in no piece.
const OPTIMIZED_OUT: &str = "optimized out here";

/// `bytes` bytes, at most eight, of what is in pieces, put together; without a value if one of them is nowhere.
fn joined(location: &Location, offset: u64, bytes: u64) -> Option<Expression> {
    let Location::Pieces(pieces) = location else { return None };
    let wanted_end = offset.checked_add(bytes).filter(|_| (1..=8).contains(&bytes))?;
    let mut start = 0u64;
    let mut all: Option<Expression> = None;
    for (length, piece) in pieces {
        let end = start.checked_add(*length)?;
        let (from, to) = (start.max(offset), end.min(wanted_end));
        if from < to {
            let Some(piece) = piece else { return Some(Expression::unavailable()) };
            // Powers of two are read at once, others byte by byte.
            let step = if width_of(to - from).is_some() { to - from } else { 1 };
            for at in (from..to).step_by(step as usize) {
                let low = bits(&part(piece, at - start, step)?, step)?;
                let shift = 8 * (at - offset);
                let placed = if shift == 0 { low } else { low.binary(Binary::ShiftLeft, shift.into()) };
                all = Some(match all {
                    Some(all) => all.binary(Binary::Or, placed),
                    None => placed,
                });
            }
        }
        start = end;
    }
    // What no piece holds is nowhere.
    if start < wanted_end { Some(Expression::unavailable()) } else { all }
}

/// The low `bytes` bytes at a place as a number of 64 bits, extended by zeros.
fn bits(location: &Location, bytes: u64) -> Option<Expression> {
    match location {
        Location::Memory(address) => Some(address.clone().unary(Unary::Load(width_of(bytes)?))),
        Location::Bits(value) if bytes == 8 => Some(value.clone()),
        Location::Bits(value) => Some(value.clone().unary(Unary::Cast(width_of(bytes)?))),
        Location::Extended(register, start) => {
            let (quadword, within) = (start / 8, u64::from(start % 8));
            // One that lies across two quadwords has no number.
            if within + bytes > 8 {
                return None;
            }
            let whole = Expression::extended(*register, quadword);
            let shifted =
                if within == 0 { whole } else { whole.binary(Binary::ShiftRight, (8 * within).into()) };
            Some(if bytes == 8 { shifted } else { shifted.unary(Unary::Cast(width_of(bytes)?)) })
        }
        Location::Pieces(_) => match part(location, 0, bytes) {
            Some(part) => bits(&part, bytes),
            None => joined(location, 0, bytes),
        },
        Location::Missing(_) => Some(Expression::unavailable()),
    }
}

impl Operand {
    pub(crate) fn new(location: Location, of: TypeId) -> Operand {
        Operand { place: Place::At(location), of }
    }

    /// Whether it is known beforehand that it is nowhere.
    pub(crate) fn is_never_known(&self) -> bool {
        match &self.place {
            Place::At(Location::Memory(value) | Location::Bits(value)) | Place::BitField(value, ..) => {
                value.is_never_known()
            }
            Place::At(Location::Missing(_)) => true,
            _ => false,
        }
    }

    /// Its number; `None` if it has none.
    pub(crate) fn number(&self, types: &Types) -> Option<Number> {
        match &self.place {
            Place::At(location) => number_at(types, location, self.of),
            Place::BitField(address, first, count) => {
                let class = class_of(types, self.of)?;
                let signed = matches!(class, Class::Integer { signed: true, .. });
                let value = bit_field(address, *first, *count, signed)?;
                Some(Number { value, class })
            }
            Place::Text(_) | Place::Comm => None,
        }
    }
}

fn number_at(types: &Types, location: &Location, of: TypeId) -> Option<Number> {
    let class = class_of(types, of)?;
    let value = match class {
        Class::Float => match types.size_of(of)? {
            4 => bits(location, 4)?.unary(Unary::FloatOfSingle),
            8 => bits(location, 8)?,
            10..=16 => {
                let significand = bits(&part(location, 0, 8)?, 8)?;
                let sign_exponent = bits(&part(location, 8, 2)?, 2)?;
                significand.binary(Binary::FloatOfExtended, sign_exponent)
            }
            _ => return None,
        },
        Class::Integer { bytes, signed: true } => match location {
            Location::Memory(address) => address.clone().unary(Unary::LoadSigned(width_of(bytes)?)),
            _ => bits(location, bytes)?.unary(Unary::CastSigned(width_of(bytes)?)),
        },
        Class::Integer { bytes, .. } => bits(location, bytes)?,
        Class::Pointer(_) => bits(location, 8)?,
    };
    Some(Number { value, class })
}

/// Bits of memory. No more is read than what they touch, which may lie at the end of a page.
fn bit_field(address: &Expression, first: u32, count: u32, signed: bool) -> Option<Expression> {
    let (byte, first) = (first / 8, first % 8);
    let last = first.checked_add(count).filter(|&last| count > 0 && last <= 64)?;
    let width = [1u64, 2, 4, 8].into_iter().find(|bytes| u64::from(last) <= 8 * bytes)?;
    let loaded = plus(address.clone(), byte.into()).unary(Unary::Load(width_of(width)?));
    let up = loaded.binary(Binary::ShiftLeft, u64::from(64 - last).into());
    let down = if signed { Binary::ShiftRightSigned } else { Binary::ShiftRight };
    Some(up.binary(down, u64::from(64 - count).into()))
}

impl Number {
    /// As a double.
    pub(crate) fn to_float(&self) -> Expression {
        let value = self.value.clone();
        match self.class {
            Class::Float => value,
            Class::Integer { signed: true, .. } => value.unary(Unary::FloatOfSigned),
            _ => value.unary(Unary::FloatOfUnsigned),
        }
    }

    /// As an integer of so many bytes.
    pub(crate) fn to_integer(&self, bytes: u64, signed: bool) -> Option<Expression> {
        let value = match self.class {
            Class::Float => self.value.clone().unary(Unary::SignedOfFloat),
            _ => self.value.clone(),
        };
        Some(match (bytes, signed) {
            (8, _) => value,
            (_, true) => value.unary(Unary::CastSigned(width_of(bytes)?)),
            (_, false) => value.unary(Unary::Cast(width_of(bytes)?)),
        })
    }

    /// Whether it is not 0.
    pub(crate) fn is_true(&self) -> Expression {
        match self.class {
            Class::Float => self.value.clone().binary(Binary::NotEqualFloat, 0f64.to_bits().into()),
            _ => self.value.clone(),
        }
    }
}
