//! The instruction set, a family a file: its rows, then the functions that do the work.

use crate::run::row::Row;

mod float;
mod integer;
mod mask;
mod packed;
mod system;
mod tile;
mod x87;

/// The tables of all families, by folder.
pub(crate) static ALL: &[&[&[Row]]] =
    &[float::ALL, integer::ALL, mask::ALL, packed::ALL, system::ALL, tile::ALL, x87::ALL];

pub(crate) use system::privileged::{native, undefined, undefined_unless_too_long};
