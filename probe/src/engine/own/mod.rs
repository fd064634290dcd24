//! A process that probes itself.
//!
//! No other process is there for it, and nothing is traced: a thread that reaches a probe serves itself, in a handler of
//! SIGTRAP, and goes on. A hit takes a little longer than the signal.
//!
//! ```
//! use std::sync::atomic::{AtomicU64, Ordering};
//!
//! use probe::Action;
//! use probe::locate::Address;
//! use probe::own::Session;
//!
//! #[inline(never)]
//! fn double(number: u64) -> u64 {
//!     std::hint::black_box(number) * 2
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! static SUM: AtomicU64 = AtomicU64::new(0);
//! let mut session = Session::new()?;
//! let probe = session.probe(Address(double as fn(u64) -> u64 as usize as u64), |hit| {
//!     // The first argument.
//!     SUM.fetch_add(hit.registers().gpr[emu::registers::gpr::RDI], Ordering::Relaxed);
//!     Action::Continue
//! })?;
//! assert_eq!(double(3) + double(4), 14);
//! assert_eq!(SUM.load(Ordering::Relaxed), 7);
//! assert_eq!(session.report(probe).map(|report| report.counters.hits), Some(2));
//! # Ok(())
//! # }
//! ```
//!
//! Handlers run in the middle of whatever the thread was doing, with signals blocked. So they must be async-signal-safe
//! (signal-safety(7)): atomics and fixed memory, but no locks that others hold while they may reach a probe, no
//! allocation where allocation is probed or interrupted, and no panic, which ends the process. They may call probed code:
//! that is emulated as well, without handlers, and counted as missed.
//!
//! What is promised, and what is not, is in `SPECIFICATION.md`.

mod jumping;
mod place;
mod serve;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::engine::event::{Counters, ProbeReport};
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::error::ProbeError;
use crate::executor::own::sites::{Site, State};
use crate::executor::own::users::Registration;
use crate::executor::own::{machine, patch, signals};
use crate::executor::space::Unplaceable;
use crate::symbols::locate::{Locate, LocateError};
use crate::target::maps::Maps;
use crate::target::procfs;
use place::PLACING;
use serve::Own;

/// What a session does besides serving probes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Put a jump in place of an instruction where that is safe, so that there is no trap: see [`Means::Jump`].
    pub jumps: bool,
}

/// How threads come from a site to its handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Means {
    /// By an INT3.
    Trap(NoJump),
    /// By a jump to a stub in this library.
    Jump,
    /// Not any more: the breakpoint was taken out, as it stood in code that a thread needed to serve a hit, or where a
    /// thread had too little room left on its stack, or could not be served.
    Lost(Lost),
}

/// Why a site is served by a trap rather than by a jump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoJump {
    /// [`Options::jumps`] does not ask for one.
    NotAsked,
    /// The system or the processor lacks what a jump needs: membarrier(2) that serializes, or XSAVE; or the thread has a
    /// shadow stack.
    NotHere,
    /// The instruction is shorter than a jump, and what is behind it cannot be replaced as well: it cannot be done in a
    /// stub, or begins where no byte of a jump can be a breakpoint.
    Short,
    /// The program may jump behind the first byte of the instruction, which is a prefix.
    Prefix,
    /// The program may jump to an instruction behind it that the jump would replace as well.
    Target,
    /// Another probe is on an instruction behind it that the jump would replace as well.
    Neighbour,
    /// Only the thread itself can do it, such as to enter the kernel, or it needs the x87 unit.
    Instruction,
    /// This library is more than 2 GiB away, or has no memory for stubs any more.
    Far,
}

impl fmt::Display for NoJump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoJump::NotAsked => "jumps are not asked for",
            NoJump::NotHere => {
                "the system, the processor or a shadow stack does not let jumps be put in place"
            }
            NoJump::Short => "the instruction is shorter than a jump",
            NoJump::Prefix => "the program may jump behind the instruction's prefix",
            NoJump::Target => "the program may jump to what a jump would replace",
            NoJump::Neighbour => "another probe is on what a jump would replace",
            NoJump::Instruction => "the instruction needs a trap",
            NoJump::Far => "there is no memory for a stub within 2 GiB",
        })
    }
}

/// Why a breakpoint was taken out that no one has removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lost {
    /// A thread that served a hit came there itself.
    Needed,
    /// A thread came there with less stack than serving takes.
    Stack,
    /// The instruction could not be performed.
    Unserved,
}

/// Why a process cannot probe itself.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A thread blocks SIGTRAP: the kernel ends the process when it reaches a breakpoint.
    Blocked {
        /// The thread.
        tid: i32,
    },
    /// The kernel or the processor lacks what is needed.
    Lacks(&'static str),
    /// A system call failed.
    System {
        /// Which.
        call: &'static str,
        /// How.
        error: Errno,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Blocked { tid } => write!(
                f,
                "thread {tid} blocks SIGTRAP, by which the kernel would end the process at a probe; unblock it"
            ),
            StartError::Lacks(what) => write!(f, "{what} is needed for a process to probe itself"),
            StartError::System { call, error } => write!(f, "{call} failed: {}", error.desc()),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// A probe of the session, and where it is.
struct Probe {
    standing: Standing,
    sites: Vec<(&'static Site, NoJump)>,
    refused: Vec<(u64, Arc<Unplaceable>)>,
}

/// Whether a probe is there.
enum Standing {
    /// It is, in the process of that number: in another, forked since, users are counted that there are none of.
    Here(Registration, i32),
    /// It has been removed, and this had been counted.
    Gone(Counters),
}

/// The probes that this process has in itself. Dropping it removes them.
///
/// The process takes over SIGTRAP, SIGSEGV and SIGBUS with its first session, and keeps them: what the program has had
/// done about those before is still done for all that is not of probes. Should it change that later, by sigaction(2), it
/// takes the signals from the probes, and the next hit, or the next fault of a probed instruction, is its own; until the
/// next session begins, or the next probe is placed, when they are taken over anew.
pub struct Session {
    options: Options,
    probes: BTreeMap<usize, Probe>,
    /// How many there have been.
    made: usize,
    /// Whether a handler has asked for its removal.
    asked: Arc<AtomicBool>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("options", &self.options).field("probes", &self.probes.len()).finish()
    }
}

impl Session {
    /// A session without probes.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed then.
    pub fn new() -> Result<Session, StartError> {
        Session::with(Options::default())
    }

    /// The same with options.
    ///
    /// # Errors
    /// [`StartError`]; nothing has changed then.
    pub fn with(options: Options) -> Result<Session, StartError> {
        let pid = std::process::id().cast_signed();
        if !machine::has_bases() {
            return Err(StartError::Lacks("FSGSBASE (Linux 5.9, and a processor of 2012)"));
        }
        if let Some(tid) = blocking(pid) {
            return Err(StartError::Blocked { tid });
        }
        // A child that is forked meanwhile is to find that done, or not begun.
        let placing = PLACING.have();
        let taken = signals::take_over(serve::SERVICES);
        drop(placing);
        let is_first = taken.map_err(|error| StartError::System { call: "rt_sigaction", error })?;
        if is_first {
            signals::at_fork(place::before_fork, place::after_fork);
        }
        Ok(Session { options, probes: BTreeMap::new(), made: 0, asked: Arc::default() })
    }

    /// Places a probe. Where `source` names several sites, those that cannot be probed are in [`Session::report`].
    ///
    /// `handler` is called by each thread that reaches a site, by any number of them at once; see the
    /// [module](self) for what it may do. [`Hit::add_probe`] does nothing here, [`Action::Remove`], [`Action::Detach`]
    /// and [`Action::Stop`] have the handler not be called any more; the sites are restored when the session is next asked
    /// for something.
    ///
    /// # Errors
    /// [`ProbeError`] if it names nothing that is mapped, or if none of its sites can be probed.
    pub fn probe(
        &mut self,
        source: impl Locate,
        handler: impl Fn(&mut Hit<'_>) -> Action + Send + Sync + 'static,
    ) -> Result<ProbeId, ProbeError> {
        self.settle();
        let pid = std::process::id().cast_signed();
        let maps = Maps::read(pid).map_err(ProbeError::Maps)?;
        let addresses = addresses(&source, &maps).map_err(ProbeError::Locate)?;
        let id = ProbeId(self.made);
        let own = Own::new(id, Box::new(handler), Arc::clone(&self.asked));
        let mut placing = PLACING.have();
        signals::take_again();
        let mut registration = placing.places.register(own);
        let (mut sites, mut refused) = (Vec::new(), Vec::new());
        for address in addresses {
            match placing.place(address, &maps, &mut registration, self.options) {
                Ok(placed) => sites.push(placed),
                Err(reason) => refused.push((address, Arc::new(reason))),
            }
        }
        drop(placing);
        let mut probe = Probe { standing: Standing::Here(registration, pid), sites, refused };
        if probe.sites.is_empty()
            && let Some((address, reason)) = probe.refused.pop()
            && let Some(reason) = Arc::into_inner(reason)
        {
            take_out(&mut probe);
            return Err(ProbeError::Unplaceable { address, reason });
        }
        self.probes.insert(id.index(), probe);
        self.made += 1;
        Ok(id)
    }

    /// Removes a probe: its sites are as before, unless others want them, and its handler is dropped once no thread is in
    /// it. Not to be called by a handler.
    pub fn remove(&mut self, id: ProbeId) {
        self.settle();
        if let Some(probe) = self.probes.get_mut(&id.index()) {
            take_out(probe);
        }
    }

    /// Removes a probe and forgets it: what became of it is returned, and not known to [`Session::report`] any more. Of one
    /// that is merely removed that is kept as long as the session, so that whoever adds probes again and again wants this.
    /// `None` if it is not of this session, or forgotten already. Not to be called by a handler.
    pub fn forget(&mut self, id: ProbeId) -> Option<ProbeReport> {
        self.remove(id);
        let report = self.report(id);
        self.probes.remove(&id.index());
        report
    }

    /// What has become of a probe; `None` if it is not of this session, or forgotten.
    #[must_use]
    pub fn report(&self, id: ProbeId) -> Option<ProbeReport> {
        let probe = self.probes.get(&id.index())?;
        let counters = match &probe.standing {
            Standing::Here(registration, _) => Own::counters(registration),
            Standing::Gone(counters) => *counters,
        };
        Some(ProbeReport {
            counters,
            returns: None,
            hardware: false,
            sites: probe.sites.iter().map(|(site, _)| site.address()).collect(),
            refused: probe.refused.clone(),
            pending: None,
            parts: Vec::new(),
        })
    }

    /// How threads come from each site of a probe to its handler.
    #[must_use]
    pub fn means(&self, id: ProbeId) -> Vec<(u64, Means)> {
        let Some(probe) = self.probes.get(&id.index()) else { return Vec::new() };
        let means = |&(site, no_jump): &(&'static Site, NoJump)| {
            let means = match site.state() {
                State::Needed => Means::Lost(Lost::Needed),
                State::NoRoom => Means::Lost(Lost::Stack),
                State::GivenUp => Means::Lost(Lost::Unserved),
                State::Live | State::Removed if site.is_jump() => Means::Jump,
                State::Live | State::Removed if site.is_undone() => Means::Trap(NoJump::Neighbour),
                State::Live | State::Removed => Means::Trap(no_jump),
            };
            (site.address(), means)
        };
        probe.sites.iter().map(means).collect()
    }

    /// Takes out what handlers have asked to be removed.
    fn settle(&mut self) {
        if self.asked.swap(false, Ordering::Acquire) {
            self.probes.values_mut().filter(|probe| probe.is_to_go()).for_each(take_out);
        }
    }
}

impl Probe {
    /// Whether its handler has asked for its removal.
    fn is_to_go(&self) -> bool {
        match &self.standing {
            Standing::Here(registration, _) => registration.value().is_some_and(Own::is_to_go),
            Standing::Gone(_) => false,
        }
    }
}

/// Takes a probe out.
fn take_out(probe: &mut Probe) {
    let mut placing = PLACING.have();
    let Standing::Here(registration, _) = &mut probe.standing else { return };
    registration.leave();
    for &(site, _) in &probe.sites {
        if site.state() == State::Live && site.users.is_empty() && patch::restore(site).is_ok() {
            site.set_state(State::Removed);
        }
    }
    drop(placing);
    let counters = Own::counters(registration);
    let Standing::Here(registration, pid) = std::mem::replace(&mut probe.standing, Standing::Gone(counters))
    else {
        return;
    };
    serve::leave_handlers();
    // In a child it is left as it is.
    if pid == std::process::id().cast_signed() {
        let (counters, place) = registration.close(Own::counters);
        probe.standing = Standing::Gone(counters);
        placing = PLACING.have();
        placing.places.put(place);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.probes.values_mut().for_each(take_out);
    }
}

/// A thread that blocks SIGTRAP, other than for a moment, as those do that are being made or end.
fn blocking(pid: i32) -> Option<i32> {
    const TRAP: u64 = 1 << (libc::SIGTRAP - 1);
    /// Those by which the C library cancels threads and has them change their user, which it lets no program block: who
    /// blocks them is in the library, and soon leaves it, however long it waits for a processor.
    const INTERNAL: u64 = 0b11 << (32 - 1);
    const MOMENT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(10);
    let start = Instant::now();
    // What is made later has the mask of one of these.
    let mut threads = procfs::threads_of(pid).unwrap_or_default();
    loop {
        let mut by_itself = None;
        threads.retain(|&tid| {
            let mask = procfs::blocked(tid).filter(|mask| mask & TRAP != 0);
            if mask.is_some_and(|mask| mask & INTERNAL != INTERNAL) {
                by_itself = Some(tid);
            }
            mask.is_some()
        });
        let patience = if by_itself.is_some() { MOMENT } else { LONG };
        let blocking = by_itself.or(threads.first().copied());
        if blocking.is_none() || start.elapsed() >= patience {
            return blocking;
        }
        std::thread::yield_now();
    }
}

/// The addresses that `source` names, of all its parts.
fn addresses(source: &dyn Locate, maps: &Maps) -> Result<Vec<u64>, LocateError> {
    let mut sites = match source.parts(maps)? {
        None => source.locate(maps)?,
        Some(names) => {
            let mut sites = Vec::new();
            for part in names.iter().filter_map(|name| source.part(name)) {
                sites.extend(part.locate(maps)?);
            }
            sites
        }
    };
    sites.sort_unstable();
    sites.dedup();
    Ok(sites.into_iter().map(|site| site.address).collect())
}
