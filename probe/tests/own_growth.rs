//! A process that probes itself, which adds and removes probes again and again.

#![allow(unsafe_code, reason = "functions in assembly, and an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::global_asm;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use probe::locate::Address;
use probe::own::{Means, NoJump, Options, Session};
use probe::{Action, Hit};

/// How many bytes are allocated.
static LIVE: AtomicUsize = AtomicUsize::new(0);

struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller says so.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller says so.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

global_asm!(
    r#"
    .text
    .globl own_growth_nops
    .type own_growth_nops, @function
    .p2align 4
own_growth_nops:
    .rept 100000
    .byte 0x0f, 0x1f, 0x44, 0, 0
    .endr
    ret
    .size own_growth_nops, . - own_growth_nops
    "#
);

unsafe extern "C" {
    safe fn own_growth_nops();
}

/// How many instructions of five bytes there are before the last.
const SITES: u64 = 100_000;

fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// One test at a time, as all count what is allocated.
fn begin() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds a probe at that of the instructions, and removes it.
fn come_and_go(session: &mut Session, site: u64, means: Option<Means>) {
    let address = own_growth_nops as *const () as u64 + 5 * site;
    let probe = session.probe(Address(address), |_| Action::Continue).unwrap();
    if let Some(means) = means {
        assert_eq!(session.means(probe), [(address, means)]);
    }
    let report = session.forget(probe).unwrap();
    assert_eq!((report.sites, session.report(probe).is_none()), (vec![address], true));
}

/// That `round` leaves as much allocated as before, once it has been gone through.
fn leaves_nothing(name: &str, mut round: impl FnMut()) {
    round();
    let before = live();
    round();
    assert_eq!(live(), before, "{name}");
}

#[test]
fn what_comes_and_goes_leaves_nothing_behind() {
    let _one = begin();
    // More often than there is memory for stubs.
    const OFTEN: u64 = 2100;
    for (jumps, means) in [(false, Means::Trap(NoJump::NotAsked)), (true, Means::Jump)] {
        let mut session = Session::with(Options { jumps }).unwrap();
        leaves_nothing("one site", || (0..OFTEN).for_each(|_| come_and_go(&mut session, 0, Some(means))));
        leaves_nothing("several sites", || {
            (0..OFTEN).for_each(|number| come_and_go(&mut session, number % 100, Some(means)))
        });
        // Somebody else stays there.
        let mut other = Session::with(Options { jumps }).unwrap();
        let stays = other.probe(Address(own_growth_nops as *const () as u64), |_| Action::Continue).unwrap();
        leaves_nothing("a site of others", || {
            (0..OFTEN).for_each(|_| come_and_go(&mut session, 0, Some(means)))
        });
        own_growth_nops();
        assert_eq!(other.report(stays).unwrap().counters.hits, 1);
        leaves_nothing("sessions", || {
            let mut session = Session::with(Options { jumps }).unwrap();
            let source = Address(own_growth_nops as *const () as u64 + 5);
            let probes: Vec<_> =
                (0..3).map(|_| session.probe(source, |_| Action::Continue).unwrap()).collect();
            session.remove(probes[1]);
        });
    }
}

#[test]
fn a_handler_that_asks_to_go_has_gone_from_what_threads_run_through() {
    let _one = begin();
    static STOP: AtomicBool = AtomicBool::new(false);
    static WRONG: AtomicU64 = AtomicU64::new(0);
    let start = own_growth_nops as *const () as u64 + 5 * (SITES - 2);
    // SAFETY: the last two instructions and the return.
    let run: extern "C" fn() = unsafe { std::mem::transmute(start) };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    run();
                }
            });
        }
        for jumps in [false, true] {
            let mut session = Session::with(Options { jumps }).unwrap();
            for round in 0..50 {
                let probes = [start, start + 5].map(|address| {
                    let handler = move |hit: &mut Hit<'_>| {
                        WRONG.fetch_add(u64::from(hit.ip() != address), Ordering::Relaxed);
                        if hit.probe().index() % 2 == 1 { Action::Remove } else { Action::Continue }
                    };
                    session.probe(Address(address), handler).unwrap()
                });
                for probe in probes {
                    while session.report(probe).unwrap().counters.hits == 0 {
                        std::thread::yield_now();
                    }
                }
                let reports = probes.map(|probe| session.forget(probe).unwrap().counters);
                assert_eq!(WRONG.load(Ordering::Relaxed), 0);
                for counters in reports {
                    assert_eq!((counters.missed, counters.faulted, counters.native), (0, 0, 0), "{round}");
                }
                // Whoever is in the midst of the first handler when it asks is the only one, but for those that are there.
                assert!((1..=2).contains(&reports[1].hits), "{reports:?}");
            }
        }
        STOP.store(true, Ordering::Relaxed);
    });
}

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0_u64) * 4
}

/// `CYCLES=1000000 SITES=1 JUMPS=1`: what a cycle takes, and how much memory is there after each tenth.
#[test]
#[ignore = "made by hand: it takes minutes"]
fn what_comes_and_goes_a_million_times_leaves_nothing_behind() {
    let _one = begin();
    let number = |name: &str| std::env::var(name).ok().and_then(|number| number.parse::<u64>().ok());
    let (cycles, sites) = (number("CYCLES").unwrap_or(1_000_000), number("SITES").unwrap_or(1).min(SITES));
    let mut session = Session::with(Options { jumps: number("JUMPS").is_some() }).unwrap();
    let tenth = (cycles / 10).max(1);
    let mut since = Instant::now();
    let mut before = None;
    for cycle in 0..cycles {
        come_and_go(&mut session, cycle % sites, None);
        if cycle % tenth == tenth - 1 {
            let each = since.elapsed() / u32::try_from(tenth).unwrap();
            println!("{cycle}: {} bytes allocated, {} KiB resident, {each:?} each", live(), resident());
            since = Instant::now();
            // Each site has been there once.
            if cycle >= sites {
                assert_eq!(*before.get_or_insert(live()), live());
            }
        }
    }
}
