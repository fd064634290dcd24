//! `stepless explain`.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use emu::Displaced;
use iced_x86::{Decoder, InstructionInfoFactory, OpAccess, Register, RflagsBits, UsedMemory, UsedRegister};
use probe::code;
use probe::resolve::Resolver;
use probe::spec::ProbeSpec;
use serde::Serialize;

use crate::list::disassemble;
use crate::output::{json_to_stdout, to_stdout};
use crate::{Failure, args, target};

/// What there is to say about one instruction.
#[derive(Debug, Serialize)]
struct Explanation {
    instruction: String,
    code: Option<String>,
    supported: bool,
    /// Whether it raises #UD on this machine, probed or not.
    undefined: bool,
    reason: Option<String>,
    touches: Vec<String>,
    row: Option<&'static str>,
    place: Option<String>,
    ip: u64,
    bytes: String,
    reads: Vec<String>,
    writes: Vec<String>,
    flags_read: String,
    flags_written: String,
    flags_undefined: String,
}

pub(crate) fn run(arguments: &args::Explain) -> Result<ExitCode, Failure> {
    let explanation = match (&arguments.probe, arguments.pid, &arguments.bytes) {
        (Some(probe), Some(pid), _) => of_probe(probe, pid)?,
        (_, _, Some(hex)) => {
            let ip = arguments.ip.as_deref().map_or(Ok(0), address)?;
            explain(&bytes(hex)?, ip, None)
        }
        _ => return Err(Failure::new("explain what? give PROBE -p PID or --bytes HEX")),
    };
    if arguments.json { json_to_stdout(&explanation) } else { to_stdout(|out| print(out, &explanation)) }
}

fn of_probe(probe: &str, pid: i32) -> Result<Explanation, Failure> {
    let spec: ProbeSpec = probe.parse()?;
    if spec.is_many() {
        return Err(Failure::new(format!("`{spec}` is many instructions; `list --instructions` shows them")));
    }
    let resolver = Resolver::new(spec, Arc::default());
    target::check(pid)?;
    let places = resolver.places(&target::maps(pid)?)?;
    let Some(place) = places.first() else {
        return Err(Failure::new(format!("{probe} is nowhere in process {pid}")));
    };
    let bytes = target::read_memory(pid, place.site.address, target::LONGEST)?;
    Ok(explain(&bytes, place.site.address, place.name.clone()))
}

fn explain(bytes: &[u8], ip: u64, place: Option<String>) -> Explanation {
    let (instruction, name) = disassemble(bytes, ip);
    let displaced = code::decode(bytes, ip);
    let decoded = Decoder::with_ip(64, bytes, ip, emu::Processor::host().decoder_options()).decode();
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(&decoded);
    let used = |wanted: fn(OpAccess) -> bool| {
        let registers = info.used_registers().iter().filter(|used| wanted(used.access())).map(register_name);
        let memory = info.used_memory().iter().filter(|used| wanted(used.access())).map(memory_name);
        registers.chain(memory).collect()
    };
    let length = if decoded.is_invalid() { bytes.len().min(target::LONGEST) } else { decoded.len() };
    let touched = displaced.as_ref().map(Displaced::touches).ok();
    let touches = touched.iter().flat_map(|touches| touches.iter_names());
    let touches = touches.map(|(name, _)| name.to_ascii_lowercase()).collect();
    Explanation {
        instruction,
        code: name,
        supported: displaced.is_ok(),
        undefined: displaced.as_ref().is_ok_and(Displaced::is_undefined),
        reason: displaced.as_ref().err().map(ToString::to_string),
        touches,
        row: displaced.as_ref().map(Displaced::row).ok(),
        place,
        ip,
        bytes: bytes.iter().take(length).map(|byte| format!("{byte:02x}")).collect(),
        reads: used(reads),
        writes: used(writes),
        flags_read: flags(decoded.rflags_read()),
        flags_written: flags(decoded.rflags_written() | decoded.rflags_cleared() | decoded.rflags_set()),
        flags_undefined: flags(decoded.rflags_undefined()),
    }
}

fn reads(access: OpAccess) -> bool {
    matches!(access, OpAccess::Read | OpAccess::CondRead | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

fn register_name(used: &UsedRegister) -> String {
    format!("{:?}", used.register()).to_ascii_lowercase()
}

fn memory_name(used: &UsedMemory) -> String {
    let mut parts: Vec<String> = Vec::new();
    if used.base() != Register::None {
        parts.push(format!("{:?}", used.base()).to_ascii_lowercase());
    }
    if used.index() != Register::None {
        parts.push(format!("{:?}*{}", used.index(), used.scale()).to_ascii_lowercase());
    }
    let displacement = match used.displacement().cast_signed() {
        0 if !parts.is_empty() => String::new(),
        negative if negative < 0 && !parts.is_empty() => format!("-{:#x}", negative.unsigned_abs()),
        _ if parts.is_empty() => format!("{:#x}", used.displacement()),
        positive => format!("+{positive:#x}"),
    };
    let segment = format!("{:?}", used.segment()).to_ascii_lowercase();
    format!("{segment}:[{}{displacement}] ({:?})", parts.join("+"), used.memory_size())
}

/// The flags' names in the order of their bits.
fn flags(bits: u32) -> String {
    const NAMES: [(u32, &str); 13] = [
        (RflagsBits::CF, "CF"),
        (RflagsBits::PF, "PF"),
        (RflagsBits::AF, "AF"),
        (RflagsBits::ZF, "ZF"),
        (RflagsBits::SF, "SF"),
        (RflagsBits::OF, "OF"),
        (RflagsBits::DF, "DF"),
        (RflagsBits::IF, "IF"),
        (RflagsBits::AC, "AC"),
        (RflagsBits::C0, "C0"),
        (RflagsBits::C1, "C1"),
        (RflagsBits::C2, "C2"),
        (RflagsBits::C3, "C3"),
    ];
    let names = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name);
    names.collect::<Vec<_>>().join(" ")
}

fn bytes(hex: &str) -> Result<Vec<u8>, Failure> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let byte = |pair: &[u8]| match pair {
        [high, low] => {
            let digit =
                |letter: u8| char::from(letter).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            Some(digit(*high)? << 4 | digit(*low)?)
        }
        _ => None,
    };
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let bytes = bytes.filter(|bytes| !bytes.is_empty());
    bytes.ok_or_else(|| Failure::new(format!("`{hex}` is not a row of bytes in hexadecimal, such as 4889e5")))
}

fn address(text: &str) -> Result<u64, Failure> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let address = u64::from_str_radix(digits, 16).ok().filter(|_| hexadecimal);
    address.ok_or_else(|| Failure::new(format!("`{text}` is not an address in hexadecimal")))
}

fn print(out: &mut impl Write, explanation: &Explanation) -> io::Result<()> {
    let mut line = |name: &str, value: &str| {
        if value.is_empty() { Ok(()) } else { writeln!(out, "{name:<12} {value}") }
    };
    line("instruction", &explanation.instruction)?;
    line("bytes", &explanation.bytes)?;
    line("at", &format!("{:#x}", explanation.ip))?;
    line("place", explanation.place.as_deref().unwrap_or_default())?;
    line("code", explanation.code.as_deref().unwrap_or_default())?;
    match &explanation.reason {
        None if explanation.undefined => line("probeable", "yes; raises #UD on this processor")?,
        None => line("probeable", "yes")?,
        Some(reason) => line("probeable", &format!("no: {reason}"))?,
    }
    line("row", explanation.row.unwrap_or_default())?;
    line("touches", &explanation.touches.join(", "))?;
    line("reads", &explanation.reads.join(", "))?;
    line("writes", &explanation.writes.join(", "))?;
    line("flags read", &explanation.flags_read)?;
    line("written", &explanation.flags_written)?;
    line("undefined", &explanation.flags_undefined)
}
