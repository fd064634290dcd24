//! The process that `-p` names.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use probe::AttachError;
use probe::elf::ElfError;
use probe::maps::{self, Maps};
use probe::similar;

use crate::{Failure, warn};

/// The longest that an instruction can be, in bytes (SDM volume 2, section 2.3.11).
pub(crate) const LONGEST: usize = 15;

/// The processes that are meant by numbers or names, or have these threads; each once.
pub(crate) fn named(names: &[String], threads: &[i32]) -> Result<Vec<i32>, Failure> {
    let mut processes = Vec::new();
    for name in names {
        match name.parse() {
            Ok(pid) => processes.push(pid),
            Err(_) => processes.extend(called(name)?),
        }
    }
    for &tid in threads {
        let missing = || Failure::new(format!("there is no thread {tid}"));
        let pid = process_of(tid).ok_or_else(missing)?;
        if !names.is_empty() && !processes.contains(&pid) {
            return Err(Failure::new(format!(
                "thread {tid} is of process {pid}, which is none of those given"
            )));
        }
        processes.push(pid);
    }
    let mut seen = HashSet::new();
    processes.retain(|&pid| seen.insert(pid));
    Ok(processes)
}

/// Of these processes, those that have not ended; that is told of the others, unless it is so of all. Each is checked.
pub(crate) fn checked(
    processes: Vec<i32>,
    check: impl Fn(i32) -> Result<(), Failure>,
) -> Result<Vec<i32>, Failure> {
    let (mut living, mut ended) = (Vec::new(), Vec::new());
    for pid in processes {
        match check(pid) {
            Ok(()) => living.push(pid),
            Err(failure) if has_ended(pid) => ended.push(failure),
            Err(failure) => return Err(failure),
        }
    }
    leave_out(ended, living.is_empty())?;
    Ok(living)
}

/// Tells of processes that have ended before they could be attached to; fails with the first if those were `all`.
pub(crate) fn leave_out(ended: Vec<Failure>, all: bool) -> Result<(), Failure> {
    for failure in ended {
        if all {
            return Err(failure);
        }
        warn(&format!("{}; the others are probed", failure.0));
    }
    Ok(())
}

/// Whether there is no process `pid`, or only its parent can still see it.
fn has_ended(pid: i32) -> bool {
    let status = std::fs::read(format!("/proc/{pid}/status"));
    let is_over =
        |line: &str| line.strip_prefix("State:").is_some_and(|state| state.trim().starts_with(['Z', 'X']));
    match status {
        Ok(status) => String::from_utf8_lossy(&status).lines().any(is_over),
        Err(_) => Path::new("/proc/self").exists(),
    }
}

/// The process of a thread.
fn process_of(tid: i32) -> Option<i32> {
    let status = std::fs::read(format!("/proc/{tid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The processes that are called `name`, or whose program is.
fn called(name: &str) -> Result<Vec<i32>, Failure> {
    /// How much of a name a process has (TASK_COMM_LEN, less its end).
    const LONGEST_NAME: usize = 15;
    let entries = std::fs::read_dir("/proc").map_err(|error| about(0, &error))?;
    let own = std::process::id().cast_signed();
    let mut all = Vec::new();
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid.filter(|&pid| pid != own) else { continue };
        let command = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let command = String::from_utf8_lossy(command.trim_ascii_end()).into_owned();
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
        let program = program.as_deref().map(maps::without_mark).and_then(Path::file_name);
        let program = program.map(|program| program.to_string_lossy().into_owned());
        // One without a program is a kernel's thread or has ended.
        let Some(program) = program else { continue };
        let cut = command.len() == LONGEST_NAME && name.starts_with(&command);
        if command == name || program == name || cut {
            found.push(pid);
        }
        all.extend([command, program]);
    }
    if !found.is_empty() {
        found.sort_unstable();
        return Ok(found);
    }
    let near = similar::nearest(name, all.iter().map(String::as_str), 4);
    let near = if near.is_empty() { String::new() } else { format!("; there is {}", near.join(", ")) };
    Err(Failure::new(format!("no process is called `{name}`{near}")))
}

/// What process `pid` has mapped.
pub(crate) fn maps(pid: i32) -> Result<Maps, Failure> {
    let maps = Maps::read(pid).map_err(|error| about(pid, &error))?;
    if maps.is_empty() {
        return Err(Failure::new(format!("process {pid} has no memory: it is a kernel thread or has ended")));
    }
    Ok(maps)
}

/// Fails if there is no process `pid` that can be read, or if it is a 32-bit one.
pub(crate) fn check(pid: i32) -> Result<(), Failure> {
    maps(pid)?;
    let exe = format!("/proc/{pid}/exe");
    let name = std::fs::read_link(&exe).map_err(|error| about(pid, &error))?;
    match probe::elf::soname(Path::new(&exe)) {
        Err(ElfError::Unsupported { what, .. }) => {
            let name = name.display();
            Err(Failure::new(format!(
                "process {pid} runs {name}, which is {what}: only x86-64 can be probed"
            )))
        }
        _ => Ok(()),
    }
}

/// What there is to say of process `pid` if its program is set to run as another user, and does not: the kernel takes that
/// away from a program that is traced by who may not trace all.
pub(crate) fn without_privileges(pid: i32) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    const SET_USER: u32 = libc::S_ISUID;
    const SET_GROUP: u32 = libc::S_ISGID | libc::S_IXGRP;
    let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
    let status = std::fs::read(format!("/proc/{pid}/status")).ok()?;
    let status = String::from_utf8_lossy(&status);
    let effective = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    let user = file.mode() & SET_USER != 0 && effective("Uid:").is_some_and(|own| own != file.uid());
    let group =
        file.mode() & SET_GROUP == SET_GROUP && effective("Gid:").is_some_and(|own| own != file.gid());
    let name = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let who = match (user, group) {
        (true, _) => format!("user {}", file.uid()),
        (false, true) => format!("group {}", file.gid()),
        (false, false) => return None,
    };
    Some(format!(
        "{} is to run as {who}, and does not while it is traced by this user; be root, or start it first and use -p",
        name.display()
    ))
}

/// Reads up to `length` bytes of the memory of `pid` at `address`, as many as there are.
pub(crate) fn read_memory(pid: i32, address: u64, length: usize) -> Result<Vec<u8>, Failure> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).map_err(|error| about(pid, &error))?;
    let mut bytes = vec![0; length];
    let read = memory.read_at(&mut bytes, address).map_err(|error| match error.raw_os_error() {
        // It was mapped just before.
        Some(libc::EIO) => Failure::new(format!(
            "process {pid} has unmapped {address:#x} meanwhile: it ends or executes a program; see whether it is there still"
        )),
        _ => about(pid, &error),
    })?;
    bytes.truncate(read);
    Ok(bytes)
}

fn about(pid: i32, error: &io::Error) -> Failure {
    Failure::new(match error.kind() {
        io::ErrorKind::NotFound if !Path::new("/proc/self").exists() => {
            "/proc is missing; mount it".to_owned()
        }
        io::ErrorKind::NotFound => format!("there is no process {pid}"),
        io::ErrorKind::PermissionDenied => AttachError::not_permitted(pid).to_string(),
        _ if error.raw_os_error() == Some(libc::ESRCH) => format!("there is no process {pid}"),
        _ => format!("process {pid}: {error}"),
    })
}
