//! The child process, and the batches it is given.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use emu::registers::segment;
use emu::xsave::Layout;
use emu::{Registers, Rflags};
use nix::unistd::Pid;

use super::affinity::SharedCore;
use super::cpu;
use super::patience::{self, Verdict, Watch};
use super::places::{self, CODE_HIGH, CODE_LOW, IMAGE_LENGTH, PAGE, Protection, RUNNER, SLOT, SLOTS};
use super::runner::{self, HANDLER, SAVE, control, input, output, sigcontext};
use super::shared::{self, Progress, Shared};

/// A selector of user mode's 64-bit code segment and of its data segment, as Linux has them.
pub(crate) const USER_CS: u16 = 0x33;
pub(crate) const USER_SS: u16 = 0x2b;

/// How an instruction is made to stop after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// By RFLAGS.TF: anything, branches included.
    Step,
    /// By a jump behind it: only for what goes on to the next instruction or faults.
    Straight,
}

/// Where an instruction lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// In [`CODE_LOW`].
    Low,
    /// In [`CODE_HIGH`].
    High,
    /// At the end of a page of [`places::EDGES`]: the next instruction cannot be fetched.
    Edge,
}

/// Bytes to put into memory before a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patch {
    /// Where, in a writable region.
    pub address: u64,
    /// How many of `bytes`.
    pub length: usize,
    /// What.
    pub bytes: [u8; input::PATCH_LENGTH],
}

impl Patch {
    /// The bytes to put there.
    #[must_use]
    pub fn contents(&self) -> &[u8] {
        &self.bytes[..self.length.min(self.bytes.len())]
    }
}

/// One instruction and the state it starts from. Apart from the patches memory is the batch's.
#[derive(Clone, Debug)]
pub struct Case {
    /// The instruction's bytes.
    pub bytes: [u8; 15],
    /// How many of them, 1 to 15.
    pub length: usize,
    /// How it is stopped.
    pub mode: Mode,
    /// Whether it may repeat (REP), so that a single step does not finish it.
    pub repeats: bool,
    /// Where it lies.
    pub place: Place,
    /// The registers. [`Oracle::run`] does not look at RIP: see [`Case::ip`].
    pub registers: Registers,
    /// At most four.
    pub patches: Vec<Patch>,
}

impl AsRef<Case> for Case {
    fn as_ref(&self) -> &Case {
        self
    }
}

impl Case {
    /// The instruction's address as the batch's case number `index`.
    #[must_use]
    pub fn ip(&self, index: usize) -> u64 {
        match self.place {
            Place::Low => slot(CODE_LOW, index),
            Place::High => slot(CODE_HIGH, index),
            Place::Edge => places::edge(index % SLOTS) - self.length as u64,
        }
    }
}

impl Place {
    /// The address of the slot of the batch's case number `index`.
    #[must_use]
    pub fn slot(self, index: usize) -> u64 {
        slot(if self == Place::High { CODE_HIGH } else { CODE_LOW }, index)
    }
}

fn slot(code: places::Region, index: usize) -> u64 {
    code.start + (index % SLOTS * SLOT) as u64
}

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stop {
    /// It completed.
    Completed,
    /// An exception.
    Exception {
        /// The vector.
        vector: u8,
        /// The error code, zero for vectors without.
        error_code: u32,
        /// CR2, for a page fault.
        address: Option<u64>,
    },
    /// Not at all: it was interrupted. The registers are those of its last moment.
    Endless,
}

/// What the processor made of a case.
#[derive(Clone, Debug)]
pub struct Observed {
    /// How it ended.
    pub stop: Stop,
    /// All registers. RF is as the instruction found it: what a signal frame has there is how the processor
    /// reports a fault. `segment` has CS too.
    pub registers: Registers,
    /// The aligned words of memory that differ from the batch's contents, in address order for each region:
    /// address, value.
    pub changed: Vec<(u64, u64)>,
}

/// Why the oracle could not answer.
#[derive(Debug)]
pub enum Error {
    /// The processor or its kernel lacks something that the oracle needs.
    Unsupported(&'static str),
    /// A system call here failed.
    System(&'static str, io::Error),
    /// One of the child's first system calls failed: its number in the table.
    Setup(u64),
    /// The child ended, at that case of the batch.
    Died {
        /// The case.
        index: usize,
        /// What became of the child.
        status: String,
    },
    /// That case did not end in time, nor could it be interrupted.
    Deadline {
        /// The case.
        index: usize,
    },
    /// The child could not load that case's state, or could not report it.
    Case {
        /// The case.
        index: usize,
        /// What was wrong.
        reason: &'static str,
    },
}

impl Error {
    /// The case of the batch that it is about.
    #[must_use]
    pub fn index(&self) -> Option<usize> {
        match self {
            Error::Died { index, .. } | Error::Deadline { index } | Error::Case { index, .. } => Some(*index),
            Error::Unsupported(_) | Error::System(..) | Error::Setup(_) => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Unsupported(what) => write!(f, "this machine cannot run the oracle: {what}"),
            Error::System(call, error) => write!(f, "{call}: {error}"),
            Error::Setup(number) => write!(f, "the oracle's child: its system call {number} failed"),
            Error::Died { index, status } => write!(f, "the oracle's child died in case {index}: {status}"),
            Error::Deadline { index } => {
                let seconds = patience::DEADLINE.as_secs();
                write!(f, "case {index} did not end within {seconds} seconds after it was interrupted")
            }
            Error::Case { index, reason } => write!(f, "case {index}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// The contents of all regions at a batch's start; see [`places::Region::offset`].
pub type Memory = [u8; IMAGE_LENGTH];

/// The child process and the memory shared with it.
pub struct Oracle {
    child: Child,
    shared: Shared,
    layout: Layout,
    executable: File,
    file: File,
}

impl Oracle {
    /// Starts the child.
    ///
    /// # Errors
    /// This machine cannot run it.
    pub fn new() -> Result<Oracle, Error> {
        let layout = super::xsave_layout().ok_or(Error::Unsupported("no XSAVE"))?;
        if layout.length > shared::XSAVE_LENGTH {
            return Err(Error::Unsupported("an XSAVE image of unknown components"));
        }
        if !super::has_fsgsbase() {
            return Err(Error::Unsupported("no FSGSBASE"));
        }
        let system = |call| move |error| Error::System(call, error);
        let mut executable = shared::anonymous_file(c"conformance-runner").map_err(system("memfd_create"))?;
        executable.write_all(&runner::elf()).map_err(system("write to a memfd"))?;
        // Executing a file that is open for writing is refused: reopen it.
        let path = format!("/proc/self/fd/{}", executable.as_raw_fd());
        let executable = File::open(path).map_err(system("open /proc/self/fd"))?;
        let file = shared::anonymous_file(c"conformance-shared").map_err(system("memfd_create"))?;
        let mut shared = Shared::new(&file).map_err(system("mmap"))?;
        prepare(shared.bytes_mut(), &layout);
        let child = spawn(&executable, &file)?;
        Ok(Oracle { child, shared, layout, executable, file })
    }

    /// The XSAVE layout that the states go through: what it lacks is not tested on this machine.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Keeps the calling thread on the core on which the child runs, and the child there as well, for rows that
    /// answer as the core does ([`emu::Touches::THIS_CORE`]).
    pub fn share_core(&self) -> SharedCore {
        SharedCore::with(self.child.id().cast_signed())
    }

    /// Executes a batch of at most [`SLOTS`] cases, each starting from `memory`; the observations are in
    /// their order. The part of `memory` for code is not used: code is what the cases say, and is left in
    /// `memory`.
    ///
    /// # Errors
    /// A case that the child did not survive, or that could not be run. A new child is ready then.
    pub fn run<C: AsRef<Case>>(&mut self, memory: &mut Memory, cases: &[C]) -> Result<Vec<Observed>, Error> {
        let cases = &cases[..cases.len().min(SLOTS)];
        for (index, case) in cases.iter().map(AsRef::as_ref).enumerate() {
            write_code(&mut memory[CODE_LOW.offset + index * SLOT..][..SLOT], case);
        }
        let bytes = self.shared.bytes_mut();
        for (index, case) in cases.iter().map(AsRef::as_ref).enumerate() {
            if case.place == Place::Edge {
                let length = case.length.min(15);
                let end = shared::EDGES + (index + 1) * PAGE as usize;
                bytes[end - length..end].copy_from_slice(&case.bytes[..length]);
            }
        }
        bytes[shared::IMAGE..shared::IMAGE + IMAGE_LENGTH].copy_from_slice(memory);
        for (index, case) in cases.iter().map(AsRef::as_ref).enumerate() {
            let start = shared::INPUTS + index * shared::INPUT_STRIDE;
            let place = &mut bytes[start..start + shared::INPUT_STRIDE];
            write_input(place, case, case.ip(index), &self.layout)
                .map_err(|reason| Error::Case { index, reason })?;
        }
        put_u32(bytes, control::INDEX, 0);
        put_u32(bytes, control::COUNT, cases.len() as u32);
        put_u32(bytes, control::INTERRUPTED, 0);
        self.finish(|index| cases.get(index).map(AsRef::as_ref))?;

        let mut observations = Vec::with_capacity(cases.len());
        for (index, case) in cases.iter().map(AsRef::as_ref).enumerate() {
            let start = shared::OUTPUTS + index * shared::OUTPUT_STRIDE;
            let place = &self.shared.bytes()[start..start + shared::OUTPUT_STRIDE];
            let observed = read_output(place, case, case.ip(index), &self.layout)
                .map_err(|reason| Error::Case { index, reason })?;
            observations.push(observed);
        }
        Ok(observations)
    }

    /// Gives the batch of these cases to the child and waits until it is done. A case that does not end is
    /// interrupted.
    fn finish<'a>(&mut self, cases: impl Fn(usize) -> Option<&'a Case>) -> Result<(), Error> {
        const PATIENCE: Duration = Duration::from_millis(50);
        let mut watch = Watch::new(Pid::from_raw(self.child.id().cast_signed()));
        self.shared.give();
        loop {
            let index = match self.shared.wait(PATIENCE) {
                Progress::Done => return Ok(()),
                Progress::Working(index) => index,
            };
            match self.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    let failed = get_u64(self.shared.bytes(), control::FAILED);
                    self.restart()?;
                    return Err(match failed {
                        0 => Error::Died { index: index as usize, status: status.to_string() },
                        number => Error::Setup(number),
                    });
                }
                Err(error) => return Err(Error::System("waitpid", error)),
            }
            match watch.see(index, cases(index as usize)) {
                Verdict::Wait => {}
                Verdict::Interrupt => {
                    self.shared.mark_interrupted(index);
                    watch.interrupt();
                }
                Verdict::GiveUp => {
                    self.restart()?;
                    return Err(Error::Deadline { index: index as usize });
                }
            }
        }
    }

    /// Replaces the child.
    fn restart(&mut self) -> Result<(), Error> {
        end(&mut self.child);
        prepare(self.shared.bytes_mut(), &self.layout);
        self.child = spawn(&self.executable, &self.file)?;
        Ok(())
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// Ends the child. That it has ended already is no error.
fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(executable: &File, shared: &File) -> Result<Child, Error> {
    let input = shared.try_clone().map_err(|error| Error::System("dup", error))?;
    Command::new(format!("/proc/self/fd/{}", executable.as_raw_fd()))
        .env_clear()
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| Error::System("execute the oracle's runner", error))
}

fn put_u32(bytes: &mut [u8], offset: usize, value: u32) {
    bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
}

fn put_u64(bytes: &mut [u8], offset: usize, value: u64) {
    bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
}

fn get_u64(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

fn get_u16(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

/// Writes what the child needs to know before its first batch.
fn prepare(bytes: &mut [u8], layout: &Layout) {
    bytes.fill(0);
    let address = |offset: usize| places::SHARED + offset as u64;
    put_u64(bytes, control::INPUTS, address(shared::INPUTS));
    put_u64(bytes, control::INPUT_STRIDE, shared::INPUT_STRIDE as u64);
    put_u64(bytes, control::OUTPUTS, address(shared::OUTPUTS));
    put_u64(bytes, control::OUTPUT_STRIDE, shared::OUTPUT_STRIDE as u64);
    put_u64(bytes, control::XSAVE_MASK, layout.features());
    put_u64(bytes, control::XSAVE_LENGTH, layout.length as u64);
    for (number, region) in places::WRITABLE.iter().enumerate() {
        let place = control::REGIONS + 24 * number;
        put_u64(bytes, place, region.start);
        put_u64(bytes, place + 8, address(shared::IMAGE + region.offset));
        put_u64(bytes, place + 16, region.length);
    }

    // Where the structures that system calls point to lie: before the table.
    const STRUCTURES: usize = 0x200;
    let action = address(STRUCTURES);
    put_u64(bytes, STRUCTURES, HANDLER);
    const SA_RESTORER: u64 = 0x0400_0000;
    let flags = (libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER) as u64 | SA_RESTORER;
    put_u64(bytes, STRUCTURES + 8, flags);
    put_u64(bytes, STRUCTURES + 16, HANDLER);
    let stack = STRUCTURES + 64;
    put_u64(bytes, stack, address(shared::ALTERNATE_STACK));
    put_u64(bytes, stack + 16, shared::ALTERNATE_STACK_LENGTH as u64);

    let program = stack + 64;
    let filter = filter();
    put_u64(bytes, program, filter.len() as u64);
    put_u64(bytes, program + 8, address(program + 16));
    for (number, [code, jumps, value]) in filter.into_iter().enumerate() {
        put_u32(bytes, program + 16 + 8 * number, code | jumps << 16);
        put_u32(bytes, program + 20 + 8 * number, value);
    }

    let calls = setup(layout, action, address(stack), address(program));
    for (number, call) in calls.iter().enumerate() {
        for (position, value) in call.iter().enumerate() {
            put_u64(bytes, control::SETUP + 64 * number + 8 * position, *value);
        }
    }
}

/// A seccomp filter (classic BPF: code, jump distances, value) by which an instruction under test that makes
/// a system call gets ENOSYS. The runner's own two calls are let through, and the child's end.
fn filter() -> [[u32; 3]; 8] {
    const LOAD: u32 = 0x20;
    const EQUAL: u32 = 0x15;
    const RETURN: u32 = 0x06;
    const ARCH: u32 = 4;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    const X86_64: u32 = 0xc000_003e;
    // Jump distances: if equal in the low byte, otherwise in the high one.
    let jump = |value: u32, equal: u32, otherwise: u32| [EQUAL, equal | otherwise << 8, value];
    [
        [LOAD, 0, ARCH],
        jump(X86_64, 0, 4),
        [LOAD, 0, 0],
        jump(libc::SYS_futex as u32, 3, 0),
        jump(libc::SYS_rt_sigreturn as u32, 2, 0),
        jump(libc::SYS_exit_group as u32, 1, 0),
        [RETURN, 0, ERRNO | libc::ENOSYS as u32],
        [RETURN, 0, ALLOW],
    ]
}

/// The child's first system calls: an address space with nothing but the regions, permission to use what `layout` has,
/// and signal handlers.
fn setup(layout: &Layout, action: u64, stack: u64, filter: u64) -> Vec<[u64; 8]> {
    const MMAP: u64 = libc::SYS_mmap as u64;
    let call = |number: i64, a: u64, b: u64, c: u64, d: u64| [number as u64, a, b, c, d, 0, 0, 0];
    let mut calls = vec![
        call(libc::SYS_prctl, libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64, 0, 0),
        call(libc::SYS_munmap, 0, RUNNER, 0, 0),
        call(libc::SYS_munmap, RUNNER + PAGE, places::SHARED - RUNNER - PAGE, 0, 0),
        {
            let end = places::SHARED + shared::LENGTH as u64;
            call(libc::SYS_munmap, end, places::USER_END - end, 0, 0)
        },
    ];
    for region in places::REGIONS {
        let fixed = (libc::MAP_FIXED | libc::MAP_POPULATE) as u64;
        let (protection, flags, fd, offset) = match region.protection {
            Protection::ReadWrite => {
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, u64::MAX, 0)
            }
            Protection::ReadOnly => {
                (libc::PROT_READ, libc::MAP_SHARED, 0, shared::IMAGE as u64 + region.offset as u64)
            }
            Protection::ReadExecute => (
                libc::PROT_READ | libc::PROT_EXEC,
                libc::MAP_SHARED,
                0,
                shared::IMAGE as u64 + region.offset as u64,
            ),
        };
        calls.push([
            MMAP,
            region.start,
            region.length,
            protection as u64,
            flags as u64 | fixed,
            fd,
            offset,
            0,
        ]);
    }
    for index in 0..SLOTS {
        calls.push([
            MMAP,
            places::edge(index) - PAGE,
            PAGE,
            (libc::PROT_READ | libc::PROT_EXEC) as u64,
            (libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE) as u64,
            0,
            (shared::EDGES + index * PAGE as usize) as u64,
            0,
        ]);
    }
    if layout.tile_data.is_some() {
        calls.push(call(libc::SYS_arch_prctl, cpu::ARCH_REQ_XCOMP_PERM, cpu::TILE_DATA, 0, 0));
    }
    // Which the kernel refuses if it is too small for the frame of a signal with all that is permitted.
    calls.push(call(libc::SYS_sigaltstack, stack, 0, 0, 0));
    let interrupt = patience::INTERRUPT as i32;
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, interrupt] {
        calls.push(call(libc::SYS_rt_sigaction, signal as u64, action, 0, 8));
    }
    calls.push(call(libc::SYS_close, 0, 0, 0, 0));
    calls.push(call(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0));
    let mode = libc::SECCOMP_MODE_FILTER as u64;
    calls.push(call(libc::SYS_prctl, libc::PR_SET_SECCOMP as u64, mode, filter, 0));
    calls.push([u64::MAX, 0, 0, 0, 0, 0, 0, 0]);
    calls
}

/// The instruction, a jump to the runner through a pointer, and that pointer.
fn write_code(slot: &mut [u8], case: &Case) {
    const POINTER: usize = SLOT - 8;
    const UNDEFINED: u8 = 0xcc;
    slot.fill(UNDEFINED);
    let length = case.length.min(15);
    slot[..length].copy_from_slice(&case.bytes[..length]);
    slot[length..length + 2].copy_from_slice(&[0xff, 0x25]);
    let displacement = (POINTER - (length + 6)) as u32;
    put_u32(slot, length + 2, displacement);
    put_u64(slot, POINTER, SAVE);
}

fn write_input(place: &mut [u8], case: &Case, ip: u64, layout: &Layout) -> Result<(), &'static str> {
    let registers = &case.registers;
    for (number, value) in registers.gpr.iter().enumerate() {
        put_u64(place, input::GPR + 8 * number, *value);
    }
    put_u64(place, input::RIP, ip);
    put_u64(place, input::RFLAGS, registers.rflags.bits());
    put_u64(place, input::FS_BASE, registers.fs_base);
    put_u64(place, input::GS_BASE, registers.gs_base);
    let step = if case.mode == Mode::Step { input::STEP } else { 0 };
    let repeat = if case.repeats { input::REPEAT } else { 0 };
    put_u64(place, input::MODE, step | repeat);
    let selectors = [segment::DS, segment::ES, segment::FS, segment::GS];
    for (position, number) in selectors.into_iter().enumerate() {
        let at = input::SELECTORS + 2 * position;
        place[at..at + 2].copy_from_slice(&registers.segment[number].to_le_bytes());
    }
    if case.patches.len() > input::PATCHES {
        return Err("more than four patches");
    }
    put_u64(place, input::PATCH_COUNT, case.patches.len() as u64);
    for (number, patch) in case.patches.iter().enumerate() {
        let contents = patch.contents();
        let last = patch.address.wrapping_add(contents.len() as u64);
        if !places::WRITABLE.iter().any(|region| region.start <= patch.address && last <= region.end()) {
            return Err("a patch outside of writable memory");
        }
        put_u64(place, input::PATCH + 16 * number, patch.address);
        put_u64(place, input::PATCH + 16 * number + 8, contents.len() as u64);
        let at = input::PATCH_BYTES + input::PATCH_LENGTH * number;
        place[at..at + contents.len()].copy_from_slice(contents);
    }
    let image = &mut place[input::XSAVE..input::XSAVE + layout.length];
    layout.write(&registers.extended, registers.pkru, image).map_err(|_| "an XSAVE image too short")
}

fn read_output(place: &[u8], case: &Case, ip: u64, layout: &Layout) -> Result<Observed, &'static str> {
    let quad = |position: usize| get_u64(place, output::SIGCONTEXT + 8 * position);
    let half = |offset: usize| get_u16(place, offset);
    let mut registers = Registers { ssp: None, ..Default::default() };
    for (number, position) in sigcontext::GPR.into_iter().enumerate() {
        registers.gpr[number] = quad(position);
    }
    registers.rflags = Rflags::from_bits_retain(quad(sigcontext::EFLAGS));
    registers.rip = quad(sigcontext::RIP);
    registers.fs_base = get_u64(place, output::FS_BASE);
    registers.gs_base = get_u64(place, output::GS_BASE);
    let selectors = output::SIGCONTEXT + 8 * sigcontext::SELECTORS;
    registers.segment[segment::CS] = half(selectors);
    registers.segment[segment::SS] = half(selectors + 6);
    for (position, number) in [segment::DS, segment::ES, segment::FS, segment::GS].into_iter().enumerate() {
        registers.segment[number] = half(output::SELECTORS + 2 * position);
    }
    let image = &place[output::XSAVE..output::XSAVE + layout.length];
    layout
        .read(image, &mut registers.extended, &mut registers.pkru)
        .map_err(|_| "an XSAVE image too short")?;

    let stop = read_stop(place, case, ip, &mut registers)?;
    let count = get_u64(place, output::CHANGED_COUNT) as usize;
    if count > runner::CHANGED_WORDS {
        return Err("it changed more memory than is reported");
    }
    let changes = output::XSAVE + layout.length;
    let changed = (0..count)
        .map(|number| {
            let at = changes + 16 * number;
            (get_u64(place, at), get_u64(place, at + 8))
        })
        .collect();
    Ok(Observed { stop, registers, changed })
}

/// How the instruction ended, with what is the stepping's own taken out of `registers`.
fn read_stop(place: &[u8], case: &Case, ip: u64, registers: &mut Registers) -> Result<Stop, &'static str> {
    const DEBUG: u64 = 1;
    let quad = |position: usize| get_u64(place, output::SIGCONTEXT + 8 * position);
    let next = ip + case.length as u64;
    if get_u64(place, output::SIGNAL) == 0 {
        registers.rip = next;
        return Ok(Stop::Completed);
    }
    let (vector, mut stepped) = (quad(sigcontext::TRAPNO), false);
    registers.rflags.remove(Rflags::RF);
    registers.rflags |= case.registers.rflags & Rflags::RF;
    if get_u64(place, output::SIGNAL) == patience::INTERRUPT as u64 {
        if case.mode == Mode::Step {
            registers.rflags.set(Rflags::TF, case.registers.rflags.contains(Rflags::TF));
        }
        return Ok(Stop::Endless);
    }
    if case.mode == Mode::Straight && registers.rip == SAVE && vector == DEBUG {
        // The instruction set TF, and the processor stopped after the jump behind it.
        registers.rip = next;
        return Ok(Stop::Completed);
    }
    // A branch under test may have found the address of `SAVE` in code memory.
    let branched = case.mode == Mode::Step && registers.rip == SAVE && vector == DEBUG;
    if !branched && (RUNNER..RUNNER + PAGE).contains(&registers.rip) {
        return Err("the processor refuses to load this state");
    }
    let address = (vector == 14).then(|| quad(sigcontext::CR2));
    if case.place == Place::Edge && registers.rip == next && address == Some(next) {
        // The next instruction could not be fetched.
        return Ok(Stop::Completed);
    }
    if case.mode == Mode::Step {
        stepped = vector == DEBUG;
        registers.rflags.set(Rflags::TF, case.registers.rflags.contains(Rflags::TF));
    }
    if stepped {
        // One that repeats leaves its address when it ends.
        let is_endless = case.repeats && registers.rip == ip;
        return Ok(if is_endless { Stop::Endless } else { Stop::Completed });
    }
    Ok(Stop::Exception { vector: vector as u8, error_code: quad(sigcontext::ERR) as u32, address })
}
