//! The emulator's view of the memory that the oracle's child has.

use emu::{Access, MemoryFault, UserMemory};

use crate::features;
use crate::oracle::places::{IMAGE_LENGTH, PAGE, Protection, REGIONS, Region};
use crate::oracle::{Memory, Patch};

/// The contents of all regions, what they were at first, and where they have been written since.
pub struct Model {
    base: Box<Memory>,
    image: Box<Memory>,
    written: Vec<(usize, usize)>,
}

impl Model {
    /// Memory that holds `base`.
    #[must_use]
    pub fn new(base: &Memory) -> Model {
        Model { base: Box::new(*base), image: Box::new(*base), written: Vec::new() }
    }

    /// Starts again from `base`.
    pub fn reset(&mut self, base: &Memory) {
        self.base.copy_from_slice(base);
        self.image.copy_from_slice(base);
        self.written.clear();
    }

    /// Undoes all that was written.
    pub fn undo(&mut self) {
        for (offset, length) in self.written.drain(..) {
            self.image[offset..offset + length].copy_from_slice(&self.base[offset..offset + length]);
        }
    }

    /// Puts a patch into memory.
    pub fn patch(&mut self, patch: &Patch) {
        // The oracle has refused a patch that lies anywhere else.
        let _ = self.write(patch.address, patch.contents());
    }

    /// The aligned words that differ from `changed`, which lists the words that differ from the start:
    /// address, the word there by `changed`, the word here.
    #[must_use]
    pub fn differences(&self, changed: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
        let mut words: Vec<(u64, usize)> =
            changed.iter().filter_map(|(address, _)| Some((*address, place(*address)?))).collect();
        for &(offset, length) in &self.written {
            for word in offset / 8..(offset + length).div_ceil(8) {
                if let Some(region) = REGIONS.iter().find(|r| contains(r, 8 * word)) {
                    words.push((region.start + (8 * word - region.offset) as u64, 8 * word));
                }
            }
        }
        words.sort_unstable();
        words.dedup();
        let mut differences = Vec::new();
        for (address, offset) in words {
            let processor = match changed.iter().find(|(changed, _)| *changed == address) {
                Some((_, word)) => *word,
                None => word(&self.base[..], offset),
            };
            let here = word(&self.image[..], offset);
            if processor != here {
                differences.push((address, processor, here));
            }
        }
        differences
    }

    /// The word at `address`, and the one that the processor has there, of which `changed` lists those that differ from
    /// the start.
    pub(crate) fn words_at(&self, address: u64, changed: &[(u64, u64)]) -> Option<(u64, u64)> {
        let place = place(address)?;
        let found = changed.iter().find(|(changed, _)| *changed == address);
        Some((
            word(&self.image[..], place),
            found.map_or_else(|| word(&self.base[..], place), |(_, word)| *word),
        ))
    }

    /// Where `length` bytes from `address` on lie, if one region has them all and allows it.
    fn whole(&self, address: u64, length: usize, access: Access) -> Option<usize> {
        let region = REGIONS.iter().find(|region| region.start <= address && address < region.end())?;
        let fits = region.end() - address >= length as u64;
        (fits && allows(region, access)).then(|| region.offset + (address - region.start) as usize)
    }

    /// Where the byte at `address` lies.
    fn byte(address: u64, access: Access) -> Result<usize, MemoryFault> {
        let fault = |present| MemoryFault { address, access, present, protection_key: false };
        match REGIONS.iter().find(|region| region.start <= address && address < region.end()) {
            Some(region) if allows(region, access) => Ok(region.offset + (address - region.start) as usize),
            Some(_) => Err(fault(true)),
            None => Err(fault(address >= kernel_start())),
        }
    }
}

/// The first address of which the kernel does not tell user space what is mapped, so that all of it seems to be.
fn kernel_start() -> u64 {
    (1 << (features::processor().linear_address_bits - 1)) - PAGE
}

fn allows(region: &Region, access: Access) -> bool {
    access == Access::Read || region.protection == Protection::ReadWrite
}

fn contains(region: &Region, offset: usize) -> bool {
    (region.offset..region.offset + region.length as usize).contains(&offset)
}

fn place(address: u64) -> Option<usize> {
    let region = REGIONS.iter().find(|region| region.start <= address && address < region.end())?;
    Some(region.offset + (address - region.start) as usize)
}

fn word(image: &[u8], offset: usize) -> u64 {
    let mut bytes = [0; 8];
    if let Some(found) = image.get(offset..offset + 8) {
        bytes.copy_from_slice(found);
    }
    u64::from_le_bytes(bytes)
}

const _: () = assert!(IMAGE_LENGTH.is_multiple_of(8));

impl UserMemory for Model {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        if let Some(offset) = self.whole(address, bytes.len(), access) {
            bytes.copy_from_slice(&self.image[offset..offset + bytes.len()]);
            return Ok(());
        }
        for (distance, byte) in bytes.iter_mut().enumerate() {
            *byte = self.image[Model::byte(address.wrapping_add(distance as u64), access)?];
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        if let Some(offset) = self.whole(address, bytes.len(), Access::Write) {
            self.image[offset..offset + bytes.len()].copy_from_slice(bytes);
            self.written.push((offset, bytes.len()));
            return Ok(());
        }
        for distance in 0..bytes.len() as u64 {
            Model::byte(address.wrapping_add(distance), Access::Write)?;
        }
        for (distance, byte) in bytes.iter().enumerate() {
            let offset = Model::byte(address.wrapping_add(distance as u64), Access::Write)?;
            self.image[offset] = *byte;
            self.written.push((offset, 1));
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
