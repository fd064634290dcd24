//! The warden's process: it reads requests, serves the target in a thread of its own, and leaves it when its client
//! asks for that or vanishes.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak, mpsc};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, kill};

use crate::arguments::bindings::Bindings;
use crate::engine::cover::Cover;
use crate::engine::event::{Event, ProbeReport};
use crate::engine::hit::ProbeId;
use crate::engine::inject::Injector;
use crate::engine::leave::Left;
use crate::engine::session::{RunEnd, Session, SessionOptions, StopHandle};
use crate::engine::watch::{Change, WatchId};
use crate::error::AttachError;
use crate::symbols::coverage::Plan;
use crate::symbols::resolve::Objects;
use crate::target::{lock, system};
use crate::warden::callers::Callers;
use crate::warden::changes;
use crate::warden::message::{End, Hatched, Reply, Request, VERSION};
use crate::warden::news::SentReport;
use crate::warden::outlet::Outlet;
use crate::warden::placing::{Placing, became};
use crate::warden::ring::Ring;
use crate::warden::run::{Common, Counted, SharedLimit};
use crate::warden::shared;
use crate::warden::socket::{Arrival, Socket, parse};

/// Is the warden of the process that has started this one by [`Client::start`](crate::warden::Client::start), to its
/// end. To be called first of all in `main`, before there are threads or open files: it closes all files that the
/// process has inherited.
#[must_use]
pub fn serve() -> ExitCode {
    match serve_client() {
        Ok(()) => ExitCode::SUCCESS,
        // There is nobody to tell: the client sees that it has ended.
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve_client() -> io::Result<()> {
    shared::block_signals();
    shared::close_inherited();
    let socket = Socket::new(shared::taken(io::stdin())?);
    let ring = Ring::open(&File::from(shared::taken(io::stdout())?))?;
    let client = socket.maker()?;
    // Opened before the socket is looked at, so that this is the end of the very client.
    let end = shared::end_of(client).ok();
    stand_apart();
    let socket = Arc::new(socket);
    let outlet = Arc::new(Outlet::new(ring, Arc::clone(&socket), client));
    let (sender, requests) = mpsc::channel();
    let warden = Arc::new(Warden::new(Arc::clone(&outlet), requests));
    let supervised = Arc::clone(&warden);
    let supervisor = std::thread::Builder::new().spawn(move || supervise(&supervised))?;
    let result = dispatch(&warden, &socket, end.as_ref(), &sender);
    // The client has vanished. Whatever waits for it waits no longer.
    drop(sender);
    outlet.close();
    warden.request_end();
    // It cannot panic: the thread that serves the target can, and has left it then.
    let _ = supervisor.join();
    result
}

/// Leaves behind what would end the process together with its client, or could be missed by others.
fn stand_apart() {
    /// Who kills it kills the target. Where -1000 is not allowed, what the system itself has set may be.
    const SCORES: [&str; 2] = ["-1000", "0"];
    // Each may be forbidden, which leaves the process a little easier to end, and that is all.
    let _ = nix::unistd::setsid();
    let _ = nix::unistd::chdir("/");
    let _ = nix::sys::prctl::set_name(c"stepless-warden");
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    let own: i32 = own.trim().parse().unwrap_or(0);
    for score in SCORES {
        let lower = score.parse().is_ok_and(|score: i32| score < own);
        if lower && std::fs::write("/proc/self/oom_score_adj", score).is_ok() {
            break;
        }
    }
    // A hardware breakpoint takes a descriptor in each thread.
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, most, most);
    }
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Reads requests until the client vanishes.
fn dispatch(
    warden: &Warden,
    socket: &Socket,
    end: Option<&impl AsFd>,
    requests: &mpsc::Sender<Request>,
) -> io::Result<()> {
    loop {
        while let Some(arrival) = socket.receive()? {
            match arrival {
                Arrival::Notice => {}
                Arrival::End => return Ok(()),
                Arrival::Message(bytes) => match parse(&bytes)? {
                    Request::Flush => warden.outlet.flush(),
                    Request::End => warden.request_end(),
                    request => {
                        if requests.send(request).is_err() {
                            return Ok(());
                        }
                        warden.interrupt();
                    }
                },
            }
        }
        let mut waited = vec![PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        waited.extend(end.map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN)));
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) if waited.get(1).is_some_and(|end| end.any() == Some(true)) => return Ok(()),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What the threads of the warden share.
struct Warden {
    outlet: Arc<Outlet>,
    requests: Mutex<mpsc::Receiver<Request>>,
    stop: OnceLock<StopHandle>,
    common: Arc<Common>,
    objects: Arc<Objects>,
    /// Those that cover, by the number of the probe.
    covers: Mutex<HashMap<u32, Arc<Cover>>>,
    /// Of all probes with arguments.
    bindings: Arc<Mutex<Vec<Weak<Bindings>>>>,
}

/// What is left when the target has been.
struct Finished {
    left: Option<Left>,
    end: End,
    /// Whether the client waits for it.
    asked: bool,
}

impl Warden {
    fn new(outlet: Arc<Outlet>, requests: mpsc::Receiver<Request>) -> Warden {
        let objects = Arc::<Objects>::default();
        let callers = Callers::new(Arc::clone(&objects));
        let limit = SharedLimit::default();
        let regions = AtomicU64::new(0);
        let injector = Injector::new(Arc::clone(&objects));
        let outlet_of_all = Arc::clone(&outlet);
        let common =
            Common { outlet: outlet_of_all, limit, callers, injector, counted: Mutex::default(), regions };
        Warden {
            outlet,
            requests: Mutex::new(requests),
            stop: OnceLock::new(),
            common: Arc::new(common),
            objects,
            covers: Mutex::default(),
            bindings: Arc::default(),
        }
    }

    fn requests(&self) -> MutexGuard<'_, mpsc::Receiver<Request>> {
        lock(&self.requests)
    }

    fn counted(&self, probe: u32) -> Option<Arc<Counted>> {
        lock(&self.common.counted).get(&(probe as usize)).map(Arc::clone)
    }

    fn totals(&self, probes: &[u32]) -> Reply {
        let totals = |&probe: &u32| self.counted(probe).map(|counted| counted.tally.to_sent());
        Reply::Totals(probes.iter().map(totals).collect())
    }

    fn coverage(&self, probe: u32) -> Reply {
        let cover = lock(&self.covers).get(&probe).map(Arc::clone);
        Reply::Coverage(cover.map(|cover| Box::new(cover.coverage())))
    }

    /// There is a request for the thread that serves the target.
    fn interrupt(&self) {
        if let Some(stop) = self.stop.get() {
            stop.request();
        }
    }

    fn request_end(&self) {
        if let Some(stop) = self.stop.get() {
            stop.request_end();
        }
    }

    fn refuse(&self, why: &str) {
        self.outlet.reply(&Reply::Refused(why.to_owned()));
    }

    fn reports(&self, probes: &[u32], report: impl Fn(ProbeId) -> Option<ProbeReport>) -> Reply {
        let report = |&probe: &u32| {
            let counted = self.counted(probe).map_or([0; 3], |counted| {
                [&counted.undefined, &counted.injected, &counted.failed]
                    .map(|count| count.load(Ordering::Relaxed))
            });
            report(ProbeId(probe as usize)).map(|report| SentReport::new(&report, counted))
        };
        Reply::Reports(probes.iter().map(report).collect())
    }

    /// Has `session` forget a probe, and forgets it, too.
    fn forget(&self, session: &mut Session, probe: u32) -> Reply {
        let forgotten = session.forget(ProbeId(probe as usize));
        let reply = self.reports(&[probe], |_| forgotten.clone());
        let parts = forgotten.iter().flat_map(|report| &report.parts).map(|(_, part)| part.index());
        for number in parts.chain([probe as usize]) {
            lock(&self.common.counted).remove(&number);
        }
        lock(&self.covers).remove(&probe);
        lock(&self.bindings).retain(|bindings| bindings.strong_count() > 0);
        reply
    }
}

/// Has the target served, and answers what is asked after that.
fn supervise(warden: &Arc<Warden>) {
    let serving = Arc::clone(warden);
    let served = std::thread::spawn(move || Service::new(&serving).run()).join();
    // With that thread has ended the tracing. If it has panicked, its session was detached from.
    let finished = served.unwrap_or(Finished { left: None, end: End::Stopped, asked: false });
    warden.outlet.end(finished.end);
    let status = finished.left.as_ref().and_then(Left::status).map(ExitStatusExt::into_raw);
    if finished.asked {
        warden.outlet.reply(&Reply::Left { status });
    }
    for request in warden.requests().iter() {
        match request {
            Request::Reports { probes } => {
                let left = finished.left.as_ref();
                let report = |probe: ProbeId| left.and_then(|left| left.report(probe));
                warden.outlet.reply(&warden.reports(&probes, report));
            }
            Request::Forget { probe } => {
                let report = |probe: ProbeId| finished.left.as_ref().and_then(|left| left.report(probe));
                warden.outlet.reply(&warden.reports(&[probe], report));
            }
            Request::Totals { probes } => warden.outlet.reply(&warden.totals(&probes)),
            Request::Coverage { probe } => warden.outlet.reply(&warden.coverage(probe)),
            Request::WatchReport { watch } => {
                let left = finished.left.as_ref();
                let report = left.and_then(|left| left.watch_report(WatchId(watch)));
                warden.outlet.reply(&Reply::WatchReport(report));
            }
            Request::Leave => warden.outlet.reply(&Reply::Left { status }),
            Request::Remove { .. }
            | Request::Run
            | Request::Kill
            | Request::Limit { .. }
            | Request::WhenFull { .. } => {
                warden.outlet.reply(&Reply::Done);
            }
            _ => warden.refuse("the target has been left"),
        }
    }
}

/// The thread that serves the target.
struct Service<'a> {
    warden: &'a Arc<Warden>,
    session: Option<Session>,
    /// Whether stops are served, which is so from the request on: what a target does until then, such as to execute
    /// another program, is not missed by probes that are yet to be placed.
    running: bool,
    /// Whether the target was attached to, and does not wait for the request.
    runs_already: bool,
    kill_with: bool,
}

/// What follows a request.
#[derive(PartialEq, Eq)]
enum Next {
    GoOn,
    Leave,
}

impl Service<'_> {
    fn new(warden: &Arc<Warden>) -> Service<'_> {
        Service { warden, session: None, running: false, runs_already: false, kill_with: false }
    }

    fn run(mut self) -> Finished {
        /// How soon it is noticed that the client is stopped before it has asked for all.
        const LOOK: Duration = Duration::from_millis(50);
        shared::unblock(StopHandle::signal());
        let warden = Arc::clone(self.warden);
        let requests = warden.requests();
        let (mut end, mut asked) = (End::Stopped, false);
        loop {
            let request = match self.running {
                true => match requests.try_recv() {
                    Ok(request) => Some(request),
                    Err(mpsc::TryRecvError::Empty) => None,
                    Err(mpsc::TryRecvError::Disconnected) => break,
                },
                false => match requests.recv_timeout(LOOK) {
                    Ok(request) => Some(request),
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        // Threads that stop meanwhile must not wait for it to be continued.
                        self.running = self.runs_already && warden.outlet.client_is_stopped();
                        continue;
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => break,
                },
            };
            if let Some(request) = request {
                if self.answer(request) == Next::Leave {
                    asked = true;
                    break;
                }
                continue;
            }
            match self.session.as_mut().map(Session::run) {
                Some(RunEnd::StopRequested | RunEnd::Timeout) => {}
                Some(RunEnd::Ended(status)) => {
                    end = End::Ended(status.map(ExitStatusExt::into_raw));
                    break;
                }
                Some(RunEnd::Stopped | RunEnd::Detached) | None => break,
            }
        }
        let left = self.session.take().map(|session| {
            if self.kill_with && !matches!(end, End::Ended(_)) && session.status().is_none() {
                // Traced, and so its number is nobody else's. It may be gone.
                let _ = kill(system::pid(session.pid()), Signal::SIGKILL);
            }
            session.leave()
        });
        Finished { left, end, asked }
    }

    fn answer(&mut self, request: Request) -> Next {
        let outlet = &self.warden.outlet;
        match request {
            Request::Hello { version: VERSION } => outlet.reply(&Reply::Done),
            Request::Hello { version } => self.warden.refuse(&format!("it is {VERSION}, and not {version}")),
            Request::Attach { pid, follow, tracers, hardware } => {
                if let Some(session) = &mut self.session {
                    let attached = session.attach_also(pid);
                    outlet.reply(&match attached {
                        Ok(()) => Reply::Attached { pid },
                        Err(error) => Reply::CannotAttach(error.into()),
                    });
                    return Next::GoOn;
                }
                let options = SessionOptions { follow, tracers, hardware, ..SessionOptions::default() };
                self.start(Session::attach_with(pid, options), true);
            }
            Request::Seize { pid, follow, kill_with, tracers, hardware } => {
                self.kill_with = kill_with;
                let options = SessionOptions { follow, kill_with, tracers, hardware };
                self.start(Session::seize_embryo(pid, options), false);
            }
            Request::DebugFiles { paths } => {
                paths.into_iter().for_each(|path| self.warden.objects.add_debug_file(path.into_path()));
                outlet.reply(&Reply::Done);
            }
            Request::Limit { hits } => {
                self.warden.common.limit.set(hits);
                outlet.reply(&Reply::Done);
            }
            Request::WhenFull { drop } => {
                outlet.drop_when_full(drop);
                outlet.reply(&Reply::Done);
            }
            Request::Totals { probes } => outlet.reply(&self.warden.totals(&probes)),
            Request::Coverage { probe } => outlet.reply(&self.warden.coverage(probe)),
            Request::Leave => return Next::Leave,
            // Answered elsewhere.
            Request::Flush | Request::End => {}
            request => match self.session.take() {
                Some(mut session) => {
                    self.serve(request, &mut session);
                    self.session = Some(session);
                }
                None => self.warden.refuse("there is no target yet"),
            },
        }
        Next::GoOn
    }

    fn start(&mut self, session: Result<Session, AttachError>, runs_already: bool) {
        if self.session.is_some() {
            return self.warden.refuse("there is a target already");
        }
        match session {
            Ok(mut session) => {
                let outlet = Arc::clone(&self.warden.outlet);
                let bindings = Arc::clone(&self.warden.bindings);
                let common = Arc::clone(&self.warden.common);
                session.observe(move |event| {
                    if let Event::Exec { pid } | Event::Ended { pid, .. } = event {
                        common.callers.forget(*pid);
                    }
                    if let Event::Exec { pid } = event {
                        lock(&bindings).iter().filter_map(Weak::upgrade).for_each(|known| known.forget(*pid));
                    }
                    // The process may have ended when the client looks.
                    let (pid, addresses) = event.places().unwrap_or_default();
                    for address in addresses.into_iter().flatten() {
                        outlet.place(pid, &common.callers.frame(pid, address, &outlet));
                    }
                    outlet.event(event);
                });
                self.warden.stop.get_or_init(|| session.stop_handle());
                self.warden.outlet.reply(&Reply::Attached { pid: session.pid() });
                self.runs_already = runs_already;
                self.session = Some(session);
            }
            Err(error) => self.warden.outlet.reply(&Reply::CannotAttach(error.into())),
        }
    }

    /// Answers what is asked of a session.
    fn serve(&mut self, request: Request, session: &mut Session) {
        let outlet = &self.warden.outlet;
        match request {
            Request::Hatch => outlet.reply(&match session.hatch() {
                Ok(true) => Reply::Hatched(Some(Hatched {
                    entry: session.entry(),
                    inaccessible: session.inaccessible().map(|(pid, error)| (pid, (&*error).into())),
                })),
                Ok(false) => Reply::Hatched(None),
                Err(error) => Reply::CannotAttach(error.into()),
            }),
            Request::Probes(probes) => {
                let Warden { common, objects, bindings, .. } = &**self.warden;
                outlet.reply(&Placing { common, objects, bindings }.place_all(session, probes));
            }
            Request::Cover { plan } => outlet.reply(&self.cover(session, plan)),
            Request::Remove { probe } => {
                session.remove(ProbeId(probe as usize));
                outlet.reply(&Reply::Done);
            }
            Request::Forget { probe } => outlet.reply(&self.warden.forget(session, probe)),
            Request::Reports { probes } => {
                outlet.reply(&self.warden.reports(&probes, |probe| session.report(probe)));
            }
            Request::Watch { watch, fields } => {
                let (common, objects) = (Arc::clone(&self.warden.common), Arc::clone(&self.warden.objects));
                let send = move |change: &mut Change<'_, '_>| changes::send(&common, fields, change);
                outlet.reply(&match session.watch_changes_by(*watch, objects, send) {
                    Ok(WatchId(watch)) => Reply::Watched { watch },
                    Err(refusal) => Reply::NotWatched { reason: refusal.to_string() },
                });
            }
            Request::WatchReport { watch } => {
                outlet.reply(&Reply::WatchReport(session.watch_report(WatchId(watch))));
            }
            Request::Run => {
                self.running = true;
                outlet.reply(&Reply::Done);
            }
            Request::Kill => {
                session.kill();
                outlet.reply(&Reply::Done);
            }
            _ => self.warden.refuse("not now"),
        }
    }

    /// Places a probe that covers.
    fn cover(&self, session: &mut Session, plan: Plan) -> Reply {
        let placed = session.cover_with(plan, Arc::clone(&self.warden.objects));
        if let Ok(id) = placed
            && let Some(cover) = session.cover_of(id)
        {
            lock(&self.warden.covers).insert(id.index() as u32, cover);
        }
        Reply::Placed(vec![became(session, placed)])
    }
}
