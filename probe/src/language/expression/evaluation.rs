//! What expressions come to.

use super::{Binary, Expression, Machine, Node, Unary, Undefined, Width};

/// What is known of an expression's value beforehand.
pub(super) fn foresee(nodes: &[Node]) -> Foreseen {
    Outlook { nodes, next: 0, depth: 0 }.value()
}

/// The value of an expression.
pub(super) fn evaluate(nodes: &[Node], machine: &mut dyn Machine) -> Result<u64, Undefined> {
    Evaluation { nodes, next: 0, depth: 0, machine }.value()
}

/// What is known of a value beforehand.
#[derive(Clone, Copy)]
pub(super) struct Foreseen {
    /// That there is none.
    pub(super) never: bool,
    /// That it may be something else than 0.
    pub(super) may_hold: bool,
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
