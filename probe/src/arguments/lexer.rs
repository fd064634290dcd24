//! The words of an argument or a condition.

use std::fmt;

/// A word, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    pub(crate) word: Word,
    /// Bytes from the start of the text.
    pub(crate) start: usize,
    /// The same of what follows it.
    pub(crate) end: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Word {
    Number(u64),
    Float(f64),
    Text(String),
    Character(char),
    /// Also one with `::` in it.
    Name(String),
    /// `%di`
    Register(String),
    /// `$stack`, without the sign.
    Special(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Why a text is no argument, condition or list of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// The text.
    pub text: String,
    /// Where it cannot be understood: bytes from its start.
    pub column: usize,
    /// What was expected there, or what is wrong.
    pub what: String,
}

impl SyntaxError {
    pub(crate) fn new(text: &str, column: usize, what: impl Into<String>) -> SyntaxError {
        SyntaxError { text: text.to_owned(), column, what: what.into() }
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // People count from one.
        write!(f, "`{}`, column {}: {}", self.text, self.column + 1, self.what)
    }
}

impl std::error::Error for SyntaxError {}

/// From the longest, so that `<<` is not `<` twice.
const SIGNS: [&str; 32] = [
    "->", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "(", ")", "[", "]", ".", "+", "-", "*", "/", "%",
    "&", "|", "^", "~", "!", "<", ">", "?", ":", ",", "@", "\\", "=",
];

/// The words of `text`, with [`Word::End`] behind them.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = 0;
    loop {
        let rest = text.get(at..).unwrap_or_default();
        at += rest.len() - rest.trim_start().len();
        let rest = rest.trim_start();
        let Some(first) = rest.chars().next() else {
            tokens.push(Token { word: Word::End, start: at, end: at });
            return Ok(tokens);
        };
        let before = tokens.last().map(|token| &token.word);
        let (word, length) = word(text, at, rest, first, before)?;
        tokens.push(Token { word, start: at, end: at + length });
        at += length;
    }
}

fn word(
    text: &str,
    at: usize,
    rest: &str,
    first: char,
    before: Option<&Word>,
) -> Result<(Word, usize), SyntaxError> {
    if first.is_ascii_digit() {
        return number(rest)
            .ok_or_else(|| SyntaxError::new(text, at, "expected a number of at most 64 bits"));
    }
    if first == '"' || first == '\'' {
        return quoted(text, at, rest, first);
    }
    if is_letter(first) {
        let length = name_length(rest);
        return Ok((Word::Name(rest[..length].to_owned()), length));
    }
    if first == '$' {
        let length = plain_length(&rest[1..]);
        return match length {
            0 => Err(SyntaxError::new(text, at, "expected a name after $, such as $retval or $stack0")),
            _ => Ok((Word::Special(rest[1..=length].to_owned()), length + 1)),
        };
    }
    // Behind an operand, it is the remainder.
    if first == '%' && !before.is_some_and(is_operand_end) {
        let length = plain_length(&rest[1..]);
        return match length {
            0 => Err(SyntaxError::new(text, at, "expected a register after %, such as %rdi or %xmm0")),
            _ => Ok((Word::Register(rest[1..=length].to_owned()), length + 1)),
        };
    }
    match SIGNS.iter().find(|&&sign| rest.starts_with(sign)) {
        Some(sign) => Ok((Word::Sign(sign), sign.len())),
        None => Err(SyntaxError::new(text, at, format!("`{first}` means nothing here"))),
    }
}

fn is_operand_end(word: &Word) -> bool {
    !matches!(word, Word::Sign(sign) if !matches!(*sign, ")" | "]"))
}

fn is_letter(letter: char) -> bool {
    letter.is_alphabetic() || letter == '_'
}

fn plain_length(rest: &str) -> usize {
    rest.find(|letter: char| !is_letter(letter) && !letter.is_ascii_digit()).unwrap_or(rest.len())
}

/// That of a name whose parts may be joined by `::`.
fn name_length(rest: &str) -> usize {
    let mut length = plain_length(rest);
    while let Some(next) = rest[length..].strip_prefix("::")
        && next.chars().next().is_some_and(is_letter)
    {
        length += 2 + plain_length(next);
    }
    length
}

fn number(rest: &str) -> Option<(Word, usize)> {
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0b", 2), ("0o", 8)] {
        if let Some(digits) = rest.strip_prefix(prefix) {
            let length = digits.find(|letter: char| !letter.is_digit(radix)).unwrap_or(digits.len());
            let value = u64::from_str_radix(&digits[..length], radix).ok()?;
            return Some((Word::Number(value), 2 + length));
        }
    }
    let is_digit = |letter: char| letter.is_ascii_digit();
    let digits = |from: usize| from + rest[from..].find(|c: char| !is_digit(c)).unwrap_or(rest.len() - from);
    let mut length = digits(0);
    let has_digit = |at: usize| rest[at..].starts_with(is_digit);
    let mut is_float = false;
    if rest[length..].starts_with('.') && has_digit(length + 1) {
        length = digits(length + 1);
        is_float = true;
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        if has_digit(length + 1 + sign) {
            length = digits(length + 1 + sign);
            is_float = true;
        }
    }
    match is_float {
        true => Some((Word::Float(rest[..length].parse().ok()?), length)),
        // Octal, as C and the kernel have it.
        false if length > 1 && rest.starts_with('0') => {
            Some((Word::Number(u64::from_str_radix(&rest[..length], 8).ok()?), length))
        }
        false => Some((Word::Number(rest[..length].parse().ok()?), length)),
    }
}

/// A text or a letter in quotes, with C's simple escapes.
fn quoted(text: &str, at: usize, rest: &str, quote: char) -> Result<(Word, usize), SyntaxError> {
    let mut content = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((index, letter)) = letters.next() {
        if letter == quote {
            let length = index + 1;
            if quote == '"' {
                return Ok((Word::Text(content), length));
            }
            let mut all = content.chars();
            return match (all.next(), all.next()) {
                (Some(one), None) => Ok((Word::Character(one), length)),
                _ => Err(SyntaxError::new(text, at, "expected one letter between single quotes")),
            };
        }
        content.push(match letter {
            '\\' => match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, 't')) => '\t',
                Some((_, 'r')) => '\r',
                Some((_, '0')) => '\0',
                Some((_, other)) => other,
                None => break,
            },
            other => other,
        });
    }
    Err(SyntaxError::new(text, at, format!("expected another {quote} that ends this")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<Word> {
        tokens(text).unwrap().into_iter().map(|token| token.word).collect()
    }

    #[test]
    fn a_percent_sign_is_a_register_or_a_remainder() {
        let name = |name: &str| Word::Name(name.into());
        let register = |name: &str| Word::Register(name.into());
        assert_eq!(words("a%b"), [name("a"), Word::Sign("%"), name("b"), Word::End]);
        assert_eq!(words("%di % %si"), [register("di"), Word::Sign("%"), register("si"), Word::End]);
        assert_eq!(words("(%di)%2")[3..], [Word::Sign("%"), Word::Number(2), Word::End]);
        assert_eq!(words("a::b->c"), [name("a::b"), Word::Sign("->"), name("c"), Word::End]);
    }

    #[test]
    fn numbers_and_texts() {
        assert_eq!(
            words("0x10 7 0b11"),
            [16, 7, 3].map(Word::Number).into_iter().chain([Word::End]).collect::<Vec<_>>()
        );
        assert_eq!(words("1.5 2e3"), [Word::Float(1.5), Word::Float(2000.0), Word::End]);
        assert_eq!(words(r#""a\"b" '\n'"#), [Word::Text("a\"b".into()), Word::Character('\n'), Word::End]);
        for text in ["0x", "08", "99999999999999999999", "\"a", "'ab'", "''", "$", "%", "#", "\"\\"] {
            let error = tokens(text).unwrap_err();
            assert_eq!(error.text, text);
        }
        assert_eq!(tokens("a + é#").unwrap_err().column, 6);
    }
}
