//! What a comparison of emulator and processor found.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::OnceLock;

use emu::registers::{ROW_LENGTH, Tiles};
use emu::{Displaced, Processor, Refusal, Touches, Vendor};
use iced_x86::{
    Code, CpuidFeature, Formatter, Instruction, InstructionInfoFactory, IntelFormatter, Register,
};
use serde::Serialize;

use crate::compare::{Difference, GPR};
use crate::generate::{Generator, Sample};

use crate::oracle::{Place, mxcsr_mask, xsave_layout};
use crate::rng::Rng;
use crate::{codes, features, floating_point, undefined};

/// An encoding that was not compared.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// iced-x86's name.
    pub code: String,
    /// Why.
    pub reason: String,
}

/// A case in which the emulator differs.
#[derive(Clone, Debug, Serialize)]
pub struct Mismatch {
    /// iced-x86's name.
    pub code: String,
    /// The instruction.
    pub instruction: String,
    /// Its bytes, in hexadecimal.
    pub bytes: String,
    /// The state that matters.
    pub state: Vec<String>,
    /// What differs.
    pub differences: Vec<String>,
    /// A command that does this one case again.
    pub reproduce: String,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How many encodings were compared.
    pub codes: usize,
    /// How many cases.
    pub cases: u64,
    /// In how many of them the processor raised an exception.
    pub faulting_cases: u64,
    /// Further cases, in which the emulator left the instruction to the thread itself.
    pub left_to_the_thread: u64,
    /// In how many the emulator differed.
    pub mismatches: u64,
    /// Some of those.
    pub first_mismatches: Vec<Mismatch>,
    /// Cases that did not end on the processor and had to be interrupted.
    pub endless_cases: u64,
    /// Some of those that the emulator leaves to the thread; the others are mismatches.
    pub first_endless: Vec<Mismatch>,
    /// The encodings not compared.
    pub skipped: Vec<Skipped>,
    /// How many pairs of a compared instruction and a flag are not compared in every case.
    pub masked_flags: usize,
    /// What the cases were drawn from.
    pub seed: u64,
    /// Drawn cases that the emulator refuses although it has the encoding.
    pub refused_cases: u64,
    /// Cases in which the emulator differed, by encoding.
    pub mismatches_by_code: BTreeMap<String, u64>,
    /// What the cases hold that compute on floating-point numbers.
    pub floating_point: floating_point::Report,
    /// What was found about each encoding.
    #[serde(skip)]
    pub found: Vec<(Code, Tally)>,
}

/// What is found about one encoding.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Cases that were compared.
    pub compared: u64,
    /// Those in which the processor raised an exception.
    pub faulting: u64,
    /// Cases that the emulator left to the thread itself.
    pub left: u64,
    /// Cases that the processor ran, compared or not.
    pub ran: u64,
    /// Those with #UD.
    pub invalid: u64,
    /// Cases that the emulator accepts.
    pub accepted: u64,
    /// Cases that it refuses.
    pub refused: u64,
    /// Why, the last time.
    pub refusal: Option<Refusal>,
    /// Cases in which the emulator differs.
    pub mismatches: u64,
    /// Some of those.
    pub shown: Vec<Mismatch>,
    /// Cases that did not end.
    pub endless: u64,
    /// Some of those that the emulator leaves to the thread.
    pub shown_endless: Vec<Mismatch>,
    /// What those hold that were compared and compute on floating-point numbers.
    pub floating_point: floating_point::Tally,
    /// No such instruction could be made.
    pub not_encoded: bool,
    /// No further cases are of use.
    pub done: bool,
}

impl Tally {
    /// Adds what another batch found.
    pub fn add(&mut self, other: Tally) {
        self.compared += other.compared;
        self.faulting += other.faulting;
        self.left += other.left;
        self.ran += other.ran;
        self.invalid += other.invalid;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.refusal = other.refusal.or(self.refusal);
        self.mismatches += other.mismatches;
        self.shown.extend(other.shown);
        self.endless += other.endless;
        self.shown_endless.extend(other.shown_endless);
        self.floating_point.add(&other.floating_point);
        self.not_encoded |= other.not_encoded && self.ran == 0;
        self.done |= other.done;
    }

    /// Whether the processor has the encoding: CPUID reports it, or else it has not answered every case
    /// with #UD. `None` if nothing ran.
    #[must_use]
    pub fn native(&self, code: Code) -> Option<bool> {
        let only_invalid = self.ran > 0 && self.invalid == self.ran;
        let known = code.cpuid_features().iter().any(|feature| features::reported(*feature).is_some());
        match (self.ran, only_invalid) {
            (0, _) => None,
            (_, false) => Some(true),
            // That #UD is what it does is for CPUID to say; #UD without a bit for it speaks for itself.
            (_, true) => {
                Some(codes::is_undefined_by_design(code) || known && features::missing(code).is_empty())
            }
        }
    }

    /// Whether the emulator has the encoding. It also accepts, as raising #UD, what it does not have with a
    /// prefix that is not allowed.
    #[must_use]
    pub fn emulated(&self) -> bool {
        self.accepted > self.refused
    }

    /// Why the encoding was not compared, if it was not.
    #[must_use]
    pub fn skipped(&self, code: Code) -> Option<String> {
        if self.not_encoded {
            return Some(codes::not_encoded(code).to_string());
        }
        if self.native(code) == Some(false) {
            let names: Vec<String> = code.cpuid_features().iter().map(|name| format!("{name:?}")).collect();
            return Some(format!("not on this processor ({})", names.join(", ")));
        }
        if let Some(refusal) = self.refusal
            && !self.emulated()
            && self.mismatches == 0
        {
            return Some(refusal.reason().to_string());
        }
        match (self.compared, self.refusal) {
            (0, Some(refusal)) => Some(refusal.reason().to_string()),
            (0, None) if self.left > 0 => Some("left to the thread itself".to_string()),
            (0, None) => Some("the time was over before its turn".to_string()),
            _ => None,
        }
    }
}

impl Report {
    /// Notes an encoding that was not tried.
    pub(crate) fn skip(&mut self, code: Code, reason: impl Into<String>) {
        self.skipped.push(Skipped { code: format!("{code:?}"), reason: reason.into() });
    }

    /// Notes what was found about an encoding, describing mismatches as long as there are fewer than `show`.
    pub(crate) fn add(&mut self, code: Code, mut tally: Tally, show: usize) {
        self.endless_cases += tally.endless;
        let room = show.saturating_sub(self.first_endless.len());
        self.first_endless.extend(tally.shown_endless.drain(..).take(room));
        if let Some(reason) = tally.skipped(code) {
            self.skip(code, reason);
        } else {
            self.codes += 1;
            self.cases += tally.compared;
            self.faulting_cases += tally.faulting;
            self.left_to_the_thread += tally.left;
            self.refused_cases += tally.refused;
            self.mismatches += tally.mismatches;
            if tally.mismatches > 0 {
                self.mismatches_by_code.insert(format!("{code:?}"), tally.mismatches);
                let room = show.saturating_sub(self.first_mismatches.len());
                self.first_mismatches.extend(tally.shown.drain(..).take(room));
            }
        }
        self.found.push((code, tally));
    }

    /// Counts what concerns all encodings together.
    pub(crate) fn finish(&mut self) {
        let mut mnemonics: Vec<_> = self
            .found
            .iter()
            .filter(|(code, tally)| tally.skipped(*code).is_none())
            .map(|(code, _)| code.mnemonic())
            .collect();
        mnemonics.sort_unstable();
        mnemonics.dedup();
        self.masked_flags =
            mnemonics.iter().map(|one| undefined::possibly(*one).bits().count_ones() as usize).sum();
        let compared = self.found.iter().filter(|(code, tally)| tally.skipped(*code).is_none());
        self.floating_point = floating_point::Report::of(compared.map(|(_, tally)| &tally.floating_point));
    }
}

/// What there is of encodings, and how much of it has been verified.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Count {
    /// Encodings.
    pub codes: usize,
    /// Those that the emulator accepts.
    pub emulated: usize,
    /// Those that this processor runs.
    pub native: usize,
    /// Those of both kinds that were compared.
    pub verified: usize,
}

/// An encoding that the emulator has and that no comparison with the processor at hand has verified.
#[derive(Clone, Debug, Serialize)]
pub struct Unverified {
    /// iced-x86's name.
    pub code: String,
    /// Why it was not compared.
    pub reason: String,
    /// What it is held by all the same, in the emulator's own tests.
    pub second_source: Option<&'static str>,
}

/// What there is of encodings that no processor of today has.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Obsolete {
    /// How many.
    #[serde(flatten)]
    pub count: Count,
    /// Those that the emulator does not have, and why.
    pub not_emulated: Vec<Skipped>,
}

/// The answer of `conformance coverage`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Coverage {
    /// All encodings of 64-bit user mode.
    #[serde(flatten)]
    pub all: Count,
    /// The encodings that were not compared, of the kernel's mode, too.
    pub refused: Vec<Skipped>,
    /// Those of [`Coverage::all`] that the emulator does not have, and why.
    pub not_emulated: Vec<Skipped>,
    /// Those that the emulator has and that were not compared; those of [`Coverage::obsolete`], too.
    pub unverified: Vec<Unverified>,
    /// Encodings of 64-bit user mode that no processor of today has, which are in none of the other counts.
    pub obsolete: Obsolete,
    /// The same as [`Coverage::all`] by CPUID feature; an encoding counts for each that it needs.
    pub by_cpuid: BTreeMap<String, Count>,
}

impl Coverage {
    /// What `report`, a comparison of all encodings, has covered.
    #[must_use]
    pub fn of(report: &Report) -> Coverage {
        let mut coverage = Coverage::default();
        let mut names: BTreeMap<CpuidFeature, String> = BTreeMap::new();
        let mut generator = xsave_layout().map(|layout| Generator::new(&layout, mxcsr_mask()));
        let mut accepted = |code| match &mut generator {
            Some(generator) => accepts(generator, code),
            None => Err("its bytes cannot be made without XSAVE".to_string()),
        };
        for code in codes::user_mode() {
            let tally = report.found.iter().find(|(found, _)| *found == code).map(|(_, tally)| tally);
            let accepted = accepted(code);
            // What is skipped by name is skipped because the processor does it.
            let native = match tally {
                Some(tally) => tally.native(code) == Some(true),
                None => features::missing(code).is_empty(),
            };
            let verified = native && accepted.is_ok() && tally.is_some_and(|tally| tally.compared > 0);
            let count = |count: &mut Count| count.add(accepted.is_ok(), native, verified);
            count(&mut coverage.all);
            for feature in code.cpuid_features() {
                let name = names.entry(*feature).or_insert_with(|| format!("{feature:?}"));
                count(coverage.by_cpuid.entry(name.clone()).or_default());
            }
            let name = format!("{code:?}");
            match accepted {
                Err(reason) => coverage.not_emulated.push(Skipped { code: name, reason }),
                Ok(()) if !verified => {
                    let skipped = report.skipped.iter().find(|skipped| skipped.code == name);
                    let reason = skipped.map_or("not compared".to_string(), |skipped| skipped.reason.clone());
                    coverage.unverified(code, reason);
                }
                Ok(()) => {}
            }
        }
        for code in codes::obsolete() {
            // The comparison leaves them out.
            let accepted = accepted(code);
            let features = code.cpuid_features();
            let native = features.iter().all(|feature| features::reported(*feature) == Some(true));
            coverage.obsolete.count.add(accepted.is_ok(), native, false);
            match accepted {
                Err(reason) => {
                    coverage.obsolete.not_emulated.push(Skipped { code: format!("{code:?}"), reason });
                }
                Ok(()) => coverage.unverified(code, "of no processor of today".to_string()),
            }
        }
        coverage.refused = report.skipped.clone();
        coverage
    }

    fn unverified(&mut self, code: Code, reason: String) {
        let second_source = codes::second_source(code);
        self.unverified.push(Unverified { code: format!("{code:?}"), reason, second_source });
    }
}

impl Count {
    fn add(&mut self, emulated: bool, native: bool, verified: bool) {
        self.codes += 1;
        self.emulated += usize::from(emulated);
        self.native += usize::from(native);
        self.verified += usize::from(verified);
    }
}

/// The command that does one case again.
pub(crate) fn reproduce(code: Code, number: u64, seed: u64) -> String {
    format!("cargo run --release -p conformance -- diff --code {code:?} --seed {seed} --only {number}")
}

/// A case in which the emulator differs, for a person to read.
pub(crate) fn describe(
    code: Code,
    number: u64,
    seed: u64,
    sample: &Sample,
    differences: &[Difference],
) -> Mismatch {
    let mut instruction = String::new();
    IntelFormatter::new().format(&sample.instruction, &mut instruction);
    let bytes = sample.case.bytes[..sample.case.length].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    Mismatch {
        code: format!("{code:?}"),
        instruction,
        bytes,
        state: state(sample),
        differences: differences.iter().map(ToString::to_string).collect(),
        reproduce: reproduce(code, number, seed),
    }
}

/// The parts of the state that the instruction uses.
fn state(sample: &Sample) -> Vec<String> {
    let registers = &sample.case.registers;
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&sample.instruction);
    let mut line = format!("rip={:#x} rflags={:#x}", sample.ip, registers.rflags.bits());
    let mut lines = Vec::new();
    let mut seen = Vec::new();
    for used in info.used_registers() {
        let full = used.register().full_register();
        if seen.contains(&full) {
            continue;
        }
        seen.push(full);
        let number = full.number();
        if full.is_gpr() {
            let _ = write!(line, " {}={:#x}", GPR[number], registers.gpr[number]);
        } else if full.is_vector_register() {
            let quads = registers.extended.vector[number].0;
            lines.push(format!("{full:?} quadwords {:016x?}", &quads[..4]));
        } else if full.is_k() {
            lines.push(format!("{full:?}={:#x}", registers.extended.opmask[number]));
        } else if full == Register::FS || full == Register::GS {
            let _ = write!(line, " fs_base={:#x} gs_base={:#x}", registers.fs_base, registers.gs_base);
        }
    }
    lines.insert(0, line);
    let bytes = &sample.case.bytes[..sample.case.length];
    let touches = crate::features::decode(bytes, sample.ip).map_or(Touches::EXTENDED, |it| it.touches());
    if touches.contains(Touches::SSE) {
        lines.push(format!("mxcsr={:#x}", registers.extended.mxcsr.bits()));
    }
    if touches.contains(Touches::X87) {
        let x87 = &registers.extended.x87;
        lines.push(format!("fcw={:#x} fsw={:#x} ftw={:#04x}", x87.control, x87.status, x87.tag));
        let top = usize::from(x87.status >> 11 & 7);
        for index in 0..8 {
            let r = x87.r[(top + index) & 7];
            lines.push(format!("st({index})={:04x}:{:016x}", r.sign_exponent, r.significand));
        }
    }
    if touches.contains(Touches::TILES) {
        lines.extend(tiles(&sample.instruction, &registers.extended.tiles));
    }
    for memory in info.used_memory() {
        if let Some(start) = crate::generate::linear(memory, registers) {
            let size = memory.memory_size().size();
            lines.push(format!("memory: {size} bytes at {start:#x}, {:?}", memory.access()));
        }
    }
    for patch in &sample.case.patches {
        let bytes = patch.contents().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        lines.push(format!("at {:#x}: {bytes}", patch.address));
    }
    lines
}

/// The configuration of tiles, and the rows of those that an instruction names that are not zero.
fn tiles(instruction: &Instruction, tiles: &Tiles) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let mut lines = vec![format!("tilecfg={}", hex(&tiles.config.0))];
    let named = (0..instruction.op_count()).map(|number| instruction.op_register(number));
    for register in named.filter(|register| register.is_tmm()) {
        let tile = tiles.data.tiles().and_then(|tiles| tiles.get(register.number()));
        for (number, row) in
            tile.into_iter().flatten().enumerate().filter(|(_, row)| **row != [0; ROW_LENGTH])
        {
            lines.push(format!("{register:?} row {number}={}", hex(row)));
        }
    }
    lines
}

/// Whether the emulator accepts most drawn instructions of an encoding, for one of the processors that have every
/// feature, or why not: some encodings are AMD's, to whose processors an operand size means more.
fn accepts(generator: &mut Generator, code: Code) -> Result<(), String> {
    const DRAWN: u64 = 16;
    static EVERYTHING: OnceLock<[&'static Processor; 2]> = OnceLock::new();
    let everything = *EVERYTHING.get_or_init(|| {
        [Vendor::Amd, Vendor::Intel].map(|vendor| Processor::with_every_feature(vendor).leak())
    });
    let ip = Place::Low.slot(0);
    let mut reason = Refusal::left_out(code).unwrap_or(codes::not_encoded(code));
    for processor in everything {
        let (mut drawn, mut accepted) = (0, 0);
        for number in 0..DRAWN {
            let rng = &mut Rng::of(&[code as u64, number]);
            let Some(encoded) = generator.encode_for(processor, code, ip, rng) else { continue };
            drawn += 1;
            match Displaced::decode_on(encoded.bytes(), ip, processor) {
                Ok(_) => accepted += 1,
                Err(refusal) => reason = Refusal::left_out(code).unwrap_or(refusal.reason()),
            }
        }
        if 2 * accepted > drawn {
            return Ok(());
        }
    }
    Err(reason.to_string())
}
