//! Exceptions become the signals that the kernel would have sent.
//!
//! A signal handler sees more than `siginfo_t`: its `ucontext_t` holds TRAPNO, ERR and CR2, which only a
//! real fault sets. So where it can, the thread really faults, at an instruction that its own text already
//! has, with registers set to make the same access. That also lets the kernel do what it does at a fault:
//! grow the stack, for one.

use emu::registers::gpr;
use emu::{Exception, Registers};
use libc::c_int;
use nix::sys::ptrace;

use crate::executor::Fetched;
use crate::maps;
use crate::space::Space;
use crate::stop::Stopped;
use crate::sys;

/// What became of an exception.
#[derive(Debug)]
pub(crate) enum Delivery {
    /// Resume the thread with this signal.
    Signal(Stopped, c_int),
    /// There is no fault (any more): perform the instruction again.
    Retry(Stopped),
    /// The thread ended: its id and wait status.
    Ended(i32, i32),
}

/// An access that a thread can be made to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    /// A load.
    Load(u64),
    /// A store that changes nothing.
    Store(u64),
    /// The same, addressed by RSP.
    StackStore(u64),
}

/// The first address that is not canonical, for processors with four or five levels of paging alike.
const NOT_CANONICAL: u64 = 1 << 63;

/// Where in the target's text the instructions are that can be borrowed.
#[derive(Debug, Default)]
pub(crate) struct Borrowed {
    load: Option<Loan>,
    store: Option<Loan>,
}

/// An instruction of the target that accesses memory at a plain register.
#[derive(Clone, Copy, Debug)]
struct Loan {
    address: u64,
    /// Its bytes, and how many of them count.
    bytes: [u8; 5],
    length: usize,
    /// The register that holds the address.
    base: usize,
    /// The register that must be zero for a store to change nothing.
    zero: Option<usize>,
}

impl Loan {
    /// `lock or dword [rsp], 0`: a full barrier as compilers write it. Atomic, so its store can lose no
    /// other thread's.
    const BARRIER: [u8; 5] = [0xf0, 0x83, 0x0c, 0x24, 0x00];

    /// A loan at the start of `bytes`, if there is one. Any bytes that decode so will do, also from the
    /// middle of an instruction.
    fn load_at(address: u64, bytes: &[u8]) -> Option<Loan> {
        // MOV r8, r/m8
        let &[0x8a, modrm, ..] = bytes else { return None };
        Some(Loan { address, bytes: [0x8a, modrm, 0, 0, 0], length: 2, base: plain_base(modrm)?, zero: None })
    }

    fn barrier_at(address: u64, bytes: &[u8]) -> Option<Loan> {
        bytes.starts_with(&Self::BARRIER).then_some(Loan {
            address,
            bytes: Self::BARRIER,
            length: Self::BARRIER.len(),
            base: gpr::RSP,
            zero: None,
        })
    }

    fn store_at(address: u64, bytes: &[u8]) -> Option<Loan> {
        // ADD r/m8, r8 and OR r/m8, r8
        let &[opcode @ (0x00 | 0x08), modrm, ..] = bytes else { return None };
        let base = plain_base(modrm)?;
        let zero = usize::from(modrm >> 3 & 7);
        // Numbers 4 to 7 would be AH to BH.
        (zero < 4 && zero != base).then_some(Loan {
            address,
            bytes: [opcode, modrm, 0, 0, 0],
            length: 2,
            base,
            zero: Some(zero),
        })
    }

    fn is_still_there(&self, space: &Space) -> bool {
        let mut now = [0; 5];
        match (now.get_mut(..self.length), self.bytes.get(..self.length)) {
            (Some(now), Some(known)) => {
                space.read_raw(self.address, now).is_ok_and(|read| read == self.length) && now == known
            }
            _ => false,
        }
    }
}

/// The base register of a ModRM byte that means `[register]` and nothing more.
fn plain_base(modrm: u8) -> Option<usize> {
    let rm = usize::from(modrm & 7);
    (modrm < 0x40 && rm != gpr::RSP && rm != gpr::RBP).then_some(rm)
}

impl Trial {
    /// The instruction to borrow for it.
    fn loan(self, space: &mut Space, tid: i32) -> Option<Loan> {
        let known = match self {
            Trial::Load(_) => space.borrowed.load,
            Trial::Store(_) | Trial::StackStore(_) => space.borrowed.store,
        };
        if let Some(loan) = known.filter(|loan| self.suits(loan) && loan.is_still_there(space)) {
            return Some(loan);
        }
        let found = match self {
            Trial::Load(_) => find(space, tid, Loan::load_at),
            Trial::StackStore(_) => find(space, tid, Loan::barrier_at),
            Trial::Store(_) => {
                find(space, tid, Loan::barrier_at).or_else(|| find(space, tid, Loan::store_at))
            }
        };
        match self {
            Trial::Load(_) => space.borrowed.load = found,
            Trial::Store(_) | Trial::StackStore(_) => space.borrowed.store = found,
        }
        found
    }

    fn suits(self, loan: &Loan) -> bool {
        !matches!(self, Trial::StackStore(_)) || loan.base == gpr::RSP
    }

    fn address(self) -> u64 {
        match self {
            Trial::Load(address) | Trial::Store(address) | Trial::StackStore(address) => address,
        }
    }
}

/// Searches the executable mappings for an instruction to borrow.
fn find(space: &Space, tid: i32, at: impl Fn(u64, &[u8]) -> Option<Loan>) -> Option<Loan> {
    const CHUNK: usize = 1 << 16;
    let maps = maps::read(tid).ok()?;
    let mut buffer = vec![0; CHUNK];
    for mapping in maps.iter().filter(|mapping| mapping.is_executable()) {
        let mut address = mapping.start;
        while address < mapping.end {
            let wanted = usize::try_from(mapping.end - address).map_or(CHUNK, |left| left.min(CHUNK));
            let chunk = buffer.get_mut(..wanted)?;
            let Ok(count) = space.read_raw(address, chunk) else { break };
            let read = chunk.get(..count)?;
            let loan = (0..read.len()).find_map(|offset| at(address + offset as u64, read.get(offset..)?));
            if loan.is_some() {
                return loan;
            }
            if count < wanted {
                break;
            }
            // The next chunk starts with the last bytes of this one.
            address += if count == CHUNK { (CHUNK - Loan::BARRIER.len()) as u64 } else { count as u64 };
        }
    }
    None
}

/// Turns `exception` of the instruction that `registers` stand at into a signal for the stopped thread.
///
/// `retries` says how often the instruction has been performed again already.
pub(crate) fn deliver(
    exception: Exception,
    stopped: Stopped,
    registers: &mut Fetched,
    space: &mut Space,
    retries: u32,
) -> Delivery {
    const WRITE: u32 = 1 << 1;
    const MOST_RETRIES: u32 = 2;
    let trial = match exception {
        Exception::PageFault { address, error_code } if error_code & WRITE != 0 => {
            Some(Trial::Store(address))
        }
        Exception::PageFault { address, .. } => Some(Trial::Load(address)),
        Exception::GeneralProtection(0) => Some(Trial::Load(NOT_CANONICAL)),
        Exception::StackFault(0) => Some(Trial::StackStore(NOT_CANONICAL)),
        _ => None,
    };
    let tid = stopped.tid();
    let mut stopped = stopped;
    if retries <= MOST_RETRIES
        && let Some(trial) = trial
        && let Some(loan) = trial.loan(space, tid)
    {
        match attempt(stopped, registers, loan, trial.address()) {
            Attempt::Faulted(stopped, signal) => return Delivery::Signal(stopped, signal),
            Attempt::Completed(stopped) => return Delivery::Retry(stopped),
            Attempt::Ended(tid, status) => return Delivery::Ended(tid, status),
            Attempt::Unclear(same) => stopped = same,
        }
    }
    let signal = match signal_of(exception, &registers.file) {
        // The stop that we are in is that of an INT3: its siginfo is right.
        None => libc::SIGTRAP,
        Some((signal, code, address)) => {
            let info = sys::fault_siginfo(signal, code, address);
            let _ = ptrace::setsiginfo(sys::pid(tid), &info);
            signal
        }
    };
    Delivery::Signal(stopped, signal)
}

/// The signal, `si_code` and `si_addr` that the kernel sends for an exception (arch/x86/kernel/traps.c);
/// `None` for #BP.
fn signal_of(exception: Exception, registers: &Registers) -> Option<(c_int, c_int, u64)> {
    const SI_KERNEL: c_int = 0x80;
    const FPE_INTDIV: c_int = 1;
    const FPE_FLTINV: c_int = 7;
    const ILL_ILLOPN: c_int = 2;
    const SEGV_MAPERR: c_int = 1;
    const SEGV_ACCERR: c_int = 2;
    const SEGV_CPERR: c_int = 10;
    const BUS_ADRALN: c_int = 1;
    const TRAP_BRKPT: c_int = 1;
    const PRESENT: u32 = 1;
    let rip = registers.rip;
    Some(match exception {
        Exception::Breakpoint => return None,
        Exception::DivideError => (libc::SIGFPE, FPE_INTDIV, rip),
        Exception::Debug => (libc::SIGTRAP, TRAP_BRKPT, rip),
        Exception::InvalidOpcode => (libc::SIGILL, ILL_ILLOPN, rip),
        Exception::SegmentNotPresent(_) | Exception::StackFault(_) => (libc::SIGBUS, SI_KERNEL, 0),
        Exception::GeneralProtection(_) => (libc::SIGSEGV, SI_KERNEL, 0),
        Exception::PageFault { address, error_code } => {
            let code = if error_code & PRESENT != 0 { SEGV_ACCERR } else { SEGV_MAPERR };
            (libc::SIGSEGV, code, address)
        }
        Exception::X87FloatingPoint | Exception::SimdFloatingPoint => (libc::SIGFPE, FPE_FLTINV, rip),
        Exception::AlignmentCheck => (libc::SIGBUS, BUS_ADRALN, 0),
        Exception::ControlProtection(_) => (libc::SIGSEGV, SEGV_CPERR, 0),
    })
}

/// What came of borrowing an instruction.
enum Attempt {
    /// It faulted, and the thread is about to take this signal.
    Faulted(Stopped, c_int),
    /// It completed.
    Completed(Stopped),
    /// Neither was seen.
    Unclear(Stopped),
    /// The thread ended: its id and wait status.
    Ended(i32, i32),
}

/// Makes the thread run the borrowed instruction on `address`, and puts its registers right again.
fn attempt(stopped: Stopped, registers: &mut Fetched, loan: Loan, address: u64) -> Attempt {
    let tid = stopped.tid();
    let own = (registers.file.gpr, registers.file.rip);
    let mask = sys::signal_mask(tid).unwrap_or(0);
    let _ = sys::set_signal_mask(tid, mask | !SYNCHRONOUS);
    if let Some(base) = registers.file.gpr.get_mut(loan.base) {
        *base = address;
    }
    if let Some(zero) = loan.zero.and_then(|zero| registers.file.gpr.get_mut(zero)) {
        *zero = 0;
    }
    registers.file.rip = loan.address;
    let _ = registers.store(tid);
    let mut deferred = Deferred::default();
    let result = step(stopped, &mut deferred);
    // The registers may have changed in the kernel: what `store` compares with must be fetched first.
    let _ = registers.fetch(tid);
    (registers.file.gpr, registers.file.rip) = own;
    let _ = registers.store(tid);
    // A forced signal has unblocked itself.
    let now = sys::signal_mask(tid).unwrap_or(mask);
    let _ = sys::set_signal_mask(tid, mask & (now | !SYNCHRONOUS));
    if let Some(pid) = crate::procfs::process_of(tid) {
        for signal in deferred.signals() {
            let _ = sys::send(pid, tid, signal);
        }
    }
    result
}

/// The signals that an instruction itself raises.
const SYNCHRONOUS: u64 = {
    const fn bit(signal: c_int) -> u64 {
        1 << (signal - 1)
    }
    bit(libc::SIGSEGV)
        | bit(libc::SIGBUS)
        | bit(libc::SIGTRAP)
        | bit(libc::SIGILL)
        | bit(libc::SIGFPE)
        | bit(libc::SIGSYS)
};

/// Signals that came in between and are sent again afterwards.
#[derive(Default)]
struct Deferred(u64);

impl Deferred {
    fn signals(&self) -> impl Iterator<Item = c_int> + '_ {
        (1..=64).filter(|signal| self.0 & (1 << (signal - 1)) != 0)
    }
}

/// Steps the borrowed instruction.
fn step(stopped: Stopped, deferred: &mut Deferred) -> Attempt {
    // SIGSTOP cannot be blocked, and an interruption may be pending: a few stops may come in between.
    const MOST_STOPS: usize = 8;
    let mut stopped = stopped;
    for _ in 0..MOST_STOPS {
        stopped = match stopped.step() {
            Ok(stopped) => stopped,
            Err((tid, status)) => return Attempt::Ended(tid, status),
        };
        if !stopped.is_signal() {
            continue;
        }
        match stopped.signal {
            libc::SIGTRAP => return Attempt::Completed(stopped),
            signal @ (libc::SIGSEGV | libc::SIGBUS) => return Attempt::Faulted(stopped, signal),
            signal @ 1..=64 => deferred.0 |= 1 << (signal - 1),
            _ => {}
        }
    }
    Attempt::Unclear(stopped)
}
