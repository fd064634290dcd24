//! The signals that a process which probes itself takes over: SIGTRAP, and those of accesses that fail.
//!
//! What the program has had done about them is still done, for all that is not ours: by a handler's call as the kernel
//! would have made it, or by the kernel itself.

#![allow(unsafe_code, reason = "handlers of signals; frames of signals are read and written by address")]

use std::mem;
use std::ptr;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock};

use libc::{c_int, siginfo_t, ucontext_t};
use nix::errno::Errno;

use crate::executor::own::machine::{self, Fault, Phase};
use crate::executor::own::sites::Site;
use crate::executor::own::{GENERAL, files, layout, patch};
use crate::executor::ptrace::sys;
use crate::executor::signal::Signal;
use crate::target::lock;

/// The signals that are taken over.
pub(crate) const SIGNALS: [c_int; 3] = [libc::SIGTRAP, libc::SIGSEGV, libc::SIGBUS];

const SA_RESTORER: u64 = 0x0400_0000;

/// `struct kernel_sigaction` (x86): what rt_sigaction(2) takes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action {
    handler: usize,
    flags: u64,
    restorer: u64,
    mask: u64,
}

impl Action {
    const DEFAULT: Action = Action { handler: libc::SIG_DFL, flags: 0, restorer: 0, mask: 0 };

    fn has(&self, flag: c_int) -> bool {
        self.flags & flag as u64 != 0
    }
}

/// What the program wants done about a signal; never freed.
struct Wanted {
    signal: c_int,
    action: Action,
    /// The handler was to be called once (SA_RESETHAND), and was.
    is_over: AtomicBool,
    /// What it wanted before. A handler that was installed later may call ours for what it does not want, having found that
    /// in its place.
    older: Option<&'static Wanted>,
}

impl Wanted {
    fn action(&self) -> Action {
        if self.is_over.load(Ordering::Relaxed) { Action::DEFAULT } else { self.action }
    }
}

/// The newest, in the order of [`SIGNALS`].
static WANTED: [AtomicPtr<Wanted>; SIGNALS.len()] =
    [const { AtomicPtr::new(ptr::null_mut()) }; SIGNALS.len()];
/// Whether the signals have been taken over.
static TAKEN: Mutex<bool> = Mutex::new(false);

fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// rt_sigaction(2), without what the C library does about it.
fn set_action(signal: c_int, new: Option<&Action>) -> nix::Result<Action> {
    let mut old = Action::DEFAULT;
    let new = new.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: both are null or valid for a `struct kernel_sigaction`; a handler that is set is one of ours, or none.
    let result =
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, new, &raw mut old, mem::size_of::<u64>()) };
    Errno::result(result).map(|_| old)
}

/// rt_sigprocmask(2).
fn set_mask(how: c_int, mask: u64) {
    // SAFETY: the mask is valid for the call, and the old one is not asked for.
    unsafe {
        let old = ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const mask, old, mem::size_of::<u64>());
    }
}

/// What is called by stubs: with the site, general registers and an image as XSAVE makes it. Returns how to go on,
/// [`machine::NEXT`] or another, and whether the image was changed.
type StubService = fn(&'static Site, &mut [i64; GENERAL], &mut [u8]) -> (u64, bool);

/// What is called at traps and by stubs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Services {
    /// Returns what FS is to begin at, if that is another than before.
    pub(crate) trap: fn(Context<'_>) -> Option<u64>,
    pub(crate) stub: StubService,
}

static SERVICES: OnceLock<Services> = OnceLock::new();

/// The number of this process.
static PID: AtomicI32 = AtomicI32::new(0);

/// The number of this process.
pub(crate) fn pid() -> i32 {
    PID.load(Ordering::Relaxed)
}

extern "C" fn note_pid() {
    PID.store(std::process::id().cast_signed(), Ordering::Relaxed);
}

unsafe extern "C" fn trapped(_: c_int, info: *mut siginfo_t, context: *mut ucontext_t, stack: u64) {
    let errno = SavedErrno::new();
    // SAFETY: these are the arguments of the handler.
    let context = unsafe { Context::new(info, context, stack) };
    let fs_base = SERVICES.get().and_then(|services| (services.trap)(context));
    drop(errno);
    if let Some(base) = fs_base {
        machine::set_fs_base(base);
    }
}

unsafe extern "C" fn jumped(general: *mut i64, site: *const (), image: *mut u8) -> u64 {
    let errno = SavedErrno::new();
    // SAFETY: the stub has saved as many registers, and an image as long as it was told; a site is never freed.
    let (site, general, image) = unsafe {
        let length = machine::image_length();
        (&*site.cast::<Site>(), &mut *general.cast(), slice::from_raw_parts_mut(image, length))
    };
    let stub = SERVICES.get().map(|services| services.stub);
    let (how, changed) = stub.map_or((machine::ANYWHERE, false), |stub| stub(site, general, image));
    drop(errno);
    if changed { how | machine::CHANGED } else { how }
}

/// Has `before` called before the process forks, and `after` on both sides after that.
pub(crate) fn at_fork(before: extern "C" fn(), after: extern "C" fn()) {
    // SAFETY: the functions may be called whenever a thread forks. A failure leaves children as they would be without.
    unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
}

/// Takes the signals over: from then on, the services are called. Returns whether this has been the first time.
pub(crate) fn take_over(services: Services) -> nix::Result<bool> {
    let mut taken = lock(&TAKEN);
    if *taken {
        take_all()?;
        return Ok(false);
    }
    SERVICES.get_or_init(|| services);
    note_pid();
    // SAFETY: the function may be called in a child.
    unsafe { libc::pthread_atfork(None, None, Some(note_pid)) };
    machine::serve_by(trapped, faulted, jumped);
    files::make();
    if let Some(layout) = layout() {
        machine::save(&layout);
    }
    take_all()?;
    *taken = true;
    Ok(true)
}

/// Takes them over once more, where the program has installed handlers since. Where a filter of system calls refuses that,
/// which nothing else does, those have them still.
pub(crate) fn take_again() {
    let taken = lock(&TAKEN);
    if *taken {
        take_all().ok();
    }
}

/// Has all of the signals be ours. What the program has in their place is what it wants from now on.
fn take_all() -> nix::Result<()> {
    // What instructions raise must get through, as must the filter of system calls.
    let raised = [libc::SIGSEGV, libc::SIGBUS, libc::SIGTRAP, libc::SIGILL, libc::SIGFPE, libc::SIGSYS];
    let others = !raised.into_iter().fold(0, |raised, signal| raised | bit(signal));
    let common = (libc::SA_SIGINFO | libc::SA_NODEFER | libc::SA_RESTART) as u64 | SA_RESTORER;
    for (signal, wanted) in SIGNALS.into_iter().zip(&WANTED) {
        let ours = match signal {
            // Not on another stack: a frame there would not be seen by who comes next.
            libc::SIGTRAP => Action {
                handler: machine::trap_entry() as usize,
                flags: common,
                restorer: machine::restorer(),
                mask: others,
            },
            // A stack that has overflowed is of no use for this one.
            _ => Action {
                handler: machine::fault_entry() as usize,
                flags: common | libc::SA_ONSTACK as u64,
                restorer: machine::restorer(),
                mask: 0,
            },
        };
        let want = |action: Action| {
            let older = newest(wanted);
            // Who installs one again and again is not to take memory each time.
            if older.is_none_or(|older| older.action() != action) {
                let new = Wanted { signal, action, is_over: AtomicBool::new(false), older };
                wanted.store(Box::leak(Box::new(new)), Ordering::Release);
            }
        };
        let action = set_action(signal, None)?;
        if action.handler == ours.handler {
            continue;
        }
        // Before anybody looks for it.
        want(action);
        let replaced = set_action(signal, Some(&ours))?;
        if ![action.handler, ours.handler].contains(&replaced.handler) {
            // Another thread has installed it just then.
            want(replaced);
        }
    }
    Ok(())
}

fn newest(place: &AtomicPtr<Wanted>) -> Option<&'static Wanted> {
    // SAFETY: what has been stored there was leaked.
    unsafe { place.load(Ordering::Acquire).as_ref() }
}

/// What the program wants done about a signal. If not the kernel has called our handler, one of the program's has, which
/// does not want it: then it is what was wanted before that.
fn wanted(signal: c_int, by_kernel: bool) -> Option<&'static Wanted> {
    let place = SIGNALS.iter().position(|&one| one == signal)?;
    // SAFETY: it is null, or one that was leaked.
    let called = unsafe { (machine::wanted() as *const Wanted).as_ref() };
    match called.filter(|called| !by_kernel && called.signal == signal) {
        Some(called) => called.older,
        None => newest(WANTED.get(place)?),
    }
}

/// The kernel calls this for SIGSEGV and SIGBUS, by way of [`machine::fault_entry`].
unsafe extern "C" fn faulted(signal: c_int, info: *mut siginfo_t, context: *mut ucontext_t, stack: u64) {
    let by_kernel = is_by_kernel(context, stack);
    // SAFETY: the kernel has made both, and nobody else has them.
    let (info, context) = unsafe { (&mut *info, &mut *context) };
    let general = &mut context.uc_mcontext.gregs;
    let rip = general[libc::REG_RIP as usize].cast_unsigned();
    // One that somebody has sent says nothing of the instruction that it came to.
    if let Some(landing) = machine::landing(rip).filter(|_| is_forced(info)) {
        machine::set_fault(Fault {
            signal,
            code: info.si_code,
            // SAFETY: SIGSEGV and SIGBUS have the member.
            address: unsafe { info.si_addr() } as u64,
            error_code: general[libc::REG_ERR as usize].cast_unsigned(),
            key: protection_key(info),
        });
        general[libc::REG_RIP as usize] = landing.cast_signed();
        return;
    }
    if let Some(site) = patch::site_of(rip) {
        // What the thread executes in a stub belongs to the site.
        general[libc::REG_RIP as usize] = site.cast_signed();
    }
    pass_on(signal, info, context, by_kernel);
}

/// Whether the kernel has called a handler, whose stack pointer is that: to where it returns to, it has the context be next
/// (`struct rt_sigframe`).
fn is_by_kernel(context: *const ucontext_t, stack: u64) -> bool {
    stack.wrapping_add(8) == context as u64
}

/// `si_pkey`.
fn protection_key(info: &siginfo_t) -> u32 {
    const OFFSET: usize = 32;
    // SAFETY: siginfo_t is 128 bytes, all of which the kernel has set.
    unsafe { ptr::from_ref(info).cast::<u8>().add(OFFSET).cast::<u32>().read_unaligned() }
}

/// Where the context of a signal has the registers of the thread, and its extended state.
pub(crate) struct Context<'a> {
    context: &'a mut ucontext_t,
    info: &'a mut siginfo_t,
    /// Whether the kernel has called the handler, or one of the program's.
    by_kernel: bool,
}

impl<'a> Context<'a> {
    /// # Safety
    /// These are the arguments of a handler of a signal, used by nobody else; `stack` is its stack pointer.
    unsafe fn new(info: *mut siginfo_t, context: *mut ucontext_t, stack: u64) -> Context<'a> {
        let by_kernel = is_by_kernel(context, stack);
        // SAFETY: the caller says so.
        unsafe { Context { context: &mut *context, info: &mut *info, by_kernel } }
    }

    /// Its general registers, RIP and RFLAGS, in the order of `mcontext_t`.
    pub(crate) fn general(&mut self) -> &mut [i64; GENERAL] {
        self.parts().0
    }

    /// Its general registers, and its extended state as XSAVE has laid it out; empty where there is none.
    pub(crate) fn parts(&mut self) -> (&mut [i64; GENERAL], &mut [u8]) {
        /// In the frame's image: `struct _fpx_sw_bytes` (asm/sigcontext.h).
        const SOFTWARE: usize = 464;
        const MAGIC: u32 = 0x4650_5853;
        let image = self.context.uc_mcontext.fpregs.cast::<u8>();
        let image: &mut [u8] = if image.is_null() {
            &mut []
        } else {
            // SAFETY: the kernel puts at least the 512 bytes of FXSAVE there; where the magic number is, it says
            // behind that how many there are.
            unsafe {
                let magic = image.add(SOFTWARE).cast::<u32>().read_unaligned();
                let length = image.add(SOFTWARE + 16).cast::<u32>().read_unaligned();
                if magic == MAGIC { slice::from_raw_parts_mut(image, length as usize) } else { &mut [] }
            }
        };
        let general = &raw mut self.context.uc_mcontext.gregs;
        // SAFETY: there are more of them, RFLAGS being the last of these.
        (unsafe { &mut *general.cast() }, image)
    }

    /// Whether an INT3 has raised it.
    pub(crate) fn is_breakpoint(&self) -> bool {
        const SI_KERNEL: c_int = 0x80;
        self.info.si_signo == libc::SIGTRAP && self.info.si_code == SI_KERNEL
    }

    /// Whether a step has raised it, of a program that steps itself.
    pub(crate) fn is_step(&self) -> bool {
        const TRAP_TRACE: c_int = 2;
        self.info.si_signo == libc::SIGTRAP && self.info.si_code == TRAP_TRACE
    }

    /// Says which exception it was.
    fn set_exception(&mut self, raised: &Raised) {
        let general = &mut self.context.uc_mcontext.gregs;
        general[libc::REG_TRAPNO as usize] = i64::from(raised.vector);
        general[libc::REG_ERR as usize] = i64::from(raised.error_code);
        if let Some(address) = raised.cr2 {
            general[libc::REG_CR2 as usize] = address.cast_signed();
        }
    }

    /// Does what the program wants done about the signal that this is the context of.
    pub(crate) fn pass_on(self) {
        pass_on(self.info.si_signo, self.info, self.context, self.by_kernel);
    }

    /// Does what the program wants done about an exception that it has raised.
    pub(crate) fn raise(mut self, raised: &Raised) {
        let Signal { number, code, address, key } = raised.signal;
        self.set_exception(raised);
        *self.info = sys::fault_siginfo(number, code, address, key);
        pass_on(number, self.info, self.context, true);
    }
}

/// An exception that an instruction has raised, and the signal for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raised {
    pub(crate) signal: Signal,
    pub(crate) vector: u8,
    pub(crate) error_code: u32,
    pub(crate) cr2: Option<u64>,
}

/// Has the kernel take `info` for a signal of its own to the calling thread, when it returns to `context`.
fn send(signal: c_int, info: &siginfo_t, context: &mut ucontext_t) {
    set_mask(libc::SIG_BLOCK, bit(signal));
    // SAFETY: `info` is valid for the call, by which a thread sends what it likes to itself.
    unsafe {
        let (pid, tid) = (libc::syscall(libc::SYS_getpid), libc::syscall(libc::SYS_gettid));
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, signal, ptr::from_ref(info));
    }
    // The kernel forces such a signal through.
    *mask_of(context) &= !bit(signal);
}

/// The signals that are blocked in `context`. The C library's type is longer than the kernel's.
fn mask_of(context: &mut ucontext_t) -> &mut u64 {
    // SAFETY: sigset_t is an array of words that begins with the signals up to 64.
    unsafe { &mut *(&raw mut context.uc_sigmask).cast::<u64>() }
}

/// Whether the kernel forces a signal through, as `force_sig_info` has it.
fn is_forced(info: &siginfo_t) -> bool {
    info.si_code > 0
}

/// Does what the program wants done about a signal.
fn pass_on(signal: c_int, info: &mut siginfo_t, context: &mut ucontext_t, by_kernel: bool) {
    let wanted = wanted(signal, by_kernel);
    let action = match wanted {
        Some(wanted) => wanted.action(),
        None if SIGNALS.contains(&signal) => Action::DEFAULT,
        // The kernel knows.
        None => set_action(signal, None).unwrap_or(Action::DEFAULT),
    };
    let forced = is_forced(info);
    let blocked = *mask_of(context) & bit(signal) != 0;
    match action.handler {
        libc::SIG_IGN if !forced => {}
        libc::SIG_DFL | libc::SIG_IGN => end_by(signal, info, context),
        _ if forced && blocked => end_by(signal, info, context),
        handler => {
            if action.has(libc::SA_RESETHAND) {
                match wanted {
                    Some(wanted) => wanted.is_over.store(true, Ordering::Relaxed),
                    // It has taken the same before.
                    None => drop(set_action(signal, Some(&Action::DEFAULT))),
                }
            }
            let before = machine::wanted();
            machine::set_wanted(wanted.map_or(0, |wanted| ptr::from_ref(wanted) as u64));
            call(handler, &action, signal, info, context);
            machine::set_wanted(before);
        }
    }
}

/// Has the kernel do what it does by default, which ends the process at the place that `context` says.
fn end_by(signal: c_int, info: &siginfo_t, context: &mut ucontext_t) {
    // Nothing can be done about a failure, and there is none.
    let _ = set_action(signal, Some(&Action::DEFAULT));
    send(signal, info, context);
}

/// Calls the program's handler as the kernel would.
fn call(handler: usize, action: &Action, signal: c_int, info: &mut siginfo_t, context: &mut ucontext_t) {
    let itself = if action.has(libc::SA_NODEFER) { 0 } else { bit(signal) };
    let phase = machine::phase();
    // It may never return, and what it reaches is its own.
    machine::set_phase(Phase::None);
    // With SIGTRAP blocked, a probe would be the end.
    let mask = (*mask_of(context) | action.mask | itself) & !bit(libc::SIGTRAP);
    set_mask(libc::SIG_SETMASK, mask);
    let (info, context_address) = (ptr::from_mut(info) as u64, ptr::from_mut(context) as u64);
    match action.has(libc::SA_ONSTACK).then(|| other_stack(context)).flatten() {
        Some(stack) => machine::call_on(handler, signal, info, context_address, stack),
        None => {
            // SAFETY: it is the program's own handler for that signal, with arguments as the kernel has them.
            let handler: unsafe extern "C" fn(c_int, u64, u64) = unsafe { mem::transmute(handler) };
            // SAFETY: as above.
            unsafe { handler(signal, info, context_address) };
        }
    }
    machine::set_phase(phase);
}

/// The end of the stack that the program has set for signals, unless it is on that.
fn other_stack(context: &ucontext_t) -> Option<u64> {
    const ALIGNMENT: u64 = 16;
    let libc::stack_t { ss_sp, ss_flags, ss_size } = context.uc_stack;
    let range = ss_sp as u64..(ss_sp as u64).saturating_add(ss_size as u64);
    let stack = context.uc_mcontext.gregs[libc::REG_RSP as usize].cast_unsigned();
    // We are on the same stack as the interrupted code, or on that one already.
    let here = &raw const range as u64;
    let unused = ss_flags & libc::SS_DISABLE == 0 && !range.contains(&stack) && !range.contains(&here);
    unused.then_some(range.end & !(ALIGNMENT - 1))
}

/// Whether the calling thread is on the stack that the program has set for signals, and `stack` is of another, to which it
/// will come back.
pub(crate) fn has_interrupted_another_stack(stack: u64) -> bool {
    let mut set = libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: 0, ss_size: 0 };
    // SAFETY: `set` is valid for what is written there.
    let known =
        unsafe { libc::syscall(libc::SYS_sigaltstack, ptr::null::<libc::stack_t>(), &raw mut set) } == 0;
    let start = set.ss_sp as u64;
    let range = start..start.saturating_add(set.ss_size as u64);
    known && set.ss_flags & libc::SS_ONSTACK != 0 && !range.contains(&stack)
}

/// `errno`, which handlers of signals must leave as it was.
struct SavedErrno(c_int);

impl SavedErrno {
    fn new() -> SavedErrno {
        // SAFETY: the C library says where it is, for each thread.
        SavedErrno(unsafe { *libc::__errno_location() })
    }
}

impl Drop for SavedErrno {
    fn drop(&mut self) {
        // SAFETY: as in `new`.
        unsafe { *libc::__errno_location() = self.0 }
    }
}

/// Whether the calling thread has a shadow stack.
pub(crate) fn has_shadow_stack() -> bool {
    const ARCH_SHSTK_STATUS: c_int = 0x5005;
    const ARCH_SHSTK_SHSTK: u64 = 1;
    let mut features = 0_u64;
    // SAFETY: `features` is valid for what is written there.
    let result = unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SHSTK_STATUS, &raw mut features) };
    result == 0 && features & ARCH_SHSTK_SHSTK != 0
}
