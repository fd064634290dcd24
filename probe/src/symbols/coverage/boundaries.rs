//! Whether an instruction begins where debug information says that a line does: a breakpoint elsewhere would change an
//! instruction into another one.

use std::ops::Range;

use crate::symbols::code;
use crate::symbols::elf::Elf;

/// Functions, by symbols or by unwind tables.
#[derive(Debug)]
pub(super) struct Extents<'elf> {
    elf: &'elf Elf,
    /// In the order of their starts.
    all: Vec<Extent<'elf>>,
}

/// A function.
#[derive(Clone, Debug)]
pub(super) struct Extent<'elf> {
    pub(super) range: Range<u64>,
    /// What a linker calls it.
    pub(super) name: Option<&'elf str>,
}

/// Functions begin or end within so few others.
const NESTED: usize = 16;

impl<'elf> Extents<'elf> {
    pub(super) fn of(elf: &'elf Elf) -> Extents<'elf> {
        let mut all: Vec<Extent<'elf>> = Vec::new();
        for function in elf.functions().iter().filter(|function| function.size > 0) {
            let range = function.address..function.address.saturating_add(function.size);
            all.push(Extent { range, name: Some(function.name()) });
        }
        let known = all.len();
        for range in elf.unwound() {
            let after = elf.functions().partition_point(|function| function.address <= range.start);
            let function = elf.functions().get(..after).and_then(<[_]>::last);
            // The table of calls by way of others (.plt) is none.
            let is_function = elf.code().iter().any(|code| {
                (code.address..code.address.saturating_add(code.size)).contains(&range.start)
                    && !code.name.starts_with(".plt")
            });
            let is_known = function.is_some_and(|function| {
                range.start < function.address.saturating_add(function.size) && function.size > 0
            });
            if !is_known && is_function && range.start < range.end {
                all.push(Extent { range: range.clone(), name: None });
            }
        }
        if all.len() > known {
            all.sort_by_key(|extent| extent.range.start);
        }
        Extents { elf, all }
    }

    pub(super) fn all(&self) -> &[Extent<'elf>] {
        &self.all
    }

    /// The function whose code holds an address: of several the one that begins last.
    pub(super) fn at(&self, address: u64) -> Option<usize> {
        self.holding(address).last()
    }

    /// All that hold it.
    fn holding(&self, address: u64) -> impl Iterator<Item = usize> {
        let after = self.all.partition_point(|extent| extent.range.start <= address);
        let first = after.saturating_sub(NESTED);
        (first..after)
            .filter(move |&index| self.all.get(index).is_some_and(|extent| extent.range.contains(&address)))
    }
}

/// Why no instruction is known to begin at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    NoFunction,
    Inside,
    Overlapping,
}

impl Wrong {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Wrong::NoFunction => "the debug information names an address at which no function is",
            Wrong::Inside => "the debug information names an address inside of an instruction",
            Wrong::Overlapping => {
                "functions overlap here, and their instructions begin at different addresses"
            }
        }
    }
}

/// Looks at addresses in their order.
#[derive(Debug)]
pub(super) struct Boundaries<'a, 'elf> {
    extents: &'a Extents<'elf>,
    /// Where the instructions of those functions begin that were met last.
    starts: Vec<(usize, Vec<u64>)>,
}

impl<'a, 'elf> Boundaries<'a, 'elf> {
    pub(super) fn new(extents: &'a Extents<'elf>) -> Boundaries<'a, 'elf> {
        Boundaries { extents, starts: Vec::new() }
    }

    /// Whether an instruction begins at `address`, which is not less than the one before, in every function that holds it.
    pub(super) fn check(&mut self, address: u64) -> Result<(), Wrong> {
        let Boundaries { extents, starts } = self;
        let is_over =
            |index: &usize| extents.all.get(*index).is_none_or(|extent| extent.range.end <= address);
        starts.retain(|(index, _)| !is_over(index));
        let (mut yes, mut no) = (false, false);
        for index in extents.holding(address) {
            let Some(extent) = extents.all.get(index) else { continue };
            let at = starts.iter().position(|(known, _)| *known == index).unwrap_or_else(|| {
                starts.push((index, code::starts_in(extents.elf, extent.range.clone()).collect()));
                starts.len() - 1
            });
            let begins = starts.get(at).is_some_and(|(_, starts)| starts.binary_search(&address).is_ok());
            *if begins { &mut yes } else { &mut no } = true;
        }
        match (yes, no) {
            (true, false) => Ok(()),
            (false, false) => Err(Wrong::NoFunction),
            (false, true) => Err(Wrong::Inside),
            (true, true) => Err(Wrong::Overlapping),
        }
    }
}
