//! What processes do with SIGTRAP. A breakpoint's signal is forced through: where the thread blocks it, or its process
//! ignores it, the kernel resets the action to the default, of which only the handler is lost, and the thread never takes
//! it. So what the action was must be known before, and is put back by a system call that the thread makes for us.
//!
//! It is known of a process that was started with SIGTRAP ignored; of one that has taken a signal of its own, whose handler
//! begins where the thread is then; and of one that had a handler when it was attached to, or when it makes a thread, which
//! is asked for it. While a handler runs, of whichever signal, that has SIGTRAP blocked, its thread stops at system calls, so
//! that a handler that the program sets anew, or gives up, is not put back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use rustc_hash::FxHashMap;

use crate::engine::tracer::Tracer;
use crate::executor::ptrace::call::{Call, Unmade};
use crate::executor::ptrace::registers::rip;
use crate::executor::ptrace::stopped::{Resume, Stop, Stopped};
use crate::executor::ptrace::sys;
use crate::executor::ptrace::threads::{Gone, Report};
use crate::executor::space::{SharedSpace, Space};
use crate::target::procfs::{self, Disposition};
use crate::target::{lock, system};

const CALL: &str = "rt_sigaction(SIGTRAP)";
const DEFAULT: u64 = libc::SIG_DFL as u64;
const IGNORE: u64 = libc::SIG_IGN as u64;

/// An action as the kernel has it (`struct kernel_sigaction`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action {
    handler: u64,
    /// Flags, restorer and mask.
    rest: [u64; 3],
}

impl Action {
    const LENGTH: usize = 32;

    fn parse(bytes: &[u8; Action::LENGTH]) -> Action {
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let [handler, rest @ ..] = words;
        Action { handler, rest }
    }

    fn bytes(self) -> [u8; Action::LENGTH] {
        let [flags, restorer, mask] = self.rest;
        let mut bytes = [0; Action::LENGTH];
        for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip([self.handler, flags, restorer, mask]) {
            *place = word.to_le_bytes();
        }
        bytes
    }
}

/// What is known of a process's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// That it is one of the program's own, which nobody has asked for.
    Unasked,
    /// The same, and why it cannot be had.
    Unanswered(Errno),
    /// What it was when it was seen last: a handler, or that the signal is ignored.
    Action {
        handler: u64,
        /// Flags, restorer and mask, once they have been asked for.
        rest: Option<[u64; 3]>,
        /// Whether the kernel has the default in its place.
        lost: bool,
    },
    /// That the program has given it up.
    Default,
    /// That it is lost, which has been told.
    Lost,
}

impl Known {
    fn new(handler: u64, rest: Option<[u64; 3]>) -> Known {
        match handler {
            DEFAULT => Known::Default,
            handler => Known::Action { handler, rest, lost: false },
        }
    }

    fn is_lost(self) -> bool {
        matches!(self, Known::Action { handler: IGNORE, lost: true, .. })
    }
}

/// What is known of the actions of all processes.
#[derive(Debug, Default)]
pub(crate) struct Dispositions {
    by_pid: Mutex<FxHashMap<i32, Arc<Mutex<Known>>>>,
    /// Whether there ever were any, which each hit asks.
    any: AtomicBool,
}

impl Dispositions {
    fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    fn of(&self, pid: i32) -> Option<Known> {
        lock(&self.by_pid).get(&pid).map(|known| *lock(known))
    }

    /// Of this process, and those that share its actions.
    fn set(&self, pid: i32, known: Known) {
        let mut all = lock(&self.by_pid);
        match all.get(&pid) {
            Some(place) => *lock(place) = known,
            None => {
                self.any.store(true, Ordering::Relaxed);
                all.insert(pid, Arc::new(Mutex::new(known)));
            }
        }
    }

    /// A process has made another one.
    fn inherit(&self, parent: i32, child: i32, shared: bool) {
        let mut all = lock(&self.by_pid);
        if let Some(known) = all.get(&parent) {
            let known = if shared { Arc::clone(known) } else { Arc::new(Mutex::new(*lock(known))) };
            all.insert(child, known);
        }
    }

    pub(crate) fn forget(&self, pid: i32) {
        lock(&self.by_pid).remove(&pid);
    }
}

impl Tracer {
    /// Looks at what a process does with SIGTRAP that has just been attached to.
    pub(crate) fn look_at_disposition(&self, pid: i32) {
        let dispositions = &self.shared.dispositions;
        match procfs::disposition(pid, libc::SIGTRAP) {
            Some(Disposition::Caught) => dispositions.set(pid, Known::Unasked),
            Some(Disposition::Ignored) => dispositions.set(pid, Known::new(IGNORE, None)),
            Some(Disposition::Default) | None => {}
        }
    }

    /// The same of one that executes another program.
    pub(crate) fn inherit_disposition(&mut self, stopped: &mut Stopped, space: &Space) {
        let pid = stopped.tid();
        let before = self.shared.dispositions.of(pid);
        let is_ignored = procfs::disposition(pid, libc::SIGTRAP) == Some(Disposition::Ignored);
        let is_lost = before.is_some_and(Known::is_lost);
        self.shared.dispositions.forget(pid);
        // The kernel leaves nothing else of it.
        let action = Action { handler: IGNORE, rest: [0; 3] };
        if is_lost {
            let set = self.set_action(stopped, space, action);
            self.tell_unmade(stopped, set);
        }
        if is_ignored || is_lost {
            self.shared.dispositions.set(pid, Known::new(action.handler, Some(action.rest)));
        }
    }

    /// A process has made another one, which has not run yet.
    pub(crate) fn copy_disposition(&mut self, pid: i32, child: &mut Stopped, child_pid: i32, space: &Space) {
        let shared = system::same_actions(pid, child_pid).unwrap_or(false);
        self.shared.dispositions.inherit(pid, child_pid, shared);
        if !shared && self.shared.dispositions.of(child_pid).is_some_and(Known::is_lost) {
            self.put_back_action(child, child_pid, space);
        }
    }

    /// A process has made a thread, which has not run yet, and which may block everything at first.
    pub(crate) fn ask_newborn(&mut self, pid: i32, child: &mut Stopped, space: &Space) {
        let known = self.shared.dispositions.of(pid);
        let unknown = matches!(known, None | Some(Known::Unasked | Known::Default));
        if unknown && procfs::catches(child.tid(), libc::SIGTRAP) {
            self.ask(child, pid, space);
        }
    }

    /// Puts right what the kernel has done, if it has, to have a thread stop for a breakpoint: its mask, and its process's
    /// action. It is in that stop afterwards.
    pub(crate) fn put_back_trap(&mut self, stopped: &mut Stopped, space: &SharedSpace) {
        let blocked = self.threads.put_back_mask(stopped);
        if !blocked && !self.shared.dispositions.any() {
            return;
        }
        let Some(pid) = self.threads.get(stopped.tid()).map(|thread| thread.pid) else { return };
        let info = if blocked { stopped.signal_info().ok() } else { None };
        match self.shared.dispositions.of(pid) {
            None if blocked => self.suspect(stopped, pid, &space.read()),
            Some(Known::Unasked) if blocked => self.lose(stopped, pid, Errno::ENODATA),
            Some(Known::Unanswered(error)) if blocked => self.lose(stopped, pid, error),
            Some(Known::Unasked) => self.ask(stopped, pid, &space.read()),
            Some(Known::Action { handler, .. }) if blocked || handler == IGNORE => {
                self.put_back_action(stopped, pid, &space.read());
            }
            _ => {}
        }
        if let Some(info) = info.filter(|info| info.si_code <= 0) {
            self.hold_back(stopped, pid, info);
        }
    }

    /// A breakpoint's signal has been taken for one that somebody had sent, and which the thread blocks: it waits again.
    fn hold_back(&mut self, stopped: &Stopped, pid: i32, info: libc::siginfo_t) {
        let tid = stopped.tid();
        if let Some(thread) = self.threads.get_mut(tid)
            && !sys::is_own(&info)
        {
            thread.held_trap = Some(Box::new(sys::Info(info)));
        }
        self.threads.note(tid, "tgkill", sys::send(pid, tid, libc::SIGTRAP));
    }

    /// A thread takes a signal that has been held back: it says what it did.
    fn restore_info(&mut self, stopped: &Stopped) {
        let tid = stopped.tid();
        if let Some(info) = self.threads.get_mut(tid).and_then(|thread| thread.held_trap.take())
            && stopped.signal_info().is_ok_and(|info| sys::is_own(&info))
        {
            self.threads.note(tid, "PTRACE_SETSIGINFO", stopped.set_signal_info(&info.0));
        }
    }

    /// The same of a thread that was served, where the kernel has had it step.
    pub(crate) fn put_back_stepped(&mut self, stopped: &mut Stopped, space: &SharedSpace) {
        let stepped = std::mem::take(&mut self.threads.has_stepped);
        if stepped && self.shared.dispositions.any() && stopped.stop == Stop::Signal(libc::SIGTRAP) {
            let pid = self.threads.get(stopped.tid()).map_or(0, |thread| thread.pid);
            if let Some(Known::Action { handler: IGNORE, .. }) = self.shared.dispositions.of(pid) {
                self.put_back_action(stopped, pid, &space.read());
            }
        }
    }

    /// Puts the action of a process back that is known, where the default is in its place, unless the program has set it.
    fn put_back_action(&mut self, stopped: &mut Stopped, pid: i32, space: &Space) {
        let known = self.shared.dispositions.of(pid);
        let Some(Known::Action { handler, rest, lost }) = known else { return };
        // To ignore a signal discards it, also that of a breakpoint which another thread has just reached.
        if handler == IGNORE && self.threads.register.threads_of(pid) > 1 {
            return self.shared.dispositions.set(pid, Known::Action { handler, rest, lost: true });
        }
        match self.replace_default(stopped, space, handler, rest) {
            Ok(Action { handler, rest }) => {
                self.shared.dispositions.set(pid, Known::new(handler, Some(rest)))
            }
            Err(Unmade::Gone) => {}
            Err(Unmade::Failed(error)) if handler == IGNORE => {
                if !lost {
                    self.threads.note::<()>(stopped.tid(), CALL, Err(error));
                }
                self.shared.dispositions.set(pid, Known::Action { handler, rest, lost: true });
            }
            Err(Unmade::Failed(error)) => self.lose(stopped, pid, error),
        }
    }

    /// Has an action be what it was, if it is the default, and the rest of it is as it was, so far as that is known.
    fn replace_default(
        &mut self,
        stopped: &mut Stopped,
        space: &Space,
        handler: u64,
        rest: Option<[u64; 3]>,
    ) -> Result<Action, Unmade> {
        let now = match rest {
            // Nobody else is there who could see it meanwhile.
            Some(rest) if handler == IGNORE => self.exchange(stopped, space, Action { handler, rest })?,
            _ => self.action(stopped, space)?,
        };
        let is_lost = now.handler == DEFAULT && rest.is_none_or(|rest| rest == now.rest);
        let action = Action { handler: if is_lost { handler } else { now.handler }, ..now };
        let is_set = if rest.is_some() && handler == IGNORE { is_lost } else { !is_lost };
        if !is_set {
            self.set_action(stopped, space, action)?;
        }
        Ok(action)
    }

    /// Asks for an action that is not lost.
    fn ask(&mut self, stopped: &mut Stopped, pid: i32, space: &Space) {
        match self.action(stopped, space) {
            Ok(Action { handler, rest }) => {
                self.shared.dispositions.set(pid, Known::new(handler, Some(rest)))
            }
            Err(Unmade::Gone) => {}
            // Nothing is lost so far.
            Err(Unmade::Failed(error)) => self.shared.dispositions.set(pid, Known::Unanswered(error)),
        }
    }

    /// A thread blocked SIGTRAP, and its process's action is not known: if the program has set one, it may be lost.
    fn suspect(&mut self, stopped: &mut Stopped, pid: i32, space: &Space) {
        /// Which every C library gives, and no program that was just executed has.
        const SA_RESTORER: u64 = 0x0400_0000;
        match self.action(stopped, space) {
            Ok(Action { handler: DEFAULT, rest: [flags, ..] }) if flags & SA_RESTORER == 0 => {}
            _ => self.lose(stopped, pid, Errno::ENODATA),
        }
    }

    /// Says, once, that a process's action is lost, or cannot be put back.
    fn lose(&mut self, stopped: &Stopped, pid: i32, error: Errno) {
        if self.shared.dispositions.of(pid) != Some(Known::Lost) {
            self.shared.dispositions.set(pid, Known::Lost);
            self.threads.note::<()>(stopped.tid(), CALL, Err(error));
        }
    }

    fn tell_unmade(&mut self, stopped: &Stopped, result: Result<(), Unmade>) {
        if let Err(Unmade::Failed(error)) = result {
            self.threads.note::<()>(stopped.tid(), CALL, Err(error));
        }
    }

    /// A thread is about to take a SIGTRAP that is none of a breakpoint's.
    pub(crate) fn take_own_trap(&mut self, stopped: Stopped) {
        let tid = stopped.tid();
        self.restore_info(&stopped);
        let pid = self.threads.get(tid).map_or(0, |thread| thread.pid);
        let caught = procfs::catches(tid, libc::SIGTRAP);
        let ignored = self.shared.dispositions.of(pid).is_some_and(Known::is_lost);
        if caught {
            return self.enter_handler(stopped, pid, libc::SIGTRAP);
        }
        // What an instruction raises is forced through, whoever ignores it.
        let sent = ignored && stopped.signal_info().is_ok_and(|info| info.si_code <= 0);
        self.threads.resume(stopped, if sent { 0 } else { libc::SIGTRAP });
    }

    /// A thread is about to take a signal, whose handler may have SIGTRAP blocked.
    pub(crate) fn take_signal(&mut self, stopped: Stopped, signal: i32) {
        let tid = stopped.tid();
        let pid = self.threads.get(tid).map_or(0, |thread| thread.pid);
        let matters = self.shared.dispositions.any() && self.shared.dispositions.of(pid).is_some();
        match matters && procfs::catches(tid, signal) {
            true => self.enter_handler(stopped, pid, signal),
            false => self.threads.resume(stopped, signal),
        }
    }

    /// Has a thread take a signal for which there is a handler. SIGTRAP's is known then.
    fn enter_handler(&mut self, mut stopped: Stopped, pid: i32, signal: i32) {
        let tid = stopped.tid();
        match self.threads.run_on(&mut stopped, Resume::Step, signal) {
            Ok(true) => {}
            Ok(false) => return self.threads.resume(stopped, signal),
            Err(Gone) => return self.threads.resume(stopped, 0),
        }
        let is_trap = stopped.stop == Stop::Signal(libc::SIGTRAP);
        if !is_trap || !stopped.is_at_handler().unwrap_or(false) {
            // The action was another by then.
            if is_trap && stopped.is_step().unwrap_or(false) {
                return self.threads.resume(stopped, 0);
            }
            return self.threads.put_back(Report::Stopped(stopped));
        }
        if signal == libc::SIGTRAP
            && let Some(handler) = self.threads.note(tid, "PTRACE_PEEKUSER", rip(&stopped))
        {
            // One that is for once is the default again.
            let stays = procfs::catches(tid, libc::SIGTRAP);
            let known = if stays { Known::new(handler, None) } else { Known::Default };
            self.shared.dispositions.set(pid, known);
        }
        self.threads.begin_handler(&stopped);
        self.threads.resume(stopped, 0);
    }

    /// Whether a thread stops at its system calls because it is in a handler that has SIGTRAP blocked.
    pub(crate) fn is_handling(&self, tid: i32) -> bool {
        self.threads.is_handling(tid) && !self.regions.contains_key(&tid)
    }

    /// Such a thread is in a system call, or at its end: it may set the action, or end its handler.
    pub(crate) fn see_call(&mut self, stopped: Stopped) {
        let tid = stopped.tid();
        if let (Ok(registers), Some(thread)) = (stopped.registers(), self.threads.get(tid)) {
            let (pid, space) = (thread.pid, self.shared.space(thread.space));
            let sets = registers.orig_rax.cast_signed() == libc::SYS_rt_sigaction
                && registers.rdi == libc::SIGTRAP as u64
                && registers.rsi != 0
                && registers.rax == 0;
            let mut handler = [0; 8];
            if sets
                && let Some(space) = space
                && space.read().read_raw(registers.rsi, &mut handler).is_ok_and(|read| read == handler.len())
            {
                self.shared.dispositions.set(pid, Known::new(u64::from_le_bytes(handler), None));
            }
        }
        self.threads.end_handler(&stopped);
        self.threads.resume(stopped, 0);
    }

    /// Whether the action of a thread's process is to be put back when the process is left.
    pub(crate) fn has_lost_disposition(&self, tid: i32) -> bool {
        self.shared.dispositions.any()
            && self
                .threads
                .get(tid)
                .and_then(|thread| self.shared.dispositions.of(thread.pid))
                .is_some_and(Known::is_lost)
    }

    /// Puts the action of a process back, of whose threads this is the last that is traced, and which is about to be let go.
    pub(crate) fn leave_disposition(&mut self, stopped: &mut Stopped) {
        let Some(thread) = self.threads.get(stopped.tid()) else { return };
        let (pid, space) = (thread.pid, self.shared.space(thread.space));
        let takes_calls = matches!(stopped.stop, Stop::Interrupted | Stop::Signal(libc::SIGTRAP));
        if let Some(space) = space
            && self.has_lost_disposition(stopped.tid())
            && self.threads.register.threads_of(pid) == 1
        {
            if takes_calls {
                self.put_back_action(stopped, pid, &space.read());
            }
            if self.has_lost_disposition(stopped.tid()) {
                self.lose(stopped, pid, Errno::EBUSY);
            }
        }
    }

    /// What the process of a thread does with SIGTRAP.
    fn action(&mut self, stopped: &mut Stopped, space: &Space) -> Result<Action, Unmade> {
        let arguments = |place| [libc::SIGTRAP as u64, 0, place, 8];
        let [bytes] = self.call(stopped, space, arguments, [[0; Action::LENGTH]])?;
        Ok(Action::parse(&bytes))
    }

    fn set_action(&mut self, stopped: &mut Stopped, space: &Space, action: Action) -> Result<(), Unmade> {
        let arguments = |place| [libc::SIGTRAP as u64, place, 0, 8];
        self.call(stopped, space, arguments, [action.bytes()]).map(drop)
    }

    /// Sets it, and says what it was.
    fn exchange(&mut self, stopped: &mut Stopped, space: &Space, action: Action) -> Result<Action, Unmade> {
        let arguments = |place| [libc::SIGTRAP as u64, place, place + Action::LENGTH as u64, 8];
        let mut memory = [[0; Action::LENGTH]; 2];
        memory[0] = action.bytes();
        let memory = self.call(stopped, space, arguments, memory)?;
        Ok(Action::parse(&memory[1]))
    }

    fn call<const COUNT: usize>(
        &mut self,
        stopped: &mut Stopped,
        space: &Space,
        arguments: fn(u64) -> [u64; 4],
        memory: [[u8; Action::LENGTH]; COUNT],
    ) -> Result<[[u8; Action::LENGTH]; COUNT], Unmade> {
        let options = (Tracer::REPORTED | self.shared.special()).bits();
        let call = Call { number: libc::SYS_rt_sigaction, arguments, memory };
        self.threads.call(stopped, space, options, &call)
    }
}
