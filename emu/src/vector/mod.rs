//! Arithmetic on floating-point elements: by the host's own unit, and where it has none, by the definition.

pub(crate) mod float;
pub(crate) mod soft;
