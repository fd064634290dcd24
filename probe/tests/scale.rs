//! A hundred thousand probes are placed, hit and removed.

mod common;

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use common::{Function, compile};
use probe::locate::Address;
use probe::maps::Maps;
use probe::{Action, Hit, Locate, ProbeId, RunEnd, Session};

const PROBES: usize = 100_000;
/// So many of them, the last, are executed for each line.
const HITS: u64 = 12;
const INT3: u8 = 0xcc;

/// A process that executes some of its many instructions when it is told to.
struct Target {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    program: PathBuf,
    sites: Vec<u64>,
}

impl Target {
    fn start() -> Target {
        let program = compile("long", &[]);
        let mut child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut target = Target { child, input, output, program, sites: Vec::new() };
        assert_eq!(target.answer(), "ready\n");
        let sites = target.many().locate(&Maps::read(target.pid()).unwrap()).unwrap();
        target.sites = sites.iter().map(|site| site.address).collect();
        assert_eq!(target.sites.len(), PROBES);
        target
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap()
    }

    fn program(&self) -> &Path {
        &self.program
    }

    fn many(&self) -> Function {
        Function::whole(self.program(), "many")
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line
    }

    /// Has some instructions executed while `session` serves the process, and returns what came of it.
    fn serve(&mut self, session: &mut Session) -> String {
        let stop = session.stop_handle();
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                self.input.write_all(b"\n").unwrap();
                let answer = self.answer();
                stop.request();
                answer
            });
            assert_eq!(session.run_for(Duration::from_secs(60)), RunEnd::StopRequested);
            asked.join().unwrap()
        })
    }

    /// The text with all those instructions.
    fn text(&self) -> Vec<u8> {
        let (first, last) = (self.sites[0], self.sites[PROBES - 1]);
        let mut text = vec![0; usize::try_from(last - first).unwrap() + 1];
        let memory = File::open(format!("/proc/{}/mem", self.pid())).unwrap();
        memory.read_exact_at(&mut text, first).unwrap();
        text
    }

    /// The same with a breakpoint at each of them, and nothing else changed.
    fn probed(&self, text: &[u8]) -> Vec<u8> {
        let mut text = text.to_vec();
        for site in &self.sites {
            text[usize::try_from(site - self.sites[0]).unwrap()] = INT3;
        }
        text
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn proceed(_: &mut Hit<'_>) -> Action {
    Action::Continue
}

#[test]
fn a_probe_of_many_sites_is_placed_hit_and_removed() {
    let mut target = Target::start();
    let before = target.text();
    let mut session = Session::attach(target.pid()).unwrap();
    let id = session.probe(target.many(), proceed).unwrap();
    let placed =
        |session: &Session| session.report(id).map(|report| (report.sites.len(), report.refused.len()));
    assert_eq!(placed(&session), Some((PROBES, 0)));
    assert!(target.text() == target.probed(&before), "one byte of each site is another");
    assert_eq!(target.serve(&mut session), "10\n");
    assert_eq!(target.serve(&mut session), "20\n");
    let counters = session.report(id).unwrap().counters;
    assert_eq!((counters.hits, counters.emulated), (2 * HITS, 2 * HITS));
    session.remove(id);
    assert!(target.text() == before, "every byte is restored");
    assert_eq!(target.serve(&mut session), "30\n");
    assert_eq!(session.report(id).unwrap().counters, counters);
}

#[test]
fn many_probes_of_one_site_are_placed_hit_and_removed() {
    let mut target = Target::start();
    let before = target.text();
    let mut session = Session::attach(target.pid()).unwrap();
    // One of them names what cannot be: it is none, and is in nobody's way.
    let mut places: Vec<Address> = target.sites.iter().copied().map(Address).collect();
    places.insert(PROBES / 2, Address(8));
    let placed = session.probe_all(places.into_iter().map(|place| (place, proceed))).unwrap();
    let pending = placed[PROBES / 2].as_ref().unwrap();
    assert!(session.report(*pending).unwrap().pending.is_some());
    let ids: Vec<ProbeId> = placed.into_iter().map(Result::unwrap).collect();
    assert!(target.text() == target.probed(&before), "one byte of each site is another");
    assert_eq!(target.serve(&mut session), "10\n");
    let hits: Vec<u64> = ids.iter().map(|&id| session.report(id).unwrap().counters.hits).collect();
    let (never, once) = hits.split_at(hits.len() - HITS as usize);
    assert!(never.iter().all(|&hits| hits == 0));
    assert!(once.iter().all(|&hits| hits == 1), "{once:?}");
    // Half by hand, and the others when the target is left.
    for &id in ids.iter().step_by(2) {
        session.remove(id);
    }
    assert_eq!(target.serve(&mut session), "20\n");
    let all: u64 = ids.iter().map(|&id| session.report(id).unwrap().counters.hits).sum();
    assert_eq!(all, HITS + HITS / 2);
    drop(session);
    assert!(target.text() == before, "every byte is restored");
}
