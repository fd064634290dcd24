//! Where arguments are when a function is entered, by the rules of its language (System V psABI for x86-64, section 3.2.3;
//! Go's "ABIInternal"; what rustc does).

use gimli::{AttributeValue, constants as dw};

use super::info::{Die, Query};
use super::location::{Location, Piece, Unavailable};
use super::scope::Language;
use super::types::Describer;
use crate::language::types::{Encoding, Member, StructureKind, Type, TypeId, Types};
use crate::language::{Binary, Expression, ExtendedRegister, Register, Unary, Width};

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
    /// From the first argument there, which lies behind the return address.
    stack: u64,
}

impl Left {
    fn on_stack(&mut self, size: u64, align: u64) -> Location {
        self.stack = self.stack.checked_next_multiple_of(align.max(1)).unwrap_or(u64::MAX);
        let at = self.stack.saturating_add(8);
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

    /// A scalar: in a register or, where none is left, on the stack.
    fn scalar(&mut self, class: Class) -> Expression {
        let register = match class {
            Class::Integer => self.general(),
            _ => self.vector_quadword(),
        };
        register.unwrap_or_else(|| match self.on_stack(8, 8) {
            Location::Memory(address) => address.unary(Unary::Load(Width::Quadword)),
            _ => 0.into(),
        })
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
        stack: 0,
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
                Some(at) if query.is_passed_by_reference(at, 0) => {
                    Location::Memory(left.scalar(Class::Integer))
                }
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
    left.on_stack(size.checked_next_multiple_of(8).unwrap_or(size), align)
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
            in_pieces(leaves, size, left)
        }
        // How an enumeration with contents is passed depends on what it contains.
        None if size <= 16 => Location::Unavailable(Unavailable::NotStored),
        _ if size <= 16 => {
            Location::Value((0..size.div_ceil(8)).map(|_| left.scalar(Class::Integer)).collect())
        }
        _ => Location::Memory(left.scalar(Class::Integer)),
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
    if let [leaf] = leaves
        && leaf.offset == 0
    {
        return Location::Value(vec![left.scalar(leaf.class)]);
    }
    let gap = |bytes: u64| Piece {
        bits: bytes.saturating_mul(8),
        skip: 0,
        location: Location::Value(vec![0.into()]),
    };
    let mut pieces = Vec::new();
    let mut at = 0;
    for leaf in leaves {
        if leaf.offset > at {
            pieces.push(gap(leaf.offset - at));
        }
        let location = Location::Value(vec![left.scalar(leaf.class)]);
        pieces.push(Piece { bits: leaf.bytes.saturating_mul(8), skip: 0, location });
        at = leaf.offset.saturating_add(leaf.bytes);
    }
    if size > at {
        pieces.push(gap(size - at));
    }
    Location::Pieces(pieces)
}

/// Where the result is when a function has returned, and of what type it is; `None` if there is none.
pub(super) fn returned(
    query: &Query<'_>,
    language: Language,
    function: Die,
) -> Option<(Location, TypeId, Types)> {
    const RESULTS: [Register; 2] = [Register::Rax, Register::Rdx];
    if language == Language::Go {
        return returned_by_go(query, function);
    }
    let completed = query.completed(function).ok()?;
    let (at, value) = query.attribute(&completed, dw::DW_AT_type)?;
    let die = query.reference(at, Some(value)).ok()??;
    let mut describer = Describer::new(query);
    let of = describer.of(die);
    describer.finish();
    let types = describer.types;
    let mut left = Left { general: RESULTS.iter(), vector: 0..2, stack: 0 };
    let x87 = |number| {
        let register = ExtendedRegister::St(number);
        vec![Expression::extended(register, 0), Expression::extended(register, 1)]
    };
    let location = match types.get_resolved(of) {
        _ if returns_in_memory(query, language, function) => {
            Location::Memory(Expression::register(Register::Rax))
        }
        Some(Type::Base { encoding: Encoding::Float, bytes: 9.., .. }) => Location::Value(x87(0)),
        Some(Type::Base { encoding: Encoding::ComplexFloat, bytes: 17.., .. }) => {
            Location::Value([x87(0), x87(1)].concat())
        }
        _ if query.is_vector(die) => vector_place(&types, of, &mut left),
        _ => match language {
            Language::Rust => rust_place(&types, of, &mut left),
            _ => system_v_place(&types, of, language, &mut left),
        },
    };
    Some((location, of, types))
}

/// The same in Go, whose functions have results as they have parameters: of several, a structure.
fn returned_by_go(query: &Query<'_>, function: Die) -> Option<(Location, TypeId, Types)> {
    let mut results = Vec::new();
    let unit = query.unit(function.unit).ok()?;
    let listed = query.children(function, |child, entry| {
        let is_result =
            matches!(entry.attr_value(dw::DW_AT_variable_parameter), Some(AttributeValue::Flag(true)));
        if entry.tag == dw::DW_TAG_formal_parameter && is_result {
            let name = entry.attr_value(dw::DW_AT_name).and_then(|name| query.text(&unit, name));
            results.push((name, query.reference(child, entry.attr_value(dw::DW_AT_type))?));
        }
        Ok(())
    });
    listed.ok()?;
    let mut describer = Describer::new(query);
    let results: Option<Vec<(Option<String>, TypeId)>> =
        results.into_iter().map(|(name, of)| Some((name, describer.of(of?)))).collect();
    describer.finish();
    let (results, mut types) = (results?, describer.types);
    let mut left = Left { general: GO.iter(), vector: 0..15, stack: 0 };
    let mut places = Vec::new();
    for (_, of) in &results {
        let before = left.stack;
        let place = go_place(&types, *of, &mut left);
        // Where those are that registers have no room for depends on how the parameters are passed.
        let known = left.stack == before;
        places.push(if known { place } else { Location::Unavailable(Unavailable::NotStored) });
    }
    if let ([(_, of)], [_]) = (&results[..], &places[..]) {
        let of = *of;
        return places.pop().map(|place| (place, of, types));
    }
    let (mut members, mut pieces, mut offset) = (Vec::new(), Vec::new(), 0u64);
    for ((name, of), location) in results.into_iter().zip(places) {
        let size = types.size_of(of)?;
        members.push(Member { name, of, offset, bits: None, inherited: false });
        match location {
            Location::Pieces(inner) => pieces.extend(inner),
            location => pieces.push(Piece { bits: size.checked_mul(8)?, skip: 0, location }),
        }
        offset = offset.checked_add(size)?;
    }
    if members.is_empty() {
        return None;
    }
    let kind = StructureKind::Structure;
    let of = types.add(Type::Structure { kind, name: None, bytes: offset, members, variants: None });
    Some((Location::Pieces(pieces), of, types))
}

/// Whether the caller passes a pointer to where the result goes.
fn returns_in_memory(query: &Query<'_>, language: Language, function: Die) -> bool {
    let Ok(completed) = query.completed(function) else { return false };
    let Some((at, value)) = query.attribute(&completed, dw::DW_AT_type) else { return false };
    let Ok(Some(of)) = query.reference(at, Some(value)) else { return false };
    if query.is_passed_by_reference(of, 0) {
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
    /// Whether the optimizer may have changed how a function is called: one that nobody else can call, or a copy of one.
    /// Only GCC says whether it optimizes.
    pub(super) fn is_convention_open(&self, function: Die) -> bool {
        let Ok(unit) = self.unit(function.unit) else { return true };
        let root = Die { unit: function.unit, offset: unit.header.root_offset().0 };
        let producer = self.entry(root).ok().and_then(|(_, root)| root.attr_value(dw::DW_AT_producer));
        let producer = producer.and_then(|producer| self.text(&unit, producer)).unwrap_or_default();
        let mut levels = producer.split(" -O").skip(1);
        if levels.all(|level| level.starts_with('0')) {
            return false;
        }
        let Ok(completed) = self.completed(function) else { return true };
        let external = self.attribute(&completed, dw::DW_AT_external).is_some();
        let copied = completed.first().is_some_and(|(_, entry)| entry.has_attr(dw::DW_AT_abstract_origin));
        !external || copied
    }

    /// The type of a variable.
    fn type_of_variable(&self, die: Die) -> Option<Die> {
        let completed = self.completed(die).ok()?;
        let (at, value) = self.attribute(&completed, dw::DW_AT_type)?;
        self.reference(at, Some(value)).ok()?
    }

    /// Whether values of the type are passed by a pointer, whatever their size: a class that says so
    /// (DW_CC_pass_by_reference), or one that cannot be copied byte by byte (Itanium C++ ABI, section 3.1.1).
    fn is_passed_by_reference(&self, of: Die, depth: usize) -> bool {
        const DEEPEST: usize = 8;
        let Some((die, entry)) = self.stripped(of) else { return false };
        if !matches!(entry.tag, dw::DW_TAG_structure_type | dw::DW_TAG_class_type) || depth > DEEPEST {
            return false;
        }
        let convention = entry.attr_value(dw::DW_AT_calling_convention);
        if let Some(AttributeValue::CallingConvention(convention)) = convention {
            return convention == dw::DW_CC_pass_by_reference;
        }
        let name = self.type_name(die);
        let plain = name.split('<').next().unwrap_or_default();
        let mut found = false;
        let mut parts = Vec::new();
        let listed = self.children(die, |child, entry| {
            found |= entry.has_attr(dw::DW_AT_virtuality);
            match entry.tag {
                // What the compiler makes itself follows from the parts.
                dw::DW_TAG_subprogram
                    if !entry.has_attr(dw::DW_AT_artificial) && !entry.has_attr(dw::DW_AT_defaulted) =>
                {
                    let called = self.type_name(child);
                    found |= called.starts_with('~') || (called == plain && self.copies_itself(child, die));
                }
                dw::DW_TAG_member | dw::DW_TAG_inheritance if !entry.has_attr(dw::DW_AT_external) => {
                    parts.extend(self.reference(child, entry.attr_value(dw::DW_AT_type))?);
                }
                _ => {}
            }
            Ok(())
        });
        listed.is_ok()
            && (found || parts.into_iter().any(|part| self.is_passed_by_reference(part, depth + 1)))
    }

    /// Whether a constructor takes one of its own class by reference, and nothing else.
    fn copies_itself(&self, constructor: Die, class: Die) -> bool {
        let mut parameters = Vec::new();
        let listed = self.children(constructor, |child, entry| {
            if entry.tag == dw::DW_TAG_formal_parameter && !entry.has_attr(dw::DW_AT_artificial) {
                parameters.push(self.reference(child, entry.attr_value(dw::DW_AT_type))?);
            }
            Ok(())
        });
        let [Some(parameter)] = parameters.as_slice() else { return false };
        let refers = || {
            let (die, entry) = self.stripped(*parameter)?;
            let reference = matches!(entry.tag, dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type);
            let to = self.reference(die, entry.attr_value(dw::DW_AT_type)).ok()??;
            Some(reference && self.stripped(to)?.0 == class)
        };
        listed.is_ok() && refers() == Some(true)
    }

    /// Whether it is a vector, which one register holds.
    fn is_vector(&self, of: Die) -> bool {
        self.stripped(of).is_some_and(|(_, entry)| entry.has_attr(dw::DW_AT_GNU_vector))
    }
}
