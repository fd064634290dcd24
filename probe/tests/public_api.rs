//! The public interface is what `public-api.txt` says.

#[path = "../../emu/tests/public_api.rs"]
mod public_api;
