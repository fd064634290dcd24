//! The program that is probed: this one, calling one small function again and again.

#![allow(unsafe_code, reason = "the probed instructions are written in assembly")]

use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::Clock;

/// A function whose first instruction is probed.
pub(crate) struct Site {
    pub(crate) symbol: &'static str,
    /// As the manual writes it.
    pub(crate) instruction: &'static str,
    function: unsafe extern "C" fn(*mut u64),
}

macro_rules! sites {
    ($($symbol:ident: $instruction:literal;)+) => {
        $(std::arch::global_asm!(
            concat!(".globl ", stringify!($symbol)),
            concat!(".type ", stringify!($symbol), ",@function"),
            concat!(stringify!($symbol), ":"),
            $instruction,
            "ret",
            concat!(".size ", stringify!($symbol), ", .-", stringify!($symbol)),
        );)+
        unsafe extern "C" { $(fn $symbol(place: *mut u64);)+ }
        pub(crate) const SITES: &[Site] = &[
            $(Site { symbol: stringify!($symbol), instruction: $instruction, function: $symbol }),+
        ];
    };
}

sites! {
    peers_nop: "nop";
    peers_move: "mov rax, rcx";
    peers_load: "mov rax, [rdi]";
    peers_store: "mov [rdi], rax";
    peers_modify: "add [rdi], rax";
    peers_packed: "paddd xmm0, xmm1";
}

/// This program, set to call `symbol` `calls` times.
pub(crate) fn command(symbol: &str, calls: u64) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--target", symbol, "--hits", &calls.to_string()]);
    Ok(command)
}

/// The same, set to write the nanoseconds of a call into the file `report`.
pub(crate) fn reporting(symbol: &str, calls: u64, report: &Path) -> io::Result<Command> {
    let mut command = command(symbol, calls)?;
    command.arg("--report").arg(report);
    Ok(command)
}

fn find(symbol: &str) -> Option<&'static Site> {
    SITES.iter().find(|site| site.symbol == symbol)
}

/// Where `symbol` is in this process.
pub(crate) fn address(symbol: &str) -> Option<u64> {
    find(symbol).map(|site| site.function as usize as u64)
}

/// Calls `symbol` `calls` times.
pub(crate) fn run(symbol: &str, calls: u64, report: Option<&Path>) -> ExitCode {
    let Some(site) = find(symbol) else {
        eprintln!("peers: there is no function {symbol}");
        return ExitCode::from(2);
    };
    let mut place = 0;
    let mut clock = Clock::default();
    for _ in 0..calls {
        // SAFETY: the functions follow the C calling convention, change only RAX, XMM0 and flags, and
        // access no memory but the eight bytes at their argument.
        unsafe { (site.function)(&raw mut place) };
        if report.is_some() {
            clock.tick();
        }
    }
    let Some(report) = report else { return ExitCode::SUCCESS };
    let written =
        clock.nanoseconds_per_hit(calls).and_then(|time| Ok(std::fs::write(report, time.to_string())?));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {}: {error}", report.display());
            ExitCode::from(2)
        }
    }
}
