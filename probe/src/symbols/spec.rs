//! What a user writes to say where a probe goes.
//!
//! | text | what it names |
//! |---|---|
//! | `OBJECT:NAME[+OFF]` | an instruction of the function with that name: mangled, as its author wrote it, with or without its parameters, with or without its version (`foo`, `foo(int)`, `_Z3fooi`, `app::Cart::total`, `main.(*Counter).Add`, `memcpy@GLIBC_2.14`) |
//! | `OBJECT:PATTERN` | the first instruction of each function whose name matches: `*` stands for any letters, `?` for one; a function whose name is exactly that comes first |
//! | `OBJECT:NAME/*`, `OBJECT:PATTERN/*` | each instruction of these |
//! | `OBJECT:0xNUMBER` | a file offset or an address in the file, as nm and objdump print it |
//! | `0xADDRESS` | an address in the process |
//! | `[OBJECT:]FILE:LINE`, `[OBJECT:]FUNCTION:LINE` | a line of the source |
//! | `usdt:OBJECT:PROVIDER:NAME` | a probe that its author has put there, in all of its places; PROVIDER and NAME may be patterns, of which each match is a probe. Its arguments are `arg1`, `arg2` and so on, counted as the kernel and perf do (bpftrace's `arg0` is `arg1`) |
//! | `p[:[GROUP/][NAME]] PATH:OFFSET[%return][(COUNTER)] …` | a line in the syntax of the kernel's `uprobe_events`, and `r` in the place of `p` for `%return`; COUNTER is the file offset of a semaphore as USDT has it |
//!
//! `%return` behind a function, a pattern or a number means where it returns. OBJECT ends at the first colon that stands
//! alone. What is in quotes, `'…'` or `"…"`, means itself: no pattern, no offset, no end at a colon or space; a quote is
//! doubled there.

use std::error::Error;
use std::fmt;

use crate::symbols::elf::Usdt;
use crate::symbols::glob;

mod event;
mod parse;

pub use event::UprobeEvent;
pub(crate) use event::number_of_c;
pub(crate) use parse::condition;

/// A PROBE as the command line gives it, parsed but not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProbeSpec {
    /// Where.
    pub place: PlaceSpec,
    /// Whether where the function returns is meant rather than where it begins.
    pub on_return: bool,
}

/// The place of a [`ProbeSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PlaceSpec {
    /// `OBJECT:NAME[+OFF]` and `OBJECT:PATTERN`: an instruction of a function, or the first one of each that matches.
    Function {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The name or pattern.
        name: Name,
        /// Bytes from the function's start to the instruction.
        offset: u64,
    },
    /// `OBJECT:NAME/*`: each instruction of the functions whose names match.
    EachInstruction {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The name or pattern.
        name: Name,
    },
    /// `OBJECT:0xNUMBER`: a file offset, or a virtual address before relocation.
    Number {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The offset or address, in bytes.
        number: u64,
    },
    /// `0xADDRESS`
    Address(u64),
    /// `[OBJECT:]FILE:LINE` and `[OBJECT:]FUNCTION:LINE`
    Line {
        /// The path, file name or SONAME of the object, where it is given.
        object: Option<String>,
        /// The source file or the function.
        within: String,
        /// The number of the line, from 1.
        line: u64,
    },
    /// `usdt:OBJECT:PROVIDER:NAME`
    Usdt {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The name of the provider, or a pattern.
        provider: Name,
        /// The name of the probe, or a pattern.
        name: Name,
    },
    /// A line in the syntax of `uprobe_events`, but for its arguments.
    UprobeEvent(UprobeEvent),
}

/// A name, or a pattern of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name {
    /// The text, without quotes around it.
    pub text: String,
    /// Whether it was quoted, so that it is no pattern whatever it contains.
    pub literal: bool,
}

impl Name {
    /// A name that means itself, whatever it contains.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Name {
        Name { text: text.into(), literal: true }
    }

    /// One that was not quoted.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Name {
        Name { text: text.into(), literal: false }
    }

    /// Whether it is that name, or a pattern that it matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.text == name || (self.is_pattern() && glob::matches(&self.text, name))
    }

    /// Whether it stands for every name that matches, unless there is one that is exactly this.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        !self.literal && glob::is_pattern(&self.text)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.literal { f.write_str(&quoted(&self.text)) } else { f.write_str(&self.text) }
    }
}

/// What stands behind a PROBE: `NAME=FETCH…` and `if EXPR`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest<'text> {
    /// The text without spaces around it; empty where there is nothing.
    pub text: &'text str,
    /// How many bytes of the whole text stand before it.
    pub offset: usize,
}

impl ProbeSpec {
    /// A probe at a place, rather than on return from it.
    #[must_use]
    pub fn at(place: PlaceSpec) -> ProbeSpec {
        ProbeSpec { place, on_return: false }
    }

    /// The start of the function with that name, which is quoted if it would mean something else.
    #[must_use]
    pub fn function(object: impl Into<String>, name: impl Into<String>) -> ProbeSpec {
        let (object, name) = (object.into(), name.into());
        let spec = |name| ProbeSpec::at(PlaceSpec::Function { object: object.clone(), name, offset: 0 });
        let plain = spec(Name::plain(name.clone()));
        // What it is quoted for may be the object.
        let is_plain = format!("a:{name}").parse()
            == Ok(ProbeSpec::at(PlaceSpec::Function {
                object: "a".to_owned(),
                name: Name::plain(name.clone()),
                offset: 0,
            }));
        if is_plain { plain } else { spec(Name::literal(name)) }
    }

    /// A file offset in bytes, or a virtual address before relocation.
    #[must_use]
    pub fn number(object: impl Into<String>, number: u64) -> ProbeSpec {
        ProbeSpec::at(PlaceSpec::Number { object: object.into(), number })
    }

    /// Each instruction of the functions whose names match `pattern`.
    #[must_use]
    pub fn each_instruction(object: impl Into<String>, pattern: impl Into<String>) -> ProbeSpec {
        ProbeSpec::at(PlaceSpec::EachInstruction { object: object.into(), name: Name::plain(pattern) })
    }

    /// Parses the PROBE that `text` begins with, and says what stands behind it: `PROBE [NAME=FETCH…] [if EXPR]`.
    ///
    /// The PROBE may contain spaces, as names do that are written with parameters. It ends where a space is followed by
    /// `if`, by a name and a single `=`, or by nothing.
    ///
    /// # Errors
    /// [`SpecError`] says what was expected, and where.
    pub fn parse_with_rest(text: &str) -> Result<(ProbeSpec, Rest<'_>), SpecError> {
        parse::with_rest(text)
    }

    /// What its text may mean besides: the object may end at a later colon.
    pub(crate) fn other_readings(&self) -> Vec<ProbeSpec> {
        parse::other_readings(self)
    }

    /// With quotes wherever it may have some.
    pub(crate) fn quoted(&self) -> String {
        let mut all = self.clone();
        if let PlaceSpec::Function { name, .. } | PlaceSpec::EachInstruction { name, .. } = &mut all.place {
            name.literal |= !name.is_pattern();
        }
        all.write(Quotes { object: true, within: true, sum: false })
    }

    /// The object that it names.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        match &self.place {
            PlaceSpec::Function { object, .. }
            | PlaceSpec::EachInstruction { object, .. }
            | PlaceSpec::Number { object, .. }
            | PlaceSpec::Usdt { object, .. } => Some(object),
            PlaceSpec::Line { object, .. } => object.as_deref(),
            PlaceSpec::UprobeEvent(event) => Some(&event.path),
            PlaceSpec::Address(_) => None,
        }
    }

    /// What it is called where its hits are shown: as it is written, but for a line of `uprobe_events`, whose event has
    /// a name.
    #[must_use]
    pub fn label(&self) -> String {
        match &self.place {
            PlaceSpec::UprobeEvent(event) => event.to_string(),
            _ => self.to_string(),
        }
    }

    /// Whether it means a probe that an author has put into the object.
    pub(crate) fn takes_usdt(&self, probe: &Usdt) -> bool {
        match &self.place {
            PlaceSpec::Usdt { provider, name, .. } => {
                provider.matches(&probe.provider) && name.matches(&probe.name)
            }
            _ => false,
        }
    }

    /// Whether it may name many sites, of which those that cannot be probed are left out.
    #[must_use]
    pub fn is_many(&self) -> bool {
        match &self.place {
            PlaceSpec::EachInstruction { .. } => true,
            PlaceSpec::Function { name, .. } => name.is_pattern(),
            PlaceSpec::Usdt { provider, name, .. } => provider.is_pattern() || name.is_pattern(),
            _ => false,
        }
    }

    fn write(&self, quotes: Quotes) -> String {
        let object = |text: &String| if quotes.object { quoted(text) } else { text.clone() };
        let place = match &self.place {
            PlaceSpec::Function { object: file, name, offset } => {
                // A name may look like a sum.
                let sum = *offset != 0 || quotes.sum;
                let offset = if sum { format!("+{offset:#x}") } else { String::new() };
                format!("{}:{name}{offset}", object(file))
            }
            PlaceSpec::EachInstruction { object: file, name } => format!("{}:{name}/*", object(file)),
            PlaceSpec::Number { object: file, number } => format!("{}:{number:#x}", object(file)),
            PlaceSpec::Address(address) => format!("{address:#x}"),
            PlaceSpec::Line { object: file, within, line } => {
                let within = if quotes.within { quoted(within) } else { within.clone() };
                let file = file.as_ref().map(|file| object(file) + ":").unwrap_or_default();
                format!("{file}{within}:{line}")
            }
            PlaceSpec::Usdt { object: file, provider, name } => {
                format!("usdt:{}:{provider}:{name}", object(file))
            }
            PlaceSpec::UprobeEvent(event) => return event.write(self.on_return),
        };
        place + if self.on_return { parse::RETURN } else { "" }
    }
}

/// What is written so that it cannot be taken for something else.
#[derive(Clone, Copy)]
struct Quotes {
    object: bool,
    within: bool,
    sum: bool,
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

impl fmt::Display for ProbeSpec {
    /// As short as it can be written so that it is parsed as the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for choice in 0..8 {
            let quotes = Quotes { object: choice & 1 != 0, within: choice & 2 != 0, sum: choice & 4 != 0 };
            let text = self.write(quotes);
            if choice == 7 || text.parse().as_ref() == Ok(self) {
                return f.write_str(&text);
            }
        }
        Ok(())
    }
}

/// Why a text is no PROBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecError {
    /// The text.
    pub text: String,
    /// Where it is wrong: the byte, counted from 1.
    pub column: usize,
    /// What was expected there.
    pub what: String,
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SpecError { text, column, what } = self;
        write!(f, "`{text}` is not a probe: {what}, at column {column}")
    }
}

impl Error for SpecError {}

#[cfg(test)]
mod tests;
