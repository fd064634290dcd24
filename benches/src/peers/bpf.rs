//! uprobe_multi, the kernel's newest way to many uprobes: one link of a BPF program that counts (bpf(2)).

#![allow(unsafe_code, reason = "libc has no bpf(2)")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::path::Path;

use crate::Failure;

/// Commands of bpf(2), and what they are given (linux/bpf.h).
const BPF_MAP_CREATE: i32 = 0;
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_PROG_LOAD: i32 = 5;
const BPF_LINK_CREATE: i32 = 28;
const BPF_TRACE_UPROBE_MULTI: u32 = 48;

#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

#[repr(C)]
struct MapElement {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkCreate {
    program: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    path: u64,
    offsets: u64,
    reference_counters: u64,
    cookies: u64,
    count: u32,
    link_flags: u32,
    pid: u32,
    padding: u32,
}

/// One of BPF's instructions.
#[repr(C)]
struct Instruction {
    code: u8,
    /// The destination in the low four bits, the source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Uprobes in one process, and how often all of them were hit.
pub(crate) struct Link {
    map: File,
    _link: File,
}

fn bpf<T>(command: i32, attributes: &T, what: &str) -> Result<RawFd, Failure> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes of `attributes`, and what its addresses lead to, all of which live
    // in the callers until this returns; it writes to nothing but the value of `MapElement`, which has eight bytes.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 {
        return Err(format!("{what}: {}", io::Error::last_os_error()).into());
    }
    Ok(i32::try_from(result)?)
}

fn owned(descriptor: RawFd) -> File {
    // SAFETY: bpf(2) has just made it, and nobody else has it.
    unsafe { File::from_raw_fd(descriptor) }
}

impl Link {
    /// Puts them at these offsets in the file, for process `pid`.
    pub(crate) fn open(path: &Path, offsets: &[u64], pid: i32) -> Result<Link, Failure> {
        let array = MapCreate { kind: 2, key_size: 4, value_size: 8, max_entries: 1 };
        let map = owned(bpf(BPF_MAP_CREATE, &array, "a map for BPF")?);
        let program = owned(load(&map)?);
        let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
        let link = LinkCreate {
            program: u32::try_from(program.as_raw_fd())?,
            target: 0,
            attach_type: BPF_TRACE_UPROBE_MULTI,
            flags: 0,
            path: path.as_ptr() as u64,
            offsets: offsets.as_ptr() as u64,
            reference_counters: 0,
            cookies: 0,
            count: u32::try_from(offsets.len())?,
            link_flags: 0,
            pid: u32::try_from(pid)?,
            padding: 0,
        };
        let link = owned(bpf(BPF_LINK_CREATE, &link, "uprobe_multi")?);
        Ok(Link { map, _link: link })
    }

    /// The hits so far.
    pub(crate) fn count(&self) -> Result<u64, Failure> {
        let (key, mut value) = (0u32, 0u64);
        let element = MapElement {
            map: u32::try_from(self.map.as_raw_fd())?,
            padding: 0,
            key: (&raw const key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        bpf(BPF_MAP_LOOKUP_ELEM, &element, "the count of BPF")?;
        Ok(std::hint::black_box(value))
    }
}

/// A program that adds one to the value of `map`.
fn load(map: &File) -> Result<RawFd, Failure> {
    const LICENSE: &CStr = c"Dual MIT/GPL";
    let instruction = |code, registers, immediate| Instruction { code, registers, offset: 0, immediate };
    let program = [
        // R1 = the value's address, which takes two
        instruction(0x18, 0x21, map.as_raw_fd()),
        instruction(0, 0, 0),
        // R2 = 1
        instruction(0xb7, 0x02, 1),
        // lock *R1 += R2
        instruction(0xdb, 0x21, 0),
        // return 0
        instruction(0xb7, 0x00, 0),
        instruction(0x95, 0x00, 0),
    ];
    let attributes = ProgramLoad {
        // BPF_PROG_TYPE_KPROBE
        kind: 2,
        instruction_count: u32::try_from(program.len())?,
        instructions: program.as_ptr() as u64,
        license: LICENSE.as_ptr() as u64,
        expected_attach_type: BPF_TRACE_UPROBE_MULTI,
        ..ProgramLoad::default()
    };
    bpf(BPF_PROG_LOAD, &attributes, "a program for uprobe_multi")
}
