//! What happens at a hit, as data: a client sends it, and its warden runs it.

use serde::{Deserialize, Serialize};

use crate::arguments::{Pick, Template};
use crate::engine::run_on::Region;
use crate::engine::watch::WatchId;
use crate::language::{Expression, Register};

/// What happens at each hit of a probe: steps, one after the other. One without steps counts.
///
/// ```
/// use probe::language::{Binary, Expression, Register};
/// use probe::warden::{Fields, Program};
///
/// // The first ten calls with more than a page as their first argument, with that argument.
/// let large = Expression::register(Register::Rdi).binary(Binary::Greater, 4096u64.into());
/// let program = Program::new().filter(large).limit(10).record(Fields::new().register(Register::Rdi));
/// assert_eq!(program.steps().len(), 3);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Program {
    steps: Vec<Step>,
    template: Template,
}

/// A step of a [`Program`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Step {
    /// The steps behind it are taken only if the value is not 0; otherwise the hit counts as filtered. One whose value
    /// is undefined counts as that, too, and as [`Report::undefined`](crate::warden::Report::undefined).
    Filter(Expression),
    /// The same with the condition of the program's [`Template`], which is compiled for each site.
    Condition,
    /// The steps behind it are taken for one in so many hits, the first among them; the others count as filtered.
    Sample(u64),
    /// The steps behind it are taken for those hits; the others count as filtered. Counted are the hits that come this far.
    /// A program has one at most.
    Pick(Pick),
    /// What the program's [`Template`] says is done to the thread, all of it or nothing. The records behind it say what.
    Inject,
    /// The steps behind it are taken for so many hits of this probe, after which it is removed.
    Limit(u64),
    /// The steps behind it are taken for as many hits as [`Client::limit`](crate::warden::Client::limit) says, of all
    /// probes together. With the last of them every breakpoint is taken out, and
    /// [`Client::run`](crate::warden::Client::run) returns.
    SharedLimit,
    /// A [`Record`](crate::warden::Record) of the hit goes to the client.
    Record(Fields),
    /// Counts the stack of the hit, with so many frames at most: see [`Totals`](crate::warden::Totals).
    CountStack(u16),
    /// Counts a number of the hit, by powers of two: see [`Totals`](crate::warden::Totals).
    Histogram(Measure),
    /// The thread runs on, and each of its steps goes to the client as a [`StepRecord`](crate::warden::StepRecord): see
    /// [`Hit::run_on_with`](crate::Hit::run_on_with).
    RunOn(Region),
    /// The client's handler decides, to whom the hit is sent: see
    /// [`Client::probe_with`](crate::warden::Client::probe_with). While the client is stopped, this does nothing.
    Ask,
    /// Something is watched from the hit on, as by [`Hit::watch`](crate::Hit::watch).
    Watch(WatchId),
    /// What becomes of the instruction and the probe. The last one counts.
    Then(Then),
}

/// A number of a hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Measure {
    /// An argument of the program's [`Template`], by its place in it.
    Argument(u32),
    /// How long the call has taken, in nanoseconds, where the hit is its return.
    Duration,
}

/// What becomes of the instruction and the probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Then {
    /// The instruction is emulated.
    #[default]
    Continue,
    /// It is left out.
    Skip,
    /// It is emulated, and the probe removed.
    Remove,
    /// It is emulated, every breakpoint is taken out, and [`Client::run`](crate::warden::Client::run) returns.
    Stop,
}

/// What a [`Record`](crate::warden::Record) has besides the probe, the process, the thread, the time and the address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fields {
    cpu: bool,
    arguments: bool,
    comm: bool,
    /// How many frames of the stack.
    frames: u16,
    /// Bit n for the register with number n.
    registers: u32,
}

/// Behind the registers.
const FRAMES_SHIFT: u32 = Register::ALL.len() as u32;
/// As many as nine bits can say.
const MOST_FRAMES: u16 = (1 << 9) - 1;
const _: () = assert!(FRAMES_SHIFT + 9 <= 29);

impl Fields {
    /// Nothing.
    #[must_use]
    pub fn new() -> Fields {
        Fields::default()
    }

    /// Also the processor, which costs reading a file.
    #[must_use]
    pub fn cpu(self) -> Fields {
        Fields { cpu: true, ..self }
    }

    /// Also the arguments of the program's [`Template`].
    #[must_use]
    pub fn arguments(self) -> Fields {
        Fields { arguments: true, ..self }
    }

    /// Also the thread's name. One that has just been changed may not be seen yet.
    #[must_use]
    pub fn comm(self) -> Fields {
        Fields { comm: true, ..self }
    }

    /// Also the stack, with so many frames at most, up to 511; with one frame, what the address belongs to.
    #[must_use]
    pub fn stack(self, frames: u16) -> Fields {
        Fields { frames: frames.min(MOST_FRAMES), ..self }
    }

    /// Also that register.
    #[must_use]
    pub fn register(self, register: Register) -> Fields {
        Fields { registers: self.registers | 1 << register as u32, ..self }
    }

    /// Whether the processor is wanted.
    #[must_use]
    pub fn has_cpu(self) -> bool {
        self.cpu
    }

    /// Whether the arguments are wanted.
    #[must_use]
    pub fn has_arguments(self) -> bool {
        self.arguments
    }

    /// Whether the thread's name is wanted.
    #[must_use]
    pub fn has_comm(self) -> bool {
        self.comm
    }

    /// How many frames of the stack are wanted.
    #[must_use]
    pub fn frames(self) -> u16 {
        self.frames
    }

    /// The registers that are wanted, in the order of their numbers.
    pub fn registers(self) -> impl Iterator<Item = Register> {
        Register::ALL.into_iter().filter(move |&register| self.registers & 1 << register as u32 != 0)
    }

    /// As a word of a record.
    pub(crate) fn to_bits(self) -> u32 {
        let flags = u32::from(self.cpu) << 31 | u32::from(self.arguments) << 30 | u32::from(self.comm) << 29;
        self.registers | flags | u32::from(self.frames) << FRAMES_SHIFT
    }

    /// The same back. Unknown bits are left out.
    pub(crate) fn of_bits(bits: u32) -> Fields {
        let known = (1 << Register::ALL.len()) - 1;
        Fields {
            cpu: bits >> 31 != 0,
            arguments: bits >> 30 & 1 != 0,
            comm: bits >> 29 & 1 != 0,
            frames: (bits >> FRAMES_SHIFT) as u16 & MOST_FRAMES,
            registers: bits & known,
        }
    }
}

impl Program {
    /// One that counts, and nothing else.
    #[must_use]
    pub fn new() -> Program {
        Program::default()
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same with another step behind the others.
    #[must_use]
    pub fn step(mut self, step: Step) -> Program {
        self.steps.push(step);
        self
    }

    /// [`Step::Filter`] behind the others.
    #[must_use]
    pub fn filter(self, condition: Expression) -> Program {
        self.step(Step::Filter(condition))
    }

    /// The same with arguments and a condition, which other steps use. [`Step::Condition`] comes behind the others if
    /// there is one.
    #[must_use]
    pub fn template(mut self, template: Template) -> Program {
        let has_condition = template.has_condition();
        self.template = template;
        if has_condition { self.step(Step::Condition) } else { self }
    }

    /// The arguments and the condition.
    #[must_use]
    pub fn get_template(&self) -> Option<&Template> {
        (!self.template.is_empty()).then_some(&self.template)
    }

    /// [`Step::Sample`] behind the others.
    #[must_use]
    pub fn sample(self, one_in: u64) -> Program {
        self.step(Step::Sample(one_in))
    }

    /// [`Step::Pick`] behind the others.
    #[must_use]
    pub fn pick(self, pick: Pick) -> Program {
        self.step(Step::Pick(pick))
    }

    /// [`Step::Inject`] behind the others.
    #[must_use]
    pub fn inject(self) -> Program {
        self.step(Step::Inject)
    }

    /// [`Step::Limit`] behind the others.
    #[must_use]
    pub fn limit(self, hits: u64) -> Program {
        self.step(Step::Limit(hits))
    }

    /// [`Step::SharedLimit`] behind the others.
    #[must_use]
    pub fn shared_limit(self) -> Program {
        self.step(Step::SharedLimit)
    }

    /// [`Step::Record`] behind the others.
    #[must_use]
    pub fn record(self, fields: Fields) -> Program {
        self.step(Step::Record(fields))
    }

    /// [`Step::CountStack`] behind the others.
    #[must_use]
    pub fn count_stack(self, frames: u16) -> Program {
        self.step(Step::CountStack(frames))
    }

    /// [`Step::Histogram`] behind the others.
    #[must_use]
    pub fn histogram(self, measure: Measure) -> Program {
        self.step(Step::Histogram(measure))
    }

    /// [`Step::Watch`] behind the others.
    #[must_use]
    pub fn watch(self, watch: WatchId) -> Program {
        self.step(Step::Watch(watch))
    }

    /// [`Step::RunOn`] behind the others.
    #[must_use]
    pub fn run_on(self, region: Region) -> Program {
        self.step(Step::RunOn(region))
    }

    /// [`Step::Then`] behind the others.
    #[must_use]
    pub fn then(self, then: Then) -> Program {
        self.step(Step::Then(then))
    }

    /// Whether a warden takes it: its expressions are valid, and it is not too long.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        const MOST_STEPS: usize = 64;
        let picks = self.steps.iter().filter(|step| matches!(step, Step::Pick(_))).count();
        self.steps.len() <= MOST_STEPS
            && picks <= 1
            && self.steps.iter().all(|step| match step {
                Step::Filter(condition) => condition.is_valid(),
                _ => true,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::{Binary, Unary};

    #[test]
    fn fields_come_back_from_their_bits() {
        let fields = Fields::new()
            .cpu()
            .arguments()
            .comm()
            .stack(300)
            .register(Register::GsBase)
            .register(Register::Rax);
        assert_eq!(Fields::of_bits(fields.to_bits()), fields);
        assert_eq!(fields.registers().collect::<Vec<_>>(), [Register::Rax, Register::GsBase]);
        let every = Register::ALL
            .into_iter()
            .fold(Fields::new().cpu().arguments().comm().stack(u16::MAX), Fields::register);
        assert_eq!(Fields::of_bits(u32::MAX), every);
    }

    #[test]
    fn programs_are_the_same_after_a_message() {
        let program = Program::new()
            .filter(Expression::register(Register::Rsp).binary(Binary::Add, 1u64.into()).unary(Unary::Not))
            .template("a=%di b=+0(%si):string if comm == \"x\"".parse().unwrap())
            .pick(Pick::new().nth(3).probability(0.5, 1))
            .inject()
            .limit(7)
            .shared_limit()
            .record(Fields::new().cpu())
            .count_stack(7)
            .histogram(Measure::Argument(1))
            .run_on(Region::new().until_return().instructions(9).within(1..2).accesses())
            .step(Step::Ask)
            .then(Then::Skip);
        let bytes = postcard::to_stdvec(&program).unwrap();
        assert_eq!(postcard::from_bytes(&bytes), Ok(program));
    }

    /// Whatever bytes come, there is a valid program or none.
    #[test]
    fn bytes_that_are_no_program_do_no_harm() {
        let program = Program::new().filter(Expression::from(1)).limit(7).then(Then::Stop);
        let bytes = postcard::to_stdvec(&program).unwrap();
        for index in 0..bytes.len() {
            for value in 0..=u8::MAX {
                let mut bytes = bytes.clone();
                bytes[index] = value;
                if let Ok(program) = postcard::from_bytes::<Program>(&bytes) {
                    assert!(program.is_valid() || program != Program::new());
                }
            }
        }
        let deep = (0..2_000).fold(Expression::from(1), |inner, _| inner.unary(Unary::Not));
        assert!(!Program::new().filter(deep).is_valid());
    }
}
