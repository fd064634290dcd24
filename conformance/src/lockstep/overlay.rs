//! The memory of a stopped thread, with the emulator's stores kept aside.

use std::io::IoSliceMut;
use std::path::Path;

use emu::{Access, MemoryFault, UserMemory};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use probe::maps::{self, Mapping, Permissions};

/// Reads as many of `bytes` as there are from `address` on, and says how many.
pub(super) fn read_up_to(tid: i32, address: u64, bytes: &mut [u8]) -> usize {
    const PAGE: usize = 4096;
    let first = bytes.len().min(PAGE - (address % PAGE as u64) as usize);
    let mut remote = vec![RemoteIoVec { base: address as usize, len: first }];
    let mut next = first;
    while next < bytes.len() {
        let len = PAGE.min(bytes.len() - next);
        remote.push(RemoteIoVec { base: (address as usize).wrapping_add(next), len });
        next += len;
    }
    process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(bytes)], &remote).unwrap_or(0)
}

/// A process's mappings, as they were after the last system call, which may have changed them.
#[derive(Debug, Default)]
pub(super) struct Maps(Option<Vec<Mapping>>);

impl Maps {
    /// The mapping of `address`.
    fn find(&mut self, tid: i32, address: u64) -> Option<&Mapping> {
        if self.0.as_ref().is_none_or(|maps| maps::find(maps, address).is_none()) {
            // The stack may have grown.
            self.0 = Some(maps::read(tid).unwrap_or_default());
        }
        maps::find(self.0.as_deref()?, address)
    }

    /// Whether the page of `address` can be written, if it can be read and no other process writes to it.
    pub(super) fn is_private(&mut self, tid: i32, address: u64) -> Option<bool> {
        let mapping = self.find(tid, address)?;
        let is_writable = mapping.perms.contains(Permissions::WRITE);
        let others_write = is_writable && mapping.perms.contains(Permissions::SHARED);
        (mapping.perms.contains(Permissions::READ) && !others_write).then_some(is_writable)
    }

    /// Whether `address` lies in the code that the kernel maps into every process.
    pub(super) fn is_vdso(&mut self, tid: i32, address: u64) -> bool {
        let path = self.find(tid, address).and_then(|mapping| mapping.path.as_deref());
        path.is_some_and(|path| path == Path::new("[vdso]"))
    }

    /// Whether `address` lies in code of the program's own.
    pub(super) fn is_program(&mut self, tid: i32, address: u64) -> bool {
        self.find(tid, address).is_some_and(Mapping::is_executable) && !self.is_vdso(tid, address)
    }

    /// An address as people read it: where in which file.
    pub(super) fn describe(&mut self, tid: i32, address: u64) -> String {
        let file = self.find(tid, address).and_then(|mapping| {
            Some(format!("{}+{:#x}", mapping.file()?.display(), mapping.file_offset(address)?))
        });
        file.unwrap_or_else(|| format!("{address:#x}"))
    }

    /// Whether the mapping of `address` can be read.
    fn is_readable(&mut self, tid: i32, address: u64) -> bool {
        self.find(tid, address).is_some_and(|mapping| mapping.perms.contains(Permissions::READ))
    }

    /// Whether a store to `address` would succeed: its mapping can be written, or the stack grows there.
    fn is_writable(&mut self, tid: i32, address: u64) -> bool {
        match self.find(tid, address) {
            Some(mapping) => mapping.perms.contains(Permissions::WRITE),
            None => self.0.as_deref().is_some_and(|maps| grows_to(maps, address)),
        }
    }
}

/// Whether `address` is below the stack, and near enough.
fn grows_to(maps: &[Mapping], address: u64) -> bool {
    const LIMIT: u64 = 8 << 20;
    let above = maps.iter().find(|mapping| mapping.start > address);
    above.is_some_and(|mapping| {
        mapping.path.as_deref().is_some_and(|path| path == Path::new("[stack]"))
            && mapping.end - address <= LIMIT
    })
}

/// Reads what the thread would read; keeps what it would write.
pub(super) struct Overlay<'a> {
    tid: i32,
    maps: &'a mut Maps,
    writes: Vec<(u64, Vec<u8>)>,
    /// Whether the thread could have read what nobody else can.
    pub(super) unreadable: bool,
}

impl<'a> Overlay<'a> {
    pub(super) fn new(tid: i32, maps: &'a mut Maps) -> Overlay<'a> {
        Overlay { tid, maps, writes: Vec::new(), unreadable: false }
    }

    /// The stores, each with the bytes that stay after all later ones.
    pub(super) fn into_writes(self) -> Vec<(u64, Vec<u8>)> {
        let mut writes = self.writes;
        for index in (1..writes.len()).rev() {
            let (earlier, later) = writes.split_at_mut(index);
            let (address, bytes) = &later[0];
            for (start, target) in earlier {
                lay_over(*start, target, *address, bytes);
            }
        }
        writes
    }

    fn check_writable(&mut self, address: u64, length: usize) -> Result<(), MemoryFault> {
        const PAGE: u64 = 4096;
        let last = address.wrapping_add(length as u64).wrapping_sub(1);
        // The first byte at fault is the first one, or the first of the last page.
        for address in [address, address.max(last & !(PAGE - 1))] {
            if !self.maps.is_writable(self.tid, address) {
                let present = false;
                return Err(MemoryFault { address, access: Access::Write, present, protection_key: false });
            }
        }
        Ok(())
    }
}

/// Copies the bytes at `address` into the part of `target`, which lies at `start`, that they overlap.
pub(super) fn lay_over(start: u64, target: &mut [u8], address: u64, bytes: &[u8]) {
    for (offset, byte) in bytes.iter().enumerate() {
        let index = address.wrapping_add(offset as u64).wrapping_sub(start);
        if let Some(place) = usize::try_from(index).ok().and_then(|index| target.get_mut(index)) {
            *place = *byte;
        }
    }
}

impl UserMemory for Overlay<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        let done = read_up_to(self.tid, address, bytes);
        if done < bytes.len() && self.maps.is_readable(self.tid, address.wrapping_add(done as u64)) {
            // The pages that the kernel shares with the vDSO, and those of devices.
            self.unreadable = true;
        }
        if done < bytes.len() {
            let missing = address.wrapping_add(done as u64);
            if !self.maps.is_writable(self.tid, missing) {
                return Err(MemoryFault { address: missing, access, present: false, protection_key: false });
            }
            bytes[done..].fill(0);
        }
        if access == Access::Write {
            self.check_writable(address, bytes.len())?;
        }
        for (start, written) in &self.writes {
            lay_over(address, bytes, *start, written);
        }
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.check_writable(address, bytes.len())?;
        self.writes.push((address, bytes.to_vec()));
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
