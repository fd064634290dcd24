//! Calls that have not returned yet: where each is to return to, and with which stack pointer. Nothing of that is in the
//! target.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::engine::call::Value;
use crate::engine::tail::Jumps;
use crate::executor::ptrace::threads::SpaceId;
use crate::target::lock;

/// Whose a stack is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A thread has it from its start to its end.
    Thread { pid: i32, tid: i32 },
    /// A goroutine has it, whichever thread runs that. It moves.
    Goroutine(u64),
    /// It is another, such as a coroutine's or one for signals, of which a place is known, whichever thread is there.
    Nobody(u64),
}

/// A place on a stack to which a call returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) space: SpaceId,
    pub(crate) owner: Owner,
    /// The stack pointer behind the return; of a goroutine, less the upper end of its stack. What is further out has more.
    pub(crate) position: u64,
    /// That end.
    pub(crate) top: u64,
}

/// A call that has not returned.
#[derive(Debug)]
pub(crate) struct Frame {
    /// The index of the probe.
    pub(crate) probe: usize,
    /// The address of the function.
    pub(crate) function: u64,
    /// The return address.
    pub(crate) back: u64,
    /// As of its [`Spot`].
    pub(crate) position: u64,
    pub(crate) top: u64,
    /// A digest of the registers that the function preserves.
    pub(crate) kept: u64,
    pub(crate) entered_ns: u64,
    pub(crate) value: Box<dyn Value>,
    /// Whether it was made by a fork, so that it is no other call.
    pub(crate) copied: bool,
}

/// Calls on one stack, the outermost first.
type Frames = Vec<Frame>;

type Shard = HashMap<(SpaceId, Owner), Frames>;

/// A file: its device and inode.
type File = ((u32, u32), u64);

/// How many locks there are, so that tracers seldom wait for each other.
const SHARDS: usize = 16;

/// All calls that have not returned, of all address spaces.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    shards: [Mutex<Shard>; SHARDS],
    state: RandomState,
    count: AtomicUsize,
    /// Whether there have been calls of goroutines.
    goroutines: AtomicBool,
    /// What code says of two functions, by address space.
    jumps: Mutex<HashMap<(SpaceId, u64, u64), Jumps>>,
    /// Whether files are Go's, by device and inode.
    go: Mutex<HashMap<File, bool>>,
}

/// What is pending at a place to which a call has just been made.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The functions that are to return from there, in the order of their entry.
    pub(crate) functions: Vec<u64>,
    /// [`Frame::kept`] and [`Frame::top`] of the last.
    pub(crate) kept: u64,
    pub(crate) top: u64,
}

impl Calls {
    /// As many calls as these are followed at once.
    const MOST: usize = 1 << 20;

    fn shard(&self, space: SpaceId, owner: Owner) -> &Mutex<Shard> {
        // The remainder is less than there are.
        &self.shards[self.state.hash_one((space, owner)) as usize % SHARDS]
    }

    /// The calls on that stack, to be changed; a stack without any is forgotten.
    fn on_stack<R>(&self, spot: &Spot, change: impl FnOnce(&mut Frames) -> R) -> R {
        let key = (spot.space, spot.owner);
        let mut shard = lock(self.shard(spot.space, spot.owner));
        let frames = shard.entry(key).or_default();
        let before = frames.len();
        let result = change(frames);
        let after = frames.len();
        if after == 0 {
            shard.remove(&key);
        }
        self.count.fetch_add(after, Ordering::Relaxed);
        self.count.fetch_sub(before, Ordering::Relaxed);
        result
    }

    /// A thread is at `spot`, to which a call that returns to `back` was made, or has returned: what is further in, or
    /// was to return elsewhere from there, never will. Says what is pending, and what is not any more.
    pub(crate) fn arrive(&self, spot: &Spot, back: u64) -> (Pending, Vec<Frame>) {
        self.on_stack(spot, |frames| {
            let outer =
                frames.iter().rposition(|frame| frame.position > spot.position).map_or(0, |index| index + 1);
            let stays = |frame: &Frame| frame.position == spot.position && frame.back == back;
            let (here, gone): (Frames, Frames) = frames.drain(outer..).partition(stays);
            let last = here.last();
            let pending = Pending {
                functions: here.iter().map(|frame| frame.function).collect(),
                kept: last.map_or(0, |frame| frame.kept),
                top: last.map_or(0, |frame| frame.top),
            };
            frames.extend(here);
            (pending, gone)
        })
    }

    /// Takes the calls that are to return from `spot`, in the order of their entry.
    pub(crate) fn take(&self, spot: &Spot) -> Vec<Frame> {
        self.on_stack(spot, |frames| {
            let here = frames.iter().rposition(|frame| frame.position != spot.position);
            frames.split_off(here.map_or(0, |index| index + 1))
        })
    }

    /// The stack of a goroutine has moved, and begins the last call at `spot` again.
    pub(crate) fn move_to(&self, spot: &Spot) {
        self.on_stack(spot, |frames| {
            let here = frames.iter_mut().rev().take_while(|frame| frame.position == spot.position);
            here.for_each(|frame| frame.top = spot.top);
        });
    }

    /// Takes up a call. Says whether it could be: there may be too many.
    pub(crate) fn push(&self, spot: &Spot, frame: Frame) -> bool {
        if self.count.load(Ordering::Relaxed) >= Calls::MOST {
            return false;
        }
        if matches!(spot.owner, Owner::Goroutine(_)) {
            self.goroutines.store(true, Ordering::Relaxed);
        }
        self.on_stack(spot, |frames| frames.push(frame));
        true
    }

    /// Whether there may be calls of goroutines.
    pub(crate) fn has_goroutines(&self) -> bool {
        self.goroutines.load(Ordering::Relaxed)
    }

    /// Takes the calls away whose stack, or which themselves, are not `wanted` any more.
    fn extract(&self, gone: impl Fn(SpaceId, Owner, &Frame) -> bool) -> Vec<Frame> {
        let mut taken = Vec::new();
        if self.count.load(Ordering::Relaxed) == 0 {
            return taken;
        }
        for shard in &self.shards {
            lock(shard).retain(|&(space, owner), frames| {
                taken.extend(frames.extract_if(.., |frame| gone(space, owner, frame)));
                !frames.is_empty()
            });
        }
        self.count.fetch_sub(taken.len(), Ordering::Relaxed);
        taken
    }

    /// Takes away those of a probe.
    pub(crate) fn of_probe(&self, probe: usize) -> Vec<Frame> {
        self.extract(|_, _, frame| frame.probe == probe)
    }

    /// Takes away those of a thread.
    pub(crate) fn of_thread(&self, thread: i32) -> Vec<Frame> {
        self.extract(|_, owner, _| matches!(owner, Owner::Thread { tid, .. } if tid == thread))
    }

    /// Takes away those of the threads of a process.
    pub(crate) fn of_process(&self, process: i32) -> Vec<Frame> {
        self.extract(|_, owner, _| matches!(owner, Owner::Thread { pid, .. } if pid == process))
    }

    /// Takes away those in an address space, and forgets what is known of it.
    pub(crate) fn in_space(&self, gone: SpaceId) -> Vec<Frame> {
        lock(&self.jumps).retain(|&(space, ..), _| space != gone);
        self.extract(|space, _, _| space == gone)
    }

    /// Takes all away.
    pub(crate) fn clear(&self) -> Vec<Frame> {
        lock(&self.jumps).clear();
        self.extract(|_, _, _| true)
    }

    /// Thread `parent` has made process `child`, which goes on where it is, in the address space `to`: the same, or a
    /// copy.
    pub(crate) fn copy(&self, from: SpaceId, parent: i32, to: SpaceId, child: i32) {
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut copies = Vec::new();
        for shard in &self.shards {
            let shard = lock(shard);
            let of_space = shard.iter().filter(|((space, _), _)| *space == from);
            let copied = of_space.filter_map(|(&(_, owner), frames)| {
                let owner = match owner {
                    Owner::Thread { tid, .. } if tid == parent => Owner::Thread { pid: child, tid: child },
                    Owner::Goroutine(_) | Owner::Nobody(_) if from != to => owner,
                    _ => return None,
                };
                Some((owner, frames.iter().map(Frame::copy).collect::<Frames>()))
            });
            copies.extend(copied);
        }
        for (owner, frames) in copies {
            self.count.fetch_add(frames.len(), Ordering::Relaxed);
            lock(self.shard(to, owner)).insert((to, owner), frames);
        }
    }

    /// Whether jumps lead from `function` to `other`: as known, or as `look` finds.
    pub(crate) fn jumps(
        &self,
        space: SpaceId,
        function: u64,
        other: u64,
        look: impl FnOnce() -> Jumps,
    ) -> Jumps {
        const MOST: usize = 1 << 12;
        if let Some(&known) = lock(&self.jumps).get(&(space, function, other)) {
            return known;
        }
        let found = look();
        let mut jumps = lock(&self.jumps);
        if jumps.len() >= MOST {
            jumps.clear();
        }
        jumps.insert((space, function, other), found);
        found
    }

    /// Whether a file is Go's: as known, or as `look` finds.
    pub(crate) fn is_go(&self, dev: (u32, u32), inode: u64, look: impl FnOnce() -> bool) -> bool {
        if let Some(&known) = lock(&self.go).get(&(dev, inode)) {
            return known;
        }
        let found = look();
        lock(&self.go).insert((dev, inode), found);
        found
    }
}

impl Frame {
    fn copy(&self) -> Frame {
        let &Frame { probe, function, back, position, top, kept, entered_ns, ref value, .. } = self;
        let value = (**value).copy();
        Frame { probe, function, back, position, top, kept, entered_ns, value, copied: true }
    }
}
