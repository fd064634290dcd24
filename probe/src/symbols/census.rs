//! Counts what of a file's code can be probed.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use emu::{Processor, Refusal};
use iced_x86::Code;
use serde::Serialize;

use crate::symbols::code::{self, Unprobeable};
use crate::symbols::elf::{Elf, ElfError};

/// How many instructions can be probed, and why the others cannot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Census {
    /// Places where an instruction begins.
    pub sites: u64,
    /// Those that can be probed.
    pub probeable: u64,
    /// Those of them that raise #UD whenever they are executed, probed or not.
    pub undefined: u64,
    /// Those by iced-x86's name of the encoding.
    pub undefined_codes: BTreeMap<String, u64>,
    /// Bytes among the code that are no instruction, where the file tells of no function either: constants, mostly.
    /// They are no sites.
    pub data: u64,
    /// The other sites by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Those of them that are instructions, by iced-x86's name of the encoding.
    pub codes: BTreeMap<String, u64>,
}

impl Census {
    /// Counts the sites of `elf` for a machine with that processor. Calls `progress` now and then with the number of
    /// bytes passed since.
    #[must_use]
    pub fn of(elf: &Elf, processor: &'static Processor, mut progress: impl FnMut(u64)) -> Census {
        const OFTEN: u64 = 1 << 20;
        let mut census = Census::default();
        let (mut codes, mut undefined) = (Codes::default(), Codes::default());
        let mut passed = 0;
        for instruction in elf.code().iter().flat_map(|range| code::of_range(elf, range, processor)) {
            passed += instruction.length as u64;
            if passed >= OFTEN {
                progress(std::mem::take(&mut passed));
            }
            census.sites += 1;
            let why = match instruction.displaced {
                Ok(displaced) if code::is_instruction(&displaced) => {
                    census.probeable += 1;
                    if displaced.is_undefined() {
                        census.undefined += 1;
                        undefined.count(displaced.code());
                    }
                    continue;
                }
                // Data or padding, of which it is only known what it would raise, if that.
                _ if is_data(elf, &instruction) => {
                    census.sites -= 1;
                    census.data += 1;
                    continue;
                }
                Ok(_) => Unprobeable::Refused(Refusal::Invalid { first: 0 }),
                Err(why) => why,
            };
            *census.refused.entry(why.reason()).or_default() += 1;
            if let Some(code) = why.code() {
                codes.count(code);
            }
        }
        progress(passed);
        (census.codes, census.undefined_codes) = (codes.named(), undefined.named());
        census
    }

    /// Adds the counts of `other`.
    pub fn add(&mut self, other: Census) {
        self.sites += other.sites;
        self.probeable += other.probeable;
        self.undefined += other.undefined;
        self.data += other.data;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        for (sum, codes) in
            [(&mut self.codes, other.codes), (&mut self.undefined_codes, other.undefined_codes)]
        {
            for (code, count) in codes {
                *sum.entry(code).or_default() += count;
            }
        }
    }
}

/// Whether nothing says that code is there: neither the bytes nor the file, which tells where its functions are.
fn is_data(elf: &Elf, instruction: &code::Instruction) -> bool {
    let unknown = match &instruction.displaced {
        Ok(displaced) => !code::is_instruction(displaced),
        Err(why) => why.code().is_none(),
    };
    let tells = !elf.functions().is_empty() || !elf.unwound().is_empty();
    unknown && tells && !elf.tells_of_code(instruction.address)
}

/// Counts by encoding, of which the name would be an allocation each time.
#[derive(Default)]
struct Codes(BTreeMap<u16, (Code, u64)>);

impl Codes {
    fn count(&mut self, code: Code) {
        self.0.entry(code as u16).or_insert((code, 0)).1 += 1;
    }

    fn named(self) -> BTreeMap<String, u64> {
        self.0.into_values().map(|(code, count)| (format!("{code:?}"), count)).collect()
    }
}

/// A file to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it was named, rather than found in a directory: then it must be one that can be counted.
    pub named: bool,
}

/// Finds the regular files in `path`: itself, or all below it if it is a directory. Symbolic links below it
/// are not followed, so that nothing is counted twice.
///
/// # Errors
/// `path` cannot be read. What is below it and cannot be read is in the list, so that reading it says why.
pub fn candidates(path: &Path) -> Result<Vec<Candidate>, ElfError> {
    let read = |source| ElfError::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(read)?.is_dir() {
        return Ok(vec![Candidate { path: path.to_owned(), named: true }]);
    }
    let mut found = Vec::new();
    let mut directories = vec![path.to_owned()];
    std::fs::read_dir(path).map_err(read)?;
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let Ok(entries) = entries else {
            found.push(Candidate { path: directory, named: false });
            continue;
        };
        for entry in entries {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(Candidate { path: entry.path(), named: false }),
                _ => {}
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Whether the file at `path` begins as an ELF file does, so that reading all of it is worth while.
///
/// # Errors
/// It cannot be read.
pub fn looks_like_elf(path: &Path) -> io::Result<bool> {
    use std::io::Read;
    // To read of a pipe, or a terminal, would wait.
    if !std::fs::metadata(path)?.is_file() {
        return Ok(false);
    }
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start == b"\x7fELF")
}
