//! What handlers see of a thread, and what becomes of what they change.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use common::{Function, compile, counter, finish};
use emu::registers::{Mxcsr, Rflags, gpr};
use nix::errno::Errno;
use probe::{Action, Event, Hit, ProbeId, Session};

/// A program that is run with probes, and what it prints.
struct Run {
    session: Session,
    program: PathBuf,
    output: std::io::PipeReader,
}

impl Run {
    fn new(rounds: u64) -> Run {
        let program = compile("handled", &[]);
        let mut command = Command::new(&program);
        let (output, writer) = std::io::pipe().unwrap();
        command.arg(rounds.to_string()).stdout(writer);
        Run { session: Session::launch(command).unwrap(), program, output }
    }

    fn on(&mut self, symbol: &str, handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static) -> ProbeId {
        self.session.probe(Function::entry(&self.program, symbol), handler).unwrap()
    }

    /// Runs the program to its end; returns the lines that it prints.
    fn finish(mut self) -> Vec<String> {
        assert_eq!(finish(&mut self.session), 0);
        self.lines()
    }

    /// The lines that the program, which has ended, has printed.
    fn lines(self) -> Vec<String> {
        drop(self.session);
        std::io::read_to_string(self.output).unwrap().lines().map(str::to_owned).collect()
    }
}

/// Where the instruction at the start of `to` is, counted from that of `from`.
fn distance(program: &Path, from: &str, to: &str) -> i64 {
    Function::entry(program, to).offset() as i64 - Function::entry(program, from).offset() as i64
}

#[test]
fn the_thread_goes_on_where_the_handler_says() {
    // By the action; by RIP alone; by RIP and the action that there was before.
    for way in 0..3 {
        let mut run = Run::new(2);
        let away = distance(&run.program, "integer", "elsewhere");
        let id = run.on("integer", move |hit| {
            let target = hit.ip().wrapping_add_signed(away);
            match way {
                0 => return Action::GoTo(target),
                1 => hit.registers_mut().rip = target,
                _ => {
                    hit.registers_mut().rip = target;
                    return Action::Skip;
                }
            }
            Action::Continue
        });
        let (reached, handler) = counter();
        run.on("elsewhere", handler);
        let counters = |run: &Run| run.session.report(id).unwrap().counters;
        assert_eq!(finish(&mut run.session), 0);
        // The displaced instruction was left out, and what stands at the target, a probe included, was not.
        assert_eq!((counters(&run).hits, counters(&run).emulated), (2, 0), "way {way}");
        assert_eq!(reached.load(std::sync::atomic::Ordering::Relaxed), 4, "way {way}");
        assert_eq!(run.lines(), ["100 1.000 100", "101 3.000 101"], "way {way}");
    }
}

#[test]
fn an_instruction_that_the_handler_goes_to_again_is_hit_again() {
    let mut run = Run::new(1);
    let mut times = 0;
    let id = run.on("integer", move |hit| {
        times += 1;
        hit.registers_mut().gpr[gpr::RDI] += 10;
        if times < 3 { Action::GoTo(hit.ip()) } else { Action::Continue }
    });
    assert_eq!(finish(&mut run.session), 0);
    let counters = run.session.report(id).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated), (3, 1));
    assert_eq!(run.lines(), ["31 1.000 100"]);
}

#[test]
fn of_several_handlers_the_last_says_where_to_go() {
    let mut run = Run::new(1);
    let away = distance(&run.program, "integer", "elsewhere");
    run.on("integer", |_| Action::Skip);
    run.on("integer", move |hit| Action::GoTo(hit.ip().wrapping_add_signed(away)));
    run.on("integer", |_| Action::Continue);
    assert_eq!(run.finish(), ["100 1.000 100"]);
}

#[test]
fn extended_registers_are_the_threads_own() {
    const ROUNDS: u64 = 4;
    let mut run = Run::new(ROUNDS);
    let (seen, controls) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let (see, see_control) = (Arc::clone(&seen), Arc::clone(&controls));
    // Other hits in between leave their own XMM0.
    let whole = Function::whole(&run.program, "real");
    run.session.probe(whole, counter().1).unwrap();
    run.on("elsewhere", move |hit| {
        see_control.lock().unwrap().push(hit.extended().unwrap().x87.control);
        Action::Continue
    });
    run.on("real", move |hit| {
        let value = f64::from_bits(hit.extended().unwrap().vector[0].0[0]);
        see.lock().unwrap().push(value);
        hit.extended_mut().unwrap().vector[0].0[0] = (value * 10.0).to_bits();
        Action::Continue
    });
    // A second handler sees what the first has written, and adds to it.
    run.on("real", |hit| {
        let value = &mut hit.extended_mut().unwrap().vector[0].0[0];
        *value = (f64::from_bits(*value) + 1.0).to_bits();
        Action::Continue
    });
    assert_eq!(run.finish(), ["1 12.000 100", "2 32.000 101", "3 52.000 102", "4 72.000 103"]);
    assert_eq!(*seen.lock().unwrap(), [0.5, 1.5, 2.5, 3.5]);
    // FCW as the kernel gives it to every program.
    assert_eq!(*controls.lock().unwrap(), [0x37f; ROUNDS as usize]);
}

#[test]
fn what_is_written_counts_for_an_instruction_that_is_left_out_too() {
    let mut run = Run::new(1);
    run.on("real", |hit| {
        hit.extended_mut().unwrap().vector[0].0[0] = 8f64.to_bits();
        Action::Skip
    });
    assert_eq!(run.finish(), ["1 16.000 100"]);
}

#[test]
fn what_the_kernel_refuses_is_told_and_changes_nothing() {
    type Change = fn(&mut Hit<'_>);
    let reserved_mxcsr = |hit: &mut Hit<'_>| {
        let extended = hit.extended_mut().unwrap();
        extended.vector[0].0[0] = 8f64.to_bits();
        extended.mxcsr |= Mxcsr::from_bits_retain(1 << 31);
    };
    let fs_base = |hit: &mut Hit<'_>| {
        let registers = hit.registers_mut();
        // R15 is stored before the base is looked at.
        (registers.gpr[gpr::R15], registers.fs_base) = (1, 1 << 63);
    };
    // The kernel would take the call and ignore the flag.
    let flag = |hit: &mut Hit<'_>| hit.registers_mut().rflags ^= Rflags::ID;
    let ways: [(Change, Errno); 3] =
        [(reserved_mxcsr, Errno::EINVAL), (fs_base, Errno::EIO), (flag, Errno::EINVAL)];
    for (change, expected) in ways {
        let mut run = Run::new(1);
        let pid = run.session.pid();
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        run.session.observe(move |event| {
            if let Event::Rejected { pid, tid, error } = event {
                tell.lock().unwrap().push((*pid, *tid, *error));
            }
        });
        run.on("real", move |hit| {
            change(hit);
            Action::Continue
        });
        assert_eq!(run.finish(), ["1 1.000 100"]);
        assert_eq!(*told.lock().unwrap(), [(pid, pid, expected)]);
    }
}

#[test]
fn a_handler_adds_and_removes_probes() {
    const ROUNDS: u64 = 10;
    const BEFORE: u64 = 4;
    let mut run = Run::new(ROUNDS);
    let other = Function::entry(&run.program, "elsewhere");
    let mut other = Some(other);
    let (count, added) = counter();
    let mut added = Some(added);
    let to_remove = run.on("real", |_| Action::Continue);
    let placed = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&placed);
    run.session.observe(move |event| {
        if let Event::Placed { probe, .. } = event {
            told.lock().unwrap().push(*probe);
        }
    });
    let mut hits = 0;
    let adding = run.on("integer", move |hit| {
        hits += 1;
        if hits == BEFORE {
            hit.add_probe(other.take().unwrap(), added.take().unwrap());
            hit.remove_probe(to_remove);
            hit.remove_probe(hit.probe());
        }
        Action::Continue
    });
    assert_eq!(finish(&mut run.session), 0);
    let hits = |id| run.session.report(id).unwrap().counters;
    assert_eq!((hits(adding).hits, hits(adding).emulated), (BEFORE, BEFORE));
    assert_eq!(hits(to_remove).hits, BEFORE - 1);
    let [new] = placed.lock().unwrap()[..] else { panic!("{placed:?}") };
    // `elsewhere` is called after `integer` in the same round.
    assert_eq!((hits(new).hits, hits(new).emulated), (ROUNDS - BEFORE + 1, ROUNDS - BEFORE + 1));
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), ROUNDS - BEFORE + 1);
    assert_eq!(run.lines().len() as u64, ROUNDS);
}
