//! AMX (SDM volume 1, chapter 18): tile registers, their configuration, and products of matrices.

mod control;
mod product;

use crate::model::exception::Exception;
use crate::model::outcome::Outcome;
use crate::model::registers::{TILES, Tile};
use crate::model::tiles::Size;
use crate::run::context::Context;
use crate::run::row::Row;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[control::ROWS, product::ROWS];

/// Runs what works on tile registers, where there is room for them.
fn tiles(
    c: &mut Context<'_>,
    body: impl FnOnce(&mut Context<'_>) -> Result<Outcome, Exception>,
) -> Result<Outcome, Exception> {
    match c.registers.extended.tiles.data.tiles() {
        Some(_) => body(c),
        None => Ok(Outcome::Native),
    }
}

/// The number and the size of the tile that operand `index` names, or #UD.
fn tile(c: &Context<'_>, index: usize) -> Result<(usize, Size), Exception> {
    let number = usize::from(c.decoded.operand[index].number);
    let size = if number < TILES { c.registers.extended.tiles.config.size(number) } else { None };
    size.map(|size| (number, size)).ok_or(Exception::InvalidOpcode)
}

/// The same of one whose rows are doublewords.
fn doublewords(c: &Context<'_>, index: usize) -> Result<(usize, Size), Exception> {
    match tile(c, index)? {
        (_, size) if size.bytes % 4 != 0 => Err(Exception::InvalidOpcode),
        tile => Ok(tile),
    }
}

/// A tile register, for which [`tiles`] has found room.
fn register<'a>(c: &'a mut Context<'_>, number: usize) -> Option<&'a mut Tile> {
    c.registers.extended.tiles.data.tiles_mut()?.get_mut(number)
}
