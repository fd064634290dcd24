//! The emulator runs ahead of the thread, as far as a place where the thread can be stopped without
//! counting its instructions: before an instruction that it comes to for the first time, or after one that
//! is the first to access a word of memory.

use core::fmt;
use std::collections::HashMap;

use emu::registers::{Registers, gpr};
use emu::{Displaced, Outcome, Rflags};
use iced_x86::{EncodingKind, InstructionInfoFactory, Mnemonic, OpAccess, RflagsBits};

use super::operands::operands;
use super::overlay::Maps;
use super::pages::{Fast, Pages, View};
use super::{Encodings, is_single};
use crate::undefined;

/// The emulator gives up looking for a new place after so many times the instructions it wanted to execute.
const PATIENCE: u64 = 16;

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
    how: Accesses,
    encoding: EncodingKind,
}

/// How it accesses its operands in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Accesses {
    /// Once, whatever they are.
    Always,
    /// It may leave them alone, or parts of them, because of a mask or a condition. A breakpoint stops it all the same,
    /// if not at elements of a gather or scatter (seen on Zen 5).
    Perhaps,
    Repeatedly,
}

impl Instruction {
    fn new(displaced: Displaced) -> Instruction {
        let instruction = displaced.instruction();
        let may_undefine = !undefined::possibly(instruction.mnemonic()).is_empty();
        let is_repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
        // Shifts by zero and string instructions without an iteration leave all flags alone.
        let defines = if is_repeated || may_undefine { Rflags::empty() } else { flags(defined) };
        let reads = flags(instruction.rflags_read());
        let how = match always_accesses(&displaced) {
            // Repeated ones are stopped between two iterations.
            _ if is_repeated => Accesses::Repeatedly,
            true => Accesses::Always,
            false => Accesses::Perhaps,
        };
        let encoding = instruction.code().op_code().encoding();
        Instruction { reads, defines, may_undefine, how, encoding, displaced }
    }

    /// Executes it. False if it does not complete; then it counts as gone too far, for nothing says that it
    /// has changed nothing.
    fn execute(&self, place: &mut Place, view: &mut View<'_>) -> bool {
        let rcx = place.registers.gpr[gpr::RCX];
        if self.how == Accesses::Perhaps {
            for operand in operands(self.displaced.instruction(), &place.registers) {
                view.touch(operand.address, operand.size);
            }
        }
        view.pages.fresh = None;
        match self.displaced.execute(&mut place.registers, view) {
            Ok(Outcome::Next) => {
                place.count += 1;
                place.encodings.add(self.encoding, 1);
            }
            Ok(Outcome::Again) => return true,
            _ => {
                place.count = u64::MAX;
                return false;
            }
        }
        place.undefined -= self.defines;
        if self.may_undefine {
            place.undefined |= undefined::flags(self.displaced.instruction(), rcx);
        }
        if let Some(address) = view.pages.fresh.filter(|_| self.how == Accesses::Always) {
            place.milestone = Some((Milestone::Access(address), place.count));
        }
        true
    }
}

/// Whether every access to memory is a load or a store that depends on nothing.
fn always_accesses(displaced: &Displaced) -> bool {
    use Mnemonic as M;
    let instruction = displaced.instruction();
    let mnemonic = instruction.mnemonic();
    let cache_control = matches!(
        mnemonic,
        M::Cldemote
            | M::Clflush
            | M::Clflushopt
            | M::Clwb
            | M::Clzero
            | M::Monitor
            | M::Monitorx
            | M::Umonitor
    );
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_memory();
    let unconditional = [OpAccess::Read, OpAccess::Write, OpAccess::ReadWrite];
    let access = used.iter().all(|memory| unconditional.contains(&memory.access()));
    access && !cache_control && !displaced.is_masked()
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

/// What stops the thread at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Milestone {
    /// It is about to execute the instruction at this address.
    Execute(u64),
    /// It has accessed the eight bytes at this address.
    Access(u64),
}

impl fmt::Display for Milestone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Milestone::Execute(address) => write!(f, "before {address:#x} is executed"),
            Milestone::Access(address) => write!(f, "after the word at {address:#x} was accessed"),
        }
    }
}

/// Where the emulator stopped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) registers: Box<Registers>,
    /// The flags whose value is anybody's guess.
    pub(super) undefined: Rflags,
    /// How many instructions it executed.
    pub(super) count: u64,
    /// The same by encoding.
    pub(super) encodings: Encodings,
    /// The last thing that it did for the first time, and after how many instructions.
    pub(super) milestone: Option<(Milestone, u64)>,
}

/// What the emulator remembers from one run to the next.
#[derive(Default)]
pub(super) struct Ahead {
    pub(super) pages: Pages,
    known: HashMap<u64, Known, Fast>,
    epoch: u64,
    run: u64,
    /// The thread that made the last stride, and its process, whose memory all this is about.
    pub(super) owner: Option<(i32, i32)>,
}

impl Ahead {
    /// Forgets what memory holds, before something happens that the emulator does not do as well.
    pub(super) fn forget(&mut self) {
        self.pages.forget();
        self.epoch += 1;
    }

    /// Executes from `start` on, if possible about `aim` instructions, as far as a place where the thread
    /// can be stopped, and says what stops it. `None`: the first instruction must be left to the thread.
    /// Adjusts `aim`, to fewer where the thread goes round in a circle.
    pub(super) fn run(
        &mut self,
        tid: i32,
        maps: &mut Maps,
        start: &Registers,
        aim: &mut u64,
        stride: u64,
    ) -> Option<(Place, Milestone)> {
        *aim = stride.min(*aim + *aim / 32 + 1);
        let most = aim.saturating_mul(PATIENCE);
        let place = self.execute(tid, maps, start, *aim, most);
        let Some((milestone, count)) = place.milestone else {
            self.undo();
            return None;
        };
        if place.count == most {
            *aim = count / 2;
        }
        if place.count == count {
            return Some((place, milestone));
        }
        // It has gone too far: once more, to the last good place.
        self.undo();
        Some((self.execute(tid, maps, start, u64::MAX, count), milestone))
    }

    fn undo(&mut self) {
        if self.pages.undo() {
            self.epoch += 1;
        }
    }

    /// Executes until a milestone comes after at least `aim` instructions, an instruction comes that only
    /// the thread can execute, or `most` are done.
    fn execute(&mut self, tid: i32, maps: &mut Maps, start: &Registers, aim: u64, most: u64) -> Place {
        self.run += 1;
        self.pages.run = self.run;
        let registers = Box::new(start.clone());
        let mut place = Place {
            registers,
            undefined: Rflags::empty(),
            count: 0,
            encodings: Encodings::default(),
            milestone: None,
        };
        let mut view = View { tid, pages: &mut self.pages, maps };
        while place.count < most {
            let ip = place.registers.rip;
            let known = known(&mut self.known, &mut view, ip, self.epoch);
            if known.run != self.run {
                known.run = self.run;
                if place.count > 0 {
                    place.milestone = Some((Milestone::Execute(ip), place.count));
                }
            }
            if place.count >= aim && place.milestone.is_some_and(|(_, count)| count == place.count) {
                break;
            }
            let Some(instruction) = &known.instruction else { break };
            if instruction.reads.intersects(place.undefined) {
                break;
            }
            if !instruction.execute(&mut place, &mut view) {
                break;
            }
            if std::mem::take(&mut view.pages.code_written) {
                self.epoch += 1;
            }
        }
        place
    }
}

/// What is known of the instruction at `ip`, decoded anew only if its bytes have changed.
fn known<'a>(
    known: &'a mut HashMap<u64, Known, Fast>,
    view: &mut View<'_>,
    ip: u64,
    epoch: u64,
) -> &'a mut Known {
    let decode = |view: &mut View<'_>, bytes: ([u8; 15], usize)| {
        let displaced = Displaced::decode(&bytes.0[..bytes.1], ip).ok();
        let shared = displaced.filter(|displaced| {
            !is_single(displaced.instruction().mnemonic()) && view.maps.is_program(view.tid, ip)
        });
        Known { bytes, instruction: shared.map(Instruction::new), epoch, run: 0 }
    };
    let entry = known.entry(ip).or_insert_with(|| {
        let bytes = view.fetch(ip);
        decode(view, bytes)
    });
    if entry.epoch != epoch {
        let bytes = view.fetch(ip);
        if bytes == entry.bytes {
            entry.epoch = epoch;
        } else {
            *entry = Known { run: entry.run, ..decode(view, bytes) };
        }
    }
    entry
}
