//! Debug information that is split off into files of its own, or into packages of those (DWARF 5, sections 3.1.3 and 7.3;
//! with DWARF 4 it is GNU's extension): what was linked has skeleton units only, which name the files. One is believed if
//! the unit in it has the identification that the skeleton names.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};

use gimli::{
    Abbreviations, DebugAbbrevOffset, Dwarf, DwarfPackage, LittleEndian, Section, SectionId, UnitHeader,
    UnitType, constants as dw,
};

use super::error::DebugError;
use super::info::{DebugInfo, Die, Entry, Home, Query, Unit, UnitEntry};
use super::sections::{Sections, Slice, malformed};
use crate::symbols::elf::{self, Places};
use crate::target::lock;

/// What a skeleton unit says of the unit that it stands for, and that unit, once somebody has asked.
#[derive(Debug)]
pub(super) struct Split {
    /// The file, as it was called when it was made.
    name: PathBuf,
    /// From where.
    directory: PathBuf,
    /// The identification of the unit (DWO ID).
    id: u64,
    part: OnceLock<Result<Part, DebugError>>,
}

/// What was split off of a unit.
#[derive(Debug)]
struct Part {
    origin: Origin,
    /// Where the unit begins in its section.
    offset: usize,
    /// The type units that came with it.
    types: TypeUnits,
}

#[derive(Debug)]
enum Origin {
    /// A file of its own.
    File(Sections),
    /// That row of the index of that package.
    Package(usize, u32),
}

/// A file with what was split off of many units.
#[derive(Debug)]
pub(super) struct Package {
    sections: Sections,
    types: TypeUnits,
}

/// Units that describe one type each.
#[derive(Debug)]
struct TypeUnits {
    /// The number of the first.
    first: usize,
    units: Vec<UnitEntry>,
    /// The type that each describes, by its signature.
    signatures: HashMap<u64, Die>,
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    /// What was split off of that unit.
    Part(usize),
    Package(usize),
}

/// The numbers of type units: they are known only when what they came with is.
#[derive(Debug, Default)]
struct Numbers {
    /// The first and the next after the last of each owner, in their order.
    given: Vec<(usize, usize, Owner)>,
}

/// What was read of files with what was split off.
#[derive(Debug, Default)]
pub(super) struct Splits {
    places: Option<Arc<Places>>,
    numbers: Mutex<Numbers>,
    packages: OnceLock<Vec<Package>>,
    /// By where they lie in memory.
    abbreviations: Mutex<HashMap<usize, Arc<Abbreviations>>>,
}

impl Splits {
    /// They are looked for there.
    pub(super) fn new(places: Option<Arc<Places>>) -> Splits {
        Splits { places, ..Splits::default() }
    }
}

/// Type units that are found one after another.
#[derive(Default)]
struct Finder {
    found: Vec<UnitEntry>,
    signatures: Vec<(u64, usize, usize)>,
}

impl Finder {
    fn take(&mut self, header: &UnitHeader<Slice<'_>>, types: bool, home: Home) {
        if let UnitType::Type { type_signature, type_offset }
        | UnitType::SplitType { type_signature, type_offset } = header.type_()
        {
            self.signatures.push((type_signature.0, self.found.len(), type_offset.0));
            self.found.push(UnitEntry::new(header, types, home));
        }
    }

    fn finish(self, info: &DebugInfo, owner: Owner) -> TypeUnits {
        let numbers = &mut lock(&info.splits.numbers).given;
        let first = numbers.last().map_or(info.units.len(), |&(_, end, _)| end);
        if !self.found.is_empty() {
            numbers.push((first, first + self.found.len(), owner));
        }
        let die = |(signature, at, offset)| (signature, Die { unit: first + at, offset });
        TypeUnits { first, units: self.found, signatures: self.signatures.into_iter().map(die).collect() }
    }
}

impl Split {
    /// What the skeleton unit with that root says; `None` where it is a whole unit.
    pub(super) fn of<'a>(query: &Query<'a>, unit: &Unit<'a>, root: &Entry<'a>) -> Option<Split> {
        let names = [dw::DW_AT_dwo_name, dw::DW_AT_GNU_dwo_name];
        let name = names.into_iter().find_map(|name| root.attr_value(name))?;
        let path = |bytes: Slice<'_>| PathBuf::from(OsStr::from_bytes(bytes.slice()));
        let name = query.sections_of(unit).attr_string(unit, name).map(path).unwrap_or_default();
        let directory = unit.comp_dir.map(path).unwrap_or_default();
        Some(Split { name, directory, id: unit.dwo_id?.0, part: OnceLock::new() })
    }

    fn missing(&self, tried: Vec<(PathBuf, String)>) -> DebugError {
        DebugError::Split { name: self.name.display().to_string(), tried }
    }

    /// Why it is not to be had.
    fn trouble(&self) -> Option<&DebugError> {
        self.part.get()?.as_ref().err()
    }

    fn known(&self) -> Option<&Part> {
        self.part.get()?.as_ref().ok()
    }

    /// Where its file may be, for debug information that was read from the file at `path`.
    fn candidates(&self, places: &Places, path: &Path) -> Vec<PathBuf> {
        let last = self.name.file_name().map(Path::new).unwrap_or(&self.name);
        let mut all: Vec<PathBuf> =
            places.named.iter().filter(|named| named.ends_with(last)).cloned().collect();
        all.push(self.directory.join(&self.name));
        for beside in [places.object.as_path(), path].into_iter().filter_map(Path::parent) {
            all.push(beside.join(&self.name));
            all.push(beside.join(last));
        }
        let mut seen = Vec::new();
        all.retain(|path| {
            !seen.contains(path) && {
                seen.push(path.clone());
                true
            }
        });
        all
    }
}

impl DebugInfo {
    /// The unit of that number.
    pub(super) fn unit(&self, number: usize) -> Option<&UnitEntry> {
        if let Some(unit) = self.units.get(number) {
            return Some(unit);
        }
        let owner = {
            let numbers = &lock(&self.splits.numbers).given;
            let after = numbers.partition_point(|&(first, ..)| first <= number);
            numbers.get(after.checked_sub(1)?)?.2
        };
        let types = match owner {
            Owner::Part(unit) => &self.units.get(unit)?.split.as_ref()?.known()?.types,
            Owner::Package(package) => &self.splits.packages.get()?.get(package)?.types,
        };
        types.units.get(number.checked_sub(types.first)?)
    }

    /// The numbers of the type units that were split off, as far as they are known.
    pub(super) fn split_types(&self) -> Range<usize> {
        let first = self.units.len();
        first..lock(&self.splits.numbers).given.last().map_or(first, |&(_, end, _)| end)
    }

    /// Why a name was not found: what was split off and is not to be had, what is corrupt, or `otherwise`.
    pub(super) fn missing_or(&self, otherwise: DebugError) -> DebugError {
        let corrupt = || self.trouble().or_else(|| self.names.get()?.trouble.as_ref());
        self.missing().or_else(corrupt).cloned().unwrap_or(otherwise)
    }

    /// What was split off and is not to be had, as far as somebody has asked.
    pub(super) fn missing(&self) -> Option<&DebugError> {
        self.units.iter().find_map(|unit| unit.split.as_ref()?.trouble())
    }
}

impl<'a> Query<'a> {
    fn packages(&self) -> &'a [Package] {
        let info = self.info;
        info.splits.packages.get_or_init(|| {
            let Some(places) = &info.splits.places else { return Vec::new() };
            let beside = [places.object.as_path(), info.path()].map(|path| {
                let mut name = path.as_os_str().to_owned();
                name.push(".dwp");
                PathBuf::from(name)
            });
            let mut found: Vec<Package> = Vec::new();
            let named = places.named.iter().map(|path| (path, elf::open_regular(path)));
            let mut beside = beside.to_vec();
            beside.dedup();
            let beside = beside.iter().map(|path| (path, places.view.open(path)));
            for (path, file) in named.chain(beside) {
                let sections = file.ok().and_then(|file| Sections::split(path, &file).ok());
                let sections = sections.filter(|sections| sections.has(SectionId::DebugCuIndex));
                let package = sections.and_then(|sections| self.read_package(sections, found.len()));
                found.extend(package);
            }
            found
        })
    }

    fn read_package(&self, sections: Sections, number: usize) -> Option<Package> {
        let home = |row| Home::Packaged { package: number, row };
        let mut types = Finder::default();
        {
            let package = package(&sections).ok()?;
            for row in 1..=package.tu_index.unit_count() {
                let Ok(dwarf) = package.tu_sections(row, &self.dwarf) else { continue };
                if let Ok(Some(header)) = dwarf.units().next() {
                    types.take(&header, false, home(row));
                } else if let Ok(Some(header)) = dwarf.type_units().next() {
                    types.take(&header, true, home(row));
                }
            }
        }
        Some(Package { types: types.finish(self.info, Owner::Package(number)), sections })
    }

    fn package(&self, number: usize) -> Result<Rc<DwarfPackage<Slice<'a>>>, DebugError> {
        if let Some(known) = self.opened.borrow().get(&number) {
            return Ok(Rc::clone(known));
        }
        let bad = |error: gimli::Error| malformed(".debug_cu_index", 0, error);
        let of = self.packages().get(number).ok_or_else(|| bad(gimli::Error::MissingUnitDie))?;
        self.earn(of.sections.length());
        let package = Rc::new(package(&of.sections).map_err(bad)?);
        self.opened.borrow_mut().insert(number, Rc::clone(&package));
        Ok(package)
    }

    /// What was split off of a unit.
    fn part(&self, number: usize) -> Result<&'a Part, DebugError> {
        let split = self.info.units.get(number).and_then(|unit| unit.split.as_ref());
        let split = split.ok_or_else(|| malformed(".debug_info", 0, "nothing of the unit was split off"))?;
        split.part.get_or_init(|| self.find_part(number, split)).as_ref().map_err(Clone::clone)
    }

    fn find_part(&self, number: usize, split: &Split) -> Result<Part, DebugError> {
        for at in 0..self.packages().len() {
            let Ok(package) = self.package(at) else { continue };
            if let Some(row) = package.cu_index.find(split.id) {
                let types = Finder::default().finish(self.info, Owner::Part(number));
                return Ok(Part { origin: Origin::Package(at, row), offset: 0, types });
            }
        }
        let mut tried = Vec::new();
        let Some(places) = &self.info.splits.places else { return Err(split.missing(tried)) };
        for path in split.candidates(places, self.info.path()) {
            let own = places.named.contains(&path).then(|| elf::open_regular(&path));
            let file = own.unwrap_or_else(|| places.view.open(&path));
            let read = file.map_err(|error| error.to_string()).and_then(|file| {
                let sections = Sections::split(&path, &file).map_err(|error| error.to_string())?;
                self.read_part(sections, number, split.id)
            });
            match read {
                Ok(part) => return Ok(part),
                Err(what) => tried.push((path, what)),
            }
        }
        Err(split.missing(tried))
    }

    fn read_part(&self, sections: Sections, number: usize, id: u64) -> Result<Part, String> {
        self.earn(sections.length());
        let mut types = Finder::default();
        let mut found = None;
        let mut others = Vec::new();
        {
            let dwarf = split_sections(&sections, &self.dwarf);
            let mut headers = dwarf.units();
            while let Some(header) = headers.next().map_err(|error| error.to_string())? {
                if let UnitType::Type { .. } | UnitType::SplitType { .. } = header.type_() {
                    types.take(&header, false, Home::Split(number));
                    continue;
                }
                let abbreviations = dwarf.debug_abbrev.reader().len() as u64;
                self.spend(abbreviations).map_err(|error| error.to_string())?;
                let unit = gimli::Unit::new(&dwarf, header).map_err(|error| error.to_string())?;
                match unit.dwo_id {
                    Some(other) if other.0 == id => found = found.or(Some(unit.header.offset().0)),
                    other => others.extend(other.map(|other| format!("{:#x}", other.0))),
                }
            }
            let mut headers = dwarf.type_units();
            while let Some(header) = headers.next().map_err(|error| error.to_string())? {
                types.take(&header, true, Home::Split(number));
            }
        }
        let Some(offset) = found else {
            others.truncate(4);
            return Err(match others.is_empty() {
                true => "it has no debug information that was split off".to_owned(),
                false => format!(
                    "it is of another build: its identification is {}, not {id:#x}",
                    others.join(", ")
                ),
            });
        };
        let types = types.finish(self.info, Owner::Part(number));
        Ok(Part { origin: Origin::File(sections), offset, types })
    }

    /// The sections with such units.
    pub(super) fn sections_in(&self, home: Home) -> Result<Arc<Dwarf<Slice<'a>>>, DebugError> {
        if let Some(known) = self.homes.borrow().get(&home) {
            return Ok(Arc::clone(known));
        }
        let bad = |error: gimli::Error| malformed(".debug_cu_index", 0, error);
        let found = Arc::new(match home {
            Home::Object => return Ok(Arc::clone(&self.dwarf)),
            Home::Supplement => return Ok(Arc::clone(&self.supplement)),
            Home::Split(unit) => match &self.part(unit)?.origin {
                Origin::File(sections) => {
                    self.earn(sections.length());
                    split_sections(sections, &self.dwarf)
                }
                &Origin::Package(package, row) => {
                    self.package(package)?.cu_sections(row, &self.dwarf).map_err(bad)?
                }
            },
            Home::Packaged { package, row } => {
                self.package(package)?.tu_sections(row, &self.dwarf).map_err(bad)?
            }
        });
        self.homes.borrow_mut().insert(home, Arc::clone(&found));
        Ok(found)
    }

    /// Abbreviations of what was split off, read now or before.
    pub(super) fn split_abbreviations(
        &self,
        dwarf: &Dwarf<Slice<'a>>,
        offset: DebugAbbrevOffset,
    ) -> Result<Arc<Abbreviations>, DebugError> {
        /// What a table takes to read and to keep, compared with other work.
        const COST: u64 = 8;
        let section = dwarf.debug_abbrev.reader().slice();
        let rest = section.get(offset.0..).unwrap_or_default();
        let key = rest.as_ptr() as usize;
        if let Some(known) = lock(&self.info.splits.abbreviations).get(&key) {
            return Ok(Arc::clone(known));
        }
        self.spend(COST * rest.len() as u64)?;
        let bad = |error| malformed(".debug_abbrev.dwo", offset.0 as u64, error);
        let table = Arc::new(dwarf.debug_abbrev.abbreviations(offset).map_err(bad)?);
        lock(&self.info.splits.abbreviations).insert(key, Arc::clone(&table));
        Ok(table)
    }

    /// The unit that the skeleton `own` stands for.
    pub(super) fn split_unit(&self, number: usize, own: Unit<'a>) -> Result<Unit<'a>, DebugError> {
        let part = self.part(number)?;
        let dwarf = self.sections_in(Home::Split(number))?;
        let bad = |error: gimli::Error| malformed(".debug_info.dwo", part.offset as u64, error);
        let header = dwarf.unit_header(gimli::DebugInfoOffset(part.offset)).map_err(bad)?;
        let abbreviations = self.split_abbreviations(&dwarf, header.debug_abbrev_offset())?;
        let mut inner = gimli::Unit::new_with_abbreviations(&dwarf, header, abbreviations).map_err(bad)?;
        inner.copy_relocated_attributes(&own);
        // Files and lines are those of the skeleton.
        let own = own.into_inner();
        inner.line_program = own.line_program;
        inner.comp_dir = own.comp_dir.or(inner.comp_dir);
        inner.name = inner.name.or(own.name);
        Ok(Unit::new(inner, dwarf))
    }

    /// The entry at an offset of the section with what was split off of a unit.
    pub(super) fn die_in_part(&self, number: usize, offset: usize) -> Option<Die> {
        let part = self.part(number).ok()?;
        let types = part.types.units.iter().zip(part.types.first..).filter(|(unit, _)| !unit.types);
        let starts = types.map(|(unit, number)| (usize::try_from(unit.offset).unwrap_or(usize::MAX), number));
        let starts = starts.chain([(part.offset, number)]).filter(|&(start, _)| start <= offset);
        let (start, unit) = starts.max()?;
        Some(Die { unit, offset: offset - start })
    }

    /// The type of that signature, as a unit in `home` refers to it.
    pub(super) fn type_of(&self, home: Home, signature: u64) -> Option<Die> {
        let types = match home {
            Home::Object | Home::Supplement => return None,
            Home::Split(unit) => {
                let part = self.part(unit).ok()?;
                match part.origin {
                    Origin::File(_) => &part.types,
                    Origin::Package(package, _) => &self.packages().get(package)?.types,
                }
            }
            Home::Packaged { package, .. } => &self.packages().get(package)?.types,
        };
        types.signatures.get(&signature).copied()
    }
}

fn split_sections<'a>(sections: &'a Sections, parent: &Dwarf<Slice<'a>>) -> Dwarf<Slice<'a>> {
    let mut dwarf = Dwarf::load(|id| Ok::<_, gimli::Error>(sections.get(id))).unwrap_or_default();
    dwarf.make_dwo(parent);
    dwarf
}

fn package(sections: &Sections) -> gimli::Result<DwarfPackage<Slice<'_>>> {
    DwarfPackage::load(|id| Ok::<_, gimli::Error>(sections.get(id)), Slice::new(&[], LittleEndian))
}
