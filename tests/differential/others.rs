//! Clients that disturb: they use the same servers and are not compared.
//!
//! Owns: what they do, over and over until all is said.
//! Does not own: any expectation about what they are answered.
//! Invariants: they change nothing that outlives their sessions but tables of their own.
//!
//! Source: none.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::client::Client;
use crate::common::login::Login;
use crate::common::message::{
    bind, close, copy_data, copy_fail, describe, execute, flush, packet, parse, query, sync,
    unnamed,
};
use crate::dice::Dice;
use crate::texts;

/// How long they rest, so that they do not take all the time there is.
const REST: Duration = Duration::from_millis(2);
const CANCEL_REQUEST: u32 = 80_877_102;

/// Disturbs until `is_over`; `number` decides how.
pub(crate) fn disturb(port: u16, number: usize, is_over: &AtomicBool) {
    let mut dice = Dice::new(number as u64);
    let mut client = Login::new(port).connect();
    client.execute(&format!("create table if not exists other{number} (a int)"));
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(REST);
        if dice.one_in(50) {
            client = Login::new(port).connect();
        }
        if !disturb_once(&mut client, &mut dice, port, number) {
            // It has been told to go: by a fault of its own making.
            client = Login::new(port).connect();
        }
    }
}

/// One exchange; false if the connection is gone.
fn disturb_once(client: &mut Client, dice: &mut Dice, port: u16, number: usize) -> bool {
    let name = ["a", "b", "c", "d"][dice.between(0, 3)];
    let text = texts::READS[dice.between(0, texts::READS.len() - 1)].0;
    let text = text.replace("{t}", "shared");
    let bytes = match dice.between(0, 11) {
        0..3 => [unnamed(&text, &[]), sync()].concat(),
        // Another text under the name that others have, then without it.
        3..5 => [
            close(b'S', name),
            parse(
                name,
                &format!("select 'of another {number}', {}", dice.between(0, 9)),
            ),
            describe(b'S', name),
            bind("", name, &[]),
            flush(),
            execute("", 0),
            sync(),
        ]
        .concat(),
        5 => [parse(name, &text), sync()].concat(),
        6 => query(["deallocate all", "discard all", "deallocate a"][dice.between(0, 2)]),
        7 => query(&format!(
            "begin; alter table other{number} add column b{0} int; alter table other{number} drop \
             column b{0}; create temp table mine (b text) on commit drop; commit",
            dice.between(0, 9)
        )),
        8 => query("begin; set local timezone = 'Asia/Tokyo'; select now(); select 1/0; select 2"),
        9 => query(
            [
                "rollback",
                "set timezone = 'Asia/Tokyo'",
                "reset all",
                "set work_mem = '3MB'",
            ][dice.between(0, 3)],
        ),
        10 => [
            query(&format!("copy other{number} from stdin")),
            copy_data(b"1\n"),
            copy_fail("no more"),
        ]
        .concat(),
        _ => {
            cancel_soon(client, dice, port);
            return client.try_query("rollback").is_ok();
        }
    };
    client.try_send(&bytes).is_ok() && client.try_reply().is_ok()
}

/// Cancels its own query, now or too late.
fn cancel_soon(client: &mut Client, dice: &mut Dice, port: u16) {
    let sql = ["select pg_sleep(0.01)", "select 1"][dice.between(0, 1)];
    if client.try_send(&query(sql)).is_err() {
        return;
    }
    let mut canceller = Client::dial(port);
    let body = [&CANCEL_REQUEST.to_be_bytes()[..], &client.key].concat();
    let _ = canceller.try_send(&packet(&body));
    let _ = client.try_reply();
}
