//! One program under each executor: the same hits and counts, and nothing that it notices.
//!
//! The program is this file itself, started again. It has functions in assembly, which are probed on each instruction: by
//! INT3 for a tracer in this process, or in the warden; for a thread that runs on from probe to probe; by hardware
//! breakpoints, four at a time; and by the program itself, by traps alone or by jumps where they are safe.

#![allow(
    unsafe_code,
    reason = "functions in assembly, a handler of a signal, and a shadow stack, which the program is to have"
)]

#[macro_use]
#[path = "../../tests/common/functions.rs"]
mod functions;

use std::arch::asm;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use emu::registers::gpr;
use iced_x86::{Decoder, DecoderOptions, FlowControl};
use probe::language::{Binary, Expression, Register};
use probe::locate::{Hardware, Locate, LocateError, Site};
use probe::maps::Maps;
use probe::own::{Means, Options};
use probe::resolve::{Objects, Resolver};
use probe::run_on::{Region, What};
use probe::spec::ProbeSpec;
use probe::warden::{Client, Program};
use probe::{Action, Counters, Hit, OwnRefusal, RunEnd, Session, SessionOptions};

functions!(
    r#"
    # rdi: a place of 64 bytes, r9: the number of the round, which it leaves alone. The same instructions in each round.
    function executors_counted
    endbr64
    .byte 0x0f, 0x1f, 0x44, 0, 0
    push rbx
    mov rbx, rdi
    mov rax, qword ptr [rbx]
    lea rax, [rax + r9 * 4 + 7]
    mov qword ptr [rbx], rax
    lock xadd qword ptr [rbx + 8], rax
    movdqu xmm0, xmmword ptr [rbx]
    paddq xmm0, xmm0
    movdqu xmmword ptr [rbx + 16], xmm0
    mov ecx, 3
7:  rol rax, 5
    dec ecx
    jnz 7b
    call 3f
    xor qword ptr [rbx + 32], rax
    mov eax, 39                         # getpid
    syscall
    mov ecx, 8
    lea rsi, [rbx + 32]
    lea rdi, [rbx + 40]
    rep movsb
    mov ecx, 0xf                        # a selector of the LDT: whether that can be read only the thread itself can say.
    verr cx
    setz byte ptr [rbx + 48]
    cmp rax, 0
    jg 2f
    ud2
2:  mov rax, qword ptr [rbx + 32]
    pop rbx
    ret
3:  not rax
    ret
    end executors_counted

    # rsi: an address, r9: as above.
    function executors_loading
    lea rax, [r9 + r9]
    add rax, qword ptr [rsi]
    ret
    end executors_loading

    # Keeps data below its stack pointer: rdi, rsi and rdx, of which it returns the sum.
    function executors_red_zone
    mov qword ptr [rsp - 8], rdi
    mov qword ptr [rsp - 64], rsi
    mov qword ptr [rsp - 128], rdx
    nop
    .byte 0x0f, 0x1f, 0x44, 0, 0
    mov eax, 0x12345678
    inc qword ptr [rsp - 64]
    mov rax, qword ptr [rsp - 8]
    add rax, qword ptr [rsp - 64]
    add rax, qword ptr [rsp - 128]
    dec rax
    ret
    end executors_red_zone

    # Calls and returns in several ways; rdi: how deep. Returns how often it was called.
    function executors_calling
    endbr64
    rdsspq r10
    test rdi, rdi
    jz 4f
    push rdi
    dec rdi
    lea rax, [rip + executors_calling]
    test edi, 1
    jz 2f
    call rax
    jmp 3f
2:  call executors_calling
3:  pop rdi
    inc rax
    call 5f
    ret
4:  mov eax, 1
    ret
5:  push rax
    call 6f
    pop rax
    ret
6:  ret 0
    end executors_calling

    # Returns to another place than it was called from.
    function executors_astray
    mov r8, qword ptr [rsp]
    lea rax, [rip + 2f]
    mov qword ptr [rsp], rax
    ret
2:  xor eax, eax
    jmp r8
    end executors_astray

    # Where the program's handler sends it then: back to where it was called from.
    function executors_back
    mov qword ptr [rsp], r8
    mov eax, 21
    ret
    end executors_back
    "#
);

macro_rules! functions {
    ($($name:ident $end:ident $signature:ty;)+) => {
        unsafe extern "C" { $(fn $name(); fn $end();)+ }
        $(
            #[allow(dead_code, reason = "each is there in the same way")]
            mod $name {
                pub(super) const NAME: &str = stringify!($name);
                pub(super) fn range() -> std::ops::Range<u64> {
                    super::$name as *const () as u64..super::$end as *const () as u64
                }
                pub(super) fn call() -> $signature {
                    // SAFETY: this is its signature.
                    unsafe { std::mem::transmute::<*const (), $signature>(super::$name as *const ()) }
                }
            }
        )+
    };
}

functions! {
    executors_counted executors_counted_end extern "C" fn(*mut u64, u64, u64, u64, u64, u64) -> u64;
    executors_loading executors_loading_end extern "C" fn(u64, *const u64, u64, u64, u64, u64) -> u64;
    executors_red_zone executors_red_zone_end extern "C" fn(u64, u64, u64) -> u64;
    executors_calling executors_calling_end extern "C" fn(u64) -> u64;
    executors_astray executors_astray_end extern "C" fn() -> u64;
    executors_back executors_back_end extern "C" fn() -> u64;
}

/// What the program is to do, in its environment: its part, how often, and how it is to probe itself.
const PART: &str = "STEPLESS_EXECUTORS_PART";
const ROUNDS: &str = "STEPLESS_EXECUTORS_ROUNDS";
const MEANS: &str = "STEPLESS_EXECUTORS_MEANS";

/// What executes displaced instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// A tracer in this process.
    Ptrace,
    /// The same, of a thread that runs on all the while.
    RunOn,
    /// A tracer in the warden.
    Warden,
    Hardware,
    /// The program itself, by traps.
    Trap,
    /// The program itself, by jumps where they are safe.
    Jump,
}

const ALL: [By; 6] = [By::Ptrace, By::RunOn, By::Warden, By::Hardware, By::Trap, By::Jump];

/// What a run of the program came to.
#[derive(Debug, Default)]
struct Run {
    output: String,
    /// hits, emulated, faulted, native, filtered.
    counted: [u64; 5],
    missed: u64,
    sites: u64,
    /// The kinds of instructions that were refused.
    refused: Vec<String>,
    /// How many sites were reached by jumps.
    jumps: u64,
}

impl Run {
    fn add(&mut self, counters: Counters) {
        let Counters { hits, emulated, faulted, native, filtered, missed, .. } = counters;
        let all = [hits, emulated, faulted, native, filtered];
        self.counted.iter_mut().zip(all).for_each(|(sum, number)| *sum += number);
        self.missed += missed;
    }
}

/// Every other round is of no interest.
fn filter(hit: &mut Hit<'_>) -> Action {
    if hit.registers().gpr[gpr::R9] & 1 == 0 {
        hit.filter_out();
    }
    Action::Continue
}

/// Four sites of another place.
struct Four {
    all: Resolver,
    from: usize,
    total: Arc<AtomicU64>,
}

impl Locate for Four {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        let sites = self.all.locate(maps)?;
        self.total.store(sites.len() as u64, Ordering::Relaxed);
        Ok(sites.into_iter().skip(self.from).take(4).collect())
    }
}

const COUNTED: &str = "counted";
const RED_ZONE: &str = "red zone";
const SHADOW_STACK: &str = "shadow stack";

/// Which functions a part of the program is about.
fn functions_of(part: &str) -> &'static [&'static str] {
    match part {
        COUNTED => &[executors_counted::NAME, executors_loading::NAME],
        RED_ZONE => &[executors_red_zone::NAME],
        SHADOW_STACK => &[executors_calling::NAME, executors_astray::NAME],
        other => panic!("{other}"),
    }
}

/// A part of the program.
struct Part {
    name: &'static str,
    functions: &'static [&'static str],
    rounds: u64,
    objects: Arc<Objects>,
}

impl Part {
    fn new(name: &'static str, rounds: u64) -> Part {
        Part { name, functions: functions_of(name), rounds, objects: Arc::default() }
    }

    fn program() -> PathBuf {
        std::env::current_exe().unwrap().canonicalize().unwrap()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(Part::program());
        command.args(["--exact", "program", "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(PART, self.name).env(ROUNDS, self.rounds.to_string());
        command
    }

    fn spec(function: &str) -> ProbeSpec {
        ProbeSpec::each_instruction(Part::program().to_str().unwrap(), function)
    }

    fn resolver(&self, spec: ProbeSpec) -> Resolver {
        Resolver::new(spec, Arc::clone(&self.objects))
    }

    /// Without probes; `None` with the reason if the machine lacks what it needs.
    fn plain(&self) -> Result<String, String> {
        let output = self.command().output().unwrap();
        let text = answer(&output.stdout);
        assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
        match text.strip_prefix("lacks ") {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(text),
        }
    }

    fn run(&self, by: By) -> Option<Run> {
        match by {
            By::Ptrace => Some(self.traced(false)),
            By::RunOn => Some(self.traced(true)),
            By::Warden => Some(self.by_warden()),
            By::Hardware => self.by_hardware(),
            By::Trap | By::Jump => Some(self.by_itself(by)),
        }
    }

    fn traced(&self, run_on: bool) -> Run {
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = self.command();
        command.stdout(writer);
        let mut session = Session::launch(command).unwrap();
        let emulated = Arc::new(AtomicU64::new(0));
        if run_on {
            let entry = ProbeSpec::function(Part::program().to_str().unwrap(), "executors_round");
            let seen = Arc::clone(&emulated);
            let handler = move |hit: &mut Hit<'_>| {
                let seen = Arc::clone(&seen);
                hit.run_on_with(Region::new().until_return(), move |step| {
                    seen.fetch_add(u64::from(matches!(step.what(), What::Emulated)), Ordering::Relaxed);
                    std::ops::ControlFlow::Continue(())
                });
                Action::Continue
            };
            session.probe(self.resolver(entry), handler).unwrap();
        }
        let place = |function: &&str| session.probe(self.resolver(Part::spec(function)), filter).unwrap();
        let probes: Vec<_> = self.functions.iter().map(place).collect();
        ended(session.run_for(Duration::from_secs(120)));
        let mut run = Run::default();
        for probe in probes {
            let report = session.report(probe).unwrap();
            run.sites += report.sites.len() as u64;
            run.refused.extend(report.refused.iter().map(|(_, reason)| reason.to_string()));
            run.add(report.counters);
        }
        drop(session);
        run.output = answer(std::io::read_to_string(reader).unwrap().as_bytes());
        assert_eq!(emulated.load(Ordering::Relaxed) >= self.rounds, run_on, "{emulated:?}");
        run
    }

    fn by_warden(&self) -> Run {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stepless"));
        command.arg("__warden");
        let mut client = Client::start(command).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let mut command = self.command();
        command.stdout(writer);
        client.launch(command, SessionOptions::default()).unwrap();
        let odd = Expression::register(Register::R9).binary(Binary::And, 1.into());
        let place =
            |function: &&str| client.probe(Part::spec(function), Program::new().filter(odd.clone())).unwrap();
        let probes: Vec<_> = self.functions.iter().map(place).collect();
        ended(client.run_for(Duration::from_secs(120)).unwrap());
        let mut run = Run::default();
        for probe in probes {
            let report = client.report(probe).unwrap().unwrap();
            run.sites += report.sites;
            run.add(report.counters);
        }
        drop(client);
        run.output = answer(std::io::read_to_string(reader).unwrap().as_bytes());
        run
    }

    fn by_hardware(&self) -> Option<Run> {
        let mut run = Run::default();
        for function in self.functions {
            let (total, mut from) = (Arc::new(AtomicU64::new(0)), 0);
            loop {
                let (reader, writer) = std::io::pipe().unwrap();
                let mut command = self.command();
                command.stdout(writer);
                let mut session = Session::launch(command).unwrap();
                let all = self.resolver(Part::spec(function));
                let four = Four { all, from, total: Arc::clone(&total) };
                let probe = match session.probe(Hardware(four), filter) {
                    Ok(probe) => probe,
                    Err(error) if run.sites == 0 => {
                        println!("skipped: {error}");
                        return None;
                    }
                    Err(error) => panic!("{error}"),
                };
                ended(session.run_for(Duration::from_secs(120)));
                let report = session.report(probe).unwrap();
                assert!(report.hardware && report.refused.is_empty(), "{report:?}");
                run.sites += report.sites.len() as u64;
                run.add(report.counters);
                drop(session);
                let output = answer(std::io::read_to_string(reader).unwrap().as_bytes());
                assert!(run.output.is_empty() || run.output == output, "{output}");
                run.output = output;
                from += 4;
                if from as u64 >= total.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
        Some(run)
    }

    fn by_itself(&self, by: By) -> Run {
        let mut command = self.command();
        command.env(MEANS, format!("{by:?}"));
        let output = command.output().unwrap();
        let text = answer(&output.stdout);
        assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
        let mut lines = text.lines();
        let mut run = Run { output: lines.next().unwrap().to_owned(), ..Run::default() };
        let numbers: Vec<u64> =
            lines.next().unwrap().split(' ').map(|number| number.parse().unwrap()).collect();
        let [hits, emulated, faulted, native, filtered, missed, sites, jumps] = numbers[..] else {
            panic!("{text}")
        };
        run.counted = [hits, emulated, faulted, native, filtered];
        (run.missed, run.sites, run.jumps) = (missed, sites, jumps);
        run.refused = lines.map(str::to_owned).collect();
        run
    }
}

fn ended(end: RunEnd) {
    match end {
        RunEnd::Ended(Some(status)) if status.success() => {}
        other => panic!("{other:?}"),
    }
}

/// What the program has printed, without what the harness of tests has.
fn answer(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let lines = text.lines().filter_map(|line| line.split_once("answer: ").map(|(_, answer)| answer));
    lines.collect::<Vec<_>>().join("\n")
}

fn rounds(usual: u64) -> u64 {
    std::env::var(ROUNDS).ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

// What the program does.

/// A round of what is counted. By name, since a thread is to run on from here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn executors_round(place: *mut u64, number: u64) -> u64 {
    let null = std::ptr::null();
    let here = [number];
    let address = if number.is_multiple_of(4) { null } else { here.as_ptr() };
    let counted = executors_counted::call()(place, 0, 0, 0, 0, number);
    counted ^ executors_loading::call()(0, address, 0, 0, 0, number)
}

static STRAY: AtomicU64 = AtomicU64::new(0);

/// Has a function go on that has faulted.
extern "C" fn handle(_: i32, info: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    /// `SEGV_CPERR` (asm-generic/siginfo.h).
    const CONTROL_PROTECTION: i32 = 10;
    // SAFETY: the kernel, or who acts for it, has made these.
    let (info, context) = unsafe { (&*info, &mut *context) };
    let registers = &mut context.uc_mcontext.gregs;
    if info.si_code == CONTROL_PROTECTION {
        STRAY.fetch_add(1, Ordering::Relaxed);
        registers[libc::REG_RIP as usize] = executors_back::range().start.cast_signed();
        return;
    }
    // The RET in which it ends, as if it had loaded a one.
    registers[libc::REG_RIP as usize] = (executors_loading::range().end - 1).cast_signed();
    registers[libc::REG_RAX as usize] += 1;
}

fn counted(rounds: u64) -> String {
    let mut place = [7_u64; 8];
    let sum = (0..rounds).fold(0_u64, |sum, number| {
        sum.rotate_left(1).wrapping_add(executors_round(place.as_mut_ptr(), number))
    });
    format!("{sum:x} {place:x?}")
}

fn red_zone(rounds: u64) -> String {
    let is_intact = |number: &u64| executors_red_zone::call()(*number, 20, 300) == number + 320;
    let intact = (0..rounds).filter(is_intact).count();
    format!("{intact} of {rounds} intact")
}

/// With a shadow stack, if there may be one: this function must not be returned from.
fn shadow_stack(rounds: u64) -> String {
    let before = shadow_stack_pointer();
    let sum: u64 = (0..rounds).map(|depth| executors_calling::call()(depth % 9)).sum();
    let astray = executors_astray::call()();
    let moved = before != shadow_stack_pointer();
    format!("{sum} calls, {astray}, {} astray, moved: {moved}", STRAY.load(Ordering::Relaxed))
}

#[inline(always)]
fn shadow_stack_pointer() -> u64 {
    let pointer: u64;
    // SAFETY: it only reads the pointer, and is a NOP where there is none.
    unsafe { asm!("xor eax, eax", "rdsspq rax", out("rax") pointer) };
    pointer
}

/// Has the kernel give the thread a shadow stack, which is empty. Returns the error, negated, or 0.
#[inline(always)]
fn enable_shadow_stack() -> i64 {
    const ARCH_SHSTK_ENABLE: u64 = 0x5001;
    const ARCH_SHSTK_SHSTK: u64 = 1;
    let result;
    // SAFETY: the system call touches no memory that is ours; the caller does not return.
    unsafe {
        asm!("syscall", inlateout("rax") libc::SYS_arch_prctl => result,
            in("rdi") ARCH_SHSTK_ENABLE, in("rsi") ARCH_SHSTK_SHSTK, out("rcx") _, out("r11") _);
    }
    result
}

/// Each instruction of a function.
struct Each(std::ops::Range<u64>);

impl Each {
    fn instructions(&self) -> Vec<iced_x86::Instruction> {
        let length = usize::try_from(self.0.end - self.0.start).unwrap();
        // SAFETY: this is text of ours.
        let bytes = unsafe { std::slice::from_raw_parts(self.0.start as *const u8, length) };
        Decoder::with_ip(64, bytes, self.0.start, DecoderOptions::NONE).iter().collect()
    }
}

impl Locate for Each {
    fn locate(&self, _: &Maps) -> Result<Vec<Site>, LocateError> {
        Ok(self.instructions().iter().map(|instruction| Site { address: instruction.ip() }).collect())
    }
}

/// The functions by name.
fn range_of(name: &str) -> std::ops::Range<u64> {
    match name {
        executors_counted::NAME => executors_counted::range(),
        executors_loading::NAME => executors_loading::range(),
        executors_red_zone::NAME => executors_red_zone::range(),
        executors_calling::NAME => executors_calling::range(),
        executors_astray::NAME => executors_astray::range(),
        other => panic!("{other}"),
    }
}

/// The program.
#[test]
#[ignore = "started by the other tests"]
fn program() {
    let Ok(part) = std::env::var(PART) else { return };
    // SAFETY: all-zero bytes are a valid action, and the handler is one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        assert_eq!(libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()), 0);
    }
    let run = match part.as_str() {
        COUNTED => counted,
        RED_ZONE => red_zone,
        SHADOW_STACK => shadow_stack,
        other => panic!("{other}"),
    };
    if part == SHADOW_STACK {
        let error = enable_shadow_stack();
        if error != 0 {
            let error = std::io::Error::from_raw_os_error(i32::try_from(-error).unwrap());
            println!("answer: lacks a shadow stack for user mode: arch_prctl: {error}");
            std::process::exit(0);
        }
    }
    let means = std::env::var(MEANS).ok();
    let mut session = means.map(|means| {
        let jumps = means == format!("{:?}", By::Jump);
        probe::own::Session::with(Options { jumps }).unwrap()
    });
    let mut probes = Vec::new();
    if let Some(session) = &mut session {
        probes.extend(
            functions_of(&part).iter().map(|name| session.probe(Each(range_of(name)), filter).unwrap()),
        );
    }
    let result = run(rounds(1));
    println!("answer: {result}");
    if let Some(session) = &mut session {
        let (mut counted, mut jumps) = (Run::default(), 0);
        let mut refused = Vec::new();
        for probe in probes {
            let means = session.means(probe);
            jumps += means.iter().filter(|(_, means)| matches!(means, Means::Jump)).count();
            assert!(!means.iter().any(|(_, means)| matches!(means, Means::Lost(_))), "{means:?}");
            let report = session.report(probe).unwrap();
            counted.sites += report.sites.len() as u64;
            counted.add(report.counters);
            refused.extend(report.refused.iter().map(|(_, reason)| reason.to_string()));
        }
        let [hits, emulated, faulted, native, filtered] = counted.counted;
        let (missed, sites) = (counted.missed, counted.sites);
        println!("answer: {hits} {emulated} {faulted} {native} {filtered} {missed} {sites} {jumps}");
        refused.iter().for_each(|reason| println!("answer: {reason}"));
    }
    // Behind a shadow stack's beginning there is nothing to return to.
    std::process::exit(0);
}

#[test]
fn hits_and_counts_are_equal_in_all_executors() {
    let part = Part::new(COUNTED, rounds(20));
    let plain = part.plain().unwrap();
    let mut first: Option<[u64; 5]> = None;
    for by in ALL {
        let Some(run) = part.run(by) else { continue };
        assert_eq!(run.output, plain, "{by:?}");
        assert_eq!((run.missed, &run.refused), (0, &Vec::new()), "{by:?}");
        let [hits, emulated, faulted, native, filtered] = run.counted;
        println!(
            "{by:?}: {hits} hits, {emulated} emulated, {faulted} faulted, {native} native, {filtered} filtered"
        );
        // Of every fourth round the load faults, and its handler goes on at the RET.
        assert_eq!((faulted, native), (part.rounds.div_ceil(4), part.rounds), "{by:?}");
        assert_eq!((emulated + native + faulted, 2 * filtered), (hits, hits), "{by:?}");
        assert_eq!(*first.get_or_insert(run.counted), run.counted, "{by:?}");
        assert_eq!(run.jumps > 0, by == By::Jump, "{by:?}");
    }
}

#[test]
fn what_lies_below_the_stack_pointer_stays_in_all_executors() {
    let part = Part::new(RED_ZONE, rounds(50));
    let plain = part.plain().unwrap();
    assert_eq!(plain, format!("{0} of {0} intact", part.rounds));
    for by in ALL {
        // The part has no rounds that a thread runs on through.
        let Some(run) = (by != By::RunOn).then(|| part.run(by)).flatten() else { continue };
        assert_eq!(run.output, plain, "{by:?}");
        let [hits, emulated, ..] = run.counted;
        assert_eq!((hits, emulated), (part.rounds * run.sites, hits), "{by:?}: {run:?}");
        assert_eq!(
            (run.sites, run.missed),
            (Each(executors_red_zone::range()).instructions().len() as u64, 0)
        );
        assert_eq!(run.jumps > 0, by == By::Jump, "{by:?}");
        println!("{by:?}: {hits} hits, all emulated; {}", run.output);
    }
}

/// The shadow stack is where it was, whoever has called and returned, and a return elsewhere is the program's own SIGSEGV.
fn shadow_stacks_stay_in_step(all: &[By]) {
    let part = Part::new(SHADOW_STACK, rounds(20));
    let plain = match part.plain() {
        Ok(plain) => plain,
        Err(reason) => return println!("skipped: {reason}"),
    };
    assert!(plain.ends_with("calls, 21, 1 astray, moved: false"), "{plain}");
    let calls = [executors_calling::range(), executors_astray::range()].map(|range| {
        let is_call = |instruction: &iced_x86::Instruction| {
            use FlowControl::{Call, IndirectCall, Return};
            let reads = matches!(instruction.mnemonic(), iced_x86::Mnemonic::Rdsspq);
            reads || matches!(instruction.flow_control(), Call | IndirectCall | Return)
        };
        Each(range).instructions().iter().filter(|instruction| is_call(instruction)).count()
    });
    for &by in all {
        let Some(run) = part.run(by) else { continue };
        assert_eq!(run.output, plain, "{by:?}");
        let [hits, emulated, faulted, native, ..] = run.counted;
        assert_eq!((hits, run.missed), (emulated + faulted + native, 0), "{by:?}: {run:?}");
        assert!(hits > 100, "{by:?}: {run:?}");
        if matches!(by, By::Trap | By::Jump) {
            // Only the thread itself moves it, and that is between hits.
            assert_eq!(run.refused.len(), calls.iter().sum::<usize>(), "{run:?}");
            assert!(run.refused.iter().all(|reason| reason.contains(&OwnRefusal::ShadowStack.to_string())));
        } else {
            // What returns astray does it by itself, and faults.
            assert_eq!((run.refused.len(), faulted, native), (0, 1, 0), "{by:?}: {run:?}");
        }
        println!("{by:?}: {:?}; {}", run.counted, run.output);
    }
}

#[test]
fn shadow_stacks_stay_in_step_by_ptrace() {
    shadow_stacks_stay_in_step(&[By::Ptrace, By::Warden]);
}

#[test]
fn shadow_stacks_stay_in_step_by_hardware_breakpoints() {
    shadow_stacks_stay_in_step(&[By::Hardware]);
}

#[test]
fn shadow_stacks_stay_in_step_of_a_program_that_probes_itself() {
    shadow_stacks_stay_in_step(&[By::Trap, By::Jump]);
}
