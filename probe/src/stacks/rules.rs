//! How a caller's registers are found from its callee's: the unwind tables, one row for an address.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use gimli::{
    BaseAddresses, CfaRule, DebugFrameOffset, EhFrameOffset, Encoding, Format, Register, RegisterRule,
    SectionId, UnwindContext, UnwindExpression, UnwindSection, UnwindTableRow,
};

use crate::stacks::walk::{Memory, RETURN_ADDRESS, Registers};
use crate::symbols::debug::{Slice, UnwindTables};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// There is none.
    Undefined,
    /// It is at that distance from the canonical frame address.
    At(i64),
    /// It is the canonical frame address and that.
    Is(i64),
    /// Another register holds it.
    Register(u16),
    /// An expression says where it is.
    AtComputed(UnwindExpression<usize>),
    /// An expression says what it is.
    Computed(UnwindExpression<usize>),
    Constant(u64),
}

/// The canonical frame address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cfa {
    Register(u16, i64),
    Computed(UnwindExpression<usize>),
}

/// What holds at one address.
#[derive(Debug)]
pub(crate) struct Row {
    cfa: Cfa,
    /// By DWARF's number of the register; others are what they were.
    rules: Box<[(u16, Rule)]>,
    /// Which of them becomes the address of the next instruction.
    returns: u16,
    /// Whether the kernel has made the frame, for a signal's handler: what is below it was interrupted, and has not
    /// called anything.
    pub(crate) interrupts: bool,
    section: SectionId,
}

/// The unwind tables of an object, with the rows that were asked for.
#[derive(Debug)]
pub(crate) struct Table {
    tables: UnwindTables,
    functions: Vec<(Range<u64>, SectionId, usize)>,
    rows: RwLock<HashMap<u64, Option<Arc<Row>>>>,
}

impl Table {
    pub(crate) fn new(tables: UnwindTables) -> Table {
        Table { functions: tables.functions(), tables, rows: RwLock::default() }
    }

    /// What holds at a virtual address; `None` where no table tells.
    pub(crate) fn row(&self, address: u64) -> Option<Arc<Row>> {
        /// More return addresses than a program's stacks have.
        const MOST: usize = 1 << 16;
        if let Some(row) = self.rows.read().unwrap_or_else(PoisonError::into_inner).get(&address) {
            return row.clone();
        }
        let row = self.read(address).map(Arc::new);
        let mut rows = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if rows.len() >= MOST {
            rows.clear();
        }
        rows.insert(address, row.clone());
        row
    }

    fn read(&self, address: u64) -> Option<Row> {
        let after = self.functions.partition_point(|(range, ..)| range.start <= address);
        // Both tables may tell of it.
        let candidates = self.functions.get(after.saturating_sub(2)..after)?;
        let (_, section, offset) = candidates.iter().rev().find(|(range, ..)| range.contains(&address))?;
        match section {
            SectionId::EhFrame => {
                let (table, bases) = self.tables.eh_frame();
                row(&table, &bases, EhFrameOffset(*offset), address, *section)
            }
            _ => {
                let bases = BaseAddresses::default();
                row(&self.tables.debug_frame(), &bases, DebugFrameOffset(*offset), address, *section)
            }
        }
    }

    /// The caller's registers. `None` where there is no caller, or they cannot be known.
    pub(crate) fn caller(
        &self,
        row: &Row,
        registers: &Registers,
        memory: &mut dyn Memory,
    ) -> Option<Registers> {
        let cfa = match row.cfa {
            Cfa::Register(register, offset) => registers.get(register)?.wrapping_add_signed(offset),
            Cfa::Computed(expression) => self.compute(row, expression, registers, None, memory)?,
        };
        let mut caller = registers.clone();
        // Unless a rule says something else.
        caller.set(Registers::RSP, Some(cfa));
        caller.set(RETURN_ADDRESS, None);
        for &(number, rule) in &row.rules {
            let value = match rule {
                Rule::Undefined => None,
                Rule::At(offset) => memory.quadword(cfa.wrapping_add_signed(offset)),
                Rule::Is(offset) => Some(cfa.wrapping_add_signed(offset)),
                Rule::Register(other) => registers.get(other),
                Rule::AtComputed(expression) => {
                    let address = self.compute(row, expression, registers, Some(cfa), memory);
                    address.and_then(|address| memory.quadword(address))
                }
                Rule::Computed(expression) => self.compute(row, expression, registers, Some(cfa), memory),
                Rule::Constant(value) => Some(value),
            };
            caller.set(number, value);
        }
        let next = caller.get(row.returns)?;
        caller.set(RETURN_ADDRESS, Some(next));
        Some(caller)
    }

    fn compute(
        &self,
        row: &Row,
        expression: UnwindExpression<usize>,
        registers: &Registers,
        initial: Option<u64>,
        memory: &mut dyn Memory,
    ) -> Option<u64> {
        let expression = match row.section {
            SectionId::EhFrame => expression.get(&self.tables.eh_frame().0),
            _ => expression.get(&self.tables.debug_frame()),
        };
        evaluate(expression.ok()?, registers, initial, memory)
    }
}

const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 5 };

fn evaluate(
    expression: gimli::Expression<Slice<'_>>,
    registers: &Registers,
    initial: Option<u64>,
    memory: &mut dyn Memory,
) -> Option<u64> {
    use gimli::{EvaluationResult, Location, Value};
    /// Those of unwind tables have less than twenty.
    const MOST_OPERATIONS: u32 = 1000;
    let mut evaluation = expression.evaluation(ENCODING);
    evaluation.set_max_iterations(MOST_OPERATIONS);
    if let Some(initial) = initial {
        evaluation.set_initial_value(initial);
    }
    let mut result = evaluation.evaluate().ok()?;
    loop {
        result = match result {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, .. } => {
                let mut bytes = [0; 8];
                let wanted = bytes.get_mut(..usize::from(size))?;
                (memory.read_up_to(address, wanted) == wanted.len()).then_some(())?;
                evaluation.resume_with_memory(Value::Generic(u64::from_le_bytes(bytes))).ok()?
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                evaluation.resume_with_register(Value::Generic(registers.get(register.0)?)).ok()?
            }
            EvaluationResult::RequiresCallFrameCfa => evaluation.resume_with_call_frame_cfa(initial?).ok()?,
            _ => return None,
        };
    }
    match evaluation.as_result() {
        [piece] => match piece.location {
            Location::Address { address } => Some(address),
            Location::Register { register } => registers.get(register.0),
            Location::Value { value } => value.to_u64(u64::MAX).ok(),
            _ => None,
        },
        _ => None,
    }
}

fn row<'a, S>(
    table: &S,
    bases: &BaseAddresses,
    offset: S::Offset,
    address: u64,
    section: SectionId,
) -> Option<Row>
where
    S: UnwindSection<Slice<'a>>,
{
    let entry = table.fde_from_offset(bases, offset, S::cie_from_offset).ok()?;
    let mut context = UnwindContext::new();
    let row = entry.unwind_info_for_address(table, bases, &mut context, address).ok()?;
    let cie = entry.cie();
    compiled(row, cie.return_address_register(), cie.is_signal_trampoline(), section)
}

fn compiled(
    row: &UnwindTableRow<usize>,
    returns: Register,
    interrupts: bool,
    section: SectionId,
) -> Option<Row> {
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Cfa::Register(register.0, *offset),
        CfaRule::Expression(expression) => Cfa::Computed(*expression),
    };
    let mut rules = Vec::new();
    for (register, rule) in row.registers() {
        let rule = match rule {
            RegisterRule::Undefined => Rule::Undefined,
            RegisterRule::SameValue => Rule::Register(register.0),
            RegisterRule::Offset(offset) => Rule::At(*offset),
            RegisterRule::ValOffset(offset) => Rule::Is(*offset),
            RegisterRule::Register(other) => Rule::Register(other.0),
            RegisterRule::Expression(expression) => Rule::AtComputed(*expression),
            RegisterRule::ValExpression(expression) => Rule::Computed(*expression),
            RegisterRule::Constant(value) => Rule::Constant(*value),
            RegisterRule::Architectural => return None,
        };
        rules.push((register.0, rule));
    }
    Some(Row { cfa, rules: rules.into(), returns: returns.0, interrupts, section })
}
