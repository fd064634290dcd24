//! Which ways lead through the code of functions: basic blocks, found by following every branch from where functions are
//! entered. Jumps by way of a table are followed where the table is one of those that compilers make and its length is
//! known from the comparison before it; others are said to lead to where nobody knows.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::ops::Range;

use emu::Processor;
use iced_x86::{Code, Decoder, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::boundaries::Extents;
use crate::symbols::elf::Elf;

/// What is known of the code of one function.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Flow {
    /// The basic blocks, in the order of their addresses.
    pub(super) blocks: Vec<Range<u64>>,
    /// Where instructions begin to which a way leads.
    pub(super) starts: Vec<u64>,
    /// How many jumps lead to where nobody knows.
    pub(super) unresolved: u32,
    /// How many bytes no way leads to, padding not counted.
    pub(super) unreached: u64,
}

/// How many instructions before a jump by way of a table are looked at.
const MEMORY: usize = 64;

/// The longest table that is believed.
const MOST_ENTRIES: u64 = 1 << 14;

/// What a byte of a function is, as far as it was reached.
const START: u8 = 1;
const LEADER: u8 = 2;
const INSIDE: u8 = 4;
/// The instruction that begins there is left for another than the next one.
const ENDS: u8 = 8;

/// A function that is being walked through.
struct Walk<'elf> {
    range: Range<u64>,
    bytes: &'elf [u8],
    marks: Vec<u8>,
    /// Where a way leads that has not been followed.
    waiting: Vec<u64>,
    unresolved: BTreeSet<u64>,
}

/// Walks through all functions of `elf` that are `wanted`, by their places among `extents`. Code may be entered at
/// `entries`, too, where exceptions are caught.
pub(super) fn walk(
    elf: &Elf,
    extents: &Extents<'_>,
    wanted: impl Fn(usize) -> bool,
    entries: &[u64],
) -> Vec<(usize, Flow)> {
    let mut walks: Vec<Option<Walk<'_>>> = Vec::new();
    let mut queue: VecDeque<usize> = VecDeque::new();
    for (index, extent) in extents.all().iter().enumerate() {
        walks.push(wanted(index).then(|| Walk::new(elf, extent.range.clone())));
        if wanted(index) {
            queue.push_back(index);
        }
    }
    let enter = |walks: &mut Vec<Option<Walk<'_>>>, address: u64| -> Option<usize> {
        let index = extents.at(address)?;
        walks.get_mut(index)?.as_mut()?.lead(address).then_some(index)
    };
    for &entry in entries {
        enter(&mut walks, entry);
    }
    // A part of a function that lies elsewhere is entered in its middle, too.
    while let Some(index) = queue.pop_front() {
        let Some(Some(walk)) = walks.get_mut(index) else { continue };
        let mut outside = Vec::new();
        walk.follow_all(elf, &mut outside);
        for address in outside {
            queue.extend(enter(&mut walks, address));
        }
    }
    let done = walks.into_iter().enumerate();
    done.filter_map(|(index, walk)| Some((index, walk?.finish()))).collect()
}

/// Where the instruction begins, of the function at `range`, that a way leads to and inside of which `address` lies.
pub(in crate::symbols) fn instruction_around(elf: &Elf, range: Range<u64>, address: u64) -> Option<u64> {
    let mut walk = Walk::new(elf, range);
    walk.follow_all(elf, &mut Vec::new());
    let at = walk.offset(address)?;
    if walk.marks.get(at)? & (START | INSIDE) != INSIDE {
        return None;
    }
    let start = walk.marks.get(..at)?.iter().rposition(|mark| mark & START != 0)?;
    walk.range.start.checked_add(start as u64)
}

/// Where ways lead that begin where functions are entered, rather than where exceptions are caught.
pub(in crate::symbols) struct Ways<'elf> {
    elf: &'elf Elf,
    /// By where their functions begin.
    walks: HashMap<u64, Walk<'elf>>,
}

impl<'elf> Ways<'elf> {
    pub(in crate::symbols) fn new(elf: &'elf Elf) -> Ways<'elf> {
        Ways { elf, walks: HashMap::new() }
    }

    /// Whether a way leads to `address`, or may lead anywhere.
    pub(in crate::symbols) fn may_lead_to(&mut self, address: u64) -> bool {
        let Some(start) = self.elf.start_of(address) else { return true };
        let Some(range) = self.elf.extent_of(start) else { return true };
        let walk = self.walks.entry(range.start).or_insert_with(|| {
            let mut walk = Walk::new(self.elf, range);
            walk.follow_all(self.elf, &mut Vec::new());
            walk
        });
        let mark = walk.offset(address).and_then(|at| walk.marks.get(at));
        !walk.unresolved.is_empty() || mark.is_none_or(|mark| mark & START != 0)
    }
}

impl<'elf> Walk<'elf> {
    fn new(elf: &'elf Elf, range: Range<u64>) -> Walk<'elf> {
        let bytes = elf.code_at(range.start);
        let size = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        let bytes = bytes.get(..size.min(bytes.len())).unwrap_or_default();
        let end = range.start.saturating_add(bytes.len() as u64);
        let mut walk = Walk {
            range: range.start..end,
            bytes,
            marks: vec![0; bytes.len()],
            waiting: Vec::new(),
            unresolved: BTreeSet::new(),
        };
        walk.lead(range.start);
        walk
    }

    fn offset(&self, address: u64) -> Option<usize> {
        let distance = self.range.contains(&address).then(|| address - self.range.start)?;
        usize::try_from(distance).ok()
    }

    /// A way leads to `address`. Says whether that was not known.
    fn lead(&mut self, address: u64) -> bool {
        let mark = self.offset(address).and_then(|offset| self.marks.get_mut(offset));
        match mark {
            // What lies inside of another instruction is entered by programs that skip a prefix.
            Some(mark) if *mark & LEADER == 0 => {
                *mark |= LEADER;
                self.waiting.push(address);
                true
            }
            _ => false,
        }
    }

    /// Follows every way that waits; those that lead out of the function are added to `outside`.
    fn follow_all(&mut self, elf: &Elf, outside: &mut Vec<u64>) {
        while let Some(address) = self.waiting.pop() {
            self.follow(elf, address, outside);
        }
    }

    /// Follows one way up to where it ends, or goes on as one that is known.
    fn follow(&mut self, elf: &Elf, from: u64, outside: &mut Vec<u64>) {
        let Some(skip) = self.offset(from) else { return };
        let bytes = self.bytes;
        let rest = bytes.get(skip..).unwrap_or_default();
        let mut decoder = Decoder::with_ip(64, rest, from, Processor::host().decoder_options());
        let mut before: VecDeque<Instruction> = VecDeque::new();
        while decoder.can_decode() {
            let instruction = decoder.decode();
            let Some(at) = self.offset(instruction.ip()) else { return };
            if instruction.is_invalid() || self.marks.get(at).is_none_or(|mark| mark & START != 0) {
                return;
            }
            self.mark(at, instruction.len());
            let target = instruction.near_branch_target();
            let goes_on = match instruction.flow_control() {
                FlowControl::Next
                | FlowControl::Call
                | FlowControl::IndirectCall
                | FlowControl::Interrupt => true,
                FlowControl::ConditionalBranch | FlowControl::XbeginXabortXend => {
                    let branches = instruction.code() == Code::Xbegin_rel32
                        || instruction.flow_control() == FlowControl::ConditionalBranch;
                    if branches {
                        self.branch(at, target, outside);
                        // A new block, which this walk goes on in as long as nobody else has.
                        if let Some(next) =
                            self.offset(instruction.next_ip()).and_then(|at| self.marks.get_mut(at))
                        {
                            *next |= LEADER;
                        }
                    }
                    true
                }
                FlowControl::UnconditionalBranch => {
                    self.branch(at, target, outside);
                    false
                }
                FlowControl::IndirectBranch => {
                    self.end_at(at);
                    match targets(elf, &self.range, &instruction, &before) {
                        Targets::Known(targets) => targets.into_iter().for_each(|target| {
                            if !self.range.contains(&target) {
                                outside.push(target);
                            }
                            self.lead(target);
                        }),
                        // A call in the place of a return, by way of a pointer or the table of another object's functions.
                        Targets::Elsewhere => {}
                        Targets::Unknown => {
                            self.unresolved.insert(instruction.ip());
                        }
                    }
                    false
                }
                FlowControl::Return | FlowControl::Exception => {
                    self.end_at(at);
                    false
                }
            };
            if !goes_on {
                return;
            }
            if before.len() == MEMORY {
                before.pop_front();
            }
            before.push_back(instruction);
        }
    }

    fn mark(&mut self, at: usize, length: usize) {
        for (index, mark) in self.marks.iter_mut().skip(at).take(length).enumerate() {
            *mark |= if index == 0 { START } else { INSIDE };
        }
    }

    fn end_at(&mut self, at: usize) {
        if let Some(mark) = self.marks.get_mut(at) {
            *mark |= ENDS;
        }
    }

    fn branch(&mut self, at: usize, target: u64, outside: &mut Vec<u64>) {
        self.end_at(at);
        if self.range.contains(&target) {
            self.lead(target);
        } else {
            outside.push(target);
        }
    }

    fn finish(self) -> Flow {
        let mut flow = Flow { unresolved: self.unresolved.len() as u32, ..Flow::default() };
        let mut block: Option<Range<u64>> = None;
        let mut ended = true;
        for (offset, &mark) in self.marks.iter().enumerate() {
            let address = self.range.start + offset as u64;
            if mark & START != 0 {
                flow.starts.push(address);
                if mark & LEADER != 0 || ended || block.is_none() {
                    flow.blocks.extend(block.take());
                    block = Some(address..address);
                }
                ended = mark & ENDS != 0;
            }
            if mark & (START | INSIDE) == 0 {
                flow.blocks.extend(block.take());
                ended = true;
            } else if let Some(block) = &mut block {
                block.end = address + 1;
            }
        }
        flow.blocks.extend(block);
        flow.unreached = self.unreached();
        flow
    }

    /// How many bytes were not reached, and are no padding.
    fn unreached(&self) -> u64 {
        let mut unreached = 0;
        let mut at = 0;
        while at < self.marks.len() {
            let length = self.marks.iter().skip(at).take_while(|&&mark| mark & (START | INSIDE) == 0).count();
            let gap = self.bytes.get(at..at + length).unwrap_or_default();
            if !is_padding(gap) {
                unreached += length as u64;
            }
            at += length.max(1);
        }
        unreached
    }
}

/// Whether these are instructions that do nothing, or INT3s, as compilers and linkers fill gaps with.
fn is_padding(bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(64, bytes, Processor::host().decoder_options());
    while decoder.can_decode() {
        let instruction = decoder.decode();
        let fills = matches!(instruction.mnemonic(), Mnemonic::Nop | Mnemonic::Int3)
            || matches!(instruction.code(), Code::Xchg_rm16_r16 if instruction.op0_register() == instruction.op1_register());
        if !fills {
            return false;
        }
    }
    true
}

/// Where a jump leads.
enum Targets {
    Known(Vec<u64>),
    /// To another function.
    Elsewhere,
    Unknown,
}

/// A table that a jump goes by.
struct Table {
    /// Its virtual address.
    address: u64,
    /// Whether its entries are distances from itself, of four bytes, rather than addresses, of eight.
    relative: bool,
    /// The register that says which entry.
    index: Register,
}

/// Where `jump` leads, which comes after the instructions `before` in a function of that range.
fn targets(elf: &Elf, range: &Range<u64>, jump: &Instruction, before: &VecDeque<Instruction>) -> Targets {
    let Some(table) = table(jump, before) else {
        // Without a table, it is a tail call, unless a comparison before it says otherwise: computed gotos of C.
        let from_memory = jump.op0_kind() == OpKind::Memory;
        return match from_memory && jump.memory_index() == Register::None {
            true => Targets::Elsewhere,
            false if is_computed(jump, before) => Targets::Unknown,
            false => Targets::Elsewhere,
        };
    };
    let Some(count) = bound(&table, before) else { return Targets::Unknown };
    let size = if table.relative { 4 } else { 8 };
    let bytes = elf.data_at(table.address, count * size);
    if bytes.len() as u64 != count * size {
        return Targets::Unknown;
    }
    let mut targets = BTreeSet::new();
    for entry in bytes.chunks_exact(size as usize) {
        let target = match (table.relative, entry.first_chunk::<4>(), entry.first_chunk::<8>()) {
            (true, Some(&entry), _) => table.address.wrapping_add_signed(i32::from_le_bytes(entry).into()),
            (false, _, Some(&entry)) => u64::from_le_bytes(entry),
            _ => return Targets::Unknown,
        };
        // One that leads out of the function leads to a part of it elsewhere, or it is no such table.
        if !range.contains(&target) && elf.extent_at(target).is_none() {
            return Targets::Unknown;
        }
        targets.insert(target);
    }
    Targets::Known(targets.into_iter().collect())
}

/// The instruction that has last written `register`, and where it stands.
fn writer(register: Register, before: &VecDeque<Instruction>, until: usize) -> Option<usize> {
    let full = register.full_register();
    (0..until.min(before.len())).rev().find(|&at| {
        before.get(at).is_some_and(|instruction| {
            instruction.op_count() > 0
                && instruction.op0_kind() == OpKind::Register
                && instruction.op0_register().full_register() == full
                && !matches!(instruction.mnemonic(), Mnemonic::Cmp | Mnemonic::Test)
        })
    })
}

/// The table by which `jump` goes, in one of the forms that compilers use.
fn table(jump: &Instruction, before: &VecDeque<Instruction>) -> Option<Table> {
    let fixed = |register: Register, until: usize| {
        let lea = before.get(writer(register, before, until)?)?;
        (lea.mnemonic() == Mnemonic::Lea && lea.is_ip_rel_memory_operand())
            .then(|| lea.ip_rel_memory_address())
    };
    if jump.op0_kind() == OpKind::Memory {
        // jmp *table(,index,8), or a table whose address is in a register.
        if jump.memory_index() == Register::None || jump.memory_index_scale() != 8 {
            return None;
        }
        let address = match jump.memory_base() {
            Register::None => jump.memory_displacement64(),
            base => fixed(base, before.len())?.wrapping_add(jump.memory_displacement64()),
        };
        return Some(Table { address, relative: false, index: jump.memory_index() });
    }
    // lea table(%rip), base; movslq (base,index,4), to; add base, to; jmp *to
    let to = jump.op0_register();
    let add = writer(to, before, before.len())?;
    let instruction = before.get(add)?;
    if instruction.mnemonic() == Mnemonic::Mov && instruction.op1_kind() == OpKind::Memory {
        // mov (base,index,8), to; jmp *to
        if instruction.memory_index() == Register::None || instruction.memory_index_scale() != 8 {
            return None;
        }
        let address = match instruction.memory_base() {
            Register::None => instruction.memory_displacement64(),
            base => fixed(base, add)?.wrapping_add(instruction.memory_displacement64()),
        };
        return Some(Table { address, relative: false, index: instruction.memory_index() });
    }
    if instruction.mnemonic() != Mnemonic::Add || instruction.op1_kind() != OpKind::Register {
        return None;
    }
    let other = instruction.op1_register();
    // Either of the two that are added may be the table.
    [(to, other), (other, to)].into_iter().find_map(|(offset, base)| {
        let load = writer(offset, before, add)?;
        let loaded = before.get(load)?;
        if loaded.mnemonic() != Mnemonic::Movsxd
            || loaded.op1_kind() != OpKind::Memory
            || loaded.memory_index_scale() != 4
            || loaded.memory_index() == Register::None
            || loaded.memory_displacement64() != 0
        {
            return None;
        }
        let until = if loaded.memory_base() == base { load } else { add };
        let address = fixed(base, until)?;
        (fixed(loaded.memory_base(), load)? == address).then(|| Table {
            address,
            relative: true,
            index: loaded.memory_index(),
        })
    })
}

/// How many entries a table has, by the last comparison before the jump of what says which entry.
fn bound(table: &Table, before: &VecDeque<Instruction>) -> Option<u64> {
    let mut index = vec![table.index.full_register()];
    let mut above: Option<Mnemonic> = None;
    for instruction in before.iter().rev() {
        let register = |operand: u32| {
            (instruction.op_kind(operand) == OpKind::Register)
                .then(|| instruction.op_register(operand).full_register())
        };
        match instruction.mnemonic() {
            mnemonic @ (Mnemonic::Ja | Mnemonic::Jae) => above = Some(mnemonic),
            // The jump may be to the table, and the way that goes on the other one.
            Mnemonic::Cmp if above.is_some() => {
                let is_index = register(0).is_some_and(|of| index.contains(&of))
                    || instruction.op0_kind() == OpKind::Memory;
                let constant = matches!(
                    instruction.op1_kind(),
                    OpKind::Immediate8
                        | OpKind::Immediate16
                        | OpKind::Immediate32
                        | OpKind::Immediate8to16
                        | OpKind::Immediate8to32
                        | OpKind::Immediate8to64
                        | OpKind::Immediate32to64
                );
                if !is_index || !constant {
                    return None;
                }
                let most = instruction.immediate(1).checked_add(u64::from(above == Some(Mnemonic::Ja)))?;
                return (1..=MOST_ENTRIES).contains(&most).then_some(most);
            }
            // What is copied is the same number.
            Mnemonic::Mov | Mnemonic::Movzx | Mnemonic::Movsxd
                if register(0).is_some_and(|to| index.contains(&to)) =>
            {
                index.extend(register(1));
            }
            Mnemonic::And if register(0).is_some_and(|to| index.contains(&to)) && above.is_none() => {
                let most = instruction.try_immediate(1).ok()?.checked_add(1)?;
                return (most.is_power_of_two() && most <= MOST_ENTRIES).then_some(most);
            }
            Mnemonic::Jmp | Mnemonic::Ret | Mnemonic::Jb | Mnemonic::Jbe => return None,
            _ => {}
        }
    }
    None
}

/// Whether a jump goes to what was computed from an entry of some table.
fn is_computed(jump: &Instruction, before: &VecDeque<Instruction>) -> bool {
    if jump.op0_kind() == OpKind::Memory {
        return jump.memory_index() != Register::None;
    }
    let Some(last) = writer(jump.op0_register(), before, before.len()).and_then(|at| before.get(at)) else {
        return false;
    };
    let by_index =
        last.op_count() > 1 && last.op1_kind() == OpKind::Memory && last.memory_index() != Register::None;
    by_index || last.mnemonic() == Mnemonic::Add
}
