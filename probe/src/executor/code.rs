//! Code that is executed instruction by instruction without a stop in between: decoded once, and found again by address.
//! What follows in memory follows here, so that only a jump is looked up.

use std::cell::Cell;
use std::collections::HashMap;

use bitflags::bitflags;
use emu::{Displaced, Touches};
use iced_x86::{FlowControl, Mnemonic};

use crate::executor::ptrace::changes_fixed_flags;
use crate::executor::ptrace::kept::Fast;
use crate::executor::ptrace::shadow;
use crate::executor::space::LONGEST;
use crate::executor::{Steadiness, TextMemory};
use crate::symbols::code;
use crate::target::maps::Mapping;

bitflags! {
    /// What is to be known of an instruction before or after it is executed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Kind: u16 {
        /// There is a breakpoint.
        const SITE = 1 << 0;
        /// It is left to [`Executor::execute`](crate::executor::Executor::execute), which looks closer.
        const SLOW = 1 << 1;
        /// It touches extended registers.
        const EXTENDED = 1 << 2;
        /// It is in a restartable sequence, or announces one.
        const SEQUENCE = 1 << 3;
        /// It may write to memory.
        const WRITES = 1 << 4;
        /// What is behind it in memory is not behind it here.
        const LAST = 1 << 5;
        /// Others may write it, so that it is read again each time that a jump leads to it.
        const UNSTEADY = 1 << 6;
        /// Of the breakpoint it is only to be known how often a thread has come by.
        const COUNTED = 1 << 7;
        /// No store of the thread waits behind it.
        const ORDERS = 1 << 8;
    }
}

impl Kind {
    /// Whether a thread passes the breakpoint, as nothing else than that it is counted is in `stop`.
    #[inline]
    pub(crate) fn is_passed(self, stop: Kind) -> bool {
        self.contains(Kind::COUNTED) && self & stop == Kind::SITE
    }
}

/// A decoded instruction.
#[derive(Debug)]
pub(crate) struct Cached {
    pub(crate) displaced: Displaced,
    /// The address behind it.
    pub(crate) next: u64,
    pub(crate) kind: Kind,
    /// Where it last led to, and where that is here.
    link: Cell<(u64, u32)>,
    /// The bytes from here to the end of the block.
    bytes: Option<Box<[u8]>>,
}

/// Nothing begins there.
const NOWHERE: u64 = u64::MAX;
/// As many places as are found at once.
const SLOTS: usize = 4096;

/// Decoded instructions of one address space.
#[derive(Debug)]
pub(crate) struct CodeCache {
    all: Vec<Cached>,
    /// By address.
    starts: HashMap<u64, u32, Fast>,
    slots: Box<[(u64, u32)]>,
    /// What is mapped where they have been decoded from.
    grounds: Vec<Mapping>,
    /// Whether some are good only as long as the thread does not run.
    transient: bool,
}

impl CodeCache {
    /// So many are kept at most.
    const MOST: usize = 1 << 16;

    pub(crate) fn new() -> CodeCache {
        CodeCache {
            all: Vec::new(),
            starts: HashMap::default(),
            slots: vec![(NOWHERE, 0); SLOTS].into(),
            grounds: Vec::new(),
            transient: false,
        }
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.starts.clear();
        self.slots.fill((NOWHERE, 0));
        self.grounds.clear();
        self.transient = false;
    }

    /// Forgets what may have changed while somebody ran.
    pub(crate) fn look_anew(&mut self, memory: &mut impl TextMemory) {
        let is_same = |known: &Mapping| memory.mapping(known.start).as_ref() == Some(known);
        if self.transient || !self.grounds.iter().all(is_same) {
            self.clear();
            memory.forget_text();
        }
    }

    /// One that [`CodeCache::find`] or [`CodeCache::follow`] has found.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&Cached> {
        self.all.get(index as usize)
    }

    /// There is no breakpoint at the instruction any more that [`CodeCache::get`] has, if that is still the one at `address`.
    pub(crate) fn forget_site(&mut self, index: u32, address: u64) {
        if let Some(known) = self.all.get_mut(index as usize).filter(|known| known.displaced.ip() == address)
        {
            known.kind -= Kind::SITE | Kind::COUNTED;
        }
    }

    /// Where the instruction is to which one has led, if that is known and need not be looked at.
    #[inline]
    pub(crate) fn follow(&self, from: &Cached, address: u64) -> Option<u32> {
        let (known, index) = from.link.get();
        if known == address {
            return Some(index);
        }
        let (known, index) = self.slots[Self::slot(address)];
        if known != address {
            return None;
        }
        from.link.set((address, index));
        Some(index)
    }

    fn slot(address: u64) -> usize {
        // A remainder by SLOTS fits any usize.
        ((address ^ address >> 12) % SLOTS as u64) as usize
    }

    /// Where the instruction at `address` is, decoding it and some behind it if need be. `None` where it cannot be
    /// emulated, or cannot be executed at all.
    pub(crate) fn find(&mut self, address: u64, memory: &mut impl TextMemory) -> Option<u32> {
        if let Some(&index) = self.starts.get(&address) {
            let known = self.all.get(index as usize)?;
            if !known.kind.contains(Kind::UNSTEADY) {
                self.slots[Self::slot(address)] = (address, index);
                return Some(index);
            }
            if known.bytes.as_deref().is_some_and(|bytes| is_still(memory, address, bytes)) {
                return Some(index);
            }
            self.clear();
        }
        if self.all.len() >= Self::MOST {
            self.clear();
        }
        self.decode(address, memory)
    }

    /// Decodes from `address` on, up to where something else goes on, or to the end of the page.
    fn decode(&mut self, address: u64, memory: &mut impl TextMemory) -> Option<u32> {
        const PAGE: u64 = 4096;
        const BLOCK: u64 = 192;
        let ground = memory.mapping(address).filter(Mapping::is_executable)?;
        let steadiness = memory.steadiness(address);
        let (steady, end_of_ground) = (steadiness != Steadiness::None, ground.end);
        self.transient |= steadiness == Steadiness::Alone;
        if !self.grounds.contains(&ground) {
            self.grounds.push(ground);
        }
        let length = (PAGE - address % PAGE).min(BLOCK);
        let mut buffer = [0; BLOCK as usize + LONGEST];
        let read = memory.text(address, &mut buffer[..length as usize + LONGEST]);
        let first = u32::try_from(self.all.len()).ok()?;
        let mut offset = 0;
        while offset < length as usize {
            let bytes = buffer.get(offset..read).unwrap_or_default();
            let ip = address.wrapping_add(offset as u64);
            let Ok(displaced) = code::decode(bytes, ip) else { break };
            let end = offset + displaced.length();
            // Another mapping, which need not be executable.
            if ip.wrapping_add(displaced.length() as u64) > end_of_ground {
                break;
            }
            let mut kind = kind_of(&displaced);
            kind |= memory.site(ip);
            kind.set(Kind::SEQUENCE, memory.in_sequence(ip, displaced.length()));
            kind.set(Kind::UNSTEADY, !steady);
            let next = ip.wrapping_add(displaced.length() as u64);
            self.all.push(Cached { displaced, next, kind, link: Cell::new((NOWHERE, 0)), bytes: None });
            offset = end;
            if !goes_on_behind(displaced.instruction().flow_control()) {
                break;
            }
        }
        self.all.get(first as usize)?;
        if let Some(last) = self.all.last_mut() {
            last.kind |= Kind::LAST;
        }
        if !steady && let Some(first) = self.all.get_mut(first as usize) {
            first.bytes = buffer.get(..offset.min(read)).map(Into::into);
        }
        self.starts.insert(address, first);
        if steady {
            self.slots[Self::slot(address)] = (address, first);
        }
        Some(first)
    }
}

/// Whether what is behind such an instruction in memory may be executed behind it.
fn goes_on_behind(flow: FlowControl) -> bool {
    matches!(flow, FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend)
}

/// Whether the text at `address` is what it was.
fn is_still(memory: &mut impl TextMemory, address: u64, bytes: &[u8]) -> bool {
    let mut now = [0; 256];
    let Some(now) = now.get_mut(..bytes.len()) else { return false };
    memory.text(address, now) == bytes.len() && now == bytes
}

fn kind_of(displaced: &Displaced) -> Kind {
    let touches = displaced.touches();
    // Flags that only the thread can have, whatever depends on where it runs, and what the thread is asked for when memory
    // with keys is met.
    let slow = changes_fixed_flags(displaced)
        || touches.intersects(Touches::THIS_CORE | Touches::PKRU)
        || shadow::is_left_to_the_thread(displaced);
    let mut kind = Kind::empty();
    kind.set(Kind::SLOW, slow);
    kind.set(Kind::EXTENDED, touches.intersects(Touches::EXTENDED));
    kind.set(Kind::ORDERS, orders(displaced));
    kind.set(Kind::WRITES, touches.intersects(Touches::MEMORY_WRITE | Touches::ATOMIC));
    kind
}

/// Whether others are to see what was stored before such an instruction, which is neither a load nor left to the thread: it
/// takes the time, which others take, too, or waits for them. A barrier needs nothing, as a load behind it is enough.
fn orders(displaced: &Displaced) -> bool {
    use Mnemonic::{Pause, Rdpmc, Rdtsc, Rdtscp, Tpause, Umonitor, Umwait};
    matches!(displaced.instruction().mnemonic(), Pause | Rdpmc | Rdtsc | Rdtscp | Tpause | Umonitor | Umwait)
}
