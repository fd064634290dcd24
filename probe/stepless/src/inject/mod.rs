//! `stepless inject`: what functions get, return or do is changed, once, each time, or by chance.

mod plan;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use nix::sys::signal::Signal;
use probe::arguments::{Injection, Pick};

use crate::Failure;
use crate::args::{Format, Tracing};
use crate::trace::{self, Mode, what::parse_duration};

#[derive(Debug, Args)]
pub(crate) struct Inject {
    #[command(flatten)]
    tracing: Tracing,
    #[command(flatten)]
    what: What,
    /// Also what stands in FILE, of TOML: a table [[inject]] for each probe, with the options' names as keys. May be given
    /// more than once.
    #[arg(long, value_name = "FILE", help_heading = HEADING)]
    plan: Vec<PathBuf>,
}

const HEADING: &str = "What to do";

/// What is to be done at the hits of the probes of the command line.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = HEADING)]
struct What {
    /// Have the function return VALUE, an expression: at once, if the probe is at its first instruction; in place of its
    /// result, with %return. At a system call instruction, do not enter the kernel.
    #[arg(long = "return", value_name = "VALUE", allow_hyphen_values = true)]
    result: Option<String>,
    /// Have the function fail: set the thread's errno to NAME, as ENOSPC, and return what says so, -1 or NULL. A system call
    /// instruction returns what the kernel would.
    #[arg(long, value_name = "NAME", value_parser = parse_errno)]
    errno: Option<i32>,
    /// Set a register, a variable or memory: '%di=0', 'n=n+1', 'p->len=0', '*0x4010=1'. May be given more than once; all
    /// values are those before the first change.
    #[arg(long, value_name = "TARGET=VALUE")]
    set: Vec<String>,
    /// Have the thread wait, and no other, such as 10ms.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    delay: Option<Duration>,
    /// Send the thread a signal, as SIGUSR1.
    #[arg(long, value_name = "SIG", value_parser = parse_signal)]
    signal: Option<i32>,
    /// Leave the instruction out.
    #[arg(long)]
    skip: bool,
    /// Only at the hit with this number, from 1, of those for which the condition holds; with --every, from there on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    nth: Option<u64>,
    /// Only at one of N hits: without --nth the Nth, the 2Nth and so on.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    every: Option<u64>,
    /// Only by chance: at as many hits as P says, more than 0 and at most 1.
    #[arg(long, value_name = "P", value_parser = parse_probability, requires = "seed")]
    probability: Option<f64>,
    /// What chance depends on: the same seed takes the same hits.
    #[arg(long, value_name = "S", requires = "probability")]
    seed: Option<u64>,
    /// Count the hits of each thread by itself.
    #[arg(long)]
    per_thread: bool,
}

/// One thing to do, where an error of it is, and what it is.
type Wrong = (Key, String);

/// What of [`What`] is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Result,
    /// The change with that number.
    Set(usize),
    All,
}

impl What {
    fn injection(&self) -> Result<Injection, Wrong> {
        let mut injection = Injection::new();
        if let Some(result) = &self.result {
            injection = injection.result(result).map_err(|error| (Key::Result, error.to_string()))?;
        }
        for (index, change) in self.set.iter().enumerate() {
            injection = injection.set(change).map_err(|error| (Key::Set(index), error.to_string()))?;
        }
        if let Some(errno) = self.errno {
            injection = injection.errno(errno);
        }
        if let Some(delay) = self.delay {
            injection = injection.delay(delay);
        }
        if let Some(signal) = self.signal {
            injection = injection.signal(signal);
        }
        if self.skip {
            injection = injection.skip();
        }
        if injection.is_empty() {
            const WHAT: &str = "inject what? give --return, --errno, --set, --delay, --signal or --skip";
            return Err((Key::All, WHAT.to_owned()));
        }
        Ok(injection)
    }

    fn pick(&self) -> Pick {
        let mut pick = Pick::new();
        if let Some(nth) = self.nth {
            pick = pick.nth(nth);
        }
        if let Some(every) = self.every {
            pick = pick.every(every);
        }
        if let Some(probability) = self.probability {
            pick = pick.probability(probability, self.seed.unwrap_or(0));
        }
        if self.per_thread { pick.per_thread() } else { pick }
    }

    /// Whether nothing was given.
    fn is_default(&self) -> bool {
        self.injection().is_err_and(|(key, _)| key == Key::All) && self.pick() == Pick::new()
    }
}

pub(crate) fn run(arguments: Inject) -> Result<ExitCode, Failure> {
    let Inject { mut tracing, what, plan } = arguments;
    if !matches!(tracing.format(), Format::Text | Format::Json) {
        return Err(Failure::new("inject prints text or JSON"));
    }
    let mut injections = Vec::new();
    if !tracing.probes.is_empty() {
        let injection = what.injection().map_err(|(_, error)| Failure::new(error))?;
        injections.resize(tracing.probes.len(), (injection, what.pick()));
    } else if !what.is_default() {
        return Err(Failure::new("inject where? give a probe by -e; a plan says what to do at its own"));
    }
    for path in &plan {
        for (probe, injection, pick) in plan::read(path)? {
            tracing.probes.push(probe);
            injections.push((injection, pick));
        }
    }
    if injections.is_empty() {
        return Err(Failure::new("inject where? give a probe by -e, or a --plan"));
    }
    trace::run_with(&tracing, Mode::Trace, &injections)
}

fn parse_errno(text: &str) -> Result<i32, String> {
    Injection::parse_errno(text)
        .ok_or_else(|| "write an error's name, such as ENOSPC, or its number".to_owned())
}

fn parse_probability(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|&number: &f64| number > 0.0 && number <= 1.0);
    number.ok_or_else(|| "write a number of more than 0 and at most 1".to_owned())
}

/// The number of a signal by its name, with or without SIG, or as a number.
fn parse_signal(text: &str) -> Result<i32, String> {
    const LAST: i32 = 64;
    if let Ok(number) = text.parse::<i32>() {
        let known = (1..=LAST).contains(&number);
        return if known { Ok(number) } else { Err(format!("signals have numbers from 1 to {LAST}")) };
    }
    let name = text.strip_prefix("SIG").unwrap_or(text);
    if let Some(behind) = name.strip_prefix("RTMIN+") {
        let number = behind.parse::<i32>().ok().and_then(|behind| libc::SIGRTMIN().checked_add(behind));
        if let Some(number) = number.filter(|number| (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(number)) {
            return Ok(number);
        }
    }
    let known = Signal::from_str(&format!("SIG{name}"));
    known
        .map(|signal| signal as i32)
        .map_err(|_| "write a signal's name, such as SIGUSR1, or its number".to_owned())
}

/// The name of a signal.
pub(crate) fn signal_name(signal: i32) -> String {
    match Signal::try_from(signal) {
        Ok(known) => known.as_str().to_owned(),
        Err(_) if signal >= libc::SIGRTMIN() => format!("SIGRTMIN+{}", signal - libc::SIGRTMIN()),
        Err(_) => signal.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names() {
        for (text, number) in
            [("SIGUSR1", 10), ("usr1", 0), ("USR1", 10), ("9", 9), ("SIGRTMIN+2", libc::SIGRTMIN() + 2)]
        {
            assert_eq!(parse_signal(text).unwrap_or(0), number, "{text}");
        }
        for text in ["", "0", "65", "SIG", "SIGRTMIN+99", "SIGRTMIN+-1", "SIGNOSUCH"] {
            assert!(parse_signal(text).is_err(), "{text}");
        }
        for number in [1, 9, 31, libc::SIGRTMIN(), 64] {
            assert_eq!(parse_signal(&signal_name(number)), Ok(number));
        }
    }

    #[test]
    fn probabilities_are_more_than_none() {
        assert_eq!(parse_probability("0.25"), Ok(0.25));
        for text in ["", "0", "-1", "1.1", "nan", "inf"] {
            assert!(parse_probability(text).is_err(), "{text}");
        }
    }
}
