//! Computing on DWARF's stack, whose values are as large as an address, or of a base type (DWARF 5, section 2.5.1.4).

use gimli::Operation;

use super::location::Unavailable;
use super::sections::Slice;
use crate::language::{Binary, Expression, Unary, Width};

/// How large and how deep what is computed may become.
const MOST_NODES: usize = 1000;
const DEEPEST: usize = 150;

/// What the bits on DWARF's stack are taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As large as an address, with a sign where that matters.
    Generic,
    Integer {
        width: Width,
        signed: bool,
    },
    /// A float, in the low half, or a double.
    Float {
        single: bool,
    },
}

/// A value on DWARF's stack.
#[derive(Clone, Debug)]
pub(super) struct Term {
    pub(super) expression: Expression,
    pub(super) nodes: usize,
    pub(super) depth: usize,
    pub(super) kind: Kind,
}

impl Term {
    pub(super) fn leaf(expression: Expression) -> Term {
        Term { expression, nodes: 1, depth: 1, kind: Kind::Generic }
    }

    pub(super) fn constant(value: u64) -> Term {
        Term::leaf(value.into())
    }

    pub(super) fn checked(self) -> Result<Term, Unavailable> {
        if self.nodes > MOST_NODES || self.depth > DEEPEST { Err(Unavailable::TooLarge) } else { Ok(self) }
    }

    pub(super) fn unary(self, operator: Unary) -> Result<Term, Unavailable> {
        let Term { expression, nodes, depth, kind } = self;
        Term { expression: expression.unary(operator), nodes: nodes + 1, depth: depth + 1, kind }.checked()
    }

    pub(super) fn binary(self, operator: Binary, other: Term) -> Result<Term, Unavailable> {
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

    pub(super) fn choose(self, one: Term, other: Term) -> Result<Term, Unavailable> {
        let nodes = self.nodes + one.nodes + other.nodes + 1;
        let depth = self.depth.max(one.depth).max(other.depth) + 1;
        let expression = self.expression.choose(one.expression, other.expression);
        Term { expression, nodes, depth, kind: one.kind }.checked()
    }

    /// The same with the size that its type has.
    pub(super) fn fitted(self) -> Result<Term, Unavailable> {
        match self.kind {
            Kind::Integer { width: Width::Quadword, .. } | Kind::Generic | Kind::Float { .. } => Ok(self),
            Kind::Integer { width, signed: true } => self.unary(Unary::CastSigned(width)),
            Kind::Integer { width, signed: false } => self.unary(Unary::Cast(width)),
        }
    }

    /// A value of no type that was computed elsewhere.
    pub(super) fn of(expression: Expression) -> Result<Term, Unavailable> {
        let (nodes, depth) = expression.extent();
        Term { expression, nodes, depth, kind: Kind::Generic }.checked()
    }

    /// The same bits as those of another kind.
    pub(super) fn taken_for(self, kind: Kind) -> Result<Term, Unavailable> {
        Term { kind, ..self }.fitted()
    }

    /// The value of a float as a double.
    fn into_double(self) -> Result<Term, Unavailable> {
        match self.kind {
            Kind::Float { single: true } => {
                Ok(Term { kind: Kind::Float { single: false }, ..self.unary(Unary::FloatOfSingle)? })
            }
            _ => Ok(self),
        }
    }

    /// The float of a double that was computed from such.
    fn rounded(self, single: bool) -> Result<Term, Unavailable> {
        let rounded = if single { self.unary(Unary::SingleOfFloat)? } else { self };
        Ok(Term { kind: Kind::Float { single }, ..rounded })
    }

    /// The value of another kind that is next to it.
    pub(super) fn converted(self, kind: Kind) -> Result<Term, Unavailable> {
        match (self.kind, kind) {
            (Kind::Float { .. }, Kind::Float { single }) => self.into_double()?.rounded(single),
            (Kind::Float { .. }, kind) => {
                let unsigned = matches!(kind, Kind::Integer { signed: false, .. });
                let operator = if unsigned { Unary::UnsignedOfFloat } else { Unary::SignedOfFloat };
                self.into_double()?.unary(operator)?.taken_for(kind)
            }
            // It would be rounded twice.
            (Kind::Generic | Kind::Integer { width: Width::Quadword, .. }, Kind::Float { single: true }) => {
                Err(unsupported("DW_OP_convert of 64 bits to a float"))
            }
            (Kind::Integer { signed: false, .. }, Kind::Float { single }) => {
                self.unary(Unary::FloatOfUnsigned)?.rounded(single)
            }
            (_, Kind::Float { single }) => self.unary(Unary::FloatOfSigned)?.rounded(single),
            (_, kind) => Term { kind: Kind::Generic, ..self }.taken_for(kind),
        }
    }
}

pub(super) fn pop(stack: &mut Vec<Term>) -> Result<Term, Unavailable> {
    stack.pop().ok_or_else(empty)
}

pub(super) fn empty() -> Unavailable {
    Unavailable::Corrupt { what: "an operation on an empty stack".to_owned() }
}

pub(super) fn unsupported(name: &str) -> Unavailable {
    Unavailable::Operation { name: name.to_owned() }
}

/// An operation of what is on top of the stack: one value or two.
pub(super) fn arithmetic(
    operation: &Operation<Slice<'_>>,
    stack: &mut Vec<Term>,
) -> Result<Term, Unavailable> {
    let float = |term: &Term| match term.kind {
        Kind::Float { single } => Some(single),
        Kind::Generic | Kind::Integer { .. } => None,
    };
    let has_two = !matches!(
        operation,
        Operation::Neg | Operation::Not | Operation::Abs | Operation::PlusConstant { .. }
    );
    let operands = stack.iter().rev().take(if has_two { 2 } else { 1 });
    if let Some(single) = { operands }.find_map(float) {
        return of_floats(operation, stack, single);
    }
    if let Operation::Neg = operation {
        return pop(stack)?.unary(Unary::Negate)?.fitted();
    }
    if let Operation::Not = operation {
        return pop(stack)?.unary(Unary::Complement)?.fitted();
    }
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

/// The same of floats. A sum, difference, product or quotient of singles that is rounded from a double is the one that is
/// rounded once (Figueroa, "When is double rounding innocuous?").
fn of_floats(
    operation: &Operation<Slice<'_>>,
    stack: &mut Vec<Term>,
    single: bool,
) -> Result<Term, Unavailable> {
    // What a register held has no type.
    let alike = |term: Term| match term.kind {
        Kind::Generic => Ok(Term { kind: Kind::Float { single }, ..term }),
        Kind::Float { single: other } if other == single => Ok(term),
        _ => Err(unsupported("an operation of a float and another number")),
    };
    let top = alike(pop(stack)?)?.into_double()?;
    let negated = |value: Term| value.unary(Unary::NegateFloat);
    match operation {
        Operation::Neg => return negated(top)?.rounded(single),
        Operation::Abs => {
            let negative = top.clone().binary(Binary::LessFloat, Term::constant(0))?;
            return negative.choose(negated(top.clone())?, top)?.rounded(single);
        }
        _ => {}
    }
    let (operator, is_comparison) = match operation {
        Operation::Plus => (Binary::AddFloat, false),
        Operation::Minus => (Binary::SubtractFloat, false),
        Operation::Mul => (Binary::MultiplyFloat, false),
        Operation::Div => (Binary::DivideFloat, false),
        Operation::Eq => (Binary::EqualFloat, true),
        Operation::Ne => (Binary::NotEqualFloat, true),
        Operation::Lt => (Binary::LessFloat, true),
        Operation::Le => (Binary::LessOrEqualFloat, true),
        Operation::Gt => (Binary::GreaterFloat, true),
        Operation::Ge => (Binary::GreaterOrEqualFloat, true),
        _ => return Err(unsupported("an operation of floats that has no meaning")),
    };
    let first = alike(pop(stack)?)?;
    let result = first.into_double()?.binary(operator, top)?;
    if is_comparison { Ok(Term { kind: Kind::Generic, ..result }) } else { result.rounded(single) }
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
