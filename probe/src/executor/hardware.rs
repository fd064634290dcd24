//! Hardware breakpoints: addresses at which every thread of an address space stops before it executes the instruction,
//! without a byte of text changed.
//!
//! A thread has a perf event for each (perf_event_open(2), `PERF_TYPE_BREAKPOINT` with `sigtrap`), which takes one of its
//! four debug registers and sends it a SIGTRAP. They go with their descriptors, so that a thread has none left when the
//! process is killed that holds them; debug registers that ptrace has set would stay. Who executes a program loses them.

use std::collections::HashMap;
use std::fmt;
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
    sites: Mutex<Sites>,
    /// Whether there are any, looked at for each thread that comes or goes.
    any: AtomicBool,
}

#[derive(Debug, Default)]
struct Sites {
    /// In the order of placement.
    now: Vec<Site>,
    /// Where there were others lately: a thread may be on its way to its stop.
    former: Vec<Former>,
}

#[derive(Debug)]
struct Site {
    address: u64,
    /// By probe.
    passed: Vec<(Purpose, Passed)>,
    /// By thread.
    events: HashMap<i32, Counted>,
}

#[derive(Debug)]
struct Former {
    address: u64,
    passed: Vec<(Purpose, Passed)>,
}

/// The event of a thread, and what has become of those times that it counts.
#[derive(Debug)]
struct Counted {
    event: Event,
    /// How many were stops that were served.
    served: u64,
    /// How many have been told to be none.
    told: u64,
}

impl Counted {
    /// Finds out how often the thread has passed, and adds what is new of it.
    fn settle(&mut self, passed: &[(Purpose, Passed)], on_its_way: u64) {
        let now = self.event.count().saturating_sub(self.served).saturating_sub(on_its_way);
        let new = now.wrapping_sub(std::mem::replace(&mut self.told, now));
        if new != 0 {
            add(passed, new);
        }
    }
}

/// Adds to each, or takes off, modulo 2 to the power of 64.
fn add(passed: &[(Purpose, Passed)], times: u64) {
    for (_, passed) in passed {
        passed.fetch_add(times, Ordering::Relaxed);
    }
}

impl Site {
    fn open(&mut self, tid: i32) -> Result<(), Errno> {
        if !self.events.contains_key(&tid) {
            let event = Event::at(tid, self.address)?;
            self.events.insert(tid, Counted { event, served: 0, told: 0 });
        }
        Ok(())
    }

    fn close(&mut self, tid: i32) {
        if let Some(mut counted) = self.events.remove(&tid) {
            counted.settle(&self.passed, 0);
        }
    }

    /// Ends all events.
    fn end(mut self) -> Former {
        for counted in self.events.values_mut() {
            counted.settle(&self.passed, 0);
        }
        Former { address: self.address, passed: self.passed }
    }
}

impl Hardware {
    /// The same sites for an address space that is a copy, where no thread has been armed.
    pub(crate) fn copy(&self) -> Hardware {
        let now: Vec<Site> = lock(&self.sites)
            .now
            .iter()
            .map(|site| Site { address: site.address, passed: site.passed.clone(), events: HashMap::new() })
            .collect();
        let any = AtomicBool::new(!now.is_empty());
        Hardware { sites: Mutex::new(Sites { now, former: Vec::new() }), any }
    }

    /// Takes up a site, at which threads that come from now on stop.
    ///
    /// Those that are there already are armed by [`Hardware::arm_all`].
    ///
    /// # Errors
    /// There are four others.
    pub(crate) fn add(&self, address: u64) -> Result<(), HardwareRefusal> {
        let mut sites = lock(&self.sites);
        if sites.now.len() >= REGISTERS {
            return Err(HardwareRefusal::Full { sites: sites.now.iter().map(|site| site.address).collect() });
        }
        sites.now.push(Site { address, passed: Vec::new(), events: HashMap::new() });
        self.any.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Where there are breakpoints, in the order of placement.
    pub(crate) fn addresses(&self) -> Vec<u64> {
        lock(&self.sites).now.iter().map(|site| site.address).collect()
    }

    /// Arms those `threads` that are not yet.
    ///
    /// # Errors
    /// One of them cannot be; then the site is to be removed.
    pub(crate) fn arm_all(&self, address: u64, threads: &[i32]) -> Result<(), HardwareRefusal> {
        let mut sites = lock(&self.sites);
        let Some(site) = sites.now.iter_mut().find(|site| site.address == address) else { return Ok(()) };
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
    pub(crate) fn count_for(&self, address: u64, probe: Purpose, passed: &Passed) {
        let mut sites = lock(&self.sites);
        let Some(site) = sites.now.iter_mut().find(|site| site.address == address) else { return };
        for counted in site.events.values_mut() {
            counted.settle(&site.passed, 0);
        }
        site.passed.push((probe, Arc::clone(passed)));
    }

    /// Takes a probe off the site.
    pub(crate) fn count_no_more(&self, address: u64, probe: Purpose) {
        let mut sites = lock(&self.sites);
        let Some(site) = sites.now.iter_mut().find(|site| site.address == address) else { return };
        for counted in site.events.values_mut() {
            counted.settle(&site.passed, 0);
        }
        site.passed.retain(|&(other, _)| other != probe);
    }

    /// Takes a site away: no thread stops there any more, but for those that have been there.
    pub(crate) fn remove(&self, address: u64) {
        /// A stop follows what leads to it within microseconds, unless nobody takes it from the kernel.
        const MOST_FORMER: usize = 64;
        let mut sites = lock(&self.sites);
        let Some(index) = sites.now.iter().position(|site| site.address == address) else { return };
        let former = sites.now.remove(index).end();
        self.any.store(!sites.now.is_empty(), Ordering::SeqCst);
        sites.former.retain(|other| other.address != address);
        if sites.former.len() >= MOST_FORMER {
            sites.former.remove(0);
        }
        sites.former.push(former);
    }

    /// Arms a thread that has come. Returns where that could not be.
    pub(crate) fn arm(&self, tid: i32) -> Vec<Unwatched> {
        if !self.any.load(Ordering::SeqCst) {
            return Vec::new();
        }
        let mut sites = lock(&self.sites);
        let opened = sites.now.iter_mut().map(|site| (site.address, site.open(tid)));
        let failed = opened.filter_map(|(address, opened)| Some((address, opened.err()?)));
        let failed = failed.filter(|&(_, error)| error != Errno::ESRCH);
        failed.map(|(address, error)| Unwatched { tid, address, error }).collect()
    }

    /// Forgets a thread that is none of the address space any more.
    pub(crate) fn disarm(&self, tid: i32) {
        if self.any.load(Ordering::SeqCst) {
            lock(&self.sites).now.iter_mut().for_each(|site| site.close(tid));
        }
    }

    /// A thread has stopped at `address`, before the instruction. Says whether there is a breakpoint still; otherwise it
    /// was removed meanwhile, and nothing is missed.
    pub(crate) fn stopped(&self, tid: i32, address: u64) -> bool {
        let mut sites = lock(&self.sites);
        if let Some(site) = sites.now.iter_mut().find(|site| site.address == address) {
            if let Some(counted) = site.events.get_mut(&tid) {
                counted.served += 1;
            }
            return true;
        }
        if let Some(former) = sites.former.iter().find(|former| former.address == address) {
            add(&former.passed, u64::MAX);
        }
        false
    }

    /// Adds up how often threads have passed sites so far.
    pub(crate) fn settle(&self) {
        const TRAP: u64 = 1 << (libc::SIGTRAP - 1);
        if !self.any.load(Ordering::SeqCst) {
            return;
        }
        for site in &mut lock(&self.sites).now {
            for (&tid, counted) in &mut site.events {
                if counted.event.count() == counted.served.wrapping_add(counted.told) {
                    continue;
                }
                // One that takes the signal may be on its way.
                let takes = procfs::blocked(tid).is_some_and(|blocked| blocked & TRAP == 0);
                counted.settle(&site.passed, u64::from(takes));
            }
        }
    }
}
