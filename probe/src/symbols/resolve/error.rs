//! Why a probe cannot be looked up.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use crate::symbols::debug::DebugError;
use crate::symbols::elf::{ElfError, LookupError, why_stripped};
use crate::symbols::locate::LocateError;
use crate::target::maps;

/// Why a probe names no site, for good.
#[derive(Debug)]
pub enum ResolveError {
    /// The object's file cannot be used.
    Elf(ElfError),
    /// The symbol does not stand for one function.
    Lookup(LookupError),
    /// More than one mapped file goes by this name.
    AmbiguousObject {
        /// The name.
        object: String,
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// The debug information does not answer.
    Debug(DebugError),
    /// The probe has a form that is not supported yet.
    NotSupported {
        /// The name of the form.
        form: &'static str,
    },
    /// The probe means one of two things.
    TwoReadings {
        /// The probe.
        text: String,
        /// What to write instead.
        readings: [String; 2],
    },
    /// An offset behind a pattern.
    OffsetOfPattern {
        /// The pattern.
        pattern: String,
    },
    /// The resolver of an indirect function does something that cannot be followed.
    NoImplementation {
        /// The probe.
        name: String,
        /// The file.
        path: PathBuf,
        /// The virtual address of the resolver.
        resolver: u64,
    },
    /// The file that is mapped is not the one that its path now names.
    Replaced {
        /// The path.
        path: PathBuf,
    },
    /// The pattern matches no function.
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The file.
        path: PathBuf,
        /// If the file is stripped: where its debug file was looked for.
        stripped: Option<Vec<PathBuf>>,
    },
    /// The file has no such USDT probe.
    NoUsdt {
        /// The provider and the name, or patterns of them.
        wanted: String,
        /// The file.
        path: PathBuf,
        /// Some that it has.
        there: Vec<String>,
    },
    /// The offset lies beyond the function's end.
    BeyondFunction {
        /// The function.
        symbol: String,
        /// The offset, in bytes.
        offset: u64,
        /// The function's length, in bytes.
        size: u64,
    },
    /// The place lies inside an instruction.
    InsideInstruction {
        /// The place, as the probe names it.
        place: String,
        /// The function that it lies in.
        function: String,
        /// How many bytes after the start of the function the instruction begins.
        start: u64,
    },
    /// The place is to tell of a function's return, and is not the function's start.
    InsideFunction {
        /// The place, as the probe names it.
        place: String,
        /// The function that it lies in.
        function: String,
    },
    /// There is no code there.
    NotCode {
        /// The file.
        path: PathBuf,
        /// The file offset, or virtual address.
        offset: u64,
    },
    /// Nothing is mapped at this address.
    NotMapped {
        /// The address.
        address: u64,
    },
    /// What is mapped at this address is not executable.
    NotExecutable {
        /// The address.
        address: u64,
        /// What is mapped there.
        mapping: String,
    },
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ResolveError::Elf(error) => error.fmt(f),
            ResolveError::Lookup(error) => error.fmt(f),
            ResolveError::Debug(error) => error.fmt(f),
            ResolveError::AmbiguousObject { object, paths } => {
                let paths: Vec<_> = paths.iter().map(|path| path.display().to_string()).collect();
                write!(f, "`{object}` is more than one mapped file: {}; give the path", paths.join(", "))
            }
            ResolveError::NoUsdt { path, there, .. } if there.is_empty() => {
                write!(f, "{} has no USDT probes", path.display())
            }
            ResolveError::NoUsdt { wanted, path, there } => {
                let path = path.display();
                write!(
                    f,
                    "{path} has no USDT probe `{wanted}`; list --usdt shows those that it has, such as {}",
                    there.join(", ")
                )
            }
            ResolveError::NotSupported { form } => write!(f, "{form} is not supported yet"),
            ResolveError::TwoReadings { text, readings: [first, second] } => {
                write!(f, "`{text}` means one of two things: write `{first}` or `{second}`")
            }
            ResolveError::OffsetOfPattern { pattern } => {
                write!(
                    f,
                    "an offset needs one function, and `{pattern}` is a pattern; there is none called so"
                )
            }
            ResolveError::NoImplementation { name, path, resolver } => write!(
                f,
                "`{name}` is an indirect function (IFUNC) of {}, and what its resolver at {resolver:#x} chooses \
                 cannot be found out; probe the implementation by its name or address",
                path.display()
            ),
            ResolveError::Replaced { path } => write!(
                f,
                "{} was replaced on disk after it was mapped, so its symbols cannot be read; restart the target, \
                 or be root",
                maps::without_mark(path).display()
            ),
            ResolveError::NoMatch { pattern, path, stripped } => {
                write!(f, "{} has no function that matches `{pattern}`", path.display())?;
                f.write_str(&why_stripped(stripped.as_deref()))
            }
            ResolveError::BeyondFunction { symbol, offset, size } => {
                write!(f, "`{symbol}+{offset:#x}` lies beyond the function, which is {size:#x} bytes long")
            }
            ResolveError::InsideInstruction { place, function, start } => write!(
                f,
                "`{place}` lies inside the instruction at {function}+{start:#x}, where a breakpoint would \
                 change what it does"
            ),
            ResolveError::InsideFunction { place, function } => write!(
                f,
                "`{place}` lies inside {function}, of which only the start tells where it returns to; give that"
            ),
            ResolveError::NotCode { path, offset } => {
                let path = path.display();
                write!(f, "{offset:#x} is neither a file offset nor an address of executable code in {path}")
            }
            ResolveError::NotMapped { address } => write!(f, "nothing is mapped at {address:#x}"),
            ResolveError::NotExecutable { address, mapping } => {
                write!(f, "{address:#x} is not executable: it lies in {mapping}")
            }
        }
    }
}

impl Error for ResolveError {}

impl From<ElfError> for ResolveError {
    fn from(error: ElfError) -> Self {
        ResolveError::Elf(error)
    }
}

impl From<LookupError> for ResolveError {
    fn from(error: LookupError) -> Self {
        ResolveError::Lookup(error)
    }
}

impl From<ResolveError> for LocateError {
    fn from(error: ResolveError) -> Self {
        LocateError::Unresolvable(Box::new(error))
    }
}
