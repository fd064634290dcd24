//! What a hundred thousand probes hold of memory: what the thread that places them has allocated and not freed, in the
//! sizes in which the C library hands it out, so that nothing else on the machine counts.

#![allow(unsafe_code, reason = "an allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use common::{Function, Target, compile};
use probe::locate::Address;
use probe::maps::Maps;
use probe::{Action, Hit, Locate, LocateError, ProbeId, Session, Site};

const PROBES: usize = 100_000;

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// What an allocation takes: a word more, in units of 16 bytes, and 32 at least.
fn taken(layout: Layout) -> isize {
    (layout.size() + 8).next_multiple_of(16).max(32).cast_signed()
}

fn count(difference: isize) {
    // A thread that ends has none any more.
    let _ = HELD.try_with(|held| held.set(held.get() + difference));
}

// SAFETY: all is left to the system's allocator, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout));
        // SAFETY: the caller's promises are those that the system's allocator asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(-taken(layout));
        // SAFETY: as above; `place` came from there.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn held() -> isize {
    HELD.with(Cell::get)
}

/// Places that are known already.
struct Known(Arc<[u64]>);

impl Locate for Known {
    fn locate(&self, _: &Maps) -> Result<Vec<Site>, LocateError> {
        Ok(self.0.iter().map(|&address| Site { address }).collect())
    }
}

fn proceed(_: &mut Hit<'_>) -> Action {
    Action::Continue
}

/// How many bytes each of so many probes holds that `place` places.
fn each(place: impl FnOnce(&mut Session, &Arc<[u64]>) -> Vec<ProbeId>) -> usize {
    let program = compile("long", &[]);
    let target = Target::start(&program, &[]);
    let many = Function::whole(&program, "many");
    let sites = many.locate(&Maps::read(target.pid()).unwrap()).unwrap();
    let sites: Arc<[u64]> = sites.iter().map(|site| site.address).collect();
    assert_eq!(sites.len(), PROBES);
    let mut session = Session::attach(target.pid()).unwrap();
    let before = held();
    let ids = place(&mut session, &sites);
    let bytes = held() - before - (ids.capacity() * size_of::<ProbeId>()).cast_signed();
    let placed: usize = ids.iter().map(|&id| session.report(id).unwrap().sites.len()).sum();
    assert_eq!(placed, PROBES);
    bytes.cast_unsigned() / PROBES
}

#[test]
fn many_probes_of_one_site_hold_less_than_200_bytes_each() {
    let bytes = each(|session, sites| {
        let probes = sites.iter().map(|&site| (Address(site), proceed));
        session.probe_all(probes).unwrap().into_iter().map(Result::unwrap).collect()
    });
    println!("{bytes} bytes");
    assert!(bytes < 200, "{bytes}");
}

#[test]
fn the_sites_of_a_probe_hold_less_than_200_bytes_each() {
    let bytes = each(|session, sites| vec![session.probe(Known(Arc::clone(sites)), proceed).unwrap()]);
    println!("{bytes} bytes");
    assert!(bytes < 200, "{bytes}");
}
