//! Has the Nth allocation of a command fail: `inject 3 ls -l` is as if malloc(3) had found no memory the third time.
//!
//! Shows an injection as data, and what a handler can do by itself: each write(2) to the terminal is delayed a little, and
//! the thread that makes it is the only one that waits.

use std::error::Error;
use std::process::Command;
use std::time::Duration;

use probe::arguments::{Injection, Pick};
use probe::spec::ProbeSpec;
use probe::{Action, Hit, ProbeBuilder, RunEnd, Session};

/// `void *malloc(size_t size)`
const ALLOCATE: &str = "libc.so.6:malloc size=%di:u64";
/// `ssize_t write(int fd, const void *buffer, size_t count)`
const WRITE: &str = "libc.so.6:write";

/// Delays what goes to stdout or stderr.
fn slowly(hit: &mut Hit<'_>) -> Action {
    const RDI: usize = emu::registers::gpr::RDI;
    if matches!(hit.registers().gpr[RDI], 1 | 2) {
        hit.delay(Duration::from_millis(20));
    }
    Action::Continue
}

fn main() -> Result<(), Box<dyn Error>> {
    const USAGE: &str = "usage: inject N COMMAND [ARGUMENT...]";
    let mut arguments = std::env::args().skip(1);
    let number: u64 = arguments.next().ok_or(USAGE)?.parse()?;
    let mut command = Command::new(arguments.next().ok_or(USAGE)?);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    let out_of_memory = Injection::parse_errno("ENOMEM").ok_or("no such error")?;
    let probe: ProbeBuilder = ALLOCATE.parse()?;
    let probe = probe.injection(Injection::new().errno(out_of_memory)).pick(Pick::new().nth(number));
    session.inject(&probe, |hit, injected| match &injected.failed {
        Some(why) => eprintln!("thread {}: nothing was done: {why}", hit.tid()),
        None => {
            let changes = injected.changes.iter().map(|change| format!("{}={}", change.what, change.to));
            eprintln!(
                "thread {}, call {}: {}",
                hit.tid(),
                injected.number,
                changes.collect::<Vec<_>>().join(" ")
            );
        }
    })?;
    session.probe(WRITE.parse::<ProbeSpec>()?, slowly)?;
    if let RunEnd::Ended(Some(status)) = session.run() {
        eprintln!("{status}");
    }
    Ok(())
}
