//! Lines of `uprobe_events` come to what the kernel makes of them, side by side.

#[path = "../../tests/scratch/mod.rs"]
mod scratch;
mod target;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use scratch::Scratch;
use serde_json::Value;
use target::STEPLESS;

/// The kernel's files, mounted for as long as this lives, and what was made there.
struct Tracefs {
    root: PathBuf,
    instance: PathBuf,
    group: String,
    events: Vec<String>,
}

impl Tracefs {
    /// `None`, with the reason told, where it cannot be had.
    fn mount(scratch: &Scratch) -> Option<Tracefs> {
        let root = scratch.path("tracefs");
        fs::create_dir_all(&root).unwrap();
        let mounted = Command::new("mount").args(["-t", "tracefs", "tracefs"]).arg(&root).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            eprintln!("skipped: tracefs cannot be mounted here, which takes root");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let group = format!("stepless_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let instance = root.join("instances").join(&group);
        let tracefs = Tracefs { root, instance, group, events: Vec::new() };
        if !tracefs.root.join("uprobe_events").exists() {
            eprintln!("skipped: this kernel has no uprobe_events");
            return None;
        }
        fs::create_dir(&tracefs.instance).unwrap();
        Some(tracefs)
    }

    fn append(&self, text: &str) -> io::Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.root.join("uprobe_events"))?;
        file.write_all(format!("{text}\n").as_bytes())
    }

    fn define(&mut self, name: &str, line: &str) {
        self.append(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.events.push(name.to_owned());
    }

    /// Has `command` run, and returns what the kernel has printed: for each event, its hits.
    fn trace(&self, command: &mut Command) -> BTreeMap<String, Vec<String>> {
        let events = self.instance.join("events").join(&self.group).join("enable");
        fs::write(self.instance.join("trace"), "").unwrap();
        fs::write(&events, "1").unwrap();
        let status = command.status();
        fs::write(&events, "0").unwrap();
        assert!(status.unwrap().success());
        let trace = fs::read(self.instance.join("trace")).unwrap();
        let mut hits: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in String::from_utf8_lossy(&trace).lines().filter(|line| !line.starts_with('#')) {
            // `  name-PID [CPU] flags TIME: EVENT: (ADDRESS) ARGUMENTS`
            let Some((_, behind)) = line.split_once(": ") else { continue };
            let (event, behind) = behind.split_once(": (").unwrap_or_else(|| panic!("{line}"));
            let (_, arguments) = behind.split_once(')').unwrap_or_else(|| panic!("{line}"));
            hits.entry(event.to_owned()).or_default().push(arguments.to_owned());
        }
        hits
    }

    /// Where the kernel finds a mistake: the byte from the start of the line.
    fn mistake(&self, line: &str) -> Option<usize> {
        const COMMAND: &str = "  Command: ";
        let log = self.root.join("error_log");
        fs::write(&log, "").unwrap();
        self.append(line).err()?;
        let log = fs::read_to_string(log).unwrap();
        let caret = log.lines().rev().find(|line| line.trim() == "^")?;
        Some(caret.len() - 1 - COMMAND.len())
    }
}

impl Drop for Tracefs {
    fn drop(&mut self) {
        for event in &self.events {
            let _ = self.append(&format!("-:{}/{event}", self.group));
        }
        let _ = fs::remove_dir(&self.instance);
        let _ = Command::new("umount").arg(&self.root).status();
    }
}

/// The program where its addresses are the same each time, and so are those of its stack.
fn same_each_time(program: &Path) -> Vec<String> {
    let program = program.to_str().unwrap();
    ["setarch", "-R", "env", "-i", program].map(str::to_owned).to_vec()
}

/// What the kernel has printed as values, by the names of the arguments.
fn kernel_values(text: &str, names: &[String]) -> Vec<Value> {
    let mut rest = text;
    let mut values = Vec::new();
    for (index, name) in names.iter().enumerate() {
        rest = rest.strip_prefix(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {text:?}"));
        let end = names.get(index + 1).map_or(rest.len(), |next| rest.find(&format!(" {next}=")).unwrap());
        values.push(kernel_value(&rest[..end]));
        rest = &rest[end..];
    }
    values
}

fn kernel_value(text: &str) -> Value {
    if text == "(fault)" {
        return text.into();
    }
    if let Some(text) = text.strip_prefix('"') {
        return text.strip_suffix('"').unwrap().into();
    }
    if let Some(letter) = text.strip_prefix('\'') {
        return letter.strip_suffix('\'').unwrap().into();
    }
    if let Some(elements) = text.strip_prefix('{') {
        let elements = elements.strip_suffix('}').unwrap();
        let mut values: Vec<Value> = Vec::new();
        let mut start = 0;
        for (at, _) in elements.match_indices(',').chain([(elements.len(), "")]) {
            let element = &elements[start..at];
            // A comma may be in a text.
            if element.starts_with('"') && (element.len() == 1 || !element.ends_with('"')) {
                continue;
            }
            values.push(kernel_value(element));
            start = at + 1;
        }
        // An array of letters is a text here.
        let is_letter = |value: &Value| value.as_str().is_some_and(|text| text.chars().count() == 1);
        if elements.starts_with('\'') && values.iter().all(is_letter) {
            return values.iter().filter_map(Value::as_str).collect::<String>().into();
        }
        return values.into();
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).unwrap().into();
    }
    match text.parse::<u64>() {
        Ok(number) => number.into(),
        Err(_) => text.parse::<i64>().unwrap_or_else(|_| panic!("{text:?}")).into(),
    }
}

/// Where the program has what the lines name.
struct Places {
    path: String,
    entry: u64,
    number: u64,
    string: u64,
    /// Addresses of a global, of a constant text and of two others, and of the structures.
    addresses: Vec<u64>,
}

impl Places {
    fn of(program: &Path) -> Places {
        let elf = probe::elf::Elf::open(program).unwrap();
        let offset = |name: &str| {
            let symbol = elf.lookup(&probe::elf::SymbolName::parse(name)).unwrap();
            elf.offset_of_address(symbol.address).unwrap()
        };
        let output = Command::new(program).arg("tell").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).unwrap();
        Places {
            path: program.to_str().unwrap().to_owned(),
            entry: offset("entry"),
            number: offset("number"),
            string: offset("string"),
            addresses: text.split_whitespace().map(number).collect(),
        }
    }

    /// Arguments for lines at the entry, on return of a number, and on return of a string.
    fn lines(&self) -> [Vec<String>; 3] {
        let [global, told, first, ..] = self.addresses[..] else { panic!("{:x?}", self.addresses) };
        // The first segment of the program is at this address.
        let (told_offset, global_offset) = (told - 0x40_0000, global - 0x40_0000);
        let entry = [
            // Those of the kernel's documentation and selftests.
            "%ip %ax".to_owned(),
            "%ip %ax $comm".to_owned(),
            "arg1=%ax arg2=%di".to_owned(),
            // Registers, in each type.
            "%di".to_owned(),
            "a=%di:u8 b=%di:u16 c=%di:u32 d=%di:u64".to_owned(),
            "a=%di:s8 b=%di:s16 c=%di:s32 d=%di:s64".to_owned(),
            "a=%di:x8 b=%di:x16 c=%di:x32 d=%di:x64".to_owned(),
            "a=%si:u32 b=%si:s32 c=%si:x32 d=%si".to_owned(),
            "a=%bx b=%cx c=%dx d=%si e=%bp f=%sp g=%flags".to_owned(),
            "a=%r8 b=%r9:s64 c=%r10 d=%r11 e=%r12 f=%r13 g=%r14 h=%r15".to_owned(),
            "a=%cs b=%ss c=%orig_ax d=%cs:u16 e=%orig_ax:s32 f=%ss:b3@0/16".to_owned(),
            "a=%r8:u8 b=%r9:s8 c=%r9:s16 d=%r9:x32".to_owned(),
            // Bit-fields.
            "a=%di:b4@0/8 b=%di:b4@4/8 c=%di:b1@7/8".to_owned(),
            "a=%di:b12@4/16 b=%di:b5@11/16".to_owned(),
            "a=%di:b32@0/32 b=%di:b8@24/32 c=%si:b1@31/32".to_owned(),
            "a=%di:b64@0/64 b=%di:b17@47/64 c=%di:b1@63/64".to_owned(),
            "a=+32(%cx):b5@3/32 b=+32(%cx):b8@24/32 c=+32(%cx):b16@0/16 d=+32(%cx):b3@5/8".to_owned(),
            "a=+16(%cx):b60@4/64 b=@0x404000:b8@0/64".replace("0x404000", &format!("{global:#x}")),
            // Memory, in each type.
            "a=+0(%cx):u8 b=+1(%cx):s8 c=+2(%cx):u16 d=+4(%cx):s16".to_owned(),
            "a=+8(%cx):u32 b=+12(%cx):s32 c=+16(%cx):u64 d=+24(%cx):s64".to_owned(),
            "a=+0(%cx):x8 b=+1(%cx):x8 c=+2(%cx):x16 d=+8(%cx):x32 e=+24(%cx):x64 f=+24(%cx)".to_owned(),
            "a=+0x10(%cx):u64 b=+020(%cx):u64 c=-0(%cx):u8 d=+u0(%cx):u8 e=-u0(%cx):s8".to_owned(),
            "a=-8(%cx) b=+0(%sp) c=+8(%sp):u32 d=-4(%cx):s32".to_owned(),
            // Nested.
            "a=+0(+56(%cx)):u8 b=+1(+56(%cx)):s8 c=+24(+56(%cx)):s64".to_owned(),
            "a=+0(+48(%cx)):x8 b=+1(+48(+56(%cx))):u8 c=+u1(+u48(+u56(%cx))):u8".to_owned(),
            "a=+0(+0(%sp)):x32".to_owned(),
            // Letters and texts.
            "a=%dx:x8 b=+0(%dx):char c=+0x1(%dx):char".to_owned(),
            "a=+36(%cx):char[5] b=+36(%cx):u8[8]".to_owned(),
            "a=+0(%dx):string b=+0(%dx):ustring c=+1(%dx):string".to_owned(),
            "a=+0(+48(%cx)):string b=+u0(+u48(%cx)):ustring c=+36(%cx):string".to_owned(),
            format!("a=@{first:#x}:string b=@{told}:string c=@{told:#x}:char"),
            // Arrays.
            "a=+64(%cx):u16[4] b=+64(%cx):s16[4] c=+64(%cx):x16[4]".to_owned(),
            "a=+96(%cx):s64[4] b=+96(%cx):u8[3] c=+96(%cx):x64[1] d=+64(%cx):u32[2]".to_owned(),
            "a=+72(%cx):string[3] b=+72(%cx):string[1] c=+72(%cx):ustring[2]".to_owned(),
            "a=+96(%cx):s64[64]".to_owned(),
            // The stack.
            "$stack $stack0 $stack1 $stack2".to_owned(),
            "a=$stack:u8 b=$stack1:u8 c=$stack1:s32 d=$stack1:x64 e=$stack0:x32".to_owned(),
            "a=$stack1:b3@1/8 b=+8($stack):u8 c=+0($stack):x64".to_owned(),
            // Addresses and offsets.
            format!("a=@{global:#x} b=@{global:#x}:u32 c=@{global:#x}:s8 d=@{global}:x16"),
            format!("a=@+{told_offset:#x}:string b=@+{told_offset}:u8 c=@+{told_offset:#x}:x32"),
            format!("a=@+{global_offset:#x}:x32 b=+0(@+{told_offset:#x}):u8"),
            format!("a=+2(@{global:#x}):u8 b=@{global:#x}:u8[4]"),
            // Constants, and the thread's name.
            r"a=\1 b=\-1 c=\-1:s32 d=\0x7f:u8 e=\010:u16 f=\-1:x8".to_owned(),
            r#"a=\"text" b=\"more":string"#.to_owned(),
            "$comm a=$comm:string".to_owned(),
            "c=$comm a=%di b=+0(%dx):string".to_owned(),
            // What cannot be read.
            "a=+0(%si):u32 b=%di:u8 c=+0(%si):string d=+0(%si):u8[2]".to_owned(),
            "a=@0x10:u8 b=+0(@0x10):u8 c=+8(+0(%cx)):u64 d=$stack0:x8".to_owned(),
            "a=+0(%r8):string[2] b=+0(%r8):b3@1/8".to_owned(),
        ];
        let number = [
            "$retval",
            "a=$retval:s64 b=$retval:s8 c=$retval:u16 d=$retval:x32",
            "%ip %ax",
            "a=$retval:b4@0/8 b=%ax:s32",
            "a=$stack b=%sp c=$comm",
            "a=+0($retval):u8 b=$retval",
        ];
        let string = ["a=+0($retval):string", "a=+0($retval):char b=+1($retval):x8[3] c=$retval"];
        [entry.to_vec(), number.map(str::to_owned).to_vec(), string.map(str::to_owned).to_vec()]
    }
}

/// The names of the arguments of a line: where there is none, they are counted.
fn names(arguments: &str) -> Vec<String> {
    let words = arguments.split_whitespace().enumerate();
    let name = |(index, word): (usize, &str)| match word.split_once('=') {
        Some((name, _)) => name.to_owned(),
        None => format!("arg{}", index + 1),
    };
    words.map(name).collect()
}

/// The text that an argument is, if it is one.
fn constant_text<'a>(arguments: &'a str, name: &str) -> Option<&'a str> {
    let (_, behind) = arguments.split_once(&format!(r#"{name}=\""#))?;
    behind.split('"').next()
}

#[test]
fn lines_come_to_what_the_kernel_makes_of_them() {
    let scratch = Scratch::new();
    let Some(mut tracefs) = Tracefs::mount(&scratch) else { return };
    let program = scratch.compile("events", include_str!("uprobe_events.c"), &["-O1", "-fno-pie", "-no-pie"]);
    let places = Places::of(&program);
    let [entry, number, string] = places.lines();
    let of = |letter: char, offset: u64, lines: Vec<String>| {
        lines.into_iter().map(move |arguments| (letter, offset, arguments))
    };
    let lines = of('p', places.entry, entry);
    let lines = lines.chain(of('r', places.number, number)).chain(of('p', places.string, string));
    let group = tracefs.group.clone();
    let mut all: Vec<(String, String, String)> = Vec::new();
    for (index, (letter, offset, arguments)) in lines.enumerate() {
        let name = format!("e{index}");
        // Either says that the return is meant.
        let suffix = if offset == places.string { "%return" } else { "" };
        let line = format!("{letter}:{group}/{name} {}:{offset:#x}{suffix} {arguments}", places.path);
        tracefs.define(&name, &line);
        all.push((name, line, arguments));
    }
    assert!(all.len() >= 50, "{}", all.len());
    let command = same_each_time(&program);
    let kernel = tracefs.trace(Command::new(&command[0]).args(&command[1..]));
    let file = scratch.path("ours");
    let mut ours = Command::new(STEPLESS);
    ours.args(["trace", "--json", "-o"]).arg(&file);
    all.iter().for_each(|(_, line, _)| {
        ours.args(["-e", line]);
    });
    let output = ours.arg("--").args(&command).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for line in fs::read_to_string(&file).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        found.entry(event["probe"].as_str().unwrap().to_owned()).or_default().push(event["args"].clone());
    }
    let (mut compared, mut faults) = (0, 0);
    let mut wrong = Vec::new();
    for (name, line, arguments) in &all {
        let names = names(arguments);
        let kernel = kernel.get(name).unwrap_or_else(|| panic!("the kernel has no hit of {line}"));
        let ours = found.get(&format!("{group}/{name}")).unwrap_or_else(|| panic!("no hit of {line}"));
        assert_eq!((kernel.len(), ours.len()), (4, 4), "{line}");
        for (kernel, ours) in kernel.iter().zip(ours) {
            let values = kernel_values(kernel, &names);
            for (name, value) in names.iter().zip(values) {
                compared += 1;
                // The kernel says so of texts alone; a number has some value or other then.
                if ours[name] == "(fault)" && !value.is_string() {
                    faults += 1;
                } else if let Some(text) = constant_text(arguments, name) {
                    // The kernel looks for it in the program's memory, and does not find it.
                    let found = (ours[name].as_str(), value.as_str());
                    assert_eq!(found, (Some(text), Some("(fault)")), "{line}");
                } else if ours[name] != value {
                    wrong.push(format!("{name} is {} in {line}; the kernel has {kernel}", ours[name]));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Those that lead to nothing, at two hits those by way of inner.next (3 and 2 arguments), and at four each those by way
    // of %si (2), %r8 (2), 0x10 (2), what is in a structure (1), a result (1), a text (1) and the global (1).
    assert_eq!((compared > 400, faults), (true, 2 * 5 + 4 * 10));
}

#[test]
fn mistakes_are_where_the_kernel_finds_them() {
    let scratch = Scratch::new();
    let Some(tracefs) = Tracefs::mount(&scratch) else { return };
    // Of the kernel's selftests, and others.
    for line in [
        "p /bin/sh:10(10)a",
        "p /bin/sh:10(10",
        "p /bin/sh:10(a)",
        "p /bin/sh:10(2)%return",
        "p /bin/sh:0xzz",
        "p /bin/sh:10%hoge",
        "p: /bin/sh:10",
        "p:/a /bin/sh:10",
        "p:1a /bin/sh:10",
        "p:g/1a /bin/sh:10",
        "p:a-b /bin/sh:10",
        "p:foo /bin/sh:10 %foo",
        "p:foo /bin/sh:10 a=%foo",
        "p:foo /bin/sh:10 b=%ax a=%ax:foo",
        "p:foo /bin/sh:10 a=%ax:b1@40/32",
        "p:foo /bin/sh:10 a=+0(%ax",
        "p:foo /bin/sh:10 a=$foo",
        "p:foo /bin/sh:10 a=%ax b=$retval",
        "p:foo /bin/sh:10 a=%ax:u8[4]",
    ] {
        let output = Command::new(STEPLESS).args(["trace", "-e", line, "--", "true"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {stderr}");
        let lines: Vec<&str> = stderr.lines().collect();
        let [shown, caret, why] = lines[..] else { panic!("{line}: {stderr}") };
        assert_eq!((shown.trim_start(), caret.trim()), (line, "^"), "{stderr}");
        assert!(why.starts_with("stepless: "), "{stderr}");
        let column = caret.len() - 1 - (shown.len() - line.len());
        assert_eq!(Some(column), tracefs.mistake(line), "{line}: {stderr}");
    }
}

#[test]
fn an_event_is_called_as_the_kernel_calls_it() {
    let scratch = Scratch::new();
    let program =
        scratch.compile("some.name", include_str!("uprobe_events.c"), &["-O1", "-fno-pie", "-no-pie"]);
    let places = Places::of(&program);
    let (path, offset) = (&places.path, places.number);
    let file = scratch.path("counts");
    let mut command = Command::new(STEPLESS);
    command.args(["stat", "--json", "-o"]).arg(&file);
    for line in [
        format!("p {path}:{offset:#x}"),
        format!("p {path}:{offset}"),
        format!("r:mine {path}:{offset}"),
        format!("p:my-group/ {path}:{offset}%return"),
    ] {
        command.args(["-e", &line]);
    }
    let output = command.arg("--").arg(&program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let document: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let counts: Vec<(String, u64)> = document["probes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|probe| (probe["probe"].as_str().unwrap().to_owned(), probe["hits"].as_u64().unwrap()))
        .collect();
    let name = format!("p_some_{offset:#x}");
    let expected = [
        format!("uprobes/{name}"),
        format!("uprobes/{name}"),
        "uprobes/mine".into(),
        format!("my-group/{name}"),
    ];
    assert_eq!(counts, expected.map(|name| (name, 4)));
}
