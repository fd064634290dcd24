//! What a handler sees and decides.

use std::time::Duration;

use emu::{Access, MemoryFault, Registers, UserMemory};

use crate::memory::Accessor;
use crate::procfs;

/// Names a probe of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeId(pub(crate) usize);

impl ProbeId {
    /// Its number: 0 for the first probe of the session, 1 for the next.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// What happens after a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The displaced instruction is emulated.
    Continue,
    /// It is left out: the thread goes on behind it, or where the handler has set RIP to.
    Skip,
    /// It is emulated, and the probe is removed.
    Remove,
    /// It is emulated, and the session detaches from the target.
    Detach,
}

/// A thread that has reached a probe, and is stopped before the instruction.
#[derive(Debug)]
pub struct Hit<'a> {
    pub(crate) probe: ProbeId,
    pub(crate) pid: i32,
    pub(crate) registers: &'a mut Registers,
    pub(crate) memory: Accessor<'a>,
    pub(crate) filtered: bool,
}

impl Hit<'_> {
    /// The probe.
    #[must_use]
    pub fn probe(&self) -> ProbeId {
        self.probe
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.memory.tid
    }

    /// The address of the instruction, unless the handler has changed RIP.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.registers.rip
    }

    /// The processor on which the thread ran last; `None` if the thread has just been killed.
    #[must_use]
    pub fn cpu(&self) -> Option<u32> {
        procfs::processor_of(self.tid())
    }

    /// The time since the system booted, suspension excluded (`CLOCK_MONOTONIC`), in nanoseconds.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
        let now = now.map(Duration::from).unwrap_or_default();
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    }

    /// The thread's registers: general registers, RIP, RFLAGS, segment bases and selectors.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        self.registers
    }

    /// The same, to be changed. A new RIP counts only together with [`Action::Skip`].
    pub fn registers_mut(&mut self) -> &mut Registers {
        self.registers
    }

    /// Fills `bytes` from the thread's memory, which shows no breakpoints.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.memory.read(address, bytes, Access::Read)
    }

    /// Fills `bytes` as far as the memory can be read, and returns how far that is, such as for strings.
    pub fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.memory.read_up_to(address, bytes)
    }

    /// Reads the quadword at `address`.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    pub fn read_u64(&mut self, address: u64) -> Result<u64, MemoryFault> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Stores `bytes` into the thread's memory, as far as the thread itself could.
    ///
    /// # Errors
    /// The first byte that cannot be written; nothing is stored then.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.memory.write(address, bytes)
    }

    /// Counts this hit as filtered out: one that the probe's condition did not want.
    pub fn filter_out(&mut self) {
        self.filtered = true;
    }
}
