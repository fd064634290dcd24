//! `stepless list`.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use emu::Displaced;
use iced_x86::{Decoder, Formatter, IntelFormatter};
use probe::elf::{Elf, Function, LookupError, demangle};
use probe::resolve::Objects;
use probe::spec::ProbeSpec;
use probe::{code, glob};
use serde::Serialize;

use crate::output::{json_to_stdout, printable, to_stdout};
use crate::{Failure, args, run, target, usdt, warn};

/// The functions of one file.
#[derive(Debug, Serialize)]
struct Object {
    path: String,
    functions: Vec<Listed>,
}

/// One function.
#[derive(Debug, Serialize)]
struct Listed {
    name: String,
    /// What a probe may name, behind `OBJECT:`: the same, in quotes where it would mean something else, and with the
    /// address where others have it, too.
    probe: String,
    demangled: String,
    aliases: Vec<String>,
    /// Before relocation.
    address: u64,
    /// In the file.
    offset: Option<u64>,
    size: u64,
    indirect: bool,
    /// Where in the source it begins: the file, in full, and the line.
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<Vec<Site>>,
}

/// One instruction.
#[derive(Debug, Serialize)]
struct Site {
    /// What a probe may name, behind `OBJECT:`.
    probe: String,
    address: u64,
    offset: Option<u64>,
    instruction: String,
    code: Option<String>,
    probeable: bool,
    /// Whether it raises #UD on this machine, probed or not.
    undefined: bool,
    reason: Option<String>,
}

pub(crate) fn run(arguments: &args::List) -> Result<ExitCode, Failure> {
    let objects = run::objects(&arguments.debug_file)?;
    let (elfs, pattern) = match (arguments.pid.as_slice(), &arguments.file) {
        ([], Some(file)) => (vec![objects.open(Path::new(file))?], arguments.glob.as_deref()),
        ([], None) => return Err(Failure::new("list what? give a FILE or -p PID")),
        (names, pattern) => {
            let pattern = pattern.as_ref().map(|pattern| {
                pattern
                    .to_str()
                    .ok_or_else(|| Failure::new("the pattern is not UTF-8, as names of functions are"))
            });
            (mapped(&target::named(names, &[])?, &objects)?, pattern.transpose()?)
        }
    };
    if arguments.usdt {
        return usdt::list(&elfs, pattern, arguments.json);
    }
    if arguments.json {
        #[derive(Serialize)]
        struct Document {
            objects: Vec<Object>,
        }
        let objects = elfs.iter().map(|elf| Object {
            path: elf.path().display().to_string(),
            functions: functions(elf, pattern, arguments).collect(),
        });
        return json_to_stdout(&Document { objects: objects.collect() });
    }
    to_stdout(|out| {
        for elf in &elfs {
            let mut functions = functions(elf, pattern, arguments).peekable();
            if !arguments.pid.is_empty() && functions.peek().is_some() {
                writeln!(out, "{}", printable(&elf.path().to_string_lossy()))?;
            }
            functions.try_for_each(|function| print(out, &function))?;
        }
        Ok(())
    })
}

/// The files with code that processes have mapped, each once.
fn mapped(pids: &[i32], objects: &Objects) -> Result<Vec<Arc<Elf>>, Failure> {
    let mut all: Vec<Arc<Elf>> = Vec::new();
    for &pid in pids {
        target::check(pid)?;
        for object in objects.all_mapped(&target::maps(pid)?) {
            match object {
                Ok(elf) if all.iter().any(|known| Arc::ptr_eq(known, &elf)) => {}
                Ok(elf) => all.push(elf),
                Err(error) => warn(&format!("process {pid}: left out: {error}")),
            }
        }
    }
    Ok(all)
}

/// The functions whose names match, and that have something to show.
fn functions(elf: &Elf, pattern: Option<&str>, arguments: &args::List) -> impl Iterator<Item = Listed> {
    let matches = move |name: &str| {
        pattern.is_none_or(|pattern| glob::matches(pattern, name) || glob::matches(pattern, &demangle(name)))
    };
    let matching = move |function: &&Function| {
        function.names.iter().any(|name| matches(name)) || function.bare_names().any(matches)
    };
    let listed = elf.functions().iter().filter(matching).map(|function| listed(elf, function, arguments));
    let has_sites = |function: &Listed| function.instructions.as_ref().is_some_and(|sites| !sites.is_empty());
    listed.filter(move |function| !arguments.refused || has_sites(function))
}

fn listed(elf: &Elf, function: &Function, arguments: &args::List) -> Listed {
    let wants_sites = arguments.instructions || arguments.refused;
    let name = function.names.first().cloned().unwrap_or_default();
    let is_it = match elf.find(&name) {
        Ok(symbol) => symbol.address == function.address,
        Err(LookupError::Indirect { address, .. }) => address == function.address,
        Err(_) => false,
    };
    let own = if is_it { name.clone() } else { format!("{name}@{:#x}", function.address) };
    let probe = behind_object(&ProbeSpec::function(OBJECT, own));
    let source = elf.debug_info().ok().and_then(|debug| debug.line_of(function.address).ok().flatten());
    let (file, line) = source.unzip();
    Listed {
        demangled: demangle(function.name()).into_owned(),
        aliases: function.names.iter().skip(1).cloned().collect(),
        address: function.address,
        offset: elf.offset_of_address(function.address),
        size: function.size,
        indirect: function.indirect,
        file,
        line,
        instructions: wants_sites.then(|| {
            let sites = code::of_function(elf, function);
            let sites = sites.filter(|site| !arguments.refused || site.displaced.is_err());
            sites.map(|site| self::site(elf, &probe, function, &site)).collect()
        }),
        name,
        probe,
    }
}

/// One that stands for any.
const OBJECT: &str = "a";

/// What stands behind the object of a probe in [`OBJECT`], as `-e` takes it.
pub(crate) fn behind_object(spec: &ProbeSpec) -> String {
    let text = spec.to_string();
    match text.split_once(':') {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    }
}

fn site(elf: &Elf, probe: &str, function: &Function, site: &code::Instruction) -> Site {
    let (instruction, code) = disassemble(elf.code_at(site.address), site.address);
    let distance = site.address.saturating_sub(function.address);
    Site {
        probe: match distance {
            // Its name means what it chooses.
            _ if function.indirect => behind_object(&ProbeSpec::number(OBJECT, site.address)),
            0 => probe.to_owned(),
            distance => format!("{probe}+{distance:#x}"),
        },
        address: site.address,
        offset: elf.offset_of_address(site.address),
        instruction,
        code,
        probeable: site.displaced.is_ok(),
        undefined: site.displaced.as_ref().is_ok_and(Displaced::is_undefined),
        reason: site.displaced.as_ref().err().map(ToString::to_string),
    }
}

/// The instruction at the start of `bytes` in Intel syntax, and iced-x86's name of its encoding.
pub(crate) fn disassemble(bytes: &[u8], address: u64) -> (String, Option<String>) {
    let instruction = Decoder::with_ip(64, bytes, address, emu::Processor::host().decoder_options()).decode();
    let mut text = String::new();
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    formatter.format(&instruction, &mut text);
    (text, (!instruction.is_invalid()).then(|| format!("{:?}", instruction.code())))
}

fn print(out: &mut impl Write, function: &Listed) -> io::Result<()> {
    let Listed { name, demangled, address, offset, size, file, line, .. } = function;
    let hex = |offset: Option<u64>| offset.map_or_else(|| "-".to_owned(), |offset| format!("{offset:x}"));
    write!(out, "{address:>12x} {:>10} {size:>8}  {}", hex(*offset), printable(&function.probe))?;
    if demangled != name && !name.starts_with(&format!("{demangled}@")) {
        write!(out, "  {}", printable(demangled))?;
    }
    for alias in &function.aliases {
        write!(out, " = {}", printable(alias))?;
    }
    if let (Some(file), Some(line)) = (file, line) {
        let file = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
        write!(out, "  {}:{line}", printable(&file))?;
    }
    if function.indirect {
        write!(out, "  (indirect: chosen when the program starts)")?;
    }
    writeln!(out)?;
    for site in function.instructions.iter().flatten() {
        let distance = site.address.saturating_sub(*address);
        let (offset, distance) = (hex(site.offset), format!("+{distance:#x}"));
        write!(out, "{:>12x} {offset:>10} {distance:>8}    {:<44}", site.address, site.instruction)?;
        match &site.reason {
            None if site.undefined => writeln!(out, "  yes; raises #UD on this processor")?,
            None => writeln!(out, "  yes")?,
            Some(reason) => writeln!(out, "  no: {reason}")?,
        }
    }
    Ok(())
}
