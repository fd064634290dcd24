//! A target whose threads and children come and go under full traffic is attached to and left again and again, while
//! probes are added and removed: no hit, thread or child is lost, and no system call is interrupted. So with many children,
//! and with an object that is loaded and unloaded many times.
//!
//! `STEPLESS_ROUNDS` says how often, and `STEPLESS_MINUTES` how long one session goes on, for a longer look than a test's.

mod common;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::{Function, compile, counter, finish};
use probe::{Action, Hit, ProbeId, RunEnd, Session, SessionOptions};

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|number| number.parse().ok())
}

/// The tests take turns: one looks at what this process occupies.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    // Another one may have failed.
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The program under traffic.
struct Traffic {
    program: PathBuf,
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Traffic {
    fn start(arguments: &[&str]) -> Traffic {
        let program = compile("traffic", &[]);
        let mut command = Command::new(&program);
        let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Traffic { program, child, output }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    /// Ends it: it has seen nothing, and has made threads and children.
    fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.output.read_to_string(&mut text).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        let (wrong, right) = text.split_once('\n').unwrap();
        assert_eq!(wrong, "0 0 0", "interrupted system calls, wrong threads, wrong children");
        let right: Vec<u64> = right.split_whitespace().map(|number| number.parse().unwrap()).collect();
        assert!(right.iter().all(|&number| number > 0), "threads and children: {right:?}");
        format!("{} threads and {} children", right[0], right[1])
    }
}

/// Which calls a probe has seen of whom.
#[derive(Default)]
struct Seen {
    /// The process and the number that it has handed over, and the last of its calls.
    last: HashMap<(i32, u64), u64>,
    hits: u64,
    lost: Vec<(i32, u64, u64, u64)>,
}

/// The first or the last instruction of `leaf`, by a probe that sees that no call is left out.
fn add(session: &mut Session, program: &Path, whole: bool) -> (ProbeId, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let sees = Arc::clone(&seen);
    let handler = move |hit: &mut Hit<'_>| {
        let (caller, call) = (hit.registers().gpr[7], hit.registers().gpr[6]);
        let mut seen = sees.lock().unwrap();
        seen.hits += 1;
        if let Some(before) = seen.last.insert((hit.pid(), caller), call)
            // At each instruction, all of which have both where they were handed over.
            && !(call == before + 1 || whole && call == before)
        {
            seen.lost.push((hit.pid(), caller, before, call));
        }
        Action::Continue
    };
    let places = if whole { Function::whole(program, "leaf") } else { Function::entry(program, "leaf") };
    (session.probe(places, handler).unwrap(), seen)
}

fn nothing_is_lost(seen: &Arc<Mutex<Seen>>) -> u64 {
    let mut seen = seen.lock().unwrap();
    assert_eq!(seen.lost, [], "process, thread, its call before, and the next that was seen");
    seen.last.clear();
    seen.hits
}

/// Serves until the probe has been hit so often.
fn serve(session: &mut Session, seen: &Arc<Mutex<Seen>>, hits: u64) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while seen.lock().unwrap().hits < hits {
        assert!(Instant::now() < deadline, "the probe is not hit");
        assert_eq!(session.run_for(Duration::from_millis(1)), RunEnd::Timeout);
    }
}

#[test]
fn a_target_under_traffic_is_attached_to_and_left_again_and_again() {
    let _turn = turn();
    let rounds = from_environment("STEPLESS_ROUNDS").unwrap_or(10);
    let traffic = Traffic::start(&[]);
    let (pid, program) = (traffic.pid(), &traffic.program);
    let mut hits = 0;
    for round in 0..rounds {
        let serving = move || {
            let options = SessionOptions { follow: round % 2 == 0, ..SessionOptions::default() };
            let mut session = Session::attach_with(pid, options).unwrap();
            let (_, first) = add(&mut session, program, false);
            serve(&mut session, &first, 20);
            for _ in 0..3 {
                let (id, second) = add(&mut session, program, true);
                serve(&mut session, &second, 20);
                session.remove(id);
                nothing_is_lost(&second);
            }
            // Its thread ends now.
            drop(session.leave());
            nothing_is_lost(&first)
        };
        hits += std::thread::scope(|scope| scope.spawn(serving).join().unwrap());
    }
    println!("{rounds} rounds, {hits} hits, {}", traffic.finish());
}

/// Serves a program that is started with `arguments` and each instruction of `symbol` of which, or else of `object`, is probed.
/// Returns how often the first was reached.
fn hits_at_entry(
    program: &str,
    arguments: &[&OsStr],
    (object, symbol): (Option<&Path>, &str),
    follow: bool,
) -> u64 {
    let program = compile(program, &["-ldl"]);
    let mut command = Command::new(&program);
    command.args(arguments);
    let options = SessionOptions { follow, ..SessionOptions::default() };
    let mut session = Session::launch_with(command, options).unwrap();
    let object = object.unwrap_or(&program);
    let (count, handler) = counter();
    session.probe(Function::entry(object, symbol), handler).unwrap();
    let rest = session.probe(Function::whole(object, symbol), counter().1).unwrap();
    assert_eq!(finish(&mut session), 0);
    let (hits, counters) = (count.load(Ordering::Relaxed), session.report(rest).unwrap().counters);
    let length = Function::whole(object, symbol).len() as u64;
    assert_eq!((counters.hits, counters.emulated), (hits * length, hits * length), "all of each call");
    hits
}

#[test]
fn no_call_of_many_children_is_lost() {
    let _turn = turn();
    let number = from_environment("STEPLESS_ROUNDS").unwrap_or(300);
    for follow in [true, false] {
        let copies = number.div_ceil(3);
        let calls = 4 * number - if follow { 0 } else { 2 * copies };
        let hits = hits_at_entry("forks", &[number.to_string().as_ref()], (None, "work"), follow);
        assert_eq!(hits, calls, "{number} children, follow: {follow}");
    }
}

#[test]
fn no_call_of_an_object_that_is_loaded_many_times_is_lost() {
    let _turn = turn();
    let number = from_environment("STEPLESS_ROUNDS").unwrap_or(50);
    let plugin = compile("plugin", &["-shared", "-fPIC"]);
    let arguments = [plugin.as_os_str(), number.to_string().as_ref()].map(OsStr::to_owned);
    let hits = hits_at_entry(
        "loader",
        &arguments.each_ref().map(|argument| &**argument),
        (Some(&plugin), "plugin_work"),
        false,
    );
    assert_eq!(hits, 2 * number, "its constructor and its user");
}

/// The memory that this process occupies, in bytes, and how many files it has open.
fn occupied() -> (u64, usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    (pages * 4096, std::fs::read_dir("/proc/self/fd").unwrap().count())
}

#[test]
fn a_session_does_not_grow_while_threads_children_and_probes_come_and_go() {
    const MOST: u64 = 1 << 20;
    let _turn = turn();
    let time = from_environment("STEPLESS_MINUTES")
        .map_or(Duration::from_secs(3), |minutes| Duration::from_secs(60 * minutes));
    let traffic = Traffic::start(&["20000"]);
    let options = SessionOptions { follow: true, ..SessionOptions::default() };
    let mut session = Session::attach_with(traffic.pid(), options).unwrap();
    let (_, first) = add(&mut session, &traffic.program, false);
    let begin = Instant::now();
    let (mut early, mut told, mut probes) = (None, 0, 0u64);
    while begin.elapsed() < time {
        let (id, second) = add(&mut session, &traffic.program, true);
        serve(&mut session, &second, 20);
        assert!(session.forget(id).unwrap().counters.hits > 0);
        assert!(session.report(id).is_none(), "it is forgotten");
        nothing_is_lost(&second);
        nothing_is_lost(&first);
        probes += 1;
        // What is made once is there by then.
        if early.is_none() && begin.elapsed() > time / 6 {
            early = Some(occupied());
        }
        let minute = begin.elapsed().as_secs() / 60;
        if minute > told {
            told = minute;
            println!("minute {minute}: {:?} bytes and files, {probes} probes", occupied());
        }
    }
    let (early, late) = (early.unwrap(), occupied());
    // Which interrupts threads, as it must.
    session.detach();
    println!("{probes} probes: {early:?}, then {late:?}");
    assert!(late.0 <= early.0 + MOST && late.1 == early.1, "{early:?} {late:?} after {probes} probes");
    let mut child = traffic.child;
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
