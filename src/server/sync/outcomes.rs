//! What becomes of requests that somebody keeps an account of.
//!
//! **Owns:** who wants to know, and the form in which it is told.
//! **Does not own:** the queue ([`super`]), the journals (`server::statements`, `session::prepared`).
//!
//! **Invariant:** of the requests of one journal those that were done come before those that were not.
//!
//! Source: PostgreSQL documentation, `protocol-flow.html`, "Extended Query".

/// Whose journal has a record of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The client's.
    pub by_client: bool,
    /// The server's.
    pub by_server: bool,
}

impl Noted {
    /// Nobody's.
    pub const BY_NOBODY: Self = Self {
        by_client: false,
        by_server: false,
    };
    /// The client's only.
    pub const BY_CLIENT: Self = Self {
        by_client: true,
        by_server: false,
    };
    /// The server's only.
    pub const BY_SERVER: Self = Self {
        by_client: false,
        by_server: true,
    };
    /// Both.
    pub const BY_BOTH: Self = Self {
        by_client: true,
        by_server: true,
    };
}

/// What has become of the requests of one journal: so many were done, and those behind them failed
/// or were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests done.
    pub done: u32,
    /// Requests behind them that failed or were skipped.
    pub failed: u32,
}

impl Tally {
    pub(super) const fn count(&mut self, is_noted: bool, is_done: bool) {
        if is_noted && is_done {
            self.done += 1;
        } else if is_noted {
            self.failed += 1;
        }
    }
}

/// What has become of noted requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Those that the client's journal has.
    pub client: Tally,
    /// Those that the server's journal has.
    pub server: Tally,
    /// Those that tell what a result looks like.
    pub telling: Tally,
    /// The first of the client's that failed is what the error is about; the others were skipped.
    pub is_first_to_blame: bool,
}

/// What a request has to do with what clients are told of results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bearing {
    /// Nothing.
    #[default]
    None,
    /// If it is done, the client knows what the result looks like.
    Tells,
    /// It is sent to fail, for a client that knows another result.
    Refuses,
}
