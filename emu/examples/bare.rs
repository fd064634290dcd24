//! `emu` where there is nothing else: no standard library, no C library, no system to ask.
//!
//! It decodes instructions of a processor that is named, executes them and exits with status 0 if they did what they
//! should; otherwise its status says which of them did not. With the feature `std` it is an ordinary program; without
//! it, it is one that starts at `_start`:
//!
//! ```sh
//! cargo rustc -p emu --example bare --no-default-features --config 'profile.dev.panic="abort"' -- \
//!     -C relocation-model=static -C link-arg=-nostartfiles -C link-arg=-static
//! target/debug/examples/bare
//! ```
#![cfg_attr(not(feature = "std"), no_std, no_main)]

use emu::registers::{Registers, Vector, gpr};
use emu::{Displaced, Exception, FlatMemory, Outcome, Processor};

const BASE: u64 = 0x1000;

/// What happened, and the registers and the memory, 64 bytes of ones, afterwards.
fn run(
    bytes: &[u8],
    prepare: impl Fn(&mut Registers),
) -> (Option<Result<Outcome, Exception>>, Registers, FlatMemory) {
    let processor = Processor::emerald_rapids().leak();
    let (mut registers, mut memory) = (Registers::default(), FlatMemory::new(BASE, 64));
    memory.bytes_mut().fill(1);
    prepare(&mut registers);
    let displaced = Displaced::decode_on(bytes, 0x40_0000, processor).ok();
    let result = displaced.map(|displaced| displaced.execute(&mut registers, &mut memory));
    (result, registers, memory)
}

/// The number of the first check that fails, or 0.
fn check() -> u8 {
    let next = Some(Ok(Outcome::Next));

    // lock add qword ptr [rbx], rax
    let (result, registers, memory) = run(&[0xf0, 0x48, 0x01, 0x03], |r| {
        (r.gpr[gpr::RAX], r.gpr[gpr::RBX]) = (41, BASE);
    });
    if result != next || memory.bytes()[..9] != [42, 1, 1, 1, 1, 1, 1, 1, 1] || registers.rip != 0x40_0004 {
        return 1;
    }

    // rep movsb, the last byte of which is not there
    let (result, registers, memory) = run(&[0xf3, 0xa4], |r| {
        (r.gpr[gpr::RSI], r.gpr[gpr::RDI], r.gpr[gpr::RCX]) = (BASE + 63, BASE + 62, 2);
    });
    let fault = Exception::PageFault { address: BASE + 64, error_code: 4 };
    if result != Some(Err(fault)) || registers.gpr[gpr::RCX] != 1 || memory.bytes() != [1; 64] {
        return 2;
    }

    // divps xmm0, xmm1
    let quarters = |number: f32| u64::from(number.to_bits()) << 32 | u64::from(number.to_bits());
    let (result, registers, _) = run(&[0x0f, 0x5e, 0xc1], |r| {
        r.extended.vector[0] = Vector([quarters(1.0); 8]);
        r.extended.vector[1] = Vector([quarters(3.0); 8]);
    });
    let third = quarters(1.0 / 3.0);
    if result != next || registers.extended.vector[0].0[..3] != [third, third, quarters(1.0)] {
        return 3;
    }

    // vpaddd zmm0{k1}{z}, zmm1, dword ptr [rbx]{1to16}
    let (result, registers, _) = run(&[0x62, 0xf1, 0x75, 0xd9, 0xfe, 0x03], |r| {
        r.gpr[gpr::RBX] = BASE;
        r.extended.opmask[1] = 0b01;
        r.extended.vector[1] = Vector([7; 8]);
    });
    if result != next || registers.extended.vector[0].0 != [0x0101_0108, 0, 0, 0, 0, 0, 0, 0] {
        return 4;
    }

    // vfmadd213pd zmm0, zmm1, zmm2: 2 * 3 + 0.5
    let (result, registers, _) = run(&[0x62, 0xf2, 0xf5, 0x48, 0xa8, 0xc2], |r| {
        for (register, number) in r.extended.vector.iter_mut().zip([2.0f64, 3.0, 0.5]) {
            *register = Vector([number.to_bits(); 8]);
        }
    });
    if result != next || registers.extended.vector[0].0 != [6.5f64.to_bits(); 8] {
        return 5;
    }
    0
}

#[cfg(feature = "std")]
fn main() -> std::process::ExitCode {
    check().into()
}

/// What the standard library and the C library are for elsewhere.
#[cfg(not(feature = "std"))]
mod bare {
    #![allow(unsafe_code, reason = "nobody else starts the program, allocates or ends it")]

    use core::alloc::{GlobalAlloc, Layout};
    use core::arch::{asm, naked_asm};
    use core::cell::UnsafeCell;
    use core::panic::PanicInfo;
    use core::sync::atomic::{AtomicUsize, Ordering};

    /// Takes what it gives from one array, and nothing back.
    struct Bump {
        bytes: UnsafeCell<[u8; Bump::SIZE]>,
        used: AtomicUsize,
    }

    impl Bump {
        const SIZE: usize = 16 << 20;
    }

    // SAFETY: `used` hands out each byte once.
    unsafe impl Sync for Bump {}

    // SAFETY: what is given is within the array, aligned, and was not given before.
    unsafe impl GlobalAlloc for Bump {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            let start = self.bytes.get().cast::<u8>();
            let place = |used: usize| {
                let first = (start.addr().checked_add(used)?.checked_next_multiple_of(layout.align())?)
                    - start.addr();
                let end = first.checked_add(layout.size())?;
                (end <= Bump::SIZE).then_some((first, end))
            };
            let given =
                self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(place(used)?.1));
            match given.ok().and_then(place) {
                Some((first, _)) => start.wrapping_add(first),
                None => core::ptr::null_mut(),
            }
        }

        // SAFETY: what is not given again may lie where it is.
        unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
    }

    #[global_allocator]
    static ALLOCATOR: Bump = Bump { bytes: UnsafeCell::new([0; Bump::SIZE]), used: AtomicUsize::new(0) };

    fn exit(status: u8) -> ! {
        // SAFETY: exit_group of Linux, which does not return.
        unsafe { asm!("syscall", in("eax") 231, in("edi") u32::from(status), options(noreturn, nostack)) }
    }

    #[panic_handler]
    fn panic(_: &PanicInfo<'_>) -> ! {
        exit(101)
    }

    /// What `alloc` names, which was built to unwind. Nothing here does.
    #[unsafe(no_mangle)]
    extern "C" fn rust_eh_personality() {}

    extern "C" fn start() -> ! {
        exit(super::check())
    }

    /// # Safety
    /// The kernel comes here, with the stack aligned as it is not at a function's first instruction.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    unsafe extern "C" fn _start() -> ! {
        naked_asm!("xor ebp, ebp", "call {start}", start = sym start)
    }

    /// Declares functions of the C library that the compiler calls.
    macro_rules! string_functions {
        ($($name:ident($($argument:ident: $of:ty),+) -> $result:ty = $text:literal;)+) => {$(
            #[doc = stringify!($name)]
            /// # Safety
            /// As the C library's.
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            unsafe extern "C" fn $name($($argument: $of),+) -> $result {
                naked_asm!($text)
            }
        )+};
    }

    string_functions! {
        memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 =
            "mov rax, rdi; mov rcx, rdx; rep movsb; ret";
        memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 =
            "mov r8, rdi; mov eax, esi; mov rcx, rdx; rep stosb; mov rax, r8; ret";
        memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 =
            "mov rax, rdi
             mov rcx, rdx
             mov r8, rdi
             sub r8, rsi
             cmp r8, rdx
             jae 2f
             lea rdi, [rdi + rdx - 1]
             lea rsi, [rsi + rdx - 1]
             std
             2:
             rep movsb
             cld
             ret";
        memcmp(left: *const u8, right: *const u8, count: usize) -> i32 =
            "xor eax, eax
             mov rcx, rdx
             cmp rcx, rcx
             repe cmpsb
             je 2f
             movzx eax, byte ptr [rdi - 1]
             movzx ecx, byte ptr [rsi - 1]
             sub ecx, eax
             mov eax, ecx
             2: ret";
        bcmp(left: *const u8, right: *const u8, count: usize) -> i32 = "jmp memcmp";
    }
}
