//! The executor for the threads of this very process, which have reached a breakpoint or a jump of ours and serve
//! themselves: on the frame of a signal, or on registers that a stub has saved.
//!
//! Everything here is async-signal-safe: it takes no locks and no memory.

pub(crate) mod files;
pub(crate) mod forks;
pub(crate) mod machine;
pub(crate) mod needed;
pub(crate) mod patch;
pub(crate) mod signals;
pub(crate) mod sites;
pub(crate) mod users;

use std::fmt;
use std::io;
use std::ops::Range;

use emu::registers::{Extended, Tiles, Vector, X87};
use emu::xsave::{LEGACY_LENGTH, Layout, feature};
use emu::{
    Access, Displaced, Exception, MemoryFault, Mxcsr, Outcome, Registers, Rflags, Touches, UserMemory,
};
use iced_x86::Code;
use nix::errno::Errno;

use crate::executor::general::GeneralRegisters;
use crate::executor::signal::{self, Signal};
use crate::executor::{Attempt, Executor, Natively, Stuck, ThreadState};
use crate::symbols::code;
use crate::target::system;
use machine::{Failed, Fault};
use signals::Raised;
use sites::Site;

/// The registers in the order of `mcontext_t`, RFLAGS being the last.
pub(crate) const GENERAL: usize = libc::REG_EFL as usize + 1;

/// The flags that a thread gets back when it returns from a signal (`FIX_EFLAGS`, arch/x86/kernel/signal_64.c).
const RETURNED: Rflags =
    Rflags::STATUS.union(Rflags::TF).union(Rflags::DF).union(Rflags::RF).union(Rflags::AC);

/// The extended state that is taken out of an image and put back.
pub(crate) fn layout() -> Option<Layout> {
    Some(Layout::of_this_processor()?.without_tiles())
}

/// A register file for [`Own::new`].
pub(crate) fn empty() -> Registers {
    let extended = Extended {
        x87: X87::default(),
        mxcsr: Mxcsr::MASKS,
        vector: [Vector([0; 8]); 32],
        opmask: [0; 8],
        tiles: Tiles::default(),
    };
    Registers {
        gpr: [0; 16],
        rip: 0,
        rflags: Rflags::empty(),
        fs_base: 0,
        gs_base: 0,
        segment: [0; 6],
        pkru: 0,
        ssp: None,
        extended,
    }
}

/// The calling thread, at a site, with what it is to go on with.
pub(crate) struct Own<'a> {
    site: &'static Site,
    /// The instruction that it is before: the site's, or one behind it which a jump has replaced as well.
    displaced: &'static Displaced,
    general: &'a mut [i64; GENERAL],
    /// Its extended state as XSAVE has laid it out.
    image: &'a mut [u8],
    /// By far the largest part, so that it stays where it is.
    file: &'a mut Registers,
    /// Whether a handler has asked for the extended state.
    lent: bool,
    /// Whether a stub has saved the registers: then all but the simplest is left to a trap.
    in_stub: bool,
    /// Why the last access has failed.
    fault: Option<Fault>,
    raised: Option<Raised>,
    /// Where FS and GS have begun.
    bases: (u64, u64),
    /// What FS is to begin at, if that is another.
    fs_base: Option<u64>,
    /// Whether the extended state has been stored.
    changed: bool,
}

impl fmt::Debug for Own<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own")
            .field("site", &self.site)
            .field("in_stub", &self.in_stub)
            .finish_non_exhaustive()
    }
}

impl<'a> Own<'a> {
    /// A thread that is before the instruction of `site`.
    pub(crate) fn new(
        site: &'static Site,
        general: &'a mut [i64; GENERAL],
        image: &'a mut [u8],
        file: &'a mut Registers,
        in_stub: bool,
    ) -> Own<'a> {
        let bases = (machine::segment_base(false), machine::segment_base(true));
        fetch(general, file);
        file.rip = site.address();
        (file.fs_base, file.gs_base) = bases;
        file.segment = machine::selectors();
        (file.pkru, file.ssp) = (0, None);
        Own {
            site,
            displaced: site.displaced(),
            general,
            image,
            file,
            lent: false,
            in_stub,
            fault: None,
            raised: None,
            bases,
            fs_base: None,
            changed: false,
        }
    }

    /// Says that the thread is before `displaced`, one of those behind the site's. What it has done so far is done.
    pub(crate) fn turn_to(&mut self, displaced: &'static Displaced) {
        self.file.rip = displaced.ip();
        self.store();
        self.displaced = displaced;
    }

    /// Whether the thread is before one of those behind the site's.
    fn is_behind(&self) -> bool {
        self.displaced.ip() != self.site.address()
    }

    /// Takes the general registers from where they have been saved.
    fn revert(&mut self) {
        fetch(self.general, self.file);
    }

    /// Puts the general registers back, with which the thread goes on.
    fn store(&mut self) {
        let Registers { gpr, rip, rflags, .. } = &*self.file;
        let (rip, rflags) = (*rip, rflags.bits());
        let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = *gpr;
        let general =
            [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, rflags];
        for (place, value) in self.general.iter_mut().zip(general) {
            *place = value.cast_signed();
        }
    }

    /// Whether the flags differ from the thread's only where it gets them back.
    fn keeps_fixed_flags(&self) -> bool {
        let [.., rflags] = *self.general;
        (rflags.cast_unsigned() ^ self.file.rflags.bits()) & !RETURNED.bits() == 0
    }

    fn fetch_extended(&mut self) -> io::Result<()> {
        let layout = layout().ok_or(Errno::ENODEV)?;
        let Registers { extended, pkru, .. } = &mut *self.file;
        Ok(layout.read(self.image, extended, pkru).map_err(|_| Errno::ENODEV)?)
    }

    fn store_extended(&mut self) -> io::Result<()> {
        let layout = layout().ok_or(Errno::ENODEV)?;
        let Registers { extended, pkru, .. } = &*self.file;
        layout.write(extended, *pkru, self.image).map_err(|_| Errno::ENODEV)?;
        if extended.x87 == X87::default()
            && let Some(in_use) = self.image.get_mut(LEGACY_LENGTH)
        {
            // It would be in use from then on, and take its time at each hit by a jump.
            *in_use &= !(feature::X87 as u8);
        }
        self.changed = true;
        Ok(())
    }

    /// Whether a handler has been given the extended state.
    pub(crate) fn is_lent(&self) -> bool {
        self.lent
    }

    /// Whether the image has been changed.
    pub(crate) fn has_changed_image(&self) -> bool {
        self.changed
    }

    /// The exception that is to be raised in the thread's context, once it has gone there.
    pub(crate) fn raised(&self) -> Option<Raised> {
        self.raised
    }

    /// Puts everything back. What is returned is for [`signals::leave_with_fs_base`].
    pub(crate) fn finish(&mut self) -> Option<u64> {
        self.store();
        if self.file.gs_base != self.bases.1 {
            machine::set_gs_base(self.file.gs_base);
        }
        self.fs_base
    }

    /// Notes the bases that the instruction has set.
    fn take_bases(&mut self) {
        self.fs_base = (self.file.fs_base != self.bases.0).then_some(self.file.fs_base);
    }

    fn note_raised(&mut self, exception: Exception, signal: Signal) {
        self.raised = Some(Raised {
            signal,
            vector: exception.vector(),
            error_code: exception.error_code(),
            cr2: exception.address(),
        });
    }

    /// A stub that has the thread execute the instruction itself.
    fn native_stub(&mut self, outcome: Option<Outcome>) -> Option<u64> {
        if self.is_behind() {
            return None;
        }
        let known = self.site.native();
        if known != 0 {
            return Some(known);
        }
        let displaced = self.site.displaced();
        let mut bytes = [0; 15];
        let bytes = bytes.get_mut(..displaced.length())?;
        machine::load(self.site.address(), bytes).ok()?;
        sites::unmask(self.site.address(), bytes);
        let next = self.site.address().wrapping_add(displaced.length() as u64);
        let stub = match outcome {
            Some(Outcome::Syscall) => patch::system_call(self.site.address(), next),
            _ => patch::native(self.site.address(), bytes, next),
        };
        let stub = stub.ok()?;
        self.site.set_native(stub);
        Some(stub)
    }

    /// Has the thread go on at a stub.
    fn go_by(&mut self, stub: Option<u64>) -> Attempt {
        match stub {
            Some(stub) => {
                self.file.rip = stub;
                Attempt::Done(0)
            }
            None => Attempt::Unavailable,
        }
    }

    /// Has what cannot be done here be done by a trap.
    fn by_trap(&mut self) -> Attempt {
        self.revert();
        // Where one behind the site's begins there is a breakpoint.
        self.file.rip =
            if self.is_behind() { self.displaced.ip() } else { self.site.alias().wrapping_add(1) };
        Attempt::Partly(0)
    }
}

/// Takes general registers and RFLAGS from where they have been saved, in the order of `mcontext_t`.
#[inline]
fn fetch(general: &[i64; GENERAL], file: &mut Registers) {
    let [r8, r9, r10, r11, r12, r13, r14, r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, _rip, rflags] =
        *general;
    let gpr = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
    for (place, value) in file.gpr.iter_mut().zip(gpr) {
        *place = value.cast_unsigned();
    }
    file.rflags = Rflags::from_bits_retain(rflags.cast_unsigned());
}

/// Whether an instruction writes further below the stack pointer than the red zone reaches, where its thread's registers
/// are while others perform it.
pub(crate) fn reaches_far_down(displaced: &Displaced) -> bool {
    /// So many words are the red zone; ENTER pushes RBP, and as many as its second operand says.
    const WORDS: u8 = 16;
    let instruction = displaced.instruction();
    matches!(instruction.code(), Code::Enterq_imm16_imm8 | Code::Enterw_imm16_imm8)
        && instruction.immediate8_2nd() % 32 >= WORDS
}

/// Whether an instruction does the same wherever it stands.
pub(crate) fn can_be_moved(displaced: &Displaced) -> bool {
    use iced_x86::FlowControl;
    let instruction = displaced.instruction();
    let stays = matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Exception);
    stays && !instruction.is_ip_rel_memory_operand() && code::is_instruction(displaced)
}

impl ThreadState for Own<'_> {
    fn tid(&self) -> i32 {
        system::this_thread()
    }

    fn serial(&self) -> u64 {
        // As good as it gets without a list of all threads.
        u64::from(system::this_thread().cast_unsigned())
    }

    fn processor(&self) -> Option<u32> {
        system::this_processor()
    }

    fn own_stack(&mut self) -> Range<u64> {
        0..0
    }

    fn whole(&mut self) -> io::Result<&mut Registers> {
        if !self.lent {
            self.fetch_extended()?;
            self.lent = true;
        }
        Ok(self.file)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        Direct(&mut self.fault).read(address, bytes, Access::Read)
    }

    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        /// So that a fault at the end of a long range does not make all before it be read anew byte by byte.
        const PAGE: u64 = 4096;
        let mut done = 0;
        while let Some(from) = address.checked_add(done as u64)
            && let Some(rest) = bytes.get_mut(done..)
            && !rest.is_empty()
        {
            let in_page = usize::try_from(PAGE - from % PAGE).unwrap_or(1).min(rest.len());
            let Some(part) = rest.get_mut(..in_page) else { break };
            if !is_canonical(from, in_page) || Direct(&mut self.fault).read(from, part, Access::Read).is_err()
            {
                break;
            }
            done += in_page;
        }
        done
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        if !is_canonical(address, bytes.len()) {
            return Err(MemoryFault {
                address,
                access: Access::Write,
                present: false,
                protection_key: false,
            });
        }
        Direct(&mut self.fault).write(address, bytes)
    }

    fn move_shadow_stack(&mut self, _: i64) -> io::Result<()> {
        // One in use would have to be moved by instructions of our own.
        Ok(())
    }
}

/// Whether all of `length` bytes from `address` on are in the half that programs have.
fn is_canonical(address: u64, length: usize) -> bool {
    address.checked_add(length as u64).is_some_and(|end| end <= 1 << 56)
}

impl Executor for Own<'_> {
    fn registers(&self) -> &Registers {
        self.file
    }

    fn is_gone(&self) -> bool {
        false
    }

    fn take_back(&mut self, new: &GeneralRegisters) -> nix::Result<()> {
        let lent = std::mem::take(&mut self.lent);
        let before = GeneralRegisters::of(self.file);
        let movable = new.segment == before.segment && new.fs_base == before.fs_base;
        new.put(self.file);
        if !movable || !self.keeps_fixed_flags() {
            before.put(self.file);
            return Err(Errno::EINVAL);
        }
        self.store();
        if lent { self.store_extended().map_err(|_| Errno::EINVAL) } else { Ok(()) }
    }

    fn go_to(&mut self, rip: u64) {
        self.file.rip = rip;
    }

    fn join_processor(&mut self) -> bool {
        // It is the thread itself.
        true
    }

    fn execute(&mut self, displaced: &Displaced) -> Result<Outcome, Stuck> {
        if reaches_far_down(displaced) {
            return Ok(Outcome::Native);
        }
        let extended = displaced.touches().intersects(Touches::EXTENDED);
        if extended {
            self.fetch_extended().map_err(|_| Stuck::Refused)?;
        }
        self.fault = None;
        let (file, fault) = (&mut *self.file, &mut self.fault);
        let result = displaced.execute(file, &mut Direct(fault));
        if result.is_ok() && !self.keeps_fixed_flags() {
            // POPF, which changes nothing but registers.
            self.revert();
            self.file.rip = self.displaced.ip();
            return Ok(Outcome::Native);
        }
        if extended {
            self.store_extended().map_err(|_| Stuck::Refused)?;
        }
        self.take_bases();
        result.map_err(Stuck::Raised)
    }

    fn raise(&mut self, exception: Exception, _site: u64) -> Attempt {
        if self.in_stub {
            // What is done of it is done.
            self.store();
            return self.by_trap();
        }
        let fault = self.fault;
        let mut signal = signal::of(exception, self.file, |_| fault.map_or(0, |fault| fault.key));
        if let (Exception::PageFault { address, .. }, Some(fault)) = (exception, fault)
            && fault.address == address
        {
            // As the kernel has found it, which may also be SIGBUS.
            signal = Signal { number: fault.signal, code: fault.code, address, key: fault.key };
        }
        self.note_raised(exception, signal);
        Attempt::Raised(signal.number)
    }

    fn trace(&mut self, iteration: bool) -> Attempt {
        const TRAP_TRACE: libc::c_int = 2;
        if iteration {
            self.file.rflags |= Rflags::RF;
        }
        let signal = Signal { number: libc::SIGTRAP, code: TRAP_TRACE, address: self.file.rip, key: 0 };
        self.note_raised(Exception::Debug, signal);
        Attempt::Raised(signal.number)
    }

    fn enter(&mut self, _displaced: &Displaced, outcome: Outcome) -> Attempt {
        if self.in_stub {
            return self.by_trap();
        }
        match outcome {
            Outcome::Syscall | Outcome::Interrupt(_) => {
                let stub = self.native_stub(Some(outcome));
                self.go_by(stub)
            }
            _ => Attempt::Unavailable,
        }
    }

    fn natively(&mut self, _site: u64, _how: Natively) -> Attempt {
        if self.in_stub {
            return self.by_trap();
        }
        let stub = can_be_moved(self.site.displaced()).then(|| self.native_stub(None)).flatten();
        self.go_by(stub)
    }

    fn stand_aside(&mut self, site: u64) -> i32 {
        self.site.set_state(sites::State::GivenUp);
        let restored = patch::restore(self.site).is_ok();
        self.file.rip = site;
        if restored { 0 } else { libc::SIGTRAP }
    }
}

/// The memory of this process, as an instruction of its own accesses it: what cannot be accessed is a fault of that.
struct Direct<'a>(&'a mut Option<Fault>);

impl Direct<'_> {
    fn failed(&mut self, access: Access) -> MemoryFault {
        const PRESENT: u64 = 1;
        const PROTECTION_KEY: u64 = 1 << 5;
        let fault = machine::fault();
        *self.0 = Some(fault);
        MemoryFault {
            address: fault.address,
            access,
            present: fault.error_code & PRESENT != 0,
            protection_key: fault.error_code & PROTECTION_KEY != 0,
        }
    }

    /// That all of it can be accessed so, page by page.
    fn touch(&mut self, address: u64, length: usize, access: Access) -> Result<(), MemoryFault> {
        const PAGE: u64 = 4096;
        let end = address.wrapping_add(length as u64);
        let mut at = address;
        while at < end {
            machine::touch(at, access).map_err(|Failed| self.failed(access))?;
            at = (at / PAGE + 1) * PAGE;
        }
        Ok(())
    }
}

impl UserMemory for Direct<'_> {
    fn read(&mut self, address: u64, bytes: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        if access == Access::Write {
            self.touch(address, bytes.len(), access)?;
        }
        machine::load(address, bytes).map_err(|Failed| self.failed(access))?;
        sites::unmask(address, bytes);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        /// What is stored by one instruction is stored or not.
        const WHOLE: usize = 16;
        if bytes.len() > WHOLE || !bytes.len().is_power_of_two() {
            self.touch(address, bytes.len(), Access::Write)?;
        }
        machine::store(address, bytes).map_err(|Failed| self.failed(Access::Write))
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        let failed = |direct: &mut Self| direct.failed(Access::Write);
        // Either nothing is changed, or a zero by a zero.
        let mut old = machine::exchange(address, size, 0, 0).map_err(|Failed| failed(self))?;
        loop {
            let found = machine::exchange(address, size, old, update(old)).map_err(|Failed| failed(self))?;
            if found == old {
                return Ok(old);
            }
            old = found;
        }
    }
}
