//! Text that the program has copied or moved with our breakpoints in it, as programs do to get huge pages for it.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use iced_x86::Code;

use crate::executor::space::window::Window;
use crate::executor::space::{INT3, LONGEST, Origin, Original, Removed, Space};
use crate::target::lock;
use crate::target::maps::{self, Mapping};
use crate::target::pages::PAGE;

/// How much text around a breakpoint is compared, in bytes: before it, and from its first byte on.
const BEFORE: usize = 32;
const BEHIND: usize = 48;

/// What was once behind an INT3 that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The byte that belongs there.
    pub(crate) original: u8,
    /// The address of the breakpoint that was copied.
    pub(crate) of: u64,
}

impl Space {
    /// Forgets the breakpoints whose mapping is gone or is another's now: their bytes went with it. Not those that the
    /// program has taken along into a copy at the same address: the addresses of those with probes are returned. Where
    /// it has moved the mapping of a file elsewhere, the original bytes are put back.
    pub(crate) fn forget_unmapped(&mut self, maps: &[Mapping]) -> Vec<u64> {
        self.unwatch_unmapped(maps);
        let stays = |address: u64, known: &Origin| {
            maps::find(maps, address).is_some_and(|mapping| *known == Origin::of(mapping))
        };
        let strayed = self.breakpoints.iter().filter(|&(&site, breakpoint)| !stays(site, &breakpoint.origin));
        let strayed: Vec<u64> = strayed.map(|(&site, _)| site).collect();
        let (copied, gone): (Vec<u64>, Vec<u64>) =
            strayed.into_iter().partition(|&site| self.adopt(site, maps));
        let mut former: Vec<(u64, Removed)> =
            self.removed.extract_if(.., |&site, removed| !stays(site, &removed.origin)).collect();
        for site in gone {
            former.extend(self.breakpoints.remove(&site).map(|breakpoint| (site, Removed::of(&breakpoint))));
        }
        self.recover_moved(&former, maps);
        /// So that a program that maps and unmaps all day does not fill our memory.
        const MOST: usize = 1 << 16;
        if self.former.len() + former.len() > MOST {
            self.former.clear();
        }
        self.former.extend(former.into_iter().take(MOST));
        self.origins.retain(|origin| Arc::strong_count(origin) > 1);
        self.sequences.forget_unmapped(maps);
        self.forget_counters(maps);
        self.text = None;
        // What was not found may be there now.
        self.loans = Mutex::default();
        self.catalogue = Mutex::default();
        lock(&self.sharing).forget();
        let is_probed = |site: &u64| self.breakpoint(*site).is_some_and(|here| !here.probes.is_empty());
        copied.into_iter().filter(is_probed).collect()
    }

    /// Keeps the breakpoint at `site`, whose mapping is another now, if that holds a copy of the text.
    fn adopt(&mut self, site: u64, maps: &[Mapping]) -> bool {
        let Some(mapping) = maps::find(maps, site) else { return false };
        let Some(breakpoint) = self.breakpoints.get(&site) else { return false };
        let known = Removed::of(breakpoint);
        if !self.pages.is_own(site) || !self.is_instruction(site, &known) {
            return false;
        }
        let origin = self.origin(mapping);
        if let Some(breakpoint) = self.breakpoints.get_mut(&site) {
            breakpoint.origin = origin;
            (breakpoint.changing, breakpoint.in_copy) = (true, true);
        }
        true
    }

    /// Whether there is an INT3 at `address`, and the rest of an instruction as it was behind `known`.
    fn is_instruction(&self, address: u64, known: &Removed) -> bool {
        let mut bytes = [0; LONGEST];
        let read = self.read_raw(address, &mut bytes).unwrap_or(0);
        self.decode_copy(address, bytes.get(..read).unwrap_or_default(), known.original) == Some(known.kind())
    }

    /// What the bytes at `address`, which begin with an INT3, are if that replaces `original`.
    fn decode_copy(&self, address: u64, bytes: &[u8], original: u8) -> Option<(Code, u8)> {
        let mut bytes = bytes.to_vec();
        let first = bytes.first_mut().filter(|first| **first == INT3)?;
        *first = original;
        self.unmask(address, &mut bytes);
        let (original, _) = Original::decode(&bytes, address).ok()?;
        Some(original.kind())
    }

    /// Puts the original bytes back where the mapping of a file has been moved to with the breakpoints `former` in it.
    fn recover_moved(&mut self, former: &[(u64, Removed)], maps: &[Mapping]) {
        let mut files: HashMap<((u32, u32), u64), Vec<&Mapping>> = HashMap::new();
        for mapping in maps.iter().filter(|mapping| mapping.is_executable() && mapping.inode != 0) {
            files.entry((mapping.dev, mapping.inode)).or_default().push(mapping);
        }
        for (site, removed) in former {
            let Some(offset) = removed.origin.file_offset(*site) else { continue };
            let file = (removed.origin.dev, removed.origin.inode);
            for mapping in files.get(&file).into_iter().flatten() {
                if let Some(address) = mapping.address_of(offset)
                    && address != *site
                    && !self.breakpoints.contains_key(&address)
                    && self.pages.is_own(address)
                    && self.is_instruction(address, removed)
                {
                    self.lift_copy(address, removed.original, mapping);
                }
            }
        }
    }

    /// Replaces the INT3 at `address`, which is a copy of one of ours, by the byte that belongs there.
    pub(crate) fn lift_copy(&mut self, address: u64, original: u8, mapping: &Mapping) -> bool {
        // Other threads may have trapped on it.
        let removed = Removed::of_copy(original, self.origin(mapping));
        self.removed.insert(address, removed);
        self.put(address, original)
    }

    /// Whether the INT3 at `address`, where no breakpoint is known, is a copy of one of ours, and of which: the same
    /// instruction, and the same text around it. `own` says that the program may well have INT3s of its own, so that
    /// more of the text must be the same.
    pub(crate) fn copied_to(&self, address: u64, own: bool) -> Option<Copied> {
        /// Of so many breakpoints the text is looked at.
        const MOST: usize = 4096;
        let mut bytes = [0; LONGEST];
        let read = self.read_raw(address, &mut bytes).ok()?;
        let bytes = bytes.get(..read).filter(|bytes| bytes.first() == Some(&INT3))?;
        let mut decoded: HashMap<u8, Option<(Code, u8)>> = HashMap::new();
        let mut fits = |removed: &Removed| {
            let now = decoded
                .entry(removed.original)
                .or_insert_with(|| self.decode_copy(address, bytes, removed.original));
            *now == Some(removed.kind())
        };
        // What was here, or moved with its page, and has left no text to compare.
        let of = |(&of, removed): (&u64, &Removed)| Copied { original: removed.original, of };
        let here = [&self.removed, &self.former].into_iter().find_map(|all| all.get_key_value(&address));
        if let Some(found) = here.filter(|(_, removed)| fits(removed)) {
            return Some(of(found));
        }
        let live = self.breakpoints.iter().map(|(&site, breakpoint)| (site, Removed::of(breakpoint)));
        let live = live.chain(self.removed.iter().map(|(&site, removed)| (site, removed.clone())));
        let mut likely: Vec<(u64, Removed)> = live.filter(|(_, removed)| fits(removed)).collect();
        likely.sort_by_key(|&(site, _)| site % PAGE != address % PAGE);
        let here = self.around(address);
        let needed = if own { 32 } else { 12 };
        let likeness =
            |(site, removed): &(u64, Removed)| (alike(&here, &self.around(*site)), *site, removed.original);
        let best = likely.iter().take(MOST).map(likeness).max_by_key(|&(alike, ..)| alike);
        if let Some((alike, of, original)) = best
            && alike >= needed
        {
            return Some(Copied { original, of });
        }
        let mut moved = self.former.iter().filter(|&(site, _)| site % PAGE == address % PAGE);
        moved.find(|(_, removed)| fits(removed)).map(of)
    }

    /// Looks for copies of breakpoints, which are all taken out by now, in memory that has no file, and puts the original
    /// bytes back there: nobody would when a thread comes to them. Returns where they were.
    pub(crate) fn lift_copies(&mut self, maps: &[Mapping]) -> Vec<(u64, Copied)> {
        /// So many pairs of a breakpoint and what may be its copy are compared, which takes a moment.
        const MOST: usize = 1 << 22;
        let is_candidate = |mapping: &&Mapping| mapping.is_executable() && mapping.inode == 0;
        let pages = maps
            .iter()
            .filter(is_candidate)
            .flat_map(|mapping| self.pages.own_in(mapping.start..mapping.end));
        let pages: Vec<u64> = pages.collect();
        if pages.is_empty() || self.removed.is_empty() {
            return Vec::new();
        }
        let tails = self.tails();
        let mut window = Window::new();
        let likely = pages.into_iter().flat_map(|page| {
            let text = window.from(self, page);
            let likely = |&offset: &usize| {
                text.get(offset) == Some(&INT3)
                    && text
                        .get(offset + 1..)
                        .is_some_and(|behind| tails.iter().any(|tail| behind.starts_with(tail)))
            };
            let found: Vec<u64> = (0..text.len().min(PAGE as usize))
                .filter(likely)
                .map(|offset| page + offset as u64)
                .collect();
            found
        });
        let likely: Vec<u64> = likely.take(MOST / self.removed.len().max(1)).collect();
        let copies: Vec<(u64, Copied)> = likely
            .into_iter()
            .filter(|address| !self.removed.contains_key(address))
            .filter_map(|address| Some((address, self.copied_to(address, true)?)))
            .collect();
        let lifted = copies.into_iter().filter(|&(address, Copied { original, .. })| {
            maps::find(maps, address).is_some_and(|mapping| self.lift_copy(address, original, mapping))
        });
        lifted.collect()
    }

    /// What comes behind the first byte of the instructions at which there have been breakpoints, each once; of those
    /// with the same beginning the shortest.
    fn tails(&self) -> Vec<Vec<u8>> {
        let mut window = Window::new();
        let tails = self.removed.iter().filter_map(|(&site, removed)| {
            let length = usize::from(removed.kind().1);
            window.from(self, site).get(1..length).map(<[u8]>::to_vec)
        });
        let mut tails: Vec<Vec<u8>> = tails.collect();
        tails.sort_unstable();
        tails.dedup_by(|tail, shorter| tail.starts_with(shorter));
        tails
    }

    /// The text around `address`, as far as it can be read, as it is in memory.
    fn around(&self, address: u64) -> Around {
        let mut around = Around { bytes: [0; BEFORE + BEHIND], readable: BEFORE..BEFORE };
        let start = address.saturating_sub(BEFORE as u64);
        if let Some(behind) = around.bytes.get_mut(BEFORE..) {
            around.readable.end += self.read_raw(address, behind).unwrap_or(0);
        }
        if let Some(before) = around.bytes.get_mut(..BEFORE)
            && self.read_raw(start, before).is_ok_and(|read| read == before.len())
        {
            around.readable.start = 0;
        }
        around
    }
}

/// Text around an address, which is at `BEFORE`.
struct Around {
    bytes: [u8; BEFORE + BEHIND],
    readable: Range<usize>,
}

impl Around {
    fn byte(&self, index: usize) -> Option<u8> {
        self.bytes.get(index).copied().filter(|_| self.readable.contains(&index))
    }
}

/// How many bytes on both sides of the middle, without a gap, are the same in both. Either may have breakpoints that the
/// other has not: these are no gap, and do not count.
fn alike(one: &Around, other: &Around) -> usize {
    let same = |&index: &usize| match (one.byte(index), other.byte(index)) {
        (Some(one), Some(other)) => one == other || one == INT3 || other == INT3,
        _ => false,
    };
    let counts = |&index: &usize| one.byte(index) == other.byte(index) && one.byte(index) != Some(INT3);
    let before = (0..BEFORE).rev().take_while(same).filter(counts).count();
    before + (BEFORE + 1..BEFORE + BEHIND).take_while(same).filter(counts).count()
}
