//! Hits in restartable sequences (rseq(2)) that no object lists.
//!
//! The stop at a breakpoint is a preemption, so that the kernel sends the thread to the abort handler of the sequence
//! that it is in. That is right, since others may have run on its processor meanwhile, and it may happen once: the
//! handler begins the sequence again. So what stopped the thread is taken out. Each breakpoint is so at most once,
//! which is why the aborts end.

use std::ops::Range;

use crate::engine::event::Event;
use crate::engine::tracer::Tracer;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::rseq;
use crate::executor::space::SharedSpace;
use crate::target::maps::Maps;

impl Tracer {
    /// Whether a thread, which stopped for the breakpoint at `site`, is in a restartable sequence when it goes on
    /// at `rip`. If so, that breakpoint and all others in the sequence are taken out.
    pub(crate) fn aborts_sequence(
        &mut self,
        stopped: &Stopped,
        space_id: SpaceId,
        site: u64,
        rip: u64,
    ) -> bool {
        let tid = stopped.tid();
        let Some(space) = self.shared.space(space_id) else { return false };
        let Some(sequence) = self.sequence_at(stopped, &space, rip) else { return false };
        let maps = Maps::read(tid).unwrap_or_else(|_| Maps::new(tid, Vec::new()));
        let mut space = space.write();
        space.sequences.add(sequence.clone(), &maps);
        let mut sites = space.sites_within(sequence);
        if !sites.contains(&site) && space.site(site).is_some() {
            sites.push(site);
        }
        for &site in &sites {
            space.give_up(site);
        }
        drop(space);
        let pid = self.shared.pid_in(space_id);
        for address in sites {
            self.tell(&Event::Sequence { pid, address });
        }
        true
    }

    /// The restartable sequence that a thread is in if it goes on at `rip`.
    pub(crate) fn sequence_at(
        &mut self,
        stopped: &Stopped,
        space: &SharedSpace,
        rip: u64,
    ) -> Option<Range<u64>> {
        let announced = rseq::announced(stopped, &space.read());
        if announced.as_ref().is_err_and(|&error| rseq::is_unknown(error)) {
            return None;
        }
        let announced = self.threads.note(stopped.tid(), "PTRACE_GET_RSEQ_CONFIGURATION", announced);
        announced.flatten().filter(|sequence| sequence.contains(&rip))
    }

    /// A thread has stopped at `rip` for the hardware breakpoint at `site`, which is elsewhere. If that is an abort handler,
    /// the kernel has sent it there on its way to the stop; then the breakpoint is taken out.
    pub(crate) fn was_aborted(&mut self, stopped: &Stopped, space_id: SpaceId, site: u64, rip: u64) {
        let Some(space) = self.shared.space(space_id) else { return };
        let handler = rseq::is_handler(stopped, &space.read(), rip);
        if handler != Ok(true) || space.read().watched(site).is_none() {
            return;
        }
        space.write().give_up(site);
        let pid = self.shared.pid_in(space_id);
        self.tell(&Event::Sequence { pid, address: site });
    }
}
