//! Which version of the protocol servers are asked for.
//!
//! **Owns:** what is asked for next, and what errors tell of it.
//! **Does not own:** the answer of a server that names an older version (`handshake`).
//!
//! ```text
//!   3.2 ──v, older──▶ that one, this time          3.2 ──refused, or closed without a word──▶ 3.0, once more
//!                                                        and if that works, from now on
//! ```
//!
//! PostgreSQL names the version that it speaks. Others in its place may refuse what they do not know.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html` "Start-up", `libpq-connect.html`
//! (`max_protocol_version`).

use std::cell::Cell;
use std::rc::Rc;

use crate::protocol::sqlstate;
use crate::protocol::startup::PROTOCOL_MINOR_MAX;

use super::error::ServerError;

/// The minor version that the servers of a pool are asked for.
#[derive(Clone, Debug)]
pub struct Version(Rc<Cell<u16>>);

impl Default for Version {
    fn default() -> Self {
        Self(Rc::new(Cell::new(PROTOCOL_MINOR_MAX)))
    }
}

impl Version {
    /// What to ask for.
    pub(super) fn minor(&self) -> u16 {
        self.0.get()
    }

    /// Asks for 3.0 only, from now on.
    pub(super) fn lower(&self) {
        self.0.set(0);
    }
}

/// True if the answer to a startup packet that asked for 3.`minor` may be about the version.
pub(super) fn may_be_about(minor: u16, error: &ServerError) -> bool {
    let may = match error {
        ServerError::Refused { sqlstate, .. } => {
            sqlstate == sqlstate::FEATURE_NOT_SUPPORTED || sqlstate == sqlstate::PROTOCOL_VIOLATION
        }
        ServerError::Closed => true,
        _ => false,
    };
    minor > 0 && may
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_be_about_the_version_is_tried_again() {
        let refused = |sqlstate: &str| ServerError::Refused {
            sqlstate: sqlstate.to_owned(),
            message: String::new(),
        };
        for (error, may) in [
            (refused("0A000"), true),
            (refused("08P01"), true),
            (refused("28P01"), false),
            (refused("53300"), false),
            (ServerError::Closed, true),
            (ServerError::Unexpected(b'v'), false),
        ] {
            assert_eq!(may_be_about(2, &error), may, "{error}");
            assert!(!may_be_about(0, &error), "{error}");
        }
    }
}
