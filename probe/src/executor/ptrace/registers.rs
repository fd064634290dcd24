//! Performing a displaced instruction on behalf of a thread.

use emu::registers::segment;
use emu::{Displaced, Exception, Outcome, Processor, Registers, Rflags, Touches};
use iced_x86::{Code, Mnemonic};
use libc::user_regs_struct;
use nix::errno::Errno;
use nix::sys::ptrace;

use crate::engine::hit::GeneralRegisters;
use crate::executor::ptrace::memory::Accessor;
use crate::executor::ptrace::sys;
use crate::executor::ptrace::xstate::{self, Xstate};

/// Performs displaced instructions on the state of one thread.
pub(crate) trait Executor {
    /// Fetches what `displaced` touches, performs it, and stores what it has changed.
    ///
    /// # Errors
    /// The exception that it raised; registers say then what the processor would have left.
    fn execute(&mut self, displaced: &Displaced) -> Result<Outcome, Stuck>;
}

/// Why a displaced instruction is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// It has raised an exception.
    Raised(Exception),
    /// The kernel refuses what it needs of the thread's state: the registers say how far it is.
    Refused,
    /// The thread's registers are not what they should be, so it must not go on.
    Lost,
}

/// What the ptrace executor cannot provide on `processor` for `displaced`, if anything.
pub(crate) fn lacks(displaced: &Displaced, processor: &Processor) -> Option<&'static str> {
    let touches = displaced.touches();
    if let Some(needs) = xstate::lacks(touches, processor.xcr0) {
        return Some(needs);
    }
    if touches.contains(Touches::SHADOW_STACK) && is_shadow_stack_instruction(displaced.code()) {
        return Some("the shadow stack, which is not fetched yet");
    }
    None
}

/// Whether the instruction has no other purpose; CALL and RET only touch it where a thread has one.
fn is_shadow_stack_instruction(code: Code) -> bool {
    use Mnemonic::{Incsspd, Incsspq, Rstorssp, Saveprevssp, Wrssd, Wrssq};
    matches!(code.mnemonic(), Incsspd | Incsspq | Rstorssp | Saveprevssp | Wrssd | Wrssq)
}

/// The general registers of a stopped thread: as the kernel has them, and as `emu` and handlers see them.
#[derive(Debug)]
pub(crate) struct Fetched {
    kernel: user_regs_struct,
    /// The register file, to be changed at will; [`Fetched::store`] stores the difference.
    pub(crate) file: Box<Registers>,
    /// The extended state, fetched only for instructions that touch it and handlers that ask for it.
    extended: Xstate,
    /// Whether a handler has asked for it at this hit.
    lent: bool,
}

impl Fetched {
    pub(crate) fn new() -> Fetched {
        Fetched { kernel: sys::no_registers(), file: Box::default(), extended: Xstate::new(), lent: false }
    }

    /// Fetches the registers of `tid`.
    pub(crate) fn fetch(&mut self, tid: i32) -> nix::Result<()> {
        self.kernel = ptrace::getregs(sys::pid(tid))?;
        self.revert();
        Ok(())
    }

    /// Forgets all changes to the general registers since they were fetched or stored.
    fn revert(&mut self) {
        let kernel = &self.kernel;
        let file = &mut *self.file;
        file.gpr = [
            kernel.rax, kernel.rcx, kernel.rdx, kernel.rbx, kernel.rsp, kernel.rbp, kernel.rsi, kernel.rdi,
            kernel.r8, kernel.r9, kernel.r10, kernel.r11, kernel.r12, kernel.r13, kernel.r14, kernel.r15,
        ];
        file.rip = kernel.rip;
        file.rflags = Rflags::from_bits_retain(kernel.eflags);
        file.fs_base = kernel.fs_base;
        file.gs_base = kernel.gs_base;
        // The kernel keeps selectors, 16 bits wide, in 64.
        file.segment = [kernel.es, kernel.cs, kernel.ss, kernel.ds, kernel.fs, kernel.gs]
            .map(|selector| (selector & 0xffff) as u16);
    }

    /// Stores what has changed since the registers were fetched or stored. Where the kernel refuses that in one
    /// way, it is tried in the other, and what can be stored is.
    pub(crate) fn store(&mut self, tid: i32) -> nix::Result<()> {
        let new = self.merged();
        let changes = words(&self.kernel).into_iter().zip(words(&new)).enumerate();
        let changed = changes.filter(|(_, (old, new))| old != new).map(|(index, (_, new))| (index, new));
        // Up to two POKEUSERs are cheaper than a SETREGS.
        let few = changed.clone().nth(2).is_none();
        let poke = || {
            let mut result = Ok(());
            for (index, new) in changed.clone() {
                // Each is tried, whatever has become of those before.
                result = result.and(sys::poke_user(tid, index, new));
            }
            result
        };
        let set = || ptrace::setregs(sys::pid(tid), new);
        let again = |error| error != Errno::ESRCH;
        match if few { poke() } else { set() } {
            Err(error) if again(error) => if few { set() } else { poke() }?,
            result => result?,
        }
        self.kernel = new;
        Ok(())
    }

    /// Stores all registers, whatever the kernel has; for where that is not known.
    pub(crate) fn store_all(&mut self, tid: i32) -> nix::Result<()> {
        let new = self.merged();
        ptrace::setregs(sys::pid(tid), new)?;
        self.kernel = new;
        Ok(())
    }

    /// Stores `new`, with which handlers have replaced `old`. Where the kernel refuses it, `old` is what the
    /// thread has again.
    pub(crate) fn replace(
        &mut self,
        tid: i32,
        old: &GeneralRegisters,
        new: &GeneralRegisters,
    ) -> nix::Result<()> {
        new.put(&mut self.file);
        let result = if self.keeps_fixed_flags() { self.store(tid) } else { Err(Errno::EINVAL) };
        if result.is_err() {
            // It may have taken some: PTRACE_SETREGS stops at the first that it refuses.
            self.fetch(tid)?;
            old.put(&mut self.file);
            self.store(tid)?;
        }
        result
    }

    /// Whether the flags differ from the thread's only where the kernel lets a tracer change them: it ignores
    /// the others (`FLAG_MASK`, arch/x86/kernel/ptrace.c).
    fn keeps_fixed_flags(&self) -> bool {
        const SETTABLE: Rflags = Rflags::STATUS
            .union(Rflags::TF)
            .union(Rflags::DF)
            .union(Rflags::NT)
            .union(Rflags::RF)
            .union(Rflags::AC);
        (self.kernel.eflags ^ self.file.rflags.bits()) & !SETTABLE.bits() == 0
    }

    /// Fetches the extended state of `tid` for handlers, unless that has been done since
    /// [`Fetched::take_back`].
    pub(crate) fn lend_extended(&mut self, tid: i32) -> nix::Result<&mut Registers> {
        if !self.lent {
            self.extended.fetch(tid, xstate::all(), &mut self.file)?;
            self.lent = true;
        }
        Ok(&mut self.file)
    }

    /// Stores the extended state if handlers have changed it.
    pub(crate) fn take_back(&mut self, tid: i32) -> nix::Result<()> {
        if std::mem::take(&mut self.lent) { self.extended.store(tid, &self.file) } else { Ok(()) }
    }

    /// Whether the thread is in 64-bit code. What else there is, `emu` does not know: 32-bit code, and the
    /// segments of modify_ldt(2), none of which is of 64-bit code.
    pub(crate) fn is_64_bit(&self) -> bool {
        // `__USER_CS` (asm/segment.h), and Xen's own in a paravirtual guest.
        const USER_CS: u16 = 0x33;
        const XEN_USER_CS: u16 = 0xe033;
        matches!(self.file.segment[segment::CS], USER_CS | XEN_USER_CS)
    }

    /// What the kernel should have.
    fn merged(&self) -> user_regs_struct {
        let file = &*self.file;
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = file.gpr;
        let [es, cs, ss, ds, fs, gs] = file.segment.map(u64::from);
        user_regs_struct {
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
            orig_rax: self.kernel.orig_rax,
            rip: file.rip,
            cs,
            eflags: file.rflags.bits(),
            rsp,
            ss,
            fs_base: file.fs_base,
            gs_base: file.gs_base,
            ds,
            es,
            fs,
            gs,
        }
    }
}

/// The registers in the order of `struct user_regs_struct`, which is also that of `struct user`.
fn words(registers: &user_regs_struct) -> [u64; 27] {
    let r = registers;
    [
        r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi,
        r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs, r.gs,
    ]
}

/// Indices in `struct user`.
const RCX: usize = 11;
const RIP: usize = 16;

/// Sets the RIP of a stopped thread, and its RCX where that is given.
pub(crate) fn set_rip(tid: i32, rip: u64, rcx: Option<u64>) -> nix::Result<()> {
    let poked = sys::poke_user(tid, RIP, rip);
    poked.and_then(|()| rcx.map_or(Ok(()), |rcx| sys::poke_user(tid, RCX, rcx))).or_else(|_| {
        let registers = ptrace::getregs(sys::pid(tid))?;
        let rcx = rcx.unwrap_or(registers.rcx);
        ptrace::setregs(sys::pid(tid), user_regs_struct { rip, rcx, ..registers })
    })
}

/// The RIP of a stopped thread.
pub(crate) fn rip(tid: i32) -> nix::Result<u64> {
    sys::peek_user(tid, RIP).or_else(|_| ptrace::getregs(sys::pid(tid)).map(|registers| registers.rip))
}

/// The executor for a thread in a ptrace-stop.
pub(crate) struct Ptrace<'a> {
    pub(crate) registers: &'a mut Fetched,
    pub(crate) memory: Accessor<'a>,
}

impl Executor for Ptrace<'_> {
    fn execute(&mut self, displaced: &Displaced) -> Result<Outcome, Stuck> {
        const GETREGS: &str = "PTRACE_GETREGS";
        let tid = self.memory.tid;
        let touches = displaced.touches();
        let is_extended = touches.intersects(Touches::EXTENDED);
        let Fetched { file, extended, .. } = &mut *self.registers;
        let threads = &mut self.memory.threads;
        if is_extended && threads.note(tid, "PTRACE_GETREGSET", extended.fetch(tid, touches, file)).is_none()
        {
            return Err(Stuck::Refused);
        }
        threads.memory_refused = false;
        let result = displaced.execute(file, &mut self.memory);
        if result.is_ok() && !self.registers.keeps_fixed_flags() {
            // POPF or IRET, which change nothing but registers.
            self.registers.revert();
            return Ok(Outcome::Native);
        }
        let Fetched { file, extended, .. } = &mut *self.registers;
        let threads = &mut self.memory.threads;
        if !threads.is_gone(tid) {
            // The thread has the state from before then. No instruction that changes extended registers depends
            // on memory that it has changed, so it can be executed again.
            if is_extended && threads.refused(tid, "PTRACE_SETREGSET", extended.store(tid, file)) {
                let fetched = self.registers.fetch(tid);
                return Err(if threads.refused(tid, GETREGS, fetched) {
                    Stuck::Lost
                } else {
                    Stuck::Refused
                });
            }
            let rip = file.rip;
            let stored = self.registers.store(tid);
            if threads.refused(tid, "PTRACE_SETREGS", stored) && self::rip(tid) != Ok(rip) {
                return Err(Stuck::Lost);
            }
        }
        result.map_err(|exception| match exception {
            Exception::PageFault { .. } if self.memory.threads.memory_refused => Stuck::Refused,
            exception => Stuck::Raised(exception),
        })
    }
}
