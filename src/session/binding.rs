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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_binding_without_parameters_and_with_text_is_taken() {
        assert_eq!(check_binding(&[0, 0, 0, 0, 0, 0]), Ok(()));
        assert_eq!(check_binding(&[0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0]), Ok(()));
        for (rest, sqlstate) in [
            (&[0, 0, 0, 1, 0, 0, 0, 1, 65, 0, 0][..], "0A000"),
            (&[0, 0, 0, 0, 0, 1, 0, 1], "0A000"),
            (&[0, 0, 0, 0, 0, 0, 0], "08P01"),
            (&[0, 9, 0, 0], "08P01"),
            (&[], "08P01"),
        ] {
            assert_eq!(
                check_binding(rest).unwrap_err().sqlstate,
                sqlstate,
                "{rest:?}"
            );
        }
    }
}
