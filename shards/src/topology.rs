//! The CPUs this process may use: affinity mask, physical cores, CPU quota.
//!
//! Owns: reading the affinity mask, the CPU files of sysfs and `cpu.max` of our control groups,
//! and the parsers of those texts.
//! Does not own: which shard runs on which CPU (`placement`).
//! Invariants: `cpus` is sorted by id, without duplicates, and holds only CPUs of the mask. A
//! missing or odd sysfs or control-group file never fails detection: each CPU then counts as a
//! core of its own, and no quota applies. Only version 2 of control groups is read.
//! Source: `sched_getaffinity(2)`, cgroups(7), `proc_pid_mountinfo(5)`, kernel documents
//! admin-guide/cputopology and admin-guide/cgroup-v2.

use std::fs;
use std::path::{Component, Path, PathBuf};

use rustix::thread::{CpuSet, sched_getaffinity};

use crate::error::PlacementError;

/// One logical CPU this process may run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cpu {
    /// The kernel's number of the CPU.
    pub id: usize,
    /// The physical core, named by the lowest CPU number known to be on it. Unique across packages.
    pub core: usize,
    /// The physical package (socket); 0 when unknown.
    pub package: usize,
}

/// The CPUs this process may use and how much CPU time it may spend.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The CPUs of the affinity mask, ascending by id.
    pub cpus: Vec<Cpu>,
    /// The CPU quota in whole CPUs, rounded up; `None` when unlimited or unknown.
    pub quota_cpus: Option<usize>,
}

impl Topology {
    /// Reads the topology of this machine as the calling thread may use it.
    ///
    /// Call it before any thread is pinned: a pinned thread sees only its own CPU. Blocks on
    /// reads of small kernel files.
    ///
    /// # Errors
    /// [`PlacementError::Affinity`] when the kernel does not tell the mask (more than 1024
    /// possible CPUs), [`PlacementError::NoCpus`] when the mask is empty.
    pub fn detect() -> Result<Self, PlacementError> {
        let mask = sched_getaffinity(None).map_err(|e| PlacementError::Affinity(e.into()))?;
        let facts: Vec<CpuFacts> = (0..CpuSet::MAX_CPU)
            .filter(|&id| mask.is_set(id))
            .map(|id| read_cpu_facts(Path::new("/sys/devices/system/cpu"), id))
            .collect();
        if facts.is_empty() {
            return Err(PlacementError::NoCpus);
        }
        Ok(Self {
            cpus: assemble(&facts),
            quota_cpus: read_quota(),
        })
    }
}

/// What sysfs says about one CPU; every part may be missing.
#[derive(Clone, Debug, Default)]
struct CpuFacts {
    id: usize,
    siblings: Option<Vec<usize>>,
    core_id: Option<usize>,
    package: Option<usize>,
}

fn read_cpu_facts(root: &Path, id: usize) -> CpuFacts {
    let dir = root.join(format!("cpu{id}/topology"));
    let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
    // The kernel writes -1 for "unknown", which does not parse and so stays `None`.
    let number = |name: &str| text(name).and_then(|t| t.trim().parse().ok());
    CpuFacts {
        id,
        siblings: text("thread_siblings_list").and_then(|t| parse_cpu_list(&t)),
        core_id: number("core_id"),
        package: number("physical_package_id"),
    }
}

/// Names the physical core of each CPU: by its sibling list if that is sane, else by the first
/// CPU with the same package and core number, else as a core of its own.
fn assemble(facts: &[CpuFacts]) -> Vec<Cpu> {
    let core_of = |cpu: &CpuFacts| {
        if let Some(list) = cpu.siblings.as_ref().filter(|list| list.contains(&cpu.id)) {
            return list.iter().copied().min().unwrap_or(cpu.id);
        }
        let twin = |other: &&CpuFacts| {
            cpu.core_id.is_some() && other.core_id == cpu.core_id && other.package == cpu.package
        };
        facts.iter().find(twin).map_or(cpu.id, |first| first.id)
    };
    facts
        .iter()
        .map(|cpu| Cpu {
            id: cpu.id,
            core: core_of(cpu),
            package: cpu.package.unwrap_or(0),
        })
        .collect()
}

/// Parses a kernel CPU list such as `0-3,8,10-11`. `None` when empty or malformed.
fn parse_cpu_list(text: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // A bound on the range keeps a corrupt file from eating memory.
        if first > last || last > 65_535 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The tightest quota of our control group and its ancestors, in whole CPUs.
fn read_quota() -> Option<usize> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let dirs = group_dirs(parse_own_group(&own)?, &parse_group_mount(&mounts)?);
    dirs.iter()
        .filter_map(|dir| fs::read_to_string(dir.join("cpu.max")).ok())
        .filter_map(|text| parse_cpu_max(&text))
        .min()
}

/// The path of our version-2 control group from `/proc/self/cgroup`: the line `0::PATH`.
fn parse_own_group(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Where the version-2 hierarchy is mounted.
#[derive(Debug, PartialEq, Eq)]
struct GroupMount {
    /// The group that shows at the mount point, `/` unless only a part is mounted.
    root: String,
    /// The mount point.
    point: PathBuf,
}

/// Finds the version-2 hierarchy in `/proc/self/mountinfo`.
fn parse_group_mount(text: &str) -> Option<GroupMount> {
    text.lines().find_map(|line| {
        // "36 35 98:0 ROOT POINT options [optional fields] - TYPE source options"
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        Some(GroupMount {
            root: fields.next()?.to_owned(),
            point: PathBuf::from(fields.next()?),
        })
    })
}

/// The directories of group `own` and of its ancestors up to the mount point, innermost first.
///
/// A group outside of what is mounted (a path with `..`, or not below the mounted root) cannot
/// be seen; the mount point is then the best that is left.
fn group_dirs(own: &str, mount: &GroupMount) -> Vec<PathBuf> {
    let own = Path::new(own);
    let visible = own.strip_prefix(&mount.root).ok().filter(|below| {
        below
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
    });
    let leaf = mount.point.join(visible.unwrap_or(Path::new("")));
    leaf.ancestors()
        .take_while(|dir| dir.starts_with(&mount.point))
        .map(Path::to_path_buf)
        .collect()
}

/// Parses `cpu.max`: `QUOTA PERIOD` in microseconds, or `max PERIOD` for no limit.
fn parse_cpu_max(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let quota: usize = words.next()?.parse().ok()?;
    let period: usize = words.next().map_or(Ok(100_000), str::parse).ok()?;
    (quota > 0 && period > 0).then(|| quota.div_ceil(period))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(id: usize, core: usize, package: usize) -> Cpu {
        Cpu { id, core, package }
    }

    #[test]
    fn cpu_lists_hold_single_numbers_and_ranges() {
        assert_eq!(parse_cpu_list("0\n"), Some(vec![0]));
        assert_eq!(parse_cpu_list("0,32\n"), Some(vec![0, 32]));
        assert_eq!(
            parse_cpu_list("0-2,8,10-11"),
            Some(vec![0, 1, 2, 8, 10, 11])
        );
        for bad in ["", "\n", "a", "3-1", "1-", "-1", "0,,1", "0-99999999999"] {
            assert_eq!(parse_cpu_list(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn cpu_max_is_rounded_up_to_whole_cpus() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("200000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max("10000 100000\n"), Some(1));
        assert_eq!(parse_cpu_max("250000"), Some(3));
        for bad in ["", "0 100000", "100000 0", "-1 100000", "x y", "1 y"] {
            assert_eq!(parse_cpu_max(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn our_group_is_the_line_of_version_two() {
        assert_eq!(parse_own_group("0::/a/b.scope\n"), Some("/a/b.scope"));
        assert_eq!(parse_own_group("4:memory:/x\n0::/\n"), Some("/"));
        assert_eq!(parse_own_group("4:memory:/x\n"), None);
    }

    #[test]
    fn the_group_mount_is_found_among_other_mounts() {
        let text = "22 1 0:20 / /proc rw - proc proc rw\n\
            30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            31 23 0:27 /kube /sys/fs/cgroup/unified rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
        let mount = parse_group_mount(text).unwrap();
        assert_eq!(mount.root, "/kube");
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup/unified"));
        assert_eq!(parse_group_mount("garbage\n\n - cgroup2\n"), None);
    }

    #[test]
    fn groups_are_walked_up_to_the_mount_point() {
        let dirs = |own: &str, root: &str| {
            let mount = GroupMount {
                root: root.to_owned(),
                point: PathBuf::from("/cg"),
            };
            let dirs = group_dirs(own, &mount);
            let texts: Vec<String> = dirs.iter().map(|d| d.display().to_string()).collect();
            texts
                .join(" ")
                .replace("/ ", " ")
                .trim_end_matches('/')
                .to_owned()
        };
        assert_eq!(dirs("/a/b", "/"), "/cg/a/b /cg/a /cg");
        assert_eq!(dirs("/", "/"), "/cg");
        assert_eq!(dirs("/box/a", "/box"), "/cg/a /cg");
        assert_eq!(dirs("/other", "/box"), "/cg");
        assert_eq!(dirs("/../sibling", "/"), "/cg");
    }

    #[test]
    fn cores_come_from_sibling_lists_then_core_numbers_then_nothing() {
        let facts = |id, siblings: Option<&[usize]>, core_id, package| CpuFacts {
            id,
            siblings: siblings.map(<[usize]>::to_vec),
            core_id,
            package,
        };
        // The first sibling lies outside of the mask and still names the core.
        let listed = [facts(5, Some(&[1, 5]), Some(0), Some(1))];
        assert_eq!(assemble(&listed), [cpu(5, 1, 1)]);
        let numbered = [
            facts(0, None, Some(0), Some(0)),
            facts(1, None, Some(0), Some(1)),
            facts(2, None, Some(0), Some(0)),
        ];
        assert_eq!(
            assemble(&numbered),
            [cpu(0, 0, 0), cpu(1, 1, 1), cpu(2, 0, 0)]
        );
        let bare = [facts(0, None, None, None), facts(3, Some(&[9]), None, None)];
        assert_eq!(assemble(&bare), [cpu(0, 0, 0), cpu(3, 3, 0)]);
    }

    #[test]
    fn missing_sysfs_is_tolerated() {
        let facts = read_cpu_facts(Path::new("/nonexistent"), 7);
        assert_eq!(assemble(&[facts]), [cpu(7, 7, 0)]);
    }

    #[test]
    fn this_machine_has_at_least_one_cpu() {
        let topology = Topology::detect().unwrap();
        assert!(topology.cpus.is_sorted_by(|a, b| a.id < b.id));
        assert!(!topology.cpus.is_empty());
    }
}
