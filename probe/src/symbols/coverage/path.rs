//! Paths on their way to another process: any bytes, where people do not read them.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What an object is called, and what there is to say about it.
type Told = (PathBuf, String);

/// As [`serialize`] and [`deserialize`] have it.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Sent(#[serde(with = "self")] PathBuf);

pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        path.to_string_lossy().serialize(serializer)
    } else {
        path.as_os_str().as_bytes().serialize(serializer)
    }
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    if deserializer.is_human_readable() {
        return PathBuf::deserialize(deserializer);
    }
    Ok(OsString::from_vec(Vec::deserialize(deserializer)?).into())
}

/// The same for a list of what is said about paths.
pub(super) mod told {
    use super::*;

    pub(in super::super) fn serialize<S: Serializer>(
        told: &[Told],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(told.iter().map(|(path, why)| (Sent(path.clone()), why)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Told>, D::Error> {
        let told: Vec<(Sent, String)> = Vec::deserialize(deserializer)?;
        Ok(told.into_iter().map(|(Sent(path), why)| (path, why)).collect())
    }
}
