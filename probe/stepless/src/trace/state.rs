//! What the command knows of its target and its probes, and what it tells of them as they change.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use probe::arguments::Value;
use probe::locate::LocateError;
use probe::maps::Maps;
use probe::resolve::{Objects, Resolver};
use probe::stacks::{Place, StackFrame, Symbolizer};
use probe::warden::{ClientStop, Event as EngineEvent, News, Record, Refusal, StepRecord};

use super::Mode;
use super::overwritten::Overwritten;
use super::rows::{Row, Rows};
use super::what::{Programs, What, name_changes};
use crate::args::{Format, OnFull, Tracing};
use crate::events::{Event, Events, Shown};
use crate::output::several;
use crate::progress::Progress;
use crate::run::{Out, inaccessible, not_64_bit};
use crate::signals::Signals;
use crate::step::Printer;
use crate::{target, warn};

/// The bar of sites that are being probed.
const PLACING: &str = "{bar:30} {percent:>3} % {pos}/{len} instructions {eta} left  {wide_msg}";

/// Of threads that could not be armed one is told for each error.
const UNWATCHED: &str = "perf_event_open";

/// What those share who hear of news.
pub(super) struct Shared {
    /// By probe on the command line.
    what: Vec<What>,
    programs: Vec<Programs>,
    symbolizer: Symbolizer,
    objects: Arc<Objects>,
    overwritten: Overwritten,
    /// Whether stacks are shown.
    stacks: bool,
    pub(super) coloured: bool,
    /// Whether events are dropped when there is no room for them, rather than waited with.
    pub(super) drops: bool,
    resolvers: Vec<Resolver>,
    pub(super) format: Format,
    pub(super) limit: Option<u64>,
    /// Whether no byte of text is to be changed.
    pub(super) hardware: bool,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) events: Events<Out>,
    /// Why printing has stopped.
    pub(super) broken: Option<io::Error>,
    /// Whether the program runs, rather than its dynamic linker.
    pub(super) started: bool,
    pub(super) rows: Rows,
    /// Of a probe that is being placed on many sites.
    pub(super) placing: Option<Progress>,
    pub(super) failure: Option<String>,
    /// The requests that failed, and how, as far as told.
    pub(super) failed: Vec<(String, Errno)>,
    /// Whether a program that is not 64-bit has been told of.
    told_not_64_bit: bool,
    /// How often the program has changed probed text.
    pub(super) changed: u32,
    /// Which process could not be opened, and why, before any probe was placed.
    pub(super) inaccessible: Option<String>,
    /// How many events were dropped, as the user wishes.
    pub(super) lost: u64,
    /// Whether as much has been printed as is wanted.
    pub(super) is_over: bool,
    /// What prints steps, if those are wanted.
    steps: Option<Printer>,
}

impl Shared {
    pub(super) fn new(
        arguments: &Tracing,
        mode: Mode,
        resolvers: &[Resolver],
        what: Vec<What>,
        objects: Arc<Objects>,
        (out, coloured): (Out, bool),
    ) -> Shared {
        let rows = Rows::new(resolvers.iter().map(|resolver| resolver.spec().label()));
        let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        let format = arguments.format();
        let state = State {
            events: Events::new(out, format, width, coloured),
            broken: None,
            started: arguments.attaches(),
            rows,
            told_not_64_bit: false,
            placing: None,
            failure: None,
            failed: Vec::new(),
            changed: 0,
            inaccessible: None,
            lost: 0,
            is_over: false,
            steps: match mode {
                Mode::Step(steps) => Some(Printer::new(steps, format == Format::Json)),
                Mode::Trace | Mode::Stat => None,
            },
        };
        let programs = what.iter().map(|what| what.programs(arguments, mode)).collect();
        Shared {
            what,
            programs,
            symbolizer: Symbolizer::new(Arc::clone(&objects)),
            objects,
            overwritten: Overwritten::default(),
            stacks: arguments.stack.is_some(),
            drops: arguments.on_full == OnFull::Drop,
            coloured,
            resolvers: resolvers.to_vec(),
            format,
            limit: arguments.limit,
            hardware: arguments.hardware,
            state: Mutex::new(state),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the warden does at each hit of a probe.
    pub(super) fn programs(&self, index: usize) -> Programs {
        self.programs.get(index).cloned().unwrap_or_default()
    }

    /// Whether something is injected.
    pub(super) fn injects(&self) -> bool {
        self.what.iter().any(What::injects)
    }

    /// The expressions of which histograms of a probe are wanted.
    pub(super) fn histograms(&self, index: usize) -> Vec<String> {
        self.what.get(index).map(|what| what.histograms().map(str::to_owned).collect()).unwrap_or_default()
    }

    /// What lies on a stack.
    pub(super) fn places(&self, stack: &[StackFrame]) -> Vec<Arc<Place>> {
        stack.iter().map(|frame| self.symbolizer.place(frame)).collect()
    }

    /// The warden has news.
    pub(super) fn hear(&self, news: &News, stop: &ClientStop, signals: &Signals) {
        match news {
            News::Hit(hit) => self.hit(hit, stop, signals),
            News::Step(step) => self.step(step, stop, signals),
            News::Event(event) => self.observe(event),
            News::Place { pid, frame } => self.symbolizer.note(*pid, frame),
            // That is told at the end.
            News::Lost(events) if self.drops => self.lock().lost += events,
            News::Lost(events) => {
                let events = several(*events, "event", "events");
                warn(&format!("{events} lost while stepless was stopped"));
            }
            _ => {}
        }
    }

    /// A probe was hit.
    pub(super) fn hit(&self, hit: &Record, stop: &ClientStop, signals: &Signals) {
        let mut state = self.lock();
        if state.broken.is_some() {
            return;
        }
        let state = &mut *state;
        let nothing = What::default();
        let what = state.rows.index_of(hit.probe).and_then(|index| self.what.get(index)).unwrap_or(&nothing);
        let shown = what.shown(hit.arguments.as_ref(), hit.pid, &self.symbolizer);
        // Of a call that is followed for its duration alone, RAX is all that is known.
        let in_rax = hit.duration_ns.and_then(|_| hit.registers.first());
        let in_rax = in_rax.map(|&(_, value)| Value::Hexadecimal(value));
        let injected = hit.injection.as_ref().map(|injection| injection.injected());
        let injected = injected.map(|injected| name_changes(injected, hit.pid, &self.symbolizer));
        let places = self.places(&hit.stack);
        let event = Event {
            line: shown.line,
            comm: hit.comm.as_deref().map(|comm| String::from_utf8_lossy(comm).into_owned()),
            place: places.first().map(Arc::clone),
            is_entry: hit.duration_ns.is_none() && what.has_entries(),
            stack: self.stacks.then_some(places),
            probe: state.rows.name(hit.probe),
            pid: hit.pid,
            tid: hit.tid,
            cpu: hit.cpu,
            time_ns: hit.time_ns,
            ip: hit.ip,
            args: shown.arguments,
            duration_ns: hit.duration_ns,
            retval: shown.result.or(in_rax),
            injected: injected.map(Shown),
        };
        if let Err(error) = signals.writing(|| state.events.print(&event)) {
            state.broken = Some(error);
            stop.request();
        }
    }

    /// A thread that runs on has executed an instruction.
    fn step(&self, step: &StepRecord, stop: &ClientStop, signals: &Signals) {
        let mut state = self.lock();
        if state.broken.is_some() {
            return;
        }
        let state = &mut *state;
        let Some(printer) = &mut state.steps else { return };
        let name = state.rows.name(step.probe);
        let place = self.symbolizer.place(&step.place);
        let out = state.events.out();
        if let Err(error) = signals.writing(|| printer.print(out, step, name, place)) {
            state.broken = Some(error);
            stop.request();
        } else if self.limit.is_some_and(|limit| printer.ended >= limit) {
            state.is_over = true;
            stop.request_end();
        }
    }

    /// Something has happened to the target or to a probe.
    pub(super) fn observe(&self, event: &EngineEvent) {
        let mut state = self.lock();
        match event {
            EngineEvent::Part { probe, part, name } => {
                state.events.widen(name.chars().count());
                state.rows.add_part(*probe, *part, name);
            }
            EngineEvent::Exec { pid } => self.symbolizer.forget(*pid),
            EngineEvent::Placed { probe, pid, .. } => {
                if let Some(row) = state.rows.of_mut(*probe) {
                    row.placed += 1;
                }
                let index = state.rows.index_of(*probe);
                let whole = index.and_then(|index| state.rows.iter_mut().nth(index));
                let looked_at = whole.is_none_or(|row| std::mem::replace(&mut row.looked_at, true));
                // Those that are there when a program starts are looked at then.
                if let Some(index) = index.filter(|_| !looked_at && state.started) {
                    drop(state);
                    self.look_at_object(*pid, index);
                }
            }
            EngineEvent::Implementations { probe, names, .. } => {
                if let Some(row) = state.rows.of_mut(*probe) {
                    row.implementations.clone_from(names);
                }
            }
            EngineEvent::Refused { probe, pid, refusal } => {
                if let Some(row) = state.rows.of_mut(*probe) {
                    row.refused.push((refusal.address, refusal.kind.clone()));
                }
                // Otherwise once all its sites have been seen to.
                if state.started && state.placing.is_none() {
                    self.tell_refused(&mut state, *pid);
                }
            }
            EngineEvent::NoReturnSite { probe, pid, refusal } => {
                self.tell_no_return_site(state.rows.name(*probe), *pid, refusal)
            }
            EngineEvent::Placing { probe, pid, done, total } => {
                let name = state.rows.name(*probe).to_owned();
                let progress = state.placing.get_or_insert_with(|| {
                    let progress = Progress::new(*total, PLACING);
                    progress.message(name);
                    progress
                });
                progress.reach(*done);
                if done == total {
                    state.placing = None;
                    if state.started {
                        self.tell_refused(&mut state, *pid);
                    }
                }
            }
            EngineEvent::Unresolvable { probe, error, .. } => {
                let name = state.rows.name(*probe);
                if state.started {
                    warn(&format!("`{name}`: {error}"));
                } else {
                    state.failure.get_or_insert_with(|| error.clone());
                }
            }
            // Each hit may fail in the same way.
            EngineEvent::Failed { pid, tid, request, error }
                if !state.failed.iter().any(|(known, why)| known == request && why == error) =>
            {
                state.failed.push((request.clone(), *error));
                let why = error.desc();
                warn(&format!("{request} failed for thread {tid} of process {pid}: {why}"));
            }
            EngineEvent::Not64Bit { pid } if !state.told_not_64_bit => {
                state.told_not_64_bit = true;
                warn(&not_64_bit(*pid));
            }
            EngineEvent::Inaccessible { pid, error } => {
                let line = inaccessible(*pid, error);
                if state.rows.is_any_placed() {
                    warn(&line);
                } else {
                    // It may be all that there is to say in the end.
                    state.inaccessible = Some(line);
                }
            }
            EngineEvent::Overwritten { .. }
            | EngineEvent::Restored { .. }
            | EngineEvent::Copied { .. }
            | EngineEvent::Sequence { .. } => self.tell_changed(&mut state, event),
            EngineEvent::Unwatched { pid, tid, address, error }
                if !state.failed.iter().any(|(known, why)| known == UNWATCHED && why == error) =>
            {
                state.failed.push((UNWATCHED.to_owned(), *error));
                let why = error.desc();
                warn(&format!(
                    "thread {tid} of process {pid} has no hardware breakpoint at {address:#x} ({why}), and maybe more \
                     threads; their hits are neither seen nor counted"
                ));
            }
            EngineEvent::Rejected { tid, error, .. } => {
                warn(&format!("the registers of thread {tid} could not be changed: {error}"));
            }
            _ => {}
        }
    }

    fn tell_no_return_site(&self, name: &str, pid: i32, refusal: &Refusal) {
        /// What a program begins with was called by nobody: there, its number of arguments stands.
        const LOWEST: u64 = 4096;
        if refusal.address < LOWEST {
            return;
        }
        let place = self.symbolizer.place_in(pid, refusal.address).name();
        warn(&format!("`{name}` misses returns to {place}: {}", refusal.kind));
    }

    /// The program has done something to text with a probe in it.
    fn tell_changed(&self, state: &mut State, event: &EngineEvent) {
        /// A program that does it again and again is not told of again and again.
        const MOST: u32 = 20;
        let (&pid, &address) = match event {
            EngineEvent::Overwritten { pid, address, .. }
            | EngineEvent::Restored { pid, address, .. }
            | EngineEvent::Copied { pid, address, .. }
            | EngineEvent::Sequence { pid, address } => (pid, address),
            _ => return,
        };
        state.changed += 1;
        match state.changed {
            1..=MOST => {}
            count if count == MOST + 1 => {
                return warn("the text of the program changes more often than is told here");
            }
            _ => return,
        }
        let name = |address| {
            let place = self.symbolizer.place_in(pid, address);
            match place.object {
                Some(_) => format!("{address:#x} ({})", place.name()),
                None => format!("{address:#x}"),
            }
        };
        let place = name(address);
        warn(&match event {
            EngineEvent::Overwritten { missing, .. } => {
                let seconds = missing.as_secs_f64();
                format!(
                    "process {pid} has overwritten the probed instruction at {place}, at most {seconds:.3} s ago; \
                     it is not probed any more"
                )
            }
            EngineEvent::Restored { missing, .. } => {
                let seconds = missing.as_secs_f64();
                format!(
                    "process {pid} has thrown away the text at {place}; it is probed again, and was not for at \
                     most {seconds:.3} s"
                )
            }
            EngineEvent::Copied { served: true, .. } => {
                format!("process {pid} has put a copy of its text at {place}; it is probed there")
            }
            EngineEvent::Copied { of, .. } => {
                let of = name(*of);
                format!(
                    "process {pid} has copied the probed instruction at {of} to {place}; the copy is not probed"
                )
            }
            _ => format!(
                "the instruction at {place} is in a restartable sequence (rseq) of process {pid}, which every hit \
                 would abort; it is not probed any more"
            ),
        });
    }

    /// Process `pid` is about to start its program, or, unless it is `linked`, the dynamic linker. Says whether it may: not
    /// if a probe cannot be placed.
    pub(super) fn start(&self, pid: i32, linked: bool) -> bool {
        let mut state = self.lock();
        state.started = true;
        let refused = state.rows.first_refused();
        if let Some(line) = refused.map(|(name, reason)| format!("`{name}` cannot be probed: {reason}")) {
            state.failure.get_or_insert(line);
        }
        let may_start = state.failure.is_none();
        if may_start {
            self.tell_refused(&mut state, pid);
            drop(state);
            self.look_at_start(pid, linked);
        }
        may_start
    }

    /// An object has been mapped, in which is the probe with that number on the command line.
    fn look_at_object(&self, pid: i32, index: usize) {
        if let (Ok(maps), Some(resolver)) = (Maps::read(pid), self.resolvers.get(index)) {
            self.overwritten.look_after(resolver, &maps, &self.objects);
        }
    }

    /// From now on it is told when a file is written to that any of the probes is in.
    pub(super) fn look_after_files(&self, maps: &Maps) {
        for resolver in &self.resolvers {
            self.overwritten.look_after(resolver, maps, &self.objects);
        }
    }

    /// Says which probes wait, and why, in a program that is about to start. Before it is linked, most do for that alone; what
    /// was never placed is told at the end.
    fn look_at_start(&self, pid: i32, linked: bool) {
        let Ok(maps) = Maps::read(pid) else { return };
        if let Some(line) = target::without_privileges(pid) {
            warn(&line);
        }
        self.name_implementations(&maps);
        self.look_after_files(&maps);
        for resolver in self.resolvers.iter().filter(|_| linked) {
            if let Err(error @ LocateError::NotMapped { .. }) = resolver.places(&maps) {
                warn(&format!("`{}` waits: {error}", resolver.spec()));
            }
        }
    }

    /// Keeps what the indirect functions come to in a process.
    pub(super) fn name_implementations(&self, maps: &Maps) {
        let names: Vec<Option<Vec<String>>> =
            self.resolvers.iter().map(|resolver| resolver.implementation_names(maps)).collect();
        for (row, names) in self.lock().rows.iter_mut().zip(names) {
            if let Some(names) = names {
                row.implementations = names;
            }
        }
    }

    /// Says which sites in process `pid` were left out, and why: one line for each reason.
    pub(super) fn tell_refused(&self, state: &mut State, pid: i32) {
        for Row { name, refused, .. } in state.rows.iter_mut() {
            let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (address, reason) in refused.drain(..) {
                reasons.entry(reason).or_default().push(self.symbolizer.place_in(pid, address).name());
            }
            for (reason, places) in reasons {
                warn(&format!("`{name}` leaves out {}: {reason}", places.join(", ")));
            }
        }
    }
}
