//! A process that probes itself, and does to itself and to its probes what programs may do.

#![allow(unsafe_code, reason = "functions in assembly, handlers of signals, mappings and children")]

#[macro_use]
#[path = "common/functions.rs"]
mod functions;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use probe::locate::Address;
use probe::own::{Means, Options, Session};
use probe::{Action, ProbeId};

functions!(
    r#"
    function hostile_nop
    .byte 0x0f, 0x1f, 0x44, 0, 0
    lea rax, [rdi + rdi * 2]
    ret
    end hostile_nop

    # rdi: a number.
    function hostile_enter
    push rbp
    mov rdx, rsp
    movq xmm7, rdi
    vpbroadcastq ymm7, xmm7
    mov rcx, rdi
    mov rsi, rdi
    mov r8, rdi
    lea rbp, [rip + hostile_words + 256]
hostile_enter_site:
    enter 16, 31
    mov rsp, rdx
    vextracti128 xmm6, ymm7, 1
    movq rax, xmm6
    lea rax, [rax + rcx]
    add rax, rsi
    add rax, r8
    vzeroupper
    pop rbp
    ret
    end hostile_enter
    .globl hostile_enter_site

    # Sets TF for a few instructions.
    function hostile_steps
    pushfq
    or dword ptr [rsp], 0x100
    popfq
    nop
hostile_steps_site:
    .byte 0x0f, 0x1f, 0x44, 0, 0
    lea rax, [rdi + rdi * 2]
    pushfq
    and dword ptr [rsp], 0xfffffeff
    popfq
    ret
    end hostile_steps
    .globl hostile_steps_site

    # rdi: the number of a system call, which has no arguments.
    function hostile_syscall
    mov rax, rdi
hostile_syscall_site:
    syscall
    ret
    end hostile_syscall
    .globl hostile_syscall_site

    .pushsection .rodata.hostile,"a",@progbits
    .p2align 4
hostile_words:
    .fill 264, 1, 0x5a
    .popsection

    function hostile_many
    .rept 5000
    .byte 0x0f, 0x1f, 0x44, 0, 0
    .endr
    ret
    end hostile_many

    # rdi: what is called on the stack that ends at rsi.
    function hostile_call_on
    push rbp
    mov rbp, rsp
    mov rsp, rsi
    call rdi
    mov rsp, rbp
    pop rbp
    ret
    end hostile_call_on
    "#
);

unsafe extern "C" {
    safe fn hostile_nop(number: u64) -> u64;
    safe fn hostile_enter(number: u64) -> u64;
    safe fn hostile_steps(number: u64) -> u64;
    fn hostile_syscall(number: i64) -> i64;
    safe fn hostile_many();
    static hostile_enter_site: u8;
    static hostile_steps_site: u8;
    static hostile_syscall_site: u8;
    #[link_name = "__sigsetjmp"]
    fn sigsetjmp(environment: *mut u64, mask: i32) -> i32;
    fn siglongjmp(environment: *mut u64, value: i32) -> !;
}

const NOP: unsafe extern "C" fn(u64) -> u64 = hostile_nop;

/// One test at a time: all share signals and functions.
fn begin() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    static BEGIN: Once = Once::new();
    // Handlers are those that are there before the first session.
    BEGIN.call_once(|| handle(libc::SIGTRAP, stepped as *const () as usize, libc::SA_SIGINFO));
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kinds() -> [Session; 2] {
    [false, true].map(|jumps| Session::with(Options { jumps }).unwrap())
}

fn hits(session: &Session, probe: ProbeId) -> u64 {
    session.report(probe).unwrap().counters.hits
}

/// Has `handler` called for a signal.
fn handle(signal: i32, handler: usize, flags: i32) {
    // SAFETY: all-zero bytes are a valid action, and the handlers are such.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
    }
}

/// What a child that runs `work` ends by.
fn child(work: impl FnOnce() -> bool) -> i32 {
    // SAFETY: the child ends without coming back.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // A child that hangs is ended.
        // SAFETY: both calls take numbers.
        unsafe {
            libc::alarm(10);
            libc::_exit(if work() { 7 } else { 1 });
        }
    }
    let mut status = 0;
    // SAFETY: the status is valid.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    status
}

/// What `child` returns where the work was well done.
const WELL: i32 = 7 << 8;

/// Code of its own, in memory that can be had and given back.
struct Code(*mut u8);

const PAGE: usize = 4096;

impl Code {
    fn at(address: *mut u8, bytes: &[u8], protection: i32) -> Code {
        let fixed = if address.is_null() { 0 } else { libc::MAP_FIXED };
        // SAFETY: it is new memory, or that of one who has given it back.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
            let place = libc::mmap(address.cast(), PAGE, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
            assert_ne!(place, libc::MAP_FAILED);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), place.cast(), bytes.len());
            assert_eq!(libc::mprotect(place, PAGE, protection), 0);
            Code(place.cast())
        }
    }

    fn executable(address: *mut u8, bytes: &[u8]) -> Code {
        Code::at(address, bytes, libc::PROT_READ | libc::PROT_EXEC)
    }

    fn give_back(self) {
        // SAFETY: nobody uses it.
        unsafe { assert_eq!(libc::munmap(self.0.cast(), PAGE), 0) };
    }

    fn call(&self) -> u64 {
        // SAFETY: there is a function.
        unsafe { std::mem::transmute::<*mut u8, extern "C" fn() -> u64>(self.0)() }
    }

    fn bytes<const N: usize>(&self) -> [u8; N] {
        // SAFETY: it can be read.
        unsafe { std::ptr::read_volatile(self.0.cast()) }
    }
}

/// MOV EAX, a number; RET.
fn returning(number: u8) -> [u8; 8] {
    [0xb8, number, 0, 0, 0, 0xc3, 0x90, 0x90]
}

#[test]
fn memory_that_goes_from_below_a_probe_takes_it_along() {
    let _one = begin();
    for mut session in kinds() {
        let code = Code::executable(std::ptr::null_mut(), &returning(1));
        let address = code.0;
        let first = session.probe(Address(address as u64), |_| Action::Continue).unwrap();
        assert_eq!((code.call(), hits(&session, first)), (1, 1));
        code.give_back();
        // Data come there: what is there is there, for who is probed as well.
        let data = Code::at(address, &[1, 2, 3, 4, 5, 6, 7, 8], libc::PROT_READ | libc::PROT_WRITE);
        let load = Code::executable(std::ptr::null_mut(), &[0x48, 0x8b, 0x07, 0xc3]);
        let loads = session.probe(Address(load.0 as u64), |_| Action::Continue).unwrap();
        // SAFETY: MOV RAX, [RDI]; RET.
        let loaded =
            unsafe { std::mem::transmute::<*mut u8, extern "C" fn(*mut u8) -> u64>(load.0)(address) };
        assert_eq!((loaded, hits(&session, loads)), (0x0807_0605_0403_0201, 1));
        data.give_back();
        // And other code, which nobody changes any more.
        let code = Code::executable(address, &returning(2));
        assert_eq!(code.call(), 2);
        session.remove(first);
        assert_eq!(code.bytes(), returning(2));
        // It can be probed as any, and so can the next, with the probe of the one before still placed.
        let second = session.probe(Address(address as u64), |_| Action::Continue).unwrap();
        assert_eq!((code.call(), hits(&session, first), hits(&session, second)), (2, 1, 1));
        code.give_back();
        let code = Code::executable(address, &returning(3));
        let third = session.probe(Address(address as u64), |_| Action::Continue).unwrap();
        assert_eq!((code.call(), hits(&session, third)), (3, 1));
        session.remove(third);
        session.remove(second);
        assert_eq!((code.bytes(), code.call()), (returning(3), 3));
        // What is gone altogether is removed as well.
        let last = session.probe(Address(address as u64), |_| Action::Continue).unwrap();
        code.give_back();
        session.remove(last);
        drop(session);
        load.give_back();
    }
}

#[test]
fn a_child_has_probes_of_its_own() {
    let _one = begin();
    for mut session in kinds() {
        let probe = session.probe(Address(hostile_nop as *const () as u64), |_| Action::Continue).unwrap();
        assert_eq!(hostile_nop(2), 6);
        let status = child(|| {
            let served = hostile_nop(3) == 9 && hits(&session, probe) == 2;
            let new = session.probe(Address(hostile_nop as *const () as u64), |_| Action::Continue);
            let new = new.unwrap();
            let both = hostile_nop(3) == 9 && (hits(&session, probe), hits(&session, new)) == (3, 1);
            session.remove(probe);
            let one = hostile_nop(3) == 9 && (hits(&session, probe), hits(&session, new)) == (3, 2);
            session.remove(new);
            served && both && one && hostile_nop(3) == 9 && hits(&session, new) == 2
        });
        assert_eq!(status, WELL);
        // One whose parent has ended.
        let status = child(|| {
            let mut ends = [0; 2];
            // SAFETY: the numbers are valid; the child ends.
            unsafe {
                libc::pipe(ends.as_mut_ptr());
                if libc::fork() == 0 {
                    libc::alarm(10);
                    let parent = libc::getppid();
                    libc::close(ends[1]);
                    while libc::getppid() == parent {
                        libc::sched_yield();
                    }
                    let new = session.probe(Address(hostile_enter as *const () as u64), |_| Action::Continue);
                    libc::_exit(i32::from(new.is_err()));
                }
            }
            true
        });
        assert_eq!(status, WELL);
        assert_eq!((hostile_nop(3), hits(&session, probe)), (9, 2));
    }
}

#[test]
fn a_child_that_is_made_while_others_place_probes_can_place_some() {
    let _one = begin();
    static STOP: AtomicBool = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut session = Session::new().unwrap();
            while !STOP.load(Ordering::Relaxed) {
                let probe = session.probe(Address(hostile_many as *const () as u64), |_| Action::Continue);
                session.forget(probe.unwrap());
            }
        });
        let mut statuses = Vec::new();
        for _ in 0..50 {
            statuses.push(child(|| {
                let mut session = Session::new().unwrap();
                let probe = session.probe(Address(hostile_nop as *const () as u64), |_| Action::Continue);
                hostile_nop(3) == 9 && session.forget(probe.unwrap()).unwrap().counters.hits == 1
            }));
        }
        STOP.store(true, Ordering::Relaxed);
        assert_eq!(statuses, [WELL; 50]);
    });
}

#[test]
fn what_writes_far_below_its_stack_pointer_leaves_the_threads_registers_alone() {
    let _one = begin();
    let plain = hostile_enter(5);
    assert_eq!(plain, 20);
    for mut session in kinds() {
        let site = Address(&raw const hostile_enter_site as u64);
        let probe = session.probe(site, |_| Action::Continue).unwrap();
        for _ in 0..10 {
            assert_eq!(hostile_enter(5), plain);
        }
        assert_eq!(hits(&session, probe), 10, "{:?}", session.means(probe));
    }
}

/// Where a program that steps itself has been.
static STEPS: Mutex<Vec<u64>> = Mutex::new(Vec::new());

extern "C" fn stepped(_: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: these are the arguments of a handler.
    let (code, rip) = unsafe { ((*info).si_code, (*context).uc_mcontext.gregs[libc::REG_RIP as usize]) };
    if code == libc::TRAP_TRACE
        && let Ok(mut steps) = STEPS.try_lock()
        && steps.len() < steps.capacity()
    {
        steps.push(rip.cast_unsigned());
    }
}

#[test]
fn a_program_that_steps_itself_sees_its_own_instructions() {
    let _one = begin();
    let status = child(|| {
        let steps = || {
            *STEPS.lock().unwrap() = Vec::with_capacity(1000);
            assert_eq!(hostile_steps(4), 12);
            STEPS.lock().unwrap().clone()
        };
        let plain = steps();
        assert!(plain.len() > 4);
        for mut session in kinds() {
            let site = Address(&raw const hostile_steps_site as u64);
            let probe = session.probe(site, |_| Action::Continue).unwrap();
            let now = steps();
            if now != plain {
                println!("{:?}: {now:x?} {plain:x?}", session.means(probe));
                return false;
            }
            assert_eq!(hits(&session, probe), 1);
        }
        true
    });
    assert_eq!(status, WELL);
}

#[test]
fn jumps_leave_memory_for_system_calls() {
    let _one = begin();
    let mut session = Session::with(Options { jumps: true }).unwrap();
    let start = hostile_many as *const () as u64;
    for address in (start..start + 5 * 5000).step_by(5) {
        session.probe(Address(address), |_| Action::Continue).unwrap();
    }
    hostile_many();
    let site = Address(&raw const hostile_syscall_site as u64);
    let probe = session.probe(site, |_| Action::Continue).unwrap();
    for _ in 0..3 {
        // SAFETY: the call takes nothing.
        assert_eq!(unsafe { hostile_syscall(libc::SYS_getpid) }, i64::from(std::process::id()));
    }
    assert_eq!(hits(&session, probe), 3, "{:?}", session.means(probe));
}

static mut ENVIRONMENT: [u64; 64] = [0; 64];
static LEAVING: AtomicBool = AtomicBool::new(false);
static LEFT: AtomicI32 = AtomicI32::new(0);

extern "C" fn leave(_: i32) {
    if LEAVING.swap(false, Ordering::Relaxed) {
        // SAFETY: who has set the environment has not returned.
        unsafe { siglongjmp((&raw mut ENVIRONMENT).cast(), 1) };
    }
}

/// Calls it, and comes back however it ends.
#[inline(never)]
fn call_and_leave(number: u64) -> u64 {
    // SAFETY: nothing here has to be dropped.
    unsafe {
        if sigsetjmp((&raw mut ENVIRONMENT).cast(), 1) == 0 {
            return hostile_nop(number);
        }
    }
    LEFT.fetch_add(1, Ordering::Relaxed);
    0
}

#[test]
fn a_signals_handler_may_leave_by_longjmp_what_it_has_interrupted() {
    let _one = begin();
    let status = child(|| {
        handle(libc::SIGUSR1, leave as *const () as usize, 0);
        let mut session = Session::with(Options { jumps: true }).unwrap();
        static RAISE: AtomicBool = AtomicBool::new(false);
        let probe = session.probe(Address(hostile_nop as *const () as u64), |_| {
            if RAISE.load(Ordering::Relaxed) {
                LEAVING.store(true, Ordering::Relaxed);
                // SAFETY: it has a handler.
                unsafe { libc::raise(libc::SIGUSR1) };
            }
            Action::Continue
        });
        let probe = probe.unwrap();
        assert_eq!(session.means(probe)[0].1, Means::Jump);
        for round in 1..=100 {
            RAISE.store(true, Ordering::Relaxed);
            assert_eq!((call_and_leave(3), LEFT.load(Ordering::Relaxed)), (0, round));
            RAISE.store(false, Ordering::Relaxed);
            assert_eq!(call_and_leave(3), 9);
        }
        let counters = session.report(probe).unwrap().counters;
        println!("{counters:?}");
        assert_eq!((counters.hits, counters.missed), (200, 0));
        assert_eq!(counters.emulated, 100);
        assert_eq!(session.means(probe)[0].1, Means::Jump);
        RAISE.store(true, Ordering::Relaxed);
        call_and_leave(3);
        session.remove(probe);
        call_and_leave(3) == 9
    });
    assert_eq!(status, WELL);
}

#[test]
fn what_interrupts_a_handler_on_another_stack_is_missed() {
    let _one = begin();
    const LARGE: usize = 256 * 1024;
    extern "C" fn call(_: i32) {
        assert_eq!(hostile_nop(4), 12);
    }
    let status = child(|| {
        handle(libc::SIGUSR1, call as *const () as usize, libc::SA_ONSTACK);
        let works = |stack: u64| {
            let stack = libc::stack_t { ss_sp: stack as *mut _, ss_flags: 0, ss_size: LARGE };
            // SAFETY: the stack is there until the child ends.
            unsafe { assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0) };
            let mut session = Session::with(Options { jumps: true }).unwrap();
            let probe = session.probe(Address(hostile_nop as *const () as u64), |_| {
                // SAFETY: it has a handler.
                unsafe { libc::raise(libc::SIGUSR1) };
                Action::Continue
            });
            let probe = probe.unwrap();
            for number in 1..=10 {
                assert_eq!(hostile_nop(3), 9);
                let counters = session.report(probe).unwrap().counters;
                assert_eq!((counters.hits, counters.missed, counters.emulated), (number, number, 2 * number));
            }
        };
        let map = || {
            // SAFETY: it is new memory.
            let stack = unsafe {
                let protection = libc::PROT_READ | libc::PROT_WRITE;
                libc::mmap(
                    std::ptr::null_mut(),
                    LARGE,
                    protection,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                )
            };
            assert_ne!(stack, libc::MAP_FAILED);
            stack as u64
        };
        // Above the stack of a thread, and below.
        let (first, second) = (map(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                second.store(map(), Ordering::Relaxed);
                works(first);
            });
        });
        std::thread::scope(|scope| {
            scope.spawn(|| works(second.load(Ordering::Relaxed)));
        });
        true
    });
    assert_eq!(status, WELL);
}

#[test]
fn a_small_stack_for_signals_is_not_overrun() {
    let _one = begin();
    const SMALL: usize = 12 * 1024;
    const BELOW: usize = 64 * 1024;
    static mut MEMORY: [u8; BELOW + SMALL] = [0; BELOW + SMALL];
    static RESULT: AtomicU64 = AtomicU64::new(0);
    extern "C" fn call(_: i32) {
        RESULT.store(hostile_nop(3), Ordering::Relaxed);
    }
    for jumps in [false, true] {
        let status = child(|| {
            let memory = (&raw mut MEMORY).cast::<u8>();
            // SAFETY: it is as long, and the stack is there until the child ends.
            unsafe {
                std::ptr::write_bytes(memory, 0xa5, BELOW);
                let stack = libc::stack_t { ss_sp: memory.add(BELOW).cast(), ss_flags: 0, ss_size: SMALL };
                assert_eq!(libc::sigaltstack(&raw const stack, std::ptr::null_mut()), 0);
            }
            handle(libc::SIGUSR1, call as *const () as usize, libc::SA_ONSTACK);
            let mut session = Session::with(Options { jumps }).unwrap();
            let probe = session.probe(Address(NOP as *const () as u64), |_| Action::Continue).unwrap();
            assert_eq!(hostile_nop(3), 9);
            // SAFETY: it has a handler.
            unsafe { libc::raise(libc::SIGUSR1) };
            // SAFETY: it can be read.
            let intact = unsafe { (0..BELOW).all(|at| memory.add(at).read_volatile() == 0xa5) };
            println!("{:?} intact {intact}", session.means(probe));
            intact && RESULT.load(Ordering::Relaxed) == 9
        });
        assert_eq!(status, WELL, "jumps {jumps}");
    }
}

/// How many files a process may open.
fn limit_files(most: libc::rlim_t) {
    let limit = libc::rlimit { rlim_cur: most, rlim_max: 4096 };
    // SAFETY: the limit is valid.
    unsafe { assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0) };
}

#[test]
fn a_process_that_can_open_no_file_keeps_its_breakpoints() {
    let _one = begin();
    for jumps in [false, true] {
        let status = child(|| {
            let mut session = Session::with(Options { jumps }).unwrap();
            let probe =
                session.probe(Address(hostile_nop as *const () as u64), |_| Action::Continue).unwrap();
            assert_eq!(hostile_nop(3), 9);
            limit_files(0);
            session.remove(probe);
            let again = session.probe(Address(hostile_nop as *const () as u64), |_| Action::Continue);
            assert!(again.is_err() && hostile_nop(3) == 9 && hits(&session, probe) == 1);
            limit_files(1000);
            let probe =
                session.probe(Address(hostile_nop as *const () as u64), |_| Action::Continue).unwrap();
            assert_eq!((hostile_nop(3), hits(&session, probe)), (9, 1));
            session.remove(probe);
            hostile_nop(3) == 9
        });
        assert_eq!(status, WELL, "jumps {jumps}");
    }
}
