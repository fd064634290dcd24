//! The crate's modules stand on floors, which `floors.in` lists.

#[path = "../../emu/tests/floors.rs"]
mod floors;
