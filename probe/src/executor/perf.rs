//! perf events that stop a thread before it executes an instruction, or after it has written to memory
//! (perf_event_open(2)).

#![allow(unsafe_code, reason = "a raw system call; it is wrapped here in a function that is safe to call")]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};

use libc::siginfo_t;
use nix::Result;
use nix::errno::Errno;

/// What tells our SIGTRAPs from those of events that others have opened: "stepless".
const MARK: u64 = u64::from_be_bytes(*b"stepless");
/// The same of those for data.
const DATA_MARK: u64 = u64::from_be_bytes(*b"stepdata");

/// An event of a thread. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Event(File);

/// `struct perf_event_attr` (linux/perf_event.h), as of `PERF_ATTR_SIZE_VER7`.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    sample_period: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_events: u32,
    breakpoint_type: u32,
    breakpoint_address: u64,
    breakpoint_length: u64,
    unused: [u64; 6],
    signal_data: u64,
}

/// What the kernel does on behalf of the thread does not count.
const EXCLUDE_KERNEL: u64 = 1 << 5;

impl Event {
    /// That thread `tid` is about to execute the instruction at `address`: it is sent a SIGTRAP. If it blocks that, it
    /// goes on, and is only counted.
    ///
    /// # Errors
    /// ENOSPC where all debug registers of the thread are in use; and those of the system call.
    pub(crate) fn at(tid: i32, address: u64) -> Result<Event> {
        const HW_BREAKPOINT_X: u32 = 4;
        Event::open(
            tid,
            Attributes {
                flags: EXCLUDE_KERNEL,
                breakpoint_type: HW_BREAKPOINT_X,
                breakpoint_address: address,
                // What the kernel demands of one for instructions.
                breakpoint_length: size_of::<libc::c_long>() as u64,
                signal_data: MARK,
                ..Attributes::default()
            },
        )
    }

    /// That thread `tid` has written to one of `bytes` bytes at `address`, which are 1, 2, 4 or 8 and aligned: it is sent a
    /// SIGTRAP. With `kernel`, also that the kernel has in a system call of the thread; the signal is sent at its end then.
    ///
    /// # Errors
    /// Those of [`Event::at`]; EACCES where the user may not know what the kernel does.
    pub(crate) fn written(tid: i32, address: u64, bytes: u8, kernel: bool) -> Result<Event> {
        const HW_BREAKPOINT_W: u32 = 2;
        Event::open(
            tid,
            Attributes {
                flags: if kernel { 0 } else { EXCLUDE_KERNEL },
                breakpoint_type: HW_BREAKPOINT_W,
                breakpoint_address: address,
                breakpoint_length: bytes.into(),
                signal_data: DATA_MARK,
                ..Attributes::default()
            },
        )
    }

    fn open(tid: i32, wanted: Attributes) -> Result<Event> {
        const PERF_TYPE_BREAKPOINT: u32 = 5;
        const EXCLUDE_HYPERVISOR: u64 = 1 << 6;
        const REMOVE_ON_EXEC: u64 = 1 << 36;
        const SIGTRAP: u64 = 1 << 37;
        const PERF_FLAG_FD_CLOEXEC: u64 = 1 << 3;
        const ANY: i32 = -1;
        const SIZE: usize = size_of::<Attributes>();
        const { assert!(SIZE == 128) };
        let attributes = Attributes {
            kind: PERF_TYPE_BREAKPOINT,
            size: SIZE as u32,
            sample_period: 1,
            flags: wanted.flags | EXCLUDE_HYPERVISOR | REMOVE_ON_EXEC | SIGTRAP,
            ..wanted
        };
        let attributes = &raw const attributes;
        // SAFETY: the kernel reads `size` bytes of the attributes, which live through the call, and follows no address
        // in them.
        let result = unsafe {
            libc::syscall(libc::SYS_perf_event_open, attributes, tid, ANY, ANY, PERF_FLAG_FD_CLOEXEC)
        };
        let descriptor = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
        // SAFETY: the descriptor is new, so nobody else has it.
        Ok(Event(unsafe { File::from_raw_fd(descriptor) }))
    }

    /// How often it has happened, whether or not the thread has taken the signal.
    pub(crate) fn count(&self) -> u64 {
        let mut count = [0; 8];
        let read = (&self.0).read_exact(&mut count);
        if read.is_ok() { u64::from_ne_bytes(count) } else { 0 }
    }
}

impl Drop for Event {
    /// Ends it at once: a child that is being made may have the descriptor, too, until it executes a program.
    fn drop(&mut self) {
        /// `_IO('$', 1)`.
        const PERF_EVENT_IOC_DISABLE: libc::c_ulong = 0x2401;
        // SAFETY: the request takes no pointer. Of one that has ended with its thread nothing is left to disable.
        unsafe { libc::ioctl(self.0.as_raw_fd(), PERF_EVENT_IOC_DISABLE, 0) };
    }
}

/// What the signal of an event of ours says.
///
/// A debug register keeps its address when nobody uses it, and the processor tells of it as well where another has the
/// same (SDM volume 3, section 19.2.3, of DR6): then the kernel sends a SIGTRAP of its own, and as one is pending, not that
/// of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signalled {
    /// The address of the instruction, or of the data.
    pub(crate) address: u64,
    /// Whether it is about data that was written, for sure.
    pub(crate) data: bool,
    /// Whether the thread has blocked the signal, and gone on.
    pub(crate) late: bool,
    /// Whether the kernel has forced the signal, so that the thread does not block it any more if it did.
    pub(crate) forced: bool,
    /// Whether the event has counted it.
    pub(crate) counted: bool,
}

/// What the kernel says of a debug exception (asm-generic/siginfo.h).
const TRAP_BRKPT: i32 = 1;
const TRAP_TRACE: i32 = 2;
const TRAP_HWBKPT: i32 = 4;

/// A SIGTRAP that may be that of a hardware breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trap {
    /// It is, as the kernel says.
    Told(Signalled),
    /// The kernel takes it for INT1's, or for a step's.
    ///
    /// It believes DR6, in which a step hides a breakpoint at an instruction, and nothing at all means INT1. Under a
    /// hypervisor that is not always the processor's word: on a busy machine a breakpoint's exception was seen to come
    /// with an empty DR6 once in some hundred thousand times, and with RF clear. The event has not counted it then.
    Untold,
}

impl Trap {
    /// `None` for another signal.
    pub(crate) fn of(info: &siginfo_t) -> Option<Trap> {
        match (info.si_signo, info.si_code) {
            (libc::SIGTRAP, TRAP_BRKPT | TRAP_TRACE) => Some(Trap::Untold),
            _ => Signalled::of(info).map(Trap::Told),
        }
    }
}

impl Signalled {
    /// What [`Trap::Untold`] comes to at a hardware breakpoint, before which a thread has stopped.
    pub(crate) fn untold(address: u64) -> Signalled {
        Signalled { address, data: false, late: false, forced: true, counted: false }
    }

    /// `None` for another signal.
    pub(crate) fn of(info: &siginfo_t) -> Option<Signalled> {
        /// siginfo_t with the `_perf` member (asm-generic/siginfo.h).
        #[repr(C)]
        struct Perf {
            signo: i32,
            errno: i32,
            code: i32,
            padding: i32,
            address: u64,
            data: u64,
            kind: u32,
            flags: u32,
        }
        const TRAP_PERF: i32 = 6;
        const TRAP_PERF_FLAG_ASYNC: u32 = 1;
        const { assert!(size_of::<Perf>() <= size_of::<siginfo_t>()) };
        // SAFETY: siginfo_t is larger than `Perf`, as just asserted, consists of initialised bytes, and `Perf` of
        // integers, for which any are valid.
        let perf = unsafe { std::ptr::read_unaligned((&raw const *info).cast::<Perf>()) };
        let address = perf.address;
        match (perf.signo, perf.code) {
            (libc::SIGTRAP, TRAP_PERF) if matches!(perf.data, MARK | DATA_MARK) => {
                let (data, late) = (perf.data == DATA_MARK, perf.flags & TRAP_PERF_FLAG_ASYNC != 0);
                Some(Signalled { address, data, late, forced: false, counted: true })
            }
            (libc::SIGTRAP, TRAP_HWBKPT) => {
                Some(Signalled { address, data: false, late: false, forced: true, counted: true })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_of_others_are_none_of_ours() {
        // SAFETY: all-zero bytes are a valid siginfo_t.
        let mut info: siginfo_t = unsafe { std::mem::zeroed() };
        (info.si_signo, info.si_code) = (libc::SIGTRAP, 6);
        assert_eq!(Signalled::of(&info), None);
        let mark = (&raw mut info).cast::<u64>().wrapping_add(3);
        // SAFETY: the fourth word lies within siginfo_t, which is aligned to 8 bytes.
        unsafe { *mark = MARK };
        let signalled = Signalled { address: 0, data: false, late: false, forced: false, counted: true };
        assert_eq!(Signalled::of(&info), Some(signalled));
        // SAFETY: as above.
        unsafe { *mark = DATA_MARK };
        assert_eq!(Signalled::of(&info), Some(Signalled { data: true, ..signalled }));
        info.si_signo = libc::SIGSEGV;
        assert_eq!(Signalled::of(&info), None);
    }

    #[test]
    fn a_breakpoint_may_be_taken_for_something_else() {
        // SAFETY: all-zero bytes are a valid siginfo_t.
        let mut info: siginfo_t = unsafe { std::mem::zeroed() };
        let told = Signalled { address: 0, data: false, late: false, forced: true, counted: true };
        for (code, trap) in [
            (TRAP_BRKPT, Some(Trap::Untold)),
            (TRAP_TRACE, Some(Trap::Untold)),
            (TRAP_HWBKPT, Some(Trap::Told(told))),
            (0x80, None),
            (libc::SI_USER, None),
        ] {
            (info.si_signo, info.si_code) = (libc::SIGTRAP, code);
            assert_eq!(Trap::of(&info), trap, "{code}");
        }
    }
}
