//! Watching: each change of what is watched is told, with the instruction that has made it.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{Function, compile, finish};
use object::{Object, ObjectSymbol};
use probe::watch::{Change, Until, Watch, WatchId, WatchRefusal, WatchReport, Writer};
use probe::{Action, Event, HardwareRefusal, Session, SessionOptions};

/// A change, as the tests look at it.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    old: String,
    new: String,
    writer: Writer,
    tid: i32,
    pid: i32,
    overtaken: bool,
    moved: bool,
}

type All = Arc<Mutex<Vec<Seen>>>;

/// Whether the system has hardware breakpoints for us; if not, the test is skipped.
fn are_there() -> bool {
    let program = compile("watched", &[]);
    let mut session = launch(&program, &["none"], false);
    match session.watch_changes(Watch::new("counter").unwrap(), |_| Action::Continue) {
        Err(WatchRefusal::Hardware(error)) => {
            println!("skipped: {error}");
            false
        }
        watched => watched.map(|_| true).unwrap(),
    }
}

fn launch(program: &Path, arguments: &[&str], follow: bool) -> Session {
    let mut command = Command::new(program);
    command.args(arguments).stdout(std::process::Stdio::null());
    Session::launch_with(command, SessionOptions { follow, ..SessionOptions::default() }).unwrap()
}

fn keeps(all: &All) -> impl Fn(&mut Change<'_, '_>) -> Action + Send + Sync + 'static {
    let all = Arc::clone(all);
    move |change| {
        let shown = |value: Option<probe::arguments::Value>| value.unwrap().to_string();
        let seen = Seen {
            old: shown(change.old_value()),
            new: shown(change.new_value()),
            writer: change.writer().clone(),
            overtaken: change.is_overtaken(),
            moved: change.moved().is_some(),
            tid: change.tid(),
            pid: change.pid(),
        };
        all.lock().unwrap().push(seen);
        Action::Continue
    }
}

/// Events as text, without numbers of processes.
fn observed(session: &mut Session) -> Arc<Mutex<Vec<String>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&events);
    session.observe(move |event| {
        told.lock().unwrap().push(match event {
            Event::WatchEnded { ending, .. } => ending.to_string(),
            Event::NotWatched { reason, .. } => reason.to_string(),
            Event::Watching { .. } => "watching".to_owned(),
            _ => return,
        });
    });
    events
}

/// The address of a symbol as its file has it.
fn symbol(program: &Path, name: &str) -> u64 {
    let bytes = std::fs::read(program).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    file.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap_or_else(|| panic!("no {name}")).address()
}

/// Runs the program, which is not position-independent, to its end, and watches `expression` all the time.
fn watched(what: &[&str], expression: &str, follow: bool) -> (PathBuf, Vec<Seen>, WatchReport, Vec<String>) {
    let program = compile("watched", &["-no-pie", "-fno-pie"]);
    let mut session = launch(&program, what, follow);
    let events = observed(&mut session);
    let all = All::default();
    let id = session.watch_changes(Watch::new(expression).unwrap(), keeps(&all)).unwrap();
    assert_eq!(finish(&mut session), 0);
    let report = session.watch_report(id).unwrap();
    drop(session);
    let (all, events) = (all.lock().unwrap().clone(), events.lock().unwrap().clone());
    (program, all, report, events)
}

fn values(seen: &[Seen]) -> Vec<(&str, &str)> {
    seen.iter().map(|seen| (seen.old.as_str(), seen.new.as_str())).collect()
}

#[test]
fn each_way_to_write_is_told_with_its_instruction() {
    if !are_there() {
        return;
    }
    let (program, seen, report, _) = watched(&["ways"], "counter", false);
    assert_eq!(values(&seen), [("0", "5"), ("5", "6"), ("6", "-1"), ("-1", "7"), ("7", "8")]);
    let at = |name: &str| Writer::Instruction { address: symbol(&program, name) };
    assert_eq!(seen[0].writer, at("at_store"));
    assert_eq!(seen[1].writer, at("at_locked"));
    assert_eq!(seen[2].writer, at("at_vector"));
    assert_eq!(seen[4].writer, at("at_locked"));
    // read(2), if we may know what the kernel does.
    assert!(report.sees_kernel, "the tests run as root");
    assert!(matches!(seen[3].writer, Writer::SystemCall { number: 0, .. }), "{:?}", seen[3]);
    assert_eq!((report.changes, report.unchanged, report.unseen, report.missed), (5, 1, 0, 0));
    assert_eq!(report.threads.values().sum::<u64>(), 5);
}

/// The processor stops a thread behind a masked store that leaves alone what is watched.
#[test]
fn what_a_mask_leaves_alone_is_not_written() {
    if !are_there() {
        return;
    }
    if !std::arch::is_x86_feature_detected!("avx") {
        println!("skipped: this processor has no AVX");
        return;
    }
    let (program, seen, report, _) = watched(&["masked"], "counter", false);
    assert_eq!(values(&seen), [("0", "-1")]);
    assert_eq!(seen[0].writer, Writer::Instruction { address: symbol(&program, "at_masked") });
    assert_eq!((report.changes, report.unchanged, report.unseen, report.missed), (1, 0, 0, 0));
}

#[test]
fn string_instructions_are_told_element_by_element() {
    if !are_there() {
        return;
    }
    let (program, seen, report, _) = watched(&["strings"], "*(int *)&text", false);
    let written = |text: &[u8]| i32::from_le_bytes(text.try_into().unwrap()).to_string();
    let states = [b"\0\0\0\0", b"a\0\0\0", b"ab\0\0", b"abc\0", b"abcd", b"xbcd", b"xxcd", b"xxxd", b"xxxx"];
    let expected: Vec<(String, String)> =
        states.windows(2).map(|pair| (written(pair[0]), written(pair[1]))).collect();
    let expected: Vec<(&str, &str)> =
        expected.iter().map(|(old, new)| (old.as_str(), new.as_str())).collect();
    assert_eq!(values(&seen), expected);
    // Behind the label, the registers are loaded; the instruction itself is found in the text.
    let bytes = std::fs::read(&program).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let code = |address: u64| {
        use object::ObjectSection;
        let text = file.section_by_name(".text").unwrap();
        text.data_range(address, 2).unwrap().unwrap().to_vec()
    };
    for (seen, expected) in seen.iter().zip([[0xf3, 0xa4]; 4].into_iter().chain([[0xf3, 0xaa]; 4])) {
        let Writer::Instruction { address } = seen.writer else { panic!("{seen:?}") };
        assert_eq!(code(address), expected);
    }
    assert_eq!((report.changes, report.unseen), (8, 0));
}

#[test]
fn what_a_thread_writes_that_blocks_the_signal_is_told_late_and_counted() {
    if !are_there() {
        return;
    }
    let (_, seen, report, _) = watched(&["blocked"], "counter", false);
    assert_eq!(values(&seen), [("0", "101"), ("101", "5")]);
    assert_eq!(seen[0].writer, Writer::Blocked);
    assert!(matches!(seen[1].writer, Writer::Instruction { .. }));
    assert_eq!((report.changes, report.missed), (2, 2));
}

/// Where a pointer leads elsewhere, that is watched from then on.
#[test]
fn an_expression_is_followed_where_its_pointers_lead() {
    if !are_there() {
        return;
    }
    let (_, seen, report, _) = watched(&["list"], "list->n", false);
    let expected = [("1", "2"), ("2", "20"), ("20", "21"), ("21", "(fault)"), ("(fault)", "3")];
    assert_eq!(values(&seen), expected);
    assert_eq!(seen.iter().map(|seen| seen.moved).collect::<Vec<_>>(), [false, true, false, false, false]);
    assert_eq!((report.changes, report.unseen), (5, 0));
}

#[test]
fn a_forked_child_has_it_watched_if_it_is_followed() {
    if !are_there() {
        return;
    }
    let (_, seen, report, _) = watched(&["fork"], "counter", true);
    let parent = seen[0].pid;
    let of = |own: bool| {
        let seen: Vec<Seen> = seen.iter().filter(|seen| (seen.pid == parent) == own).cloned().collect();
        values(&seen).iter().map(|&(old, new)| format!("{old}>{new}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!((of(true).as_str(), of(false).as_str()), ("0>5 5>6", "5>6 6>7"));
    assert_eq!((report.started, report.changes), (2, 4));
    let (_, seen, report, _) = watched(&["fork"], "counter", false);
    assert_eq!(values(&seen), [("0", "5"), ("5", "6")]);
    assert_eq!(report.started, 1);
}

#[test]
fn it_is_watched_in_the_program_that_a_process_executes() {
    if !are_there() {
        return;
    }
    let (_, seen, report, events) = watched(&["exec"], "counter", false);
    let expected = [("0", "5"), ("0", "5"), ("5", "6"), ("6", "-1"), ("-1", "7"), ("7", "8")];
    assert_eq!(values(&seen), expected);
    assert_eq!(report.started, 2);
    assert_eq!(events.iter().filter(|event| *event == "watching").count(), 2, "{events:?}");
}

/// Watches `expression` at each hit of a function, until that returns.
fn until_return(
    what: &str,
    function: &str,
    offset: usize,
    expression: &str,
) -> (Vec<Seen>, WatchReport, Vec<String>) {
    let program = compile("watched", &["-no-pie", "-fno-pie", "-O0"]);
    let mut session = launch(&program, &[what], false);
    let events = observed(&mut session);
    let all = All::default();
    let watch = Watch::new(expression).unwrap().at_hits().until(Until::Return);
    let id = session.watch_changes(watch, keeps(&all)).unwrap();
    let whole = Function::whole(&program, function);
    let place: probe::spec::ProbeSpec =
        format!("{}:{:#x}", program.display(), whole.offsets()[offset]).parse().unwrap();
    session
        .probe(place, move |hit| {
            hit.watch(id);
            Action::Continue
        })
        .unwrap();
    assert_eq!(finish(&mut session), 0);
    let report = session.watch_report(id).unwrap();
    drop(session);
    let (all, events) = (all.lock().unwrap().clone(), events.lock().unwrap().clone());
    (all, report, events)
}

#[test]
fn a_variable_on_the_stack_is_watched_until_its_function_returns() {
    if !are_there() {
        return;
    }
    // At its first instruction the variable holds what lay on the stack before.
    let (seen, report, events) = until_return("local", "local", 0, "sum");
    let new: Vec<&str> = seen.iter().map(|seen| seen.new.as_str()).collect();
    assert_eq!(new, ["50", "51", "52", "5", "6", "7"]);
    assert_eq!((report.started, report.refused, report.unseen), (2, 0, 0));
    let one = ["watching", "the function has returned"];
    assert_eq!(events, [one, one].concat());
}

#[test]
fn pushes_and_calls_are_told() {
    if !are_there() {
        return;
    }
    // Behind the store of 1.
    let (seen, _, _) = until_return("pushed", "pushed", 0, "word");
    let new: Vec<&str> = seen.iter().rev().take(2).map(|seen| seen.new.as_str()).collect();
    assert_eq!(new, ["77", "1"]);
    let writers: Vec<&Writer> = seen.iter().map(|seen| &seen.writer).collect();
    assert!(writers.iter().all(|writer| matches!(writer, Writer::Instruction { .. })), "{writers:?}");
}

#[test]
fn a_frame_that_is_left_without_a_return_is_not_watched_any_more() {
    if !are_there() {
        return;
    }
    let (seen, report, events) = until_return("leaves", "leaves", 0, "value");
    assert!(seen.iter().any(|seen| seen.new == "8") && seen.iter().any(|seen| seen.new == "10"), "{seen:?}");
    assert_eq!(report.started, 2);
    assert!(events.iter().any(|event| event == "the function was left without a return"), "{events:?}");
}

#[test]
fn each_write_of_each_thread_is_told() {
    const ROUNDS: u64 = 50;
    if !are_there() {
        return;
    }
    let (_, seen, report, _) = watched(&["threads", "50"], "shared_word", false);
    assert_eq!(seen.len() as u64, 4 * ROUNDS);
    assert_eq!(report.changes + report.overtaken, 4 * ROUNDS);
    assert_eq!((report.unseen, report.missed), (0, 0));
    assert_eq!(report.threads.len(), 4);
    assert!(report.threads.values().all(|&writes| writes == ROUNDS), "{report:?}");
    let address = |seen: &Seen| seen.writer.address();
    assert!(seen.iter().all(|one| address(one).is_some() && address(one) == address(&seen[0])), "{seen:?}");
    assert_eq!(seen.last().unwrap().new, (4 * ROUNDS).to_string());
}

#[test]
fn a_watch_ends_as_it_is_wished() {
    if !are_there() {
        return;
    }
    let program = compile("watched", &[]);
    for (until, changes) in [(Until::Changes(2), 2), (Until::Condition("counter < 0".to_owned()), 3)] {
        let mut session = launch(&program, &["ways"], false);
        let events = observed(&mut session);
        let all = All::default();
        let watch = Watch::new("counter").unwrap().until(until);
        session.watch_changes(watch, keeps(&all)).unwrap();
        // Nothing else is wanted.
        assert_eq!(session.run(), probe::RunEnd::Stopped);
        assert_eq!(all.lock().unwrap().len(), changes);
        assert_eq!(events.lock().unwrap().last().unwrap(), "that was all that was wanted");
    }
}

#[test]
fn what_cannot_be_watched_is_refused_with_the_reason() {
    if !are_there() {
        return;
    }
    let program = compile("watched", &[]);
    let mut session = launch(&program, &["none"], false);
    let mut refused =
        |text: &str| session.watch_changes(Watch::new(text).unwrap(), |_| Action::Continue).expect_err(text);
    assert_eq!(refused("%rax"), WatchRefusal::NeedsHit(probe::language::Register::Rax));
    assert_eq!(refused("own"), WatchRefusal::NeedsHit(probe::language::Register::FsBase));
    assert_eq!(refused("1 + 2"), WatchRefusal::NoMemory);
    assert_eq!(refused("&counter"), WatchRefusal::NoMemory);
    assert_eq!(refused("words"), WatchRefusal::TooLarge { bytes: 40 });
    assert!(matches!(refused("nothing"), WatchRefusal::Unresolvable(_)));
    let watch = Watch::new("counter").unwrap().until(Until::Return);
    let error = session.watch_changes(watch, |_| Action::Continue).unwrap_err();
    assert_eq!(error, WatchRefusal::NoFunction);
    let mut watches: Vec<Result<WatchId, WatchRefusal>> = Vec::new();
    for text in ["words[0]", "words[1]", "words[2]", "words[3]", "words[4]"] {
        watches.push(session.watch_changes(Watch::new(text).unwrap(), |_| Action::Continue));
    }
    let Some(Err(WatchRefusal::Hardware(HardwareRefusal::Full { sites }))) = watches.pop() else {
        panic!("{watches:?}")
    };
    assert_eq!(sites.len(), 4);
    assert!(watches.iter().all(Result::is_ok), "{watches:?}");
    // The same again takes no register.
    assert!(session.watch_changes(Watch::new("words[0]").unwrap(), |_| Action::Continue).is_ok());
    assert_eq!(finish(&mut session), 0);
}
