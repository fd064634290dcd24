//! The arguments of each command.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::inject::Inject;
use crate::step::Stepping;
use crate::trace::what::{parse_duration, parse_sample};

const PROBES: &str = "\
PROBE is one of
  OBJECT:NAME[+OFF]  an instruction of a function; OBJECT is a path, a file name or a SONAME
  OBJECT:PATTERN     the start of each function that matches, a probe of each; * stands for any letters, ? for one
  OBJECT:NAME/*      each instruction of a function, or of those that match
  OBJECT:0xNUMBER    a file offset, or an address as list, nm and objdump print it
  0xADDR             an address in the process, with -p
  usdt:OBJECT:PROVIDER:NAME     a probe of the program's author, with arg1, arg2 and so on; names may be patterns
  p[:[GROUP/]EVENT] PATH:OFFSET[%return][(COUNTER)] [NAME=FETCH[:TYPE]]...
                     a line of the kernel's uprobe_events; r in the place of p, or %return, means where it returns
NAME is a linker's or the author's: foo, foo(int), _Z3fooi, app::Cart::total, main.(*T).Add, memcpy@GLIBC_2.14. A name
that is there comes before a pattern; in quotes, '...', it means itself.";

/// Probes any user-space instruction of a Linux/x86-64 process by emulating it.
#[derive(Debug, Parser)]
#[command(name = "stepless", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print one event per hit, and a summary at the end.
    #[command(after_help = PROBES)]
    Trace(Tracing),
    /// Count hits, and print only the summary.
    #[command(after_help = PROBES)]
    Stat(Tracing),
    /// Print each instruction from a hit on, with what it changes, as a tree of calls.
    #[command(after_help = PROBES)]
    Step(Stepping),
    /// Change what functions get, return or do, and print what was changed.
    #[command(after_help = PROBES, mut_arg("probes", |probes| probes.required(false)))]
    Inject(Box<Inject>),
    /// List the functions of a file or a process, or their instructions.
    ///
    /// Each line has the address before relocation, the file offset, the size in bytes, the names, and the line of the source
    /// where debug information has it. Behind `OBJECT:`, -e takes the first name, the address and the offset.
    List(List),
    /// Say what one instruction does, or why it cannot be probed.
    #[command(after_help = PROBES)]
    Explain(Explain),
    /// Count how many of the instructions in files can be probed.
    Census(Census),
    /// Find out which lines, blocks or instructions are executed.
    Cover(crate::cover::Cover),
    /// Find out who changes a variable, or the value of any expression.
    Watch(crate::watch::Arguments),
    /// Write manual pages into a directory.
    Man(Man),
    /// Print a script by which a shell completes the arguments.
    Completions(Completions),
}

/// The version, as `--version` prints it.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Where stepless.1 and the others go.
    #[arg(value_name = "DIRECTORY")]
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell.
    #[arg(value_name = "SHELL")]
    pub(crate) shell: clap_complete::Shell,
}

/// What `trace` and `stat` have in common.
#[derive(Debug, Args)]
pub(crate) struct Tracing {
    /// Where to probe; may be given more than once.
    #[arg(short = 'e', value_name = "PROBE", required = true)]
    pub(crate) probes: Vec<String>,
    /// A running process to probe, or all that are called NAME or run a program of that name; may be given more than
    /// once.
    #[arg(short, value_name = "PID|NAME", allow_hyphen_values = true)]
    pub(crate) pid: Vec<String>,
    /// Only hits of this thread; may be given more than once. Names its process, too, where there is no -p.
    #[arg(long, value_name = "TID")]
    pub(crate) tid: Vec<i32>,
    /// Print JSON: one line per event, or one document.
    #[arg(long, conflicts_with = "format")]
    pub(crate) json: bool,
    /// How to print.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(crate) format: Format,
    /// Print to FILE rather than to stdout (with -p) or stderr (with a command).
    #[arg(short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Show the stack of each hit, with N functions at most; of stat, count the stacks.
    #[arg(
        long, value_name = "N", num_args = 0..=1, default_missing_value = "128",
        value_parser = clap::value_parser!(u16).range(1..=MOST_FRAMES)
    )]
    pub(crate) stack: Option<u16>,
    /// Of stat: count which values EXPRESSION has at the hits, by powers of two; `duration` is how long a call has taken,
    /// in nanoseconds, of a probe with %return.
    #[arg(long = "histogram", value_name = "EXPRESSION")]
    pub(crate) histograms: Vec<String>,
    /// What happens to hits when what reads them is slower.
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = OnFull::Wait)]
    pub(crate) on_full: OnFull,
    /// Take symbols and debug information from FILE where it is the debug file of an object, wherever it lies; may be
    /// given more than once.
    #[arg(long, value_name = "FILE")]
    pub(crate) debug_file: Vec<PathBuf>,
    /// Probe the processes that the target starts, too.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Change no byte of the target's text: probe by hardware breakpoints, of which a thread has four.
    #[arg(long)]
    pub(crate) hardware: bool,
    /// Stop probing after N hits.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Only hits for which EXPRESSION is not 0, such as 'size > 4096 && comm == "python3"'.
    #[arg(long = "if", value_name = "EXPRESSION")]
    pub(crate) condition: Option<String>,
    /// Show all parameters and local variables, by debug information.
    #[arg(long = "vars")]
    pub(crate) variables: bool,
    /// Print TEXT for each hit, with values in braces: 'x={x} name={p->name}'.
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["json", "format"])]
    pub(crate) format_event: Option<String>,
    /// Of N hits, take one; the others count as filtered.
    #[arg(long, value_name = "1/N", value_parser = parse_sample)]
    pub(crate) sample: Option<NonZeroU64>,
    /// Stop probing after TIME, such as 10s, 500ms or 5m.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// Kill CMD when stepless ends, however that comes about. Otherwise CMD runs on without probes.
    #[arg(long, conflicts_with = "pid")]
    pub(crate) kill_with: bool,
    /// The command to start and probe, after `--`.
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

impl Tracing {
    /// Whether running processes are to be probed, rather than a command.
    pub(crate) fn attaches(&self) -> bool {
        !self.pid.is_empty() || !self.tid.is_empty()
    }

    /// What `--json` and `--format` say together.
    pub(crate) fn format(&self) -> Format {
        if self.json { Format::Json } else { self.format }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A line for people.
    Text,
    /// A line of JSON.
    Json,
    /// A trace that the Perfetto viewer opens: binary, with calls of probes with %return as slices.
    Perfetto,
    /// Stacks with how often they were seen, as flame graph tools read them.
    Folded,
    /// Calls as a tree, with how long each has taken.
    Tree,
}

/// What happens when hits come faster than what is printed of them is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnFull {
    /// The target waits.
    Wait,
    /// What there is no room for is dropped, and counted.
    Drop,
}

/// The most functions of a stack.
pub(crate) const MOST_FRAMES: i64 = 500;
/// So many without a word.
pub(crate) const FRAMES: u16 = 128;

#[derive(Debug, Args)]
pub(crate) struct List {
    /// An executable or shared object; with -p, a pattern of function names.
    #[arg(value_name = "FILE", required_unless_present = "pid")]
    pub(crate) file: Option<OsString>,
    /// Only functions whose name, mangled or not, matches: * stands for any letters, ? for one.
    #[arg(value_name = "GLOB", conflicts_with = "pid")]
    pub(crate) glob: Option<String>,
    /// List what a running process has mapped, or all have that are called NAME or run a program of that name; may be given
    /// more than once.
    #[arg(short, value_name = "PID|NAME", allow_hyphen_values = true)]
    pub(crate) pid: Vec<String>,
    /// Take symbols and debug information from FILE where it is the debug file of an object, wherever it lies; may be
    /// given more than once.
    #[arg(long, value_name = "FILE")]
    pub(crate) debug_file: Vec<PathBuf>,
    /// List each instruction, and whether it can be probed.
    #[arg(long)]
    pub(crate) instructions: bool,
    /// List only the instructions that cannot be probed.
    #[arg(long)]
    pub(crate) refused: bool,
    /// List USDT probes: address, file offset, semaphore, PROVIDER:NAME, arguments. GLOB is about NAME or PROVIDER:NAME.
    #[arg(long, conflicts_with_all = ["instructions", "refused"])]
    pub(crate) usdt: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The instruction's place in a process.
    #[arg(value_name = "PROBE", required_unless_present = "bytes", requires = "pid")]
    pub(crate) probe: Option<String>,
    /// The process.
    #[arg(short, value_name = "PID", requires = "probe", conflicts_with = "bytes")]
    pub(crate) pid: Option<i32>,
    /// The instruction's bytes in hexadecimal.
    #[arg(long, value_name = "HEX", conflicts_with = "probe")]
    pub(crate) bytes: Option<String>,
    /// The address of the bytes.
    #[arg(long, value_name = "ADDR", requires = "bytes")]
    pub(crate) ip: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Census {
    /// Executables, shared objects, and directories of them.
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// For which processor: the `host`'s, one with `all` features, or that of a FILE, which `conformance record` has
    /// written or which describes one as those do.
    #[arg(long, value_name = "host|all|FILE", default_value = "host")]
    pub(crate) processor: PathBuf,
    /// Print one JSON document.
    #[arg(long)]
    pub(crate) json: bool,
}
