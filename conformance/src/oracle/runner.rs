//! The program that the oracle's child process runs: position-fixed assembly that needs no stack, no
//! thread-local storage, no library and no vdso, so that the child's address space holds nothing else.
//!
//! It takes a batch of cases from shared memory. For each it stores the case's memory contents, loads the
//! complete register state and jumps to the instruction; the instruction is followed by a jump back
//! (`save`), or a signal is delivered (`handler`). Either way the complete state after it and the words of
//! memory that changed are left in shared memory. A case may ask for RFLAGS.TF (by IRETQ, which loads the
//! flags and jumps in one instruction), so that the processor itself stops after one instruction wherever
//! that leads; one that repeats is stepped until RIP leaves it.

#![allow(unsafe_code, reason = "the assembly's symbols are read as bytes")]

use super::places::{RUNNER, SHARED, WRITABLE};

/// Offsets in the shared memory's first page, in bytes.
pub(super) mod control {
    /// u32: 1 while the child has the batch, 0 while the parent has it; a futex.
    pub(crate) const GO: usize = 0x00;
    /// u32: the case that is running.
    pub(crate) const INDEX: usize = 0x04;
    /// u32: how many cases there are.
    pub(crate) const COUNT: usize = 0x08;
    /// u32: the case to interrupt, plus one; 0 if none.
    pub(crate) const INTERRUPTED: usize = 0x0c;
    pub(crate) const CURRENT_INPUT: usize = 0x10;
    pub(crate) const CURRENT_OUTPUT: usize = 0x18;
    pub(crate) const TARGET: usize = 0x20;
    pub(crate) const SAVED_R13: usize = 0x28;
    pub(crate) const INPUTS: usize = 0x30;
    pub(crate) const INPUT_STRIDE: usize = 0x38;
    pub(crate) const OUTPUTS: usize = 0x40;
    pub(crate) const OUTPUT_STRIDE: usize = 0x48;
    /// u64: the XSAVE components to load and store.
    pub(crate) const XSAVE_MASK: usize = 0x50;
    /// u64: the length of an XSAVE image, in bytes.
    pub(crate) const XSAVE_LENGTH: usize = 0x58;
    /// u64: how many more single steps the case may take.
    pub(crate) const BUDGET: usize = 0x60;
    /// u64: a setup system call that failed, as its number in the table plus one.
    pub(crate) const FAILED: usize = 0x68;
    /// Triples of u64: a writable region's address, its contents' address, its length; ended by zero.
    pub(crate) const REGIONS: usize = 0x80;
    /// The end of the runner's own stack, a page below which is its start.
    pub(crate) const STACK_END: usize = 0x2000;
    /// System calls to make at first: number, six arguments and a place for the result, u64 each; ended
    /// by the number -1.
    pub(crate) const SETUP: usize = 0x2000;
}

/// Offsets in a case's input, in bytes.
pub(super) mod input {
    /// RAX to R15 in machine encoding.
    pub(crate) const GPR: usize = 0;
    pub(crate) const RIP: usize = 128;
    pub(crate) const RFLAGS: usize = 136;
    pub(crate) const FS_BASE: usize = 144;
    pub(crate) const GS_BASE: usize = 152;
    /// [`STEP`] and [`REPEAT`].
    pub(crate) const MODE: usize = 160;
    /// How many patches there are, at most [`PATCHES`].
    pub(crate) const PATCH_COUNT: usize = 168;
    /// DS, ES, FS, GS: u16 each.
    pub(crate) const SELECTORS: usize = 176;
    /// Address and length, in bytes, u64 each.
    pub(crate) const PATCH: usize = 192;
    pub(crate) const PATCH_BYTES: usize = 256;
    pub(crate) const XSAVE: usize = 512;

    pub(crate) const PATCHES: usize = 4;
    pub(crate) const PATCH_LENGTH: usize = 64;
    /// Stop by RFLAGS.TF, not by the jump after the instruction.
    pub(crate) const STEP: u64 = 1;
    /// Go on stepping while RIP is that of the instruction.
    pub(crate) const REPEAT: u64 = 2;
}

/// Offsets in a case's output, in bytes.
pub(super) mod output {
    /// The general registers and more, as the kernel's `struct sigcontext` orders them.
    pub(crate) const SIGCONTEXT: usize = 0;
    pub(crate) const FS_BASE: usize = 184;
    pub(crate) const GS_BASE: usize = 192;
    /// DS, ES, FS, GS: u16 each.
    pub(crate) const SELECTORS: usize = 200;
    /// The signal's number; 0 if the instruction was left by the jump after it.
    pub(crate) const SIGNAL: usize = 208;
    /// How many changed words follow.
    pub(crate) const CHANGED_COUNT: usize = 216;
    /// The XSAVE image, and after it the changed words: pairs of u64, an address and the eight bytes there.
    pub(crate) const XSAVE: usize = 256;
}

/// Positions in `struct sigcontext`, in quadwords.
pub(super) mod sigcontext {
    /// Where RAX to R15 (machine encoding) lie.
    pub(crate) const GPR: [usize; 16] = [13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7];
    pub(crate) const RIP: usize = 16;
    pub(crate) const EFLAGS: usize = 17;
    /// CS, GS, FS, SS: u16 each.
    pub(crate) const SELECTORS: usize = 18;
    pub(crate) const ERR: usize = 19;
    pub(crate) const TRAPNO: usize = 20;
    pub(crate) const CR2: usize = 22;
}

/// The most changed words that are reported: all that an instruction can change.
pub(super) const CHANGED_WORDS: usize = {
    let (mut words, mut number) = (0, 0);
    while number < WRITABLE.len() {
        words += (WRITABLE[number].length / 8) as usize;
        number += 1;
    }
    words
};

/// Where a jump after the instruction must lead.
pub(super) const SAVE: u64 = RUNNER + 16;
/// The signal handler.
pub(super) const HANDLER: u64 = RUNNER + 32;

/// Loads all general registers but RSP from the input that R12 points to.
macro_rules! load_general {
    () => {
        concat!(
            "mov rax, [r12]\n",
            "mov rcx, [r12 + 8]\n",
            "mov rdx, [r12 + 16]\n",
            "mov rbx, [r12 + 24]\n",
            "mov rbp, [r12 + 40]\n",
            "mov rsi, [r12 + 48]\n",
            "mov rdi, [r12 + 56]\n",
            "mov r8, [r12 + 64]\n",
            "mov r9, [r12 + 72]\n",
            "mov r10, [r12 + 80]\n",
            "mov r11, [r12 + 88]\n",
            "mov r13, [r12 + 104]\n",
            "mov r14, [r12 + 112]\n",
            "mov r15, [r12 + 120]\n",
            "mov r12, [r12 + 96]"
        )
    };
}

core::arch::global_asm!(
    ".pushsection .rodata.conformance_runner, \"a\", @progbits",
    ".balign 4096",
    ".globl conformance_runner_start",
    ".hidden conformance_runner_start",
    "conformance_runner_start:",
    ".Lrunner:",
    ".set .Lshared, .Lrunner + {shared}",
    "jmp .Lstart",
    ".org .Lrunner + 16",
    "jmp .Lsave",
    ".org .Lrunner + 32",
    "jmp .Lhandler",
    // Map the shared memory, which is standard input.
    ".Lstart:",
    "mov eax, 9",
    "lea rdi, [rip + .Lshared]",
    "mov esi, {shared_length}",
    "mov edx, 3",
    "mov r10d, 0x11",
    "xor r8d, r8d",
    "xor r9d, r9d",
    "syscall",
    "cmp rax, -4096",
    "ja .Lexit",
    // Make the system calls of the table.
    "lea rbx, [rip + .Lshared + {SETUP}]",
    "xor ebp, ebp",
    "20:",
    "mov rax, [rbx]",
    "cmp rax, -1",
    "je .Lready",
    "mov rdi, [rbx + 8]",
    "mov rsi, [rbx + 16]",
    "mov rdx, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r8, [rbx + 40]",
    "mov r9, [rbx + 48]",
    "syscall",
    "mov [rbx + 56], rax",
    "inc ebp",
    "add rbx, 64",
    "cmp rax, -4096",
    "jbe 20b",
    "mov [rip + .Lshared + {FAILED}], rbp",
    ".Lexit:",
    "mov eax, 231",
    "mov edi, 1",
    "syscall",
    // Use tile registers, if there are such: until then the kernel keeps them from this thread (XFD), and XSAVEC and
    // XSAVEOPT do not look at their place.
    ".Lready:",
    "test dword ptr [rip + .Lshared + {XSAVE_MASK}], {TILE_DATA}",
    "jz .Lserve",
    "ldtilecfg [rip + .Lone_tile]",
    "tilezero tmm0",
    "tilerelease",
    "jmp .Lserve",
    // Palette 1; TMM0 is of one row of 64 bytes.
    ".Lone_tile:",
    ".byte 1",
    ".zero 15",
    ".byte 64",
    ".zero 31",
    ".byte 1",
    ".zero 15",
    // Wait for a batch.
    ".Lserve:",
    "cmp dword ptr [rip + .Lshared + {GO}], 1",
    "je .Lbatch",
    "mov eax, 202",
    "lea rdi, [rip + .Lshared + {GO}]",
    "xor esi, esi",
    "xor edx, edx",
    "xor r10d, r10d",
    "syscall",
    "jmp .Lserve",
    ".Lbatch:",
    "lea rbx, [rip + .Lshared + {REGIONS}]",
    "21:",
    "mov rdi, [rbx]",
    "test rdi, rdi",
    "jz .Lnext",
    "mov rsi, [rbx + 8]",
    "mov rcx, [rbx + 16]",
    "rep movsb",
    "add rbx, 24",
    "jmp 21b",
    // One case: its addresses, its memory, its selectors and bases, its extended state.
    ".Lnext:",
    "mov eax, [rip + .Lshared + {INDEX}]",
    "cmp eax, [rip + .Lshared + {COUNT}]",
    "jae .Lfinished",
    "mov r12, rax",
    "imul r12, [rip + .Lshared + {INPUT_STRIDE}]",
    "add r12, [rip + .Lshared + {INPUTS}]",
    "mov [rip + .Lshared + {CURRENT_INPUT}], r12",
    "imul rax, [rip + .Lshared + {OUTPUT_STRIDE}]",
    "add rax, [rip + .Lshared + {OUTPUTS}]",
    "mov [rip + .Lshared + {CURRENT_OUTPUT}], rax",
    "mov r8, [r12 + {PATCH_COUNT}]",
    "lea r9, [r12 + {PATCH}]",
    "lea r10, [r12 + {PATCH_BYTES}]",
    "22:",
    "test r8, r8",
    "jz 23f",
    "mov rdi, [r9]",
    "mov rsi, r10",
    "mov rcx, [r9 + 8]",
    "rep movsb",
    "add r9, 16",
    "add r10, {PATCH_LENGTH}",
    "dec r8",
    "jmp 22b",
    "23:",
    "cmp qword ptr [r12 + {IN_SELECTORS}], 0",
    "je 24f",
    "mov ds, word ptr [r12 + {IN_SELECTORS}]",
    "mov es, word ptr [r12 + {IN_SELECTORS} + 2]",
    "mov fs, word ptr [r12 + {IN_SELECTORS} + 4]",
    "mov gs, word ptr [r12 + {IN_SELECTORS} + 6]",
    "24:",
    "mov rax, [r12 + {IN_FS_BASE}]",
    "wrfsbase rax",
    "mov rax, [r12 + {IN_GS_BASE}]",
    "wrgsbase rax",
    "mov rax, [r12 + {IN_RIP}]",
    "mov [rip + .Lshared + {TARGET}], rax",
    "mov qword ptr [rip + .Lshared + {BUDGET}], {STEPS}",
    "mov eax, [rip + .Lshared + {XSAVE_MASK}]",
    "mov edx, [rip + .Lshared + {XSAVE_MASK} + 4]",
    "xrstor64 [r12 + {IN_XSAVE}]",
    "lea rsp, [rip + .Lshared + {STACK_END}]",
    "test byte ptr [r12 + {MODE}], {STEP}",
    "jnz 25f",
    "push qword ptr [r12 + {RFLAGS}]",
    "popfq",
    "mov rsp, [r12 + 32]",
    load_general!(),
    "jmp qword ptr [rip + .Lshared + {TARGET}]",
    "25:",
    "mov eax, ss",
    "push rax",
    "push qword ptr [r12 + 32]",
    "mov rax, [r12 + {RFLAGS}]",
    "or rax, 0x100",
    "push rax",
    "mov eax, cs",
    "push rax",
    "push qword ptr [rip + .Lshared + {TARGET}]",
    load_general!(),
    "iretq",
    // The instruction has gone on to the next one: store the state where `struct sigcontext` has it.
    ".Lsave:",
    "mov [rip + .Lshared + {SAVED_R13}], r13",
    "mov r13, [rip + .Lshared + {CURRENT_OUTPUT}]",
    "mov [r13], r8",
    "mov [r13 + 8], r9",
    "mov [r13 + 16], r10",
    "mov [r13 + 24], r11",
    "mov [r13 + 32], r12",
    "mov [r13 + 48], r14",
    "mov [r13 + 56], r15",
    "mov [r13 + 64], rdi",
    "mov [r13 + 72], rsi",
    "mov [r13 + 80], rbp",
    "mov [r13 + 88], rbx",
    "mov [r13 + 96], rdx",
    "mov [r13 + 104], rax",
    "mov [r13 + 112], rcx",
    "mov [r13 + 120], rsp",
    "lea rsp, [rip + .Lshared + {STACK_END}]",
    "pushfq",
    "pop rax",
    "mov [r13 + 136], rax",
    "push 2",
    "popfq",
    "mov rax, [rip + .Lshared + {SAVED_R13}]",
    "mov [r13 + 40], rax",
    "mov word ptr [r13 + 144], cs",
    "mov word ptr [r13 + 146], gs",
    "mov word ptr [r13 + 148], fs",
    "mov word ptr [r13 + 150], ss",
    "mov eax, [rip + .Lshared + {XSAVE_MASK}]",
    "mov edx, [rip + .Lshared + {XSAVE_MASK} + 4]",
    "xsave64 [r13 + {OUT_XSAVE}]",
    "mov qword ptr [r13 + {SIGNAL}], 0",
    "jmp .Ltail",
    // A signal: its frame has the state, and the exception in trapno, err and cr2.
    ".Lhandler:",
    "push 2",
    "popfq",
    // The parent's signal counts where the case it is about is still at its instruction.
    "cmp edi, {INTERRUPT}",
    "jne 27f",
    "mov eax, [rip + .Lshared + {INDEX}]",
    "inc eax",
    "cmp eax, [rip + .Lshared + {INTERRUPTED}]",
    "jne .Lresume",
    "mov rax, [rdx + 168]",
    "lea rcx, [rip + .Lrunner]",
    "sub rax, rcx",
    "cmp rax, {PAGE}",
    "jae 26f",
    "jmp .Lresume",
    "27:",
    "cmp dword ptr [rdx + 200], 1",
    "jne 26f",
    "mov r12, [rip + .Lshared + {CURRENT_INPUT}]",
    "test byte ptr [r12 + {MODE}], {REPEAT}",
    "jz 26f",
    "mov rax, [rdx + 168]",
    "cmp rax, [r12 + {IN_RIP}]",
    "jne 26f",
    "dec qword ptr [rip + .Lshared + {BUDGET}]",
    "jz 26f",
    // The kernel takes ID and NT not from the frame, but from those that are set here.
    ".Lresume:",
    "mov eax, [rdx + 176]",
    "and eax, 0x204000",
    "push rax",
    "popfq",
    "mov rsp, rdx",
    "mov eax, 15",
    "syscall",
    "26:",
    "mov r13, [rip + .Lshared + {CURRENT_OUTPUT}]",
    "mov [r13 + {SIGNAL}], rdi",
    "lea rsi, [rdx + 40]",
    "mov rdi, r13",
    "mov ecx, 23",
    "rep movsq",
    "mov rsi, [rdx + 224]",
    "lea rdi, [r13 + {OUT_XSAVE}]",
    "mov rcx, [rip + .Lshared + {XSAVE_LENGTH}]",
    "rep movsb",
    // Both ways: bases and selectors, then the memory that differs from the batch's.
    ".Ltail:",
    "cld",
    "rdfsbase rax",
    "mov [r13 + {OUT_FS_BASE}], rax",
    "rdgsbase rax",
    "mov [r13 + {OUT_GS_BASE}], rax",
    "mov word ptr [r13 + {OUT_SELECTORS}], ds",
    "mov word ptr [r13 + {OUT_SELECTORS} + 2], es",
    "mov word ptr [r13 + {OUT_SELECTORS} + 4], fs",
    "mov word ptr [r13 + {OUT_SELECTORS} + 6], gs",
    "cmp qword ptr [r13 + {OUT_SELECTORS}], 0",
    "je 30f",
    "xor eax, eax",
    "mov ds, eax",
    "mov es, eax",
    "mov fs, eax",
    "mov gs, eax",
    "30:",
    "mov r14, [rip + .Lshared + {XSAVE_LENGTH}]",
    "lea r14, [r13 + r14 + {OUT_XSAVE}]",
    "xor r15d, r15d",
    "lea rbx, [rip + .Lshared + {REGIONS}]",
    "31:",
    "mov rdi, [rbx]",
    "test rdi, rdi",
    "jz 36f",
    "mov rsi, [rbx + 8]",
    "mov r8, [rbx + 16]",
    "add r8, rdi",
    "32:",
    "movdqa xmm0, [rdi]",
    "movdqa xmm1, [rdi + 16]",
    "movdqa xmm2, [rdi + 32]",
    "movdqa xmm3, [rdi + 48]",
    "pcmpeqb xmm0, [rsi]",
    "pcmpeqb xmm1, [rsi + 16]",
    "pcmpeqb xmm2, [rsi + 32]",
    "pcmpeqb xmm3, [rsi + 48]",
    "pand xmm0, xmm1",
    "pand xmm2, xmm3",
    "pand xmm0, xmm2",
    "pmovmskb eax, xmm0",
    "cmp eax, 0xffff",
    "je 35f",
    "xor ecx, ecx",
    "33:",
    "mov rax, [rdi + rcx]",
    "mov rdx, [rsi + rcx]",
    "cmp rax, rdx",
    "je 34f",
    "mov [rdi + rcx], rdx",
    "inc r15",
    "cmp r15, {CHANGED_WORDS}",
    "ja 34f",
    "lea rdx, [rdi + rcx]",
    "mov [r14], rdx",
    "mov [r14 + 8], rax",
    "add r14, 16",
    "34:",
    "add ecx, 8",
    "cmp ecx, 64",
    "jb 33b",
    "35:",
    "add rdi, 64",
    "add rsi, 64",
    "cmp rdi, r8",
    "jb 32b",
    "add rbx, 24",
    "jmp 31b",
    "36:",
    "mov [r13 + {CHANGED_COUNT}], r15",
    "inc dword ptr [rip + .Lshared + {INDEX}]",
    "jmp .Lnext",
    ".Lfinished:",
    "mov dword ptr [rip + .Lshared + {GO}], 0",
    "mov eax, 202",
    "lea rdi, [rip + .Lshared + {GO}]",
    "mov esi, 1",
    "mov edx, 1",
    "syscall",
    "jmp .Lserve",
    ".balign 16",
    ".globl conformance_runner_end",
    ".hidden conformance_runner_end",
    "conformance_runner_end:",
    ".popsection",
    shared = const SHARED - RUNNER,
    shared_length = const super::shared::LENGTH,
    GO = const control::GO,
    INDEX = const control::INDEX,
    INTERRUPT = const super::patience::INTERRUPT as i32,
    INTERRUPTED = const control::INTERRUPTED,
    PAGE = const super::places::PAGE,
    COUNT = const control::COUNT,
    CURRENT_INPUT = const control::CURRENT_INPUT,
    CURRENT_OUTPUT = const control::CURRENT_OUTPUT,
    TARGET = const control::TARGET,
    SAVED_R13 = const control::SAVED_R13,
    INPUTS = const control::INPUTS,
    INPUT_STRIDE = const control::INPUT_STRIDE,
    OUTPUTS = const control::OUTPUTS,
    OUTPUT_STRIDE = const control::OUTPUT_STRIDE,
    XSAVE_MASK = const control::XSAVE_MASK,
    XSAVE_LENGTH = const control::XSAVE_LENGTH,
    TILE_DATA = const emu::xsave::feature::TILE_DATA,
    BUDGET = const control::BUDGET,
    FAILED = const control::FAILED,
    REGIONS = const control::REGIONS,
    STACK_END = const control::STACK_END,
    SETUP = const control::SETUP,
    STEPS = const STEPS,
    IN_RIP = const input::RIP,
    RFLAGS = const input::RFLAGS,
    IN_FS_BASE = const input::FS_BASE,
    IN_GS_BASE = const input::GS_BASE,
    MODE = const input::MODE,
    PATCH_COUNT = const input::PATCH_COUNT,
    IN_SELECTORS = const input::SELECTORS,
    PATCH = const input::PATCH,
    PATCH_BYTES = const input::PATCH_BYTES,
    PATCH_LENGTH = const input::PATCH_LENGTH,
    IN_XSAVE = const input::XSAVE,
    STEP = const input::STEP,
    REPEAT = const input::REPEAT,
    OUT_FS_BASE = const output::FS_BASE,
    OUT_GS_BASE = const output::GS_BASE,
    OUT_SELECTORS = const output::SELECTORS,
    SIGNAL = const output::SIGNAL,
    CHANGED_COUNT = const output::CHANGED_COUNT,
    OUT_XSAVE = const output::XSAVE,
    CHANGED_WORDS = const CHANGED_WORDS,
);

/// How often a repeating instruction is stepped at most.
pub(super) const STEPS: u32 = 1_000_000;

unsafe extern "C" {
    static conformance_runner_start: u8;
    static conformance_runner_end: u8;
}

/// An ELF executable that is the runner and nothing else, loaded at [`RUNNER`].
pub(super) fn elf() -> Vec<u8> {
    const HEADERS: usize = 64 + 56;
    const CODE_OFFSET: u64 = 4096;
    // SAFETY: both symbols delimit one object in this program's read-only data; it is never written.
    let code = unsafe {
        let start = &raw const conformance_runner_start;
        let end = &raw const conformance_runner_end;
        std::slice::from_raw_parts(start, end.addr() - start.addr())
    };
    let mut file = Vec::with_capacity(CODE_OFFSET as usize + code.len());
    file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 62] {
        file.extend_from_slice(&half.to_le_bytes()); // ET_EXEC, EM_X86_64
    }
    file.extend_from_slice(&1u32.to_le_bytes());
    for quad in [RUNNER, 64, 0] {
        file.extend_from_slice(&quad.to_le_bytes()); // e_entry, e_phoff, e_shoff
    }
    file.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend_from_slice(&half.to_le_bytes()); // e_ehsize, e_phentsize, e_phnum, sections: none
    }
    for word in [1u32, 5] {
        file.extend_from_slice(&word.to_le_bytes()); // PT_LOAD, PF_R | PF_X
    }
    let length = code.len() as u64;
    for quad in [CODE_OFFSET, RUNNER, RUNNER, length, length, 4096] {
        file.extend_from_slice(&quad.to_le_bytes()); // p_offset, p_vaddr, p_paddr, sizes, p_align
    }
    debug_assert_eq!(file.len(), HEADERS);
    file.resize(CODE_OFFSET as usize, 0);
    file.extend_from_slice(code);
    file
}
