//! Where a value is, as data: what DWARF's location descriptions say at one address (DWARF 5, sections 2.5 and 2.6).

use std::cell::RefCell;
use std::fmt;

use gimli::{
    AttributeValue, DieReference, Encoding, EndianSlice, Expression as Program, Operation, UnitOffset,
    constants as dw,
};
use serde::{Deserialize, Serialize};

use super::arithmetic::{Kind, Term, arithmetic, empty, pop, unsupported};
use super::entry::Caller;
use super::error::DebugError;
use super::info::{Die, Query, Unit, Value};
use super::sections::Slice;
use super::unwind::Cfa;
use crate::language::{Binary, Expression, ExtendedRegister, Register, Unary, Width};

/// Where a value is while a thread stands at the address that was asked about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Location {
    /// In memory, from this address on.
    Memory(Expression),
    /// In registers, or computed: its quadwords, the lowest first.
    Value(Vec<Expression>),
    /// In parts, the lowest first.
    Pieces(Vec<Piece>),
    /// It cannot be had.
    Unavailable(Unavailable),
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Piece {
    /// How many bits it has.
    pub bits: u64,
    /// How many bits behind the start of `location` it begins.
    pub skip: u64,
    /// Where it is; never in pieces.
    pub location: Location,
}

/// Why a value cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Unavailable {
    /// The compiler keeps it nowhere at this address.
    OptimizedOut,
    /// It is computed from what the function was called with, which the caller may tell: see
    /// [`Scope::caller`](super::Scope::caller).
    EntryValue,
    /// It is computed from what the function was called with, which the caller does not tell.
    NotTold {
        /// Why not.
        why: String,
    },
    /// It is a pointer to something that is not in memory.
    SyntheticPointer,
    /// The function has not stored it yet, and it is not known where it was passed.
    NotStored,
    /// It takes an operation that is not supported.
    Operation {
        /// DWARF's name of it.
        name: String,
    },
    /// It is in a register that is not fetched.
    Register {
        /// DWARF's number of it.
        number: u16,
    },
    /// No unwind table tells where the frame is.
    NoFrame,
    /// It is thread-local, and nothing tells where its object keeps those.
    ThreadLocal,
    /// What computes it is too large.
    TooLarge,
    /// What tells of it is corrupt.
    Corrupt {
        /// What is wrong, in the reader's words.
        what: String,
    },
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unavailable::OptimizedOut => f.write_str("optimized out here"),
            Unavailable::EntryValue => f.write_str("optimized out here; only who has called may know"),
            Unavailable::NotTold { why } => write!(f, "optimized out here, and {why}"),
            Unavailable::SyntheticPointer => {
                f.write_str("a pointer to something that was optimized out of memory")
            }
            Unavailable::NotStored => f.write_str("not stored yet here"),
            Unavailable::Operation { name } => write!(f, "needs {name}, which is not supported"),
            Unavailable::Register { number } => {
                write!(f, "in register {number} of DWARF, which is not fetched")
            }
            Unavailable::NoFrame => f.write_str("no unwind table tells where the frame is"),
            Unavailable::ThreadLocal => f.write_str("thread-local in an object that does not tell where"),
            Unavailable::TooLarge => f.write_str("what computes it is too large"),
            Unavailable::Corrupt { what } => write!(f, "the debug information is corrupt: {what}"),
        }
    }
}

impl From<DebugError> for Unavailable {
    fn from(error: DebugError) -> Unavailable {
        Unavailable::Corrupt { what: error.to_string() }
    }
}

impl From<gimli::Error> for Unavailable {
    fn from(error: gimli::Error) -> Unavailable {
        Unavailable::Corrupt { what: error.to_string() }
    }
}

/// How many operations one location may take, in all branches.
const MOST_OPERATIONS: usize = 2000;
/// How far one may use others.
const MOST_NESTED: usize = 8;

/// What is known where a location is looked at.
pub(super) struct Surroundings<'q, 'a> {
    pub(super) query: &'q Query<'a>,
    /// The virtual address in RIP: that of the hit or, in a caller's frame, the one to which its callee returns.
    pub(super) site: u64,
    /// The address to look things up by: in a caller's frame, one in the call.
    pub(super) lookup: u64,
    /// The function's own entry, which tells of its frame; none for what is no function's.
    pub(super) function: Option<Die>,
    /// Whether the site is the function's first address.
    pub(super) at_entry: bool,
    /// Who has called, the innermost first, as far as that is known.
    pub(super) callers: &'q [Option<Caller<'a>>],
    /// Where the address is of the next caller, who would be asked if it were known.
    pub(super) asks: RefCell<Option<Expression>>,
}

/// What a location came to.
pub(super) struct Found {
    pub(super) location: Location,
    /// Whether it depends on where the function's frame is.
    pub(super) in_frame: bool,
}

/// An expression that is being followed.
pub(super) struct Run<'s, 'q, 'a> {
    pub(super) around: &'s Surroundings<'q, 'a>,
    pub(super) encoding: Encoding,
    pub(super) unit: usize,
    /// The size of the value in bytes, as far as it is known.
    pub(super) size: Option<u64>,
    pub(super) operations: usize,
    pub(super) nested: usize,
    pub(super) in_frame: bool,
}

/// Where an expression ends.
pub(super) enum End {
    Memory(Term),
    Value(Term),
    Whole(Location),
    Pieces(Vec<Piece>),
}

impl<'q, 'a> Surroundings<'q, 'a> {
    /// Where a thread stands at `site`, of whose function and callers nothing is known.
    pub(super) fn new(query: &'q Query<'a>, site: u64) -> Surroundings<'q, 'a> {
        let asks = RefCell::new(None);
        Surroundings { query, site, lookup: site, function: None, at_entry: false, callers: &[], asks }
    }

    /// The address of what has a virtual address in the object.
    pub(super) fn address(&self, address: u64) -> Expression {
        self.relocated(address).expression
    }

    pub(super) fn relocated(&self, address: u64) -> Term {
        let distance = address.wrapping_sub(self.site);
        let rip = Term::leaf(Expression::register(Register::Rip));
        rip.clone().binary(Binary::Add, Term::constant(distance)).unwrap_or(rip)
    }

    /// The location that an attribute of `die` describes: an expression, or a list of them.
    pub(super) fn locate(&self, die: Die, value: Value<'a>, size: Option<u64>) -> Found {
        let mut in_frame = false;
        let located = self.program(die, value).and_then(|program| {
            let unit = self.query.unit(die.unit)?;
            let mut run = Run::new(self, unit.encoding(), die.unit, size);
            let location = run.location(program);
            in_frame = run.in_frame;
            location
        });
        Found { location: located.unwrap_or_else(Location::Unavailable), in_frame }
    }

    /// The expression that counts at the site.
    pub(super) fn program(&self, die: Die, value: Value<'a>) -> Result<Program<Slice<'a>>, Unavailable> {
        let unit = self.query.unit(die.unit)?;
        match value {
            AttributeValue::Exprloc(program) => return Ok(program),
            AttributeValue::Block(bytes) => return Ok(Program(bytes)),
            _ => {}
        }
        let Some(mut list) = self.query.sections_of(&unit).attr_locations(&unit, value)? else {
            return Err(Unavailable::Corrupt { what: "a location of unknown form".to_owned() });
        };
        while let Some(entry) = list.next()? {
            self.query.spend(8)?;
            if (entry.range.begin..entry.range.end).contains(&self.lookup) {
                return Ok(entry.data);
            }
        }
        Err(Unavailable::OptimizedOut)
    }

    /// The canonical frame address at the site.
    fn cfa(&self, nested: usize) -> Result<Term, Unavailable> {
        match self.query.unwound(self.lookup)? {
            None => Err(Unavailable::NoFrame),
            Some(row) => self.cfa_of(&row.cfa, nested),
        }
    }

    /// The same by what the tables say.
    pub(super) fn cfa_of(&self, cfa: &Cfa<'a>, nested: usize) -> Result<Term, Unavailable> {
        match *cfa {
            Cfa::Register(number, offset) => {
                let register = general(number).ok_or(Unavailable::Register { number })?;
                Term::leaf(Expression::register(register))
                    .binary(Binary::Add, Term::constant(offset.cast_unsigned()))
            }
            Cfa::Computed(program, encoding) => {
                let mut run = Run { nested: nested + 1, ..Run::new(self, encoding, usize::MAX, None) };
                match run.follow(program)? {
                    End::Memory(term) | End::Value(term) => Ok(term),
                    _ => Err(Unavailable::NoFrame),
                }
            }
        }
    }

    /// What DW_OP_fbreg counts from (DW_AT_frame_base).
    fn frame_base(&self, nested: usize) -> Result<Term, Unavailable> {
        let function = self.function.ok_or(Unavailable::NoFrame)?;
        let (unit, entry) = self.query.entry(function)?;
        let value = entry.attr_value(dw::DW_AT_frame_base).ok_or(Unavailable::NoFrame)?;
        let program = self.program(function, value)?;
        let mut run = Run { nested: nested + 1, ..Run::new(self, unit.encoding(), function.unit, None) };
        match run.follow(program)? {
            End::Memory(term) | End::Value(term) => Ok(term),
            // A register that holds it.
            End::Whole(Location::Value(quadwords)) => {
                quadwords.into_iter().next().map(Term::leaf).ok_or(Unavailable::NoFrame)
            }
            _ => Err(Unavailable::NoFrame),
        }
    }

    /// Whether the frame is where a register points that the function has to set up first.
    pub(super) fn frame_is_set_up_by_function(&self) -> bool {
        let base = self.function.and_then(|function| {
            let (unit, entry) = self.query.entry(function).ok()?;
            let program = self.program(function, entry.attr_value(dw::DW_AT_frame_base)?).ok()?;
            program.operations(unit.encoding()).next().ok()?
        });
        matches!(base, Some(Operation::Register { .. } | Operation::RegisterOffset { .. }))
    }
}

impl<'s, 'q, 'a> Run<'s, 'q, 'a> {
    pub(super) fn new(
        around: &'s Surroundings<'q, 'a>,
        encoding: Encoding,
        unit: usize,
        size: Option<u64>,
    ) -> Self {
        Run { around, encoding, unit, size, operations: 0, nested: 0, in_frame: false }
    }

    fn location(&mut self, program: Program<Slice<'a>>) -> Result<Location, Unavailable> {
        Ok(match self.follow(program)? {
            End::Memory(term) => Location::Memory(term.expression),
            End::Value(term) => Location::Value(vec![term.expression]),
            End::Whole(location) => location,
            End::Pieces(pieces) => Location::Pieces(pieces),
        })
    }

    pub(super) fn follow(&mut self, program: Program<Slice<'a>>) -> Result<End, Unavailable> {
        if program.0.is_empty() {
            return Err(Unavailable::OptimizedOut);
        }
        if self.nested > MOST_NESTED {
            return Err(Unavailable::TooLarge);
        }
        self.from(program.0, 0, Vec::new())
    }

    /// The value that an expression computes, or the address of what it describes.
    pub(super) fn value(&mut self, program: Program<Slice<'a>>) -> Result<Term, Unavailable> {
        match self.follow(program)? {
            End::Memory(term) | End::Value(term) => Ok(term),
            End::Whole(Location::Value(quadwords)) => match quadwords.into_iter().next() {
                Some(first) => Ok(Term::leaf(first)),
                None => Err(empty()),
            },
            End::Whole(Location::Unavailable(why)) => Err(why),
            End::Whole(_) | End::Pieces(_) => Err(unsupported("a value in parts")),
        }
    }

    /// Follows from byte `at` of the expression on, with these values on the stack.
    pub(super) fn from(
        &mut self,
        whole: Slice<'a>,
        at: usize,
        mut stack: Vec<Term>,
    ) -> Result<End, Unavailable> {
        let mut pieces: Vec<Piece> = Vec::new();
        // What the next piece is, where it is not what the stack says.
        let mut ready: Option<Location> = None;
        let mut is_value = false;
        let mut at = at;
        while at < whole.len() {
            self.operations += 1;
            if self.operations > MOST_OPERATIONS {
                return Err(Unavailable::TooLarge);
            }
            let rest = whole.slice().get(at..).unwrap_or_default();
            let mut reader = EndianSlice::new(rest, gimli::LittleEndian);
            let operation = Operation::parse(&mut reader, self.encoding)?;
            let next = whole.len() - reader.len();
            let jump = |target: i16| usize::try_from(next as i64 + i64::from(target)).unwrap_or(usize::MAX);
            match operation {
                Operation::Skip { target } => {
                    // Backwards it might have no end.
                    if target < 0 {
                        return Err(unsupported("DW_OP_skip"));
                    }
                    at = jump(target);
                    continue;
                }
                Operation::Bra { target } => {
                    if target < 0 || !pieces.is_empty() || self.nested > MOST_NESTED {
                        return Err(unsupported("DW_OP_bra"));
                    }
                    let condition = pop(&mut stack)?;
                    self.nested += 1;
                    let one = self.from(whole, jump(target), stack.clone())?;
                    let other = self.from(whole, next, stack)?;
                    self.nested -= 1;
                    return match (one, other) {
                        (End::Memory(one), End::Memory(other)) => {
                            Ok(End::Memory(condition.choose(one, other)?))
                        }
                        (End::Value(one), End::Value(other)) => Ok(End::Value(condition.choose(one, other)?)),
                        _ => Err(unsupported("DW_OP_bra")),
                    };
                }
                Operation::Register { register } => ready = Some(self.register(register.0)?),
                Operation::ImplicitValue { data } => ready = Some(Location::Value(quadwords(data.slice()))),
                Operation::ImplicitPointer { .. } => {
                    ready = Some(Location::Unavailable(Unavailable::SyntheticPointer));
                }
                Operation::StackValue => is_value = true,
                Operation::Uninitialized => {}
                Operation::Piece { size_in_bits, bit_offset } => {
                    let location = match (ready.take(), stack.pop()) {
                        (Some(location), _) => location,
                        (None, Some(term)) if is_value => Location::Value(vec![term.expression]),
                        (None, Some(term)) => Location::Memory(term.expression),
                        (None, None) => Location::Unavailable(Unavailable::OptimizedOut),
                    };
                    is_value = false;
                    stack.clear();
                    pieces.push(Piece { bits: size_in_bits, skip: bit_offset.unwrap_or(0), location });
                }
                other => self.step(other, &mut stack)?,
            }
            at = next;
        }
        if !pieces.is_empty() {
            return Ok(End::Pieces(pieces));
        }
        match ready {
            Some(location) => Ok(End::Whole(location)),
            None if is_value => Ok(End::Value(pop(&mut stack)?)),
            None => Ok(End::Memory(pop(&mut stack)?)),
        }
    }

    /// The quadwords that a register has of the value.
    fn register(&self, number: u16) -> Result<Location, Unavailable> {
        // Types of unknown size are looked at as if they were of one that fits.
        let wanted = self.size.unwrap_or(8).div_ceil(8).max(1);
        let extended = |register, most: u64| {
            let quadwords = 0..u8::try_from(wanted.min(most)).unwrap_or(1);
            Location::Value(quadwords.map(|quadword| Expression::extended(register, quadword)).collect())
        };
        if let Some(register) = general(number) {
            return Ok(Location::Value(vec![Expression::register(register)]));
        }
        let vector = |first: u8, base: u16| ExtendedRegister::Vector(first + (number - base) as u8);
        match number {
            17..=32 => Ok(extended(vector(0, 17), 8)),
            67..=82 => Ok(extended(vector(16, 67), 8)),
            33..=40 => Ok(extended(ExtendedRegister::St((number - 33) as u8), 2)),
            118..=125 => Ok(extended(ExtendedRegister::Opmask((number - 118) as u8), 1)),
            _ => Err(Unavailable::Register { number }),
        }
    }

    /// What a register holds: of a vector register, its low quadword.
    fn read_register(&self, number: u16) -> Result<Term, Unavailable> {
        match (general(number), self.register(number)?) {
            (Some(register), _) => Ok(Term::leaf(Expression::register(register))),
            (None, Location::Value(quadwords)) if is_vector(number) => {
                quadwords.into_iter().next().map(Term::leaf).ok_or(Unavailable::Register { number })
            }
            _ => Err(Unavailable::Register { number }),
        }
    }

    /// An operation that only changes the stack.
    fn step(&mut self, operation: Operation<Slice<'a>>, stack: &mut Vec<Term>) -> Result<(), Unavailable> {
        let term = match operation {
            Operation::Nop => return Ok(()),
            Operation::Drop => {
                pop(stack)?;
                return Ok(());
            }
            Operation::Swap => {
                let (a, b) = (pop(stack)?, pop(stack)?);
                stack.push(a);
                b
            }
            Operation::Rot => {
                let (a, b, c) = (pop(stack)?, pop(stack)?, pop(stack)?);
                stack.extend([a, c]);
                b
            }
            Operation::Pick { index } => {
                let at = stack.len().checked_sub(usize::from(index) + 1);
                at.and_then(|at| stack.get(at)).cloned().ok_or_else(empty)?
            }
            Operation::UnsignedConstant { value } => Term::constant(value),
            Operation::SignedConstant { value } => Term::constant(value.cast_unsigned()),
            Operation::Address { address } => self.around.relocated(address),
            Operation::AddressIndex { index } => {
                let unit = self.unit()?;
                self.around.relocated(self.around.query.sections_of(&unit).address(&unit, index)?)
            }
            Operation::ConstantIndex { index } => {
                let unit = self.unit()?;
                Term::constant(self.around.query.sections_of(&unit).address(&unit, index)?)
            }
            Operation::RegisterOffset { register, offset, base_type } => {
                let term = self.read_register(register.0)?;
                self.in_frame |= matches!(general(register.0), Some(Register::Rbp | Register::Rsp));
                let kind = self.kind_of(base_type)?;
                term.binary(Binary::Add, Term::constant(offset.cast_unsigned()))?.taken_for(kind)?
            }
            Operation::FrameOffset { offset } => {
                self.in_frame = true;
                let base = self.around.frame_base(self.nested)?;
                base.binary(Binary::Add, Term::constant(offset.cast_unsigned()))?
            }
            Operation::CallFrameCFA => {
                self.in_frame = true;
                self.around.cfa(self.nested)?
            }
            Operation::TLS => {
                let offset = pop(stack)?;
                let info = self.around.query.info;
                let block = &info.thread_block;
                let from_start = match offset.expression.constant() {
                    // GCC refers to them by addresses where it splits DWARF 4 off.
                    Some(at) if block.contains(&at) && at >= block.end - block.start => {
                        (at - block.start).into()
                    }
                    _ => offset.expression,
                };
                let address = info.thread_local.address(from_start, |at| self.around.address(at));
                Term {
                    nodes: offset.nodes + 12,
                    depth: offset.depth + 8,
                    ..Term::leaf(address.ok_or(Unavailable::ThreadLocal)?)
                }
            }
            Operation::Deref { base_type, size, space: false } => {
                let width = width(size.into()).ok_or_else(|| unsupported("DW_OP_deref_size"))?;
                let loaded = Term { kind: Kind::Generic, ..pop(stack)?.unary(Unary::Load(width))? };
                loaded.taken_for(self.kind_of(base_type)?)?
            }
            Operation::EntryValue { expression } => self.entry_value(expression)?,
            Operation::ParameterRef { offset } => {
                self.parameter(Die { unit: self.unit, offset: offset.0 })?
            }
            Operation::VariableValue { offset } => {
                let die = self
                    .around
                    .query
                    .die_at(self.unit, offset.0)
                    .ok_or_else(|| unsupported("DW_OP_GNU_variable_value"))?;
                self.value_of(die)?
            }
            Operation::Call { offset } => return self.call(offset, stack),
            Operation::TypedLiteral { base_type, value } => {
                let mut bytes = [0; 8];
                let short = value.slice();
                let place = bytes.get_mut(..short.len()).ok_or_else(|| unsupported("DW_OP_const_type"))?;
                place.copy_from_slice(short);
                Term::constant(u64::from_le_bytes(bytes)).taken_for(self.kind_of(base_type)?)?
            }
            Operation::Convert { base_type } => {
                let kind = self.kind_of(base_type)?;
                pop(stack)?.converted(kind)?
            }
            Operation::Reinterpret { base_type } => {
                let kind = self.kind_of(base_type)?;
                pop(stack)?.taken_for(kind)?
            }
            other => arithmetic(&other, stack)?,
        };
        stack.push(term);
        Ok(())
    }

    fn unit(&self) -> Result<std::rc::Rc<Unit<'a>>, Unavailable> {
        Ok(self.around.query.unit(self.unit)?)
    }

    /// What values of a base type are on the stack.
    fn kind_of(&self, base_type: UnitOffset) -> Result<Kind, Unavailable> {
        if base_type.0 == 0 {
            return Ok(Kind::Generic);
        }
        let (_, entry) = self.around.query.entry(Die { unit: self.unit, offset: base_type.0 })?;
        let size = entry.attr_value(dw::DW_AT_byte_size).and_then(|size| size.udata_value());
        let signed = match entry.attr_value(dw::DW_AT_encoding) {
            Some(AttributeValue::Encoding(dw::DW_ATE_signed | dw::DW_ATE_signed_char)) => true,
            Some(AttributeValue::Encoding(
                dw::DW_ATE_unsigned
                | dw::DW_ATE_unsigned_char
                | dw::DW_ATE_boolean
                | dw::DW_ATE_UTF
                | dw::DW_ATE_address,
            )) => false,
            Some(AttributeValue::Encoding(dw::DW_ATE_float)) => {
                return match size {
                    Some(bytes @ (4 | 8)) => Ok(Kind::Float { single: bytes == 4 }),
                    _ => Err(unsupported("DW_OP_convert to a float of other than 32 or 64 bits")),
                };
            }
            _ => return Err(unsupported("DW_OP_convert to a type that is no number")),
        };
        let width = size
            .and_then(width)
            .ok_or_else(|| unsupported("DW_OP_convert to an integer of more than 64 bits"))?;
        Ok(Kind::Integer { width, signed })
    }

    /// The value of a variable of whole numbers.
    pub(super) fn value_of(&mut self, die: Die) -> Result<Term, Unavailable> {
        let query = self.around.query;
        if self.nested > MOST_NESTED {
            return Err(Unavailable::TooLarge);
        }
        let completed = query.completed(die)?;
        let attribute = |name| query.attribute(&completed, name);
        let Some((at, value)) = attribute(dw::DW_AT_location) else {
            let constant = attribute(dw::DW_AT_const_value).and_then(|(_, value)| match value {
                AttributeValue::Sdata(value) => Some(value.cast_unsigned()),
                value => value.udata_value(),
            });
            return constant.map(Term::constant).ok_or(Unavailable::OptimizedOut);
        };
        let of =
            attribute(dw::DW_AT_type).map(|(at, of)| query.reference(at, Some(of))).transpose()?.flatten();
        let width =
            query.size(of, 0).and_then(width).ok_or_else(|| unsupported("a number of unknown size"))?;
        let signed = of.and_then(|of| query.base(of, 0));
        let signed = matches!(signed, Some(dw::DW_ATE_signed | dw::DW_ATE_signed_char));
        let kind = Kind::Integer { width, signed };
        let program = self.around.program(at, value)?;
        let unit = query.unit(at.unit)?;
        let mut run = Run {
            nested: self.nested + 1,
            operations: self.operations,
            ..Run::new(self.around, unit.encoding(), at.unit, None)
        };
        let found = match run.follow(program)? {
            End::Memory(address) => {
                let load = if signed { Unary::LoadSigned(width) } else { Unary::Load(width) };
                Term { kind, ..address.unary(load)? }
            }
            End::Value(value) => value.converted(kind)?,
            End::Whole(Location::Value(quadwords)) => {
                quadwords.into_iter().next().map(Term::leaf).ok_or_else(empty)?.taken_for(kind)?
            }
            End::Whole(Location::Unavailable(why)) => return Err(why),
            End::Whole(_) | End::Pieces(_) => return Err(unsupported("a number in parts")),
        };
        self.operations = run.operations;
        self.in_frame |= run.in_frame;
        Ok(Term { kind: Kind::Generic, ..found })
    }

    /// The location of another entry, as a part of this one.
    fn call(&mut self, offset: DieReference, stack: &mut Vec<Term>) -> Result<(), Unavailable> {
        let query = self.around.query;
        let die = match offset {
            DieReference::UnitRef(offset) => Some(Die { unit: self.unit, offset: offset.0 }),
            DieReference::DebugInfoRef(offset) => query.die_at(self.unit, offset.0),
        };
        let die = die.ok_or_else(|| unsupported("DW_OP_call_ref"))?;
        let (unit, entry) = query.entry(die)?;
        let Some(value) = entry.attr_value(dw::DW_AT_location) else { return Ok(()) };
        let program = self.around.program(die, value)?;
        if self.nested > MOST_NESTED {
            return Err(Unavailable::TooLarge);
        }
        let mut run = Run {
            nested: self.nested + 1,
            operations: self.operations,
            ..Run::new(self.around, unit.encoding(), die.unit, None)
        };
        let end = run.from(program.0, 0, std::mem::take(stack))?;
        self.operations = run.operations;
        self.in_frame |= run.in_frame;
        match end {
            End::Memory(term) | End::Value(term) => stack.push(term),
            _ => return Err(unsupported("DW_OP_call_ref")),
        }
        Ok(())
    }
}

fn width(bytes: u64) -> Option<Width> {
    match bytes {
        1 => Some(Width::Byte),
        2 => Some(Width::Word),
        4 => Some(Width::Doubleword),
        8 => Some(Width::Quadword),
        _ => None,
    }
}

/// Bytes as constants.
pub(super) fn quadwords(bytes: &[u8]) -> Vec<Expression> {
    /// The most that is a constant and not a part of the file.
    const MOST: usize = 4096;
    let quadword = |chunk: &[u8]| {
        let mut whole = [0; 8];
        whole.iter_mut().zip(chunk).for_each(|(place, byte)| *place = *byte);
        u64::from_le_bytes(whole).into()
    };
    bytes.chunks(8).take(MOST / 8).map(quadword).collect()
}

/// Whether it is XMM0 to XMM31, or what they are a part of.
pub(super) fn is_vector(number: u16) -> bool {
    matches!(number, 17..=32 | 67..=82)
}

/// A register that is always there, by its DWARF number (System V psABI for x86-64, figure 3.36).
pub(super) fn general(number: u16) -> Option<Register> {
    Some(match number {
        0 => Register::Rax,
        1 => Register::Rdx,
        2 => Register::Rcx,
        3 => Register::Rbx,
        4 => Register::Rsi,
        5 => Register::Rdi,
        6 => Register::Rbp,
        7 => Register::Rsp,
        8 => Register::R8,
        9 => Register::R9,
        10 => Register::R10,
        11 => Register::R11,
        12 => Register::R12,
        13 => Register::R13,
        14 => Register::R14,
        15 => Register::R15,
        16 => Register::Rip,
        49 => Register::Rflags,
        58 => Register::FsBase,
        59 => Register::GsBase,
        _ => return None,
    })
}
