//! What an injection has to know of a site besides its names: whether a function begins there, and how that fails.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use crate::arguments::failure::{self, ERRNO_LOCATION, Failure};
use crate::arguments::object::{ObjectNames, Outcome};
use crate::language::Expression;
use crate::language::types::Types;
use crate::symbols::resolve::Objects;
use crate::target::maps::{Mapping, Maps};

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SiteKind {
    /// The first instruction of a function.
    Entry,
    /// Where a function has just returned to.
    Return,
    /// An instruction that is a system call.
    SystemCall,
    /// An instruction within this function.
    Inside(String),
    /// It is not known.
    Unknown,
}

/// What is around a site.
#[derive(Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) kind: SiteKind,
    /// The names at the start of the function.
    function: Option<&'a ObjectNames<'a>>,
    process: Option<(&'a Objects, &'a Maps)>,
}

impl Default for Surroundings<'_> {
    fn default() -> Self {
        Surroundings { kind: SiteKind::Unknown, function: None, process: None }
    }
}

impl<'a> Surroundings<'a> {
    /// Those of a site, of which `here` is known, in a process that has `maps`.
    pub(crate) fn at(here: &'a ObjectNames<'a>, objects: &'a Objects, maps: &'a Maps) -> Surroundings<'a> {
        Surroundings { kind: kind_of(here), function: Some(here), process: Some((objects, maps)) }
    }

    /// Those of a return of a function, of whose first instruction `function` is known.
    pub(crate) fn on_return(
        function: &'a ObjectNames<'a>,
        objects: &'a Objects,
        maps: &'a Maps,
    ) -> Surroundings<'a> {
        Surroundings { kind: SiteKind::Return, function: Some(function), process: Some((objects, maps)) }
    }

    /// The result of the function.
    pub(crate) fn outcome(&self, types: &mut Types) -> Outcome {
        self.function.map_or(Outcome::Unknown, |function| function.outcome(types))
    }

    /// How the function fails, if its names say so.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let (elf, address) = self.function?.place()?;
        failure::of_names(elf.function_at(address)?.bare_names())
    }

    /// The address of a thread's `errno`, as the C library of the process has it: that of the site's own object, or else
    /// another one.
    pub(crate) fn errno(&self) -> Result<Expression, String> {
        const NOWHERE: &str = "nothing that is mapped tells where errno is (__errno_location)";
        let Some((objects, maps)) = self.process else { return Err(NOWHERE.to_owned()) };
        let own = self.function.and_then(ObjectNames::elf);
        let mut files: Vec<&Mapping> = maps.iter().filter(|mapping| mapping.is_executable()).collect();
        files.retain(|mapping| mapping.file().is_some());
        let is_own = |mapping: &Mapping| own.is_some_and(|own| mapping.file() == Some(own.path()));
        let is_library = |mapping: &Mapping| {
            let name = mapping.file().and_then(|file| file.file_name()?.to_str()).unwrap_or_default();
            name.starts_with("libc.") || name.starts_with("libc-") || name.starts_with("ld-musl")
        };
        files.sort_by_key(|mapping| (!is_own(mapping), !is_library(mapping)));
        for mapping in files {
            let Ok(elf) = objects.mapped(maps, mapping) else { continue };
            for name in ERRNO_LOCATION {
                let Ok(symbol) = elf.find(name) else { continue };
                let offset = elf.offset_of_address(symbol.address);
                // It may be in another mapping of the same file.
                let Some(address) = offset.and_then(|offset| mapping.address_of(offset)) else { continue };
                return failure::returned(elf.code_at(symbol.address), address).ok_or_else(|| {
                    format!(
                        "{name} of {} is not understood, so nobody knows where errno is",
                        elf.path().display()
                    )
                });
            }
        }
        Err(NOWHERE.to_owned())
    }
}

fn kind_of(here: &ObjectNames<'_>) -> SiteKind {
    let Some((elf, address)) = here.place() else { return SiteKind::Unknown };
    let instruction = Decoder::with_ip(64, elf.code_at(address), address, DecoderOptions::NONE).decode();
    if instruction.mnemonic() == Mnemonic::Syscall {
        return SiteKind::SystemCall;
    }
    if elf.extent_of(address).is_some() {
        return SiteKind::Entry;
    }
    match elf.function_at(address) {
        Some(function) => SiteKind::Inside(function.name().to_owned()),
        None => SiteKind::Unknown,
    }
}
