//! What the processors at hand lack, against the pseudo-code of the manuals: shadow stacks, transactions,
//! protection keys, waiting, and what Intel's processors do otherwise with far pointers and x87.

use iced_x86::Code;

use emu::registers::{Float80, gpr};
use emu::{Displaced, Exception, FlatMemory, Outcome, Processor, Protection, Registers, Rflags, Vendor};

// Bits of the x87 status word (SDM volume 1, section 8.1.3).
const IE: u16 = 1 << 0;
const ES: u16 = 1 << 7;
const C0: u16 = 1 << 8;
const C1: u16 = 1 << 9;
const C2: u16 = 1 << 10;
const C3: u16 = 1 << 14;
const B: u16 = 1 << 15;

const IP: u64 = 0x40_0000;
const BASE: u64 = 0x1000;

const SHADOW: u64 = BASE + 0x1000;

/// Two pages from [`BASE`] on, of which the second is the shadow stack.
struct Memory(FlatMemory);

impl Memory {
    fn new() -> Memory {
        let mut memory = FlatMemory::new(BASE, 0x2000);
        memory.protect(SHADOW, 0x1000, Protection::ShadowStack);
        Memory(memory)
    }

    fn quad(&mut self, address: u64) -> &mut [u8] {
        let at = (address - BASE) as usize;
        &mut self.0.bytes_mut()[at..at + 8]
    }

    fn set(&mut self, address: u64, value: u64) {
        self.quad(address).copy_from_slice(&value.to_le_bytes());
    }

    fn get(&mut self, address: u64) -> u64 {
        u64::from_le_bytes((&*self.quad(address)).try_into().unwrap())
    }
}

fn processor() -> &'static Processor {
    Processor::with_every_feature(Vendor::Intel).leak()
}

/// An instruction on a processor that has everything.
fn decode(bytes: &[u8]) -> Displaced {
    Displaced::decode_on(bytes, IP, processor()).unwrap()
}

/// A thread with a shadow stack, unless the test takes it away.
fn registers() -> Registers {
    let mut registers = Registers { ssp: Some(SHADOW + 0x100), rip: IP, ..Registers::default() };
    registers.gpr[gpr::RSP] = BASE + 0x800;
    registers.segment[emu::registers::segment::CS] = 0x33;
    registers
}

#[test]
fn without_the_feature_they_are_undefined() {
    let lacking = Processor::with_no_feature(Vendor::Intel).leak();
    for bytes in [
        &[0x0f, 0x01, 0xee][..],         // rdpkru
        &[0xc7, 0xf8, 0, 0, 0, 0],       // xbegin
        &[0x0f, 0x01, 0xd5],             // xend
        &[0x0f, 0x01, 0xd6],             // xtest
        &[0x66, 0x0f, 0xae, 0xf0],       // tpause eax
        &[0xf3, 0x0f, 0xc7, 0xf8],       // rdpid rax
        &[0xf2, 0x0f, 0x38, 0xf8, 0x00], // enqcmd
        &[0x0f, 0x01, 0xe8],             // serialize
        &[0xf3, 0x0f, 0xae, 0xe0],       // ptwrite eax
        &[0x0f, 0x01, 0xc2],             // vmlaunch
        &[0x0f, 0x01, 0xfa],             // monitorx
        &[0x0f, 0x01, 0xfb],             // mwaitx
    ] {
        let displaced = Displaced::decode_on(bytes, IP, lacking).unwrap();
        let result = displaced.execute(&mut registers(), &mut Memory::new().0);
        assert_eq!(result, Err(Exception::InvalidOpcode), "{displaced:?}");
    }
}

#[test]
fn calls_and_returns_keep_the_shadow_stack_in_step() {
    let (mut r, mut memory) = (registers(), Memory::new());
    assert_eq!(decode(&[0xe8, 0x10, 0, 0, 0]).execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.rip, r.ssp), (IP + 0x15, Some(SHADOW + 0xf8)));
    assert_eq!(memory.get(SHADOW + 0xf8), IP + 5);
    assert_eq!(decode(&[0xc3]).execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.rip, r.ssp, r.gpr[gpr::RSP]), (IP + 5, Some(SHADOW + 0x100), BASE + 0x800));

    // A call of the next instruction is not on it.
    assert_eq!(decode(&[0xe8, 0, 0, 0, 0]).execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.ssp, Some(SHADOW + 0x100));
}

#[test]
fn a_return_elsewhere_is_a_control_protection_fault() {
    let (mut r, mut memory) = (registers(), Memory::new());
    memory.set(BASE + 0x800, IP + 0x100);
    memory.set(SHADOW + 0x100, IP + 0x200);
    let before = r.clone();
    assert_eq!(decode(&[0xc3]).execute(&mut r, &mut memory.0), Err(Exception::ControlProtection(1)));
    assert_eq!(r, before);
    // A fault of the shadow stack says so.
    r.ssp = Some(0x10_0000);
    let fault = decode(&[0xc3]).execute(&mut r, &mut memory.0);
    assert_eq!(fault, Err(Exception::PageFault { address: 0x10_0000, error_code: 1 << 6 | 1 << 2 }));
}

#[test]
fn far_calls_and_returns_keep_it_too() {
    let (mut r, mut memory) = (registers(), Memory::new());
    r.ssp = Some(SHADOW + 0xfc);
    memory.set(BASE, IP + 0x1000);
    memory.set(BASE + 8, 0x33);
    r.gpr[gpr::RAX] = BASE;
    let call = decode(&[0x48, 0xff, 0x18]);
    assert_eq!(call.code(), Code::Call_m1664);
    assert_eq!(call.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.rip, r.ssp), (IP + 0x1000, Some(SHADOW + 0xe0)));
    let frame = [0xe0, 0xe8, 0xf0].map(|at| memory.get(SHADOW + at));
    assert_eq!(frame, [SHADOW + 0xfc, IP + 3, 0x33]);
    let ret = decode(&[0x48, 0xcb]);
    let mut other = r.clone();
    assert_eq!(ret.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.rip, r.ssp, r.gpr[gpr::RSP]), (IP + 3, Some(SHADOW + 0xfc), BASE + 0x800));
    memory.quad(SHADOW + 0xe8)[0] ^= 1;
    assert_eq!(ret.execute(&mut other, &mut memory.0), Err(Exception::ControlProtection(2)));
}

/// As this project's Intel processors do: the frame is on the stack when the target is found not to be canonical.
#[test]
fn a_far_call_stores_before_its_fault() {
    let (mut r, mut memory) = (registers(), Memory::new());
    let call = decode(&[0x48, 0xff, 0x18]); // call far tbyte ptr [rax]
    memory.set(BASE, 1 << 63);
    memory.set(BASE + 8, 0x33);
    r.gpr[gpr::RAX] = BASE;
    let before = r.clone();
    assert_eq!(call.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)));
    assert_eq!(r, before);
    assert_eq!([0x7f0, 0x7f8].map(|at| memory.get(BASE + at)), [IP + 3, 0x33]);
    r.gpr[gpr::RSP] = BASE;
    let fault = Exception::PageFault { address: BASE - 8, error_code: 6 };
    assert_eq!(call.execute(&mut r, &mut memory.0), Err(fault), "what the stack raises comes first");
}

#[test]
fn shadow_stack_instructions() {
    let (mut r, mut memory) = (registers(), Memory::new());
    decode(&[0xf3, 0x48, 0x0f, 0x1e, 0xc8]).execute(&mut r, &mut memory.0).unwrap(); // rdsspq rax
    assert_eq!(r.gpr[gpr::RAX], SHADOW + 0x100);
    r.gpr[gpr::RAX] = 0xff03;
    decode(&[0xf3, 0x48, 0x0f, 0xae, 0xe8]).execute(&mut r, &mut memory.0).unwrap(); // incsspq rax
    assert_eq!(r.ssp, Some(SHADOW + 0x118));
    decode(&[0xf3, 0x0f, 0xae, 0xe8]).execute(&mut r, &mut memory.0).unwrap(); // incsspd eax
    assert_eq!(r.ssp, Some(SHADOW + 0x124));
    let wrss = decode(&[0x0f, 0x38, 0xf6, 0x00]);
    assert_eq!(wrss.execute(&mut r, &mut memory.0), Ok(Outcome::Native));
    r.ssp = None;
    r.gpr[gpr::RAX] = 7;
    for bytes in [&[0xf3, 0x0f, 0xae, 0xe8][..], &[0xf3, 0x0f, 0x01, 0xea], &[0xf3, 0x0f, 0x01, 0x28]] {
        assert_eq!(decode(bytes).execute(&mut r, &mut memory.0), Err(Exception::InvalidOpcode), "{bytes:x?}");
    }
    assert_eq!(wrss.execute(&mut r, &mut memory.0), Err(Exception::InvalidOpcode));
    decode(&[0xf3, 0x48, 0x0f, 0x1e, 0xc8]).execute(&mut r, &mut memory.0).unwrap();
    assert_eq!(r.gpr[gpr::RAX], 7);
}

/// RSTORSSP to another stack, SAVEPREVSSP there, and back again: the manual's example.
#[test]
fn switching_shadow_stacks() {
    let (mut r, mut memory) = (registers(), Memory::new());
    let other = SHADOW + 0x800;
    memory.set(other - 8, other | 1);
    r.gpr[gpr::RAX] = other - 8;
    let restore = decode(&[0xf3, 0x0f, 0x01, 0x28]); // rstorssp [rax]
    let save = decode(&[0xf3, 0x0f, 0x01, 0xea]);
    r.rflags |= Rflags::STATUS;
    assert_eq!(restore.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.ssp, r.rflags & Rflags::STATUS), (Some(other - 8), Rflags::empty()));
    assert_eq!(memory.get(other - 8), (SHADOW + 0x100) | 3);
    assert_eq!(save.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.ssp, Some(other));
    assert_eq!(memory.get(SHADOW + 0xf8), (SHADOW + 0x100) | 1);
    r.gpr[gpr::RAX] = SHADOW + 0xf8;
    assert_eq!(restore.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.ssp, Some(SHADOW + 0xf8));

    // No token, or a misaligned one.
    r.gpr[gpr::RAX] = SHADOW + 0x10;
    assert_eq!(restore.execute(&mut r, &mut memory.0), Err(Exception::ControlProtection(4)));
    r.gpr[gpr::RAX] = SHADOW + 0x14;
    assert_eq!(restore.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)));
    r.ssp = Some(SHADOW + 0x10);
    assert_eq!(save.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)));
}

/// A return address on both stacks: `rip` on the shadow stack, and `target` on the other.
fn called(r: &mut Registers, memory: &mut Memory, target: u64, rip: u64) {
    r.gpr[gpr::RSP] = BASE + 0x800;
    r.ssp = Some(SHADOW + 0x100);
    memory.set(BASE + 0x800, target);
    memory.set(SHADOW + 0x100, rip);
}

#[test]
fn near_calls_and_returns_of_every_form_move_the_shadow_stack() {
    for call in [&[0xff, 0xd0][..], &[0xff, 0x10], &[0xe8, 0x10, 0, 0, 0]] {
        let (mut r, mut memory) = (registers(), Memory::new());
        // The same number is the target, and where the target stands.
        r.gpr[gpr::RAX] = BASE;
        memory.set(BASE, IP + 0x50);
        assert_eq!(decode(call).execute(&mut r, &mut memory.0), Ok(Outcome::Next), "{call:x?}");
        assert_eq!((r.ssp, memory.get(SHADOW + 0xf8)), (Some(SHADOW + 0xf8), IP + call.len() as u64));
        assert_eq!((r.gpr[gpr::RSP], memory.get(BASE + 0x7f8)), (BASE + 0x7f8, IP + call.len() as u64));
    }
    for (ret, released) in
        [(&[0xc3][..], 8), (&[0xc2, 0x20, 0], 0x28), (&[0xf2, 0xc3], 8), (&[0xf3, 0xc3], 8)]
    {
        let (mut r, mut memory) = (registers(), Memory::new());
        called(&mut r, &mut memory, IP + 0x40, IP + 0x40);
        assert_eq!(decode(ret).execute(&mut r, &mut memory.0), Ok(Outcome::Next), "{ret:x?}");
        let expected = (IP + 0x40, Some(SHADOW + 0x108), BASE + 0x800 + released);
        assert_eq!((r.rip, r.ssp, r.gpr[gpr::RSP]), expected, "{ret:x?}");
        called(&mut r, &mut memory, IP + 0x40, IP + 0x41);
        r.rip = IP;
        let before = r.clone();
        assert_eq!(
            decode(ret).execute(&mut r, &mut memory.0),
            Err(Exception::ControlProtection(1)),
            "{ret:x?}"
        );
        assert_eq!(r, before, "{ret:x?}");
    }
    // Without a shadow stack nothing is compared.
    let (mut r, mut memory) = (registers(), Memory::new());
    called(&mut r, &mut memory, IP + 0x40, IP + 0x41);
    r.ssp = None;
    assert_eq!(decode(&[0xc3]).execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.rip, r.ssp), (IP + 0x40, None));
}

#[test]
fn a_call_that_the_shadow_stack_has_no_room_for_changes_no_register() {
    for call in [&[0xff, 0xd0][..], &[0xe8, 0x10, 0, 0, 0]] {
        let (mut r, mut memory) = (registers(), Memory::new());
        r.gpr[gpr::RAX] = IP + 0x50;
        // Below is a page that can be written, but is none of a shadow stack.
        r.ssp = Some(SHADOW);
        let before = r.clone();
        let fault = Exception::PageFault { address: SHADOW - 8, error_code: 1 << 6 | 1 << 2 | 1 << 1 | 1 };
        assert_eq!(decode(call).execute(&mut r, &mut memory.0), Err(fault), "{call:x?}");
        assert_eq!(r, before, "{call:x?}");
        // And to a shadow stack nothing else stores.
        r.gpr[gpr::RSP] = SHADOW + 0x40;
        r.ssp = Some(SHADOW + 0x100);
        let fault = decode(call).execute(&mut r, &mut memory.0);
        let store = Exception::PageFault { address: SHADOW + 0x38, error_code: 1 << 2 | 1 << 1 | 1 };
        assert_eq!(fault, Err(store), "{call:x?}");
    }
}

/// RETF and IRET compare RIP and CS, and go back to where the shadow stack was.
#[test]
fn far_returns_compare_both_words() {
    let retf = &[0x48, 0xcb][..];
    let iret = &[0x48, 0xcf][..];
    for (bytes, words) in
        [(retf, &[IP + 0x40, 0x33][..]), (iret, &[IP + 0x40, 0x33, 0x202, BASE + 0x900, 0x2b])]
    {
        let ready = |frame: [u64; 3]| {
            let (mut r, mut memory) = (registers(), Memory::new());
            r.segment[emu::registers::segment::SS] = 0x2b;
            words.iter().zip(0..).for_each(|(&word, index)| memory.set(BASE + 0x800 + 8 * index, word));
            frame.iter().zip(0..).for_each(|(&word, index)| memory.set(SHADOW + 0x100 + 8 * index, word));
            (r, memory)
        };
        let previous = SHADOW + 0x200;
        let (mut r, mut memory) = ready([previous, IP + 0x40, 0x33]);
        assert_eq!(decode(bytes).execute(&mut r, &mut memory.0), Ok(Outcome::Next), "{bytes:x?}");
        assert_eq!((r.rip, r.ssp), (IP + 0x40, Some(previous)), "{bytes:x?}");
        for frame in [
            [previous, IP + 0x41, 0x33],
            [previous, IP + 0x40, 0x2b],
            [previous + 1, IP + 0x40, 0x33],
            [previous + 2, IP + 0x40, 0x33],
        ] {
            let (mut r, mut memory) = ready(frame);
            let before = r.clone();
            let result = decode(bytes).execute(&mut r, &mut memory.0);
            assert_eq!(result, Err(Exception::ControlProtection(2)), "{bytes:x?} {frame:x?}");
            assert_eq!(r, before, "{bytes:x?} {frame:x?}");
        }
        let (mut r, mut memory) = ready([previous, IP + 0x40, 0x33]);
        r.ssp = Some(SHADOW + 0xfc);
        let result = decode(bytes).execute(&mut r, &mut memory.0);
        assert_eq!(result, Err(Exception::ControlProtection(2)), "{bytes:x?}: misaligned");
    }
}

#[test]
fn the_shadow_stack_pointer_is_read_and_counted_up() {
    let (mut r, mut memory) = (registers(), Memory::new());
    r.gpr[gpr::RCX] = u64::MAX;
    decode(&[0xf3, 0x0f, 0x1e, 0xc9]).execute(&mut r, &mut memory.0).unwrap(); // rdsspd ecx
    assert_eq!(r.gpr[gpr::RCX], SHADOW + 0x100, "the upper half is zero");
    // None at all; and as many as there are, of which the last is looked at.
    let incssp = decode(&[0xf3, 0x48, 0x0f, 0xae, 0xe8]); // incsspq rax
    r.gpr[gpr::RAX] = 0x100;
    assert_eq!(incssp.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.ssp, Some(SHADOW + 0x100), "the count has eight bits");
    let end = SHADOW + 0x1000;
    (r.ssp, r.gpr[gpr::RAX], r.rip) = (Some(end - 0x20), 4, IP);
    assert_eq!(incssp.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.ssp, Some(end));
    (r.ssp, r.gpr[gpr::RAX], r.rip) = (Some(end - 0x20), 5, IP);
    let before = r.clone();
    let fault = Exception::PageFault { address: end, error_code: 1 << 6 | 1 << 2 };
    assert_eq!(incssp.execute(&mut r, &mut memory.0), Err(fault));
    assert_eq!(r, before);
}

#[test]
fn what_switches_shadow_stacks_looks_at_the_token() {
    let (restore, save) = (decode(&[0xf3, 0x0f, 0x01, 0x28]), decode(&[0xf3, 0x0f, 0x01, 0xea]));
    let token = SHADOW + 0x7f8;
    for (value, expected) in [
        ((token + 8) | 1, Ok(Rflags::empty())),
        // Made for a stack whose pointer was four bytes off.
        ((token + 12) | 1, Ok(Rflags::CF)),
        // Of 32-bit code; in use by another; of another place.
        (token + 8, Err(Exception::ControlProtection(4))),
        ((token + 8) | 3, Err(Exception::ControlProtection(4))),
        ((token + 16) | 1, Err(Exception::ControlProtection(4))),
        (token | 1, Err(Exception::ControlProtection(4))),
    ] {
        let (mut r, mut memory) = (registers(), Memory::new());
        memory.set(token, value);
        r.gpr[gpr::RAX] = token;
        r.rflags |= Rflags::STATUS;
        let before = r.clone();
        match (restore.execute(&mut r, &mut memory.0), expected) {
            (Ok(Outcome::Next), Ok(flags)) => {
                assert_eq!((r.ssp, r.rflags & Rflags::STATUS), (Some(token), flags), "{value:x}");
                assert_eq!(memory.get(token), (SHADOW + 0x100) | 3, "{value:x}");
            }
            (Err(raised), Err(exception)) => {
                assert_eq!((raised, &r, memory.get(token)), (exception, &before, value), "{value:x}");
            }
            other => panic!("{value:x}: {other:?}"),
        }
    }
    // SAVEPREVSSP takes no token but one that RSTORSSP has left, and none after a stack with a hole.
    for (value, carry) in [((SHADOW + 0x400) | 1, false), ((SHADOW + 0x400) | 3, true)] {
        let (mut r, mut memory) = (registers(), Memory::new());
        memory.set(SHADOW + 0x100, value);
        r.rflags.set(Rflags::CF, carry);
        let before = r.clone();
        assert_eq!(save.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)), "{value:x}");
        assert_eq!(r, before);
    }
}

/// Of a supervisor's shadow stacks Linux has none, nor may user mode write others'; and its own only if the system lets
/// it, of which only the thread knows.
#[test]
fn what_belongs_to_the_system_is_refused_or_the_threads_own() {
    let mut memory = Memory::new();
    for (bytes, code, result) in [
        (&[0xf3, 0x0f, 0x01, 0xe8][..], Code::Setssbsy, Err(Exception::InvalidOpcode)),
        (&[0xf3, 0x0f, 0xae, 0x30], Code::Clrssbsy_m64, Err(Exception::InvalidOpcode)),
        (&[0x66, 0x0f, 0x38, 0xf5, 0x08], Code::Wrussd_m32_r32, Err(Exception::GeneralProtection(0))),
        (&[0x66, 0x48, 0x0f, 0x38, 0xf5, 0x08], Code::Wrussq_m64_r64, Err(Exception::GeneralProtection(0))),
        (&[0x0f, 0x38, 0xf6, 0x08], Code::Wrssd_m32_r32, Ok(Outcome::Native)),
        (&[0x48, 0x0f, 0x38, 0xf6, 0x08], Code::Wrssq_m64_r64, Ok(Outcome::Native)),
        // Of indirect branches nothing is tracked in user mode.
        (&[0xf3, 0x0f, 0x1e, 0xfa], Code::Endbr64, Ok(Outcome::Next)),
        (&[0xf3, 0x0f, 0x1e, 0xfb], Code::Endbr32, Ok(Outcome::Next)),
    ] {
        let mut r = registers();
        r.gpr[gpr::RAX] = SHADOW + 0x80;
        let before = r.clone();
        let displaced = decode(bytes);
        assert_eq!(displaced.code(), code);
        assert_eq!(displaced.execute(&mut r, &mut memory.0), result, "{code:?}");
        let rip = if result == Ok(Outcome::Next) { IP + bytes.len() as u64 } else { r.rip };
        assert_eq!(r, Registers { rip, ..before }, "{code:?}");
    }
}

#[test]
fn transactions_abort_at_once() {
    let (mut r, mut memory) = (registers(), Memory::new());
    r.gpr[gpr::RAX] = u64::MAX;
    decode(&[0xc7, 0xf8, 0x10, 0, 0, 0]).execute(&mut r, &mut memory.0).unwrap();
    assert_eq!((r.rip, r.gpr[gpr::RAX]), (IP + 0x16, 0));
    r.rflags |= Rflags::CF | Rflags::SF;
    decode(&[0x0f, 0x01, 0xd6]).execute(&mut r, &mut memory.0).unwrap(); // xtest
    assert_eq!(r.rflags & Rflags::STATUS, Rflags::ZF);
    let xend = decode(&[0x0f, 0x01, 0xd5]).execute(&mut r, &mut memory.0);
    assert_eq!(xend, Err(Exception::GeneralProtection(0)));
    let before = Registers { rip: IP + 3, ..r.clone() };
    decode(&[0xc6, 0xf8, 0x55]).execute(&mut r, &mut memory.0).unwrap(); // xabort
    assert_eq!(r, before);
}

#[test]
fn protection_keys() {
    let (mut r, mut memory) = (registers(), Memory::new());
    let (read, write) = (decode(&[0x0f, 0x01, 0xee]), decode(&[0x0f, 0x01, 0xef]));
    r.pkru = 0x8000_0004;
    r.gpr[gpr::RDX] = u64::MAX;
    r.gpr[gpr::RCX] = 1 << 32;
    assert_eq!(read.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.gpr[gpr::RAX], r.gpr[gpr::RDX]), (0x8000_0004, 0));
    r.gpr[gpr::RAX] = 0xffff_ffff_0000_000c;
    assert_eq!(write.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.pkru, 0xc);
    r.gpr[gpr::RDX] = 1;
    assert_eq!(write.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)));
    r.gpr[gpr::RCX] = 1;
    assert_eq!(read.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)));
}

#[test]
fn waiting_ends_at_once() {
    let (mut r, mut memory) = (registers(), Memory::new());
    r.rflags |= Rflags::STATUS;
    r.gpr[gpr::RAX] = 1;
    for bytes in [[0x66, 0x0f, 0xae, 0xf0], [0xf2, 0x0f, 0xae, 0xf0]] {
        let wait = decode(&bytes);
        r.gpr[gpr::RAX] = 1;
        assert_eq!(wait.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
        assert_eq!(r.rflags & Rflags::STATUS, Rflags::empty());
        r.gpr[gpr::RAX] = 2;
        assert_eq!(wait.execute(&mut r, &mut memory.0), Err(Exception::GeneralProtection(0)));
    }
    let monitor = decode(&[0xf3, 0x0f, 0xae, 0xf0]); // umonitor rax
    r.gpr[gpr::RAX] = BASE;
    assert_eq!(monitor.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    r.gpr[gpr::RAX] = 0x9000;
    let fault = Exception::PageFault { address: 0x9000, error_code: 4 };
    assert_eq!(monitor.execute(&mut r, &mut memory.0), Err(fault));
    let ptwrite = decode(&[0xf3, 0x0f, 0xae, 0x20]); // ptwrite dword [rax]
    assert_eq!(ptwrite.execute(&mut r, &mut memory.0), Err(fault));
}

#[test]
fn intels_far_pointers_have_64_bits() {
    let (mut r, mut memory) = (registers(), Memory::new());
    memory.set(BASE, 0x1122_3344_5566_7788);
    memory.set(BASE + 8, 0x2b);
    r.gpr[gpr::RAX] = BASE;
    let lfs = decode(&[0x48, 0x0f, 0xb4, 0x18]); // lfs rbx, [rax]
    assert_eq!(lfs.code(), Code::Lfs_r64_m1664);
    assert_eq!(lfs.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.gpr[gpr::RBX], 0x1122_3344_5566_7788);
    assert_eq!(r.segment[emu::registers::segment::FS], 0x2b);
    // And what AMD cuts to 16 bits, Intel does not.
    let call = decode(&[0x66, 0xe8, 0x10, 0, 0, 0]);
    assert_eq!(call.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.rip, r.gpr[gpr::RSP]), (IP + 0x16, BASE + 0x7f8));
    assert_eq!(decode(&[0x0f, 0x34]).execute(&mut r, &mut memory.0), Ok(Outcome::Sysenter));
}

/// A thread with 1.0 in ST(1) and a quiet NaN in ST(0).
fn with_nan() -> Registers {
    let mut r = registers();
    let x87 = &mut r.extended.x87;
    x87.tag = 3;
    x87.r[0] = Float80 { significand: 0xc000_0000_0000_0001, sign_exponent: 0x7fff };
    x87.r[1] = Float80 { significand: 1 << 63, sign_exponent: 0x3fff };
    x87.status = C1 | C3;
    r.rflags |= Rflags::CF | Rflags::OF;
    r
}

#[test]
fn comparisons_write_their_result_after_an_unmasked_exception_too() {
    let mut memory = Memory::new();
    let (fcomip, fcomp) = (decode(&[0xdf, 0xf1]), decode(&[0xd8, 0xd9]));
    let mut r = with_nan();
    assert_eq!(fcomip.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.rflags & Rflags::STATUS, Rflags::CF | Rflags::PF | Rflags::ZF);
    assert_eq!(r.extended.x87.status, 1 << 11 | C1 | C3 | IE, "popped, and C1 as it was");

    let mut r = with_nan();
    r.extended.x87.control &= !IE;
    assert_eq!(fcomip.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(r.rflags & Rflags::STATUS, Rflags::CF | Rflags::PF | Rflags::ZF);
    assert_eq!(r.extended.x87.status, C1 | C3 | IE | ES | B, "not popped");
    let mut r = with_nan();
    r.extended.x87.control &= !IE;
    assert_eq!(fcomp.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!((r.extended.x87.status, r.extended.x87.tag), (C3 | C2 | C0 | IE | ES | B, 3));
}

#[test]
fn intels_pointers_wait_for_an_exception() {
    let (mut r, mut memory) = (registers(), Memory::new());
    let fld = decode(&[0xdd, 0x00]); // fld qword [rax]
    r.gpr[gpr::RAX] = BASE;
    let pointers = |r: &Registers| {
        let x87 = &r.extended.x87;
        (x87.opcode, x87.instruction_pointer, x87.data_pointer)
    };
    assert_eq!(fld.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(pointers(&r), (0, IP, 0));
    memory.set(BASE, 0x7ff0_0000_0000_0001);
    r.extended.x87.control &= !IE;
    assert_eq!(fld.execute(&mut r, &mut memory.0), Ok(Outcome::Next));
    assert_eq!(pointers(&r), (0x500, IP, BASE));
}

#[test]
fn a_system_call_leaves_its_traces() {
    let (mut r, mut memory) = (registers(), Memory::new());
    r.rflags |= Rflags::CF | Rflags::RF;
    assert_eq!(decode(&[0x0f, 0x05]).execute(&mut r, &mut memory.0), Ok(Outcome::Syscall));
    assert_eq!((r.gpr[gpr::RCX], r.gpr[gpr::R11]), (IP + 2, 0x203));
    assert_eq!(decode(&[0xcd, 0x80]).execute(&mut r, &mut memory.0), Ok(Outcome::Interrupt(0x80)));
    assert_eq!(r.rip, IP + 2);
    let nine = decode(&[0xcd, 9]).execute(&mut r, &mut memory.0);
    assert_eq!(nine, Err(Exception::GeneralProtection(9 << 3 | 2)));
}
