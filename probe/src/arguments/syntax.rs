//! What a user writes: C's expressions, and the kernel's fetch arguments (Documentation/trace/uprobetracer.rst), as trees.

use crate::arguments::lexer::{SyntaxError, Token, Word, tokens};

/// What a value is computed from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Syntax {
    Number(u64),
    Float(f64),
    Text(String),
    Character(char),
    /// A variable, or what is known of the hit: `comm`, `pid`.
    Name(String),
    Register(String),
    /// `$retval`, without the sign.
    Special(String),
    Unary(&'static str, Box<Node>),
    Binary(&'static str, Box<Node>, Box<Node>),
    Choice(Box<Node>, Box<Node>, Box<Node>),
    /// `a.b`, or `a->b`
    Member(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    Cast(TypeName, Box<Node>),
    SizeOfType(TypeName),
    SizeOf(Box<Node>),
    /// `+8(a)`: what is in memory that many bytes behind the address.
    Fetch(i64, Box<Node>),
    /// `@ADDR`: what is in memory at an address of the process.
    At(u64),
    /// `@+OFFSET`: what is in memory where this offset of the probed file is mapped.
    AtFileOffset(u64),
}

/// A tree, and the column where its text starts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub(crate) syntax: Syntax,
    pub(crate) column: usize,
}

/// A type as it is written: `struct point *`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TypeName {
    pub(crate) name: String,
    pub(crate) pointers: usize,
}

/// The kernel's types: `:u32`, `:b4@8/32`, `:string[4]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FetchType {
    pub(crate) name: String,
    /// How many bits a bit-field has, where it begins, and how many its container has.
    pub(crate) bits: Option<(u32, u32, u32)>,
    pub(crate) count: Option<u64>,
    pub(crate) column: usize,
}

/// A tree with the type that it is to be shown as.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fetch {
    pub(crate) node: Node,
    pub(crate) shown_as: Option<FetchType>,
}

/// How deep a tree can be.
const DEEPEST: usize = 60;

/// From the loosest.
const BINARY: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<", "<=", ">", ">="],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

/// A whole condition, or a whole value without a type.
pub(crate) fn parse_expression(text: &str) -> Result<Node, SyntaxError> {
    let mut parser = Parser::new(text)?;
    let node = parser.expression()?;
    parser.end("an operator, or the end")?;
    Ok(node)
}

/// A whole argument: an expression and, after a colon, how it is shown.
pub(crate) fn parse_fetch(text: &str) -> Result<Fetch, SyntaxError> {
    let mut parser = Parser::new(text)?;
    let node = parser.expression()?;
    let shown_as = if parser.take_sign(":") { Some(parser.fetch_type()?) } else { None };
    parser.end("an operator, a type after a colon, or the end")?;
    Ok(Fetch { node, shown_as })
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Token>,
    next: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Result<Parser<'a>, SyntaxError> {
        Ok(Parser { text, tokens: tokens(text)?, next: 0, depth: 0 })
    }

    fn word(&self) -> &Word {
        self.word_at(0)
    }

    fn word_at(&self, ahead: usize) -> &Word {
        self.tokens.get(self.next + ahead).map_or(&Word::End, |token| &token.word)
    }

    fn column(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |token| token.start)
    }

    /// Whether the word `ahead` follows the one before it without a space.
    fn is_joined(&self, ahead: usize) -> bool {
        let token = |index: usize| self.tokens.get(self.next + index);
        ahead > 0 && matches!((token(ahead - 1), token(ahead)), (Some(a), Some(b)) if a.end == b.start)
    }

    fn wrong<T>(&self, expected: &str) -> Result<T, SyntaxError> {
        Err(SyntaxError::new(self.text, self.column(), format!("expected {expected}")))
    }

    fn end(&self, expected: &str) -> Result<(), SyntaxError> {
        if *self.word() == Word::End { Ok(()) } else { self.wrong(expected) }
    }

    fn is_sign(&self, ahead: usize, sign: &str) -> bool {
        matches!(self.word_at(ahead), Word::Sign(found) if *found == sign)
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        let there = self.is_sign(0, sign);
        self.next += usize::from(there);
        there
    }

    fn need_sign(&mut self, sign: &str) -> Result<(), SyntaxError> {
        if self.take_sign(sign) { Ok(()) } else { self.wrong(&format!("`{sign}`")) }
    }

    fn take_number(&mut self) -> Option<u64> {
        let &Word::Number(value) = self.word() else { return None };
        self.next += 1;
        Some(value)
    }

    fn need_number(&mut self) -> Result<u64, SyntaxError> {
        self.take_number().map_or_else(|| self.wrong("a number"), Ok)
    }

    /// One level deeper.
    fn deeper<T>(
        &mut self,
        parse: impl FnOnce(&mut Self) -> Result<T, SyntaxError>,
    ) -> Result<T, SyntaxError> {
        if self.depth >= DEEPEST {
            return self.wrong(&format!("less than {DEEPEST} levels of brackets and operators"));
        }
        self.depth += 1;
        let parsed = parse(self);
        self.depth -= 1;
        parsed
    }

    fn expression(&mut self) -> Result<Node, SyntaxError> {
        self.deeper(|parser| {
            let column = parser.column();
            let condition = parser.binary(0)?;
            if !parser.take_sign("?") {
                return Ok(condition);
            }
            let one = parser.expression()?;
            parser.need_sign(":")?;
            let other = parser.expression()?;
            let syntax = Syntax::Choice(Box::new(condition), Box::new(one), Box::new(other));
            Ok(Node { syntax, column })
        })
    }

    fn binary(&mut self, level: usize) -> Result<Node, SyntaxError> {
        let Some(operators) = BINARY.get(level) else { return self.unary() };
        let column = self.column();
        let mut left = self.binary(level + 1)?;
        let mut length = 0;
        while let &Word::Sign(sign) = self.word()
            && operators.contains(&sign)
        {
            length += 1;
            if length > DEEPEST {
                return self.wrong(&format!("at most {DEEPEST} operators in a row"));
            }
            self.next += 1;
            let right = self.binary(level + 1)?;
            left = Node { syntax: Syntax::Binary(sign, Box::new(left), Box::new(right)), column };
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Node, SyntaxError> {
        let column = self.column();
        if let Some(node) = self.fetch()? {
            return Ok(node);
        }
        if let &Word::Sign(sign @ ("-" | "~" | "!" | "*" | "&" | "+")) = self.word() {
            self.next += 1;
            let operand = Box::new(self.deeper(Parser::unary)?);
            return Ok(Node { syntax: Syntax::Unary(sign, operand), column });
        }
        if matches!(self.word(), Word::Name(name) if name == "sizeof") {
            return self.size_of();
        }
        if self.is_sign(0, "(")
            && let Some((of, length)) = self.type_name(1)
            && self.is_sign(1 + length, ")")
            && self.is_cast(&of, 2 + length)
        {
            self.next += 2 + length;
            let operand = Box::new(self.deeper(Parser::unary)?);
            return Ok(Node { syntax: Syntax::Cast(of, operand), column });
        }
        self.postfix()
    }

    /// The kernel's forms that begin with a sign: `+8(a)`, `-u8(a)`, `@ADDR`, `@+OFFSET`, `\IMMEDIATE`.
    fn fetch(&mut self) -> Result<Option<Node>, SyntaxError> {
        let column = self.column();
        if self.take_sign("@") {
            let in_file = self.take_sign("+");
            let place = self.need_number()?;
            let syntax = if in_file { Syntax::AtFileOffset(place) } else { Syntax::At(place) };
            return Ok(Some(Node { syntax, column }));
        }
        if self.take_sign("\\") {
            let minus = self.take_sign("-");
            if !minus && let Word::Text(text) = self.word() {
                let syntax = Syntax::Text(text.clone());
                self.next += 1;
                return Ok(Some(Node { syntax, column }));
            }
            let value = self.need_number()?;
            let value = if minus { value.wrapping_neg() } else { value };
            return Ok(Some(Node { syntax: Syntax::Number(value), column }));
        }
        let minus = self.is_sign(0, "-");
        if !minus && !self.is_sign(0, "+") {
            return Ok(None);
        }
        // `u` says that the memory is the user's, which it always is.
        let offset = match self.word_at(1) {
            &Word::Number(offset) => Some(offset),
            Word::Name(name) => name.strip_prefix('u').and_then(number_of),
            _ => None,
        };
        let (Some(offset), true, true) = (offset, self.is_sign(2, "("), self.is_joined(2)) else {
            return Ok(None);
        };
        self.next += 3;
        let inner = Box::new(self.expression()?);
        self.need_sign(")")?;
        let offset = if minus { offset.wrapping_neg() } else { offset };
        Ok(Some(Node { syntax: Syntax::Fetch(offset.cast_signed(), inner), column }))
    }

    fn size_of(&mut self) -> Result<Node, SyntaxError> {
        let column = self.column();
        self.next += 1;
        if self.is_sign(0, "(")
            && let Some((of, length)) = self.type_name(1)
            && self.is_sign(1 + length, ")")
            && (of.pointers > 0 || is_type_word(&of.name))
        {
            self.next += 2 + length;
            return Ok(Node { syntax: Syntax::SizeOfType(of), column });
        }
        let operand = Box::new(self.deeper(Parser::unary)?);
        Ok(Node { syntax: Syntax::SizeOf(operand), column })
    }

    /// A type's name, so many words ahead, and how many words it has.
    fn type_name(&self, ahead: usize) -> Option<(TypeName, usize)> {
        let mut words: Vec<&str> = Vec::new();
        while let Word::Name(word) = self.word_at(ahead + words.len()) {
            words.push(word);
        }
        let qualifier = |word: &&str| matches!(*word, "const" | "volatile" | "restrict");
        let mut length = words.len();
        words.retain(|word| !qualifier(word));
        if words.is_empty() {
            return None;
        }
        let mut pointers = 0;
        while self.is_sign(ahead + length, "*") {
            length += 1;
            pointers += 1;
        }
        Some((TypeName { name: words.join(" "), pointers }, length))
    }

    /// Whether what stands in brackets is a type before the operand so many words ahead, rather than a value.
    fn is_cast(&self, of: &TypeName, operand: usize) -> bool {
        let begins_operand = |word: &Word| {
            !matches!(word, Word::Sign(sign) if !matches!(*sign, "(" | "@" | "~" | "!" | "\\"))
                && *word != Word::End
        };
        let next = self.word_at(operand);
        let is_type = of.pointers > 0 || is_type_word(&of.name);
        match next {
            Word::Sign("-" | "+" | "*" | "&" | "(" | "%") => is_type,
            next => begins_operand(next),
        }
    }

    fn postfix(&mut self) -> Result<Node, SyntaxError> {
        let column = self.column();
        let mut node = self.primary()?;
        let mut length = 0;
        loop {
            let syntax = if self.take_sign("->") {
                let pointer = Box::new(node);
                let pointed = Node { syntax: Syntax::Unary("*", pointer), column };
                Syntax::Member(Box::new(pointed), self.member()?)
            } else if self.take_sign(".") {
                Syntax::Member(Box::new(node), self.member()?)
            } else if self.take_sign("[") {
                let index = self.expression()?;
                self.need_sign("]")?;
                Syntax::Index(Box::new(node), Box::new(index))
            } else {
                return Ok(node);
            };
            node = Node { syntax, column };
            length += 1;
            if length > DEEPEST {
                return self.wrong(&format!("at most {DEEPEST} members in a row"));
            }
        }
    }

    /// Members of tuples have numbers.
    fn member(&mut self) -> Result<String, SyntaxError> {
        let name = match self.word() {
            Word::Name(name) => name.clone(),
            Word::Number(number) => number.to_string(),
            _ => return self.wrong("the name of a member"),
        };
        self.next += 1;
        Ok(name)
    }

    fn primary(&mut self) -> Result<Node, SyntaxError> {
        let column = self.column();
        let syntax = match self.word().clone() {
            Word::Number(value) => Syntax::Number(value),
            Word::Float(value) => Syntax::Float(value),
            Word::Text(text) => Syntax::Text(text),
            Word::Character(letter) => Syntax::Character(letter),
            Word::Name(name) => Syntax::Name(name),
            Word::Register(name) => Syntax::Register(name),
            Word::Special(name) => Syntax::Special(name),
            Word::Sign("(") => {
                self.next += 1;
                let inner = self.expression()?;
                self.need_sign(")")?;
                return Ok(Node { syntax: inner.syntax, column });
            }
            // Behind a bracket, only who knows that it is a cast's knows that this is no remainder.
            Word::Sign("%") if self.is_joined(1) && matches!(self.word_at(1), Word::Name(_)) => {
                self.next += 1;
                let Word::Name(name) = self.word().clone() else { return self.wrong("a register") };
                Syntax::Register(name)
            }
            Word::Sign(_) | Word::End => {
                return self.wrong("a variable, a register such as %rdi, a number, or a text in quotes");
            }
        };
        self.next += 1;
        Ok(Node { syntax, column })
    }

    fn fetch_type(&mut self) -> Result<FetchType, SyntaxError> {
        let column = self.column();
        let Word::Name(name) = self.word().clone() else {
            return self.wrong("a type, such as u32, x64, string, char, symbol, f64 or b4@8/32");
        };
        self.next += 1;
        let mut of = FetchType { name, bits: None, count: None, column };
        if let Some(width) = of.name.strip_prefix('b').and_then(number_of)
            && self.take_sign("@")
        {
            let offset = self.need_number()?;
            self.need_sign("/")?;
            let container = self.need_number()?;
            let bits = |value: u64| u32::try_from(value).ok().filter(|&bits| bits <= 64);
            let (Some(width), Some(offset), Some(container)) = (bits(width), bits(offset), bits(container))
            else {
                return self.wrong("at most 64 bits");
            };
            if width == 0 || offset + width > container || ![8, 16, 32, 64].contains(&container) {
                let what =
                    "expected bWIDTH@OFFSET/CONTAINER, all in bits, within a container of 8, 16, 32 or 64";
                return Err(SyntaxError::new(self.text, column, what));
            }
            of.bits = Some((width, offset, container));
        }
        if self.take_sign("[") {
            let count = self.need_number()?;
            self.need_sign("]")?;
            of.count = Some(count);
        }
        Ok(of)
    }
}

fn number_of(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Whether a name means a type whatever else there is.
pub(crate) fn is_type_word(name: &str) -> bool {
    const FIRST: [&str; 20] = [
        "struct",
        "union",
        "enum",
        "class",
        "unsigned",
        "signed",
        "int",
        "char",
        "short",
        "long",
        "float",
        "double",
        "void",
        "bool",
        "_Bool",
        "size_t",
        "ssize_t",
        "usize",
        "isize",
        "uintptr_t",
    ];
    let first = name.split(' ').next().unwrap_or_default();
    let sized = |prefix: &str, suffix: &str| {
        first
            .strip_prefix(prefix)
            .and_then(|rest| rest.strip_suffix(suffix))
            .is_some_and(|bits| matches!(bits, "8" | "16" | "32" | "64"))
    };
    FIRST.contains(&first)
        || ["u", "s", "x", "i", "f"].into_iter().any(|prefix| sized(prefix, ""))
        || ["uint", "int"].into_iter().any(|prefix| sized(prefix, "_t"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree in brackets.
    fn shown(node: &Node) -> String {
        match &node.syntax {
            Syntax::Number(value) => format!("{value}"),
            Syntax::Float(value) => format!("{value:?}"),
            Syntax::Text(text) => format!("{text:?}"),
            Syntax::Character(letter) => format!("{letter:?}"),
            Syntax::Name(name) => name.clone(),
            Syntax::Register(name) => format!("%{name}"),
            Syntax::Special(name) => format!("${name}"),
            Syntax::Unary(sign, a) => format!("({sign} {})", shown(a)),
            Syntax::Binary(sign, a, b) => format!("({} {sign} {})", shown(a), shown(b)),
            Syntax::Choice(a, b, c) => format!("({} ? {} : {})", shown(a), shown(b), shown(c)),
            Syntax::Member(a, name) => format!("{}.{name}", shown(a)),
            Syntax::Index(a, b) => format!("{}[{}]", shown(a), shown(b)),
            Syntax::Cast(of, a) => format!("<{}{}> {}", of.name, "*".repeat(of.pointers), shown(a)),
            Syntax::SizeOfType(of) => format!("sizeof<{}{}>", of.name, "*".repeat(of.pointers)),
            Syntax::SizeOf(a) => format!("sizeof {}", shown(a)),
            Syntax::Fetch(offset, a) => format!("+{offset}({})", shown(a)),
            Syntax::At(address) => format!("@{address}"),
            Syntax::AtFileOffset(offset) => format!("@+{offset}"),
        }
    }

    #[test]
    fn operators_bind_as_in_c() {
        for (text, expected) in [
            ("a + b * c == d && !e", "(((a + (b * c)) == d) && (! e))"),
            ("a << 1 | b & 3 ^ c", "((a << 1) | ((b & 3) ^ c))"),
            ("a - b - c", "((a - b) - c)"),
            ("a ? b : c ? d : e", "(a ? b : (c ? d : e))"),
            ("*p->q.r[i + 1]", "(* (* p).q.r[(i + 1)])"),
            ("&x.y", "(& x.y)"),
            ("-a * ~b", "((- a) * (~ b))"),
            ("(unsigned char)x + 1", "(<unsigned char> x + 1)"),
            ("(struct point *)p", "<struct point*> p"),
            ("(x) - 1", "(x - 1)"),
            ("(foo)bar", "<foo> bar"),
            ("(foo *)(bar)", "<foo*> bar"),
            ("(int)-1", "<int> (- 1)"),
            ("sizeof(int) + sizeof x", "(sizeof<int> + sizeof x)"),
            ("size > 4096 && comm == \"python3\"", "((size > 4096) && (comm == \"python3\"))"),
            ("%xmm0 % 2", "(%xmm0 % 2)"),
            ("(int)%di + (x)%di", "(<int> %di + (x % di))"),
            ("+8(%si)", "+8(%si)"),
            ("-16(+u8(%rbp))", "+-16(+8(%rbp))"),
            ("+8 (x)", ""),
            ("@0x10 + @+32", "(@16 + @+32)"),
            ("\\-1", "18446744073709551615"),
            ("\\\"text\"", "\"text\""),
            ("$stack2 == $retval", "($stack2 == $retval)"),
        ] {
            match parse_expression(text) {
                Ok(node) => assert_eq!(shown(&node), expected, "{text}"),
                Err(error) => assert!(expected.is_empty(), "{error}"),
            }
        }
    }

    #[test]
    fn types_follow_a_colon() {
        let fetched = parse_fetch("+4(%di):b4@8/32").unwrap();
        assert_eq!(fetched.shown_as.unwrap().bits, Some((4, 8, 32)));
        let fetched = parse_fetch("%di:x8[4]").unwrap();
        assert_eq!(fetched.shown_as.map(|of| (of.name, of.count)), Some(("x8".into(), Some(4))));
        let choice = parse_fetch("(a ? b : c):u8").unwrap();
        assert_eq!(choice.shown_as.unwrap().name, "u8");
        for (text, column) in [
            ("%di:", 4),
            ("%di:7", 4),
            ("%di:b4@40/32", 4),
            ("%di:b0@0/32", 4),
            ("%di:u8[", 7),
            ("%di:u8[x]", 7),
            ("", 0),
            ("a +", 3),
            ("a b", 2),
            ("+8(%di", 6),
            ("@x", 1),
            ("p->", 3),
            ("a ? b", 5),
        ] {
            let error = parse_fetch(text).unwrap_err();
            assert_eq!((error.text.as_str(), error.column), (text, column), "{error}");
        }
    }

    #[test]
    fn nothing_is_too_deep_to_be_refused() {
        for text in ["(".repeat(100_000), "-".repeat(100_000), "a?".repeat(100_000), "+1(".repeat(100_000)] {
            assert!(parse_expression(&text).is_err());
        }
        for part in ["->a", "[1]", "+a", "||a"] {
            assert!(parse_expression(&format!("a{}", part.repeat(100_000))).is_err());
        }
    }
}
