//! A hit that waits, in the warden, for its client's handler.

use std::time::Duration;

use crate::engine::hit::{Action, GeneralRegisters, ProbeId};
use crate::warden::message::{Answer, Data, SentRegisters, Verdict};
use crate::warden::outlet::{MOST_BYTES, Question};
use crate::warden::ring::{Ring, Slot, Turn};
use crate::warden::socket::parse;

/// A thread that has reached a probe, and waits before the instruction, as [`Hit`](crate::Hit) has it. What a handler
/// reads or writes of its memory costs a way to the warden and back for each 4 KiB.
#[derive(Debug)]
pub struct Asked<'a> {
    slot: Slot<'a>,
    question: Question,
    registers: GeneralRegisters,
    filtered: bool,
}

impl<'a> Asked<'a> {
    /// `None` if nobody waits for the answer.
    pub(crate) fn new(question: Question, ring: &'a Ring) -> Option<Asked<'a>> {
        let slot = ring.slot(question.slot)?;
        slot.take(question.number, Turn::Client)?;
        let registers = question.registers.clone();
        Some(Asked { slot, question, registers, filtered: false })
    }

    /// The probe.
    #[must_use]
    pub fn probe(&self) -> ProbeId {
        ProbeId(self.question.probe)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.question.pid
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.question.tid
    }

    /// The address of the instruction.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.question.ip
    }

    /// As [`Hit::registers`](crate::Hit::registers).
    #[must_use]
    pub fn registers(&self) -> &GeneralRegisters {
        &self.registers
    }

    /// As [`Hit::registers_mut`](crate::Hit::registers_mut).
    pub fn registers_mut(&mut self) -> &mut GeneralRegisters {
        &mut self.registers
    }

    /// As [`Hit::filter_out`](crate::Hit::filter_out).
    pub fn filter_out(&mut self) {
        self.filtered = true;
    }

    /// Fills `bytes` from the thread's memory, as far as it can be read, and returns how far that is.
    pub fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let mut read = 0;
        for chunk in bytes.chunks_mut(MOST_BYTES) {
            let request =
                Answer::Read { address: address.wrapping_add(read as u64), length: chunk.len() as u32 };
            let Some(Data::Bytes(found)) = self.ask(&request) else { break };
            let found = found.get(..chunk.len()).unwrap_or(&found);
            chunk.iter_mut().zip(found).for_each(|(byte, &found)| *byte = found);
            read += found.len();
            if found.len() < chunk.len() {
                break;
            }
        }
        read
    }

    /// Stores `bytes` into the thread's memory, each 4 KiB as a whole or not at all, and says whether all could be.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        let mut address = address;
        bytes.chunks(MOST_BYTES).all(|chunk| {
            let request = Answer::Write { address, bytes: chunk.to_owned() };
            address = address.wrapping_add(chunk.len() as u64);
            matches!(self.ask(&request), Some(Data::Written(None)))
        })
    }

    /// Has the warden do something; `None` if it does not any more.
    fn ask(&self, request: &Answer) -> Option<Data> {
        /// The warden does what is asked at once, if it lives.
        const PATIENCE: Duration = Duration::from_millis(100);
        const MOST_TRIES: usize = 50;
        let number = self.question.number;
        self.give(request)?;
        for _ in 0..MOST_TRIES {
            if let Some(bytes) = self.slot.take(number, Turn::Client) {
                return parse(&bytes).ok();
            }
            self.slot.wait_while(number, Turn::Warden, PATIENCE);
        }
        None
    }

    fn give(&self, answer: &Answer) -> Option<()> {
        let bytes = postcard::to_stdvec(answer).ok()?;
        self.slot.give(self.question.number, Turn::Warden, &bytes);
        Some(())
    }

    /// Says what becomes of the hit.
    pub(crate) fn answer(self, action: Action) {
        let action = match action {
            Action::Continue => Verdict::Continue,
            Action::Skip => Verdict::Skip,
            Action::GoTo(target) => Verdict::GoTo(target),
            Action::Remove => Verdict::Remove,
            // For a client, leaving is what detaching is.
            Action::Detach | Action::Stop => Verdict::Stop,
        };
        let changed = self.registers != self.question.registers;
        let registers = changed.then(|| Box::new(sent(&self.registers)));
        self.give(&Answer::Verdict { action, registers, filtered: self.filtered });
    }
}

fn sent(registers: &GeneralRegisters) -> SentRegisters {
    let &GeneralRegisters { gpr, rip, rflags, fs_base, gs_base, segment } = registers;
    SentRegisters { gpr, rip, rflags: rflags.bits(), fs_base, gs_base, segment }
}
