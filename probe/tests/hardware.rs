//! Hardware breakpoints: the same hits and counts, and not a byte changed.

mod common;
mod refuse;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Function, Target, compile, counter, finish};
use probe::locate::{Address, Hardware};
use probe::maps::Maps;
use probe::{
    Action, Counters, Event, HardwareRefusal, Hit, Locate, LocateError, ProbeError, ProbeId, RunEnd, Session,
    SessionOptions, Site, Unplaceable,
};

/// The number of instructions in `work`.
const WORK: u64 = 3;

/// Whether the system has hardware breakpoints for us; if not, the test is skipped.
fn are_there() -> bool {
    let mut session = Session::launch(Command::new("true")).unwrap();
    let entry = session.entry().unwrap();
    match session.probe(Hardware(Address(entry)), proceed) {
        Ok(_) => true,
        Err(error) => {
            println!("skipped: {error}");
            false
        }
    }
}

fn proceed(_: &mut Hit<'_>) -> Action {
    Action::Continue
}

fn launch(program: &Path, what: &str, options: SessionOptions) -> Session {
    let mut command = Command::new(program);
    command.arg(what);
    Session::launch_with(command, options).unwrap()
}

fn counters(session: &Session, id: ProbeId) -> Counters {
    session.report(id).unwrap().counters
}

/// Runs the program to its end, with hardware breakpoints on all of `function`.
fn run(what: &str, function: &str, options: SessionOptions) -> Counters {
    let program = compile("hardware", &[]);
    let mut session = launch(&program, what, options);
    let id = session.probe(Hardware(Function::whole(&program, function)), proceed).unwrap();
    assert!(session.report(id).unwrap().hardware);
    assert_eq!(finish(&mut session), 0);
    counters(&session, id)
}

/// The same by INT3.
fn run_by_int3(what: &str, function: &str) -> Counters {
    let program = compile("hardware", &[]);
    let mut session = launch(&program, what, SessionOptions::default());
    let id = session.probe(Function::whole(&program, function), proceed).unwrap();
    assert!(!session.report(id).unwrap().hardware);
    assert_eq!(finish(&mut session), 0);
    counters(&session, id)
}

/// What is counted when all is emulated.
fn all_emulated(hits: u64) -> Counters {
    let mut counters = Counters::default();
    (counters.hits, counters.emulated) = (hits, hits);
    counters
}

#[test]
fn adjacent_instructions_are_hit_each_time() {
    if are_there() {
        assert_eq!(run("work", "work", SessionOptions::default()), all_emulated(100 * WORK));
    }
}

#[test]
fn a_breakpoint_of_which_the_kernel_does_not_know_is_a_hit() {
    if are_there() {
        let program = compile("hardware", &[]);
        let mut session = launch(&program, "untold", SessionOptions::default());
        let site = Hardware(Function::entry(&program, "returned"));
        let id = session.probe(site, proceed).unwrap();
        assert_eq!(finish(&mut session), 0);
        assert_eq!(counters(&session, id), all_emulated(10));
    }
}

#[test]
fn every_thread_is_armed_at_its_birth() {
    if are_there() {
        let counted = run("generations", "work", SessionOptions::default());
        assert_eq!(counted, all_emulated(25 * 8 * 20 * WORK));
    }
}

#[test]
fn threads_of_several_tracers_are_counted_exactly() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 1000;
    if !are_there() {
        return;
    }
    let program = compile("parallel", &[]);
    let mut command = Command::new(&program);
    command.args(["work", &THREADS.to_string(), &ROUNDS.to_string()]).stdout(Stdio::null());
    let mut session = Session::launch(command).unwrap();
    let tracers = Arc::new(Mutex::new(std::collections::HashSet::new()));
    let noted = Arc::clone(&tracers);
    let handler = move |_: &mut Hit<'_>| {
        noted.lock().unwrap().insert(std::thread::current().id());
        Action::Continue
    };
    let id = session.probe(Hardware(First(Function::whole(&program, "step"), 4)), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, id), all_emulated(THREADS * ROUNDS * 4));
    assert!(tracers.lock().unwrap().len() >= 2, "{tracers:?}");
}

/// The first sites of another.
struct First<L>(L, usize);

impl<L: Locate> Locate for First<L> {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        let mut sites = self.0.locate(maps)?;
        sites.truncate(self.1);
        Ok(sites)
    }
}

#[test]
fn threads_that_run_already_are_armed() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let mut target = Target::start(&program, &["waits"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let id = session.probe(Hardware(Function::whole(&program, "work")), proceed).unwrap();
    target.close_input();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, id), all_emulated(100 * WORK));
}

#[test]
fn a_child_has_them_if_it_is_followed() {
    if are_there() {
        let own = run("fork", "work", SessionOptions::default());
        assert_eq!(own, all_emulated(5 * WORK));
        let all = run("fork", "work", SessionOptions { follow: true, ..SessionOptions::default() });
        assert_eq!(all, all_emulated(21 * 5 * WORK));
    }
}

#[test]
fn a_child_that_is_spawned_is_left_alone_or_followed() {
    if are_there() {
        let own = run("spawn", "work", SessionOptions::default());
        assert_eq!(own, all_emulated(20 * WORK));
        let all = run("spawn", "work", SessionOptions { follow: true, ..SessionOptions::default() });
        assert_eq!(all, all_emulated((20 + 20 * 100) * WORK));
    }
}

#[test]
fn they_are_set_anew_after_exec() {
    if are_there() {
        assert_eq!(run("exec", "work", SessionOptions::default()), all_emulated(200 * WORK));
    }
}

#[test]
fn a_fifth_is_refused_and_there_is_room_when_one_is_removed() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let mut session = launch(&program, "work", SessionOptions::default());
    let first = session.probe(Hardware(First(Function::whole(&program, "many"), 4)), proceed).unwrap();
    let work = || Hardware(Function::entry(&program, "work"));
    let sites = session.report(first).unwrap().sites;
    match session.probe(work(), proceed) {
        Err(ProbeError::Unplaceable {
            reason: Unplaceable::Hardware(HardwareRefusal::Full { sites: which }),
            ..
        }) => {
            assert_eq!(which, sites);
        }
        other => panic!("{other:?}"),
    }
    // By INT3 it can be, and so can a second probe where there is one.
    let by_int3 = session.probe(Function::entry(&program, "work"), proceed).unwrap();
    let shared = session.probe(Hardware(Address(sites[0])), proceed).unwrap();
    session.remove(first);
    let second = session.probe(work(), proceed).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, by_int3), all_emulated(100));
    assert_eq!(counters(&session, second), all_emulated(100));
    assert_eq!(counters(&session, shared), all_emulated(1));
    assert_eq!(counters(&session, first), all_emulated(0));
}

/// Where the text of process `pid` differs from the files that it is mapped from.
fn changed_text(pid: i32) -> Vec<u64> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut changed = Vec::new();
    for mapping in common::executable_maps(pid) {
        let Some(path) = mapping.file() else { continue };
        let mut now = vec![0; usize::try_from(mapping.end - mapping.start).unwrap()];
        memory.read_exact_at(&mut now, mapping.start).unwrap();
        let file = std::fs::read(path).unwrap();
        let original = &file[usize::try_from(mapping.offset).unwrap()..];
        let pairs = now.iter().zip(original).zip(mapping.start..);
        changed.extend(pairs.filter(|((now, before), _)| now != before).map(|(_, address)| address));
    }
    changed
}

#[test]
fn not_a_byte_of_text_changes() {
    if !are_there() {
        return;
    }
    let program = compile("checksum", &[]);
    let plain = Command::new(&program).output().unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(&program);
    command.stdout(writer);
    let options = SessionOptions { hardware: true, ..SessionOptions::default() };
    let mut session = Session::launch_with(command, options).unwrap();
    let checked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&checked);
    let handler = move |hit: &mut Hit<'_>| {
        seen.lock().unwrap().push(changed_text(hit.pid()));
        Action::Continue
    };
    let id = session.probe(Function::entry(&program, "work"), handler).unwrap();
    // That of a library which the linker has yet to map.
    let libc = "libc.so.6:_exit".parse::<probe::spec::ProbeSpec>().unwrap();
    let exit = session.probe(libc, proceed).unwrap();
    assert_eq!(changed_text(session.pid()), [0; 0]);
    assert_eq!(finish(&mut session), 0);
    let report = session.report(id).unwrap();
    assert!(report.hardware);
    assert_eq!(report.counters, all_emulated(1));
    assert_eq!(counters(&session, exit).hits, 1);
    assert_eq!(*checked.lock().unwrap(), [[0; 0]]);
    drop(session);
    let mut printed = Vec::new();
    reader.read_to_end(&mut printed).unwrap();
    assert_eq!(printed, plain.stdout);
}

#[test]
fn all_four_can_be_had_though_the_session_uses_them_itself() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let options = SessionOptions { hardware: true, ..SessionOptions::default() };
    let mut session = launch(&program, "work", options);
    let work = session.probe(Function::whole(&program, "work"), proceed).unwrap();
    let exit = session.probe("libc.so.6:_exit".parse::<probe::spec::ProbeSpec>().unwrap(), proceed).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, work), all_emulated(100 * WORK));
    assert_eq!(counters(&session, exit).hits, 1);
}

/// Runs `masks HOW` with a hardware breakpoint on `work`, which is called ten times; says what was counted.
fn masks(how: &str) -> (u64, u64) {
    let program = compile("masks", &[]);
    let mut session = launch(&program, how, SessionOptions::default());
    let id = session.probe(Hardware(Function::entry(&program, "work")), counter().1).unwrap();
    assert_eq!(finish(&mut session), 0, "{how}");
    let Counters { hits, emulated, missed, .. } = counters(&session, id);
    assert_eq!(hits, emulated);
    (hits, missed)
}

#[test]
fn masks_and_handlers_stay_as_they_are() {
    if !are_there() {
        return;
    }
    for how in ["thread", "alone", "changed", "handled"] {
        assert_eq!(masks(how), (10, 0), "{how}");
    }
    assert_eq!(masks("blocked"), (0, 10));
    assert_eq!(run("ignored", "work", SessionOptions::default()), all_emulated(10 * WORK));
}

#[test]
fn what_a_thread_passes_that_blocks_the_signal_is_counted_as_missed() {
    if are_there() {
        let mut expected = all_emulated(10 * WORK);
        expected.missed = 1000 * WORK;
        assert_eq!(run("blocked", "work", SessionOptions::default()), expected);
    }
}

#[test]
fn no_signal_is_left_behind_in_a_thread_that_blocks_it() {
    if !are_there() {
        return;
    }
    for leaves in [false, true] {
        let program = compile("hardware", &[]);
        let (input, writer) = std::io::pipe().unwrap();
        let (reader, output) = std::io::pipe().unwrap();
        let serve = move || {
            let mut command = Command::new(&program);
            command.arg("pending").stdin(input).stdout(output);
            let mut session = Session::launch(command).unwrap();
            let id = session.probe(Hardware(Function::whole(&program, "work")), proceed).unwrap();
            let stop = session.stop_handle();
            let waiter = std::thread::spawn(move || {
                let mut line = String::new();
                BufReader::new(reader).read_line(&mut line).unwrap();
                stop.request();
                line
            });
            assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::StopRequested);
            assert_eq!(waiter.join().unwrap(), "ready\n");
            if leaves {
                return Ok((session.leave(), id));
            }
            session.detach();
            Err((counters(&session, id), session.pid()))
        };
        let (status, counted) = match std::thread::spawn(serve).join().unwrap() {
            Ok((mut left, id)) => {
                drop(writer);
                (left.wait(), left.report(id).unwrap().counters)
            }
            Err((counted, pid)) => {
                drop(writer);
                (wait_for(pid), counted)
            }
        };
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{leaves}");
        assert_eq!((counted.hits, counted.missed), (0, 10 * WORK));
    }
}

/// How a child ends that a thread of ours has launched and let go.
fn wait_for(pid: i32) -> Option<std::process::ExitStatus> {
    use nix::sys::wait::{WaitStatus, waitpid};
    use std::os::unix::process::ExitStatusExt;
    match waitpid(nix::unistd::Pid::from_raw(pid), None) {
        Ok(WaitStatus::Exited(_, code)) => Some(std::process::ExitStatus::from_raw(code << 8)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_only_the_thread_can_do_it_does_and_nobody_is_held() {
    if !are_there() {
        return;
    }
    let program = compile("natively", &[]);
    let plain = Command::new(&program).output().unwrap();
    for function in ["toggle", "peek"] {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut command = Command::new(&program);
        command.stdout(writer);
        let mut session = Session::launch(command).unwrap();
        // The first POPF, or the load.
        let sites = Function::whole(&program, function).len();
        let id = session.probe(Hardware(First(Function::whole(&program, function), sites.min(4))), proceed);
        let id = id.unwrap();
        assert_eq!(finish(&mut session), 0);
        let Counters { hits, emulated, native, missed, .. } = counters(&session, id);
        assert_eq!((emulated + native, missed), (hits, 0));
        if function == "toggle" || plain.stdout.ends_with(b"vvar\n") {
            assert_eq!(native, 1, "{function}");
        }
        drop(session);
        let mut printed = Vec::new();
        reader.read_to_end(&mut printed).unwrap();
        assert_eq!(printed, plain.stdout);
    }
}

#[test]
fn strings_and_faults_are_as_with_int3() {
    if !are_there() {
        return;
    }
    let copied = run("copy", "copy", SessionOptions::default());
    assert_eq!(copied, run_by_int3("copy", "copy"));
    assert_eq!(copied, all_emulated(3));
    // The load faults, and is made again when the signal handler returns.
    let mut expected = all_emulated(20);
    (expected.hits, expected.faulted) = (30, 10);
    assert_eq!(run("fault", "load", SessionOptions::default()), expected);
    assert_eq!(run_by_int3("fault", "load"), expected);
}

#[test]
fn a_site_may_have_both_kinds() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let mut session = launch(&program, "work", SessionOptions::default());
    let by_int3 = session.probe(Function::whole(&program, "work"), proceed).unwrap();
    let by_hardware = session.probe(Hardware(Function::whole(&program, "work")), proceed).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(counters(&session, by_int3), all_emulated(100 * WORK));
    assert_eq!(counters(&session, by_hardware), all_emulated(100 * WORK));
}

#[test]
fn text_is_probed_that_cannot_be_written() {
    if !are_there() {
        return;
    }
    // What the kernel maps into every process.
    let program = compile("hardware", &[]);
    let mut session = launch(&program, "clock", SessionOptions::default());
    let id = session.probe(Hardware(Vdso), proceed).unwrap();
    assert_eq!(finish(&mut session), 0);
    let Counters { hits, missed, .. } = counters(&session, id);
    assert!(hits >= 10 && missed == 0, "{hits} hits, {missed} missed");

    // What other processes map, too.
    let (mut target, _lines, address) = Mapped::start("shared");
    let mut session = Session::attach(target.pid()).unwrap();
    match session.probe(Address(address), proceed) {
        Err(ProbeError::Unplaceable { reason: Unplaceable::Shared, .. }) => {}
        other => panic!("{other:?}"),
    }
    let id = session.probe(Hardware(Address(address)), proceed).unwrap();
    target.go_on(&mut session);
    assert_eq!(counters(&session, id), all_emulated(10));
}

/// A target that maps code, and says where.
struct Mapped(Child);

impl Mapped {
    fn start(what: &str) -> (Mapped, BufReader<std::process::ChildStdout>, u64) {
        let program = compile("hardware", &[]);
        let mut child =
            Command::new(&program).arg(what).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let address = u64::from_str_radix(line.trim().trim_start_matches("0x"), 16).unwrap();
        line.clear();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        (Mapped(child), lines, address)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Lets it go on, to its end.
    fn go_on(&mut self, session: &mut Session) {
        drop(self.0.stdin.take());
        match session.run_for(Duration::from_secs(60)) {
            RunEnd::Ended(Some(status)) => assert_eq!(status.code(), Some(0), "{status}"),
            other => panic!("the target did not end: {other:?}"),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The vDSO's clock_gettime.
struct Vdso;

impl Locate for Vdso {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        use object::{Object, ObjectSymbol};
        let absent = || LocateError::NotMapped { object: "[vdso]".to_owned(), instead: Vec::new() };
        let mapping = maps.iter().find(|mapping| mapping.is_vdso()).ok_or_else(absent)?;
        let mut image = vec![0; usize::try_from(mapping.end - mapping.start).unwrap()];
        let memory = File::open(format!("/proc/{}/mem", maps.pid())).unwrap();
        memory.read_exact_at(&mut image, mapping.start).unwrap();
        let file = object::File::parse(&*image).unwrap();
        let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok("__vdso_clock_gettime"));
        Ok(vec![Site { address: mapping.start + symbol.ok_or_else(absent)?.address() }])
    }
}

/// Unlike INT3, a hardware breakpoint does not go with its mapping.
#[test]
fn another_mapping_in_the_same_place_is_not_taken_for_the_text() {
    if !are_there() {
        return;
    }
    let (mut target, _lines, address) = Mapped::start("replaced");
    let mut session = Session::attach(target.pid()).unwrap();
    let mapped = Maps::read(target.pid()).unwrap();
    let inode = probe::maps::find(&mapped, address).unwrap().inode;
    let id = session.probe(Hardware(InFile(inode, address)), proceed).unwrap();
    target.go_on(&mut session);
    assert_eq!(counters(&session, id), all_emulated(10));
}

/// An address as long as that file is mapped there.
struct InFile(u64, u64);

impl Locate for InFile {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        match probe::maps::find(maps, self.1).filter(|mapping| mapping.inode == self.0) {
            Some(_) => Ok(vec![Site { address: self.1 }]),
            None => Err(LocateError::NotMapped { object: format!("inode {}", self.0), instead: Vec::new() }),
        }
    }
}

#[test]
fn a_target_is_detached_from_under_traffic() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let target = Target::start(&program, &["busy"]);
    for round in 0..50 {
        let mut session = Session::attach(target.pid()).unwrap();
        let (count, handler) = counter();
        let id = session.probe(Hardware(Function::whole(&program, "work")), handler).unwrap();
        assert_eq!(session.run_for(Duration::from_millis(round % 7)), RunEnd::Timeout);
        if round % 2 == 0 {
            session.remove(id);
        }
        session.detach();
        let Counters { hits, emulated, missed, .. } = counters(&session, id);
        let counted = count.load(Ordering::Relaxed);
        assert_eq!((hits, emulated, missed), (counted, counted, 0));
    }
    assert_eq!(target.finish(), Some(0));
}

/// Says so when it is dropped.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A child that is being made has all our descriptors, and so the events, until it executes its program.
#[test]
fn a_target_is_detached_from_while_children_are_made() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let target = Target::start(&program, &["busy"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _done = Done(&done);
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut command = Command::new("true");
                // So that it is forked.
                #[allow(unsafe_code, reason = "what is called between fork and exec is one system call")]
                // SAFETY: it allocates nothing, and takes no lock.
                unsafe {
                    command.pre_exec(|| {
                        let time = libc::timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                        libc::nanosleep(&raw const time, std::ptr::null_mut());
                        Ok(())
                    });
                }
                assert!(command.status().unwrap().success());
            }
        });
        for _ in 0..20 {
            let mut session = Session::attach(target.pid()).unwrap();
            session.probe(Hardware(Function::whole(&program, "work")), proceed).unwrap();
            assert_eq!(session.run_for(Duration::from_millis(5)), RunEnd::Timeout);
        }
    });
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_target_is_left_without_an_interruption() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let target = Target::start(&program, &["quiet"]);
    for _ in 0..10 {
        let (pid, program) = (target.pid(), program.clone());
        let serve = move || {
            let mut session = Session::attach(pid).unwrap();
            let id = session.probe(Hardware(Function::whole(&program, "work")), proceed).unwrap();
            while counters(&session, id).hits == 0 {
                assert_eq!(session.run_for(Duration::from_millis(10)), RunEnd::Timeout);
            }
            (session.leave(), id)
        };
        let (left, id) = std::thread::spawn(serve).join().unwrap();
        let Counters { hits, emulated, missed, .. } = left.report(id).unwrap().counters;
        assert_eq!((emulated, missed), (hits, 0));
    }
    assert_eq!(target.finish(), Some(0));
}

/// Whatever `work` does in a thread in which perf_event_open(2) fails so.
fn refused(error: i32) -> HardwareRefusal {
    let refuse = move || {
        let program = compile("hardware", &[]);
        let mut session = launch(&program, "work", SessionOptions::default());
        refuse::refuse(libc::SYS_perf_event_open, None, error);
        match session.probe(Hardware(Function::entry(&program, "work")), proceed) {
            Err(ProbeError::Unplaceable { reason: Unplaceable::Hardware(refusal), .. }) => refusal,
            other => panic!("{other:?}"),
        }
    };
    std::thread::spawn(refuse).join().unwrap()
}

#[test]
fn what_is_in_the_way_is_told() {
    assert!(matches!(refused(libc::EACCES), HardwareRefusal::Forbidden { .. }));
    assert!(matches!(refused(libc::EPERM), HardwareRefusal::Forbidden { .. }));
    assert_eq!(refused(libc::ENOENT), HardwareRefusal::Missing);
    assert_eq!(refused(libc::ENOSYS), HardwareRefusal::Missing);
    assert_eq!(refused(libc::EMFILE), HardwareRefusal::Descriptors);
    assert!(matches!(refused(libc::ENOSPC), HardwareRefusal::Taken { .. }));
    assert_eq!(refused(libc::ENOMEM), HardwareRefusal::System(nix::errno::Errno::ENOMEM));
}

#[test]
fn a_thread_that_cannot_be_armed_is_told() {
    if !are_there() {
        return;
    }
    let told = std::thread::spawn(|| {
        let program = compile("hardware", &[]);
        let mut session = launch(&program, "generations", SessionOptions::default());
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        session.observe(move |event| {
            if let Event::Unwatched { address, error, .. } = event {
                heard.lock().unwrap().push((*address, *error));
            }
        });
        let id = session.probe(Hardware(Function::entry(&program, "work")), proceed).unwrap();
        refuse::refuse(libc::SYS_perf_event_open, None, libc::ENOSPC);
        assert_eq!(finish(&mut session), 0);
        let site = session.report(id).unwrap().sites[0];
        assert_eq!(counters(&session, id), all_emulated(0));
        let told = told.lock().unwrap().clone();
        (told, site)
    });
    let (told, site) = told.join().unwrap();
    assert_eq!(told, vec![(site, nix::errno::Errno::ENOSPC); 25 * 8]);
}

/// A debug register that is not used any more keeps its address, and the processor tells of that, too, when the same one
/// is in another.
#[test]
fn a_site_that_moves_to_another_debug_register_is_hit_as_before() {
    if !are_there() {
        return;
    }
    let program = compile("hardware", &[]);
    let target = Target::start(&program, &["busy"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let work = Function::whole(&program, "work").locate(&Maps::read(target.pid()).unwrap()).unwrap();
    let place =
        |session: &mut Session, site: &Site| session.probe(Hardware(Address(site.address)), proceed).unwrap();
    let [first, second, third] = work[..] else { panic!("{work:?}") };
    let mut ids = [first, second, third].map(|site| place(&mut session, &site));
    for _ in 0..20 {
        assert_eq!(session.run_for(Duration::from_millis(5)), RunEnd::Timeout);
        // The others move up when a thread gets a processor next.
        session.remove(ids[0]);
        assert_eq!(session.run_for(Duration::from_millis(20)), RunEnd::Timeout);
        ids[0] = place(&mut session, &first);
    }
    session.detach();
    for id in ids {
        let Counters { hits, emulated, missed, .. } = counters(&session, id);
        assert_eq!((emulated, missed), (hits, 0));
    }
    assert_eq!(target.finish(), Some(0));
}
