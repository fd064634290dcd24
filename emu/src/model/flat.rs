//! One range of memory in an array.

use alloc::vec;
use alloc::vec::Vec;

use crate::model::memory::{Access, MemoryFault, UserMemory};

/// The size of a page in bytes.
const PAGE: u64 = 4096;

/// What user mode may do to a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protection {
    /// The page is not present.
    Absent,
    /// To read it.
    ReadOnly,
    /// To read and write it.
    ReadWrite,
    /// To read it, and to write it as a shadow stack.
    ShadowStack,
}

impl Protection {
    #[inline(always)]
    fn allows(self, wanted: Wanted) -> bool {
        match self {
            Protection::Absent => false,
            Protection::ReadOnly => wanted == Wanted::Read,
            Protection::ReadWrite => wanted != Wanted::WriteShadowStack,
            Protection::ShadowStack => wanted != Wanted::Write,
        }
    }
}

/// What an access is checked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Read,
    Write,
    WriteShadowStack,
}

/// How often a memory was accessed, whether it could be or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Accesses {
    /// [`UserMemory::read`].
    pub reads: usize,
    /// [`UserMemory::write`] and [`UserMemory::write_shadow_stack`].
    pub writes: usize,
    /// [`UserMemory::update`].
    pub updates: usize,
}

/// Memory for tests, examples and small emulators: one array, from some address on, with a protection for each page.
///
/// What lies before and behind it is not present.
#[derive(Clone, Debug, Default)]
pub struct FlatMemory {
    start: u64,
    bytes: Vec<u8>,
    /// Of the page in which `start` lies, and those behind it.
    pages: Vec<Protection>,
    accesses: Accesses,
}

impl FlatMemory {
    /// So many zeros, which can be read and written, from address `start` on. Neither need be a multiple of a page's
    /// size.
    #[must_use]
    pub fn new(start: u64, length: usize) -> FlatMemory {
        let pages = (start % PAGE).saturating_add(length as u64).div_ceil(PAGE) as usize;
        let (bytes, pages) = (vec![0; length], vec![Protection::ReadWrite; pages]);
        FlatMemory { start, bytes, pages, accesses: Accesses::default() }
    }

    /// The protection of all pages of which a byte is among the `length` ones from `address` on, as far as there are
    /// such pages here.
    pub fn protect(&mut self, address: u64, length: usize, protection: Protection) {
        let end = address.saturating_add(length as u64);
        let first = self.start / PAGE;
        for (number, page) in self.pages.iter_mut().enumerate() {
            let page_start = (first + number as u64).wrapping_mul(PAGE);
            if page_start < end && address < page_start.saturating_add(PAGE) {
                *page = protection;
            }
        }
    }

    /// The address of the first byte.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    /// All bytes, whatever the protection of their pages.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// All bytes, to be set.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// How often instructions have accessed it.
    #[must_use]
    pub fn accesses(&self) -> Accesses {
        self.accesses
    }

    /// Where the bytes lie, if all may be accessed so.
    #[inline(always)]
    fn place(&mut self, address: u64, length: usize, wanted: Wanted) -> Result<&mut [u8], MemoryFault> {
        if length == 0 {
            return Ok(&mut []);
        }
        let at = address.wrapping_sub(self.start) as usize;
        let end = at.saturating_add(length);
        let in_page = self.start % PAGE;
        let page = |byte: usize| (in_page.saturating_add(byte as u64) / PAGE) as usize;
        let (first, last) = (page(at), page(end - 1));
        let allowed = |number: usize| self.pages.get(number).is_some_and(|page| page.allows(wanted));
        // Most accesses are to one page.
        let all_allowed = allowed(first) && (first == last || (first..=last).all(allowed));
        if end > self.bytes.len() || !all_allowed {
            return Err(fault(self.start, self.bytes.len(), &self.pages, address, wanted));
        }
        Ok(self.bytes.get_mut(at..end).unwrap_or_default())
    }

    fn update_in_place(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let place = self.place(address, size.min(16), Wanted::Write)?;
        let mut bytes = [0; 16];
        for (byte, old) in bytes.iter_mut().zip(place.iter()) {
            *byte = *old;
        }
        let old = u128::from_le_bytes(bytes);
        for (byte, new) in place.iter_mut().zip(update(old).to_le_bytes()) {
            *byte = new;
        }
        Ok(old)
    }
}

/// The fault of the first byte from `address` on that cannot be accessed: there is one.
#[cold]
fn fault(start: u64, length: usize, pages: &[Protection], address: u64, wanted: Wanted) -> MemoryFault {
    let access = if wanted == Wanted::Read { Access::Read } else { Access::Write };
    let protection = |address: u64| {
        let byte = address.wrapping_sub(start);
        let page = (start % PAGE).saturating_add(byte) / PAGE;
        let page = pages.get(usize::try_from(page).unwrap_or(usize::MAX));
        page.copied().filter(|_| byte < length as u64).unwrap_or(Protection::Absent)
    };
    let mut at = address;
    while protection(at).allows(wanted) {
        let next_page = (at / PAGE).wrapping_add(1).wrapping_mul(PAGE);
        let end = start.wrapping_add(length as u64);
        at = if at < end && end < next_page { end } else { next_page };
    }
    MemoryFault { address: at, access, present: protection(at) != Protection::Absent, protection_key: false }
}

/// Copies slices of the same length: the usual ones by a single move instead of a call.
#[inline(always)]
fn copy(to: &mut [u8], from: &[u8]) {
    fn fixed<const N: usize>(to: &mut [u8], from: &[u8]) -> Option<()> {
        *to.first_chunk_mut::<N>()? = *from.first_chunk::<N>()?;
        Some(())
    }
    let _ = match to.len() {
        1 => fixed::<1>(to, from),
        4 => fixed::<4>(to, from),
        8 => fixed::<8>(to, from),
        16 => fixed::<16>(to, from),
        _ => {
            to.copy_from_slice(from);
            None
        }
    };
}

impl UserMemory for FlatMemory {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        self.accesses.reads += 1;
        let wanted = match access {
            Access::Read => Wanted::Read,
            Access::Write => Wanted::Write,
        };
        copy(bytes, self.place(address, bytes.len(), wanted)?);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.accesses.writes += 1;
        copy(self.place(address, bytes.len(), Wanted::Write)?, bytes);
        Ok(())
    }

    fn write_shadow_stack(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.accesses.writes += 1;
        copy(self.place(address, bytes.len(), Wanted::WriteShadowStack)?, bytes);
        Ok(())
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        self.accesses.updates += 1;
        self.update_in_place(address, size, update)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(address: u64, access: Access, present: bool) -> MemoryFault {
        MemoryFault { address, access, present, protection_key: false }
    }

    #[test]
    fn the_first_byte_that_cannot_be_accessed_is_named() {
        // The last 16 bytes of one page, two pages, and 16 bytes of another.
        let mut memory = FlatMemory::new(0x1ff0, 0x2020);
        let mut read = |address, length, access| {
            let mut bytes = vec![0xff; length];
            memory.read(address, &mut bytes, access).map(|()| assert!(bytes.iter().all(|&byte| byte == 0)))
        };
        assert_eq!(read(0x1ff0, 0x2020, Access::Write), Ok(()));
        assert_eq!(read(0x1fef, 2, Access::Read), Err(fault(0x1fef, Access::Read, false)));
        assert_eq!(read(0x1ff0, 0x2021, Access::Read), Err(fault(0x4010, Access::Read, false)));
        assert_eq!(read(0x4010, 1, Access::Write), Err(fault(0x4010, Access::Write, false)));
        assert_eq!(read(u64::MAX, 8, Access::Read), Err(fault(u64::MAX, Access::Read, false)));
        memory.protect(0x2fff, 2, Protection::ReadOnly);
        memory.protect(0x3000, 1, Protection::Absent);
        let mut read = |address, length, access| memory.read(address, &mut vec![0; length], access);
        assert_eq!(read(0x1ff0, 0x1010, Access::Read), Ok(()));
        assert_eq!(read(0x1ff0, 0x1010, Access::Write), Err(fault(0x2000, Access::Write, true)));
        assert_eq!(read(0x1ff0, 0x2020, Access::Read), Err(fault(0x3000, Access::Read, false)));
        assert_eq!(read(0x4000, 0x10, Access::Write), Ok(()));
    }

    #[test]
    fn what_fails_changes_nothing_and_is_counted() {
        let mut memory = FlatMemory::new(0x1000, 0x2000);
        memory.protect(0x2000, 0x1000, Protection::ShadowStack);
        assert_eq!(memory.write(0x1ffe, &[1; 4]), Err(fault(0x2000, Access::Write, true)));
        assert_eq!(memory.write_shadow_stack(0x1ffe, &[1; 4]), Err(fault(0x1ffe, Access::Write, true)));
        assert!(memory.bytes().iter().all(|&byte| byte == 0));
        assert_eq!(memory.write_shadow_stack(0x2000, &[1; 4]), Ok(()));
        assert_eq!(memory.update(0x1000, 2, &mut |old| old.wrapping_sub(1)), Ok(0));
        assert_eq!(memory.bytes()[..3], [0xff, 0xff, 0]);
        assert!(memory.update(0x2000, 8, &mut |old| old).is_err());
        assert_eq!(memory.accesses(), Accesses { reads: 0, writes: 3, updates: 2 });
    }
}
