//! Functions, and what lies in them: blocks and inlined copies of other functions (DWARF 5, chapter 3).

use std::ops::Range;
use std::rc::Rc;

use gimli::{AttributeValue, constants as dw};

use super::error::DebugError;
use super::info::{DebugInfo, Die, Entry, Query};
use crate::symbols::elf::demangle;

/// The functions of a unit that have code: each range of addresses with the entry, in the order of their starts.
#[derive(Debug)]
pub(super) struct Functions(Vec<(Range<u64>, usize)>);

impl Functions {
    fn read(query: &Query<'_>, index: usize) -> Result<Functions, DebugError> {
        let unit = query.unit(index)?;
        let mut found = Vec::new();
        let root = Die { unit: index, offset: unit.header.root_offset().0 };
        query.descend(root, |die, entry, _| {
            if entry.tag == dw::DW_TAG_subprogram {
                let ranges = query.ranges(&unit, die, entry)?;
                let code = ranges.into_iter().filter(|range| query.info.is_code(range.start));
                found.extend(code.map(|range| (range, die.offset)));
            }
            // A function may lie within another, in a block of it, or in a type.
            Ok(!matches!(entry.tag, dw::DW_TAG_enumeration_type | dw::DW_TAG_subroutine_type))
        })?;
        found.sort_by_key(|(range, offset)| (range.start, *offset));
        Ok(Functions(found))
    }

    /// The entry of the function whose code holds an address.
    fn at(&self, address: u64) -> Option<usize> {
        /// Few functions lie within another.
        const NESTED: usize = 16;
        let after = self.0.partition_point(|(range, _)| range.start <= address);
        let candidates = self.0.get(after.saturating_sub(NESTED)..after)?;
        candidates.iter().rev().find(|(range, _)| range.contains(&address)).map(|&(_, offset)| offset)
    }
}

/// What a [`Block`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BlockKind {
    /// The function itself (DW_TAG_subprogram).
    Function,
    /// Another function's code (DW_TAG_inlined_subroutine).
    Inlined,
    /// A block with variables of its own (DW_TAG_lexical_block).
    Lexical,
}

/// A stretch of a function's code.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) die: Die,
    pub(super) kind: BlockKind,
    depth: isize,
    pub(super) ranges: Vec<Range<u64>>,
}

impl Block {
    pub(super) fn contains(&self, address: u64) -> bool {
        self.ranges.iter().any(|range| range.contains(&address))
    }
}

impl<'a> Query<'a> {
    /// The entry of the function whose code holds an address.
    pub(super) fn function_at(&self, unit: usize, address: u64) -> Result<Option<Die>, DebugError> {
        let entry = self.info.unit(unit);
        let entry = entry.ok_or_else(|| self.at(Die { unit, offset: 0 }, "there is no such unit"))?;
        let functions = entry.functions.get_or_init(|| Functions::read(self, unit));
        let functions = functions.as_ref().map_err(Clone::clone)?;
        Ok(functions.at(address).map(|offset| Die { unit, offset }))
    }

    /// The function at an address and the blocks in it that hold it, from the outermost; none where no function is known.
    pub(super) fn blocks_at(&self, unit: usize, address: u64) -> Result<Vec<Rc<Block>>, DebugError> {
        let Some(function) = self.function_at(unit, address)? else { return Ok(Vec::new()) };
        let all = self.blocks(function)?;
        let mut chain: Vec<Rc<Block>> = Vec::new();
        for block in all.iter().filter(|block| block.contains(address)) {
            while chain.last().is_some_and(|last| last.depth >= block.depth) {
                chain.pop();
            }
            chain.push(Rc::clone(block));
        }
        self.spend(all.len() as u64)?;
        Ok(chain)
    }

    /// A function and all blocks in it, each before those in it.
    fn blocks(&self, function: Die) -> Result<Rc<Vec<Rc<Block>>>, DebugError> {
        if let Some(blocks) = self.known_blocks(function) {
            return Ok(blocks);
        }
        let (unit, entry) = self.entry(function)?;
        let ranges = self.ranges(&unit, function, &entry)?;
        let mut blocks = vec![Rc::new(Block { die: function, kind: BlockKind::Function, depth: 0, ranges })];
        self.descend(function, |die, entry, depth| {
            let kind = match entry.tag {
                dw::DW_TAG_inlined_subroutine => BlockKind::Inlined,
                dw::DW_TAG_lexical_block => BlockKind::Lexical,
                tag => return Ok(matches!(tag, dw::DW_TAG_try_block | dw::DW_TAG_catch_block)),
            };
            let ranges = self.ranges(&unit, die, entry)?;
            blocks.push(Rc::new(Block { die, kind, depth, ranges }));
            Ok(true)
        })?;
        let blocks = Rc::new(blocks);
        self.keep_blocks(function, &blocks);
        Ok(blocks)
    }

    /// The last of those that an entry completes, which all copies of a function have in common.
    pub(super) fn origin(&self, die: Die) -> Result<Die, DebugError> {
        Ok(self.completed(die)?.last().map_or(die, |(die, _)| *die))
    }

    /// Whether both are of one function.
    pub(super) fn is_copy_of(&self, one: Die, other: Die) -> bool {
        one == other || matches!((self.origin(one), self.origin(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// A function and every copy of it that has code, each with its unit.
    pub(super) fn copies(&self, function: Die) -> Result<Vec<(usize, Block)>, DebugError> {
        let origin = self.origin(function)?;
        let mut all = vec![origin];
        let names = self.names();
        let mut at = 0;
        while let Some(&die) = all.get(at) {
            let completing = names.completing(die).filter(|die| !all.contains(die)).collect::<Vec<_>>();
            self.spend(completing.len() as u64 + all.len() as u64)?;
            all.extend(completing);
            at += 1;
        }
        let mut copies = Vec::new();
        for die in all {
            let (unit, entry) = self.entry(die)?;
            let kind = match entry.tag {
                dw::DW_TAG_subprogram => BlockKind::Function,
                dw::DW_TAG_inlined_subroutine => BlockKind::Inlined,
                _ => continue,
            };
            let mut ranges = self.ranges(&unit, die, &entry)?;
            ranges.retain(|range| self.info.is_code(range.start));
            if !ranges.is_empty() {
                copies.push((die.unit, Block { die, kind, depth: 0, ranges }));
            }
        }
        Ok(copies)
    }

    /// The name of a function as its author wrote it, as far as that is known.
    pub(super) fn function_name(&self, function: Die) -> Option<String> {
        let completed = self.completed(function).ok()?;
        self.name_of(&completed)
    }

    /// The name of what is completed so, as its author wrote it: with what it is defined in, where that is known.
    pub(super) fn name_of(&self, completed: &[(Die, Entry<'a>)]) -> Option<String> {
        match self.linkage_name(completed) {
            Some(linked) => Some(demangle(&linked).into_owned()),
            None => self.plain_name(completed),
        }
    }

    pub(super) fn plain_name(&self, completed: &[(Die, Entry<'a>)]) -> Option<String> {
        completed.iter().find_map(|(die, entry)| {
            let unit = self.unit(die.unit).ok()?;
            let value = entry.attr(dw::DW_AT_name)?.value();
            self.text(&unit, value)
        })
    }

    pub(super) fn linkage_name(&self, completed: &[(Die, Entry<'a>)]) -> Option<String> {
        completed.iter().find_map(|(die, entry)| {
            let unit = self.unit(die.unit).ok()?;
            let value =
                entry.attr(dw::DW_AT_linkage_name).or_else(|| entry.attr(dw::DW_AT_MIPS_linkage_name))?;
            self.text(&unit, value.value())
        })
    }
}

/// One of the functions at an address: that which was called last, or one that it was inlined into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The function, as its author wrote it.
    pub function: Option<String>,
    /// Whether it was inlined into the next.
    pub inlined: bool,
    /// The source file, in full.
    pub file: Option<String>,
    /// The line, or that of the call of the one before; `None` where the compiler names none.
    pub line: Option<u64>,
}

impl DebugInfo {
    /// The functions at virtual address `address`, the innermost inlined one first; none where nothing is known of it.
    ///
    /// # Errors
    /// What would tell is corrupt.
    pub fn frames(&self, address: u64) -> Result<Vec<Frame>, DebugError> {
        let query = Query::new(self);
        let mut trouble = None;
        for unit in self.units_at(address) {
            match query.frames(unit, address) {
                Ok(frames) if frames.is_empty() => {}
                Ok(frames) => return Ok(frames),
                Err(error) => trouble = Some(error),
            }
        }
        trouble.map_or(Ok(Vec::new()), Err)
    }
}

impl<'a> Query<'a> {
    fn frames(&self, unit: usize, address: u64) -> Result<Vec<Frame>, DebugError> {
        let lines = self.lines(unit)?;
        let row = lines.row_at(address);
        let mut file = row.and_then(|row| lines.file(row)).map(str::to_owned);
        let mut line = row.map(|row| u64::from(row.line)).filter(|line| *line != 0);
        let blocks = match self.blocks_at(unit, address) {
            // Lines are not split off.
            Err(DebugError::Split { .. }) => Vec::new(),
            blocks => blocks?,
        };
        let mut frames = Vec::new();
        for block in blocks.iter().rev().filter(|block| block.kind != BlockKind::Lexical) {
            let inlined = block.kind == BlockKind::Inlined;
            frames.push(Frame { function: self.function_name(block.die), inlined, file, line });
            let (_, entry) = self.entry(block.die)?;
            file = match entry.attr_value(dw::DW_AT_call_file) {
                Some(AttributeValue::FileIndex(number)) => {
                    usize::try_from(number).ok().and_then(|number| lines.files.get(number)).cloned()
                }
                _ => None,
            };
            line = entry.attr_value(dw::DW_AT_call_line).and_then(|value| value.udata_value());
        }
        if frames.is_empty() && file.is_some() {
            frames.push(Frame { function: None, inlined: false, file, line });
        }
        Ok(frames)
    }
}
