//! What the emulator says a step will do, held against what it did.

use core::fmt;
use std::io;

use emu::registers::gpr;
use emu::{Displaced, Exception, Outcome, Processor, Registers, Rflags};
use iced_x86::{EncodingKind, OpAccess, Register};
use libc::c_int;
use nix::sys::ptrace;
use nix::unistd::Pid;

use super::operands::{Operand, operands};
use super::overlay::{lay_over, read_up_to};
use super::signal_of;
use super::thread::{self, Snapshot};
use crate::compare::hide_pointers;
use crate::in_use::{self, Image};
use crate::undefined;

/// Bytes of memory by address.
type Bytes = (u64, Vec<u8>);

/// One step, predicted.
#[derive(Debug)]
pub(super) struct Expected {
    displaced: Displaced,
    before: Snapshot,
    after: Snapshot,
    /// What memory will hold.
    writes: Vec<Bytes>,
    result: Result<Outcome, Exception>,
}

impl Expected {
    /// To what the emulator wrote, adds the operands that it might have written and did not.
    pub(super) fn new(
        tid: i32,
        displaced: Displaced,
        before: Snapshot,
        after: Snapshot,
        mut writes: Vec<Bytes>,
        result: Result<Outcome, Exception>,
    ) -> Expected {
        for Operand { address, size, access } in operands(displaced.instruction(), &before.registers) {
            if !matches!(access, OpAccess::Write | OpAccess::ReadWrite) {
                continue;
            }
            let mut bytes = vec![0; size];
            if !writes.iter().any(|(start, _)| *start == address)
                && read_up_to(tid, address, &mut bytes) == size
                && writes.is_empty()
            {
                writes.push((address, bytes));
            }
        }
        Expected { displaced, before, after, writes, result }
    }

    /// How the instruction is encoded.
    pub(super) fn encoding(&self) -> EncodingKind {
        self.displaced.code().op_code().encoding()
    }

    /// Whether the emulator raised no exception.
    pub(super) fn completes(&self) -> bool {
        self.result.is_ok()
    }

    /// Whether the emulator raised the exception for which the kernel sends `signal`.
    pub(super) fn raises(&self, tid: i32, signal: c_int) -> io::Result<bool> {
        let Err(exception) = self.result else { return Ok(false) };
        if signal_of(exception) != signal || !thread::is_fault(tid)? {
            // A page beyond the end of a file is SIGBUS.
            let beyond_file = signal == libc::SIGBUS && exception.address().is_some();
            return Ok(beyond_file && thread::is_fault(tid)?);
        }
        match exception.address() {
            Some(address) => Ok(thread::fault_address(tid)? == Some(address)),
            None => Ok(true),
        }
    }

    /// The thread's state after the step. `None` if it is gone.
    pub(super) fn observe(&self, tid: i32) -> io::Result<Option<Snapshot>> {
        let Some(mut after) = Snapshot::general(tid)? else { return Ok(None) };
        if self.before.extended && !after.fetch_extended(tid)? {
            return Ok(None);
        }
        Ok(Some(after))
    }

    /// Whether the processor has done a part of a repeated string instruction that the emulator did whole.
    pub(super) fn is_between_iterations(&self, observed: &Snapshot) -> bool {
        let instruction = self.displaced.instruction();
        (instruction.has_rep_prefix() || instruction.has_repne_prefix())
            && instruction.is_string_instruction()
            && observed.registers.rip == self.displaced.ip()
            && observed.registers.gpr[1] != self.after.registers.gpr[1]
    }

    /// Where the processor says that more state is in use than the emulator, as it may, expects that.
    pub(super) fn adopt_in_use(&mut self, tid: i32, observed: &Snapshot) {
        let (processor, instruction) = (Processor::host(), self.displaced.instruction());
        let before = &self.before.registers;
        let (rax, seen) = (&mut self.after.registers.gpr[gpr::RAX], observed.registers.gpr[gpr::RAX]);
        if *rax != seen && in_use::permitted_xgetbv(instruction, before, *rax, seen, processor) {
            *rax = seen;
        }
        let Some(image) = Image::of(instruction, before, processor) else { return };
        let written = self.writes.iter().find(|(start, bytes)| *start == image.header() && bytes.len() == 8);
        let Some(expected) = written.and_then(|(_, bytes)| bytes.as_slice().try_into().ok()) else { return };
        let mut seen = [0; 8];
        if read_up_to(tid, image.header(), &mut seen) < seen.len() || seen == expected {
            return;
        }
        let [expected, seen] = [expected, seen].map(u64::from_le_bytes);
        for (address, bytes) in image.permitted(expected, seen, processor).unwrap_or_default() {
            for (start, target) in &mut self.writes {
                lay_over(*start, target, address, &bytes);
            }
            self.writes.push((address, bytes));
        }
    }

    /// The first thing in which the two differ.
    pub(super) fn difference(&self, tid: i32, observed: &Snapshot) -> io::Result<Option<String>> {
        if let Err(exception) = self.result {
            return Ok(Some(format!("the emulator raised {exception}, the processor did not")));
        }
        let undefined = undefined::flags(self.displaced.instruction(), self.before.registers.gpr[1]);
        let (after, seen) = (&self.after.registers, &observed.registers);
        if let Some(difference) = register_difference(after, seen, undefined, self.before.extended) {
            return Ok(Some(difference));
        }
        for (address, expected) in &self.writes {
            let mut bytes = vec![0; expected.len()];
            read_up_to(tid, *address, &mut bytes);
            if self.pushes_flags() {
                clear_trap_flag(&mut bytes);
            }
            if bytes != *expected {
                return Ok(Some(format!(
                    "memory at {address:#x}: processor {bytes:02x?}, emulator {expected:02x?}"
                )));
            }
        }
        Ok(None)
    }

    fn pushes_flags(&self) -> bool {
        use iced_x86::Code::{Pushfd, Pushfq, Pushfw};
        matches!(self.displaced.code(), Pushfq | Pushfd | Pushfw)
    }

    /// PUSHF has pushed the TF that the step itself needed: takes it away from the program's copy.
    pub(super) fn hide_trap_flag(&self, tid: i32) -> io::Result<()> {
        let stepped_by_itself = self.before.registers.rflags.contains(Rflags::TF);
        if !self.pushes_flags() || stepped_by_itself {
            return Ok(());
        }
        let Some((address, bytes)) = self.writes.first() else { return Ok(()) };
        let mut word = [0; 8];
        if read_up_to(tid, *address, &mut word) == word.len() && !bytes.is_empty() {
            clear_trap_flag(&mut word);
            let address = *address as usize as *mut libc::c_void;
            let _ = ptrace::write(Pid::from_raw(tid), address, i64::from_le_bytes(word));
        }
        Ok(())
    }
}

/// The first register in which the two differ, but for the flags that are `undefined`; those that XSAVE
/// saves are looked at if `extended`.
pub(super) fn register_difference(
    expected: &Registers,
    observed: &Registers,
    undefined: Rflags,
    extended: bool,
) -> Option<String> {
    let numbered = expected.gpr.iter().zip(&observed.gpr).enumerate();
    for (number, (expected, observed)) in numbered {
        if expected != observed {
            let name = Register::RAX + number as u32;
            return Some(format!("{name:?}: processor {observed:#x}, emulator {expected:#x}"));
        }
    }
    // The kernel hides the TF that it steps with; RF is its own affair.
    let hidden = undefined | Rflags::TF | Rflags::RF;
    let (flags, observed_flags) = (expected.rflags - hidden, observed.rflags - hidden);
    let mut differences = [
        ("RIP", observed.rip, expected.rip),
        ("RFLAGS", observed_flags.bits(), flags.bits()),
        ("FS base", observed.fs_base, expected.fs_base),
        ("GS base", observed.gs_base, expected.gs_base),
    ]
    .into_iter()
    .filter(|(_, observed, expected)| observed != expected);
    if let Some((name, observed, expected)) = differences.next() {
        return Some(format!("{name}: processor {observed:#x}, emulator {expected:#x}"));
    }
    if expected.segment != observed.segment {
        return Some(format!(
            "selectors: processor {:x?}, emulator {:x?}",
            observed.segment, expected.segment
        ));
    }
    if extended { extended_difference(&expected.extended, &observed.extended) } else { None }
}

fn clear_trap_flag(bytes: &mut [u8]) {
    if let Some(byte) = bytes.get_mut(1) {
        *byte &= !1;
    }
}

fn extended_difference(
    expected: &emu::registers::Extended,
    observed: &emu::registers::Extended,
) -> Option<String> {
    let vectors = expected.vector.iter().zip(&observed.vector).enumerate();
    for (number, (expected, observed)) in vectors {
        if expected != observed {
            return Some(format!(
                "vector register {number}: processor {:x?}, emulator {:x?}",
                observed.0, expected.0
            ));
        }
    }
    if expected.mxcsr != observed.mxcsr {
        return Some(format!("MXCSR: processor {:?}, emulator {:?}", observed.mxcsr, expected.mxcsr));
    }
    let mut x87 = expected.x87.clone();
    hide_pointers(Processor::host().facts, &observed.x87, &mut x87);
    if x87 != observed.x87 {
        return Some(format!("x87: processor {:x?}, emulator {:x?}", observed.x87, x87));
    }
    if expected.opmask != observed.opmask {
        return Some(format!("masks: processor {:x?}, emulator {:x?}", observed.opmask, expected.opmask));
    }
    let (tiles, seen) = (&expected.tiles, &observed.tiles);
    if tiles.config != seen.config {
        return Some(format!("TILECFG: processor {:x?}, emulator {:x?}", seen.config, tiles.config));
    }
    (tiles.data != seen.data).then(|| "tile registers".to_owned())
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let registers = &self.before.registers;
        write!(
            f,
            "{} ({:?}) at {:#x} with {:x?} flags {:#x}",
            self.displaced.instruction(),
            self.displaced.code(),
            self.displaced.ip(),
            registers.gpr,
            registers.rflags.bits()
        )
    }
}
