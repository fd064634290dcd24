//! Where a process puts breakpoints and jumps in itself.

use std::cell::RefCell;
use std::io;
use std::os::unix::fs::FileExt;

use emu::{Displaced, Touches};
use iced_x86::{FlowControl, Mnemonic};

use crate::engine::own::jumping::{Plan, Targets, byte_mask};
use crate::engine::own::{NoJump, Options};
use crate::executor::own::forks::{self, Kept, Whole};
use crate::executor::own::needed::{Needed, OwnRefusal, read_code};
use crate::executor::own::sites::{self, JUMP, Jump, LONGEST_PATCH, Site, State, Writer};
use crate::executor::own::users::{Places, Registration};
use crate::executor::own::{layout, patch, signals};
use crate::executor::rseq::Sequences;
use crate::executor::space::{LONGEST, Original, Unplaceable};
use crate::target::maps::{self, Mapping, Maps, Permissions};
use crate::target::{INT3, mapped};

/// Those who place and remove probes, one at a time.
pub(super) static PLACING: Whole<Placing> = Whole::new(Placing::new());

thread_local! {
    static KEPT: Kept<Placing> = const { RefCell::new(None) };
}

pub(super) extern "C" fn before_fork() {
    PLACING.before_fork(&KEPT);
}

pub(super) extern "C" fn after_fork() {
    forks::after_fork(&KEPT);
}

/// What is known for placing.
#[derive(Debug)]
pub(super) struct Placing {
    writer: Writer,
    pub(super) places: Places,
    sequences: Option<Sequences>,
    targets: Targets,
    needed: Option<Needed>,
    /// Whether jumps can be put in place here.
    jumps: Option<bool>,
}

impl Placing {
    const fn new() -> Placing {
        Placing {
            writer: Writer::new(),
            places: Places::new(),
            sequences: None,
            targets: Targets::new(),
            needed: None,
            jumps: None,
        }
    }

    /// Puts a breakpoint, or a jump, at `address` for `user`.
    pub(super) fn place(
        &mut self,
        address: u64,
        maps: &Maps,
        user: &mut Registration,
        options: Options,
    ) -> Result<(&'static Site, NoJump), Unplaceable> {
        if let Some(site) = sites::find(address).filter(|site| site.address() == address) {
            match site.state() {
                State::Live if patch::is_there(site) => {
                    site.users.add(user);
                    return Ok((site, NoJump::NotAsked));
                }
                // Other memory has come there, or other text.
                State::Live => site.set_state(State::Removed),
                State::Removed => {}
                State::Needed | State::NoRoom | State::GivenUp => {
                    return Err(Unplaceable::Own(OwnRefusal::GivenUp));
                }
            }
        }
        let (original, displaced, mapping) = self.look_at(address, maps)?;
        let plan =
            if options.jumps { self.plan(&original, &displaced, mapping) } else { Err(NoJump::NotAsked) };
        // A jump may replace more than the instruction.
        let mut bytes = [INT3; LONGEST_PATCH];
        read_code(address, &mut bytes);
        bytes.iter_mut().zip(original.bytes()).for_each(|(kept, &byte)| *kept = byte);
        let fits =
            |site: &Site| plan.as_ref().ok().zip(site.jump()).is_none_or(|(plan, jump)| plan.is_of(jump));
        let site = self.writer.add(Site::new(address, bytes, displaced), fits);
        site.set_length(1);
        site.set_undone(false);
        site.users.add(user);
        site.set_state(State::Live);
        if let Err(error) = patch::write(address, &[INT3]) {
            site.set_state(State::Removed);
            return Err(Unplaceable::Memory(error));
        }
        let jumps = plan.and_then(|plan| self.jump(site, plan));
        Ok((site, jumps.err().unwrap_or(NoJump::NotAsked)))
    }

    /// Whether there can be a breakpoint at `address`, and on what.
    fn look_at<'a>(
        &mut self,
        address: u64,
        maps: &'a Maps,
    ) -> Result<(Original, Displaced, &'a Mapping), Unplaceable> {
        let refuse = |refusal| Err(Unplaceable::Own(refusal));
        let mapping = maps::find(maps, address).ok_or(Unplaceable::Unmapped)?;
        if !mapping.is_executable() {
            return Err(Unplaceable::NotExecutable);
        }
        if mapping.perms.contains(Permissions::SHARED) {
            return Err(Unplaceable::Shared);
        }
        if mapping.perms.contains(Permissions::WRITE) {
            return refuse(OwnRefusal::Writable);
        }
        let needed = self.needed.get_or_insert_with(|| Needed::find(maps));
        if let Some(refusal) = needed.refuses(address, mapping, maps) {
            return refuse(refusal);
        }
        let mut before = (address.saturating_sub(LONGEST_PATCH as u64 - 1)..address).filter_map(sites::find);
        let replacing = before.find(|site| {
            let end = site.address() + site.length() as u64;
            site.state() == State::Live && site.address() < address && address < end
        });
        if let Some(site) = replacing {
            // An instruction behind the site's can be probed if that does without its jump.
            let is_behind = site.behind().iter().any(|displaced| displaced.ip() == address);
            if !is_behind || Placing::undo_jump(site).is_err() {
                return refuse(OwnRefusal::Replaced { site: site.address() });
            }
        }
        let mut padded = (address + 1..=address.saturating_add(JUMP as u64)).filter_map(sites::find);
        if let Some(site) = padded.find(|site| {
            site.state() == State::Live
                && site.padding().is_some_and(|padding| (padding..site.address()).contains(&address))
        }) {
            return refuse(OwnRefusal::Replaced { site: site.address() });
        }
        let mut bytes = [0; LONGEST];
        let length = read_code(address, &mut bytes);
        if length == 0 {
            return Err(Unplaceable::Memory(io::ErrorKind::PermissionDenied.into()));
        }
        if bytes.first() == Some(&INT3) && is_anothers(address, maps, mapping) {
            return Err(Unplaceable::Occupied);
        }
        let (original, displaced) = Original::decode(bytes.get(..length).unwrap_or_default(), address)?;
        let sequences = self.sequences.get_or_insert_default();
        sequences.look_at(maps, mapping);
        if sequences.meet(address, original.length()) {
            return Err(Unplaceable::Sequence);
        }
        if displaced.touches().contains(Touches::TILES) {
            return refuse(OwnRefusal::Tiles);
        }
        if displaced.touches().contains(Touches::SHADOW_STACK) && signals::has_shadow_stack() {
            return refuse(OwnRefusal::ShadowStack);
        }
        if displaced.instruction().mnemonic() == Mnemonic::Sysenter {
            return refuse(OwnRefusal::Sysenter);
        }
        Ok((original, displaced, mapping))
    }

    /// How a jump can take the place of an instruction.
    fn plan(
        &mut self,
        original: &Original,
        displaced: &Displaced,
        mapping: &Mapping,
    ) -> Result<Plan, NoJump> {
        let here = self
            .jumps
            .get_or_insert_with(|| layout().is_some() && patch::register() && !signals::has_shadow_stack());
        if !*here {
            return Err(NoJump::NotHere);
        }
        // ENDBR64 is what it is by its prefix, without which nobody wants it.
        let is_marker = displaced.instruction().mnemonic() == Mnemonic::Endbr64;
        if original.is_prefixed() && !is_marker {
            return Err(NoJump::Prefix);
        }
        let sequences = self.sequences.get_or_insert_default();
        Plan::of(displaced, mapping, sequences, &mut self.targets)
    }

    /// Replaces the breakpoint of `site` by a jump.
    fn jump(&mut self, site: &'static Site, plan: Plan) -> Result<(), NoJump> {
        if site.jump().is_none() {
            site.set_jump(make(site, plan).ok_or(NoJump::Far)?);
        }
        let Some(jump) = site.jump() else { return Err(NoJump::Far) };
        let padding = jump.padding.map(|(padding, _)| padding);
        let behind = jump.behind.iter().map(Displaced::ip);
        for address in [jump.alias, jump.alias + 1].into_iter().chain(padding).chain(behind) {
            self.writer.insert(address, site);
        }
        put(site, jump).map_err(|_| NoJump::NotHere)
    }

    /// Has the breakpoint of `site` served by a trap again.
    fn undo_jump(site: &Site) -> io::Result<()> {
        patch::undo_jump(site)?;
        site.set_undone(true);
        site.set_length(1);
        Ok(())
    }
}

/// Makes a jump for `site`, and what it leads to, if there is memory for that near enough.
fn make(site: &'static Site, plan: Plan) -> Option<Jump> {
    let (prefixes, behind, padding) = match plan {
        Plan::Padding => (0, Vec::new(), Some(site.address() - JUMP as u64)),
        Plan::Several { prefixes, behind } => (prefixes, behind, None),
    };
    let last = behind.last().unwrap_or(site.displaced()).instruction();
    let direct = matches!(
        last.flow_control(),
        FlowControl::Call | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
    );
    let branch = direct.then(|| last.near_branch_target());
    let from = padding.unwrap_or(site.address() + prefixes as u64);
    let mask = byte_mask(site.address(), prefixes, behind.iter().map(Displaced::ip))?;
    let landing = if mask == 0 { None } else { Some(landing(from, mask)?) };
    let entry = patch::entry(site, last.next_ip(), branch)?;
    if let Some(landing) = landing {
        patch::write(landing, &patch::jump(landing, entry.start)?).ok()?;
    }
    let jump = patch::jump(from, landing.unwrap_or(entry.start))?;
    /// CS, which means nothing to a jump.
    const PREFIX: u8 = 0x2e;
    let mut bytes = [PREFIX; LONGEST_PATCH];
    let length = match padding {
        // From behind it to the padding's start.
        Some(_) => {
            bytes[..2].copy_from_slice(&[0xeb, (-(JUMP as i8) - 2).cast_unsigned()]);
            2
        }
        None => {
            let places = bytes.iter_mut().skip(prefixes);
            places.zip(jump).for_each(|(place, byte)| *place = byte);
            prefixes + JUMP
        }
    };
    Some(Jump {
        behind: behind.into_boxed_slice(),
        bytes,
        length,
        padding: padding.map(|padding| (padding, jump)),
        alias: entry.alias,
        branch: branch.filter(|_| entry.branches).unwrap_or(0),
    })
}

/// Where a jump at `from` is to lead, so that the bytes of its displacement that `mask` has read INT3.
fn landing(from: u64, mask: u64) -> Option<u64> {
    const INT3S: u64 = u64::from_le_bytes([INT3; 8]);
    let end = from.wrapping_add(JUMP as u64);
    patch::trampoline(|to| to.wrapping_sub(end) & mask == INT3S & mask)
}

/// Puts a jump where it belongs. If that fails, the site has its breakpoint, if anything can be written.
fn put(site: &Site, jump: &Jump) -> io::Result<()> {
    if let Some((padding, jump)) = &jump.padding {
        patch::replace_padding(*padding, jump)?;
    }
    site.set_length(jump.length);
    patch::put_jump(site).inspect_err(|_| {
        let undone = patch::undo_jump(site);
        site.set_length(if undone.is_ok() { 1 } else { jump.length });
    })
}

/// Whether the INT3 at `address` is not that of the file which is mapped there.
fn is_anothers(address: u64, maps: &Maps, mapping: &Mapping) -> bool {
    let mut byte = [INT3];
    let file = mapping.file_offset(address).zip(mapped::open(maps, mapping).ok());
    file.is_some_and(|(offset, file)| {
        file.read_at(&mut byte, offset).is_ok_and(|read| read == 1) && byte != [INT3]
    })
}
