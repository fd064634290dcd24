//! What is kept of each breakpoint: little, for there may be millions.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use emu::Displaced;
use iced_x86::{Code, MandatoryPrefix};
use once_cell::race::OnceBox;

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

/// What is kept of a breakpoint that is hit.
#[derive(Debug)]
struct OfHits {
    /// The instruction that it displaced.
    displaced: Displaced,
    /// How often it was hit.
    number: AtomicU32,
}

/// A breakpoint.
#[derive(Debug)]
pub(crate) struct Breakpoint {
    /// From its first hit on.
    hit: OnceBox<OfHits>,
    /// What is mapped here.
    pub(crate) origin: Arc<Origin>,
    /// The probes that want it.
    pub(crate) probes: Probes,
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
            hit: OnceBox::new(),
            origin,
            probes: Probes::default(),
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
        self.of_hits(address).map(|hit| &hit.displaced)
    }

    /// What is kept of it, from now on at the latest.
    fn of_hits(&self, address: u64) -> Option<&OfHits> {
        if let Some(hit) = self.hit.get() {
            return Some(hit);
        }
        // It was when the breakpoint was placed, and nothing else can come of the same bytes.
        let (_, displaced) = Original::decode(self.original.bytes(), address).ok()?;
        Some(self.hit.get_or_init(|| Box::new(OfHits { displaced, number: AtomicU32::new(1) })))
    }

    /// Whether all that want it only want to know how often it is reached.
    pub(crate) fn is_only_counted(&self) -> bool {
        !self.internal && !self.probes.is_empty() && self.probes.iter().all(|purpose| purpose.covers())
    }

    /// Counts a hit. Returns how many there were with it, modulo 2 to the power of 32.
    pub(crate) fn count_hit(&self) -> u32 {
        // At the first, nothing need be kept yet: it may be the last.
        self.hit.get().map_or(1, |hit| hit.number.fetch_add(1, Ordering::Relaxed).wrapping_add(1))
    }

    /// Counts so many hits of the breakpoint at `address`, modulo 2 to the power of 32.
    pub(crate) fn count_hits(&self, address: u64, times: u64) {
        if let Some(hit) = self.of_hits(address) {
            hit.number.fetch_add(times as u32, Ordering::Relaxed);
        }
    }

    /// Takes another displaced instruction.
    pub(super) fn displace(&mut self, original: Original, displaced: Displaced) {
        self.ambiguous = is_ambiguous(&original);
        self.original = original;
        let number = self.hit.get().map_or(1, |hit| hit.number.load(Ordering::Relaxed));
        self.hit = OnceBox::with_value(Box::new(OfHits { displaced, number: AtomicU32::new(number) }));
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
    let first = original.first();
    original.length == 1 || is_legacy_prefix(first) && !is_mandatory_prefix(first, original.code)
}

/// Whether a prefix is a part of the opcode, as of SSE's or ENDBR64's: behind it is another instruction altogether, which
/// is as little meant as one that begins behind any other byte.
fn is_mandatory_prefix(byte: u8, code: Code) -> bool {
    let mandatory = match code.op_code().mandatory_prefix() {
        MandatoryPrefix::P66 => 0x66,
        MandatoryPrefix::PF2 => 0xf2,
        MandatoryPrefix::PF3 => 0xf3,
        MandatoryPrefix::None | MandatoryPrefix::PNP => return false,
    };
    byte == mandatory
}

/// Programs jump behind such a prefix on purpose, as glibc does to leave out LOCK.
fn is_legacy_prefix(byte: u8) -> bool {
    matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3)
}

/// A copy of the address space has copies of its breakpoints, and hits of its own.
impl Clone for Breakpoint {
    fn clone(&self) -> Breakpoint {
        let &Breakpoint { ref origin, ref probes, original, ambiguous, changing, in_copy, internal, .. } =
            self;
        let (origin, probes) = (Arc::clone(origin), probes.clone());
        Breakpoint { hit: OnceBox::new(), origin, probes, original, ambiguous, changing, in_copy, internal }
    }
}

/// A probe, and what it wants a breakpoint for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Purpose(usize);

impl Purpose {
    const RETURN: usize = 1 << 0;
    const COVER: usize = 1 << 1;

    /// It is a site of the probe with that index.
    pub(crate) fn site(probe: usize) -> Purpose {
        Purpose(probe << 2)
    }

    /// Calls that have come by a site of that probe return to it.
    pub(crate) fn return_site(probe: usize) -> Purpose {
        Purpose(probe << 2 | Self::RETURN)
    }

    /// It is a site of that probe, which only wants to know how often it is reached.
    pub(crate) fn covered(probe: usize) -> Purpose {
        Purpose(probe << 2 | Self::COVER)
    }

    /// The index of the probe.
    pub(crate) fn probe(self) -> usize {
        self.0 >> 2
    }

    pub(crate) fn is_return_site(self) -> bool {
        self.0 & Self::RETURN != 0
    }

    pub(crate) fn covers(self) -> bool {
        self.0 & Self::COVER != 0
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
        // A hundred thousand of them, with all that is kept of each probe, are to fit into 20 MB. An allocation of up to 56
        // bytes takes 64 of memory.
        assert!(size_of::<Breakpoint>() <= 56, "{}", size_of::<Breakpoint>());
        assert!(size_of::<Removed>() <= 16, "{}", size_of::<Removed>());
    }

    #[test]
    fn where_programs_may_jump_behind_the_first_byte_the_signal_is_looked_at() {
        let cases: [(&[u8], bool); 11] = [
            // nop; push rbp; ret
            (&[0x90], true),
            (&[0x55], true),
            (&[0xc3], true),
            // lock inc dword [rdi]; rep movsb; mov eax, fs:[rdi]; add ax, cx
            (&[0xf0, 0xff, 0x07], true),
            (&[0xf3, 0xa4], true),
            (&[0x64, 0x8b, 0x07], true),
            (&[0x66, 0x01, 0xc8], true),
            // endbr64; paddd xmm0, xmm1; addsd xmm0, xmm1
            (&[0xf3, 0x0f, 0x1e, 0xfa], false),
            (&[0x66, 0x0f, 0xfe, 0xc1], false),
            (&[0xf2, 0x0f, 0x58, 0xc1], false),
            // mov rax, rcx
            (&[0x48, 0x89, 0xc8], false),
        ];
        for (bytes, ambiguous) in cases {
            let (original, _) = Original::decode(bytes, 0x1000).unwrap();
            assert_eq!(is_ambiguous(&original), ambiguous, "{bytes:02x?}");
        }
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
        let kinds = [one, back, Purpose::covered(1)]
            .map(|probe| (probe.probe(), probe.is_return_site(), probe.covers()));
        assert_eq!(kinds, [(1, false, false), (1, true, false), (1, false, true)]);
    }
}
