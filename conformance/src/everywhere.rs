//! A probe on every instruction of some functions of a program, which must not notice.
//!
//! The program runs twice, or as often as hardware breakpoints need it, with the same addresses: once with a single
//! probe, at `_exit`, which reads the memory map, and then with probes everywhere besides. Output, exit status and maps
//! must be the same.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::personality::{self, Persona};
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use probe::{Action, ProbeError, ProbeId, RunEnd, Session, Unplaceable};
use serde::Serialize;

use crate::executor::{AT_A_TIME, Executor, Window};
use crate::own::{self, Plan};

/// What a run came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How often the program ran with probes: by hardware breakpoints, four instructions are probed at a time.
    pub runs: u64,
    /// Instructions that were probed.
    pub sites: u64,
    /// Instructions that were not, by reason.
    pub refused: BTreeMap<String, u64>,
    /// The refused instructions, each with its address and the reason.
    #[serde(skip)]
    pub refused_sites: Vec<(u64, String)>,
    /// How often the probes were hit.
    pub hits: u64,
    /// Of these, how many were emulated to their end.
    pub emulated: u64,
    /// How often threads passed without a handler, and how many probes were lost: of programs that probe themselves.
    pub missed: u64,
    /// How many of the sites are reached by jumps, of which there are some in programs that probe themselves.
    pub jumps: u64,
    /// Whether what the program wrote to its standard output and error is the same.
    pub same_output: bool,
    /// Whether it ended in the same way.
    pub same_status: bool,
    /// Whether its memory map was the same when it called `_exit`.
    pub same_maps: bool,
}

impl Report {
    /// Whether the program did not notice.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.same_output && self.same_status && self.same_maps && self.missed == 0
    }
}

/// What one run of the program showed.
struct Observed {
    output: Vec<u8>,
    error: Vec<u8>,
    status: Option<ExitStatus>,
    maps: Option<Vec<u8>>,
}

/// Runs the program that `command` makes, with and without probes on every instruction that `spec` names, by `executor`.
///
/// Its standard input is empty.
///
/// # Errors
/// One of the runs could not be made: the program could not be started, the function is not there, none of
/// its instructions can be probed, or a system call failed.
pub fn run(
    command: impl Fn() -> Command,
    spec: ProbeSpec,
    executor: Executor,
) -> Result<Report, Box<dyn Error>> {
    let persona = personality::get()?;
    personality::set(persona | Persona::ADDR_NO_RANDOMIZE)?;
    let result = compare(command, spec, executor);
    personality::set(persona)?;
    result
}

fn compare(
    command: impl Fn() -> Command,
    spec: ProbeSpec,
    executor: Executor,
) -> Result<Report, Box<dyn Error>> {
    let objects = Arc::new(Objects::default());
    let resolver = || Resolver::new(spec.clone(), Arc::clone(&objects));
    let mut report = Report { same_output: true, same_status: true, same_maps: true, ..Report::default() };
    if executor == Executor::Own {
        return compare_own(command, &spec);
    }
    let plain = observe(command(), |_| Ok(None), |_, _| Ok(()))?;
    match executor {
        Executor::Own => {}
        Executor::Ptrace => {
            let place = |session: &mut Session| Ok(Some(session.probe(resolver(), |_| Action::Continue)?));
            add_run(command(), &plain, place, &mut report)?;
        }
        Executor::Hardware => {
            let (total, mut from) = (Arc::new(AtomicUsize::new(0)), 0);
            loop {
                let window = Window { all: resolver(), from, total: Arc::clone(&total) };
                let mut refused = None;
                let place = |session: &mut Session| match session.probe(window, |_| Action::Continue) {
                    Ok(probe) => Ok(Some(probe)),
                    Err(ProbeError::Unplaceable { reason: reason @ Unplaceable::Hardware(_), .. }) => {
                        Err(reason.into())
                    }
                    // None of these can be probed, but others may.
                    Err(ProbeError::Unplaceable { address, reason }) => {
                        refused = Some((address, reason));
                        Ok(None)
                    }
                    Err(error) => Err(error.into()),
                };
                add_run(command(), &plain, place, &mut report)?;
                let total = total.load(Ordering::Relaxed);
                if let Some((address, reason)) = refused {
                    let number = total.saturating_sub(from).min(AT_A_TIME) as u64;
                    *report.refused.entry(reason.reason().to_owned()).or_default() += number;
                    report.refused_sites.push((address, reason.to_string()));
                }
                from += AT_A_TIME;
                if from >= total {
                    break;
                }
            }
        }
    }
    Ok(report)
}

/// Runs the program with the probes that `place` places, and adds what that came to.
fn add_run(
    command: Command,
    plain: &Observed,
    place: impl FnOnce(&mut Session) -> Result<Option<ProbeId>, Box<dyn Error>>,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let probed = observe(command, place, |session, probe| count(session, probe, report))?;
    report.runs += 1;
    report.same_output &= plain.output == probed.output && plain.error == probed.error;
    report.same_status &= plain.status == probed.status;
    report.same_maps &= plain.maps == probed.maps;
    Ok(())
}

/// Adds what became of the probe of one run.
fn count(session: &Session, probe: ProbeId, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let Some(probe) = session.report(probe) else { return Ok(()) };
    if let Some(pending) = probe.pending {
        return Err(pending.to_string().into());
    }
    report.sites += probe.sites.len() as u64;
    report.hits += probe.counters.hits;
    report.emulated += probe.counters.emulated;
    for (address, reason) in probe.refused {
        *report.refused.entry(reason.reason().to_string()).or_default() += 1;
        report.refused_sites.push((address, reason.to_string()));
    }
    Ok(())
}

/// Runs the program once, with the probes that `place` places, and `finish` looks at in the end.
fn observe(
    mut command: Command,
    place: impl FnOnce(&mut Session) -> Result<Option<ProbeId>, Box<dyn Error>>,
    finish: impl FnOnce(&Session, ProbeId) -> Result<(), Box<dyn Error>>,
) -> Result<Observed, Box<dyn Error>> {
    let (mut output, mut error) = (own::temporary()?, own::temporary()?);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(error.try_clone()?);
    let mut session = Session::launch(command)?;
    let maps = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&maps);
    let exit = ProbeSpec::function("libc.so.6", "_exit");
    session.probe(Resolver::new(exit, Arc::new(Objects::default())), move |hit| {
        let map = std::fs::read(format!("/proc/{}/maps", hit.pid())).ok();
        *seen.lock().unwrap_or_else(PoisonError::into_inner) = map;
        Action::Continue
    })?;
    let probe = place(&mut session)?;
    let status = match session.run() {
        RunEnd::Ended(status) => status,
        _ => None,
    };
    if let Some(probe) = probe {
        finish(&session, probe)?;
    }
    let maps = maps.lock().unwrap_or_else(PoisonError::into_inner).take();
    Ok(Observed { output: content(&mut output)?, error: content(&mut error)?, status, maps })
}

/// What a run of a program came to that may probe itself.
struct Own {
    output: Vec<u8>,
    error: Vec<u8>,
    status: ExitStatus,
    answer: own::Answer,
}

/// Runs a program as `plan` says, or as it is.
fn run_own(mut command: Command, plan: Option<&Plan>) -> Result<Own, Box<dyn Error>> {
    const PATIENCE: Duration = Duration::from_secs(600);
    let (mut output, mut error) = (own::temporary()?, own::temporary()?);
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(error.try_clone()?);
    let (status, answer) = match plan {
        Some(plan) => {
            let run = own::run(command, plan, PATIENCE)?;
            (run.status, run.answer)
        }
        None => (command.status()?, own::Answer::default()),
    };
    Ok(Own { output: content(&mut output)?, error: content(&mut error)?, status, answer })
}

/// Runs the program as it is, as one that probes itself, and as one that could but has no probes: what it has mapped at its end
/// must be the same in these two.
fn compare_own(command: impl Fn() -> Command, spec: &ProbeSpec) -> Result<Report, Box<dyn Error>> {
    let plan = |idle| Plan { probes: vec![spec.to_string()], idle, jumps: true, ..Plan::default() };
    let plain = run_own(command(), None)?;
    let rehearsed = run_own(command(), Some(&plan(1)))?;
    let probed = run_own(command(), Some(&plan(0)))?;
    let answer = &probed.answer;
    Ok(Report {
        runs: 1,
        sites: answer.sites,
        refused: own::by_reason(&answer.refused),
        refused_sites: answer.refused.iter().map(|(_, address, reason)| (*address, reason.clone())).collect(),
        hits: answer.hits,
        emulated: answer.emulated,
        missed: answer.missed + answer.lost,
        jumps: answer.jumps,
        same_output: (&plain.output, &plain.error) == (&probed.output, &probed.error),
        same_status: plain.status == probed.status,
        same_maps: rehearsed.answer.maps == answer.maps,
    })
}

fn content(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
