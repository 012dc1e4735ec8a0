//! Start-up probes: can shards run on this machine, and if not, what has to change.
//!
//! Owns: the checks of kernel version, resource limits and `io_uring`, raising the limits, and
//! the mapping of what was observed to one error.
//! Does not own: the texts of the errors (`error`), the rings of the shards.
//! Invariants: nothing the probes open or register outlives them; limits are only ever raised.
//! Whatever is tested by doing is tested with the calls and flags the shards themselves use.
//! Source: `io_uring_setup(2)`, `io_uring_register(2)`, `io_uring_enter(2)`, getrlimit(2),
//! `proc_pid_status(5)`, kernel document admin-guide/sysctl/kernel.
//!
//! ```text
//!   kernel >= 6.1 ──> memlock >= 512 KiB per shard ──> ring works ──> nofile ──> ProbeReport
//!        │                         │                       │
//!        └─────────────────────────┴───────────────────────┴──> ProbeError (first one found)
//! ```

use std::{fmt, fs, io};

use io_uring::types::BufRingEntry;
use io_uring::{IoUring, Probe, opcode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::{ProbeError, RingCall};
use crate::shard_id::ShardCount;

/// The oldest kernel shards run on: the first with `IORING_SETUP_DEFER_TASKRUN`.
const OLDEST_KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };

/// What one executor insists on, bytes.
const MEMLOCK_PER_SHARD: u64 = 512 * 1024;

/// The part of a kernel release that tells features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What the probes found on a machine that can run shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    /// The running kernel.
    pub kernel: KernelVersion,
    /// The soft `RLIMIT_MEMLOCK` in bytes, after raising; `u64::MAX` is unlimited.
    pub memlock: u64,
    /// The soft `RLIMIT_NOFILE`, after raising; `u64::MAX` is unlimited.
    pub nofile: u64,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Linux {} with a working io_uring, ", self.kernel)?;
        match self.memlock {
            u64::MAX => f.write_str("unlimited lockable memory")?,
            bytes => write!(f, "{} KiB of lockable memory", bytes / 1024)?,
        }
        match self.nofile {
            u64::MAX => f.write_str(" and unlimited file descriptors"),
            count => write!(f, " and {count} file descriptors"),
        }
    }
}

/// Checks that `shards` shards can run here and raises the limits of the process for them.
///
/// Raises the soft `RLIMIT_NOFILE` to the hard one, and `RLIMIT_MEMLOCK` if it is too low.
/// Takes well under a millisecond; makes and drops one small ring.
///
/// # Errors
/// The first obstacle found, as a [`ProbeError`] that says how to remove it.
pub fn probe_host(shards: ShardCount) -> Result<ProbeReport, ProbeError> {
    let kernel = check_kernel(&rustix::system::uname().release().to_string_lossy())?;
    let need = memlock_need(shards);
    let memlock = raise_limit(Resource::Memlock, |_| need);
    check_memlock(memlock, shards)?;
    try_ring().map_err(|failure| classify(failure, &Surroundings::read(memlock)))?;
    let nofile = raise_limit(Resource::Nofile, |limit| limit.hard);
    Ok(ProbeReport {
        kernel,
        memlock,
        nofile,
    })
}

// ---- Kernel version

fn check_kernel(release: &str) -> Result<KernelVersion, ProbeError> {
    let release_owned = || release.to_owned();
    match parse_release(release) {
        None => Err(ProbeError::KernelUnknown {
            release: release_owned(),
        }),
        Some(version) if version < OLDEST_KERNEL => Err(ProbeError::KernelTooOld {
            release: release_owned(),
        }),
        Some(version) => Ok(version),
    }
}

/// The first two numbers of a release such as `6.1.0-18-amd64` or `6.12-rc3`.
fn parse_release(release: &str) -> Option<KernelVersion> {
    let (major, rest) = release.trim().split_once('.')?;
    let digits = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    Some(KernelVersion {
        major: major.parse().ok()?,
        minor: rest[..digits].parse().ok()?,
    })
}

// ---- Resource limits

/// A resource limit; `u64::MAX` is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Limit {
    soft: u64,
    hard: u64,
}

impl Limit {
    fn read(resource: Resource) -> Self {
        let limit = getrlimit(resource);
        Self {
            soft: limit.current.unwrap_or(u64::MAX),
            hard: limit.maximum.unwrap_or(u64::MAX),
        }
    }

    fn write(self, resource: Resource) -> bool {
        let known = |value: u64| (value != u64::MAX).then_some(value);
        let limit = Rlimit {
            current: known(self.soft),
            maximum: known(self.hard),
        };
        setrlimit(resource, limit).is_ok()
    }
}

/// What to try, in turn, to bring the soft limit to `want`. Never lowers a limit.
fn raise_attempts(now: Limit, want: u64) -> Vec<Limit> {
    let both = |value| Limit {
        soft: value,
        hard: value,
    };
    let mut attempts = Vec::new();
    if now.soft < want && now.hard < want {
        // Only a privileged process may raise its hard limit; for others this one fails.
        attempts.push(both(want));
    }
    if now.soft < want && now.soft < now.hard {
        attempts.push(both(now.hard));
    }
    attempts
}

/// Raises the soft limit to what `want` makes of the present one, as far as the kernel lets us,
/// and returns the soft limit that then holds.
fn raise_limit(resource: Resource, want: impl Fn(Limit) -> u64) -> u64 {
    let now = Limit::read(resource);
    // A refused attempt is no error in itself: the value read back decides.
    let _raised = raise_attempts(now, want(now))
        .into_iter()
        .any(|attempt| attempt.write(resource));
    Limit::read(resource).soft
}

fn memlock_need(shards: ShardCount) -> u64 {
    MEMLOCK_PER_SHARD * shards.get() as u64
}

/// Privileges do not matter here: an executor looks at the limit alone.
fn check_memlock(limit: u64, shards: ShardCount) -> Result<(), ProbeError> {
    let need = memlock_need(shards);
    if limit >= need {
        return Ok(());
    }
    Err(ProbeError::MemlockTooLow {
        limit,
        need,
        shards: shards.get(),
    })
}

// ---- io_uring

/// The step of the ring test that failed.
#[derive(Debug)]
struct RingFailure {
    call: RingCall,
    /// What is missing if the kernel calls the request invalid.
    feature: &'static str,
    error: io::Error,
}

impl RingFailure {
    fn new(call: RingCall, feature: &'static str, error: io::Error) -> Self {
        Self {
            call,
            feature,
            error,
        }
    }
}

/// Circumstances that tell apart failures with the same error number.
#[derive(Clone, Copy, Debug, Default)]
struct Surroundings {
    /// `kernel.io_uring_disabled`; the kernel has it since 6.6, if it has `io_uring` at all.
    io_uring_disabled: Option<u8>,
    /// Whether a seccomp filter applies to this thread.
    seccomp: Option<bool>,
    /// The soft `RLIMIT_MEMLOCK`, bytes.
    memlock: u64,
}

impl Surroundings {
    fn read(memlock: u64) -> Self {
        let text = |path| fs::read_to_string(path).ok();
        Self {
            io_uring_disabled: text("/proc/sys/kernel/io_uring_disabled")
                .and_then(|t| parse_io_uring_disabled(&t)),
            seccomp: text("/proc/thread-self/status").and_then(|t| parse_seccomp(&t)),
            memlock,
        }
    }
}

fn parse_io_uring_disabled(text: &str) -> Option<u8> {
    text.trim().parse().ok().filter(|value| *value <= 2)
}

/// Whether the `Seccomp:` line of a status file says filter mode (2).
fn parse_seccomp(status: &str) -> Option<bool> {
    let mode = status.lines().find_map(|l| l.strip_prefix("Seccomp:"))?;
    mode.trim().parse::<u8>().ok().map(|mode| mode == 2)
}

/// The operations shards use. The probe cannot see the multishot forms of accept and receive
/// (5.19, 6.0), but a kernel that knows `IORING_SETUP_DEFER_TASKRUN` (6.1) has them.
const NEEDED_OPS: [(u8, &str); 7] = [
    (opcode::Accept::CODE, "IORING_OP_ACCEPT"),
    (opcode::Connect::CODE, "IORING_OP_CONNECT"),
    (opcode::Recv::CODE, "IORING_OP_RECV"),
    (opcode::Send::CODE, "IORING_OP_SEND"),
    (opcode::PollAdd::CODE, "IORING_OP_POLL_ADD"),
    (opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL"),
    (opcode::MsgRingData::CODE, "IORING_OP_MSG_RING"),
];

/// Makes a small ring the way shards do and uses each of the three system calls on it.
fn try_ring() -> Result<(), RingFailure> {
    let flags = "IORING_SETUP_SINGLE_ISSUER with IORING_SETUP_DEFER_TASKRUN";
    // Before the ring, so that the ring is gone before the memory is.
    let memory = vec![0; 2 * BUFFER_RING_ALIGN];
    let mut ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(4)
        .map_err(|error| RingFailure::new(RingCall::Setup, flags, error))?;
    try_operations(&ring)?;
    try_buffer_ring(&ring, &memory)
        .map_err(|error| RingFailure::new(RingCall::Register, "registered buffer rings", error))?;
    try_submit(&mut ring).map_err(|error| RingFailure::new(RingCall::Enter, "IORING_OP_NOP", error))
}

fn try_operations(ring: &IoUring) -> Result<(), RingFailure> {
    let register = |feature, error| RingFailure::new(RingCall::Register, feature, error);
    let mut known = Probe::new();
    ring.submitter()
        .register_probe(&mut known)
        .map_err(|error| register("IORING_REGISTER_PROBE", error))?;
    match NEEDED_OPS.iter().find(|(op, _)| !known.is_supported(*op)) {
        None => Ok(()),
        Some((_, name)) => Err(register(name, io::Error::from_raw_os_error(libc::EINVAL))),
    }
}

/// The kernel asks that a buffer ring starts on a page; this is the largest page size of the
/// platforms we run on.
const BUFFER_RING_ALIGN: usize = 64 * 1024;
const BUFFER_RING_ENTRIES: u16 = 8;
const BUFFER_GROUP: u16 = 0;

/// Registers a buffer ring somewhere in `memory` and takes it back.
fn try_buffer_ring(ring: &IoUring, memory: &[u8]) -> io::Result<()> {
    let start = memory.as_ptr().align_offset(BUFFER_RING_ALIGN);
    let bytes = size_of::<BufRingEntry>() * usize::from(BUFFER_RING_ENTRIES);
    let entries = memory
        .get(start..start.saturating_add(bytes))
        .ok_or(io::ErrorKind::OutOfMemory)?;
    let (address, submitter) = (entries.as_ptr() as u64, ring.submitter());
    // SAFETY: `entries` is as long as the registered entries and outlives the registration: that
    // ends two lines below, or with the ring, which the caller drops before the memory. The
    // kernel reads the entries only to serve receives, and none is submitted for this group.
    unsafe {
        submitter.register_buf_ring_with_flags(address, BUFFER_RING_ENTRIES, BUFFER_GROUP, 0)?;
    }
    submitter.unregister_buf_ring(BUFFER_GROUP)
}

fn try_submit(ring: &mut IoUring) -> io::Result<()> {
    let nop = opcode::Nop::new().build();
    // SAFETY: a no-op refers to no memory.
    unsafe { ring.submission().push(&nop) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    match ring.completion().next().map(|done| done.result()) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Names the cause of a failed ring test.
///
/// ```text
///   ENOSYS        sysctl file exists, or seccomp filter  -> seccomp (some filters say ENOSYS)
///                 otherwise                              -> no io_uring
///   EPERM,EACCES  setup, sysctl 2 / 1                    -> switched off for all / unprivileged
///                 surely no seccomp filter               -> security module
///                 otherwise                              -> seccomp
///   ENOMEM        -> memory        EMFILE, ENFILE -> descriptors        EINVAL -> feature
/// ```
fn classify(failure: RingFailure, around: &Surroundings) -> ProbeError {
    let RingFailure {
        call,
        feature,
        error,
    } = failure;
    // The sysctl is looked at by io_uring_setup alone; the other calls fail for other reasons.
    let switch = around
        .io_uring_disabled
        .filter(|_| call == RingCall::Setup)
        .unwrap_or(0);
    let kernel_has_it = around.io_uring_disabled.is_some() || call != RingCall::Setup;
    match (error.raw_os_error(), switch) {
        (Some(libc::ENOSYS), _) if kernel_has_it || around.seccomp == Some(true) => {
            ProbeError::RingDeniedBySeccomp { call }
        }
        (Some(libc::ENOSYS), _) => ProbeError::RingMissing,
        (Some(libc::EPERM | libc::EACCES), 2) => ProbeError::RingDisabledForAll,
        (Some(libc::EPERM | libc::EACCES), 1) => ProbeError::RingDisabledForUnprivileged,
        (Some(libc::EPERM | libc::EACCES), _) if around.seccomp == Some(false) => {
            ProbeError::RingDeniedByPolicy { call }
        }
        (Some(libc::EPERM | libc::EACCES), _) => ProbeError::RingDeniedBySeccomp { call },
        (Some(libc::ENOMEM), _) => ProbeError::RingOutOfMemory {
            memlock: around.memlock,
        },
        (Some(libc::EMFILE | libc::ENFILE), _) => ProbeError::RingOutOfDescriptors,
        (Some(libc::EINVAL), _) => ProbeError::RingFeatureMissing { feature },
        _ => ProbeError::RingBroken {
            call,
            source: error,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classified(call: RingCall, errno: i32, around: Surroundings) -> String {
        let error = io::Error::from_raw_os_error(errno);
        let text = classify(RingFailure::new(call, "FEATURE", error), &around).to_string();
        assert!(!text.contains('\n') && !text.ends_with('.') && !text.contains("  "));
        text
    }

    fn around(io_uring_disabled: Option<u8>, seccomp: Option<bool>) -> Surroundings {
        Surroundings {
            io_uring_disabled,
            seccomp,
            memlock: 65_536,
        }
    }

    #[test]
    fn a_kernel_release_yields_its_first_two_numbers() {
        let parsed = |text| parse_release(text).map(|v| (v.major, v.minor));
        assert_eq!(parsed("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(parsed("6.12-rc3\n"), Some((6, 12)));
        assert_eq!(parsed("6.6.87.2-microsoft-standard-WSL2"), Some((6, 6)));
        for bad in ["", "6", "6.", "x.1", "6.x", "99999999999.1"] {
            assert_eq!(parsed(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn kernels_before_6_1_are_refused() {
        assert!(check_kernel("6.1.0").is_ok());
        let old = check_kernel("5.15.0-100-generic").unwrap_err().to_string();
        assert!(
            old.contains("5.15.0-100-generic") && old.contains("6.1"),
            "{old}"
        );
        assert!(check_kernel("6.0.19").is_err());
        let odd = check_kernel("custom").unwrap_err();
        assert!(matches!(odd, ProbeError::KernelUnknown { .. }));
    }

    #[test]
    fn enosys_means_no_io_uring_unless_a_filter_is_likelier() {
        let bare = classified(RingCall::Setup, libc::ENOSYS, around(None, Some(false)));
        assert!(bare.contains("CONFIG_IO_URING"), "{bare}");
        for (sysctl, seccomp) in [(None, Some(true)), (Some(0), Some(false)), (Some(0), None)] {
            let text = classified(RingCall::Setup, libc::ENOSYS, around(sysctl, seccomp));
            assert!(text.contains("seccomp"), "{text}");
        }
        let later = classified(RingCall::Enter, libc::ENOSYS, around(None, None));
        assert!(later.starts_with("io_uring_enter"), "{later}");
    }

    #[test]
    fn eperm_with_the_sysctl_set_names_the_sysctl() {
        let all = classified(RingCall::Setup, libc::EPERM, around(Some(2), Some(true)));
        assert!(all.contains("kernel.io_uring_disabled=2"), "{all}");
        assert!(
            all.contains("sysctl -w kernel.io_uring_disabled=0"),
            "{all}"
        );
        let some = classified(RingCall::Setup, libc::EPERM, around(Some(1), None));
        assert!(some.contains("kernel.io_uring_disabled=1"), "{some}");
        assert!(some.contains("kernel.io_uring_group"), "{some}");
    }

    #[test]
    fn eperm_otherwise_names_the_seccomp_profile() {
        for (sysctl, seccomp) in [(Some(0), Some(true)), (None, Some(true)), (None, None)] {
            let text = classified(RingCall::Setup, libc::EPERM, around(sysctl, seccomp));
            assert!(text.contains("--security-opt seccomp="), "{text}");
            for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
                assert!(text.contains(call), "{text}");
            }
        }
        // The sysctl has no say in the calls after setup.
        let text = classified(RingCall::Register, libc::EPERM, around(Some(1), Some(true)));
        assert!(text.starts_with("io_uring_register is denied"), "{text}");
    }

    #[test]
    fn eperm_without_sysctl_and_filter_names_the_security_module() {
        for errno in [libc::EPERM, libc::EACCES] {
            let text = classified(RingCall::Setup, errno, around(Some(0), Some(false)));
            assert!(text.contains("SELinux"), "{text}");
        }
    }

    #[test]
    fn lack_of_memory_descriptors_and_features_are_told_apart() {
        let text = |errno| classified(RingCall::Setup, errno, around(Some(0), Some(false)));
        let memory = text(libc::ENOMEM);
        assert!(memory.contains("64 KiB") && memory.contains("LimitMEMLOCK=infinity"));
        assert!(memory.contains("ulimit -l"), "{memory}");
        assert!(text(libc::EMFILE).contains("LimitNOFILE"));
        assert!(text(libc::ENFILE).contains("fs.file-max"));
        assert!(text(libc::EINVAL).contains("lacks FEATURE"));
        assert!(text(libc::EFAULT).starts_with("io_uring_setup failed"));
    }

    #[test]
    fn kernel_texts_are_read() {
        assert_eq!(parse_io_uring_disabled("2\n"), Some(2));
        assert_eq!(parse_io_uring_disabled("7\n"), None);
        let status = |mode: &str| parse_seccomp(&format!("Name:\tx\nSeccomp:\t{mode}\nZ:\t1\n"));
        assert_eq!(status("0"), Some(false));
        assert_eq!(status("2"), Some(true));
        assert_eq!(parse_seccomp("Seccomp_filters:\t1\n"), None);
    }

    #[test]
    fn limits_are_only_raised_and_only_when_needed() {
        let limit = |soft, hard| Limit { soft, hard };
        assert_eq!(raise_attempts(limit(8, 8), 8), []);
        assert_eq!(raise_attempts(limit(8, 64), 8), []);
        assert_eq!(raise_attempts(limit(8, 64), 32), [limit(64, 64)]);
        assert_eq!(raise_attempts(limit(8, 8), 16), [limit(16, 16)]);
        let both = [limit(16, 16), limit(12, 12)];
        assert_eq!(raise_attempts(limit(8, 12), 16), both);
        assert_eq!(raise_attempts(limit(u64::MAX, u64::MAX), u64::MAX), []);
    }

    #[test]
    fn each_shard_needs_half_a_mebibyte_of_lockable_memory() {
        let four = ShardCount::new(4).unwrap();
        assert!(check_memlock(2048 * 1024, four).is_ok());
        let text = check_memlock(64 * 1024, four).unwrap_err().to_string();
        for part in [
            "64 KiB",
            "4 shard(s)",
            "2048 KiB",
            "LimitMEMLOCK=infinity",
            "ulimit -l 2048",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    /// Sandboxes without `io_uring` run this too, so a refusal counts if it explains itself.
    #[test]
    fn this_machine_passes_or_gets_one_sentence() {
        let text = match probe_host(ShardCount::ONE) {
            Ok(report) => report.to_string(),
            Err(error) => error.to_string(),
        };
        println!("{text}");
        assert!(!text.is_empty() && !text.contains('\n'));
    }
}
