//! Memory as other threads and processes see it while one side's accesses are emulated.
//!
//! Small programs of two sides, one of them probed on every instruction and the other at full speed, count what x86's
//! memory order and its promises of single copies forbid (SDM volume 3, sections 9.1.1 and 9.2), and changes that are
//! lost although they were made by LOCKed instructions. Each is run again and again for its share of the time.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use probe::resolve::{Objects, Resolver};
use probe::run_on::Region;
use probe::spec::ProbeSpec;
use probe::{Action, RunEnd, Session, Ways};
use serde::Serialize;

use crate::executor::{AT_A_TIME, Executor, Window};
use crate::own;

/// How much is done.
#[derive(Clone, Debug)]
pub struct Options {
    /// For all tests together.
    pub time: Duration,
    /// Of each test so many rounds, however long that takes.
    pub rounds: Option<u64>,
    /// What performs the displaced instructions; by hardware breakpoints, four instructions are probed in turn.
    pub executor: Executor,
    /// With a tracer, whether there is one hit at each function's first instruction, from which the thread runs on until
    /// that returns, rather than one at each instruction.
    pub runs_on: bool,
    /// How accesses are made; all but for showing that the tests can fail.
    #[doc(hidden)]
    pub ways: Ways,
    /// The names of the tests begin so.
    pub prefix: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            time: Duration::from_secs(60),
            rounds: None,
            executor: Executor::default(),
            runs_on: false,
            ways: Ways::all(),
            prefix: String::new(),
        }
    }
}

/// What all tests came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Each test.
    pub tests: Vec<Test>,
    /// What could not be tested on this machine.
    pub skipped: Vec<Skipped>,
}

/// What a test came to.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Test {
    /// Its name.
    pub name: String,
    /// How often the probed side did its part.
    pub rounds: u64,
    /// How often what must not be seen was seen, or how many changes were lost.
    pub forbidden: u64,
    /// How often was seen what the processor does not promise to avoid: what store buffers show, and vectors of more
    /// than 16 bytes in parts.
    pub weak: u64,
    /// How often probes were hit.
    pub hits: u64,
    /// Of these, how many were emulated. The others say nothing about the emulation.
    pub emulated: u64,
}

/// A test that could not run.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// Why.
    pub reason: &'static str,
}

impl Report {
    /// Whether nothing forbidden was seen, by hits that were all emulated.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.tests.iter().all(Test::holds)
    }
}

impl Test {
    /// Whether nothing forbidden was seen, by hits that were all emulated.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.forbidden == 0 && self.hits == self.emulated && self.hits >= self.rounds
    }
}

/// A program of this directory, compiled.
struct Programs {
    directory: PathBuf,
}

impl Programs {
    const ORDER: &str = include_str!("order.c");
    const COUNTERS: &str = include_str!("../../../probe/tests/targets/shared.c");

    fn compile() -> Result<Programs, Box<dyn Error>> {
        let name = format!("stepless-litmus-{}-{:?}", std::process::id(), std::thread::current().id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let programs = Programs { directory: directory.canonicalize()? };
        for (name, source) in [("order", Self::ORDER), ("counters", Self::COUNTERS)] {
            let path = programs.directory.join(format!("{name}.c"));
            fs::write(&path, source)?;
            let mut compiler = Command::new("cc");
            compiler.args(["-O1", "-pthread", "-o"]).arg(programs.path(name)).arg(&path);
            let output = compiler.output().map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => "a C compiler is needed: install gcc or clang as `cc`".to_owned(),
                _ => format!("cc: {error}"),
            })?;
            if !output.status.success() {
                return Err(format!("cc {name}.c: {}", output.status).into());
            }
        }
        Ok(programs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        // What is left of temporary files does no harm.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// One test: how its program is called, and which function of it is probed.
struct Plan {
    name: String,
    program: &'static str,
    arguments: Vec<String>,
    function: String,
    /// So many threads make the rounds.
    threads: u64,
}

/// Tests of order and of single copies: their names, and the functions after `probed_`.
const ORDER: [(&str, &str); 32] = [
    ("message_write", "write"),
    ("message_write_many", "write_many"),
    ("coherence_read", "twice"),
    ("coherence_write", "own"),
    ("both_stores", "both"),
    ("message_read", "read"),
    ("load_buffering", "load_store"),
    ("load_buffering_copy", "copy"),
    ("buffer", "buffer"),
    ("buffer_both", "buffer"),
    ("buffer_mfence", "buffer_mfence"),
    ("buffer_mfence_both", "buffer_mfence"),
    ("buffer_lock", "buffer_lock"),
    ("buffer_lock_both", "buffer_lock"),
    ("buffer_xchg", "buffer_xchg"),
    ("buffer_xchg_both", "buffer_xchg"),
    ("seqlock_write", "seqlock_write"),
    ("seqlock_read", "seqlock_read"),
    ("torn_store_2", "store_2"),
    ("torn_load_store_2", "store_2"),
    ("torn_store_4", "store_4"),
    ("torn_load_store_4", "store_4"),
    ("torn_store_8", "store_8"),
    ("torn_load_store_8", "store_8"),
    ("torn_store_16", "store_16"),
    ("torn_load_store_16", "store_16"),
    ("torn_vstore_16", "vstore_16"),
    ("torn_load_vstore_16", "vstore_16"),
    ("torn_store_32", "store_32"),
    ("torn_load_store_32", "store_32"),
    ("torn_store_64", "store_64"),
    ("torn_load_store_64", "store_64"),
];

/// Counters: the instruction, and the sizes of memory in bytes.
const COUNTERS: [(&str, &[u32]); 5] = [
    ("inc", &[1, 2, 4, 8]),
    ("xadd", &[1, 2, 4, 8]),
    ("cmpxchg", &[1, 2, 4, 8, 16]),
    ("bts", &[2, 4, 8]),
    ("xchg", &[1, 2, 4, 8]),
];

fn plans() -> Vec<Plan> {
    let order = ORDER.iter().map(|&(name, function)| Plan {
        name: name.to_owned(),
        program: "order",
        arguments: vec![name.to_owned()],
        function: format!("probed_{function}"),
        threads: 1,
    });
    let counters = COUNTERS.iter().flat_map(|&(kind, sizes)| {
        let each = sizes.iter().flat_map(move |&size| [("shared", size), ("private", size)]);
        // Two threads of the process and two that are not probed; or one, and another process. BTS says what it has
        // found, which one thread alone can foresee.
        each.map(move |(sharing, size)| Plan {
            name: format!("lock_{kind}_{size}_{sharing}"),
            program: "counters",
            arguments: vec![kind.to_owned(), size.to_string(), sharing.to_owned()],
            function: format!("{kind}_{size}"),
            threads: if sharing == "private" && kind != "bts" { 2 } else { 1 },
        })
    });
    order.chain(counters).collect()
}

impl Plan {
    fn command(&self, programs: &Programs, rounds: u64) -> Command {
        let mut command = Command::new(programs.path(self.program));
        match self.arguments.as_slice() {
            [kind, size, sharing] => {
                command.args([kind, size]).args([self.threads, rounds].map(|number| number.to_string()));
                if sharing == "private" {
                    command.arg(sharing);
                }
            }
            rest => {
                command.args(rest).arg(rounds.to_string());
            }
        }
        command
    }
}

/// What is wrong with a run of a program.
#[derive(Debug)]
struct Broken(String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Broken {}

/// The exit status of a program for which the processor lacks something.
const LACKING: i32 = 77;

/// Which instructions are probed by hardware breakpoints in the next run of a program.
#[derive(Default)]
struct Turn {
    runs: usize,
    /// How many there are, in the function that has most.
    total: Arc<AtomicUsize>,
}

impl Turn {
    /// The function, one of so many, and the index of the first of its instructions.
    fn next(&mut self, functions: usize) -> (usize, usize) {
        let windows = self.total.load(Ordering::Relaxed).div_ceil(AT_A_TIME).max(1);
        let (function, window) = (self.runs % functions, self.runs / functions % windows);
        self.runs += 1;
        (function, window * AT_A_TIME)
    }
}

/// Runs a program once, and adds what it saw to `test`. Says whether it could.
fn once(
    plan: &Plan,
    programs: &Programs,
    rounds: u64,
    options: &Options,
    turn: &mut Turn,
    test: &mut Test,
) -> Result<bool, Box<dyn Error>> {
    const PATIENCE: Duration = Duration::from_secs(300);
    let (reader, writer) = io::pipe()?;
    let mut command = plan.command(programs, rounds);
    command.stdout(writer);
    let object = path(&programs.path(plan.program))?;
    let mut probes = vec![plan.function.clone()];
    if plan.function == "bts" || plan.name.starts_with("lock_bts") {
        probes.push(plan.function.replace("bts", "btr"));
    }
    if options.executor == Executor::Own {
        let spec =
            |pattern: &String| ProbeSpec::each_instruction(object.clone(), pattern.clone()).to_string();
        let probes = probes.iter().map(spec).collect();
        let run = own::run(command, &own::Plan { probes, jumps: true, ..own::Plan::default() }, PATIENCE)?;
        if let Some((_, address, reason)) = run.answer.refused.first() {
            return Err(Broken(format!("{}: {address:#x} cannot be probed: {reason}", plan.name)).into());
        }
        test.hits += run.answer.hits + run.answer.missed + run.answer.lost;
        test.emulated += run.answer.emulated;
        return add(plan, rounds, run.status, reader, test);
    }
    let mut session = Session::launch(command)?;
    session.restrict_atomics(options.ways);
    let place = |pattern: &String| {
        let spec = ProbeSpec::each_instruction(object.clone(), pattern.clone());
        Resolver::new(spec, Arc::new(Objects::default()))
    };
    let mut ids = Vec::new();
    match options.executor {
        Executor::Ptrace if options.runs_on => {
            for pattern in &probes {
                let function = ProbeSpec::function(object.clone(), pattern.clone());
                ids.push(session.probe(Resolver::new(function, Arc::new(Objects::default())), |hit| {
                    hit.run_on(Region::new().until_return());
                    Action::Continue
                })?);
            }
        }
        Executor::Ptrace => {
            for pattern in &probes {
                ids.push(session.probe(place(pattern), |_| Action::Continue)?);
            }
        }
        Executor::Own => {}
        Executor::Hardware => {
            let (function, from) = turn.next(probes.len());
            let all = probes.get(function).map(place).ok_or("there is no function")?;
            let window = Window { all, from, total: Arc::clone(&turn.total) };
            ids.push(session.probe(window, |_| Action::Continue)?);
        }
    }
    let status = match session.run_for(PATIENCE) {
        RunEnd::Ended(Some(status)) => status,
        other => {
            session.kill();
            return Err(Broken(format!("{} did not end: {other:?}", plan.name)).into());
        }
    };
    for id in ids {
        let Some(report) = session.report(id) else { continue };
        if let Some((address, reason)) = report.refused.first() {
            return Err(Broken(format!("{}: {address:#x} cannot be probed: {reason}", plan.name)).into());
        }
        test.hits += report.counters.hits;
        test.emulated += report.counters.emulated;
    }
    drop(session);
    add(plan, rounds, status, reader, test)
}

/// Adds what a run of a program saw to `test`. Says whether it could.
fn add(
    plan: &Plan,
    rounds: u64,
    status: ExitStatus,
    reader: io::PipeReader,
    test: &mut Test,
) -> Result<bool, Box<dyn Error>> {
    if status.code() == Some(LACKING) {
        return Ok(false);
    }
    let output = io::read_to_string(reader)?;
    let mut numbers = output.split_whitespace().map(str::parse::<u64>);
    let Some(Ok(forbidden)) = numbers.next().filter(|_| status.success()) else {
        return Err(Broken(format!("{}: {status}", plan.name)).into());
    };
    test.rounds += rounds * plan.threads;
    // What is missing may be the difference of any two numbers.
    test.forbidden += if plan.program == "counters" { forbidden.min(rounds) } else { forbidden };
    test.weak += numbers.next().and_then(Result::ok).unwrap_or(0);
    Ok(true)
}

fn path(path: &Path) -> Result<String, Broken> {
    path.to_str().map(str::to_owned).ok_or_else(|| Broken(format!("not UTF-8: {}", path.display())))
}

/// Runs all tests, and tells `progress` of each.
///
/// # Errors
/// There is no C compiler, or a program could not be run.
pub fn run(options: &Options, mut progress: impl FnMut(&Test)) -> Result<Report, Box<dyn Error>> {
    /// At a time: little enough for the shortest share, or for the patience on a machine that has others to serve, and more
    /// than starting it takes.
    const SOME: u64 = 500;
    const MANY: u64 = 5_000;
    let programs = Programs::compile()?;
    let mut report = Report::default();
    let plans: Vec<Plan> =
        plans().into_iter().filter(|plan| plan.name.starts_with(&options.prefix)).collect();
    let start = Instant::now();
    for (index, plan) in plans.iter().enumerate() {
        let mut test = Test { name: plan.name.clone(), ..Test::default() };
        let due = start + options.time * (index as u32 + 1) / plans.len().max(1) as u32;
        let (mut able, mut turn) = (true, Turn::default());
        loop {
            let left = options.rounds.map(|rounds| rounds.saturating_sub(test.rounds));
            let at_a_time = left.map_or(SOME, |left| (left / plan.threads).clamp(1, MANY));
            able &= once(plan, &programs, at_a_time, options, &mut turn, &mut test)?;
            let ended = match options.rounds {
                Some(rounds) => test.rounds >= rounds,
                None => Instant::now() >= due,
            };
            if ended || !able {
                break;
            }
        }
        if able {
            progress(&test);
            report.tests.push(test);
        } else {
            report.skipped.push(Skipped { name: test.name, reason: "the processor lacks the vectors" });
        }
    }
    Ok(report)
}
