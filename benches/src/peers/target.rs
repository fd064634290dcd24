//! The program that is probed: this one, calling one small function again and again.

#![allow(unsafe_code, reason = "the probed instructions are written in assembly")]

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use crate::Failure;
use crate::instructions::{COUNTED, LOOP, counted, for_ever};
use crate::own::{self, Own};

/// A function whose first instruction is probed.
pub(crate) struct Site {
    pub(crate) symbol: &'static str,
    /// As the manual writes it.
    pub(crate) instruction: &'static str,
    /// Whether this processor has it.
    pub(crate) runs: fn() -> bool,
    function: Function,
}

/// It takes RDI, RCX, XMM0 and XMM1.
type Function = unsafe extern "C" fn(*mut u64, u64, u64, u64, f64, f64);

macro_rules! sites {
    ($($symbol:ident $(if $feature:tt)?: $instruction:literal $(, $rest:literal)?;)+) => {
        $(std::arch::global_asm!(
            // Room for whatever somebody writes there, and no other function in it.
            ".p2align 5, 0xcc",
            concat!(".globl ", stringify!($symbol)),
            concat!(".type ", stringify!($symbol), ",@function"),
            concat!(stringify!($symbol), ":"),
            $instruction,
            $($rest,)?
            "ret",
            concat!(".size ", stringify!($symbol), ", .-", stringify!($symbol)),
            ".p2align 5, 0xcc",
        );)+
        unsafe extern "C" { $(fn $symbol(place: *mut u64, _: u64, _: u64, number: u64, a: f64, b: f64);)+ }
        pub(crate) const SITES: &[Site] = &[
            $(Site {
                symbol: stringify!($symbol),
                instruction: $instruction,
                runs: || true $(&& is_x86_feature_detected!($feature))?,
                function: $symbol,
            }),+
        ];
    };
}

sites! {
    peers_nop: "nop";
    peers_nop5: "nop dword ptr [rax + rax + 0x8]";
    peers_move: "mov rax, rcx";
    peers_load: "mov rax, [rdi]";
    peers_store: "mov [rdi], rax";
    peers_push: "push rbp", "pop rbp";
    peers_modify: "add [rdi], rax";
    peers_locked: "lock add [rdi], rax";
    peers_packed: "paddd xmm0, xmm1";
    peers_wide if "avx2": "vpaddd ymm0, ymm0, ymm1", "vzeroupper";
    peers_upper if "avx": "vinsertf128 ymm0, ymm0, xmm0, 1", "vzeroupper";
    peers_immediate: "mov eax, 0x12345678";
    peers_add: "add rax, 0x12345678";
    peers_entry: "endbr64", "push rbp; mov rbp, rsp; pop rbp";
}

/// What this program is started again for.
#[derive(clap::Args)]
pub(crate) struct Target {
    /// Runs the function of this name instead; what the rows probe.
    #[arg(long = "target", hide = true, value_name = "NAME")]
    pub(crate) symbol: Option<String>,
    /// Where that writes how long a call took, in nanoseconds.
    #[arg(long, hide = true, value_name = "FILE", requires = "symbol")]
    report: Option<std::path::PathBuf>,
    /// By so many threads at once.
    #[arg(long, hide = true, value_name = "N", default_value_t = 1)]
    threads: u64,
    /// Does not end after that.
    #[arg(long, hide = true)]
    stay: bool,
    /// Writes a line when it is done.
    #[arg(long, hide = true)]
    ready: bool,
    /// Probes itself, and writes how often that was hit.
    #[arg(long, hide = true, value_enum)]
    own: Option<Own>,
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

/// The same, which calls it once, and then sleeps until it is killed.
pub(crate) fn sleeping() -> Result<Child, Failure> {
    let mut child = command("peers_move", 1)?.args(["--stay", "--ready"]).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
    said.ok_or("it has no output")??;
    Ok(child)
}

/// The function of that name.
pub(crate) fn find(symbol: &str) -> Option<&'static Site> {
    SITES.iter().find(|site| site.symbol == symbol)
}

/// Where `symbol` is in this process.
pub(crate) fn address(symbol: &str) -> Option<u64> {
    find(symbol).map(|site| site.function as usize as u64)
}

impl Site {
    fn call(&self, times: u64) {
        for number in 0..times {
            // What changes nothing would have nothing stored.
            let mut place = number;
            // SAFETY: the functions follow the C calling convention, change only RAX, XMM0 and flags, and
            // access no memory but the eight bytes at their argument and those below their stack pointer.
            unsafe { (self.function)(&raw mut place, 0, 0, number, number as f64, 1.0) };
        }
    }
}

/// Calls the function `calls` times, by each thread, and reports how long one of all these took.
pub(crate) fn run(target: &Target, symbol: &str, calls: u64) -> ExitCode {
    if symbol == LOOP {
        for_ever();
    }
    if symbol == COUNTED {
        counted(calls, target.threads > 1);
        return ExitCode::SUCCESS;
    }
    let Some(site) = find(symbol) else {
        eprintln!("peers: there is no function {symbol}");
        return ExitCode::from(2);
    };
    let probed = match target.own.map(|own| own::begin(own, site.function as usize as u64)).transpose() {
        Ok(probed) => probed,
        Err(error) => {
            eprintln!("peers: {error}");
            return ExitCode::from(2);
        }
    };
    // The first call is no part of it: that is where peers get ready.
    site.call(1);
    let start = Instant::now();
    let rest = calls.saturating_sub(1);
    thread::scope(|scope| {
        for _ in 1..target.threads {
            scope.spawn(|| site.call(rest));
        }
        site.call(rest);
    });
    let time = start.elapsed().as_nanos() as f64 / (rest * target.threads).max(1) as f64;
    if let Some(probed) = probed {
        println!("{}", probed.end());
    }
    let written = target.report.as_ref().map_or(Ok(()), |report| std::fs::write(report, time.to_string()));
    if let Err(error) = written {
        eprintln!("peers: {error}");
        return ExitCode::from(2);
    }
    if target.ready {
        println!("ready");
    }
    if target.stay {
        loop {
            thread::park();
        }
    }
    ExitCode::SUCCESS
}
