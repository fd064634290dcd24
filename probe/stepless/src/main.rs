//! The `stepless` command: parses arguments, prints, and decides the exit status.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

mod args;
mod census;
mod cover;
mod events;
mod explain;
mod generate;
mod inject;
mod input;
mod list;
mod output;
mod progress;
mod run;
mod signals;
mod step;
mod target;
mod trace;
mod usdt;
mod watch;

use args::{Cli, Command};

/// Why the command could not run: one line that says what to do. Its exit status is 2.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    /// A failure with this line.
    pub(crate) fn new(line: impl Into<String>) -> Failure {
        Failure(line.into())
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// Wrong usage, or it could not run.
const COULD_NOT_RUN: u8 = 2;

/// The argument by which the command runs itself as its own warden.
pub(crate) const WARDEN: &str = "__warden";

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == WARDEN) {
        return probe::warden::serve();
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            return match error.print() {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail(&format!("stdout: {error}")),
                Ok(()) | Err(_) => ExitCode::SUCCESS,
            };
        }
        Err(error) => return fail(&usage_line(&error)),
    };
    let result = match cli.command {
        Command::List(arguments) => list::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Census(arguments) => census::run(&arguments),
        Command::Cover(arguments) => cover::run(&arguments),
        Command::Watch(arguments) => watch::run(&arguments),
        Command::Man(arguments) => generate::man(&arguments),
        Command::Completions(arguments) => generate::completions(&arguments),
        Command::Trace(arguments) => trace::run(&arguments, trace::Mode::Trace),
        Command::Inject(arguments) => inject::run(*arguments),
        Command::Stat(arguments) => trace::run(&arguments, trace::Mode::Stat),
        Command::Step(arguments) => trace::run(&arguments.tracing, trace::Mode::Step(arguments.steps())),
    };
    match result {
        Ok(code) => code,
        Err(Failure(line)) => fail(&line),
    }
}

fn fail(line: &str) -> ExitCode {
    warn(line);
    ExitCode::from(COULD_NOT_RUN)
}

/// Prints one line on stderr, whatever a path or a library's message contains.
pub(crate) fn warn(line: &str) {
    let line = line.replace(|letter: char| letter.is_control(), " ");
    match writeln!(io::stderr(), "stepless: {line}") {
        // A closed stderr is the user's wish, and there is nowhere else to say so.
        Ok(()) | Err(_) => {}
    }
}

/// Shows on stderr which byte of what the user has written is meant.
pub(crate) fn point_at(text: &str, byte: usize) {
    let before = text.get(..byte).unwrap_or(text).chars().count();
    let text = text.replace(|letter: char| letter.is_control(), " ");
    let lines = format!("  {text}\n  {}^", " ".repeat(before));
    match writeln!(io::stderr(), "{lines}") {
        // As above.
        Ok(()) | Err(_) => {}
    }
}

/// clap's message, without its paragraphs on usage.
fn usage_line(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let names: Vec<String> =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        return format!("a command is missing: {}; see --help", names.join(", "));
    }
    let text = error.to_string();
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let line = lines.collect::<Vec<_>>().join(" ");
    format!("{}; see --help", line.strip_prefix("error: ").unwrap_or(&line))
}
