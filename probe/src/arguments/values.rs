//! What was taken at a hit, by name.

use std::fmt;

use crate::arguments::{Binding, Value};
use crate::language::Machine;

/// Values with names, in the order of the arguments.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(Vec<(String, Value)>);

impl Values {
    /// Those of a thread at a hit.
    #[must_use]
    pub fn new(binding: &Binding, machine: &mut dyn Machine) -> Values {
        let taken = binding.take(machine);
        Values(binding.values(&taken).map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// The value of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            write!(f, "{}{name}={value}", if index == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

impl Value {
    /// As a number of 64 bits without a sign, if it is one that fits: an integer, a letter, an address, an enumerator.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Value::Unsigned(value) | Value::Hexadecimal(value) | Value::Symbol(value) => Some(*value),
            Value::Signed(value) => u64::try_from(*value).ok(),
            Value::Boolean(value) => Some((*value).into()),
            Value::Character(code) => Some((*code).into()),
            Value::Letter(letter) => Some(u32::from(*letter).into()),
            Value::Pointer { address, .. } => Some(*address),
            Value::Reference { value, .. } => value.as_u64(),
            Value::Enumerator { number, .. } => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// As a number of 64 bits with a sign, if it is one that fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Signed(value) => Some(*value),
            Value::Enumerator { number, .. } => i64::try_from(*number).ok(),
            Value::Reference { value, .. } => value.as_i64(),
            other => i64::try_from(other.as_u64()?).ok(),
        }
    }

    /// As a float, if it is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Float(value) => Some(*value),
            Value::Reference { value, .. } => value.as_f64(),
            _ => None,
        }
    }

    /// The bytes of the text that it is or leads to.
    #[must_use]
    pub fn as_text(&self) -> Option<&[u8]> {
        match self {
            Value::Text(text) | Value::Pointer { text: Some(Some(text)), .. } => Some(&text.bytes),
            Value::Reference { value, .. } => value.as_text(),
            _ => None,
        }
    }

    /// A member of a structure, or the one of those of a variant.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<&Value> {
        match self {
            Value::Structure(members) => {
                members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
            }
            Value::Variant(_, value) | Value::Reference { value, .. } => value.member(name),
            _ => None,
        }
    }

    /// An element of an array.
    #[must_use]
    pub fn element(&self, index: usize) -> Option<&Value> {
        match self {
            Value::Array(elements) => elements.get(index),
            _ => None,
        }
    }
}
