//! What is to be watched, and what is.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde::{Deserialize, Serialize};

use crate::arguments::bindings::{Bindings, Bound, Place};
use crate::arguments::{SyntaxError, Template};
use crate::engine::hit::Action;
use crate::engine::watch::armed::Armed;
use crate::engine::watch::{Change, Ending, WatchReport};
use crate::executor::hardware::{HardwareRefusal, REGISTERS};
use crate::executor::ptrace::threads::SpaceId;
use crate::language::Register;
use crate::stacks::Unwinder;
use crate::symbols::resolve::Objects;
use crate::symbols::spec::{PlaceSpec, ProbeSpec};
use crate::target::lock;
use crate::target::untold::Untold;

/// Names a watch of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WatchId(pub(crate) u32);

impl WatchId {
    /// Its number: 0 for the first watch of the session, 1 for the next.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// For how long something is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Until {
    /// As long as its process lives, or the session.
    #[default]
    End,
    /// Until the function returns in which the hit was. For watches that begin at hits.
    Return,
    /// For so many changes.
    Changes(u64),
    /// Until the expression is not 0 after a change.
    Condition(String),
}

/// How something is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum How {
    /// By debug registers, if four are enough; otherwise, if it begins at hits, by running on.
    #[default]
    Either,
    /// By debug registers.
    Hardware,
    /// By running on: from the hit on, the thread's instructions are emulated one after the other. It is exact, of
    /// whatever size, and slow; what others write is not seen.
    RunOn,
}

/// What is to be watched.
///
/// Any expression of memory will do, such as `counter`, `list.head->next`, `a + b` or `*(int *)0x404040`: it is computed
/// anew whenever a byte is written that it was computed from, also where that leads it to other memory.
///
/// ```
/// use probe::watch::{Until, Watch};
///
/// let watch = Watch::new("list->length")?.until(Until::Changes(3));
/// assert_eq!(watch.expression(), "list->length");
/// assert!(Watch::new("list->").is_err());
/// # Ok::<(), probe::arguments::SyntaxError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    expression: String,
    template: Template,
    object: Option<String>,
    pub(crate) at_hits: bool,
    pub(crate) until: Until,
    how: How,
}

impl Watch {
    /// The value of an expression, as probes take them ([`Template`]). Where it begins with an object and a colon, as in
    /// `libfoo.so:counter`, its names are that object's; otherwise they are the main program's.
    ///
    /// # Errors
    /// The text is no expression.
    pub fn new(expression: &str) -> Result<Watch, SyntaxError> {
        let (object, text) = split_object(expression);
        let shifted = |error: SyntaxError| SyntaxError {
            column: error.column + expression.len() - text.len(),
            text: expression.to_owned(),
            ..error
        };
        let template = Template::new().with_argument(Some(text), text).map_err(shifted)?;
        Ok(Watch {
            expression: expression.to_owned(),
            template,
            // It may be looked up in another process, with another directory.
            object: object.map(|object| match object.contains('/') {
                true => std::path::absolute(object)
                    .map_or_else(|_| object.to_owned(), |path| path.to_string_lossy().into_owned()),
                false => object.to_owned(),
            }),
            at_hits: false,
            until: Until::End,
            how: How::Either,
        })
    }

    /// The same, to be watched when [`Hit::watch`](crate::Hit::watch) says so, with what names and registers mean at that
    /// hit; otherwise it is watched from the start, in each process.
    #[must_use]
    pub fn at_hits(self) -> Watch {
        Watch { at_hits: true, ..self }
    }

    /// For how long. A condition that is no expression is refused with the watch.
    #[must_use]
    pub fn until(self, until: Until) -> Watch {
        Watch { until, ..self }
    }

    /// How.
    #[must_use]
    pub fn how(self, how: How) -> Watch {
        Watch { how, ..self }
    }

    /// The expression as it was written.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }
}

/// `OBJECT:EXPRESSION`, which no expression is by itself.
fn split_object(text: &str) -> (Option<&str>, &str) {
    let is_plain = |object: &str| {
        !object.is_empty()
            && object.chars().all(|letter| letter.is_alphanumeric() || "/._-+@~,".contains(letter))
            && !object.starts_with(|letter: char| letter.is_ascii_digit())
    };
    match text.split_once(':') {
        Some((object, rest)) if is_plain(object) && !rest.starts_with(':') && !rest.is_empty() => {
            (Some(object), rest)
        }
        _ => (None, text),
    }
}

/// Why something cannot be watched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchRefusal {
    /// It is in a register here, of whose changes debug registers do not tell.
    InRegister,
    /// The compiler keeps it nowhere.
    OptimizedOut,
    /// It is not computed from memory.
    NoMemory,
    /// Its place depends on a register, so that only a hit can tell which it is.
    NeedsHit(Register),
    /// It is computed from more bytes than four debug registers can guard.
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// There is no debug register for it.
    Hardware(HardwareRefusal),
    /// Its names mean nothing there.
    Unresolvable(String),
    /// The function's caller cannot be found, so that its return would not be seen.
    NoCaller,
    /// It begins at no hit, so that there is no function that could return.
    NoFunction,
    /// It begins at no hit, so that there is no thread to run on.
    NoThread,
    /// There is no such watch.
    NoWatch,
    /// What is mapped cannot be read.
    Maps(String),
}

impl fmt::Display for WatchRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchRefusal::InRegister => f.write_str(
                "it is in a register here, which debug registers do not guard; watch it where it is in memory",
            ),
            WatchRefusal::OptimizedOut => f.write_str("the compiler keeps it nowhere here"),
            WatchRefusal::NoMemory => f.write_str("it is not computed from memory, so nobody can write to it"),
            WatchRefusal::NeedsHit(Register::FsBase) => {
                f.write_str("each thread has one of its own; say by a probe which is meant")
            }
            WatchRefusal::NeedsHit(register) => {
                let register = format!("{register:?}").to_lowercase();
                write!(f, "it depends on %{register}; say by a probe where that is meant")
            }
            WatchRefusal::TooLarge { bytes } => write!(
                f,
                "it is computed from {bytes} bytes of memory; {REGISTERS} debug registers guard 8 bytes each, aligned"
            ),
            WatchRefusal::Hardware(refusal) => refusal.fmt(f),
            WatchRefusal::Unresolvable(why) => f.write_str(why),
            WatchRefusal::NoCaller => f.write_str("nothing tells where the function returns to"),
            WatchRefusal::NoFunction => {
                f.write_str("it is to end when a function returns; say by a probe which function that is")
            }
            WatchRefusal::NoThread => {
                f.write_str("by running on, it is watched in one thread from a hit on; say by a probe which that is")
            }
            WatchRefusal::NoWatch => f.write_str("there is no such watch"),
            WatchRefusal::Maps(why) => write!(f, "the target's memory map cannot be read: {why}"),
        }
    }
}

impl std::error::Error for WatchRefusal {}

pub(crate) type Handler = Box<dyn Fn(&mut Change<'_, '_>) -> Action + Send + Sync>;

/// A watch of a session.
pub(crate) struct Watched {
    pub(crate) id: WatchId,
    pub(crate) bindings: Bindings,
    pub(crate) object: Option<String>,
    pub(crate) at_hits: bool,
    pub(crate) until: Until,
    pub(crate) how: How,
    pub(crate) handler: Handler,
    pub(crate) report: Mutex<WatchReport>,
    /// Whether it is to begin nowhere any more.
    pub(crate) over: AtomicBool,
}

impl Watched {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// What its names come to at a place.
    pub(crate) fn bind(&self, place: &Place) -> Result<Arc<Bound>, WatchRefusal> {
        let mut why = None;
        let bound = self.bindings.at_place(place, &mut |error| why = Some(error.to_string()));
        if let Some(missing) = bound.as_ref().and_then(|bound| bound.binding.missing()) {
            return Err(WatchRefusal::Unresolvable(missing.to_owned()));
        }
        bound.ok_or_else(|| {
            let known = || "what it is computed from is not known here".to_owned();
            WatchRefusal::Unresolvable(why.unwrap_or_else(known))
        })
    }
}

/// All watches of a session, and what is watched for them.
pub(crate) struct Watches {
    all: RwLock<Vec<Arc<Watched>>>,
    armed: Mutex<Vec<Arc<Armed>>>,
    /// Whether anything is watched, looked at for each hit.
    any: AtomicBool,
    exist: AtomicBool,
    pub(crate) unwinder: Unwinder,
    /// Where functions return to that are watched until then.
    pub(crate) returns: Mutex<Vec<u64>>,
    /// What threads that run on have come to, and has not been told.
    pub(crate) ended: Untold<Ended>,
}

/// A thread does not run on for a watch any more.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) watch: WatchId,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) ending: Ending,
    /// What the handler has asked for.
    pub(crate) action: Option<Action>,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            all: RwLock::default(),
            armed: Mutex::default(),
            any: AtomicBool::new(false),
            exist: AtomicBool::new(false),
            unwinder: Unwinder::new(Arc::<Objects>::default()),
            returns: Mutex::default(),
            ended: Untold::default(),
        }
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("any", &self.any).finish_non_exhaustive()
    }
}

impl Watches {
    /// Books a watch, which begins nowhere so far.
    pub(crate) fn enter(
        &self,
        watch: Watch,
        objects: Arc<Objects>,
        handler: Handler,
    ) -> Result<Arc<Watched>, WatchRefusal> {
        if watch.until == Until::Return && !watch.at_hits {
            return Err(WatchRefusal::NoFunction);
        }
        if watch.how == How::RunOn && !watch.at_hits {
            return Err(WatchRefusal::NoThread);
        }
        let mut template = watch.template;
        if let Until::Condition(condition) = &watch.until {
            template = template
                .with_condition(condition)
                .map_err(|error| WatchRefusal::Unresolvable(error.to_string()))?;
        }
        // Names mean what they mean where the watch begins, wherever that is.
        let anywhere = ProbeSpec::at(PlaceSpec::Address(0));
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        let watched = Arc::new(Watched {
            id: WatchId(u32::try_from(all.len()).unwrap_or(u32::MAX)),
            bindings: Bindings::new(template, anywhere, objects),
            object: watch.object,
            at_hits: watch.at_hits,
            until: watch.until,
            how: watch.how,
            handler,
            report: Mutex::new(WatchReport { sees_kernel: true, ..WatchReport::default() }),
            over: AtomicBool::new(false),
        });
        all.push(Arc::clone(&watched));
        self.exist.store(true, Ordering::SeqCst);
        Ok(watched)
    }

    pub(crate) fn get(&self, id: WatchId) -> Option<Arc<Watched>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(id.index()).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Watched>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A thread does not run on any more.
    pub(crate) fn has_ended(&self, ended: Ended) {
        self.ended.change(|all| all.push(ended));
    }

    /// Whether there are watches.
    pub(crate) fn exist(&self) -> bool {
        self.exist.load(Ordering::SeqCst)
    }

    /// Whether anything is watched.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::SeqCst)
    }

    pub(crate) fn add(&self, armed: Arc<Armed>) {
        let mut all = lock(&self.armed);
        all.push(armed);
        self.any.store(true, Ordering::SeqCst);
    }

    /// Forgets something that is watched. Says whether it was known.
    pub(crate) fn remove(&self, armed: &Arc<Armed>) -> bool {
        let mut all = lock(&self.armed);
        let before = all.len();
        all.retain(|other| !Arc::ptr_eq(other, armed));
        self.any.store(!all.is_empty(), Ordering::SeqCst);
        all.len() < before
    }

    /// What is watched in an address space.
    pub(crate) fn in_space(&self, space: SpaceId) -> Vec<Arc<Armed>> {
        lock(&self.armed).iter().filter(|armed| armed.space == space).cloned().collect()
    }

    /// What is watched until a function of that thread returns.
    pub(crate) fn of_thread(&self, pid: i32, tid: i32) -> Vec<Arc<Armed>> {
        let is_wanted = |armed: &&Arc<Armed>| {
            armed.pid == pid && armed.frame.as_ref().is_some_and(|frame| frame.tid == tid)
        };
        lock(&self.armed).iter().filter(is_wanted).cloned().collect()
    }

    /// What is watched for a watch.
    pub(crate) fn of(&self, id: WatchId) -> Vec<Arc<Armed>> {
        lock(&self.armed).iter().filter(|armed| armed.watched.id == id).cloned().collect()
    }

    /// An address space is gone.
    pub(crate) fn forget_space(&self, space: SpaceId) {
        let mut all = lock(&self.armed);
        all.retain(|armed| armed.space != space);
        self.any.store(!all.is_empty(), Ordering::SeqCst);
    }

    /// All address spaces are left.
    pub(crate) fn clear(&self) {
        lock(&self.armed).clear();
        self.any.store(false, Ordering::SeqCst);
        lock(&self.returns).clear();
    }

    /// Process `pid` executes another program.
    pub(crate) fn forget_process(&self, pid: i32) {
        self.unwinder.forget(pid);
        self.all().iter().for_each(|watched| watched.bindings.forget(pid));
    }

    /// What has become of each so far.
    pub(crate) fn reports(&self) -> Vec<WatchReport> {
        self.all().iter().map(|watched| lock(&watched.report).clone()).collect()
    }

    /// Whether there are watches, and none of them will tell anything any more.
    pub(crate) fn are_over(&self) -> bool {
        self.all().iter().all(|watched| watched.is_over() && self.of(watched.id).is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_stands_before_a_colon() {
        for (text, expected) in [
            ("counter", (None, "counter")),
            ("libfoo.so.6:counter", (Some("libfoo.so.6"), "counter")),
            ("./p:s->n", (Some("./p"), "s->n")),
            ("a::b", (None, "a::b")),
            ("x ? a : b", (None, "x ? a : b")),
            ("*(int *)0x10", (None, "*(int *)0x10")),
        ] {
            assert_eq!(split_object(text), expected, "{text}");
        }
        assert_eq!(Watch::new("libfoo.so:a +").unwrap_err().column, 13);
    }
}
