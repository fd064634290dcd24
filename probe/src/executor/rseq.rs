//! Restartable sequences (rseq(2)): code that the kernel leaves for an abort handler when its thread was preempted
//! in it. Every stop for a tracer is a preemption, so a thread never gets through one that has a breakpoint.

use std::fs::File;
use std::ops::Range;

use nix::errno::Errno;

use crate::executor::ptrace::stopped::Stopped;
use crate::executor::space::{Origin, Space};
use crate::symbols::elf;
use crate::target::mapped;
use crate::target::maps::{self, Mapping, Maps};

/// The sequences of an address space that are known: those that objects list, and those in which a thread was met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequences {
    /// The mappings whose files have been looked at, and what they list.
    listed: Vec<(Mapping, Vec<Range<u64>>)>,
    met: Vec<(Range<u64>, Origin)>,
}

impl Sequences {
    /// Looks for what the file of `mapping`, one of `maps`, lists, unless that has been done.
    pub(crate) fn look_at(&mut self, maps: &Maps, mapping: &Mapping) {
        if mapping.file().is_none() || self.listed.iter().any(|(known, _)| known == mapping) {
            return;
        }
        // Where the file cannot be had, a thread that is met in one will tell.
        let file = mapped::open(maps, mapping).ok();
        let listed = file.map(|file| in_mapping(&file, mapping)).unwrap_or_default();
        self.listed.push((mapping.clone(), listed));
    }

    /// Whether a thread that is stopped at `address`, before an instruction of `length` bytes, or behind it, is in
    /// one: the instruction before a sequence is the one that announces it.
    pub(crate) fn meet(&self, address: u64, length: usize) -> bool {
        let next = address.wrapping_add(length as u64);
        let listed = self.listed.iter().flat_map(|(_, listed)| listed);
        let mut known = listed.chain(self.met.iter().map(|(sequence, _)| sequence));
        known.any(|sequence| sequence.contains(&address) || sequence.start == next)
    }

    /// Remembers one in which a thread was met.
    pub(crate) fn add(&mut self, sequence: Range<u64>, maps: &[Mapping]) {
        if let Some(mapping) = maps::find(maps, sequence.start)
            && !self.met.iter().any(|(known, _)| *known == sequence)
        {
            self.met.push((sequence, Origin::of(mapping)));
        }
    }

    /// Forgets those whose mapping is gone or is another's now.
    pub(crate) fn forget_unmapped(&mut self, maps: &[Mapping]) {
        self.listed.retain(|(mapping, _)| maps::find(maps, mapping.start) == Some(mapping));
        self.met.retain(|(sequence, known)| {
            maps::find(maps, sequence.start).is_some_and(|mapping| Origin::of(mapping) == *known)
        });
    }
}

/// The sequences that `file` lists and that lie in `mapping`, which maps it.
fn in_mapping(file: &File, mapping: &Mapping) -> Vec<Range<u64>> {
    let listed = elf::sequences(file).into_iter();
    let placed = listed.filter_map(|sequence| {
        let start = mapping.address_of(sequence.start)?;
        Some(start..start.checked_add(sequence.end.checked_sub(sequence.start)?)?)
    });
    placed.collect()
}

/// Whether a thread that is stopped at `rip` is at the start of an abort handler.
///
/// # Errors
/// The kernel does not say, as before Linux 5.13.
pub(crate) fn is_handler(thread: &Stopped, space: &Space, rip: u64) -> nix::Result<bool> {
    let Some(rseq) = thread.rseq()? else { return Ok(false) };
    let mut signature = [0; 4];
    let read = space.read_raw(rip.wrapping_sub(signature.len() as u64), &mut signature);
    Ok(read.is_ok_and(|read| read == signature.len()) && u32::from_le_bytes(signature) == rseq.signature)
}

/// The sequence that a thread has announced that it is in, whether it is there or not; `None`
/// where there is none.
///
/// # Errors
/// The kernel does not say, as before Linux 5.13.
pub(crate) fn announced(thread: &Stopped, space: &Space) -> nix::Result<Option<Range<u64>>> {
    /// In `struct rseq_cs`: where the sequence starts, and how long it is.
    const START: u64 = 8;
    let Some(rseq) = thread.rseq()? else { return Ok(None) };
    // What cannot be read is nothing that the kernel could act on.
    let words = |address: u64| {
        let mut words = [[0; 8]; 2];
        let bytes = words.as_flattened_mut();
        space.read_raw(address, bytes).ok().filter(|&read| read == bytes.len())?;
        Some(words.map(u64::from_le_bytes))
    };
    let Some([description, _]) = words(rseq.announcement().start).filter(|words| words[0] != 0) else {
        return Ok(None);
    };
    let Some([start, length]) = words(description.wrapping_add(START)) else { return Ok(None) };
    Ok(start.checked_add(length).map(|end| start..end))
}

/// Whether it is to be found out at the hit of that number at a site, from 1 on.
///
/// It costs as much as a fifth of a hit. Code that is in a sequence is, other than by accident, always executed as
/// one, so the first hit tells; and what happens again and again, as an abort that is retried, is found later.
pub(crate) fn is_due(hit: u32) -> bool {
    const SELDOM: u32 = 256;
    hit == 1 || hit.is_multiple_of(SELDOM)
}

/// Whether a failure says that the kernel does not know the request, so that it need not be told.
pub(crate) fn is_unknown(error: Errno) -> bool {
    matches!(error, Errno::EIO | Errno::EINVAL | Errno::ENOSYS)
}
