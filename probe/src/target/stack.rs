//! Where the stack of a thread is.

use std::ops::Range;
use std::path::Path;

use crate::target::maps::{self, Mapping};

/// The stack that thread `tid` of process `pid` was made with, its guard left out: the process's own for the first
/// thread, and for others what lies below the thread's control block, which C libraries put at the upper end of the
/// stack. Empty where that cannot be told.
pub(crate) fn of_thread(pid: i32, tid: i32, fs_base: u64) -> Range<u64> {
    maps::read(tid).map(|maps| within(&maps, pid == tid, fs_base)).unwrap_or_default()
}

fn within(maps: &[Mapping], first: bool, fs_base: u64) -> Range<u64> {
    let found = if first {
        let own = maps.iter().position(|mapping| mapping.path.as_deref() == Some(Path::new("[stack]")));
        // It grows.
        own.map(|index| {
            let below = index.checked_sub(1).and_then(|below| maps.get(below));
            below.map_or(0, |below| below.end)..maps.get(index).map_or(0, |own| own.end)
        })
    } else {
        maps::find(maps, fs_base).map(|mapping| mapping.start..fs_base)
    };
    found.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_are_found() {
        let text = b"1000-2000 r-xp 00000000 fe:01 18 /a\n7f00-9f00 rw-p 00000000 00:00 0 \n\
            fff000-fff800 rw-p 00000000 00:00 0 [stack]\n";
        let maps = maps::parse(text).unwrap();
        assert_eq!(within(&maps, true, 0x9000), 0x9f00..0xfff800);
        assert_eq!(within(&maps, false, 0x9000), 0x7f00..0x9000);
        assert_eq!(within(&maps, false, 0xa000), 0..0);
        assert_eq!(within(&maps[..2], true, 0x9000), 0..0);
    }
}
