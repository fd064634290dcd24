//! Probes that a client asks for: those of one request are placed together.

use std::sync::{Arc, Mutex, Weak};

use crate::arguments::bindings::{Bindings, WithBindings};
use crate::engine::hit::{Hit, ProbeId};
use crate::engine::host::{Handler, Handlers};
use crate::engine::session::Session;
use crate::error::ProbeError;
use crate::symbols::locate::{Address, Locate};
use crate::symbols::resolve::{Objects, Resolver};
use crate::symbols::spec::{PlaceSpec, ProbeSpec};
use crate::target::lock;
use crate::warden::message::{Reply, SentPlace, SentPlaced, SentProbe};
use crate::warden::news::SentReport;
use crate::warden::program::{Program, Step};
use crate::warden::run::{Common, Runner};

/// What the probes of a client have in common.
pub(super) struct Placing<'a> {
    pub(super) common: &'a Arc<Common>,
    pub(super) objects: &'a Arc<Objects>,
    /// Of all probes with arguments.
    pub(super) bindings: &'a Mutex<Vec<Weak<Bindings>>>,
}

/// Where a probe goes, and what is done at its hits.
type Ready = (Box<dyn Locate + Send>, Handlers);

/// What became of a probe.
pub(super) fn became(session: &Session, placed: Result<ProbeId, ProbeError>) -> SentPlaced {
    let id = placed.map_err(|error| error.to_string())?;
    let report = session.report(id).map(|report| SentReport::new(&report, [0; 3]));
    match (u32::try_from(id.index()), report) {
        (Ok(probe), Some(report)) => Ok((probe, report)),
        _ => Err("there are too many probes".to_owned()),
    }
}

/// A program, and what its arguments come to where there are some.
type Bound = (Option<Arc<Bindings>>, Program);

impl Placing<'_> {
    /// Places the probes, and answers what became of each.
    pub(super) fn place_all(&self, session: &mut Session, probes: Vec<SentProbe>) -> Reply {
        let (mut ready, mut refused) = (Vec::new(), Vec::new());
        for probe in probes {
            refused.push(self.ready(probe).map(|probe| ready.push(probe)));
        }
        let mut placed = match session.place_all(ready) {
            Ok(placed) => placed.into_iter(),
            Err(error) => {
                let all = refused.into_iter().map(|refused| refused.and_then(|()| Err(error.to_string())));
                return Reply::Placed(all.collect());
            }
        };
        let mut next = || match placed.next() {
            Some(placed) => became(session, placed),
            None => Err("there are too many probes".to_owned()),
        };
        Reply::Placed(refused.into_iter().map(|refused| refused.and_then(|()| next())).collect())
    }

    /// What it takes to place a probe, which follows calls if there is a program for their returns.
    fn ready(&self, SentProbe { place, at, on_return }: SentProbe) -> Result<Ready, String> {
        if !at.is_valid() || on_return.as_ref().is_some_and(|program| !program.is_valid()) {
            return Err("the program of the probe is not valid".to_owned());
        }
        let (spec, base, is_address) = match place {
            SentPlace::Address(address) => (ProbeSpec::at(PlaceSpec::Address(address)), None, Some(address)),
            SentPlace::Spec { spec, base } => {
                let spec: ProbeSpec = spec.parse().map_err(|error| format!("{error}"))?;
                let spec = ProbeSpec { on_return: spec.on_return || on_return.is_some(), ..spec };
                (spec, Some(base.into_path()), None)
            }
        };
        let at_entry = (self.bindings(&at, &spec), at);
        let on_return = on_return.map(|program| (self.bindings(&program, &spec), program));
        // An address is what it is, however it is written.
        if let (Some(address), None) = (is_address, &at_entry.0) {
            return Ok((Box::new(Address(address)), self.handlers(at_entry, on_return)));
        }
        let resolver = Resolver::new(spec, Arc::clone(self.objects));
        let resolver = match base {
            Some(base) => resolver.relative_to(base),
            None => resolver,
        };
        let source: Box<dyn Locate + Send> = match &at_entry.0 {
            None => Box::new(resolver),
            Some(bindings) => Box::new(WithBindings { resolver, bindings: Arc::clone(bindings) }),
        };
        Ok((source, self.handlers(at_entry, on_return)))
    }

    /// What the arguments of a program come to, if it has some.
    fn bindings(&self, program: &Program, spec: &ProbeSpec) -> Option<Arc<Bindings>> {
        let (template, objects) = (program.get_template()?.clone(), Arc::clone(self.objects));
        let bindings = Arc::new(Bindings::new(template, spec.clone(), objects));
        lock(self.bindings).push(Arc::downgrade(&bindings));
        Some(bindings)
    }

    fn handlers(&self, at_entry: Bound, on_return: Option<Bound>) -> Handlers {
        // Only the client may take its time.
        let asks = |(_, program): &Bound| program.steps().iter().any(|step| matches!(step, Step::Ask));
        let are_brief = !asks(&at_entry) && !on_return.as_ref().is_some_and(asks);
        let histograms = at_entry.1.steps().iter().filter(|step| matches!(step, Step::Histogram(_))).count();
        let runner = |(bindings, program): Bound, first| {
            Runner::new(program, bindings, Arc::clone(self.common), first)
        };
        let entry = runner(at_entry, 0);
        match on_return.map(|on_return| runner(on_return, histograms)) {
            None => Handlers {
                at: Handler::Together(Box::new(move |hit: &mut Hit<'_>| entry.hit(hit))),
                on_return: None,
                are_brief,
            },
            Some(on_return) => Handlers {
                at: Handler::Together(Box::new(move |hit: &mut Hit<'_>| entry.entry(hit))),
                on_return: Some(Box::new(Handler::Together(Box::new(move |hit: &mut Hit<'_>| {
                    on_return.hit(hit)
                })))),
                are_brief,
            },
        }
    }
}
