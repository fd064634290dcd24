//! Goroutines: threads of the program rather than of the kernel, on stacks that Go's runtime moves when they grow.

use emu::registers::gpr;

use crate::executor::ThreadState;
use crate::executor::general::GeneralRegisters;

/// A goroutine that runs on its own stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Goroutine {
    /// The address of the runtime's `g`.
    pub(crate) g: u64,
    /// The upper end of its stack, at present.
    pub(crate) top: u64,
}

/// The goroutine whose stack the thread is on; `None` if it is on none.
///
/// Go code has `g` in R14 (`ABIInternal`, from Go 1.17 on), and in the quadword below the FS base, which assembly code
/// uses. Neither need be so elsewhere, and C code that Go has called is on the stack of the thread: so whether the
/// stack pointer is on the stack that `g` names decides.
pub(crate) fn of(
    thread: &mut (impl ThreadState + ?Sized),
    registers: &GeneralRegisters,
) -> Option<Goroutine> {
    let rsp = registers.gpr[gpr::RSP];
    if let Some(found) = on_stack_of(thread, registers.gpr[gpr::R14], rsp) {
        return Some(found);
    }
    let [g] = words(thread, registers.fs_base.wrapping_sub(8))?;
    on_stack_of(thread, g, rsp)
}

fn on_stack_of(thread: &mut (impl ThreadState + ?Sized), g: u64, rsp: u64) -> Option<Goroutine> {
    // The runtime's `g` begins with `stack { lo, hi }`.
    let [low, top] = words(thread, g)?;
    (low != 0 && low < top && (low..=top).contains(&rsp)).then_some(Goroutine { g, top })
}

/// The quadwords at `address`, which is aligned as they are.
fn words<const N: usize>(thread: &mut (impl ThreadState + ?Sized), address: u64) -> Option<[u64; N]> {
    if address == 0 || !address.is_multiple_of(8) {
        return None;
    }
    let mut bytes = [[0; 8]; N];
    thread.read(address, bytes.as_flattened_mut()).ok()?;
    Some(bytes.map(u64::from_le_bytes))
}
