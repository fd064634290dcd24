//! The oracle against what is known of a few instructions.
use conformance::oracle::{Case, Mode, Oracle, Stop, places};
use emu::registers::gpr;
use emu::{Registers, Rflags};

fn case(bytes: &[u8], mode: Mode) -> Case {
    let mut padded = [0; 15];
    padded[..bytes.len()].copy_from_slice(bytes);
    let mut registers = Registers::default();
    registers.gpr[gpr::RSP] = places::STACK.start + 0x800;
    Case { bytes: padded, length: bytes.len(), mode, repeats: false, high: false, registers, patches: vec![] }
}

#[test]
fn a_few_instructions_in_both_modes() {
    let mut oracle = Oracle::new().unwrap();
    let mut memory = [0u8; places::IMAGE_LENGTH];
    for mode in [Mode::Straight, Mode::Step] {
        let mut add = case(&[0x48, 0x01, 0xd8], mode); // add rax, rbx
        add.registers.gpr[gpr::RAX] = u64::MAX;
        add.registers.gpr[gpr::RBX] = 1;
        let mut load = case(&[0x48, 0x8b, 0x03], mode); // mov rax, [rbx]
        load.registers.gpr[gpr::RBX] = places::READ_ONLY.end() - 4;
        let push = case(&[0x53], mode);
        let mut divide = case(&[0xf7, 0xf1], mode); // div ecx
        divide.registers.gpr[gpr::RAX] = 7;
        let seen = oracle.run(&mut memory, &[add, load, push, divide]).unwrap();
        assert_eq!(seen[0].stop, Stop::Completed);
        assert_eq!(seen[0].registers.gpr[gpr::RAX], 0);
        let set = Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF;
        assert_eq!(seen[0].registers.rflags, Rflags::default() | set, "{mode:?}");
        assert_eq!(seen[0].registers.rip, Case::ip(false, 0) + 3);
        assert_eq!(
            seen[1].stop,
            Stop::Exception { vector: 14, error_code: 4, address: Some(places::READ_ONLY.end()) }
        );
        assert_eq!(seen[2].registers.gpr[gpr::RSP], places::STACK.start + 0x7f8);
        assert_eq!(seen[3].stop, Stop::Exception { vector: 0, error_code: 0, address: None });
        assert_eq!(seen[3].registers.rip, Case::ip(false, 3));
    }
}
