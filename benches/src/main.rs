//! The run against peers.
fn main() {}
