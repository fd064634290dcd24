//! Numbers: what C's operators come to, and comparisons of texts, which are numbers.

use crate::arguments::compile::{Compiled, Compiler};
use crate::arguments::operand::{Class, INT, Location, Number, Operand, Place, U64, plus};
use crate::arguments::syntax::{Node, Syntax};
use crate::language::types::{Type, TypeId};
use crate::language::{Binary, Circumstance, Expression, Unary};

impl Compiler<'_> {
    pub(crate) fn number(&mut self, node: &Node) -> Compiled<Number> {
        match &node.syntax {
            Syntax::Number(_)
            | Syntax::Float(_)
            | Syntax::Character(_)
            | Syntax::Unary("-" | "+" | "~" | "!", _)
            | Syntax::Binary(..)
            | Syntax::Choice(..)
            | Syntax::SizeOf(_)
            | Syntax::SizeOfType(_) => self.computed(node),
            _ => {
                let operand = self.operand(node)?;
                self.number_of(node, &operand)
            }
        }
    }

    /// What is a number by its form.
    pub(crate) fn computed(&mut self, node: &Node) -> Compiled<Number> {
        Ok(match &node.syntax {
            &Syntax::Number(value) => {
                let class = if i32::try_from(value).is_ok() {
                    INT
                } else {
                    Class::Integer { bytes: 8, signed: i64::try_from(value).is_ok() }
                };
                Number { value: value.into(), class }
            }
            &Syntax::Float(value) => Number { value: value.to_bits().into(), class: Class::Float },
            &Syntax::Character(letter) => Number { value: u64::from(letter).into(), class: INT },
            Syntax::Unary("!", operand) => {
                let value = self.number(operand)?.is_true().unary(Unary::Not);
                Number { value, class: INT }
            }
            Syntax::Unary(sign, operand) => {
                let number = self.number(operand)?;
                match (*sign, number.class) {
                    ("+", _) => number,
                    ("-", Class::Float) => {
                        Number { value: number.value.unary(Unary::NegateFloat), class: Class::Float }
                    }
                    (_, Class::Float | Class::Pointer(_)) => {
                        return self.wrong(node, "this takes an integer");
                    }
                    (sign, class) => {
                        let class = promoted(class);
                        let operator = if sign == "-" { Unary::Negate } else { Unary::Complement };
                        self.cut(node, number.value.unary(operator), class)?
                    }
                }
            }
            Syntax::Binary(sign, left, right) => self.binary(node, sign, left, right)?,
            Syntax::Choice(condition, one, other) => {
                let condition = self.number(condition)?.is_true();
                let (one, other) = (self.number(one)?, self.number(other)?);
                let (class, one, other) = match (one.class, other.class) {
                    (Class::Float, _) | (_, Class::Float) => (Class::Float, one.to_float(), other.to_float()),
                    (Class::Pointer(_), _) => (one.class, one.value, other.value),
                    (_, Class::Pointer(_)) => (other.class, one.value, other.value),
                    (a, b) => (common(a, b), one.value, other.value),
                };
                Number { value: condition.choose(one, other), class }
            }
            Syntax::SizeOf(operand) => {
                let of = self.operand(operand)?.of;
                self.size(node, Some(of))?
            }
            Syntax::SizeOfType(name) => {
                let of = self.type_of(node, name)?;
                self.size(node, of)?
            }
            _ => return self.wrong(node, "this is no number"),
        })
    }

    fn size(&self, node: &Node, of: Option<TypeId>) -> Compiled<Number> {
        match of.and_then(|of| self.types.size_of(of)) {
            Some(bytes) => Ok(Number { value: bytes.into(), class: U64 }),
            None => self.wrong(node, "its size is not known"),
        }
    }

    /// What C makes of a result that has more bits than its type.
    fn cut(&self, node: &Node, value: Expression, class: Class) -> Compiled<Number> {
        let Class::Integer { bytes, signed } = class else { return Ok(Number { value, class }) };
        match (Number { value, class }).to_integer(bytes, signed) {
            Some(value) => Ok(Number { value, class }),
            None => self.wrong(node, "numbers of this size cannot be computed"),
        }
    }

    fn binary(&mut self, node: &Node, sign: &str, left: &Node, right: &Node) -> Compiled<Number> {
        if let "==" | "!=" = sign
            && let Some(number) = self.texts(node, sign, left, right)?
        {
            return Ok(number);
        }
        let (a, b) = (self.number(left)?, self.number(right)?);
        let truth = |value| Number { value, class: INT };
        match sign {
            "&&" => return Ok(truth(a.is_true().binary(Binary::AndThen, b.is_true()))),
            "||" => return Ok(truth(a.is_true().binary(Binary::OrElse, b.is_true()))),
            _ => {}
        }
        if a.class == Class::Float || b.class == Class::Float {
            return self.of_floats(node, sign, &a, &b);
        }
        match (a.class, b.class) {
            (Class::Pointer(to), Class::Integer { .. }) if matches!(sign, "+" | "-") => {
                return self.moved(node, sign, a.value, to, b.value);
            }
            (Class::Integer { .. }, Class::Pointer(to)) if sign == "+" => {
                return self.moved(node, sign, b.value, to, a.value);
            }
            (Class::Pointer(to), Class::Pointer(_)) if sign == "-" => {
                let bytes = to.and_then(|to| self.types.size_of(to)).unwrap_or(1).max(1);
                let distance = a.value.binary(Binary::Subtract, b.value);
                let value = distance.binary(Binary::DivideSigned, bytes.into());
                return Ok(Number { value, class: Class::Integer { bytes: 8, signed: true } });
            }
            _ => {}
        }
        self.of_integers(node, sign, a, b)
    }

    /// A pointer so many elements on.
    fn moved(
        &self,
        node: &Node,
        sign: &str,
        pointer: Expression,
        to: Option<TypeId>,
        count: Expression,
    ) -> Compiled<Number> {
        let Some(bytes) = to.map_or(Some(1), |to| self.types.size_of(to)) else {
            return self.wrong(node, "what the pointer leads to has no known size");
        };
        let distance = count.binary(Binary::Multiply, bytes.into());
        let operator = if sign == "+" { Binary::Add } else { Binary::Subtract };
        Ok(Number { value: pointer.binary(operator, distance), class: Class::Pointer(to) })
    }

    fn of_floats(&self, node: &Node, sign: &str, a: &Number, b: &Number) -> Compiled<Number> {
        let (operator, class) = match sign {
            "+" => (Binary::AddFloat, Class::Float),
            "-" => (Binary::SubtractFloat, Class::Float),
            "*" => (Binary::MultiplyFloat, Class::Float),
            "/" => (Binary::DivideFloat, Class::Float),
            "==" => (Binary::EqualFloat, INT),
            "!=" => (Binary::NotEqualFloat, INT),
            "<" => (Binary::LessFloat, INT),
            "<=" => (Binary::LessOrEqualFloat, INT),
            ">" => (Binary::GreaterFloat, INT),
            ">=" => (Binary::GreaterOrEqualFloat, INT),
            _ => return self.wrong(node, format!("`{sign}` takes integers")),
        };
        Ok(Number { value: a.to_float().binary(operator, b.to_float()), class })
    }

    fn of_integers(&self, node: &Node, sign: &str, a: Number, b: Number) -> Compiled<Number> {
        // The count of a shift has no say.
        let class = if matches!(sign, "<<" | ">>") { promoted(a.class) } else { common(a.class, b.class) };
        let (Some(left), Some(right)) = (converted(&a, class), converted(&b, class)) else {
            return self.wrong(node, "numbers of this size cannot be computed");
        };
        let signed = matches!(class, Class::Integer { signed: true, .. });
        let either = |if_signed, if_not| if signed { if_signed } else { if_not };
        let (operator, class) = match sign {
            "+" => (Binary::Add, class),
            "-" => (Binary::Subtract, class),
            "*" => (Binary::Multiply, class),
            "/" => (either(Binary::DivideSigned, Binary::Divide), class),
            "%" => (either(Binary::RemainderSigned, Binary::Remainder), class),
            "&" => (Binary::And, class),
            "|" => (Binary::Or, class),
            "^" => (Binary::Xor, class),
            "<<" => (Binary::ShiftLeft, class),
            ">>" => (either(Binary::ShiftRightSigned, Binary::ShiftRight), class),
            "==" => (Binary::Equal, INT),
            "!=" => (Binary::NotEqual, INT),
            "<" => (either(Binary::LessSigned, Binary::Less), INT),
            "<=" => (either(Binary::LessOrEqualSigned, Binary::LessOrEqual), INT),
            ">" => (either(Binary::GreaterSigned, Binary::Greater), INT),
            ">=" => (either(Binary::GreaterOrEqualSigned, Binary::GreaterOrEqual), INT),
            _ => return self.wrong(node, format!("`{sign}` is no operator of two numbers")),
        };
        self.cut(node, left.binary(operator, right), class)
    }

    /// A comparison with a text in quotes or the thread's name; `None` if there is none.
    fn texts(&mut self, node: &Node, sign: &str, left: &Node, right: &Node) -> Compiled<Option<Number>> {
        let is_text = |node: &Node| match &node.syntax {
            Syntax::Text(_) => true,
            Syntax::Name(name) | Syntax::Special(name) => name == "comm",
            _ => false,
        };
        if !is_text(left) && !is_text(right) {
            return Ok(None);
        }
        let (a, b) = (self.operand(left)?, self.operand(right)?);
        let equal = match (&a.place, &b.place) {
            (Place::Text(a), Place::Text(b)) => Expression::from(u64::from(a == b)),
            (Place::Text(text), Place::Comm) | (Place::Comm, Place::Text(text)) => is_comm(text),
            (Place::Comm, Place::Comm) => 1.into(),
            (Place::Text(text), _) => self.has_text(right, &b, text)?,
            (_, Place::Text(text)) => self.has_text(left, &a, text)?,
            _ if is_text(left) && is_text(right) => return self.wrong(node, "these cannot be compared"),
            // A variable called comm.
            _ => return Ok(None),
        };
        let value = if sign == "==" { equal } else { equal.unary(Unary::Not) };
        Ok(Some(Number { value, class: INT }))
    }

    /// Whether the string at a pointer, or in an array, is that text.
    fn has_text(&mut self, node: &Node, operand: &Operand, text: &str) -> Compiled<Expression> {
        /// Longer ones would be too deep.
        const MOST: usize = 1024;
        if text.len() > MOST {
            return self.wrong(node, format!("a text that is compared has at most {MOST} bytes"));
        }
        let address = self.text_at(node, operand)?;
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        let chunks: Vec<Expression> = bytes
            .chunks(8)
            .enumerate()
            .map(|(index, chunk)| {
                let loaded = plus(address.clone(), 8 * index as u64).unary(Unary::LoadText);
                loaded.binary(Binary::Equal, quadword(chunk).into())
            })
            .collect();
        Ok(all(chunks))
    }

    /// The address of a string.
    pub(crate) fn text_at(&self, node: &Node, operand: &Operand) -> Compiled<Expression> {
        match (&operand.place, self.types.get_resolved(operand.of)) {
            (
                Place::At(Location::Memory(address)),
                Some(Type::Array { .. } | Type::Sequence { .. } | Type::Text),
            ) => Ok(address.clone()),
            _ => Ok(self.number_of(node, operand)?.value),
        }
    }
}

/// Whether all hold, in their order, without depth.
fn all(conditions: Vec<Expression>) -> Expression {
    let mut level = conditions;
    while level.len() > 1 {
        let mut next = Vec::with_capacity(level.len().div_ceil(2));
        let mut pairs = level.into_iter();
        while let Some(first) = pairs.next() {
            next.push(match pairs.next() {
                Some(second) => first.binary(Binary::AndThen, second),
                None => first,
            });
        }
        level = next;
    }
    level.pop().unwrap_or(Expression::from(1))
}

fn quadword(bytes: &[u8]) -> u64 {
    let mut quadword = [0; 8];
    quadword.iter_mut().zip(bytes).for_each(|(byte, &from)| *byte = from);
    u64::from_le_bytes(quadword)
}

/// Whether the thread has that name.
fn is_comm(text: &str) -> Expression {
    /// What the kernel keeps of a name.
    const MOST: usize = 15;
    if text.len() > MOST {
        return 0.into();
    }
    let half = |what, from: usize| {
        let bytes = text.as_bytes().get(from..).unwrap_or_default();
        Expression::circumstance(what).binary(Binary::Equal, quadword(bytes).into())
    };
    let low = half(Circumstance::CommLow, 0);
    // A shorter one has its end there, and each half is read by itself.
    if text.len() < 8 { low } else { low.binary(Binary::AndThen, half(Circumstance::CommHigh, 8)) }
}

/// C's integer promotion (C17, section 6.3.1.1).
fn promoted(class: Class) -> Class {
    match class {
        Class::Integer { bytes, .. } if bytes < 4 => INT,
        Class::Pointer(_) => U64,
        class => class,
    }
}

/// C's usual arithmetic conversions of integers (C17, section 6.3.1.8).
fn common(a: Class, b: Class) -> Class {
    match (promoted(a), promoted(b)) {
        (Class::Integer { bytes: a, signed: a_signed }, Class::Integer { bytes: b, signed: b_signed }) => {
            let signed = match a.cmp(&b) {
                std::cmp::Ordering::Equal => a_signed && b_signed,
                std::cmp::Ordering::Less => b_signed,
                std::cmp::Ordering::Greater => a_signed,
            };
            Class::Integer { bytes: a.max(b), signed }
        }
        (a, _) => a,
    }
}

fn converted(number: &Number, class: Class) -> Option<Expression> {
    match class {
        Class::Integer { bytes, signed } if number.class != class => number.to_integer(bytes, signed),
        _ => Some(number.value.clone()),
    }
}
