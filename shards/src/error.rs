//! Errors of start-up: what the machine lacks, said in one sentence with the way out.
//!
//! Owns: [`ProbeError`], [`PlacementError`] and their texts.
//! Does not own: the decision which error it is (`probe`, `placement`).
//! Invariants: every text is one sentence, on one line, that names the cause first and what to
//! change after it.
//! Source: `io_uring_setup(2)`, getrlimit(2), kernel document admin-guide/sysctl/kernel.

use std::{error, fmt, io};

/// The system call of an `io_uring` that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingCall {
    /// Makes a ring.
    Setup,
    /// Changes a ring: buffers, capability probe.
    Register,
    /// Submits and waits.
    Enter,
}

impl fmt::Display for RingCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setup => "io_uring_setup",
            Self::Register => "io_uring_register",
            Self::Enter => "io_uring_enter",
        })
    }
}

/// Why shards cannot run on this machine. `Display` gives one sentence with the way out.
#[derive(Debug)]
#[non_exhaustive]
pub enum ProbeError {
    /// The kernel is older than 6.1.
    KernelTooOld {
        /// The release as the kernel names it.
        release: String,
    },
    /// The kernel release does not start with two numbers.
    KernelUnknown {
        /// The release as the kernel names it.
        release: String,
    },
    /// The kernel was built without `io_uring`, or a sandbox emulates a kernel without it.
    RingMissing,
    /// `kernel.io_uring_disabled` is 2: nobody may make a ring.
    RingDisabledForAll,
    /// `kernel.io_uring_disabled` is 1: only privileged processes and one group may.
    RingDisabledForUnprivileged,
    /// A seccomp filter denies the call.
    RingDeniedBySeccomp {
        /// The denied call.
        call: RingCall,
    },
    /// Something other than the sysctl or seccomp denies the call: a security module.
    RingDeniedByPolicy {
        /// The denied call.
        call: RingCall,
    },
    /// The kernel gave no memory for the ring.
    RingOutOfMemory {
        /// The soft `RLIMIT_MEMLOCK`, bytes.
        memlock: u64,
    },
    /// No file descriptor was left for the ring.
    RingOutOfDescriptors,
    /// The `io_uring` of this kernel lacks something shards need.
    RingFeatureMissing {
        /// What is missing.
        feature: &'static str,
    },
    /// A ring call failed in a way that has no known remedy.
    RingBroken {
        /// The call.
        call: RingCall,
        /// What the kernel said.
        source: io::Error,
    },
    /// Too little memory may be locked.
    MemlockTooLow {
        /// The soft limit after all attempts to raise it, bytes.
        limit: u64,
        /// What the shards need, bytes.
        need: u64,
        /// For how many shards.
        shards: usize,
    },
}

const KIB: u64 = 1024;

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KernelTooOld { release } => write!(
                f,
                "Linux {release} is too old: boot a kernel of version 6.1 or newer"
            ),
            Self::KernelUnknown { release } => write!(
                f,
                "the kernel release \"{release}\" is not a version number: run on Linux 6.1 or newer"
            ),
            Self::RingMissing => f.write_str(
                "this kernel has no io_uring (ENOSYS): boot a kernel built with CONFIG_IO_URING=y, \
                 or leave the sandbox that emulates the kernel (such as gVisor)",
            ),
            Self::RingDisabledForAll => f.write_str(
                "io_uring is switched off for everyone by kernel.io_uring_disabled=2: run `sysctl \
                 -w kernel.io_uring_disabled=0` on the host and keep it in /etc/sysctl.d",
            ),
            Self::RingDisabledForUnprivileged => f.write_str(
                "io_uring is switched off for unprivileged processes by \
                 kernel.io_uring_disabled=1: run `sysctl -w kernel.io_uring_disabled=0` on the \
                 host and keep it in /etc/sysctl.d, or set kernel.io_uring_group to a group of \
                 this process",
            ),
            Self::RingDeniedBySeccomp { call } => write!(
                f,
                "{call} is denied, most likely by the seccomp filter of the container or service: \
                 start the container with `--security-opt seccomp=PROFILE.json`, a profile that \
                 allows io_uring_setup, io_uring_enter and io_uring_register, or add the three to \
                 SystemCallFilter= of the systemd unit"
            ),
            Self::RingDeniedByPolicy { call } => write!(
                f,
                "{call} is denied although neither kernel.io_uring_disabled nor a seccomp filter \
                 forbids it: allow io_uring in the security module of the host (SELinux, AppArmor)"
            ),
            Self::RingOutOfMemory { memlock } => write!(
                f,
                "the kernel has no memory for an io_uring (ENOMEM) with RLIMIT_MEMLOCK at {}: set \
                 LimitMEMLOCK=infinity in the systemd unit or `ulimit -l unlimited`, and check \
                 the memory limit of the container",
                Bytes(*memlock)
            ),
            Self::RingOutOfDescriptors => f.write_str(
                "no file descriptor is left for an io_uring: set LimitNOFILE= in the systemd unit \
                 or `ulimit -n` higher, or raise the sysctl fs.file-max",
            ),
            Self::RingFeatureMissing { feature } => write!(
                f,
                "the io_uring of this kernel lacks {feature}: boot an unrestricted kernel of \
                 version 6.1 or newer"
            ),
            Self::RingBroken { call, source } => write!(
                f,
                "{call} failed ({source}): check the kernel log and that io_uring works on this \
                 host"
            ),
            Self::MemlockTooLow {
                limit,
                need,
                shards,
            } => write!(
                f,
                "RLIMIT_MEMLOCK is {} but {} for {shards} shard(s) are needed: set LimitMEMLOCK=infinity in \
                 the systemd unit, `ulimit -l {}` or more in the shell, or `--ulimit memlock=-1` \
                 for the container, or start fewer shards",
                Bytes(*limit),
                Bytes(*need),
                need.div_ceil(KIB),
            ),
        }
    }
}

impl error::Error for ProbeError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::RingBroken { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A limit for people: KiB, or the word for the largest value.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            u64::MAX => f.write_str("unlimited"),
            bytes => write!(f, "{} KiB", bytes / KIB),
        }
    }
}

/// Why no placement of shards could be made.
#[derive(Debug)]
#[non_exhaustive]
pub enum PlacementError {
    /// The number of shards is 0 or too large.
    BadShardCount {
        /// What was asked for.
        asked: usize,
    },
    /// The affinity mask names no CPU.
    NoCpus,
    /// The kernel did not tell the affinity mask.
    Affinity(io::Error),
}

impl fmt::Display for PlacementError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadShardCount { asked } => write!(
                f,
                "{asked} shards are not possible: ask for 1 to {} shards",
                crate::shard_id::ShardCount::MAX
            ),
            Self::NoCpus => f.write_str(
                "the CPU affinity of the process names no CPU: check taskset, cpusets and \
                 CPUAffinity= of the systemd unit",
            ),
            Self::Affinity(source) => write!(
                f,
                "the CPU affinity of the process cannot be read ({source}): check taskset, \
                 cpusets and the number of CPUs of the host"
            ),
        }
    }
}

impl error::Error for PlacementError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Affinity(source) => Some(source),
            Self::BadShardCount { .. } | Self::NoCpus => None,
        }
    }
}
