//! Injections at a site, as data: compiled for it, and done to a thread.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arguments::binding::Argument;
use crate::arguments::capture::is_letter;
use crate::arguments::compile::{Compiled, Compiler};
use crate::arguments::failure::{self, Failure};
use crate::arguments::injection::{Assignment, Injection};
use crate::arguments::lexer::SyntaxError;
use crate::arguments::names::Names;
use crate::arguments::object::Outcome;
use crate::arguments::operand::{Class, Location, Number, Operand, Place, class_of, part, plus, width_of};
use crate::arguments::surroundings::{SiteKind, Surroundings};
use crate::arguments::syntax::{Node, Syntax};
use crate::language::types::{Encoding, Type, TypeId, Types};
use crate::language::{Expression, ExtendedRegister, Machine, MachineMut, Register, Undefined};

/// An injection at a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BoundInjection {
    changes: Vec<Change>,
    pub(crate) instruction: Instruction,
    pub(crate) delay: Duration,
    pub(crate) signal: Option<i32>,
    /// Why it cannot be done, as far as was known then.
    pub(crate) missing: Option<String>,
}

/// What becomes of the instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Instruction {
    /// It is performed.
    Performed,
    /// It is left out.
    LeftOut,
    /// The function that begins with it returns instead.
    Returned,
}

/// Something that gets a new value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    /// It, as it is shown.
    pub(crate) shown: Argument,
    /// Whether what it was before means anything.
    has_before: bool,
    /// How many bytes its type has.
    bytes: u64,
    target: Target,
    value: NewValue,
}

/// Where a value goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Target {
    /// All of a general register.
    Whole(Register),
    /// So many bytes of one, behind so many bits; what is above them stays.
    Part(Register, u8, u8),
    /// So many bytes of another register from that one on.
    Extended(ExtendedRegister, u8, u8),
    /// So many bytes of memory.
    Memory(Expression, u8),
    /// Bits of memory: where they begin, counted from the lowest, and how many they are.
    Bits(Expression, u32, u32),
    /// As much memory as the text has.
    Text(Expression),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum NewValue {
    /// The low bytes of a number.
    Number(Expression),
    /// A double, as a float of 32 bits.
    Single(Expression),
    Text(Vec<u8>),
}

/// What was done to a thread, on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Applied {
    /// The number of the hit.
    pub(crate) number: u64,
    /// What the changes were about, as it was before and as it is now.
    pub(crate) before: Vec<u8>,
    pub(crate) after: Vec<u8>,
    /// Why nothing was done.
    pub(crate) failed: Option<String>,
}

impl BoundInjection {
    /// What `injection` comes to at a site.
    pub(crate) fn compile(
        injection: &Injection,
        surroundings: &Surroundings<'_>,
        names: &dyn Names,
        types: &mut Types,
    ) -> Compiled<BoundInjection> {
        let mut bound = BoundInjection {
            changes: Vec::new(),
            instruction: if injection.skip { Instruction::LeftOut } else { Instruction::Performed },
            delay: injection.delay,
            signal: injection.signal,
            missing: None,
        };
        for change in &injection.changes {
            bound.changes.push(assigned(change, names, types)?);
        }
        if injection.fails_or_returns() {
            bound.compile_outcome(injection, surroundings, names, types)?;
        }
        Ok(bound)
    }

    /// What the function returns, and whether it runs.
    fn compile_outcome(
        &mut self,
        injection: &Injection,
        surroundings: &Surroundings<'_>,
        names: &dyn Names,
        types: &mut Types,
    ) -> Compiled<()> {
        let written = match (&injection.result, injection.errno) {
            (Some((text, _)), _) => text.clone(),
            (None, errno) => format!("{}", errno.unwrap_or(0)),
        };
        let wrong = |what: String| Err(SyntaxError::new(&written, 0, what));
        self.instruction = match (&surroundings.kind, self.instruction) {
            (SiteKind::Return, instruction) => instruction,
            (_, Instruction::LeftOut) => {
                return wrong(
                    "what returns at once leaves the instruction out: there is nothing to skip".to_owned(),
                );
            }
            (SiteKind::Entry, _) => Instruction::Returned,
            (SiteKind::SystemCall, _) => Instruction::LeftOut,
            (SiteKind::Inside(function), _) => {
                return wrong(format!(
                    "only a function's first instruction, its return (%return) or a system call can return something: \
                     this is inside {function}"
                ));
            }
            (SiteKind::Unknown, _) => {
                return wrong(
                    "no function is known to begin here, and no other place can return something".to_owned(),
                );
            }
        };
        let is_call = surroundings.kind == SiteKind::SystemCall;
        let outcome = if is_call { Outcome::Unknown } else { surroundings.outcome(types) };
        let known = if is_call { None } else { surroundings.failure() };
        let mut compiler = Compiler::new(&written, names, types);
        let (operand, is_typed) = match outcome {
            Outcome::Located(located) => (Operand::new(located.location, located.of), true),
            Outcome::Nothing | Outcome::Unknown => (compiler.accumulator(), false),
        };
        let number = match (&injection.result, injection.errno) {
            (Some((_, node)), _) => known_number(&mut compiler, node)?,
            (None, Some(errno)) => {
                let result = match (known, class_of(compiler.types, operand.of)) {
                    _ if is_call => -i64::from(errno),
                    (Some(Failure::Number), _) => i64::from(errno),
                    (Some(Failure::Returns(result)), _) => result,
                    (None, Some(Class::Integer { .. })) => -1,
                    (None, Some(Class::Pointer(_))) => 0,
                    (None, _) => {
                        let what = "how a function with a result of this type fails is not known: say what it returns";
                        return wrong(what.to_owned());
                    }
                };
                let class = Class::Integer { bytes: 8, signed: true };
                Number { value: result.cast_unsigned().into(), class }
            }
            (None, None) => return Ok(()),
        };
        // Where nothing tells its type, it is that of what is put there.
        let operand = match number.class {
            _ if is_typed => operand,
            Class::Float if !is_call => float_result(types),
            class => shown_by(types, operand, class),
        };
        let mut change = Change::new("return", &operand, &number, types).map_err(|what| {
            let what = format!("{what}, so this cannot be what the function returns");
            SyntaxError::new(&written, 0, what)
        })?;
        change.has_before = surroundings.kind == SiteKind::Return;
        self.changes.push(change);
        let returns_number = known == Some(Failure::Number) && injection.result.is_none();
        if let Some(errno) = injection.errno.filter(|_| !is_call && !returns_number) {
            match surroundings.errno() {
                Ok(address) => self.changes.push(Change::errno(address, errno, types)),
                Err(what) => self.missing = Some(what),
            }
        }
        Ok(())
    }

    /// The types of what is changed.
    pub(crate) fn types(&mut self) -> impl Iterator<Item = &mut TypeId> {
        self.changes.iter_mut().flat_map(|change| change.shown.types())
    }

    /// Each with its name and whether what it was before means anything.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (&Argument, bool)> {
        self.changes.iter().map(|change| (&change.shown, change.has_before))
    }

    /// Whether its expressions are valid.
    pub(crate) fn is_valid(&self) -> bool {
        self.changes.iter().all(|change| {
            let target = match &change.target {
                Target::Memory(address, _) | Target::Bits(address, ..) | Target::Text(address) => {
                    address.is_valid()
                }
                Target::Whole(_) | Target::Part(..) | Target::Extended(..) => true,
            };
            let value = match &change.value {
                NewValue::Number(value) | NewValue::Single(value) => value.is_valid(),
                NewValue::Text(_) => true,
            };
            target && value && change.shown.is_valid()
        })
    }
}

/// A number that is computed from what is there.
fn known_number(compiler: &mut Compiler<'_>, node: &Node) -> Compiled<Number> {
    let number = compiler.number(node)?;
    match compiler.missing.take() {
        Some((column, why)) => Err(SyntaxError::new(compiler.text, column, why)),
        None => Ok(number),
    }
}

/// Where a double is returned.
fn float_result(types: &mut Types) -> Operand {
    let of = types.add(Type::Base { name: "double".to_owned(), encoding: Encoding::Float, bytes: 8 });
    Operand::new(Location::Extended(ExtendedRegister::Vector(0), 0), of)
}

/// The same place, shown as what is put there.
fn shown_by(types: &mut Types, operand: Operand, class: Class) -> Operand {
    let (name, encoding) = match class {
        Class::Integer { signed: true, .. } => ("long", Encoding::Signed),
        Class::Integer { .. } => ("unsigned long", Encoding::Unsigned),
        Class::Float | Class::Pointer(_) => return operand,
    };
    let of = types.add(Type::Base { name: name.to_owned(), encoding, bytes: 8 });
    Operand { of, ..operand }
}

/// What a change that a user has written comes to.
fn assigned(change: &Assignment, names: &dyn Names, types: &mut Types) -> Compiled<Change> {
    let Assignment { text, length, target, value } = change;
    let (name, right) = (&text[..*length], &text[length + 1..]);
    let operand = Compiler::new(name, names, types).fetch(target)?;
    let of_target = |what: String| SyntaxError::new(text, target.node.column, what);
    if let Syntax::Text(letters) = &value.syntax {
        return Change::text(name.trim(), &operand, letters, types).map_err(of_target);
    }
    let number = known_number(&mut Compiler::new(right, names, types), value)?;
    Change::new(name.trim(), &operand, &number, types)
        .map_err(|what| of_target(format!("{what}, so it cannot be set")))
}

impl Change {
    fn new(name: &str, operand: &Operand, number: &Number, types: &Types) -> Result<Change, String> {
        let class = class_of(types, operand.of);
        let bytes = types.size_of(operand.of).unwrap_or(0);
        let value = match class {
            Some(Class::Float) if bytes == 4 => Some(NewValue::Single(number.to_float())),
            Some(Class::Float) if bytes == 8 => Some(NewValue::Number(number.to_float())),
            Some(Class::Float) => return Err("it is a long double".to_owned()),
            Some(Class::Integer { bytes, signed }) => number.to_integer(bytes, signed).map(NewValue::Number),
            Some(Class::Pointer(_)) => number.to_integer(8, false).map(NewValue::Number),
            None => return Err("it is neither a number nor an address".to_owned()),
        };
        let value = value.ok_or("it has a size that no number has")?;
        let target = target_of(operand, bytes)?;
        let shown = Argument::new(name.to_owned(), types, operand).map_err(str::to_owned)?;
        Ok(Change { shown, has_before: true, bytes, target, value })
    }

    /// Letters with a zero behind them, into an array.
    fn text(name: &str, operand: &Operand, letters: &str, types: &Types) -> Result<Change, String> {
        let room = match types.get_resolved(operand.of) {
            Some(&Type::Array { element, count: Some(count) }) if is_letter(types, element) => count,
            _ => return Err("only an array of letters can be set to a text".to_owned()),
        };
        let Place::At(Location::Memory(address)) = &operand.place else {
            return Err("it is not in memory, so it cannot be set to a text".to_owned());
        };
        let mut bytes = letters.as_bytes().to_vec();
        bytes.push(0);
        if bytes.len() as u64 > room {
            return Err(format!("it has room for {} letters", room.saturating_sub(1)));
        }
        let shown = Argument::new(name.to_owned(), types, operand).map_err(str::to_owned)?;
        let target = Target::Text(address.clone());
        Ok(Change { shown, has_before: true, bytes: room, target, value: NewValue::Text(bytes) })
    }

    /// The thread's `errno`.
    fn errno(address: Expression, errno: i32, types: &mut Types) -> Change {
        const BYTES: u8 = 4;
        let of = failure::errno_type(types);
        let operand = Operand::new(Location::Memory(address.clone()), of);
        // Which has a size.
        let shown = Argument::new("errno".to_owned(), types, &operand)
            .unwrap_or_else(|why| Argument::missing("errno".to_owned(), why.to_owned()));
        let value = NewValue::Number(u64::from(errno.cast_unsigned()).into());
        let target = Target::Memory(address, BYTES);
        Change { shown, has_before: true, bytes: BYTES.into(), target, value }
    }
}

/// Where a value of so many bytes goes.
fn target_of(operand: &Operand, bytes: u64) -> Result<Target, String> {
    let location = match &operand.place {
        Place::At(location) => location,
        Place::BitField(address, first, count) => {
            let (byte, first) = (u64::from(first / 8), first % 8);
            if first + count > 64 {
                return Err("it is a bit-field of more than eight bytes".to_owned());
            }
            let address = plus(address.clone(), byte);
            return Ok(Target::Bits(address, first, *count));
        }
        Place::Text(_) | Place::Comm => return Err("it is a text".to_owned()),
    };
    let piece = part(location, 0, bytes).ok_or("it is not all in one place")?;
    let short = u8::try_from(bytes).ok().filter(|&bytes| width_of(bytes.into()).is_some());
    let short = short.ok_or("it has a size that no number has")?;
    Ok(match piece {
        Location::Memory(address) => Target::Memory(address, short),
        Location::Extended(register @ ExtendedRegister::Vector(_), start) => {
            Target::Extended(register, start, short)
        }
        Location::Extended(..) => return Err("it is a register that is not set here".to_owned()),
        Location::Bits(value) => {
            if let Some((register @ (ExtendedRegister::Vector(_) | ExtendedRegister::Opmask(_)), quadword)) =
                value.extended_part()
            {
                Target::Extended(register, quadword * 8, short)
            } else {
                match value.register_part() {
                    Some((register, width, 0)) if width.bytes() >= 4 => Target::Whole(register),
                    Some((register, width, bits)) => Target::Part(register, width.bytes() as u8, bits as u8),
                    None => return Err("it is computed, and nowhere".to_owned()),
                }
            }
        }
        Location::Pieces(_) => return Err("it is not all in one place".to_owned()),
        Location::Missing(why) => return Err(why),
    })
}

/// A store into memory that is to be made: those bits that are in the mask.
struct Store {
    address: u64,
    bytes: Vec<u8>,
    mask: Vec<u8>,
}

impl Store {
    /// Of all bits.
    fn whole(address: u64, bytes: Vec<u8>) -> Store {
        let mask = vec![u8::MAX; bytes.len()];
        Store { address, bytes, mask }
    }

    /// Of some bits, counted from the lowest.
    fn bits(address: u64, (first, count): (u32, u32), value: u64) -> Store {
        let length = (first + count).div_ceil(8).min(8) as usize;
        let mask = (u64::MAX >> (64 - count.clamp(1, 64))) << first;
        let of = |bits: u64| bits.to_le_bytes()[..length].to_vec();
        Store { address, bytes: of(value << first), mask: of(mask) }
    }
}

impl BoundInjection {
    /// Changes what is to be changed: all of it, or nothing. `allows` says of a register's new value what is wrong with it.
    ///
    /// # Errors
    /// Why nothing was.
    pub(crate) fn apply(
        &self,
        machine: &mut dyn MachineMut,
        mut allows: impl FnMut(&mut dyn MachineMut, Register, u64) -> Result<(), String>,
    ) -> Result<(Vec<u8>, Vec<u8>), String> {
        if let Some(missing) = &self.missing {
            return Err(missing.clone());
        }
        let (mut stores, mut general, mut extended) = (Vec::new(), Vec::new(), Vec::new());
        for change in &self.changes {
            let name = change.shown.name();
            let undefined = |undefined: Undefined| format!("`{name}`: {}", what_is(undefined));
            let bytes = change.value.bytes(machine).map_err(undefined)?;
            let number =
                || u64::from_le_bytes(std::array::from_fn(|index| bytes.get(index).copied().unwrap_or(0)));
            match &change.target {
                Target::Whole(register) => {
                    let value = number();
                    general.push((*register, change.extended_to(value)));
                }
                &Target::Part(register, length, bits) => {
                    let mask = ((1u64 << (8 * length)) - 1) << bits;
                    let known =
                        general.iter().rev().find(|(known, _)| *known == register).map(|&(_, value)| value);
                    let before = known.unwrap_or_else(|| machine.register(register));
                    general.push((register, before & !mask | number() << bits & mask));
                }
                &Target::Extended(register, start, length) => {
                    extended.push((register, start, length, number()))
                }
                Target::Memory(address, length) => {
                    let address = address.evaluate(machine).map_err(undefined)?;
                    let bytes = bytes.get(..usize::from(*length)).unwrap_or(&bytes).to_vec();
                    stores.push(Store::whole(address, bytes));
                }
                Target::Bits(address, first, count) => {
                    let address = address.evaluate(machine).map_err(undefined)?;
                    stores.push(Store::bits(address, (*first, *count), number()));
                }
                Target::Text(address) => {
                    let address = address.evaluate(machine).map_err(undefined)?;
                    stores.push(Store::whole(address, bytes));
                }
            }
        }
        for &(register, value) in &general {
            allows(machine, register, value)?;
        }
        let before = self.taken(machine);
        store_all(machine, &stores)?;
        for (register, start, length, value) in extended {
            if !set_extended(machine, register, start, length, value) {
                return Err("a register cannot be had".to_owned());
            }
        }
        general.into_iter().for_each(|(register, value)| machine.set_register(register, value));
        let after = self.taken(machine);
        Ok((before, after))
    }

    fn taken(&self, machine: &mut dyn Machine) -> Vec<u8> {
        let mut taken = Vec::new();
        self.changes.iter().for_each(|change| change.shown.take(machine, &mut taken));
        taken
    }
}

impl Change {
    /// What a whole register gets: a number of less than 32 bits is extended to these, as callers do, and zeros are above.
    fn extended_to(&self, value: u64) -> u64 {
        if self.bytes == 8 { value } else { value & u64::from(u32::MAX) }
    }
}

impl NewValue {
    fn bytes(&self, machine: &mut dyn Machine) -> Result<Vec<u8>, Undefined> {
        Ok(match self {
            NewValue::Number(value) => value.evaluate(machine)?.to_le_bytes().to_vec(),
            NewValue::Single(value) => {
                let value = f64::from_bits(value.evaluate(machine)?);
                (value as f32).to_bits().to_le_bytes().to_vec()
            }
            NewValue::Text(bytes) => bytes.clone(),
        })
    }
}

fn what_is(undefined: Undefined) -> String {
    match undefined {
        Undefined::Division => "a division by zero".to_owned(),
        Undefined::Memory { address } => format!("memory at {address:#x} cannot be read"),
        Undefined::Unavailable => "a register cannot be had".to_owned(),
    }
}

/// Makes all stores, one after the other, or none.
fn store_all(machine: &mut dyn MachineMut, stores: &[Store]) -> Result<(), String> {
    let mut made: Vec<(u64, Vec<u8>)> = Vec::new();
    for Store { address, bytes, mask } in stores {
        let mut old = vec![0; bytes.len()];
        let there = machine.read_up_to(*address, &mut old) == old.len();
        let merged = old.iter().zip(bytes).zip(mask).map(|((old, new), mask)| old & !mask | new & mask);
        let merged: Vec<u8> = merged.collect();
        if !there || !machine.write(*address, &merged) {
            for (address, bytes) in made.iter().rev() {
                // It could be written just now.
                machine.write(*address, bytes);
            }
            return Err(format!("memory at {address:#x} cannot be written"));
        }
        made.push((*address, old));
    }
    Ok(())
}

/// Changes bytes of a register that is not general; all of them are in one quadword.
fn set_extended(
    machine: &mut dyn MachineMut,
    register: ExtendedRegister,
    start: u8,
    length: u8,
    value: u64,
) -> bool {
    let (quadword, bits) = (start / 8, 8 * u32::from(start % 8));
    let mask = (u64::MAX >> (64 - 8 * u32::from(length.clamp(1, 8)))) << bits;
    let Some(before) = machine.extended(register, quadword) else { return false };
    machine.set_extended(register, quadword, before & !mask | value << bits & mask)
}
