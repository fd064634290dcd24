//! Arguments, conditions and lines of one's own, from outside. What is expected is what the program itself prints.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use scratch::Scratch;
use serde_json::Value;
use target::{ANSWERS, STEPLESS, Target};

/// Prints what `work` is called with, in the words of the tests, then calls it.
const PROGRAM: &str = r#"
    #include <stdio.h>
    #include <sys/wait.h>
    #include <unistd.h>
    enum color { RED, GREEN = 5, BLUE };
    struct inner { short n; const char *name; };
    struct outer { struct inner in; enum color color; double d[2]; unsigned a : 3, b : 5; struct outer *next; };
    static struct outer last = { { -9, "last" }, BLUE, { 0.5, -2 }, 7, 30, 0 };
    int total;
    __attribute__((noinline)) int work(int n, const char *text, double d, float f, struct outer *o, unsigned char c) {
        __asm__ volatile("" :: "r"(o), "r"(text) : "memory");
        return total += n + (int)d + (int)f + c;
    }
    static void call(int n) {
        char text[20];
        struct outer o = { { (short)(n * 100), "inner" }, n & 1 ? GREEN : RED, { n + 0.25, n * 2.0 }, n & 7, n & 31, &last };
        snprintf(text, sizeof text, "text %d", n);
        printf("%d %s %.17g %.9g %d %d %s %d %u %.17g %d\n", n, text, n * 1.5, n + 0.125f, 65 + n, o.in.n, last.in.name,
               o.color, o.b, o.d[1], total);
        fflush(stdout);
        work(n, text, n * 1.5, n + 0.125f, &o, 65 + n);
    }
    int main(int argc, char **argv) {
        for (int i = -2; i < 3; i++) call(i);
        if (argc > 1 && fork() == 0) { for (int i = 10; i < 12; i++) call(i); return 0; }
        while (wait(0) > 0) ;
        return 0;
    }
"#;

fn stepless(arguments: &[&str]) -> Output {
    Command::new(STEPLESS).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs `trace --json`, and returns the program's lines and the events.
#[track_caller]
fn trace(scratch: &Scratch, arguments: &[&str], command: &[&str]) -> (Vec<String>, Vec<Value>) {
    let file = scratch.path("events");
    let arguments = [&["trace", "--json", "-o", text(&file)], arguments, &["--"], command].concat();
    let output = stepless(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).unwrap();
    let events = std::fs::read_to_string(&file).unwrap();
    let events = events.lines().map(|line| serde_json::from_str(line).unwrap());
    (lines.lines().map(str::to_owned).collect(), events.collect())
}

/// An event's arguments as the program prints them.
fn line(event: &Value) -> String {
    let args = &event["args"];
    let plain = |name: &str| match &args[name] {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{}", number.as_f64().unwrap()),
        other => other.to_string(),
    };
    let names = ["n", "text", "d", "f", "c", "in", "last", "color", "b", "e", "total"];
    names.map(plain).join(" ")
}

const BY_NAME: &str = "n=n text=text d=d f=f c=(int)c in=o->in.n last=o->next->in.name color=(int)o->color b=o->b \
                       e=o->d[1] total=total";

#[test]
fn variables_are_what_the_program_says() {
    let scratch = Scratch::new();
    for flags in
        [&["-g", "-O0"][..], &["-g", "-O2"], &["-g", "-O2", "-no-pie", "-fno-pie"], &["-g", "-gdwarf-4"]]
    {
        let program = scratch.compile("program", PROGRAM, flags);
        let probe = format!("program:work {BY_NAME}");
        let (lines, events) = trace(&scratch, &["-e", &probe], &[text(&program)]);
        let shown: Vec<String> = events.iter().map(line).collect();
        assert_eq!(lines.len(), 5, "{flags:?}");
        assert_eq!(shown, lines, "{flags:?}");
    }
}

/// Where the structures have what, in bytes, and where the arguments are, is what the ABI says; no debug information.
#[test]
fn registers_and_memory_are_what_the_program_says() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-O2"]);
    let probe = "program:work n=%di:s32 text=+0(%si):string d=%xmm0:f64 f=%xmm1:f32 c=%cx:u8 in=+0(%dx):s16 \
                 last=+0(+8(+48(%dx))):string color=+16(%dx):u32 b=+40(%dx):b5@3/8 e=+32(%dx):f64 total=$comm";
    let (lines, events) = trace(&scratch, &["-e", probe], &[text(&program)]);
    let without_total = |line: &String| line.rsplit_once(' ').unwrap().0.to_owned();
    let shown: Vec<String> = events.iter().map(line).collect();
    assert_eq!(
        shown.iter().map(without_total).collect::<Vec<_>>(),
        lines.iter().map(without_total).collect::<Vec<_>>()
    );
    assert!(shown.iter().all(|line| line.ends_with(" program")), "{shown:?}");
}

/// What a child is called with is found in its own memory, where the same file lies.
#[test]
fn children_have_variables_of_their_own() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let probe = format!("program:work {BY_NAME} pid=pid");
    let (lines, events) = trace(&scratch, &["--follow", "-e", &probe], &[text(&program), "fork"]);
    let mut shown: Vec<String> = events.iter().map(line).collect();
    let mut lines = lines;
    shown.sort();
    lines.sort();
    assert_eq!(lines.len(), 7);
    assert_eq!(shown, lines);
    for event in &events {
        assert_eq!(event["args"]["pid"], event["pid"]);
    }
    let pids: std::collections::HashSet<i64> =
        events.iter().map(|event| event["pid"].as_i64().unwrap()).collect();
    assert_eq!(pids.len(), 2);
}

/// The hits for which a condition does not hold are counted as filtered, and nothing else of them is told.
#[test]
fn conditions_filter() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    for (condition, hits) in [
        ("n > 0", 2),
        ("n < 0 || text == \"text 2\"", 3),
        ("o->in.name == \"inner\" && o->next->in.name != \"first\"", 5),
        ("d >= 1.5 && f < 2", 1),
        ("comm == \"program\" && pid == tid", 5),
        ("o->color == 5", 2),
        ("%di == 2", 1),
        ("*(char *)n == 1", 0),
    ] {
        let file = scratch.path("stat");
        for arguments in [
            vec![
                "stat",
                "--json",
                "-o",
                text(&file),
                "-e",
                "program:work",
                "--if",
                condition,
                "--",
                text(&program),
            ],
            vec![
                "stat",
                "--json",
                "-o",
                text(&file),
                "-e",
                &format!("program:work if {condition}"),
                "--",
                text(&program),
            ],
        ] {
            let output = stepless(&arguments);
            assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
            let document: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
            let probe = &document["probes"][0];
            assert_eq!((&probe["hits"], &probe["emulated"]), (&5.into(), &5.into()), "{condition}");
            assert_eq!(probe["filtered"], 5 - hits, "{condition}");
        }
    }
}

#[test]
fn one_in_so_many_hits_and_for_so_long() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let (_, events) = trace(&scratch, &["--sample", "1/2", "-e", "program:work n=n"], &[text(&program)]);
    let taken: Vec<i64> = events.iter().map(|event| event["args"]["n"].as_i64().unwrap()).collect();
    assert_eq!(taken, [-2, 0, 2]);
    // One that has said that it is ready has mapped what it needs.
    let mut waiting = Target::start(&mut Command::new(scratch.compile("answers", ANSWERS, &[])));
    let (pid, start) = (waiting.child.id().to_string(), Instant::now());
    let output = stepless(&["stat", "--duration", "50ms", "-e", "answers:leaf", "-p", &pid]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(start.elapsed() >= Duration::from_millis(50));
    assert_eq!(waiting.child.try_wait().unwrap(), None);
    waiting.child.kill().unwrap();
    waiting.child.wait().unwrap();
}

#[test]
fn lines_of_ones_own_and_all_variables() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let file = scratch.path("events");
    let format = "n={n} {{text}}={text} {o->color}";
    let output = stepless(&[
        "trace",
        "-o",
        text(&file),
        "-e",
        "program:work",
        "--format-event",
        format,
        "--",
        text(&program),
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let expected: String = (-2..3)
        .map(|n: i32| format!("n={n} {{text}}=text {n} {}\n", if n & 1 == 0 { "RED" } else { "GREEN" }))
        .collect();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), expected);
    let (_, events) = trace(&scratch, &["--vars", "-e", "program:work"], &[text(&program)]);
    for (event, n) in events.iter().zip(-2..) {
        let args = event["args"].as_object().unwrap();
        assert_eq!(args["n"], n);
        assert_eq!(args["text"], format!("text {n}"));
        let names: Vec<&str> = args.keys().map(String::as_str).collect();
        assert_eq!(names.len(), 6, "{names:?}");
    }
}

#[test]
fn what_cannot_be_is_said_with_its_column() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    for (probe, parts) in [
        ("program:work x=nothing", &["`nothing`", "there is n, text"][..]),
        ("program:work x=o->nothing", &["no member `nothing`", "in, color"]),
        ("program:work x=+(", &["column 18"]),
        ("program:work if n >", &["column 20"]),
        ("program:work x=%zax", &["%zax"]),
        ("program:work x=n:u9", &["u9", "u8 to u64"]),
    ] {
        let output = stepless(&["trace", "-e", probe, "--", text(&program)]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{probe}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{probe}: {stderr}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{probe}: {stderr}");
    }
}

/// What calls return has the type that the function has, wherever the ABI puts it.
#[test]
fn results_have_the_types_of_their_functions() {
    const RESULTS: &str = r#"
        #include <stdio.h>
        enum color { RED, GREEN = 5 };
        struct pair { long a; double b; };
        struct large { int n[6]; const char *name; };
        #define FUNCTION(type, name, value) \
            __attribute__((noinline)) type name(void) { __asm__ volatile(""); return value; }
        FUNCTION(short, small, -3)
        FUNCTION(double, number, 2.5)
        FUNCTION(float, single, -0.25f)
        FUNCTION(long double, wide, 1.5L)
        FUNCTION(enum color, color, GREEN)
        FUNCTION(const char *, text, "hello")
        FUNCTION(struct pair, pair, ((struct pair) { 7, 0.5 }))
        FUNCTION(struct large, large, ((struct large) { { 1, 2, 3, 4, 5, 6 }, "big" }))
        int main(void) {
            small(); number(); single(); wide(); color(); text();
            struct pair p = pair(); struct large l = large();
            return p.a == 7 && l.n[5] == 6 ? 0 : 1;
        }
    "#;
    let scratch = Scratch::new();
    for flags in [&["-g", "-O0"][..], &["-g", "-O2"]] {
        let program = scratch.compile("results", RESULTS, flags);
        let names = ["small", "number", "single", "wide", "color", "text", "pair", "large"];
        let probes: Vec<String> = names.iter().map(|name| format!("results:{name}%return")).collect();
        let arguments: Vec<&str> = probes.iter().flat_map(|probe| ["-e", probe]).collect();
        let (_, events) = trace(&scratch, &arguments, &[text(&program)]);
        let results: Vec<&Value> = events.iter().map(|event| &event["retval"]).collect();
        let expected = serde_json::json!([
            -3, 2.5, -0.25, 1.5, "GREEN", "hello", { "a": 7, "b": 0.5 }, { "n": [1, 2, 3, 4, 5, 6], "name": "big" },
        ]);
        assert_eq!(serde_json::json!(results), expected, "{flags:?}");
    }
}

/// The condition and the arguments of a return can name the result.
#[test]
fn results_can_be_filtered_and_computed_with() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let probe = "program:work%return twice=$retval*2 if $retval > 70";
    let (_, events) = trace(&scratch, &["-e", probe], &[text(&program)]);
    let all: Vec<i64> = (-2i64..3)
        .scan(0, |total, n| {
            // As the program adds them up, whose casts cut.
            *total += n + (n as f64 * 1.5) as i64 + (n as f64 + 0.125) as i64 + 65 + n;
            Some(*total)
        })
        .filter(|&total| total > 70)
        .collect();
    assert!(all.len() > 1 && all.len() < 5, "{all:?}");
    let results =
        |key: &str| -> Vec<i64> { events.iter().map(|event| event["args"][key].as_i64().unwrap()).collect() };
    assert_eq!(results("twice"), all.iter().map(|total| 2 * total).collect::<Vec<_>>());
    assert_eq!(events.iter().map(|event| event["retval"].as_i64().unwrap()).collect::<Vec<_>>(), all);
}

/// What means nothing where a call returns to is told there, once, and the hits are counted all the same.
#[test]
fn what_a_return_does_not_know_is_told_once() {
    let scratch = Scratch::new();
    let program = scratch.compile("program", PROGRAM, &["-g", "-O2"]);
    let file = scratch.path("events");
    let probe = "program:work%return x=nothing";
    let output = stepless(&["trace", "--json", "-o", text(&file), "-e", probe, "--", text(&program)]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr.lines().filter(|line| line.contains("`nothing`")).count(), 1, "{stderr}");
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 5);
}

/// That there are none is said, with the reason.
#[test]
fn variables_of_which_nothing_tells_are_said_to_be_missing() {
    let scratch = Scratch::new();
    let without = scratch.compile("program", PROGRAM, &["-O1"]);
    let split = || scratch.compile("split", PROGRAM, &["-g", "-gsplit-dwarf"]);
    for (program, reason) in [(without, "has no debug information"), (split(), "which was not found")] {
        let files = std::fs::read_dir(scratch.path("")).unwrap().map(|entry| entry.unwrap().path());
        let dwos = files.filter(|path| path.extension().is_some_and(|end| end == "dwo"));
        dwos.for_each(|dwo| std::fs::remove_file(dwo).unwrap());
        let probe = format!("{}:work", text(&program));
        let (_, events) = trace(&scratch, &["--vars", "-e", &probe], &[text(&program)]);
        assert_eq!(events.len(), 5, "{reason}");
        let told =
            |event: &Value| event["args"]["variables"].as_str().is_some_and(|why| why.contains(reason));
        assert!(events.iter().all(told), "{reason}: {events:?}");
    }
}

#[test]
fn types_of_any_size_are_told_whole() {
    let scratch = Scratch::new();
    // More than 200 kB of names in what the arguments are made of, and a function with as long a name.
    let members: String = (0..3000).map(|i| format!("int a_member_with_a_rather_long_name_{i};\n")).collect();
    let names: String = (0..5000).map(|i| format!("AN_ENUMERATOR_WITH_A_LONG_NAME_{i},\n")).collect();
    let long = "f".repeat(100_000);
    let source = format!(
        "struct big {{ {members} }};\nenum many {{ {names} }};\nstatic struct big big;\n\
         __attribute__((noinline)) int {long}(struct big *p, enum many m, int n) {{ return p->\
         a_member_with_a_rather_long_name_7 + m + n; }}\n\
         int main(void) {{ big.a_member_with_a_rather_long_name_7 = 5; return {long}(&big, \
         AN_ENUMERATOR_WITH_A_LONG_NAME_77, 3) - 85; }}\n"
    );
    let program = scratch.compile("program", &source, &["-g", "-O0"]);
    let (_, events) = trace(&scratch, &["-e", "program:fff*", "--vars"], &[text(&program)]);
    let [event] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(event["args"]["m"], "AN_ENUMERATOR_WITH_A_LONG_NAME_77");
    assert_eq!(event["args"]["n"], 3);
    let probe = format!("program:{long}");
    assert_eq!(event["probe"], probe);
    let line = "{m} {p->a_member_with_a_rather_long_name_7} {n}";
    let output = stepless(&["trace", "-e", &probe, "--format-event", line, "--", text(&program)]);
    let shown = String::from_utf8(output.stderr).unwrap();
    assert!(shown.starts_with("AN_ENUMERATOR_WITH_A_LONG_NAME_77 5 3\n"), "{}", &shown[..200]);
    assert!(!shown.contains("lost"));
}
