//! The bench harness program.

fn main() {}
