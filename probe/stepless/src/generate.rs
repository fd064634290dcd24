//! `stepless man` and `stepless completions`: made from the definition of the command itself.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::args::{Cli, Completions, Man};
use crate::output::to_stdout;
use crate::{Failure, args};

/// Writes a page for the command and one for each of its subcommands into a directory.
pub(crate) fn man(arguments: &Man) -> Result<ExitCode, Failure> {
    let named = |path: &Path, error: io::Error| Failure::new(format!("{}: {error}", path.display()));
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory).map_err(|error| named(directory, error))?;
    let command = Cli::command();
    let pages = command.get_subcommands().filter(|page| !page.is_hide_set()).map(|page| {
        let name = format!("stepless-{}", page.get_name());
        // clap wants names that last.
        page.clone().name(&*name.leak()).version(args::VERSION)
    });
    let pages: Vec<clap::Command> = pages.collect();
    for page in std::iter::once(command).chain(pages) {
        let path = directory.join(format!("{}.1", page.get_name()));
        let mut text = Vec::new();
        let rendered = clap_mangen::Man::new(page).render(&mut text);
        rendered.and_then(|()| std::fs::write(&path, text)).map_err(|error| named(&path, error))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a script by which a shell completes the command's arguments.
pub(crate) fn completions(arguments: &Completions) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "stepless", &mut script);
    to_stdout(|out| out.write_all(&script))
}
