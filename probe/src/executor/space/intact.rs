//! Whether breakpoints and the text around them are still what they were. A program can change its text without
//! anybody noticing: through a mapping that it can write, or could, and by having a page thrown away.

use std::fs::File;
use std::os::unix::fs::FileExt;

use emu::Displaced;

use crate::executor::space::{Breakpoint, INT3, LONGEST, Origin, Original, Space};
use crate::target::mapped;
use crate::target::maps::{self, Mapping, Maps, Permissions};
use crate::target::pages::PAGE;

/// What has become of a breakpoint that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The instruction is there as it was, and the breakpoint is again.
    Restored,
    /// There is another one, and no breakpoint.
    Lost,
    /// It went with its mapping, or it is there after all.
    Gone,
}

impl Space {
    /// Whether the program may change the instruction of `length` bytes at `address`, which `mapping`, one of `maps`,
    /// holds, without our knowing: it can write to it, or it has been written to.
    pub(super) fn may_change(&mut self, address: u64, length: usize, maps: &Maps, mapping: &Mapping) -> bool {
        if !is_steady(mapping) {
            return true;
        }
        let last = address.saturating_add(length as u64).saturating_sub(1);
        let other = (last / PAGE != address / PAGE).then_some(last);
        std::iter::once(address).chain(other).any(|address| self.was_written(address, maps, mapping))
    }

    /// Whether the page of `address`, in a private mapping of a file, has been written to by another than us.
    fn was_written(&mut self, address: u64, maps: &Maps, mapping: &Mapping) -> bool {
        let page = address & !(PAGE - 1);
        let end = page.saturating_add(PAGE);
        // Our own breakpoints make a page a copy, too: so what was found before the first of them counts.
        let here = self.within(page..end).next().map(|(_, breakpoint)| breakpoint.changing);
        let before = || self.removed.range(page..end).next().map(|(_, removed)| removed.changing);
        match here.or_else(before) {
            Some(changing) => changing,
            // Those of an earlier session have left it as the file has it.
            None => self.pages.is_own(address) && !self.is_as_in_file(page, maps, mapping),
        }
    }

    /// Whether nothing says that the page of `address`, in a private mapping of a file, has been written to by another
    /// than us.
    pub(crate) fn is_pristine(&self, address: u64) -> bool {
        let page = address & !(PAGE - 1);
        let end = page.saturating_add(PAGE);
        let here = self.within(page..end).next().map(|(_, breakpoint)| breakpoint.changing);
        let before = || self.removed.range(page..end).next().map(|(_, removed)| removed.changing);
        here.or_else(before).map_or_else(|| !self.pages.is_own(address), |changing| !changing)
    }

    /// Whether the INT3 at `address`, which is none of ours, is not the file's either.
    pub(super) fn is_anothers(&mut self, address: u64, maps: &Maps, mapping: &Mapping) -> bool {
        let mut byte = [INT3];
        let Some(offset) = mapping.file_offset(address) else { return false };
        let read = self.file_of(maps, mapping).map(|file| file.read_at(&mut byte, offset));
        matches!(read, Some(Ok(1))) && byte != [INT3]
    }

    /// The file that is mapped there.
    fn file_of(&mut self, maps: &Maps, mapping: &Mapping) -> Option<&File> {
        if self.text.as_ref().is_none_or(|(known, _)| known != mapping) {
            self.text = Some((mapping.clone(), mapped::open(maps, mapping).ok()));
        }
        self.text.as_ref()?.1.as_ref()
    }

    fn is_as_in_file(&mut self, page: u64, maps: &Maps, mapping: &Mapping) -> bool {
        let (mut wanted, mut found) = ([0; PAGE as usize], [0; PAGE as usize]);
        let Some(file) = self.file_of(maps, mapping) else { return false };
        let Some(offset) = mapping.file_offset(page) else { return false };
        // Behind the end of the file there is nothing but zeros.
        let read = file.read_at(&mut wanted, offset);
        read.is_ok()
            && self.read_raw(page, &mut found).is_ok_and(|read| read == found.len())
            && wanted == found
    }

    /// Looks anew at the breakpoints of those mappings that have changed since the last look though they map the same:
    /// the kernel splits a mapping of which a part could be written for a while, and shows no other trace. The
    /// breakpoints of what cannot be probed any more are added to `lost`.
    pub(crate) fn look_anew(&mut self, maps: &[Mapping], lost: &mut Vec<u64>) {
        let now = executable(maps);
        let changed: Vec<u64> = now
            .iter()
            .filter(|mapping| maps::find(&self.watched, mapping.start) != Some(mapping))
            .flat_map(|mapping| {
                let within = self.within(mapping.start..mapping.end);
                within.filter(|&(site, breakpoint)| self.has_changed(site, breakpoint, mapping))
            })
            .map(|(site, _)| site)
            .collect();
        self.watched = now;
        for site in changed {
            if let Some(breakpoint) = self.breakpoints.get_mut(&site) {
                breakpoint.changing = true;
            }
            self.reread(site, lost);
        }
    }

    /// Whether another mapping of the same was at `site` at the last look.
    fn has_changed(&self, site: u64, breakpoint: &Breakpoint, mapping: &Mapping) -> bool {
        let before = maps::find(&self.watched, site);
        *breakpoint.origin == Origin::of(mapping)
            && before.is_some_and(|before| before != mapping && *breakpoint.origin == Origin::of(before))
    }

    /// Looks at breakpoints from address `from` on, as many as a few reads show, and adds those that are not there to
    /// `missing`. Returns where to go on.
    pub(crate) fn look_for_missing(&self, from: u64, missing: &mut Vec<u64>) -> Option<u64> {
        /// Together some 20 microseconds.
        const READS: usize = 8;
        const SPAN: usize = 4 * PAGE as usize;
        let mut buffer = [0; SPAN];
        let mut next = Some(from);
        for _ in 0..READS {
            let first = self.within(next?..u64::MAX).next().map(|(site, _)| site);
            // As far as there are breakpoints on every page.
            let (mut last, mut behind) = (first?, None);
            for (site, _) in self.within(last..u64::MAX) {
                if site / PAGE > last / PAGE + 1 || site - first? >= SPAN as u64 {
                    behind = Some(site);
                    break;
                }
                last = site;
            }
            let length = usize::try_from(last - first?).map_or(SPAN, |distance| (distance + 1).min(SPAN));
            self.compare(first?, buffer.get_mut(..length)?, missing);
            next = behind;
        }
        next
    }

    /// Adds those breakpoints to `missing` that lie where `buffer` can be filled from, at `start`, and are not there.
    fn compare(&self, start: u64, buffer: &mut [u8], missing: &mut Vec<u64>) {
        // What cannot be read has no breakpoints to miss.
        let read = self.read_raw(start, buffer).unwrap_or(0);
        for (site, _) in self.within(start..start.saturating_add(buffer.len() as u64)) {
            let offset = usize::try_from(site - start).unwrap_or(usize::MAX);
            let byte = if offset < read { buffer.get(offset).copied() } else { self.byte(site) };
            if byte.is_some_and(|byte| byte != INT3) {
                missing.push(site);
            }
        }
    }

    /// Sees to the breakpoint at `site`, which was not there. It is placed again where the instruction has come from
    /// its file once more, as after MADV_DONTNEED (madvise(2)).
    pub(crate) fn settle_missing(&mut self, site: u64, maps: &[Mapping]) -> Missing {
        let Some(breakpoint) = self.breakpoints.get(&site) else { return Missing::Gone };
        let Some(mapping) = maps::find(maps, site) else { return Missing::Gone };
        if self.byte(site).is_none_or(|byte| byte == INT3) {
            return Missing::Gone;
        }
        let same_file = mapping.inode != 0 && *breakpoint.origin == Origin::of(mapping);
        let as_before = |(original, now): (Original, Displaced)| {
            original.first() == breakpoint.original().first()
                && breakpoint.displaced(site).is_some_and(|was| was.instruction() == now.instruction())
        };
        if same_file && self.decode(site).is_ok_and(as_before) && self.put(site, INT3) {
            return Missing::Restored;
        }
        self.lift(site);
        Missing::Lost
    }

    /// The instruction behind the breakpoint at `site`, as it is now; `None` where there is no breakpoint any more.
    pub(super) fn displaced_now(&mut self, site: u64, lost: &mut Vec<u64>) -> Option<Displaced> {
        if self.site(site)?.changing {
            match self.breakpoint(site) {
                Some(_) => self.reread(site, lost),
                None => self.reread_watched(site, lost),
            }
        }
        self.site(site)?.displaced(site).copied()
    }

    /// Decodes the instruction at `site` anew, for the program may have changed it. Where it cannot be probed any more,
    /// or the breakpoint has been overwritten, that is given up, and `site` is added to `lost`.
    pub(crate) fn reread(&mut self, site: u64, lost: &mut Vec<u64>) {
        let mut buffer = [0; LONGEST];
        let read = self.read_raw(site, &mut buffer).unwrap_or(0);
        let bytes = buffer.get_mut(..read).unwrap_or_default();
        let is_there = bytes.first() == Some(&INT3);
        self.unmask(site, bytes);
        match Original::decode(bytes, site) {
            Ok((original, displaced)) if is_there => {
                if let Some(breakpoint) = self.breakpoints.get_mut(&site) {
                    breakpoint.displace(original, displaced);
                }
            }
            Ok(_) | Err(_) => {
                self.lift(site);
                lost.push(site);
            }
        }
    }
}

/// Whether nobody can write to a mapping without our knowing.
pub(crate) fn is_steady(mapping: &Mapping) -> bool {
    !mapping.perms.contains(Permissions::WRITE) && (mapping.inode != 0 || mapping.is_vdso())
}

/// Those mappings in which code can run.
pub(super) fn executable(maps: &[Mapping]) -> Vec<Mapping> {
    maps.iter().filter(|mapping| mapping.is_executable()).cloned().collect()
}
