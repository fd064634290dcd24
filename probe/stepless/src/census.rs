//! `stepless census`.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use emu::Processor;
use probe::census::{Candidate, Census, candidates, looks_like_elf};
use probe::elf::{Elf, ElfError};
use probe::recorded;
use serde::Serialize;

use crate::Failure;
use crate::args;
use crate::output::{json_to_stdout, percent, thousands, to_stdout};
use crate::progress::Progress;

/// How many refused codes the text form lists.
const LISTED: usize = 25;

/// What is printed.
#[derive(Debug, Serialize)]
struct Document {
    processor: String,
    #[serde(flatten)]
    census: Census,
}

/// The processor that is meant, and what to call it.
fn processor(name: &Path) -> Result<(&'static Processor, String), Failure> {
    match name.to_str() {
        Some("host") => Ok((Processor::host(), Processor::host().to_string())),
        Some("all") => {
            let every = Processor::with_every_feature(Processor::host().vendor);
            Ok((every.leak(), "a processor with every feature".to_owned()))
        }
        _ => {
            let recorded = recorded::processor(name)?;
            Ok((recorded.leak(), recorded.to_string()))
        }
    }
}

pub(crate) fn run(arguments: &args::Census) -> Result<ExitCode, Failure> {
    let (processor, name) = processor(&arguments.processor)?;
    let mut files = Vec::new();
    for path in &arguments.files {
        files.extend(candidates(path)?);
    }
    let size = |file: &Candidate| std::fs::metadata(&file.path).map_or(0, |metadata| metadata.len());
    let total = files.iter().map(size).sum();
    let mut progress =
        Progress::new(total, "{bar:30} {percent:>3} % {bytes}/{total_bytes} {eta} left  {wide_msg}");
    let mut census = Census::default();
    let mut counted = 0_u64;
    for file in &files {
        progress.message(file.path.display().to_string());
        let mut left = size(file);
        if let Some(elf) = open(file, &progress)? {
            census.add(Census::of(&elf, processor, |bytes| {
                let bytes = bytes.min(left);
                left -= bytes;
                progress.advance(bytes);
            }));
            counted += 1;
        }
        progress.advance(left);
    }
    drop(progress);
    let document = Document { processor: name, census };
    if arguments.json { json_to_stdout(&document) } else { to_stdout(|out| print(out, &document, counted)) }
}

/// The file, if it is one to be counted. What was found in a directory may well be something else.
fn open(file: &Candidate, progress: &Progress) -> Result<Option<Elf>, ElfError> {
    let found = if file.named { Ok(true) } else { looks_like_elf(&file.path) };
    let opened = match found {
        Ok(false) => return Ok(None),
        Ok(true) => Elf::open(&file.path),
        Err(source) => Err(ElfError::Read { path: file.path.clone(), source }),
    };
    match opened {
        Ok(elf) => Ok(Some(elf)),
        Err(error) if file.named => Err(error),
        Err(ElfError::Unsupported { .. }) => Ok(None),
        Err(error) => {
            progress.warn(&format!("left out: {error}"));
            Ok(None)
        }
    }
}

fn print(out: &mut impl Write, document: &Document, files: u64) -> io::Result<()> {
    let Document { processor, census } = document;
    let Census { sites, probeable, undefined, undefined_codes, data, refused, codes } = census;
    let plural = if files == 1 { "file" } else { "files" };
    writeln!(out, "{:>14}  instructions in {} {plural}", thousands(*sites), thousands(files))?;
    let mut line = |count: u64, what: &str| {
        writeln!(out, "{:>14}  {:>8}  {what}", thousands(count), percent(count, *sites))
    };
    line(*probeable, &format!("can be probed on {processor}"))?;
    if *undefined != 0 {
        line(*undefined, "of them raise #UD there")?;
    }
    for (reason, count) in most_first(refused) {
        line(count, reason)?;
    }
    if *data != 0 {
        writeln!(out, "{:>14}  bytes between functions are data and no instructions", thousands(*data))?;
    }
    for (title, codes) in [("Refused", codes), ("Raising #UD", undefined_codes)] {
        let codes = most_first(codes);
        if !codes.is_empty() {
            writeln!(out, "\n{title}, by encoding:")?;
        }
        for (code, count) in codes.iter().take(LISTED) {
            writeln!(out, "{:>14}  {:>8}  {code}", thousands(*count), percent(*count, *sites))?;
        }
        if let Some(rest) = codes.get(LISTED..).filter(|rest| !rest.is_empty()) {
            let count = rest.iter().map(|&(_, count)| count).sum();
            let others = format!("{} other encodings; --json names them", thousands(rest.len() as u64));
            writeln!(out, "{:>14}  {:>8}  {others}", thousands(count), percent(count, *sites))?;
        }
    }
    Ok(())
}

/// The counts, the largest first.
fn most_first<Name: AsRef<str>>(counts: &BTreeMap<Name, u64>) -> Vec<(&str, u64)> {
    let mut counts: Vec<_> = counts.iter().map(|(name, count)| (name.as_ref(), *count)).collect();
    counts.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    counts
}
