//! The symbols of an ELF file, with GNU versions, aliases and indirect functions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use object::elf::{
    FileHeader64, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, STT_TLS,
};
use object::read::elf::{SectionTable, Sym, SymbolTable, VersionTable};
use object::{LittleEndian, ReadRef};

use super::names::{self, Written};
use super::{CodeRange, contains};
use crate::symbols::similar::distance;

type Header = FileHeader64<LittleEndian>;

/// What a symbol stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SymbolKind {
    /// STT_FUNC.
    Function,
    /// STT_GNU_IFUNC: the symbol is the function that chooses which function to run.
    Indirect,
    /// A place in the code without a type, as hand-written assembly has.
    Label,
    /// Anything that is not code.
    Data,
}

/// The version of a symbol.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version {
    /// Its name, such as `GLIBC_2.14`.
    pub name: String,
    /// Whether a reference without a version means this one: `@@` rather than `@`.
    pub default: bool,
}

/// A symbol that the file defines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The name without the version.
    pub name: String,
    /// The version.
    pub version: Option<Version>,
    /// The virtual address, before relocation.
    pub address: u64,
    /// The size in bytes, zero where the file does not say.
    pub size: u64,
    /// What it stands for.
    pub kind: SymbolKind,
}

impl Symbol {
    /// Whether a reference without a version means this symbol.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.version.as_ref().is_none_or(|version| version.default)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.version {
            Some(Version { name, default: true }) => write!(f, "@@{name}"),
            Some(Version { name, default: false }) => write!(f, "@{name}"),
            None => Ok(()),
        }
    }
}

/// A symbol's name as a probe gives it: `memcpy`, `memcpy@GLIBC_2.2.5` or `memcpy@@GLIBC_2.14`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SymbolName {
    /// The name without the version.
    pub name: String,
    /// The version, where one was given.
    pub version: Option<Version>,
}

impl SymbolName {
    /// Splits the version off.
    #[must_use]
    pub fn parse(text: &str) -> SymbolName {
        // A name may begin with `@`, as some assemblers' labels do.
        let at = text.char_indices().skip(1).find(|&(_, letter)| letter == '@').map(|(index, _)| index);
        let (name, version) = text.split_at(at.unwrap_or(text.len()));
        let version = match version.strip_prefix("@@") {
            Some(version) => Some((version, true)),
            None => version.strip_prefix('@').map(|version| (version, false)),
        };
        let version = version
            .filter(|(version, _)| !version.is_empty())
            .map(|(version, default)| Version { name: version.to_owned(), default });
        SymbolName { name: name.to_owned(), version }
    }

    fn matches(&self, symbol: &Symbol) -> bool {
        self.name == symbol.name
            && match (&self.version, &symbol.version) {
                (None, _) => true,
                (Some(wanted), Some(version)) => {
                    wanted.name == version.name && (version.default || !wanted.default)
                }
                (Some(_), None) => false,
            }
    }
}

impl fmt::Display for SymbolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        match &self.version {
            Some(version) => write!(f, "{}{}", if version.default { "@@" } else { "@" }, version.name),
            None => Ok(()),
        }
    }
}

/// A function: one address, and every name that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// The virtual address of its first byte, before relocation.
    pub address: u64,
    /// Its length in bytes: the symbol's, or up to the next function where the symbol has none.
    pub size: u64,
    /// Its names with their versions, in the order of the file; never empty.
    pub names: Vec<String>,
    /// Whether it is the resolver of an indirect function.
    pub indirect: bool,
}

impl Function {
    /// The first name, without its version.
    #[must_use]
    pub fn name(&self) -> &str {
        self.names.first().map_or("", |name| bare(name))
    }

    /// Every name, without the versions.
    pub fn bare_names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|name| bare(name))
    }
}

fn bare(name: &str) -> &str {
    name.char_indices().skip(1).find(|&(_, letter)| letter == '@').map_or(name, |(at, _)| &name[..at])
}

/// Why a name does not stand for one function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupError {
    /// The file defines no such symbol.
    Unknown {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Names that look like it.
        similar: Vec<String>,
        /// If the file is stripped: where its debug file was looked for.
        stripped: Option<Vec<PathBuf>>,
    },
    /// The file defines it at more than one address.
    Ambiguous {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// The candidates, with their file addresses.
        candidates: Vec<(String, u64)>,
    },
    /// It is data.
    NotCode {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
    },
    /// It is an indirect function.
    Indirect {
        /// The name.
        name: String,
        /// The file.
        path: PathBuf,
        /// The virtual address of the resolver.
        address: u64,
    },
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LookupError::Unknown { name, path, similar, stripped } => {
                write!(f, "{} has no symbol `{name}`", path.display())?;
                if !similar.is_empty() {
                    write!(f, "; it has `{}`", similar.join("`, `"))?;
                }
                f.write_str(&why_stripped(stripped.as_deref()))
            }
            LookupError::Ambiguous { name, path, candidates } => {
                write!(f, "`{name}` is more than one function of {}: write", path.display())?;
                for (index, (candidate, address)) in candidates.iter().enumerate() {
                    let or = if index == 0 { "" } else { " or" };
                    // A name of its own says it, unless it is the same one.
                    let twin = candidates.iter().filter(|(other, _)| other == candidate).count() > 1;
                    match twin {
                        true => write!(f, "{or} `{candidate}@{address:#x}`")?,
                        false => write!(f, "{or} `{candidate}`")?,
                    }
                    if let Cow::Owned(written) = names::demangle(candidate) {
                        write!(f, " ({written})")?;
                    }
                }
                Ok(())
            }
            LookupError::NotCode { name, path } => {
                write!(f, "`{name}` in {} is data, not code", path.display())
            }
            LookupError::Indirect { name, path, address } => write!(
                f,
                "`{name}` in {} is an indirect function (IFUNC): the symbol, at {address:#x}, is the resolver \
                 that chooses an implementation when the program starts",
                path.display()
            ),
        }
    }
}

impl Error for LookupError {}

/// The symbols of one file.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// In the order of name and address.
    symbols: Vec<Symbol>,
    functions: Vec<Function>,
    /// Those of code by their authors' names, once somebody has asked.
    written: OnceLock<Written>,
    /// If they have been taken out of the file: where its debug file was looked for in vain.
    pub(super) stripped: Option<Vec<PathBuf>>,
}

impl Symbols {
    /// Reads .symtab and .dynsym; `others` are those of .symtab if it was taken out.
    pub(super) fn read<'data>(
        sections: &SectionTable<'data, Header>,
        data: &'data [u8],
        code: &[CodeRange],
        others: impl FnOnce() -> Vec<Symbol>,
    ) -> object::Result<Symbols> {
        let versions = sections.versions(LittleEndian, data)?;
        let mut symbols = Vec::new();
        let dynamic = sections.symbols(LittleEndian, data, SHT_DYNSYM)?;
        read_table(&dynamic, versions.as_ref(), code, &mut symbols)?;
        let table = sections.symbols(LittleEndian, data, SHT_SYMTAB)?;
        read_table(&table, None, code, &mut symbols)?;
        if table.is_empty() {
            symbols.extend(others());
        }
        let functions = functions(&symbols, code);
        symbols.sort_by(|a, b| (&a.name, a.address, &a.version).cmp(&(&b.name, b.address, &b.version)));
        // .symtab repeats what .dynsym has, mostly without its version.
        symbols.dedup_by(|b, a| {
            a.name == b.name && a.address == b.address && (a.version == b.version || a.version.is_none()) && {
                if a.version.is_none() {
                    a.version = b.version.take();
                }
                true
            }
        });
        Ok(Symbols { symbols, functions, written: OnceLock::new(), stripped: None })
    }

    pub(super) fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The addresses of all symbols with that name, each once.
    pub(super) fn addresses_of(&self, name: &str) -> impl Iterator<Item = u64> {
        let start = self.symbols.partition_point(|symbol| symbol.name.as_str() < name);
        let named = self.symbols.get(start..).unwrap_or_default();
        let mut addresses: Vec<u64> =
            named.iter().take_while(|symbol| symbol.name == name).map(|symbol| symbol.address).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into_iter()
    }

    pub(super) fn function_at(&self, address: u64) -> Option<&Function> {
        // A function may lie within another: the nearest start whose size reaches far enough.
        self.functions_before(address)
            .rev()
            .find(|function| contains(function.address, function.size, address))
    }

    /// The functions that begin last before `address`, or there. Looking further back than a few is in vain.
    pub(super) fn functions_before(&self, address: u64) -> impl DoubleEndedIterator<Item = &Function> {
        const NESTED: usize = 16;
        let after = self.functions.partition_point(|function| function.address <= address);
        self.functions.get(after.saturating_sub(NESTED)..after).unwrap_or_default().iter()
    }

    /// The symbol with that name, mangled where the language does that.
    pub(super) fn lookup(&self, path: &Path, wanted: &SymbolName) -> Result<&Symbol, LookupError> {
        self.one(path, &wanted.to_string(), self.named(wanted))
    }

    /// The symbol that is called so, by a linker or by its author.
    pub(super) fn find(&self, path: &Path, text: &str) -> Result<&Symbol, LookupError> {
        let (name, address) = split_address(text);
        let mut found = self.named(&SymbolName::parse(name));
        if found.iter().all(|symbol| symbol.kind == SymbolKind::Data) {
            let written = self.written.get_or_init(|| Written::of(&self.symbols));
            let called = written.find(&self.symbols, name);
            found = if called.is_empty() { found } else { called };
        }
        if let Some(address) = address {
            found.retain(|symbol| symbol.address == address);
        }
        self.one(path, text, found)
    }

    /// The symbols with that name. Where it has no version, those that a reference without means.
    fn named(&self, wanted: &SymbolName) -> Vec<&Symbol> {
        let start = self.symbols.partition_point(|symbol| symbol.name < wanted.name);
        let named = self.symbols.get(start..).unwrap_or_default();
        let named = named.iter().take_while(|symbol| symbol.name == wanted.name);
        let mut found: Vec<&Symbol> = named.filter(|symbol| wanted.matches(symbol)).collect();
        if wanted.version.is_none() && found.iter().any(|symbol| symbol.is_default()) {
            found.retain(|symbol| symbol.is_default());
        }
        found
    }

    /// The one place that `found` are at, which are called `name`.
    fn one<'a>(&'a self, path: &Path, name: &str, found: Vec<&'a Symbol>) -> Result<&'a Symbol, LookupError> {
        let mut found = found;
        if found.iter().any(|symbol| symbol.kind != SymbolKind::Data) {
            found.retain(|symbol| symbol.kind != SymbolKind::Data);
        }
        let (name, path) = (name.to_owned(), path.to_owned());
        let Some(&first) = found.first() else {
            let stripped = self.stripped.clone();
            return Err(LookupError::Unknown { similar: self.similar(&name), name, path, stripped });
        };
        if found.iter().any(|symbol| symbol.address != first.address) {
            let candidates = found.iter().map(|symbol| (symbol.to_string(), symbol.address)).collect();
            return Err(LookupError::Ambiguous { name, path, candidates });
        }
        match first.kind {
            SymbolKind::Function | SymbolKind::Label => Ok(first),
            SymbolKind::Data => Err(LookupError::NotCode { name, path }),
            SymbolKind::Indirect => Err(LookupError::Indirect { name, path, address: first.address }),
        }
    }

    /// A few names that look like `wanted`: the nearest first.
    fn similar(&self, wanted: &str) -> Vec<String> {
        const FEW: usize = 4;
        /// So many are looked at.
        const MOST: usize = 100_000;
        let plain = |name: &str| name.trim_matches('_').to_ascii_lowercase();
        let last = |name: &str| {
            let name = name.split(['(', '<', '@']).next().unwrap_or_default();
            plain(name.rsplit([':', '.']).next().unwrap_or_default())
        };
        let (all, part) = (plain(wanted.split('@').next().unwrap_or_default()), last(wanted));
        let most = (all.chars().count() / 4).clamp(1, 3);
        let mut alike: Vec<(usize, String)> = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.kind != SymbolKind::Data).take(MOST) {
            let written = names::demangle(&symbol.name);
            let same_part = part.len() > 2 && last(&written) == part;
            let ways = [written.as_ref(), written.split('(').next().unwrap_or_default()];
            let distances = ways.into_iter().filter_map(|way| distance(&plain(way), &all, most));
            let distance = match distances.min() {
                Some(distance) => distance,
                None if same_part => most,
                None => continue,
            };
            let shown = if written == symbol.name { symbol.to_string() } else { written.into_owned() };
            if !alike.iter().any(|(_, other)| *other == shown) {
                alike.push((distance, shown));
            }
        }
        alike.sort();
        alike.into_iter().take(FEW).map(|(_, name)| name).collect()
    }
}

/// What there is to add where a file is stripped, whose debug file was looked for at these places.
pub(crate) fn why_stripped(places: Option<&[PathBuf]>) -> String {
    let Some(places) = places else { return String::new() };
    if places.is_empty() {
        return "; the file is stripped, and names no debug file".to_owned();
    }
    let places: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    format!("; the file is stripped, and its debug file is none of {}", places.join(", "))
}

/// Takes `@0xADDRESS` off the end of a name, which tells it from others that are called the same.
fn split_address(text: &str) -> (&str, Option<u64>) {
    let split = text.rsplit_once("@0x").filter(|(name, _)| !name.is_empty());
    let address = split.filter(|(_, digits)| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    match address.and_then(|(name, digits)| Some((name, u64::from_str_radix(digits, 16).ok()?))) {
        Some((name, address)) => (name, Some(address)),
        None => (text, None),
    }
}

/// The symbols of .symtab in the debug file of a file that has this code.
pub(super) fn of_debug_file<'data, R: ReadRef<'data>>(
    sections: &SectionTable<'data, Header, R>,
    data: R,
    code: &[CodeRange],
) -> object::Result<Vec<Symbol>> {
    let mut symbols = Vec::new();
    read_table(&sections.symbols(LittleEndian, data, SHT_SYMTAB)?, None, code, &mut symbols)?;
    Ok(symbols)
}

fn read_table<'data, R: ReadRef<'data>>(
    table: &SymbolTable<'data, Header, R>,
    versions: Option<&VersionTable<'data, Header>>,
    code: &[CodeRange],
    symbols: &mut Vec<Symbol>,
) -> object::Result<()> {
    for (index, symbol) in table.enumerate() {
        if symbol.is_undefined(LittleEndian) {
            continue;
        }
        let address = symbol.st_value(LittleEndian);
        let in_code = code.iter().any(|range| contains(range.address, range.size, address));
        let kind = match symbol.st_type() {
            STT_FUNC if in_code => SymbolKind::Function,
            STT_GNU_IFUNC if in_code => SymbolKind::Indirect,
            STT_NOTYPE if in_code && symbol.st_bind() != STB_LOCAL => SymbolKind::Label,
            STT_FUNC | STT_GNU_IFUNC | STT_OBJECT | STT_TLS => SymbolKind::Data,
            _ => continue,
        };
        let name = table.symbol_name(LittleEndian, symbol)?;
        if name.is_empty() {
            continue;
        }
        let SymbolName { name, mut version } = SymbolName::parse(&String::from_utf8_lossy(name));
        if let Some(versions) = versions {
            let index = versions.version_index(LittleEndian, index);
            version = versions.version(index.index())?.map(|version| Version {
                name: String::from_utf8_lossy(version.name()).into_owned(),
                default: !index.is_hidden(),
            });
        }
        symbols.push(Symbol { name, version, address, size: symbol.st_size(LittleEndian), kind });
    }
    Ok(())
}

/// One entry per address, with a size.
fn functions(symbols: &[Symbol], code: &[CodeRange]) -> Vec<Function> {
    let mut by_address: BTreeMap<u64, Function> = BTreeMap::new();
    for symbol in symbols.iter().filter(|symbol| symbol.kind != SymbolKind::Data) {
        let function = by_address.entry(symbol.address).or_insert_with(|| Function {
            address: symbol.address,
            size: 0,
            names: Vec::new(),
            indirect: false,
        });
        function.size = function.size.max(symbol.size);
        function.indirect |= symbol.kind == SymbolKind::Indirect;
        let known = |name: &String| bare(name) == symbol.name && symbol.version.is_none();
        let name = symbol.to_string();
        if !function.names.iter().any(|other| *other == name || known(other)) {
            function.names.push(name);
        }
    }
    let mut functions: Vec<Function> = by_address.into_values().collect();
    let mut next = u64::MAX;
    for function in functions.iter_mut().rev() {
        let range = code.iter().find(|range| contains(range.address, range.size, function.address));
        let room = range.map_or(0, |range| range.size - (function.address - range.address));
        if function.size == 0 {
            function.size = room.min(next - function.address);
        }
        function.size = function.size.min(room);
        next = function.address;
    }
    functions
}
