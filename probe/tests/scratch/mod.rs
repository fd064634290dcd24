//! What several tests need: a directory that goes away, and programs made by the C compiler.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of one test.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stepless-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Scratch(std::fs::canonicalize(path).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, contents).unwrap();
        path
    }

    /// Compiles `source` with `cc`.
    pub(crate) fn compile(&self, name: &str, source: &str, flags: &[&str]) -> PathBuf {
        let file = self.write(&format!("{name}.c"), source);
        let output = self.path(name);
        run(Command::new("cc").args(["-O1", "-o"]).arg(&output).arg(&file).args(flags));
        output
    }

    /// Compiles a program of two files, each with a function `twin` of its own.
    pub(crate) fn twins(&self) -> PathBuf {
        let twin = |number: u32| {
            format!(
                "static __attribute__((noinline)) int twin(int x) {{ __asm__ volatile(\"\"); return x + {number}; }}\n\
                 int user{number}(int x) {{ return twin(x) * 2; }}\n"
            )
        };
        let second = self.write("second.c", twin(2));
        let source = format!("{}int main(void) {{ return user1(1); }}", twin(1));
        self.compile("program", &source, &[second.to_str().unwrap()])
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(crate) fn strip(file: &Path, flags: &[&str]) {
    run(Command::new("strip").args(flags).arg(file));
}

/// Three functions, one with two names, one called three times by `main`.
pub(crate) const PROGRAM: &str = r#"
#include <stdio.h>
#include <unistd.h>
int counter = 1;
__attribute__((noinline)) int leaf(int x) { counter += x; __asm__ volatile(""); return counter; }
int alias(int) __attribute__((alias("leaf")));
static __attribute__((noinline)) int hidden(int x) { __asm__ volatile(""); return leaf(x) * 3; }
int main(int argc, char **argv) {
    int sum = 0;
    for (int i = 0; i < 3; i++) sum += hidden(i + argc);
    printf("%d\n", sum);
    return 7;
}
"#;
