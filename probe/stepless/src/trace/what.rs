//! What is wanted of each hit: arguments, a condition, a line of one's own.

use std::time::Duration;

use probe::arguments::{Injected, Injection, Line, Pick, SyntaxError, Template, Value};
use probe::language::Register;
use probe::spec::{PlaceSpec, ProbeSpec, UprobeEvent};
use probe::stacks::Symbolizer;
use probe::warden::{Arguments, Fields, Measure, Program};

use super::Mode;
use crate::args::{FRAMES, Format, Tracing};
use crate::{Failure, point_at};

/// What is wanted of the hits of one probe.
#[derive(Debug, Default)]
pub(super) struct What {
    template: Template,
    /// How many of the template's arguments stand in `args`; those of the line follow.
    named: usize,
    /// The number of the argument that is the result of a call.
    result: Option<usize>,
    line: Option<Line>,
    /// The expressions of which histograms are wanted, and where they stand in the template.
    histograms: Vec<(String, Measure)>,
    /// Whether calls are followed to their returns, and which end of them the template is of.
    calls: Option<End>,
    /// Whether the other end is an event, too.
    both: bool,
    /// Whether the arguments that the probe itself has are shown, as there are no others.
    of_probe: bool,
    /// At which hits something is injected.
    pick: Option<Pick>,
}

/// An end of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Entry,
    Return,
}

/// What the warden does at each hit; of a probe that follows calls, at entries and at returns.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs {
    pub(super) at: Program,
    pub(super) on_return: Option<Program>,
}

impl What {
    /// Of each probe on the command line, in their order.
    pub(super) fn of_all(
        arguments: &Tracing,
        mode: Mode,
        injections: &[(Injection, Pick)],
    ) -> Result<Vec<What>, Failure> {
        let probes = arguments.probes.iter().enumerate();
        probes.map(|(index, text)| What::new(arguments, mode, text, injections.get(index))).collect()
    }

    fn new(
        arguments: &Tracing,
        mode: Mode,
        text: &str,
        injection: Option<&(Injection, Pick)>,
    ) -> Result<What, Failure> {
        let (spec, rest) = match ProbeSpec::parse_with_rest(text) {
            Ok(parsed) => parsed,
            Err(error) => {
                if UprobeEvent::is_line(text) {
                    point_at(text, error.column - 1);
                }
                return Err(error.into());
            }
        };
        if spec.on_return && matches!(mode, Mode::Step(_)) {
            return Err(Failure::new(format!(
                "`{spec}`: step begins at an instruction, not where a call returns"
            )));
        }
        let is_event = matches!(spec.place, PlaceSpec::UprobeEvent(_));
        let within = |error: SyntaxError| SyntaxError {
            text: text.to_owned(),
            column: error.column + rest.offset,
            what: error.what,
        };
        let mut template = Template::behind(&spec, rest.text).map_err(within).inspect_err(|error| {
            // As the kernel shows it.
            if is_event {
                point_at(text, error.column);
            }
        })?;
        let of_probe = matches!(spec.place, PlaceSpec::Usdt { .. }) && !template.has_arguments();
        if let Some(condition) = &arguments.condition {
            template = template.with_condition(condition)?;
        }
        if !arguments.tid.is_empty() {
            let threads: Vec<String> = arguments.tid.iter().map(|tid| format!("$tid == {tid}")).collect();
            template = template.with_condition(&threads.join(" || "))?;
        }
        let named = template.arguments();
        let mut line = None;
        if let Some(text) = &arguments.format_event {
            let (parsed, with_line) = Line::parse(text, template)?;
            (line, template) = (Some(parsed), with_line);
        }
        let mut histograms = Vec::new();
        for expression in &arguments.histograms {
            let measure = if expression.trim() == DURATION && spec.on_return {
                Measure::Duration
            } else {
                // A name that nobody can write.
                let name = format!("{{{}", template.arguments());
                let index = u32::try_from(template.arguments()).unwrap_or(u32::MAX);
                template = template.with_argument(Some(&name), expression)?;
                Measure::Argument(index)
            };
            histograms.push((expression.clone(), measure));
        }
        // A line of `uprobe_events` says itself what it wants.
        let mut result = None;
        if spec.on_return && !is_event && prints(arguments, mode) {
            result = Some(template.arguments());
            // Nor can this one be written.
            template = template.with_argument(Some("{$retval"), "$retval")?;
        }
        if arguments.variables {
            template = template.with_variables();
        }
        let of_probe = of_probe && line.is_none();
        let tree = arguments.format() == Format::Tree;
        let calls = match (spec.on_return, tree) {
            (true, _) => Some(End::Return),
            (false, true) => Some(End::Entry),
            (false, false) => None,
        };
        let both = tree || arguments.format() == Format::Perfetto;
        if let Some((injection, _)) = injection {
            template = template.with_injection(injection.clone());
        }
        let pick = injection.map(|&(_, pick)| pick);
        Ok(What { template, named, result, line, histograms, calls, both, of_probe, pick })
    }

    /// The expressions of which histograms are wanted.
    pub(super) fn histograms(&self) -> impl Iterator<Item = &str> {
        self.histograms.iter().map(|(expression, _)| expression.as_str())
    }

    /// Whether something is injected.
    pub(super) fn injects(&self) -> bool {
        self.pick.is_some()
    }

    /// Whether a hit without a duration is the entry of a call.
    pub(super) fn has_entries(&self) -> bool {
        self.calls.is_some() && self.both
    }

    /// What the warden does.
    pub(super) fn programs(&self, arguments: &Tracing, mode: Mode) -> Programs {
        let other = || match self.both && prints(arguments, mode) {
            true => Program::new().record(fields(arguments)),
            false => Program::new(),
        };
        let own = |limits| self.program(arguments, mode, limits);
        let result = |program: Program| program.record(fields(arguments).register(Register::Rax));
        match self.calls {
            None => Programs { at: own(true), on_return: None },
            Some(End::Return) => Programs { at: other(), on_return: Some(own(true)) },
            Some(End::Entry) => {
                let limited = Program::new();
                let limited = if arguments.limit.is_some() { limited.shared_limit() } else { limited };
                Programs { at: own(false), on_return: Some(result(limited)) }
            }
        }
    }

    fn program(&self, arguments: &Tracing, mode: Mode, limits: bool) -> Program {
        let mut program = Program::new();
        let mut template = self.template.clone();
        // Nobody looks at them otherwise.
        if self.of_probe && prints(arguments, mode) {
            template = template.with_arguments_of_probe();
        }
        let has_arguments = template.has_arguments();
        if !template.is_empty() {
            program = program.template(template);
        }
        if let Some(one_in) = arguments.sample {
            program = program.sample(one_in.get());
        }
        if let Mode::Step(steps) = mode {
            // With the last of all, everything ends, which those that have begun are not to do.
            program = arguments.limit.map_or_else(|| program.clone(), |limit| program.clone().limit(limit));
            return program.run_on(steps.region());
        }
        if let Some(pick) = self.pick {
            program = program.pick(pick);
        }
        if limits && arguments.limit.is_some() {
            program = program.shared_limit();
        }
        if self.injects() {
            program = program.inject();
        }
        for &(_, measure) in &self.histograms {
            program = program.histogram(measure);
        }
        if !prints(arguments, mode) {
            let counts = arguments.stack.is_some() || arguments.format() == Format::Folded;
            return if counts { program.count_stack(arguments.stack.unwrap_or(FRAMES)) } else { program };
        }
        let mut fields = fields(arguments);
        if has_arguments {
            fields = fields.arguments();
        }
        if self.calls == Some(End::Return) {
            fields = fields.register(Register::Rax);
        }
        program.record(fields)
    }

    /// What there is to show of a hit in `pid`.
    pub(super) fn shown<'a>(
        &self,
        arguments: Option<&'a Arguments>,
        pid: i32,
        symbolizer: &Symbolizer,
    ) -> Shown<'a> {
        let mut values: Vec<(&str, Value)> =
            arguments.iter().flat_map(|arguments| arguments.values()).collect();
        values.iter_mut().for_each(|(_, value)| name_all(value, pid, symbolizer));
        // Those of the line stand between those with names and the variables.
        let line = self.line.as_ref().map(|line| {
            line.with(|index| {
                values.get(index).map_or_else(|| "(fault)".to_owned(), |(_, value)| plain(value))
            })
        });
        let result = self.result.and_then(|index| values.get(index)).map(|(_, value)| value.clone());
        let mut index = 0;
        let of_line = self.named..self.template.arguments();
        values.retain(|_| {
            index += 1;
            !of_line.contains(&(index - 1))
        });
        Shown { arguments: values, result, line }
    }
}

/// What there is to show of a hit.
pub(super) struct Shown<'a> {
    /// The arguments.
    pub(super) arguments: Vec<(&'a str, Value)>,
    /// What a call has returned.
    pub(super) result: Option<Value>,
    /// The line, if one is wanted.
    pub(super) line: Option<String>,
}

/// Whether each hit is an event that is printed.
fn prints(arguments: &Tracing, mode: Mode) -> bool {
    mode == Mode::Trace && arguments.format() != Format::Folded
}

/// What is recorded of each hit besides arguments.
fn fields(arguments: &Tracing) -> Fields {
    let stack = arguments.stack.unwrap_or(0);
    if arguments.format_event.is_some() {
        return Fields::new().stack(stack);
    }
    let fields = match arguments.format() {
        Format::Tree => return Fields::new(),
        // The processor costs a file.
        Format::Text => Fields::new(),
        _ => Fields::new().cpu(),
    };
    // The first frame says what the address belongs to.
    fields.comm().stack(stack.max(1))
}

/// How long a call has taken, in an expression.
const DURATION: &str = "duration";

/// In a line of one's own, texts have no quotes.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) | Value::Pointer { text: Some(Some(text)), .. } => text.to_plain(),
        Value::Reference { value, .. } => plain(value),
        value => value.to_string(),
    }
}

/// Puts names in the place of addresses of process `pid` in what was changed.
pub(super) fn name_changes(mut injected: Injected, pid: i32, symbolizer: &Symbolizer) -> Injected {
    for change in &mut injected.changes {
        change.from.iter_mut().chain([&mut change.to]).for_each(|value| name_all(value, pid, symbolizer));
    }
    injected
}

/// Puts names in the place of addresses of process `pid` that are shown as such.
fn name_all(value: &mut Value, pid: i32, symbolizer: &Symbolizer) {
    match value {
        &mut Value::Symbol(address) => {
            let name = Some(symbolizer.place_in(pid, address).name());
            *value = Value::Enumerator { number: address.into(), name };
        }
        Value::Array(values) => values.iter_mut().for_each(|value| name_all(value, pid, symbolizer)),
        _ => {}
    }
}

/// A time as a user writes it: `10`, `2.5s`, `100ms`, `5m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "write a time as 10, 2.5s, 100ms, 5m or 1h";
    let units = [("ms", 0.001), ("us", 0.000_001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)];
    let found = units.into_iter().find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, seconds)));
    let (number, unit) = found.ok_or(WRONG)?;
    let seconds: f64 = number.trim().parse().map_err(|_| WRONG)?;
    Duration::try_from_secs_f64(seconds * unit).map_err(|_| WRONG.to_owned())
}

/// `1/N`, as a user writes that of N hits one is wanted.
pub(crate) fn parse_sample(text: &str) -> Result<std::num::NonZeroU64, String> {
    text.strip_prefix("1/")
        .and_then(|number| number.parse().ok())
        .ok_or_else(|| "write 1/N: of N hits, one is taken".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_samples() {
        for (text, milliseconds) in
            [("2", 2000), ("2.5s", 2500), ("100ms", 100), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "-1", "1d", "nan", "1e300"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_sample("1/7").map(|n| n.get()), Ok(7));
        for text in ["7", "1/0", "2/3", "1/x", ""] {
            assert!(parse_sample(text).is_err(), "{text}");
        }
    }
}
