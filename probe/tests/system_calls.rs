//! What a hit costs in system calls, which no noise touches: each is seen by strace, which traces the tracer.

mod common;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Function, compile};
use probe::coverage::Plan;
use probe::{Action, ProbeId, RunEnd, Session, SessionOptions};

const HITS: usize = 400;

/// strace, which follows the calling thread, and the file into which it writes.
struct Strace {
    child: Child,
    output: std::path::PathBuf,
}

impl Strace {
    /// `None`, with the reason told, where there is none or it may not.
    fn attach(output: &Path) -> Option<Strace> {
        let tid = nix::unistd::gettid().to_string();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o"]).arg(output).args(["-p", &tid]).stderr(Stdio::piped());
        // Not a child of the thread that waits for whichever child there is.
        let spawned = std::thread::spawn(move || command.spawn()).join().unwrap();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                println!("skipped: strace: {error}");
                return None;
            }
        };
        let status = format!("/proc/self/task/{tid}/status");
        let deadline = Instant::now() + Duration::from_secs(20);
        while !fs::read_to_string(&status).unwrap().contains(&format!("TracerPid:\t{}\n", child.id())) {
            if let Some(status) = child.try_wait().unwrap() {
                let mut why = String::new();
                child.stderr.take().unwrap().read_to_string(&mut why).unwrap();
                println!("skipped: strace cannot attach: {status}: {}", why.trim());
                return None;
            }
            assert!(Instant::now() < deadline, "strace does not attach");
            std::thread::yield_now();
        }
        Some(Strace { child, output: output.to_owned() })
    }

    /// The system calls that it has seen, each by its name or, of ptrace, its request, with the set of registers.
    fn detach(mut self) -> Vec<String> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
        self.child.wait().unwrap();
        let clock = fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        // The vDSO cannot read these, so that each look at the clock is a call.
        let by_call = matches!(clock.unwrap_or_default().trim(), "hpet" | "acpi_pm" | "jiffies");
        let calls = fs::read_to_string(&self.output).unwrap();
        calls.lines().filter_map(call).filter(|name| !by_call || name != "clock_gettime").collect()
    }
}

/// Whether the kernel tells of a single mapping (`PROCMAP_QUERY`, since Linux 6.11), and not only of all.
fn has_procmap_query() -> bool {
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(11))
}

fn call(line: &str) -> Option<String> {
    let (name, arguments) = line.split_once('(')?;
    let argument = |index: usize| arguments.split(", ").nth(index).unwrap_or_default().trim();
    Some(match (name, argument(0)) {
        ("ptrace", request @ ("PTRACE_GETREGSET" | "PTRACE_SETREGSET")) => {
            format!("{request} {}", argument(2))
        }
        ("ptrace", request) => request.to_owned(),
        _ => name.to_owned(),
    })
}

/// What comes between one wait and the next, most often; and how often, of so many times in all.
fn usual(calls: &[String]) -> (Vec<&str>, usize, usize) {
    let mut times: HashMap<Vec<&str>, usize> = HashMap::new();
    let mut all = 0;
    for round in calls.split(|call| call == "wait4").skip(1) {
        *times.entry(round.iter().map(String::as_str).collect()).or_default() += 1;
        all += 1;
    }
    let (usual, times) = times.into_iter().max_by_key(|&(_, times)| times).unwrap_or_default();
    (usual, times, all)
}

/// Has `function` executed again and again, its first instruction probed, and returns the system calls of the tracer;
/// `None` where they cannot be seen, or the processor lacks the instruction.
fn calls_for(program: &Path, function: &str, options: SessionOptions) -> Option<Vec<String>> {
    let probe = |session: &mut Session| {
        session.probe(Function::entry(program, function), |_| Action::Continue).unwrap()
    };
    calls_while(program, function, options, HITS, probe)
}

/// The same with the probe that `place` makes, which is hit so often.
fn calls_while(
    program: &Path,
    function: &str,
    options: SessionOptions,
    hits: usize,
    place: impl Fn(&mut Session) -> ProbeId,
) -> Option<Vec<String>> {
    const LACKING: i32 = 77;
    let mut target = Command::new(program)
        .args([function, &HITS.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(target.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line != "ready\n" {
        assert_eq!(target.wait().unwrap().code(), Some(LACKING));
        println!("skipped: the processor lacks {function}");
        return None;
    }
    // Where a thread changes processors it is looked for more often.
    let pid = nix::unistd::Pid::from_raw(i32::try_from(target.id()).unwrap());
    let mut only = nix::sched::CpuSet::new();
    only.set(nix::sched::sched_getcpu().unwrap()).unwrap();
    nix::sched::sched_setaffinity(pid, &only).unwrap();
    let mut session = Session::attach_with(pid.as_raw(), options).unwrap();
    let probe = place(&mut session);
    let strace = Strace::attach(&program.with_extension(format!("{function}.strace")));
    if strace.is_none() {
        drop(session);
        target.kill().unwrap();
        target.wait().unwrap();
        return None;
    }
    target.stdin.take().unwrap().write_all(b"\n").unwrap();
    let end = session.run_for(Duration::from_secs(60));
    assert!(matches!(end, RunEnd::Ended(_)), "{end:?}");
    let counters = session.report(probe).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated), (hits as u64, hits as u64), "{function}");
    let calls = strace.map(Strace::detach);
    // The session has reaped it.
    let _ = target.wait();
    calls
}

/// That a hit takes these system calls besides the wait, and what else is done in between is seldom.
fn takes(program: &Path, function: &str, expected: &[&str]) {
    let Some(calls) = calls_for(program, function, SessionOptions::default()) else { return };
    let (usual, times, all) = usual(&calls);
    assert_eq!(usual, expected, "{function}");
    hold(function, times, all);
}

/// That nearly all hits were alike, and that few waits have come to nothing: those that a timer ends while others have the
/// processors.
fn hold(function: &str, times: usize, all: usize) {
    // Where the thread runs is looked up now and then; and whether it is in a restartable sequence.
    assert!(times * 100 >= HITS * 90, "{function}: {times} of {HITS} hits, {all} waits");
    assert!((HITS..HITS * 3 / 2).contains(&all), "{function}: {all} waits for {HITS} hits");
}

const GET: &str = "PTRACE_GETREGS";
const SET: &str = "PTRACE_SETREGSET NT_PRSTATUS";
const POKE: &str = "PTRACE_POKEUSER";
const CONT: &str = "PTRACE_CONT";

#[test]
fn a_hit_takes_one_fetch_and_a_request_for_each_register_that_changes() {
    let program = compile("calls", &[]);
    takes(&program, "long_nop", &[GET, POKE, CONT]);
    takes(&program, "entry", &[GET, POKE, CONT]);
    takes(&program, "move", &[GET, POKE, POKE, CONT]);
    takes(&program, "multiply", &[GET, SET, CONT]);
}

#[test]
fn what_may_be_the_programs_own_signal_is_asked_for() {
    let program = compile("calls", &[]);
    // INT3 leaves the thread where it would be for a SIGTRAP that somebody sends it before the next instruction. RIP is
    // right already.
    takes(&program, "short_nop", &[GET, "PTRACE_GETSIGINFO", CONT]);
}

#[test]
fn memory_takes_one_access() {
    let program = compile("calls", &[]);
    takes(&program, "load", &[GET, "process_vm_readv", POKE, POKE, CONT]);
    takes(&program, "store", &[GET, "process_vm_writev", POKE, CONT]);
}

#[test]
fn extended_registers_are_fetched_as_far_as_need_be_and_stored_if_they_change() {
    let program = compile("calls", &[]);
    let [get, set] = ["PTRACE_GETFPREGS", "PTRACE_SETFPREGS"];
    takes(&program, "sse", &[GET, get, set, POKE, CONT]);
    takes(&program, "sse_prefix", &[GET, get, set, POKE, CONT]);
    takes(&program, "sse_compare", &[GET, get, POKE, POKE, CONT]);
    // It writes no vector register, and nothing above XMM is cleared.
    takes(&program, "avx_compare", &[GET, get, POKE, POKE, CONT]);
    let [whole, set_whole] = ["PTRACE_GETREGSET NT_X86_XSTATE", "PTRACE_SETREGSET NT_X86_XSTATE"];
    // Above XMM are zeros before and after.
    takes(&program, "avx", &[GET, whole, set, POKE, CONT]);
    takes(&program, "avx_upper", &[GET, whole, set_whole, POKE, CONT]);
}

#[test]
fn a_hardware_breakpoint_takes_the_signal_as_well() {
    let program = compile("calls", &[]);
    let options = SessionOptions { hardware: true, ..SessionOptions::default() };
    let Some(calls) = calls_for(&program, "move", options) else { return };
    // RF is another register that changes; and that the text is what it was, no INT3 tells.
    let (usual, times, all) = usual(&calls);
    assert_eq!(usual, ["PTRACE_GETSIGINFO", GET, "pread64", SET, CONT]);
    hold("move", times, all);
}

#[test]
fn where_no_other_line_is_near_a_line_that_is_counted_takes_what_a_probe_takes() {
    let program = compile("calls", &["-g0", "-Wa,-g", "-DLINES"]);
    let calls_for = |function, hits| {
        let count = |session: &mut Session| session.cover(Plan::new().source("/nowhere").counting()).unwrap();
        calls_while(&program, function, SessionOptions::default(), hits, count)
    };
    let Some(calls) = calls_for("alone", HITS) else { return };
    let (found, times, all) = usual(&calls);
    assert_eq!(found, [GET, POKE, CONT]);
    hold("alone", times, all);
    // What is mapped there is asked for, and nothing is fetched for what follows.
    let Some(calls) = calls_for("pair", 2 * HITS) else { return };
    let (mut found, times, all) = usual(&calls);
    let asking: &[&str] =
        if has_procmap_query() { &["ioctl"] } else { &["openat", "statx", "read", "close"] };
    found.retain(|call| !asking.contains(call));
    assert_eq!(found, [GET, POKE, CONT]);
    hold("pair", times, all);
}
