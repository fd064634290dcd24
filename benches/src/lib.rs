//! What the benchmarks share: the instructions that they measure, and targets.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Starts this program once more, as a target that finds `value` in the environment variable `name`. Returns it, and the
/// address that it prints.
///
/// # Panics
/// There is no such program, or it prints no address.
#[must_use]
pub fn start_again(name: &str, value: &str) -> (Child, u64) {
    let mut child = Command::new(std::env::current_exe().expect("this program has a path"))
        .env(name, value)
        .stdout(Stdio::piped())
        .spawn()
        .expect("this program can be started again");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    stdout.read_line(&mut line).expect("the target writes a line");
    (child, line.trim().parse().expect("the target writes an address"))
}

/// One instruction to measure.
pub struct Case {
    /// The name of its group: the kind, then the instruction.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: &'static [u8],
}

macro_rules! cases {
    ($($name:literal: [$($byte:literal),+];)+) => {
        &[$(Case { name: $name, bytes: &[$($byte),+] }),+]
    };
}

/// The instructions, of each kind the most frequent ones.
pub const INSTRUCTIONS: &[Case] = cases! {
    "register/mov_rax_rbx": [0x48, 0x89, 0xd8];
    "register/add_rax_rbx": [0x48, 0x01, 0xd8];
    "register/cmp_eax_imm8": [0x83, 0xf8, 0x05];
    "register/xor_ecx_ecx": [0x31, 0xc9];
    "register/lea_rax_rbx_rcx4": [0x48, 0x8d, 0x44, 0x8b, 0x10];
    "register/shl_rax_3": [0x48, 0xc1, 0xe0, 0x03];
    "register/cmovne_rax_rbx": [0x48, 0x0f, 0x45, 0xc3];
    "register/imul_rax_rbx": [0x48, 0x0f, 0xaf, 0xc3];
    "load/mov_rax_rbx8": [0x48, 0x8b, 0x43, 0x08];
    "load/movzx_eax_byte_rbx": [0x0f, 0xb6, 0x03];
    "store/mov_rbx8_rax": [0x48, 0x89, 0x43, 0x08];
    "store/push_rbp": [0x55];
    "modify/add_rbx_rax": [0x48, 0x01, 0x03];
    "modify/lock_xadd_rbx_rax": [0xf0, 0x48, 0x0f, 0xc1, 0x03];
    "branch/jne": [0x75, 0x10];
    "branch/call": [0xe8, 0x10, 0x00, 0x00, 0x00];
    "packed_integer/paddd_xmm0_xmm1": [0x66, 0x0f, 0xfe, 0xc1];
    "packed_integer/pshufb_xmm0_xmm1": [0x66, 0x0f, 0x38, 0x00, 0xc1];
    "packed_integer/pcmpeqb_xmm0_xmm1": [0x66, 0x0f, 0x74, 0xc1];
    "packed_integer/vpaddd_xmm0_xmm1_xmm2": [0xc5, 0xf1, 0xfe, 0xc2];
    "packed_integer/vpaddd_ymm0_ymm1_ymm2": [0xc5, 0xf5, 0xfe, 0xc2];
    "packed_integer/vpshufb_ymm0_ymm1_ymm2": [0xc4, 0xe2, 0x75, 0x00, 0xc2];
    "packed_integer/vpaddd_zmm0_k1_zmm1_zmm2": [0x62, 0xf1, 0x75, 0x49, 0xfe, 0xc2];
    "packed_integer/vpaddd_zmm0_k1_zmm1_rbx_1to16": [0x62, 0xf1, 0x75, 0x59, 0xfe, 0x03];
    "mmx/paddd_mm0_mm1": [0x0f, 0xfe, 0xc1];
    "mmx/pshufb_mm0_mm1": [0x0f, 0x38, 0x00, 0xc1];
    "packed_float/addps_xmm0_xmm1": [0x0f, 0x58, 0xc1];
    "packed_float/addsd_xmm0_xmm1": [0xf2, 0x0f, 0x58, 0xc1];
    "packed_float/mulpd_xmm0_xmm1": [0x66, 0x0f, 0x59, 0xc1];
    "packed_float/divss_xmm0_xmm1": [0xf3, 0x0f, 0x5e, 0xc1];
    "packed_float/addss_xmm0_xmm1": [0xf3, 0x0f, 0x58, 0xc1];
    "packed_float/vaddps_xmm0_xmm0_xmm1": [0xc5, 0xf8, 0x58, 0xc1];
    "packed_float/vaddps_ymm0_ymm0_ymm1": [0xc5, 0xfc, 0x58, 0xc1];
    "packed_float/vmulpd_ymm0_ymm0_ymm1": [0xc5, 0xfd, 0x59, 0xc1];
    "packed_float/vfmadd231ps_xmm0_xmm1_xmm1": [0xc4, 0xe2, 0x71, 0xb8, 0xc1];
    "packed_float/vfmadd231ps_ymm0_ymm1_ymm1": [0xc4, 0xe2, 0x75, 0xb8, 0xc1];
    "packed_float/vfmadd231sd_xmm0_xmm1_xmm1": [0xc4, 0xe2, 0xf1, 0xb9, 0xc1];
    "packed_float/ucomisd_xmm0_xmm1": [0x66, 0x0f, 0x2e, 0xc1];
    "packed_float/cvttsd2si_eax_xmm1": [0xf2, 0x0f, 0x2c, 0xc1];
    "packed_float/cvtsi2sd_xmm0_eax": [0xf2, 0x0f, 0x2a, 0xc0];
    "x87/fadd_st0_st0": [0xd8, 0xc0];
};
