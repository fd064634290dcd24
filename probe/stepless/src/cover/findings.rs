//! What was found, by source file, line and function: of one run or of several.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use probe::coverage::{Coverage, CoveredSite, Level, ObjectCoverage, SourceLine};

use super::{document, lcov};
use crate::{Failure, input};

/// How often something was reached; `None` where that could not be found out.
pub(super) type Hits = Option<u64>;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Of the runs that were merged, all are of this one. `None` before there is any.
    pub(super) level: Option<Level>,
    /// Whether it was counted how often, rather than whether, everything was reached.
    pub(super) counted: bool,
    pub(super) files: BTreeMap<String, FileFindings>,
    /// By path, as it is printed and read again. Of blocks and instructions only.
    pub(super) objects: BTreeMap<String, ObjectFindings>,
    /// Why sites could not be probed, by object.
    pub(super) refused: Vec<RefusedSite>,
}

#[derive(Debug)]
pub(super) struct RefusedSite {
    pub(super) object: String,
    pub(super) address: u64,
    pub(super) reason: String,
}

/// Of a source file.
#[derive(Debug, Default)]
pub(super) struct FileFindings {
    pub(super) lines: BTreeMap<u32, Hits>,
    /// By their first lines and names.
    pub(super) functions: BTreeMap<(u32, String), FunctionFindings>,
}

/// Of a function.
#[derive(Debug, Default)]
pub(super) struct FunctionFindings {
    pub(super) hits: Hits,
    pub(super) lines: BTreeMap<u32, Hits>,
}

/// Of an object.
#[derive(Debug, Default)]
pub(super) struct ObjectFindings {
    /// By virtual address.
    pub(super) functions: BTreeMap<u64, Blocks>,
}

/// The blocks, or instructions, of a function.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    pub(super) name: String,
    pub(super) file: Option<String>,
    pub(super) unresolved: u32,
    pub(super) unreached: u64,
    /// By virtual address: the length in bytes, and how often.
    pub(super) sites: BTreeMap<u64, (u32, Hits)>,
}

/// How many there are, and how many of them were reached. What could not be found out counts as neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) total: u64,
    pub(super) covered: u64,
}

impl Share {
    pub(super) fn of(hits: impl Iterator<Item = Hits>) -> Share {
        let mut share = Share::default();
        for hits in hits.flatten() {
            share.total += 1;
            share.covered += u64::from(hits > 0);
        }
        share
    }

    pub(super) fn add(self, other: Share) -> Share {
        Share { total: self.total + other.total, covered: self.covered + other.covered }
    }
}

/// Adds what another run has found.
pub(super) fn add(known: &mut Hits, other: Hits) {
    *known = match (*known, other) {
        (Some(known), Some(other)) => Some(known.saturating_add(other)),
        (known, other) => known.or(other),
    };
}

impl Findings {
    pub(super) fn of(coverage: &Coverage, level: Level, counted: bool) -> Findings {
        let mut findings = Findings { level: Some(level), counted, ..Findings::default() };
        for object in &coverage.objects {
            findings.take_lines(object);
            if level != Level::Line {
                findings.take_sites(object);
            }
            for site in &object.sites {
                if let Some(reason) = site.refused.and_then(|reason| object.reasons.get(reason as usize)) {
                    let (object, reason) = (called(object), reason.clone());
                    findings.refused.push(RefusedSite { object, address: site.address, reason });
                }
            }
        }
        findings.saturate();
        findings
    }

    fn take_lines(&mut self, object: &ObjectCoverage) {
        for ((file, line), hits) in object.line_hits() {
            let lines = &mut self.files.entry(file.to_owned()).or_default().lines;
            add(lines.entry(line).or_default(), hits);
        }
        // The lines of each function, of which one copy counts.
        let mut of_functions: HashMap<u32, BTreeMap<u32, Hits>> = HashMap::new();
        for &SourceLine { file, line, site } in &object.lines {
            let Some(site) = object.sites.get(site as usize) else { continue };
            let function = site.function.filter(|&function| {
                object.functions.get(function as usize).is_some_and(|function| function.file == Some(file))
            });
            let Some(function) = function else { continue };
            let known = of_functions.entry(function).or_default().entry(line).or_default();
            *known = (*known).max(hits_of(site));
        }
        for ((function, hits), number) in object.functions.iter().zip(object.function_hits()).zip(0u32..) {
            let file = function.file.and_then(|file| object.files.get(file as usize));
            let Some(file) = file else { continue };
            let file = self.files.entry(file.clone()).or_default();
            let known = file.functions.entry((function.line, function.name.clone())).or_default();
            add(&mut known.hits, hits);
            for (line, hits) in of_functions.remove(&number).unwrap_or_default() {
                add(known.lines.entry(line).or_default(), hits);
            }
        }
    }

    fn take_sites(&mut self, object: &ObjectCoverage) {
        let found = self.objects.entry(called(object)).or_default();
        for site in &object.sites {
            let function = site.function.and_then(|function| object.functions.get(function as usize));
            let Some(function) = function else { continue };
            let blocks = found.functions.entry(function.address).or_insert_with(|| Blocks {
                name: function.name.clone(),
                file: function.file.and_then(|file| object.files.get(file as usize).cloned()),
                unresolved: function.unresolved,
                unreached: function.unreached,
                sites: BTreeMap::new(),
            });
            let known = blocks.sites.entry(site.address).or_insert((site.length, None));
            add(&mut known.1, hits_of(site));
        }
    }

    /// Adds what another run has found.
    pub(super) fn merge(&mut self, other: Findings) -> Result<(), Failure> {
        let Some(level) = self.level else {
            *self = other;
            return Ok(());
        };
        if other.level.is_some_and(|other| other != level) {
            return Err(Failure::new("runs of different levels cannot be merged"));
        }
        self.counted &= other.counted;
        for (name, file) in other.files {
            let known = self.files.entry(name).or_default();
            for (line, hits) in file.lines {
                add(known.lines.entry(line).or_default(), hits);
            }
            for (key, function) in file.functions {
                let known = known.functions.entry(key).or_default();
                add(&mut known.hits, function.hits);
                for (line, hits) in function.lines {
                    add(known.lines.entry(line).or_default(), hits);
                }
            }
        }
        for (path, object) in other.objects {
            let known = self.objects.entry(path).or_default();
            for (address, function) in object.functions {
                let Blocks { name, file, unresolved, unreached, sites } = function;
                let known = known.functions.entry(address).or_insert_with(|| Blocks {
                    name,
                    file,
                    unresolved,
                    unreached,
                    sites: BTreeMap::new(),
                });
                for (address, (length, hits)) in sites {
                    add(&mut known.sites.entry(address).or_insert((length, None)).1, hits);
                }
            }
        }
        for refused in other.refused {
            let is_known =
                |known: &RefusedSite| known.object == refused.object && known.address == refused.address;
            if !self.refused.iter().any(is_known) {
                self.refused.push(refused);
            }
        }
        self.saturate();
        Ok(())
    }

    /// Where it was not counted how often, anything else than whether says nothing.
    fn saturate(&mut self) {
        if self.counted {
            return;
        }
        let all = |hits: &mut Hits| *hits = hits.map(|hits| hits.min(1));
        for file in self.files.values_mut() {
            file.lines.values_mut().for_each(all);
            for function in file.functions.values_mut() {
                all(&mut function.hits);
                function.lines.values_mut().for_each(all);
            }
        }
        for object in self.objects.values_mut() {
            for function in object.functions.values_mut() {
                function.sites.values_mut().for_each(|(_, hits)| all(hits));
            }
        }
    }

    /// How many lines there are.
    pub(super) fn lines(&self) -> Share {
        let shares = self.files.values().map(FileFindings::share);
        shares.fold(Share::default(), Share::add)
    }

    /// How many functions there are.
    pub(super) fn functions(&self) -> Share {
        let shares = self.files.values().map(FileFindings::functions_share);
        shares.fold(Share::default(), Share::add)
    }

    /// How many blocks or instructions there are.
    pub(super) fn sites(&self) -> Share {
        let functions = self.objects.values().flat_map(|object| object.functions.values());
        functions.map(Blocks::share).fold(Share::default(), Share::add)
    }
}

impl FileFindings {
    pub(super) fn share(&self) -> Share {
        Share::of(self.lines.values().copied())
    }

    pub(super) fn functions_share(&self) -> Share {
        Share::of(self.functions.values().map(|function| function.hits))
    }
}

impl Blocks {
    pub(super) fn share(&self) -> Share {
        Share::of(self.sites.values().map(|&(_, hits)| hits))
    }
}

fn hits_of(site: &CoveredSite) -> Hits {
    site.refused.is_none().then_some(site.hits)
}

/// What an object is called.
fn called(object: &ObjectCoverage) -> String {
    object.path.to_string_lossy().into_owned()
}

/// What an earlier run has written.
pub(super) fn read(path: &Path) -> Result<Findings, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let text = input::read(path).map_err(|error| named(error.to_string()))?;
    let is_json = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    if is_json { document::read(&text) } else { lcov::read(&String::from_utf8_lossy(&text)) }.map_err(named)
}
