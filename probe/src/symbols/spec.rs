//! What a user writes to say where a probe goes.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use crate::symbols::elf::SymbolName;
use crate::symbols::glob;

/// A PROBE as the command line gives it, parsed but not yet looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ProbeSpec {
    /// `PATH|SONAME:SYMBOL[+OFF]`
    Symbol {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The symbol.
        symbol: SymbolName,
        /// Bytes from the symbol to the instruction.
        offset: u64,
    },
    /// `PATH:SYMBOL/*`: each instruction of the functions whose names match.
    EachInstruction {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The name or pattern.
        pattern: String,
    },
    /// `PATH:0xOFFSET`
    FileOffset {
        /// The path, file name or SONAME of the object.
        object: String,
        /// The file offset in bytes.
        offset: u64,
    },
    /// `0xADDR`
    Address(u64),
}

impl ProbeSpec {
    /// The object that it names.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        match self {
            ProbeSpec::Symbol { object, .. }
            | ProbeSpec::EachInstruction { object, .. }
            | ProbeSpec::FileOffset { object, .. } => Some(object),
            ProbeSpec::Address(_) => None,
        }
    }

    /// Whether it names many sites, of which those that cannot be probed are left out.
    #[must_use]
    pub fn is_many(&self) -> bool {
        matches!(self, ProbeSpec::EachInstruction { .. })
    }
}

impl fmt::Display for ProbeSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Some names need the sum to be taken for names: `1`, `a+1`.
            ProbeSpec::Symbol { object, symbol, offset: 0 }
                if format!("{object}:{symbol}").parse().as_ref() == Ok(self) =>
            {
                write!(f, "{object}:{symbol}")
            }
            ProbeSpec::Symbol { object, symbol, offset } => write!(f, "{object}:{symbol}+{offset:#x}"),
            ProbeSpec::EachInstruction { object, pattern } => write!(f, "{object}:{pattern}/*"),
            ProbeSpec::FileOffset { object, offset } => write!(f, "{object}:{offset:#x}"),
            ProbeSpec::Address(address) => write!(f, "{address:#x}"),
        }
    }
}

/// Why a text is no PROBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecError {
    /// It has the form of no PROBE.
    Malformed {
        /// The text.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It has a form that is not supported yet.
    NotSupported {
        /// The text.
        text: String,
        /// The name of the form.
        form: &'static str,
    },
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SpecError::Malformed { text, what } => write!(f, "`{text}` is not a probe: {what}"),
            SpecError::NotSupported { text, form } => {
                write!(f, "`{text}` is {form}, which is not supported yet")
            }
        }
    }
}

impl Error for SpecError {}

impl FromStr for ProbeSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<ProbeSpec, SpecError> {
        let malformed = |what| SpecError::Malformed { text: text.to_owned(), what };
        if let Some(form) = later_form(text) {
            return Err(SpecError::NotSupported { text: text.to_owned(), form });
        }
        let Some((object, place)) = text.rsplit_once(':') else {
            return match number(text) {
                Some(address) if text.starts_with("0x") => Ok(ProbeSpec::Address(address)),
                _ if text.starts_with("0x") => Err(malformed("an address has 1 to 16 hexadecimal digits")),
                _ => Err(malformed("write OBJECT:SYMBOL[+OFF], OBJECT:0xOFFSET, OBJECT:SYMBOL/* or 0xADDR")),
            };
        };
        if object.is_empty() {
            return Err(malformed("there is no object before the colon"));
        }
        if place.is_empty() {
            return Err(malformed("there is nothing after the colon"));
        }
        let object = object.to_owned();
        if place.starts_with("0x") {
            let offset = number(place).ok_or_else(|| malformed("0x begins a file offset in hexadecimal"))?;
            return Ok(ProbeSpec::FileOffset { object, offset });
        }
        if place.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(malformed("a file offset is written in hexadecimal, as 0xOFFSET"));
        }
        if let Some(pattern) = place.strip_suffix("/*") {
            if pattern.is_empty() {
                return Err(malformed("there is no symbol before /*"));
            }
            if pattern.contains('+') {
                return Err(malformed("/* means the whole function, and takes no offset"));
            }
            return Ok(ProbeSpec::EachInstruction { object, pattern: pattern.to_owned() });
        }
        let (symbol, offset) = match place.rsplit_once('+') {
            Some((symbol, offset)) => {
                (symbol, number(offset).ok_or_else(|| malformed("no number follows the plus sign"))?)
            }
            None => (place, 0),
        };
        if symbol.is_empty() {
            return Err(malformed("there is no symbol before the plus sign"));
        }
        if symbol.len() > 1 && symbol.ends_with('@') {
            return Err(malformed("there is no version after the @"));
        }
        if glob::is_pattern(symbol) {
            return Err(malformed("a pattern is only possible as OBJECT:PATTERN/*"));
        }
        Ok(ProbeSpec::Symbol { object, symbol: SymbolName::parse(symbol), offset })
    }
}

/// A number in decimal or, after `0x`, in hexadecimal.
fn number(text: &str) -> Option<u64> {
    // from_str_radix would take a sign.
    match text.strip_prefix("0x") {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            u64::from_str_radix(digits, 16).ok()
        }
        None if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

/// The name of the form, if it is one that is known but not supported.
fn later_form(text: &str) -> Option<&'static str> {
    let (first, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let is_event = |letter: char| first == letter.to_string() || first.starts_with(&format!("{letter}:"));
    if !rest.trim().is_empty() && ['p', 'r', '-'].into_iter().any(is_event) {
        return Some("a line in the syntax of uprobe_events");
    }
    if text.starts_with("usdt:") {
        return Some("a USDT probe");
    }
    let (object, place) = text.rsplit_once(':')?;
    if place.ends_with("%return") {
        return Some("a probe on a function's return");
    }
    let source = |extension: &str| {
        matches!(extension, "c" | "cc" | "cpp" | "cxx" | "c++" | "C" | "h" | "hpp" | "rs" | "S" | "s" | "go")
    };
    let is_line = !place.is_empty() && place.bytes().all(|byte| byte.is_ascii_digit());
    let is_source = object.rsplit_once('.').is_some_and(|(_, extension)| source(extension));
    (is_line && is_source).then_some("a line of a source file")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::elf::Version;

    fn symbol(name: &str) -> SymbolName {
        SymbolName { name: name.into(), version: None }
    }

    #[test]
    fn every_form_is_parsed_and_printed_again() {
        let object = || "libc.so.6".to_owned();
        let malloc = symbol("malloc");
        let versioned = SymbolName {
            name: "memcpy".into(),
            version: Some(Version { name: "GLIBC_2.14".into(), default: true }),
        };
        for (text, spec) in [
            ("libc.so.6:malloc", ProbeSpec::Symbol { object: object(), symbol: malloc.clone(), offset: 0 }),
            (
                "libc.so.6:malloc+0x10",
                ProbeSpec::Symbol { object: object(), symbol: malloc.clone(), offset: 16 },
            ),
            (
                "libc.so.6:memcpy@@GLIBC_2.14",
                ProbeSpec::Symbol { object: object(), symbol: versioned, offset: 0 },
            ),
            ("/a:b/c:main", ProbeSpec::Symbol { object: "/a:b/c".into(), symbol: symbol("main"), offset: 0 }),
            ("libc.so.6:qsort*/*", ProbeSpec::EachInstruction { object: object(), pattern: "qsort*".into() }),
            ("libc.so.6:0x28000", ProbeSpec::FileOffset { object: object(), offset: 0x28000 }),
            ("0x7fff0000", ProbeSpec::Address(0x7fff_0000)),
        ] {
            assert_eq!(text.parse::<ProbeSpec>().as_ref(), Ok(&spec), "{text}");
            assert_eq!(spec.to_string(), text);
        }
        // Found by fuzzing: a version that is not there, and names that look like something else.
        assert!("a:1@".parse::<ProbeSpec>().is_err());
        for text in ["a:1+0x0", "a:b+1+0x0", "a:b%return+0x0"] {
            assert_eq!(text.parse::<ProbeSpec>().unwrap().to_string(), text);
        }
        let decimal: ProbeSpec = "libc.so.6:malloc+16".parse().unwrap();
        assert_eq!(decimal.to_string(), "libc.so.6:malloc+0x10");
    }

    #[test]
    fn what_is_no_probe_is_refused_with_the_text() {
        for text in [
            "",
            ":",
            "malloc",
            ":malloc",
            "libc:",
            "libc:+4",
            "libc:malloc+",
            "libc:malloc+x",
            "libc:malloc+-1",
            "libc:mall*",
            "libc:/*",
            "libc:malloc+4/*",
            "libc:0x",
            "libc:0xg",
            "libc:123",
            "0x",
            "0x+1",
            "0x11111111111111111",
            "0xyz",
            "libc:0x10/*",
        ] {
            match text.parse::<ProbeSpec>() {
                Err(error @ SpecError::Malformed { .. }) => {
                    let message = error.to_string();
                    assert!(message.contains(text) && !message.contains('\n'), "{message}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn later_forms_are_refused_by_name() {
        for (text, form) in [
            ("main.c:12", "line of a source file"),
            ("src/main.rs:7", "line of a source file"),
            ("usdt:libc.so.6:libc:setjmp", "USDT"),
            ("libc.so.6:malloc%return", "return"),
            ("p:grp/name /usr/lib/libc.so.6:0x1234 %di", "uprobe_events"),
            ("r /bin/ls:0x4000", "uprobe_events"),
        ] {
            let error = text.parse::<ProbeSpec>().unwrap_err();
            assert!(matches!(error, SpecError::NotSupported { .. }), "{text}: {error}");
            assert!(error.to_string().contains(form), "{error}");
        }
    }
}
