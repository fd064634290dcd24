//! Code that hits need, so that it cannot be probed: the library's own, and what its handlers of signals call.

#![allow(
    unsafe_code,
    reason = "a function of the C library that its crate does not name, whose address is taken"
)]

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::OnceLock;

use emu::Processor;
use iced_x86::{Decoder, FlowControl, OpKind};

use crate::executor::own::{machine, sites};
use crate::symbols::elf::Elf;
use crate::target::mapped::{self, View};
use crate::target::maps::{self, Mapping, Maps};

unsafe extern "C" {
    fn bcmp(a: *const libc::c_void, b: *const libc::c_void, length: usize) -> libc::c_int;
}

/// Why a process cannot probe a place in itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OwnRefusal {
    /// It is code of this library, or of those that it is made with.
    Library,
    /// Hits need it, such as the C library's memcpy.
    Needed,
    /// A thread needed it while it served a hit, or could not be served there, so that the breakpoint was taken out.
    GivenUp,
    /// It is one of the bytes that another probe has replaced.
    Replaced {
        /// Where that one is.
        site: u64,
    },
    /// The program can write to the text, so that what is there may change under a probe.
    Writable,
    /// The instruction needs tile registers, for which a handler of a signal has no memory.
    Tiles,
    /// The instruction changes the shadow stack, which only the thread itself can.
    ShadowStack,
    /// The instruction enters the kernel in a way that cannot be had elsewhere.
    Sysenter,
}

impl OwnRefusal {
    /// The reason in a few words without values, to count by.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            OwnRefusal::Library => "the library's own code",
            OwnRefusal::Needed => "code that hits need",
            OwnRefusal::GivenUp => "given up before",
            OwnRefusal::Replaced { .. } => "replaced by another probe",
            OwnRefusal::Writable => "writable text",
            OwnRefusal::Tiles => "tile registers",
            OwnRefusal::ShadowStack => "the shadow stack",
            OwnRefusal::Sysenter => "SYSENTER",
        }
    }
}

impl std::fmt::Display for OwnRefusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OwnRefusal::Library => f.write_str("it is code of the library that serves hits"),
            OwnRefusal::Needed => {
                f.write_str("it is code that every hit needs; probe it from another process, by ptrace")
            }
            OwnRefusal::GivenUp => f.write_str("a breakpoint there could not be served, and was taken out"),
            OwnRefusal::Replaced { site } => write!(f, "the probe at {site:#x} has replaced these bytes"),
            OwnRefusal::Writable => {
                f.write_str("the program can write to this text, which may change under the probe")
            }
            OwnRefusal::Tiles => {
                f.write_str("a process cannot serve instructions on tile registers by itself")
            }
            OwnRefusal::ShadowStack => {
                f.write_str("the instruction changes the shadow stack, which only the thread itself can")
            }
            OwnRefusal::Sysenter => f.write_str("SYSENTER cannot be performed elsewhere"),
        }
    }
}

/// What cannot be probed.
#[derive(Debug)]
pub(crate) struct Needed {
    called: Vec<Range<u64>>,
    /// Where the library is.
    own: Option<Mapping>,
    /// What its object says of its functions, once somebody has asked for one of them.
    object: OnceLock<Option<Elf>>,
}

impl Needed {
    /// Finds it out.
    pub(crate) fn find(maps: &Maps) -> Needed {
        let called = [
            libc::memcpy as *const () as u64,
            libc::memmove as *const () as u64,
            libc::memset as *const () as u64,
            libc::memcmp as *const () as u64,
            bcmp as *const () as u64,
            libc::strlen as *const () as u64,
            libc::__errno_location as *const () as u64,
        ];
        let own = maps::find(maps, machine::code().start).cloned();
        Needed { called: reach(called), own, object: OnceLock::new() }
    }

    /// Why the instruction at `address`, which is in `mapping`, one of `maps`, cannot be probed, if so.
    pub(crate) fn refuses(&self, address: u64, mapping: &Mapping, maps: &Maps) -> Option<OwnRefusal> {
        let ours = [machine::code(), machine::slots(), machine::trampolines()];
        if ours.iter().any(|range| range.contains(&address)) {
            return Some(OwnRefusal::Library);
        }
        let after = self.called.partition_point(|range| range.start <= address);
        if self
            .called
            .get(..after)
            .and_then(|ranges| ranges.last())
            .is_some_and(|range| range.contains(&address))
        {
            return Some(OwnRefusal::Needed);
        }
        self.own.as_ref().filter(|own| mapping.is_same_file(own))?;
        let elf = self.object.get_or_init(|| object(maps, mapping)).as_ref()?;
        let virtual_address = elf.address_of_offset(mapping.file_offset(address)?)?;
        let function = elf.function_at(virtual_address)?;
        function.names.iter().any(|name| is_of_library(name)).then_some(OwnRefusal::Library)
    }
}

/// The object that `mapping`, one of `maps`, maps.
fn object(maps: &Maps, mapping: &Mapping) -> Option<Elf> {
    let file = mapped::open(maps, mapping).ok()?;
    Elf::read(mapping.file()?, &file, View::of(maps.pid()), Vec::new()).ok()
}

/// Whether a function is of a crate that hits need: its path begins with that, or it is a method of a type there.
fn is_of_library(name: &str) -> bool {
    const CRATES: [&str; 12] = [
        "emu",
        "probe",
        "iced_x86",
        "bytemuck",
        "bitflags",
        "once_cell",
        "core",
        "alloc",
        "std",
        "compiler_builtins",
        "nix",
        "libc",
    ];
    let path = format!("{:#}", rustc_demangle::demangle(name));
    let path = path.trim_start_matches(['<', '&', '*', '(', '[']);
    path.split_once("::").is_some_and(|(first, _)| CRATES.contains(&first))
}

/// The instructions that can be reached from `entries` by direct branches and calls, and by jumps through pointers that
/// are there now, as ranges in their order.
fn reach(entries: impl IntoIterator<Item = u64>) -> Vec<Range<u64>> {
    /// More than any string function has.
    const MOST: usize = 20_000;
    let mut due: Vec<u64> = entries.into_iter().collect();
    let mut seen = BTreeSet::new();
    let mut ranges: Vec<Range<u64>> = Vec::new();
    while let Some(address) = due.pop() {
        if seen.len() >= MOST || !seen.insert(address) {
            continue;
        }
        let mut bytes = [0; 15];
        let length = read_code(address, &mut bytes);
        let bytes = bytes.get(..length).unwrap_or_default();
        let mut decoder = Decoder::with_ip(64, bytes, address, Processor::host().decoder_options());
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            continue;
        }
        let next = instruction.next_ip();
        ranges.push(address..next);
        match instruction.flow_control() {
            FlowControl::Next | FlowControl::IndirectCall | FlowControl::Interrupt => due.push(next),
            FlowControl::ConditionalBranch | FlowControl::Call => {
                due.extend([next, instruction.near_branch_target()]);
            }
            FlowControl::UnconditionalBranch => due.push(instruction.near_branch_target()),
            FlowControl::IndirectBranch
                if instruction.op0_kind() == OpKind::Memory && instruction.is_ip_rel_memory_operand() =>
            {
                let mut pointer = [0; 8];
                if machine::load(instruction.ip_rel_memory_address(), &mut pointer).is_ok() {
                    due.push(u64::from_le_bytes(pointer));
                }
            }
            _ => {}
        }
    }
    ranges.sort_unstable_by_key(|range| range.start);
    ranges
}

/// Fills `bytes` with the text at `address` as far as there is some, without breakpoints. Returns how much.
pub(crate) fn read_code(address: u64, bytes: &mut [u8]) -> usize {
    let mut read = 0;
    for (at, byte) in (address..).zip(bytes.iter_mut()) {
        if machine::load(at, std::slice::from_mut(byte)).is_err() {
            break;
        }
        read += 1;
    }
    sites::unmask(address, bytes.get_mut(..read).unwrap_or_default());
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_told_by_their_crates() {
        for name in [
            "_ZN3emu9displaced9Displaced7execute17h0123456789abcdefE",
            "<emu::Displaced as x::Y>::z",
            "core::fmt::write",
        ] {
            assert!(is_of_library(name), "{name}");
        }
        for name in
            ["main", "memcpy", "shop::total", "<shop::Cart as core::fmt::Display>::fmt", "probes::run"]
        {
            assert!(!is_of_library(name), "{name}");
        }
    }
}
