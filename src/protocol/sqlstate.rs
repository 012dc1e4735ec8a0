//! The SQLSTATE codes the pooler itself emits or looks at.
//!
//! **Owns:** spelling of the codes.
//! **Does not own:** which situation gets which code; the error types say that.
//! **Invariant:** every code is five characters, upper-case letters and digits.
//!
//! Source: PostgreSQL documentation, `errcodes-appendix.html`.

/// A SQLSTATE: five ASCII characters.
pub type SqlState = &'static str;

/// `connection_failure`: the connection to a peer broke.
pub const CONNECTION_FAILURE: SqlState = "08006";
/// `sqlclient_unable_to_establish_sqlconnection`.
pub const UNABLE_TO_CONNECT: SqlState = "08001";
/// `protocol_violation`.
pub const PROTOCOL_VIOLATION: SqlState = "08P01";
/// `feature_not_supported`.
pub const FEATURE_NOT_SUPPORTED: SqlState = "0A000";
/// `invalid_parameter_value`.
pub const INVALID_PARAMETER_VALUE: SqlState = "22023";
/// `active_sql_transaction`.
pub const ACTIVE_SQL_TRANSACTION: SqlState = "25001";
/// `in_failed_sql_transaction`.
pub const IN_FAILED_SQL_TRANSACTION: SqlState = "25P02";
/// `idle_in_transaction_session_timeout`.
pub const IDLE_IN_TRANSACTION_TIMEOUT: SqlState = "25P03";
/// `transaction_timeout`, PostgreSQL 17.
pub const TRANSACTION_TIMEOUT: SqlState = "25P04";
/// `invalid_sql_statement_name`: a prepared statement that does not exist.
pub const INVALID_STATEMENT_NAME: SqlState = "26000";
/// `invalid_authorization_specification`.
pub const INVALID_AUTHORIZATION: SqlState = "28000";
/// `invalid_password`.
pub const INVALID_PASSWORD: SqlState = "28P01";
/// `invalid_catalog_name`: no such database.
pub const INVALID_CATALOG_NAME: SqlState = "3D000";
/// `syntax_error`.
pub const SYNTAX_ERROR: SqlState = "42601";
/// `insufficient_privilege`.
pub const INSUFFICIENT_PRIVILEGE: SqlState = "42501";
/// `undefined_object`.
pub const UNDEFINED_OBJECT: SqlState = "42704";
/// `duplicate_prepared_statement`.
pub const DUPLICATE_STATEMENT: SqlState = "42P05";
/// `out_of_memory`.
pub const OUT_OF_MEMORY: SqlState = "53200";
/// `too_many_connections`.
pub const TOO_MANY_CONNECTIONS: SqlState = "53300";
/// `program_limit_exceeded`.
pub const PROGRAM_LIMIT_EXCEEDED: SqlState = "54000";
/// `query_canceled`.
pub const QUERY_CANCELED: SqlState = "57014";
/// `admin_shutdown`.
pub const ADMIN_SHUTDOWN: SqlState = "57P01";
/// `crash_shutdown`.
pub const CRASH_SHUTDOWN: SqlState = "57P02";
/// `cannot_connect_now`.
pub const CANNOT_CONNECT_NOW: SqlState = "57P03";
/// `idle_session_timeout`.
pub const IDLE_SESSION_TIMEOUT: SqlState = "57P05";
/// `system_error`.
pub const SYSTEM_ERROR: SqlState = "58000";
/// The pooler is shutting down. Class 58, not in PostgreSQL's list; clients of poolers expect it.
pub const POOLER_SHUTDOWN: SqlState = "58006";
/// `internal_error`.
pub const INTERNAL_ERROR: SqlState = "XX000";
/// `successful_completion`, for notices.
pub const SUCCESSFUL_COMPLETION: SqlState = "00000";
/// `warning`, for notices.
pub const WARNING: SqlState = "01000";
