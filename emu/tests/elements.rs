//! Instructions that stop between elements of memory, stores of some elements only, where a page ends, and what the
//! elements of one instruction raise.

use emu::registers::{Mxcsr, gpr};
use emu::{Displaced, Exception, FlatMemory, Processor, Registers, Touches, Vendor};

const START: u64 = 0x1000;
const END: u64 = 0x2000;

/// One page of such bytes.
fn page(byte: u8) -> FlatMemory {
    let mut page = FlatMemory::new(START, (END - START) as usize);
    page.bytes_mut().fill(byte);
    page
}

fn decode(bytes: &[u8]) -> Displaced {
    Displaced::decode_on(bytes, 0x40_0000, Processor::with_every_feature(Vendor::Intel).leak()).unwrap()
}

fn page_fault(address: u64, error_code: u32) -> Exception {
    Exception::PageFault { address, error_code }
}

#[test]
fn a_gather_keeps_what_it_has_done() {
    let gather = decode(&[0xc4, 0xe2, 0x61, 0x90, 0x0c, 0x90]); // vpgatherdd xmm1, [rax+xmm2*4], xmm3
    let (mut registers, mut page) = (Registers::default(), page(0x11));
    registers.gpr[gpr::RAX] = END - 8;
    registers.extended.vector[1].0 = [7; 8];
    registers.extended.vector[2].0 = [1 << 32, 3 << 32 | 2, 0, 0, 0, 0, 0, 0];
    registers.extended.vector[3].0 = [0x8000_0001_8000_0001; 8];
    assert_eq!(gather.execute(&mut registers, &mut page), Err(page_fault(END, 4)));
    assert_eq!(registers.extended.vector[1].0, [0x1111_1111_1111_1111, 7, 0, 0, 0, 0, 0, 0]);
    assert_eq!(registers.extended.vector[3].0, [0, u64::MAX, 0, 0, 0, 0, 0, 0]);
    // What is done is not done again.
    registers.gpr[gpr::RAX] = START - 8;
    registers.extended.vector[2].0[0] = 0;
    assert_eq!(gather.execute(&mut registers, &mut page).err(), None);
    assert_eq!(registers.extended.vector[1].0[..2], [0x1111_1111_1111_1111; 2]);
    assert_eq!(registers.extended.vector[3].0, [0; 8]);
}

#[test]
fn a_store_under_a_mask_looks_at_no_more_than_the_mask_leaves() {
    let store = decode(&[0x62, 0xf1, 0x7e, 0x49, 0x7f, 0x08]); // vmovdqu32 [rax]{k1}, zmm1
    let (mut registers, mut page) = (Registers::default(), page(0));
    registers.gpr[gpr::RAX] = END - 8;
    registers.extended.vector[1].0 = [u64::MAX; 8];
    registers.extended.opmask[1] = 0b1011;
    assert_eq!(store.execute(&mut registers, &mut page), Err(page_fault(END + 7, 6)), "its last byte");
    assert_eq!(page.bytes()[0xff8..], [0; 8], "nothing is stored");
    registers.extended.opmask[1] = 0b10;
    assert_eq!(store.execute(&mut registers, &mut page).err(), None);
    assert_eq!(page.bytes()[0xff8..], [0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    registers.gpr[gpr::RAX] = 0x8000_0000_0000_0000;
    registers.extended.opmask[1] = 0xffff_0000;
    assert_eq!(store.execute(&mut registers, &mut page).err(), None, "there is no such element");
}

#[test]
fn the_end_of_avx_code_needs_no_avx_512() {
    let zen_3 = emu::Processor::zen_3().leak();
    let touches = emu::Displaced::decode_on(&[0xc5, 0xf8, 0x77], 0x1000, zen_3).unwrap().touches(); // vzeroupper
    assert!(touches.contains(Touches::SSE | Touches::AVX) && !touches.intersects(Touches::AVX512));
}

#[test]
fn what_writes_no_vector_register_clears_nothing_above_it() {
    let zen_5 = emu::Processor::zen_5().leak();
    let extended = |bytes: &[u8]| {
        emu::Displaced::decode_on(bytes, 0x1000, zen_5).unwrap().touches() & emu::Touches::EXTENDED
    };
    let all = Touches::SSE | Touches::AVX | Touches::AVX512;
    assert_eq!(extended(&[0xc5, 0xf8, 0x2e, 0xc1]), Touches::SSE); // vucomiss xmm0, xmm1
    assert_eq!(extended(&[0xc5, 0xf8, 0x11, 0x07]), Touches::SSE); // vmovups [rdi], xmm0
    assert_eq!(extended(&[0xc5, 0xfc, 0x11, 0x07]), Touches::SSE | Touches::AVX); // vmovups [rdi], ymm0
    assert_eq!(extended(&[0x62, 0xb1, 0x7c, 0x08, 0x2e, 0xc1]), all); // vucomiss xmm0, xmm17
    assert_eq!(extended(&[0xc5, 0xf8, 0x58, 0xc1]), all); // vaddps xmm0, xmm0, xmm1
}

#[test]
fn what_vcvtps2ph_raises_of_tiny_numbers_where_underflow_is_unmasked() {
    let convert = decode(&[0xc4, 0xe3, 0x79, 0x1d, 0xc1, 0x00]); // vcvtps2ph xmm1, xmm0, 0
    let raised = |bits: u64| {
        let (mut registers, mut page) = (Registers::default(), FlatMemory::default());
        registers.extended.vector[0].0[0] = bits;
        registers.extended.mxcsr = Mxcsr::from_bits_retain(0x1780);
        assert_eq!(
            convert.execute(&mut registers, &mut page),
            Err(Exception::SimdFloatingPoint),
            "{bits:#x}"
        );
        registers.extended.mxcsr & Mxcsr::EXCEPTIONS
    };
    // Measured on Emerald Rapids: of a normal number PE tells whether its bits fit, however small it is.
    assert_eq!(raised(0x0080_0000), Mxcsr::UE);
    assert_eq!(raised(0x0080_1000), Mxcsr::UE | Mxcsr::PE);
    assert_eq!(raised(0x3800_2000 - 0x80_0000), Mxcsr::UE);
    // Of a denormal it is raised always.
    assert_eq!(raised(0x0040_0000), Mxcsr::UE | Mxcsr::PE | Mxcsr::DE);
    assert_eq!(raised(0x0000_0001), Mxcsr::UE | Mxcsr::PE | Mxcsr::DE);
}

#[test]
fn a_denormal_of_binary16_that_rounds_up_to_a_normal_number() {
    let fused = decode(&[0x62, 0xf6, 0x6d, 0x08, 0xa8, 0xcb]); // vfmadd213ph xmm1, xmm2, xmm3
    let (mut registers, mut page) = (Registers::default(), FlatMemory::default());
    // The least normal number less two to the -34th. Tiny it is not, as that is asked after rounding.
    registers.extended.vector[1].0[0] = 0x8001;
    registers.extended.vector[2].0[0] = 0x1400;
    registers.extended.vector[3].0[0] = 0x0400;
    registers.extended.mxcsr = Mxcsr::MASKS;
    assert_eq!(fused.execute(&mut registers, &mut page).err(), None);
    assert_eq!(registers.extended.vector[1].0[0] & 0xffff, 0x0400);
    assert_eq!(registers.extended.mxcsr, Mxcsr::MASKS | Mxcsr::DE | Mxcsr::PE);
}

#[test]
fn what_vrndscalesh_raises_of_multiples_of_the_greatest_denormal_power_of_two() {
    // vrndscalesh xmm1, xmm2, xmm3, imm: to multiples of 2^-15, to nearest, without PE.
    let scale = |immediate: u8, bits: u64, mxcsr: u32| {
        let displaced = decode(&[0x62, 0xf3, 0x6c, 0x08, 0x0a, 0xcb, immediate]);
        let (mut registers, mut page) = (Registers::default(), FlatMemory::default());
        registers.extended.vector[3].0[0] = bits;
        registers.extended.mxcsr = Mxcsr::from_bits_retain(mxcsr);
        let raises = displaced.execute(&mut registers, &mut page).is_err();
        let result = registers.extended.vector[1].0[0] & 0xffff;
        (raises, result, registers.extended.mxcsr & Mxcsr::EXCEPTIONS)
    };
    // Measured on Emerald Rapids for all inputs, immediates and roundings. Masked, a denormal result counts if it is
    // inexact, whatever becomes of PE.
    let (masked, unmasked) = (0x1f80, 0x1780);
    assert_eq!(scale(0xf0, 0x0101, masked), (false, 0x0200, Mxcsr::UE | Mxcsr::PE));
    assert_eq!(scale(0xf8, 0x02ff, masked), (false, 0x0200, Mxcsr::UE));
    assert_eq!(scale(0xf0, 0x0200, masked), (false, 0x0200, Mxcsr::empty()));
    assert_eq!(scale(0xf0, 0x0100, masked), (false, 0, Mxcsr::PE));
    assert_eq!(scale(0xf0, 0x0300, masked), (false, 0x0400, Mxcsr::PE));
    // Unmasked, each does.
    assert_eq!(scale(0xf0, 0x0200, unmasked), (true, 0, Mxcsr::UE));
    assert_eq!(scale(0xf0, 0x0101, unmasked), (true, 0, Mxcsr::UE | Mxcsr::PE));
    assert_eq!(scale(0xf0, 0x0300, unmasked), (false, 0x0400, Mxcsr::PE));
    assert_eq!(scale(0xe0, 0x0201, unmasked), (false, 0x0400, Mxcsr::PE));
}

/// The processor asks of an offset from FS that it is canonical by itself, whatever the base makes of it.
#[test]
fn an_operand_in_a_segment_ends_where_offsets_do() {
    const CANONICAL_END: u64 = 1 << 47;
    let protection = Err(Exception::GeneralProtection(0));
    // So many bytes of the operand lie before the end, at an address that is aligned to 64.
    let run = |bytes: &[u8], before: u64| {
        let processor: &'static Processor = Box::leak(Box::new(Processor::zen_5()));
        let displaced = Displaced::decode_on(bytes, 0x40_0000, processor).unwrap();
        let (mut registers, mut page) = (Registers::default(), page(0x11));
        let offset = CANONICAL_END - before;
        registers.gpr[gpr::RAX] = offset;
        registers.gpr[gpr::RSI] = offset;
        registers.gpr[gpr::RDI] = offset;
        registers.fs_base = (START + 64).wrapping_sub(offset);
        registers.extended.opmask[3] = 0b0111_1111;
        displaced.execute(&mut registers, &mut page)
    };
    for (size, bytes) in [
        (8, &[0x64, 0x48, 0xad][..]),                      // lodsq fs:[rsi]
        (4, &[0x64, 0xa5]),                                // movsd es:[rdi], fs:[rsi]
        (4, &[0x64, 0x66, 0x63, 0x00]),                    // movsxd ax, fs:[rax], which reads 32 bits
        (16, &[0x64, 0x66, 0x0f, 0xf7, 0xc1]),             // maskmovdqu fs:[rdi]
        (4, &[0x64, 0x66, 0x0f, 0xb5, 0x00]),              // lgs ax, fs:[rax]
        (576, &[0x64, 0x0f, 0xae, 0x20]),                  // xsave fs:[rax] of nothing but the header
        (64, &[0x64, 0x62, 0xf1, 0x7c, 0x48, 0x28, 0x00]), // vmovaps zmm0, fs:[rax]
    ] {
        for before in [1, size - 1] {
            assert_eq!(run(bytes, before), protection, "{bytes:02x?}, {before} of {size}");
        }
    }
    // Without its last element it is all there, and its alignment is that of its first byte.
    let chosen = &[0x64, 0x62, 0xf1, 0xfd, 0x4b, 0x6f, 0x00]; // vmovdqa64 zmm0{k3}, fs:[rax]
    for before in [56, 63] {
        assert!(run(chosen, before).is_ok(), "{before}");
    }
    assert_eq!(run(chosen, 55), protection);
}

/// Of an address of 32 bits that wraps, AMD's processors look at all bytes as if it did not, and store each where it
/// belongs, until one cannot be.
#[test]
fn maskmovq_wraps_between_bytes() {
    let processor: &'static Processor = Box::leak(Box::new(Processor::zen_5()));
    // addr32 maskmovq fs:[edi], mm0, mm1
    let displaced = Displaced::decode_on(&[0x64, 0x67, 0x0f, 0xf7, 0xc1], 0x40_0000, processor).unwrap();
    let (mut registers, mut page) = (Registers::default(), page(0x11));
    registers.gpr[gpr::RDI] = 0xffff_fffa;
    registers.fs_base = (START + 64).wrapping_sub(0xffff_fffa);
    registers.extended.x87.r[0].significand = 0x8877_6655_4433_2221;
    registers.extended.x87.r[1].significand = 0x8000_8000_0000_0080;
    let wrapped = registers.fs_base.wrapping_add(1);
    assert_eq!(displaced.execute(&mut registers, &mut page), Err(page_fault(wrapped, 6)));
    let stored = [0x21, 0x11, 0x11, 0x11, 0x11, 0x66, 0x11, 0x11];
    assert_eq!(page.bytes()[64..72], stored, "the last is beyond");
}
