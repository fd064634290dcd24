//! Placing many probes and removing them.

use std::time::{Duration, Instant};

use emu::Processor;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use probe::code::of_range;
use probe::elf::Elf;
use probe::maps;
use probe::{Action, Hit, ProbeId, Session};

use crate::bpf::Link;
use crate::others::place;
use crate::uprobe::{Counter, Of};
use crate::{Failure, classic, target};

/// How long placing and removing took, in seconds.
pub(crate) type Times = (f64, f64);

/// How many bytes this process has from the C library's allocator.
#[allow(unsafe_code, reason = "the allocator is asked")]
fn allocated() -> f64 {
    // SAFETY: the call only reads.
    unsafe { libc::mallinfo2() }.uordblks as f64
}

/// So many instructions of this program that everybody can probe: their offsets in the file.
pub(crate) fn offsets(count: usize) -> Result<Vec<u64>, Failure> {
    let elf = Elf::open(&std::env::current_exe()?)?;
    let all = elf.code().iter().flat_map(|range| of_range(&elf, range, Processor::host()));
    let plain = |displaced: &emu::Displaced| {
        use iced_x86::{Mnemonic, Register};
        let instruction = displaced.instruction();
        let mnemonics = [Mnemonic::Mov, Mnemonic::Lea, Mnemonic::Push, Mnemonic::Pop, Mnemonic::Add];
        mnemonics.contains(&instruction.mnemonic())
            && instruction.segment_prefix() == Register::None
            && !instruction.has_lock_prefix()
    };
    let fit = all.filter(|instruction| instruction.displaced.as_ref().is_ok_and(plain));
    let offsets: Vec<u64> =
        fit.filter_map(|instruction| elf.offset_of_address(instruction.address)).take(count).collect();
    if offsets.len() < count {
        return Err(format!("this program has only {} instructions", offsets.len()).into());
    }
    Ok(offsets)
}

/// A target that is stopped at its first instruction.
struct Target(nix::unistd::Pid);

impl Target {
    fn start() -> Result<Target, Failure> {
        Ok(Target(classic::start(target::command("peers_move", 1)?)?))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // It has ended by itself where either fails.
        let _ = kill(self.0, Signal::SIGKILL).and_then(|()| waitpid(self.0, None));
    }
}

/// A probe each, of ours: how long that took, and how many bytes each takes that has not been hit.
pub(crate) fn stepless(offsets: &[u64]) -> Result<(Times, f64), Failure> {
    let mut child = target::sleeping()?;
    let pid = i32::try_from(child.id())?;
    let mut session = Session::attach(pid)?;
    let maps = maps::read(pid)?;
    let program = std::env::current_exe()?;
    let addresses: Vec<u64> = offsets
        .iter()
        .filter_map(|&offset| {
            let of_program =
                maps.iter().filter(|mapping| mapping.is_executable() && mapping.file() == Some(&*program));
            of_program.filter_map(|mapping| mapping.address_of(offset)).next()
        })
        .collect();
    if addresses.len() != offsets.len() {
        return Err(format!("{} of {} places are mapped", addresses.len(), offsets.len()).into());
    }
    let (before, start) = (allocated(), Instant::now());
    let each = addresses
        .iter()
        .map(|&address| (probe::locate::Address(address), |_: &mut Hit<'_>| Action::Continue));
    let probes = session.probe_all(each)?.into_iter().collect::<Result<Vec<_>, _>>()?;
    let placed = start.elapsed();
    let own = probes.capacity() * size_of::<ProbeId>();
    let bytes = (allocated() - before - own as f64) / addresses.len() as f64;
    let start = Instant::now();
    probes.into_iter().for_each(|probe| session.remove(probe));
    drop(session);
    let removed = start.elapsed();
    child.kill()?;
    child.wait()?;
    Ok(((placed.as_secs_f64(), removed.as_secs_f64()), bytes))
}

/// A uprobe each, of perf's.
pub(crate) fn uprobes(offsets: &[u64]) -> Result<Times, Failure> {
    let target = Target::start()?;
    let (path, _) = place("peers_move")?;
    let start = Instant::now();
    let counters = offsets.iter().map(|&offset| Counter::open(&path, offset, Of::Thread(target.0.as_raw())));
    let counters = counters.collect::<Result<Vec<_>, _>>()?;
    let placed = start.elapsed();
    Ok((placed.as_secs_f64(), dropped(counters).as_secs_f64()))
}

/// All of them by one link of BPF.
pub(crate) fn uprobe_multi(offsets: &[u64]) -> Result<Times, Failure> {
    let target = Target::start()?;
    let (path, _) = place("peers_move")?;
    let start = Instant::now();
    let link = Link::open(&path, offsets, target.0.as_raw())?;
    let placed = start.elapsed();
    Ok((placed.as_secs_f64(), dropped(link).as_secs_f64()))
}

fn dropped<T>(value: T) -> Duration {
    let start = Instant::now();
    drop(value);
    start.elapsed()
}
