//! Code that is not 64-bit code, such as Wine's: a far jump leads there, in any process. `emu` knows nothing of
//! it, so the thread itself executes what a probe displaced there.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use crate::engine::entry::Natively;
use crate::engine::session::Session;
use crate::executor::ptrace::stop::{SpaceId, Stopped};
use crate::symbols::code;

/// What must be known of an instruction of 32-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Compat {
    /// One where it is none.
    pub(crate) length: usize,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// INT3, of the program itself.
    Breakpoint,
    /// It makes a system call, which must not take place while other threads are held.
    SystemCall,
    /// A string instruction with a repeat prefix.
    Repeated,
    Other,
}

impl Compat {
    /// Looks at the instruction at the start of `bytes`.
    pub(crate) fn decode(bytes: &[u8]) -> Compat {
        const SYSTEM_CALL: u8 = 0x80;
        let mut decoder = Decoder::new(32, bytes, DecoderOptions::NONE);
        let instruction = decoder.decode();
        let kind = match instruction.mnemonic() {
            Mnemonic::Int3 => Kind::Breakpoint,
            Mnemonic::Int if instruction.immediate8() == SYSTEM_CALL => Kind::SystemCall,
            Mnemonic::Sysenter | Mnemonic::Syscall => Kind::SystemCall,
            _ if code::repeats(&instruction) => Kind::Repeated,
            _ => Kind::Other,
        };
        Compat { length: if instruction.is_invalid() { 1 } else { instruction.len() }, kind }
    }
}

impl Session {
    /// Has a thread that is not in 64-bit code execute the displaced instruction. The result is that of
    /// [`Session::natively`].
    pub(crate) fn perform_compat(
        &mut self,
        stopped: Stopped,
        space_id: SpaceId,
        site: u64,
    ) -> Option<(Stopped, i32)> {
        match self.compat(space_id, site).kind {
            Kind::SystemCall => self.natively(stopped, space_id, site, Natively::Enter),
            Kind::Repeated => self.natively(stopped, space_id, site, Natively::Repeat),
            Kind::Other => self.natively(stopped, space_id, site, Natively::Once),
            Kind::Breakpoint => {
                let tid = stopped.tid();
                self.registers.file.rip = site.wrapping_add(1);
                let stored = self.registers.store(tid);
                if self.threads.refused(tid, "PTRACE_SETREGS", stored) {
                    return Some(self.stand_aside(stopped, space_id, site));
                }
                // The stop that we are in is that of an INT3: it only has to be taken, even if it was blocked.
                self.threads.unblock_trap(tid);
                self.count(|counters| counters.faulted += 1);
                Some((stopped, libc::SIGTRAP))
            }
        }
    }

    /// The displaced instruction at `site`, as 32-bit code.
    pub(crate) fn compat(&self, space_id: SpaceId, site: u64) -> Compat {
        let code = self.spaces.get(&space_id).and_then(|space| space.code_at(site).ok());
        let (bytes, length) = code.unwrap_or_default();
        Compat::decode(bytes.get(..length).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_those_of_32_bit_code() {
        let decoded = |bytes: &[u8]| {
            let Compat { length, kind } = Compat::decode(bytes);
            (length, kind)
        };
        // inc %eax, which is a prefix in 64-bit code; mov 0x12345678, %eax, which is longer there.
        assert_eq!(decoded(&[0x40, 0x90]), (1, Kind::Other));
        assert_eq!(decoded(&[0xa1, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0]), (5, Kind::Other));
        assert_eq!(decoded(&[0xcc]), (1, Kind::Breakpoint));
        assert_eq!(decoded(&[0xcd, 0x80]), (2, Kind::SystemCall));
        assert_eq!(decoded(&[0xcd, 0x81]), (2, Kind::Other));
        assert_eq!(decoded(&[0x0f, 0x34]), (2, Kind::SystemCall));
        assert_eq!(decoded(&[0x0f, 0x05]), (2, Kind::SystemCall));
        assert_eq!(decoded(&[0xf3, 0xa4]), (2, Kind::Repeated));
        assert_eq!(decoded(&[0xf3, 0x90]), (2, Kind::Other));
        assert_eq!(decoded(&[]), (1, Kind::Other));
    }
}
