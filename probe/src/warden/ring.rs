//! A ring of records in shared memory: the warden writes, its client reads. Neither believes what the other has written:
//! lengths and positions are checked, and a record is copied out before it is looked at.
//!
//! Beside it are the places where a hit waits for its client's answer.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::warden::shared::{self, Shared};

/// Where the words are that both sides use; each far enough from the others for a cache line of its own.
mod place {
    /// How many words have ever been written.
    pub(super) const HEAD: usize = 0;
    /// How many have been read.
    pub(super) const TAIL: usize = 8;
    /// How many records were dropped.
    pub(super) const LOST: usize = 16;
    /// 1 if the reader sleeps.
    pub(super) const READER_SLEEPS: usize = 24;
    /// 1 if a writer sleeps.
    pub(super) const WRITER_SLEEPS: usize = 32;
    /// Changes when there is room again.
    pub(super) const ROOM: usize = 40;
    /// 1 if the writer has kept records back for want of room.
    pub(super) const KEPT_BACK: usize = 48;
    /// The first slot for an answer.
    pub(super) const SLOTS: usize = 64;
}

/// How many hits can wait for an answer at the same time.
pub(crate) const SLOTS: usize = 64;
/// The words of a slot.
const SLOT_WORDS: usize = 1024;
const HEADER: usize = place::SLOTS + SLOTS * SLOT_WORDS;
/// The most words that are written in one piece: a quarter of the smallest ring.
const LONGEST: usize = 4096;
/// In the first word of a piece: the next one has more of the same record.
const MORE: u64 = 1 << 40;
/// The most words of a record in pieces.
const MOST_WORDS: usize = 1 << 24;
const SMALLEST: usize = 4 * LONGEST;

/// One record: what it is, and its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    pub(crate) words: Vec<u64>,
}

/// The other side has written what cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// The ring, seen from either side.
#[derive(Debug)]
pub(crate) struct Ring {
    shared: Shared,
    capacity: u64,
}

impl Ring {
    /// A ring with room for about so many bytes, and the file by which the other side maps it.
    pub(crate) fn create(bytes: usize) -> io::Result<(Ring, File)> {
        let capacity = (bytes / 8).clamp(SMALLEST, 1 << 27).next_power_of_two();
        let (shared, file) = Shared::create(HEADER + capacity)?;
        Ok((Ring { shared, capacity: capacity as u64 }, file))
    }

    /// The ring in a file from the other side.
    pub(crate) fn open(file: &File) -> io::Result<Ring> {
        let shared = Shared::open(file)?;
        let capacity = shared.words().len().checked_sub(HEADER).filter(|&words| words >= SMALLEST);
        match capacity.filter(|words| words.is_power_of_two()) {
            Some(capacity) => Ok(Ring { shared, capacity: capacity as u64 }),
            None => Err(io::Error::new(io::ErrorKind::InvalidInput, "the shared memory is no ring")),
        }
    }

    /// A word of the header, which `open` has seen to be there.
    fn word(&self, index: usize) -> &AtomicU64 {
        &self.shared.words()[index]
    }

    fn data(&self, position: u64) -> &AtomicU64 {
        self.word(HEADER + (position & (self.capacity - 1)) as usize)
    }

    /// How many records were dropped so far.
    pub(crate) fn lost(&self) -> u64 {
        self.word(place::LOST).load(Ordering::SeqCst)
    }

    /// Counts dropped records.
    pub(crate) fn lose(&self, records: u64) {
        self.word(place::LOST).fetch_add(records, Ordering::SeqCst);
    }

    /// The slot with that number.
    pub(crate) fn slot(&self, index: usize) -> Option<Slot<'_>> {
        let start = place::SLOTS + index.checked_mul(SLOT_WORDS)?;
        (index < SLOTS).then(|| Slot(&self.shared.words()[start..start + SLOT_WORDS]))
    }

    /// Waits until the reader has made room, for that long at most.
    pub(crate) fn wait_for_room(&self, wanted: usize, most: Duration) {
        let room = self.word(place::ROOM).load(Ordering::SeqCst) as u32;
        self.word(place::WRITER_SLEEPS).store(1, Ordering::SeqCst);
        let head = self.word(place::HEAD).load(Ordering::SeqCst);
        let used = head.wrapping_sub(self.word(place::TAIL).load(Ordering::SeqCst));
        if used.saturating_add(wanted as u64) > self.capacity {
            shared::wait(self.word(place::ROOM), room, most);
        }
    }

    /// Wakes a writer that waits for room.
    pub(crate) fn wake_writers(&self) {
        self.word(place::ROOM).fetch_add(1, Ordering::SeqCst);
        shared::wake(self.word(place::ROOM));
    }

    /// Says that the reader is about to sleep. It must look again after this, and then sleep only if there is nothing.
    pub(crate) fn reader_sleeps(&self) {
        self.word(place::READER_SLEEPS).store(1, Ordering::SeqCst);
    }

    /// Says that the reader is awake.
    pub(crate) fn reader_wakes(&self) {
        self.word(place::READER_SLEEPS).store(0, Ordering::SeqCst);
    }

    /// Whether the reader must be woken, which the caller does.
    fn must_wake_reader(&self) -> bool {
        let sleeps = self.word(place::READER_SLEEPS);
        sleeps.load(Ordering::SeqCst) != 0 && sleeps.swap(0, Ordering::SeqCst) != 0
    }

    /// Whether the writer has kept records back; the reader asks it to write them once there is room.
    pub(crate) fn takes_kept_back(&self) -> bool {
        let kept = self.word(place::KEPT_BACK);
        kept.load(Ordering::SeqCst) != 0 && kept.swap(0, Ordering::SeqCst) != 0
    }
}

/// The reader's place in the ring.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    tail: u64,
    /// The words of a record that has not been written to its end.
    begun: Vec<u64>,
}

impl Reader {
    /// Whether there is something to read.
    pub(crate) fn has_next(&self, ring: &Ring) -> bool {
        ring.word(place::HEAD).load(Ordering::SeqCst) != self.tail
    }

    /// The next record, if there is a whole one.
    pub(crate) fn next(&mut self, ring: &Ring) -> Result<Option<Record>, Corrupt> {
        while let Some((record, more)) = self.piece(ring)? {
            if !more && self.begun.is_empty() {
                return Ok(Some(record));
            }
            self.begun.extend(record.words);
            if !more {
                return Ok(Some(Record { kind: record.kind, words: std::mem::take(&mut self.begun) }));
            }
            if self.begun.len() > MOST_WORDS {
                return Err(Corrupt);
            }
        }
        Ok(None)
    }

    /// The next piece, and whether there is more of its record.
    fn piece(&mut self, ring: &Ring) -> Result<Option<(Record, bool)>, Corrupt> {
        let head = ring.word(place::HEAD).load(Ordering::SeqCst);
        let there = head.wrapping_sub(self.tail);
        if there == 0 {
            return Ok(None);
        }
        let first = ring.data(self.tail).load(Ordering::Relaxed);
        let length = first & 0xffff_ffff;
        if there > ring.capacity || length == 0 || length > there || length > LONGEST as u64 {
            return Err(Corrupt);
        }
        let word = |offset| ring.data(self.tail.wrapping_add(offset)).load(Ordering::Relaxed);
        let words = (1..length).map(word).collect();
        self.tail = self.tail.wrapping_add(length);
        ring.word(place::TAIL).store(self.tail, Ordering::SeqCst);
        // A writer that waits is woken when much has been read, not for each record.
        let sleeps = ring.word(place::WRITER_SLEEPS);
        if there - length <= ring.capacity / 2
            && sleeps.load(Ordering::SeqCst) != 0
            && sleeps.swap(0, Ordering::SeqCst) != 0
        {
            ring.wake_writers();
        }
        Ok(Some((Record { kind: (first >> 32) as u8, words }, first & MORE != 0)))
    }
}

/// What has become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// It is in the ring; whether the reader must be woken.
    Done { wake: bool },
    /// There is no room for it.
    Full,
    /// The reader has written what cannot be: it will not read any more.
    Corrupt,
}

/// The writers' place in the ring, which the threads of the warden share.
#[derive(Debug, Default)]
pub(crate) struct Writer(Mutex<Head>);

#[derive(Debug, Default)]
struct Head {
    head: u64,
    /// The pieces of records that are too important to be dropped, in the order in which they go before any other: whether
    /// there is more of the same.
    kept_back: VecDeque<(Record, bool)>,
}

impl Writer {
    /// Writes a record, unless there is no room.
    pub(crate) fn write(&self, ring: &Ring, kind: u8, words: &[u64]) -> Written {
        let mut head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match head.write_kept_back(ring) {
            Written::Done { .. } => head.write(ring, kind, words, false),
            other => other,
        }
    }

    /// The same for one that must not be dropped, of any length: it is kept until there is room. Says whether the reader
    /// must be woken.
    pub(crate) fn write_or_keep(&self, ring: &Ring, record: Record) -> bool {
        /// A program can cause events without end while nobody reads.
        const MOST: usize = 100_000;
        let mut head = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pieces = record.words.chunks(LONGEST - 1);
        if head.kept_back.len() + pieces.len() > MOST || record.words.len() > MOST_WORDS {
            ring.lose(1);
        } else {
            let last = pieces.len().saturating_sub(1);
            let piece = |(number, words): (usize, &[u64])| {
                (Record { kind: record.kind, words: words.to_vec() }, number < last)
            };
            head.kept_back.extend(pieces.enumerate().map(piece));
        }
        head.flush(ring)
    }

    /// Writes what was kept back, as far as there is room. Says whether the reader must be woken.
    pub(crate) fn flush(&self, ring: &Ring) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).flush(ring)
    }

    /// Whether nothing is kept back.
    #[cfg(test)]
    pub(crate) fn is_flushed(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).kept_back.is_empty()
    }
}

impl Head {
    fn flush(&mut self, ring: &Ring) -> bool {
        let written = self.write_kept_back(ring);
        if !self.kept_back.is_empty() {
            ring.word(place::KEPT_BACK).store(1, Ordering::SeqCst);
        }
        written == Written::Done { wake: true } || ring.must_wake_reader()
    }

    fn write_kept_back(&mut self, ring: &Ring) -> Written {
        let mut any = false;
        while let Some((record, more)) = self.kept_back.front() {
            let Record { kind, ref words } = *record;
            let (words, more) = (words.clone(), *more);
            match self.write(ring, kind, &words, more) {
                Written::Done { wake } => any |= wake,
                other => return other,
            }
            self.kept_back.pop_front();
        }
        Written::Done { wake: any }
    }

    fn write(&mut self, ring: &Ring, kind: u8, words: &[u64], more: bool) -> Written {
        let length = words.len() as u64 + 1;
        let used = self.head.wrapping_sub(ring.word(place::TAIL).load(Ordering::SeqCst));
        if used > ring.capacity || length > LONGEST as u64 {
            return Written::Corrupt;
        }
        if used + length > ring.capacity {
            return Written::Full;
        }
        let more = if more { MORE } else { 0 };
        ring.data(self.head).store(length | u64::from(kind) << 32 | more, Ordering::Relaxed);
        for (offset, &word) in (1..).zip(words) {
            ring.data(self.head.wrapping_add(offset)).store(word, Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(length);
        ring.word(place::HEAD).store(self.head, Ordering::SeqCst);
        Written::Done { wake: ring.must_wake_reader() }
    }
}

/// A place where a hit waits for an answer, and where both sides put bytes in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot<'a>(&'a [AtomicU64]);

/// Whose turn it is at a slot. The number of the question stands above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Turn {
    /// The client's.
    Client = 1,
    /// The warden's.
    Warden = 2,
}

impl Slot<'_> {
    /// How many bytes fit.
    pub(crate) const BYTES: usize = (SLOT_WORDS - 2) * 8;

    fn state(number: u32, turn: Turn) -> u32 {
        number << 2 | turn as u32
    }

    /// Begins question `number`: the turn is the client's, who is told of it by a record.
    pub(crate) fn begin(self, number: u32) {
        self.0[1].store(0, Ordering::Relaxed);
        self.0[0].store(Self::state(number, Turn::Client).into(), Ordering::SeqCst);
    }

    /// Gives the turn for question `number`, with these bytes.
    pub(crate) fn give(self, number: u32, turn: Turn, bytes: &[u8]) {
        let length = bytes.len().min(Self::BYTES);
        self.0[1].store(length as u64, Ordering::Relaxed);
        for (word, bytes) in self.0[2..].iter().zip(bytes[..length].chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(padded), Ordering::Relaxed);
        }
        self.0[0].store(Self::state(number, turn).into(), Ordering::SeqCst);
        shared::wake(&self.0[0]);
    }

    /// The bytes that came with the turn, if it is `turn` for question `number` now.
    pub(crate) fn take(self, number: u32, turn: Turn) -> Option<Vec<u8>> {
        if self.0[0].load(Ordering::SeqCst) as u32 != Self::state(number, turn) {
            return None;
        }
        let length = usize::try_from(self.0[1].load(Ordering::Relaxed)).ok()?.min(Self::BYTES);
        let words = self.0[2..].iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words.flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect();
        bytes.truncate(length);
        Some(bytes)
    }

    /// Waits until the turn for question `number` is not `turn` any more, for that long at most.
    pub(crate) fn wait_while(self, number: u32, turn: Turn, most: Duration) {
        shared::wait(&self.0[0], Self::state(number, turn), most);
    }
}

/// Bytes as the words of a record: their number first.
pub(crate) fn words_of(bytes: &[u8]) -> Vec<u64> {
    let packed = bytes.chunks(8).map(|bytes| {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(padded)
    });
    std::iter::once(bytes.len() as u64).chain(packed).collect()
}

/// The bytes in the words of a record.
pub(crate) fn bytes_of(words: &[u64]) -> Option<Vec<u8>> {
    let (&length, packed) = words.split_first()?;
    let mut bytes: Vec<u8> = packed.iter().flat_map(|word| word.to_le_bytes()).collect();
    let length = usize::try_from(length).ok().filter(|&length| length <= bytes.len())?;
    bytes.truncate(length);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both_sides() -> (Ring, Ring) {
        let (writing, file) = Ring::create(0).unwrap();
        (writing, Ring::open(&file).unwrap())
    }

    /// Numbers that look random (Marsaglia's xorshift).
    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn several_writers_and_one_reader_lose_nothing_and_mix_nothing_up() {
        const EACH: u64 = 20_000;
        const WRITERS: u64 = 3;
        let (writing, reading) = both_sides();
        let writer = Writer::default();
        std::thread::scope(|scope| {
            for me in 0..WRITERS {
                let (writer, writing) = (&writer, &writing);
                scope.spawn(move || {
                    for number in 0..EACH {
                        let words = vec![number; (number % 50) as usize + 1];
                        while writer.write(writing, me as u8, &words) == Written::Full {
                            writing.wait_for_room(words.len() + 1, Duration::from_secs(60));
                        }
                    }
                });
            }
            let mut reader = Reader::default();
            let mut next = [0; WRITERS as usize];
            while next.iter().any(|&next| next < EACH) {
                let Some(record) = reader.next(&reading).unwrap() else { continue };
                let number = next[usize::from(record.kind)];
                assert_eq!(record.words, vec![number; (number % 50) as usize + 1]);
                next[usize::from(record.kind)] += 1;
            }
            assert_eq!(reader.next(&reading), Ok(None));
        });
    }

    #[test]
    fn what_is_kept_back_comes_first_and_in_order() {
        let (writing, reading) = both_sides();
        let writer = Writer::default();
        let mut written = 0;
        while matches!(writer.write(&writing, 1, &[written; 99]), Written::Done { .. }) {
            written += 1;
        }
        for number in 0..3 {
            writer.write_or_keep(&writing, Record { kind: 2, words: vec![number] });
        }
        let mut reader = Reader::default();
        let mut read = Vec::new();
        while let Some(record) = reader.next(&reading).unwrap() {
            read.push(record);
            if reading.takes_kept_back() {
                writer.flush(&writing);
            }
        }
        assert!(writer.is_flushed());
        assert_eq!(read.len() as u64, written + 3);
        let last: Vec<_> = read.iter().rev().take(3).map(|record| record.words[0]).collect();
        assert_eq!(last, [2, 1, 0]);
    }

    #[test]
    fn what_is_kept_back_is_of_any_length_and_whole() {
        let (writing, reading) = both_sides();
        let (writer, mut reader) = (Writer::default(), Reader::default());
        // Whole pieces and parts of one, and more than there is room for.
        let lengths = [1, LONGEST - 1, LONGEST, 2 * (LONGEST - 1), 3 * SMALLEST + 7, 2];
        for length in lengths {
            let words = (0..length as u64).collect();
            writer.write_or_keep(&writing, Record { kind: 2, words });
            writer.write(&writing, 1, &[length as u64]);
        }
        let mut read = Vec::new();
        loop {
            match reader.next(&reading).unwrap() {
                Some(record) if record.kind == 2 => {
                    assert!(record.words.iter().copied().eq(0..record.words.len() as u64));
                    read.push(record.words.len());
                }
                Some(_) => {}
                None if reading.takes_kept_back() => {
                    writer.flush(&writing);
                }
                None => break,
            }
        }
        assert_eq!((read.as_slice(), reading.lost()), (&lengths[..], 0));
    }

    /// Whatever one side writes, anywhere, the other returns, within bounds.
    #[test]
    fn nothing_that_the_other_side_writes_does_harm() {
        let mut seed = 0x1234_5678_9abc_def1;
        for _ in 0..2000 {
            let (one, other) = both_sides();
            let writer = Writer::default();
            writer.write(&one, 1, &[1, 2, 3]);
            for _ in 0..random(&mut seed) % 8 + 1 {
                let value = match random(&mut seed) % 4 {
                    0 => random(&mut seed) % 20_000,
                    1 => u64::MAX - random(&mut seed) % 20_000,
                    _ => random(&mut seed),
                };
                let place = [place::HEAD, place::TAIL, HEADER, HEADER + 4, place::SLOTS, place::SLOTS + 1]
                    [(random(&mut seed) % 6) as usize];
                other.word(place).store(value, Ordering::SeqCst);
            }
            let mut reader = Reader::default();
            for _ in 0..100 {
                match reader.next(&one) {
                    Ok(Some(record)) => assert!(record.words.len() < LONGEST + MOST_WORDS),
                    Ok(None) | Err(Corrupt) => break,
                }
            }
            writer.write(&one, 1, &[1, 2, 3]);
            let slot = one.slot(0).unwrap();
            let state = slot.0[0].load(Ordering::SeqCst) as u32;
            let taken = slot.take(state >> 2, Turn::Client);
            assert!(taken.is_none_or(|bytes| bytes.len() <= Slot::BYTES));
        }
    }

    #[test]
    fn an_answer_is_taken_by_the_question_that_it_is_for() {
        let (one, other) = both_sides();
        let (asks, answers) = (one.slot(3).unwrap(), other.slot(3).unwrap());
        asks.give(7, Turn::Client, b"");
        assert_eq!(asks.take(7, Turn::Warden), None);
        assert_eq!(answers.take(7, Turn::Client).as_deref(), Some(&b""[..]));
        answers.give(7, Turn::Warden, b"an answer");
        assert_eq!(asks.take(8, Turn::Warden), None);
        assert_eq!(asks.take(7, Turn::Warden).as_deref(), Some(&b"an answer"[..]));
        assert!(one.slot(SLOTS).is_none());
    }

    #[test]
    fn bytes_become_words_and_bytes_again() {
        for length in 0..20 {
            let bytes: Vec<u8> = (0..length).collect();
            assert_eq!(bytes_of(&words_of(&bytes)), Some(bytes));
        }
        assert_eq!(bytes_of(&[9, 1]), None);
        assert_eq!(bytes_of(&[u64::MAX]), None);
        assert_eq!(bytes_of(&[]), None);
    }
}
