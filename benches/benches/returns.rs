//! What it costs to follow a call to its return, against two plain hits at the same two places, in one run.
//!
//! The target is this program itself, started again.

#![allow(unsafe_code, reason = "the target makes the call that is measured, from one place")]

use std::arch::asm;
use std::env;
use std::io::Write;
use std::time::{Duration, Instant};

use probe::locate::Address;
use probe::{Action, Session, Site};

/// How long each is measured at a time, and how often.
const TIME: Duration = Duration::from_millis(300);
const ROUNDS: usize = 9;
/// Says to this program that it is the target.
const TARGET: &str = "STEPLESS_BENCH_RETURNS";

/// Calls a function that begins with an instruction of registers alone, as does what is behind the call; returns the
/// address of the function, behind which that is.
#[inline(never)]
fn call() -> u64 {
    let function: u64;
    // SAFETY: only the registers that are named change; the stack pointer is aligned for no one, as nothing is called
    // that needs it, and the red zone is left out.
    unsafe {
        asm!(
            "lea {function}, [rip + 2f]",
            "sub rsp, 128",
            "jmp 3f",
            "2: xor eax, eax",
            "ret",
            "3: call 2b",
            "mov ecx, eax",
            "add rsp, 128",
            function = out(reg) function,
            out("rax") _,
            out("rcx") _,
        );
    }
    function
}

/// How many bytes behind the start of the function its call returns to.
const BEHIND: u64 = 2 + 1 + 5;

fn target() -> ! {
    let mut out = std::io::stdout();
    writeln!(out, "{}", call()).and_then(|()| out.flush()).expect("the benchmark reads this");
    loop {
        call();
    }
}

/// What the target has at both places.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Followed,
}

/// Both places, for one plain probe.
struct Both(u64);

impl probe::Locate for Both {
    fn locate(&self, _: &probe::maps::Maps) -> Result<Vec<Site>, probe::LocateError> {
        Ok([self.0, self.0 + BEHIND].map(|address| Site { address }).into())
    }
}

/// How long a call takes, in nanoseconds.
fn measured(way: Way) -> f64 {
    let (mut child, address) = benches::start_again(TARGET, "");
    let pid = i32::try_from(child.id()).expect("the kernel's process numbers are small");
    let mut session = Session::attach(pid).expect("a child can be traced");
    let probe = match way {
        Way::Plain => session.probe_together(Both(address), |_: &mut _| Action::Continue),
        Way::Followed => {
            session.probe_calls_together(Address(address), |_| Some(()), |_, _| Action::Continue)
        }
    };
    let probe = probe.expect("the function can be probed");
    let calls = |session: &Session| {
        let report = session.report(probe).expect("it is a probe of the session");
        report.returns.map_or(report.counters.emulated / 2, |returns| returns.hits)
    };
    session.run_for(Duration::from_millis(50));
    let (before, start) = (calls(&session), Instant::now());
    session.run_for(TIME);
    let time = start.elapsed().as_nanos() as f64 / (calls(&session) - before) as f64;
    drop(session);
    child.kill().expect("the target runs until it is killed");
    child.wait().expect("it is a child");
    time
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() {
    if env::var(TARGET).is_ok() {
        target();
    }
    let (mut plain, mut followed) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(measured(Way::Plain));
        followed.push(measured(Way::Followed));
    }
    let (plain, followed) = (median(plain), median(followed));
    println!("a call with two plain hits takes {plain:.0} ns, one that is followed {followed:.0} ns");
    println!("following costs {:.2} times what two plain hits cost", followed / plain);
}
