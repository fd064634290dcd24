//! FMA4, XOP and 3DNow!, which the processors at hand lack: against the same operation of another encoding, against the
//! standard library's arithmetic, and by the definitions of AMD's manuals, written once more.

use emu::registers::gpr;
use emu::{Displaced, Exception, FlatMemory, Mxcsr, Outcome, Processor, Registers, Vendor};

const BASE: u64 = 0x1000;

/// 64 bytes at [`BASE`].
fn memory(bytes: [u8; 64]) -> FlatMemory {
    let mut memory = FlatMemory::new(BASE, bytes.len());
    memory.bytes_mut().copy_from_slice(&bytes);
    memory
}

fn everything() -> &'static Processor {
    Processor::with_every_feature(Vendor::Amd).leak()
}

/// What looks random, with floating-point numbers of all kinds among it.
struct Random(u64);

impl Random {
    fn quad(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 ^ self.0 >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.0 >> 29
    }

    /// Elements of so many bits: any, or near the ends of a format of so many fraction bits, or small integers.
    fn element(&mut self, bits: u32, fraction: u32) -> u64 {
        let any = self.quad() >> (64 - bits);
        let (sign, low) = (any >> (bits - 1) << (bits - 1), any & 7);
        let exponents = (1 << (bits - 1 - fraction)) - 1;
        let special = match self.quad() % 12 {
            0 => 0,
            1 => low,
            2 => 1 << fraction | low,
            3 => ((exponents - 1) << fraction) + low,
            4 => (exponents << fraction) - 1,
            5 => exponents << fraction,
            6 => exponents << fraction | 1 << (fraction - 1) | low,
            7 => exponents << fraction | low,
            8 => (exponents / 2) << fraction | low,
            _ => return any,
        };
        sign | special
    }

    fn vector(&mut self, bits: u32, fraction: u32) -> [u64; 4] {
        core::array::from_fn(|_| {
            (0..64 / bits).fold(0, |quad, index| quad | self.element(bits, fraction) << (index * bits))
        })
    }
}

/// Executes with these in vector registers 1 to 4, the last also at [`BASE`], which RSI has; the result is register 1,
/// and MXCSR.
fn execute(bytes: &[u8], sources: &[[u64; 4]; 4], mxcsr: Mxcsr) -> Result<([u64; 8], Mxcsr), Exception> {
    let displaced = Displaced::decode_on(bytes, 0x40_0000, everything()).unwrap();
    assert_eq!(displaced.length(), bytes.len(), "{displaced:?}");
    let mut registers = Registers::default();
    registers.gpr[gpr::RSI] = BASE;
    registers.extended.mxcsr = mxcsr;
    let mut memory = memory([0xee; 64]);
    for (register, value) in registers.extended.vector[1..].iter_mut().zip(sources) {
        register.0 = [u64::MAX; 8];
        register.0[..4].copy_from_slice(value);
    }
    for (bytes, quad) in memory.bytes_mut().chunks_exact_mut(8).zip(sources[3]) {
        bytes.copy_from_slice(&quad.to_le_bytes());
    }
    match displaced.execute(&mut registers, &mut memory) {
        Ok(Outcome::Next) => Ok((registers.extended.vector[1].0, registers.extended.mxcsr)),
        Ok(outcome) => panic!("{displaced:?}: {outcome:?}"),
        Err(exception) => Err(exception),
    }
}

/// What every form of an instruction with four operands makes of registers 2, 3 and 4: map 3 of VEX or 8 of XOP, W
/// choosing whether the second or the third source is ModRM's, and that a register or memory.
fn four_operands(
    (escape, map, opcode, wide): (u8, u8, u8, bool),
    sources: [[u64; 4]; 3],
    mxcsr: Mxcsr,
    immediate: u8,
) -> Result<([u64; 8], Mxcsr), Exception> {
    let [first, second, third] = sources;
    let vector = 0x69 | if wide { 4 } else { 0 };
    // VEX has an implied prefix of 66, XOP none.
    let vector = if escape == 0xc4 { vector } else { vector & !1 };
    let encode = |w: u8, modrm: u8, last: u8| {
        [escape, 0xe0 | map, vector | w << 7, opcode, modrm, last << 4 | immediate]
    };
    // Register 2 is the first source in all of them.
    let none = [0x55; 4];
    let register = execute(&encode(0, 0xcb, 4), &[none, first, second, third], mxcsr);
    let memory = execute(&encode(0, 0x0e, 3), &[none, first, third, second], mxcsr);
    assert_eq!(register, memory, "{opcode:#x}: the second source in memory");
    let register_1 = execute(&encode(1, 0xcb, 4), &[none, first, third, second], mxcsr);
    let memory_1 = execute(&encode(1, 0x0e, 3), &[none, first, second, third], mxcsr);
    assert_eq!(register, register_1, "{opcode:#x}: the third source in a register");
    assert_eq!(register, memory_1, "{opcode:#x}: the third source in memory");
    register
}

fn mxcsr(random: &mut Random) -> Mxcsr {
    let any = random.quad() as u32;
    // All masked most of the time; any rounding, DAZ and FTZ.
    let masks = if any & 0xc0_0000 == 0 { any & 0x1f80 } else { 0x1f80 };
    Mxcsr::from_bits_retain(masks | any & (3 << 13 | 1 << 15 | 1 << 6))
}

/// FMA4 does what FMA3 does with its operands in the same order, VFMADD213PS, and clears what is above a scalar.
#[test]
fn fma4_is_fma3_with_a_destination_of_its_own() {
    let mut random = Random(1);
    // FMA4's opcode, that of the 213 form, and whether it is of binary64 and scalar.
    let operations = [
        (0x5c, 0xa6, [true, false]), // VFMADDSUB
        (0x5e, 0xa7, [true, false]), // VFMSUBADD
        (0x68, 0xa8, [true, true]),  // VFMADD
        (0x6c, 0xaa, [true, true]),  // VFMSUB
        (0x78, 0xac, [true, true]),  // VFNMADD
        (0x7c, 0xae, [true, true]),  // VFNMSUB
    ];
    for (four, three, [packed, scalar]) in operations {
        for double in [false, true] {
            let (bits, fraction) = if double { (64, 52) } else { (32, 23) };
            for is_scalar in [false, true] {
                if !(if is_scalar { scalar } else { packed }) {
                    continue;
                }
                for case in 0..2000 {
                    let wide = case % 2 != 0 && !is_scalar;
                    let sources = [(); 3].map(|()| random.vector(bits, fraction));
                    let mxcsr = mxcsr(&mut random);
                    let opcode = four + u8::from(double) + if is_scalar { 2 } else { 0 };
                    let result = four_operands((0xc4, 3, opcode, wide), sources, mxcsr, 0);
                    // vfmadd213ps xmm1, xmm2, xmm3: the second times the first, and the third.
                    let vector = 0x69 | u8::from(wide) << 2 | u8::from(double) << 7;
                    let bytes = [0xc4, 0xe2, vector, three + u8::from(is_scalar), 0xcb];
                    // A NaN of the first source comes first there as here, so the roles are changed.
                    let [first, second, third] = sources;
                    let sibling = execute(&bytes, &[second, first, third, [0; 4]], mxcsr);
                    let sibling = sibling.map(|(mut value, flags)| {
                        if is_scalar {
                            value[0] &= u64::MAX >> (64 - bits);
                            value[1..].fill(0);
                        }
                        (value, flags)
                    });
                    assert_eq!(result, sibling, "{opcode:#x} {sources:x?} {mxcsr:?}");
                }
            }
        }
    }
}

#[test]
fn fma4_rounds_once() {
    let mut random = Random(2);
    for _ in 0..10_000 {
        let sources = [(); 3].map(|()| random.vector(32, 23));
        let result = four_operands((0xc4, 3, 0x68, true), sources, Mxcsr::MASKS, 0).unwrap().0;
        for index in 0..8 {
            let element = |vector: &[u64]| f32::from_bits((vector[index / 2] >> (32 * (index & 1))) as u32);
            let [a, b, c] = sources.each_ref().map(|source| element(source));
            let (result, expected) = (element(&result), a.mul_add(b, c));
            let same = result.to_bits() == expected.to_bits() || result.is_nan() && expected.is_nan();
            assert!(same, "{a:e} * {b:e} + {c:e}: {result:e}, not {expected:e}");
        }
    }
}

/// As lanes of so many bits, signed or not.
fn lanes(vector: &[u64], bits: u32, signed: bool) -> Vec<i128> {
    let lane = |quad: u64, index: u32| {
        let lane = i128::from(quad) >> (index * bits) & ((1 << bits) - 1);
        if signed && lane >> (bits - 1) != 0 { lane - (1 << bits) } else { lane }
    };
    vector.iter().flat_map(|quad| (0..64 / bits).map(move |index| lane(*quad, index))).collect()
}

/// The quadwords of lanes of so many bits; they wrap around.
fn quads(lanes: impl IntoIterator<Item = i128>, bits: u32) -> [u64; 8] {
    let mut result = [0; 8];
    for (index, lane) in lanes.into_iter().enumerate() {
        let at = index * bits as usize;
        result[at / 64] |= ((lane & ((1 << bits) - 1)) as u64) << (at % 64);
    }
    result
}

#[test]
fn xop_selects_bits_and_bytes() {
    let mut random = Random(3);
    for case in 0..2000 {
        let wide = case % 2 != 0;
        let sources = [(); 3].map(|()| core::array::from_fn(|_| random.quad()));
        let [first, second, third] = sources;
        let (result, _) = four_operands((0x8f, 8, 0xa2, wide), sources, Mxcsr::MASKS, 0).unwrap();
        for index in 0..8 {
            // A bit at a time.
            let quad = |source: [u64; 4]| if index < 2 || wide && index < 4 { source[index] } else { 0 };
            let expected = (0..64).fold(0, |bits, bit| {
                let from = if quad(third) >> bit & 1 != 0 { quad(first) } else { quad(second) };
                bits | (from >> bit & 1) << bit
            });
            assert_eq!(result[index], expected, "VPCMOV {sources:x?}");
        }
        let (result, _) = four_operands((0x8f, 8, 0xa3, false), sources, Mxcsr::MASKS, 0).unwrap();
        let table: Vec<i128> =
            lanes(&first[..2], 8, false).into_iter().chain(lanes(&second[..2], 8, false)).collect();
        let reversed = |byte: i128| (0..8).fold(0, |sum, bit| sum | (byte >> bit & 1) << (7 - bit));
        let bytes = lanes(&third[..2], 8, false).into_iter().map(|selector| {
            let byte = table[(selector & 31) as usize];
            match selector / 32 {
                0 => byte,
                1 => 255 - byte,
                2 => reversed(byte),
                3 => 255 - reversed(byte),
                4 => 0,
                5 => 255,
                6 => 255 * (byte / 128),
                _ => 255 * (1 - byte / 128),
            }
        });
        assert_eq!(result, quads(bytes, 8), "VPPERM {sources:x?}");
    }
}

#[test]
fn xop_permutes_two_sources() {
    let mut random = Random(4);
    for case in 0..4000 {
        let (wide, immediate) = (case % 2 != 0, (case / 2 % 4) as u8);
        let sources = [(); 3].map(|()| core::array::from_fn(|_| random.quad()));
        for bits in [32, 64] {
            let opcode = if bits == 32 { 0x48 } else { 0x49 };
            let (result, _) =
                four_operands((0xc4, 3, opcode, wide), sources, Mxcsr::MASKS, immediate).unwrap();
            let used = if wide { 4 } else { 2 };
            let [first, second, selectors] =
                sources.each_ref().map(|source| lanes(&source[..used], bits, false));
            let expected = selectors.iter().enumerate().map(|(index, selector)| {
                // Bit 3 is the match bit, bit 2 the source, and below it is the element of the block.
                let per_block = (128 / bits) as usize;
                let element = if bits == 32 { selector & 3 } else { selector >> 1 & 1 } as usize;
                let matches = selector >> 3 & 1 == 1;
                match (immediate, matches) {
                    (2, true) | (3, false) => 0,
                    _ if selector >> 2 & 1 == 1 => second[index / per_block * per_block + element],
                    _ => first[index / per_block * per_block + element],
                }
            });
            assert_eq!(result, quads(expected, bits), "{opcode:#x} {immediate} {sources:x?}");
        }
    }
}

/// An XOP instruction of registers 2 and 3, or of 2 alone, with an immediate if there is one; its memory form, too.
fn two_operands(
    (map, opcode): (u8, u8),
    sources: [[u64; 4]; 2],
    immediate: Option<u8>,
    two: bool,
) -> [u64; 8] {
    let [first, second] = sources;
    let vector = if two { 0x68 } else { 0x78 };
    let encode = |modrm: u8| {
        let mut bytes = vec![0x8f, 0xe0 | map, vector, opcode, modrm];
        bytes.extend(immediate);
        bytes
    };
    // Register 3 is ModRM's; where there is one source it is that.
    let register = execute(&encode(0xcb), &[[0x55; 4], first, second, second], Mxcsr::MASKS).unwrap().0;
    let memory = execute(&encode(0x0e), &[[0x55; 4], first, second, second], Mxcsr::MASKS).unwrap().0;
    assert_eq!(register, memory, "{opcode:#x}");
    register
}

#[test]
fn xop_compares() {
    let mut random = Random(5);
    for _ in 0..200 {
        for (number, bits) in [8, 16, 32, 64].into_iter().enumerate() {
            for signed in [true, false] {
                let mut sources: [[u64; 4]; 2] = [(); 2].map(|()| core::array::from_fn(|_| random.quad()));
                // Equal lanes, too.
                let equal = random.quad() & random.quad();
                sources[1][0] = sources[0][0] & equal | sources[1][0] & !equal;
                sources[1][1] = if equal & 1 != 0 { sources[0][1] } else { sources[1][1] };
                for immediate in 0..8 {
                    let opcode = if signed { 0xcc } else { 0xec } + number as u8;
                    let result = two_operands((8, opcode), sources, Some(immediate | 0x40), true);
                    let [first, second] = sources.map(|source| lanes(&source[..2], bits, signed));
                    let expected = first.iter().zip(&second).map(|(first, second)| {
                        let order = first.cmp(second);
                        let holds = match immediate {
                            0 => order.is_lt(),
                            1 => order.is_le(),
                            2 => order.is_gt(),
                            3 => order.is_ge(),
                            4 => order.is_eq(),
                            5 => order.is_ne(),
                            6 => false,
                            _ => true,
                        };
                        if holds { -1 } else { 0 }
                    });
                    assert_eq!(result, quads(expected, bits), "{opcode:#x} {immediate} {sources:x?}");
                }
            }
        }
    }
}

#[test]
fn xop_rotates_and_shifts() {
    let mut random = Random(6);
    for _ in 0..500 {
        let sources: [[u64; 4]; 2] = [(); 2].map(|()| core::array::from_fn(|_| random.quad()));
        for (number, bits) in [8, 16, 32, 64].into_iter().enumerate() {
            let rotated = |lane: i128, count: i128| {
                let distance = count.rem_euclid(i128::from(bits));
                lane << distance | lane >> (i128::from(bits) - distance)
            };
            let shifted = |lane: i128, count: i128| match count < 0 {
                true => lane >> (-count % i128::from(bits)),
                false => lane << (count % i128::from(bits)),
            };
            type Expected<'a> = &'a dyn Fn(i128, i128) -> i128;
            let operations: [(u8, bool, Expected<'_>); 3] =
                [(0x90, false, &rotated), (0x94, false, &shifted), (0x98, true, &shifted)];
            for (opcode, signed, expected) in operations {
                let opcode = opcode + number as u8;
                let values = lanes(&sources[0][..2], bits, signed);
                let counts =
                    lanes(&sources[1][..2], bits, false).into_iter().map(|lane| i128::from(lane as i8));
                let expected =
                    quads(values.iter().zip(counts).map(|(lane, count)| expected(*lane, count)), bits);
                // With W the count is ModRM's, without it the other.
                let [value, count] = sources;
                let wide =
                    execute(&[0x8f, 0xe9, 0xe8, opcode, 0xcb], &[[0; 4], value, count, [0; 4]], Mxcsr::MASKS);
                assert_eq!(wide.unwrap().0, expected, "{opcode:#x} {sources:x?}");
                let narrow =
                    execute(&[0x8f, 0xe9, 0x68, opcode, 0x0e], &[[0; 4], count, [0; 4], value], Mxcsr::MASKS);
                assert_eq!(narrow.unwrap().0, expected, "{opcode:#x} in memory, {sources:x?}");
            }
            let count = random.quad() as u8;
            let result = two_operands((8, 0xc0 + number as u8), [sources[0]; 2], Some(count), false);
            let expected = lanes(&sources[0][..2], bits, false).into_iter();
            let expected = expected.map(|lane| rotated(lane, i128::from(count as i8)));
            assert_eq!(result, quads(expected, bits), "VPROT {bits} by {count:#x}, {sources:x?}");
        }
    }
}

#[test]
fn xop_multiplies_and_adds() {
    // The opcode without saturation, the source's and the sum's bits, and which parts are multiplied.
    let operations: [(u8, u32, u32, &[usize]); 6] = [
        (0x95, 16, 16, &[0]),
        (0x96, 16, 32, &[1]),
        (0x97, 32, 64, &[0]),
        (0x9e, 32, 32, &[0]),
        (0x9f, 32, 64, &[1]),
        (0xb6, 16, 32, &[0, 1]),
    ];
    let mut random = Random(7);
    for (opcode, from, to, parts) in operations {
        for saturates in [false, true] {
            let opcode = if saturates { opcode - 0x10 } else { opcode };
            for _ in 0..1000 {
                // Words and doublewords at the ends of what they can be, too.
                let sources: [[u64; 4]; 3] = [(); 3].map(|()| {
                    core::array::from_fn(|_| match random.quad() % 4 {
                        0 => 0x8000_0000_8000_8000,
                        1 => 0x7fff_ffff_ffff_7fff,
                        _ => random.quad(),
                    })
                });
                let [first, second, sum] = sources;
                let bytes = [0x8f, 0xe8, 0x68, opcode, 0xcb, 0x40];
                let result = execute(&bytes, &[[0; 4], first, second, sum], Mxcsr::MASKS).unwrap().0;
                let bytes = [0x8f, 0xe8, 0x68, opcode, 0x0e, 0x30];
                let memory = execute(&bytes, &[[0; 4], first, sum, second], Mxcsr::MASKS).unwrap().0;
                assert_eq!(result, memory, "{opcode:#x}");
                let [first, second] = [first, second].map(|source| lanes(&source[..2], from, true));
                let per_sum = (to / from) as usize;
                let expected = lanes(&sum[..2], to, true).into_iter().enumerate().map(|(index, sum)| {
                    let product =
                        |part: &usize| first[index * per_sum + part] * second[index * per_sum + part];
                    let exact = sum + parts.iter().map(product).sum::<i128>();
                    let limit = 1 << (to - 1);
                    if saturates { exact.clamp(-limit, limit - 1) } else { exact }
                });
                assert_eq!(result, quads(expected, to), "{opcode:#x} {sources:x?}");
            }
        }
    }
}

#[test]
fn xop_adds_horizontally() {
    let mut random = Random(8);
    // The opcode, the parts' and the sum's bits, whether parts are signed, and whether the second is subtracted.
    let operations = [
        (0xc1, 8, 16, true, false),
        (0xc2, 8, 32, true, false),
        (0xc3, 8, 64, true, false),
        (0xc6, 16, 32, true, false),
        (0xc7, 16, 64, true, false),
        (0xcb, 32, 64, true, false),
        (0xd1, 8, 16, false, false),
        (0xd2, 8, 32, false, false),
        (0xd3, 8, 64, false, false),
        (0xd6, 16, 32, false, false),
        (0xd7, 16, 64, false, false),
        (0xdb, 32, 64, false, false),
        (0xe1, 8, 16, true, true),
        (0xe2, 16, 32, true, true),
        (0xe3, 32, 64, true, true),
    ];
    for (opcode, from, to, signed, subtracts) in operations {
        for _ in 0..500 {
            let source: [u64; 4] = core::array::from_fn(|_| random.quad());
            let result = two_operands((9, opcode), [source; 2], None, false);
            let parts = lanes(&source[..2], from, signed);
            let sums = parts.chunks((to / from) as usize).map(|parts| match subtracts {
                true => parts[0] - parts[1],
                false => parts.iter().sum(),
            });
            assert_eq!(result, quads(sums, to), "{opcode:#x} {source:x?}");
        }
    }
}

/// VFRCZ is a number less what truncation leaves of it, which VROUND and VSUB say of numbers that are not infinite.
#[test]
fn xop_extracts_fractions() {
    let mut random = Random(9);
    for case in 0..10_000 {
        let (double, scalar) = (case % 2 != 0, case / 2 % 2 != 0);
        let (bits, fraction, number) = if double { (64, 52, 1) } else { (32, 23, 0) };
        let source = random.vector(bits, fraction);
        let mxcsr = mxcsr(&mut random);
        let opcode = 0x80 + number + if scalar { 2 } else { 0 };
        let result = execute(&[0x8f, 0xe9, 0x78, opcode, 0xcb], &[[0x55; 4], [0; 4], source, [0; 4]], mxcsr);
        // vroundps xmm1, xmm3, 3 + 8: PE is not raised. The invalid operation is raised by the subtraction.
        let masked = mxcsr | Mxcsr::MASKS;
        let bytes = [0xc4, 0xe3, 0x79, 8 + number, 0xcb, 0xb];
        let ([low, high, ..], _) = execute(&bytes, &[[0; 4], [0; 4], source, [0; 4]], masked).unwrap();
        let rounded = [low, high, 0, 0];
        // vsubps xmm1, xmm3, xmm2, or vsubss
        let prefix = match (scalar, double) {
            (false, _) => number,
            (true, false) => 2,
            (true, true) => 3,
        };
        let bytes = [0xc4, 0xe1, 0x60 | prefix, 0x5c, 0xca];
        let expected =
            execute(&bytes, &[[0; 4], rounded, source, [0; 4]], mxcsr).map(|(mut value, flags)| {
                if scalar {
                    value[0] &= u64::MAX >> (64 - bits);
                    value[1] = 0;
                }
                (value, flags)
            });
        assert_eq!(result, expected, "{opcode:#x} {source:x?} {mxcsr:?}");
    }
}

/// 3DNow! of MM1 and MM2: the result, also of the memory form. The x87 registers are MMX's then.
fn three_d_now(suffix: u8, first: u64, second: u64) -> u64 {
    let [register, memory] = [0xca, 0x0e].map(|modrm| {
        let bytes = [0x0f, 0x0f, modrm, suffix];
        let displaced = Displaced::decode_on(&bytes, 0x40_0000, everything()).unwrap();
        let mut registers = Registers::default();
        registers.gpr[gpr::RSI] = BASE;
        let x87 = &mut registers.extended.x87;
        x87.status = 3 << 11;
        x87.r[1].significand = first;
        x87.r[2].significand = second;
        let mut memory = memory([0; 64]);
        memory.bytes_mut()[..8].copy_from_slice(&second.to_le_bytes());
        assert_eq!(displaced.execute(&mut registers, &mut memory), Ok(Outcome::Next), "{displaced:?}");
        let x87 = &registers.extended.x87;
        assert_eq!((x87.status, x87.tag, x87.r[1].sign_exponent), (0, 0xff, 0xffff), "{displaced:?}");
        assert_eq!(registers.extended.mxcsr, Registers::default().extended.mxcsr, "{displaced:?}");
        x87.r[1].significand
    });
    assert_eq!(register, memory, "{suffix:#x}");
    register
}

fn pair(quad: u64) -> [u32; 2] {
    [quad as u32, (quad >> 32) as u32]
}

fn quad([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// A number that 3DNow! has, zeros included, as the binary64 that it is.
fn value(bits: u32) -> f64 {
    let number = f32::from_bits(bits);
    if number.is_subnormal() { f64::from(0.0_f32.copysign(number)) } else { f64::from(number) }
}

/// The exact number, or one as near to it as binary64 can say, as 3DNow! has it.
fn rounded(exact: f64) -> u32 {
    let nearest = exact as f32;
    if nearest.is_infinite() {
        f32::MAX.copysign(nearest).to_bits()
    } else if nearest.is_subnormal() {
        0.0_f32.copysign(nearest).to_bits()
    } else {
        nearest.to_bits()
    }
}

/// A sum of which nothing is left has the sign of the first source.
fn sum(first: u32, second: u32) -> u32 {
    let (left, right) = (value(first), value(second));
    if left != 0.0 && left == -right { rounded(0.0_f64.copysign(left)) } else { rounded(left + right) }
}

#[test]
fn three_d_now_computes() {
    let negated = |bits: u32| bits ^ 1 << 31;
    let compared = |holds: bool| if holds { u32::MAX } else { 0 };
    let positive = |number: f64| if number == 0.0 { 0 } else { (number as f32).to_bits() };
    let mut random = Random(10);
    let number = |random: &mut Random| loop {
        let bits = random.element(32, 23) as u32;
        if f32::from_bits(bits).is_finite() {
            return bits;
        }
    };
    for case in 0..20_000 {
        let mut first = [number(&mut random), number(&mut random)];
        let mut second = [number(&mut random), number(&mut random)];
        if case % 4 == 0 {
            // Of like magnitude, or the same.
            second = first.map(|bits| bits ^ (random.quad() as u32 & 0x8000_0003));
            first[1] = negated(second[0]);
        }
        let each = |operation: &dyn Fn(u32, u32) -> u32| {
            quad([operation(first[0], second[0]), operation(first[1], second[1])])
        };
        let ([a, b], [c, d]) = (first, second);
        let expected = [
            (0x9e, each(&sum)),
            (0x9a, each(&|a, b| sum(a, negated(b)))),
            (0xaa, each(&|a, b| sum(b, negated(a)))),
            (0xb4, each(&|a, b| rounded(value(a) * value(b)))),
            (0xae, quad([sum(a, b), sum(c, d)])),
            (0x8a, quad([sum(a, negated(b)), sum(c, negated(d))])),
            (0x8e, quad([sum(a, negated(b)), sum(c, d)])),
            (0xb0, each(&|a, b| compared(value(a) == value(b)))),
            (0x90, each(&|a, b| compared(value(a) >= value(b)))),
            (0xa0, each(&|a, b| compared(value(a) > value(b)))),
            (0xa4, each(&|a, b| positive(value(a).max(value(b))))),
            (0x94, each(&|a, b| positive(value(a).min(value(b))))),
            (0x1d, each(&|_, b| value(b).trunc().clamp(-2_147_483_648.0, 2_147_483_647.0) as i32 as u32)),
            (0x1c, each(&|_, b| value(b).trunc().clamp(-32_768.0, 32_767.0) as i32 as u32)),
            (0xbb, quad([d, c])),
        ];
        for (suffix, expected) in expected {
            let result = three_d_now(suffix, quad(first), quad(second));
            assert_eq!(result, expected, "{suffix:#x} {first:x?} {second:x?}: {result:x} {expected:x}");
        }
    }
}

#[test]
fn three_d_now_converts_integers_and_works_on_them() {
    let mut random = Random(11);
    for _ in 0..20_000 {
        let (first, second) = (random.quad(), random.quad() >> (random.quad() % 40));
        // The nearest number below in magnitude.
        let truncated = |integer: i32| {
            let nearest = integer as f32;
            let beyond = f64::from(nearest).abs() > f64::from(integer).abs();
            nearest.to_bits() - u32::from(beyond)
        };
        assert_eq!(three_d_now(0x0d, first, second), quad(pair(second).map(|lane| truncated(lane as i32))));
        let words = pair(second).map(|lane| f32::from(lane as i16).to_bits());
        assert_eq!(three_d_now(0x0c, first, second), quad(words));
        let [a, b] = [first, second].map(u64::to_le_bytes);
        let averages =
            core::array::from_fn(|index| (u32::from(a[index]) + u32::from(b[index])).div_ceil(2) as u8);
        assert_eq!(three_d_now(0xbf, first, second), u64::from_le_bytes(averages));
        let [a, b] = [first, second].map(|source| lanes(&[source], 16, true));
        let products = a.iter().zip(&b).map(|(a, b)| (a * b + 0x8000) >> 16);
        assert_eq!(three_d_now(0xb7, first, second), quads(products, 16)[0]);
    }
}

/// FEMMS ends MMX as EMMS does.
#[test]
fn femms() {
    let displaced = Displaced::decode_on(&[0x0f, 0x0e], 0, everything()).unwrap();
    let mut registers = Registers::default();
    registers.extended.x87.tag = 0xff;
    assert_eq!(displaced.execute(&mut registers, &mut memory([0; 64])), Ok(Outcome::Next));
    assert_eq!(registers.extended.x87.tag, 0);
}

/// None of them is there on a processor that does not say so.
#[test]
fn what_the_processor_lacks_is_undefined() {
    let processor = Processor::with_no_feature(Vendor::Amd).leak();
    for bytes in [
        &[0xc4, 0xe3, 0x69, 0x68, 0xcb, 0x40][..], // vfmaddps xmm1, xmm2, xmm3, xmm4
        &[0x8f, 0xe8, 0x68, 0xa2, 0xcb, 0x40],     // vpcmov xmm1, xmm2, xmm3, xmm4
        &[0x8f, 0xe9, 0x78, 0x01, 0xc9],           // blcfill eax, ecx
        &[0x0f, 0x0f, 0xca, 0x9e],                 // pfadd mm1, mm2
        &[0x0f, 0x0e],                             // femms
    ] {
        let displaced = Displaced::decode_on(bytes, 0, processor).unwrap();
        let result = displaced.execute(&mut Registers::default(), &mut memory([0; 64]));
        assert_eq!(result, Err(Exception::InvalidOpcode), "{displaced:?}");
    }
}
