//! Where a probe goes: the one question that the engine asks about symbols, lines and files.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::target::maps::Maps;

/// A place for a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The address of the instruction's first byte in the target.
    pub address: u64,
}

/// Names the sites of one probe, given what is mapped.
///
/// The engine asks again whenever objects may have been mapped or unmapped: at each exec, when the dynamic
/// linker has changed its list, and when the program is about to start. Sites that the answer no longer
/// names are dropped.
pub trait Locate {
    /// The sites in an address space whose mappings are `maps`.
    ///
    /// # Errors
    /// [`LocateError::NotMapped`] where the object is not there, so that the probe waits for it;
    /// [`LocateError::Unresolvable`] where waiting is in vain, such as a symbol that the object lacks or
    /// an offset inside an instruction.
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError>;

    /// What it consists of in such an address space, where each part is a probe of its own: their names, each once.
    /// `None` where it is one probe, which is so unless it says otherwise.
    ///
    /// # Errors
    /// As [`Locate::locate`].
    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        let _ = maps;
        Ok(None)
    }

    /// The part that is called so, in whatever address space.
    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        let _ = name;
        None
    }

    /// Whether the sites are functions whose returns are meant: then only a probe that follows calls can have them
    /// ([`Session::probe_calls`](crate::Session::probe_calls)).
    fn is_on_return(&self) -> bool {
        false
    }
}

/// Why there is no site.
#[derive(Debug)]
#[non_exhaustive]
pub enum LocateError {
    /// The object is not mapped, or not yet.
    NotMapped {
        /// The object, as the probe names it.
        object: String,
        /// What is mapped instead: names that look like it, or, of a few, all.
        instead: Vec<String>,
    },
    /// The probe names nothing that exists, or more than one thing.
    Unresolvable(Box<dyn Error + Send + Sync>),
}

impl fmt::Display for LocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LocateError::NotMapped { object, instead } => {
                write!(f, "{object} is not mapped in the target")?;
                let is = if instead.len() == 1 { "is" } else { "are" };
                if instead.is_empty() { Ok(()) } else { write!(f, "; {} {is}", instead.join(", ")) }
            }
            LocateError::Unresolvable(reason) => reason.fmt(f),
        }
    }
}

impl Error for LocateError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            LocateError::NotMapped { .. } => None,
            // Display shows the reason itself already.
            LocateError::Unresolvable(reason) => reason.source(),
        }
    }
}

/// A plain address, the same in every process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Address(pub u64);

impl Locate for Address {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        match crate::target::maps::find(maps, self.0) {
            Some(_) => Ok(vec![Site { address: self.0 }]),
            None => Err(LocateError::NotMapped { object: format!("{:#x}", self.0), instead: Vec::new() }),
        }
    }
}
