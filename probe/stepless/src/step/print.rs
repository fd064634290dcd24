//! How the instructions of threads that run on are printed: as a tree of calls, or as lines of JSON.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Mnemonic};
use probe::language::Register;
use probe::run_on::{End, What};
use probe::stacks::Place;
use probe::warden::{StepAccess, StepRecord};
use serde::Serialize;

use super::Steps;
use super::calls;
use crate::events::as_keys;
use crate::list::disassemble;
use crate::output::{indent, printable};

/// Prints steps, as they come.
#[derive(Debug)]
pub(crate) struct Printer {
    steps: Steps,
    json: bool,
    /// By the number of the run from a hit on.
    trees: HashMap<u64, Tree>,
    /// How many runs have ended.
    pub(crate) ended: u64,
    /// The run that has printed last.
    last: Option<u64>,
    line: String,
}

/// The calls that a thread is in.
#[derive(Debug, Default)]
struct Tree {
    /// The stack pointer in each, the innermost last.
    calls: Vec<u64>,
    /// The function whose instructions were printed last, and how deep that was.
    function: Option<(String, usize)>,
}

impl Tree {
    /// Leaves the calls that are over, now that the stack pointer is this.
    fn leave(&mut self, sp: u64) {
        /// Two stacks are not that near to each other.
        const NEAR: u64 = 1 << 20;
        while let Some(&call) = self.calls.last()
            && sp > call
            && sp - call < NEAR
        {
            self.calls.pop();
        }
    }
}

/// A step, as JSON has it.
#[derive(Serialize)]
struct Line<'a> {
    probe: &'a str,
    pid: i32,
    tid: i32,
    time_ns: u64,
    region: u64,
    number: u64,
    what: &'static str,
    depth: usize,
    ip: u64,
    next: u64,
    #[serde(flatten, serialize_with = "as_keys")]
    place: Option<Arc<Place>>,
    instruction: Option<String>,
    registers: HashMap<String, u64>,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    vectors: HashMap<String, String>,
    memory: Vec<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    call: Option<SystemCall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
}

#[derive(Serialize)]
struct Memory {
    address: u64,
    size: u64,
    old: String,
    new: Option<String>,
}

#[derive(Serialize)]
struct SystemCall {
    number: u64,
    name: Option<&'static str>,
    arguments: [u64; 6],
    result: i64,
}

impl Printer {
    pub(crate) fn new(steps: Steps, json: bool) -> Printer {
        Printer { steps, json, trees: HashMap::new(), ended: 0, last: None, line: String::new() }
    }

    /// Prints one, which lies at `place`, of the probe of that name.
    pub(crate) fn print(
        &mut self,
        out: &mut impl Write,
        step: &StepRecord,
        probe: &str,
        place: Arc<Place>,
    ) -> io::Result<()> {
        let tree = self.trees.entry(step.region).or_default();
        let depth = tree.calls.len();
        let flow = flow(step);
        self.line.clear();
        if self.json {
            let line = Line::new(step, probe, place, depth);
            if !self.steps.calls || matters(step, flow) {
                let text = serde_json::to_string(&line)?;
                self.line.push_str(&text);
                self.line.push('\n');
            }
        } else {
            let switched = self.last.replace(step.region) != Some(step.region);
            text(&mut self.line, step, probe, &place, tree, (switched, self.steps.calls, flow));
        }
        tree.leave(step.sp);
        match step.what {
            What::End(_) => {
                self.trees.remove(&step.region);
                self.ended += 1;
            }
            What::Signal { .. } => tree.calls.push(step.sp),
            What::Emulated | What::Native if flow == Flow::Call => tree.calls.push(step.sp),
            _ => {}
        }
        out.write_all(self.line.as_bytes())
    }
}

/// What an instruction does to the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Call,
    Return,
    Other,
}

fn flow(step: &StepRecord) -> Flow {
    let instruction = Decoder::with_ip(64, &step.code, step.place.ip, DecoderOptions::NONE).decode();
    match (instruction.flow_control(), instruction.mnemonic()) {
        (FlowControl::Call | FlowControl::IndirectCall, Mnemonic::Call) => Flow::Call,
        (FlowControl::Return, _) => Flow::Return,
        _ => Flow::Other,
    }
}

/// Whether it is a part of the tree of calls.
fn matters(step: &StepRecord, flow: Flow) -> bool {
    flow != Flow::Other || !matches!(step.what, What::Emulated | What::Native | What::Skipped)
}

impl<'a> Line<'a> {
    fn new(step: &StepRecord, probe: &'a str, place: Arc<Place>, depth: usize) -> Line<'a> {
        let (what, end, signal) = match step.what {
            What::Emulated => ("emulated", None, None),
            What::Native => ("native", None, None),
            What::Faulted => ("faulted", None, None),
            What::Skipped => ("skipped", None, None),
            What::SystemCall { .. } => ("system call", None, None),
            What::Signal { signal } => ("signal", None, Some(signal)),
            What::End(end) => ("end", Some(reason(end)), None),
            _ => ("other", None, None),
        };
        let instruction = (!step.code.is_empty()).then(|| disassemble(&step.code, step.place.ip).0);
        Line {
            probe,
            pid: step.pid,
            tid: step.tid,
            time_ns: step.time_ns,
            region: step.region,
            number: step.number,
            what,
            depth,
            ip: step.place.ip,
            next: step.next,
            place: Some(place),
            instruction,
            registers: step.registers.iter().map(|&(register, value)| (name(register), value)).collect(),
            vectors: step.vectors.iter().map(|&(number, ref value)| vector(number, value)).collect(),
            memory: step.accesses.iter().map(Memory::new).collect(),
            call: system_call(step),
            signal,
            end,
        }
    }
}

impl Memory {
    fn new(access: &StepAccess) -> Memory {
        Memory {
            address: access.address,
            size: access.size,
            old: hex(&access.old),
            new: access.new.as_deref().map(hex),
        }
    }
}

fn system_call(step: &StepRecord) -> Option<SystemCall> {
    let What::SystemCall { number } = step.what else { return None };
    let value = |wanted: Register| {
        let found = step.registers.iter().find(|&&(register, _)| register == wanted);
        found.map_or(0, |&(_, value)| value)
    };
    let arguments =
        [Register::Rdi, Register::Rsi, Register::Rdx, Register::R10, Register::R8, Register::R9].map(value);
    // Where RAX is what it was, the result is the number.
    let result = step.registers.iter().find(|&&(register, _)| register == Register::Rax);
    let result = result.map_or(number, |&(_, value)| value).cast_signed();
    Some(SystemCall { number, name: calls::name(number), arguments, result })
}

/// The line of a step, and before it the function in which it is if that is another.
fn text(
    line: &mut String,
    step: &StepRecord,
    probe: &str,
    place: &Place,
    tree: &mut Tree,
    (switched, calls_alone, flow): (bool, bool, Flow),
) {
    let depth = tree.calls.len();
    let indent = indent(depth);
    let (tid, probe) = (step.tid, printable(probe));
    // Writing into a text never fails.
    if step.number == 0 && tree.function.is_none() {
        let _ = writeln!(line, "{tid} {probe}");
    } else if switched {
        let _ = writeln!(line, "{tid} {probe} goes on");
    }
    let function = match place.functions.last().and_then(|function| function.name.clone()) {
        Some(name) => name,
        // Whatever it is there, such as the procedure linkage table.
        None => place.object_name().unwrap_or_else(|| place.name()),
    };
    if let What::End(end) = step.what {
        let _ = writeln!(line, "{tid} {probe} ends after {} instructions: {}", step.number, reason(end));
        return;
    }
    let here = Some((function.clone(), depth));
    if tree.function != here {
        let _ = writeln!(line, "{tid} {indent}{}:", printable(&function));
        tree.function = here;
    }
    if calls_alone && !matters(step, flow) {
        return;
    }
    let ip = step.place.ip;
    match step.what {
        What::SystemCall { number } => {
            let Some(call) = system_call(step) else { return };
            let name = call.name.map_or_else(|| number.to_string(), str::to_owned);
            let arguments = call.arguments.map(|value| format!("{value:#x}")).join(", ");
            let _ = writeln!(line, "{tid} {indent}  {ip:x}  {name}({arguments}) = {}", call.result);
        }
        What::Signal { signal } => {
            let signal = nix::sys::signal::Signal::try_from(signal)
                .map_or_else(|_| format!("signal {signal}"), |signal| signal.to_string());
            let _ = writeln!(line, "{tid} {indent}  {signal}");
        }
        what => {
            let instruction = match step.code.is_empty() {
                true => "(instruction unknown)".to_owned(),
                false => disassemble(&step.code, ip).0,
            };
            let note = match what {
                What::Native => "  (executed by the thread itself)",
                What::Faulted => "  (faulted)",
                What::Skipped => "  (left out)",
                _ => "",
            };
            let changes = changes(step);
            let end = if changes.is_empty() && note.is_empty() {
                instruction
            } else {
                format!("{instruction:<36}")
            };
            let _ = writeln!(line, "{tid} {indent}  {ip:x}  {end}{note}{changes}");
        }
    }
}

/// What an instruction has changed.
fn changes(step: &StepRecord) -> String {
    let mut text = String::new();
    for &(register, value) in &step.registers {
        let _ = match register {
            Register::Rflags => write!(text, "  flags={}", flags(value)),
            register => write!(text, "  {}={value:#x}", name(register)),
        };
    }
    for &(number, ref value) in &step.vectors {
        let (name, value) = vector(number, value);
        let _ = write!(text, "  {name}={value}");
    }
    for access in &step.accesses {
        let arrow = match &access.new {
            Some(new) => format!("{} -> {}", number(&access.old), number(new)),
            None => number(&access.old),
        };
        let _ = write!(text, "  [{:#x}]={arrow}", access.address);
        if access.size > access.new.as_ref().unwrap_or(&access.old).len() as u64 {
            let _ = write!(text, ".. ({} bytes)", access.size);
        }
    }
    if step.more_accesses > 0 {
        let _ = write!(text, "  and {} more", step.more_accesses);
    }
    text
}

/// Up to eight bytes as a number, and more as they lie in memory.
fn number(bytes: &[u8]) -> String {
    let mut word = [0; 8];
    match word.get_mut(..bytes.len()) {
        Some(_) if bytes.is_empty() => "?".to_owned(),
        Some(low) => {
            low.copy_from_slice(bytes);
            format!("{:#x}", u64::from_le_bytes(word))
        }
        None => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn name(register: Register) -> String {
    format!("{register:?}").to_lowercase()
}

/// The name of the part of a vector register that is not zero, and its value.
fn vector(number: u8, value: &[u64; 8]) -> (String, String) {
    let (kind, words) = match value {
        [_, _, 0, 0, 0, 0, 0, 0] => ("xmm", 2),
        [_, _, _, _, 0, 0, 0, 0] => ("ymm", 4),
        _ => ("zmm", 8),
    };
    let words = value.iter().take(words).rev().map(|word| format!("{word:016x}"));
    (format!("{kind}{number}"), format!("0x{}", words.collect::<String>()))
}

/// The flags that are set.
fn flags(value: u64) -> String {
    let names = [(0, "CF"), (2, "PF"), (4, "AF"), (6, "ZF"), (7, "SF"), (10, "DF"), (11, "OF")];
    let set: Vec<&str> =
        names.into_iter().filter(|(bit, _)| value >> bit & 1 != 0).map(|(_, name)| name).collect();
    if set.is_empty() { "none".to_owned() } else { set.join("|") }
}

fn reason(end: End) -> &'static str {
    match end {
        End::Returned => "returned",
        End::Left => "left without returning",
        End::Instructions => "as many as wanted",
        End::OutOfRange => "out of the range",
        End::Time => "the time is over",
        End::Sequence => "a restartable sequence",
        End::Unknown => "code that is not 64-bit, or steps itself",
        End::Refused => "the system has refused what was needed",
        End::Stopped => "stopped",
        _ => "for another reason",
    }
}
