//! A warden, which traces in a process of its own: what a hit costs the target tells itself.

use std::cell::Cell;
use std::process::Command;
use std::rc::Rc;

use probe::warden::{self, Client, Fields, News, Program};
use probe::{Action, SessionOptions};

use crate::others::Scratch;
use crate::stepless::resolver;
use crate::{Failure, target};

const SYMBOL: &str = "peers_nop";

/// What is to happen at a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// It is counted.
    Count,
    /// A record of it is sent.
    Record,
    /// A closure here decides.
    Ask,
}

/// What a hit costs.
pub(crate) fn hit(what: What, hits: u64) -> Result<f64, Failure> {
    let scratch = Scratch::new("warden")?;
    let report = scratch.path("report");
    let mut own = Command::new(warden::own_program().ok_or("where is this program?")?);
    own.arg("--warden");
    let mut client = Client::start(own)?;
    client.launch(target::reporting(SYMBOL, hits, &report)?, SessionOptions::default())?;
    let place = resolver(SYMBOL)?.spec().clone();
    let heard = Rc::new(Cell::new(0));
    let counted = Rc::clone(&heard);
    let probe = match what {
        What::Count => client.probe(place, Program::new())?,
        What::Record => {
            client.observe(move |news| counted.set(counted.get() + u64::from(matches!(news, News::Hit(_)))));
            client.probe(place, Program::new().record(Fields::new()))?
        }
        What::Ask => client.probe_with(place, Program::new(), move |_| {
            counted.set(counted.get() + 1);
            Action::Continue
        })?,
    };
    client.run()?;
    client.wait();
    let emulated = client.report(probe)?.unwrap_or_default().counters.emulated;
    let expected = if what == What::Count { 0 } else { hits };
    if (emulated, heard.get()) != (hits, expected) {
        return Err(format!("{emulated} hits of {hits} were emulated, and {} heard of", heard.get()).into());
    }
    Ok(std::fs::read_to_string(report)?.trim().parse()?)
}
