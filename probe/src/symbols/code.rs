//! Instruction by instruction through the code of a file.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::ops::Range;

use emu::{Displaced, Processor, Refusal};
use iced_x86::{Code, Decoder, Instruction as Decoded};

use crate::symbols::coverage::flow;
use crate::symbols::elf::{CodeRange, Elf, Function};
use crate::target::state;

/// Why an instruction cannot be probed, wherever it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprobeable {
    /// `emu` does not emulate it.
    Refused(Refusal),
    /// The ptrace executor cannot provide what it needs.
    Executor {
        /// The instruction.
        code: Code,
        /// What it needs.
        needs: &'static str,
    },
}

impl Unprobeable {
    /// The instruction, where the bytes were one.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Unprobeable::Refused(refusal) => refusal.code(),
            Unprobeable::Executor { code, .. } => Some(code),
        }
    }

    /// The reason in a few words without values, to count by.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Unprobeable::Refused(refusal) => refusal.reason(),
            Unprobeable::Executor { needs, .. } => needs,
        }
    }
}

impl fmt::Display for Unprobeable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unprobeable::Refused(refusal) => refusal.fmt(f),
            Unprobeable::Executor { code, needs } => write!(f, "{code:?} needs {needs}"),
        }
    }
}

// Display shows the refusal itself already, so that there is no source.
impl Error for Unprobeable {}

/// Decodes the instruction at the start of `bytes`, which lie at `address`, for the processor at hand.
///
/// # Errors
/// It cannot be probed on this machine.
pub fn decode(bytes: &[u8], address: u64) -> Result<Displaced, Unprobeable> {
    decode_on(bytes, address, Processor::host())
}

/// As [`decode`], for a machine with that processor.
///
/// # Errors
/// It cannot be probed there.
pub fn decode_on(
    bytes: &[u8],
    address: u64,
    processor: &'static Processor,
) -> Result<Displaced, Unprobeable> {
    let displaced = Displaced::decode_on(bytes, address, processor).map_err(Unprobeable::Refused)?;
    match state::missing(&displaced, state::provided(processor)) {
        Some(needs) => Err(Unprobeable::Executor { code: displaced.code(), needs }),
        None => Ok(displaced),
    }
}

/// One place where an instruction begins, and whether it can be probed.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    /// The virtual address, before relocation.
    pub address: u64,
    /// How many bytes to the next one; one where there is none.
    pub length: usize,
    /// The instruction, or why it cannot be probed.
    pub displaced: Result<Displaced, Unprobeable>,
}

/// Goes through `bytes`, which lie at `address`, from one instruction to the next, for the processor at hand.
///
/// Bytes that are no instruction are passed one by one, each as an [`Instruction`] that is refused.
pub fn sweep(bytes: &[u8], address: u64) -> impl Iterator<Item = Instruction> {
    sweep_on(bytes, address, Processor::host())
}

/// As [`sweep`], for a machine with that processor.
pub fn sweep_on(
    bytes: &[u8],
    address: u64,
    processor: &'static Processor,
) -> impl Iterator<Item = Instruction> {
    let mut rest = bytes;
    let mut address = address;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let displaced = decode_on(rest, address, processor);
        let length = match &displaced {
            Ok(displaced) if is_instruction(displaced) => displaced.length(),
            // Bytes that only raise an exception have no length.
            Ok(_) => 1,
            Err(_) => length_on(rest, processor),
        };
        let instruction = Instruction { address, length, displaced };
        rest = rest.get(length.max(1)..).unwrap_or_default();
        address = address.wrapping_add(length.max(1) as u64);
        Some(instruction)
    })
}

/// Where the instructions in `bytes` begin, which lie at `address`: as [`sweep`] has it, which also finds out whether
/// they can be probed, and takes many times as long.
fn starts(bytes: &[u8], address: u64) -> impl Iterator<Item = u64> {
    let mut decoder = Decoder::new(64, bytes, Processor::host().decoder_options());
    std::iter::from_fn(move || {
        let start = decoder.position();
        if !decoder.can_decode() {
            return None;
        }
        if decoder.decode().is_invalid() {
            let rest = bytes.get(start..).unwrap_or_default();
            let length = sweep(rest, 0).next().map_or(1, |instruction| instruction.length.max(1));
            // Never behind the end, as the length is that of some of the rest.
            decoder.set_position(start + length).ok()?;
        }
        Some(address.wrapping_add(start as u64))
    })
}

/// Whether `displaced` is an instruction, rather than bytes of which it is only known what they raise.
#[must_use]
pub fn is_instruction(displaced: &Displaced) -> bool {
    !displaced.instruction().is_invalid()
}

/// Whether a step may end within the instruction: between the iterations of a repeated one, or at the element or row that
/// faults of one that goes on there.
pub(crate) fn repeats(instruction: &Decoded) -> bool {
    use iced_x86::Mnemonic::{Tileloadd, Tileloaddt1, Tilestored};
    let repeated = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    let tiles = matches!(instruction.mnemonic(), Tileloadd | Tileloaddt1 | Tilestored);
    instruction.is_string_instruction() && repeated || instruction.is_vsib() || tiles
}

/// The length of the instruction at the start of `bytes`, one where it is none.
pub(crate) fn length(bytes: &[u8]) -> usize {
    length_on(bytes, Processor::host())
}

fn length_on(bytes: &[u8], processor: &Processor) -> usize {
    let mut decoder = Decoder::new(64, bytes, processor.decoder_options());
    let instruction = decoder.decode();
    if instruction.is_invalid() { 1 } else { instruction.len() }
}

/// The instructions of `function`.
pub fn of_function<'elf>(
    elf: &'elf Elf,
    function: &Function,
) -> impl Iterator<Item = Instruction> + use<'elf> {
    sweep(bytes_of(elf, function), function.address)
}

/// Where the instructions of `function` begin.
pub(crate) fn starts_of<'elf>(elf: &'elf Elf, function: &Function) -> impl Iterator<Item = u64> + use<'elf> {
    starts(bytes_of(elf, function), function.address)
}

/// Where the instructions in these virtual addresses begin.
pub(crate) fn starts_in<'elf>(elf: &'elf Elf, range: Range<u64>) -> impl Iterator<Item = u64> + use<'elf> {
    let bytes = elf.code_at(range.start);
    let size = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
    starts(bytes.get(..size.min(bytes.len())).unwrap_or_default(), range.start)
}

fn bytes_of<'elf>(elf: &'elf Elf, function: &Function) -> &'elf [u8] {
    let bytes = elf.code_at(function.address);
    let size = usize::try_from(function.size).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(..size).unwrap_or_default()
}

/// The instructions of `range`, for a machine with that processor: a linear sweep that begins anew at each function
/// and after it, so that data between two functions cannot hide where the second begins.
pub fn of_range<'elf>(
    elf: &'elf Elf,
    range: &'elf CodeRange,
    processor: &'static Processor,
) -> impl Iterator<Item = Instruction> + use<'elf> {
    let bytes = elf.bytes(range);
    let within = move |address: u64| {
        let distance = address.checked_sub(range.address)?;
        usize::try_from(distance).ok().filter(|&distance| distance < bytes.len())
    };
    let symbols = elf.functions().iter().map(|function| function.address);
    let unwound = elf.unwound().iter().flat_map(|function| [function.start, function.end]);
    let starts: BTreeSet<usize> = symbols.chain(unwound).filter_map(within).collect();
    let mut ends = starts.into_iter().filter(|&start| start != 0).chain(std::iter::once(bytes.len()));
    let mut start = 0;
    std::iter::from_fn(move || {
        let end = ends.next()?;
        let part = bytes.get(start..end).unwrap_or_default();
        let address = range.address + start as u64;
        start = end;
        Some(sweep_on(part, address, processor))
    })
    .flatten()
}

/// Whether an instruction begins at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// One begins there.
    Yes,
    /// It lies inside the instruction that begins at `start`; where functions overlap, also of another one than begins
    /// there.
    Inside {
        /// How many bytes after the start of the function that instruction begins.
        start: u64,
        /// The name of the function that both are in.
        function: String,
    },
    /// No function is known to lie there, so nobody can tell.
    Unknown,
}

/// Whether an instruction begins at virtual address `address`, counted from the start of its function.
#[must_use]
pub fn boundary(elf: &Elf, address: u64) -> Boundary {
    let Some(function) = elf.function_at(address) else { return Boundary::Unknown };
    let last = elf.with_starts(function, |starts| {
        let after = starts.partition_point(|&start| start <= address);
        starts.get(..after).and_then(|starts| starts.last()).copied()
    });
    match last {
        Some(start) if start != address => {
            let start = start.wrapping_sub(function.address);
            Boundary::Inside { start, function: function.name().to_owned() }
        }
        Some(_) => around(elf, function, address).unwrap_or(Boundary::Yes),
        None => Boundary::Unknown,
    }
}

/// The instruction of another function than `function` inside of which `address` lies, if they overlap so.
fn around(elf: &Elf, function: &Function, address: u64) -> Option<Boundary> {
    let holds = |other: &&Function| other.address < function.address && address - other.address < other.size;
    elf.functions_before(address).filter(holds).find_map(|other| {
        let range = other.address..other.address.saturating_add(other.size);
        let start = flow::instruction_around(elf, range, address)?.wrapping_sub(other.address);
        Some(Boundary::Inside { start, function: other.name().to_owned() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_passes_every_byte_once() {
        // nop; an opcode that raises #UD; one that nobody knows; mov $1,%eax; half an instruction.
        let bytes = [0x90, 0x06, 0xd5, 0xb8, 1, 0, 0, 0, 0xb8, 1];
        let found: Vec<_> = sweep(&bytes, 0x1000).map(|found| (found.address, found.length)).collect();
        assert_eq!(found, [(0x1000, 1), (0x1001, 1), (0x1002, 1), (0x1003, 5), (0x1008, 1), (0x1009, 1)]);
        let refusals: Vec<_> = sweep(&bytes, 0x1000).filter_map(|found| found.displaced.err()).collect();
        assert!(refusals.contains(&Unprobeable::Refused(Refusal::Apx)), "{refusals:?}");
        assert!(refusals.contains(&Unprobeable::Refused(Refusal::Truncated { length: 2 })), "{refusals:?}");
        let raising = sweep(&bytes, 0x1000).filter_map(|found| found.displaced.ok());
        assert_eq!(raising.filter(|displaced| !is_instruction(displaced)).count(), 1);
        let found: Vec<u64> = found.iter().map(|&(address, _)| address).collect();
        assert_eq!(starts(&bytes, 0x1000).collect::<Vec<_>>(), found);
    }

    #[test]
    fn instructions_begin_where_a_sweep_has_them() {
        let elf = Elf::open(std::path::Path::new("/proc/self/exe")).unwrap();
        let mut seen = 0;
        for range in elf.code() {
            let bytes = elf.bytes(range);
            // Each offset into it, so that much of what is met is no code.
            for skip in 0..16 {
                let bytes = bytes.get(skip..).unwrap_or_default();
                let bytes = &bytes[..bytes.len().min(20_000)];
                let swept: Vec<u64> = sweep(bytes, 7).map(|instruction| instruction.address).collect();
                assert_eq!(starts(bytes, 7).collect::<Vec<_>>(), swept);
                seen += swept.len();
            }
        }
        assert!(seen > 10_000, "{seen}");
        // LOCK where it is not allowed, of which the whole is undefined, and a prefix alone.
        let bytes = [0xf0, 0x48, 0x89, 0xc3, 0x90, 0xf0, 0xc4, 0xe2, 0x66];
        let swept: Vec<u64> = sweep(&bytes, 0).map(|instruction| instruction.address).collect();
        assert_eq!(starts(&bytes, 0).collect::<Vec<_>>(), swept);
    }

    #[test]
    fn what_the_executor_lacks_is_no_less_refused_than_what_emu_does() {
        // rdpkru; vpaddd with a mask; nop: where nobody saves protection keys.
        let bytes = [0x0f, 0x01, 0xee, 0x62, 0xf1, 0x7d, 0x49, 0xfe, 0xc1, 0x90];
        let mut processor = Processor::with_every_feature(emu::Vendor::Intel);
        processor.xcr0 &= !emu::xsave::feature::PKRU;
        let found: Vec<_> = sweep_on(&bytes, 0x1000, Box::leak(Box::new(processor))).collect();
        assert_eq!(found.iter().map(|found| found.length).collect::<Vec<_>>(), [3, 6, 1]);
        let refused: Vec<_> = found.iter().map(|found| found.displaced.err()).collect();
        let Some(Unprobeable::Executor { code: Code::Rdpkru, needs }) = refused[0] else {
            panic!("{refused:?}")
        };
        assert_eq!(refused[0].unwrap().reason(), needs);
        assert_eq!((refused[1], refused[2]), (None, None));
    }

    #[test]
    fn a_sweep_ends_at_the_end_of_the_address_space() {
        assert_eq!(sweep(&[0x90; 4], u64::MAX - 1).count(), 4);
    }
}
