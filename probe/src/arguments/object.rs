//! What names mean at a place of an object.

use std::sync::Arc;

use crate::arguments::names::{Located, Names};
use crate::language::types::{TypeId, Types};
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
}

#[derive(Debug)]
enum Held<'a> {
    Lent(&'a Elf),
    Own(Arc<Elf>),
}

impl Object<'_> {
    fn elf(&self) -> &Elf {
        match &self.elf {
            Held::Lent(elf) => elf,
            Held::Own(elf) => elf,
        }
    }
}

impl<'a> ObjectNames<'a> {
    /// Those at `address`, as the file has it; none if the object is not known.
    #[must_use]
    pub fn new(elf: Option<&'a Elf>, address: u64) -> ObjectNames<'a> {
        ObjectNames { object: elf.map(|elf| Object { elf: Held::Lent(elf), address }) }
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
        Ok(ObjectNames { object: address.map(|address| Object { elf: Held::Own(elf), address }) })
    }
}

impl Names for ObjectNames<'_> {
    fn variable(&self, name: &str, _: &mut Types) -> Result<Located, String> {
        Err(format!("there is no variable `{name}` here"))
    }

    fn variables(&self, _: &mut Types) -> Vec<(String, Result<Located, String>)> {
        Vec::new()
    }

    fn type_named(&self, _: &str, _: &mut Types) -> Option<TypeId> {
        None
    }

    fn site(&self) -> Option<u64> {
        self.object.as_ref().map(|object| object.address)
    }

    fn address_of_offset(&self, offset: u64) -> Option<u64> {
        self.object.as_ref()?.elf().any_address_of_offset(offset)
    }
}
