//! LCOV's trace files (geninfo(1), FILES), of which lines and functions are written and read. The crate `lcov` has records
//! to which ours would have to be copied, and no more than these few lines do.

use std::collections::HashMap;
use std::io::{self, Write};

use super::findings::{Findings, add};

pub(super) fn print(out: &mut impl Write, findings: &Findings) -> io::Result<()> {
    for (name, file) in &findings.files {
        writeln!(out, "TN:")?;
        writeln!(out, "SF:{}", plain(name))?;
        let known = || {
            file.functions
                .iter()
                .filter_map(|((line, name), function)| Some((line, plain(name), function.hits?)))
        };
        for (line, name, _) in known() {
            writeln!(out, "FN:{line},{name}")?;
        }
        for (_, name, hits) in known() {
            writeln!(out, "FNDA:{hits},{name}")?;
        }
        let functions = file.functions_share();
        writeln!(out, "FNF:{}", functions.total)?;
        writeln!(out, "FNH:{}", functions.covered)?;
        for (line, hits) in &file.lines {
            // Of the others nothing is known, which the format cannot say.
            if let Some(hits) = hits {
                writeln!(out, "DA:{line},{hits}")?;
            }
        }
        let lines = file.share();
        writeln!(out, "LF:{}", lines.total)?;
        writeln!(out, "LH:{}", lines.covered)?;
        writeln!(out, "end_of_record")?;
    }
    Ok(())
}

/// A name on one line.
fn plain(name: &str) -> String {
    name.replace(['\n', '\r'], " ")
}

/// The same back, from this or another program.
pub(super) fn read(text: &str) -> Result<Findings, String> {
    let mut findings =
        Findings { level: Some(probe::coverage::Level::Line), counted: true, ..Findings::default() };
    let mut file: Option<String> = None;
    let mut functions: HashMap<String, u32> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let wrong =
            || format!("line {} is none of a trace file of LCOV, nor is this JSON: {line}", number + 1);
        let line = line.trim_end();
        if line == "end_of_record" {
            file = None;
            functions.clear();
            continue;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (kind, rest) = line.split_once(':').ok_or_else(wrong)?;
        if kind == "SF" {
            findings.files.entry(rest.to_owned()).or_default();
            file = Some(rest.to_owned());
            continue;
        }
        let Some(known) = file.as_ref().and_then(|file| findings.files.get_mut(file)) else {
            if kind == "TN" {
                continue;
            }
            return Err(wrong());
        };
        match kind {
            "DA" => {
                let mut fields = rest.split(',');
                let line = fields.next().and_then(|line| line.parse().ok()).ok_or_else(wrong)?;
                let hits = fields.next().and_then(|hits| hits.parse().ok()).ok_or_else(wrong)?;
                add(known.lines.entry(line).or_default(), Some(hits));
            }
            "FN" => {
                let (line, name) = rest.split_once(',').ok_or_else(wrong)?;
                // Newer versions have the last line in between.
                let name = match name.split_once(',') {
                    Some((last, name)) if last.parse::<u32>().is_ok() => name,
                    _ => name,
                };
                functions.insert(name.to_owned(), line.parse().map_err(|_| wrong())?);
            }
            "FNDA" => {
                let (hits, name) = rest.split_once(',').ok_or_else(wrong)?;
                let hits = hits.parse().map_err(|_| wrong())?;
                let line = functions.get(name).copied().unwrap_or(0);
                add(&mut known.functions.entry((line, name.to_owned())).or_default().hits, Some(hits));
            }
            // Sums, branches, and what later versions add.
            _ => {}
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "TN:\nSF:/a/b.c\nFN:3,main\nFN:9,of(int, char)\nFNDA:1,main\nFNDA:0,of(int, char)\nFNF:2\nFNH:1\n\
                         DA:3,1\nDA:4,7\nDA:9,0\nLF:3\nLH:2\nend_of_record\n";

    #[test]
    fn a_trace_file_is_the_same_after_reading() {
        let mut again = Vec::new();
        print(&mut again, &read(TRACE).unwrap()).unwrap();
        assert_eq!(String::from_utf8(again).unwrap(), TRACE);
    }

    #[test]
    fn what_is_none_is_told_with_its_line() {
        for (text, line) in [("DA:1,1\n", 1), ("SF:a\nDA:x,1\n", 2), ("SF:a\nend_of_record\nhello\n", 3)] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(&format!("line {line} ")), "{error}");
        }
    }
}
