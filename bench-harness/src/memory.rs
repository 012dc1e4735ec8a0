//! Private memory of a set of processes.
//!
//! Owns: summing `Private_Clean` and `Private_Dirty` of `/proc/PID/smaps_rollup`.
//! Does not own: the clients whose cost is measured (`idle.rs`).
//! Invariants: pages shared with other programs (libraries, files) are not counted.
//! Source: proc(5).

use std::fs;

use anyhow::{Context, Result};

use crate::proc_tree;

/// Private memory of `roots` and their descendants, in KiB.
///
/// # Errors
/// One of the processes is gone, or its memory map may not be read.
pub(crate) fn private_kib(roots: &[u32]) -> Result<u64> {
    let all = proc_tree::scan()?;
    let mut sum = 0;
    for process in proc_tree::descendants(&all, roots) {
        let path = format!("/proc/{}/smaps_rollup", process.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        sum += parse_private_kib(&text);
    }
    Ok(sum)
}

/// Private memory of one process without its descendants, in KiB; `None` if it is gone.
pub(crate) fn private_kib_of(process: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
    Some(parse_private_kib(&text))
}

fn parse_private_kib(text: &str) -> u64 {
    text.lines()
        .filter(|line| line.starts_with("Private_Clean:") || line.starts_with("Private_Dirty:"))
        .filter_map(|line| line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_pages_are_summed_and_shared_ones_are_not() {
        let text = "55d0-7ffc ---p 00000000 00:00 0    [rollup]\nRss:   5024 kB\n\
                    Shared_Clean:  3000 kB\nShared_Dirty:  0 kB\nPrivate_Clean:  24 kB\n\
                    Private_Dirty:  2000 kB\nPrivate_Hugetlb: 7 kB\n";
        assert_eq!(parse_private_kib(text), 2024);
    }

    #[test]
    fn own_memory_is_not_zero() {
        assert!(private_kib(&[std::process::id()]).expect("own smaps_rollup") > 0);
    }
}
