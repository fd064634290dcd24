//! What many probes cost: how much time placing and removing takes, and how much memory they hold. Once as one probe of
//! many sites, once as many probes of one site each, and once with these looked up in a file.
//!
//! Run with `cargo bench -p benches --bench placing`, with `-- COUNT` for another number than 100,000. It fails where
//! either takes more than two seconds for 100,000.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use emu::Processor;
use probe::code::{Instruction, of_range};
use probe::elf::Elf;
use probe::locate::Address;
use probe::maps::{self, Maps, Permissions};
use probe::resolve::{Objects, Resolver};
use probe::spec::ProbeSpec;
use probe::{Action, Hit, Locate, LocateError, ProbeError, ProbeId, Session, Site};

/// How many probes, unless the command line says it.
const COUNT: usize = 100_000;
/// Says to this program what to measure.
const MEASURED: &str = "STEPLESS_BENCH_PLACING";
const SITES: &str = "sites of one probe";
const PROBES: &str = "probes of one site";
const NAMED: &str = "probes that are looked up in a file";
/// How long placing or removing that many may take.
const AT_MOST: Duration = Duration::from_secs(2);
/// The object that is probed.
const OBJECT: &str = "libc.so.6";

/// Places that are known already.
#[derive(Clone)]
struct Known(Arc<[u64]>);

impl Locate for Known {
    fn locate(&self, _: &Maps) -> Result<Vec<Site>, LocateError> {
        Ok(self.0.iter().map(|&address| Site { address }).collect())
    }
}

/// A program that maps the object, and has started.
fn start() -> Child {
    let mut child =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat runs");
    child.stdin.as_mut().expect("it is piped").write_all(b"ready\n").expect("it reads");
    let mut line = String::new();
    let read = BufReader::new(child.stdout.as_mut().expect("it is piped")).read_line(&mut line);
    assert!(read.is_ok() && line == "ready\n", "cat writes what it reads");
    child
}

fn maps_of(child: &Child) -> Maps {
    Maps::read(i32::try_from(child.id()).expect("process numbers are small"))
        .expect("a child can be looked at")
}

/// What a user would write for these addresses.
fn offsets(maps: &Maps, places: &[u64]) -> Vec<ProbeSpec> {
    let mapping = maps::find(maps, places[0]).expect("they lie in a mapping");
    let offset = |&place| mapping.file_offset(place).expect("they lie in one mapping");
    let offsets = places.iter().map(offset);
    offsets.map(|offset| ProbeSpec::number(OBJECT, offset)).collect()
}

/// The addresses of so many instructions of the object that can be probed.
fn places(maps: &Maps, count: usize) -> Vec<u64> {
    let named = |name: &std::path::Path| name.file_name().is_some_and(|name| name == OBJECT);
    let code = maps.iter().find(|mapping| {
        mapping.perms.contains(Permissions::EXECUTE) && mapping.path.as_deref().is_some_and(named)
    });
    let code = code.expect("cat has mapped the C library");
    let elf = Elf::open(code.path.as_deref().expect("it has a path")).expect("the C library is an ELF file");
    let ranges = elf.code().iter();
    let all = ranges.flat_map(|range| of_range(&elf, range, Processor::host()));
    let fit = all.filter(|instruction: &Instruction| instruction.displaced.is_ok());
    let places = fit.filter_map(|instruction| code.address_of(elf.offset_of_address(instruction.address)?));
    let places: Vec<u64> = places.take(count).collect();
    assert_eq!(places.len(), count, "{OBJECT} has too few instructions");
    places
}

/// Memory that this process has to itself, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("a process can read its own status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux has it");
    let kilobytes = line.trim().trim_end_matches(" kB").parse::<u64>().expect("it is a number");
    kilobytes * 1024
}

/// The time that this process has had processors for: others may want them, too.
fn spent() -> Duration {
    let spent = nix::time::clock_gettime(nix::time::ClockId::CLOCK_PROCESS_CPUTIME_ID);
    Duration::from(spent.expect("every process has that clock"))
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let start = spent();
    let result = work();
    (result, spent() - start)
}

/// Measures one way to place `count` probes, says what it cost, and returns whether that was little enough.
fn measure(name: &str, count: usize) -> bool {
    let mut child = start();
    let maps = maps_of(&child);
    let places: Arc<[u64]> = places(&maps, count).into();
    let objects = Arc::new(Objects::default());
    let offsets = offsets(&maps, &places);
    // The files are read here, which is no part of placing.
    let first = Resolver::new(offsets[0].clone(), Arc::clone(&objects));
    first.locate(&maps).expect("the first can be found");
    let mut session = Session::attach(maps.pid()).expect("a child can be traced");
    let before = resident();
    let (probes, placing) = timed(|| match name {
        SITES => vec![session.probe(Known(Arc::clone(&places)), |_| Action::Continue).ok()],
        PROBES => {
            let each = places.iter().map(|&place| (Address(place), |_: &mut Hit<'_>| Action::Continue));
            all(session.probe_all(each))
        }
        _ => {
            let resolved = |spec| Resolver::new(spec, Arc::clone(&objects));
            let each = offsets.iter().cloned().map(resolved);
            all(session.probe_all(each.map(|each| (each, |_: &mut Hit<'_>| Action::Continue))))
        }
    });
    let bytes = resident().saturating_sub(before) / count as u64;
    let probes: Vec<ProbeId> = probes.into_iter().flatten().collect();
    let sites: usize =
        probes.iter().map(|&id| session.report(id).map_or(0, |report| report.sites.len())).sum();
    assert!(sites * 100 > count * 99, "only {sites} of {count} were placed");
    let ((), removing) = timed(|| probes.into_iter().for_each(|id| session.remove(id)));
    let ((), detaching) = timed(|| drop(session));
    child.kill().expect("it runs until it is killed");
    child.wait().expect("it is a child");
    println!(
        "{count} {name}: placing {placing:.3?}, removing {removing:.3?}, detaching {detaching:.3?}, {bytes} bytes each"
    );
    let limit = AT_MOST.mul_f64(count as f64 / COUNT as f64).max(Duration::from_millis(100));
    placing <= limit && removing + detaching <= limit
}

fn all(placed: Result<Vec<Result<ProbeId, ProbeError>>, ProbeError>) -> Vec<Option<ProbeId>> {
    placed.expect("the mappings can be read").into_iter().map(Result::ok).collect()
}

fn main() {
    // Each in a process of its own, so that none finds memory that another has left.
    if let Ok(name) = env::var(MEASURED) {
        let count = env::args().skip(1).find_map(|argument| argument.parse().ok());
        std::process::exit(i32::from(!measure(&name, count.unwrap_or(COUNT))));
    }
    let program = env::current_exe().expect("this program has a path");
    let kept = |name: &&str| {
        let measured = Command::new(&program).args(env::args().skip(1)).env(MEASURED, name).status();
        measured.expect("this program can be started again").success()
    };
    let slow: Vec<&str> = [SITES, PROBES, NAMED].into_iter().filter(|name| !kept(name)).collect();
    assert!(slow.is_empty(), "more than {AT_MOST:?} for {COUNT}: {slow:?}");
}
