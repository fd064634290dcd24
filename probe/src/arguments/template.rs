//! The arguments and the condition of a probe, before and after it is known where they are.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arguments::binding::{Argument, Binding};
use crate::arguments::capture::is_letter;
use crate::arguments::change::BoundInjection;
use crate::arguments::compile::Compiler;
use crate::arguments::injection::Injection;
use crate::arguments::lexer::SyntaxError;
use crate::arguments::names::{Names, NoNames};
use crate::arguments::operand::Operand;
use crate::arguments::surroundings::Surroundings;
use crate::arguments::syntax::{Fetch, Node, parse_expression, parse_fetch};
use crate::language::types::{TypeId, Types};
use crate::symbols::spec::condition;

/// Arguments and a condition, as a user writes them: `[NAME=]FETCH… [if EXPRESSION]`.
///
/// Arguments are separated by spaces; one that has spaces in it stands in brackets. One without a name is called as it
/// is written, where that is a variable or a part of one, and `argN` otherwise, as the kernel does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Sent", into = "Sent")]
pub struct Template {
    arguments: Vec<Written>,
    condition: Option<(String, Node)>,
    /// Whether all variables are wanted, too.
    variables: bool,
    /// Whether the arguments that the probe itself has are wanted, too.
    of_probe: bool,
    injection: Option<Injection>,
}

/// A template on its way.
#[derive(Serialize, Deserialize)]
struct Sent {
    arguments: Vec<(String, String)>,
    condition: Option<String>,
    variables: bool,
    of_probe: bool,
    injection: Option<Injection>,
}

impl From<Template> for Sent {
    fn from(template: Template) -> Sent {
        let arguments = template.arguments.into_iter().map(|Written { name, text, .. }| (name, text));
        Sent {
            arguments: arguments.collect(),
            condition: template.condition.map(|(text, _)| text),
            variables: template.variables,
            of_probe: template.of_probe,
            injection: template.injection,
        }
    }
}

impl TryFrom<Sent> for Template {
    type Error = SyntaxError;

    fn try_from(sent: Sent) -> Result<Template, SyntaxError> {
        let Sent { variables, of_probe, injection, .. } = sent;
        let mut template = Template { variables, of_probe, injection, ..Template::default() };
        for (name, text) in sent.arguments {
            template = template.with_written(Some(&name), &text)?;
        }
        match sent.condition {
            Some(condition) => template.with_condition(&condition),
            None => Ok(template),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Written {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) fetch: Fetch,
}

/// What an argument may begin with, as perf's users write it.
const PREFIX: &str = "arg:";

/// The most arguments of a probe.
const MOST_ARGUMENTS: usize = 128;

impl Template {
    /// Nothing.
    #[must_use]
    pub fn new() -> Template {
        Template::default()
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Template::default()
    }

    /// Whether there is a condition.
    #[must_use]
    pub fn has_condition(&self) -> bool {
        self.condition.is_some()
    }

    /// Whether there is something to take at a hit.
    #[must_use]
    pub fn has_arguments(&self) -> bool {
        self.variables || self.of_probe || !self.arguments.is_empty()
    }

    /// How many arguments are written.
    #[must_use]
    pub fn arguments(&self) -> usize {
        self.arguments.len()
    }

    /// The same with all parameters and local variables of the site behind the arguments.
    #[must_use]
    pub fn with_variables(mut self) -> Template {
        self.variables = true;
        self
    }

    /// The same with the arguments that the probe itself has, as one of USDT does, behind those that are written.
    #[must_use]
    pub fn with_arguments_of_probe(mut self) -> Template {
        self.of_probe = true;
        self
    }

    /// The same with another argument behind the others.
    ///
    /// # Errors
    /// The text is none.
    pub fn with_argument(self, name: Option<&str>, text: &str) -> Result<Template, SyntaxError> {
        self.with_written(name, text.strip_prefix(PREFIX).unwrap_or(text))
    }

    /// The same of one that is without the prefix, so that one like it is a variable called so, with its type.
    fn with_written(mut self, name: Option<&str>, text: &str) -> Result<Template, SyntaxError> {
        let fetch = parse_fetch(text)?;
        if self.arguments.len() >= MOST_ARGUMENTS {
            let what = format!("a probe has at most {MOST_ARGUMENTS} arguments");
            return Err(SyntaxError::new(text, 0, what));
        }
        let name = name.map_or_else(|| self.name_of(text), str::to_owned);
        if self.arguments.iter().any(|known| known.name == name) {
            return Err(SyntaxError::new(text, 0, format!("there are two arguments called `{name}`")));
        }
        self.arguments.push(Written { name, text: text.to_owned(), fetch });
        Ok(self)
    }

    /// The same with a condition, which holds where the others do.
    ///
    /// # Errors
    /// The text is none.
    pub fn with_condition(mut self, text: &str) -> Result<Template, SyntaxError> {
        let text = match &self.condition {
            None => text.to_owned(),
            Some((other, _)) => {
                // Each for itself first, so that an error is one of what was written.
                parse_expression(text)?;
                format!("({other}) && ({text})")
            }
        };
        let node = parse_expression(&text)?;
        self.condition = Some((text, node));
        Ok(self)
    }

    /// The same with what is to be done at a hit, by [`Step::Inject`](crate::warden::Step::Inject) or
    /// [`Session::inject`](crate::Session::inject).
    #[must_use]
    pub fn with_injection(mut self, injection: Injection) -> Template {
        self.injection = Some(injection);
        self
    }

    /// What is to be done at a hit.
    #[must_use]
    pub fn injection(&self) -> Option<&Injection> {
        self.injection.as_ref()
    }

    fn name_of(&self, text: &str) -> String {
        let is_plain = |letter: char| letter.is_alphanumeric() || "_.[]:>-".contains(letter);
        let is_variable = text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
            && text.chars().all(is_plain);
        let plain =
            text.split_once(':').filter(|(_, rest)| !rest.starts_with(':')).map_or(text, |(name, _)| name);
        match (is_variable, text) {
            (true, _) => plain.to_owned(),
            (_, "$comm") => "comm".to_owned(),
            _ => format!("arg{}", self.arguments.len() + 1),
        }
    }

    /// Whether it means the same at each site.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        !self.variables && !self.of_probe && self.injection.is_none() && self.bind(&NoNames).is_ok()
    }

    /// Compiles it for a site.
    ///
    /// # Errors
    /// A name that means nothing there, or something that cannot be computed.
    pub fn bind(&self, names: &dyn Names) -> Result<Binding, SyntaxError> {
        self.bind_at(names, &Surroundings::default())
    }

    /// The same, where what is around the site is known, too.
    pub(crate) fn bind_at(
        &self,
        names: &dyn Names,
        surroundings: &Surroundings<'_>,
    ) -> Result<Binding, SyntaxError> {
        let mut types = Types::new();
        let mut unknowable = None;
        let condition = match &self.condition {
            Some((text, node)) => {
                let mut compiler = Compiler::new(text, names, &mut types);
                compiler.arguments = &self.arguments;
                let condition = compiler.condition(node)?;
                let missing = compiler.missing.take().filter(|_| !condition.may_hold());
                unknowable = missing.map(|(column, why)| SyntaxError::new(text, column, why));
                Some(condition)
            }
            None => None,
        };
        let mut arguments = Vec::new();
        for (index, Written { name, text, fetch }) in self.arguments.iter().enumerate() {
            let before = self.arguments.get(..index).unwrap_or_default();
            let mut compiler = Compiler::new(text, names, &mut types);
            compiler.arguments = before;
            let operand = compiler.fetch(fetch)?;
            let argument = Argument::new(name.clone(), &types, &operand);
            arguments.push(argument.map_err(|what| SyntaxError::new(text, fetch.node.column, what))?);
        }
        let mut more = if self.of_probe { names.arguments(&mut types) } else { Vec::new() };
        if self.variables {
            more.extend(names.variables(&mut types));
        }
        for (name, found) in more {
            let argument = found.and_then(|found| {
                let operand = Operand::new(found.location, found.of);
                Argument::new(name.clone(), &types, &operand).map_err(str::to_owned)
            });
            arguments.push(argument.unwrap_or_else(|why| Argument::missing(name, why)));
        }
        let mut injection = match &self.injection {
            Some(injection) => Some(BoundInjection::compile(injection, surroundings, names, &mut types)?),
            None => None,
        };
        let mut named: Vec<&mut TypeId> = arguments.iter_mut().flat_map(Argument::types).collect();
        named.extend(injection.iter_mut().flat_map(BoundInjection::types));
        let mut roots: Vec<TypeId> = named.iter().map(|of| **of).collect();
        // To show a pointer it matters no more what is there than whether it is a letter, or what a slice has; what programs
        // have behind their pointers is all that they have.
        let slices = types.elements_of_slices();
        let keeps = |reference, to| reference || is_letter(&types, to) || slices.contains(&to);
        let types = types.only_with(&mut roots, &keeps);
        named.iter_mut().zip(roots).for_each(|(place, of)| **place = of);
        Ok(Binding { condition, unknowable, arguments, injection, types })
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut space = "";
        for Written { name, text, .. } in &self.arguments {
            // Which is taken for the prefix otherwise.
            let prefix = if text.starts_with(PREFIX) { PREFIX } else { "" };
            write!(f, "{space}{name}={prefix}{text}")?;
            space = " ";
        }
        match &self.condition {
            Some((text, _)) => write!(f, "{space}if {text}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Template {
    type Err = SyntaxError;

    fn from_str(text: &str) -> Result<Template, SyntaxError> {
        Template::parse(text, false)
    }
}

impl Template {
    /// Those of a line of `uprobe_events`, where an argument without a name is called `argN`.
    ///
    /// # Errors
    /// As for other arguments.
    pub(crate) fn of_event(text: &str) -> Result<Template, SyntaxError> {
        Template::parse(text, true)
    }

    fn parse(text: &str, numbered: bool) -> Result<Template, SyntaxError> {
        let mut template = Template::new();
        let mut rest = text;
        loop {
            let at = text.len() - rest.trim_start().len();
            let here = |error: SyntaxError| SyntaxError::new(text, at + error.column, error.what);
            rest = rest.trim_start();
            if rest.is_empty() {
                return Ok(template);
            }
            if let Some(condition) = condition(rest) {
                let condition = condition.trim_start();
                let shifted = |error: SyntaxError| {
                    here(SyntaxError::new(text, error.column + rest.len() - condition.len(), error.what))
                };
                return template.with_condition(condition).map_err(shifted);
            }
            let (word, behind) = rest.split_at(word_length(rest));
            let (name, fetch) = match word.split_once('=') {
                Some((name, fetch)) if is_name(name) && !fetch.starts_with('=') => (Some(name), fetch),
                _ => (None, word),
            };
            let shifted = |error: SyntaxError| {
                here(SyntaxError::new(text, error.column + word.len() - fetch.len(), error.what))
            };
            let number = format!("arg{}", template.arguments() + 1);
            let name = name.or(numbered.then_some(&*number));
            template = template.with_argument(name, fetch).map_err(shifted)?;
            rest = behind;
        }
    }
}

fn is_name(text: &str) -> bool {
    text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
        && text.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
}

/// That of what stands before the first space that is in no brackets and no quotes.
fn word_length(text: &str) -> usize {
    let mut depth = 0u32;
    let mut quote = None;
    let mut escaped = false;
    for (index, letter) in text.char_indices() {
        match (quote, letter) {
            _ if std::mem::take(&mut escaped) => {}
            (Some(_), '\\') => escaped = true,
            (Some(open), letter) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '(' | '[') => depth += 1,
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, letter) if letter.is_whitespace() && depth == 0 => return index,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arguments::Line;
    use crate::arguments::names::Located;
    use crate::arguments::operand::Location;
    use crate::language::types::Type;
    use crate::language::types::{Encoding, Member, StructureKind};
    use crate::language::{Circumstance, ExtendedRegister, Register};
    use crate::language::{Expression, Machine, Undefined};

    /// Memory at 0x1000: a structure, texts, and numbers.
    struct Thread {
        memory: Vec<u8>,
    }

    const BASE: u64 = 0x1000;

    impl Thread {
        fn new() -> Thread {
            let mut memory = vec![0; 0x1000];
            let mut put = |at: usize, bytes: &[u8]| memory[at..at + bytes.len()].copy_from_slice(bytes);
            put(0, &(-7i32).to_le_bytes());
            put(4, &[0b1011_0110]);
            put(8, &(BASE + 0x100).to_le_bytes());
            put(16, &1.25f32.to_le_bytes());
            put(24, &2.5f64.to_le_bytes());
            put(0x100, b"hello\0");
            put(0x200, &(BASE + 0x100).to_le_bytes());
            put(0x208, &8u64.to_le_bytes());
            put(0xffe, b"xy");
            Thread { memory }
        }
    }

    impl Machine for Thread {
        fn register(&mut self, register: Register) -> u64 {
            match register {
                Register::Rdi => BASE,
                Register::Rsi => BASE + 0x100,
                Register::Rsp => BASE + 0x200,
                Register::Rdx => 0xffff_ffff_ffff_fffe,
                Register::Rip => 0x40_1000,
                other => other as u64,
            }
        }

        fn extended(&mut self, register: ExtendedRegister, quadword: u8) -> Option<u64> {
            match register {
                ExtendedRegister::Vector(0) => {
                    [2.5f64.to_bits(), 0x4020_0000_3f80_0000].get(usize::from(quadword)).copied()
                }
                ExtendedRegister::St(0) => [1 << 63, 0x4000].get(usize::from(quadword)).copied(),
                _ => None,
            }
        }

        fn circumstance(&mut self, what: Circumstance) -> Option<u64> {
            match what {
                Circumstance::CommLow => Some(u64::from_le_bytes(*b"python3\0")),
                Circumstance::CommHigh => Some(0),
                Circumstance::Pid => Some(42),
                _ => None,
            }
        }

        fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
            let start = address.wrapping_sub(BASE) as usize;
            let there = self.memory.get(start..).unwrap_or_default();
            let length = bytes.len().min(there.len());
            bytes[..length].copy_from_slice(&there[..length]);
            length
        }
    }

    /// `struct s { int n; unsigned a : 3, b : 5; char *name; float f; double d; }`, in memory and as `p` in RDI.
    struct Scope;

    impl Scope {
        fn structure(types: &mut Types) -> TypeId {
            let base = |types: &mut Types, encoding, bytes| {
                types.add(Type::Base { name: String::new(), encoding, bytes })
            };
            let int = base(types, Encoding::Signed, 4);
            let unsigned = base(types, Encoding::Unsigned, 4);
            let letter = base(types, Encoding::SignedCharacter, 1);
            let float = base(types, Encoding::Float, 4);
            let double = base(types, Encoding::Float, 8);
            let text = types.add(Type::Pointer { to: Some(letter), reference: false });
            let member = |name: &str, of, offset, bits| Member {
                name: Some(name.to_owned()),
                of,
                offset,
                bits,
                inherited: false,
            };
            let members = vec![
                member("n", int, 0, None),
                member("a", unsigned, 4, Some((0, 3))),
                member("b", unsigned, 4, Some((3, 5))),
                member("name", text, 8, None),
                member("f", float, 16, None),
                member("d", double, 24, None),
            ];
            let kind = StructureKind::Structure;
            types.add(Type::Structure { kind, name: Some("s".into()), bytes: 32, members, variants: None })
        }
    }

    impl Names for Scope {
        fn variable(&self, name: &str, types: &mut Types) -> Result<Located, String> {
            let of = Scope::structure(types);
            let rdi = Expression::register(Register::Rdi);
            match name {
                "s" => Ok(Located { location: Location::Memory(rdi), of }),
                // Of which only the first member and the double are somewhere.
                "pieces" => {
                    let n = Location::Bits(Expression::from(5));
                    let d = Location::Bits(Expression::from(0.5f64.to_bits()));
                    let pieces = vec![(4, Some(n)), (20, None), (8, Some(d))];
                    Ok(Located { location: Location::Pieces(pieces), of })
                }
                "p" => {
                    let of = types.add(Type::Pointer { to: Some(of), reference: false });
                    Ok(Located { location: Location::Bits(rdi), of })
                }
                _ => Err(format!("there is no variable `{name}`")),
            }
        }

        fn variables(&self, types: &mut Types) -> Vec<(String, Result<Located, String>)> {
            let gone = Err("optimized out".to_owned());
            vec![("s".to_owned(), self.variable("s", types)), ("gone".to_owned(), gone)]
        }

        fn type_named(&self, name: &str, types: &mut Types) -> Option<TypeId> {
            matches!(name, "s" | "struct s").then(|| Scope::structure(types))
        }

        fn site(&self) -> Option<u64> {
            Some(0x1000)
        }

        fn address_of_offset(&self, _: u64) -> Option<u64> {
            None
        }
    }

    fn shown(text: &str, names: &dyn Names) -> String {
        let binding = text.parse::<Template>().and_then(|template| template.bind(names));
        let binding = binding.unwrap_or_else(|error| panic!("{error}"));
        assert!(binding.is_valid());
        let bytes = postcard::to_stdvec(&binding).unwrap();
        let binding: Binding = postcard::from_bytes(&bytes).unwrap();
        let taken = binding.take(&mut Thread::new());
        let shown: Vec<String> =
            binding.values(&taken).map(|(name, value)| format!("{name}={value}")).collect();
        shown.join(" ")
    }

    #[test]
    fn the_kernels_arguments() {
        for (text, expected) in [
            ("%di", "arg1=0x1000"),
            ("a=%dx:u8 b=%dx:s8 c=%dx:s64 d=%dx:x16", "a=254 b=-2 c=-2 d=0xfffe"),
            ("+0(%di):s32", "arg1=-7"),
            ("+4(%di):b3@0/8 +4(%di):b5@3/8", "arg1=6 arg2=22"),
            ("+0(%si):string %si:string", "arg1=\"hello\" arg2=\"hello\""),
            ("+0(+8(%di)):ustring", "arg1=\"hello\""),
            ("+8(%di):string[1]", "arg1={0x1100 \"hello\"}"),
            ("+0(%si):char +0(%si):x8[3]", "arg1='h' arg2={0x68, 0x65, 0x6c}"),
            ("$stack0 $stack1:u64 $stack", "arg1=0x1100 arg2=8 arg3=0x1200"),
            ("@0x1000:s32 @0x20000:u8", "arg1=-7 arg2=(fault)"),
            ("\\7:u8 \\\"text\":string", "arg1=7 arg2=\"text\""),
            ("$comm n=$comm", "comm=\"python3\" n=\"python3\""),
            ("%ip:symbol", "arg1=0x401000"),
            ("+0xffe(%di):string", "arg1=(fault)"),
            ("+16(%di):f32 +24(%di):f64", "arg1=1.25 arg2=2.5"),
        ] {
            assert_eq!(shown(text, &NoNames), expected, "{text}");
        }
    }

    #[test]
    fn registers_that_are_not_general() {
        for (text, expected) in [
            ("%xmm0", "arg1={0x4004000000000000, 0x402000003f800000}"),
            ("%xmm0:f64 (double)%xmm0", "arg1=2.5 arg2=2.5"),
            ("%xmm0:f32[4]", "arg1={0, 2.0625, 1, 2.5}"),
            ("%xmm0:x8[2]", "arg1={0x0, 0x0}"),
            ("(double)%xmm0*2", "arg1=5"),
            ("%st0", "arg1=2"),
            ("%xmm1", "arg1=(fault)"),
        ] {
            assert_eq!(shown(text, &NoNames), expected, "{text}");
        }
    }

    #[test]
    fn variables_have_types() {
        let whole = "{n = -7, a = 6, b = 22, name = 0x1100 \"hello\", f = 1.25, d = 2.5}";
        for (text, expected) in [
            ("s", format!("s={whole}")),
            ("*p", format!("arg1={whole}")),
            ("p->n p->name p->f", "p->n=-7 p->name=0x1100 \"hello\" p->f=1.25".to_owned()),
            ("x=s.n*2 y=(s.n+1>0) z=sizeof(s)", "x=-14 y=0 z=32".to_owned()),
            ("s.a s.b:x8", "s.a=6 s.b=0x16".to_owned()),
            ("p->name[1] *p->name", "p->name[1]='e' arg2='h'".to_owned()),
            ("x=s.d+s.f", "x=3.75".to_owned()),
            ("(struct s*)%di", "arg1=0x1000".to_owned()),
            ("x=((struct s*)%di)->n", "x=-7".to_owned()),
            ("x=&s.name", "x=0x1008".to_owned()),
            ("x=(unsigned)s.n y=(s.n>0u)", String::new()),
            ("arg:p->n", "p->n=-7".to_owned()),
            (
                "pieces",
                "pieces={n = 5, a = (optimized out), b = (optimized out), name = (optimized out), f = (optimized \
                 out), d = 0.5}"
                    .to_owned(),
            ),
        ] {
            if !expected.is_empty() {
                assert_eq!(shown(text, &Scope), expected, "{text}");
            }
        }
        let template = Template::new().with_variables();
        let binding = template.bind(&Scope).unwrap();
        let taken = binding.take(&mut Thread::new());
        let values: Vec<_> = binding.values(&taken).map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(values, [format!("s={whole}"), "gone=(optimized out)".to_owned()]);
    }

    #[test]
    fn what_is_printed_or_sent_is_the_same_again() {
        for text in ["arg:arg:u8", "x=arg:arg:u8", "arg:s", "%di:u64 y=s.a if y < 3"] {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.to_string().parse(), Ok(template.clone()), "{text}");
            let sent = serde_json::to_string(&template).unwrap();
            assert_eq!(serde_json::from_str::<Template>(&sent).unwrap(), template, "{text}");
        }
        let template: Template = "arg:arg:u8".parse().unwrap();
        assert_eq!(template.to_string(), "arg=arg:arg:u8");
    }

    #[test]
    fn conditions_hold_or_not() {
        for (text, expected) in [
            ("if s.n < 0 && p->name == \"hello\"", Ok(true)),
            ("if p->name != \"hello\"", Ok(false)),
            ("if p->name == \"hell\" || p->name == \"hello, long world\"", Ok(false)),
            ("if comm == \"python3\" && pid == 42", Ok(true)),
            ("if (unsigned)s.n > 5", Ok(true)),
            ("if!s.n", Ok(false)),
            ("iffy=s.n if\niffy < 0", Ok(true)),
            ("if s.d > 2.4 && s.d < 2.6", Ok(true)),
            ("if %dx == -2", Ok(true)),
            ("x=%di:u64 y=+0(%di):s32 if x == 0x1000 && y < 0", Ok(true)),
            ("x=%di:u64 if x != 0x1000", Ok(false)),
            ("if *(int *)0 == 1", Err(Undefined::Memory { address: 0 })),
            ("if 7 / (pid - 42)", Err(Undefined::Division)),
            ("", Ok(true)),
        ] {
            let template: Template = text.parse().unwrap();
            let binding = template.bind(&Scope).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(binding.holds(&mut Thread::new()), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_its_column() {
        for (text, column) in [
            ("a=%di b=%xyz", 8),
            ("a=%di if", 8),
            ("a=%di if x +", 12),
            ("a=%di:u9", 6),
            ("a=nothing", 2),
            ("s.none", 0),
            ("a=%di a=%si", 8),
            ("if comm > 3", 3),
            ("if %xmm0 > 1.5", 3),
            ("x=*s.n", 2),
            ("x=&%di", 3),
            ("x=+0(%di):string[65]", 10),
        ] {
            let bound = text.parse::<Template>().and_then(|template| template.bind(&Scope));
            let error = bound.expect_err(text);
            // What binding complains about is one argument, which it names.
            let column = if error.text == text { column } else { column - text.find(&error.text).unwrap() };
            assert_eq!(error.column, column, "{error}");
        }
    }

    #[test]
    fn lines_of_ones_own() {
        let (line, template) = Line::parse("n={s.n} {{x}} name={p->name}\\n", Template::new()).unwrap();
        let binding = template.bind(&Scope).unwrap();
        let taken = binding.take(&mut Thread::new());
        let values: Vec<_> = binding.values(&taken).map(|(_, value)| value).collect();
        assert_eq!(line.with(|index| values[index].to_string()), "n=-7 {x} name=0x1100 \"hello\"\n");
        for text in ["{", "}", "{x", "{}", "{a b}"] {
            assert!(Line::parse(text, Template::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn templates_print_as_they_are_parsed() {
        for text in ["a=%di b=+0(%si):string if a > 3 && comm == \"x y\"", "x=(a + b)", "if 1", ""] {
            let template: Template = text.parse().unwrap();
            assert_eq!(template.to_string(), text);
        }
    }

    /// Whatever bytes come back, there are values.
    #[test]
    fn bytes_that_were_not_taken_do_no_harm() {
        let binding = "s p->name %xmm0".parse::<Template>().unwrap().bind(&Scope).unwrap();
        let taken = binding.take(&mut Thread::new());
        for index in 0..taken.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = taken.clone();
                bytes[index] = value;
                assert_eq!(binding.values(&bytes).count(), 3);
            }
            assert_eq!(binding.values(&taken[..index]).count(), 3);
        }
    }
}
