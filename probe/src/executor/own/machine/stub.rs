//! The way into stubs and out of them, and the memory that they are written to.

#![allow(unsafe_code, reason = "assembly, called by functions that are safe to call")]

use std::arch::global_asm;
use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use emu::xsave::{Layout, feature};

use crate::executor::own::machine::{ORDINARY, ROOM, address_of};

/// How much a stub needs of its memory.
pub(crate) const SLOT: u64 = 64;
/// How many stubs there can be that threads jump to.
pub(crate) const ENTRIES: u64 = 4096;
/// How many there can be in all: some are left for system calls, however many jumps there are.
const SLOTS: u64 = ENTRIES + 1024;

/// How much memory there is for jumps to stubs that must be at certain addresses.
const TRAMPOLINES: u64 = 128 * 1024;

/// What is called by a stub: registers in the order of `mcontext_t`, the site, and an image as XSAVE makes it. Returns
/// how to go on, and [`CHANGED`] where the image is not as it was.
pub(in crate::executor::own) type StubService = unsafe extern "C" fn(*mut i64, *const (), *mut u8) -> u64;

/// What a stub does next: it goes on behind the instructions, where a direct branch leads, or wherever the registers say.
pub(crate) const NEXT: u64 = 0;
pub(crate) const BRANCH: u64 = 1;
pub(crate) const ANYWHERE: u64 = 2;
/// Added to those: the image is to be loaded.
pub(in crate::executor::own) const CHANGED: u64 = 1 << 8;

static STUB_SERVICE: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());

/// How extended state is saved: how much room an image needs with what aligns it; which components are; which of them can
/// be by moves; and where an image has those of AVX, the masks, ZMM_Hi256, Hi16_ZMM, and PKRU.
static SAVING: [AtomicU64; 8] = [const { AtomicU64::new(0) }; 8];

global_asm!(
    r#"
    .pushsection stepless_own,"ax",@progbits
    .p2align 6
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
    test eax, 0x40500
    jz 1f
    cld
    test eax, 0x40100
    jz 1f
    pushfq
    and dword ptr [rsp], 0xfffbfeff
    popfq
1:  lea rax, [rsp + 296]
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
    # Who steps itself is to see the instruction as one.
    test dword ptr [rsp + 136], 0x100
    jnz 2f
    # What is below a stack that was set for signals is of others, and no guard page need be there.
    cmp rsp, qword ptr [r13 + {ordinary}]
    jb 7f
    cmp rsp, qword ptr [r13 + {ordinary} + 8]
    jae 7f
8:
    # As for a trap: what has too little room is left to that, which takes the breakpoint out.
    .globl stepless_own_stub_room, stepless_own_stub_room_end, stepless_own_stub_no_room
    .hidden stepless_own_stub_room, stepless_own_stub_room_end, stepless_own_stub_no_room
stepless_own_stub_room:
    test byte ptr [rsp - {room} / 4], 0
    test byte ptr [rsp - {room} / 2], 0
    test byte ptr [rsp - {room} * 3 / 4], 0
    test byte ptr [rsp - {room}], 0
stepless_own_stub_room_end:
    inc dword ptr [r13 + 4]
    sub rsp, qword ptr [rip + {saving}]
    and rsp, -64
    # What is in use and can be saved by moves is saved so: XSAVE and XRSTOR take most of a hit's time, however little
    # there is to save. r15d: what has been saved so; 0 if XSAVE has saved all.
    xor r15d, r15d
    cmp dword ptr [rip + {saving} + 16], 0
    je 21f
    mov ecx, 1
    xgetbv
    and eax, dword ptr [rip + {saving} + 8]
    or eax, 2
    mov ecx, dword ptr [rip + {saving} + 16]
    not ecx
    test eax, ecx
    jnz 21f
    # The upper halves of ZMM registers are loaded behind those of YMM registers.
    mov ecx, eax
    shr ecx, 4
    and ecx, 4
    or eax, ecx
    mov r15d, eax
    stmxcsr dword ptr [rsp + 24]
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmmword ptr [rsp + 160 + 16 * \n], xmm\n
    .endr
    xorps xmm0, xmm0
    movaps xmmword ptr [rsp + 512], xmm0
    movaps xmmword ptr [rsp + 528], xmm0
    movaps xmmword ptr [rsp + 544], xmm0
    movaps xmmword ptr [rsp + 560], xmm0
    mov dword ptr [rsp + 512], r15d
    test r15d, 0x2e4
    jz 23f
    test r15d, 4
    jz 22f
    mov rax, qword ptr [rip + {saving} + 24]
    add rax, rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vextractf128 xmmword ptr [rax + 16 * \n], ymm\n, 1
    .endr
    test r15d, 0x40
    jz 22f
    mov rax, qword ptr [rip + {saving} + 40]
    add rax, rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vextractf64x4 ymmword ptr [rax + 32 * \n], zmm\n, 1
    .endr
22: test r15d, 0x20
    jz 24f
    mov rax, qword ptr [rip + {saving} + 32]
    add rax, rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq qword ptr [rax + 8 * \n], k\n
    .endr
24: test r15d, 0x80
    jz 25f
    mov rax, qword ptr [rip + {saving} + 48]
    add rax, rsp
    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqu64 zmmword ptr [rax + 64 * (\n - 16)], zmm\n
    .endr
25: test r15d, 4
    jz 26f
    # What is compiled for SSE waits for upper halves in use.
    vzeroupper
26: test r15d, 0x200
    jz 23f
    xor ecx, ecx
    rdpkru
    mov rcx, qword ptr [rip + {saving} + 56]
    mov dword ptr [rsp + rcx], eax
    mov dword ptr [rsp + rcx + 4], 0
23: mov eax, dword ptr [rsp + 24]
    and eax, 0xffffffc0
    cmp eax, 0x1f80
    je 27f
    ldmxcsr dword ptr [rip + 9f]
    jmp 27f
21: xor eax, eax
    mov qword ptr [rsp + 512], rax
    mov qword ptr [rsp + 520], rax
    mov qword ptr [rsp + 528], rax
    mov qword ptr [rsp + 536], rax
    mov qword ptr [rsp + 544], rax
    mov qword ptr [rsp + 552], rax
    mov qword ptr [rsp + 560], rax
    mov qword ptr [rsp + 568], rax
    mov eax, dword ptr [rip + {saving} + 8]
    xor edx, edx
    xsave64 [rsp]
    ldmxcsr dword ptr [rip + 9f]
27: mov rdi, rbx
    mov rsi, r12
    mov rdx, rsp
    call qword ptr [rip + {stub}]
    mov r14d, eax
    test r15d, r15d
    jz 31f
    test r14d, {changed}
    jnz 31f
    # What is in use now and was not before goes back to its initial configuration.
    mov ecx, 1
    xgetbv
    and eax, dword ptr [rip + {saving} + 8]
    mov ecx, r15d
    not ecx
    and eax, ecx
    jz 33f
    test r15d, 4
    jnz 32f
    test eax, 0x44
    jz 32f
    vzeroupper
32: and eax, 0xffffffbb
    jz 33f
    xor edx, edx
    xrstor64 [rsp]
33: .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    movaps xmm\n, xmmword ptr [rsp + 160 + 16 * \n]
    .endr
    test r15d, 0x2e4
    jz 36f
    test r15d, 4
    jz 34f
    mov rax, qword ptr [rip + {saving} + 24]
    add rax, rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vinsertf128 ymm\n, ymm\n, xmmword ptr [rax + 16 * \n], 1
    .endr
    test r15d, 0x40
    jz 34f
    mov rax, qword ptr [rip + {saving} + 40]
    add rax, rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    vinsertf64x4 zmm\n, zmm\n, ymmword ptr [rax + 32 * \n], 1
    .endr
34: test r15d, 0x20
    jz 35f
    mov rax, qword ptr [rip + {saving} + 32]
    add rax, rsp
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    kmovq k\n, qword ptr [rax + 8 * \n]
    .endr
35: test r15d, 0x80
    jz 37f
    mov rax, qword ptr [rip + {saving} + 48]
    add rax, rsp
    .irp n, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    vmovdqu64 zmm\n, zmmword ptr [rax + 64 * (\n - 16)]
    .endr
37: test r15d, 0x200
    jz 36f
    mov rsi, qword ptr [rip + {saving} + 56]
    xor ecx, ecx
    rdpkru
    cmp eax, dword ptr [rsp + rsi]
    je 36f
    mov eax, dword ptr [rsp + rsi]
    wrpkru
36: stmxcsr dword ptr [rsp + 28]
    mov eax, dword ptr [rsp + 28]
    cmp eax, dword ptr [rsp + 24]
    je 38f
    ldmxcsr dword ptr [rsp + 24]
    jmp 38f
    # Who returns from a signal has x87 in use from then on, by the kernel's doing. If it is in its initial configuration,
    # it is in use no more, and the next hit is by moves again.
31: cmp qword ptr [rsp], 0x37f
    jne 39f
    mov rax, qword ptr [rsp + 8]
    or rax, qword ptr [rsp + 16]
    jnz 39f
    movaps xmm0, xmmword ptr [rsp + 32]
    .irp n, 1, 2, 3, 4, 5, 6, 7
    por xmm0, xmmword ptr [rsp + 32 + 16 * \n]
    .endr
    pxor xmm1, xmm1
    pcmpeqb xmm0, xmm1
    pmovmskb eax, xmm0
    cmp eax, 0xffff
    jne 39f
    and byte ptr [rsp + 512], 0xfe
39: mov eax, dword ptr [rip + {saving} + 8]
    xor edx, edx
    xrstor64 [rsp]
38: movzx r14d, r14b
    mov rsp, rbx
    mov eax, dword ptr [r13 + 4]
    sub eax, 1
    adc eax, 0
    mov dword ptr [r13 + 4], eax
    jmp 3f
    # sigaltstack: the stack is asked for, which costs a system call for each 64 KiB that are come to.
7:  sub rsp, 24
    mov eax, 131
    xor edi, edi
    mov rsi, rsp
    syscall
    pop rdx
    pop rcx
    pop rsi
    test eax, eax
    js 8b
    test ecx, 1
    jnz 71f
    mov rax, rsp
    and rax, -0x10000
    add rsi, rdx
    cmp rsi, rax
    jbe 70f
    lea rcx, [rax + 0x10000]
    cmp rdx, rcx
    jb 8b
70: mov qword ptr [r13 + {ordinary}], rax
    add rax, 0x10000
    mov qword ptr [r13 + {ordinary} + 8], rax
    jmp 8b
71: mov rax, rsp
    sub rax, rdx
    cmp rax, {room}
    jae 8b
    # By a trap instead.
stepless_own_stub_no_room:
2:  mov rax, qword ptr [r12 + 8]
    mov qword ptr [rsp + 128], rax
    mov r14d, 2
3:  cmp r14d, 2
    je 4f
    mov rax, qword ptr [rsp + 120]
    mov qword ptr [rsp + 160], rax
    imul r14, r14, 6
    add qword ptr [rsp + 152], r14
    # POPFQ takes as long as all moves together, and is needed only where more than the status flags may differ.
    mov eax, dword ptr [rsp + 136]
    test eax, 0xffdff528
    jnz 5f
    mov edx, eax
    shr edx, 11
    and edx, 1
    mov ah, al
    mov al, dl
    add al, 0x7f
    sahf
    jmp 6f
5:  push qword ptr [rsp + 136]
    popfq
6:  mov r8, qword ptr [rsp]
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
    .popsection

    # Stubs.
    .pushsection .text.stepless_own_slots,"ax",@progbits
    .p2align 12
    .globl stepless_own_slots
    .hidden stepless_own_slots
stepless_own_slots:
    .fill {slots}, 1, 0xcc
    .globl stepless_own_trampolines
    .hidden stepless_own_trampolines
stepless_own_trampolines:
    .fill {trampolines}, 1, 0xcc
    .popsection
    "#,
    slots = const SLOT * SLOTS,
    trampolines = const TRAMPOLINES,
    changed = const CHANGED,
    ordinary = const ORDINARY,
    room = const ROOM,
    stub = sym STUB_SERVICE,
    saving = sym SAVING,
);

unsafe extern "C" {
    static stepless_own_enter: u8;
    static stepless_own_stub_room: u8;
    static stepless_own_stub_room_end: u8;
    static stepless_own_stub_no_room: u8;
    static stepless_own_slots: u8;
    static stepless_own_trampolines: u8;
}

/// The memory of stubs.
pub(crate) fn slots() -> Range<u64> {
    let start = address_of(&raw const stepless_own_slots);
    start..start + SLOT * SLOTS
}

/// The memory of jumps to stubs.
pub(crate) fn trampolines() -> Range<u64> {
    let start = address_of(&raw const stepless_own_trampolines);
    start..start + TRAMPOLINES
}

/// Where stubs call.
pub(crate) fn enter() -> u64 {
    address_of(&raw const stepless_own_enter)
}

/// Where a thread goes on that has faulted at `rip`, if it has found too little room on its stack there.
pub(super) fn landing(rip: u64) -> Option<u64> {
    let start = address_of(&raw const stepless_own_stub_room);
    let looking = start..address_of(&raw const stepless_own_stub_room_end);
    looking.contains(&rip).then(|| address_of(&raw const stepless_own_stub_no_room))
}

/// Sets what is called by stubs.
pub(super) fn serve_by(service: StubService) {
    STUB_SERVICE.store(service as *mut (), Ordering::Release);
}

/// Says how the extended state of threads is laid out that stubs make an image of.
pub(in crate::executor::own) fn save(layout: &Layout) {
    let offset = |offset: Option<usize>| offset.unwrap_or(0) as u64;
    let values = [
        layout.length as u64 + 64,
        layout.features(),
        movable(layout),
        offset(layout.avx),
        offset(layout.opmask),
        offset(layout.zmm_hi256),
        offset(layout.hi16_zmm),
        offset(layout.pkru),
    ];
    for (place, value) in SAVING.iter().zip(values) {
        place.store(value, Ordering::SeqCst);
    }
}

/// The components that can be saved and loaded by moves; none where the processor does not say which are in use.
fn movable(layout: &Layout) -> u64 {
    const XGETBV_WITH_1: u32 = 1 << 2;
    // Sub-leaf 1 is there wherever XSAVE is.
    if __cpuid_count(0xd, 1).eax & XGETBV_WITH_1 == 0 {
        return 0;
    }
    let mut movable = feature::SSE | feature::AVX | feature::PKRU;
    // For the whole masks.
    if is_x86_feature_detected!("avx512bw") {
        movable |= feature::OPMASK | feature::ZMM_HI256 | feature::HI16_ZMM;
    }
    movable & layout.features()
}

/// How long an image is.
pub(in crate::executor::own) fn image_length() -> usize {
    let [room, ..] = &SAVING;
    (room.load(Ordering::Acquire) as usize).saturating_sub(64)
}
