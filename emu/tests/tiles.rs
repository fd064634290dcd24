//! AMX: loads and stores of tiles that stop at a fault, products that no processor at hand has, and threads without tiles.

use emu::registers::{TileConfig, gpr};
use emu::{Displaced, Exception, FlatMemory, Outcome, Processor, Registers, Rflags, Touches, Vendor};

const START: u64 = 0x1000;
const END: u64 = 0x4000;

/// Memory of zeros.
fn zeros() -> FlatMemory {
    FlatMemory::new(START, (END - START) as usize)
}

/// Memory in which every byte differs from its neighbours.
fn pages() -> FlatMemory {
    let mut pages = zeros();
    pages
        .bytes_mut()
        .iter_mut()
        .enumerate()
        .for_each(|(place, byte)| *byte = (place * 7 + place / 256) as u8);
    pages
}

fn decode(bytes: &[u8]) -> Displaced {
    Displaced::decode_on(bytes, 0x40_0000, Processor::with_every_feature(Vendor::Intel).leak()).unwrap()
}

/// The rows, and the bytes of each, of TMM0, TMM1 and TMM2.
type Sizes = [(u8, u16); 3];

fn configured(sizes: Sizes) -> Registers {
    let mut registers = Registers::default();
    registers.extended.tiles.data.make_room();
    let TileConfig(config) = &mut registers.extended.tiles.config;
    config[0] = 1;
    for (tile, (rows, bytes)) in sizes.into_iter().enumerate() {
        config[48 + tile] = rows;
        config[16 + 2 * tile..][..2].copy_from_slice(&bytes.to_le_bytes());
    }
    registers
}

const TILELOADD: &[u8] = &[0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0x08]; // tileloadd tmm1, [rax+rcx]
const TILESTORED: &[u8] = &[0xc4, 0xe2, 0x7a, 0x4b, 0x0c, 0x08]; // tilestored [rax+rcx], tmm1
const LDTILECFG: &[u8] = &[0xc4, 0xe2, 0x78, 0x49, 0x00]; // ldtilecfg [rax]
const XSAVEC: &[u8] = &[0x0f, 0xc7, 0x23]; // xsavec [rbx]
const XRSTOR: &[u8] = &[0x0f, 0xae, 0x2b]; // xrstor [rbx]

#[test]
fn a_load_goes_on_with_the_row_that_faulted() {
    let load = decode(TILELOADD);
    assert!(load.touches().contains(Touches::TILES | Touches::MEMORY_READ));
    let (mut registers, mut memory) = (configured([(0, 0), (6, 12), (0, 0)]), pages());
    let before = [[0x55; 64]; 16];
    registers.extended.tiles.data.tiles_mut().unwrap()[1] = before;
    registers.gpr[gpr::RAX] = END - 0x180;
    registers.gpr[gpr::RCX] = 0x80;
    let fault = Exception::PageFault { address: END, error_code: 4 };
    assert_eq!(load.execute(&mut registers, &mut memory), Err(fault));
    assert_eq!(registers.extended.tiles.config.0[1], 3);
    let row = |address: u64, bytes: usize| {
        let mut row = [0; 64];
        row[..bytes].copy_from_slice(&memory.bytes()[(address - START) as usize..][..bytes]);
        row
    };
    let loaded = |start: u64| -> [[u8; 64]; 3] { [0, 1, 2].map(|n| row(start + n * 0x80, 12)) };
    let tile = registers.extended.tiles.data.tiles().unwrap()[1];
    assert_eq!(tile[..3], loaded(END - 0x180));
    assert_eq!(tile[3..], [[0; 64]; 13]);
    // The rows that are done are not done again, wherever they now lie.
    registers.gpr[gpr::RAX] = START;
    assert_eq!(load.execute(&mut registers, &mut pages()), Ok(Outcome::Next));
    let tile = registers.extended.tiles.data.tiles().unwrap()[1];
    assert_eq!(tile[..3], loaded(END - 0x180));
    assert_eq!(tile[3..6], loaded(START + 3 * 0x80));
    assert_eq!((registers.extended.tiles.config.0[1], tile[6]), (0, [0; 64]));
}

#[test]
fn a_store_goes_on_with_the_row_that_faulted() {
    let store = decode(TILESTORED);
    let (mut registers, mut memory) = (configured([(0, 0), (4, 8), (0, 0)]), pages());
    let tile = core::array::from_fn(|row| [0x80 | row as u8; 64]);
    registers.extended.tiles.data.tiles_mut().unwrap()[1] = tile;
    // Rows go down in memory, and the third lies before its start.
    registers.gpr[gpr::RAX] = START + 0x10;
    registers.gpr[gpr::RCX] = 0x10u64.wrapping_neg();
    let expected = pages();
    let fault = Exception::PageFault { address: START - 0x10, error_code: 6 };
    assert_eq!(store.execute(&mut registers, &mut memory), Err(fault));
    assert_eq!(registers.extended.tiles.config.0[1], 2);
    assert_eq!(memory.bytes()[0x10..0x18], [0x80; 8]);
    assert_eq!(memory.bytes()[..8], [0x81; 8]);
    assert_eq!(memory.bytes()[8..0x10], expected.bytes()[8..0x10]);
    assert_eq!(registers.extended.tiles.data.tiles().unwrap()[1], tile);
    registers.gpr[gpr::RAX] = START + 0x100;
    assert_eq!(store.execute(&mut registers, &mut memory), Ok(Outcome::Next));
    assert_eq!(memory.bytes()[0xd0..0xd8], [0x83; 8]);
    assert_eq!(memory.bytes()[0x100..0x110], expected.bytes()[0x100..0x110], "it was done before");
    // There is no such row.
    registers.extended.tiles.config.0[1] = 4;
    assert_eq!(store.execute(&mut registers, &mut memory), Err(Exception::InvalidOpcode));
}

/// The debug exception is pending since the first row, and comes before the fault.
#[test]
fn a_step_ends_before_the_row_that_faults() {
    let load = decode(TILELOADD);
    let (mut registers, mut memory) = (configured([(0, 0), (6, 12), (0, 0)]), pages());
    registers.gpr[gpr::RAX] = END - 0x180;
    registers.gpr[gpr::RCX] = 0x80;
    registers.rflags |= Rflags::TF;
    assert_eq!(load.execute(&mut registers, &mut memory), Ok(Outcome::Again));
    assert_eq!((registers.rip, registers.extended.tiles.config.0[1]), (load.ip(), 3));
    let fault = Exception::PageFault { address: END, error_code: 4 };
    assert_eq!(load.execute(&mut registers, &mut memory), Err(fault));
    assert_eq!(registers.extended.tiles.config.0[1], 3);
}

/// As an Emerald Rapids chooses: the left one of a product before the right one, both before what they are added to, and
/// the destination, the low words and the high words in this order.
#[test]
fn of_several_nans_one_is_the_result() {
    const TDPBF16PS: &[u8] = &[0xc4, 0xe2, 0x6a, 0x5c, 0xc1]; // tdpbf16ps tmm0, tmm1, tmm2
    let nan = |payload: u16| 0x7f80 | payload;
    let one = 0x3f80;
    // Destination; low and high words of the left and of the right one, for two products each.
    let cases = [
        (0, [(one, one), (one, one)], [(one, one), (one, one)], 0x4080_0000),
        (0, [(nan(1), one), (one, one)], [(nan(2), one), (one, one)], 0x7fc1_0000),
        (0, [(one, one), (nan(1), one)], [(nan(2), one), (one, one)], 0x7fc1_0000),
        (0, [(nan(1), one), (one, one)], [(one, one), (nan(2), one)], 0x7fc2_0000),
        (0, [(one, nan(1)), (one, one)], [(one, one), (nan(2), one)], 0x7fc2_0000),
        (0xff80_0003, [(nan(1), one), (one, one)], [(one, one), (one, one)], 0xffc0_0003),
    ];
    for (destination, left, right, expected) in cases {
        let mut registers = configured([(1, 4), (1, 8), (2, 4)]);
        let tiles = registers.extended.tiles.data.tiles_mut().unwrap();
        let pair = |(low, high): (u16, u16)| u32::from(high) << 16 | u32::from(low);
        tiles[0][0][..4].copy_from_slice(&u32::to_le_bytes(destination));
        for number in 0..2 {
            tiles[1][0][4 * number..][..4].copy_from_slice(&pair(left[number]).to_le_bytes());
            tiles[2][number][..4].copy_from_slice(&pair(right[number]).to_le_bytes());
        }
        assert_eq!(decode(TDPBF16PS).execute(&mut registers, &mut zeros()), Ok(Outcome::Next));
        let result = registers.extended.tiles.data.tiles().unwrap()[0][0];
        assert_eq!(result[..4], u32::to_le_bytes(expected), "{left:x?} {right:x?}");
    }
}

/// An integer of half precision.
fn half(integer: i32) -> u16 {
    let magnitude = integer.unsigned_abs();
    let sign = if integer < 0 { 0x8000 } else { 0 };
    match magnitude.checked_ilog2() {
        None => sign,
        Some(exponent) => sign | (((exponent + 15) << 10) | ((magnitude << (10 - exponent)) & 0x3ff)) as u16,
    }
}

/// What `bytes`, a product of TMM1 and TMM2 that is added to TMM0, comes to where each pair of words is a number, and
/// `expected` says what two of them contribute.
fn product(bytes: &[u8], expected: fn([i32; 2], [i32; 2]) -> i32) {
    let (rows, inner, columns) = (3, 4, 5);
    let mut registers = configured([(rows as u8, 20), (rows as u8, 16), (inner as u8, 20)]);
    let left = |row: usize, k: usize| [(row * 5 + k * 3) as i32 % 11 - 5, (row * 2 + k * 7) as i32 % 13 - 6];
    let right = |k: usize, column: usize| {
        [(k * 4 + column * 9) as i32 % 17 - 8, (k * 11 + column * 2) as i32 % 7 - 3]
    };
    let tiles = registers.extended.tiles.data.tiles_mut().unwrap();
    tiles[0] = [[0x77; 64]; 16];
    let mut put = |tile: usize, row: usize, place: usize, pair: [i32; 2]| {
        let words = pair.map(|word| half(word).to_le_bytes());
        tiles[tile][row][4 * place..][..4].copy_from_slice(words.as_flattened());
    };
    for k in 0..inner {
        (0..rows).for_each(|row| put(1, row, k, left(row, k)));
        (0..columns).for_each(|column| put(2, k, column, right(k, column)));
    }
    let start = |row: usize, column: usize| (row * 100 + column) as f32;
    for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
        let bytes = start(row, column).to_le_bytes();
        tiles[0][row][4 * column..][..4].copy_from_slice(&bytes);
    }
    let displaced = decode(bytes);
    assert_eq!(displaced.execute(&mut registers, &mut pages()), Ok(Outcome::Next), "{displaced:?}");
    let result = registers.extended.tiles.data.tiles().unwrap()[0];
    for (row, bytes) in result.iter().enumerate() {
        for (column, bytes) in bytes.as_chunks().0.iter().enumerate() {
            let sum: i32 = (0..inner).map(|k| expected(left(row, k), right(k, column))).sum();
            let inside = row < rows && column < columns;
            let expected = if inside { start(row, column) + sum as f32 } else { 0.0 };
            assert_eq!(f32::from_le_bytes(*bytes), expected, "{displaced:?}: {row}, {column}");
        }
    }
}

#[test]
fn products_of_half_precision() {
    product(&[0xc4, 0xe2, 0x6b, 0x5c, 0xc1], |[a, b], [c, d]| a * c + b * d); // tdpfp16ps tmm0, tmm1, tmm2
    product(&[0xc4, 0xe2, 0x68, 0x6c, 0xc1], |[a, b], [c, d]| a * c - b * d); // tcmmrlfp16ps
    product(&[0xc4, 0xe2, 0x69, 0x6c, 0xc1], |[a, b], [c, d]| a * d + b * c); // tcmmimfp16ps
}

#[test]
fn a_thread_without_tiles_executes_what_needs_them_itself() {
    for bytes in [TILELOADD, LDTILECFG, &[0xc4, 0xe2, 0x78, 0x49, 0xc0]] {
        let mut registers = Registers::default();
        registers.gpr[gpr::RAX] = START;
        registers.rip = 0x40_0000;
        let before = registers.clone();
        assert_eq!(decode(bytes).execute(&mut registers, &mut pages()), Ok(Outcome::Native));
        assert_eq!(registers, before);
    }
}

#[test]
fn what_is_saved_is_restored() {
    const COMPONENTS: u64 = 0b11 << 17;
    let mut registers = configured([(16, 64), (16, 64), (3, 4)]);
    for (number, row) in
        registers.extended.tiles.data.tiles_mut().unwrap().as_flattened_mut().iter_mut().enumerate()
    {
        *row = core::array::from_fn(|byte| (number * 67 + byte * 3) as u8);
    }
    registers.gpr[gpr::RAX] = COMPONENTS;
    registers.gpr[gpr::RBX] = START;
    let saved = registers.extended.tiles.clone();
    let mut memory = zeros();
    assert_eq!(decode(XSAVEC).execute(&mut registers, &mut memory), Ok(Outcome::Next));
    assert_eq!(
        memory.bytes()[512..528],
        [COMPONENTS.to_le_bytes(), (COMPONENTS | 1 << 63).to_le_bytes()].concat()
    );
    registers.extended.tiles = Registers::default().extended.tiles;
    registers.extended.tiles.data.make_room();
    assert_eq!(decode(XRSTOR).execute(&mut registers, &mut memory), Ok(Outcome::Next));
    assert_eq!(registers.extended.tiles, saved);
    // What becomes of a configuration that LDTILECFG would not take only the processor knows.
    memory.bytes_mut()[576] = 2;
    assert_eq!(decode(XRSTOR).execute(&mut registers, &mut memory), Ok(Outcome::Native));
    memory.bytes_mut()[576] = 1;
    // The image does not have them: they become zeros.
    memory.bytes_mut()[512..520].fill(0);
    assert_eq!(decode(XRSTOR).execute(&mut registers, &mut memory), Ok(Outcome::Next));
    assert_eq!(registers.extended.tiles, Registers::default().extended.tiles);
}

#[test]
fn whatever_the_configuration_is_it_completes_or_faults() {
    let opcodes: [&[u8]; 12] = [
        LDTILECFG,
        &[0xc4, 0xe2, 0x79, 0x49, 0x00], // sttilecfg [rax]
        &[0xc4, 0xe2, 0x7b, 0x49, 0xc8], // tilezero tmm1
        TILELOADD,
        TILESTORED,
        &[0x67, 0xc4, 0xe2, 0x7b, 0x4b, 0x0c, 0xc8], // tileloadd tmm1, [eax+ecx*8]
        &[0xc4, 0xe2, 0x6b, 0x5e, 0xc1],             // tdpbssd tmm0, tmm1, tmm2
        &[0xc4, 0xe2, 0x68, 0x5e, 0xc1],             // tdpbuud
        &[0xc4, 0xe2, 0x6a, 0x5c, 0xc1],             // tdpbf16ps
        &[0xc4, 0xe2, 0x6b, 0x5c, 0xc1],             // tdpfp16ps
        XSAVEC,
        XRSTOR,
    ];
    let displaced = opcodes.map(decode);
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state >> 32
    };
    let (mut completed, mut faulted) = ([0; 12], [0; 12]);
    for round in 0..4000 {
        // Mostly configurations that are valid or nearly so.
        let sizes = [0; 3].map(|_| (random() as u8 % 18, 4 * (random() % 18) as u16));
        let square = round % 2 == 0;
        let mut registers = configured(if square { [(8, 32); 3] } else { sizes });
        for _ in 0..random() % 3 {
            registers.extended.tiles.config.0[(random() % 64) as usize] = random() as u8;
        }
        for row in registers.extended.tiles.data.tiles_mut().unwrap().as_flattened_mut() {
            *row = core::array::from_fn(|_| random() as u8);
        }
        registers.gpr[gpr::RAX] = START + random() % 0x3400;
        registers.gpr[gpr::RCX] = if random() % 4 == 0 { random() << 40 } else { random() % 0x200 };
        registers.gpr[gpr::RBX] = START & !63;
        let mut memory = pages();
        memory.bytes_mut()[512..576].fill(0);
        for (index, displaced) in displaced.iter().enumerate() {
            match displaced.execute(&mut registers, &mut memory) {
                Ok(Outcome::Next) => completed[index] += 1,
                Ok(outcome) => assert_eq!((outcome, index), (Outcome::Native, 11), "{displaced:?}"),
                Err(_) => faulted[index] += 1,
            }
            assert!(registers.rip <= 0x40_0007);
        }
    }
    assert!(completed.iter().all(|count| *count > 0), "{completed:?}");
    assert!(faulted[3..10].iter().all(|count| *count > 0), "{faulted:?}");
}
