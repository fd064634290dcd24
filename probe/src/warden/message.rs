//! What a client and its warden say to each other. A warden is started by the program that it serves, so that both
//! are of one version; that they are is the first thing that is said.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::engine::watch::{Watch, WatchReport};
use crate::symbols::coverage::{Coverage, Plan};
use crate::symbols::spec::ProbeSpec;
use crate::warden::news::{SentAttachError, SentReport, SystemError};
use crate::warden::program::{Fields, Program};
use crate::warden::totals::SentTotals;

/// To be changed with the meaning of any message or record.
pub(crate) const VERSION: u32 = 11;

/// Kinds of records in the ring.
pub(crate) mod kind {
    /// [`Record`](crate::warden::news::Record).
    pub(crate) const HIT: u8 = 1;
    /// [`Sent`](crate::warden::news::Sent), as bytes.
    pub(crate) const EVENT: u8 = 2;
    /// A hit that asks what to do.
    pub(crate) const ASK: u8 = 3;
    /// [`End`](super::End), as bytes: the last record.
    pub(crate) const END: u8 = 4;
    /// The duration in nanoseconds, and a [`Record`](crate::warden::news::Record).
    pub(crate) const RETURN: u8 = 5;
    /// A change of what is watched.
    pub(crate) const CHANGE: u8 = 6;
    /// [`StepRecord`](crate::warden::steps::StepRecord), as bytes.
    pub(crate) const STEP: u8 = 7;
    /// What was injected, and a hit or a return.
    pub(crate) const INJECTION: u8 = 8;
}

/// What a client asks for. Each is answered by one [`Reply`], in order, but for the last three.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Hello {
        version: u32,
    },
    Attach {
        pid: i32,
        follow: bool,
        tracers: u16,
        hardware: bool,
    },
    /// Traces a process that waits before exec.
    Seize {
        pid: i32,
        follow: bool,
        tracers: u16,
        hardware: bool,
        kill_with: bool,
    },
    /// Waits for the exec.
    Hatch,
    /// Probes, all of which are placed with one look at what the target has mapped.
    Probes(Vec<SentProbe>),
    /// A probe that covers.
    Cover {
        plan: Plan,
    },
    /// What that has found.
    Coverage {
        probe: u32,
    },
    Remove {
        probe: u32,
    },
    /// It is removed, and answered by what became of it.
    Forget {
        probe: u32,
    },
    /// What became of these probes.
    Reports {
        probes: Vec<u32>,
    },
    /// What was added up of them.
    Totals {
        probes: Vec<u32>,
    },
    Limit {
        hits: u64,
    },
    /// Watches the value of an expression, and records that of each change.
    Watch {
        watch: Box<Watch>,
        fields: Fields,
    },
    WatchReport {
        watch: u32,
    },
    /// Files that are looked at first where debug files are looked for.
    DebugFiles {
        paths: Vec<SentPath>,
    },
    /// Whether records are dropped when there is no room for them.
    WhenFull {
        drop: bool,
    },
    /// Has stops served from now on, also the first one of a program that was launched.
    Run,
    Kill,
    Leave,
    /// Writes what was kept back into the ring.
    Flush,
    /// Cuts short what is being done; the session is to be left next.
    End,
}

/// A probe that is to be placed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SentProbe {
    pub(crate) place: SentPlace,
    /// What is done at its hits.
    pub(crate) at: Program,
    /// What is done at the returns of the calls, which are followed then.
    pub(crate) on_return: Option<Program>,
}

/// What became of one that was to be placed.
pub(crate) type SentPlaced = Result<(u32, SentReport), String>;

/// Where a probe goes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum SentPlace {
    /// As it prints and is parsed.
    Spec {
        spec: String,
        /// The directory from which its paths start.
        base: SentPath,
    },
    Address(u64),
}

impl SentPlace {
    pub(crate) fn spec(spec: &ProbeSpec) -> SentPlace {
        let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        SentPlace::Spec { spec: spec.to_string(), base: SentPath::new(&base) }
    }
}

/// A path, which may be any bytes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SentPath(Vec<u8>);

impl SentPath {
    pub(crate) fn new(path: &Path) -> SentPath {
        SentPath(path.as_os_str().as_bytes().to_owned())
    }

    pub(crate) fn into_path(self) -> PathBuf {
        OsString::from_vec(self.0).into()
    }
}

/// An answer to a [`Request`].
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    Done,
    /// The process that is traced.
    Attached {
        pid: i32,
    },
    /// What a program that was launched is like; `None` if it has ended instead.
    Hatched(Option<Hatched>),
    CannotAttach(SentAttachError),
    /// Of each probe its number, and what became of it, or why it was not placed.
    Placed(Vec<SentPlaced>),
    Reports(Vec<Option<SentReport>>),
    Totals(Vec<Option<SentTotals>>),
    Coverage(Option<Box<Coverage>>),
    Watched {
        watch: u32,
    },
    NotWatched {
        reason: String,
    },
    WatchReport(Option<WatchReport>),
    /// How the target ended, as far as it is known.
    Left {
        status: Option<i32>,
    },
    /// The request makes no sense now.
    Refused(String),
}

/// A program that is about to start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Hatched {
    pub(crate) entry: Option<u64>,
    pub(crate) inaccessible: Option<(i32, SystemError)>,
}

/// Why no probe is served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum End {
    /// No process is left; the raw wait status of the target.
    Ended(Option<i32>),
    /// A program, or an answer, has asked for it.
    Stopped,
}

/// What a client puts into the slot of a question.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Verdict {
        action: Verdict,
        /// All of them, if any was changed.
        registers: Option<Box<SentRegisters>>,
        filtered: bool,
    },
    Read {
        address: u64,
        length: u32,
    },
    Write {
        address: u64,
        bytes: Vec<u8>,
    },
}

/// What the warden puts there in return.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Data {
    /// The bytes as far as they could be read.
    Bytes(Vec<u8>),
    /// The first address that could not be written, if any.
    Written(Option<u64>),
}

/// [`Action`](crate::Action) on its way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Verdict {
    Continue,
    Skip,
    GoTo(u64),
    Remove,
    Stop,
}

/// [`GeneralRegisters`](crate::GeneralRegisters) on their way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SentRegisters {
    pub(crate) gpr: [u64; 16],
    pub(crate) rip: u64,
    pub(crate) rflags: u64,
    pub(crate) fs_base: u64,
    pub(crate) gs_base: u64,
    pub(crate) segment: [u16; 6],
}
