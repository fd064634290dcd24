//! What is computed at a hit, as data: C's operators over registers, memory and constants.

mod evaluation;
mod machine;
mod operator;

use serde::{Deserialize, Serialize};

pub use evaluation::float_of_extended;
pub use machine::{Circumstance, ExtendedRegister, Machine, MachineMut, Register};
pub use operator::{Binary, Unary, Width};

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
        evaluation::foresee(&self.nodes).may_hold
    }

    /// Whether it is known beforehand that it has no value.
    #[must_use]
    pub fn is_never_known(&self) -> bool {
        evaluation::foresee(&self.nodes).never
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
        evaluation::evaluate(&self.nodes, machine)
    }
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
