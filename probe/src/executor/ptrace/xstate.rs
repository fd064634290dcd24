//! The extended state of a stopped thread.

use std::ops::Range;

use emu::registers::{Extended, Vector};
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

    /// As which set it was fetched or stored last, or was to be.
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
        // Storing that takes the kernel a quarter of the time that a whole image takes.
        let is_legacy = self.length == LEGACY_LENGTH
            || self.fetched_pkru == registers.pkru
                && is_same_beyond_legacy(&self.fetched, &registers.extended);
        let (set, layout, length) = match is_legacy {
            true => (RegisterSet::FloatingPoint, &Layout::LEGACY, LEGACY_LENGTH),
            false => (RegisterSet::Extended, self.layout, self.length),
        };
        layout.write(&registers.extended, registers.pkru, &mut self.image).map_err(|_| Errno::EINVAL)?;
        if is_legacy && let Some(bytes) = self.image.get_mut(SOFTWARE) {
            // XCR0, which the kernel adds to a whole image.
            bytes.fill(0);
        }
        self.set = set;
        thread.set_register_set(set, self.image.get_mut(..length).unwrap_or_default())
    }
}

/// What of an image is left to software (SDM volume 1, section 13.4.1).
const SOFTWARE: Range<usize> = 464..LEGACY_LENGTH;

/// Whether there is no other difference than in what FXSAVE stores.
fn is_same_beyond_legacy(old: &Extended, new: &Extended) -> bool {
    /// The quadwords of an XMM register.
    const LOW: usize = 2;
    let is_same = |number: usize, (old, new): (&Vector, &Vector)| {
        let from = if number < 16 { LOW } else { 0 };
        old.0.iter().skip(from).eq(new.0.iter().skip(from))
    };
    old.opmask == new.opmask
        && old.tiles == new.tiles
        && old.vector.iter().zip(&new.vector).enumerate().all(|(number, pair)| is_same(number, pair))
}
