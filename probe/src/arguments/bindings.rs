//! What the arguments of a probe come to at each of its sites.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::arguments::{
    Binding, Names, NoNames, ObjectNames, ProbeNames, ReturnNames, SyntaxError, Template,
};
use crate::symbols::locate::{Counter, Locate, LocateError, Site};
use crate::symbols::resolve::{Objects, Resolver};
use crate::symbols::spec::{PlaceSpec, ProbeSpec};
use crate::target::maps::Maps;
use crate::target::procfs;

/// Where a thread is at a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) pid: i32,
    pub(crate) address: u64,
    /// The function that has just returned, if one has.
    pub(crate) function: Option<u64>,
}

/// A binding, and whether the client has been told of it.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its number among those of the probe.
    pub(crate) number: u32,
    pub(crate) binding: Binding,
    pub(crate) told: OnceLock<()>,
}

/// Those of a probe.
#[derive(Debug)]
pub(crate) struct Bindings {
    template: Template,
    /// The probe.
    spec: ProbeSpec,
    objects: Arc<Objects>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Each once.
    all: Vec<Arc<Bound>>,
    /// By place. A child that was forked has its parent's text, and what it comes to is looked up at its
    /// first hit.
    sites: HashMap<Place, Arc<Bound>>,
    /// The one of all sites.
    only: Option<Arc<Bound>>,
}

impl Bindings {
    pub(crate) fn new(template: Template, spec: ProbeSpec, objects: Arc<Objects>) -> Bindings {
        let bindings = Bindings { template, spec, objects, known: RwLock::default() };
        // At each site of one of USDT, its arguments are elsewhere, and functions have results of their own.
        let is_event = matches!(bindings.spec.place, PlaceSpec::UprobeEvent(_));
        if !matches!(bindings.spec.place, PlaceSpec::Usdt { .. })
            && (is_event || !bindings.spec.on_return)
            && bindings.template.is_closed()
            && let Ok(binding) = bindings.template.bind(&NoNames)
        {
            let mut known = bindings.known.write().unwrap_or_else(PoisonError::into_inner);
            known.only = Some(known.enter(binding));
            drop(known);
        }
        bindings
    }

    /// What it comes to at a hit; `None` if that cannot be known any more.
    pub(crate) fn at(&self, place: Place) -> Option<Arc<Bound>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = known.only.as_ref().or_else(|| known.sites.get(&place)) {
            return Some(Arc::clone(bound));
        }
        drop(known);
        let maps = Maps::read(place.pid).ok()?;
        let names = ObjectNames::at(&self.objects, &maps, place.address).ok()?;
        match place.function {
            None => self.bind(place, &ProbeNames::new(&self.spec, names)).ok(),
            Some(function) => {
                let function = ObjectNames::at(&self.objects, &maps, function).ok()?;
                self.bind(place, &ReturnNames::new(names, function)).ok()
            }
        }
    }

    /// Forgets what is known of a process, which executes another program.
    pub(crate) fn forget(&self, pid: i32) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.sites.retain(|place, _| place.pid != pid);
    }

    fn bind(&self, place: Place, names: &dyn Names) -> Result<Arc<Bound>, SyntaxError> {
        let binding = self.template.bind(names)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let bound = known.enter(binding);
        known.sites.insert(place, Arc::clone(&bound));
        Ok(bound)
    }

    /// Binds what is not the same everywhere at the sites of a probe.
    fn bind_all(&self, resolver: &Resolver, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        // Where calls return to is not known yet.
        if resolver.is_on_return() || self.known.read().unwrap_or_else(PoisonError::into_inner).only.is_some()
        {
            return resolver.locate(maps);
        }
        let pid = procfs::process_of(maps.pid()).unwrap_or(maps.pid());
        let bound = resolver.find(maps, |site, elf, address| {
            let place = Place { pid, address: site.address, function: None };
            self.bind(place, &ProbeNames::new(&self.spec, ObjectNames::new(elf, address))).map(|_| site)
        })?;
        let bound: Result<Vec<Site>, SyntaxError> = bound.into_iter().collect();
        bound.map_err(|error| LocateError::Unresolvable(Box::new(error)))
    }
}

impl Known {
    fn enter(&mut self, binding: Binding) -> Arc<Bound> {
        if let Some(known) = self.all.iter().find(|known| known.binding == binding) {
            return Arc::clone(known);
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let bound = Arc::new(Bound { number, binding, told: OnceLock::new() });
        self.all.push(Arc::clone(&bound));
        bound
    }
}

/// A probe that is located together with its arguments.
#[derive(Debug)]
pub(crate) struct WithBindings {
    pub(crate) resolver: Resolver,
    pub(crate) bindings: Arc<Bindings>,
}

impl Locate for WithBindings {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        self.bindings.bind_all(&self.resolver, maps)
    }

    fn counters(&self, maps: &Maps) -> Vec<Counter> {
        self.resolver.counters(maps)
    }

    fn is_on_return(&self) -> bool {
        self.resolver.is_on_return()
    }

    fn parts(&self, maps: &Maps) -> Result<Option<Arc<[String]>>, LocateError> {
        self.resolver.parts(maps)
    }

    fn part(&self, name: &str) -> Option<Box<dyn Locate + Send>> {
        let resolver = self.resolver.part_called(name)?;
        Some(Box::new(WithBindings { resolver, bindings: Arc::clone(&self.bindings) }))
    }
}
