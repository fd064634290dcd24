//! What an instruction costs where each one is executed by somebody: emulated, run on, or stepped.

#![allow(unsafe_code, reason = "the loop that is executed is written in assembly, and read as bytes")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use emu::{Displaced, FlatMemory, Registers};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use probe::run_on::Region;
use probe::{Action, Session};

use crate::others::{Scratch, output};
use crate::stepless::resolver;
use crate::{Failure, classic, frida, target};

// Arithmetic, a store, a load and a branch, without an end.
std::arch::global_asm!(
    ".p2align 5, 0xcc",
    ".globl peers_loop",
    "peers_loop:",
    "add rax, rcx",
    "mov [rdi], rax",
    "mov rdx, [rdi]",
    "imul rdx, rax",
    "lea rsi, [rdx + rax * 4]",
    "xor r8d, r8d",
    "inc r9",
    "jmp peers_loop",
    ".globl peers_loop_end",
    "peers_loop_end:",
    // The same with an end, and with a load of what it has not just stored; and where it is over.
    ".globl peers_counted",
    ".type peers_counted, @function",
    "peers_counted:",
    "endbr64",
    "2:",
    "add rax, rcx",
    "mov [rdi], rax",
    "mov rdx, [rdi + 8]",
    "imul rdx, rax",
    "lea r8, [rdx + rax * 4]",
    "xor r8d, r8d",
    "dec rsi",
    "jnz 2b",
    "ret",
    ".size peers_counted, . - peers_counted",
    ".globl peers_counted_end",
    ".type peers_counted_end, @function",
    "peers_counted_end:",
    "ret",
    ".size peers_counted_end, . - peers_counted_end",
);

unsafe extern "C" {
    static peers_loop: u8;
    static peers_loop_end: u8;
    #[link_name = "peers_loop"]
    fn run_loop(place: *mut u64) -> !;
    fn peers_counted(places: *mut u64, rounds: u64);
    fn peers_counted_end();
}

/// The name by which the target is told to run the loop.
pub(crate) const LOOP: &str = "peers_loop";

/// Runs it until somebody kills this process.
pub(crate) fn for_ever() -> ! {
    let mut place = 0;
    // SAFETY: it follows the C calling convention and accesses nothing but the eight bytes at its argument.
    unsafe { run_loop(&raw mut place) }
}

/// The name by which the target is told to run the loop that ends.
pub(crate) const COUNTED: &str = "peers_counted";
/// The instructions of one of its rounds.
const ROUND: u64 = 8;

/// Runs it, while another thread sleeps or none is there.
pub(crate) fn counted(rounds: u64, with_another: bool) {
    if with_another {
        thread::spawn(|| thread::sleep(Duration::from_secs(3600)));
    }
    let mut places = [0; 2];
    // SAFETY: both follow the C calling convention, and the first one accesses nothing but the two numbers at its argument.
    unsafe {
        peers_counted(places.as_mut_ptr(), rounds.max(1));
        peers_counted_end();
    }
}

/// A thread that runs on from one hit, while another sleeps or none is there.
pub(crate) fn run_on(count: u64, with_another: bool) -> Result<f64, Failure> {
    let rounds = (count / ROUND).max(1);
    let mut command = target::command(COUNTED, rounds)?;
    command.args(["--threads", if with_another { "2" } else { "1" }]);
    let mut session = Session::launch(command)?;
    let (begins, times) = mpsc::channel();
    let ends = begins.clone();
    session.probe(resolver(COUNTED)?, move |hit| {
        // Nobody is there to hear of it otherwise.
        let _ = begins.send(Instant::now());
        hit.run_on(Region::new().until_return());
        Action::Continue
    })?;
    session.probe(resolver("peers_counted_end")?, move |_| {
        let _ = ends.send(Instant::now());
        Action::Continue
    })?;
    session.run();
    let (start, end) = (times.recv()?, times.recv()?);
    Ok((end - start).as_nanos() as f64 / (rounds * ROUND) as f64)
}

/// The loop's code.
fn code() -> &'static [u8] {
    let (start, end) = (&raw const peers_loop, &raw const peers_loop_end);
    // SAFETY: both are labels of one piece of this program's text, which is there for ever and never written to.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// Executing, where decoding is done once.
pub(crate) fn emu(count: u64) -> Result<f64, Failure> {
    const START: u64 = 0x10_0000;
    const DATA: u64 = 0x20_0000;
    let code = code();
    // Which instruction begins at each byte of it.
    let mut at: Vec<Option<Displaced>> = vec![None; code.len()];
    let mut offset = 0;
    while let Some(bytes) = code.get(offset..).filter(|bytes| !bytes.is_empty()) {
        let displaced = Displaced::decode(bytes, START + offset as u64)?;
        let length = displaced.instruction().len();
        if let Some(place) = at.get_mut(offset) {
            *place = Some(displaced);
        }
        offset += length;
    }
    let mut registers = Registers { rip: START, ..Registers::default() };
    registers.gpr[7] = DATA + 512;
    registers.gpr[4] = DATA + 2048;
    let mut memory = FlatMemory::new(DATA, 4096);
    let start = Instant::now();
    for _ in 0..count {
        let offset = registers.rip.wrapping_sub(START) as usize;
        let displaced = at.get(offset).and_then(Option::as_ref).ok_or("it left the loop")?;
        displaced.execute(&mut registers, &mut memory).map_err(|exception| format!("{exception:?}"))?;
    }
    Ok(start.elapsed().as_nanos() as f64 / count as f64)
}

/// Stepping by the processor.
pub(crate) fn singlestep(count: u64) -> Result<f64, Failure> {
    let pid = classic::start(target::command(LOOP, 1)?)?;
    // Past the start of the program: into the loop, wherever that is by now, is not needed; each step is one.
    let start = Instant::now();
    for _ in 0..count {
        ptrace::step(pid, None)?;
        waitpid(pid, None)?;
    }
    let time = start.elapsed().as_nanos() as f64 / count as f64;
    kill(pid, Signal::SIGKILL)?;
    waitpid(pid, None)?;
    Ok(time)
}

/// How unicorn is asked for the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unicorn {
    /// One by one, with its registers written before each and read after it.
    Step,
    /// One by one, without that.
    Bare,
    /// All at once.
    Loop,
}

const SOURCE: &str = include_str!("unicorn.c");

/// The program that drives unicorn, made from its headers and library.
fn driver(scratch: &Scratch) -> Result<PathBuf, Failure> {
    let python = frida::python();
    let place = "import os, unicorn; print(os.path.dirname(unicorn.__file__))";
    let place = output(Command::new(python).args(["-c", place]))?;
    let (place, program, source) = (place.trim(), scratch.path("unicorn"), scratch.path("unicorn.c"));
    std::fs::write(&source, SOURCE)?;
    let library = format!("{place}/lib");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-o"]).arg(&program).arg(&source).arg(format!("-I{place}/include"));
    gcc.arg(format!("-L{library}")).arg("-l:libunicorn.so.2").arg(format!("-Wl,-rpath,{library}"));
    output(&mut gcc)?;
    Ok(program)
}

/// unicorn's time.
pub(crate) fn unicorn(how: Unicorn, count: u64) -> Result<f64, Failure> {
    let way = match how {
        Unicorn::Step => "step",
        Unicorn::Bare => "bare",
        Unicorn::Loop => "loop",
    };
    let scratch = Scratch::new("unicorn")?;
    let code: String = code().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut run = Command::new(driver(&scratch)?);
    Ok(output(run.args([way, &count.to_string(), &code]))?.trim().parse()?)
}

/// Its version.
pub(crate) fn unicorn_version() -> Result<String, Failure> {
    let scratch = Scratch::new("unicorn")?;
    output(Command::new(driver(&scratch)?).arg("version"))
}
