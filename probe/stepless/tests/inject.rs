//! What functions get, return and do is changed, and programs say what they have seen of it.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use scratch::Scratch;
use serde_json::{Value, json};

const STEPLESS: &str = env!("CARGO_BIN_EXE_stepless");
const SOURCE: &str = include_str!("inject.c");

/// The program of the tests, with debug information.
fn program(scratch: &Scratch) -> PathBuf {
    scratch.compile("program", SOURCE, &["-g", "-pthread"])
}

/// What came of a run.
struct Run {
    status: Option<i32>,
    stdout: String,
    stderr: String,
    events: Vec<Value>,
}

impl Run {
    /// What was injected at each event.
    fn injected(&self) -> Vec<&Value> {
        self.events.iter().map(|event| &event["injected"]).collect()
    }

    /// The changes of each, as what, from and to.
    fn changes(&self) -> Vec<Value> {
        self.injected().into_iter().map(|injected| injected["changes"].clone()).collect()
    }

    fn numbers(&self) -> Vec<u64> {
        self.injected().iter().filter_map(|injected| injected["number"].as_u64()).collect()
    }
}

fn run(scratch: &Scratch, arguments: &[&str], command: &[&str]) -> Run {
    let file = scratch.path("events");
    let _ = std::fs::remove_file(&file);
    let output = Command::new(STEPLESS)
        .args(["inject", "--json", "-o", file.to_str().unwrap()])
        .args(arguments)
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let events = std::fs::read_to_string(&file).unwrap_or_default();
    Run {
        status: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        events: events.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
    }
}

/// The same with a program that ends with status 3, whatever is injected, and prints one line.
#[track_caller]
fn line(scratch: &Scratch, arguments: &[&str], program: &Path, mode: &str) -> (String, Run) {
    let run = run(scratch, arguments, &[program.to_str().unwrap(), mode]);
    assert_eq!(run.status, Some(3), "{arguments:?}: {}", run.stderr);
    (run.stdout.trim_end().to_owned(), run)
}

#[test]
fn a_function_returns_what_is_said_without_having_run() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    for (arguments, expected) in [
        (&["-e", "program:number", "--return", "42"][..], "42 42 42 42 1.5 1.5 text calls=103"),
        (&["-e", "program:number", "--return", "n*10"], "10 20 30 40 1.5 1.5 text calls=103"),
        (&["-e", "program:number", "--return", "-1", "--nth", "2"], "2 -1 4 5 1.5 1.5 text calls=106"),
        (&["-e", "program:number if n > 3", "--return", "0"], "2 3 4 0 1.5 1.5 text calls=106"),
        (&["-e", "program:half", "--return", "0.25"], "2 3 4 5 0.25 1.5 text calls=106"),
        (&["-e", "program:half", "--return", "7"], "2 3 4 5 7 1.5 text calls=106"),
        (&["-e", "program:single", "--return", "f+0.75"], "2 3 4 5 1.5 3.75 text calls=106"),
        (&["-e", "program:text", "--return", "0"], "2 3 4 5 1.5 1.5 null calls=106"),
        (&["-e", "program:nothing", "--return", "0"], "2 3 4 5 1.5 1.5 text calls=7"),
        (
            &["-e", "program:number%return", "--return", "$retval+100"],
            "102 103 104 105 1.5 1.5 text calls=107",
        ),
        (&["-e", "program:half%return", "--return", "-0.5"], "2 3 4 5 -0.5 1.5 text calls=107"),
        (&["-e", "program:number%return", "--return", "9", "--every", "2"], "2 9 4 9 1.5 1.5 text calls=107"),
    ] {
        assert_eq!(line(&scratch, arguments, &program, "results").0, expected, "{arguments:?}");
    }
    let (_, run) =
        line(&scratch, &["-e", "program:number", "--return", "42", "--nth", "3"], &program, "results");
    let expected = json!({
        "number": 3, "changes": [{ "what": "return", "to": 42 }], "returned": true, "skipped": false
    });
    assert_eq!(run.injected(), [&expected]);
    assert!(run.stderr.contains("INJECTED"), "{}", run.stderr);
    let (_, run) =
        line(&scratch, &["-e", "program:number%return", "--return", "1", "--nth", "2"], &program, "results");
    let changes = json!([{ "what": "return", "from": 3, "to": 1 }]);
    assert_eq!(run.changes(), [changes]);
}

#[test]
fn without_debug_information_results_are_in_rax() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", SOURCE, &["-pthread"]);
    for (arguments, expected) in [
        (&["-e", "program:number", "--return", "%di*2"][..], "2 4 6 8 1.5 1.5 text calls=103"),
        (&["-e", "program:text", "--return", "0"], "2 3 4 5 1.5 1.5 null calls=106"),
        (&["-e", "program:number%return", "--return", "-7"], "-7 -7 -7 -7 1.5 1.5 text calls=107"),
        (&["-e", "program:half", "--return", "0.5"], "2 3 4 5 0.5 1.5 text calls=106"),
        (&["-e", "program:half", "--set", "(double)%xmm0=1.0"], "2 3 4 5 0.5 1.5 text calls=107"),
    ] {
        assert_eq!(line(&scratch, arguments, &program, "results").0, expected, "{arguments:?}");
    }
}

#[test]
fn registers_variables_and_memory_are_set() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let untouched = "1 2 3 4 abc 0.5 0.25 n=5 d=2.5 f=3.5 total=7\n1 2 3 4 5 6 7 8";
    for (probe, set, expected) in [
        ("look", &["n=n+4"][..], untouched.replace("n=5", "n=9")),
        ("look", &["%si=8"], untouched.replace("n=5", "n=8")),
        ("look", &["%esi=-3"], untouched.replace("n=5", "n=-3")),
        ("look", &["d=d*2", "f=0.5"], untouched.replace("d=2.5 f=3.5", "d=5 f=0.5")),
        ("look", &["(double)%xmm0=1.25"], untouched.replace("d=2.5", "d=1.25")),
        (
            "look",
            &["p->x=77", "p->y=-2", "p->d=total", "p->f=1.5"],
            untouched.replace("1 2 3 4 abc 0.5 0.25", "77 -2 3 4 abc 7 1.5"),
        ),
        ("look", &["p->a=1", "p->b=31"], untouched.replace("3 4 abc", "1 31 abc")),
        ("look", &["p->name=\"wxyz\""], untouched.replace("abc", "wxyz")),
        ("look", &["p->name[1]='x'"], untouched.replace("abc", "axc")),
        ("look", &["total=-1"], untouched.replace("total=7", "total=-1")),
        ("look", &["*(int *)%di=12", "+4(%di):s16=13"], untouched.replacen("1 2 3", "12 13 3", 1)),
        // All values are those before the first change.
        ("look", &["n=total", "total=n"], untouched.replace("n=5", "n=7").replace("total=7", "total=5")),
        (
            "many",
            &["a=10", "f=60", "g=70", "h=-1"],
            untouched.replace("1 2 3 4 5 6 7 8", "10 2 3 4 5 60 70 -1"),
        ),
        ("many", &["%dil=9", "%dh=1"], untouched.replace("1 2 3 4 5 6 7 8", "9 2 259 4 5 6 7 8")),
    ] {
        let place = format!("program:{probe}");
        let mut arguments = vec!["-e", place.as_str()];
        set.iter().for_each(|set| arguments.extend(["--set", set]));
        assert_eq!(line(&scratch, &arguments, &program, "look").0, expected, "{set:?}");
    }
    let arguments = ["-e", "program:look", "--set", "n=9", "--set", "p->b=1", "--set", "p->name=\"z\""];
    let (_, run) = line(&scratch, &arguments, &program, "look");
    let changes = json!([
        { "what": "n", "from": 5, "to": 9 },
        { "what": "p->b", "from": 4, "to": 1 },
        { "what": "p->name", "from": "abc", "to": "z" },
    ]);
    assert_eq!(run.changes(), [changes]);
}

/// What cannot be done is said, nothing of it is done, and the program goes on.
#[test]
fn an_injection_that_fails_changes_nothing() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let results = "2 3 4 5 1.5 1.5 text calls=107";
    for (set, reason) in [
        ("%rip=%rip+1", "middle of an instruction"),
        ("%rip=0", "nothing is mapped at 0x0"),
        ("%rip=0x8000000000000000", "not canonical"),
        ("%rip=&total", "not executable"),
        ("%fs_base=0x8000000000000000", "no address"),
        ("%flags=%flags|0x20000", "system's"),
        ("*0x10=1", "memory at 0x10 cannot be written"),
        ("calls=*(int *)0x10", "memory at 0x10 cannot be read"),
        ("calls=1/(n-n)", "division by zero"),
    ] {
        let arguments = ["-e", "program:number", "--set", "calls=1000", "--set", set, "--nth", "1"];
        let (printed, run) = line(&scratch, &arguments, &program, "results");
        assert_eq!(printed, results, "{set}");
        assert_eq!(run.events.len(), 1, "{set}");
        let failed = run.events[0]["not_injected"]["reason"].as_str().unwrap_or_default();
        assert!(failed.contains(reason), "{set}: {}", run.events[0]);
    }
    // One of four hits has no value, and is told; the others are as they are to be.
    let arguments = ["-e", "program:number", "--return", "60/(n-2)"];
    let (printed, run) = line(&scratch, &arguments, &program, "results");
    assert_eq!(printed, "-60 3 60 30 1.5 1.5 text calls=104");
    let told: Vec<bool> = run.events.iter().map(|event| event["not_injected"].is_object()).collect();
    assert_eq!(told, [false, true, false, false]);
    let row = run.stderr.lines().find(|line| line.starts_with("program:number ")).unwrap();
    let cells: Vec<&str> = row.split_whitespace().collect();
    assert_eq!(cells[cells.len() - 2..], ["3", "1"], "{row}");
    // A condition without a value.
    let arguments = ["-e", "program:number if 1/(n-2) != 0 || n > 2", "--return", "0"];
    let (printed, run) = line(&scratch, &arguments, &program, "results");
    assert_eq!(printed, "0 3 0 0 1.5 1.5 text calls=104");
    assert!(run.stderr.contains("for 1 hit the condition had no value"), "{}", run.stderr);
}

#[test]
fn what_cannot_be_injected_is_refused_with_the_reason() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let plan = scratch.write("plan.toml", "[[inject]]\nprobe = \"program:number\"\nerrno = \"ENOSUCH\"\n");
    for (arguments, reason) in [
        (&["-e", "program:number"][..], "inject what?"),
        (&["--return", "1"], "inject where?"),
        (&[], "inject where?"),
        (&["-e", "program:five+5", "--return", "1"], "inside five"),
        (&["-e", "program:five+5", "--errno", "EIO"], "inside five"),
        (&["-e", "program:large", "--return", "1"], "cannot be what the function returns"),
        (&["-e", "program:half", "--errno", "EIO"], "is not known: say what it returns"),
        (&["-e", "program:number", "--return", "1", "--skip"], "nothing to skip"),
        (&["-e", "program:number", "--set", "nosuch=1"], "nosuch"),
        (&["-e", "program:number", "--set", "1=2"], "column 1"),
        (&["-e", "program:number", "--set", "n+1=2"], "cannot be set"),
        (&["-e", "program:number", "--set", "n"], "TARGET=VALUE"),
        (&["-e", "program:look", "--set", "p->name=\"12345678\""], "room for 7 letters"),
        (&["-e", "program:look", "--set", "*p=1"], "cannot be set"),
        (&["-e", "program:number", "--return", "1+"], "column 3"),
        (&["-e", "program:number", "--errno", "ENOSUCH"], "ENOSPC"),
        (&["-e", "program:number", "--signal", "SIGNOSUCH"], "SIGUSR1"),
        (&["-e", "program:number", "--delay", "soon"], "10"),
        (&["-e", "program:number", "--skip", "--nth", "0"], "0"),
        (&["-e", "program:number", "--skip", "--probability", "0.5"], "--seed"),
        (&["-e", "program:number", "--skip", "--probability", "1.5", "--seed", "1"], "at most 1"),
        (&["--plan", plan.to_str().unwrap()], "plan.toml:3:9: "),
        (&["--plan", "/nonexistent"], "/nonexistent: "),
    ] {
        let run = run(&scratch, arguments, &[program.to_str().unwrap(), "results"]);
        assert_eq!((run.status, run.stdout.as_str()), (Some(2), ""), "{arguments:?}: {}", run.stderr);
        assert!(run.stderr.contains(reason), "{arguments:?}: {}", run.stderr);
    }
}

/// The path of a C compiler's program, or why there is none.
fn compiled_by(scratch: &Scratch, compiler: &[&str], name: &str) -> Option<PathBuf> {
    let (source, output) = (scratch.write(&format!("{name}.c"), SOURCE), scratch.path(name));
    let (compiler, flags) = compiler.split_first()?;
    let mut command = Command::new(compiler);
    command.args(["-O1", "-pthread", "-o"]).arg(&output).arg(source).args(flags);
    match command.output() {
        Ok(made) if made.status.success() => Some(output),
        Ok(made) => {
            println!("skipped: {compiler} {flags:?}: {}", String::from_utf8_lossy(&made.stderr));
            None
        }
        Err(error) => {
            println!("skipped: {compiler}: {error}");
            None
        }
    }
}

#[test]
fn a_function_of_a_c_library_fails_with_an_error() {
    let scratch = Scratch::new();
    for (compiler, name, library) in [
        (&["cc"][..], "shared", "libc.so.6"),
        (&["cc", "-static"], "static", "static"),
        (&["musl-gcc", "-static"], "musl-static", "musl-static"),
        (&["musl-gcc"], "musl", "libc.so"),
    ] {
        let Some(program) = compiled_by(&scratch, compiler, name) else { continue };
        let at = |function: &str| format!("{library}:{function}");
        let (chdir, malloc) = (at("chdir"), at("malloc if %di == 12345"));
        let arguments = ["-e", &chdir, "-e", &malloc, "--errno", "ENOSPC"];
        let (printed, run) = line(&scratch, &arguments, &program, "fail");
        assert_eq!(printed, "-1 28 1 28", "{name}: {}", run.stderr);
        let errno = json!({ "what": "errno", "from": 0, "to": "ENOSPC" });
        let of = |result: i64| json!([{ "what": "return", "to": result }, errno]);
        assert_eq!(run.changes(), [of(-1), of(0)], "{name}");
        // What it returns is said, and then only errno is as it is.
        let (printed, _) =
            line(&scratch, &["-e", &chdir, "--return", "5", "--errno", "EIO"], &program, "fail");
        assert_eq!(printed, "5 5 0 0", "{name}");
    }
}

#[test]
fn errno_is_that_of_the_thread_that_fails() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let arguments = ["-e", "libc.so.6:chdir", "--errno", "ENOSPC", "--nth", "3"];
    assert_eq!(line(&scratch, &arguments, &program, "errno").0, "failed=1 own=7");
    let arguments = ["-e", "libc.so.6:chdir", "--errno", "28", "--nth", "1", "--per-thread"];
    let (printed, run) = line(&scratch, &arguments, &program, "errno");
    assert_eq!(printed, "failed=8 own=0");
    let threads: BTreeSet<i64> = run.events.iter().filter_map(|event| event["tid"].as_i64()).collect();
    assert_eq!(threads.len(), 8);
    let arguments = ["-e", "libc.so.6:chdir", "--errno", "ENOSPC", "--every", "2"];
    assert_eq!(line(&scratch, &arguments, &program, "errno").0, "failed=4 own=4");
}

#[test]
fn a_system_call_instruction_returns_without_the_kernel() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let (printed, run) = line(&scratch, &["-e", "program:raw+5", "--errno", "ENOSPC"], &program, "raw");
    assert_eq!(printed, "-28 6");
    assert_eq!(run.changes(), [json!([{ "what": "return", "to": -28 }])]);
    assert_eq!(line(&scratch, &["-e", "program:raw+5", "--return", "77"], &program, "raw").0, "77 6");
    let (printed, run) = line(&scratch, &["-e", "program:five+5", "--skip"], &program, "raw");
    assert!(printed.ends_with(" 1"), "{printed}");
    assert_eq!(run.injected()[0]["skipped"], true);
}

#[test]
fn threads_are_counted_together_or_each_by_itself() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let inject = |more: &[&str]| {
        let arguments = [&["-e", "program:number", "--return", "42"], more].concat();
        let (printed, run) = line(&scratch, &arguments, &program, "threads");
        let threads: BTreeSet<i64> = run.events.iter().filter_map(|event| event["tid"].as_i64()).collect();
        (printed, threads.len(), run.numbers())
    };
    assert_eq!(inject(&["--nth", "50"]), ("1 calls=159".to_owned(), 1, vec![50]));
    assert_eq!(inject(&["--nth", "5", "--per-thread"]), ("8 calls=152".to_owned(), 8, vec![5; 8]));
    let (printed, _, mut numbers) = inject(&["--nth", "10", "--every", "50"]);
    numbers.sort_unstable();
    assert_eq!((printed.as_str(), numbers), ("4 calls=156", vec![10, 60, 110, 160]));
    // Limits are those of injections.
    assert_eq!(inject(&["--limit", "3"]).0, "3 calls=157");
}

#[test]
fn chance_is_the_same_with_the_same_seed() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let numbers = |seed: &str| {
        let arguments = ["-e", "program:number", "--skip", "--probability", "0.1", "--seed", seed];
        line(&scratch, &arguments, &program, "many").1.numbers()
    };
    let first = numbers("1");
    assert!((10..60).contains(&first.len()), "{first:?}");
    assert_eq!(first, numbers("1"));
    assert_ne!(first, numbers("2"));
}

#[test]
fn a_delay_is_that_of_one_thread() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let plan = "[[inject]]\nprobe = \"program:nothing\"\ndelay = \"2s\"\n\
                [[inject]]\nprobe = \"program:number\"\nreturn = 0\n";
    let plan = scratch.write("plan.toml", plan);
    let (printed, run) = line(&scratch, &["--plan", plan.to_str().unwrap()], &program, "delay");
    assert_eq!(printed, "waited=1 first=1 calls=1");
    let delays: Vec<u64> =
        run.injected().iter().filter_map(|injected| injected["delay_ns"].as_u64()).collect();
    assert_eq!(delays, [2_000_000_000]);
    assert_eq!(run.events.len(), 11);
}

/// Whoever leaves the target, leaves nobody waiting.
#[test]
fn a_delay_ends_with_the_command() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let arguments = ["-e", "program:nothing", "--delay", "1h", "--duration", "500ms"];
    let start = std::time::Instant::now();
    let (printed, _) = line(&scratch, &arguments, &program, "results");
    assert_eq!(printed, "2 3 4 5 1.5 1.5 text calls=107");
    assert!(start.elapsed() < std::time::Duration::from_secs(60));
}

#[test]
fn a_signal_is_as_the_threads_own() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let arguments = ["-e", "program:number", "--signal", "SIGUSR1", "--nth", "2"];
    let (printed, run) = line(&scratch, &arguments, &program, "signal");
    // SI_TKILL
    assert_eq!(printed, "1: 10 code=-6 own=1 thread=1");
    assert_eq!(run.injected()[0]["signal"], "SIGUSR1");
    // At a system call instruction somebody else sends it.
    let kill = ["-e", "program:raw+5", "--signal", "KILL"];
    let killed = self::run(&scratch, &kill, &[program.to_str().unwrap(), "raw"]);
    assert_eq!(killed.status, Some(128 + 9), "{}", killed.stderr);
}

#[test]
fn programs_in_rust_and_go_see_errors() {
    let scratch = Scratch::new();
    let rust = "fn main() { println!(\"{:?}\", std::fs::create_dir(\"/proc/none/x\").map_err(|e| e.raw_os_error())) }";
    let (source, output) = (scratch.write("a.rs", rust), scratch.path("rust"));
    match Command::new("rustc").arg("-o").arg(&output).arg(&source).output() {
        Ok(made) if made.status.success() => {
            let run =
                run(&scratch, &["-e", "libc.so.6:mkdir", "--errno", "ENOSPC"], &[output.to_str().unwrap()]);
            assert_eq!((run.status, run.stdout.as_str()), (Some(0), "Err(Some(28))\n"), "{}", run.stderr);
        }
        other => println!("skipped: rustc: {other:?}"),
    }
    let go = "package main\nimport (\"fmt\"; \"os\")\n\
              func main() { fmt.Println(os.Mkdir(\"/proc/none/x\", 0700)) }\n";
    let (source, output) = (scratch.write("a.go", go), scratch.path("go"));
    let mut build = Command::new("go");
    match build.args(["build", "-o"]).arg(&output).arg(&source).output() {
        Ok(made) if made.status.success() => {
            let path = output.to_str().unwrap();
            // mkdirat(2), at each instruction that is a system call.
            let sites = system_calls(&output);
            assert!(!sites.is_empty());
            let probes: Vec<String> =
                sites.iter().map(|site| format!("{path}:{site} if %ax == 258")).collect();
            let mut arguments: Vec<&str> = probes.iter().flat_map(|probe| ["-e", probe]).collect();
            arguments.extend(["--errno", "ENOSPC"]);
            let run = run(&scratch, &arguments, &[path]);
            assert_eq!(run.stdout, "mkdir /proc/none/x: no space left on device\n", "{}", run.stderr);
            assert_eq!(run.events.len(), 1);
            // Its result is an interface.
            let wrapper = format!("{path}:os.Mkdir");
            let run = self::run(&scratch, &["-e", &wrapper, "--errno", "ENOSPC"], &[path]);
            assert_eq!(run.status, Some(2), "{}", run.stderr);
            assert!(run.stderr.contains("how a function with a result of this type fails"), "{}", run.stderr);
        }
        other => println!("skipped: go: {other:?}"),
    }
}

/// The addresses of the system call instructions in a program of Go, as the tool prints them.
fn system_calls(program: &Path) -> Vec<String> {
    let output = Command::new(STEPLESS)
        .args(["list", program.to_str().unwrap(), "*yscall.*yscall*", "--instructions"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().filter(|line| line.split_whitespace().any(|word| word == "syscall"));
    lines.filter_map(|line| Some(format!("0x{}", line.split_whitespace().next()?))).collect()
}

/// A plan does different things at different places, and the status is that of the program.
#[test]
fn a_plan_is_carried_out() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let plan = r#"
        [[inject]]
        probe = "program:number if n < 3"
        return = "n*100"
        [[inject]]
        probe = "program:text"
        return = 0
        nth = 1
        [[inject]]
        probe = "program:half%return"
        return = "$retval*2"
    "#;
    let plan = scratch.write("plan.toml", plan);
    let (printed, run) = line(&scratch, &["--plan", plan.to_str().unwrap()], &program, "results");
    assert_eq!(printed, "100 200 4 5 3 1.5 null calls=104");
    let probes: Vec<&str> = run.events.iter().filter_map(|event| event["probe"].as_str()).collect();
    assert_eq!(probes.len(), 4, "{probes:?}");
    // Together with a probe of the command line.
    let arguments = ["--plan", plan.to_str().unwrap(), "-e", "program:single", "--return", "0"];
    assert_eq!(line(&scratch, &arguments, &program, "results").0, "100 200 4 5 3 0 null calls=103");
    // One at which nothing has come about is told of.
    let (_, run) = line(&scratch, &["-e", "program:number", "--skip", "--nth", "9"], &program, "results");
    assert!(run.stderr.contains("nothing was injected at `program:number`, of 4 hits"), "{}", run.stderr);
}

#[test]
fn lines_for_people_say_what_was_done() {
    let scratch = Scratch::new();
    let program = program(&scratch);
    let output = Command::new(STEPLESS)
        .args(["inject", "-e", "program:number", "--set", "n=7", "--nth", "2", "--delay", "1ms", "--"])
        .arg(&program)
        .arg("results")
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("#2 n=2->7 delay=1000.000 us"), "{stderr}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2 8 4 5 1.5 1.5 text calls=107\n");
}

/// A program without a C library has no `errno`, or one that nobody can find.
#[test]
fn where_errno_is_not_known_the_reason_is_told() {
    const PROGRAM: &str = r#"
    __attribute__((noinline)) int number(int n) { __asm__ volatile("" : "+r"(n)); return n + 1; }
    #ifdef LOCATION
    int *__errno_location(void) { int n; __asm__ volatile("rdtsc" : "=a"(n) : : "edx"); return (int *)(long)n; }
    #endif
    void _start(void) { __asm__ volatile("syscall" : : "a"(60), "D"(number(1))); }
    "#;
    let scratch = Scratch::new();
    for (flags, reason) in [
        (&[][..], "nothing that is mapped tells where errno is (__errno_location)"),
        (&["-DLOCATION"], "is not understood, so nobody knows where errno is"),
    ] {
        let plain = ["-nostdlib", "-static", "-fno-stack-protector", "-Wl,--build-id=none"];
        let program = scratch.compile("bare", PROGRAM, &[&plain, flags].concat());
        let run = run(&scratch, &["-e", "bare:number", "--errno", "EIO"], &[program.to_str().unwrap()]);
        let told =
            run.events.iter().map(|event| event["not_injected"]["reason"].as_str().unwrap_or_default());
        let told: Vec<&str> = told.collect();
        assert!(told.len() == 1 && told[0].contains(reason), "{flags:?}: {:?}", run.events);
        // The program goes on as it would have.
        assert_eq!(run.status, Some(2), "{flags:?}: {}", run.stderr);
    }
}
