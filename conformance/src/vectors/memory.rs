//! The memory of a case, for the emulator.

use std::sync::Arc;

use emu::{Access, MemoryFault, UserMemory};

use super::format::Run;
use super::image::offset;
use super::layout::{Layout, Protection};
use super::state::Lanes;
use crate::oracle::places::USER_END;

/// The contents of a file's regions. They are drawn when they are first looked at: most instructions have
/// nothing to do with memory.
pub struct Memory {
    layout: Arc<Layout>,
    /// The image from [`offset::MEMORY`] on.
    bytes: Vec<u8>,
    /// Before the instruction.
    before: Vec<u8>,
    /// What is to be done before the first look.
    pending: Option<Pending>,
}

struct Pending {
    lanes: Lanes,
    patches: Vec<Run>,
    instruction: (u64, Vec<u8>),
}

impl Memory {
    /// Memory as `layout` says.
    #[must_use]
    pub fn new(layout: &Arc<Layout>) -> Memory {
        let length = layout.length() - offset::MEMORY;
        Memory { layout: Arc::clone(layout), bytes: vec![0; length], before: vec![0; length], pending: None }
    }

    /// The memory of another case: what `lanes` draw, with the instruction at its address, and `patches` over
    /// that.
    pub fn reset(&mut self, lanes: Lanes, patches: &[Run], address: u64, instruction: &[u8]) {
        let in_memory = |run: &&Run| usize::from(run.offset) >= offset::MEMORY;
        let patches = patches.iter().filter(in_memory).cloned().collect();
        self.pending = Some(Pending { lanes, patches, instruction: (address, instruction.to_vec()) });
    }

    /// Draws what has not been drawn yet.
    fn draw(&mut self) {
        let Some(Pending { mut lanes, patches, instruction: (address, bytes) }) = self.pending.take() else {
            return;
        };
        self.layout.memory(&mut lanes, &mut self.before);
        for (distance, byte) in bytes.into_iter().enumerate() {
            let place = self.place(address.wrapping_add(distance as u64));
            if let Some(place) = place.and_then(|place| self.before.get_mut(place)) {
                *place = byte;
            }
        }
        for patch in &patches {
            put(&mut self.before, patch);
        }
        self.bytes.copy_from_slice(&self.before);
    }

    /// The contents before the instruction, from [`offset::MEMORY`] of the image on.
    pub fn before(&mut self) -> &[u8] {
        self.draw();
        &self.before
    }

    /// Where memory differs from what it was before with `changes` over it: the address of the aligned word, the
    /// word as `changes` say, the word here.
    pub fn differences(&mut self, changes: &[Run]) -> Vec<(u64, u64, u64)> {
        let changes: Vec<&Run> =
            changes.iter().filter(|run| usize::from(run.offset) >= offset::MEMORY).collect();
        if self.pending.is_some() && changes.is_empty() {
            return Vec::new();
        }
        self.draw();
        for change in changes {
            put(&mut self.before, change);
        }
        if self.before == self.bytes {
            return Vec::new();
        }
        let (expected, _) = self.before.as_chunks::<8>();
        let (here, _) = self.bytes.as_chunks::<8>();
        let words = expected.iter().zip(here).enumerate().filter(|(_, (expected, here))| expected != here);
        words
            .map(|(number, (expected, here))| {
                (self.address(8 * number), u64::from_le_bytes(*expected), u64::from_le_bytes(*here))
            })
            .collect()
    }

    /// Some address of the byte at `place`.
    fn address(&self, place: usize) -> u64 {
        let place = place + offset::MEMORY;
        let has = |region: &&super::layout::Region| {
            (region.offset..region.offset + region.length as usize).contains(&place)
        };
        let region = self.layout.regions.iter().find(has);
        region.map_or(0, |region| region.start + (place - region.offset) as u64)
    }

    /// Where the byte at `address` lies in `bytes`.
    fn place(&self, address: u64) -> Option<usize> {
        self.layout.region(address)?.place(address).map(|place| place - offset::MEMORY)
    }

    /// Where the byte at `address` lies in `bytes`, if it may be accessed so.
    fn byte(&self, address: u64, access: Access) -> Result<usize, MemoryFault> {
        let fault = |present| MemoryFault { address, access, present, protection_key: false };
        let wanted = match access {
            Access::Read => Protection::READ,
            Access::Write => Protection::WRITE,
        };
        match self.layout.region(address) {
            Some(region) if region.protection.contains(wanted) => {
                region.place(address).map(|place| place - offset::MEMORY).ok_or_else(|| fault(false))
            }
            Some(_) => Err(fault(true)),
            // The kernel does not tell user space what of its half is mapped.
            None => Err(fault(address >= USER_END)),
        }
    }

    /// Whether there is code at `address`.
    ///
    /// # Errors
    /// There is none.
    pub fn fetch(&self, address: u64) -> Result<(), MemoryFault> {
        let fault = |present| MemoryFault { address, access: Access::Read, present, protection_key: false };
        match self.layout.region(address) {
            Some(region) if region.protection.contains(Protection::EXECUTE) => Ok(()),
            Some(_) => Err(fault(true)),
            None => Err(fault(address >= USER_END)),
        }
    }
}

fn put(bytes: &mut [u8], run: &Run) {
    let start = usize::from(run.offset) - offset::MEMORY;
    if let Some(place) = bytes.get_mut(start..start + run.bytes.len()) {
        place.copy_from_slice(&run.bytes);
    }
}

impl UserMemory for Memory {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        self.draw();
        for (distance, byte) in bytes.iter_mut().enumerate() {
            *byte = self.bytes[self.byte(address.wrapping_add(distance as u64), access)?];
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.draw();
        for distance in 0..bytes.len() as u64 {
            self.byte(address.wrapping_add(distance), Access::Write)?;
        }
        for (distance, byte) in bytes.iter().enumerate() {
            let place = self.byte(address.wrapping_add(distance as u64), Access::Write)?;
            self.bytes[place] = *byte;
        }
        Ok(())
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        self.update_alone(address, size, update)
    }
}
