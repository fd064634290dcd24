//! What a function was called with, by what is known of the call (DWARF 5, section 3.4): compilers forget parameters that a
//! function does not need any more, and note, for each call, how the caller computes what it passes.

use std::cell::RefCell;
use std::collections::HashSet;

use gimli::{AttributeValue, EndianSlice, Expression as Program, Operation, constants as dw};

use super::arithmetic::Term;
use super::error::DebugError;
use super::info::{Die, Entry, Query, Value};
use super::location::{Run, Surroundings, Unavailable, general, is_vector};
use super::names::Kind;
use super::sections::Slice;
use super::unwind::{Row, Saved};
use crate::language::{Binary, Expression, Register, Unary, Width};

/// A caller, in its own object.
pub(super) struct Caller<'a> {
    pub(super) query: Query<'a>,
    /// The virtual address to which its callee returns.
    pub(super) back: u64,
}

/// What a function preserves (System V psABI for x86-64, section 3.2.1).
const PRESERVED: [Register; 6] =
    [Register::Rbx, Register::Rbp, Register::R12, Register::R13, Register::R14, Register::R15];

/// A caller's registers, by those of its callee. What no table tells of is the same: where compilers say that a value is in a
/// register that calls may overwrite, they know that this one does not.
struct Above {
    registers: Vec<(Register, Expression)>,
    back: Expression,
}

impl Above {
    fn get(&self, register: Register) -> Option<&Expression> {
        match register {
            Register::Rip => Some(&self.back),
            _ => self.registers.iter().find(|(known, _)| *known == register).map(|(_, value)| value),
        }
    }

    /// What a value of the caller is by the callee's registers.
    fn translate(&self, value: &Expression) -> Result<Term, Unavailable> {
        let known = |register| {
            let is_base = matches!(register, Register::FsBase | Register::GsBase);
            is_base || self.get(register).is_some()
        };
        if !value.registers().all(known) {
            return Err(not_told("who has called keeps it in a register whose contents are not known"));
        }
        Term::of(value.with_registers(|register| self.get(register).cloned()))
    }
}

fn not_told(why: &str) -> Unavailable {
    Unavailable::NotTold { why: why.to_owned() }
}

/// A call that is described: the function that it is in, and its entry.
struct CallSite<'a> {
    function: Die,
    die: Die,
    entry: Entry<'a>,
}

impl<'a> CallSite<'a> {
    fn first(&self, names: &[dw::DwAt]) -> Option<Value<'a>> {
        names.iter().find_map(|&name| self.entry.attr_value(name))
    }
}

fn is_call_site(tag: dw::DwTag) -> bool {
    matches!(tag, dw::DW_TAG_call_site | dw::DW_TAG_GNU_call_site)
}

/// What may lie between a function and a call in it.
fn is_around_calls(tag: dw::DwTag) -> bool {
    matches!(
        tag,
        dw::DW_TAG_lexical_block
            | dw::DW_TAG_inlined_subroutine
            | dw::DW_TAG_try_block
            | dw::DW_TAG_catch_block
    )
}

const ORIGIN: [dw::DwAt; 2] = [dw::DW_AT_call_origin, dw::DW_AT_abstract_origin];
const TARGET: [dw::DwAt; 2] = [dw::DW_AT_call_target, dw::DW_AT_GNU_call_site_target];
const VALUE: [dw::DwAt; 2] = [dw::DW_AT_call_value, dw::DW_AT_GNU_call_site_value];

impl<'a> Query<'a> {
    /// The call that returns to an address.
    fn call_site(&self, back: u64) -> Result<Option<CallSite<'a>>, DebugError> {
        let lookup = back.wrapping_sub(1);
        for unit in self.info.units_at(lookup) {
            let Some(function) = self.function_at(unit, lookup)? else { continue };
            let read = self.unit(unit)?;
            let mut found = None;
            self.descend(function, |die, entry, _| {
                let returns = [dw::DW_AT_call_return_pc, dw::DW_AT_low_pc].into_iter();
                if is_call_site(entry.tag)
                    && let Some(value) = returns.filter_map(|name| entry.attr_value(name)).next()
                    && self.sections_of(&read).attr_address(&read, value).ok().flatten() == Some(back)
                {
                    found = Some(CallSite { function, die, entry: entry.clone() });
                }
                Ok(found.is_none() && is_around_calls(entry.tag))
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The functions to which a function jumps instead of calling them; `None` where that is not known of one.
    fn tail_calls(&self, function: Die) -> Result<Option<Vec<Die>>, DebugError> {
        let mut found = Some(Vec::new());
        self.descend(function, |die, entry, _| {
            let tail = [dw::DW_AT_call_tail_call, dw::DW_AT_GNU_tail_call];
            if is_call_site(entry.tag) && tail.into_iter().any(|name| entry.has_attr(name)) {
                let origin = ORIGIN.into_iter().find_map(|name| entry.attr_value(name));
                match (self.reference(die, origin)?, &mut found) {
                    (Some(origin), Some(found)) => found.push(origin),
                    _ => found = None,
                }
            }
            Ok(is_around_calls(entry.tag))
        })?;
        Ok(found)
    }

    /// Whether a function, once entered, may be entered anew by jumps alone, with other arguments, so that what is known of
    /// the call tells nothing.
    fn may_be_entered_anew(&self, function: Die) -> Result<bool, DebugError> {
        /// Chains of jumps are short.
        const MOST: usize = 64;
        let wanted = self.origin(function)?;
        let mut seen: HashSet<Die> = HashSet::new();
        let mut open = vec![function];
        while let Some(next) = open.pop() {
            if !seen.insert(next) {
                continue;
            }
            let Some(targets) = self.tail_calls(next)? else { return Ok(true) };
            if seen.len() > MOST {
                return Ok(true);
            }
            for target in targets {
                let (_, entry) = self.entry(target)?;
                // What is only declared here is defined elsewhere, or in no unit.
                let defined = match entry.has_attr(dw::DW_AT_declaration) {
                    false => vec![target],
                    true => self.defined(target)?,
                };
                for target in defined {
                    if self.origin(target)? == wanted {
                        return Ok(true);
                    }
                    open.push(target);
                }
            }
        }
        Ok(false)
    }

    /// The functions of other units that are declared so.
    fn defined(&self, declaration: Die) -> Result<Vec<Die>, DebugError> {
        let completed = self.completed(declaration)?;
        let name = self.linkage_name(&completed).or_else(|| self.plain_name(&completed));
        let Some(name) = name else { return Ok(Vec::new()) };
        let mut found = self.named(Kind::Function, &name)?;
        found.retain(|die| self.entry(*die).is_ok_and(|(_, entry)| !entry.has_attr(dw::DW_AT_declaration)));
        Ok(found)
    }

    /// What others call a function by, if they may.
    fn outer_name(&self, function: Die) -> Option<String> {
        let completed = self.completed(function).ok()?;
        self.attribute(&completed, dw::DW_AT_external)?;
        self.linkage_name(&completed).or_else(|| self.plain_name(&completed))
    }
}

impl<'q, 'a> Surroundings<'q, 'a> {
    /// The caller's registers.
    fn above(&self, nested: usize) -> Result<Above, Unavailable> {
        let row: Row<'a> = self.query.unwound(self.lookup)?.ok_or(Unavailable::NoFrame)?;
        let cfa = self.cfa_of(&row.cfa, nested + 1)?.expression;
        let at = |offset: i64| match offset {
            0 => cfa.clone(),
            offset => cfa.clone().binary(Binary::Add, offset.cast_unsigned().into()),
        };
        let saved =
            |number: u16| row.saved.iter().find(|(known, _)| *known == number).map(|(_, saved)| *saved);
        let value = |saved: Saved| match saved {
            Saved::Nowhere => None,
            Saved::At(offset) => Some(at(offset).unary(Unary::Load(Width::Quadword))),
            Saved::Is(offset) => Some(at(offset)),
            Saved::Register(number) => general(number).map(Expression::register),
            Saved::Constant(value) => Some(value.into()),
        };
        let back = saved(row.returns).and_then(value).ok_or(Unavailable::NoFrame)?;
        let mut registers = vec![(Register::Rsp, cfa.clone())];
        for number in 0..16 {
            let Some(register) = general(number).filter(|register| *register != Register::Rsp) else {
                continue;
            };
            let found = match saved(number) {
                Some(saved) => value(saved),
                None => Some(Expression::register(register)),
            };
            registers.extend(found.map(|found| (register, found)));
        }
        Ok(Above { registers, back })
    }

    /// The function's first address.
    fn start(&self) -> Option<u64> {
        let function = self.function?;
        let (unit, entry) = self.query.entry(function).ok()?;
        Some(self.query.ranges(&unit, function, &entry).ok()?.first()?.start)
    }
}

/// What is looked for of a call.
#[derive(Clone, Copy)]
enum Passed {
    /// What a register held, by DWARF's number.
    Register(u16),
    /// The value of a parameter, wherever it was passed.
    Parameter(Die),
}

impl<'a> Run<'_, '_, 'a> {
    /// DW_OP_entry_value: what the function's first instruction found in a register.
    pub(super) fn entry_value(&mut self, inner: Slice<'a>) -> Result<Term, Unavailable> {
        if self.around.at_entry {
            self.nested += 1;
            let value = self.value(Program(inner));
            self.nested -= 1;
            return value;
        }
        let mut reader = EndianSlice::new(inner.slice(), gimli::LittleEndian);
        let number = match Operation::parse(&mut reader, self.encoding)? {
            Operation::Register { register } => register.0,
            Operation::RegisterOffset { register, offset: 0, .. } => register.0,
            _ => return Err(not_told("it was passed in memory")),
        };
        if !reader.is_empty() {
            return Err(not_told("it was passed in memory"));
        }
        self.passed(Passed::Register(number))
    }

    /// DW_OP_GNU_parameter_ref: the value of a parameter that the optimizer has removed.
    pub(super) fn parameter(&mut self, die: Die) -> Result<Term, Unavailable> {
        self.passed(Passed::Parameter(die))
    }

    fn passed(&mut self, what: Passed) -> Result<Term, Unavailable> {
        /// How many callers are asked for one value.
        const MOST_CALLERS: usize = 8;
        let around = self.around;
        let function = around.function.ok_or(Unavailable::NoFrame)?;
        let above = around.above(self.nested)?;
        if let Passed::Register(number) = what
            && let Some(register) = general(number).filter(|register| PRESERVED.contains(register))
        {
            let value = above.get(register).ok_or_else(|| not_told("it is not kept"))?;
            return Term::of(value.clone());
        }
        let caller = match around.callers.first() {
            Some(Some(caller)) => caller,
            Some(None) => return Err(not_told("nothing is known of the code that has called")),
            None => {
                around.asks.borrow_mut().get_or_insert(above.back);
                return Err(Unavailable::EntryValue);
            }
        };
        if self.nested > MOST_CALLERS {
            return Err(Unavailable::TooLarge);
        }
        let site = caller.query.call_site(caller.back)?;
        let site = site.ok_or_else(|| not_told("the call is not described"))?;
        let upper = Surroundings {
            query: &caller.query,
            site: caller.back,
            lookup: caller.back.wrapping_sub(1),
            function: Some(site.function),
            at_entry: false,
            callers: around.callers.get(1..).unwrap_or_default(),
            asks: RefCell::new(None),
        };
        let computed = self.told(&upper, &site, function, what, &above);
        if let Some(asked) = upper.asks.take()
            && let Ok(asked) = above.translate(&asked)
        {
            around.asks.borrow_mut().get_or_insert(asked.expression);
        }
        computed
    }

    /// What a call says of what it passes to this function.
    fn told(
        &self,
        upper: &Surroundings<'_, 'a>,
        site: &CallSite<'a>,
        function: Die,
        what: Passed,
        above: &Above,
    ) -> Result<Term, Unavailable> {
        let caller = upper.query;
        let unit = caller.unit(site.die.unit)?;
        let run = || Run { nested: self.nested + 1, ..Run::new(upper, unit.encoding(), site.die.unit, None) };
        let is_ours = match caller.reference(site.die, site.first(&ORIGIN))? {
            Some(origin) if self.is_same_function(caller, origin, function) => None,
            Some(_) => return Err(not_told("what was called has jumped here")),
            None => {
                let target = match site.first(&TARGET) {
                    Some(AttributeValue::Exprloc(program)) => run().value(program)?,
                    _ => return Err(not_told("the call does not say what it has called")),
                };
                let start = self.around.start().ok_or(Unavailable::NoFrame)?;
                let target = above.translate(&target.expression)?;
                Some(target.binary(Binary::Equal, self.around.relocated(start))?)
            }
        };
        if self.around.query.may_be_entered_anew(function)? {
            return Err(not_told("the function may have jumped to itself"));
        }
        let mut program = None;
        caller.children(site.die, |child, entry| {
            if program.is_none() && self.is_it(caller, child, entry, what)? {
                program = VALUE.into_iter().find_map(|name| entry.attr_value(name));
            }
            Ok(())
        })?;
        let value = match program {
            Some(AttributeValue::Exprloc(program)) => run().value(program)?,
            _ => return Err(not_told("who has called does not keep it")),
        };
        let value = above.translate(&value.expression)?;
        match is_ours {
            Some(is_ours) => is_ours.choose(value, Term::of(Expression::unavailable())?),
            None => Ok(value),
        }
    }

    /// Whether an entry below a call says what is looked for.
    fn is_it(
        &self,
        caller: &Query<'a>,
        child: Die,
        entry: &Entry<'a>,
        what: Passed,
    ) -> Result<bool, DebugError> {
        if !matches!(entry.tag, dw::DW_TAG_call_site_parameter | dw::DW_TAG_GNU_call_site_parameter) {
            return Ok(false);
        }
        match what {
            Passed::Parameter(wanted) => {
                let names = [dw::DW_AT_call_parameter, dw::DW_AT_abstract_origin];
                let of = names.into_iter().find_map(|name| entry.attr_value(name));
                let of = caller.reference(child, of)?;
                let same = std::ptr::eq(caller.info, self.around.query.info);
                Ok(same && of.is_some_and(|of| caller.is_copy_of(of, wanted)))
            }
            Passed::Register(wanted) => {
                let Some(AttributeValue::Exprloc(place)) = entry.attr_value(dw::DW_AT_location) else {
                    return Ok(false);
                };
                let encoding = caller.unit(child.unit)?.encoding();
                let first = place.operations(encoding).next();
                let is = |number: u16| number == wanted && (general(number).is_some() || is_vector(number));
                Ok(matches!(first, Ok(Some(Operation::Register { register })) if is(register.0)))
            }
        }
    }

    /// Whether what a caller has called is this function.
    fn is_same_function(&self, caller: &Query<'a>, called: Die, function: Die) -> bool {
        let own = self.around.query;
        if std::ptr::eq(caller.info, own.info) && own.is_copy_of(called, function) {
            return true;
        }
        // It may be only declared there.
        let name = own.outer_name(function);
        name.is_some() && name == caller.outer_name(called)
    }
}
