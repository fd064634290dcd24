//! What there is to be covered in an object.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::boundaries::{Boundaries, Extents};
use super::{CoveredFunction, CoveredSite, Level, ObjectCoverage, Plan, SourceLine, flow, landing};
use crate::symbols::debug::{DebugError, Statement, Statements};
use crate::symbols::elf::{Elf, demangle};

/// What there is to be covered in `elf`, which nothing of has been reached yet.
pub(crate) fn coverable(elf: &Elf, path: &Path, plan: &Plan) -> ObjectCoverage {
    let mut making = Making::new(elf, path);
    let statements = match elf.debug_info() {
        Ok(info) => info.statements(|file| plan.wants_source(file)),
        // It is needed for lines alone.
        Err(DebugError::Missing { .. }) if plan.get_level() != Level::Line => Statements::default(),
        Err(error) => {
            making.made.trouble = Some(error.to_string());
            Statements::default()
        }
    };
    if let Some(trouble) = &statements.trouble {
        making.made.trouble = Some(trouble.to_string());
    }
    making.made.left_out = by_directory(&statements);
    match plan.get_level() {
        Level::Line => making.lines(&statements),
        level => making.flow(&statements, level),
    }
    making.finish(statements)
}

/// How many files of each directory are not wanted.
fn by_directory(statements: &Statements) -> Vec<(String, u64)> {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for file in &statements.unwanted {
        let directory = file.rsplit_once('/').map_or("", |(directory, _)| directory);
        *counts.entry(directory).or_default() += 1;
    }
    counts.into_iter().map(|(directory, count)| (directory.to_owned(), count)).collect()
}

struct Making<'elf> {
    elf: &'elf Elf,
    extents: Extents<'elf>,
    /// By their places among the extents: functions that are told of.
    functions: HashMap<usize, u32>,
    by_name: HashMap<&'elf str, usize>,
    made: ObjectCoverage,
}

impl<'elf> Making<'elf> {
    fn new(elf: &'elf Elf, path: &Path) -> Making<'elf> {
        let extents = Extents::of(elf);
        let named = extents.all().iter().enumerate();
        let by_name = named.filter_map(|(index, extent)| Some((extent.name?, index))).collect();
        let made = ObjectCoverage {
            path: path.to_owned(),
            files: Vec::new(),
            functions: Vec::new(),
            sites: Vec::new(),
            lines: Vec::new(),
            reasons: Vec::new(),
            left_out: Vec::new(),
            trouble: None,
        };
        Making { elf, extents, functions: HashMap::new(), by_name, made }
    }

    /// A site for each place where a statement of a wanted file begins.
    fn lines(&mut self, statements: &Statements) {
        let wanted: Vec<Statement> =
            statements.all.iter().copied().filter(|all| all.begins && all.file.is_some()).collect();
        let mut wrong = Vec::new();
        {
            let mut boundaries = Boundaries::new(&self.extents);
            for same in wanted.chunk_by(|one, next| one.address == next.address) {
                let address = same.first().map_or(0, |statement| statement.address);
                wrong.push(boundaries.check(address).err());
            }
        }
        for (same, wrong) in wanted.chunk_by(|one, next| one.address == next.address).zip(wrong) {
            let address = same.first().map_or(0, |statement| statement.address);
            let function = self.extents.at(address).map(|at| self.function(at, statements));
            let refused = wrong.map(|wrong| self.reason(wrong.reason()));
            let site = self.site(CoveredSite { address, length: 0, function, hits: 0, refused });
            for statement in same {
                self.line(statement, site);
            }
        }
    }

    /// A site for each block, or instruction, of the functions that have to do with wanted files; of all where there is no
    /// debug information.
    fn flow(&mut self, statements: &Statements, level: Level) {
        let blind = statements.all.is_empty() && statements.unwanted.is_empty();
        let has_wanted = |index: usize| {
            let Some(extent) = self.extents.all().get(index) else { return false };
            let within = statements.within(extent.range.start, extent.range.end);
            blind || within.iter().any(|statement| statement.file.is_some())
        };
        let wanted: Vec<bool> = (0..self.extents.all().len()).map(has_wanted).collect();
        let is_wanted = |index: usize| wanted.get(index).copied().unwrap_or(false);
        let pads = landing::pads(self.elf);
        let flows = flow::walk(self.elf, &self.extents, is_wanted, &pads);
        let mut sites: Vec<(u64, u64, usize)> = Vec::new();
        for (index, flow) in flows {
            let Some(extent) = self.extents.all().get(index) else { continue };
            // Of a function that only has a piece of a wanted file in it, that piece counts.
            let own = blind || statements.at(extent.range.start).is_some_and(|entry| entry.file.is_some());
            let counts = |&(start, end): &(u64, u64)| {
                own || statements.within(start, end).iter().any(|statement| statement.file.is_some())
            };
            let ranges: Vec<(u64, u64)> = match level {
                Level::Instruction => {
                    let ends = flow.starts.iter().skip(1).copied().chain([extent.range.end]);
                    flow.starts.iter().copied().zip(ends).collect()
                }
                _ => flow.blocks.iter().map(|block| (block.start, block.end)).collect(),
            };
            let at = self.function(index, statements);
            if let Some(function) = self.made.functions.get_mut(at as usize) {
                function.unresolved += flow.unresolved;
                function.unreached += flow.unreached;
            }
            sites
                .extend(ranges.iter().filter(|range| counts(range)).map(|&(start, end)| (start, end, index)));
        }
        sites.sort_unstable();
        // Of functions that overlap each block counts once.
        sites.dedup_by_key(|&mut (start, ..)| start);
        let mut boundaries = Vec::new();
        {
            let mut check = Boundaries::new(&self.extents);
            boundaries.extend(sites.iter().map(|&(start, ..)| check.check(start).err()));
        }
        for ((start, end, index), wrong) in sites.into_iter().zip(boundaries) {
            let function = Some(self.function(index, statements));
            let refused = wrong.map(|wrong| self.reason(wrong.reason()));
            let length = u32::try_from(end - start).unwrap_or(u32::MAX);
            let site = self.site(CoveredSite { address: start, length, function, hits: 0, refused });
            for statement in statements.within(start, end).iter().filter(|statement| statement.begins) {
                self.line(statement, site);
            }
        }
    }

    fn site(&mut self, site: CoveredSite) -> u32 {
        self.made.sites.push(site);
        (self.made.sites.len() - 1) as u32
    }

    fn line(&mut self, statement: &Statement, site: u32) {
        if let Some(file) = statement.file {
            self.made.lines.push(SourceLine { file, line: statement.line, site });
        }
    }

    fn reason(&mut self, reason: &str) -> u32 {
        let reasons = &mut self.made.reasons;
        let known = reasons.iter().position(|known| known == reason);
        known.unwrap_or_else(|| {
            reasons.push(reason.to_owned());
            reasons.len() - 1
        }) as u32
    }

    /// The function at that place among the extents: a part that was split off belongs to the whole.
    fn function(&mut self, index: usize, statements: &Statements) -> u32 {
        if let Some(&known) = self.functions.get(&index) {
            return known;
        }
        let Some(extent) = self.extents.all().get(index).cloned() else { return u32::MAX };
        let whole = extent.name.and_then(|name| self.by_name.get(whole_of(name)?).copied());
        let number = match whole {
            Some(whole) if whole != index => self.function(whole, statements),
            _ => {
                let start = extent.range.start;
                let entry = statements.within(start, extent.range.end).first();
                let name =
                    extent.name.map_or_else(|| format!("{start:#x}"), |name| demangle(name).into_owned());
                self.made.functions.push(CoveredFunction {
                    name,
                    address: start,
                    size: extent.range.end - start,
                    file: entry.and_then(|entry| entry.file),
                    line: entry.filter(|entry| entry.file.is_some()).map_or(0, |entry| entry.line),
                    unresolved: 0,
                    unreached: 0,
                });
                (self.made.functions.len() - 1) as u32
            }
        };
        self.functions.insert(index, number);
        number
    }

    fn finish(mut self, statements: Statements) -> ObjectCoverage {
        self.made.files = statements.files;
        self.made.lines.sort_unstable();
        self.made.lines.dedup();
        self.made
    }
}

/// The name of the function of which that one is a part that was split off (GCC's and LLVM's `.cold`).
fn whole_of(name: &str) -> Option<&str> {
    let at = name.find(".cold")?;
    let rest = name.get(at + ".cold".len()..)?;
    let is_part = rest
        .strip_prefix('.')
        .map_or(rest.is_empty(), |rest| !rest.is_empty() && rest.bytes().all(|digit| digit.is_ascii_digit()));
    if is_part { name.get(..at) } else { None }
}
