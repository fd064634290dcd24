//! The symbols of an ELF file, with GNU versions, aliases and indirect functions.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use object::elf::{
    FileHeader64, SHT_DYNSYM, SHT_SYMTAB, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, STT_TLS,
};
use object::read::elf::{SectionTable, Sym, SymbolTable, VersionTable};
use object::{LittleEndian, ReadRef};

use super::{CodeRange, contains};

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
            LookupError::Unknown { name, path, similar } => {
                write!(f, "{} has no symbol `{name}`", path.display())?;
                match similar.as_slice() {
                    [] => Ok(()),
                    similar => write!(f, "; it has `{}`", similar.join("`, `")),
                }
            }
            LookupError::Ambiguous { name, path, candidates } => {
                write!(f, "`{name}` is more than one symbol of {}:", path.display())?;
                for (index, (candidate, address)) in candidates.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma} {candidate} at {address:#x}")?;
                }
                f.write_str("; name one by its version or by PATH:0xOFFSET")
            }
            LookupError::NotCode { name, path } => {
                write!(f, "`{name}` in {} is data, not code", path.display())
            }
            LookupError::Indirect { name, path, address } => write!(
                f,
                "`{name}` in {} is an indirect function (IFUNC): the symbol, at {address:#x}, is the resolver \
                 that chooses an implementation at load time; probe that implementation",
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
        Ok(Symbols { symbols, functions })
    }

    pub(super) fn functions(&self) -> &[Function] {
        &self.functions
    }

    pub(super) fn function_at(&self, address: u64) -> Option<&Function> {
        let after = self.functions.partition_point(|function| function.address <= address);
        // A function may lie within another: the nearest start whose size reaches far enough. Looking
        // further back than a few is in vain.
        const NESTED: usize = 16;
        let candidates = self.functions.get(after.saturating_sub(NESTED)..after).unwrap_or_default();
        candidates.iter().rev().find(|function| contains(function.address, function.size, address))
    }

    pub(super) fn lookup(&self, path: &Path, wanted: &SymbolName) -> Result<&Symbol, LookupError> {
        let start = self.symbols.partition_point(|symbol| symbol.name < wanted.name);
        let named = self.symbols.get(start..).unwrap_or_default();
        let named = named.iter().take_while(|symbol| symbol.name == wanted.name);
        let mut found: Vec<&Symbol> = named.filter(|symbol| wanted.matches(symbol)).collect();
        if wanted.version.is_none() && found.iter().any(|symbol| symbol.is_default()) {
            found.retain(|symbol| symbol.is_default());
        }
        if found.iter().any(|symbol| symbol.kind != SymbolKind::Data) {
            found.retain(|symbol| symbol.kind != SymbolKind::Data);
        }
        let name = wanted.to_string();
        let Some(&first) = found.first() else {
            return Err(LookupError::Unknown { similar: self.similar(wanted), name, path: path.to_owned() });
        };
        if found.iter().any(|symbol| symbol.address != first.address) {
            let candidates = found.iter().map(|symbol| (symbol.to_string(), symbol.address)).collect();
            return Err(LookupError::Ambiguous { name, path: path.to_owned(), candidates });
        }
        match first.kind {
            SymbolKind::Function | SymbolKind::Label => Ok(first),
            SymbolKind::Data => Err(LookupError::NotCode { name, path: path.to_owned() }),
            SymbolKind::Indirect => {
                Err(LookupError::Indirect { name, path: path.to_owned(), address: first.address })
            }
        }
    }

    /// A few names that differ from `wanted` by version, case, or leading and trailing underscores.
    fn similar(&self, wanted: &SymbolName) -> Vec<String> {
        const FEW: usize = 4;
        let plain = |name: &str| name.trim_matches('_').to_ascii_lowercase();
        let wanted = plain(&wanted.name);
        let alike = self.symbols.iter().filter(|symbol| plain(&symbol.name) == wanted);
        alike.take(FEW).map(ToString::to_string).collect()
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

/// The name as its author wrote it, for Rust and C++.
#[must_use]
pub fn demangle(name: &str) -> Cow<'_, str> {
    if let Ok(demangled) = rustc_demangle::try_demangle(name) {
        return Cow::Owned(format!("{demangled:#}"));
    }
    if name.starts_with("_Z") {
        let options = cpp_demangle::DemangleOptions::default();
        if let Some(demangled) = cpp_demangle::Symbol::new(name)
            .ok()
            .and_then(|symbol| symbol.demangle_with_options(&options).ok())
        {
            return Cow::Owned(demangled);
        }
    }
    Cow::Borrowed(name)
}
