//! Worlds, by cases.

use super::*;
use crate::server::reset::Leftovers;

fn query(trust: &mut Trust, text: &str) {
    let text = text.as_bytes();
    trust.runs(Power::of_query(text, Leftovers::of_text(text)));
}

/// Sent and answered, with this tag, in a transaction.
fn done(trust: &mut Trust, text: &str, tag: &str) {
    query(trust, text);
    assert!(!trust.completed(tag.as_bytes()));
    assert!(!trust.ready(false, true));
    trust.answered();
}

#[test]
fn ordinary_commands_stay_in_the_common_world() {
    let mut trust = Trust::default();
    let common = trust.world();
    for text in ["begin", "select 1", "set local work_mem = 1", "commit"] {
        query(&mut trust, text);
        assert_eq!(trust.world(), common, "{text}");
        assert!(!trust.completed(b"SELECT 1") && !trust.ready(true, true));
    }
    trust.released(true);
    assert!(trust.holds(common, Asker::Parse) && !trust.is_open());
}

#[test]
fn a_sync_outside_a_transaction_is_the_end_of_one() {
    let mut trust = Trust::default();
    let common = trust.world();
    trust.syncs(true);
    assert_eq!(trust.world(), common, "nothing is at stake");
    trust.runs(Power::BENDS);
    let set = trust.world();
    trust.syncs(false);
    assert_eq!(trust.world(), set);
    trust.syncs(true);
    assert_ne!(trust.world(), set, "it may have failed and be taken back");
}

#[test]
fn temporary_objects_make_a_world_that_goes_with_them() {
    let mut trust = Trust::default();
    let common = trust.world();
    done(&mut trust, "create temp table t ()", "CREATE TABLE");
    let private = trust.world();
    assert!(!trust.holds(common, Asker::Parse));
    assert!(trust.holds(common, Asker::Holder(0)));
    assert!(!trust.ready(true, true));
    assert!(trust.holds(private, Asker::Parse), "until it is given back");
    trust.released(true);
    assert!(trust.holds(common, Asker::Parse));
    assert!(!trust.holds(private, Asker::Holder(0)));
    done(&mut trust, "create temp table t ()", "CREATE TABLE");
    assert!(!trust.holds(private, Asker::Parse));
    trust.released(false);
    assert!(!trust.holds(common, Asker::Parse), "it was not removed");
}

#[test]
fn a_reported_setting_makes_a_doubt_until_the_answer() {
    let mut trust = Trust::default();
    let common = trust.world();
    query(&mut trust, "begin; set local timezone = 'UTC'");
    let doubt = trust.world();
    assert_ne!(doubt, common);
    assert!(!trust.ready(false, true));
    trust.answered();
    assert_eq!(trust.world(), common, "the setting is in the key now");
    query(&mut trust, "commit");
    assert!(trust.world() != common && trust.world() != doubt);
    assert!(!trust.ready(true, true));
    assert_eq!(trust.world(), common);
    query(&mut trust, "commit");
    assert_eq!(trust.world(), common, "nothing is at stake");
}

#[test]
fn objects_that_have_changed_end_the_common_world_with_their_transaction() {
    let mut trust = Trust::default();
    trust.meet(7);
    let common = trust.world();
    done(&mut trust, "alter table t add a int", "ALTER TABLE");
    let inside = trust.world();
    assert!(inside != common && trust.is_open());
    query(&mut trust, "rollback to s");
    assert_ne!(trust.world(), inside);
    query(&mut trust, "commit");
    assert!(trust.completed(b"COMMIT"));
    assert!(trust.ready(true, true));
    assert!(!trust.is_open());
    trust.meet(8);
    for world in [common, inside] {
        assert!(!trust.holds(world, Asker::Parse));
        assert!(!trust.holds(world, Asker::Holder(8)));
    }
    assert!(trust.holds(common, Asker::Holder(7)), "defined before");
    assert!(!trust.holds(inside, Asker::Holder(7)));
}

#[test]
fn objects_of_other_servers_end_it_too() {
    let mut trust = Trust::default();
    trust.meet(u32::MAX);
    let old = trust.world();
    query(&mut trust, "set search_path = a");
    let private = trust.world();
    trust.meet(0);
    assert!(!trust.holds(private, Asker::Parse));
    trust.released(true);
    let new = trust.world();
    assert!(!trust.holds(old, Asker::Parse));
    assert!(!trust.holds(old, Asker::Holder(0)));
    assert!(trust.holds(new, Asker::Holder(u32::MAX)));
}

#[test]
fn a_temporary_table_is_told_from_others_by_its_text() {
    let tags = |texts: &[&str], tags: &[&str]| {
        let mut trust = Trust::default();
        for text in texts {
            query(&mut trust, text);
        }
        for tag in tags {
            assert!(!trust.completed(tag.as_bytes()));
        }
        trust.ready(true, true)
    };
    let (temp, lasting) = (
        "create temp table a as select 1",
        "create table b as select 1",
    );
    assert!(!tags(&[temp], &["SELECT 1"]));
    assert!(!tags(&["select 1"], &["SELECT 1"]));
    assert!(tags(&[lasting], &["SELECT 1"]));
    assert!(tags(&[temp, lasting], &["SELECT 1", "SELECT 1"]));
    assert!(tags(&[lasting, temp], &["SELECT 1", "SELECT 1"]));
    assert!(tags(&[temp, "drop table a"], &["SELECT 1", "DROP TABLE"]));
}

#[test]
fn what_is_bound_changes_the_world_when_it_is_executed() {
    let mut trust = Trust::default();
    let common = trust.world();
    trust.binds(b"", Some(Power::HIDES));
    trust.binds(b"", Some(Power::NONE));
    trust.executes();
    assert_eq!(trust.world(), common);
    trust.parses_unnamed(Power::HIDES);
    trust.binds(b"p", None);
    assert_eq!(trust.world(), common);
    trust.executes();
    let first = trust.world();
    trust.executes();
    assert!(first != common && trust.world() != first);
}

#[test]
fn what_nobody_trusts_stays_so() {
    let mut trust = Trust::default();
    for asker in [Asker::Parse, Asker::Holder(0)] {
        assert!(!trust.holds(World::NOWHERE, asker));
    }
    query(&mut trust, "drop table t");
    assert!(trust.is_open(), "its outcome is not known");
    trust.failed();
    assert!(!trust.ready(true, true) && !trust.is_open());
}
