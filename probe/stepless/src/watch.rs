//! `stepless trace` and `stepless stat`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use probe::locate::LocateError;
use probe::maps::{self, Maps};
use probe::resolve::{Objects, Resolver, name_of};
use probe::spec::ProbeSpec;
use probe::warden::{
    self, Asked, Client, ClientStop, Event as EngineEvent, Fields, News, Place, Program, Record, Report,
};
use probe::{Action, ProbeId, RunEnd, SessionOptions, code};
use serde::Serialize;

use crate::args::{Format, Watch};
use crate::events::{Counts, Event, Events, print_counts};
use crate::progress::Progress;
use crate::signals::{self, Signals};
use crate::{Failure, target, warn};

/// Which of the two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each hit.
    Trace,
    /// The summary alone.
    Stat,
}

type Out = Box<dyn Write + Send>;

/// The bar of sites that are being probed.
const PLACING: &str = "{bar:30} {percent:>3} % {pos}/{len} instructions {eta} left  {wide_msg}";

pub(crate) fn run(arguments: &Watch, mode: Mode) -> Result<ExitCode, Failure> {
    if arguments.pid.is_some() != arguments.command.is_empty() {
        return Err(Failure::new("probe what? give either -p PID or -- CMD"));
    }
    if mode == Mode::Stat && arguments.format() == Format::Perfetto {
        return Err(Failure::new("stat prints no events, so it has no perfetto format; see trace"));
    }
    let objects = Arc::new(Objects::default());
    let resolvers = resolvers(arguments, &objects)?;
    if let Some(pid) = arguments.pid {
        check_places(pid, &resolvers)?;
    }
    let out = output(arguments)?;
    let shared = Arc::new(Shared::new(arguments, mode, &resolvers, objects, out));
    let signals = Signals::block();
    let result = serve(arguments, &resolvers, &shared, &signals)
        .and_then(|(client, probes)| finish(client, &probes, &shared, &signals, mode));
    // One that has ended the target, too, may have come just now. Not by this thread, for which SIGPIPE may be waiting.
    std::thread::scope(|scope| scope.spawn(|| signals.collect()).join().ok());
    let Some(signal) = signals.ending() else { return result };
    if let Err(Failure(line)) = result {
        warn(&line);
    }
    Ok(signals::end(signal))
}

/// Places the probes and hears of their hits. The target is as it was when this returns.
fn serve(
    arguments: &Watch,
    resolvers: &[Resolver],
    shared: &Arc<Shared>,
    signals: &Signals,
) -> Result<(Client, Vec<ProbeId>), Failure> {
    let mut client = start(arguments, shared, signals)?;
    let probes = place(&mut client, resolvers, shared)?;
    let goes_on = || !signals.is_interrupted() && shared.lock().broken.is_none();
    while client.run()? == RunEnd::StopRequested && goes_on() {}
    client.leave()?;
    Ok((client, probes))
}

/// Parses the probes, and finds what is wrong with those that can be looked up without a target.
fn resolvers(arguments: &Watch, objects: &Arc<Objects>) -> Result<Vec<Resolver>, Failure> {
    let mut resolvers = Vec::new();
    for text in &arguments.probes {
        let spec: ProbeSpec = text.parse()?;
        if arguments.pid.is_none() && matches!(spec, ProbeSpec::Address(_)) {
            return Err(Failure::new(format!("`{spec}` is an address, which means something only with -p")));
        }
        let resolver = Resolver::new(spec, Arc::clone(objects));
        // A process that runs may see other files than we do.
        if arguments.pid.is_none() {
            resolver.check()?;
        }
        resolvers.push(resolver);
    }
    Ok(resolvers)
}

/// Finds what is wrong with the probes in a process, before it is touched.
fn check_places(pid: i32, resolvers: &[Resolver]) -> Result<(), Failure> {
    target::check(pid)?;
    let maps = target::maps(pid)?;
    for resolver in resolvers {
        let spec = resolver.spec();
        let places = match resolver.places(&maps) {
            Ok(places) => places,
            // A file that is there may be mapped later.
            Err(LocateError::NotMapped { object }) if object.contains('/') => {
                resolver.check_for(pid)?;
                warn(&format!("{object} is not mapped in process {pid}; `{spec}` waits for it"));
                continue;
            }
            Err(LocateError::NotMapped { object }) => {
                let line = format!("process {pid} has not mapped {object}; give its path to wait for it");
                return Err(Failure::new(line));
            }
            Err(error) => return Err(error.into()),
        };
        for place in places.iter().filter(|_| !spec.is_many()) {
            let bytes = target::read_memory(pid, place.site.address, target::LONGEST)?;
            if let Err(why) = code::decode(&bytes, place.site.address) {
                return Err(Failure::new(format!("`{spec}` cannot be probed: {why}")));
            }
        }
    }
    Ok(())
}

/// Where the command prints.
fn output(arguments: &Watch) -> Result<Out, Failure> {
    Ok(match &arguments.output {
        Some(path) => {
            let named = |error| Failure::new(format!("{}: {error}", path.display()));
            Box::new(File::create(path).map_err(named)?)
        }
        None if arguments.pid.is_some() => Box::new(io::stdout()),
        None => Box::new(io::stderr()),
    })
}

/// What those share who hear of news.
struct Shared {
    names: Vec<String>,
    objects: Arc<Objects>,
    format: Format,
    printing: bool,
    limit: Option<u64>,
    state: Mutex<State>,
}

struct State {
    events: Events<Out>,
    /// Why printing has stopped.
    broken: Option<io::Error>,
    /// Whether the program runs, rather than its dynamic linker.
    started: bool,
    placed: Vec<u64>,
    /// By probe: the sites that were left out and have not been told about.
    refused: Vec<Vec<(u64, String)>>,
    /// Of a probe that is being placed on many sites.
    placing: Option<Progress>,
    failure: Option<String>,
    /// The requests that failed, and how, as far as told.
    failed: Vec<(String, Errno)>,
    /// How often the program has changed probed text.
    changed: u32,
    /// Which process could not be opened, and why, before any probe was placed.
    inaccessible: Option<String>,
}

impl Shared {
    fn new(arguments: &Watch, mode: Mode, resolvers: &[Resolver], objects: Arc<Objects>, out: Out) -> Shared {
        let names: Vec<String> = resolvers.iter().map(|resolver| resolver.spec().to_string()).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
        let format = arguments.format();
        let state = State {
            events: Events::new(out, format, width),
            broken: None,
            started: arguments.pid.is_some(),
            placed: vec![0; names.len()],
            refused: vec![Vec::new(); names.len()],
            placing: None,
            failure: None,
            failed: Vec::new(),
            changed: 0,
            inaccessible: None,
        };
        Shared {
            names,
            objects,
            format,
            printing: mode == Mode::Trace,
            limit: arguments.limit,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the warden does at each hit.
    fn program(&self) -> Program {
        let program = Program::new();
        let program = if self.limit.is_some() { program.shared_limit() } else { program };
        match (self.printing, self.format) {
            (false, _) => program,
            // The processor costs a file.
            (true, Format::Text) => program.record(Fields::new()),
            (true, _) => program.record(Fields::new().cpu()),
        }
    }

    /// The warden has news.
    fn hear(&self, news: &News, stop: &ClientStop, signals: &Signals) {
        match news {
            News::Hit(hit) => self.hit(hit, stop, signals),
            News::Event(event) => self.observe(event),
            News::Lost(1) => warn("1 event lost while stepless was stopped"),
            News::Lost(events) => warn(&format!("{events} events lost while stepless was stopped")),
            _ => {}
        }
    }

    /// A probe was hit.
    fn hit(&self, hit: &Record, stop: &ClientStop, signals: &Signals) {
        let mut state = self.lock();
        if state.broken.is_some() {
            return;
        }
        let event = Event {
            probe: self.names.get(hit.probe.index()).map_or("", String::as_str),
            pid: hit.pid,
            tid: hit.tid,
            cpu: hit.cpu,
            time_ns: hit.time_ns,
            ip: hit.ip,
            args: serde_json::Map::new(),
        };
        if let Err(error) = signals.writing(|| state.events.print(&event)) {
            state.broken = Some(error);
            stop.request();
        }
    }

    /// Something has happened to the target or to a probe.
    fn observe(&self, event: &EngineEvent) {
        let mut state = self.lock();
        match event {
            EngineEvent::Placed { probe, .. } => {
                if let Some(placed) = state.placed.get_mut(probe.index()) {
                    *placed += 1;
                }
            }
            EngineEvent::Refused { probe, pid, refusal } => {
                if let Some(refused) = state.refused.get_mut(probe.index()) {
                    refused.push((refusal.address, refusal.kind.clone()));
                }
                // Otherwise once all its sites have been seen to.
                if state.started && state.placing.is_none() {
                    self.tell_refused(&mut state, *pid);
                }
            }
            EngineEvent::Placing { probe, pid, done, total } => {
                let progress = state.placing.get_or_insert_with(|| {
                    let name = self.names.get(probe.index()).map_or("", String::as_str);
                    let progress = Progress::new(*total, PLACING);
                    progress.message(name.to_owned());
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
                let name = self.names.get(probe.index()).map_or("", String::as_str);
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
            EngineEvent::Inaccessible { pid, error } => {
                let line = inaccessible(*pid, error);
                if state.placed.iter().any(|&placed| placed > 0) {
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
            EngineEvent::Rejected { tid, error, .. } => {
                warn(&format!("the registers of thread {tid} could not be changed: {error}"));
            }
            _ => {}
        }
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
            let maps = Maps::read(pid).ok();
            let place = maps.and_then(|maps| place_name(&maps, &self.objects, address));
            place.map_or_else(|| format!("{address:#x}"), |place| format!("{address:#x} ({place})"))
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

    /// Process `pid` is about to start its program. Says whether it may: not if a probe cannot be placed.
    fn start(&self, pid: i32) -> bool {
        let mut state = self.lock();
        state.started = true;
        for (index, name) in self.names.iter().enumerate() {
            let placed = state.placed.get(index).is_some_and(|&placed| placed > 0);
            let refused = state.refused.get(index).and_then(|refused| refused.first()).cloned();
            if let (false, Some((_, reason))) = (placed, refused) {
                state.failure.get_or_insert_with(|| format!("`{name}` cannot be probed: {reason}"));
            }
        }
        let may_start = state.failure.is_none();
        if may_start {
            self.tell_refused(&mut state, pid);
        }
        may_start
    }

    /// Says which sites in process `pid` were left out, and why: one line for each reason.
    fn tell_refused(&self, state: &mut State, pid: i32) {
        let maps = Maps::read(pid).ok();
        for (name, refused) in self.names.iter().zip(&mut state.refused) {
            let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for (address, reason) in refused.drain(..) {
                let place = maps.as_ref().and_then(|maps| place_name(maps, &self.objects, address));
                reasons.entry(reason).or_default().push(place.unwrap_or_else(|| format!("{address:#x}")));
            }
            for (reason, places) in reasons {
                warn(&format!("`{name}` leaves out {}: {reason}", places.join(", ")));
            }
        }
    }
}

/// Attaches to the process or starts the command, by a warden, ready to be interrupted.
fn start(arguments: &Watch, shared: &Arc<Shared>, signals: &Signals) -> Result<Client, Failure> {
    let mut own =
        Command::new(warden::own_program().ok_or_else(|| Failure::new("/proc is missing; mount it"))?);
    own.arg(crate::WARDEN);
    let mut client = Client::start(own)?;
    let (observer, stop, heard) = (Arc::clone(shared), client.stop_handle(), signals.clone());
    client.observe(move |news| observer.hear(&news, &stop, &heard));
    signals.watch(client.stop_handle());
    let options = SessionOptions {
        follow: arguments.follow,
        kill_with: arguments.kill_with,
        ..SessionOptions::default()
    };
    match (arguments.pid, arguments.command.split_first()) {
        (Some(pid), _) => client.attach(pid, options)?,
        (None, Some((program, rest))) => {
            let mut command = Command::new(program);
            command.args(rest);
            signals.as_inherited(|| client.launch(command, options))?;
            signals.launched(client.pid());
        }
        (None, None) => return Err(Failure::new("probe what? give either -p PID or -- CMD")),
    }
    if let Some((pid, error)) = client.inaccessible() {
        shared.lock().inaccessible = Some(inaccessible(pid, error));
    }
    if let Some(limit) = shared.limit {
        client.limit(limit)?;
    }
    Ok(client)
}

/// Why a process has no probes, and what to do.
fn inaccessible(pid: i32, error: &io::Error) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    let name = name.map(|name| format!(" ({})", name.trim_end())).unwrap_or_default();
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it may not be read by this user; be root, or make its file readable"
        }
        io::ErrorKind::NotFound => "mount /proc",
        _ => "it runs without probes",
    };
    format!("the memory of process {pid}{name} cannot be opened: {error}; {advice}")
}

fn place(client: &mut Client, resolvers: &[Resolver], shared: &Arc<Shared>) -> Result<Vec<ProbeId>, Failure> {
    let launched = client.is_launched();
    let mut probes = Vec::new();
    for (index, resolver) in resolvers.iter().enumerate() {
        let probe = match client.probe(resolver.spec().clone(), shared.program()) {
            Ok(probe) => probe,
            Err(error) => {
                if launched {
                    client.kill()?;
                }
                return Err(Failure::new(format!("`{}`: {error}", resolver.spec())));
            }
        };
        probes.push(probe);
        let Some(report) = client.placement(probe) else { continue };
        let mut state = shared.lock();
        if let Some(placed) = state.placed.get_mut(index) {
            *placed += report.sites;
        }
        if let Some(refused) = state.refused.get_mut(index) {
            let found = report.refused.iter().map(|refusal| (refusal.address, refusal.kind.clone()));
            refused.extend(found);
        }
    }
    if launched {
        watch_start(client, shared);
    } else {
        shared.tell_refused(&mut shared.lock(), client.pid());
    }
    Ok(probes)
}

/// Lets the program start only if every probe that can be placed by then could be.
fn watch_start(client: &mut Client, shared: &Arc<Shared>) {
    let handler = Arc::clone(shared);
    let start = move |hit: &mut Asked<'_>| {
        if !handler.start(hit.pid()) {
            // It has not executed an instruction of its own yet.
            send(hit.pid(), Signal::SIGKILL);
        }
        Action::Remove
    };
    let placed = client.entry().map(|entry| client.probe_with(Place::Address(entry), Program::new(), start));
    if !matches!(placed, Some(Ok(_))) {
        // Its first instruction cannot be probed. Then mistakes are told when they are found.
        shared.start(client.pid());
    }
}

/// Sends a signal to a process, which may have ended meanwhile.
fn send(pid: i32, signal: Signal) {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => warn(&format!("{signal} could not be sent to process {pid}: {}", error.desc())),
    }
}

/// The function in which `address` lies, and how far behind its start.
fn place_name(maps: &Maps, objects: &Objects, address: u64) -> Option<String> {
    let mapping = maps::find(maps, address)?;
    let elf = objects.mapped(maps, mapping).ok()?;
    name_of(&elf, elf.address_of_offset(mapping.file_offset(address)?)?)
}

/// Prints the summary, and finds the exit status.
fn finish(
    mut client: Client,
    probes: &[ProbeId],
    shared: &Shared,
    signals: &Signals,
    mode: Mode,
) -> Result<ExitCode, Failure> {
    let launched = client.is_launched();
    let reports = probes.iter().map(|&probe| Ok(client.report(probe)?.unwrap_or_default()));
    let reports = reports.collect::<Result<Vec<Report>, Failure>>()?;
    signals.release();
    let counts = counts(&reports, shared);
    let mut state = shared.lock();
    if let Some(failure) = state.failure.take() {
        return Err(Failure(failure));
    }
    let ending = signals.ending().is_some();
    let obstacles = obstacles(&reports, &state, shared);
    if launched && !ending && state.placed.iter().all(|&placed| placed == 0) {
        drop(state);
        return Err(nothing_placed(&mut client, &obstacles, signals));
    }
    obstacles.iter().for_each(|line| warn(line));
    // Interrupted, it goes on without probes, and its status is ours; that may take long.
    let mut wait = || if launched && !ending { client.wait() } else { client.status() };
    let needs_status = mode == Mode::Stat && shared.format == Format::Json;
    let early = if needs_status { wait() } else { None };
    let printed = signals.writing(|| print(&mut state, &counts, early.map(shell_status), shared, mode));
    drop(state);
    let status = early.or_else(wait).map(shell_status);
    signals.over();
    if let Err(error) = printed
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        return Err(Failure::new(format!("printing failed: {error}")));
    }
    let status = status.filter(|_| launched).unwrap_or(0);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

/// Why probes, or processes that should have them, have none: a line for each.
fn obstacles(reports: &[Report], state: &State, shared: &Shared) -> Vec<String> {
    let pending = |(report, name): (&Report, &String)| {
        let error = report.pending.as_ref()?;
        Some(format!("`{name}` was never placed: {error}"))
    };
    let pending = reports.iter().zip(&shared.names).filter_map(pending);
    state.inaccessible.clone().into_iter().chain(pending).collect()
}

/// A command that ran without a probe.
fn nothing_placed(client: &mut Client, obstacles: &[String], signals: &Signals) -> Failure {
    let status = client.wait().map(shell_status);
    signals.over();
    let why = obstacles.first().map_or("no probe was ever placed", String::as_str);
    let status = status.map_or_else(|| "an unknown status".to_owned(), |status| format!("status {status}"));
    Failure::new(format!("{why}; the command ran without probes and ended with {status}"))
}

fn counts(reports: &[Report], shared: &Shared) -> Vec<Counts> {
    let count = |(report, name): (&Report, &String)| {
        let probe = name.clone();
        let probe::Counters { hits, emulated, native, faulted, filtered, missed, .. } = report.counters;
        Counts { probe, hits, emulated, faulted, filtered, missed, native }
    };
    reports.iter().zip(&shared.names).map(count).collect()
}

fn print(
    state: &mut State,
    counts: &[Counts],
    target_status: Option<i32>,
    shared: &Shared,
    mode: Mode,
) -> io::Result<()> {
    #[derive(Serialize)]
    struct Document<'a> {
        probes: &'a [Counts],
        target_status: Option<i32>,
    }
    if mode == Mode::Trace {
        let finished = match state.broken.take() {
            Some(error) => Err(error),
            None => state.events.finish(),
        };
        // The summary may have a reader yet.
        print_counts(&mut io::stderr(), counts)?;
        return finished;
    }
    let out = state.events.out();
    if shared.format == Format::Json {
        let mut line = serde_json::to_vec(&Document { probes: counts, target_status })?;
        line.push(b'\n');
        out.write_all(&line)?;
        return out.flush();
    }
    print_counts(out, counts)
}

/// The status as a shell has it: 128 and the signal's number for a process that was killed.
fn shell_status(status: ExitStatus) -> i32 {
    const KILLED: i32 = 128;
    status.code().unwrap_or_else(|| KILLED + status.signal().unwrap_or(0))
}
