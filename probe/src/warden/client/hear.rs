//! What a warden sends: replies, news, and questions.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::time::TimeSpec;

use super::{Client, unexpected};
use crate::engine::hit::Action;
use crate::stacks::Module;
use crate::target::system;
use crate::warden::asked::Asked;
use crate::warden::changes::{ChangeRecord, SentWatch};
use crate::warden::message::{Reply, Request, kind};
use crate::warden::news::{Event, Injection, News, Record, Sent, WardenError};
use crate::warden::outlet::Question;
use crate::warden::ring;
use crate::warden::socket::{Arrival, parse};
use crate::warden::steps::StepRecord;
use crate::warden::totals::frame_of;

/// What the ring had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Records,
    Questions,
}

impl Client {
    /// Makes a request that is answered with nothing else.
    pub(super) fn done(&mut self, request: &Request) -> Result<(), WardenError> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Makes a request and waits for the answer. News are heard of meanwhile.
    pub(in crate::warden) fn call(&mut self, request: &Request) -> Result<Reply, WardenError> {
        if self.socket.send(request).is_err() {
            return Err(WardenError::Gone);
        }
        loop {
            if let Some(reply) = self.replies.pop_front() {
                return Ok(reply);
            }
            self.turn(None, |client| !client.replies.is_empty())?;
        }
    }

    /// Reads what there is in the ring. Then, unless that has made something `ready`, waits for something to come.
    pub(super) fn turn(
        &mut self,
        deadline: Option<Instant>,
        ready: impl Fn(&Client) -> bool,
    ) -> Result<(), WardenError> {
        /// Where hits follow each other fast, they are read many at once: waking for each one would slow the target.
        const NAP: Duration = Duration::from_micros(200);
        let found = self.drain()?;
        if ready(self) {
            return Ok(());
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let most = if found == Found::Records {
            Some(left.map_or(NAP, |left| left.min(NAP)))
        } else {
            self.ring.reader_sleeps();
            if self.reader.has_next(&self.ring) {
                self.ring.reader_wakes();
                return Ok(());
            }
            left
        };
        let waited = {
            let mut waited = [
                PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            ];
            ppoll(&mut waited, most.map(TimeSpec::from), None).map(|_| {
                let came = |index: usize| waited.get(index).is_some_and(|waited| waited.any() == Some(true));
                (came(0), came(1))
            })
        };
        self.ring.reader_wakes();
        let (by_warden, by_stop) = match waited {
            Ok(came) => came,
            Err(Errno::EINTR) => return Ok(()),
            Err(error) => return Err(WardenError::Protocol(error.desc().to_owned())),
        };
        if by_stop {
            // There may be none any more, or more than these.
            let _ = self.wake.read(&mut [0; 64]);
        }
        // If there is more, that is found at the next turn.
        if by_warden && let Some(arrival) = self.socket.receive().map_err(corrupt)? {
            match arrival {
                Arrival::Notice => {}
                Arrival::Message(bytes) => self.replies.push_back(parse(&bytes).map_err(corrupt)?),
                Arrival::End => {
                    // It may have told before how all ended.
                    self.drain()?;
                    return if ready(self) { Ok(()) } else { Err(WardenError::Gone) };
                }
            }
        }
        Ok(())
    }

    /// Hears of all that is in the ring.
    pub(super) fn drain(&mut self) -> Result<Found, WardenError> {
        /// So that a reader that is slower than the target comes to do other things, too.
        const MOST: usize = 1024;
        let strange = || WardenError::Protocol("its records are none".to_owned());
        let mut found = Found::Nothing;
        for _ in 0..MOST {
            let Some(record) = self.reader.next(&self.ring).map_err(|_| strange())? else { break };
            if found == Found::Nothing {
                found = Found::Records;
            }
            match record.kind {
                kind::HIT => {
                    let hit = Record::of_words(&record.words, &self.modules).ok_or_else(strange)?;
                    self.tell_hit(hit);
                }
                kind::RETURN => {
                    let hit = Record::of_return(&record.words, &self.modules).ok_or_else(strange)?;
                    self.tell_hit(hit);
                }
                kind::CHANGE => {
                    let change = ChangeRecord::of_words(&record.words, &self.watch_bindings, &self.modules);
                    self.tell(News::Change(change.ok_or_else(strange)?));
                }
                kind::INJECTION => {
                    let hit = Injection::of_words(&record.words, &self.modules).ok_or_else(strange)?;
                    self.tell_hit(hit);
                }
                kind::EVENT => {
                    let bytes = ring::bytes_of(&record.words).ok_or_else(strange)?;
                    let sent: Sent = parse(&bytes).map_err(corrupt)?;
                    match sent {
                        Sent::Bound(probe, number, binding) => {
                            let whole = self.whole_of(probe as usize);
                            self.bindings.insert((whole, number), Arc::new(*binding));
                        }
                        Sent::Watch(watch, SentWatch::Bound(number, binding)) => {
                            self.watch_bindings.insert((watch.index(), number), Arc::new(*binding));
                        }
                        Sent::Module(module) => {
                            let module = Module::from(module);
                            self.modules.insert(module.number(), Arc::new(module));
                        }
                        Sent::Place(pid, frame) => {
                            let frame = frame_of(frame, &self.modules);
                            self.tell(News::Place { pid, frame });
                        }
                        sent => self.tell_event(sent),
                    }
                }
                kind::STEP => {
                    let step = StepRecord::of_words(&record.words, &self.modules).ok_or_else(strange)?;
                    self.tell(News::Step(step));
                }
                kind::ASK => {
                    found = Found::Questions;
                    self.answer(Question::of_words(&record.words).ok_or_else(strange)?);
                }
                kind::END => {
                    let bytes = ring::bytes_of(&record.words).ok_or_else(strange)?;
                    self.end = Some(parse(&bytes).map_err(corrupt)?);
                }
                _ => return Err(strange()),
            }
        }
        if self.ring.takes_kept_back() {
            // If it is gone, that will be noticed.
            let _ = self.socket.send(&Request::Flush);
        }
        let lost = self.ring.lost();
        let news = lost.wrapping_sub(std::mem::replace(&mut self.lost, lost));
        if news > 0 {
            self.tell(News::Lost(news));
        }
        Ok(found)
    }

    fn tell_hit(&mut self, mut hit: Record) {
        let whole = self.whole_of(hit.probe.index());
        let binding = |number| self.bindings.get(&(whole, number)).map(Arc::clone);
        if let Some(arguments) = &mut hit.arguments {
            arguments.binding = binding(arguments.number);
        }
        if let Some(injection) = &mut hit.injection {
            injection.binding = injection.number.and_then(binding);
        }
        self.tell(News::Hit(hit));
    }

    /// The number of the probe of which that one is a part, or its own.
    fn whole_of(&self, probe: usize) -> usize {
        self.parts.get(&probe).copied().unwrap_or(probe)
    }

    fn tell_event(&mut self, sent: Sent) {
        if let Some(event) = Event::of(sent) {
            if let Event::Part { probe, part, .. } = &event {
                self.parts.insert(part.index(), probe.index());
            }
            self.tell(News::Event(event));
        }
    }

    fn tell(&mut self, news: News) {
        if let Some(observer) = &mut self.observer {
            observer(news);
        }
    }

    /// Has a hit handled.
    fn answer(&mut self, question: Question) {
        self.affinity.join(question.cpu);
        let Some(mut asked) = Asked::new(question, &self.ring) else { return };
        let whole = self.whole_of(asked.probe().index());
        let action = match self.handlers.get_mut(&whole).or(self.next_handler.as_mut()) {
            Some(handler) => handler(&mut asked),
            None => Action::Continue,
        };
        asked.answer(action);
    }
}

/// Keeps the thread that answers on the processor of the one that asks, which the kernel hands over to directly there.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    own: Option<CpuSet>,
    current: Option<u32>,
}

impl Affinity {
    fn join(&mut self, cpu: u32) {
        if self.current == Some(cpu) {
            return;
        }
        if self.own.is_none() {
            self.own = sched_getaffinity(system::pid(0)).ok();
        }
        let mut set = CpuSet::new();
        // Where this is forbidden, answers take longer, and that is all.
        let _ = set.set(cpu as usize).and_then(|()| sched_setaffinity(system::pid(0), &set));
        self.current = Some(cpu);
    }

    pub(super) fn restore(&mut self) {
        if self.current.take().is_some()
            && let Some(own) = &self.own
        {
            let _ = sched_setaffinity(system::pid(0), own);
        }
    }
}

fn corrupt(error: io::Error) -> WardenError {
    WardenError::Protocol(error.to_string())
}
