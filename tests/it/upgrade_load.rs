//! Binary upgrade: many in a row, under load.
//!
//! Owns: what pgbench counts, what is left of processes, memory and descriptors.
//! Does not own: what goes over (`upgrade_moves`, `upgrade_sessions`).
//! Invariant: no process of a chain outlives its test.
//!
//! `UPGRADES=50` has it make that many upgrades instead of 10, and tell what it has seen.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{Config, Doorman, Postgres, eventually};
use crate::upgrade::{Chain, is_running};

/// Server connections of the pool.
const SIZE: usize = 8;
/// Clients of each kind.
const CLIENTS: usize = 10;
/// Time that one upgrade is given.
const ROUND: Duration = Duration::from_millis(400);

/// A pgbench whose servers are still found by the name that the pooler gives them.
fn pgbench(doorman: &Doorman, protocol: &str, seconds: u64) -> Child {
    // Of the other protocols pgbench waits for the answer to each Parse, with other transactions open.
    let script = match protocol {
        "simple" => "tests/it/fixtures/upgrade.pgbench",
        _ => "tests/it/fixtures/upgrade_single.pgbench",
    };
    Command::new("pgbench")
        .args(["-n", "-h", "127.0.0.1", "-U", "app", "-M", protocol])
        .args(["-f", script, "-j", "1"])
        .args(["-c", &CLIENTS.to_string(), "-T", &seconds.to_string()])
        .args(["-p", &doorman.port().to_string(), "it"])
        .env("PGAPPNAME", doorman.application_name())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Descriptors of a process, and KiB that are its own.
fn weigh(pid: &str) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = maps
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .map(|line| line.split_whitespace().nth(1).unwrap());
    (
        descriptors,
        private.map(|kib| kib.parse::<u64>().unwrap()).sum(),
    )
}

#[test]
fn upgrades_in_a_row_under_load_are_not_noticed() {
    let count = std::env::var("UPGRADES").map_or(10, |text| text.parse().unwrap());
    let config = Config::new(Postgres::shared()).shards(2).pool_size(SIZE);
    let chain = Chain::start(config);
    let seconds = 3 + (ROUND * count).as_secs();
    let protocols = ["simple", "extended", "prepared"];
    let mut all: Vec<_> = (0..SIZE).map(|_| chain.0.connect()).collect();
    for client in &mut all {
        client.execute("begin");
        client.execute("select 1");
    }
    for client in &mut all {
        client.execute("commit");
    }
    let load = protocols.map(|protocol| pgbench(&chain.0, protocol, seconds));
    let mut idle = chain.0.connect();
    idle.execute("set timezone to 'Asia/Tokyo'");
    let servers = || chain.0.server_pids(Postgres::shared());
    let first = servers();
    assert_eq!(first.len(), SIZE);
    let (mut begin, mut longest) = (None, Duration::ZERO);
    for number in 0..count {
        let (old, since) = (chain.present(), Instant::now());
        chain.upgrade();
        eventually("the old process ends", || !is_running(&old));
        longest = longest.max(since.elapsed());
        if number == 0 {
            begin = Some(weigh(&chain.present()));
        }
        // Spread over the time that the load lasts.
        std::thread::sleep(ROUND.saturating_sub(since.elapsed()));
    }
    let kept = servers().iter().filter(|pid| first.contains(pid)).count();
    let (before, after) = (begin.unwrap(), weigh(&chain.present()));
    for (child, protocol) in load.into_iter().zip(protocols) {
        let output = child.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        let failed = "number of failed transactions: 0 (0.000%)";
        assert!(output.status.success(), "{protocol}: {complaints}");
        assert!(told.contains(failed), "{protocol}: {told} {complaints}");
        if count > 10 {
            eprintln!("{protocol}: {told}");
        }
    }
    assert_eq!(idle.value("show timezone"), "Asia/Tokyo");
    assert_eq!(chain.heirs().len(), count as usize);
    let running = chain.heirs().iter().filter(|pid| is_running(pid)).count();
    assert_eq!(running, 1);
    eprintln!(
        "{count} upgrades: the slowest took {longest:?}; {kept} of {SIZE} servers are those of the beginning; \
         descriptors {} -> {}, private KiB {} -> {}",
        before.0, after.0, before.1, after.1
    );
    assert!(after.0 <= before.0 + 8, "{before:?} {after:?}");
    assert!(after.1 <= before.1 + 8192, "{before:?} {after:?}");
    assert!(kept * 10 >= SIZE * 9, "{kept} of {SIZE}");
}
