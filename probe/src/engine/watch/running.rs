//! Watching by running on: each write of a thread is looked at, with what it has replaced.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::engine::hit::Action;
use crate::engine::run_on::{End, Step, What};
use crate::engine::watch::armed::{Armed, Cause, Seen};
use crate::engine::watch::watches::Ended;
use crate::engine::watch::{Change, Ending, Thread, Watches, Writer};
use crate::target::lock;
use crate::target::maps::{self, Permissions};

/// A piece of memory as it was, or is, whatever others have written since.
struct Piece<'a> {
    address: u64,
    bytes: &'a [u8],
}

impl Piece<'_> {
    /// Puts it over `bytes`, which were read from `address` on.
    fn cover(&self, address: u64, bytes: &mut [u8]) {
        for (index, &byte) in self.bytes.iter().enumerate() {
            let at = self.address.wrapping_add(index as u64).wrapping_sub(address);
            if let Some(there) = usize::try_from(at).ok().and_then(|at| bytes.get_mut(at)) {
                *there = byte;
            }
        }
    }
}

/// A write of an instruction.
struct Written {
    address: u64,
    old: Vec<u8>,
    new: Vec<u8>,
}

/// Whether other processes may write to some of the memory.
fn is_shared(pid: i32, ranges: &[Range<u64>]) -> bool {
    // It fails where the process has just been killed.
    let maps = maps::read(pid).unwrap_or_default();
    let is_shared = |address: u64| {
        maps::find(&maps, address).is_some_and(|mapping| mapping.perms.contains(Permissions::SHARED))
    };
    ranges.iter().any(|range| is_shared(range.start) || is_shared(range.end.saturating_sub(1)))
}

impl Armed {
    /// Looks at what a thread has done that runs on. It breaks when nobody wants to know any more.
    pub(crate) fn step(self: &Arc<Armed>, step: &mut Step<'_>, watches: &Watches) -> ControlFlow<()> {
        const RSP: usize = 4;
        if self.is_over() {
            return ControlFlow::Break(());
        }
        if !step.alone {
            self.others_ran.store(true, Ordering::Relaxed);
        }
        let (pid, tid) = (step.pid(), step.tid());
        let ended = |ending: Ending, action: Option<Action>| {
            if self.end() {
                watches.has_ended(Ended { watch: self.watched.id, pid, tid, ending, action });
            }
            ControlFlow::Break(())
        };
        let (action, reached) = match step.what() {
            What::End(end) => {
                let ending = match end {
                    End::Returned => Ending::Returned,
                    End::Left => Ending::Left,
                    _ => Ending::Stands,
                };
                return ended(ending, None);
            }
            What::SystemCall { number } => self.look(step, Writer::SystemCall { number, address: step.ip() }),
            What::Native => self.look(step, Writer::Instruction { address: step.ip() }),
            _ => self.look_at_writes(step),
        };
        match action {
            Some(Action::Stop | Action::Detach | Action::Remove) => return ended(Ending::Reached, action),
            _ if reached => return ended(Ending::Reached, None),
            _ => {}
        }
        let after = step.after();
        match &self.frame {
            Some(frame) if frame.is_left(after.gpr[RSP]) && after.rip == frame.ip => {
                ended(Ending::Returned, None)
            }
            Some(frame) if frame.is_left(after.gpr[RSP]) => ended(Ending::Left, None),
            _ => ControlFlow::Continue(()),
        }
    }

    /// Those writes of the instruction that meet what is watched, one after the other.
    fn look_at_writes(&self, step: &mut Step<'_>) -> (Option<Action>, bool) {
        let ranges: Vec<Range<u64>> = lock(&self.state).seen.ranges.clone();
        let meets = |address: u64, length: usize| {
            let end = address.saturating_add(length as u64);
            ranges.iter().any(|range| address < range.end && range.start < end)
        };
        let accesses = step.accesses();
        let writes = accesses.filter_map(|access| {
            let new = access.new.filter(|new| meets(access.address, new.len()))?;
            Some(Written { address: access.address, old: access.old.to_vec(), new: new.to_vec() })
        });
        let writes: Vec<Written> = writes.collect();
        let (mut asked, mut is_reached) = (None, false);
        for written in writes {
            let (action, reached) = self.tell(step, &written);
            asked = action.filter(|action| *action != Action::Continue).or(asked);
            is_reached |= reached;
        }
        (asked, is_reached)
    }

    /// Tells of a write, with exactly what it has replaced.
    fn tell(&self, step: &mut Step<'_>, written: &Written) -> (Option<Action>, bool) {
        let Written { address, old, new } = written;
        let mut thread = Thread::RunsOn(step);
        let mut with = |bytes: &[u8]| {
            let piece = Piece { address: *address, bytes };
            let mut memory = |address, bytes: &mut [u8]| {
                let read = thread.read_up_to(address, bytes);
                piece.cover(address, bytes.get_mut(..read).unwrap_or_default());
                read
            };
            Seen::look(&self.bound, &self.registers, &mut memory)
        };
        // Where it could be written and not read, nothing is known of what was there.
        let before = if old.len() == new.len() { with(old) } else { lock(&self.state).seen.clone() };
        let now = with(new);
        let writer = Writer::Instruction { address: step.ip() };
        self.tell_of(step, before, now, writer, true)
    }

    /// Looks whether the value is another one than was seen last, which is `writer`'s doing unless somebody else may write.
    fn look(&self, step: &mut Step<'_>, writer: Writer) -> (Option<Action>, bool) {
        let mut thread = Thread::RunsOn(step);
        let mut memory = |address, bytes: &mut [u8]| thread.read_up_to(address, bytes);
        let now = Seen::look(&self.bound, &self.registers, &mut memory);
        let before = lock(&self.state).seen.clone();
        let others_ran = self.others_ran.swap(!step.alone, Ordering::Relaxed);
        let is_known = before.parts == now.parts || !(others_ran || is_shared(step.pid(), &now.ranges));
        let writer = match writer {
            writer if is_known => writer,
            Writer::SystemCall { number, address } => {
                Writer::Meanwhile { system_call: Some(number), address }
            }
            _ => Writer::Meanwhile { system_call: None, address: step.ip() },
        };
        self.tell_of(step, before, now, writer, false)
    }

    fn tell_of(
        &self,
        step: &mut Step<'_>,
        before: Seen,
        now: Seen,
        writer: Writer,
        written: bool,
    ) -> (Option<Action>, bool) {
        let mut state = lock(&self.state);
        let by_others = before.parts != state.seen.parts;
        state.seen = now.clone();
        drop(state);
        lock(&self.watched.report).others += u64::from(by_others);
        let changed = before.parts != now.parts;
        let moved = before.address.zip(now.address).filter(|(before, now)| before != now);
        let cause = Cause { writer: writer.clone(), written, others: false };
        self.count(step.tid(), &cause, changed, false, moved.is_some());
        if !changed && moved.is_none() {
            return (None, false);
        }
        let mut change = Change {
            watch: self.watched.id,
            bound: &self.bound,
            thread: Thread::RunsOn(step),
            writer,
            old: before.taken,
            new: now.taken,
            overtaken: false,
            moved,
        };
        let action = (self.watched.handler)(&mut change);
        let mut thread = Thread::RunsOn(step);
        let reached = self.is_reached(&mut |address, bytes| thread.read_up_to(address, bytes), changed);
        (Some(action), reached)
    }
}
