//! Programs to probe: C sources beside this file, compiled when a test asks for them.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use iced_x86::{Decoder, DecoderOptions};
use object::{Object, ObjectSection, ObjectSegment, ObjectSymbol};
use probe::maps::{Mapping, Maps};
use probe::{Action, Hit, Locate, LocateError, RunEnd, Session, Site};

/// Compiles `tests/targets/NAME.c` to a file that no other call uses, and returns its path.
pub(crate) fn compile(name: &str, flags: &[&str]) -> PathBuf {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets").join(format!("{name}.c"));
    let directory =
        Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/tmp")).join(std::process::id().to_string());
    fs::create_dir_all(&directory).unwrap();
    let program = directory.join(format!("{name}-{number}"));
    let status = Command::new("cc")
        .args(["-O1", "-g", "-pthread", "-fno-inline", "-fno-optimize-sibling-calls", "-o"])
        .arg(&program)
        .arg(source)
        .args(flags)
        .status()
        .expect("a C compiler is needed: install gcc or clang as `cc`");
    assert!(status.success(), "cc {name}.c: {status}");
    program.canonicalize().unwrap()
}

/// Places in a function of an ELF file.
pub(crate) struct Function {
    path: PathBuf,
    /// File offsets.
    offsets: Vec<u64>,
}

impl Function {
    /// The first instruction of `symbol`.
    pub(crate) fn entry(path: &Path, symbol: &str) -> Function {
        let mut function = Function::whole(path, symbol);
        function.offsets.truncate(1);
        function
    }

    /// Each instruction of `symbol`.
    pub(crate) fn whole(path: &Path, symbol: &str) -> Function {
        Function::decoded(path, symbol, 64)
    }

    /// Each instruction of `symbol`, which is code of so many bits.
    pub(crate) fn decoded(path: &Path, symbol: &str, bitness: u32) -> Function {
        let bytes = fs::read(path).unwrap();
        let file = object::File::parse(&*bytes).unwrap();
        let symbol = file
            .symbols()
            .chain(file.dynamic_symbols())
            .find(|candidate| candidate.name() == Ok(symbol) && candidate.is_definition())
            .unwrap_or_else(|| panic!("no {symbol} in {}", path.display()));
        let section = file.section_by_index(symbol.section_index().unwrap()).unwrap();
        let text = section.data_range(symbol.address(), symbol.size()).unwrap().unwrap();
        let segment = file
            .segments()
            .find(|segment| {
                (segment.address()..segment.address() + segment.size()).contains(&symbol.address())
            })
            .unwrap();
        let delta = segment.address() - segment.file_range().0;
        let offsets = Decoder::with_ip(bitness, text, symbol.address(), DecoderOptions::NONE)
            .iter()
            .map(|instruction| instruction.ip() - delta)
            .collect();
        Function { path: path.to_owned(), offsets }
    }

    /// Its instruction number `index` alone.
    pub(crate) fn only(mut self, index: usize) -> Function {
        self.offsets = vec![self.offsets[index]];
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// The file offsets.
    pub(crate) fn offsets(&self) -> &[u64] {
        &self.offsets
    }

    /// The file offset of the first.
    pub(crate) fn offset(&self) -> u64 {
        self.offsets[0]
    }
}

impl Locate for Function {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        let sites: Vec<Site> = maps
            .iter()
            .filter(|mapping| mapping.file() == Some(&self.path) && mapping.is_executable())
            .flat_map(|mapping| self.offsets.iter().filter_map(|&offset| mapping.address_of(offset)))
            .map(|address| Site { address })
            .collect();
        if sites.is_empty() {
            return Err(LocateError::NotMapped {
                object: self.path.display().to_string(),
                instead: Vec::new(),
            });
        }
        Ok(sites)
    }
}

/// A handler that only counts, and its count.
pub(crate) fn counter() -> (Arc<AtomicU64>, impl FnMut(&mut Hit<'_>) -> Action + Send + 'static) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let handler = move |_: &mut Hit<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        Action::Continue
    };
    (count, handler)
}

/// Runs the session to its target's end and returns the exit code; a target that hangs fails the test.
pub(crate) fn finish(session: &mut Session) -> i32 {
    match session.run_for(Duration::from_secs(60)) {
        RunEnd::Ended(Some(status)) => status.code().unwrap_or_else(|| panic!("the target died: {status}")),
        other => panic!("the target did not end: {other:?}"),
    }
}

/// Whether the processor itself raises what `faults` expects, and where it does not, says so: QEMU's processor in software
/// (TCG, 7.2) has #GP where an access to the stack is not canonical, for one.
pub(crate) fn raises_what_faults_expects(faults: &Path) -> bool {
    let status = Command::new(faults).status().unwrap();
    if !status.success() {
        println!("skipped: without a probe, too, this processor raises other exceptions ({status})");
    }
    status.success()
}

/// A target that the test started itself; killed at the end.
pub(crate) struct Target(Child);

impl Target {
    /// Starts `program` and waits for the line that it prints when it is ready.
    pub(crate) fn start(program: &Path, arguments: &[&str]) -> Target {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut target = Target(child);
        assert_eq!(target.line(), "ready\n");
        target
    }

    /// The next line that it prints, if it prints one at a time; empty if it has ended.
    pub(crate) fn line(&mut self) -> String {
        use std::io::{BufRead, BufReader};
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// Writes so many bytes to its standard input.
    pub(crate) fn ask(&mut self, bytes: u64) {
        use std::io::Write;
        let bytes = vec![b'x'; usize::try_from(bytes).unwrap()];
        self.0.stdin.as_mut().unwrap().write_all(&bytes).unwrap();
    }

    /// Closes its standard input, and has `session` serve it to its end; returns its exit code.
    pub(crate) fn finish_in(mut self, session: &mut Session) -> Option<i32> {
        self.close_input();
        match session.run_for(Duration::from_secs(60)) {
            RunEnd::Ended(status) => status.and_then(|status| status.code()),
            other => panic!("the target did not end: {other:?}"),
        }
    }

    /// Closes its standard input, which tells it to go on.
    pub(crate) fn close_input(&mut self) {
        drop(self.0.stdin.take());
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.0.wait().unwrap()
    }

    /// Closes its standard input, which tells it to end, and returns its exit code.
    pub(crate) fn finish(mut self) -> Option<i32> {
        self.close_input();
        self.0.wait().unwrap().code()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `/proc/PID/maps` says of executable memory.
pub(crate) fn executable_maps(pid: i32) -> Vec<Mapping> {
    let mut maps = probe::maps::read(pid).unwrap();
    maps.retain(Mapping::is_executable);
    maps
}
