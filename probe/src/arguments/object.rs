//! What names mean at a place of an object: what its debug information says.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use crate::arguments::names::{Located, Names};
use crate::arguments::operand::{Location, part, plus};
use crate::language::types::{TypeId, Types};
use crate::language::{Expression, Register};
use crate::symbols::debug::{self, DebugError, DebugInfo, Scope, Unavailable, Variable};
use crate::symbols::elf::Elf;
use crate::symbols::resolve::{Objects, ResolveError};
use crate::target::maps::{self, Maps};

/// The names at an address of an object.
#[derive(Debug)]
pub struct ObjectNames<'a> {
    object: Option<Object<'a>>,
}

#[derive(Debug)]
struct Object<'a> {
    elf: Held<'a>,
    /// As the file has it.
    address: u64,
    /// Who has called, the innermost first: the object, and the address there to which the call returns.
    callers: Vec<Option<(Arc<Elf>, u64)>>,
    scope: OnceCell<Result<Scope, DebugError>>,
    /// The same for what is only shown.
    shown: OnceCell<Result<Scope, DebugError>>,
    /// Whether something was named that the next caller may know.
    asked: Cell<bool>,
}

#[derive(Debug)]
enum Held<'a> {
    Lent(&'a Elf),
    Own(Arc<Elf>),
}

impl<'a> Object<'a> {
    fn new(elf: Held<'a>, address: u64) -> Object<'a> {
        let (scope, shown) = (OnceCell::new(), OnceCell::new());
        Object { elf, address, callers: Vec::new(), scope, shown, asked: Cell::new(false) }
    }

    fn elf(&self) -> &Elf {
        match &self.elf {
            Held::Lent(elf) => elf,
            Held::Own(elf) => elf,
        }
    }

    fn scope(&self) -> Result<&Scope, &DebugError> {
        self.scope.get_or_init(|| self.read(false)).as_ref()
    }

    fn shown(&self) -> Result<&Scope, &DebugError> {
        self.shown.get_or_init(|| self.read(true)).as_ref()
    }

    fn read(&self, shallow: bool) -> Result<Scope, DebugError> {
        let known = |(elf, back): &(Arc<Elf>, u64)| Some((elf.debug_info().ok()?, *back));
        let callers = self.callers.iter().map(|caller| caller.as_ref().and_then(known));
        let callers: Vec<Option<(Arc<DebugInfo>, u64)>> = callers.collect();
        let callers: Vec<_> =
            callers.iter().map(|caller| caller.as_ref().map(|(info, back)| (&**info, *back))).collect();
        self.elf().debug_info()?.scope_with(self.address, &callers, shallow)
    }

    /// What is in scope by that name, or else there as long as the program.
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        let scope = self.scope();
        if let Ok(scope) = scope
            && let Some(variable) = scope.variable(name)
        {
            return Ok(named(name, self.located(variable, &scope.types, types)));
        }
        let global = self.elf().debug_info().and_then(|info| info.global(self.address, name));
        match (global, scope) {
            (Ok((variable, of)), _) => Ok(named(name, self.located(&variable, &of, types))),
            (Err(DebugError::NoVariable { .. }), Ok(scope)) => Err(no_variable(name, scope)),
            (Err(error), _) => Err(error.to_string()),
        }
    }

    /// A variable as arguments have it, with its type among `types`.
    fn located(&self, variable: &Variable, from: &Types, types: &mut Types) -> Located {
        if asks_caller(&variable.location) {
            self.asked.set(true);
        }
        let mut of = [variable.of];
        let distance = types.append(from.only(&mut of));
        let location = location(&variable.location).unwrap_or_else(Location::Missing);
        Located { location, of: TypeId(of[0].0.saturating_add(distance)) }
    }
}

/// The same where it says what is missing, if it is.
fn named(name: &str, located: Located) -> Located {
    match located.location {
        Location::Missing(why) => {
            Located { location: Location::Missing(format!("`{name}`: {why}")), ..located }
        }
        _ => located,
    }
}

/// Whether the caller may tell of something.
fn asks_caller(of: &debug::Location) -> bool {
    match of {
        debug::Location::Unavailable(why) => *why == Unavailable::EntryValue,
        debug::Location::Pieces(pieces) => pieces.iter().any(|piece| asks_caller(&piece.location)),
        debug::Location::Memory(_) | debug::Location::Value(_) => false,
    }
}

fn no_variable(name: &str, scope: &Scope) -> String {
    const MOST: usize = 12;
    let variables = scope.frames.iter().flat_map(|frame| &frame.variables);
    let mut names: Vec<&str> = variables.map(|variable| variable.name.as_str()).collect();
    let more = if names.len() > MOST { ", …" } else { "" };
    names.truncate(MOST);
    match names.is_empty() {
        true => format!(
            "there is no variable `{name}` here, nor any other: the function has none, or was compiled with line numbers only \
             (-g1, -C debuginfo=1)"
        ),
        false => format!("there is no variable `{name}` here; there is {}{more}", names.join(", ")),
    }
}

fn location(of: &debug::Location) -> Result<Location, String> {
    Ok(match of {
        debug::Location::Memory(address) => Location::Memory(address.clone()),
        debug::Location::Value(quadwords) => match &quadwords[..] {
            [one] => Location::Bits(one.clone()),
            several => Location::Pieces(
                several.iter().map(|quadword| (8, Some(Location::Bits(quadword.clone())))).collect(),
            ),
        },
        debug::Location::Pieces(pieces) => {
            let piece = |piece: &debug::Piece| {
                if !piece.bits.is_multiple_of(8) || !piece.skip.is_multiple_of(8) {
                    return Err("it is in parts that are no whole bytes".to_owned());
                }
                let bytes = piece.bits / 8;
                let there = location(&piece.location).ok();
                Ok((bytes, there.and_then(|there| part(&there, piece.skip / 8, bytes))))
            };
            Location::Pieces(pieces.iter().map(piece).collect::<Result<_, _>>()?)
        }
        debug::Location::Unavailable(why) => return Err(why.to_string()),
    })
}

impl<'a> ObjectNames<'a> {
    /// Those at `address`, as the file has it; none if the object is not known.
    #[must_use]
    pub fn new(elf: Option<&'a Elf>, address: u64) -> ObjectNames<'a> {
        ObjectNames { object: elf.map(|elf| Object::new(Held::Lent(elf), address)) }
    }

    /// Those at an address of a process, none where no file is mapped.
    ///
    /// # Errors
    /// The file that is mapped there cannot be had.
    pub fn at(objects: &Objects, maps: &Maps, address: u64) -> Result<ObjectNames<'a>, ResolveError> {
        let Some(mapping) = maps::find(maps, address) else { return Ok(ObjectNames { object: None }) };
        if mapping.file().is_none() && !mapping.is_vdso() {
            return Ok(ObjectNames { object: None });
        }
        let elf = objects.mapped(maps, mapping)?;
        let address = mapping.file_offset(address).and_then(|offset| elf.address_of_offset(offset));
        Ok(ObjectNames { object: address.map(|address| Object::new(Held::Own(elf), address)) })
    }

    /// The same where it is known who has called, the innermost caller first, by the addresses in a process to which the calls
    /// return: what the optimizer has left to callers can be had from them.
    #[must_use]
    pub fn called_from(mut self, objects: &Objects, maps: &Maps, callers: &[u64]) -> ObjectNames<'a> {
        let place = |back: u64| {
            // The call may be the last instruction that is mapped there.
            let within = back.wrapping_sub(1);
            let mapping = maps::find(maps, within)?;
            let elf = objects.mapped(maps, mapping).ok()?;
            let address = mapping.file_offset(within).and_then(|offset| elf.address_of_offset(offset))?;
            Some((elf, address.wrapping_add(1)))
        };
        if let Some(object) = &mut self.object {
            object.callers = callers.iter().map(|&back| place(back)).collect();
            (object.scope, object.shown) = (OnceCell::new(), OnceCell::new());
        }
        self
    }
}

/// The result of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Where it is when the function has returned.
    Located(Located),
    /// There is none.
    Nothing,
    /// No debug information tells, or not where.
    Unknown,
}

impl ObjectNames<'_> {
    /// The object.
    pub(crate) fn elf(&self) -> Option<&Elf> {
        self.object.as_ref().map(Object::elf)
    }

    /// The object, and the address there.
    pub(crate) fn place(&self) -> Option<(&Elf, u64)> {
        self.object.as_ref().map(|object| (object.elf(), object.address))
    }

    /// The result of the function that begins here.
    pub(crate) fn outcome(&self, types: &mut Types) -> Outcome {
        let Some((elf, address)) = self.place() else { return Outcome::Unknown };
        match elf.debug_info().and_then(|info| info.result(address)) {
            Err(_) => Outcome::Unknown,
            Ok(None) => Outcome::Nothing,
            Ok(Some((found, of, from))) => {
                let mut of = [of];
                let distance = types.append(from.only(&mut of));
                let of = TypeId(of[0].0.saturating_add(distance));
                location(&found)
                    .map_or(Outcome::Unknown, |location| Outcome::Located(Located { location, of }))
            }
        }
    }
}

/// The names when a function has returned: `$retval`, its result, and what is there as long as its program. What was the
/// function's own is gone.
#[derive(Debug)]
pub struct ReturnNames<'a> {
    /// Those where it begins.
    function: ObjectNames<'a>,
    /// Where that is in the process.
    address: u64,
}

impl<'a> ReturnNames<'a> {
    /// `function` are the names where the function begins, which is at `address` of the process.
    #[must_use]
    pub fn new(function: ObjectNames<'a>, address: u64) -> ReturnNames<'a> {
        ReturnNames { function, address }
    }

    fn result(&self, types: &mut Types) -> Option<Located> {
        match self.function.outcome(types) {
            Outcome::Located(located) => Some(located),
            Outcome::Nothing | Outcome::Unknown => None,
        }
    }

    /// A variable that is there as long as the program. RIP is in the caller, which may be another object's.
    fn global(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        let object = self.function.object.as_ref();
        let object = object.ok_or_else(|| format!("nothing is known here of a variable `{name}`"))?;
        let info = object.elf().debug_info().map_err(|error| error.to_string())?;
        let local = || {
            let scope = object.scope().ok()?;
            let variable = scope.variable(name)?;
            (variable.kind != debug::VariableKind::Static).then_some(scope)
        };
        if let Some(scope) = local() {
            let function = scope.frames.last().and_then(|frame| frame.function.clone()).unwrap_or_default();
            return Err(format!(
                "`{name}` of `{function}` is gone when that has returned; there is $retval, and what is global"
            ));
        }
        let (variable, of) = info.global(object.address, name).map_err(|error| match error {
            DebugError::NoVariable { .. } => {
                format!("there is no global variable `{name}`; when a function has returned, there is $retval, and what is global")
            }
            error => error.to_string(),
        })?;
        let found = object.located(&variable, &of, types);
        let start = |register| (register == Register::Rip).then(|| self.address.into());
        let location = match found.location {
            Location::Memory(address) => Location::Memory(address.with_registers(start)),
            Location::Bits(value) => Location::Bits(value.with_registers(start)),
            other => other,
        };
        Ok(Located { location, ..found })
    }
}

impl Names for ReturnNames<'_> {
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        match name {
            RESULT => self.result(types).ok_or_else(|| "nothing is known of the result".to_owned()),
            _ => self.global(name, types),
        }
    }

    /// None: they are gone.
    fn variables(&self, _: &mut Types) -> Vec<(String, Result<Located, String>)> {
        Vec::new()
    }

    fn type_named(&self, name: &str, types: &mut Types) -> Option<TypeId> {
        self.function.type_named(name, types)
    }

    fn site(&self) -> Option<u64> {
        self.function.site()
    }

    fn in_object(&self, address: u64) -> Option<Expression> {
        Some(plus(self.address.into(), address.wrapping_sub(self.site()?)))
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        self.function.address_of_offset(offset)
    }
}

/// The name of a function's result.
pub(crate) const RESULT: &str = "$retval";

impl Names for ObjectNames<'_> {
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        match &self.object {
            Some(object) => object.variable(name, types),
            None => Err(format!("nothing is known here of a variable `{name}`")),
        }
    }

    fn variables(&self, types: &mut Types) -> Vec<(String, Result<Located, String>)> {
        let scope = match self.object.as_ref().map(Object::shown) {
            Some(Ok(scope)) => scope,
            // What no compiler has described has none.
            None | Some(Err(DebugError::NoPlace { .. })) => return Vec::new(),
            Some(Err(error)) => return vec![("variables".to_owned(), Err(error.to_string()))],
        };
        // One that is hidden by another of its name cannot be named.
        let visible = |variable: &&Variable| {
            scope.variable(&variable.name).is_some_and(|nearest| std::ptr::eq(nearest, *variable))
        };
        let variables = scope.frames.iter().flat_map(|frame| &frame.variables).filter(visible);
        let object = self.object.as_ref();
        let located = |variable: &Variable| {
            let located = object.map(|object| object.located(variable, &scope.types, types));
            Some((variable.name.clone(), Ok(located?)))
        };
        variables.filter_map(located).collect()
    }

    fn caller(&self) -> Option<Expression> {
        let object = self.object.as_ref().filter(|object| object.asked.get())?;
        let known = [object.scope.get(), object.shown.get()];
        known.into_iter().flatten().find_map(|scope| scope.as_ref().ok()?.caller.clone())
    }

    fn type_named(&self, name: &str, types: &mut Types) -> Option<TypeId> {
        let info = self.object.as_ref()?.elf().debug_info().ok()?;
        let (of, from) = info.type_named(name).ok()?;
        let distance = types.append(from);
        Some(TypeId(of.0.saturating_add(distance)))
    }

    fn site(&self) -> Option<u64> {
        self.object.as_ref().map(|object| object.address)
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        self.object.as_ref()?.elf().any_address_of_offset(offset)
    }
}
