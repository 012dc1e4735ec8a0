//! Members of a cluster, and which of them are eligible.
//!
//! **Owns:** reading the answer of `GET /cluster`, roles, lag, tags, the rule of a port.
//! **Does not own:** getting the answer (`client`), choosing among those that are eligible.
//!
//! **Invariants**
//! 1. A member without an address or with a field of another type is left out; it spoils nothing else.
//! 2. A lag that is not known is too much.
//!
//! Source: Patroni documentation, "Patroni REST API" (`GET /cluster`) and "Tags".

use std::fmt;

use serde_json::{Map, Value};

/// What a member does in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Takes writes.
    Leader,
    /// A replica that commits wait for.
    Sync,
    /// Any other replica.
    Async,
    /// The leader of a standby cluster and whatever else: never eligible.
    Other,
}

impl Role {
    fn of(word: &str) -> Self {
        match word {
            "leader" => Self::Leader,
            "sync_standby" => Self::Sync,
            "replica" => Self::Async,
            _ => Self::Other,
        }
    }

    /// The word of the configuration for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Sync => "sync",
            Self::Async => "async",
            Self::Other => "other",
        }
    }
}

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What the cluster calls it.
    pub name: String,
    /// Where it is: an address or a name, without a port.
    pub host: String,
    /// What it does.
    pub role: Role,
    /// PostgreSQL runs there, and a replica can follow.
    pub is_running: bool,
    /// The tag `noloadbalance`.
    pub is_excluded: bool,
    /// Bytes behind the leader, if they are known.
    pub lag_bytes: Option<u64>,
}

/// The members in the order of the answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// All that could be read.
    pub members: Vec<Member>,
}

/// Why an answer tells nothing. Blame: whoever answered. Retry: another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError(String);

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a list of members: {}", self.0)
    }
}

impl std::error::Error for ParseError {}

/// Reads an answer.
///
/// # Errors
///
/// If it is not JSON, or has no array `members`.
pub fn parse(body: &[u8]) -> Result<Cluster, ParseError> {
    let answer: Value =
        serde_json::from_slice(body).map_err(|error| ParseError(error.to_string()))?;
    let members = answer.get("members").and_then(Value::as_array);
    let members = members.ok_or_else(|| ParseError("no array \"members\"".to_owned()))?;
    let known = members.iter().filter_map(Value::as_object);
    Ok(Cluster {
        members: known.filter_map(member).collect(),
    })
}

fn member(fields: &Map<String, Value>) -> Option<Member> {
    let text = |key| fields.get(key).and_then(Value::as_str);
    let host = text("host").map(bare).filter(|host| !host.is_empty())?;
    let tags = fields.get("tags").and_then(Value::as_object);
    let excluded = tags.and_then(|tags| tags.get("noloadbalance"));
    Some(Member {
        name: text("name").unwrap_or(host).to_owned(),
        host: host.to_owned(),
        role: Role::of(text("role")?),
        is_running: matches!(text("state")?, "running" | "streaming"),
        is_excluded: excluded.is_some_and(is_true),
        lag_bytes: fields.get("lag").and_then(lag),
    })
}

/// An IPv6 address may stand in brackets.
fn bare(host: &str) -> &str {
    let inner = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    inner.unwrap_or(host)
}

/// Tags are what an operator has written; Patroni passes on what its YAML gave.
fn is_true(tag: &Value) -> bool {
    match tag {
        Value::Bool(is_set) => *is_set,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(word) => {
            let words = ["true", "yes", "on", "1"];
            words.iter().any(|one| word.eq_ignore_ascii_case(one))
        }
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

fn lag(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The roles that are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// `leader`
    pub leader: bool,
    /// `sync`
    pub sync: bool,
    /// `async`
    pub asynchronous: bool,
}

impl Roles {
    /// Adds the role `word` in any letter case; `any` stands for all. False if there is no such role.
    pub fn add(&mut self, word: &str) -> bool {
        let is = |role: &str| word.eq_ignore_ascii_case(role);
        let any = is("any");
        self.leader |= any || is("leader");
        self.sync |= any || is("sync");
        self.asynchronous |= any || is("async");
        any || is("leader") || is("sync") || is("async")
    }

    const fn has(self, role: Role) -> bool {
        match role {
            Role::Leader => self.leader,
            Role::Sync => self.sync,
            Role::Async => self.asynchronous,
            Role::Other => false,
        }
    }
}

/// Who is eligible for a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// What members must be.
    pub roles: Roles,
    /// How far a replica may be behind; none = as far as it likes.
    pub lag_bytes_max: Option<u64>,
}

/// What a member is for a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Gets connections.
    Eligible,
    /// Runs and has the role, but is tagged or too far behind: no new connections.
    Resting,
    /// Does not run or has another role: no connections at all.
    Out,
}

impl Rule {
    /// What `member` is for a port with this rule.
    pub fn standing(&self, member: &Member) -> Standing {
        if !member.is_running || !self.roles.has(member.role) {
            return Standing::Out;
        }
        let is_near = match self.lag_bytes_max {
            Some(max) if member.role != Role::Leader => {
                member.lag_bytes.is_some_and(|lag| lag <= max)
            }
            _ => true,
        };
        if is_near && !member.is_excluded {
            Standing::Eligible
        } else {
            Standing::Resting
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(fields: &str) -> Option<Member> {
        let body = format!(r#"{{"members":[{{{fields}}}]}}"#);
        parse(body.as_bytes()).unwrap().members.pop()
    }

    fn standing(roles: &[&str], lag_bytes_max: Option<u64>, fields: &str) -> Standing {
        let mut rule = Rule {
            lag_bytes_max,
            ..Rule::default()
        };
        assert!(roles.iter().all(|role| rule.roles.add(role)));
        rule.standing(&one(&format!(r#""host":"h",{fields}"#)).unwrap())
    }

    #[test]
    fn replicas_of_old_and_new_versions_run() {
        for state in ["running", "streaming"] {
            let fields = format!(r#""role":"replica","state":"{state}""#);
            assert_eq!(standing(&["async"], None, &fields), Standing::Eligible);
        }
        for state in [
            "starting",
            "stopped",
            "crashed",
            "Running",
            "in archive recovery",
        ] {
            let fields = format!(r#""role":"replica","state":"{state}""#);
            assert_eq!(standing(&["any"], None, &fields), Standing::Out);
        }
    }

    #[test]
    fn roles_have_words_of_their_own() {
        let words = [
            ("leader", "leader"),
            ("sync", "sync_standby"),
            ("ASYNC", "replica"),
        ];
        for (own, theirs) in words {
            for (other, _) in words {
                let expected = if own == other {
                    Standing::Eligible
                } else {
                    Standing::Out
                };
                let fields = format!(r#""role":"{theirs}","state":"running""#);
                assert_eq!(standing(&[other], None, &fields), expected);
                assert_eq!(standing(&["Any"], None, &fields), Standing::Eligible);
            }
        }
        for theirs in [
            "standby_leader",
            "quorum_standby",
            "master",
            "uninitialized",
        ] {
            let fields = format!(r#""role":"{theirs}","state":"running""#);
            assert_eq!(standing(&["any"], None, &fields), Standing::Out);
        }
        assert!(!Roles::default().add("replica"));
    }

    #[test]
    fn an_unknown_lag_is_too_much() {
        let replica = r#""role":"replica","state":"streaming""#;
        let with = |lag: &str| standing(&["any"], Some(100), &format!("{replica},\"lag\":{lag}"));
        for lag in ["0", "100", "\"100\"", "\" 7 \""] {
            assert_eq!(with(lag), Standing::Eligible, "{lag}");
        }
        for lag in [
            "101",
            "-1",
            "null",
            "\"unknown\"",
            "1.5",
            "[]",
            "\"101\"",
            "{}",
        ] {
            assert_eq!(with(lag), Standing::Resting, "{lag}");
        }
        assert_eq!(standing(&["any"], Some(100), replica), Standing::Resting);
        assert_eq!(standing(&["any"], None, replica), Standing::Eligible);
        let leader = r#""role":"leader","state":"running""#;
        assert_eq!(standing(&["leader"], Some(0), leader), Standing::Eligible);
    }

    #[test]
    fn a_tag_keeps_connections_away() {
        for (tag, expected) in [
            ("true", Standing::Resting),
            ("\"yes\"", Standing::Resting),
            ("1", Standing::Resting),
            ("false", Standing::Eligible),
            ("null", Standing::Eligible),
            ("\"no\"", Standing::Eligible),
        ] {
            let fields =
                format!(r#""role":"leader","state":"running","tags":{{"noloadbalance":{tag}}}"#);
            assert_eq!(standing(&["leader"], None, &fields), expected, "{tag}");
        }
        let odd = r#""role":"leader","state":"running","tags":[1]"#;
        assert_eq!(standing(&["leader"], None, odd), Standing::Eligible);
    }

    #[test]
    fn odd_members_are_left_out_and_others_stay() {
        let body = br#"{"members":[
            {"name":"new","role":"replica","state":"creating replica"}, 7, null,
            {"host":"","role":"replica","state":"running"},
            {"host":5,"role":"replica","state":"running"},
            {"host":"a","state":"running"},
            {"name":"b","host":"[2001:db8::1]","port":"odd","role":"leader","state":"running"}]}"#;
        let cluster = parse(body).unwrap();
        assert_eq!(cluster.members.len(), 1);
        assert_eq!(cluster.members[0].host, "2001:db8::1");
        assert_eq!(cluster.members[0].name, "b");
    }

    #[test]
    fn what_is_no_list_of_members_is_refused() {
        for body in [
            "",
            "x",
            "[]",
            "{}",
            r#"{"members":{}}"#,
            r#"{"members":null}"#,
        ] {
            assert!(parse(body.as_bytes()).is_err(), "{body}");
        }
        assert_eq!(parse(br#"{"members":[]}"#).unwrap(), Cluster::default());
    }
}
