//! The account of owed replies, one conversation a test.

use super::*;

/// Sends the requests (`d` for a statement's Describe is written `s`).
fn with_sent(requests: &str) -> Sync {
    let mut sync = Sync::default();
    send(&mut sync, requests);
    sync
}

fn send(sync: &mut Sync, requests: &str) {
    for tag in requests.bytes() {
        match tag {
            b's' => sync.sent(b'D', true, Owner::Client),
            tag => sync.sent(tag, false, Owner::Client),
        }
    }
}

fn receive(sync: &mut Sync, replies: &str) {
    for tag in replies.bytes() {
        let reply = sync.received(tag);
        assert_ne!(reply, Reply::OutOfStep, "'{}' of {replies}", tag as char);
    }
}

#[track_caller]
fn settles(requests: &str, replies: &str) {
    let mut sync = with_sent(requests);
    for (at, tag) in replies.bytes().enumerate() {
        assert!(!sync.is_settled(), "{requests}: settled before reply {at}");
        assert_ne!(
            sync.received(tag),
            Reply::OutOfStep,
            "{requests}: reply {at} of {replies}"
        );
    }
    assert!(sync.is_settled(), "{requests} / {replies}: {sync:?}");
}

#[test]
fn ordinary_conversations_settle_at_their_last_reply() {
    settles("Q", "TDDCZ");
    settles("Q", "IZ");
    settles("Q", "TDCNTDDCZ");
    settles("Q", "EZ");
    settles("Q", "TDEZ");
    settles("PBDES", "12TDCZ");
    settles("PsBES", "1tn2CZ");
    settles("PsBDES", "1tT2TDDsZ");
    settles("CS", "3Z");
    settles("F", "VZ");
    settles("F", "EZ");
    settles("S", "Z");
    settles("QQQ", "TDCZEZTDCZ");
    settles("PBESPBES", "12CZ12CZ");
    settles("PBES", "1NA2SCZ");
}

#[test]
fn an_error_skips_to_the_next_sync() {
    settles("PBESPBES", "EZ12CZ");
    settles("PBDEPBDES", "12TEZ");
    settles("PBES", "12CEZ");
    let mut sync = with_sent("PB");
    receive(&mut sync, "E");
    assert!(!sync.is_settled(), "the server waits for Sync");
    send(&mut sync, "EPQ");
    assert!(!sync.is_settled());
    send(&mut sync, "S");
    receive(&mut sync, "Z");
    assert!(sync.is_settled());
    send(&mut sync, "Q");
    receive(&mut sync, "CZ");
    assert!(sync.is_settled());
}

#[test]
fn a_flush_answers_without_settling() {
    let mut sync = with_sent("PsH");
    receive(&mut sync, "1tT");
    assert!(!sync.is_settled(), "no ReadyForQuery yet");
    send(&mut sync, "BES");
    receive(&mut sync, "2DCZ");
    assert!(sync.is_settled());
}

#[test]
fn copy_in_ends_with_copy_done_and_swallows_sync_before_it() {
    let mut sync = with_sent("Q");
    receive(&mut sync, "G");
    send(&mut sync, "ddd");
    assert!(!sync.is_settled());
    send(&mut sync, "c");
    receive(&mut sync, "CZ");
    assert!(sync.is_settled());

    // Extended: the Sync behind Execute is read as part of the COPY.
    let mut sync = with_sent("PBES");
    receive(&mut sync, "12G");
    send(&mut sync, "ddcS");
    receive(&mut sync, "CZ");
    assert!(sync.is_settled());

    // All of it pipelined before the server said anything.
    settles("PBESddcS", "12GCZ");
    settles("PBEddcS", "12GCZ");
    settles("QddcQ", "GCZCZ");
    settles("Qddf", "GEZ");
    settles("PBEfS", "12GEZ");
}

#[test]
fn an_error_in_mid_copy_leaves_the_rest_of_the_data_without_meaning() {
    let mut sync = with_sent("Q");
    receive(&mut sync, "G");
    send(&mut sync, "dd");
    receive(&mut sync, "EZ");
    assert!(sync.is_settled());
    send(&mut sync, "ddc");
    assert!(
        sync.is_settled(),
        "CopyDone after the end of the COPY is not a request"
    );
    settles("QdcQdc", "GEZGCZ");
    settles("Qc", "CZ");
}

#[test]
fn copy_out_and_several_statements_settle() {
    settles("Q", "HddcCZ");
    settles("PBES", "12HddcCZ");
    settles("Qddcddc", "GCGCZ");
}

#[test]
fn replies_that_nobody_asked_for_put_the_connection_out_of_step() {
    for (requests, replies) in [
        ("", "Z"),
        ("", "D"),
        ("Q", "1"),
        ("P", "2"),
        ("BES", "2C3"),
        ("Q", "ZZ"),
        ("S", "C"),
    ] {
        let mut sync = with_sent(requests);
        let last = replies.bytes().map(|tag| sync.received(tag)).last();
        assert_eq!(last, Some(Reply::OutOfStep), "{requests} / {replies}");
        assert!(sync.is_out_of_step() && !sync.is_settled());
    }
}

#[test]
fn a_request_in_mid_copy_makes_the_connection_unusable() {
    let mut sync = with_sent("Q");
    receive(&mut sync, "G");
    send(&mut sync, "dQ");
    assert!(sync.is_out_of_step());
}

#[test]
fn replies_go_to_the_owner_of_the_request() {
    let mut sync = Sync::default();
    sync.sent(b'Q', false, Owner::Pooler);
    sync.sent(b'Q', false, Owner::Client);
    assert!(sync.is_own(b'1'));
    assert_eq!(sync.received(b'C'), Reply::Of(Owner::Pooler));
    assert_eq!(sync.received(b'S'), Reply::Unasked);
    assert_eq!(sync.received(b'Z'), Reply::Of(Owner::Pooler));
    assert_eq!(sync.received(b'T'), Reply::Of(Owner::Client));
}

#[test]
fn a_farewell_without_a_request_is_no_fault() {
    let mut sync = Sync::default();
    assert_eq!(sync.received(b'E'), Reply::Unasked);
}

#[test]
fn a_query_skipped_after_an_error_does_not_settle() {
    let mut sync = with_sent("PQ");
    receive(&mut sync, "E");
    assert!(!sync.is_settled(), "the server waits for Sync");
    send(&mut sync, "S");
    receive(&mut sync, "Z");
    assert!(sync.is_settled());
}

#[test]
fn requests_behind_a_copy_decide_whether_a_sync_is_missing() {
    settles("PBEScQ", "12GCCZ");
    let mut sync = with_sent("EScSP");
    receive(&mut sync, "GCZ1");
    assert!(!sync.is_settled(), "Parse has no Sync yet");
}

#[test]
fn a_sync_in_a_failed_copy_leaves_doubt_until_another_reply() {
    let mut sync = with_sent("ES");
    receive(&mut sync, "GE");
    send(&mut sync, "cS");
    receive(&mut sync, "Z");
    assert!(!sync.is_settled(), "one ReadyForQuery more may come");
    send(&mut sync, "Q");
    receive(&mut sync, "ZTCZ");
    assert!(sync.is_settled());

    let mut read = with_sent("ES");
    receive(&mut read, "GE");
    send(&mut read, "cSQ");
    receive(&mut read, "ZTCZ");
    assert!(read.is_settled());
    settles("QSc", "GCZ");
}

#[test]
fn a_promised_reply_has_its_place_among_the_others() {
    let mut sync = with_sent("P");
    sync.promised(b'P', Noted::BY_CLIENT);
    assert_eq!(sync.take_promised(), None, "the first Parse comes first");
    send(&mut sync, "BES");
    receive(&mut sync, "1");
    assert_eq!(sync.take_promised(), Some(b'1'));
    assert_eq!(sync.take_promised(), None);
    receive(&mut sync, "2CZ");
    assert!(sync.is_settled());
    let outcomes = sync.take_outcomes().unwrap();
    assert_eq!((outcomes.client.done, outcomes.client.failed), (1, 0));
}

#[test]
fn after_an_error_promised_replies_are_skipped() {
    let mut sync = Sync::default();
    sync.promised(b'C', Noted::BY_CLIENT);
    sync.sent_noted(b'P', false, Owner::Client, Noted::BY_BOTH);
    sync.promised(b'P', Noted::BY_CLIENT);
    send(&mut sync, "BS");
    assert_eq!(sync.take_promised(), Some(b'3'));
    receive(&mut sync, "E");
    assert_eq!(sync.take_promised(), None);
    receive(&mut sync, "Z");
    assert!(sync.is_settled());
    let outcomes = sync.take_outcomes().unwrap();
    let tally = |done, failed| Tally { done, failed };
    assert_eq!(outcomes.client, tally(1, 2));
    assert_eq!(outcomes.server, tally(0, 1));
    assert!(outcomes.is_first_to_blame);
}

#[test]
fn a_noted_query_is_done_or_has_failed_at_its_end() {
    for (replies, done, failed) in [("CZ", 1, 0), ("EZ", 0, 1)] {
        let mut sync = Sync::default();
        sync.sent_noted(b'Q', false, Owner::Client, Noted::BY_CLIENT);
        receive(&mut sync, replies);
        let outcomes = sync.take_outcomes().unwrap();
        assert_eq!(outcomes.client, Tally { done, failed }, "{replies}");
    }
}

#[test]
fn a_promise_that_meets_doubt_costs_the_connection() {
    let mut sync = with_sent("E");
    receive(&mut sync, "G");
    send(&mut sync, "Sc");
    assert!(!sync.may_promise());
    let mut sync = with_sent("ESfS");
    sync.promised(b'P', Noted::BY_CLIENT);
    receive(&mut sync, "G");
    assert_eq!(sync.received(b'E'), Reply::OutOfStep);
    assert!(sync.is_out_of_step());
}

#[test]
fn a_client_that_goes_costs_nothing_if_the_server_has_got_nothing() {
    let mut sync = Sync::default();
    sync.promised(b'P', Noted::BY_CLIENT);
    sync.promised(b'C', Noted::BY_CLIENT);
    assert_eq!(sync.take_promised(), Some(b'1'));
    assert!(!sync.is_settled());
    sync.forget_promised();
    assert!(sync.is_settled());

    for before in ["P", "Q", "S"] {
        let mut sync = with_sent(before);
        sync.promised(b'P', Noted::BY_CLIENT);
        sync.forget_promised();
        assert!(!sync.is_settled(), "{before} has been sent");
    }
    let mut sync = with_sent("P");
    receive(&mut sync, "1");
    sync.promised(b'P', Noted::BY_CLIENT);
    sync.forget_promised();
    assert!(!sync.is_settled(), "Sync has not been sent");
}

#[test]
fn a_failed_query_is_to_blame_itself() {
    let mut sync = Sync::default();
    sync.sent_noted(b'Q', false, Owner::Client, Noted::BY_CLIENT);
    receive(&mut sync, "EZ");
    assert!(sync.take_outcomes().unwrap().is_first_to_blame);
}

#[test]
fn an_error_tells_which_statement_was_used() {
    let mut sync = Sync::default();
    for (tag, about) in [(b'B', 7), (b'D', 8), (b'B', 9)] {
        sync.sent_about(tag, Noted::BY_NOBODY, about);
    }
    sync.sent(b'S', false, Owner::Client);
    assert_eq!(sync.received(b'2'), Reply::Of(Owner::Client));
    assert_eq!(sync.take_blamed(), None);
    assert_eq!(sync.received(b'E'), Reply::Of(Owner::Client));
    assert_eq!(sync.take_blamed(), Some(8));
    assert_eq!(sync.take_blamed(), None);
    assert_eq!(sync.received(b'Z'), Reply::Of(Owner::Client));
    sync.sent(b'P', false, Owner::Client);
    sync.sent_about(b'B', Noted::BY_NOBODY, 7);
    assert_eq!(sync.received(b'E'), Reply::Of(Owner::Client));
    assert_eq!(sync.take_blamed(), None, "the Parse has failed");
}

#[test]
fn own_descriptions_stay_here_and_what_they_tell_is_counted() {
    let mut sync = Sync::default();
    sync.sent_own_describe(3);
    send(&mut sync, "B");
    sync.bears(Bearing::Tells);
    send(&mut sync, "ES");
    for tag in [b't', b'T'] {
        assert!(sync.is_own(tag));
        assert_eq!(sync.received(tag), Reply::Of(Owner::Pooler));
    }
    assert!(!sync.is_own(b'2'));
    receive(&mut sync, "2");
    let telling = sync.take_outcomes().unwrap().telling;
    assert_eq!((telling.done, telling.failed), (2, 0));
    receive(&mut sync, "CZ");
    assert_eq!(sync.take_outcomes(), None);

    sync.sent_own_describe(3);
    send(&mut sync, "S");
    assert_eq!(sync.received(b'E'), Reply::Of(Owner::Pooler));
    assert_eq!(sync.take_blamed(), Some(3));
    let telling = sync.take_outcomes().unwrap().telling;
    assert_eq!((telling.done, telling.failed), (0, 1));
}

#[test]
fn a_refusal_is_the_error_of_its_own_request() {
    let mut sync = with_sent("P");
    send(&mut sync, "B");
    sync.bears(Bearing::Refuses);
    send(&mut sync, "ES");
    assert!(!sync.is_refusal(b'E'), "the Parse fails");
    receive(&mut sync, "1");
    assert!(!sync.is_refusal(b'N'));
    assert!(sync.is_refusal(b'E'));
    receive(&mut sync, "EZ");
    assert!(sync.is_settled());
}
