//! Text, read a page at a time where many of its bytes are looked at.

use std::io;

use crate::executor::space::{LONGEST, Space};
use crate::target::pages::PAGE;

/// As long as the instruction that begins with a page's last byte needs.
const LENGTH: usize = PAGE as usize + LONGEST - 1;

/// A page of an address space as it is in memory, as of when it was looked at first.
pub(super) struct Window {
    /// The page's address, and how much of it and what follows could be read.
    page: Option<(u64, usize)>,
    bytes: Box<[u8; LENGTH]>,
}

impl Window {
    pub(super) fn new() -> Window {
        Window { page: None, bytes: Box::new([0; LENGTH]) }
    }

    /// What is at `address` and behind it, as far as it is in the window; empty where it cannot be read.
    pub(super) fn from(&mut self, space: &Space, address: u64) -> &[u8] {
        let page = address & !(PAGE - 1);
        let read = match self.page {
            Some((known, read)) if known == page => read,
            _ => {
                let read = space.read_raw(page, self.bytes.as_mut_slice()).unwrap_or(0);
                self.page = Some((page, read));
                read
            }
        };
        let offset = usize::try_from(address - page).unwrap_or(usize::MAX);
        self.bytes.get(offset..read).unwrap_or_default()
    }

    /// The byte at `address`, INT3 included.
    pub(super) fn byte(&mut self, space: &Space, address: u64) -> Option<u8> {
        self.from(space, address).first().copied()
    }

    /// As [`Space::code_at`].
    pub(super) fn code_at(&mut self, space: &Space, address: u64) -> io::Result<([u8; LONGEST], usize)> {
        let mut buffer = [0; LONGEST];
        let there = self.from(space, address);
        if there.is_empty() {
            // Which says why.
            return space.code_at(address);
        }
        let length = buffer.iter_mut().zip(there).map(|(byte, &there)| *byte = there).count();
        space.unmask(address, buffer.get_mut(..length).unwrap_or_default());
        Ok((buffer, length))
    }
}
