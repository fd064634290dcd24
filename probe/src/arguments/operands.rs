//! Arguments of USDT probes: `N@OPERAND`, where OPERAND is one of the assembler's (AT&T syntax), as compilers put them
//! into the notes of `sys/sdt.h`.

use crate::arguments::operand::{Location, plus};
use crate::arguments::registers::{self, Named};
use crate::language::types::{Encoding, Type, TypeId, Types};
use crate::language::{Binary, Expression, Register, Unary, Width};
use crate::symbols::spec::number_of_c;

/// An argument: where it is, and what it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Argument {
    pub(crate) location: Location,
    bytes: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unsigned,
    Signed,
    Float,
}

/// What a symbol is at a hit, or why that cannot be known. It may have a `@` in it and what the linker is to make of it:
/// `x@tpoff` is the distance of a thread-local variable from the thread pointer, `x@GOTPCREL` a slot with an address.
pub(crate) type Symbols<'a> = &'a dyn Fn(&str) -> Result<Expression, String>;

/// The most arguments of a probe; `sys/sdt.h` has twelve.
const MOST_ARGUMENTS: usize = 128;

/// The arguments that `text` has, one after another, each as it is written.
pub(crate) fn split(text: &str) -> Vec<&str> {
    let mut arguments = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && arguments.len() < MOST_ARGUMENTS {
        let mut depth = 0u32;
        let end = rest.find(|letter: char| {
            match letter {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            letter.is_whitespace() && depth == 0
        });
        let (argument, behind) = rest.split_at(end.unwrap_or(rest.len()));
        arguments.push(argument);
        rest = behind.trim_start();
    }
    arguments
}

/// Compiles one of them.
pub(crate) fn compile(text: &str, symbols: Symbols<'_>) -> Result<Argument, String> {
    let (bytes, kind, operand) = sized(text)?;
    let location = match operand.strip_prefix('$') {
        Some(constant) => Location::Bits(sum(constant, symbols)?),
        None => place(operand, symbols)?,
    };
    // An x87 register holds what it holds in extended precision.
    let st = matches!(location, Location::Extended(crate::language::ExtendedRegister::St(_), _));
    match (kind, bytes, st) {
        (_, _, true) => Ok(Argument { location, bytes: 16, kind: Kind::Float }),
        (Kind::Float, 4 | 8 | 10 | 12 | 16, _) => Ok(Argument { location, bytes, kind }),
        (Kind::Unsigned | Kind::Signed, 1 | 2 | 4 | 8, _) => Ok(Argument { location, bytes, kind }),
        _ => Err(format!("`{text}`: there are no such numbers of {bytes} bytes")),
    }
}

impl Argument {
    pub(crate) fn type_in(&self, types: &mut Types) -> TypeId {
        let (name, encoding) = match (self.kind, self.bytes) {
            (Kind::Unsigned, 1) => ("unsigned char", Encoding::Unsigned),
            (Kind::Unsigned, 2) => ("unsigned short", Encoding::Unsigned),
            (Kind::Unsigned, 4) => ("unsigned int", Encoding::Unsigned),
            (Kind::Unsigned, _) => ("unsigned long", Encoding::Unsigned),
            (Kind::Signed, 1) => ("signed char", Encoding::Signed),
            (Kind::Signed, 2) => ("short", Encoding::Signed),
            (Kind::Signed, 4) => ("int", Encoding::Signed),
            (Kind::Signed, _) => ("long", Encoding::Signed),
            (Kind::Float, 4) => ("float", Encoding::Float),
            (Kind::Float, 8) => ("double", Encoding::Float),
            (Kind::Float, _) => ("long double", Encoding::Float),
        };
        types.add(Type::Base { name: name.to_owned(), encoding, bytes: self.bytes })
    }
}

/// Its size, what its bits mean, and the operand. Where no size is written, as the first versions of `sys/sdt.h` had
/// it, all of a register is meant.
fn sized(text: &str) -> Result<(u64, Kind, &str), String> {
    const PLAIN: u64 = 8;
    let Some((size, operand)) = text.split_once('@') else { return Ok((PLAIN, Kind::Unsigned, text)) };
    let digits = size.strip_suffix('f').unwrap_or(size);
    let (signed, digits) = match digits.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, digits),
    };
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        // It is a part of a symbol.
        return Ok((PLAIN, Kind::Unsigned, text));
    }
    let bytes = digits.parse().map_err(|_| format!("`{text}` has no size that makes sense"))?;
    let kind = match signed {
        _ if size.ends_with('f') => Kind::Float,
        true => Kind::Signed,
        false => Kind::Unsigned,
    };
    Ok((bytes, kind, operand))
}

/// What is in a register, or in memory.
fn place(operand: &str, symbols: Symbols<'_>) -> Result<Location, String> {
    let Some(name) = operand.strip_prefix('%') else { return memory(operand, symbols) };
    if let Some((segment, offset)) = name.split_once(':') {
        let base = match segment {
            "fs" => Some(Register::FsBase),
            "gs" => Some(Register::GsBase),
            // In 64-bit mode the others begin at 0.
            "cs" | "ds" | "es" | "ss" => None,
            _ => return Err(format!("there is no segment %{segment}")),
        };
        let Location::Memory(address) = memory(offset, symbols)? else {
            return Err(format!("`{operand}` is no address"));
        };
        return Ok(Location::Memory(match base {
            Some(base) => Expression::register(base).binary(Binary::Add, address),
            None => address,
        }));
    }
    match register(name)? {
        Named::General(value, _) => Ok(Location::Bits(value)),
        Named::Vector(location, _) | Named::X87(location) => Ok(location),
    }
}

/// A register by the assembler's names, to which `%ax` is 16 bits.
fn register(name: &str) -> Result<Named, String> {
    // `%st`, `%st(0)`
    let st = name.strip_prefix("st").and_then(|number| match number {
        "" => Some("st0".to_owned()),
        number => Some(format!("st{}", number.strip_prefix('(')?.strip_suffix(')')?)),
    });
    let found = registers::named(st.as_deref().unwrap_or(name));
    match found.ok_or_else(|| format!("there is no register %{name} to read"))? {
        Named::General(value, 8) if name.len() == 2 && !name.starts_with('r') && !name.starts_with('k') => {
            Ok(Named::General(value.unary(Unary::Cast(Width::Word)), 2))
        }
        named => Ok(named),
    }
}

/// `DISPLACEMENT(BASE,INDEX,SCALE)`, of which each may be missing.
fn memory(operand: &str, symbols: Symbols<'_>) -> Result<Location, String> {
    let wrong = || format!("`{operand}` is no operand that is known here");
    let registers = operand
        .rfind('(')
        .map(|at| operand.split_at(at))
        .filter(|(_, behind)| behind.trim_start_matches(['(', ' ']).starts_with(['%', ',', ')']));
    let Some((displacement, behind)) = registers else { return Ok(Location::Memory(sum(operand, symbols)?)) };
    let inner = behind.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).ok_or_else(wrong)?;
    let mut parts = inner.split(',').map(str::trim);
    let (base, index, scale) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""), parts.next());
    if parts.next().is_some() || (base.is_empty() && index.is_empty()) {
        return Err(wrong());
    }
    let scale = match scale {
        None | Some("" | "1") => 1,
        Some("2") => 2,
        Some("4") => 4,
        Some("8") => 8,
        Some(_) => return Err(wrong()),
    };
    let general = |text: &str| match register(text.strip_prefix('%').ok_or_else(wrong)?)? {
        Named::General(value, bytes @ (4 | 8)) => Ok((value, bytes)),
        _ => Err(wrong()),
    };
    let term = sum_of(displacement, symbols)?;
    // The assembler knows how far a symbol is.
    if base == "%rip" && term.symbol {
        return if index.is_empty() { Ok(Location::Memory(term.value)) } else { Err(wrong()) };
    }
    let mut address: Option<Expression> = None;
    let mut short = false;
    for (text, scale) in [(base, 1), (index, scale)].into_iter().filter(|(text, _)| !text.is_empty()) {
        let (value, bytes) = general(text)?;
        short |= bytes == 4;
        let value = if scale == 1 { value } else { value.binary(Binary::Multiply, scale.into()) };
        address = Some(match address {
            Some(address) => address.binary(Binary::Add, value),
            None => value,
        });
    }
    let address = address.ok_or_else(wrong)?;
    let address = match term.value.constant() {
        Some(constant) => plus(address, constant),
        None => address.binary(Binary::Add, term.value),
    };
    // A prefix has the processor compute 32 bits.
    Ok(Location::Memory(if short { address.unary(Unary::Cast(Width::Doubleword)) } else { address }))
}

/// What the assembler adds up.
struct Sum {
    value: Expression,
    symbol: bool,
}

fn sum(text: &str, symbols: Symbols<'_>) -> Result<Expression, String> {
    if text.is_empty() {
        return Err("a number is missing".to_owned());
    }
    Ok(sum_of(text, symbols)?.value)
}

/// `40+CheckpointStats`, `symbol-8`, `(symbol+4)`, `-16`, or nothing.
fn sum_of(text: &str, symbols: Symbols<'_>) -> Result<Sum, String> {
    let text = text.trim();
    let text = text.strip_prefix('(').and_then(|inner| inner.strip_suffix(')')).unwrap_or(text);
    let mut constant = 0u64;
    let mut symbol: Option<Expression> = None;
    let mut rest = text.trim_start();
    let mut first = true;
    while !rest.is_empty() {
        let mut negative = false;
        let unsigned = rest.trim_start_matches(|letter: char| {
            negative ^= letter == '-';
            matches!(letter, '+' | '-' | ' ')
        });
        if unsigned.len() == rest.len() && !first {
            return Err(format!("`{text}` is no sum that is known here"));
        }
        let end = unsigned.find(['+', '-', ' ']).unwrap_or(unsigned.len());
        let (term, behind) = unsigned.split_at(end);
        if term.starts_with(|letter: char| letter.is_ascii_digit()) {
            let number = number_of_c(term).ok_or_else(|| format!("`{term}` is no number"))?;
            constant = constant.wrapping_add(if negative { number.wrapping_neg() } else { number });
        } else {
            if negative || symbol.is_some() || !is_symbol(term) {
                return Err(format!("`{text}` is no sum that is known here"));
            }
            symbol = Some(symbols(term)?);
        }
        rest = behind.trim_start();
        first = false;
    }
    Ok(match symbol {
        Some(symbol) => Sum { value: plus(symbol, constant), symbol: true },
        None => Sum { value: constant.into(), symbol: false },
    })
}

fn is_symbol(term: &str) -> bool {
    let is_letter = |letter: char| letter.is_alphanumeric() || "_.$@".contains(letter);
    !term.is_empty() && term.chars().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::ExtendedRegister;

    fn compiled(text: &str) -> Result<Argument, String> {
        compile(text, &|name| match name {
            "known@tpoff" => Ok(16u64.wrapping_neg().into()),
            "known@GOTPCREL" => Ok(Expression::register(Register::Rip).binary(Binary::Add, 0x200u64.into())),
            "known" => Ok(Expression::register(Register::Rip).binary(Binary::Add, 0x100u64.into())),
            name => Err(format!("no {name}")),
        })
    }

    fn reg(register: Register) -> Expression {
        Expression::register(register)
    }

    fn known(more: u64) -> Expression {
        plus(reg(Register::Rip).binary(Binary::Add, 0x100u64.into()), more)
    }

    #[test]
    fn arguments_end_at_spaces_outside_of_brackets() {
        assert_eq!(
            split(" -4@%eax  8@-16(%rbp, %rax, 8) 1@$0 "),
            ["-4@%eax", "8@-16(%rbp, %rax, 8)", "1@$0"]
        );
        assert!(split("  ").is_empty());
        assert_eq!(split(&"1@$0 ".repeat(1_000)).len(), MOST_ARGUMENTS);
    }

    /// Every form that was found in programs, and those of the assembler's manual.
    #[test]
    fn every_form_has_a_place() {
        let (rax, rbp) = (|| reg(Register::Rax), || reg(Register::Rbp));
        let low = |value: Expression, width| value.unary(Unary::Cast(width));
        let memory = Location::Memory;
        let (unsigned, signed) = (Kind::Unsigned, Kind::Signed);
        let vector = |number| Location::Extended(ExtendedRegister::Vector(number), 0);
        let scaled = |register, by: u64| reg(register).binary(Binary::Multiply, by.into());
        for (text, bytes, kind, location) in [
            ("-4@%eax", 4, signed, Location::Bits(low(rax(), Width::Doubleword))),
            ("8@%rdi", 8, unsigned, Location::Bits(reg(Register::Rdi))),
            ("%rdi", 8, unsigned, Location::Bits(reg(Register::Rdi))),
            ("2@%r8w", 2, unsigned, Location::Bits(low(reg(Register::R8), Width::Word))),
            ("2@%ax", 2, unsigned, Location::Bits(low(rax(), Width::Word))),
            ("1@%sil", 1, unsigned, Location::Bits(low(reg(Register::Rsi), Width::Byte))),
            (
                "1@%ah",
                1,
                unsigned,
                Location::Bits(low(rax().binary(Binary::ShiftRight, 8u64.into()), Width::Byte)),
            ),
            ("8f@%xmm0", 8, Kind::Float, vector(0)),
            ("4f@%xmm17", 4, Kind::Float, vector(17)),
            ("8@%xmm1", 8, unsigned, vector(1)),
            ("8f@%st", 16, Kind::Float, Location::Extended(ExtendedRegister::St(0), 0)),
            ("16f@%st(3)", 16, Kind::Float, Location::Extended(ExtendedRegister::St(3), 0)),
            ("4@$5", 4, unsigned, Location::Bits(5.into())),
            ("-4@$-1", 4, signed, Location::Bits(u64::MAX.into())),
            ("8@$0x7fffffffffffffff", 8, unsigned, Location::Bits(i64::MAX.cast_unsigned().into())),
            ("8@$known", 8, unsigned, Location::Bits(known(0))),
            ("8@(%rax)", 8, unsigned, memory(rax())),
            ("-8@-16(%rbp)", 8, signed, memory(plus(rbp(), 16u64.wrapping_neg()))),
            ("4@0x10(%rax)", 4, unsigned, memory(plus(rax(), 16))),
            (
                "8@-16(%rbp,%rax,8)",
                8,
                unsigned,
                memory(plus(rbp().binary(Binary::Add, scaled(Register::Rax, 8)), 16u64.wrapping_neg())),
            ),
            ("4@0x10(,%rax,4)", 4, unsigned, memory(plus(scaled(Register::Rax, 4), 16))),
            ("4@(%rax,%rcx)", 4, unsigned, memory(rax().binary(Binary::Add, reg(Register::Rcx)))),
            ("8f@(%rsp)", 8, Kind::Float, memory(reg(Register::Rsp))),
            ("-4@known(%rip)", 4, signed, memory(known(0))),
            ("-4@40+known(%rip)", 4, signed, memory(known(40))),
            ("8@known+16(%rip)", 8, unsigned, memory(known(16))),
            ("8@known-16(%rip)", 8, unsigned, memory(known(16u64.wrapping_neg()))),
            ("8@(known+4)(%rip)", 8, unsigned, memory(known(4))),
            ("8@known", 8, unsigned, memory(known(0))),
            ("8@known(,%rax,8)", 8, unsigned, memory(scaled(Register::Rax, 8).binary(Binary::Add, known(0)))),
            ("8@16(%rip)", 8, unsigned, memory(plus(reg(Register::Rip), 16))),
            ("4@0x601040", 4, unsigned, memory(0x60_1040.into())),
            ("4@6295616", 4, unsigned, memory(6_295_616.into())),
            (
                "8@%fs:0x10(%rax)",
                8,
                unsigned,
                memory(reg(Register::FsBase).binary(Binary::Add, plus(rax(), 16))),
            ),
            ("8@%fs:40", 8, unsigned, memory(reg(Register::FsBase).binary(Binary::Add, 40.into()))),
            (
                "4@%fs:known@tpoff",
                4,
                unsigned,
                memory(reg(Register::FsBase).binary(Binary::Add, 16u64.wrapping_neg().into())),
            ),
            (
                "8@known@GOTPCREL(%rip)",
                8,
                unsigned,
                memory(reg(Register::Rip).binary(Binary::Add, 0x200u64.into())),
            ),
            (
                "-8@%gs:(%rdx)",
                8,
                signed,
                memory(reg(Register::GsBase).binary(Binary::Add, reg(Register::Rdx))),
            ),
            ("4@%ds:(%rax)", 4, unsigned, memory(rax())),
            (
                "4@8(%eax)",
                4,
                unsigned,
                memory(low(plus(low(rax(), Width::Doubleword), 8), Width::Doubleword)),
            ),
        ] {
            assert_eq!(compiled(text), Ok(Argument { location, bytes, kind }), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_says_so() {
        for text in [
            "3@%eax",
            "16@%xmm0",
            "2f@%eax",
            "99999999999999999999@%eax",
            "4@",
            "4@%",
            "4@%foo",
            "4@%mm0",
            "4@$",
            "4@$foo",
            "4@foo(%rip)",
            "8@known@PLT(%rip)",
            "4@%fs:known@dtpoff",
            "4@(%rax",
            "4@%rax)",
            "4@(%rax,%rcx,3)",
            "4@(%rax,%rcx,2,1)",
            "4@()",
            "4@(,)",
            "4@(%xmm0)",
            "4@known+known",
            "4@-known(%rip)",
            "4@1 2(%rax)",
            "4@%zs:(%rax)",
            "4@(%ax)",
            "4@08(%rax)",
            "4@0x(%rax)",
            "é@%rax",
            "4@é(%rip)",
            "4@((((",
        ] {
            assert!(compiled(text).is_err(), "{text}: {:?}", compiled(text));
        }
    }
}
