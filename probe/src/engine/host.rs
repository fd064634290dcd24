//! Who is told of hits and events, and what can be asked for in return.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::watch::{Armed, Ending, RunsOn, Wanted};
use crate::symbols::locate::Locate;
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
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Remove(id) => f.debug_tuple("Remove").field(id).finish(),
            Request::Add(..) => f.debug_tuple("Add").finish_non_exhaustive(),
            Request::Watch(wanted) => f.debug_tuple("Watch").field(wanted).finish(),
            Request::RunsOn(runs_on) => f.debug_tuple("RunsOn").field(runs_on).finish(),
            Request::EndWatch(armed, _) => f.debug_tuple("EndWatch").field(armed).finish_non_exhaustive(),
        }
    }
}

/// A host of closures: a handler for each probe, and an observer.
#[derive(Default)]
pub(crate) struct Closures {
    /// By probe.
    handlers: RwLock<Vec<Arc<Handlers>>>,
    observer: Mutex<Option<Observer>>,
}

impl Closures {
    /// Takes up the handlers of the next probe.
    pub(crate) fn add(&self, handlers: Handlers) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Arc::new(handlers));
    }

    /// The next probe has the handlers of that one, of which it is a part.
    pub(crate) fn add_part(&self, whole: ProbeId) {
        let mut handlers = self.handlers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(handler) = handlers.get(whole.index()).cloned() {
            handlers.push(handler);
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
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let of_probe = handlers.get(hit.probe().index()).cloned();
        // They may take their time.
        drop(handlers);
        let of_probe = of_probe?;
        let handler = if hit.is_return() { of_probe.on_return.as_ref()? } else { &of_probe.at };
        handler.call(hit)
    }

    fn event(&self, event: &Event<'_>) {
        if let Some(observer) = &mut *lock(&self.observer) {
            observer(event);
        }
    }
}
