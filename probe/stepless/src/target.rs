//! The process that `-p` names.

use std::io;
use std::path::Path;

use probe::elf::ElfError;
use probe::maps::Maps;

use crate::Failure;

/// The longest that an instruction can be, in bytes (SDM volume 2, section 2.3.11).
pub(crate) const LONGEST: usize = 15;

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

/// Reads up to `length` bytes of the memory of `pid` at `address`, as many as there are.
pub(crate) fn read_memory(pid: i32, address: u64, length: usize) -> Result<Vec<u8>, Failure> {
    use std::os::unix::fs::FileExt;
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).map_err(|error| about(pid, &error))?;
    let mut bytes = vec![0; length];
    let read = memory.read_at(&mut bytes, address).map_err(|error| about(pid, &error))?;
    bytes.truncate(read);
    Ok(bytes)
}

fn about(pid: i32, error: &io::Error) -> Failure {
    Failure::new(match error.kind() {
        io::ErrorKind::NotFound if !Path::new("/proc/self").exists() => {
            "/proc is missing; mount it".to_owned()
        }
        io::ErrorKind::NotFound => format!("there is no process {pid}"),
        io::ErrorKind::PermissionDenied => {
            format!("process {pid} is not ours to probe: run as its user, or with CAP_SYS_PTRACE")
        }
        _ if error.raw_os_error() == Some(libc::ESRCH) => format!("there is no process {pid}"),
        _ => format!("process {pid}: {error}"),
    })
}
