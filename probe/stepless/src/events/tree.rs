//! Calls as a tree, in the manner of uftrace: how long each took on the left, and what it has called within it.

use std::collections::HashMap;
use std::io::{self, Write};

use super::Event;
use super::text::{Look, duration};
use crate::output::{indent, printable};

/// The calls that have not returned yet, of each thread.
#[derive(Debug)]
pub(super) struct Tree {
    look: Look,
    calls: HashMap<i32, Calls>,
    started: bool,
}

#[derive(Debug, Default)]
struct Calls {
    open: Vec<Call>,
    /// The line of the last call, as long as nothing has happened in it.
    pending: Option<String>,
}

#[derive(Debug)]
struct Call {
    name: String,
    time_ns: u64,
}

/// Which of the open calls has returned: of those of that name, the one that began when the duration says.
pub(super) fn returned<T>(open: &[T], began_ns: u64, of: impl Fn(&T) -> Option<u64>) -> Option<usize> {
    let candidates = open.iter().enumerate().filter_map(|(index, call)| Some((index, of(call)?)));
    candidates.min_by_key(|&(_, time_ns)| time_ns.abs_diff(began_ns)).map(|(index, _)| index)
}

impl Tree {
    pub(super) fn new(coloured: bool) -> Tree {
        Tree { look: Look::new(coloured), calls: HashMap::new(), started: false }
    }

    pub(super) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        let look = self.look;
        if !std::mem::replace(&mut self.started, true) {
            writeln!(out, "{}", look.dim(format_args!("{:>13} {:>9}  FUNCTION", "DURATION", "TID")))?;
        }
        let name = event.probe.rsplit_once(':').map_or(event.probe, |(_, name)| name);
        let name = name.strip_suffix("%return").unwrap_or(name);
        let Calls { open, pending } = self.calls.entry(event.tid).or_default();
        let shown: Vec<String> = event.args.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let shown = printable(&shown.join(", ")).into_owned();
        match event.duration_ns {
            None if event.is_entry => {
                flush(look, event.tid, open.len(), pending, out)?;
                *pending = Some(format!("{}({shown})", look.function(name)));
                open.push(Call { name: name.to_owned(), time_ns: event.time_ns });
            }
            None => {
                flush(look, event.tid, open.len(), pending, out)?;
                line(
                    look,
                    None,
                    event.tid,
                    open.len(),
                    &look.dim(format_args!("/* {name} {shown} */")),
                    out,
                )?;
            }
            Some(duration_ns) => {
                let began_ns = event.time_ns.saturating_sub(duration_ns);
                let of = |call: &Call| (call.name == name).then_some(call.time_ns);
                let index = returned(open, began_ns, of);
                let result = event.retval.as_ref().map(|value| format!(" = {value}")).unwrap_or_default();
                let result = printable(&result).into_owned();
                let result = if shown.is_empty() { result } else { format!("{result} ({shown})") };
                let Some(index) = index else {
                    // It had begun before.
                    flush(look, event.tid, open.len(), pending, out)?;
                    let text = format!(
                        "{}{result}; {}",
                        look.dim(format_args!("/* {name} */")),
                        look.dim("/* begun before */")
                    );
                    return line(look, Some(duration_ns), event.tid, open.len(), &text, out);
                };
                if index + 1 == open.len()
                    && let Some(call) = pending.take()
                {
                    open.pop();
                    return line(
                        look,
                        Some(duration_ns),
                        event.tid,
                        open.len(),
                        &format!("{call}{result};"),
                        out,
                    );
                }
                flush(look, event.tid, open.len(), pending, out)?;
                while open.len() > index + 1 {
                    // It was left without a return.
                    if let Some(call) = open.pop() {
                        let text = format!("}} {}", look.dim(format_args!("/* {}: left */", call.name)));
                        line(look, None, event.tid, open.len(), &text, out)?;
                    }
                }
                open.pop();
                let text = format!("}}{result} {}", look.dim(format_args!("/* {name} */")));
                line(look, Some(duration_ns), event.tid, open.len(), &text, out)?;
            }
        }
        Ok(())
    }

    /// Says which calls had not returned by the end.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        let mut threads: Vec<_> = self.calls.drain().collect();
        threads.sort_by_key(|&(tid, _)| tid);
        for (tid, Calls { mut open, mut pending }) in threads {
            flush(self.look, tid, open.len(), &mut pending, out)?;
            while let Some(call) = open.pop() {
                let text = format!("}} {}", self.look.dim(format_args!("/* {}: not returned */", call.name)));
                line(self.look, None, tid, open.len(), &text, out)?;
            }
        }
        Ok(())
    }
}

/// The call that has begun last has something in it.
fn flush(
    look: Look,
    tid: i32,
    depth: usize,
    pending: &mut Option<String>,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    match pending.take() {
        Some(call) => line(look, None, tid, depth.saturating_sub(1), &format!("{call} {{"), out),
        None => Ok(()),
    }
}

fn line(
    look: Look,
    duration_ns: Option<u64>,
    tid: i32,
    depth: usize,
    text: &str,
    out: &mut Vec<u8>,
) -> io::Result<()> {
    let time = duration_ns.map(duration).unwrap_or_default();
    let margin = look.dim(format_args!("[{tid:>7}] | "));
    writeln!(out, "{time:>13} {margin}{}{text}", indent(depth))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, printed};
    use super::*;
    use crate::args::Format;

    fn entry(probe: &'static str, time_ns: u64) -> Event<'static> {
        Event { probe, is_entry: true, args: Vec::new(), ..event(time_ns) }
    }

    fn exit(probe: &'static str, time_ns: u64, duration_ns: u64) -> Event<'static> {
        Event { duration_ns: Some(duration_ns), is_entry: false, ..entry(probe, time_ns) }
    }

    #[test]
    fn calls_stand_within_their_callers() {
        let events = [
            entry("app:outer", 0),
            entry("app:inner", 1000),
            exit("app:inner", 3500, 2500),
            entry("app:left", 4000),
            exit("app:outer", 5000, 5000),
            entry("app:last", 6000),
        ];
        let shown = String::from_utf8(printed(Format::Tree, &events)).unwrap();
        assert_eq!(
            shown,
            "     DURATION       TID  FUNCTION\n              \
             [      8] | outer() {\n     \
             2.500 us [      8] |   inner();\n              \
             [      8] |   left() {\n              \
             [      8] |   } /* left: left */\n     \
             5.000 us [      8] | } /* outer */\n              \
             [      8] | last() {\n              \
             [      8] | } /* last: not returned */\n"
        );
    }
}
