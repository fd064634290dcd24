//! The variables that can be named at an address, and where their values are.

use std::cell::RefCell;

use gimli::{AttributeValue, constants as dw};
use serde::{Deserialize, Serialize};

use super::abi;
use super::entry::Caller;
use super::error::DebugError;
use super::functions::BlockKind;
use super::info::{DebugInfo, Die, Entry, Query, Value, language_of};
use super::location::{Found, Location, Surroundings, Unavailable, quadwords};
use super::names::Kind;
use super::types::Describer;
use crate::language::Expression;
use crate::language::types::{TypeId, Types};

/// What a variable is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VariableKind {
    /// A parameter of the function.
    Parameter,
    /// A result that has a name, as in Go.
    Result,
    /// A variable of the function.
    Local,
    /// One that is there as long as the program, or the thread.
    Static,
}

/// Where it is known from where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Source {
    /// The debug information.
    Debug,
    /// The rules by which arguments are passed: the debug information tells of the place where the function is going to
    /// store it.
    Abi,
}

/// A variable at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it is.
    pub kind: VariableKind,
    /// Its type, among those that it came with.
    pub of: TypeId,
    /// Where its value is.
    pub location: Location,
    /// From where that is known.
    pub source: Source,
    /// How many blocks of its function it is in: of two with one name, the one in more blocks hides the other.
    pub depth: u32,
}

/// In which language a function is written, as far as that changes how its values are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are the languages' names")]
pub enum Language {
    C,
    Cpp,
    Rust,
    Go,
    Other,
}

/// A function at an address and its variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScopeFrame {
    /// The function, as its author wrote it.
    pub function: Option<String>,
    /// Whether it was inlined into the next.
    pub inlined: bool,
    /// The parameters in their order, then the local variables, those of inner blocks first.
    pub variables: Vec<Variable>,
}

/// What can be named at an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// In which language it is written.
    pub language: Language,
    /// The functions, the innermost inlined one first.
    pub frames: Vec<ScopeFrame>,
    /// The types of the variables.
    pub types: Types,
    /// Where it is found to what the function returns, if who has called may tell of variables that are
    /// [`Unavailable::EntryValue`]: see [`DebugInfo::scope_called`].
    pub caller: Option<Expression>,
}

impl Scope {
    /// The variable of that name that is nearest: of the innermost function and block first.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&Variable> {
        let named = |frame: &'_ ScopeFrame| -> Option<usize> {
            let found = frame.variables.iter().enumerate().filter(|(_, variable)| variable.name == name);
            // The first of those in most blocks.
            found.rev().max_by_key(|(_, variable)| variable.depth).map(|(at, _)| at)
        };
        self.frames.iter().find_map(|frame| frame.variables.get(named(frame)?))
    }
}

impl DebugInfo {
    /// The parameters and local variables that are in scope at virtual address `address`. Their locations hold while a
    /// thread stands there, and nowhere else.
    ///
    /// At the first address of a function that stores its parameters, as unoptimized ones do, they are where the calling
    /// convention has them; see [`Source::Abi`].
    ///
    /// # Errors
    /// No function is known there, or what tells of it is corrupt.
    pub fn scope(&self, address: u64) -> Result<Scope, DebugError> {
        self.scope_called(address, &[])
    }

    /// The same where it is known who has called, the innermost caller first: the virtual address to which the call returns,
    /// with the debug information of its object; `None` for one of which nothing is known.
    ///
    /// # Errors
    /// As [`DebugInfo::scope`].
    pub fn scope_called(
        &self,
        address: u64,
        callers: &[Option<(&DebugInfo, u64)>],
    ) -> Result<Scope, DebugError> {
        self.scope_with(address, callers, false)
    }

    /// The same, `shallow` if the variables are only to be shown, for which it need not be known what is behind pointers.
    pub(crate) fn scope_with(
        &self,
        address: u64,
        callers: &[Option<(&DebugInfo, u64)>],
        shallow: bool,
    ) -> Result<Scope, DebugError> {
        self.is_complete()?;
        let query = Query::new(self);
        let known = |&(info, back): &(_, u64)| Caller { query: Query::new(info), back };
        let callers: Vec<Option<Caller<'_>>> =
            callers.iter().map(|caller| caller.as_ref().map(known)).collect();
        let mut trouble = None;
        for unit in self.units_at(address) {
            match query.scope(unit, address, &callers, shallow) {
                Ok(Some(scope)) => return Ok(scope),
                Ok(None) => {}
                Err(error) => trouble = Some(error),
            }
        }
        Err(trouble.or_else(|| self.trouble().cloned()).unwrap_or(DebugError::NoPlace { address }))
    }

    /// The variable called `name` that is there as long as the program, as a thread finds it that stands at virtual
    /// address `address`; one of the same unit before one of another. `name` is a name as it is written, with or without
    /// what it is defined in.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn global(&self, address: u64, name: &str) -> Result<(Variable, Types), DebugError> {
        self.is_complete()?;
        let query = Query::new(self);
        let units: Vec<usize> = self.units_at(address).collect();
        let mut found = query.named(Kind::Variable, name)?;
        // A declaration is completed by its definition.
        for die in &mut found {
            if let Some(definition) = query.names().completing(*die).next() {
                *die = definition;
            }
        }
        let has_place = |die: &Die| {
            query.completed(*die).is_ok_and(|completed| {
                [dw::DW_AT_location, dw::DW_AT_const_value]
                    .into_iter()
                    .any(|name| query.attribute(&completed, name).is_some())
            })
        };
        found.retain(has_place);
        found.dedup();
        if let Some(own) = found.iter().copied().find(|die| units.contains(&die.unit)) {
            found = vec![own];
        }
        let die = match found.as_slice() {
            [] => {
                return Err(self.missing_or(DebugError::NoVariable { name: name.to_owned() }));
            }
            [one] => *one,
            several => {
                let candidates = several.iter().filter_map(|die| query.name_of(&query.completed(*die).ok()?));
                let candidates = candidates.take(8).collect();
                return Err(DebugError::AmbiguousVariable { name: name.to_owned(), candidates });
            }
        };
        let mut describer = Describer::new(&query);
        let around = Surroundings::new(&query, address);
        let variable = query.variable(&around, &mut describer, die, 0)?;
        let variable = variable.ok_or_else(|| DebugError::NoVariable { name: name.to_owned() })?;
        let variable = Variable { kind: VariableKind::Static, ..variable };
        describer.finish();
        let types = describer.types;
        let location = resize(variable.location, types.size_of(variable.of));
        Ok((Variable { location, ..variable }, types))
    }
}

impl DebugInfo {
    /// Where the result is of the function that begins at virtual address `address`, at the place that it returns to, and of
    /// what type it is; `None` if it has none.
    ///
    /// # Errors
    /// No function is known there, or what tells of it is corrupt.
    pub fn result(&self, address: u64) -> Result<Option<(Location, TypeId, Types)>, DebugError> {
        self.is_complete()?;
        let query = Query::new(self);
        for unit in self.units_at(address) {
            if let Some(function) = query.blocks_at(unit, address)?.first() {
                return Ok(abi::returned(&query, query.language(unit), function.die));
            }
        }
        Err(DebugError::NoPlace { address })
    }

    /// A type of that name, with or without what kind of type it is (`struct point`, `point`).
    ///
    /// # Errors
    /// There is none.
    pub fn type_named(&self, name: &str) -> Result<(TypeId, Types), DebugError> {
        self.is_complete()?;
        let query = Query::new(self);
        let kinds = ["struct ", "union ", "enum ", "class "];
        let plain = kinds.into_iter().find_map(|kind| name.strip_prefix(kind)).unwrap_or(name).trim();
        let found = query.named(Kind::TypeName, plain)?;
        let &die =
            found.first().ok_or_else(|| self.missing_or(DebugError::NoType { name: name.to_owned() }))?;
        let mut describer = Describer::new(&query);
        let of = describer.of(die);
        describer.finish();
        Ok((of, describer.types))
    }
}

/// The quadwords of a register that a value of this size has.
fn resize(location: Location, size: Option<u64>) -> Location {
    match (location, size) {
        (Location::Value(mut quadwords), Some(size)) => {
            quadwords.truncate(usize::try_from(size.div_ceil(8)).unwrap_or(usize::MAX).max(1));
            Location::Value(quadwords)
        }
        (location, _) => location,
    }
}

/// A variable of which not all is known yet.
struct Draft {
    variable: Variable,
    die: Die,
    /// Whether it is in the function's frame, at the same place all the time.
    slot: bool,
    /// The frame that it belongs to, counted from the function itself.
    frame: usize,
}

impl<'a> Query<'a> {
    fn scope(
        &self,
        unit: usize,
        site: u64,
        callers: &[Option<Caller<'a>>],
        shallow: bool,
    ) -> Result<Option<Scope>, DebugError> {
        let blocks = self.blocks_at(unit, site)?;
        let Some(function) = blocks.first() else { return Ok(None) };
        let start = function.ranges.iter().find(|range| range.contains(&site)).cloned();
        let entry = function.ranges.first().map(|range| range.start);
        let at_entry = entry == Some(site);
        let around = Surroundings {
            query: self,
            site,
            lookup: site,
            function: Some(function.die),
            at_entry,
            callers,
            asks: RefCell::new(None),
        };
        let language = self.language(unit);
        // Whether what the function stores in its frame is not there yet.
        let in_prologue = start.is_some_and(|range| {
            entry == Some(range.start) && self.prologue_end(unit, &range).is_some_and(|end| site < end)
        });
        let describer = Describer::around(&around);
        let mut describer = if shallow { describer.shallow() } else { describer };
        let mut drafts: Vec<Draft> = Vec::new();
        let mut frame = 0;
        for (depth, block) in blocks.iter().enumerate() {
            if block.kind == BlockKind::Inlined {
                frame += 1;
            }
            self.variables_of(&around, &mut describer, block.die, (frame, depth), &mut drafts)?;
        }
        describer.finish();
        self.settle(&around, language, in_prologue, &mut describer, &mut drafts);
        let functions: Vec<_> = blocks.iter().filter(|block| block.kind != BlockKind::Lexical).collect();
        let mut frames: Vec<ScopeFrame> = Vec::new();
        for (frame, block) in functions.into_iter().enumerate() {
            let mut variables: Vec<Variable> = drafts
                .iter()
                .filter(|draft| draft.frame == frame)
                .map(|draft| draft.variable.clone())
                .collect();
            let is_local = |variable: &Variable| {
                variable.kind == VariableKind::Local || variable.kind == VariableKind::Static
            };
            variables.sort_by_key(|variable| {
                (is_local(variable), is_local(variable).then_some(std::cmp::Reverse(variable.depth)))
            });
            let inlined = block.kind == BlockKind::Inlined;
            frames.push(ScopeFrame { function: self.function_name(block.die), inlined, variables });
        }
        frames.reverse();
        let types = describer.types;
        Ok(Some(Scope { language, frames, types, caller: around.asks.take() }))
    }

    fn language(&self, unit: usize) -> Language {
        let language = match self.info.unit(unit) {
            // What was split off says it.
            Some(entry) if entry.split.is_some() => self.unit(unit).ok().and_then(|read| {
                let root = self.root(unit, &read).ok()?;
                language_of(root.attr_value(dw::DW_AT_language))
            }),
            entry => entry.and_then(|entry| entry.language),
        };
        match language {
            Some(dw::DW_LANG_C | dw::DW_LANG_C89 | dw::DW_LANG_C99 | dw::DW_LANG_C11 | dw::DW_LANG_C17) => {
                Language::C
            }
            Some(
                dw::DW_LANG_C_plus_plus
                | dw::DW_LANG_C_plus_plus_03
                | dw::DW_LANG_C_plus_plus_11
                | dw::DW_LANG_C_plus_plus_14
                | dw::DW_LANG_C_plus_plus_17
                | dw::DW_LANG_C_plus_plus_20,
            ) => Language::Cpp,
            Some(dw::DW_LANG_Rust) => Language::Rust,
            Some(dw::DW_LANG_Go) => Language::Go,
            _ => Language::Other,
        }
    }

    /// The variables of a function or of one block, and those that its abstract instance has besides.
    fn variables_of(
        &self,
        around: &Surroundings<'_, 'a>,
        describer: &mut Describer<'_, 'a>,
        block: Die,
        (frame, depth): (usize, usize),
        drafts: &mut Vec<Draft>,
    ) -> Result<(), DebugError> {
        let mut seen: Vec<Die> = Vec::new();
        for (die, _) in self.completed(block)? {
            let mut found = Vec::new();
            self.children(die, |child, entry| {
                if matches!(entry.tag, dw::DW_TAG_formal_parameter | dw::DW_TAG_variable) {
                    found.push(child);
                }
                Ok(())
            })?;
            for child in found.into_iter().filter(|child| !seen.contains(child)).collect::<Vec<_>>() {
                self.spend(seen.len() as u64)?;
                let completed = self.completed(child)?;
                seen.extend(completed.iter().map(|(die, _)| *die));
                // One that is declared only is another's.
                let declared = completed.iter().all(|(_, entry)| entry.has_attr(dw::DW_AT_declaration));
                let depth = u32::try_from(depth).unwrap_or(u32::MAX);
                if declared {
                    continue;
                }
                let variable = match self.variable(around, describer, child, depth) {
                    // One that is corrupt leaves the others alone.
                    Err(error) if error != DebugError::TooMuch => {
                        let what = Unavailable::Corrupt { what: error.to_string() };
                        self.plain_name(&completed).map(|name| Variable {
                            name,
                            kind: VariableKind::Local,
                            of: describer.of(child),
                            location: Location::Unavailable(what),
                            source: Source::Debug,
                            depth,
                        })
                    }
                    variable => variable?,
                };
                if let Some(variable) = variable {
                    let is_place = |value| matches!(value, AttributeValue::Exprloc(_));
                    let place = self.attribute(&completed, dw::DW_AT_location);
                    let slot = place.is_some_and(|(_, value)| is_place(value))
                        && self.is_in_frame(around, &completed);
                    drafts.push(Draft { variable, die: child, slot, frame });
                }
            }
        }
        Ok(())
    }

    fn is_in_frame(&self, around: &Surroundings<'_, 'a>, completed: &[(Die, Entry<'a>)]) -> bool {
        let place = self.attribute(completed, dw::DW_AT_location);
        place.is_some_and(|(die, value)| {
            let found = around.locate(die, value, None);
            found.in_frame && matches!(found.location, Location::Memory(_))
        })
    }

    /// The variable that an entry describes; `None` if it has no name.
    fn variable(
        &self,
        around: &Surroundings<'_, 'a>,
        describer: &mut Describer<'_, 'a>,
        die: Die,
        depth: u32,
    ) -> Result<Option<Variable>, DebugError> {
        let completed = self.completed(die)?;
        let Some(name) = self.plain_name(&completed).filter(|name| !name.is_empty()) else { return Ok(None) };
        let of = match self.attribute(&completed, dw::DW_AT_type) {
            Some((at, value)) => self.reference(at, Some(value))?,
            None => None,
        };
        let Some(of) = of else { return Ok(None) };
        let parameter = completed.iter().any(|(_, entry)| entry.tag == dw::DW_TAG_formal_parameter);
        let result = self.attribute(&completed, dw::DW_AT_variable_parameter);
        let is_result = parameter && matches!(result, Some((_, AttributeValue::Flag(true))));
        let Found { location, in_frame } = self.place(around, &completed);
        let fixed = matches!(location, Location::Memory(_))
            && !in_frame
            && matches!(
                self.attribute(&completed, dw::DW_AT_location),
                Some((_, AttributeValue::Exprloc(_)))
            );
        let kind = match (parameter, is_result) {
            (_, true) => VariableKind::Result,
            (true, false) => VariableKind::Parameter,
            _ if fixed => VariableKind::Static,
            _ => VariableKind::Local,
        };
        let of = describer.of(of);
        Ok(Some(Variable { name, kind, of, location, source: Source::Debug, depth }))
    }

    /// Where a variable's value is.
    fn place(&self, around: &Surroundings<'_, 'a>, completed: &[(Die, Entry<'a>)]) -> Found {
        /// As much of a register as there is: what is too much goes when the type is known.
        const MOST: u64 = 64;
        if let Some((die, value)) = self.attribute(completed, dw::DW_AT_location) {
            return around.locate(die, value, Some(MOST));
        }
        let location = match self.attribute(completed, dw::DW_AT_const_value) {
            Some((die, value)) => self.constant(die, value),
            None => Location::Unavailable(Unavailable::OptimizedOut),
        };
        Found { location, in_frame: false }
    }

    fn constant(&self, die: Die, value: Value<'a>) -> Location {
        Location::Value(match value {
            AttributeValue::Block(bytes) => quadwords(bytes.slice()),
            AttributeValue::Data16(value) => quadwords(&value.to_le_bytes()),
            AttributeValue::Sdata(value) => vec![value.cast_unsigned().into()],
            AttributeValue::Addr(address) => vec![address.into()],
            value => match (value.udata_value(), self.unit(die.unit)) {
                (Some(value), _) => vec![value.into()],
                (None, Ok(unit)) => {
                    let mut bytes = self.text(&unit, value).unwrap_or_default().into_bytes();
                    bytes.push(0);
                    quadwords(&bytes)
                }
                (None, Err(_)) => Vec::new(),
            },
        })
    }

    /// Puts right what depends on the types, and on how far the function has come.
    fn settle(
        &self,
        around: &Surroundings<'_, 'a>,
        language: Language,
        in_prologue: bool,
        describer: &mut Describer<'_, 'a>,
        drafts: &mut [Draft],
    ) {
        for draft in drafts.iter_mut() {
            let location = std::mem::replace(&mut draft.variable.location, Location::Pieces(Vec::new()));
            draft.variable.location = resize(location, describer.types.size_of(draft.variable.of));
        }
        if !in_prologue {
            return;
        }
        let by_function = around.frame_is_set_up_by_function();
        let is_known = |function| !self.is_convention_open(function);
        let passed = if around.at_entry && around.function.is_some_and(is_known) {
            let parameters = drafts
                .iter()
                .filter(|draft| draft.frame == 0 && draft.variable.kind == VariableKind::Parameter);
            let parameters: Vec<(Die, TypeId)> =
                parameters.map(|draft| (draft.die, draft.variable.of)).collect();
            abi::passed(self, language, around.function, &parameters, &mut *describer)
        } else {
            Vec::new()
        };
        let mut passed = passed.into_iter();
        for draft in drafts.iter_mut().filter(|draft| draft.frame == 0) {
            let variable = &mut draft.variable;
            let parameter = variable.kind == VariableKind::Parameter;
            let place = if parameter { passed.next() } else { None };
            if !draft.slot {
                continue;
            }
            if let Some(place) = place {
                (variable.location, variable.source) = (place, Source::Abi);
            } else if parameter || variable.kind == VariableKind::Result || by_function {
                variable.location = Location::Unavailable(Unavailable::NotStored);
            }
        }
    }
}
