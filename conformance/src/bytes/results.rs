//! What systematic searches have come to, part by part: `data/bytes.csv`.
//!
//! Columns: the processor (vendor, family, model, stepping), the part of the search, the version of the emulator,
//! how many byte strings were tried, and how many disagreements nothing explained. The version is the crate's,
//! and the name that git has for what stands in `emu/src`, which `git log --raw` finds again; `modified` says that
//! what was run is not what git knows. A part has one row for each processor: the last.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use emu::Processor;
use nix::fcntl::{Flock, FlockArg};

use super::{Report, Shard};

/// The first line.
const HEADER: &str = "processor;shard;version;strings;unexplained";

/// The file in the sources that this was built from.
#[must_use]
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bytes.csv")
}

/// Puts what a part came to into `file`, in the place of what is known of the same part and processor.
///
/// # Errors
/// The file cannot be written.
pub fn record(file: &Path, processor: &Processor, shard: Shard, report: &Report) -> io::Result<()> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(file)?;
    // Other parts may be done at the same time.
    let mut file = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let text = updated(&text, &processor.to_string(), shard, &version(), report);
    file.rewind()?;
    file.set_len(0)?;
    file.write_all(text.as_bytes())
}

/// The table with one row replaced or added, in order.
fn updated(text: &str, processor: &str, shard: Shard, version: &str, report: &Report) -> String {
    let key = format!("{processor};{shard};");
    let row = format!("{key}{version};{};{}", report.tried, report.unexplained);
    let others = text.lines().skip(1).filter(|line| !line.starts_with(&key)).map(str::to_owned);
    let mut rows: Vec<String> = others.chain([row]).collect();
    rows.sort_by_cached_key(|row| {
        let mut fields = row.split(';').map(str::to_owned);
        let processor = fields.next().unwrap_or_default();
        let numbers = fields.next().unwrap_or_default();
        let numbers: Vec<u64> = numbers.split('/').rev().filter_map(|number| number.parse().ok()).collect();
        (processor, numbers)
    });
    let mut text = String::from(HEADER);
    for row in rows {
        text.push('\n');
        text.push_str(&row);
    }
    text.push('\n');
    text
}

/// The emulator that was held against the processor.
fn version() -> String {
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let version = env!("CARGO_PKG_VERSION");
    let Some(tree) = git(&["rev-parse", "--short=12", "HEAD:emu/src"]) else { return version.to_owned() };
    let is_modified = git(&["status", "--porcelain", "--", "../emu/src"]).is_none_or(|text| !text.is_empty());
    format!("{version} {tree}{}", if is_modified { " modified" } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_one_row_for_each_processor() {
        let (intel, amd) = ("Intel 6 207 2", "AMD 25 1 1");
        let shard = |text: &str| text.parse::<Shard>().unwrap();
        let found = |tried, unexplained| Report { tried, unexplained, ..Report::default() };
        let mut text = String::new();
        for (processor, part, version, report) in [
            (intel, "10/32", "1 a", found(7, 3)),
            (intel, "2/32", "1 a", found(8, 0)),
            (amd, "2/32", "1 b", found(9, 0)),
            (intel, "10/32", "1 c", found(7, 0)),
        ] {
            text = updated(&text, processor, shard(part), version, &report);
        }
        let expected =
            [HEADER, "AMD 25 1 1;2/32;1 b;9;0", "Intel 6 207 2;2/32;1 a;8;0", "Intel 6 207 2;10/32;1 c;7;0"];
        assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    }
}
