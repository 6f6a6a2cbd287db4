//! Ids: a prefix that names the kind, and 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// The text isn't an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be `{0}` followed by 32 lower-case hexadecimal digits")]
pub struct IdError(&'static str);

macro_rules! prefixed_id {
    ($(#[$about:meta])* $name:ident, $prefix:literal) => {
        $(#[$about])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Prefix of the text form.
            pub const PREFIX: &'static str = $prefix;
            /// Smallest id.
            pub const MIN: Self = Self(Uuid::nil());
            /// Largest id.
            pub const MAX: Self = Self(Uuid::max());

            /// Makes a new id from a UUID version 7 (RFC 9562, section 5.7). Such ids sort by the time of creation.
            #[expect(clippy::new_without_default, reason = "every call returns a different id")]
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Returns the 16 bytes of the id. They sort in the same order as the ids.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// Makes the id of 16 bytes.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Derives an id from `parts`. The same parts always give the same id: a UUID version 8 (RFC 9562, section
            /// 5.8) of their SHA-256.
            #[must_use]
            pub fn derived(parts: &[&[u8]]) -> Self {
                Self(derive($prefix, parts))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0.simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                parse($prefix, text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

prefixed_id!(
    /// Id of a job, by which a customer recognizes duplicates.
    MessageId, "msg_"
);
prefixed_id!(
    /// Id of a published event.
    EventId, "evt_"
);
prefixed_id!(
    /// Id of a tenant.
    TenantId, "ten_"
);
prefixed_id!(
    /// Id of an endpoint.
    EndpointId, "ep_"
);
prefixed_id!(
    /// Id of an API key, by which it is revoked. It isn't the key itself.
    ApiKeyId, "key_"
);

fn derive(prefix: &str, parts: &[&[u8]]) -> Uuid {
    let hash = digest(&[&[prefix.as_bytes()], parts].concat());
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash).for_each(|(byte, hashed)| *byte = hashed);
    Uuid::new_v8(bytes)
}

/// Returns the SHA-256 of `parts`. Each part is hashed after its length, so that ("ab", "c") and ("a", "bc") differ.
#[must_use]
pub fn digest(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn parse(prefix: &'static str, text: &str) -> Result<Uuid, IdError> {
    let lower_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.strip_prefix(prefix)
        .filter(|digits| digits.len() == 32 && digits.bytes().all(lower_hex))
        .and_then(|digits| Uuid::try_parse(digits).ok())
        .ok_or(IdError(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_prefixed_and_sort_by_time() {
        let (first, second) = (MessageId::new(), MessageId::new());
        assert!(first < second);
        assert!(first.to_string().starts_with("msg_"));
        assert_eq!(EventId::new().to_string().len(), "evt_".len() + 32);
        assert!(TenantId::MIN < TenantId::new() && TenantId::new() < TenantId::MAX);
    }

    #[test]
    fn ids_are_parsed_in_their_text_form_only() {
        let id = EndpointId::new();
        assert_eq!(id.to_string().parse(), Ok(id));
        let text = id.to_string();
        let digits = &text["ep_".len()..];
        for odd in ["", "ep_", digits, &format!("ten_{digits}"), &text.to_uppercase(), &format!("{text}0")] {
            assert!(odd.parse::<EndpointId>().is_err(), "{odd}");
        }
        assert!(format!("ep_{}", uuid::Uuid::now_v7().hyphenated()).parse::<EndpointId>().is_err());
    }

    #[test]
    fn derived_ids_are_equal_only_for_equal_parts() {
        let of = |parts: &[&[u8]]| MessageId::derived(parts);
        assert_eq!(of(&[b"key", b"ep_1"]), of(&[b"key", b"ep_1"]));
        assert_ne!(of(&[b"key", b"ep_1"]), of(&[b"key", b"ep_2"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
    }
}
