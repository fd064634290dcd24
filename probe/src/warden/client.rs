//! The client's side: asks a warden, and hears of what it has to tell.

mod hear;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hear::{Affinity, Found};

use crate::arguments::Binding;
use crate::engine::hit::{Action, ProbeId};
use crate::engine::session::{RunEnd, SessionOptions};
use crate::engine::watch::{Watch, WatchId, WatchReport};
use crate::error::AttachError;
use crate::executor::ptrace::sys;
use crate::symbols::spec::ProbeSpec;
use crate::target::launch::Embryo;
use crate::target::lower;
use crate::target::procfs;
use crate::warden::asked::Asked;
use crate::warden::changes::WatchBindings;
use crate::warden::message::{End, Reply, Request, SentPath, SentPlace, SentProbe, VERSION};
use crate::warden::news::{News, Report, WardenError};
use crate::warden::program::{Fields, Program, Step};
use crate::warden::ring::{Reader, Ring};
use crate::warden::shared;
use crate::warden::socket::Socket;
use crate::warden::totals::{Modules, SentTotals, Totals};

/// Where a probe goes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// What a user writes. Its paths start in the client's current directory.
    Spec(ProbeSpec),
    /// An address, the same in every process.
    Address(u64),
}

impl From<ProbeSpec> for Place {
    fn from(spec: ProbeSpec) -> Place {
        Place::Spec(spec)
    }
}

impl From<Place> for SentPlace {
    fn from(place: Place) -> SentPlace {
        match place {
            Place::Spec(spec) => SentPlace::spec(&spec),
            Place::Address(address) => SentPlace::Address(address),
        }
    }
}

type Observer = Box<dyn FnMut(News)>;
type Handler = Box<dyn FnMut(&mut Asked<'_>) -> Action>;

/// A target that is traced by a warden, a process of its own.
///
/// Once the client's process vanishes, however that comes about, or once this is dropped, the warden leaves the target as
/// [`Session::leave`](crate::Session::leave) does: it is as if nobody had probed it. One that was launched is a child
/// of the client's process all the same.
///
/// The target is served from the first [`Client::run`] on, and from then on at any time, until it is left.
/// News wait in a ring until they are read, by `run` or while another request is waited for; when that is full, hits
/// with news wait, and those that only count do not. While the client's process is stopped (SIGSTOP, SIGTSTP), none
/// waits: news are dropped, and [`News::Lost`] tells how many.
pub struct Client {
    socket: Arc<Socket>,
    ring: Ring,
    reader: Reader,
    warden: Child,
    wake: UnixStream,
    stop: ClientStop,
    replies: VecDeque<Reply>,
    observer: Option<Observer>,
    /// By the number of the probe.
    handlers: HashMap<usize, Handler>,
    /// That of a probe which is being placed, so that its number is not known yet.
    next_handler: Option<Handler>,
    /// By the number of a part: that of the probe which it is a part of.
    parts: HashMap<usize, usize>,
    /// By the number of the probe: what became of it when it was placed.
    placed: HashMap<usize, Report>,
    /// What the arguments of a probe come to, by the numbers of both. Those of parts are the whole's.
    bindings: HashMap<(usize, u32), Arc<Binding>>,
    /// The same of watches.
    watch_bindings: WatchBindings,
    modules: Modules,
    end: Option<End>,
    lost: u64,
    affinity: Affinity,
    target: i32,
    launched: bool,
    started: bool,
    entry: Option<u64>,
    inaccessible: Option<(i32, io::Error)>,
    status: Option<ExitStatus>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Client");
        debug.field("target", &self.target).field("warden", &self.warden.id()).finish_non_exhaustive()
    }
}

/// Asks a client to return from [`Client::run`], from any thread or signal handler.
#[derive(Clone, Debug)]
pub struct ClientStop {
    requested: Arc<AtomicBool>,
    wake: Arc<UnixStream>,
    socket: Arc<Socket>,
}

impl ClientStop {
    /// Asks. Async-signal-safe. A request made while the client does not run counts for its next run.
    pub fn request(&self) {
        self.requested.store(true, Ordering::SeqCst);
        // Where there is no room, it is about to wake already.
        let _ = (&*self.wake).write(&[1]);
    }

    /// The same, and a probe that is being placed gets no more sites: the target is to be left next. Not for signal
    /// handlers.
    pub fn request_end(&self) {
        // If the warden is gone, that will be noticed.
        let _ = self.socket.send(&Request::End);
        self.request();
    }
}

impl Client {
    /// Starts a warden. `command` must lead to [`serve`](crate::warden::serve), in this version: mostly it is the
    /// program itself, `/proc/self/exe`, with an argument that makes `main` call that. Its standard descriptors are
    /// set here.
    ///
    /// # Errors
    /// [`WardenError::Start`], or that it does not answer as a warden does.
    pub fn start(mut command: Command) -> Result<Client, WardenError> {
        /// Some ten thousand hits with a few registers.
        const RING_BYTES: usize = 4 << 20;
        let (ring, file) = Ring::create(RING_BYTES).map_err(WardenError::Start)?;
        let (own, others) = Socket::pair().map_err(WardenError::Start)?;
        let (wake, waker) = UnixStream::pair().map_err(WardenError::Start)?;
        wake.set_nonblocking(true).and_then(|()| waker.set_nonblocking(true)).map_err(WardenError::Start)?;
        command.stdin(others).stdout(file).stderr(Stdio::null());
        // It inherits the mask: no signal to our group, such as that of a key, ends it before it stands apart.
        let mask = shared::block_signals();
        let warden = command.spawn();
        shared::restore_signals(&mask);
        // Holds the warden's ends of everything.
        drop(command);
        let socket = Arc::new(Socket::new(own));
        let stop = ClientStop {
            requested: Arc::new(AtomicBool::new(false)),
            wake: Arc::new(waker),
            socket: Arc::clone(&socket),
        };
        let mut client = Client {
            socket,
            ring,
            reader: Reader::default(),
            warden: warden.map_err(WardenError::Start)?,
            wake,
            stop,
            replies: VecDeque::new(),
            observer: None,
            handlers: HashMap::new(),
            next_handler: None,
            parts: HashMap::new(),
            placed: HashMap::new(),
            bindings: HashMap::new(),
            watch_bindings: WatchBindings::new(),
            modules: Modules::new(),
            end: None,
            lost: 0,
            affinity: Affinity::default(),
            target: 0,
            launched: false,
            started: false,
            entry: None,
            inaccessible: None,
            status: None,
        };
        client.done(&Request::Hello { version: VERSION })?;
        Ok(client)
    }

    /// The process id of the warden.
    #[must_use]
    pub fn warden(&self) -> i32 {
        self.warden.id().cast_signed()
    }

    /// As [`Session::attach_with`](crate::Session::attach_with) and, once there is a target,
    /// [`Session::attach_also`](crate::Session::attach_also), with the options of the first.
    ///
    /// # Errors
    /// [`WardenError`]; the process has not been touched then.
    pub fn attach(&mut self, pid: i32, options: SessionOptions) -> Result<(), WardenError> {
        // It would wait for itself.
        if procfs::process_of(pid).and_then(|pid| u32::try_from(pid).ok()) == Some(std::process::id()) {
            return Err(WardenError::Attach(AttachError::Own));
        }
        let SessionOptions { follow, tracers, hardware, .. } = options;
        match self.call(&Request::Attach { pid, follow, tracers, hardware })? {
            Reply::Attached { pid } => {
                if self.target == 0 {
                    self.target = pid;
                }
                Ok(())
            }
            Reply::CannotAttach(error) => Err(WardenError::Attach(error.into())),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`Session::launch_with`](crate::Session::launch_with): the program is this process's child, and stopped at
    /// its first instruction until [`Client::run`]. With
    /// [`SessionOptions::kill_with`] it is killed when the client vanishes or leaves it.
    ///
    /// # Errors
    /// [`WardenError`].
    pub fn launch(&mut self, command: Command, options: SessionOptions) -> Result<(), WardenError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |error| WardenError::Attach(AttachError::Launch { program: program.clone(), error });
        let mut embryo = Embryo::fork(command, Some(self.warden())).map_err(failed)?;
        let pid = embryo.pid;
        let SessionOptions { follow, kill_with, tracers, hardware } = options;
        match self.call(&Request::Seize { pid, follow, kill_with, tracers, hardware })? {
            Reply::Attached { .. } => {}
            reply => {
                // Not let go, it ends. That is not what to tell.
                let _ = embryo.finish();
                return Err(match reply {
                    Reply::CannotAttach(error) => WardenError::Attach(error.into()),
                    other => unexpected(&other),
                });
            }
        }
        embryo.go();
        let reply = self.call(&Request::Hatch)?;
        embryo.finish().map_err(failed)?;
        match reply {
            Reply::Hatched(Some(hatched)) => {
                (self.target, self.launched, self.entry) = (pid, true, hatched.entry);
                self.inaccessible = hatched.inaccessible.map(|(pid, error)| (pid, error.into()));
                Ok(())
            }
            Reply::Hatched(None) => Err(failed(io::Error::other("it ended before it started"))),
            Reply::CannotAttach(error) => {
                // It was killed.
                let _ = sys::wait_for_end(pid);
                Err(WardenError::Attach(error.into()))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The target's process id; 0 before there is one.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.target
    }

    /// Whether the target was started by [`Client::launch`].
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.launched
    }

    /// As [`Session::entry`](crate::Session::entry), of a program that was launched.
    #[must_use]
    pub fn entry(&self) -> Option<u64> {
        self.entry
    }

    /// As [`Session::inaccessible`](crate::Session::inaccessible), of a program that was launched.
    #[must_use]
    pub fn inaccessible(&self) -> Option<(i32, &io::Error)> {
        self.inaccessible.as_ref().map(|(pid, error)| (*pid, error))
    }

    /// Hears of news from now on, whenever the client waits for something.
    pub fn observe(&mut self, observer: impl FnMut(News) + 'static) {
        self.observer = Some(Box::new(observer));
    }

    /// For how many hits, of all probes together, programs go on behind [`Step::SharedLimit`]. Without, for all.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn limit(&mut self, hits: u64) -> Result<(), WardenError> {
        self.done(&Request::Limit { hits })
    }

    /// Has these files looked at first where the debug file of an object is looked for; they are taken where they fit.
    /// For probes that are placed later.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn debug_files(&mut self, paths: &[PathBuf]) -> Result<(), WardenError> {
        let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let paths = paths.iter().map(|path| SentPath::new(&absolute(path))).collect();
        self.done(&Request::DebugFiles { paths })
    }

    /// As [`Session::probe`](crate::Session::probe), with a program that the warden runs at each hit.
    ///
    /// # Errors
    /// [`WardenError::Probe`], if the place names nothing that exists, or if none of its sites can be probed.
    pub fn probe(&mut self, place: impl Into<Place>, program: Program) -> Result<ProbeId, WardenError> {
        self.place(place.into(), program, None)
    }

    /// As [`Session::probe_calls`](crate::Session::probe_calls), with programs that the warden runs when a function is
    /// entered, and when that call has returned. Calls are followed unless `entry` filters them out.
    ///
    /// # Errors
    /// As [`Client::probe`].
    pub fn probe_calls(
        &mut self,
        place: impl Into<Place>,
        entry: Program,
        on_return: Program,
    ) -> Result<ProbeId, WardenError> {
        self.place(place.into(), entry, Some(on_return))
    }

    fn place(
        &mut self,
        place: Place,
        at: Program,
        on_return: Option<Program>,
    ) -> Result<ProbeId, WardenError> {
        only(self.probe_all([(place, at, on_return)])?)
    }

    /// Places several probes with one request: each as [`Client::probe`] does or, if there is a program for returns, as
    /// [`Client::probe_calls`]. Returns for each, in their order, what that would return.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn probe_all(
        &mut self,
        probes: impl IntoIterator<Item = (Place, Program, Option<Program>)>,
    ) -> Result<Vec<Result<ProbeId, WardenError>>, WardenError> {
        let sent = |(place, at, on_return): (Place, Program, Option<Program>)| SentProbe {
            place: place.into(),
            at,
            on_return,
        };
        let probes: Vec<SentProbe> = probes.into_iter().map(sent).collect();
        let count = probes.len();
        self.place_all(&Request::Probes(probes), count)
    }

    /// Makes a request that places so many probes.
    pub(super) fn place_all(
        &mut self,
        request: &Request,
        count: usize,
    ) -> Result<Vec<Result<ProbeId, WardenError>>, WardenError> {
        let placed = match self.call(request)? {
            Reply::Placed(placed) if placed.len() == count => placed,
            other => return Err(unexpected(&other)),
        };
        let known = |placed| match placed {
            Ok((probe, report)) => {
                let probe = ProbeId(probe as usize);
                self.placed.insert(probe.index(), Report::from(report));
                Ok(probe)
            }
            Err(reason) => Err(WardenError::Probe(reason)),
        };
        Ok(placed.into_iter().map(known).collect())
    }

    /// The same with a handler, which [`Step::Ask`] in the program calls, or its end if there is none in it. The hit
    /// waits for it: it is called whenever the client waits for something. Where there is no answer, because the
    /// client is stopped, the instruction is emulated, and the hit counts as lost.
    ///
    /// While it runs, and until `run` returns, the calling thread stays on the processor of the warden, as that does on
    /// the target's.
    ///
    /// # Errors
    /// As [`Client::probe`].
    pub fn probe_with(
        &mut self,
        place: impl Into<Place>,
        program: Program,
        handler: impl FnMut(&mut Asked<'_>) -> Action + 'static,
    ) -> Result<ProbeId, WardenError> {
        let asks = program.steps().contains(&Step::Ask);
        let program = if asks { program } else { program.step(Step::Ask) };
        // A running target can ask before the answer is here that tells the number.
        self.next_handler = Some(Box::new(handler));
        let placed = self.probe(place, program);
        let handler = self.next_handler.take();
        if let (Ok(probe), Some(handler)) = (&placed, handler) {
            self.handlers.insert(probe.index(), handler);
        }
        placed
    }

    /// As [`Session::watch_changes`](crate::Session::watch_changes): each change is told by [`News::Change`], with the
    /// thread's name and its stack if `fields` say so. [`Step::Watch`] begins one that is to begin at hits.
    /// [`Client::limit`] is about changes, too.
    ///
    /// # Errors
    /// [`WardenError::Probe`], if it cannot be watched.
    pub fn watch(&mut self, watch: Watch, fields: Fields) -> Result<WatchId, WardenError> {
        match self.call(&Request::Watch { watch: Box::new(watch), fields })? {
            Reply::Watched { watch } => Ok(WatchId(watch)),
            Reply::NotWatched { reason } => Err(WardenError::Probe(reason)),
            other => Err(unexpected(&other)),
        }
    }

    /// What has become of a watch so far, also after the target has ended or been left; `None` if it is not of this
    /// client.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn watch_report(&mut self, watch: WatchId) -> Result<Option<WatchReport>, WardenError> {
        match self.call(&Request::WatchReport { watch: watch.0 })? {
            Reply::WatchReport(report) => Ok(report),
            other => Err(unexpected(&other)),
        }
    }

    /// As [`Session::remove`](crate::Session::remove).
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn remove(&mut self, probe: ProbeId) -> Result<(), WardenError> {
        self.done(&Request::Remove { probe: number_of(probe) })
    }

    /// As [`Session::forget`](crate::Session::forget). What was told of it until then is heard of before this returns.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn forget(&mut self, probe: ProbeId) -> Result<Option<Report>, WardenError> {
        let reply = self.call(&Request::Forget { probe: number_of(probe) })?;
        while self.drain()? != Found::Nothing {}
        let Reply::Reports(mut reports) = reply else { return Err(unexpected(&reply)) };
        let number = probe.index();
        self.handlers.remove(&number);
        self.placed.remove(&number);
        self.parts.retain(|_, whole| *whole != number);
        self.bindings.retain(|(of, _), _| *of != number);
        Ok(reports.pop().flatten().map(Report::from))
    }

    /// What became of a probe when it was placed. What happens to it later is told by events.
    #[must_use]
    pub fn placement(&self, probe: ProbeId) -> Option<&Report> {
        self.placed.get(&probe.index())
    }

    /// What became of a probe so far, also after the target has ended or been left; `None` if it is not of this client.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn report(&mut self, probe: ProbeId) -> Result<Option<Report>, WardenError> {
        Ok(self.reports(&[probe])?.pop().flatten())
    }

    /// The same of several, with one request.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn reports(&mut self, probes: &[ProbeId]) -> Result<Vec<Option<Report>>, WardenError> {
        let numbers = probes.iter().copied().map(number_of).collect();
        match self.call(&Request::Reports { probes: numbers })? {
            Reply::Reports(reports) if reports.len() == probes.len() => {
                Ok(reports.into_iter().map(|report| report.map(Report::from)).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What the steps of its program have added up of a probe's hits so far, also after the target has ended or been
    /// left; `None` if there is nothing. Each part of a probe has its own.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn totals(&mut self, probe: ProbeId) -> Result<Option<Totals>, WardenError> {
        Ok(self.totals_of(&[probe])?.pop().flatten())
    }

    /// The same of several, with one request.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn totals_of(&mut self, probes: &[ProbeId]) -> Result<Vec<Option<Totals>>, WardenError> {
        let numbers = probes.iter().copied().map(number_of).collect();
        match self.call(&Request::Totals { probes: numbers })? {
            Reply::Totals(totals) if totals.len() == probes.len() => {
                // What it has told of modules comes another way.
                while self.drain()? != Found::Nothing {}
                let of = |totals: SentTotals| Totals::of(totals, &self.modules);
                Ok(totals.into_iter().map(|totals| totals.map(of)).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Whether records of hits are dropped, and counted by [`News::Lost`], when there is no room for them. Otherwise, hits
    /// wait.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn drop_when_full(&mut self, drop: bool) -> Result<(), WardenError> {
        self.done(&Request::WhenFull { drop })
    }

    /// Has the target served from now on, and hears of news until it ends, [`ClientStop`] is asked for, or a program
    /// or a handler has stopped everything ([`RunEnd::Stopped`]); in the last case the target has been left.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn run(&mut self) -> Result<RunEnd, WardenError> {
        self.run_until(None)
    }

    /// The same for that long at most.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn run_for(&mut self, time: Duration) -> Result<RunEnd, WardenError> {
        self.run_until(Instant::now().checked_add(time))
    }

    fn run_until(&mut self, deadline: Option<Instant>) -> Result<RunEnd, WardenError> {
        if !std::mem::replace(&mut self.started, true) {
            self.done(&Request::Run)?;
        }
        let end = loop {
            if let Some(end) = self.end {
                break match end {
                    End::Ended(status) => {
                        self.status = status.map(ExitStatus::from_raw);
                        RunEnd::Ended(self.status)
                    }
                    End::Stopped => RunEnd::Stopped,
                };
            }
            if lower(&self.stop.requested) {
                break RunEnd::StopRequested;
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                break RunEnd::Timeout;
            }
            let ready =
                |client: &Client| client.end.is_some() || client.stop.requested.load(Ordering::SeqCst);
            self.turn(deadline, ready)?;
        };
        self.affinity.restore();
        Ok(end)
    }

    /// A handle by which another thread or a signal handler can end [`Client::run`].
    #[must_use]
    pub fn stop_handle(&self) -> ClientStop {
        self.stop.clone()
    }

    /// Kills a target that was launched, and waits for its end.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn kill(&mut self) -> Result<(), WardenError> {
        self.done(&Request::Kill)?;
        self.wait();
        Ok(())
    }

    /// Leaves the target so that none of its threads notices; see [`Session::leave`](crate::Session::leave). What is
    /// told until then is heard of before this returns.
    ///
    /// # Errors
    /// [`WardenError::Gone`].
    pub fn leave(&mut self) -> Result<(), WardenError> {
        let reply = self.call(&Request::Leave)?;
        while self.drain()? != Found::Nothing {}
        match reply {
            Reply::Left { status } => {
                self.status = self.status.or(status.map(ExitStatus::from_raw));
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The target's exit status, as far as it is known.
    #[must_use]
    pub fn status(&self) -> Option<ExitStatus> {
        self.status
    }

    /// Waits for the end of a target that was launched, and returns its status, if it can be had.
    pub fn wait(&mut self) -> Option<ExitStatus> {
        if self.launched
            && let Ok(status) = sys::wait_for_end(self.target)
        {
            self.status = Some(ExitStatus::from_raw(status));
        }
        self.status
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.affinity.restore();
        // The socket closes with its last handle, which may be elsewhere.
        let _ = nix::sys::socket::shutdown(self.socket.raw(), nix::sys::socket::Shutdown::Both);
        // It ends once it has left the target.
        let _ = self.warden.wait();
    }
}

/// What became of the one probe of a request.
pub(super) fn only(mut placed: Vec<Result<ProbeId, WardenError>>) -> Result<ProbeId, WardenError> {
    placed.pop().unwrap_or_else(|| Err(WardenError::Protocol("it answers nothing".to_owned())))
}

pub(super) fn number_of(probe: ProbeId) -> u32 {
    u32::try_from(probe.index()).unwrap_or(u32::MAX)
}

pub(super) fn unexpected(reply: &Reply) -> WardenError {
    match reply {
        Reply::Refused(why) => WardenError::Protocol(why.clone()),
        other => WardenError::Protocol(format!("it answers {other:?}")),
    }
}
