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

/// A counter in the target that belongs to a site: an integer of 16 bits by which the program learns how many want to
/// know of it, as the semaphores of USDT probes are. While it is 0, the program need not get to the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Counter {
    /// The address of the site.
    pub site: u64,
    /// The address of the counter in the target.
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

    /// The counters of the sites, of which there are none unless it says otherwise. As long as a probe has a site, one is
    /// added to its counter in each process.
    fn counters(&self, _maps: &Maps) -> Vec<Counter> {
        Vec::new()
    }

    /// What it consists of in such an address space, where each part is a probe of its own: their names, each once.
    /// `None` where it is one probe, which is so unless it says otherwise.
    ///
    /// # Errors
    /// As [`Locate::locate`].
    fn parts(&self, _maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        Ok(None)
    }

    /// The part that is called so, in whatever address space.
    fn part(&self, _name: &str) -> Option<Box<dyn Locate + Send>> {
        None
    }

    /// If it names an indirect function: what its implementation is called that the process uses or, as long as that is not
    /// known, each that it may use. `None` unless it says otherwise.
    fn implementation_names(&self, _maps: &Maps) -> Option<Vec<String>> {
        None
    }

    /// Whether the sites are functions whose returns are meant: then only a probe that follows calls can have them
    /// ([`Session::probe_calls`](crate::Session::probe_calls)).
    fn is_on_return(&self) -> bool {
        false
    }

    /// Whether the sites are to be hardware breakpoints; see [`Hardware`].
    fn is_by_hardware(&self) -> bool {
        false
    }
}

impl<L: Locate + ?Sized> Locate for Box<L> {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        (**self).locate(maps)
    }

    fn counters(&self, maps: &Maps) -> Vec<Counter> {
        (**self).counters(maps)
    }

    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        (**self).parts(maps)
    }

    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        (**self).part(name)
    }

    fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        (**self).implementation_names(maps)
    }

    fn is_on_return(&self) -> bool {
        (**self).is_on_return()
    }

    fn is_by_hardware(&self) -> bool {
        (**self).is_by_hardware()
    }
}

/// The same sites, by hardware breakpoints: not a byte of text is changed, so that loads see it as it is, and text can be
/// probed that cannot be written, or that other processes map, too.
///
/// A thread has four of them, which all probes share. They are perf events (perf_event_open(2)), which root, or who may
/// trace the target while `kernel.perf_event_paranoid` is at most 2, can have on Linux 5.13 and later; they end with the
/// process that traces. A hit is the same, but for a thread that blocks SIGTRAP: it goes on, and its hits are counted as
/// missed. Such a thread has a SIGTRAP pending from then on until it unblocks the signal, or until the session leaves it;
/// it never takes it, but sigpending(2), sigwait(3) and signalfd(2) show it.
///
/// A hit takes longer, since the kernel writes debug registers whenever it switches to or from the thread: in a virtual
/// machine, where its hypervisor sees each of these writes, five times as long as one of INT3 was seen.
///
/// ```
/// use std::process::Command;
///
/// use probe::locate::{Address, Hardware};
/// use probe::{Action, ProbeError, RunEnd, Session, Unplaceable};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut session = Session::launch(Command::new("true"))?;
/// let start = session.entry().ok_or("it has ended already")?;
/// let probe = match session.probe(Hardware(Address(start)), |_| Action::Continue) {
///     Err(ProbeError::Unplaceable { reason: reason @ Unplaceable::Hardware(_), .. }) => {
///         eprintln!("not here: {reason}");
///         return Ok(());
///     }
///     placed => placed?,
/// };
/// assert!(matches!(session.run(), RunEnd::Ended(Some(status)) if status.success()));
/// assert_eq!(session.report(probe).map(|report| report.counters.emulated), Some(1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hardware<L>(pub L);

impl<L: Locate> Locate for Hardware<L> {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        self.0.locate(maps)
    }

    fn counters(&self, maps: &Maps) -> Vec<Counter> {
        self.0.counters(maps)
    }

    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        self.0.parts(maps)
    }

    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        self.0.part(name)
    }

    fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        self.0.implementation_names(maps)
    }

    fn is_on_return(&self) -> bool {
        self.0.is_on_return()
    }

    fn is_by_hardware(&self) -> bool {
        true
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
