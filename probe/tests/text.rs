//! Text that changes under its breakpoints, by programs that check each result.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Function, Target, compile, counter, finish};
use probe::locate::{Address, Hardware};
use probe::maps::Maps;
use probe::{Action, Event, Hit, Locate, ProbeError, ProbeId, RunEnd, Session, Unplaceable};

/// Where the program puts code of its own.
const JIT: u64 = 0x1000_0000;
/// How long a breakpoint may be missing before that is found.
const LONGEST: Duration = Duration::from_secs(1);

/// What was told of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Overwritten(u64, Duration),
    Restored(u64, Duration),
    Copied { address: u64, of: u64, served: bool },
    Sequence(u64),
}

/// What an observer has heard.
type Heard = Arc<Mutex<Vec<Told>>>;

fn listen(session: &mut Session) -> Heard {
    let heard = Heard::default();
    let hears = Arc::clone(&heard);
    session.observe(move |event| {
        hears.lock().unwrap().extend(match *event {
            Event::Overwritten { address, missing, .. } => Some(Told::Overwritten(address, missing)),
            Event::Restored { address, missing, .. } => Some(Told::Restored(address, missing)),
            Event::Copied { address, of, served, .. } => Some(Told::Copied { address, of, served }),
            Event::Sequence { address, .. } => Some(Told::Sequence(address)),
            _ => None,
        });
    });
    heard
}

/// A program that does something to its text, with a probe in that.
struct Changing {
    session: Session,
    heard: Heard,
    probe: ProbeId,
    count: Arc<AtomicU64>,
    _target: Target,
}

impl Changing {
    /// Begins `text HOW` with a probe at `place`, or on the function `answer`.
    fn begin(how: &str, place: Option<u64>) -> Changing {
        let program = compile("text", &["-ldl"]);
        let mut target = Target::start(&program, &[how]);
        let mut session = Session::attach(target.pid()).unwrap();
        let heard = listen(&mut session);
        let (count, handler) = counter();
        let probe = match place {
            Some(place) => session.probe(Address(place), handler),
            None => session.probe(Function::entry(&program, "answer"), handler),
        };
        let probe = probe.unwrap();
        target.close_input();
        Changing { session, heard, probe, count, _target: target }
    }

    fn site(&self) -> u64 {
        self.session.report(self.probe).unwrap().sites[0]
    }

    /// Runs the program to its end, and returns how often the probe was hit.
    fn finish(&mut self) -> u64 {
        assert_eq!(finish(&mut self.session), 0);
        let counters = self.session.report(self.probe).unwrap().counters;
        assert_eq!((counters.emulated, counters.missed), (counters.hits, 0));
        assert_eq!(counters.hits, self.count.load(Ordering::Relaxed));
        counters.hits
    }

    /// Runs it until something is told.
    fn until_told(&mut self) -> Told {
        let start = Instant::now();
        loop {
            assert_eq!(self.session.run_for(Duration::from_millis(50)), RunEnd::Timeout);
            if let Some(&told) = self.heard.lock().unwrap().first() {
                return told;
            }
            assert!(start.elapsed() < 20 * LONGEST, "nothing was told");
        }
    }
}

#[test]
fn code_that_is_never_writable_and_executable_at_once_is_read_again() {
    let mut changing = Changing::begin("jit", Some(JIT));
    assert_eq!(changing.finish(), 1000);
    assert!(changing.heard.lock().unwrap().is_empty());
}

#[test]
fn text_that_was_written_to_before_is_read_again() {
    let mut changing = Changing::begin("written", None);
    assert_eq!(changing.finish(), 1000);
}

#[test]
fn text_that_is_written_to_later_is_found_within_a_second() {
    let mut changing = Changing::begin("later", None);
    assert_eq!(changing.finish(), 1000);
}

#[test]
fn a_breakpoint_that_is_overwritten_is_found_within_a_second() {
    let mut changing = Changing::begin("overwritten", Some(JIT));
    let Told::Overwritten(JIT, missing) = changing.until_told() else { panic!("{:?}", changing.heard) };
    assert!(missing <= LONGEST, "{missing:?}");
    assert_eq!(changing.count.load(Ordering::Relaxed), 0);
}

#[test]
fn a_breakpoint_whose_page_is_thrown_away_is_placed_again() {
    let mut changing = Changing::begin("discarded", None);
    let site = changing.site();
    match changing.until_told() {
        Told::Restored(address, missing) => {
            assert!(address == site && missing <= LONGEST, "{address:#x} {missing:?}");
        }
        other => panic!("{other:?}"),
    }
    let start = Instant::now();
    while changing.count.load(Ordering::Relaxed) < 100 {
        assert!(start.elapsed() < 20 * LONGEST, "it is not hit");
        assert_eq!(changing.session.run_for(Duration::from_millis(5)), RunEnd::Timeout);
    }
}

#[test]
fn a_breakpoint_that_was_copied_elsewhere_is_lifted_there() {
    let mut changing = Changing::begin("copied", None);
    let site = changing.site();
    assert_eq!(changing.finish(), 10);
    match changing.heard.lock().unwrap()[..] {
        [Told::Copied { address, of, served: false }] => assert!(of == site && address != site),
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn a_copy_to_which_nobody_has_come_is_lifted_when_the_target_is_left() {
    const HITS: u64 = 10;
    let program = compile("text", &["-ldl"]);
    let mut target = Target::start(&program, &["kept"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let heard = listen(&mut session);
    let mut hits = 0;
    let handler = move |_: &mut Hit<'_>| {
        hits += 1;
        if hits == HITS { Action::Detach } else { Action::Continue }
    };
    let probe = session.probe(Function::entry(&program, "answer"), handler).unwrap();
    target.close_input();
    assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::Detached);
    let report = session.report(probe).unwrap();
    assert_eq!(report.counters.emulated, HITS);
    match heard.lock().unwrap()[..] {
        [Told::Copied { address, of, served: false }] => {
            assert!(of == report.sites[0] && address != of);
        }
        ref other => panic!("{other:?}"),
    }
    // It executes the copy when nobody traces it any more.
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn probes_follow_a_mapping_that_is_moved() {
    let mut changing = Changing::begin("moved", None);
    assert_eq!(changing.finish(), 20);
    assert_eq!(changing.session.report(changing.probe).unwrap().sites.len(), 2);
    assert_eq!(changing.heard.lock().unwrap()[..], []);
}

#[test]
fn a_copy_that_takes_the_place_of_the_text_is_probed() {
    let mut changing = Changing::begin("replaced", None);
    let site = changing.site();
    assert_eq!(changing.finish(), 30);
    assert_eq!(changing.heard.lock().unwrap()[..], [Told::Copied { address: site, of: site, served: true }]);
}

#[test]
fn the_programs_own_breakpoints_stay_its_own() {
    let mut changing = Changing::begin("own", None);
    assert_eq!(changing.finish(), 10);
    assert_eq!(changing.heard.lock().unwrap()[..], []);
}

#[test]
fn there_is_no_probe_where_somebody_else_has_a_breakpoint() {
    let program = compile("text", &["-ldl"]);
    let mut target = Target::start(&program, &["own"]);
    let entry = || Function::entry(&program, "answer");
    let address = entry().locate(&Maps::read(target.pid()).unwrap()).unwrap()[0].address;
    let memory = File::options().read(true).write(true).open(format!("/proc/{}/mem", target.pid())).unwrap();
    let mut original = [0];
    memory.read_exact_at(&mut original, address).unwrap();
    memory.write_all_at(&[0xCC], address).unwrap();
    let mut session = Session::attach(target.pid()).unwrap();
    for placed in [session.probe(entry(), counter().1), session.probe(Hardware(entry()), counter().1)] {
        match placed {
            Err(ProbeError::Unplaceable { address: refused, reason: Unplaceable::Occupied }) => {
                assert_eq!(refused, address);
            }
            other => panic!("{other:?}"),
        }
    }
    memory.write_all_at(&original, address).unwrap();
    let probe = session.probe(entry(), counter().1).unwrap();
    target.close_input();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(session.report(probe).unwrap().counters.hits, 10);
}

/// Compiles `sequence` and says whether it can be run.
fn sequence(flags: &[&str]) -> Option<PathBuf> {
    let program = compile("sequence", flags);
    let plain = Command::new(&program).output().unwrap();
    assert!(plain.status.success(), "{plain:?}");
    if plain.stdout == b"no rseq\n" {
        println!("skipped: the C library has not registered restartable sequences");
        return None;
    }
    Some(program)
}

/// Runs `program` with a probe at the start of `symbol`; returns what it prints, what is told, and the probe's hits
/// and misses.
fn run_sequence(program: &PathBuf, symbol: &str) -> (String, Vec<Told>, u64, u64) {
    run_with(program, symbol, Function::entry(program, symbol))
}

fn run_with(
    program: &PathBuf,
    symbol: &str,
    place: impl Locate + Send + 'static,
) -> (String, Vec<Told>, u64, u64) {
    let mut command = Command::new(program);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let mut session = Session::launch(command).unwrap();
    let heard = listen(&mut session);
    let probe = session.probe(place, counter().1).unwrap();
    assert_eq!(finish(&mut session), 0, "{symbol}");
    let counters = session.report(probe).unwrap().counters;
    drop(session);
    let heard = heard.lock().unwrap().clone();
    (std::io::read_to_string(reader).unwrap(), heard, counters.hits, counters.missed)
}

#[test]
fn a_sequence_that_no_object_lists_is_aborted_once_and_goes_through() {
    let Some(program) = sequence(&[]) else { return };
    // Before it, where the stop makes the thread begin in it; at its start; and at its last instruction, which must
    // not be performed by anybody but the thread.
    for (symbol, expected) in [("announce", (1, 0)), ("start", (0, 1)), ("commit", (0, 1))] {
        let (output, heard, hits, missed) = run_sequence(&program, symbol);
        assert!(matches!(heard[..], [Told::Sequence(_)]), "{symbol}: {heard:?}");
        assert_eq!((hits, missed), expected, "{symbol}");
        // The scheduler may have aborted another one.
        let aborts: u32 = output.trim().parse().unwrap();
        assert!((1..=3).contains(&aborts), "{symbol}: {aborts}");
    }
    for symbol in ["end", "increment"] {
        let (_, heard, hits, _) = run_sequence(&program, symbol);
        assert_eq!((hits, &heard[..]), (10, &[][..]), "{symbol}");
    }
}

#[test]
fn a_hardware_breakpoint_in_a_sequence_that_no_object_lists_is_taken_out() {
    let Some(program) = sequence(&[]) else { return };
    for symbol in ["start", "commit"] {
        let (output, heard, hits, missed) =
            run_with(&program, symbol, Hardware(Function::entry(&program, symbol)));
        assert!(matches!(heard[..], [Told::Sequence(_)]), "{symbol}: {heard:?}");
        assert_eq!((hits, missed), (0, 1), "{symbol}");
        let aborts: u32 = output.trim().parse().unwrap();
        assert!((1..=3).contains(&aborts), "{symbol}: {aborts}");
    }
}

#[test]
fn a_sequence_that_an_object_lists_is_refused() {
    for flags in [&["-DLISTED", "-fPIE", "-pie"][..], &["-DLISTED", "-fno-pie", "-no-pie"]] {
        let Some(program) = sequence(flags) else { return };
        let mut session = Session::launch(Command::new(&program)).unwrap();
        for symbol in ["announce", "start", "commit"] {
            let place = Function::entry(&program, symbol);
            let address = place.locate(&Maps::read(session.pid()).unwrap()).unwrap()[0].address;
            match session.probe(place, counter().1) {
                Err(ProbeError::Unplaceable { address: refused, reason: Unplaceable::Sequence }) => {
                    assert_eq!(refused, address, "{symbol}");
                }
                other => panic!("{symbol}: {other:?}"),
            }
        }
        let probe = session.probe(Function::entry(&program, "end"), counter().1).unwrap();
        assert_eq!(finish(&mut session), 0);
        assert_eq!(session.report(probe).unwrap().counters.hits, 10);
    }
}
