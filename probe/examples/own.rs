//! A program that counts what it does itself: calls of one of its functions, and of one of the C library's, without
//! another process. Some are reached by jumps, which take no trap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use probe::Action;
use probe::locate::Address;
use probe::own::{Options, Session};
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;

#[inline(never)]
fn work(number: u64) -> u64 {
    std::hint::black_box(number.to_string()).len() as u64
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut session = Session::with(Options { jumps: true })?;
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let own = session.probe(Address(work as fn(u64) -> u64 as usize as u64), move |_| {
        // Handlers are called in the middle of anything: they do no more than what a signal's handler may.
        counted.fetch_add(1, Ordering::Relaxed);
        Action::Continue
    })?;
    let spec: ProbeSpec = "libc.so.6:getenv".parse()?;
    let getenv = session.probe(Resolver::new(spec, Arc::new(Objects::default())), |_| Action::Continue)?;
    let sum: u64 = (0..1000).map(work).sum();
    let shell = std::env::var("SHELL");
    println!("{sum} digits by {} calls; the shell is {shell:?}", calls.load(Ordering::Relaxed));
    for probe in [own, getenv] {
        let hits = session.report(probe).map_or(0, |report| report.counters.hits);
        for (address, means) in session.means(probe) {
            println!("{address:#x}: {hits} hits, {means:?}");
        }
    }
    Ok(())
}
