//! Code that is not 64-bit code, such as Wine's: a far jump leads there, in any process. `emu` knows nothing of
//! it, so the thread itself executes what a probe displaced there.

use iced_x86::{Decoder, DecoderOptions, Mnemonic};

use crate::engine::perform::{self, Performed};
use crate::executor::space::Space;
use crate::executor::{Executor, Natively};
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

impl Compat {
    /// The displaced instruction at `site`, as 32-bit code.
    pub(crate) fn at(space: &Space, site: u64) -> Compat {
        let (bytes, length) = space.code_at(site).unwrap_or_default();
        Compat::decode(bytes.get(..length).unwrap_or_default())
    }

    /// Has a thread that is not in 64-bit code execute it at `site`.
    pub(crate) fn perform(self, thread: &mut impl Executor, site: u64) -> Performed {
        match self.kind {
            Kind::SystemCall => perform::natively(thread, site, Natively::Enter),
            Kind::Repeated => perform::natively(thread, site, Natively::Repeat),
            Kind::Other => perform::natively(thread, site, Natively::Once),
            Kind::Breakpoint => perform::breakpoint(thread, site),
        }
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
