//! Coverage as one JSON document, which can be read again.

use std::collections::BTreeMap;
use std::io::{self, Write};

use probe::coverage::Level;
use serde::{Deserialize, Serialize};

use super::findings::{
    Blocks, FileFindings, Findings, FunctionFindings, Hits, ObjectFindings, RefusedSite, Share,
};

/// To be changed with the meaning of any key.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    level: String,
    counted: bool,
    totals: Totals,
    files: Vec<File>,
    #[serde(default)]
    objects: Vec<Object>,
    #[serde(default)]
    refused: Vec<Refused>,
}

#[derive(Default, Serialize, Deserialize)]
struct Totals {
    lines: Count,
    functions: Count,
    sites: Count,
}

#[derive(Default, Serialize, Deserialize)]
struct Count {
    total: u64,
    covered: u64,
}

#[derive(Serialize, Deserialize)]
struct File {
    file: String,
    lines: Vec<Line>,
    functions: Vec<Function>,
}

/// `null` where it could not be found out.
#[derive(Serialize, Deserialize)]
struct Line {
    line: u32,
    hits: Hits,
}

#[derive(Serialize, Deserialize)]
struct Function {
    name: String,
    line: u32,
    hits: Hits,
    lines: Vec<Line>,
}

#[derive(Serialize, Deserialize)]
struct Object {
    object: String,
    functions: Vec<Coded>,
}

#[derive(Serialize, Deserialize)]
struct Coded {
    name: String,
    address: u64,
    file: Option<String>,
    unresolved: u32,
    unreached: u64,
    sites: Vec<Site>,
}

#[derive(Serialize, Deserialize)]
struct Site {
    address: u64,
    length: u32,
    hits: Hits,
}

#[derive(Serialize, Deserialize)]
struct Refused {
    object: String,
    address: u64,
    reason: String,
}

/// The levels, by what they are called.
const LEVELS: [(&str, Level); 3] =
    [("line", Level::Line), ("block", Level::Block), ("instruction", Level::Instruction)];

pub(super) fn print(out: &mut impl Write, findings: &Findings) -> io::Result<()> {
    let level =
        LEVELS.iter().find(|(_, level)| Some(*level) == findings.level).map_or("line", |(name, _)| name);
    let count = |Share { total, covered }: Share| Count { total, covered };
    let document = Document {
        version: VERSION,
        level: level.to_owned(),
        counted: findings.counted,
        totals: Totals {
            lines: count(findings.lines()),
            functions: count(findings.functions()),
            sites: count(findings.sites()),
        },
        files: findings.files.iter().map(|(name, file)| File::of(name, file)).collect(),
        objects: findings.objects.iter().map(|(path, object)| Object::of(path, object)).collect(),
        refused: findings
            .refused
            .iter()
            .map(|RefusedSite { object, address, reason }| Refused {
                object: object.clone(),
                address: *address,
                reason: reason.clone(),
            })
            .collect(),
    };
    serde_json::to_writer(&mut *out, &document)?;
    writeln!(out)
}

/// The same back.
pub(super) fn read(text: &[u8]) -> Result<Findings, String> {
    let document: Document = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("its version is {}, and not {VERSION}", document.version));
    }
    let level = LEVELS.iter().find(|(name, _)| *name == document.level);
    let (_, level) = *level.ok_or_else(|| format!("`{}` is no level", document.level))?;
    let refused = |Refused { object, address, reason }| RefusedSite { object, address, reason };
    Ok(Findings {
        level: Some(level),
        counted: document.counted,
        files: document.files.into_iter().map(File::back).collect(),
        objects: document.objects.into_iter().map(Object::back).collect(),
        refused: document.refused.into_iter().map(refused).collect(),
    })
}

fn lines(lines: &BTreeMap<u32, Hits>) -> Vec<Line> {
    lines.iter().map(|(&line, &hits)| Line { line, hits }).collect()
}

fn lines_back(lines: Vec<Line>) -> BTreeMap<u32, Hits> {
    lines.into_iter().map(|Line { line, hits }| (line, hits)).collect()
}

impl File {
    fn of(name: &str, file: &FileFindings) -> File {
        let function = |((line, name), function): (&(u32, String), &FunctionFindings)| Function {
            name: name.clone(),
            line: *line,
            hits: function.hits,
            lines: lines(&function.lines),
        };
        let functions = file.functions.iter().map(function).collect();
        File { file: name.to_owned(), lines: lines(&file.lines), functions }
    }

    fn back(self) -> (String, FileFindings) {
        let function = |Function { name, line, hits, lines }| {
            ((line, name), FunctionFindings { hits, lines: lines_back(lines) })
        };
        let functions = self.functions.into_iter().map(function).collect();
        (self.file, FileFindings { lines: lines_back(self.lines), functions })
    }
}

impl Object {
    fn of(path: &str, object: &ObjectFindings) -> Object {
        let site = |(&address, &(length, hits)): (&u64, &(u32, Hits))| Site { address, length, hits };
        let coded = |(&address, blocks): (&u64, &Blocks)| Coded {
            name: blocks.name.clone(),
            address,
            file: blocks.file.clone(),
            unresolved: blocks.unresolved,
            unreached: blocks.unreached,
            sites: blocks.sites.iter().map(site).collect(),
        };
        Object { object: path.to_owned(), functions: object.functions.iter().map(coded).collect() }
    }

    fn back(self) -> (String, ObjectFindings) {
        let blocks = |Coded { name, address, file, unresolved, unreached, sites }| {
            let site = |Site { address, length, hits }| (address, (length, hits));
            let sites = Vec::into_iter(sites).map(site).collect();
            (address, Blocks { name, file, unresolved, unreached, sites })
        };
        (self.object, ObjectFindings { functions: self.functions.into_iter().map(blocks).collect() })
    }
}
