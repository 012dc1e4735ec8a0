//! What of two answers must be the same.
//!
//! Owns: which parts of a message count, and the differences that are excused.
//! Does not own: what is not even said (`gaps`).
//! Invariants: what is not named here must be equal byte by byte and stand in the same order.
//!
//! Not compared, or not in place:
//! - `BackendKeyData`: a login is not compared.
//! - `ParameterStatus`: what the parameters are at the end of a step counts, not when they are told.
//! - `NoticeResponse`: text and order among notices count, and before which `ReadyForQuery` they come.
//! - OIDs of tables in `RowDescription`: whether there is one counts; the tables are two.
//! - Names of statements in the text of an error that quotes the pooler's name: it is the server's name.
//! - In a failed transaction an error of a Bind: a server that lacks the statement cannot parse it, and says
//!   25P02 where PostgreSQL may find something else wrong first.
//! - Which message is unexpected in the midst of a COPY: the server may get the pooler's Parse before a Bind.
//! - The last words before the connection is closed: severity, code and text count. PostgreSQL closes
//!   without any over a length that cannot be, and in the midst of a COPY with other ones; the pooler
//!   says why.
//!
//! Source: protocol-message-formats.html, protocol-error-fields.html.

use std::fmt::Write as _;

use crate::progress::{Answer, is_fatal};

/// Said in the midst of a COPY.
const UNEXPECTED: &str = "unexpected message type";
/// How names that the pooler gives begin.
const POOLER_NAME: &str = "PGD_";

/// What counts of an answer, as text.
pub(crate) fn essence(answer: &Answer) -> String {
    let mut text = char::from(answer.tag).to_string();
    match answer.tag {
        b'E' | b'N' => {
            let is_short = is_fatal(answer);
            // Where a result has changed the pooler says it itself, without a line of the source.
            let has_line = answer.error_fields().sqlstate != "0A000";
            for field in answer.strings() {
                let counts = !is_short || field.starts_with(['S', 'C', 'M']);
                let counts = counts && (has_line || !field.starts_with('L'));
                if counts && !field.is_empty() {
                    let _ = write!(text, " {field}");
                }
            }
        }
        b'T' => describe_columns(&mut text, &answer.body),
        _ if answer.body.is_empty() => {}
        _ => {
            let _ = write!(text, " {}", answer.body.escape_ascii());
        }
    }
    text
}

/// The columns without the OIDs of their tables.
fn describe_columns(text: &mut String, body: &[u8]) {
    let mut rest = &body[2..];
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, after) = rest.split_at(end);
        let (fixed, after) = after[1..].split_at(18);
        let has_table = fixed[..4] != [0; 4];
        let _ = write!(
            text,
            " {}:{has_table}:{:?}",
            name.escape_ascii(),
            &fixed[4..]
        );
        rest = after;
    }
}

/// True if the two say the same.
pub(crate) fn are_equal(direct: &Answer, pooled: &Answer) -> bool {
    let says_failed =
        |answer: &Answer| answer.tag == b'E' && answer.error_fields().sqlstate == "25P02";
    if direct.tag == b'E' && !is_fatal(direct) && says_failed(pooled) {
        return true;
    }
    let (direct, pooled) = (&essence(direct), &essence(pooled));
    if direct.contains(UNEXPECTED) && pooled.contains(UNEXPECTED) {
        return true;
    }
    direct == pooled
        || pooled.contains(POOLER_NAME)
            && without_statement_names(direct) == without_statement_names(pooled)
}

/// True if PostgreSQL takes the connection for lost, in the midst of a COPY.
pub(crate) fn is_lost(answer: &Answer) -> bool {
    answer.tag == b'E' && answer.error_fields().sqlstate == "08006"
}

/// The text with `*` for each name of a statement.
fn without_statement_names(text: &str) -> String {
    const BEFORE: &str = "prepared statement \"";
    let mut short = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEFORE) {
        let (before, name) = rest.split_at(at + BEFORE.len());
        short.push_str(before);
        short.push('*');
        rest = name.find('"').map_or("", |end| &name[end..]);
    }
    short + rest
}

/// Says briefly what kind of answer it is: by these, differences are taken for the same one.
pub(crate) fn kind(answer: Option<&Answer>) -> String {
    match answer {
        None => "nothing".to_owned(),
        Some(answer) if answer.tag == b'E' => {
            let fields = answer.error_fields();
            format!("E {} {}", fields.severity, fields.sqlstate)
        }
        Some(answer) if answer.tag == b'Z' => essence(answer),
        Some(answer) => char::from(answer.tag).to_string(),
    }
}

/// The start of a text, for people.
pub(crate) fn brief(text: &str) -> String {
    const MOST: usize = 300;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let start: String = text.chars().take(MOST).collect();
    format!("{start}… ({} bytes)", text.len())
}
