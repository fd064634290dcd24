//! `/proc/PID/pagemap`: what is behind each page (proc_pid_pagemap(5)).

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

pub(crate) const PAGE: u64 = 4096;

/// The pages of an address space. Where the kernel does not show them, none is known.
#[derive(Debug)]
pub(crate) struct Pages(Option<File>);

impl Pages {
    /// Those of thread `tid`.
    pub(crate) fn open(tid: i32) -> Pages {
        Pages(File::open(format!("/proc/{tid}/pagemap")).ok())
    }

    /// The entry of the page that `address` is in; zero where there is no page, or none is known.
    fn entry(&self, address: u64) -> u64 {
        let mut entry = [0; ENTRY];
        let place = address / PAGE * entry.len() as u64;
        let read = self.0.as_ref().is_some_and(|pages| pages.read_exact_at(&mut entry, place).is_ok());
        if read { u64::from_le_bytes(entry) } else { 0 }
    }

    /// Whether a page is there for `address`, so that looking at it changes nothing; false if that cannot be told.
    pub(crate) fn is_present(&self, address: u64) -> bool {
        self.entry(address) & PRESENT != 0
    }

    /// The addresses of the pages in `range` that belong to the process alone.
    pub(crate) fn own_in(&self, range: Range<u64>) -> Vec<u64> {
        const AT_A_TIME: usize = 4096;
        let mut own = Vec::new();
        let Some(pages) = &self.0 else { return own };
        let mut entries = vec![0; AT_A_TIME * ENTRY];
        let mut page = range.start / PAGE;
        let end = range.end / PAGE;
        while page < end {
            let wanted = usize::try_from(end - page).map_or(AT_A_TIME, |left| left.min(AT_A_TIME));
            let Some(entries) = entries.get_mut(..wanted * ENTRY) else { break };
            if pages.read_exact_at(entries, page * ENTRY as u64).is_err() {
                break;
            }
            let (entries, _) = entries.as_chunks::<ENTRY>();
            let numbered = (page..).zip(entries);
            own.extend(
                numbered
                    .filter(|(_, entry)| is_own(u64::from_le_bytes(**entry)))
                    .map(|(page, _)| page * PAGE),
            );
            page += wanted as u64;
        }
        own
    }

    /// Whether the page belongs to the process alone: it has no file, or it is a copy of a file's page that a write
    /// has made, which may have been a tracer's.
    pub(crate) fn is_own(&self, address: u64) -> bool {
        is_own(self.entry(address))
    }
}

fn is_own(entry: u64) -> bool {
    entry & (PRESENT | SWAPPED) != 0 && entry & OF_FILE == 0
}

/// How long an entry is, in bytes.
const ENTRY: usize = 8;

const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Or of shared memory. Since Linux 4.2 anybody who may open the file is told.
const OF_FILE: u64 = 1 << 61;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_files_are_told_from_others() {
        let pages = Pages::open(i32::try_from(std::process::id()).unwrap());
        let text = Pages::open as *const () as u64;
        let heap = vec![1u8; 64].leak();
        let heap = heap.as_ptr() as u64;
        assert!(pages.is_present(text) && pages.is_present(heap) && !pages.is_present(8));
        assert!(!pages.is_own(text));
        assert!(pages.is_own(heap));
        assert!(!pages.is_own(8));
        let page = heap / PAGE * PAGE;
        assert_eq!(pages.own_in(page..page + PAGE), [page]);
        assert!(pages.own_in(text / PAGE * PAGE..text / PAGE * PAGE + PAGE).is_empty());
        assert!(pages.own_in(0..2 * PAGE).is_empty() && Pages(None).own_in(page..page + PAGE).is_empty());
        assert!(!Pages(None).is_own(heap) && !Pages(None).is_present(heap));
    }
}
