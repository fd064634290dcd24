//! What of a program was executed: what there is to be covered in an object, and how often each part of it was reached.
//!
//! [`Session::cover`](crate::Session::cover) places the probes, and
//! [`Session::coverage`](crate::Session::coverage) tells what they have found.

mod boundaries;
pub(in crate::symbols) mod flow;
mod landing;
mod object;
mod path;
mod plan;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use object::coverable;
pub use plan::{Level, Plan};

/// What of a target was reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Coverage {
    /// Object by object.
    pub objects: Vec<ObjectCoverage>,
    /// The objects that were left out though they are meant, and why: that there is no debug information of them, for
    /// instance.
    #[serde(with = "path::told")]
    pub left_out: Vec<(PathBuf, String)>,
}

/// What of one object was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ObjectCoverage {
    /// The object, as the process names it that has mapped it.
    #[serde(with = "path")]
    pub path: PathBuf,
    /// The source files, in full where the compiler says so.
    pub files: Vec<String>,
    /// The functions that have sites, in the order of their addresses.
    pub functions: Vec<CoveredFunction>,
    /// The sites, in the order of their addresses.
    pub sites: Vec<CoveredSite>,
    /// Which sites belong to which lines, in the order of the files, lines and sites.
    pub lines: Vec<SourceLine>,
    /// Why sites could not be probed: [`CoveredSite::refused`] is a place in this list.
    pub reasons: Vec<String>,
    /// The directories of source files that were left out, and how many files of each.
    pub left_out: Vec<(String, u64)>,
    /// What is wrong with the debug information, or that there is none.
    pub trouble: Option<String>,
}

/// A function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CoveredFunction {
    /// The name as its author wrote it or, where it has none, its address.
    pub name: String,
    /// The virtual address, before relocation.
    pub address: u64,
    /// How many bytes of code it has.
    pub size: u64,
    /// The source file, by its place in [`ObjectCoverage::files`].
    pub file: Option<u32>,
    /// The line on which it begins; 0 where that is not known.
    pub line: u32,
    /// How many jumps in it lead to where nobody knows, so that it may have more blocks. Only of blocks and instructions.
    pub unresolved: u32,
    /// How many bytes of it no way leads to, as far as ways are known. Only of blocks and instructions.
    pub unreached: u64,
}

/// A place that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CoveredSite {
    /// The virtual address, before relocation.
    pub address: u64,
    /// How many bytes of code it stands for; 0 at the level of lines.
    pub length: u32,
    /// Its function, by its place in [`ObjectCoverage::functions`].
    pub function: Option<u32>,
    /// How often it was reached or, unless that is counted, whether it was.
    pub hits: u64,
    /// Why it could not be probed, by its place in [`ObjectCoverage::reasons`]: nothing is known of it then.
    pub refused: Option<u32>,
}

/// That a site belongs to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceLine {
    /// The source file, by its place in [`ObjectCoverage::files`].
    pub file: u32,
    /// The line.
    pub line: u32,
    /// The site, by its place in [`ObjectCoverage::sites`].
    pub site: u32,
}

impl ObjectCoverage {
    /// How often each line was reached, by its file and number; `None` for one of which no site could be probed.
    ///
    /// In one function, a line was reached as often as that of its sites which was reached most often; of copies of a
    /// function, generic ones for instance, the sum counts.
    #[must_use]
    pub fn line_hits(&self) -> BTreeMap<(&str, u32), Option<u64>> {
        // By line, and by function: the most of its sites, if one of them could be probed.
        let mut most: HashMap<(u32, u32), HashMap<Option<u32>, Option<u64>>> = HashMap::new();
        for &SourceLine { file, line, site } in &self.lines {
            let Some(site) = self.sites.get(site as usize) else { continue };
            let of_function = most.entry((file, line)).or_default().entry(site.function).or_default();
            if site.refused.is_none() {
                *of_function = Some(of_function.unwrap_or(0).max(site.hits));
            }
        }
        let mut hits = BTreeMap::new();
        for ((file, line), functions) in most {
            let Some(file) = self.files.get(file as usize) else { continue };
            let sum = functions.into_values().flatten().reduce(u64::saturating_add);
            let known: &mut Option<u64> = hits.entry((file.as_str(), line)).or_default();
            *known = match (*known, sum) {
                (Some(known), Some(sum)) => Some(known.saturating_add(sum)),
                (known, sum) => known.or(sum),
            };
        }
        hits
    }

    /// For each function, in the order of [`ObjectCoverage::functions`], how often it was entered; `None` where its first
    /// site could not be probed.
    #[must_use]
    pub fn function_hits(&self) -> Vec<Option<u64>> {
        let mut hits: Vec<Option<Option<u64>>> = vec![None; self.functions.len()];
        for site in &self.sites {
            let known = site.function.and_then(|function| hits.get_mut(function as usize));
            if let Some(known @ None) = known {
                *known = Some(site.refused.is_none().then_some(site.hits));
            }
        }
        let any = self.any_hits();
        let entered = |(first, any): (Option<Option<u64>>, bool)| match first.flatten() {
            // It was in there, however it came in.
            Some(0) if any => Some(1),
            hits => hits,
        };
        hits.into_iter().zip(any).map(entered).collect()
    }

    /// Whether any site of each function was reached.
    fn any_hits(&self) -> Vec<bool> {
        let mut any = vec![false; self.functions.len()];
        for site in self.sites.iter().filter(|site| site.hits > 0) {
            if let Some(any) = site.function.and_then(|function| any.get_mut(function as usize)) {
                *any = true;
            }
        }
        any
    }
}
