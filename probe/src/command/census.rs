//! `stepless census`.

use std::io::{self, Write};
use std::process::ExitCode;

use probe::census::{Candidate, Census, candidates, looks_like_elf};
use probe::elf::{Elf, ElfError};

use super::Failure;
use super::args;
use super::output::{json_to_stdout, percent, thousands, to_stdout};
use super::progress::Progress;

/// How many refused codes the text form lists.
const LISTED: usize = 25;

pub(crate) fn run(arguments: &args::Census) -> Result<ExitCode, Failure> {
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
            census.add(Census::of(&elf, |bytes| {
                let bytes = bytes.min(left);
                left -= bytes;
                progress.advance(bytes);
            }));
            counted += 1;
        }
        progress.advance(left);
    }
    drop(progress);
    if arguments.json { json_to_stdout(&census) } else { to_stdout(|out| print(out, &census, counted)) }
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

fn print(out: &mut impl Write, census: &Census, files: u64) -> io::Result<()> {
    let Census { sites, probeable, refused, codes } = census;
    let plural = if files == 1 { "file" } else { "files" };
    writeln!(out, "{:>14}  instructions in {} {plural}", thousands(*sites), thousands(files))?;
    writeln!(out, "{:>14}  {:>8}  can be probed", thousands(*probeable), percent(*probeable, *sites))?;
    let mut reasons: Vec<_> = refused.iter().collect();
    reasons.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    for (reason, count) in reasons {
        writeln!(out, "{:>14}  {:>8}  {reason}", thousands(*count), percent(*count, *sites))?;
    }
    let mut codes: Vec<_> = codes.iter().collect();
    codes.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    if !codes.is_empty() {
        writeln!(out, "\nRefused, by encoding:")?;
    }
    for (code, count) in codes.iter().take(LISTED) {
        writeln!(out, "{:>14}  {:>8}  {code}", thousands(**count), percent(**count, *sites))?;
    }
    if let Some(rest) = codes.get(LISTED..).filter(|rest| !rest.is_empty()) {
        let count = rest.iter().map(|&(_, count)| count).sum();
        let others = format!("{} other encodings; --json names them", thousands(rest.len() as u64));
        writeln!(out, "{:>14}  {:>8}  {others}", thousands(count), percent(count, *sites))?;
    }
    Ok(())
}
