//! `stepless trace` and `stepless stat`.

mod places;
mod rows;
mod state;
mod summary;
pub(crate) mod what;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use anstream::{AutoStream, ColorChoice};
use probe::resolve::{Objects, Resolver};
use probe::warden::{self, Client};
use probe::{ProbeId, RunEnd, SessionOptions};

use crate::args::{Format, Tracing};
use crate::signals::{self, Signals};
use crate::{Failure, target, warn};

use places::{check_places, place, resolvers};
use state::Shared;
use summary::finish;
use what::What;

/// Which of the two commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Each hit.
    Trace,
    /// The summary alone.
    Stat,
}

type Out = Box<dyn Write + Send>;

pub(crate) fn run(arguments: &Tracing, mode: Mode) -> Result<ExitCode, Failure> {
    if arguments.attaches() != arguments.command.is_empty() {
        return Err(Failure::new("probe what? give either -p PID or -- CMD"));
    }
    check_format(arguments, mode)?;
    let objects = Arc::new(Objects::default());
    for path in &arguments.debug_file {
        let named = |error| Failure::new(format!("{}: {error}", path.display()));
        if !probe::census::looks_like_elf(path).map_err(named)? {
            return Err(Failure::new(format!("{} is not an ELF file", path.display())));
        }
        objects.add_debug_file(path.clone());
    }
    let what = What::of_all(arguments, mode)?;
    let resolvers = resolvers(arguments, &objects)?;
    let targets = target::named(&arguments.pid, &arguments.tid)?;
    for &pid in &targets {
        check_places(pid, &resolvers)?;
    }
    let out = output(arguments)?;
    let shared = Arc::new(Shared::new(arguments, mode, &resolvers, what, objects, out));
    let signals = Signals::block();
    let result = serve(arguments, &targets, &resolvers, &shared, &signals)
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
    arguments: &Tracing,
    targets: &[i32],
    resolvers: &[Resolver],
    shared: &Arc<Shared>,
    signals: &Signals,
) -> Result<(Client, Vec<ProbeId>), Failure> {
    let mut client = start(arguments, targets, shared, signals)?;
    let probes = place(&mut client, resolvers, shared)?;
    let goes_on = || !signals.is_interrupted() && shared.lock().broken.is_none();
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

/// Where the command prints, and whether in colours.
fn output(arguments: &Tracing) -> Result<(Out, bool), Failure> {
    let coloured = |choice| choice != ColorChoice::Never;
    Ok(match &arguments.output {
        Some(path) => {
            let named = |error| Failure::new(format!("{}: {error}", path.display()));
            (Box::new(File::create(path).map_err(named)?), false)
        }
        None if arguments.attaches() => (Box::new(io::stdout()), coloured(AutoStream::choice(&io::stdout()))),
        None => (Box::new(io::stderr()), coloured(AutoStream::choice(&io::stderr()))),
    })
}

/// Attaches to the process or starts the command, by a warden, ready to be interrupted.
fn start(
    arguments: &Tracing,
    targets: &[i32],
    shared: &Arc<Shared>,
    signals: &Signals,
) -> Result<Client, Failure> {
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
        hardware: arguments.hardware,
        ..SessionOptions::default()
    };
    for &pid in targets {
        client.attach(pid, options)?;
    }
    if let Some((program, rest)) = arguments.command.split_first() {
        let mut command = Command::new(program);
        command.args(rest);
        signals.as_inherited(|| client.launch(command, options))?;
        signals.launched(client.pid());
    }
    if let Some((pid, error)) = client.inaccessible() {
        shared.lock().inaccessible = Some(inaccessible(pid, error));
    }
    if shared.drops {
        client.drop_when_full(true)?;
    }
    if !arguments.debug_file.is_empty() {
        client.debug_files(&arguments.debug_file)?;
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
