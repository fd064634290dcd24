//! Calls that are followed to their returns: exact pairs, whatever becomes of the stack, and results.

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{Function, Target, compile, counter, finish};
use emu::registers::gpr;
use probe::spec::ProbeSpec;
use probe::{Action, Counters, Event, Hit, ProbeId, RunEnd, Session, SessionOptions, Unplaceable};

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

    /// The program's text is as it would be without probes, so this is, too: what it prints without.
    fn plainly(program: &Path, arguments: &[&str]) -> String {
        let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{}", output.status);
        String::from_utf8(output.stdout).unwrap()
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

/// Runs a way of the C program with probes on `functions`. It prints what it prints without.
fn run(arguments: &[&str], functions: &[&str]) -> (Pairs, Pairs, u64, u64) {
    let program = compile("returns", &[]);
    let mut run = Run::new(&program, arguments, SessionOptions::default());
    functions.iter().for_each(|function| run.follow(function, gpr::RDI));
    let found = run.finish();
    let mut plain: Pairs = Run::plainly(&program, arguments).lines().map(parsed).collect();
    let mut printed = found.1.clone();
    plain.sort();
    printed.sort();
    assert_eq!(printed, plain);
    found
}

/// Compiles a program in another language than C; `None` where its compiler is missing.
fn compile_by(compiler: &str, flags: &[&str], file: &str) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets").join(file);
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(std::process::id().to_string());
    std::fs::create_dir_all(&directory).unwrap();
    let program = directory.join(file.split('.').next().unwrap());
    let mut command = Command::new(compiler);
    match command.args(flags).arg("-o").arg(&program).arg(source).status() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("skipped: {compiler} is missing");
            None
        }
        status => {
            assert!(status.unwrap().success(), "{file}");
            Some(program.canonicalize().unwrap())
        }
    }
}

fn sorted(mut pairs: Pairs) -> Pairs {
    pairs.sort();
    pairs
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
    // Two ways, each with as many rounds, of which each odd one leaves two functions; and a third, where two of three do,
    // and the number is one more than a multiple of four after each round.
    let third = 1 + (ROUNDS - 1) / 4;
    assert_eq!((calls, dropped), ((2 * ROUNDS + 3 * third) * 2, (2 * (ROUNDS / 2) + 2 * third) * 2));
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
    let (seen, printed, calls, dropped) = run(&["threads", "250"], &["doubled"]);
    assert_eq!((calls, dropped), (1000, 0));
    assert_eq!(sorted(seen), sorted(printed));
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

#[test]
fn calls_that_exceptions_leave_are_dropped() {
    let Some(program) = compile_by("c++", &["-O2", "-fno-inline"], "throwing.cpp") else { return };
    let functions = ["deep", "catches", "joins", "throws_again", "outermost"];
    let mut run = Run::new(&program, &["8"], SessionOptions::default());
    functions.iter().for_each(|function| run.follow(function, gpr::RDI));
    let (seen, mut printed, calls, dropped) = run.finish();
    let plain: Pairs = Run::plainly(&program, &["8"]).lines().map(parsed).collect();
    assert_eq!(printed, plain);
    printed.pop();
    assert_eq!(seen, printed);
    // With 3 and 7, that is thrown through `deep`, once and twice, for each of three that catch, and `throws_again`.
    assert_eq!(dropped, 3 * 3 + 2);
    assert_eq!(calls, seen.len() as u64 + dropped);
}

#[test]
fn goroutines_return_wherever_their_stacks_have_moved() {
    const GOROUTINES: u64 = 8;
    const DEPTH: u64 = 150;
    let Some(program) = compile_by("go", &["build"], "goroutines.go") else { return };
    let arguments = [GOROUTINES.to_string(), DEPTH.to_string()];
    let mut run = Run::new(&program, &[&arguments[0], &arguments[1]], SessionOptions::default());
    // ABIInternal has the first argument, and the result, in RAX.
    ["main.grow", "main.fails", "main.recovers"].iter().for_each(|function| run.follow(function, gpr::RAX));
    // A function that wants more stack begins again, which is another hit.
    let (entered, handler) = counter();
    run.session.probe(Function::entry(&program, "main.grow"), handler).unwrap();
    let (seen, printed, calls, dropped) = run.finish();
    assert_eq!(sorted(seen), sorted(printed.clone()));
    // Half of the calls of `fails` panic.
    assert_eq!((calls, dropped), (printed.len() as u64 + dropped, GOROUTINES * 2));
    let entered = entered.load(std::sync::atomic::Ordering::Relaxed);
    assert!(entered > GOROUTINES * (DEPTH + 1), "no stack has grown");
}

#[test]
fn a_forked_child_returns_too() {
    let program = compile("returns", &[]);
    let pair = |name: &str, argument, result| (name.to_owned(), argument, result);
    for follow in [true, false] {
        let options = SessionOptions { follow, ..SessionOptions::default() };
        let mut run = Run::new(&program, &["fork", "3"], options);
        ["forks", "doubled"].iter().for_each(|function| run.follow(function, gpr::RDI));
        let (seen, printed, calls, dropped) = run.finish();
        let all = [pair("forks", 3, 4), pair("doubled", 3, 6), pair("forks", 3, 5)];
        assert_eq!(printed, all);
        assert_eq!(seen, if follow { &all[..] } else { &all[2..] });
        assert_eq!((calls, dropped), (if follow { 2 } else { 1 }, 0));
    }
}

#[test]
fn vfork_returns_twice() {
    let mut run = Run::new(&compile("returns", &[]), &["vfork", "3"], SessionOptions::default());
    let vfork: ProbeSpec = "libc.so.6:vfork%return".parse().unwrap();
    let (results, told) = (Arc::new(Mutex::new(Vec::new())), Arc::clone(&run.pairs));
    let see = Arc::clone(&results);
    let probe = run.session.probe_calls(
        vfork,
        |_| Some(()),
        move |hit, _| {
            see.lock().unwrap().push((hit.pid() as u64, hit.registers().gpr[gpr::RAX]));
            Action::Continue
        },
    );
    let probe = probe.unwrap();
    run.follow("doubled", gpr::RDI);
    let (calls, parent) = (probe, run.session.pid() as u64);
    assert_eq!(finish(&mut run.session), 0);
    let (made, returned) = run.counters(calls);
    assert_eq!((made.hits, returned.hits, returned.dropped), (1, 2, 0));
    let results = results.lock().unwrap().clone();
    let child = results[0].0;
    assert_eq!(results, [(child, 0), (parent, child)]);
    assert_eq!(*told.lock().unwrap(), [("doubled".to_owned(), 3, 6)]);
}

#[test]
fn results_are_where_the_abi_has_them() {
    const N: u64 = 6;
    type Look = fn(&mut Hit<'_>) -> String;
    let program = compile("returns", &[]);
    let looks: [(&str, Look); 6] = [
        ("integer", |hit| format!("{}", hit.registers().gpr[gpr::RAX] as i32)),
        ("real", |hit| format!("{}", f64::from_bits(hit.extended().unwrap().vector[0].0[0]))),
        ("pair", |hit| {
            let [first, second] = [gpr::RAX, gpr::RDX].map(|register| hit.registers().gpr[register]);
            format!("{first} {}", second.cast_signed())
        }),
        ("reals", |hit| {
            let extended = hit.extended().unwrap();
            let [first, second] = [0, 1].map(|number| f64::from_bits(extended.vector[number].0[0]));
            format!("{first} {second}")
        }),
        ("mixed", |hit| {
            let second = f64::from_bits(hit.extended().unwrap().vector[0].0[0]);
            format!("{} {second}", hit.registers().gpr[gpr::RAX])
        }),
        ("large", |hit| {
            let place = hit.registers().gpr[gpr::RAX];
            format!("{} {}", hit.read_u64(place).unwrap(), hit.read_u64(place + 32).unwrap())
        }),
    ];
    let arguments = ["results", &N.to_string()];
    let mut run = Run::new(&program, &arguments, SessionOptions::default());
    let found = Arc::new(Mutex::new(Vec::new()));
    for (function, look) in looks {
        let found = Arc::clone(&found);
        let site = Function::entry(&program, function);
        let on_return = move |hit: &mut Hit<'_>, _| {
            let result = look(hit);
            found.lock().unwrap().push(format!("{function} {result}"));
            Action::Continue
        };
        run.session.probe_calls(site, |_| Some(()), on_return).unwrap();
    }
    assert_eq!(finish(&mut run.session), 0);
    drop(run.session);
    let printed = std::io::read_to_string(run.output).unwrap();
    assert_eq!(printed, Run::plainly(&program, &arguments));
    let mut printed: Vec<&str> = printed.lines().collect();
    let mut found = found.lock().unwrap().clone();
    printed.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, printed);
}

/// Each call is from one place: half of those that return there are followed.
#[test]
fn only_calls_that_are_followed_return() {
    const CALLS: u64 = 10;
    let program = compile("returns", &[]);
    let mut target = Target::start(&program, &["waiting", "0"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let see = Arc::clone(&seen);
    let doubled = || Function::entry(&program, "doubled");
    let probe = session.probe_calls(
        doubled(),
        |hit| Some(hit.registers().gpr[gpr::RDI]).filter(|argument| argument % 2 == 1),
        move |_, call| {
            see.lock().unwrap().push(call.value);
            Action::Continue
        },
    );
    let probe = probe.unwrap();
    // The place behind the call, and each other one there, is a site of its own, too.
    let whole = session.probe(Function::whole(&program, "by_waiting"), counter().1).unwrap();
    // Others that are filtered out.
    let none = session.probe_calls(
        doubled(),
        |hit| {
            hit.filter_out();
            Some(())
        },
        |_, _| panic!("it was filtered out"),
    );
    let none = none.unwrap();
    target.ask(CALLS);
    assert_eq!(target.finish_in(&mut session), Some(0));
    let report = session.report(probe).unwrap();
    let returns = report.returns.unwrap();
    assert_eq!((report.counters.hits, returns.hits, returns.emulated), (CALLS, CALLS / 2, CALLS / 2));
    assert_eq!(*seen.lock().unwrap(), [1, 3, 5, 7, 9]);
    let report = session.report(none).unwrap();
    assert_eq!((report.counters.filtered, report.returns.unwrap()), (CALLS, Counters::default()));
    assert!(session.report(whole).unwrap().counters.emulated > CALLS);
}

/// Has a call made that waits, runs `then`, and lets it return, to which nobody is told.
fn while_it_waits(then: impl FnOnce(&mut Session, ProbeId)) {
    let program = compile("returns", &[]);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let mut command = Command::new(&program);
    let (output, printed) = std::io::pipe().unwrap();
    command.args(["waits", "5"]).stdin(reader).stdout(printed);
    let mut session = Session::launch(command).unwrap();
    let stop = session.stop_handle();
    let probe = session.probe_calls(
        Function::entry(&program, "waits"),
        move |_| {
            stop.request();
            Some(())
        },
        |_, _| panic!("nobody wants to know"),
    );
    let probe = probe.unwrap();
    assert_eq!(session.run(), RunEnd::StopRequested);
    then(&mut session, probe);
    writer.write_all(b"x").unwrap();
    // Nobody is left who is traced if it has been detached from.
    assert!(matches!(session.run(), RunEnd::Ended(_)));
    assert_eq!(std::io::read_to_string(output).unwrap(), "ready\nwaits 5 5\n");
    let report = session.report(probe).unwrap();
    assert_eq!((report.counters.hits, report.returns.unwrap()), (1, Counters::default()));
}

#[test]
fn a_call_returns_when_its_probe_has_been_removed() {
    while_it_waits(|session, probe| session.remove(probe));
}

#[test]
fn a_call_returns_when_its_process_has_been_detached_from() {
    while_it_waits(|session, _| session.detach());
}

/// The program starts with the number of its arguments where others have a return address.
#[test]
fn where_there_can_be_no_breakpoint_is_told_and_missed() {
    let program = compile("returns", &[]);
    let mut command = Command::new(&program);
    command.args(["doubled", "1"]).stdout(Stdio::null());
    let mut session = Session::launch(command).unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell = Arc::clone(&told);
    session.observe(move |event| {
        if let Event::NoReturnSite { probe, address, reason: Unplaceable::Unmapped, .. } = event {
            tell.lock().unwrap().push((*probe, *address));
        }
    });
    let start = Function::entry(&program, "_start");
    let probe = session.probe_calls(start, |_| Some(()), |_, _| Action::Continue).unwrap();
    assert_eq!(finish(&mut session), 0);
    let report = session.report(probe).unwrap();
    let returns = report.returns.unwrap();
    assert_eq!((report.counters.hits, returns.hits, returns.missed, returns.dropped), (1, 0, 1, 0));
    assert_eq!(*told.lock().unwrap(), [(probe, 3)]);
}

#[test]
fn a_return_is_no_site_of_a_probe_that_follows_no_calls() {
    let program = compile("returns", &[]);
    let mut command = Command::new(&program);
    command.stdout(Stdio::null());
    let mut session = Session::launch(command).unwrap();
    let spec: ProbeSpec = format!("{}:doubled%return", program.display()).parse().unwrap();
    let error = session.probe(spec.clone(), |_| Action::Continue).unwrap_err();
    assert!(error.to_string().contains("probe_calls"), "{error}");
    session.probe_calls(spec, |_| Some(()), |_, _| Action::Continue).unwrap();
    let inside =
        format!("{}:{:#x}%return", program.display(), Function::whole(&program, "outer").offsets()[1]);
    let inside: ProbeSpec = inside.parse().unwrap();
    let error = session.probe_calls(inside, |_| Some(()), |_, _| Action::Continue).unwrap_err();
    assert!(error.to_string().contains("lies inside outer"), "{error}");
}
