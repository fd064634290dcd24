//! The debug information of one object: its units, and how they are read.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use gimli::{
    Abbreviations, AttributeValue, DebugAbbrev, DebugAbbrevOffset, DebugInfoOffset, DebugTypeSignature,
    DebuggingInformationEntry, Dwarf, DwarfPackage, EntriesRaw, LittleEndian, Reader, Section, SectionId,
    UnitHeader, UnitOffset, UnitType, constants as dw,
};

use super::error::DebugError;
use super::functions::{Block, Functions};
use super::lines::Lines;
use super::names::Names;
use super::sections::{Sections, Slice, malformed};
use super::split::{Split, Splits};
use super::tls::ThreadLocal;
use super::unwind::Unwound;
use crate::symbols::elf::Places;

/// A unit that was read.
pub(super) struct Unit<'a> {
    inner: gimli::Unit<Slice<'a>>,
    /// The sections that it is in.
    sections: Arc<Dwarf<Slice<'a>>>,
}

impl<'a> Unit<'a> {
    pub(super) fn new(inner: gimli::Unit<Slice<'a>>, sections: Arc<Dwarf<Slice<'a>>>) -> Unit<'a> {
        Unit { inner, sections }
    }

    pub(super) fn into_inner(self) -> gimli::Unit<Slice<'a>> {
        self.inner
    }
}

impl<'a> Deref for Unit<'a> {
    type Target = gimli::Unit<Slice<'a>>;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

pub(super) type Entry<'a> = DebuggingInformationEntry<Slice<'a>>;
pub(super) type Value<'a> = AttributeValue<Slice<'a>>;

/// How far one entry may refer to another to complete it.
const MOST_REFERENCES: usize = 16;

/// How much work an answer may take for each byte.
const WORK: u64 = 64;

/// An entry of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Die {
    /// The number of the unit.
    pub(super) unit: usize,
    /// Bytes from its start.
    pub(super) offset: usize,
}

/// In which sections a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Home {
    /// The object's, or its debug file's.
    Object,
    /// The supplementary file's.
    Supplement,
    /// Those with what was split off of that unit.
    Split(usize),
    /// What that row of a package's index of type units says.
    Packaged {
        /// The number of the package.
        package: usize,
        /// The row.
        row: u32,
    },
}

/// A unit, and what was found in it so far.
#[derive(Debug)]
pub(super) struct UnitEntry {
    /// Where it begins in its section.
    pub(super) offset: u64,
    /// Whether that is .debug_types.
    pub(super) types: bool,
    /// Whether it describes a type, in whichever section: it may name a line table, which is another unit's.
    describes_type: bool,
    home: Home,
    abbreviations: u64,
    /// Where most of it is, if that was split off.
    pub(super) split: Option<Split>,
    /// Why it cannot be read.
    broken: Option<DebugError>,
    pub(super) language: Option<dw::DwLang>,
    pub(super) functions: OnceLock<Result<Functions, DebugError>>,
    pub(super) lines: OnceLock<Result<Lines, DebugError>>,
}

impl UnitEntry {
    /// The unit with that header.
    pub(super) fn new(header: &UnitHeader<Slice<'_>>, types: bool, home: Home) -> UnitEntry {
        UnitEntry {
            offset: header.offset().0 as u64,
            types,
            describes_type: matches!(header.type_(), UnitType::Type { .. } | UnitType::SplitType { .. }),
            home,
            abbreviations: header.debug_abbrev_offset().0 as u64,
            split: None,
            broken: None,
            language: None,
            functions: OnceLock::new(),
            lines: OnceLock::new(),
        }
    }

    fn is_supplementary(&self) -> bool {
        self.home == Home::Supplement
    }

    fn section(&self) -> &'static str {
        let id = if self.types { SectionId::DebugTypes } else { SectionId::DebugInfo };
        match self.home {
            Home::Object | Home::Supplement if self.split.is_none() => id.name(),
            _ => id.dwo_name().unwrap_or_default(),
        }
    }
}

/// The debug information of an executable or shared object, in DWARF 4 or 5.
///
/// Most of it is read when it is asked for; nothing in it is trusted. Addresses are virtual ones of the object, before
/// relocation.
#[derive(Debug)]
pub struct DebugInfo {
    path: PathBuf,
    sections: Sections,
    /// Those of the object, where `sections` are those of its debug file.
    object: Option<Sections>,
    /// Those of the supplementary file.
    supplement: Option<Sections>,
    /// The name of that file.
    supplement_name: Option<PathBuf>,
    code: Vec<Range<u64>>,
    pub(super) thread_local: ThreadLocal,
    /// Where their first values are.
    pub(super) thread_block: Range<u64>,
    pub(super) units: Vec<UnitEntry>,
    /// Why there may be more.
    incomplete: Option<DebugError>,
    /// By their places in the object's and the supplementary file's sections.
    abbreviations: HashMap<(bool, u64), Result<Arc<Abbreviations>, DebugError>>,
    /// The type that a type unit describes.
    signatures: HashMap<u64, Die>,
    /// The code of the units, in its order.
    ranges: Vec<(Range<u64>, usize)>,
    pub(super) splits: Splits,
    pub(super) names: OnceLock<Names>,
    pub(super) unwound: OnceLock<Vec<Unwound>>,
}

impl DebugInfo {
    /// That of the object at `path` with these contents and this code; `debug_file` is looked at where the object has
    /// none itself. `supplement` is the name of the file to which either refers, and the file, if it was found. What was
    /// split off is looked for in `places`.
    pub(crate) fn read(
        path: &Path,
        data: &Arc<Vec<u8>>,
        code: Vec<Range<u64>>,
        debug_file: Option<&(PathBuf, File)>,
        supplement: Option<&(PathBuf, Option<(PathBuf, File)>)>,
        places: Option<Arc<Places>>,
    ) -> Result<DebugInfo, DebugError> {
        let own = Sections::in_memory(data)?;
        let (path, sections, object) = match debug_file {
            _ if own.has(SectionId::DebugInfo) => (path, own, None),
            Some((path, file)) => (path.as_path(), Sections::on_disk(path, file)?, Some(own)),
            None => (path, own, None),
        };
        if !sections.has(SectionId::DebugInfo) {
            return Err(DebugError::Missing { path: path.to_owned() });
        }
        let thread_local = ThreadLocal::of(data);
        let thread_block = ThreadLocal::block(data);
        let supplement_name = supplement.map(|(name, _)| name.clone());
        let supplement = match supplement {
            Some((_, Some((path, file)))) => Some(Sections::on_disk(path, file)?),
            _ => None,
        };
        let mut info = DebugInfo {
            path: path.to_owned(),
            sections,
            object,
            supplement,
            supplement_name,
            code,
            thread_local,
            thread_block,
            units: Vec::new(),
            incomplete: None,
            abbreviations: HashMap::new(),
            signatures: HashMap::new(),
            ranges: Vec::new(),
            splits: Splits::new(places),
            names: OnceLock::new(),
            unwound: OnceLock::new(),
        };
        let (units, signatures, incomplete) = headers(&info);
        (info.units, info.signatures, info.incomplete) = (units, signatures, incomplete);
        info.abbreviations = abbreviations(&info);
        let (ranges, found) = roots(&info);
        info.ranges = ranges;
        for (unit, root) in info.units.iter_mut().zip(found) {
            match root {
                Ok((language, split)) => (unit.language, unit.split) = (language, split),
                Err(error) => unit.broken = Some(error),
            }
        }
        Ok(info)
    }

    /// The file that it was read from: the object's, or its debug file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Nothing, or that a part is missing without which most of it makes no sense.
    pub(super) fn is_complete(&self) -> Result<(), DebugError> {
        match &self.supplement_name {
            Some(name) if self.supplement.is_none() => Err(DebugError::NoSupplement { name: name.clone() }),
            _ => Ok(()),
        }
    }

    pub(super) fn is_type_unit(&self, unit: usize) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.describes_type)
    }

    /// Whether code of the object lies there. What a linker left out has addresses, too, but others.
    pub(super) fn is_code(&self, address: u64) -> bool {
        self.code.iter().any(|code| code.contains(&address))
    }

    /// Why something may not have been found.
    pub(super) fn trouble(&self) -> Option<&DebugError> {
        let broken = || self.units.iter().find_map(|unit| unit.broken.as_ref());
        self.incomplete.as_ref().or_else(broken).or_else(|| self.missing())
    }

    /// The units with code at `address`.
    pub(super) fn units_at(&self, address: u64) -> impl Iterator<Item = usize> {
        /// Few units have code between that of another.
        const NESTED: usize = 16;
        let after = self.ranges.partition_point(|(range, _)| range.start <= address);
        let candidates = self.ranges.get(after.saturating_sub(NESTED)..after).unwrap_or_default();
        candidates.iter().rev().filter(move |(range, _)| range.contains(&address)).map(|&(_, unit)| unit)
    }

    /// The unwind tables: `.eh_frame` and `.debug_frame`, each with its virtual address.
    pub(super) fn unwind_tables(&self) -> [(SectionId, Slice<'_>, u64); 2] {
        [SectionId::EhFrame, SectionId::DebugFrame].map(|id| {
            let sections = match &self.object {
                Some(object) if object.has(id) => object,
                _ => &self.sections,
            };
            (id, sections.get(id), sections.address(id))
        })
    }

    /// How much work an answer may take.
    fn allowance(&self) -> u64 {
        let supplement = self.supplement.as_ref().map_or(0, Sections::length);
        self.sections.length().saturating_add(supplement).saturating_mul(WORK).saturating_add(1 << 22)
    }
}

type Headers = (Vec<UnitEntry>, HashMap<u64, Die>, Option<DebugError>);

/// All headers; the last is why there may be more.
fn headers(info: &DebugInfo) -> Headers {
    let query = Query::new(info);
    let (mut units, mut signatures) = (Vec::new(), HashMap::new());
    let mut take = |header: &UnitHeader<Slice<'_>>, types: bool, home: Home| {
        let offset = header.offset().0;
        if let UnitType::Type { type_signature: DebugTypeSignature(signature), type_offset } = header.type_()
        {
            signatures.insert(signature, Die { unit: units.len(), offset: type_offset.0 });
        }
        units.push(UnitEntry::new(header, types, home));
        (offset + header.length_including_self()) as u64
    };
    let mut end = 0;
    let mut incomplete = None;
    let mut headers = query.dwarf.units();
    loop {
        match headers.next() {
            Ok(Some(header)) => end = take(&header, false, Home::Object),
            Ok(None) => break,
            Err(error) => {
                incomplete = Some(malformed(SectionId::DebugInfo.name(), end, error));
                break;
            }
        }
    }
    let mut end = 0;
    let mut headers = query.dwarf.type_units();
    loop {
        match headers.next() {
            Ok(Some(header)) => end = take(&header, true, Home::Object),
            Ok(None) => break,
            Err(error) => {
                incomplete.get_or_insert(malformed(SectionId::DebugTypes.name(), end, error));
                break;
            }
        }
    }
    let mut headers = query.supplement.units();
    while let Ok(Some(header)) = headers.next() {
        take(&header, false, Home::Supplement);
    }
    (units, signatures, incomplete)
}

/// Each table that a unit names is read up to where the next begins, so that overlapping ones take no more work.
fn abbreviations(info: &DebugInfo) -> HashMap<(bool, u64), Result<Arc<Abbreviations>, DebugError>> {
    const SECTION: SectionId = SectionId::DebugAbbrev;
    let mut all = HashMap::new();
    for (supplementary, sections) in [(false, Some(&info.sections)), (true, info.supplement.as_ref())] {
        let Some(section) = sections.map(|sections| sections.get(SECTION)) else { continue };
        let units = info.units.iter().filter(|unit| unit.is_supplementary() == supplementary);
        let starts: BTreeSet<u64> = units.map(|unit| unit.abbreviations).collect();
        let ends = starts.iter().skip(1).copied().chain([section.len() as u64]);
        for (&start, end) in starts.iter().zip(ends) {
            let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let bytes = range.and_then(|(start, end)| section.slice().get(start..end)).unwrap_or_default();
            let table = DebugAbbrev::new(bytes, LittleEndian).abbreviations(DebugAbbrevOffset(0));
            let table = table.map(Arc::new).map_err(|error| malformed(SECTION.name(), start, error));
            all.insert((supplementary, start), table);
        }
    }
    all
}

/// The language, and where most of the unit is, if that was split off.
type Root = (Option<dw::DwLang>, Option<Split>);
type Roots = (Vec<(Range<u64>, usize)>, Vec<Result<Root, DebugError>>);

/// What the first entries of the units say: where the code lies, and what the unit is.
fn roots(info: &DebugInfo) -> Roots {
    let query = Query::new(info);
    let mut all = Vec::new();
    let root = |index: usize, entry: &UnitEntry, all: &mut Vec<_>| {
        if entry.types {
            return Ok((None, None));
        }
        let unit = query.read_own(index)?;
        let first = query.root(index, &unit)?;
        let language = language_of(first.attr_value(dw::DW_AT_language));
        let malformed = |error| malformed(entry.section(), entry.offset, error);
        if entry.is_supplementary() {
            // It has no code.
            return Ok((language, None));
        }
        let mut ranges = query.dwarf.unit_ranges(&unit).map_err(malformed)?;
        while let Some(range) = ranges.next().map_err(malformed)? {
            query.spend(1)?;
            if range.begin < range.end && info.is_code(range.begin) {
                all.push((range.begin..range.end, index));
            }
        }
        Ok((language, Split::of(&query, &unit, &first)))
    };
    let found = info.units.iter().enumerate().map(|(index, entry)| root(index, entry, &mut all)).collect();
    all.sort_by_key(|(range, _)| range.start);
    (all, found)
}

pub(super) fn language_of(value: Option<Value<'_>>) -> Option<dw::DwLang> {
    match value {
        Some(AttributeValue::Language(language)) => Some(language),
        _ => None,
    }
}

/// One question: what was read for it, and how much work it has taken.
pub(super) struct Query<'a> {
    pub(super) info: &'a DebugInfo,
    pub(super) dwarf: Arc<Dwarf<Slice<'a>>>,
    /// That of the supplementary file.
    pub(super) supplement: Arc<Dwarf<Slice<'a>>>,
    /// Those with what was split off.
    pub(super) homes: RefCell<HashMap<Home, Arc<Dwarf<Slice<'a>>>>>,
    /// Packages of that, by their numbers.
    pub(super) opened: RefCell<HashMap<usize, Rc<DwarfPackage<Slice<'a>>>>>,
    units: RefCell<HashMap<usize, Rc<Unit<'a>>>>,
    blocks: RefCell<HashMap<Die, Rc<Vec<Rc<Block>>>>>,
    /// The hashes of the types that units only declare, by their offsets.
    declared: RefCell<HashMap<usize, Rc<HashMap<usize, u64>>>>,
    left: Cell<u64>,
}

impl<'a> Query<'a> {
    pub(super) fn new(info: &'a DebugInfo) -> Query<'a> {
        let load = |sections: &'a Sections| {
            Dwarf::load(|id| Ok::<_, gimli::Error>(sections.get(id))).unwrap_or_default()
        };
        let supplement = Arc::new(info.supplement.as_ref().map(load).unwrap_or_default());
        let mut dwarf = load(&info.sections);
        dwarf.sup = info.supplement.is_some().then(|| Arc::clone(&supplement));
        Query {
            info,
            dwarf: Arc::new(dwarf),
            supplement,
            homes: RefCell::default(),
            opened: RefCell::default(),
            units: RefCell::default(),
            blocks: RefCell::default(),
            declared: RefCell::default(),
            left: Cell::new(info.allowance()),
        }
    }

    /// The sections that a unit is in.
    pub(super) fn sections_of<'u>(&self, unit: &'u Unit<'a>) -> &'u Dwarf<Slice<'a>> {
        &unit.sections
    }

    /// Allows for the work that as many more bytes may take.
    pub(super) fn earn(&self, bytes: u64) {
        self.left.set(self.left.get().saturating_add(bytes.saturating_mul(WORK)));
    }

    /// Counts work, by about what reading a byte takes.
    pub(super) fn spend(&self, work: u64) -> Result<(), DebugError> {
        match self.left.get().checked_sub(work) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(DebugError::TooMuch),
        }
    }

    /// A unit, read now or before.
    pub(super) fn unit(&self, index: usize) -> Result<Rc<Unit<'a>>, DebugError> {
        if let Some(unit) = self.units.borrow().get(&index) {
            return Ok(Rc::clone(unit));
        }
        let broken = self.info.unit(index).and_then(|entry| entry.broken.clone());
        if let Some(error) = broken {
            return Err(error);
        }
        let unit = Rc::new(self.read_unit(index)?);
        self.units.borrow_mut().insert(index, Rc::clone(&unit));
        Ok(unit)
    }

    /// Lets go of a unit that is not needed any more.
    pub(super) fn forget(&self, index: usize) {
        self.units.borrow_mut().remove(&index);
    }

    pub(super) fn known_blocks(&self, function: Die) -> Option<Rc<Vec<Rc<Block>>>> {
        self.blocks.borrow().get(&function).cloned()
    }

    pub(super) fn keep_blocks(&self, function: Die, blocks: &Rc<Vec<Rc<Block>>>) {
        self.blocks.borrow_mut().insert(function, Rc::clone(blocks));
    }

    pub(super) fn declared_types(&self, unit: usize) -> Option<Rc<HashMap<usize, u64>>> {
        self.declared.borrow().get(&unit).cloned()
    }

    pub(super) fn keep_declared_types(&self, unit: usize, types: HashMap<usize, u64>) {
        self.declared.borrow_mut().insert(unit, Rc::new(types));
    }

    /// A unit with its line table, as it is in the file itself also if it was split off.
    pub(super) fn own_unit(&self, index: usize) -> Result<Rc<Unit<'a>>, DebugError> {
        match self.info.unit(index) {
            Some(entry) if entry.split.is_some() => self.read_own(index).map(Rc::new),
            _ => self.unit(index),
        }
    }

    fn read_unit(&self, index: usize) -> Result<Unit<'a>, DebugError> {
        let own = self.read_own(index)?;
        match self.info.unit(index) {
            Some(entry) if entry.split.is_some() => self.split_unit(index, own),
            _ => Ok(own),
        }
    }

    fn read_own(&self, index: usize) -> Result<Unit<'a>, DebugError> {
        let entry = self.info.unit(index);
        let entry =
            entry.ok_or_else(|| malformed(SectionId::DebugInfo.name(), 0, "there is no such unit"))?;
        let bad = |error: gimli::Error| malformed(entry.section(), entry.offset, error);
        let at = usize::try_from(entry.offset).unwrap_or(usize::MAX);
        let dwarf = self.sections_in(entry.home)?;
        let header = if entry.types {
            // Their headers can be had in their order only.
            let rest = dwarf.debug_types.reader().slice().get(at..).unwrap_or_default();
            gimli::DebugTypes::new(rest, LittleEndian).units().next().map_err(bad)?
        } else {
            Some(dwarf.unit_header(DebugInfoOffset(at)).map_err(bad)?)
        };
        let header = header.ok_or_else(|| bad(gimli::Error::MissingUnitDie))?;
        let known = self.info.abbreviations.get(&(entry.is_supplementary(), entry.abbreviations));
        let abbreviations = match (entry.home, known) {
            (Home::Split(_) | Home::Packaged { .. }, _) => {
                self.split_abbreviations(&dwarf, header.debug_abbrev_offset())?
            }
            (_, Some(table)) => Arc::clone(table.as_ref().map_err(Clone::clone)?),
            (_, None) => return Err(bad(gimli::Error::MissingUnitDie)),
        };
        let inner = gimli::Unit::new_with_abbreviations(&dwarf, header, abbreviations).map_err(bad)?;
        let unit = Unit::new(inner, dwarf);
        self.spend(unit.line_program.as_ref().map_or(0, |program| program.header().header_length() as u64))?;
        Ok(unit)
    }

    pub(super) fn root(&self, index: usize, unit: &Unit<'a>) -> Result<Entry<'a>, DebugError> {
        let mut entry = Entry::null();
        let mut raw =
            unit.entries_raw(None).map_err(|error| self.at(Die { unit: index, offset: 0 }, error))?;
        self.next(index, &mut raw, &mut entry)?;
        Ok(entry)
    }

    /// Something wrong with what begins there.
    pub(super) fn at(&self, die: Die, what: impl ToString) -> DebugError {
        match self.info.unit(die.unit) {
            Some(unit) => malformed(unit.section(), unit.offset.saturating_add(die.offset as u64), what),
            None => malformed(SectionId::DebugInfo.name(), 0, what),
        }
    }

    /// The next entry of a unit; whether there is one, and not the end of a list of them.
    pub(super) fn next(
        &self,
        unit: usize,
        raw: &mut EntriesRaw<'_, Slice<'a>>,
        entry: &mut Entry<'a>,
    ) -> Result<bool, DebugError> {
        let offset = raw.next_offset().0;
        let read = raw.read_entry(entry).map_err(|error| self.at(Die { unit, offset }, error))?;
        self.spend((raw.next_offset().0 - offset) as u64)?;
        Ok(read)
    }

    /// An entry, and the unit that it is in.
    pub(super) fn entry(&self, die: Die) -> Result<(Rc<Unit<'a>>, Entry<'a>), DebugError> {
        let unit = self.unit(die.unit)?;
        let mut entry = Entry::null();
        let bad = |error| self.at(die, error);
        {
            let mut raw = unit.entries_raw(Some(UnitOffset(die.offset))).map_err(bad)?;
            if !self.next(die.unit, &mut raw, &mut entry)? {
                return Err(self.at(die, "an entry is expected there"));
            }
        }
        Ok((unit, entry))
    }

    /// Calls `take` with each child of an entry, and not with theirs.
    pub(super) fn children(
        &self,
        die: Die,
        mut take: impl FnMut(Die, &Entry<'a>) -> Result<(), DebugError>,
    ) -> Result<(), DebugError> {
        self.descend(die, |child, entry, depth| {
            if depth == 1 {
                take(child, entry)?;
            }
            // What children have children for is looked at if it is asked for.
            Ok(depth < 1)
        })
    }

    /// Calls `take` with each entry below another, with its depth, that of children being 1, and goes into those for
    /// which it says so.
    pub(super) fn descend(
        &self,
        die: Die,
        mut take: impl FnMut(Die, &Entry<'a>, isize) -> Result<bool, DebugError>,
    ) -> Result<(), DebugError> {
        let unit = self.unit(die.unit)?;
        let mut raw = unit.entries_raw(Some(UnitOffset(die.offset))).map_err(|error| self.at(die, error))?;
        let mut entry = Entry::null();
        if !self.next(die.unit, &mut raw, &mut entry)? || !entry.has_children {
            return Ok(());
        }
        // Where what is passed over ends.
        let mut skipped: Option<isize> = None;
        // The depth that was reached by going on at a sibling is not counted by the reader.
        let mut above = 0;
        while !raw.is_empty() && raw.next_depth() + above > 0 {
            if !self.next(die.unit, &mut raw, &mut entry)? {
                continue;
            }
            let depth = entry.depth + above;
            if skipped.is_some_and(|skipped| depth > skipped) {
                continue;
            }
            skipped = None;
            let child = Die { unit: die.unit, offset: entry.offset.0 };
            if !take(child, &entry, depth)? && entry.has_children {
                match entry.attr_value(dw::DW_AT_sibling) {
                    Some(AttributeValue::UnitRef(sibling)) if sibling.0 > raw.next_offset().0 => {
                        raw = unit.entries_raw(Some(sibling)).map_err(|error| self.at(child, error))?;
                        above = depth;
                    }
                    _ => skipped = Some(depth),
                }
            }
        }
        Ok(())
    }

    /// The entry that an attribute refers to.
    pub(super) fn reference(&self, from: Die, value: Option<Value<'a>>) -> Result<Option<Die>, DebugError> {
        let missing = || self.at(from, "it refers to an entry that is not there");
        Ok(Some(match value {
            Some(AttributeValue::UnitRef(UnitOffset(offset))) => Die { unit: from.unit, offset },
            Some(AttributeValue::DebugInfoRef(DebugInfoOffset(offset))) => {
                self.die_at(from.unit, offset).ok_or_else(missing)?
            }
            Some(AttributeValue::DebugTypesRef(DebugTypeSignature(signature))) => {
                let split = self.type_of(self.home_of(from.unit), signature);
                split.or_else(|| self.info.signatures.get(&signature).copied()).ok_or_else(missing)?
            }
            Some(AttributeValue::DebugInfoRefSup(DebugInfoOffset(offset))) => {
                self.info.is_complete()?;
                self.die_among(true, offset).ok_or_else(missing)?
            }
            _ => return Ok(None),
        }))
    }

    /// Where the entries of a unit are.
    fn home_of(&self, unit: usize) -> Home {
        match self.info.unit(unit) {
            Some(entry) if entry.split.is_some() => Home::Split(unit),
            Some(entry) => entry.home,
            None => Home::Object,
        }
    }

    /// The entry at an offset of the section that a unit is in.
    pub(super) fn die_at(&self, unit: usize, offset: usize) -> Option<Die> {
        match self.home_of(unit) {
            Home::Object => self.die_among(false, offset),
            Home::Supplement => self.die_among(true, offset),
            Home::Split(unit) => self.die_in_part(unit, offset),
            // It is alone there.
            Home::Packaged { .. } => Some(Die { unit, offset }),
        }
    }

    /// The same, of the object's or of the supplementary file's.
    fn die_among(&self, supplementary: bool, offset: usize) -> Option<Die> {
        let units = &self.info.units;
        // First come the object's, then its type units, then the supplementary ones.
        let first = if supplementary { units.partition_point(|unit| !unit.is_supplementary()) } else { 0 };
        let is_alike = |unit: &UnitEntry| !unit.types && unit.is_supplementary() == supplementary;
        let rest = units.get(first..)?;
        let rest = rest.get(..rest.partition_point(is_alike))?;
        let after = rest.partition_point(|unit| unit.offset <= offset as u64);
        let within = after.checked_sub(1)?;
        let start = usize::try_from(rest.get(within)?.offset).ok()?;
        Some(Die { unit: first + within, offset: offset.checked_sub(start)? })
    }

    /// An entry and those that it completes: the abstract instance of an inlined function or a variable of it, the
    /// declaration of what is defined elsewhere (DW_AT_abstract_origin, DW_AT_specification).
    pub(super) fn completed(&self, die: Die) -> Result<Vec<(Die, Entry<'a>)>, DebugError> {
        let mut found: Vec<(Die, Entry<'a>)> = Vec::new();
        let mut next = Some(die);
        while let Some(die) = next {
            if found.len() >= MOST_REFERENCES || found.iter().any(|(known, _)| *known == die) {
                return Err(self.at(die, "it refers to itself"));
            }
            let (_, entry) = self.entry(die)?;
            let other = entry.attr_value(dw::DW_AT_abstract_origin);
            next = self.reference(die, other.or_else(|| entry.attr_value(dw::DW_AT_specification)))?;
            found.push((die, entry));
        }
        Ok(found)
    }

    /// The first of an attribute in [`Query::completed`], and where it stands.
    pub(super) fn attribute(
        &self,
        completed: &[(Die, Entry<'a>)],
        name: dw::DwAt,
    ) -> Option<(Die, Value<'a>)> {
        completed.iter().find_map(|(die, entry)| Some((*die, entry.attr_value(name)?)))
    }

    /// A text, if the attribute is one, and of bearable length.
    pub(super) fn text(&self, unit: &Unit<'a>, value: Value<'a>) -> Option<String> {
        const LONGEST: usize = 1 << 16;
        let text = unit.sections.attr_string(unit, value).ok()?;
        self.spend(text.len() as u64).ok()?;
        Some(String::from_utf8_lossy(text.slice().get(..text.len().min(LONGEST))?).into_owned())
    }

    /// Where the code of an entry lies.
    pub(super) fn ranges(
        &self,
        unit: &Unit<'a>,
        die: Die,
        entry: &Entry<'a>,
    ) -> Result<Vec<Range<u64>>, DebugError> {
        let bad = |error| self.at(die, error);
        let mut found = Vec::new();
        let mut ranges = self.sections_of(unit).die_ranges(unit, entry).map_err(bad)?;
        while let Some(range) = ranges.next().map_err(bad)? {
            self.spend(8)?;
            if range.begin < range.end {
                found.push(range.begin..range.end);
            }
        }
        Ok(found)
    }
}
