//! Reading files that somebody names.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// What stands in a file, which may be a pipe, but has an end.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    /// Far more than any that is meant has.
    const MOST: u64 = 1 << 30;
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has no end, or is longer than 1 GiB"));
    }
    Ok(bytes)
}

/// The same of a file that a program names: whoever has made it may have written anything there.
pub(crate) fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    // To open a pipe may wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    read(path)
}
