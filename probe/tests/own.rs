//! A process that probes itself: this one.

#![allow(
    unsafe_code,
    reason = "functions in assembly, and handlers of signals, which the process is to have"
)]

#[macro_use]
#[path = "common/functions.rs"]
mod functions;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use emu::registers::gpr;
use iced_x86::{Decoder, DecoderOptions};
use probe::locate::{Address, Locate, LocateError, Site};
use probe::maps::Maps;
use probe::own::{Means, NoJump, Options, Session};
use probe::{Action, Hit, OwnRefusal, ProbeError, ProbeId, Unplaceable};

functions!(
    r#"
    # rdi: a place of 64 bytes, rsi: a number.
    function own_general
    endbr64
    push rbp
    mov rbp, rsp
    push rbx
    mov rbx, rdi
    lea rax, [rsi + rsi * 4 + 7]
    mov qword ptr [rbx], rax
    add qword ptr [rbx], 100000
    lock xadd qword ptr [rbx + 8], rax
    imul rax, rsi, 1000003
    rol rax, 13
    xor edx, edx
    mov ecx, 12345
    div rcx
    mov qword ptr [rbx + 16], rdx
    cmp rdx, 6000
    jb 1f
    bts rax, 41
1:  sbb rdx, rax
    pushfq
    pop rcx
    and ecx, 0x8d5
    mov dword ptr [rbx + 24], ecx
    call 2f
    mov qword ptr [rbx + 32], rax
    std
    cld
    lea rdi, [rbx + 40]
    mov rsi, rbx
    mov ecx, 16
    rep movsb
    mov rax, rdx
    pop rbx
    leave
    ret
2:  not rax
    ret
    end own_general

    # rdi: a place of 128 bytes, aligned; xmm0, xmm1: numbers.
    function own_vectors
    movaps xmmword ptr [rdi], xmm0
    addsd xmm0, xmm1
    mulpd xmm0, xmmword ptr [rdi]
    movdqu xmmword ptr [rdi + 24], xmm0
    fld qword ptr [rdi]
    fadd qword ptr [rdi + 24]
    fsqrt
    fstp qword ptr [rdi + 48]
    pshufd xmm2, xmm0, 0x1b
    paddq xmm2, xmm1
    movdqa xmmword ptr [rdi + 64], xmm2
    sqrtsd xmm0, xmm1
    cvttsd2si rax, xmm0
    ret
    end own_vectors

    function own_avx
    vmovupd ymm2, ymmword ptr [rdi]
    vpaddq ymm3, ymm2, ymmword ptr [rdi + 32]
    vpermq ymm3, ymm3, 0x1b
    vmovdqa ymmword ptr [rdi + 64], ymm3
    vextracti128 xmm4, ymm3, 1
    vmovq rax, xmm4
    vzeroupper
    ret
    end own_avx

    # Keeps data below its stack pointer.
    function own_red_zone
    mov qword ptr [rsp - 8], rdi
    mov qword ptr [rsp - 64], rsi
    mov qword ptr [rsp - 128], rdx
    nop
    .byte 0x0f, 0x1f, 0x44, 0, 0
    mov rax, qword ptr [rsp - 8]
    add rax, qword ptr [rsp - 64]
    add rax, qword ptr [rsp - 128]
    ret
    end own_red_zone

    function own_load
    mov rax, qword ptr [rdi]
    ret
    end own_load

    function own_store
    mov qword ptr [rdi], rsi
    ret
    end own_store

    function own_divide
    mov rax, rdi
    xor edx, edx
    div rsi
    ret
    end own_divide

    function own_syscall
    mov eax, edi
    mov rdi, rsi
    mov rsi, rdx
    syscall
    lea rdx, [rip]
    sub rcx, rdx
    mov qword ptr [rsp - 8], rcx
    ret
    end own_syscall

    function own_count
    lock inc qword ptr [rdi]
    ret
    end own_count

    function own_breakpoint
    mov eax, 5
    int3
    inc eax
    ret
    end own_breakpoint

    function own_nop5
    .byte 0x0f, 0x1f, 0x44, 0, 0
    ret
    end own_nop5

    function own_called
    mov eax, 42
    ret
    end own_called

    function own_popf
    pushfq
    or dword ptr [rsp], 0x4000
    popfq
    pushfq
    pop rax
    and dword ptr [rsp - 8], 0xffffbfff
    push qword ptr [rsp - 8]
    popfq
    ret
    end own_popf
    "#
);

macro_rules! functions {
    ($($name:ident $end:ident $signature:ty;)+) => {
        unsafe extern "C" { $(fn $name(); fn $end();)+ }
        $(
            #[allow(dead_code, reason = "each is there in the same way")]
            mod $name {
                pub(super) fn address() -> u64 {
                    super::$name as *const () as u64
                }
                pub(super) fn end() -> u64 {
                    super::$end as *const () as u64
                }
                pub(super) fn call() -> $signature {
                    // SAFETY: this is its signature.
                    unsafe { std::mem::transmute::<*const (), $signature>(super::$name as *const ()) }
                }
            }
        )+
    };
}

functions! {
    own_general own_general_end extern "C" fn(*mut u64, u64) -> u64;
    own_vectors own_vectors_end extern "C" fn(*mut u64, f64, f64) -> u64;
    own_avx own_avx_end extern "C" fn(*mut u64) -> u64;
    own_red_zone own_red_zone_end extern "C" fn(u64, u64, u64) -> u64;
    own_load own_load_end extern "C" fn(*const u64) -> u64;
    own_store own_store_end extern "C" fn(*mut u64, u64);
    own_divide own_divide_end extern "C" fn(u64, u64) -> u64;
    own_syscall own_syscall_end extern "C" fn(i64, u64, u64) -> i64;
    own_count own_count_end extern "C" fn(*const std::sync::atomic::AtomicU64);
    own_breakpoint own_breakpoint_end extern "C" fn() -> i32;
    own_nop5 own_nop5_end extern "C" fn();
    own_called own_called_end extern "C" fn() -> i32;
    own_popf own_popf_end extern "C" fn() -> u64;
}

/// Each instruction of a function.
struct Each(u64, u64);

impl Each {
    fn addresses(&self) -> Vec<u64> {
        let length = usize::try_from(self.1 - self.0).unwrap();
        // SAFETY: this is text of ours.
        let bytes = unsafe { std::slice::from_raw_parts(self.0 as *const u8, length) };
        Decoder::with_ip(64, bytes, self.0, DecoderOptions::NONE).iter().map(|one| one.ip()).collect()
    }
}

impl Locate for Each {
    fn locate(&self, _: &Maps) -> Result<Vec<Site>, LocateError> {
        Ok(self.addresses().into_iter().map(|address| Site { address }).collect())
    }
}

macro_rules! each {
    ($name:ident) => {
        Each($name::address(), $name::end())
    };
}

/// What the program's own handlers of signals have seen last.
static SIGNAL: AtomicI32 = AtomicI32::new(0);
static CODE: AtomicI32 = AtomicI32::new(0);
static FAULT_ADDRESS: AtomicU64 = AtomicU64::new(0);
static FAULT_RIP: AtomicU64 = AtomicU64::new(0);
static TRAP_NUMBER: AtomicU64 = AtomicU64::new(0);
static ON_ITS_STACK: AtomicBool = AtomicBool::new(false);

/// Goes on behind the function that has faulted.
extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel, or who acts for it, has made these.
    let (info, context) = unsafe { (&*info, &mut *context) };
    SIGNAL.store(signal, Ordering::Relaxed);
    CODE.store(info.si_code, Ordering::Relaxed);
    // SAFETY: all of these signals have the member.
    FAULT_ADDRESS.store(unsafe { info.si_addr() } as u64, Ordering::Relaxed);
    let registers = &mut context.uc_mcontext.gregs;
    FAULT_RIP.store(registers[libc::REG_RIP as usize].cast_unsigned(), Ordering::Relaxed);
    TRAP_NUMBER.store(registers[libc::REG_TRAPNO as usize].cast_unsigned(), Ordering::Relaxed);
    let here = &raw const *registers as u64;
    let place = &raw const here as u64;
    let (base, size) = (context.uc_stack.ss_sp as u64, context.uc_stack.ss_size as u64);
    ON_ITS_STACK.store((base..base + size).contains(&place), Ordering::Relaxed);
    if signal != libc::SIGTRAP {
        // What RET would do.
        let stack = registers[libc::REG_RSP as usize];
        // SAFETY: it has just been called.
        registers[libc::REG_RIP as usize] = unsafe { *(stack as *const i64) };
        registers[libc::REG_RSP as usize] = stack + 8;
        registers[libc::REG_RAX as usize] = -1;
    }
}

/// The process has handlers before it probes itself. One test at a time: all share those, and the functions.
fn begin() -> MutexGuard<'static, ()> {
    static BEGIN: Once = Once::new();
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    BEGIN.call_once(|| {
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGTRAP] {
            // SAFETY: all-zero bytes are a valid action, and the handler is one.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handle as *const () as usize;
                action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
                assert_eq!(libc::sigaction(signal, &raw const action, std::ptr::null_mut()), 0);
            }
        }
    });
    one
}

/// Both kinds of sessions.
fn kinds() -> [Session; 2] {
    [Session::new().unwrap(), Session::with(Options { jumps: true }).unwrap()]
}

fn counting() -> (Arc<AtomicU64>, impl Fn(&mut Hit<'_>) -> Action + Send + Sync + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let handler = move |_: &mut Hit<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        Action::Continue
    };
    (count, handler)
}

fn own_maps() -> String {
    // The heap grows by the test's own doing.
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("r-xp")).map(|line| format!("{line}\n")).collect()
}

#[repr(C, align(64))]
struct Place([u64; 32]);

/// What `run` comes to, and the same with a probe on each instruction of `function`, of which all are to be emulated.
fn the_same<T: PartialEq + std::fmt::Debug>(function: &Each, run: impl Fn() -> T) {
    let plain = run();
    let text = || {
        // SAFETY: this is text of ours.
        unsafe {
            std::slice::from_raw_parts(function.0 as *const u8, (function.1 - function.0) as usize).to_vec()
        }
    };
    let (bytes, maps, addresses) = (text(), own_maps(), function.addresses());
    for mut session in kinds() {
        let (count, handler) = counting();
        let probe = session.probe(Each(function.0, function.1), handler).unwrap();
        assert_ne!(text(), bytes);
        assert_eq!(own_maps(), maps);
        for _ in 0..3 {
            assert_eq!(run(), plain, "{:?}", session.means(probe));
        }
        let report = session.report(probe).unwrap();
        assert!(report.refused.is_empty(), "{:?}", report.refused);
        assert_eq!(report.sites, addresses);
        let counters = report.counters;
        assert!(counters.hits >= 3 * 3, "{counters:?}");
        assert_eq!(
            (counters.emulated + counters.native, counters.missed),
            (counters.hits, 0),
            "{counters:?}"
        );
        assert_eq!(counters.hits, count.load(Ordering::Relaxed));
        session.remove(probe);
        assert_eq!(Arc::strong_count(&count), 1, "the handler is dropped");
        assert_eq!(text(), bytes);
        assert_eq!(run(), plain);
        assert_eq!(counters.hits, count.load(Ordering::Relaxed));
    }
    assert_eq!((text(), own_maps()), (bytes, maps));
}

#[test]
fn general_instructions_do_the_same() {
    let _one = begin();
    the_same(&each!(own_general), || {
        let mut place = Place([7; 32]);
        let result = own_general::call()(place.0.as_mut_ptr(), 0x1234_5678);
        (result, place.0)
    });
}

#[test]
fn vectors_and_x87_do_the_same() {
    let _one = begin();
    the_same(&each!(own_vectors), || {
        let mut place = Place([0; 32]);
        let result = own_vectors::call()(place.0.as_mut_ptr(), 1.25, 7.75);
        (result, place.0)
    });
    if !is_x86_feature_detected!("avx2") {
        return println!("skipped: the processor has no AVX2");
    }
    the_same(&each!(own_avx), || {
        let mut place = Place(std::array::from_fn(|number| number as u64 * 0x0101_0101_0101));
        let result = own_avx::call()(place.0.as_mut_ptr());
        (result, place.0)
    });
}

#[test]
fn what_lies_below_the_stack_pointer_stays() {
    let _one = begin();
    the_same(&each!(own_red_zone), || own_red_zone::call()(1, 20, 300));
}

#[test]
fn flags_that_no_signal_returns_are_set_by_the_thread_itself() {
    let _one = begin();
    the_same(&each!(own_popf), || own_popf::call()() & 0x4000);
}

#[test]
fn a_handler_reads_and_changes_registers_and_memory() {
    let _one = begin();
    for mut session in kinds() {
        let numbers = [5_u64, 6];
        let place = numbers.as_ptr() as u64;
        let probe = session.probe(Address(own_nop5::address()), move |hit| {
            assert_eq!(hit.read_u64(place).unwrap(), 5);
            assert!(hit.read(8, &mut [0]).is_err());
            hit.registers_mut().gpr[gpr::RDX] = 77;
            let xmm3 = hit.extended_mut().unwrap().vector.get_mut(3).unwrap();
            xmm3.0[0] = 99;
            Action::Continue
        });
        let probe = probe.unwrap();
        let (rdx, xmm3): (u64, u64);
        // SAFETY: the function changes nothing.
        unsafe {
            std::arch::asm!("call {}", "movq rsi, xmm3", sym own_nop5, out("rsi") xmm3, out("rdx") rdx, clobber_abi("C"));
        }
        assert_eq!((rdx, xmm3), (77, 99), "{:?}", session.means(probe));
        session.remove(probe);

        let (skips, goes) = (own_called::address(), own_nop5::address());
        session
            .probe(Address(skips), |hit| {
                hit.registers_mut().gpr[gpr::RAX] = 43;
                Action::Skip
            })
            .unwrap();
        assert_eq!(own_called::call()(), 43);
        let called = own_called::address();
        session.probe(Address(goes), move |_| Action::GoTo(called)).unwrap();
        own_nop5::call()();
    }
}

/// Calls `run`, and returns what the program's handler has seen: the signal, `si_code`, `si_addr`, RIP, and the vector.
fn seen(run: impl Fn()) -> (i32, i32, u64, u64, u64) {
    SIGNAL.store(0, Ordering::Relaxed);
    run();
    let [address, rip, vector] =
        [&FAULT_ADDRESS, &FAULT_RIP, &TRAP_NUMBER].map(|value| value.load(Ordering::Relaxed));
    (SIGNAL.load(Ordering::Relaxed), CODE.load(Ordering::Relaxed), address, rip, vector)
}

#[test]
fn faults_are_the_programs_own() {
    let _one = begin();
    let file = nix::sys::memfd::memfd_create(c"short", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let map = |protection, flags| {
        use std::os::fd::AsRawFd;
        // SAFETY: it is a new mapping.
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, file.as_raw_fd(), 0) as u64 }
    };
    // Behind the end of the file, and one that can be read alone.
    let beyond = map(libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    let read_only = map(libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    type Run = Box<dyn Fn()>;
    let runs: [(&str, Run); 6] = [
        ("load", Box::new(|| assert_eq!(own_load::call()(0x10 as *const u64), u64::MAX))),
        ("not canonical", Box::new(|| assert_eq!(own_load::call()((1_u64 << 62) as *const u64), u64::MAX))),
        ("beyond", Box::new(move || assert_eq!(own_load::call()(beyond as *const u64), u64::MAX))),
        ("store", Box::new(|| own_store::call()(0x18 as *mut u64, 1))),
        ("read-only", Box::new(move || own_store::call()(read_only as *mut u64, 1))),
        ("divide", Box::new(|| assert_eq!(own_divide::call()(1, 0), u64::MAX))),
    ];
    for (name, run) in runs {
        let plain = seen(&run);
        assert_ne!(plain.0, 0, "{name}");
        for mut session in kinds() {
            let mut probes = Vec::new();
            for function in [each!(own_load), each!(own_store), each!(own_divide)] {
                probes.push(session.probe(function, |_| Action::Continue).unwrap());
            }
            assert_eq!(seen(&run), plain, "{name}");
            let sum: u64 = probes.iter().map(|&probe| session.report(probe).unwrap().counters.faulted).sum();
            assert_eq!(sum, 1, "{name}");
        }
    }
}

#[test]
fn a_fault_is_handled_on_the_stack_that_the_program_has_set_for_it() {
    let _one = begin();
    let mut session = Session::new().unwrap();
    session.probe(each!(own_load), |_| Action::Continue).unwrap();
    // Threads of Rust have one.
    assert_eq!(seen(|| assert_eq!(own_load::call()(0x10 as *const u64), u64::MAX)).0, libc::SIGSEGV);
    assert!(ON_ITS_STACK.load(Ordering::Relaxed));
}

#[test]
fn breakpoints_of_the_program_are_its_own() {
    let _one = begin();
    let plain = seen(|| assert_eq!(own_breakpoint::call()(), 6));
    assert_eq!((plain.0, plain.3), (libc::SIGTRAP, own_breakpoint::address() + 6));
    for mut session in kinds() {
        let other = session.probe(Address(own_called::address()), |_| Action::Continue).unwrap();
        assert_eq!(seen(|| assert_eq!(own_breakpoint::call()(), 6)), plain);
        session.remove(other);
        session.probe(each!(own_breakpoint), |_| Action::Continue).unwrap();
        assert_eq!(seen(|| assert_eq!(own_breakpoint::call()(), 6)), plain);
    }
}

#[test]
fn system_calls_are_made_by_the_thread_itself() {
    let _one = begin();
    for mut session in kinds() {
        let probe = session.probe(each!(own_syscall), |_| Action::Continue).unwrap();
        let pid = i64::from(std::process::id());
        assert_eq!(own_syscall::call()(libc::SYS_getpid, 0, 0), pid);
        // What a child does is seen in its status.
        let child = own_syscall::call()(libc::SYS_fork, 0, 0);
        if child == 0 {
            let own = own_syscall::call()(libc::SYS_getpid, 0, 0);
            own_syscall::call()(libc::SYS_exit_group, u64::from(own != pid), 0);
        }
        assert!(child > 0);
        let mut status = 0;
        // SAFETY: the status is valid.
        assert_eq!(unsafe { libc::waitpid(i32::try_from(child).unwrap(), &raw mut status, 0) }, child as i32);
        assert_eq!(libc::WEXITSTATUS(status), 1);
        let counters = session.report(probe).unwrap().counters;
        assert_eq!((counters.hits, counters.emulated), (2 * 8, 2 * 8), "{counters:?}");
    }
}

#[test]
fn threads_are_counted_exactly_while_others_signal_and_fork() {
    const THREADS: u64 = 8;
    const TIMES: u64 = 500;
    let _one = begin();
    for mut session in kinds() {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        static SIGNALS: AtomicU64 = AtomicU64::new(0);
        extern "C" fn on_signal(_: i32) {
            SIGNALS.fetch_add(1, Ordering::Relaxed);
            own_called::call()();
        }
        // SAFETY: the handler calls what may be called.
        unsafe { libc::signal(libc::SIGUSR1, on_signal as *const () as usize) };
        COUNTER.store(0, Ordering::Relaxed);
        SIGNALS.store(0, Ordering::Relaxed);
        let (count, handler) = counting();
        let counted = session.probe(each!(own_count), handler).unwrap();
        let signalled = session.probe(each!(own_called), |_| Action::Continue).unwrap();
        let start = || {
            for _ in 0..TIMES {
                own_count::call()(&raw const COUNTER);
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| std::thread::spawn(start)).collect();
        for round in 0..20 {
            use std::os::unix::thread::JoinHandleExt;
            for thread in &threads {
                // SAFETY: the threads are joined later.
                unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
            }
            if round % 5 == 0 {
                // SAFETY: the child calls nothing but what is safe there.
                let child = unsafe { libc::fork() };
                if child == 0 {
                    own_count::call()(&raw const COUNTER);
                    // SAFETY: it ends the child.
                    unsafe { libc::_exit(7) };
                }
                let mut status = 0;
                // SAFETY: the status is valid.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status:#x}");
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(COUNTER.load(Ordering::Relaxed), THREADS * TIMES);
        let counters = session.report(counted).unwrap().counters;
        assert_eq!(
            (counters.hits, counters.emulated, counters.missed),
            (2 * THREADS * TIMES, 2 * THREADS * TIMES, 0)
        );
        assert_eq!(count.load(Ordering::Relaxed), counters.hits);
        let counters = session.report(signalled).unwrap().counters;
        assert_eq!(counters.hits + counters.missed, 2 * SIGNALS.load(Ordering::Relaxed), "{counters:?}");
    }
}

#[test]
fn what_a_handler_calls_is_emulated_and_missed() {
    let _one = begin();
    for mut session in kinds() {
        let inner = session.probe(each!(own_called), |_| Action::Continue).unwrap();
        let outer = session.probe(Address(own_nop5::address()), |_| {
            assert_eq!(own_called::call()(), 42);
            Action::Continue
        });
        own_nop5::call()();
        let counters = session.report(inner).unwrap().counters;
        assert_eq!((counters.hits, counters.missed, counters.emulated), (0, 2, 2), "{counters:?}");
        assert_eq!(session.report(outer.unwrap()).unwrap().counters.hits, 1);
        assert_eq!(own_called::call()(), 42);
        assert_eq!(session.report(inner).unwrap().counters.hits, 2);
    }
}

#[test]
fn probes_are_removed_while_threads_run_through_them() {
    let _one = begin();
    static STOP: AtomicBool = AtomicBool::new(false);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    STOP.store(false, Ordering::Relaxed);
    let before = own_maps();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !STOP.load(Ordering::Relaxed) {
                    own_count::call()(&raw const COUNTER);
                    own_nop5::call()();
                    assert_eq!(own_red_zone::call()(1, 2, 3), 6);
                }
            });
        }
        // Each round waits for its turn between threads that never wait: on a busy machine it is the scheduler's.
        for _ in 0..12 {
            for mut session in kinds() {
                let (count, handler) = counting();
                let id = session.probe(each!(own_count), handler).unwrap();
                session.probe(each!(own_nop5), |_| Action::Continue).unwrap();
                session.probe(each!(own_red_zone), |_| Action::Continue).unwrap();
                while session.report(id).unwrap().counters.hits < 3 {
                    std::thread::yield_now();
                }
                drop(session);
                assert_eq!(Arc::strong_count(&count), 1);
            }
        }
        STOP.store(true, Ordering::Relaxed);
    });
    assert_eq!(own_maps(), before);
}

#[test]
fn jumps_are_put_where_they_are_safe_and_traps_elsewhere() {
    let _one = begin();
    let mut session = Session::with(Options { jumps: true }).unwrap();
    let nop = session.probe(each!(own_nop5), |_| Action::Continue).unwrap();
    let traps = session.probe(each!(own_count), |_| Action::Continue).unwrap();
    let call = session.probe(each!(own_general), |_| Action::Continue).unwrap();
    let means = |session: &Session, probe: ProbeId| -> Vec<Means> {
        session.means(probe).into_iter().map(|(_, means)| means).collect()
    };
    assert_eq!(means(&session, nop), [Means::Jump, Means::Trap(NoJump::Short)]);
    assert_eq!(means(&session, traps), [Means::Trap(NoJump::Prefix), Means::Trap(NoJump::Short)]);
    assert!(means(&session, call).contains(&Means::Jump));
    // Nobody traps on its way through a jump: the program's mask may say so.
    let hits = |session: &Session| session.report(nop).unwrap().counters;
    own_nop5::call()();
    assert_eq!(hits(&session).emulated, 2);
    let session = Session::new().unwrap();
    drop(session);
}

/// Why there can be no probe at `address`.
fn refusal(session: &mut Session, address: u64) -> Unplaceable {
    match session.probe(Address(address), |_| Action::Continue) {
        Err(ProbeError::Unplaceable { reason, .. }) => reason,
        other => panic!("{address:#x}: {other:?}"),
    }
}

#[test]
fn what_a_process_cannot_probe_in_itself_is_refused_by_name() {
    let _one = begin();
    let mut session = Session::with(Options { jumps: true }).unwrap();
    let is = |reason: Unplaceable, wanted: OwnRefusal| {
        assert!(matches!(reason, Unplaceable::Own(refusal) if refusal == wanted), "{reason}");
    };
    is(refusal(&mut session, libc::memcpy as *const () as u64), OwnRefusal::Needed);
    is(refusal(&mut session, emu::Displaced::decode as *const () as u64), OwnRefusal::Library);
    session.probe(Address(own_nop5::address()), |_| Action::Continue).unwrap();
    is(refusal(&mut session, own_nop5::address() + 2), OwnRefusal::Replaced { site: own_nop5::address() });
    let number = 5_u64;
    assert!(matches!(refusal(&mut session, &raw const number as u64), Unplaceable::NotExecutable));
    let map = |flags| {
        let protection = libc::PROT_READ | libc::PROT_EXEC | libc::PROT_WRITE;
        // SAFETY: it is a new mapping.
        unsafe {
            libc::mmap(std::ptr::null_mut(), 4096, protection, flags | libc::MAP_ANONYMOUS, -1, 0) as u64
        }
    };
    let (private, shared) = (map(libc::MAP_PRIVATE), map(libc::MAP_SHARED));
    is(refusal(&mut session, private), OwnRefusal::Writable);
    assert!(matches!(refusal(&mut session, shared), Unplaceable::Shared));
}

#[test]
fn a_thread_that_blocks_the_signal_is_told_of() {
    let _one = begin();
    let trap = nix::sys::signal::SigSet::from(nix::sys::signal::Signal::SIGTRAP);
    std::thread::scope(|scope| {
        let blocking = scope.spawn(|| {
            trap.thread_block().unwrap();
            let refused = Session::new().map(|_| ()).unwrap_err();
            trap.thread_unblock().unwrap();
            refused.to_string()
        });
        let text = blocking.join().unwrap();
        assert!(text.contains("blocks SIGTRAP"), "{text}");
    });
}

/// As the C library does where it makes a thread: who has to wait for a processor just then is waited for.
#[test]
fn a_thread_that_is_being_made_is_waited_for() {
    let _one = begin();
    let block = |how: i32, set: u64, old: &mut u64| {
        // SAFETY: both sets are as wide as is said. The C library would leave its own signals out.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigprocmask,
                how,
                &raw const set,
                std::ptr::from_mut(old),
                size_of::<u64>(),
            )
        };
        assert_eq!(result, 0);
    };
    let (blocked, is_blocked) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut old = 0;
            block(libc::SIG_SETMASK, u64::MAX, &mut old);
            blocked.send(()).unwrap();
            // Longer than one is waited for that blocks the signal by itself.
            std::thread::sleep(std::time::Duration::from_millis(300));
            block(libc::SIG_SETMASK, old, &mut 0);
        });
        is_blocked.recv().unwrap();
        Session::new().unwrap();
    });
}
