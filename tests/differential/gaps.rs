//! What the conversations leave out, since the pooler is known to answer otherwise.
//!
//! Owns: the table of these, each with its reason and how a message is known that would show it.
//! Does not own: answers that differ and are excused (`compare`).
//! Invariants: whether a message is left out depends on PostgreSQL's side and on the script only, so
//! both sides hear the same.
//!
//! `DIFFERENTIAL_SHOW=name,name` says these messages nevertheless, `DIFFERENTIAL_SHOW=all` all of
//! them: to see a difference, or whether it is still there.
//!
//! Source: none.

use crate::script::{Message, Step};

/// What is known when a message is about to be said.
#[derive(Debug)]
pub(crate) struct Context<'a> {
    /// Of PostgreSQL, at the start of the step.
    pub(crate) status: u8,
    /// A statement was described since the last `Sync` or query, before this step.
    pub(crate) has_described: bool,
    /// All that is said before it in this step, without what is left out.
    pub(crate) before: &'a [Message],
}

impl Context<'_> {
    /// How many batches and queries of the step come before it.
    fn batches_before(&self) -> usize {
        let ends = |one: &&Message| matches!(one.tag(), b'S' | b'Q' | b'F');
        self.before.iter().filter(ends).count()
    }

    /// The messages of the batches that are on their way.
    fn earlier_batches(&self) -> &[Message] {
        let is_end = |one: &Message| matches!(one.tag(), b'S' | b'Q' | b'F');
        let end = self.before.iter().rposition(is_end);
        &self.before[..end.map_or(0, |end| end + 1)]
    }

    /// True if something may have failed that is on its way, or has before.
    fn may_have_failed(&self) -> bool {
        self.status == b'E' || self.batches_before() > 0
    }
}

/// True if a statement is described by `said`, behind its last `Sync` or query, or was before.
pub(crate) fn has_described(said: &[Message], before: bool) -> bool {
    said.iter().fold(before, |described, one| match one {
        Message::Describe { kind: b'S', .. } => true,
        _ => described && !matches!(one.tag(), b'S' | b'Q'),
    })
}

/// Something that is left out.
pub(crate) struct Gap {
    name: &'static str,
    /// Why: what would differ.
    why: &'static str,
    shows: fn(&Context<'_>, &Message) -> bool,
}

/// All of them.
pub(crate) const GAPS: &[Gap] = &[
    Gap {
        name: "failed-describe",
        why: "in a failed transaction a server that lacks a statement cannot parse it, where \
              PostgreSQL would have described it if it returns no rows",
        shows: |context, message| {
            matches!(message, Message::Describe { kind: b'S', .. }) && context.may_have_failed()
        },
    },
    Gap {
        name: "parsed-before-begin",
        why: "a server that lacks a statement parses it for its description, or for a Bind that fails, and has \
              taken a snapshot then, which a transaction of another isolation level may not have",
        shows: |context, message| {
            let sets_up = message
                .sql()
                .is_some_and(|sql| sql.contains("isolation level"));
            let has_bound = context.before.iter().any(|one| one.tag() == b'B');
            sets_up && (has_bound || has_described(context.before, context.has_described))
        },
    },
    Gap {
        name: "good-bye-unasked",
        why: "a client that says good-bye behind messages that are not answered may get no answer, where \
              PostgreSQL would have sent an error",
        shows: |context, message| message.tag() == b'X' && !context.before.is_empty(),
    },
    Gap {
        name: "changed-parameters",
        why: "when the column of a parameter without a type has changed, a server that parses the statement \
              since gives it the new type, where PostgreSQL keeps the one of its Parse",
        shows: |_, message| {
            let is_parse = matches!(message, Message::Parse { .. });
            is_parse
                && message
                    .sql()
                    .is_some_and(|sql| sql.starts_with("insert into {u}"))
        },
    },
    Gap {
        name: "literal-and-settings",
        why: "a literal that is read by settings is read again when they have changed, where \
              PostgreSQL keeps what it read when it parsed the statement",
        shows: |_, message| {
            let reads = |sql: &str| {
                sql.contains("::timestamptz")
                    || sql.contains("::date")
                    || sql.contains("::interval")
                    || sql.contains("slash")
            };
            matches!(message, Message::Parse { .. }) && message.sql().is_some_and(reads)
        },
    },
    Gap {
        name: "failed-portal",
        why: "PostgreSQL 15 crashes when the portal of a query that has failed is executed in the failed \
              transaction",
        shows: |context, message| {
            let Message::Execute { portal, .. } = message else {
                return false;
            };
            let makes = |one: &Message| matches!(one, Message::Bind { portal: other, .. } if other == portal);
            let batch = &context.before[context.earlier_batches().len()..];
            context.may_have_failed() && !batch.iter().any(makes)
        },
    },
];

/// The gaps that this run leaves out.
pub(crate) struct Gaps(Vec<&'static Gap>);

impl Gaps {
    /// All but those that the environment names.
    pub(crate) fn from_environment() -> Self {
        let shown = std::env::var("DIFFERENTIAL_SHOW").unwrap_or_default();
        let shown: Vec<_> = shown.split(',').filter(|name| !name.is_empty()).collect();
        for name in &shown {
            let is_known = *name == "all" || GAPS.iter().any(|gap| gap.name == *name);
            assert!(is_known, "DIFFERENTIAL_SHOW={name}: no such gap");
        }
        for gap in GAPS {
            if shown.contains(&gap.name) || shown.contains(&"all") {
                println!("shown: {}: {}", gap.name, gap.why);
            }
        }
        let is_left_out = |gap: &&Gap| !shown.contains(&"all") && !shown.contains(&gap.name);
        Self(GAPS.iter().filter(is_left_out).collect())
    }

    /// What is said of a step when PostgreSQL's status is `status`, and a statement was described
    /// before it or not.
    pub(crate) fn said(&self, step: &Step, status: u8, has_described: bool) -> Vec<Message> {
        let mut said = Vec::new();
        for message in &step.messages {
            let context = Context {
                status,
                has_described,
                before: &said,
            };
            let is_left_out = self.0.iter().any(|gap| (gap.shows)(&context, message));
            if !is_left_out {
                said.push(message.clone());
            }
        }
        said
    }
}
