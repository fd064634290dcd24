//! `stepless list --usdt`: the probes that authors have put into files.

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use probe::arguments::unknown_arguments;
use probe::elf::{Elf, Usdt};
use probe::spec::Name;
use probe::{code, glob};
use serde::Serialize;

use crate::output::{json_to_stdout, printable, to_stdout};
use crate::{Failure, warn};

/// The probes of one file.
#[derive(Debug, Serialize)]
struct Object {
    path: String,
    probes: Vec<Listed>,
}

/// One place of a probe.
#[derive(Debug, Serialize)]
struct Listed {
    /// What a probe may name, behind `usdt:OBJECT:`.
    probe: String,
    provider: String,
    name: String,
    /// Before relocation.
    address: u64,
    /// In the file.
    offset: Option<u64>,
    /// The address of the semaphore, before relocation.
    semaphore: Option<u64>,
    arguments: String,
    /// Why it cannot be probed, or why an argument cannot be had.
    refused: Option<String>,
}

/// Lists those whose names match: `NAME`, `PROVIDER:NAME`, or patterns of these.
pub(crate) fn list(elfs: &[Arc<Elf>], pattern: Option<&str>, json: bool) -> Result<ExitCode, Failure> {
    let objects: Vec<Object> = elfs.iter().filter_map(|elf| of_file(elf, pattern)).collect();
    if json {
        #[derive(Serialize)]
        struct Document {
            objects: Vec<Object>,
        }
        return json_to_stdout(&Document { objects });
    }
    to_stdout(|out| objects.iter().try_for_each(|object| print(out, object)))
}

/// `None` if there is nothing to show.
fn of_file(elf: &Elf, pattern: Option<&str>) -> Option<Object> {
    let probes = elf.usdt().map_err(|error| warn(&format!("left out: {error}"))).ok()?;
    let matches = |probe: &&Usdt| {
        pattern.is_none_or(|pattern| {
            glob::matches(pattern, &probe.name)
                || glob::matches(pattern, &format!("{}:{}", probe.provider, probe.name))
        })
    };
    let probes: Vec<Listed> = probes.iter().filter(matches).map(|probe| listed(elf, probe)).collect();
    (!probes.is_empty()).then(|| Object { path: elf.path().display().to_string(), probes })
}

fn listed(elf: &Elf, probe: &Usdt) -> Listed {
    let Usdt { provider, name, address, semaphore, arguments } = probe.clone();
    Listed {
        probe: format!("{}:{}", literal(&provider), literal(&name)),
        refused: refused(elf, probe),
        offset: elf.offset_of_address(address),
        provider,
        name,
        address,
        semaphore,
        arguments,
    }
}

/// The name as `-e` takes it: in quotes where it would mean something else.
fn literal(name: &str) -> String {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if plain { name.to_owned() } else { Name::literal(name).to_string() }
}

fn refused(elf: &Elf, probe: &Usdt) -> Option<String> {
    let bytes = elf.code_at(probe.address);
    if bytes.is_empty() {
        return Some("there is no code at its address".to_owned());
    }
    if let Err(why) = code::decode(bytes, probe.address) {
        return Some(why.to_string());
    }
    let unknown = unknown_arguments(elf, probe).into_iter();
    let unknown: Vec<String> = unknown.map(|(number, why)| format!("arg{number}: {why}")).collect();
    (!unknown.is_empty()).then(|| unknown.join("; "))
}

fn print(out: &mut impl Write, object: &Object) -> io::Result<()> {
    writeln!(out, "{}", printable(&object.path))?;
    let hex = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:x}"));
    for Listed { probe, address, offset, semaphore, arguments, refused, .. } in &object.probes {
        let probe = printable(probe);
        write!(out, "{address:>12x} {:>10} {:>10}  {probe}", hex(*offset), hex(*semaphore))?;
        if !arguments.is_empty() {
            write!(out, "  {}", printable(arguments))?;
        }
        match refused {
            Some(why) => writeln!(out, "  ({})", printable(why))?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}
