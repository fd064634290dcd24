//! What the tracers of a session share: the target's address spaces, the probes in them, and who hears of them.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::ptrace::Options;

use crate::engine::calls::{Calls, Frame};
use crate::engine::cover::{Cover, Sites};
use crate::engine::event::{Counters, Event, ProbeReport};
use crate::engine::hit::{Action, ProbeId};
use crate::engine::host::{Closures, Handler, Handlers, Host};
use crate::engine::session::SessionOptions;
use crate::engine::watch::Watches;
use crate::executor::hardware::Passed;
use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::crew::Crew;
use crate::executor::ptrace::register::Register;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::{Purpose, SharedSpace, Space, Unplaceable};
use crate::symbols::locate::{Locate, LocateError};
use crate::target::failure::{Failure, SharedFailures};
use crate::target::lock;

/// What is counted for a probe, by all tracers.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) hits: AtomicU64,
    pub(crate) emulated: AtomicU64,
    pub(crate) native: AtomicU64,
    pub(crate) faulted: AtomicU64,
    pub(crate) filtered: AtomicU64,
    pub(crate) missed: AtomicU64,
    pub(crate) dropped: AtomicU64,
}

impl Tally {
    /// Counts one.
    pub(crate) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn counters(&self) -> Counters {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counters {
            hits: value(&self.hits),
            emulated: value(&self.emulated),
            native: value(&self.native),
            faulted: value(&self.faulted),
            filtered: value(&self.filtered),
            missed: value(&self.missed),
            dropped: value(&self.dropped),
        }
    }
}

/// A probe of the session.
pub(crate) struct Probe {
    pub(crate) tally: Tally,
    /// Of one that follows calls.
    pub(crate) calls: Option<Box<Returns>>,
    /// Of one that covers: it has no handler.
    pub(crate) cover: Option<Arc<Cover>>,
    /// Whether it is a part of another one.
    pub(crate) is_part: bool,
    /// Of one whose sites are hardware breakpoints: how often threads have passed them unnoticed.
    pub(crate) passed: Option<Passed>,
    pub(crate) placed: Mutex<Placed>,
}

/// The returns of the calls that a probe follows.
#[derive(Debug, Default)]
pub(crate) struct Returns {
    pub(crate) tally: Tally,
    /// To be locked after [`Probe::placed`].
    pub(crate) sites: Mutex<ReturnSites>,
}

/// Where calls return to.
#[derive(Debug, Default)]
pub(crate) struct ReturnSites {
    /// In any address space.
    pub(crate) placed: HashSet<u64>,
    /// Where there can be no breakpoint, which has been told.
    pub(crate) refused: HashSet<(SpaceId, u64)>,
}

/// Where a probe is.
pub(crate) struct Placed {
    pub(crate) source: Box<dyn Locate + Send>,
    pub(crate) sites: Vec<u64>,
    pub(crate) refused: Vec<(u64, Arc<Unplaceable>)>,
    pub(crate) pending: Option<Arc<LocateError>>,
    pub(crate) removed: bool,
    /// The probes that it consists of, by name; then it has no sites of its own.
    pub(crate) parts: BTreeMap<String, ProbeId>,
}

impl Probe {
    fn new(source: Box<dyn Locate + Send>, calls: bool, is_part: bool, by_hardware: bool) -> Probe {
        let placed = Placed {
            source,
            sites: Vec::new(),
            refused: Vec::new(),
            pending: None,
            removed: false,
            parts: BTreeMap::new(),
        };
        let calls = calls.then(Box::default);
        let passed = by_hardware.then(Passed::default);
        Probe { tally: Tally::default(), calls, cover: None, is_part, passed, placed: Mutex::new(placed) }
    }

    /// What is counted of the hits that the probe wants a breakpoint for.
    pub(crate) fn tally_of(&self, purpose: Purpose) -> &Tally {
        match self.calls.as_deref() {
            Some(calls) if purpose.is_return_site() => &calls.tally,
            _ => &self.tally,
        }
    }

    pub(crate) fn report(&self) -> ProbeReport {
        let mut counters = self.tally.counters();
        if let Some(passed) = &self.passed {
            counters.missed += passed.load(Ordering::Relaxed);
        }
        let placed = lock(&self.placed);
        let is_nowhere = placed.sites.is_empty() && placed.parts.is_empty();
        let pending = placed.pending.clone().filter(|_| is_nowhere);
        ProbeReport {
            counters,
            returns: self.calls.as_deref().map(|calls| calls.tally.counters()),
            hardware: self.passed.is_some(),
            sites: placed.sites.clone(),
            refused: placed.refused.clone(),
            pending,
            parts: placed.parts.iter().map(|(name, &id)| (name.clone(), id)).collect(),
        }
    }
}

/// Why a session's run is to end, besides the end of the target.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// A handler wants to detach.
    pub(crate) detach: AtomicBool,
    /// A handler wants to stop, and there is no breakpoint any more.
    pub(crate) stop: AtomicBool,
    /// No more probes are to be placed.
    pub(crate) ending: Arc<AtomicBool>,
    /// A handler, or the observer, has panicked.
    pub(crate) panic: Mutex<Option<Box<dyn Any + Send>>>,
    pub(crate) panicked: AtomicBool,
}

impl Wishes {
    /// Whether threads are not to be served for long.
    pub(crate) fn stop_serving(&self) -> bool {
        [&self.detach, &self.stop, &self.ending, &self.panicked]
            .into_iter()
            .any(|wish| wish.load(Ordering::SeqCst))
    }

    /// Something has panicked: the first such thing is what the run ends with.
    pub(crate) fn panic_with(&self, payload: Box<dyn Any + Send>) {
        lock(&self.panic).get_or_insert(payload);
        self.panicked.store(true, Ordering::SeqCst);
    }
}

/// What the tracers of a session share.
pub(crate) struct Shared {
    pub(crate) target: i32,
    pub(crate) launched: bool,
    pub(crate) options: SessionOptions,
    pub(crate) register: Arc<Register>,
    pub(crate) crew: Arc<Crew>,
    spaces: RwLock<HashMap<SpaceId, Arc<SharedSpace>>>,
    next_space: AtomicU32,
    probes: RwLock<Vec<Arc<Probe>>>,
    /// How often a probe has been added or taken back.
    pub(crate) version: AtomicU64,
    pub(crate) host: Closures,
    /// Those that have not returned.
    pub(crate) calls: Calls,
    pub(crate) watches: Arc<Watches>,
    /// Held by who places or removes probes.
    pub(crate) placing: Mutex<()>,
    /// Children that share the target's memory and are traced only until they execute another program.
    pub(crate) transient: Mutex<HashSet<i32>>,
    /// The target's, once it has ended.
    pub(crate) status: Mutex<Option<ExitStatus>>,
    /// The last process whose memory could not be opened, and why.
    pub(crate) inaccessible: Mutex<Option<(i32, Arc<io::Error>)>>,
    /// Of address spaces, and not told yet.
    pub(crate) failures: Arc<SharedFailures>,
    /// How accesses in one step are made.
    pub(crate) ways: Mutex<Ways>,
    pub(crate) wishes: Wishes,
    /// When the last look at all breakpoints that is over began.
    pub(crate) seen: Mutex<Instant>,
    /// The tracers besides the session's own thread.
    pub(crate) workers: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub(crate) fn new(target: i32, launched: bool, options: SessionOptions) -> Shared {
        Shared {
            target,
            launched,
            options,
            register: Arc::default(),
            crew: Arc::default(),
            spaces: RwLock::default(),
            next_space: AtomicU32::new(0),
            probes: RwLock::default(),
            version: AtomicU64::new(0),
            host: Closures::default(),
            calls: Calls::default(),
            watches: Arc::default(),
            placing: Mutex::default(),
            transient: Mutex::default(),
            status: Mutex::default(),
            inaccessible: Mutex::default(),
            failures: Arc::default(),
            ways: Mutex::new(Ways::all()),
            wishes: Wishes::default(),
            seen: Mutex::new(Instant::now()),
            workers: Mutex::default(),
        }
    }

    /// The options for every thread of the target, besides those that are always set.
    pub(crate) fn special(&self) -> Options {
        match self.launched && self.options.kill_with {
            true => Options::PTRACE_O_EXITKILL,
            false => Options::empty(),
        }
    }

    pub(crate) fn add_space(&self, space: Space) -> SpaceId {
        let id = self.next_space.fetch_add(1, Ordering::Relaxed);
        self.register.add_space(id, Arc::clone(&space.hardware));
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces.insert(id, Arc::new(SharedSpace::new(space)));
        id
    }

    pub(crate) fn space(&self, id: SpaceId) -> Option<Arc<SharedSpace>> {
        self.spaces.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All address spaces.
    pub(crate) fn spaces(&self) -> Vec<(SpaceId, Arc<SharedSpace>)> {
        let spaces = self.spaces.read().unwrap_or_else(PoisonError::into_inner);
        spaces.iter().map(|(&id, space)| (id, Arc::clone(space))).collect()
    }

    pub(crate) fn remove_space(&self, id: SpaceId) -> Option<Arc<SharedSpace>> {
        self.count_dropped(self.calls.in_space(id));
        self.watches.forget_space(id);
        self.register.remove_space(id);
        self.spaces.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    pub(crate) fn clear_spaces(&self) {
        // They may return yet.
        self.calls.clear();
        self.watches.clear();
        self.register.clear_spaces();
        self.spaces.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All probes, by number.
    pub(crate) fn probes(&self) -> Vec<Arc<Probe>> {
        self.probes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn probe(&self, id: ProbeId) -> Option<Arc<Probe>> {
        self.probes.read().unwrap_or_else(PoisonError::into_inner).get(id.0).cloned()
    }

    /// What became of a probe so far.
    pub(crate) fn report(&self, id: ProbeId) -> Option<ProbeReport> {
        let probe = self.probe(id)?;
        if probe.passed.is_some() {
            self.spaces().iter().for_each(|(_, space)| space.read().hardware.settle());
        }
        Some(probe.report())
    }

    /// Books a probe, without a site so far.
    pub(crate) fn enter(&self, source: Box<dyn Locate + Send>, handlers: Handlers) -> ProbeId {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        let by_hardware = self.options.hardware || source.is_by_hardware();
        probes.push(Arc::new(Probe::new(source, handlers.on_return.is_some(), false, by_hardware)));
        self.host.add(handlers);
        self.version.fetch_add(1, Ordering::Release);
        ProbeId(probes.len() - 1)
    }

    /// Books a probe that covers.
    pub(crate) fn enter_cover(&self, cover: Arc<Cover>) -> ProbeId {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        let probe = Probe::new(Box::new(Sites), false, false, false);
        probes.push(Arc::new(Probe { cover: Some(cover), ..probe }));
        self.host.add(Handler::Together(Box::new(|_| Action::Continue)).into());
        self.version.fetch_add(1, Ordering::Release);
        ProbeId(probes.len() - 1)
    }

    /// Books a probe that is a part of `whole`, and has its handler.
    pub(crate) fn enter_part(&self, source: Box<dyn Locate + Send>, whole: ProbeId) -> ProbeId {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        let of_whole = probes.get(whole.index());
        let calls = of_whole.is_some_and(|whole| whole.calls.is_some());
        let by_hardware = of_whole.is_some_and(|whole| whole.passed.is_some());
        probes.push(Arc::new(Probe::new(source, calls, true, by_hardware)));
        self.host.add_part(whole);
        self.version.fetch_add(1, Ordering::Release);
        ProbeId(probes.len() - 1)
    }

    /// Takes the last probe back, which has been removed.
    pub(crate) fn take_back(&self) {
        self.probes.write().unwrap_or_else(PoisonError::into_inner).pop();
        self.host.remove_last();
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Counts calls that will never return.
    pub(crate) fn count_dropped(&self, frames: Vec<Frame>) {
        for frame in frames.into_iter().filter(|frame| !frame.copied) {
            let probe = self.probe(ProbeId(frame.probe));
            if let Some(calls) = probe.as_deref().and_then(|probe| probe.calls.as_deref()) {
                Tally::count(&calls.tally.dropped);
            }
        }
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        self.host.event(event);
    }

    /// Tells what the kernel has refused.
    pub(crate) fn tell_failures(&self, failures: Vec<Failure>) {
        for Failure { tid, request, error } in failures {
            let pid = self.register.process_of(tid).unwrap_or(tid);
            self.tell(&Event::Failed { pid, tid, request, error });
        }
    }

    /// A process that runs in the address space.
    pub(crate) fn pid_in(&self, space: SpaceId) -> i32 {
        self.register.process_in(space).unwrap_or(self.target)
    }
}
