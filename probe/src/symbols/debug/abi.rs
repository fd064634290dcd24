//! Where arguments are when a function is entered, by the rules of its language (System V psABI for x86-64, section 3.2.3;
//! Go's "ABIInternal"; what rustc does).

use gimli::{AttributeValue, constants as dw};

use super::info::{Die, Query};
use super::location::{Location, Piece, Unavailable};
use super::scope::Language;
use super::types::Describer;
use crate::language::types::{Encoding, Type, TypeId, Types};
use crate::language::{Binary, Expression, ExtendedRegister, Register};

/// The most parts that are looked at of what might be passed in registers.
const MOST_LEAVES: usize = 32;

const SYSTEM_V: [Register; 6] =
    [Register::Rdi, Register::Rsi, Register::Rdx, Register::Rcx, Register::R8, Register::R9];
const GO: [Register; 9] = [
    Register::Rax,
    Register::Rbx,
    Register::Rcx,
    Register::Rdi,
    Register::Rsi,
    Register::R8,
    Register::R9,
    Register::R10,
    Register::R11,
];

/// A part of a value that has no parts itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Leaf {
    offset: u64,
    bytes: u64,
    class: Class,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Integer,
    Float,
    /// Extended precision.
    X87,
}

/// The parts of a value; `None` where there are too many, or one is not known.
fn leaves(types: &Types, of: TypeId) -> Option<Vec<Leaf>> {
    let mut found = Vec::new();
    collect(types, of, 0, 0, &mut found)?;
    found.sort_by_key(|leaf| leaf.offset);
    Some(found)
}

fn collect(types: &Types, of: TypeId, offset: u64, depth: usize, found: &mut Vec<Leaf>) -> Option<()> {
    if depth > 16 || found.len() > MOST_LEAVES {
        return None;
    }
    let mut push = |bytes, class| found.push(Leaf { offset, bytes, class });
    match types.get_resolved(of)? {
        Type::Base { bytes: 0, .. } => {}
        Type::Base { encoding: Encoding::Float, bytes, .. } => {
            push(*bytes, if *bytes > 8 { Class::X87 } else { Class::Float });
        }
        Type::Base { encoding: Encoding::ComplexFloat, bytes, .. } => {
            let half = bytes / 2;
            let class = if half > 8 { Class::X87 } else { Class::Float };
            found.push(Leaf { offset, bytes: half, class });
            found.push(Leaf { offset: offset.checked_add(half)?, bytes: half, class });
        }
        Type::Base { bytes, .. } if *bytes == 16 => {
            found.push(Leaf { offset, bytes: 8, class: Class::Integer });
            found.push(Leaf { offset: offset.checked_add(8)?, bytes: 8, class: Class::Integer });
        }
        Type::Base { bytes, .. } | Type::Enumeration { bytes, .. } => push(*bytes, Class::Integer),
        Type::Pointer { .. } => push(8, Class::Integer),
        Type::Structure { members, variants: None, .. } => {
            for member in members {
                collect(types, member.of, offset.checked_add(member.offset)?, depth + 1, found)?;
            }
        }
        Type::Array { element, count: Some(count) } => {
            let size = types.size_of(*element)?;
            for index in 0..(*count).min(MOST_LEAVES as u64 + 1) {
                collect(types, *element, offset.checked_add(size.checked_mul(index)?)?, depth + 1, found)?;
            }
        }
        _ => return None,
    }
    (found.len() <= MOST_LEAVES).then_some(())
}

/// How a type's values must be aligned, as far as it changes where they are passed.
fn alignment(types: &Types, of: TypeId, leaves: &[Leaf]) -> u64 {
    let wide = matches!(types.get_resolved(of), Some(Type::Base { bytes: 16, .. }));
    if wide || leaves.iter().any(|leaf| leaf.class == Class::X87) { 16 } else { 8 }
}

/// The registers that are left, and the stack.
struct Left {
    general: std::slice::Iter<'static, Register>,
    vector: std::ops::Range<u8>,
    /// From the stack pointer at the entry.
    stack: u64,
}

impl Left {
    fn on_stack(&mut self, size: u64, align: u64) -> Location {
        self.stack = self.stack.next_multiple_of(align.max(1));
        let at = self.stack;
        self.stack = self.stack.saturating_add(size);
        Location::Memory(Expression::register(Register::Rsp).binary(Binary::Add, at.into()))
    }

    fn general(&mut self) -> Option<Expression> {
        self.general.next().copied().map(Expression::register)
    }

    fn vector(&mut self) -> Option<u8> {
        self.vector.next()
    }

    fn vector_quadword(&mut self) -> Option<Expression> {
        self.vector().map(|number| Expression::extended(ExtendedRegister::Vector(number), 0))
    }

    fn has(&self, general: usize, vector: usize) -> bool {
        self.general.len() >= general && self.vector.len() >= vector
    }
}

/// Where the parameters are when their function is entered, one by one.
pub(super) fn passed(
    query: &Query<'_>,
    language: Language,
    function: Option<Die>,
    parameters: &[(Die, TypeId)],
    describer: &mut Describer<'_, '_>,
) -> Vec<Location> {
    let types = &describer.types;
    let go = language == Language::Go;
    let mut left = Left {
        general: if go { GO.iter() } else { SYSTEM_V.iter() },
        vector: 0..if go { 15 } else { 8 },
        stack: 8,
    };
    if !go && function.is_some_and(|function| returns_in_memory(query, language, function)) {
        let _ = left.general();
    }
    let place = |&(die, of): &(Die, TypeId)| {
        let type_die = query.type_of_variable(die);
        match language {
            Language::Go => go_place(types, of, &mut left),
            Language::Rust => rust_place(types, of, &mut left),
            _ => match type_die {
                Some(at) if query.is_passed_by_reference(at) => match left.general() {
                    Some(pointer) => Location::Memory(pointer),
                    None => Location::Unavailable(Unavailable::NotStored),
                },
                Some(at) if query.is_vector(at) => vector_place(types, of, &mut left),
                _ => system_v_place(types, of, language, &mut left),
            },
        }
    };
    parameters.iter().map(place).collect()
}

fn vector_place(types: &Types, of: TypeId, left: &mut Left) -> Location {
    let size = types.size_of(of).unwrap_or(0);
    match left.vector() {
        Some(number) if size > 8 || left.vector.start > 0 => {
            let quadwords = 0..u8::try_from(size.div_ceil(8).clamp(1, 8)).unwrap_or(1);
            Location::Value(
                quadwords
                    .map(|quadword| Expression::extended(ExtendedRegister::Vector(number), quadword))
                    .collect(),
            )
        }
        _ => left.on_stack(size, size.max(8)),
    }
}

/// The classes of the one or two quadwords of a value that registers can hold; `None` for one that is passed in memory.
fn quadword_classes(types: &Types, of: TypeId) -> Option<Vec<Class>> {
    let size = types.size_of(of)?;
    if size > 16 {
        return None;
    }
    let mut classes: Vec<Option<Class>> = vec![None; usize::try_from(size.div_ceil(8)).ok()?];
    for leaf in leaves(types, of)? {
        if leaf.class == Class::X87 || leaf.offset % leaf.bytes.max(1) != 0 {
            return None;
        }
        let class = classes.get_mut(usize::try_from(leaf.offset / 8).ok()?)?;
        *class = match *class {
            Some(Class::Integer) => Some(Class::Integer),
            _ if leaf.class == Class::Integer => Some(Class::Integer),
            _ => Some(leaf.class),
        };
    }
    Some(classes.into_iter().map(|class| class.unwrap_or(Class::Float)).collect())
}

fn system_v_place(types: &Types, of: TypeId, language: Language, left: &mut Left) -> Location {
    let Some(size) = types.size_of(of) else { return Location::Unavailable(Unavailable::NotStored) };
    let parts = leaves(types, of);
    // Classes without members take no room.
    if language == Language::Cpp && size == 1 && parts.as_ref().is_some_and(Vec::is_empty) {
        return Location::Value(vec![0.into()]);
    }
    if let Some(classes) = quadword_classes(types, of) {
        let general = classes.iter().filter(|class| **class == Class::Integer).count();
        if left.has(general, classes.len() - general) {
            let quadwords = classes.iter().filter_map(|class| match class {
                Class::Integer => left.general(),
                _ => left.vector_quadword(),
            });
            return Location::Value(quadwords.collect());
        }
    }
    let align = alignment(types, of, parts.as_deref().unwrap_or_default());
    left.on_stack(size.next_multiple_of(8), align)
}

/// Scalars, and pairs of them, each in a register of its own; other small values in general registers; large ones by
/// a pointer to them.
fn rust_place(types: &Types, of: TypeId, left: &mut Left) -> Location {
    let Some(size) = types.size_of(of) else { return Location::Unavailable(Unavailable::NotStored) };
    if size == 0 {
        return Location::Value(Vec::new());
    }
    match leaves(types, of).as_deref() {
        Some(leaves @ ([_] | [_, _])) if leaves.iter().all(|leaf| leaf.class != Class::X87) => {
            let float = leaves.iter().filter(|leaf| leaf.class == Class::Float).count();
            if left.has(leaves.len() - float, float) {
                return in_pieces(leaves, size, left);
            }
            // What is left over goes to the stack, one scalar after the other.
            match leaves {
                [_] => left.on_stack(8, 8),
                _ => Location::Unavailable(Unavailable::NotStored),
            }
        }
        // How an enumeration with contents is passed depends on what it contains.
        None if size <= 16 => Location::Unavailable(Unavailable::NotStored),
        _ if size <= 16 => {
            let needed = usize::try_from(size.div_ceil(8)).unwrap_or(2);
            if left.has(needed, 0) {
                Location::Value((0..needed).filter_map(|_| left.general()).collect())
            } else {
                Location::Unavailable(Unavailable::NotStored)
            }
        }
        _ => match left.general() {
            Some(pointer) => Location::Memory(pointer),
            None => Location::Unavailable(Unavailable::NotStored),
        },
    }
}

/// Each part in a register of its own, or all on the stack.
fn go_place(types: &Types, of: TypeId, left: &mut Left) -> Location {
    let Some(size) = types.size_of(of) else { return Location::Unavailable(Unavailable::NotStored) };
    let parts = leaves(types, of).filter(|_| !has_long_array(types, of, 0));
    if let Some(leaves) = parts {
        let float = leaves.iter().filter(|leaf| leaf.class == Class::Float).count();
        if left.has(leaves.len() - float, float) {
            return in_pieces(&leaves, size, left);
        }
        let align = leaves.iter().map(|leaf| leaf.bytes).max().unwrap_or(1);
        return left.on_stack(size, align);
    }
    left.on_stack(size, 8)
}

/// Whether something in it is an array of more than one element, which Go's rules keep out of registers.
fn has_long_array(types: &Types, of: TypeId, depth: usize) -> bool {
    match types.get_resolved(of) {
        _ if depth > 16 => true,
        Some(Type::Array { count, .. }) if count.is_none_or(|count| count > 1) => true,
        Some(Type::Array { element, .. }) => has_long_array(types, *element, depth + 1),
        Some(Type::Structure { members, .. }) => {
            members.iter().any(|member| has_long_array(types, member.of, depth + 1))
        }
        _ => false,
    }
}

fn in_pieces(leaves: &[Leaf], size: u64, left: &mut Left) -> Location {
    let mut take = |leaf: &Leaf| match leaf.class {
        Class::Integer => left.general(),
        _ => left.vector_quadword(),
    };
    if let [leaf] = leaves
        && leaf.offset == 0
    {
        return Location::Value(take(leaf).into_iter().collect());
    }
    let gap = |bytes: u64| Piece { bits: bytes * 8, skip: 0, location: Location::Value(vec![0.into()]) };
    let mut pieces = Vec::new();
    let mut at = 0;
    for leaf in leaves {
        if leaf.offset > at {
            pieces.push(gap(leaf.offset - at));
        }
        let location = Location::Value(take(leaf).into_iter().collect());
        pieces.push(Piece { bits: leaf.bytes * 8, skip: 0, location });
        at = leaf.offset + leaf.bytes;
    }
    if size > at {
        pieces.push(gap(size - at));
    }
    Location::Pieces(pieces)
}

/// Whether the caller passes a pointer to where the result goes.
fn returns_in_memory(query: &Query<'_>, language: Language, function: Die) -> bool {
    let Ok(completed) = query.completed(function) else { return false };
    let Some((at, value)) = query.attribute(&completed, dw::DW_AT_type) else { return false };
    let Ok(Some(of)) = query.reference(at, Some(value)) else { return false };
    if query.is_passed_by_reference(of) {
        return true;
    }
    if query.is_vector(of) {
        return false;
    }
    let mut describer = Describer::new(query);
    let id = describer.of(of);
    describer.finish();
    let types = &describer.types;
    let Some(size) = types.size_of(id) else { return false };
    let is_scalar =
        |leaves: Vec<Leaf>| leaves.len() <= 1 || matches!(types.get_resolved(id), Some(Type::Base { .. }));
    match language {
        Language::Rust => size > 16,
        // A single extended precision number is returned in a register of the x87, and so are two.
        _ => quadword_classes(types, id).is_none() && !leaves(types, id).is_some_and(is_scalar),
    }
}

impl<'a> Query<'a> {
    /// The type of a variable.
    fn type_of_variable(&self, die: Die) -> Option<Die> {
        let completed = self.completed(die).ok()?;
        let (at, value) = self.attribute(&completed, dw::DW_AT_type)?;
        self.reference(at, Some(value)).ok()?
    }

    /// Whether values of the type are passed by a pointer, whatever their size (DW_CC_pass_by_reference).
    fn is_passed_by_reference(&self, of: Die) -> bool {
        let convention =
            self.stripped(of).and_then(|(_, entry)| entry.attr_value(dw::DW_AT_calling_convention));
        convention == Some(AttributeValue::CallingConvention(dw::DW_CC_pass_by_reference))
    }

    /// Whether it is a vector, which one register holds.
    fn is_vector(&self, of: Die) -> bool {
        self.stripped(of).is_some_and(|(_, entry)| entry.has_attr(dw::DW_AT_GNU_vector))
    }
}
