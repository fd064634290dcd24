//! From a thread's registers to those of its callers.

use crate::stacks::rules::Table;

/// The memory of a stopped thread.
pub(crate) trait Memory {
    /// Fills `bytes` from `address` on, as far as that can be read; returns how far that is.
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize;

    /// The quadword at `address`.
    fn quadword(&mut self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        (self.read_up_to(address, &mut bytes) == bytes.len()).then(|| u64::from_le_bytes(bytes))
    }
}

/// Memory of which each page is fetched once: a stack is read in small steps, and each read of the thread's memory is
/// a system call.
pub(crate) struct Kept<'a> {
    memory: &'a mut dyn Memory,
    pages: Vec<(u64, Vec<u8>)>,
}

impl Kept<'_> {
    pub(crate) fn new(memory: &mut dyn Memory) -> Kept<'_> {
        Kept { memory, pages: Vec::new() }
    }

    fn known(&self, address: u64, length: usize) -> Option<&[u8]> {
        self.pages.iter().rev().find_map(|(start, bytes)| {
            let skip = usize::try_from(address.checked_sub(*start)?).ok()?;
            bytes.get(skip..skip.checked_add(length)?)
        })
    }
}

impl Memory for Kept<'_> {
    fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
        const PAGE: u64 = 4096;
        /// So that a chain through memory without end does not stay in ours.
        const MOST: usize = 64;
        let start = address - address % PAGE;
        let within = address.checked_add(bytes.len() as u64).is_some_and(|end| end <= start + PAGE);
        if !within {
            return self.memory.read_up_to(address, bytes);
        }
        if self.known(address, bytes.len()).is_none() {
            let mut page = vec![0; PAGE as usize];
            let read = self.memory.read_up_to(start, &mut page);
            page.truncate(read);
            if self.pages.len() >= MOST {
                self.pages.clear();
            }
            self.pages.push((start, page));
        }
        match self.known(address, bytes.len()) {
            Some(known) => {
                bytes.copy_from_slice(known);
                bytes.len()
            }
            // A part of the page may be out of reach.
            None => self.memory.read_up_to(address, bytes),
        }
    }
}

/// DWARF's number of the return address, behind the sixteen general registers.
pub(crate) const RETURN_ADDRESS: u16 = 16;
const COUNT: usize = RETURN_ADDRESS as usize + 1;

/// General registers by DWARF's numbers (System V psABI for x86-64, figure 3.36), as far as they are known, and the
/// address of the next instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registers([Option<u64>; COUNT]);

impl Registers {
    pub(crate) const RSP: u16 = 7;
    pub(crate) const RBP: u16 = 6;
    /// The processor's number of each: RDX and RCX, and RBX to RDI, are in another order.
    const PROCESSORS: [usize; 16] = [0, 2, 1, 3, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];

    /// Those of a thread, by the processor's numbers.
    pub(crate) fn new(gpr: &[u64; 16], rip: u64) -> Registers {
        let mut registers = [None; COUNT];
        let numbers = Registers::PROCESSORS.into_iter();
        registers.iter_mut().zip(numbers).for_each(|(register, number)| *register = gpr.get(number).copied());
        registers[RETURN_ADDRESS as usize] = Some(rip);
        Registers(registers)
    }

    pub(crate) fn get(&self, number: u16) -> Option<u64> {
        self.0.get(usize::from(number)).copied().flatten()
    }

    /// Vector and other registers are not kept.
    pub(crate) fn set(&mut self, number: u16, value: Option<u64>) {
        if let Some(register) = self.0.get_mut(usize::from(number)) {
            *register = value;
        }
    }

    pub(crate) fn ip(&self) -> Option<u64> {
        self.get(RETURN_ADDRESS)
    }
}

/// What is known of the code at an address.
pub(crate) enum Code<'a> {
    /// An object has a table for it, in which this is its virtual address.
    Object(&'a Table, u64),
    /// Code that no table describes.
    Unknown,
    /// There is no code.
    None,
}

/// One step from a function to its caller.
pub(crate) struct Step {
    pub(crate) caller: Registers,
    /// Whether the caller was interrupted by a signal: it goes on at its address, and has called nothing.
    pub(crate) interrupted: bool,
}

/// Finds the caller of the code at `registers`' address. `exact` says that the thread is at this very instruction, rather
/// than behind a call.
pub(crate) fn step(
    code: &Code<'_>,
    registers: &Registers,
    exact: bool,
    memory: &mut dyn Memory,
) -> Option<Step> {
    let ip = registers.ip()?;
    let step = match code {
        Code::None => return None,
        Code::Object(table, address) => match table.row(*address) {
            Some(row) => {
                let caller = table.caller(&row, registers, memory)?;
                Step { caller, interrupted: row.interrupts }
            }
            None => without_table(ip, registers, exact, memory)?,
        },
        Code::Unknown => without_table(ip, registers, exact, memory)?,
    };
    // A stack that goes nowhere is no stack: only a signal's handler may have one of its own.
    let forward = step.caller.get(Registers::RSP)? > registers.get(Registers::RSP)?;
    (step.interrupted || forward).then_some(step)
}

/// The caller where no table tells of it.
fn without_table(ip: u64, registers: &Registers, exact: bool, memory: &mut dyn Memory) -> Option<Step> {
    /// `mov $SYS_rt_sigreturn, %rax; syscall`, with which a signal's handler returns.
    const SIGRETURN: [u8; 9] = [0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, 0x0f, 0x05];
    let mut text = [0; 16];
    let read = memory.read_up_to(ip, &mut text);
    let text = text.get(..read).unwrap_or_default();
    let rsp = registers.get(Registers::RSP)?;
    if text.starts_with(&SIGRETURN) {
        return Some(Step { caller: interrupted(rsp, memory)?, interrupted: true });
    }
    let returned = |to: u64, rbp: Option<u64>, memory: &mut dyn Memory| {
        let mut caller = registers.clone();
        caller.set(RETURN_ADDRESS, memory.quadword(to));
        caller.set(Registers::RSP, to.checked_add(8));
        caller.set(Registers::RBP, rbp);
        caller.ip().is_some().then_some(Step { caller, interrupted: false })
    };
    let rbp = registers.get(Registers::RBP)?;
    if exact && let Some(distance) = pushed(ip, text, memory) {
        let saved = if distance == 0 { Some(rbp) } else { memory.quadword(rsp) };
        return returned(rsp.checked_add(distance)?, saved, memory);
    }
    // The frame pointer, if it is one.
    if rbp < rsp || rbp % 8 != 0 {
        return None;
    }
    let saved = memory.quadword(rbp);
    returned(rbp.checked_add(8)?, saved, memory)
}

/// How many bytes lie above the return address, where the instruction tells: at a function's first ones, and at its last.
fn pushed(ip: u64, text: &[u8], memory: &mut dyn Memory) -> Option<u64> {
    const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
    const PUSH_RBP: u8 = 0x55;
    const MOV_RBP_RSP: [[u8; 3]; 2] = [[0x48, 0x89, 0xe5], [0x48, 0x8b, 0xec]];
    const RET: [u8; 2] = [0xc3, 0xc2];
    let is_setup = |text: &[u8]| MOV_RBP_RSP.iter().any(|setup| text.starts_with(setup));
    let behind = text.strip_prefix(&ENDBR64).unwrap_or(text);
    if let [PUSH_RBP, rest @ ..] = behind
        && is_setup(rest)
    {
        return Some(0);
    }
    if is_setup(text) {
        let mut before = [0];
        memory.read_up_to(ip.checked_sub(1)?, &mut before);
        return (before == [PUSH_RBP]).then_some(8);
    }
    text.first().is_some_and(|first| RET.contains(first)).then_some(0)
}

/// The registers that the kernel has put on the stack for a signal's handler, which has returned to `__restore_rt` (the
/// kernel's arch/x86/include/uapi/asm/sigcontext.h: `struct sigcontext_64` in the `uc_mcontext` of `struct ucontext`).
fn interrupted(rsp: u64, memory: &mut dyn Memory) -> Option<Registers> {
    const CONTEXT: u64 = 40;
    /// R8 to R15, RDI, RSI, RBP, RBX, RDX, RAX, RCX, RSP, RIP, by DWARF's numbers.
    const ORDER: [u16; COUNT] = [8, 9, 10, 11, 12, 13, 14, 15, 5, 4, 6, 3, 1, 0, 2, 7, RETURN_ADDRESS];
    let mut registers = Registers([None; COUNT]);
    let mut address = rsp.checked_add(CONTEXT)?;
    for number in ORDER {
        registers.set(number, Some(memory.quadword(address)?));
        address = address.checked_add(8)?;
    }
    Some(registers)
}
