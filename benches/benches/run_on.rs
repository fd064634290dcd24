//! Running on: how many instructions a second are emulated one after the other, while no other thread runs and while one
//! does, held against PTRACE_SINGLESTEP in the same run.
//!
//! Run with `cargo bench -p benches --bench run_on [-- NAME]`, where NAME is part of what one line begins with. Each line has
//! the rate by the clock and that by the processor's time, which says more where others want the processor, too. It fails
//! where running on is less than 200 times as fast as stepping while no other thread runs, or less than 15 times while one
//! does, by both.

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
use nix::sys::resource::{UsageWho, getrusage};
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

/// The clock, and what this process and those that it has waited for have had of processors.
#[derive(Clone, Copy)]
struct Now {
    clock: Instant,
    processor: Duration,
}

impl Now {
    fn get() -> Now {
        let used = |who| {
            // It cannot fail for these two.
            let usage = getrusage(who).expect("getrusage");
            [usage.user_time(), usage.system_time()]
                .iter()
                .map(|time| Duration::new(time.tv_sec() as u64, time.tv_usec() as u32 * 1000))
                .sum::<Duration>()
        };
        Now {
            clock: Instant::now(),
            processor: used(UsageWho::RUSAGE_SELF) + used(UsageWho::RUSAGE_CHILDREN),
        }
    }

    fn since(self, before: Now) -> Took {
        Took { clock: self.clock - before.clock, processor: self.processor.saturating_sub(before.processor) }
    }
}

/// How long something has taken.
#[derive(Clone, Copy)]
struct Took {
    clock: Duration,
    processor: Duration,
}

/// How many a second.
#[derive(Clone, Copy)]
struct Rate {
    clock: f64,
    processor: f64,
}

impl Rate {
    fn of(number: f64, took: Took) -> Rate {
        Rate { clock: number / took.clock.as_secs_f64(), processor: number / took.processor.as_secs_f64() }
    }
}

/// How many instructions a second are executed step by step.
fn steps_per_second() -> Result<Rate, Failure> {
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
    let start = Now::get();
    for _ in 0..STEPS {
        ptrace::step(pid, None)?;
        if !matches!(waitpid(pid, None)?, WaitStatus::Stopped(..)) {
            return Err("it has ended".into());
        }
    }
    let clock = start.clock.elapsed();
    child.kill()?;
    // What the child has had is known then; its beginning and end are little.
    waitpid(pid, None)?;
    let took = Took { clock, ..Now::get().since(start) };
    nix::sched::sched_setaffinity(Pid::from_raw(0), &before)?;
    Ok(Rate::of(f64::from(STEPS), took))
}

/// How long the work has taken, and how many instructions it was if they are counted.
fn run_on(rounds: u64, threads: bool, count: bool) -> Result<(Took, u64), Failure> {
    let path = env::current_exe()?;
    let probe =
        |symbol: &str| -> Result<ProbeSpec, Failure> { Ok(format!("{}:{symbol}", path.display()).parse()?) };
    let mut session = Session::launch(own(rounds, threads)?)?;
    let instructions = Arc::new(AtomicU64::new(0));
    let (times, all) = mpsc::channel();
    let (counted, began) = (Arc::clone(&instructions), times.clone());
    session.probe(probe("run_on_work")?, move |hit| {
        // Nobody is there to hear of it otherwise.
        let _ = began.send(Now::get());
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
        let _ = times.send(Now::get());
        Action::Continue
    })?;
    session.run();
    let (start, end) = (all.recv()?, all.recv()?);
    Ok((end.since(start), instructions.load(Ordering::Relaxed)))
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
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    let (_, few) = run_on(FEW, false, true)?;
    let stepping = steps_per_second()?;
    tell("PTRACE_SINGLESTEP", stepping, stepping);
    let mut holds = true;
    for (name, threads, rounds, at_least) in
        [("alone", false, 4_000_000, 200.0), ("with another thread", true, 100_000, 15.0)]
    {
        if !name.contains(&wanted) {
            continue;
        }
        let mut rates: Vec<Rate> = (0..3)
            .map(|_| {
                let (took, _) = run_on(rounds, threads, false)?;
                Ok(Rate::of(few as f64 * rounds as f64 / FEW as f64, took))
            })
            .collect::<Result<_, Failure>>()?;
        rates.sort_by(|left, right| left.clock.total_cmp(&right.clock));
        let rate = rates[1];
        holds &= rate.clock >= at_least * stepping.clock && rate.processor >= at_least * stepping.processor;
        tell(name, rate, stepping);
    }
    for (name, threads) in [("observed, alone", false), ("observed, with another thread", true)] {
        if name.contains(&wanted) {
            let (took, observed) = run_on(if threads { FEW } else { FEW * 10 }, threads, true)?;
            tell(name, Rate::of(observed as f64, took), stepping);
        }
    }
    if holds { Ok(()) } else { Err("running on is too slow".into()) }
}

fn tell(name: &str, rate: Rate, stepping: Rate) {
    println!(
        "{name:<29} {:>7.3} million a second by the clock ({:.0} times), {:>7.3} by the processor's time ({:.0} times)",
        rate.clock / 1e6,
        rate.clock / stepping.clock,
        rate.processor / 1e6,
        rate.processor / stepping.processor
    );
}
