//! Which state components are in use: what the manual leaves to the processor.
//!
//! XINUSE says of a component that is not in its initial configuration that it is in use, and may say so of one that
//! is (SDM volume 1, section 13.6). It shows in XSTATE_BV, in what XSAVEC and XSAVEOPT leave out, and in XGETBV. A
//! processor that says more than the emulator is right, if all else is as it follows from what it said.

use emu::xsave::{HEADER_LENGTH, LEGACY_LENGTH, feature};
use emu::{Facts, Processor, Registers};
use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::generate::address_of;

/// Where XSAVE writes MXCSR and its mask, the x87 registers, and XMM registers, in bytes.
const MXCSR: usize = 24;
const ST: usize = 32;
const XMM: usize = 160;
const XMM_END: usize = XMM + 256;
/// FCW as FNINIT leaves it, and MXCSR as reset does.
const INITIAL_CONTROL: [u8; 2] = 0x037fu16.to_le_bytes();
const INITIAL_MXCSR: [u8; 4] = 0x1f80u32.to_le_bytes();

/// What an instruction writes by XINUSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// XSAVE writes whatever is asked for; XINUSE is in the header alone.
    Whole,
    /// XSAVEOPT leaves out what is not in use.
    Optimized,
    /// XSAVEC leaves it out, too, of a compacted image.
    Compacted,
}

/// An image that is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image {
    form: Form,
    start: u64,
    requested: u64,
}

impl Image {
    /// What `instruction` writes from these registers, if it is an XSAVE and the processor's XINUSE can say more than
    /// the registers.
    pub(crate) fn of(instruction: &Instruction, before: &Registers, processor: &Processor) -> Option<Image> {
        let form = match instruction.mnemonic() {
            Mnemonic::Xsave | Mnemonic::Xsave64 => Form::Whole,
            Mnemonic::Xsaveopt | Mnemonic::Xsaveopt64 => Form::Optimized,
            Mnemonic::Xsavec | Mnemonic::Xsavec64 => Form::Compacted,
            _ => return None,
        };
        let is_memory = instruction.op0_kind() == OpKind::Memory;
        let is_conservative = processor.facts.contains(Facts::XINUSE_IS_CONSERVATIVE);
        let start = address_of(instruction, 0, before).filter(|_| is_memory && is_conservative)?;
        let [rax, _, rdx, ..] = before.gpr;
        let requested = (rdx << 32 | rax & u64::from(u32::MAX)) & processor.xcr0;
        Some(Image { form, start, requested })
    }

    /// Where XSTATE_BV lies.
    pub(crate) fn header(&self) -> u64 {
        self.start.wrapping_add(LEGACY_LENGTH as u64)
    }

    /// What a processor writes that puts `observed` into XSTATE_BV where the emulator puts `expected`, each an address
    /// and bytes; `None` if it may not put that there.
    pub(crate) fn permitted(
        &self,
        expected: u64,
        observed: u64,
        processor: &Processor,
    ) -> Option<Vec<(u64, Vec<u8>)>> {
        let more = more(expected, observed, self.requested)?;
        let mut writes = vec![(LEGACY_LENGTH, observed.to_le_bytes().to_vec())];
        if self.form != Form::Whole {
            self.initial(more, processor, &mut writes);
        }
        Some(
            writes
                .into_iter()
                .map(|(offset, bytes)| (self.start.wrapping_add(offset as u64), bytes))
                .collect(),
        )
    }

    /// The initial configurations of `components`, each with its offset.
    fn initial(&self, components: u64, processor: &Processor, writes: &mut Vec<(usize, Vec<u8>)>) {
        if components & feature::X87 != 0 {
            let mut environment = vec![0; MXCSR];
            environment[..2].copy_from_slice(&INITIAL_CONTROL);
            writes.extend([(0, environment), (ST, vec![0; XMM - ST])]);
        }
        if components & feature::SSE != 0 {
            writes.push((XMM, vec![0; XMM_END - XMM]));
            let mask = processor.mxcsr_mask.bits().to_le_bytes();
            // The standard form writes MXCSR in any case.
            if self.form == Form::Compacted {
                writes.push((MXCSR, [INITIAL_MXCSR, mask].concat()));
            }
        }
        let mut next = LEGACY_LENGTH + HEADER_LENGTH;
        for (number, size, offset) in processor.components.rows() {
            let (bit, size) = (1 << number, size as usize);
            if self.requested & bit == 0 {
                continue;
            }
            let is_aligned = processor.components.aligned() & bit != 0;
            let compacted = if is_aligned { next.next_multiple_of(64) } else { next };
            next = compacted + size;
            if components & bit != 0 {
                let is_short =
                    bit == feature::PKRU && processor.facts.contains(Facts::XSAVE_WRITES_FOUR_BYTES_OF_PKRU);
                let start = if self.form == Form::Compacted { compacted } else { offset as usize };
                writes.push((start, vec![0; if is_short { 4 } else { size }]));
            }
        }
    }
}

/// What XGETBV may answer with ECX = 1 where the emulator says `expected`: `observed`, if it is right.
pub(crate) fn permitted_xgetbv(
    instruction: &Instruction,
    before: &Registers,
    expected: u64,
    observed: u64,
    processor: &Processor,
) -> bool {
    let [_, rcx, ..] = before.gpr;
    instruction.mnemonic() == Mnemonic::Xgetbv
        && rcx as u32 == 1
        && processor.facts.contains(Facts::XINUSE_IS_CONSERVATIVE)
        && more(expected, observed, processor.xcr0 & u64::from(u32::MAX)).is_some()
}

/// What `observed` has more than `expected`, if that is all in which they differ, and it is a part of `possible`.
fn more(expected: u64, observed: u64, possible: u64) -> Option<u64> {
    let more = observed & !expected;
    (expected & !observed == 0 && more & !possible == 0).then_some(more)
}

#[cfg(test)]
mod tests {
    use emu::registers::gpr;
    use iced_x86::Decoder;

    use super::*;

    const START: u64 = 0x1000;

    fn image(bytes: &[u8], requested: u64, processor: &Processor) -> Option<Image> {
        let instruction = Decoder::new(64, bytes, 0).decode();
        let mut registers = Registers::default();
        registers.gpr[gpr::RBX] = START;
        registers.gpr[gpr::RAX] = requested;
        Image::of(&instruction, &registers, processor)
    }

    const XSAVE: &[u8] = &[0x0f, 0xae, 0x23]; // xsave [rbx]
    const XSAVEOPT: &[u8] = &[0x0f, 0xae, 0x33];
    const XSAVEC: &[u8] = &[0x0f, 0xc7, 0x23];

    #[test]
    fn more_may_be_in_use_and_not_less() {
        let processor = Processor::emerald_rapids();
        let image = image(XSAVE, 7, &processor).unwrap();
        assert_eq!(image.header(), START + 512);
        let header = |value: u64| Some(vec![(START + 512, value.to_le_bytes().to_vec())]);
        assert_eq!(image.permitted(5, 7, &processor), header(7));
        assert_eq!(image.permitted(5, 3, &processor), None);
        assert_eq!(image.permitted(7, 5, &processor), None);
        // Nobody asked for it.
        assert_eq!(image.permitted(5, 5 | 1 << 5, &processor), None);
    }

    #[test]
    fn what_is_said_to_be_in_use_is_written() {
        let processor = Processor::emerald_rapids();
        let zeros = |start: usize, length: usize| (START + start as u64, vec![0; length]);
        let header = (START + 512, 6u64.to_le_bytes().to_vec());
        let avx = processor.components.rows().find(|(number, ..)| *number == 2).unwrap();
        let optimized = image(XSAVEOPT, 7, &processor).unwrap().permitted(0, 6, &processor).unwrap();
        assert_eq!(optimized, [header.clone(), zeros(160, 256), zeros(avx.2 as usize, 256)]);
        let compacted = image(XSAVEC, 7, &processor).unwrap().permitted(4, 6, &processor).unwrap();
        assert_eq!(compacted[..2], [header, zeros(160, 256)]);
        assert_eq!(compacted[2].0, START + 24);
        assert_eq!(compacted[2].1[..4], INITIAL_MXCSR);
        let masks = 1 << 5;
        let compacted =
            image(XSAVEC, 7 | masks, &processor).unwrap().permitted(0, masks, &processor).unwrap();
        // Behind AVX's 256 bytes.
        assert_eq!(compacted[1], zeros(576 + 256, 64));
    }

    #[test]
    fn elsewhere_the_registers_say_what_is_in_use() {
        let processor = Processor::zen_3();
        assert!(image(XSAVEC, 7, &processor).is_none());
        assert!(image(&[0x0f, 0xae, 0x2b], 7, &Processor::emerald_rapids()).is_none(), "xrstor");
    }
}
