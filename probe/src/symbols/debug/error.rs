//! What can be wrong with debug information, or with what is asked of it.

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

/// Why debug information does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DebugError {
    /// Neither the file nor a debug file of it has any.
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file with it cannot be read.
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// It makes no sense.
    Malformed {
        /// The section.
        section: &'static str,
        /// Where in the section, in bytes: what was being read begins here.
        offset: u64,
        /// What is wrong, in the reader's words.
        what: String,
    },
    /// It takes more work than a file of its size can need.
    TooMuch,
    /// The unit's debug information lies in another file, which was not found (DWARF 5, section 7.3.2).
    Split {
        /// The name of that file.
        name: String,
        /// Where it was looked for, and what is wrong there.
        tried: Vec<(PathBuf, String)>,
    },
    /// It refers to what it shares with that of other files, which lies in a file that was not found (DWARF 5, section
    /// 7.3.6).
    NoSupplement {
        /// The name of that file.
        name: PathBuf,
    },
    /// No source file of that name has code.
    NoFile {
        /// The name.
        file: String,
        /// Files whose names look like it.
        similar: Vec<String>,
    },
    /// More than one source file goes by that name.
    AmbiguousFile {
        /// The name.
        file: String,
        /// The files, in full.
        candidates: Vec<String>,
    },
    /// The line has no code.
    NoCode {
        /// The source file, in full.
        file: String,
        /// The line.
        line: u64,
        /// The next line that has some.
        next: Option<u64>,
    },
    /// No function of that name has code.
    NoFunction {
        /// The name.
        function: String,
    },
    /// The line is not one of that function.
    OutsideFunction {
        /// The function.
        function: String,
        /// The line.
        line: u64,
        /// Where the functions of that name lie: the file, the first line and the last.
        places: Vec<(String, u64, u64)>,
    },
    /// No function is known at this address.
    NoPlace {
        /// The virtual address.
        address: u64,
    },
    /// No type of that name is known.
    NoType {
        /// The name.
        name: String,
    },
    /// No variable of that name is known.
    NoVariable {
        /// The name.
        name: String,
    },
    /// More than one variable goes by that name.
    AmbiguousVariable {
        /// The name.
        name: String,
        /// Where they are declared.
        candidates: Vec<String>,
    },
}

impl fmt::Display for DebugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DebugError::Missing { path } => write!(
                f,
                "{} has no debug information, and no debug file of it was found; compile it with -g, or install its \
                 debug file",
                path.display()
            ),
            DebugError::Read { path, what } => write!(f, "{}: {what}", path.display()),
            DebugError::Malformed { section, offset, what } => {
                write!(f, "the debug information is corrupt: {section} at {offset:#x}: {what}")
            }
            DebugError::TooMuch => {
                f.write_str("the debug information is corrupt: it refers to itself over and over")
            }
            DebugError::Split { name, tried } => {
                write!(f, "its debug information is split off into `{name}`, which was not found")?;
                for (at, (path, what)) in tried.iter().enumerate() {
                    write!(f, "{} {}: {what}", if at == 0 { ":" } else { ";" }, path.display())?;
                }
                f.write_str("; --debug-file names it, or its package (.dwp)")
            }
            DebugError::NoSupplement { name } => write!(
                f,
                "its debug information shares a part with that of other files, in `{}`, which was not found",
                name.display()
            ),
            DebugError::NoFile { file, similar } => {
                write!(f, "no source file `{file}` has code")?;
                if similar.is_empty() { Ok(()) } else { write!(f, "; there is {}", similar.join(", ")) }
            }
            DebugError::AmbiguousFile { file, candidates } => {
                write!(f, "`{file}` is more than one source file: {}", candidates.join(", "))
            }
            DebugError::NoCode { file, line, next: Some(next) } => {
                write!(f, "no code at line {line} of {file}; the next line with code is {next}")
            }
            DebugError::NoCode { file, line, next: None } => {
                write!(f, "no code at line {line} of {file}, nor after it")
            }
            DebugError::NoFunction { function } => {
                write!(f, "the debug information has no function `{function}` with code")
            }
            DebugError::OutsideFunction { function, line, places } => {
                write!(f, "line {line} is not in `{function}`, which is at ")?;
                let places: Vec<_> =
                    places.iter().map(|(file, first, last)| format!("{file}:{first} to {last}")).collect();
                f.write_str(&places.join(" and "))
            }
            DebugError::NoPlace { address } => {
                write!(f, "the debug information tells of no function at {address:#x}")
            }
            DebugError::NoType { name } => write!(f, "there is no type `{name}`"),
            DebugError::NoVariable { name } => write!(f, "there is no variable `{name}`"),
            DebugError::AmbiguousVariable { name, candidates } => {
                write!(f, "`{name}` is more than one variable: {}", candidates.join(", "))
            }
        }
    }
}

impl Error for DebugError {}
