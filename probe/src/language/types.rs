//! Types of values in a target, as data: what DWARF says of them (DWARF 5, chapter 5), and no more than it takes to show a
//! value, to name a part of one, and to compute with it.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::language::expression::{Binary, Expression};

/// Names a type among [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TypeId(pub u32);

/// Types that name each other, and themselves: a list has a pointer to a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Types {
    types: Vec<Type>,
}

/// One type.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Type {
    /// A number, a letter, a truth value (DW_TAG_base_type).
    Base {
        /// Its name, such as `unsigned int`.
        name: String,
        /// What its bits mean.
        encoding: Encoding,
        /// Its size.
        bytes: u64,
    },
    /// An address of something (DW_TAG_pointer_type, DW_TAG_reference_type).
    Pointer {
        /// What is there; `None` for `void`.
        to: Option<TypeId>,
        /// Whether it is written like the thing itself.
        reference: bool,
    },
    /// Parts that lie beside each other, or over each other (DW_TAG_structure_type, DW_TAG_union_type).
    Structure {
        /// Which of them.
        kind: StructureKind,
        /// Its name; `None` if it has none.
        name: Option<String>,
        /// Its size.
        bytes: u64,
        /// Its parts, in their order.
        members: Vec<Member>,
        /// Of which only one is there at a time (DW_TAG_variant_part).
        variants: Option<Variants>,
    },
    /// Things of one type, one behind the other (DW_TAG_array_type).
    Array {
        /// Their type.
        element: TypeId,
        /// How many; `None` where that is not known.
        count: Option<u64>,
    },
    /// Things of one type, as many as is computed at a hit.
    Sequence {
        /// Their type.
        element: TypeId,
        /// How many.
        count: Expression,
    },
    /// Something that is not here, but where it is computed to be at a hit: a virtual base class, which the object says.
    Elsewhere {
        /// Its type.
        of: TypeId,
        /// Its address, by that of the object, which stands for [`Register::Rdi`](crate::language::Register::Rdi).
        at: Expression,
    },
    /// A number with names (DW_TAG_enumeration_type).
    Enumeration {
        /// Its name; `None` if it has none.
        name: Option<String>,
        /// Its size.
        bytes: u64,
        /// Whether it can be negative.
        signed: bool,
        /// The names, each with its number.
        enumerators: Vec<(String, i128)>,
    },
    /// Another name for a type (DW_TAG_typedef).
    Alias {
        /// The name.
        name: String,
        /// The type.
        of: TypeId,
    },
    /// What is called (DW_TAG_subroutine_type).
    Function {
        /// As it is written, such as `int (*)(void *)` without the star.
        name: String,
    },
    /// Bytes up to the first zero, of which what is captured is the text.
    Text,
    /// One that is declared only.
    Unknown {
        /// Its name.
        name: String,
    },
}

/// What the bits of a [`Type::Base`] mean (DW_ATE_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Encoding {
    /// An integer without sign.
    Unsigned,
    /// An integer in two's complement.
    Signed,
    /// An integer without sign that is written in hexadecimal.
    Hexadecimal,
    /// A letter, whose number has no sign.
    UnsignedCharacter,
    /// A letter, whose number has a sign.
    SignedCharacter,
    /// A letter of Unicode (DW_ATE_UTF).
    Unicode,
    /// 0 or 1.
    Boolean,
    /// A binary floating-point number: of 2, 4 or 8 bytes, or of 16 (or 10, 12) in the x87's extended precision.
    Float,
    /// An address, which is written as the function or variable that is there.
    Address,
    /// Two floating-point numbers, each of half the size.
    ComplexFloat,
    /// Something else, which is shown in hexadecimal.
    Other,
}

/// How the parts of a [`Type::Structure`] lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StructureKind {
    /// `struct`
    Structure,
    /// `class`
    Class,
    /// `union`
    Union,
}

/// A part of a [`Type::Structure`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Member {
    /// Its name; `None` for one whose own members are named in its place.
    pub name: Option<String>,
    /// Its type.
    pub of: TypeId,
    /// Bytes from the start of the structure.
    pub offset: u64,
    /// For a bit-field: how many bits behind the offset it begins (the lowest is 0), and how many it has.
    pub bits: Option<(u32, u32)>,
    /// Whether it is a base class.
    pub inherited: bool,
}

/// Parts of which one is there at a time, as a number says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variants {
    /// The number; `None` if there is one variant only.
    pub discriminant: Option<Box<Member>>,
    /// What there may be.
    pub variants: Vec<Variant>,
}

/// One of [`Variants`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Variant {
    /// The numbers that stand for it, from and to; none for the one that is there otherwise.
    pub numbers: Vec<(u64, u64)>,
    /// What is there.
    pub member: Member,
}

impl Type {
    /// Calls `change` with the name of each type that this one names.
    fn for_each_name(&mut self, mut change: impl FnMut(&mut TypeId)) {
        match self {
            Type::Pointer { to, .. } => to.iter_mut().for_each(change),
            Type::Array { element, .. } | Type::Sequence { element, .. } => change(element),
            Type::Alias { of, .. } | Type::Elsewhere { of, .. } => change(of),
            Type::Structure { members, variants, .. } => {
                members.iter_mut().for_each(|member| change(&mut member.of));
                if let Some(Variants { discriminant, variants }) = variants {
                    discriminant.iter_mut().for_each(|member| change(&mut member.of));
                    variants.iter_mut().for_each(|variant| change(&mut variant.member.of));
                }
            }
            Type::Base { .. }
            | Type::Enumeration { .. }
            | Type::Function { .. }
            | Type::Text
            | Type::Unknown { .. } => {}
        }
    }
}

impl Types {
    /// None.
    #[must_use]
    pub fn new() -> Types {
        Types::default()
    }

    /// Takes a type up.
    pub fn add(&mut self, of: Type) -> TypeId {
        self.types.push(of);
        // More would take more memory than there is.
        TypeId(u32::try_from(self.types.len() - 1).unwrap_or(u32::MAX))
    }

    /// Puts another type in the place of one, which others may name already.
    pub fn replace(&mut self, id: TypeId, of: Type) {
        if let Some(place) = self.types.get_mut(id.0 as usize) {
            *place = of;
        }
    }

    /// The type with that name among these.
    #[must_use]
    pub fn get(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id.0 as usize)
    }

    /// Takes other types up, and returns what is to be added to the number of each.
    pub fn append(&mut self, others: Types) -> u32 {
        let distance = u32::try_from(self.types.len()).unwrap_or(u32::MAX);
        self.types.extend(others.types.into_iter().map(|mut of| {
            of.for_each_name(|id| id.0 = id.0.saturating_add(distance));
            of
        }));
        distance
    }

    /// Those that `roots` lead to, and no others; the roots name the same types among them.
    #[must_use]
    pub fn only(&self, roots: &mut [TypeId]) -> Types {
        self.only_with(roots, &|_, _| true)
    }

    /// The same without what pointers lead to for which `keeps` says so: it is told whether it is a reference, and what is there.
    pub(crate) fn only_with(&self, roots: &mut [TypeId], keeps: &dyn Fn(bool, TypeId) -> bool) -> Types {
        let mut only = Types::new();
        let mut known: HashMap<TypeId, TypeId> = HashMap::new();
        let mut open: Vec<TypeId> = Vec::new();
        let mut take = |id: &mut TypeId, only: &mut Types, open: &mut Vec<TypeId>| {
            *id = *known.entry(*id).or_insert_with_key(|&old| {
                open.push(old);
                only.add(Type::Unknown { name: String::new() })
            });
        };
        roots.iter_mut().for_each(|root| take(root, &mut only, &mut open));
        let mut next = 0;
        while let Some(&old) = open.get(next) {
            if let Some(mut of) = self.get(old).cloned() {
                if let Type::Pointer { to, reference } = &mut of {
                    *to = to.filter(|to| keeps(*reference, *to));
                }
                of.for_each_name(|id| take(id, &mut only, &mut open));
                only.replace(TypeId(next as u32), of);
            }
            next += 1;
        }
        only
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.types.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.types.is_empty()
    }

    /// The type behind all other names for it.
    #[must_use]
    pub fn resolved(&self, id: TypeId) -> TypeId {
        let mut id = id;
        // No more names than types.
        for _ in 0..self.types.len() {
            match self.get(id) {
                Some(&Type::Alias { of, .. }) => id = of,
                _ => break,
            }
        }
        id
    }

    /// [`Types::get`] of [`Types::resolved`].
    #[must_use]
    pub fn get_resolved(&self, id: TypeId) -> Option<&Type> {
        self.get(self.resolved(id))
    }

    /// How many bytes a value has; `None` where that is not known.
    #[must_use]
    pub fn size_of(&self, id: TypeId) -> Option<u64> {
        self.size_at_depth(id, 0)
    }

    fn size_at_depth(&self, id: TypeId, depth: usize) -> Option<u64> {
        match self.get_resolved(id)? {
            Type::Base { bytes, .. } | Type::Structure { bytes, .. } | Type::Enumeration { bytes, .. } => {
                Some(*bytes)
            }
            Type::Pointer { .. } => Some(8),
            Type::Elsewhere { .. } => Some(0),
            Type::Array { element, count } if depth < DEEPEST => {
                self.size_at_depth(*element, depth + 1)?.checked_mul((*count)?)
            }
            _ => None,
        }
    }

    /// How many bytes a value has, where that is computed at a hit; `None` where it is not known.
    #[must_use]
    pub fn computed_size_of(&self, id: TypeId) -> Option<Expression> {
        self.computed_size_at_depth(id, 0)
    }

    fn computed_size_at_depth(&self, id: TypeId, depth: usize) -> Option<Expression> {
        /// Few arrays have more dimensions.
        const MOST: usize = 8;
        if let Some(known) = self.size_of(id) {
            return Some(known.into());
        }
        if depth > MOST {
            return None;
        }
        let inner = |element| self.computed_size_at_depth(element, depth + 1);
        match self.get_resolved(id)? {
            Type::Sequence { element, count } => {
                Some(count.clone().binary(Binary::Multiply, inner(*element)?))
            }
            Type::Array { element, count: Some(count) } => {
                Some(inner(*element)?.binary(Binary::Multiply, (*count).into()))
            }
            _ => None,
        }
    }

    /// What the pointers in Rust's slices lead to.
    pub(crate) fn elements_of_slices(&self) -> HashSet<TypeId> {
        let pointers = self.types.iter().filter_map(|of| match of {
            Type::Structure { name: Some(name), members, .. }
                if name.starts_with("&[") || name.starts_with("&mut [") =>
            {
                members.iter().find(|member| member.name.as_deref() == Some("data_ptr"))
            }
            _ => None,
        });
        let elements = pointers.filter_map(|pointer| match self.get_resolved(pointer.of) {
            Some(Type::Pointer { to, .. }) => *to,
            _ => None,
        });
        elements.collect()
    }

    /// The type of the elements of an array, however it is known how many there are.
    #[must_use]
    pub fn element_of(&self, id: TypeId) -> Option<TypeId> {
        match self.get_resolved(id)? {
            Type::Array { element, .. } | Type::Sequence { element, .. } => Some(*element),
            _ => None,
        }
    }

    /// The parts, each within the one before, that lead to one with a name: that itself, or what it is inherited from, or
    /// what has no name itself.
    #[must_use]
    pub fn path_to(&self, structure: TypeId, name: &str) -> Option<Vec<Member>> {
        self.path_at_depth(structure, name, 0)
    }

    fn path_at_depth(&self, structure: TypeId, name: &str, depth: usize) -> Option<Vec<Member>> {
        let structure = match self.get_resolved(structure) {
            Some(Type::Elsewhere { of, .. }) => *of,
            _ => structure,
        };
        let Some(Type::Structure { members, variants, .. }) = self.get_resolved(structure) else {
            return None;
        };
        if depth >= DEEPEST {
            return None;
        }
        let variants = variants.iter().flat_map(|variants| &variants.variants).map(|variant| &variant.member);
        let all = || members.iter().chain(variants.clone());
        if let Some(member) = all().find(|member| !member.inherited && member.name.as_deref() == Some(name)) {
            return Some(vec![member.clone()]);
        }
        all().filter(|member| member.inherited || member.name.is_none()).find_map(|outer| {
            let mut path = self.path_at_depth(outer.of, name, depth + 1)?;
            path.insert(0, outer.clone());
            Some(path)
        })
    }

    /// A part of a structure by its name, also one of a base class or of a part without a name: its type, its offset
    /// from the start of the structure, and its bits if it is a bit-field. `None` also for one of a virtual base class.
    #[must_use]
    pub fn member(&self, structure: TypeId, name: &str) -> Option<Member> {
        let path = self.path_to(structure, name)?;
        let mut offset = 0u64;
        for outer in path.iter().rev().skip(1) {
            if let Some(Type::Elsewhere { .. }) = self.get_resolved(outer.of) {
                return None;
            }
            offset = offset.checked_add(outer.offset)?;
        }
        let last = path.into_iter().next_back()?;
        Some(Member { offset: offset.checked_add(last.offset)?, ..last })
    }
}

/// How deep types are looked into.
const DEEPEST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn base(types: &mut Types, bytes: u64) -> TypeId {
        types.add(Type::Base { name: "int".into(), encoding: Encoding::Signed, bytes })
    }

    fn member(name: Option<&str>, of: TypeId, offset: u64) -> Member {
        Member { name: name.map(str::to_owned), of, offset, bits: None, inherited: false }
    }

    fn structure(types: &mut Types, members: Vec<Member>) -> TypeId {
        let kind = StructureKind::Structure;
        types.add(Type::Structure { kind, name: None, bytes: 24, members, variants: None })
    }

    #[test]
    fn members_are_found_through_what_has_no_name() {
        let mut types = Types::new();
        let int = base(&mut types, 4);
        let inner = structure(&mut types, vec![member(Some("deep"), int, 4)]);
        let alias = types.add(Type::Alias { name: "inner_t".into(), of: inner });
        let outer = structure(&mut types, vec![member(Some("first"), int, 0), member(None, alias, 8)]);
        assert_eq!(types.member(outer, "deep").map(|found| (found.offset, found.of)), Some((12, int)));
        assert_eq!(types.member(outer, "other"), None);
        let array = types.add(Type::Array { element: outer, count: Some(3) });
        assert_eq!(types.size_of(array), Some(72));
    }

    #[test]
    fn only_what_is_named_is_kept() {
        let mut types = Types::new();
        base(&mut types, 1);
        let int = base(&mut types, 4);
        let list = base(&mut types, 0);
        let pointer = types.add(Type::Pointer { to: Some(list), reference: false });
        let inner = structure(&mut types, vec![member(Some("next"), pointer, 0), member(Some("x"), int, 8)]);
        types.replace(list, Type::Alias { name: "list".into(), of: inner });
        let mut roots = [list];
        let only = types.only(&mut roots);
        assert_eq!(only.len(), 4);
        let next = only.member(roots[0], "next").unwrap();
        assert_eq!(only.get(next.of), Some(&Type::Pointer { to: Some(roots[0]), reference: false }));
        let mut both = base_types();
        let distance = both.append(only);
        assert_eq!(both.member(TypeId(roots[0].0 + distance), "x").map(|found| found.offset), Some(8));
    }

    fn base_types() -> Types {
        let mut types = Types::new();
        base(&mut types, 8);
        types
    }

    #[test]
    fn types_that_are_their_own_have_no_end_and_do_no_harm() {
        let mut types = Types::new();
        let id = base(&mut types, 4);
        types.replace(id, Type::Alias { name: "itself".into(), of: id });
        assert_eq!(types.size_of(id), None);
        types.replace(id, Type::Array { element: id, count: Some(2) });
        assert_eq!(types.size_of(id), None);
        types.replace(
            id,
            Type::Structure {
                kind: StructureKind::Union,
                name: None,
                bytes: 1,
                members: vec![member(None, id, 1)],
                variants: None,
            },
        );
        assert_eq!(types.member(id, "x"), None);
        assert_eq!(types.size_of(TypeId(99)), None);
    }
}
