//! What a shard runs.
//!
//! **Owns:** the ports of the shard, the end.
//! **Does not own:** connections (`port`).

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use shards::{Context, now, spawn, until};

use crate::message::{PortId, ShardMessage};
use crate::port::Port;

/// How long connections that were cut may take to be gone.
const CUT_MAX: Duration = Duration::from_millis(200);
/// How often it is looked whether the last one has gone.
const LOOK: Duration = Duration::from_millis(20);

/// Serves until told to stop.
pub(crate) async fn shard_main(mut context: Context<ShardMessage>) {
    let mut ports: HashMap<PortId, Rc<Port>> = HashMap::new();
    // Closed ones whose connections may still go on.
    let mut leaving: Vec<Weak<Port>> = Vec::new();
    let census = Rc::new(Cell::new(0));
    let mut end: Option<Instant> = None;
    loop {
        let message = match end {
            None => Some(context.inbox.receive().await.1),
            Some(end) if census.get() == 0 || now() >= end => return,
            Some(_) => {
                let mail = until(now() + LOOK, context.inbox.receive()).await;
                mail.map(|(_, message)| message)
            }
        };
        match message {
            None => {}
            Some(ShardMessage::Open { port, socket, plan }) => {
                let opened = Port::new(context.id.index(), plan, Rc::clone(&census));
                spawn(Rc::clone(&opened).accept(socket));
                ports.insert(port, opened);
            }
            Some(ShardMessage::Replan { port, plan }) => {
                if let Some(port) = ports.get(&port) {
                    port.replan(plan);
                }
            }
            Some(ShardMessage::Close { port, drain }) => {
                if let Some(port) = ports.remove(&port) {
                    port.close(drain);
                    leaving.retain(|one| one.strong_count() > 0);
                    leaving.push(Rc::downgrade(&port));
                }
            }
            Some(ShardMessage::Stop { drain }) => {
                for (_, port) in ports.drain() {
                    port.close(port.plan().drain);
                    leaving.push(Rc::downgrade(&port));
                }
                end = now().checked_add(drain).map(|end| end + CUT_MAX);
            }
        }
    }
}
