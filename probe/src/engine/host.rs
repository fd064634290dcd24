//! Who is told of hits and events, and what can be asked for in return.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex};

use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
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
    /// Whether they never take long.
    pub(crate) are_brief: bool,
}

impl From<Handler> for Handlers {
    fn from(at: Handler) -> Handlers {
        Handlers { at, on_return: None, are_brief: false }
    }
}

impl Handlers {
    /// One that never takes long.
    pub(crate) fn brief(at: Handler) -> Handlers {
        Handlers { at, on_return: None, are_brief: true }
    }
}

/// The host of probes that were made together: it decides at their hits.
pub(crate) trait Host: Send + Sync {
    /// A thread has reached the one with that index. `None` where that wants no more hits.
    fn hit(&self, index: usize, hit: &mut Hit<'_>) -> Option<Action>;

    /// Whether it never takes long to decide.
    fn is_brief(&self) -> bool {
        false
    }
}

/// Of one probe, or of it and its parts.
impl Host for Handlers {
    fn hit(&self, _index: usize, hit: &mut Hit<'_>) -> Option<Action> {
        let handler = if hit.is_return() { self.on_return.as_ref()? } else { &self.at };
        handler.call(hit)
    }

    fn is_brief(&self) -> bool {
        self.are_brief
    }
}

/// One for each, with whether it wants no more hits.
struct Each<H>(Box<[Mutex<(H, bool)>]>);

impl<H: FnMut(&mut Hit<'_>) -> Action + Send> Host for Each<H> {
    fn hit(&self, index: usize, hit: &mut Hit<'_>) -> Option<Action> {
        let (handler, gone) = &mut *lock(self.0.get(index)?);
        if *gone {
            return None;
        }
        let action = handler(hit);
        *gone = action == Action::Remove;
        Some(action)
    }
}

/// That of several probes, one handler for each.
pub(crate) fn of_each<H>(handlers: Vec<H>) -> Arc<dyn Host>
where
    H: FnMut(&mut Hit<'_>) -> Action + Send + 'static,
{
    Arc::new(Each(handlers.into_iter().map(|handler| Mutex::new((handler, false))).collect()))
}

/// That of a part of a probe among several.
struct Part {
    host: Arc<dyn Host>,
    /// That of the whole.
    index: usize,
}

impl Host for Part {
    fn hit(&self, _index: usize, hit: &mut Hit<'_>) -> Option<Action> {
        self.host.hit(self.index, hit)
    }

    fn is_brief(&self) -> bool {
        self.host.is_brief()
    }
}

/// That of a part of the probe with that index.
pub(crate) fn of_part(host: Arc<dyn Host>, index: usize) -> Arc<dyn Host> {
    if index == 0 { host } else { Arc::new(Part { host, index }) }
}

/// What hears of events.
pub(crate) type Observer = Box<dyn FnMut(&Event<'_>) + Send>;

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
