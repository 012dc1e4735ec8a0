//! What a text asks for.
//!
//! **Owns:** the words of all commands, and what is said about others.
//! **Does not own:** doing it (`admin`, `session::console`).
//!
//! There are no quotes, no comments and no second statement: a text is words with white space between
//! them. Words compare without case.

use std::fmt;

/// A command that exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Nothing.
    Empty,
    /// Read the configuration again.
    Reload,
    /// Show something.
    Show(Subject),
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The commands.
    Help,
    /// The prepared statements of clients.
    PreparedStatements,
    /// The numbers of the shards.
    Shards,
    /// The version.
    Version,
}

/// The words behind `SHOW`, in the order of `SHOW HELP`.
pub const SUBJECTS: &[(&str, Subject)] = &[
    ("HELP", Subject::Help),
    ("PREPARED_STATEMENTS", Subject::PreparedStatements),
    ("SHARDS", Subject::Shards),
    ("VERSION", Subject::Version),
];

/// The commands that are one word, in the order of `SHOW HELP`. What follows the word is ignored.
pub const WORDS: &[(&str, Command)] = &[("RELOAD", Command::Reload)];

/// Why a text is no command. The session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The first word is none of those known.
    Unknown,
    /// `SHOW` has no word behind it, or more than one.
    ShowWhat,
    /// The word behind `SHOW` is none of those known.
    UnknownSubject,
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "Unsupported query against the admin database",
            Self::ShowWhat => {
                "Unsupported query against the admin database, please use SHOW HELP for a list of \
                 supported subcommands"
            }
            Self::UnknownSubject => "Unsupported SHOW query against the admin database",
        })
    }
}

/// Reads a text, which may end with semicolons.
///
/// # Errors
///
/// [`CommandError`]
pub fn parse(text: &[u8]) -> Result<Command, CommandError> {
    let is_end = |byte: &u8| *byte == b';' || byte.is_ascii_whitespace();
    let end = text.iter().rposition(|byte| !is_end(byte));
    let text = &text[..end.map_or(0, |at| at + 1)];
    let mut words = text
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let Some(first) = words.next() else {
        return Ok(Command::Empty);
    };
    if !first.eq_ignore_ascii_case(b"SHOW") {
        return find(WORDS, first).ok_or(CommandError::Unknown);
    }
    let (Some(subject), None) = (words.next(), words.next()) else {
        return Err(CommandError::ShowWhat);
    };
    find(SUBJECTS, subject)
        .map(Command::Show)
        .ok_or(CommandError::UnknownSubject)
}

fn find<T: Copy>(table: &[(&str, T)], word: &[u8]) -> Option<T> {
    table
        .iter()
        .find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word))
        .map(|(_, found)| *found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_without_case_and_white_space() {
        let shards = Ok(Command::Show(Subject::Shards));
        for text in [
            "SHOW SHARDS",
            "show shards;",
            "  Show\t\r\nsHARDS ; ; ",
            "SHOW SHARDS;;",
        ] {
            assert_eq!(parse(text.as_bytes()), shards, "{text:?}");
        }
        assert_eq!(parse(b"show help"), Ok(Command::Show(Subject::Help)));
        assert_eq!(parse(b"show version"), Ok(Command::Show(Subject::Version)));
        assert_eq!(parse(b"reload"), Ok(Command::Reload));
        assert_eq!(parse(b"RELOAD now;"), Ok(Command::Reload));
    }

    #[test]
    fn no_words_are_no_command() {
        for text in ["", ";", " ", "\n;\t;"] {
            assert_eq!(parse(text.as_bytes()), Ok(Command::Empty), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_told_apart() {
        for (text, error) in [
            (&b"SELECT 1"[..], CommandError::Unknown),
            (b"SHOWHELP", CommandError::Unknown),
            (b"\"SHOW\" HELP", CommandError::Unknown),
            (b"\xff\xfe\x00", CommandError::Unknown),
            (b"SHOW", CommandError::ShowWhat),
            (b"SHOW ;", CommandError::ShowWhat),
            (b"SHOW HELP VERSION", CommandError::ShowWhat),
            (b"SHOW HELP; SHOW VERSION", CommandError::ShowWhat),
            (b"SHOW NOTHING", CommandError::UnknownSubject),
            (b"SHOW \xff", CommandError::UnknownSubject),
            (b"SHOW HELP;VERSION", CommandError::UnknownSubject),
        ] {
            assert_eq!(parse(text), Err(error), "{}", text.escape_ascii());
        }
    }
}
