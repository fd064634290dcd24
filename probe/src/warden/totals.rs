//! What a warden adds up itself, so that nothing goes to its client for each hit: stacks, and how often which values come.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::arguments::Value;
use crate::stacks::{Module, StackFrame};
use crate::target::lock;

/// What was added up of a probe's hits so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// The stacks that [`Step::CountStack`](crate::warden::Step::CountStack) has seen, the most frequent first.
    pub stacks: Vec<CountedStack>,
    /// How many hits had stacks that are not among them, since there were too many.
    pub other_stacks: u64,
    /// What each [`Step::Histogram`](crate::warden::Step::Histogram) has seen, in their order; those of returns behind
    /// those of entries.
    pub histograms: Vec<Histogram>,
}

/// A stack, and how often it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedStack {
    /// The frames, the thread's own place first.
    pub frames: Vec<StackFrame>,
    /// How often.
    pub count: u64,
}

/// How often which values were seen, by powers of two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Those that any value fell into, the lowest first.
    pub buckets: Vec<(Bucket, u64)>,
    /// How many hits had no value, or one that is no number.
    pub undefined: u64,
}

/// The numbers between two powers of two that follow each other, of one sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Bucket {
    /// -1, 0 or 1; the rest counts for nothing where this is 0.
    sign: i8,
    exponent: i16,
}

impl Bucket {
    /// That of an integer.
    #[must_use]
    pub fn of_integer(value: i128) -> Bucket {
        let exponent = value.unsigned_abs().checked_ilog2().map_or(0, |exponent| exponent as i16);
        Bucket { sign: value.signum() as i8, exponent }
    }

    /// That of a number; `None` for what is none (NaN).
    #[must_use]
    pub fn of_float(value: f64) -> Option<Bucket> {
        const BIAS: i16 = 1023;
        if value == 0.0 {
            return Some(Bucket { sign: 0, exponent: 0 });
        }
        // Denormal numbers are as good as the smallest normal one.
        let exponent = (value.to_bits() >> 52 & 0x7ff) as i16 - BIAS;
        let sign = if value < 0.0 { -1 } else { 1 };
        (!value.is_nan()).then_some(Bucket { sign, exponent })
    }

    fn of(value: &Value) -> Option<Bucket> {
        Some(match value {
            Value::Unsigned(value) | Value::Hexadecimal(value) | Value::Symbol(value) => {
                Bucket::of_integer((*value).into())
            }
            Value::Reference { value, .. } => return Bucket::of(value),
            Value::Pointer { address, .. } => Bucket::of_integer((*address).into()),
            Value::Signed(value) => Bucket::of_integer((*value).into()),
            Value::Boolean(value) => Bucket::of_integer((*value).into()),
            Value::Character(value) => Bucket::of_integer((*value).into()),
            Value::Letter(letter) => Bucket::of_integer(u32::from(*letter).into()),
            Value::Enumerator { number, .. } => Bucket::of_integer(*number),
            Value::Float(value) => return Bucket::of_float(*value),
            _ => return None,
        })
    }

    /// The lowest number of those above zero; of those below, that behind the lowest.
    #[must_use]
    pub fn from(self) -> f64 {
        match self.sign {
            0 => 0.0,
            1 => 2f64.powi(self.exponent.into()),
            _ => -2f64.powi(i32::from(self.exponent) + 1),
        }
    }

    /// The number behind the highest of those above zero; of those below, the highest.
    #[must_use]
    pub fn to(self) -> f64 {
        match self.sign {
            0 => 0.0,
            1 => 2f64.powi(i32::from(self.exponent) + 1),
            _ => -2f64.powi(self.exponent.into()),
        }
    }

    /// The one behind it, where integers are meant: zero lies between those of 1 and -1.
    #[must_use]
    pub fn next(self) -> Bucket {
        match (self.sign, self.exponent) {
            (0, _) => Bucket { sign: 1, exponent: 0 },
            (1, exponent) => Bucket { sign: 1, exponent: exponent.saturating_add(1) },
            (_, ..=0) => Bucket { sign: 0, exponent: 0 },
            (sign, exponent) => Bucket { sign, exponent: exponent - 1 },
        }
    }

    fn order(self) -> i32 {
        const ABOVE_ALL: i32 = 4096;
        i32::from(self.sign) * (i32::from(self.exponent) + ABOVE_ALL)
    }
}

impl PartialOrd for Bucket {
    fn partial_cmp(&self, other: &Bucket) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Bucket {
    fn cmp(&self, other: &Bucket) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// A frame on its way: its address, and the number of its module with whether the address is exact.
pub(crate) type SentFrame = (u64, u32);

const NO_MODULE: u32 = EXACT - 1;
const EXACT: u32 = 1 << 31;

pub(crate) fn sent_frame(frame: &StackFrame) -> SentFrame {
    let number = frame.module.as_ref().map_or(NO_MODULE, |module| module.number());
    (frame.ip, number.min(NO_MODULE) | if frame.exact { EXACT } else { 0 })
}

/// The modules that a client knows, by their numbers.
pub(crate) type Modules = HashMap<u32, Arc<Module>>;

pub(crate) fn frame_of((ip, number): SentFrame, modules: &Modules) -> StackFrame {
    let module = modules.get(&(number & NO_MODULE)).map(Arc::clone);
    StackFrame { ip, exact: number & EXACT != 0, module }
}

/// What is added up, while it is.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    stacks: Mutex<Stacks>,
    histograms: Mutex<Vec<(BTreeMap<Bucket, u64>, u64)>>,
}

#[derive(Debug, Default)]
struct Stacks {
    counts: HashMap<Box<[SentFrame]>, u64>,
    others: u64,
}

impl Tally {
    pub(crate) fn count_stack(&self, frames: &[StackFrame]) {
        /// Distinct ones of a probe. Each takes some hundred bytes.
        const MOST: usize = 1 << 16;
        let key: Vec<SentFrame> = frames.iter().map(sent_frame).collect();
        let mut stacks = lock(&self.stacks);
        let room = stacks.counts.len() < MOST;
        match stacks.counts.get_mut(key.as_slice()) {
            Some(count) => *count += 1,
            None if room => {
                stacks.counts.insert(key.into(), 1);
            }
            None => stacks.others += 1,
        }
    }

    pub(crate) fn count_value(&self, histogram: usize, value: Option<&Value>) {
        let mut histograms = lock(&self.histograms);
        if histograms.len() <= histogram {
            histograms.resize_with(histogram + 1, Default::default);
        }
        let Some((buckets, undefined)) = histograms.get_mut(histogram) else { return };
        match value.and_then(Bucket::of) {
            Some(bucket) => *buckets.entry(bucket).or_default() += 1,
            None => *undefined += 1,
        }
    }

    pub(crate) fn to_sent(&self) -> SentTotals {
        let stacks = lock(&self.stacks);
        let counts = stacks.counts.iter().map(|(frames, count)| (frames.to_vec(), *count)).collect();
        let histograms = lock(&self.histograms);
        let histograms = histograms.iter().map(|(buckets, undefined)| {
            (buckets.iter().map(|(bucket, count)| (*bucket, *count)).collect(), *undefined)
        });
        SentTotals { stacks: counts, others: stacks.others, histograms: histograms.collect() }
    }
}

/// [`Totals`] on their way.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SentTotals {
    stacks: Vec<(Vec<SentFrame>, u64)>,
    others: u64,
    histograms: Vec<(Vec<(Bucket, u64)>, u64)>,
}

impl Totals {
    pub(crate) fn of(sent: SentTotals, modules: &Modules) -> Totals {
        let counted = |(frames, count): (Vec<SentFrame>, u64)| {
            let frames = frames.into_iter().map(|frame| frame_of(frame, modules)).collect();
            CountedStack { frames, count }
        };
        let mut stacks: Vec<CountedStack> = sent.stacks.into_iter().map(counted).collect();
        let ips = |stack: &CountedStack| stack.frames.iter().map(|frame| frame.ip).collect::<Vec<_>>();
        stacks.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| ips(a).cmp(&ips(b))));
        let histogram = |(buckets, undefined)| Histogram { buckets, undefined };
        let histograms = sent.histograms.into_iter().map(histogram).collect();
        Totals { stacks, other_stacks: sent.others, histograms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each number lies in its bucket, and the bucket between its neighbours.
    #[test]
    fn buckets_hold_their_numbers() {
        for value in [1, 2, 3, 4, 7, 8, 1023, 1024, i64::MAX, -1, -2, -3, -4, -5, i64::MIN] {
            let bucket = Bucket::of_integer(value.into());
            let magnitude = (value as f64).abs();
            let (low, high) =
                if value > 0 { (bucket.from(), bucket.to()) } else { (-bucket.to(), -bucket.from()) };
            // As a double, the greatest integer is the power of two above it.
            assert!(low <= magnitude && (magnitude < high || value == i64::MAX), "{value} {low} {high}");
            assert!(bucket < bucket.next());
            let boundary = bucket.next();
            assert!(boundary.from() == bucket.to() || boundary.sign == 0, "{value}");
        }
        let zero = Bucket::of_integer(0);
        assert_eq!((zero.from(), zero.to()), (0.0, 0.0));
        assert!(Bucket::of_integer(-1) < zero && zero < Bucket::of_integer(1));
        assert_eq!(Bucket::of_integer(-1).next(), zero);
        assert_eq!(Bucket::of_float(0.75), Some(Bucket { sign: 1, exponent: -1 }));
        assert_eq!(Bucket::of_float(-3.0), Some(Bucket::of_integer(-3)));
        assert_eq!(Bucket::of_float(f64::NAN), None);
        assert!(Bucket::of_float(f64::INFINITY) > Bucket::of_float(f64::MAX));
    }

    #[test]
    fn values_of_each_kind_are_counted() {
        let tally = Tally::default();
        let values = [
            Some(Value::Signed(-3)),
            Some(Value::Unsigned(u64::MAX)),
            Some(Value::Float(1.5)),
            Some(Value::Boolean(true)),
            Some(Value::Fault),
            None,
        ];
        values.iter().for_each(|value| tally.count_value(1, value.as_ref()));
        let totals = Totals::of(tally.to_sent(), &Modules::new());
        let [first, second] = totals.histograms.as_slice() else { panic!("{totals:?}") };
        assert_eq!(*first, Histogram::default());
        let of = Bucket::of_integer;
        assert_eq!(second.buckets, [(of(-3), 1), (of(1), 2), (of(u64::MAX.into()), 1)]);
        assert_eq!(second.undefined, 2);
    }

    #[test]
    fn stacks_are_counted_and_none_is_lost() {
        let tally = Tally::default();
        let frame = |ip| StackFrame { ip, exact: ip % 2 == 0, module: None };
        for ips in [&[1, 2][..], &[2, 1], &[1, 2], &[]] {
            tally.count_stack(&ips.iter().map(|&ip| frame(ip)).collect::<Vec<_>>());
        }
        let totals = Totals::of(tally.to_sent(), &Modules::new());
        assert_eq!(totals.stacks.iter().map(|stack| stack.count).collect::<Vec<_>>(), [2, 1, 1]);
        assert_eq!(totals.stacks[0].frames, [frame(1), frame(2)]);
        for ip in 0..70_000 {
            tally.count_stack(&[frame(ip)]);
        }
        let totals = Totals::of(tally.to_sent(), &Modules::new());
        let counted: u64 = totals.stacks.iter().map(|stack| stack.count).sum();
        assert_eq!(counted + totals.other_stacks, 70_004);
        assert!(totals.other_stacks > 0);
    }
}
