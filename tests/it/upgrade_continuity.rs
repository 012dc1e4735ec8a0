//! Binary upgrade: what was counted goes on, consoles are told, and few descriptors lose nobody.
//!
//! Owns: statistics, consoles and limits of descriptors over an upgrade.
//! Does not own: chains of processes (`upgrade`).
//! Invariant: a limit of descriptors is that of one process, never of the test.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{
    Client, Config, DEADLINE, Login, eventually, message, port, program, unique,
    with_one_and_two_shards,
};
use crate::metrics::scrape;
use crate::statistics::show;
use crate::upgrade::{Chain, config, is_running};

with_one_and_two_shards!(
    what_was_counted_goes_on,
    no_counter_falls_while_processes_follow_each_other,
    what_a_lost_process_was_told_is_not_counted_twice,
    a_console_is_told_when_everybody_else_has_gone,
    a_process_with_few_descriptors_takes_clients_as_others_go,
    who_finds_no_descriptor_is_told_in_the_end,
    without_descriptors_an_upgrade_is_given_up,
);

/// What a process says that has no descriptor for a client.
const CROWDED: &str = "too many descriptors are open";
/// Clients that are more than the new process has descriptors for.
const CROWD: usize = 80;

fn console(port: u16) -> Client {
    let login = Login::new(port).user("admin").database("pgdoorman");
    login.password("admin").connect()
}

fn counted(port: u16, column: &str) -> u64 {
    let rows = show(&mut console(port), "stats");
    let row = rows.iter().find(|row| row["database"] == "it").unwrap();
    row[column].parse().unwrap()
}

fn queries(port: u16) -> u64 {
    counted(port, "total_query_count")
}

fn upgrade_whole(chain: &Chain) {
    let old = chain.present();
    chain.upgrade();
    eventually("the old process ends", || !is_running(&old));
}

/// Samples that never fall.
fn growing(port: u16) -> BTreeMap<String, f64> {
    let mut samples = scrape(port);
    samples.retain(|series, _| {
        let name = series.split('{').next().unwrap_or_default();
        let ends = ["_total", "_bucket", "_sum", "_count"];
        ends.iter().any(|end| name.ends_with(end)) && !series.contains("backend_pid")
    });
    samples
}

fn assert_grows(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) {
    for (series, value) in before {
        let now = after.get(series);
        assert!(
            now.is_some_and(|now| now >= value),
            "{series}: {value}, then {now:?}"
        );
    }
}

fn what_was_counted_goes_on(shards: usize) {
    let metrics = port::free();
    let chain = Chain::start(config(shards).metrics(metrics));
    let port = chain.0.port();
    let mut clients: Vec<_> = (0..5).map(|_| chain.0.connect()).collect();
    for client in &mut clients {
        client.execute("select 1");
        client.execute("select pg_sleep(0.01)");
    }
    let mut busy = chain.0.connect();
    busy.execute("begin");
    busy.execute("select 2");
    eventually("all is counted", || queries(port) == 12);
    let before = growing(metrics);
    chain.upgrade();
    // Counted in the old process, which has told its totals before.
    busy.execute("select 3");
    busy.execute("select 4");
    for client in &mut clients {
        client.execute("select 5");
    }
    busy.execute("commit");
    eventually("the old process ends", || {
        !is_running(&chain.0.pid().to_string())
    });
    eventually("all is counted once", || queries(port) == 20);
    let after = growing(metrics);
    assert_grows(&before, &after);
    let of = |samples: &BTreeMap<String, f64>, part: &str| -> f64 {
        let all = samples.iter();
        all.filter(|(series, _)| series.contains(part))
            .map(|(_, value)| value)
            .sum()
    };
    let accepted = "pg_doorman_shard_clients_accepted_total";
    assert!(of(&after, accepted) >= of(&before, accepted));
    assert!(of(&before, accepted) >= 6.0);
    for step in 1..=3 {
        upgrade_whole(&chain);
        for client in &mut clients {
            client.execute("select 6");
        }
        let expected = 20 + step * 5;
        eventually("all is counted once", || queries(port) == expected);
    }
    assert_grows(&after, &growing(metrics));
    assert!(counted(port, "total_query_time") >= 50_000);
}

fn no_counter_falls_while_processes_follow_each_other(shards: usize) {
    let metrics = port::free();
    let chain = Chain::start(config(shards).metrics(metrics));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let mut client = chain.0.connect();
            let mut count = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                client.execute("select 1");
                count += 1;
            }
            count
        });
        let reader = scope.spawn(|| {
            let mut before = growing(metrics);
            while !is_over.load(Ordering::Relaxed) {
                let after = growing(metrics);
                assert_grows(&before, &after);
                before = after;
            }
        });
        let upgrades = scope.spawn(|| {
            for _ in 0..3 {
                upgrade_whole(&chain);
            }
        });
        let outcome = upgrades.join();
        is_over.store(true, Ordering::Relaxed);
        let count = load.join().unwrap();
        reader.join().unwrap();
        outcome.unwrap();
        eventually("all is counted once", || queries(chain.0.port()) == count);
    });
}

fn what_a_lost_process_was_told_is_not_counted_twice(shards: usize) {
    let chain = Chain::start(config(shards));
    let port = chain.0.port();
    let mut busy = chain.0.connect();
    for _ in 0..3 {
        busy.execute("select 1");
    }
    busy.execute("begin");
    chain.upgrade();
    chain.signal("-KILL");
    eventually("the old process serves again", || {
        chain.0.log().contains("this one serves again")
    });
    busy.execute("commit");
    eventually("what was counted is there", || queries(port) == 5);
    let present = chain.0.pid().to_string();
    let heirs = chain.heirs().len();
    chain.signal_first("-USR2");
    eventually("the next process serves", || chain.heirs().len() > heirs);
    eventually("the old process ends", || !is_running(&present));
    busy.execute("select 2");
    eventually("all is counted once", || queries(port) == 6);
}

fn a_console_is_told_when_everybody_else_has_gone(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let port = chain.0.port();
    let mut idle = console(port);
    idle.execute("show version");
    let mut busy = chain.0.connect();
    busy.execute("begin");
    chain.upgrade();
    // It goes on in the old process as long as that has others.
    idle.execute("show version");
    busy.execute("commit");
    let told = idle.expect('E').error_fields();
    assert_eq!((&*told.severity, &*told.sqlstate), ("FATAL", "57P01"));
    assert!(idle.is_closed());
    assert_eq!(chain.0.wait().code(), Some(0));
    console(port).execute("show version");
}

fn descriptors(pid: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// A program whose heirs may have as many descriptors as a file says, and that file.
fn limited() -> (std::path::PathBuf, std::path::PathBuf) {
    let name = format!("doorman-it-{}-{}", std::process::id(), unique("limited"));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).unwrap();
    let (path, limit) = (directory.join("pg_doorman"), directory.join("limit"));
    let text = format!(
        "#!/bin/bash\n[ -n \"$PG_DOORMAN_UPGRADE_FD\" ] && ulimit -n $(cat {})\nexec -a \"$0\" {} \"$@\"\n",
        limit.display(),
        program().display()
    );
    std::fs::write(&path, text).unwrap();
    let made = Command::new("chmod").arg("755").arg(&path).status();
    assert!(made.unwrap().success());
    (path, limit)
}

/// A process with a crowd of clients, and a limit for the one after it that leaves room for a part of them.
fn crowded(config: Config) -> (Chain, Vec<Client>) {
    let (path, limit) = limited();
    let chain = Chain::start(config.program(path));
    let own = descriptors(&chain.present());
    std::fs::write(limit, (own + 30).to_string()).unwrap();
    let clients = (0..CROWD).map(|_| chain.0.connect()).collect();
    (chain, clients)
}

fn a_process_with_few_descriptors_takes_clients_as_others_go(shards: usize) {
    let (mut chain, clients) = crowded(config(shards));
    chain.upgrade();
    eventually("the limit is met", || chain.0.log().contains(CROWDED));
    std::thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                client.set_deadline(3 * DEADLINE);
                // The first ones leave no descriptor for a server: they are told that.
                let reply = client.query("select 7");
                assert!(reply.rows.len() == 1 || !reply.sqlstate().is_empty());
                client.terminate();
            });
        }
    });
    assert_eq!(chain.0.wait().code(), Some(0));
    assert_eq!(chain.heirs().len(), 1);
    let log = chain.0.log();
    assert!(
        !log.contains("serves again") && !log.contains("a client of the old process is lost"),
        "{log}"
    );
    chain.0.assert_serves();
}

fn who_finds_no_descriptor_is_told_in_the_end(shards: usize) {
    let (mut chain, clients) = crowded(config(shards).general("shutdown_timeout", "2s"));
    chain.upgrade();
    eventually("the old process ends", || {
        !is_running(&chain.0.pid().to_string())
    });
    assert_eq!(chain.0.wait().code(), Some(0));
    let (mut told, mut taken) = (0, 0);
    for mut client in clients {
        client.set_deadline(Duration::from_millis(20));
        match client.try_receive() {
            Ok(message) => {
                assert_eq!(message.error_fields().sqlstate, "57P01");
                assert!(client.is_closed());
                told += 1;
            }
            Err(error) => {
                assert!(!crate::common::is_close(&error), "closed without a word");
                // The new process has it.
                client.set_deadline(DEADLINE);
                client.send(&message::query("select 8"));
                let reply = client.reply();
                assert!(reply.rows.len() == 1 || !reply.sqlstate().is_empty());
                client.terminate();
                taken += 1;
            }
        }
    }
    assert!(told > 0 && taken > 0, "{told} told, {taken} taken");
    chain.0.assert_serves();
}

fn limit_descriptors(pid: &str, limit: usize) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", pid, &format!("--nofile={limit}:8192")]);
    assert!(command.status().unwrap().success());
}

fn without_descriptors_an_upgrade_is_given_up(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    client.execute("select 1");
    let pid = chain.0.pid().to_string();
    let failed = |chain: &Chain| chain.0.log().matches("BINARY UPGRADE ABORTED").count();
    let mut failures = 0;
    for room in 0..16 {
        limit_descriptors(&pid, descriptors(&pid) + room);
        chain.signal_first("-USR2");
        let before = failures;
        eventually("it is given up, or succeeds", || {
            failures = failed(&chain);
            failures > before || !chain.heirs().is_empty()
        });
        if failures == before {
            break;
        }
        assert_eq!(client.value("select 2"), "2");
    }
    assert!(failures > 0);
    limit_descriptors(&pid, 4096);
    if chain.heirs().is_empty() {
        chain.upgrade();
    }
    assert_eq!(client.value("select 3"), "3");
    assert_eq!(chain.0.wait().code(), Some(0));
    assert_eq!(client.value("select 4"), "4");
}
