//! An expression's machine: registers as they were at a place once, and memory as it is.

use std::ops::Range;

use crate::engine::hit::GeneralRegisters;
use crate::language::{Circumstance, ExtendedRegister, Machine, Register};

/// Reads memory as far as it can be read, and returns how far that is.
pub(crate) type Read<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> usize;

/// Remembers which memory it was asked for.
pub(crate) struct Frozen<'a> {
    registers: &'a GeneralRegisters,
    memory: Read<'a>,
    read: Vec<Range<u64>>,
}

impl<'a> Frozen<'a> {
    pub(crate) fn new(registers: &'a GeneralRegisters, memory: Read<'a>) -> Frozen<'a> {
        Frozen { registers, memory, read: Vec::new() }
    }

    /// What was read last.
    pub(crate) fn last(&self) -> Option<Range<u64>> {
        self.read.last().cloned()
    }

    /// What was read, in order, and what touches each other in one.
    pub(crate) fn into_ranges(self) -> Vec<Range<u64>> {
        let mut read = self.read;
        read.sort_unstable_by_key(|range| range.start);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for range in read {
            match ranges.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => ranges.push(range),
            }
        }
        ranges
    }
}

impl Machine for Frozen<'_> {
    fn register(&mut self, register: Register) -> u64 {
        self.registers.get(register)
    }

    fn extended(&mut self, _: ExtendedRegister, _: u8) -> Option<u64> {
        None
    }

    fn circumstance(&mut self, _: Circumstance) -> Option<u64> {
        None
    }

    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        let read = (self.memory)(address, bytes);
        if read > 0 {
            self.read.push(address..address.saturating_add(read as u64));
        }
        read
    }
}
