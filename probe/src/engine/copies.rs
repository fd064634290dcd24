//! Breakpoints that the program has taken along into a copy of its text: they are served, or the original byte is put
//! back, and the thread never takes their SIGTRAP.

use crate::engine::event::Event;
use crate::engine::tracer::Tracer;
use crate::executor::ptrace::stopped::Stopped;
use crate::executor::ptrace::threads::SpaceId;
use crate::executor::space::Copied;
use crate::target::maps::{self, Maps};
use crate::target::procfs;

impl Tracer {
    /// Sees to a thread that is about to take the SIGTRAP of an INT3 at which no breakpoint is known. Where that is a
    /// copy of one of ours, the thread is set back to it, and this says so. Its registers have been fetched.
    pub(crate) fn recover_copy(&mut self, stopped: &mut Stopped, space_id: SpaceId) -> bool {
        let tid = stopped.tid();
        if !self.threads.is_breakpoint(stopped, true) {
            return false;
        }
        let address = self.registers.file.rip.wrapping_sub(1);
        // The mapping of a file may have moved, and its probes with it.
        self.relocate(space_id, tid);
        self.is_copy(tid, space_id, address) && self.set_back(stopped, space_id, address)
    }

    /// Whether there was an INT3 of ours at `address`; where it is a copy, it is none any more.
    fn is_copy(&mut self, tid: i32, space_id: SpaceId, address: u64) -> bool {
        let Some(space) = self.shared.space(space_id) else { return false };
        let mut space = space.write();
        if space.breakpoint(address).is_some() || space.was_removed(address) {
            return true;
        }
        let own = procfs::catches(tid, libc::SIGTRAP);
        let Some(Copied { original, of }) = space.copied_to(address, own) else { return false };
        let maps = Maps::read(tid).unwrap_or_else(|_| Maps::new(tid, Vec::new()));
        let Some(mapping) = maps::find(&maps, address) else { return false };
        let lifted = space.lift_copy(address, original, mapping);
        drop(space);
        if lifted {
            let pid = self.shared.pid_in(space_id);
            self.tell(&Event::Copied { pid, address, of, served: false });
        }
        lifted
    }

    /// Sets a thread that has trapped back to the instruction. Says whether it has.
    pub(crate) fn set_back(&mut self, stopped: &mut Stopped, space_id: SpaceId, address: u64) -> bool {
        let Some(space) = self.shared.space(space_id) else { return false };
        self.put_back_trap(stopped, &space);
        self.registers.file.rip = address;
        let stored = self.registers.store(stopped);
        self.threads.note(stopped.tid(), "PTRACE_POKEUSER", stored).is_some()
    }

    /// Tells of breakpoints that are in a copy of the text now, at the same address, and go on being served.
    pub(crate) fn tell_copied(&mut self, space_id: SpaceId, addresses: Vec<u64>) {
        let pid = self.shared.pid_in(space_id);
        for address in addresses {
            self.tell(&Event::Copied { pid, address, of: address, served: true });
        }
    }
}
