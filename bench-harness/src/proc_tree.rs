//! Which processes belong to a program, read from `/proc`.
//!
//! Owns: parsing `/proc/PID/stat` and finding the descendants of a set of processes.
//! Does not own: clocks (`cpu.rs`), memory (`memory.rs`).
//! Invariants: a process that vanishes while it is read is left out, never an error.
//! Source: proc(5).

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result};

/// The fields of `/proc/PID/stat` that a measurement needs. Times are clock ticks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProcStat {
    pub(crate) pid: u32,
    pub(crate) parent: u32,
    pub(crate) is_zombie: bool,
    pub(crate) user_ticks: u64,
    pub(crate) system_ticks: u64,
    /// Time of the children that ended and were waited for.
    pub(crate) waited_user_ticks: u64,
    pub(crate) waited_system_ticks: u64,
}

/// Parses one line of `/proc/PID/stat`. The program name may itself hold blanks and parentheses,
/// so the numbered fields are counted from the last closing one.
pub(crate) fn parse_stat(line: &str) -> Option<ProcStat> {
    let (head, tail) = line.rsplit_once(')')?;
    let pid = head.split_once(" (")?.0.trim().parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    // The manual counts fields from 1; the first one after the name is number 3.
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    Some(ProcStat {
        pid,
        parent: u32::try_from(number(4)?).ok()?,
        is_zombie: matches!(*fields.first()?, "Z" | "X"),
        user_ticks: number(14)?,
        system_ticks: number(15)?,
        waited_user_ticks: number(16)?,
        waited_system_ticks: number(17)?,
    })
}

/// Reads every process of the machine.
///
/// # Errors
/// `/proc` cannot be listed.
pub(crate) fn scan() -> Result<Vec<ProcStat>> {
    let entries = fs::read_dir("/proc").context("cannot list /proc")?;
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok())
        .filter_map(|line| parse_stat(&line))
        .collect())
}

/// The processes of `all` that are one of `roots` or descend from one.
pub(crate) fn descendants(all: &[ProcStat], roots: &[u32]) -> Vec<ProcStat> {
    let mut members: BTreeSet<u32> = roots.iter().copied().collect();
    loop {
        let before = members.len();
        members.extend(
            all.iter()
                .filter(|p| members.contains(&p.parent))
                .map(|p| p.pid)
                .collect::<Vec<_>>(),
        );
        if members.len() == before {
            break;
        }
    }
    all.iter()
        .filter(|p| members.contains(&p.pid))
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_line_with_blanks_and_parentheses_in_the_name_is_parsed() {
        let line = "4711 (pg door) man) S 1 4711 4711 0 -1 4194560 100 200 0 0 31 17 5 7 20 0 3 0 \
                    12345 1000000 500";
        assert_eq!(
            parse_stat(line),
            Some(ProcStat {
                pid: 4711,
                parent: 1,
                is_zombie: false,
                user_ticks: 31,
                system_ticks: 17,
                waited_user_ticks: 5,
                waited_system_ticks: 7,
            })
        );
    }

    #[test]
    fn truncated_stat_line_is_refused() {
        assert_eq!(parse_stat("4711 (postgres) S 1 4711"), None);
        assert_eq!(parse_stat(""), None);
    }

    #[test]
    fn descendants_are_found_through_several_generations() {
        let process = |pid, parent| ProcStat {
            pid,
            parent,
            is_zombie: false,
            user_ticks: 0,
            system_ticks: 0,
            waited_user_ticks: 0,
            waited_system_ticks: 0,
        };
        let all = [process(5, 4), process(4, 3), process(3, 1), process(9, 1)];
        let pids: Vec<u32> = descendants(&all, &[3]).iter().map(|p| p.pid).collect();
        assert_eq!(pids, [5, 4, 3]);
    }

    #[test]
    fn own_process_is_in_the_scan() {
        let all = scan().expect("list /proc");
        assert!(all.iter().any(|p| p.pid == std::process::id()));
    }
}
