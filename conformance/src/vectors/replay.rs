//! `conformance replay`: the emulator against recorded answers, on any machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use emu::registers::gpr;
use emu::xsave::feature;
use emu::{
    Access, DescriptionError, Displaced, Outcome, Processor, Refusal, Registers, Rflags, UserMemory as _,
};
use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter, Mnemonic};
use probe::recorded;
use serde::Serialize;

use super::format::{Case, Error, Raised, Reader};
use super::image::{RegisterImage, offset};
use super::invalid::{Checker, Variants};
use super::layout::Layout;
use super::memory::Memory;
use super::{processor, signal};
use crate::codes;
use crate::compare::{Difference, Differences, execute, hide_pointers};
use crate::in_use::Image;
use crate::oracle::Stop;

/// What is replayed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which encodings, by iced-x86's names; `*` and `?` stand for anything.
    pub pattern: String,
    /// The most wrong cases of a file to describe.
    pub show: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Plan { pattern: "*".to_string(), show: 10 }
    }
}

/// A case in which the emulator differs.
#[derive(Clone, Debug, Serialize)]
pub struct Wrong {
    /// iced-x86's name of the encoding.
    pub code: String,
    /// The instruction.
    pub instruction: String,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
    /// What differs.
    pub differences: Vec<String>,
}

/// What came of one file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FileReport {
    /// Its path.
    pub file: String,
    /// The processor that answered.
    pub processor: String,
    /// How many cases it has, of the encodings asked for.
    pub cases: u64,
    /// In how many of them the emulator does the same.
    pub exact: u64,
    /// In how many it does not.
    pub wrong: u64,
    /// How many were not compared, by the reason why.
    pub skipped: BTreeMap<String, u64>,
    /// Some of the wrong ones.
    pub first_wrong: Vec<Wrong>,
    /// The wrong ones by encoding.
    pub wrong_by_code: BTreeMap<String, u64>,
    /// The encodings of those that were not compared, by the reason why.
    pub skipped_codes: BTreeMap<String, BTreeMap<String, u64>>,
}

/// What became of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The emulator does what the processor did.
    Exact,
    /// It does not, in this.
    Wrong(Vec<Difference>),
    /// It was not compared, and why.
    Skipped(&'static str),
}

/// Replays files, some at once.
///
/// # Errors
/// The first file that cannot be read.
pub fn replay(files: &[PathBuf], plan: &Plan) -> Result<Vec<FileReport>, (PathBuf, Error)> {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(files.len());
    let next = AtomicUsize::new(0);
    let results: Vec<Mutex<Option<Result<FileReport, Error>>>> =
        files.iter().map(|_| Mutex::default()).collect();
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((number, path)) = {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    files.get(number).map(|path| (number, path))
                } {
                    let result = replay_file(path, plan);
                    *results[number].lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                }
            });
        }
    });
    let results = results.into_iter().map(|slot| slot.into_inner().unwrap_or_else(PoisonError::into_inner));
    files
        .iter()
        .zip(results)
        .filter_map(|(path, result)| Some(result?.map_err(|error| (path.clone(), error))))
        .collect()
}

fn replay_file(path: &Path, plan: &Plan) -> Result<FileReport, Error> {
    let file = path.display().to_string();
    replay_from(super::open(path)?, FileReport { file, ..FileReport::default() }, plan)
}

/// Replays what a file holds, which `report` is to be about.
///
/// # Errors
/// It is not as it should be.
pub fn replay_from(
    mut input: impl BufRead,
    mut report: FileReport,
    plan: &Plan,
) -> Result<FileReport, Error> {
    let mut wanted = Wanted { pattern: &plan.pattern, last: "".into(), matches: false };
    if input.fill_buf()?.starts_with(b"# ") {
        let processor = recorded::without_header().leak();
        report.processor = processor::name(processor);
        let (mut variants, mut checker) = (Variants::new(input), Checker::new(processor));
        while let Some(variant) = variants.next_variant()? {
            if wanted.is(&variant.code) {
                let verdict = checker.variant(&variant);
                report.add(&variant.code, &variant.bytes, verdict, plan.show);
            }
        }
    } else {
        let mut reader = Reader::new(input)?;
        let processor = of(&reader)?;
        report.processor = processor::name(&processor);
        let mut replayer = Replayer::new(processor.leak(), reader.layout());
        while let Some((form, case)) = reader.next_case()? {
            if wanted.is(&form.code) {
                let verdict = replayer.case(&case);
                report.add(&form.code, &case.bytes, verdict, plan.show);
            }
        }
    }
    Ok(report)
}

/// The processor whose answers a file of cases holds.
///
/// # Errors
/// It is not such a file.
pub fn processor(path: &Path) -> Result<&'static Processor, (PathBuf, Error)> {
    let read = || of(&Reader::new(super::open(path)?)?);
    read().map(Processor::leak).map_err(|error| (path.to_path_buf(), error))
}

fn of<R: BufRead>(reader: &Reader<R>) -> Result<Processor, Error> {
    match reader.header() {
        Some(header) => header.parse().map_err(|error: DescriptionError| Error::Header(error.to_string())),
        None => Ok(recorded::without_header()),
    }
}

/// Which encodings are asked for. Those of a file follow each other.
struct Wanted<'a> {
    pattern: &'a str,
    last: Arc<str>,
    matches: bool,
}

impl Wanted<'_> {
    fn is(&mut self, code: &Arc<str>) -> bool {
        if !Arc::ptr_eq(code, &self.last) {
            self.matches = codes::matches(self.pattern, code);
            self.last = Arc::clone(code);
        }
        self.matches
    }
}

impl FileReport {
    fn add(&mut self, code: &str, bytes: &[u8], verdict: Verdict, show: usize) {
        self.cases += 1;
        match verdict {
            Verdict::Exact => self.exact += 1,
            Verdict::Skipped(reason) => {
                *self.skipped.entry(reason.to_string()).or_default() += 1;
                let codes = self.skipped_codes.entry(reason.to_string()).or_default();
                *codes.entry(code.to_string()).or_default() += 1;
            }
            Verdict::Wrong(differences) => {
                self.wrong += 1;
                *self.wrong_by_code.entry(code.to_string()).or_default() += 1;
                if self.first_wrong.len() < show {
                    self.first_wrong.push(describe(code, bytes, &differences));
                }
            }
        }
    }
}

fn describe(code: &str, bytes: &[u8], differences: &[Difference]) -> Wrong {
    let mut instruction = String::new();
    let decoded = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    IntelFormatter::new().format(&decoded, &mut instruction);
    Wrong {
        code: code.to_string(),
        instruction,
        bytes: hex(bytes),
        differences: differences.iter().map(ToString::to_string).collect(),
    }
}

/// Bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Performs cases in the emulator.
pub struct Replayer {
    processor: &'static Processor,
    layout: Arc<Layout>,
    memory: Memory,
    image: RegisterImage,
    registers: Registers,
    expected: Registers,
}

impl Replayer {
    /// A replayer of cases of a processor, whose memory is as `layout` says.
    #[must_use]
    pub fn new(processor: &'static Processor, layout: &Arc<Layout>) -> Replayer {
        Replayer {
            processor,
            layout: Arc::clone(layout),
            memory: Memory::new(layout),
            image: RegisterImage::default(),
            registers: Registers::default(),
            expected: Registers::default(),
        }
    }

    /// Compares the emulator's answer with the recorded one.
    pub fn case(&mut self, case: &Case) -> Verdict {
        // Mostly this is where it lies, and what is not emulated costs no more.
        let mut displaced = match Displaced::decode_on(&case.bytes, self.layout.code, self.processor) {
            Ok(displaced) => displaced,
            Err(refusal) => return refused(refusal, case),
        };
        if let Some(reason) = processor::unanswerable(&displaced, self.processor) {
            return Verdict::Skipped(reason);
        }
        let lanes = self.layout.registers(case.seed, case.fill, &mut self.image);
        self.put(&case.patches);
        let ip = u64::from_le_bytes(self.image.get(offset::RIP));
        if ip != self.layout.code {
            displaced = match Displaced::decode_on(&case.bytes, ip, self.processor) {
                Ok(displaced) => displaced,
                Err(refusal) => return refused(refusal, case),
            };
        }
        self.image.read(&mut self.registers);
        let keeps = Kept::by(&displaced, &self.registers, self.processor);
        self.memory.reset(lanes.clone(), &case.patches, ip, &case.bytes);
        let stop = match execute(&displaced, &mut self.registers, &mut self.memory) {
            Err(Outcome::Native) => return self.left(ip),
            stop => stop,
        };
        let next = if case.raised.is_some() { ip } else { ip.wrapping_add(case.bytes.len() as u64) };
        self.image.put(offset::RIP, &next.to_le_bytes());
        self.put(&case.changes);
        self.image.read(&mut self.expected);
        let mut differences = Differences::default();
        self.compare(case, stop, &mut differences);
        if let Some(kept) = keeps.filter(|_| !differences.0.is_empty()) {
            self.registers.clone_from(&kept.before);
            self.memory.reset(lanes, &case.patches, ip, &case.bytes);
            let stop = kept.execute(&case.bytes, ip, &mut self.registers, &mut self.memory);
            let mut others = Differences::default();
            self.compare(case, stop, &mut others);
            if others.0.is_empty() {
                return Verdict::Exact;
            }
        }
        if differences.0.is_empty() { Verdict::Exact } else { Verdict::Wrong(differences.0) }
    }

    /// What the emulator leaves to the thread at `ip` it must not have touched.
    fn left(&mut self, ip: u64) -> Verdict {
        self.image.put(offset::RIP, &ip.to_le_bytes());
        self.image.read(&mut self.expected);
        let mut differences = Differences::default();
        differences.registers(&self.expected, &self.registers, Rflags::empty());
        for (address, before, emulator) in self.memory.differences(&[]) {
            differences.hex(&format!("[{address:x}]"), before, emulator);
        }
        if differences.0.is_empty() {
            Verdict::Skipped("left to the thread itself")
        } else {
            Verdict::Wrong(differences.0)
        }
    }

    /// Puts runs over the registers.
    fn put(&mut self, runs: &[super::format::Run]) {
        for run in runs {
            self.image.put(usize::from(run.offset), &run.bytes);
        }
    }

    fn compare(&mut self, case: &Case, stop: Result<Stop, Outcome>, differences: &mut Differences) {
        let recorded = case.raised.map_or(Stop::Completed, recorded);
        let stop = stop.map(|stop| self.fetch(recorded, stop));
        match stop {
            Ok(stop) if stop == recorded => {}
            Ok(stop) => differences.push("stop", recorded, stop),
            Err(outcome) => differences.push("stop", recorded, format_args!("{outcome:?}")),
        }
        if let (Some(raised), Ok(stop)) = (case.raised.filter(|raised| raised.signal != 0), stop)
            && stop == recorded
        {
            let mapped = self.layout.region(raised.address).is_some();
            let signal = signal::of(raised.vector, &self.registers, mapped);
            if signal.is_none_or(|signal| !signal::is(&raised, signal)) {
                let processor = format!("{} si_code {}", raised.signal, raised.si_code);
                differences.push("signal", processor, format_args!("{signal:?}"));
            }
        }
        let facts = self.processor.facts;
        hide_pointers(facts, &self.expected.extended.x87, &mut self.registers.extended.x87);
        // What a signal frame has of RF is how the processor reports a fault.
        self.registers.rflags.remove(Rflags::RF);
        let undefined = match case.raised {
            None => Rflags::from_bits_retain(u64::from(case.undefined)),
            Some(_) => Rflags::empty(),
        };
        differences.registers(&self.expected, &self.registers, undefined);
        for (address, processor, emulator) in self.memory.differences(&case.changes) {
            differences.hex(&format!("[{address:x}]"), processor, emulator);
        }
    }

    /// Where the processor raised a fault of the fetch at the target of a branch, the branch itself completed.
    fn fetch(&self, recorded: Stop, stop: Stop) -> Stop {
        const FETCH: u32 = 1 << 4;
        match (recorded, stop) {
            (Stop::Exception { vector: 14, error_code, .. }, Stop::Completed) if error_code & FETCH != 0 => {
                match self.memory.fetch(self.registers.rip).map_err(emu::Exception::from) {
                    Ok(()) => stop,
                    Err(fault) => Stop::Exception {
                        vector: fault.vector(),
                        error_code: fault.error_code() | FETCH,
                        address: fault.address(),
                    },
                }
            }
            _ => stop,
        }
    }
}

/// XSAVEC or XSAVEOPT of tile registers that are zeros, which the kernel may keep from a thread that has not used them
/// (IA32_XFD; SDM volume 1, section 13.14): the processor does not look at their place then. No recording says whether it
/// was so; else the two answers are the same.
struct Kept {
    before: Registers,
    header: u64,
    is_compacted: bool,
    /// The processor, without tile registers.
    processor: &'static Processor,
}

impl Kept {
    fn by(displaced: &Displaced, before: &Registers, processor: &'static Processor) -> Option<Kept> {
        let instruction = displaced.instruction();
        let is_compacted = matches!(instruction.mnemonic(), Mnemonic::Xsavec | Mnemonic::Xsavec64);
        let is_optimized = matches!(instruction.mnemonic(), Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64);
        let asked = before.gpr[gpr::RAX] & processor.xcr0 & feature::TILE_DATA != 0;
        if !(is_compacted || is_optimized) || !asked || before.extended.tiles.data.is_used() {
            return None;
        }
        let header = Image::of(instruction, before, processor)?.header();
        Some(Kept { before: before.clone(), header, is_compacted, processor: without_tile_data(processor) })
    }

    /// Executes it without tile registers, of which the header then tells the same as with them.
    fn execute(
        &self,
        bytes: &[u8],
        ip: u64,
        registers: &mut Registers,
        memory: &mut Memory,
    ) -> Result<Stop, Outcome> {
        let Ok(displaced) = Displaced::decode_on(bytes, ip, self.processor) else {
            return Err(Outcome::Native);
        };
        let stop = execute(&displaced, registers, memory);
        let mut words = [0; 16];
        if stop == Ok(Stop::Completed) && memory.read(self.header, &mut words, Access::Read).is_ok() {
            let words = u128::from_le_bytes(words) & !u128::from(feature::TILE_DATA);
            let layout = if self.is_compacted { u128::from(feature::TILE_DATA) << 64 } else { 0 };
            // It has been written to before.
            let _ = memory.write(self.header, &(words | layout).to_le_bytes());
        }
        stop
    }
}

/// The same processor under a system that has not enabled tile registers; one for each that is replayed.
fn without_tile_data(processor: &'static Processor) -> &'static Processor {
    static KNOWN: Mutex<Vec<(&'static Processor, &'static Processor)>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, without)) = known.iter().find(|(with, _)| std::ptr::eq(*with, processor)) {
        return without;
    }
    let mut without = *processor;
    without.xcr0 &= !feature::TILE_DATA;
    let without = without.leak();
    known.push((processor, without));
    without
}

/// What is refused is not compared; but what the processor executed must not be taken for no instruction.
fn refused(refusal: Refusal, case: &Case) -> Verdict {
    const INVALID_OPCODE: u8 = 6;
    let executed = case.raised.is_none_or(|raised| raised.vector != INVALID_OPCODE);
    if !executed || !refusal.is_unknown() {
        return Verdict::Skipped(refusal.reason());
    }
    let mut differences = Differences::default();
    differences.push("encoding", "an instruction", refusal.reason());
    Verdict::Wrong(differences.0)
}

fn recorded(raised: Raised) -> Stop {
    Stop::Exception {
        vector: raised.vector,
        error_code: u32::from(raised.error_code),
        address: (raised.vector == 14).then_some(raised.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors::format::Run;
    use crate::vectors::state::Fill;

    /// A case of `bytes`, of which nothing is known yet.
    fn case(bytes: &[u8]) -> Case {
        Case {
            bytes: bytes.to_vec(),
            seed: 5,
            fill: Fill::I32,
            undefined: 0,
            patches: Vec::new(),
            raised: None,
            changes: Vec::new(),
        }
    }

    fn run(offset: usize, bytes: &[u8]) -> Run {
        Run { offset: offset as u16, bytes: bytes.to_vec() }
    }

    fn replayer(processor: Processor) -> Replayer {
        Replayer::new(processor.leak(), &Arc::new(Layout::without_header()))
    }

    /// What is said to differ.
    fn wrong(case: &Case) -> Vec<String> {
        match replayer(recorded::without_header()).case(case) {
            Verdict::Wrong(differences) => differences.into_iter().map(|one| one.what).collect(),
            Verdict::Exact => Vec::new(),
            Verdict::Skipped(reason) => panic!("{reason}"),
        }
    }

    #[test]
    fn a_right_answer_is_exact_and_a_wrong_one_is_not() {
        // mov eax, 7; its upper half is cleared.
        let right = Case { changes: vec![run(0, &[7, 0, 0, 0, 0, 0, 0, 0])], ..case(&[0xb8, 7, 0, 0, 0]) };
        assert_eq!(wrong(&right), [""; 0]);
        for (offset, what) in
            [(0, "rax"), (8, "rcx"), (offset::ZMM + 63, "zmm0.q7"), (offset::RFLAGS, "rflags")]
        {
            let mut case = right.clone();
            case.changes.push(run(offset, &[0x5a]));
            assert_eq!(wrong(&case), [what], "{offset:#x}");
        }
        let raised = Raised { vector: 6, error_code: 0, address: 0, signal: 0, si_code: 0 };
        assert_eq!(wrong(&Case { raised: Some(raised), ..right.clone() }), ["stop", "rip"]);
        assert_eq!(wrong(&Case { changes: vec![run(offset::TILES, &[1])], ..right }), ["rax", "tilecfg"]);
    }

    #[test]
    fn memory_is_compared() {
        // mov byte [30001000], 9
        let store = case(&[0xc6, 0x04, 0x25, 0x00, 0x10, 0x00, 0x30, 9]);
        let right = Case { changes: vec![run(0x5000, &[9])], ..store.clone() };
        assert_eq!(wrong(&right), [""; 0]);
        assert_eq!(wrong(&Case { changes: vec![run(0x5000, &[8])], ..store.clone() }), ["[30001000]"]);
        assert_eq!(wrong(&store), ["[30001000]"]);
        let mut elsewhere = right;
        elsewhere.changes.push(run(0x4000, &[0xa5, 0x5a, 0xa5, 0x5a]));
        assert_eq!(wrong(&elsewhere), ["[30000000]"]);
    }

    #[test]
    fn a_fault_is_compared_with_all_that_is_known_of_it() {
        // mov byte [30002000], 9: nothing is there.
        let fault = Raised {
            vector: 14,
            error_code: 6,
            address: 0x3000_2000,
            signal: libc::SIGSEGV as u8,
            si_code: 1,
        };
        let case = case(&[0xc6, 0x04, 0x25, 0x00, 0x20, 0x00, 0x30, 9]);
        let raised = |fault| wrong(&Case { raised: Some(fault), ..case.clone() });
        assert_eq!(raised(fault), [""; 0]);
        assert_eq!(raised(Raised { error_code: 7, ..fault }), ["stop"]);
        assert_eq!(raised(Raised { address: 0x3000_2001, ..fault }), ["stop"]);
        assert_eq!(raised(Raised { si_code: 2, ..fault }), ["signal"]);
        assert_eq!(raised(Raised { signal: libc::SIGBUS as u8, ..fault }), ["signal"]);
        assert_eq!(raised(Raised { signal: 0, si_code: 0, ..fault }), [""; 0], "it was not recorded");
    }

    #[test]
    fn what_the_manual_leaves_undefined_is_not_compared_unless_it_faults() {
        // add al, 0; CF is what it is, and the other way round among the changes.
        let registers = |mask: u8| {
            let mut image = RegisterImage::default();
            let _ = Layout::without_header().registers(5, Fill::I32, &mut image);
            let [flags] = image.get(offset::RFLAGS);
            run(offset::RFLAGS, &[flags ^ mask])
        };
        let nop = Case { changes: vec![registers(1)], ..case(&[0x90]) };
        assert_eq!(wrong(&nop), ["rflags"]);
        assert_eq!(wrong(&Case { undefined: 1, ..nop.clone() }), [""; 0]);
        let raised = Raised { vector: 6, error_code: 0, address: 0, signal: 4, si_code: 2 };
        let undefined = Case { bytes: vec![0x0f, 0x0b], undefined: 1, raised: Some(raised), ..nop };
        assert_eq!(wrong(&undefined), ["rflags"]);
    }

    #[test]
    fn tables_of_another_processor_are_skipped_by_name() {
        let rcpps = case(&[0x0f, 0x53, 0xc1]);
        let mut elsewhere = *Processor::host();
        elsewhere.family = 1;
        // rcpps xmm0, xmm1; fsin; vrcp14ps zmm0, zmm1; vrsqrtph zmm0, zmm1.
        let evex = |map: u8, opcode: u8| [0x62, 0xf0 | map, 0x7d, 0x48, opcode, 0xc1];
        for bytes in [&rcpps.bytes[..], &[0xd9, 0xfe], &evex(2, 0x4c), &evex(6, 0x4e)] {
            let verdict = replayer(elsewhere).case(&case(bytes));
            assert!(matches!(verdict, Verdict::Skipped(reason) if reason.contains("host")), "{verdict:?}");
        }
        let addps = replayer(elsewhere).case(&case(&[0x0f, 0x58, 0xc1]));
        assert!(matches!(addps, Verdict::Wrong(_)), "{addps:?}");
        let verdict = replayer(*Processor::host()).case(&rcpps);
        assert!(matches!(verdict, Verdict::Wrong(_)), "it changes XMM0: {verdict:?}");
    }

    #[test]
    fn a_report_adds_up() {
        let mut bytes = b"SLVEC\0\0\x01".to_vec();
        // Three cases of MOV EAX, 7: right, wrong, and one that is no instruction.
        let undefined = [1, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 2, 0];
        let changes: [&[u8]; 3] = [&[0, 1, 0, 0, 7, 7, 0, 0, 0, 0, 0, 0, 0], &[0, 0], &undefined];
        bytes.extend(b"\x0bMov_r32_imm\x72\x03\0");
        for (changes, code) in
            changes.iter().zip([&b"\xb8\x07\0\0\0"[..], b"\xb8\x07\0\0\0", b"\x0f\x38\xff\xc0"])
        {
            bytes.push(code.len() as u8);
            bytes.extend(code);
            bytes.extend([5, 0, 0, 0, Fill::I32 as u8, 0, 0, 0]);
            bytes.extend(*changes);
        }
        let report = |pattern: &str| {
            let plan = Plan { pattern: pattern.to_string(), show: 1 };
            replay_from(&bytes[..], FileReport::default(), &plan).unwrap()
        };
        let all = report("*");
        assert_eq!((all.cases, all.exact, all.wrong), (3, 1, 1), "{all:?}");
        assert_eq!(all.skipped, BTreeMap::from([("not an instruction".to_string(), 1)]));
        assert_eq!(all.wrong_by_code, BTreeMap::from([("Mov_r32_imm".to_string(), 1)]));
        assert_eq!((all.first_wrong.len(), all.first_wrong[0].bytes.as_str()), (1, "b807000000"));
        assert_eq!(report("Add*").cases, 0);
    }
}
