//! What a handler sees and decides.

use std::cell::OnceCell;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use emu::registers::{Extended, gpr};
use emu::{MemoryFault, Registers};

use crate::arguments::bindings::Place;
use crate::engine::call::{Call, Part, Value};
use crate::engine::host::{Handler, Request};
use crate::engine::run_on::{Region, Step, Wish};
use crate::engine::watch::Watches;
use crate::executor::ThreadState;
pub use crate::executor::general::GeneralRegisters;
use crate::stacks::{Caller, Memory, StackFrame, Unwinder};
use crate::symbols::locate::{Locate, LocateError};
use crate::target::{keys, procfs};

/// Memory that a stack is in.
struct ThreadMemory<'a>(&'a mut dyn ThreadState);

impl Memory for ThreadMemory<'_> {
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.0.read_up_to(address, bytes)
    }
}

/// Names a probe of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeId(pub(crate) usize);

impl ProbeId {
    /// Its number: 0 for the first probe of the session, 1 for the next. See [`Session::probe_all`](crate::Session::probe_all)
    /// for those that are refused there.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// What happens after a handler.
///
/// Where several probes share an instruction, it is performed unless one of their handlers leaves it out; the last
/// of them says where the thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// The displaced instruction is emulated, unless the handler has changed RIP: see
    /// [`Hit::registers_mut`].
    Continue,
    /// It is left out: the thread goes on behind it, or where the handler has set RIP to.
    Skip,
    /// It is left out: the thread goes on at this address, even if that is the instruction's own, which is
    /// another hit then.
    GoTo(u64),
    /// As [`Action::Continue`], and the probe is removed.
    Remove,
    /// As [`Action::Continue`], and the session detaches from the target.
    Detach,
    /// As [`Action::Continue`], and every breakpoint is taken out, so that there is no other hit, and
    /// [`Session::run`](crate::Session::run) returns. The session is to be left or detached next.
    Stop,
}

/// A thread that has reached a probe, and is stopped before the instruction.
#[derive(Debug)]
pub struct Hit<'a> {
    pub(crate) probe: ProbeId,
    pub(crate) pid: i32,
    pub(crate) ip: u64,
    pub(crate) registers: &'a mut GeneralRegisters,
    pub(crate) thread: &'a mut dyn ThreadState,
    pub(crate) requests: &'a mut Vec<Request>,
    /// What the thread is to run on for.
    pub(crate) wishes: &'a mut Vec<Wish>,
    pub(crate) filtered: bool,
    pub(crate) discounted: bool,
    /// How long it waits before it goes on.
    pub(crate) delay: Duration,
    /// The signal that it gets then.
    pub(crate) signal: Option<i32>,
    /// Once somebody has asked for it.
    pub(crate) time_ns: OnceCell<u64>,
    pub(crate) part: Part,
    /// Of its session; a process that probes itself has none.
    pub(crate) watches: Option<&'a Arc<Watches>>,
}

impl Hit<'_> {
    /// The probe.
    #[must_use]
    pub fn probe(&self) -> ProbeId {
        self.probe
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The thread.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.thread.tid()
    }

    /// The address of the instruction.
    #[must_use]
    pub fn ip(&self) -> u64 {
        self.ip
    }

    /// The processor on which the thread ran last; `None` if the thread has just been killed.
    #[must_use]
    pub fn cpu(&self) -> Option<u32> {
        self.thread.processor()
    }

    /// The thread's name, at most 15 bytes (`/proc/TID/comm`); `None` if it has just been killed.
    #[must_use]
    pub fn comm(&self) -> Option<Vec<u8>> {
        procfs::comm(self.tid())
    }

    /// The time since the system booted, suspension excluded (`CLOCK_MONOTONIC`), in nanoseconds, when a handler of this
    /// probe has first asked for it.
    #[must_use]
    pub fn time_ns(&self) -> u64 {
        *self.time_ns.get_or_init(now_ns)
    }

    /// Whether a call has just returned that the probe follows, rather than been made: then [`Hit::ip`] is the return
    /// address.
    #[must_use]
    pub fn is_return(&self) -> bool {
        matches!(self.part, Part::Return(_))
    }

    /// How long the call has taken that has just returned, in nanoseconds.
    #[must_use]
    pub fn duration_ns(&self) -> Option<u64> {
        match &self.part {
            Part::Return(call) => Some(call.duration_ns),
            Part::None | Part::Entry(_) => None,
        }
    }

    /// Where it is, as arguments have it.
    pub(crate) fn place(&self) -> Place {
        let function = match &self.part {
            Part::Return(call) => Some(call.function),
            Part::None | Part::Entry(_) => None,
        };
        Place::new(self.pid, self.ip, function)
    }

    /// Has the call be followed that has just been made, and `value` be there when it returns.
    pub(crate) fn follow(&mut self, value: impl Value) {
        if let Part::Entry(wanted) = &mut self.part {
            *wanted = Some(Box::new(value));
        }
    }

    /// The call that has just returned. Once for each hit.
    pub(crate) fn take_call<T: 'static>(&mut self) -> Option<Call<T>> {
        let Part::Return(Call { function, entered_ns, duration_ns, value }) = &mut self.part else {
            return None;
        };
        let value = *value.take()?.into_any().downcast().ok()?;
        Some(Call { function: *function, entered_ns: *entered_ns, duration_ns: *duration_ns, value })
    }

    /// The thread's general registers, RIP, RFLAGS, segment bases and selectors.
    #[must_use]
    pub fn registers(&self) -> &GeneralRegisters {
        self.registers
    }

    /// The same, to be changed. Once RIP is another, the displaced instruction is left out and the thread goes
    /// on there, whatever the action.
    ///
    /// Should the kernel refuse what is written (a segment base that is not canonical, a selector that is not
    /// user mode's, a flag that is the system's), the registers stay as they were, and [`Event::Rejected`](crate::Event::Rejected) is told.
    pub fn registers_mut(&mut self) -> &mut GeneralRegisters {
        self.registers
    }

    /// The thread's x87, MMX, SSE, AVX and AVX-512 registers, fetched when they are first asked for. What the
    /// processor does not have is zero.
    ///
    /// # Errors
    /// That of `PTRACE_GETREGSET`, such as ESRCH where the thread has just been killed.
    pub fn extended(&mut self) -> io::Result<&Extended> {
        Ok(&self.whole()?.extended)
    }

    /// The same, to be changed; stored after the last handler if they are other registers then.
    ///
    /// Should the kernel refuse what is written (reserved bits of MXCSR), they stay as they were, and
    /// [`Event::Rejected`](crate::Event::Rejected) is told.
    ///
    /// # Errors
    /// Those of [`Hit::extended`].
    pub fn extended_mut(&mut self) -> io::Result<&mut Extended> {
        Ok(&mut self.whole()?.extended)
    }

    /// PKRU, the thread's rights to memory with a protection key: fetched with the extended registers. Zero
    /// where the processor has no protection keys.
    ///
    /// # Errors
    /// Those of [`Hit::extended`].
    pub fn pkru(&mut self) -> io::Result<u32> {
        Ok(self.whole()?.pkru)
    }

    /// Changes PKRU, after the last handler: until then, memory is read and written with the rights before.
    ///
    /// # Errors
    /// Those of [`Hit::extended`], and [`io::ErrorKind::Unsupported`] where the processor has no protection
    /// keys.
    pub fn set_pkru(&mut self, pkru: u32) -> io::Result<()> {
        if !keys::are_supported() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        self.whole()?.pkru = pkru;
        Ok(())
    }

    /// The register file with all that can be fetched. Its general registers are not the handler's.
    fn whole(&mut self) -> io::Result<&mut Registers> {
        self.thread.whole()
    }

    /// Fills `bytes` from the thread's memory, which shows no breakpoints.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
        self.thread.read(address, bytes)
    }

    /// Fills `bytes` as far as the memory can be read, and returns how far that is, such as for strings.
    pub fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.thread.read_up_to(address, bytes)
    }

    /// Reads the quadword at `address`.
    ///
    /// # Errors
    /// The first byte that cannot be read.
    pub fn read_u64(&mut self, address: u64) -> Result<u64, MemoryFault> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The calls that have led here, the thread's own place first, without frame pointers; `most` of them at most. It ends
    /// where a stack does, or where nothing tells how to go on. Of 32-bit code, it is the thread's own place alone.
    pub fn stack(&mut self, unwinder: &Unwinder, most: usize) -> Vec<StackFrame> {
        const CODE_64: u16 = 0x33;
        let is_64 = self.registers.segment.get(emu::registers::segment::CS) == Some(&CODE_64);
        let most = if is_64 { most } else { most.min(1) };
        let gpr = self.registers.gpr;
        let caller = Caller { pid: self.pid, gpr: &gpr, ip: self.ip };
        unwinder.stack(&caller, &mut ThreadMemory(self.thread), most)
    }

    /// Stores `bytes` into the thread's memory, as far as the thread itself could.
    ///
    /// # Errors
    /// The first byte that cannot be written; nothing is stored then.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.thread.write(address, bytes)
    }

    /// Has the function, of which this is the first instruction, return without having run: the thread goes on where it was
    /// called, as behind RET, with the result that the handler has put where the ABI has it. Its shadow stack, if it has one,
    /// is popped, too.
    ///
    /// # Errors
    /// The return address cannot be read, or is none; or the system refuses to change the shadow stack. Nothing has changed
    /// then.
    pub fn return_now(&mut self) -> io::Result<()> {
        self.return_target()?;
        self.move_shadow_stack(1)?;
        self.leave_function()
    }

    /// Where the function returns to of which this is the first instruction.
    pub(crate) fn return_target(&mut self) -> io::Result<u64> {
        let stack = self.registers.gpr[gpr::RSP];
        let target = self.read_u64(stack).map_err(|fault| {
            io::Error::other(format!("the return address at {:#x} cannot be read", fault.address))
        })?;
        match is_canonical(target) {
            true => Ok(target),
            false => Err(io::Error::other(format!(
                "the return address at {stack:#x} is {target:#x}, which is none"
            ))),
        }
    }

    /// Takes so many return addresses from the thread's shadow stack, if it has one, or gives them back.
    pub(crate) fn move_shadow_stack(&mut self, by: i64) -> io::Result<()> {
        self.thread.move_shadow_stack(by)
    }

    /// Takes the return address from the stack, and has the thread go on there.
    pub(crate) fn leave_function(&mut self) -> io::Result<()> {
        let target = self.return_target()?;
        let stack = &mut self.registers.gpr[gpr::RSP];
        *stack = stack.wrapping_add(8);
        self.registers.rip = target;
        Ok(())
    }

    /// Has the thread wait that long, stopped, once the instruction has been performed, before it goes on. Nobody else waits.
    /// It waits no longer when the target is left. Of several handlers, the longest time counts.
    pub fn delay(&mut self, time: Duration) {
        self.delay = self.delay.max(time);
    }

    /// Has the thread take this signal, from 1 to 64, when it goes on, as if it had sent it to itself by tgkill(2). Within a
    /// system call, which the displaced instruction may be, it is sent by the process that traces. Of several, the last one
    /// counts.
    ///
    /// # Panics
    /// There is no such signal.
    pub fn raise(&mut self, signal: i32) {
        assert!((1..=LAST_SIGNAL).contains(&signal), "there is no signal {signal}");
        self.signal = Some(signal);
    }

    /// A number that no other thread has.
    pub(crate) fn serial(&self) -> u64 {
        self.thread.serial()
    }

    /// Has another probe placed, after this hit. What becomes of it is told as of one that was placed later: by
    /// [`Event::Placed`](crate::Event::Placed), [`Event::Refused`](crate::Event::Refused) or
    /// [`Event::Unresolvable`](crate::Event::Unresolvable).
    pub fn add_probe(
        &mut self,
        source: impl Locate + Send + 'static,
        handler: impl FnMut(&mut Hit<'_>) -> Action + Send + 'static,
    ) {
        self.requests.push(Request::Add(Box::new(source), Handler::alone(handler).into()));
    }

    /// Has a probe removed, after this hit; also this one, as by [`Action::Remove`].
    pub fn remove_probe(&mut self, probe: ProbeId) {
        self.requests.push(Request::Remove(probe));
    }

    /// Has the thread run on from here: its instructions, this one first, are emulated one after the other until `region`
    /// is over. See [`run_on`](crate::run_on). In a process that probes itself no thread does.
    pub fn run_on(&mut self, region: Region) {
        self.wishes.push(Wish { region, back: None, observer: None });
    }

    /// The same, with `observer` called behind each instruction, and at the end. Once it breaks, the region is over.
    pub fn run_on_with(
        &mut self,
        region: Region,
        observer: impl FnMut(&mut Step<'_>) -> ControlFlow<()> + Send + 'static,
    ) {
        self.run_on_back(region, None, observer);
    }

    /// The same, where the function returns to `back` if the thread need not be at its first instruction.
    pub(crate) fn run_on_back(
        &mut self,
        region: Region,
        back: Option<u64>,
        observer: impl FnMut(&mut Step<'_>) -> ControlFlow<()> + Send + 'static,
    ) {
        self.wishes.push(Wish { region, back, observer: Some(Box::new(observer)) });
    }

    /// Has the observer told, after this hit, why what is wanted of it comes to nothing.
    pub(crate) fn tell_unresolvable(&mut self, error: LocateError) {
        self.requests.push(Request::Tell { probe: self.probe(), pid: self.pid(), error });
    }

    /// Has this hit not be counted at all: of several threads that reach a probe at once, it is of one that was behind
    /// the last that is wanted.
    pub fn discount(&mut self) {
        self.discounted = true;
    }

    /// Counts this hit as filtered out: one that the probe's condition did not want.
    pub fn filter_out(&mut self) {
        self.filtered = true;
    }
}

/// The signal with the greatest number (_NSIG).
pub(crate) const LAST_SIGNAL: i32 = 64;

/// Whether a processor with four levels of paging takes it for an address, in the half that is the program's.
pub(crate) fn is_canonical(address: u64) -> bool {
    // With five levels, text of programs lies no higher: mappings do only where that is asked for.
    address >> 47 == 0
}

/// `CLOCK_MONOTONIC` in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    let now = now.map(Duration::from).unwrap_or_default();
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
}
