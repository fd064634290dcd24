//! Coverage: which sites of the target's objects were reached. Nothing is called at a hit. A probe that is wanted once
//! puts the byte back that belongs there, and the thread executes the instruction itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustc_hash::FxHashMap;

use crate::engine::event::Event;
use crate::engine::hit::ProbeId;
use crate::engine::probes::{Probe, Tally};
use crate::engine::session::Session;
use crate::engine::tracer::Tracer;
use crate::error::ProbeError;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::{AT_A_TIME, FileNumber, Origin, Purpose, SharedSpace, Unplaceable};
use crate::symbols::coverage::{Coverage, CoveredSite, ObjectCoverage, Plan, coverable};
use crate::symbols::locate::{Locate, LocateError, Site};
use crate::symbols::resolve::Objects;
use crate::target::lock;
use crate::target::maps::{self, Mapping, Maps};

/// The mappings whose sites have been placed: where each begins and ends, and its file.
type Placed = HashSet<(u64, u64, FileNumber)>;

/// An object, and sites in it: of each the address, and where it stands there.
type Sought = (Arc<Covered>, Vec<(u64, usize)>);

fn file_of(mapping: &Mapping) -> FileNumber {
    (mapping.dev, mapping.inode)
}

/// What is known of a file that was met.
#[derive(Clone, Debug)]
enum Known {
    /// Its path, by which another is told that has its number now.
    LeftOut(Option<PathBuf>),
    Covered(Arc<Covered>),
}

/// An object that is covered.
#[derive(Debug)]
struct Covered {
    /// As it was read.
    elf: u64,
    template: ObjectCoverage,
    /// The file offsets of its sites, in their order, and where those stand in the template.
    offsets: Vec<(u64, u32)>,
    /// How often each was reached, in the order of the offsets.
    hits: Vec<AtomicU64>,
    /// Why sites could not be probed, by their places among the offsets.
    refused: Mutex<BTreeMap<usize, String>>,
}

/// What is covered, and what was found.
#[derive(Debug)]
pub(crate) struct Cover {
    plan: Plan,
    objects: Arc<Objects>,
    /// The files of the programs that the target's processes execute when this begins.
    programs: Mutex<HashSet<PathBuf>>,
    files: RwLock<FxHashMap<FileNumber, Known>>,
    /// Each object that was met and is covered, and those that are left out though they were asked for.
    met: Mutex<Vec<Arc<Covered>>>,
    left_out: Mutex<BTreeMap<PathBuf, String>>,
    /// The mappings whose sites have been placed.
    placed: Mutex<HashMap<SpaceId, Placed>>,
}

/// The source of the sites, for the list of probes; they are placed by [`Tracer::locate_cover`].
#[derive(Debug)]
pub(crate) struct Sites;

impl Locate for Sites {
    fn locate(&self, _maps: &Maps) -> Result<Vec<Site>, LocateError> {
        Ok(Vec::new())
    }
}

impl Cover {
    pub(crate) fn new(plan: Plan, objects: Arc<Objects>) -> Cover {
        Cover {
            plan,
            objects,
            programs: Mutex::default(),
            files: RwLock::default(),
            met: Mutex::default(),
            left_out: Mutex::default(),
            placed: Mutex::default(),
        }
    }

    /// Whether a site is done with once it was hit.
    pub(crate) fn is_once(&self) -> bool {
        !self.plan.is_counting()
    }

    /// What was found so far.
    pub(crate) fn coverage(&self) -> Coverage {
        let objects = lock(&self.met).iter().map(|covered| covered.snapshot()).collect();
        let left_out = lock(&self.left_out).iter().map(|(path, why)| (path.clone(), why.clone())).collect();
        Coverage { objects, left_out }
    }

    /// A thread has reached the site at that address so many times, in a mapping of that.
    pub(crate) fn count_at(&self, origin: &Origin, address: u64, times: u64) {
        if let Some(offset) = origin.file_offset(address) {
            self.count((origin.dev, origin.inode), offset, times);
        }
    }

    /// A thread has reached the site at that offset of that file so many times.
    fn count(&self, file: FileNumber, offset: u64, times: u64) {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(Known::Covered(covered)) = files.get(&file)
            && let Some(hits) = covered.place_of(offset).and_then(|at| covered.hits.get(at))
        {
            hits.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// The object that `mapping`, one of `maps`, maps, if it is covered: read now, or before.
    fn covered(&self, maps: &Maps, mapping: &Mapping) -> Option<Arc<Covered>> {
        let path = mapping.file()?;
        let is_program = lock(&self.programs).contains(maps::without_mark(path));
        if !self.plan.wants_object(maps::without_mark(path), is_program) {
            return None;
        }
        let file = file_of(mapping);
        let known = self.files.read().unwrap_or_else(PoisonError::into_inner).get(&file).cloned();
        if let Some(Known::LeftOut(of)) = &known
            && of.as_deref() == Some(path)
        {
            return None;
        }
        let known = known.and_then(|known| match known {
            Known::Covered(covered) => Some(covered),
            Known::LeftOut(_) => None,
        });
        let left_out = |why: String| {
            lock(&self.left_out).insert(path.to_owned(), why);
            let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
            files.insert(file, Known::LeftOut(Some(path.to_owned())));
        };
        let elf = match self.objects.mapped(maps, mapping) {
            Ok(elf) => elf,
            Err(error) => {
                left_out(error.to_string());
                return None;
            }
        };
        // Another file may have the number now.
        if let Some(known) = known.filter(|known| known.elf == elf.number()) {
            return Some(known);
        }
        let template = coverable(&elf, path, &self.plan);
        if template.sites.is_empty() {
            let why = template.trouble.unwrap_or_else(|| "none of its sources is to be covered".to_owned());
            left_out(why);
            return None;
        }
        let sites = template.sites.iter().zip(0u32..);
        let offset = |(site, number): (&CoveredSite, u32)| {
            Some((elf.offset_of_address(site.address)?, number)).filter(|_| site.refused.is_none())
        };
        let mut offsets: Vec<(u64, u32)> = sites.filter_map(offset).collect();
        offsets.sort_unstable();
        let hits = offsets.iter().map(|_| AtomicU64::new(0)).collect();
        let covered =
            Arc::new(Covered { elf: elf.number(), template, offsets, hits, refused: Mutex::default() });
        lock(&self.met).push(Arc::clone(&covered));
        let mut files = self.files.write().unwrap_or_else(PoisonError::into_inner);
        files.insert(file, Known::Covered(Arc::clone(&covered)));
        Some(covered)
    }

    /// The sites in those mappings in which they have not been placed yet: of each the address, the object, and where it
    /// stands there.
    fn unplaced(&self, space: SpaceId, maps: &Maps) -> Vec<Sought> {
        let key = |mapping: &Mapping| (mapping.start, mapping.end, file_of(mapping));
        let code = || maps.iter().filter(|mapping| mapping.is_executable() && mapping.file().is_some());
        let mut placed = lock(&self.placed);
        let placed = placed.entry(space).or_default();
        let now: HashSet<_> = code().map(key).collect();
        placed.retain(|known| now.contains(known));
        let mut found = Vec::new();
        for mapping in code().filter(|mapping| placed.insert(key(mapping))) {
            if let Some(covered) = self.covered(maps, mapping) {
                let sites = covered.sites_in(mapping, self.is_once());
                found.push((covered, sites));
            }
        }
        found
    }

    fn forget(&self, space: SpaceId) {
        lock(&self.placed).remove(&space);
    }
}

impl Covered {
    fn place_of(&self, offset: u64) -> Option<usize> {
        self.offsets.binary_search_by_key(&offset, |&(offset, _)| offset).ok()
    }

    /// The addresses of the sites in a mapping, with their places; those that are done with are left out.
    fn sites_in(&self, mapping: &Mapping, once: bool) -> Vec<(u64, usize)> {
        let is_wanted =
            |at: usize| !once || self.hits.get(at).is_some_and(|hits| hits.load(Ordering::Relaxed) == 0);
        let address = |(at, &(offset, _)): (usize, &(u64, u32))| Some((mapping.address_of(offset)?, at));
        self.offsets.iter().enumerate().filter_map(address).filter(|&(_, at)| is_wanted(at)).collect()
    }

    fn refuse(&self, at: usize, why: String) {
        lock(&self.refused).entry(at).or_insert(why);
    }

    fn snapshot(&self) -> ObjectCoverage {
        let mut found = self.template.clone();
        let refused = lock(&self.refused);
        for (at, (&(_, site), hits)) in self.offsets.iter().zip(&self.hits).enumerate() {
            let Some(site) = found.sites.get_mut(site as usize) else { continue };
            site.hits = hits.load(Ordering::Relaxed);
            // In another process it may have been probed.
            if site.hits == 0
                && let Some(why) = refused.get(&at)
            {
                let known = found.reasons.iter().position(|known| known == why);
                let reason = known.unwrap_or_else(|| {
                    found.reasons.push(why.clone());
                    found.reasons.len() - 1
                });
                site.refused = Some(reason as u32);
            }
        }
        found
    }
}

impl Tracer {
    /// Makes a probe that covers.
    pub(crate) fn place_cover(&mut self, cover: Arc<Cover>) -> Result<ProbeId, ProbeError> {
        for (space, _) in self.shared.spaces() {
            let program = std::fs::read_link(format!("/proc/{}/exe", self.shared.pid_in(space)));
            let program = program.map(|program| maps::without_mark(&program).to_owned());
            lock(&cover.programs).extend(program);
        }
        let id = self.shared.enter_cover(cover);
        match self.place_everywhere(id, false) {
            Ok(()) => Ok(id),
            Err(error) => {
                self.drop_last(id);
                Err(ProbeError::Maps(error))
            }
        }
    }

    /// Places the sites of an address space in which they are not yet.
    pub(crate) fn locate_cover(&mut self, id: ProbeId, cover: &Cover, space_id: SpaceId, maps: &Maps) {
        /// After how many sites the observer hears of it.
        const STRIDE: usize = 1024;
        let Some(space) = self.shared.space(space_id) else { return };
        let pid = self.shared.pid_in(space_id);
        for (covered, sites) in cover.unplaced(space_id, maps) {
            let total = sites.len();
            let mut done = 0;
            for chunk in sites.chunks(AT_A_TIME) {
                if self.shared.wishes.ending.load(Ordering::SeqCst) {
                    return;
                }
                if total > STRIDE && done % STRIDE < AT_A_TIME {
                    self.tell(&Event::Placing { probe: id, pid, done, total });
                }
                done += chunk.len();
                let addresses: Vec<u64> = chunk.iter().map(|&(address, _)| address).collect();
                let outcomes = space.write().place_all(&addresses, maps, Purpose::covered(id.0));
                let mut places = chunk.iter();
                for (address, outcome) in outcomes {
                    let Err(reason) = outcome else { continue };
                    if space.read().is_dead() {
                        cover.forget(space_id);
                        return;
                    }
                    if let Some(&(_, at)) = places.find(|&&(of, _)| of == address) {
                        covered.refuse(at, kind_of(&reason));
                    }
                }
            }
            if total > STRIDE {
                self.tell(&Event::Placing { probe: id, pid, done: total, total });
            }
        }
    }

    /// A thread has stopped at a breakpoint that only those want who want it once: it goes, and the thread executes what
    /// is there. Says whether that could be done; then the thread runs.
    pub(crate) fn pass_once(
        &mut self,
        stopped: Stopped,
        space: &SharedSpace,
        address: u64,
    ) -> Option<Stopped> {
        let lifted = space.write().lift_hit(address);
        let Some((file, offset)) = lifted else { return Some(stopped) };
        for &purpose in &self.here {
            let Some(probe) = self.probes.get(purpose.probe()) else { continue };
            Tally::count(&probe.tally_of(purpose).hits);
            if let Some(cover) = probe.cover() {
                cover.count(file, offset, 1);
            }
        }
        let stored = self.registers.store(&stopped);
        self.threads.note(stopped.tid(), "PTRACE_POKEUSER", stored);
        self.threads.resume(stopped, 0);
        None
    }

    /// Whether all probes of the breakpoint at which a thread has stopped only want to know how often it is reached.
    pub(crate) fn are_all_covering(&self) -> bool {
        !self.here.is_empty() && self.here.iter().all(|purpose| purpose.covers())
    }

    /// Whether all of them want it once.
    pub(crate) fn are_all_once(&self) -> bool {
        !self.here.is_empty()
            && self.here.iter().all(|&purpose| {
                let probe = || self.probes.get(purpose.probe());
                purpose.covers() && probe().and_then(Probe::cover).is_some_and(|cover| cover.is_once())
            })
    }
}

/// The reason without values, so that those of many sites are the same.
fn kind_of(reason: &Unplaceable) -> String {
    match reason {
        Unplaceable::Instruction { why, .. } => why.to_string(),
        other => other.to_string(),
    }
}

impl Session {
    /// Finds out what of the target is executed, from now on: places a probe on each site that `plan` means, in the objects
    /// that are mapped and in those that will be, in every process of the session. [`Session::coverage`] tells what was
    /// reached; what several processes reach is added up.
    ///
    /// Unless the plan is [counting](Plan::counting), each probe goes as soon as any thread has hit it, and the thread
    /// executes the instruction itself: code that has been reached runs at its own speed.
    ///
    /// # Errors
    /// [`ProbeError::Maps`].
    pub fn cover(&mut self, plan: Plan) -> Result<ProbeId, ProbeError> {
        self.cover_with(plan, Arc::default())
    }

    /// The same with files that may have been read already.
    pub(crate) fn cover_with(&mut self, plan: Plan, objects: Arc<Objects>) -> Result<ProbeId, ProbeError> {
        self.tracer.place_cover(Arc::new(Cover::new(plan, objects)))
    }

    /// What was reached so far by a probe of [`Session::cover`]; `None` for any other.
    #[must_use]
    pub fn coverage(&self, id: ProbeId) -> Option<Coverage> {
        self.cover_of(id).map(|cover| cover.coverage())
    }

    pub(crate) fn cover_of(&self, id: ProbeId) -> Option<Arc<Cover>> {
        let probe = self.shared().probe(id)?;
        probe.get()?.0.cover().cloned()
    }
}
