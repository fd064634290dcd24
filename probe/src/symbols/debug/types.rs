//! Types as a compiler describes them (DWARF 5, chapter 5), made into data that needs no more than itself.

use std::collections::{HashMap, VecDeque};

use gimli::{AttributeValue, Expression as Program, Operation, constants as dw};

use super::arithmetic::Term;
use super::error::DebugError;
use super::info::{Die, Entry, Query, Unit, Value};
use super::location::{End, Run, Surroundings};
use super::sections::Slice;
use crate::language::types::{Encoding, Member, StructureKind, Type, TypeId, Types, Variant, Variants};
use crate::language::{Binary, Expression, Register};

/// How many types are described at most; those that are named first come first.
const MOST_TYPES: usize = 20_000;
/// How deep the name of a type without a name is spelled out.
const DEEPEST_NAME: usize = 8;
/// The most that are counted of members, enumerators and parameters of one type.
const MOST_PARTS: usize = 1 << 16;

/// Describes types, each once.
pub(super) struct Describer<'q, 'a> {
    query: &'q Query<'a>,
    /// Where values are looked at, which says how long arrays are whose length the program computes.
    around: Option<&'q Surroundings<'q, 'a>>,
    pub(super) types: Types,
    known: HashMap<Die, TypeId>,
    /// What is to be described, and how many pointers are followed from there.
    waiting: VecDeque<(Die, TypeId, usize)>,
    void: Option<TypeId>,
    /// How many pointers are followed from what is being described.
    hops: usize,
    /// Whether what is only declared is looked for in other units.
    completes: bool,
}

/// What an entry without a type has.
const VOID: &str = "void";

impl<'q, 'a> Describer<'q, 'a> {
    pub(super) fn new(query: &'q Query<'a>) -> Self {
        let (known, waiting) = (HashMap::new(), VecDeque::new());
        let (hops, completes) = (usize::MAX, true);
        Describer { query, around: None, types: Types::new(), known, waiting, void: None, hops, completes }
    }

    /// One for what is looked at there.
    pub(super) fn around(around: &'q Surroundings<'q, 'a>) -> Self {
        Describer { around: Some(around), ..Describer::new(around.query) }
    }

    /// The same for what is only to be shown: of what is behind pointers, nothing is, so that no more than the nearest is
    /// described, and no other unit is read for it.
    pub(super) fn shallow(self) -> Self {
        Describer { hops: 1, completes: false, ..self }
    }

    /// The type of an entry, described by [`Describer::finish`] at the latest.
    pub(super) fn type_of(&mut self, die: Die, entry: &Entry<'a>) -> Result<TypeId, DebugError> {
        match self.query.reference(die, entry.attr_value(dw::DW_AT_type))? {
            Some(of) => Ok(self.of(of)),
            None => Ok(self.void()),
        }
    }

    fn void(&mut self) -> TypeId {
        *self.void.get_or_insert_with(|| self.types.add(Type::Unknown { name: VOID.to_owned() }))
    }

    /// The type that is described there.
    pub(super) fn of(&mut self, die: Die) -> TypeId {
        self.behind(die, self.hops)
    }

    fn behind(&mut self, die: Die, hops: usize) -> TypeId {
        let types = &mut self.types;
        let waiting = &mut self.waiting;
        *self.known.entry(die).or_insert_with(|| {
            let id = types.add(Type::Unknown { name: String::new() });
            waiting.push_back((die, id, hops));
            id
        })
    }

    /// Describes what is waiting.
    pub(super) fn finish(&mut self) {
        while let Some((die, id, hops)) = self.waiting.pop_front() {
            self.hops = hops;
            let described =
                if self.types.len() <= MOST_TYPES { self.describe(die) } else { Err(DebugError::TooMuch) };
            let of = described.unwrap_or_else(|_| Type::Unknown { name: self.query.type_name(die) });
            self.types.replace(id, of);
        }
    }

    fn describe(&mut self, die: Die) -> Result<Type, DebugError> {
        let query = self.query;
        let (unit, entry) = query.entry(die)?;
        let name = || entry.attr_value(dw::DW_AT_name).and_then(|name| query.text(&unit, name));
        let bytes = || size_of_entry(&entry).unwrap_or(0);
        if let Some(other) = query.reference(die, entry.attr_value(dw::DW_AT_signature))? {
            return Ok(Type::Alias { name: query.type_name(die), of: self.of(other) });
        }
        if self.completes
            && entry.has_attr(dw::DW_AT_declaration)
            && let Some(other) = query.definition(die, entry.tag)?
        {
            return Ok(Type::Alias { name: query.type_name(die), of: self.of(other) });
        }
        Ok(match entry.tag {
            _ if entry.has_attr(dw::DW_AT_declaration) => Type::Unknown { name: query.type_name(die) },
            dw::DW_TAG_base_type => {
                let encoding = match entry.attr_value(dw::DW_AT_encoding) {
                    Some(AttributeValue::Encoding(encoding)) => encoding_of(encoding),
                    _ => Encoding::Other,
                };
                Type::Base { name: name().unwrap_or_default(), encoding, bytes: bytes() }
            }
            dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type => {
                let reference = entry.tag != dw::DW_TAG_pointer_type;
                let to = query.reference(die, entry.attr_value(dw::DW_AT_type))?;
                let hops = if reference { self.hops } else { self.hops.saturating_sub(1) };
                // Letters are shown with the pointer.
                let to = to.filter(|&to| reference || self.hops > 0 || query.base(to, 0).is_some());
                Type::Pointer { to: to.map(|to| self.behind(to, hops)), reference }
            }
            dw::DW_TAG_ptr_to_member_type => {
                let to = query.reference(die, entry.attr_value(dw::DW_AT_type))?;
                let function = to.is_some_and(|to| query.tag(to) == Some(dw::DW_TAG_subroutine_type));
                let bytes = if function { 16 } else { 8 };
                Type::Base { name: query.type_name(die), encoding: Encoding::Other, bytes }
            }
            dw::DW_TAG_structure_type | dw::DW_TAG_class_type | dw::DW_TAG_union_type => {
                let kind = match entry.tag {
                    dw::DW_TAG_structure_type => StructureKind::Structure,
                    dw::DW_TAG_class_type => StructureKind::Class,
                    _ => StructureKind::Union,
                };
                let (members, variants) = self.members(die, bytes())?;
                Type::Structure { kind, name: name(), bytes: bytes(), members, variants }
            }
            dw::DW_TAG_array_type => self.array(die, &entry)?,
            dw::DW_TAG_enumeration_type => self.enumeration(die, &unit, &entry)?,
            dw::DW_TAG_subroutine_type => Type::Function { name: query.type_name(die) },
            dw::DW_TAG_typedef
            | dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type
            | dw::DW_TAG_immutable_type
            | dw::DW_TAG_packed_type
            | dw::DW_TAG_shared_type
            | dw::DW_TAG_template_alias
            | dw::DW_TAG_subrange_type => {
                Type::Alias { name: query.type_name(die), of: self.type_of(die, &entry)? }
            }
            _ => Type::Unknown { name: query.type_name(die) },
        })
    }

    fn members(&mut self, die: Die, bytes: u64) -> Result<(Vec<Member>, Option<Variants>), DebugError> {
        let query = self.query;
        let (mut members, mut parts) = (Vec::new(), Vec::new());
        query.children(die, |child, entry| {
            match entry.tag {
                dw::DW_TAG_member | dw::DW_TAG_inheritance if members.len() < MOST_PARTS => {
                    members.extend(self.member(child, entry, bytes)?);
                }
                dw::DW_TAG_variant_part => parts.push((child, entry.attr_value(dw::DW_AT_discr))),
                _ => {}
            }
            Ok(())
        })?;
        let Some((part, discriminant)) = parts.into_iter().next() else { return Ok((members, None)) };
        let discriminant = match query.reference(part, discriminant)? {
            Some(at) => {
                let (_, entry) = query.entry(at)?;
                self.member(at, &entry, bytes)?.map(Box::new)
            }
            None => None,
        };
        let mut variants = Vec::new();
        query.children(part, |child, entry| {
            if entry.tag == dw::DW_TAG_variant && variants.len() < MOST_PARTS {
                variants.push((child, numbers(entry)));
            }
            Ok(())
        })?;
        let mut described = Vec::new();
        for (variant, numbers) in variants {
            let mut found = None;
            query.children(variant, |child, entry| {
                if entry.tag == dw::DW_TAG_member && found.is_none() {
                    found = self.member(child, entry, bytes)?;
                }
                Ok(())
            })?;
            described.extend(found.map(|member| Variant { numbers, member }));
        }
        Ok((members, Some(Variants { discriminant, variants: described })))
    }

    /// A member; `None` for one that is not in each value, or at no place that is known.
    fn member(&mut self, die: Die, entry: &Entry<'a>, bytes: u64) -> Result<Option<Member>, DebugError> {
        let query = self.query;
        let unit = query.unit(die.unit)?;
        let inherited = entry.tag == dw::DW_TAG_inheritance;
        let offset = match entry.attr_value(dw::DW_AT_data_member_location) {
            Some(AttributeValue::Exprloc(expression)) => {
                match expression.operations(unit.encoding()).next() {
                    Ok(Some(Operation::PlusConstant { value })) => value,
                    _ => return self.elsewhere(die, entry, expression),
                }
            }
            Some(value) => value.udata_value().unwrap_or(0),
            // A static one.
            None if entry.has_attr(dw::DW_AT_external) || entry.has_attr(dw::DW_AT_declaration) => {
                return Ok(None);
            }
            None => 0,
        };
        let of = self.type_of(die, entry)?;
        let name = match entry.attr_value(dw::DW_AT_name) {
            Some(name) => query.text(&unit, name).filter(|name| !name.is_empty()),
            None if inherited => {
                query.reference(die, entry.attr_value(dw::DW_AT_type))?.map(|of| query.type_name(of))
            }
            None => None,
        };
        let number = |name| entry.attr_value(name).and_then(|value| value.udata_value());
        let Some(size) = number(dw::DW_AT_bit_size) else {
            return Ok(Some(Member { name, of, offset, bits: None, inherited }));
        };
        let storage = match size_of_entry(entry) {
            Some(storage) => storage,
            None => query.size(query.reference(die, entry.attr_value(dw::DW_AT_type))?, 0).unwrap_or(1),
        }
        .clamp(1, 16);
        // Counted from the start of the structure, the lowest bit first.
        let first = match (number(dw::DW_AT_data_bit_offset), number(dw::DW_AT_bit_offset)) {
            (Some(first), _) => offset.saturating_mul(8).saturating_add(first),
            (None, Some(behind)) => {
                let end = offset.saturating_mul(8).saturating_add(storage * 8);
                end.saturating_sub(behind).saturating_sub(size)
            }
            (None, None) => offset.saturating_mul(8),
        };
        let aligned = first / 8 / storage * storage;
        let fits = (first - aligned * 8).saturating_add(size) <= storage * 8
            && aligned.saturating_add(storage) <= bytes;
        let offset = if fits { aligned } else { first / 8 };
        let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let bits = Some((narrow(first - offset * 8), narrow(size)));
        Ok(Some(Member { name, of, offset, bits, inherited }))
    }

    /// A virtual base class, which lies where the object says (DWARF 5, section 5.7.3).
    fn elsewhere(
        &mut self,
        die: Die,
        entry: &Entry<'a>,
        place: Program<Slice<'a>>,
    ) -> Result<Option<Member>, DebugError> {
        let query = self.query;
        let unit = query.unit(die.unit)?;
        // No register is looked at: only what lies at the object's address, which is there already.
        let around = Surroundings::new(query, 0);
        let mut run = Run::new(&around, unit.encoding(), die.unit, None);
        let object = Term::leaf(Expression::register(Register::Rdi));
        let Ok(End::Memory(at)) = run.from(place.0, 0, vec![object]) else { return Ok(None) };
        if at.expression.has_extended() || at.expression.registers().any(|register| register != Register::Rdi)
        {
            return Ok(None);
        }
        let of = self.type_of(die, entry)?;
        let name = query.reference(die, entry.attr_value(dw::DW_AT_type))?.map(|of| query.type_name(of));
        let of = self.types.add(Type::Elsewhere { of, at: at.expression });
        Ok(Some(Member { name, of, offset: 0, bits: None, inherited: true }))
    }

    fn array(&mut self, die: Die, entry: &Entry<'a>) -> Result<Type, DebugError> {
        let mut counts = Vec::new();
        self.query.children(die, |child, entry| {
            if matches!(entry.tag, dw::DW_TAG_subrange_type | dw::DW_TAG_enumeration_type)
                && counts.len() < 16
            {
                let known = count(entry).map(Count::Known);
                counts.push(known.or_else(|| self.computed_count(child, entry).map(Count::Computed)));
            }
            Ok(())
        })?;
        let of = |element, count| match count {
            Some(Count::Computed(count)) => Type::Sequence { element, count },
            Some(Count::Known(count)) => Type::Array { element, count: Some(count) },
            None => Type::Array { element, count: None },
        };
        let mut element = self.type_of(die, entry)?;
        let mut counts = counts.into_iter();
        let outermost = counts.next().flatten();
        for count in counts.rev() {
            element = self.types.add(of(element, count));
        }
        Ok(of(element, outermost))
    }

    /// How many elements a subrange has whose bounds the program computes, at the place that is looked at.
    fn computed_count(&self, die: Die, entry: &Entry<'a>) -> Option<Expression> {
        let around = self.around?;
        let unit = self.query.unit(die.unit).ok()?;
        let computed = |name| {
            let value = entry.attr_value(name)?;
            let mut run = Run::new(around, unit.encoding(), die.unit, None);
            let term = match value {
                AttributeValue::Exprloc(program) => run.value(program).ok()?,
                value => run.value_of(self.query.reference(die, Some(value)).ok()??).ok()?,
            };
            Some(term.expression)
        };
        if let Some(count) = computed(dw::DW_AT_count) {
            return Some(count);
        }
        let first = match entry.attr_value(dw::DW_AT_lower_bound) {
            None => 0,
            Some(AttributeValue::Sdata(value)) => value.cast_unsigned(),
            Some(value) => value.udata_value()?,
        };
        let last = computed(dw::DW_AT_upper_bound)?;
        Some(last.binary(Binary::Add, 1u64.wrapping_sub(first).into()))
    }

    fn enumeration(&mut self, die: Die, unit: &Unit<'a>, entry: &Entry<'a>) -> Result<Type, DebugError> {
        let query = self.query;
        let of = query.reference(die, entry.attr_value(dw::DW_AT_type))?;
        let mut enumerators = Vec::new();
        query.children(die, |_, entry| {
            if entry.tag == dw::DW_TAG_enumerator && enumerators.len() < MOST_PARTS {
                let name = entry.attr_value(dw::DW_AT_name).and_then(|name| query.text(unit, name));
                enumerators.extend(name.zip(entry.attr_value(dw::DW_AT_const_value).and_then(integer)));
            }
            Ok(())
        })?;
        let signed = match of.map(|of| query.base(of, 0)) {
            Some(Some(encoding)) => matches!(encoding, dw::DW_ATE_signed | dw::DW_ATE_signed_char),
            _ => enumerators.iter().any(|(_, value)| *value < 0),
        };
        let bytes = size_of_entry(entry).or_else(|| query.size(of, 0)).unwrap_or(4);
        let name = entry.attr_value(dw::DW_AT_name).and_then(|name| query.text(unit, name));
        // A compiler may write -1 as the number without sign that has the same bits.
        let bits = u32::try_from(bytes.clamp(1, 8) * 8).unwrap_or(64);
        for (_, value) in &mut enumerators {
            if signed && *value >= 1 << (bits - 1) && *value < 1 << bits {
                *value -= 1 << bits;
            } else if !signed && *value < 0 {
                *value &= (1 << bits) - 1;
            }
        }
        Ok(Type::Enumeration { name, bytes, signed, enumerators })
    }
}

/// How many elements an array has.
enum Count {
    Known(u64),
    Computed(Expression),
}

fn size_of_entry(entry: &Entry<'_>) -> Option<u64> {
    entry.attr_value(dw::DW_AT_byte_size).and_then(|value| value.udata_value())
}

fn encoding_of(encoding: dw::DwAte) -> Encoding {
    match encoding {
        dw::DW_ATE_unsigned => Encoding::Unsigned,
        dw::DW_ATE_signed => Encoding::Signed,
        dw::DW_ATE_address => Encoding::Hexadecimal,
        dw::DW_ATE_unsigned_char => Encoding::UnsignedCharacter,
        dw::DW_ATE_signed_char => Encoding::SignedCharacter,
        dw::DW_ATE_UTF | dw::DW_ATE_UCS | dw::DW_ATE_ASCII => Encoding::Unicode,
        dw::DW_ATE_boolean => Encoding::Boolean,
        dw::DW_ATE_float => Encoding::Float,
        dw::DW_ATE_complex_float => Encoding::ComplexFloat,
        _ => Encoding::Other,
    }
}

/// A constant, of whatever form.
fn integer(value: Value<'_>) -> Option<i128> {
    Some(match value {
        AttributeValue::Sdata(value) => value.into(),
        AttributeValue::Data16(value) => value.cast_signed(),
        AttributeValue::Block(bytes) => {
            let mut wide = [0; 16];
            let bytes = bytes.slice();
            wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
            i128::from_le_bytes(wide)
        }
        value => value.udata_value()?.into(),
    })
}

/// How many elements a subrange or an enumeration has; `None` where that is computed, or not known.
fn count(entry: &Entry<'_>) -> Option<u64> {
    let constant = |name| match entry.attr_value(name)? {
        AttributeValue::Sdata(value) => Some(value),
        value => value.udata_value().map(u64::cast_signed),
    };
    if entry.has_attr(dw::DW_AT_count) {
        return constant(dw::DW_AT_count).and_then(|count| u64::try_from(count).ok());
    }
    let last = constant(dw::DW_AT_upper_bound)?;
    let first = constant(dw::DW_AT_lower_bound).unwrap_or(0);
    u64::try_from(last.checked_add(1)?.checked_sub(first)?).ok()
}

/// The numbers that stand for a variant (DW_AT_discr_value, DW_AT_discr_list).
fn numbers(entry: &Entry<'_>) -> Vec<(u64, u64)> {
    if let Some(value) = entry.attr_value(dw::DW_AT_discr_value).and_then(integer) {
        return vec![(value as u64, value as u64)];
    }
    let Some(AttributeValue::Block(list)) = entry.attr_value(dw::DW_AT_discr_list) else { return Vec::new() };
    let mut list = list;
    let mut numbers = Vec::new();
    while let Ok(kind) = gimli::Reader::read_u8(&mut list) {
        let mut next = || gimli::Reader::read_uleb128(&mut list).ok();
        let pair = match (dw::DwDsc(kind), next()) {
            (dw::DW_DSC_range, Some(first)) => next().map(|last| (first, last)),
            (_, Some(value)) => Some((value, value)),
            _ => None,
        };
        numbers.extend(pair);
    }
    numbers
}

impl<'a> Query<'a> {
    pub(super) fn tag(&self, die: Die) -> Option<dw::DwTag> {
        self.entry(die).ok().map(|(_, entry)| entry.tag)
    }

    /// The type behind other names and qualifiers.
    pub(super) fn stripped(&self, die: Die) -> Option<(Die, Entry<'a>)> {
        let mut die = die;
        for _ in 0..64 {
            let (_, entry) = self.entry(die).ok()?;
            let is_name = matches!(
                entry.tag,
                dw::DW_TAG_typedef
                    | dw::DW_TAG_const_type
                    | dw::DW_TAG_volatile_type
                    | dw::DW_TAG_restrict_type
                    | dw::DW_TAG_atomic_type
            );
            let next = if is_name { dw::DW_AT_type } else { dw::DW_AT_signature };
            match self.reference(die, entry.attr_value(next)).ok()? {
                Some(next) => die = next,
                None => return Some((die, entry)),
            }
        }
        None
    }

    /// How many bytes a value of a type has, as far as the entry says.
    pub(super) fn size(&self, die: Option<Die>, depth: usize) -> Option<u64> {
        let (die, entry) = self.stripped(die?)?;
        match (size_of_entry(&entry), entry.tag) {
            (Some(size), _) => Some(size),
            (
                None,
                dw::DW_TAG_pointer_type | dw::DW_TAG_reference_type | dw::DW_TAG_rvalue_reference_type,
            ) => Some(8),
            (None, _) if depth < DEEPEST_NAME => {
                self.size(self.reference(die, entry.attr_value(dw::DW_AT_type)).ok()?, depth + 1)
            }
            _ => None,
        }
    }

    /// How the bits of a type's values are meant, if it is a base type by whatever name.
    pub(super) fn base(&self, die: Die, depth: usize) -> Option<dw::DwAte> {
        let (die, entry) = self.stripped(die)?;
        match entry.attr_value(dw::DW_AT_encoding) {
            Some(AttributeValue::Encoding(encoding)) => Some(encoding),
            _ if depth < DEEPEST_NAME => {
                self.base(self.reference(die, entry.attr_value(dw::DW_AT_type)).ok()??, depth + 1)
            }
            _ => None,
        }
    }

    /// The name of a type, as C writes it where it has none of its own.
    pub(super) fn type_name(&self, die: Die) -> String {
        self.spelled(die, 0)
    }

    fn spelled(&self, die: Die, depth: usize) -> String {
        let Ok((unit, entry)) = self.entry(die) else { return String::new() };
        if depth > DEEPEST_NAME {
            return "...".to_owned();
        }
        if let Some(name) = entry.attr_value(dw::DW_AT_name).and_then(|name| self.text(&unit, name)) {
            return name;
        }
        // A type unit has it.
        if let Ok(Some(other)) = self.reference(die, entry.attr_value(dw::DW_AT_signature)) {
            return self.spelled(other, depth + 1);
        }
        let of = self.reference(die, entry.attr_value(dw::DW_AT_type)).ok().flatten();
        let name = || of.map_or_else(|| VOID.to_owned(), |of| self.spelled(of, depth + 1));
        let is_pointer = || of.is_some_and(|of| self.tag(of) == Some(dw::DW_TAG_pointer_type));
        let qualified = |word: &str| match is_pointer() {
            true => format!("{} {word}", name()),
            false => format!("{word} {}", name()),
        };
        let behind = |mark: &str| {
            let name = name();
            match name.split_once(" (") {
                // A pointer to a function has its star within.
                Some((result, parameters))
                    if of.is_some_and(|of| self.tag(of) == Some(dw::DW_TAG_subroutine_type)) =>
                {
                    format!("{result} ({mark})({parameters}")
                }
                _ if name.ends_with(['*', '&']) => format!("{name}{mark}"),
                _ => format!("{name} {mark}"),
            }
        };
        match entry.tag {
            dw::DW_TAG_pointer_type => behind("*"),
            dw::DW_TAG_reference_type => behind("&"),
            dw::DW_TAG_rvalue_reference_type => behind("&&"),
            dw::DW_TAG_const_type => qualified("const"),
            dw::DW_TAG_volatile_type => qualified("volatile"),
            dw::DW_TAG_atomic_type => qualified("_Atomic"),
            dw::DW_TAG_restrict_type => format!("{} restrict", name()),
            dw::DW_TAG_array_type => format!("{} []", name()),
            dw::DW_TAG_structure_type => "struct {...}".to_owned(),
            dw::DW_TAG_class_type => "class {...}".to_owned(),
            dw::DW_TAG_union_type => "union {...}".to_owned(),
            dw::DW_TAG_enumeration_type => "enum {...}".to_owned(),
            dw::DW_TAG_subroutine_type => {
                let mut parameters = Vec::new();
                let listed = self.children(die, |child, entry| {
                    match entry.tag {
                        dw::DW_TAG_formal_parameter if parameters.len() < 64 => {
                            let of = self.reference(child, entry.attr_value(dw::DW_AT_type))?;
                            parameters.push(of.map_or_else(String::new, |of| self.spelled(of, depth + 1)));
                        }
                        dw::DW_TAG_unspecified_parameters => parameters.push("...".to_owned()),
                        _ => {}
                    }
                    Ok(())
                });
                let none = listed.is_ok() && parameters.is_empty();
                format!("{} ({})", name(), if none { VOID.to_owned() } else { parameters.join(", ") })
            }
            dw::DW_TAG_ptr_to_member_type => behind("::*"),
            _ => name(),
        }
    }
}
