//! `rep movsb` and `rep stosb` of a mebibyte, emulated by the ptrace executor, against copying the same
//! bytes by process_vm_readv and process_vm_writev. Both are measured in one run, in turn: the copy in the
//! handler of the probe whose instruction is emulated next.
//!
//! The target is this program itself, started again.

#![allow(unsafe_code, reason = "the target executes the string instructions that are measured")]

use std::arch::asm;
use std::env;
use std::io::{IoSlice, IoSliceMut, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::uio::{RemoteIoVec, process_vm_readv, process_vm_writev};
use nix::unistd::Pid;
use probe::locate::Address;
use probe::{Action, Session};

/// What is copied or filled at a time.
const LENGTH: usize = 1 << 20;
/// How often each is measured.
const ROUNDS: usize = 200;
/// How many times as long as the copy the emulation may take.
const AT_MOST: f64 = 4.0;
/// Names, in the environment, the instruction that the target is to execute.
const TARGET: &str = "STEPLESS_BENCH_STRING";

/// Copies `count` bytes and returns the address of the instruction that did.
#[inline(never)]
fn movsb(from: &[u8], to: &mut [u8], count: usize) -> u64 {
    let count = count.min(from.len()).min(to.len());
    let address;
    // SAFETY: both slices have at least `count` bytes, and DF is clear as Rust's calling convention says.
    unsafe {
        asm!(
            "lea {address}, [rip + 2f]",
            "2: rep movsb",
            address = out(reg) address,
            inout("rsi") from.as_ptr() => _,
            inout("rdi") to.as_mut_ptr() => _,
            inout("rcx") count => _,
            options(nostack, preserves_flags),
        );
    }
    address
}

/// Fills `count` bytes and returns the address of the instruction that did.
#[inline(never)]
fn stosb(to: &mut [u8], count: usize) -> u64 {
    let address;
    // SAFETY: the slice has at least as many bytes, and DF is clear as Rust's calling convention says.
    unsafe {
        asm!(
            "lea {address}, [rip + 2f]",
            "2: rep stosb",
            address = out(reg) address,
            inout("rdi") to.as_mut_ptr() => _,
            inout("rcx") count.min(to.len()) => _,
            in("al") 7u8,
            options(nostack, preserves_flags),
        );
    }
    address
}

/// Executes the instruction for ever, having said where it is.
fn target(name: &str) -> ! {
    let (from, mut to) = (vec![1; LENGTH], vec![2; LENGTH]);
    let mut once = |count| match name {
        "movsb" => movsb(&from, &mut to, count),
        _ => stosb(&mut to, count),
    };
    let mut out = std::io::stdout();
    writeln!(out, "{}", once(0)).and_then(|()| out.flush()).expect("the benchmark reads this");
    loop {
        once(LENGTH);
    }
}

/// The time to copy a mebibyte of the target's out and back in.
fn copy(pid: Pid, address: u64, buffer: &mut [u8]) -> Duration {
    let remote = [RemoteIoVec { base: address as usize, len: LENGTH }];
    let start = Instant::now();
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(buffer)], &remote);
    let written = process_vm_writev(pid, &[IoSlice::new(buffer)], &remote);
    let time = start.elapsed();
    assert_eq!((read, written), (Ok(LENGTH), Ok(LENGTH)));
    time
}

/// Returns how many times as long as the copy the emulation takes.
fn measure(name: &str) -> f64 {
    let (mut child, address) = benches::start_again(TARGET, name);
    let pid = i32::try_from(child.id()).expect("the kernel's process numbers are small");
    let mut session = Session::attach(pid).expect("a child can be traced");
    let (sender, times) = mpsc::channel();
    let mut buffer = vec![0; LENGTH];
    let mut resumed: Option<Instant> = None;
    session
        .probe(Address(address), move |hit| {
            let emulated = resumed.map(|resumed| resumed.elapsed());
            let rdi = hit.registers().gpr[emu::registers::gpr::RDI];
            let copied = copy(Pid::from_raw(hit.pid()), rdi, &mut buffer);
            if let Some(emulated) = emulated {
                sender.send((emulated, copied)).ok();
            }
            resumed = Some(Instant::now());
            Action::Continue
        })
        .expect("the instruction can be probed");
    let mut rounds = Vec::new();
    while rounds.len() < ROUNDS {
        session.run_for(Duration::from_millis(20));
        rounds.extend(times.try_iter());
    }
    drop(session);
    child.kill().expect("the target runs until it is killed");
    child.wait().expect("it is a child");
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let emulated = median(rounds.iter().map(|round| round.0).collect());
    let copied = median(rounds.iter().map(|round| round.1).collect());
    let ratio = emulated / copied;
    println!("rep {name}, 1 MiB: {emulated:.0} us emulated, {copied:.0} us copied: {ratio:.2} times");
    ratio
}

fn main() {
    if let Ok(name) = env::var(TARGET) {
        target(&name);
    }
    let ratios = ["movsb", "stosb"].map(measure);
    assert!(ratios.iter().all(|&ratio| ratio <= AT_MOST), "more than {AT_MOST} times");
}
