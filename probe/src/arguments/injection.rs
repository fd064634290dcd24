//! What is to be done to a thread at a hit, as a user writes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arguments::failure;
use crate::arguments::lexer::SyntaxError;
use crate::arguments::syntax::{Fetch, Node, parse_expression, parse_fetch};

/// What is to be done to a thread at a hit: what a function returns, registers and memory that are changed, a delay, a
/// signal. It takes effect at once or, where a part of it cannot be done, not at all.
///
/// What it comes to at a site, such as in which register a result is returned, is found out when the probe is placed.
///
/// ```
/// use probe::arguments::Injection;
///
/// // write(2) fails as if the disk were full, after it has been looked at which descriptor it was.
/// let full = Injection::new().errno(Injection::parse_errno("ENOSPC").ok_or("no such error")?);
/// assert!(!full.is_empty());
/// let changed = Injection::new().set("n=n+1")?.set("%si=0")?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Sent", into = "Sent")]
pub struct Injection {
    pub(crate) result: Option<(String, Node)>,
    pub(crate) errno: Option<i32>,
    pub(crate) changes: Vec<Assignment>,
    pub(crate) skip: bool,
    pub(crate) delay: Duration,
    pub(crate) signal: Option<i32>,
}

/// `TARGET=VALUE`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assignment {
    /// All of it.
    pub(crate) text: String,
    /// How much of it is the target.
    pub(crate) length: usize,
    pub(crate) target: Fetch,
    pub(crate) value: Node,
}

/// One on its way.
#[derive(Serialize, Deserialize)]
struct Sent {
    result: Option<String>,
    errno: Option<i32>,
    changes: Vec<String>,
    skip: bool,
    delay: Duration,
    signal: Option<i32>,
}

impl From<Injection> for Sent {
    fn from(injection: Injection) -> Sent {
        let Injection { result, errno, changes, skip, delay, signal } = injection;
        let changes = changes.into_iter().map(|change| change.text).collect();
        Sent { result: result.map(|(text, _)| text), errno, changes, skip, delay, signal }
    }
}

impl TryFrom<Sent> for Injection {
    type Error = SyntaxError;

    fn try_from(sent: Sent) -> Result<Injection, SyntaxError> {
        let Sent { result, errno, changes, skip, delay, signal } = sent;
        let mut injection = Injection { errno, skip, delay, signal, ..Injection::default() };
        if let Some(result) = result {
            injection = injection.result(&result)?;
        }
        changes.iter().try_fold(injection, |injection, change| injection.set(change))
    }
}

/// The most changes of one.
const MOST_CHANGES: usize = 64;

impl Injection {
    /// Nothing.
    #[must_use]
    pub fn new() -> Injection {
        Injection::default()
    }

    /// The same, and the function returns this: without having run, where the probe is at its first instruction; in place of
    /// its result, where the probe is at its return. At an instruction that is a system call, that returns this, and the
    /// kernel is not entered. An expression, as arguments are.
    ///
    /// # Errors
    /// The text is none.
    pub fn result(self, value: &str) -> Result<Injection, SyntaxError> {
        let node = parse_expression(value)?;
        Ok(Injection { result: Some((value.to_owned(), node)), ..self })
    }

    /// The same, and the function fails with this error: it sets the thread's `errno` and returns what says so, -1 or NULL,
    /// unless [`Injection::result`] says what; those that return the error itself do that. An instruction that is a system
    /// call returns it as the kernel does.
    #[must_use]
    pub fn errno(self, errno: i32) -> Injection {
        Injection { errno: Some(errno), ..self }
    }

    /// The same with a change, `TARGET=VALUE`: a register, a variable, a part of one, or memory gets the value of an
    /// expression. All values are those before the first change.
    ///
    /// # Errors
    /// The text is none.
    pub fn set(mut self, change: &str) -> Result<Injection, SyntaxError> {
        let wrong = |column, what: &str| Err(SyntaxError::new(change, column, what.to_owned()));
        let Some(length) = assignment(change) else {
            return wrong(change.len(), "expected TARGET=VALUE");
        };
        if self.changes.len() >= MOST_CHANGES {
            return wrong(0, &format!("there are at most {MOST_CHANGES} changes"));
        }
        let (target, value) = (&change[..length], &change[length + 1..]);
        let within = |start: usize| {
            move |error: SyntaxError| SyntaxError::new(change, start + error.column, error.what)
        };
        let target = parse_fetch(target).map_err(within(0))?;
        let value = parse_expression(value).map_err(within(length + 1))?;
        self.changes.push(Assignment { text: change.to_owned(), length, target, value });
        Ok(self)
    }

    /// The same, and the instruction is left out.
    #[must_use]
    pub fn skip(self) -> Injection {
        Injection { skip: true, ..self }
    }

    /// The same, and the thread waits that long before it goes on. Others do not.
    #[must_use]
    pub fn delay(self, time: Duration) -> Injection {
        Injection { delay: time, ..self }
    }

    /// The same, and the thread gets this signal, as if it had sent it to itself.
    #[must_use]
    pub fn signal(self, signal: i32) -> Injection {
        Injection { signal: Some(signal), ..self }
    }

    /// Whether nothing is to be done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Injection::default()
    }

    /// Whether what is to be done depends on the function that the probe is in.
    pub(crate) fn fails_or_returns(&self) -> bool {
        self.result.is_some() || self.errno.is_some()
    }

    /// The number of an error by its name, such as `ENOSPC`, or as a number.
    #[must_use]
    pub fn parse_errno(name: &str) -> Option<i32> {
        failure::errno_named(name)
    }
}

/// Where the sign is that stands alone.
fn assignment(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let is = |index: usize, letters: &[u8]| bytes.get(index).is_some_and(|byte| letters.contains(byte));
    // `p->=1` lacks a name, and compares nothing.
    let is_arrow = |end: usize| is(end, b">") && end.checked_sub(1).is_some_and(|before| is(before, b"-"));
    (0..bytes.len()).find(|&index| {
        bytes[index] == b'='
            && !is(index + 1, b"=")
            && !index.checked_sub(1).is_some_and(|before| is(before, b"=<>!") && !is_arrow(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injections_are_the_same_after_a_message() {
        let injection = Injection::new().result("-1").unwrap().errno(28).set("n=a==b").unwrap();
        let injection = injection.set("+8(%di):u32=5").unwrap().skip();
        let injection = injection.delay(Duration::from_millis(7)).signal(10);
        let bytes = postcard::to_stdvec(&injection).unwrap();
        assert_eq!(postcard::from_bytes(&bytes), Ok(injection));
    }

    #[test]
    fn mistakes_have_columns() {
        for (text, column) in [("n", 1), ("n==1", 4), ("n=", 2), ("=1", 0), ("n=1+", 4), ("p->=1", 3)] {
            let error = Injection::new().set(text).unwrap_err();
            assert_eq!((error.text.as_str(), error.column), (text, column), "{error}");
        }
        assert_eq!(Injection::new().result("1 +").unwrap_err().column, 3);
    }
}
