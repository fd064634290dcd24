//! What names mean at a site of a probe: what they mean in its object, and what the probe itself has named.

use std::fmt;

use crate::arguments::lexer::SyntaxError;
use crate::arguments::names::{Located, Names, NoNames};
use crate::arguments::object::ObjectNames;
use crate::arguments::operand::plus;
use crate::arguments::operands;
use crate::arguments::template::Template;
use crate::language::types::{TypeId, Types};
use crate::language::{Expression, Register};
use crate::symbols::elf::{Elf, Usdt};
use crate::symbols::spec::{PlaceSpec, ProbeSpec};

/// The names at a site of a probe.
///
/// A USDT probe has the arguments `arg1`, `arg2` and so on, which may be written as `$arg1`, too. In a line of
/// `uprobe_events`, `@+OFFSET` is as far from the probe in memory as in the file, as the kernel has it.
pub struct ProbeNames<'a> {
    names: ObjectNames<'a>,
    own: Own,
}

/// The names of a line of `uprobe_events` whose file is not known yet: where things are is anybody's guess, and what is
/// wrong with the line whatever the file is wrong already.
#[derive(Clone, Copy, Debug, Default)]
struct EventNames;

impl Names for EventNames {
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        NoNames.variable(name, types)
    }

    fn variables(&self, _: &mut Types) -> Vec<(String, Result<Located, String>)> {
        Vec::new()
    }

    fn type_named(&self, _: &str, _: &mut Types) -> Option<TypeId> {
        None
    }

    fn site(&self) -> Option<u64> {
        Some(0)
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }
}

impl Template {
    /// What stands behind a probe: `[NAME=]FETCH… [if EXPRESSION]`, where an argument of a line of `uprobe_events` that has
    /// no name is called `argN`. What is wrong with such a line whatever its file is, is found.
    ///
    /// # Errors
    /// The text is none.
    pub fn behind(spec: &ProbeSpec, text: &str) -> Result<Template, SyntaxError> {
        const RETVAL: &str = "$retval";
        if !matches!(spec.place, PlaceSpec::UprobeEvent(_)) {
            return text.parse();
        }
        if let Some(column) = text.find(RETVAL).filter(|_| !spec.on_return) {
            let what = format!("{RETVAL} is there on return: begin the line with r");
            return Err(SyntaxError::new(text, column, what));
        }
        let template = Template::of_event(text)?;
        template.bind(&EventNames).map_err(|error| {
            // It is about one of them, by itself.
            let start = text.find(&error.text).unwrap_or(0);
            SyntaxError::new(text, start + error.column, error.what)
        })?;
        Ok(template)
    }
}

/// What a probe adds.
enum Own {
    Nothing,
    /// The arguments of a USDT probe, as they are written.
    Arguments(Vec<String>),
    /// The file offset of the probe.
    Offset(u64),
}

impl fmt::Debug for ProbeNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProbeNames").field("names", &self.names).finish_non_exhaustive()
    }
}

impl<'a> ProbeNames<'a> {
    /// Those at a site of `spec` whose object has `names` there.
    #[must_use]
    pub fn new(spec: &ProbeSpec, names: ObjectNames<'a>) -> ProbeNames<'a> {
        let own = match &spec.place {
            PlaceSpec::Usdt { .. } => {
                let probe = names.elf().zip(names.site());
                let probe = probe.and_then(|(elf, site)| elf.usdt_at(site, |probe| spec.takes_usdt(probe)));
                Own::Arguments(probe.map(written).unwrap_or_default())
            }
            PlaceSpec::UprobeEvent(event) => Own::Offset(event.offset),
            _ => Own::Nothing,
        };
        ProbeNames { names, own }
    }

    fn argument(&self, text: &str, types: &mut Types) -> Result<Located, String> {
        let symbols = |name: &str| match (self.names.elf(), self.names.site()) {
            (Some(elf), Some(site)) => in_object(elf, site, name),
            _ => Err(format!("nothing is known here of a symbol `{name}`")),
        };
        let argument = operands::compile(text, &symbols)?;
        let of = argument.type_in(types);
        Ok(Located { location: argument.location, of })
    }
}

fn written(probe: &Usdt) -> Vec<String> {
    operands::split(&probe.arguments).into_iter().map(str::to_owned).collect()
}

/// Where a symbol is at a hit of a site at virtual address `site`.
fn in_object(elf: &Elf, site: u64, name: &str) -> Result<Expression, String> {
    if let Some((name, what)) = name.split_once('@') {
        return match what.to_ascii_lowercase().as_str() {
            "tpoff" => elf.thread_offset_of_symbol(name).map(Expression::from),
            "gotpcrel" => {
                let slot = elf.slot_of_symbol(name)?;
                Ok(plus(Expression::register(Register::Rip), slot.wrapping_sub(site)))
            }
            _ => Err(format!("where `{name}@{what}` is, only the linker knows")),
        };
    }
    let address = elf.address_of_symbol(name)?;
    Ok(plus(Expression::register(Register::Rip), address.wrapping_sub(site)))
}

/// Why arguments of a USDT probe cannot be had, each with its number from 1 and what it is about.
#[must_use]
pub fn unknown_arguments(elf: &Elf, probe: &Usdt) -> Vec<(usize, String)> {
    let symbols = |name: &str| in_object(elf, probe.address, name);
    let all = operands::split(&probe.arguments).into_iter().enumerate();
    all.filter_map(|(index, text)| Some((index + 1, operands::compile(text, &symbols).err()?))).collect()
}

/// The number in `arg7` or `$arg7`.
fn number_of(name: &str) -> Option<usize> {
    let digits = name.strip_prefix('$').unwrap_or(name).strip_prefix("arg")?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0');
    digits.parse().ok().filter(|_| plain)
}

impl Names for ProbeNames<'_> {
    fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
        let (Own::Arguments(arguments), Some(number)) = (&self.own, number_of(name)) else {
            return self.names.variable(name, types);
        };
        match arguments.get(number - 1) {
            Some(text) => self.argument(text, types),
            None => Err(match arguments.len() {
                0 => "this probe has no arguments".to_owned(),
                1 => format!("there is no `{name}`: this probe has one argument, `arg1`"),
                count => format!("there is no `{name}`: this probe has `arg1` to `arg{count}`"),
            }),
        }
    }

    fn variables(&self, types: &mut Types) -> Vec<(String, Result<Located, String>)> {
        self.names.variables(types)
    }

    fn arguments(&self, types: &mut Types) -> Vec<(String, Result<Located, String>)> {
        let Own::Arguments(arguments) = &self.own else { return Vec::new() };
        let named = arguments.iter().enumerate();
        named.map(|(index, text)| (format!("arg{}", index + 1), self.argument(text, types))).collect()
    }

    fn has_arguments(&self) -> bool {
        matches!(self.own, Own::Arguments(_))
    }

    fn type_named(&self, name: &str, types: &mut Types) -> Option<TypeId> {
        self.names.type_named(name, types)
    }

    fn site(&self) -> Option<u64> {
        self.names.site()
    }

    fn caller(&self) -> Option<Expression> {
        self.names.caller()
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        match self.own {
            Own::Offset(own) => Some(self.site()?.wrapping_add(offset.wrapping_sub(own))),
            _ => self.names.address_of_offset(offset),
        }
    }
}
