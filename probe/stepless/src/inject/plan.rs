//! A plan: a file that says what is to be done where, in TOML.

use std::ops::Range;
use std::path::Path;

use probe::arguments::{Injection, Pick, Template};
use probe::spec::ProbeSpec;
use serde::Deserialize;
use toml::Spanned;

use super::{Key, What, parse_errno, parse_probability, parse_signal};
use crate::trace::what::parse_duration;
use crate::{Failure, input};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    inject: Vec<Spanned<Step>>,
}

/// The options of the command line, by their names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Step {
    probe: Spanned<String>,
    #[serde(rename = "return")]
    result: Option<Spanned<Value>>,
    errno: Option<Spanned<Value>>,
    #[serde(default)]
    set: Vec<Spanned<String>>,
    delay: Option<Spanned<String>>,
    signal: Option<Spanned<Value>>,
    #[serde(default)]
    skip: bool,
    nth: Option<Spanned<u64>>,
    every: Option<Spanned<u64>>,
    probability: Option<Spanned<f64>>,
    seed: Option<Spanned<u64>>,
    #[serde(default)]
    per_thread: bool,
}

/// What may be written as a number, too.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Integer(value) => value.to_string(),
            // With a point, so that it is one.
            Value::Float(value) => format!("{value:?}"),
            Value::Boolean(value) => value.to_string(),
        }
    }
}

/// What is wrong, and where.
type Wrong = (Range<usize>, String);

/// Reads a plan: probes, and what is done at each.
pub(super) fn read(path: &Path) -> Result<Vec<(String, Injection, Pick)>, Failure> {
    let named = |what: String| Failure::new(format!("{}: {what}", path.display()));
    let text = input::read(path).map_err(|error| named(error.to_string()))?;
    let text = String::from_utf8(text).map_err(|_| named("it is not UTF-8, as TOML is".to_owned()))?;
    parse(&text).map_err(|(place, what)| {
        let (line, column) = position(&text, place.start);
        Failure::new(format!("{}:{line}:{column}: {what}", path.display()))
    })
}

fn parse(text: &str) -> Result<Vec<(String, Injection, Pick)>, Wrong> {
    let plan: Plan = toml::from_str(text)
        .map_err(|error| (error.span().unwrap_or(0..0), error.message().replace('\n', ", ")))?;
    plan.inject.iter().map(Step::read).collect()
}

/// The line and the column of a byte, from 1.
fn position(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |end| end + 1);
    (line, before[start..].chars().count() + 1)
}

impl Step {
    fn read(step: &Spanned<Step>) -> Result<(String, Injection, Pick), Wrong> {
        let (whole, step) = (step.span(), step.get_ref());
        let what = step.what(&whole)?;
        let probe = step.probe.get_ref();
        let here = |error: String| (step.probe.span(), error);
        let (spec, rest) = ProbeSpec::parse_with_rest(probe).map_err(|error| here(error.to_string()))?;
        Template::behind(&spec, rest.text).map_err(|error| here(error.to_string()))?;
        let injection = what.injection().map_err(|(key, error)| {
            let place = match key {
                Key::Result => step.result.as_ref().map(Spanned::span),
                Key::Set(index) => step.set.get(index).map(Spanned::span),
                Key::All => None,
            };
            let error = if key == Key::All {
                "this does nothing: write return, errno, set, delay, signal or skip".to_owned()
            } else {
                error
            };
            (place.unwrap_or_else(|| whole.clone()), error)
        })?;
        Ok((probe.clone(), injection, what.pick()))
    }

    fn what(&self, whole: &Range<usize>) -> Result<What, Wrong> {
        if self.probability.is_some() != self.seed.is_some() {
            let (there, missing) = match &self.probability {
                Some(probability) => (probability.span(), "a seed"),
                None => (self.seed.as_ref().map_or_else(|| whole.clone(), Spanned::span), "a probability"),
            };
            return Err((there, format!("this takes {missing}, too")));
        }
        Ok(What {
            result: self.result.as_ref().map(|value| value.get_ref().text()),
            errno: read_with(self.errno.as_ref(), |value| parse_errno(&value.text()))?,
            set: self.set.iter().map(|change| change.get_ref().clone()).collect(),
            delay: read_with(self.delay.as_ref(), |text| parse_duration(text))?,
            signal: read_with(self.signal.as_ref(), |value| parse_signal(&value.text()))?,
            skip: self.skip,
            nth: read_with(self.nth.as_ref(), from_one)?,
            every: read_with(self.every.as_ref(), from_one)?,
            probability: read_with(self.probability.as_ref(), |value| parse_probability(&value.to_string()))?,
            seed: self.seed.as_ref().map(|seed| *seed.get_ref()),
            per_thread: self.per_thread,
        })
    }
}

fn from_one(number: &u64) -> Result<u64, String> {
    if *number > 0 { Ok(*number) } else { Err("hits are counted from 1".to_owned()) }
}

/// What a value comes to, if there is one.
fn read_with<T, R>(
    value: Option<&Spanned<T>>,
    read: impl FnOnce(&T) -> Result<R, String>,
) -> Result<Option<R>, Wrong> {
    value.map(|value| read(value.get_ref()).map_err(|error| (value.span(), error))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_the_options_say() {
        let text = r#"
            [[inject]]
            probe = "libc.so.6:write fd=%di:s32 if fd > 2"
            errno = "ENOSPC"
            nth = 3
            every = 2
            per-thread = true
            [[inject]]
            probe = "libc.so.6:malloc"
            return = 0
            set = ["%si=1"]
            delay = "10ms"
            signal = 10
            probability = 0.5
            seed = 7
        "#;
        let plan = parse(text).unwrap();
        let pick = Pick::new().nth(3).every(2).per_thread();
        let probe = "libc.so.6:write fd=%di:s32 if fd > 2".to_owned();
        assert_eq!(plan[0], (probe, Injection::new().errno(28), pick));
        let injection = Injection::new().result("0").unwrap().set("%si=1").unwrap();
        let injection = injection.delay(std::time::Duration::from_millis(10)).signal(10);
        assert_eq!(plan[1].1, injection);
        assert_eq!(plan[1].2, Pick::new().probability(0.5, 7));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, line, column, what) in [
            ("[[inject]]\nprobe = ", 2, 9, "value"),
            ("[[inject]]\nprobe = \"x:y\"\nerror = 1\n", 3, 1, "unknown field"),
            ("[[inject]]\nskip = true\n", 1, 1, "missing field"),
            ("[[inject]]\nprobe = \"x:y\"\n", 1, 1, "does nothing"),
            ("[[inject]]\nprobe = \"x\"\nskip = true\n", 2, 9, ""),
            ("[[inject]]\nprobe = \"x:y a=+(\"\nskip = true\n", 2, 9, "column"),
            ("[[inject]]\nprobe = \"x:y\"\nerrno = \"ENOSUCH\"\n", 3, 9, "error's name"),
            ("[[inject]]\nprobe = \"x:y\"\nset = [\"a=1\", \"b\"]\n", 3, 15, "TARGET=VALUE"),
            ("[[inject]]\nprobe = \"x:y\"\nreturn = \"1+\"\n", 3, 10, "column 3"),
            ("[[inject]]\nprobe = \"x:y\"\ndelay = \"soon\"\n", 3, 9, "time"),
            ("[[inject]]\nprobe = \"x:y\"\nskip = true\nnth = 0\n", 4, 7, "from 1"),
            ("[[inject]]\nprobe = \"x:y\"\nskip = true\nprobability = 0.5\n", 4, 15, "seed"),
            ("[[inject]]\nprobe = \"x:y\"\nskip = true\nseed = 5\n", 4, 8, "probability"),
            ("[[inject]]\nprobe = \"x:y\"\nskip = true\nprobability = 2.0\nseed = 5\n", 4, 15, "at most 1"),
            ("[[inject]]\nprobe = \"x:y\"\nskip = 1\n", 3, 8, "boolean"),
            ("", 1, 1, "missing field"),
        ] {
            let (place, found) = parse(text).unwrap_err();
            assert_eq!(position(text, place.start), (line, column), "{text:?}: {found}");
            assert!(found.contains(what), "{text:?}: {found}");
        }
    }
}
