//! Where things lie in the oracle's child process. The emulator's side models the same places.
//!
//! Everything that an instruction under test may reach by design is here; what else is mapped in the child
//! (the runner and its shared memory) lies at an address that no generated operand comes near.

/// The length of a page in bytes.
pub const PAGE: u64 = 4096;

/// The first address that user space cannot have, unless it asks for addresses of more than 47 bits, which needs
/// five-level paging.
pub const USER_END: u64 = 0x7fff_ffff_f000;

/// What an instruction may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Load and store.
    ReadWrite,
    /// Load only.
    ReadOnly,
    /// Load and fetch.
    ReadExecute,
}

/// One mapped region of the child's address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The first byte's address.
    pub start: u64,
    /// The length in bytes, a multiple of the page size.
    pub length: u64,
    /// What may be done.
    pub protection: Protection,
    /// Where the region's contents lie in [`Memory`](super::Memory), in bytes.
    pub offset: usize,
}

impl Region {
    /// The address after the last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.start + self.length
    }
}

/// Two writable pages, with nothing mapped below and a read-only page above.
pub const LOW: Region =
    Region { start: 0x1000_1000, length: 2 * PAGE, protection: Protection::ReadWrite, offset: 0 };
/// The read-only page above [`LOW`], with nothing mapped above it.
pub const READ_ONLY: Region = Region {
    start: LOW.end(),
    length: PAGE,
    protection: Protection::ReadOnly,
    offset: LOW.offset + LOW.length as usize,
};
/// A writable page with nothing mapped on either side: mostly used as the stack.
pub const STACK: Region = Region {
    start: 0x1000_6000,
    length: PAGE,
    protection: Protection::ReadWrite,
    offset: READ_ONLY.offset + PAGE as usize,
};
/// The last page that user space can have.
pub const TOP: Region = Region {
    start: USER_END - PAGE,
    length: PAGE,
    protection: Protection::ReadWrite,
    offset: STACK.offset + PAGE as usize,
};
/// Two writable pages on either side of 4 GiB, where addresses of 32 bits wrap, with nothing mapped around them.
pub const SEAM: Region = Region {
    start: (1 << 32) - PAGE,
    length: 2 * PAGE,
    protection: Protection::ReadWrite,
    offset: TOP.offset + PAGE as usize,
};
/// The instructions under test, one slot each, in the low half of the 32-bit address space.
pub const CODE_LOW: Region = Region {
    start: 0x2000_0000,
    length: (SLOTS * SLOT) as u64,
    protection: Protection::ReadExecute,
    offset: SEAM.offset + SEAM.length as usize,
};
/// The same slots again, near [`TOP`].
pub const CODE_HIGH: Region = Region {
    start: USER_END - (1 << 20),
    length: CODE_LOW.length,
    protection: Protection::ReadExecute,
    offset: CODE_LOW.offset,
};

/// All that an instruction under test may find mapped.
pub const REGIONS: [Region; 7] = [LOW, READ_ONLY, STACK, TOP, SEAM, CODE_LOW, CODE_HIGH];
/// The regions that an instruction under test may change.
pub const WRITABLE: [Region; 4] = [LOW, STACK, TOP, SEAM];

/// How many instructions a batch holds.
pub const SLOTS: usize = 256;
/// The length of one instruction's slot in bytes: the instruction, and the jump back to the runner.
pub const SLOT: usize = 32;

/// The first of [`SLOTS`] executable pages, each with nothing mapped behind it: an instruction that ends
/// where its page does shows how many bytes the processor fetches. No other region has such low 32 bits.
pub const EDGES: u64 = 0x6e53_9740_0000;
/// How far the pages of [`EDGES`] are apart, in bytes.
pub const EDGE_DISTANCE: u64 = 2 * PAGE;

/// Where the page number `index` of [`EDGES`] ends.
#[must_use]
pub const fn edge(index: usize) -> u64 {
    EDGES + index as u64 * EDGE_DISTANCE + PAGE
}

/// The length of the contents of all regions, in bytes.
pub const IMAGE_LENGTH: usize = CODE_LOW.offset + SLOTS * SLOT;

/// The runner's code.
pub(super) const RUNNER: u64 = 0x4a7b_3c00_0000;
/// The memory shared between the child and this process, as the child sees it.
pub(super) const SHARED: u64 = RUNNER + 0x1_0000;
