//! The engine on small programs, each of which knows whether it ran as it would have without a tracer.

mod common;

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{Function, Target, compile, counter, executable_maps, finish, raises_what_faults_expects};
use probe::locate::Address;
use probe::{Action, AttachError, ProbeError, RunEnd, Session, SessionOptions, Unplaceable};

/// Checks that all hits of each probe were emulated, and returns their number.
fn emulated(session: &Session, id: probe::ProbeId) -> u64 {
    let report = session.report(id).unwrap();
    assert!(report.refused.is_empty(), "{:?}", report.refused);
    assert_eq!(report.counters.hits, report.counters.emulated + report.counters.faulted, "{report:?}");
    report.counters.emulated
}

#[test]
fn every_call_of_every_thread_is_a_hit() {
    let program = compile("threads", &[]);
    let mut command = Command::new(&program);
    command.args(["4", "500"]);
    let mut session = Session::launch(command).unwrap();
    let (count, handler) = counter();
    let id = session.probe(Function::entry(&program, "work"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(count.load(Ordering::Relaxed), 2000);
    assert_eq!(emulated(&session, id), 2000);
}

#[test]
fn atomic_instructions_lose_nothing() {
    let program = compile("threads", &[]);
    let mut command = Command::new(&program);
    command.args(["3", "300"]);
    let mut session = Session::launch(command).unwrap();
    let work = Function::whole(&program, "work");
    let instructions = work.len() as u64;
    let (_, handler) = counter();
    let id = session.probe(work, handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(emulated(&session, id), 900 * instructions);
}

#[test]
fn the_answer_is_that_of_the_core_that_the_thread_is_on() {
    const ROUNDS: u64 = 12;
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    if cores < 2 {
        println!("skipped: one core is not enough to go from one to the other");
        return;
    }
    let program = compile("cores", &[]);
    let mut command = Command::new(&program);
    command.arg(ROUNDS.to_string());
    let mut session = Session::launch(command).unwrap();
    let ids = ["rdtscp", "lsl"].map(|name| {
        let (_, handler) = counter();
        session.probe(Function::whole(&program, name), handler).unwrap()
    });
    assert_eq!(finish(&mut session), 0);
    for id in ids {
        let hits = emulated(&session, id);
        assert!(hits >= cores * (1..ROUNDS).sum::<u64>(), "{hits}");
    }
}

#[test]
fn a_running_process_is_probed_and_left_unharmed() {
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["3"]);
    let before = executable_maps(target.pid());
    for _ in 0..5 {
        let mut session = Session::attach(target.pid()).unwrap();
        let (count, handler) = counter();
        let id = session.probe(Function::whole(&program, "step"), handler).unwrap();
        while count.load(Ordering::Relaxed) < 2000 {
            assert_eq!(session.run_for(Duration::from_millis(20)), RunEnd::Timeout);
        }
        assert!(emulated(&session, id) >= 2000);
        drop(session);
    }
    assert_eq!(executable_maps(target.pid()), before);
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_probe_is_removed_while_threads_run_through_it() {
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["4"]);
    let mut session = Session::attach(target.pid()).unwrap();
    for _ in 0..200 {
        let (count, handler) = counter();
        let id = session.probe(Function::whole(&program, "step"), handler).unwrap();
        while count.load(Ordering::Relaxed) < 5 {
            assert_eq!(session.run_for(Duration::from_millis(2)), RunEnd::Timeout);
        }
        session.remove(id);
        let hits = session.report(id).unwrap().counters.hits;
        assert_eq!(session.run_for(Duration::from_millis(1)), RunEnd::Timeout);
        assert_eq!(session.report(id).unwrap().counters.hits, hits, "a removed probe was hit");
    }
    let (_, handler) = counter();
    let id =
        session.probe(Function::entry(&program, "step"), |_: &mut probe::Hit<'_>| Action::Remove).unwrap();
    session.run_for(Duration::from_millis(50));
    assert_eq!(session.report(id).unwrap().counters.hits, 1);
    session.probe(Function::entry(&program, "step"), handler).unwrap();
    session.detach();
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_handler_can_detach() {
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["2"]);
    let mut session = Session::attach(target.pid()).unwrap();
    session.probe(Function::entry(&program, "step"), |_: &mut probe::Hit<'_>| Action::Detach).unwrap();
    assert_eq!(session.run(), RunEnd::Detached);
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_stop_request_from_another_thread_ends_the_run() {
    let program = compile("busy", &[]);
    // One target whose threads never stop, one that nothing happens to.
    for threads in ["2", "0"] {
        let target = Target::start(&program, &[threads]);
        let mut session = Session::attach(target.pid()).unwrap();
        let handle = session.stop_handle();
        let (_, handler) = counter();
        session.probe(Function::entry(&program, "step"), handler).unwrap();
        let requester = std::thread::spawn(move || handle.request());
        assert_eq!(session.run(), RunEnd::StopRequested);
        requester.join().unwrap();
        session.detach();
        assert_eq!(target.finish(), Some(0));
    }
}

/// Runs `family HOW` with a probe on `work` and returns the exit code and the hits.
fn family(how: &str, follow: bool) -> (i32, u64) {
    let program = compile("family", &[]);
    let mut command = Command::new(&program);
    command.arg(how);
    let mut session =
        Session::launch_with(command, SessionOptions { follow, ..SessionOptions::default() }).unwrap();
    let (_, handler) = counter();
    let id = session.probe(Function::whole(&program, "work"), handler).unwrap();
    let code = finish(&mut session);
    let instructions = Function::whole(&program, "work").len() as u64;
    let hits = emulated(&session, id);
    assert_eq!(hits % instructions, 0);
    (code, hits / instructions)
}

#[test]
fn a_forked_child_is_left_alone() {
    assert_eq!(family("fork", false), (0, 2));
}

#[test]
fn a_forked_child_is_followed() {
    assert_eq!(family("fork", true), (0, 4));
}

/// A stop at birth may come before the report of the birth, and somebody else end between the two.
#[test]
fn threads_are_served_that_are_born_while_a_followed_process_ends() {
    let program = compile("crowd", &[]);
    let mut command = Command::new(&program);
    let (reader, writer) = std::io::pipe().unwrap();
    command.stdout(writer);
    let options = SessionOptions { follow: true, ..SessionOptions::default() };
    let mut session = Session::launch_with(command, options).unwrap();
    let (count, handler) = counter();
    session.probe(Function::entry(&program, "work"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    drop(session);
    let calls: u64 = std::io::read_to_string(reader).unwrap().trim().parse().unwrap();
    assert_eq!(count.load(Ordering::Relaxed), calls);
}

#[test]
fn a_vfork_child_is_served_until_it_executes() {
    assert_eq!(family("vfork", false), (0, 3));
}

#[test]
fn a_vfork_child_is_followed_into_its_program() {
    assert_eq!(family("vfork", true), (0, 4));
}

#[test]
fn a_process_that_shares_memory_is_served() {
    assert_eq!(family("clone_vm", false), (0, 4));
}

#[test]
fn probes_are_placed_anew_after_exec() {
    assert_eq!(family("exec", false), (5, 2));
}

#[test]
fn faults_look_like_the_processors_own() {
    let program = compile("faults", &[]);
    if !raises_what_faults_expects(&program) {
        return;
    }
    let mut session = Session::launch(Command::new(&program)).unwrap();
    let mut faulted = 0;
    let ids: Vec<_> = ["load", "store", "divide", "push_at", "deep"]
        .map(|name| session.probe(Function::whole(&program, name), counter().1).unwrap())
        .into();
    assert_eq!(finish(&mut session), 0);
    for id in ids {
        emulated(&session, id);
        faulted += session.report(id).unwrap().counters.faulted;
    }
    assert_eq!(faulted, 8);
}

#[test]
fn signals_are_delivered_unchanged() {
    let program = compile("signals", &[]);
    let mut session = Session::launch(Command::new(&program)).unwrap();
    let (_, handler) = counter();
    let id = session.probe(Function::whole(&program, "step"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    assert_eq!(emulated(&session, id), 2000 * Function::whole(&program, "step").len() as u64);
}

#[test]
fn an_object_that_is_loaded_later_is_probed_from_its_constructor_on() {
    let plugin = compile("plugin", &["-shared", "-fPIC"]);
    let program = compile("loader", &["-ldl"]);
    let mut command = Command::new(&program);
    command.arg(&plugin);
    let mut session = Session::launch(command).unwrap();
    let (_, handler) = counter();
    let id = session.probe(Function::entry(&plugin, "plugin_work"), handler).unwrap();
    assert!(session.report(id).unwrap().pending.is_some());
    assert_eq!(finish(&mut session), 0);
    assert_eq!(emulated(&session, id), 6);
    assert!(session.report(id).unwrap().pending.is_none());
}

#[test]
fn an_object_that_never_comes_is_reported() {
    let plugin = compile("plugin", &["-shared", "-fPIC"]);
    let program = compile("family", &[]);
    let mut session = Session::launch(Command::new(&program)).unwrap();
    let id = session.probe(Function::entry(&plugin, "plugin_work"), counter().1).unwrap();
    assert_eq!(finish(&mut session), 0);
    let report = session.report(id).unwrap();
    assert_eq!(report.counters.hits, 0);
    assert!(report.pending.unwrap().to_string().contains("plugin-"));
}

#[test]
fn breakpoints_are_invisible_to_emulated_reads_and_to_handlers() {
    let program = compile("checksum", &[]);
    let output = |probed: bool| {
        let mut command = Command::new(&program);
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer);
        let mut session = Session::launch(command).unwrap();
        if probed {
            let handler = |hit: &mut probe::Hit<'_>| {
                let mut bytes = [0; 1];
                hit.read(hit.ip(), &mut bytes).unwrap();
                assert_ne!(bytes, [0xcc]);
                Action::Continue
            };
            session.probe(Function::whole(&program, "work"), handler).unwrap();
            session.probe(Function::whole(&program, "sum"), counter().1).unwrap();
        }
        assert_eq!(finish(&mut session), 0);
        std::io::read_to_string(reader).unwrap()
    };
    let plain = output(false);
    assert!(!plain.is_empty());
    assert_eq!(output(true), plain);
}

#[test]
fn a_handler_can_skip_and_change_registers() {
    use emu::registers::gpr::{RAX, RDI, RSP};
    let program = compile("checksum", &[]);
    let mut command = Command::new(&program);
    command.stdout(Stdio::null());
    let mut session = Session::launch(command).unwrap();
    // Returns at once, with what `work` would have computed.
    let handler = |hit: &mut probe::Hit<'_>| {
        let stack = hit.registers().gpr[RSP];
        let caller = hit.read_u64(stack).unwrap();
        let argument = hit.registers().gpr[RDI];
        let registers = hit.registers_mut();
        registers.gpr[RAX] = argument * 5 + 2;
        registers.gpr[RSP] = stack + 8;
        registers.rip = caller;
        Action::Skip
    };
    let id = session.probe(Function::entry(&program, "work"), handler).unwrap();
    assert_eq!(finish(&mut session), 0);
    let counters = session.report(id).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated), (1, 0));
}

#[test]
fn a_stopped_process_stays_stopped_and_goes_on() {
    use nix::sys::signal::{Signal, kill};
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["2"]);
    let pid = nix::unistd::Pid::from_raw(target.pid());
    let mut session = Session::attach(target.pid()).unwrap();
    let (count, handler) = counter();
    session.probe(Function::entry(&program, "step"), handler).unwrap();
    while count.load(Ordering::Relaxed) == 0 {
        session.run_for(Duration::from_millis(5));
    }
    kill(pid, Signal::SIGSTOP).unwrap();
    // Until a whole slice of time passes without a hit.
    loop {
        let before = count.load(Ordering::Relaxed);
        session.run_for(Duration::from_millis(50));
        if count.load(Ordering::Relaxed) == before {
            break;
        }
    }
    kill(pid, Signal::SIGCONT).unwrap();
    let stopped = count.load(Ordering::Relaxed);
    while count.load(Ordering::Relaxed) == stopped {
        session.run_for(Duration::from_millis(5));
    }
    kill(pid, Signal::SIGSTOP).unwrap();
    session.run_for(Duration::from_millis(50));
    drop(session);
    // The kernel lets the threads run into their stop again.
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        if state.contains(") T ") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "stopped before, and not after detaching: {state}");
        std::thread::yield_now();
    }
    kill(pid, Signal::SIGCONT).unwrap();
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn what_cannot_be_traced_is_refused_by_name() {
    assert!(matches!(Session::attach(0), Err(AttachError::NoSuchProcess { pid: 0 })));
    assert!(matches!(Session::attach(i32::MAX), Err(AttachError::NoSuchProcess { .. })));
    let own = i32::try_from(std::process::id()).unwrap();
    assert!(matches!(Session::attach(own), Err(AttachError::Own)));
    let missing = Session::launch(Command::new("/nonexistent/program"));
    assert!(matches!(missing, Err(AttachError::Launch { .. })), "{missing:?}");
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["1"]);
    let first = Session::attach(target.pid()).unwrap();
    let pid = target.pid();
    let second = std::thread::spawn(move || Session::attach(pid).map(drop)).join().unwrap();
    assert!(matches!(second, Err(AttachError::AlreadyTraced { .. })), "{second:?}");
    drop(first);
    drop(Session::attach(pid).unwrap());
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn what_cannot_be_probed_is_refused_by_name() {
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["1"]);
    let mut session = Session::attach(target.pid()).unwrap();
    let data = probe::maps::read(target.pid()).unwrap().into_iter().find(|mapping| !mapping.is_executable());
    let refused = session.probe(Address(data.unwrap().start), counter().1);
    assert!(
        matches!(refused, Err(ProbeError::Unplaceable { reason: Unplaceable::NotExecutable, .. })),
        "{refused:?}"
    );
    let pending = session.probe(Address(8), counter().1).unwrap();
    assert!(session.report(pending).unwrap().pending.is_some());
    drop(session);
    assert_eq!(target.finish(), Some(0));
}

#[test]
fn a_process_of_which_somebody_traces_one_thread_is_left_alone() {
    let program = compile("busy", &[]);
    let target = Target::start(&program, &["2"]);
    let tasks = std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap();
    let names = tasks.map(|task| task.unwrap().file_name().into_string().unwrap());
    let other = names.filter(|name| *name != target.pid().to_string()).last().unwrap();
    let tracer = Target::start(&compile("tracing", &[]), &[&other]);
    match Session::attach(target.pid()).map(drop) {
        Err(AttachError::AlreadyTraced { tracer: found, .. }) => assert_eq!(found, tracer.pid()),
        other => panic!("{other:?}"),
    }
    assert_eq!(tracer.finish(), Some(0));
    let mut session = Session::attach(target.pid()).unwrap();
    let (count, handler) = counter();
    session.probe(Function::entry(&program, "step"), handler).unwrap();
    while count.load(Ordering::Relaxed) == 0 {
        assert_eq!(session.run_for(Duration::from_millis(2)), RunEnd::Timeout);
    }
    drop(session);
    assert_eq!(target.finish(), Some(0));
}
