//! From what a user writes to what is computed at a hit.

use crate::arguments::lexer::SyntaxError;
use crate::arguments::names::Names;
use crate::arguments::object::RESULT;
use crate::arguments::operand::{
    Class, INT, Location, Number, Operand, Place, U64, class_of, part, part_or_missing, plus,
};
use crate::arguments::registers::{self, Named};
use crate::arguments::syntax::{Fetch, FetchType, Node, Syntax, TypeName};
use crate::arguments::template::Written;
use crate::language::types::{Encoding, Member, Type, TypeId, Types};
use crate::language::{Binary, Circumstance, Expression, Register};

/// Compiles what is written in `text` for a site.
pub(crate) struct Compiler<'a> {
    pub(crate) text: &'a str,
    pub(crate) names: &'a dyn Names,
    pub(crate) types: &'a mut Types,
    /// What memory is taken for whose type nobody has told.
    untyped: TypeId,
    /// Arguments that may be named, each as it is written, besides variables, which come first.
    pub(crate) arguments: &'a [Written],
    /// The first thing that is nowhere, where it is written, and why.
    pub(crate) missing: Option<(usize, String)>,
}

pub(crate) type Compiled<T> = Result<T, SyntaxError>;

/// The longest array that is captured, in bytes.
pub(crate) const MOST_BYTES: u64 = 4096;
/// Registers in which arguments of whole numbers are passed (System V ABI, section 3.2.3).
const ARGUMENTS: [Register; 6] =
    [Register::Rdi, Register::Rsi, Register::Rdx, Register::Rcx, Register::R8, Register::R9];

impl<'a> Compiler<'a> {
    pub(crate) fn new(text: &'a str, names: &'a dyn Names, types: &'a mut Types) -> Compiler<'a> {
        let untyped = base(types, "unsigned long", Encoding::Hexadecimal, 8);
        Compiler { text, names, types, untyped, arguments: &[], missing: None }
    }

    pub(crate) fn wrong<T>(&self, node: &Node, what: impl Into<String>) -> Compiled<T> {
        self.wrong_at(node.column, what)
    }

    fn wrong_at<T>(&self, column: usize, what: impl Into<String>) -> Compiled<T> {
        Err(SyntaxError::new(self.text, column, what))
    }

    /// A condition: a number that is not 0 where it holds.
    pub(crate) fn condition(&mut self, node: &Node) -> Compiled<Expression> {
        Ok(self.number(node)?.is_true())
    }

    /// An argument, as it is to be shown.
    pub(crate) fn fetch(&mut self, fetch: &Fetch) -> Compiled<Operand> {
        let operand = self.operand(&fetch.node)?;
        let operand = match &fetch.shown_as {
            None => operand,
            Some(of) => self.shown_as(&fetch.node, operand, of)?,
        };
        match self.missing.take() {
            Some((_, why)) if operand.is_never_known() => {
                Ok(Operand::new(Location::Missing(why), operand.of))
            }
            _ => Ok(operand),
        }
    }

    /// Remembers why something is nowhere.
    fn note(&mut self, node: &Node, location: &Location) {
        if let Location::Missing(why) = location {
            self.missing.get_or_insert_with(|| (node.column, why.clone()));
        }
    }

    fn base(&mut self, name: &str, encoding: Encoding, bytes: u64) -> TypeId {
        base(self.types, name, encoding, bytes)
    }

    fn of_class(&mut self, class: Class) -> TypeId {
        match class {
            Class::Float => self.base("double", Encoding::Float, 8),
            Class::Pointer(to) => self.types.add(Type::Pointer { to, reference: false }),
            Class::Integer { bytes, signed } => {
                let name = match (bytes, signed) {
                    (1, true) => "signed char",
                    (1, false) => "unsigned char",
                    (2, true) => "short",
                    (2, false) => "unsigned short",
                    (4, true) => "int",
                    (4, false) => "unsigned int",
                    (_, true) => "long",
                    (_, false) => "unsigned long",
                };
                let encoding = if signed { Encoding::Signed } else { Encoding::Unsigned };
                self.base(name, encoding, bytes)
            }
        }
    }

    pub(crate) fn of_number(&mut self, number: Number) -> Operand {
        let of = self.of_class(number.class);
        Operand::new(Location::Bits(number.value), of)
    }

    fn hexadecimal(&mut self, value: Expression) -> Operand {
        Operand::new(Location::Bits(value), self.untyped)
    }

    fn text(&mut self, place: Place) -> Operand {
        Operand { place, of: self.types.add(Type::Text) }
    }

    pub(crate) fn operand(&mut self, node: &Node) -> Compiled<Operand> {
        Ok(match &node.syntax {
            Syntax::Name(name) => self.name(node, name)?,
            Syntax::Register(name) => self.register(node, name)?,
            Syntax::Special(name) => self.special(node, name)?,
            Syntax::Text(text) => self.text(Place::Text(text.clone())),
            Syntax::Fetch(offset, inner) => {
                let address = self.number(inner)?.value;
                self.untyped_at(plus(address, offset.cast_unsigned()))
            }
            Syntax::At(address) => self.untyped_at((*address).into()),
            Syntax::AtFileOffset(offset) => match self.names.address_of_offset(*offset) {
                Some(address) => {
                    let address = self.in_object(node, address)?;
                    self.untyped_at(address)
                }
                None => {
                    return self.wrong(node, format!("the file has nothing mapped at offset {offset:#x}"));
                }
            },
            Syntax::Unary("*", pointer) => self.pointed_to(node, pointer)?,
            Syntax::Unary("&", of) => self.address_of(of)?,
            Syntax::Member(structure, name) => self.member(node, structure, name)?,
            Syntax::Index(array, index) => self.index(node, array, index)?,
            Syntax::Cast(of, inner) => self.cast(node, of, inner)?,
            _ => {
                let number = self.computed(node)?;
                self.of_number(number)
            }
        })
    }

    fn untyped_at(&mut self, address: Expression) -> Operand {
        Operand::new(Location::Memory(address), self.untyped)
    }

    /// An address of the object that the site is in, at a hit.
    fn in_object(&self, node: &Node, address: u64) -> Compiled<Expression> {
        match self.names.in_object(address) {
            Some(address) => Ok(address),
            None => self.wrong(node, "nothing is known of the file that the probe is in"),
        }
    }

    fn name(&mut self, node: &Node, name: &str) -> Compiled<Operand> {
        let missing = match self.names.variable(name, self.types) {
            Ok(found) => {
                self.note(node, &found.location);
                return self.referred(node, Operand::new(found.location, found.of));
            }
            Err(missing) => missing,
        };
        if let Some(operand) = self.known(name) {
            return Ok(operand);
        }
        let Some(argument) = self.arguments.iter().find(|argument| argument.name == name) else {
            return self.wrong(node, missing);
        };
        // Which name no arguments themselves, so that there is an end.
        let mut inner = Compiler::new(&argument.text, self.names, self.types);
        let operand = inner.fetch(&argument.fetch)?;
        if let Place::At(location) = &operand.place {
            self.note(node, location);
        }
        Ok(operand)
    }

    /// What is known of each hit.
    fn known(&mut self, name: &str) -> Option<Operand> {
        let (what, class) = match name {
            "comm" => return Some(self.text(Place::Comm)),
            "pid" => (Circumstance::Pid, INT),
            "tid" => (Circumstance::Tid, INT),
            "cpu" => (Circumstance::Cpu, INT),
            "time" => (Circumstance::Time, U64),
            "true" | "false" => {
                let value = Expression::from(u64::from(name == "true"));
                return Some(self.of_number(Number { value, class: INT }));
            }
            "NULL" | "nullptr" => {
                let class = Class::Pointer(None);
                return Some(self.of_number(Number { value: 0.into(), class }));
            }
            _ => return None,
        };
        Some(self.of_number(Number { value: Expression::circumstance(what), class }))
    }

    fn register(&mut self, node: &Node, name: &str) -> Compiled<Operand> {
        Ok(match registers::named(name).or_else(|| registers::of_kernel(name)) {
            Some(Named::General(value, 8)) => self.hexadecimal(value),
            Some(Named::General(value, bytes)) => {
                let of = self.base("unsigned", Encoding::Hexadecimal, bytes);
                Operand::new(Location::Bits(value), of)
            }
            Some(Named::Vector(location, bytes)) => {
                let array = Type::Array { element: self.untyped, count: Some(bytes / 8) };
                let of = self.types.add(array);
                Operand::new(location, of)
            }
            Some(Named::X87(location)) => {
                let of = self.base("long double", Encoding::Float, 16);
                Operand::new(location, of)
            }
            None => return self.wrong(node, format!("there is no register %{name}")),
        })
    }

    /// All of RAX.
    pub(crate) fn accumulator(&mut self) -> Operand {
        self.hexadecimal(Expression::register(Register::Rax))
    }

    fn special(&mut self, node: &Node, name: &str) -> Compiled<Operand> {
        let stack = || Expression::register(Register::Rsp);
        let numbered = |prefix: &str| {
            let digits = name.strip_prefix(prefix)?;
            digits.parse::<u64>().ok().filter(|&number| number <= MOST_BYTES)
        };
        Ok(match name {
            "comm" => self.text(Place::Comm),
            "stack" => self.hexadecimal(stack()),
            "retval" => match self.names.variable(RESULT, self.types) {
                Ok(found) => Operand::new(found.location, found.of),
                Err(_) => self.accumulator(),
            },
            "pid" | "tid" | "cpu" | "time" => match self.known(name) {
                Some(operand) => operand,
                None => return self.wrong(node, "this is not known"),
            },
            _ => {
                if let Some(number) = numbered("stack") {
                    return Ok(self.untyped_at(plus(stack(), 8 * number)));
                }
                // A probe may have arguments of its own.
                if numbered("arg").is_some()
                    && let Some(own) = self.own_argument(node, name)?
                {
                    return Ok(own);
                }
                match numbered("arg") {
                    Some(number @ 1..=6) => {
                        let register = ARGUMENTS[number as usize - 1];
                        self.hexadecimal(Expression::register(register))
                    }
                    // Behind the return address.
                    Some(number @ 7..) => self.untyped_at(plus(stack(), 8 * (number - 6))),
                    _ => {
                        let what =
                            "expected $retval, $stack, $stackN, $argN, $comm, $pid, $tid, $cpu or $time";
                        return self.wrong(node, what);
                    }
                }
            }
        })
    }

    /// What the probe itself calls `$argN`; `None` where it has no arguments.
    fn own_argument(&mut self, node: &Node, name: &str) -> Compiled<Option<Operand>> {
        if !self.names.has_arguments() {
            return Ok(None);
        }
        match self.names.variable(&format!("${name}"), self.types) {
            Ok(found) => Ok(Some(Operand::new(found.location, found.of))),
            Err(missing) => self.wrong(node, missing),
        }
    }

    fn pointed_to(&mut self, node: &Node, pointer: &Node) -> Compiled<Operand> {
        // An address, though it may be small enough for an int.
        if let Syntax::Number(address) = pointer.syntax {
            return Ok(self.untyped_at(address.into()));
        }
        let operand = self.operand(pointer)?;
        // An array is the address of its first element.
        if let Some(element) = self.types.element_of(operand.of)
            && let Place::At(Location::Memory(address)) = operand.place
        {
            return Ok(Operand::new(Location::Memory(address), element));
        }
        let number = self.number_of(pointer, &operand)?;
        match number.class {
            Class::Pointer(Some(to)) => Ok(Operand::new(Location::Memory(number.value), to)),
            Class::Pointer(None) => {
                self.wrong(node, "what a void pointer leads to has no type: write a cast")
            }
            Class::Integer { bytes: 8, .. } => Ok(self.untyped_at(number.value)),
            _ => self.wrong(node, "this is no pointer"),
        }
    }

    fn address_of(&mut self, node: &Node) -> Compiled<Operand> {
        let operand = self.operand(node)?;
        match operand.place {
            Place::At(Location::Memory(address)) => {
                let class = Class::Pointer(Some(operand.of));
                Ok(self.of_number(Number { value: address, class }))
            }
            Place::At(missing @ Location::Missing(_)) => Ok(Operand::new(missing, self.untyped)),
            _ => self.wrong(node, "this has no address: it is in a register"),
        }
    }

    fn member(&mut self, node: &Node, structure: &Node, name: &str) -> Compiled<Operand> {
        let mut operand = self.operand(structure)?;
        // As in Rust and Go, and as gdb does.
        if let Some(&Type::Pointer { to: Some(to), .. }) = self.types.get_resolved(operand.of) {
            let number = self.number_of(structure, &operand)?;
            operand = Operand::new(Location::Memory(number.value), to);
        }
        let Some(path) = self.types.path_to(operand.of, name) else {
            return self.wrong(node, self.no_member(operand.of, name));
        };
        for member in path {
            operand = self.part_of(node, operand, member, name)?;
        }
        self.referred(node, operand)
    }

    /// What a reference is one of, which is written like that itself.
    fn referred(&self, node: &Node, operand: Operand) -> Compiled<Operand> {
        match self.types.get_resolved(operand.of) {
            Some(&Type::Pointer { to: Some(to), reference: true }) => {
                let address = self.number_of(node, &operand)?.value;
                Ok(Operand::new(Location::Memory(address), to))
            }
            _ => Ok(operand),
        }
    }

    /// A part of a structure, on the way to the one called `name`.
    fn part_of(&mut self, node: &Node, operand: Operand, member: Member, name: &str) -> Compiled<Operand> {
        let Place::At(location) = &operand.place else { return self.wrong(node, "this has no members") };
        if let Some(Type::Elsewhere { of, at }) = self.types.get_resolved(member.of) {
            return match part(location, member.offset, 0) {
                Some(Location::Memory(object)) => {
                    let is_object = |register| (register == Register::Rdi).then(|| object.clone());
                    Ok(Operand::new(Location::Memory(at.with_registers(is_object)), *of))
                }
                Some(missing @ Location::Missing(_)) => Ok(Operand::new(missing, *of)),
                _ => {
                    self.wrong(node, format!("`{name}` is of a virtual base class of what is not in memory"))
                }
            };
        }
        if let Some((first, count)) = member.bits {
            return match part(location, member.offset, 1) {
                Some(Location::Memory(address)) => {
                    Ok(Operand { place: Place::BitField(address, first, count), of: member.of })
                }
                Some(missing @ Location::Missing(_)) => Ok(Operand::new(missing, member.of)),
                _ => self.wrong(node, "a bit-field in a register cannot be read"),
            };
        }
        let bytes = self.types.size_of(member.of).unwrap_or(1);
        match part_or_missing(location, member.offset, bytes) {
            Some(location) => {
                self.note(node, &location);
                Ok(Operand::new(location, member.of))
            }
            None => self.wrong(node, format!("`{name}` is not in one piece here")),
        }
    }

    fn no_member(&self, of: TypeId, name: &str) -> String {
        const MOST: usize = 12;
        let Some(Type::Structure { members, .. }) = self.types.get_resolved(of) else {
            return format!("this is no structure, so it has no member `{name}`");
        };
        let mut names: Vec<&str> = members.iter().filter_map(|member| member.name.as_deref()).collect();
        let more = if names.len() > MOST { ", …" } else { "" };
        names.truncate(MOST);
        format!("there is no member `{name}`; there is {}{more}", names.join(", "))
    }

    fn index(&mut self, node: &Node, array: &Node, index: &Node) -> Compiled<Operand> {
        let operand = self.operand(array)?;
        let index_number = self.number(index)?;
        let constant = index_number.value.constant();
        let (element, base) = match self.types.element_of(operand.of) {
            Some(element) => match (operand.place, constant) {
                (Place::At(Location::Memory(address)), _) => (element, address),
                (Place::At(missing @ Location::Missing(_)), _) => {
                    return Ok(Operand::new(missing, element));
                }
                (Place::At(location), Some(index)) => {
                    let bytes = self.types.size_of(element).unwrap_or(1);
                    let offset = index.checked_mul(bytes);
                    return match offset.and_then(|offset| part_or_missing(&location, offset, bytes)) {
                        Some(location) => Ok(Operand::new(location, element)),
                        None => self.wrong(node, "there is no such element"),
                    };
                }
                _ => return self.wrong(node, "what is in a register takes a constant index"),
            },
            _ => {
                let number = self.number_of(array, &operand)?;
                match number.class {
                    Class::Pointer(Some(to)) => (to, number.value),
                    _ => return self.wrong(node, "this is neither an array nor a pointer to something"),
                }
            }
        };
        let Some(bytes) = self.types.size_of(element).filter(|&bytes| bytes > 0) else {
            return self.wrong(node, "its elements have no known size");
        };
        let address = match constant {
            Some(index) => plus(base, index.wrapping_mul(bytes)),
            None => {
                let offset = index_number.value.binary(Binary::Multiply, bytes.into());
                base.binary(Binary::Add, offset)
            }
        };
        Ok(Operand::new(Location::Memory(address), element))
    }

    /// The type of a name; that of an object is looked for where it is not one of C's or the kernel's.
    pub(crate) fn type_of(&mut self, node: &Node, name: &TypeName) -> Compiled<Option<TypeId>> {
        let mut of = match basic(&name.name) {
            Some((encoding, bytes)) => Some(self.base(&name.name, encoding, bytes)),
            None if name.name == "void" => None,
            None => match self.names.type_named(&name.name, self.types) {
                Some(of) => Some(of),
                None => return self.wrong(node, format!("there is no type `{}`", name.name)),
            },
        };
        for _ in 0..name.pointers {
            of = Some(self.types.add(Type::Pointer { to: of, reference: false }));
        }
        Ok(of)
    }

    fn cast(&mut self, node: &Node, name: &TypeName, inner: &Node) -> Compiled<Operand> {
        let Some(of) = self.type_of(node, name)? else {
            return self.wrong(node, "there are no values of type void");
        };
        let operand = self.operand(inner)?;
        // A register is seen as what it holds.
        if let Place::At(location @ Location::Extended(..)) = &operand.place
            && let Some(Type::Array { .. }) = self.types.get_resolved(operand.of)
        {
            return Ok(Operand::new(location.clone(), of));
        }
        let Some(class) = class_of(self.types, of) else {
            return match operand.place {
                Place::At(location @ (Location::Memory(_) | Location::Missing(_))) => {
                    Ok(Operand::new(location, of))
                }
                _ => self.wrong(node, format!("no value can be made a `{}`", name.name)),
            };
        };
        let number = self.number_of(inner, &operand)?;
        let value = match class {
            Class::Float if self.types.size_of(of) == Some(4) => {
                return self.wrong(node, "write (double) for numbers that are not in a register");
            }
            Class::Float => Some(number.to_float()),
            Class::Integer { bytes, signed } => number.to_integer(bytes, signed),
            Class::Pointer(_) => number.to_integer(8, false),
        };
        match value {
            Some(value) => Ok(Operand::new(Location::Bits(value), of)),
            None => self.wrong(node, "numbers of this size cannot be computed"),
        }
    }

    pub(crate) fn number_of(&self, node: &Node, operand: &Operand) -> Compiled<Number> {
        if let Some(number) = operand.number(self.types) {
            return Ok(number);
        }
        let what = match (&operand.place, self.types.get_resolved(operand.of)) {
            (Place::At(Location::Extended(..)), Some(Type::Array { .. })) => {
                "a vector register has several numbers: write a cast, such as (double)%xmm0 or (int)%xmm1"
            }
            (Place::Text(_) | Place::Comm, _) => "a text is no number; it can be compared by == and !=",
            _ => "this is no number",
        };
        self.wrong(node, what)
    }

    /// What a type after a colon makes of an argument.
    fn shown_as(&mut self, node: &Node, operand: Operand, of: &FetchType) -> Compiled<Operand> {
        let is_untyped = operand.of == self.untyped;
        if let Some((width, offset, container)) = of.bits {
            return self.bits_of(node, &operand, of, (width, offset, container));
        }
        if let "string" | "ustring" | "symstr" = of.name.as_str() {
            return self.string(node, operand, of);
        }
        let (encoding, bytes) = match (of.name.as_str(), basic(&of.name)) {
            ("symbol", _) => (Encoding::Address, 8),
            ("char", _) => (Encoding::SignedCharacter, 1),
            (_, Some(known)) => known,
            (name, None) => {
                let what = format!(
                    "there is no type `{name}`: write u8 to u64, s8 to s64, x8 to x64, f32, f64, f80, char, \
                     string, symbol, or bWIDTH@OFFSET/CONTAINER"
                );
                return self.wrong_at(of.column, what);
            }
        };
        let element = self.base(&of.name, encoding, bytes);
        if let Some(count) = of.count {
            if count == 0 || count.saturating_mul(bytes) > MOST_BYTES {
                return self
                    .wrong_at(of.column, format!("an array has 1 to {} such elements", MOST_BYTES / bytes));
            }
            let array = self.types.add(Type::Array { element, count: Some(count) });
            return match operand.place {
                Place::At(
                    location @ (Location::Memory(_) | Location::Extended(..) | Location::Missing(_)),
                ) => Ok(Operand::new(location, array)),
                _ => self.wrong_at(of.column, "only memory and vector registers have several elements"),
            };
        }
        match &operand.place {
            Place::At(location @ Location::Memory(_)) if is_untyped => {
                Ok(Operand::new(location.clone(), element))
            }
            Place::At(location @ Location::Extended(..))
                if !matches!(self.types.get_resolved(operand.of), Some(Type::Base { .. })) =>
            {
                Ok(Operand::new(location.clone(), element))
            }
            // The bits of a register are those of a float, as they are in memory.
            Place::At(location @ Location::Bits(_)) if is_untyped => {
                Ok(Operand::new(location.clone(), element))
            }
            _ => self.converted_to(node, &operand, element),
        }
    }

    fn converted_to(&mut self, node: &Node, operand: &Operand, of: TypeId) -> Compiled<Operand> {
        let number = self.number_of(node, operand)?;
        let value = match class_of(self.types, of) {
            Some(Class::Float) if self.types.size_of(of) == Some(8) => Some(number.to_float()),
            Some(Class::Integer { bytes, signed }) => number.to_integer(bytes, signed),
            _ => None,
        };
        match value {
            Some(value) => Ok(Operand::new(Location::Bits(value), of)),
            None => self.wrong(node, "this cannot be shown as that type"),
        }
    }

    fn bits_of(
        &mut self,
        node: &Node,
        operand: &Operand,
        of: &FetchType,
        (width, offset, container): (u32, u32, u32),
    ) -> Compiled<Operand> {
        if of.count.is_some() {
            return self.wrong_at(of.column, "there are no arrays of bit-fields");
        }
        let value = match &operand.place {
            Place::At(Location::Memory(address)) if operand.of == self.untyped => {
                let unsigned = self.base("unsigned", Encoding::Unsigned, u64::from(container / 8));
                self.number_of(node, &Operand::new(Location::Memory(address.clone()), unsigned))?.value
            }
            _ => self.number_of(node, operand)?.value,
        };
        let up = value.binary(Binary::ShiftLeft, u64::from(64 - offset - width).into());
        let value = up.binary(Binary::ShiftRight, u64::from(64 - width).into());
        let unsigned = self.base("unsigned", Encoding::Unsigned, 8);
        Ok(Operand::new(Location::Bits(value), unsigned))
    }

    fn string(&mut self, node: &Node, operand: Operand, of: &FetchType) -> Compiled<Operand> {
        if let Place::Text(_) | Place::Comm | Place::At(Location::Missing(_)) = operand.place {
            return Ok(operand);
        }
        let text = self.types.add(Type::Text);
        let Some(count) = of.count else {
            // The kernel's +0(%si):string is the text at %si.
            let address = match operand.place {
                Place::At(Location::Memory(address)) if operand.of == self.untyped => address,
                _ => self.text_at(node, &operand)?,
            };
            return Ok(Operand::new(Location::Memory(address), text));
        };
        const MOST: u64 = 64;
        if count == 0 || count > MOST {
            return self.wrong_at(of.column, format!("an array has 1 to {MOST} texts"));
        }
        let Place::At(Location::Memory(address)) = operand.place else {
            return self.wrong(node, "only memory has several elements");
        };
        let letter = self.base("char", Encoding::SignedCharacter, 1);
        let element = self.types.add(Type::Pointer { to: Some(letter), reference: true });
        let array = self.types.add(Type::Array { element, count: Some(count) });
        Ok(Operand::new(Location::Memory(address), array))
    }
}

fn base(types: &mut Types, name: &str, encoding: Encoding, bytes: u64) -> TypeId {
    types.add(Type::Base { name: name.to_owned(), encoding, bytes })
}

/// The types of the kernel's arguments, C and Rust, which need no object.
fn basic(name: &str) -> Option<(Encoding, u64)> {
    let bits = |prefix: &str, suffix: &str| {
        let bits = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
        matches!(bits, "8" | "16" | "32" | "64")
            .then(|| bits.parse::<u64>().ok())
            .flatten()
            .map(|bits| bits / 8)
    };
    for (prefix, suffix, encoding) in [
        ("u", "", Encoding::Unsigned),
        ("s", "", Encoding::Signed),
        ("i", "", Encoding::Signed),
        ("x", "", Encoding::Hexadecimal),
        ("uint", "_t", Encoding::Unsigned),
        ("int", "_t", Encoding::Signed),
    ] {
        if let Some(bytes) = bits(prefix, suffix) {
            return Some((encoding, bytes));
        }
    }
    Some(match name {
        "char" => (Encoding::SignedCharacter, 1),
        "signed char" => (Encoding::SignedCharacter, 1),
        "unsigned char" => (Encoding::UnsignedCharacter, 1),
        "bool" | "_Bool" => (Encoding::Boolean, 1),
        "short" | "short int" | "signed short" => (Encoding::Signed, 2),
        "unsigned short" | "unsigned short int" => (Encoding::Unsigned, 2),
        "int" | "signed" | "signed int" => (Encoding::Signed, 4),
        "unsigned" | "unsigned int" => (Encoding::Unsigned, 4),
        "long" | "long int" | "long long" | "long long int" | "ssize_t" | "isize" | "signed long" => {
            (Encoding::Signed, 8)
        }
        "unsigned long" | "unsigned long int" | "unsigned long long" | "long unsigned int" | "size_t"
        | "usize" | "uintptr_t" => (Encoding::Unsigned, 8),
        "f32" | "float" => (Encoding::Float, 4),
        "f64" | "double" => (Encoding::Float, 8),
        "f80" | "long double" => (Encoding::Float, 16),
        _ => return None,
    })
}
