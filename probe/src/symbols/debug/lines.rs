//! Which addresses a line of a source file stands for, and which line an address (DWARF 5, section 6.2).

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use gimli::{AttributeValue, LineProgramHeader, SectionId, constants as dw};

use super::error::DebugError;
use super::functions::{Block, BlockKind};
use super::info::{DebugInfo, Die, Query, Unit};
use super::names::Kind;
use super::sections::{Slice, malformed};

/// An address that a line of a source file stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinePlace {
    /// The virtual address, before relocation.
    pub address: u64,
    /// The source file, in full.
    pub file: String,
    /// The line.
    pub line: u64,
    /// The function that the line belongs to, where one is known.
    pub function: Option<String>,
    /// The function that this one was inlined into, where that is so.
    pub inlined_into: Option<String>,
}

/// The line table of a unit.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The names of the source files, in full.
    pub(super) files: Vec<String>,
    /// In the order of their addresses.
    sequences: Vec<(Range<u64>, Range<usize>)>,
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) address: u64,
    /// The number of the file.
    pub(super) file: u32,
    pub(super) line: u32,
    /// Whether a statement begins there.
    pub(super) statement: bool,
    /// Whether the prologue is known to end there.
    pub(super) prologue_end: bool,
}

impl Lines {
    pub(super) fn read(query: &Query<'_>, index: usize) -> Result<Lines, DebugError> {
        let unit = query.own_unit(index)?;
        let Some(program) = unit.line_program.clone() else { return Ok(Lines::default()) };
        let mut lines = Lines { files: files(query, &unit, program.header()), ..Lines::default() };
        let bad = |error: gimli::Error| {
            malformed(SectionId::DebugLine.name(), program.header().offset().0 as u64, error)
        };
        query.spend(program.header().raw_program_buf().len() as u64)?;
        let mut rows = program.clone().rows();
        let mut first = 0;
        while let Some((_, row)) = rows.next_row().map_err(bad)? {
            query.spend(1)?;
            if !row.end_sequence() {
                lines.rows.push(Row {
                    address: row.address(),
                    file: u32::try_from(row.file_index()).unwrap_or(u32::MAX),
                    line: row.line().and_then(|line| u32::try_from(line.get()).ok()).unwrap_or(0),
                    statement: row.is_stmt(),
                    prologue_end: row.prologue_end(),
                });
                continue;
            }
            let of_sequence = first..lines.rows.len();
            match lines.rows.get(first) {
                // What the linker left out lies elsewhere.
                Some(start) if start.address < row.address() && query.info.is_code(start.address) => {
                    lines.sequences.push((start.address..row.address(), of_sequence));
                }
                _ => lines.rows.truncate(first),
            }
            first = lines.rows.len();
        }
        lines.rows.truncate(first);
        lines.sequences.sort_by_key(|(range, _)| range.start);
        Ok(lines)
    }

    /// The rows of the sequence that holds an address.
    pub(super) fn sequence_at(&self, address: u64) -> &[Row] {
        let after = self.sequences.partition_point(|(range, _)| range.start <= address);
        let Some((range, rows)) = after.checked_sub(1).and_then(|at| self.sequences.get(at)) else {
            return &[];
        };
        if range.contains(&address) { self.rows.get(rows.clone()).unwrap_or_default() } else { &[] }
    }

    /// The row that tells of an address.
    pub(super) fn row_at(&self, address: u64) -> Option<Row> {
        let rows = self.sequence_at(address);
        let after = rows.partition_point(|row| row.address <= address);
        rows.get(after.checked_sub(1)?).copied()
    }

    /// The first row of exactly that address.
    fn first_row_at(&self, address: u64) -> Option<Row> {
        let rows = self.sequence_at(address);
        let before = rows.partition_point(|row| row.address < address);
        rows.get(before).copied().filter(|row| row.address == address)
    }

    pub(super) fn file(&self, row: Row) -> Option<&str> {
        self.files.get(row.file as usize).map(String::as_str)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = Row> {
        self.sequences.iter().flat_map(|(_, rows)| self.rows.get(rows.clone()).unwrap_or_default()).copied()
    }
}

impl Query<'_> {
    /// The line table of a unit, read now or before.
    pub(super) fn lines(&self, unit: usize) -> Result<&Lines, DebugError> {
        let entry =
            self.info.unit(unit).ok_or_else(|| self.at(Die { unit, offset: 0 }, "there is no such unit"))?;
        entry.lines.get_or_init(|| Lines::read(self, unit)).as_ref().map_err(Clone::clone)
    }

    /// The first address of a function, by its line table, of which its prologue is behind it: that of its second row,
    /// where none says it.
    pub(super) fn prologue_end(&self, unit: usize, function: &Range<u64>) -> Option<u64> {
        let lines = self.lines(unit).ok()?;
        let rows = lines.sequence_at(function.start).iter().filter(|row| function.contains(&row.address));
        let marked = rows.clone().find(|row| row.prologue_end);
        marked.or_else(|| rows.clone().find(|row| row.address > function.start)).map(|row| row.address)
    }
}

/// The names of all files, by their numbers.
pub(super) fn files<'a>(
    query: &Query<'a>,
    unit: &Unit<'a>,
    header: &LineProgramHeader<Slice<'a>>,
) -> Vec<String> {
    let names = (0..=header.file_names().len() as u64).map(|number| file(query, unit, header, number));
    names.map(Option::unwrap_or_default).collect()
}

/// The name of a file, in full.
fn file<'a>(
    query: &Query<'a>,
    unit: &Unit<'a>,
    header: &LineProgramHeader<Slice<'a>>,
    number: u64,
) -> Option<String> {
    let text = |bytes: Slice<'_>| String::from_utf8_lossy(bytes.slice()).into_owned();
    let base = unit.comp_dir.map(text).unwrap_or_default();
    let Some(entry) = header.file(number) else {
        // In DWARF 4 the number 0 is the unit itself.
        return (number == 0).then(|| unit.name.map(|name| join(&base, &text(name)))).flatten();
    };
    let string = |value| query.sections_of(unit).attr_string(unit, value).ok();
    let name = text(string(entry.path_name())?);
    query.spend((name.len() + base.len()) as u64).ok()?;
    let directory = entry.directory(header).and_then(string).map(text).unwrap_or_default();
    Some(join(&join(&base, &directory), &name))
}

/// A path that starts at another, unless it is absolute, without `.` and `..` where that is possible.
fn join(base: &str, path: &str) -> String {
    let whole = match base {
        _ if path.starts_with('/') => path.to_owned(),
        "" => path.to_owned(),
        base => format!("{base}/{path}"),
    };
    let absolute = whole.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|part| *part != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
}

/// Whether a file is meant by a name: its last components are those of the name.
fn matches(file: &str, name: &str) -> bool {
    let begins = |rest: &str| rest.is_empty() || (rest.ends_with('/') && !name.starts_with('/'));
    file.strip_suffix(name).is_some_and(begins)
}

/// An address at which a statement of a line begins.
struct Candidate {
    /// It lies in a part of its function that was split off.
    aside: bool,
    address: u64,
    /// The functions that it is in.
    blocks: Vec<Rc<Block>>,
}

/// Says of an address whether a thread may get there without an exception.
type IsOrdinary<'a> = dyn FnMut(u64) -> bool + 'a;

impl DebugInfo {
    /// Where in the source the code at virtual address `address` begins, of several lines there the first, as that of a
    /// function's name: the file, in full, and the line; `None` where nothing is known of it.
    ///
    /// # Errors
    /// What would tell is corrupt.
    pub fn line_of(&self, address: u64) -> Result<Option<(String, u64)>, DebugError> {
        let query = Query::new(self);
        let mut trouble = None;
        for unit in self.units_at(address) {
            let lines = match query.lines(unit) {
                Ok(lines) => lines,
                Err(error) => {
                    trouble = Some(error);
                    continue;
                }
            };
            let row = lines.first_row_at(address).or_else(|| lines.row_at(address));
            let row = row.filter(|row| row.line != 0);
            if let Some((row, file)) = row.and_then(|row| Some((row, lines.file(row)?))) {
                return Ok(Some((file.to_owned(), row.line.into())));
            }
        }
        trouble.map_or(Ok(None), Err)
    }

    /// The addresses that `line` of the source file `file` stands for: one for each function and each inlined copy of one
    /// that has code for the line, where a statement begins for the first time. `file` is a path, or the end of one.
    /// The line on which a function begins is its first address. An inlined copy of which the optimizer has left no code
    /// of its own counts as a part of what it was inlined into.
    ///
    /// # Errors
    /// There is no such file, or more than one, or no code for the line.
    pub fn line(&self, file: &str, line: u64) -> Result<Vec<LinePlace>, DebugError> {
        self.line_by(file, line, &mut |_| true)
    }

    fn line_by(
        &self,
        file: &str,
        line: u64,
        is_ordinary: &mut IsOrdinary<'_>,
    ) -> Result<Vec<LinePlace>, DebugError> {
        let query = Query::new(self);
        let file = self.source_file(&query, file)?;
        self.places_of(&query, &file, line, None, is_ordinary)
    }

    /// The same for `line` of the file in which the function `function` lies: one for each function of that name and each
    /// inlined copy of one. `function` is a name as it is written or as a linker sees it, with or without what it is
    /// defined in.
    ///
    /// # Errors
    /// There is no such function, or the line is not one of its, or there is no code for it.
    pub fn function_line(&self, function: &str, line: u64) -> Result<Vec<LinePlace>, DebugError> {
        self.function_line_by(function, line, &mut |_| true)
    }

    fn function_line_by(
        &self,
        function: &str,
        line: u64,
        is_ordinary: &mut IsOrdinary<'_>,
    ) -> Result<Vec<LinePlace>, DebugError> {
        let query = Query::new(self);
        let functions = query.named(Kind::Function, function)?;
        let mut places = Vec::new();
        let mut found: Vec<LinePlace> = Vec::new();
        let mut trouble = None;
        for &die in &functions {
            let Some((file, first, last)) = self.extent(&query, die)? else { continue };
            if (first..=last).contains(&line) {
                match self.places_of(&query, &file, line, Some(die), is_ordinary) {
                    Ok(places) => found.extend(places),
                    Err(error) => trouble = Some(error),
                }
            }
            places.push((file, first, last));
        }
        found.sort_by_key(|place| place.address);
        found.dedup_by_key(|place| place.address);
        places.sort();
        places.dedup();
        let function = function.to_owned();
        match (found.is_empty(), trouble) {
            (false, _) => Ok(found),
            (true, Some(error)) => Err(error),
            (true, None) if places.is_empty() => {
                Err(self.trouble().cloned().unwrap_or(DebugError::NoFunction { function }))
            }
            (true, None) => Err(DebugError::OutsideFunction { function, line, places }),
        }
    }

    /// [`DebugInfo::line`] or, where `within` is no source file, [`DebugInfo::function_line`].
    ///
    /// # Errors
    /// Those of the two.
    pub fn source_line(&self, within: &str, line: u64) -> Result<Vec<LinePlace>, DebugError> {
        self.source_line_by(within, line, &mut |_| true)
    }

    /// The same, in each function preferably where `is_ordinary` says that a thread gets to without an exception:
    /// compilers put what cleans up after one before the line itself, too.
    pub(in crate::symbols) fn source_line_by(
        &self,
        within: &str,
        line: u64,
        is_ordinary: &mut IsOrdinary<'_>,
    ) -> Result<Vec<LinePlace>, DebugError> {
        let no_file = match self.line_by(within, line, is_ordinary) {
            Ok(places) => return Ok(places),
            Err(error @ (DebugError::NoCode { .. } | DebugError::AmbiguousFile { .. })) => return Err(error),
            Err(error) => error,
        };
        let looks_like_file =
            || within.contains('/') || within.rsplit_once('.').is_some_and(|(_, end)| end.len() < 5);
        match self.function_line_by(within, line, is_ordinary) {
            Err(DebugError::NoFunction { .. }) if looks_like_file() => Err(no_file),
            other => other,
        }
    }

    /// The one file with code that `name` stands for, in full.
    fn source_file(&self, query: &Query<'_>, name: &str) -> Result<String, DebugError> {
        const FEW: usize = 4;
        let wanted = join("", name);
        let last = wanted.rsplit('/').next().unwrap_or_default();
        let mut found: Vec<String> = Vec::new();
        let mut similar: Vec<String> = Vec::new();
        let mut trouble = None;
        for unit in self.units_with_file(query, last, &mut trouble) {
            let lines = match query.lines(unit) {
                Ok(lines) => lines,
                Err(error) => {
                    trouble.get_or_insert(error);
                    continue;
                }
            };
            let mut used = vec![false; lines.files.len()];
            lines.all().for_each(|row| {
                used.iter_mut().skip(row.file as usize).take(1).for_each(|used| *used = true)
            });
            for (file, _) in lines.files.iter().zip(used).filter(|(_, used)| *used) {
                let list = if matches(file, &wanted) { &mut found } else { &mut similar };
                let alike = file.rsplit('/').next() == Some(last);
                if alike && !list.contains(file) {
                    list.push(file.clone());
                }
            }
        }
        if let Some(exact) = found.iter().find(|file| **file == wanted) {
            return Ok(exact.clone());
        }
        found.sort();
        match found.as_slice() {
            [one] => Ok(one.clone()),
            [] => {
                similar.truncate(FEW);
                let missing = DebugError::NoFile { file: name.to_owned(), similar };
                Err(trouble.or_else(|| self.trouble().cloned()).unwrap_or(missing))
            }
            _ => Err(DebugError::AmbiguousFile { file: name.to_owned(), candidates: found }),
        }
    }

    /// The units whose line tables name a file with this last component.
    fn units_with_file<'a>(
        &self,
        query: &Query<'a>,
        last: &str,
        trouble: &mut Option<DebugError>,
    ) -> Vec<usize> {
        let names = |unit: &Unit<'a>| -> bool {
            let Some(program) = &unit.line_program else { return false };
            let is_last = |bytes: Slice<'_>| {
                let bytes = bytes.slice();
                bytes
                    .strip_suffix(last.as_bytes())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with(b"/"))
            };
            let mut files = program.header().file_names().iter();
            let of_unit = unit.name.is_some_and(is_last);
            of_unit
                || files.any(|file| {
                    query.sections_of(unit).attr_string(unit, file.path_name()).is_ok_and(is_last)
                })
        };
        let mut found = Vec::new();
        for index in (0..self.units.len()).filter(|&index| !self.is_type_unit(index)) {
            match query.own_unit(index) {
                Ok(unit) if names(&unit) => found.push(index),
                Ok(_) => query.forget(index),
                Err(error) => {
                    trouble.get_or_insert(error);
                }
            }
        }
        found
    }

    /// One address for each function and inlined copy that has code for the line; if `only` is given, of that function.
    fn places_of(
        &self,
        query: &Query<'_>,
        file: &str,
        line: u64,
        only: Option<Die>,
        is_ordinary: &mut IsOrdinary<'_>,
    ) -> Result<Vec<LinePlace>, DebugError> {
        let last = file.rsplit('/').next().unwrap_or_default();
        let mut trouble = None;
        let mut next: Option<u64> = None;
        // By the unit and the entry of the function or copy.
        let mut found: BTreeMap<(usize, Option<usize>), Vec<Candidate>> = BTreeMap::new();
        for unit in self.units_with_file(query, last, &mut trouble) {
            let Ok(lines) = query.lines(unit) else { continue };
            let same = lines.files.iter().zip(0u32..).filter(|(name, _)| *name == file);
            let numbers: Vec<u32> = same.map(|(_, number)| number).collect();
            let is_meant = |row: &Row| row.statement && numbers.contains(&row.file);
            for row in lines.all().filter(is_meant) {
                query.spend(1)?;
                match u64::from(row.line) {
                    this if this < line => continue,
                    this if this > line => {
                        next = Some(next.map_or(this, |next| next.min(this)));
                        continue;
                    }
                    _ => {}
                }
                let blocks = query.functions_of(unit, row)?;
                let block = blocks.last();
                if let Some(only) = only
                    && !block.is_some_and(|block| query.is_copy_of(block.die, only))
                {
                    continue;
                }
                let in_entry =
                    block.is_some_and(|block| block.ranges.first().is_some_and(|r| r.contains(&row.address)));
                let key = (unit, block.map(|block| block.die.offset));
                let candidate = Candidate { aside: !in_entry, address: row.address, blocks };
                found.entry(key).or_default().push(candidate);
            }
        }
        if found.is_empty() {
            return Err(trouble.unwrap_or(DebugError::NoCode { file: file.to_owned(), line, next }));
        }
        let mut places = Vec::new();
        for Candidate { address, blocks, .. } in
            found.into_values().filter_map(|candidates| best_of(candidates, is_ordinary))
        {
            let mut functions = blocks.iter().rev();
            let mut name = || functions.next().and_then(|block| query.function_name(block.die));
            let (function, inlined_into) = (name(), name());
            places.push(LinePlace { address, file: file.to_owned(), line, function, inlined_into });
        }
        places.sort_by_key(|place| place.address);
        places.dedup_by_key(|place| place.address);
        Ok(places)
    }

    /// The file of a function, its first line and its last.
    fn extent(&self, query: &Query<'_>, function: Die) -> Result<Option<(String, u64, u64)>, DebugError> {
        let copies = query.copies(function)?;
        let mut declared = query.declared(function)?;
        if declared.is_none() {
            let own = copies.iter().find(|(_, block)| block.kind == BlockKind::Function);
            let Some((unit, entry)) =
                own.and_then(|(unit, block)| Some((*unit, block.ranges.first()?.start)))
            else {
                return Ok(None);
            };
            let lines = query.lines(unit)?;
            let row = lines.row_at(entry);
            declared = row.and_then(|row| Some((lines.file(row)?.to_owned(), u64::from(row.line))));
        }
        let Some((file, first)) = declared else { return Ok(None) };
        let mut last = None;
        for (unit, block) in copies {
            let lines = query.lines(unit)?;
            for range in &block.ranges {
                let rows = lines.sequence_at(range.start).iter().filter(|row| range.contains(&row.address));
                for row in rows {
                    query.spend(1)?;
                    if u64::from(row.line) <= last.unwrap_or(first.saturating_sub(1))
                        || lines.file(*row) != Some(file.as_str())
                    {
                        continue;
                    }
                    // What is inlined here may be of the same file.
                    let functions = query.functions_of(unit, *row)?;
                    if functions.last().is_some_and(|of| of.die == block.die) {
                        last = Some(u64::from(row.line));
                    }
                }
            }
        }
        Ok(last.map(|last| (file, first, last)))
    }
}

/// That of the addresses in one function at which the line begins. The part with the entry comes before one that was split
/// off, wherever that lies.
fn best_of(mut candidates: Vec<Candidate>, is_ordinary: &mut IsOrdinary<'_>) -> Option<Candidate> {
    candidates.sort_by_key(|candidate| (candidate.aside, candidate.address));
    candidates.dedup_by_key(|candidate| candidate.address);
    let has_choice = candidates.len() > 1;
    let ordinary = candidates.iter().position(|candidate| has_choice && is_ordinary(candidate.address));
    candidates.into_iter().nth(ordinary.unwrap_or(0))
}

impl Query<'_> {
    /// The file in which a function stands, and its line there.
    fn declared(&self, function: Die) -> Result<Option<(String, u64)>, DebugError> {
        let completed = self.completed(function)?;
        let line = self.attribute(&completed, dw::DW_AT_decl_line).and_then(|(_, value)| value.udata_value());
        let file = match self.attribute(&completed, dw::DW_AT_decl_file) {
            Some((die, AttributeValue::FileIndex(number))) => {
                usize::try_from(number).ok().and_then(|number| self.lines(die.unit).ok()?.files.get(number))
            }
            _ => None,
        };
        Ok(file.cloned().zip(line))
    }

    /// The functions that a row of the line table is of: the one that its line is in, and before it those that this one
    /// was inlined into. Where an inlined copy begins, rows of the one around it may have the same address.
    fn functions_of(&self, unit: usize, row: Row) -> Result<Vec<Rc<Block>>, DebugError> {
        let mut functions = self.blocks_at(unit, row.address)?;
        functions.retain(|block| block.kind != BlockKind::Lexical);
        if functions.len() > 1 {
            let file = self.lines(unit)?.file(row);
            // Of those that begin before the line the nearest.
            let mut nearest: Option<(u64, usize)> = None;
            for (at, block) in functions.iter().enumerate() {
                match self.declared(block.die)? {
                    Some((of, line)) if Some(of.as_str()) == file && line <= u64::from(row.line) => {
                        nearest = nearest.max(Some((line, at)));
                    }
                    _ => {}
                }
            }
            functions.truncate(nearest.map_or(functions.len(), |(_, at)| at + 1));
        }
        Ok(functions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined_and_made_short() {
        for (base, path, expected) in [
            ("/a/b", "c.c", "/a/b/c.c"),
            ("/a/b", "../c.c", "/a/c.c"),
            ("/a/b", "/d/./e.c", "/d/e.c"),
            ("", "a/../b.c", "b.c"),
            ("", "../b.c", "../b.c"),
            ("src", "b.c", "src/b.c"),
            ("/", "../../b.c", "/b.c"),
        ] {
            assert_eq!(join(base, path), expected, "{base} {path}");
        }
    }

    #[test]
    fn a_file_is_meant_by_its_last_components() {
        for (file, name, expected) in [
            ("/a/b/main.c", "main.c", true),
            ("/a/b/main.c", "b/main.c", true),
            ("/a/b/main.c", "/a/b/main.c", true),
            ("/a/b/main.c", "ain.c", false),
            ("/a/b/main.c", "/b/main.c", false),
            ("main.c", "main.c", true),
            ("main.c", "b/main.c", false),
        ] {
            assert_eq!(matches(file, name), expected, "{file} {name}");
        }
    }
}
