//! `stepless cover`.

mod cobertura;
mod document;
mod findings;
mod lcov;
mod summary;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use probe::coverage::{Coverage, Level, Plan};
use probe::warden::{Client, Event, News};
use probe::{RunEnd, SessionOptions};

use crate::output::several;
use crate::progress::Progress;
use crate::run::{self, Out, Run};
use crate::signals::Signals;
use crate::trace::what::parse_duration;
use crate::{Failure, target, warn};

use findings::Findings;

#[derive(Debug, Args)]
pub(crate) struct Cover {
    /// A running process, or all that are called NAME or run a program of that name; may be given more than once.
    #[arg(short, value_name = "PID|NAME", allow_hyphen_values = true)]
    pid: Vec<String>,
    /// Cover the objects whose path or file name matches, rather than the program and those outside of the system's
    /// directories; may be given more than once.
    #[arg(long, value_name = "GLOB")]
    object: Vec<String>,
    /// Cover the sources whose path matches, or that lie in such a directory, rather than all but those of the system, the
    /// compiler, and packages that were fetched; may be given more than once.
    #[arg(long, value_name = "GLOB")]
    source: Vec<String>,
    /// What is covered.
    #[arg(long, value_enum, default_value_t = At::Line)]
    level: At,
    /// Count how often each is reached. Otherwise a probe goes when it is hit, and costs nothing from then on.
    #[arg(long)]
    count: bool,
    /// Cover the processes that the target starts, too.
    #[arg(long)]
    follow: bool,
    /// Add what an earlier run has written to FILE, as JSON or LCOV; may be given more than once. Without a target, only
    /// that.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    merge: Vec<PathBuf>,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    /// Print JSON: the same as --format json.
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print the sources as well, with how often each line was reached before it. Of the text format.
    #[arg(long)]
    annotate: bool,
    /// Print to FILE rather than to stdout (with -p) or stderr (with a command).
    #[arg(short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Take symbols and debug information from FILE where it is the debug file of an object, wherever it lies; may be
    /// given more than once.
    #[arg(long, value_name = "FILE")]
    debug_file: Vec<PathBuf>,
    /// Stop covering after TIME, such as 10s, 500ms or 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Kill CMD when stepless ends, however that comes about. Otherwise CMD runs on without probes.
    #[arg(long, conflicts_with = "pid")]
    kill_with: bool,
    /// The command to start and cover, after `--`.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// The levels, as a user writes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum At {
    /// Lines of the source, by debug information.
    Line,
    /// Basic blocks; needs no debug information.
    Block,
    /// Each instruction; needs none, either.
    Instruction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table by file and function.
    Text,
    /// As geninfo(1) writes it, for genhtml and others.
    Lcov,
    /// The XML of Cobertura, as continuous integration reads it.
    Cobertura,
    /// One JSON document.
    Json,
}

impl Cover {
    fn plan(&self) -> Plan {
        let level = match self.level {
            At::Line => Level::Line,
            At::Block => Level::Block,
            At::Instruction => Level::Instruction,
        };
        let plan = Plan::new().level(level);
        let plan = if self.count { plan.counting() } else { plan };
        let plan = self.object.iter().fold(plan, |plan, pattern| plan.object(pattern));
        self.source.iter().fold(plan, |plan, pattern| plan.source(pattern))
    }

    fn form(&self) -> Form {
        if self.json { Form::Json } else { self.format }
    }
}

/// What those share who hear of news.
#[derive(Default)]
struct Heard {
    placing: Option<Progress>,
    /// What the kernel has refused, as far as told.
    failed: BTreeSet<String>,
    inaccessible: Option<String>,
    /// How often sites were lost since the program has changed its text.
    changed: u64,
}

pub(crate) fn run(arguments: &Cover) -> Result<ExitCode, Failure> {
    let attaches = !arguments.pid.is_empty();
    let merges_only = !attaches && arguments.command.is_empty() && !arguments.merge.is_empty();
    if attaches != arguments.command.is_empty() && !merges_only {
        return Err(Failure::new("cover what? give either -p PID or -- CMD, or only --merge FILE"));
    }
    if arguments.annotate && arguments.form() != Form::Text {
        return Err(Failure::new("only the text format has --annotate"));
    }
    run::check_debug_files(&arguments.debug_file)?;
    let mut findings = Findings::default();
    for path in &arguments.merge {
        findings.merge(findings::read(path)?)?;
    }
    let targets = target::checked(target::named(&arguments.pid, &[])?, target::check)?;
    let (out, _) = run::output(arguments.output.as_deref(), attaches || merges_only)?;
    if merges_only {
        print(arguments, &findings, out)?;
        return Ok(ExitCode::SUCCESS);
    }
    let signals = Signals::block();
    let heard = Rc::default();
    let result = serve(arguments, &targets, &signals, &heard)
        .and_then(|(client, coverage)| finish(arguments, client, &coverage, findings, out, &signals, &heard));
    run::end(result, &signals)
}

/// Covers the target, which is as it was when this returns.
fn serve(
    arguments: &Cover,
    targets: &[i32],
    signals: &Signals,
    heard: &Rc<RefCell<Heard>>,
) -> Result<(Client, Coverage), Failure> {
    let options = SessionOptions {
        follow: arguments.follow,
        kill_with: arguments.kill_with,
        ..SessionOptions::default()
    };
    let (command, debug_files) = (&arguments.command[..], &arguments.debug_file[..]);
    let run = Run { targets, command, options, debug_files };
    let listener = Rc::clone(heard);
    let mut client = run.start(signals, |_| Box::new(move |news| hear(&mut listener.borrow_mut(), news)))?;
    if let Some((pid, error)) = client.inaccessible() {
        heard.borrow_mut().inaccessible = Some(run::inaccessible(pid, error));
    }
    if let Some(line) =
        Some(client.pid()).filter(|_| client.is_launched()).and_then(target::without_privileges)
    {
        warn(&line);
    }
    let probe = client.cover(arguments.plan())?;
    let deadline = arguments.duration.and_then(|time| Instant::now().checked_add(time));
    let mut run = || match deadline {
        Some(deadline) => client.run_for(deadline.saturating_duration_since(Instant::now())),
        None => client.run(),
    };
    while run()? == RunEnd::StopRequested && !signals.is_interrupted() {}
    client.leave()?;
    let coverage = client.coverage(probe)?.unwrap_or_default();
    Ok((client, coverage))
}

fn hear(heard: &mut Heard, news: News) {
    match news {
        News::Event(Event::Placing { done, total, .. }) => {
            const PLACING: &str = "{bar:30} {percent:>3} % {pos}/{len} sites {eta} left";
            heard.placing.get_or_insert_with(|| Progress::new(total, PLACING)).reach(done);
            if done == total {
                heard.placing = None;
            }
        }
        News::Event(Event::Failed { pid, tid, request, error }) => {
            let line = format!("{request}: {}", error.desc());
            if heard.failed.insert(line) {
                warn(&format!("{request} failed for thread {tid} of process {pid}: {}", error.desc()));
            }
        }
        News::Event(Event::Not64Bit { pid }) if heard.failed.insert("not 64-bit".to_owned()) => {
            warn(&run::not_64_bit(pid));
        }
        News::Event(Event::Inaccessible { pid, error }) => {
            let line = run::inaccessible(pid, &error);
            warn(&line);
            heard.inaccessible = Some(line);
        }
        News::Event(Event::Overwritten { .. } | Event::Sequence { .. }) => heard.changed += 1,
        _ => {}
    }
}

/// Prints what was found, and finds the exit status.
fn finish(
    arguments: &Cover,
    mut client: Client,
    coverage: &Coverage,
    mut findings: Findings,
    out: Out,
    signals: &Signals,
    heard: &RefCell<Heard>,
) -> Result<ExitCode, Failure> {
    signals.release();
    let launched = client.is_launched();
    let ending = signals.ending().is_some();
    if coverage.objects.is_empty() && !ending {
        let why = nothing(arguments, coverage, heard.borrow().inaccessible.as_deref());
        if !launched {
            return Err(Failure(why));
        }
        let status = client.wait().map(run::shell_status);
        signals.over();
        let status =
            status.map_or_else(|| "an unknown status".to_owned(), |status| format!("status {status}"));
        return Err(Failure(format!("{why}; the command ran without probes and ended with {status}")));
    }
    findings.merge(Findings::of(coverage, arguments.plan().get_level(), arguments.count))?;
    tell_left_out(coverage, heard.borrow().changed);
    let printed = signals.writing(|| print(arguments, &findings, out));
    // Interrupted, it goes on without probes, and its status is ours; that may take long.
    let status = if launched && !ending { client.wait() } else { client.status() };
    signals.over();
    printed?;
    let status = status.filter(|_| launched).map_or(0, run::shell_status);
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

fn print(arguments: &Cover, findings: &Findings, out: Out) -> Result<(), Failure> {
    let mut out = BufWriter::new(out);
    let printed = match arguments.form() {
        Form::Text => summary::print(&mut out, findings, arguments.annotate),
        Form::Json => document::print(&mut out, findings),
        Form::Lcov | Form::Cobertura if findings.files.is_empty() => {
            return Err(Failure::new(
                "nothing that was covered has lines of a source, which this format is about; use text or json",
            ));
        }
        Form::Lcov => lcov::print(&mut out, findings),
        Form::Cobertura => cobertura::print(&mut out, findings),
    };
    match printed.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("printing failed: {error}")))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Why nothing was covered.
fn nothing(arguments: &Cover, coverage: &Coverage, inaccessible: Option<&str>) -> String {
    if let Some(line) = inaccessible {
        return line.to_owned();
    }
    match coverage.left_out.as_slice() {
        [] => "no object that is to be covered was mapped; name some by --object".to_owned(),
        left_out => {
            let advice = match (arguments.level, arguments.source.is_empty()) {
                (_, false) => "; see --source",
                (At::Line, true) => {
                    "; --level block needs no debug information, and --source names other sources"
                }
                _ => "",
            };
            let why = |(path, why): &(PathBuf, String)| {
                let path = path.display().to_string();
                if why.contains(&path) { why.clone() } else { format!("{path}: {why}") }
            };
            format!(
                "nothing can be covered: {}{advice}",
                left_out.iter().map(why).collect::<Vec<_>>().join("; ")
            )
        }
    }
}

/// Says what was not looked at, and why: a line for each kind.
fn tell_left_out(coverage: &Coverage, changed: u64) {
    for (path, why) in &coverage.left_out {
        warn(&format!("{} is left out: {why}", path.display()));
    }
    let mut directories: BTreeMap<String, u64> = BTreeMap::new();
    let mut refused: BTreeMap<&str, u64> = BTreeMap::new();
    for object in &coverage.objects {
        if let Some(trouble) = &object.trouble {
            warn(&format!("{} may have more: {trouble}", object.path.display()));
        }
        for (directory, files) in &object.left_out {
            *directories.entry(shortened(directory)).or_default() += files;
        }
        for site in &object.sites {
            let reason = site.refused.and_then(|reason| object.reasons.get(reason as usize));
            if let Some(reason) = reason {
                *refused.entry(reason).or_default() += 1;
            }
        }
        let unresolved: u64 = object.functions.iter().map(|function| u64::from(function.unresolved)).sum();
        let functions = object.functions.iter().filter(|function| function.unresolved > 0).count();
        if unresolved > 0 {
            warn(&format!(
                "{}: where {unresolved} jumps in {functions} functions lead is not known; these may have more blocks",
                object.path.display()
            ));
        }
        let unreached: u64 = object.functions.iter().map(|function| function.unreached).sum();
        if unreached > 0 {
            warn(&format!(
                "{}: no way is known to {unreached} bytes of its functions, which are left out",
                object.path.display()
            ));
        }
    }
    for (reason, sites) in refused {
        warn(&format!("{} left out: {reason}", several(sites, "site is", "sites are")));
    }
    if changed > 0 {
        let sites = several(changed, "site was", "sites were");
        warn(&format!("{sites} lost, as the program has changed its text"));
    }
    let files: u64 = directories.values().sum();
    if files > 0 {
        let mut most: Vec<(&String, &u64)> = directories.iter().collect();
        most.sort_by_key(|&(_, files)| std::cmp::Reverse(files));
        let named: Vec<&str> = most.iter().take(3).map(|(directory, _)| directory.as_str()).collect();
        let and = if most.len() > named.len() { " and elsewhere" } else { "" };
        let named = named.join(", ");
        let files = several(files, "source file is", "source files are");
        warn(&format!("{files} left out, in {named}{and}; --source names others"));
    }
}

/// The first parts of a path, by which it is known whose it is.
fn shortened(directory: &str) -> String {
    const PARTS: usize = 3;
    let ends = directory.match_indices('/').map(|(at, _)| at).nth(PARTS);
    directory.get(..ends.unwrap_or(directory.len())).unwrap_or(directory).to_owned()
}
