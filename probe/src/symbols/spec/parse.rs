//! Takes the text of a PROBE apart.

use std::str::FromStr;

use super::{Name, PlaceSpec, ProbeSpec, Rest, SpecError, event};

/// What says that a function's return is meant.
pub(super) const RETURN: &str = "%return";

/// What says that each instruction of a function is meant.
const EACH: &str = "/*";

/// What a probe of an author begins with.
const USDT: &str = "usdt:";

impl FromStr for ProbeSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<ProbeSpec, SpecError> {
        let (spec, rest) = with_rest(text)?;
        if rest.text.is_empty() {
            return Ok(spec);
        }
        Err(Parser { text }.error(rest.offset, "expected nothing behind the probe"))
    }
}

/// As [`ProbeSpec::parse_with_rest`].
pub(super) fn with_rest(text: &str) -> Result<(ProbeSpec, Rest<'_>), SpecError> {
    let parser = Parser { text };
    let start = text.len() - text.trim_start().len();
    if event::is_event(text.trim()) {
        return event::parse(text);
    }
    let (end, colons) = parser.scan(start)?;
    let spec = parser.probe(start, end, &colons)?;
    let rest = parser.from(end);
    let offset = text.len() - rest.trim_start().len();
    Ok((spec, Rest { text: rest.trim(), offset }))
}

/// As [`ProbeSpec::other_readings`].
pub(super) fn other_readings(spec: &ProbeSpec) -> Vec<ProbeSpec> {
    let text = spec.to_string();
    let is_path = spec.object().is_some_and(|object| object.contains('/') && text.starts_with(object));
    let in_file = matches!(
        spec.place,
        PlaceSpec::Function { .. } | PlaceSpec::EachInstruction { .. } | PlaceSpec::Number { .. }
    );
    let parser = Parser { text: &text };
    let (Ok((end, colons)), true) = (parser.scan(0), is_path && in_file) else { return Vec::new() };
    let end = if spec.on_return { end - RETURN.len() } else { end };
    let later = colons.iter().skip(1).filter_map(|&colon| {
        let object = parser.slice(0, colon).to_owned();
        let place = parser.in_object(object, colon + 1, end).ok()?;
        Some(ProbeSpec { place, ..spec.clone() })
    });
    later.collect()
}

/// What stands behind the `if` at the start of the text, if there is one that begins a condition.
pub(crate) fn condition(text: &str) -> Option<&str> {
    let condition = text.strip_prefix("if")?;
    let begins = |letter: char| letter.is_whitespace() || "(!".contains(letter);
    (condition.is_empty() || condition.starts_with(begins)).then_some(condition)
}

/// Whether that cannot be more of a name: `if …`, `NAME=…`, or nothing.
pub(super) fn begins_rest(text: &str) -> bool {
    let text = text.trim_start();
    if condition(text).is_some() {
        return true;
    }
    let length = text.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    let (name, behind) = text.split_at(length);
    let named = name.starts_with(|letter: char| !letter.is_ascii_digit());
    text.is_empty() || named && behind.starts_with('=') && !behind.starts_with("==")
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

/// A part of the text, quoted or not.
struct Piece<'text> {
    text: &'text str,
    /// Where it begins.
    start: usize,
    /// What it says, where it begins with a quote, and where that ends.
    literal: Option<(String, usize)>,
}

impl Piece<'_> {
    /// What it says, and what stands behind the quotes.
    fn split(&self) -> (Name, &str) {
        match &self.literal {
            Some((text, length)) => {
                (Name::literal(text.clone()), self.text.get(*length..).unwrap_or_default())
            }
            None => (Name::plain(self.text), ""),
        }
    }
}

/// Knows the whole text, so that errors can point into it.
#[derive(Clone, Copy)]
struct Parser<'text> {
    text: &'text str,
}

impl<'text> Parser<'text> {
    fn error(self, at: usize, what: impl Into<String>) -> SpecError {
        SpecError { text: self.text.to_owned(), column: at + 1, what: what.into() }
    }

    fn slice(self, start: usize, end: usize) -> &'text str {
        self.text.get(start..end).unwrap_or_default()
    }

    fn from(self, start: usize) -> &'text str {
        self.slice(start, self.text.len())
    }

    /// What the quotes contain that stand at `start`, and how long they are with it.
    fn literal(self, start: usize) -> Result<Option<(String, usize)>, SpecError> {
        let mut letters = self.from(start).char_indices().peekable();
        let Some((_, quote)) = letters.next().filter(|(_, letter)| matches!(letter, '\'' | '"')) else {
            return Ok(None);
        };
        let mut text = String::new();
        while let Some((at, letter)) = letters.next() {
            if letter == quote && letters.next_if(|&(_, next)| next == quote).is_none() {
                return Ok(Some((text, at + letter.len_utf8())));
            }
            text.push(letter);
        }
        Err(self.error(start, format!("the quote {quote} is not closed")))
    }

    /// Where the PROBE ends that begins at `start`, and where its colons are that stand alone, outside of quotes.
    fn scan(self, start: usize) -> Result<(usize, Vec<usize>), SpecError> {
        let bytes = self.text.as_bytes();
        let mut colons = Vec::new();
        let (mut at, mut piece) = (start, true);
        while let Some(&byte) = bytes.get(at) {
            if std::mem::take(&mut piece)
                && let Some((_, length)) = self.literal(at)?
            {
                at += length;
                continue;
            }
            match byte {
                b':' => {
                    let run = self.from(at).bytes().take_while(|&byte| byte == b':').count();
                    // One before a name that begins with two.
                    if run % 2 == 1 {
                        colons.push(at);
                        piece = run == 1;
                    }
                    at += run;
                }
                _ if byte.is_ascii_whitespace() && begins_rest(self.from(at)) => return Ok((at, colons)),
                _ => at += 1,
            }
        }
        Ok((at, colons))
    }

    fn piece(self, start: usize, end: usize) -> Result<Piece<'text>, SpecError> {
        Ok(Piece { text: self.slice(start, end), start, literal: self.literal(start)? })
    }

    /// A piece with nothing behind its quotes.
    fn whole(self, start: usize, end: usize, what: &str) -> Result<Name, SpecError> {
        let piece = self.piece(start, end)?;
        let (name, behind) = piece.split();
        if !behind.is_empty() {
            return Err(self.error(end - behind.len(), "expected a colon behind the quote"));
        }
        if name.text.is_empty() {
            return Err(self.error(start, format!("expected {what}")));
        }
        Ok(name)
    }

    fn probe(self, start: usize, end: usize, colons: &[usize]) -> Result<ProbeSpec, SpecError> {
        let text = self.slice(start, end);
        let on_return = text.ends_with(RETURN);
        let place_end = if on_return { end - RETURN.len() } else { end };
        if let Some(usdt) = text.starts_with(USDT).then_some(start + USDT.len()) {
            let colons = colons.get(1..).unwrap_or_default();
            if on_return {
                return Err(
                    self.error(place_end, "expected nothing behind a USDT probe, which is no function")
                );
            }
            return Ok(ProbeSpec::at(self.usdt(usdt, end, colons)?));
        }
        let place = self.place(start, place_end, colons)?;
        let refused = match &place {
            _ if !on_return => None,
            PlaceSpec::Line { .. } => Some("a line, which does not return"),
            PlaceSpec::EachInstruction { .. } => Some("/*, as an instruction does not return"),
            PlaceSpec::Function { offset: 1.., .. } => Some("an offset, as an instruction does not return"),
            _ => None,
        };
        match refused {
            Some(before) => Err(self.error(place_end, format!("expected no {RETURN} behind {before}"))),
            None => Ok(ProbeSpec { place, on_return }),
        }
    }

    fn usdt(self, start: usize, end: usize, colons: &[usize]) -> Result<PlaceSpec, SpecError> {
        let [.., first, second] = colons else {
            return Err(self.error(end, "expected usdt:OBJECT:PROVIDER:NAME, where * is any provider"));
        };
        Ok(PlaceSpec::Usdt {
            object: self.whole(start, *first, "an object before the colon")?.text,
            provider: self.whole(first + 1, *second, "a provider between the colons")?,
            name: self.whole(second + 1, end, "a probe behind the colon")?,
        })
    }

    fn place(self, start: usize, end: usize, colons: &[usize]) -> Result<PlaceSpec, SpecError> {
        let Some((&first, &last)) = colons.first().zip(colons.last()) else {
            return self.address(start, end);
        };
        let digits = self.slice(last + 1, end);
        if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            let line = digits.parse().ok().filter(|&line| line != 0);
            let line = line.ok_or_else(|| self.error(last + 1, "expected the number of a line, from 1"))?;
            let named = first != last;
            let object = if named { Some(self.object(start, first)?) } else { None };
            let within = if named { first + 1 } else { start };
            let within = self.whole(within, last, "a source file or a function before the line")?.text;
            return Ok(PlaceSpec::Line { object, within, line });
        }
        let object = self.object(start, first)?;
        self.in_object(object, first + 1, end)
    }

    fn object(self, start: usize, end: usize) -> Result<String, SpecError> {
        Ok(self.whole(start, end, "an object before the colon: a path, a file name or a SONAME")?.text)
    }

    fn address(self, start: usize, end: usize) -> Result<PlaceSpec, SpecError> {
        let text = self.slice(start, end);
        match number(text) {
            Some(address) if text.starts_with("0x") => Ok(PlaceSpec::Address(address)),
            _ if text.starts_with("0x") => {
                Err(self.error(start + 2, "expected 1 to 16 hexadecimal digits of an address"))
            }
            _ => {
                Err(self
                    .error(end, "expected a colon and a place: OBJECT:NAME, FILE:LINE; or 0xADDRESS alone"))
            }
        }
    }

    /// The place behind the colon of an object.
    fn in_object(self, object: String, start: usize, end: usize) -> Result<PlaceSpec, SpecError> {
        let piece = self.piece(start, end)?;
        let text = piece.text;
        if text.is_empty() {
            let what = "expected a function, a pattern or 0xOFFSET behind the colon";
            return Err(self.error(start, what));
        }
        if piece.literal.is_some() {
            return self.quoted(object, &piece);
        }
        if text.starts_with("0x") {
            let number = number(text).ok_or_else(|| {
                self.error(start + 2, "expected 1 to 16 hexadecimal digits and nothing else; quote a name")
            })?;
            return Ok(PlaceSpec::Number { object, number });
        }
        let sum = |text: &'text str| {
            let (name, offset) = text.rsplit_once('+')?;
            Some((name, number(offset).filter(|_| !offset.is_empty())?))
        };
        if let Some(name) = text.strip_suffix(EACH) {
            if name.is_empty() {
                return Err(self.error(start, "expected a function before /*"));
            }
            if let Some((name, _)) = sum(name) {
                let at = start + name.len();
                return Err(self.error(at, "expected no offset before /*, which means the whole function"));
            }
            return Ok(PlaceSpec::EachInstruction { object, name: Name::plain(name) });
        }
        let (name, offset) = sum(text).unwrap_or((text, 0));
        if name.is_empty() {
            return Err(self.error(start, "expected a function before the plus sign"));
        }
        Ok(PlaceSpec::Function { object, name: Name::plain(name), offset })
    }

    /// A place whose name is in quotes.
    fn quoted(self, object: String, piece: &Piece<'text>) -> Result<PlaceSpec, SpecError> {
        let (name, behind) = piece.split();
        if name.text.is_empty() {
            return Err(self.error(piece.start, "expected a name in the quotes"));
        }
        let offset = behind.strip_prefix('+').filter(|digits| !digits.is_empty()).and_then(number);
        match (behind, offset) {
            ("", _) => Ok(PlaceSpec::Function { object, name, offset: 0 }),
            (EACH, _) => Ok(PlaceSpec::EachInstruction { object, name }),
            (_, Some(offset)) => Ok(PlaceSpec::Function { object, name, offset }),
            _ => {
                let at = piece.start + piece.text.len() - behind.len();
                Err(self.error(at, "expected +OFFSET, /*, %return or the end behind the quote"))
            }
        }
    }
}
