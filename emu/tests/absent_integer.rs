//! Integer instructions that the processors at hand lack, against the pseudo-code of the manuals:
//! CMPccXADD, RAO-INT, direct stores, TBM, and scans where F3 means nothing.

use emu::registers::gpr;
use emu::{Displaced, Exception, FlatMemory, Outcome, Processor, Registers, Rflags, Vendor};

const BASE: u64 = 0x1000;

/// The quadword so many bytes behind [`BASE`].
fn quad(memory: &FlatMemory, at: usize) -> u64 {
    u64::from_le_bytes(memory.bytes()[at..at + 8].try_into().unwrap())
}

/// Executes with RAX, RCX, and RSI at 256 bytes of memory that start with `memory`.
fn execute(
    bytes: &[u8],
    [rax, rcx, rsi]: [u64; 3],
    memory: u64,
) -> (Result<Outcome, Exception>, Registers, FlatMemory) {
    let displaced =
        Displaced::decode_on(bytes, 0x40_0000, Processor::with_every_feature(Vendor::Amd).leak()).unwrap();
    let mut registers = Registers::default();
    registers.gpr[gpr::RAX] = rax;
    registers.gpr[gpr::RCX] = rcx;
    registers.gpr[gpr::RSI] = rsi;
    registers.gpr[gpr::RDI] = BASE + 128;
    let mut store = FlatMemory::new(BASE, 256);
    store.bytes_mut().fill(0xee);
    store.bytes_mut()[..8].copy_from_slice(&memory.to_le_bytes());
    let result = displaced.execute(&mut registers, &mut store);
    (result, registers, store)
}

#[test]
fn compare_and_add() {
    let below: &[u8] = &[0xc4, 0xe2, 0x71, 0xe2, 0x06]; // cmpbxadd [rsi], eax, ecx
    let (result, registers, memory) = execute(below, [6, 100, BASE], 0x1234_5678_0000_0005);
    assert_eq!(result, Ok(Outcome::Next));
    assert_eq!(quad(&memory, 0), 0x1234_5678_0000_0069, "5 is below 6");
    assert_eq!((registers.gpr[gpr::RAX], memory.accesses().updates), (5, 1));
    assert_eq!(registers.rflags & Rflags::STATUS, Rflags::CF | Rflags::SF | Rflags::AF | Rflags::PF);

    let (_, registers, memory) = execute(below, [u64::MAX << 32 | 5, 100, BASE], 5);
    assert_eq!((quad(&memory, 0), registers.gpr[gpr::RAX]), (5, 5), "5 is not below 5");
    assert_eq!(registers.rflags & Rflags::STATUS, Rflags::ZF | Rflags::PF);

    let less: &[u8] = &[0xc4, 0xe2, 0xf1, 0xee, 0x06]; // cmplexadd [rsi], rax, rcx
    let (_, registers, memory) = execute(less, [0, 7, BASE], u64::MAX);
    assert_eq!((quad(&memory, 0), registers.gpr[gpr::RAX]), (6, u64::MAX), "-1 is less than 0");

    let different: &[u8] = &[0xc4, 0xe2, 0x71, 0xe5, 0x06]; // cmpnzxadd [rsi], eax, ecx
    let (_, _, memory) = execute(different, [3, 1, BASE], 3);
    assert_eq!(quad(&memory, 0), 3);
    let (result, registers, _) = execute(different, [3, 1, BASE + 254], 3);
    assert_eq!(result, Err(Exception::PageFault { address: BASE + 256, error_code: 6 }));
    assert_eq!(registers.gpr[gpr::RAX], 3);
}

/// CMPccXADD for each condition, by what the conditions say of two integers.
#[test]
fn every_condition_compares_and_adds() {
    let sums = |a: u32, b: u32| a.wrapping_sub(b);
    let parity = |a: u32, b: u32| (sums(a, b) & 0xff).count_ones() % 2 == 0;
    let overflow = |a: u32, b: u32| i64::from(a as i32) - i64::from(b as i32) != i64::from(sums(a, b) as i32);
    type Holds<'a> = &'a dyn Fn(u32, u32) -> bool;
    let conditions: [Holds<'_>; 8] = [
        &overflow,
        &|a, b| a < b,
        &|a, b| a == b,
        &|a, b| a <= b,
        &|a, b| (sums(a, b) as i32) < 0,
        &parity,
        &|a, b| (a as i32) < b as i32,
        &|a, b| a as i32 <= b as i32,
    ];
    let interesting = [0, 1, 2, 3, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, u32::MAX - 1, u32::MAX];
    for (number, holds) in conditions.into_iter().enumerate() {
        for (a, b) in interesting.into_iter().flat_map(|a| interesting.map(|b| (a, b))) {
            for inverted in [0, 1] {
                // The memory operand against EAX; ECX is added.
                let bytes = [0xc4, 0xe2, 0x71, 0xe0 + 2 * number as u8 + inverted, 0x06];
                let (result, registers, memory) = execute(&bytes, [b.into(), 0x1234_5678, BASE], a.into());
                assert_eq!(result, Ok(Outcome::Next));
                let expected = if holds(a, b) != (inverted == 1) { a.wrapping_add(0x1234_5678) } else { a };
                assert_eq!(quad(&memory, 0), expected.into(), "{bytes:x?} {a:#x} {b:#x}");
                assert_eq!(registers.gpr[gpr::RAX], a.into(), "{bytes:x?}");
            }
        }
    }
}

#[test]
fn remote_operations_leave_flags_and_want_alignment() {
    let add: &[u8] = &[0x0f, 0x38, 0xfc, 0x06];
    for (bytes, expected) in [
        (add, 0x0f0f_0f0f_0000_0000_u64), // aadd [rsi], eax
        (&[0x66, 0x48, 0x0f, 0x38, 0xfc, 0x06], 0x0f0f_0000_0000_0001), // aand [rsi], rax
        (&[0xf2, 0x0f, 0x38, 0xfc, 0x06], 0x0f0f_0f0f_ffff_ffff), // aor [rsi], eax
        (&[0xf3, 0x48, 0x0f, 0x38, 0xfc, 0x06], 0xf0f0_0f0f_ffff_fffe), // axor [rsi], rax
    ] {
        let (result, registers, memory) =
            execute(bytes, [0xffff_0000_7fff_ffff, 0, BASE], 0x0f0f_0f0f_8000_0001);
        assert_eq!((result, quad(&memory, 0)), (Ok(Outcome::Next), expected), "{bytes:x?}");
        assert_eq!((memory.accesses().updates, registers.rflags), (1, Rflags::default()), "{bytes:x?}");
    }
    let (result, ..) = execute(add, [1, 0, BASE + 2], 0);
    assert_eq!(result, Err(Exception::GeneralProtection(0)));
}

#[test]
fn direct_stores() {
    let (result, _, memory) = execute(&[0x0f, 0x38, 0xf9, 0x06], [0x1122_3344_5566_7788, 0, BASE], 0);
    assert_eq!((result, quad(&memory, 0)), (Ok(Outcome::Next), 0x5566_7788));
    let (_, _, memory) = execute(&[0x48, 0x0f, 0x38, 0xf9, 0x06], [0x1122_3344_5566_7788, 0, BASE + 1], 0);
    assert_eq!(quad(&memory, 1), 0x1122_3344_5566_7788, "it need not be aligned");

    let sixty_four: &[u8] = &[0x66, 0x0f, 0x38, 0xf8, 0x3e]; // movdir64b rdi, [rsi]
    let (result, _, memory) = execute(sixty_four, [0, 0, BASE + 4], 0x0102_0304_0506_0708);
    assert_eq!(result, Ok(Outcome::Next));
    assert_eq!(memory.bytes()[128..192], memory.bytes()[4..68]);
    assert_eq!(quad(&memory, 128), 0xeeee_eeee_0102_0304);
    let (result, _, memory) = execute(sixty_four, [0, 0, BASE + 200], 0);
    assert_eq!(result, Err(Exception::PageFault { address: BASE + 256, error_code: 4 }));
    assert_eq!(quad(&memory, 128), 0xeeee_eeee_eeee_eeee);
    // With edi and esi in its place, and a destination that is no multiple of 64.
    let narrow: &[u8] = &[0x67, 0x66, 0x0f, 0x38, 0xf8, 0x06]; // movdir64b eax, [esi]
    let high = 1 << 32;
    let (result, _, memory) = execute(narrow, [high + BASE + 128, 0, high + BASE], 9);
    assert_eq!((result, quad(&memory, 128)), (Ok(Outcome::Next), 9));
    let (result, ..) = execute(narrow, [BASE + 8, 0, BASE], 9);
    assert_eq!(result, Err(Exception::GeneralProtection(0)));
}

/// AMD's manual gives each as the two instructions that it replaces.
#[test]
fn trailing_bit_manipulation() {
    type Formula = fn(u32) -> u32;
    type Carries = fn(u32) -> bool;
    let above: Carries = |src| src == u32::MAX;
    let below: Carries = |src| src == 0;
    let formulas: [(&str, [u8; 2], Formula, Carries); 9] = [
        ("blcfill", [0x01, 0xc9], |x| x & x.wrapping_add(1), above),
        ("blci", [0x02, 0xf1], |x| x | !x.wrapping_add(1), above),
        ("blcic", [0x01, 0xe9], |x| !x & x.wrapping_add(1), above),
        ("blcmsk", [0x02, 0xc9], |x| x ^ x.wrapping_add(1), above),
        ("blcs", [0x01, 0xd9], |x| x | x.wrapping_add(1), above),
        ("blsfill", [0x01, 0xd1], |x| x | x.wrapping_sub(1), below),
        ("blsic", [0x01, 0xf1], |x| !x | x.wrapping_sub(1), below),
        ("t1mskc", [0x01, 0xf9], |x| !x | x.wrapping_add(1), above),
        ("tzmsk", [0x01, 0xe1], |x| !x & x.wrapping_sub(1), below),
    ];
    for (name, [opcode, modrm], formula, carries) in formulas {
        for src in [0, 1, 2, 0x17, 0x8000_0000, 0x00ff_0100, u32::MAX - 1, u32::MAX] {
            let bytes = [0x8f, 0xe9, 0x78, opcode, modrm];
            let (result, registers, _) = execute(&bytes, [u64::MAX, u64::from(src), BASE], 0);
            assert_eq!(result, Ok(Outcome::Next), "{name}");
            let expected = formula(src);
            assert_eq!(registers.gpr[gpr::RAX], u64::from(expected), "{name} {src:#x}");
            let flags = registers.rflags;
            assert_eq!(flags.contains(Rflags::CF), carries(src), "{name} {src:#x}");
            assert_eq!(flags.contains(Rflags::ZF), expected == 0, "{name} {src:#x}");
            assert_eq!(flags.contains(Rflags::SF), expected >> 31 != 0, "{name} {src:#x}");
            assert!(!flags.contains(Rflags::OF), "{name} {src:#x}");
        }
    }
    // bextr eax, ecx, 0x0804 and bextr rax, rcx, 0x2004
    let source = 0xfedc_ba98_7654_3210;
    let (_, registers, _) = execute(&[0x8f, 0xea, 0x78, 0x10, 0xc1, 4, 8, 0, 0], [0, source, BASE], 0);
    assert_eq!(registers.gpr[gpr::RAX], 0x21);
    let (_, registers, _) = execute(&[0x8f, 0xea, 0xf8, 0x10, 0xc1, 4, 0x20, 0, 0], [0, source, BASE], 0);
    assert_eq!(registers.gpr[gpr::RAX], 0x8765_4321);
}

#[test]
fn without_the_feature_counts_are_scans() {
    let run = |bytes: &[u8], processor: &'static Processor| {
        let displaced = Displaced::decode_on(bytes, 0x40_0000, processor).unwrap();
        let mut registers = Registers::default();
        registers.gpr[gpr::RCX] = 0x0010_0000;
        let mut memory = FlatMemory::new(BASE, 256);
        assert_eq!(displaced.execute(&mut registers, &mut memory), Ok(Outcome::Next));
        registers.gpr[gpr::RAX]
    };
    let (with, without) =
        (Processor::with_every_feature(Vendor::Amd).leak(), Processor::with_no_feature(Vendor::Amd).leak());
    let (tzcnt, lzcnt): (&[u8], &[u8]) = (&[0xf3, 0x0f, 0xbc, 0xc1], &[0xf3, 0x0f, 0xbd, 0xc1]);
    assert_eq!((run(tzcnt, with), run(tzcnt, without)), (20, 20));
    assert_eq!((run(lzcnt, with), run(lzcnt, without)), (11, 20));
}
