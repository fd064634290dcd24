//! The memory of the thread, as an instruction sees it.

/// What an access wants of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// To read.
    Read,
    /// To write, or to read what the same instruction will then write.
    Write,
}

/// Why memory could not be accessed: what the processor would have put into CR2 and the error code of #PF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MemoryFault {
    /// The first byte that could not be accessed.
    pub address: u64,
    /// What was wanted of it.
    pub access: Access,
    /// Whether a page is there (and only its protection forbids the access).
    pub present: bool,
    /// Whether a protection key forbids the access.
    pub protection_key: bool,
}

/// Checked access to the memory of the thread whose instruction is executed.
///
/// Addresses are linear. They are canonical: `emu` has raised #GP or #SS for any other. An access of any
/// length may cross pages. A failed access has changed nothing.
pub trait UserMemory {
    /// Fills `bytes` from `address` on.
    ///
    /// `access` is [`Access::Write`] where the instruction will write the same bytes: then a page that
    /// cannot be written is a fault of this read already.
    ///
    /// # Errors
    /// The first byte in address order that is not accessible.
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault>;

    /// Stores `bytes` from `address` on: all of them or none.
    ///
    /// A store of 1, 2, 4, 8 or 16 bytes within an aligned unit of that size is one store to every other
    /// thread; no reader sees half of it.
    ///
    /// # Errors
    /// The first byte in address order that is not accessible.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault>;

    /// As [`UserMemory::write`] of eight or four bytes, but to a shadow stack, which nothing else can write.
    ///
    /// # Errors
    /// The first byte in address order that is not accessible, or not a shadow stack's.
    fn write_shadow_stack(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.write(address, bytes)
    }

    /// Replaces the value of `size` bytes (1, 2, 4, 8 or 16) at `address` by what `update` makes of it, in
    /// one step that no other thread of the target can interrupt, and returns the value before.
    ///
    /// `update` may be called more than once; only its last answer counts.
    ///
    /// # Errors
    /// The first byte in address order that cannot be written.
    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault>;

    /// [`UserMemory::update`] by a read and a write: for implementations whose memory nobody else uses
    /// meanwhile.
    ///
    /// # Errors
    /// The first byte in address order that cannot be written.
    fn update_alone(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let mut bytes = [0; 16];
        let size = size.min(bytes.len());
        let (used, _) = bytes.split_at_mut(size);
        self.read(address, used, Access::Write)?;
        let old = u128::from_le_bytes(bytes);
        let new = update(old).to_le_bytes();
        let (used, _) = new.split_at(size);
        self.write(address, used)?;
        Ok(old)
    }
}
