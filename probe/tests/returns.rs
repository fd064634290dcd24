//! Calls that are followed to their returns: exact pairs, whatever becomes of the stack, and results.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{Function, compile, finish};
use emu::registers::gpr;
use probe::{Action, Counters, ProbeId, Session, SessionOptions};

/// Calls that have returned: the function, its argument, and its result.
type Pairs = Vec<(String, u64, u64)>;

/// A program that prints which calls have returned, with probes that follow them.
struct Run {
    session: Session,
    program: PathBuf,
    output: std::io::PipeReader,
    pairs: Arc<Mutex<Pairs>>,
    probes: Vec<ProbeId>,
}

impl Run {
    fn new(program: &Path, arguments: &[&str], options: SessionOptions) -> Run {
        let mut command = Command::new(program);
        let (output, writer) = std::io::pipe().unwrap();
        command.args(arguments).stdout(writer);
        let session = Session::launch_with(command, options).unwrap();
        Run { session, program: program.to_owned(), output, pairs: Arc::default(), probes: Vec::new() }
    }

    /// Follows the calls of `function`, whose argument is in that register.
    fn follow(&mut self, function: &str, argument: usize) {
        let (pairs, name) = (Arc::clone(&self.pairs), function.to_owned());
        let site = Function::entry(&self.program, function);
        let probe = self.session.probe_calls(
            site,
            move |hit| Some(hit.registers().gpr[argument]),
            move |hit, call| {
                let result = hit.registers().gpr[gpr::RAX];
                assert!(hit.is_return() && call.entered_ns + call.duration_ns == hit.time_ns());
                pairs.lock().unwrap().push((name.clone(), call.value, result));
                Action::Continue
            },
        );
        self.probes.push(probe.unwrap());
    }

    fn counters(&self, probe: ProbeId) -> (Counters, Counters) {
        let report = self.session.report(probe).unwrap();
        (report.counters, report.returns.unwrap())
    }

    /// Runs the program to its end. Returns the pairs that were seen, those that it prints, and how many calls were
    /// made, and left without a return.
    fn finish(mut self) -> (Pairs, Pairs, u64, u64) {
        assert_eq!(finish(&mut self.session), 0);
        let (mut calls, mut dropped) = (0, 0);
        for &probe in &self.probes {
            let (made, returned) = self.counters(probe);
            assert_eq!(returned.missed, 0);
            assert_eq!(made.hits, made.emulated + made.faulted + made.native, "{made:?}");
            assert_eq!(returned.hits, returned.emulated + returned.faulted + returned.native, "{returned:?}");
            calls += made.hits;
            dropped += returned.dropped;
        }
        drop(self.session);
        let printed = std::io::read_to_string(self.output).unwrap();
        (self.pairs.lock().unwrap().clone(), printed.lines().map(parsed).collect(), calls, dropped)
    }
}

fn parsed(line: &str) -> (String, u64, u64) {
    let fields: Vec<&str> = line.split(' ').collect();
    let [function, argument, result] = fields[..] else { panic!("{line}") };
    let number = |text: &str| text.parse::<i64>().unwrap().cast_unsigned();
    (function.to_owned(), number(argument), number(result))
}

/// Runs a way of the C program with probes on `functions`.
fn run(arguments: &[&str], functions: &[&str]) -> (Pairs, Pairs, u64, u64) {
    let mut run = Run::new(&compile("returns", &[]), arguments, SessionOptions::default());
    functions.iter().for_each(|function| run.follow(function, gpr::RDI));
    run.finish()
}

#[test]
fn recursive_calls_return_one_by_one() {
    let (seen, printed, calls, dropped) = run(&["fibonacci", "9"], &["fibonacci"]);
    assert_eq!(seen, printed);
    assert_eq!((calls, dropped), (printed.len() as u64, 0));
    // F(10) * 2 - 1, which is how often it is called for F(9).
    assert_eq!(calls, 109);
}

#[test]
fn tail_calls_return_together_the_last_first() {
    let (seen, printed, calls, dropped) = run(&["tails", "6"], &["even", "odd", "first", "last"]);
    let name = |is_even: bool| if is_even { "even" } else { "odd" };
    let mut expected = Pairs::new();
    for (outermost, result) in [("even", 1), ("odd", 0)] {
        expected.extend((0..=6).map(|n| {
            let same = (6 - n) % 2 == 0;
            (name((outermost == "even") == same).to_owned(), n, result)
        }));
    }
    expected
        .extend([("last", 6, 11), ("first", 6, 11), ("last", 6, 11)].map(|(f, a, r)| (f.to_owned(), a, r)));
    assert_eq!(seen, expected);
    assert_eq!((calls, dropped), (17, 0));
    // What the callers have seen.
    for pair in printed {
        assert!(seen.contains(&pair), "{pair:?}");
    }
}

#[test]
fn calls_that_longjmp_leaves_are_dropped() {
    const ROUNDS: u64 = 7;
    let (seen, printed, calls, dropped) = run(&["longjmp", "7"], &["inner", "outer"]);
    assert_eq!(seen, printed);
    // Two ways, each with as many rounds, of which each odd one leaves two functions.
    assert_eq!((calls, dropped), (2 * ROUNDS * 2, 2 * (ROUNDS / 2) * 2));
    assert_eq!(seen.len() as u64 + dropped, calls);
}

#[test]
fn coroutines_return_in_whichever_thread() {
    for way in ["coroutines", "wandering"] {
        let (seen, printed, calls, dropped) = run(&[way], &["pause_in", "step"]);
        assert_eq!(seen, printed, "{way}");
        assert_eq!((calls, dropped), (printed.len() as u64, 0), "{way}");
    }
}

#[test]
fn threads_return_each_from_its_own() {
    let (mut seen, mut printed, calls, dropped) = run(&["threads", "250"], &["doubled"]);
    assert_eq!((calls, dropped), (1000, 0));
    seen.sort();
    printed.sort();
    assert_eq!(seen, printed);
}

#[test]
fn calls_that_end_with_their_thread_are_dropped() {
    let (seen, printed, calls, dropped) = run(&["ending", "10"], &["ends"]);
    assert_eq!(seen, printed);
    assert_eq!((calls, dropped), (10, 5));
}

#[test]
fn signal_handlers_return_on_a_stack_of_their_own() {
    let (seen, printed, calls, dropped) = run(&["signals", "5"], &["handled", "raises"]);
    assert_eq!(seen, printed);
    // The handler of every other one is left, with what has raised it.
    assert_eq!((calls, dropped), (20, 5));
}
