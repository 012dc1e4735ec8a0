//! The `pg_doorman` program.

fn main() {}
