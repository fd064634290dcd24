//! Parameters and local variables of compiled programs have the values that gdb prints at the same stops.

mod scratch;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emu::registers::Float80;
use probe::debug::{DebugError, Location, Scope, Source, Variable, VariableKind};
use probe::elf::Elf;
use probe::language::types::{Encoding, Member, Type, TypeId, Types, Variant, Variants};
use probe::language::{Circumstance, ExtendedRegister, Machine, Register, float_of_extended};
use probe::maps::Maps;
use probe::{Action, Hit, Locate, LocateError, ProbeBuilder, RunEnd, Session, Site};
use scratch::Scratch;

/// A thread at a hit.
struct Thread<'a, 'b>(&'a mut Hit<'b>);

impl Machine for Thread<'_, '_> {
    fn register(&mut self, register: Register) -> u64 {
        self.0.registers().get(register)
    }

    fn extended(&mut self, register: ExtendedRegister, quadword: u8) -> Option<u64> {
        let extended = self.0.extended().ok()?;
        match register {
            ExtendedRegister::Vector(number) => {
                extended.vector.get(usize::from(number))?.0.get(usize::from(quadword)).copied()
            }
            ExtendedRegister::St(number) => {
                let top = (extended.x87.status >> 11) as u8;
                let &Float80 { significand, sign_exponent } =
                    extended.x87.r.get(usize::from((top + number) & 7))?;
                Some(if quadword == 0 { significand } else { sign_exponent.into() })
            }
            _ => None,
        }
    }

    fn circumstance(&mut self, _: Circumstance) -> Option<u64> {
        None
    }

    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        self.0.read_up_to(address, bytes)
    }
}

/// The bytes of a value, of which some may be nowhere.
type Bytes = Vec<Option<u8>>;

fn bytes(location: &Location, size: usize, machine: &mut dyn Machine) -> Result<Bytes, String> {
    match location {
        Location::Memory(address) => {
            let address = address.evaluate(machine).map_err(|error| format!("fault {error:?}"))?;
            let mut bytes = vec![0; size];
            let read = machine.read_up_to(address, &mut bytes);
            if read < size { Err("fault".to_owned()) } else { Ok(bytes.into_iter().map(Some).collect()) }
        }
        Location::Value(quadwords) => {
            let mut bytes = Vec::new();
            for quadword in quadwords {
                let value = quadword.evaluate(machine).map_err(|error| format!("fault {error:?}"))?;
                bytes.extend(value.to_le_bytes().map(Some));
            }
            bytes.resize(size, None);
            Ok(bytes)
        }
        Location::Pieces(pieces) => {
            let mut bytes = Vec::new();
            for piece in pieces {
                let length = usize::try_from(piece.bits / 8).unwrap();
                assert_eq!((piece.bits % 8, piece.skip), (0, 0));
                match self::bytes(&piece.location, length, machine) {
                    Ok(piece) => bytes.extend(piece),
                    Err(_) => bytes.extend(vec![None; length]),
                }
            }
            bytes.resize(size, None);
            Ok(bytes)
        }
        Location::Unavailable(why) => Err(why.to_string()),
    }
}

/// What a value's parts are, each with its name, in the words of `stops.py`.
struct Leaves<'a> {
    types: &'a Types,
    bytes: Bytes,
    found: BTreeMap<String, String>,
}

impl Leaves<'_> {
    fn number(&self, offset: u64, size: u64) -> Option<u128> {
        let start = usize::try_from(offset).ok()?;
        let part = self.bytes.get(start..start + usize::try_from(size).ok()?)?;
        let part: Option<Vec<u8>> = part.iter().copied().collect();
        let mut wide = [0; 16];
        wide.iter_mut().zip(part?).for_each(|(to, from)| *to = from);
        Some(u128::from_le_bytes(wide))
    }

    fn add(&mut self, of: TypeId, name: String, offset: u64, depth: usize) {
        if depth > 6 || self.found.len() > 400 {
            return;
        }
        let integer_at = |leaves: &mut Self, name: String, offset: u64, size: u64| {
            let value = leaves.number(offset, size);
            leaves.found.insert(name, value.map_or("optimized out".to_owned(), |value| format!("i{value}")));
        };
        let integer = |leaves: &mut Self, name: String, size: u64| integer_at(leaves, name, offset, size);
        match self.types.get_resolved(of) {
            Some(&Type::Base { encoding: Encoding::Float, bytes, .. }) => {
                let value = match bytes {
                    4 => self.number(offset, 4).map(|bits| f64::from(f32::from_bits(bits as u32))),
                    8 => self.number(offset, 8).map(|bits| f64::from_bits(bits as u64)),
                    _ => self
                        .number(offset, 10)
                        .map(|bits| float_of_extended(bits as u64, (bits >> 64) as u16)),
                };
                let hexadecimal =
                    |value: f64| value.to_le_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                let value: Option<String> = value.map(hexadecimal);
                self.found
                    .insert(name, value.map_or("optimized out".to_owned(), |value| format!("f{value}")));
            }
            Some(Type::Base { encoding: Encoding::ComplexFloat, .. }) => {
                self.found.insert(name, "complex".to_owned());
            }
            Some(Type::Base { encoding: Encoding::Other, .. }) => {
                self.found.insert(name, "other".to_owned());
            }
            Some(&Type::Base { bytes, .. } | &Type::Enumeration { bytes, .. }) => integer(self, name, bytes),
            Some(Type::Pointer { .. }) => integer(self, name, 8),
            Some(Type::Structure { members, variants: None, .. }) => {
                for (index, member) in members.clone().into_iter().enumerate() {
                    let Member { name: inner, of, offset: within, bits, inherited } = member;
                    let inner = if inherited { format!("<{index}>") } else { inner.unwrap_or_default() };
                    let inner = format!("{name}.{inner}");
                    match bits {
                        Some((first, count)) => {
                            let first_byte = offset + within + u64::from(first / 8);
                            let whole = self.number(first_byte, u64::from(first % 8 + count).div_ceil(8));
                            let value = whole.map(|whole| whole >> (first % 8) & ((1 << count) - 1));
                            let value = value.map_or("optimized out".to_owned(), |value| format!("i{value}"));
                            self.found.insert(inner, value);
                        }
                        None => self.add(of, inner, offset + within, depth + 1),
                    }
                }
            }
            Some(Type::Structure { variants: Some(variants), .. }) => {
                let Variants { discriminant, variants } = variants.clone();
                let number = discriminant.and_then(|discriminant| {
                    let at = offset + discriminant.offset;
                    let size = self.types.size_of(discriminant.of)?;
                    integer_at(self, format!("{name}."), at, size);
                    // gdb takes any variant where it is not known which.
                    let number = self.number(at, size);
                    if number.is_none() {
                        self.found.insert(name.clone(), "other".to_owned());
                    }
                    number
                });
                let is_meant = |variant: &&Variant| {
                    let mut numbers = variant.numbers.iter();
                    numbers.any(|&(from, to)| number.is_some_and(|n| (from.into()..=to.into()).contains(&n)))
                };
                let other = || variants.iter().find(|variant| variant.numbers.is_empty());
                if let Some(Variant { member, .. }) = variants.iter().find(is_meant).or_else(other) {
                    let inner = format!("{name}.{}", member.name.clone().unwrap_or_default());
                    self.add(member.of, inner, offset + member.offset, depth + 1);
                }
            }
            Some(&Type::Array { element, count: Some(count) }) => {
                let size = self.types.size_of(element).unwrap_or(0);
                for index in 0..count.min(8) {
                    self.add(element, format!("{name}[{index}]"), offset + size * index, depth + 1);
                }
            }
            _ => {
                self.found.insert(name, "other".to_owned());
            }
        }
    }
}

fn leaves(variable: &Variable, types: &Types, machine: &mut dyn Machine) -> BTreeMap<String, String> {
    let size = usize::try_from(types.size_of(variable.of).unwrap_or(0)).unwrap().min(4096);
    match bytes(&variable.location, size, machine) {
        Ok(bytes) => {
            let mut leaves = Leaves { types, bytes, found: BTreeMap::new() };
            leaves.add(variable.of, variable.name.clone(), 0, 0);
            leaves.found
        }
        Err(why) => BTreeMap::from([(variable.name.clone(), format!("! {why}"))]),
    }
}

/// The parts of the variables of a function, by their names.
type Parts = BTreeMap<String, String>;

/// What we say of a variable.
struct Told {
    variable: Variable,
    parts: Parts,
}

/// What we say at a stop, of each function there, and what we show of all variables.
#[derive(Default)]
struct Ours {
    frames: Vec<(String, Vec<Told>)>,
    texts: Vec<(String, String)>,
}

/// What gdb says at a stop and, if that is where a function is entered, on its next line.
#[derive(Default)]
struct Theirs {
    frames: Vec<(String, Parts)>,
    after: Vec<(String, Parts)>,
    texts: BTreeMap<String, String>,
}

/// A virtual address of a file, wherever that is mapped.
struct InFile(PathBuf, u64);

impl Locate for InFile {
    fn locate(&self, maps: &Maps) -> Result<Vec<Site>, LocateError> {
        let mapped = maps.iter().filter(|mapping| mapping.file() == Some(&self.0) && mapping.is_executable());
        let sites: Vec<_> = mapped.filter_map(|mapping| mapping.address_of(self.1)).collect();
        if sites.is_empty() {
            return Err(LocateError::NotMapped { object: self.0.display().to_string(), instead: Vec::new() });
        }
        Ok(sites.into_iter().map(|address| Site { address }).collect())
    }
}

/// What we say at the first hit of each address.
fn ours(program: &Path, elf: &Elf, addresses: &BTreeSet<u64>) -> BTreeMap<u64, Ours> {
    let found: Arc<Mutex<BTreeMap<u64, Ours>>> = Arc::default();
    // As gdb does, so that addresses are the same.
    let mut command = Command::new("setarch");
    // With one processor, Go's allocator hands out the same addresses each time.
    command.arg("-R").arg(program).env_clear().env("GOMAXPROCS", "1").env("GOGC", "off");
    let mut session = Session::launch(command).unwrap();
    for &address in addresses {
        let scope: Scope =
            elf.debug_info().unwrap().scope(address).unwrap_or_else(|e| panic!("{address:#x}: {e}"));
        let found = Arc::clone(&found);
        let shown = Arc::clone(&found);
        let probe: ProbeBuilder = format!("{}:{address:#x}", program.display()).parse().unwrap();
        let watched = session.watch(&probe.variables(), move |_, values| {
            let texts = values.iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
            let mut shown = shown.lock().unwrap();
            let ours = shown.entry(address).or_default();
            if ours.texts.is_empty() {
                ours.texts = texts;
            }
            Action::Remove
        });
        watched.unwrap_or_else(|error| panic!("{address:#x}: {error}"));
        let handler = move |hit: &mut Hit<'_>| {
            let mut frames = Vec::new();
            for frame in &scope.frames {
                // Of two with one name the inner one is meant.
                let hidden = |variable: &&Variable| {
                    let mut same = frame.variables.iter().filter(|other| other.name == variable.name);
                    same.any(|other| other.depth > variable.depth)
                };
                let told = frame.variables.iter().filter(|variable| !hidden(variable)).map(|variable| Told {
                    variable: variable.clone(),
                    parts: leaves(variable, &scope.types, &mut Thread(hit)),
                });
                frames.push((frame.function.clone().unwrap_or_default(), told.collect()));
            }
            let mut found = found.lock().unwrap();
            let ours = found.entry(address).or_default();
            if ours.frames.is_empty() {
                ours.frames = frames;
            }
            Action::Remove
        };
        let place = InFile(program.to_owned(), elf.offset_of_address(address).unwrap());
        session.probe(place, handler).unwrap();
    }
    let end = session.run_for(Duration::from_secs(30));
    assert!(matches!(end, RunEnd::Ended(Some(status)) if status.success()), "{end:?}");
    drop(session);
    std::mem::take(&mut *found.lock().unwrap())
}

/// What gdb says.
fn theirs(
    scratch: &Scratch,
    program: &Path,
    bias: u64,
    stops: &BTreeSet<u64>,
    entries: &BTreeSet<u64>,
) -> BTreeMap<u64, Theirs> {
    let output = scratch.path("gdb.json");
    let list = |addresses: &BTreeSet<u64>| -> String {
        addresses.iter().map(|address| format!("{:#x} ", address + bias)).collect()
    };
    let mut command = Command::new("gdb");
    command.args(["-batch", "-nx", "-x"]).arg(source("stops.py")).arg(program);
    command.env("STOPS", list(stops)).env("ENTRIES", list(entries)).env("OUTPUT", &output);
    let made = command.current_dir(scratch.path("")).output().unwrap();
    let text = std::fs::read_to_string(&output)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&made.stderr)));
    let frames = |frames: &serde_json::Value| {
        let frames = frames.as_array().unwrap().iter().map(|frame| {
            let variables = frame["variables"].as_object().unwrap().iter();
            let variables = variables.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
            (frame["function"].as_str().unwrap_or_default().to_owned(), variables.collect())
        });
        frames.collect()
    };
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let stop: serde_json::Value = serde_json::from_str(line).unwrap();
        let texts = stop["texts"].as_object().unwrap().iter();
        let texts = texts.map(|(name, text)| (name.clone(), text.as_str().unwrap().to_owned())).collect();
        let theirs = Theirs { frames: frames(&stop["frames"]), after: frames(&stop["after"]), texts };
        found.insert(stop["address"].as_u64().unwrap() - bias, theirs);
    }
    found
}

fn has_gdb() -> bool {
    let has = Command::new("gdb").args(["-batch", "-ex", "python print(1)"]).output();
    let has = has.is_ok_and(|output| output.status.success() && output.stdout.starts_with(b"1"));
    if !has {
        println!("skipped: there is no gdb with Python to compare with");
    }
    has
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/variables").join(name)
}

/// What came of a comparison.
#[derive(Debug, Default)]
struct Compared {
    equal: usize,
    /// Those where the calling convention told.
    passed: usize,
    /// Where gdb has a value and we say why not.
    reasons: BTreeMap<String, usize>,
    different: Vec<String>,
    /// How many variables are shown as gdb prints them.
    shown: usize,
}

/// Where Go's allocator puts things depends on when its threads run, but not where in a page.
fn is_same_in_go(found: &str, value: &str) -> bool {
    const ARENA: std::ops::Range<u64> = 0xc0_0000_0000..0xc1_0000_0000;
    let address = |text: &str| text.strip_prefix('i')?.parse().ok().filter(|address| ARENA.contains(address));
    matches!((address(found), address(value)), (Some(one), Some(other)) if one % 4096 == other % 4096)
}

/// The last part of a function's name, without arguments.
fn short(name: &str) -> &str {
    let plain = name.split(['(', '<']).next().unwrap_or_default();
    plain.rsplit("::").next().unwrap_or_default()
}

/// The functions with these names.
fn entries(elf: &Elf, names: &[&str]) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    for name in names {
        let is = |bare: &str| short(&probe::elf::demangle(bare)) == *name || bare == *name;
        let functions = elf.functions().iter().filter(|function| function.bare_names().any(is));
        let before = found.len();
        found.extend(functions.map(|function| function.address));
        assert!(found.len() > before, "{name}");
    }
    found
}

/// Compares at all lines of the source that say so, and at the entries of these functions.
fn compare(scratch: &Scratch, program: &Path, source_name: &str, bias: u64, functions: &[&str]) -> Compared {
    let elf = Elf::open(program).unwrap();
    let debug = elf.debug_info().unwrap();
    let text = std::fs::read_to_string(source(source_name)).unwrap();
    let mut stops = BTreeSet::new();
    for (number, _) in text.lines().enumerate().filter(|(_, line)| line.contains("stop ")) {
        match debug.line(source_name, number as u64 + 1) {
            Ok(places) => stops.extend(places.iter().map(|place| place.address)),
            // The optimizer may leave a line out.
            Err(error @ DebugError::NoCode { .. }) => println!("left out: {error}"),
            Err(error) => panic!("{error}"),
        }
    }
    let entries = entries(&elf, functions);
    let ours = ours(program, &elf, &stops.union(&entries).copied().collect());
    let theirs = theirs(scratch, program, bias, &stops, &entries);
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    let mut compared = Compared::default();
    for (address, theirs) in theirs {
        let entry = entries.contains(&address);
        let line = debug.frames(address).unwrap().first().and_then(|frame| frame.line).unwrap_or(0);
        let Some(ours) = ours.get(&address) else { continue };
        if !entry {
            compare_texts(&format!("line {line}"), &ours.texts, &theirs.texts, &mut compared);
        }
        for (function, told) in &ours.frames {
            let of = |frames: &[(String, Parts)]| {
                frames.iter().find(|(name, _)| short(name) == short(function)).map(|(_, parts)| parts.clone())
            };
            // gdb leaves inlined functions out that begin where it stops.
            let Some(now) = of(&theirs.frames) else { continue };
            let after = of(&theirs.after).unwrap_or_default();
            for Told { variable, parts } in told {
                // What a local variable has before it is set is anything.
                if entry && variable.kind != VariableKind::Parameter {
                    continue;
                }
                let theirs = if variable.source == Source::Abi { &after } else { &now };
                let is_part = |name: &str| {
                    name.strip_prefix(&variable.name)
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
                };
                for (name, value) in theirs.iter().filter(|(name, _)| is_part(name)) {
                    let found = parts.get(name).or_else(|| parts.get(&variable.name)).map(String::as_str);
                    match found {
                        // The program passes Ok(Level::Low). gdb 13 takes the other variant where the optimizer has left the
                        // value in pieces.
                        None if name == "result.Err.__0"
                            && parts.get("result.Ok.__0").is_some_and(|ours| ours == "i255") => {}
                        // gdb cannot convert some to a number.
                        _ if value.starts_with("error") || value == "other" || found == Some("other") => {}
                        Some(found) if found == value || is_same_in_go(found, value) => {
                            compared.equal += 1;
                            compared.passed += usize::from(variable.source == Source::Abi);
                        }
                        Some("! optimized out here" | "! a pointer to something that was optimized out of memory")
                            if value == "optimized out" =>
                        {
                            compared.equal += 1;
                        }
                        // Who has called is asked for what is shown.
                        Some("! optimized out here; only who has called may know") => {}
                        // What lies elsewhere is compared as it is shown.
                        None if name.contains(".<0>.<0>") || name.contains(".<1>.<0>") => {}
                        Some(found) if found.starts_with('!') => {
                            println!("{function}:{line} {address:#x} {name} (entry: {entry}): gdb {value}, {found}");
                            *compared.reasons.entry(found.to_owned()).or_default() += 1;
                        }
                        found => compared.different.push(format!(
                            "{function}:{line} {address:#x} {name} (entry: {entry}): gdb {value}, ours {found:?}"
                        )),
                    }
                }
            }
        }
    }
    println!(
        "{}: {} equal, of these {} by the ABI, {} shown alike, {:?}",
        program.display(),
        compared.equal,
        compared.passed,
        compared.shown,
        compared.reasons
    );
    compared
}

/// What we show, in the notation of `stops.py`: without reasons, the names of the parts of tuples, and the pages of Go's
/// heap, which depend on when its threads run.
fn in_their_notation(shown: &str) -> String {
    const HEAP: &str = "0xc0000";
    if shown.starts_with('(') && shown.contains("optimized out") {
        return "<optimized out>".to_owned();
    }
    let mut text = shown.replace("(optimized out)", "<optimized out>");
    for number in 0..4 {
        text = text.replace(&format!("__{number} = "), "");
    }
    let mut parts = text.split(HEAP);
    let mut masked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let digits = part.find(|letter: char| !letter.is_ascii_hexdigit()).unwrap_or(part.len());
        masked.push_str("heap ");
        masked.push_str(&part[digits.saturating_sub(3)..]);
    }
    masked
}

/// Compares what we show of variables with what gdb prints.
fn compare_texts(
    place: &str,
    ours: &[(String, String)],
    theirs: &BTreeMap<String, String>,
    compared: &mut Compared,
) {
    for (name, shown) in ours {
        // Where it prints no value, there is nothing to compare with.
        let Some(printed) = theirs.get(name).filter(|printed| !printed.starts_with("error")) else {
            continue;
        };
        let (shown, printed) = (in_their_notation(shown), in_their_notation(printed));
        // gdb 13 takes the other variant where the optimizer has left the value in pieces.
        if shown == printed || name == "result" && shown == "Ok{Low}" {
            compared.shown += 1;
        } else {
            compared.different.push(format!("{place} {name}: gdb prints {printed:?}, ours is {shown:?}"));
        }
    }
}

fn made(command: &mut Command) -> bool {
    match command.output() {
        Ok(output) if output.status.success() => true,
        other => {
            println!("skipped: {command:?}: {other:?}");
            false
        }
    }
}

/// What a global variable has at the first hit of a line of the C program.
fn global(program: &Path, object: &Path, source_name: &str, stop: &str, name: &str) -> Parts {
    let elf = Elf::open(object).unwrap();
    let debug = elf.debug_info().unwrap();
    let text = std::fs::read_to_string(source_name).unwrap();
    let line = text.lines().position(|line| line.contains(stop)).unwrap() as u64 + 1;
    let address = debug.line(source_name, line).unwrap()[0].address;
    let (variable, types) = debug.global(address, name).unwrap();
    let found: Arc<Mutex<Parts>> = Arc::default();
    let told = Arc::clone(&found);
    let handler = move |hit: &mut Hit<'_>| {
        *told.lock().unwrap() = leaves(&variable, &types, &mut Thread(hit));
        Action::Remove
    };
    let mut session = Session::launch(Command::new(program)).unwrap();
    let place = InFile(object.to_owned(), elf.offset_of_address(address).unwrap());
    session.probe(place, handler).unwrap();
    let end = session.run_for(Duration::from_secs(30));
    assert!(matches!(end, RunEnd::Ended(Some(status)) if status.success()), "{end:?}");
    std::mem::take(&mut *found.lock().unwrap())
}

#[test]
fn variables_of_the_program_and_of_the_thread_are_found() {
    let scratch = Scratch::new();
    let source = source("program.c");
    for flags in [&["-O1", "-no-pie"][..], &["-O1", "-pie", "-fPIE"], &["-O0", "-static"]] {
        let program = scratch.path("program");
        assert!(made(Command::new("cc").args(["-g", "-o"]).arg(&program).arg(&source).args(flags)));
        let value = |name: &str| global(&program, &program, source.to_str().unwrap(), "stop rest", name);
        for (name, expected) in [("counter", "i42"), ("per_thread", "i7")] {
            assert_eq!(value(name), Parts::from([(name.to_owned(), expected.to_owned())]), "{flags:?}");
        }
    }
    // In a library, whose block of thread-local variables has a number that only the process knows.
    let code = "_Thread_local int before = 3;\nstatic _Thread_local long mine = 11;\nvoid f(void) {\n    mine += before; /* \
                stop f */\n}\n";
    for model in ["global-dynamic", "initial-exec"] {
        let library = scratch.write("library.c", code);
        let object = scratch.path("liblibrary.so");
        let model = format!("-ftls-model={model}");
        let mut command = Command::new("cc");
        command.args(["-g", "-shared", "-fPIC", &model, "-o"]).arg(&object).arg(&library);
        assert!(made(&mut command));
        let main = scratch.write("main.c", "void f(void);\nint main(void) { f(); return 0; }");
        let program = scratch.path("program");
        let search = format!("-Wl,-rpath,{}", scratch.path("").display());
        assert!(made(Command::new("cc").arg("-o").arg(&program).arg(main).arg(&object).arg(search)));
        let found = global(&program, &object, library.to_str().unwrap(), "stop f", "mine");
        assert_eq!(found, Parts::from([("mine".to_owned(), "i11".to_owned())]), "{model}");
    }
}

/// Compares a program that was compiled in these ways, and returns how many were equal and how many had reasons. Of variables
/// that are `shown` as gdb prints them, there are so many at least.
fn all_equal(
    command: &Command,
    source_name: &str,
    ways: &[&[&str]],
    functions: &[&str],
    shown: usize,
) -> (usize, usize) {
    let mut alike = 0;
    let scratch = Scratch::new();
    let (mut equal, mut reasons) = (0, 0);
    for flags in ways {
        let program = scratch.path("program");
        let mut compiler = Command::new(command.get_program());
        compiler.args(command.get_args()).args(*flags).arg("-o").arg(&program).arg(source(source_name));
        compiler.env("GO111MODULE", "off").env("GOPROXY", "off").env("GOFLAGS", "");
        if !made(&mut compiler) {
            continue;
        }
        let bias = if flags.contains(&"-pie") { 0x5555_5555_4000 } else { 0 };
        let compared = compare(&scratch, &program, source_name, bias, functions);
        assert_eq!(compared.different, Vec::<String>::new(), "{flags:?}");
        equal += compared.equal;
        reasons += compared.reasons.values().sum::<usize>();
        alike += compared.shown;
    }
    println!("{source_name}: {alike} variables are shown as gdb prints them");
    assert!(equal == 0 || alike >= shown, "{alike} shown alike");
    (equal, reasons)
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

#[test]
fn those_of_c_are_gdbs() {
    if !has_gdb() {
        return;
    }
    let ways = [&["-O0"][..], &["-O2"], &["-O1", "-gdwarf-4"], &["-O2", "-pie", "-fPIE"]];
    let functions =
        ["integers", "floats", "structures", "pointers", "vectors", "blocks", "many", "returned", "called"];
    let (equal, reasons) = all_equal(&command(&["cc", "-g", "-no-pie"]), "program.c", &ways, &functions, 250);
    assert!(equal > 500 && reasons < equal / 10, "{equal} equal, {reasons} with reasons");
}

#[test]
fn those_of_cpp_are_gdbs() {
    if !has_gdb() {
        return;
    }
    let ways = [&["-O0"][..], &["-O2"], &["-O2", "-gdwarf-4", "-fdebug-types-section"]];
    let functions = ["cost", "largest", "heavy", "empty", "lambda"];
    let (equal, reasons) =
        all_equal(&command(&["c++", "-g", "-no-pie"]), "program.cpp", &ways, &functions, 40);
    assert!(equal > 120 && reasons < equal / 10, "{equal} equal, {reasons} with reasons");
}

#[test]
fn those_of_rust_are_gdbs() {
    if !has_gdb() {
        return;
    }
    let ways = [&["-Copt-level=0"][..], &["-Copt-level=2"]];
    let functions = ["scalars", "aggregates", "owned", "looped", "variants"];
    let rustc = command(&["rustc", "-g", "-Crelocation-model=static"]);
    let (equal, reasons) = all_equal(&rustc, "program.rs", &ways, &functions, 30);
    assert!(equal > 50 && reasons < equal / 5, "{equal} equal, {reasons} with reasons");
}

#[test]
fn those_of_go_are_gdbs() {
    if !has_gdb() {
        return;
    }
    let ways = [&["-gcflags=-N -l"][..], &[]];
    let functions = ["main.scalars", "main.aggregates", "main.(*Point).Move"];
    let (equal, reasons) = all_equal(&command(&["go", "build"]), "program.go", &ways, &functions, 40);
    assert!(equal > 50 && reasons < equal / 10, "{equal} equal, {reasons} with reasons");
}
