//! What the arguments of a probe come to at each of its sites.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::arguments::surroundings::Surroundings;
use crate::arguments::{
    Binding, Names, NoNames, ObjectNames, ProbeNames, ReturnNames, SyntaxError, Template,
};
use crate::language::{Expression, Machine};
use crate::symbols::locate::{Counter, Locate, LocateError, Site};
use crate::symbols::resolve::{Objects, Resolver};
use crate::symbols::spec::{PlaceSpec, ProbeSpec};
use crate::target::maps::Maps;
use crate::target::procfs;

/// Where a thread is at a hit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) pid: i32,
    pub(crate) address: u64,
    /// The function that has just returned, if one has.
    pub(crate) function: Option<u64>,
    /// To where the calls return that have led there, the innermost first: as many of them as matter.
    pub(crate) callers: Vec<u64>,
}

impl Place {
    /// One of which it is not known, or does not matter, who has called.
    pub(crate) fn new(pid: i32, address: u64, function: Option<u64>) -> Place {
        Place { pid, address, function, callers: Vec::new() }
    }
}

/// A binding, and whether the client has been told of it.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its number among those of the probe.
    pub(crate) number: u32,
    pub(crate) binding: Binding,
    pub(crate) told: OnceLock<()>,
    /// Where it is found who has called, if that changes what it comes to.
    caller: Option<Expression>,
}

impl Bound {
    /// Whether something is missing that may be mapped by the time of another hit.
    fn is_provisional(&self) -> bool {
        self.binding.injection.as_ref().is_some_and(|injection| injection.missing.is_some())
    }
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

/// How many callers are asked for what they have passed on.
const MOST_CALLERS: usize = 8;
/// For how many places it is remembered what they come to.
const MOST_PLACES: usize = 1 << 16;

impl Bindings {
    pub(crate) fn new(template: Template, spec: ProbeSpec, objects: Arc<Objects>) -> Bindings {
        let mut known = Known::default();
        // At each site of one of USDT, its arguments are elsewhere, and functions have results of their own.
        let is_event = matches!(spec.place, PlaceSpec::UprobeEvent(_));
        let differs = matches!(spec.place, PlaceSpec::Usdt { .. }) || spec.on_return && !is_event;
        let closed = template.is_closed() && !differs;
        let only = closed.then(|| template.bind(&NoNames).ok()).flatten();
        let only = only.map(|binding| known.enter(binding, None));
        Bindings { template, spec, objects, only, known: RwLock::new(known) }
    }

    /// What it comes to at a hit of `machine`. `None` if it comes to nothing there: why, `tell` hears once.
    pub(crate) fn at(
        &self,
        place: Place,
        machine: &mut dyn Machine,
        tell: &mut dyn FnMut(LocateError),
    ) -> Option<Arc<Bound>> {
        if let Some(only) = &self.only {
            return Some(Arc::clone(only));
        }
        let mut place = place;
        let mut bound = self.known_at(&place, tell)?;
        while place.callers.len() < MOST_CALLERS
            && let Some(caller) = &bound.caller
            && let Ok(back) = caller.evaluate(machine)
        {
            place.callers.push(back);
            match self.known_at(&place, tell) {
                Some(next) => bound = next,
                None => break,
            }
        }
        Some(bound)
    }

    /// The same of a place, whoever has called.
    pub(crate) fn at_place(&self, place: &Place, tell: &mut dyn FnMut(LocateError)) -> Option<Arc<Bound>> {
        match &self.only {
            Some(only) => Some(Arc::clone(only)),
            None => self.known_at(place, tell),
        }
    }

    fn known_at(&self, place: &Place, tell: &mut dyn FnMut(LocateError)) -> Option<Arc<Bound>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = known.sites.get(place) {
            return bound.clone();
        }
        drop(known);
        // It may be about to vanish, of which nothing is to be told.
        let maps = Maps::read(place.pid).ok()?;
        let found = self.look_up(place, &maps);
        let (bound, trouble) = match found {
            Ok(bound) if bound.caller.is_none() => {
                let never = bound.binding.unknowable.clone();
                (Some(bound), never.map(|never| LocateError::Unresolvable(Box::new(never))))
            }
            Ok(bound) => (Some(bound), None),
            Err(error) => (None, Some(error)),
        };
        if bound.as_ref().is_some_and(|bound| bound.is_provisional()) {
            return bound;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.sites.len() >= MOST_PLACES {
            known.sites.clear();
        }
        let is_news = known.sites.insert(place.clone(), bound.clone()).is_none();
        drop(known);
        if let Some(error) = trouble.filter(|_| is_news && place.callers.is_empty()) {
            tell(error);
        }
        bound
    }

    fn look_up(&self, place: &Place, maps: &Maps) -> Result<Arc<Bound>, LocateError> {
        let names = |address| ObjectNames::at(&self.objects, maps, address);
        // What is known of the place is needed twice, and each reads debug information when it is asked.
        let around = names(place.function.unwrap_or(place.address))?;
        let surroundings = match (self.template.injection(), place.function) {
            (None, _) => Surroundings::default(),
            (Some(_), None) => Surroundings::at(&around, &self.objects, maps),
            (Some(_), Some(_)) => Surroundings::on_return(&around, &self.objects, maps),
        };
        let bound = match place.function {
            None => {
                let here = names(place.address)?.called_from(&self.objects, maps, &place.callers);
                self.bind(&ProbeNames::new(&self.spec, here), &surroundings)
            }
            Some(function) => self.bind(&ReturnNames::new(names(function)?, function), &surroundings),
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

    fn bind(&self, names: &dyn Names, surroundings: &Surroundings<'_>) -> Result<Arc<Bound>, SyntaxError> {
        let binding = self.template.bind_at(names, surroundings)?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Ok(known.enter(binding, names.caller()))
    }

    /// Binds what is not the same everywhere at the sites of a probe.
    fn bind_all(&self, resolver: &Resolver, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        // Where calls return to is not known yet.
        if resolver.is_on_return() || self.only.is_some() {
            return resolver.locate(maps);
        }
        let pid = procfs::process_of(maps.pid()).unwrap_or(maps.pid());
        let bound = resolver.find(maps, |site, elf, address| {
            let around = ObjectNames::new(elf, address);
            let surroundings = match self.template.injection() {
                Some(_) => Surroundings::at(&around, &self.objects, maps),
                None => Surroundings::default(),
            };
            let names = ProbeNames::new(&self.spec, ObjectNames::new(elf, address));
            let bound = self.bind(&names, &surroundings)?;
            Ok((site, bound))
        })?;
        let bound: Result<Vec<(Site, Arc<Bound>)>, SyntaxError> = bound.into_iter().collect();
        let bound = bound.map_err(|error| LocateError::Unresolvable(Box::new(error)))?;
        let never = |(_, bound): &(Site, Arc<Bound>)| {
            bound.binding.unknowable.clone().filter(|_| bound.caller.is_none())
        };
        // Where it holds at no site there is nothing to wait for.
        let never: Vec<SyntaxError> = bound.iter().map_while(never).collect();
        if let Some(first) = never.first().filter(|_| never.len() == bound.len()) {
            return Err(LocateError::Unresolvable(Box::new(first.clone())));
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // Of the others it is told when one is hit.
        let lasts = |bound: &Bound| bound.binding.unknowable.is_none() && !bound.is_provisional();
        for (site, bound) in bound.iter().filter(|(_, bound)| lasts(bound)) {
            known.sites.insert(Place::new(pid, site.address, None), Some(Arc::clone(bound)));
        }
        Ok(bound.into_iter().map(|(site, _)| site).collect())
    }
}

impl Known {
    fn enter(&mut self, binding: Binding, caller: Option<Expression>) -> Arc<Bound> {
        let is_same = |known: &&Arc<Bound>| known.binding == binding && known.caller == caller;
        if let Some(known) = self.all.iter().find(is_same) {
            return Arc::clone(known);
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let bound = Arc::new(Bound { number, binding, told: OnceLock::new(), caller });
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

    fn implementation_names(&self, maps: &Maps) -> Option<Vec<String>> {
        self.resolver.implementation_names(maps)
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
