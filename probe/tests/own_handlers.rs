//! A process that probes itself, and installs handlers of the signals that this takes.

#![allow(unsafe_code, reason = "functions in assembly, and handlers of signals")]

#[macro_use]
#[path = "common/functions.rs"]
mod functions;

use std::sync::atomic::{AtomicU64, Ordering};

use probe::locate::Address;
use probe::own::{Options, Session};
use probe::{Action, ProbeId};

functions!(
    r#"
    # rdi: where a word is. The load is as long as a jump.
    function handlers_load
    .byte 0x48, 0x8b, 0x87, 0, 0, 0, 0
    ret
    end handlers_load

    function handlers_unprobed
    mov rax, qword ptr [rdi]
    ret
    end handlers_unprobed

    function handlers_nop
    nop
    ret
    end handlers_nop

    function handlers_breakpoint
    int3
    ret
    end handlers_breakpoint
    "#
);

unsafe extern "C" {
    fn handlers_load(address: u64) -> u64;
    fn handlers_unprobed(address: u64) -> u64;
    safe fn handlers_nop();
    safe fn handlers_breakpoint();
}

const LOAD: unsafe extern "C" fn(u64) -> u64 = handlers_load;
const NOP: unsafe extern "C" fn() = handlers_nop;

/// Where the newest handler of SIGSEGV wants the faults of, and the one before it; nothing is there.
const NEWEST: u64 = 0x10;
const NEWER: u64 = 0x20;
const FIRST: u64 = 0x30;

/// How often each handler has done something, and where the instruction was the last time.
static SEEN: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static RIP: AtomicU64 = AtomicU64::new(0);
/// The handlers that were there when the newer ones were installed.
static BEFORE: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
static TRAPS: AtomicU64 = AtomicU64::new(0);

/// Returns from the function that has faulted, if that is at `address`; else has the handler do it that was there before.
fn handle_at<const NUMBER: usize>(
    address: u64,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::ucontext_t,
) {
    // SAFETY: the kernel, or who acts for it, has made these; and SIGSEGV has the member.
    let (at, registers) = unsafe { ((*info).si_addr() as u64, &mut (*context).uc_mcontext.gregs) };
    if at == address {
        SEEN[NUMBER].fetch_add(1, Ordering::Relaxed);
        RIP.store(registers[libc::REG_RIP as usize].cast_unsigned(), Ordering::Relaxed);
        let stack = registers[libc::REG_RSP as usize];
        // SAFETY: it has just been called.
        registers[libc::REG_RIP as usize] = unsafe { *(stack as *const i64) };
        registers[libc::REG_RSP as usize] = stack + 8;
        registers[libc::REG_RAX as usize] = -1;
        return;
    }
    let before = BEFORE[NUMBER].load(Ordering::Relaxed);
    assert!(before > 1, "nobody wants a fault at {at:#x}");
    // SAFETY: it is a handler that was installed with SA_SIGINFO.
    unsafe {
        let before: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t) =
            std::mem::transmute(before);
        before(signal, info, context);
    }
}

extern "C" fn newest(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    handle_at::<2>(NEWEST, signal, info, context);
}

extern "C" fn newer(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    handle_at::<1>(NEWER, signal, info, context);
}

extern "C" fn first(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    handle_at::<0>(FIRST, signal, info, context);
}

extern "C" fn trapped(_: i32) {
    TRAPS.fetch_add(1, Ordering::Relaxed);
}

/// Has a handler called for a signal, and returns which one was there.
fn install(signal: i32, handler: usize) -> u64 {
    // SAFETY: all-zero bytes are a valid action, and the handlers are such.
    unsafe {
        let [mut new, mut old]: [libc::sigaction; 2] = std::mem::zeroed();
        new.sa_sigaction = handler;
        new.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(signal, &raw const new, &raw mut old), 0);
        old.sa_sigaction as u64
    }
}

fn install_for_faults(
    number: usize,
    handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t),
) {
    BEFORE[number].store(install(libc::SIGSEGV, handler as usize), Ordering::Relaxed);
}

fn counts() -> [u64; 3] {
    [0, 1, 2].map(|number| SEEN[number].swap(0, Ordering::Relaxed))
}

fn emulated(session: &Session, probe: ProbeId) -> (u64, u64) {
    let counters = session.report(probe).unwrap().counters;
    (counters.hits, counters.emulated + counters.faulted)
}

#[test]
fn handlers_that_are_installed_later_have_what_is_theirs_and_no_more() {
    install_for_faults(0, first);
    // SAFETY: where nothing is mapped, the handlers return from the function.
    let [load, unprobed] =
        [handlers_load, handlers_unprobed].map(|load| move |address| unsafe { load(address) });
    let word = 7_u64;
    let there = &raw const word as u64;
    for jumps in [false, true] {
        let mut session = Session::with(Options { jumps }).unwrap();
        let loads = session.probe(Address(LOAD as usize as u64), |_| Action::Continue).unwrap();
        assert_eq!((load(there), load(FIRST), counts()), (7, u64::MAX, [1, 0, 0]));
        assert_eq!(RIP.swap(0, Ordering::Relaxed), LOAD as usize as u64);
        if BEFORE[1].load(Ordering::Relaxed) == 0 {
            install_for_faults(1, newer);
        }
        install(libc::SIGTRAP, trapped as *const () as usize);
        // From here on they are ours again.
        let nops = session.probe(Address(NOP as usize as u64), |_| Action::Continue).unwrap();
        let traps = TRAPS.load(Ordering::Relaxed);
        handlers_nop();
        handlers_breakpoint();
        assert_eq!((emulated(&session, nops), TRAPS.load(Ordering::Relaxed)), ((1, 1), traps + 1));
        for (address, expected) in [(NEWER, [0, 1, 0]), (FIRST, [1, 0, 0])] {
            assert_eq!((load(address), counts()), (u64::MAX, expected));
            assert_eq!(RIP.swap(0, Ordering::Relaxed), LOAD as usize as u64, "{address:#x}");
            assert_eq!((unprobed(address), counts()), (u64::MAX, expected));
        }
        assert_eq!((load(there), emulated(&session, loads)), (7, (5, 5)));
    }
    // The same with what came while there was no session.
    install_for_faults(2, newest);
    let mut session = Session::new().unwrap();
    let loads = session.probe(Address(LOAD as usize as u64), |_| Action::Continue).unwrap();
    for (address, expected) in [(NEWEST, [0, 0, 1]), (NEWER, [0, 1, 0]), (FIRST, [1, 0, 0])] {
        assert_eq!(
            (load(address), unprobed(address), counts()),
            (u64::MAX, u64::MAX, expected.map(|n| 2 * n))
        );
    }
    assert_eq!((load(there), emulated(&session, loads)), (7, (4, 4)));
}
