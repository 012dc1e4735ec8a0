//! Clients that do everything at once while servers are killed and clients vanish.
//!
//! Owns: one long randomised run. `CHAOS_SECONDS` (default 5) says how long, `SEED` repeats the
//! choices of a run (not their interleaving).
//! Invariants checked: a client that gets an answer gets its own; afterwards nothing is left
//! over: servers, open files, transactions.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::client::is_close;
use crate::common::message::{
    bind, close, copy_data, copy_done, describe, execute, flush, parse, query, sync, unnamed,
};
use crate::common::{
    Client, Config, Doorman, Postgres, User, eventually, with_one_and_two_shards,
    with_two_and_four_shards,
};

with_one_and_two_shards!(answers_belong_to_their_questions_while_servers_and_clients_die);
with_two_and_four_shards!(no_permit_is_lost_while_the_configuration_changes);

const CLIENTS: u64 = 24;
const POOL_SIZE: usize = 4;

/// What one action came to. An error is one of the connection or of the pooler.
type Outcome = io::Result<()>;

fn answers_belong_to_their_questions_while_servers_and_clients_die(shards: usize) {
    run(shards, 5, |_, _, _, _| {});
}

fn no_permit_is_lost_while_the_configuration_changes(shards: usize) {
    run(shards, 3, change_configuration);
}

/// Runs the clients for so many seconds, and `also` meanwhile.
fn run(shards: usize, seconds: u64, also: fn(&Doorman, &Config, u64, Instant)) {
    let chosen = std::env::var("CHAOS_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    let end = Instant::now() + Duration::from_secs(chosen.unwrap_or(seconds));
    let chosen = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 = chosen.unwrap_or_else(|| rand::rng().random());
    eprintln!("SEED={seed}");

    let postgres = Postgres::shared();
    let config = Config::new(postgres).shards(shards).pool_size(POOL_SIZE);
    let config = config.general("query_wait_timeout", "1s");
    let doorman = config.clone().start();
    doorman.assert_serves();
    let files = open_files(&doorman);
    let answered = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let (doorman, answered) = (&doorman, &answered);
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(number));
                while Instant::now() < end {
                    one_client(doorman, &mut random, number, end, answered);
                }
            });
        }
        scope.spawn(|| kill_servers(&doorman, postgres, seed, end));
        scope.spawn(|| also(&doorman, &config, seed, end));
    });
    let answered = answered.into_inner();
    eprintln!("{answered} answers were right");
    assert!(answered > 100, "only {answered} answers in all");
    assert_nothing_is_left(&doorman, postgres, files);
}

/// Pools grow and shrink, and are replaced by others of the same name.
fn change_configuration(doorman: &Doorman, config: &Config, seed: u64, end: Instant) {
    let mut random = StdRng::seed_from_u64(seed ^ 1);
    let mut config = config.clone();
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.random_range(20..200)));
        let size = random.random_range(1..=POOL_SIZE);
        let kept = i64::try_from(random.random_range(0..=size)).unwrap();
        config = config.users(vec![User::new("app", size).key("min_pool_size", kept)]);
        if random.random_bool(0.3) {
            let lifetime = format!("{}s", random.random_range(60..120));
            config = config.pool_key("server_lifetime", lifetime);
        }
        doorman.rewrite(config.clone());
        doorman.sighup();
    }
    doorman.rewrite(config.pool_size(POOL_SIZE));
    doorman.sighup();
}

fn assert_nothing_is_left(doorman: &Doorman, postgres: &Postgres, files: usize) {
    eventually("a client is served", || {
        doorman.login().attempt().is_ok_and(|mut client| {
            client
                .try_query("select 1")
                .is_ok_and(|reply| !reply.rows.is_empty())
        })
    });
    for n in 0..20 {
        assert_eq!(
            doorman.connect().value(&format!("select {n}")),
            n.to_string()
        );
    }
    // All servers can be used at the same time: none is lost.
    drop(doorman.hold_servers(POOL_SIZE));
    let name = doorman.application_name();
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name like '{name}%' \
         and state <> 'idle'"
    );
    eventually("all servers are idle", || postgres.value(&sql) == "0");
    let most = std::thread::scope(|scope| {
        for _ in 0..4 * POOL_SIZE {
            scope.spawn(|| doorman.connect().execute("select pg_sleep(0.1)"));
        }
        let counts = (0..20).map(|_| doorman.server_pids(postgres).len());
        counts.max()
    });
    assert_eq!(most, Some(POOL_SIZE), "no permit is there twice");
    assert!(!doorman.log().contains("panicked"));
    eventually("files are closed", || {
        open_files(doorman) <= files + POOL_SIZE
    });
}

fn open_files(doorman: &Doorman) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", doorman.pid()))
        .unwrap()
        .count()
}

fn kill_servers(doorman: &Doorman, postgres: &Postgres, seed: u64, end: Instant) {
    let mut random = StdRng::seed_from_u64(!seed);
    let mut superuser = postgres.superuser();
    let sql = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity \
         where application_name like '{}%' order by random() limit 1",
        doorman.application_name()
    );
    while Instant::now() < end {
        std::thread::sleep(Duration::from_millis(random.random_range(50..300)));
        superuser.execute(&sql);
    }
}

/// One connection from login to its end, which comes by a fault or by choice.
fn one_client(
    doorman: &Doorman,
    random: &mut StdRng,
    number: u64,
    end: Instant,
    answered: &AtomicU64,
) {
    let Ok(mut client) = doorman.login().attempt() else {
        return;
    };
    for round in 0..random.random_range(1..40) {
        if Instant::now() > end {
            return;
        }
        let value = format!("client {number} round {round} {}", random.random::<u32>());
        let outcome = match random.random_range(0..8) {
            0..2 => simple(&mut client, &value),
            2 => extended(&mut client, &value),
            3 => flushed(&mut client, &value),
            4 => pipeline(&mut client, &value),
            5 => transaction(&mut client, &value, random.random_bool(0.5)),
            6 => copy(&mut client, &value),
            _ => failing(&mut client, &value),
        };
        match outcome {
            Ok(()) => answered.fetch_add(1, Ordering::Relaxed),
            Err(error) => {
                assert!(
                    is_close(&error) || error.kind() == io::ErrorKind::Other,
                    "{error}"
                );
                return;
            }
        };
        if random.random_bool(0.05) {
            return vanish(client, random);
        }
    }
}

/// Leaves in the middle of something.
fn vanish(mut client: Client, random: &mut StdRng) {
    let large = "select repeat('x', 1000) from generate_series(1, 5000)";
    let bytes = match random.random_range(0..6) {
        0 => query("begin; select 1"),
        1 => query(large),
        2 => query("select 'half a message'")[..12].to_vec(),
        3 => unnamed("select 'no sync'", &[]),
        4 => query("create temp table t (n int); copy t from stdin"),
        _ => query("select pg_sleep(0.05)"),
    };
    let _ = client.try_send(&bytes);
    if random.random_bool(0.5) {
        client.abort();
    }
}

/// Errors of a dying server or of the pool; anything else is a fault of the pooler.
fn check(errors: &[crate::common::ErrorFields]) -> Outcome {
    let Some(error) = errors.first() else {
        return Ok(());
    };
    let known = [
        "57P01", "53300", "08006", "57P02", "08003", "3D000", "25P02",
    ];
    assert!(known.contains(&error.sqlstate.as_str()), "{error:?}");
    Err(io::Error::other(error.message.clone()))
}

fn simple(client: &mut Client, value: &str) -> Outcome {
    let reply = client.try_query(&format!("select '{value}'"))?;
    check(&reply.errors)?;
    assert_eq!((reply.value(), reply.tags.as_str()), (value, "TDCZ"));
    Ok(())
}

fn extended(client: &mut Client, value: &str) -> Outcome {
    client.try_send(&[unnamed("select $1", &[Some(value.as_bytes())]), sync()].concat())?;
    let reply = client.try_reply()?;
    check(&reply.errors)?;
    assert_eq!((reply.value(), reply.tags.as_str()), (value, "12TDCZ"));
    Ok(())
}

fn flushed(client: &mut Client, value: &str) -> Outcome {
    let first = [parse("", "select $1::text"), describe(b'S', ""), flush()].concat();
    client.try_send(&first)?;
    for tag in *b"1tT" {
        let message = client.try_receive()?;
        check(&errors_of(&message))?;
        assert_eq!(message.tag, tag);
    }
    client.try_send(
        &[
            bind("", "", &[Some(value.as_bytes())]),
            execute("", 0),
            sync(),
        ]
        .concat(),
    )?;
    let reply = client.try_reply()?;
    check(&reply.errors)?;
    assert_eq!((reply.value(), reply.tags.as_str()), (value, "2DCZ"));
    Ok(())
}

fn errors_of(message: &crate::common::client::Message) -> Vec<crate::common::ErrorFields> {
    if message.tag == b'E' {
        vec![message.error_fields()]
    } else {
        Vec::new()
    }
}

fn pipeline(client: &mut Client, value: &str) -> Outcome {
    let mut bytes = Vec::new();
    for n in 0..5 {
        bytes.extend(query(&format!("select '{n} {value}'")));
        bytes.extend(unnamed(
            "select $1",
            &[Some(format!("{n} {value}").as_bytes())],
        ));
        bytes.extend(sync());
    }
    client.try_send(&bytes)?;
    for n in 0..10 {
        let reply = client.try_reply()?;
        check(&reply.errors)?;
        assert_eq!(reply.value(), format!("{} {value}", n / 2));
    }
    Ok(())
}

fn transaction(client: &mut Client, value: &str, is_kept: bool) -> Outcome {
    let reply = client.try_query("begin; select pg_backend_pid()")?;
    check(&reply.errors)?;
    let pid = reply.value().to_owned();
    let named = parse("named", &format!("select '{value}', pg_backend_pid()"));
    let run = [bind("", "named", &[]), execute("", 0), close(b'S', "named")].concat();
    client.try_send(&[named, run, sync()].concat())?;
    let reply = client.try_reply()?;
    check(&reply.errors)?;
    assert_eq!(reply.rows, [[Some(value.to_owned()), Some(pid)]]);
    assert_eq!(reply.status, 'T');
    let reply = client.try_query(if is_kept { "commit" } else { "rollback" })?;
    check(&reply.errors)?;
    assert_eq!(reply.status, 'I');
    Ok(())
}

fn copy(client: &mut Client, value: &str) -> Outcome {
    let sql = "begin; create temp table chaos (word text) on commit drop; copy chaos from stdin; \
               select word from chaos; commit";
    let row = format!("{value}\n");
    client.try_send(&[query(sql), copy_data(row.as_bytes()), copy_done()].concat())?;
    let reply = client.try_reply()?;
    check(&reply.errors)?;
    assert_eq!((reply.value(), reply.status), (value, 'I'));
    Ok(())
}

fn failing(client: &mut Client, value: &str) -> Outcome {
    let reply = client.try_query(&format!("select '{value}'::int"))?;
    if reply.sqlstate() != "22P02" {
        check(&reply.errors)?;
    }
    let error = &reply.errors[0].message;
    assert!(error.contains(value), "{error}");
    assert_eq!(reply.status, 'I');
    Ok(())
}
