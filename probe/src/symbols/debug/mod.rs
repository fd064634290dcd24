//! What a compiler says of its code: lines, functions, variables and their types (DWARF, versions 4 and 5).

mod abi;
mod arithmetic;
mod entry;
mod error;
mod functions;
mod info;
mod lines;
mod location;
mod names;
mod scope;
mod sections;
mod split;
mod statements;
mod tls;
mod types;
mod unwind;

pub use error::DebugError;
pub use functions::Frame;
pub use info::DebugInfo;
pub use lines::LinePlace;
pub use location::{Location, Piece, Unavailable};
pub use scope::{Language, Scope, ScopeFrame, Source, Variable, VariableKind};

pub(crate) use sections::Slice;
pub(crate) use statements::{Statement, Statements};
pub(crate) use unwind::UnwindTables;
