//! Messages arrive in the order of their sender and wake a sleeping receiver, in all directions.
//!
//! **Owns:** shard to shard, shard to itself, shard to control, control to shard.

mod common;

use std::os::fd::{AsFd, AsRawFd};

use common::{launch_shards, within_limit};
use shards::{Context, ControlSeat, Outbox, Seat, SendError, ShardId, sleep};

const MESSAGES: u32 = 20_000;

fn receive(control: &mut ControlSeat<u32>) -> (Seat, u32) {
    loop {
        if let Some(message) = control.try_receive() {
            return message;
        }
        let mut entry = libc::pollfd {
            fd: control.as_fd().as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: `entry` is one valid pollfd.
        let ready = unsafe { libc::poll(&raw mut entry, 1, 20_000) };
        assert_eq!(ready, 1, "the control thread is woken");
    }
}

async fn send(outbox: &Outbox<u32>, to: Seat, mut message: u32) {
    while let Err(SendError::Full(refused)) = outbox.try_send(to, message) {
        message = refused;
        sleep(std::time::Duration::from_micros(50)).await;
    }
}

/// Passes everything on: from control to the next shard, from the first shard to control.
async fn pass_on(mut context: Context<u32>) {
    let next = context.id.index() + 1;
    loop {
        let (from, number) = context.inbox.receive().await;
        if context.id.index() == 0 {
            assert_eq!(from, Seat::Control);
        }
        let to = if next < context.count {
            Seat::Shard(ShardId::new(next as u16))
        } else {
            Seat::Control
        };
        send(&context.outbox, to, number).await;
        if number == u32::MAX {
            // The last message's bell rings although its sender ends at once.
            return;
        }
    }
}

#[test]
fn a_chain_of_shards_keeps_the_order_of_a_burst() {
    within_limit(|| {
        let (fleet, mut control) = launch_shards(3, pass_on);
        let first = ShardId::new(0);
        let (mut sent, mut seen) = (0, 0);
        while seen < MESSAGES {
            while sent < MESSAGES && control.try_send(first, sent).is_ok() {
                sent += 1;
            }
            let (from, number) = receive(&mut control);
            assert_eq!((from, number), (Seat::Shard(ShardId::new(2)), seen));
            seen += 1;
        }
        control.try_send(first, u32::MAX).unwrap();
        assert_eq!(receive(&mut control).1, u32::MAX);
        fleet.join().unwrap();
    });
}

#[test]
fn each_single_message_wakes_sleepers() {
    within_limit(|| {
        let (fleet, mut control) = launch_shards(3, pass_on);
        for number in (0..2_000).chain([u32::MAX]) {
            // Everyone sleeps: the message before this one has come back.
            control.try_send(ShardId::new(0), number).unwrap();
            assert_eq!(receive(&mut control).1, number);
        }
        fleet.join().unwrap();
    });
}

#[test]
fn a_shard_can_write_to_itself() {
    within_limit(|| {
        let (fleet, mut control) = launch_shards(1, |mut context: Context<u32>| async move {
            let own = Seat::Shard(context.id);
            for number in 0..100 {
                context.outbox.try_send(own, number).unwrap();
                assert_eq!(context.inbox.receive().await, (own, number));
                let outbox = context.outbox.clone();
                shards::spawn(async move { outbox.try_send(own, number + 1).unwrap() });
                assert_eq!(context.inbox.receive().await, (own, number + 1));
            }
            assert_eq!(shards::bells_lost(), 0);
            context.outbox.try_send(Seat::Control, 1).unwrap();
        });
        // A failed assertion would have ended the shard's task alone.
        assert_eq!(receive(&mut control).1, 1);
        fleet.join().unwrap();
    });
}
