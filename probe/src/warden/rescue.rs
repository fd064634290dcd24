//! What a client can do for a target whose warden was killed: its breakpoints are still there, and nobody serves them.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;

use crate::target::INT3;
use crate::target::mapped;
use crate::target::maps::{Mapping, Maps};

/// Takes breakpoints out of the text of process `pid`: wherever that has an INT3 and its file has not. Returns how many
/// there were.
///
/// # Errors
/// The process is gone, or its memory is not for us to write.
pub(crate) fn rescue(pid: i32) -> io::Result<u64> {
    let maps = Maps::read(pid)?;
    let memory = OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let mut found = 0;
    for mapping in maps.iter().filter(|mapping| mapping.is_executable() && mapping.file().is_some()) {
        // Where its file cannot be had, or it has just been unmapped, others can be helped.
        found += restore(&maps, mapping, &memory).unwrap_or(0);
    }
    Ok(found)
}

fn restore(maps: &Maps, mapping: &Mapping, memory: &std::fs::File) -> io::Result<u64> {
    /// Read at once.
    const CHUNK: u64 = 1 << 16;
    let file = mapped::open(maps, mapping).map_err(|_| io::ErrorKind::NotFound)?;
    let (mut now, mut original) = (vec![0; CHUNK as usize], vec![0; CHUNK as usize]);
    let mut found = 0;
    let mut address = mapping.start;
    while address < mapping.end {
        let Some(offset) = mapping.file_offset(address) else { break };
        let wanted = (mapping.end - address).min(CHUNK) as usize;
        let there = memory.read_at(now.get_mut(..wanted).unwrap_or_default(), address)?;
        let same = file.read_at(original.get_mut(..wanted).unwrap_or_default(), offset)?;
        let pairs = now.iter().zip(&original).zip(address..).take(there.min(same));
        for ((_, &byte), address) in pairs.filter(|((now, byte), _)| **now == INT3 && **byte != INT3) {
            memory.write_all_at(&[byte], address)?;
            found += 1;
        }
        if there == 0 {
            break;
        }
        address += there as u64;
    }
    Ok(found)
}
