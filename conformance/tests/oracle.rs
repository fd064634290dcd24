//! The oracle against what is known of a few instructions, and its two modes against each other.

use conformance::compare::compare;
use conformance::generate::{Generator, Sample, can_step};
use conformance::memory::Model;
use conformance::oracle::{Case, Memory, Mode, Observed, Oracle, Patch, Place, Stop, mxcsr_mask, places};
use conformance::rng::Rng;
use conformance::{codes, features};
use emu::registers::{TileConfig, Vector, gpr, segment};
use emu::{Registers, Rflags};
use iced_x86::Decoder;

fn memory() -> Box<Memory> {
    Box::new([0; places::IMAGE_LENGTH])
}

fn case(bytes: &[u8], mode: Mode) -> Case {
    let mut padded = [0; 15];
    padded[..bytes.len()].copy_from_slice(bytes);
    let mut registers = Registers::default();
    registers.gpr[gpr::RSP] = places::STACK.start + 0x800;
    Case {
        bytes: padded,
        length: bytes.len(),
        mode,
        repeats: false,
        place: Place::Low,
        registers,
        patches: vec![],
    }
}

#[test]
fn a_few_instructions_in_both_modes() {
    let mut oracle = Oracle::new().unwrap();
    for mode in [Mode::Straight, Mode::Step] {
        let mut add = case(&[0x48, 0x01, 0xd8], mode); // add rax, rbx
        add.registers.gpr[gpr::RAX] = u64::MAX;
        add.registers.gpr[gpr::RBX] = 1;
        let mut load = case(&[0x48, 0x8b, 0x03], mode); // mov rax, [rbx]
        load.registers.gpr[gpr::RBX] = places::READ_ONLY.end() - 4;
        let push = case(&[0x53], mode);
        let mut divide = case(&[0xf7, 0xf1], mode); // div ecx
        divide.registers.gpr[gpr::RAX] = 7;
        let seen = oracle.run(&mut memory(), &[add, load, push, divide]).unwrap();
        assert_eq!(seen[0].stop, Stop::Completed);
        assert_eq!(seen[0].registers.gpr[gpr::RAX], 0);
        let set = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF;
        assert_eq!(seen[0].registers.rflags, Rflags::default() | set, "{mode:?}");
        assert_eq!(seen[0].registers.rip, Place::Low.slot(0) + 3);
        assert_eq!(
            seen[1].stop,
            Stop::Exception { vector: 14, error_code: 4, address: Some(places::READ_ONLY.end()) }
        );
        assert_eq!(seen[2].registers.gpr[gpr::RSP], places::STACK.start + 0x7f8);
        assert_eq!(seen[3].stop, Stop::Exception { vector: 0, error_code: 0, address: None });
        assert_eq!(seen[3].registers.rip, Place::Low.slot(3));
    }
}

/// What both modes must agree on: everything, but for the requested privilege level of a null selector,
/// which does not survive a return from the kernel, and TF, which stepping has for itself.
fn comparable(observed: &Observed) -> (Stop, Registers, Vec<(u64, u64)>) {
    let mut registers = observed.registers.clone();
    for selector in registers.segment.iter_mut().filter(|selector| **selector <= 3) {
        *selector = 0;
    }
    registers.rflags.remove(Rflags::TF);
    (observed.stop, registers, observed.changed.clone())
}

#[test]
fn both_modes_agree() {
    let mut oracle = Oracle::new().unwrap();
    let mut generator = Generator::new(oracle.layout(), mxcsr_mask());
    let _shared = oracle.share_core();
    let (mut cases, mut faulting) = (0, 0);
    for code in codes::user_mode() {
        if codes::skipped(code).is_some() || !features::missing(code).is_empty() {
            continue;
        }
        let mut memory = memory();
        Generator::memory(code, 0, 1, &mut memory);
        let samples: Vec<_> = (0..12)
            .filter_map(|number| generator.case(code, number, 1))
            .filter(|sample| sample.case.mode == Mode::Straight && can_step(&sample.instruction))
            .collect();
        let straight: Vec<Case> = samples.iter().map(|sample| sample.case.clone()).collect();
        let stepped: Vec<Case> =
            straight.iter().map(|case| Case { mode: Mode::Step, ..case.clone() }).collect();
        let straight = oracle.run(&mut memory, &straight).unwrap();
        let stepped = oracle.run(&mut memory, &stepped).unwrap();
        for ((sample, straight), stepped) in samples.iter().zip(&straight).zip(&stepped) {
            cases += 1;
            faulting += u64::from(straight.stop != Stop::Completed);
            assert_eq!(comparable(straight), comparable(stepped), "{code:?} {:02x?}", sample.bytes());
        }
    }
    println!("{cases} cases, {faulting} faulting");
    assert!(cases > 10_000 && faulting > 1000, "{cases} cases, {faulting} faulting");
}

#[test]
fn a_case_that_does_not_end_is_an_observation_and_the_next_one_runs() {
    let mut oracle = Oracle::new().unwrap();
    let nop = case(&[0x90], Mode::Straight);
    let mut forever = case(&[0xeb, 0xfe], Mode::Straight); // jmp $
    forever.registers.gpr[gpr::R12] = 0x1234_5678_9abc_def0;
    forever.registers.rflags |= Rflags::ID | Rflags::NT | Rflags::CF;
    // Twice: what interrupts the first must leave nothing behind for the second.
    let seen = oracle
        .run(&mut memory(), &[nop.clone(), forever.clone(), nop.clone(), forever.clone(), nop])
        .unwrap();
    for index in [1, 3] {
        assert_eq!(seen[index].stop, Stop::Endless);
        let at_it = Registers { rip: Place::Low.slot(index), ..forever.registers.clone() };
        assert_eq!(seen[index].registers.gpr, at_it.gpr);
        assert_eq!((seen[index].registers.rip, seen[index].registers.rflags), (at_it.rip, at_it.rflags));
    }
    for index in [0, 2, 4] {
        assert_eq!(seen[index].stop, Stop::Completed);
        assert_eq!(seen[index].registers.rflags, Rflags::default());
    }
}

/// Where the frame's AC checks the frame's own alignment, and the kernel then takes #AC for a split lock's, the child
/// sleeps most of the time that it spends on this.
#[test]
fn an_iret_that_the_kernel_runs_again_and_again_is_an_observation() {
    let mut oracle = Oracle::new().unwrap();
    let mut iret = case(&[0x48, 0xcf], Mode::Step); // iretq
    let stack = places::STACK.start + 0x801;
    iret.registers.gpr[gpr::RSP] = stack;
    let mut bytes = [0; 64];
    let frame = [places::LOW.start, 0x33, (Rflags::default() | Rflags::AC).bits(), stack, 0x2b];
    for (place, word) in bytes.chunks_exact_mut(8).zip(frame) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    iret.patches.push(Patch { address: stack, length: 40, bytes });
    let seen = oracle.run(&mut memory(), &[iret, case(&[0x90], Mode::Straight)]).unwrap();
    println!("iretq: {}", seen[0].stop);
    let alignment = Stop::Exception { vector: 17, error_code: 0, address: None };
    assert!([Stop::Endless, Stop::Completed, alignment].contains(&seen[0].stop), "{}", seen[0].stop);
    assert_eq!(seen[1].stop, Stop::Completed);
}

#[test]
fn what_repeats_for_long_is_not_endless() {
    let mut oracle = Oracle::new().unwrap();
    for mode in [Mode::Straight, Mode::Step] {
        // The most that there is room for: as many signals, where it is stepped.
        let mut store = case(&[0xf3, 0xaa], mode); // rep stosb
        store.repeats = true;
        store.registers.gpr[gpr::RDI] = places::LOW.start;
        store.registers.gpr[gpr::RCX] = places::LOW.length;
        let seen = oracle.run(&mut memory(), &[store]).unwrap();
        assert_eq!(seen[0].stop, Stop::Completed, "{mode:?}");
        assert_eq!(seen[0].registers.gpr[gpr::RCX], 0, "{mode:?}");
    }
}

/// rt_sigreturn takes neither NT nor ID from the frame.
#[test]
fn nt_and_id_stay_through_all_steps_of_a_repetition_and_do_not_reach_the_next_case() {
    let mut oracle = Oracle::new().unwrap();
    let with = |flags: Rflags| {
        let mut store = case(&[0xf3, 0xaa], Mode::Step); // rep stosb
        store.repeats = true;
        store.registers.gpr[gpr::RDI] = places::LOW.start;
        store.registers.gpr[gpr::RCX] = 5;
        store.registers.rflags |= flags;
        store
    };
    let all = [Rflags::empty(), Rflags::NT, Rflags::ID, Rflags::NT | Rflags::ID];
    let mut cases = Vec::new();
    for first in all {
        for second in all {
            cases.extend([with(first), with(second), Case { mode: Mode::Straight, ..with(second) }]);
            cases.push(Case { registers: with(first).registers, ..case(&[0x90], Mode::Step) });
        }
    }
    let seen = oracle.run(&mut memory(), &cases).unwrap();
    for (case, observed) in cases.iter().zip(&seen) {
        assert_eq!(observed.stop, Stop::Completed);
        assert_eq!(observed.registers.rflags, case.registers.rflags, "{case:?}");
    }
}

/// All that the processor has is drawn, is loaded, and comes back: the upper parts of registers and the masks too.
#[test]
fn the_whole_register_file_goes_through() {
    let mut oracle = Oracle::new().unwrap();
    let layout = *oracle.layout();
    let mut generator = Generator::new(&layout, mxcsr_mask());
    let mut rng = Rng::new(5);
    let nop = |mode, case: Case| Case { length: 1, mode, place: Place::Low, ..case };
    let mut drawn = |mode| nop(mode, generator.plain([0x90; 15], &mut rng));
    let modes = [Mode::Straight, Mode::Step];
    let cases: Vec<Case> = (0..32).flat_map(|_| modes).map(&mut drawn).collect();
    let seen = oracle.run(&mut memory(), &cases).unwrap();
    let mut varied = [false; 5];
    for (case, observed) in cases.iter().zip(&seen) {
        assert_eq!(observed.stop, Stop::Completed);
        assert_eq!(observed.registers.extended, case.registers.extended, "{:?}", case.mode);
        assert_eq!(observed.registers.pkru, case.registers.pkru);
        let extended = &case.registers.extended;
        let any = |vectors: &[Vector], quads: std::ops::Range<usize>| {
            vectors.iter().any(|vector| vector.0[quads.clone()].iter().any(|&quad| quad != 0))
        };
        varied[0] |= any(&extended.vector[..16], 2..4);
        varied[1] |= any(&extended.vector[..16], 4..8);
        varied[2] |= any(&extended.vector[16..], 0..8);
        varied[3] |= extended.opmask.iter().all(|&mask| mask != 0);
        varied[4] |= extended.tiles.config != TileConfig::default() && extended.tiles.data.is_used();
    }
    let has = [layout.avx, layout.zmm_hi256, layout.hi16_zmm, layout.opmask, layout.tile_data];
    assert_eq!(varied, has.map(|offset| offset.is_some()), "AVX, ZMM0 to 15, ZMM16 to 31, masks, tiles");
}

/// The oracle loads every state with SSE marked as in use. Processors that believe it say so although all of it is in
/// its initial configuration, and write it.
#[test]
fn state_may_be_in_use_and_all_zero() {
    let mut oracle = Oracle::new().unwrap();
    let place = places::LOW.start;
    for (name, bytes) in [
        ("xsave [rbx]", &[0x0f, 0xae, 0x23][..]),
        ("xsaveopt [rbx]", &[0x0f, 0xae, 0x33]),
        ("xsavec [rbx]", &[0x0f, 0xc7, 0x23]),
        ("xgetbv", &[0x0f, 0x01, 0xd0]),
    ] {
        let mut case = case(bytes, Mode::Straight);
        case.registers.gpr[gpr::RBX] = place;
        case.registers.gpr[gpr::RAX] = 7;
        case.registers.gpr[gpr::RCX] = 1;
        // As Linux has them.
        (case.registers.segment[segment::CS], case.registers.segment[segment::SS]) = (0x33, 0x2b);
        let ip = case.ip(0);
        let instruction = Decoder::with_ip(64, bytes, ip, 0).decode();
        if !features::missing(instruction.code()).is_empty() {
            println!("skipped: this processor has no {name}");
            continue;
        }
        // What stays of an image shows.
        let mut memory = memory();
        memory.fill(0xa5);
        let sample = Sample { case, instruction, ip };
        let observed = oracle.run(&mut memory, std::slice::from_ref(&sample)).unwrap();
        let found = compare(&sample, &observed[0], &mut Model::new(&memory)).unwrap();
        assert!(!found.left && observed[0].stop == Stop::Completed, "{name}: {}", observed[0].stop);
        assert!(found.differences.is_empty(), "{name}: {:?}", found.differences);
        let header = observed[0].changed.iter().find(|(address, _)| *address == place + 512);
        println!("{name}: header {header:x?}, rax {:#x}", observed[0].registers.gpr[gpr::RAX]);
    }
}

#[test]
fn a_child_that_dies_is_an_error_and_the_next_one_runs() {
    let mut oracle = Oracle::new().unwrap();
    let mut exit = case(&[0x0f, 0x05], Mode::Straight); // syscall
    exit.registers.gpr[gpr::RAX] = libc::SYS_exit_group as u64;
    let error = oracle.run(&mut memory(), &[exit]).unwrap_err();
    assert!(error.to_string().contains("case 0"), "{error}");
    let seen = oracle.run(&mut memory(), &[case(&[0x90], Mode::Straight)]).unwrap();
    assert_eq!(seen[0].stop, Stop::Completed);
}
