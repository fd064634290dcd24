//! Other programs that stop at the same instruction. What a hit costs the target tells itself: these
//! programs do not say when they were told of one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::ptrace;
use nix::sys::wait::waitpid;

use crate::uprobe::Counter;
use crate::{Failure, classic, target};

/// Where they are told to stop.
const SYMBOL: &str = "peers_move";
/// Hits in a measurement at most: they are slow.
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

/// Runs `tracer` on the target, and returns what it prints.
fn run(tracer: &mut Command, hits: u64, report: &Path) -> Result<String, Failure> {
    let program = tracer.get_program().to_string_lossy().into_owned();
    let target = target::reporting(SYMBOL, hits, report)?;
    let output = tracer.arg(target.get_program()).args(target.get_args()).stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(format!("{program}: {}: {}", output.status, said.lines().next().unwrap_or_default()).into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(format!("{program} is not installed").into())
        }
        Err(error) => Err(format!("{program}: {error}").into()),
    }
}

/// The nanoseconds of a hit, of which there must have been `hits`.
fn result(report: &Path, found: u64, hits: u64) -> Result<f64, Failure> {
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
    let printed = run(gdb.args(["-nx", "-batch", "-x"]).arg(&script).arg("--args"), hits, &report)?;
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
    run(ltrace.args(["-e", "no function", "-x", SYMBOL, "-o"]).arg(&calls), hits, &report)?;
    let calls = fs::read_to_string(&calls)?;
    let found = calls.lines().filter(|line| line.starts_with(SYMBOL)).count();
    result(&report, found as u64, hits)
}

/// A uprobe that a perf event counts.
pub(crate) fn uprobe(hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("uprobe")?;
    let report = scratch.path("report");
    let address = target::address(SYMBOL).ok_or("there is no such function")?;
    let pid = classic::start(target::reporting(SYMBOL, hits, &report)?)?;
    let counter = Counter::open(address, pid);
    ptrace::detach(pid, None)?;
    waitpid(pid, None)?;
    let counter = counter?;
    result(&report, counter.count()?, hits)
}
