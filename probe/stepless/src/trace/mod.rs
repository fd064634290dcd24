//! `stepless trace` and `stepless stat`, and what `stepless step` has in common with them.

mod overwritten;
mod places;
mod rows;
mod state;
mod summary;
pub(crate) mod what;

use std::collections::BTreeSet;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use probe::arguments::{Injection, Pick};
use probe::maps::Maps;
use probe::resolve::{Objects, Resolver};
use probe::warden::Client;
use probe::{ProbeId, RunEnd, SessionOptions};

use crate::args::{Format, Tracing};
use crate::run::{self, Run, inaccessible};
use crate::signals::Signals;
use crate::step::Steps;
use crate::{Failure, target};

use places::{check_places, place, resolvers};
use state::Shared;
use summary::finish;
use what::What;

/// Which of the commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each hit.
    Trace,
    /// The summary alone.
    Stat,
    /// Each instruction from a hit on.
    Step(Steps),
}

pub(crate) fn run(arguments: &Tracing, mode: Mode) -> Result<ExitCode, Failure> {
    run_with(arguments, mode, &[])
}

/// The same, where something is done to threads at the hits of each probe, which are printed then.
pub(crate) fn run_with(
    arguments: &Tracing,
    mode: Mode,
    injections: &[(Injection, Pick)],
) -> Result<ExitCode, Failure> {
    if arguments.attaches() != arguments.command.is_empty() {
        return Err(Failure::new("probe what? give either -p PID or -- CMD"));
    }
    check_format(arguments, mode)?;
    let objects = run::objects(&arguments.debug_file)?;
    let what = What::of_all(arguments, mode, injections)?;
    let resolvers = resolvers(arguments, &objects)?;
    let targets = target::named(&arguments.pid, &arguments.tid)?;
    let targets = target::checked(targets, |pid| check_places(pid, &resolvers))?;
    let out = run::output(arguments.output.as_deref(), arguments.attaches())?;
    let ahead = Arc::clone(&objects);
    let shared = Arc::new(Shared::new(arguments, mode, &resolvers, what, objects, out));
    let signals = Signals::block();
    if mode == Mode::Trace {
        read_ahead(&resolvers, ahead);
    }
    let result = serve(arguments, &targets, &resolvers, &shared, &signals)
        .and_then(|(client, probes)| finish(client, &probes, &shared, &signals, mode));
    run::end(result, &signals)
}

/// Reads the debug information that events are to be shown with, while the warden reads it to place the probes.
fn read_ahead(resolvers: &[Resolver], objects: Arc<Objects>) {
    let named = resolvers.iter().filter_map(|resolver| resolver.spec().object());
    // As the kernel is going to name them.
    let files =
        named.filter(|object| object.contains('/')).filter_map(|object| std::fs::canonicalize(object).ok());
    let files: BTreeSet<PathBuf> = files.collect();
    if !files.is_empty() {
        // Nobody waits for it: who needs it sooner waits for what is being read.
        std::thread::spawn(move || {
            for file in files {
                let _ = objects.open(&file).map(|elf| elf.debug_info());
            }
        });
    }
}

/// Places the probes and hears of their hits. The target is as it was when this returns.
fn serve(
    arguments: &Tracing,
    targets: &[i32],
    resolvers: &[Resolver],
    shared: &Arc<Shared>,
    signals: &Signals,
) -> Result<(Client, Vec<ProbeId>), Failure> {
    let mut client = start(arguments, targets, shared, signals)?;
    let probes = place(&mut client, resolvers, shared)?;
    for maps in targets.iter().filter_map(|&pid| Maps::read(pid).ok()) {
        shared.look_after_files(&maps);
    }
    let goes_on = || {
        let state = shared.lock();
        !signals.is_interrupted() && state.broken.is_none() && !state.is_over
    };
    let deadline = arguments.duration.and_then(|time| Instant::now().checked_add(time));
    let mut run = || match deadline {
        Some(deadline) => client.run_for(deadline.saturating_duration_since(Instant::now())),
        None => client.run(),
    };
    while run()? == RunEnd::StopRequested && goes_on() {}
    client.leave()?;
    Ok((client, probes))
}

/// Finds wishes that go together badly.
fn check_format(arguments: &Tracing, mode: Mode) -> Result<(), Failure> {
    let refused = |what: &str| Err(Failure::new(what));
    match (mode, arguments.format()) {
        (Mode::Stat, Format::Perfetto) => {
            refused("stat prints no events, so it has no perfetto format; see trace")
        }
        (Mode::Stat, Format::Tree) => refused("stat prints no events, so it has no tree format; see trace"),
        (Mode::Step(_), Format::Perfetto | Format::Tree | Format::Folded) => {
            refused("step prints text or JSON; see trace for the other formats")
        }
        (Mode::Step(_), _) if arguments.format_event.is_some() || arguments.stack.is_some() => {
            refused("step prints instructions, not events; see trace for --format-event and --stack")
        }
        (Mode::Step(_), _) if !arguments.histograms.is_empty() => {
            refused("step adds nothing up, so it has no --histogram; see stat")
        }
        (Mode::Trace, _) if !arguments.histograms.is_empty() => {
            refused("trace adds nothing up, so it has no --histogram; see stat")
        }
        (Mode::Trace, Format::Perfetto) if arguments.output.is_none() => {
            // What a command prints would be in it.
            let to_people = !arguments.attaches() || io::stdout().is_terminal();
            if !to_people {
                return Ok(());
            }
            refused("the perfetto format is not text; give a file for it by -o FILE")
        }
        _ => Ok(()),
    }
}

/// Attaches to the process or starts the command, by a warden, ready to be interrupted.
fn start(
    arguments: &Tracing,
    targets: &[i32],
    shared: &Arc<Shared>,
    signals: &Signals,
) -> Result<Client, Failure> {
    let options = SessionOptions {
        follow: arguments.follow,
        kill_with: arguments.kill_with,
        hardware: arguments.hardware,
        ..SessionOptions::default()
    };
    let run = Run { targets, command: &arguments.command, options, debug_files: &arguments.debug_file };
    let (observer, heard) = (Arc::clone(shared), signals.clone());
    let mut client = run.start(signals, |stop| Box::new(move |news| observer.hear(&news, &stop, &heard)))?;
    if let Some((pid, error)) = client.inaccessible() {
        shared.lock().inaccessible = Some(inaccessible(pid, error));
    }
    if shared.drops {
        client.drop_when_full(true)?;
    }
    if let Some(limit) = shared.limit {
        client.limit(limit)?;
    }
    Ok(client)
}
