//! Lines of the log on standard output.
//!
//! **Owns:** that an event is one line.
//! **Does not own:** what stands in it.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Standard output.
pub(super) struct Output {
    /// Events have colours.
    pub(super) has_colours: bool,
}

/// One event on its way to standard output.
pub(super) struct Line {
    has_colours: bool,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line {
            has_colours: self.has_colours,
        }
    }
}

impl Write for Line {
    /// `event` is a whole event with its line end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line = one_line(text, self.has_colours).into_owned();
        line.push(b'\n');
        // In one piece: several threads write, and lines must not mix.
        io::stdout().lock().write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

/// `text` with escapes in the place of line ends and other bytes that are not to be shown. Colours
/// stay, if it has any.
pub(super) fn one_line(text: &[u8], has_colours: bool) -> Cow<'_, [u8]> {
    let is_control = |byte: u8| (byte < b' ' && byte != b'\t') || byte == 0x7f;
    if !text.iter().any(|byte| is_control(*byte)) {
        return text.into();
    }
    let mut line = Vec::with_capacity(text.len() + 16);
    for (at, byte) in text.iter().enumerate() {
        let is_colour = has_colours && is_colour(&text[at..]);
        if is_control(*byte) && !is_colour {
            line.extend(byte.escape_ascii());
        } else {
            line.push(*byte);
        }
    }
    line.into()
}

/// `ESC [ digits m`.
fn is_colour(text: &[u8]) -> bool {
    let Some(rest) = text.strip_prefix(b"\x1b[") else {
        return false;
    };
    let is_part = |byte: &&u8| byte.is_ascii_digit() || **byte == b';';
    let digits = rest.iter().take_while(is_part).count();
    rest.get(digits) == Some(&b'm')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_cannot_begin_another_line() {
        assert_eq!(&*one_line(b"a\tb", false), b"a\tb");
        assert_eq!(&*one_line(b"a\nERROR x\r\n", true), b"a\\nERROR x\\r\\n");
        assert_eq!(&*one_line("ж\0".as_bytes(), true), "ж\\x00".as_bytes());
    }

    #[test]
    fn only_colours_get_through_to_a_terminal() {
        let text = b"\x1b[1;31mred\x1b[0m\x1b[2J\x1b]0;title\x07";
        let shown = b"\x1b[1;31mred\x1b[0m\\x1b[2J\\x1b]0;title\\x07";
        assert_eq!(&*one_line(text, true), shown);
        assert!(!one_line(text, false).contains(&0x1b));
    }
}
