//! Logic of whole vectors, which is the same for integers and floating point (SDM volume 1, section 9.4.5).

use core::ops::{BitAnd, BitOr, BitXor};

use crate::shape::row;
use crate::table::{Flags, Row};

const NONE: Flags = Flags::empty();

pub(super) static ROWS: &[Row] = &[
    row!([Pand, Andps, Andpd], Lanes<u64>, NONE, u64::bitand),
    row!([Pandn, Andnps, Andnpd], Lanes<u64>, NONE, |first: u64, second: u64| !first & second),
    row!([Por, Orps, Orpd], Lanes<u64>, NONE, u64::bitor),
    row!([Pxor, Xorps, Xorpd], Lanes<u64>, NONE, u64::bitxor),
];
