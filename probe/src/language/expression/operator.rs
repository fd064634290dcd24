//! The operators of expressions.

use serde::{Deserialize, Serialize};

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
    pub(super) fn extend(self, value: u64, signed: bool) -> u64 {
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
