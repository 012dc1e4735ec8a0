//! What a text asks for.
//!
//! **Owns:** the words of all commands, how a text is cut into commands and words, and what is said
//! about others.
//! **Does not own:** doing it (`session::commands`).
//!
//! A text is commands with `;` between them; a command is words with white space between them. Words
//! compare without case. Names and values may stand in quotes, single or double, and are taken as they
//! are then; a doubled quote is one of its kind. There are no comments.

use std::fmt;

/// A command that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Close the clients and servers of a database, and pause it.
    Kill(String),
    /// Close one client.
    KillClient(u32),
    /// Lend no servers, of one database or of all.
    Pause(Option<String>),
    /// Replace servers, of one database or of all.
    Reconnect(Option<String>),
    /// Read the configuration again.
    Reload,
    /// Lend servers again, of one database or of all.
    Resume(Option<String>),
    /// Change a setting until the next reload.
    Set {
        /// The setting.
        key: String,
        /// Its new value.
        value: String,
    },
    /// Show something.
    Show(Subject),
    /// End the process.
    Shutdown(When),
    /// Have a new process take over.
    Upgrade,
}

/// When the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At once.
    Now,
    /// When the last client has gone.
    NoClients,
    /// When no client uses a server.
    NoServers,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "docs/admin.md tells what each of them is")]
pub enum Subject {
    Help,
    Config,
    Databases,
    Pools,
    PoolsExtended,
    PoolsMemory,
    PreparedStatements,
    Clients,
    Servers,
    Users,
    Version,
    Lists,
    Connections,
    Stats,
    StatsTotals,
    StatsAverages,
    Sockets,
    Shards,
    Listen,
}

/// The words behind `SHOW`, in the order of `SHOW HELP`.
pub const SUBJECTS: &[(&str, Subject)] = &[
    ("HELP", Subject::Help),
    ("CONFIG", Subject::Config),
    ("DATABASES", Subject::Databases),
    ("POOLS", Subject::Pools),
    ("POOLS_EXTENDED", Subject::PoolsExtended),
    ("POOLS_MEMORY", Subject::PoolsMemory),
    ("PREPARED_STATEMENTS", Subject::PreparedStatements),
    ("CLIENTS", Subject::Clients),
    ("SERVERS", Subject::Servers),
    ("USERS", Subject::Users),
    ("VERSION", Subject::Version),
    ("LISTS", Subject::Lists),
    ("CONNECTIONS", Subject::Connections),
    ("STATS", Subject::Stats),
    ("STATS_TOTALS", Subject::StatsTotals),
    ("STATS_AVERAGES", Subject::StatsAverages),
    ("SOCKETS", Subject::Sockets),
    ("SHARDS", Subject::Shards),
    ("LISTEN", Subject::Listen),
];

/// Other words for the same.
const ALIASES: &[(&str, Subject)] = &[("POOL_MEMORY", Subject::PoolsMemory)];

/// The other commands, in the order of `SHOW HELP`.
pub const USAGES: &[&str] = &[
    "PAUSE [db]",
    "RESUME [db]",
    "RECONNECT [db]",
    "KILL db",
    "KILL_CLIENT id",
    "SET key = value",
    "RELOAD",
    "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
    "UPGRADE",
];

/// There is more than a name.
struct TooManyWords;

/// Why a text is no command. The session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// A quote has no end.
    OpenQuote,
    /// `SHOW` has no word behind it, or more than one.
    ShowWhat,
    /// The first word is none of those known.
    Unknown,
    /// The word behind `SHOW` is none of those known.
    UnknownSubject,
    /// A command that exists, with other words behind it than it takes.
    Usage(&'static str),
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenQuote => "unterminated quoted string",
            Self::ShowWhat => {
                "Unsupported query against the admin database, please use SHOW HELP for a list of \
                 supported subcommands"
            }
            Self::Unknown => "Unsupported query against the admin database",
            Self::UnknownSubject => "Unsupported SHOW query against the admin database",
            Self::Usage(usage) => return write!(f, "this command is written: {usage}"),
        })
    }
}

/// A word of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    fn is(&self, word: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(word)
    }
}

/// The commands in a text, as far as they can be read: nothing stands behind the first error.
pub fn parse(text: &[u8]) -> Vec<Result<Command, CommandError>> {
    let mut commands = Vec::new();
    let text = String::from_utf8_lossy(text);
    let mut rest: &str = &text;
    while !rest.is_empty() {
        let command = match words(&mut rest) {
            Ok(words) if words.is_empty() => continue,
            Ok(words) => command(words),
            Err(error) => Err(error),
        };
        let is_last = command.is_err();
        commands.push(command);
        if is_last {
            break;
        }
    }
    commands
}

/// The words up to the next `;`, which is taken off `rest` with them.
fn words(rest: &mut &str) -> Result<Vec<Word>, CommandError> {
    let mut words = Vec::new();
    loop {
        *rest = rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
        let Some(first) = rest.chars().next() else {
            return Ok(words);
        };
        match first {
            ';' => {
                *rest = &rest[1..];
                return Ok(words);
            }
            '\'' | '"' => words.push(quoted(rest, first)?),
            '=' => {
                *rest = &rest[1..];
                words.push(Word {
                    text: "=".to_owned(),
                    is_quoted: false,
                });
            }
            _ => {
                let is_end =
                    |c: char| c.is_ascii_whitespace() || matches!(c, ';' | '=' | '\'' | '"');
                let end = rest.find(is_end).unwrap_or(rest.len());
                words.push(Word {
                    text: rest[..end].to_owned(),
                    is_quoted: false,
                });
                *rest = &rest[end..];
            }
        }
    }
}

/// The quoted word at the start of `rest`.
fn quoted(rest: &mut &str, quote: char) -> Result<Word, CommandError> {
    let mut text = String::new();
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((at, letter)) = letters.next() {
        if letter != quote {
            text.push(letter);
        } else if letters.next_if(|(_, next)| *next == quote).is_some() {
            text.push(quote);
        } else {
            *rest = &rest[at + 1..];
            let is_quoted = true;
            return Ok(Word { text, is_quoted });
        }
    }
    Err(CommandError::OpenQuote)
}

fn command(words: Vec<Word>) -> Result<Command, CommandError> {
    let mut words = words.into_iter();
    let Some(first) = words.next() else {
        return Err(CommandError::Unknown);
    };
    let rest: Vec<_> = words.collect();
    if first.is("SHOW") {
        return show(&rest);
    }
    // As in earlier versions, what follows the word is ignored.
    if first.is("RELOAD") {
        return Ok(Command::Reload);
    }
    let usage = |name: &str| {
        let found = USAGES
            .iter()
            .find(|usage| usage.split(' ').next() == Some(name));
        CommandError::Usage(found.copied().unwrap_or_default())
    };
    for (name, make) in [
        ("PAUSE", Command::Pause as fn(_) -> _),
        ("RESUME", Command::Resume),
        ("RECONNECT", Command::Reconnect),
    ] {
        if first.is(name) {
            return database(rest).map(make).map_err(|TooManyWords| usage(name));
        }
    }
    if first.is("KILL") {
        let database = database(rest).ok().flatten();
        return database.map(Command::Kill).ok_or_else(|| usage("KILL"));
    }
    if first.is("KILL_CLIENT") {
        return client_id(&rest)
            .map(Command::KillClient)
            .ok_or_else(|| usage("KILL_CLIENT"));
    }
    if first.is("SET") {
        return set(rest).ok_or_else(|| usage("SET"));
    }
    if first.is("SHUTDOWN") {
        return shutdown(&rest)
            .map(Command::Shutdown)
            .ok_or_else(|| usage("SHUTDOWN"));
    }
    if first.is("UPGRADE") && rest.is_empty() {
        return Ok(Command::Upgrade);
    }
    if first.is("UPGRADE") {
        return Err(usage("UPGRADE"));
    }
    Err(CommandError::Unknown)
}

fn show(words: &[Word]) -> Result<Command, CommandError> {
    let [subject] = words else {
        return Err(CommandError::ShowWhat);
    };
    let mut all = SUBJECTS.iter().chain(ALIASES);
    all.find(|(name, _)| subject.is(name))
        .map(|(_, subject)| Command::Show(*subject))
        .ok_or(CommandError::UnknownSubject)
}

/// At most one name of a database.
fn database(words: Vec<Word>) -> Result<Option<String>, TooManyWords> {
    let mut words = words.into_iter();
    let name = words.next().map(|word| word.text);
    words.next().map_or(Ok(name), |_| Err(TooManyWords))
}

/// A number as `SHOW CLIENTS` shows it, or in decimal.
fn client_id(words: &[Word]) -> Option<u32> {
    let [word] = words else { return None };
    let text = word.text.as_str();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn set(words: Vec<Word>) -> Option<Command> {
    let words: [Word; 3] = words.try_into().ok()?;
    let [key, between, value] = words;
    if !between.is("=") && !between.is("TO") {
        return None;
    }
    Some(Command::Set {
        key: key.text.to_ascii_lowercase(),
        value: value.text,
    })
}

fn shutdown(words: &[Word]) -> Option<When> {
    match words {
        [] => Some(When::Now),
        [word] if word.is("WAIT_FOR_CLIENTS") => Some(When::NoClients),
        [word] if word.is("WAIT_FOR_SERVERS") => Some(When::NoServers),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Result<Command, CommandError> {
        let mut all = parse(text.as_bytes());
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    #[test]
    fn words_are_read_without_case_and_white_space() {
        for text in [
            "SHOW SHARDS",
            "show shards;",
            "  Show\t\r\nsHARDS ; ; ",
            "SHOW SHARDS;;",
        ] {
            assert_eq!(one(text), Ok(Command::Show(Subject::Shards)), "{text:?}");
        }
        assert_eq!(
            one("show pool_memory"),
            Ok(Command::Show(Subject::PoolsMemory))
        );
        assert_eq!(one("RELOAD now;"), Ok(Command::Reload));
        assert_eq!(one("pause"), Ok(Command::Pause(None)));
        assert_eq!(
            one("Pause My_Db;"),
            Ok(Command::Pause(Some("My_Db".to_owned())))
        );
        let quoted = "a \"b;' c".to_owned();
        assert_eq!(
            one("RECONNECT \"a \"\"b;' c\""),
            Ok(Command::Reconnect(Some(quoted)))
        );
        assert_eq!(one("kill db"), Ok(Command::Kill("db".to_owned())));
        assert_eq!(one("kill_client 0x000000FF"), Ok(Command::KillClient(255)));
        assert_eq!(one("kill_client '12'"), Ok(Command::KillClient(12)));
        assert_eq!(one("shutdown"), Ok(Command::Shutdown(When::Now)));
        let when = When::NoServers;
        assert_eq!(
            one("SHUTDOWN wait_for_servers"),
            Ok(Command::Shutdown(when))
        );
        for text in ["SET Key = 'v'", "set key='v'", "set key=v", "SET key TO v"] {
            let (key, value) = ("key".to_owned(), "v".to_owned());
            assert_eq!(one(text), Ok(Command::Set { key, value }), "{text}");
        }
    }

    #[test]
    fn a_text_may_have_many_commands_or_none() {
        for text in ["", ";", " ", "\n;\t;"] {
            assert!(parse(text.as_bytes()).is_empty(), "{text:?}");
        }
        let two = parse(b"show help; ;RESUME;");
        assert_eq!(
            two,
            [Ok(Command::Show(Subject::Help)), Ok(Command::Resume(None))]
        );
        let until_error = parse(b"show help; nonsense; resume");
        assert_eq!(until_error.len(), 2);
        assert_eq!(until_error[1], Err(CommandError::Unknown));
    }

    #[test]
    fn what_is_no_command_is_told_apart() {
        for (text, error) in [
            ("SELECT 1", CommandError::Unknown),
            ("SHOWHELP", CommandError::Unknown),
            ("\"SHOW\" HELP", CommandError::Unknown),
            ("= = =", CommandError::Unknown),
            ("SHOW", CommandError::ShowWhat),
            ("SHOW ;", CommandError::ShowWhat),
            ("SHOW HELP VERSION", CommandError::ShowWhat),
            ("SHOW NOTHING", CommandError::UnknownSubject),
            ("SHOW 'HELP'", CommandError::UnknownSubject),
            ("PAUSE a b", CommandError::Usage("PAUSE [db]")),
            ("KILL", CommandError::Usage("KILL db")),
            ("KILL_CLIENT x", CommandError::Usage("KILL_CLIENT id")),
            ("KILL_CLIENT -1", CommandError::Usage("KILL_CLIENT id")),
            ("SET a b", CommandError::Usage("SET key = value")),
            ("PAUSE 'a", CommandError::OpenQuote),
        ] {
            assert_eq!(one(text), Err(error), "{text}");
        }
        assert_eq!(parse(b"\xff\xfe\x00"), [Err(CommandError::Unknown)]);
        assert_eq!(parse(b"SHOW \xff"), [Err(CommandError::UnknownSubject)]);
    }
}
