//! What names mean at a place of an object: what its debug information says.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::arguments::names::{Located, Names};
use crate::arguments::operand::{Location, part};
use crate::language::types::{TypeId, Types};
use crate::symbols::debug::{self, DebugError, Scope, Variable};
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
    scope: OnceCell<Result<Scope, DebugError>>,
}

#[derive(Debug)]
enum Held<'a> {
    Lent(&'a Elf),
    Own(Arc<Elf>),
}

impl<'a> Object<'a> {
    fn new(elf: Held<'a>, address: u64) -> Object<'a> {
        Object { elf, address, scope: OnceCell::new() }
    }

    fn elf(&self) -> &Elf {
        match &self.elf {
            Held::Lent(elf) => elf,
            Held::Own(elf) => elf,
        }
    }

    fn scope(&self) -> Result<&Scope, &DebugError> {
        let read = || self.elf().debug_info()?.scope(self.address);
        self.scope.get_or_init(read).as_ref()
    }

    /// What is in scope by that name, or else there as long as the program.
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        let scope = self.scope();
        if let Ok(scope) = scope
            && let Some(variable) = scope.variable(name)
        {
            return located(variable, &scope.types, types).map_err(|why| format!("`{name}`: {why}"));
        }
        let global = self.elf().debug_info().and_then(|info| info.global(self.address, name));
        match (global, scope) {
            (Ok((variable, of)), _) => {
                located(&variable, &of, types).map_err(|why| format!("`{name}`: {why}"))
            }
            (Err(DebugError::NoVariable { .. }), Ok(scope)) => Err(no_variable(name, scope)),
            (Err(error), _) => Err(error.to_string()),
        }
    }
}

fn no_variable(name: &str, scope: &Scope) -> String {
    const MOST: usize = 12;
    let variables = scope.frames.iter().flat_map(|frame| &frame.variables);
    let mut names: Vec<&str> = variables.map(|variable| variable.name.as_str()).collect();
    let more = if names.len() > MOST { ", …" } else { "" };
    names.truncate(MOST);
    match names.is_empty() {
        true => format!("there is no variable `{name}` here, nor any other"),
        false => format!("there is no variable `{name}` here; there is {}{more}", names.join(", ")),
    }
}

/// A variable as arguments have it, with its type among `types`.
fn located(variable: &Variable, from: &Types, types: &mut Types) -> Result<Located, String> {
    let mut of = [variable.of];
    let only = from.only(&mut of);
    let distance = types.append(only);
    let location = location(&variable.location)?;
    Ok(Located { location, of: TypeId(of[0].0.saturating_add(distance)) })
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
}

impl ObjectNames<'_> {
    /// The object.
    pub(crate) fn elf(&self) -> Option<&Elf> {
        self.object.as_ref().map(Object::elf)
    }
}

/// The names at a place that a function returns to: those there, and `$retval`, its result.
#[derive(Debug)]
pub struct ReturnNames<'a> {
    names: ObjectNames<'a>,
    function: ObjectNames<'a>,
}

impl<'a> ReturnNames<'a> {
    /// `names` are those where it returns to, `function` those where it begins.
    #[must_use]
    pub fn new(names: ObjectNames<'a>, function: ObjectNames<'a>) -> ReturnNames<'a> {
        ReturnNames { names, function }
    }

    fn result(&self, types: &mut Types) -> Option<Located> {
        let function = self.function.object.as_ref()?;
        let (found, of, from) = function.elf().debug_info().ok()?.result(function.address).ok()??;
        let mut of = [of];
        let distance = types.append(from.only(&mut of));
        Some(Located { location: location(&found).ok()?, of: TypeId(of[0].0.saturating_add(distance)) })
    }
}

impl Names for ReturnNames<'_> {
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        match name {
            RESULT => self.result(types).ok_or_else(|| "nothing is known of the result".to_owned()),
            _ => self.names.variable(name, types),
        }
    }

    fn variables(&self, types: &mut Types) -> Vec<(String, Result<Located, String>)> {
        self.names.variables(types)
    }

    fn type_named(&self, name: &str, types: &mut Types) -> Option<TypeId> {
        self.function.type_named(name, types)
    }

    fn site(&self) -> Option<u64> {
        self.names.site()
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        self.names.address_of_offset(offset)
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
        let Some(Ok(scope)) = self.object.as_ref().map(Object::scope) else { return Vec::new() };
        // One that is hidden by another of its name cannot be named.
        let visible = |variable: &&Variable| {
            scope.variable(&variable.name).is_some_and(|nearest| std::ptr::eq(nearest, *variable))
        };
        let variables = scope.frames.iter().flat_map(|frame| &frame.variables).filter(visible);
        variables.map(|variable| (variable.name.clone(), located(variable, &scope.types, types))).collect()
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
