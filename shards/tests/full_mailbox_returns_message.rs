//! A full lane refuses a message at once and gives it back; room makes it usable again.
//!
//! **Owns:** the bound of a lane.

mod common;

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};

use common::{launch_shards, within_limit};
use shards::{SendError, ShardId};

#[test]
fn the_message_comes_back_and_order_is_kept() {
    within_limit(|| {
        let (go, wait) = channel::<()>();
        let (tell, told) = channel();
        let wait = Arc::new(Mutex::new(wait));
        let (fleet, control) = launch_shards::<u32, _, _>(1, move |mut context| {
            let (wait, tell) = (wait.clone(), tell.clone());
            async move {
                // The shard is busy: it reads nothing.
                wait.lock().unwrap().recv().unwrap();
                let mut number = 0;
                while number != u32::MAX {
                    number = context.inbox.receive().await.1;
                    tell.send(number).unwrap();
                }
            }
        });
        let to = ShardId::new(0);
        let mut sent = 0;
        let refused = loop {
            match control.try_send(to, sent) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
            assert!(sent < 1_000_000, "a lane is bounded");
        };
        assert!(matches!(refused, SendError::Full(number) if number == sent));
        assert!(sent > 0);
        go.send(()).unwrap();
        for number in 0..sent {
            assert_eq!(told.recv().unwrap(), number);
        }
        control.try_send(to, u32::MAX).unwrap();
        assert_eq!(told.recv().unwrap(), u32::MAX);
        fleet.join().unwrap();
    });
}
