//! What belongs to the system or tells of it: privileges, segments, shadow stacks, caches, identity.

use crate::run::row::Row;

pub(super) mod cache;
pub(super) mod descriptor;
pub(super) mod far;
pub(super) mod identity;
pub(super) mod privileged;
pub(super) mod segment;
pub(super) mod shadow;

/// The tables of these families.
pub(super) static ALL: &[&[Row]] = &[
    cache::ROWS,
    descriptor::ROWS,
    far::ROWS,
    identity::ROWS,
    privileged::ROWS,
    segment::ROWS,
    shadow::ROWS,
];
