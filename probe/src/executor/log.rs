//! Which memory an instruction has read and written.

use std::ops::Range;

use emu::{Access, MemoryFault, UserMemory};

/// An access of an instruction to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemoryAccess<'a> {
    /// The address.
    pub address: u64,
    /// What was there before: empty where a store was made to what cannot be read.
    pub old: &'a [u8],
    /// What is there now, if it was written.
    pub new: Option<&'a [u8]>,
}

impl MemoryAccess<'_> {
    /// How many bytes it reached.
    #[must_use]
    pub fn size(&self) -> usize {
        self.new.map_or(self.old.len(), <[u8]>::len)
    }

    /// Whether it has written to one of those addresses.
    #[must_use]
    pub fn writes_within(&self, range: &Range<u64>) -> bool {
        let end = self.address.saturating_add(self.size() as u64);
        self.new.is_some() && self.address < range.end && range.start < end
    }
}

#[derive(Debug)]
struct Entry {
    address: u64,
    old: Range<usize>,
    new: Option<Range<usize>>,
}

/// Accesses, in their order.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

impl Log {
    pub(crate) fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = MemoryAccess<'_>> {
        let bytes = |range: &Range<usize>| self.bytes.get(range.clone()).unwrap_or_default();
        self.entries.iter().map(move |entry| MemoryAccess {
            address: entry.address,
            old: bytes(&entry.old),
            new: entry.new.as_ref().map(bytes),
        })
    }

    fn add(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }
}

/// Memory whose accesses are noted.
pub(crate) struct Recording<'a> {
    pub(crate) memory: &'a mut dyn UserMemory,
    pub(crate) log: &'a mut Log,
}

impl UserMemory for Recording<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        self.memory.read(address, bytes, access)?;
        // What it will write to next is noted then.
        if access == Access::Read {
            let old = self.log.add(bytes);
            self.log.entries.push(Entry { address, old, new: None });
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        let start = self.log.bytes.len();
        self.log.bytes.resize(start + bytes.len(), 0);
        let read = match self.log.bytes.get_mut(start..) {
            Some(old) => self.memory.read(address, old, Access::Read).is_ok(),
            None => false,
        };
        if !read {
            self.log.bytes.truncate(start);
        }
        let old = start..self.log.bytes.len();
        if let Err(fault) = self.memory.write(address, bytes) {
            self.log.bytes.truncate(start);
            return Err(fault);
        }
        let new = Some(self.log.add(bytes));
        self.log.entries.push(Entry { address, old, new });
        Ok(())
    }

    fn write_shadow_stack(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.memory.write_shadow_stack(address, bytes)
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let mut last = 0;
        let mut noting = |old: u128| {
            last = update(old);
            last
        };
        let old = self.memory.update(address, size, &mut noting)?;
        let size = size.min(16);
        let old_bytes = self.log.add(old.to_le_bytes().get(..size).unwrap_or_default());
        let new = Some(self.log.add(last.to_le_bytes().get(..size).unwrap_or_default()));
        self.log.entries.push(Entry { address, old: old_bytes, new });
        Ok(old)
    }
}
