//! The extended state of a stopped thread: ptrace's `NT_X86_XSTATE`.

use emu::registers::Extended;
use emu::xsave::{Layout, feature};
use emu::{Registers, Touches};

use crate::sys;

/// What of `touches` this processor's extended state does not have, if anything.
pub(crate) fn lacks(touches: Touches) -> Option<&'static str> {
    const AVX512: u64 = feature::OPMASK | feature::ZMM_HI256 | feature::HI16_ZMM;
    if touches.contains(Touches::EXTENDED) {
        // XSAVE and its kin work on whatever there is.
        return None;
    }
    let has = Layout::of_this_processor().map_or(0, Layout::features);
    [
        (Touches::X87, feature::X87, "x87 state, which this processor does not save"),
        (Touches::SSE, feature::SSE, "XMM registers, which this processor does not save"),
        (Touches::AVX, feature::AVX, "YMM registers, which this processor does not have"),
        (Touches::AVX512, AVX512, "ZMM and mask registers, which this processor does not have"),
        (Touches::PKRU, feature::PKRU, "protection keys, which this processor does not have"),
    ]
    .into_iter()
    .find_map(|(part, bits, name)| (touches.intersects(part) && has & bits != bits).then_some(name))
}

/// The XSAVE image of a thread, kept so that what `emu` has no place for stays as it is.
#[derive(Debug)]
pub(crate) struct Xstate {
    /// As long as any image can be; the first `length` bytes are this thread's.
    image: Vec<u8>,
    length: usize,
    fetched: Extended,
    fetched_pkru: u32,
}

impl Xstate {
    /// Longer than any image so far: AMX tiles take 8 KiB.
    const LONGEST: usize = 16 * 1024;

    pub(crate) fn new() -> Xstate {
        Xstate { image: vec![0; Self::LONGEST], length: 0, fetched: Extended::default(), fetched_pkru: 0 }
    }

    fn image(&mut self) -> &mut [u8] {
        self.image.get_mut(..self.length).unwrap_or_default()
    }

    /// Fetches the extended state of `tid` into `registers`.
    pub(crate) fn fetch(&mut self, tid: i32, registers: &mut Registers) -> nix::Result<()> {
        let Some(layout) = Layout::of_this_processor() else { return Err(nix::errno::Errno::ENODEV) };
        self.length = sys::get_xstate(tid, &mut self.image)?;
        layout
            .read(self.image(), &mut registers.extended, &mut registers.pkru)
            .map_err(|_| nix::errno::Errno::EINVAL)?;
        self.fetched.clone_from(&registers.extended);
        self.fetched_pkru = registers.pkru;
        Ok(())
    }

    /// Stores the extended state if it has changed since it was fetched.
    pub(crate) fn store(&mut self, tid: i32, registers: &Registers) -> nix::Result<()> {
        let Some(layout) = Layout::of_this_processor() else { return Ok(()) };
        if self.fetched == registers.extended && self.fetched_pkru == registers.pkru {
            return Ok(());
        }
        layout
            .write(&registers.extended, registers.pkru, self.image())
            .map_err(|_| nix::errno::Errno::EINVAL)?;
        sys::set_xstate(tid, self.image())
    }
}
