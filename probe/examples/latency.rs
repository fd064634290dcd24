//! How long a function takes, as a histogram: `cargo run --release -p probe --example latency -- libc.so.6:malloc ls`.

use std::error::Error;
use std::process::Command;
use std::sync::{Arc, Mutex};

use probe::spec::ProbeSpec;
use probe::{Action, Session};

/// By powers of two, in nanoseconds.
type Histogram = [u64; 64];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(function), Some(program)) = (arguments.next(), arguments.next()) else {
        return Err("give a function, OBJECT:NAME, and a command".into());
    };
    let function: ProbeSpec = function.to_string_lossy().parse()?;
    let mut command = Command::new(program);
    command.args(arguments);
    let mut session = Session::launch(command)?;
    let histogram: Arc<Mutex<Histogram>> = Arc::new(Mutex::new([0; 64]));
    let counted = Arc::clone(&histogram);
    let probe = session.probe_calls(
        function,
        // Nothing is handed over from the entry to the return, but the call is followed.
        |_| Some(()),
        move |_, call| {
            if let Ok(mut histogram) = counted.lock()
                && let Some(count) = histogram.get_mut(call.duration_ns.max(1).ilog2() as usize)
            {
                *count += 1;
            }
            Action::Continue
        },
    )?;
    session.run();
    if let Ok(histogram) = histogram.lock() {
        print(&histogram);
    }
    if let Some(returns) = session.report(probe).and_then(|report| report.returns) {
        println!("{} returns, {} calls left without one", returns.hits, returns.dropped);
    }
    Ok(())
}

fn print(histogram: &Histogram) {
    const WIDTH: u64 = 50;
    let most = histogram.iter().copied().max().unwrap_or(0).max(1);
    let counts = histogram.iter().zip(0u32..).filter(|&(&count, _)| count > 0);
    for (&count, power) in counts {
        let bar = "#".repeat((count * WIDTH / most) as usize);
        println!("{:>12} ns and more {count:>9} {bar}", 1u64 << power);
    }
}
