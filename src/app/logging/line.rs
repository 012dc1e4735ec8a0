//! Lines of the log on standard output.
//!
//! **Owns:** that an event is one line.
//! **Does not own:** what stands in it.

use std::borrow::Cow;
use std::io::{self, Write};

use tracing_subscriber::fmt::MakeWriter;

/// Standard output.
pub(super) struct Output;

/// One event on its way to standard output.
pub(super) struct Line;

impl<'a> MakeWriter<'a> for Output {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line
    }
}

impl Write for Line {
    /// `event` is a whole event with its line end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line = one_line(text).into_owned();
        line.push(b'\n');
        // In one piece: several threads write, and lines must not mix.
        io::stdout().lock().write_all(&line)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().lock().flush()
    }
}

/// `text` with line ends written as `\n` and `\r`.
pub(super) fn one_line(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', text).is_none() {
        return text.into();
    }
    let mut line = Vec::with_capacity(text.len() + 16);
    for byte in text {
        match byte {
            b'\n' => line.extend_from_slice(b"\\n"),
            b'\r' => line.extend_from_slice(b"\\r"),
            other => line.push(*other),
        }
    }
    line.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_cannot_begin_another_line() {
        assert_eq!(&*one_line(b"a b"), b"a b");
        assert_eq!(&*one_line(b"a\nERROR x\r\n"), b"a\\nERROR x\\r\\n");
    }
}
