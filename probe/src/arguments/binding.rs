//! Arguments and a condition for a site, as data: taken from a thread, and shown.

use serde::{Deserialize, Serialize};

use crate::arguments::capture::{self, Apart, Capture, Captured, TextAt, captured};
use crate::arguments::change::{Applied, BoundInjection, Instruction};
use crate::arguments::injected::{Changed, Injected};
use crate::arguments::lexer::SyntaxError;
use crate::arguments::operand::{Location, Operand, Place};
use crate::arguments::value::{Shown, Value, text_of};
use crate::language::types::{Type, TypeId, Types};
use crate::language::{Expression, Machine, Undefined};

/// An argument at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Argument {
    name: String,
    pub(crate) of: TypeId,
    /// Its parts, one behind the other.
    parts: Vec<Capture>,
    /// The texts that it leads to.
    texts: Vec<(TextAt, Capture)>,
    /// How many elements there are, where that is known at a hit only.
    counts: Vec<(TypeId, Capture)>,
    /// What lies elsewhere.
    apart: Vec<(Apart, Capture)>,
    /// Why there is none.
    missing: Option<String>,
}

impl Argument {
    pub(crate) fn new(name: String, types: &Types, operand: &Operand) -> Result<Argument, &'static str> {
        if let Place::At(Location::Missing(why)) = &operand.place {
            return Ok(Argument::missing(name, why.clone()));
        }
        let parts = capture::of_operand(types, operand)?;
        let counts = capture::counts_of(types, operand);
        let apart = capture::apart_of(types, operand);
        let texts = capture::texts_of(types, operand, &apart);
        Ok(Argument { name, of: operand.of, parts, texts, counts, apart, missing: None })
    }

    pub(crate) fn missing(name: String, why: String) -> Argument {
        let of = TypeId(u32::MAX);
        let (parts, texts, counts, apart) = Default::default();
        Argument { name, of, parts, texts, counts, apart, missing: Some(why) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Takes it from `machine`, and puts it behind what is in `out`.
    pub(crate) fn take(&self, machine: &mut dyn Machine, out: &mut Vec<u8>) {
        self.captures().for_each(|capture| capture.take(machine, out));
    }

    /// Whether its expressions are valid.
    pub(crate) fn is_valid(&self) -> bool {
        self.captures().all(Capture::is_valid)
    }

    fn captures(&self) -> impl Iterator<Item = &Capture> {
        let texts = self.texts.iter().map(|(_, text)| text);
        let counts = self.counts.iter().map(|(_, count)| count);
        self.parts.iter().chain(texts).chain(counts).chain(self.apart.iter().map(|(_, apart)| apart))
    }

    /// The types that it names.
    pub(crate) fn types(&mut self) -> impl Iterator<Item = &mut TypeId> {
        let counts = self.counts.iter_mut().map(|(of, _)| of);
        [&mut self.of].into_iter().chain(counts).chain(self.apart.iter_mut().map(|(apart, _)| &mut apart.of))
    }

    fn value(&self, types: &Types, captured: &mut dyn Iterator<Item = Captured>) -> Value {
        if let Some(why) = &self.missing {
            return Value::Missing(why.clone());
        }
        let parts: Vec<Captured> = self.parts.iter().filter_map(|_| captured.next()).collect();
        let texts = self.texts.iter().filter_map(|&(at, _)| Some((at, captured.next()?))).collect();
        let counts: Vec<(TypeId, Captured)> =
            self.counts.iter().filter_map(|&(of, _)| Some((of, captured.next()?))).collect();
        let apart: Vec<(Apart, Captured)> =
            self.apart.iter().filter_map(|&(apart, _)| Some((apart, captured.next()?))).collect();
        if let (Some(Type::Text), [part]) = (types.get_resolved(self.of), &parts[..]) {
            return text_of(part).map_or(Value::Fault, Value::Text);
        }
        let whole = parts.iter().any(|part| !part.fault) && parts.len() == self.parts.len();
        if !whole {
            let nowhere = self.parts.iter().all(|part| matches!(part, Capture::Nowhere(_)));
            return if nowhere { Value::Missing("optimized out".to_owned()) } else { Value::Fault };
        }
        let mut nowhere = Vec::new();
        let mut bytes: Vec<u8> = Vec::new();
        for (part, capture) in parts.into_iter().zip(&self.parts) {
            let start = bytes.len() as u64;
            bytes.extend(part.bytes);
            if matches!(capture, Capture::Nowhere(_)) {
                nowhere.push(start..bytes.len() as u64);
            }
        }
        let counted;
        let types = match counts.is_empty() {
            true => types,
            false => {
                counted = with_counts(types, &counts);
                &counted
            }
        };
        Shown::new(types, texts, nowhere, &apart).value(self.of, &bytes)
    }
}

/// The same types with so many elements in sequences.
fn with_counts(types: &Types, counts: &[(TypeId, Captured)]) -> Types {
    let mut counted = types.clone();
    for (of, captured) in counts {
        let count = captured.bytes.first_chunk().filter(|_| !captured.fault);
        if let Some(&Type::Sequence { element, .. }) = types.get(*of) {
            let count = count.map(|bytes| u64::from_le_bytes(*bytes));
            counted.replace(*of, Type::Array { element, count });
        }
    }
    counted
}

/// Arguments and a condition for a site, as data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    pub(crate) condition: Option<Expression>,
    /// Why the condition never holds, where it is known beforehand that what it needs is nowhere.
    #[serde(skip)]
    pub(crate) unknowable: Option<SyntaxError>,
    pub(crate) arguments: Vec<Argument>,
    pub(crate) injection: Option<BoundInjection>,
    pub(crate) types: Types,
}

impl Binding {
    /// The names of the arguments.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().map(|argument| argument.name.as_str())
    }

    /// Whether the condition holds; it does where there is none.
    ///
    /// # Errors
    /// It has no value.
    pub fn holds(&self, machine: &mut dyn Machine) -> Result<bool, Undefined> {
        match &self.condition {
            Some(condition) => condition.evaluate(machine).map(|value| value != 0),
            None => Ok(true),
        }
    }

    /// Takes the arguments, as bytes that [`Binding::values`] understands.
    pub fn take(&self, machine: &mut dyn Machine) -> Vec<u8> {
        let mut taken = Vec::new();
        self.arguments.iter().for_each(|argument| argument.take(machine, &mut taken));
        taken
    }

    /// As [`Binding::take`], without the texts that pointers lead to, and so with no meaning but that it is the same as
    /// before.
    pub(crate) fn take_parts(&self, machine: &mut dyn Machine) -> Vec<u8> {
        let mut taken = Vec::new();
        self.arguments
            .iter()
            .flat_map(|argument| &argument.parts)
            .for_each(|capture| capture.take(machine, &mut taken));
        taken
    }

    /// Why the first argument is nowhere that is not to be had.
    pub(crate) fn missing(&self) -> Option<&str> {
        self.arguments.iter().find_map(|argument| argument.missing.as_deref())
    }

    /// What the arguments are made of, without those texts.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &Capture> {
        self.arguments.iter().flat_map(|argument| &argument.parts)
    }

    /// The arguments that were taken, each with its name. Of bytes that are none, it makes what it can.
    pub fn values<'a>(&'a self, taken: &'a [u8]) -> impl Iterator<Item = (&'a str, Value)> {
        let mut captured = captured(taken);
        self.arguments
            .iter()
            .map(move |argument| (argument.name.as_str(), argument.value(&self.types, &mut captured)))
    }

    /// Whether its expressions are valid, and there are not too many.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.condition.iter().all(Expression::is_valid)
            && self.arguments.iter().all(Argument::is_valid)
            && self.injection.iter().all(BoundInjection::is_valid)
    }

    /// What was done to a thread by its injection.
    pub(crate) fn injected(&self, applied: &Applied) -> Injected {
        let Applied { number, before, after, failed } = applied;
        let (number, failed) = (*number, failed.clone());
        let Some(injection) = self.injection.as_ref().filter(|_| failed.is_none()) else {
            return Injected { number, failed, ..Injected::default() };
        };
        let (mut before, mut after) = (captured(before), captured(after));
        let changes = injection.changes().map(|(argument, has_before)| {
            let from = argument.value(&self.types, &mut before);
            let to = argument.value(&self.types, &mut after);
            Changed { what: argument.name.clone(), from: has_before.then_some(from), to }
        });
        Injected {
            number,
            changes: changes.collect(),
            returned: injection.instruction == Instruction::Returned,
            skipped: injection.instruction == Instruction::LeftOut,
            delay: injection.delay,
            signal: injection.signal,
            failed,
        }
    }
}
