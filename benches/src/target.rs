//! The program that is probed: this one, calling one small function again and again.

#![allow(unsafe_code, reason = "the probed instructions are written in assembly")]

use std::io;
use std::process::{Command, ExitCode};

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

/// Calls `symbol` `calls` times.
pub(crate) fn run(symbol: &str, calls: u64) -> ExitCode {
    let Some(site) = SITES.iter().find(|site| site.symbol == symbol) else {
        eprintln!("peers: there is no function {symbol}");
        return ExitCode::from(2);
    };
    let mut place = 0;
    for _ in 0..calls {
        // SAFETY: the functions follow the C calling convention, change only RAX, XMM0 and flags, and
        // access no memory but the eight bytes at their argument.
        unsafe { (site.function)(&raw mut place) };
    }
    ExitCode::SUCCESS
}
