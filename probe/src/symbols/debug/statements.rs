//! Where the statements of source files begin in the code (DWARF 5, section 6.2).

use std::collections::{BTreeSet, HashMap};

use super::error::DebugError;
use super::info::{DebugInfo, Query};
use super::lines::{self, Lines, Row};

/// Where a line has code. Several statements may begin at one address, where the code of all but one was optimized away or
/// into that of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Statement {
    /// The virtual address, before relocation.
    pub(crate) address: u64,
    /// The source file, if it is wanted: its place among those.
    pub(crate) file: Option<u32>,
    pub(crate) line: u32,
    /// Whether a statement begins there.
    pub(crate) begins: bool,
}

/// The lines of those units that have any from a wanted file.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    /// The names of the wanted files, in full.
    pub(crate) files: Vec<String>,
    /// In the order of their addresses.
    pub(crate) all: Vec<Statement>,
    /// Files that are not wanted, and that some unit names.
    pub(crate) unwanted: BTreeSet<String>,
    /// What could not be read.
    pub(crate) trouble: Option<DebugError>,
}

impl Statements {
    /// What the code at `address` belongs to.
    pub(crate) fn at(&self, address: u64) -> Option<Statement> {
        let after = self.all.partition_point(|statement| statement.address <= address);
        self.all.get(after.checked_sub(1)?).copied()
    }

    /// Those from `start` on, and before `end`.
    pub(crate) fn within(&self, start: u64, end: u64) -> &[Statement] {
        let first = self.all.partition_point(|statement| statement.address < start);
        let last = self.all.partition_point(|statement| statement.address < end);
        self.all.get(first..last).unwrap_or_default()
    }
}

impl DebugInfo {
    /// Where the statements of all files begin for which `wanted` says so. What is corrupt is passed over, and told.
    pub(crate) fn statements(&self, wanted: impl Fn(&str) -> bool) -> Statements {
        let mut found = Statements { trouble: self.trouble().cloned(), ..Statements::default() };
        let query = Query::new(self);
        let mut numbers: HashMap<String, Option<u32>> = HashMap::new();
        for unit in (0..self.units.len()).filter(|&unit| !self.is_type_unit(unit)) {
            if let Err(error) = query.statements(unit, &wanted, &mut numbers, &mut found) {
                found.trouble.get_or_insert(error);
            }
            query.forget(unit);
        }
        found.all.sort_unstable();
        found.all.dedup();
        found
    }
}

impl Query<'_> {
    fn statements(
        &self,
        index: usize,
        wanted: &impl Fn(&str) -> bool,
        numbers: &mut HashMap<String, Option<u32>>,
        found: &mut Statements,
    ) -> Result<(), DebugError> {
        let unit = self.own_unit(index)?;
        let Some(program) = &unit.line_program else { return Ok(()) };
        let names = lines::files(self, &unit, program.header());
        let mut number = |name: String| match numbers.get(&name) {
            Some(&known) => known,
            None => {
                let number = (!name.is_empty() && wanted(&name)).then(|| {
                    found.files.push(name.clone());
                    (found.files.len() - 1) as u32
                });
                if number.is_none() && !name.is_empty() {
                    found.unwanted.insert(name.clone());
                }
                numbers.insert(name, number);
                number
            }
        };
        let files: Vec<Option<u32>> = names.into_iter().map(&mut number).collect();
        if files.iter().all(Option::is_none) {
            return Ok(());
        }
        // Not kept: those of all units together may be many.
        let lines = Lines::read(self, index)?;
        let statement = |Row { address, file, line, statement, .. }| Statement {
            address,
            file: files.get(file as usize).copied().flatten().filter(|_| line != 0),
            line,
            begins: statement,
        };
        found.all.extend(lines.all().map(statement));
        Ok(())
    }
}
