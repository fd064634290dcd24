//! Lines of the source as probes name them.

use super::objects::{files, find_object, is_same, similar_objects};
use super::{ResolveError, Resolver};
use crate::symbols::coverage::flow::Ways;
use crate::symbols::debug::DebugError;
use crate::symbols::elf::Elf;
use crate::symbols::locate::{LocateError, Site};
use crate::symbols::spec::PlaceSpec;
use crate::target::maps::{Mapping, Maps};

impl Resolver {
    /// The sites of a line of the source: in one object, or in each that has it.
    pub(super) fn find_lines<T>(
        &self,
        maps: &Maps,
        found: impl Fn(Site, Option<&Elf>, u64) -> T,
    ) -> Result<Vec<T>, LocateError> {
        let PlaceSpec::Line { object, within, .. } = &self.spec.place else { return Ok(Vec::new()) };
        let objects = match object {
            None => files(maps),
            Some(name) => match find_object(name, maps, &self.objects, self.base.as_deref())? {
                Some(file) => vec![file],
                None => {
                    let instead = similar_objects(name, maps);
                    return Err(LocateError::NotMapped { object: name.clone(), instead });
                }
            },
        };
        let mut places = Vec::new();
        let mut refused: Option<DebugError> = None;
        for file in objects {
            let elf = match self.objects.mapped(maps, file) {
                Ok(elf) => elf,
                Err(error) if object.is_some() => return Err(error.into()),
                Err(_) => continue,
            };
            let addresses = match self.line_addresses(&elf) {
                Ok(addresses) => addresses,
                Err(error) if object.is_some() => return Err(ResolveError::Debug(error).into()),
                Err(error) => {
                    refused = refused.filter(|other| weight(other) >= weight(&error)).or(Some(error));
                    continue;
                }
            };
            let is_code = |mapping: &&Mapping| mapping.is_executable() && is_same(file, mapping);
            for mapping in maps.iter().filter(is_code) {
                let sites = addresses.iter().filter_map(|&address| {
                    let site = mapping.address_of(elf.offset_of_address(address)?)?;
                    Some(found(Site { address: site }, Some(&elf), address))
                });
                places.extend(sites);
            }
        }
        match refused {
            _ if !places.is_empty() => Ok(places),
            Some(error) if weight(&error) > 0 => Err(ResolveError::Debug(error).into()),
            // An object that has it may still come.
            _ => {
                let object = format!("a source file or function `{within}` with debug information");
                Err(LocateError::NotMapped { object, instead: Vec::new() })
            }
        }
    }

    /// The virtual addresses of the line in one object.
    pub(super) fn line_addresses(&self, elf: &Elf) -> Result<Vec<u64>, DebugError> {
        let PlaceSpec::Line { within, line, .. } = &self.spec.place else { return Ok(Vec::new()) };
        let mut ways = Ways::new(elf);
        let mut is_ordinary = |address| ways.may_lead_to(address);
        let places = elf.debug_info()?.source_line_by(within, *line, &mut is_ordinary)?;
        Ok(places.into_iter().map(|place| place.address).collect())
    }
}

/// Whether an object that does not have the line is the one that is meant.
fn weight(error: &DebugError) -> u8 {
    match error {
        DebugError::Missing { .. } | DebugError::NoFile { .. } | DebugError::NoFunction { .. } => 0,
        DebugError::NoCode { .. } | DebugError::OutsideFunction { .. } | DebugError::AmbiguousFile { .. } => {
            2
        }
        _ => 1,
    }
}
