//! What only assembly can do: the way in and out of signal handlers and stubs, accesses that may fault, the state of a
//! thread that is in there, and the memory that stubs are written to.
//!
//! All of it lies in sections of its own, is never probed, and calls nothing but the services that are set at the start:
//! so a breakpoint in whatever those need (memcpy of the C library, say) leads to [`give_up`] and nowhere else.
//!
//! [`give_up`]: stepless_own_give_up

#![allow(
    unsafe_code,
    reason = "assembly, and what it is called by; each is wrapped here in a function that is safe to call"
)]

mod access;
mod stub;
mod trap;

use std::arch::{asm, global_asm};
use std::ops::Range;
use std::ptr;

pub(crate) use access::{Failed, exchange, load, store, touch};
pub(crate) use stub::{ANYWHERE, BRANCH, ENTRIES, NEXT, SLOT, enter, slots, trampolines};
pub(super) use stub::{CHANGED, StubService, image_length, save};
pub(super) use trap::{SignalService, call_on, fault_entry, restorer, trap_entry};

/// How much of its stack a thread needs below the signal frame that the kernel makes.
pub(crate) const ROOM: usize = 16 * 1024;
/// The multiplier by which addresses are spread over the table of sites.
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a thread is doing. It lies in thread-local storage that nobody has to allocate.
#[repr(C)]
pub(crate) struct Thread {
    phase: u32,
    /// How many stubs it is in, one called by what another calls.
    depth: u32,
    /// Where its stack was when it last called a handler.
    stack: u64,
    /// Of the last access that has failed.
    fault: Fault,
    /// Which register file it has used last, counted from 1; 0 if none.
    file: u32,
    /// Who is being told of a hit; 0 if nobody is.
    told: u64,
    /// What of the program's is being done about a signal; 0 if nothing is.
    wanted: u64,
    /// Between which addresses its stack is none that was set for signals, as it was last asked for.
    ordinary: [u64; 2],
}

/// Where assembly finds those addresses.
const ORDINARY: usize = std::mem::offset_of!(Thread, ordinary);
/// How much is reserved for it.
const THREAD: usize = 96;
const _: () = assert!(size_of::<Thread>() <= THREAD);

/// Why an access has failed, as the kernel has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) signal: i32,
    pub(crate) code: i32,
    pub(crate) address: u64,
    /// That of #PF.
    pub(crate) error_code: u64,
    pub(crate) key: u32,
}

/// How far a thread is with a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is in none.
    None,
    /// It executes code that all hits need.
    Serving,
    /// It executes a handler, which may call what it likes.
    Handler,
}

impl Phase {
    const NUMBERS: [Phase; 3] = [Phase::None, Phase::Serving, Phase::Handler];
}

global_asm!(
    r#"
    .pushsection .tbss.stepless_own,"awT",@nobits
    .p2align 4
    .globl stepless_own_state
    .hidden stepless_own_state
    .type stepless_own_state,@object
    .size stepless_own_state,{thread}
stepless_own_state:
    .zero {thread}
    .popsection
    "#,
    thread = const THREAD,
);

unsafe extern "C" {
    // The linker says where the section is that all of the code is in.
    #[link_name = "__start_stepless_own"]
    static start_of_code: u8;
    #[link_name = "__stop_stepless_own"]
    static end_of_code: u8;
}

/// Where something of ours lies.
fn address_of(symbol: *const u8) -> u64 {
    symbol as u64
}

/// The code that handlers of signals and stubs begin and end with.
pub(crate) fn code() -> Range<u64> {
    address_of(&raw const start_of_code)..address_of(&raw const end_of_code)
}

/// Sets what is called for traps, for accesses that fail, and by stubs.
pub(super) fn serve_by(trap: SignalService, fault: SignalService, stub: StubService) {
    trap::serve_by(trap, fault);
    stub::serve_by(stub);
}

/// Where a thread goes on that has faulted at `rip`, if that is in code of ours that may.
pub(super) fn landing(rip: u64) -> Option<u64> {
    access::landing(rip).or_else(|| trap::landing(rip)).or_else(|| stub::landing(rip))
}

/// The state of the calling thread.
fn thread() -> *mut Thread {
    let thread: *mut Thread;
    // SAFETY: FS points to the thread's control block, whose first word is its own address (psABI), and
    // `stepless_own_state` is in the static storage of each thread.
    unsafe {
        asm!(
            "mov {0}, qword ptr fs:[0]",
            "add {0}, qword ptr [rip + stepless_own_state@GOTTPOFF]",
            out(reg) thread,
            options(nostack, readonly)
        );
    }
    thread
}

/// How far the calling thread is with a hit.
pub(crate) fn phase() -> Phase {
    // SAFETY: the state is valid as long as the thread, and of nobody else.
    let number = unsafe { ptr::read_volatile(&raw const (*thread()).phase) };
    Phase::NUMBERS.get(number as usize).copied().unwrap_or(Phase::None)
}

/// Says how far it is.
pub(crate) fn set_phase(phase: Phase) {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).phase, phase as u32) }
}

/// Where the stack of the calling thread was when it last called a handler.
pub(crate) fn stack_of_handler() -> u64 {
    // SAFETY: as in `phase`.
    unsafe { ptr::read_volatile(&raw const (*thread()).stack) }
}

/// Says where it is.
pub(crate) fn set_stack_of_handler(stack: u64) {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).stack, stack) }
}

/// Who is being told of a hit that the calling thread serves, as it was told; 0 if nobody is.
pub(super) fn told() -> u64 {
    // SAFETY: as in `phase`.
    unsafe { ptr::read_volatile(&raw const (*thread()).told) }
}

/// Says who it is.
pub(super) fn set_told(told: u64) {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).told, told) }
}

/// What of the program's is being done about a signal that the calling thread has taken, as it was told; 0 if nothing is.
pub(super) fn wanted() -> u64 {
    // SAFETY: as in `phase`.
    unsafe { ptr::read_volatile(&raw const (*thread()).wanted) }
}

/// Says what it is.
pub(super) fn set_wanted(wanted: u64) {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).wanted, wanted) }
}

/// Says that the calling thread is in no stub.
pub(crate) fn leave_stubs() {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).depth, 0) }
}

/// What no other thread has that lives, in whichever process has this memory.
pub(super) fn number() -> u64 {
    thread() as u64
}

/// Which register file the calling thread has used last, counted from 1; 0 if none.
pub(super) fn file() -> u32 {
    // SAFETY: as in `phase`.
    unsafe { ptr::read_volatile(&raw const (*thread()).file) }
}

/// Says which it uses.
pub(super) fn set_file(number: u32) {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).file, number) }
}

/// Remembers why an access has failed.
pub(super) fn set_fault(fault: Fault) {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).fault, fault) }
}

/// Why the last access of the calling thread has failed.
pub(crate) fn fault() -> Fault {
    // SAFETY: as in `phase`.
    unsafe { ptr::read_volatile(&raw const (*thread()).fault) }
}

/// The base address of FS, or of GS.
pub(crate) fn segment_base(gs: bool) -> u64 {
    let base: u64;
    // SAFETY: the instructions only read a register; the system has enabled them, which [`has_bases`] has found out.
    unsafe {
        match gs {
            false => asm!("rdfsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)),
            true => asm!("rdgsbase {}", out(reg) base, options(nomem, nostack, preserves_flags)),
        }
    }
    base
}

/// Sets the base address of GS, which nothing of ours uses.
pub(crate) fn set_gs_base(base: u64) {
    // SAFETY: compiled code of this process does not use GS; the program itself has asked for the change.
    unsafe { asm!("wrgsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) }
}

/// Sets the base address of FS: from then on, nothing may be called until the thread is back in its own code.
#[inline(always)]
pub(super) fn set_fs_base(base: u64) {
    // SAFETY: as the program's own instruction would; the caller returns at once.
    unsafe { asm!("wrfsbase {}", in(reg) base, options(nomem, nostack, preserves_flags)) }
}

/// The selectors of ES, CS, SS, DS, FS and GS.
pub(crate) fn selectors() -> [u16; 6] {
    let (es, cs, ss, ds, fs, gs): (u16, u16, u16, u16, u16, u16);
    // SAFETY: the instructions only read registers.
    unsafe {
        asm!("mov {0:x}, es", "mov {1:x}, cs", "mov {2:x}, ss", "mov {3:x}, ds", "mov {4:x}, fs", "mov {5:x}, gs",
            out(reg) es, out(reg) cs, out(reg) ss, out(reg) ds, out(reg) fs, out(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
    [es, cs, ss, ds, fs, gs]
}

/// Whether the system lets programs read and set the bases of FS and GS.
pub(crate) fn has_bases() -> bool {
    const HWCAP2_FSGSBASE: u64 = 1 << 1;
    // SAFETY: the call takes a number only.
    unsafe { libc::getauxval(libc::AT_HWCAP2) & HWCAP2_FSGSBASE != 0 }
}
