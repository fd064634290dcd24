//! Conditions as data: C's operators over registers, memory and constants.

use serde::{Deserialize, Serialize};

use crate::engine::hit::GeneralRegisters;

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

    /// What it holds.
    #[must_use]
    pub fn of(self, registers: &GeneralRegisters) -> u64 {
        match self {
            Register::Rip => registers.rip,
            Register::Rflags => registers.rflags.bits(),
            Register::FsBase => registers.fs_base,
            Register::GsBase => registers.gs_base,
            general => registers.gpr.get(general as usize).copied().unwrap_or(0),
        }
    }
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
    fn bytes(self) -> usize {
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
}

/// A node of an expression, before its operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Node {
    Constant(u64),
    Register(Register),
    Unary(Unary),
    Binary(Binary),
    /// `a ? b : c`
    Choice,
}

impl Node {
    fn operands(self) -> usize {
        match self {
            Node::Constant(_) | Node::Register(_) => 0,
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
}

/// An expression with a value of 64 bits.
///
/// ```
/// use probe::warden::{Binary, Expression, Register, Unary, Width};
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

    fn join<const N: usize>(node: Node, operands: [Expression; N]) -> Expression {
        let mut nodes = vec![node];
        operands.into_iter().for_each(|operand| nodes.extend(operand.nodes));
        Expression { nodes }
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

    /// Its value. `read` fills bytes from memory, and says whether it could. An invalid expression has any value.
    ///
    /// # Errors
    /// [`Undefined`]; not for operands that are not looked at.
    pub fn evaluate(
        &self,
        registers: &GeneralRegisters,
        read: &mut dyn FnMut(u64, &mut [u8]) -> bool,
    ) -> Result<u64, Undefined> {
        Evaluation { nodes: &self.nodes, next: 0, depth: 0, registers, read }.value()
    }
}

struct Evaluation<'a> {
    nodes: &'a [Node],
    next: usize,
    depth: usize,
    registers: &'a GeneralRegisters,
    read: &'a mut dyn FnMut(u64, &mut [u8]) -> bool,
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
            Node::Register(register) => Ok(register.of(self.registers)),
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
        })
    }

    fn load(&mut self, address: u64, width: Width, signed: bool) -> Result<u64, Undefined> {
        let mut bytes = [0; 8];
        let read = bytes.get_mut(..width.bytes()).is_some_and(|bytes| (self.read)(address, bytes));
        if read {
            Ok(width.extend(u64::from_le_bytes(bytes), signed))
        } else {
            Err(Undefined::Memory { address })
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
    })
}

#[cfg(test)]
mod tests {
    use emu::Rflags;

    use super::*;

    fn registers() -> GeneralRegisters {
        let gpr = std::array::from_fn(|index| index as u64 + 100);
        GeneralRegisters { gpr, rip: 1, rflags: Rflags::CF, fs_base: 2, gs_base: 3, segment: [0; 6] }
    }

    /// Memory has its address in each byte, but for a page at 0.
    fn value(expression: &Expression) -> Result<u64, Undefined> {
        assert!(expression.is_valid());
        expression.evaluate(&registers(), &mut |address, bytes| {
            bytes.fill(address as u8);
            address >= 4096
        })
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
        assert_eq!(all, (100..116).chain([1, 1, 2, 3]).collect::<Vec<_>>());
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
            assert!(expression.evaluate(&registers(), &mut |_, _| true).is_ok());
        }
    }
}
