//! A process that probes itself, in which many threads hit at once, while others signal and fork.

#![allow(unsafe_code, reason = "a function in assembly, handlers of signals, and children")]

use std::arch::global_asm;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use emu::registers::gpr;
use probe::locate::Address;
use probe::own::{Means, Options, Session};
use probe::{Action, Hit};

global_asm!(
    r#"
    .text
    .globl own_many_hit
    .type own_many_hit, @function
    .p2align 4
    # rdi: who calls, rsi: the number of the call, which it returns.
own_many_hit:
    .byte 0x0f, 0x1f, 0x44, 0, 0
    mov rax, rsi
    ret
    .size own_many_hit, . - own_many_hit
    "#
);

unsafe extern "C" {
    safe fn own_many_hit(caller: u64, number: u64) -> u64;
}

const THREADS: u64 = 8;
/// Those that call besides threads: the handlers of two signals, of which the one raises the other.
const OUTER: u64 = THREADS;
const INNER: u64 = THREADS + 1;
const CALLERS: usize = THREADS as usize + 2;

/// How many of the last records of each caller are kept.
const KEPT: u64 = 64;

/// What the handler of the probe has recorded of a caller.
struct Records {
    /// How many calls.
    count: AtomicU64,
    /// The number of the last one.
    last: AtomicU64,
    sum: AtomicU64,
    /// How often a number was not that behind the last one.
    disorder: AtomicU64,
    kept: [AtomicU64; KEPT as usize],
}

static RECORDS: [Records; CALLERS] = [const {
    Records {
        count: AtomicU64::new(0),
        last: AtomicU64::new(0),
        sum: AtomicU64::new(0),
        disorder: AtomicU64::new(0),
        kept: [const { AtomicU64::new(0) }; KEPT as usize],
    }
}; CALLERS];

impl Records {
    fn clear(&self) {
        let numbers = [&self.count, &self.last, &self.sum, &self.disorder];
        numbers.into_iter().chain(&self.kept).for_each(|number| number.store(0, Ordering::Relaxed));
    }

    fn record(&self, number: u64) {
        let index = self.count.fetch_add(1, Ordering::Relaxed);
        self.kept[(index % KEPT) as usize].store(number, Ordering::Relaxed);
        let last = self.last.swap(number, Ordering::Relaxed);
        self.disorder.fetch_add(u64::from(number != last + 1), Ordering::Relaxed);
        self.sum.fetch_add(number, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// How often the handlers of the signals have called.
static CALLS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Whether a call has returned something else than it should.
static WRONG: AtomicBool = AtomicBool::new(false);

fn call(caller: u64, number: u64) {
    if own_many_hit(caller, number) != number {
        WRONG.store(true, Ordering::Relaxed);
    }
}

extern "C" fn outer(_: i32) {
    call(OUTER, CALLS[0].fetch_add(1, Ordering::Relaxed) + 1);
    // SAFETY: it has a handler.
    unsafe { libc::raise(libc::SIGUSR2) };
}

extern "C" fn inner(_: i32) {
    call(INNER, CALLS[1].fetch_add(1, Ordering::Relaxed) + 1);
}

/// A child that hits as well.
fn fork() {
    // SAFETY: the child calls nothing but what is safe there.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let right = (1..4).all(|number| own_many_hit(0, number) == number);
        // SAFETY: it ends the child.
        unsafe { libc::_exit(if right { 7 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: the status is valid.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
}

/// Eight threads, so many hits in each, while they get signals, and the process forks.
fn hit_many_times(times: u64) {
    const PACE: Duration = Duration::from_millis(10);
    const LEAST: u64 = 5;
    for (signal, handler) in [(libc::SIGUSR1, outer as extern "C" fn(i32)), (libc::SIGUSR2, inner)] {
        // SAFETY: the handlers call what may be called.
        unsafe { libc::signal(signal, handler as *const () as usize) };
    }
    for jumps in [false, true] {
        RECORDS.iter().for_each(Records::clear);
        CALLS.iter().for_each(|calls| calls.store(0, Ordering::Relaxed));
        let mut session = Session::with(Options { jumps }).unwrap();
        let probe = session.probe(Address(own_many_hit as *const () as u64), |hit: &mut Hit<'_>| {
            let registers = &hit.registers().gpr;
            match usize::try_from(registers[gpr::RDI]).ok().and_then(|caller| RECORDS.get(caller)) {
                Some(records) => records.record(registers[gpr::RSI]),
                None => WRONG.store(true, Ordering::Relaxed),
            }
            Action::Continue
        });
        let probe = probe.unwrap();
        let is_by_jump = |session: &Session| matches!(session.means(probe)[..], [(_, Means::Jump)]);
        assert_eq!(is_by_jump(&session), jumps, "{:?}", session.means(probe));

        static DONE: AtomicU64 = AtomicU64::new(0);
        DONE.store(0, Ordering::Relaxed);
        let enough = Arc::new(Barrier::new(THREADS as usize + 1));
        let start = Instant::now();
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let enough = Arc::clone(&enough);
                std::thread::spawn(move || {
                    (1..=times).for_each(|number| call(thread, number));
                    DONE.fetch_add(1, Ordering::Relaxed);
                    enough.wait();
                })
            })
            .collect();
        let mut children = 0;
        while DONE.load(Ordering::Relaxed) < THREADS || children < LEAST {
            for thread in &threads {
                // SAFETY: the threads are there until all have met.
                unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
            }
            fork();
            children += 1;
            std::thread::sleep(PACE);
        }
        enough.wait();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let took = start.elapsed();

        let counters = session.report(probe).unwrap().counters;
        let signals = CALLS.each_ref().map(|calls| calls.load(Ordering::Relaxed));
        let means = if jumps { "a jump" } else { "a trap" };
        println!("by {means}: {took:.1?}, {counters:?}, signals {signals:?}, {children} children");
        assert!(!WRONG.load(Ordering::Relaxed) && is_by_jump(&session) == jumps);
        for records in &RECORDS[..THREADS as usize] {
            let [last, sum, disorder] =
                [&records.last, &records.sum, &records.disorder].map(|number| number.load(Ordering::Relaxed));
            assert_eq!((records.count(), last, sum, disorder), (times, times, times * (times + 1) / 2, 0));
            let mut kept = records.kept.each_ref().map(|kept| kept.load(Ordering::Relaxed));
            kept.sort_unstable();
            assert!(kept.into_iter().eq(times - KEPT + 1..=times), "{kept:?}");
        }
        // A handler of a signal that interrupts a handler of the probe's is not recorded, but counted. By a trap, signals
        // are blocked meanwhile.
        let recorded: u64 = RECORDS.iter().map(Records::count).sum();
        let all = THREADS * times + signals.iter().sum::<u64>();
        assert_eq!((counters.hits, counters.hits + counters.missed), (recorded, all));
        assert_eq!(counters.emulated, all, "{counters:?}");
        assert!(jumps || counters.missed == 0, "{counters:?}");
        assert!(signals[0] == signals[1] && signals[0] >= THREADS, "{signals:?}");
    }
}

#[test]
fn eight_threads_lose_no_hit_while_others_signal_and_fork() {
    hit_many_times(2_000);
}

/// As many hits in each thread as the environment says.
#[test]
#[ignore = "made by hand: it takes minutes"]
fn eight_threads_lose_none_of_millions_of_hits() {
    hit_many_times(std::env::var("HITS").ok().and_then(|hits| hits.parse().ok()).unwrap_or(10_000_000));
}
