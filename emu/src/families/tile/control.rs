//! Configuration of tiles, and tiles from and to memory.

use super::{doublewords, register, tile, tiles};
use crate::decode::flags::Flags;
use crate::model::exception::Exception;
use crate::model::memory::Access;
use crate::model::outcome::Outcome;
use crate::model::registers::{ROW_LENGTH, ROWS as TILE_ROWS, Tile, TileConfig};
use crate::model::tiles::Size;
use crate::run::context::Context;
use crate::run::row::Row;
use crate::shape::row;

pub(super) static ROWS: &[Row] = &[
    row!(Ldtilecfg, tiles(load_config), Flags::TILES),
    row!(Sttilecfg, Whole, Flags::TILES, store_config),
    row!(Tilerelease, tiles(release), Flags::TILES),
    row!(Tilezero, tiles(zero), Flags::TILES),
    row!([Tileloadd, Tileloaddt1], tiles(load), Flags::TILES),
    row!(Tilestored, tiles(store), Flags::TILES),
];

/// Of a tile that is zero.
const ZERO: Tile = [[0; ROW_LENGTH]; TILE_ROWS];

/// Configures tiles; all of them are zero then.
fn configure(c: &mut Context<'_>, config: TileConfig) {
    let state = &mut c.registers.extended.tiles;
    state.config = config;
    state.data.tiles_mut().into_iter().flatten().for_each(|tile| *tile = ZERO);
}

/// Of the memory operand, of 64 bytes, for which RFLAGS.AC does not count.
fn config_address(c: &Context<'_>) -> Result<u64, Exception> {
    let address = c.linear();
    c.check(address, 64, 1, c.decoded.address.stack)?;
    Ok(address)
}

fn load_config(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let address = config_address(c)?;
    let mut bytes = [0; 64];
    c.memory.read(address, &mut bytes, Access::Read)?;
    let config = TileConfig::loaded(bytes).ok_or(Exception::GeneralProtection(0))?;
    configure(c, config);
    Ok(Outcome::Next)
}

fn store_config(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let address = config_address(c)?;
    c.memory.write(address, &c.registers.extended.tiles.config.0)?;
    Ok(Outcome::Next)
}

fn release(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    configure(c, TileConfig::default());
    Ok(Outcome::Next)
}

fn zero(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (number, _) = tile(c, 0)?;
    if let Some(tile) = register(c, number) {
        *tile = ZERO;
    }
    c.registers.extended.tiles.config.set_start_row(0);
    Ok(Outcome::Next)
}

/// A row of a tile, and where it lies in memory.
struct TileRow {
    tile: usize,
    row: usize,
    bytes: usize,
    address: u64,
}

/// Loads or stores the rows of the tile that operand `index` names, from the one to start with on. The row that faults is
/// the one to start with when the instruction is executed again.
fn each_row(
    c: &mut Context<'_>,
    index: usize,
    mut access: impl FnMut(&mut Context<'_>, TileRow) -> Result<(), Exception>,
) -> Result<Outcome, Exception> {
    let (number, size) = started(c, index)?;
    let first = c.registers.extended.tiles.config.start_row();
    for row in first..size.rows {
        let address = c.decoded.address.linear_of_row(c.registers, row as u64, size.bytes);
        let one = TileRow { tile: number, row, bytes: size.bytes, address };
        let done = c.check(address, size.bytes, 1, c.decoded.address.stack).and_then(|()| access(c, one));
        if let Err(exception) = done {
            c.registers.extended.tiles.config.set_start_row(row);
            return if row > first { c.interrupted(exception) } else { Err(exception) };
        }
    }
    c.registers.extended.tiles.config.set_start_row(0);
    Ok(Outcome::Next)
}

/// The tile that is loaded or stored, or #UD also if it has no such row to start with.
fn started(c: &Context<'_>, index: usize) -> Result<(usize, Size), Exception> {
    match doublewords(c, index)? {
        (_, size) if c.registers.extended.tiles.config.start_row() >= size.rows => {
            Err(Exception::InvalidOpcode)
        }
        tile => Ok(tile),
    }
}

fn load(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    let (number, _) = started(c, 0)?;
    let start = c.registers.extended.tiles.config.start_row();
    let rows = register(c, number).and_then(|tile| tile.get_mut(start..));
    rows.into_iter().flatten().for_each(|row| row.fill(0));
    each_row(c, 0, |c, one| {
        let mut values = [0; ROW_LENGTH];
        c.memory.read(one.address, values.get_mut(..one.bytes).unwrap_or_default(), Access::Read)?;
        if let Some(place) = register(c, one.tile).and_then(|tile| tile.get_mut(one.row)) {
            *place = values;
        }
        Ok(())
    })
}

fn store(c: &mut Context<'_>) -> Result<Outcome, Exception> {
    each_row(c, 1, |c, one| {
        let values = register(c, one.tile).and_then(|tile| tile.get(one.row)).copied();
        let values = values.unwrap_or([0; ROW_LENGTH]);
        c.memory.write(one.address, values.get(..one.bytes).unwrap_or_default())?;
        Ok(())
    })
}
