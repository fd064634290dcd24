//! Arguments and conditions of probes: what a user writes, compiled for each site, taken at each hit, and shown.
//!
//! An argument is an expression of C over variables, registers and memory, or one of the kernel's fetch arguments
//! (Documentation/trace/uprobetracer.rst), which are expressions, too. A [`Template`] is several of them as text; what
//! its names mean, [`Names`] say, and [`Template::bind`] makes a [`Binding`] of it, which is plain data.
//!
//! ```
//! use probe::arguments::{NoNames, Template};
//!
//! let template: Template = "size=%di:u64 name=+0(%si):string if %di > 4096".parse()?;
//! let binding = template.bind(&NoNames)?;
//! assert_eq!(binding.names().collect::<Vec<_>>(), ["size", "name"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod arithmetic;
mod binding;
pub(crate) mod bindings;
pub(crate) mod capture;
pub(crate) mod change;
mod compile;
mod failure;
mod injected;
mod injection;
mod lexer;
mod line;
mod names;
mod object;
mod operand;
mod operands;
pub(crate) mod pick;
mod probe;
mod registers;
mod surroundings;
mod syntax;
mod template;
mod value;
mod values;

pub use binding::Binding;
pub use injected::{Changed, Injected};
pub use injection::Injection;
pub use lexer::SyntaxError;
pub use line::Line;
pub use names::{Located, Names, NoNames};
pub use object::{ObjectNames, ReturnNames};
pub use operand::Location;
pub use pick::Pick;
pub use probe::{ProbeNames, unknown_arguments};
pub use template::Template;
pub use value::{Text, Value};
pub use values::Values;
