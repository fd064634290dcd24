//! Segment descriptors and descriptor tables, as far as user mode can ask for them (SDM volume 3, section
//! 5.10.3 and volume 1, section 7.3.17).
//!
//! The descriptors of the GDT are the same for every process on a Linux system, so the processor is
//! asked about them here. Those of the LDT and the three for thread-local storage are the thread's own.

use crate::decode::flags::Flags;
use crate::decode::form::{Form, Shape};
use crate::decode::operand::Kind;
use crate::decode::processor::Facts;
use crate::host::answers;
use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::Rflags;
use crate::model::width::Width;
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::run::row::by_width;
use crate::shape::row;

use super::privileged::privileged;
use crate::families::integer::arith::flag;

pub(super) static ROWS: &[Row] = &[
    row!(Lar, Wide, Flags::empty(), lar),
    row!(Lsl, Wide, Flags::THIS_CORE, lsl),
    row!(Verr, verify(Rights::is_readable), Flags::empty()),
    row!(Verw, verify(Rights::is_writable), Flags::empty()),
    row!(Sgdt, Select, Flags::THIS_CORE, |form| stored(form, |c| store(c, &answers::sgdt()))),
    row!(Sidt, Select, Flags::THIS_CORE, |form| stored(form, |c| store(c, &answers::sidt()))),
    row!(Sldt, Select, Flags::empty(), |form| stored(form, by_width!(form.size(0), sldt)?)),
    row!(Str, Select, Flags::THIS_CORE, |form| stored(form, by_width!(form.size(0), str)?)),
    row!(Smsw, Select, Flags::empty(), |form| stored(form, by_width!(form.size(0), smsw)?)),
];

/// What a selector names, as far as it can be known here.
pub(super) enum Descriptor {
    /// In the thread's own part of the tables.
    Unknown,
    /// Null, none, or not for user mode.
    Absent,
    Present(Rights),
}

impl Descriptor {
    pub(super) fn of(selector: u16) -> Descriptor {
        if is_own(selector) {
            return Descriptor::Unknown;
        }
        match answers::lar(selector) {
            Some(rights) if !is_null(selector) => Descriptor::Present(Rights(rights)),
            _ => Descriptor::Absent,
        }
    }
}

/// Whether it selects one of the thread's own descriptors: in the LDT, or a Linux thread's TLS entries.
fn is_own(selector: u16) -> bool {
    const TABLE_INDICATOR: u16 = 1 << 2;
    const TLS: core::ops::RangeInclusive<u16> = 12..=14;
    selector & TABLE_INDICATOR != 0 || TLS.contains(&(selector >> 3))
}

/// Whether it is a null selector, of any privilege level.
pub(super) fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The error code of an exception that names a selector.
pub(super) fn error_code(selector: u16) -> u16 {
    selector & !3
}

/// The access rights that LAR gives: the second doubleword of a descriptor (SDM volume 3, section 3.4.5).
#[derive(Clone, Copy)]
pub(super) struct Rights(u32);

impl Rights {
    fn bit(self, index: u32) -> bool {
        self.0 >> index & 1 != 0
    }
    /// Code or data, and no gate or system segment.
    fn is_segment(self) -> bool {
        self.bit(12)
    }
    pub(super) fn is_code(self) -> bool {
        self.is_segment() && self.bit(11)
    }
    pub(super) fn is_writable(self) -> bool {
        self.is_segment() && !self.bit(11) && self.bit(9)
    }
    pub(super) fn is_readable(self) -> bool {
        self.is_segment() && (!self.bit(11) || self.bit(9))
    }
    pub(super) fn is_present(self) -> bool {
        self.bit(15)
    }
    /// Whether the code runs in 64-bit mode.
    pub(super) fn is_64_bit(self) -> bool {
        self.bit(21)
    }
    /// The descriptor's privilege level.
    pub(super) fn privilege(self) -> u16 {
        (self.0 >> 13 & 3) as u16
    }
}

/// Writes an answer and ZF, or clears ZF.
fn conclude<W: Width>(c: &mut Context<'_>, answer: Option<u32>) -> Result<Outcome, Exception> {
    if let Some(answer) = answer {
        c.write(0, W::truncate(u64::from(answer)))?;
    }
    set_zero(c, answer.is_some());
    Ok(Outcome::Next)
}

fn set_zero(c: &mut Context<'_>, zero: bool) {
    c.registers.rflags = c.registers.rflags.difference(Rflags::ZF) | flag(Rflags::ZF, zero);
}

fn lar<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let selector = c.read::<u16>(1)?;
    match Descriptor::of(selector) {
        Descriptor::Unknown => Ok(Outcome::Native),
        Descriptor::Absent => conclude::<W>(c, None),
        Descriptor::Present(Rights(rights)) => conclude::<W>(c, Some(rights)),
    }
}

/// Linux keeps the number of the core in a limit.
fn lsl<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let selector = c.read::<u16>(1)?;
    if is_own(selector) { Ok(Outcome::Native) } else { conclude::<W>(c, answers::lsl(selector)) }
}

fn verify(c: &mut Context<'_>, holds: fn(Rights) -> bool) -> Result<Outcome, Exception> {
    let selector = c.read::<u16>(0)?;
    match Descriptor::of(selector) {
        Descriptor::Unknown => return Ok(Outcome::Native),
        Descriptor::Absent => set_zero(c, false),
        Descriptor::Present(rights) => set_zero(c, holds(rights)),
    }
    Ok(Outcome::Next)
}

/// Under UMIP these fault, and the kernel answers, but only those that it can decode.
fn stored(form: &Form<'_>, execute: Execute) -> Option<Execute> {
    let decoded = !form.processor.is(Facts::UMIP) || kernel_decodes(form);
    Some(if decoded { execute } else { privileged })
}

/// The kernel's decoder knows four different legacy prefixes, the last of which it puts in the fourth
/// place, a REX prefix after them, and before a memory operand one segment prefix.
fn kernel_decodes(form: &Form<'_>) -> bool {
    const PLACES: usize = 4;
    let is_legacy = |prefix: &u8| prefix & 0xf0 != 0x40;
    let is_segment = |prefix: &u8| !matches!(prefix, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3);
    let legacy: alloc::vec::Vec<u8> = form.prefixes().take_while(is_legacy).collect();
    let rex = form.prefixes().count() - legacy.len();
    let mut places = alloc::vec::Vec::with_capacity(PLACES);
    for prefix in &legacy {
        if !places.contains(prefix) {
            places.push(*prefix);
        }
    }
    if places.len() > PLACES || rex > 1 {
        return false;
    }
    if places.len() + 1 == PLACES {
        places.extend(legacy.last());
    }
    form.shape(0) == Shape::Register || places.iter().filter(|prefix| is_segment(prefix)).count() <= 1
}

fn sldt<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    store_register(c, W::truncate(answers::sldt()))
}

fn str<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    store_register(c, W::truncate(answers::str_()))
}

fn smsw<W: Width>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    store_register(c, W::truncate(answers::smsw()))
}

/// A register gets as many bytes as the operand has; the kernel leaves the upper half of it alone.
fn store_register<W: Width>(c: &mut Context<'_>, value: W) -> Result<Outcome, Exception> {
    let operand = c.decoded.operand[0];
    if operand.kind == Kind::Memory {
        return store(c, &value.zero_extend().to_le_bytes()[..W::BYTES]);
    }
    let before = operand.get::<u64>(c.registers);
    operand.set(c.registers, value);
    if W::BITS == 32 && c.decoded.processor.is(Facts::UMIP) {
        let kept = before & !0xffff_ffff;
        operand.set(c.registers, kept | value.zero_extend());
    }
    Ok(after_store(c))
}

/// Writes an answer to memory.
fn store(c: &mut Context<'_>, bytes: &[u8]) -> Result<Outcome, Exception> {
    if c.decoded.processor.is(Facts::UMIP) {
        return store_by_kernel(c, bytes);
    }
    let address = c.linear();
    c.check(address, bytes.len(), 1, c.decoded.address.stack)?;
    c.memory.write(address, bytes)?;
    Ok(Outcome::Next)
}

/// Under UMIP it is the kernel that writes. It knows no alignment, writes what it can, and what it cannot
/// write is to it a page that is not there.
fn store_by_kernel(c: &mut Context<'_>, bytes: &[u8]) -> Result<Outcome, Exception> {
    const USER_WRITE: u32 = 6;
    const PAGE: u64 = 4096;
    let fault = |address| Err(Exception::PageFault { address, error_code: USER_WRITE });
    let address = c.decoded.address.linear_of_sum(c.registers);
    if address == u64::MAX || c.decoded.address.base(c.registers) == u64::MAX {
        // To the kernel they mean that there is no address, or no such segment.
        return Err(Exception::GeneralProtection(0));
    }
    // The kernel's own check: the last page of the lower half is not user space.
    let end = address.checked_add(bytes.len() as u64).and_then(|end| end.checked_add(PAGE));
    if !end.is_some_and(|end| c.decoded.is_canonical(end - 1) && end >> 63 == 0) {
        return fault(address);
    }
    for (place, byte) in (address..).zip(bytes) {
        if c.memory.write(place, &[*byte]).is_err() {
            return fault(address);
        }
    }
    Ok(after_store(c))
}

/// The kernel goes on behind the instruction without the debug exception that TF asks for.
fn after_store(c: &Context<'_>) -> Outcome {
    if c.decoded.processor.is(Facts::UMIP) { Outcome::NextInhibited } else { Outcome::Next }
}
