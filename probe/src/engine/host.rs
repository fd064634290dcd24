//! Who is told of hits and events, and what can be asked for in return.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::probes::Runs;
use crate::engine::watch::{Armed, Ending, RunsOn, Wanted};
use crate::symbols::locate::{Locate, LocateError};
use crate::target::lock;

type Closure = Box<dyn FnMut(&mut Hit<'_>) -> Action + Send>;

/// What a probe calls at each hit.
pub(crate) enum Handler {
    /// By one thread at a time, and by none once it has asked for the probe to be removed.
    Alone(Mutex<Alone>),
    /// By any number of threads at once.
    Together(Box<dyn Fn(&mut Hit<'_>) -> Action + Send + Sync>),
}

/// A closure, and the indices of the probes that it wants no more hits of: the parts of one have it in common.
pub(crate) struct Alone {
    closure: Closure,
    gone: BTreeSet<usize>,
}

impl Handler {
    pub(crate) fn alone(handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static) -> Handler {
        Handler::Alone(Mutex::new(Alone { closure: Box::new(handler), gone: BTreeSet::new() }))
    }

    fn call(&self, hit: &mut Hit<'_>) -> Option<Action> {
        match self {
            Handler::Alone(handler) => {
                let Alone { closure, gone } = &mut *lock(handler);
                let probe = hit.probe().index();
                if gone.contains(&probe) {
                    return None;
                }
                let action = closure(hit);
                if action == Action::Remove {
                    gone.insert(probe);
                }
                Some(action)
            }
            Handler::Together(handler) => Some(handler(hit)),
        }
    }
}

/// What a probe calls.
pub(crate) struct Handlers {
    /// At each hit of its sites.
    pub(crate) at: Handler,
    /// When a call returns that has come by one, if calls are followed.
    pub(crate) on_return: Option<Box<Handler>>,
}

impl From<Handler> for Handlers {
    fn from(at: Handler) -> Handlers {
        Handlers { at, on_return: None }
    }
}

/// The handlers of probes that were made together.
trait Handling: Send + Sync {
    /// Calls that of the one with that index. `None` where it wants no more hits.
    fn call(&self, index: usize, hit: &mut Hit<'_>) -> Option<Action>;
}

/// Of one probe, or of it and its parts.
impl Handling for Handlers {
    fn call(&self, _index: usize, hit: &mut Hit<'_>) -> Option<Action> {
        let handler = if hit.is_return() { self.on_return.as_ref()? } else { &self.at };
        handler.call(hit)
    }
}

/// One for each, with whether it wants no more hits.
struct Each<H>(Box<[Mutex<(H, bool)>]>);

impl<H: FnMut(&mut Hit<'_>) -> Action + Send> Handling for Each<H> {
    fn call(&self, index: usize, hit: &mut Hit<'_>) -> Option<Action> {
        let (handler, gone) = &mut *lock(self.0.get(index)?);
        if *gone {
            return None;
        }
        let action = handler(hit);
        *gone = action == Action::Remove;
        Some(action)
    }
}

/// Those of a part of such a probe.
struct Part {
    handlers: Arc<dyn Handling>,
    /// That of the whole.
    index: usize,
}

impl Handling for Part {
    fn call(&self, _index: usize, hit: &mut Hit<'_>) -> Option<Action> {
        self.handlers.call(self.index, hit)
    }
}

/// What hears of events.
pub(crate) type Observer = Box<dyn FnMut(&Event<'_>) + Send>;

/// The engine's host: it decides at hits, and hears of events.
pub(crate) trait Host {
    /// A thread has reached a probe. `None` where that is one whose handler wants no more hits.
    fn hit(&self, hit: &mut Hit<'_>) -> Option<Action>;

    /// Something has happened to the target or to a probe.
    fn event(&self, event: &Event<'_>);
}

/// What a handler has asked for, to be done after the hit.
pub(crate) enum Request {
    /// A probe is to be removed.
    Remove(ProbeId),
    /// A probe is to be placed.
    Add(Box<dyn Locate + Send>, Handlers),
    /// Something is to be watched, in the thread's address space.
    Watch(Wanted),
    /// The thread runs on for a watch, which is to be told.
    RunsOn(RunsOn),
    /// Something is not to be watched any more.
    EndWatch(Arc<Armed>, Ending),
    /// What is wanted of hits at a place comes to nothing, which is to be told.
    Tell { probe: ProbeId, pid: i32, error: LocateError },
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Remove(id) => f.debug_tuple("Remove").field(id).finish(),
            Request::Add(..) => f.debug_tuple("Add").finish_non_exhaustive(),
            Request::Watch(wanted) => f.debug_tuple("Watch").field(wanted).finish(),
            Request::RunsOn(runs_on) => f.debug_tuple("RunsOn").field(runs_on).finish(),
            Request::EndWatch(armed, _) => f.debug_tuple("EndWatch").field(armed).finish_non_exhaustive(),
            Request::Tell { error, .. } => f.debug_tuple("Tell").field(error).finish(),
        }
    }
}

/// A host of closures: a handler for each probe, and an observer.
#[derive(Default)]
pub(crate) struct Closures {
    /// By probe.
    handlers: RwLock<Runs<Arc<dyn Handling>>>,
    observer: Mutex<Option<Observer>>,
}

impl Closures {
    fn push(&self, handlers: Arc<dyn Handling>, number: usize) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(handlers, number);
    }

    fn of(&self, probe: ProbeId) -> Option<(Arc<dyn Handling>, usize)> {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        handlers.get(probe.index()).map(|(handlers, index)| (Arc::clone(handlers), index))
    }

    /// Takes up the handlers of the next probe.
    pub(crate) fn add(&self, handlers: Handlers) {
        self.push(Arc::new(handlers), 1);
    }

    /// Takes up the handlers of the next probes, one for each.
    pub(crate) fn add_all<H>(&self, handlers: Vec<H>)
    where
        H: FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    {
        let each: Box<[_]> = handlers.into_iter().map(|handler| Mutex::new((handler, false))).collect();
        let number = each.len();
        self.push(Arc::new(Each(each)), number);
    }

    /// The next probe has the handlers of that one, of which it is a part.
    pub(crate) fn add_part(&self, whole: ProbeId) {
        if let Some((handlers, index)) = self.of(whole) {
            let handlers = if index == 0 { handlers } else { Arc::new(Part { handlers, index }) };
            self.push(handlers, 1);
        }
    }

    /// Forgets the handlers of the last probe.
    pub(crate) fn remove_last(&self) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).pop();
    }

    pub(crate) fn observe(&self, observer: Observer) {
        *lock(&self.observer) = Some(observer);
    }
}

impl Host for Closures {
    fn hit(&self, hit: &mut Hit<'_>) -> Option<Action> {
        // They may take their time, and the list is not to be locked meanwhile.
        let (handlers, index) = self.of(hit.probe())?;
        handlers.call(index, hit)
    }

    fn event(&self, event: &Event<'_>) {
        if let Some(observer) = &mut *lock(&self.observer) {
            observer(event);
        }
    }
}
