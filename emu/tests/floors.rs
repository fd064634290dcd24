//! The crate's modules stand on floors: what is above imports from below, never the other way.

use std::fs;
use std::path::{Path, PathBuf};

/// From the lowest. Those of one line import from each other as they like.
const FLOORS: &[&[&str]] = include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/floors.in"));

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a folder of the sources") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The source without comments and without its tests, which may use the whole crate.
fn code(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The first names of all paths from the crate's root: `b` of `crate::b::c`, `b` and `d` of `crate::{b::c, d}`.
fn named(code: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let identifier = |text: &str| text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    for (at, root) in code.match_indices("crate::") {
        let path = &code[at + root.len()..];
        let Some(mut list) = path.strip_prefix('{') else {
            names.push(&path[..identifier(path)]);
            continue;
        };
        let mut depth = 0;
        loop {
            list = list.trim_start();
            if depth == 0 {
                names.push(&list[..identifier(list)]);
            }
            let end = list.find(['{', '}', ',']).expect("the list's end");
            match list.as_bytes()[end] {
                b'{' => depth += 1,
                b'}' if depth == 0 => break,
                b'}' => depth -= 1,
                _ => {}
            }
            list = &list[end + 1..];
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Whether a path of `super` leaves the floor of a module that is `depth` modules below the crate's root.
fn escapes(code: &str, depth: usize) -> bool {
    code.contains(&"super::".repeat(depth))
}

#[test]
fn arrows_go_one_way() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = Vec::new();
    for file in &files {
        let source = fs::read_to_string(file).expect("a source file");
        let path = file.strip_prefix(&root).expect("a path below the root").with_extension("");
        let modules: Vec<_> = path.iter().map(|name| name.to_string_lossy()).collect();
        let Some(own) = floor(&modules[0]) else {
            wrong.push(format!("{} is on no floor", path.display()));
            continue;
        };
        let code = code(&source);
        let depth = modules.len() - usize::from(modules.last().is_some_and(|last| last == "mod"));
        if modules.len() > 1 && escapes(&code, depth) {
            wrong.push(format!("{} leaves its floor by `super`", path.display()));
        }
        for name in named(&code) {
            match floor(name) {
                Some(its) if its <= own => {}
                Some(_) => wrong.push(format!("{} imports from {name}, which is above it", path.display())),
                None => wrong.push(format!("{} imports {name}, which is no floor", path.display())),
            }
        }
    }
    assert!(files.len() > 40, "{} files were read", files.len());
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn names_are_found() {
    let code =
        "use crate::a::{b, c};\nuse crate::{d::{e, f}, g, h::i};\nlet x = $crate::j::k(super::super::l);";
    assert_eq!(named(code), ["a", "d", "g", "h", "j"]);
    assert!(escapes(code, 2) && escapes(code, 1) && !escapes(code, 3));
}
