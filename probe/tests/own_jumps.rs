//! A process that probes itself by jumps: what they replace, and what they leave alone.

#![allow(
    unsafe_code,
    reason = "functions in assembly, and handlers of signals, which the process is to have"
)]

use std::arch::{asm, global_asm};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use probe::locate::Address;
use probe::own::{Lost, Means, NoJump, Options, Session};
use probe::{Action, Hit, OwnRefusal, ProbeError, ProbeId, Unplaceable};

global_asm!(
    r#"
    .macro function name
    .globl \name
    .type \name, @function
    .p2align 4
    # As far as a short jump reaches: bytes that look like one would have a function refused.
    .fill 144, 1, 0x90
\name:
    .endm

    .text
    # An entry as compilers make it: the displacement has two instructions begin in it.
    function jumps_frame
    endbr64
    push rbp
    mov rbp, rsp
    lea rax, [rdi + rdi * 2]
    pop rbp
    ret

    # The second instruction may fault.
    function jumps_load
    endbr64
    mov rax, qword ptr [rdi]
    ret

    # A call is behind the first one.
    function jumps_call
    endbr64
    call 1f
    inc eax
    ret
1:  lea eax, [rdi + rdi]
    ret

    # A loop leads to the second one.
    function jumps_loop
    endbr64
1:  sub rdi, 1
    jnz 1b
    mov eax, 7
    ret

    # Nothing that a displacement could hold.
    function jumps_short
    push rbx
    mov rbx, rdi
    lea rax, [rbx + 1]
    pop rbx
    ret

    function jumps_padded
    .fill 8, 1, 0xcc
    .globl jumps_behind_padding
jumps_behind_padding:
    xor eax, eax
    inc eax
    ret

    function jumps_nop
    .byte 0x0f, 0x1f, 0x44, 0, 0
    ret

    function jumps_small_1
    .byte 0x0f, 0x1f, 0x44, 0, 0
    ret

    function jumps_small_2
    .byte 0x0f, 0x1f, 0x44, 0, 0
    ret

    # rdi: a function, rsi: the end of a stack for it.
    function jumps_call_on
    push rbp
    mov rbp, rsp
    mov rsp, rsi
    call rdi
    mov rsp, rbp
    pop rbp
    ret

    # rdi: 64 bytes for each of 16 (or 32) vectors, then 64 bytes of masks. They are loaded, the NOP is reached, and they are
    # stored again.
    .macro vectors name, load, suffix
    function \name
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    \load \suffix\n, [rdi + 64 * \n]
    .endr
    call jumps_nop
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    \load [rdi + 64 * \n], \suffix\n
    .endr
    .endm

    vectors jumps_xmm, movups, xmm
    ret
    vectors jumps_ymm, vmovdqu, ymm
    vzeroupper
    ret

    function jumps_zmm
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqu64 zmm\n, [rdi + 64 * \n]
    .endr
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq k\n, qword ptr [rdi + 64 * 32 + 8 * \n]
    .endr
    call jumps_nop
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqu64 [rdi + 64 * \n], zmm\n
    .endr
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq qword ptr [rdi + 64 * 32 + 8 * \n], k\n
    .endr
    vzeroupper
    ret
    "#
);

unsafe extern "C" {
    fn jumps_frame(number: u64) -> u64;
    fn jumps_load(place: *const u64) -> u64;
    fn jumps_call(number: u64) -> u64;
    fn jumps_loop(number: u64) -> u64;
    fn jumps_short(number: u64) -> u64;
    fn jumps_behind_padding() -> u64;
    fn jumps_nop();
    fn jumps_small_1();
    fn jumps_small_2();
    fn jumps_call_on(function: unsafe extern "C" fn(), stack: u64);
    fn jumps_xmm(vectors: *mut Vectors);
    fn jumps_ymm(vectors: *mut Vectors);
    fn jumps_zmm(vectors: *mut Vectors);
}

#[repr(C, align(64))]
#[derive(Clone, PartialEq, Debug)]
struct Vectors([u64; 33 * 8]);

/// What the program's own handler of SIGSEGV has seen last: `si_addr` and RIP.
static FAULT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];

/// Returns from the function that has faulted.
extern "C" fn handle(_: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel, or who acts for it, has made these.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let registers = &mut context.uc_mcontext.gregs;
    let stack = registers[libc::REG_RSP as usize];
    // SAFETY: SIGSEGV has the member.
    FAULT[0].store(unsafe { info.si_addr() } as u64, Ordering::Relaxed);
    FAULT[1].store(registers[libc::REG_RIP as usize].cast_unsigned(), Ordering::Relaxed);
    // SAFETY: it has just been called.
    registers[libc::REG_RIP as usize] = unsafe { *(stack as *const i64) };
    registers[libc::REG_RSP as usize] = stack + 8;
    registers[libc::REG_RAX as usize] = -1;
}

/// One test at a time: all share the functions.
fn begin() -> MutexGuard<'static, ()> {
    static BEGIN: Once = Once::new();
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    BEGIN.call_once(|| {
        // SAFETY: all-zero bytes are a valid action, and the handler is one.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
        }
    });
    one
}

fn jumping() -> Session {
    Session::with(Options { jumps: true }).unwrap()
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

fn means(session: &Session, probe: ProbeId) -> Means {
    session.means(probe)[0].1
}

fn text<const N: usize>(address: u64) -> [u8; N] {
    // SAFETY: this is text of ours.
    unsafe { std::ptr::read_volatile(address as *const [u8; N]) }
}

#[test]
fn instructions_behind_an_entry_are_replaced_as_well_and_begin_with_breakpoints() {
    let _one = begin();
    let address = jumps_frame as *const () as u64;
    let before: [u8; 16] = text(address);
    let mut session = jumping();
    let (count, handler) = counting();
    let probe = session.probe(Address(address), handler).unwrap();
    assert_eq!(means(&session, probe), Means::Jump);
    let now: [u8; 16] = text(address);
    // endbr64 is 4 bytes long, PUSH 1, MOV 3.
    assert_eq!((now[4], now[5]), (0xcc, 0xcc), "{now:x?}");
    assert_eq!(now[8..], before[8..]);
    for number in 0..100 {
        // SAFETY: this is its signature.
        assert_eq!(unsafe { jumps_frame(number) }, 3 * number);
    }
    let counters = session.report(probe).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated, count.load(Ordering::Relaxed)), (100, 100, 100));
    // Who gets behind it by other ways does what is there, which is nobody's hit.
    // SAFETY: what is left out does nothing.
    let inner: unsafe extern "C" fn(u64) -> u64 = unsafe { std::mem::transmute(address + 4) };
    // SAFETY: as above.
    assert_eq!(unsafe { inner(5) }, 15);
    assert_eq!(session.report(probe).unwrap().counters.hits, 100);
    session.remove(probe);
    assert_eq!(text::<16>(address), before);
    // SAFETY: as above.
    assert_eq!(unsafe { (jumps_frame(4), inner(5)) }, (12, 15));
}

#[test]
fn what_is_replaced_faults_where_it_stands() {
    let _one = begin();
    let address = jumps_load as *const () as u64;
    // SAFETY: the fault is handled by returning.
    let fault = || unsafe {
        assert_eq!(jumps_load(0x20 as *const u64), u64::MAX);
        FAULT.each_ref().map(|value| value.swap(0, Ordering::Relaxed))
    };
    let plain = fault();
    assert_eq!(plain, [0x20, address + 4]);
    let mut session = jumping();
    let probe = session.probe(Address(address), |_| Action::Continue).unwrap();
    assert_eq!(means(&session, probe), Means::Jump);
    assert_eq!(fault(), plain);
    let number = 9;
    // SAFETY: the number can be read.
    assert_eq!(unsafe { jumps_load(&raw const number) }, 9);
    let counters = session.report(probe).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated, counters.faulted), (2, 2, 0));
}

#[test]
fn a_call_behind_an_entry_returns_behind_it() {
    let _one = begin();
    let address = jumps_call as *const () as u64;
    let mut session = jumping();
    let probe = session.probe(Address(address), |_| Action::Continue).unwrap();
    assert_eq!(means(&session, probe), Means::Jump);
    // SAFETY: this is its signature.
    let results: Vec<u64> = (3..8).map(|number| unsafe { jumps_call(number) }).collect();
    assert_eq!(results, [7, 9, 11, 13, 15]);
    assert_eq!(session.report(probe).unwrap().counters.hits, 5);
}

#[test]
fn where_a_jump_would_be_in_the_way_there_is_a_trap_which_says_so() {
    let _one = begin();
    let mut session = jumping();
    let mut placed = |address: u64| session.probe(Address(address), |_| Action::Continue).unwrap();
    let [looping, short] = [jumps_loop as *const () as u64, jumps_short as *const () as u64].map(&mut placed);
    let frame = jumps_frame as *const () as u64;
    let outer = placed(frame);
    assert_eq!(means(&session, looping), Means::Trap(NoJump::Target));
    assert_eq!(means(&session, short), Means::Trap(NoJump::Short));
    assert_eq!(means(&session, outer), Means::Jump);
    // A jump gives way to a probe on what it has replaced.
    let inner = session.probe(Address(frame + 4), |_| Action::Continue).unwrap();
    assert_eq!(means(&session, outer), Means::Trap(NoJump::Neighbour));
    // SAFETY: these are their signatures.
    unsafe { assert_eq!((jumps_loop(3), jumps_short(4), jumps_frame(5)), (7, 5, 15)) };
    for probe in [looping, short, outer, inner] {
        let counters = session.report(probe).unwrap().counters;
        assert_eq!((counters.hits, counters.emulated), (1, 1), "{:?}", session.means(probe));
    }
    session.remove(outer);
    let again = session.probe(Address(frame), |_| Action::Continue).unwrap();
    assert_eq!(means(&session, again), Means::Trap(NoJump::Neighbour));
    // In the middle of an instruction that a jump has replaced there is nothing to probe.
    let nop = jumps_nop as *const () as u64;
    session.probe(Address(nop), |_| Action::Continue).unwrap();
    match session.probe(Address(nop + 3), |_| Action::Continue) {
        Err(ProbeError::Unplaceable { reason: Unplaceable::Own(OwnRefusal::Replaced { site }), .. }) => {
            assert_eq!(site, nop);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn padding_before_a_function_has_the_jump() {
    let _one = begin();
    let address = jumps_behind_padding as *const () as u64;
    let before: [u8; 16] = text(address - 8);
    for _ in 0..2 {
        let mut session = jumping();
        let probe = session.probe(Address(address), |_| Action::Continue).unwrap();
        assert_eq!(means(&session, probe), Means::Jump);
        let now: [u8; 16] = text(address - 8);
        // All but the last five bytes of the padding, and of the function the first instruction.
        assert_eq!((&now[..3], now[3], &now[10..]), (&before[..3], 0xe9, &before[10..]), "{now:x?}");
        // SAFETY: this is its signature.
        assert_eq!(unsafe { jumps_behind_padding() }, 1);
        assert_eq!(session.report(probe).unwrap().counters.hits, 1);
        assert!(session.probe(Address(address - 4), |_| Action::Continue).is_err());
        drop(session);
        assert_eq!(text::<16>(address - 8), before);
    }
}

/// Changes all that a function may change, and more.
fn clobber() {
    // SAFETY: what is changed is said, but for the x87 stack and MXCSR, which are as they must be when it ends.
    unsafe {
        asm!("pcmpeqd xmm0, xmm0", "movaps xmm7, xmm0", "movaps xmm15, xmm0", "fld1", "fstp st(0)",
            "sub rsp, 16", "stmxcsr [rsp]", "or dword ptr [rsp], 0x3f", "ldmxcsr [rsp]", "add rsp, 16",
            out("xmm0") _, out("xmm7") _, out("xmm15") _, out("st(0)") _);
    }
    if is_x86_feature_detected!("avx") {
        // SAFETY: the processor has it.
        unsafe {
            asm!("vxorps ymm1, ymm1, ymm1", "vcmpps ymm3, ymm1, ymm1, 0", "vmovaps ymm14, ymm3", out("xmm1") _,
                out("xmm3") _, out("xmm14") _);
        }
    }
    if is_x86_feature_detected!("avx512bw") {
        // SAFETY: the processor has it.
        unsafe {
            asm!("vpternlogd zmm2, zmm2, zmm2, 0xff", "vmovdqa64 zmm16, zmm2", "vmovdqa64 zmm31, zmm2",
                "kxnorq k1, k1, k1", "kmovq k7, k1", out("xmm2") _);
        }
    }
}

#[test]
fn whatever_a_handler_changes_the_thread_has_its_own() {
    let _one = begin();
    let mut session = jumping();
    let probe = session.probe(Address(jumps_nop as *const () as u64), |_| {
        clobber();
        Action::Continue
    });
    let probe = probe.unwrap();
    assert_eq!(means(&session, probe), Means::Jump);
    let vectors = Vectors(std::array::from_fn(|number| 0x0101_0101_0101_0101 * (number as u64 + 1)));
    type Run = unsafe extern "C" fn(*mut Vectors);
    let runs: [(&str, bool, Run); 3] = [
        ("XMM", true, jumps_xmm),
        ("YMM", is_x86_feature_detected!("avx"), jumps_ymm),
        ("ZMM and masks", is_x86_feature_detected!("avx512bw"), jumps_zmm),
    ];
    for x87 in [false, true] {
        for (name, is_here, run) in runs {
            if !is_here {
                println!("skipped: the processor has no {name}");
                continue;
            }
            for _ in 0..3 {
                let mut after = vectors.clone();
                let (mut pi, mut control, mut then) = (0_u64, 0x1fa0_u32, 0_u32);
                // SAFETY: the function changes vectors and masks; MXCSR is as it was at the end.
                unsafe {
                    if x87 {
                        asm!("fldpi", options(nomem, nostack));
                    }
                    let default = 0x1f80_u32;
                    asm!("ldmxcsr [{}]", in(reg) &raw mut control);
                    run(&raw mut after);
                    asm!("stmxcsr [{}]", "ldmxcsr [{}]", in(reg) &raw mut then, in(reg) &raw const default);
                    if x87 {
                        asm!("fstp qword ptr [{}]", in(reg) &raw mut pi);
                        assert_eq!(f64::from_bits(pi), std::f64::consts::PI);
                    }
                }
                assert!(after == vectors, "{name}, {x87}");
                assert_eq!(then, control, "{name}, {x87}");
            }
        }
    }
    // What was zero is so again.
    if is_x86_feature_detected!("avx512bw") {
        let zeros = Vectors([0; 33 * 8]);
        let mut after = zeros.clone();
        // SAFETY: as above.
        unsafe { jumps_zmm(&raw mut after) };
        assert!(after == zeros);
    }
    let counters = session.report(probe).unwrap().counters;
    assert_eq!(counters.hits, counters.emulated);
    assert!(counters.hits >= 6);
}

/// XINUSE: the state components that are not in their initial configuration.
fn in_use() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller has found out that the processor has it.
    unsafe {
        asm!("xgetbv", in("ecx") 1, out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    }
    u64::from(high) << 32 | u64::from(low)
}

/// Gives x87 its initial configuration.
fn initialise_x87() {
    #[repr(align(64))]
    struct Image([u64; 72]);
    let nothing = Image([0; 72]);
    // SAFETY: an image that has no component says that they are initial, and x87 is all that is asked for.
    unsafe {
        asm!("xrstor [{}]", in(reg) &raw const nothing.0, in("eax") 1, in("edx") 0, options(nostack, readonly))
    }
}

#[test]
fn x87_that_a_signal_has_put_to_use_is_so_until_the_next_hit() {
    extern "C" fn nothing(_: i32) {}
    const X87: u64 = 1;
    let _one = begin();
    if std::arch::x86_64::__cpuid_count(0xd, 1).eax & 1 << 2 == 0 {
        return println!("skipped: the processor does not say what is in use");
    }
    initialise_x87();
    if in_use() & X87 != 0 {
        return println!("skipped: the processor says that x87 is in use whatever it holds");
    }
    let mut session = jumping();
    session.probe(Address(jumps_nop as *const () as u64), |_| Action::Continue).unwrap();
    // SAFETY: the handler does nothing.
    unsafe {
        libc::signal(libc::SIGUSR2, nothing as *const () as usize);
        libc::raise(libc::SIGUSR2);
    }
    if in_use() & X87 == 0 {
        return println!("skipped: the kernel returns from signals without x87 in use");
    }
    // SAFETY: it does nothing.
    unsafe { jumps_nop() };
    assert_eq!(in_use() & X87, 0);
}

#[test]
fn a_stack_that_is_too_small_has_the_breakpoint_taken_out() {
    let _one = begin();
    const PAGE: usize = 4096;
    const STACK: usize = 4 * PAGE;
    // Behind the guard page there is something again.
    // SAFETY: it is a new mapping, of which a page is closed.
    let end = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let (null, access) = (std::ptr::null_mut(), libc::PROT_READ | libc::PROT_WRITE);
        let start = libc::mmap(null, 2 * STACK, access, flags, -1, 0);
        assert_ne!(start, libc::MAP_FAILED);
        assert_eq!(libc::mprotect(start.add(STACK - PAGE), PAGE, libc::PROT_NONE), 0);
        start as u64 + 2 * STACK as u64
    };
    let functions: [unsafe extern "C" fn(); 2] = [jumps_small_1, jumps_small_2];
    for (function, jumps) in functions.into_iter().zip([false, true]) {
        let address = function as *const () as u64;
        let before: [u8; 5] = text(address);
        let mut session = Session::with(Options { jumps }).unwrap();
        let (count, handler) = counting();
        let probe = session.probe(Address(address), handler).unwrap();
        // SAFETY: the function needs nothing but its return address.
        unsafe { jumps_call_on(function, end) };
        assert_eq!(means(&session, probe), Means::Lost(Lost::Stack));
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert_eq!(text::<5>(address), before);
        // It is not probed again.
        let again = session.probe(Address(address), |_| Action::Continue);
        assert!(
            matches!(
                again,
                Err(ProbeError::Unplaceable { reason: Unplaceable::Own(OwnRefusal::GivenUp), .. })
            ),
            "{again:?}"
        );
    }
}

#[test]
fn a_page_that_cannot_be_written_is_refused() {
    let _one = begin();
    const VSYSCALL: u64 = 0xffff_ffff_ff60_0000;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    if !maps.contains("[vsyscall]") {
        return println!("skipped: the kernel maps no vsyscall page");
    }
    let refused = jumping().probe(Address(VSYSCALL), |_| Action::Continue);
    assert!(
        matches!(refused, Err(ProbeError::Unplaceable { reason: Unplaceable::Memory(_), .. })),
        "{refused:?}"
    );
}
