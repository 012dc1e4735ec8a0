//! The text of a rule file, down to fields.
//!
//! **Owns:** lines that continue, comments, quotes, comma lists.
//! **Does not own:** what a field means.
//! **Invariant:** a token that begins with a quote has no special meaning as a file or a keyword; one that
//! has quotes further on keeps it, as at the server.
//!
//! Source: PostgreSQL manual `auth-pg-hba-conf.html`.

use std::iter::Peekable;
use std::str::Chars;

/// One word of a field.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) text: String,
    /// Whether it begins with a double quote.
    pub(super) quoted: bool,
}

/// The lines of `text` with the number of their first one. A line goes on after a backslash at its
/// end.
pub(super) fn logical(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (index, line) in text.lines().enumerate() {
        let (piece, next_goes_on) = match line.strip_suffix('\\') {
            Some(piece) => (piece, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, whole)) if goes_on => whole.push_str(piece),
            _ => lines.push((index + 1, piece.to_owned())),
        }
        goes_on = next_goes_on;
    }
    lines
}

/// Splits a line into fields, each a comma list.
///
/// A comma may be followed by blanks. A comment begins at `#` outside quotes. Inside quotes, two
/// quotes stand for one.
pub(super) fn fields(line: &str) -> Result<Vec<Vec<Token>>, String> {
    let mut fields: Vec<Vec<Token>> = Vec::new();
    let mut chars = line.chars().peekable();
    let mut list_continues = false;
    loop {
        while chars.next_if(|c| c.is_whitespace() || *c == ',').is_some() {}
        if chars.peek().is_none_or(|c| *c == '#') {
            return Ok(fields);
        }
        let token = token(&mut chars)?;
        match fields.last_mut() {
            Some(field) if list_continues => field.push(token),
            _ => fields.push(vec![token]),
        }
        list_continues = chars.next_if_eq(&',').is_some();
    }
}

fn token(chars: &mut Peekable<Chars<'_>>) -> Result<Token, String> {
    let mut token = Token {
        text: String::new(),
        quoted: chars.peek() == Some(&'"'),
    };
    let mut in_quotes = false;
    while let Some(c) =
        chars.next_if(|c| in_quotes || !(c.is_whitespace() || matches!(c, ',' | '#')))
    {
        match c {
            '"' if in_quotes && chars.next_if_eq(&'"').is_some() => token.text.push('"'),
            '"' => in_quotes = !in_quotes,
            c => token.text.push(c),
        }
    }
    if in_quotes {
        return Err("a double quote is not closed".to_owned());
    }
    Ok(token)
}
