//! Elements of a memory operand, some of which are accessed and others not even looked at.

use crate::decode::processor::Facts;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::registers::Rflags;
use crate::run::context::Context;
use crate::run::phases::lowest;

impl Context<'_> {
    /// Reads the elements of the memory operand that the mask chooses.
    pub(crate) fn load_elements(
        &mut self,
        bytes: &mut [u8],
        element: usize,
        mask: u64,
    ) -> Result<(), Exception> {
        let in_turn = self.decoded.processor.is(Facts::ELEMENTS_FAULT_IN_TURN);
        if !in_turn {
            self.check_elements(bytes.len(), element, mask)?;
        }
        for (start, length) in runs(mask, element, bytes.len(), in_turn) {
            let at = self.part(start, length)?;
            let run = bytes.get_mut(start..start + length).unwrap_or_default();
            self.memory.read(at, run, Access::Read)?;
        }
        Ok(())
    }

    /// Writes the elements of the memory operand that the mask chooses: all of them or none.
    pub(crate) fn store_elements(
        &mut self,
        bytes: &[u8],
        element: usize,
        mask: u64,
    ) -> Result<(), Exception> {
        self.access_elements(bytes.len(), element, mask)?;
        for (start, length) in runs(mask, element, bytes.len(), false) {
            let at = self.part(start, length)?;
            self.memory.write(at, bytes.get(start..start + length).unwrap_or_default())?;
        }
        Ok(())
    }

    /// What a store of the elements of the memory operand that the mask chooses, of so many bytes, would raise.
    pub(crate) fn access_elements(
        &mut self,
        bytes: usize,
        element: usize,
        mask: u64,
    ) -> Result<(), Exception> {
        let in_turn = self.decoded.processor.is(Facts::ELEMENTS_FAULT_IN_TURN);
        if !in_turn {
            self.check_elements(bytes, element, mask)?;
        }
        let several = bytes > element;
        if several && self.decoded.processor.is(Facts::MASKED_STORES_CHECK_THEIR_ENDS) {
            let ends = |(first, last): (Option<usize>, usize), (start, length): (usize, usize)| {
                (first.or(Some(start)), (start + length).saturating_sub(1).max(last))
            };
            let (first, last) = runs(mask, element, bytes, false).fold((None, 0), ends);
            for byte in first.into_iter().flat_map(|first| [first, last]) {
                let at = self.part(byte, 1)?;
                self.memory.read(at, &mut [0], Access::Write)?;
            }
        }
        for (start, length) in runs(mask, element, bytes, in_turn) {
            let at = self.part(start, length)?;
            self.memory.read(at, &mut [0; 64][..length.min(64)], Access::Write)?;
        }
        Ok(())
    }

    /// #AC of the elements of the memory operand that the mask chooses, of so many bytes, where it is of each by itself;
    /// #GP or #SS of the first of them comes before.
    pub(crate) fn check_alignment_of_elements(
        &self,
        bytes: usize,
        element: usize,
        mask: u64,
    ) -> Result<(), Exception> {
        let asked = self.registers.rflags.contains(Rflags::AC)
            && self.decoded.processor.is(Facts::AC_WANTS_ELEMENTS_ALIGNED);
        if asked && let Some((start, length)) = runs(mask, element, bytes, true).next() {
            let at = self.part(start, length)?;
            if at & (element as u64).wrapping_sub(1) != 0 {
                return Err(Exception::AlignmentCheck);
            }
        }
        Ok(())
    }

    /// #GP or #SS, which come before #PF wherever the elements lie that the mask chooses.
    pub(super) fn check_elements(&self, bytes: usize, element: usize, mask: u64) -> Result<(), Exception> {
        runs(mask, element, bytes, false).try_for_each(|(start, length)| self.part(start, length).map(drop))
    }

    /// The address of so many bytes of the memory operand, or #GP or #SS.
    fn part(&self, start: usize, length: usize) -> Result<u64, Exception> {
        let address = &self.decoded.address;
        let at = address.linear_past(self.registers, start as u64, length.saturating_sub(1) as u8);
        self.check(at, length, 1, address.stack)?;
        Ok(at)
    }
}

/// Where the elements that the mask chooses lie, of `bytes` bytes: starts and lengths in bytes, neighbours as one
/// unless each is asked for.
fn runs(mask: u64, element: usize, bytes: usize, each: bool) -> impl Iterator<Item = (usize, usize)> {
    let element = element.max(1);
    let mut rest = mask & lowest(bytes / element);
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let start = rest.trailing_zeros() as usize;
        let length = if each { 1 } else { (rest >> start).trailing_ones() as usize };
        rest &= !lowest(start + length);
        Some((start * element, length * element))
    })
}
