//! Answers of Patroni's REST API: no text may panic, and members can be judged.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::patroni;

fuzz_target!(|data: &[u8]| {
    let Ok(cluster) = patroni::parse(data) else {
        return;
    };
    let mut roles = patroni::Roles::default();
    assert!(roles.add("any"), "a known role");
    let rule = patroni::Rule {
        roles,
        lag_bytes_max: Some(1),
    };
    for member in &cluster.members {
        let _ = rule.standing(member);
    }
});
