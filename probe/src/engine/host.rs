//! Who is told of hits and events, and what can be asked for in return.

use std::fmt;

use crate::engine::event::Event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::symbols::locate::Locate;

/// What a probe calls at each hit.
pub(crate) type Handler = Box<dyn FnMut(&mut Hit<'_>) -> Action + Send>;
/// What hears of events.
pub(crate) type Observer = Box<dyn FnMut(&Event<'_>) + Send>;

/// The engine's host: it decides at hits, and hears of events.
pub(crate) trait Host {
    /// A thread has reached a probe.
    fn hit(&mut self, hit: &mut Hit<'_>) -> Action;

    /// Something has happened to the target or to a probe.
    fn event(&mut self, event: &Event<'_>);
}

/// What a handler has asked for, to be done after the hit.
pub(crate) enum Request {
    /// A probe is to be removed.
    Remove(ProbeId),
    /// A probe is to be placed.
    Add(Box<dyn Locate>, Handler),
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Remove(id) => f.debug_tuple("Remove").field(id).finish(),
            Request::Add(..) => f.debug_tuple("Add").finish_non_exhaustive(),
        }
    }
}

/// A host of closures: a handler for each probe, and an observer.
#[derive(Default)]
pub(crate) struct Closures {
    /// By probe.
    pub(crate) handlers: Vec<Handler>,
    pub(crate) observer: Option<Observer>,
}

impl Host for Closures {
    fn hit(&mut self, hit: &mut Hit<'_>) -> Action {
        match self.handlers.get_mut(hit.probe().index()) {
            Some(handler) => handler(hit),
            None => Action::Continue,
        }
    }

    fn event(&mut self, event: &Event<'_>) {
        if let Some(observer) = &mut self.observer {
            observer(event);
        }
    }
}
