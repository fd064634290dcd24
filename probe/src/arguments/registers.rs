//! Registers by their names: the processor's, and the kernel's, to which `%di` is all 64 bits of RDI.

use crate::arguments::operand::Location;
use crate::language::{Binary, Circumstance, Expression, ExtendedRegister, Register, Unary, Width};

/// A register by its name.
pub(crate) enum Named {
    /// What it holds, of so many bytes.
    General(Expression, u64),
    /// Of so many bytes, which are read as quadwords.
    Vector(Location, u64),
    /// ST(i)
    X87(Location),
}

/// RAX to RDI without their first letters, in machine encoding.
const OLD: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
/// The first four by bytes.
const LETTERS: [&str; 4] = ["a", "c", "d", "b"];

/// The register that the name stands for.
pub(crate) fn named(name: &str) -> Option<Named> {
    let name = name.to_ascii_lowercase();
    let general = |register: Register, bytes: u64| {
        let whole = Expression::register(register);
        let value = match bytes {
            1 => whole.unary(Unary::Cast(Width::Byte)),
            2 => whole.unary(Unary::Cast(Width::Word)),
            4 => whole.unary(Unary::Cast(Width::Doubleword)),
            _ => whole,
        };
        Some(Named::General(value, bytes))
    };
    match name.as_str() {
        "ip" | "rip" => return general(Register::Rip, 8),
        "flags" | "eflags" | "rflags" => return general(Register::Rflags, 8),
        "fs_base" => return general(Register::FsBase, 8),
        "gs_base" => return general(Register::GsBase, 8),
        _ => {}
    }
    if let Some((register, bytes)) = old(&name) {
        return general(register, bytes);
    }
    if let Some(letter) = name.strip_suffix('h')
        && let Some(index) = LETTERS.iter().position(|&known| known == letter)
    {
        let whole = Expression::register(Register::ALL[index]);
        let value = whole.binary(Binary::ShiftRight, 8u64.into()).unary(Unary::Cast(Width::Byte));
        return Some(Named::General(value, 1));
    }
    if let Some((number, bytes)) = new(&name) {
        return general(Register::ALL[number], bytes);
    }
    let numbered = |prefix: &str, most: u8| {
        let number: u8 = name.strip_prefix(prefix).filter(|digits| is_plain(digits))?.parse().ok()?;
        (number <= most).then_some(number)
    };
    for (prefix, bytes) in [("xmm", 16), ("ymm", 32), ("zmm", 64)] {
        if let Some(number) = numbered(prefix, 31) {
            return Some(Named::Vector(Location::Extended(ExtendedRegister::Vector(number), 0), bytes));
        }
    }
    if let Some(number) = numbered("st", 7) {
        return Some(Named::X87(Location::Extended(ExtendedRegister::St(number), 0)));
    }
    let number = numbered("k", 7)?;
    Some(Named::General(Expression::extended(ExtendedRegister::Opmask(number), 0), 8))
}

/// What the kernel has besides at a probe (`regoffset_table` in arch/x86/kernel/ptrace.c): selectors, and the number of
/// the system call that was being made, which is none.
pub(crate) fn of_kernel(name: &str) -> Option<Named> {
    let selector = |what| Some(Named::General(Expression::circumstance(what), 8));
    match name.to_ascii_lowercase().as_str() {
        "cs" => selector(Circumstance::CodeSegment),
        "ss" => selector(Circumstance::StackSegment),
        "orig_ax" | "orig_rax" => Some(Named::General(u64::MAX.into(), 8)),
        _ => None,
    }
}

/// Whether it is a number that begins with no zero or sign.
fn is_plain(digits: &str) -> bool {
    digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'))
}

/// `rax`, `eax`, `ax`, `al`, `sil`: the kernel means all of it by `ax`.
fn old(name: &str) -> Option<(Register, u64)> {
    let index = |name: &str| OLD.iter().position(|&known| known == name);
    if let Some(index) = index(name) {
        return Some((Register::ALL[index], 8));
    }
    let (first, rest) = (name.get(..1)?, name.get(1..)?);
    match (first, index(rest)) {
        ("r", Some(index)) => return Some((Register::ALL[index], 8)),
        ("e", Some(index)) => return Some((Register::ALL[index], 4)),
        _ => {}
    }
    let low = name.strip_suffix('l')?;
    let index = index(low).filter(|&index| index >= LETTERS.len());
    let index = index.or_else(|| LETTERS.iter().position(|&letter| letter == low))?;
    Some((Register::ALL[index], 1))
}

/// `r8`, `r8d`, `r8w`, `r8b`.
fn new(name: &str) -> Option<(usize, u64)> {
    let rest = name.strip_prefix('r')?;
    let (digits, bytes) = match rest.as_bytes().last()? {
        b'd' => (&rest[..rest.len() - 1], 4),
        b'w' => (&rest[..rest.len() - 1], 2),
        b'b' | b'l' => (&rest[..rest.len() - 1], 1),
        _ => (rest, 8),
    };
    let number: usize = digits.parse().ok().filter(|_| is_plain(digits))?;
    (8..16).contains(&number).then_some((number, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_all_registers() {
        let of = |name: &str| match named(name) {
            Some(Named::General(value, bytes)) => Some((value, bytes)),
            _ => None,
        };
        let whole = |register| Some((Expression::register(register), 8));
        for (name, register) in [
            ("rax", Register::Rax),
            ("ax", Register::Rax),
            ("di", Register::Rdi),
            ("rsp", Register::Rsp),
            ("r8", Register::R8),
            ("R15", Register::R15),
            ("ip", Register::Rip),
            ("flags", Register::Rflags),
        ] {
            assert_eq!(of(name), whole(register), "{name}");
        }
        for (name, bytes) in
            [("eax", 4), ("al", 1), ("ah", 1), ("sil", 1), ("r9d", 4), ("r10w", 2), ("r11b", 1), ("k7", 8)]
        {
            assert_eq!(of(name).map(|(_, found)| found), Some(bytes), "{name}");
        }
        assert!(matches!(named("xmm31"), Some(Named::Vector(_, 16))));
        assert!(matches!(named("st7"), Some(Named::X87(_))));
        for name in ["", "r", "r7", "r16", "xmm32", "st8", "k8", "xmm01", "eal", "sih", "rx", "é"] {
            assert!(named(name).is_none(), "{name}");
        }
    }
}
