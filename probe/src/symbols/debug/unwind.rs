//! Where a function's frame is, and its caller's registers, by the unwind tables (DWARF 5, section 6.4).

use std::ops::Range;
use std::sync::Arc;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, DebugFrame, EhFrame, Encoding, Expression, Format, LittleEndian,
    RegisterRule, SectionId, UnwindContext, UnwindSection,
};

use super::error::DebugError;
use super::info::{DebugInfo, Query};
use super::sections::{Sections, Slice};

/// What an entry of an unwind table is of, and where it stands in which.
pub(crate) type Unwound = (Range<u64>, SectionId, usize);

/// How the canonical frame address is computed.
pub(super) enum Cfa<'a> {
    /// From a register, by its DWARF number, and an offset.
    Register(u16, i64),
    Computed(Expression<Slice<'a>>, Encoding),
}

/// Where a register of the caller is, as far as that takes no expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// It is not known.
    Nowhere,
    /// In memory, so far from the canonical frame address.
    At(i64),
    /// It is that address, and so much.
    Is(i64),
    /// In another register.
    Register(u16),
    Constant(u64),
}

/// What holds at an address.
pub(super) struct Row<'a> {
    pub(super) cfa: Cfa<'a>,
    /// By DWARF's numbers; others are as they were, or not known.
    pub(super) saved: Vec<(u16, Saved)>,
    /// The one that becomes the address of the next instruction.
    pub(super) returns: u16,
}

fn entries<'a, S>(id: SectionId, table: &S, bases: &BaseAddresses, found: &mut Vec<Unwound>)
where
    S: UnwindSection<Slice<'a>>,
    S::Offset: gimli::UnwindOffset<usize>,
{
    let mut entries = table.entries(bases);
    // What comes behind something that makes no sense makes none, either.
    while let Ok(Some(entry)) = entries.next() {
        let CieOrFde::Fde(entry) = entry else { continue };
        if let Ok(entry) = entry.parse(S::cie_from_offset) {
            let start = entry.initial_address();
            found.push((start..start.saturating_add(entry.len()), id, entry.offset()));
        }
    }
}

fn row<'a, S>(table: &S, bases: &BaseAddresses, offset: S::Offset, address: u64) -> gimli::Result<Row<'a>>
where
    S: UnwindSection<Slice<'a>>,
{
    let entry = table.fde_from_offset(bases, offset, S::cie_from_offset)?;
    let mut context = UnwindContext::new();
    let row = entry.unwind_info_for_address(table, bases, &mut context, address)?;
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Cfa::Register(register.0, *offset),
        CfaRule::Expression(expression) => {
            let encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 5 };
            Cfa::Computed(expression.get(table)?, encoding)
        }
    };
    let saved = row.registers().map(|(register, rule)| {
        let saved = match rule {
            RegisterRule::SameValue => Saved::Register(register.0),
            RegisterRule::Offset(offset) => Saved::At(*offset),
            RegisterRule::ValOffset(offset) => Saved::Is(*offset),
            RegisterRule::Register(other) => Saved::Register(other.0),
            RegisterRule::Constant(value) => Saved::Constant(*value),
            RegisterRule::Undefined
            | RegisterRule::Expression(_)
            | RegisterRule::ValExpression(_)
            | RegisterRule::Architectural => Saved::Nowhere,
        };
        (register.0, saved)
    });
    let saved = saved.collect();
    Ok(Row { cfa, saved, returns: entry.cie().return_address_register().0 })
}

/// The unwind tables of an object, without any debug information.
#[derive(Debug)]
pub(crate) struct UnwindTables(Sections);

impl UnwindTables {
    /// Those in the contents of a file; `None` where there are none, or they cannot be read.
    pub(crate) fn read(data: &Arc<Vec<u8>>) -> Option<UnwindTables> {
        let sections = Sections::unwind_tables(data).ok()?;
        let any = sections.has(SectionId::EhFrame) || sections.has(SectionId::DebugFrame);
        any.then_some(UnwindTables(sections))
    }

    /// Where each function is that they tell of, in the order of their starts.
    pub(crate) fn functions(&self) -> Vec<Unwound> {
        let mut found = Vec::new();
        let (eh_frame, bases) = self.eh_frame();
        entries(SectionId::EhFrame, &eh_frame, &bases, &mut found);
        entries(SectionId::DebugFrame, &self.debug_frame(), &BaseAddresses::default(), &mut found);
        found.sort_by_key(|(range, ..)| range.start);
        found
    }

    pub(crate) fn eh_frame(&self) -> (EhFrame<Slice<'_>>, BaseAddresses) {
        let bases = BaseAddresses::default().set_eh_frame(self.0.address(SectionId::EhFrame));
        (EhFrame::new(self.0.get(SectionId::EhFrame).slice(), LittleEndian), bases)
    }

    pub(crate) fn debug_frame(&self) -> DebugFrame<Slice<'_>> {
        frame_table(self.0.get(SectionId::DebugFrame))
    }
}

impl DebugInfo {
    fn unwound(&self) -> &[Unwound] {
        self.unwound.get_or_init(|| {
            let mut found = Vec::new();
            for (id, bytes, address) in self.unwind_tables() {
                let bases = BaseAddresses::default().set_eh_frame(address);
                match id {
                    SectionId::EhFrame => {
                        entries(id, &EhFrame::new(bytes.slice(), LittleEndian), &bases, &mut found)
                    }
                    _ => entries(id, &frame_table(bytes), &bases, &mut found),
                }
            }
            found.sort_by_key(|(range, ..)| range.start);
            found
        })
    }
}

fn frame_table(bytes: Slice<'_>) -> DebugFrame<Slice<'_>> {
    let mut table = DebugFrame::new(bytes.slice(), LittleEndian);
    table.set_address_size(8);
    table
}

impl<'a> Query<'a> {
    /// How the frame and the caller's registers are found at an address; `None` where no table tells.
    pub(super) fn unwound(&self, address: u64) -> Result<Option<Row<'a>>, DebugError> {
        let unwound = self.info.unwound();
        let after = unwound.partition_point(|(range, ..)| range.start <= address);
        // Both tables may tell of it.
        let candidates = unwound.get(after.saturating_sub(2)..after).unwrap_or_default();
        let Some((_, id, offset)) = candidates.iter().rev().find(|(range, ..)| range.contains(&address))
        else {
            return Ok(None);
        };
        let [eh_frame, debug_frame] = self.info.unwind_tables();
        let found = match id {
            SectionId::EhFrame => {
                let bases = BaseAddresses::default().set_eh_frame(eh_frame.2);
                row(
                    &EhFrame::new(eh_frame.1.slice(), LittleEndian),
                    &bases,
                    gimli::EhFrameOffset(*offset),
                    address,
                )
            }
            _ => {
                let bases = BaseAddresses::default();
                row(&frame_table(debug_frame.1), &bases, gimli::DebugFrameOffset(*offset), address)
            }
        };
        let bad = |error: gimli::Error| super::sections::malformed(id.name(), *offset as u64, error);
        found.map(Some).map_err(bad)
    }
}
