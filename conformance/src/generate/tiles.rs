//! Configurations of tiles, what lies in tiles, and tiles in memory.

use emu::Registers;
use emu::registers::{ROW_LENGTH, ROWS, TILES, Tile, TileConfig, Tiles};
use iced_x86::{
    CodeSize, Instruction, InstructionInfoFactory, InstructionInfoOptions, Mnemonic, OpKind, UsedMemory,
};

use super::values::{self, Lanes};
use super::{address, image, related};
use crate::oracle::Case;
use crate::oracle::places::PAGE;
use crate::rng::Rng;

/// Where a configuration has the row to start with, the bytes per row of TMM0, two bytes for each tile, and the rows of
/// TMM0, one byte for each tile.
const START_ROW: usize = 1;
const COLUMNS: usize = 16;
const HEIGHTS: usize = 48;

/// The rows of a tile, and the bytes of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    rows: usize,
    bytes: usize,
}

fn size(config: &TileConfig, tile: usize) -> Size {
    let at = COLUMNS + 2 * tile;
    Size {
        rows: config.0[HEIGHTS + tile].into(),
        bytes: u16::from_le_bytes([config.0[at], config.0[at + 1]]).into(),
    }
}

fn set_size(config: &mut TileConfig, tile: usize, size: Size) {
    config.0[HEIGHTS + tile] = size.rows as u8;
    config.0[COLUMNS + 2 * tile..][..2].copy_from_slice(&(size.bytes as u16).to_le_bytes());
}

/// One to sixteen, which is the most that a tile has of rows and of doublewords in a row, and often just that.
fn extent(rng: &mut Rng) -> usize {
    if rng.chance(25) { ROWS } else { 1 + rng.below(ROWS as u64) as usize }
}

/// A valid configuration.
pub(super) fn config(rng: &mut Rng) -> TileConfig {
    let mut config = TileConfig::default();
    config.0[0] = 1;
    if rng.chance(15) {
        config.0[START_ROW] = rng.below(ROWS as u64 + 2) as u8;
    }
    for tile in 0..TILES {
        let (rows, bytes) = match rng.below(20) {
            0..16 => (extent(rng), 4 * extent(rng)),
            16 | 17 => (extent(rng), 1 + rng.below(ROW_LENGTH as u64) as usize),
            _ => (0, 0),
        };
        set_size(&mut config, tile, Size { rows, bytes });
    }
    config
}

/// What LDTILECFG finds in memory: a valid configuration, or one with something wrong.
fn in_memory(rng: &mut Rng) -> [u8; 64] {
    let TileConfig(mut bytes) = config(rng);
    match rng.below(10) {
        0..6 => {}
        6 => bytes[0] = rng.pick(&[0, 0, 2, 0xff]),
        7 => bytes[START_ROW] = rng.u64() as u8,
        8 => bytes[HEIGHTS + rng.below(TILES as u64) as usize] = rng.pick(&[0, 17, 16]),
        _ => bytes[rng.below(64) as usize] ^= 1 << rng.below(8),
    }
    bytes
}

/// Any state of the tiles.
pub(super) fn any(tiles: &mut Tiles, rng: &mut Rng) {
    tiles.config = config(rng);
    for tile in 0..TILES {
        let lanes = Lanes::draw(rng);
        fill(tiles, tile, lanes, rng);
    }
}

/// Fills a tile as far as it is configured.
fn fill(tiles: &mut Tiles, tile: usize, lanes: Lanes, rng: &mut Rng) {
    let size = size(&tiles.config, tile);
    let rows = tiles.data.tiles_mut().and_then(|tiles| tiles.get_mut(tile)).into_iter().flatten();
    for row in rows.take(size.rows) {
        fill_bytes(&mut row[..size.bytes.min(ROW_LENGTH)], lanes, rng);
    }
}

fn fill_bytes(bytes: &mut [u8], lanes: Lanes, rng: &mut Rng) {
    for part in bytes.chunks_mut(8) {
        part.copy_from_slice(&lanes.quad(rng).to_le_bytes()[..part.len()]);
    }
}

/// Fills a tile whatever its size: only XRSTOR can have done that.
fn fill_all(tiles: &mut Tiles, tile: usize, lanes: Lanes, rng: &mut Rng) {
    let rows: Option<&mut Tile> = tiles.data.tiles_mut().and_then(|tiles| tiles.get_mut(tile));
    rows.into_iter().flatten().for_each(|row| fill_bytes(row, lanes, rng));
}

/// What the numbers are that a product multiplies and those that it adds to.
fn numbers(mnemonic: Mnemonic, rng: &mut Rng) -> Option<[Lanes; 2]> {
    use Mnemonic as M;
    let (bits, fraction, special) = match mnemonic {
        M::Tdpbssd | M::Tdpbsud | M::Tdpbusd | M::Tdpbuud => {
            let bytes = rng.pick(&[Lanes::Integer(8), Lanes::Integer(8), Lanes::Random]);
            return Some([bytes, rng.pick(&[Lanes::Integer(32), Lanes::Random])]);
        }
        M::Tdpbf16ps => (16, 7, Lanes::Brain),
        M::Tdpfp16ps | M::Tcmmrlfp16ps | M::Tcmmimfp16ps => (16, 10, Lanes::Half),
        _ => return None,
    };
    Some(match rng.below(10) {
        0..4 => [Lanes::Moderate(bits, fraction), Lanes::Moderate(32, 23)],
        4 | 5 => [Lanes::Moderate(bits, fraction), Lanes::Single],
        6 | 7 => [Lanes::Extreme(bits, fraction), Lanes::Extreme(32, 23)],
        8 => [special, Lanes::Single],
        _ => [Lanes::Random, Lanes::Random],
    })
}

/// Gives the tiles that a product names sizes that fit.
fn fit(config: &mut TileConfig, [to, left, right]: [usize; 3], rng: &mut Rng) {
    let (rows, inner, columns) = (extent(rng), extent(rng), extent(rng));
    set_size(config, to, Size { rows, bytes: 4 * columns });
    set_size(config, left, Size { rows, bytes: 4 * inner });
    set_size(config, right, Size { rows: inner, bytes: 4 * columns });
}

/// Gives tiles, and memory that becomes tiles or their configuration, what makes the instruction do something.
pub(super) fn operands(
    case: &mut Case,
    instruction: &Instruction,
    info: &mut InstructionInfoFactory,
    rng: &mut Rng,
) {
    use Mnemonic as M;
    let named: Vec<usize> = (0..instruction.op_count())
        .filter(|number| instruction.op_kind(*number) == OpKind::Register)
        .map(|number| instruction.op_register(number))
        .filter(|register| register.is_tmm())
        .map(|register| register.number())
        .collect();
    let mnemonic = instruction.mnemonic();
    let saves = image::has_image(instruction) || mnemonic == M::Xgetbv;
    let configures = matches!(mnemonic, M::Ldtilecfg | M::Sttilecfg | M::Tilerelease);
    let is_drawn = !named.is_empty() || configures || saves && rng.chance(50);
    // Otherwise they are as after TILERELEASE.
    if !is_drawn || rng.chance(5) {
        return;
    }
    let tiles = &mut case.registers.extended.tiles;
    tiles.config = config(rng);
    if let [to, left, right] = named[..]
        && rng.chance(90)
    {
        fit(&mut tiles.config, [to, left, right], rng);
    }
    let numbers = numbers(mnemonic, rng);
    let beyond = rng.chance(5);
    for tile in (0..TILES).filter(|tile| named.is_empty() || named.contains(tile)) {
        let lanes = match numbers {
            Some([_, sums]) if named.first() == Some(&tile) => sums,
            Some([factors, _]) => factors,
            None => Lanes::draw(rng),
        };
        if beyond { fill_all(tiles, tile, lanes, rng) } else { fill(tiles, tile, lanes, rng) }
    }
    let used = info.info_options(instruction, InstructionInfoOptions::NO_REGISTER_USAGE).used_memory();
    let Some(memory) = used.first() else { return };
    match (mnemonic, &named[..]) {
        (M::Tileloadd | M::Tileloaddt1 | M::Tilestored, [tile]) => {
            let size = size(&case.registers.extended.tiles.config, *tile);
            rows(&mut case.registers, memory, size, rng);
        }
        (M::Ldtilecfg, _) if rng.chance(90) => {
            let place = address::linear(memory, &case.registers);
            case.patches.extend(place.and_then(|start| related::patch(start, &in_memory(rng))));
        }
        _ => {}
    }
}

/// How far apart the rows of a tile lie in memory.
fn stride(size: Size, rng: &mut Rng) -> u64 {
    let bytes = size.bytes as u64;
    match rng.below(16) {
        0..4 => bytes,
        4..6 => ROW_LENGTH as u64,
        6..9 => rng.below(256),
        9 => 0,
        10 => bytes.wrapping_neg(),
        11 | 12 => rng.below(256).wrapping_neg(),
        13 => PAGE / 2 + rng.below(128),
        14 => rng.below(128).wrapping_sub(64 + PAGE),
        _ => values::integer(64, rng),
    }
}

/// Puts some row of a tile to where an operand is worth having, and the others before and behind it.
fn rows(registers: &mut Registers, memory: &UsedMemory, size: Size, rng: &mut Rng) {
    let (base, index) = (memory.base(), memory.index());
    if !base.is_gpr() || base.full_register() == index.full_register() {
        return;
    }
    let mut distance = 0;
    if index.is_gpr() {
        let scale = u64::from(memory.scale().max(1));
        let steps = ((stride(size, rng) as i64) / scale as i64) as u64;
        let narrow = memory.address_size() != CodeSize::Code64;
        let place = &mut registers.gpr[index.full_register().number()];
        *place = if narrow { *place & !0xffff_ffff | steps & 0xffff_ffff } else { steps };
        distance = steps.wrapping_mul(scale);
    }
    let row = rng.below(size.rows.max(1) as u64);
    let target = address::target(size.bytes.max(1) as u64, rng);
    // What `solve` puts to its target is where the second row begins: the first one is without the index.
    let first = target.wrapping_sub(row.wrapping_mul(distance));
    address::solve(memory, first.wrapping_add(distance), registers);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use emu::xsave::{Layout, feature};
    use emu::{Displaced, Exception, Outcome, Processor};
    use iced_x86::{Code, CpuidFeature};

    use super::*;
    use crate::codes;
    use crate::generate::{Generator, Sample};
    use crate::memory::Model;
    use crate::oracle::places::IMAGE_LENGTH;

    const CASES: u64 = 512;

    /// A processor with AMX, and how it lays out its state.
    fn with_tiles() -> (&'static Processor, Layout) {
        let processor = Processor::with_every_feature(emu::Vendor::Intel).leak();
        let layout = Layout::new(feature::ALL, |number| {
            let row = processor.components.rows().find(|(component, ..)| *component == number as usize);
            row.map_or((0, 0), |(_, size, offset)| (size as usize, offset as usize))
        });
        (processor, layout)
    }

    /// What became of cases of one encoding.
    #[derive(Default, Debug)]
    struct Ends {
        completed: u64,
        changed: u64,
        undefined: u64,
        protection: u64,
        /// A page fault at a row that is not the first.
        in_the_middle: u64,
        page: u64,
        /// Results that are infinite or no numbers, and those that are neither.
        special: u64,
        normal: u64,
    }

    fn ends(code: Code) -> Ends {
        let (processor, layout) = with_tiles();
        let mut generator = Generator::new(&layout, 0xffff);
        let mut memory = Box::new([0; IMAGE_LENGTH]);
        Generator::memory(code, 0, 3, &mut memory);
        let mut model = Model::new(&memory);
        let mut ends = Ends::default();
        for number in 0..CASES {
            let Some(sample) = generator.case(code, number, 3) else { continue };
            let Ok(displaced) = Displaced::decode_on(sample.bytes(), sample.ip, processor) else { continue };
            assert!(sample.case.patches.len() <= 4);
            ends.add(&displaced, &sample, &mut model);
        }
        ends
    }

    impl Ends {
        fn add(&mut self, displaced: &Displaced, sample: &Sample, model: &mut Model) {
            model.undo();
            sample.case.patches.iter().for_each(|patch| model.patch(patch));
            let before = &sample.case.registers;
            let mut after = before.clone();
            match displaced.execute(&mut after, model) {
                Ok(Outcome::Next) => {
                    self.completed += 1;
                    let is_changed = before.extended.tiles != after.extended.tiles;
                    self.changed += u64::from(is_changed || !model.differences(&[]).is_empty());
                    let to = sample.instruction.op0_register();
                    if to.is_tmm() {
                        let number = after.extended.tiles.data.tiles().unwrap()[to.number()][0].first_chunk();
                        let number = f32::from_le_bytes(*number.unwrap());
                        *if number.is_finite() { &mut self.normal } else { &mut self.special } += 1;
                    }
                }
                Err(Exception::InvalidOpcode) => self.undefined += 1,
                Err(Exception::GeneralProtection(_)) => self.protection += 1,
                Err(Exception::PageFault { .. }) => {
                    self.page += 1;
                    let started = before.extended.tiles.config.0[START_ROW];
                    self.in_the_middle += u64::from(after.extended.tiles.config.0[START_ROW] > started);
                }
                other => assert!(matches!(other, Err(Exception::StackFault(_))), "{displaced:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_tiles_can_make_of_an_instruction_is_drawn() {
        let tiles =
            |code: &Code| code.cpuid_features().iter().any(|one| format!("{one:?}").starts_with("AMX"));
        let all: BTreeMap<String, (Code, Ends)> =
            codes::user_mode().filter(tiles).map(|code| (format!("{code:?}"), (code, ends(code)))).collect();
        assert_eq!(all.len(), 15);
        for (name, (code, ends)) in &all {
            let what = format!("{name}: {ends:?}");
            println!("{what}");
            assert!(ends.completed > CASES / 8 && ends.changed > CASES / 16, "{what}");
            let mnemonic = code.mnemonic();
            match mnemonic {
                Mnemonic::Tilerelease => {}
                Mnemonic::Ldtilecfg => {
                    assert!(ends.protection > CASES / 8 && ends.page > CASES / 16, "{what}")
                }
                Mnemonic::Sttilecfg => assert!(ends.page > CASES / 16, "{what}"),
                _ => assert!(ends.undefined > CASES / 32, "{what}"),
            }
            if matches!(mnemonic, Mnemonic::Tileloadd | Mnemonic::Tileloaddt1 | Mnemonic::Tilestored) {
                assert!(ends.in_the_middle > CASES / 16 && ends.page > ends.in_the_middle, "{what}");
            }
            if code.cpuid_features().iter().any(|one| {
                matches!(one, CpuidFeature::AMX_BF16 | CpuidFeature::AMX_FP16 | CpuidFeature::AMX_COMPLEX)
            }) {
                assert!(ends.special > CASES / 32 && ends.normal > CASES / 4, "{what}");
            }
        }
    }

    #[test]
    fn configurations_are_valid_where_they_are_loaded_as_state() {
        let ldtilecfg = [0xc4, 0xe2, 0x78, 0x49, 0x00]; // ldtilecfg [rax]
        let (processor, _) = with_tiles();
        let displaced = Displaced::decode_on(&ldtilecfg, 0x1000, processor).unwrap();
        let rng = &mut Rng::new(9);
        let (mut valid, mut invalid, mut odd, mut started) = (0, 0, 0, 0);
        for round in 0..2000 {
            let is_state = round % 2 == 0;
            let config = if is_state { config(rng) } else { TileConfig(in_memory(rng)) };
            let mut memory = emu::FlatMemory::new(0x2000, 64);
            memory.bytes_mut().copy_from_slice(&config.0);
            let mut registers = Registers::default();
            registers.gpr[0] = 0x2000;
            registers.extended.tiles.data.make_room();
            let result = displaced.execute(&mut registers, &mut memory);
            assert!(!is_state || result == Ok(Outcome::Next) && registers.extended.tiles.config == config);
            *if result.is_ok() { &mut valid } else { &mut invalid } += 1;
            odd += u64::from((0..TILES).any(|tile| !size(&config, tile).bytes.is_multiple_of(4)));
            started += u64::from(config.0[START_ROW] != 0);
        }
        assert!(
            valid > 1500 && invalid > 100 && odd > 500 && started > 150,
            "{valid} {invalid} {odd} {started}"
        );
    }
}
