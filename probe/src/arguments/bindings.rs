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
    /// The one of all sites, where it is the same at each.
    only: Option<Arc<Bound>>,
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Each once.
    all: Vec<Arc<Bound>>,
    /// By place. A child that was forked has its parent's text, and what it comes to is looked up at its
    /// first hit.
    /// `None` where it comes to nothing, which has been told.
    sites: HashMap<Place, Option<Arc<Bound>>>,
}

impl Bindings {
    pub(crate) fn new(template: Template, spec: ProbeSpec, objects: Arc<Objects>) -> Bindings {
        let mut known = Known::default();
        // At each site of one of USDT, its arguments are elsewhere, and functions have results of their own.
        let is_event = matches!(spec.place, PlaceSpec::UprobeEvent(_));
        let differs = matches!(spec.place, PlaceSpec::Usdt { .. }) || spec.on_return && !is_event;
        let closed = template.is_closed() && !differs;
        let only = closed.then(|| template.bind(&NoNames).ok()).flatten();
        let only = only.map(|binding| known.enter(binding));
        Bindings { template, spec, objects, only, known: RwLock::new(known) }
    }

    /// What it comes to at a hit. `None` if it comes to nothing there: why, `tell` hears once.
    pub(crate) fn at(&self, place: Place, tell: impl FnOnce(&LocateError)) -> Option<Arc<Bound>> {
        if let Some(only) = &self.only {
            return Some(Arc::clone(only));
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = known.sites.get(&place) {
            return bound.clone();
        }
        drop(known);
        // It may be about to vanish, of which nothing is to be told.
        let maps = Maps::read(place.pid).ok()?;
        let bound = self.look_up(place, &maps);
        if let Err(error) = &bound {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let is_news = known.sites.insert(place, None).is_none();
            drop(known);
            if is_news {
                tell(error);
            }
        }
        bound.ok()
    }

    fn look_up(&self, place: Place, maps: &Maps) -> Result<Arc<Bound>, LocateError> {
        let names = |address| ObjectNames::at(&self.objects, maps, address);
        let here = names(place.address)?;
        let bound = match place.function {
            None => self.bind(place, &ProbeNames::new(&self.spec, here)),
            Some(function) => self.bind(place, &ReturnNames::new(here, names(function)?)),
        };
        bound.map_err(|error| LocateError::Unresolvable(Box::new(error)))
    }

    /// The files in which names are looked up.
    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
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
        known.sites.insert(place, Some(Arc::clone(&bound)));
        Ok(bound)
    }

    /// Binds what is not the same everywhere at the sites of a probe.
    fn bind_all(&self, resolver: &Resolver, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        // Where calls return to is not known yet.
        if resolver.is_on_return() || self.only.is_some() {
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
