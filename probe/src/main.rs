//! The `stepless` command.
fn main() {}
