//! The warden's side of the ring: what threads of the target wait for, and what they do not.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use emu::Rflags;

use crate::arguments::bindings::Bound;
use crate::engine::event;
use crate::engine::hit::{Action, Hit, ProbeId};
use crate::engine::watch::WatchId;
use crate::stacks::{Module, StackFrame};
use crate::target::{lock, procfs};
use crate::warden::changes::SentWatch;
use crate::warden::message::{Answer, Data, End, Reply, SentRegisters, Verdict, kind};
use crate::warden::news::{Sent, low_high};
use crate::warden::ring::{self, Ring, SLOTS, Slot, Turn, Writer, Written};
use crate::warden::socket::{Socket, parse};
use crate::warden::totals::sent_frame;

/// How long to wait before looking whether there is still somebody to wait for.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// All that leads to the client.
#[derive(Debug)]
pub(crate) struct Outlet {
    ring: Ring,
    writer: Writer,
    socket: Arc<Socket>,
    replies: mpsc::Sender<Vec<u8>>,
    client: i32,
    /// Whether the client has vanished: nothing waits for it any more.
    gone: AtomicBool,
    /// Whether records are dropped when there is no room for them.
    drops: AtomicBool,
    /// Whether the client was stopped when last looked at, and when that was.
    stopped: Mutex<Option<(Instant, bool)>>,
    slots: Mutex<Slots>,
    /// Of the next question.
    number: AtomicU32,
}

#[derive(Debug)]
struct Slots {
    free: VecDeque<usize>,
    /// Slots of questions that nobody waits for any more, though an answer may come.
    given_up: Vec<(usize, u32)>,
}

impl Outlet {
    pub(crate) fn new(ring: Ring, socket: Arc<Socket>, client: i32) -> Outlet {
        let (replies, outgoing) = mpsc::channel::<Vec<u8>>();
        let sender = Arc::clone(&socket);
        // Who serves the target must not wait until the client reads. It ends with the channel, or the client.
        std::thread::spawn(move || outgoing.iter().try_for_each(|bytes| sender.send_bytes(&bytes)));
        Outlet {
            ring,
            writer: Writer::default(),
            socket,
            replies,
            client,
            gone: AtomicBool::new(false),
            drops: AtomicBool::new(false),
            stopped: Mutex::new(None),
            slots: Mutex::new(Slots { free: (0..SLOTS).collect(), given_up: Vec::new() }),
            number: AtomicU32::new(1),
        }
    }

    /// The client has vanished.
    pub(crate) fn close(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.ring.wake_writers();
    }

    /// Whether nobody is there to be told.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Answers a request.
    pub(crate) fn reply(&self, reply: &Reply) {
        // Who has asked waits for something.
        let instead = |error: postcard::Error| postcard::to_stdvec(&Reply::Refused(error.to_string()));
        if let Ok(bytes) = postcard::to_stdvec(reply).or_else(instead) {
            // Nobody is there to read it otherwise.
            let _ = self.replies.send(bytes);
        }
    }

    /// Tells of an event, which is kept until there is room.
    pub(crate) fn event(&self, event: &event::Event<'_>) {
        if let Some(bytes) = Sent::of(event).and_then(|sent| postcard::to_stdvec(&sent).ok()) {
            self.keep(kind::EVENT, &bytes);
        }
    }

    /// Tells what the arguments of a probe come to at some of its sites, before any record with them.
    pub(crate) fn bound(&self, probe: ProbeId, bound: &Bound) {
        let sent = Sent::Bound(probe.index() as u32, bound.number, Box::new(bound.binding.clone()));
        if let Ok(bytes) = postcard::to_stdvec(&sent) {
            self.keep(kind::EVENT, &bytes);
        }
    }

    /// Tells of a watch.
    pub(crate) fn watch(&self, watch: WatchId, sent: SentWatch) {
        if let Ok(bytes) = postcard::to_stdvec(&Sent::Watch(watch, sent)) {
            self.keep(kind::EVENT, &bytes);
        }
    }

    /// Tells what frames of stacks belong to, before any record with them.
    pub(crate) fn module(&self, module: &Module) {
        if let Ok(bytes) = postcard::to_stdvec(&Sent::Module(module.to_sent())) {
            self.keep(kind::EVENT, &bytes);
        }
    }

    /// Tells what an address belongs to that the next event is about; the client knows the module.
    pub(crate) fn place(&self, pid: i32, frame: &StackFrame) {
        if let Ok(bytes) = postcard::to_stdvec(&Sent::Place(pid, sent_frame(frame))) {
            self.keep(kind::EVENT, &bytes);
        }
    }

    /// Whether records of hits are dropped from now on when there is no room for them.
    pub(crate) fn drop_when_full(&self, drop: bool) {
        self.drops.store(drop, Ordering::SeqCst);
    }

    /// Tells that no probe is served any more.
    pub(crate) fn end(&self, end: End) {
        if let Ok(bytes) = postcard::to_stdvec(&end) {
            self.keep(kind::END, &bytes);
        }
    }

    fn keep(&self, kind: u8, bytes: &[u8]) {
        let record = ring::Record { kind, words: ring::words_of(bytes) };
        if self.writer.write_or_keep(&self.ring, record) {
            self.socket.notify();
        }
    }

    /// Writes what was kept, as far as there is room.
    pub(crate) fn flush(&self) {
        if self.writer.flush(&self.ring) {
            self.socket.notify();
        }
    }

    /// Sends the record of a hit, and waits for room, unless the client is stopped or gone. Says whether it is sent.
    pub(crate) fn record(&self, kind: u8, words: &[u64]) -> bool {
        loop {
            match self.writer.write(&self.ring, kind, words) {
                Written::Done { wake } => {
                    if wake {
                        self.socket.notify();
                    }
                    return true;
                }
                Written::Full if self.is_gone() => return false,
                Written::Full if self.drops(kind) || self.client_is_stopped() => {
                    self.ring.lose(1);
                    return false;
                }
                Written::Full => self.ring.wait_for_room(words.len() + 1, LOOK_AGAIN),
                Written::Corrupt => {
                    self.ring.lose(1);
                    return false;
                }
            }
        }
    }

    /// Whether a record is not waited with. A question is.
    fn drops(&self, kind: u8) -> bool {
        kind != kind::ASK && self.drops.load(Ordering::SeqCst)
    }

    /// Whether the client's process is stopped by a signal, so that there is no use in waiting for it.
    pub(crate) fn client_is_stopped(&self) -> bool {
        /// Looking costs as much as a hit.
        const FRESH: Duration = Duration::from_millis(1);
        let mut stopped = lock(&self.stopped);
        let now = Instant::now();
        match *stopped {
            Some((when, known)) if now.saturating_duration_since(when) < FRESH => known,
            _ => {
                let known = procfs::is_stopped(self.client);
                *stopped = Some((now, known));
                known
            }
        }
    }

    /// Asks the client what to do at a hit, and does it; `None` if there is no answer.
    pub(crate) fn ask(&self, hit: &mut Hit<'_>) -> Option<Action> {
        let number = self.number.fetch_add(1, Ordering::Relaxed) & (u32::MAX >> 2);
        let index = self.take_slot()?;
        let action = self.ring.slot(index).and_then(|slot| self.ask_at(slot, index, number, hit));
        let mut slots = lock(&self.slots);
        match action {
            Some(_) => slots.free.push_front(index),
            None => slots.given_up.push((index, number)),
        }
        action
    }

    fn take_slot(&self) -> Option<usize> {
        let mut slots = lock(&self.slots);
        let Slots { free, given_up } = &mut *slots;
        given_up.retain(|&(index, number)| {
            let answered =
                self.ring.slot(index).is_some_and(|slot| slot.take(number, Turn::Warden).is_some());
            if answered {
                free.push_back(index);
            }
            !answered
        });
        let slot = free.pop_front();
        if slot.is_none() {
            self.ring.lose(1);
        }
        slot
    }

    fn ask_at(&self, slot: Slot<'_>, index: usize, number: u32, hit: &mut Hit<'_>) -> Option<Action> {
        slot.begin(number);
        if !self.record(kind::ASK, &question(hit, index, number)) {
            return None;
        }
        loop {
            slot.wait_while(number, Turn::Client, LOOK_AGAIN);
            let Some(bytes) = slot.take(number, Turn::Warden) else {
                if self.is_gone() {
                    return None;
                }
                if self.client_is_stopped() {
                    self.ring.lose(1);
                    return None;
                }
                continue;
            };
            let data = match parse(&bytes) {
                Ok(Answer::Verdict { action, registers, filtered }) => {
                    if filtered {
                        hit.filter_out();
                    }
                    if let Some(registers) = registers {
                        put(&registers, hit);
                    }
                    return Some(action_of(action));
                }
                Ok(Answer::Read { address, length }) => {
                    let mut bytes = vec![0; (length as usize).min(MOST_BYTES)];
                    let read = hit.read_up_to(address, &mut bytes);
                    bytes.truncate(read);
                    Data::Bytes(bytes)
                }
                Ok(Answer::Write { address, bytes }) => {
                    Data::Written(hit.write(address, &bytes).err().map(|fault| fault.address))
                }
                Err(_) => return None,
            };
            slot.give(number, Turn::Client, &postcard::to_stdvec(&data).ok()?);
        }
    }
}

/// The bytes of memory that go through a slot at once.
pub(crate) const MOST_BYTES: usize = 4096;

fn action_of(verdict: Verdict) -> Action {
    match verdict {
        Verdict::Continue => Action::Continue,
        Verdict::Skip => Action::Skip,
        Verdict::GoTo(target) => Action::GoTo(target),
        Verdict::Remove => Action::Remove,
        Verdict::Stop => Action::Stop,
    }
}

fn put(sent: &SentRegisters, hit: &mut Hit<'_>) {
    let registers = hit.registers_mut();
    (registers.gpr, registers.rip) = (sent.gpr, sent.rip);
    registers.rflags = Rflags::from_bits_retain(sent.rflags);
    (registers.fs_base, registers.gs_base, registers.segment) = (sent.fs_base, sent.gs_base, sent.segment);
}

/// The words of a question; [`Question::of_words`] is the way back.
fn question(hit: &Hit<'_>, slot: usize, number: u32) -> Vec<u64> {
    let registers = hit.registers();
    // Where it cannot be had, any will do.
    let cpu = nix::sched::sched_getcpu().unwrap_or(0) as u32;
    let mut words = vec![
        low_high(hit.probe().index() as u32, slot as u32),
        low_high(hit.pid().cast_unsigned(), hit.tid().cast_unsigned()),
        low_high(number, cpu),
        hit.ip(),
        registers.rip,
        registers.rflags.bits(),
        registers.fs_base,
        registers.gs_base,
    ];
    words.extend(registers.gpr);
    words.extend(registers.segment.map(u64::from));
    words
}

/// A hit that asks what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) probe: usize,
    pub(crate) slot: usize,
    pub(crate) pid: i32,
    pub(crate) tid: i32,
    pub(crate) number: u32,
    /// Where the warden runs.
    pub(crate) cpu: u32,
    pub(crate) ip: u64,
    pub(crate) registers: crate::engine::hit::GeneralRegisters,
}

impl Question {
    /// `None` if the words are none.
    pub(crate) fn of_words(words: &[u64]) -> Option<Question> {
        let (&[which, who, number, ip, rip, rflags, fs_base, gs_base], rest) =
            words.split_first_chunk::<8>()?;
        let (&gpr, rest) = rest.split_first_chunk::<16>()?;
        let segment = rest.first_chunk::<6>()?.map(|selector| selector as u16);
        let rflags = Rflags::from_bits_retain(rflags);
        Some(Question {
            probe: which as u32 as usize,
            slot: (which >> 32) as usize,
            pid: who as u32 as i32,
            tid: (who >> 32) as u32 as i32,
            number: number as u32,
            cpu: (number >> 32) as u32,
            ip,
            registers: crate::engine::hit::GeneralRegisters { gpr, rip, rflags, fs_base, gs_base, segment },
        })
    }
}
