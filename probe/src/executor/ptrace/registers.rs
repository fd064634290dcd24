//! The registers of a stopped thread.

use emu::registers::segment;
use emu::{Registers, Rflags, Touches};
use libc::user_regs_struct;
use nix::errno::Errno;

use crate::executor::general::GeneralRegisters;
use crate::executor::ptrace::shadow;
use crate::executor::ptrace::stopped::{RegisterSet, Stopped};
use crate::executor::ptrace::xstate::{self, Xstate};

/// What is known of a shadow stack pointer.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shadow {
    is_known: bool,
    /// As the kernel has it; none where the thread has no shadow stack.
    pointer: Option<u64>,
}

/// The general registers of a stopped thread: as the kernel has them, and as `emu` and handlers see them.
#[derive(Debug)]
pub(crate) struct Fetched {
    kernel: Words,
    /// The register file, to be changed at will; [`Fetched::store`] stores the difference.
    pub(crate) file: Box<Registers>,
    /// The extended state, fetched only for instructions that touch it and handlers that ask for it.
    extended: Xstate,
    /// Whether a handler has asked for it at this hit.
    lent: bool,
    /// The shadow stack pointer as the kernel has it, once it has been asked for.
    shadow: Shadow,
    /// Whether all of it is in the register file, to be stored when somebody is to see it.
    pub(crate) has_extended: bool,
    /// Whether general registers are stored when the thread goes on, rather than behind each instruction.
    pub(crate) deferred: bool,
    /// Whether results of an instruction wait for that.
    pub(crate) pending: bool,
}

impl Fetched {
    pub(crate) fn new() -> Fetched {
        Fetched {
            kernel: [0; WORDS],
            file: Box::default(),
            extended: Xstate::new(),
            lent: false,
            shadow: Shadow::default(),
            has_extended: false,
            deferred: false,
            pending: false,
        }
    }

    /// Fetches the registers of `thread`.
    pub(crate) fn fetch(&mut self, thread: &Stopped) -> nix::Result<()> {
        thread.fetch_registers(&mut self.kernel)?;
        self.shadow = Shadow::default();
        self.pending = false;
        self.revert();
        Ok(())
    }

    /// Forgets all changes to the general registers since they were fetched or stored.
    pub(crate) fn revert(&mut self) {
        let [
            r15,
            r14,
            r13,
            r12,
            rbp,
            rbx,
            r11,
            r10,
            r9,
            r8,
            rax,
            rcx,
            rdx,
            rsi,
            rdi,
            _,
            rip,
            cs,
            rflags,
            rsp,
            ss,
            fs_base,
            gs_base,
            ds,
            es,
            fs,
            gs,
        ] = self.kernel;
        let file = &mut *self.file;
        file.gpr = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
        file.rip = rip;
        file.rflags = Rflags::from_bits_retain(rflags);
        file.fs_base = fs_base;
        file.gs_base = gs_base;
        file.ssp = self.shadow.pointer;
        // The kernel keeps selectors, 16 bits wide, in 64.
        file.segment = [es, cs, ss, ds, fs, gs].map(|selector| (selector & 0xffff) as u16);
    }

    /// Stores what has changed since the registers were fetched or stored. Where the kernel refuses that in one
    /// way, it is tried in the other, and what can be stored is.
    pub(crate) fn store(&mut self, thread: &Stopped) -> nix::Result<()> {
        /// Up to so many POKEUSERs are cheaper than a SETREGS.
        const FEW: u32 = 2;
        self.store_shadow_stack(thread)?;
        let new = self.merged();
        let changed = differing(&self.kernel, &new);
        let few = changed.count_ones() <= FEW;
        let poke = || {
            let (mut left, mut result) = (changed, Ok(()));
            while left != 0 {
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                // Each is tried, whatever has become of those before.
                result = result.and(thread.poke_user(index, new[index]));
            }
            result
        };
        let set = || match new.get(..(u32::BITS - changed.leading_zeros()) as usize) {
            // Those behind the last that has changed, bases among them, take the kernel as long as all others. What is not
            // 64-bit code has another set.
            Some(first) if is_64_bit(self.kernel[CS]) => thread.set_first_registers(first),
            _ => thread.set_all_registers(&new),
        };
        let again = |error| error != Errno::ESRCH;
        match if few { poke() } else { set() } {
            Err(error) if again(error) => if few { set() } else { poke() }?,
            result => result?,
        }
        self.kernel = new;
        self.pending = false;
        Ok(())
    }

    /// Stores all registers, whatever the kernel has; for where that is not known.
    pub(crate) fn store_all(&mut self, thread: &Stopped) -> nix::Result<()> {
        self.store_shadow_stack(thread)?;
        let new = self.merged();
        thread.set_all_registers(&new)?;
        self.kernel = new;
        self.pending = false;
        Ok(())
    }

    /// Fetches the shadow stack pointer, unless that has been done since [`Fetched::fetch`]: into the register file, which
    /// has none if the thread has no shadow stack.
    pub(crate) fn fetch_shadow_stack(&mut self, thread: &Stopped) -> nix::Result<()> {
        if !self.shadow.is_known && shadow::may_be() {
            let pointer = shadow::pointer(thread)?;
            self.resume_shadow_stack(Shadow { is_known: true, pointer });
        }
        Ok(())
    }

    /// Whether the shadow stack pointer is known, or there is none on this machine.
    pub(crate) fn knows_shadow_stack(&self) -> bool {
        self.shadow.is_known || !shadow::may_be()
    }

    /// What is known of the shadow stack pointer, for [`Fetched::resume_shadow_stack`] after others have used the thread.
    pub(crate) fn shadow_stack(&self) -> Shadow {
        self.shadow
    }

    /// Goes on with what was known.
    pub(crate) fn resume_shadow_stack(&mut self, shadow: Shadow) {
        self.shadow = shadow;
        self.file.ssp = shadow.pointer;
    }

    /// Stores the shadow stack pointer if it has changed.
    pub(crate) fn store_shadow_stack(&mut self, thread: &Stopped) -> nix::Result<()> {
        if let Some(pointer) = self.file.ssp
            && self.file.ssp != self.shadow.pointer
        {
            shadow::set_pointer(thread, pointer)?;
            self.shadow.pointer = Some(pointer);
        }
        Ok(())
    }

    /// Stores `new`, by which handlers have replaced what is in the register file. Where the kernel refuses it, that is what
    /// the thread has again.
    pub(crate) fn replace(&mut self, thread: &Stopped, new: &GeneralRegisters) -> nix::Result<()> {
        let old = GeneralRegisters::of(&self.file);
        new.put(&mut self.file);
        let result = if self.keeps_fixed_flags() { self.store(thread) } else { Err(Errno::EINVAL) };
        if result.is_err() {
            // It may have taken some: PTRACE_SETREGS stops at the first that it refuses.
            self.fetch(thread)?;
            old.put(&mut self.file);
            self.store(thread)?;
        }
        result
    }

    /// Whether the flags differ from the thread's only where the kernel lets a tracer change them: it ignores
    /// the others (`FLAG_MASK`, arch/x86/kernel/ptrace.c).
    pub(crate) fn keeps_fixed_flags(&self) -> bool {
        const SETTABLE: Rflags = Rflags::STATUS
            .union(Rflags::TF)
            .union(Rflags::DF)
            .union(Rflags::NT)
            .union(Rflags::RF)
            .union(Rflags::AC);
        (self.kernel[EFLAGS] ^ self.file.rflags.bits()) & !SETTABLE.bits() == 0
    }

    /// Fetches what of the extended state is in `touches`.
    pub(crate) fn fetch_extended(&mut self, thread: &Stopped, touches: Touches) -> nix::Result<()> {
        self.extended.fetch(thread, touches, &mut self.file)
    }

    /// As which set the extended state was fetched last, or was to be.
    pub(crate) fn extended_set(&self) -> RegisterSet {
        self.extended.set()
    }

    /// Stores the extended state if it has changed since it was fetched.
    pub(crate) fn store_extended(&mut self, thread: &Stopped) -> nix::Result<()> {
        self.extended.store(thread, &self.file)
    }

    /// Fetches the extended state of `thread` for handlers, unless that has been done since
    /// [`Fetched::take_back`].
    pub(crate) fn lend_extended(&mut self, thread: &Stopped) -> nix::Result<&mut Registers> {
        if !self.lent {
            self.extended.fetch(thread, xstate::all(), &mut self.file)?;
            self.lent = true;
        }
        Ok(&mut self.file)
    }

    /// Stores the extended state if handlers have changed it.
    pub(crate) fn take_back(&mut self, thread: &Stopped) -> nix::Result<()> {
        if std::mem::take(&mut self.lent) { self.extended.store(thread, &self.file) } else { Ok(()) }
    }

    /// Whether the thread is in 64-bit code. What else there is, `emu` does not know: 32-bit code, and the
    /// segments of modify_ldt(2), none of which is of 64-bit code.
    pub(crate) fn is_64_bit(&self) -> bool {
        is_64_bit(self.file.segment[segment::CS].into())
    }

    /// Sets a thread back that a signal has kept from a system call, as the kernel would where no handler is to run
    /// (`arch_do_signal_or_restart`). Says whether it has.
    pub(crate) fn restart(&mut self, thread: &Stopped) -> nix::Result<bool> {
        /// restart_syscall(2).
        const RESTART: u64 = libc::SYS_restart_syscall as u64;
        const LENGTH: u64 = 2;
        /// That there is none (`struct pt_regs`).
        const NO_CALL: u64 = u64::MAX;
        let number = match restarted(self.kernel[ORIG_RAX], self.kernel[RAX]) {
            None => return Ok(false),
            Some(Restarted::Same) => self.kernel[ORIG_RAX],
            Some(Restarted::Rest) => RESTART,
        };
        thread.poke_user(ORIG_RAX, NO_CALL)?;
        self.kernel[ORIG_RAX] = NO_CALL;
        self.file.gpr[emu::registers::gpr::RAX] = number;
        self.file.rip = self.file.rip.wrapping_sub(LENGTH);
        self.store(thread).map(|()| true)
    }

    /// Whether a signal has kept the thread from a system call which the kernel is about to restart.
    pub(crate) fn is_interrupted(&self) -> bool {
        restarted(self.kernel[ORIG_RAX], self.kernel[RAX]).is_some()
    }

    /// What the kernel should have.
    fn merged(&self) -> Words {
        let file = &*self.file;
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = file.gpr;
        let [es, cs, ss, ds, fs, gs] = file.segment.map(u64::from);
        let (rip, rflags, fs_base, gs_base) = (file.rip, file.rflags.bits(), file.fs_base, file.gs_base);
        let call = self.kernel[ORIG_RAX];
        [
            r15, r14, r13, r12, rbp, rbx, r11, r10, r9, r8, rax, rcx, rdx, rsi, rdi, call, rip, cs, rflags,
            rsp, ss, fs_base, gs_base, ds, es, fs, gs,
        ]
    }
}

/// How many registers `struct user_regs_struct` has.
pub(crate) const WORDS: usize = size_of::<user_regs_struct>() / size_of::<u64>();

/// The registers in the order of `struct user_regs_struct`, which is also that of `struct user`.
pub(crate) type Words = [u64; WORDS];

/// Whether code with that selector of CS is 64-bit code.
pub(super) fn is_64_bit(cs: u64) -> bool {
    // `__USER_CS` (asm/segment.h), and Xen's own in a paravirtual guest.
    const USER_CS: u64 = 0x33;
    const XEN_USER_CS: u64 = 0xe033;
    matches!(cs & 0xffff, USER_CS | XEN_USER_CS)
}

/// Where two sets of registers differ: bit n for the one with index n.
fn differing(old: &Words, new: &Words) -> u32 {
    let mut differing = 0;
    for index in 0..WORDS {
        differing |= u32::from(old[index] != new[index]) << index;
    }
    differing
}

/// How a system call is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restarted {
    /// By the same call.
    Same,
    /// By restart_syscall(2).
    Rest,
}

/// Whether a thread, in the stop that has interrupted system call `number` with `result` so far, makes it again, and how.
pub(crate) fn restarted(number: u64, result: u64) -> Option<Restarted> {
    const RESTARTSYS: i64 = -512;
    const RESTARTNOINTR: i64 = -513;
    const RESTART_RESTARTBLOCK: i64 = -516;
    if number.cast_signed() < 0 {
        return None;
    }
    match result.cast_signed() {
        RESTARTSYS | RESTARTNOINTR | RESTARTNOHAND => Some(Restarted::Same),
        RESTART_RESTARTBLOCK => Some(Restarted::Rest),
        _ => None,
    }
}

/// What a system call returns, to be seen in the stop that has interrupted it, which is made again unless a handler is called.
const RESTARTNOHAND: i64 = -514;

/// Whether the stop in which a thread with these registers is has a system call of it fail, as a signal would.
pub(crate) fn was_cut_short(registers: &user_regs_struct) -> bool {
    let failed = registers.rax as i64 == -i64::from(libc::EINTR);
    // That has closed the file all the same.
    let may_be_made_again = registers.orig_rax as i64 >= 0 && registers.orig_rax as i64 != libc::SYS_close;
    failed && may_be_made_again
}

/// Has a thread with these registers make such a system call again, unless a signal has come meanwhile for which it has a
/// handler.
pub(crate) fn make_again(thread: &Stopped, registers: user_regs_struct) -> nix::Result<()> {
    let rax = RESTARTNOHAND as u64;
    thread.poke_user(RAX, rax).or_else(|_| thread.set_registers(user_regs_struct { rax, ..registers }))
}

/// Indices in `struct user`.
const RAX: usize = 10;
const RCX: usize = 11;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const CS: usize = 17;
const EFLAGS: usize = 18;

/// Sets the RIP of a stopped thread, and its RCX where that is given.
pub(crate) fn set_rip(thread: &Stopped, rip: u64, rcx: Option<u64>) -> nix::Result<()> {
    let poked = thread.poke_user(RIP, rip);
    poked.and_then(|()| rcx.map_or(Ok(()), |rcx| thread.poke_user(RCX, rcx))).or_else(|_| {
        let registers = thread.registers()?;
        let rcx = rcx.unwrap_or(registers.rcx);
        thread.set_registers(user_regs_struct { rip, rcx, ..registers })
    })
}

/// The RIP of a stopped thread.
pub(crate) fn rip(thread: &Stopped) -> nix::Result<u64> {
    thread.peek_user(RIP).or_else(|_| thread.registers().map(|registers| registers.rip))
}
