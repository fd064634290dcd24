//! What the fuzz targets call: each takes the fuzzer's bytes and panics if something does not hold.

use std::cell::RefCell;
use std::sync::OnceLock;

use arbitrary::{Arbitrary, Unstructured};
use emu::registers::Float80;
use emu::{Mxcsr, Processor, Registers, Rflags, Touches};
use iced_x86::Code;
use probe::arguments::{NoNames, Template, unknown_arguments};
use probe::elf::{Elf, Usdt};
use probe::language::{Circumstance, ExtendedRegister, Machine, Register};
use probe::recorded;
use probe::spec::{ProbeSpec, UprobeEvent};

use crate::codes;
use crate::compare::compare;
use crate::features;
use crate::generate::{Generator, keeps_pointers};
use crate::memory::Model;
use crate::oracle::places::{IMAGE_LENGTH, SLOTS};
use crate::oracle::{Memory, Oracle, mxcsr_mask};
use crate::vectors;
use crate::vectors::format::{Case, Form, Reader};
use crate::vectors::replay::Replayer;

mod debug_info;

pub use debug_info::debug_info;

/// A case: where its instruction and state are drawn from, and what of the state is the fuzzer's own.
#[derive(Debug, Arbitrary)]
struct Input {
    /// Which of the encodings that the emulator has.
    code: u16,
    batch: u16,
    seed: u32,
    /// General registers to overwrite, by number.
    general: Vec<(u8, u64)>,
    flags: Option<u16>,
    /// Vector registers to overwrite, by number.
    vector: Vec<(u8, [u64; 2])>,
    mxcsr: Option<u16>,
    /// The x87's control word, and its registers to overwrite, by number.
    control: Option<u16>,
    float: Vec<(u8, u64, u16)>,
}

struct Fuzzer {
    oracle: Oracle,
    generator: Generator,
    memory: Box<Memory>,
    model: Model,
}

impl Fuzzer {
    fn new() -> Option<Fuzzer> {
        let oracle = Oracle::new().ok()?;
        let generator = Generator::new(oracle.layout(), mxcsr_mask());
        let memory = Box::new([0; IMAGE_LENGTH]);
        let model = Model::new(&memory);
        Some(Fuzzer { oracle, generator, memory, model })
    }
}

/// The encodings that can be compared.
fn comparable() -> &'static [Code] {
    static CODES: OnceLock<Vec<Code>> = OnceLock::new();
    CODES.get_or_init(|| {
        let here = |code: &Code| codes::skipped(*code).is_none() && features::missing(*code).is_empty();
        codes::user_mode().filter(here).collect()
    })
}

/// Executes one instruction from one state on the processor and in the emulator.
///
/// # Panics
/// The two differ; the message names the instruction, its bytes and the difference.
pub fn diff_exec(data: &[u8]) {
    thread_local! {
        static FUZZER: RefCell<Option<Fuzzer>> = RefCell::new(Fuzzer::new());
    }
    let Ok(input) = Input::arbitrary(&mut Unstructured::new(data)) else { return };
    FUZZER.with_borrow_mut(|fuzzer| {
        let fuzzer = fuzzer.as_mut().expect("the oracle's child starts");
        let codes = comparable();
        let Some(&code) = codes.get(usize::from(input.code) % codes.len().max(1)) else { return };
        // Each case is the first of a batch of its own.
        let (batch, seed) = (u64::from(input.batch), u64::from(input.seed));
        let number = batch * SLOTS as u64;
        Generator::memory(code, batch, seed, &mut fuzzer.memory);
        let Some(mut sample) = fuzzer.generator.case(code, number, seed) else { return };
        let Ok(displaced) = crate::features::decode(sample.bytes(), sample.ip) else { return };
        overwrite(&mut sample.case.registers, &input);
        let this_core = displaced.touches().contains(Touches::THIS_CORE);
        let _shared = this_core.then(|| fuzzer.oracle.share_core());
        let observed = match fuzzer.oracle.run(&mut fuzzer.memory, &[&sample.case]) {
            Ok(observed) => observed,
            Err(error) => panic!("{code:?} {:02x?}: {error}", sample.bytes()),
        };
        fuzzer.model.reset(&fuzzer.memory);
        for observed in &observed {
            let Ok(comparison) = compare(&sample, observed, &mut fuzzer.model) else { continue };
            assert!(
                comparison.differences.is_empty(),
                "{} {:02x?} from {:x?}: {:#?}",
                sample.instruction,
                sample.bytes(),
                sample.case.registers,
                comparison.differences
            );
        }
    });
}

/// The flags that user mode can set without changing how the oracle runs a case.
const FLAGS: Rflags = Rflags::STATUS.union(Rflags::DF).union(Rflags::AC).union(Rflags::ID);

/// Puts the fuzzer's values into the state.
fn overwrite(registers: &mut Registers, input: &Input) {
    for &(number, value) in &input.general {
        registers.gpr[usize::from(number) % 16] = value;
    }
    if let Some(flags) = input.flags {
        let flags = Rflags::from_bits_retain(u64::from(flags)) & FLAGS;
        registers.rflags = registers.rflags.difference(FLAGS) | flags;
    }
    for &(number, [low, high]) in &input.vector {
        registers.extended.vector[usize::from(number) % 16].0[..2].copy_from_slice(&[low, high]);
    }
    if let Some(mxcsr) = input.mxcsr {
        registers.extended.mxcsr = Mxcsr::from_bits_retain(u32::from(mxcsr) & mxcsr_mask());
    }
    if let Some(control) = input.control {
        let x87 = &mut registers.extended.x87;
        // Reserved bits keep what FNINIT gives them.
        x87.control = control & 0x0f3f | 0x0040;
        x87.summarize();
        if !keeps_pointers(Processor::host().facts, x87) {
            (x87.opcode, x87.instruction_pointer, x87.data_pointer) = (0, 0, 0);
        }
    }
    for &(number, significand, sign_exponent) in &input.float {
        registers.extended.x87.r[usize::from(number) % 8] = Float80 { significand, sign_exponent };
    }
}

/// Decodes any bytes, and executes what they are in a memory that has nothing in it.
///
/// # Panics
/// Only if the emulator does, or if a faulting instruction says that it went on.
pub fn decode(data: &[u8]) {
    let Ok(displaced) = crate::features::decode(data, 0x40_0000) else { return };
    assert!((1..=15).contains(&displaced.length()), "{displaced:?}");
    let mut registers = Registers::default();
    let memory: Box<Memory> = Box::new([0; IMAGE_LENGTH]);
    let result = displaced.execute(&mut registers, &mut Model::new(&memory));
    if let Err(exception) = result
        && !exception.is_trap()
    {
        assert_eq!(registers.rip, displaced.ip(), "{displaced:?}: {exception}");
    }
}

/// Reads anything as a file of recorded cases, and replays the first of them.
///
/// # Panics
/// Reading or replaying does, or what has been read is not written as it was.
pub fn vectors(data: &[u8]) {
    /// Replaying draws whole images.
    const REPLAYED: usize = 16;
    static PROCESSOR: OnceLock<&Processor> = OnceLock::new();
    let Ok(reader) = Reader::new(data) else { return };
    let header = reader.header().map(str::to_string);
    if let Some(Ok(processor)) = header.as_deref().map(str::parse::<Processor>) {
        assert_eq!(processor.description().parse(), Ok(processor));
    }
    let mut replayer =
        Replayer::new(PROCESSOR.get_or_init(|| recorded::without_header().leak()), reader.layout());
    let cases: Vec<(Form, Case)> = reader.map_while(Result::ok).collect();
    for (_, case) in cases.iter().take(REPLAYED) {
        replayer.case(case);
    }
    let header = header.unwrap_or_default();
    let forms: Vec<_> = cases.iter().map(|(form, case)| (form.clone(), vec![case.clone()])).collect();
    let written = vectors::format::write(&header, &forms).expect("what was read is not too long");
    // A file without a header has another layout than one whose header says none.
    if !header.is_empty() {
        let again: Result<Vec<_>, _> = Reader::new(&written[..]).expect("it was a header").collect();
        assert_eq!(again.expect("they were cases"), cases);
    }
}

/// Parses any text as a probe with something behind it, and what the probe prints as the same probe.
///
/// # Panics
/// A probe that is printed is not parsed as the same, or what stands behind it is not where it is said to be.
pub fn probe_spec(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok((spec, rest)) = ProbeSpec::parse_with_rest(text) else { return };
    assert_eq!(text.get(rest.offset..rest.offset + rest.text.len()), Some(rest.text));
    assert_eq!(spec.to_string().parse::<ProbeSpec>().as_ref(), Ok(&spec), "{text:?}");
}

/// Takes any bytes for the contents of a file, and reads the probes that its author has put into it.
///
/// # Panics
/// Only if that does.
pub fn usdt_notes(data: &[u8]) {
    let Ok(elf) = Elf::parse(std::path::Path::new("fuzz"), data.to_vec()) else { return };
    let Ok(probes) = elf.usdt() else { return };
    for probe in probes {
        let unknown = unknown_arguments(&elf, probe);
        assert!(unknown.len() <= probe.arguments.len(), "{unknown:?}");
    }
}

/// Takes any text for the arguments of a USDT probe.
///
/// # Panics
/// One is unknown that is not there.
pub fn usdt_arguments(data: &[u8]) {
    thread_local! {
        static ELF: Elf = {
            let program = std::env::current_exe().expect("this program has a file");
            Elf::open(&program).expect("it is an ELF file")
        };
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (provider, name, arguments) = ("fuzz".to_owned(), "fuzz".to_owned(), text.to_owned());
    let probe = Usdt { provider, name, address: 0x1000, semaphore: None, arguments };
    let unknown = ELF.with(|elf| unknown_arguments(elf, &probe));
    assert!(unknown.iter().all(|&(number, _)| (1..=text.len()).contains(&number)), "{text:?}: {unknown:?}");
}

/// Parses any text as a line of `uprobe_events` with its arguments.
///
/// # Panics
/// A mistake is said to be outside of the text, or the line that is printed is not parsed as the same.
pub fn uprobe_event(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if !UprobeEvent::is_line(text) {
        return;
    }
    match ProbeSpec::parse_with_rest(text) {
        Ok((spec, rest)) => {
            assert_eq!(spec.to_string().parse::<ProbeSpec>().as_ref(), Ok(&spec), "{text:?}");
            if let Err(error) = Template::behind(&spec, rest.text) {
                assert!(error.column <= rest.text.len(), "{error:?}");
            }
        }
        Err(error) => assert!((1..=text.len() + 1).contains(&error.column), "{error:?}"),
    }
}

/// A thread with bytes of a fuzzer as its memory, at small addresses.
struct Given<'a>(&'a [u8]);

impl Machine for Given<'_> {
    fn register(&mut self, register: Register) -> u64 {
        register as u64
    }

    fn extended(&mut self, _: ExtendedRegister, quadword: u8) -> Option<u64> {
        (quadword < 8).then(|| u64::from(quadword) << 60 | 1)
    }

    fn circumstance(&mut self, _: Circumstance) -> Option<u64> {
        Some(1)
    }

    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let there = usize::try_from(address).ok().and_then(|start| self.0.get(start..)).unwrap_or_default();
        let length = there.len().min(bytes.len());
        bytes.iter_mut().zip(there).for_each(|(byte, &from)| *byte = from);
        length
    }
}

/// Parses any text as arguments and a condition, takes them from a thread, and shows what was taken, and what was not.
///
/// # Panics
/// What is printed is not parsed as the same, or what is compiled is not valid.
pub fn arguments(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(template) = text.parse::<Template>() else { return };
    // A name that can be given to an argument otherwise than by `NAME=` is not printed so that it can be parsed.
    if let Ok(again) = template.to_string().parse::<Template>() {
        assert_eq!(again.to_string(), template.to_string(), "{text:?}");
    }
    let Ok(binding) = template.bind(&NoNames) else { return };
    assert!(binding.is_valid(), "{text:?}");
    let mut thread = Given(data);
    let _ = binding.holds(&mut thread);
    let taken = binding.take(&mut thread);
    assert_eq!(binding.values(&taken).count(), binding.names().count());
    for (_, value) in binding.values(&taken).chain(binding.values(data)) {
        let _ = (value.to_string(), serde_json::to_string(&value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As for probes.
    #[test]
    fn arguments_of_random_parts_do_no_harm() {
        const PARTS: [&str; 40] = [
            "a=", "%di", "%xmm0", "%st1", "(", ")", "+8(", "-0(", "@16", "@+1", ":u8", ":s64", ":string",
            ":x8[3]", ":b3@1/8", ":f64", ":f32[4]", ":symbol", "*", "&", "->x", "[1]", "1", "0x10", "1.5",
            "\"t\"", "'c'", "comm", "pid", "$stack2", "$comm", "$retval", " if ", "==", "&&", " ", "?", ":",
            "(int)", "sizeof",
        ];
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        for _ in 0..100_000 {
            let text: String = (0..next() % 9).map(|_| PARTS[next() % PARTS.len()]).collect();
            arguments(text.as_bytes());
        }
    }

    /// The same with lines of `uprobe_events`, and arguments of USDT probes.
    #[test]
    fn lines_and_operands_of_random_parts_do_no_harm() {
        const EVENT: [&str; 24] = [
            "p", "r", "-", ":", "a", "/", "/x:", "0x1", "(", ")", "%return", " ", "%di", "=", "+8(", "@",
            "@+", "u8", "[", "]", "b1@2/8", "\\", "\"", "$stack",
        ];
        const OPERANDS: [&str; 24] = [
            "8@",
            "-4@",
            "4f@",
            "$",
            "%rax",
            "%eax",
            "(",
            ")",
            ",",
            "8",
            "-",
            "+",
            "main",
            "%rip",
            "%fs:",
            "0x",
            " ",
            "%xmm0",
            "%st",
            "(%rax",
            "@",
            "\u{e9}",
            "f",
            "99999999999999999999",
        ];
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        for _ in 0..100_000 {
            let parts = next() % 14;
            let text: String = (0..parts).map(|_| EVENT[next() % EVENT.len()]).collect();
            uprobe_event(format!("p /x:0x1 {text}").as_bytes());
            uprobe_event(text.as_bytes());
            let text: String = (0..parts).map(|_| OPERANDS[next() % OPERANDS.len()]).collect();
            usdt_arguments(text.as_bytes());
        }
    }

    /// What the fuzzer does, for as long as a test may take: texts of parts that mean something.
    #[test]
    fn probes_of_random_parts_are_printed_as_themselves() {
        const PARTS: [&str; 26] = [
            "a", ":", "::", "'", "\"", "+", "0x", "1", "/", "/*", "*", "%return", "@", " ", "if ", "x=",
            "usdt:", "p:", "r ", "(", ")", "<", ".c", "0", "\u{e9}", "\t",
        ];
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize
        };
        for _ in 0..300_000 {
            let text: String = (0..next() % 12).map(|_| PARTS[next() % PARTS.len()]).collect();
            probe_spec(text.as_bytes());
        }
    }

    /// Found by the fuzzer: masks that are not those of the state that was drawn.
    #[test]
    fn the_processor_keeps_the_state() {
        let mut registers = Registers::default();
        registers.extended.x87.status = 0x717b;
        for (control, expected) in [(0x4f, 0xf1fb), (0x7f, 0x717b)] {
            let nothing = Input::arbitrary(&mut Unstructured::new(&[])).unwrap();
            overwrite(&mut registers, &Input { control: Some(control), ..nothing });
            assert_eq!(registers.extended.x87.status, expected, "{control:#x}");
        }
        diff_exec(b"\x2d\0\x0f \x3a\x3a\x3a\x3a\x3a\x3a\x3a\x3a\x01\x0f");
    }
}
