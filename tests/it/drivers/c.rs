//! libpq in pipeline mode, from C.
//!
//! Owns: running `tests/drivers/c/pipeline.c`.
//!
//! Source: libpq-pipeline-mode.html.

use std::process::Command;

use super::{built, drive, pooler};

#[test]
fn libpq_pipelines_get_their_own_answers() {
    let doorman = pooler();
    drive(&mut Command::new(built("c", "pipeline")), &doorman);
}
