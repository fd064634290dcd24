//! How long a case may take before it counts as one that does not end.

use std::time::{Duration, Instant};

use iced_x86::{Decoder, Instruction, Mnemonic, OpKind};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::child::Case;

/// How long an instruction may take. It takes microseconds; a hypervisor may take the processor away meanwhile and
/// not say so.
const ORDINARY: Duration = Duration::from_millis(300);
/// The same for one that repeats, which may be stepped a million times, and for one that locks the bus: some
/// machines punish a locked access across the end of a cache line by 10 ms, and by seconds if others make them too.
const LONG: Duration = Duration::from_secs(5);
/// How long one may go on that has been interrupted before its child is given up.
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
    index: u32,
    /// When the case was first seen to run.
    since: Instant,
    /// How long the child had been kept waiting by then.
    kept_waiting: Duration,
    interrupted: Option<Instant>,
}

impl Watch {
    pub(super) fn new(child: Pid) -> Watch {
        let kept_waiting = kept_waiting(child);
        Watch { child, index: 0, since: Instant::now(), kept_waiting, interrupted: None }
    }

    /// The case `case`, number `index` of the batch, is running.
    pub(super) fn see(&mut self, index: u32, case: Option<&Case>) -> Verdict {
        if index != self.index {
            *self = Watch { index, ..Watch::new(self.child) };
        }
        if let Some(interrupted) = self.interrupted {
            return if interrupted.elapsed() > DEADLINE { Verdict::GiveUp } else { Verdict::Wait };
        }
        // How busy the machine is does not count, but sleep does: that is how a kernel punishes.
        let kept_waiting = kept_waiting(self.child).saturating_sub(self.kept_waiting);
        let spent = self.since.elapsed().saturating_sub(kept_waiting);
        let limit = if case.is_some_and(|case| case.repeats || may_lock(case)) { LONG } else { ORDINARY };
        if spent < limit {
            return Verdict::Wait;
        }
        self.interrupted = Some(Instant::now());
        Verdict::Interrupt
    }

    /// Interrupts the child. That it is gone shows elsewhere.
    pub(super) fn interrupt(&self) {
        let _ = kill(self.child, INTERRUPT);
    }
}

/// How long the child could have run and other threads ran instead (proc(5), schedstat); zero if the kernel does not
/// count it.
fn kept_waiting(child: Pid) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{child}/schedstat")).unwrap_or_default();
    let nanoseconds = text.split_whitespace().nth(1).and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
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
