//! The extended state of a stopped thread.

use emu::registers::Extended;
use emu::xsave::{LEGACY_LENGTH, Layout, feature};
use emu::{Registers, Touches};
use nix::errno::Errno;

use crate::executor::ptrace::stopped::{RegisterSet, Stopped};

/// All that this processor has.
pub(crate) fn all() -> Touches {
    match Layout::of_this_processor() {
        Some(_) => Touches::EXTENDED,
        None => Touches::X87 | Touches::SSE,
    }
}

/// PKRU of a thread.
pub(crate) fn pkru(thread: &Stopped) -> nix::Result<u32> {
    let layout = Layout::of_this_processor().ok_or(Errno::ENODEV)?;
    let mut image = vec![0; layout.length];
    let length = thread.register_set(RegisterSet::Extended, &mut image)?;
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

    /// As which set it was fetched last, or was to be.
    pub(crate) fn set(&self) -> RegisterSet {
        self.set
    }

    /// Fetches what of the extended state of `thread` is in `touches` into `registers`; the rest, if not fetched
    /// as well, becomes zero there.
    pub(crate) fn fetch(
        &mut self,
        thread: &Stopped,
        touches: Touches,
        registers: &mut Registers,
    ) -> nix::Result<()> {
        const LEGACY: Touches = Touches::X87.union(Touches::SSE);
        if LEGACY.contains(touches & Touches::EXTENDED) {
            // Storing it takes the kernel a third of the time that a whole image takes.
            (self.set, self.layout) = (RegisterSet::FloatingPoint, &Layout::LEGACY);
            let (legacy, header) = self.image.split_at_mut(LEGACY_LENGTH);
            self.length = thread.register_set(self.set, legacy)?;
            let in_use = (feature::X87 | feature::SSE).to_le_bytes();
            header.iter_mut().zip(in_use).for_each(|(to, from)| *to = from);
        } else {
            self.layout = Layout::of_this_processor().ok_or(Errno::ENODEV)?;
            self.set = RegisterSet::Extended;
            self.length = thread.register_set(self.set, &mut self.image)?;
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
    pub(crate) fn store(&mut self, thread: &Stopped, registers: &Registers) -> nix::Result<()> {
        if self.fetched == registers.extended && self.fetched_pkru == registers.pkru {
            return Ok(());
        }
        self.layout.write(&registers.extended, registers.pkru, &mut self.image).map_err(|_| Errno::EINVAL)?;
        thread.set_register_set(self.set, self.image.get_mut(..self.length).unwrap_or_default())
    }
}
