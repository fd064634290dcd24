//! A hit, as expressions see it.

use emu::registers::{Extended, Float80, segment};

use crate::engine::hit::Hit;
use crate::language::{Circumstance, ExtendedRegister, Machine, MachineMut, Register};

impl Machine for Hit<'_> {
    fn register(&mut self, register: Register) -> u64 {
        Hit::registers(self).get(register)
    }

    fn extended(&mut self, register: ExtendedRegister, quadword: u8) -> Option<u64> {
        quadword_of(Hit::extended(self).ok()?, register, quadword)
    }

    fn circumstance(&mut self, what: Circumstance) -> Option<u64> {
        Some(match what {
            Circumstance::Pid => u64::from(Hit::pid(self).cast_unsigned()),
            Circumstance::Tid => u64::from(Hit::tid(self).cast_unsigned()),
            Circumstance::Cpu => u64::from(Hit::cpu(self)?),
            Circumstance::Time => Hit::time_ns(self),
            Circumstance::CommLow => half_of(&Hit::comm(self)?, 0),
            Circumstance::CommHigh => half_of(&Hit::comm(self)?, 8),
            Circumstance::CodeSegment => u64::from(Hit::registers(self).segment[segment::CS]),
            Circumstance::StackSegment => u64::from(Hit::registers(self).segment[segment::SS]),
        })
    }

    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        Hit::read_up_to(self, address, bytes)
    }
}

impl MachineMut for Hit<'_> {
    fn set_register(&mut self, register: Register, value: u64) {
        self.registers_mut().set(register, value);
    }

    fn set_extended(&mut self, register: ExtendedRegister, quadword: u8, value: u64) -> bool {
        let Ok(extended) = self.extended_mut() else { return false };
        let place = match register {
            ExtendedRegister::Vector(number) => {
                let register = extended.vector.get_mut(usize::from(number));
                register.and_then(|register| register.0.get_mut(usize::from(quadword)))
            }
            ExtendedRegister::Opmask(number) if quadword == 0 => extended.opmask.get_mut(usize::from(number)),
            _ => None,
        };
        place.map(|place| *place = value).is_some()
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        Hit::write(self, address, bytes).is_ok()
    }
}

/// Eight bytes of a name, zeros behind its end.
fn half_of(name: &[u8], from: usize) -> u64 {
    let mut half = [0; 8];
    half.iter_mut().zip(name.iter().skip(from)).for_each(|(byte, &letter)| *byte = letter);
    u64::from_le_bytes(half)
}

fn quadword_of(extended: &Extended, register: ExtendedRegister, quadword: u8) -> Option<u64> {
    match register {
        ExtendedRegister::Vector(number) => {
            extended.vector.get(usize::from(number))?.0.get(usize::from(quadword)).copied()
        }
        ExtendedRegister::St(number) if number < 8 => {
            const TOP: u32 = 11;
            let top = (extended.x87.status >> TOP) as u8;
            let &Float80 { significand, sign_exponent } =
                extended.x87.r.get(usize::from(top.wrapping_add(number) & 7))?;
            match quadword {
                0 => Some(significand),
                1 => Some(sign_exponent.into()),
                _ => None,
            }
        }
        ExtendedRegister::Opmask(number) if quadword == 0 => {
            extended.opmask.get(usize::from(number)).copied()
        }
        _ => None,
    }
}
