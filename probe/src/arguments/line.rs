//! Lines of a user's own, with values in them.

use crate::arguments::lexer::SyntaxError;
use crate::arguments::template::Template;

/// A text of one's own with arguments in it, for each hit: `x={x} name={p->name}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What stands before each argument, and behind the last.
    literals: Vec<String>,
    /// The arguments, by their number in the template.
    arguments: Vec<usize>,
}

impl Line {
    /// Parses a text, and adds what it needs to `template`. `{{` stands for `{`, `}}` for `}`.
    ///
    /// # Errors
    /// What stands in braces is no argument, or a brace is missing.
    pub fn parse(text: &str, template: Template) -> Result<(Line, Template), SyntaxError> {
        let mut template = template;
        let mut line = Line { literals: vec![String::new()], arguments: Vec::new() };
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let at = text.len() - rest.len();
            rest = &rest[letter.len_utf8()..];
            let doubled = rest.starts_with(letter);
            match letter {
                '{' | '}' if doubled => {
                    rest = &rest[1..];
                    line.push(letter);
                }
                '}' => return Err(SyntaxError::new(text, at, "expected }} for a brace")),
                '{' => {
                    let Some(end) = rest.find('}') else {
                        return Err(SyntaxError::new(text, at, "expected another brace that ends this"));
                    };
                    let written = &rest[..end];
                    rest = &rest[end + 1..];
                    line.arguments.push(template.arguments());
                    line.literals.push(String::new());
                    // A name that nobody can write.
                    let name = format!("{{{}", template.arguments());
                    let shifted =
                        |error: SyntaxError| SyntaxError::new(text, at + 1 + error.column, error.what);
                    template = template.with_argument(Some(&name), written).map_err(shifted)?;
                }
                '\\' if rest.starts_with(['n', 't', '\\']) => {
                    let escape = if rest.starts_with('n') {
                        '\n'
                    } else if rest.starts_with('t') {
                        '\t'
                    } else {
                        '\\'
                    };
                    line.push(escape);
                    rest = &rest[1..];
                }
                letter => line.push(letter),
            }
        }
        Ok((line, template))
    }

    fn push(&mut self, letter: char) {
        if let Some(literal) = self.literals.last_mut() {
            literal.push(letter);
        }
    }

    /// The text with values in it: `shown` is asked for that of each argument, by its number in the template.
    pub fn with(&self, mut shown: impl FnMut(usize) -> String) -> String {
        let mut text = self.literals.first().cloned().unwrap_or_default();
        for (&argument, literal) in self.arguments.iter().zip(self.literals.iter().skip(1)) {
            text.push_str(&shown(argument));
            text.push_str(literal);
        }
        text
    }
}
