//! Running on: how many instructions a second are emulated one after the other, while no other thread runs and while one
//! does, held against PTRACE_SINGLESTEP in the same run.
//!
//! Run with `cargo bench -p benches --bench run_on`. It fails where running on is less than 200 times as fast as stepping
//! while no other thread runs, or less than 15 times while one does.

#![allow(
    unsafe_code,
    reason = "the child asks to be traced between fork and exec, and functions are found by name"
)]

use std::env;
use std::hint::black_box;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use probe::run_on::Region;
use probe::spec::ProbeSpec;
use probe::{Action, Session};

/// Says to this program that it is what is measured, for so many rounds.
const MEASURED: &str = "STEPLESS_BENCH_RUN_ON";
/// Says that it has another thread.
const THREADS: &str = "STEPLESS_BENCH_RUN_ON_THREADS";

type Failure = Box<dyn std::error::Error>;

/// Arithmetic, branches, calls, loads and stores, as programs have them: a sieve and a walk through a table.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn run_on_work(rounds: u64) -> u64 {
    let mut table = vec![0u64; 4096];
    let mut state = 1u64;
    let mut sum = 0;
    for round in 0..rounds {
        state =
            black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407));
        let place = (state >> 52) as usize;
        table[place] = table[place].wrapping_add(round);
        if table[place] & 1 == 0 {
            sum ^= table[(place + 7) & 4095];
        } else {
            sum = black_box(mix(sum, state));
        }
    }
    sum
}

#[inline(never)]
fn mix(left: u64, right: u64) -> u64 {
    black_box(left.rotate_left(5) ^ right)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn run_on_done(result: u64) -> u64 {
    black_box(result)
}

fn own(rounds: u64, threads: bool) -> Result<Command, Failure> {
    let mut command = Command::new(env::current_exe()?);
    command.env(MEASURED, rounds.to_string());
    if threads {
        command.env(THREADS, "1");
    }
    Ok(command)
}

/// How many instructions a second are executed step by step.
fn steps_per_second() -> Result<f64, Failure> {
    const STEPS: u32 = 20_000;
    let mut command = own(1_000_000, false)?;
    // SAFETY: one system call, which is async-signal-safe.
    unsafe { command.pre_exec(|| Ok(ptrace::traceme()?)) };
    let mut only = nix::sched::CpuSet::new();
    let before = nix::sched::sched_getaffinity(Pid::from_raw(0))?;
    only.set(nix::sched::sched_getcpu()?)?;
    nix::sched::sched_setaffinity(Pid::from_raw(0), &only)?;
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    waitpid(pid, None)?;
    let start = Instant::now();
    for _ in 0..STEPS {
        ptrace::step(pid, None)?;
        if !matches!(waitpid(pid, None)?, WaitStatus::Stopped(..)) {
            return Err("it has ended".into());
        }
    }
    let rate = f64::from(STEPS) / start.elapsed().as_secs_f64();
    child.kill()?;
    waitpid(pid, None)?;
    nix::sched::sched_setaffinity(Pid::from_raw(0), &before)?;
    Ok(rate)
}

/// How long the work has taken, and how many instructions it was if they are counted.
fn run_on(rounds: u64, threads: bool, count: bool) -> Result<(Duration, u64), Failure> {
    let path = env::current_exe()?;
    let probe =
        |symbol: &str| -> Result<ProbeSpec, Failure> { Ok(format!("{}:{symbol}", path.display()).parse()?) };
    let mut session = Session::launch(own(rounds, threads)?)?;
    let instructions = Arc::new(AtomicU64::new(0));
    let (times, all) = mpsc::channel();
    let (counted, began) = (Arc::clone(&instructions), times.clone());
    session.probe(probe("run_on_work")?, move |hit| {
        // Nobody is there to hear of it otherwise.
        let _ = began.send(Instant::now());
        let region = Region::new().until_return();
        if count {
            let counted = Arc::clone(&counted);
            hit.run_on_with(region, move |step| {
                counted.store(step.number(), Ordering::Relaxed);
                std::ops::ControlFlow::Continue(())
            });
        } else {
            hit.run_on(region);
        }
        Action::Continue
    })?;
    session.probe(probe("run_on_done")?, move |_| {
        let _ = times.send(Instant::now());
        Action::Continue
    })?;
    session.run();
    let (start, end) = (all.recv()?, all.recv()?);
    Ok((end - start, instructions.load(Ordering::Relaxed)))
}

fn main() -> Result<(), Failure> {
    if let Ok(rounds) = env::var(MEASURED) {
        if env::var(THREADS).is_ok() {
            std::thread::spawn(|| std::thread::sleep(Duration::from_secs(3600)));
        }
        run_on_done(run_on_work(rounds.parse()?));
        return Ok(());
    }
    const FEW: u64 = 20_000;
    let (_, few) = run_on(FEW, false, true)?;
    let stepping = steps_per_second()?;
    println!("PTRACE_SINGLESTEP       {:>8.3} million a second", stepping / 1e6);
    let mut holds = true;
    for (name, threads, rounds, at_least) in
        [("alone", false, 4_000_000, 200.0), ("with another thread", true, 100_000, 15.0)]
    {
        let mut rates: Vec<f64> = (0..3)
            .map(|_| {
                let (time, _) = run_on(rounds, threads, false)?;
                Ok(few as f64 * rounds as f64 / FEW as f64 / time.as_secs_f64())
            })
            .collect::<Result<_, Failure>>()?;
        rates.sort_by(f64::total_cmp);
        let rate = rates[1];
        let ratio = rate / stepping;
        holds &= ratio >= at_least;
        println!("{name:<23} {:>8.3} million a second, {ratio:.0} times as fast as stepping", rate / 1e6);
    }
    let (time, observed) = run_on(FEW * 10, false, true)?;
    println!("observed, alone         {:>8.3} million a second", observed as f64 / 1e6 / time.as_secs_f64());
    if holds { Ok(()) } else { Err("running on is too slow".into()) }
}
