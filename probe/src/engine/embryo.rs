//! A program that another process starts, and this one traces from its first instruction.

use crate::engine::session::{Session, SessionOptions};
use crate::engine::tracer::attach_error;
use crate::error::AttachError;
use crate::executor::ptrace::stopped::Stop;
use crate::executor::ptrace::threads::{Report, SpaceId};
use crate::target::procfs;

impl Session {
    /// Traces process `pid`, which waits before exec, for [`Session::hatch`].
    pub(crate) fn seize_embryo(pid: i32, options: SessionOptions) -> Result<Session, AttachError> {
        let mut session = Session::new(pid, true, options)?;
        let tracer = &mut session.tracer;
        let special = tracer.shared.special();
        tracer.seize(pid, pid, SpaceId::MAX, special).map_err(|error| attach_error(pid, error))?;
        Ok(session)
    }

    /// Waits for the exec of a process that has been let go: it is stopped at its program's first instruction then.
    /// `false` if it has ended instead.
    pub(crate) fn hatch(&mut self) -> Result<bool, AttachError> {
        let pid = self.pid();
        loop {
            match self.tracer.threads.next() {
                Report::Stopped(mut stopped) if stopped.stop == Stop::Exec => {
                    if procfs::elf_class(pid) == Some(1) {
                        drop(stopped);
                        self.kill();
                        return Err(AttachError::Not64Bit { pid });
                    }
                    self.tracer.executed(&mut stopped);
                    self.tracer.threads.put_back(Report::Stopped(stopped));
                    return Ok(true);
                }
                Report::Stopped(stopped) | Report::Turn(stopped) => self.tracer.pass_on(stopped),
                Report::Ended { tid, status } => {
                    self.tracer.ended(tid, status);
                    if tid == pid {
                        return Ok(false);
                    }
                }
                Report::Interrupted => {}
                Report::Nobody => return Ok(false),
            }
        }
    }
}
