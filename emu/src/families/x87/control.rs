//! Control, environment and state of the x87 unit (SDM volume 1, sections 8.1.10 and 8.3.10), and EMMS.

use iced_x86::Code;

use super::{check_ends, read, read_slice, waiting, write_slice};
use crate::decode::flags::Flags;
use crate::decode::form::Form;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{Float80, X87};
use crate::model::x87::status::{B, BEFORE, C1, ES, EXCEPTIONS, SF};
use crate::run::context::{Context, Execute};
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Fnstcw, store_word(|x87| x87.control), Flags::X87),
    row!(Fldcw, Whole, Flags::X87, fldcw),
    row!(Fnstsw, store_word(|x87| x87.status), Flags::X87),
    row!(Fnclex, Whole, Flags::X87, fnclex),
    row!(Fninit, Whole, Flags::X87, fninit),
    row!(Fnstenv, Select, Flags::X87, fnstenv),
    row!(Fldenv, Select, Flags::X87, fldenv),
    row!(Fnsave, Select, Flags::X87, fnsave),
    row!(Frstor, Select, Flags::X87, frstor),
    row!(Fincstp, rotate(1), Flags::X87),
    row!(Fdecstp, rotate(-1), Flags::X87),
    row!(Ffree, ffree(0), Flags::X87),
    row!(Ffreep, ffree(1), Flags::X87),
    row!(Fnop, Whole, Flags::X87, |c| waiting(c, |_| Ok(()))),
    row!(Wait, Whole, Flags::X87, wait),
    // What they did on the 8087 and 80287, processors since the 80387 ignore.
    row!([Fneni, Fndisi, Fnsetpm], Whole, Flags::X87, |_| Ok(Outcome::Next)),
    row!([Emms, Femms], Whole, Flags::X87, emms),
];

/// The bits of FCW that can be written; bit 6 always reads as one, the others as zero.
const WRITABLE_CONTROL: u16 = 0x1f3f;
const FIXED_CONTROL: u16 = 1 << 6;

impl X87 {
    /// Writes FCW, on whose masks ES depends.
    pub(super) fn set_control(&mut self, control: u16) {
        self.control = control & WRITABLE_CONTROL | FIXED_CONTROL;
        self.summarize();
    }

    /// The tag word of the 80387, which says what each register holds.
    fn full_tag(&self) -> u16 {
        const EMPTY: u16 = 3;
        self.r.iter().enumerate().fold(0, |word, (number, register)| {
            let tag = if self.tag >> number & 1 == 0 { EMPTY } else { class(register) };
            word | tag << (2 * number)
        })
    }

    /// Takes the emptiness of registers from a full tag word.
    fn set_full_tag(&mut self, word: u16) {
        self.tag = (0..8).fold(0, |tag, number| {
            let empty = word >> (2 * number) & 3 == 3;
            tag | u8::from(!empty) << number
        });
    }
}

/// The tag of a register that is not empty: valid, zero or special.
fn class(register: &Float80) -> u16 {
    const INTEGER_BIT: u64 = 1 << 63;
    match register.sign_exponent & 0x7fff {
        0 if register.significand == 0 => 1,
        0 | 0x7fff => 2,
        _ if register.significand & INTEGER_BIT == 0 => 2,
        _ => 0,
    }
}

fn store_word(c: &mut Context<'_>, word: fn(&X87) -> u16) -> Result<Outcome, Exception> {
    let word = word(&c.registers.extended.x87);
    c.write(0, word)?;
    Ok(Outcome::Next)
}

fn fldcw(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.extended.x87.check_pending()?;
    let control = read(c)?;
    c.registers.extended.x87.set_control(control);
    Ok(Outcome::Next)
}

fn fnclex(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.extended.x87.status &= !(EXCEPTIONS | SF | ES | B);
    Ok(Outcome::Next)
}

fn fninit(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    initialize(&mut c.registers.extended.x87);
    Ok(Outcome::Next)
}

/// FNINIT leaves what the registers hold.
fn initialize(x87: &mut X87) {
    *x87 = X87 { r: x87.r, ..X87::default() };
}

/// An environment in memory: words of two bytes each, or of four whose upper halves are ones but for what
/// [`Environment::store`] puts there. FCS and FDS read as zero: the kernel's 64-bit images have no place for
/// them.
trait Environment {
    /// In bytes.
    const LENGTH: usize;
    /// One word of it, in bytes.
    const WORD: usize;
    fn store(x87: &X87, image: &mut [u8]);
    fn load(x87: &mut X87, image: &[u8]);
}

struct Environment16;
struct Environment32;

fn put<const N: usize>(image: &mut [u8], words: [[u8; N]; 7]) {
    for (place, word) in image.chunks_exact_mut(N).zip(words) {
        place.copy_from_slice(&word);
    }
}

fn get<const N: usize>(image: &[u8]) -> [[u8; N]; 7] {
    let mut words = [[0; N]; 7];
    for (word, place) in words.iter_mut().zip(image.chunks_exact(N)) {
        word.copy_from_slice(place);
    }
    words
}

impl Environment for Environment16 {
    const LENGTH: usize = 14;
    const WORD: usize = 2;

    fn store(x87: &X87, image: &mut [u8]) {
        let words = [
            x87.control,
            x87.status,
            x87.full_tag(),
            x87.instruction_pointer as u16,
            0,
            x87.data_pointer as u16,
            0,
        ];
        put(image, words.map(u16::to_le_bytes));
    }

    fn load(x87: &mut X87, image: &[u8]) {
        let [control, status, tag, instruction_pointer, _, data_pointer, _] =
            get(image).map(u16::from_le_bytes);
        x87.status = status;
        x87.set_control(control);
        x87.set_full_tag(tag);
        x87.opcode = 0;
        x87.instruction_pointer = u64::from(instruction_pointer);
        x87.data_pointer = u64::from(data_pointer);
    }
}

impl Environment for Environment32 {
    const LENGTH: usize = 28;
    const WORD: usize = 4;

    fn store(x87: &X87, image: &mut [u8]) {
        const ONES: u32 = 0xffff_0000;
        let words = [
            ONES | u32::from(x87.control),
            ONES | u32::from(x87.status),
            ONES | u32::from(x87.full_tag()),
            x87.instruction_pointer as u32,
            u32::from(x87.opcode & 0x7ff) << 16,
            x87.data_pointer as u32,
            ONES,
        ];
        put(image, words.map(u32::to_le_bytes));
    }

    fn load(x87: &mut X87, image: &[u8]) {
        let [control, status, tag, instruction_pointer, opcode, data_pointer, _] =
            get(image).map(u32::from_le_bytes);
        x87.status = status as u16;
        x87.set_control(control as u16);
        x87.set_full_tag(tag as u16);
        x87.opcode = (opcode >> 16) as u16 & 0x7ff;
        x87.instruction_pointer = u64::from(instruction_pointer);
        x87.data_pointer = u64::from(data_pointer);
    }
}

fn fnstenv(form: &Form<'_>) -> Option<Execute> {
    fn run<E: Environment>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let mut image = [0; 28];
        E::store(&c.registers.extended.x87, &mut image);
        check_ends(c, E::WORD, E::LENGTH, Access::Write)?;
        write_slice(c, &image[..E::LENGTH])?;
        let x87 = &mut c.registers.extended.x87;
        x87.set_control(x87.control | EXCEPTIONS);
        Ok(Outcome::Next)
    }
    by_environment(form, run::<Environment16>, run::<Environment32>)
}

fn fldenv(form: &Form<'_>) -> Option<Execute> {
    fn run<E: Environment>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        c.registers.extended.x87.check_pending()?;
        let mut image = [0; 28];
        check_ends(c, E::WORD, E::LENGTH, Access::Read)?;
        read_slice(c, &mut image[..E::LENGTH])?;
        E::load(&mut c.registers.extended.x87, &image);
        Ok(Outcome::Next)
    }
    by_environment(form, run::<Environment16>, run::<Environment32>)
}

/// The bytes of a register in memory.
const REGISTER: usize = 10;

fn fnsave(form: &Form<'_>) -> Option<Execute> {
    fn run<E: Environment>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        let x87 = &c.registers.extended.x87;
        let mut image = [0; 28 + 8 * REGISTER];
        let (environment, registers) = image.split_at_mut(E::LENGTH);
        E::store(x87, environment);
        for (place, register) in registers.chunks_exact_mut(REGISTER).zip(x87.in_stack_order()) {
            place.copy_from_slice(&register.to_bytes());
        }
        check_ends(c, E::WORD, E::LENGTH + 8 * REGISTER, Access::Write)?;
        write_slice(c, &image[..E::LENGTH + 8 * REGISTER])?;
        initialize(&mut c.registers.extended.x87);
        Ok(Outcome::Next)
    }
    by_environment(form, run::<Environment16>, run::<Environment32>)
}

fn frstor(form: &Form<'_>) -> Option<Execute> {
    fn run<E: Environment>(c: &mut Context<'_>) -> Result<Outcome, Exception> {
        c.registers.extended.x87.check_pending()?;
        let mut image = [0; 28 + 8 * REGISTER];
        check_ends(c, E::WORD, E::LENGTH + 8 * REGISTER, Access::Read)?;
        read_slice(c, &mut image[..E::LENGTH + 8 * REGISTER])?;
        let (environment, registers) = image.split_at(E::LENGTH);
        let x87 = &mut c.registers.extended.x87;
        E::load(x87, environment);
        for (number, bytes) in (0..8).zip(registers.chunks_exact(REGISTER)) {
            let mut register = [0; REGISTER];
            register.copy_from_slice(bytes);
            *x87.register_mut(number) = Float80::from_bytes(&register);
        }
        Ok(Outcome::Next)
    }
    by_environment(form, run::<Environment16>, run::<Environment32>)
}

/// Picks by operand size.
fn by_environment(form: &Form<'_>, with_16: Execute, with_32: Execute) -> Option<Execute> {
    match form.instruction.code() {
        Code::Fnstenv_m14byte | Code::Fldenv_m14byte | Code::Fnsave_m94byte | Code::Frstor_m94byte => {
            Some(with_16)
        }
        Code::Fnstenv_m28byte | Code::Fldenv_m28byte | Code::Fnsave_m108byte | Code::Frstor_m108byte => {
            Some(with_32)
        }
        _ => None,
    }
}

/// Moves TOP, without looking at tags.
fn rotate(c: &mut Context<'_>, by: i16) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let x87 = &mut c.registers.extended.x87;
        x87.raise(0, C1, BEFORE);
        x87.rotate(by);
        Ok(())
    })
}

/// Makes ST(i) empty, then pops.
fn ffree(c: &mut Context<'_>, pops: u8) -> Result<Outcome, Exception> {
    waiting(c, |c| {
        let number = c.decoded.operand[0].number;
        let x87 = &mut c.registers.extended.x87;
        x87.raise(0, C1, BEFORE);
        x87.free(number);
        x87.pop(pops);
        Ok(())
    })
}

fn wait(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.extended.x87.check_pending()?;
    Ok(Outcome::Next)
}

fn emms(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    c.registers.extended.x87.check_pending()?;
    c.registers.extended.x87.leave_mmx();
    Ok(Outcome::Next)
}
