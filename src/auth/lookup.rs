//! What a server has answered when it was asked for the secret of a user.
//!
//! **Owns:** which column is what, whether the answer can be believed, whether the secret has expired.
//! **Does not own:** asking (`session::lookup`).
//! **Invariants:** an answer that is not understood lets nobody in; nothing of it but names of columns
//! gets into an error.
//!
//! ```text
//!   secret   column `passwd`, else `password`, else `rolpassword`, else the only one, or the second of two
//!   name     column `usename`, `rolname`, `username` or `user`, if there is one: must be the user's
//!   end      column `valuntil`, `rolvaliduntil` or `valid_until`, if there is one
//! ```
//!
//! Source: PostgreSQL documentation, `view-pg-shadow.html`, `catalog-pg-authid.html`,
//! `datatype-datetime.html` (output in style ISO).

use std::fmt;
use std::time::Duration;

use crate::config::Secret;

use super::verifier::StoredPassword;

/// The most columns of an answer.
const COLUMNS_MAX: usize = 16;
/// The longest secret, in bytes.
const SECRET_BYTES_MAX: usize = 1024;

/// A row: one text or null for each column.
pub type Row = Vec<Option<String>>;

/// What the answer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// There is no such user, or none that may log in.
    Nobody,
    /// There is one.
    Stored {
        /// A SCRAM verifier or an md5 hash.
        secret: Secret,
        /// It is good so long, if not for ever.
        left: Option<Duration>,
    },
}

/// Why an answer is of no use. Blame the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerError {
    /// It is not clear which column has the secret.
    Columns,
    /// The end of validity cannot be read.
    End,
    /// It is about another user.
    Name,
    /// More than one row.
    Rows,
    /// The secret is neither a SCRAM verifier nor an md5 hash.
    Secret,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Columns => "no column is called passwd, and there is not exactly one",
            Self::End => "the time until which the password is valid cannot be read",
            Self::Name => "the row is another user's",
            Self::Rows => "more than one row",
            Self::Secret => "the password is neither a SCRAM-SHA-256 verifier nor an md5 hash",
        })
    }
}

impl std::error::Error for AnswerError {}

/// Reads an answer about `user`. `now` is in seconds since 1970.
///
/// # Errors
///
/// [`AnswerError`].
pub fn judge(user: &str, columns: &[String], rows: &[Row], now: u64) -> Result<Found, AnswerError> {
    let named = |names: &[&str]| {
        let mut names = names.iter();
        names.find_map(|name| columns.iter().position(|column| column == name))
    };
    let name = named(&["usename", "rolname", "username", "user"]);
    let secret = named(&["passwd", "password", "rolpassword"]).or(match (columns.len(), name) {
        (1, None) => Some(0),
        (2, Some(0)) => Some(1),
        _ => None,
    });
    let secret = secret.filter(|_| columns.len() <= COLUMNS_MAX);
    let secret = secret.ok_or(AnswerError::Columns)?;
    let row = match rows {
        [] => return Ok(Found::Nobody),
        [row] if row.len() == columns.len() => row,
        [_] => return Err(AnswerError::Columns),
        _ => return Err(AnswerError::Rows),
    };
    if name.is_some_and(|at| row[at].as_deref() != Some(user)) {
        return Err(AnswerError::Name);
    }
    let end = named(&["valuntil", "rolvaliduntil", "valid_until"]).and_then(|at| row[at].as_ref());
    let left = match end.map(|end| seconds(end).ok_or(AnswerError::End)) {
        None => None,
        Some(end) => match end? - now as f64 {
            left if left <= 0.0 => return Ok(Found::Nobody),
            // Longer than can be counted is for ever.
            left => Duration::try_from_secs_f64(left).ok(),
        },
    };
    let Some(text) = row[secret].as_deref().filter(|text| !text.is_empty()) else {
        return Ok(Found::Nobody);
    };
    let is_usable = text.len() <= SECRET_BYTES_MAX
        && matches!(
            StoredPassword::parse(text),
            StoredPassword::Scram(_) | StoredPassword::Md5(_)
        );
    if !is_usable {
        return Err(AnswerError::Secret);
    }
    Ok(Found::Stored {
        secret: Secret::new(text),
        left,
    })
}

/// Reads a time in style ISO, of UTC: `2026-11-23 18:00:00.5+00`, `infinity`.
fn seconds(text: &str) -> Option<f64> {
    match text {
        "infinity" => return Some(f64::INFINITY),
        "-infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let (date, time) = text.split_once(' ')?;
    if let Some(date) = time.strip_suffix(" BC") {
        return time_of_day(date).map(|_| f64::NEG_INFINITY);
    }
    let mut parts = date.split('-');
    let mut part = || parts.next()?.parse::<i64>().ok();
    let (year, month, day) = (part()?, part()?, part()?);
    if !(0..=1_000_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970-01-01 of the Gregorian calendar, years beginning with March.
    let (y, m) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let era = y.div_euclid(400);
    let of_era = y.rem_euclid(400);
    let of_year = (153 * m + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days as f64 * 86_400.0 + time_of_day(time)?)
}

fn time_of_day(text: &str) -> Option<f64> {
    let text = text.strip_suffix("+00").unwrap_or(text);
    let mut parts = text.split(':');
    let hours: u32 = parts.next()?.parse().ok()?;
    let minutes: u32 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    let is_one = hours <= 24 && minutes < 60 && (0.0..=60.0).contains(&seconds);
    (is_one && parts.next().is_none())
        .then(|| f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0 + seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MD5: &str = "md58bbf3f45673bf67d02e4214911f3417f";

    fn read(columns: &str, row: &str) -> Result<Found, AnswerError> {
        let split = |text: &str| text.split('|').map(str::to_owned).collect::<Vec<_>>();
        let value = |text: String| (text != "null").then_some(text);
        let row: Row = split(row).into_iter().map(value).collect();
        judge("bob", &split(columns), &[row], 1_700_000_000)
    }

    #[test]
    fn the_secret_is_found_in_every_usual_form() {
        let stored = |left| {
            Ok(Found::Stored {
                secret: Secret::new(MD5),
                left,
            })
        };
        for (columns, row) in [
            ("passwd", MD5.to_owned()),
            ("anything", MD5.to_owned()),
            ("usename|passwd", format!("bob|{MD5}")),
            ("rolname|x", format!("bob|{MD5}")),
            ("password|a|b", format!("{MD5}|1|2")),
            ("passwd|valuntil", format!("{MD5}|null")),
            ("passwd|valuntil", format!("{MD5}|infinity")),
        ] {
            assert_eq!(read(columns, &row), stored(None), "{columns}");
        }
        let row = format!("{MD5}|2023-11-14 22:14:20.5+00");
        let left = Some(Duration::from_millis(60_500));
        assert_eq!(read("passwd|rolvaliduntil", &row), stored(left));
    }

    #[test]
    fn who_has_none_or_whose_has_expired_is_nobody() {
        for (columns, row) in [
            ("passwd", "null".to_owned()),
            ("passwd", String::new()),
            ("passwd|valuntil", format!("{MD5}|2023-11-14 22:13:20+00")),
            ("passwd|valuntil", format!("{MD5}|-infinity")),
            (
                "passwd|valuntil",
                format!("{MD5}|0001-01-01 00:00:00+00 BC"),
            ),
        ] {
            assert_eq!(read(columns, &row), Ok(Found::Nobody), "{columns} {row}");
        }
        let columns = ["passwd".to_owned()];
        assert_eq!(judge("bob", &columns, &[], 0), Ok(Found::Nobody));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (columns, row, error) in [
            ("a|b", format!("bob|{MD5}"), AnswerError::Columns),
            ("usename", "bob".to_owned(), AnswerError::Columns),
            ("passwd|x", MD5.to_owned(), AnswerError::Columns),
            ("usename|passwd", format!("eve|{MD5}"), AnswerError::Name),
            ("usename|passwd", format!("null|{MD5}"), AnswerError::Name),
            ("passwd", "hunter2".to_owned(), AnswerError::Secret),
            ("passwd", "SCRAM-SHA-256$x".to_owned(), AnswerError::Secret),
            (
                "passwd",
                "jwt-pkey-fpath:/x".to_owned(),
                AnswerError::Secret,
            ),
            (
                "passwd|valuntil",
                format!("{MD5}|tomorrow"),
                AnswerError::End,
            ),
        ] {
            assert_eq!(read(columns, &row), Err(error), "{columns} {row}");
        }
        let row: Row = vec![Some(MD5.to_owned())];
        let columns = ["passwd".to_owned()];
        let twice = judge("bob", &columns, &[row.clone(), row], 0);
        assert_eq!(twice, Err(AnswerError::Rows));
    }

    #[test]
    fn times_are_read_as_the_server_writes_them() {
        for (text, expected) in [
            ("1970-01-01 00:00:00+00", Some(0.0)),
            ("2023-11-14 22:13:20+00", Some(1_700_000_000.0)),
            ("2000-02-29 00:00:00.5+00", Some(951_782_400.5)),
            ("2000-13-01 00:00:00+00", None),
            ("2000-01-01", None),
            ("2000-01-01 00:00:00+02", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), expected, "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn any_answer_is_read_or_refused(columns: Vec<String>, rows: Vec<Row>, now: u64) {
            let _ = judge("bob", &columns, &rows, now);
        }
    }
}
