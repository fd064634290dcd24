//! Perfetto's traces: the part of its protocol buffers that is needed here (protos/perfetto/trace/trace.proto and what
//! that includes, in the sources of Perfetto).
//!
//! Hits are instants on the track of their thread, calls are slices. Each slice has an end, and the packets come in the
//! order of their times.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};

use nix::time::{ClockId, clock_gettime};
use probe::arguments::Value;
use prost::Message;

use super::Event;
use super::tree::returned;

/// A file of them is a `Trace`, too: the contents of repeated fields of messages that follow each other are put together.
#[derive(Clone, PartialEq, Message)]
struct Trace {
    #[prost(message, repeated, tag = "1")]
    packet: Vec<TracePacket>,
}

#[derive(Clone, PartialEq, Message)]
struct TracePacket {
    #[prost(uint64, optional, tag = "8")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "58")]
    timestamp_clock_id: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    trusted_packet_sequence_id: Option<u32>,
    #[prost(message, optional, tag = "6")]
    clock_snapshot: Option<ClockSnapshot>,
    #[prost(message, optional, tag = "11")]
    track_event: Option<TrackEvent>,
    #[prost(message, optional, tag = "60")]
    track_descriptor: Option<TrackDescriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct ClockSnapshot {
    #[prost(message, repeated, tag = "1")]
    clocks: Vec<Clock>,
    #[prost(int32, optional, tag = "2")]
    primary_trace_clock: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct Clock {
    #[prost(uint32, optional, tag = "1")]
    clock_id: Option<u32>,
    #[prost(uint64, optional, tag = "2")]
    timestamp: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackDescriptor {
    #[prost(uint64, optional, tag = "1")]
    uuid: Option<u64>,
    #[prost(message, optional, tag = "3")]
    process: Option<ProcessDescriptor>,
    #[prost(message, optional, tag = "4")]
    thread: Option<ThreadDescriptor>,
    #[prost(uint64, optional, tag = "5")]
    parent_uuid: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct ProcessDescriptor {
    #[prost(int32, optional, tag = "1")]
    pid: Option<i32>,
    #[prost(string, optional, tag = "6")]
    process_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ThreadDescriptor {
    #[prost(int32, optional, tag = "1")]
    pid: Option<i32>,
    #[prost(int32, optional, tag = "2")]
    tid: Option<i32>,
    #[prost(string, optional, tag = "5")]
    thread_name: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
struct TrackEvent {
    #[prost(string, repeated, tag = "22")]
    categories: Vec<String>,
    #[prost(string, optional, tag = "23")]
    name: Option<String>,
    #[prost(enumeration = "Kind", optional, tag = "9")]
    r#type: Option<i32>,
    #[prost(uint64, optional, tag = "11")]
    track_uuid: Option<u64>,
    #[prost(message, repeated, tag = "4")]
    debug_annotations: Vec<DebugAnnotation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
enum Kind {
    Unspecified = 0,
    SliceBegin = 1,
    SliceEnd = 2,
    Instant = 3,
}

#[derive(Clone, PartialEq, Message)]
struct DebugAnnotation {
    #[prost(string, optional, tag = "10")]
    name: Option<String>,
    #[prost(bool, optional, tag = "2")]
    bool_value: Option<bool>,
    #[prost(uint64, optional, tag = "3")]
    uint_value: Option<u64>,
    #[prost(int64, optional, tag = "4")]
    int_value: Option<i64>,
    #[prost(double, optional, tag = "5")]
    double_value: Option<f64>,
    #[prost(string, optional, tag = "6")]
    string_value: Option<String>,
    #[prost(uint64, optional, tag = "7")]
    pointer_value: Option<u64>,
}

/// Numbers of clocks (protos/perfetto/common/builtin_clock.proto).
mod clock {
    pub(super) const REALTIME: u32 = 1;
    pub(super) const MONOTONIC: u32 = 3;
    pub(super) const BOOTTIME: u32 = 6;
}

/// All packets are of one writer.
const SEQUENCE: u32 = 1;

/// A packet that waits for others of an earlier time: threads are served side by side.
type Waiting = Reverse<(u64, u64, Vec<u8>)>;

#[derive(Debug, Default)]
pub(super) struct Perfetto {
    started: bool,
    /// The uuids of the tracks that are described.
    tracks: HashSet<u64>,
    /// By track: the calls that have not returned, with what they are of and when they began.
    open: HashMap<u64, Vec<(String, u64)>>,
    waiting: BinaryHeap<Waiting>,
    /// So that packets of one time stay in their order.
    number: u64,
    last_ns: u64,
}

impl Perfetto {
    pub(super) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) {
        /// More than threads can have on their way at once.
        const MOST_WAITING: usize = 1024;
        self.begin(out);
        self.last_ns = self.last_ns.max(event.time_ns);
        let track = self.track(event);
        let (name, open) = (event.probe, self.open.entry(track).or_default());
        match event.duration_ns {
            None if event.is_entry => {
                open.push((name.to_owned(), event.time_ns));
                self.slice(Kind::SliceBegin, track, event.time_ns, Some(event));
            }
            None => self.slice(Kind::Instant, track, event.time_ns, Some(event)),
            Some(duration_ns) => {
                let began_ns = event.time_ns.saturating_sub(duration_ns);
                let found = returned(open, began_ns, |(open, time_ns)| (open == name).then_some(*time_ns));
                match found {
                    // It had begun before.
                    None => self.slice(Kind::Instant, track, event.time_ns, Some(event)),
                    Some(index) => {
                        let left = open.len() - index - 1;
                        open.truncate(index);
                        (0..left).for_each(|_| self.slice(Kind::SliceEnd, track, event.time_ns, None));
                        self.slice(Kind::SliceEnd, track, event.time_ns, Some(event));
                    }
                }
            }
        }
        while self.waiting.len() > MOST_WAITING {
            self.write_first(out);
        }
    }

    /// Ends what has not ended.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.begin(out);
        let mut tracks: Vec<_> = self.open.drain().collect();
        tracks.sort();
        for (track, open) in tracks {
            open.iter().for_each(|_| self.slice(Kind::SliceEnd, track, self.last_ns, None));
        }
        while !self.waiting.is_empty() {
            self.write_first(out);
        }
    }

    fn write_first(&mut self, out: &mut Vec<u8>) {
        if let Some(Reverse((_, _, packet))) = self.waiting.pop() {
            out.extend(packet);
        }
    }

    /// What stands before all events: which clock is meant.
    fn begin(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let clock = |clock_id, id| {
            let now = clock_gettime(id).map(std::time::Duration::from).unwrap_or_default();
            Clock { clock_id: Some(clock_id), timestamp: u64::try_from(now.as_nanos()).ok() }
        };
        let clocks = vec![
            clock(clock::MONOTONIC, ClockId::CLOCK_MONOTONIC),
            clock(clock::BOOTTIME, ClockId::CLOCK_BOOTTIME),
            clock(clock::REALTIME, ClockId::CLOCK_REALTIME),
        ];
        let snapshot = ClockSnapshot { clocks, primary_trace_clock: Some(clock::MONOTONIC as i32) };
        out.extend(encoded(TracePacket { clock_snapshot: Some(snapshot), ..packet() }));
    }

    /// The track of an event's thread, which is described first.
    fn track(&mut self, event: &Event<'_>) -> u64 {
        const PROCESS: u64 = 1 << 32;
        const THREAD: u64 = 2 << 32;
        let process = PROCESS | u64::from(event.pid.cast_unsigned());
        let thread = THREAD | u64::from(event.tid.cast_unsigned());
        if self.tracks.insert(process) {
            let name = if event.pid == event.tid { event.comm.clone() } else { command_of(event.pid) };
            let descriptor = ProcessDescriptor { pid: Some(event.pid), process_name: name };
            self.describe(
                event.time_ns,
                TrackDescriptor {
                    uuid: Some(process),
                    process: Some(descriptor),
                    ..TrackDescriptor::default()
                },
            );
        }
        if self.tracks.insert(thread) {
            let (pid, tid) = (Some(event.pid), Some(event.tid));
            self.describe(
                event.time_ns,
                TrackDescriptor {
                    uuid: Some(thread),
                    thread: Some(ThreadDescriptor { pid, tid, thread_name: event.comm.clone() }),
                    parent_uuid: Some(process),
                    ..TrackDescriptor::default()
                },
            );
        }
        thread
    }

    fn describe(&mut self, time_ns: u64, descriptor: TrackDescriptor) {
        self.wait(time_ns, TracePacket { track_descriptor: Some(descriptor), ..packet() });
    }

    fn slice(&mut self, kind: Kind, track: u64, time_ns: u64, event: Option<&Event<'_>>) {
        let name = event.filter(|_| kind != Kind::SliceEnd).map(|event| event.probe.to_owned());
        let track_event = TrackEvent {
            categories: vec!["probe".to_owned()],
            name,
            r#type: Some(kind.into()),
            track_uuid: Some(track),
            debug_annotations: event.map(annotations).unwrap_or_default(),
        };
        let (timestamp, timestamp_clock_id) = (Some(time_ns), Some(clock::MONOTONIC));
        let track_event = Some(track_event);
        self.wait(time_ns, TracePacket { timestamp, timestamp_clock_id, track_event, ..packet() });
    }

    fn wait(&mut self, time_ns: u64, packet: TracePacket) {
        self.number += 1;
        self.waiting.push(Reverse((time_ns, self.number, encoded(packet))));
    }
}

fn packet() -> TracePacket {
    TracePacket { trusted_packet_sequence_id: Some(SEQUENCE), ..TracePacket::default() }
}

fn encoded(packet: TracePacket) -> Vec<u8> {
    Trace { packet: vec![packet] }.encode_to_vec()
}

/// The name of a process of which another thread is seen first.
fn command_of(pid: i32) -> Option<String> {
    let name = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(&name).trim_end().to_owned())
}

fn annotations(event: &Event<'_>) -> Vec<DebugAnnotation> {
    let named = |name: &str| DebugAnnotation { name: Some(name.to_owned()), ..DebugAnnotation::default() };
    let mut all = vec![DebugAnnotation { pointer_value: Some(event.ip), ..named("ip") }];
    if let Some(place) = &event.place {
        all.push(DebugAnnotation { string_value: Some(place.to_string()), ..named("place") });
    }
    if let Some(cpu) = event.cpu {
        all.push(DebugAnnotation { uint_value: Some(cpu.into()), ..named("cpu") });
    }
    if let Some(value) = &event.retval {
        all.push(annotation(named("retval"), value));
    }
    for (name, value) in &event.args {
        all.push(annotation(named(name), value));
    }
    if let Some(stack) = &event.stack {
        let stack: Vec<String> = stack.iter().map(|place| place.to_string()).collect();
        all.push(DebugAnnotation { string_value: Some(stack.join("\n")), ..named("stack") });
    }
    all
}

fn annotation(named: DebugAnnotation, value: &Value) -> DebugAnnotation {
    match value {
        Value::Unsigned(value) => DebugAnnotation { uint_value: Some(*value), ..named },
        Value::Signed(value) => DebugAnnotation { int_value: Some(*value), ..named },
        Value::Boolean(value) => DebugAnnotation { bool_value: Some(*value), ..named },
        Value::Float(value) => DebugAnnotation { double_value: Some(*value), ..named },
        Value::Hexadecimal(value) => DebugAnnotation { pointer_value: Some(*value), ..named },
        Value::Pointer { address, text: None } => DebugAnnotation { pointer_value: Some(*address), ..named },
        Value::Text(text) | Value::Pointer { text: Some(Some(text)), .. } => {
            DebugAnnotation { string_value: Some(text.to_plain()), ..named }
        }
        Value::Reference { value, .. } => annotation(named, value),
        other => DebugAnnotation { string_value: Some(other.to_string()), ..named },
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, printed};
    use super::*;
    use crate::args::Format;

    fn read(events: &[Event<'_>]) -> Vec<TracePacket> {
        Trace::decode(printed(Format::Perfetto, events).as_slice()).unwrap().packet
    }

    #[test]
    fn hits_are_instants_in_the_order_of_their_times() {
        let packets = read(&[event(3000), event(1000), event(2000)]);
        let times: Vec<_> = packets.iter().filter_map(|packet| packet.timestamp).collect();
        assert_eq!(times, [1000, 2000, 3000]);
        let kinds =
            packets.iter().filter_map(|packet| packet.track_event.as_ref()).map(|event| event.r#type());
        assert!(kinds.eq([Kind::Instant; 3]));
        let described = packets.iter().filter_map(|packet| packet.track_descriptor.as_ref());
        let uuids: Vec<_> = described.map(|track| track.uuid()).collect();
        assert_eq!(uuids, [1 << 32 | 7, 2 << 32 | 8]);
        assert_eq!(read(&[]).len(), 1);
    }

    #[test]
    fn each_slice_has_its_end() {
        let entry = |time_ns| Event { is_entry: true, ..event(time_ns) };
        let exit = |time_ns, duration_ns| Event { duration_ns: Some(duration_ns), ..event(time_ns) };
        // The second has never returned, the last not yet; one had begun before.
        let events = [entry(10), entry(20), exit(50, 40), exit(60, 55), entry(70)];
        let packets = read(&events);
        let kinds: Vec<_> = packets
            .iter()
            .filter_map(|packet| packet.track_event.as_ref())
            .map(|event| event.r#type())
            .collect();
        use Kind::{Instant, SliceBegin, SliceEnd};
        assert_eq!(kinds, [SliceBegin, SliceBegin, SliceEnd, SliceEnd, Instant, SliceBegin, SliceEnd]);
    }
}
