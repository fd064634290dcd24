//! Probes on neighbouring instructions: where the one that a thread comes to next is probed, too, it is served at once, so
//! that a run of probed instructions takes one stop.

use std::time::{Duration, Instant};

use crate::engine::run_on::Regions;
use crate::engine::tracer::Tracer;
use crate::engine::trap::{Arrived, Place};
use crate::executor::ptrace::stopped::{Stop, Stopped};

/// How long a thread is kept from its signals, and others from theirs.
const MOST: Duration = Duration::from_millis(1);
const MOST_HITS: usize = 256;

impl Tracer {
    /// A thread has been served at `place`, and would be resumed: serves it at the breakpoints that it comes to next without
    /// another instruction in between.
    pub(crate) fn serve_neighbours(
        &mut self,
        stopped: &mut Stopped,
        place: Place<'_>,
        arrived: Arrived,
        regions: &mut Option<Box<Regions>>,
    ) -> Arrived {
        let tid = stopped.tid();
        let mut arrived = arrived;
        let mut began = None;
        for _ in 0..MOST_HITS {
            let is_done = matches!(arrived, Arrived::Done { signal: 0, slow: false, known: true });
            // One that is in its system call goes on by itself, and so does one that comes back to the same instruction,
            // whose registers are not known.
            let stands = !matches!(stopped.stop, Stop::SystemCall);
            let address = self.registers.file.rip;
            if !is_done
                || !stands
                || regions.is_some()
                || self.threads.is_gone(tid)
                || !self.registers.is_64_bit()
                || self.shared.wishes.stop_serving()
                || began.is_some_and(|began: Instant| began.elapsed() >= MOST)
            {
                break;
            }
            let Some(here) = self.look_up_ahead(place.space, address) else { break };
            began.get_or_insert_with(Instant::now);
            arrived = self.arrive(stopped, Place { address, ..place }, &here, None, regions);
        }
        arrived
    }
}
