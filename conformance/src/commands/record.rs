//! `conformance record`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use conformance::vectors::format::{self, Reader, write};
use conformance::vectors::record::{self, Plan};
use conformance::vectors::replay;
use conformance::vectors::{files, open, save};
use serde::Serialize;

use super::{conclude, could_not_run, fresh_seed, print_json, to_stdout};

#[derive(Args)]
pub(crate) struct Arguments {
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Only encodings with such a name, as iced-x86 names them; * and ? stand for anything.
    #[arg(long, value_name = "GLOB", default_value = "*")]
    code: String,
    /// Only encodings of which these files, or the files of these directories, have no cases.
    #[arg(long, value_name = "FILE")]
    missing_from: Vec<PathBuf>,
    /// Only cases whose answers the processor of this recording would not give.
    #[arg(long, value_name = "FILE")]
    unlike: Option<PathBuf>,
    /// How many cases of each encoding.
    #[arg(long, value_name = "N", default_value_t = 32)]
    cases: u16,
    /// What the cases are drawn from; without it, a new one each time.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Prints one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    codes: usize,
    cases: usize,
    processor: String,
    seed: u64,
    bytes: usize,
}

/// Adds the names of the encodings that files have cases of.
fn names(path: &Path, names: &mut BTreeSet<String>) -> Result<(), format::Error> {
    for path in files(path)? {
        match Reader::new(open(&path)?) {
            Ok(mut reader) => {
                while let Some((form, _)) = reader.next_case()? {
                    if !names.contains(&*form.code) {
                        names.insert(form.code.to_string());
                    }
                }
            }
            // Variants of encodings are no cases.
            Err(format::Error::NoVectors) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let mut except = BTreeSet::new();
    for path in &arguments.missing_from {
        if let Err(error) = names(path, &mut except) {
            return could_not_run(format_args!("{}: {error}", path.display()));
        }
    }
    let unlike = match arguments.unlike.as_deref().map(replay::processor).transpose() {
        Ok(unlike) => unlike,
        Err((path, error)) => return could_not_run(format_args!("{}: {error}", path.display())),
    };
    let plan = Plan {
        except,
        unlike,
        pattern: arguments.code.clone(),
        cases: arguments.cases,
        seed: arguments.seed.unwrap_or_else(fresh_seed),
        ..Plan::default()
    };
    let recording = match record::record(&plan) {
        Ok(recording) => recording,
        Err(failure) => return could_not_run(failure),
    };
    let bytes = match write(&recording.header, &recording.forms) {
        Ok(bytes) => bytes,
        Err(error) => return could_not_run(error),
    };
    if let Err(error) = save(&arguments.output, &bytes) {
        return could_not_run(format_args!("{}: {error}", arguments.output.display()));
    }
    let mut codes: Vec<_> = recording.forms.iter().map(|(form, _)| &form.code).collect();
    codes.dedup();
    let document = Document {
        codes: codes.len(),
        cases: recording.forms.iter().map(|(_, cases)| cases.len()).sum(),
        processor: recording.processor,
        seed: plan.seed,
        bytes: bytes.len(),
    };
    let printed = if arguments.json {
        print_json(&document)
    } else {
        let Document { codes, cases, processor, seed, bytes } = document;
        to_stdout(|out| {
            writeln!(out, "{processor}: {codes} codes, {cases} cases, {bytes} bytes; seed {seed}")
        })
    };
    conclude(printed, true)
}
