//! Other programs that stop at the same instruction. What a hit costs the target tells itself: these
//! programs do not say when they were told of one.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use probe::maps;

use crate::bpf::Link;
use crate::uprobe::{Counter, Of};
use crate::{Failure, classic, target};

/// Where those are told to stop that are slow, or whose way is the same everywhere.
const SYMBOL: &str = "peers_entry";
/// Hits in a measurement at most, of those that are slow.
const MOST_HITS: u64 = 1000;

/// Files for one measurement, removed after it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> io::Result<Scratch> {
        let directory = std::env::temp_dir().join(format!("peers-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory)?;
        Ok(Scratch(directory))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a directory of temporary files harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs a program to its end, and returns what it prints.
pub(crate) fn output(command: &mut Command) -> Result<String, Failure> {
    let program = command.get_program().to_string_lossy().into_owned();
    match command.stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{program}: {}: {}", output.status, said.lines().next_back().unwrap_or_default())
                .into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{program} is not installed; see benches/install-peers").into())
        }
        Err(error) => Err(format!("{program}: {error}").into()),
    }
}

/// Runs `tracer` on the target, and returns what it prints.
fn run(tracer: &mut Command, symbol: &str, hits: u64, report: &Path) -> Result<String, Failure> {
    let target = target::reporting(symbol, hits, report)?;
    output(tracer.arg(target.get_program()).args(target.get_args()))
}

/// The nanoseconds of a hit, of which there must have been `hits`.
pub(crate) fn result(report: &Path, found: u64, hits: u64) -> Result<f64, Failure> {
    if found != hits {
        return Err(format!("{found} hits where there should be {hits}").into());
    }
    Ok(fs::read_to_string(report)?.trim().parse()?)
}

/// A breakpoint whose commands only continue.
pub(crate) fn gdb(hits: u64) -> Result<f64, Failure> {
    let hits = hits.min(MOST_HITS);
    let scratch = Scratch::new("gdb")?;
    let (script, report) = (scratch.path("script"), scratch.path("report"));
    let commands = format!(
        "set language c\nset pagination off\nbreak *{SYMBOL}\ncommands\nsilent\ncontinue\nend\nrun\n\
         info breakpoints\n"
    );
    fs::write(&script, commands)?;
    let mut gdb = Command::new("gdb");
    let printed = run(gdb.args(["-nx", "-batch", "-x"]).arg(&script).arg("--args"), SYMBOL, hits, &report)?;
    let times = printed.split_once("already hit ").and_then(|(_, rest)| rest.split_whitespace().next());
    result(&report, times.and_then(|times| times.parse().ok()).unwrap_or(0), hits)
}

/// Each call as a line in a file. It stops at the return, too.
pub(crate) fn ltrace(hits: u64) -> Result<f64, Failure> {
    let hits = hits.min(MOST_HITS);
    let scratch = Scratch::new("ltrace")?;
    let (calls, report) = (scratch.path("calls"), scratch.path("report"));
    let mut ltrace = Command::new("ltrace");
    // No calls but those of `-x`: no function has this name.
    run(ltrace.args(["-e", "no function", "-x", SYMBOL, "-o"]).arg(&calls), SYMBOL, hits, &report)?;
    let calls = fs::read_to_string(&calls)?;
    let found = calls.lines().filter(|line| line.starts_with(SYMBOL)).count();
    result(&report, found as u64, hits)
}

/// Where `symbol` is: this program's file, and the offset in it.
pub(crate) fn place(symbol: &str) -> Result<(PathBuf, u64), Failure> {
    let address = target::address(symbol).ok_or("there is no such function")?;
    let maps = maps::read(nix::unistd::getpid().as_raw())?;
    let mapping = maps::find(&maps, address).ok_or("the function is nowhere")?;
    let (path, offset) = mapping.file().zip(mapping.file_offset(address)).ok_or("it is in no file")?;
    Ok((path.to_path_buf(), offset))
}

/// Starts the target, and has it run with what `attach` puts into it; `count` says how often that was hit.
fn attached<T>(
    symbol: &str,
    hits: u64,
    attach: impl FnOnce(&Path, u64, i32) -> Result<T, Failure>,
    count: impl FnOnce(&T) -> Result<u64, Failure>,
) -> Result<f64, Failure> {
    let scratch = Scratch::new("attached")?;
    let report = scratch.path("report");
    let (path, offset) = place(symbol)?;
    let pid: Pid = classic::start(target::reporting(symbol, hits, &report)?)?;
    let attached = attach(&path, offset, pid.as_raw());
    ptrace::detach(pid, None)?;
    waitpid(pid, None)?;
    result(&report, count(&attached?)?, hits)
}

/// A uprobe that a perf event counts.
pub(crate) fn uprobe(symbol: &str, hits: u64) -> Result<f64, Failure> {
    attached(
        symbol,
        hits,
        |path, offset, pid| Counter::open(path, offset, Of::Thread(pid)),
        |counter| Ok(counter.count()?),
    )
}

/// A uprobe of a link of BPF, which counts it.
pub(crate) fn uprobe_multi(symbol: &str, hits: u64) -> Result<f64, Failure> {
    attached(symbol, hits, |path, offset, pid| Link::open(path, &[offset], pid), Link::count)
}

/// A uprobe that bpftrace counts.
pub(crate) fn bpftrace(symbol: &str, hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("bpftrace")?;
    let report = scratch.path("report");
    let target = target::reporting(symbol, hits, &report)?;
    let program = target.get_program().to_string_lossy().into_owned();
    let mut command = vec![program.clone()];
    command.extend(target.get_args().map(|argument| argument.to_string_lossy().into_owned()));
    let mut bpftrace = Command::new("bpftrace");
    bpftrace.arg("-e").arg(format!("uprobe:{program}:{symbol} {{ @hits = count(); }}"));
    let printed = output(bpftrace.arg("-c").arg(command.join(" ")))?;
    let found = printed.lines().find_map(|line| line.strip_prefix("@hits: "));
    result(&report, found.and_then(|found| found.trim().parse().ok()).unwrap_or(0), hits)
}

/// Where uprobes for perf are made (Documentation/trace/uprobetracer.rst). What `perf probe` makes of a name depends on its
/// reading of our debug information.
const UPROBE_EVENTS: &str = "/sys/kernel/tracing/uprobe_events";

fn define(line: &str) -> io::Result<()> {
    let mut events = fs::OpenOptions::new().append(true).open(UPROBE_EVENTS)?;
    writeln!(events, "{line}")
}

/// A uprobe whose hits the program perf counts.
pub(crate) fn perf(symbol: &str, hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("perf")?;
    let report = scratch.path("report");
    let (path, offset) = place(symbol)?;
    // A group of our own, so that nobody else's probes are removed.
    let group = format!("peers{}", std::process::id());
    define(&format!("p:{group}/{symbol} {}:{offset:#x}", path.display()))
        .map_err(|error| format!("{UPROBE_EVENTS}: {error}"))?;
    let mut stat = Command::new("perf");
    stat.args(["stat", "-x,", "-o"]).arg(scratch.path("count")).args([
        "-e",
        &format!("{group}:{symbol}"),
        "--",
    ]);
    let ran = run(&mut stat, symbol, hits, &report);
    define(&format!("-:{group}/{symbol}"))?;
    ran?;
    let counted = fs::read_to_string(scratch.path("count"))?;
    let found = counted.lines().find(|line| line.contains(&group)).and_then(|line| line.split(',').next());
    result(&report, found.and_then(|found| found.parse().ok()).unwrap_or(0), hits)
}
