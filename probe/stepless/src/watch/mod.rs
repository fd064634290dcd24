//! `stepless watch`.

mod print;
mod summary;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use probe::arguments::Template;
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use probe::stacks::Symbolizer;
use probe::warden::{Client, ClientStop, Event, Fields, News, Program};
use probe::watch::{How, Until, Watch, WatchId};
use probe::{ProbeId, RunEnd, SessionOptions};

use crate::args::MOST_FRAMES;
use crate::run::{self, Run};
use crate::signals::Signals;
use crate::trace::what::parse_duration;
use crate::{Failure, target, warn};

use print::Printer;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What is watched: a variable, or any expression of memory, such as 'counter', 'libfoo.so:counter', 'list->length' or
    /// '*(int *)0x404040'; may be given more than once.
    #[arg(long, value_name = "EXPRESSION", required = true)]
    on: Vec<String>,
    /// Watch from the hits of PROBE on, with what names and registers mean there; may be given more than once. Otherwise
    /// from the start, with the names of the main program.
    #[arg(short = 'e', value_name = "PROBE")]
    probes: Vec<String>,
    /// For how long: until the function of PROBE returns (`return`, which is so with -e), as long as the process lives
    /// (`end`, which is so without), for N changes, or until an expression is not 0 after a change.
    #[arg(long, value_name = "return|end|N|EXPRESSION")]
    until: Option<String>,
    /// How: by debug registers, of which a thread has four, and which see all threads; or by running on, which emulates the
    /// thread of a hit, and sees that alone.
    #[arg(long, value_enum, default_value_t = By::Either)]
    by: By,
    /// A running process, or all that are called NAME or run a program of that name; may be given more than once.
    #[arg(short, value_name = "PID|NAME", allow_hyphen_values = true)]
    pid: Vec<String>,
    /// Print JSON, one line for each change.
    #[arg(long)]
    json: bool,
    /// Print to FILE rather than to stdout (with -p) or stderr (with a command).
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show the stack of each change, with N functions at most.
    #[arg(
        long, value_name = "N", num_args = 0..=1, default_missing_value = "128",
        value_parser = clap::value_parser!(u16).range(1..=MOST_FRAMES)
    )]
    stack: Option<u16>,
    /// Take symbols and debug information from FILE where it is the debug file of an object, wherever it lies; may be
    /// given more than once.
    #[arg(long, value_name = "FILE")]
    debug_file: Vec<PathBuf>,
    /// Watch in the processes that the target starts, too.
    #[arg(long)]
    follow: bool,
    /// Change no byte of the target's text: place PROBE by hardware breakpoints, which take debug registers, too.
    #[arg(long)]
    hardware: bool,
    /// Stop after N changes, of all that is watched together.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Stop after TIME, such as 10s, 500ms or 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Kill CMD when stepless ends, however that comes about. Otherwise CMD runs on without being watched.
    #[arg(long, conflicts_with = "pid")]
    kill_with: bool,
    /// The command to start and watch, after `--`.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// How something is watched, as a user writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// By debug registers, if four are enough; otherwise, with -e, by running on.
    Either,
    /// By debug registers.
    Hardware,
    /// By running on.
    RunOn,
}

impl Arguments {
    fn attaches(&self) -> bool {
        !self.pid.is_empty()
    }

    fn until(&self) -> Until {
        let number = |text: &str| text.trim().parse::<u64>().ok().filter(|&changes| changes > 0);
        match self.until.as_deref() {
            None if self.probes.is_empty() => Until::End,
            None | Some("return") => Until::Return,
            Some("end") => Until::End,
            Some(text) => match number(text) {
                Some(changes) => Until::Changes(changes),
                None => Until::Condition(text.to_owned()),
            },
        }
    }

    /// What is to be watched.
    fn watches(&self) -> Result<Vec<Watch>, Failure> {
        let how = match self.by {
            By::Either => How::Either,
            By::Hardware => How::Hardware,
            By::RunOn => How::RunOn,
        };
        let watch = |text: &String| {
            let watch = Watch::new(text)?.until(self.until()).how(how);
            Ok(if self.probes.is_empty() { watch } else { watch.at_hits() })
        };
        self.on.iter().map(watch).collect()
    }

    fn fields(&self) -> Fields {
        // The first is of the thread's place itself.
        Fields::new().comm().stack(self.stack.map_or(0, |frames| frames.saturating_add(1)))
    }
}

/// A probe at whose hits something is watched.
struct Begins {
    spec: ProbeSpec,
    template: Template,
}

impl Begins {
    fn parse(text: &str) -> Result<Begins, Failure> {
        let (spec, rest) = ProbeSpec::parse_with_rest(text)?;
        if spec.on_return {
            return Err(Failure::new(format!(
                "`{text}`: watching begins where a function is entered, not where it returns"
            )));
        }
        let template = Template::behind(&spec, rest.text)?;
        Ok(Begins { spec, template })
    }
}

/// What those share who hear of news.
struct Heard {
    printer: Printer,
    /// What the kernel has refused, and what could not be watched, as far as told.
    told: BTreeSet<String>,
    refused: Option<String>,
    broken: Option<std::io::Error>,
    lost: u64,
}

impl Heard {
    /// Says it, unless something of its kind was said.
    fn tell_once(&mut self, kind: String, line: &str) {
        if self.told.insert(kind) {
            warn(line);
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    if arguments.attaches() != arguments.command.is_empty() {
        return Err(Failure::new("watch whom? give either -p PID or -- CMD"));
    }
    run::check_debug_files(&arguments.debug_file)?;
    let watches = arguments.watches()?;
    let begins: Vec<Begins> =
        arguments.probes.iter().map(|text| Begins::parse(text)).collect::<Result<_, _>>()?;
    let objects = Arc::new(Objects::default());
    arguments.debug_file.iter().for_each(|path| objects.add_debug_file(path.clone()));
    let targets = target::checked(target::named(&arguments.pid, &[])?, target::check)?;
    if !arguments.attaches() {
        let resolver = |begins: &Begins| Resolver::new(begins.spec.clone(), Arc::clone(&objects));
        begins.iter().try_for_each(|begins| resolver(begins).check())?;
    }
    let (out, coloured) = run::output(arguments.output.as_deref(), arguments.attaches())?;
    let names = arguments.on.clone();
    let printer = Printer::new(out, coloured, arguments.json, names, Symbolizer::new(objects));
    let heard = Heard { printer, told: BTreeSet::new(), refused: None, broken: None, lost: 0 };
    let heard = Rc::new(RefCell::new(heard));
    let signals = Signals::block();
    let result = serve(arguments, &targets, watches, &begins, &signals, &heard)
        .and_then(|(client, made)| finish(arguments, client, &made, &signals, &heard));
    run::end(result, &signals)
}

/// What the warden knows of by number.
struct Made {
    watches: Vec<WatchId>,
    probes: Vec<ProbeId>,
}

/// Watches. The target is as it was when this returns.
fn serve(
    arguments: &Arguments,
    targets: &[i32],
    watches: Vec<Watch>,
    begins: &[Begins],
    signals: &Signals,
    heard: &Rc<RefCell<Heard>>,
) -> Result<(Client, Made), Failure> {
    let options = SessionOptions {
        follow: arguments.follow,
        kill_with: arguments.kill_with,
        hardware: arguments.hardware,
        ..SessionOptions::default()
    };
    let (command, debug_files) = (&arguments.command[..], &arguments.debug_file[..]);
    let run = Run { targets, command, options, debug_files };
    let (listener, writing) = (Rc::clone(heard), signals.clone());
    let mut client = run.start(signals, |stop| {
        Box::new(move |news| hear(&mut listener.borrow_mut(), news, &stop, &writing))
    })?;
    if let Some((pid, error)) = client.inaccessible() {
        let line = run::inaccessible(pid, error);
        return Err(give_up(&mut client, Failure(line)));
    }
    if let Some(limit) = arguments.limit {
        client.limit(limit)?;
    }
    let made = match place(&mut client, arguments, watches, begins) {
        Ok(made) => made,
        Err(failure) => return Err(give_up(&mut client, failure)),
    };
    let goes_on = || !signals.is_interrupted() && heard.borrow().broken.is_none();
    let deadline = arguments.duration.and_then(|time| Instant::now().checked_add(time));
    let mut run = || match deadline {
        Some(deadline) => client.run_for(deadline.saturating_duration_since(Instant::now())),
        None => client.run(),
    };
    while run()? == RunEnd::StopRequested && goes_on() {}
    client.leave()?;
    Ok((client, made))
}

/// A command that cannot be watched is not run.
fn give_up(client: &mut Client, failure: Failure) -> Failure {
    if client.is_launched()
        && let Err(error) = client.kill()
    {
        warn(&error.to_string());
    }
    failure
}

fn place(
    client: &mut Client,
    arguments: &Arguments,
    watches: Vec<Watch>,
    begins: &[Begins],
) -> Result<Made, Failure> {
    let mut made = Made { watches: Vec::new(), probes: Vec::new() };
    for watch in watches {
        let name = watch.expression().to_owned();
        let watched = client.watch(watch, arguments.fields());
        made.watches.push(watched.map_err(|error| Failure::new(format!("`{name}`: {error}")))?);
    }
    for Begins { spec, template } in begins {
        let mut program = Program::new();
        if !template.is_empty() {
            program = program.template(template.clone());
        }
        let program = made.watches.iter().fold(program, |program, &watch| program.watch(watch));
        let placed = client.probe(spec.clone(), program);
        made.probes.push(placed.map_err(|error| Failure::new(format!("`{spec}`: {error}")))?);
    }
    Ok(made)
}

fn hear(heard: &mut Heard, news: News, stop: &ClientStop, signals: &Signals) {
    match news {
        News::Change(change) if heard.broken.is_none() => {
            if let Err(error) = signals.writing(|| heard.printer.change(&change)) {
                heard.broken = Some(error);
                stop.request();
            }
        }
        News::Lost(changes) => heard.lost += changes,
        News::Event(event) => hear_event(heard, &event),
        _ => {}
    }
}

fn hear_event(heard: &mut Heard, event: &Event) {
    match event {
        Event::Watching { watch, watching, .. } => heard.printer.watching(*watch, watching),
        Event::NotWatched { watch, pid, reason, .. } => {
            let name = heard.printer.name(*watch);
            let line = format!("`{name}` is not watched: {reason}");
            heard.refused.get_or_insert_with(|| line.clone());
            heard.tell_once(line.clone(), &format!("process {pid}: {line}"));
        }
        Event::WatchEnded { watch, pid, ending, .. } if ending.starts_with("it is elsewhere") => {
            warn(&format!("process {pid}: `{}`: {ending}", heard.printer.name(*watch)));
        }
        Event::Unresolvable { error, .. } => heard.tell_once(error.clone(), error),
        Event::Refused { refusal, .. } => {
            let line = format!("{:#x} is left out: {}", refusal.address, refusal.kind);
            heard.tell_once(line.clone(), &line);
        }
        Event::Failed { pid, tid, request, error } => {
            let why = error.desc();
            let line = format!("{request} failed for thread {tid} of process {pid}: {why}");
            heard.tell_once(format!("{request}: {why}"), &line);
        }
        Event::Unwatched { pid, tid, error, .. } => {
            let why = error.desc();
            let line = format!(
                "thread {tid} of process {pid} has no debug register for it ({why}), and maybe more threads; what they \
                 write is not seen"
            );
            heard.tell_once(format!("perf_event_open: {why}"), &line);
        }
        Event::Not64Bit { pid } => heard.tell_once("not 64-bit".to_owned(), &run::not_64_bit(*pid)),
        Event::Inaccessible { pid, error } => warn(&run::inaccessible(*pid, error)),
        _ => {}
    }
}

/// Prints the summary, and finds the exit status.
fn finish(
    arguments: &Arguments,
    mut client: Client,
    made: &Made,
    signals: &Signals,
    heard: &RefCell<Heard>,
) -> Result<ExitCode, Failure> {
    let launched = client.is_launched();
    let mut reports = Vec::new();
    for &watch in &made.watches {
        reports.push(client.watch_report(watch)?.unwrap_or_default());
    }
    let mut sites = 0;
    for &probe in &made.probes {
        sites += client.report(probe)?.map_or(0, |report| report.sites);
    }
    signals.release();
    let ending = signals.ending().is_some();
    let nothing = reports.iter().all(|report| report.started == 0);
    let refused = heard.borrow_mut().refused.take();
    let why = match (nothing && !ending, refused) {
        (true, Some(refused)) => Some(refused),
        (true, None) if !made.probes.is_empty() && sites == 0 => {
            Some("no probe was ever placed, so that nothing was watched".to_owned())
        }
        (true, None) if made.probes.is_empty() => Some("what is to be watched was never mapped".to_owned()),
        _ => None,
    };
    if why.is_none() {
        signals.writing(|| summary::print(arguments, &reports, heard.borrow().lost));
    }
    let status = if launched && !ending { client.wait() } else { client.status() };
    signals.over();
    if let Some(why) = why {
        let status = status.filter(|_| launched).map(run::shell_status);
        let status = status.map(|status| format!("; the command has ended with status {status}"));
        return Err(Failure(why + &status.unwrap_or_default()));
    }
    if let Some(error) = heard.borrow_mut().broken.take()
        && error.kind() != std::io::ErrorKind::BrokenPipe
    {
        return Err(Failure::new(format!("printing failed: {error}")));
    }
    let status = status.filter(|_| launched).map_or(0, run::shell_status);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}
