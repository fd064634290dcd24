//! The emulator runs ahead of the thread, as far as a place where the thread can be stopped without
//! counting its instructions: one that it reaches for the first time.

use std::collections::HashMap;

use emu::registers::Registers;
use emu::{Displaced, Outcome, Rflags};
use iced_x86::RflagsBits;

use super::is_single;
use super::overlay::Maps;
use super::pages::{Pages, View};
use crate::undefined;

/// After so many instructions at most, the emulator gives up looking for a new place.
const PATIENCE: u64 = 1 << 20;

/// What is known of the instruction at an address.
struct Known {
    bytes: ([u8; 15], usize),
    /// `None`: the thread executes it alone.
    instruction: Option<Instruction>,
    /// When the bytes were last seen to be there.
    epoch: u64,
    /// The last run that came here.
    run: u64,
}

struct Instruction {
    displaced: Displaced,
    reads: Rflags,
    /// The flags that it leaves defined, whatever they were.
    defines: Rflags,
    may_undefine: bool,
}

impl Instruction {
    fn new(displaced: Displaced) -> Instruction {
        let instruction = displaced.instruction();
        let may_undefine = !undefined::possibly(instruction.mnemonic()).is_empty();
        // Shifts by zero and string instructions without an iteration leave all flags alone.
        let always = !instruction.has_rep_prefix() && !instruction.has_repne_prefix() && !may_undefine;
        let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        let defines = if always { flags(defined) } else { Rflags::empty() };
        Instruction { reads: flags(instruction.rflags_read()), defines, may_undefine, displaced }
    }
}

/// iced-x86's flags as RFLAGS has them.
fn flags(bits: u32) -> Rflags {
    [
        (RflagsBits::CF, Rflags::CF),
        (RflagsBits::PF, Rflags::PF),
        (RflagsBits::AF, Rflags::AF),
        (RflagsBits::ZF, Rflags::ZF),
        (RflagsBits::SF, Rflags::SF),
        (RflagsBits::OF, Rflags::OF),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .fold(Rflags::empty(), |flags, (_, flag)| flags | flag)
}

/// Where the emulator stopped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) registers: Box<Registers>,
    /// The flags whose value is anybody's guess.
    pub(super) undefined: Rflags,
    /// How many instructions it executed.
    pub(super) count: u64,
}

/// What the emulator remembers from one run to the next.
pub(super) struct Ahead {
    pub(super) pages: Pages,
    known: HashMap<u64, Known>,
    epoch: u64,
    run: u64,
    /// How many instructions to spend on looking for a new place: less, the more often there was none.
    patience: u64,
}

impl Default for Ahead {
    fn default() -> Ahead {
        let (pages, known) = Default::default();
        Ahead { pages, known, epoch: 0, run: 0, patience: PATIENCE }
    }
}

/// How one run ended.
struct End {
    place: Place,
    /// After how many instructions it came to a new place for the last time.
    last_new: u64,
}

impl Ahead {
    /// Forgets what memory holds, before something happens that the emulator does not do as well.
    pub(super) fn forget(&mut self) {
        self.pages.forget();
        self.epoch += 1;
    }

    /// Executes about `aim` instructions from `start` on, and ends at an address that it has not been at
    /// before. `None`: the first instruction must be left to the thread.
    pub(super) fn run(&mut self, tid: i32, maps: &mut Maps, start: &Registers, aim: u64) -> Option<Place> {
        let most = self.patience.max(aim);
        let end = self.execute(tid, maps, start, aim, most);
        self.patience = if end.place.count == most { most / 8 } else { PATIENCE.min(2 * most) };
        if end.last_new == 0 {
            self.pages.undo();
            return None;
        }
        if end.place.count == end.last_new {
            return Some(end.place);
        }
        // It has gone too far: once more, to the last good place.
        self.pages.undo();
        let end = self.execute(tid, maps, start, u64::MAX, end.last_new);
        Some(end.place)
    }

    /// Executes until a new address comes after at least `aim` instructions, an instruction comes that only
    /// the thread can execute, or `most` are done.
    fn execute(&mut self, tid: i32, maps: &mut Maps, start: &Registers, aim: u64, most: u64) -> End {
        self.run += 1;
        let place = Place { registers: Box::new(start.clone()), undefined: Rflags::empty(), count: 0 };
        let mut end = End { place, last_new: 0 };
        let place = &mut end.place;
        let mut view = View { tid, pages: &mut self.pages, maps };
        while place.count < most {
            let ip = place.registers.rip;
            let known = known(&mut self.known, &mut view, ip, self.epoch);
            if known.run != self.run {
                known.run = self.run;
                end.last_new = place.count;
                if place.count >= aim {
                    break;
                }
            }
            let Some(instruction) = &known.instruction else { break };
            if instruction.reads.intersects(place.undefined) {
                break;
            }
            let rcx = place.registers.gpr[1];
            let displaced = &instruction.displaced;
            match displaced.execute(&mut place.registers, &mut view) {
                Ok(Outcome::Next) => place.count += 1,
                Ok(Outcome::Again) => {}
                // Nothing says that this one has changed nothing: it counts as gone too far.
                _ => {
                    place.count = u64::MAX;
                    break;
                }
            }
            place.undefined -= instruction.defines;
            if instruction.may_undefine {
                place.undefined |= undefined::flags(displaced.instruction(), rcx);
            }
            if std::mem::take(&mut view.pages.code_written) {
                self.epoch += 1;
            }
        }
        end
    }
}

/// What is known of the instruction at `ip`, decoded anew only if its bytes have changed.
fn known<'a>(known: &'a mut HashMap<u64, Known>, view: &mut View<'_>, ip: u64, epoch: u64) -> &'a mut Known {
    let decode = |bytes: ([u8; 15], usize)| {
        let displaced = Displaced::decode(&bytes.0[..bytes.1], ip).ok();
        let shared = displaced.filter(|displaced| !is_single(displaced.instruction().mnemonic()));
        Known { bytes, instruction: shared.map(Instruction::new), epoch, run: 0 }
    };
    let entry = known.entry(ip).or_insert_with(|| decode(view.fetch(ip)));
    if entry.epoch != epoch {
        let bytes = view.fetch(ip);
        if bytes == entry.bytes {
            entry.epoch = epoch;
        } else {
            *entry = Known { run: entry.run, ..decode(bytes) };
        }
    }
    entry
}
