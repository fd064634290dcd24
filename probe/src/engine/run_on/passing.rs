//! Coverage of sites that are near each other. Of these it is only to be known that a thread came by, or how often: it is
//! not resumed from one just to stop at the next, but runs on as long as another is near.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::probes::{Probe, Tally};
use crate::engine::run_on::Regions;
use crate::engine::run_on::emulate::{self, Pause};
use crate::engine::run_on::passes::{Chance, Passed, Passes};
use crate::engine::run_on::serve::Runner;
use crate::engine::tracer::Tracer;
use crate::engine::trap::{Arrived, Here, Place};
use crate::executor::RunOn;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::space::Purpose;

/// How far the next site may be, in instructions: to emulate so many takes about as long as a stop. And how many there are
/// at most until others have their turn, and signals are looked at.
const NEAR: u64 = 64;
const MOST: u64 = 1 << 14;
/// The same where each access to memory costs a system call.
const UNCACHED_NEAR: u64 = 12;
const UNCACHED_MOST: u64 = 256;

/// What a tracer keeps for threads that pass sites.
#[derive(Debug, Default)]
pub(crate) struct Passing {
    passes: Passes,
    /// Whether threads have come to other sites lately, where each is wanted once.
    once: Chance,
}

impl Passing {
    /// Whether a thread at the site at `address` may soon be at another. Whoever asks has it go on then.
    fn is_worth(&mut self, address: u64, once: bool) -> bool {
        if once { self.once.is_taken() } else { self.passes.is_worth(address) }
    }
}

impl Tracer {
    /// A thread, whose registers are in the register file, is at a site of coverage alone: it runs on from there, and is
    /// stopped where it cannot, or where no other site is near. `None` if it has not left the site, which is not counted
    /// then.
    pub(crate) fn pass_sites(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        here: &Here,
        regions: &mut Option<Box<Regions>>,
    ) -> Option<Arrived> {
        const DONE: Arrived = Arrived::Done { signal: 0, slow: false, known: true };
        let Place { pid, space_id, space, address } = place;
        let tid = stopped.tid();
        // Whoever executes a program takes the leader's place, which an access would reach that comes too late.
        let may_be_replaced = tid == pid && self.threads.register.has_others(space_id, tid);
        let once = self.are_all_once();
        if may_be_replaced || self.shared.watches.exist() || !self.passing.is_worth(address, once) {
            return None;
        }
        let alone = !self.threads.register.has_others(space_id, tid);
        match once {
            // One that is aborted once begins again, without the breakpoint; and nobody disturbs it.
            true if alone => {}
            true if self.sequence_at(stopped, space, address).is_some() => return None,
            true => {}
            false if self.is_aborted(stopped, place, here) => return Some(Arrived::Aborted),
            false => {}
        }
        let runner = Runner { tid, pid, space_id, space };
        let mut none = Regions::new(pid);
        let mut passes = std::mem::take(&mut self.passing.passes);
        self.begin(stopped, &mut none, &runner);
        let stored = self.pass_on_the_way(stopped, &mut none, &runner, &mut passes, once);
        if once {
            self.passing.once.note(passes.number > 1);
        }
        let arrived = match stored {
            _ if passes.number == 0 && self.registers.file.rip == address => None,
            true => {
                self.book_passes(place, &passes);
                Some(passes.open.and_then(|open| self.perform_open(stopped, place, open, regions)))
            }
            // It must not go on with registers that are not what they should be.
            false => {
                let signal = if self.threads.is_gone(tid) { 0 } else { libc::SIGTRAP };
                Some(Some(Arrived::Done { signal, slow: false, known: true }))
            }
        };
        self.passing.passes = passes;
        arrived.map(|arrived| arrived.unwrap_or(DONE))
    }

    /// Emulates as far as sites are near. Says whether what it has come to could be stored.
    fn pass_on_the_way(
        &mut self,
        stopped: &mut Stopped,
        regions: &mut Regions,
        runner: &Runner<'_>,
        passes: &mut Passes,
        once: bool,
    ) -> bool {
        /// Behind so many sites it pays to fetch more registers.
        const MANY: u64 = 4;
        let (mut thread, running) = self.running(stopped, runner.space);
        match thread.kept.is_exclusive() {
            true => passes.begin(NEAR, MOST, !once),
            false => {
                passes.begin(UNCACHED_NEAR, UNCACHED_MOST, !once);
                thread.note_sequences();
            }
        }
        while thread.can_run_on() {
            let pause = emulate::pass(&mut thread, &mut running.code, regions, &mut running.log, passes);
            if pause != Pause::Extended || passes.number < MANY || !thread.fetch_extended() {
                passes.end(pause);
                break;
            }
        }
        thread.settle()
    }

    /// A thread has come to a breakpoint, where it has been counted, whose instruction is to be performed by itself. `None`
    /// where there is no breakpoint any more.
    fn perform_open(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        address: u64,
        regions: &mut Option<Box<Regions>>,
    ) -> Option<Arrived> {
        let here = self.look_up_ahead(place.space, address)?;
        Some(self.arrive(stopped, Place { address, ..place }, &here, Some(address), regions))
    }

    /// Counts what a thread has come by. Sites that are wanted once go.
    fn book_passes(&mut self, place: Place<'_>, passes: &Passes) {
        self.look_at_probes();
        let mut once = Vec::new();
        let text = place.space.read();
        for &Passed { address, times, index, .. } in passes.met() {
            let Some(here) = text.breakpoint(address) else { continue };
            let performed = times - u64::from(passes.open == Some(address));
            let mut is_once = false;
            for &purpose in here.probes.iter() {
                let Some(probe) = self.probes.get(purpose.probe()) else { continue };
                let Some(cover) = probe.cover() else { continue };
                if cover.is_once() {
                    is_once = true;
                    continue;
                }
                let tally = probe.tally_of(purpose);
                tally.hits.fetch_add(times, Ordering::Relaxed);
                tally.emulated.fetch_add(performed, Ordering::Relaxed);
                cover.count_at(&here.origin, address, times);
            }
            match is_once {
                true => once.push((address, index)),
                // Whether it is in a sequence is not to be asked at each hit.
                false => here.count_hits(address, times),
            }
        }
        drop(text);
        if !once.is_empty() {
            once.sort_unstable();
            self.lift_passed(place, &once);
        }
    }

    /// Takes sites away that are wanted once, each with its place in the cache, and counts those that another thread has
    /// not come by first.
    fn lift_passed(&mut self, place: Place<'_>, sites: &[(u64, u32)]) {
        let mut text = place.space.write();
        let is_current = self.running.of == Some((place.space_id, text.version()));
        let mut once = Vec::new();
        for &(address, index) in sites {
            let Some(here) = text.breakpoint(address) else { continue };
            let origin = Arc::clone(&here.origin);
            let is_once = |purpose: &Purpose| {
                let probe = self.probes.get(purpose.probe());
                probe.and_then(Probe::cover).is_some_and(|cover| cover.is_once())
            };
            once.clear();
            once.extend(here.probes.iter().copied().filter(is_once));
            if once.len() == here.probes.len() {
                text.lift_hit(address);
                self.running.code.forget_site(index, address);
            } else {
                once.iter().for_each(|&purpose| drop(text.withdraw(&[address], purpose)));
            }
            for &purpose in &once {
                let Some(probe) = self.probes.get(purpose.probe()) else { continue };
                Tally::count(&probe.tally_of(purpose).hits);
                if let Some(cover) = probe.cover() {
                    cover.count_at(&origin, address, 1);
                }
            }
        }
        if is_current {
            // Nothing else has changed, so that what is decoded stays good.
            self.running.of = Some((place.space_id, text.version()));
        }
    }
}
