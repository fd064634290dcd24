//! Programs that probe themselves: this library is loaded into them (`LD_PRELOAD`), places the probes before they start,
//! and tells what became of those when they end.
//!
//! What it is to do is in the environment, from which it is gone when the program starts.

#![allow(
    unsafe_code,
    reason = "a function that the dynamic linker calls, and one that the C library calls at the end"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use probe::own::{Means, Options, Session};
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use probe::{Action, ProbeId};
use serde::{Deserialize, Serialize};

use crate::arena;

/// The environment variable that says what is to be done.
const PLAN: &str = "STEPLESS_OWN";
const PLAN_NAME: &CStr = c"STEPLESS_OWN";
const PRELOAD: &str = "LD_PRELOAD";

/// What is to be done in a program.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Plan {
    /// What is to be probed.
    pub(crate) probes: Vec<String>,
    /// 1 if they are not to be placed after all, else 0; the plan is as long either way, and with it the stack.
    pub(crate) idle: u8,
    /// Jumps are put where they are safe.
    pub(crate) jumps: bool,
    /// Where the answer is to be written.
    pub(crate) report: String,
}

/// What became of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Answer {
    /// Why nothing came of it.
    pub(crate) error: Option<String>,
    pub(crate) sites: u64,
    /// Of these, so many are reached by jumps.
    pub(crate) jumps: u64,
    pub(crate) hits: u64,
    pub(crate) emulated: u64,
    pub(crate) missed: u64,
    /// Sites whose breakpoints had to be taken out.
    pub(crate) lost: u64,
    /// The instructions that were refused: reasons to count by, addresses, and reasons in full.
    pub(crate) refused: Vec<(String, u64, String)>,
    /// What was mapped when the program ended.
    pub(crate) maps: String,
}

/// What the process that this library was loaded into is doing.
struct Running {
    plan: Plan,
    pid: u32,
    session: Option<Session>,
    probes: Vec<ProbeId>,
    error: Option<String>,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

extern "C" fn start() {
    // SAFETY: the program has no other thread yet, and the name ends with a zero.
    if unsafe { libc::getenv(PLAN_NAME.as_ptr()) }.is_null() || !arena::reserve() {
        return;
    }
    let Some(plan) = std::env::var(PLAN).ok().and_then(|plan| serde_json::from_str(&plan).ok()) else {
        return;
    };
    // SAFETY: the program has no other thread yet.
    unsafe {
        std::env::remove_var(PLAN);
        std::env::remove_var(PRELOAD);
    }
    let mut running =
        Running { plan, pid: std::process::id(), session: None, probes: Vec::new(), error: None };
    running.error = running.place().err().map(|error| error.to_string());
    *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) = Some(running);
    // SAFETY: the function may be called at the end.
    unsafe { libc::atexit(end) };
}

extern "C" fn end() {
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner).take();
    // A forked child ends, too.
    if let Some(running) = running.filter(|running| running.pid == std::process::id()) {
        let report = running.plan.report.clone();
        let answer = running.answer();
        let written = serde_json::to_vec(&answer).map(|bytes| {
            fs::OpenOptions::new().write(true).open(&report).and_then(|mut file| file.write_all(&bytes))
        });
        if !matches!(written, Ok(Ok(()))) {
            // Who waits for the answer finds that there is none.
            let _ = writeln!(io::stderr(), "conformance: {report}: {written:?}");
        }
    }
}

impl Running {
    fn place(&mut self) -> Result<(), Box<dyn Error>> {
        let mut session = Session::with(Options { jumps: self.plan.jumps })?;
        for spec in self.plan.probes.iter().filter(|_| self.plan.idle == 0) {
            let spec: ProbeSpec = spec.parse()?;
            let resolver = Resolver::new(spec, Arc::new(Objects::default()));
            self.probes.push(session.probe(resolver, |_| Action::Continue)?);
        }
        self.session = Some(session);
        Ok(())
    }

    fn answer(mut self) -> Answer {
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        let mut answer = Answer { error: self.error.take(), maps, ..Answer::default() };
        let Some(session) = &mut self.session else { return answer };
        for &probe in &self.probes {
            let means = session.means(probe);
            let is =
                |wanted: fn(&Means) -> bool| means.iter().filter(|(_, means)| wanted(means)).count() as u64;
            answer.jumps += is(|means| matches!(means, Means::Jump));
            answer.lost += is(|means| matches!(means, Means::Lost(_)));
            // What follows would reach them, too.
            session.remove(probe);
        }
        for &probe in &self.probes {
            let Some(report) = session.report(probe) else { continue };
            answer.sites += report.sites.len() as u64;
            answer.hits += report.counters.hits;
            answer.emulated += report.counters.emulated;
            answer.missed += report.counters.missed;
            for (address, reason) in &report.refused {
                answer.refused.push((reason.reason().to_owned(), *address, reason.to_string()));
            }
        }
        answer
    }
}

/// This library as the dynamic linker loads it.
fn library() -> Result<PathBuf, Box<dyn Error>> {
    const NAME: &str = "libconformance.so";
    let program = std::env::current_exe()?;
    let directory = program.parent().ok_or("this program is in no directory")?;
    let places = [directory.join("deps").join(NAME), directory.join(NAME)];
    let found = places.into_iter().find(|place| place.exists());
    found.ok_or_else(|| format!("{NAME} is not beside {}: build the package anew", program.display()).into())
}

/// How a program that probes itself ended, and what it says of the probes.
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) answer: Answer,
}

/// Runs the program, which probes itself as `plan` says.
///
/// # Errors
/// It could not be started, has not ended in time, or has told nothing.
pub(crate) fn run(mut command: Command, plan: &Plan, patience: Duration) -> Result<Run, Box<dyn Error>> {
    let answer = temporary()?;
    let report = format!("/proc/{}/fd/{}", std::process::id(), answer.as_raw_fd());
    let plan = serde_json::to_string(&Plan { report: report.clone(), ..plan.clone() })?;
    let mut child = command.env(PLAN, plan).env(PRELOAD, library()?).spawn()?;
    let status = wait(&mut child, patience)?;
    let text = fs::read_to_string(&report)?;
    if text.is_empty() {
        return Err(format!("it ended without a word on its probes: {status}").into());
    }
    let answer: Answer = serde_json::from_str(&text)?;
    match answer.error {
        Some(error) => Err(error.into()),
        None => Ok(Run { status, answer }),
    }
}

fn wait(child: &mut Child, patience: Duration) -> Result<ExitStatus, Box<dyn Error>> {
    const OFTEN: Duration = Duration::from_millis(2);
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Err("it did not end".into());
        }
        std::thread::sleep(OFTEN);
    }
}

/// A file without a name.
pub(crate) fn temporary() -> io::Result<File> {
    let descriptor = nix::sys::memfd::memfd_create(c"output", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    Ok(descriptor.into())
}

/// Refused instructions by reason.
pub(crate) fn by_reason(refused: &[(String, u64, String)]) -> BTreeMap<String, u64> {
    let mut by_reason = BTreeMap::new();
    for (reason, ..) in refused {
        *by_reason.entry(reason.clone()).or_default() += 1;
    }
    by_reason
}
