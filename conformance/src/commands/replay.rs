//! `conformance replay`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use conformance::vectors::files;
use conformance::vectors::replay::{self, FileReport, Plan};
use serde::Serialize;

use super::{Out, conclude, could_not_run, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Files of recorded cases, or directories of such.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Only encodings with such a name, as iced-x86 names them; * and ? stand for anything.
    #[arg(long, value_name = "GLOB", default_value = "*")]
    code: String,
    /// How many wrong cases of each file to describe.
    #[arg(long, value_name = "N", default_value_t = 10)]
    show: usize,
    /// Lists the encodings that were not compared, with why.
    #[arg(long)]
    skipped: bool,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'a> {
    files: &'a [FileReport],
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut all = Vec::new();
    for path in &arguments.files {
        match files(path) {
            Ok(found) if found.is_empty() => {
                return could_not_run(format_args!("{}: no files of recorded cases there", path.display()));
            }
            Ok(found) => all.extend(found),
            Err(error) => return could_not_run(format_args!("{}: {error}", path.display())),
        }
    }
    let plan = Plan { pattern: arguments.code.clone(), show: arguments.show };
    let reports = match replay::replay(&all, &plan) {
        Ok(reports) => reports,
        Err((path, error)) => return could_not_run(format_args!("{}: {error}", path.display())),
    };
    let printed = if arguments.json {
        print_json(&Document { files: &reports })
    } else {
        to_stdout(|out| print(out, &reports, arguments.skipped))
    };
    conclude(printed, reports.iter().all(|report| report.wrong == 0))
}

fn print(out: Out<'_>, reports: &[FileReport], skipped: bool) -> io::Result<()> {
    for report in reports {
        for wrong in &report.first_wrong {
            writeln!(out, "{}: {}  ({}) in {}", wrong.code, wrong.instruction, wrong.bytes, report.file)?;
            for line in &wrong.differences {
                writeln!(out, "  ! {line}")?;
            }
            writeln!(out)?;
        }
        for (code, count) in &report.wrong_by_code {
            writeln!(out, "{code:<40} {count} wrong")?;
        }
        if skipped {
            for (reason, codes) in &report.skipped_codes {
                for (code, count) in codes {
                    writeln!(out, "{code:<40} {count} skipped: {reason}")?;
                }
            }
        }
        let FileReport { file, processor, cases, exact, wrong, .. } = report;
        write!(out, "{file}: {processor}: {cases} cases, {exact} exact, {wrong} wrong")?;
        for (reason, count) in &report.skipped {
            write!(out, ", {count} skipped: {reason}")?;
        }
        writeln!(out)?;
    }
    Ok(())
}
