//! Rule files and maps of names: no text may panic, and what is accepted can be evaluated.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pg_doorman::auth::hba::{HbaClient, Verdict, choose};
use pg_doorman::config::hba::parse_rules;
use pg_doorman::config::ident::IdentMaps;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (rules, maps) = text.split_once('\0').unwrap_or((text, text));
    let maps = IdentMaps::parse(maps).unwrap_or_default();
    maps.allows(Some("m"), "system", "user");
    let Ok((rules, _)) = parse_rules(rules) else {
        return;
    };
    for certificate in [None, Some("system")] {
        let client = HbaClient {
            ip: "127.0.0.1".parse().ok(),
            local_ip: None,
            tls: true,
            certificate,
            user: "user",
            database: "database",
        };
        let verdict = Verdict::by_rules(&rules, &client, &maps);
        let _ = verdict.allows_roles();
        let _ = choose(verdict, None, true);
    }
});
