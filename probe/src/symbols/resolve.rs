//! Looks a [`ProbeSpec`] up in what a process has mapped.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::symbols::code::{self, Boundary};
use crate::symbols::elf::{self, Elf, Function, LookupError, Symbol};
use crate::symbols::glob;
use crate::symbols::indirect::Indirect;
use crate::symbols::locate::{Counter, Locate, LocateError, Site};
use crate::symbols::spec::{Name, PlaceSpec, ProbeSpec, UprobeEvent};
use crate::target::lock;
use crate::target::mapped::{self, View};
use crate::target::maps::{self, Mapping, Maps};

mod authored;
mod error;
mod lines;
mod objects;

pub use error::ResolveError;
pub use objects::Objects;
pub(crate) use objects::find_object;
use objects::{absolute, is_same, named, similar_objects};

/// A probe and what it takes to look it up.
#[derive(Clone, Debug)]
pub struct Resolver {
    spec: ProbeSpec,
    /// What else it may mean: a path may have a colon in it.
    others: Vec<ProbeSpec>,
    objects: Arc<Objects>,
    /// Where relative paths start; otherwise in the current directory.
    base: Option<PathBuf>,
    /// The functions that match, by the number of the file.
    matching: Arc<Mutex<HashMap<u64, Arc<[String]>>>>,
}

/// What a probe names in its object.
enum Named<'elf> {
    /// Instructions, by their virtual addresses before relocation, each once, in their order.
    Instructions(Vec<u64>),
    /// Functions of which each is a probe of its own.
    Functions(Vec<&'elf Function>),
    /// The implementation of an indirect function.
    Indirect {
        /// The virtual address of its resolver.
        resolver: u64,
        /// How many bytes behind the start of the implementation.
        offset: u64,
        /// Each instruction of it is meant.
        each: bool,
    },
}

/// The sites of a probe before they are placed, for those who want to tell about them.
#[derive(Clone, Debug)]
pub struct Place {
    /// The address in the target.
    pub site: Site,
    /// The function and the distance from its start in bytes, where one is known: `malloc+0x12`.
    pub name: Option<String>,
}

impl Resolver {
    /// A probe that shares what has been read with others.
    #[must_use]
    pub fn new(spec: ProbeSpec, objects: Arc<Objects>) -> Resolver {
        let others = spec.other_readings();
        Resolver { spec, others, objects, base: None, matching: Arc::default() }
    }

    /// The same, with relative paths that start at `base` rather than in the current directory.
    #[must_use]
    pub fn relative_to(self, base: PathBuf) -> Resolver {
        Resolver { base: Some(base), ..self }
    }

    /// The probe.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        &self.spec
    }

    /// Everything that it may mean, first what it means unless something else is there.
    fn readings(&self) -> impl Iterator<Item = &ProbeSpec> {
        std::iter::once(&self.spec).chain(&self.others)
    }

    /// Finds as many mistakes as can be found without a target: those in a file that is given by its path.
    ///
    /// # Errors
    /// As [`Resolver::places`].
    pub fn check(&self) -> Result<(), ResolveError> {
        self.check_file(|path| {
            let absolute = absolute(path, self.base.as_deref()).map_err(|source| named(path, source))?;
            Ok(self.objects.open(if self.base.is_some() { &absolute } else { path })?)
        })
    }

    /// The same for a file that process `pid` has not mapped yet, but may, where it sees it.
    ///
    /// # Errors
    /// As [`Resolver::places`].
    pub fn check_for(&self, pid: i32) -> Result<(), ResolveError> {
        self.check_file(|path| {
            let read = || {
                let absolute = absolute(path, self.base.as_deref())?;
                mapped::in_root(pid, &absolute).and_then(|found| mapped::reopen(&found))
            };
            let file = read().map_err(|source| named(path, source))?;
            Ok(Arc::new(Elf::read(path, &file, View::of(pid), self.objects.debug_files())?))
        })
    }

    fn check_file(&self, open: impl Fn(&Path) -> Result<Arc<Elf>, ResolveError>) -> Result<(), ResolveError> {
        self.check_form()?;
        let mut first = Ok(());
        for (index, spec) in self.readings().enumerate() {
            let Some(object) = spec.object().filter(|object| object.contains('/')) else { break };
            match open(Path::new(object)) {
                Ok(elf) => return self.named(spec, &elf).map(|_| ()),
                Err(error) if index == 0 => first = Err(error),
                Err(_) => {}
            }
        }
        first
    }

    /// The sites, each with the name of its place.
    ///
    /// # Errors
    /// As [`Locate::locate`].
    pub fn places(&self, maps: &Maps) -> Result<Vec<Place>, LocateError> {
        self.find(maps, |site, elf, address| Place { site, name: elf.and_then(|elf| name_of(elf, address)) })
    }

    /// The sites: `found` is called with each, its object, and its virtual address there, where these are known.
    pub(crate) fn find<T>(
        &self,
        maps: &Maps,
        found: impl Fn(Site, Option<&Elf>, u64) -> T,
    ) -> Result<Vec<T>, LocateError> {
        self.check_form()?;
        if let PlaceSpec::Address(address) = self.spec.place {
            return Ok(vec![self.find_address(address, maps, found)?]);
        }
        if let PlaceSpec::Line { .. } = self.spec.place {
            return self.find_lines(maps, found);
        }
        let (spec, file) = self.mapped(maps)?;
        let elf = self.objects.mapped(maps, file)?;
        let code: Vec<&Mapping> =
            maps.iter().filter(|mapping| mapping.is_executable() && is_same(file, mapping)).collect();
        let addresses = match self.named(spec, &elf)? {
            Named::Instructions(addresses) => addresses,
            Named::Functions(functions) => functions.into_iter().map(|function| function.address).collect(),
            Named::Indirect { resolver, offset, each } => {
                let implementations = self.implementations(maps, &elf, &code, resolver)?;
                let mut places = Vec::new();
                for start in implementations {
                    for address in self.of_implementation(maps, start, offset, each) {
                        places.push(self.find_address(address, maps, &found)?);
                    }
                }
                return Ok(places);
            }
        };
        let mut places = Vec::new();
        for address in addresses {
            let not_code = |offset| ResolveError::NotCode { path: elf.path().to_owned(), offset };
            let Some(offset) = elf.offset_of_address(address) else {
                return Err(not_code(address).into());
            };
            let before = places.len();
            let sites = code.iter().filter_map(|mapping| mapping.address_of(offset));
            places.extend(sites.map(|site| found(Site { address: site }, Some(&elf), address)));
            if places.len() == before {
                return Err(not_code(offset).into());
            }
        }
        Ok(places)
    }

    /// The part of it with that name.
    pub(crate) fn part_called(&self, name: &str) -> Option<Resolver> {
        let part = Resolver::new(name.parse().ok()?, Arc::clone(&self.objects));
        Some(Resolver { base: self.base.clone(), ..part })
    }

    /// The mapping of the object, and what the probe means by naming it.
    fn mapped<'a>(&self, maps: &'a Maps) -> Result<(&ProbeSpec, &'a Mapping), LocateError> {
        let mut found: Option<(&ProbeSpec, &Mapping)> = None;
        let object = self.spec.object().unwrap_or_default();
        let mut wrong = None;
        for (index, spec) in self.readings().enumerate() {
            let object = spec.object().unwrap_or_default();
            let file = match find_object(object, maps, &self.objects, self.base.as_deref()) {
                Ok(Some(file)) => file,
                Ok(None) => continue,
                Err(error) if index == 0 => {
                    wrong = Some(error);
                    continue;
                }
                // There need not be such a file.
                Err(_) => continue,
            };
            if let Some((other, _)) = found {
                let readings = [other, spec].map(ProbeSpec::quoted);
                return Err(ResolveError::TwoReadings { text: self.spec.to_string(), readings }.into());
            }
            found = Some((spec, file));
        }
        found.ok_or_else(|| match wrong {
            Some(error) => error.into(),
            None => {
                LocateError::NotMapped { object: object.to_owned(), instead: similar_objects(object, maps) }
            }
        })
    }

    /// A mapping of the object that it names, where that is mapped.
    #[must_use]
    pub fn object_in<'a>(&self, maps: &'a Maps) -> Option<&'a Mapping> {
        self.mapped(maps).ok().map(|(_, mapping)| mapping)
    }

    /// If it names an indirect function: what its implementation is called that the process uses or, as long as that is
    /// not known, each that it may use.
    #[must_use]
    pub fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        let (spec, file) = self.mapped(maps).ok()?;
        let elf = self.objects.mapped(maps, file).ok()?;
        let Ok(Named::Indirect { .. }) = self.named(spec, &elf) else { return None };
        let name = |site: Site, elf: Option<&Elf>, address: u64| {
            let name = elf.and_then(|elf| name_of(elf, address));
            let place = || {
                let file = elf?.path().file_name()?.to_string_lossy().into_owned();
                Some(format!("{file}:{address:#x}"))
            };
            name.or_else(place).unwrap_or_else(|| format!("{:#x}", site.address))
        };
        self.find(maps, name).ok()
    }

    /// The addresses of what the resolver of an indirect function has answered, or may.
    fn implementations(
        &self,
        maps: &Maps,
        elf: &Elf,
        code: &[&Mapping],
        resolver: u64,
    ) -> Result<Vec<u64>, ResolveError> {
        let offset = elf.offset_of_address(resolver).unwrap_or_default();
        let at = code.iter().find_map(|mapping| mapping.address_of(offset));
        let at = at.ok_or_else(|| ResolveError::NotCode { path: elf.path().to_owned(), offset })?;
        let code = |address: u64| {
            /// More than an instruction has.
            const SOME: usize = 16;
            let mapping = maps::find(maps, address).filter(|mapping| mapping.is_executable())?;
            let elf = self.objects.mapped(maps, mapping).ok()?;
            let bytes = elf.code_at(elf.address_of_offset(mapping.file_offset(address)?)?);
            bytes.get(..bytes.len().min(SOME)).map(<[u8]>::to_vec)
        };
        let bias = at.wrapping_sub(resolver);
        let is_function = |address: u64| {
            let look = || {
                let mapping = maps::find(maps, address)?;
                let elf = self.objects.mapped(maps, mapping).ok()?;
                let tells = !elf.functions().is_empty() || !elf.unwound().is_empty();
                let address = elf.address_of_offset(mapping.file_offset(address)?)?;
                Some(!tells || elf.extent_of(address).is_some())
            };
            look().unwrap_or(false)
        };
        let found = Indirect { maps, elf, resolver, bias, code: &code }.implementations(is_function);
        if found.is_empty() {
            let (name, path) = (self.spec.to_string(), elf.path().to_owned());
            return Err(ResolveError::NoImplementation { name, path, resolver });
        }
        Ok(found)
    }

    /// The addresses that are meant of an implementation that begins at `start`.
    fn of_implementation(&self, maps: &Maps, start: u64, offset: u64, each: bool) -> Vec<u64> {
        let one = vec![start.wrapping_add(offset)];
        if !each {
            return one;
        }
        let starts = || {
            let mapping = maps::find(maps, start)?;
            let elf = self.objects.mapped(maps, mapping).ok()?;
            let address = elf.address_of_offset(mapping.file_offset(start)?)?;
            let bias = start.wrapping_sub(address);
            let starts = code::starts_in(&elf, elf.extent_of(address)?);
            Some(starts.map(|address| address.wrapping_add(bias)).collect())
        };
        starts().unwrap_or(one)
    }

    /// Refuses the forms that are not supported yet.
    fn check_form(&self) -> Result<(), ResolveError> {
        let form = match &self.spec.place {
            PlaceSpec::EachInstruction { .. } if self.spec.on_return => "the return of an instruction",
            _ => return Ok(()),
        };
        Err(ResolveError::NotSupported { form })
    }

    /// What `spec`, which is one of the readings, names in its object.
    fn named<'elf>(&self, spec: &ProbeSpec, elf: &'elf Elf) -> Result<Named<'elf>, ResolveError> {
        let address = match &spec.place {
            PlaceSpec::Function { name, offset, .. } => match elf.find(&name.text) {
                Ok(found) => within(elf, found, &name.text, *offset)?,
                Err(LookupError::Indirect { address: resolver, .. }) => {
                    return Ok(Named::Indirect { resolver, offset: *offset, each: false });
                }
                // A name that is there comes before a pattern.
                Err(LookupError::Unknown { .. }) if name.is_pattern() => {
                    if *offset != 0 {
                        return Err(ResolveError::OffsetOfPattern { pattern: name.text.clone() });
                    }
                    return Ok(Named::Functions(matching(elf, &name.text)?));
                }
                Err(error) => return Err(error.into()),
            },
            PlaceSpec::EachInstruction { name, .. } => return instructions(elf, name),
            PlaceSpec::Line { .. } => {
                return Ok(Named::Instructions(self.line_addresses(elf).map_err(ResolveError::Debug)?));
            }
            PlaceSpec::Number { number, object } => number_of(elf, object, *number)?,
            PlaceSpec::Usdt { .. } => return Ok(Named::Instructions(authored::addresses(spec, elf)?)),
            PlaceSpec::UprobeEvent(UprobeEvent { offset, .. }) => {
                let not_code = || ResolveError::NotCode { path: elf.path().to_owned(), offset: *offset };
                elf.address_of_offset(*offset).ok_or_else(not_code)?
            }
            _ => return Ok(Named::Instructions(Vec::new())),
        };
        self.check_boundary(elf, address)?;
        self.check_entry(elf, address)?;
        Ok(Named::Instructions(vec![address]))
    }

    /// A return is known by where the function was called from, which only its first instruction can tell.
    fn check_entry(&self, elf: &Elf, address: u64) -> Result<(), ResolveError> {
        match elf.function_at(address) {
            Some(function) if self.spec.on_return && function.address != address => {
                let function = function.name().to_owned();
                Err(ResolveError::InsideFunction { place: self.spec.to_string(), function })
            }
            _ => Ok(()),
        }
    }

    fn check_boundary(&self, elf: &Elf, address: u64) -> Result<(), ResolveError> {
        match code::boundary(elf, address) {
            Boundary::Yes | Boundary::Unknown => Ok(()),
            Boundary::Inside { start, function } => {
                Err(ResolveError::InsideInstruction { place: self.spec.to_string(), function, start })
            }
        }
    }

    fn find_address<T>(
        &self,
        address: u64,
        maps: &Maps,
        found: impl Fn(Site, Option<&Elf>, u64) -> T,
    ) -> Result<T, ResolveError> {
        let mapping = maps::find(maps, address).ok_or(ResolveError::NotMapped { address })?;
        if !mapping.is_executable() {
            let mapping = mapping.path.as_ref().map(|path| path.display().to_string());
            let mapping = mapping.unwrap_or_else(|| "anonymous memory".to_owned());
            return Err(ResolveError::NotExecutable { address, mapping });
        }
        let site = Site { address };
        let elf = self.objects.mapped(maps, mapping).ok();
        let in_file = |elf: &Elf| elf.address_of_offset(mapping.file_offset(address)?);
        // Code that no file describes, such as a JIT compiler's, may be probed; nobody can tell where its
        // instructions begin.
        let Some((elf, in_file)) = elf.and_then(|elf| in_file(&elf).map(|at| (elf, at))) else {
            return Ok(found(site, None, address));
        };
        self.check_boundary(&elf, in_file)?;
        self.check_entry(&elf, in_file)?;
        Ok(found(site, Some(&elf), in_file))
    }
}

impl Locate for Resolver {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        self.find(maps, |site, _, _| site)
    }

    fn counters(&self, maps: &Maps) -> Vec<Counter> {
        if !authored::has_counters(&self.spec) {
            return Vec::new();
        }
        // Why there is none, who asks for the sites is told.
        self.counters_in(maps).unwrap_or_default()
    }

    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        let is_several = match &self.spec.place {
            PlaceSpec::Function { name, .. } => name.is_pattern(),
            PlaceSpec::Usdt { provider, name, .. } => provider.is_pattern() || name.is_pattern(),
            _ => false,
        };
        if !is_several {
            return Ok(None);
        }
        self.check_form()?;
        let (spec, file) = self.mapped(maps)?;
        let elf = self.objects.mapped(maps, file)?;
        if let Some(parts) = lock(&self.matching).get(&elf.number()) {
            return Ok(Some(Arc::clone(parts)));
        }
        if let PlaceSpec::Usdt { .. } = spec.place {
            return Ok(Some(authored::parts(spec, &elf)?));
        }
        let PlaceSpec::Function { object, name: pattern, .. } = &spec.place else { return Ok(None) };
        let Named::Functions(functions) = self.named(spec, &elf)? else { return Ok(None) };
        let called = |name: &str| matches(&pattern.text, name);
        let names = functions.iter().map(|function| {
            ProbeSpec::function(object.clone(), name_among(&elf, function, called)).to_string()
        });
        let parts: Arc<[String]> = names.collect();
        lock(&self.matching).insert(elf.number(), Arc::clone(&parts));
        Ok(Some(parts))
    }

    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        Some(Box::new(self.part_called(name)?))
    }

    fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        self.implementation_names(maps)
    }

    fn is_on_return(&self) -> bool {
        self.spec.on_return
    }
}

impl Locate for ProbeSpec {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        Resolver::new(self.clone(), Arc::default()).locate(maps)
    }

    fn counters(&self, maps: &Maps) -> Vec<Counter> {
        Resolver::new(self.clone(), Arc::default()).counters(maps)
    }

    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        Resolver::new(self.clone(), Arc::default()).parts(maps)
    }

    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        Resolver::new(self.clone(), Arc::default()).part(name)
    }

    fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        Resolver::new(self.clone(), Arc::default()).implementation_names(maps)
    }

    fn is_on_return(&self) -> bool {
        self.on_return
    }
}

/// The name of a place: its function, and how many bytes it lies after the function's start.
#[must_use]
pub fn name_of(elf: &Elf, address: u64) -> Option<String> {
    let function = elf.function_at(address)?;
    Some(match address - function.address {
        0 => function.name().to_owned(),
        distance => format!("{}+{distance:#x}", function.name()),
    })
}

/// The virtual address of the instruction `offset` bytes behind the start of the function that `symbol` is.
fn within(elf: &Elf, symbol: &Symbol, name: &str, offset: u64) -> Result<u64, ResolveError> {
    let size = match elf.function_at(symbol.address) {
        Some(function) if function.address == symbol.address => function.size,
        _ => symbol.size,
    };
    let address = symbol.address.checked_add(offset).filter(|_| offset < size.max(1));
    address.ok_or_else(|| ResolveError::BeyondFunction { symbol: name.to_owned(), offset, size })
}

/// Whether a name, mangled or as its author wrote it, matches a pattern.
fn matches(pattern: &str, name: &str) -> bool {
    if glob::matches(pattern, name) {
        return true;
    }
    let written = elf::demangle(name);
    // Where parameters are written, some write spaces.
    let spaced = || pattern.contains(['(', '<', ',', ' ']);
    glob::matches(pattern, &written)
        || spaced() && glob::matches(&elf::without_spaces(pattern), &elf::without_spaces(&written))
}

/// The functions whose names match a pattern.
fn matching<'elf>(elf: &'elf Elf, pattern: &str) -> Result<Vec<&'elf Function>, ResolveError> {
    let all = elf.functions().iter();
    let matching: Vec<&Function> =
        all.filter(|function| function.bare_names().any(|name| matches(pattern, name))).collect();
    if matching.is_empty() {
        let (pattern, path) = (pattern.to_owned(), elf.path().to_owned());
        let stripped = elf.stripped().map(<[PathBuf]>::to_vec);
        return Err(ResolveError::NoMatch { pattern, path, stripped });
    }
    Ok(matching)
}

/// What a function is called so that this stands for no other: preferably as its author wrote it.
#[must_use]
pub fn unambiguous_name(elf: &Elf, function: &Function) -> String {
    name_among(elf, function, |_| true)
}

/// The same, preferably of the names that are `wanted`.
fn name_among(elf: &Elf, function: &Function, wanted: impl Fn(&str) -> bool) -> String {
    let is_it = |name: &str| match elf.find(name) {
        Ok(symbol) => symbol.address == function.address,
        Err(LookupError::Indirect { address, .. }) => address == function.address,
        Err(_) => false,
    };
    let names = || function.bare_names().chain(function.names.iter().map(String::as_str));
    let (first, rest): (Vec<&str>, Vec<&str>) = names().partition(|name| wanted(name));
    let ways =
        first.into_iter().chain(rest).flat_map(|name| [elf::demangle(name).into_owned(), name.to_owned()]);
    let mut ways = ways.filter(|name| is_it(name));
    ways.next().unwrap_or_else(|| format!("{}@{:#x}", function.name(), function.address))
}

/// Where the instructions of the functions begin whose names match.
fn instructions<'elf>(elf: &'elf Elf, name: &Name) -> Result<Named<'elf>, ResolveError> {
    match elf.find(&name.text) {
        Ok(symbol) => {
            let function = elf.functions().iter().find(|function| function.address == symbol.address);
            let starts = function.map(|function| code::starts_of(elf, function).collect());
            return Ok(Named::Instructions(starts.unwrap_or_default()));
        }
        Err(LookupError::Indirect { address: resolver, .. }) => {
            return Ok(Named::Indirect { resolver, offset: 0, each: true });
        }
        Err(LookupError::Unknown { .. }) if name.is_pattern() => {}
        Err(error) => return Err(error.into()),
    }
    let matching = matching(elf, &name.text)?.into_iter().filter(|function| !function.indirect);
    let mut starts: Vec<u64> = matching.flat_map(|function| code::starts_of(elf, function)).collect();
    // A function may lie within another.
    starts.sort_unstable();
    starts.dedup();
    Ok(Named::Instructions(starts))
}

/// The virtual address that `number` means: as a file offset, or itself.
fn number_of(elf: &Elf, object: &str, number: u64) -> Result<u64, ResolveError> {
    let by_offset = elf.address_of_offset(number);
    let itself = elf.offset_of_address(number).map(|_| number);
    let (by_offset, itself) = match (by_offset, itself) {
        (None, None) => return Err(ResolveError::NotCode { path: elf.path().to_owned(), offset: number }),
        (Some(address), None) | (None, Some(address)) => return Ok(address),
        (Some(address), Some(same)) if address == same => return Ok(address),
        (Some(by_offset), Some(itself)) => (by_offset, itself),
    };
    // Where an instruction begins is meant rather than where none does.
    let likely = |address| match code::boundary(elf, address) {
        Boundary::Yes => 2,
        Boundary::Unknown => 1,
        Boundary::Inside { .. } => 0,
    };
    match likely(by_offset).cmp(&likely(itself)) {
        Ordering::Greater => Ok(by_offset),
        Ordering::Less => Ok(itself),
        Ordering::Equal => {
            let readings = [by_offset, itself].map(|address| unambiguous_place(elf, object, address));
            Err(ResolveError::TwoReadings { text: ProbeSpec::number(object, number).to_string(), readings })
        }
    }
}

/// How to write that address so that it stands for no other.
fn unambiguous_place(elf: &Elf, object: &str, address: u64) -> String {
    match elf.function_at(address) {
        Some(function) => {
            let name = Name::literal(unambiguous_name(elf, function));
            let (object, offset) = (object.to_owned(), address - function.address);
            ProbeSpec::at(PlaceSpec::Function { object, name, offset }).to_string()
        }
        // These lines have file offsets alone.
        None => {
            format!("p {}:{:#x}", elf.path().display(), elf.offset_of_address(address).unwrap_or_default())
        }
    }
}
