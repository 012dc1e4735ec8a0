//! What a console takes in a `Bind`.
//!
//! **Owns:** the check of its parameters and formats.
//! **Does not own:** its names (`console`).
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`, "Bind".

use crate::admin::Refusal;
use crate::protocol::sqlstate;

/// Checks what follows the names in a `Bind`: no parameters, and results as text.
pub(super) fn check_binding(rest: &[u8]) -> Result<(), Refusal> {
    let numbers = |bytes: &[u8]| -> Option<(Vec<u16>, usize)> {
        let (count, rest) = bytes.split_first_chunk::<2>()?;
        let len = 2 * usize::from(u16::from_be_bytes(*count));
        let codes = rest.get(..len)?.chunks_exact(2);
        let codes = codes.map(|code| u16::from(code[0]) << 8 | u16::from(code[1]));
        Some((codes.collect(), 2 + len))
    };
    let (_, used) = numbers(rest).ok_or_else(invalid)?;
    let rest = &rest[used..];
    let (count, rest) = rest.split_first_chunk::<2>().ok_or_else(invalid)?;
    if *count != [0, 0] {
        return Err(not_spoken(
            "commands of the admin console have no parameters",
        ));
    }
    let (formats, used) = numbers(rest).ok_or_else(invalid)?;
    if used != rest.len() {
        return Err(invalid());
    }
    if formats.iter().any(|format| *format != 0) {
        return Err(not_spoken(
            "results of the admin console are text, not binary",
        ));
    }
    Ok(())
}

/// What the console does not do.
pub(super) fn not_spoken(text: &str) -> Refusal {
    Refusal::new(sqlstate::FEATURE_NOT_SUPPORTED, text)
}

/// A message that is none.
pub(super) fn invalid() -> Refusal {
    Refusal::new(sqlstate::PROTOCOL_VIOLATION, "invalid message format")
}
