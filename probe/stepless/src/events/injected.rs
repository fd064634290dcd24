//! What was injected, as it is printed.

use std::fmt::Write;

use probe::arguments::{Changed, Injected, Value};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::text::{Look, duration};
use crate::inject::signal_name;
use crate::output::printable;

/// What was injected at a hit.
#[derive(Debug)]
pub(crate) struct Shown(pub(crate) Injected);

#[derive(Serialize)]
struct Change<'a> {
    what: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a Value>,
    to: &'a Value,
}

#[derive(Serialize)]
struct Done<'a> {
    number: u64,
    changes: Vec<Change<'a>>,
    returned: bool,
    skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<String>,
}

#[derive(Serialize)]
struct NotDone<'a> {
    number: u64,
    reason: &'a str,
}

impl Shown {
    fn delay_ns(&self) -> Option<u64> {
        let delay = u64::try_from(self.0.delay.as_nanos()).unwrap_or(u64::MAX);
        (delay > 0).then_some(delay)
    }

    /// For people: the number of the hit, and what was done.
    pub(super) fn text(&self, look: Look) -> String {
        let Injected { number, changes, skipped, signal, failed, .. } = &self.0;
        if let Some(why) = failed {
            return format!("{} {why}", look.dim(format_args!("#{number} not injected:")));
        }
        let mut text = look.dim(format_args!("#{number}"));
        let mut add = |what: &str, value: String| {
            // A String takes everything.
            let _ = write!(text, " {}{}", look.dim(what), printable(&value));
        };
        for Changed { what, from, to, .. } in changes {
            let from = from.as_ref().map(|from| format!("{from}->")).unwrap_or_default();
            add(&format!("{what}="), format!("{from}{to}"));
        }
        if *skipped {
            add("", "skipped".to_owned());
        }
        if let Some(delay_ns) = self.delay_ns() {
            add("delay=", duration(delay_ns).trim().to_owned());
        }
        if let Some(signal) = *signal {
            add("signal=", signal_name(signal));
        }
        text
    }
}

/// As a key of the event: `injected` or, where nothing was done, `not_injected`.
impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Injected { number, changes, returned, skipped, signal, failed, .. } = &self.0;
        let mut map = serializer.serialize_map(Some(1))?;
        match failed {
            Some(reason) => map.serialize_entry("not_injected", &NotDone { number: *number, reason })?,
            None => {
                let changes = changes.iter().map(|Changed { what, from, to, .. }| Change {
                    what,
                    from: from.as_ref(),
                    to,
                });
                let done = Done {
                    number: *number,
                    changes: changes.collect(),
                    returned: *returned,
                    skipped: *skipped,
                    delay_ns: self.delay_ns(),
                    signal: signal.map(signal_name),
                };
                map.serialize_entry("injected", &done)?;
            }
        }
        map.end()
    }
}
