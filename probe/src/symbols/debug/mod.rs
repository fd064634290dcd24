//! What a compiler says of its code: lines, functions, variables and their types (DWARF, versions 4 and 5).

mod error;
mod functions;
mod info;
mod lines;
mod names;
mod sections;
mod tls;

pub use error::DebugError;
pub use functions::Frame;
pub use info::DebugInfo;
pub use lines::LinePlace;
