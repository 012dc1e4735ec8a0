//! Binary upgrade: another process takes over, and clients go on.
//!
//! Owns: chains of processes, of which the first is a [`Doorman`].
//! Does not own: how they talk to each other.
//! Invariant: no process of a chain outlives its test.

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::cancel::cancel;
use crate::common::{
    Config, Doorman, Postgres, eventually, message, unique, with_one_and_two_shards,
};

with_one_and_two_shards!(
    idle_clients_go_to_the_new_process,
    transactions_end_before_their_clients_go,
    cancel_keys_stay_valid,
    a_refused_configuration_changes_nothing,
    a_process_that_ends_at_once_changes_nothing,
    the_console_upgrades,
    a_pause_goes_on,
    upgrades_follow_each_other_under_load,
    the_old_process_serves_again_if_the_new_one_ends,
    clients_that_a_killed_process_had_not_confirmed_go_on,
    servers_of_both_processes_are_at_most_the_pool_size,
);

/// What the old process says when the new one has taken over.
const SERVES: &str = "the new process serves, clients go there pid=";

pub(crate) struct Chain(pub(crate) Doorman);

impl Chain {
    pub(crate) fn start(config: Config) -> Self {
        Self(config.start())
    }

    /// The processes that have taken over.
    pub(crate) fn heirs(&self) -> Vec<String> {
        let log = self.0.log();
        let behind = log.split(SERVES).skip(1);
        behind
            .filter_map(|text| text.split_whitespace().next().map(str::to_owned))
            .collect()
    }

    /// The process that accepts clients.
    pub(crate) fn present(&self) -> String {
        self.heirs()
            .pop()
            .unwrap_or_else(|| self.0.pid().to_string())
    }

    pub(crate) fn signal(&self, signal: &str) {
        kill(signal, &self.present());
    }

    /// Signals the process that the test has started.
    pub(crate) fn signal_first(&self, signal: &str) {
        kill(signal, &self.0.pid().to_string());
    }

    /// Upgrades and waits until the new process serves.
    pub(crate) fn upgrade(&self) {
        let before = self.heirs().len();
        self.signal("-USR2");
        eventually("the new process serves", || self.heirs().len() > before);
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        for heir in self.heirs() {
            kill("-KILL", &heir);
        }
    }
}

pub(crate) fn kill(signal: &str, pid: &str) {
    let mut command = Command::new("/bin/kill");
    // It may have ended.
    let _ = command.args([signal, pid]).stderr(Stdio::null()).status();
}

pub(crate) fn config(shards: usize) -> Config {
    Config::new(Postgres::shared()).shards(shards).pool_size(2)
}

fn idle_clients_go_to_the_new_process(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let mut idle: Vec<_> = (0..20).map(|_| chain.0.connect()).collect();
    for client in &mut idle {
        client.execute("set timezone to 'Asia/Tokyo'");
        let parse = [message::parse("named", "select 5")];
        client.batch(&parse);
    }
    chain.upgrade();
    assert_eq!(chain.0.wait().code(), Some(0), "nobody is left");
    for client in &mut idle {
        assert_eq!(client.value("show timezone"), "Asia/Tokyo");
        let run = [message::bind("", "named", &[]), message::execute("", 0)];
        assert_eq!(client.batch(&run).value(), "5");
    }
    chain.0.assert_serves();
}

fn transactions_end_before_their_clients_go(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let mut busy = chain.0.connect();
    busy.execute("begin");
    let pid = busy.backend_pid();
    chain.upgrade();
    chain.0.assert_serves();
    assert_eq!(busy.backend_pid(), pid);
    busy.execute("commit");
    assert_eq!(chain.0.wait().code(), Some(0));
    assert_eq!(busy.value("select 7"), "7");
}

fn psql(port: u16, sql: &str) -> std::process::Child {
    Command::new("psql")
        .args(["-X", "-q", "-A", "-t", "-h", "127.0.0.1", "-U", "app", "-p"])
        .arg(port.to_string())
        .args(["-d", "it", "-c", sql])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn wait_until_running(mark: &str) {
    let sql = format!(
        "select 1 from pg_stat_activity where state = 'active' and query like '%{mark}%' \
         and pid <> pg_backend_pid()"
    );
    eventually("the query runs", || {
        !Postgres::shared().sql(&sql).is_empty()
    });
}

fn cancel_keys_stay_valid(shards: usize) {
    let mut chain = Chain::start(config(shards));
    // One is cancelled while the old process still has it, one when it has moved.
    let mark = unique("upgrade_cancel");
    let staying = psql(chain.0.port(), &format!("select pg_sleep(60) as {mark}"));
    wait_until_running(&mark);
    let mut moving = chain.0.connect();
    moving.execute("select 1");
    let key = moving.key.clone();
    chain.upgrade();
    kill("-INT", &staying.id().to_string());
    let output = staying.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("due to user request"), "{told}");
    assert_eq!(chain.0.wait().code(), Some(0));
    let mark = unique("upgrade_cancel");
    moving.send(&message::query(&format!("select pg_sleep(60) as {mark}")));
    wait_until_running(&mark);
    cancel(chain.0.port(), &key);
    assert_eq!(moving.reply().sqlstate(), "57014");
}

fn a_refused_configuration_changes_nothing(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    chain.0.rewrite_text("nonsense");
    chain.signal("-USR2");
    eventually("the upgrade is given up", || {
        chain.0.log().contains("BINARY UPGRADE ABORTED")
    });
    assert_eq!(client.value("select 1"), "1");
    chain.0.rewrite(config(shards));
    chain.upgrade();
    assert_eq!(client.value("select 2"), "2");
}

fn a_process_that_ends_at_once_changes_nothing(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    // Fine to look at, but not to be listened on.
    chain
        .0
        .rewrite(config(shards).general("unix_socket_dir", "/nowhere"));
    chain.signal("-USR2");
    eventually("the upgrade is given up", || {
        chain.0.log().contains("BINARY UPGRADE ABORTED")
    });
    assert_eq!(client.value("select 1"), "1");
    chain.0.assert_serves();
}

fn the_console_upgrades(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let mut client = chain.0.connect();
    let login = chain.0.login().user("admin").database("pgdoorman");
    let mut console = login.password("admin").connect();
    console.execute("upgrade");
    drop(console);
    assert_eq!(client.value("select 1"), "1");
    assert_eq!(chain.0.wait().code(), Some(0));
    assert_eq!(client.value("select 2"), "2");
}

fn a_pause_goes_on(shards: usize) {
    let mut chain = Chain::start(config(shards));
    let login = || chain.0.login().user("admin").database("pgdoorman");
    let (mut waiting, mut later) = (chain.0.connect(), chain.0.connect());
    login().password("admin").connect().execute("pause");
    waiting.send(&message::query("select 1"));
    let port = chain.0.port();
    chain.upgrade();
    assert_eq!(chain.0.wait().code(), Some(0));
    later.send(&message::query("select 2"));
    let console = crate::common::Login::new(port);
    let mut console = console
        .user("admin")
        .database("pgdoorman")
        .password("admin")
        .connect();
    assert!(chain.0.server_pids(Postgres::shared()).is_empty());
    console.execute("resume");
    assert_eq!(waiting.reply().value(), "1");
    assert_eq!(later.reply().value(), "2");
}

fn upgrades_follow_each_other_under_load(shards: usize) {
    let chain = Chain::start(config(shards).pool_size(8));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also when something fails: the others must not go on for ever.
        let end = End(&is_over);
        let clients: Vec<_> = (0..50)
            .map(|_| {
                scope.spawn(|| {
                    let mut client = chain.0.connect();
                    let mut count = 0_u32;
                    while !is_over.load(Ordering::Relaxed) {
                        client.execute("begin");
                        assert_eq!(client.value(&format!("select {count}")), count.to_string());
                        client.execute("commit");
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let newcomers = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                chain.0.assert_serves();
            }
        });
        for _ in 0..4 {
            let old = chain.present();
            chain.upgrade();
            eventually("the old process ends", || !is_running(&old));
        }
        drop(end);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
        newcomers.join().unwrap();
    });
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process that has ended and that nobody has asked about yet does not run.
pub(crate) fn is_running(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    status.is_ok_and(|status| !status.contains(") Z "))
}

fn the_old_process_serves_again_if_the_new_one_ends(shards: usize) {
    let chain = Chain::start(config(shards));
    let mut busy = chain.0.connect();
    busy.execute("begin");
    chain.upgrade();
    chain.signal("-KILL");
    eventually("the old process serves again", || {
        chain.0.log().contains("this one serves again")
    });
    eventually("clients are let in", || {
        TcpStream::connect(("127.0.0.1", chain.0.port())).is_ok()
    });
    assert_eq!(busy.value("select 1"), "1");
    busy.execute("commit");
    chain.0.assert_serves();
    assert_eq!(busy.value("select 2"), "2");
}

/// Of what the old process says when it serves again, the number behind `key`.
fn counted(log: &str, key: &str) -> usize {
    let line = log.lines().rfind(|line| line.contains("serves again"));
    let behind = line.and_then(|line| line.split_once(key));
    let number = behind.and_then(|(_, text)| text.split_whitespace().next());
    number.unwrap().parse().unwrap()
}

fn clients_that_a_killed_process_had_not_confirmed_go_on(shards: usize) {
    for pause in [0, 1, 2, 4, 8, 16, 32] {
        let chain = Chain::start(config(shards));
        let mut idle: Vec<_> = (0..150).map(|_| chain.0.connect()).collect();
        let mut busy = chain.0.connect();
        busy.execute("begin");
        chain.upgrade();
        // At different stages of what the new process does first.
        std::thread::sleep(Duration::from_millis(pause));
        chain.signal("-KILL");
        eventually("the old process serves again", || {
            chain.0.log().contains("this one serves again")
        });
        let log = chain.0.log();
        let (lost, back) = (
            counted(&log, "clients_lost="),
            counted(&log, "clients_back="),
        );
        let served = idle.iter_mut().filter_map(|client| {
            let reply = client.try_query("select 1");
            reply.ok()
        });
        assert_eq!(
            served.count(),
            150 - lost,
            "after {pause} ms, {back} came back"
        );
        busy.execute("commit");
        chain.0.assert_serves();
    }
}

fn servers_of_both_processes_are_at_most_the_pool_size(shards: usize) {
    let chain = Chain::start(config(shards).general("query_wait_timeout", "300ms"));
    let mut busy = chain.0.connect();
    busy.execute("begin");
    chain.upgrade();
    let mut first = chain.0.connect();
    first.execute("begin");
    let mut second = chain.0.connect();
    assert!(
        second.try_query("select 1").is_err() || chain.0.server_pids(Postgres::shared()).len() <= 2
    );
    assert!(chain.0.server_pids(Postgres::shared()).len() <= 2);
    busy.execute("commit");
    let mut third = chain.0.connect();
    third.set_deadline(Duration::from_secs(10));
    assert_eq!(third.value("select 3"), "3");
}
