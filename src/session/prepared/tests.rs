//! What names stand for while answers come.

use super::*;
use crate::server::statements::text::Interner;
use crate::server::sync::Tally;

fn outcome(done: u32, failed: u32, is_first_to_blame: bool) -> Outcomes {
    Outcomes {
        client: Tally { done, failed },
        server: Tally::default(),
        telling: Tally::default(),
        is_first_to_blame,
    }
}

fn statement(text: &str) -> Rc<Statement> {
    Interner::default().intern(format!("{text}\0\0\0").as_bytes())
}

fn text(prepared: &mut Prepared, name: &str) -> Option<String> {
    let definition = &prepared.get(name.as_bytes())?.definition;
    let text = definition.split(|byte| *byte == 0).next().unwrap();
    Some(String::from_utf8_lossy(text).into_owned())
}

#[test]
fn a_failed_parse_defines_nothing_and_what_was_skipped_has_no_effect() {
    let mut prepared = Prepared::default();
    prepared.define(b"b", statement("B"), 0, 0);
    prepared.define(b"", statement("U"), 0, 0);
    assert_eq!(0, prepared.apply(outcome(2, 0, false)));
    prepared.define(b"a", statement("X"), 0, 0);
    prepared.undefine(b"b", 0, false);
    prepared.define(b"", statement("V"), 0, 0);
    assert_eq!(text(&mut prepared, "").as_deref(), Some("V"));
    assert_eq!(0, prepared.apply(outcome(0, 3, true)));
    assert_eq!(text(&mut prepared, "a"), None);
    assert_eq!(text(&mut prepared, "b").as_deref(), Some("B"));
    assert_eq!(text(&mut prepared, "").as_deref(), Some("U"));
}

#[test]
fn what_was_sent_behind_a_failure_keeps_its_effect() {
    let mut prepared = Prepared::default();
    prepared.define(b"a", statement("X"), 0, 0);
    prepared.define(b"a", statement("Y"), 0, 0);
    assert_eq!(0, prepared.apply(outcome(0, 1, true)));
    assert_eq!(text(&mut prepared, "a").as_deref(), Some("Y"));
    assert_eq!(0, prepared.apply(outcome(0, 1, true)));
    assert_eq!(text(&mut prepared, "a"), None);
}

#[test]
fn a_failing_parse_forgets_the_unnamed_statement_before() {
    let mut prepared = Prepared::default();
    prepared.define(b"", statement("U"), 0, 0);
    assert_eq!(0, prepared.apply(outcome(1, 0, false)));
    prepared.define(b"", statement("V"), 0, 0);
    assert_eq!(0, prepared.apply(outcome(0, 1, true)));
    assert_eq!(text(&mut prepared, ""), None);
}

#[test]
fn forgetting_all_spares_what_is_on_its_way() {
    let mut prepared = Prepared::default();
    prepared.define(b"a", statement("X"), 0, 0);
    prepared.define(b"b", statement("B"), 0, 0);
    assert_eq!(0, prepared.apply(outcome(2, 0, false)));
    prepared.define(b"a", statement("Y"), 0, 0);
    prepared.forget_all();
    assert_eq!(text(&mut prepared, "a").as_deref(), Some("Y"));
    assert_eq!(text(&mut prepared, "b"), None);
    assert_eq!(0, prepared.apply(outcome(0, 1, true)));
    assert_eq!(text(&mut prepared, "a"), None);
}

#[test]
fn the_least_used_name_makes_room() {
    let mut prepared = Prepared::default();
    prepared.define(b"a", statement("A"), 0, 2);
    prepared.define(b"b", statement("B"), 0, 2);
    assert!(prepared.get(b"a").is_some());
    prepared.define(b"c", statement("C"), 0, 2);
    assert_eq!(0, prepared.apply(outcome(3, 0, false)));
    assert!(prepared.is_taken(b"a", 9) && !prepared.is_taken(b"b", 9));
    let mut names: Vec<_> = prepared.take_all();
    names.sort_by(|one, other| one.name.cmp(&other.name));
    let names: Vec<_> = names.iter().map(|one| &*one.name).collect();
    assert_eq!(names, [b"a", b"c"]);
}

#[test]
fn a_lowered_bound_is_reached_with_the_next_definition() {
    let mut prepared = Prepared::default();
    for number in 0..1000 {
        let name = format!("s{number}");
        prepared.define(name.as_bytes(), statement(&name), 0, 0);
    }
    assert_eq!(prepared.apply(outcome(1000, 0, false)), 0);
    assert!(prepared.get(b"s3").is_some());
    prepared.define(b"new", statement("new"), 0, 3);
    assert_eq!(prepared.apply(outcome(1, 0, false)), 0);
    assert_eq!((prepared.kept.count, prepared.named.len()), (3, 3));
    for name in ["s3", "s999", "new"] {
        assert!(prepared.get(name.as_bytes()).is_some(), "{name}");
    }
}

#[test]
fn the_text_that_names_keep_is_bounded() {
    let mut prepared = Prepared::default();
    let long = "x".repeat(KEPT_BYTES_MAX / 3);
    for name in ["a", "b", "c", "d"] {
        prepared.define(name.as_bytes(), statement(&format!("{name}{long}")), 0, 0);
        assert_eq!(prepared.apply(outcome(1, 0, false)), 0);
    }
    assert!(prepared.kept.bytes <= KEPT_BYTES_MAX);
    assert!(prepared.get(b"a").is_none() && prepared.get(b"d").is_some());
    prepared.forget_all();
    assert_eq!((prepared.kept.bytes, prepared.kept.count), (0, 0));
}

#[test]
fn a_query_takes_the_unnamed_statement_unless_it_is_skipped() {
    for (outcomes, left) in [
        (outcome(0, 3, true), Some("U")),
        (outcome(1, 2, false), Some("U")),
        (outcome(1, 2, true), None),
        (outcome(2, 1, false), Some("V")),
        (outcome(2, 1, true), None),
        (outcome(3, 0, false), None),
    ] {
        let mut prepared = Prepared::default();
        prepared.define(b"", statement("U"), 0, 0);
        assert_eq!(prepared.apply(outcome(1, 0, false)), 0);
        prepared.define(b"a", statement("A"), 0, 0);
        prepared.define(b"", statement("V"), 0, 0);
        prepared.undefine(b"", 0, false);
        assert_eq!(prepared.apply(outcomes), 0);
        assert_eq!(text(&mut prepared, "").as_deref(), left, "{outcomes:?}");
    }
}

#[test]
fn a_name_on_its_way_is_taken_until_the_next_sync() {
    let mut prepared = Prepared::default();
    prepared.define(b"a", statement("A"), 3, 0);
    assert!(prepared.is_taken(b"a", 3) && !prepared.is_taken(b"a", 4));
    prepared.undefine(b"a", 3, false);
    assert!(!prepared.is_taken(b"a", 3) && prepared.is_pending(b"a"));
}

#[test]
fn a_portal_deallocates_once_and_only_until_it_is_bound_anew() {
    let mut prepared = Prepared::default();
    let forgets = |name: &[u8]| Effect::Forgets(name.into());
    prepared.portal_bound(b"", &forgets(b"a"));
    prepared.portal_bound(b"p", &forgets(b"b"));
    prepared.portal_bound(b"", &Effect::None);
    assert_eq!(prepared.portal_run(b""), Effect::None);
    assert_eq!(prepared.effect_of(b"p"), &forgets(b"b"));
    assert_eq!(prepared.portal_run(b"p"), forgets(b"b"));
    assert!(!prepared.has_deallocations());
}

#[test]
fn a_deallocation_tells_whether_its_bait_is_gone() {
    let mut prepared = Prepared::default();
    prepared.define(b"a", statement("A"), 0, 0);
    assert_eq!(0, prepared.apply(outcome(1, 0, false)));
    prepared.undefine(b"a", 0, true);
    assert_eq!(prepared.apply(outcome(0, 1, false)), 0);
    assert!(prepared.is_taken(b"a", 9));
    prepared.undefine(b"a", 0, true);
    assert_eq!(prepared.apply(outcome(1, 0, false)), 1);
    assert!(!prepared.is_taken(b"a", 9));
}

fn result(edition: u32, shape: Shape) -> ResultOf {
    ResultOf {
        edition,
        shape,
        ..ResultOf::default()
    }
}

#[test]
fn what_was_told_of_a_result_is_kept_until_the_name_is_defined_anew() {
    let mut prepared = Prepared::default();
    for name in [&b"a"[..], b""] {
        prepared.define(name, statement("X"), 0, 0);
        assert_eq!(prepared.known(name).1, Shape::UNKNOWN);
        // A description that fails tells nothing, and the next one does.
        for described in [None, Some(Shape::NOTHING), Some(Shape::UNSEEN)] {
            let asked = result(1, Shape::UNKNOWN);
            prepared.tells(name, asked);
            let learnt = prepared.answered(described).unwrap();
            assert_eq!(learnt, (asked, described.unwrap_or_default()));
        }
        assert_eq!(prepared.known(name).1, Shape::NOTHING);
        prepared.undefine(name, 0, false);
        assert_eq!(prepared.known(name).1, Shape::NOTHING, "it may fail");
        // What tells of the definition before comes late.
        prepared.tells(name, result(1, Shape::NOTHING));
        prepared.define(name, statement("X"), 0, 0);
        assert_eq!(prepared.answered(Some(Shape::UNKNOWN)), None);
        assert_eq!(prepared.known(name).1, Shape::UNKNOWN);
        // A Bind that is done.
        prepared.tells(name, result(1, Shape::UNSEEN));
        assert_eq!(prepared.answered(Some(Shape::UNKNOWN)), None);
        assert_eq!(prepared.known(name).1, Shape::UNSEEN);
    }
}

#[test]
fn a_message_waits_for_the_description_of_its_own_statement() {
    let mut prepared = Prepared::default();
    prepared.define(b"a", statement("X"), 0, 0);
    for is_done in [true, false] {
        prepared.tells(b"a", result(1, Shape::UNKNOWN));
        prepared.tells(b"a", result(2, Shape::UNKNOWN));
        prepared.awaits(result(2, Shape::UNKNOWN));
        prepared.answered(Some(Shape::NOTHING));
        assert!(prepared.is_waiting());
        prepared.answered(is_done.then_some(Shape::NOTHING));
        assert!(!prepared.is_waiting());
        assert_eq!(prepared.take_awaited().is_some(), is_done);
    }
}
