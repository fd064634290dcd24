//! Hits a second of two threads against those of one, in one run: with tracers of their own, and with one for both.
//!
//! The target is this program itself, started again; its main thread makes all others. Each stays on a processor of its
//! own: elsewhere the kernel lets a thread that goes on change to an idle one, away from its tracer, which on virtual
//! machines costs ten times as much as a hit.
//!
//! What two can make is up to the kernel, whose locks all threads of a process share.

#![allow(unsafe_code, reason = "the target executes the instruction that is measured")]

use std::arch::asm;
use std::env;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use probe::locate::Address;
use probe::{Action, Session, SessionOptions};

/// How long each is measured at a time, and how often.
const TIME: Duration = Duration::from_millis(400);
const ROUNDS: usize = 7;
/// Names, in the environment, how many threads the target is to make.
const TARGET: &str = "STEPLESS_BENCH_THREADS";

/// Executes the instruction so often, and returns its address.
#[inline(never)]
fn add(times: u64) -> u64 {
    let mut address = 0;
    let mut sum = times;
    for _ in 0..times {
        // SAFETY: only the registers that are named change.
        unsafe {
            asm!("lea {address}, [rip + 2f]", "2: add {sum}, 3", address = out(reg) address, sum = inout(reg) sum);
        }
    }
    std::hint::black_box(sum);
    address
}

/// Executes the instruction for ever by so many threads, having said where it is.
fn target(threads: usize) -> ! {
    let mut out = std::io::stdout();
    writeln!(out, "{}", add(1)).and_then(|()| out.flush()).expect("the benchmark reads this");
    let processors = sched_getaffinity(Pid::from_raw(0)).expect("a thread may ask where it may run");
    let allowed = (0..CpuSet::count()).filter(|&processor| processors.is_set(processor) == Ok(true));
    for processor in allowed.take(threads) {
        thread::spawn(move || {
            let mut only = CpuSet::new();
            only.set(processor)
                .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only))
                .expect("a thread may stay on a processor");
            loop {
                add(1000);
            }
        });
    }
    loop {
        thread::park();
    }
}

/// The hits a second of a target with so many threads and at most so many tracers.
fn hits(threads: usize, tracers: u16) -> f64 {
    let (mut child, address) = benches::start_again(TARGET, &threads.to_string());
    let pid = i32::try_from(child.id()).expect("the kernel's process numbers are small");
    let options = SessionOptions { tracers, ..SessionOptions::default() };
    let mut session = Session::attach_with(pid, options).expect("a child can be traced");
    let probe = session
        .probe_together(Address(address), |_: &mut _| Action::Continue)
        .expect("the instruction can be probed");
    let emulated = |session: &Session| session.report(probe).map_or(0, |report| report.counters.emulated);
    // The tracers find their threads.
    session.run_for(Duration::from_millis(100));
    let (before, start) = (emulated(&session), Instant::now());
    session.run_for(TIME);
    let rate = (emulated(&session) - before) as f64 / start.elapsed().as_secs_f64();
    drop(session);
    child.kill().expect("the target runs until it is killed");
    child.wait().expect("it is a child");
    rate
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    if let Some(threads) = env::var(TARGET).ok().and_then(|threads| threads.parse().ok()) {
        target(threads);
    }
    if thread::available_parallelism().map_or(1, usize::from) < 2 {
        return println!("skipped: one processor is not enough for two threads");
    }
    let ways = [(1, 0), (2, 0), (2, 1)];
    let mut rates = ways.map(|_| Vec::new());
    for _ in 0..ROUNDS {
        for (rates, (threads, tracers)) in rates.iter_mut().zip(ways) {
            rates.push(hits(threads, tracers));
        }
    }
    let [one, two, shared] = rates.map(median);
    println!("hits a second: {one:.0} of one thread, {two:.0} of two, {shared:.0} of two with one tracer");
    let ratio = two / one;
    println!("two threads make {ratio:.2} times the hits of one, {:.2} with one tracer", shared / one);
}
