//! Facts about the machine, without which figures mean little.
//!
//! Owns: CPU model, cores, memory, kernel, its scheduler's groups, load, date, command line.
//! Does not own: versions of the targets (`target.rs`).
//! Invariants: an unreadable fact is empty, never an error.
//! Source: proc(5), sched(7).

use std::env;
use std::fs;
use std::thread;
use std::time::SystemTime;

use serde::Serialize;

/// What a report says about where it was made.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) distribution: String,
    /// Whether the scheduler shares out the cores among sessions (`setsid(2)`) instead of processes.
    pub(crate) has_autogroups: bool,
    /// Load averages at the start; another load than the measured one spoils throughput.
    pub(crate) load_average: String,
    /// RFC 3339, UTC.
    pub(crate) date: String,
    pub(crate) command_line: String,
}

impl Machine {
    /// The first lines of a report: when, with which command, on what.
    pub(crate) fn facts(&self) -> String {
        format!(
            "{}, `{}`\n\n* {} × {}, {} MiB, Linux {}, {}; autogroups {}; load average at the start {}\n",
            self.date,
            self.command_line,
            self.cpus,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.distribution,
            if self.has_autogroups { "on" } else { "off" },
            self.load_average,
        )
    }

    /// Says what about the machine spoils the measurements and could be changed.
    pub(crate) fn warn(&self) {
        if self.has_autogroups {
            eprintln!(
                "Note: kernel.sched_autogroup_enabled is 1. Each server process of PostgreSQL is a \
                 session, and one that is ready to run may then wait for hundreds of milliseconds. \
                 Latencies are better measured after: sysctl kernel.sched_autogroup_enabled=0"
            );
        }
    }

    /// Reads the facts.
    pub(crate) fn read() -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let memory_kib: u64 = field(&file("/proc/meminfo"), "MemTotal", ':')
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        let kernel = file("/proc/version");
        Self {
            cpu: field(&file("/proc/cpuinfo"), "model name", ':'),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib / 1024,
            kernel: kernel
                .split_whitespace()
                .nth(2)
                .unwrap_or_default()
                .to_owned(),
            distribution: field(&file("/etc/os-release"), "PRETTY_NAME", '=').replace('"', ""),
            has_autogroups: file("/proc/sys/kernel/sched_autogroup_enabled").trim() == "1",
            load_average: file("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            command_line: env::args().collect::<Vec<_>>().join(" "),
        }
    }
}

/// The value of the first line `name … separator value`.
fn field(text: &str, name: &str, separator: char) -> String {
    let line = text
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_default();
    line.split_once(separator)
        .map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn field_of_a_file_with_names_is_found() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 3GHz\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name", ':'), "Some CPU @ 3GHz");
        assert_eq!(
            field("PRETTY_NAME=\"Debian\"\n", "PRETTY_NAME", '='),
            "\"Debian\""
        );
        assert_eq!(field("", "model name", ':'), "");
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_cpu() {
        let machine = Machine::read();
        assert!(machine.cpus > 0 && !machine.kernel.is_empty() && machine.memory_mib > 0);
    }
}
