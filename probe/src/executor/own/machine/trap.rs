//! The way into the handler of SIGTRAP, out of handlers, and out of a trap that cannot be served.

#![allow(unsafe_code, reason = "assembly, called by functions that are safe to call")]

use std::arch::global_asm;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::executor::own::machine::{ROOM, SPREAD, address_of};
use crate::executor::own::sites::TABLE;

/// The offset of RIP in `ucontext_t`.
const RIP: usize = 40 + 8 * libc::REG_RIP as usize;
/// The offset of RFLAGS in it.
const FLAGS: usize = 40 + 8 * libc::REG_EFL as usize;

/// The offset in it of the stack that is set for signals.
const STACK: usize = 16;

/// What is called for a signal: its number, `siginfo_t`, and `ucontext_t`, as for any handler; and where the stack pointer
/// was then.
pub(in crate::executor::own) type SignalService =
    unsafe extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::ucontext_t, u64);

static TRAP_SERVICE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static FAULT_SERVICE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

global_asm!(
    r#"
    .pushsection stepless_own,"ax",@progbits
    .p2align 4
    # The kernel calls this for SIGTRAP.
    .globl stepless_own_trap, stepless_own_room, stepless_own_room_end, stepless_own_no_room
    .hidden stepless_own_trap, stepless_own_room, stepless_own_room_end, stepless_own_no_room
stepless_own_trap:
    mov rax, qword ptr fs:[0]
    add rax, qword ptr [rip + stepless_own_state@GOTTPOFF]
    mov r11d, 2
    cmp dword ptr [rax], 1
    je stepless_own_give_up
    # Each page: what is behind a guard page may be anything, as is what is below a stack that was set for signals, where no
    # guard page need be.
    mov rcx, rsp
    sub rcx, qword ptr [rdx + {stack}]
    cmp rcx, qword ptr [rdx + {stack} + 16]
    jae stepless_own_room
    cmp rcx, {room}
    jb stepless_own_no_room
stepless_own_room:
    test byte ptr [rsp - {room} / 4], 0
    test byte ptr [rsp - {room} / 2], 0
    test byte ptr [rsp - {room} * 3 / 4], 0
    test byte ptr [rsp - {room}], 0
stepless_own_room_end:
    test dword ptr [rdx + {flags}], 0x40000
    jnz 2f
1:  mov rcx, rsp
    jmp qword ptr [rip + {trap}]
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
    mov r11d, r13d
    # The thread goes on at the instruction that it has reached: the site's, or one behind it.
    mov r13, rax
    sub rax, qword ptr [r12]
    cmp rax, 8
    jb 12f
    mov r13, qword ptr [r12]
    # If it has been removed, what is there is another's.
12: cmp dword ptr [r12 + 16], 1
    jne 13f
    mov dword ptr [r12 + 16], r11d
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
13: mov qword ptr [rbx + {rip}], r13
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
    mov rcx, rsp
    jmp qword ptr [rip + {trap}]

    # And this for SIGSEGV and SIGBUS.
    .globl stepless_own_fault
    .hidden stepless_own_fault
stepless_own_fault:
    mov rcx, rsp
    jmp qword ptr [rip + {fault}]

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

    .popsection
    "#,
    room = const ROOM,
    rip = const RIP,
    flags = const FLAGS,
    stack = const STACK,
    spread = const SPREAD,
    table = sym TABLE,
    trap = sym TRAP_SERVICE,
    fault = sym FAULT_SERVICE,
);

unsafe extern "C" {
    static stepless_own_room: u8;
    static stepless_own_room_end: u8;
    static stepless_own_no_room: u8;
    static stepless_own_trap: u8;
    static stepless_own_fault: u8;
    static stepless_own_restorer: u8;
    fn stepless_own_call_on(handler: usize, signal: u64, info: u64, context: u64, stack: u64);
}

/// Where the kernel is to call for SIGTRAP.
pub(in crate::executor::own) fn trap_entry() -> u64 {
    address_of(&raw const stepless_own_trap)
}

/// Where it is for SIGSEGV and SIGBUS.
pub(in crate::executor::own) fn fault_entry() -> u64 {
    address_of(&raw const stepless_own_fault)
}

/// Where handlers return to.
pub(in crate::executor::own) fn restorer() -> u64 {
    address_of(&raw const stepless_own_restorer)
}

/// Sets what is called for traps, and for accesses that fail.
pub(super) fn serve_by(trap: SignalService, fault: SignalService) {
    TRAP_SERVICE.store(trap as *mut (), Ordering::Release);
    FAULT_SERVICE.store(fault as *mut (), Ordering::Release);
}

/// Where a thread goes on that has faulted at `rip`, if it has found too little room on its stack there.
pub(super) fn landing(rip: u64) -> Option<u64> {
    let looking = address_of(&raw const stepless_own_room)..address_of(&raw const stepless_own_room_end);
    looking.contains(&rip).then(|| address_of(&raw const stepless_own_no_room))
}

/// Calls a handler of a signal on another stack, whose end is `stack`.
pub(in crate::executor::own) fn call_on(handler: usize, signal: i32, info: u64, context: u64, stack: u64) {
    // SAFETY: the handler is the program's own, for that signal, with arguments as the kernel has them; the stack is
    // that which the program has set for it.
    unsafe { stepless_own_call_on(handler, signal as u64, info, context, stack) }
}
