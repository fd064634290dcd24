//! What happens after an instruction that completed.

/// What the executor does next. RIP is already that of the next instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Go on at RIP.
    Next,
    /// A `rep`-prefixed instruction stopped between two iterations, as an interrupt would have stopped it:
    /// RIP is still its own; execute it again.
    Again,
    /// Make the system call that RAX names; SYSCALL has put RIP and RFLAGS into RCX and R11.
    Syscall,
    /// Make the 32-bit system call of SYSENTER.
    Sysenter,
    /// Raise software interrupt `n`, as INT n does.
    Interrupt(u8),
}
