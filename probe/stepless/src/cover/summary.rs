//! Coverage for people: a table by file and function, and sources with what was reached.

use std::io::{self, Write};
use std::path::Path;

use probe::coverage::Level;

use crate::input;
use crate::output::printable;

use super::findings::{Blocks, FileFindings, Findings, Hits, Share};

pub(super) fn print(out: &mut impl Write, findings: &Findings, annotate: bool) -> io::Result<()> {
    let base = std::env::current_dir().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
    let short = |name: &str| match name.strip_prefix(&base).and_then(|rest| rest.strip_prefix('/')) {
        Some(below) => below.to_owned(),
        None => name.to_owned(),
    };
    match findings.level {
        Some(Level::Block) => blocks(out, findings, "BLOCKS")?,
        Some(Level::Instruction) => blocks(out, findings, "INSTRUCTIONS")?,
        _ => lines(out, findings, short)?,
    }
    if annotate {
        for (name, file) in &findings.files {
            writeln!(out)?;
            source(out, name, &short(name), file, findings.counted)?;
        }
    }
    Ok(())
}

/// One line: how many of how many, and what.
fn row(out: &mut impl Write, share: Share, what: &str) -> io::Result<()> {
    let Share { total, covered } = share;
    let (count, what) = (format!("{covered}/{total}"), printable(what));
    match total {
        0 => writeln!(out, "{count:>15} {:>10}  {what}", "-"),
        _ => {
            // Never 100 where anything is missing.
            let percent = covered as f64 / total as f64 * 100.0;
            let percent = if covered < total { percent.min(99.99) } else { percent };
            writeln!(out, "{count:>15} {percent:>8.2} %  {what}")
        }
    }
}

fn lines(out: &mut impl Write, findings: &Findings, short: impl Fn(&str) -> String) -> io::Result<()> {
    writeln!(out, "{:>15} {:>10}", "LINES", "COVERED")?;
    for (name, file) in &findings.files {
        row(out, file.share(), &format!("{}{}", short(name), functions(file.functions_share())))?;
        for ((_, name), function) in file.functions.iter().filter(|(_, function)| !function.lines.is_empty())
        {
            row(out, Share::of(function.lines.values().copied()), &format!("  {name}"))?;
        }
    }
    row(out, findings.lines(), &format!("in all{}", functions(findings.functions())))
}

fn functions(share: Share) -> String {
    match share {
        Share { total: 0, .. } => String::new(),
        Share { total: 1, covered } => format!(" ({covered} of 1 function)"),
        Share { total, covered } => format!(" ({covered} of {total} functions)"),
    }
}

fn blocks(out: &mut impl Write, findings: &Findings, what: &str) -> io::Result<()> {
    writeln!(out, "{what:>15} {:>10}", "COVERED")?;
    for (path, object) in &findings.objects {
        let share = object.functions.values().map(Blocks::share).fold(Share::default(), Share::add);
        let any = |blocks: &Blocks| Some(u64::from(blocks.share().covered > 0));
        let entered = Share::of(object.functions.values().map(any));
        row(out, share, &format!("{}{}", path, functions(entered)))?;
        for blocks in object.functions.values() {
            let unresolved = match blocks.unresolved {
                0 => "",
                _ => " (and maybe more: where a jump leads is not known)",
            };
            row(out, blocks.share(), &format!("  {}{unresolved}", blocks.name))?;
        }
    }
    row(out, findings.sites(), "in all")
}

/// A source file, with how often each line was reached before it.
fn source(
    out: &mut impl Write,
    name: &str,
    short: &str,
    file: &FileFindings,
    counted: bool,
) -> io::Result<()> {
    let text = match input::read_regular(Path::new(name)) {
        Ok(text) => text,
        Err(error) => return writeln!(out, "{}: {error}", printable(short)),
    };
    writeln!(out, "{}:", printable(short))?;
    let text = String::from_utf8_lossy(&text);
    for (number, line) in (1u32..).zip(text.lines()) {
        writeln!(out, "{:>10} |{number:>6} | {line}", mark(file.lines.get(&number), counted))?;
    }
    Ok(())
}

fn mark(hits: Option<&Hits>, counted: bool) -> String {
    match hits {
        None => String::new(),
        Some(None) => "?".to_owned(),
        Some(Some(0)) => "-".to_owned(),
        Some(Some(hits)) if counted => hits.to_string(),
        Some(Some(_)) => "+".to_owned(),
    }
}
