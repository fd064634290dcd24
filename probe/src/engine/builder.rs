//! Probes as users write them, with arguments and conditions, for sessions.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use crate::arguments::bindings::{Bindings, WithBindings};
use crate::arguments::pick::Picker;
use crate::arguments::{Binding, Injected, Injection, Pick, SyntaxError, Template, Values};
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::inject::Injector;
use crate::engine::session::{RunEnd, Session};
use crate::error::ProbeError;
use crate::symbols::resolve::{Objects, Resolver};
use crate::symbols::spec::{PlaceSpec, ProbeSpec, SpecError};
use crate::target::lock;

/// A probe with arguments and a condition: where, what, and when.
///
/// As text, it is what the command takes, `PROBE [NAME=FETCH…] [if EXPRESSION]`, such as
/// `libc.so.6:malloc size=%di:u64 if size > 4096`. A USDT probe without arguments has those that its author gave it,
/// `arg1`, `arg2` and so on.
///
/// ```
/// use std::process::Command;
///
/// use probe::{Action, ProbeBuilder, Session};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut session = Session::launch(Command::new("true"))?;
/// let start = session.entry().ok_or("it has ended already")?;
/// let count: ProbeBuilder = format!("{start:#x}").parse()?;
/// let count = count.argument("arguments", "+0(%sp):u64")?;
/// session.watch(&count, |_, values| {
///     println!("it has {} arguments", values.get("arguments").map_or(0, |value| value.as_u64().unwrap_or(0)));
///     Action::Continue
/// })?;
/// session.run();
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ProbeBuilder {
    spec: ProbeSpec,
    template: Template,
    pick: Pick,
    objects: Arc<Objects>,
}

/// Why a text is no probe with arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BuildError {
    /// It does not begin with a place.
    Place(SpecError),
    /// What stands behind that is neither an argument nor a condition.
    Syntax(SyntaxError),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Place(error) => error.fmt(f),
            BuildError::Syntax(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BuildError {}

impl FromStr for ProbeBuilder {
    type Err = BuildError;

    fn from_str(text: &str) -> Result<ProbeBuilder, BuildError> {
        let (spec, rest) = ProbeSpec::parse_with_rest(text).map_err(BuildError::Place)?;
        let within = |error: SyntaxError| {
            let column = error.column + rest.offset;
            BuildError::Syntax(SyntaxError { text: text.to_owned(), column, what: error.what })
        };
        let template = Template::behind(&spec, rest.text).map_err(within)?;
        Ok(ProbeBuilder { template, ..ProbeBuilder::new(spec) })
    }
}

impl ProbeBuilder {
    /// A probe without arguments or a condition.
    #[must_use]
    pub fn new(spec: ProbeSpec) -> ProbeBuilder {
        ProbeBuilder { spec, template: Template::new(), pick: Pick::new(), objects: Arc::default() }
    }

    /// The same with another argument, an expression or one of the kernel's.
    ///
    /// # Errors
    /// The text is none, or there is one of that name.
    pub fn argument(self, name: &str, text: &str) -> Result<ProbeBuilder, SyntaxError> {
        Ok(ProbeBuilder { template: self.template.with_argument(Some(name), text)?, ..self })
    }

    /// The same for hits only at which the expression is not 0, besides other conditions.
    ///
    /// # Errors
    /// The text is none.
    pub fn condition(self, text: &str) -> Result<ProbeBuilder, SyntaxError> {
        Ok(ProbeBuilder { template: self.template.with_condition(text)?, ..self })
    }

    /// The same with all parameters and local variables, by debug information.
    #[must_use]
    pub fn variables(self) -> ProbeBuilder {
        ProbeBuilder { template: self.template.with_variables(), ..self }
    }

    /// The same with what is done to a thread at a hit: see [`Session::inject`].
    #[must_use]
    pub fn injection(self, injection: Injection) -> ProbeBuilder {
        ProbeBuilder { template: self.template.with_injection(injection), ..self }
    }

    /// The same for those hits only, of the ones for which the condition holds.
    #[must_use]
    pub fn pick(self, pick: Pick) -> ProbeBuilder {
        ProbeBuilder { pick, ..self }
    }

    /// Where it goes.
    #[must_use]
    pub fn spec(&self) -> &ProbeSpec {
        &self.spec
    }

    fn source(&self) -> WithBindings {
        let resolver = Resolver::new(self.spec.clone(), Arc::clone(&self.objects));
        let mut template = self.template.clone();
        if matches!(self.spec.place, PlaceSpec::Usdt { .. }) && !template.has_arguments() {
            template = template.with_arguments_of_probe();
        }
        let bindings = Arc::new(Bindings::new(template, self.spec.clone(), Arc::clone(&self.objects)));
        WithBindings { resolver, bindings }
    }
}

/// A hit, or a return, with what was taken at it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// The probe.
    pub probe: ProbeId,
    /// The process.
    pub pid: i32,
    /// The thread.
    pub tid: i32,
    /// As [`Hit::time_ns`].
    pub time_ns: u64,
    /// The address of the instruction or, of a return, where the call returns to.
    pub ip: u64,
    /// As [`Hit::duration_ns`].
    pub duration_ns: Option<u64>,
    /// The arguments.
    pub values: Values,
}

/// Hits one after the other, as they come; see [`Session::events`].
///
/// When it is dropped, its probes are removed.
#[derive(Debug)]
pub struct Events<'a> {
    session: &'a mut Session,
    probes: Vec<ProbeId>,
    queue: Arc<Mutex<VecDeque<Observation>>>,
    over: bool,
}

impl Session {
    /// As [`Session::probe`], or [`Session::probe_calls`] where the place says `%return`, with a handler that gets the
    /// arguments. It is called where the condition holds; other hits are counted as filtered, and so are those where the
    /// arguments come to nothing, which is told by [`Event::Unresolvable`](crate::Event::Unresolvable) once for each place.
    ///
    /// # Errors
    /// Also a name that means nothing at the place, as [`ProbeError::Locate`].
    pub fn watch(
        &mut self,
        probe: &ProbeBuilder,
        mut handler: impl FnMut(&mut Hit<'_>, &Values) -> Action + Send + 'static,
    ) -> Result<ProbeId, ProbeError> {
        self.watch_bound(probe, move |hit, binding, _| {
            let values = Values::new(binding, hit);
            handler(hit, &values)
        })
    }

    /// Has the injection of a probe ([`ProbeBuilder::injection`]) take place at its hits, where the condition holds and
    /// which it picks. Other hits are counted as filtered. `tell` hears of each injection, also of one that failed: then
    /// nothing was done.
    ///
    /// ```no_run
    /// use std::process::Command;
    ///
    /// use probe::arguments::{Injection, Pick};
    /// use probe::{ProbeBuilder, Session};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// // The second allocation fails.
    /// let mut session = Session::launch(Command::new("ls"))?;
    /// let malloc: ProbeBuilder = "libc.so.6:malloc".parse()?;
    /// let malloc = malloc.injection(Injection::new().errno(12)).pick(Pick::new().nth(2));
    /// session.inject(&malloc, |hit, injected| eprintln!("{}: {injected:?}", hit.tid()))?;
    /// session.run();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::watch`]; also an injection that cannot be done at the place.
    pub fn inject(
        &mut self,
        probe: &ProbeBuilder,
        mut tell: impl FnMut(&mut Hit<'_>, &Injected) + Send + 'static,
    ) -> Result<ProbeId, ProbeError> {
        let injector = Injector::new(Arc::clone(&probe.objects));
        self.watch_bound(probe, move |hit, binding, number| {
            let (applied, action) = injector.inject(hit, binding, number);
            tell(hit, &binding.injected(&applied));
            action
        })
    }

    /// Has a handler called where the condition holds, of those hits that are picked, with their number.
    fn watch_bound(
        &mut self,
        probe: &ProbeBuilder,
        mut handler: impl FnMut(&mut Hit<'_>, &Binding, u64) -> Action + Send + 'static,
    ) -> Result<ProbeId, ProbeError> {
        let source = probe.source();
        let bindings = Arc::clone(&source.bindings);
        let (pick, picker) = (probe.pick, Picker::default());
        let mut observe = move |hit: &mut Hit<'_>| {
            let mut nothing = None;
            let bound = bindings.at(hit.place(), hit, &mut |error| nothing = Some(error));
            if let Some(error) = nothing {
                hit.tell_unresolvable(error);
            }
            let bound = bound.filter(|bound| bound.binding.holds(hit) == Ok(true));
            let number = bound.as_ref().and_then(|_| picker.take(pick, hit.serial()));
            match (bound, number) {
                (Some(bound), Some(number)) => handler(hit, &bound.binding, number),
                _ => {
                    hit.filter_out();
                    Action::Continue
                }
            }
        };
        match probe.spec.on_return {
            true => self.probe_calls(source, |_| Some(()), move |hit, _| observe(hit)),
            false => self.probe(source, observe),
        }
    }

    /// The hits of several probes, one after the other. The target runs while the next one is waited for, and after that
    /// until the session is asked for something else: threads wait for nobody to have seen their hits.
    ///
    /// ```no_run
    /// use probe::{ProbeBuilder, Session};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut session = Session::attach(1234)?;
    /// let malloc: ProbeBuilder = "libc.so.6:malloc size=%di:u64".parse()?;
    /// for event in session.events(&[malloc])?.take(10) {
    ///     println!("{} {}", event.tid, event.values);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Session::watch`]; then none of the probes is placed.
    pub fn events(&mut self, probes: &[ProbeBuilder]) -> Result<Events<'_>, ProbeError> {
        let queue: Arc<Mutex<VecDeque<Observation>>> = Arc::default();
        let mut events = Events { session: self, probes: Vec::new(), queue, over: false };
        for probe in probes {
            let (queue, stop) = (Arc::clone(&events.queue), events.session.stop_handle());
            let id = events.session.watch(probe, move |hit, values| {
                lock(&queue).push_back(Observation {
                    probe: hit.probe(),
                    pid: hit.pid(),
                    tid: hit.tid(),
                    time_ns: hit.time_ns(),
                    ip: hit.ip(),
                    duration_ns: hit.duration_ns(),
                    values: values.clone(),
                });
                stop.request();
                Action::Continue
            })?;
            events.probes.push(id);
        }
        Ok(events)
    }
}

impl Events<'_> {
    /// The probes, in the order in which they were given.
    #[must_use]
    pub fn probes(&self) -> &[ProbeId] {
        &self.probes
    }
}

impl Iterator for Events<'_> {
    type Item = Observation;

    fn next(&mut self) -> Option<Observation> {
        loop {
            if let Some(event) = lock(&self.queue).pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            self.over = !matches!(self.session.run(), RunEnd::StopRequested | RunEnd::Timeout);
        }
    }
}

impl Drop for Events<'_> {
    fn drop(&mut self) {
        for &probe in &self.probes {
            self.session.remove(probe);
        }
    }
}
