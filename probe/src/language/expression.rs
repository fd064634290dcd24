//! What is computed at a hit, as data: C's operators over registers, memory and constants.

use serde::{Deserialize, Serialize};

/// A general register, RIP, RFLAGS, or a segment base.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "they are the processor's names")]
#[repr(u8)]
pub enum Register {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
    Rip,
    Rflags,
    FsBase,
    GsBase,
}

impl Register {
    /// All of them, in the order of their numbers.
    pub const ALL: [Register; 20] = [
        Register::Rax,
        Register::Rcx,
        Register::Rdx,
        Register::Rbx,
        Register::Rsp,
        Register::Rbp,
        Register::Rsi,
        Register::Rdi,
        Register::R8,
        Register::R9,
        Register::R10,
        Register::R11,
        Register::R12,
        Register::R13,
        Register::R14,
        Register::R15,
        Register::Rip,
        Register::Rflags,
        Register::FsBase,
        Register::GsBase,
    ];
}

/// A register that is fetched only when it is asked for, a quadword at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ExtendedRegister {
    /// ZMM0 to ZMM31, whose low parts are YMM and XMM: eight quadwords.
    Vector(u8),
    /// ST(0) to ST(7): the significand, then sign and exponent.
    St(u8),
    /// K0 to K7: one quadword.
    Opmask(u8),
}

/// What is known of a hit besides registers and memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Circumstance {
    /// The process.
    Pid,
    /// The thread.
    Tid,
    /// The processor on which the thread ran last.
    Cpu,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    Time,
    /// The first eight bytes of the thread's name.
    CommLow,
    /// The other eight.
    CommHigh,
    /// The selector in CS.
    CodeSegment,
    /// The selector in SS.
    StackSegment,
}

/// A stopped thread, as far as expressions look at it.
pub trait Machine {
    /// What a register holds.
    fn register(&mut self, register: Register) -> u64;

    /// A quadword of a register; `None` if there is no such register, or if it cannot be had.
    fn extended(&mut self, register: ExtendedRegister, quadword: u8) -> Option<u64>;

    /// `None` if it cannot be had.
    fn circumstance(&mut self, what: Circumstance) -> Option<u64>;

    /// Fills `bytes` from memory as far as it can be read, and returns how far that is.
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize;
}

/// A stopped thread that can be changed.
pub trait MachineMut: Machine {
    /// Changes a register. What the system would not store is found out before.
    fn set_register(&mut self, register: Register, value: u64);

    /// Changes a quadword of a register. Says whether there is such a register, and it can be had.
    fn set_extended(&mut self, register: ExtendedRegister, quadword: u8, value: u64) -> bool;

    /// Stores all of `bytes` in memory, or nothing. Says whether it could.
    fn write(&mut self, address: u64, bytes: &[u8]) -> bool;
}

/// How many bytes of memory are read, in the processor's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Width {
    /// 1.
    Byte,
    /// 2.
    Word,
    /// 4.
    Doubleword,
    /// 8.
    Quadword,
}

impl Width {
    /// How many.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Width::Byte => 1,
            Width::Word => 2,
            Width::Doubleword => 4,
            Width::Quadword => 8,
        }
    }

    /// The low bytes of `value`, extended to 64 bits by zeros or by their sign.
    fn extend(self, value: u64, signed: bool) -> u64 {
        let unused = 64 - 8 * self.bytes() as u32;
        match signed {
            true => ((value << unused) as i64 >> unused) as u64,
            false => value << unused >> unused,
        }
    }
}

/// An operator of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Unary {
    /// `-a`
    Negate,
    /// `~a`
    Complement,
    /// `!a`
    Not,
    /// The memory at address `a`.
    Load(Width),
    /// The same, extended by its sign.
    LoadSigned(Width),
    /// The low bytes of `a`, as a C cast to an unsigned type.
    Cast(Width),
    /// The same, to a signed type.
    CastSigned(Width),
    /// Of the string at address `a`, the first eight bytes; zeros from its end on.
    LoadText,
    /// `-a`, of a double.
    NegateFloat,
    /// A double with the value of the signed `a`.
    FloatOfSigned,
    /// A double with the value of the unsigned `a`.
    FloatOfUnsigned,
    /// A double with the value of the float in the low half of `a`.
    FloatOfSingle,
    /// The integer next to the double `a` towards zero, as Rust casts.
    SignedOfFloat,
    /// The same without a sign.
    UnsignedOfFloat,
    /// The float next to the double `a`, in the low half.
    SingleOfFloat,
}

/// An operator of two values. Values have 64 bits; where it matters, the name says whether they are taken for signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Binary {
    /// `a + b`
    Add,
    /// `a - b`
    Subtract,
    /// `a * b`
    Multiply,
    /// `a / b`
    Divide,
    /// `a / b`, signed.
    DivideSigned,
    /// `a % b`
    Remainder,
    /// `a % b`, signed.
    RemainderSigned,
    /// `a & b`
    And,
    /// `a | b`
    Or,
    /// `a ^ b`
    Xor,
    /// `a << b`; 0 where `b` is 64 or more.
    ShiftLeft,
    /// `a >> b`; 0 where `b` is 64 or more.
    ShiftRight,
    /// `a >> b`, signed; the sign alone where `b` is 64 or more.
    ShiftRightSigned,
    /// `a == b`
    Equal,
    /// `a != b`
    NotEqual,
    /// `a < b`
    Less,
    /// `a < b`, signed.
    LessSigned,
    /// `a <= b`
    LessOrEqual,
    /// `a <= b`, signed.
    LessOrEqualSigned,
    /// `a > b`
    Greater,
    /// `a > b`, signed.
    GreaterSigned,
    /// `a >= b`
    GreaterOrEqual,
    /// `a >= b`, signed.
    GreaterOrEqualSigned,
    /// `a && b`: `b` is not looked at where `a` is 0.
    AndThen,
    /// `a || b`: `b` is not looked at where `a` is not 0.
    OrElse,
    /// `a + b`, of doubles, as the others that follow.
    AddFloat,
    /// `a - b`
    SubtractFloat,
    /// `a * b`
    MultiplyFloat,
    /// `a / b`
    DivideFloat,
    /// `a == b`
    EqualFloat,
    /// `a != b`
    NotEqualFloat,
    /// `a < b`
    LessFloat,
    /// `a <= b`
    LessOrEqualFloat,
    /// `a > b`
    GreaterFloat,
    /// `a >= b`
    GreaterOrEqualFloat,
    /// The double next to an extended precision number with `a` as its significand, and `b` as its sign and exponent.
    FloatOfExtended,
}

/// A node of an expression, before its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Node {
    Constant(u64),
    Register(Register),
    Extended(ExtendedRegister, u8),
    Circumstance(Circumstance),
    Unary(Unary),
    Binary(Binary),
    /// `a ? b : c`
    Choice,
    /// What nothing tells.
    Unavailable,
}

impl Node {
    fn operands(self) -> usize {
        match self {
            Node::Constant(_)
            | Node::Register(_)
            | Node::Extended(..)
            | Node::Circumstance(_)
            | Node::Unavailable => 0,
            Node::Unary(_) => 1,
            Node::Binary(_) => 2,
            Node::Choice => 3,
        }
    }
}

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Undefined {
    /// It divides by zero.
    Division,
    /// It reads memory that cannot be read.
    Memory {
        /// The first address of what it reads.
        address: u64,
    },
    /// It asks for a register or a circumstance that cannot be had.
    Unavailable,
}

/// An expression with a value of 64 bits.
///
/// ```
/// use probe::language::{Binary, Expression, Register, Unary, Width};
///
/// // rdi != 0 && *(int *)(rdi + 8) > 100
/// let argument = Expression::register(Register::Rdi);
/// let field = (argument.clone().binary(Binary::Add, 8u64.into())).unary(Unary::LoadSigned(Width::Doubleword));
/// let filter = argument
///     .binary(Binary::NotEqual, 0u64.into())
///     .binary(Binary::AndThen, field.binary(Binary::GreaterSigned, 100u64.into()));
/// assert!(filter.is_valid());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Expression {
    /// Each node before its operands, so that there is nothing to follow in vain.
    nodes: Vec<Node>,
}

impl From<u64> for Expression {
    fn from(value: u64) -> Expression {
        Expression { nodes: vec![Node::Constant(value)] }
    }
}

impl Expression {
    /// The most nodes that a valid expression has.
    pub const MOST_NODES: usize = 4096;
    /// How deep a valid one is at most.
    pub const DEEPEST: usize = 200;

    /// What a register holds.
    #[must_use]
    pub fn register(register: Register) -> Expression {
        Expression { nodes: vec![Node::Register(register)] }
    }

    /// A quadword of a register that is not general.
    #[must_use]
    pub fn extended(register: ExtendedRegister, quadword: u8) -> Expression {
        Expression { nodes: vec![Node::Extended(register, quadword)] }
    }

    /// What is known of the hit.
    #[must_use]
    pub fn circumstance(what: Circumstance) -> Expression {
        Expression { nodes: vec![Node::Circumstance(what)] }
    }

    /// One that has no value, whatever the thread does.
    #[must_use]
    pub fn unavailable() -> Expression {
        Expression { nodes: vec![Node::Unavailable] }
    }

    /// Its value, if it is a constant.
    #[must_use]
    pub fn constant(&self) -> Option<u64> {
        match self.nodes[..] {
            [Node::Constant(value)] => Some(value),
            _ => None,
        }
    }

    /// The general register that this is, or of which it is a part: so many bytes, behind so many bits.
    pub(crate) fn register_part(&self) -> Option<(Register, Width, u32)> {
        match self.nodes[..] {
            [Node::Register(register)] => Some((register, Width::Quadword, 0)),
            [Node::Unary(Unary::Cast(width)), Node::Register(register)] => Some((register, width, 0)),
            [
                Node::Unary(Unary::Cast(width)),
                Node::Binary(Binary::ShiftRight),
                Node::Register(register),
                Node::Constant(bits),
            ] => Some((register, width, u32::try_from(bits).ok()?)),
            _ => None,
        }
    }

    /// The quadword of a register that this is.
    pub(crate) fn extended_part(&self) -> Option<(ExtendedRegister, u8)> {
        match self.nodes[..] {
            [Node::Extended(register, quadword)] => Some((register, quadword)),
            _ => None,
        }
    }

    /// An operator on this value.
    #[must_use]
    pub fn unary(self, operator: Unary) -> Expression {
        Expression::join(Node::Unary(operator), [self])
    }

    /// An operator on this value and another one.
    #[must_use]
    pub fn binary(self, operator: Binary, other: Expression) -> Expression {
        Expression::join(Node::Binary(operator), [self, other])
    }

    /// `self ? one : other`, of which only one is looked at.
    #[must_use]
    pub fn choose(self, one: Expression, other: Expression) -> Expression {
        Expression::join(Node::Choice, [self, one, other])
    }

    /// The same with other values in the place of registers, for which `replaced` has some.
    #[must_use]
    pub fn with_registers(&self, replaced: impl Fn(Register) -> Option<Expression>) -> Expression {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let other = if let Node::Register(register) = node { replaced(*register) } else { None };
            match other {
                Some(other) => nodes.extend(other.nodes),
                None => nodes.push(*node),
            }
        }
        Expression { nodes }
    }

    /// The registers that it looks at, those of [`Register`].
    pub fn registers(&self) -> impl Iterator<Item = Register> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Register(register) => Some(*register),
            _ => None,
        })
    }

    /// Whether it looks at any [`ExtendedRegister`].
    #[must_use]
    pub fn has_extended(&self) -> bool {
        self.nodes.iter().any(|node| matches!(node, Node::Extended(..)))
    }

    /// Whether it may be something else than 0, as far as it is known beforehand that it has no value.
    #[must_use]
    pub fn may_hold(&self) -> bool {
        Outlook { nodes: &self.nodes, next: 0, depth: 0 }.value().may_hold
    }

    /// Whether it is known beforehand that it has no value.
    #[must_use]
    pub fn is_never_known(&self) -> bool {
        Outlook { nodes: &self.nodes, next: 0, depth: 0 }.value().never
    }

    /// How many nodes it has, and how deep it is.
    pub(crate) fn extent(&self) -> (usize, usize) {
        let mut open: Vec<usize> = vec![1];
        let mut deepest = 0;
        for node in &self.nodes {
            if let Some(left) = open.last_mut() {
                *left = left.saturating_sub(1);
            }
            deepest = deepest.max(open.len());
            if node.operands() > 0 {
                open.push(node.operands());
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        (self.nodes.len(), deepest)
    }

    fn join<const N: usize>(node: Node, operands: [Expression; N]) -> Expression {
        let mut nodes = vec![node];
        operands.into_iter().for_each(|operand| nodes.extend(operand.nodes));
        Expression { nodes }
    }

    /// Whether it has a register's value itself in it, rather than as a part of an address from which memory is read. RIP
    /// is no register here: it only says where the object is.
    pub(crate) fn is_of_registers(&self) -> bool {
        // How many operands are still to come, at each depth, and whether they make an address.
        let mut open: Vec<(usize, bool)> = Vec::new();
        for node in &self.nodes {
            let within = open.last().is_some_and(|&(_, within)| within);
            match node {
                Node::Register(Register::Rip) => {}
                Node::Register(_) | Node::Extended(..) if !within => return true,
                _ => {}
            }
            if let Some((left, _)) = open.last_mut() {
                *left = left.saturating_sub(1);
            }
            let loads = matches!(node, Node::Unary(Unary::Load(_) | Unary::LoadSigned(_) | Unary::LoadText));
            if node.operands() > 0 {
                open.push((node.operands(), within || loads));
            }
            while open.last().is_some_and(|&(left, _)| left == 0) {
                open.pop();
            }
        }
        false
    }

    /// Whether it is complete, and neither too large nor too deep: a warden takes no other.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        if self.nodes.len() > Self::MOST_NODES {
            return false;
        }
        // How many operands are still to come, at each depth.
        let mut open: Vec<usize> = vec![1];
        for node in &self.nodes {
            match open.last_mut() {
                Some(left) => *left -= 1,
                None => return false,
            }
            if node.operands() > 0 {
                open.push(node.operands());
            }
            if open.len() > Self::DEEPEST {
                return false;
            }
            while open.last() == Some(&0) {
                open.pop();
            }
        }
        open.is_empty()
    }

    /// Its value. An invalid expression has any value.
    ///
    /// # Errors
    /// [`Undefined`]; not for operands that are not looked at.
    pub fn evaluate(&self, machine: &mut dyn Machine) -> Result<u64, Undefined> {
        Evaluation { nodes: &self.nodes, next: 0, depth: 0, machine }.value()
    }
}

/// What is known of a value beforehand.
#[derive(Clone, Copy)]
struct Foreseen {
    /// That there is none.
    never: bool,
    /// That it may be something else than 0.
    may_hold: bool,
}

struct Outlook<'a> {
    nodes: &'a [Node],
    next: usize,
    depth: usize,
}

impl Outlook<'_> {
    fn value(&mut self) -> Foreseen {
        let node = self.nodes.get(self.next).copied().unwrap_or(Node::Constant(0));
        self.next += 1;
        if self.depth > Expression::DEEPEST {
            return Foreseen { never: false, may_hold: true };
        }
        self.depth += 1;
        let known = |never| Foreseen { never, may_hold: !never };
        let found = match node {
            Node::Unavailable => known(true),
            Node::Unary(_) => known(self.value().never),
            Node::Binary(operator) => {
                let (first, second) = (self.value(), self.value());
                match operator {
                    Binary::AndThen => {
                        Foreseen { never: first.never, may_hold: first.may_hold && second.may_hold }
                    }
                    Binary::OrElse => Foreseen {
                        never: first.never,
                        may_hold: !first.never && (first.may_hold || second.may_hold),
                    },
                    _ => known(first.never || second.never),
                }
            }
            Node::Choice => {
                let (first, one, other) = (self.value(), self.value(), self.value());
                Foreseen {
                    never: first.never || one.never && other.never,
                    may_hold: !first.never && (one.may_hold || other.may_hold),
                }
            }
            _ => known(false),
        };
        self.depth -= 1;
        found
    }
}

struct Evaluation<'a> {
    nodes: &'a [Node],
    next: usize,
    depth: usize,
    machine: &'a mut dyn Machine,
}

impl Evaluation<'_> {
    fn value(&mut self) -> Result<u64, Undefined> {
        if self.depth > Expression::DEEPEST {
            return Ok(0);
        }
        self.depth += 1;
        let value = self.node();
        self.depth -= 1;
        value
    }

    fn node(&mut self) -> Result<u64, Undefined> {
        let node = self.nodes.get(self.next).copied().unwrap_or(Node::Constant(0));
        self.next += 1;
        match node {
            Node::Constant(value) => Ok(value),
            Node::Register(register) => Ok(self.machine.register(register)),
            Node::Extended(register, quadword) => {
                self.machine.extended(register, quadword).ok_or(Undefined::Unavailable)
            }
            Node::Circumstance(what) => self.machine.circumstance(what).ok_or(Undefined::Unavailable),
            Node::Unavailable => Err(Undefined::Unavailable),
            Node::Unary(operator) => {
                let value = self.value()?;
                self.unary(operator, value)
            }
            Node::Binary(operator @ (Binary::AndThen | Binary::OrElse)) => {
                let first = self.value()? != 0;
                if first == (operator == Binary::OrElse) {
                    self.skip(1);
                    return Ok(first.into());
                }
                Ok((self.value()? != 0).into())
            }
            Node::Binary(operator) => {
                let first = self.value()?;
                binary(operator, first, self.value()?)
            }
            Node::Choice => {
                let first = self.value()? != 0;
                self.skip(usize::from(!first));
                let value = self.value()?;
                self.skip(usize::from(first));
                Ok(value)
            }
        }
    }

    /// Passes over so many operands.
    fn skip(&mut self, operands: usize) {
        let mut open = operands;
        while open > 0
            && let Some(node) = self.nodes.get(self.next)
        {
            self.next += 1;
            open = open - 1 + node.operands();
        }
    }

    fn unary(&mut self, operator: Unary, value: u64) -> Result<u64, Undefined> {
        Ok(match operator {
            Unary::Negate => value.wrapping_neg(),
            Unary::Complement => !value,
            Unary::Not => (value == 0).into(),
            Unary::Load(width) => self.load(value, width, false)?,
            Unary::LoadSigned(width) => self.load(value, width, true)?,
            Unary::Cast(width) => width.extend(value, false),
            Unary::CastSigned(width) => width.extend(value, true),
            Unary::LoadText => self.load_text(value)?,
            Unary::NegateFloat => (-f64::from_bits(value)).to_bits(),
            Unary::FloatOfSigned => (value.cast_signed() as f64).to_bits(),
            Unary::FloatOfUnsigned => (value as f64).to_bits(),
            Unary::FloatOfSingle => f64::from(f32::from_bits(value as u32)).to_bits(),
            Unary::SignedOfFloat => (f64::from_bits(value) as i64).cast_unsigned(),
            Unary::UnsignedOfFloat => f64::from_bits(value) as u64,
            Unary::SingleOfFloat => u64::from((f64::from_bits(value) as f32).to_bits()),
        })
    }

    fn load(&mut self, address: u64, width: Width, signed: bool) -> Result<u64, Undefined> {
        let mut bytes = [0; 8];
        let wanted = bytes.get_mut(..width.bytes()).unwrap_or_default();
        match self.machine.read_up_to(address, wanted) {
            read if read == wanted.len() => Ok(width.extend(u64::from_le_bytes(bytes), signed)),
            read => Err(Undefined::Memory { address: address.wrapping_add(read as u64) }),
        }
    }

    fn load_text(&mut self, address: u64) -> Result<u64, Undefined> {
        let mut bytes = [0; 8];
        let read = self.machine.read_up_to(address, &mut bytes);
        let end = bytes.iter().take(read).position(|&byte| byte == 0);
        match end.or((read == bytes.len()).then_some(read)) {
            Some(end) => {
                bytes.iter_mut().skip(end).for_each(|byte| *byte = 0);
                Ok(u64::from_le_bytes(bytes))
            }
            None => Err(Undefined::Memory { address: address.wrapping_add(read as u64) }),
        }
    }
}

fn binary(operator: Binary, a: u64, b: u64) -> Result<u64, Undefined> {
    let (signed_a, signed_b) = (a as i64, b as i64);
    let shift = u32::try_from(b).unwrap_or(u32::MAX);
    let divided = |value: Option<u64>| value.ok_or(Undefined::Division);
    Ok(match operator {
        Binary::Add => a.wrapping_add(b),
        Binary::Subtract => a.wrapping_sub(b),
        Binary::Multiply => a.wrapping_mul(b),
        Binary::Divide => divided(a.checked_div(b))?,
        Binary::DivideSigned => divided((b != 0).then(|| signed_a.wrapping_div(signed_b) as u64))?,
        Binary::Remainder => divided(a.checked_rem(b))?,
        Binary::RemainderSigned => divided((b != 0).then(|| signed_a.wrapping_rem(signed_b) as u64))?,
        Binary::And => a & b,
        Binary::Or => a | b,
        Binary::Xor => a ^ b,
        Binary::ShiftLeft => a.checked_shl(shift).unwrap_or(0),
        Binary::ShiftRight => a.checked_shr(shift).unwrap_or(0),
        Binary::ShiftRightSigned => (signed_a >> shift.min(63)) as u64,
        Binary::Equal => (a == b).into(),
        Binary::NotEqual => (a != b).into(),
        Binary::Less => (a < b).into(),
        Binary::LessSigned => (signed_a < signed_b).into(),
        Binary::LessOrEqual => (a <= b).into(),
        Binary::LessOrEqualSigned => (signed_a <= signed_b).into(),
        Binary::Greater => (a > b).into(),
        Binary::GreaterSigned => (signed_a > signed_b).into(),
        Binary::GreaterOrEqual => (a >= b).into(),
        Binary::GreaterOrEqualSigned => (signed_a >= signed_b).into(),
        Binary::AndThen => (a != 0 && b != 0).into(),
        Binary::OrElse => (a != 0 || b != 0).into(),
        Binary::FloatOfExtended => float_of_extended(a, b as u16).to_bits(),
        _ => return Ok(of_floats(operator, f64::from_bits(a), f64::from_bits(b))),
    })
}

/// The operators of doubles.
fn of_floats(operator: Binary, a: f64, b: f64) -> u64 {
    match operator {
        Binary::AddFloat => (a + b).to_bits(),
        Binary::SubtractFloat => (a - b).to_bits(),
        Binary::MultiplyFloat => (a * b).to_bits(),
        Binary::DivideFloat => (a / b).to_bits(),
        Binary::EqualFloat => (a == b).into(),
        Binary::NotEqualFloat => (a != b).into(),
        Binary::LessFloat => (a < b).into(),
        Binary::LessOrEqualFloat => (a <= b).into(),
        Binary::GreaterFloat => (a > b).into(),
        Binary::GreaterOrEqualFloat => (a >= b).into(),
        // Those of integers are elsewhere.
        _ => 0,
    }
}

/// The double next to an extended precision number (SDM volume 1, section 4.2.2).
#[must_use]
pub fn float_of_extended(significand: u64, sign_exponent: u16) -> f64 {
    /// What is subtracted from the exponent, for a significand that is taken for an integer.
    const BIAS: i32 = 16383 + 63;
    const LARGEST: u16 = 0x7fff;
    let exponent = sign_exponent & LARGEST;
    let magnitude = match exponent {
        LARGEST if significand << 1 == 0 => f64::INFINITY,
        LARGEST => f64::NAN,
        // Its low bits are rounded once, here or, where the result is subnormal, by the multiplication, which
        // comes in halves because the whole factor may be no double.
        _ => {
            let power = (i32::from(exponent.max(1)) - BIAS).clamp(-2200, 2200);
            let half = power / 2;
            significand as f64 * 2f64.powi(half) * 2f64.powi(power - half)
        }
    };
    if sign_exponent > LARGEST { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_values_or_parts_of_addresses() {
        let register = |register| Expression::register(register);
        let address = || register(Register::Rbp).binary(Binary::Add, 8u64.into());
        let loaded = || address().unary(Unary::Load(Width::Doubleword));
        for (expression, expected) in [
            (register(Register::Rax), true),
            (address(), true),
            (loaded(), false),
            (loaded().binary(Binary::Add, loaded()), false),
            (loaded().binary(Binary::Add, register(Register::Rcx)), true),
            (loaded().choose(loaded(), address()), true),
            (address().unary(Unary::LoadText).unary(Unary::Not), false),
            (register(Register::Rip).binary(Binary::Add, 8u64.into()), false),
            (Expression::extended(ExtendedRegister::Vector(0), 0), true),
        ] {
            assert_eq!(expression.is_of_registers(), expected, "{expression:?}");
        }
        assert_eq!(loaded().registers().collect::<Vec<_>>(), [Register::Rbp]);
    }

    /// Memory has its address in each byte, but for a page at 0. Each register holds its number and 100.
    struct Even;

    impl Machine for Even {
        fn register(&mut self, register: Register) -> u64 {
            register as u64 + 100
        }

        fn extended(&mut self, register: ExtendedRegister, quadword: u8) -> Option<u64> {
            match register {
                ExtendedRegister::Vector(number) => {
                    (number < 32 && quadword < 8).then(|| u64::from(number) * 10 + u64::from(quadword))
                }
                _ => None,
            }
        }

        fn circumstance(&mut self, what: Circumstance) -> Option<u64> {
            (what == Circumstance::Tid).then_some(7)
        }

        fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
            if address < 4096 {
                return 0;
            }
            bytes.fill(address as u8);
            bytes.len()
        }
    }

    fn value(expression: &Expression) -> Result<u64, Undefined> {
        assert!(expression.is_valid());
        expression.evaluate(&mut Even)
    }

    fn apply(operator: Binary, a: u64, b: u64) -> Result<u64, Undefined> {
        value(&Expression::from(a).binary(operator, b.into()))
    }

    #[test]
    fn operators_are_those_of_c() {
        let minus = |value: i64| value as u64;
        for (operator, a, b, expected) in [
            (Binary::Subtract, 3, 5, minus(-2)),
            (Binary::Divide, minus(-8), 2, (1 << 63) - 4),
            (Binary::DivideSigned, minus(-8), 3, minus(-2)),
            (Binary::RemainderSigned, minus(-8), 3, minus(-2)),
            (Binary::DivideSigned, 1 << 63, minus(-1), 1 << 63),
            (Binary::RemainderSigned, 1 << 63, minus(-1), 0),
            (Binary::ShiftLeft, 1, 64, 0),
            (Binary::ShiftLeft, 1, u64::MAX, 0),
            (Binary::ShiftRight, u64::MAX, 63, 1),
            (Binary::ShiftRightSigned, minus(-8), 1, minus(-4)),
            (Binary::ShiftRightSigned, minus(-8), 1 << 40, minus(-1)),
            (Binary::Less, minus(-1), 1, 0),
            (Binary::LessSigned, minus(-1), 1, 1),
            (Binary::GreaterOrEqualSigned, 1, minus(-1), 1),
            (Binary::AndThen, 2, 4, 1),
            (Binary::OrElse, 0, 4, 1),
            (Binary::And, 6, 3, 2),
            (Binary::Xor, 6, 3, 5),
        ] {
            assert_eq!(apply(operator, a, b), Ok(expected), "{operator:?}");
        }
        for operator in [Binary::Divide, Binary::DivideSigned, Binary::Remainder, Binary::RemainderSigned] {
            assert_eq!(apply(operator, 1, 0), Err(Undefined::Division), "{operator:?}");
        }
        let load = |unary| value(&Expression::from(0x80f0).unary(unary));
        assert_eq!(load(Unary::Load(Width::Word)), Ok(0xf0f0));
        assert_eq!(load(Unary::LoadSigned(Width::Doubleword)), Ok(0xffff_ffff_f0f0_f0f0));
        assert_eq!(load(Unary::Cast(Width::Byte)), Ok(0xf0));
        assert_eq!(load(Unary::CastSigned(Width::Byte)), Ok(minus(-16)));
        assert_eq!(load(Unary::Not), Ok(0));
        let all: Vec<_> =
            Register::ALL.map(|register| value(&Expression::register(register)).unwrap()).into();
        assert_eq!(all, (100..120).collect::<Vec<_>>());
    }

    #[test]
    fn floats_are_doubles() {
        let of = |value: f64| Expression::from(value.to_bits());
        let sum = of(1.5).binary(Binary::AddFloat, of(0.25));
        assert_eq!(value(&sum), Ok(1.75f64.to_bits()));
        assert_eq!(value(&sum.clone().binary(Binary::GreaterFloat, of(1.7))), Ok(1));
        assert_eq!(value(&of(f64::NAN).binary(Binary::EqualFloat, of(f64::NAN))), Ok(0));
        assert_eq!(value(&sum.unary(Unary::SignedOfFloat)), Ok(1));
        let single = Expression::from(u64::from(2.5f32.to_bits()) | 7 << 32).unary(Unary::FloatOfSingle);
        assert_eq!(value(&single), Ok(2.5f64.to_bits()));
        assert_eq!(value(&Expression::from(u64::MAX).unary(Unary::FloatOfSigned)), Ok((-1f64).to_bits()));
    }

    #[test]
    fn extended_precision_becomes_the_next_double() {
        for (significand, sign_exponent, expected) in [
            (1 << 63, 16383, 1.0),
            (3 << 62, 0xc000, -3.0),
            (0xc90f_daa2_2168_c235, 0x4000, std::f64::consts::PI),
            (0, 0, 0.0),
            (0, 0x8000, -0.0),
            (1 << 63, 0x7fff, f64::INFINITY),
            (1 << 63, 16383 + 1024, f64::INFINITY),
            (1 << 63, 16383 - 1022, f64::MIN_POSITIVE),
            (1 << 63, 16383 - 1074, 5e-324),
            (1 << 63, 1, 0.0),
        ] {
            let found = float_of_extended(significand, sign_exponent);
            assert_eq!(found.to_bits(), expected.to_bits(), "{significand:#x} {sign_exponent:#x}: {found}");
        }
        assert!(float_of_extended(3 << 62, 0x7fff).is_nan());
    }

    #[test]
    fn what_cannot_be_had_is_undefined() {
        let vector =
            |number, quadword| value(&Expression::extended(ExtendedRegister::Vector(number), quadword));
        assert_eq!((vector(3, 1), vector(32, 0)), (Ok(31), Err(Undefined::Unavailable)));
        assert_eq!(value(&Expression::circumstance(Circumstance::Tid)), Ok(7));
        assert_eq!(value(&Expression::circumstance(Circumstance::Cpu)), Err(Undefined::Unavailable));
        let text = |address: u64| value(&Expression::from(address).unary(Unary::LoadText));
        assert_eq!((text(0x8000), text(0x8041)), (Ok(0), Ok(0x4141_4141_4141_4141)));
        assert_eq!(text(0), Err(Undefined::Memory { address: 0 }));
    }

    #[test]
    fn what_is_not_looked_at_has_no_errors() {
        let null = Expression::from(0).unary(Unary::Load(Width::Quadword));
        assert_eq!(value(&null), Err(Undefined::Memory { address: 0 }));
        assert_eq!(value(&Expression::from(0).binary(Binary::AndThen, null.clone())), Ok(0));
        assert_eq!(value(&Expression::from(5).binary(Binary::OrElse, null.clone())), Ok(1));
        assert!(value(&Expression::from(5).binary(Binary::AndThen, null.clone())).is_err());
        // What follows is found.
        let choice = |first: u64, one: &Expression, other: &Expression| {
            let chosen = Expression::from(first).choose(one.clone(), other.clone());
            value(&chosen.binary(Binary::Add, 1000u64.into()))
        };
        let sum = Expression::from(2).binary(Binary::Add, 3u64.into());
        assert_eq!((choice(1, &sum, &null), choice(0, &null, &sum)), (Ok(1005), Ok(1005)));
    }

    #[test]
    fn it_is_known_beforehand_what_has_no_value() {
        let gone = || Expression::unavailable().binary(Binary::Greater, 3.into());
        let here = || Expression::register(Register::Rdi);
        for (expression, never, may_hold) in [
            (here(), false, true),
            (gone(), true, false),
            (gone().unary(Unary::Not), true, false),
            (gone().binary(Binary::AndThen, here()), true, false),
            (here().binary(Binary::AndThen, gone()), false, false),
            (here().binary(Binary::OrElse, gone()), false, true),
            (gone().binary(Binary::OrElse, here()), true, false),
            (here().choose(gone(), here()), false, true),
            (here().choose(gone(), gone()), true, false),
            (gone().choose(here(), here()), true, false),
        ] {
            let found = (expression.is_never_known(), expression.may_hold());
            assert_eq!(found, (never, may_hold), "{expression:?}");
        }
        assert_eq!(value(&gone()), Err(Undefined::Unavailable));
    }

    #[test]
    fn registers_are_replaced_by_other_values() {
        let sum =
            Expression::register(Register::Rdi).binary(Binary::Add, Expression::register(Register::Rsi));
        let other = Expression::from(5).unary(Unary::Negate);
        let replaced = sum.with_registers(|register| (register == Register::Rdi).then(|| other.clone()));
        assert_eq!(value(&replaced), Ok((Register::Rsi as u64 + 100).wrapping_sub(5)));
        assert_eq!((sum.extent(), replaced.extent()), ((3, 2), (4, 3)));
    }

    #[test]
    fn what_is_not_complete_or_too_deep_is_invalid_and_does_no_harm() {
        let deep = |depth| (1..depth).fold(Expression::from(1), |inner, _| inner.unary(Unary::Negate));
        assert!(deep(Expression::DEEPEST).is_valid());
        assert!(!deep(Expression::DEEPEST + 1).is_valid());
        let incomplete = Expression { nodes: vec![Node::Binary(Binary::Add), Node::Constant(1)] };
        let two = Expression { nodes: vec![Node::Constant(1), Node::Constant(1)] };
        let none = Expression { nodes: Vec::new() };
        let endless = Expression { nodes: vec![Node::Choice; 100_000] };
        let mut nodes = vec![Node::Unary(Unary::Negate); 100_000];
        nodes.push(Node::Constant(1));
        for expression in [incomplete, two, none, endless, Expression { nodes }] {
            assert!(!expression.is_valid());
            assert!(expression.evaluate(&mut Even).is_ok());
        }
    }
}
