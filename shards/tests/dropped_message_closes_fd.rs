//! A message that nobody receives closes the socket it owns when it is dropped.
//!
//! **Owns:** the end of refused and undelivered messages.

mod common;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use common::{launch_shards, pair, within_limit};
use shards::{Detached, Seat, ShardId};

#[test]
fn a_message_in_the_lane_of_an_ended_fleet_closes_its_socket() {
    within_limit(|| {
        let (near, mut far) = pair();
        let (fleet, control) =
            launch_shards::<OwnedFd, _, _>(1, |context| async move { drop(context.inbox) });
        control.try_send(ShardId::new(0), near).unwrap();
        fleet.join().unwrap();
        drop(control);
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
    });
}

#[test]
fn a_refused_message_closes_its_socket_when_it_is_dropped() {
    within_limit(|| {
        let (near, mut far) = pair();
        let near = Arc::new(Mutex::new(Some(near)));
        let (tell, told) = channel();
        let (fleet, _control) = launch_shards::<Detached, _, _>(1, move |context| {
            let near = near.lock().unwrap().take().unwrap();
            let tell = tell.clone();
            async move {
                let message = Detached {
                    socket: near,
                    unread: b"bytes".to_vec(),
                };
                let nowhere = Seat::Shard(ShardId::new(7));
                let refused = context.outbox.try_send(nowhere, message).unwrap_err();
                let message = refused.into_message();
                tell.send(message.unread).unwrap();
            }
        });
        fleet.join().unwrap();
        assert_eq!(told.recv().unwrap(), b"bytes");
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0);
    });
}
