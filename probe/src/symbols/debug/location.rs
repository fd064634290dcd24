//! Where a value is, as data: what DWARF's location descriptions say at one address (DWARF 5, sections 2.5 and 2.6).

use std::fmt;

use gimli::{
    AttributeValue, DieReference, Encoding, EndianSlice, Expression as Program, Operation, UnitOffset,
    constants as dw,
};
use serde::{Deserialize, Serialize};

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
    /// It is computed from what a register held when the function was entered.
    EntryValue,
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
            Unavailable::EntryValue => f.write_str("needs a value from the function's entry"),
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

/// How large and how deep what is computed may become.
const MOST_NODES: usize = 1000;
const DEEPEST: usize = 150;
/// How many operations one location may take, in all branches.
const MOST_OPERATIONS: usize = 2000;
/// How far one may use others.
const MOST_NESTED: usize = 8;

/// What the bits on DWARF's stack are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As large as an address, with a sign where that matters.
    Generic,
    Integer {
        width: Width,
        signed: bool,
    },
}

/// A value on DWARF's stack.
#[derive(Clone, Debug)]
struct Term {
    expression: Expression,
    nodes: usize,
    depth: usize,
    kind: Kind,
}

impl Term {
    fn leaf(expression: Expression) -> Term {
        Term { expression, nodes: 1, depth: 1, kind: Kind::Generic }
    }

    fn constant(value: u64) -> Term {
        Term::leaf(value.into())
    }

    fn checked(self) -> Result<Term, Unavailable> {
        if self.nodes > MOST_NODES || self.depth > DEEPEST { Err(Unavailable::TooLarge) } else { Ok(self) }
    }

    fn unary(self, operator: Unary) -> Result<Term, Unavailable> {
        let Term { expression, nodes, depth, kind } = self;
        Term { expression: expression.unary(operator), nodes: nodes + 1, depth: depth + 1, kind }.checked()
    }

    fn binary(self, operator: Binary, other: Term) -> Result<Term, Unavailable> {
        // Constants stay constants, so that most locations have few nodes.
        if let (Binary::Add, Some(a), Some(b)) =
            (operator, self.expression.constant(), other.expression.constant())
        {
            return Ok(Term { kind: self.kind, ..Term::constant(a.wrapping_add(b)) });
        }
        if operator == Binary::Add && other.expression.constant() == Some(0) {
            return Ok(self);
        }
        let (nodes, depth) = (self.nodes + other.nodes + 1, self.depth.max(other.depth) + 1);
        Term { expression: self.expression.binary(operator, other.expression), nodes, depth, kind: self.kind }
            .checked()
    }

    fn choose(self, one: Term, other: Term) -> Result<Term, Unavailable> {
        let nodes = self.nodes + one.nodes + other.nodes + 1;
        let depth = self.depth.max(one.depth).max(other.depth) + 1;
        let expression = self.expression.choose(one.expression, other.expression);
        Term { expression, nodes, depth, kind: one.kind }.checked()
    }

    /// The same with the size that its type has.
    fn fitted(self) -> Result<Term, Unavailable> {
        match self.kind {
            Kind::Integer { width: Width::Quadword, .. } | Kind::Generic => Ok(self),
            Kind::Integer { width, signed: true } => self.unary(Unary::CastSigned(width)),
            Kind::Integer { width, signed: false } => self.unary(Unary::Cast(width)),
        }
    }
}

/// What is known where a location is looked at.
pub(super) struct Surroundings<'q, 'a> {
    pub(super) query: &'q Query<'a>,
    /// The address of the hit.
    pub(super) site: u64,
    /// The function's own entry, which tells of its frame; none for what is no function's.
    pub(super) function: Option<Die>,
    /// Whether the site is the function's first address.
    pub(super) at_entry: bool,
}

/// What a location came to.
pub(super) struct Found {
    pub(super) location: Location,
    /// Whether it depends on where the function's frame is.
    pub(super) in_frame: bool,
}

/// An expression that is being followed.
struct Run<'s, 'q, 'a> {
    around: &'s Surroundings<'q, 'a>,
    encoding: Encoding,
    unit: usize,
    /// The size of the value in bytes, as far as it is known.
    size: Option<u64>,
    operations: usize,
    nested: usize,
    in_frame: bool,
}

/// Where an expression ends.
enum End {
    Memory(Term),
    Value(Term),
    Whole(Location),
    Pieces(Vec<Piece>),
}

impl<'a> Surroundings<'_, 'a> {
    /// The address of what has a virtual address in the object.
    pub(super) fn address(&self, address: u64) -> Expression {
        self.relocated(address).expression
    }

    fn relocated(&self, address: u64) -> Term {
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
    fn program(&self, die: Die, value: Value<'a>) -> Result<Program<Slice<'a>>, Unavailable> {
        let unit = self.query.unit(die.unit)?;
        match value {
            AttributeValue::Exprloc(program) => return Ok(program),
            AttributeValue::Block(bytes) => return Ok(Program(bytes)),
            _ => {}
        }
        let Some(mut list) = self.query.dwarf.attr_locations(&unit, value)? else {
            return Err(Unavailable::Corrupt { what: "a location of unknown form".to_owned() });
        };
        while let Some(entry) = list.next()? {
            self.query.spend(8)?;
            if (entry.range.begin..entry.range.end).contains(&self.site) {
                return Ok(entry.data);
            }
        }
        Err(Unavailable::OptimizedOut)
    }

    /// The canonical frame address at the site.
    fn cfa(&self, nested: usize) -> Result<Term, Unavailable> {
        match self.query.cfa(self.site)? {
            None => Err(Unavailable::NoFrame),
            Some(Cfa::Register(number, offset)) => {
                let register = general(number).ok_or(Unavailable::Register { number })?;
                Term::leaf(Expression::register(register))
                    .binary(Binary::Add, Term::constant(offset.cast_unsigned()))
            }
            Some(Cfa::Computed(program, encoding)) => {
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
    fn new(around: &'s Surroundings<'q, 'a>, encoding: Encoding, unit: usize, size: Option<u64>) -> Self {
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

    fn follow(&mut self, program: Program<Slice<'a>>) -> Result<End, Unavailable> {
        if program.0.is_empty() {
            return Err(Unavailable::OptimizedOut);
        }
        if self.nested > MOST_NESTED {
            return Err(Unavailable::TooLarge);
        }
        self.from(program.0, 0, Vec::new())
    }

    /// Follows from byte `at` of the expression on.
    fn from(&mut self, whole: Slice<'a>, at: usize, mut stack: Vec<Term>) -> Result<End, Unavailable> {
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

    fn read_register(&self, number: u16) -> Result<Term, Unavailable> {
        match general(number) {
            Some(register) => Ok(Term::leaf(Expression::register(register))),
            None => Err(Unavailable::Register { number }),
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
                self.around.relocated(self.around.query.dwarf.address(&unit, index)?)
            }
            Operation::ConstantIndex { index } => {
                let unit = self.unit()?;
                Term::constant(self.around.query.dwarf.address(&unit, index)?)
            }
            Operation::RegisterOffset { register, offset, base_type } => {
                let term = self.read_register(register.0)?;
                self.in_frame |= matches!(general(register.0), Some(Register::Rbp | Register::Rsp));
                self.typed(term.binary(Binary::Add, Term::constant(offset.cast_unsigned()))?, base_type)?
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
                let address = self
                    .around
                    .query
                    .info
                    .thread_local
                    .address(offset.expression, |at| self.around.address(at));
                Term {
                    nodes: offset.nodes + 12,
                    depth: offset.depth + 8,
                    ..Term::leaf(address.ok_or(Unavailable::ThreadLocal)?)
                }
            }
            Operation::Deref { base_type, size, space: false } => {
                let width = width(size.into()).ok_or_else(|| unsupported("DW_OP_deref_size"))?;
                let loaded = Term { kind: Kind::Generic, ..pop(stack)?.unary(Unary::Load(width))? };
                self.typed(loaded, base_type)?
            }
            Operation::EntryValue { expression } => {
                if !self.around.at_entry {
                    return Err(Unavailable::EntryValue);
                }
                self.nested += 1;
                let end = self.follow(Program(expression))?;
                self.nested -= 1;
                match end {
                    End::Memory(term) | End::Value(term) => term,
                    End::Whole(Location::Value(quadwords)) => {
                        quadwords.into_iter().next().map(Term::leaf).ok_or(Unavailable::EntryValue)?
                    }
                    _ => return Err(Unavailable::EntryValue),
                }
            }
            Operation::Call { offset } => return self.call(offset, stack),
            Operation::TypedLiteral { base_type, value } => {
                let mut bytes = [0; 8];
                let short = value.slice();
                let place = bytes.get_mut(..short.len()).ok_or_else(|| unsupported("DW_OP_const_type"))?;
                place.copy_from_slice(short);
                self.typed(Term::constant(u64::from_le_bytes(bytes)), base_type)?
            }
            Operation::Convert { base_type } | Operation::Reinterpret { base_type } => {
                let term = pop(stack)?;
                self.typed(Term { kind: Kind::Generic, ..term }, base_type)?
            }
            other => match unary(&other) {
                Some(operator) => pop(stack)?.unary(operator)?.fitted()?,
                None => arithmetic(&other, stack)?,
            },
        };
        stack.push(term);
        Ok(())
    }

    fn unit(&self) -> Result<std::rc::Rc<Unit<'a>>, Unavailable> {
        Ok(self.around.query.unit(self.unit)?)
    }

    /// Takes a value for one of a base type, if that is an integer.
    fn typed(&self, term: Term, base_type: UnitOffset) -> Result<Term, Unavailable> {
        if base_type.0 == 0 {
            return Ok(term);
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
            _ => return Err(unsupported("DW_OP_convert to a type that is no integer")),
        };
        let width = size
            .and_then(width)
            .ok_or_else(|| unsupported("DW_OP_convert to an integer of more than 64 bits"))?;
        Term { kind: Kind::Integer { width, signed }, ..term }.fitted()
    }

    /// The location of another entry, as a part of this one.
    fn call(&mut self, offset: DieReference, stack: &mut Vec<Term>) -> Result<(), Unavailable> {
        let query = self.around.query;
        let die = match offset {
            DieReference::UnitRef(offset) => Some(Die { unit: self.unit, offset: offset.0 }),
            DieReference::DebugInfoRef(offset) => query.die_at(offset.0),
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

fn pop(stack: &mut Vec<Term>) -> Result<Term, Unavailable> {
    stack.pop().ok_or_else(empty)
}

fn empty() -> Unavailable {
    Unavailable::Corrupt { what: "an operation on an empty stack".to_owned() }
}

fn unsupported(name: &str) -> Unavailable {
    Unavailable::Operation { name: name.to_owned() }
}

fn unary<'a>(operation: &Operation<Slice<'a>>) -> Option<Unary> {
    match operation {
        Operation::Neg => Some(Unary::Negate),
        Operation::Not => Some(Unary::Complement),
        _ => None,
    }
}

/// An operation of the two values on top of the stack.
fn arithmetic(operation: &Operation<Slice<'_>>, stack: &mut Vec<Term>) -> Result<Term, Unavailable> {
    if let Operation::Abs = operation {
        let value = pop(stack)?;
        let negative = value.clone().binary(Binary::LessSigned, Term::constant(0))?;
        return negative.choose(value.clone().unary(Unary::Negate)?, value);
    }
    if let Operation::PlusConstant { value } = operation {
        return pop(stack)?.binary(Binary::Add, Term::constant(*value))?.fitted();
    }
    let top = stack.last().map_or(Kind::Generic, |term| term.kind);
    // Shorter integers are held as what they are extended to, by zeros or by their sign.
    let signed = !matches!(top, Kind::Integer { signed: false, .. });
    let choose = |with: Binary, without: Binary| if signed { with } else { without };
    let compares = |operator| (operator, true);
    let (operator, is_comparison) = match operation {
        Operation::Plus => (Binary::Add, false),
        Operation::Minus => (Binary::Subtract, false),
        Operation::Mul => (Binary::Multiply, false),
        Operation::Div => (choose(Binary::DivideSigned, Binary::Divide), false),
        // Of generic values it has no sign.
        Operation::Mod if top == Kind::Generic => (Binary::Remainder, false),
        Operation::Mod => (choose(Binary::RemainderSigned, Binary::Remainder), false),
        Operation::And => (Binary::And, false),
        Operation::Or => (Binary::Or, false),
        Operation::Xor => (Binary::Xor, false),
        Operation::Shl => (Binary::ShiftLeft, false),
        Operation::Shr => (Binary::ShiftRight, false),
        Operation::Shra => (Binary::ShiftRightSigned, false),
        Operation::Eq => compares(Binary::Equal),
        Operation::Ne => compares(Binary::NotEqual),
        Operation::Lt => compares(choose(Binary::LessSigned, Binary::Less)),
        Operation::Le => compares(choose(Binary::LessOrEqualSigned, Binary::LessOrEqual)),
        Operation::Gt => compares(choose(Binary::GreaterSigned, Binary::Greater)),
        Operation::Ge => compares(choose(Binary::GreaterOrEqualSigned, Binary::GreaterOrEqual)),
        other => return Err(unsupported(name(other))),
    };
    let other = pop(stack)?;
    let mut one = pop(stack)?;
    if let (Operation::Shr, Kind::Integer { width, signed: true }) = (operation, one.kind) {
        one = one.unary(Unary::Cast(width))?;
    }
    let result = one.binary(operator, other)?;
    if is_comparison { Ok(Term { kind: Kind::Generic, ..result }) } else { result.fitted() }
}

fn name(operation: &Operation<Slice<'_>>) -> &'static str {
    match operation {
        Operation::PushObjectAddress => "DW_OP_push_object_address",
        Operation::VariableValue { .. } => "DW_OP_GNU_variable_value",
        Operation::ParameterRef { .. } => "DW_OP_GNU_parameter_ref",
        Operation::Deref { .. } => "DW_OP_xderef",
        _ => "an operation of another processor",
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

/// A register that is always there, by its DWARF number (System V psABI for x86-64, figure 3.36).
fn general(number: u16) -> Option<Register> {
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
