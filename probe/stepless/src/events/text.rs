//! Lines for people.

use std::fmt::Display;
use std::io::{self, Write};

use anstyle::{AnsiColor, Style};
use probe::stacks::Place;

use super::{Event, NS_PER_S, NS_PER_US};
use crate::output::printable;

/// How what is printed looks, where it may.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    coloured: bool,
}

impl Look {
    pub(crate) fn new(coloured: bool) -> Look {
        Look { coloured }
    }

    fn styled(self, style: Style, text: impl Display) -> String {
        let text = text.to_string();
        let text = printable(&text);
        if self.coloured { format!("{style}{text}{style:#}") } else { text.into_owned() }
    }

    /// What is there for the sake of order.
    pub(crate) fn dim(self, text: impl Display) -> String {
        self.styled(Style::new().dimmed(), text)
    }

    /// A function.
    pub(crate) fn function(self, text: impl Display) -> String {
        self.styled(AnsiColor::Green.on_default(), text)
    }

    /// A place in the source.
    pub(crate) fn source(self, text: impl Display) -> String {
        self.styled(AnsiColor::Cyan.on_default(), text)
    }

    /// What the user has asked for.
    pub(crate) fn probe(self, text: impl Display) -> String {
        self.styled(Style::new().bold(), text)
    }
}

/// The columns, which become wider and never narrower.
#[derive(Debug)]
pub(super) struct Text {
    look: Look,
    probe: usize,
    place: usize,
    source: usize,
    /// When the first event happened.
    start_ns: Option<u64>,
}

/// The longest name of a thread, which Linux cuts.
const COMM: usize = 15;
/// A column that is wider than this is left at that: one long name would push all others away.
const WIDEST: usize = 60;

impl Text {
    pub(super) fn new(width: usize, coloured: bool) -> Text {
        let probe = width.min(WIDEST).max("PROBE".len());
        Text { look: Look::new(coloured), probe, place: 24, source: 0, start_ns: None }
    }

    pub(super) fn widen(&mut self, width: usize) {
        self.probe = self.probe.max(width.min(WIDEST));
    }

    pub(super) fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        match &event.line {
            Some(line) => {
                out.extend(line.as_bytes());
                if !line.ends_with('\n') {
                    out.push(b'\n');
                }
            }
            None => self.line(event, out)?,
        }
        let indent = "        ";
        event.stack.iter().flatten().try_for_each(|place| stack_lines(self.look, indent, place, out))
    }

    fn line(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> io::Result<()> {
        let look = self.look;
        let place = event.place.as_ref().map_or_else(|| format!("{:#x}", event.ip), |place| place.name());
        let source = event.place.as_ref().and_then(|place| place.source()).unwrap_or_default();
        self.place = self.place.max(place.chars().count().min(WIDEST));
        self.source = self.source.max(source.chars().count().min(WIDEST));
        let &mut Text { probe: probe_width, place: place_width, source: source_width, .. } = self;
        if self.start_ns.is_none() {
            let header = format!(
                "{:>14} {:<COMM$} {:>8}  {:<probe_width$}  {:<place_width$}",
                "TIME", "COMM", "TID", "PROBE", "PLACE"
            );
            writeln!(out, "{}", look.dim(header.trim_end()))?;
        }
        let start_ns = *self.start_ns.get_or_insert(event.time_ns);
        let since_ns = event.time_ns.saturating_sub(start_ns);
        let time = format!("{:>4}.{:09}", since_ns / NS_PER_S, since_ns % NS_PER_S);
        let comm = printable(event.comm.as_deref().unwrap_or("?"));
        let mut line = format!(
            "{} {comm:<COMM$} {:>8}  {}  {}",
            look.dim(time),
            event.tid,
            look.probe(format!("{:<probe_width$}", event.probe)),
            look.function(format!("{place:<place_width$}")),
        );
        if source_width > 0 {
            line += &format!("  {}", look.source(format!("{source:<source_width$}")));
        }
        if let Some(duration_ns) = event.duration_ns {
            line += &format!("  {}", duration(duration_ns));
        }
        if let Some(value) = &event.retval {
            line += &format!("{} {}", look.dim(" ="), printable(&value.to_string()));
        }
        for (name, value) in &event.args {
            let value = value.to_string();
            line += &format!("  {}{}", look.dim(format_args!("{name}=")), printable(&value));
        }
        if let Some(injected) = &event.injected {
            line += &format!("  {}", injected.text(look));
        }
        writeln!(out, "{}", line.trim_end())
    }
}

/// The lines of one place on a stack: one for each function.
pub(crate) fn stack_lines(look: Look, indent: &str, place: &Place, out: &mut Vec<u8>) -> io::Result<()> {
    let object = place.object_name().map(|object| format!(" ({object})")).unwrap_or_default();
    for inlined in place.functions.iter().filter(|function| function.inlined) {
        let name = inlined.name.as_deref().unwrap_or("?");
        let source = inlined.source().unwrap_or_default();
        let (name, note) = (look.function(name), look.dim(" (inlined)"));
        writeln!(out, "{}", format!("{indent}{name} {}{note}", look.source(source)).trim_end())?;
    }
    let known = place.functions.last().filter(|function| !function.inlined && function.name.is_some());
    let line = match known {
        Some(function) => {
            let source = function.source().map(|source| format!(" {}", look.source(source)));
            let name = look.function(place.name());
            format!("{indent}{name}{}{}", source.unwrap_or_default(), look.dim(object))
        }
        None => format!("{indent}{}", look.function(place.without_function())),
    };
    writeln!(out, "{line}")
}

/// A time as people read it.
pub(super) fn duration(ns: u64) -> String {
    let (us, rest) = (ns / NS_PER_US, ns % NS_PER_US);
    format!("{us}.{rest:03} us")
}

#[cfg(test)]
mod tests {
    use super::super::tests::{event, printed};
    use super::*;
    use crate::args::Format;

    fn text(events: &[Event<'_>]) -> String {
        String::from_utf8(printed(Format::Text, events)).unwrap()
    }

    #[test]
    fn text_is_aligned_and_counts_from_the_first_event() {
        let shown = text(&[event(5_000_000_000), event(6_000_000_001)]);
        let stack =
            "        small app.c:12 (inlined)\n        malloc+0x1c app.c:12 (libc.so.6)\n        0x77\n";
        assert_eq!(
            shown,
            format!(
                "          TIME COMM                 TID  PROBE             PLACE\n   \
                 0.000000000 app                    8  libc.so.6:malloc  malloc+0x1c               app.c:12  \
                 n=-3\n{stack}   \
                 1.000000001 app                    8  libc.so.6:malloc  malloc+0x1c               app.c:12  \
                 n=-3\n{stack}"
            )
        );
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn columns_do_not_jump_back() {
        let long = "a_function_with_a_name_that_is_long";
        let mut first = event(1);
        let place = first.place.as_mut().and_then(std::sync::Arc::get_mut);
        assert!(place.is_none(), "the stack has it, too");
        first.stack = None;
        if let Some(place) = first.place.as_mut().and_then(std::sync::Arc::get_mut) {
            place.functions[1].name = Some(long.to_owned());
        }
        let second = Event { stack: None, ..event(2) };
        let shown = text(&[first, second]);
        let columns: Vec<_> = shown.lines().filter_map(|line| line.find("app.c:12")).collect();
        assert!(shown.contains(long));
        assert_eq!(columns.len(), 2);
        assert_eq!(columns[0], columns[1]);
    }

    #[test]
    fn a_name_that_is_longer_than_a_line_moves_its_own_line_alone() {
        let name = "a".repeat(300);
        let mut shown = Vec::new();
        let mut text = Text::new(name.len(), false);
        text.event(&Event { probe: &name, stack: None, ..event(1) }, &mut shown).unwrap();
        text.event(&Event { stack: None, ..event(2) }, &mut shown).unwrap();
        let shown = String::from_utf8(shown).unwrap();
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[1].contains(&name) && lines[1].ends_with("n=-3"), "{shown}");
        assert_eq!(lines[0].find("PLACE"), lines[2].find("malloc+0x1c"), "{shown}");
    }

    #[test]
    fn colours_change_no_column() {
        let plain = text(&[event(1)]);
        let mut coloured = Vec::new();
        Text::new(16, true).event(&event(1), &mut coloured).unwrap();
        let coloured = String::from_utf8(coloured).unwrap();
        assert!(coloured.contains("\u{1b}["));
        let stripped = anstream::adapter::strip_str(&coloured).to_string();
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
        assert_eq!(trimmed(&stripped), trimmed(&plain));
    }
}
