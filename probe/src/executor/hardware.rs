//! Hardware breakpoints: addresses at which every thread of an address space stops before it executes the instruction,
//! without a byte of text changed, and data behind whose writing it stops.
//!
//! A thread has a perf event for each (perf_event_open(2), `PERF_TYPE_BREAKPOINT` with `sigtrap`), which takes one of its
//! four debug registers and sends it a SIGTRAP. They go with their descriptors, so that a thread has none left when the
//! process is killed that holds them; debug registers that ptrace has set would stay. Who executes a program loses them.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;

use crate::executor::perf::Event;
use crate::executor::space::Purpose;
use crate::target::{lock, procfs};

/// How many debug registers hold an address (SDM volume 3, section 19.2.1).
pub(crate) const REGISTERS: usize = 4;

/// Why there is no hardware breakpoint at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HardwareRefusal {
    /// Four are all that a thread can have, and there are others.
    Full {
        /// Where those are.
        sites: Vec<u64>,
    },
    /// The probe follows calls, of which each would need one for its return.
    Calls,
    /// Somebody else has set debug registers of a thread: a debugger, a profiler, or the program.
    Taken {
        /// The thread.
        tid: i32,
    },
    /// The system does not let this user have perf events of the target.
    Forbidden {
        /// `kernel.perf_event_paranoid`, if it can be read.
        paranoid: Option<i32>,
    },
    /// There are none: the processor or its hypervisor does not show them, or the kernel is older than 5.13.
    Missing,
    /// The process that traces has no file descriptors left. It needs one for each site in each thread.
    Descriptors,
    /// perf_event_open(2) failed otherwise.
    System(Errno),
}

impl HardwareRefusal {
    /// What it means that perf_event_open(2) failed for thread `tid`.
    fn of(error: Errno, tid: i32) -> HardwareRefusal {
        match error {
            Errno::ENOSPC | Errno::EBUSY => HardwareRefusal::Taken { tid },
            Errno::EACCES | Errno::EPERM => {
                let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
                let paranoid = paranoid.ok().and_then(|text| text.trim().parse().ok());
                HardwareRefusal::Forbidden { paranoid }
            }
            Errno::ENOSYS
            | Errno::ENOENT
            | Errno::ENODEV
            | Errno::EOPNOTSUPP
            | Errno::EINVAL
            | Errno::E2BIG => HardwareRefusal::Missing,
            Errno::EMFILE | Errno::ENFILE => HardwareRefusal::Descriptors,
            error => HardwareRefusal::System(error),
        }
    }

    /// In a few words without values.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            HardwareRefusal::Full { .. } => "no hardware breakpoint left",
            HardwareRefusal::Calls => "calls not followed by hardware",
            HardwareRefusal::Taken { .. } => "debug registers in use",
            HardwareRefusal::Forbidden { .. } => "hardware breakpoints not permitted",
            HardwareRefusal::Missing => "no hardware breakpoints",
            HardwareRefusal::Descriptors => "no file descriptors left",
            HardwareRefusal::System(_) => "hardware breakpoint refused",
        }
    }
}

impl fmt::Display for HardwareRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HardwareRefusal::Full { sites } => {
                f.write_str("a thread has four hardware breakpoints, and they are at ")?;
                for (index, site) in sites.iter().enumerate() {
                    write!(f, "{}{site:#x}", if index == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            HardwareRefusal::Calls => f.write_str(
                "hardware breakpoints are too few to follow calls to their returns; probe the functions alone",
            ),
            HardwareRefusal::Taken { tid } => write!(
                f,
                "somebody else uses the hardware breakpoints of thread {tid}; end what debugs or profiles it"
            ),
            HardwareRefusal::Forbidden { paranoid } => {
                f.write_str("hardware breakpoints need perf events, which this user may not have; be root")?;
                match paranoid {
                    Some(paranoid) if *paranoid > 2 => {
                        write!(f, ", or set kernel.perf_event_paranoid to 2 (it is {paranoid})")
                    }
                    _ => f.write_str(", and have perf_event_open allowed where a container forbids it"),
                }
            }
            HardwareRefusal::Missing => f.write_str(
                "there are no hardware breakpoints here; the kernel must be 5.13 or later, and a virtual machine \
                 must show them",
            ),
            HardwareRefusal::Descriptors => f.write_str(
                "there are no file descriptors left, and each thread needs one for each site; raise `ulimit -n`",
            ),
            HardwareRefusal::System(error) => write!(f, "perf_event_open failed: {}", error.desc()),
        }
    }
}

impl std::error::Error for HardwareRefusal {}

/// What a debug register is for: the instruction at an address, or so many bytes of data there, 1, 2, 4 or 8, aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Spot {
    pub(crate) address: u64,
    /// 0 for an instruction.
    pub(crate) bytes: u8,
}

impl From<u64> for Spot {
    /// That of an instruction.
    fn from(address: u64) -> Spot {
        Spot { address, bytes: 0 }
    }
}

impl Spot {
    /// Those that cover `range`, without a byte besides; `None` if a thread does not have so many.
    pub(crate) fn of_range(range: &Range<u64>) -> Option<Vec<Spot>> {
        let mut spots = Vec::new();
        let mut address = range.start;
        while address < range.end {
            if spots.len() == REGISTERS {
                return None;
            }
            let fits = |bytes: &u8| {
                let bytes = u64::from(*bytes);
                address.is_multiple_of(bytes) && range.end - address >= bytes
            };
            let bytes = [8u8, 4, 2, 1].into_iter().find(fits)?;
            spots.push(Spot { address, bytes });
            address = address.checked_add(bytes.into())?;
        }
        Some(spots)
    }

    /// Arms thread `tid`. Returns the event, and whether it has what the kernel writes.
    fn event(self, tid: i32) -> Result<(Event, bool), Errno> {
        if !self.is_data() {
            return Ok((Event::at(tid, self.address)?, false));
        }
        let written = |kernel| Event::written(tid, self.address, self.bytes, kernel);
        match written(true) {
            Ok(event) => Ok((event, true)),
            Err(Errno::EACCES | Errno::EPERM) => Ok((written(false)?, false)),
            Err(error) => Err(error),
        }
    }

    fn is_data(self) -> bool {
        self.bytes != 0
    }

    /// Its bytes.
    pub(crate) fn range(self) -> Range<u64> {
        self.address..self.address.saturating_add(self.bytes.into())
    }
}

/// For how many times a thread has passed sites of a probe unnoticed.
pub(crate) type Passed = Arc<AtomicU64>;

/// A thread that has no breakpoint at a site, though others of its address space have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unwatched {
    pub(crate) tid: i32,
    pub(crate) address: u64,
    pub(crate) error: Errno,
}

/// The hardware breakpoints of an address space.
#[derive(Debug, Default)]
pub(crate) struct Hardware {
    /// In the order of placement.
    sites: Mutex<Vec<Site>>,
    /// Whether there are any, looked at for each thread that comes or goes.
    any: AtomicBool,
}

#[derive(Debug)]
struct Site {
    spot: Spot,
    /// Of data: how many want it.
    users: usize,
    /// By probe.
    passed: Vec<(Purpose, Passed)>,
    /// By thread.
    events: HashMap<i32, Counted>,
}

/// The event of a thread, and what has become of those times that it counts.
#[derive(Debug)]
struct Counted {
    event: Event,
    /// Of data: whether the kernel's own accesses count.
    kernel: bool,
    /// How many were stops that were served, or are known to have been none.
    known: u64,
}

impl Counted {
    /// Finds out how often the thread has passed since it was last asked. So many of these times it may be on its way to
    /// its stop.
    fn passed(&mut self, on_its_way: u64) -> u64 {
        let new = self.event.count().saturating_sub(self.known).saturating_sub(on_its_way);
        self.known += new;
        new
    }
}

impl Site {
    fn open(&mut self, tid: i32) -> Result<(), Errno> {
        if !self.events.contains_key(&tid) {
            let (event, kernel) = self.spot.event(tid)?;
            self.events.insert(tid, Counted { event, kernel, known: 0 });
        }
        Ok(())
    }

    /// Adds up how often threads have passed so far.
    fn settle(&mut self) {
        if self.spot.is_data() {
            // Several times may be one stop, which comes yet, or one signal that waits.
            return;
        }
        const TRAP: u64 = 1 << (libc::SIGTRAP - 1);
        for (&tid, counted) in &mut self.events {
            if counted.event.count() == counted.known {
                continue;
            }
            // One that takes the signal has not passed before it unblocked it, which was noticed.
            let takes = procfs::blocked(tid).is_some_and(|blocked| blocked & TRAP == 0);
            add(&self.passed, counted.passed(u64::from(takes)));
        }
    }

    /// Adds up how often a thread has passed that is not on its way to a stop.
    fn settle_for(&mut self, tid: i32) {
        if let Some(counted) = self.events.get_mut(&tid) {
            add(&self.passed, counted.passed(0));
        }
    }
}

fn add(passed: &[(Purpose, Passed)], times: u64) {
    for (_, passed) in passed {
        passed.fetch_add(times, Ordering::Relaxed);
    }
}

impl Hardware {
    /// The same sites for an address space that is a copy, where no thread has been armed.
    pub(crate) fn copy(&self) -> Hardware {
        let sites: Vec<Site> = lock(&self.sites)
            .iter()
            .map(|site| Site { passed: site.passed.clone(), events: HashMap::new(), ..*site })
            .collect();
        let any = AtomicBool::new(!sites.is_empty());
        Hardware { sites: Mutex::new(sites), any }
    }

    /// Takes up a site, at which threads that come from now on stop.
    ///
    /// Those that are there already are armed by [`Hardware::arm_all`].
    ///
    /// # Errors
    /// There are four others.
    pub(crate) fn add(&self, spot: impl Into<Spot>) -> Result<(), HardwareRefusal> {
        let spot = spot.into();
        let mut sites = lock(&self.sites);
        if let Some(site) = sites.iter_mut().find(|site| spot.is_data() && site.spot == spot) {
            site.users += 1;
            return Ok(());
        }
        if sites.len() >= REGISTERS {
            return Err(HardwareRefusal::Full {
                sites: sites.iter().map(|site| site.spot.address).collect(),
            });
        }
        sites.push(Site { spot, users: 1, passed: Vec::new(), events: HashMap::new() });
        self.any.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Where there are breakpoints, in the order of placement.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        let sites = lock(&self.sites);
        sites.iter().filter(|site| !site.spot.is_data()).map(|site| site.spot.address).collect()
    }

    /// Arms those `threads` that are not yet.
    ///
    /// # Errors
    /// One of them cannot be; then the site is to be removed.
    pub(crate) fn arm_all(&self, spot: impl Into<Spot>, threads: &[i32]) -> Result<(), HardwareRefusal> {
        let spot = spot.into();
        let mut sites = lock(&self.sites);
        let Some(site) = sites.iter_mut().find(|site| site.spot == spot) else { return Ok(()) };
        for &tid in threads {
            match site.open(tid) {
                // It has ended.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(HardwareRefusal::of(error, tid)),
            }
        }
        Ok(())
    }

    /// Has `passed` count, for a probe, how often threads pass the site from now on.
    pub(crate) fn count_for(&self, spot: impl Into<Spot>, probe: Purpose, passed: &Passed) {
        let spot = spot.into();
        let mut sites = lock(&self.sites);
        let Some(site) = sites.iter_mut().find(|site| site.spot == spot) else { return };
        site.settle();
        site.passed.push((probe, Arc::clone(passed)));
    }

    /// Takes a probe off the site.
    pub(crate) fn count_no_more(&self, address: u64, probe: Purpose) {
        let mut sites = lock(&self.sites);
        let Some(site) = sites.iter_mut().find(|site| site.spot == address.into()) else { return };
        site.settle();
        site.passed.retain(|&(other, _)| other != probe);
    }

    /// Takes a site away: no thread stops there any more, but for those that are on their way.
    pub(crate) fn remove(&self, spot: impl Into<Spot>) {
        let spot = spot.into();
        let mut sites = lock(&self.sites);
        let Some(index) = sites.iter().position(|site| site.spot == spot) else { return };
        if let Some(site) = sites.get_mut(index).filter(|site| site.users > 1) {
            site.users -= 1;
            return;
        }
        let mut site = sites.remove(index);
        self.any.store(!sites.is_empty(), Ordering::SeqCst);
        site.settle();
    }

    /// Takes all data away.
    pub(crate) fn remove_data(&self) {
        let mut sites = lock(&self.sites);
        sites.retain(|site| !site.spot.is_data());
        self.any.store(!sites.is_empty(), Ordering::SeqCst);
    }

    /// Arms a thread that has come. Returns where that could not be.
    pub(crate) fn arm(&self, tid: i32) -> Vec<Unwatched> {
        if !self.any.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut sites = lock(&self.sites);
        let opened = sites.iter_mut().map(|site| (site.spot.address, site.open(tid)));
        let failed = opened.filter_map(|(address, opened)| Some((address, opened.err()?)));
        let failed = failed.filter(|&(_, error)| error != Errno::ESRCH);
        failed.map(|(address, error)| Unwatched { tid, address, error }).collect()
    }

    /// Forgets a thread that is none of the address space any more.
    pub(crate) fn disarm(&self, tid: i32) {
        if self.any.load(Ordering::SeqCst) {
            for site in &mut *lock(&self.sites) {
                site.settle_for(tid);
                site.events.remove(&tid);
            }
        }
    }

    /// A thread has stopped at `address`, before the instruction, which its event has `counted`. Says whether there is a
    /// breakpoint still.
    pub(crate) fn stopped(&self, tid: i32, address: u64, counted: bool) -> bool {
        let mut sites = lock(&self.sites);
        let Some(site) = sites.iter_mut().find(|site| site.spot == address.into()) else { return false };
        if let Some(event) = site.events.get_mut(&tid).filter(|_| counted) {
            event.known += 1;
        }
        true
    }

    /// A thread that blocked the signal takes it now: what it has passed until then it has passed.
    pub(crate) fn unblocked(&self, tid: i32) {
        let mut sites = lock(&self.sites);
        sites.iter_mut().filter(|site| !site.spot.is_data()).for_each(|site| site.settle_for(tid));
    }

    /// The data that a thread has written since this was last asked, each with how often.
    pub(crate) fn written(&self, tid: i32) -> Vec<(Spot, u64)> {
        let mut written = Vec::new();
        if self.any.load(Ordering::SeqCst) {
            for site in lock(&self.sites).iter_mut().filter(|site| site.spot.is_data()) {
                if let Some(counted) = site.events.get_mut(&tid) {
                    written.push((site.spot, counted.passed(0)));
                }
            }
        }
        written.retain(|&(_, times)| times > 0);
        written
    }

    /// All data.
    pub(crate) fn data(&self) -> Vec<Spot> {
        lock(&self.sites).iter().map(|site| site.spot).filter(|spot| spot.is_data()).collect()
    }

    /// Whether it is told what the kernel writes in the threads' system calls.
    pub(crate) fn sees_kernel(&self, spot: Spot) -> bool {
        let sites = lock(&self.sites);
        let site = sites.iter().find(|site| site.spot == spot);
        site.is_some_and(|site| site.events.values().all(|counted| counted.kernel))
    }

    /// Adds up how often threads have passed sites so far.
    pub(crate) fn settle(&self) {
        if self.any.load(Ordering::SeqCst) {
            lock(&self.sites).iter_mut().for_each(Site::settle);
        }
    }
}
