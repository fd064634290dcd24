//! What happens after an instruction that completed.

/// What the executor does next. RIP is already that of the next instruction.
///
/// A new one is a change of this crate's interface: who executes must do each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Go on at RIP.
    Next,
    /// Go on at RIP, but raise no debug exception for TF until the next instruction has completed, too:
    /// MOV to SS inhibits it, and the kernel's answer to SGDT and its like, under UMIP, skips it.
    NextInhibited,
    /// A `rep`-prefixed instruction stopped between two iterations, as an interrupt would have stopped it, or, with TF,
    /// one that goes on where it was (gathers, loads and stores of tiles) before the part that faults: RIP is still its
    /// own; execute it again.
    Again,
    /// Make the system call that RAX names; SYSCALL has put RIP and RFLAGS into RCX and R11.
    Syscall,
    /// Make the 32-bit system call of SYSENTER.
    Sysenter,
    /// Raise software interrupt `n`, as INT n does: 3, 4 or 0x80, the ones that Linux lets user mode raise.
    Interrupt(u8),
    /// Only the thread itself can execute this one: it depends on descriptors or permissions that belong
    /// to the thread, or it leaves 64-bit mode. Nothing has changed, and RIP is that of the instruction.
    Native,
}
