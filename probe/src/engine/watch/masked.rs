//! What masked stores leave alone. A debug register stops a thread behind one that meets what is watched with any part of
//! its operand, whatever the mask takes of that (seen on Zen 5).

use std::ops::Range;

use emu::{Access, Displaced, MemoryFault, Outcome, Registers, Touches, UserMemory};

/// Memory that takes all that is written to it, and notes where.
#[derive(Default)]
struct Noted(Vec<Range<u64>>);

impl UserMemory for Noted {
    fn read(&mut self, address: u64, _: &mut [u8], access: Access) -> Result<(), MemoryFault> {
        match access {
            // Whether it may be written to.
            Access::Write => Ok(()),
            // A store looks at nothing.
            _ => Err(MemoryFault { address, access, present: false, protection_key: false }),
        }
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryFault> {
        self.0.push(address..address.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn update(
        &mut self,
        address: u64,
        size: usize,
        update: &mut dyn FnMut(u128) -> u128,
    ) -> Result<u128, MemoryFault> {
        self.update_alone(address, size, update)
    }
}

/// Whether it is a store of which a mask takes parts, and which leaves all registers as they are.
pub(crate) fn is_masked_store(displaced: &Displaced) -> bool {
    // A scatter clears its mask while it is at it.
    let stays = !displaced.instruction().is_vsib();
    stays && displaced.is_masked() && displaced.touches().contains(Touches::MEMORY_WRITE)
}

/// What a [masked store](is_masked_store) has written to, behind which the thread with these registers is; `None` if that
/// cannot be told.
pub(crate) fn written(store: &Displaced, registers: &Registers) -> Option<Vec<Range<u64>>> {
    let mut noted = Noted::default();
    let done = store.execute(&mut registers.clone(), &mut noted);
    (done == Ok(Outcome::Next)).then_some(noted.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(bytes: &[u8]) -> Displaced {
        Displaced::decode_on(bytes, 0x1000, Box::leak(Box::new(emu::Processor::zen_5()))).unwrap()
    }

    #[test]
    fn what_the_mask_takes_is_written() {
        // vmaskmovps [rdi], xmm1, xmm0
        let store = decoded(&[0xc4, 0xe2, 0x71, 0x2e, 0x07]);
        assert!(is_masked_store(&store));
        let mut registers = Registers::default();
        registers.gpr[7] = 0x5000;
        registers.extended.vector[1].0[0] = 1 << 63;
        assert_eq!(written(&store, &registers).as_deref(), Some(std::slice::from_ref(&(0x5004..0x5008))));
        registers.extended.vector[1].0[0] = 0;
        assert_eq!(written(&store, &registers), Some(vec![]));
    }

    #[test]
    fn others_are_none() {
        // vmaskmovps xmm0, xmm1, [rdi]; movaps [rdi], xmm0; lock cmpxchg [rdi], ecx; vpscatterdd [rdi+xmm1]{k1}, xmm0
        let load: &[u8] = &[0xc4, 0xe2, 0x71, 0x2c, 0x07];
        let scatter: &[u8] = &[0x62, 0xf2, 0x7d, 0x09, 0xa0, 0x04, 0x0f];
        for bytes in [load, &[0x0f, 0x29, 0x07], &[0xf0, 0x0f, 0xb1, 0x0f], scatter] {
            assert!(!is_masked_store(&decoded(bytes)), "{bytes:x?}");
        }
    }
}
