//! What `/proc/PID` says of processes and threads (proc_pid_status(5), proc_pid_stat(5)).

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::time::SystemTime;

use nix::time::{ClockId, clock_gettime};

use crate::target::system;

/// The value of a field of `/proc/PID/status`.
fn status_field(tid: i32, name: &str) -> Option<String> {
    // The name of a thread may be any bytes: that of one with a long name ends inside a letter.
    let status = fs::read(format!("/proc/{tid}/status")).ok()?;
    String::from_utf8_lossy(&status)
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

fn number(tid: i32, name: &str) -> Option<i32> {
    status_field(tid, name)?.parse().ok()
}

/// The process that thread `tid` belongs to; `None` if there is no such thread.
pub(crate) fn process_of(tid: i32) -> Option<i32> {
    number(tid, "Tgid")
}

/// The parent of process `pid`.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    number(pid, "PPid")
}

/// The thread that traces `tid`, if any.
pub(crate) fn tracer_of(tid: i32) -> Option<i32> {
    number(tid, "TracerPid").filter(|&tracer| tracer != 0)
}

/// Whether thread `tid` is a zombie or gone.
pub(crate) fn has_exited(tid: i32) -> bool {
    status_field(tid, "State").is_none_or(|state| state.starts_with(['Z', 'X']))
}

/// Whether process `pid` is stopped by a signal: SIGSTOP and the like, not by a tracer.
pub(crate) fn is_stopped(pid: i32) -> bool {
    status_field(pid, "State").is_some_and(|state| state.starts_with('T'))
}

/// A field of `/proc/PID/status` that is a set of signals: bit n-1 for signal n.
fn signals(tid: i32, name: &str) -> Option<u64> {
    u64::from_str_radix(&status_field(tid, name)?, 16).ok()
}

/// The signals that thread `tid` blocks.
pub(crate) fn blocked(tid: i32) -> Option<u64> {
    signals(tid, "SigBlk")
}

/// Whether thread `tid` has a handler for `signal`.
pub(crate) fn catches(tid: i32, signal: i32) -> bool {
    signals(tid, "SigCgt").is_some_and(|caught| caught & (1 << (signal - 1)) != 0)
}

/// What a process does with a signal, as far as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Disposition {
    Default,
    Ignored,
    Caught,
}

/// What the process of thread `tid` does with `signal`.
pub(crate) fn disposition(tid: i32, signal: i32) -> Option<Disposition> {
    let bit = 1 << (signal - 1);
    let is_in = |name: &str| signals(tid, name).map(|signals| signals & bit != 0);
    Some(match (is_in("SigCgt")?, is_in("SigIgn")?) {
        (true, _) => Disposition::Caught,
        (false, true) => Disposition::Ignored,
        (false, false) => Disposition::Default,
    })
}

/// Whether a filter, or strict mode, judges the system calls of thread `tid` (seccomp(2)).
pub(crate) fn is_filtered(tid: i32) -> bool {
    number(tid, "Seccomp").is_some_and(|mode| mode != 0)
}

/// Whether thread `tid` has an address space: kernel threads have none, nor has a thread that exits.
pub(crate) fn has_memory(tid: i32) -> bool {
    status_field(tid, "VmSize").is_some()
}

/// Whether two processes share one address space. Where the kernel does not say, they are taken to if they
/// execute one file and have the same mappings, as is so after fork, too.
pub(crate) fn share_memory(a: i32, b: i32) -> bool {
    match system::same_memory(a, b) {
        // Two that have none have the same.
        Some(same) => same && has_memory(a),
        None => {
            let read = |tid: i32| fs::read(format!("/proc/{tid}/maps")).ok().filter(|maps| !maps.is_empty());
            execute_one_file(a, b) && read(a).is_some_and(|maps| read(b).is_some_and(|other| other == maps))
        }
    }
}

/// Whether two processes execute the same file.
pub(crate) fn execute_one_file(a: i32, b: i32) -> bool {
    let file = |tid: i32| fs::metadata(format!("/proc/{tid}/exe")).map(|file| (file.dev(), file.ino())).ok();
    file(a).is_some_and(|executed| file(b) == Some(executed))
}

/// The number of the system call in which a thread sleeps, by its `/proc/TID/syscall` (proc_pid_syscall(5)): -1 if it sleeps
/// in none, `None` if it runs.
fn call_number(call: &str) -> Option<i64> {
    /// In the numbers of the x32 ABI, which are the same otherwise.
    const X32: i64 = 0x4000_0000;
    let number = call.split_ascii_whitespace().next()?.parse::<i64>().ok()?;
    Some(if number < 0 { number } else { number & !X32 })
}

/// The system calls that make threads and processes.
const MAKING: [i64; 4] = [libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone, libc::SYS_clone3];

/// Whether thread `tid` may be about to make another thread or process, by a system call that it is in. It is not if it
/// sleeps in none of those calls, if it is stopped, which is on the way back to the program, or if what it makes is there.
pub(crate) fn may_be_making(tid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{tid}/syscall")) {
        Ok(call) if call_number(&call).is_some_and(|number| !MAKING.contains(&number)) => false,
        _ => !has_exited(tid) && !is_held(tid) && !waits_for_vfork(tid),
    }
}

/// Whether thread `tid` is stopped, by a signal or by its tracer.
fn is_held(tid: i32) -> bool {
    status_field(tid, "State").is_some_and(|state| state.starts_with(['T', 't']))
}

/// Whether thread `tid` waits, in the kernel, for its vfork child to execute a program or exit.
pub(crate) fn waits_for_vfork(tid: i32) -> bool {
    /// In which of the kernel's functions it does.
    const WAITING: [&str; 2] = ["kernel_clone", "wait_for_vfork_done"];
    /// What there is where the kernel does not say.
    const UNKNOWN: &str = "0";
    let waits = || status_field(tid, "State").is_some_and(|state| state.starts_with('D'));
    let text = |file: &str| fs::read_to_string(format!("/proc/{tid}/{file}")).ok();
    let makes = |call: String| call_number(&call).is_some_and(|number| MAKING.contains(&number));
    let is_there = |place: String| place == UNKNOWN || WAITING.iter().any(|name| place.starts_with(name));
    // It was woken meanwhile if it does not wait at the end.
    waits() && text("syscall").is_none_or(makes) && text("wchan").is_none_or(is_there) && waits()
}

/// The user that process `pid` runs as.
pub(crate) fn user_of(pid: i32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| metadata.uid())
}

/// All processes that can be seen.
pub(crate) fn processes() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect()
}

/// The threads of process `pid`.
pub(crate) fn threads_of(pid: i32) -> io::Result<Vec<i32>> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        threads.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(threads)
}

/// For how long thread `tid` has run, in nanoseconds (proc-pid-schedstat, Documentation/scheduler/sched-stats.rst);
/// `None` if there is no such thread, or if the kernel does not say.
pub(crate) fn run_time(tid: i32) -> Option<u64> {
    fs::read_to_string(format!("/proc/{tid}/schedstat")).ok()?.split(' ').next()?.parse().ok()
}

/// Whether thread `tid` sleeps in the kernel until something happens, with no `signal` of its own to take first.
pub(crate) fn sleeps(tid: i32, signal: i32) -> bool {
    status_field(tid, "State").is_some_and(|state| state.starts_with('S'))
        && signals(tid, "SigPnd").is_some_and(|pending| pending & (1 << (signal - 1)) == 0)
}

/// Whether thread `tid` sleeps in the kernel, whatever for, or has exited.
pub(crate) fn is_kept(tid: i32) -> bool {
    status_field(tid, "State").is_none_or(|state| state.starts_with(['S', 'D', 'Z', 'X']))
}

/// The name of thread `tid`, at most 15 bytes.
pub(crate) fn comm(tid: i32) -> Option<Vec<u8>> {
    let mut name = fs::read(format!("/proc/{tid}/comm")).ok()?;
    // What the kernel has put behind it.
    name.pop_if(|last| *last == b'\n');
    Some(name)
}

/// Whether thread `tid` blocks `signal`, and has one of its own waiting.
pub(crate) fn holds_back(tid: i32, signal: i32) -> bool {
    let has = |set: &str| signals(tid, set).is_some_and(|set| set & (1 << (signal - 1)) != 0);
    has("SigPnd") && has("SigBlk")
}

/// The name of process `pid`, at most 15 bytes.
pub(crate) fn name_of(pid: i32) -> Option<String> {
    Some(String::from_utf8_lossy(&comm(pid)?).into_owned())
}

/// A field of `/proc/PID/stat`, counted from 1, as proc_pid_stat(5) does; not one of the first two.
fn stat_field(tid: i32, field: usize) -> Option<u64> {
    let mut text = [0u8; 1024];
    let mut file = fs::File::open(format!("/proc/{tid}/stat")).ok()?;
    let length = file.read(&mut text).ok()?;
    let text = text.get(..length)?;
    // The name in field 2 may contain anything, so count from its closing ')'.
    let tail = text.get(text.iter().rposition(|&byte| byte == b')')? + 2..)?;
    let field = tail.split(|&byte| byte == b' ').nth(field.checked_sub(3)?)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// When process `pid` was started, as far as the kernel counts it (a hundredth of a second): nanoseconds since 1970, by the
/// system's clock.
pub(crate) fn started_at(pid: i32) -> Option<i128> {
    const NS_PER_TICK: i128 = 10_000_000;
    let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    let since_boot = i128::from(since_boot.tv_sec()) * 1_000_000_000 + i128::from(since_boot.tv_nsec());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos();
    let age = since_boot - i128::from(started(pid)?) * NS_PER_TICK;
    Some(i128::try_from(now).ok()? - age)
}

/// The processor on which thread `tid` ran last.
pub(crate) fn processor_of(tid: i32) -> Option<u32> {
    u32::try_from(stat_field(tid, 39)?).ok()
}

/// When thread `tid` started, in clock ticks since boot: tells it from another one that gets its number.
pub(crate) fn started(tid: i32) -> Option<u64> {
    stat_field(tid, 22)
}

/// The class byte of the ELF file that thread `tid` executes: 1 for 32-bit, 2 for 64-bit.
pub(crate) fn elf_class(tid: i32) -> Option<u8> {
    let mut header = [0u8; 5];
    fs::File::open(format!("/proc/{tid}/exe")).ok()?.read_exact(&mut header).ok()?;
    header.starts_with(b"\x7fELF").then_some(header[4])
}

/// An entry of the auxiliary vector, such as `AT_BASE` (getauxval(3)).
pub(crate) fn auxiliary(tid: i32, key: u64) -> Option<u64> {
    let vector = fs::read(format!("/proc/{tid}/auxv")).ok()?;
    vector.chunks_exact(16).find_map(|entry| {
        let (name, value) = entry.split_at(8);
        (name == key.to_ne_bytes()).then(|| value.try_into().ok().map(u64::from_ne_bytes))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_be_called_anything() {
        std::thread::spawn(|| {
            fs::write("/proc/thread-self/comm", b"\xd0\x9d)\n\xff").unwrap();
            let tid = crate::target::system::this_thread();
            assert_eq!(process_of(tid), i32::try_from(std::process::id()).ok());
            assert!(!has_exited(tid));
            assert!(processor_of(tid).is_some());
            assert!(name_of(tid).is_some_and(|name| name.starts_with('\u{41d}')));
        })
        .join()
        .unwrap();
    }
}
