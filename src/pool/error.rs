//! Why a client did not get a server.
//!
//! **Owns:** the reasons and their texts.
//! **Does not own:** the message that the client sees around them (`session::report`).

use std::fmt;
use std::time::Duration;

/// Why a checkout has failed. SQLSTATE `53300` for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckoutError {
    /// The server could not be reached or refused the login. Blame: server. Retry: later.
    Login(String),
    /// The server did not answer within `connect_timeout`. Blame: server. Retry: later.
    LoginTimeout,
    /// No server became free within `query_wait_timeout`. Blame: load. Retry: later.
    WaitTimeout,
}

impl fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Login(reason) => write!(
                f,
                "Error occurred while creating a new connection to postgresql \
                 (postgresql_login_error): {reason}"
            ),
            Self::LoginTimeout => f.write_str(
                "Timeout occurred while creating a new connection to postgresql \
                 (postgresql_login_timeout)",
            ),
            Self::WaitTimeout => f.write_str(
                "Timeout occurred while waiting free connection from pool (query_wait_timeout)",
            ),
        }
    }
}

impl std::error::Error for CheckoutError {}

/// How long nothing is opened after a failure.
pub const REST_AFTER_FAILURE: Duration = Duration::from_millis(10);
