//! Recorded answers of processors: files of cases that any machine can hold the emulator against.
//!
//! `vectors/README.md` describes the files.

pub mod format;
pub mod image;
pub mod invalid;
pub mod layout;
pub mod memory;
pub mod processor;
pub mod record;
pub mod replay;
pub mod signal;
pub mod state;

use std::fs::File;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// A file's cases, as they are decompressed.
pub type Decompressed = BufReader<MultiGzDecoder<File>>;

/// Opens a compressed file.
///
/// # Errors
/// It cannot be opened.
pub fn open(path: &Path) -> std::io::Result<Decompressed> {
    Ok(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(File::open(path)?)))
}

/// Writes a compressed file.
///
/// # Errors
/// It cannot be written.
pub fn save(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut encoder = GzEncoder::new(File::create(path)?, Compression::best());
    encoder.write_all(bytes)?;
    encoder.finish()?.flush()
}

/// The compressed files of a directory, in the order of their names; or the one file that `path` is.
///
/// # Errors
/// The directory cannot be read.
pub fn files(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in path.read_dir()? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
