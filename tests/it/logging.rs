//! The log: clients that come and go, slow queries, repeats, levels, forms, syslog.
//!
//! Source: RFC 3164, section 4.1.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::common::{
    Client, Config, DEADLINE, Doorman, Postgres, eventually, message, port, unique,
    with_one_and_two_shards,
};

with_one_and_two_shards!(
    each_end_of_a_client_is_told_with_its_reason,
    ends_can_be_told_without_beginnings,
    nothing_is_told_of_clients_by_default,
    slow_queries_are_told_with_their_text,
    quick_queries_are_not_told,
    slow_queries_follow_the_settings,
    repeats_are_counted_and_told_once,
    level_changes_while_the_process_runs,
    level_in_the_file_goes_before_the_command_line,
    lines_of_json_are_whole,
    what_a_client_sends_begins_no_line,
    syslog_gets_everything,
    missing_syslog_is_told_at_start,
    parameters_that_change_are_told_where_that_is_wanted,
);

fn config(shards: usize) -> Config {
    Config::new(Postgres::shared())
        .shards(shards)
        .hba("host all all 127.0.0.1/32 trust")
}

fn console(doorman: &Doorman) -> Client {
    doorman
        .login()
        .user("admin")
        .database("pgdoorman")
        .connect()
}

/// The lines of the log with all of `parts`.
fn lines(doorman: &Doorman, parts: &[&str]) -> Vec<String> {
    let log = doorman.log();
    let has_all = |line: &&str| parts.iter().all(|part| line.contains(part));
    log.lines().filter(has_all).map(str::to_owned).collect()
}

fn wait_for_line(doorman: &Doorman, parts: &[&str]) -> String {
    eventually(&format!("the log has {parts:?}"), || {
        !lines(doorman, parts).is_empty()
    });
    lines(doorman, parts).remove(0)
}

fn each_end_of_a_client_is_told_with_its_reason(shards: usize) {
    let doorman = config(shards)
        .general("log_client_connections", true)
        .start();
    let mut client = doorman.connect();
    client.execute("select 1");
    let connected = wait_for_line(&doorman, &["client connected (plain)", "user=app"]);
    assert!(connected.contains("client=127.0.0.1:") && connected.contains("pool=it"));
    client.terminate();
    let line = wait_for_line(&doorman, &["client disconnected", "reason=\"good-bye\""]);
    assert!(
        line.contains("INFO") && line.contains("seconds=0."),
        "{line}"
    );
    let mut client = doorman.connect();
    client.execute("begin");
    drop(client);
    let reason = "reason=\"connection closed without a good-bye\"";
    wait_for_line(&doorman, &["client disconnected", reason]);
    let mut client = doorman.connect();
    client.send(&message::message(b'!', b""));
    let reason = "reason=\"protocol violation\"";
    let line = wait_for_line(&doorman, &["client disconnected", reason]);
    assert!(
        line.contains("WARN") && line.contains("sqlstate=\"08P01\""),
        "{line}"
    );
    let client = doorman.connect();
    console(&doorman).execute("kill it");
    let reason = "reason=\"closed by an operator or a reload\"";
    wait_for_line(&doorman, &["client disconnected", reason]);
    drop(client);
    // One line at the beginning and one at the end, of each of four.
    assert_eq!(lines(&doorman, &["client connected"]).len(), 4);
    assert_eq!(lines(&doorman, &["client disconnected"]).len(), 4);
}

fn ends_can_be_told_without_beginnings(shards: usize) {
    let doorman = config(shards)
        .general("log_client_disconnections", true)
        .start();
    doorman.connect().terminate();
    wait_for_line(&doorman, &["client disconnected"]);
    assert_eq!(lines(&doorman, &["client connected"]), [""; 0]);
}

fn nothing_is_told_of_clients_by_default(shards: usize) {
    let doorman = config(shards).start();
    let mut first = doorman.connect();
    first.execute("select 1");
    first.terminate();
    drop(doorman.connect());
    let mut wrong = doorman.connect();
    wrong.send(&message::message(b'!', b""));
    // An end by an error is told anyhow.
    wait_for_line(&doorman, &["client disconnected", "protocol violation"]);
    assert_eq!(lines(&doorman, &["client disconnected"]).len(), 1);
    assert_eq!(lines(&doorman, &["client connected"]), [""; 0]);
}

fn slow_queries_are_told_with_their_text(shards: usize) {
    let doorman = config(shards).general("log_min_duration", "50ms").start();
    let mut client = doorman.connect();
    client.execute("select pg_sleep(0.06) as slow_one");
    let line = wait_for_line(&doorman, &["slow query", "slow_one"]);
    let told = line
        .split_once(" ms=")
        .and_then(|(_, rest)| rest.split_once('.'));
    let ms = told.map(|(whole, _)| whole.parse::<u32>().expect("a number"));
    assert!(line.contains("user=app") && ms >= Some(60), "{line}");
    // A prepared statement, by its text also when only its name is sent.
    let sql = "select pg_sleep(0.06) as slow_two";
    client.batch(&[message::parse("s", sql)]);
    client.batch(&[message::bind("", "s", &[]), message::execute("", 0)]);
    wait_for_line(&doorman, &["slow query", "slow_two"]);
    // In a pipeline only the first has its text; none has that of another.
    client.send_all(&[
        message::query("select pg_sleep(0.06) as slow_three"),
        message::query("select pg_sleep(0.06) as slow_four"),
    ]);
    client.reply();
    client.reply();
    wait_for_line(&doorman, &["slow query", "slow_three"]);
    wait_for_line(&doorman, &["slow query", "behind others in a pipeline"]);
    assert_eq!(lines(&doorman, &["slow_four"]), [""; 0]);
    let long = format!(
        "select pg_sleep(0.06), '{}' as slow_five",
        "x".repeat(100_000)
    );
    client.execute(&long);
    eventually("the text is cut", || {
        let told = lines(&doorman, &["slow query", "xxxxxxxx", " …"]);
        told.iter().any(|line| line.len() < 1500)
    });
    client.execute("select pg_sleep(0.06), 'my Password is hunter2'");
    wait_for_line(&doorman, &["slow query", "speaks of a password"]);
    assert!(!doorman.log().contains("hunter2"));
}

fn quick_queries_are_not_told(shards: usize) {
    let doorman = config(shards)
        .general("log_min_duration", "1h")
        .general("log_client_connections", true)
        .start();
    let mut client = doorman.connect();
    client.execute("select 1 as quick");
    client.batch(&[message::parse("s", "select 2 as quick")]);
    client.batch(&[message::bind("", "s", &[]), message::execute("", 0)]);
    client.terminate();
    wait_for_line(&doorman, &["client disconnected"]);
    assert_eq!(lines(&doorman, &["quick"]), [""; 0]);
}

fn slow_queries_follow_the_settings(shards: usize) {
    let doorman = config(shards).start();
    let mut client = doorman.connect();
    client.execute("select pg_sleep(0.02) as before_it");
    let mut console = console(&doorman);
    console.execute("set log_min_duration = '10ms'");
    eventually("it is told", || {
        client.execute("select pg_sleep(0.02) as told");
        !lines(&doorman, &["slow query", "as told"]).is_empty()
    });
    assert_eq!(lines(&doorman, &["before_it"]), [""; 0]);
    console.execute("reload");
    let count = |client: &mut Client| {
        client.execute("select pg_sleep(0.02) as after_it");
        lines(&doorman, &["after_it"]).len()
    };
    eventually("it is off again", || {
        let before = count(&mut client);
        count(&mut client) == before
    });
}

fn repeats_are_counted_and_told_once(shards: usize) {
    let doorman = Config::to_port(port::free())
        .shards(shards)
        .general("query_wait_timeout", "100ms")
        .start();
    for _ in 0..30 {
        assert_eq!(doorman.login().refusal().sqlstate(), "3D000");
    }
    let refused = lines(&doorman, &["login refused"]);
    assert!((1..=4).contains(&refused.len()), "{refused:?}");
    let failed = lines(&doorman, &["server connection failed"]);
    assert!((1..=4).contains(&failed.len()), "{failed:?}");
    // The report comes every fifteen seconds.
    let end = Instant::now() + 2 * DEADLINE;
    let told = || {
        lines(
            &doorman,
            &["repeated since the last report", "login refused"],
        )
    };
    while told().is_empty() {
        assert!(Instant::now() < end, "{}", doorman.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let times = |line: &String| {
        let rest = &line[line.find("times=").unwrap() + 6..];
        rest.split(' ').next().unwrap().parse::<usize>().unwrap()
    };
    let held_back: usize = told().iter().map(times).sum();
    assert_eq!(held_back + refused.len(), 30, "{:?}", told());
    assert!(told()[0].contains("client=127.0.0.1"));
}

fn level_changes_while_the_process_runs(shards: usize) {
    let doorman = config(shards).start();
    let mut console = console(&doorman);
    let says_debug = || lines(&doorman, &["DEBUG"]).len();
    doorman.connect().execute("select 1");
    assert_eq!(says_debug(), 0);
    console.execute("set log_level = 'debug'");
    eventually("more is told", || {
        console.execute("reconnect");
        doorman.connect().execute("select 1");
        says_debug() > 0
    });
    let level = |console: &mut Client| {
        let rows = console.rows("show config");
        let row = rows
            .into_iter()
            .find(|row| row[0].as_deref() == Some("log_level"));
        row.unwrap()[1].clone().unwrap()
    };
    eventually("it is shown", || level(&mut console) == "debug");
    assert_eq!(console.error("set log_level = 'loud'").sqlstate, "22023");
    console.execute("reload");
    eventually("the command line counts again", || {
        level(&mut console) == "info"
    });
    console.execute("reconnect");
    let before = says_debug();
    doorman.connect().execute("select 1");
    assert_eq!(says_debug(), before);
    doorman.rewrite(config(shards).general("log_level", "error"));
    console.execute("reload");
    let infos = lines(&doorman, &["INFO"]).len();
    console.execute("reload");
    assert_eq!(lines(&doorman, &["INFO"]).len(), infos);
}

fn level_in_the_file_goes_before_the_command_line(shards: usize) {
    let doorman = config(shards)
        .general("log_level", "DEBUG")
        .log_level("error")
        .start();
    doorman.connect().execute("select 1");
    wait_for_line(&doorman, &["DEBUG", "server connected"]);
}

fn lines_of_json_are_whole(shards: usize) {
    let doorman = config(shards)
        .general("log_client_connections", true)
        .environment("LOG_FORMAT", "structured")
        .start();
    doorman.connect().execute("select 1");
    let odd = "x\"\n{\"level\":\"INFO\"}\n\\";
    let refusal = doorman.login().database(odd).refusal();
    assert_eq!(refusal.sqlstate(), "3D000");
    eventually("the refusal is told", || {
        doorman.log().contains("login refused")
    });
    for line in doorman.log().lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(value["timestamp"].is_string() && value["level"].is_string());
        assert!(value["fields"]["message"].is_string(), "{line}");
        assert!(value["target"].is_string());
    }
}

fn what_a_client_sends_begins_no_line(shards: usize) {
    let doorman = config(shards).start();
    let odd = "x\nINJECTED\r\u{1b}[31mred";
    assert_eq!(doorman.login().database(odd).refusal().sqlstate(), "3D000");
    let line = wait_for_line(&doorman, &["login refused", "INJECTED"]);
    assert!(line.contains("x\\nINJECTED"), "{line}");
    assert!(!line.contains('\u{1b}') && !line.contains('\r'), "{line}");
}

/// A socket as syslog has it.
struct Service {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Service {
    fn new() -> Self {
        let name = format!("it-{}-{}", std::process::id(), unique("syslog"));
        let path = std::env::temp_dir().join(name);
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { path, socket }
    }

    fn next(&self) -> String {
        let mut bytes = [0; 10_000];
        let len = self.socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..len].to_vec()).unwrap()
    }

    fn wait_for(&self, part: &str) -> String {
        loop {
            let message = self.next();
            if message.contains(part) {
                return message;
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn syslog_gets_everything(shards: usize) {
    let service = Service::new();
    let doorman = config(shards)
        .general("log_client_connections", true)
        .general("syslog_prog_name", "pooler-it")
        .environment("PG_DOORMAN_SYSLOG_SOCKET", service.path.to_str().unwrap())
        .start();
    let first = service.next();
    // "<14>Nov 23 17:50:17 pooler-it[77]: ..."
    let (head, text) = first.split_once("]: ").unwrap();
    assert!(head.starts_with("<14>"), "{first}");
    assert!(
        head.ends_with(&format!(" pooler-it[{}", doorman.pid())),
        "{first}"
    );
    let time = &head[4..20];
    assert!(
        time[3..4] == *" " && time[9..10] == *":" && time.ends_with(' '),
        "{first}"
    );
    assert!(text.contains("Welcome to PgDoorman!"), "{first}");
    doorman.connect().execute("select 1");
    let told = service.wait_for("client connected");
    assert!(
        told.starts_with("<14>") && told.contains("user=app"),
        "{told}"
    );
    let mut wrong = doorman.connect();
    wrong.send(&message::message(b'!', b""));
    let told = service.wait_for("protocol violation");
    assert!(told.starts_with("<12>"), "{told}");
    let odd = "x\nINJECTED";
    assert_eq!(doorman.login().database(odd).refusal().sqlstate(), "3D000");
    assert!(!service.wait_for("INJECTED").contains('\n'));
    assert_eq!(doorman.log(), "");
}

fn missing_syslog_is_told_at_start(shards: usize) {
    let doorman = config(shards).start();
    let service = Service::new();
    let path = service.path.clone();
    drop(service);
    let config = Config::new(Postgres::shared()).shards(shards);
    let text = config.general("syslog_prog_name", "x").text();
    doorman.rewrite_text(&text);
    let output = doorman
        .second_process()
        .env("PG_DOORMAN_SYSLOG_SOCKET", &path)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(71), "{told}");
    assert!(
        told.contains("cannot log to syslog (syslog_prog_name): "),
        "{told}"
    );
    assert!(told.contains(path.to_str().unwrap()), "{told}");
}

fn parameters_that_change_are_told_where_that_is_wanted(shards: usize) {
    for is_wanted in [true, false] {
        let doorman = config(shards)
            .pool_key("log_client_parameter_status_changes", is_wanted)
            .start();
        let mut client = doorman.connect();
        client.execute("set timezone to 'Asia/Tokyo'");
        client.execute("select 1");
        let told = ["parameter TimeZone is now \"Asia/Tokyo\"", "user=app"];
        if is_wanted {
            wait_for_line(&doorman, &told);
        }
        assert_eq!(lines(&doorman, &told).len(), usize::from(is_wanted));
    }
}
