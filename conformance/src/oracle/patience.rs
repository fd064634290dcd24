//! How long a case may take before it counts as one that does not end.

use std::time::{Duration, Instant};

use iced_x86::{Decoder, Instruction, Mnemonic, OpKind};
use nix::sys::signal::{Signal, kill};
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

use super::child::Case;

/// What an instruction may spend of the child's time. It takes microseconds; a hypervisor may take the
/// processor away meanwhile and not say so.
const ORDINARY: Duration = Duration::from_millis(300);
/// The same for one that repeats, which may be stepped a million times, and for one that locks the bus: some
/// machines punish a locked access across the end of a cache line by 10 ms, and by seconds if others make them too.
const LONG: Duration = Duration::from_secs(5);
/// How long one may take by the clock on the wall before its child is given up.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// The signal that ends a case which does not end. Nothing that an instruction does raises it.
pub(super) const INTERRUPT: Signal = Signal::SIGALRM;

/// What to do about a case that still runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Wait.
    Wait,
    /// Interrupt it.
    Interrupt,
    /// Give the child up.
    GiveUp,
}

/// Watches one batch.
pub(super) struct Watch {
    child: Pid,
    clock: Option<ClockId>,
    index: u32,
    since: Instant,
    /// The child's time when the case was first seen to run.
    spent: Duration,
    is_interrupted: bool,
}

impl Watch {
    pub(super) fn new(child: Pid) -> Watch {
        let clock = clock_getcpuclockid(child).ok();
        let mut watch = Watch {
            child,
            clock,
            index: 0,
            since: Instant::now(),
            spent: Duration::ZERO,
            is_interrupted: false,
        };
        watch.spent = watch.time();
        watch
    }

    /// The processor time that the child has had: how busy the machine is does not count.
    fn time(&self) -> Duration {
        let time = self.clock.and_then(|clock| clock_gettime(clock).ok());
        time.map_or(Duration::ZERO, Duration::from)
    }

    /// The case `case`, number `index` of the batch, is running.
    pub(super) fn see(&mut self, index: u32, case: Option<&Case>) -> Verdict {
        if index != self.index {
            let (index, since, spent) = (index, Instant::now(), self.time());
            *self = Watch { index, since, spent, is_interrupted: false, ..*self };
        }
        let limit = if case.is_some_and(|case| case.repeats || may_lock(case)) { LONG } else { ORDINARY };
        if self.since.elapsed() > DEADLINE {
            Verdict::GiveUp
        } else if !self.is_interrupted && self.time().saturating_sub(self.spent) > limit {
            self.is_interrupted = true;
            Verdict::Interrupt
        } else {
            Verdict::Wait
        }
    }

    /// Interrupts the child. That it is gone shows elsewhere.
    pub(super) fn interrupt(&self) {
        let _ = kill(self.child, INTERRUPT);
    }
}

/// Whether a case may lock the bus.
fn may_lock(case: &Case) -> bool {
    let bytes = &case.bytes[..case.length.min(case.bytes.len())];
    locks(&Decoder::new(64, bytes, emu::Processor::host().decoder_options()).decode())
}

/// Whether the instruction's access to memory is a locked one: by LOCK, and XCHG needs none.
pub(crate) fn locks(instruction: &Instruction) -> bool {
    (instruction.has_lock_prefix() || instruction.mnemonic() == Mnemonic::Xchg)
        && (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}
