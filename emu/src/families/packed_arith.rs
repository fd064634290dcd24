//! Packed integers: addition, subtraction, comparison (SDM volume 1, section 9.4).

use crate::shape::row;
use crate::table::{Flags, Row};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!(Paddb, Lanes<u8>, NONE, u8::wrapping_add),
    row!(Paddw, Lanes<u16>, NONE, u16::wrapping_add),
    row!(Paddd, Lanes<u32>, NONE, u32::wrapping_add),
    row!(Paddq, Lanes<u64>, NONE, u64::wrapping_add),
];
