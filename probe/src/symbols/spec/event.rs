//! Lines in the syntax of the kernel's `uprobe_events` (Documentation/trace/uprobetracer.rst):
//! `p[:[GROUP/][EVENT]] PATH:OFFSET[%return][(COUNTER)] [ARGUMENT…]`, and `r` in the place of `p` for a return.

use std::fmt;

use super::{PlaceSpec, ProbeSpec, Rest, SpecError};

/// The place of a line of `uprobe_events`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UprobeEvent {
    /// The group of the event; `uprobes` where none is given.
    pub group: String,
    /// Its name; where none is given, made of the file's name and the offset, as the kernel does.
    pub event: String,
    /// The file.
    pub path: String,
    /// The file offset of the instruction.
    pub offset: u64,
    /// The file offset of a counter of 16 bits that says to the program how many want to know of the event.
    pub counter: Option<u64>,
}

/// The group of events for which none is given.
const GROUP: &str = "uprobes";
/// What the kernel keeps of the name of a group or an event, a zero at its end included.
const MOST_LETTERS: usize = 64;

impl UprobeEvent {
    /// Whether a PROBE is meant as such a line, right or wrong.
    #[must_use]
    pub fn is_line(text: &str) -> bool {
        is_event(text.trim())
    }

    /// The line without its arguments.
    pub(super) fn write(&self, on_return: bool) -> String {
        let UprobeEvent { group, event, path, offset, counter } = self;
        let on_return = if on_return { super::parse::RETURN } else { "" };
        let counter = counter.map(|counter| format!("({counter:#x})")).unwrap_or_default();
        let place = format!("{path}:{offset:#x}{on_return}{counter}");
        // Behind a name, some paths could be taken for that of a program called `p`.
        if group == GROUP && *event == default_name(path, *offset) {
            return format!("p {place}");
        }
        format!("p:{group}/{event} {place}")
    }
}

impl fmt::Display for UprobeEvent {
    /// What it is called: `GROUP/EVENT`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.event)
    }
}

/// Whether `text` is such a line: `p`, `r` or `-`, with a name behind a colon or without, and then a path. A program
/// may be called `p`, too.
pub(super) fn is_event(text: &str) -> bool {
    let Some((first, rest)) = text.split_once(char::is_whitespace) else { return text.starts_with("-:") };
    let (letter, name) = first.split_at_checked(1).unwrap_or_default();
    // How many calls are followed at most.
    let name =
        if letter == "r" { name.trim_start_matches(|digit: char| digit.is_ascii_digit()) } else { name };
    let is_name =
        |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_/.-".contains(&byte));
    let named = name.is_empty() || name.strip_prefix(':').is_some_and(is_name);
    if !named || !matches!(letter, "p" | "r" | "-") {
        return false;
    }
    let second = rest.split_whitespace().next().unwrap_or_default();
    let is_place = second.starts_with('/')
        || second.rsplit_once(':').is_some_and(|(path, offset)| {
            !path.is_empty()
                && !path.ends_with(':')
                && offset.starts_with(|letter: char| letter.is_ascii_digit())
        });
    name.is_empty() || letter == "-" || is_place && !super::parse::begins_rest(rest)
}

/// Parses the line, and says where its arguments stand.
pub(super) fn parse(text: &str) -> Result<(ProbeSpec, Rest<'_>), SpecError> {
    Line { text }.parse()
}

/// Knows the whole text, so that errors can point into it.
#[derive(Clone, Copy)]
struct Line<'text> {
    text: &'text str,
}

impl<'text> Line<'text> {
    fn error<T>(self, at: usize, what: impl Into<String>) -> Result<T, SpecError> {
        Err(SpecError { text: self.text.to_owned(), column: at + 1, what: what.into() })
    }

    /// The word that starts at or behind `from`, and where it does.
    fn word(self, from: usize) -> (usize, &'text str) {
        let rest = self.text.get(from..).unwrap_or_default();
        let start = from + rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        (start, &rest[..end])
    }

    fn parse(self) -> Result<(ProbeSpec, Rest<'text>), SpecError> {
        let (start, first) = self.word(0);
        let (letter, behind) = first.split_at_checked(1).unwrap_or((first, ""));
        if letter == "-" {
            return self.error(
                start,
                "expected p or r: an event is removed when the command ends, and needs no line for that",
            );
        }
        let digits = behind.len() - behind.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
        let named = behind.get(digits..).unwrap_or_default();
        let names = match named.strip_prefix(':') {
            Some(names) => self.names(start + first.len() - names.len(), names)?,
            None => (None, None),
        };
        let (at, place) = self.word(start + first.len());
        let (mut event, suffixed) = self.place(at, place)?;
        event.group = names.0.unwrap_or(event.group);
        event.event = names.1.unwrap_or(event.event);
        let rest = self.text.get(at + place.len()..).unwrap_or_default();
        let offset = self.text.len() - rest.trim_start().len();
        let spec = ProbeSpec { place: PlaceSpec::UprobeEvent(event), on_return: suffixed || letter == "r" };
        Ok((spec, Rest { text: rest.trim(), offset }))
    }

    /// `[GROUP/][EVENT]`, or `[GROUP.][EVENT]`
    fn names(self, at: usize, names: &str) -> Result<(Option<String>, Option<String>), SpecError> {
        let Some((group, event)) = names.split_once(['/', '.']) else {
            return match names {
                "" => self.error(at, "expected the name of an event behind the colon"),
                event => Ok((None, Some(self.name(at, event, "an event", false)?))),
            };
        };
        let group_name = match group {
            "" => return self.error(at, "expected the name of a group before the slash"),
            group => self.name(at, group, "a group", true)?,
        };
        let event_name = match event {
            "" => None,
            event => Some(self.name(at + group.len() + 1, event, "an event", false)?),
        };
        Ok((Some(group_name), event_name))
    }

    fn name(self, at: usize, name: &str, what: &str, hyphen: bool) -> Result<String, SpecError> {
        let is_letter =
            |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || (hyphen && letter == '-');
        if name.len() >= MOST_LETTERS {
            return self.error(at, format!("the name of {what} has less than {MOST_LETTERS} letters"));
        }
        if name.starts_with(|letter: char| letter.is_ascii_digit()) || !name.chars().all(is_letter) {
            return self.error(
                at,
                format!("the name of {what} has letters, digits and underscores, and begins with no digit"),
            );
        }
        Ok(name.to_owned())
    }

    /// `PATH:OFFSET[%return][(COUNTER)]`
    fn place(self, at: usize, place: &str) -> Result<(UprobeEvent, bool), SpecError> {
        const FORM: &str =
            "expected PATH:OFFSET, an offset in the file; a function is probed by OBJECT:NAME alone";
        // The path may have colons, too.
        let Some((path, behind)) = place.rsplit_once(':').filter(|(path, _)| !path.is_empty()) else {
            return self.error(at, FORM);
        };
        let offset_at = at + path.len() + 1;
        let (before, counter) = match behind.split_once('(') {
            None => (behind, None),
            Some((before, counter)) => {
                let counter_at = offset_at + before.len() + 1;
                let Some((digits, more)) = counter.split_once(')') else {
                    return self.error(at + place.len(), "expected ) behind the offset of the counter");
                };
                if !more.is_empty() {
                    let what = "expected the end of the place behind the counter; %return stands before it";
                    return self.error(counter_at + digits.len() + 1, what);
                }
                match number(digits) {
                    Some(counter) => (before, Some(counter).filter(|&counter| counter != 0)),
                    None => return self.error(counter_at, "expected the file offset of a counter"),
                }
            }
        };
        let (digits, on_return) = match before.find('%') {
            None => (before, false),
            Some(sign) => match before.split_at(sign) {
                (digits, super::parse::RETURN) => (digits, true),
                _ => return self.error(offset_at + sign, "expected %return, or nothing, behind the offset"),
            },
        };
        let Some(offset) = number(digits) else { return self.error(offset_at, FORM) };
        let event = default_name(path, offset);
        let group = GROUP.to_owned();
        Ok((UprobeEvent { group, event, path: path.to_owned(), offset, counter }, on_return))
    }
}

/// What the kernel calls an event without a name.
fn default_name(path: &str, offset: u64) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    let stem = file.split(['.', '-', '_']).next().unwrap_or(file);
    // A name has no other letters.
    let stem: String =
        stem.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '_' }).collect();
    let mut name = format!("p_{stem}_{offset:#x}");
    while name.len() >= MOST_LETTERS {
        name.pop();
    }
    name
}

/// A number as the kernel reads it: as C does, but for a plus, which is allowed.
fn number(text: &str) -> Option<u64> {
    number_of_c(text.strip_prefix('+').unwrap_or(text))
}

/// A number as C reads it, and assemblers do: a leading 0x makes it hexadecimal, a leading 0 octal.
pub(crate) fn number_of_c(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None => match text.strip_prefix('0') {
            Some(digits) if !digits.is_empty() => (digits, 8),
            _ => (text, 10),
        },
    };
    // from_str_radix would take a sign.
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u64::from_str_radix(digits, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (UprobeEvent, bool, &str) {
        let (spec, rest) = parse(text).unwrap_or_else(|error| panic!("{error}"));
        let PlaceSpec::UprobeEvent(event) = spec.place else { panic!("{text}") };
        (event, spec.on_return, rest.text)
    }

    #[test]
    fn lines_of_the_documentation() {
        let event = |group: &str, event: &str, path: &str, offset, counter| UprobeEvent {
            group: group.into(),
            event: event.into(),
            path: path.into(),
            offset,
            counter,
        };
        for (text, expected, on_return, rest) in [
            (
                "p /bin/bash:0x4245c0",
                event("uprobes", "p_bash_0x4245c0", "/bin/bash", 0x42_45c0, None),
                false,
                "",
            ),
            ("p:bar /bin/bash:0x4245c0", event("uprobes", "bar", "/bin/bash", 0x42_45c0, None), false, ""),
            ("r:bar /bin/bash:0x4245c0", event("uprobes", "bar", "/bin/bash", 0x42_45c0, None), true, ""),
            ("r8:g/bar /bin/bash:100", event("g", "bar", "/bin/bash", 100, None), true, ""),
            ("p:g/bar /bin/bash:010%return", event("g", "bar", "/bin/bash", 8, None), true, ""),
            (
                "p:zfree_entry /bin/zsh:0x46420 %ip %ax",
                event("uprobes", "zfree_entry", "/bin/zsh", 0x4_6420, None),
                false,
                "%ip %ax",
            ),
            (
                "r:zfree_exit /bin/zsh:0x46420 %ip %ax",
                event("uprobes", "zfree_exit", "/bin/zsh", 0x4_6420, None),
                true,
                "%ip %ax",
            ),
            (
                "p:my-group/ ./a:b/lib.so-1_2:0x10%return(0x2020)  x=%di:u8 ",
                event("my-group", "p_lib_0x10", "./a:b/lib.so-1_2", 16, Some(0x2020)),
                true,
                "x=%di:u8",
            ),
            ("p:a.b /x:0x1(0)", event("a", "b", "/x", 1, None), false, ""),
            ("p /a:<b>:0x1", event("uprobes", "p_a__b__0x1", "/a:<b>", 1, None), false, ""),
        ] {
            assert_eq!(parsed(text), (expected.clone(), on_return, rest), "{text}");
            let written = expected.write(on_return);
            assert_eq!(parsed(&written), (expected, on_return, ""), "{written}");
        }
    }

    #[test]
    fn mistakes_have_their_columns() {
        for (text, column) in [
            ("-:bar", 1),
            ("p: /bin/sh:0x1", 3),
            ("p:/a /bin/sh:0x1", 3),
            ("p:1a /bin/sh:0x1", 3),
            ("p:g/1a /bin/sh:0x1", 5),
            ("p:a-b /bin/sh:0x1", 3),
            ("p /bin/sh", 3),
            ("p /bin/sh:main", 11),
            ("p /bin/sh:0x", 11),
            ("p /bin/sh:0x1%ret", 14),
            ("p /bin/sh:0x1%return2", 14),
            ("p /bin/sh:0x1(2", 16),
            ("p /bin/sh:0x1(2)x", 17),
            ("p /bin/sh:0x1(z)", 15),
            ("p /bin/sh:0x1(2)%return", 17),
            ("  p:a  /bin/sh:09", 16),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.column, &*error.text), (column, text), "{error}");
        }
        let long = format!("p:{} /bin/sh:0x1", "a".repeat(64));
        assert_eq!(parse(&long).unwrap_err().column, 3);
    }
}
