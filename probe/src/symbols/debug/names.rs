//! Where functions, variables and types are described, by their names: made once, from all units.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use gimli::constants as dw;

use super::error::DebugError;
use super::info::{Die, Entry, Query};
use crate::symbols::elf::demangle;

/// What a name is one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    Function,
    /// One that is there as long as the program.
    Variable,
    /// One by what it is defined in and its name, to complete a declaration.
    Type,
    /// The same, and other names of types, by the name alone.
    TypeName,
}

/// An entry in few bytes: programs have millions of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Packed(u64);

impl Packed {
    const OFFSET_BITS: u32 = 38;

    /// `None` where there is more than fits, which no program has.
    fn of(die: Die) -> Option<Packed> {
        let (unit, offset) = (die.unit as u64, die.offset as u64);
        let fits = unit < 1 << (64 - Self::OFFSET_BITS) && offset < 1 << Self::OFFSET_BITS;
        fits.then_some(Packed(unit << Self::OFFSET_BITS | offset))
    }

    fn die(self) -> Die {
        let offset = self.0 & ((1 << Self::OFFSET_BITS) - 1);
        Die { unit: (self.0 >> Self::OFFSET_BITS) as usize, offset: offset as usize }
    }
}

/// All names, hashed, and what completes what.
#[derive(Debug, Default)]
pub(super) struct Names {
    named: Vec<(Kind, u64, Packed)>,
    /// An entry, and one that completes it.
    completing: Vec<(Packed, Packed)>,
    /// Why there may be others.
    pub(super) trouble: Option<DebugError>,
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The name of a type within what it is defined in.
fn hash_within(outer: u64, text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (outer, text).hash(&mut hasher);
    hasher.finish()
}

/// Where `open` brackets are not closed yet there are none of these.
fn outside_brackets(text: &str) -> impl Iterator<Item = (usize, char)> {
    let mut depth = 0_i32;
    text.char_indices().filter(move |(_, letter)| {
        match letter {
            '<' | '(' | '{' => depth += 1,
            '>' | ')' | '}' => depth -= 1,
            _ => {}
        }
        depth == 0 || (depth == 1 && matches!(letter, '<' | '(' | '{'))
    })
}

/// A name without the parameters and template arguments at its end.
fn without_arguments(name: &str) -> &str {
    let ends = outside_brackets(name).find(|&(at, letter)| at > 0 && matches!(letter, '(' | '<'));
    name.get(..ends.map_or(name.len(), |(at, _)| at)).unwrap_or(name)
}

/// A name without its parameters, and without what it is defined in.
fn last_component(name: &str) -> &str {
    let start =
        outside_brackets(name).filter(|&(at, _)| name.get(at..).is_some_and(|rest| rest.starts_with("::")));
    let parameters = outside_brackets(name).find(|&(at, letter)| at > 0 && letter == '(').map(|(at, _)| at);
    let end = parameters.unwrap_or(name.len());
    let start = start.map(|(at, _)| at + 2).filter(|&at| at <= end).last().unwrap_or(0);
    name.get(start..end).unwrap_or(name)
}

impl Names {
    fn read(query: &Query<'_>) -> Names {
        let mut names = Names::default();
        let mut read = |unit| {
            // One that is corrupt has the names that were found before that.
            if let Err(error) = names.read_unit(query, unit) {
                names.trouble.get_or_insert(error);
            }
            query.forget(unit);
        };
        (0..query.info.units.len()).for_each(&mut read);
        // Of which only now all are known.
        query.info.split_types().for_each(&mut read);
        names.named.sort_unstable();
        names.named.dedup();
        names.completing.sort_unstable();
        names
    }

    fn read_unit(&mut self, query: &Query<'_>, index: usize) -> Result<(), DebugError> {
        let unit = query.unit(index)?;
        let root = Die { unit: index, offset: unit.header.root_offset().0 };
        // The hash of what an entry lies in, by its depth, and whether that is within a function.
        let mut within: Vec<(u64, bool)> = vec![(0, false)];
        query.descend(root, |die, entry, depth| {
            within.truncate(usize::try_from(depth).unwrap_or(1).max(1));
            let (outer, in_function) = within.last().copied().unwrap_or_default();
            let name = entry.attr(dw::DW_AT_name).and_then(|name| query.text(&unit, name.value()));
            let inner = name.as_deref().map_or(outer, |name| hash_within(outer, name));
            let is_function = matches!(entry.tag, dw::DW_TAG_subprogram | dw::DW_TAG_inlined_subroutine);
            within.push((inner, in_function || is_function));
            let declared = entry.has_attr(dw::DW_AT_declaration);
            match entry.tag {
                dw::DW_TAG_subprogram => self.take(query, die, entry, Kind::Function, name.as_deref())?,
                dw::DW_TAG_inlined_subroutine => self.complete(query, die, entry)?,
                dw::DW_TAG_variable if !in_function && !declared => {
                    // One that was declared before, as in a header, has its name there.
                    let before = name.is_none() && entry.has_attr(dw::DW_AT_specification);
                    let before = before.then(|| query.plain_name(&query.completed(die).ok()?)).flatten();
                    self.take(query, die, entry, Kind::Variable, name.as_deref().or(before.as_deref()))?;
                }
                tag if !declared && (is_composite(tag) || is_name_of_type(tag)) => {
                    if let (Some(name), Some(packed)) = (name.as_deref(), Packed::of(die)) {
                        self.named.push((Kind::TypeName, hash(name), packed));
                        if is_composite(tag) {
                            self.named.push((Kind::Type, inner, packed));
                        }
                    }
                }
                _ => {}
            }
            let inside = in_function || is_function;
            Ok(!(inside && matches!(entry.tag, dw::DW_TAG_call_site | dw::DW_TAG_GNU_call_site)))
        })
    }

    fn complete<'a>(&mut self, query: &Query<'a>, die: Die, entry: &Entry<'a>) -> Result<(), DebugError> {
        let other = [dw::DW_AT_abstract_origin, dw::DW_AT_specification];
        let other = other.into_iter().find_map(|name| entry.attr_value(name));
        let other = query.reference(die, other)?;
        let pair = other.and_then(Packed::of).zip(Packed::of(die));
        self.completing.extend(pair);
        Ok(())
    }

    fn take<'a>(
        &mut self,
        query: &Query<'a>,
        die: Die,
        entry: &Entry<'a>,
        kind: Kind,
        name: Option<&str>,
    ) -> Result<(), DebugError> {
        let Some(packed) = Packed::of(die) else { return Ok(()) };
        self.complete(query, die, entry)?;
        if let Some(name) = name {
            self.named.push((kind, hash(name), packed));
            let short = without_arguments(name);
            if short != name {
                self.named.push((kind, hash(short), packed));
            }
        }
        let unit = query.unit(die.unit)?;
        let linked =
            [dw::DW_AT_linkage_name, dw::DW_AT_MIPS_linkage_name].into_iter().find_map(|at| entry.attr(at));
        if let Some(name) = linked.and_then(|name| query.text(&unit, name.value())) {
            self.named.push((kind, hash(&name), packed));
        }
        Ok(())
    }

    fn hashed(&self, kind: Kind, hash: u64) -> impl Iterator<Item = Die> {
        let start = self.named.partition_point(|&(a, b, _)| (a, b) < (kind, hash));
        let rest = self.named.get(start..).unwrap_or_default().iter();
        rest.take_while(move |&&(a, b, _)| (a, b) == (kind, hash)).map(|(_, _, packed)| packed.die())
    }

    /// The entries that complete an entry.
    pub(super) fn completing(&self, die: Die) -> impl Iterator<Item = Die> {
        let packed = Packed::of(die).unwrap_or(Packed(u64::MAX));
        let start = self.completing.partition_point(|(other, _)| *other < packed);
        let rest = self.completing.get(start..).unwrap_or_default().iter();
        rest.take_while(move |(other, _)| *other == packed).map(|(_, by)| by.die())
    }
}

fn is_composite(tag: dw::DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_structure_type
            | dw::DW_TAG_class_type
            | dw::DW_TAG_union_type
            | dw::DW_TAG_enumeration_type
    )
}

fn is_name_of_type(tag: dw::DwTag) -> bool {
    matches!(tag, dw::DW_TAG_typedef | dw::DW_TAG_base_type)
}

impl<'a> Query<'a> {
    pub(super) fn names(&self) -> &Names {
        // A question of its own, whose work is not that of who asks first.
        self.info.names.get_or_init(|| Names::read(&Query::new(self.info)))
    }

    /// The functions or variables of that name, each once: as it is written, with what it is defined in or without, or as
    /// a linker sees it.
    pub(super) fn named(&self, kind: Kind, text: &str) -> Result<Vec<Die>, DebugError> {
        let names = self.names();
        let hashes = [text, last_component(text), without_arguments(last_component(text))].map(hash);
        let mut found = Vec::new();
        for die in hashes.into_iter().flat_map(|hash| names.hashed(kind, hash)) {
            self.spend(1)?;
            let Ok(completed) = self.completed(die) else { continue };
            let Some(&(origin, _)) = completed.last() else { continue };
            if !found.contains(&origin) && self.goes_by(&completed, text) {
                found.push(origin);
            }
        }
        // What is declared only, in one unit, and described in another, is the same to a linker.
        Ok(found)
    }

    /// Whether that is a name of what is completed so.
    fn goes_by(&self, completed: &[(Die, Entry<'a>)], text: &str) -> bool {
        let plain = self.plain_name(completed);
        let is = |name: &str| name == text || without_arguments(name) == text;
        if plain.as_deref().is_some_and(is) {
            return true;
        }
        let Some(linked) = self.linkage_name(completed) else { return false };
        let written = demangle(&linked);
        let ends =
            |name: &str| name.strip_suffix(text).is_some_and(|rest| rest.is_empty() || rest.ends_with("::"));
        linked == text || ends(&written) || ends(without_arguments(&written)) || {
            let parameters = outside_brackets(&written).find(|&(at, letter)| at > 0 && letter == '(');
            parameters.is_some_and(|(at, _)| written.get(..at).is_some_and(ends))
        }
    }

    /// The definition of a type that `die` only declares, in this unit or another.
    pub(super) fn definition(&self, die: Die, tag: dw::DwTag) -> Result<Option<Die>, DebugError> {
        let Some(hash) = self.hash_of_type(die)? else { return Ok(None) };
        let alike = |found: &Die| {
            let class = |tag| if tag == dw::DW_TAG_class_type { dw::DW_TAG_structure_type } else { tag };
            self.entry(*found).is_ok_and(|(_, entry)| class(entry.tag) == class(tag))
        };
        let found: Vec<Die> = self.names().hashed(Kind::Type, hash).filter(alike).collect();
        // Another unit may have another type of the same name, but not this one.
        let own = found.iter().find(|found| found.unit == die.unit);
        Ok(own.or(found.first()).copied())
    }

    /// The hash of a type that is only declared there, of all those of its unit at once.
    fn hash_of_type(&self, wanted: Die) -> Result<Option<u64>, DebugError> {
        if let Some(known) = self.declared_types(wanted.unit) {
            return Ok(known.get(&wanted.offset).copied());
        }
        let unit = self.unit(wanted.unit)?;
        let root = Die { unit: wanted.unit, offset: unit.header.root_offset().0 };
        let mut within: Vec<u64> = vec![0];
        let mut found = HashMap::new();
        self.descend(root, |die, entry, depth| {
            within.truncate(usize::try_from(depth).unwrap_or(1).max(1));
            let outer = within.last().copied().unwrap_or_default();
            let name = entry.attr(dw::DW_AT_name).and_then(|name| self.text(&unit, name.value()));
            let inner = name.as_deref().map_or(outer, |name| hash_within(outer, name));
            within.push(inner);
            if name.is_some() && is_composite(entry.tag) && entry.has_attr(dw::DW_AT_declaration) {
                found.insert(die.offset, inner);
            }
            Ok(true)
        })?;
        let hash = found.get(&wanted.offset).copied();
        self.keep_declared_types(wanted.unit, found);
        Ok(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_outside_of_brackets() {
        for (name, last, bare) in [
            ("total", "total", "total"),
            ("shop::Cart::total(int)", "total", "total"),
            ("a::f<b::c>(d::e)", "f<b::c>", "f"),
            ("main.(*Counter).Add", "main.", "main."),
            ("<a::B as c::D>::f", "f", "f"),
            (
                "core::ptr::drop_in_place<alloc::vec::Vec<u8>>",
                "drop_in_place<alloc::vec::Vec<u8>>",
                "drop_in_place",
            ),
        ] {
            assert_eq!(
                (last_component(name), without_arguments(last_component(name))),
                (last, bare),
                "{name}"
            );
        }
    }
}
