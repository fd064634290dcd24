//! Names as their authors wrote them, and functions by such a name.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{BuildHasher, RandomState};

use cpp_demangle::DemangleOptions;

use super::symbols::{Symbol, SymbolKind};

/// The longest name that is made of a mangled one, in bytes: a few letters can stand for gigabytes.
const LONGEST: usize = 1 << 16;

/// Takes no more than [`LONGEST`].
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

fn bounded(write: impl FnOnce(&mut Bounded) -> fmt::Result) -> Option<String> {
    let mut text = Bounded(String::new());
    write(&mut text).ok().map(|()| text.0)
}

/// The name as its author wrote it, for Rust and C++.
#[must_use]
pub fn demangle(name: &str) -> Cow<'_, str> {
    let demangled = match rustc_demangle::try_demangle(name) {
        Ok(rust) => bounded(|out| write!(out, "{rust:#}")),
        Err(_) => cpp(name, &[DemangleOptions::new()]).pop(),
    };
    demangled.map_or(Cow::Borrowed(name), Cow::Owned)
}

/// The C++ name in each of these forms.
fn cpp(name: &str, forms: &[DemangleOptions]) -> Vec<String> {
    let symbol = name.starts_with("_Z").then(|| cpp_demangle::Symbol::new(name).ok());
    let Some(symbol) = symbol.flatten() else { return Vec::new() };
    let form = |options: &DemangleOptions| bounded(|out| symbol.structured_demangle(out, options));
    forms.iter().filter_map(form).collect()
}

/// The ways in which the author's name of what is called `name` may be written, without spaces: with or without
/// parameters and type of what it returns, or the number of a Rust crate or instance.
fn spellings(name: &str) -> Vec<String> {
    let mut spellings: Vec<String> = match rustc_demangle::try_demangle(name) {
        Ok(rust) => {
            let short = bounded(|out| write!(out, "{rust:#}"));
            let method = short.as_deref().and_then(inherent);
            [method, short, bounded(|out| write!(out, "{rust}"))].into_iter().flatten().collect()
        }
        Err(_) => {
            let all = DemangleOptions::new();
            cpp(name, &[all, all.no_return_type(), all.no_return_type().no_params()])
        }
    };
    spellings.iter_mut().for_each(|spelling| *spelling = without_spaces(spelling));
    spellings.sort_unstable();
    spellings.dedup();
    spellings
}

/// `Type::method` for Rust's `<Type>::method`; `None` for others, such as a trait's.
fn inherent(name: &str) -> Option<String> {
    let rest = name.strip_prefix('<')?;
    let (mut depth, mut before) = (1, ' ');
    for (at, letter) in rest.char_indices() {
        match letter {
            '<' => depth += 1,
            // Not that of an arrow.
            '>' if before != '-' => depth -= 1,
            _ => {}
        }
        before = letter;
        if depth == 0 {
            let (of, method) = (&rest[..at], &rest[at + 1..]);
            return (!of.contains(" as ")).then(|| format!("{of}{method}"));
        }
    }
    None
}

/// The text without spaces, of which some write more and some fewer in a name.
pub(crate) fn without_spaces(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_whitespace()).collect()
}

/// The symbols of code by their authors' names.
#[derive(Debug)]
pub(super) struct Written {
    hasher: RandomState,
    /// Numbers of symbols by the hash of each spelling: names of C++ are long, and mostly nobody asks.
    by_hash: HashMap<u64, Vec<u32>>,
}

impl Written {
    pub(super) fn of(symbols: &[Symbol]) -> Written {
        let hasher = RandomState::new();
        let mut by_hash: HashMap<u64, Vec<u32>> = HashMap::new();
        for (number, symbol) in (0..).zip(symbols) {
            if symbol.kind != SymbolKind::Data {
                for spelling in spellings(&symbol.name) {
                    by_hash.entry(hasher.hash_one(&spelling)).or_default().push(number);
                }
            }
        }
        Written { hasher, by_hash }
    }

    /// Those of `symbols`, of which this is made, that are written so.
    pub(super) fn find<'a>(&self, symbols: &'a [Symbol], text: &str) -> Vec<&'a Symbol> {
        let wanted = without_spaces(text);
        let numbers = self.by_hash.get(&self.hasher.hash_one(&wanted)).into_iter().flatten();
        let found = numbers.filter_map(|&number| symbols.get(number as usize));
        found.filter(|symbol| spellings(&symbol.name).contains(&wanted)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelled_with_and_without_parameters() {
        assert!(spellings("_ZN4shop4Cart5totalEi").contains(&"shop::Cart::total(int)".to_owned()));
        assert!(spellings("_ZN4shop4Cart5totalEi").contains(&"shop::Cart::total".to_owned()));
        // What it returns is part of a template function's name.
        let template = spellings("_Z3addIiET_S0_S0_");
        for spelling in ["intadd<int>(int,int)", "add<int>(int,int)", "add<int>"] {
            assert!(template.contains(&spelling.to_owned()), "{template:?}");
        }
        assert_eq!(
            inherent("<app::Cart<fn() -> u8>>::total").as_deref(),
            Some("app::Cart<fn() -> u8>::total")
        );
        assert_eq!(inherent("<app::Cart as app::Sum>::total"), None);
        assert_eq!(spellings("malloc"), [""; 0]);
    }

    #[test]
    fn a_name_that_stands_for_gigabytes_is_left_as_it_is() {
        let mut name = String::from("_Z1f");
        name.push_str("NSt1aI");
        name.push_str(&"S_S_".repeat(8));
        for doubled in 0..60 {
            let digit = char::from_digit(doubled % 36, 36).unwrap_or('0').to_ascii_uppercase();
            name.push_str(&format!("1aIS{digit}_S{digit}_E"));
        }
        name.push_str("EE");
        assert!(demangle(&name).len() <= LONGEST);
        let deep = format!("_Z1f{}i", "P".repeat(100_000));
        assert!(demangle(&deep).len() <= deep.len());
    }
}
