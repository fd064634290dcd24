//! Why a session could not start, or a probe not be placed. Each is one line that says what to do.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::executor::space::Unplaceable;
use crate::symbols::locate::LocateError;

/// Why a process cannot be traced.
#[derive(Debug)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no such process.
    NoSuchProcess {
        /// The number given.
        pid: i32,
    },
    /// It has exited, and waits for its parent to notice.
    Exited {
        /// The process.
        pid: i32,
    },
    /// It belongs to somebody else, or the system forbids it.
    NotPermitted {
        /// The process.
        pid: i32,
        /// `kernel.yama.ptrace_scope`, where that restricts tracing.
        ptrace_scope: Option<u8>,
    },
    /// Somebody traces it already.
    AlreadyTraced {
        /// The process.
        pid: i32,
        /// Its tracer.
        tracer: i32,
        /// The tracer's name, if it can be read.
        name: Option<String>,
    },
    /// It is the calling process itself.
    Own,
    /// It runs a 32-bit program.
    Not64Bit {
        /// The process.
        pid: i32,
    },
    /// It has been making another process or thread for half a minute, in one system call, and nobody could take breakpoints
    /// out of what that makes.
    Making {
        /// The process.
        pid: i32,
        /// Its thread that is in that system call.
        tid: i32,
    },
    /// The command cannot be executed.
    Launch {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// A system call failed.
    System {
        /// Which.
        call: &'static str,
        /// How.
        error: Errno,
    },
}

impl AttachError {
    /// That the kernel does not let this user trace process `pid`, with what restricts that, as far as the system tells.
    #[must_use]
    pub fn not_permitted(pid: i32) -> AttachError {
        let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
        let scope = scope.ok().and_then(|text| text.trim().parse().ok());
        AttachError::NotPermitted { pid, ptrace_scope: scope.filter(|&scope| scope > 0) }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttachError::NoSuchProcess { pid } => {
                write!(f, "there is no process {pid}; `ps` lists those that there are")
            }
            AttachError::Exited { pid } => {
                write!(f, "process {pid} has exited already, and only its parent can still see it")
            }
            AttachError::NotPermitted { pid, ptrace_scope: Some(scope @ 3..) } => write!(
                f,
                "process {pid} may not be traced by anybody (kernel.yama.ptrace_scope is {scope}, \
                 which stays until the system is started anew)"
            ),
            AttachError::NotPermitted { pid, ptrace_scope: Some(scope) } => write!(
                f,
                "process {pid} may not be traced by this user (kernel.yama.ptrace_scope is {scope}); \
                 run as root, or as its owner with that set to 0"
            ),
            AttachError::NotPermitted { pid, ptrace_scope: None } => {
                write!(f, "process {pid} may not be traced by this user; run as its owner or as root")
            }
            AttachError::AlreadyTraced { pid, tracer, name } => {
                write!(f, "process {pid} is already traced by process {tracer}")?;
                if let Some(name) = name {
                    write!(f, " ({name})")?;
                }
                f.write_str("; end that first")
            }
            AttachError::Own => f.write_str("a process cannot trace itself; name another process"),
            AttachError::Not64Bit { pid } => {
                write!(f, "process {pid} is a 32-bit one; only 64-bit processes can be probed")
            }
            AttachError::Making { pid, tid } => write!(
                f,
                "process {pid} has been making another one for half a minute (thread {tid} is in fork or clone), which would \
                 get breakpoints that nobody serves; try again when that is over"
            ),
            AttachError::Launch { program, error } => {
                write!(f, "{program} cannot be executed: {error}; check its path and permissions")
            }
            AttachError::System { call, error } => {
                write!(f, "{call} failed: {}; this system does not let processes be traced", error.desc())
            }
        }
    }
}

impl std::error::Error for AttachError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AttachError::Launch { error, .. } => Some(error),
            AttachError::System { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why a probe was not placed. Nothing in the target has changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProbeError {
    /// It names no place.
    Locate(LocateError),
    /// No breakpoint can be put where it points to.
    Unplaceable {
        /// The address, the first if there are several.
        address: u64,
        /// Why.
        reason: Unplaceable,
    },
    /// The target's memory map cannot be read.
    Maps(io::Error),
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeError::Locate(error) => error.fmt(f),
            ProbeError::Unplaceable { address, reason } => {
                write!(f, "no probe can be placed at {address:#x}: {reason}")
            }
            ProbeError::Maps(error) => write!(f, "the target's memory map cannot be read: {error}"),
        }
    }
}

impl std::error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProbeError::Locate(error) => error.source(),
            ProbeError::Unplaceable { reason, .. } => reason.source(),
            ProbeError::Maps(error) => Some(error),
        }
    }
}
