//! The check that every breakpoint is where it was put: a program that overwrites one, or has its page thrown away,
//! says nothing.

use std::time::{Duration, Instant};

use crate::engine::event::Event;
use crate::engine::session::Session;
use crate::engine::tracer::Tracer;
use crate::executor::ptrace::sys::{self, Alarm};
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::Missing;
use crate::target::maps::Maps;
use crate::target::{lock, system};

/// How often the loop is woken, and how long after the start of a check the next one is due: together, and with a wake-up
/// that is lost, less than a second.
const WAKE: Duration = Duration::from_millis(250);
const PERIOD: Duration = Duration::from_millis(400);

/// When the breakpoints of a session are looked at.
#[derive(Debug)]
pub(crate) struct Lookout {
    alarm: Alarm,
    /// As [`system::roughly_now`] tells the time.
    due: Duration,
    round: Option<Round>,
}

/// A check that is going on.
#[derive(Debug)]
struct Round {
    began: Instant,
    /// The address spaces that are to be looked at, and where to go on in the last of them.
    spaces: Vec<SpaceId>,
    next: u64,
}

impl Lookout {
    pub(crate) fn new() -> nix::Result<Lookout> {
        Ok(Lookout { alarm: Alarm::new()?, due: system::roughly_now() + PERIOD, round: None })
    }

    /// Has the loop woken from time to time, until [`Lookout::rest`].
    pub(crate) fn begin(&self) {
        self.alarm.ring_every(u64::try_from(WAKE.as_nanos()).unwrap_or(u64::MAX));
    }

    pub(crate) fn rest(&self) {
        self.alarm.silence();
    }
}

impl Session {
    /// Looks at a part of the breakpoints if it is time, and at more as long as no thread waits for us.
    pub(crate) fn look_out(&mut self) {
        if self.lookout.round.is_none() {
            // Asked after each stop.
            let now = system::roughly_now();
            if now < self.lookout.due {
                return;
            }
            self.lookout.due = now + PERIOD;
            let spaces = self.shared().spaces().into_iter().map(|(id, _)| id).collect();
            self.lookout.round = Some(Round { began: Instant::now(), spaces, next: 0 });
        }
        while let Some(mut round) = self.lookout.round.take() {
            let Some(&space) = round.spaces.last() else {
                *lock(&self.shared().seen) = round.began;
                return;
            };
            match self.tracer.look_at(space, round.next) {
                Some(next) => round.next = next,
                None => {
                    round.spaces.pop();
                    round.next = 0;
                }
            }
            self.lookout.round = Some(round);
            if sys::has_news() {
                return;
            }
        }
    }
}

impl Tracer {
    /// Looks at some breakpoints of an address space, from address `from` on. Returns where to go on.
    fn look_at(&mut self, space_id: SpaceId, from: u64) -> Option<u64> {
        if from == 0 {
            self.look_at_maps(space_id);
        }
        let mut missing = Vec::new();
        let next = self.shared.space(space_id)?.read().look_for_missing(from, &mut missing);
        if !missing.is_empty() {
            self.settle_missing(space_id, missing);
        }
        next
    }

    /// Finds out which text may have been written to, which the mappings show.
    fn look_at_maps(&mut self, space_id: SpaceId) {
        let Some(maps) = self.maps_in(space_id) else { return };
        if let Some(space) = self.shared.space(space_id) {
            space.write().look_anew(&maps, &mut self.lost);
            // Breakpoints of the hardware do not go with their mappings, and there may be none at the dynamic linker.
            if self.shared.options.hardware || space.read().has_watched() {
                self.relocate(space_id, maps.pid());
            }
        }
        self.tell_lost(space_id);
    }

    fn settle_missing(&mut self, space_id: SpaceId, missing: Vec<u64>) {
        let Some(maps) = self.maps_in(space_id) else { return };
        for address in missing {
            let Some(space) = self.shared.space(space_id) else { return };
            let missing = space.write().settle_missing(address, &maps);
            match missing {
                Missing::Gone => {}
                Missing::Lost => self.tell_overwritten(space_id, address),
                Missing::Restored => {
                    let (pid, missing) = (self.shared.pid_in(space_id), lock(&self.shared.seen).elapsed());
                    self.tell(&Event::Restored { pid, address, missing });
                }
            }
        }
    }

    /// What is mapped in an address space; `None` where its threads are about to vanish.
    pub(crate) fn maps_in(&self, space_id: SpaceId) -> Option<Maps> {
        let mut threads = self.threads.register.in_space(space_id).into_iter();
        threads.find_map(|tid| Maps::read(tid).ok().filter(|maps| !maps.is_empty()))
    }

    /// Tells of breakpoints that are lost, and have been taken away.
    pub(crate) fn tell_lost(&mut self, space: SpaceId) {
        while let Some(address) = self.lost.pop() {
            self.tell_overwritten(space, address);
        }
    }

    pub(crate) fn tell_overwritten(&mut self, space: SpaceId, address: u64) {
        let (pid, missing) = (self.shared.pid_in(space), lock(&self.shared.seen).elapsed());
        self.tell(&Event::Overwritten { pid, address, missing });
    }
}
