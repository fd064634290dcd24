//! What the tracers of a session share: the target's address spaces, the probes in them, and who hears of them.

use std::any::Any;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::ptrace::Options;
use rustc_hash::FxHashMap;

use crate::engine::calls::{Calls, Frame};
use crate::engine::cover::{Cover, Sites};
use crate::engine::disposition::Dispositions;
use crate::engine::event::{Event, ProbeReport};
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::host::{self, Handler, Handlers, Host, Observer};
use crate::engine::probes::{Held, Probe, Probes, Tally};
use crate::engine::session::SessionOptions;
use crate::engine::watch::Watches;
use crate::executor::ptrace::atomic::Ways;
use crate::executor::ptrace::crew::Crew;
use crate::executor::ptrace::register::Register;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::{SharedSpace, Space};
use crate::symbols::locate::Locate;
use crate::target::failure::{Failure, SharedFailures};
use crate::target::lock;

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
    spaces: RwLock<FxHashMap<SpaceId, Arc<SharedSpace>>>,
    next_space: AtomicU32,
    /// How often an address space has come or gone.
    spaces_version: AtomicU64,
    probes: RwLock<Probes>,
    /// How often a probe has been added or taken back.
    pub(crate) version: AtomicU64,
    observer: Mutex<Option<Observer>>,
    /// Those that have not returned.
    pub(crate) calls: Calls,
    pub(crate) watches: Arc<Watches>,
    pub(crate) dispositions: Dispositions,
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
            spaces_version: AtomicU64::new(0),
            probes: RwLock::default(),
            version: AtomicU64::new(0),
            observer: Mutex::default(),
            calls: Calls::default(),
            watches: Arc::default(),
            dispositions: Dispositions::default(),
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
        self.spaces_version.fetch_add(1, Ordering::Release);
        id
    }

    /// How often an address space has come or gone.
    pub(crate) fn spaces_version(&self) -> u64 {
        self.spaces_version.load(Ordering::Acquire)
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
        self.spaces_version.fetch_add(1, Ordering::Release);
        self.spaces.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }

    pub(crate) fn clear_spaces(&self) {
        // They may return yet.
        self.calls.clear();
        self.watches.clear();
        self.register.clear_spaces();
        self.spaces_version.fetch_add(1, Ordering::Release);
        self.spaces.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// All probes, by number.
    pub(crate) fn probes(&self) -> Probes {
        self.probes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn probe(&self, id: ProbeId) -> Option<Held> {
        self.probes.read().unwrap_or_else(PoisonError::into_inner).keep(id.0)
    }

    /// What became of a probe so far.
    pub(crate) fn report(&self, id: ProbeId) -> Option<ProbeReport> {
        let probe = self.probe(id)?;
        let (probe, _) = probe.get()?;
        if lock(&probe.placed).forgotten {
            return None;
        }
        if probe.passed().is_some() {
            self.spaces().iter().for_each(|(_, space)| space.read().hardware.settle());
        }
        Some(probe.report())
    }

    /// The same of all that are not forgotten.
    pub(crate) fn reports(&self) -> BTreeMap<usize, ProbeReport> {
        let known = |(_, probe): &(usize, &Probe)| !lock(&probe.placed).forgotten;
        self.probes().iter().filter(known).map(|(number, probe)| (number, probe.report())).collect()
    }

    /// Nobody is to know any more of a probe that has been removed. Returns what became of it.
    pub(crate) fn forget(&self, id: ProbeId) -> Option<ProbeReport> {
        let report = self.report(id)?;
        let probe = self.probe(id)?;
        if !std::mem::replace(&mut lock(&probe.get()?.0.placed).forgotten, true) {
            self.probes.write().unwrap_or_else(PoisonError::into_inner).forget(id.0);
            self.version.fetch_add(1, Ordering::Release);
        }
        for &(_, part) in &report.parts {
            self.forget(part);
        }
        Some(report)
    }

    /// Books a probe, without a site so far.
    pub(crate) fn enter(&self, source: Box<dyn Locate + Send>, handlers: Handlers) -> ProbeId {
        let calls = handlers.on_return.is_some();
        ProbeId(self.book(vec![source], |source| self.make(source, calls), Arc::new(handlers)))
    }

    /// Books several, each with its handler. Returns their numbers.
    pub(crate) fn enter_all<L, H>(&self, probes: Vec<(L, H)>) -> Range<usize>
    where
        L: Locate + Send + 'static,
        H: FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    {
        let (sources, handlers): (Vec<L>, Vec<H>) = probes.into_iter().unzip();
        let number = sources.len();
        let first = self.book(sources, |source| self.make(source, false), host::of_each(handlers));
        first..first + number
    }

    /// Books a probe that covers.
    pub(crate) fn enter_cover(&self, cover: Arc<Cover>) -> ProbeId {
        let handlers = Handlers::brief(Handler::Together(Box::new(|_| Action::Continue)));
        let make = |_: &Sites| Probe::of_cover(Arc::clone(&cover));
        ProbeId(self.book(vec![Sites], make, Arc::new(handlers)))
    }

    /// Books a probe that is a part of `whole`, and has its handler. `None` where there is no such probe.
    pub(crate) fn enter_part(&self, source: Box<dyn Locate + Send>, whole: ProbeId) -> Option<ProbeId> {
        let probes = self.probes.read().unwrap_or_else(PoisonError::into_inner);
        let (of_whole, host, index) = probes.with_host(whole.0)?;
        let (calls, by_hardware) = (of_whole.calls().is_some(), of_whole.passed().is_some());
        let host = host::of_part(Arc::clone(host), index);
        drop(probes);
        Some(ProbeId(self.book(vec![source], |_: &_| Probe::new(calls, true, by_hardware), host)))
    }

    fn make(&self, source: &dyn Locate, calls: bool) -> Probe {
        Probe::new(calls, false, self.options.hardware || source.is_by_hardware())
    }

    /// Adds to the list of probes, and to that of their handlers. Returns the number of the first.
    fn book<L: Locate + Send + 'static>(
        &self,
        sources: Vec<L>,
        make: impl Fn(&L) -> Probe,
        host: Arc<dyn Host>,
    ) -> usize {
        let mut probes = self.probes.write().unwrap_or_else(PoisonError::into_inner);
        let first = probes.add(sources, make, host);
        self.version.fetch_add(1, Ordering::Release);
        first
    }

    /// Takes the last probe back, which has been removed.
    pub(crate) fn take_back(&self) {
        self.probes.write().unwrap_or_else(PoisonError::into_inner).pop();
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Counts calls that will never return.
    pub(crate) fn count_dropped(&self, frames: Vec<Frame>) {
        for frame in frames.into_iter().filter(|frame| !frame.copied) {
            let probe = self.probe(ProbeId(frame.probe));
            let probe = probe.as_ref().and_then(Held::get);
            if let Some(calls) = probe.and_then(|(probe, _)| probe.calls()) {
                Tally::count(&calls.tally.dropped);
            }
        }
    }

    /// Who hears of events from now on.
    pub(crate) fn observe(&self, observer: Observer) {
        *lock(&self.observer) = Some(observer);
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = &mut *lock(&self.observer) {
            observer(event);
        }
    }

    /// Tells what the kernel has refused.
    pub(crate) fn tell_failures(&self, failures: Option<Vec<Failure>>) {
        // Asked after each stop.
        let Some(failures) = failures else { return };
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
