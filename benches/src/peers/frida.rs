//! frida, by its package for Python.

use std::path::PathBuf;
use std::process::Command;

use crate::others::{Scratch, output, place, result};
use crate::{Failure, target};

const SCRIPT: &str = include_str!("intercept.py");

/// The Python that `benches/install-peers` has made, or the system's.
pub(crate) fn python() -> PathBuf {
    let own = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/peers/bin/python3"));
    if own.exists() { own } else { "python3".into() }
}

/// What is called at the start of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callback {
    /// A function of JavaScript.
    JavaScript,
    /// One of compiled C.
    Native,
}

/// What a call of `symbol` takes longer, while its start is intercepted.
pub(crate) fn hit(symbol: &str, callback: Callback, hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("frida")?;
    let report = scratch.path("report");
    let (path, offset) = place(symbol)?;
    let base = probe::elf::Elf::open(&path)?.address_of_offset(offset).ok_or("it is in no segment")?;
    let target = target::reporting(symbol, hits, &report)?;
    let mut frida = Command::new(python());
    frida.args(["-c", SCRIPT, if callback == Callback::Native { "native" } else { "js" }]);
    frida.arg(base.to_string()).arg(&report).arg(target.get_program()).args(target.get_args()).arg("--stay");
    let printed = output(&mut frida)?;
    result(&report, printed.trim().parse()?, hits)
}

/// Its version.
pub(crate) fn version() -> Result<String, Failure> {
    output(Command::new(python()).args(["-c", SCRIPT, "version"]))
}
