//! From the hit to the resume: the displaced instruction is performed, whoever executes it.

use emu::{Displaced, Exception, Outcome, Rflags, Touches};

use crate::executor::{Attempt, Executor, Natively, Stuck};
use crate::symbols::code;

/// What has become of a displaced instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Performed {
    pub(crate) how: How,
    /// The signal with which the thread is to be resumed, or 0; `None` if it is not to be resumed: it has stopped for
    /// the next breakpoint already.
    pub(crate) signal: Option<i32>,
}

/// How a displaced instruction was performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// It was emulated to its end.
    Emulated,
    /// The thread has executed it itself, where it stands.
    Native,
    /// It has raised an exception.
    Faulted,
    /// The thread comes back to it, which is no other hit.
    Again,
    /// It was not: the thread is gone, or the breakpoint is.
    NotAtAll,
}

impl Performed {
    fn new(how: How, signal: i32) -> Performed {
        Performed { how, signal: Some(signal) }
    }
}

/// How a thread is to execute `displaced` itself.
fn steps(displaced: &Displaced) -> Natively {
    if code::repeats(displaced.instruction()) { Natively::Repeat } else { Natively::Once }
}

/// Performs `displaced`, whose breakpoint the thread is stopped for.
pub(crate) fn perform(thread: &mut impl Executor, displaced: &Displaced) -> Performed {
    /// An access that the thread could make, and we could not: another thread has mapped it meanwhile, or the kernel
    /// has grown the stack; or nobody but the thread itself can make it, as to the vvar page.
    const MOST_RETRIES: u32 = 2;
    let site = displaced.ip();
    let this_processor = displaced.touches().contains(Touches::THIS_CORE);
    // The processor looks at the flag before the instruction changes it.
    let stepping = thread.registers().rflags.contains(Rflags::TF);
    let mut retries = 0;
    loop {
        // A retry follows an access by the thread itself, which may have moved it.
        if this_processor && !thread.join_processor() {
            return natively(thread, site, steps(displaced));
        }
        let result = thread.execute(displaced);
        if thread.is_gone() {
            return Performed::new(How::NotAtAll, 0);
        }
        match result {
            Ok(Outcome::Next) if stepping => return traced(thread.trace(false), How::Emulated),
            Ok(Outcome::Next | Outcome::NextInhibited) => return Performed::new(How::Emulated, 0),
            Ok(Outcome::Again) if stepping => return traced(thread.trace(true), How::Again),
            Ok(Outcome::Again) => {}
            Ok(outcome @ (Outcome::Syscall | Outcome::Sysenter | Outcome::Interrupt(_))) => {
                return match thread.enter(displaced, outcome) {
                    Attempt::Unavailable | Attempt::Retry => natively(thread, site, Natively::Enter),
                    attempt => settled(attempt, How::Emulated),
                };
            }
            Ok(Outcome::Native) | Err(Stuck::Refused) => return natively(thread, site, steps(displaced)),
            Err(Stuck::Lost) => return Performed::new(How::NotAtAll, libc::SIGTRAP),
            Err(Stuck::Raised(exception)) => match thread.raise(exception, site) {
                Attempt::Retry if retries < MOST_RETRIES => retries += 1,
                Attempt::Retry | Attempt::Unavailable => return natively(thread, site, steps(displaced)),
                attempt => return settled(attempt, How::Faulted),
            },
        }
    }
}

/// Has the thread execute the instruction at `site` itself. Where it cannot be made to, the breakpoint goes.
pub(crate) fn natively(thread: &mut impl Executor, site: u64, how: Natively) -> Performed {
    match thread.natively(site, how) {
        Attempt::Unavailable | Attempt::Retry => Performed::new(How::NotAtAll, thread.stand_aside(site)),
        attempt => settled(attempt, How::Native),
    }
}

/// Raises the exception of an INT3 of the program itself at `site`, which is not 64-bit code.
pub(crate) fn breakpoint(thread: &mut impl Executor, site: u64) -> Performed {
    thread.go_to(site.wrapping_add(1));
    match thread.raise(Exception::Breakpoint, site) {
        Attempt::Unavailable | Attempt::Retry => Performed::new(How::NotAtAll, thread.stand_aside(site)),
        attempt => settled(attempt, How::Faulted),
    }
}

/// What it means that a thread has done what it should, `how` if it is to the end.
fn settled(attempt: Attempt, how: How) -> Performed {
    match attempt {
        Attempt::Done(signal) => Performed::new(how, signal),
        Attempt::Raised(signal) => Performed::new(How::Faulted, signal),
        Attempt::Partly(signal) => Performed::new(How::Again, signal),
        Attempt::Trapped => Performed { how, signal: None },
        Attempt::Retry | Attempt::Unavailable | Attempt::Gone => Performed::new(How::NotAtAll, 0),
    }
}

/// The same of a debug exception: whatever has become of that, the instruction is performed, or a part of it.
fn traced(attempt: Attempt, how: How) -> Performed {
    Performed { how, ..settled(attempt, how) }
}
