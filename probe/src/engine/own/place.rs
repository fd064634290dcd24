//! Where a process puts breakpoints and jumps in itself.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use emu::Touches;
use iced_x86::{FlowControl, Mnemonic};

use crate::engine::own::serve::Own;
use crate::engine::own::{NoJump, Options};
use crate::executor::own::needed::{Needed, OwnRefusal, read_code};
use crate::executor::own::sites::{self, LONGEST_PATCH, Site, State, Writer};
use crate::executor::own::{layout, patch, signals};
use crate::executor::rseq::Sequences;
use crate::executor::space::{LONGEST, Original, Unplaceable};
use crate::target::maps::{self, Mapping, Maps, Permissions};
use crate::target::{INT3, mapped};

/// Those who place and remove probes, one at a time.
pub(super) static PLACING: Mutex<Placing> = Mutex::new(Placing::new());

/// What is known for placing.
#[derive(Debug)]
pub(super) struct Placing {
    writer: Writer,
    sequences: Option<Sequences>,
    needed: Option<Needed>,
    /// Whether jumps can be put in place here.
    jumps: Option<bool>,
}

impl Placing {
    const fn new() -> Placing {
        Placing { writer: Writer::new(), sequences: None, needed: None, jumps: None }
    }

    /// Puts a breakpoint, or a jump, at `address` for `own`.
    pub(super) fn place(
        &mut self,
        address: u64,
        maps: &Maps,
        own: &'static Own,
        options: Options,
    ) -> Result<(&'static Site, NoJump), Unplaceable> {
        if let Some(site) = sites::find(address).filter(|site| site.address() == address) {
            match site.state() {
                State::Live => {
                    site.users.push(own);
                    return Ok((site, NoJump::NotAsked));
                }
                State::Removed => {}
                State::Needed | State::NoRoom | State::GivenUp => {
                    return Err(Unplaceable::Own(OwnRefusal::GivenUp));
                }
            }
        }
        let (original, displaced) = self.look_at(address, maps)?;
        let mut bytes = [INT3; 8];
        bytes.iter_mut().zip(original.bytes()).for_each(|(kept, &byte)| *kept = byte);
        let site = self.writer.add(Site::new(address, bytes, displaced));
        site.users.push(own);
        site.set_state(State::Live);
        if let Err(error) = patch::write(address, &[INT3]) {
            site.set_state(State::Removed);
            return Err(Unplaceable::Memory(error));
        }
        let no_jump = if options.jumps { self.jump(site, &original) } else { Some(NoJump::NotAsked) };
        Ok((site, no_jump.unwrap_or(NoJump::NotAsked)))
    }

    /// Whether there can be a breakpoint at `address`, and on what.
    fn look_at(&mut self, address: u64, maps: &Maps) -> Result<(Original, emu::Displaced), Unplaceable> {
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
        let before = address.saturating_sub(LONGEST_PATCH as u64 - 1)..address;
        let replacing = before.filter_map(sites::find).find(|site| {
            let end = site.address() + site.length() as u64;
            site.state() == State::Live && site.address() < address && address < end
        });
        if let Some(site) = replacing {
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
        Ok((original, displaced))
    }

    /// Replaces the breakpoint of `site` by a jump, or says why not.
    fn jump(&mut self, site: &'static Site, original: &Original) -> Option<NoJump> {
        let here = self
            .jumps
            .get_or_insert_with(|| layout().is_some() && patch::register() && !signals::has_shadow_stack());
        if !*here {
            return Some(NoJump::NotHere);
        }
        let displaced = site.displaced();
        if original.is_prefixed() {
            return Some(NoJump::Prefix);
        }
        if original.length() < LONGEST_PATCH {
            return Some(NoJump::Short);
        }
        let instruction = displaced.instruction();
        let flow = instruction.flow_control();
        let stays = matches!(
            flow,
            FlowControl::Next
                | FlowControl::Call
                | FlowControl::ConditionalBranch
                | FlowControl::UnconditionalBranch
                | FlowControl::IndirectCall
                | FlowControl::IndirectBranch
                | FlowControl::Return
        );
        if !stays || displaced.touches().contains(Touches::X87) {
            return Some(NoJump::Instruction);
        }
        let direct = matches!(
            flow,
            FlowControl::Call | FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch
        );
        let branch = direct.then(|| instruction.near_branch_target());
        let Some(entry) = patch::entry(site, instruction.next_ip(), branch) else { return Some(NoJump::Far) };
        let Some(jump) = patch::jump(site.address(), entry.start) else { return Some(NoJump::Far) };
        if entry.branches {
            site.set_branch(branch.unwrap_or(0));
        }
        site.set_alias(entry.alias);
        self.writer.insert(entry.alias, site);
        self.writer.insert(entry.alias + 1, site);
        site.set_length(LONGEST_PATCH);
        if patch::replace(site.address(), &jump).is_err() {
            // The breakpoint may still be there, and then serves.
            let restored = patch::write(site.address(), &[INT3]).and_then(|()| {
                patch::write(site.address() + 1, site.original().get(1..).unwrap_or_default())
            });
            site.set_length(1);
            return restored.err().map_or(Some(NoJump::NotHere), |_| Some(NoJump::NotHere));
        }
        None
    }
}

/// Whether the INT3 at `address` is not that of the file which is mapped there.
fn is_anothers(address: u64, maps: &Maps, mapping: &Mapping) -> bool {
    let mut byte = [INT3];
    let file = mapping.file_offset(address).zip(mapped::open(maps, mapping).ok());
    file.is_some_and(|(offset, file)| {
        file.read_at(&mut byte, offset).is_ok_and(|read| read == 1) && byte != [INT3]
    })
}
