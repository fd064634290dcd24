//! Has a command sleep for a hundredth of the time: `change_argument sleep 10` takes a tenth of a second.
//!
//! Shows how a handler reads and writes registers and memory of the thread that has reached the probe.

use std::error::Error;
use std::process::Command;

use emu::registers::gpr;
use probe::spec::ProbeSpec;
use probe::{Action, Hit, Session};

/// `int clock_nanosleep(clockid_t, int flags, const struct timespec *time, struct timespec *remaining)`
const FUNCTION: &str = "libc.so.6:clock_nanosleep";

/// Makes the time that the third argument points to shorter.
fn shorten(hit: &mut Hit<'_>) -> Action {
    let time = hit.registers().gpr[gpr::RDX];
    if let (Ok(seconds), Ok(nanoseconds)) = (hit.read_u64(time), hit.read_u64(time.wrapping_add(8))) {
        let total = (u128::from(seconds) * 1_000_000_000 + u128::from(nanoseconds)) / 100;
        let shorter = [(total / 1_000_000_000) as u64, (total % 1_000_000_000) as u64];
        let bytes: Vec<u8> = shorter.iter().flat_map(|word| word.to_le_bytes()).collect();
        if let Err(fault) = hit.write(time, &bytes) {
            eprintln!("thread {} keeps its time: {fault:?}", hit.tid());
        }
    }
    Action::Continue
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut command = Command::new(arguments.next().ok_or("usage: change_argument COMMAND [ARGUMENT...]")?);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    session.probe(FUNCTION.parse::<ProbeSpec>()?, shorten)?;
    session.run();
    Ok(())
}
