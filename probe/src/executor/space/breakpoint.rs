//! What is kept of each breakpoint: little, for there may be millions.

use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use emu::Displaced;
use iced_x86::Code;

use crate::executor::space::{INT3, LONGEST, Unplaceable};
use crate::symbols::code;
use crate::target::maps::Mapping;

/// What a mapping maps: with an address in it, it tells whether that still means what it meant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) dev: (u32, u32),
    pub(crate) inode: u64,
    /// What is to be added to an address to get the file offset. Where there is no file the mapping may begin
    /// elsewhere any time: the kernel splits and merges it.
    bias: Option<u64>,
}

impl Origin {
    pub(crate) fn of(mapping: &Mapping) -> Origin {
        let bias = (mapping.inode != 0).then(|| mapping.offset.wrapping_sub(mapping.start));
        Origin { dev: mapping.dev, inode: mapping.inode, bias }
    }

    /// The file offset of `address`, where there is a file.
    pub(crate) fn file_offset(&self, address: u64) -> Option<u64> {
        self.bias.map(|bias| address.wrapping_add(bias))
    }
}

/// An instruction that can be probed: the bytes that it was decoded from, and what is asked of it most often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Original {
    bytes: [u8; LONGEST],
    /// How many of them could be read.
    readable: u8,
    length: u8,
    code: Code,
}

impl Original {
    /// Decodes the instruction at the start of `bytes`, which are those at `address`, as many as could be read.
    pub(crate) fn decode(bytes: &[u8], address: u64) -> Result<(Original, Displaced), Unplaceable> {
        let displaced = code::decode(bytes, address).map_err(|why| {
            let length = why.code().map_or(bytes.len(), |_| code::length(bytes));
            Unplaceable::Instruction { why, bytes: bytes.get(..length).unwrap_or(bytes).to_vec() }
        })?;
        let mut kept = [0; LONGEST];
        let readable = kept.iter_mut().zip(bytes).map(|(kept, &byte)| *kept = byte).count();
        // No instruction is longer than 15 bytes.
        let (readable, length) = (readable as u8, displaced.length() as u8);
        Ok((Original { bytes: kept, readable, length, code: displaced.code() }, displaced))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.readable)).unwrap_or_default()
    }

    /// The byte that INT3 replaces.
    pub(crate) fn first(&self) -> u8 {
        self.bytes().first().copied().unwrap_or(INT3)
    }

    pub(crate) fn length(&self) -> usize {
        usize::from(self.length)
    }

    /// What the instruction is, and its length: the same wherever it is copied to.
    pub(crate) fn kind(&self) -> (Code, u8) {
        (self.code, self.length)
    }

    /// Whether it begins with a prefix behind which the program may jump.
    pub(crate) fn is_prefixed(&self) -> bool {
        is_legacy_prefix(self.first())
    }
}

/// A breakpoint.
#[derive(Clone, Debug)]
pub(crate) struct Breakpoint {
    /// The instruction that it displaced, from its first hit on.
    decoded: OnceLock<Box<Displaced>>,
    /// What is mapped here.
    pub(crate) origin: Arc<Origin>,
    /// The probes that want it.
    pub(crate) probes: Probes,
    /// How often it was hit.
    pub(crate) hits: Hits,
    original: Original,
    /// Whether a SIGTRAP with RIP just behind the first byte need not be ours: another instruction starts
    /// there.
    pub(crate) ambiguous: bool,
    /// Whether the program may write the instruction without our knowing, so that it is read again at each hit.
    pub(crate) changing: bool,
    /// Whether it is in a copy of the text that it was put into, which the program has made at the same address.
    pub(crate) in_copy: bool,
    /// Whether the dynamic linker calls this function when it has changed its list of objects.
    pub(crate) internal: bool,
}

impl Breakpoint {
    pub(super) fn new(original: Original, changing: bool, origin: Arc<Origin>) -> Breakpoint {
        Breakpoint {
            decoded: OnceLock::new(),
            origin,
            probes: Probes::default(),
            hits: Hits::default(),
            ambiguous: is_ambiguous(&original),
            original,
            changing,
            in_copy: false,
            internal: false,
        }
    }

    pub(crate) fn original(&self) -> &Original {
        &self.original
    }

    /// The instruction that it displaced, which is at `address`: decoded now, or before.
    pub(crate) fn displaced(&self, address: u64) -> Option<&Displaced> {
        if let Some(decoded) = self.decoded.get() {
            return Some(decoded);
        }
        // It was when the breakpoint was placed, and nothing else can come of the same bytes.
        let (_, displaced) = Original::decode(self.original.bytes(), address).ok()?;
        Some(self.decoded.get_or_init(|| Box::new(displaced)))
    }

    /// Takes another displaced instruction.
    pub(super) fn displace(&mut self, original: Original, displaced: Displaced) {
        self.ambiguous = is_ambiguous(&original);
        self.original = original;
        match self.decoded.get_mut() {
            Some(decoded) => **decoded = displaced,
            None => self.decoded = OnceLock::from(Box::new(displaced)),
        }
    }

    /// Takes another first byte, until [`Breakpoint::displace`].
    pub(super) fn begin_with(&mut self, byte: u8) {
        if let Some(first) = self.original.bytes.first_mut() {
            *first = byte;
        }
    }
}

/// Whether an instruction may begin behind the first byte of that one.
fn is_ambiguous(original: &Original) -> bool {
    original.length == 1 || is_legacy_prefix(original.first())
}

/// Programs jump behind such a prefix on purpose, as glibc does to leave out LOCK.
fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// How often something has happened, modulo 2 to the power of 32.
#[derive(Debug, Default)]
pub(crate) struct Hits(AtomicU32);

impl Hits {
    /// Counts another one. Returns how many there were with it.
    pub(crate) fn count(&self) -> u32 {
        self.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }
}

impl Clone for Hits {
    fn clone(&self) -> Hits {
        Hits(AtomicU32::new(self.0.load(Ordering::Relaxed)))
    }
}

/// A probe, and what it wants a breakpoint for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purpose(usize);

impl Purpose {
    /// It is a site of the probe with that index.
    pub(crate) fn site(probe: usize) -> Purpose {
        Purpose(probe << 1)
    }

    /// Calls that have come by a site of that probe return to it.
    pub(crate) fn return_site(probe: usize) -> Purpose {
        Purpose(probe << 1 | 1)
    }

    /// The index of the probe.
    pub(crate) fn probe(self) -> usize {
        self.0 >> 1
    }

    pub(crate) fn is_return_site(self) -> bool {
        self.0 & 1 != 0
    }
}

/// The probes that want a breakpoint. Mostly it is one.
#[derive(Clone, Debug, Default)]
pub(crate) enum Probes {
    #[default]
    None,
    One(Purpose),
    #[expect(clippy::box_collection, reason = "it is seldom, and the others are not to pay for it")]
    Several(Box<Vec<Purpose>>),
}

impl Probes {
    /// Adds `probe` unless it is there.
    pub(super) fn add(&mut self, probe: Purpose) {
        if self.contains(&probe) {
            return;
        }
        match self {
            Probes::None => *self = Probes::One(probe),
            Probes::One(first) => *self = Probes::Several(Box::new(vec![*first, probe])),
            Probes::Several(all) => all.push(probe),
        }
    }

    pub(super) fn remove(&mut self, probe: Purpose) {
        match self {
            Probes::One(one) if *one == probe => *self = Probes::None,
            Probes::Several(all) => all.retain(|&other| other != probe),
            Probes::None | Probes::One(_) => {}
        }
    }
}

impl Deref for Probes {
    type Target = [Purpose];

    fn deref(&self) -> &[Purpose] {
        match self {
            Probes::None => &[],
            Probes::One(probe) => std::slice::from_ref(probe),
            Probes::Several(all) => all,
        }
    }
}

/// What is left to know of a breakpoint that was removed.
#[derive(Clone, Debug)]
pub(super) struct Removed {
    pub(super) origin: Arc<Origin>,
    pub(super) original: u8,
    pub(super) changing: bool,
    length: u8,
    code: Code,
}

impl Removed {
    pub(super) fn of(breakpoint: &Breakpoint) -> Removed {
        let &Breakpoint { ref origin, ref original, changing, .. } = breakpoint;
        let (code, length) = original.kind();
        Removed { origin: Arc::clone(origin), original: original.first(), changing, length, code }
    }

    /// Of a copy of one, of which nothing else is known than the byte that belongs there.
    pub(super) fn of_copy(original: u8, origin: Arc<Origin>) -> Removed {
        Removed { origin, original, changing: true, length: 0, code: Code::INVALID }
    }

    /// What the displaced instruction was, and its length.
    pub(super) fn kind(&self) -> (Code, u8) {
        (self.code, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breakpoint_is_small() {
        // A hundred thousand of them, with all that is kept of each probe, are to fit into 20 MB.
        assert!(size_of::<Breakpoint>() <= 72, "{}", size_of::<Breakpoint>());
        assert!(size_of::<Removed>() <= 16, "{}", size_of::<Removed>());
    }

    #[test]
    fn probes_are_a_set_in_the_order_of_placement() {
        let [one, two, back, other] =
            [Purpose::site(1), Purpose::site(2), Purpose::return_site(1), Purpose::return_site(2)];
        let mut probes = Probes::default();
        for probe in [back, one, back, two] {
            probes.add(probe);
        }
        assert_eq!(*probes, [back, one, two]);
        for (probe, left) in [(back, &[one, two][..]), (other, &[one, two]), (two, &[one]), (one, &[])] {
            probes.remove(probe);
            assert_eq!(&*probes, left);
        }
        probes.add(two);
        probes.remove(other);
        assert_eq!(*probes, [two]);
        probes.remove(two);
        assert!(probes.is_empty());
        assert_eq!([one, back].map(|probe| (probe.probe(), probe.is_return_site())), [(1, false), (1, true)]);
    }
}
