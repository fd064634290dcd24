//! Whether one function can leave to another by a jump: a tail call keeps the return address that it was called with.

use std::collections::HashSet;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, OpKind, Register};

use crate::executor::space::{LONGEST, Space};

/// What the code of a function says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Jumps {
    /// Jumps lead from the one to the other.
    There,
    /// None was found, but one whose target is not known.
    Somewhere,
    /// None does.
    Nowhere,
}

/// Follows the code from `from` on, calls left out, to `to`.
pub(crate) fn from(space: &Space, from: u64, to: u64) -> Jumps {
    /// More than a function has that is called often enough to matter.
    const MOST: usize = 20_000;
    let mut code = Code { space, start: 0, bytes: Vec::new() };
    let mut seen = HashSet::new();
    let mut open = vec![from];
    let mut found = Jumps::Nowhere;
    while let Some(address) = open.pop() {
        let mut next = Some(address);
        while let Some(address) = next.filter(|&address| seen.len() < MOST && seen.insert(address)) {
            let Some(instruction) = code.instruction(address) else { break };
            let flow = instruction.flow_control();
            let target = match flow {
                FlowControl::ConditionalBranch | FlowControl::UnconditionalBranch => {
                    Some(instruction.near_branch_target())
                }
                FlowControl::IndirectBranch => code.pointer(&instruction),
                _ => None,
            };
            if flow == FlowControl::IndirectBranch && target.is_none() {
                found = Jumps::Somewhere;
            }
            let behind = instruction.next_ip();
            next = match flow {
                FlowControl::Next | FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                    Some(behind)
                }
                // Behind one that does not return another function may begin.
                FlowControl::Call | FlowControl::IndirectCall => Some(behind).filter(|&behind| behind != to),
                _ => None,
            };
            if target == Some(to) || next == Some(to) {
                return Jumps::There;
            }
            open.extend(target);
        }
    }
    found
}

/// Code that is read in pieces.
struct Code<'a> {
    space: &'a Space,
    start: u64,
    bytes: Vec<u8>,
}

impl Code<'_> {
    fn instruction(&mut self, address: u64) -> Option<Instruction> {
        const PIECE: usize = 1024;
        let at = |start: u64| usize::try_from(address.checked_sub(start)?).ok();
        if at(self.start).is_none_or(|offset| offset + LONGEST > self.bytes.len()) {
            self.start = address;
            self.bytes.resize(PIECE, 0);
            let read = self.space.read_raw(address, &mut self.bytes).unwrap_or(0);
            self.bytes.truncate(read);
            self.space.unmask(address, &mut self.bytes);
        }
        let bytes = self.bytes.get(at(self.start)?..)?;
        let instruction = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE).decode();
        (!instruction.is_invalid()).then_some(instruction)
    }

    /// Where a jump through memory at a fixed address leads, as those of the procedure linkage table.
    fn pointer(&self, jump: &Instruction) -> Option<u64> {
        let fixed = jump.op0_kind() == OpKind::Memory
            && jump.is_ip_rel_memory_operand()
            && jump.memory_index() == Register::None;
        let mut bytes = [0; 8];
        let read = self.space.read_raw(jump.ip_rel_memory_address(), &mut bytes);
        (fixed && read.is_ok_and(|read| read == bytes.len())).then(|| u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Code of our own that is never executed.
    fn found(code: &[u8], from_offset: u64, to_offset: u64) -> Jumps {
        let space = Space::open(i32::try_from(std::process::id()).unwrap(), &Arc::default()).unwrap();
        let start = code.as_ptr() as u64;
        from(&space, start + from_offset, start + to_offset)
    }

    #[test]
    fn jumps_are_followed_and_calls_are_not() {
        // 0: test %edi,%edi; je 10; 4: call 12; 9: ret; 10: jmp 13; 12: ret; 13: nop; 14: jmp *%rax; 16: ret
        let code = [
            0x85, 0xff, 0x74, 0x06, 0xe8, 0x03, 0, 0, 0, 0xc3, 0xeb, 0x01, 0xc3, 0x90, 0xff, 0xe0, 0xc3, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(found(&code, 0, 13), Jumps::There);
        assert_eq!(found(&code, 0, 10), Jumps::There);
        assert_eq!(found(&code, 0, 12), Jumps::Somewhere);
        assert_eq!(found(&code, 4, 12), Jumps::Nowhere);
        assert_eq!(found(&code, 14, 0), Jumps::Somewhere);
    }

    #[test]
    fn a_jump_through_a_known_slot_is_followed() {
        // 0: jmp *2(%rip); 6: nop; nop; 8: the target
        let mut code =
            [0xff, 0x25, 2, 0, 0, 0, 0x90, 0x90, 0, 0, 0, 0, 0, 0, 0, 0, 0xc3, 0, 0, 0, 0, 0, 0, 0];
        let start = code.as_ptr() as u64;
        code[8..16].copy_from_slice(&(start + 16).to_le_bytes());
        assert_eq!(found(&code, 0, 16), Jumps::There);
    }
}
