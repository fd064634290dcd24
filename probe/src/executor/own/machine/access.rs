//! Accesses to memory that may fault.

#![allow(unsafe_code, reason = "assembly, called by functions that are safe to call")]

use std::arch::global_asm;
use std::ops::Range;

use emu::Access;

use crate::executor::own::machine::address_of;

global_asm!(
    r#"
    .pushsection stepless_own,"ax",@progbits
    .p2align 4
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

    .popsection
    "#
);

unsafe extern "C" {
    static stepless_own_access: u8;
    static stepless_own_access_end: u8;
    static stepless_own_failed: u8;
    static stepless_own_failed_16: u8;
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
}

/// Where a thread goes on that has faulted at `rip`, if that is such an access.
pub(super) fn landing(rip: u64) -> Option<u64> {
    let accesses = address_of(&raw const stepless_own_access)..address_of(&raw const stepless_own_access_end);
    let wide = rip >= address_of(stepless_own_exchange_16 as *const u8);
    let (wide_failed, failed) = (&raw const stepless_own_failed_16, &raw const stepless_own_failed);
    accesses.contains(&rip).then(|| address_of(if wide { wide_failed } else { failed }))
}

/// An access that has faulted: [`fault`](super::fault) says why.
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
