//! What the arguments of a probe come to at each of its sites.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use crate::arguments::{Binding, NoNames, ObjectNames, ProbeNames, SyntaxError, Template};
use crate::symbols::locate::{Counter, Locate, LocateError, Site};
use crate::symbols::resolve::{Objects, Resolver};
use crate::symbols::spec::{PlaceSpec, ProbeSpec};
use crate::target::maps::Maps;
use crate::target::procfs;

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
    /// By process and address. A child that was forked has its parent's text, and what it comes to is looked up at its
    /// first hit.
    sites: HashMap<(i32, u64), Arc<Bound>>,
    /// The one of all sites.
    only: Option<Arc<Bound>>,
}

impl Bindings {
    pub(crate) fn new(template: Template, spec: ProbeSpec, objects: Arc<Objects>) -> Bindings {
        let bindings = Bindings { template, spec, objects, known: RwLock::default() };
        // At each site of one of USDT, its arguments are elsewhere.
        if !matches!(bindings.spec.place, PlaceSpec::Usdt { .. })
            && bindings.template.is_closed()
            && let Ok(binding) = bindings.template.bind(&NoNames)
        {
            let mut known = bindings.known.write().unwrap_or_else(PoisonError::into_inner);
            known.only = Some(known.enter(binding));
            drop(known);
        }
        bindings
    }

    /// What it comes to at an address of a process; `None` if that cannot be known any more.
    pub(crate) fn at(&self, pid: i32, address: u64) -> Option<Arc<Bound>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(bound) = known.only.as_ref().or_else(|| known.sites.get(&(pid, address))) {
            return Some(Arc::clone(bound));
        }
        drop(known);
        let maps = Maps::read(pid).ok()?;
        let names = ObjectNames::at(&self.objects, &maps, address).ok()?;
        self.bind(pid, address, names).ok()
    }

    /// Forgets what is known of a process, which executes another program.
    pub(crate) fn forget(&self, pid: i32) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.sites.retain(|&(of, _), _| of != pid);
    }

    fn bind(&self, pid: i32, address: u64, names: ObjectNames<'_>) -> Result<Arc<Bound>, SyntaxError> {
        let binding = self.template.bind(&ProbeNames::new(&self.spec, names))?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let bound = known.enter(binding);
        known.sites.insert((pid, address), Arc::clone(&bound));
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
            self.bind(pid, site.address, ObjectNames::new(elf, address)).map(|_| site)
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
