//! System calls about processes that `nix` does not wrap.

#![allow(unsafe_code, reason = "raw system calls; each is wrapped here in a function that is safe to call")]

use std::fs::File;
use std::io::IoSliceMut;
use std::mem;
use std::os::fd::AsRawFd;
use std::time::Duration;

use libc::c_int;
use nix::Result;
use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

use crate::target::maps::{Mapping, Permissions};

/// Whether two processes share one address space; `None` where the kernel does not say.
pub(crate) fn same_memory(a: i32, b: i32) -> Option<bool> {
    const KCMP_VM: c_int = 1;
    same(a, b, KCMP_VM)
}

/// Whether two processes share what they do with signals; `None` where the kernel does not say.
pub(crate) fn same_actions(a: i32, b: i32) -> Option<bool> {
    const KCMP_SIGHAND: c_int = 4;
    same(a, b, KCMP_SIGHAND)
}

fn same(a: i32, b: i32, what: c_int) -> Option<bool> {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, a, b, what, 0, 0) };
    match result {
        0 => Some(true),
        1..=3 => Some(false),
        _ => None,
    }
}

/// Whether `address` lies in a shared mapping, by `PROCMAP_QUERY` of `/proc/PID/maps`.
///
/// # Errors
/// ENOENT where nothing is mapped there, ENOTTY where the kernel does not know the request.
pub(crate) fn is_shared_mapping(maps: &File, address: u64) -> Result<bool> {
    mapping_at(maps, address).map(|mapping| mapping.perms.contains(Permissions::SHARED))
}

/// The mapping that `address` lies in, without its path, by the same request.
///
/// # Errors
/// Those of [`is_shared_mapping`].
pub(crate) fn mapping_at(maps: &File, address: u64) -> Result<Mapping> {
    /// `struct procmap_query` (linux/fs.h).
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        size: u64,
        query_flags: u64,
        query_address: u64,
        start: u64,
        end: u64,
        flags: u64,
        page_size: u64,
        offset: u64,
        inode: u64,
        dev: [u32; 2],
        name_size: u32,
        build_id_size: u32,
        name_address: u64,
        build_id_address: u64,
    }
    const SIZE: usize = mem::size_of::<Query>();
    /// `_IOWR(PROCFS_IOCTL_MAGIC, 17, struct procmap_query)`.
    const PROCMAP_QUERY: libc::c_ulong =
        3 << 30 | (SIZE as libc::c_ulong) << 16 | (b'f' as libc::c_ulong) << 8 | 17;
    let mut query = Query { size: SIZE as u64, query_address: address, ..Query::default() };
    // SAFETY: the kernel reads and writes `size` bytes of the structure, and follows no address in it that is zero.
    let result = unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY, &raw mut query) };
    // Its flags have the bits of ours.
    Errno::result(result).map(|_| Mapping {
        start: query.start,
        end: query.end,
        perms: Permissions::from_bits_truncate(query.flags as u8),
        offset: query.offset,
        dev: (query.dev[0], query.dev[1]),
        inode: query.inode,
        path: None,
    })
}

/// Whether the calling thread may attach to thread `tid`, as far as permissions go: one that it traces already may have
/// become such that it may not, by prctl(PR_SET_DUMPABLE) for one.
pub(crate) fn may_attach(tid: i32) -> bool {
    let mut byte = [0];
    // The kernel asks for the same permission, and looks only then whether there is memory at that address.
    let read =
        process_vm_readv(pid(tid), &mut [IoSliceMut::new(&mut byte)], &[RemoteIoVec { base: 0, len: 1 }]);
    read != Err(Errno::EPERM)
}

/// The calling thread's id.
pub(crate) fn this_thread() -> i32 {
    nix::unistd::gettid().as_raw()
}

/// The processor on which the calling thread runs.
pub(crate) fn this_processor() -> Option<u32> {
    nix::sched::sched_getcpu().ok().and_then(|processor| u32::try_from(processor).ok())
}

/// `tid` as `nix` takes it.
pub(crate) fn pid(tid: i32) -> Pid {
    Pid::from_raw(tid)
}

/// The time of `CLOCK_MONOTONIC` to some milliseconds, for the sixth of what the exact one costs.
pub(crate) fn roughly_now() -> Duration {
    // There is such a clock on every Linux that can be traced.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default()
}
