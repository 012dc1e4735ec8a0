//! The type byte at the start of every tagged message.
//!
//! **Owns:** the names of the tags, one newtype for each direction, because the same byte means
//! different things in the two directions (`D` is Describe or `DataRow`, `C` is Close or
//! `CommandComplete`).
//! **Does not own:** message bodies (`frontend`, `backend`).
//! **Invariant:** every byte is representable; an unknown tag is a value, not an error, so that a
//! pooler older than its peers can forward what it does not understand.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html`.

use std::fmt;

/// The tag of a message sent by a client.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrontendTag(pub u8);

/// The tag of a message sent by a PostgreSQL server.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackendTag(pub u8);

/// Declares associated constants and the reverse lookup from one table.
macro_rules! tags {
    ($type:ident { $($constant:ident = $byte:literal, $name:literal;)+ }) => {
        impl $type {
            $(#[doc = concat!("`", $name, "`")] pub const $constant: Self = Self($byte);)+

            /// The name used in the PostgreSQL manual, or `None` for a tag it does not list.
            pub const fn name(self) -> Option<&'static str> {
                match self {
                    $(Self::$constant => Some($name),)+
                    Self(_) => None,
                }
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.name() {
                    Some(name) => f.write_str(name),
                    None => write!(f, "unknown tag '{}'", self.0.escape_ascii()),
                }
            }
        }

        impl From<u8> for $type {
            fn from(byte: u8) -> Self {
                Self(byte)
            }
        }
    };
}

tags!(FrontendTag {
    BIND = b'B', "Bind";
    CLOSE = b'C', "Close";
    COPY_DATA = b'd', "CopyData";
    COPY_DONE = b'c', "CopyDone";
    COPY_FAIL = b'f', "CopyFail";
    DESCRIBE = b'D', "Describe";
    EXECUTE = b'E', "Execute";
    FLUSH = b'H', "Flush";
    FUNCTION_CALL = b'F', "FunctionCall";
    PARSE = b'P', "Parse";
    PASSWORD = b'p', "PasswordMessage";
    QUERY = b'Q', "Query";
    SYNC = b'S', "Sync";
    TERMINATE = b'X', "Terminate";
});

tags!(BackendTag {
    AUTHENTICATION = b'R', "Authentication";
    BACKEND_KEY_DATA = b'K', "BackendKeyData";
    BIND_COMPLETE = b'2', "BindComplete";
    CLOSE_COMPLETE = b'3', "CloseComplete";
    COMMAND_COMPLETE = b'C', "CommandComplete";
    COPY_BOTH_RESPONSE = b'W', "CopyBothResponse";
    COPY_DATA = b'd', "CopyData";
    COPY_DONE = b'c', "CopyDone";
    COPY_IN_RESPONSE = b'G', "CopyInResponse";
    COPY_OUT_RESPONSE = b'H', "CopyOutResponse";
    DATA_ROW = b'D', "DataRow";
    EMPTY_QUERY = b'I', "EmptyQueryResponse";
    ERROR = b'E', "ErrorResponse";
    FUNCTION_CALL_RESPONSE = b'V', "FunctionCallResponse";
    NEGOTIATE_PROTOCOL_VERSION = b'v', "NegotiateProtocolVersion";
    NO_DATA = b'n', "NoData";
    NOTICE = b'N', "NoticeResponse";
    NOTIFICATION = b'A', "NotificationResponse";
    PARAMETER_DESCRIPTION = b't', "ParameterDescription";
    PARAMETER_STATUS = b'S', "ParameterStatus";
    PARSE_COMPLETE = b'1', "ParseComplete";
    PORTAL_SUSPENDED = b's', "PortalSuspended";
    READY_FOR_QUERY = b'Z', "ReadyForQuery";
    ROW_DESCRIPTION = b'T', "RowDescription";
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_can_be_matched_and_unknown_ones_stay_values() {
        let kind = |tag: FrontendTag| match tag {
            FrontendTag::QUERY | FrontendTag::PARSE => "statement",
            FrontendTag(b'!') => "unknown",
            _ => "other",
        };
        assert_eq!(kind(FrontendTag(b'P')), "statement");
        assert_eq!(kind(FrontendTag(b'!')), "unknown");
        assert_eq!(kind(FrontendTag::SYNC), "other");
        assert_eq!(BackendTag(0xff).to_string(), "unknown tag '\\xff'");
        assert_eq!(BackendTag::READY_FOR_QUERY.to_string(), "ReadyForQuery");
    }
}
