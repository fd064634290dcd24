//! The extended state of a stopped thread.

use emu::registers::Extended;
use emu::xsave::{LEGACY_LENGTH, Layout, feature};
use emu::{Registers, Touches};
use nix::errno::Errno;

use crate::executor::ptrace::sys::{self, RegisterSet};

/// What of `touches` is not in the extended state of a processor whose system has enabled the components `has` of
/// XCR0, if anything.
pub(crate) fn lacks(touches: Touches, has: u64) -> Option<&'static str> {
    const AVX512: u64 = feature::OPMASK | feature::ZMM_HI256 | feature::HI16_ZMM;
    const TILES: u64 = feature::TILE_CONFIG | feature::TILE_DATA;
    if touches.contains(Touches::EXTENDED) {
        // XSAVE and its kin work on whatever there is.
        return None;
    }
    [
        (Touches::X87, feature::X87, "x87 state, which the processor does not save"),
        (Touches::SSE, feature::SSE, "XMM registers, which the processor does not save"),
        (Touches::AVX, feature::AVX, "YMM registers, which the processor does not have"),
        (Touches::AVX512, AVX512, "ZMM and mask registers, which the processor does not have"),
        (Touches::TILES, TILES, "tile registers, which the system has not enabled"),
        (Touches::PKRU, feature::PKRU, "protection keys, which the processor does not have"),
    ]
    .into_iter()
    .find_map(|(part, bits, name)| (touches.intersects(part) && has & bits != bits).then_some(name))
}

/// All that this processor has.
pub(crate) fn all() -> Touches {
    match Layout::of_this_processor() {
        Some(_) => Touches::EXTENDED,
        None => Touches::X87 | Touches::SSE,
    }
}

/// PKRU of thread `tid`.
pub(crate) fn pkru(tid: i32) -> nix::Result<u32> {
    let layout = Layout::of_this_processor().ok_or(Errno::ENODEV)?;
    let mut image = vec![0; layout.length];
    let length = sys::get_registers(tid, RegisterSet::Extended, &mut image)?;
    let (mut extended, mut pkru) = (Extended::default(), 0);
    let image = image.get(..length).unwrap_or_default();
    layout.read(image, &mut extended, &mut pkru).map_err(|_| Errno::EINVAL)?;
    Ok(pkru)
}

/// The XSAVE image of a thread, kept so that what `emu` has no place for stays as it is.
#[derive(Debug)]
pub(crate) struct Xstate {
    /// As long as any image can be.
    image: Vec<u8>,
    set: RegisterSet,
    layout: &'static Layout,
    /// How many bytes of the image the kernel knows.
    length: usize,
    fetched: Extended,
    fetched_pkru: u32,
}

impl Xstate {
    /// Longer than any image so far: AMX tiles take 8 KiB.
    const LONGEST: usize = 16 * 1024;

    pub(crate) fn new() -> Xstate {
        Xstate {
            image: vec![0; Self::LONGEST],
            set: RegisterSet::FloatingPoint,
            layout: &Layout::LEGACY,
            length: 0,
            fetched: Extended::default(),
            fetched_pkru: 0,
        }
    }

    /// Fetches what of the extended state of `tid` is in `touches` into `registers`; the rest, if not fetched
    /// as well, becomes zero there.
    pub(crate) fn fetch(&mut self, tid: i32, touches: Touches, registers: &mut Registers) -> nix::Result<()> {
        const LEGACY: Touches = Touches::X87.union(Touches::SSE);
        if LEGACY.contains(touches & Touches::EXTENDED) {
            // Storing it takes the kernel a third of the time that a whole image takes.
            (self.set, self.layout) = (RegisterSet::FloatingPoint, &Layout::LEGACY);
            let (legacy, header) = self.image.split_at_mut(LEGACY_LENGTH);
            self.length = sys::get_registers(tid, self.set, legacy)?;
            let in_use = (feature::X87 | feature::SSE).to_le_bytes();
            header.iter_mut().zip(in_use).for_each(|(to, from)| *to = from);
        } else {
            self.layout = Layout::of_this_processor().ok_or(Errno::ENODEV)?;
            self.set = RegisterSet::Extended;
            self.length = sys::get_registers(tid, self.set, &mut self.image)?;
            if self.length < self.layout.length {
                return Err(Errno::EINVAL);
            }
        }
        self.layout
            .read(&self.image, &mut registers.extended, &mut registers.pkru)
            .map_err(|_| Errno::EINVAL)?;
        self.fetched.clone_from(&registers.extended);
        self.fetched_pkru = registers.pkru;
        Ok(())
    }

    /// Stores the extended state if it has changed since it was fetched.
    pub(crate) fn store(&mut self, tid: i32, registers: &Registers) -> nix::Result<()> {
        if self.fetched == registers.extended && self.fetched_pkru == registers.pkru {
            return Ok(());
        }
        self.layout.write(&registers.extended, registers.pkru, &mut self.image).map_err(|_| Errno::EINVAL)?;
        sys::set_registers(tid, self.set, self.image.get_mut(..self.length).unwrap_or_default())
    }
}
