//! AMX's state (SDM volume 1, chapter 18): TILECFG and the tile registers.

use alloc::boxed::Box;
use core::fmt;

/// The tile registers.
pub const TILES: usize = 8;
/// The rows of a tile register.
pub const ROWS: usize = 16;
/// The bytes of a row.
pub const ROW_LENGTH: usize = 64;

/// A tile register.
pub type Tile = [[u8; ROW_LENGTH]; ROWS];

/// Where a configuration has the bytes per row of TMM0, two bytes for each tile.
const COLUMNS: usize = 16;
/// Where it has the rows of TMM0, one byte for each tile.
const HEIGHTS: usize = 48;

/// AMX's part of the register file.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tiles {
    /// TILECFG.
    pub config: TileConfig,
    /// TMM0 to TMM7.
    pub data: TileData,
}

/// TILECFG as it lies in memory: the palette, the row to start with, and the sizes of the tiles. All zeros while tiles
/// are not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileConfig(pub [u8; 64]);

impl Default for TileConfig {
    fn default() -> Self {
        TileConfig([0; 64])
    }
}

/// The size of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: usize,
    /// Of each row.
    pub(crate) bytes: usize,
}

impl TileConfig {
    /// As LDTILECFG takes it: nothing of palette 0 counts. `None` if it is not valid.
    pub(crate) fn loaded(bytes: [u8; 64]) -> Option<TileConfig> {
        let config = TileConfig(bytes);
        match config.palette() {
            0 => Some(TileConfig::default()),
            1 => {
                let reserved = [2..COLUMNS, COLUMNS + 2 * TILES..HEIGHTS, HEIGHTS + TILES..64];
                let clear = reserved.into_iter().all(|range| bytes[range].iter().all(|byte| *byte == 0));
                let fits =
                    |Size { rows, bytes }| rows <= ROWS && bytes <= ROW_LENGTH && (rows == 0) == (bytes == 0);
                (clear && (0..TILES).all(|tile| fits(config.stated(tile)))).then_some(config)
            }
            _ => None,
        }
    }

    fn palette(&self) -> u8 {
        self.0[0]
    }

    /// The row that a load or store begins with: the one at which it faulted before.
    pub(crate) fn start_row(&self) -> usize {
        usize::from(self.0[1])
    }

    pub(crate) fn set_start_row(&mut self, row: usize) {
        self.0[1] = row as u8;
    }

    /// What is written for a tile.
    fn stated(&self, tile: usize) -> Size {
        let tile = tile & (TILES - 1);
        let column = COLUMNS + 2 * tile;
        Size {
            rows: usize::from(self.0[HEIGHTS + tile]),
            bytes: usize::from(u16::from_le_bytes([self.0[column], self.0[column + 1]])),
        }
    }

    /// The size of a tile, if it is configured.
    pub(crate) fn size(&self, tile: usize) -> Option<Size> {
        let size = self.stated(tile);
        let valid =
            self.palette() == 1 && (1..=ROWS).contains(&size.rows) && (1..=ROW_LENGTH).contains(&size.bytes);
        valid.then_some(size)
    }
}

/// The tile registers: 8 KiB, which only a thread needs that uses them.
///
/// Without room for them they are zeros, and what works on tiles is [`Native`](crate::Outcome::Native): only the system
/// knows whether the thread may use them, and makes room when it does so first.
#[derive(Clone, Default)]
pub struct TileData(Option<Box<[Tile; TILES]>>);

impl TileData {
    /// Zeros, with room for what is written.
    #[must_use]
    pub fn with_room() -> TileData {
        TileData(Some(Box::new([[[0; ROW_LENGTH]; ROWS]; TILES])))
    }

    /// Makes room where there is none.
    pub fn make_room(&mut self) {
        if self.0.is_none() {
            *self = TileData::with_room();
        }
    }

    /// TMM0 to TMM7; `None` if there is no room, so that they are zeros.
    #[must_use]
    pub fn tiles(&self) -> Option<&[Tile; TILES]> {
        self.0.as_deref()
    }

    /// TMM0 to TMM7; `None` if there is no room.
    #[must_use]
    pub fn tiles_mut(&mut self) -> Option<&mut [Tile; TILES]> {
        self.0.as_deref_mut()
    }

    /// Whether one of them is not zero.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.tiles().is_some_and(|tiles| tiles.iter().any(|tile| *tile != [[0; ROW_LENGTH]; ROWS]))
    }
}

/// Where there is no room there are zeros.
impl PartialEq for TileData {
    fn eq(&self, other: &TileData) -> bool {
        match (self.tiles(), other.tiles()) {
            (Some(left), Some(right)) => left == right,
            _ => self.is_used() == other.is_used(),
        }
    }
}

impl Eq for TileData {}

impl fmt::Debug for TileData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TileData").field("is_used", &self.is_used()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(change: impl Fn(&mut [u8; 64])) -> Option<TileConfig> {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        for tile in 0..TILES {
            (bytes[COLUMNS + 2 * tile], bytes[HEIGHTS + tile]) = (64, 16);
        }
        change(&mut bytes);
        TileConfig::loaded(bytes)
    }

    #[test]
    fn a_configuration_is_valid_or_not() {
        let valid = config(|_| {}).unwrap();
        assert_eq!(valid.size(7), Some(Size { rows: 16, bytes: 64 }));
        assert_eq!(config(|bytes| bytes[0] = 0), Some(TileConfig::default()));
        assert_eq!(config(|bytes| bytes[1] = 9).unwrap().start_row(), 9);
        let unused = config(|bytes| (bytes[16], bytes[48]) = (0, 0)).unwrap();
        assert_eq!((unused.size(0), unused.size(1).is_some()), (None, true));
        let wrong =
            [(0, 2), (2, 1), (15, 1), (16, 0), (16, 65), (17, 1), (32, 1), (47, 1), (48, 0), (48, 17)];
        for (place, value) in wrong.into_iter().chain([(56, 1), (63, 1)]) {
            assert_eq!(config(|bytes| bytes[place] = value), None, "{value} at {place}");
        }
    }

    #[test]
    fn no_room_is_zeros() {
        let mut data = TileData::with_room();
        assert_eq!(data, TileData::default());
        data.tiles_mut().unwrap()[7][15][63] = 1;
        assert!(data != TileData::default() && TileData::default() != data && data.is_used());
        let mut other = TileData::default();
        other.make_room();
        assert_ne!(other, data);
        other.tiles_mut().unwrap()[7][15][63] = 1;
        assert_eq!(other, data);
    }
}
