//! Where a jump can take the place of instructions.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use emu::{Displaced, Touches};
use iced_x86::{FlowControl, Mnemonic, OpKind, Register};

use crate::engine::own::NoJump;
use crate::executor::own;
use crate::executor::own::needed::read_code;
use crate::executor::own::sites::{self, JUMP, Jump, LONGEST_PATCH, State};
use crate::executor::rseq::Sequences;
use crate::executor::space::LONGEST;
use crate::target::INT3;
use crate::target::maps::Mapping;

/// How a jump takes the place of a site's instruction.
pub(super) enum Plan {
    /// So many prefixes that mean nothing and the jump replace it and those behind it. Each of those begins at a byte of
    /// the jump's displacement, which is an INT3: whoever is there, or gets there, has that instruction emulated.
    Several { prefixes: usize, behind: Vec<Displaced> },
    /// A short jump replaces it, which leads to the jump in the padding before it.
    Padding,
}

impl Plan {
    /// What an instruction allows for.
    pub(super) fn of(
        displaced: &Displaced,
        mapping: &Mapping,
        sequences: &Sequences,
        targets: &mut Targets,
    ) -> Result<Plan, NoJump> {
        if !can_be_done_in_a_stub(displaced) {
            return Err(NoJump::Instruction);
        }
        let (address, length) = (displaced.ip(), displaced.length());
        if length >= JUMP {
            return Ok(Plan::Several { prefixes: 0, behind: Vec::new() });
        }
        if length >= SHORT_JUMP && is_padding_before(address, mapping) {
            return Ok(Plan::Padding);
        }
        /// More than these only lead to displacements that no memory of ours is at.
        const MOST_PREFIXES: usize = LONGEST_PATCH - JUMP;
        let mut reason = NoJump::Short;
        for prefixes in (0..length.min(MOST_PREFIXES + 1)).rev() {
            let behind = match line(displaced, prefixes + JUMP, mapping, sequences) {
                Ok(behind) => behind,
                Err(why) => {
                    reason = why;
                    continue;
                }
            };
            let starts = || behind.iter().map(Displaced::ip);
            if byte_mask(address, prefixes, starts()).is_none() {
                continue;
            }
            if starts().any(|start| targets.contain(start, address, mapping)) {
                return Err(NoJump::Target);
            }
            return Ok(Plan::Several { prefixes, behind });
        }
        Err(reason)
    }

    /// Whether `jump` has been made by it.
    pub(super) fn is_of(&self, jump: &Jump) -> bool {
        match self {
            Plan::Padding => jump.padding.is_some(),
            Plan::Several { prefixes, behind } => {
                let alike = |(one, other): (&Displaced, &Displaced)| {
                    one.ip() == other.ip() && one.instruction().eq_all_bits(other.instruction())
                };
                jump.padding.is_none()
                    && jump.length == prefixes + JUMP
                    && behind.len() == jump.behind.len()
                    && behind.iter().zip(&jump.behind).all(alike)
            }
        }
    }
}

/// The length of a jump with a displacement of 8 bits.
const SHORT_JUMP: usize = 2;

/// Which bits of a displacement must be those of INT3s, for a jump at `address` behind `prefixes`, where there are
/// `starts` of instructions; `None` if it would lead to where no memory of ours is.
pub(super) fn byte_mask(address: u64, prefixes: usize, mut starts: impl Iterator<Item = u64>) -> Option<u64> {
    /// The bytes of a displacement that the memory of trampolines allows to be chosen.
    const FREE: u64 = 2;
    starts.try_fold(0, |mask, start| {
        let byte = start.checked_sub(address)?.checked_sub(prefixes as u64 + 1)?;
        (byte < FREE).then_some(mask | 0xff << (8 * byte))
    })
}

/// Whether a stub can perform an instruction.
fn can_be_done_in_a_stub(displaced: &Displaced) -> bool {
    let instruction = displaced.instruction();
    let stays = matches!(
        instruction.flow_control(),
        FlowControl::Next
            | FlowControl::Call
            | FlowControl::ConditionalBranch
            | FlowControl::UnconditionalBranch
            | FlowControl::IndirectCall
            | FlowControl::IndirectBranch
            | FlowControl::Return
    );
    // What is built for a thread in a stub needs its FS.
    let sets_fs = matches!(instruction.mnemonic(), Mnemonic::Wrfsbase | Mnemonic::Lfs)
        || instruction.op0_kind() == OpKind::Register && instruction.op0_register() == Register::FS;
    stays && !sets_fs && !own::reaches_far_down(displaced) && !displaced.touches().contains(Touches::X87)
}

/// Whether one that is not a site can be done as a part of one.
fn can_be_behind(displaced: &Displaced, is_last: bool) -> bool {
    let instruction = displaced.instruction();
    let enters = matches!(
        instruction.mnemonic(),
        Mnemonic::Syscall | Mnemonic::Sysenter | Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq
    );
    let others = Touches::TILES | Touches::THIS_CORE;
    can_be_done_in_a_stub(displaced)
        && !enters
        && !displaced.touches().intersects(others)
        && (is_last || instruction.flow_control() == FlowControl::Next)
}

/// The instructions behind `displaced` in `patch` bytes from there.
fn line(
    displaced: &Displaced,
    patch: usize,
    mapping: &Mapping,
    sequences: &Sequences,
) -> Result<Vec<Displaced>, NoJump> {
    let end = displaced.ip() + patch as u64;
    let mut at = displaced.ip() + displaced.length() as u64;
    let mut behind = Vec::new();
    if displaced.instruction().flow_control() != FlowControl::Next || !mapping.contains(end) {
        return Err(NoJump::Short);
    }
    while at < end {
        if sites::find(at).is_some_and(|site| site.address() == at && site.state() == State::Live) {
            return Err(NoJump::Neighbour);
        }
        let mut bytes = [0; LONGEST];
        let read = read_code(at, &mut bytes);
        let displaced =
            Displaced::decode(bytes.get(..read).unwrap_or_default(), at).map_err(|_| NoJump::Short)?;
        let next = at + displaced.length() as u64;
        if !can_be_behind(&displaced, next >= end) || sequences.meet(at, displaced.length()) {
            return Err(NoJump::Short);
        }
        behind.push(displaced);
        at = next;
    }
    Ok(behind)
}

/// Whether what is before `address` is breakpoints of nobody, as linkers put between functions: whoever reaches them dies.
fn is_padding_before(address: u64, mapping: &Mapping) -> bool {
    let start = address.wrapping_sub(JUMP as u64);
    if !mapping.contains(start) || (start..address).any(|at| is_anothers(at, address)) {
        return false;
    }
    let is_of_them = |bytes: [u8; JUMP]| bytes == [INT3; JUMP];
    let mut here = [0; JUMP];
    let mut there = [0; JUMP];
    // The file says whose they are.
    let file = mapping.file().zip(mapping.file_offset(start));
    let read = file.is_some_and(|(path, offset)| {
        File::open(path).is_ok_and(|file| file.read_exact_at(&mut there, offset).is_ok())
    });
    read_code(start, &mut here) == JUMP && read && is_of_them(here) && is_of_them(there)
}

/// Whether what is at `at` belongs to a site other than that at `address`.
fn is_anothers(at: u64, address: u64) -> bool {
    sites::find(at).is_some_and(|site| site.address() != address)
}

/// Where direct branches of a mapping lead, as far as that matters for whoever replaces several instructions: a branch to
/// one behind the first would be served by a trap.
#[derive(Debug, Default)]
pub(super) struct Targets {
    /// The mapping, as addresses, and its bytes.
    range: Range<u64>,
    text: Vec<u8>,
    /// Those of branches and calls by 32 bits, and of what looks like some, in their order.
    far: Vec<u64>,
}

impl Targets {
    pub(super) const fn new() -> Targets {
        Targets { range: 0..0, text: Vec::new(), far: Vec::new() }
    }

    /// Whether some branch may lead to `address`, which is behind `site`.
    fn contain(&mut self, address: u64, site: u64, mapping: &Mapping) -> bool {
        if self.range != (mapping.start..mapping.end) && self.look_at(mapping).is_none() {
            return true;
        }
        self.far.binary_search(&address).is_ok() || self.near(address, site)
    }

    fn look_at(&mut self, mapping: &Mapping) -> Option<()> {
        /// More than this takes too long.
        const LONGEST_TEXT: u64 = 64 << 20;
        let range = mapping.start..mapping.end;
        let length = range.end.checked_sub(range.start).filter(|&length| length <= LONGEST_TEXT)?;
        let mut text = vec![0; usize::try_from(length).ok()?];
        File::open("/proc/self/mem").ok()?.read_exact_at(&mut text, range.start).ok()?;
        sites::unmask(range.start, &mut text);
        let mut far = Vec::new();
        for (window, at) in text.windows(6).zip(range.start..) {
            let &[first, second, c, d, e, f] = window else { continue };
            // Calls and jumps, and conditional jumps.
            let (displacement, end) = match (first, second) {
                (0xe8 | 0xe9, b) => ([b, c, d, e], at + 5),
                (0x0f, 0x80..=0x8f) => ([c, d, e, f], at + 6),
                _ => continue,
            };
            let target = end.wrapping_add_signed(i32::from_le_bytes(displacement).into());
            if range.contains(&target) {
                far.push(target);
            }
        }
        far.sort_unstable();
        far.dedup();
        (self.range, self.text, self.far) = (range, text, far);
        Some(())
    }

    /// The same of branches by 8 bits: before `site` by whatever looks like one, behind it by instructions in their order.
    fn near(&self, address: u64, site: u64) -> bool {
        const REACH: u64 = 130;
        let at = |address: u64| {
            let offset = address.checked_sub(self.range.start).and_then(|at| usize::try_from(at).ok());
            offset.and_then(|offset| self.text.get(offset..)).unwrap_or_default()
        };
        let leads = |start: u64| match *at(start) {
            [0x70..=0x7f | 0xeb | 0xe0..=0xe3, displacement, ..] => {
                let displacement = i64::from(displacement.cast_signed());
                start.wrapping_add(2).wrapping_add_signed(displacement) == address
            }
            _ => false,
        };
        if (site.saturating_sub(REACH)..site).any(leads) {
            return true;
        }
        let options = iced_x86::DecoderOptions::NONE;
        let decoder = iced_x86::Decoder::with_ip(64, at(site), site, options);
        let mut following =
            decoder.into_iter().take_while(|instruction| instruction.ip() < address.saturating_add(REACH));
        following.any(|instruction| {
            instruction.op0_kind() == OpKind::NearBranch64 && instruction.near_branch_target() == address
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_of_instructions_are_bytes_of_the_displacement() {
        let mask = |prefixes, starts: &[u64]| byte_mask(0x1000, prefixes, starts.iter().copied());
        assert_eq!(mask(0, &[]), Some(0));
        // endbr64, and whatever is long.
        assert_eq!(mask(3, &[0x1004]), Some(0xff));
        // endbr64, push rbp, mov rbp, rsp.
        assert_eq!(mask(3, &[0x1004, 0x1005]), Some(0xffff));
        assert_eq!(mask(2, &[0x1004]), Some(0xff00));
        // Within the prefixes, or where memory would have to be far away.
        assert_eq!(mask(3, &[0x1003]), None);
        assert_eq!(mask(3, &[0x1004, 0x1006]), None);
    }
}
