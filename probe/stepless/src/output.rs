//! Printing to stdout, where somebody may have stopped listening.

use std::borrow::Cow;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::process::ExitCode;

use serde::Serialize;

use crate::Failure;

/// Runs `print` with stdout. That the reader has gone away is no failure: it has what it wanted.
pub(crate) fn to_stdout(
    print: impl FnOnce(&mut BufWriter<StdoutLock<'static>>) -> io::Result<()>,
) -> Result<ExitCode, Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let result = print(&mut stdout).and_then(|()| stdout.flush());
    // Dropped as a whole it would try again to print what it could not.
    drop(stdout.into_parts());
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(error) => Err(Failure::new(format!("stdout: {error}"))),
    }
}

/// Prints `document` as one JSON document.
pub(crate) fn json_to_stdout(document: &impl Serialize) -> Result<ExitCode, Failure> {
    to_stdout(|out| {
        serde_json::to_writer(&mut *out, document).map_err(io::Error::from)?;
        writeln!(out)
    })
}

/// A text on one line, without what would move a terminal's cursor: names in files are anybody's.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    if text.contains(char::is_control) { text.replace(char::is_control, "?").into() } else { text.into() }
}

/// What stands before a line so deep in a tree: as many steps, or so many that a line has an end, and the number.
pub(crate) fn indent(depth: usize) -> String {
    const MOST: usize = 100;
    match depth {
        ..=MOST => "  ".repeat(depth),
        _ => format!("{}({depth}) ", "  ".repeat(MOST)),
    }
}

/// So many of something that is called so.
pub(crate) fn several(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// A number with its thousands set apart.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// What share `part` is of `whole`, in percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    // Exact enough below 2^53.
    let share = if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 };
    format!("{share:.2} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1000), "1,000");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(percent(1, 8), "12.50 %");
        assert_eq!(percent(0, 0), "0.00 %");
    }
}
