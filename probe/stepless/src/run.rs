//! What all commands have in common that run or attach to a target.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::Arc;

use anstream::{AutoStream, ColorChoice};
use probe::resolve::Objects;
use probe::warden::{self, Client, ClientStop, News, WardenError};
use probe::{AttachError, SessionOptions};

use crate::signals::{self, Signals};
use crate::{Failure, target, warn};

/// Where a command prints.
pub(crate) type Out = Box<dyn Write + Send>;

/// What is to be traced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    /// Processes that run already.
    pub(crate) targets: &'a [i32],
    /// The command to start, or nothing.
    pub(crate) command: &'a [OsString],
    pub(crate) options: SessionOptions,
    /// Where debug files are looked for first.
    pub(crate) debug_files: &'a [PathBuf],
}

impl Run<'_> {
    /// Attaches to the processes or starts the command, by a warden, ready to be interrupted; `observer` hears of news.
    pub(crate) fn start(
        &self,
        signals: &Signals,
        observer: impl FnOnce(ClientStop) -> Box<dyn FnMut(News)>,
    ) -> Result<Client, Failure> {
        let mut own =
            Command::new(warden::own_program().ok_or_else(|| Failure::new("/proc is missing; mount it"))?);
        own.arg(crate::WARDEN);
        let mut client = Client::start(own)?;
        let observer = observer(client.stop_handle());
        client.observe(observer);
        signals.watch(client.stop_handle());
        self.attach(&mut client)?;
        if let Some((program, rest)) = self.command.split_first() {
            let mut command = Command::new(program);
            command.args(rest);
            signals.pass_mask_on(&mut command);
            client.launch(command, self.options)?;
            signals.launched(client.pid());
        }
        if !self.debug_files.is_empty() {
            client.debug_files(self.debug_files)?;
        }
        Ok(client)
    }

    /// Attaches to all processes that have not ended.
    fn attach(&self, client: &mut Client) -> Result<(), Failure> {
        use AttachError::{Exited, NoSuchProcess};
        let mut ended = Vec::new();
        for &pid in self.targets {
            match client.attach(pid, self.options) {
                Err(error @ WardenError::Attach(NoSuchProcess { .. } | Exited { .. })) => {
                    ended.push(error.into());
                }
                attached => attached?,
            }
        }
        let all = ended.len() == self.targets.len();
        target::leave_out(ended, all)
    }
}

/// Fails if one of these is no ELF file.
pub(crate) fn check_debug_files(paths: &[PathBuf]) -> Result<(), Failure> {
    for path in paths {
        let named = |error| Failure::new(format!("{}: {error}", path.display()));
        if !probe::census::looks_like_elf(path).map_err(named)? {
            return Err(Failure::new(format!("{} is not an ELF file", path.display())));
        }
    }
    Ok(())
}

/// Objects whose debug files are looked for among these first.
pub(crate) fn objects(debug_files: &[PathBuf]) -> Result<Arc<Objects>, Failure> {
    check_debug_files(debug_files)?;
    let objects = Objects::default();
    debug_files.iter().for_each(|path| objects.add_debug_file(path.clone()));
    Ok(Arc::new(objects))
}

/// Where a command prints, and whether in colours: to a file, to stdout if it attaches, and otherwise to stderr.
pub(crate) fn output(file: Option<&Path>, attaches: bool) -> Result<(Out, bool), Failure> {
    let coloured = |choice| choice != ColorChoice::Never;
    Ok(match file {
        Some(path) => {
            let named = |error| Failure::new(format!("{}: {error}", path.display()));
            (Box::new(File::create(path).map_err(named)?), false)
        }
        None if attaches => (Box::new(io::stdout()), coloured(AutoStream::choice(&io::stdout()))),
        None => (Box::new(io::stderr()), coloured(AutoStream::choice(&io::stderr()))),
    })
}

/// What the command ends with, once the target is as it was: its result, or the signal that has ended it.
pub(crate) fn end(result: Result<ExitCode, Failure>, signals: &Signals) -> Result<ExitCode, Failure> {
    // One that has ended the target, too, may have come just now. Not by this thread, for which SIGPIPE may be waiting.
    std::thread::scope(|scope| scope.spawn(|| signals.collect()).join().ok());
    let Some(signal) = signals.ending() else { return result };
    if let Err(Failure(line)) = result {
        warn(&line);
    }
    Ok(signals::end(signal))
}

/// Why a process has no probes, and what to do.
pub(crate) fn inaccessible(pid: i32, error: &io::Error) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
    let name = name.map(|name| format!(" ({})", name.trim_end())).unwrap_or_default();
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "it may not be read by this user; be root, or make its file readable"
        }
        io::ErrorKind::NotFound => "mount /proc",
        _ => "it runs without probes",
    };
    format!("the memory of process {pid}{name} cannot be opened: {error}; {advice}")
}

/// That a process has no probes because of the program that it executes.
pub(crate) fn not_64_bit(pid: i32) -> String {
    let name = std::fs::read_link(format!("/proc/{pid}/exe"));
    let name = name.map(|name| format!(", {},", name.display())).unwrap_or_default();
    format!(
        "process {pid} executes a program{name} that is not 64-bit: it runs without probes, as do others that do so"
    )
}

/// The status as a shell has it: 128 and the signal's number for a process that was killed.
pub(crate) fn shell_status(status: ExitStatus) -> i32 {
    const KILLED: i32 = 128;
    status.code().unwrap_or_else(|| KILLED + status.signal().unwrap_or(0))
}
