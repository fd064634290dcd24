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

use std::arch::{asm, global_asm};
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use emu::Access;

use crate::executor::own::sites::TABLE;

/// How much of its stack a thread needs below the signal frame that the kernel makes.
pub(crate) const ROOM: usize = 16 * 1024;
/// How much a stub needs of one.
pub(crate) const SLOT: u64 = 64;
/// How many stubs there can be.
const SLOTS: u64 = 4096;
/// The multiplier by which addresses are spread over the table of sites.
pub(super) const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The offset of RIP in `ucontext_t`.
const RIP: usize = 40 + 8 * libc::REG_RIP as usize;
/// The offset of RFLAGS in it.
const FLAGS: usize = 40 + 8 * libc::REG_EFL as usize;

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
}

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

/// What is called for a trap: the signal, `siginfo_t`, and `ucontext_t`, as for any handler.
pub(super) type TrapService = unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t);
/// What is called by a stub: registers in the order of `mcontext_t`, the site, and an image as XSAVE makes it. Returns
/// how to go on.
pub(super) type StubService = unsafe extern "C" fn(*mut i64, *const (), *mut u8) -> u64;

/// What a stub does next: it goes on behind the instruction, where a direct branch leads, or wherever the registers say.
pub(crate) const NEXT: u64 = 0;
pub(crate) const BRANCH: u64 = 1;
pub(crate) const ANYWHERE: u64 = 2;

static TRAP_SERVICE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static STUB_SERVICE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
/// How long an image is, and a little more, and which components are in it.
static IMAGE_ROOM: AtomicU64 = AtomicU64::new(0);
static IMAGE_COMPONENTS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
    .pushsection .tbss.stepless_own,"awT",@nobits
    .p2align 4
    .globl stepless_own_state
    .hidden stepless_own_state
    .type stepless_own_state,@object
    .size stepless_own_state,64
stepless_own_state:
    .zero 64
    .popsection

    .pushsection .text.stepless_own,"ax",@progbits
    .p2align 6
    .globl stepless_own_start
    .hidden stepless_own_start
stepless_own_start:

    # Accesses that may fault. rdi: the address, rsi: where our own bytes are. They return 0, or 2 where they have
    # faulted.
    .globl stepless_own_access
    .hidden stepless_own_access
stepless_own_access:
    .globl stepless_own_load_1, stepless_own_load_2, stepless_own_load_4, stepless_own_load_8, stepless_own_load_16
    .hidden stepless_own_load_1, stepless_own_load_2, stepless_own_load_4, stepless_own_load_8, stepless_own_load_16
    .globl stepless_own_store_1, stepless_own_store_2, stepless_own_store_4, stepless_own_store_8
    .hidden stepless_own_store_1, stepless_own_store_2, stepless_own_store_4, stepless_own_store_8
    .globl stepless_own_store_16, stepless_own_touch
    .hidden stepless_own_store_16, stepless_own_touch
    .globl stepless_own_exchange_1, stepless_own_exchange_2, stepless_own_exchange_4, stepless_own_exchange_8
    .hidden stepless_own_exchange_1, stepless_own_exchange_2, stepless_own_exchange_4, stepless_own_exchange_8
stepless_own_load_1:
    mov al, byte ptr [rdi]
    mov byte ptr [rsi], al
    xor eax, eax
    ret
stepless_own_load_2:
    mov ax, word ptr [rdi]
    mov word ptr [rsi], ax
    xor eax, eax
    ret
stepless_own_load_4:
    mov eax, dword ptr [rdi]
    mov dword ptr [rsi], eax
    xor eax, eax
    ret
stepless_own_load_8:
    mov rax, qword ptr [rdi]
    mov qword ptr [rsi], rax
    xor eax, eax
    ret
stepless_own_load_16:
    movdqu xmm0, xmmword ptr [rdi]
    movdqu xmmword ptr [rsi], xmm0
    xor eax, eax
    ret
stepless_own_store_1:
    mov al, byte ptr [rsi]
    mov byte ptr [rdi], al
    xor eax, eax
    ret
stepless_own_store_2:
    mov ax, word ptr [rsi]
    mov word ptr [rdi], ax
    xor eax, eax
    ret
stepless_own_store_4:
    mov eax, dword ptr [rsi]
    mov dword ptr [rdi], eax
    xor eax, eax
    ret
stepless_own_store_8:
    mov rax, qword ptr [rsi]
    mov qword ptr [rdi], rax
    xor eax, eax
    ret
stepless_own_store_16:
    movdqu xmm0, xmmword ptr [rsi]
    movdqu xmmword ptr [rdi], xmm0
    xor eax, eax
    ret
    # As if to write, without changing anything.
stepless_own_touch:
    lock or byte ptr [rdi], 0
    xor eax, eax
    ret
    # rsi: what is expected there, and then what was there; rdx: what is to be there. They return 1 if that is not so.
stepless_own_exchange_1:
    mov al, byte ptr [rsi]
    lock cmpxchg byte ptr [rdi], dl
    mov byte ptr [rsi], al
    setnz al
    movzx eax, al
    ret
stepless_own_exchange_2:
    mov ax, word ptr [rsi]
    lock cmpxchg word ptr [rdi], dx
    mov word ptr [rsi], ax
    setnz al
    movzx eax, al
    ret
stepless_own_exchange_4:
    mov eax, dword ptr [rsi]
    lock cmpxchg dword ptr [rdi], edx
    mov dword ptr [rsi], eax
    setnz al
    movzx eax, al
    ret
stepless_own_exchange_8:
    mov rax, qword ptr [rsi]
    lock cmpxchg qword ptr [rdi], rdx
    mov qword ptr [rsi], rax
    setnz al
    movzx eax, al
    ret
    .globl stepless_own_exchange_16
    .hidden stepless_own_exchange_16
stepless_own_exchange_16:
    mov r10, rbx
    mov r8, rdx
    mov rax, qword ptr [rsi]
    mov rdx, qword ptr [rsi + 8]
    mov rbx, qword ptr [r8]
    mov rcx, qword ptr [r8 + 8]
    lock cmpxchg16b xmmword ptr [rdi]
    mov qword ptr [rsi], rax
    mov qword ptr [rsi + 8], rdx
    mov rbx, r10
    setnz al
    movzx eax, al
    ret
    .globl stepless_own_access_end, stepless_own_failed, stepless_own_failed_16
    .hidden stepless_own_access_end, stepless_own_failed, stepless_own_failed_16
stepless_own_access_end:
stepless_own_failed_16:
    mov rbx, r10
stepless_own_failed:
    mov eax, 2
    ret

    # The kernel calls this for SIGTRAP.
    .globl stepless_own_trap, stepless_own_room, stepless_own_no_room
    .hidden stepless_own_trap, stepless_own_room, stepless_own_no_room
stepless_own_trap:
    mov rax, qword ptr fs:[0]
    add rax, qword ptr [rip + stepless_own_state@GOTTPOFF]
    mov r11d, 2
    cmp dword ptr [rax], 1
    je stepless_own_give_up
stepless_own_room:
    test byte ptr [rsp - {room}], 0
    test dword ptr [rdx + {flags}], 0x40000
    jnz 2f
1:  jmp qword ptr [rip + {trap}]
    # With AC set, what is not aligned would fault.
2:  pushfq
    and dword ptr [rsp], 0xfffbffff
    popfq
    jmp 1b
stepless_own_no_room:
    mov r11d, 3

    # The breakpoint that the thread has reached goes, for there is no serving it: r11d is the state of the site then.
    .globl stepless_own_give_up
    .hidden stepless_own_give_up
stepless_own_give_up:
    push rbx
    push rbp
    push r12
    push r13
    mov r13d, r11d
    mov rbx, rdx
    mov rax, qword ptr [rdx + {rip}]
    dec rax
    mov r9, qword ptr [rip + {table}]
    test r9, r9
    jz 9f
    mov rcx, qword ptr [r9]
    movabs r11, {spread}
    imul r11, rax
    shr r11, cl
3:  and r11, qword ptr [r9 + 8]
    mov r10, r11
    shl r10, 4
    cmp qword ptr [r9 + r10 + 16], rax
    je 4f
    cmp qword ptr [r9 + r10 + 16], 0
    je 9f
    inc r11
    jmp 3b
4:  mov r12, qword ptr [r9 + r10 + 24]
    mov dword ptr [r12 + 16], r13d
    mov eax, 2
    lea rdi, [rip + 8f]
    mov esi, 0x80002
    xor edx, edx
    syscall
    test eax, eax
    js 7f
    mov ebp, eax
    cmp dword ptr [r12 + 20], 1
    jbe 5f
    # Byte by byte, so that nobody executes a mixture.
    lea rsi, [rip + 6f]
    call 10f
    call 11f
    mov eax, 18
    mov edi, ebp
    lea rsi, [r12 + 25]
    mov edx, dword ptr [r12 + 20]
    dec edx
    mov r10, qword ptr [r12]
    inc r10
    syscall
    call 11f
5:  lea rsi, [r12 + 24]
    call 10f
    call 11f
    mov eax, 3
    mov edi, ebp
    syscall
    mov rax, qword ptr [r12]
    mov qword ptr [rbx + {rip}], rax
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    # pwrite64 of one byte.
10: mov eax, 18
    mov edi, ebp
    mov edx, 1
    mov r10, qword ptr [r12]
    syscall
    ret
    # membarrier, for the code of this process.
11: mov eax, 324
    mov edi, 32
    xor esi, esi
    xor edx, edx
    syscall
    ret
6:  int3
    # There is no way out.
7:  ud2
8:  .asciz "/proc/self/mem"
9:  mov rdx, rbx
    pop r13
    pop r12
    pop rbp
    pop rbx
    jmp qword ptr [rip + {trap}]

    # As the C library's, by which unwinders know the frame of a signal.
    .globl stepless_own_restorer
    .hidden stepless_own_restorer
    nop
stepless_own_restorer:
    mov rax, 15
    syscall

    # rdi: a handler, rsi: the signal, rdx and rcx: its other arguments, r8: a stack for it.
    .globl stepless_own_call_on
    .hidden stepless_own_call_on
stepless_own_call_on:
    push rbp
    mov rbp, rsp
    mov rsp, r8
    mov rax, rdi
    mov rdi, rsi
    mov rsi, rdx
    mov rdx, rcx
    call rax
    mov rsp, rbp
    pop rbp
    ret

    # A stub has come from a site: it has left out the red zone and a place for RSP, and called this.
    .globl stepless_own_enter
    .hidden stepless_own_enter
stepless_own_enter:
    lea rsp, [rsp - 152]
    mov qword ptr [rsp + 104], rax
    pushfq
    pop rax
    mov qword ptr [rsp + 136], rax
    mov qword ptr [rsp], r8
    mov qword ptr [rsp + 8], r9
    mov qword ptr [rsp + 16], r10
    mov qword ptr [rsp + 24], r11
    mov qword ptr [rsp + 32], r12
    mov qword ptr [rsp + 40], r13
    mov qword ptr [rsp + 48], r14
    mov qword ptr [rsp + 56], r15
    mov qword ptr [rsp + 64], rdi
    mov qword ptr [rsp + 72], rsi
    mov qword ptr [rsp + 80], rbp
    mov qword ptr [rsp + 88], rbx
    mov qword ptr [rsp + 96], rdx
    mov qword ptr [rsp + 112], rcx
    test eax, 0x40000
    jz 1f
    pushfq
    and dword ptr [rsp], 0xfffbffff
    popfq
1:  cld
    lea rax, [rsp + 296]
    mov qword ptr [rsp + 120], rax
    mov rax, qword ptr [rsp + 152]
    mov r12, qword ptr [rax - 21]
    mov rax, qword ptr [r12]
    mov qword ptr [rsp + 128], rax
    mov rbx, rsp
    mov r13, qword ptr fs:[0]
    add r13, qword ptr [rip + stepless_own_state@GOTTPOFF]
    cmp dword ptr [r13], 1
    je 2f
    cmp dword ptr [r13 + 4], 8
    jae 2f
    inc dword ptr [r13 + 4]
    sub rsp, qword ptr [rip + {image_room}]
    and rsp, -64
    xor eax, eax
    mov qword ptr [rsp + 512], rax
    mov qword ptr [rsp + 520], rax
    mov qword ptr [rsp + 528], rax
    mov qword ptr [rsp + 536], rax
    mov qword ptr [rsp + 544], rax
    mov qword ptr [rsp + 552], rax
    mov qword ptr [rsp + 560], rax
    mov qword ptr [rsp + 568], rax
    mov eax, dword ptr [rip + {image_components}]
    mov edx, dword ptr [rip + {image_components} + 4]
    xsave64 [rsp]
    ldmxcsr dword ptr [rip + 9f]
    mov rdi, rbx
    mov rsi, r12
    mov rdx, rsp
    call qword ptr [rip + {stub}]
    mov r14, rax
    mov eax, dword ptr [rip + {image_components}]
    mov edx, dword ptr [rip + {image_components} + 4]
    xrstor64 [rsp]
    mov rsp, rbx
    mov eax, dword ptr [r13 + 4]
    sub eax, 1
    adc eax, 0
    mov dword ptr [r13 + 4], eax
    jmp 3f
    # By a trap instead.
2:  mov rax, qword ptr [r12 + 8]
    mov qword ptr [rsp + 128], rax
    mov r14d, 2
3:  cmp r14d, 2
    je 4f
    mov rax, qword ptr [rsp + 120]
    mov qword ptr [rsp + 160], rax
    imul r14, r14, 6
    add qword ptr [rsp + 152], r14
    push qword ptr [rsp + 136]
    popfq
    mov r8, qword ptr [rsp]
    mov r9, qword ptr [rsp + 8]
    mov r10, qword ptr [rsp + 16]
    mov r11, qword ptr [rsp + 24]
    mov r12, qword ptr [rsp + 32]
    mov r13, qword ptr [rsp + 40]
    mov r14, qword ptr [rsp + 48]
    mov r15, qword ptr [rsp + 56]
    mov rdi, qword ptr [rsp + 64]
    mov rsi, qword ptr [rsp + 72]
    mov rbp, qword ptr [rsp + 80]
    mov rbx, qword ptr [rsp + 88]
    mov rdx, qword ptr [rsp + 96]
    mov rcx, qword ptr [rsp + 112]
    mov rax, qword ptr [rsp + 104]
    lea rsp, [rsp + 152]
    ret
    # IRET faults with NT.
4:  pushfq
    and dword ptr [rsp], 0xffffbfff
    popfq
    mov eax, ss
    push rax
    push qword ptr [rbx + 120]
    push qword ptr [rbx + 136]
    mov eax, cs
    push rax
    push qword ptr [rbx + 128]
    mov r8, qword ptr [rsp + 40]
    mov r9, qword ptr [rsp + 48]
    mov r10, qword ptr [rsp + 56]
    mov r11, qword ptr [rsp + 64]
    mov r12, qword ptr [rsp + 72]
    mov r13, qword ptr [rsp + 80]
    mov r14, qword ptr [rsp + 88]
    mov r15, qword ptr [rsp + 96]
    mov rdi, qword ptr [rsp + 104]
    mov rsi, qword ptr [rsp + 112]
    mov rbp, qword ptr [rsp + 120]
    mov rbx, qword ptr [rsp + 128]
    mov rdx, qword ptr [rsp + 136]
    mov rcx, qword ptr [rsp + 152]
    mov rax, qword ptr [rsp + 144]
    iretq
    .p2align 2
9:  .long 0x1f80
    .globl stepless_own_end
    .hidden stepless_own_end
stepless_own_end:
    .popsection

    # Stubs.
    .pushsection .text.stepless_own_slots,"ax",@progbits
    .p2align 12
    .globl stepless_own_slots
    .hidden stepless_own_slots
stepless_own_slots:
    .fill {slots}, 1, 0xcc
    .popsection
    "#,
    room = const ROOM,
    rip = const RIP,
    flags = const FLAGS,
    spread = const SPREAD,
    slots = const SLOT * SLOTS,
    table = sym TABLE,
    trap = sym TRAP_SERVICE,
    stub = sym STUB_SERVICE,
    image_room = sym IMAGE_ROOM,
    image_components = sym IMAGE_COMPONENTS,
);

unsafe extern "C" {
    static stepless_own_start: u8;
    static stepless_own_end: u8;
    static stepless_own_access: u8;
    static stepless_own_access_end: u8;
    static stepless_own_failed: u8;
    static stepless_own_failed_16: u8;
    static stepless_own_room: u8;
    static stepless_own_no_room: u8;
    static stepless_own_trap: u8;
    static stepless_own_restorer: u8;
    static stepless_own_enter: u8;
    static stepless_own_slots: u8;
    fn stepless_own_load_1(address: u64, place: *mut u8) -> u32;
    fn stepless_own_load_2(address: u64, place: *mut u8) -> u32;
    fn stepless_own_load_4(address: u64, place: *mut u8) -> u32;
    fn stepless_own_load_8(address: u64, place: *mut u8) -> u32;
    fn stepless_own_load_16(address: u64, place: *mut u8) -> u32;
    fn stepless_own_store_1(address: u64, place: *const u8) -> u32;
    fn stepless_own_store_2(address: u64, place: *const u8) -> u32;
    fn stepless_own_store_4(address: u64, place: *const u8) -> u32;
    fn stepless_own_store_8(address: u64, place: *const u8) -> u32;
    fn stepless_own_store_16(address: u64, place: *const u8) -> u32;
    fn stepless_own_touch(address: u64) -> u32;
    fn stepless_own_exchange_1(address: u64, expected: *mut u128, new: u64) -> u32;
    fn stepless_own_exchange_2(address: u64, expected: *mut u128, new: u64) -> u32;
    fn stepless_own_exchange_4(address: u64, expected: *mut u128, new: u64) -> u32;
    fn stepless_own_exchange_8(address: u64, expected: *mut u128, new: u64) -> u32;
    fn stepless_own_exchange_16(address: u64, expected: *mut u128, new: *const u128) -> u32;
    fn stepless_own_call_on(handler: usize, signal: u64, info: u64, context: u64, stack: u64);
}

/// Where something of ours lies.
fn address_of(symbol: *const u8) -> u64 {
    symbol as u64
}

/// The code that handlers of signals and stubs begin and end with.
pub(crate) fn code() -> Range<u64> {
    address_of(&raw const stepless_own_start)..address_of(&raw const stepless_own_end)
}

/// The memory of stubs.
pub(crate) fn slots() -> Range<u64> {
    let start = address_of(&raw const stepless_own_slots);
    start..start + SLOT * SLOTS
}

/// Where stubs call.
pub(crate) fn enter() -> u64 {
    address_of(&raw const stepless_own_enter)
}

/// Where the kernel is to call for SIGTRAP.
pub(super) fn trap() -> u64 {
    address_of(&raw const stepless_own_trap)
}

/// Where handlers return to.
pub(super) fn restorer() -> u64 {
    address_of(&raw const stepless_own_restorer)
}

/// Sets what is called for traps and by stubs.
pub(super) fn serve_by(trap: TrapService, stub: StubService) {
    TRAP_SERVICE.store(trap as *mut (), Ordering::Release);
    STUB_SERVICE.store(stub as *mut (), Ordering::Release);
}

/// Says how long the image is that stubs have made of a thread's extended state, and of which components.
pub(super) fn save(length: usize, components: u64) {
    IMAGE_ROOM.store(length as u64 + 64, Ordering::Release);
    IMAGE_COMPONENTS.store(components, Ordering::Release);
}

/// How long an image is.
pub(super) fn image_length() -> usize {
    (IMAGE_ROOM.load(Ordering::Acquire) as usize).saturating_sub(64)
}

/// Where a thread goes on that has faulted at `rip`, if that is an access of ours.
pub(super) fn landing(rip: u64) -> Option<u64> {
    let access = address_of(&raw const stepless_own_access)..address_of(&raw const stepless_own_access_end);
    if access.contains(&rip) {
        let wide = rip >= address_of(stepless_own_exchange_16 as *const u8);
        let (wide_failed, failed) = (&raw const stepless_own_failed_16, &raw const stepless_own_failed);
        return Some(address_of(if wide { wide_failed } else { failed }));
    }
    (rip == address_of(&raw const stepless_own_room)).then(|| address_of(&raw const stepless_own_no_room))
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

/// Says that the calling thread is in no stub.
pub(crate) fn leave_stubs() {
    // SAFETY: as in `phase`.
    unsafe { ptr::write_volatile(&raw mut (*thread()).depth, 0) }
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

/// An access that has faulted: [`fault`] says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed;

fn checked(result: u32) -> Result<(), Failed> {
    if result == 0 { Ok(()) } else { Err(Failed) }
}

/// Fills `bytes` from `address` on: what has the size of a register by one load, and others by one for each aligned unit.
#[inline]
pub(crate) fn load(address: u64, bytes: &mut [u8]) -> Result<(), Failed> {
    if bytes.len() > LARGEST || !bytes.len().is_power_of_two() {
        return pieces(address, bytes.len())
            .try_for_each(|(at, range)| bytes.get_mut(range).map_or(Ok(()), |piece| load(at, piece)));
    }
    let place = bytes.as_mut_ptr();
    // SAFETY: each writes as many bytes as there are to `place`. Whether `address` can be read they find out, which
    // takes `landing`; what is read there is bytes, whoever else may write to them.
    checked(unsafe {
        match bytes.len() {
            1 => stepless_own_load_1(address, place),
            2 => stepless_own_load_2(address, place),
            4 => stepless_own_load_4(address, place),
            8 => stepless_own_load_8(address, place),
            _ => stepless_own_load_16(address, place),
        }
    })
}

/// Stores `bytes` from `address` on, in pieces as those of [`load`].
///
/// It is the program's own store, which it makes where it will: nothing that Rust knows of may lie there unless the
/// program could have changed it just as well.
#[inline]
pub(crate) fn store(address: u64, bytes: &[u8]) -> Result<(), Failed> {
    if bytes.len() > LARGEST || !bytes.len().is_power_of_two() {
        return pieces(address, bytes.len())
            .try_for_each(|(at, range)| bytes.get(range).map_or(Ok(()), |piece| store(at, piece)));
    }
    let place = bytes.as_ptr();
    // SAFETY: each reads as many bytes as there are from `place`. The store is that of an instruction of the program,
    // as it would have been made without us.
    checked(unsafe {
        match bytes.len() {
            1 => stepless_own_store_1(address, place),
            2 => stepless_own_store_2(address, place),
            4 => stepless_own_store_4(address, place),
            8 => stepless_own_store_8(address, place),
            _ => stepless_own_store_16(address, place),
        }
    })
}

/// The longest access that the processor makes in one piece.
const LARGEST: usize = 16;

/// The largest aligned units of `length` bytes from `address` on: where each is, and which of the bytes.
fn pieces(address: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address.wrapping_add(done as u64);
        let left = length.checked_sub(done).filter(|&left| left > 0)?;
        let aligned = 1 << at.trailing_zeros().min(LARGEST.trailing_zeros());
        let size = aligned.min(1 << left.ilog2());
        done += size;
        Some((at, done - size..done))
    })
}

/// Whether the byte at `address` can be accessed so; nothing is changed.
pub(crate) fn touch(address: u64, access: Access) -> Result<(), Failed> {
    match access {
        Access::Read => load(address, &mut [0]),
        // SAFETY: what is there stays as it is, in whatever order others write to it.
        Access::Write => checked(unsafe { stepless_own_touch(address) }),
    }
}

/// Puts `new` in place of `expected`, `size` bytes at `address`, in one step. Returns what was there.
pub(crate) fn exchange(address: u64, size: usize, expected: u128, new: u128) -> Result<u128, Failed> {
    let mut found = expected;
    let place = &raw mut found;
    // SAFETY: `found` and `new` are valid for 16 bytes; the rest is as in `store`.
    let result = unsafe {
        match size {
            1 => stepless_own_exchange_1(address, place, new as u64),
            2 => stepless_own_exchange_2(address, place, new as u64),
            4 => stepless_own_exchange_4(address, place, new as u64),
            8 => stepless_own_exchange_8(address, place, new as u64),
            _ => stepless_own_exchange_16(address, place, &raw const new),
        }
    };
    match result {
        2 => Err(Failed),
        _ => Ok(found),
    }
}

/// Calls a handler of a signal on another stack, whose end is `stack`.
pub(super) fn call_on(handler: usize, signal: i32, info: u64, context: u64, stack: u64) {
    // SAFETY: the handler is the program's own, for that signal, with arguments as the kernel has them; the stack is
    // that which the program has set for it.
    unsafe { stepless_own_call_on(handler, signal as u64, info, context, stack) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_aligned_and_as_large_as_can_be() {
        let of = |address, length| pieces(address, length).map(|(_, range)| range.len()).collect::<Vec<_>>();
        assert_eq!(of(0x1000, 64), [16; 4]);
        assert_eq!(of(0x1008, 32), [8, 16, 8]);
        assert_eq!(of(0x1003, 10), [1, 4, 4, 1]);
        assert_eq!(of(0x1ffe, 6), [2, 4]);
        assert!(of(0x1000, 0).is_empty());
    }
}
