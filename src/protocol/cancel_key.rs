//! The cancel key a client is given, and where it says its session lives.
//!
//! **Owns:** the packing of generation, shard and slot into the process id of `BackendKeyData`;
//! comparison of secrets.
//! **Does not own:** making random bytes, finding the session (`session`), who runs the request.
//! **Invariants:** a pid is always positive, because some drivers refuse to cancel with zero or
//! less; a key that was encoded decodes to the same fields; secrets are compared in constant time
//! and never printed.
//!
//! ```text
//!   pid - 1:   0 │ generation, 4 bits │ shard, 10 bits │ slot, 17 bits
//!   secret:    4 random bytes (protocol 3.0) or 32 random bytes (protocol 3.2)
//! ```
//!
//! Any shard, and after an upgrade any process, can read from the pid alone who can judge the
//! secret. The pid is no secret: it only says where to look.
//!
//! Source: PostgreSQL documentation, `protocol-message-formats.html` (`BackendKeyData`,
//! `CancelRequest`), `protocol-flow.html` ("Canceling Requests in Progress").

use std::fmt;

use subtle::ConstantTimeEq;

const SHARD_BITS: u32 = 10;
const SLOT_BITS: u32 = 17;

/// The largest generation number that fits; generations are counted modulo this plus one.
pub const GENERATION_MAX: u8 = 15;
/// The largest shard number that fits.
pub const SHARD_MAX: u16 = (1 << SHARD_BITS) - 1;
/// The largest slot number that fits.
pub const SLOT_MAX: u32 = (1 << SLOT_BITS) - 1;

/// The secret half of a cancel key.
#[derive(Clone, Copy)]
pub enum CancelSecret {
    /// For clients that speak protocol 3.2 or newer.
    Long([u8; 32]),
    /// For clients that speak protocol 3.0.
    Short([u8; 4]),
}

impl CancelSecret {
    /// Takes the secret of a cancel request, or `None` if no key given out here has that length.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if let Ok(short) = bytes.try_into() {
            return Some(Self::Short(short));
        }
        bytes.try_into().ok().map(Self::Long)
    }

    /// The bytes on the wire.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Long(bytes) => bytes,
            Self::Short(bytes) => bytes,
        }
    }
}

/// Takes the same time wherever the first difference is.
impl PartialEq for CancelSecret {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for CancelSecret {}

impl fmt::Debug for CancelSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CancelSecret({} bytes)", self.as_bytes().len())
    }
}

/// A cancel key with its fields apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CancelKey {
    /// Which process gave the key out: a counter that goes up by one at each binary upgrade.
    pub generation: u8,
    /// The shard that accepted the session.
    pub shard: u16,
    /// The session's place in that shard's registry.
    pub slot: u32,
    /// What the canceller must know.
    pub secret: CancelSecret,
}

impl CancelKey {
    /// The number to send as process id, or `None` if a field is too large for its place.
    ///
    /// The one combination of all three largest values has no number either.
    pub fn pid(&self) -> Option<i32> {
        if self.generation > GENERATION_MAX || self.shard > SHARD_MAX || self.slot > SLOT_MAX {
            return None;
        }
        let packed = u32::from(self.generation) << (SHARD_BITS + SLOT_BITS)
            | u32::from(self.shard) << SLOT_BITS
            | self.slot;
        i32::try_from(packed).ok()?.checked_add(1)
    }

    /// Reads the key of a cancel request, or `None` if it cannot be one that was given out here.
    pub fn decode(pid: i32, secret: &[u8]) -> Option<Self> {
        let secret = CancelSecret::from_bytes(secret)?;
        let packed = u32::try_from(pid).ok()?.checked_sub(1)?;
        let field = |shift: u32, max: u32| packed >> shift & max;
        Some(Self {
            generation: field(SHARD_BITS + SLOT_BITS, u32::from(GENERATION_MAX)) as u8,
            shard: field(SLOT_BITS, u32::from(SHARD_MAX)) as u16,
            slot: field(0, SLOT_MAX),
            secret,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ZERO: CancelKey = CancelKey {
        generation: 0,
        shard: 0,
        slot: 0,
        secret: CancelSecret::Short([0; 4]),
    };

    #[test]
    fn a_field_that_does_not_fit_gives_no_pid() {
        assert_eq!(ZERO.pid(), Some(1));
        assert_eq!(
            CancelKey {
                generation: 16,
                ..ZERO
            }
            .pid(),
            None
        );
        assert_eq!(
            CancelKey {
                shard: 1024,
                ..ZERO
            }
            .pid(),
            None
        );
        assert_eq!(
            CancelKey {
                slot: 1 << 17,
                ..ZERO
            }
            .pid(),
            None
        );
        let largest = CancelKey {
            generation: GENERATION_MAX,
            shard: SHARD_MAX,
            slot: SLOT_MAX,
            ..ZERO
        };
        assert_eq!(largest.pid(), None);
        assert_eq!(
            CancelKey {
                slot: SLOT_MAX - 1,
                ..largest
            }
            .pid(),
            Some(i32::MAX)
        );
    }

    #[test]
    fn secrets_of_different_length_differ_and_are_not_printed() {
        let long = CancelSecret::Long([0; 32]);
        assert_ne!(long, CancelSecret::Short([0; 4]));
        assert_eq!(format!("{long:?}"), "CancelSecret(32 bytes)");
        assert!(CancelSecret::from_bytes(&[0; 5]).is_none());
    }

    proptest! {
        #[test]
        fn a_key_decodes_to_what_was_encoded(
            generation in 0..=GENERATION_MAX,
            shard in 0..=SHARD_MAX,
            slot in 0..SLOT_MAX,
            long in any::<Option<[u8; 32]>>(),
            short in any::<[u8; 4]>(),
        ) {
            let secret = long.map_or(CancelSecret::Short(short), CancelSecret::Long);
            let key = CancelKey { generation, shard, slot, secret };
            let pid = key.pid().expect("all fields fit");
            prop_assert!(pid > 0);
            prop_assert_eq!(CancelKey::decode(pid, secret.as_bytes()), Some(key));
        }

        #[test]
        fn a_pid_that_decodes_encodes_to_itself(pid: i32, secret in any::<[u8; 4]>()) {
            match CancelKey::decode(pid, &secret) {
                Some(key) => prop_assert_eq!(key.pid(), Some(pid)),
                None => prop_assert!(pid <= 0),
            }
        }
    }
}
