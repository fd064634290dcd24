//! The processor that a file is about: one of recorded answers, or a description alone.
//!
//! The format of recorded answers is defined where they are, in `conformance/vectors/README.md`. Here is how such a
//! file begins; what comes after concerns none but those who replay it.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use emu::{DescriptionError, Processor};
use flate2::bufread::MultiGzDecoder;

/// What every file of recorded answers begins with; the version follows.
pub const MAGIC: [u8; 7] = *b"SLVEC\0\0";
/// The version without a header.
const WITHOUT_HEADER: u8 = 1;
/// The version with a header.
pub const WITH_HEADER: u8 = 2;

/// Why a file does not begin as one of recorded answers does.
#[derive(Debug)]
pub enum StartError {
    /// It cannot be read, or is not compressed as it should be.
    Io(io::Error),
    /// It does not begin as these files do.
    Other,
    /// It has a version that is not known here.
    Version(u8),
    /// It ends in the middle of its header.
    Truncated,
    /// Its header is not UTF-8.
    NotText,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Io(error) => error.fmt(f),
            StartError::Other => write!(f, "this is no file of recorded answers"),
            StartError::Version(version) => write!(f, "version {version} of the format is not known"),
            StartError::Truncated => write!(f, "it ends in the middle of its header"),
            StartError::NotText => write!(f, "its header is not UTF-8"),
        }
    }
}

impl Error for StartError {}

/// Fills `bytes` from `input`; where that ends before, `ended` says what is wrong.
fn fill(input: &mut impl Read, bytes: &mut [u8], ended: StartError) -> Result<(), StartError> {
    input.read_exact(bytes).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => ended,
        _ => StartError::Io(error),
    })
}

/// Reads what a file of recorded answers, decompressed, has before the answers: its header, which not every version
/// has.
///
/// # Errors
/// It is no such file, or one that is not known here, or cannot be read.
pub fn header(input: &mut impl Read) -> Result<Option<String>, StartError> {
    let mut magic = [0; 8];
    fill(input, &mut magic, StartError::Other)?;
    let [rest @ .., version] = magic;
    match version {
        _ if rest != MAGIC => Err(StartError::Other),
        WITHOUT_HEADER => Ok(None),
        WITH_HEADER => {
            let mut length = [0; 2];
            fill(input, &mut length, StartError::Truncated)?;
            let mut header = vec![0; usize::from(u16::from_le_bytes(length))];
            fill(input, &mut header, StartError::Truncated)?;
            Ok(Some(String::from_utf8(header).map_err(|_| StartError::NotText)?))
        }
        version => Err(StartError::Version(version)),
    }
}

/// The processor whose answers a file holds that has no header.
#[must_use]
pub fn without_header() -> Processor {
    Processor::emerald_rapids()
}

/// Why no processor is known from a file.
#[derive(Debug)]
pub enum RecordedError {
    /// It does not begin as it should.
    Start {
        /// The file.
        path: PathBuf,
        /// Why.
        source: StartError,
    },
    /// What it says describes no processor.
    Description {
        /// The file.
        path: PathBuf,
        /// Why.
        source: DescriptionError,
    },
}

impl fmt::Display for RecordedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecordedError::Start { path, source } => write!(f, "{}: {source}", path.display()),
            RecordedError::Description { path, source } => {
                write!(f, "{} describes no processor: {source}", path.display())
            }
        }
    }
}

// Display shows the reason itself already, so that there is no source.
impl Error for RecordedError {}

/// The processor that the file at `path` is about: compressed answers that were recorded, or the lines of
/// [`Processor::description`].
///
/// # Errors
/// It cannot be read, or is neither.
pub fn processor(path: &Path) -> Result<Processor, RecordedError> {
    let described =
        described(path).map_err(|source| RecordedError::Start { path: path.to_owned(), source })?;
    let Some(text) = described else { return Ok(without_header()) };
    text.parse().map_err(|source| RecordedError::Description { path: path.to_owned(), source })
}

/// The description in the file at `path`, unless its answers have no header.
fn described(path: &Path) -> Result<Option<String>, StartError> {
    /// How files that gzip has compressed begin (RFC 1952, section 2.3.1).
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    /// The longest description in bytes, as in a header.
    const LONGEST: u64 = u16::MAX as u64;

    let metadata = std::fs::metadata(path).map_err(StartError::Io)?;
    if metadata.is_dir() {
        return Err(StartError::Io(io::ErrorKind::IsADirectory.into()));
    }
    let mut file = BufReader::new(File::open(path).map_err(StartError::Io)?);
    if file.fill_buf().map_err(StartError::Io)?.starts_with(&GZIP) {
        return header(&mut MultiGzDecoder::new(file));
    }
    let mut text = Vec::new();
    file.take(LONGEST).read_to_end(&mut text).map_err(StartError::Io)?;
    String::from_utf8(text).map(Some).map_err(|_| StartError::Other)
}
