//! Starting a program so that it is traced from its first instruction.

#![allow(unsafe_code, reason = "CommandExt::pre_exec")]

use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// A child that has forked and waits, before exec, for its tracer.
#[derive(Debug)]
pub(crate) struct Embryo {
    /// The child.
    pub(crate) pid: i32,
    go: Go,
    spawner: JoinHandle<io::Result<()>>,
}

/// What the child waits for. Dropped, it says that it is not to execute the program.
#[derive(Debug)]
struct Go(Option<PipeWriter>);

impl Go {
    const YES: u8 = 1;
    const NO: u8 = 0;

    fn say(&mut self, what: u8) {
        // If the child is gone, waiting for it says so.
        let _ = self.0.take().map(|mut pipe| pipe.write_all(&[what]));
    }
}

impl Drop for Go {
    fn drop(&mut self) {
        self.say(Go::NO);
    }
}

impl Embryo {
    /// Forks. A thread of its own does that, for `Command::spawn` returns only when the child has executed
    /// the program.
    ///
    /// `tracer` is the process that will trace it, if that is another one: where the Yama module restricts tracing to
    /// ancestors, the child permits it.
    pub(crate) fn fork(mut command: Command, tracer: Option<i32>) -> io::Result<Embryo> {
        let (mut pid_reader, pid_writer) = io::pipe()?;
        let (mut go_reader, go_writer) = io::pipe()?;
        // The child must not hold the writing end that it waits for.
        let go_fd = go_writer.as_raw_fd();
        let hello = pid_writer.try_clone()?;
        let hook = move || {
            permit(tracer);
            wait_for_tracer(&hello, &mut go_reader, go_fd)
        };
        // SAFETY: the hook only makes system calls (prctl, read, write, close, getpid), which are async-signal-safe.
        unsafe { command.pre_exec(hook) };
        let spawner = std::thread::spawn(move || {
            let result = command.spawn().map(drop);
            // Whoever waits for the child's id must not wait in vain if there is no child.
            drop(pid_writer);
            drop(command);
            result
        });
        let mut pid = [0; 4];
        match pid_reader.read_exact(&mut pid) {
            Ok(()) => Ok(Embryo { pid: i32::from_ne_bytes(pid), go: Go(Some(go_writer)), spawner }),
            Err(read_error) => Err(match spawner.join() {
                Ok(Err(error)) => error,
                _ => read_error,
            }),
        }
    }

    /// Lets the child execute the program.
    pub(crate) fn go(&mut self) {
        self.go.say(Go::YES);
    }

    /// Waits until the child stops, and says whether it does, rather than end.
    ///
    /// Its end is not waited for in the sense of wait(2): if it cannot execute the program, `Command::spawn`
    /// does that, and panics if somebody has done so before.
    pub(crate) fn stops(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::Pid(Pid::from_raw(self.pid)), flags) {
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) | Err(Errno::ECHILD) => return false,
                Err(Errno::EINTR) => {}
                // Also for a signal that nix does not know.
                Ok(_) | Err(_) => return true,
            }
        }
    }

    /// What came of exec. To be called when it has succeeded or the child is gone.
    pub(crate) fn finish(self) -> io::Result<()> {
        let Embryo { go, spawner, .. } = self;
        drop(go);
        match spawner.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

/// Lets process `tracer` trace this one, whatever Yama restricts.
fn permit(tracer: Option<i32>) {
    let Some(tracer) = tracer.and_then(|tracer| libc::c_ulong::try_from(tracer).ok()) else { return };
    // SAFETY: the call takes numbers only. It fails where there is no Yama, and nothing need be permitted.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, tracer, 0, 0, 0) };
}

/// Runs in the child, between fork and exec.
fn wait_for_tracer(mut hello: &PipeWriter, go: &mut PipeReader, parents_end: i32) -> io::Result<()> {
    // SAFETY: the child's copy of this descriptor is used by nobody else: its owner lives in the parent.
    unsafe { libc::close(parents_end) };
    // Process ids are positive i32 numbers.
    let told = hello.write_all(&(std::process::id() as i32).to_ne_bytes());
    let mut said = [0];
    match told.and_then(|()| go.read_exact(&mut said)) {
        Ok(()) if said == [Go::YES] => Ok(()),
        Ok(()) => Err(Errno::ECANCELED.into()),
        // The parent is gone, and nobody is there to be told.
        // SAFETY: the call ends the process at once, without anything of the parent's that it is a copy of.
        Err(_) => unsafe { libc::_exit(EXIT_NOT_EXECUTED) },
    }
}

/// As a shell has it.
const EXIT_NOT_EXECUTED: libc::c_int = 127;
