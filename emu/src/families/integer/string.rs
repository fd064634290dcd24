//! String instructions (SDM volume 1, section 7.3.9).
//!
//! Each is written twice: one element at a time, which is what the manual says and where every exception
//! is raised, and as many elements as one access can reach. The second does nothing at all when
//! something is in its way, and leaves it to the first to find out what.

use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::decode::processor::Facts;
use crate::families::integer::arith::cmp;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Rflags, gpr};
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!([Movsb, Movsw, Movsd, Movsq], string::<Movs>, Flags::STRING),
    row!([Stosb, Stosw, Stosd, Stosq], string::<Stos>, Flags::STRING),
    row!([Lodsb, Lodsw, Lodsd, Lodsq], string::<Lods>, Flags::STRING),
    row!([Scasb, Scasw, Scasd, Scasq], comparison::<Scas>, Flags::STRING),
    row!([Cmpsb, Cmpsw, Cmpsd, Cmpsq], comparison::<Cmps>, Flags::STRING),
];

/// One string instruction.
trait Strings {
    /// Whether it walks through the string at RSI.
    const SOURCE: bool;
    /// Whether it walks through the string at RDI.
    const DESTINATION: bool;
    /// Whether [`Facts::REPEAT_CUTS_REGISTERS`] cuts its pointers, too.
    const CUTS_POINTERS: bool = false;

    /// Performs it for the element at the pointers.
    fn one<W: Width>(c: &mut Context<'_>) -> Result<(), Exception>;

    /// Performs it for as many elements as `reach` allows, and returns for how many: none, having done
    /// nothing, if any of them cannot be accessed. `R` says after which element a comparison ends.
    fn many<W: Width, R: Repeat>(c: &mut Context<'_>, reach: Reach, buffer: &mut [u8]) -> Option<u64>;
}

/// How an instruction repeats.
trait Repeat {
    /// Whether it can end before RCX is zero.
    const COMPARES: bool;
    /// Whether it goes on after a comparison that found its operands equal, or different.
    fn goes_on(equal: bool) -> bool;
}
/// REP: to the end.
struct Rep;
/// REPE: while equal.
struct Repe;
/// REPNE: while different.
struct Repne;

impl Repeat for Rep {
    const COMPARES: bool = false;
    fn goes_on(_: bool) -> bool {
        true
    }
}
impl Repeat for Repe {
    const COMPARES: bool = true;
    fn goes_on(equal: bool) -> bool {
        equal
    }
}
impl Repeat for Repne {
    const COMPARES: bool = true;
    fn goes_on(equal: bool) -> bool {
        !equal
    }
}

/// With either of the prefixes, an instruction that compares nothing repeats to the end.
fn string<O: Strings>(form: &Form<'_>) -> Option<Execute> {
    match prefixes(form) {
        (false, false) => by_width!(element(form), once, <O>),
        _ => by_width!(element(form), repeated, <O, Rep>),
    }
}

fn comparison<O: Strings>(form: &Form<'_>) -> Option<Execute> {
    match prefixes(form) {
        (false, false) => by_width!(element(form), once, <O>),
        (true, _) => by_width!(element(form), repeated, <O, Repe>),
        (false, true) => by_width!(element(form), repeated, <O, Repne>),
    }
}

fn prefixes(form: &Form<'_>) -> (bool, bool) {
    (form.instruction.has_repe_prefix(), form.instruction.has_repne_prefix())
}

fn element(form: &Form<'_>) -> usize {
    form.instruction.memory_size().size()
}

fn once<W: Width, O: Strings>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    O::one::<W>(c)?;
    advance::<W, O>(c, 1);
    Ok(Outcome::Next)
}

/// At most this many bytes of a string in one execution, so that none takes long.
const LIMIT: u64 = 1 << 20;
/// The buffers for strings that fit them, in bytes: making room costs time, and so does each access.
const SHORT: usize = 256;
const MIDDLING: usize = PAGE as usize;
/// The buffer for all others.
const LONG: usize = 16 * PAGE as usize;
/// The unit of protection: where one element can be accessed, so can its neighbours in the page.
const PAGE: u64 = 4096;

/// Cuts RCX, and the pointers if `O` wants it, to the address size.
fn cut<O: Strings>(c: &mut Context<'_>) {
    let mask = c.decoded.address.size_mask();
    c.registers.gpr[gpr::RCX] &= mask;
    if O::SOURCE && O::CUTS_POINTERS {
        c.registers.gpr[gpr::RSI] &= mask;
    }
    if O::DESTINATION && O::CUTS_POINTERS {
        c.registers.gpr[gpr::RDI] &= mask;
    }
}

fn repeated<W: Width, O: Strings, R: Repeat>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    if c.decoded.processor.is(Facts::REPEAT_CUTS_REGISTERS) {
        cut::<O>(c);
    }
    match c.registers.gpr[gpr::RCX] & c.decoded.address.size_mask() {
        0 => Ok(Outcome::Next),
        count if count <= (SHORT / W::BYTES) as u64 => iterate::<W, O, R, SHORT>(c, count),
        count if count <= (MIDDLING / W::BYTES) as u64 => iterate::<W, O, R, MIDDLING>(c, count),
        count => iterate::<W, O, R, LONG>(c, count),
    }
}

#[inline(never)]
fn iterate<W: Width, O: Strings, R: Repeat, const BUFFER: usize>(
    c: &mut Context<'_>,
    mut count: u64,
) -> Result<Outcome, Exception> {
    // A thread that single-steps itself is stopped after each iteration.
    let stepping = c.registers.rflags.contains(Rflags::TF);
    let before = c.registers.rflags;
    let mut limit = if stepping { 1 } else { LIMIT / W::BYTES as u64 };
    let mut buffer = [0; BUFFER];
    // Most comparisons end soon.
    let mut reach = if R::COMPARES { SHORT } else { BUFFER };
    loop {
        let most = count.min(limit);
        let buffer = buffer.get_mut(..reach).unwrap_or_default();
        let done = match most {
            1 => None,
            _ => many::<W, O, R>(c, most, buffer),
        };
        if done.is_none()
            && let Err(exception) = O::one::<W>(c)
        {
            if c.decoded.processor.is(Facts::REPEATED_COMPARISON_RESTORES_FLAGS) {
                c.registers.rflags = before;
            }
            return Err(exception);
        }
        let done = done.unwrap_or(1);
        advance::<W, O>(c, done);
        count -= done;
        limit -= done;
        c.registers.gpr[gpr::RCX] = count;
        if count == 0 || !R::goes_on(c.registers.rflags.contains(Rflags::ZF)) {
            return Ok(Outcome::Next);
        }
        if limit == 0 {
            return Ok(Outcome::Again);
        }
        reach = BUFFER.min(4 * reach);
    }
}

/// As many elements as the buffer holds, else as many as there are in a page.
fn many<W: Width, O: Strings, R: Repeat>(c: &mut Context<'_>, most: u64, buffer: &mut [u8]) -> Option<u64> {
    let wide = Reach { elements: most, boundary: 1 << 32 };
    let page = Reach { elements: most, boundary: PAGE };
    O::many::<W, R>(c, wide, buffer).or_else(|| O::many::<W, R>(c, page, buffer))
}

/// How far one access may go.
#[derive(Clone, Copy)]
struct Reach {
    elements: u64,
    /// A power of two: addresses that are multiples of it are not crossed. 2\^32 keeps an access on one
    /// side of the end of a 32-bit address, and of the canonical addresses.
    boundary: u64,
}

impl Reach {
    /// Shortened to a buffer of so many bytes.
    fn within<W: Width>(self, bytes: usize) -> Reach {
        Reach { elements: self.elements.min((bytes / W::BYTES) as u64), ..self }
    }

    /// Shortened to end before the next boundary, seen from a pointer's effective and its linear address.
    fn from<W: Width>(self, c: &Context<'_>, pointer: Pointer) -> Reach {
        [pointer.effective, pointer.linear].into_iter().fold(self, |reach, address| {
            let (at, element) = (address & (self.boundary - 1), W::BYTES as u64);
            let elements = match backward(c) {
                false => (self.boundary - at) / element,
                true if at + element > self.boundary => 0,
                true => at / element + 1,
            };
            Reach { elements: reach.elements.min(elements), ..reach }
        })
    }

    /// The number of elements, if that is any.
    fn elements(self) -> Option<usize> {
        usize::try_from(self.elements).ok().filter(|&elements| elements != 0)
    }
}

/// Where an element is.
#[derive(Clone, Copy)]
struct Pointer {
    effective: u64,
    linear: u64,
}

impl Pointer {
    /// To the source, whose segment a prefix can change.
    #[inline(always)]
    fn source(c: &Context<'_>) -> Pointer {
        let address = &c.decoded.address;
        Pointer { effective: address.effective(c.registers), linear: address.linear(c.registers) }
    }

    /// To the destination, which is always in ES.
    #[inline(always)]
    fn destination(c: &Context<'_>) -> Pointer {
        let address = c.registers.gpr[gpr::RDI] & c.decoded.address.size_mask();
        Pointer { effective: address, linear: address }
    }

    /// The linear address of the lowest of the elements from here on, if they can be accessed at all.
    fn lowest<W: Width>(self, c: &Context<'_>, elements: usize) -> Option<u64> {
        c.check(self.linear, W::BYTES, W::BYTES, false).ok()?;
        let below = if backward(c) { (elements - 1) * W::BYTES } else { 0 };
        Some(self.linear.wrapping_sub(below as u64))
    }
}

/// Moves the pointers past `count` elements.
#[inline(always)]
fn advance<W: Width, O: Strings>(c: &mut Context<'_>, count: u64) {
    let mask = c.decoded.address.size_mask();
    let forward = count.wrapping_mul(W::BYTES as u64);
    let distance = if backward(c) { forward.wrapping_neg() } else { forward };
    let gpr = &mut c.registers.gpr;
    if O::SOURCE {
        gpr[gpr::RSI] = gpr[gpr::RSI].wrapping_add(distance) & mask;
    }
    if O::DESTINATION {
        gpr[gpr::RDI] = gpr[gpr::RDI].wrapping_add(distance) & mask;
    }
}

#[inline(always)]
fn backward(c: &Context<'_>) -> bool {
    c.registers.rflags.contains(Rflags::DF)
}

/// The elements of a string in the order in which the instruction meets them.
fn in_order<W: Width>(bytes: &[u8], backward: bool) -> impl Iterator<Item = W> {
    let element = |chunk: &[u8]| {
        let mut wide = [0; 8];
        wide.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
        W::from_bytes(&wide)
    };
    let count = bytes.len() / W::BYTES;
    (0..count).map(move |number| {
        let at = if backward { count - 1 - number } else { number } * W::BYTES;
        element(bytes.get(at..at + W::BYTES).unwrap_or_default())
    })
}

struct Movs;
impl Strings for Movs {
    const CUTS_POINTERS: bool = true;
    const SOURCE: bool = true;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn one<W: Width>(c: &mut Context<'_>) -> Result<(), Exception> {
        let value = c.load::<W>(Pointer::source(c).linear, Access::Read, false)?;
        c.store(Pointer::destination(c).linear, value, false)
    }

    fn many<W: Width, R: Repeat>(c: &mut Context<'_>, reach: Reach, buffer: &mut [u8]) -> Option<u64> {
        let (source, destination) = (Pointer::source(c), Pointer::destination(c));
        let backward = backward(c);
        let ahead = destination.linear.wrapping_sub(source.linear);
        let distance = if backward { ahead.wrapping_neg() } else { ahead };
        // A copy that may read what it has written needs room for the distance too.
        let distance = usize::try_from(distance).ok().filter(|distance| (1..buffer.len()).contains(distance));
        let room = if distance.is_some() { buffer.len() / 2 } else { buffer.len() };
        let elements = reach.within::<W>(room).from::<W>(c, source).from::<W>(c, destination).elements()?;
        let length = elements * W::BYTES;
        let from = source.lowest::<W>(c, elements)?;
        let to = destination.lowest::<W>(c, elements)?;
        let (read, written) = match distance.filter(|&distance| distance < length) {
            None => (0, 0),
            Some(distance) if backward => (distance, 0),
            Some(distance) => (0, distance),
        };
        let both = buffer.get_mut(..length + read + written)?;
        c.memory.read(from, both.get_mut(read..read + length)?, Access::Read).ok()?;
        match (read, written) {
            (0, 0) => {}
            (0, distance) => copy_up(both, distance, W::BYTES),
            (distance, _) => copy_down(both, distance, W::BYTES),
        }
        c.memory.write(to, both.get(written..written + length)?).ok()?;
        Some(elements as u64)
    }
}

/// Copies all but the last `distance` bytes to `distance` bytes further up, an element at a time from the
/// lowest to the highest.
fn copy_up(bytes: &mut [u8], distance: usize, element: usize) {
    let length = bytes.len();
    if distance < element {
        for at in (0..length - distance).step_by(element) {
            bytes.copy_within(at..at + element, at + distance);
        }
    } else {
        // Each element is read after all its bytes have been written: what comes out repeats the first.
        let mut done = distance;
        while done < length {
            let more = done.min(length - done);
            bytes.copy_within(..more, done);
            done += more;
        }
    }
}

/// Copies all but the first `distance` bytes to `distance` bytes further down, an element at a time from
/// the highest to the lowest.
fn copy_down(bytes: &mut [u8], distance: usize, element: usize) {
    let length = bytes.len();
    if distance < element {
        for at in (0..length - distance).step_by(element).rev() {
            bytes.copy_within(at + distance..at + distance + element, at);
        }
    } else {
        let mut left = length - distance;
        while left > 0 {
            let more = left.min(length - left);
            bytes.copy_within(length - more.., left - more);
            left -= more;
        }
    }
}

struct Stos;
impl Strings for Stos {
    const CUTS_POINTERS: bool = true;
    const SOURCE: bool = false;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn one<W: Width>(c: &mut Context<'_>) -> Result<(), Exception> {
        c.store(Pointer::destination(c).linear, c.general::<W>(gpr::RAX), false)
    }

    fn many<W: Width, R: Repeat>(c: &mut Context<'_>, reach: Reach, buffer: &mut [u8]) -> Option<u64> {
        let destination = Pointer::destination(c);
        let elements = reach.within::<W>(buffer.len()).from::<W>(c, destination).elements()?;
        let to = destination.lowest::<W>(c, elements)?;
        let bytes = buffer.get_mut(..elements * W::BYTES)?;
        let value = c.general::<W>(gpr::RAX).zero_extend().to_le_bytes();
        for element in bytes.chunks_exact_mut(W::BYTES) {
            element.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
        c.memory.write(to, bytes).ok()?;
        Some(elements as u64)
    }
}

struct Lods;
impl Strings for Lods {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;

    #[inline(always)]
    fn one<W: Width>(c: &mut Context<'_>) -> Result<(), Exception> {
        let value = c.load::<W>(Pointer::source(c).linear, Access::Read, false)?;
        c.set_general(gpr::RAX, value);
        Ok(())
    }

    fn many<W: Width, R: Repeat>(c: &mut Context<'_>, reach: Reach, buffer: &mut [u8]) -> Option<u64> {
        let source = Pointer::source(c);
        let elements = reach.within::<W>(buffer.len()).from::<W>(c, source).elements()?;
        let from = source.lowest::<W>(c, elements)?;
        let bytes = buffer.get_mut(..elements * W::BYTES)?;
        c.memory.read(from, bytes, Access::Read).ok()?;
        let last = in_order::<W>(bytes, !backward(c)).next()?;
        c.set_general(gpr::RAX, last);
        Some(elements as u64)
    }
}

/// Compares elements until there are no more or `R` says that a comparison was the last, and returns how
/// many comparisons there were.
fn compare<W: Width, R: Repeat>(c: &mut Context<'_>, pairs: impl Iterator<Item = (W, W)>) -> Option<u64> {
    let mut count = 0;
    let mut last = None;
    for (left, right) in pairs {
        count += 1;
        last = Some((left, right));
        if !R::goes_on(left == right) {
            break;
        }
    }
    let (left, right) = last?;
    c.registers.rflags = cmp(left, right, c.registers.rflags);
    Some(count)
}

struct Scas;
impl Strings for Scas {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;

    #[inline(always)]
    fn one<W: Width>(c: &mut Context<'_>) -> Result<(), Exception> {
        let value = c.load::<W>(Pointer::destination(c).linear, Access::Read, false)?;
        c.registers.rflags = cmp(c.general::<W>(gpr::RAX), value, c.registers.rflags);
        Ok(())
    }

    fn many<W: Width, R: Repeat>(c: &mut Context<'_>, reach: Reach, buffer: &mut [u8]) -> Option<u64> {
        let destination = Pointer::destination(c);
        let elements = reach.within::<W>(buffer.len()).from::<W>(c, destination).elements()?;
        let from = destination.lowest::<W>(c, elements)?;
        let bytes = buffer.get_mut(..elements * W::BYTES)?;
        c.memory.read(from, bytes, Access::Read).ok()?;
        let accumulator = c.general::<W>(gpr::RAX);
        let pairs = in_order::<W>(bytes, backward(c)).map(|value| (accumulator, value));
        compare::<W, R>(c, pairs)
    }
}

struct Cmps;
impl Strings for Cmps {
    const SOURCE: bool = true;
    const DESTINATION: bool = true;

    /// Which operand is read first shows where both faults are due.
    #[inline(always)]
    fn one<W: Width>(c: &mut Context<'_>) -> Result<(), Exception> {
        let (source, destination) = (Pointer::source(c).linear, Pointer::destination(c).linear);
        if c.decoded.processor.is(Facts::CMPS_READS_ITS_SOURCE_FIRST) {
            c.load::<W>(source, Access::Read, false)?;
        }
        let right = c.load::<W>(destination, Access::Read, false)?;
        let left = c.load::<W>(source, Access::Read, false)?;
        c.registers.rflags = cmp(left, right, c.registers.rflags);
        Ok(())
    }

    fn many<W: Width, R: Repeat>(c: &mut Context<'_>, reach: Reach, buffer: &mut [u8]) -> Option<u64> {
        let (source, destination) = (Pointer::source(c), Pointer::destination(c));
        let (left, right) = buffer.split_at_mut(buffer.len() / 2);
        let reach = reach.within::<W>(left.len()).from::<W>(c, source).from::<W>(c, destination);
        let elements = reach.elements()?;
        let left = left.get_mut(..elements * W::BYTES)?;
        let right = right.get_mut(..elements * W::BYTES)?;
        c.memory.read(source.lowest::<W>(c, elements)?, left, Access::Read).ok()?;
        c.memory.read(destination.lowest::<W>(c, elements)?, right, Access::Read).ok()?;
        let backward = backward(c);
        compare::<W, R>(c, in_order(left, backward).zip(in_order(right, backward)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Displaced, FlatMemory, Protection, Registers};

    const BASE: u64 = 0x10_0000;
    const PAGES: u64 = 16;

    /// Some pages from `BASE` on, of which one cannot be accessed and one cannot be written.
    fn pages() -> FlatMemory {
        let mut memory = FlatMemory::new(BASE, (PAGES * PAGE) as usize);
        for (at, byte) in (0u64..).zip(memory.bytes_mut()) {
            *byte = (at.wrapping_mul(at) >> 9) as u8 & 3;
        }
        memory.protect(BASE + 13 * PAGE, 1, Protection::ReadOnly);
        memory.protect(BASE + 14 * PAGE, 1, Protection::Absent);
        memory
    }

    /// Executes until the instruction has ended, and returns how.
    fn run(
        displaced: &Displaced,
        registers: &mut Registers,
        memory: &mut FlatMemory,
    ) -> Result<Outcome, Exception> {
        loop {
            match displaced.execute(registers, memory) {
                Ok(Outcome::Again) => assert_eq!(registers.rip, displaced.ip()),
                other => return other,
            }
        }
    }

    /// A thread that single-steps itself gets one element per execution: that is the reference.
    fn compare_with_stepping(bytes: &[u8], registers: &Registers) -> usize {
        let displaced = Displaced::decode(bytes, 0x1000).expect("a string instruction");
        let (mut bulk, mut memory) = (registers.clone(), pages());
        let outcome = run(&displaced, &mut bulk, &mut memory);
        let (mut stepped, mut reference) = (registers.clone(), pages());
        stepped.rflags |= Rflags::TF;
        assert_eq!(outcome, run(&displaced, &mut stepped, &mut reference), "{bytes:x?} {registers:x?}");
        stepped.rflags.remove(Rflags::TF);
        assert_eq!(bulk, stepped, "{bytes:x?} {registers:x?}");
        assert!(memory.bytes() == reference.bytes(), "{bytes:x?} {registers:x?}");
        memory.accesses().reads + memory.accesses().writes
    }

    const REPEATED: [&[u8]; 9] = [
        &[0xf3, 0xa4],
        &[0xf3, 0x66, 0xa5],
        &[0xf3, 0xa5],
        &[0xf3, 0x48, 0xa5],
        &[0x67, 0xf3, 0x48, 0xa5],
        &[0xf3, 0x48, 0xab],
        &[0xf3, 0xad],
        &[0xf2, 0xae],
        &[0xf3, 0x66, 0xa7],
    ];

    #[test]
    fn many_elements_are_as_one_after_the_other() {
        let distances = [0, 1, 3, 8, 9, 100, 4096, 9000, 20_000];
        for bytes in REPEATED {
            for distance in distances {
                for (number, count) in [2u64, 33, 700, 9001].into_iter().enumerate() {
                    let mut registers = Registers::default();
                    let near = BASE + 2000 + number as u64 * 531;
                    for (source, destination) in [(near, near + distance), (near + distance, near)] {
                        for flags in [Rflags::default(), Rflags::default() | Rflags::DF] {
                            let up = if flags.contains(Rflags::DF) { 25_000 } else { 0 };
                            registers.gpr[gpr::RSI] = source + up;
                            registers.gpr[gpr::RDI] = destination + up;
                            registers.gpr[gpr::RCX] = count;
                            registers.gpr[gpr::RAX] = 0x0707_0707_0707_0707;
                            registers.rflags = flags;
                            compare_with_stepping(bytes, &registers);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_megabyte_is_few_accesses() {
        let mut registers = Registers::default();
        registers.gpr[gpr::RDI] = BASE;
        registers.gpr[gpr::RCX] = 13 * PAGE;
        let accesses = compare_with_stepping(&[0xf3, 0xaa], &registers);
        assert!(accesses <= 13, "{accesses}");
    }
}
