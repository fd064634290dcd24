//! The shadow stack of a stopped thread (SDM volume 1, chapter 17), if it has one.
//!
//! Linux hands its pointer out as a set of registers of its own, to be fetched only for what moves it. Where a thread has
//! one, that it is a shadow stack to which the pointer leads is the processor's to see to: below it is a page that is never
//! mapped, so that what a call pushes goes there or nowhere.

use std::sync::atomic::{AtomicBool, Ordering};

use emu::{Displaced, Processor, Touches};
use iced_x86::{CpuidFeature, Mnemonic};
use nix::errno::Errno;

use crate::executor::ptrace::stopped::{RegisterSet, Stopped};

/// Whether the kernel has said that it knows of no shadow stacks.
static UNKNOWN: AtomicBool = AtomicBool::new(false);

/// Whether threads may have one on this machine, as far as is known.
pub(crate) fn may_be() -> bool {
    Processor::host().features.has(CpuidFeature::CET_SS) && !UNKNOWN.load(Ordering::Relaxed)
}

/// Whether `displaced` may move the pointer, or look at it.
pub(crate) fn concerns(displaced: &Displaced) -> bool {
    displaced.touches().contains(Touches::SHADOW_STACK)
}

/// Whether the thread itself has to execute `displaced` if it has a shadow stack: what goes to other places on it, or to
/// another one, where the processor looks at what is mapped there, in one step with what it changes.
pub(crate) fn is_left_to_the_thread(displaced: &Displaced) -> bool {
    use Mnemonic::{Incsspd, Incsspq, Rstorssp, Saveprevssp};
    matches!(displaced.code().mnemonic(), Incsspd | Incsspq | Rstorssp | Saveprevssp)
}

/// The pointer of `thread`, or none where it has no shadow stack.
pub(crate) fn pointer(thread: &Stopped) -> nix::Result<Option<u64>> {
    let mut image = [0; 8];
    let fetched = thread.register_set(RegisterSet::ShadowStack, &mut image);
    if fetched == Err(Errno::EINVAL) {
        UNKNOWN.store(true, Ordering::Relaxed);
    }
    of_answer(fetched, image)
}

/// What the kernel has said of the pointer (`ssp_get`, arch/x86/kernel/fpu/regset.c).
fn of_answer(fetched: nix::Result<usize>, image: [u8; 8]) -> nix::Result<Option<u64>> {
    match fetched {
        Ok(8) => Ok(Some(u64::from_le_bytes(image))),
        // The thread has none, or the kernel knows of none.
        Ok(_) | Err(Errno::ENODEV | Errno::EINVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the pointer of `thread`, which has a shadow stack.
pub(crate) fn set_pointer(thread: &Stopped, pointer: u64) -> nix::Result<()> {
    thread.set_register_set(RegisterSet::ShadowStack, &mut pointer.to_le_bytes())
}

/// Whether the kernel takes it for a pointer (`ssp_set`, in the same place).
pub(crate) fn is_settable(pointer: u64) -> bool {
    const ALIGNMENT: u64 = 8;
    pointer.is_multiple_of(ALIGNMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_without_a_shadow_stack_has_no_pointer() {
        let pointer = 0x7fff_f7c0_0ff8_u64;
        assert_eq!(of_answer(Ok(8), pointer.to_le_bytes()), Ok(Some(pointer)));
        for error in [Errno::ENODEV, Errno::EINVAL] {
            assert_eq!(of_answer(Err(error), [0; 8]), Ok(None));
        }
        for error in [Errno::ESRCH, Errno::EPERM] {
            assert_eq!(of_answer(Err(error), [0; 8]), Err(error));
        }
    }

    #[test]
    fn calls_are_emulated_and_switches_are_the_threads_own() {
        let decoded = |bytes: &[u8]| Displaced::decode_on(bytes, 0x1000, Processor::host()).unwrap();
        for (bytes, own) in [
            (&[0xe8, 0x10, 0, 0, 0][..], false),      // call
            (&[0xff, 0xd0], false),                   // call rax
            (&[0xc3], false),                         // ret
            (&[0xc2, 8, 0], false),                   // ret 8
            (&[0x48, 0xcb], false),                   // retf
            (&[0x48, 0xcf], false),                   // iretq
            (&[0x48, 0xff, 0x18], false),             // call far [rax]
            (&[0xf3, 0x48, 0x0f, 0x1e, 0xc8], false), // rdsspq rax
            (&[0xf3, 0x0f, 0xae, 0xe8], true),        // incsspd eax
            (&[0xf3, 0x48, 0x0f, 0xae, 0xe8], true),  // incsspq rax
            (&[0xf3, 0x0f, 0x01, 0x28], true),        // rstorssp [rax]
            (&[0xf3, 0x0f, 0x01, 0xea], true),        // saveprevssp
        ] {
            let displaced = decoded(bytes);
            assert!(concerns(&displaced), "{displaced:?}");
            assert_eq!(is_left_to_the_thread(&displaced), own, "{displaced:?}");
        }
        // jmp rax, push rax, endbr64
        for bytes in [&[0xff, 0xe0][..], &[0x50], &[0xf3, 0x0f, 0x1e, 0xfa]] {
            assert!(!concerns(&decoded(bytes)), "{bytes:x?}");
        }
    }

    #[test]
    fn only_what_is_aligned_is_a_pointer() {
        assert!(is_settable(0x7fff_f7c0_0ff8) && !is_settable(0x7fff_f7c0_0ffc));
    }
}
